
--
-- Taking changes back: the tables of the set, and their changes under all names
--

-- With the rights of the owner, because nobody else can read all names that tables had.
CREATE FUNCTION _bemi.tables_of_name(sources text[], schema_name text, table_name text)
	RETURNS SETOF regclass
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	-- A view that has taken the name is not the table, nor is a partition whose changes are stored
	-- under the name of its root.
	SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND CASE WHEN n.nspname = schema_name
					AND c.relname = table_name
				THEN NOT c.relispartition OR NOT _bemi.is_published(_bemi.partition_root(c.oid))
				ELSE c.oid IN (SELECT s.relation FROM _bemi.schema_changes s
					WHERE s.source = ANY (sources)
						AND (s.schema = schema_name AND s."table" = table_name
							OR s.before ->> 'schema' = schema_name
							AND s.before ->> 'table' = table_name)) END
$$;
COMMENT ON FUNCTION _bemi.tables_of_name(text[], text, text)
	IS 'internal: tables that have this name, or had it';
REVOKE ALL ON FUNCTION _bemi.tables_of_name(text[], text, text) FROM PUBLIC;

-- Another table that had the name and was dropped is not this one, also if it is not known when
-- this one was created. With the rights of the owner, as above.
CREATE FUNCTION _bemi.revert_names(relation regclass, sources text[])
	RETURNS TABLE (from_id uuid, to_id uuid, schema_name text, table_name text, columns jsonb)
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(t.from_id, (SELECT max(s.id::text)::uuid FROM _bemi.schema_changes s
				WHERE s.source = ANY (sources) AND s.relation <> c.oid AND s.event = 'dropped'
					AND s.before ->> 'schema' = t.schema_name
					AND s.before ->> 'table' = t.table_name AND coalesce(s.id < t.to_id, true))),
			t.to_id, t.schema_name, t.table_name, t.columns
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			CROSS JOIN LATERAL _bemi.table_names(sources, c.oid, n.nspname, c.relname) t
		WHERE c.oid = relation AND NOT t.predecessor
$$;
COMMENT ON FUNCTION _bemi.revert_names(regclass, text[])
	IS 'internal: under which names the changes of a table are stored, as _bemi.table_names()';
REVOKE ALL ON FUNCTION _bemi.revert_names(regclass, text[]) FROM PUBLIC;

-- A condition on bemi.changes c: the changes of a time in which a table had this name.
CREATE FUNCTION _bemi.revert_has_name(schema_name text, table_name text, from_id uuid, to_id uuid)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT concat_ws(' AND ', format('c.schema = %L AND c."table" = %L', schema_name, table_name),
		CASE WHEN from_id IS NOT NULL THEN format('c.id > %L', from_id) END,
		CASE WHEN to_id IS NOT NULL THEN format('c.id < %L', to_id) END)
$$;
COMMENT ON FUNCTION _bemi.revert_has_name(text, text, uuid, uuid)
	IS 'internal: condition on changes that are stored under a name, above and below these ids';
REVOKE ALL ON FUNCTION _bemi.revert_has_name(text, text, uuid, uuid) FROM PUBLIC;

-- A condition on bemi.changes c: the tables of the plan's snapshot have these changes, see
-- src/revert/visible.c. Transaction ids come again after some time.
CREATE FUNCTION _bemi.revert_visible(running bigint[])
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN running IS NOT NULL
		THEN format('NOT (c.transaction_id = ANY (%L::bigint[]) AND c.committed_at '
			'> now() - interval ''7 days'')', running) END
$$;
COMMENT ON FUNCTION _bemi.revert_visible(bigint[])
	IS 'internal: condition on changes that are not those of running transactions; NULL: none';
REVOKE ALL ON FUNCTION _bemi.revert_visible(bigint[]) FROM PUBLIC;

-- A condition on bemi.changes c: the set, with changes that mode "cascade" has added.
CREATE FUNCTION _bemi.revert_complete_set(condition text, running bigint[], added uuid[])
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT concat_ws(' AND ', CASE WHEN added IS NULL THEN condition
		ELSE format('(%s OR c.id = ANY (%L::uuid[]))', condition, added) END,
		_bemi.revert_visible(running))
$$;
COMMENT ON FUNCTION _bemi.revert_complete_set(text, bigint[], uuid[])
	IS 'internal: condition on the changes of a set that are visible, with those that are added';
REVOKE ALL ON FUNCTION _bemi.revert_complete_set(text, bigint[], uuid[]) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_hidden(changes uuid[], transaction_of uuid, context jsonb,
		from_time timestamptz, to_time timestamptz, committed bigint[])
	RETURNS bigint
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	hidden bigint;
BEGIN
	EXECUTE format('SELECT c.transaction_id FROM bemi.changes c WHERE %s AND NOT (%s) LIMIT 1',
			_bemi.revert_condition(changes, transaction_of, context, from_time, to_time, false),
			_bemi.revert_visible(committed))
		INTO hidden;
	RETURN hidden;
END
$$;
COMMENT ON FUNCTION
	_bemi.revert_hidden(uuid[], uuid, jsonb, timestamptz, timestamptz, bigint[])
	IS 'internal: which of these transactions has made changes that are to be taken back';
