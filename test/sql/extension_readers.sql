--
-- bemi.grant_read() grants all rights that reading needs, and no more. bemi.revoke_read() revokes
-- them.
--
-- A view calls its functions with the rights of its reader, so GRANT SELECT is not enough for
-- bemi.status and bemi.tracked. An administrator can also revoke what PUBLIC may execute today.
-- So the reader in this test uses a hardened database. He reads everything that readers can read,
-- including partitions that are created later, and is denied everything else.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SET client_min_messages = warning;
DROP ROLE IF EXISTS "regress_bemi Auditor", regress_bemi_bare;
RESET client_min_messages;
CREATE ROLE "regress_bemi Auditor";
CREATE ROLE regress_bemi_bare;
REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM PUBLIC;
REVOKE ALL ON ALL TABLES IN SCHEMA bemi, _bemi FROM PUBLIC;

-- Something to read: rules, partitions, a problem; and history of two months
CREATE TABLE todo (id int PRIMARY KEY, task text, note text);
CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES FROM (0) TO (10);
SELECT bemi.track('todo', redact => '{note}'), bemi.track('parted');
ALTER TABLE todo DROP COLUMN note;
CREATE FUNCTION make_history(month timestamptz) RETURNS void LANGUAGE sql AS $$
	SELECT _bemi.make_partition(month);
	INSERT INTO bemi.changes SELECT ('00000000-0000-8000-8000-' || to_char(month, 'YYYYMM') || to_char(n, 'FM000000'))::uuid, 'app', 'public', 'todo', n::text,
		'CREATE', '{}', '{}', CASE n WHEN 1 THEN '{"by": "me"}' ELSE jsonb_build_object('_whole', '00000000-0000-8000-8000-' || to_char(month, 'YYYYMM') || '000001') END,
		month, month, month, n, n, 'main' FROM generate_series(1, 2) n
$$;
SELECT make_history('2026-01-15 UTC');
INSERT INTO bemi.gaps (detail, reason, from_time) VALUES ('made by a test', 'retention', '-infinity');
SELECT bemi.hold('2026-01-01 UTC', '2026-02-01 UTC', reason => 'law');

CREATE TABLE before_grant AS SELECT classid, objid, acl::text FROM
	(SELECT 'pg_class'::regclass, oid, relacl FROM pg_class WHERE relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		UNION ALL SELECT 'pg_proc'::regclass, oid, proacl FROM pg_proc WHERE pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		UNION ALL SELECT 'pg_namespace'::regclass, oid, nspacl FROM pg_namespace WHERE nspname IN ('bemi', '_bemi')) o(classid, objid, acl);
SET ROLE "regress_bemi Auditor";
SELECT count(*) FROM bemi.changes;
RESET ROLE;

SELECT bemi.grant_read('"regress_bemi Auditor"');
SELECT bemi.grant_read('"regress_bemi Auditor"');	-- twice is harmless
SELECT make_history('2026-02-15 UTC');	-- a partition that is made later
SET ROLE "regress_bemi Auditor";
SELECT c.committed_at, c.primary_key, bemi.full_context(c) FROM bemi.changes c ORDER BY c.id;
SELECT reason FROM bemi.gaps;
SELECT reason FROM bemi.holds;
SELECT * FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SELECT count(*) FROM bemi.status;
SELECT complete, reason FROM bemi.completeness('todo');
SELECT complete, reason FROM bemi.source_completeness('main', 'public', 'todo');
SELECT bemi.sync('1s');	-- gets as far as to ask for a source
-- all that these views call themselves
SELECT p.oid::regprocedure AS not_granted
	FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_proc'::regclass
		JOIN pg_proc p ON p.oid = d.refobjid JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname IN ('bemi', '_bemi')
	WHERE NOT has_function_privilege(p.oid, 'EXECUTE');
-- not more
SELECT * FROM _bemi.signing_key;
SELECT * FROM bemi.sources;
SELECT * FROM _bemi.source_relations;
SELECT * FROM bemi.tracked_schemas;
DELETE FROM bemi.changes;
INSERT INTO bemi.gaps (detail, reason, from_time) VALUES ('made by a test', 'retention', '-infinity');
SELECT * FROM _bemi.changes_2026_02;
SELECT bemi.track('todo');
SELECT bemi.hold('2026-01-01', '2026-03-01');
CALL bemi.start();
CALL bemi.stop();
SELECT bemi.grant_read('regress_bemi_bare');
RESET ROLE;

-- The right to call it is not enough to give what one has not.
GRANT USAGE ON SCHEMA bemi, _bemi TO regress_bemi_bare;
GRANT EXECUTE ON FUNCTION bemi.grant_read, bemi.revoke_read, _bemi.check_reader TO regress_bemi_bare;
SET ROLE regress_bemi_bare;
SELECT bemi.grant_read('regress_bemi_bare');
SELECT bemi.revoke_read('"regress_bemi Auditor"');
RESET ROLE;
REVOKE ALL ON SCHEMA bemi, _bemi FROM regress_bemi_bare;
REVOKE EXECUTE ON FUNCTION bemi.grant_read, bemi.revoke_read, _bemi.check_reader FROM regress_bemi_bare;
SELECT bemi.grant_read('regress_bemi_nobody');
SELECT bemi.grant_read(NULL);
SELECT bemi.grant_read(0);
SELECT bemi.revoke_read(NULL);

SELECT bemi.revoke_read('"regress_bemi Auditor"');
SELECT bemi.revoke_read('"regress_bemi Auditor"');
-- as it was before
SELECT classid, objid, acl FROM before_grant EXCEPT ALL SELECT classid, objid, acl::text FROM
	(SELECT 'pg_class'::regclass, oid, relacl FROM pg_class WHERE relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		UNION ALL SELECT 'pg_proc'::regclass, oid, proacl FROM pg_proc WHERE pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		UNION ALL SELECT 'pg_namespace'::regclass, oid, nspacl FROM pg_namespace WHERE nspname IN ('bemi', '_bemi')) o(classid, objid, acl);
SET ROLE "regress_bemi Auditor";
SELECT count(*) FROM bemi.changes;
RESET ROLE;
DROP ROLE "regress_bemi Auditor", regress_bemi_bare;	-- nothing is left that would hold them

SET client_min_messages = warning;
DROP TABLE todo, parted, before_grant;
DROP FUNCTION make_history;
DROP EXTENSION bemi CASCADE;
DROP PUBLICATION bemi;
