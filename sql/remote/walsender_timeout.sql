-- For how long the walsender waits for an answer. Sent over the replication connection, because
-- another session may have another setting.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row with one column: milliseconds, 0 for ever.
SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'
