
--
-- Rights that no single object states
--
-- Each file states what PUBLIC may do with an object, right after it. A function that is granted
-- to PUBLIC in schema _bemi has its reason there. Default privileges of the role that creates the
-- extension may have given more, to roles whose names no script can know, and may have taken
-- rights from the owner. Both are undone here. The server records the result as the initial
-- privileges of the extension (pg_init_privs), so a dump has only what an administrator has
-- granted or revoked later.
--

DO $$
DECLARE
	owner regrole := (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'bemi');
	grantee regrole;
BEGIN
	FOR grantee IN
		SELECT DISTINCT a.grantee
			FROM (SELECT n.nspacl FROM pg_namespace n WHERE n.nspname IN ('bemi', '_bemi')
				UNION ALL SELECT p.proacl FROM pg_proc p
					WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
				UNION ALL SELECT c.relacl FROM pg_class c
					WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)) o(acl),
				aclexplode(o.acl) a
			WHERE a.grantee NOT IN (0, owner)
	LOOP
		EXECUTE format('REVOKE ALL ON SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA bemi, _bemi FROM %s CASCADE',
			grantee);
	END LOOP;
	EXECUTE format('GRANT ALL ON SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA bemi, _bemi TO %s', owner);
END
$$;

-- pg_monitor sees the state of sources, but not the history.
SELECT _bemi.set_monitoring('pg_monitor', true);

-- Last: restore session_replication_role, see sql/00_schemas.sql.
SELECT pg_catalog.set_config('session_replication_role',
	pg_catalog.current_setting('bemi_script.session_replication_role'), true);
