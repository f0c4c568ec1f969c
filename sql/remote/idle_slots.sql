-- Slots of bemi in this database that nobody reads. A slot that a standby copies from its primary
-- (17 or newer) is left out: there nobody can read or drop it.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: name of the slot to leave out.
-- Returns a row for each slot, those that keep most come first: name, and the WAL that it keeps, as
-- a text.
SELECT s.slot_name, pg_size_pretty(pg_wal_lsn_diff(l.lsn, s.restart_lsn))
	FROM pg_replication_slots s,
		(SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
			ELSE pg_current_wal_lsn() END AS lsn) l
	WHERE s.database = current_database() AND s.plugin = 'pgoutput'
		AND s.slot_name ~ '^bemi_[0-9]+_' AND s.slot_name <> $1::name
		AND NOT s.active AND s.restart_lsn <= l.lsn
		AND NOT (pg_is_in_recovery() AND coalesce(to_jsonb(s) ->> 'synced', 'false') = 'true')
	ORDER BY s.restart_lsn, s.slot_name
