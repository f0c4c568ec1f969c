
--
-- Taking changes back: why a step cannot be carried out, and its place in the order
--

-- Foreign keys from or to a table of the plan. Number 0: the other table is not in the
-- plan. readable: whether the caller sees all of its rows, because the server decides on others.
CREATE FUNCTION _bemi.revert_foreign_keys(relations regclass[],
		OUT name name, OUT child regclass, OUT child_number integer, OUT child_readable boolean,
		OUT child_names name[], OUT child_types text[], OUT parent regclass,
		OUT parent_number integer, OUT parent_readable boolean, OUT parent_names name[],
		OUT parent_types text[],
		OUT operators text[], OUT on_update "char", OUT on_delete "char")
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.conname, f.conrelid, coalesce(array_position(relations, f.conrelid::regclass), 0),
			has_table_privilege(f.conrelid, 'SELECT') AND NOT row_security_active(f.conrelid),
			c.child_names, c.child_types, f.confrelid,
			coalesce(array_position(relations, f.confrelid::regclass), 0),
			has_table_privilege(f.confrelid, 'SELECT') AND NOT row_security_active(f.confrelid),
			c.parent_names, c.parent_types, c.operators, f.confupdtype,
			f.confdeltype
		FROM pg_constraint f CROSS JOIN LATERAL (
			SELECT array_agg(a.attname ORDER BY k.place) AS child_names,
					array_agg(format_type(a.atttypid, -1) ORDER BY k.place) AS child_types,
					array_agg(b.attname ORDER BY k.place) AS parent_names,
					array_agg(format_type(b.atttypid, -1) ORDER BY k.place) AS parent_types,
					array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.place)
						AS operators
				FROM unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY
						k(child_number, parent_number, operator, place)
					JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.child_number
					JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = k.parent_number
					JOIN pg_operator o ON o.oid = k.operator
					JOIN pg_namespace n ON n.oid = o.oprnamespace) c
		WHERE f.contype = 'f' AND f.conparentid = 0
			AND (f.conrelid = ANY (relations) OR f.confrelid = ANY (relations))
$$;
COMMENT ON FUNCTION _bemi.revert_foreign_keys(regclass[])
	IS 'internal: foreign keys of the tables of a plan';
REVOKE ALL ON FUNCTION _bemi.revert_foreign_keys(regclass[]) FROM PUBLIC;

