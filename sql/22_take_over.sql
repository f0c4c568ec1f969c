
--
-- Taking over from bemi-source.sql: its tables get the trigger of the extension
--
-- All in one transaction, so a statement has the one trigger or the other. This must come before
-- the event triggers. Tables are locked and changed by name. A name that has gone to another table
-- in the meantime is an error.
--

-- Locks all tables. A transaction of the application that has written to one table can be waiting
-- for another one. If it finds a deadlock after deadlock_timeout, it fails. So each wait that
-- begins with locks ends before that time, and the check for a deadlock comes at once, here. Then
-- all locks are released, the application goes on, and the next try begins with the table that was
-- busy, so the order becomes that of the application. Later tries wait for longer.
--
-- At once the lock that DROP TRIGGER needs, because an upgrade would deadlock with a transaction
-- that has read the table.
DO $$
DECLARE
	former name := nullif(current_setting('bemi_script.former_schema', true), '');
	functions oid[];
	began timestamptz := clock_timestamp();
	lock_timeout text := current_setting('lock_timeout');
	deadlock_timeout text := current_setting('deadlock_timeout');
	longest interval := coalesce(nullif(lock_timeout::interval, '0'), '1 minute');
	try_began timestamptz;
	has_locks boolean;
	relation regclass;
	table_name text;
	busy text[] := '{}';
BEGIN
	IF former IS NULL THEN
		RETURN;
	END IF;
	functions := ARRAY[to_regprocedure(format('%I.emit_context()', former)),
		to_regprocedure(format('%I.reemit_context()', former))];
	PERFORM set_config('deadlock_timeout', '1ms', true);
	LOOP
		try_began := clock_timestamp();
		has_locks := false;
		BEGIN
			FOR relation, table_name IN
				SELECT c.oid, c.oid::regclass::text FROM pg_class c
					WHERE c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_trigger g
						WHERE g.tgrelid = c.oid AND g.tgfoid = ANY (functions)
							AND g.tgname IN ('bemi_emit_context', 'bemi_reemit_context'))
					ORDER BY array_position(busy, c.oid::regclass::text), c.oid
			LOOP
				PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM greatest(
					least(interval '100 ms' + (try_began - began) / 10,
						longest - (clock_timestamp() - began),
						CASE WHEN has_locks THEN deadlock_timeout::interval / 2
							ELSE interval '5 s' END), '1 ms')))::text, true);
				EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', table_name);
				has_locks := true;
				IF to_regclass(table_name) IS DISTINCT FROM relation THEN
					RAISE undefined_table;
				END IF;
			END LOOP;
			EXIT;
		EXCEPTION
			-- A table was dropped or renamed, or its schema was.
			WHEN deadlock_detected OR lock_not_available OR undefined_table OR invalid_schema_name
			THEN
				busy := table_name || array_remove(busy, table_name);
		END;
		IF clock_timestamp() - began >= longest THEN
			RAISE EXCEPTION 'could not lock the tables that bemi-source.sql tracks'
				USING ERRCODE = 'lock_not_available',
					DETAIL = format('Transactions have used table "%s" for %s s.', busy[1],
						round(extract(epoch FROM longest), 3)::float8),
					HINT = 'Try again when no long transaction uses it, or wait for longer: '
						'SET lock_timeout = ''10min''; CREATE EXTENSION bemi;';
		END IF;
		-- Those that have waited go first. A varying time, because the load can have a rhythm.
		PERFORM pg_sleep(extract(epoch FROM (0.5 + random()) * greatest(interval '10 ms',
			clock_timestamp() - try_began)));
	END LOOP;
	PERFORM set_config('lock_timeout', lock_timeout, true),
		set_config('deadlock_timeout', deadlock_timeout, true);
END
$$;

DO $$
DECLARE
	former name := nullif(current_setting('bemi_script.former_schema', true), '');
	emit regprocedure;
	reemit regprocedure;
	t record;
	table_name text;
	arguments text[];
	index_name text;
	present name;
