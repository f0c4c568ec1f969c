
--
-- Event triggers that follow DDL
--

CREATE FUNCTION _bemi.follow_ddl()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_ddl'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_ddl()
	IS 'event trigger function: tracks new partitions of tracked tables and new tables of '
		'tracked schemas, refuses triggers that cannot work, and sends changed descriptions of '
		'tables to the workers';
REVOKE ALL ON FUNCTION _bemi.follow_ddl() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE FOREIGN TABLE',
		'ALTER TABLE', 'CREATE SCHEMA', 'CREATE TRIGGER', 'ALTER TYPE',
		-- with which tables and their columns can be renamed, too
		'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE',
		'ALTER INDEX', 'ALTER SEQUENCE')
	EXECUTE FUNCTION _bemi.follow_ddl();
COMMENT ON EVENT TRIGGER bemi_follow_ddl
	IS 'tracks new partitions of tracked tables and new tables of tracked schemas';
-- ALWAYS, because an update of a new partition would fail without it, also in sessions that have
-- set session_replication_role.
ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;

CREATE FUNCTION _bemi.refuse_triggers()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_refuse_triggers'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.refuse_triggers()
	IS 'event trigger function: only a role that may track a table can set rules for it, and '
		'only the owner of bemi''s tables can put triggers on them; warns about restored tables '
		'that are not published';
REVOKE ALL ON FUNCTION _bemi.refuse_triggers() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_refuse_triggers ON ddl_command_end
	WHEN TAG IN ('CREATE TRIGGER', 'CREATE SCHEMA')
	EXECUTE FUNCTION _bemi.refuse_triggers();
COMMENT ON EVENT TRIGGER bemi_refuse_triggers
	IS 'refuses triggers that set rules, or that run with the rights of bemi''s owner, if the '
		'role that creates them lacks these rights';
ALTER EVENT TRIGGER bemi_refuse_triggers ENABLE ALWAYS;

CREATE FUNCTION _bemi.refuse_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_refuse_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.refuse_publication()
	IS 'event trigger function: publication "bemi" must belong to a superuser or to a member of '
		'the role that owns the extension';
REVOKE ALL ON FUNCTION _bemi.refuse_publication() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_refuse_publication ON ddl_command_end
	WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
	EXECUTE FUNCTION _bemi.refuse_publication();
COMMENT ON EVENT TRIGGER bemi_refuse_publication
	IS 'refuses a publication "bemi" whose owner could take tables out of the history';
ALTER EVENT TRIGGER bemi_refuse_publication ENABLE ALWAYS;

CREATE FUNCTION _bemi.rename_tracked_schemas()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- A row that came with a dump, and is not enabled, may have the new name.
	DELETE FROM bemi.tracked_schemas s USING pg_namespace n
		WHERE n.nspname = s.schema
			AND (n.oid <> s.schema_oid OR s.enabled_in <> _bemi.this_database());
	UPDATE bemi.tracked_schemas s SET schema = n.nspname FROM pg_namespace n
		WHERE n.oid = s.schema_oid AND n.nspname <> s.schema
			AND s.enabled_in = _bemi.this_database();
END
$$;
COMMENT ON FUNCTION _bemi.rename_tracked_schemas()
	IS 'internal: updates the names of tracked schemas that were renamed';
REVOKE ALL ON FUNCTION _bemi.rename_tracked_schemas() FROM PUBLIC;

CREATE FUNCTION _bemi.follow_renamed_schemas()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_renamed_schemas'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_renamed_schemas()
	IS 'event trigger function: updates the name of a renamed schema in bemi.tracked_schemas; '
		'changes of its tables are then stored under the new name';
REVOKE ALL ON FUNCTION _bemi.follow_renamed_schemas() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_renamed_schemas ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA')
	EXECUTE FUNCTION _bemi.follow_renamed_schemas();
COMMENT ON EVENT TRIGGER bemi_follow_renamed_schemas
	IS 'records the new name of a tracked schema that is renamed';
ALTER EVENT TRIGGER bemi_follow_renamed_schemas ENABLE ALWAYS;

CREATE FUNCTION _bemi.forget_tracked_schema(schema oid)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM bemi.tracked_schemas s
		WHERE s.schema_oid = forget_tracked_schema.schema AND s.enabled_in = _bemi.this_database()
$$;
COMMENT ON FUNCTION _bemi.forget_tracked_schema(oid)
	IS 'internal: removes a dropped schema from bemi.tracked_schemas';
REVOKE ALL ON FUNCTION _bemi.forget_tracked_schema(oid) FROM PUBLIC;

CREATE FUNCTION _bemi.forget_dropped_schemas()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_forget_dropped_schemas'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.forget_dropped_schemas()
	IS 'event trigger function: removes dropped schemas from bemi.tracked_schemas, because a new '
		'schema can get the same OID';
REVOKE ALL ON FUNCTION _bemi.forget_dropped_schemas() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_forget_dropped_schemas ON sql_drop
	WHEN TAG IN ('DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION')
	EXECUTE FUNCTION _bemi.forget_dropped_schemas();
COMMENT ON EVENT TRIGGER bemi_forget_dropped_schemas
	IS 'removes dropped schemas from bemi.tracked_schemas';
ALTER EVENT TRIGGER bemi_forget_dropped_schemas ENABLE ALWAYS;
