--
-- Publication "bemi" never belongs to a role that could remove tables from the history.
--
-- It is an ordinary publication, and its owner decides which tables it lists. A role with CREATE
-- on the database can create publications. So it could create this one first, give the name to
-- another one, or become its owner. The test tries all these ways, before and after CREATE
-- EXTENSION.
--
\set SHOW_CONTEXT never
\set VERBOSITY default
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_low, regress_bemi_admin, "regress_bemi Super";
CREATE ROLE regress_bemi_low;
CREATE ROLE regress_bemi_admin;
CREATE ROLE "regress_bemi Super" SUPERUSER;
SELECT current_database() AS database, current_user AS owner \gset
GRANT CREATE ON DATABASE :"database" TO regress_bemi_low, regress_bemi_admin;
CREATE TABLE todo (id int PRIMARY KEY);

-- Before the extension: then that does not come.
SET ROLE regress_bemi_low;
CREATE PUBLICATION bemi;
RESET ROLE;
\set VERBOSITY terse
CREATE EXTENSION bemi;
\set VERBOSITY default
-- the line of the hint
ALTER PUBLICATION bemi OWNER TO CURRENT_USER;
CREATE EXTENSION bemi;

-- Giving it to the role: not by ALTER, nor with everything else that a role owns.
ALTER PUBLICATION bemi OWNER TO regress_bemi_low;
ALTER PUBLICATION bemi OWNER TO "regress_bemi Super";
DROP PUBLICATION bemi;

-- Made, or named so
SET ROLE regress_bemi_low;
\set VERBOSITY terse
CREATE PUBLICATION bemi;
CREATE PUBLICATION bemi WITH (publish = 'insert');
CREATE PUBLICATION mine;
ALTER PUBLICATION mine RENAME TO bemi;
DO $$ BEGIN CREATE PUBLICATION bemi; EXCEPTION WHEN insufficient_privilege THEN RAISE WARNING 'caught: %', SQLERRM; END $$;
\set VERBOSITY default
-- other names are no business of bemi's
ALTER PUBLICATION mine RENAME TO "Bemi";
ALTER PUBLICATION "Bemi" SET (publish = 'insert');
DROP PUBLICATION "Bemi";
RESET ROLE;
SELECT pubname FROM pg_publication;

-- Superusers may, as one who restores a dump does, and members of the owner.
SET ROLE "regress_bemi Super";
CREATE PUBLICATION bemi;
RESET ROLE;
SELECT bemi.track('todo');
SELECT bemi.untrack('todo');
DROP PUBLICATION bemi;

-- An owner who was a superuser when he created it: tracking works again when the right role owns it.
SET ROLE "regress_bemi Super";
CREATE PUBLICATION bemi;
RESET ROLE;
ALTER ROLE "regress_bemi Super" NOSUPERUSER;
\set VERBOSITY terse
SELECT bemi.track('todo');
\set VERBOSITY default
SELECT * FROM bemi.tracked;
ALTER PUBLICATION bemi OWNER TO CURRENT_USER;
SELECT bemi.track('todo');
SELECT "table", problems FROM bemi.tracked;

-- No other role can change what is in it, or rename it.
SET ROLE regress_bemi_low;
ALTER PUBLICATION bemi DROP TABLE todo;
ALTER PUBLICATION bemi SET (publish = 'insert');
ALTER PUBLICATION bemi RENAME TO gone;
DROP PUBLICATION bemi;
RESET ROLE;
SELECT "table", problems FROM bemi.tracked;

-- If the publication already belongs to another role, its other commands are refused, too, but not
-- those on publications of others.
ALTER EVENT TRIGGER bemi_refuse_publication DISABLE;
ALTER PUBLICATION bemi OWNER TO regress_bemi_low;
ALTER EVENT TRIGGER bemi_refuse_publication ENABLE ALWAYS;
SET ROLE regress_bemi_low;
CREATE PUBLICATION mine;
ALTER PUBLICATION mine SET (publish = 'insert');
DROP PUBLICATION mine;
\set VERBOSITY terse
ALTER PUBLICATION bemi SET (publish = 'insert');
\set VERBOSITY default
RESET ROLE;
ALTER PUBLICATION bemi OWNER TO CURRENT_USER;

-- The hint can be pasted: the extension may belong to a role whose name needs quotes.
DROP EXTENSION bemi CASCADE;
DROP PUBLICATION bemi;
ALTER ROLE "regress_bemi Super" SUPERUSER;
SET ROLE "regress_bemi Super";
CREATE EXTENSION bemi;
SET ROLE regress_bemi_low;
CREATE PUBLICATION bemi;
RESET ROLE;
-- A member of that role has its rights anyhow.
GRANT "regress_bemi Super" TO regress_bemi_admin;
SET ROLE regress_bemi_admin;
CREATE PUBLICATION bemi;
RESET ROLE;
DROP PUBLICATION bemi;

DROP EXTENSION bemi;
DROP TABLE todo;
REVOKE ALL ON DATABASE :"database" FROM regress_bemi_low, regress_bemi_admin;
DROP ROLE regress_bemi_low, regress_bemi_admin, "regress_bemi Super";