REVOKE ALL ON FUNCTION
	_bemi.revert_hidden(uuid[], uuid, jsonb, timestamptz, timestamptz, bigint[]) FROM PUBLIC;

-- The tables of the set, and where the set begins in each. Changes of a table that does not exist
-- any more have no relation, and are those in bemi_changes c that meet "condition". is_plain: the
-- table has all changes of the name, and its columns had the names of today. changed: the columns
-- that were changed, if all changes are updates.
CREATE FUNCTION _bemi.revert_tables(groups jsonb, set_condition text, sources text[],
		OUT relation regclass, OUT source text, OUT schema_name text, OUT table_name text,
		OUT condition text, OUT first_id uuid, OUT first_time timestamptz,
		OUT first_transaction bigint, OUT changed text[], OUT is_plain boolean)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	first_change constant text := 'min(c.id::text)::uuid AS first_id, '
		'min(c.committed_at) AS first_time, min(c.transaction_id) AS first_transaction';
	t record;
	n record;
	found record;
	has_name text;
	is_complete boolean;
BEGIN
	FOR t IN SELECT g.* FROM jsonb_to_recordset(groups) g(source text, schema text, "table" text,
			first_id uuid, last_id uuid, first_time timestamptz, first_transaction bigint,
			truncates boolean, changed text[])
		ORDER BY g.schema COLLATE "C", g."table" COLLATE "C", g.source COLLATE "C"
	LOOP
		IF t.source <> ALL (sources) THEN
			RAISE EXCEPTION 'changes of source "%" cannot be taken back here', t.source
				USING ERRCODE = 'feature_not_supported',
					DETAIL = 'The source is another database.';
		END IF;
		source := t.source;
		schema_name := t.schema;
		table_name := t."table";
		condition := format('c.source = %L AND c.schema = %L AND c."table" = %L', t.source,
			t.schema, t."table");
		is_complete := false;
		FOR n IN SELECT o.relation, r.*,
				coalesce(t.first_id > r.from_id, true) AND coalesce(t.last_id < r.to_id, true)
					AS has_all
			FROM _bemi.tables_of_name(sources, t.schema, t."table") o(relation)
				CROSS JOIN LATERAL _bemi.revert_names(o.relation, sources) r
			WHERE r.schema_name = t.schema AND r.table_name = t."table"
				AND coalesce(t.last_id > r.from_id, true)
				AND coalesce(t.first_id < r.to_id, true)
		LOOP
			has_name := _bemi.revert_has_name(n.schema_name, n.table_name, n.from_id, n.to_id);
			found := t;
			IF NOT n.has_all THEN
				EXECUTE format('SELECT %s FROM bemi.changes c WHERE c.source = %L AND %s AND (%s)',
					first_change, t.source, has_name, set_condition) INTO found;
			END IF;
			condition := format('%s AND NOT (%s)', condition, has_name);
			is_complete := is_complete OR n.has_all;
			relation := n.relation;
			first_id := found.first_id;
			first_time := found.first_time;
			first_transaction := found.first_transaction;
			changed := t.changed;
			is_plain := n.has_all AND n.columns IS NULL AND NOT t.truncates;
			IF first_id IS NOT NULL THEN
				RETURN NEXT;
			END IF;
		END LOOP;
		relation := NULL;
		IF NOT is_complete THEN
			RETURN NEXT;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.revert_tables(jsonb, text, text[])
	IS 'internal: tables of the changes that are to be taken back';
REVOKE ALL ON FUNCTION _bemi.revert_tables(jsonb, text, text[]) FROM PUBLIC;

-- The changes of a table since the first one of the set, with the names that its columns have
-- today: c, for FROM.
CREATE FUNCTION _bemi.revert_history(relation regclass, sources text[], running bigint[],
		first_id uuid, first_time timestamptz)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT '(' || string_agg(format('SELECT c.id, c.source, c.schema, c."table", c.operation, '
			'c.primary_key, %s AS before, %s AS after, c.committed_at, c.context, CASE WHEN '
			'c.context ? ''_whole'' THEN bemi.full_context(c) ELSE c.context END AS full_context, '
			'c.transaction_id, %L::jsonb AS names '
			'FROM bemi.changes c WHERE c.source = ANY (%L) AND %s AND c.id >= %L '
			'AND c.committed_at >= %L%s',
			CASE WHEN n.columns IS NULL THEN 'c.before'
				ELSE format('_bemi.rename_members(c.before, %L)', n.columns) END,
			CASE WHEN n.columns IS NULL THEN 'c.after'
				ELSE format('_bemi.rename_members(c.after, %L)', n.columns) END,
			n.columns, sources,
			_bemi.revert_has_name(n.schema_name, n.table_name, n.from_id, n.to_id), first_id,
			first_time, ' AND ' || _bemi.revert_visible(running)), ' UNION ALL ') || ') c'
		FROM _bemi.revert_names(relation, sources) n WHERE coalesce(n.to_id > first_id, true)
$$;
COMMENT ON FUNCTION _bemi.revert_history(regclass, text[], bigint[], uuid, timestamptz)
	IS 'internal: changes of a table under all of its names, as an item of FROM with the alias c';
REVOKE ALL ON FUNCTION _bemi.revert_history(regclass, text[], bigint[], uuid, timestamptz)
	FROM PUBLIC;
