--
-- CREATE EXTENSION in a database with event triggers of others.
--
-- The script creates hundreds of objects. An event trigger that fires for one of them runs with
-- the script's search_path. If it fails, bemi must still be installable, or the error must name
-- the trigger. The script must not change anything for the commands after it.
--
\set SHOW_CONTEXT never

-- What fails in the script: a procedure that only the session's search_path finds.
CREATE TABLE made (n serial, tag text, role text, path text);
CREATE PROCEDURE note_command() LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.made (tag, role, path)
		SELECT DISTINCT command_tag, current_setting('session_replication_role'), current_setting('search_path')
		FROM pg_event_trigger_ddl_commands();
END $$;
CREATE FUNCTION on_command() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN CALL note_command(); END $$;
CREATE EVENT TRIGGER of_others ON ddl_command_end EXECUTE FUNCTION on_command();
CREATE EXTENSION bemi;
DROP EXTENSION bemi;
-- It fires for CREATE EXTENSION and for what comes after it, also in the same transaction.
BEGIN;
CREATE EXTENSION bemi;
SHOW session_replication_role;
CREATE TABLE todo (id integer);
COMMIT;
SHOW session_replication_role;
SELECT tag, role, path FROM made ORDER BY n;
-- session_replication_role of the session stays as it was.
DROP EXTENSION bemi;
TRUNCATE made;
SET session_replication_role = local;
CREATE EXTENSION bemi;
SHOW session_replication_role;
DROP EXTENSION bemi;
SET session_replication_role = replica;
CREATE EXTENSION bemi;
SHOW session_replication_role;
RESET session_replication_role;
SELECT tag, role FROM made ORDER BY n;
DROP EXTENSION bemi;

-- One that fires always is named, and the hint can be pasted.
ALTER EVENT TRIGGER of_others ENABLE ALWAYS;
CREATE EXTENSION bemi;
ALTER EVENT TRIGGER of_others DISABLE; CREATE EXTENSION bemi; ALTER EVENT TRIGGER of_others ENABLE ALWAYS;
DROP EXTENSION bemi;
ALTER EVENT TRIGGER of_others ENABLE REPLICA;
CREATE EXTENSION bemi;
DROP EVENT TRIGGER of_others;

-- So is one that fails for any single kind of the script's commands.
CREATE FUNCTION on_command_safe() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN CALL public.note_command(); END $$;
CREATE EVENT TRIGGER "of Others" ON ddl_command_end EXECUTE FUNCTION on_command_safe();
ALTER EVENT TRIGGER "of Others" ENABLE ALWAYS;
TRUNCATE made;
CREATE EXTENSION bemi;
DROP EXTENSION bemi;
DROP EVENT TRIGGER "of Others";
CREATE FUNCTION "fail ""for one" () RETURNS event_trigger LANGUAGE plpgsql SET search_path = public AS $$ BEGIN
	IF tg_tag = current_setting('fail.tag', true) THEN
		RAISE 'no % here', tg_tag USING ERRCODE = 'BEMI1';
	END IF;
END $$;
CREATE EVENT TRIGGER "of ""Others" ON ddl_command_start EXECUTE FUNCTION "fail ""for one"();
ALTER EVENT TRIGGER "of ""Others" ENABLE ALWAYS;
CREATE TABLE failed (tag text, state text, message text, detail text, hint text);
DO $$
DECLARE
	command text;
	f failed;
BEGIN
	FOR command IN SELECT DISTINCT tag FROM made WHERE tag NOT IN ('CREATE EXTENSION', 'CREATE SEQUENCE', 'ALTER SEQUENCE') LOOP
		PERFORM set_config('fail.tag', command, false);
		BEGIN
			EXECUTE 'CREATE EXTENSION bemi';
			RAISE 'no error for %', command;
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS f.message = MESSAGE_TEXT, f.detail = PG_EXCEPTION_DETAIL, f.hint = PG_EXCEPTION_HINT, f.state = RETURNED_SQLSTATE;
			INSERT INTO failed VALUES (command, f.state, f.message, f.detail, f.hint);
		END;
	END LOOP;
	PERFORM set_config('fail.tag', '', false);
END $$;
SELECT tag, state, detail FROM failed ORDER BY tag;
SELECT DISTINCT message, hint FROM failed;
-- An error of another kind stays as it is.
CREATE SCHEMA bemi;
CREATE EXTENSION bemi;
DROP SCHEMA bemi;
DROP EVENT TRIGGER "of ""Others";

-- What the packages of bemi.io make: a warning with the commands to paste.
CREATE FUNCTION _bemi_row_trigger_func() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE other (id integer);
CREATE TRIGGER _bemi_row_trigger_todo BEFORE INSERT OR UPDATE OR DELETE ON todo FOR EACH ROW EXECUTE FUNCTION _bemi_row_trigger_func();
CREATE TRIGGER _bemi_row_trigger_other BEFORE INSERT OR UPDATE OR DELETE ON other FOR EACH ROW EXECUTE FUNCTION _bemi_row_trigger_func();
CREATE FUNCTION _bemi_create_table_trigger_func() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN CALL _bemi_create_triggers(); END $$;
CREATE EVENT TRIGGER _bemi_create_table_trigger ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION _bemi_create_table_trigger_func();
CREATE EXTENSION bemi;
DROP EXTENSION bemi;
DROP EVENT TRIGGER _bemi_create_table_trigger; DROP FUNCTION public._bemi_row_trigger_func() CASCADE;
CREATE EXTENSION bemi;

-- Its publication outlives it. Then nobody's table counts as one of bemi's: TRUNCATE of a partition
-- would read the signing key.
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF root FOR VALUES FROM (0) TO (10);
SELECT bemi.track('root');
DROP EXTENSION bemi CASCADE;
CREATE SCHEMA _bemi CREATE TABLE signing_key (value text);
INSERT INTO _bemi.signing_key VALUES ('of a user');
INSERT INTO root VALUES (1);
BEGIN;
TRUNCATE part;
SELECT pubname, seq_scan FROM pg_publication_tables, pg_stat_xact_user_tables
	WHERE pubname = 'bemi' AND relid = '_bemi.signing_key'::regclass;
ROLLBACK;
DROP SCHEMA _bemi CASCADE;
DROP PUBLICATION bemi;
DROP TABLE root;

DROP TABLE made, failed, todo, other;
DROP PROCEDURE note_command;
DROP FUNCTION on_command, on_command_safe, "fail ""for one", _bemi_create_table_trigger_func;
