--
-- How C calls SQL (src/extension/sql_call.c): names refer to pg_catalog, and the session has its
-- search_path, role and rights back afterwards, also after an error.
--
-- A statement of C casts to a type of pg_catalog. If a session has a type of that name in
-- pg_temp, which comes first unless search_path names it, the statement must not use that one.
--
CREATE EXTENSION bemi;
\set SHOW_CONTEXT never
CREATE ROLE regress_bemi_caller;
CREATE TABLE todo (id integer PRIMARY KEY);
SELECT bemi.track('todo');

CREATE FUNCTION session_state(OUT search_path text, OUT is_caller boolean, OUT can_create boolean)
	LANGUAGE sql AS $$
	SELECT pg_catalog.current_setting('search_path'), CURRENT_USER = 'regress_bemi_caller',
		pg_catalog.has_schema_privilege('_bemi', 'CREATE') $$;
CREATE SCHEMA trap;
CREATE DOMAIN pg_temp.name AS text CHECK (VALUE IS NULL);
CREATE DOMAIN trap.name AS text CHECK (VALUE IS NULL);
SET search_path = trap, public, pg_catalog;

-- The session itself gets the domain.
SELECT 'a'::name;

-- C does not.
BEGIN;
CALL bemi.start('trapped', wait => false);
SELECT name, owner = session_user AS mine, desired FROM bemi.sources;
SELECT * FROM session_state();
ROLLBACK;

-- An error that is caught leaves nothing of the call behind: neither before C has taken the
-- rights of the extension's owner ...
SET ROLE regress_bemi_caller;
DO $$ BEGIN
	CALL bemi.start('refused', wait => false);
EXCEPTION WHEN insufficient_privilege THEN
	RAISE NOTICE 'refused: %', SQLERRM;
END $$;
SELECT * FROM session_state();
RESET ROLE;

-- ... nor while it has them.
GRANT EXECUTE ON PROCEDURE bemi.start, bemi.stop TO regress_bemi_caller;
GRANT USAGE ON SCHEMA bemi TO regress_bemi_caller;
SET ROLE regress_bemi_caller;
DO $$ BEGIN
	CALL bemi.start('Not a name', wait => false);
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '%: %', SQLSTATE, SQLERRM;
END $$;
SELECT * FROM session_state();
DO $$ BEGIN
	CALL bemi.stop('nobody');
EXCEPTION WHEN OTHERS THEN
	RAISE NOTICE '%: %', SQLSTATE, SQLERRM;
END $$;
SELECT * FROM session_state();
RESET ROLE;

-- A command that calls SQL as the owner of the extension, through an event trigger.
SELECT bemi.track_schema('trap');
GRANT CREATE ON DATABASE :"DBNAME" TO regress_bemi_caller;
ALTER SCHEMA trap OWNER TO regress_bemi_caller;
SET ROLE regress_bemi_caller;
ALTER SCHEMA trap RENAME TO trap_renamed;
SELECT * FROM session_state();
RESET ROLE;
SELECT schema FROM bemi.tracked_schemas;

RESET search_path;
SELECT bemi.untrack('todo');
DROP SCHEMA trap_renamed CASCADE;
REVOKE CREATE ON DATABASE :"DBNAME" FROM regress_bemi_caller;
DROP EXTENSION bemi CASCADE;
DROP PUBLICATION IF EXISTS bemi;
DROP TABLE todo;
DROP FUNCTION session_state;
DROP ROLE regress_bemi_caller;