-- Which step must come before which other one, as rows (former, latter, ...): the position of each,
-- which is that in the plan once the steps are numbered (depth), and whether bemi.revert() minds.
--
-- A step that sets a unique value comes after the one that takes it away from the row that has it.
--
-- Foreign keys are checked after all steps, but who pastes the statements needs an order. A cascade
-- is recorded after its cause, so a row would be inserted before the row that it refers to.
CREATE FUNCTION _bemi.revert_order(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH pair(query) AS (
		-- The row that is referred to is there first.
		SELECT format($query$
				SELECT b.depth AS former, a.depth AS latter, false AS is_hard,
					%6$s AS is_violated
				FROM bemi_steps a JOIN bemi_steps b ON %1$s
				WHERE a.tbl = %2$s AND a.verdict = 'ok' AND a.kind <> 'DELETE'
					AND a.value_after ?| %3$L
					AND b.tbl = %4$s AND b.verdict = 'ok' AND b.kind <> 'DELETE'
					AND b.value_after ?| %5$L AND (a.tbl, a.slot) <> (b.tbl, b.slot)$query$,
			(SELECT string_agg(format('(%s) = (%s)', _bemi.revert_member('b', k.parent),
					_bemi.revert_member('a', k.child)), ' AND ')
				FROM unnest(f.parent_names, f.child_names) k(parent, child)),
			f.child_number, f.child_names, f.parent_number, f.parent_names,
			_bemi.revert_violated())
		FROM _bemi.revert_foreign_keys(relations) f
		WHERE f.child_number > 0 AND f.parent_number > 0
		UNION ALL
		-- The row that is referred to goes last.
		SELECT format($query$
				SELECT b.depth AS former, a.depth AS latter, false AS is_hard,
					%6$s AS is_violated
				FROM bemi_steps a JOIN bemi_steps b ON %1$s
				WHERE a.tbl = %4$s AND a.verdict = 'ok' AND a.kind = 'DELETE'
					AND b.tbl = %2$s AND b.verdict = 'ok' AND (b.kind = 'DELETE'
						OR b.kind = 'UPDATE' AND b.value_after ?| %3$L)
					AND (a.tbl, a.slot) <> (b.tbl, b.slot)$query$,
			(SELECT string_agg(format('a.row_now -> %L = b.row_now -> %L', k.parent, k.child),
					' AND ')
				FROM unnest(f.parent_names, f.child_names) k(parent, child)),
			f.child_number, f.child_names, f.parent_number, f.parent_names,
			_bemi.revert_violated())
		FROM _bemi.revert_foreign_keys(relations) f
		WHERE f.child_number > 0 AND f.parent_number > 0
		UNION ALL
		-- A value is free first.
		SELECT format($query$
				SELECT b.depth AS former, a.depth AS latter, %6$L::boolean AS is_hard,
					%7$s AS is_violated
				FROM bemi_steps a CROSS JOIN LATERAL %1$s v JOIN %2$s ON %3$s
					JOIN bemi_steps b ON b.row_table = t.tableoid AND b.row_ctid = t.ctid
				WHERE a.tbl = %4$s AND a.verdict = 'ok' AND a.kind <> 'DELETE'
					AND a.value_after ?| %5$L
					AND b.tbl = %4$s AND b.verdict = 'ok'
					AND (b.kind = 'DELETE' OR b.kind = 'UPDATE' AND b.value_after ?| %5$L)
					AND (a.slot, a.part) <> (b.slot, b.part)$query$,
			_bemi.revert_tuple(i.tuple, 'a'), i.rows, i.same, i.number, i.names,
			i.is_immediate, _bemi.revert_violated())
		FROM _bemi.revert_unique(relations) i
	)
	SELECT string_agg(format('(%s)', p.query), ' UNION ALL ') FROM pair p
$$;
COMMENT ON FUNCTION _bemi.revert_order(regclass[])
	IS 'internal: query of pairs of steps, of each pair the one first that must come first; NULL '
		'if there can be none';
REVOKE ALL ON FUNCTION _bemi.revert_order(regclass[]) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_violated()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '(a.place > b.place OR a.place = b.place '
		'AND (a.depth, a.tbl, a.slot COLLATE "C", a.part) '
		'< (b.depth, b.tbl, b.slot COLLATE "C", b.part))'
$$;
COMMENT ON FUNCTION _bemi.revert_violated()
	IS 'internal: condition that step a comes before step b in the plan';
REVOKE ALL ON FUNCTION _bemi.revert_violated() FROM PUBLIC;

CREATE FUNCTION _bemi.revert_numbered()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $query$
		SELECT s.tbl, s.slot, s.place, s.part, (row_number() OVER (ORDER BY s.place DESC, s.depth,
				s.tbl, s.slot COLLATE "C", s.part))::integer AS depth, s.kind, s.columns, s.row_now,
			s.value_now, s.value_after, s.verdict, s.reason, s.changes, s.arrived, s.departed,
			s.row_ctid, s.row_table
		FROM bemi_steps s
	$query$
$$;
COMMENT ON FUNCTION _bemi.revert_numbered()
	IS 'internal: query of the steps with their place in the plan as a number';
REVOKE ALL ON FUNCTION _bemi.revert_numbered() FROM PUBLIC;

-- Findings are rows (tbl, slot, part, place, depth, reason): why a step cannot be carried out.
CREATE FUNCTION _bemi.revert_missing_parents(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT c.tbl, c.slot, c.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps c
			WHERE c.tbl = %2$s AND c.verdict = 'ok' AND c.kind <> 'DELETE' AND c.value_after ?| %3$L
				AND %4$s
				AND NOT EXISTS (SELECT FROM %5$s t WHERE %6$s AND NOT EXISTS (
					SELECT FROM bemi_steps r WHERE r.tbl = %7$s AND r.row_table = t.tableoid
						AND r.row_ctid = t.ctid AND r.verdict = 'ok'
						AND (r.kind = 'DELETE' OR r.value_after ?| %8$L)))
				AND NOT EXISTS (SELECT FROM bemi_steps p WHERE p.tbl = %7$s AND p.verdict = 'ok'
					AND p.kind <> 'DELETE' AND p.value_after ?| %8$L AND %9$s)$query$,
		format('table %s has no row for foreign key "%s"', f.parent, f.name),
		f.child_number, f.child_names,
		(SELECT string_agg(format('(%s) <> %L', _bemi.revert_member('c', k), 'null'), ' AND ')
			FROM unnest(f.child_names) k),
		f.parent,
		(SELECT string_agg(format('t.%I %s ((%s) #>> %L)::%s', k.parent, k.operator,
				_bemi.revert_member('c', k.child), '{}', k.type), ' AND ')
			FROM unnest(f.parent_names, f.child_names, f.operators, f.child_types)
				k(parent, child, operator, type)),
		f.parent_number, f.parent_names,
		(SELECT string_agg(format('(%s) = (%s)', _bemi.revert_member('p', k.parent),
				_bemi.revert_member('c', k.child)), ' AND ')
			FROM unnest(f.parent_names, f.child_names) k(parent, child))), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f WHERE f.child_number > 0 AND f.parent_readable
$$;
COMMENT ON FUNCTION _bemi.revert_missing_parents(regclass[])
	IS 'internal: query of steps whose row would refer to one that does not exist';
REVOKE ALL ON FUNCTION _bemi.revert_missing_parents(regclass[]) FROM PUBLIC;

-- Without this, ON DELETE CASCADE would delete rows that others have inserted, and ON UPDATE SET
-- NULL would change them. ON UPDATE CASCADE may: rows of others follow the row that they refer to.
CREATE FUNCTION _bemi.revert_referenced(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT p.tbl, p.slot, p.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps p
			WHERE p.tbl = %2$s AND p.verdict = 'ok' AND (p.kind = 'DELETE'
					OR %3$L AND p.kind = 'UPDATE' AND p.value_after ?| %4$L)
				AND EXISTS (SELECT FROM %5$s t WHERE %6$s AND NOT EXISTS (
					SELECT FROM bemi_steps r WHERE r.tbl = %7$s AND r.row_table = t.tableoid
						AND r.row_ctid = t.ctid AND r.verdict = 'ok'
						AND (r.kind = 'DELETE' OR r.value_after ?| %8$L)))$query$,
		format('rows of table %s refer to it by foreign key "%s"', f.child, f.name),
		f.parent_number, f.on_update <> 'c', f.parent_names, f.child,
		(SELECT string_agg(format('(p.row_now ->> %L)::%s %s t.%I', k.parent, k.type, k.operator,
				k.child), ' AND ')
			FROM unnest(f.parent_names, f.parent_types, f.operators, f.child_names)
				k(parent, type, operator, child)),
		f.child_number, f.child_names), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f WHERE f.parent_number > 0 AND f.child_readable
$$;
COMMENT ON FUNCTION _bemi.revert_referenced(regclass[])
	IS 'internal: query of steps that would delete a row to which others refer';
REVOKE ALL ON FUNCTION _bemi.revert_referenced(regclass[]) FROM PUBLIC;

-- An action of a foreign key on rows that the caller may not all see.
CREATE FUNCTION _bemi.revert_hidden_children(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT p.tbl, p.slot, p.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps p
			WHERE p.tbl = %2$s AND p.verdict = 'ok' AND (%3$L AND p.kind = 'DELETE'
				OR %4$L AND p.kind = 'UPDATE' AND p.value_after ?| %5$L)$query$,
		format('rows of table %s may refer to it by foreign key "%s"', f.child, f.name),
		f.parent_number, f.on_delete NOT IN ('a', 'r'), f.on_update IN ('n', 'd'),
		f.parent_names), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f
	WHERE f.parent_number > 0 AND NOT f.child_readable
		AND (f.on_delete NOT IN ('a', 'r') OR f.on_update IN ('n', 'd'))
$$;
COMMENT ON FUNCTION _bemi.revert_hidden_children(regclass[])
	IS 'internal: query of steps that may delete or change rows which the caller does not see';
REVOKE ALL ON FUNCTION _bemi.revert_hidden_children(regclass[]) FROM PUBLIC;

-- Rows that others have inserted since the plan was made. They are looked for when the rows that
-- they refer to are deleted or get another key, and so locked, and before the action of the foreign
-- key. A unique value can go from one row to another by the plan. Rows that refer to it by a step
-- of their own are not new.
CREATE FUNCTION _bemi.revert_new_children(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT %1$L::text AS child
			FROM (SELECT s.kind, coalesce(s.row_now, '{}') || coalesce(s.value_now, '{}') AS former
					FROM bemi_plan s
					WHERE s.tbl = %3$s AND s.verdict = 'ok' AND (s.kind = 'DELETE'
						OR %4$L AND s.kind = 'UPDATE' AND s.value_after ?| %5$L)) p
				JOIN %1$s t ON %2$s
			WHERE p.kind = 'DELETE' OR NOT EXISTS (SELECT FROM bemi_plan r
				WHERE r.tbl = %6$s AND r.verdict = 'ok' AND r.kind <> 'DELETE'
					AND r.value_after ?| %7$L AND %8$s)$query$,
		f.child,
		(SELECT string_agg(format('(p.former ->> %L)::%s %s t.%I', k.parent, k.type, k.operator,
				k.child), ' AND ')
			FROM unnest(f.parent_names, f.parent_types, f.operators, f.child_names)
				k(parent, type, operator, child)),
		f.parent_number, f.on_update IN ('n', 'd'), f.parent_names, f.child_number, f.child_names,
		coalesce(_bemi.revert_same_key(f.child,
			'coalesce(r.row_now, ''{}'') || r.value_after'), 'true')), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f WHERE f.parent_number > 0 AND f.child_readable
$$;
COMMENT ON FUNCTION _bemi.revert_new_children(regclass[])
	IS 'internal: query of rows that refer to rows which the plan has deleted or given another '
		'key';
REVOKE ALL ON FUNCTION _bemi.revert_new_children(regclass[]) FROM PUBLIC;

-- Unique indexes and exclusion constraints: the columns on which they depend; an item of FROM for
-- the values of an image in the index; one for the rows t of the table; and the conditions that
-- such a row, or the values w of another step, are in the way of values v. The server decides on
-- indexes of generated columns and of complete rows. Primary keys need no check: they are slots.
CREATE FUNCTION _bemi.revert_unique(relations regclass[], OUT name text, OUT number bigint,
		OUT relation regclass, OUT names text[], OUT is_immediate boolean,
		OUT tuple text, OUT rows text, OUT same text, OUT same_after text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH index AS (
		SELECT x.*, r.number, r.relation, o.oid AS constraint_id, o.conexclop, c.relname,
				pg_get_expr(x.indpred, x.indrelid) AS predicate,
				x.indpred IS NOT NULL OR x.indexprs IS NOT NULL AS has_expressions,
				coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::boolean, false) AS same_nulls
			FROM unnest(relations) WITH ORDINALITY r(relation, number)
				JOIN pg_class c ON c.oid = r.relation
				JOIN pg_index x ON x.indrelid = r.relation AND NOT x.indisprimary AND x.indislive
					AND (x.indisunique OR x.indisexclusion)
				LEFT JOIN pg_constraint o ON o.conindid = x.indexrelid AND o.contype IN ('u', 'x')
			WHERE concat(x.indexprs, x.indpred) !~ ':varattno 0 '
	)
	SELECT x.indexrelid::regclass::text, x.number, x.relation, n.names, x.indimmediate,
			format('(SELECT %s FROM jsonb_to_record("bemi image") %I(%s) WHERE %s)', k.exprs,
				x.relname, n.definitions, coalesce(x.predicate, 'true')),
			format('%s t', x.relation) || CASE WHEN x.has_expressions
				THEN format(' CROSS JOIN LATERAL (SELECT %s FROM (SELECT t.*) %I WHERE %s) e',
					k.exprs, x.relname, coalesce(x.predicate, 'true')) ELSE '' END,
			k.same, CASE WHEN k.has_equality THEN k.same_after END
		FROM index x CROSS JOIN LATERAL (
			SELECT array_agg(a.attname::text) AS names,
					bool_or(a.attgenerated <> '') AS is_generated,
					string_agg(format('%I %s', a.attname, format_type(a.atttypid, -1)), ', ')
						AS definitions
				FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attnum > 0
					AND (a.attnum = ANY (x.indkey::int2[]) OR a.attnum IN (
						SELECT d.refobjsubid FROM pg_depend d
						WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid
							AND (d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
								OR d.classid = 'pg_constraint'::regclass
									AND d.objid = x.constraint_id)))) n
			CROSS JOIN LATERAL (
			SELECT string_agg(format('(%s) AS e%s', l.expr, l.place), ', ' ORDER BY l.place)
						AS exprs,
					string_agg(CASE WHEN x.same_nulls
						THEN format('(%1$s %2$s v.e%3$s OR %1$s IS NULL AND v.e%3$s IS NULL)',
							l.of_row, l.operator, l.place)
						ELSE format('%s %s v.e%s', l.of_row, l.operator, l.place) END,
						' AND ' ORDER BY l.place) AS same,
					string_agg(CASE WHEN x.same_nulls
						THEN format('(w.e%2$s %1$s v.e%2$s '
							'OR w.e%2$s IS NULL AND v.e%2$s IS NULL)', l.operator, l.place)
						ELSE format('w.e%2$s %1$s v.e%2$s', l.operator, l.place) END,
						' AND ' ORDER BY l.place) AS same_after,
					bool_or(l.can_hash) AS has_equality
				FROM (SELECT k.place, p.oprcanhash AS can_hash,
							format('OPERATOR(%I.%s)', s.nspname, p.oprname) AS operator,
							pg_get_indexdef(x.indexrelid, k.place::integer, false) AS expr,
							CASE WHEN x.has_expressions THEN format('e.e%s', k.place)
								ELSE format('t.%s', pg_get_indexdef(x.indexrelid, k.place::integer,
									false)) END AS of_row
						FROM unnest(x.indclass::oid[]) WITH ORDINALITY k(class, place)
							JOIN pg_opclass c ON c.oid = k.class
							JOIN pg_operator p ON p.oid = coalesce(x.conexclop[k.place], (
								SELECT m.amopopr FROM pg_amop m WHERE m.amopfamily = c.opcfamily
									AND m.amopstrategy = 3 AND m.amoplefttype = c.opcintype
									AND m.amoprighttype = c.opcintype AND NOT x.indisexclusion))
							JOIN pg_namespace s ON s.oid = p.oprnamespace
						WHERE k.place <= x.indnkeyatts) l) k
		WHERE NOT n.is_generated
$$;
COMMENT ON FUNCTION _bemi.revert_unique(regclass[])
	IS 'internal: unique indexes and exclusion constraints of the tables of a plan, apart from '
		'primary keys';
REVOKE ALL ON FUNCTION _bemi.revert_unique(regclass[]) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_tuple(tuple text, step text)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT replace(tuple, '"bemi image"',
		format('coalesce(%1$s.row_now, ''{}'') || %1$s.value_after', step))
$$;
COMMENT ON FUNCTION _bemi.revert_tuple(text, text)
	IS 'internal: item of FROM with the values of a row in an index after a step';
REVOKE ALL ON FUNCTION _bemi.revert_tuple(text, text) FROM PUBLIC;

-- Of two steps that would set the same value, the one with the earlier change is found.
CREATE FUNCTION _bemi.revert_taken(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps s CROSS JOIN LATERAL %6$s v
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind <> 'DELETE' AND s.value_after ?| %3$L
				AND EXISTS (SELECT FROM %4$s WHERE %5$s
					AND (t.tableoid, t.ctid) IS DISTINCT FROM (s.row_table, s.row_ctid)
					AND NOT EXISTS (SELECT FROM bemi_steps r WHERE r.tbl = %2$s
						AND r.row_table = t.tableoid AND r.row_ctid = t.ctid AND r.verdict = 'ok'
						AND (r.kind = 'DELETE' OR r.value_after ?| %3$L)))$query$,
			i.reason, i.number, i.names, i.rows, i.same, _bemi.revert_tuple(i.tuple, 's'))
		|| CASE WHEN i.same_after IS NULL THEN '' ELSE format($query$ UNION ALL
			SELECT s.tbl, s.slot, s.part, NULL, NULL, %1$L
			FROM bemi_steps s CROSS JOIN LATERAL %5$s v
				JOIN (bemi_steps o CROSS JOIN LATERAL %6$s w) ON %4$s
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind <> 'DELETE' AND s.value_after ?| %3$L
				AND o.tbl = %2$s AND o.verdict = 'ok' AND o.kind <> 'DELETE'
				AND o.value_after ?| %3$L
				AND (s.place, s.slot COLLATE "C", s.part)
					< (o.place, o.slot COLLATE "C", o.part)$query$,
			i.reason, i.number, i.names, i.same_after, _bemi.revert_tuple(i.tuple, 's'),
			_bemi.revert_tuple(i.tuple, 'o')) END, ' UNION ALL ')
	FROM (SELECT u.*, format('another row has the same value in index "%s"', u.name) AS reason
		FROM _bemi.revert_unique(relations) u) i
