-- When the server was started.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row with one column: microseconds since 1970.
SELECT (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint
