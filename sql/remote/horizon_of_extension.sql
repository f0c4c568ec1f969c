-- A time and a position: all commits of earlier times are in the WAL before the position.
-- Asked of a source with the extension.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row: microseconds since 1970, and an LSN; NULLs if a commit takes too long.
SELECT (extract(epoch FROM h.until) * 1000000)::bigint, h.lsn FROM _bemi.commit_horizon(100) h
