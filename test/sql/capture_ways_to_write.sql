--
-- Every way in which a row can change, and the context that its change is stored with.
--
-- Nobody notices a change with the context of another statement until the history is needed, and
-- PostgreSQL has many ways to write: nested statements, triggers, rules, cascades, COPY. So each
-- way is used here with different contexts, and the test reads what the worker has stored, as a
-- user would. capture_messages.sql tests the messages in the WAL on which this relies.
--
-- A context is {"by": "somebody"}. The output shows "by", and {} for a change without a context.
--
CREATE EXTENSION bemi;
CALL bemi.start();

-- The changes stored since the last call, in commit order.
\i test/sql/include/tell.sql

\i test/sql/include/messages.sql

CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE log (id integer PRIMARY KEY, task text);
CREATE TABLE deep (id integer PRIMARY KEY);
CREATE TABLE loose (id integer PRIMARY KEY);
SELECT bemi.track('todo'), bemi.track('log'), bemi.track('deep');

--
-- Prepared statements, also with a generic plan: the context is that of each execution
--
PREPARE add (integer) AS INSERT INTO todo VALUES ($1);
SET bemi.context = '{"by": "ann"}';
EXECUTE add (1);
SET plan_cache_mode = force_generic_plan;
SET bemi.context = '{"by": "bob"}';
EXECUTE add (2);
EXECUTE add (3) /*Bemi {"by": "comment"} Bemi*/;
RESET bemi.context;
EXECUTE add (4);
RESET plan_cache_mode;
DEALLOCATE add;
SELECT * FROM tell();

-- several statements in one message from the client: each has the comment behind it
INSERT INTO todo VALUES (5)\; INSERT INTO todo VALUES (6) /*Bemi {"by": "comment"} Bemi*/;
-- one that sets the context in between
INSERT INTO todo VALUES (7)\; SET LOCAL bemi.context = '{"by": "ann"}'\; INSERT INTO todo VALUES (8);
SELECT * FROM tell();

