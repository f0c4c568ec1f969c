
--
-- Taking changes back: plans
--

-- Triggers of the application that statements of a plan fire. A partition can have row triggers
-- that its root does not have. Its statement triggers do not fire, because statements name the
-- root.
CREATE FUNCTION _bemi.revert_fired(relation regclass, OUT name name, OUT type smallint)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT DISTINCT t.tgname, t.tgtype
		FROM (SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) p) m(member)
			JOIN pg_trigger t ON t.tgrelid = m.member
		WHERE NOT t.tgisinternal AND t.tgfoid <> 'bemi.emit_context()'::regprocedure
			AND (m.member = relation OR t.tgtype & 1 = 1)
			AND t.tgenabled IN ('A', CASE current_setting('session_replication_role')
				WHEN 'replica' THEN 'R' ELSE 'O' END)
$$;
COMMENT ON FUNCTION _bemi.revert_fired(regclass)
	IS 'internal: triggers of the application on a table and its partitions, as in pg_trigger';
REVOKE ALL ON FUNCTION _bemi.revert_fired(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_triggers(relation regclass, event integer)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'fires trigger ' || string_agg(format('"%s"', t.name), ', ' ORDER BY t.name)
		FROM (SELECT DISTINCT f.name FROM _bemi.revert_fired(relation) f
			WHERE f.type & event <> 0) t
$$;
COMMENT ON FUNCTION _bemi.revert_triggers(regclass, integer)
	IS 'internal: triggers of the application for an event, as in pg_trigger.tgtype';
REVOKE ALL ON FUNCTION _bemi.revert_triggers(regclass, integer) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_mends(relation regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM _bemi.revert_fired(relation) f
		WHERE f.type & 3 = 3 AND f.type & 20 <> 0)
$$;
COMMENT ON FUNCTION _bemi.revert_mends(regclass)
	IS 'internal: whether BEFORE triggers of the application can change a row as it is written';
REVOKE ALL ON FUNCTION _bemi.revert_mends(regclass) FROM PUBLIC;

-- Such triggers may change rows that a step has written: a counter that the set had changed, too,
-- would be taken back twice. While the steps run, only rows of tables without BEFORE triggers are
-- known to differ because of another row's trigger.
CREATE FUNCTION _bemi.has_writing_triggers(relations regclass[])
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(bool_or(f.type & 66 = 0), false)
			OR count(f.*) > 0 AND NOT bool_and(_bemi.revert_mends(r.relation))
		FROM unnest(relations) r(relation)
			LEFT JOIN LATERAL _bemi.revert_fired(r.relation) f ON true
$$;
COMMENT ON FUNCTION _bemi.has_writing_triggers(regclass[])
	IS 'internal: whether triggers on these tables may write rows of a plan that can be set again';
REVOKE ALL ON FUNCTION _bemi.has_writing_triggers(regclass[]) FROM PUBLIC;

-- So may ON UPDATE CASCADE: if unique values have been handed on, a row that refers to one of them
-- by its step would follow the row that had this value. That cannot be with primary keys, because
-- the row of a slot is replaced, and keeps its key.
CREATE FUNCTION _bemi.has_following_rows(relations regclass[])
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM _bemi.revert_foreign_keys(relations) f
		WHERE f.child_number > 0 AND f.parent_number > 0 AND f.on_update IN ('c', 'n', 'd')
			AND NOT f.parent_names::text[] <@ ARRAY(
				SELECT k.name::text FROM _bemi.revert_key(f.parent) k))
$$;
COMMENT ON FUNCTION _bemi.has_following_rows(regclass[])
	IS 'internal: whether rows of these tables change with those that they refer to';
REVOKE ALL ON FUNCTION _bemi.has_following_rows(regclass[]) FROM PUBLIC;

