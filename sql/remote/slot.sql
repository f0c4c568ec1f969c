-- What a slot is like.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: name of the slot.
-- Returns one row, or none if there is no such slot: the confirmed position (NULL while the slot
-- is being made), whether the slot is lost, whether it belongs to this database, and whether
-- anybody reads from it.
SELECT confirmed_flush_lsn, coalesce(wal_status = 'lost', false),
		coalesce(database = current_database(), false), active
	FROM pg_replication_slots
	WHERE slot_name = $1::name