$$;
COMMENT ON FUNCTION _bemi.revert_taken(regclass[])
	IS 'internal: query of steps that would violate a unique index or an exclusion constraint';
REVOKE ALL ON FUNCTION _bemi.revert_taken(regclass[]) FROM PUBLIC;

-- Columns whose catalog row is older than the first change have the type that they had then. A
-- domain can have got a constraint since.
CREATE FUNCTION _bemi.why_unfit(value jsonb, type text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	EXECUTE format('SELECT r.x FROM jsonb_to_record($1) r(x %s)', type)
		USING jsonb_build_object('x', value);
	RETURN NULL;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION _bemi.why_unfit(jsonb, text)
	IS 'internal: why a value cannot be one of this type, or NULL';
REVOKE ALL ON FUNCTION _bemi.why_unfit(jsonb, text) FROM PUBLIC;

-- Each subtransaction costs time, so 1000 values have one, and each has its own only if one of them
-- does not fit.
CREATE FUNCTION _bemi.unfit_values(vals jsonb, type text, OUT place bigint, OUT why text)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
BEGIN
	EXECUTE format('SELECT count(r.x) FROM jsonb_to_recordset($1) r(x %s)', type) USING vals;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	RETURN QUERY SELECT v.place, w.why
		FROM jsonb_array_elements(vals) WITH ORDINALITY v(value, place)
		CROSS JOIN LATERAL _bemi.why_unfit(v.value -> 'x', type) w(why) WHERE w.why IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _bemi.unfit_values(jsonb, text)
	IS 'internal: which members "x" of an array of objects cannot be of this type, and why';
REVOKE ALL ON FUNCTION _bemi.unfit_values(jsonb, text) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_unfit(relations regclass[], first_transaction bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT %3$s AS tbl, b.slots[u.place] AS slot, b.parts[u.place] AS part,
				NULL::uuid AS place, NULL::integer AS depth,
				format('value of column "%%s" does not fit: %%s', %1$L, u.why) AS reason
			FROM (SELECT array_agg(s.slot) AS slots, array_agg(s.part) AS parts,
						jsonb_agg(jsonb_build_object('x', s.value_after -> %1$L)) AS vals
					FROM (SELECT s.*, row_number() OVER () / 1000 AS batch FROM bemi_steps s
						WHERE s.tbl = %3$s AND s.verdict = 'ok' AND s.kind <> 'DELETE'
							AND s.value_after ? %1$L) s
					GROUP BY s.batch) b
				CROSS JOIN LATERAL _bemi.unfit_values(b.vals, %2$L) u$query$,
		a.attname, format_type(a.atttypid, a.atttypmod), r.number), ' UNION ALL ')
	FROM unnest(relations) WITH ORDINALITY r(relation, number)
		JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_type y ON y.oid = a.atttypid
	WHERE age(a.xmin) <= age(first_transaction::text::xid)
		OR y.typtype = 'd' AND (age(y.xmin) <= age(first_transaction::text::xid)
			OR EXISTS (SELECT FROM pg_constraint c WHERE c.contypid = y.oid
				AND age(c.xmin) <= age(first_transaction::text::xid)))
