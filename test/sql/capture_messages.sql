--
-- Which messages and rows a write to a tracked table puts into the WAL (src/capture/capture.c).
--
-- The context of a row is the nearest message before it in its transaction. Every reader of the
-- WAL relies on this order. So the test reads messages and rows through a slot of test_decoding,
-- without a worker of bemi. BEGIN and COMMIT are left out. Each statement is its own transaction
-- unless a comment says otherwise.
--
CREATE EXTENSION bemi;

\i test/sql/include/wal.sql

CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE done (id integer PRIMARY KEY, task text);
CREATE TABLE loose (id integer);
SELECT bemi.track('todo'), bemi.track('done');

-- without a context: rows only
INSERT INTO todo VALUES (1, 'eat');
SELECT wal();

SET bemi.context = '{"n": 1}';

-- one message a statement, before its rows, however many those are
INSERT INTO todo VALUES (2, 'drink');
INSERT INTO todo VALUES (3, 'sing'), (4, 'dance');
UPDATE todo SET task = upper(task) WHERE id < 3;
DELETE FROM todo WHERE id > 2;
SELECT wal();

-- COPY, TRUNCATE
COPY todo FROM stdin;
5	read
6	write
\.
TRUNCATE done;
SELECT wal();

-- INSERT ON CONFLICT fires two statement triggers, and is one statement
INSERT INTO todo VALUES (6, 'w'), (7, 'count') ON CONFLICT (id) DO UPDATE SET task = excluded.task;
INSERT INTO todo VALUES (7, 'c') ON CONFLICT (id) DO UPDATE SET task = excluded.task;
SELECT wal();

-- writable CTE: each part that changes a table writes its own
WITH gone AS (DELETE FROM todo WHERE id IN (5, 6) RETURNING *) INSERT INTO done SELECT * FROM gone;
SELECT wal();

-- UPDATE FROM, DELETE USING, RETURNING, an updatable view, a cursor
UPDATE todo SET task = done.task FROM done WHERE todo.id = 7 AND done.id = 5 RETURNING todo.task;
DELETE FROM todo USING done WHERE todo.id = 7 AND done.id = 5;
CREATE VIEW short AS SELECT id FROM todo;
INSERT INTO short VALUES (8);
BEGIN;
DECLARE each CURSOR FOR SELECT FROM done ORDER BY id FOR UPDATE;
FETCH each;
UPDATE done SET task = 'R' WHERE CURRENT OF each;
FETCH each;
DELETE FROM done WHERE CURRENT OF each;
COMMIT;
SELECT wal();

-- a table that is not tracked: its rows, no message
INSERT INTO loose VALUES (1);
SELECT wal();

-- a statement without rows: nothing
UPDATE todo SET task = '' WHERE id = 0;
DELETE FROM todo WHERE id = 0;
INSERT INTO todo SELECT * FROM done WHERE id = 0;
SELECT wal();

-- EXPLAIN: nothing; EXPLAIN ANALYZE runs the statement
EXPLAIN (COSTS off) INSERT INTO todo VALUES (10, 'plan');
SELECT wal();
DO $$ BEGIN EXECUTE 'EXPLAIN (ANALYZE) INSERT INTO todo VALUES (10, ''plan'')'; END $$;
SELECT wal();

-- prepared: the context is that of each execution
PREPARE add (integer) AS INSERT INTO todo VALUES ($1, 'again');
EXECUTE add (11);
SET bemi.context = '{"n": 2}';
EXECUTE add (12);
RESET bemi.context;
EXECUTE add (13);
DEALLOCATE add;
SELECT wal();

-- two contexts in one transaction, then none: {} ends the last one
BEGIN;
INSERT INTO todo VALUES (20, 'before any');
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (21, 'first');
SET LOCAL bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (22, 'second');
SET LOCAL bemi.context = '';
INSERT INTO todo VALUES (23, 'none');
UPDATE todo SET task = 'no row' WHERE id = 0;
COMMIT;
INSERT INTO todo VALUES (24, 'next transaction');
SELECT wal();

-- a rollback to a savepoint removes the message: the rows after it inherit nothing
BEGIN;
SAVEPOINT a;
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (30, 'gone');
ROLLBACK TO a;
INSERT INTO todo VALUES (31, 'no message before this one');
COMMIT;
SELECT wal();

-- savepoint released, then rolled back with the one around it
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (32, 'gone');
RELEASE b;
INSERT INTO todo VALUES (33, 'gone too');
ROLLBACK TO a;
INSERT INTO todo VALUES (34, 'no message before this one');
COMMIT;
SELECT wal();

-- a message outside of the savepoint stays, so {} must still be emitted
BEGIN;
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (35, 'with 1');
SAVEPOINT a;
SET LOCAL bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (36, 'gone');
ROLLBACK TO a;
SET LOCAL bemi.context = '';
INSERT INTO todo VALUES (37, 'with none');
SAVEPOINT b;
SET LOCAL bemi.context = '{"n": 3}';
INSERT INTO todo VALUES (38, 'with 3');
RELEASE b;
COMMIT;
SELECT wal();

