
--
-- What the workers are told of tables
--

CREATE FUNCTION _bemi.describe(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_describe_table'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.describe(regclass)
	IS 'internal: primary key, types and rules of the table, for the worker';
-- The worker of another server calls it, as a role with REPLICATION.
GRANT EXECUTE ON FUNCTION _bemi.describe(regclass) TO PUBLIC;

CREATE FUNCTION _bemi.follow_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_publication()
	IS 'event trigger function: has the worker note which tables the publication "bemi" lists from '
		'now on; refuses to have it list whole schemas';
REVOKE ALL ON FUNCTION _bemi.follow_publication() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_publication ON ddl_command_end
	WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
	EXECUTE FUNCTION _bemi.follow_publication();
COMMENT ON EVENT TRIGGER bemi_follow_publication
	IS 'has the worker note which tables are tracked from now on';
ALTER EVENT TRIGGER bemi_follow_publication ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_unpublished()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_unpublished'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_unpublished()
	IS 'event trigger function: has the worker note which tables the publication "bemi" no longer '
		'lists';
REVOKE ALL ON FUNCTION _bemi.follow_unpublished() FROM PUBLIC;

-- Without a list of commands: a table can be dropped with anything that it depends on.
CREATE EVENT TRIGGER bemi_follow_unpublished ON sql_drop
	EXECUTE FUNCTION _bemi.follow_unpublished();
COMMENT ON EVENT TRIGGER bemi_follow_unpublished
	IS 'has the worker note which tables are no longer tracked';
ALTER EVENT TRIGGER bemi_follow_unpublished ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_detach()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_detach'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_detach()
	IS 'event trigger function: has the worker note that DETACH PARTITION ... CONCURRENTLY takes '
		'rows from a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_detach() FROM PUBLIC;
-- At the start, because the command commits before it ends.
CREATE EVENT TRIGGER bemi_follow_detach ON ddl_command_start
	WHEN TAG IN ('ALTER TABLE')
	EXECUTE FUNCTION _bemi.follow_detach();
COMMENT ON EVENT TRIGGER bemi_follow_detach
	IS 'has the worker note which partitions are detached concurrently';
ALTER EVENT TRIGGER bemi_follow_detach ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_rewrite()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_rewrite'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_rewrite()
	IS 'event trigger function: has the worker note when a command computes new values for all '
		'rows of a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_rewrite() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_rewrite ON table_rewrite EXECUTE FUNCTION _bemi.follow_rewrite();
COMMENT ON EVENT TRIGGER bemi_follow_rewrite IS 'has the worker note which rows were rewritten';
ALTER EVENT TRIGGER bemi_follow_rewrite ENABLE ALWAYS;
