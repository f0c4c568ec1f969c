-- Whether the role may read the signing key, and whether the source describes its tables.
--
-- Servers: PostgreSQL 14 to 18.
-- Returns one row, or none if the source has no extension with a signing key: two booleans.
SELECT coalesce(has_table_privilege(c.oid, 'SELECT'), false),
		to_regprocedure('_bemi.describe(regclass)') IS NOT NULL
	FROM pg_extension e
		LEFT JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
			AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
		JOIN pg_class c ON c.oid = d.objid AND c.relname = 'signing_key' AND c.relkind = 'r'
	WHERE e.extname = 'bemi'
