
--
-- Taking changes back: the set of changes, and the events of its rows
--
-- docs/internals/reverting.md explains the design. src/revert/plan.c makes a plan: functions of
-- this folder make queries for the set of changes, and those of this file read the changes as
-- events. src/revert/walk.c turns the events into steps.
--

-- Only the first change of a transaction with a large context has all of it, see
-- bemi.full_context(). Those after it name this one. Without all of them, only the first change
-- would be taken back. The operator || decompresses.
CREATE FUNCTION _bemi.revert_context(context jsonb, in_time text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	condition text := format('c.context @> %L', context);
	firsts jsonb[];
BEGIN
	EXECUTE format('SELECT array_agg(jsonb_build_object(''_whole'', f.id))
		FROM (SELECT DISTINCT ON (c.source, c.transaction_id, c.committed_at, c.context) c.id
			FROM bemi.changes c WHERE %s AND pg_column_size(c.context || ''{}'') > 2048
				AND NOT c.context ? ''_whole''
			ORDER BY c.source, c.transaction_id, c.committed_at, c.context, c.id) f',
		concat_ws(' AND ', condition, in_time)) INTO firsts;
	RETURN condition || CASE WHEN firsts IS NULL THEN ''
		ELSE format(' OR c.context @> ANY (%L)', firsts) END;
END
$$;
COMMENT ON FUNCTION _bemi.revert_context(jsonb, text)
	IS 'internal: condition on bemi.changes c that changes with this part of a context meet';
REVOKE ALL ON FUNCTION _bemi.revert_context(jsonb, text) FROM PUBLIC;

-- All changes of one transaction have ids in one range. has_large: some of the changes that have
-- this context may be the first ones of a large one.
CREATE FUNCTION _bemi.revert_condition(changes uuid[], transaction_of uuid, context jsonb,
		from_time timestamptz, to_time timestamptz, has_large boolean)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	found record;
	missing uuid;
	in_time text := nullif(concat_ws(' AND ',
		CASE WHEN from_time IS NOT NULL THEN format('c.committed_at >= %L', from_time) END,
		CASE WHEN to_time IS NOT NULL THEN format('c.committed_at < %L', to_time) END), '');
BEGIN
	IF num_nonnulls(changes, transaction_of, context) <> 1 THEN
		RAISE EXCEPTION 'exactly one of changes, transaction_of and context must be given'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'SELECT * FROM bemi.plan_revert(changes => ARRAY[ID]);';
	ELSIF context IS NULL AND num_nonnulls(from_time, to_time) > 0 THEN
		RAISE EXCEPTION 'from_time and to_time can only be given with context'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'With context => ''{}'', all changes of the time range are meant.';
	ELSIF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF context = '{}' AND from_time IS NULL THEN
		RAISE EXCEPTION 'an empty context needs from_time'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Without both, the complete history would be taken back.',
				HINT = 'SELECT * FROM bemi.plan_revert(context => ''{}'', '
					'from_time => now() - interval ''10 minutes'');';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;

	IF changes IS NOT NULL THEN
		SELECT min(c.committed_at) AS first_time, max(c.committed_at) AS last_time,
				array_agg(c.id) AS ids,
				min(c.id::text) FILTER (WHERE c.operation = 'SNAPSHOT') AS of_baseline
			INTO found FROM bemi.changes c WHERE c.id = ANY (revert_condition.changes);
		missing := (SELECT u FROM unnest(changes) u
			WHERE u <> ALL (coalesce(found.ids, '{}')) LIMIT 1);
		IF missing IS NOT NULL THEN
			PERFORM _bemi.find_change(missing);
		ELSIF found.ids IS NULL THEN
			RAISE EXCEPTION 'changes must have at least one id'
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		IF found.of_baseline IS NOT NULL THEN
			RAISE EXCEPTION 'change "%" is a row of a baseline', found.of_baseline
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = 'It shows a row as it was, and has changed nothing.',
					HINT = 'bemi.restore() brings a row back to what it was.';
		END IF;
		RETURN format('c.id = ANY (%L::uuid[]) AND c.committed_at BETWEEN %L AND %L',
			found.ids, found.first_time, found.last_time);
	ELSIF transaction_of IS NOT NULL THEN
		SELECT min(t.id::text) AS first_id, max(t.id::text) AS last_id, min(t.committed_at) AS time,
				min(t.source) AS source
			INTO found FROM bemi.transaction(transaction_of) t;
		RETURN format('c.id BETWEEN %L AND %L AND c.committed_at = %L AND c.source = %L',
			found.first_id, found.last_id, found.time, found.source);
	END IF;
	RETURN concat_ws(' AND ', CASE WHEN context <> '{}'
		THEN format('(%s)', CASE WHEN has_large THEN _bemi.revert_context(context, in_time)
			ELSE format('c.context @> %L', context) END) END, in_time,
		format('c.source = ANY (%L)', (_bemi.history_of('bemi.changes')).sources));
END
$$;
COMMENT ON FUNCTION _bemi.revert_condition(uuid[], uuid, jsonb, timestamptz, timestamptz, boolean)
	IS 'internal: condition on bemi.changes c that the changes to be taken back meet';
REVOKE ALL ON FUNCTION _bemi.revert_condition(uuid[], uuid, jsonb, timestamptz, timestamptz,
	boolean) FROM PUBLIC;

-- A value of by_record has no text that a cast would read.
CREATE FUNCTION _bemi.revert_key(relation regclass, OUT place bigint, OUT name name, OUT type text,
		OUT equals text, OUT by_record boolean)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	-- With -1, bpchar and bit are not cut to one character.
	SELECT k.place, a.attname, format_type(a.atttypid, -1),
			format('OPERATOR(%I.%s)', n.nspname, o.oprname),
			y.typtype IN ('d', 'c') OR y.typcategory = 'A'
		FROM pg_index i
			CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[])
				WITH ORDINALITY k(attnum, class, place)
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
			JOIN pg_type y ON y.oid = a.atttypid
			JOIN pg_opclass c ON c.oid = k.class
			JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
				AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
			JOIN pg_operator o ON o.oid = m.amopopr
			JOIN pg_namespace n ON n.oid = o.oprnamespace
		WHERE i.indrelid = relation AND i.indisprimary AND k.place <= i.indnkeyatts
		ORDER BY k.place
