
--
-- Changes of many rows
--

-- The name that a column of today had, by "columns" of _bemi.table_names(); NULL: it did not exist.
CREATE FUNCTION _bemi.former_column(name text, columns jsonb)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN columns IS NULL THEN name
		ELSE coalesce((SELECT c.key FROM jsonb_each_text(columns) c
				WHERE coalesce(c.value, c.key || ' (dropped)') = name LIMIT 1),
			CASE WHEN NOT columns ? name THEN name END) END
$$;
COMMENT ON FUNCTION _bemi.former_column(text, jsonb)
	IS 'internal: the name that a column of today had at the time of these names';
REVOKE ALL ON FUNCTION _bemi.former_column(text, jsonb) FROM PUBLIC;

-- As the owner, because nobody else can read what is known of tables. A dropped column has its last
-- name, with " (dropped)" if another column has that today. Tables that were restored have other
-- OIDs, and the same names.
CREATE FUNCTION _bemi.column_of_today(name text, sources text[], relation regclass,
		schema_today text, table_today text)
	RETURNS text
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN EXISTS (SELECT FROM pg_attribute a
			WHERE a.attrelid = column_of_today.relation AND a.attname = name
				AND a.attnum > 0 AND NOT a.attisdropped)
		THEN name
		ELSE coalesce((SELECT t.columns ->> name
				FROM _bemi.table_names(sources, relation, schema_today, table_today)
						WITH ORDINALITY t
				WHERE t.columns ? name ORDER BY t.ordinality LIMIT 1),
			(SELECT name WHERE EXISTS (SELECT
				FROM _bemi.table_names(sources, relation, schema_today, table_today) t,
					jsonb_each_text(t.columns) n
				WHERE n.value IS NULL AND n.key || ' (dropped)' = name)),
			(SELECT name WHERE EXISTS (SELECT
				FROM _bemi.schema_changes c, LATERAL (VALUES (c.before), (c.after)) s(state),
					jsonb_array_elements(s.state -> 'columns') e
				WHERE c.source = ANY (sources) AND e ->> 1 = name
					AND (c.relation = column_of_today.relation
						OR (s.state ->> 'schema', s.state ->> 'table') IN (
							SELECT t.schema_name, t.table_name
								FROM _bemi.table_names(sources, column_of_today.relation,
									schema_today, table_today) t))))) END
$$;
COMMENT ON FUNCTION _bemi.column_of_today(text, text[], regclass, text, text)
	IS 'internal: the name of today of the column that has or had this name; NULL: none had it';
REVOKE ALL ON FUNCTION _bemi.column_of_today(text, text[], regclass, text, text) FROM PUBLIC;

-- A table was called by one name after the other, so the changes under each name come after those
-- under the next one. A page continues under the name of its cursor, in the order of this name. If
-- the cursor is a change of another table, it is a place in the order of all.
CREATE FUNCTION bemi.find_changes(target regclass DEFAULT NULL, operation text DEFAULT NULL,
		column_name name DEFAULT NULL, context jsonb DEFAULT NULL,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL,
		source_name text DEFAULT NULL, newest integer DEFAULT 100, before_id uuid DEFAULT NULL,
		context_is jsonb DEFAULT NULL)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	table_sources text[];
	sources text[];
	relation regclass;
	its_schema text;
	its_table text;
	known boolean := true;
	column_today text := column_name;
	operations text[] := regexp_split_to_array(btrim(operation), '\s*,\s*');
	texts jsonb;
	cursor_change bemi.changes;
	cursor_place bigint;		-- of its names, among those of the table
	returned integer := 0;
	n record;
	c bemi.changes;
