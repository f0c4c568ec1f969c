
--
-- Retention: how old partitions are dropped, and held
--
-- The worker drops partitions that are older than bemi.retention, unless a hold
-- overlaps them. Both sides lock bemi.holds, and the worker locks bemi.changes
-- first. So a hold either comes before the drop, or no longer finds the partition.
--

-- For hold_partition() and release_partition(). A partition of a partition is dropped with it,
-- and cannot be held alone.
CREATE FUNCTION _bemi.partition_range(target regclass,
		OUT from_time timestamptz, OUT to_time timestamptz)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'partition must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	SELECT r.from_time, r.to_time INTO from_time, to_time
		FROM _bemi.partition_ranges() r WHERE r.partition = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION
			'"%" is not a partition of bemi.changes that bemi.retention can drop', target
			USING ERRCODE = 'wrong_object_type',
				HINT = 'SELECT * FROM pg_partition_tree(''bemi.changes''); shows the partitions. '
					'The default partition is never dropped.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.partition_range(regclass)
	IS 'internal: bounds of a partition of bemi.changes, error if it has none';
REVOKE ALL ON FUNCTION _bemi.partition_range(regclass) FROM PUBLIC;

-- SECURITY DEFINER, because EXECUTE on this function gives the right to hold, but not to remove
-- the holds of others. The worker drops no partition while this lock is held.
CREATE FUNCTION bemi.hold(from_time timestamptz, to_time timestamptz, reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	other record;
BEGIN
	IF from_time IS NULL OR to_time IS NULL THEN
		RAISE EXCEPTION 'times to hold must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Times without end are ''-infinity'' and ''infinity''.';
	ELSIF from_time >= to_time THEN
		RAISE EXCEPTION 'times to hold must not be empty'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'The first time must be before the second one.';
	END IF;
	LOCK TABLE bemi.holds IN ROW EXCLUSIVE MODE;
	INSERT INTO bemi.holds (from_time, to_time, reason)
		VALUES (hold.from_time, hold.to_time, hold.reason)
		ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		SELECT h.held_by, h.held_at, h.reason INTO other FROM bemi.holds h
			WHERE h.from_time = hold.from_time AND h.to_time = hold.to_time;
		RAISE EXCEPTION 'these times are already held'
			USING ERRCODE = 'duplicate_object',
				DETAIL = format('Held by "%s" since %s, reason: %s.', other.held_by,
					other.held_at, coalesce(other.reason, 'none given')),
				HINT = 'Hold slightly wider times. '
					'That hold stays when the other one is released.';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.hold(timestamptz, timestamptz, text)
	IS 'keeps bemi.retention from dropping any partition that overlaps these times, until '
		'bemi.release()';
REVOKE ALL ON FUNCTION bemi.hold(timestamptz, timestamptz, text) FROM PUBLIC;

CREATE FUNCTION bemi.hold_partition(partition regclass, reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	range record;
BEGIN
	-- This comes before the query, because the worker drops no partition after it.
	LOCK TABLE bemi.holds IN ROW EXCLUSIVE MODE;
	SELECT * INTO range FROM _bemi.partition_range(hold_partition.partition);
	PERFORM bemi.hold(range.from_time, range.to_time, hold_partition.reason);
END
$$;
COMMENT ON FUNCTION bemi.hold_partition(regclass, text)
	IS 'keeps bemi.retention from dropping this partition of bemi.changes, until '
		'bemi.release_partition()';
REVOKE ALL ON FUNCTION bemi.hold_partition(regclass, text) FROM PUBLIC;

CREATE FUNCTION bemi.release(from_time timestamptz, to_time timestamptz)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF from_time IS NULL OR to_time IS NULL THEN
		RAISE EXCEPTION 'times to release must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	END IF;
	DELETE FROM bemi.holds h WHERE h.from_time = release.from_time AND h.to_time = release.to_time;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such hold'
			USING ERRCODE = 'undefined_object',
				DETAIL = 'The times must be exactly those of the hold.',
				HINT = 'SELECT * FROM bemi.holds;';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.release(timestamptz, timestamptz)
	IS 'ends the hold that bemi.hold() created with the same times';
REVOKE ALL ON FUNCTION bemi.release(timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.release_partition(partition regclass)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	range record;
BEGIN
	SELECT * INTO range FROM _bemi.partition_range(release_partition.partition);
	PERFORM bemi.release(range.from_time, range.to_time);
END
$$;
COMMENT ON FUNCTION bemi.release_partition(regclass)
	IS 'ends the hold that bemi.hold_partition() created';
REVOKE ALL ON FUNCTION bemi.release_partition(regclass) FROM PUBLIC;

-- Partitions that end before the oldest time to keep. The worker does not drop foreign tables,
-- and the default partition has no bounds. An interval with mixed signs can lead into the future
-- ("1 month -29 days", in February), and a long one out of the range of times.
CREATE FUNCTION _bemi.expired_partitions(retention interval,
		OUT partition regclass, OUT to_time timestamptz)
	RETURNS SETOF record
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	oldest timestamptz;
BEGIN
	BEGIN
		oldest := least(now() - retention, now());
	EXCEPTION WHEN datetime_field_overflow THEN
		RETURN;
	END;
	RETURN QUERY SELECT r.partition, r.to_time
		FROM _bemi.partition_ranges() r JOIN pg_class c ON c.oid = r.partition
		WHERE r.to_time <= oldest AND c.relkind IN ('r', 'p')
			AND NOT EXISTS (SELECT FROM bemi.holds h
				WHERE r.from_time < h.to_time AND h.from_time < r.to_time)
		ORDER BY r.to_time;
END
$$;
COMMENT ON FUNCTION _bemi.expired_partitions(interval)
	IS 'internal: partitions of bemi.changes that are older than the interval and not held, '
		'oldest first';
REVOKE ALL ON FUNCTION _bemi.expired_partitions(interval) FROM PUBLIC;

-- Only the first lock waits, see src/store/maintenance.c. The partition is checked after that,
-- because others may have held or dropped it meanwhile.
CREATE FUNCTION _bemi.drop_expired_partition(target regclass, retention interval)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	upper_bound timestamptz;
	name text;
BEGIN
	LOCK TABLE ONLY bemi.changes IN ACCESS EXCLUSIVE MODE;
	LOCK TABLE bemi.holds IN SHARE MODE NOWAIT;
	SELECT e.to_time, format('%I.%I', n.nspname, c.relname) INTO upper_bound, name
		FROM _bemi.expired_partitions(retention) e
			JOIN pg_class c ON c.oid = e.partition JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE e.partition = target;
	IF NOT FOUND THEN
		RETURN false;
	END IF;

	EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', name);
	EXECUTE format('ALTER TABLE bemi.changes DETACH PARTITION %s', name);
	EXECUTE format('DROP TABLE %s', name);
	PERFORM _bemi.forget_schema_changes(retention);
	UPDATE bemi.gaps g
		SET to_time = greatest(g.to_time, upper_bound), noticed_at = clock_timestamp()
		WHERE g.reason = 'retention' AND g.source IS NULL AND g."table" IS NULL;
	IF NOT FOUND THEN
		INSERT INTO bemi.gaps (reason, from_time, to_time, detail)
			VALUES ('retention', '-infinity', upper_bound, _bemi.default_detail('retention'));
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION _bemi.drop_expired_partition(regclass, interval)
	IS 'internal: drops a partition of bemi.changes that is older than the interval and not '
		'held, and records that in bemi.gaps; false if it is held, gone or not old enough';
REVOKE ALL ON FUNCTION _bemi.drop_expired_partition(regclass, interval) FROM PUBLIC;

-- Autovacuum analyzes partitions, but never their root. A partition that was analyzed after the
-- root counts as changed. pg_partition_tree() would lock all partitions.
CREATE FUNCTION _bemi.needs_analyze()
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE tree(relid) AS (
		SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'bemi.changes'::regclass
		UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid
	)
	SELECT coalesce(root.analyzed_at < clock_timestamp() - interval '1 day', true)
		AND sum(CASE WHEN root.analyzed_at IS NULL OR part.analyzed_at > root.analyzed_at
			THEN greatest(part.rows, part.changed) ELSE part.changed END)
				> 1000 + 0.1 * sum(part.rows)
	FROM greatest(pg_stat_get_last_analyze_time('bemi.changes'::regclass),
			pg_stat_get_last_autoanalyze_time('bemi.changes'::regclass)) AS root(analyzed_at),
		(SELECT greatest(pg_stat_get_last_analyze_time(t.relid),
					pg_stat_get_last_autoanalyze_time(t.relid)),
				pg_stat_get_live_tuples(t.relid), pg_stat_get_mod_since_analyze(t.relid)
			FROM tree t JOIN pg_class c ON c.oid = t.relid
			WHERE c.relkind = 'r') AS part(analyzed_at, rows, changed)
	GROUP BY root.analyzed_at
$$;
COMMENT ON FUNCTION _bemi.needs_analyze()
	IS 'internal: whether bemi.changes was not analyzed for a day, and enough of it has changed '
		'since';
REVOKE ALL ON FUNCTION _bemi.needs_analyze() FROM PUBLIC;
