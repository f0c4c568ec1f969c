--
-- CREATE TRIGGER ... EXECUTE FUNCTION bemi.emit_context(), written by hand.
--
-- A trigger that cannot work would fail at the application's first write, or write its messages
-- after the rows. So only BEFORE ... FOR EACH STATEMENT is accepted. The test tries every form
-- that PostgreSQL accepts, and reads the messages and rows of those that work through a slot of
-- test_decoding. ALTER TABLE ... ENABLE and DISABLE TRIGGER work as usual.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;

-- Messages and rows since the last call: a context as it is, a row as table and key.
\i test/sql/include/wal_short.sql

CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE VIEW tasks AS SELECT id FROM todo WHERE id > 0;
SET bemi.context = '{"n": 1}';

--
-- What is refused when it is made
--
CREATE TRIGGER t AFTER INSERT ON todo FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t AFTER DELETE ON todo FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t AFTER UPDATE OF task ON todo FOR EACH ROW WHEN (old.id > 1) EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t AFTER TRUNCATE ON todo EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t AFTER UPDATE ON todo REFERENCING OLD TABLE AS before NEW TABLE AS after
	FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t AFTER INSERT ON todo REFERENCING NEW TABLE AS after FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON todo FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON todo DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
\set VERBOSITY terse
CREATE TRIGGER t INSTEAD OF INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t AFTER INSERT ON tasks FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context();
\set VERBOSITY default
-- also with replaced, and where the names have to be quoted
CREATE TRIGGER "my ""trigger""" BEFORE INSERT ON todo EXECUTE FUNCTION bemi.emit_context();
CREATE OR REPLACE TRIGGER "my ""trigger""" BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
SELECT tgname, tgtype & 3 = 2 AS before_statement FROM pg_trigger WHERE tgrelid = 'todo'::regclass;
DROP TRIGGER "my ""trigger""" ON todo;
-- also for a session that holds ordinary triggers back
SET session_replication_role = replica;
CREATE TRIGGER t BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
RESET session_replication_role;
-- PostgreSQL's own refusals
CREATE TRIGGER t BEFORE INSERT ON todo REFERENCING NEW TABLE AS after EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER t BEFORE INSERT ON todo WHEN (new.id > 0) EXECUTE FUNCTION bemi.emit_context();
SELECT bemi.emit_context();
-- nothing of it is left, and writing is as ever
SELECT tgname FROM pg_trigger WHERE tgrelid IN ('todo'::regclass, 'tasks'::regclass);
INSERT INTO todo VALUES (1);
SELECT * FROM wal();

--
-- What works
--
-- FOR EACH STATEMENT is what goes without saying
CREATE TRIGGER t BEFORE INSERT ON todo EXECUTE FUNCTION bemi.emit_context();
INSERT INTO todo VALUES (2);
UPDATE todo SET task = 'no trigger' WHERE id = 2;
SELECT * FROM wal();
-- some events; a list of columns: the columns that the statement names decide, as in PostgreSQL
CREATE OR REPLACE TRIGGER t BEFORE UPDATE OF task OR DELETE ON todo EXECUTE PROCEDURE bemi.emit_context();
INSERT INTO todo VALUES (3);
UPDATE todo SET task = 'x' WHERE id = 3;
UPDATE todo SET id = 4 WHERE id = 3;
DELETE FROM todo WHERE id = 4;
INSERT INTO todo VALUES (2) ON CONFLICT (id) DO UPDATE SET task = 'updated';
SELECT * FROM wal();
-- WHEN: evaluated once for each statement, before its rows
CREATE OR REPLACE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON todo FOR EACH STATEMENT
	WHEN (current_setting('bemi.context') <> '{"n": 2}') EXECUTE FUNCTION bemi.emit_context();
INSERT INTO todo VALUES (5);
SET bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (6);
SET bemi.context = '{"n": 3}';
DELETE FROM todo WHERE id IN (5, 6);
SELECT * FROM wal();
-- TRUNCATE
CREATE TRIGGER t2 BEFORE TRUNCATE ON todo FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context();
TRUNCATE todo;
SELECT * FROM wal();
-- arguments mean nothing to it
CREATE OR REPLACE TRIGGER t BEFORE INSERT ON todo EXECUTE FUNCTION bemi.emit_context('some', 'argument');
INSERT INTO todo VALUES (7);
SELECT * FROM wal();
-- several on one table are still one message a statement
CREATE TRIGGER t3 BEFORE INSERT OR UPDATE ON todo EXECUTE FUNCTION bemi.emit_context();
INSERT INTO todo VALUES (8);
INSERT INTO todo VALUES (8) ON CONFLICT (id) DO UPDATE SET task = 'again';
SELECT * FROM wal();
DROP TRIGGER t ON todo;
DROP TRIGGER t2 ON todo;
DROP TRIGGER t3 ON todo;
-- on a view, whose rows are written by an INSTEAD OF trigger to a table that is not tracked
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO todo VALUES (new.id); RETURN new; END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION instead();
CREATE TRIGGER t BEFORE INSERT ON tasks EXECUTE FUNCTION bemi.emit_context();
INSERT INTO tasks VALUES (9), (10);
INSERT INTO tasks SELECT 11 WHERE false;
SELECT * FROM wal();
DROP TRIGGER t ON tasks;
DROP TRIGGER instead ON tasks;