--
-- A function and a DO block that change the context between their statements.
-- The plans are cached, and the eleventh execution is not the first.
--
CREATE FUNCTION add_each(first integer, last integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN first..last LOOP
		IF i % 3 = 0 THEN
			PERFORM bemi.set_context(NULL);
		ELSE
			PERFORM bemi.set_context(jsonb_build_object('by', i));
		END IF;
		INSERT INTO todo VALUES (i);
	END LOOP;
END $$;
SELECT add_each(11, 30);
SELECT count(*), count(*) FILTER (WHERE by = CASE WHEN key::integer % 3 = 0 THEN '{}' ELSE key END) AS right_context
	FROM tell();
DO $$
BEGIN
	SET LOCAL bemi.context = '{"by": "ann"}';
	DELETE FROM todo WHERE id = 11;
	SET LOCAL bemi.context = '{"by": "bob"}';
	DELETE FROM todo WHERE id = 12;
	-- the nearest comment is that of the statement itself
	EXECUTE 'DELETE FROM todo WHERE id = 13 /*Bemi {"by": "comment"} Bemi*/';
	DELETE FROM todo WHERE id = 14;
	SET LOCAL bemi.context = '';
	DELETE FROM todo WHERE id = 15;
END $$;
SELECT * FROM tell();
-- each in its own transaction
CREATE PROCEDURE drop_each() LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 16..18 LOOP
		PERFORM bemi.set_context(jsonb_build_object('by', i));
		DELETE FROM todo WHERE id = i;
		COMMIT;
		DELETE FROM todo WHERE id = i + 10;
	END LOOP;
END $$;
CALL drop_each();
SELECT * FROM tell();
TRUNCATE todo;
SELECT * FROM tell();

--
-- Nested statements: the inner one has its own context, which must not get into
-- the rows that the outer one writes after it.
--
CREATE FUNCTION log_inside(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN INSERT INTO log VALUES (i); RETURN i; END $$;

SET bemi.context = '{"by": "outer"}';
INSERT INTO todo SELECT log_inside(i) FROM generate_series(1, 2) i;
UPDATE todo SET task = log_inside(id + 10);
DELETE FROM todo WHERE log_inside(id + 20) = 21 RETURNING log_inside(id + 30);
INSERT INTO todo VALUES (2), (3) ON CONFLICT (id) DO UPDATE SET task = log_inside(42) RETURNING log_inside(todo.id + 50);
SELECT * FROM tell();

-- the outer one has none
RESET bemi.context;
INSERT INTO todo SELECT log_inside(i) FROM generate_series(4, 5) i;
UPDATE todo SET task = log_inside(id + 60) WHERE id > 3;
SELECT * FROM tell();

-- the inner one takes the context away
CREATE FUNCTION log_without(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = ''
AS $$ BEGIN INSERT INTO log VALUES (i); RETURN i; END $$;
SET bemi.context = '{"by": "outer"}';
INSERT INTO todo SELECT log_without(i) FROM generate_series(6, 7) i;
SELECT * FROM tell();

-- the inner one changes it for the session: too late for this statement, in time for the next
CREATE FUNCTION log_and_stay(i integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.set_context(jsonb_build_object('by', 'from ' || i), is_local => false);
	INSERT INTO log VALUES (i);
	RETURN i;
END $$;
INSERT INTO todo SELECT log_and_stay(i) FROM generate_series(8, 9) i;
INSERT INTO todo VALUES (10);
SELECT * FROM tell();

-- two levels deep
CREATE FUNCTION deeper(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "innermost"}'
AS $$ BEGIN INSERT INTO deep VALUES (i), (i + 1); RETURN i; END $$;
CREATE FUNCTION log_deeper(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN INSERT INTO log SELECT deeper(j) FROM generate_series(i, i + 2, 2) j; RETURN i; END $$;
SET bemi.context = '{"by": "outer"}';
INSERT INTO todo SELECT log_deeper(i) FROM generate_series(100, 104, 4) i;
SELECT * FROM tell();

-- the inner one is rolled back in part: the message before it is valid again
CREATE FUNCTION log_and_fail(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$
BEGIN
	BEGIN
		INSERT INTO log VALUES (i);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		IF i % 2 = 0 THEN
			INSERT INTO log VALUES (i + 100);
		END IF;
	END;
	RETURN i;
END $$;
INSERT INTO todo SELECT log_and_fail(i) FROM generate_series(201, 203) i;
SELECT * FROM tell();

-- the inner one is COPY, TRUNCATE, both without a plan
CREATE FUNCTION copy_inside(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN EXECUTE format('COPY log (id) FROM PROGRAM ''echo %s''', i); RETURN i; END $$;
CREATE FUNCTION truncate_inside(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN TRUNCATE deep; RETURN i; END $$;
INSERT INTO todo SELECT copy_inside(i) FROM generate_series(311, 312) i;
INSERT INTO todo SELECT truncate_inside(i) FROM generate_series(303, 304) i;
SELECT * FROM tell();

-- both use the context of the client's comment, if it has one, because it is nearer
INSERT INTO todo SELECT log_inside(i) FROM generate_series(305, 306) i /*Bemi {"by": "comment"} Bemi*/;
SELECT * FROM tell();

-- the outer one is a query, a query of a cursor, CREATE TABLE AS
SELECT log_inside(307);
BEGIN;
DECLARE each CURSOR FOR SELECT log_inside(i) FROM generate_series(308, 310) i;
FETCH each;
INSERT INTO todo VALUES (308);
FETCH each;
INSERT INTO todo VALUES (309);
COMMIT;
CREATE TABLE made AS SELECT log_inside(315) AS id;
DROP TABLE made;
SELECT * FROM tell();
TRUNCATE todo, log;

--
-- Triggers that write to other tracked tables: before and after the row, before
-- and after the statement; with the statement's context, and with their own.
--
CREATE FUNCTION log_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log VALUES (new.id + tg_argv[0]::integer);
	RETURN new;
END $$;
CREATE FUNCTION log_row_inside() RETURNS trigger LANGUAGE plpgsql
	SET bemi.context = '{"by": "trigger"}'
AS $$
BEGIN
	INSERT INTO log VALUES (new.id + tg_argv[0]::integer);
	RETURN new;
END $$;
CREATE FUNCTION log_statement_inside() RETURNS trigger LANGUAGE plpgsql
	SET bemi.context = '{"by": "trigger"}'
AS $$
BEGIN
	INSERT INTO log SELECT count(*) * 1000 + tg_argv[0]::integer FROM todo;
	RETURN NULL;
END $$;
CREATE TRIGGER a BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_row(10);
CREATE TRIGGER b BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_row_inside(20);
CREATE TRIGGER c AFTER INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_row(30);
CREATE TRIGGER d AFTER INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_row_inside(40);
-- its name comes before bemi's
CREATE TRIGGER a_statement BEFORE INSERT ON todo FOR EACH STATEMENT EXECUTE FUNCTION log_statement_inside(1);
-- and after
CREATE TRIGGER z_statement BEFORE INSERT ON todo FOR EACH STATEMENT EXECUTE FUNCTION log_statement_inside(2);
CREATE TRIGGER after_statement AFTER INSERT ON todo FOR EACH STATEMENT EXECUTE FUNCTION log_statement_inside(3);
SELECT count(*) FROM tell();
INSERT INTO todo VALUES (1), (2);
SELECT * FROM tell();
RESET bemi.context;
INSERT INTO todo VALUES (3), (4);
SELECT * FROM tell();
-- before the row, on its update
CREATE TRIGGER e BEFORE UPDATE ON todo FOR EACH ROW EXECUTE FUNCTION log_row_inside(50);
SET bemi.context = '{"by": "outer"}';
UPDATE todo SET task = 'x' WHERE id < 3;
SELECT * FROM tell();
TRUNCATE log;
SELECT count(*) FROM tell();
INSERT INTO todo VALUES (3) ON CONFLICT (id) DO UPDATE SET task = 'x';
SELECT * FROM tell();
DROP TRIGGER a ON todo;
DROP TRIGGER b ON todo;
DROP TRIGGER c ON todo;
DROP TRIGGER d ON todo;
DROP TRIGGER e ON todo;
DROP TRIGGER a_statement ON todo;
DROP TRIGGER z_statement ON todo;
DROP TRIGGER after_statement ON todo;
TRUNCATE todo, log;

--
-- Writable CTEs: several modifications, one statement, one context, one message
--
INSERT INTO todo VALUES (1, 'a'), (2, 'b'), (3, 'c');
SELECT count(*) FROM tell();
SELECT messages() > 0 AS reset;
WITH gone AS (DELETE FROM todo WHERE id = 1 RETURNING *),
	changed AS (UPDATE todo SET task = 'B' WHERE id = 2 RETURNING *),
	noted AS (INSERT INTO deep VALUES (1) RETURNING *)
INSERT INTO log SELECT * FROM gone UNION ALL SELECT * FROM changed;
SELECT messages();
SELECT * FROM tell();
-- a query that has one
WITH gone AS (DELETE FROM deep RETURNING id) SELECT count(*) FROM gone;
-- one modification has no row, the main one is of a table that is not tracked
WITH none AS (DELETE FROM todo WHERE id = 0 RETURNING id), gone AS (DELETE FROM log RETURNING id)
INSERT INTO loose SELECT id FROM gone UNION ALL SELECT id FROM none;
SELECT messages();
SELECT * FROM tell();
-- a function in the middle of it
WITH added AS (INSERT INTO todo SELECT log_inside(i) FROM generate_series(11, 12) i RETURNING id)
INSERT INTO deep SELECT id FROM added;
SELECT * FROM tell();

-- two modifications of one table: PostgreSQL fires the trigger for one of them only
WITH added AS (INSERT INTO todo VALUES (21) RETURNING id) INSERT INTO todo SELECT id + 1 FROM added;
BEGIN;
SET LOCAL bemi.context = '{"by": "first"}';
INSERT INTO log VALUES (21);
SET LOCAL bemi.context = '{"by": "second"}';
WITH added AS (INSERT INTO todo VALUES (23) RETURNING id) INSERT INTO todo SELECT id + 1 FROM added;
WITH a AS (UPDATE todo SET task = 'a' WHERE id = 21), b AS (UPDATE todo SET task = 'b' WHERE id = 22)
SELECT 'both';
COMMIT;
SELECT "table", operation, key, by FROM tell() ORDER BY operation, key::integer, "table";

--
-- ON CONFLICT: inserted and updated rows of one statement
--
INSERT INTO todo VALUES (11, 'x'), (13, 'x') ON CONFLICT (id) DO UPDATE SET task = excluded.task;
INSERT INTO todo VALUES (11, 'y'), (14, 'y') ON CONFLICT DO NOTHING;
INSERT INTO todo VALUES (11, 'z') ON CONFLICT (id) DO UPDATE SET task = excluded.task WHERE false;
SELECT messages() > 0 AS reset;
SELECT * FROM tell();
TRUNCATE todo, log, deep;

--
-- COPY: text, CSV, binary, from a program
--
SET bemi.context = '{"by": "copy"}';
COPY todo FROM stdin;
1	text
2	text
\.
COPY todo FROM stdin (FORMAT csv);
3,csv
\.
-- through a file in the server's data directory
COPY (SELECT 4, 'binary') TO PROGRAM 'cat > bemi_ways_to_write.tmp' (FORMAT binary);
COPY todo FROM PROGRAM 'cat bemi_ways_to_write.tmp' (FORMAT binary) WHERE id > 0;
COPY todo FROM PROGRAM 'rm bemi_ways_to_write.tmp';
-- it fails after two good rows, and after a good row at a bad one: nothing is stored
COPY todo (id) FROM PROGRAM 'echo 11; echo 12; exit 3';
COPY todo (id) FROM PROGRAM 'echo 13; echo bad';
BEGIN;
SAVEPOINT a;
SET LOCAL bemi.context = '{"by": "gone"}';
COPY todo (id) FROM PROGRAM 'echo 14; echo 1';
ROLLBACK TO a;
INSERT INTO todo VALUES (15);
COMMIT;
RESET bemi.context;
COPY todo (id) FROM PROGRAM 'echo 16';
SELECT * FROM tell();

--
-- Cursors
--
SET bemi.context = '{"by": "ann"}';
BEGIN;
DECLARE each CURSOR FOR SELECT * FROM todo WHERE id < 4 ORDER BY id FOR UPDATE;
MOVE 1 FROM each;
UPDATE todo SET task = 'current' WHERE CURRENT OF each;
MOVE 1 FROM each;
SET LOCAL bemi.context = '{"by": "bob"}';
DELETE FROM todo WHERE CURRENT OF each;
MOVE 1 FROM each;
SET LOCAL bemi.context = '';
UPDATE todo SET task = 'current' WHERE CURRENT OF each;
COMMIT;
-- rows of a modification that a function loops over, with another context in the loop
DO $$
DECLARE
	changed record;
BEGIN
	FOR changed IN UPDATE todo SET task = 'loop' WHERE id IN (1, 3) RETURNING id LOOP
		PERFORM bemi.set_context('{"by": "loop"}');
		INSERT INTO log VALUES (changed.id);
	END LOOP;
END $$;
SELECT * FROM tell();

--
-- Views: updatable ones, views of views, INSTEAD OF triggers
--
CREATE VIEW tasks AS SELECT id, task FROM todo WHERE id < 1000 WITH CHECK OPTION;
CREATE VIEW some_tasks AS SELECT id FROM tasks;
INSERT INTO some_tasks VALUES (101);
UPDATE some_tasks SET id = 102 WHERE id = 101;
INSERT INTO tasks VALUES (1001, 'refused');
DELETE FROM tasks WHERE id = 102;
CREATE VIEW sums AS SELECT count(*) AS n FROM todo;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO todo VALUES (new.n);
	SET LOCAL bemi.context = '{"by": "instead"}';	-- it stays for the second row
	INSERT INTO log VALUES (new.n);
	RETURN new;
END $$;
CREATE TRIGGER instead INSTEAD OF INSERT ON sums FOR EACH ROW EXECUTE FUNCTION instead();
INSERT INTO sums VALUES (103), (104);
SELECT * FROM tell();
DROP VIEW sums, some_tasks, tasks;

--
-- Rules: several statements come of one, all with its context
--
SELECT messages() > 0 AS reset;
CREATE RULE also AS ON INSERT TO todo DO ALSO INSERT INTO log VALUES (new.id);
INSERT INTO todo VALUES (201);
CREATE RULE instead AS ON INSERT TO loose DO INSTEAD INSERT INTO deep VALUES (new.id);
INSERT INTO loose VALUES (202);
CREATE RULE on_delete AS ON DELETE TO todo DO INSTEAD UPDATE todo SET task = 'deleted' WHERE id = old.id;
DELETE FROM todo WHERE id = 201;
CREATE RULE nothing AS ON UPDATE TO deep DO INSTEAD NOTHING;
UPDATE deep SET id = 203;
SELECT messages();
SELECT * FROM tell();
DROP RULE also ON todo;
DROP RULE instead ON loose;
DROP RULE on_delete ON todo;
DROP RULE nothing ON deep;

--
-- Inheritance: the statement names the parent, the rows are the child's. Tracked
-- is the child alone, the parent alone, both.
--
CREATE TABLE base (id integer PRIMARY KEY, task text);
CREATE TABLE derived (PRIMARY KEY (id)) INHERITS (base);
CREATE TABLE other (PRIMARY KEY (id)) INHERITS (base);
SELECT bemi.track('derived');
INSERT INTO base VALUES (1);
INSERT INTO derived VALUES (2);
INSERT INTO other VALUES (3);
UPDATE base SET task = 'by way of base';
DELETE FROM ONLY base;
SET bemi.context = '{"by": "bob"}';
UPDATE base SET task = log_inside(id + 400)::text;
SELECT * FROM tell();
SELECT bemi.track('base'), bemi.untrack('derived');
UPDATE base SET task = 'not of base';
INSERT INTO base VALUES (1);
SELECT bemi.track('derived'), bemi.track('other');
SELECT messages() > 0 AS reset;
UPDATE base SET task = 'all';
SELECT messages();
TRUNCATE base;
SELECT messages();
SELECT * FROM tell();
DROP TABLE base, derived, other;

--
-- Foreign keys: CASCADE, SET NULL, SET DEFAULT, three tables deep
--
CREATE TABLE step (id integer PRIMARY KEY, todo integer REFERENCES todo ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE step_note (id integer PRIMARY KEY, step integer REFERENCES step ON DELETE CASCADE,
	todo integer REFERENCES todo ON DELETE SET NULL ON UPDATE CASCADE,
	fallback integer DEFAULT 500 REFERENCES todo ON DELETE SET DEFAULT);
SELECT bemi.track('step'), bemi.track('step_note');
RESET bemi.context;
TRUNCATE todo, step, step_note;
INSERT INTO todo VALUES (500), (501), (502), (503);
INSERT INTO step VALUES (1, 501), (2, 502);
INSERT INTO step_note VALUES (1, 1, 501, NULL), (2, 2, 503, NULL), (3, NULL, NULL, 503);
SELECT count(*) FROM tell();
SET bemi.context = '{"by": "ann"}';
UPDATE todo SET id = 511 WHERE id = 501;
SET bemi.context = '{"by": "bob"}';
DELETE FROM todo WHERE id IN (502, 503);
DELETE FROM todo WHERE id = 511 /*Bemi {"by": "comment"} Bemi*/;
SELECT * FROM tell();
-- cascades inside of a statement whose row comes after them
CREATE FUNCTION forget(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN DELETE FROM todo WHERE id = i; RETURN i; END $$;
INSERT INTO todo VALUES (504);
INSERT INTO step VALUES (4, 504);
INSERT INTO log SELECT forget(i) FROM generate_series(504, 505) i;
SELECT * FROM tell();

-- deferred to COMMIT: the context is the one that stands then, or COMMIT's own
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON todo DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION log_row(100);
BEGIN;
SET LOCAL bemi.context = '{"by": "first"}';
INSERT INTO todo VALUES (505);
SET LOCAL bemi.context = '{"by": "second"}';
INSERT INTO todo VALUES (506);
SET LOCAL bemi.context = '{"by": "third"}';
COMMIT;
BEGIN;
INSERT INTO todo VALUES (507);
COMMIT /*Bemi {"by": "commit"} Bemi*/;
BEGIN;
INSERT INTO todo VALUES (508);
SET CONSTRAINTS ALL IMMEDIATE;
SET LOCAL bemi.context = '{"by": "first"}';
INSERT INTO todo VALUES (509);
COMMIT;
SELECT * FROM tell();
DROP TRIGGER deferred ON todo;

--
-- TRUNCATE: several tables, CASCADE, RESTART IDENTITY
--
CREATE TABLE counted (id serial PRIMARY KEY);
SELECT bemi.track('counted');
SELECT messages() > 0 AS reset;
TRUNCATE counted, log;
SELECT messages() AS one_for_both;
TRUNCATE todo CASCADE;
TRUNCATE counted RESTART IDENTITY;
INSERT INTO counted DEFAULT VALUES;
TRUNCATE loose;
RESET bemi.context;
TRUNCATE deep CONTINUE IDENTITY;
-- refused, and rolled back
TRUNCATE todo;
BEGIN;
SET LOCAL bemi.context = '{"by": "gone"}';
TRUNCATE counted;
ROLLBACK;
SELECT * FROM tell();
DROP TABLE counted, step_note, step;

--
-- Savepoints, three deep, released and rolled back in every order
--
SELECT messages() > 0 AS reset;
BEGIN;
SET LOCAL bemi.context = '{"by": "zero"}';
INSERT INTO todo VALUES (600);
SAVEPOINT a;
SET LOCAL bemi.context = '{"by": "one"}';
INSERT INTO todo VALUES (601);
SAVEPOINT b;
SET LOCAL bemi.context = '{"by": "two"}';
INSERT INTO todo VALUES (602);
SAVEPOINT c;
SET LOCAL bemi.context = '{"by": "three"}';
INSERT INTO todo VALUES (603);
ROLLBACK TO c;
INSERT INTO todo VALUES (604);	-- two
RELEASE c;
INSERT INTO todo VALUES (605);	-- two
ROLLBACK TO b;
INSERT INTO todo VALUES (606);	-- one
RELEASE b;
RELEASE a;
INSERT INTO todo VALUES (607);	-- one: a release keeps what was set
SET LOCAL bemi.context = '';
SAVEPOINT a;
INSERT INTO todo VALUES (608);	-- none
SAVEPOINT b;
SET LOCAL bemi.context = '{"by": "two"}';
SAVEPOINT c;
INSERT INTO todo VALUES (609);	-- two
RELEASE c;
INSERT INTO todo VALUES (610);	-- two
ROLLBACK TO a;
INSERT INTO todo VALUES (611);	-- none
SAVEPOINT a;
SET LOCAL bemi.context = '{"by": "one"}';
SAVEPOINT b;
SAVEPOINT c;
INSERT INTO todo VALUES (612);	-- one
RELEASE b;
INSERT INTO todo VALUES (613);	-- one
ROLLBACK TO SAVEPOINT a;
COMMIT;
SELECT * FROM tell();
-- the whole transaction rolled back, then one that has nothing of it
BEGIN;
SET LOCAL bemi.context = '{"by": "gone"}';
INSERT INTO todo VALUES (614);
SAVEPOINT a;
INSERT INTO todo VALUES (615);
ROLLBACK;
INSERT INTO todo VALUES (616);
SELECT * FROM tell();

-- exception blocks, three deep
DO $$
BEGIN
	SET LOCAL bemi.context = '{"by": "zero"}';
	INSERT INTO todo VALUES (620);
	BEGIN
		SET LOCAL bemi.context = '{"by": "one"}';
		INSERT INTO todo VALUES (621);
		BEGIN
			SET LOCAL bemi.context = '{"by": "two"}';
			INSERT INTO todo VALUES (622);
			INSERT INTO todo VALUES (620);
		EXCEPTION WHEN unique_violation THEN
			INSERT INTO todo VALUES (623);	-- one
		END;
		INSERT INTO todo VALUES (624);	-- one
		BEGIN
			SET LOCAL bemi.context = '';
			INSERT INTO todo VALUES (625);	-- none
		EXCEPTION WHEN unique_violation THEN
			RAISE EXCEPTION 'not to be';
		END;
		INSERT INTO todo VALUES (626);	-- none: the block went well
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		INSERT INTO todo VALUES (627);	-- zero
	END;
	INSERT INTO todo VALUES (628);	-- zero
END $$;
SELECT * FROM tell();
TRUNCATE todo;
SELECT count(*) FROM tell();

--
-- Two-phase commit: stored once it is committed, with the context of its time
--
BEGIN;
SET LOCAL bemi.context = '{"by": "ann"}';
INSERT INTO todo VALUES (1);
SAVEPOINT a;
SET LOCAL bemi.context = '{"by": "bob"}';
INSERT INTO todo VALUES (2);
RELEASE a;
PREPARE TRANSACTION 'bemi_ways_to_write';
INSERT INTO todo VALUES (3);
SET bemi.context = '{"by": "carl"}';
COMMIT PREPARED 'bemi_ways_to_write';
BEGIN;
INSERT INTO todo VALUES (4);
PREPARE TRANSACTION 'bemi_ways_to_write';
ROLLBACK PREPARED 'bemi_ways_to_write';
SELECT * FROM tell();

--
-- EXPLAIN changes nothing; EXPLAIN ANALYZE does what the statement does
--
SELECT messages() > 0 AS reset;
EXPLAIN (COSTS off) INSERT INTO todo VALUES (5);
SELECT messages();
DO $$
BEGIN
	EXECUTE 'EXPLAIN ANALYZE INSERT INTO todo SELECT log_inside(i) FROM generate_series(5, 6) i';
	EXECUTE 'EXPLAIN ANALYZE UPDATE todo SET task = id WHERE id = 0';
END $$;
SELECT * FROM tell();

--
-- What is not tracked is left alone: CREATE TABLE AS, SELECT INTO, a view made
-- material, large objects, temporary tables, sequences
--
SELECT messages() > 0 AS reset;
CREATE TABLE made AS SELECT * FROM todo;
SELECT * INTO made_too FROM todo;
CREATE MATERIALIZED VIEW material AS SELECT * FROM todo;
REFRESH MATERIALIZED VIEW material;
CREATE TEMP TABLE passing AS SELECT * FROM todo;
UPDATE passing SET task = 'x';
SELECT lo_unlink(lo_from_bytea(0, 'large')) AS unlinked;
SELECT id FROM todo ORDER BY id FOR UPDATE;
SELECT messages();
SELECT * FROM tell();
DROP MATERIALIZED VIEW material;
DROP TABLE made, made_too, passing;

--
-- session_replication_role: without the trigger, the rows come without context
--
SET session_replication_role = replica;
INSERT INTO todo VALUES (21);
ALTER TABLE todo ENABLE ALWAYS TRIGGER bemi_emit_context;
INSERT INTO todo VALUES (22);
SET session_replication_role = local;
INSERT INTO todo VALUES (23);
RESET session_replication_role;
ALTER TABLE todo ENABLE TRIGGER bemi_emit_context;
SELECT * FROM tell();
-- nor do they inherit that of an earlier statement
BEGIN;
SET LOCAL bemi.context = '{"by": "earlier"}';
INSERT INTO todo VALUES (124);
SET LOCAL session_replication_role = replica;
INSERT INTO todo VALUES (125);
SET LOCAL session_replication_role = origin;
INSERT INTO todo VALUES (126);
COMMIT;
SELECT * FROM tell();

--
-- Row-level security, and a role without other rights
--
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_writer;
RESET client_min_messages;
CREATE ROLE regress_bemi_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON todo TO regress_bemi_writer;
ALTER TABLE todo ENABLE ROW LEVEL SECURITY;
CREATE POLICY mine ON todo USING (task = current_user) WITH CHECK (task = current_user);
SET ROLE regress_bemi_writer;
SET bemi.context = '{"by": "writer"}';
INSERT INTO todo VALUES (31, current_user), (32, current_user);
INSERT INTO todo VALUES (33, 'not mine');
UPDATE todo SET id = 34 WHERE id < 32;
UPDATE todo SET id = 35 WHERE id < 25;
DELETE FROM todo;
RESET ROLE;
SELECT * FROM tell();
ALTER TABLE todo DISABLE ROW LEVEL SECURITY;
DROP POLICY mine ON todo;
DROP OWNED BY regress_bemi_writer;
DROP ROLE regress_bemi_writer;

--
-- An error in the middle of a statement that has written its message: nothing of
-- it is left for the next statement, in the same transaction or in another.
--
SET bemi.context = '{"by": "gone"}';
BEGIN;
SAVEPOINT a;
INSERT INTO todo SELECT 100 / (3 - i) FROM generate_series(1, 3) i;
ROLLBACK TO a;
SET LOCAL bemi.context = '';
INSERT INTO todo VALUES (41);
SET LOCAL bemi.context = '{"by": "ann"}';
UPDATE todo SET task = 'x' WHERE id = 41;
COMMIT;
INSERT INTO todo SELECT log_inside(100 / (3 - i)) FROM generate_series(1, 3) i;
RESET bemi.context;
INSERT INTO todo VALUES (42);
-- the error is raised and caught in the inner statement, and the outer one continues
CREATE FUNCTION try(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$
BEGIN
	INSERT INTO log SELECT i * 1000 + 100 / (2 - j) FROM generate_series(1, i) j;
	RETURN i;
EXCEPTION WHEN division_by_zero THEN
	RETURN -i;
END $$;
SET bemi.context = '{"by": "outer"}';
INSERT INTO todo SELECT 500 + try(i) FROM generate_series(1, 3) i;
-- cancelled while it writes
INSERT INTO todo SELECT i FROM generate_series(1000, 1010) i WHERE i < 1005 OR pg_cancel_backend(pg_backend_pid());
RESET bemi.context;
INSERT INTO todo VALUES (43);
SELECT * FROM tell();

-- after all of this the worker is well
SELECT state, invalid_messages, restarts, last_error FROM bemi.status;

DROP TABLE todo, log, deep, loose;
DROP FUNCTION tell(), messages(), add_each(integer, integer), log_inside(integer), log_without(integer),
	log_and_stay(integer), deeper(integer), log_deeper(integer), log_and_fail(integer), copy_inside(integer),
	truncate_inside(integer), log_row(), log_row_inside(), log_statement_inside(), instead(), forget(integer), try(integer);
DROP PROCEDURE drop_each();
SELECT pg_drop_replication_slot('bemi_ways');
CALL bemi.drop_source('main');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