$$;
COMMENT ON FUNCTION _bemi.revert_unfit(regclass[], bigint)
	IS 'internal: query of steps with values of columns that may have another type now';
REVOKE ALL ON FUNCTION _bemi.revert_unfit(regclass[], bigint) FROM PUBLIC;

-- An UPDATE can set a GENERATED ALWAYS identity column only to a new value. The columns of the key
-- are looked at in tables that are not plain, because in the others the set has not changed them.
CREATE FUNCTION _bemi.revert_identity(number integer, relation regclass, with_key boolean)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps s
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind = 'UPDATE'
				AND s.value_after ? %3$L$query$,
		format('column "%s" is GENERATED ALWAYS AS IDENTITY', a.attname), number, a.attname),
		' UNION ALL ')
	FROM pg_attribute a
	WHERE a.attrelid = relation AND a.attidentity = 'a' AND NOT a.attisdropped
		AND (with_key OR a.attname NOT IN (SELECT k.name FROM _bemi.revert_key(relation) k))
$$;
COMMENT ON FUNCTION _bemi.revert_identity(integer, regclass, boolean)
	IS 'internal: query of steps that would set a GENERATED ALWAYS identity column to a value';
REVOKE ALL ON FUNCTION _bemi.revert_identity(integer, regclass, boolean) FROM PUBLIC;

