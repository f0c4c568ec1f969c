-- The time of the server's clock.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row with one column: microseconds since 1970.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
