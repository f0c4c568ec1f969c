/* bemi--1.0.sql: make puts it together from the files in sql/, so change those */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION bemi" to load this file. \quit

-- Event triggers of others fire for each command of this script, and fail if they need
-- another search_path than its own. So the script runs as a replica, for which ordinary
-- event triggers do not fire. CREATE EXTENSION itself fires them, because the last command
-- of this script restores the role. Scripts for ALTER EXTENSION ... UPDATE need both, too.
SELECT pg_catalog.set_config('bemi_script.session_replication_role',
	pg_catalog.current_setting('session_replication_role'), true);
SET LOCAL session_replication_role = replica;

-- ENABLE ALWAYS and ENABLE REPLICA event triggers fire all the same. This runs one command
-- of each kind first, because then the error can name the trigger that fails.
DO $$
DECLARE
	message text;
	context text;
	state text;
	failing record;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')) THEN
		RETURN;
	END IF;
	CREATE SCHEMA bemi;
	COMMENT ON SCHEMA bemi IS '';
	CREATE FUNCTION bemi.probe() RETURNS integer LANGUAGE sql AS 'SELECT 1';
	CREATE PROCEDURE bemi.probe_procedure() LANGUAGE sql AS 'SELECT 1';
	CREATE TABLE bemi.probe_table (id integer);
	ALTER TABLE bemi.probe_table SET (autovacuum_enabled = off);
	CREATE INDEX ON bemi.probe_table (id);
	CREATE VIEW bemi.probe_view AS SELECT id FROM bemi.probe_table;
	GRANT USAGE ON SCHEMA bemi TO PUBLIC;
	REVOKE USAGE ON SCHEMA bemi FROM PUBLIC;
	-- Undoes all of this.
	RAISE SQLSTATE 'BEMI0';
EXCEPTION
	WHEN SQLSTATE 'BEMI0' THEN
		RETURN;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, context = PG_EXCEPTION_CONTEXT,
			state = RETURNED_SQLSTATE;
		SELECT e.evtname, CASE e.evtenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END AS enabled
			INTO failing
			FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
			WHERE e.evtenabled IN ('A', 'R') AND (strpos(context, format(' %I()', p.proname)) > 0
				OR strpos(context, format('.%I()', p.proname)) > 0
				OR strpos(context, format(' "%s"', p.proname)) > 0)
			ORDER BY e.evtname LIMIT 1;
		IF NOT FOUND THEN
			RAISE;
		END IF;
		RAISE EXCEPTION 'event trigger "%" fails for a command of the script that creates bemi',
			failing.evtname
			USING ERRCODE = state, DETAIL = message,
				HINT = format('ALTER EVENT TRIGGER %I DISABLE; CREATE EXTENSION bemi; '
					'ALTER EVENT TRIGGER %1$I ENABLE %s;', failing.evtname, failing.enabled);
END
$$;

-- The packages of bemi.io create a trigger for each row, an event trigger that adds it to new
-- tables, and one that sets replica identities. The message of the row trigger replaces the
-- context that bemi has emitted for the statement.
DO $$
DECLARE
	remedy text;
BEGIN
	SELECT string_agg(d.command, ' ' ORDER BY d.place, d.command) INTO remedy
		FROM (SELECT 1, format('DROP EVENT TRIGGER %I;', e.evtname) FROM pg_event_trigger e
				WHERE e.evtname ~ '^_bemi_(create_table|set_replica_identity)_trigger'
			UNION SELECT 2, format('DROP FUNCTION %s CASCADE;', t.tgfoid::regprocedure)
				FROM pg_trigger t WHERE t.tgname ~ '^_bemi_row_trigger_') d(place, command);
	IF remedy IS NOT NULL THEN
		RAISE WARNING 'triggers of another Bemi are in this database'
			USING HINT = remedy, DETAIL = 'They write a second context for each row, '
				'and track new tables a second time.';
	END IF;
END
$$;

-- bemi-source.sql has made schemas with the same names, in which its owner can have put anything.
-- So they get other names, and nothing in them is called. The tables keep its triggers until
-- sql/22_take_over.sql replaces them. The publication goes to the extension's owner.
DO $$
DECLARE
	former name;
	present name;
	n integer := 0;
BEGIN
	-- The session can have any value of it.
	PERFORM set_config('bemi_script.former_schema', '', true);
	IF NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			JOIN pg_language l ON l.oid = p.prolang
		WHERE n.nspname = 'bemi' AND p.proname = 'emit_context' AND p.pronargs = 0
			AND p.prorettype = 'trigger'::regtype AND l.lanname = 'plpgsql')
	THEN
		RETURN;
	END IF;
	WHILE EXISTS (SELECT FROM pg_namespace s WHERE s.nspname IN
		(concat('bemi_source', nullif(n, 0)), concat('_bemi_source', nullif(n, 0))))
	LOOP
		n := n + 1;
	END LOOP;
	FOR former, present IN
		SELECT s.nspname, concat(s.nspname, '_source', nullif(n, 0))
			FROM pg_namespace s
			WHERE s.nspname IN ('bemi', '_bemi')
				AND s.nspowner = (SELECT o.nspowner FROM pg_namespace o WHERE o.nspname = 'bemi')
	LOOP
		EXECUTE format('ALTER SCHEMA %I RENAME TO %I', former, present);
	END LOOP;
	PERFORM set_config('bemi_script.former_schema', concat('bemi_source', nullif(n, 0)), true);
	IF EXISTS (SELECT FROM pg_publication p WHERE p.pubname = 'bemi') THEN
		ALTER PUBLICATION bemi OWNER TO CURRENT_USER;
	END IF;
END
$$;

-- The script creates the schema itself, and fails if it exists, because its owner could have
-- planted objects in it.
CREATE SCHEMA bemi;
COMMENT ON SCHEMA bemi IS 'history of every row, with the reason for each change';
REVOKE ALL ON SCHEMA bemi FROM PUBLIC;
GRANT USAGE ON SCHEMA bemi TO PUBLIC;

-- Functions of schema bemi call those of _bemi with the rights of their caller, so every role
-- needs USAGE.
CREATE SCHEMA _bemi;
COMMENT ON SCHEMA _bemi
	IS 'partitions of bemi.changes, and internals that can change without notice';
REVOKE ALL ON SCHEMA _bemi FROM PUBLIC;
GRANT USAGE ON SCHEMA _bemi TO PUBLIC;