-- Constraints of the table: CHECK, and NOT NULL. Former values met a constraint on one column that
-- is older than the first change. Those of several columns can be broken by values of different
-- times. BEFORE triggers may change what would violate one, so the server decides.
CREATE FUNCTION _bemi.revert_unmet(relations regclass[], first_transaction bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH constrained AS (
		SELECT r.number, r.relation, c.relname FROM unnest(relations) WITH ORDINALITY
					r(relation, number)
				JOIN pg_class c ON c.oid = r.relation
			WHERE NOT _bemi.revert_mends(r.relation)
	), condition(number, is_violated, reason) AS (
		SELECT r.number, format('s.value_after ?| %L AND (coalesce(s.row_now, ''{}'') '
				'|| s.value_after) ?& %1$L AND EXISTS (SELECT FROM jsonb_to_record('
				'coalesce(s.row_now, ''{}'') || s.value_after) %I(%s) WHERE (%s) IS FALSE)',
				n.names, r.relname, n.definitions, pg_get_expr(c.conbin, c.conrelid)),
			format('row would violate check constraint "%s"', c.conname)
		FROM constrained r JOIN pg_constraint c ON c.conrelid = r.relation AND c.contype = 'c'
			CROSS JOIN LATERAL (
				SELECT array_agg(a.attname::text) AS names,
						string_agg(format('%I %s', a.attname, format_type(a.atttypid, -1)), ', ')
							AS definitions,
						bool_or(a.attgenerated <> '') AS is_generated
					FROM pg_attribute a
					WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) n
		WHERE NOT n.is_generated AND c.conbin !~ ':varattno 0 '
			AND (cardinality(c.conkey) > 1 OR age(c.xmin) <= age(first_transaction::text::xid))
		UNION ALL
		SELECT r.number, format('(s.value_after -> %L = ''null'' '
				'OR %L AND s.kind = ''INSERT'' AND NOT s.value_after ? %1$L)', a.attname,
				NOT a.atthasdef AND a.attidentity = ''),
			format('column "%s" must not be null', a.attname)
		FROM constrained r JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0
			AND NOT a.attisdropped AND a.attnotnull AND a.attgenerated = ''
			AND age(a.xmin) <= age(first_transaction::text::xid)
	)
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps s
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind <> 'DELETE' AND %3$s$query$,
		c.reason, c.number, c.is_violated), ' UNION ALL ')
	FROM condition c
