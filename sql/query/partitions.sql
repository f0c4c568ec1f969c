
--
-- Reading: one partition at a time, newest first
--
-- Each query of bemi.changes below has a condition on committed_at that one partition satisfies,
-- and a custom plan, so the planner opens this partition only. A plan for all partitions costs
-- tens of milliseconds if there are hundreds. Readers have no rights on partitions, and row
-- policies of bemi.changes must hold, so no query names a partition.
--

-- A row of the default partition has a time that no other partition covers. to_time is part of
-- the range.
CREATE FUNCTION _bemi.partition_times(OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	LANGUAGE sql STABLE ROWS 100
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH range AS (
		SELECT r.from_time, r.to_time, lead(r.from_time, 1, 'infinity') OVER w AS next_from,
				row_number() OVER w = 1 AS first
			FROM _bemi.partition_ranges() r WINDOW w AS (ORDER BY r.from_time)
	), piece AS (
		SELECT r.from_time, r.to_time FROM range r
		UNION ALL
		SELECT h.from_time, h.to_time
			FROM (SELECT r.to_time, r.next_from FROM range r
				UNION ALL SELECT '-infinity', r.from_time FROM range r WHERE r.first
				UNION ALL SELECT '-infinity', 'infinity' WHERE NOT EXISTS (SELECT FROM range)
			) h(from_time, to_time)
			WHERE h.from_time < h.to_time AND EXISTS (SELECT FROM pg_partitioned_table t
				WHERE t.partrelid = 'bemi.changes'::regclass AND t.partdefid <> 0)
	)
	SELECT p.from_time, p.to_time - interval '1 microsecond' FROM piece p
		ORDER BY p.from_time DESC
$$;
COMMENT ON FUNCTION _bemi.partition_times()
	IS 'internal: ranges of committed_at, newest first; each is in one partition of bemi.changes';
REVOKE ALL ON FUNCTION _bemi.partition_times() FROM PUBLIC;

CREATE FUNCTION _bemi.find_change(change_id uuid)
	RETURNS bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	part record;
	found_change bemi.changes;
BEGIN
	FOR part IN SELECT t.from_time, t.to_time FROM _bemi.partition_times() t LOOP
		SELECT c.* INTO found_change FROM bemi.changes c
			WHERE c.id = change_id AND c.committed_at BETWEEN part.from_time AND part.to_time;
		IF FOUND THEN
			RETURN found_change;
		END IF;
	END LOOP;
	RAISE EXCEPTION 'change "%" does not exist', change_id
		USING ERRCODE = 'no_data_found',
			DETAIL = 'It was never stored, has been deleted, or you may not see it.';
END
$$;
COMMENT ON FUNCTION _bemi.find_change(uuid) IS 'internal: the change with this id, or an error';
REVOKE ALL ON FUNCTION _bemi.find_change(uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.check_page(newest integer)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF newest < 1 THEN
		RAISE EXCEPTION 'newest must be at least 1'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'newest => NULL returns all changes.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_page(integer)
	IS 'internal: error if this is no number of changes to return';
REVOKE ALL ON FUNCTION _bemi.check_page(integer) FROM PUBLIC;

-- With the rights of the owner, because nobody else can read which sources there are. All sources
-- that read this database, or have read it, have the WAL positions of one server, so ids order
-- their changes.
CREATE FUNCTION _bemi.history_of(target regclass,
		OUT sources text[], OUT schema_name text, OUT table_name text, OUT relation regclass,
		OUT known boolean)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_one text := _bemi.this_server();
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'target table must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	-- Changes of a partition are stored under the name of its root, if the root is tracked.
	SELECT c.oid, n.nspname, c.relname INTO relation, schema_name, table_name
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = CASE WHEN _bemi.is_published(_bemi.partition_root(target))
			THEN _bemi.partition_root(target) ELSE target END;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
	END IF;
	-- If this database is read over a connection string, too, that source has the same changes.
	sources := ARRAY(
		SELECT s.name FROM bemi.sources s WHERE s.conninfo IS NULL
		UNION SELECT p.source FROM _bemi.source_progress p
			WHERE format('%s/%s', p.system_identifier, p.database) = this_one
				AND p.source NOT IN (SELECT s.name FROM bemi.sources s));
	IF sources = '{}' THEN
		sources := ARRAY(SELECT DISTINCT t.source FROM _bemi.source_tables t
			WHERE t.server = this_one);
	END IF;
	IF sources = '{}' THEN
		RAISE EXCEPTION 'no source of this database is started'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Changes that are stored are in bemi.changes.',
				HINT = 'CALL bemi.start();';
	END IF;
	known := EXISTS (SELECT FROM _bemi.source_tables t WHERE t.source = ANY (sources)
			AND t.schema = schema_name AND t."table" = table_name)
		OR EXISTS (SELECT FROM bemi.gaps g WHERE g.source = ANY (sources)
			AND g.schema = schema_name AND g."table" = table_name);
END
$$;
COMMENT ON FUNCTION _bemi.history_of(regclass)
	IS 'internal: under which sources and names the history of this table is, and whether any of '
		'them has ever tracked it';
REVOKE ALL ON FUNCTION _bemi.history_of(regclass) FROM PUBLIC;

-- With the rights of the owner, as above.
CREATE FUNCTION _bemi.has_several_sources()
	RETURNS boolean
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT count(*) > 1 FROM (SELECT s.name FROM bemi.sources s
		UNION SELECT p.source FROM _bemi.source_progress p) u
$$;
COMMENT ON FUNCTION _bemi.has_several_sources()
	IS 'internal: whether changes of several sources are in the history, between which ids have '
		'no order';
REVOKE ALL ON FUNCTION _bemi.has_several_sources() FROM PUBLIC;
