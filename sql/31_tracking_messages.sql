
--
-- Tracking messages: which tables are published, what they are like, and which rows DDL changes
--

CREATE FUNCTION _bemi.describe(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_describe_table'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.describe(regclass)
	IS 'internal: description of the table for the worker: primary key, types and rules';
-- The worker of another server calls it, as a role with REPLICATION.
GRANT EXECUTE ON FUNCTION _bemi.describe(regclass) TO PUBLIC;

CREATE FUNCTION _bemi.follow_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_publication()
	IS 'event trigger function: emits tracking messages about the tables that publication "bemi" '
		'lists from now on; refuses whole schemas in it';
REVOKE ALL ON FUNCTION _bemi.follow_publication() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_publication ON ddl_command_end
	WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
	EXECUTE FUNCTION _bemi.follow_publication();
COMMENT ON EVENT TRIGGER bemi_follow_publication
	IS 'emits tracking messages about tables that are tracked from now on';
ALTER EVENT TRIGGER bemi_follow_publication ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_unpublished()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_unpublished'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_unpublished()
	IS 'event trigger function: emits tracking messages about tables that publication "bemi" no '
		'longer lists';
REVOKE ALL ON FUNCTION _bemi.follow_unpublished() FROM PUBLIC;

-- Without a list of commands, because a table can be dropped with anything that it depends on.
CREATE EVENT TRIGGER bemi_follow_unpublished ON sql_drop
	EXECUTE FUNCTION _bemi.follow_unpublished();
COMMENT ON EVENT TRIGGER bemi_follow_unpublished
	IS 'emits tracking messages about tables that are no longer tracked';
ALTER EVENT TRIGGER bemi_follow_unpublished ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_detach()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_detach'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_detach()
	IS 'event trigger function: emits a tracking message when DETACH PARTITION ... CONCURRENTLY '
		'takes rows from a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_detach() FROM PUBLIC;
-- At the start, because the command commits before it ends.
CREATE EVENT TRIGGER bemi_follow_detach ON ddl_command_start
	WHEN TAG IN ('ALTER TABLE')
	EXECUTE FUNCTION _bemi.follow_detach();
COMMENT ON EVENT TRIGGER bemi_follow_detach
	IS 'emits tracking messages about partitions that are detached concurrently';
ALTER EVENT TRIGGER bemi_follow_detach ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_rewrite()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_rewrite'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_rewrite()
	IS 'event trigger function: emits a tracking message when a command computes new values for '
		'all rows of a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_rewrite() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_rewrite ON table_rewrite EXECUTE FUNCTION _bemi.follow_rewrite();
COMMENT ON EVENT TRIGGER bemi_follow_rewrite
	IS 'emits tracking messages about tables whose rows are rewritten';
ALTER EVENT TRIGGER bemi_follow_rewrite ENABLE ALWAYS;