$$;
COMMENT ON FUNCTION _bemi.revert_unmet(regclass[], bigint)
	IS 'internal: query of steps that would violate CHECK or NOT NULL';
REVOKE ALL ON FUNCTION _bemi.revert_unmet(regclass[], bigint) FROM PUBLIC;

-- Rows that no partition takes: theirs was detached or dropped. A partition with a constraint that
-- refers to columns by name has the names of its parent.
CREATE FUNCTION _bemi.revert_no_partition(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				'table has no partition for the row' AS reason
			FROM bemi_steps s
			WHERE s.tbl = %1$s AND s.verdict = 'ok' AND (s.kind = 'INSERT'
					OR s.kind = 'UPDATE' AND s.value_after ?| %2$L)
				AND NOT EXISTS (SELECT FROM jsonb_populate_record(NULL::%3$s,
						coalesce(s.row_now, '{}') || s.value_after) n WHERE %4$s)$query$,
		r.number, ARRAY(SELECT c.name FROM _bemi.revert_columns(r.relation) c),
		r.relation, coalesce(p.takes, 'false')), ' UNION ALL ')
	FROM unnest(relations) WITH ORDINALITY r(relation, number)
		JOIN pg_partitioned_table t ON t.partrelid = r.relation
		CROSS JOIN LATERAL (
			SELECT string_agg(format('(%s)',
					coalesce(pg_get_partition_constraintdef(l.relid), 'true')), ' OR ') AS takes
				FROM pg_partition_tree(r.relation) l WHERE l.isleaf AND l.relid <> r.relation) p
