/* bemi-source.sql: make puts it together from the files in sql/source/, so change those */

-- Tracks tables and writes the context of each change into the write-ahead log, on a server where
-- extension bemi cannot be installed. A server with the extension reads it and keeps the history:
-- docs/how-to/use-managed-hosts.md.
--
-- Run it in the database to track, as its owner. It needs no superuser. Running it again upgrades
-- it. CREATE EXTENSION bemi takes its place.
--
-- Functions have the names, the arguments and the messages of the extension. None is SECURITY
-- DEFINER. The functions of triggers refer to nothing but pg_catalog, so a role that writes rows
-- needs no right on these schemas.

BEGIN;

-- The session's path could find types and operators of others first.
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
	present text := substring(obj_description(to_regnamespace('_bemi'), 'pg_namespace')
		FROM 'bemi-source[.]sql ([0-9]+(?:[.][0-9]+)*)$');
BEGIN
	IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'bemi') THEN
		RAISE EXCEPTION 'extension bemi is in this database'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'It has all that bemi-source.sql has.';
	END IF;
	IF string_to_array(present, '.')::integer[] > string_to_array('1.0', '.')::integer[] THEN
		RAISE EXCEPTION 'version % of bemi-source.sql is in this database', present
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'This file is version 1.0.',
				HINT = 'Run the newer file.';
	END IF;
END
$$;

-- Whoever else can put a function bemi.track(text) into the schema, or replace a function there,
-- runs code with the rights of those who call bemi.track(). Whoever else owns the publication can
-- take tables out of the history.
DO $$
DECLARE
	other record;
BEGIN
	SELECT n.nspname, r.rolname INTO other
		FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
		WHERE n.nspname IN ('bemi', '_bemi') AND r.rolname <> current_user
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "%" belongs to role "%"', other.nspname, other.rolname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Its owner could replace the functions in it.',
				HINT = format('SET ROLE %I;', other.rolname);
	END IF;

	SELECT n.nspname, a.grantee::regrole::text AS grantee, coalesce(r.rolname, 'PUBLIC') AS rolname
		INTO other
		FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a LEFT JOIN pg_roles r
			ON r.oid = a.grantee
		WHERE n.nspname IN ('bemi', '_bemi') AND a.privilege_type = 'CREATE'
			AND a.grantee <> n.nspowner
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'role "%" can create objects in schema "%"', other.rolname, other.nspname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Such objects could run with the rights of those who call '
					'functions of bemi.',
				HINT = format('REVOKE CREATE ON SCHEMA %I FROM %s CASCADE;', other.nspname,
					CASE other.grantee WHEN '-' THEN 'PUBLIC' ELSE other.grantee END);
	END IF;

	SELECT n.nspname, r.rolname, i.type, i.identity INTO other
		FROM pg_namespace n
			JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
			JOIN pg_shdepend s ON s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'o'
				AND s.dbid = (SELECT c.oid FROM pg_database c WHERE c.datname = current_database())
			JOIN pg_roles r ON r.oid = s.refobjid
			CROSS JOIN pg_identify_object(d.classid, d.objid, 0) i
		WHERE n.nspname IN ('bemi', '_bemi') AND r.rolname <> current_user AND NOT r.rolsuper
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION '% % in schema "%" belongs to role "%"', other.type, other.identity,
				other.nspname, other.rolname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'It could run with the rights of those who call functions of bemi.',
				HINT = format('DROP %s %s;', upper(other.type), other.identity);
	END IF;

	SELECT r.rolname INTO other
		FROM pg_publication p JOIN pg_roles r ON r.oid = p.pubowner
		WHERE p.pubname = 'bemi' AND NOT r.rolsuper
			AND NOT pg_has_role(r.oid, current_user::regrole, 'USAGE');
	IF FOUND THEN
		RAISE EXCEPTION 'publication "bemi" must not belong to role "%"', other.rolname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Its owner can take tables out of the history.',
				HINT = format('ALTER PUBLICATION bemi OWNER TO %I;', current_user);
	END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS bemi;
CREATE SCHEMA IF NOT EXISTS _bemi;

-- Default privileges can have given it to others.
DO $$
DECLARE
	granted record;
BEGIN
	FOR granted IN SELECT n.nspname, a.grantee
		FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a
		WHERE n.nspname IN ('bemi', '_bemi') AND a.privilege_type = 'CREATE'
			AND a.grantee <> n.nspowner
	LOOP
		EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM %s CASCADE', granted.nspname,
			CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END);
	END LOOP;
END
$$;

-- What bemi.set_default() has set is kept.
DO $$
BEGIN
	PERFORM set_config('_bemi.former_source', coalesce((SELECT p.prosrc
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'bemi' AND p.proname = 'current_context' LIMIT 1), ''), true);
END
$$;

