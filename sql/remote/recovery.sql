-- Whether the server is a standby.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row with one column: a boolean.
SELECT pg_is_in_recovery()