BEGIN
	PERFORM _bemi.check_page(newest);
	IF NOT operations <@ '{CREATE, UPDATE, DELETE, TRUNCATE, SNAPSHOT}' THEN
		RAISE EXCEPTION 'operation "%" is not valid', operation
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write CREATE, UPDATE, DELETE, TRUNCATE or SNAPSHOT, or several of them '
					'with commas.';
	ELSIF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write it as context => ''{"userId": 42}''.';
	ELSIF jsonb_typeof(context_is) <> 'object' THEN
		RAISE EXCEPTION 'context_is must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write it as context_is => ''{"userId": "42"}''.';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	texts := (SELECT jsonb_object_agg(t.key, t.value) FROM jsonb_each_text(context_is) t);
	IF target IS NOT NULL THEN
		SELECT h.sources, h.relation, h.schema_name, h.table_name, h.known
			INTO table_sources, relation, its_schema, its_table, known
			FROM _bemi.history_of(target) h;
	END IF;
	IF target IS NOT NULL AND column_name IS NOT NULL THEN
		column_today := _bemi.column_of_today(column_name, table_sources, relation, its_schema,
			its_table);
		IF column_today IS NULL THEN
			RAISE EXCEPTION 'column "%" of table "%" does not exist', column_name, target
				USING ERRCODE = 'undefined_column',
					DETAIL = 'Neither the table nor its schema history has a column of this name.',
					HINT = format('The columns are %s.', (SELECT string_agg(
							quote_literal(a.attname), ', ' ORDER BY a.attnum)
						FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0
							AND NOT a.attisdropped));
		END IF;
	END IF;
	sources := CASE WHEN source_name IS NULL THEN table_sources
		ELSE ARRAY(SELECT source_name WHERE coalesce(source_name = ANY (table_sources), true)) END;
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
		cursor_place := (SELECT m.place FROM _bemi.names_of_change(cursor_change, table_sources,
			relation, its_schema, its_table) m);
	END IF;

	-- Without a table, one row without names.
	FOR n IN SELECT t.*, t.ordinality > cursor_place AS follows
		FROM _bemi.table_names(table_sources, relation, its_schema, its_table)
				WITH ORDINALITY t
		WHERE coalesce(t.ordinality >= cursor_place, true)
			AND (column_today IS NULL
				OR _bemi.former_column(column_today, t.columns) IS NOT NULL)
	LOOP
		-- Between sources on several servers, ids have no order.
		FOR c IN SELECT * FROM _bemi.read_changes(n.schema_name, n.table_name, NULL,
			sources, operations, _bemi.former_column(column_today, n.columns),
			find_changes.context, texts, find_changes.from_time, find_changes.to_time,
			n.from_id, n.to_id,
			CASE WHEN n.follows IS NOT TRUE THEN cursor_change.committed_at END,
			CASE WHEN n.follows IS NOT TRUE THEN cursor_change.id END,
			CASE WHEN sources IS NULL AND _bemi.has_several_sources() THEN 'newest by time'
				ELSE 'newest' END, newest - returned)
		LOOP
			IF n.columns IS NOT NULL THEN
				c.before := _bemi.rename_members(c.before, n.columns);
				c.after := _bemi.rename_members(c.after, n.columns);
			END IF;
			RETURN NEXT c;
			returned := returned + 1;
		END LOOP;
		EXIT WHEN returned = newest;
	END LOOP;

	IF returned = 0 AND NOT known THEN
		PERFORM _bemi.throw_no_history(target);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text,
	integer, uuid, jsonb)
	IS 'changes that meet all of these conditions, newest first; bemi.history() has those of a row';
REVOKE ALL ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz,
	text, integer, uuid, jsonb) FROM PUBLIC;

-- By indexes, because a plan over hundreds of partitions takes longer than all else.
CREATE FUNCTION bemi.changes_by_id(change_ids uuid[])
	RETURNS SETOF bemi.changes
	LANGUAGE sql STABLE ROWS 1
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.* FROM (SELECT DISTINCT u.id FROM unnest(change_ids) u(id) WHERE u.id IS NOT NULL) i
		CROSS JOIN LATERAL _bemi.read_changes(from_id => i.id, to_id => i.id, newest => 1) c
		ORDER BY c.id
$$;
COMMENT ON FUNCTION bemi.changes_by_id(uuid[])
	IS 'the changes with these ids; those that do not exist are left out';
REVOKE ALL ON FUNCTION bemi.changes_by_id(uuid[]) FROM PUBLIC;
