
--
-- Context: what the application states about its own statements
--

CREATE FUNCTION bemi.set_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_set_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.set_context(jsonb, boolean)
	IS 'sets the context of later statements in this transaction, or in this session if is_local '
		'is false';
GRANT EXECUTE ON FUNCTION bemi.set_context(jsonb, boolean) TO PUBLIC;

CREATE FUNCTION bemi.merge_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_merge_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.merge_context(jsonb, boolean)
	IS 'adds keys to the context, or replaces them, in this transaction, or in this session if '
		'is_local is false';
GRANT EXECUTE ON FUNCTION bemi.merge_context(jsonb, boolean) TO PUBLIC;

CREATE FUNCTION bemi.current_context()
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_current_context'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION bemi.current_context()
	IS 'context that a row written by this statement would get, {} if there is none';
GRANT EXECUTE ON FUNCTION bemi.current_context() TO PUBLIC;

CREATE FUNCTION bemi.emit_context()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'bemi_emit_context'
	LANGUAGE C;
COMMENT ON FUNCTION bemi.emit_context()
	IS 'trigger function for BEFORE ... FOR EACH STATEMENT: writes the context to the WAL before '
		'the rows of the statement';
GRANT EXECUTE ON FUNCTION bemi.emit_context() TO PUBLIC;
