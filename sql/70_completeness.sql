
--
-- Completeness: what the gaps mean for a table and a time
--

CREATE FUNCTION _bemi.find_gaps(source text, schema text, "table" text,
		from_time timestamptz, to_time timestamptz)
	RETURNS SETOF bemi.gaps
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT g.* FROM bemi.gaps g
		WHERE g.source = $1 AND g.schema = $2 AND g."table" = $3
			AND g.from_time < $5 AND coalesce(g.to_time, 'infinity') > $4
	UNION ALL
	SELECT g.* FROM bemi.gaps g
		WHERE (g.source = $1 OR g.source IS NULL) AND g."table" IS NULL
			AND g.from_time < $5 AND coalesce(g.to_time, 'infinity') > $4
	UNION ALL
	SELECT NULL, $1, $2, $3, 'not_tracked', NULL, NULL, '-infinity', NULL, clock_timestamp(),
			_bemi.default_detail('not_tracked')
		WHERE NOT EXISTS (SELECT FROM _bemi.source_tables t
			WHERE t.source = $1 AND t.schema = $2 AND t."table" = $3)
			AND NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = $1 AND g.schema = $2 AND g."table" = $3)
	UNION ALL
	-- On an idle server, stored_until is behind the clock. Then the end of this server's WAL
	-- shows whether everything is stored.
	SELECT NULL, $1, NULL, NULL, 'not_stored_yet', s.stored_lsn, NULL,
			coalesce(s.stored_until, '-infinity'), NULL, clock_timestamp(),
			concat_ws(' ', _bemi.default_detail('not_stored_yet'),
				'The last error of the worker was: ' || s.last_error)
		FROM bemi.status s
		WHERE s.source = $1 AND coalesce(s.stored_until, '-infinity') < $5
			AND ($5 <= clock_timestamp() AND s.state = 'streaming'
				AND EXISTS (SELECT FROM _bemi.local_slots() l WHERE l.slot_name = s.slot_name)
				AND (SELECT s.stored_lsn >= h.lsn FROM _bemi.commit_horizon(1000) h
					WHERE h.until >= $5)) IS NOT TRUE
			AND NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = $1 AND g."table" IS NULL AND g.to_time IS NULL)
	ORDER BY 8, 5
$$;
COMMENT ON FUNCTION _bemi.find_gaps(text, text, text, timestamptz, timestamptz)
	IS 'internal: gaps of a table in this time range; no row if there is none';
REVOKE ALL ON FUNCTION _bemi.find_gaps(text, text, text, timestamptz, timestamptz) FROM PUBLIC;

-- Under each of its names, the table must be complete for the time in which it had the name. What
-- was before the first name that is known is asked for under that name.
CREATE FUNCTION _bemi.find_gaps_of(source text, relation oid, schema_today text, table_today text,
		from_time timestamptz, to_time timestamptz)
	RETURNS SETOF bemi.gaps
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH named AS (
		SELECT t.*, CASE WHEN lead(t.ordinality) OVER w IS NULL THEN '-infinity'
				ELSE c.committed_at END AS since
			FROM _bemi.table_names(ARRAY[source], relation, schema_today, table_today)
					WITH ORDINALITY t
				LEFT JOIN _bemi.schema_changes c ON c.source = find_gaps_of.source
					AND c.relation = find_gaps_of.relation AND c.id = t.from_id
			WHERE NOT t.predecessor
			WINDOW w AS (ORDER BY t.ordinality)
	)
	SELECT DISTINCT g.*
		FROM (SELECT n.*, lag(n.since) OVER (ORDER BY n.ordinality) AS until FROM named n) n,
			LATERAL _bemi.find_gaps(source, n.schema_name, n.table_name,
				greatest(find_gaps_of.from_time, n.since), least(find_gaps_of.to_time, n.until)) g
		WHERE n.since <= find_gaps_of.to_time
			AND coalesce(n.until >= find_gaps_of.from_time, true)
			AND (g.reason <> 'not_tracked' OR n.until IS NULL)
		ORDER BY g.from_time, g.reason
$$;
COMMENT ON FUNCTION
	_bemi.find_gaps_of(text, oid, text, text, timestamptz, timestamptz)
	IS 'internal: gaps in this time range of a table, also under its former names';
