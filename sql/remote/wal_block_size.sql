-- The size of a WAL page, which is chosen when the server is compiled.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row with one column: bytes.
SELECT current_setting('wal_block_size')
