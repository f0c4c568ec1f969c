
--
-- Rights
--
-- Every privilege is stated here, and none is inherited. Default privileges of the role that
-- creates the extension have given and taken some already. They are undone first. The server
-- records what these statements leave as the initial privileges of the extension (pg_init_privs),
-- so a dump has only what an administrator has granted or revoked later.
--

DO $$
DECLARE
	owner regrole := (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'bemi');
	grantee text;
BEGIN
	FOR grantee IN
		SELECT 'PUBLIC' UNION SELECT DISTINCT a.grantee::regrole::text
			FROM (SELECT n.nspacl FROM pg_namespace n WHERE n.nspname IN ('bemi', '_bemi')
				UNION ALL SELECT p.proacl FROM pg_proc p WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
				UNION ALL SELECT c.relacl FROM pg_class c WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)) o(acl),
				aclexplode(o.acl) a
			WHERE a.grantee NOT IN (0, owner)
	LOOP
		EXECUTE format('REVOKE ALL ON SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
	END LOOP;
	EXECUTE format('GRANT ALL ON SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA bemi, _bemi TO %s', owner);
END
$$;

-- Setting a context and writing to tracked tables needs no grant.
-- Functions of schema bemi call those of _bemi with the rights of their caller.
GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC;
GRANT EXECUTE ON FUNCTION bemi.set_context(jsonb, boolean), bemi.merge_context(jsonb, boolean), bemi.current_context(),
	bemi.emit_context(), bemi.full_context(bemi.changes) TO PUBLIC;

-- What the worker of another server calls here, as a role with REPLICATION.
GRANT EXECUTE ON FUNCTION _bemi.commit_horizon(integer), _bemi.describe(regclass) TO PUBLIC;

-- What bemi.track() and its like call with the rights of their caller, so that they can do no
-- more than he can.
GRANT EXECUTE ON FUNCTION
	_bemi.check_schema_tracker(regnamespace, boolean),
	_bemi.check_tracker(oid, text),
	_bemi.has_trigger(regclass),
	_bemi.is_tracked_schema(regnamespace),
	_bemi.is_of_extension(regclass),
	_bemi.enter_schema(regnamespace, boolean),
	_bemi.untrackable(regclass)
	TO PUBLIC;

-- Monitoring sees how the sources are, not what they store.
SELECT _bemi.set_monitoring('pg_monitor', true);

-- Last: the role in which CREATE EXTENSION was called, see above.
SELECT pg_catalog.set_config('session_replication_role', pg_catalog.current_setting('bemi_script.session_replication_role'), true);
