--
-- Nested statements: a function or trigger in the middle of a statement can write under another
-- context. The statement's other rows still have the statement's context. The test reads the WAL
-- as the worker does, and shows each row with the nearest message before it, because bemi.changes
-- does not show where a message is. "right" must be true everywhere.
--
CREATE EXTENSION bemi;
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_nested', 'test_decoding');
-- Rows since the last call, each with the message that a reader would give it.
CREATE FUNCTION wal() RETURNS TABLE (change text, context text) LANGUAGE plpgsql AS $$
DECLARE
	line text;
	said text;
BEGIN
	FOR line IN SELECT data FROM pg_logical_slot_get_changes('bemi_nested', NULL, NULL, 'include-xids', '0') LOOP
		CASE
			WHEN line LIKE 'message%' THEN said := substring(line FROM 'content:(.*)$');
			WHEN line = 'BEGIN' THEN said := '{}';
			WHEN line = 'COMMIT' THEN NULL;
			ELSE change := regexp_replace(line, '^table public\.', ''); context := said; RETURN NEXT;
		END CASE;
	END LOOP;
END $$;
CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE step (id integer PRIMARY KEY, todo integer REFERENCES todo ON DELETE CASCADE);
CREATE TABLE log (id serial PRIMARY KEY, task text);
SELECT bemi.track('todo'), bemi.track('step'), bemi.track('log');
CREATE FUNCTION log_inside(what text) RETURNS text LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN INSERT INTO log (task) VALUES (what); RETURN what; END $$;
CREATE FUNCTION log_row_inside() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM log_inside(CASE tg_op WHEN 'DELETE' THEN old.id ELSE new.id END::text); RETURN coalesce(new, old); END $$;
CREATE FUNCTION log_statement_inside() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM log_inside(tg_op); RETURN NULL; END $$;
SET bemi.context = '{"by": "outer"}';

-- 1. COPY, and the functions within it: default, WHERE, BEFORE ROW trigger, a later BEFORE STATEMENT trigger
ALTER TABLE todo ALTER task SET DEFAULT log_inside('default');
COPY todo (id) FROM PROGRAM 'echo 1; echo 2';
ALTER TABLE todo ALTER task DROP DEFAULT;
COPY todo (id) FROM PROGRAM 'echo 3; echo 4' WHERE log_inside('where') = 'where';
CREATE TRIGGER z BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_row_inside();
COPY todo (id) FROM PROGRAM 'echo 5; echo 6';
DROP TRIGGER z ON todo;
CREATE TRIGGER z BEFORE INSERT OR TRUNCATE ON todo FOR EACH STATEMENT EXECUTE FUNCTION log_statement_inside();
COPY todo (id) FROM PROGRAM 'echo 7; echo 8';
SELECT change, context = CASE WHEN change LIKE 'log%' THEN '{"by": "inner"}' ELSE '{"by": "outer"}' END AS right FROM wal();
-- 2. TRUNCATE, and a later BEFORE STATEMENT trigger of the same table, or of another in the list
TRUNCATE step, todo;
SELECT change, context = CASE WHEN change LIKE 'log%' THEN '{"by": "inner"}' ELSE '{"by": "outer"}' END AS right FROM wal();
DROP TRIGGER z ON todo;
-- 3. two modifications of one table in one statement: PostgreSQL fires the trigger for one of them
WITH added AS (INSERT INTO todo VALUES (11) RETURNING id) INSERT INTO todo SELECT id + 1 FROM added;
BEGIN;
SET LOCAL bemi.context = '{"by": "first"}';
INSERT INTO log (task) VALUES ('first');
SET LOCAL bemi.context = '{"by": "outer"}';
WITH added AS (INSERT INTO todo VALUES (13) RETURNING id) INSERT INTO todo SELECT id + 1 FROM added;
COMMIT;
SELECT change, context = CASE WHEN change LIKE 'log%' THEN '{"by": "first"}' ELSE '{"by": "outer"}' END AS right FROM wal();
-- 4. the second cascade of one statement: the child's trigger has fired for the first
INSERT INTO todo SELECT generate_series(21, 24);
INSERT INTO step SELECT i, i FROM generate_series(21, 24) i;
SELECT count(*) FROM wal();
CREATE TRIGGER z AFTER DELETE ON todo FOR EACH ROW EXECUTE FUNCTION log_row_inside();
DELETE FROM todo WHERE id IN (21, 22);
DROP TRIGGER z ON todo;
CREATE TRIGGER z BEFORE DELETE ON step FOR EACH ROW EXECUTE FUNCTION log_row_inside();
DELETE FROM todo WHERE id IN (23, 24);
SELECT change, context = CASE WHEN change LIKE 'log%' THEN '{"by": "inner"}' ELSE '{"by": "outer"}' END AS right FROM wal();
-- 5. a message right before a row of another subtransaction, which the decoder could take in either
-- order: a message without rows and then the row, with bemi.emit = changed
SET bemi.emit = changed;
INSERT INTO todo VALUES (31);
SELECT count(*) FROM wal();
BEGIN;
SET LOCAL bemi.context = '{"by": "first"}';
INSERT INTO log (task) VALUES ('first');
SET LOCAL bemi.context = '{"by": "outer"}';
SAVEPOINT a;
SAVEPOINT b;
INSERT INTO todo VALUES (31) ON CONFLICT DO NOTHING;
RELEASE b;
DELETE FROM todo WHERE id = 31;
COMMIT;
RESET bemi.emit;
SELECT change, context = CASE WHEN change LIKE 'log%' THEN '{"by": "first"}' ELSE '{"by": "outer"}' END AS right FROM wal();
-- and the outer statement's message, emitted again within a block of the inner function
CREATE FUNCTION log_in_block(what text) RETURNS text LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN BEGIN INSERT INTO log (task) VALUES (what); EXCEPTION WHEN division_by_zero THEN NULL; END; RETURN what; END $$;
INSERT INTO todo SELECT i, log_in_block('block') FROM generate_series(41, 43) i;
SELECT change, context = CASE WHEN change LIKE 'log%' THEN '{"by": "inner"}' ELSE '{"by": "outer"}' END AS right FROM wal();
DROP FUNCTION log_in_block(text);
DROP TABLE todo, step, log;
DROP FUNCTION wal(), log_inside(text), log_row_inside(), log_statement_inside();
SELECT pg_drop_replication_slot('bemi_nested');
DROP PUBLICATION bemi;
DROP EXTENSION bemi CASCADE;
