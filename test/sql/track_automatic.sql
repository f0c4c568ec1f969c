--
-- Automatic tracking: every table of a tracked schema is tracked from its first row after the
-- statement that created it, whichever role created it. Also what happens to tables and schemas
-- that are renamed, moved or dropped.
--
-- An event trigger tracks them inside the application's commands. So the tests run the commands
-- that create or move a table, as a role without other rights, and read bemi.tracked and the
-- history. A table that cannot be tracked shows that the command succeeds all the same.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();

-- The changes stored since the last call, in commit order.
CREATE FUNCTION tell() RETURNS TABLE ("table" text, operation text, after jsonb, by text)
LANGUAGE plpgsql AS $$
DECLARE
	seen text := current_setting('tell.seen', true);
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT c.schema || '.' || c."table", c.operation, c.after, coalesce(c.context->>'by', c.context::text)
		FROM bemi.changes c WHERE seen IS NULL OR seen = '' OR c.id > seen::uuid ORDER BY c.id;
	PERFORM set_config('tell.seen', (SELECT c.id::text FROM bemi.changes c ORDER BY c.id DESC LIMIT 1), false);
END $$;
\i test/sql/include/tracked.sql

SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_maker;
RESET client_min_messages;
CREATE ROLE regress_bemi_maker;
CREATE SCHEMA shop;
GRANT USAGE, CREATE ON SCHEMA shop TO regress_bemi_maker;
CREATE SCHEMA away AUTHORIZATION regress_bemi_maker;

--
-- What is there already: tables, partitions, no views, nothing unlogged
--
CREATE TABLE shop.item (id integer PRIMARY KEY);
CREATE TABLE shop.part (id integer) PARTITION BY RANGE (id);
CREATE TABLE shop.part_0 PARTITION OF shop.part FOR VALUES FROM (0) TO (10);
CREATE VIEW shop.items AS SELECT * FROM shop.item;
CREATE MATERIALIZED VIEW shop.stored AS SELECT * FROM shop.item;
CREATE SEQUENCE shop.number;
CREATE UNLOGGED TABLE shop.scratch (id integer);
CREATE TYPE shop.pair AS (a integer, b integer);
SELECT bemi.track_schema('shop');
SELECT bemi.track_schema('shop');
SELECT * FROM tracked;
SELECT schema FROM bemi.tracked_schemas;

--
-- What is made later, by a role that has no right on bemi's functions or tables
--
SET ROLE regress_bemi_maker;
SET bemi.context = '{"by": "maker"}';
CREATE TABLE shop.made (id serial PRIMARY KEY, task text);
CREATE TABLE shop."Two ""words" ("a b" integer);
CREATE TABLE shop.filled AS SELECT i AS id FROM generate_series(1, 2) i;
SELECT i AS id INTO shop.selected FROM generate_series(1, 2) i;
PREPARE three AS SELECT 3 AS id;
CREATE TABLE shop.executed AS EXECUTE three;
DEALLOCATE three;
CREATE TABLE shop.alike (LIKE shop.made INCLUDING ALL);
CREATE TABLE shop.heir () INHERITS (shop.made);
CREATE TABLE shop.tree (id integer) PARTITION BY RANGE (id);
CREATE TABLE shop.tree_0 PARTITION OF shop.tree FOR VALUES FROM (0) TO (10);
CREATE TABLE IF NOT EXISTS shop.made (id serial PRIMARY KEY, task text);
CREATE UNLOGGED TABLE shop.rough (id integer);
CREATE TEMP TABLE passing AS SELECT 1 AS id;
CREATE VIEW shop.view AS SELECT * FROM shop.made;
CREATE TABLE away.elsewhere (id integer);
INSERT INTO shop.made (task) VALUES ('first row');
INSERT INTO shop."Two ""words" VALUES (1);
INSERT INTO shop.filled VALUES (3);
INSERT INTO shop.selected VALUES (3);
UPDATE shop.executed SET id = 4;
INSERT INTO shop.alike VALUES (5);
INSERT INTO shop.heir VALUES (6, 'of made');
UPDATE shop.made SET task = 'both' WHERE id = 6;
INSERT INTO shop.tree VALUES (7);
UPDATE shop.rough SET id = 1;
INSERT INTO passing VALUES (1);
INSERT INTO away.elsewhere VALUES (1);
RESET ROLE;
-- the rows of CREATE TABLE AS and SELECT INTO came with the statement that made the table
SELECT * FROM tell();
SELECT * FROM tracked WHERE problems <> '{}';
SELECT "table" FROM tracked;

-- from the first row on also where all is one transaction, or one function
BEGIN;
CREATE TABLE shop.quick (id integer);
INSERT INTO shop.quick VALUES (1);
SAVEPOINT a;
CREATE TABLE shop.undone (id integer);
INSERT INTO shop.undone VALUES (1);
ROLLBACK TO a;
UPDATE shop.quick SET id = 2 /*Bemi {"by": "comment"} Bemi*/;
COMMIT;
DO $$
BEGIN
	CREATE TABLE shop.by_function (id integer);
	INSERT INTO shop.by_function VALUES (1);
	UPDATE shop.by_function SET id = 2;
END $$;
SELECT * FROM tell();
DROP TABLE shop.quick, shop.by_function;

--
-- CREATE SCHEMA with tables in it: a new schema is tracked after bemi.track_schema()
--
CREATE SCHEMA fresh CREATE TABLE one (id integer) CREATE TABLE two (id integer);
SELECT "table" FROM tracked WHERE "table" LIKE 'fresh%';
SELECT bemi.track_schema('fresh');
SELECT "table" FROM tracked WHERE "table" LIKE 'fresh%';
SELECT schema FROM bemi.tracked_schemas ORDER BY schema::text;

