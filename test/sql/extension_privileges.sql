--
-- The script states every privilege on an object of bemi. None depends on default privileges.
--
-- Default privileges of the role that runs CREATE EXTENSION apply to its objects. Hardened
-- databases revoke EXECUTE from PUBLIC there, and careless ones grant SELECT on all tables to a
-- reading role. Neither may change who can read the history. So the test reads the privileges of
-- every member from the catalogs, compares them with the intended list, and repeats this under
-- hostile default privileges.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_readonly;
RESET client_min_messages;
CREATE ROLE regress_bemi_readonly;

-- All privileges on the extension's schema, functions, tables, views and sequences, and on their columns
-- and types. Those that an owner has on his own are left out, unless some are missing.
CREATE FUNCTION privileges() RETURNS TABLE (object text, grantee text, privileges text) LANGUAGE sql AS $$
	WITH member(classid, oid, kind, owner, acl) AS (
		SELECT d.classid, d.objid, CASE WHEN p.oid IS NOT NULL THEN 'f' WHEN n.oid IS NOT NULL THEN 'n'
				WHEN c.relkind = 'S' THEN 's' WHEN c.oid IS NOT NULL THEN 'r' ELSE 'T' END::"char",
			coalesce(p.proowner, n.nspowner, c.relowner, t.typowner), coalesce(p.proacl, n.nspacl, c.relacl, t.typacl)
		FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
			LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
			LEFT JOIN pg_namespace n ON d.classid = 'pg_namespace'::regclass AND n.oid = d.objid
			LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
			LEFT JOIN pg_type t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
				AND t.typrelid = 0 AND t.typelem = 0	-- not the row types and arrays of tables
		WHERE e.extname = 'bemi' AND coalesce(p.oid, n.oid, c.oid, t.oid) IS NOT NULL
	), granted(object, owner, acl, grantee, privilege, is_grantable) AS (
		SELECT pg_describe_object(m.classid, m.oid, 0), m.owner, m.acl, a.grantee, a.privilege_type, a.is_grantable
		FROM member m, aclexplode(coalesce(m.acl, acldefault(m.kind, m.owner))) a
		UNION ALL
		SELECT pg_describe_object(m.classid, m.oid, t.attnum), m.owner, t.attacl, a.grantee, a.privilege_type, a.is_grantable
		FROM member m JOIN pg_attribute t ON m.classid = 'pg_class'::regclass AND t.attrelid = m.oid, aclexplode(t.attacl) a
	), own(object, privileges) AS (
		SELECT pg_describe_object(m.classid, m.oid, 0), count(*) FROM member m, aclexplode(acldefault(m.kind, m.owner)) a
			WHERE a.grantee = m.owner GROUP BY 1
	)
	SELECT g.object, CASE WHEN g.grantee = 0 THEN 'PUBLIC' WHEN g.grantee = g.owner THEN 'the owner' ELSE g.grantee::regrole::text END,
		string_agg(g.privilege || CASE WHEN g.is_grantable THEN '*' ELSE '' END, ', ' ORDER BY g.privilege)
	FROM granted g GROUP BY g.object, g.owner, g.grantee
	HAVING g.grantee <> g.owner OR count(*) <> (SELECT o.privileges FROM own o WHERE o.object = g.object)
	UNION ALL
	SELECT pg_describe_object(m.classid, m.oid, 0), 'everybody', 'as the server has them by default' FROM member m WHERE m.acl IS NULL
$$;

CREATE VIEW partition_of_history AS
	SELECT c.relname, c.relowner = x.relowner AS belongs_to_owner,
		ARRAY(SELECT a::text FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a ORDER BY 1)
			= ARRAY(SELECT a::text FROM aclexplode(acldefault('r', c.relowner)) a ORDER BY 1) AS owner_only
	FROM pg_class c, pg_class x WHERE c.relname = 'changes_2026_01' AND x.oid = to_regclass('bemi.changes');

