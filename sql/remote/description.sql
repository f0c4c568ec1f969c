-- What a table is like. Asked of a source without the extension; _bemi.describe() returns the
-- same, see src/track/describe.c.
--
-- Servers: PostgreSQL 14 to 18.
-- $1: OID of the table.
-- Returns one row with one column, a JSON object:
--   key      names of the primary key's columns, in key order
--   columns  names of all columns
--   attributes  number, name and type of each column
--   partly   whether it is a partitioned table, and a partition has another replica identity
--            than FULL
--   types    parts of all types in its columns that are not the server's own: OID of the type,
--            kind, OID of the other type or function, name of the attribute or delimiter
--
-- Kinds: b the type itself, d domain over, a array of, c composite, f field of a composite, j
-- cast to json. A cast is listed if a function in C does it, which only a superuser can make.
WITH RECURSIVE t(oid) AS (
	SELECT a.atttypid FROM pg_attribute a
		WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
	UNION
	SELECT x.oid FROM t JOIN pg_type p ON p.oid = t.oid, LATERAL (
		SELECT p.typbasetype
		UNION ALL SELECT p.typelem
		UNION ALL SELECT a.atttypid FROM pg_attribute a
			WHERE a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped) x(oid)
), part AS (
	SELECT t.oid, part.* FROM t JOIN pg_type p ON p.oid = t.oid, LATERAL (
		SELECT 'b'::text, 0::oid, NULL::text, 0::int
		UNION ALL SELECT 'd', p.typbasetype, NULL, 1 WHERE p.typtype = 'd'
		UNION ALL SELECT 'a', e.oid, e.typdelim::text, 1 FROM pg_type e
			WHERE e.oid = p.typelem AND e.typarray = p.oid
		UNION ALL SELECT 'c', 0, NULL, 0 WHERE p.typtype = 'c'
		UNION ALL SELECT 'f', a.atttypid, a.attname::text, a.attnum::int FROM pg_attribute a
			WHERE p.typtype = 'c' AND a.attrelid = p.typrelid AND a.attnum > 0
				AND NOT a.attisdropped
		UNION ALL SELECT 'j', c.castfunc, NULL, 1 FROM pg_cast c
				JOIN pg_proc f ON f.oid = c.castfunc JOIN pg_language l ON l.oid = f.prolang
			WHERE c.castsource = p.oid AND c.casttarget = 'json'::regtype AND p.typtype = 'b'
				AND l.lanname = 'c'
	) part(kind, other, name, place)
	-- The server's own types have lower OIDs (FirstGenbkiObjectId).
	WHERE t.oid >= 10000 OR p.typtype = 'c'
		OR (SELECT e.typtype = 'c' FROM pg_type e WHERE e.oid = p.typelem)
)
SELECT json_build_object(
	'key', (SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]')
		FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a
		WHERE i.indrelid = $1::oid AND i.indisprimary AND k.place <= i.indnkeyatts
			AND a.attrelid = i.indrelid AND a.attnum = k.attnum),
	'columns', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]')
		FROM pg_attribute a
		WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped),
	'attributes', (SELECT coalesce(json_agg(json_build_array(a.attnum, a.attname,
			format_type(a.atttypid, a.atttypmod)) ORDER BY a.attnum), '[]')
		FROM pg_attribute a
		WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped),
	'partly', (SELECT CASE c.relkind WHEN 'p' THEN EXISTS (
				WITH RECURSIVE below(oid) AS (
					SELECT i.inhrelid FROM pg_inherits i
						WHERE i.inhparent = c.oid AND NOT i.inhdetachpending
					UNION ALL SELECT i.inhrelid FROM below b
						JOIN pg_inherits i ON i.inhparent = b.oid AND NOT i.inhdetachpending
				)
				SELECT FROM below b JOIN pg_class l ON l.oid = b.oid
					WHERE l.relkind <> 'p' AND l.relreplident <> 'f')
			ELSE false END
		FROM pg_class c WHERE c.oid = $1::oid),
	'types', (SELECT coalesce(json_agg(
			json_build_array(part.oid::text, part.kind, part.other::text, part.name)
			ORDER BY part.oid, part.place, part.kind), '[]') FROM part))