$$;
COMMENT ON FUNCTION _bemi.revert_key(regclass)
	IS 'internal: columns of the primary key, with their equality';
REVOKE ALL ON FUNCTION _bemi.revert_key(regclass) FROM PUBLIC;

-- The columns that can be written. The history of newer servers also has generated ones.
CREATE FUNCTION _bemi.revert_columns(relation regclass,
		OUT place smallint, OUT name text, OUT type text, OUT is_key boolean, OUT equals text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), k.name IS NOT NULL,
			k.equals
		FROM pg_attribute a LEFT JOIN _bemi.revert_key(relation) k ON k.name = a.attname
		WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
			AND a.attgenerated = ''
$$;
COMMENT ON FUNCTION _bemi.revert_columns(regclass)
	IS 'internal: columns of a table that are not generated';
REVOKE ALL ON FUNCTION _bemi.revert_columns(regclass) FROM PUBLIC;

-- Members of a row in the history that no column of today can take.
CREATE FUNCTION _bemi.revert_generated(relation regclass)
	RETURNS text[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT a.attname::text FROM pg_attribute a
		WHERE a.attrelid = relation AND a.attnum > 0 AND a.attgenerated <> '')
$$;
COMMENT ON FUNCTION _bemi.revert_generated(regclass)
	IS 'internal: generated columns of a table';
REVOKE ALL ON FUNCTION _bemi.revert_generated(regclass) FROM PUBLIC;