-- Foreign keys whose action changes rows that refer to the row of an UPDATE.
CREATE FUNCTION _bemi.revert_followers(relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT coalesce(string_agg(format(
			'CASE WHEN s.kind = ''UPDATE'' AND s.value_after ?| %L THEN %L END', f.parent_names,
			format('changes rows of table %s by foreign key "%s"', f.child, f.name)), ', '
			ORDER BY f.child::text, f.name), 'NULL')
		FROM _bemi.revert_foreign_keys(ARRAY[relation]) f
		WHERE f.parent_number > 0 AND f.on_update = 'c'
$$;
COMMENT ON FUNCTION _bemi.revert_followers(regclass)
	IS 'internal: SQL expressions of reasons that name foreign keys with ON UPDATE CASCADE';
REVOKE ALL ON FUNCTION _bemi.revert_followers(regclass) FROM PUBLIC;

-- The steps of one table, with their statements and triggers.
CREATE FUNCTION _bemi.revert_steps(number integer, relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT s.tbl, s.slot, s.place, s.part, s.depth, s.kind, s.columns, s.row_now, s.value_now,
			s.value_after, s.verdict, coalesce(s.reason, nullif(concat_ws('; ', CASE s.kind
				WHEN 'INSERT' THEN %4$L WHEN 'DELETE' THEN %5$L ELSE %6$L END, %7$s), ''))
				AS reason, s.changes, s.arrived, s.departed,
			s.row_ctid, s.row_table, CASE WHEN s.verdict = 'ok' THEN %1$s END AS statement
		FROM bemi_steps s
			CROSS JOIN LATERAL jsonb_populate_record(NULL::%2$s, CASE s.verdict WHEN 'ok'
				THEN coalesce(s.row_now, '{}') || coalesce(s.value_after, '{}') END) n
			CROSS JOIN LATERAL jsonb_populate_record(NULL::%2$s, s.row_now) o
		WHERE s.tbl = %3$s$query$,
		_bemi.revert_text(relation), relation, number, _bemi.revert_triggers(relation, 4),
		_bemi.revert_triggers(relation, 8), _bemi.revert_triggers(relation, 16),
		_bemi.revert_followers(relation))
$$;
COMMENT ON FUNCTION _bemi.revert_steps(integer, regclass)
	IS 'internal: query of the steps of one table, with their statements';
REVOKE ALL ON FUNCTION _bemi.revert_steps(integer, regclass) FROM PUBLIC;

-- One step for each change that cannot be taken back at all.
CREATE FUNCTION _bemi.revert_lost_table(number integer, condition text, reason text, mode text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT %1$s AS tbl, coalesce(c.primary_key, c.operation) AS slot, c.id AS place, 0 AS part,
			0 AS depth, CASE c.operation WHEN 'CREATE' THEN 'DELETE' WHEN 'UPDATE' THEN 'UPDATE'
				ELSE 'INSERT' END AS kind,
			NULL::text[] AS columns, NULL::jsonb AS row_now, NULLIF(c.after, '{}') AS value_now,
			NULLIF(c.before, '{}') AS value_after, %2$L AS verdict, %4$L AS reason,
			ARRAY[c.id] AS changes, NULL::uuid AS arrived, NULL::uuid AS departed,
			NULL::tid AS row_ctid, NULL::oid AS row_table
		FROM bemi_changes c WHERE %3$s$query$,
		number, CASE mode WHEN 'skip' THEN 'skip' ELSE 'conflict' END, condition, reason)
$$;
COMMENT ON FUNCTION _bemi.revert_lost_table(integer, text, text, text)
	IS 'internal: steps of changes that cannot be taken back, for this reason';
REVOKE ALL ON FUNCTION _bemi.revert_lost_table(integer, text, text, text) FROM PUBLIC;

-- What the context of a revert shows: the changes, if they are few, and their transactions, by one
-- change of each.
CREATE FUNCTION _bemi.revert_of(changes uuid[], transactions uuid[])
	RETURNS jsonb
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('revertOf',
		(SELECT coalesce(jsonb_agg(c ORDER BY c), '[]') FROM unnest(changes) c)
		|| (SELECT coalesce(jsonb_agg(jsonb_build_object('transaction', _bemi.first_change_of(t))
				ORDER BY t), '[]')
			FROM unnest(transactions) t))
$$;
COMMENT ON FUNCTION _bemi.revert_of(uuid[], uuid[])
	IS 'internal: member of the context that shows what was taken back';
REVOKE ALL ON FUNCTION _bemi.revert_of(uuid[], uuid[]) FROM PUBLIC;

-- The same of the steps that are carried out, if some are left out, or if changes were added. The
-- ids of a transaction have the same first 20 characters, because LSNs of commits are multiples of
-- 8.
CREATE FUNCTION _bemi.revert_of_steps()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $query$
		WITH changes AS (
			SELECT DISTINCT u.id FROM bemi_steps s, unnest(s.changes) u(id) WHERE s.verdict = 'ok'
		)
		SELECT _bemi.revert_of(
			(SELECT array_agg(i.id) FROM (SELECT c.id FROM changes c LIMIT 21) i
				HAVING count(*) <= 20),
			ARRAY(SELECT min(c.id::text)::uuid FROM changes c GROUP BY left(c.id::text, 20)
				ORDER BY 1 LIMIT 20))
	$query$
$$;
COMMENT ON FUNCTION _bemi.revert_of_steps()
	IS 'internal: query of the member of the context that shows what was taken back';
REVOKE ALL ON FUNCTION _bemi.revert_of_steps() FROM PUBLIC;

-- A row whose key the set has changed is missing in its former slot and is too much in its new one.
-- Both steps become one UPDATE, or both are in conflict. Links are slots in which such a row has
-- been in between.
CREATE FUNCTION _bemi.revert_moved()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $query$
		WITH RECURSIVE chain AS (
			SELECT s.tbl, s.slot, s.part, s.departed AS link FROM bemi_steps s
				WHERE s.departed IS NOT NULL AND s.kind <> 'LINK'
					AND (s.kind = 'INSERT' OR s.columns IS NULL)
			UNION ALL
			SELECT c.tbl, c.slot, c.part, l.departed FROM chain c
				JOIN bemi_steps l ON l.tbl = c.tbl AND l.kind = 'LINK' AND l.arrived = c.link
		), pair AS (
			SELECT f.tbl, f.slot AS former_slot, f.part AS former_part, n.slot AS new_slot,
					n.part AS new_part, f.value_after, n.row_now,
					CASE WHEN f.verdict <> 'ok' THEN f.verdict ELSE n.verdict END AS verdict,
					CASE WHEN f.verdict <> 'ok' THEN f.reason ELSE n.reason END AS reason,
					f.changes || n.changes AS changes,
					f.kind = 'INSERT' AND f.verdict = 'ok' AND n.verdict = 'ok' AS is_one
				FROM chain c
					JOIN bemi_steps f ON f.tbl = c.tbl AND f.slot = c.slot AND f.part = c.part
					JOIN bemi_steps n ON n.tbl = c.tbl AND n.arrived = c.link AND n.kind = 'DELETE'
		)
		SELECT s.tbl, s.slot, s.place, s.part, s.depth,
				CASE WHEN p.is_one THEN 'UPDATE' ELSE s.kind END,
				CASE WHEN p.is_one THEN d.names ELSE s.columns END, s.row_now,
				CASE WHEN p.is_one THEN d.now ELSE s.value_now END,
				CASE WHEN p.is_one THEN d.after ELSE s.value_after END,
				coalesce(p.verdict, s.verdict), coalesce(p.reason, s.reason),
				CASE WHEN p.is_one THEN ARRAY(SELECT DISTINCT u FROM unnest(p.changes) u ORDER BY u)
					ELSE s.changes END,
				NULL::uuid, NULL::uuid, s.row_ctid, s.row_table
			FROM bemi_steps s LEFT JOIN (
					SELECT q.*, q.new_slot AS at_slot, q.new_part AS at_part FROM pair q
					UNION ALL SELECT q.*, q.former_slot, q.former_part FROM pair q
						WHERE NOT q.is_one
				) p ON p.tbl = s.tbl AND p.at_slot = s.slot AND p.at_part = s.part
				LEFT JOIN LATERAL (
					SELECT array_agg(e.key ORDER BY e.key) AS names,
							jsonb_object_agg(e.key, p.row_now -> e.key) AS now,
							jsonb_object_agg(e.key, e.value) AS after
						FROM jsonb_each(p.value_after) e
						WHERE p.is_one AND p.row_now ? e.key
							AND (p.row_now -> e.key)::text <> e.value::text
				) d ON p.is_one
			WHERE s.kind <> 'LINK' AND NOT EXISTS (SELECT FROM pair q WHERE q.is_one
				AND q.tbl = s.tbl AND q.former_slot = s.slot AND q.former_part = s.part)
	$query$
$$;
COMMENT ON FUNCTION _bemi.revert_moved()
	IS 'internal: query that joins the two steps of a row whose key was changed';
REVOKE ALL ON FUNCTION _bemi.revert_moved() FROM PUBLIC;

-- The queries of a plan, and its tables. "groups" are the changes of the set by the names of their
-- tables. A table is plain if its changes can be walked as they are in the history. values_now is
-- as rows_now, but only with the columns that the set has changed, where these are all. The plan's
-- steps are in the reverse order of the changes. without_gap: up to this id, all changes since the
-- first one are those of the set.
CREATE FUNCTION _bemi.revert_queries(condition text, groups jsonb, running bigint[], mode text,
		with_plain boolean, with_text boolean, without_gap uuid,
		OUT tables jsonb, OUT set_of_events text, OUT events text, OUT later text,
		OUT rows_now text, OUT values_now text, OUT lost text, OUT fits text, OUT in_the_way text,
		OUT checks text,
		OUT insert_checks text, OUT ordering text, OUT plan text, OUT new_children text,
		OUT settles boolean)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	sources text[] := (_bemi.history_of('bemi.changes')).sources;
	t record;
	number integer := 0;
	relations regclass[] := '{}';
	first_transaction bigint;
	first_id text;
	first_time timestamptz;
	history text;
	truncated record;
	plain record;
	is_plain boolean;
BEGIN
	tables := '[]';
	FOR t IN SELECT r.relation, min(r.condition) AS condition, min(r.first_id::text) AS first_id,
				min(r.first_time) AS first_time, min(r.first_transaction) AS first_transaction,
				min(r.source) AS source, min(r.schema_name) AS schema,
				min(r.table_name) AS "table", min(r.changed) AS changed,
				count(*) = 1 AND bool_and(r.is_plain AND r.relations = 1) AS is_plain,
				(count(*) OVER ()) = 1 AS is_only
			FROM (SELECT o.*, count(*) OVER (PARTITION BY o.source, o.schema_name, o.table_name)
					AS relations
				FROM _bemi.revert_tables(groups, condition, sources) o) r
			GROUP BY r.relation, CASE WHEN r.relation IS NULL THEN r.condition END
			ORDER BY min(r.schema_name), min(r.table_name), r.relation
	LOOP
		number := number + 1;
		relations := relations || t.relation;
		first_transaction := least(first_transaction, t.first_transaction);
		first_id := least(first_id, t.first_id);
		first_time := least(first_time, t.first_time);
		is_plain := with_plain AND t.is_plain AND _bemi.revert_generated(t.relation) = '{}'
			AND EXISTS (SELECT FROM _bemi.revert_key(t.relation));
		tables := tables || jsonb_build_object('relation', t.relation::oid::bigint,
			'name', coalesce(t.relation::text, format('%I.%I', t.schema, t."table")),
			'columns', ARRAY(SELECT c.name FROM _bemi.revert_columns(t.relation) c
				ORDER BY c.place),
			'key', ARRAY(SELECT k.name FROM _bemi.revert_key(t.relation) k),
			'source', CASE WHEN is_plain THEN t.source END, 'schema', t.schema,
			'table', t."table", 'reading', _bemi.revert_reading(t.relation, t.changed),
			'mends', _bemi.revert_mends(t.relation));
		IF t.relation IS NULL THEN
			lost := concat_ws(' UNION ALL ', lost, _bemi.revert_lost_table(number, t.condition,
				'table does not exist any more', mode));
			CONTINUE;
		END IF;
		fits := concat_ws(' UNION ALL ', nullif(fits, ''),
			_bemi.revert_identity(number, t.relation, NOT is_plain));
		IF is_plain THEN
			plain := _bemi.revert_plain(number, t.relation, CASE WHEN t.is_only THEN 'true'
				ELSE format('CASE WHEN s."table" = %L AND s.schema = %L THEN true ELSE false END',
					t."table", t.schema) END, _bemi.revert_history(t.relation, sources, running,
					greatest(t.first_id::uuid, without_gap), t.first_time), condition, t.changed);
			later := concat_ws(' UNION ALL ', later, plain.later);
			rows_now := concat_ws(' UNION ALL ', rows_now, plain.rows_now);
			values_now := concat_ws(' UNION ALL ', values_now, plain.values_now);
			CONTINUE;
		END IF;
		history := _bemi.revert_history(t.relation, sources, running, t.first_id::uuid,
			t.first_time);
		truncated := _bemi.revert_truncated(t.relation, history, condition);
		IF truncated.reason IS NOT NULL THEN
			lost := concat_ws(' UNION ALL ', lost, _bemi.revert_lost_table(number,
				format('c.id IN (SELECT c.id FROM %s WHERE c.operation = ''TRUNCATE'' AND (%s))',
					history, condition), truncated.reason, mode));
		END IF;
		set_of_events := concat_ws(' UNION ALL ', set_of_events,
			_bemi.revert_set(number, t.relation, history, condition, truncated.events));
		events := concat_ws(' UNION ALL ', events,
			_bemi.revert_events(number, t.relation, history, condition));
	END LOOP;
	events := 'SELECT s.*, NULL::tid AS row_ctid, NULL::oid AS row_table FROM bemi_set s UNION ALL '
		|| events;
	-- The others cast values.
	fits := nullif(concat_ws(' UNION ALL ', nullif(fits, ''),
		_bemi.revert_unfit(relations, first_transaction)), '');
	checks := nullif(concat_ws(' UNION ALL ', _bemi.revert_missing_parents(relations),
		_bemi.revert_referenced(relations), _bemi.revert_hidden_children(relations),
		_bemi.revert_taken(relations), _bemi.revert_unmet(relations, first_transaction),
		_bemi.revert_no_partition(relations)), '');
	IF mode = 'cascade' THEN
		in_the_way := _bemi.revert_in_the_way(relations, sources, running, first_id::uuid,
			first_time);
	END IF;
	insert_checks := _bemi.revert_partial(relations, first_transaction);
	ordering := _bemi.revert_order(relations);
	plan := format('SELECT p.* FROM (%s) p '
		'ORDER BY p.place DESC, p.depth, p.tbl, p.slot COLLATE "C", p.part', CASE WHEN with_text
		THEN (SELECT string_agg(CASE WHEN r.relation IS NULL
					THEN format('SELECT s.*, NULL FROM bemi_steps s WHERE s.tbl = %s', r.number)
					ELSE _bemi.revert_steps(r.number::integer, r.relation) END, ' UNION ALL ')
				FROM unnest(relations) WITH ORDINALITY r(relation, number))
		ELSE 'TABLE bemi_steps' END);
	new_children := _bemi.revert_new_children(relations);
	settles := _bemi.has_writing_triggers(relations) OR _bemi.has_following_rows(relations);
END
$$;
COMMENT ON FUNCTION _bemi.revert_queries(text, jsonb, bigint[], text, boolean, boolean, uuid)
	IS 'internal: queries of the events, of findings and of the plan, for src/revert/plan.c';
REVOKE ALL ON FUNCTION _bemi.revert_queries(text, jsonb, bigint[], text, boolean, boolean,
	uuid) FROM PUBLIC;

CREATE FUNCTION bemi.plan_revert(changes uuid[] DEFAULT NULL, transaction_of uuid DEFAULT NULL,
		context jsonb DEFAULT NULL, from_time timestamptz DEFAULT NULL,
		to_time timestamptz DEFAULT NULL, mode text DEFAULT 'refuse',
		timeout interval DEFAULT '10 seconds', choices jsonb DEFAULT NULL)
	RETURNS TABLE (step bigint, statement text, table_name text, key text, columns text[],
		value_now jsonb, value_after jsonb, verdict text, reason text, change_ids uuid[],
		plan_hash text)
	AS 'MODULE_PATHNAME', 'bemi_plan_revert'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.plan_revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, interval,
	jsonb)
	IS 'what bemi.revert() would do to take these changes back, without doing it';
