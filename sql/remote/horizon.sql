-- A time, and a position that the server has written after it. Asked of a source without the
-- extension: commits of earlier times may come up to a moment after the position. The subquery
-- reads the clock first.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- Returns one row: microseconds since 1970 (NULL: a standby that has replayed no commit), and an
-- LSN.
SELECT (extract(epoch FROM c.now) * 1000000)::bigint,
		CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
			ELSE pg_current_wal_insert_lsn() END
	FROM (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_xact_replay_timestamp()
			ELSE clock_timestamp() END AS now OFFSET 0) c