--
-- ENABLE and DISABLE
--
SELECT bemi.track('todo');
ALTER TABLE todo DISABLE TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (20);
COPY todo (id) FROM PROGRAM 'echo 21';
ALTER TABLE todo ENABLE TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (22);
ALTER TABLE todo DISABLE TRIGGER ALL;
INSERT INTO todo VALUES (23);
ALTER TABLE todo ENABLE TRIGGER USER;
INSERT INTO todo VALUES (24);
SELECT * FROM wal();
-- of the session: origin and local are the same to it
SET session_replication_role = local;
INSERT INTO todo VALUES (25);
SET session_replication_role = replica;
INSERT INTO todo VALUES (26);
ALTER TABLE todo ENABLE REPLICA TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (27);
SET session_replication_role = origin;
INSERT INTO todo VALUES (28);
ALTER TABLE todo ENABLE ALWAYS TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (29);
SET session_replication_role = replica;
INSERT INTO todo VALUES (30);
TRUNCATE todo;
RESET session_replication_role;
SELECT * FROM wal();
-- another ALTER TABLE, or tracking again, leaves the choice alone
ALTER TABLE todo ADD COLUMN more text;
SELECT bemi.track('todo');
SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'todo'::regclass AND tgname = 'bemi_emit_context';
ALTER TABLE todo DISABLE TRIGGER bemi_emit_context;
SELECT bemi.track('todo');
SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'todo'::regclass AND tgname = 'bemi_emit_context';
-- also for a prepared statement whose plan was made before
PREPARE add (integer) AS INSERT INTO todo VALUES ($1);
EXECUTE add (31);
ALTER TABLE todo ENABLE TRIGGER bemi_emit_context;
EXECUTE add (32);
ALTER TABLE todo DISABLE TRIGGER bemi_emit_context;
EXECUTE add (33);
DEALLOCATE add;
SELECT * FROM wal();

--
-- What bemi.tracked shows
--
CREATE VIEW tracked AS SELECT * FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SELECT * FROM tracked;
ALTER TABLE todo ENABLE TRIGGER bemi_emit_context;
SELECT problems FROM tracked;
-- made by hand, nothing but the trigger
CREATE TABLE by_hand (id integer PRIMARY KEY);
CREATE TRIGGER mine BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON by_hand EXECUTE FUNCTION bemi.emit_context();
SELECT * FROM tracked WHERE "table" = 'by_hand'::regclass;
ALTER TABLE by_hand REPLICA IDENTITY FULL;
SELECT problems FROM tracked WHERE "table" = 'by_hand'::regclass;
ALTER PUBLICATION bemi ADD TABLE by_hand;
SELECT problems FROM tracked WHERE "table" = 'by_hand'::regclass;
ALTER TABLE by_hand REPLICA IDENTITY NOTHING;
SELECT identity, problems FROM tracked WHERE "table" = 'by_hand'::regclass;
ALTER TABLE by_hand REPLICA IDENTITY USING INDEX by_hand_pkey;
SELECT identity, problems FROM tracked WHERE "table" = 'by_hand'::regclass;
DROP TRIGGER mine ON by_hand;
SELECT problems FROM tracked WHERE "table" = 'by_hand'::regclass;
-- bemi.track() adds what is missing, and its own trigger to the one made by hand
CREATE TRIGGER mine BEFORE INSERT ON by_hand EXECUTE FUNCTION bemi.emit_context();
SELECT bemi.track('by_hand');
SELECT * FROM tracked WHERE "table" = 'by_hand'::regclass;
SELECT count(*) FROM wal();
INSERT INTO by_hand VALUES (1);
SELECT * FROM wal();
-- what was made by hand stays
SELECT bemi.untrack('by_hand');
SELECT * FROM tracked WHERE "table" = 'by_hand'::regclass;
-- a trigger by bemi's name, made by hand
DROP TRIGGER mine ON by_hand;
ALTER TABLE by_hand REPLICA IDENTITY FULL;
CREATE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON by_hand
	EXECUTE FUNCTION bemi.emit_context();
SELECT bemi.track('by_hand');
SELECT * FROM tracked WHERE "table" = 'by_hand'::regclass;
SELECT bemi.untrack('by_hand');
SELECT count(*) FROM tracked WHERE "table" = 'by_hand'::regclass;
SELECT relreplident FROM pg_class WHERE oid = 'by_hand'::regclass;

DROP TABLE by_hand, todo CASCADE;
DROP VIEW tracked;
DROP FUNCTION wal(), instead();
SELECT pg_drop_replication_slot('bemi_wal');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