-- a released savepoint leaves its message to the outer transaction
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (39, 'with 1');
RELEASE b;
RELEASE a;
SET LOCAL bemi.context = '';
INSERT INTO todo VALUES (40, 'with none');
COMMIT;
SELECT wal();

-- after an error nothing stale is left, in the same transaction and in the next
SET bemi.context = '{"n": 1}';
BEGIN;
SAVEPOINT a;
INSERT INTO todo SELECT 100 / (103 - i), 'fails at the third row' FROM generate_series(101, 103) i;
ROLLBACK TO a;
UPDATE todo SET task = 'went on' WHERE id = 40;
COMMIT;
INSERT INTO todo VALUES (40, 'duplicate');
RESET bemi.context;
UPDATE todo SET task = 'no context' WHERE id = 40;
SELECT wal();

-- a function that changes the context between its statements
DO $$
BEGIN
	PERFORM bemi.set_context('{"n": 1}');
	INSERT INTO done VALUES (50, 'with 1');
	BEGIN
		PERFORM bemi.set_context('{"n": 2}');
		INSERT INTO done VALUES (51, 'gone');
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		INSERT INTO done VALUES (52, 'with 1, the exception took {"n": 2} back');
	END;
	PERFORM bemi.set_context('{"n": 3}');
	INSERT INTO done VALUES (53, 'with 3');
END $$;
SELECT wal();

-- a statement that changes the context does so too late for itself
SET bemi.context = '{"n": 1}';
INSERT INTO done SELECT 54, 'with 1' FROM bemi.set_context('{"n": 2}', is_local => false);
INSERT INTO done VALUES (55, 'with 2');
SELECT wal();

-- cascades: each table has its message
SET bemi.context = '{"n": 1}';
CREATE TABLE step (id integer PRIMARY KEY, todo integer REFERENCES todo ON DELETE CASCADE ON UPDATE CASCADE);
SELECT bemi.track('step');
INSERT INTO step VALUES (1, 20), (2, 20), (3, 21);
SELECT count(*) FROM wal();
UPDATE todo SET id = 200 WHERE id = 20;
DELETE FROM todo WHERE id IN (21, 200);
SELECT wal();
-- only the child is tracked
SELECT bemi.untrack('todo');
INSERT INTO step VALUES (4, 22);
DELETE FROM todo WHERE id IN (22, 23);
SELECT wal();
SELECT bemi.track('todo');

-- inheritance: the statement names the parent, the rows are of a tracked child
CREATE TABLE base (id integer, task text);
CREATE TABLE derived () INHERITS (base);
SELECT bemi.track('derived');
INSERT INTO base VALUES (1, 'in base');
INSERT INTO derived VALUES (2, 'in derived');
UPDATE base SET task = upper(task);
DELETE FROM base WHERE id = 2;
UPDATE base SET task = 'no row' WHERE id = 2;
SELECT wal();

-- partitions: through the root and direct
CREATE TABLE part (id integer, task text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (10) TO (20);
SELECT bemi.track('part');
INSERT INTO part VALUES (1, 'one'), (11, 'eleven');
UPDATE part SET id = id + 10 WHERE id = 1;
DELETE FROM part1;
DELETE FROM part2 WHERE task = 'one';
COPY part FROM stdin;
2	two
12	twelve
\.
SELECT wal();

-- a disabled trigger writes no message; the rows are there all the same
ALTER TABLE todo DISABLE TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (60, 'disabled');
COPY todo FROM stdin;
61	disabled
\.
ALTER TABLE todo ENABLE TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (62, 'enabled');
SELECT wal();

-- neither does one that session_replication_role suppresses; ENABLE ALWAYS does
SET session_replication_role = replica;
INSERT INTO todo VALUES (63, 'held back');
UPDATE base SET task = 'base has no trigger';
INSERT INTO derived VALUES (3, 'held back');
UPDATE base SET task = 'held back' WHERE id = 3;
RESET session_replication_role;
ALTER TABLE todo ENABLE ALWAYS TRIGGER bemi_emit_context;
ALTER TABLE derived ENABLE ALWAYS TRIGGER bemi_emit_context;
SET session_replication_role = replica;
INSERT INTO todo VALUES (64, 'always');
UPDATE base SET task = 'always' WHERE id = 3;
RESET session_replication_role;
SELECT wal();

-- a trigger made by hand, with a condition that the server decides on
CREATE TRIGGER by_hand BEFORE INSERT ON loose FOR EACH STATEMENT
	WHEN (current_setting('bemi.context') <> '{"n": 2}') EXECUTE FUNCTION bemi.emit_context();
INSERT INTO loose VALUES (2);
UPDATE loose SET id = 20 WHERE id = 2;
SET bemi.context = '{"n": 2}';
INSERT INTO loose VALUES (3);
SELECT wal();

RESET bemi.context;
DROP VIEW short;
DROP TABLE todo, done, step, loose, part, base, derived;
DROP FUNCTION wal();
SELECT pg_drop_replication_slot('bemi_wal');
DROP PUBLICATION bemi;
DROP EXTENSION bemi;