BEGIN
	IF former IS NULL THEN
		RETURN;
	END IF;
	emit := to_regprocedure(format('%I.emit_context()', former));
	reemit := to_regprocedure(format('%I.reemit_context()', former));

	FOR t IN SELECT e.evtname FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
		JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = '_' || former AND p.proname = 'follow_ddl'
	LOOP
		EXECUTE format('DROP EVENT TRIGGER %I', t.evtname);
	END LOOP;

	FOR t IN SELECT g.tgrelid, g.tgname, g.tgenabled, g.tgargs, g.tgfoid, c.relispartition,
			c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND g.tgqual IS NULL
				AND g.tgattr = ''::int2vector AND (g.tgtype, g.tgname, g.tgfoid) IN (
					(62, 'bemi_emit_context', emit),
					(60, 'bemi_reemit_context', reemit)) AS is_usual
		FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
		WHERE g.tgfoid IN (emit, reemit) AND NOT g.tgisinternal
		ORDER BY g.tgrelid, g.tgfoid = emit
	LOOP
		table_name := t.tgrelid::regclass::text;
		-- Others were made by hand, perhaps on a view or a foreign table, or are part of a trigger
		-- of the root.
		IF NOT t.is_usual THEN
			RAISE WARNING 'trigger "%" of table "%" still runs a function of bemi-source.sql',
				t.tgname, table_name
				USING HINT = format('DROP TRIGGER %I ON %s; SELECT bemi.track(%L);',
					t.tgname, table_name, table_name);
			CONTINUE;
		END IF;
		EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', table_name);
		IF to_regclass(table_name) IS DISTINCT FROM t.tgrelid::regclass THEN
			RAISE EXCEPTION 'table "%" was renamed in the meantime', table_name
				USING ERRCODE = 'object_in_use', HINT = 'CREATE EXTENSION bemi;';
		END IF;
		EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, table_name);
		CONTINUE WHEN t.tgfoid = reemit;

		-- The owner of a table could have made its trigger with any arguments. Texts end with
		-- a zero byte. Rules for columns, the fourth argument, are left out.
		arguments := string_to_array(encode(t.tgargs, 'escape'), E'\\000');
		BEGIN
			index_name := convert_from(decode(coalesce(arguments[2], ''), 'escape'),
				getdatabaseencoding());
		EXCEPTION WHEN data_exception THEN
			index_name := '';
		END;
		EXECUTE format('CREATE TRIGGER bemi_emit_context '
			'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
			'FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context(%L, %L, %L)', table_name,
			CASE WHEN arguments[1] IN ('d', 'n', 'f', 'i') THEN arguments[1] ELSE 'd' END,
			index_name,
			CASE WHEN arguments[3] IN ('table', 'partition', 'attached') THEN arguments[3]
				WHEN t.relispartition THEN 'partition' ELSE 'table' END);
		IF t.tgenabled <> 'O' THEN
			EXECUTE format('ALTER TABLE ONLY %s %s TRIGGER bemi_emit_context', table_name,
				CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS'
					ELSE 'ENABLE REPLICA' END);
		END IF;
		IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.tgrelid
			AND g.tgname = 'bemi_emit_context' AND g.tgfoid = 'bemi.emit_context()'::regprocedure)
		THEN
			RAISE EXCEPTION 'table "%" was renamed in the meantime', table_name
				USING ERRCODE = 'object_in_use', HINT = 'CREATE EXTENSION bemi;';
		END IF;
	END LOOP;

	FOR t IN SELECT s.name, v.value[1] AS value
		FROM unnest('{bemi.include,bemi.tags,bemi.tags_format}'::text[]) s(name),
			pg_proc p, LATERAL regexp_match(p.prosrc,
				format(E'''([A-Za-z0-9_.:@*, "-]+)'' /\\* %s \\*/', s.name)) v(value)
		WHERE p.oid = emit AND v.value IS NOT NULL
	LOOP
		RAISE WARNING 'the value of "%" in bemi-source.sql has no effect any more', t.name
			USING HINT = format('ALTER DATABASE %I SET %s = %L;', current_database(), t.name,
				t.value);
	END LOOP;

	-- Only the functions of bemi-source.sql. What something else depends on stays.
	FOR t IN SELECT p.oid::regprocedure AS function
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE p.prokind = 'f' AND (
			n.nspname = former AND (p.proname, oidvectortypes(p.proargtypes)) IN (
				('set_context', 'jsonb, boolean'), ('merge_context', 'jsonb, boolean'),
				('current_context', ''), ('emit_context', ''), ('reemit_context', ''),
				('track', 'regclass, name[], name[], name[]'), ('untrack', 'regclass'),
				('set_default', 'text, text'))
			OR n.nspname = '_' || former AND (p.proname, oidvectortypes(p.proargtypes)) IN (
				('partitions', 'regclass'), ('is_published', 'regclass'),
				('has_trigger', 'regclass'), ('partition_root', 'regclass'),
				('can_be_full', 'regclass'), ('untrackable', 'regclass'),
				('prepare_table', 'regclass'), ('lock_table', 'regclass, text'),
				('check_owner', 'regclass'), ('follow_ddl', '')))
	LOOP
		BEGIN
			EXECUTE format('DROP FUNCTION %s', t.function);
		EXCEPTION WHEN dependent_objects_still_exist THEN
			NULL;
		END;
	END LOOP;
	FOREACH present IN ARRAY ARRAY['_' || former, former]::name[] LOOP
		BEGIN
			EXECUTE format('DROP SCHEMA IF EXISTS %I', present);
		EXCEPTION WHEN dependent_objects_still_exist THEN
			RAISE WARNING 'schema "%" of bemi-source.sql is called "%" now',
				replace(present, '_source', ''), present
				USING DETAIL = 'It has objects that are not part of bemi-source.sql, or that '
					'others depend on.',
					HINT = format('When nothing uses them: DROP SCHEMA %I CASCADE;', present);
		END;
	END LOOP;
END
$$;
