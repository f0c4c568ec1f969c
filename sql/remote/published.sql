-- What the publication lists.
--
-- Servers: PostgreSQL 14 to 18. Row filters and column lists came with 15.
-- Returns one row, or none if there is no such publication: a JSON array of objects with
--   relation, schema, table
--   complete  whether all changes of the table are published. Not if an operation, rows or columns
--             are left out, if a partition's changes come under its own name, or if a partition
--             has no WAL, because it is a foreign table or unlogged.
SELECT (
	SELECT coalesce(json_agg(json_build_object(
			'relation', c.oid, 'schema', n.nspname, 'table', c.relname,
			'complete', p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate
				AND (p.pubviaroot OR c.relkind <> 'p' AND NOT c.relispartition)
				AND coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NULL
				AND NOT (c.relkind = 'p' AND EXISTS (
					WITH RECURSIVE below(oid) AS (
						SELECT i.inhrelid FROM pg_inherits i
							WHERE i.inhparent = c.oid AND NOT i.inhdetachpending
						UNION ALL SELECT i.inhrelid FROM below b
							JOIN pg_inherits i ON i.inhparent = b.oid AND NOT i.inhdetachpending
					)
					SELECT FROM below b JOIN pg_class l ON l.oid = b.oid
						WHERE l.relkind = 'f' OR l.relkind = 'r' AND l.relpersistence = 'u')))),
		'[]')
	FROM pg_get_publication_tables(p.pubname::text) t
		JOIN pg_class c ON c.oid = t.relid
		JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid)
	FROM pg_publication p WHERE p.pubname = 'bemi'
