-- The signing key. The result includes the row's identity, because a key that was replaced and put
-- back counts as another one.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row, or none if there is no key: the key, and the row's identity.
SELECT value, concat(tableoid, ' ', xmin) FROM _bemi.signing_key