REVOKE ALL ON FUNCTION bemi.plan_revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text,
	interval, jsonb) FROM PUBLIC;

CREATE FUNCTION bemi.revert(changes uuid[] DEFAULT NULL, transaction_of uuid DEFAULT NULL,
		context jsonb DEFAULT NULL, from_time timestamptz DEFAULT NULL,
		to_time timestamptz DEFAULT NULL, mode text DEFAULT 'refuse', expect text DEFAULT NULL,
		timeout interval DEFAULT '10 seconds', choices jsonb DEFAULT NULL,
		OUT steps bigint, OUT skipped bigint, OUT plan_hash text)
	AS 'MODULE_PATHNAME', 'bemi_revert'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, text,
	interval, jsonb)
	IS 'takes changes back, in the transaction of the caller; later changes of others remain';
REVOKE ALL ON FUNCTION bemi.revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, text,
	interval, jsonb) FROM PUBLIC;

-- The statement that carries out steps of one kind, for the rows n in bemi_rows. These have two
-- columns for the place of the row, and those of "names" and "types". Runs under the search_path of
-- the caller, because his triggers may need it, so every name is qualified. Only SQL can make
-- arrays and composite values of JSON.
CREATE FUNCTION _bemi.revert_statement(relation regclass, kind text, columns text[],
		since bigint, OUT statement text, OUT one_by_one boolean, OUT names text[], OUT types oid[])
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	target text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation);
	only_it text := CASE WHEN (SELECT c.relkind <> 'p' FROM pg_class c WHERE c.oid = relation)
		THEN 'ONLY ' ELSE '' END;
	same_row text := 't.tableoid OPERATOR(pg_catalog.=) n."bemi table" '
		'AND t.ctid OPERATOR(pg_catalog.=) n."bemi row"';
	of_keys boolean := kind = 'SETTLE';
	targets text;
	new_values text;
	settings text;
	same_key text;
	changed text;