COMMENT ON SCHEMA bemi IS 'writes the context of each change into the write-ahead log';
COMMENT ON SCHEMA _bemi IS 'internals of schema bemi, of bemi-source.sql 1.0';
GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC;


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
		-- Input: comment. Output: reason, NULL if it is a valid context.
		IF octet_length(comment) > 1048576 THEN
			reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
				octet_length(comment), 1048576);
			remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
		ELSE
			BEGIN
				object := comment::jsonb;
				IF jsonb_typeof(object) <> 'object' THEN
					reason := 'The context is not a JSON object.';
				ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
					'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
					reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
					remedy := 'Leave nested values out of the context.';
				ELSIF length(comment) > 20000
					AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
					reason := format('The context has %s keys and array elements, '
						'"bemi.max_context_keys" allows 10000.',
						(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
					remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
				END IF;
			EXCEPTION
				WHEN numeric_value_out_of_range THEN
					reason := 'The context has a number that is out of range.';
				WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
					GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
					reason := coalesce(nullif(reason, ''), word);
			END;
		END IF;
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
		-- Input: comment. Output: reason, NULL if it is a valid context.
		IF octet_length(comment) > 1048576 THEN
			reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
				octet_length(comment), 1048576);
			remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
		ELSE
			BEGIN
				object := comment::jsonb;
				IF jsonb_typeof(object) <> 'object' THEN
					reason := 'The context is not a JSON object.';
				ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
					'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
					reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
					remedy := 'Leave nested values out of the context.';
				ELSIF length(comment) > 20000
					AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
					reason := format('The context has %s keys and array elements, '
						'"bemi.max_context_keys" allows 10000.',
						(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
					remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
				END IF;
			EXCEPTION
				WHEN numeric_value_out_of_range THEN
					reason := 'The context has a number that is out of range.';
				WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
					GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
					reason := coalesce(nullif(reason, ''), word);
			END;
		END IF;
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
		stack text;
		path text;			-- the functions and statements that this statement is nested in; '': none
		client text;		-- NULL: what it contains is known from an earlier trigger
		-- Tells the client's messages apart.
		at text := extract(epoch FROM statement_timestamp())::text;
		context text;		-- the result; '': none
		reads_comments boolean := false;
		is_trigger boolean := false;	-- otherwise nothing must be remembered
		-- bemi.set_default() replaces the empty texts.
		tag_names text :=
			coalesce(nullif('' /* bemi.tags */, ''), current_setting('bemi.tags', true), '');
		field_names text :=
			coalesce(nullif('' /* bemi.include */, ''), current_setting('bemi.include', true), '');
		tag_formats text := coalesce(nullif('' /* bemi.tags_format */, ''),
			nullif(current_setting('bemi.tags_format', true), ''), 'sqlcommenter');
		reads_sqlcommenter boolean;
		reads_marginalia boolean;
		space text;
		line_comment text;
		plain_comment text;
		continuation text;
		tag_key text;
		quoted_tag text;
		bare_tag text;
		tag_pair text;
		name_start text;
		name_part text;
		escape_string text;
		token text;
		known text;			-- what an earlier trigger has found in the client's text
		is_known boolean;
		is_long boolean;
		is_end boolean;		-- the client's statement ends the transaction, or fires its triggers
		size integer;
		source text;		-- the text that is searched
		rest text;
		run text;
		mark text;
		comment text;
		statement_comment text;
		comments text[];
		pending text[];
		tag_comments text[];
		is_nested boolean;
		is_ambiguous boolean;
		is_complete boolean;
		nests boolean;
		depth integer;
		turns integer;
		bytes bigint;
		most_bytes bigint;
		excess text;
		cuts integer;
		has_tokens boolean;
		is_closed boolean;
		reason text;
		remedy text;
		object jsonb;
		tags jsonb := '{}';
		wanted_tags text[];
		of_comment jsonb;
		of_comments jsonb[];
		tag_count integer;
		tag_bytes bigint;
		may_exceed boolean;
		pairs integer;
		pair_bytes bigint;
		word text;
BEGIN
	path := '';
	-- The context of the statement that is about to run: of its own comment, of the comment of the
	-- client's statement, of the setting. Input: path, '' for a client's statement.

	-- The client's text is read once for each of its messages, however many statements are nested in it,
	-- because reading takes time in proportion to the text.
	known := coalesce(current_setting('_bemi.client', true), '');
	is_known := starts_with(known, at || E'\n');
	IF NOT is_known THEN
		client := current_query();
	END IF;
	IF is_known OR strpos(client, '/*Bemi') > 0 OR strpos(path, '/*Bemi') > 0
		OR coalesce(current_setting('_bemi.comment', true), '') <> ''
	THEN
		reads_comments := lower(coalesce(current_setting('bemi.read_comments', true), ''))
			NOT IN ('off', 'of', 'false', 'fals', 'fal', 'fa', 'f', 'no', 'n', '0');
	END IF;

	-- A statement in a function has its text in the call stack, in quotes, in front of its caller. Its
	-- strings may look like the end of the quotes, but a text that ends in a string is not complete.
	IF reads_comments AND starts_with(path, 'SQL statement "') AND strpos(path, '/*Bemi') > 0 THEN
		source := '';
		cuts := 0;
		LOOP
			mark := substring(substr(path, 16 + length(source))
				FROM E'^.*?"(?:\\n(?=PL/|SQL |COPY )|$)');
			cuts := cuts + 1;
			EXIT WHEN mark IS NULL OR cuts > 20;
			rest := rtrim(mark, E'\n');
			source := source || left(rest, length(rest) - 1);
			-- Finds the last Bemi comment behind the statement in "source", and the comments that can have
			-- tags: those in front of the statement and those behind it. The rules are those of the server's
			-- scanner, as in src/context/comment.c. E'' throughout, because standard_conforming_strings of the
			-- session applies to this text.
			--
			-- Output: comment (NULL: none), is_nested, tag_comments; is_ambiguous: the text has several
			-- statements, whose comments differ, or is not searched to its end, because of "excess" (NULL: it
			-- is); is_complete: the text does not end within a string or comment.
			--
			-- Each turn reads and copies the rest of the text. So one turn takes all tokens of a statement,
			-- with what stands between them, and one turn all comments behind it. More turns are needed only
			-- for further statements, strings in $tag$ and comments within comments, which no regular
			-- expression can find. They have a limit that is a number of bytes, so that the time grows with
			-- the text and not with its square.
			--
			-- Characters and tokens of SQL, by code, because classes depend on the locale. A token is one
			-- of: another character, a minus, a slash, a parameter, a string, a quoted name, a string in $$,
			-- an escape string with its continuations, a name.
			space := E' \\t\\n\\r\\f\\v';
			line_comment := E'--[^\\n\\r]*(?:[\\n\\r]|$)';
			plain_comment := E'/\\*(?:[^*/]|\\*(?!/)|/(?!\\*))*\\*/';
			name_start :=
				E'[^\\u0001-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			name_part :=
				E'[^\\u0001-\\u0023\\u0025-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			escape_string := E'''(?:[^''\\\\]|''''|\\\\.)*''';
			continuation := E'(?:[ \\t\\f\\v]|--[^\\n\\r]*)*[\\n\\r](?:[ \\t\\n\\r\\f\\v]|--[^\\n\\r]*[\\n\\r])*';
			token :=
				E'[\\u0001-\\u0008\\u000e-\\u001f\\u0021\\u0023\\u0025\\u0026\\u0028-\\u002c\\u002e'
					'\\u0030-\\u003a\\u003c-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]'
				|| E'|-(?!-)|/(?!\\*)|\\$[0-9]+|''(?:[^'']|'''')*''|"(?:[^"]|"")*"'
				|| E'|\\$\\$(?:[^$]|\\$(?!\\$))*\\$\\$'
				|| '|[eE]' || escape_string || '(?:' || continuation || escape_string || ')*'
					|| '(?!(?:' || continuation || ')?'')'
				|| '|(?![eE]'')' || name_start || name_part || '*(?!' || name_part || ')';

			rest := source;
			comment := NULL;
			is_nested := false;
			is_ambiguous := false;
			is_complete := true;
			tag_comments := '{}';
			pending := '{}';
			statement_comment := NULL;
			has_tokens := false;
			is_closed := false;
			turns := 0;
			bytes := 0;
			most_bytes := greatest(100000000, 4 * octet_length(source)::bigint);
			excess := NULL;
			-- A regular expression takes four bytes for each of the text, of at most 1 GB.
			IF octet_length(source) > 64000000 THEN
				excess := format('The text is %s bytes long. Without extension bemi, a text of at most 64000000 '
					'bytes is searched.', octet_length(source));
				rest := '';
			-- A backslash could hide the end of a string then.
			ELSIF current_setting('standard_conforming_strings') = 'off' AND strpos(source, E'\\') > 0 THEN
				rest := '';
			END IF;
			WHILE rest <> '' LOOP
				turns := turns + 1;
				bytes := bytes + octet_length(rest);
				IF turns > 1000 OR bytes > most_bytes THEN
					excess := 'The text has too many statements, strings in dollars and nested comments to be '
						'searched without extension bemi.';
					EXIT;
				END IF;
				run := NULL;
				IF strpos(E' \t\n\r\f\v;/-', left(rest, 1)) > 0 THEN
					run := substring(rest
						FROM '^(?:[' || space || ';]|' || line_comment || '|' || plain_comment || ')+');
				END IF;
				IF run IS NOT NULL THEN
					is_closed := is_closed OR has_tokens AND strpos(run, ';') > 0
						AND run !~ ('^(?:[' || space || ']|' || line_comment || '|' || plain_comment || ')+$');
					IF strpos(run, '/*') > 0 AND (tag_names <> '' OR strpos(run, '/*Bemi') > 0) THEN
						-- Most statements have one comment.
						word := btrim(run, E' \t\n\r\f\v;');
						IF left(word, 2) = '/*' AND strpos(word, '*/') = length(word) - 1 THEN
							comments := ARRAY[word];
						ELSE
							comments := ARRAY(SELECT
								regexp_matches(run, line_comment || '|(' || plain_comment || ')', 'g'));
						END IF;
						FOREACH word IN ARRAY comments LOOP
							IF tag_names <> '' AND word ~ '[=:]' THEN
								pending := pending || word;
							END IF;
							IF starts_with(word, '/*Bemi') AND right(word, 6) = 'Bemi*/' AND length(word) >= 12
							THEN
								comment := word;
								is_nested := false;
							END IF;
						END LOOP;
					END IF;
					rest := substr(rest, length(run) + 1);
				ELSIF left(rest, 2) = '/*' THEN
					-- Comments nest. One without an end reaches to the end of the text.
					nests := starts_with(rest, '/*Bemi');
					rest := substr(rest, 3);
					depth := 1;
					WHILE depth > 0 AND rest <> '' AND turns <= 1000 AND bytes <= most_bytes LOOP
						turns := turns + 1;
						bytes := bytes + octet_length(rest);
						run := substring(rest FROM E'^(?:[^*/]|\\*(?!/)|/(?!\\*))*');
						mark := substr(rest, length(run) + 1, 2);
						depth := depth + CASE mark WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
						rest := substr(rest, length(run) + 3);
					END LOOP;
					is_complete := depth = 0 OR rest <> '';
					IF nests AND depth = 0 AND right(run, 4) = 'Bemi' THEN
						comment := run;
						is_nested := true;
					END IF;
				ELSE
					run := substring(rest FROM '^(?:(?:[' || space || ']|' || line_comment || '|'
						|| plain_comment || ')*(?:' || token || '))+');
					IF run IS NULL THEN
						mark := substring(rest FROM E'^\\$(?:' || name_start
							|| E'[^\\u0001-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]*)?\\$');
						IF mark IS NULL AND left(rest, 1) = '$' THEN
							run := '$';
						ELSIF strpos(substr(rest, length(mark) + 1), mark) > 0 THEN
							run := left(rest, 2 * length(mark) - 1
								+ strpos(substr(rest, length(mark) + 1), mark));
						END IF;
					END IF;
					IF is_closed THEN
						is_ambiguous := coalesce(statement_comment <> coalesce(comment, ''), false);
						EXIT WHEN is_ambiguous;
						statement_comment := coalesce(comment, '');
						is_closed := false;
					END IF;
					IF NOT has_tokens THEN
						tag_comments := pending;
					END IF;
					comment := NULL;
					is_nested := false;
					pending := '{}';
					has_tokens := true;
					IF run IS NULL THEN
						-- A string has no end.
						is_complete := false;
						EXIT;
					END IF;
					rest := substr(rest, length(run) + 1);
				END IF;
			END LOOP;
			is_ambiguous := is_ambiguous OR coalesce(statement_comment <> coalesce(comment, ''), false);
			IF excess IS NOT NULL THEN
				is_ambiguous := strpos(source, '/*Bemi') > 0;
			END IF;
			IF is_ambiguous OR excess IS NOT NULL THEN
				comment := NULL;
			END IF;
			IF statement_comment IS NULL AND excess IS NULL THEN
				tag_comments := tag_comments || pending;
			ELSE
				tag_comments := '{}';
			END IF;
			IF is_complete THEN
				-- Turns "comment" into its context, NULL if it is not valid.
				reason := NULL;
				remedy := E'Write a JSON object, such as /*Bemi {"userId": 1} Bemi*/.';
				IF is_ambiguous THEN
					reason := coalesce(excess, 'The text has several statements with different comments, and the '
						'one that runs is not known without extension bemi.');
					remedy := 'Send each statement by itself, or set bemi.context.';
				ELSIF comment IS NOT NULL AND is_nested THEN
					reason := 'The comment contains another comment mark.';
					remedy := E'In strings of the context, write \\u002f for the slash.';
				ELSIF comment IS NOT NULL THEN
					comment := btrim(substr(comment, 7, length(comment) - 12), E' \t\n\r\f\v');
					-- Input: comment. Output: reason, NULL if it is a valid context.
					IF octet_length(comment) > 1048576 THEN
						reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
							octet_length(comment), 1048576);
						remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
					ELSE
						BEGIN
							object := comment::jsonb;
							IF jsonb_typeof(object) <> 'object' THEN
								reason := 'The context is not a JSON object.';
							ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
								'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
								reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
								remedy := 'Leave nested values out of the context.';
							ELSIF length(comment) > 20000
								AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
								reason := format('The context has %s keys and array elements, '
									'"bemi.max_context_keys" allows 10000.',
									(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
								remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
							END IF;
						EXCEPTION
							WHEN numeric_value_out_of_range THEN
								reason := 'The context has a number that is out of range.';
							WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
								GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
								reason := coalesce(nullif(reason, ''), word);
						END;
					END IF;
				END IF;
				IF reason IS NOT NULL THEN
					comment := NULL;
					IF current_setting('_bemi.warned', true) IS DISTINCT FROM at THEN
						PERFORM set_config('_bemi.warned', at, true);
						RAISE WARNING 'context in the query''s comment is not valid and was left out'
							USING ERRCODE = 'invalid_parameter_value', DETAIL = reason, HINT = remedy;
					END IF;
				END IF;
				context := comment;
				EXIT;
			END IF;
			source := source || E'"\n';
		END LOOP;
	END IF;

	comment := NULL;
	is_end := false;
	IF is_known THEN
		IF reads_comments THEN
			comment := nullif(split_part(known, E'\n', 2), '')::jsonb #>> '{}';
		END IF;
		IF tag_names <> '' THEN
			tags := split_part(known, E'\n', 3);
		END IF;
		is_end := split_part(known, E'\n', 4) = 'true';
	ELSE
		is_long := octet_length(client) > 1000;
		IF reads_comments AND strpos(client, '/*Bemi') > 0
			OR tag_names <> '' AND strpos(client, '/*') > 0
		THEN
			source := client;
			-- Finds the last Bemi comment behind the statement in "source", and the comments that can have
			-- tags: those in front of the statement and those behind it. The rules are those of the server's
			-- scanner, as in src/context/comment.c. E'' throughout, because standard_conforming_strings of the
			-- session applies to this text.
			--
			-- Output: comment (NULL: none), is_nested, tag_comments; is_ambiguous: the text has several
			-- statements, whose comments differ, or is not searched to its end, because of "excess" (NULL: it
			-- is); is_complete: the text does not end within a string or comment.
			--
			-- Each turn reads and copies the rest of the text. So one turn takes all tokens of a statement,
			-- with what stands between them, and one turn all comments behind it. More turns are needed only
			-- for further statements, strings in $tag$ and comments within comments, which no regular
			-- expression can find. They have a limit that is a number of bytes, so that the time grows with
			-- the text and not with its square.
			--
			-- Characters and tokens of SQL, by code, because classes depend on the locale. A token is one
			-- of: another character, a minus, a slash, a parameter, a string, a quoted name, a string in $$,
			-- an escape string with its continuations, a name.
			space := E' \\t\\n\\r\\f\\v';
			line_comment := E'--[^\\n\\r]*(?:[\\n\\r]|$)';
			plain_comment := E'/\\*(?:[^*/]|\\*(?!/)|/(?!\\*))*\\*/';
			name_start :=
				E'[^\\u0001-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			name_part :=
				E'[^\\u0001-\\u0023\\u0025-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			escape_string := E'''(?:[^''\\\\]|''''|\\\\.)*''';
			continuation := E'(?:[ \\t\\f\\v]|--[^\\n\\r]*)*[\\n\\r](?:[ \\t\\n\\r\\f\\v]|--[^\\n\\r]*[\\n\\r])*';
			token :=
				E'[\\u0001-\\u0008\\u000e-\\u001f\\u0021\\u0023\\u0025\\u0026\\u0028-\\u002c\\u002e'
					'\\u0030-\\u003a\\u003c-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]'
				|| E'|-(?!-)|/(?!\\*)|\\$[0-9]+|''(?:[^'']|'''')*''|"(?:[^"]|"")*"'
				|| E'|\\$\\$(?:[^$]|\\$(?!\\$))*\\$\\$'
				|| '|[eE]' || escape_string || '(?:' || continuation || escape_string || ')*'
					|| '(?!(?:' || continuation || ')?'')'
				|| '|(?![eE]'')' || name_start || name_part || '*(?!' || name_part || ')';

			rest := source;
			comment := NULL;
			is_nested := false;
			is_ambiguous := false;
			is_complete := true;
			tag_comments := '{}';
			pending := '{}';
			statement_comment := NULL;
			has_tokens := false;
			is_closed := false;
			turns := 0;
			bytes := 0;
			most_bytes := greatest(100000000, 4 * octet_length(source)::bigint);
			excess := NULL;
			-- A regular expression takes four bytes for each of the text, of at most 1 GB.
			IF octet_length(source) > 64000000 THEN
				excess := format('The text is %s bytes long. Without extension bemi, a text of at most 64000000 '
					'bytes is searched.', octet_length(source));
				rest := '';
			-- A backslash could hide the end of a string then.
			ELSIF current_setting('standard_conforming_strings') = 'off' AND strpos(source, E'\\') > 0 THEN
				rest := '';
			END IF;
			WHILE rest <> '' LOOP
				turns := turns + 1;
				bytes := bytes + octet_length(rest);
				IF turns > 1000 OR bytes > most_bytes THEN
					excess := 'The text has too many statements, strings in dollars and nested comments to be '
						'searched without extension bemi.';
					EXIT;
				END IF;
				run := NULL;
				IF strpos(E' \t\n\r\f\v;/-', left(rest, 1)) > 0 THEN
					run := substring(rest
						FROM '^(?:[' || space || ';]|' || line_comment || '|' || plain_comment || ')+');
				END IF;
				IF run IS NOT NULL THEN
					is_closed := is_closed OR has_tokens AND strpos(run, ';') > 0
						AND run !~ ('^(?:[' || space || ']|' || line_comment || '|' || plain_comment || ')+$');
					IF strpos(run, '/*') > 0 AND (tag_names <> '' OR strpos(run, '/*Bemi') > 0) THEN
						-- Most statements have one comment.
						word := btrim(run, E' \t\n\r\f\v;');
						IF left(word, 2) = '/*' AND strpos(word, '*/') = length(word) - 1 THEN
							comments := ARRAY[word];
						ELSE
							comments := ARRAY(SELECT
								regexp_matches(run, line_comment || '|(' || plain_comment || ')', 'g'));
						END IF;
						FOREACH word IN ARRAY comments LOOP
							IF tag_names <> '' AND word ~ '[=:]' THEN
								pending := pending || word;
							END IF;
							IF starts_with(word, '/*Bemi') AND right(word, 6) = 'Bemi*/' AND length(word) >= 12
							THEN
								comment := word;
								is_nested := false;
							END IF;
						END LOOP;
					END IF;
					rest := substr(rest, length(run) + 1);
				ELSIF left(rest, 2) = '/*' THEN
					-- Comments nest. One without an end reaches to the end of the text.
					nests := starts_with(rest, '/*Bemi');
					rest := substr(rest, 3);
					depth := 1;
					WHILE depth > 0 AND rest <> '' AND turns <= 1000 AND bytes <= most_bytes LOOP
						turns := turns + 1;
						bytes := bytes + octet_length(rest);
						run := substring(rest FROM E'^(?:[^*/]|\\*(?!/)|/(?!\\*))*');
						mark := substr(rest, length(run) + 1, 2);
						depth := depth + CASE mark WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
						rest := substr(rest, length(run) + 3);
					END LOOP;
					is_complete := depth = 0 OR rest <> '';
					IF nests AND depth = 0 AND right(run, 4) = 'Bemi' THEN
						comment := run;
						is_nested := true;
					END IF;
				ELSE
					run := substring(rest FROM '^(?:(?:[' || space || ']|' || line_comment || '|'
						|| plain_comment || ')*(?:' || token || '))+');
					IF run IS NULL THEN
						mark := substring(rest FROM E'^\\$(?:' || name_start
							|| E'[^\\u0001-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]*)?\\$');
						IF mark IS NULL AND left(rest, 1) = '$' THEN
							run := '$';
						ELSIF strpos(substr(rest, length(mark) + 1), mark) > 0 THEN
							run := left(rest, 2 * length(mark) - 1
								+ strpos(substr(rest, length(mark) + 1), mark));
						END IF;
					END IF;
					IF is_closed THEN
						is_ambiguous := coalesce(statement_comment <> coalesce(comment, ''), false);
						EXIT WHEN is_ambiguous;
						statement_comment := coalesce(comment, '');
						is_closed := false;
					END IF;
					IF NOT has_tokens THEN
						tag_comments := pending;
					END IF;
					comment := NULL;
					is_nested := false;
					pending := '{}';
					has_tokens := true;
					IF run IS NULL THEN
						-- A string has no end.
						is_complete := false;
						EXIT;
					END IF;
					rest := substr(rest, length(run) + 1);
				END IF;
			END LOOP;
			is_ambiguous := is_ambiguous OR coalesce(statement_comment <> coalesce(comment, ''), false);
			IF excess IS NOT NULL THEN
				is_ambiguous := strpos(source, '/*Bemi') > 0;
			END IF;
			IF is_ambiguous OR excess IS NOT NULL THEN
				comment := NULL;
			END IF;
			IF statement_comment IS NULL AND excess IS NULL THEN
				tag_comments := tag_comments || pending;
			ELSE
				tag_comments := '{}';
			END IF;
			IF NOT reads_comments THEN
				comment := NULL;
				is_ambiguous := false;
			END IF;
			pending := tag_comments;
			-- Turns "comment" into its context, NULL if it is not valid.
			reason := NULL;
			remedy := E'Write a JSON object, such as /*Bemi {"userId": 1} Bemi*/.';
			IF is_ambiguous THEN
				reason := coalesce(excess, 'The text has several statements with different comments, and the '
					'one that runs is not known without extension bemi.');
				remedy := 'Send each statement by itself, or set bemi.context.';
			ELSIF comment IS NOT NULL AND is_nested THEN
				reason := 'The comment contains another comment mark.';
				remedy := E'In strings of the context, write \\u002f for the slash.';
			ELSIF comment IS NOT NULL THEN
				comment := btrim(substr(comment, 7, length(comment) - 12), E' \t\n\r\f\v');
				-- Input: comment. Output: reason, NULL if it is a valid context.
				IF octet_length(comment) > 1048576 THEN
					reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
						octet_length(comment), 1048576);
					remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
				ELSE
					BEGIN
						object := comment::jsonb;
						IF jsonb_typeof(object) <> 'object' THEN
							reason := 'The context is not a JSON object.';
						ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
							'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
							reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
							remedy := 'Leave nested values out of the context.';
						ELSIF length(comment) > 20000
							AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
							reason := format('The context has %s keys and array elements, '
								'"bemi.max_context_keys" allows 10000.',
								(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
							remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
						END IF;
					EXCEPTION
						WHEN numeric_value_out_of_range THEN
							reason := 'The context has a number that is out of range.';
						WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
							GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
							reason := coalesce(nullif(reason, ''), word);
					END;
				END IF;
			END IF;
			IF reason IS NOT NULL THEN
				comment := NULL;
				IF current_setting('_bemi.warned', true) IS DISTINCT FROM at THEN
					PERFORM set_config('_bemi.warned', at, true);
					RAISE WARNING 'context in the query''s comment is not valid and was left out'
						USING ERRCODE = 'invalid_parameter_value', DETAIL = reason, HINT = remedy;
				END IF;
			END IF;
			known := comment;
			IF tag_names <> '' THEN
				tag_comments := pending;
				-- The pairs in tag_comments, as an object of strings: tags. A comment that is not well-formed has
				-- none. docs/explanation/which-context.md has the grammar.
				--
				-- As in C, a comment that is larger than a context may be is not read, and more tags than a context
				-- may have keys, or bytes, are left out. Because each well-formed comment has a tag, so are more
				-- comments than that.
				space := E'[ \\t\\n\\r\\f\\v]*';
				tag_key := E'(?:[^ \\t\\n\\r\\f\\v,=''"\\\\%]|\\\\''|%%?[0-9A-Fa-f]{2})+';
				quoted_tag := E'(?:[^''\\\\%]|\\\\''|\\\\(?!'')|%%?[0-9A-Fa-f]{2})*';
				bare_tag := '(?:[A-Za-z0-9._~-]|%%?[0-9A-Fa-f]{2})+';
				tag_pair := tag_key || space || '=' || space
					|| '(?:''' || quoted_tag || '''|' || bare_tag || ')';
				reads_sqlcommenter := strpos(tag_formats, 'sqlcommenter') > 0;
				reads_marginalia := strpos(tag_formats, 'marginalia') > 0;
				IF btrim(tag_names) <> '*' THEN
					wanted_tags := ARRAY(SELECT regexp_replace(btrim(n), E'^"(.*)"$', E'\\1')
						FROM unnest(string_to_array(tag_names, ',')) n);
				END IF;
				of_comments := '{}';
				tag_count := 0;
				tag_bytes := 0;
				-- In JSON, a tag of a few bytes takes less than ten times as many.
				may_exceed := octet_length(array_to_string(tag_comments, '')) > 100000;
				IF array_length(tag_comments, 1) > 10000 THEN
					tag_comments := '{}';
				END IF;
				FOREACH source IN ARRAY tag_comments LOOP
					CONTINUE WHEN octet_length(source) > 1048576;
					source := substr(source, 3, length(source) - 4);
					of_comment := NULL;
					IF reads_sqlcommenter
						AND source ~ ('^' || space || tag_pair
							|| '(?:' || space || ',' || space || tag_pair || ')*' || space || '$')
					THEN
						BEGIN
							SELECT coalesce(jsonb_object_agg(d.tag[1], d.tag[2]), '{}'), count(*),
								sum(CASE WHEN may_exceed
									THEN octet_length(to_json(d.tag[1])::text || to_json(d.tag[2])::text) + 4 END)
								INTO of_comment, pairs, pair_bytes
								FROM (
									SELECT ARRAY(
										SELECT CASE WHEN w.part ~ E'[%\\\\]' THEN (
												SELECT string_agg(coalesce(
													convert_from(decode(replace(e.piece[1], '%', ''), 'hex'), 'UTF8'),
													CASE WHEN e.piece[2] IS NOT NULL THEN E'''' END, e.piece[3]), '')
												FROM regexp_matches(w.part,
													E'((?:%%?[0-9A-Fa-f]{2})+)|(\\\\'')|([^%\\\\]+|\\\\)', 'g') e(piece))
											ELSE w.part END
										FROM unnest(ARRAY[p.pair[1], coalesce(p.pair[2], p.pair[3])])
											WITH ORDINALITY w(part, place)
										ORDER BY w.place) AS tag
									FROM (SELECT regexp_matches(source,
										'(' || tag_key || ')' || space || '=' || space
											|| '(?:''(' || quoted_tag || ')''|(' || bare_tag || '))', 'g')
										OFFSET 0) p(pair)
									OFFSET 0) d
								WHERE wanted_tags IS NULL OR d.tag[1] = ANY (wanted_tags);
						EXCEPTION WHEN data_exception OR feature_not_supported THEN
							-- Bytes that are no UTF-8, or that the database's encoding lacks.
							of_comment := NULL;
						END;
					END IF;
					IF of_comment IS NULL AND reads_marginalia
						AND source ~ ('^' || space || '[A-Za-z0-9_.-]+' || space || ':[^,]*'
							|| '(?:,' || space || '[A-Za-z0-9_.-]+' || space || ':[^,]*)*$')
					THEN
						SELECT coalesce(jsonb_object_agg(d.tag[1], d.tag[2]), '{}'), count(*),
							sum(CASE WHEN may_exceed
								THEN octet_length(to_json(d.tag[1])::text || to_json(d.tag[2])::text) + 4 END)
							INTO of_comment, pairs, pair_bytes
							FROM (
								SELECT ARRAY[btrim(split_part(m.part, ':', 1), E' \t\n\r\f\v'),
									btrim(substr(m.part, strpos(m.part, ':') + 1), E' \t\n\r\f\v')] AS tag
								FROM unnest(string_to_array(source, ',')) m(part)) d
							WHERE wanted_tags IS NULL OR d.tag[1] = ANY (wanted_tags);
					END IF;
					CONTINUE WHEN of_comment IS NULL;
					of_comments := of_comments || of_comment;
					tag_count := tag_count + pairs;
					tag_bytes := tag_bytes + coalesce(pair_bytes, 0);
					EXIT WHEN tag_count >= 10000 OR tag_bytes > 1048576;
				END LOOP;
				IF tag_count >= 10000 OR tag_bytes > 1048576 THEN
					of_comments := '{}';
				END IF;
				SELECT coalesce(jsonb_object_agg(t.key, t.value ORDER BY c.place), '{}') INTO tags
					FROM unnest(of_comments) WITH ORDINALITY c(pairs, place), jsonb_each(c.pairs) t;
			END IF;
			comment := known;
			is_long := true;
		END IF;
		IF is_long OR coalesce(current_setting('_bemi.comment', true), '') <> ''
			OR coalesce(current_setting('_bemi.tags', true), '') <> ''
		THEN
			is_end := client ~* (E'^(?:[ \\t\\n\\r\\f\\v;]|--[^\\n\\r]*[\\n\\r]|/\\*(?:[^*/]|\\*(?!/)|/(?!\\*))*\\*/)*'
				'(?:commit|end|prepare\\s+transaction|set\\s+constraints)\\M');
		END IF;
		IF is_trigger AND is_long THEN
			PERFORM set_config('_bemi.client',
				concat_ws(E'\n', at, coalesce(to_json(comment)::text, ''), tags::text, is_end), true);
		END IF;
	END IF;
	IF is_trigger AND comment IS NOT NULL THEN
		PERFORM set_config('_bemi.comment', comment, true);
	END IF;
	context := coalesce(context, comment);

	-- Deferred triggers run in COMMIT. They have the last comment and the last tags of their
	-- transaction.
	IF is_end THEN
		IF context IS NULL AND reads_comments THEN
			context := nullif(current_setting('_bemi.comment', true), '');
		END IF;
		IF tags = '{}' AND tag_names <> '' THEN
			tags := coalesce(nullif(current_setting('_bemi.tags', true), ''), '{}');
		END IF;
	ELSIF is_trigger AND tags <> '{}' THEN
		PERFORM set_config('_bemi.tags', tags::text, true);
	END IF;

	-- Without the extension, SET does not check the setting. The reader does.
	IF context IS NULL THEN
		context := coalesce(current_setting('bemi.context', true), '');
		IF octet_length(context) > 1048576
			OR context <> '' AND ltrim(context, E' \t\n\r') NOT LIKE '{%'
		THEN
			IF current_setting('_bemi.warned', true) IS DISTINCT FROM at THEN
				PERFORM set_config('_bemi.warned', at, true);
				RAISE WARNING 'invalid value for parameter "%"', 'bemi.context'
					USING ERRCODE = 'invalid_parameter_value',
						DETAIL = CASE WHEN octet_length(context) > 1048576
							THEN format('The context is %s bytes long, '
								'"bemi.max_context_size" allows %s.', octet_length(context), 1048576)
							ELSE 'The context is not a JSON object.' END,
						HINT = E'Write a JSON object, such as SET bemi.context = ''{"userId": 1}''.';
			END IF;
			context := '';
		END IF;
	END IF;

	IF field_names <> '' OR tags <> '{}' OR strpos(context, '_tags') > 0 THEN
		comment := coalesce(nullif(context, ''), '{}');
		reason := NULL;
		-- Input: comment. Output: reason, NULL if it is a valid context.
		IF octet_length(comment) > 1048576 THEN
			reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
				octet_length(comment), 1048576);
			remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
		ELSE
			BEGIN
				object := comment::jsonb;
				IF jsonb_typeof(object) <> 'object' THEN
					reason := 'The context is not a JSON object.';
				ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
					'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
					reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
					remedy := 'Leave nested values out of the context.';
				ELSIF length(comment) > 20000
					AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
					reason := format('The context has %s keys and array elements, '
						'"bemi.max_context_keys" allows 10000.',
						(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
					remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
				END IF;
			EXCEPTION
				WHEN numeric_value_out_of_range THEN
					reason := 'The context has a number that is out of range.';
				WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
					GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
					reason := coalesce(nullif(reason, ''), word);
			END;
		END IF;
		object := CASE WHEN reason IS NULL THEN object - '_tags' ELSE '{}' END;
		IF tags <> '{}' THEN
			tags := object || jsonb_build_object('_tags', tags);
			size := octet_length(tags::text);
			IF size <= 20000 OR size <= 1048576
				AND (SELECT count(*) FROM jsonb_path_query(tags, 'strict $.**')) - 1 <= 10000
			THEN
				object := tags;
			END IF;
		END IF;
		IF field_names <> '' THEN
			SELECT object || jsonb_build_object('_db', jsonb_object_agg(f.name, f.value)) INTO object
				FROM (VALUES ('session_user', to_jsonb(session_user)),
					('current_user', to_jsonb(current_user)),
					('application_name', to_jsonb(current_setting('application_name'))),
					('client_addr', to_jsonb(host(inet_client_addr()))),
					('backend_pid', to_jsonb(pg_backend_pid())),
					('query', to_jsonb(left(coalesce(client, current_query()), 1000)))) f(name, value)
				WHERE f.name = ANY (string_to_array(replace(lower(field_names), ' ', ''), ','));
		END IF;
		context := CASE WHEN object = '{}' AND context = '' THEN '' ELSE object::text END;
	END IF;
	comment := coalesce(nullif(context, ''), '{}');
	-- Input: comment. Output: reason, NULL if it is a valid context.
	IF octet_length(comment) > 1048576 THEN
		reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
			octet_length(comment), 1048576);
		remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
	ELSE
		BEGIN
			object := comment::jsonb;
			IF jsonb_typeof(object) <> 'object' THEN
				reason := 'The context is not a JSON object.';
			ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
				'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
				reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
				remedy := 'Leave nested values out of the context.';
			ELSIF length(comment) > 20000
				AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
				reason := format('The context has %s keys and array elements, '
					'"bemi.max_context_keys" allows 10000.',
					(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
				remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
			END IF;
		EXCEPTION
			WHEN numeric_value_out_of_range THEN
				reason := 'The context has a number that is out of range.';
			WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
				GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
				reason := coalesce(nullif(reason, ''), word);
		END;
	END IF;
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

--
-- Capture: the context goes into the write-ahead log in front of the rows of its statement
--

-- What a transaction has written is in settings, which end with the transaction, and which the
-- rollback of a savepoint brings back:
--   _bemi.latest     the latest message: '' none, T that of _bemi.statement, N and its context
--   _bemi.statement  the client's statement: its time, a line feed, its context
--   _bemi.frames     the statements that are nested in it, outermost first: the time, and for each
--                    the length and the hash of its path, and its context
CREATE OR REPLACE FUNCTION bemi.emit_context()
	RETURNS trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
		stack text;
		path text;			-- the functions and statements that this statement is nested in; '': none
		client text;		-- NULL: what it contains is known from an earlier trigger
		-- Tells the client's messages apart.
		at text := extract(epoch FROM statement_timestamp())::text;
		context text;		-- the result; '': none
		reads_comments boolean := false;
		is_trigger boolean := false;	-- otherwise nothing must be remembered
		-- bemi.set_default() replaces the empty texts.
		tag_names text :=
			coalesce(nullif('' /* bemi.tags */, ''), current_setting('bemi.tags', true), '');
		field_names text :=
			coalesce(nullif('' /* bemi.include */, ''), current_setting('bemi.include', true), '');
		tag_formats text := coalesce(nullif('' /* bemi.tags_format */, ''),
			nullif(current_setting('bemi.tags_format', true), ''), 'sqlcommenter');
		reads_sqlcommenter boolean;
		reads_marginalia boolean;
		space text;
		line_comment text;
		plain_comment text;
		continuation text;
		tag_key text;
		quoted_tag text;
		bare_tag text;
		tag_pair text;
		name_start text;
		name_part text;
		escape_string text;
		token text;
		known text;			-- what an earlier trigger has found in the client's text
		is_known boolean;
		is_long boolean;
		is_end boolean;		-- the client's statement ends the transaction, or fires its triggers
		size integer;
		source text;		-- the text that is searched
		rest text;
		run text;
		mark text;
		comment text;
		statement_comment text;
		comments text[];
		pending text[];
		tag_comments text[];
		is_nested boolean;
		is_ambiguous boolean;
		is_complete boolean;
		nests boolean;
		depth integer;
		turns integer;
		bytes bigint;
		most_bytes bigint;
		excess text;
		cuts integer;
		has_tokens boolean;
		is_closed boolean;
		reason text;
		remedy text;
		object jsonb;
		tags jsonb := '{}';
		wanted_tags text[];
		of_comment jsonb;
		of_comments jsonb[];
		tag_count integer;
		tag_bytes bigint;
		may_exceed boolean;
		pairs integer;
		pair_bytes bigint;
		word text;
	frames text[];
	frame text;
	latest text := coalesce(current_setting('_bemi.latest', true), '');
BEGIN
	IF TG_WHEN <> 'BEFORE' OR TG_LEVEL <> 'STATEMENT' THEN
		RAISE EXCEPTION 'function "%" must be fired BEFORE and FOR EACH STATEMENT',
			'bemi.emit_context'
			USING ERRCODE = 'trigger_protocol_violated',
				DETAIL = format('Trigger "%s" of table "%s" is of another kind.',
					TG_NAME, TG_TABLE_NAME),
				HINT = 'Create the trigger with bemi.track().';
	END IF;
	IF current_setting('wal_level') <> 'logical' THEN
		RETURN NULL;
	END IF;
	GET DIAGNOSTICS stack = PG_CONTEXT;
	path := substr(stack, strpos(stack || E'\n', E'\n') + 1);
	is_trigger := true;
	-- The context of the statement that is about to run: of its own comment, of the comment of the
	-- client's statement, of the setting. Input: path, '' for a client's statement.

	-- The client's text is read once for each of its messages, however many statements are nested in it,
	-- because reading takes time in proportion to the text.
	known := coalesce(current_setting('_bemi.client', true), '');
	is_known := starts_with(known, at || E'\n');
	IF NOT is_known THEN
		client := current_query();
	END IF;
	IF is_known OR strpos(client, '/*Bemi') > 0 OR strpos(path, '/*Bemi') > 0
		OR coalesce(current_setting('_bemi.comment', true), '') <> ''
	THEN
		reads_comments := lower(coalesce(current_setting('bemi.read_comments', true), ''))
			NOT IN ('off', 'of', 'false', 'fals', 'fal', 'fa', 'f', 'no', 'n', '0');
	END IF;

	-- A statement in a function has its text in the call stack, in quotes, in front of its caller. Its
	-- strings may look like the end of the quotes, but a text that ends in a string is not complete.
	IF reads_comments AND starts_with(path, 'SQL statement "') AND strpos(path, '/*Bemi') > 0 THEN
		source := '';
		cuts := 0;
		LOOP
			mark := substring(substr(path, 16 + length(source))
				FROM E'^.*?"(?:\\n(?=PL/|SQL |COPY )|$)');
			cuts := cuts + 1;
			EXIT WHEN mark IS NULL OR cuts > 20;
			rest := rtrim(mark, E'\n');
			source := source || left(rest, length(rest) - 1);
			-- Finds the last Bemi comment behind the statement in "source", and the comments that can have
			-- tags: those in front of the statement and those behind it. The rules are those of the server's
			-- scanner, as in src/context/comment.c. E'' throughout, because standard_conforming_strings of the
			-- session applies to this text.
			--
			-- Output: comment (NULL: none), is_nested, tag_comments; is_ambiguous: the text has several
			-- statements, whose comments differ, or is not searched to its end, because of "excess" (NULL: it
			-- is); is_complete: the text does not end within a string or comment.
			--
			-- Each turn reads and copies the rest of the text. So one turn takes all tokens of a statement,
			-- with what stands between them, and one turn all comments behind it. More turns are needed only
			-- for further statements, strings in $tag$ and comments within comments, which no regular
			-- expression can find. They have a limit that is a number of bytes, so that the time grows with
			-- the text and not with its square.
			--
			-- Characters and tokens of SQL, by code, because classes depend on the locale. A token is one
			-- of: another character, a minus, a slash, a parameter, a string, a quoted name, a string in $$,
			-- an escape string with its continuations, a name.
			space := E' \\t\\n\\r\\f\\v';
			line_comment := E'--[^\\n\\r]*(?:[\\n\\r]|$)';
			plain_comment := E'/\\*(?:[^*/]|\\*(?!/)|/(?!\\*))*\\*/';
			name_start :=
				E'[^\\u0001-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			name_part :=
				E'[^\\u0001-\\u0023\\u0025-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			escape_string := E'''(?:[^''\\\\]|''''|\\\\.)*''';
			continuation := E'(?:[ \\t\\f\\v]|--[^\\n\\r]*)*[\\n\\r](?:[ \\t\\n\\r\\f\\v]|--[^\\n\\r]*[\\n\\r])*';
			token :=
				E'[\\u0001-\\u0008\\u000e-\\u001f\\u0021\\u0023\\u0025\\u0026\\u0028-\\u002c\\u002e'
					'\\u0030-\\u003a\\u003c-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]'
				|| E'|-(?!-)|/(?!\\*)|\\$[0-9]+|''(?:[^'']|'''')*''|"(?:[^"]|"")*"'
				|| E'|\\$\\$(?:[^$]|\\$(?!\\$))*\\$\\$'
				|| '|[eE]' || escape_string || '(?:' || continuation || escape_string || ')*'
					|| '(?!(?:' || continuation || ')?'')'
				|| '|(?![eE]'')' || name_start || name_part || '*(?!' || name_part || ')';

			rest := source;
			comment := NULL;
			is_nested := false;
			is_ambiguous := false;
			is_complete := true;
			tag_comments := '{}';
			pending := '{}';
			statement_comment := NULL;
			has_tokens := false;
			is_closed := false;
			turns := 0;
			bytes := 0;
			most_bytes := greatest(100000000, 4 * octet_length(source)::bigint);
			excess := NULL;
			-- A regular expression takes four bytes for each of the text, of at most 1 GB.
			IF octet_length(source) > 64000000 THEN
				excess := format('The text is %s bytes long. Without extension bemi, a text of at most 64000000 '
					'bytes is searched.', octet_length(source));
				rest := '';
			-- A backslash could hide the end of a string then.
			ELSIF current_setting('standard_conforming_strings') = 'off' AND strpos(source, E'\\') > 0 THEN
				rest := '';
			END IF;
			WHILE rest <> '' LOOP
				turns := turns + 1;
				bytes := bytes + octet_length(rest);
				IF turns > 1000 OR bytes > most_bytes THEN
					excess := 'The text has too many statements, strings in dollars and nested comments to be '
						'searched without extension bemi.';
					EXIT;
				END IF;
				run := NULL;
				IF strpos(E' \t\n\r\f\v;/-', left(rest, 1)) > 0 THEN
					run := substring(rest
						FROM '^(?:[' || space || ';]|' || line_comment || '|' || plain_comment || ')+');
				END IF;
				IF run IS NOT NULL THEN
					is_closed := is_closed OR has_tokens AND strpos(run, ';') > 0
						AND run !~ ('^(?:[' || space || ']|' || line_comment || '|' || plain_comment || ')+$');
					IF strpos(run, '/*') > 0 AND (tag_names <> '' OR strpos(run, '/*Bemi') > 0) THEN
						-- Most statements have one comment.
						word := btrim(run, E' \t\n\r\f\v;');
						IF left(word, 2) = '/*' AND strpos(word, '*/') = length(word) - 1 THEN
							comments := ARRAY[word];
						ELSE
							comments := ARRAY(SELECT
								regexp_matches(run, line_comment || '|(' || plain_comment || ')', 'g'));
						END IF;
						FOREACH word IN ARRAY comments LOOP
							IF tag_names <> '' AND word ~ '[=:]' THEN
								pending := pending || word;
							END IF;
							IF starts_with(word, '/*Bemi') AND right(word, 6) = 'Bemi*/' AND length(word) >= 12
							THEN
								comment := word;
								is_nested := false;
							END IF;
						END LOOP;
					END IF;
					rest := substr(rest, length(run) + 1);
				ELSIF left(rest, 2) = '/*' THEN
					-- Comments nest. One without an end reaches to the end of the text.
					nests := starts_with(rest, '/*Bemi');
					rest := substr(rest, 3);
					depth := 1;
					WHILE depth > 0 AND rest <> '' AND turns <= 1000 AND bytes <= most_bytes LOOP
						turns := turns + 1;
						bytes := bytes + octet_length(rest);
						run := substring(rest FROM E'^(?:[^*/]|\\*(?!/)|/(?!\\*))*');
						mark := substr(rest, length(run) + 1, 2);
						depth := depth + CASE mark WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
						rest := substr(rest, length(run) + 3);
					END LOOP;
					is_complete := depth = 0 OR rest <> '';
					IF nests AND depth = 0 AND right(run, 4) = 'Bemi' THEN
						comment := run;
						is_nested := true;
					END IF;
				ELSE
					run := substring(rest FROM '^(?:(?:[' || space || ']|' || line_comment || '|'
						|| plain_comment || ')*(?:' || token || '))+');
					IF run IS NULL THEN
						mark := substring(rest FROM E'^\\$(?:' || name_start
							|| E'[^\\u0001-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]*)?\\$');
						IF mark IS NULL AND left(rest, 1) = '$' THEN
							run := '$';
						ELSIF strpos(substr(rest, length(mark) + 1), mark) > 0 THEN
							run := left(rest, 2 * length(mark) - 1
								+ strpos(substr(rest, length(mark) + 1), mark));
						END IF;
					END IF;
					IF is_closed THEN
						is_ambiguous := coalesce(statement_comment <> coalesce(comment, ''), false);
						EXIT WHEN is_ambiguous;
						statement_comment := coalesce(comment, '');
						is_closed := false;
					END IF;
					IF NOT has_tokens THEN
						tag_comments := pending;
					END IF;
					comment := NULL;
					is_nested := false;
					pending := '{}';
					has_tokens := true;
					IF run IS NULL THEN
						-- A string has no end.
						is_complete := false;
						EXIT;
					END IF;
					rest := substr(rest, length(run) + 1);
				END IF;
			END LOOP;
			is_ambiguous := is_ambiguous OR coalesce(statement_comment <> coalesce(comment, ''), false);
			IF excess IS NOT NULL THEN
				is_ambiguous := strpos(source, '/*Bemi') > 0;
			END IF;
			IF is_ambiguous OR excess IS NOT NULL THEN
				comment := NULL;
			END IF;
			IF statement_comment IS NULL AND excess IS NULL THEN
				tag_comments := tag_comments || pending;
			ELSE
				tag_comments := '{}';
			END IF;
			IF is_complete THEN
				-- Turns "comment" into its context, NULL if it is not valid.
				reason := NULL;
				remedy := E'Write a JSON object, such as /*Bemi {"userId": 1} Bemi*/.';
				IF is_ambiguous THEN
					reason := coalesce(excess, 'The text has several statements with different comments, and the '
						'one that runs is not known without extension bemi.');
					remedy := 'Send each statement by itself, or set bemi.context.';
				ELSIF comment IS NOT NULL AND is_nested THEN
					reason := 'The comment contains another comment mark.';
					remedy := E'In strings of the context, write \\u002f for the slash.';
				ELSIF comment IS NOT NULL THEN
					comment := btrim(substr(comment, 7, length(comment) - 12), E' \t\n\r\f\v');
					-- Input: comment. Output: reason, NULL if it is a valid context.
					IF octet_length(comment) > 1048576 THEN
						reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
							octet_length(comment), 1048576);
						remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
					ELSE
						BEGIN
							object := comment::jsonb;
							IF jsonb_typeof(object) <> 'object' THEN
								reason := 'The context is not a JSON object.';
							ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
								'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
								reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
								remedy := 'Leave nested values out of the context.';
							ELSIF length(comment) > 20000
								AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
								reason := format('The context has %s keys and array elements, '
									'"bemi.max_context_keys" allows 10000.',
									(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
								remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
							END IF;
						EXCEPTION
							WHEN numeric_value_out_of_range THEN
								reason := 'The context has a number that is out of range.';
							WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
								GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
								reason := coalesce(nullif(reason, ''), word);
						END;
					END IF;
				END IF;
				IF reason IS NOT NULL THEN
					comment := NULL;
					IF current_setting('_bemi.warned', true) IS DISTINCT FROM at THEN
						PERFORM set_config('_bemi.warned', at, true);
						RAISE WARNING 'context in the query''s comment is not valid and was left out'
							USING ERRCODE = 'invalid_parameter_value', DETAIL = reason, HINT = remedy;
					END IF;
				END IF;
				context := comment;
				EXIT;
			END IF;
			source := source || E'"\n';
		END LOOP;
	END IF;

	comment := NULL;
	is_end := false;
	IF is_known THEN
		IF reads_comments THEN
			comment := nullif(split_part(known, E'\n', 2), '')::jsonb #>> '{}';
		END IF;
		IF tag_names <> '' THEN
			tags := split_part(known, E'\n', 3);
		END IF;
		is_end := split_part(known, E'\n', 4) = 'true';
	ELSE
		is_long := octet_length(client) > 1000;
		IF reads_comments AND strpos(client, '/*Bemi') > 0
			OR tag_names <> '' AND strpos(client, '/*') > 0
		THEN
			source := client;
			-- Finds the last Bemi comment behind the statement in "source", and the comments that can have
			-- tags: those in front of the statement and those behind it. The rules are those of the server's
			-- scanner, as in src/context/comment.c. E'' throughout, because standard_conforming_strings of the
			-- session applies to this text.
			--
			-- Output: comment (NULL: none), is_nested, tag_comments; is_ambiguous: the text has several
			-- statements, whose comments differ, or is not searched to its end, because of "excess" (NULL: it
			-- is); is_complete: the text does not end within a string or comment.
			--
			-- Each turn reads and copies the rest of the text. So one turn takes all tokens of a statement,
			-- with what stands between them, and one turn all comments behind it. More turns are needed only
			-- for further statements, strings in $tag$ and comments within comments, which no regular
			-- expression can find. They have a limit that is a number of bytes, so that the time grows with
			-- the text and not with its square.
			--
			-- Characters and tokens of SQL, by code, because classes depend on the locale. A token is one
			-- of: another character, a minus, a slash, a parameter, a string, a quoted name, a string in $$,
			-- an escape string with its continuations, a name.
			space := E' \\t\\n\\r\\f\\v';
			line_comment := E'--[^\\n\\r]*(?:[\\n\\r]|$)';
			plain_comment := E'/\\*(?:[^*/]|\\*(?!/)|/(?!\\*))*\\*/';
			name_start :=
				E'[^\\u0001-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			name_part :=
				E'[^\\u0001-\\u0023\\u0025-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]';
			escape_string := E'''(?:[^''\\\\]|''''|\\\\.)*''';
			continuation := E'(?:[ \\t\\f\\v]|--[^\\n\\r]*)*[\\n\\r](?:[ \\t\\n\\r\\f\\v]|--[^\\n\\r]*[\\n\\r])*';
			token :=
				E'[\\u0001-\\u0008\\u000e-\\u001f\\u0021\\u0023\\u0025\\u0026\\u0028-\\u002c\\u002e'
					'\\u0030-\\u003a\\u003c-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]'
				|| E'|-(?!-)|/(?!\\*)|\\$[0-9]+|''(?:[^'']|'''')*''|"(?:[^"]|"")*"'
				|| E'|\\$\\$(?:[^$]|\\$(?!\\$))*\\$\\$'
				|| '|[eE]' || escape_string || '(?:' || continuation || escape_string || ')*'
					|| '(?!(?:' || continuation || ')?'')'
				|| '|(?![eE]'')' || name_start || name_part || '*(?!' || name_part || ')';

			rest := source;
			comment := NULL;
			is_nested := false;
			is_ambiguous := false;
			is_complete := true;
			tag_comments := '{}';
			pending := '{}';
			statement_comment := NULL;
			has_tokens := false;
			is_closed := false;
			turns := 0;
			bytes := 0;
			most_bytes := greatest(100000000, 4 * octet_length(source)::bigint);
			excess := NULL;
			-- A regular expression takes four bytes for each of the text, of at most 1 GB.
			IF octet_length(source) > 64000000 THEN
				excess := format('The text is %s bytes long. Without extension bemi, a text of at most 64000000 '
					'bytes is searched.', octet_length(source));
				rest := '';
			-- A backslash could hide the end of a string then.
			ELSIF current_setting('standard_conforming_strings') = 'off' AND strpos(source, E'\\') > 0 THEN
				rest := '';
			END IF;
			WHILE rest <> '' LOOP
				turns := turns + 1;
				bytes := bytes + octet_length(rest);
				IF turns > 1000 OR bytes > most_bytes THEN
					excess := 'The text has too many statements, strings in dollars and nested comments to be '
						'searched without extension bemi.';
					EXIT;
				END IF;
				run := NULL;
				IF strpos(E' \t\n\r\f\v;/-', left(rest, 1)) > 0 THEN
					run := substring(rest
						FROM '^(?:[' || space || ';]|' || line_comment || '|' || plain_comment || ')+');
				END IF;
				IF run IS NOT NULL THEN
					is_closed := is_closed OR has_tokens AND strpos(run, ';') > 0
						AND run !~ ('^(?:[' || space || ']|' || line_comment || '|' || plain_comment || ')+$');
					IF strpos(run, '/*') > 0 AND (tag_names <> '' OR strpos(run, '/*Bemi') > 0) THEN
						-- Most statements have one comment.
						word := btrim(run, E' \t\n\r\f\v;');
						IF left(word, 2) = '/*' AND strpos(word, '*/') = length(word) - 1 THEN
							comments := ARRAY[word];
						ELSE
							comments := ARRAY(SELECT
								regexp_matches(run, line_comment || '|(' || plain_comment || ')', 'g'));
						END IF;
						FOREACH word IN ARRAY comments LOOP
							IF tag_names <> '' AND word ~ '[=:]' THEN
								pending := pending || word;
							END IF;
							IF starts_with(word, '/*Bemi') AND right(word, 6) = 'Bemi*/' AND length(word) >= 12
							THEN
								comment := word;
								is_nested := false;
							END IF;
						END LOOP;
					END IF;
					rest := substr(rest, length(run) + 1);
				ELSIF left(rest, 2) = '/*' THEN
					-- Comments nest. One without an end reaches to the end of the text.
					nests := starts_with(rest, '/*Bemi');
					rest := substr(rest, 3);
					depth := 1;
					WHILE depth > 0 AND rest <> '' AND turns <= 1000 AND bytes <= most_bytes LOOP
						turns := turns + 1;
						bytes := bytes + octet_length(rest);
						run := substring(rest FROM E'^(?:[^*/]|\\*(?!/)|/(?!\\*))*');
						mark := substr(rest, length(run) + 1, 2);
						depth := depth + CASE mark WHEN '/*' THEN 1 WHEN '*/' THEN -1 ELSE 0 END;
						rest := substr(rest, length(run) + 3);
					END LOOP;
					is_complete := depth = 0 OR rest <> '';
					IF nests AND depth = 0 AND right(run, 4) = 'Bemi' THEN
						comment := run;
						is_nested := true;
					END IF;
				ELSE
					run := substring(rest FROM '^(?:(?:[' || space || ']|' || line_comment || '|'
						|| plain_comment || ')*(?:' || token || '))+');
					IF run IS NULL THEN
						mark := substring(rest FROM E'^\\$(?:' || name_start
							|| E'[^\\u0001-\\u002f\\u003a-\\u0040\\u005b-\\u005e\\u0060\\u007b-\\u007f]*)?\\$');
						IF mark IS NULL AND left(rest, 1) = '$' THEN
							run := '$';
						ELSIF strpos(substr(rest, length(mark) + 1), mark) > 0 THEN
							run := left(rest, 2 * length(mark) - 1
								+ strpos(substr(rest, length(mark) + 1), mark));
						END IF;
					END IF;
					IF is_closed THEN
						is_ambiguous := coalesce(statement_comment <> coalesce(comment, ''), false);
						EXIT WHEN is_ambiguous;
						statement_comment := coalesce(comment, '');
						is_closed := false;
					END IF;
					IF NOT has_tokens THEN
						tag_comments := pending;
					END IF;
					comment := NULL;
					is_nested := false;
					pending := '{}';
					has_tokens := true;
					IF run IS NULL THEN
						-- A string has no end.
						is_complete := false;
						EXIT;
					END IF;
					rest := substr(rest, length(run) + 1);
				END IF;
			END LOOP;
			is_ambiguous := is_ambiguous OR coalesce(statement_comment <> coalesce(comment, ''), false);
			IF excess IS NOT NULL THEN
				is_ambiguous := strpos(source, '/*Bemi') > 0;
			END IF;
			IF is_ambiguous OR excess IS NOT NULL THEN
				comment := NULL;
			END IF;
			IF statement_comment IS NULL AND excess IS NULL THEN
				tag_comments := tag_comments || pending;
			ELSE
				tag_comments := '{}';
			END IF;
			IF NOT reads_comments THEN
				comment := NULL;
				is_ambiguous := false;
			END IF;
			pending := tag_comments;
			-- Turns "comment" into its context, NULL if it is not valid.
			reason := NULL;
			remedy := E'Write a JSON object, such as /*Bemi {"userId": 1} Bemi*/.';
			IF is_ambiguous THEN
				reason := coalesce(excess, 'The text has several statements with different comments, and the '
					'one that runs is not known without extension bemi.');
				remedy := 'Send each statement by itself, or set bemi.context.';
			ELSIF comment IS NOT NULL AND is_nested THEN
				reason := 'The comment contains another comment mark.';
				remedy := E'In strings of the context, write \\u002f for the slash.';
			ELSIF comment IS NOT NULL THEN
				comment := btrim(substr(comment, 7, length(comment) - 12), E' \t\n\r\f\v');
				-- Input: comment. Output: reason, NULL if it is a valid context.
				IF octet_length(comment) > 1048576 THEN
					reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
						octet_length(comment), 1048576);
					remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
				ELSE
					BEGIN
						object := comment::jsonb;
						IF jsonb_typeof(object) <> 'object' THEN
							reason := 'The context is not a JSON object.';
						ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
							'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
							reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
							remedy := 'Leave nested values out of the context.';
						ELSIF length(comment) > 20000
							AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
							reason := format('The context has %s keys and array elements, '
								'"bemi.max_context_keys" allows 10000.',
								(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
							remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
						END IF;
					EXCEPTION
						WHEN numeric_value_out_of_range THEN
							reason := 'The context has a number that is out of range.';
						WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
							GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
							reason := coalesce(nullif(reason, ''), word);
					END;
				END IF;
			END IF;
			IF reason IS NOT NULL THEN
				comment := NULL;
				IF current_setting('_bemi.warned', true) IS DISTINCT FROM at THEN
					PERFORM set_config('_bemi.warned', at, true);
					RAISE WARNING 'context in the query''s comment is not valid and was left out'
						USING ERRCODE = 'invalid_parameter_value', DETAIL = reason, HINT = remedy;
				END IF;
			END IF;
			known := comment;
			IF tag_names <> '' THEN
				tag_comments := pending;
				-- The pairs in tag_comments, as an object of strings: tags. A comment that is not well-formed has
				-- none. docs/explanation/which-context.md has the grammar.
				--
				-- As in C, a comment that is larger than a context may be is not read, and more tags than a context
				-- may have keys, or bytes, are left out. Because each well-formed comment has a tag, so are more
				-- comments than that.
				space := E'[ \\t\\n\\r\\f\\v]*';
				tag_key := E'(?:[^ \\t\\n\\r\\f\\v,=''"\\\\%]|\\\\''|%%?[0-9A-Fa-f]{2})+';
				quoted_tag := E'(?:[^''\\\\%]|\\\\''|\\\\(?!'')|%%?[0-9A-Fa-f]{2})*';
				bare_tag := '(?:[A-Za-z0-9._~-]|%%?[0-9A-Fa-f]{2})+';
				tag_pair := tag_key || space || '=' || space
					|| '(?:''' || quoted_tag || '''|' || bare_tag || ')';
				reads_sqlcommenter := strpos(tag_formats, 'sqlcommenter') > 0;
				reads_marginalia := strpos(tag_formats, 'marginalia') > 0;
				IF btrim(tag_names) <> '*' THEN
					wanted_tags := ARRAY(SELECT regexp_replace(btrim(n), E'^"(.*)"$', E'\\1')
						FROM unnest(string_to_array(tag_names, ',')) n);
				END IF;
				of_comments := '{}';
				tag_count := 0;
				tag_bytes := 0;
				-- In JSON, a tag of a few bytes takes less than ten times as many.
				may_exceed := octet_length(array_to_string(tag_comments, '')) > 100000;
				IF array_length(tag_comments, 1) > 10000 THEN
					tag_comments := '{}';
				END IF;
				FOREACH source IN ARRAY tag_comments LOOP
					CONTINUE WHEN octet_length(source) > 1048576;
					source := substr(source, 3, length(source) - 4);
					of_comment := NULL;
					IF reads_sqlcommenter
						AND source ~ ('^' || space || tag_pair
							|| '(?:' || space || ',' || space || tag_pair || ')*' || space || '$')
					THEN
						BEGIN
							SELECT coalesce(jsonb_object_agg(d.tag[1], d.tag[2]), '{}'), count(*),
								sum(CASE WHEN may_exceed
									THEN octet_length(to_json(d.tag[1])::text || to_json(d.tag[2])::text) + 4 END)
								INTO of_comment, pairs, pair_bytes
								FROM (
									SELECT ARRAY(
										SELECT CASE WHEN w.part ~ E'[%\\\\]' THEN (
												SELECT string_agg(coalesce(
													convert_from(decode(replace(e.piece[1], '%', ''), 'hex'), 'UTF8'),
													CASE WHEN e.piece[2] IS NOT NULL THEN E'''' END, e.piece[3]), '')
												FROM regexp_matches(w.part,
													E'((?:%%?[0-9A-Fa-f]{2})+)|(\\\\'')|([^%\\\\]+|\\\\)', 'g') e(piece))
											ELSE w.part END
										FROM unnest(ARRAY[p.pair[1], coalesce(p.pair[2], p.pair[3])])
											WITH ORDINALITY w(part, place)
										ORDER BY w.place) AS tag
									FROM (SELECT regexp_matches(source,
										'(' || tag_key || ')' || space || '=' || space
											|| '(?:''(' || quoted_tag || ')''|(' || bare_tag || '))', 'g')
										OFFSET 0) p(pair)
									OFFSET 0) d
								WHERE wanted_tags IS NULL OR d.tag[1] = ANY (wanted_tags);
						EXCEPTION WHEN data_exception OR feature_not_supported THEN
							-- Bytes that are no UTF-8, or that the database's encoding lacks.
							of_comment := NULL;
						END;
					END IF;
					IF of_comment IS NULL AND reads_marginalia
						AND source ~ ('^' || space || '[A-Za-z0-9_.-]+' || space || ':[^,]*'
							|| '(?:,' || space || '[A-Za-z0-9_.-]+' || space || ':[^,]*)*$')
					THEN
						SELECT coalesce(jsonb_object_agg(d.tag[1], d.tag[2]), '{}'), count(*),
							sum(CASE WHEN may_exceed
								THEN octet_length(to_json(d.tag[1])::text || to_json(d.tag[2])::text) + 4 END)
							INTO of_comment, pairs, pair_bytes
							FROM (
								SELECT ARRAY[btrim(split_part(m.part, ':', 1), E' \t\n\r\f\v'),
									btrim(substr(m.part, strpos(m.part, ':') + 1), E' \t\n\r\f\v')] AS tag
								FROM unnest(string_to_array(source, ',')) m(part)) d
							WHERE wanted_tags IS NULL OR d.tag[1] = ANY (wanted_tags);
					END IF;
					CONTINUE WHEN of_comment IS NULL;
					of_comments := of_comments || of_comment;
					tag_count := tag_count + pairs;
					tag_bytes := tag_bytes + coalesce(pair_bytes, 0);
					EXIT WHEN tag_count >= 10000 OR tag_bytes > 1048576;
				END LOOP;
				IF tag_count >= 10000 OR tag_bytes > 1048576 THEN
					of_comments := '{}';
				END IF;
				SELECT coalesce(jsonb_object_agg(t.key, t.value ORDER BY c.place), '{}') INTO tags
					FROM unnest(of_comments) WITH ORDINALITY c(pairs, place), jsonb_each(c.pairs) t;
			END IF;
			comment := known;
			is_long := true;
		END IF;
		IF is_long OR coalesce(current_setting('_bemi.comment', true), '') <> ''
			OR coalesce(current_setting('_bemi.tags', true), '') <> ''
		THEN
			is_end := client ~* (E'^(?:[ \\t\\n\\r\\f\\v;]|--[^\\n\\r]*[\\n\\r]|/\\*(?:[^*/]|\\*(?!/)|/(?!\\*))*\\*/)*'
				'(?:commit|end|prepare\\s+transaction|set\\s+constraints)\\M');
		END IF;
		IF is_trigger AND is_long THEN
			PERFORM set_config('_bemi.client',
				concat_ws(E'\n', at, coalesce(to_json(comment)::text, ''), tags::text, is_end), true);
		END IF;
	END IF;
	IF is_trigger AND comment IS NOT NULL THEN
		PERFORM set_config('_bemi.comment', comment, true);
	END IF;
	context := coalesce(context, comment);

	-- Deferred triggers run in COMMIT. They have the last comment and the last tags of their
	-- transaction.
	IF is_end THEN
		IF context IS NULL AND reads_comments THEN
			context := nullif(current_setting('_bemi.comment', true), '');
		END IF;
		IF tags = '{}' AND tag_names <> '' THEN
			tags := coalesce(nullif(current_setting('_bemi.tags', true), ''), '{}');
		END IF;
	ELSIF is_trigger AND tags <> '{}' THEN
		PERFORM set_config('_bemi.tags', tags::text, true);
	END IF;

	-- Without the extension, SET does not check the setting. The reader does.
	IF context IS NULL THEN
		context := coalesce(current_setting('bemi.context', true), '');
		IF octet_length(context) > 1048576
			OR context <> '' AND ltrim(context, E' \t\n\r') NOT LIKE '{%'
		THEN
			IF current_setting('_bemi.warned', true) IS DISTINCT FROM at THEN
				PERFORM set_config('_bemi.warned', at, true);
				RAISE WARNING 'invalid value for parameter "%"', 'bemi.context'
					USING ERRCODE = 'invalid_parameter_value',
						DETAIL = CASE WHEN octet_length(context) > 1048576
							THEN format('The context is %s bytes long, '
								'"bemi.max_context_size" allows %s.', octet_length(context), 1048576)
							ELSE 'The context is not a JSON object.' END,
						HINT = E'Write a JSON object, such as SET bemi.context = ''{"userId": 1}''.';
			END IF;
			context := '';
		END IF;
	END IF;

	IF field_names <> '' OR tags <> '{}' OR strpos(context, '_tags') > 0 THEN
		comment := coalesce(nullif(context, ''), '{}');
		reason := NULL;
		-- Input: comment. Output: reason, NULL if it is a valid context.
		IF octet_length(comment) > 1048576 THEN
			reason := format('The context is %s bytes long, "bemi.max_context_size" allows %s.',
				octet_length(comment), 1048576);
			remedy := 'Leave values out of the context, or raise "bemi.max_context_size".';
		ELSE
			BEGIN
				object := comment::jsonb;
				IF jsonb_typeof(object) <> 'object' THEN
					reason := 'The context is not a JSON object.';
				ELSIF length(comment) > 2000 AND jsonb_path_exists(object,
					'strict $.**{1000} ? (@.type() == "object" || @.type() == "array")') THEN
					reason := 'The context is nested too deeply, at most 1000 levels are allowed.';
					remedy := 'Leave nested values out of the context.';
				ELSIF length(comment) > 20000
					AND (SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1 > 10000 THEN
					reason := format('The context has %s keys and array elements, '
						'"bemi.max_context_keys" allows 10000.',
						(SELECT count(*) FROM jsonb_path_query(object, 'strict $.**')) - 1);
					remedy := 'Leave keys out of the context, or raise "bemi.max_context_keys".';
				END IF;
			EXCEPTION
				WHEN numeric_value_out_of_range THEN
					reason := 'The context has a number that is out of range.';
				WHEN data_exception OR feature_not_supported OR program_limit_exceeded THEN
					GET STACKED DIAGNOSTICS reason = PG_EXCEPTION_DETAIL, word = MESSAGE_TEXT;
					reason := coalesce(nullif(reason, ''), word);
			END;
		END IF;
		object := CASE WHEN reason IS NULL THEN object - '_tags' ELSE '{}' END;
		IF tags <> '{}' THEN
			tags := object || jsonb_build_object('_tags', tags);
			size := octet_length(tags::text);
			IF size <= 20000 OR size <= 1048576
				AND (SELECT count(*) FROM jsonb_path_query(tags, 'strict $.**')) - 1 <= 10000
			THEN
				object := tags;
			END IF;
		END IF;
		IF field_names <> '' THEN
			SELECT object || jsonb_build_object('_db', jsonb_object_agg(f.name, f.value)) INTO object
				FROM (VALUES ('session_user', to_jsonb(session_user)),
					('current_user', to_jsonb(current_user)),
					('application_name', to_jsonb(current_setting('application_name'))),
					('client_addr', to_jsonb(host(inet_client_addr()))),
					('backend_pid', to_jsonb(pg_backend_pid())),
					('query', to_jsonb(left(coalesce(client, current_query()), 1000)))) f(name, value)
				WHERE f.name = ANY (string_to_array(replace(lower(field_names), ' ', ''), ','));
		END IF;
		context := CASE WHEN object = '{}' AND context = '' THEN '' ELSE object::text END;
	END IF;

	IF path = '' THEN
		frame := at || E'\n' || context;
		IF latest = 'T' AND current_setting('_bemi.statement', true) = frame
			AND coalesce(client, current_query()) !~* 'savepoint'
		THEN
			-- Another trigger of the same statement.
			RETURN NULL;
		END IF;
		PERFORM set_config('_bemi.statement', frame, true);
	ELSE
		frames := coalesce(nullif(current_setting('_bemi.frames', true), ''), '{}')::text[];
		IF frames[1] IS DISTINCT FROM at THEN
			frames := ARRAY[at];
		END IF;
		-- Those that are not around this one have ended.
		WHILE array_length(frames, 1) > 1
			AND (frames[array_length(frames, 1) - 2]::integer >= length(path)
				OR frames[array_length(frames, 1) - 1]
					<> md5(right(path, frames[array_length(frames, 1) - 2]::integer)))
		LOOP
			frames := frames[1 : array_length(frames, 1) - 3];
		END LOOP;
		PERFORM set_config('_bemi.frames',
			(frames || ARRAY[length(path)::text, md5(path), context])::text, true);
	END IF;

	-- No message: no context.
	IF context <> '' OR latest <> '' THEN
		PERFORM pg_logical_emit_message(true, '_bemi', coalesce(nullif(context, ''), '{}'));
		PERFORM set_config('_bemi.latest',
			CASE path WHEN '' THEN 'T' ELSE 'N' || context END, true);
	END IF;
	RETURN NULL;
END
$bemi$;
COMMENT ON FUNCTION bemi.emit_context()
	IS 'trigger function for BEFORE ... FOR EACH STATEMENT: writes the context to the WAL before '
		'the rows of the statement';
GRANT EXECUTE ON FUNCTION bemi.emit_context() TO PUBLIC;

-- A statement in a function or a trigger has ended. The statement around it may go on to write
-- rows, which must not get the context of the nested one. The message is written twice, because
-- the decoder may send a row of another subtransaction in front of a message right before it.
CREATE OR REPLACE FUNCTION bemi.reemit_context()
	RETURNS trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	stack text;
	path text;
	at text;
	frames text[];
	outer_context text;
	latest text := coalesce(current_setting('_bemi.latest', true), '');
BEGIN
	IF latest = '' THEN
		RETURN NULL;
	END IF;
	GET DIAGNOSTICS stack = PG_CONTEXT;
	path := substr(stack, strpos(stack || E'\n', E'\n') + 1);
	IF path = '' THEN
		RETURN NULL;
	END IF;
	at := extract(epoch FROM statement_timestamp())::text;
	IF split_part(current_setting('_bemi.statement', true), E'\n', 1) = at THEN
		outer_context := substr(current_setting('_bemi.statement', true), length(at) + 2);
	END IF;
	frames := coalesce(nullif(current_setting('_bemi.frames', true), ''), '{}')::text[];
	IF frames[1] = at THEN
		FOR i IN 2 .. array_length(frames, 1) BY 3 LOOP
			IF frames[i]::integer < length(path)
				AND frames[i + 1] = md5(right(path, frames[i]::integer))
			THEN
				outer_context := frames[i + 2];
			END IF;
		END LOOP;
	END IF;
	latest := CASE latest WHEN 'T' THEN
			regexp_replace(current_setting('_bemi.statement', true), E'^[^\\n]*\\n', '')
		ELSE substr(latest, 2) END;
	IF outer_context IS NULL OR outer_context = latest THEN
		RETURN NULL;
	END IF;
	PERFORM pg_logical_emit_message(true, '_bemi', coalesce(nullif(outer_context, ''), '{}'))
		FROM generate_series(1, 2);
	PERFORM set_config('_bemi.latest', 'N' || outer_context, true);
	RETURN NULL;
END
$bemi$;
COMMENT ON FUNCTION bemi.reemit_context()
	IS 'trigger function for AFTER ... FOR EACH STATEMENT: writes the context of the statement '
		'around this one to the WAL again';
GRANT EXECUTE ON FUNCTION bemi.reemit_context() TO PUBLIC;

--
-- Tracking: which tables have their changes stored
--
-- A tracked table has the triggers, REPLICA IDENTITY FULL and a place in publication "bemi". The
-- arguments of trigger bemi_emit_context are those of the extension: the former replica identity,
-- its index, and how the table became tracked.
--

-- Reader of the history: the server with the extension. It needs the publication when it starts.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication p
		WHERE p.pubname OPERATOR(pg_catalog.=) 'bemi')
	THEN
		CREATE PUBLICATION bemi
			WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
		-- From 18 on, writes to a table with REPLICA IDENTITY FULL fail if generated columns are
		-- not in the stream.
		IF pg_catalog.current_setting('server_version_num')::pg_catalog.int4
			OPERATOR(pg_catalog.>=) 180000
		THEN
			EXECUTE 'ALTER PUBLICATION bemi SET (publish_generated_columns = stored)';
		END IF;
	END IF;
END
$$;

CREATE OR REPLACE FUNCTION _bemi.partitions(target regclass)
	RETURNS SETOF regclass
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	WITH RECURSIVE tree(relid, level) AS (
		SELECT target::oid, 0
		UNION ALL SELECT i.inhrelid, t.level + 1
			FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid AND NOT i.inhdetachpending
			JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
	)
	SELECT t.relid::regclass FROM tree t ORDER BY t.level, t.relid
$bemi$;
COMMENT ON FUNCTION _bemi.partitions(regclass)
	IS 'internal: the table and all its partitions, parents first';
GRANT EXECUTE ON FUNCTION _bemi.partitions(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION _bemi.is_published(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
		WHERE p.pubname = 'bemi' AND pr.prrelid = target)
$bemi$;
COMMENT ON FUNCTION _bemi.is_published(regclass)
	IS 'internal: whether the table itself is in publication "bemi"';
GRANT EXECUTE ON FUNCTION _bemi.is_published(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION _bemi.has_trigger(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
			JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE t.tgrelid = target AND t.tgname = 'bemi_emit_context'
			AND p.proname = 'emit_context' AND n.nspname = 'bemi')
$bemi$;
COMMENT ON FUNCTION _bemi.has_trigger(regclass)
	IS 'internal: whether the table has the trigger of bemi.track()';
GRANT EXECUTE ON FUNCTION _bemi.has_trigger(regclass) TO PUBLIC;

-- The topmost of the table and its ancestors that is published, otherwise the topmost of all.
CREATE OR REPLACE FUNCTION _bemi.partition_root(target regclass)
	RETURNS regclass
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	WITH RECURSIVE line(relid, level) AS (
		SELECT target::oid, 0
		UNION ALL SELECT i.inhparent, l.level + 1
			FROM line l JOIN pg_class c ON c.oid = l.relid AND c.relispartition
			JOIN pg_inherits i ON i.inhrelid = l.relid AND NOT i.inhdetachpending
	)
	SELECT l.relid::regclass FROM line l
		ORDER BY _bemi.is_published(l.relid) DESC, l.level DESC LIMIT 1
$bemi$;
COMMENT ON FUNCTION _bemi.partition_root(regclass)
	IS 'internal: the table under whose name the changes of this one are stored';
GRANT EXECUTE ON FUNCTION _bemi.partition_root(regclass) TO PUBLIC;

-- REPLICA IDENTITY FULL includes virtual generated columns (18), which are never in the stream.
CREATE OR REPLACE FUNCTION _bemi.can_be_full(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT NOT EXISTS (SELECT FROM pg_attribute a
		WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped)
$bemi$;
COMMENT ON FUNCTION _bemi.can_be_full(regclass)
	IS 'internal: whether the table can be written to with REPLICA IDENTITY FULL';
GRANT EXECUTE ON FUNCTION _bemi.can_be_full(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION _bemi.untrackable(target regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT CASE
		WHEN c.relkind = 'f'
			THEN 'The rows of a foreign table are on another server; track them there.'
		WHEN c.relkind IN ('v', 'm')
			THEN 'A view has no rows of its own; track the tables below it.'
		WHEN c.relkind NOT IN ('r', 'p') THEN 'It is not a table.'
		WHEN n.nspname IN ('pg_catalog', 'pg_toast', 'information_schema')
			THEN 'It is a system table.'
		WHEN n.nspname IN ('bemi', '_bemi')
			THEN 'It belongs to bemi; storing changes of the history would cause further changes.'
		WHEN c.relpersistence = 't' THEN 'A temporary table is not written to the write-ahead log.'
		WHEN c.relpersistence = 'u' THEN 'An unlogged table is not written to the write-ahead log.'
		WHEN NOT _bemi.can_be_full(target)
				AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = target AND i.indisprimary)
			THEN 'It has a virtual generated column, so it needs a primary key, and has none.'
		END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
$bemi$;
COMMENT ON FUNCTION _bemi.untrackable(regclass)
	IS 'internal: reason why the relation cannot be tracked, NULL if it can';
GRANT EXECUTE ON FUNCTION _bemi.untrackable(regclass) TO PUBLIC;

-- Creates the triggers of one table and sets its replica identity, if they are missing.
CREATE OR REPLACE FUNCTION _bemi.prepare_table(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
	index_name name;
	is_full boolean := _bemi.can_be_full(target);
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT _bemi.has_trigger(target) THEN
		IF t.relreplident = 'i' THEN
			SELECT c.relname INTO index_name
				FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
				WHERE i.indrelid = target AND i.indisreplident;
		END IF;
		EXECUTE format('CREATE TRIGGER bemi_emit_context '
			'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT '
			'EXECUTE FUNCTION bemi.emit_context(%L, %L, %L)',
			target, t.relreplident, coalesce(index_name, ''),
			CASE WHEN t.relispartition THEN 'partition' ELSE 'table' END);
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger g
		WHERE g.tgrelid = target AND g.tgname = 'bemi_reemit_context')
	THEN
		EXECUTE format('CREATE TRIGGER bemi_reemit_context '
			'AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT '
			'EXECUTE FUNCTION bemi.reemit_context()', target);
	END IF;
	IF is_full AND t.relreplident <> 'f' THEN
		EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', target);
	ELSIF NOT is_full AND t.relreplident IN ('f', 'n') THEN
		EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT', target);
	END IF;
END
$bemi$;
COMMENT ON FUNCTION _bemi.prepare_table(regclass)
	IS 'internal: creates the triggers of a table and sets its replica identity';
GRANT EXECUTE ON FUNCTION _bemi.prepare_table(regclass) TO PUBLIC;

-- Locks the table under the name that it has. It may get another name during the wait.
CREATE OR REPLACE FUNCTION _bemi.lock_table(target regclass, mode text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	name text := target::text;
BEGIN
	EXECUTE format('LOCK TABLE ONLY %s IN %s MODE', name, mode);
	IF to_regclass(name) IS DISTINCT FROM target THEN
		RAISE EXCEPTION 'table "%" was renamed in the meantime', name
			USING ERRCODE = 'object_in_use', HINT = 'Try again.';
	END IF;
END
$bemi$;
COMMENT ON FUNCTION _bemi.lock_table(regclass, text) IS 'internal: locks a table';
GRANT EXECUTE ON FUNCTION _bemi.lock_table(regclass, text) TO PUBLIC;

-- Throws an error unless the current user owns the table.
CREATE OR REPLACE FUNCTION _bemi.check_owner(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT pg_has_role(current_user, t.relowner, 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to track table "%"', t.relname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'You must own it and have the right to call bemi.track().';
	END IF;
END
$bemi$;
COMMENT ON FUNCTION _bemi.check_owner(regclass)
	IS 'internal: error unless the current user owns the table';
GRANT EXECUTE ON FUNCTION _bemi.check_owner(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION bemi.track(target regclass, ignore name[] DEFAULT NULL,
		redact name[] DEFAULT NULL, redact_hash name[] DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
	root regclass;
	reason text;
	partition regclass;
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to track does not exist' USING ERRCODE = 'undefined_table';
	END IF;
	reason := _bemi.untrackable(target);
	IF reason IS NOT NULL THEN
		IF t.relkind = 'r' AND t.relpersistence = 'u' THEN
			RAISE EXCEPTION 'cannot track "%"', t.relname
				USING ERRCODE = 'wrong_object_type', DETAIL = reason,
					HINT = format('ALTER TABLE %s SET LOGGED;', target);
		END IF;
		RAISE EXCEPTION 'cannot track "%"', t.relname
			USING ERRCODE = 'wrong_object_type', DETAIL = reason;
	END IF;
	root := _bemi.partition_root(target);
	IF root <> target AND NOT _bemi.has_trigger(root) THEN
		RAISE EXCEPTION 'cannot track partition "%" alone', t.relname
			USING ERRCODE = 'wrong_object_type',
				DETAIL = 'Rows that are written through its root would have no context.',
				HINT = format('SELECT bemi.track(%L);', root);
	END IF;
	IF ignore <> '{}' OR redact <> '{}' OR redact_hash <> '{}' THEN
		RAISE EXCEPTION 'cannot set rules for table "%"', t.relname
			USING ERRCODE = 'feature_not_supported',
				DETAIL = 'Rules for columns need extension bemi in this database.',
				HINT = 'bemi.ignore_columns at the server of the history ignores columns.';
	END IF;
	PERFORM _bemi.check_owner(target);

	-- At once the lock that REPLICA IDENTITY needs, because an upgrade could deadlock. The loop
	-- looks for partitions that were attached during the wait.
	LOOP
		SELECT p INTO partition FROM _bemi.partitions(target) p
			JOIN pg_class c ON c.oid = p
			WHERE _bemi.untrackable(p) IS NULL
				AND NOT (_bemi.has_trigger(p)
					AND EXISTS (SELECT FROM pg_trigger g
						WHERE g.tgrelid = p AND g.tgname = 'bemi_reemit_context')
					AND (c.relreplident = 'f' OR NOT _bemi.can_be_full(p))
					AND (p = root OR NOT _bemi.is_published(p)))
			LIMIT 1;
		EXIT WHEN NOT FOUND;
		PERFORM _bemi.check_owner(partition);
		PERFORM _bemi.lock_table(partition, 'ACCESS EXCLUSIVE');
		PERFORM _bemi.prepare_table(partition);
		IF partition <> root AND _bemi.is_published(partition) THEN
			-- It was tracked by itself.
			EXECUTE format('ALTER PUBLICATION bemi DROP TABLE ONLY %s', partition);
			EXECUTE (SELECT regexp_replace(
					regexp_replace(pg_get_triggerdef(g.oid), '^CREATE', 'CREATE OR REPLACE'),
					E'''table''\\)$', E'''attached'')')
				FROM pg_trigger g WHERE g.tgrelid = partition AND g.tgname = 'bemi_emit_context');
		END IF;
	END LOOP;
	FOR partition, reason IN SELECT p, _bemi.untrackable(p) FROM _bemi.partitions(target) p
		WHERE _bemi.untrackable(p) IS NOT NULL
	LOOP
		RAISE NOTICE 'partition "%" is not tracked', partition USING DETAIL = reason;
	END LOOP;
	IF root = target AND NOT _bemi.is_published(target) THEN
		EXECUTE format('ALTER PUBLICATION bemi ADD TABLE ONLY %s', target);
	END IF;
END
$bemi$;
COMMENT ON FUNCTION bemi.track(regclass, name[], name[], name[])
	IS 'stores every change of the table and its partitions from now on; call it again after a '
		'partition was added';
REVOKE ALL ON FUNCTION bemi.track(regclass, name[], name[], name[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION bemi.untrack(target regclass)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
	root regclass;
	partition regclass;
	arguments text[];
	identity text;
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to untrack does not exist' USING ERRCODE = 'undefined_table';
	END IF;
	root := _bemi.partition_root(target);
	IF root <> target AND _bemi.has_trigger(root) THEN
		RAISE EXCEPTION 'cannot untrack partition "%" alone', t.relname
			USING ERRCODE = 'wrong_object_type',
				DETAIL = 'It is published with its root, and updates of a published table fail '
					'without a replica identity.',
				HINT = format('SELECT bemi.untrack(%L);', root);
	END IF;
	PERFORM _bemi.check_owner(target);
	IF NOT _bemi.has_trigger(target) AND NOT _bemi.is_published(target) THEN
		RETURN;
	END IF;
	PERFORM _bemi.lock_table(target, 'ACCESS EXCLUSIVE');
	IF _bemi.is_published(target) THEN
		EXECUTE format('ALTER PUBLICATION bemi DROP TABLE ONLY %s', target);
	END IF;

	FOR partition IN SELECT p FROM _bemi.partitions(target) p WHERE _bemi.has_trigger(p) LOOP
		PERFORM _bemi.check_owner(partition);
		PERFORM _bemi.lock_table(partition, 'ACCESS EXCLUSIVE');
		-- Arguments are texts, each ended by a zero byte.
		SELECT string_to_array(encode(g.tgargs, 'escape'), E'\\000') INTO arguments
			FROM pg_trigger g WHERE g.tgrelid = partition AND g.tgname = 'bemi_emit_context';
		SELECT * INTO t FROM pg_class c WHERE c.oid = partition;
		EXECUTE format('DROP TRIGGER bemi_emit_context ON %s', partition);
		EXECUTE format('DROP TRIGGER IF EXISTS bemi_reemit_context ON %s', partition);
		CONTINUE WHEN t.relreplident <> 'f' OR arguments[1] = 'f';
		identity := CASE arguments[1] WHEN 'n' THEN 'NOTHING' WHEN 'i'
			THEN format('USING INDEX %I',
				convert_from(decode(arguments[2], 'escape'), getdatabaseencoding()))
			ELSE 'DEFAULT' END;
		BEGIN
			EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', partition, identity);
		EXCEPTION WHEN undefined_object OR undefined_table OR wrong_object_type
			OR object_not_in_prerequisite_state
		THEN
			RAISE NOTICE
				'index "%" of table "%" no longer exists, its replica identity becomes DEFAULT',
				arguments[2], t.relname;
			EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT', partition);
		END;
	END LOOP;
END
$bemi$;
COMMENT ON FUNCTION bemi.untrack(regclass)
	IS 'stores no more changes of the table, and restores its state before bemi.track(); its '
		'history stays';
REVOKE ALL ON FUNCTION bemi.untrack(regclass) FROM PUBLIC;

-- Not used unless there is an event trigger, which takes a superuser, or a host that allows it:
--   CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end
--       WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION _bemi.follow_ddl();
-- It runs with the rights of whoever runs the command, who owns the new partition.
CREATE OR REPLACE FUNCTION _bemi.follow_ddl()
	RETURNS event_trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	partition regclass;
BEGIN
	-- Only pg_catalog: a role without rights on _bemi may create tables that are not tracked.
	IF NOT EXISTS (
		WITH RECURSIVE line(relid) AS (
			SELECT d.objid FROM pg_event_trigger_ddl_commands() d
				WHERE d.classid = 'pg_class'::regclass
			UNION SELECT i.inhparent FROM line l JOIN pg_inherits i ON i.inhrelid = l.relid
		)
		SELECT FROM line l JOIN pg_trigger g
			ON g.tgrelid = l.relid AND g.tgname = 'bemi_emit_context')
	THEN
		RETURN;
	END IF;
	FOR partition IN
		SELECT DISTINCT p.relation
			FROM pg_event_trigger_ddl_commands() d,
				LATERAL _bemi.partitions(d.objid) p(relation)
				JOIN pg_class c ON c.oid = p.relation
			WHERE d.classid = 'pg_class'::regclass AND d.object_type = 'table'
				AND c.relispartition AND NOT _bemi.has_trigger(p.relation)
				AND _bemi.untrackable(p.relation) IS NULL
				AND _bemi.has_trigger(_bemi.partition_root(p.relation))
	LOOP
		PERFORM _bemi.prepare_table(partition);
	END LOOP;
END
$bemi$;
COMMENT ON FUNCTION _bemi.follow_ddl()
	IS 'event trigger function: tracks new partitions of tracked tables';
GRANT EXECUTE ON FUNCTION _bemi.follow_ddl() TO PUBLIC;

DO $$
DECLARE
	name text;
	value text;
BEGIN
	FOREACH name IN ARRAY '{bemi.include,bemi.tags,bemi.tags_format}'::pg_catalog.text[] LOOP
		value := pg_catalog.substring(pg_catalog.current_setting('_bemi.former_source', true),
			pg_catalog.format(E'''([^'']+)'' /\\* %s \\*/', name));
		IF value IS NOT NULL THEN
			PERFORM bemi.set_default(name, value);
		END IF;
	END LOOP;
END
$$;

COMMIT;
