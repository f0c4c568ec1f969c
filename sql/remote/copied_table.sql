-- A table that is about to be copied, and its columns that the stream has.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: OID of the table.
-- Returns a row for each column, in their order, one with NULLs if there is none, and no row if the
-- snapshot does not see the table: schema, table, whether it is partitioned, number, name and type
-- of the column.
SELECT n.nspname, c.relname, c.relkind = 'p', a.attnum, a.attname, a.atttypid::bigint
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
			AND (a.attgenerated = '' OR a.attgenerated = 's' AND EXISTS (
				SELECT FROM pg_publication p WHERE p.pubname = 'bemi'
					AND to_jsonb(p) ->> 'pubgencols' IN ('s', 'true')))
	WHERE c.oid = $1::oid
	ORDER BY a.attnum
