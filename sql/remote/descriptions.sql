-- What all tables of the publication are like. Asked of a source with the extension, in the
-- snapshot of a new slot. pg_get_publication_tables() lists partitions and the tables of FOR ALL
-- TABLES, but it does not see the snapshot: it lists the tables of today.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row with one column: a JSON array of objects with "relation" (OID) and
-- "description".
SELECT coalesce(json_agg(json_build_object(
		'relation', c.oid, 'description', _bemi.describe(c.oid))), '[]')
	FROM (
		SELECT relid FROM pg_get_publication_tables('bemi')
		UNION SELECT r.prrelid FROM pg_publication p
			JOIN pg_publication_rel r ON r.prpubid = p.oid
			WHERE p.pubname = 'bemi'
	) t(oid) JOIN pg_class c USING (oid)
