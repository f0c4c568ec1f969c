-- What a slot costs the server.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: name of the slot.
-- Returns one row, or none if there is no such slot: the end of the WAL, the bytes of WAL that the
-- slot keeps (-1: unknown), its wal_status, and the age of its catalog_xmin (-1: unknown).
SELECT l.lsn, coalesce(pg_wal_lsn_diff(l.lsn, s.restart_lsn), -1),
		coalesce(s.wal_status, ''), coalesce(age(s.catalog_xmin), -1)
	FROM pg_replication_slots s,
		(SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
			ELSE pg_current_wal_lsn() END AS lsn) l
	WHERE s.slot_name = $1::name