$$;
COMMENT ON FUNCTION _bemi.revert_no_partition(regclass[])
	IS 'internal: query of steps whose row would be in no partition of its table';
REVOKE ALL ON FUNCTION _bemi.revert_no_partition(regclass[]) FROM PUBLIC;

-- Without REPLICA IDENTITY FULL, the row before a DELETE has few columns. The others would be
-- inserted with their defaults. Only columns that were added later may be missing: they come after
-- all that the row has, and their catalog row is not older than the first change.
CREATE FUNCTION _bemi.revert_partial(relations regclass[], first_transaction bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				'value before is not in the history' AS reason
			FROM bemi_steps s
			WHERE s.tbl = %1$s AND s.verdict = 'ok' AND s.kind = 'INSERT' AND (%2$s)$query$,
		m.number, m.is_missing), ' UNION ALL ')
	FROM (SELECT r.number, string_agg(CASE WHEN age(a.xmin) > age(first_transaction::text::xid)
				THEN format('NOT s.value_after ? %L', a.attname)
				ELSE format('NOT s.value_after ? %L AND s.value_after ?| %L', a.attname,
					ARRAY(SELECT b.name FROM _bemi.revert_columns(r.relation) b
						WHERE b.place > a.attnum)) END, ' OR ') AS is_missing
			FROM unnest(relations) WITH ORDINALITY r(relation, number)
				JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0
					AND NOT a.attisdropped AND a.attgenerated = ''
			GROUP BY r.number) m