-- Changes of a table as events: slot, id, kind, in_set, before, after, committed_at, context. In a
-- table without a key, the row itself is its slot, so an UPDATE is two events.
CREATE FUNCTION _bemi.revert_changes(relation regclass, history text, in_set boolean,
		condition text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format(CASE WHEN k.moved IS NOT NULL
		THEN $query$SELECT c.primary_key AS slot, c.id, CASE WHEN c.operation = 'UPDATE' AND (%1$s)
				THEN 'A' ELSE left(c.operation, 1) END AS kind, %4$L::boolean AS in_set,
			%2$s AS before, %3$s AS after, c.committed_at, %6$s AS context
		FROM %7$s WHERE %5$s$query$
		ELSE $query$SELECT (CASE WHEN e.kind IN ('D', 'L') THEN %2$s ELSE %3$s END)::text AS slot,
			c.id, e.kind, %4$L::boolean AS in_set, %2$s AS before,
			CASE WHEN e.kind = 'L' THEN '{}' ELSE %3$s END AS after, c.committed_at, %6$s AS context
		FROM %7$s JOIN (VALUES ('CREATE', 'C'), ('DELETE', 'D'), ('UPDATE', 'L'),
				('UPDATE', 'A')) e(operation, kind) ON e.operation = c.operation
		WHERE %5$s$query$ END,
		k.moved, 'c.before' || g.without, 'c.after' || g.without, in_set, condition,
		-- Only changes of others are described in reasons, and may be reverts.
		CASE WHEN in_set THEN format('%L::jsonb', '{}') ELSE 'c.full_context' END, history)
	FROM (SELECT string_agg(format('c.before ->> %L <> c.after ->> %1$L', c.name), ' OR ')
				AS moved FROM _bemi.revert_key(relation) c) k,
		(SELECT coalesce(' - ' || quote_literal(nullif(_bemi.revert_generated(relation), '{}'))
				|| '::text[]', '')
				AS without) g
$$;
COMMENT ON FUNCTION _bemi.revert_changes(regclass, text, boolean, text)
	IS 'internal: query of changes of one table, as events';
REVOKE ALL ON FUNCTION _bemi.revert_changes(regclass, text, boolean, text) FROM PUBLIC;

-- The rows that TRUNCATEs of the set have removed, as events, from the history alone. Today's table
-- knows nothing of them. If the history does not know all of them, the reason is returned.
CREATE FUNCTION _bemi.revert_truncated(relation regclass, history text, condition text,
		OUT events text, OUT reason text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	slot text := CASE WHEN EXISTS (SELECT FROM _bemi.revert_key(relation))
		THEN format('_bemi.key_from_image(%L, t.image)', relation)
		ELSE format('(t.image - %L::text[])::text', _bemi.revert_generated(relation)) END;
	truncation record;
	rows_before text;
BEGIN
	FOR truncation IN EXECUTE format('SELECT c.* FROM %s WHERE c.operation = ''TRUNCATE'' '
		'AND c.primary_key IS NULL AND (%s)', history, condition)
	LOOP
		rows_before := format('(SELECT _bemi.rename_members(r, %L) FROM '
			'bemi.source_as_of_json(%L, %L, %L, before => %L) r) t(image)', truncation.names,
			truncation.source, truncation.schema, truncation."table", truncation.id);
		BEGIN
			EXECUTE format('SELECT count(*) FROM %s', rows_before);
		EXCEPTION WHEN object_not_in_prerequisite_state OR feature_not_supported
				OR data_exception OR no_data_found THEN
			reason := SQLERRM;
			RETURN;
		END;
		-- The rows of the past have the names of each change that led to them.
		IF EXISTS (SELECT FROM _bemi.base_of_past(truncation.source, truncation.schema,
					truncation."table", truncation.id, NULL) b,
				_bemi.revert_names(relation, ARRAY[truncation.source]) n
			WHERE n.from_id > b.id AND n.from_id < truncation.id) THEN
			reason := 'a column was renamed after the last baseline before it';
			RETURN;
		END IF;
		events := concat_ws(' UNION ALL ', events, format('SELECT %s AS slot, %L::uuid AS id, '
			'%L AS kind, true AS in_set, t.image - %L::text[] AS before, %L::jsonb AS after, '
			'%L::timestamptz AS committed_at, %5$L::jsonb AS context FROM %7$s', slot,
			truncation.id, 'D', _bemi.revert_generated(relation), '{}', truncation.committed_at,
			rows_before));
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.revert_truncated(regclass, text, text)
	IS 'internal: query of the rows that TRUNCATE has removed, as events, or why they are not '
		'known; NULL if there is no TRUNCATE';
REVOKE ALL ON FUNCTION _bemi.revert_truncated(regclass, text, text) FROM PUBLIC;

-- Events of one table in the set: its changes, and a second event for each change of the key.
-- src/revert/walk.c explains the kinds. The result becomes bemi_set.
CREATE FUNCTION _bemi.revert_set(number integer, relation regclass, history text, condition text,
		truncated text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	changes text := _bemi.revert_changes(relation, history, true, format(
		'c.operation IN (''CREATE'', ''UPDATE'', ''DELETE'') AND (%s)', condition));
	has_key boolean := EXISTS (SELECT FROM _bemi.revert_key(relation));
BEGIN
	RETURN format('SELECT %s AS tbl, x.* FROM (%s) x', number, CASE WHEN has_key
		THEN format('WITH y AS (%s) SELECT * FROM y UNION ALL '
			'SELECT _bemi.key_from_image(%L, y.before), y.id, ''L'', true, y.before, ''{}'', '
			'y.committed_at, y.context FROM y WHERE y.kind = ''A''',
			concat_ws(' UNION ALL ', changes, truncated), relation)
		ELSE concat_ws(' UNION ALL ', changes, truncated) END);
END
$$;
COMMENT ON FUNCTION _bemi.revert_set(integer, regclass, text, text, text)
	IS 'internal: query of the events of one table in the set';
REVOKE ALL ON FUNCTION _bemi.revert_set(integer, regclass, text, text, text) FROM PUBLIC;

-- A column of the key in an image.
CREATE FUNCTION _bemi.revert_key_value(relation regclass, image text, name name, type text,
		by_record boolean)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN by_record
		THEN format('(jsonb_populate_record(NULL::%s, %s)).%I', relation, image, name)
		ELSE format('((%s) ->> %L)::%s', image, name, type) END
$$;
COMMENT ON FUNCTION _bemi.revert_key_value(regclass, text, name, text, boolean)
	IS 'internal: SQL expression of a column of the key in a row of the history';
REVOKE ALL ON FUNCTION _bemi.revert_key_value(regclass, text, name, text, boolean) FROM PUBLIC;

-- Conditions under which a row t of today is that of an image.
CREATE FUNCTION _bemi.revert_same_key(relation regclass, image text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format('t.%I %s %s', k.name, k.equals,
			_bemi.revert_key_value(relation, image, k.name, k.type, k.by_record)), ' AND ')
		FROM _bemi.revert_key(relation) k
$$;
COMMENT ON FUNCTION _bemi.revert_same_key(regclass, text)
	IS 'internal: condition that a row t has the key of an image; NULL if the table has none';
REVOKE ALL ON FUNCTION _bemi.revert_same_key(regclass, text) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_only(relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || relation FROM pg_class c
		WHERE c.oid = relation
$$;
COMMENT ON FUNCTION _bemi.revert_only(regclass)
	IS 'internal: the table without those that inherit from it, but with its partitions';
REVOKE ALL ON FUNCTION _bemi.revert_only(regclass) FROM PUBLIC;

-- The later changes of rows of the set by others. If the set has several changes of a row, some
-- are there several times, which the walk notices. A DISTINCT would keep the planner from knowing
-- how many rows there are. "rows" is an item of FROM with the alias s.
CREATE FUNCTION _bemi.revert_later(number integer, relation regclass, rows text, history text,
		condition text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT o.*, NULL::tid AS row_ctid, NULL::oid AS row_table
			FROM (SELECT %1$s AS tbl, o.* FROM %5$s JOIN (%2$s) o USING (slot)
				UNION ALL SELECT %1$s, NULL, c.id, 'T', false, '{}', '{}', c.committed_at,
						c.full_context
					FROM %3$s WHERE NOT (%4$s) AND c.operation = 'TRUNCATE'
						AND c.primary_key IS NULL) o$query$,
		number,
		_bemi.revert_changes(relation, history, false, format(
			'c.operation IN (''CREATE'', ''UPDATE'', ''DELETE'') AND NOT (%s)', condition)),
		history, condition, rows)
$$;
COMMENT ON FUNCTION _bemi.revert_later(integer, regclass, text, text, text)
	IS 'internal: query of later events of the same rows by others';
REVOKE ALL ON FUNCTION _bemi.revert_later(integer, regclass, text, text, text) FROM PUBLIC;

-- Besides those of bemi_set, the events of one table: the later changes of the same rows by others,
-- and the rows as they are now. "tbl = number" outside of a CASE would keep the planner from
-- knowing how many rows there are.
CREATE FUNCTION _bemi.revert_events(number integer, relation regclass, history text,
		condition text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	image constant text := $i$CASE WHEN s.kind IN ('D', 'L') THEN s.before ELSE s.after END$i$;
	row_now text := 'to_jsonb(t.*)' || coalesce(' - '
		|| quote_literal(nullif(_bemi.revert_generated(relation), '{}')) || '::text[]', '');
	of_number text := format('CASE WHEN s.tbl = %s THEN true ELSE false END', number);
BEGIN
	RETURN format($query$%s
		UNION ALL
		SELECT s.tbl, s.slot, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'N', false, '{}', %s,
				'epoch', '{}', t.ctid, t.tableoid
			FROM bemi_set s JOIN %s t ON %s WHERE %s$query$,
		_bemi.revert_later(number, relation, format('(SELECT s.slot FROM bemi_set s WHERE %s) s',
			of_number), history, condition),
		row_now, _bemi.revert_only(relation),
		coalesce(_bemi.revert_same_key(relation, image), format('(%s)::text = s.slot', row_now)),
		of_number);
END
$$;
COMMENT ON FUNCTION _bemi.revert_events(integer, regclass, text, text)
	IS 'internal: query of the events of one table, besides those in bemi_set';
REVOKE ALL ON FUNCTION _bemi.revert_events(integer, regclass, text, text) FROM PUBLIC;

-- The row t of today as jsonb. By the columns, the planner need not make a value of the complete
-- row before it knows that it is wanted. A function has at most 100 arguments.
CREATE FUNCTION _bemi.revert_row_now(relation regclass, names text[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN count(*) > 50 THEN 'to_jsonb(t.*)'
			ELSE format('jsonb_build_object(%s)', string_agg(format('%L, t.%I', c.name, c.name),
				', ' ORDER BY c.place)) END
		FROM _bemi.revert_columns(relation) c WHERE coalesce(c.name = ANY (names), true)
$$;
COMMENT ON FUNCTION _bemi.revert_row_now(regclass, text[])
	IS 'internal: SQL expression of a row as jsonb, for a table without generated columns; all '
		'columns, or at least those with these names';
REVOKE ALL ON FUNCTION _bemi.revert_row_now(regclass, text[]) FROM PUBLIC;

-- A query of all rows of a table: place, key, and the columns that the set has changed. src/revert/
-- reader.c compares their texts with the history, so only for types whose texts are those of JSON.
CREATE FUNCTION _bemi.revert_reading(target regclass, changed text[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT t.ctid, t.%I, %s FROM ONLY %s t', k.name,
			string_agg(format('t.%I', a.attname), ', ' ORDER BY a.attnum), target)
		FROM pg_class c, _bemi.revert_key(target) k, pg_attribute a
		WHERE c.oid = target AND c.relkind = 'r' AND a.attrelid = target AND NOT a.attisdropped
			AND a.attname = ANY (changed)
		GROUP BY k.name
		HAVING count(*) = cardinality(changed)
			AND NOT EXISTS (SELECT FROM _bemi.revert_key(target) o WHERE o.place > 1)
			AND bool_and(a.atttypid = ANY ('{bool,int2,int4,int8,numeric,text,varchar,uuid}'
				::regtype[]))
			AND EXISTS (SELECT FROM pg_attribute p WHERE p.attrelid = target AND p.attname = k.name
				AND p.atttypid = ANY ('{int2,int4,int8,numeric,text,varchar,uuid}'::regtype[]))
$$;
COMMENT ON FUNCTION _bemi.revert_reading(regclass, text[])
	IS 'internal: query of all rows of a table, with these columns; NULL if it cannot be used';
REVOKE ALL ON FUNCTION _bemi.revert_reading(regclass, text[]) FROM PUBLIC;

-- The same as _bemi.revert_events() for a plain table, whose changes become events without a query.
-- The rows of today are found by the keys of its changes in bemi_changes, and named by their
-- numbers. OFFSET 0 keeps the planner from hashing the images, too. is_its: condition on
-- bemi_changes s. changed: the columns that the set has changed, or NULL if it has inserted or
-- deleted rows.
CREATE FUNCTION _bemi.revert_plain(number integer, relation regclass, is_its text, history text,
		condition text, changed text[], OUT later text, OUT rows_now text, OUT values_now text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	image constant text := $i$CASE s.operation WHEN 'DELETE' THEN s.before ELSE s.after END$i$;
BEGIN
	later := _bemi.revert_later(number, relation, format(
		'(SELECT s.primary_key AS slot FROM bemi_changes s WHERE %s) s', is_its), history,
		condition);
	rows_now := (SELECT format('SELECT s.n, t.ctid, t.tableoid, %%s AS image FROM '
			'(SELECT s.n, %s FROM bemi_changes s WHERE %s OFFSET 0) s JOIN %s t ON %s',
			string_agg(format('%s AS key_%s', _bemi.revert_key_value(relation, image, k.name,
				k.type, k.by_record), k.place), ', '), is_its, _bemi.revert_only(relation),
			string_agg(format('t.%I %s s.key_%s', k.name, k.equals, k.place), ' AND '))
		FROM _bemi.revert_key(relation) k);
	values_now := replace(rows_now, '%s', _bemi.revert_row_now(relation, changed));
	rows_now := replace(rows_now, '%s', _bemi.revert_row_now(relation, NULL));
END
$$;
COMMENT ON FUNCTION _bemi.revert_plain(integer, regclass, text, text, text, text[])
	IS 'internal: queries of the later changes and of the rows of one table whose changes are read '
		'as they are';
REVOKE ALL ON FUNCTION _bemi.revert_plain(integer, regclass, text, text, text, text[])
	FROM PUBLIC;