REVOKE ALL ON FUNCTION
	_bemi.find_gaps_of(text, oid, text, text, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.completeness_of(source text, relation oid, schema_name text, table_name text,
		from_time timestamptz, to_time timestamptz)
	RETURNS TABLE (complete boolean, source_name text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF num_nulls(source, schema_name, table_name, from_time, to_time) > 0 THEN
		RAISE EXCEPTION 'source, table and times must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	RETURN QUERY SELECT false, g.source, g.reason, g.from_time, g.to_time, g.detail
		FROM _bemi.find_gaps_of(source, relation, schema_name, table_name,
			completeness_of.from_time, completeness_of.to_time) g;
	IF NOT FOUND THEN
		RETURN QUERY SELECT true, source, NULL::text, NULL::timestamptz, NULL::timestamptz,
			NULL::text;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.completeness_of(text, oid, text, text, timestamptz, timestamptz)
	IS 'internal: bemi.completeness() of this source; without a relation, former names do not '
		'count';
REVOKE ALL ON FUNCTION _bemi.completeness_of(text, oid, text, text, timestamptz, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION bemi.source_completeness(source_name text, schema_name text, table_name text,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS TABLE (complete boolean, source text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT * FROM _bemi.completeness_of(source_name, NULL, schema_name, table_name, from_time,
		to_time)
$$;
COMMENT ON FUNCTION bemi.source_completeness(text, text, text, timestamptz, timestamptz)
	IS 'whether the history of this table of this source is complete in the time range: one row '
		'if it is, otherwise a row for each gap';
REVOKE ALL ON FUNCTION bemi.source_completeness(text, text, text, timestamptz, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION bemi.completeness(target regclass,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS TABLE (complete boolean, source text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE plpgsql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	stored record;
	candidate text;
BEGIN
	SELECT s.* INTO stored FROM _bemi.stored_as(target) s;

	-- Sources that read this database, now or formerly. The current one comes last, and its gaps
	-- are returned if no source is complete.
	FOR candidate IN
		SELECT l.source FROM (
				SELECT s.name, s.desired = 'run' FROM bemi.sources s WHERE s.conninfo IS NULL
				UNION ALL SELECT t.source, false FROM _bemi.source_tables t
					WHERE t.server = _bemi.this_server()
			) l(source, runs) GROUP BY l.source ORDER BY bool_or(l.runs), l.source
	LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM _bemi.find_gaps_of(candidate, stored.relation,
			stored.schema_name, stored.table_name, from_time, to_time));
	END LOOP;
	IF candidate IS NULL THEN
		RETURN QUERY SELECT false, NULL::text, 'no_source',
			'-infinity'::timestamptz, NULL::timestamptz,
			_bemi.default_detail('no_source');
	ELSE
		RETURN QUERY SELECT * FROM _bemi.completeness_of(candidate, stored.relation,
			stored.schema_name, stored.table_name, from_time, to_time);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.completeness(regclass, timestamptz, timestamptz)
	IS 'whether the history of this table is complete in the time range: one row if it is, '
		'otherwise a row for each gap';
REVOKE ALL ON FUNCTION bemi.completeness(regclass, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.source_complete(source_name text, schema_name text, table_name text,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT bool_and(c.complete)
		FROM bemi.source_completeness(source_name, schema_name, table_name, from_time, to_time) c
$$;
COMMENT ON FUNCTION bemi.source_complete(text, text, text, timestamptz, timestamptz)
	IS 'whether the history of this table of this source is complete in the time range; '
		'bemi.source_completeness() returns the gaps';
REVOKE ALL ON FUNCTION bemi.source_complete(text, text, text, timestamptz, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION bemi.complete(target regclass,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT bool_and(c.complete) FROM bemi.completeness(target, from_time, to_time) c
$$;
COMMENT ON FUNCTION bemi.complete(regclass, timestamptz, timestamptz)
	IS 'whether the history of this table is complete in the time range; bemi.completeness() '
		'returns the gaps';
REVOKE ALL ON FUNCTION bemi.complete(regclass, timestamptz, timestamptz) FROM PUBLIC;
