
--
-- Taking changes back: later changes of other rows, which mode "cascade" takes back, too
--
-- Later changes of the same row are found by src/revert/walk.c. Those of other rows are found here,
-- from what is in the way of a step: a row that refers to one that would be deleted, a row that a
-- step would refer to and that was deleted, or a row with the same unique value. The last change
-- that made it so is added to the set, the steps are made again, and so on.
--

-- A join with c, the last changes that set columns of a row t.
CREATE FUNCTION _bemi.revert_cause(relation regclass, names name[], history text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format('JOIN %s ON %s AND (c.operation = ''CREATE'' '
			'OR c.operation = ''UPDATE'' AND (%s))',
		history,
		CASE WHEN EXISTS (SELECT FROM _bemi.revert_key(relation))
			THEN format('c.primary_key = _bemi.key_from_image(%L, to_jsonb(t.*))', relation)
			ELSE format('c.after - %L::text[] = to_jsonb(t.*) - %1$L::text[]',
				_bemi.revert_generated(relation)) END,
		(SELECT string_agg(format('c.before -> %L IS DISTINCT FROM c.after -> %1$L', n), ' OR ')
			FROM unnest(names) n))
$$;
COMMENT ON FUNCTION _bemi.revert_cause(regclass, name[], text)
	IS 'internal: join of a row t with the changes c that have set these columns';
REVOKE ALL ON FUNCTION _bemi.revert_cause(regclass, name[], text) FROM PUBLIC;

-- The conditions are those of the findings of the same subject.
CREATE FUNCTION _bemi.revert_in_the_way(relations regclass[], sources text[], running bigint[],
		first_id uuid, first_time timestamptz)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH found(query) AS (
		-- rows that refer to a row that would be deleted
		SELECT format($query$
				SELECT DISTINCT ON (t.tableoid, t.ctid) c.id FROM bemi_steps s
					JOIN %1$s t ON %2$s %3$s
				WHERE s.tbl = %4$s AND s.verdict = 'ok' AND (s.kind = 'DELETE'
						OR %5$L AND s.kind = 'UPDATE' AND s.value_after ?| %6$L)
				ORDER BY t.tableoid, t.ctid, c.id DESC$query$,
			f.child,
			(SELECT string_agg(format('(s.row_now ->> %L)::%s %s t.%I', k.parent, k.type,
					k.operator, k.child), ' AND ')
				FROM unnest(f.parent_names, f.parent_types, f.operators, f.child_names)
					k(parent, type, operator, child)),
			_bemi.revert_cause(f.child, f.child_names, h.history),
			f.parent_number, f.on_update <> 'c', f.parent_names)
		FROM _bemi.revert_foreign_keys(relations) f, LATERAL _bemi.revert_history(f.child, sources,
				running, first_id, first_time) h(history)
		WHERE f.parent_number > 0 AND f.child_readable
		UNION ALL
		-- rows that a step refers to, and that others have removed
		SELECT format($query$
				SELECT DISTINCT ON (s.tbl, s.slot, s.part) c.id FROM bemi_steps s
					JOIN %1$s ON %2$s AND (c.operation = 'DELETE'
						OR c.operation = 'UPDATE' AND (%3$s))
				WHERE s.tbl = %4$s AND s.verdict = 'ok' AND s.kind <> 'DELETE'
					AND s.value_after ?| %5$L AND %8$s
					AND NOT EXISTS (SELECT FROM %6$s t WHERE %7$s)
				ORDER BY s.tbl, s.slot, s.part, c.id DESC$query$,
			h.history,
			(SELECT string_agg(format('c.before -> %L = (%s)', k.parent,
					_bemi.revert_member('s', k.child)), ' AND ')
				FROM unnest(f.parent_names, f.child_names) k(parent, child)),
			(SELECT string_agg(format('c.before -> %L IS DISTINCT FROM c.after -> %1$L', n),
					' OR ')
				FROM unnest(f.parent_names) n),
			f.child_number, f.child_names, f.parent,
			(SELECT string_agg(format('t.%I %s ((%s) #>> %L)::%s', k.parent, k.operator,
					_bemi.revert_member('s', k.child), '{}', k.type), ' AND ')
				FROM unnest(f.parent_names, f.child_names, f.operators, f.child_types)
					k(parent, child, operator, type)),
			(SELECT string_agg(format('(%s) <> %L', _bemi.revert_member('s', k), 'null'), ' AND ')
				FROM unnest(f.child_names) k))
		FROM _bemi.revert_foreign_keys(relations) f, LATERAL _bemi.revert_history(f.parent, sources,
				running, first_id, first_time) h(history)
		WHERE f.child_number > 0 AND f.parent_readable
		UNION ALL
		-- rows that have the unique value of a step
		SELECT format($query$
				SELECT DISTINCT ON (t.tableoid, t.ctid) c.id FROM bemi_steps s
					CROSS JOIN LATERAL %6$s v JOIN %1$s ON %2$s
						AND (t.tableoid, t.ctid) IS DISTINCT FROM (s.row_table, s.row_ctid) %3$s
				WHERE s.tbl = %4$s AND s.verdict = 'ok' AND s.kind <> 'DELETE'
					AND s.value_after ?| %5$L
				ORDER BY t.tableoid, t.ctid, c.id DESC$query$,
			i.rows, i.same, _bemi.revert_cause(i.relation, i.names::name[], h.history), i.number,
			i.names, _bemi.revert_tuple(i.tuple, 's'))
		FROM _bemi.revert_unique(relations) i, LATERAL _bemi.revert_history(i.relation, sources,
				running, first_id, first_time) h(history)
	)
	SELECT string_agg(format('(%s)', f.query), ' UNION ALL ') FROM found f
$$;
COMMENT ON FUNCTION _bemi.revert_in_the_way(regclass[], text[], bigint[], uuid, timestamptz)
	IS 'internal: query of later changes of other rows that are in the way of steps; NULL if none '
		'can be';
REVOKE ALL ON FUNCTION _bemi.revert_in_the_way(regclass[], text[], bigint[], uuid, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION _bemi.revert_added(in_the_way text, added text)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format('SELECT CASE WHEN bool_or(u.id <> ALL (%1$L::uuid[])) '
		'THEN array_agg(DISTINCT u.id)::text END '
		'FROM (SELECT x.id FROM (%2$s) x UNION ALL SELECT unnest(%1$L::uuid[])) u(id)',
		coalesce(added, '{}'), in_the_way)
$$;
COMMENT ON FUNCTION _bemi.revert_added(text, text)
	IS 'internal: query of the ids that are added to the set; NULL if they have all been added';
REVOKE ALL ON FUNCTION _bemi.revert_added(text, text) FROM PUBLIC;
