-- Whether the files of a table, and its partitions, are those that the snapshot sees, and whether
-- its name still leads to it. TRUNCATE, rewrites of the table, ATTACH and DETACH PARTITION, and
-- RENAME take effect at once, whatever a snapshot sees. The caller has locked the table and its
-- partitions, so the functions lock nothing else.
--
-- Servers: PostgreSQL 14 to 18, also standbys.
-- $1: OID of the table.
-- Returns one row: whether they are.
WITH RECURSIVE seen(oid) AS (
	SELECT c.oid FROM pg_class c WHERE c.oid = $1::oid
	UNION ALL SELECT i.inhrelid FROM seen s JOIN pg_class p ON p.oid = s.oid AND p.relkind = 'p'
		JOIN pg_inherits i ON i.inhparent = s.oid AND NOT i.inhdetachpending
)
SELECT coalesce(bool_and(c.relfilenode = coalesce(pg_relation_filenode(c.oid), 0))
			AND count(*) = (SELECT CASE r.relkind WHEN 'p'
				THEN (SELECT count(*) FROM pg_partition_tree(r.oid)) ELSE 1 END
				FROM pg_class r WHERE r.oid = $1::oid)
			AND (SELECT to_regclass(format('%I.%I', n.nspname, r.relname)) = r.oid
				FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
				WHERE r.oid = $1::oid), false)
	FROM seen s JOIN pg_class c ON c.oid = s.oid
