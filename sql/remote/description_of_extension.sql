-- What a table is like, with the rules for its columns. Asked of a source with the extension.
--
-- Servers: PostgreSQL 14 to 18.
-- $1: OID of the table.
-- Returns one row with one column: a JSON object, or NULL if there is no such table.
SELECT _bemi.describe($1::oid)
