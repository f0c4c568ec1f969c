
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
	-- include context_variables.plpgsql
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
	-- include find_context.plpgsql

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
