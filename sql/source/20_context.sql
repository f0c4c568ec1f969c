
--
-- Context: what the application states about its own statements
--

CREATE OR REPLACE FUNCTION bemi.set_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	comment text := coalesce(context::text, '');
	object jsonb;
	reason text;
	remedy text;
	word text;
BEGIN
	IF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = E'Write an object, such as SELECT bemi.set_context(''{"userId": 1}'');';
	END IF;
	IF length(comment) > 2000 THEN
		-- include check_context.plpgsql
	END IF;
	IF reason IS NOT NULL THEN
		RAISE EXCEPTION 'invalid value for parameter "%"', 'bemi.context'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = reason, HINT = remedy;
	END IF;
	PERFORM set_config('bemi.context', comment, is_local IS NOT FALSE);
	-- A statement by itself begins its transaction.
	IF is_local IS NOT FALSE AND transaction_timestamp() = statement_timestamp()
		AND current_query() ~* (E'^[ \\t\\n\\r]*select\\s+(?:\\*\\s+from\\s+)?'
			'bemi\\.set_context\\s*'
			'\\((?:''(?:[^'']|'''')*''|[^''();])*\\)[ \\t\\n\\r;]*$')
	THEN
		RAISE WARNING 'bemi.set_context() has no effect outside of a transaction block'
			USING ERRCODE = 'no_active_sql_transaction',
				HINT = 'Call it after BEGIN, or set the context of the session: '
					'SELECT bemi.set_context(..., is_local => false);';
	END IF;
END
$bemi$;
COMMENT ON FUNCTION bemi.set_context(jsonb, boolean)
	IS 'sets the context of later statements in this transaction, or in this session if is_local '
		'is false';
GRANT EXECUTE ON FUNCTION bemi.set_context(jsonb, boolean) TO PUBLIC;

CREATE OR REPLACE FUNCTION bemi.merge_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	comment text;
	object jsonb;
	reason text;
	remedy text;
	word text;
BEGIN
	IF context IS NULL THEN
		RETURN;
	END IF;
	IF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = E'Write an object, such as SELECT bemi.merge_context(''{"userId": 1}'');';
	END IF;
	comment := coalesce(nullif(current_setting('bemi.context', true), ''), '{}')::jsonb || context;
	IF length(comment) > 2000 THEN
		-- include check_context.plpgsql
	END IF;
	IF reason IS NOT NULL THEN
		RAISE EXCEPTION 'invalid value for parameter "%"', 'bemi.context'
			USING ERRCODE = 'invalid_parameter_value', DETAIL = reason, HINT = remedy;
	END IF;
	PERFORM set_config('bemi.context', comment, is_local IS NOT FALSE);
	IF is_local IS NOT FALSE AND transaction_timestamp() = statement_timestamp()
		AND current_query() ~* (E'^[ \\t\\n\\r]*select\\s+(?:\\*\\s+from\\s+)?'
			'bemi\\.merge_context\\s*'
			'\\((?:''(?:[^'']|'''')*''|[^''();])*\\)[ \\t\\n\\r;]*$')
	THEN
		RAISE WARNING 'bemi.merge_context() has no effect outside of a transaction block'
			USING ERRCODE = 'no_active_sql_transaction',
				HINT = 'Call it after BEGIN, or set the context of the session: '
					'SELECT bemi.merge_context(..., is_local => false);';
	END IF;
END
$bemi$;
COMMENT ON FUNCTION bemi.merge_context(jsonb, boolean)
	IS 'adds keys to the context, or replaces them, in this transaction, or in this session if '
		'is_local is false';
GRANT EXECUTE ON FUNCTION bemi.merge_context(jsonb, boolean) TO PUBLIC;

CREATE OR REPLACE FUNCTION bemi.current_context()
	RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	-- include context_variables.plpgsql
BEGIN
	path := '';
	-- include find_context.plpgsql
	comment := coalesce(nullif(context, ''), '{}');
	-- include check_context.plpgsql
	RETURN CASE WHEN reason IS NULL THEN object ELSE '{}' END;
END
$bemi$;
COMMENT ON FUNCTION bemi.current_context()
	IS 'context that a row written by this statement would get, {} if there is none';
GRANT EXECUTE ON FUNCTION bemi.current_context() TO PUBLIC;

-- With the extension, a superuser sets these. Here they are literals in the functions, because a
-- role that writes rows needs no right on a table of settings. The session's own setting counts
-- only if there is no default.
CREATE OR REPLACE FUNCTION bemi.set_default(setting text, value text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	definition text;
BEGIN
	IF setting IS NULL OR setting NOT IN ('bemi.include', 'bemi.tags', 'bemi.tags_format') THEN
		RAISE EXCEPTION 'setting "%" has no default here', setting
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'The settings are bemi.include, bemi.tags and bemi.tags_format.';
	END IF;
	IF coalesce(value, '') !~ '^[A-Za-z0-9_.:@*, "-]*$' THEN
		RAISE EXCEPTION 'invalid value for parameter "%"', setting
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Names have letters, digits, and the characters . : @ _ -';
	END IF;
	FOR definition IN SELECT pg_get_functiondef(p.oid)
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'bemi' AND p.proname IN ('emit_context', 'current_context')
			AND p.pronargs = 0
	LOOP
		EXECUTE regexp_replace(definition,
			format(E'''[^'']*'' /\\* %s \\*/', replace(setting, '.', E'\\.')),
			format('%L /* %s */', coalesce(value, ''), setting), 'g');
	END LOOP;
END
$bemi$;
COMMENT ON FUNCTION bemi.set_default(text, text)
	IS 'sets bemi.include, bemi.tags or bemi.tags_format for all sessions, as a superuser does '
		'with the extension';
REVOKE ALL ON FUNCTION bemi.set_default(text, text) FROM PUBLIC;
