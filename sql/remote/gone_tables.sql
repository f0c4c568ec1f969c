-- Which of these tables are gone.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: OIDs of tables, an array.
-- Returns a row for each table that is gone: the end of the server's WAL, and its OID.
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
		ELSE pg_current_wal_insert_lsn() END, t.oid
	FROM unnest($1::oid[]) t(oid)
	WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.oid)