--
-- Moved in and out of a tracked schema, and renamed
--
SET ROLE regress_bemi_maker;
SET bemi.context = '{"by": "moved"}';
ALTER TABLE away.elsewhere SET SCHEMA shop;
INSERT INTO shop.elsewhere VALUES (1);
UPDATE shop.elsewhere SET id = 2;
ALTER TABLE shop.elsewhere RENAME TO "Here";
ALTER TABLE shop."Here" RENAME COLUMN id TO "The id";
DELETE FROM shop."Here";
RESET ROLE;
SELECT * FROM tell();
SELECT * FROM tracked WHERE "table" LIKE '%Here%';
-- a table that is moved out is still tracked, because nobody has untracked it
ALTER TABLE shop."Here" SET SCHEMA away;
INSERT INTO away."Here" VALUES (3);
SELECT * FROM tell();
SELECT * FROM tracked WHERE "table" LIKE '%Here%';
SELECT bemi.untrack('away."Here"');
-- a schema that is renamed is the same schema
ALTER SCHEMA fresh RENAME TO "Fresh one";
CREATE TABLE "Fresh one".three (id integer);
INSERT INTO "Fresh one".three VALUES (1);
SELECT * FROM tell();
SELECT schema FROM bemi.tracked_schemas ORDER BY schema::text;

--
-- SET UNLOGGED and SET LOGGED
--
SET ROLE regress_bemi_maker;
ALTER TABLE shop.rough SET LOGGED;
INSERT INTO shop.rough VALUES (1);
UPDATE shop.rough SET id = 2;
RESET ROLE;
SELECT * FROM tell();
-- a published table cannot become unlogged: the command fails, and nothing is changed
ALTER TABLE shop.item SET UNLOGGED;
SELECT * FROM tracked WHERE "table" = 'shop.item';

--
-- DROP and TRUNCATE of what is tracked; a name that comes again
--
DROP TABLE shop.made CASCADE;
CREATE TABLE shop.made (id integer, other text);
INSERT INTO shop.made VALUES (1, 'made again');
SELECT * FROM tell();
DROP TABLE shop.made;
SELECT count(*) FROM pg_publication_rel r WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = r.prrelid);

--
-- A table cannot be tracked: a WARNING, and the application's command succeeds
--
-- another trigger has the name of bemi's
CREATE FUNCTION somebodys() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE away.taken (id integer PRIMARY KEY);
CREATE TRIGGER bemi_emit_context BEFORE INSERT ON away.taken FOR EACH STATEMENT EXECUTE FUNCTION somebodys();
ALTER TABLE away.taken SET SCHEMA shop;
INSERT INTO shop.taken VALUES (1);
UPDATE shop.taken SET id = 2;
SELECT relreplident FROM pg_class WHERE oid = 'shop.taken'::regclass;
SELECT * FROM tracked WHERE "table" = 'shop.taken';
SELECT bemi.track('shop.taken');
DROP TRIGGER bemi_emit_context ON shop.taken;
SELECT bemi.track('shop.taken');
-- the same on a partition, whose root is tracked
CREATE TABLE away.taken_1 (id integer);
CREATE TRIGGER bemi_emit_context BEFORE INSERT ON away.taken_1 FOR EACH STATEMENT EXECUTE FUNCTION somebodys();
ALTER TABLE shop.tree ATTACH PARTITION away.taken_1 FOR VALUES FROM (10) TO (20);
INSERT INTO shop.tree VALUES (11);
SELECT * FROM tell();
DROP TABLE away.taken_1;

--
-- untrack_schema: leaves the tables as they were, and those to come alone
--
SELECT bemi.untrack_schema('shop');
SELECT * FROM tracked;
CREATE TABLE shop.after (id integer);
SELECT "table" FROM tracked WHERE "table" = 'shop.after';
SELECT count(*) FROM pg_class WHERE relnamespace = 'shop'::regnamespace AND relkind IN ('r', 'p') AND relreplident <> 'd';
SELECT bemi.untrack_schema('shop');

--
-- Schemas that go, with all that is in them, leave no row behind
--
SELECT bemi.track_schema('shop');
SELECT bemi.track_schema('away');
SELECT count(*) FROM bemi.tracked_schemas;
SET client_min_messages = warning;
DROP SCHEMA shop CASCADE;
DROP OWNED BY regress_bemi_maker;
SET session_replication_role = replica;
DROP SCHEMA "Fresh one" CASCADE;
RESET session_replication_role;
RESET client_min_messages;
SELECT count(*) FROM bemi.tracked_schemas;
SELECT count(*) FROM bemi.tracked;
BEGIN;
CREATE SCHEMA shop;
SELECT bemi.track_schema('shop');
ROLLBACK;
SELECT count(*) FROM bemi.tracked_schemas;

-- schemas that cannot be tracked
SELECT bemi.track_schema('bemi');
SELECT bemi.track_schema('pg_catalog');
SELECT bemi.track_schema('information_schema');
SELECT bemi.track_schema('pg_toast');
SELECT bemi.track_schema(0);

-- after all of this the worker is well
SELECT state, invalid_messages, restarts, last_error FROM bemi.status;

DROP VIEW tracked;
DROP FUNCTION tell(), somebodys();
DROP ROLE regress_bemi_maker;
CALL bemi.drop_source('main');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