$$;
COMMENT ON FUNCTION _bemi.revert_partial(regclass[], bigint)
	IS 'internal: query of steps that would insert a row that the history has only in part';
REVOKE ALL ON FUNCTION _bemi.revert_partial(regclass[], bigint) FROM PUBLIC;

-- The steps with the findings in place.
CREATE FUNCTION _bemi.revert_apply(findings text, mode text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT s.tbl, s.slot, coalesce(f.place, s.place), s.part, coalesce(f.depth, s.depth),
			s.kind, s.columns, s.row_now, s.value_now, s.value_after,
			CASE WHEN f.reason IS NULL THEN s.verdict ELSE %2$L END, coalesce(f.reason, s.reason),
			s.changes, s.arrived, s.departed, s.row_ctid, s.row_table
		FROM bemi_steps s LEFT JOIN (
			SELECT DISTINCT ON (u.tbl, u.slot, u.part) u.* FROM (%1$s) u
				ORDER BY u.tbl, u.slot, u.part, u.place, u.depth DESC, u.reason) f
			ON f.tbl = s.tbl AND f.slot = s.slot AND f.part = s.part$query$,
		findings, CASE mode WHEN 'skip' THEN 'skip' ELSE 'conflict' END)
$$;
COMMENT ON FUNCTION _bemi.revert_apply(text, text)
	IS 'internal: query of the steps with findings about them';
REVOKE ALL ON FUNCTION _bemi.revert_apply(text, text) FROM PUBLIC;
