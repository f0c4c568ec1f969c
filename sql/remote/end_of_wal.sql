-- The end of the server's WAL.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- Returns one row with one column: an LSN.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
		ELSE pg_current_wal_insert_lsn() END