BEGIN
	SELECT string_agg(quote_ident(a.attname), ', ') FILTER (WHERE x.is_set),
			string_agg(x.value, ', ') FILTER (WHERE x.is_set),
			string_agg(format('%I = %s', a.attname, x.value), ', ') FILTER (WHERE x.is_set),
			string_agg(format('t.%I %s %s', a.attname, k.equals, x.value), ' AND ')
				FILTER (WHERE k.name IS NOT NULL),
			format('ROW(%s)::pg_catalog.record OPERATOR(pg_catalog.*<>) '
				'ROW(%s)::pg_catalog.record',
				string_agg(format('t.%I', a.attname), ', ') FILTER (WHERE x.is_set),
				string_agg(x.value, ', ') FILTER (WHERE x.is_set)),
			array_agg(a.attname::text),
			array_agg(CASE WHEN x.by_record THEN 'jsonb'::regtype ELSE a.atttypid END)
		INTO targets, new_values, settings, same_key, changed, names, types
		FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
			JOIN pg_namespace n ON n.oid = y.typnamespace
			LEFT JOIN _bemi.revert_key(relation) k ON k.name = a.attname
			CROSS JOIN LATERAL (SELECT y.typtype IN ('d', 'c') OR y.typcategory = 'A' AS by_record,
				a.attname = ANY (columns) AND NOT (of_keys AND (k.name IS NOT NULL
					OR a.attidentity = 'a')) AS is_set) b
			CROSS JOIN LATERAL (SELECT b.by_record, b.is_set, CASE WHEN b.by_record
				THEN format('(SELECT r.x FROM pg_catalog.jsonb_to_record('
					'pg_catalog.jsonb_build_object(%L, n.%I)) r(x %I.%I))', 'x', a.attname,
					n.nspname, y.typname)
				ELSE format('n.%I', a.attname) END AS value) x
		WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
			AND (a.attname = ANY (columns) OR of_keys AND k.name IS NOT NULL);
	statement := CASE kind
		WHEN 'INSERT' THEN format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s '
			'FROM bemi_rows n', target, targets, new_values)
		WHEN 'UPDATE' THEN format('UPDATE %s%s t SET %s FROM bemi_rows n WHERE %s', only_it,
			target, settings, same_row)
		-- Of the rows of the plan, only those that triggers have written later.
		WHEN 'SETTLE' THEN CASE WHEN settings IS NULL
			THEN format('DELETE FROM %s USING bemi_rows n WHERE false', target)
			ELSE format('UPDATE %s%s t SET %s FROM bemi_rows n '
			'WHERE %s AND t.cmin::pg_catalog.text::pg_catalog.int8 OPERATOR(pg_catalog.>=) %s '
			'AND %s', only_it, target, settings, same_key, since, changed) END
		ELSE format('DELETE FROM %s%s t USING bemi_rows n WHERE %s', only_it, target, same_row)
		END;
	-- Unique values are handed on from row to row in the order of the plan.
	one_by_one := kind = 'UPDATE' AND EXISTS (SELECT FROM pg_index i JOIN pg_attribute a
			ON a.attrelid = relation AND (a.attnum = ANY (i.indkey::int2[])
				OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
		WHERE i.indrelid = relation AND (i.indisunique OR i.indisexclusion)
			AND a.attname = ANY (columns));
END
$$;
COMMENT ON FUNCTION _bemi.revert_statement(regclass, text, text[], bigint)
	IS 'internal: statement that carries out steps of one kind, and whether each needs one of its '
		'own';
REVOKE ALL ON FUNCTION _bemi.revert_statement(regclass, text, text[], bigint) FROM PUBLIC;