CREATE EXTENSION bemi;
CREATE TABLE stated AS SELECT * FROM privileges();
SELECT * FROM stated ORDER BY grantee COLLATE "C", object COLLATE "C";
-- the same are the initial privileges, from which a dump starts
SELECT pg_describe_object(d.classid, d.objid, 0) AS not_initial
	FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'bemi'
		LEFT JOIN pg_init_privs i ON i.classoid = d.classid AND i.objoid = d.objid AND i.objsubid = 0
		LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
		LEFT JOIN pg_namespace n ON d.classid = 'pg_namespace'::regclass AND n.oid = d.objid
		LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
	WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND coalesce(p.oid, n.oid, c.oid) IS NOT NULL
		AND i.initprivs IS DISTINCT FROM coalesce(p.proacl, n.nspacl, c.relacl);
DROP EXTENSION bemi;

-- Defaults that give too much
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO regress_bemi_readonly WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO regress_bemi_readonly, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO regress_bemi_readonly WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO regress_bemi_readonly, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO regress_bemi_readonly;
CREATE EXTENSION bemi;
(SELECT 'given by defaults' AS problem, * FROM privileges() EXCEPT ALL SELECT 'given by defaults', * FROM stated)
	UNION ALL (SELECT 'taken by defaults', * FROM stated EXCEPT ALL SELECT 'taken by defaults', * FROM privileges());
-- nor do the partitions of the history, which are made later
SELECT _bemi.make_partition('2026-01-15');
SELECT * FROM partition_of_history;
-- nor those that a dump brings back
CREATE TABLE _bemi.changes_2026_02 (LIKE bemi.changes INCLUDING ALL);
ALTER TABLE ONLY bemi.changes ATTACH PARTITION _bemi.changes_2026_02 FOR VALUES FROM ('2026-02-01 UTC') TO ('2026-03-01 UTC');
SELECT relname, relacl = (SELECT relacl FROM pg_class WHERE oid = '_bemi.changes_2026_01'::regclass) AS the_same FROM pg_class WHERE oid = '_bemi.changes_2026_02'::regclass;
SET ROLE regress_bemi_readonly;
SELECT * FROM _bemi.signing_key;
SELECT * FROM bemi.changes;
SELECT * FROM _bemi.changes_2026_01;
SELECT nextval('bemi.gaps_id_seq');
CREATE TABLE bemi.mine ();
RESET ROLE;
DROP EXTENSION bemi;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM regress_bemi_readonly, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SEQUENCES FROM regress_bemi_readonly, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM regress_bemi_readonly;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON SCHEMAS FROM regress_bemi_readonly, PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON TYPES FROM regress_bemi_readonly;

-- Defaults that take too much, from the owner, too
ALTER DEFAULT PRIVILEGES REVOKE SELECT, INSERT, DELETE ON TABLES FROM CURRENT_USER;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON SEQUENCES FROM CURRENT_USER;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON SCHEMAS FROM CURRENT_USER;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
CREATE EXTENSION bemi;
(SELECT 'given by defaults' AS problem, * FROM privileges() EXCEPT ALL SELECT 'given by defaults', * FROM stated)
	UNION ALL (SELECT 'taken by defaults', * FROM stated EXCEPT ALL SELECT 'taken by defaults', * FROM privileges());
-- a partition belongs to the owner of the history, who need not be the one whose defaults those are
ALTER TABLE bemi.changes OWNER TO regress_bemi_readonly;
SELECT _bemi.make_partition('2026-01-15');
SELECT * FROM partition_of_history;
DROP EXTENSION bemi;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO CURRENT_USER;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO CURRENT_USER;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO CURRENT_USER, PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO CURRENT_USER;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TYPES TO CURRENT_USER, PUBLIC;
SELECT count(*) FROM pg_default_acl;

DROP TABLE stated;
DROP VIEW partition_of_history;
DROP FUNCTION privileges;
DROP ROLE regress_bemi_readonly;
