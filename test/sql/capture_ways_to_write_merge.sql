--
-- MERGE (PostgreSQL 15 and later), the part of capture_ways_to_write.sql that PostgreSQL 14
-- cannot parse.
--
-- One MERGE inserts, updates and deletes, and fires the statement triggers of each action. It is
-- still one statement with one context and one message. Functions that its actions call can write
-- with other contexts between its rows.
--
SELECT current_setting('server_version_num')::integer < 150000 AS no_merge \gset
\if :no_merge
\quit
\endif
CREATE EXTENSION bemi;
CALL bemi.start();

-- The changes stored since the last call, in commit order.
\i test/sql/include/tell.sql

\i test/sql/include/messages.sql

CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE log (id integer PRIMARY KEY);
CREATE TABLE wish (id integer, task text);
SELECT bemi.track('todo'), bemi.track('log');
INSERT INTO todo VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO wish VALUES (1, 'A'), (2, NULL), (4, 'd');
SELECT count(*) FROM tell();
SELECT messages();
-- The rows come in the order of the source.
SET enable_hashjoin = off;
SET enable_mergejoin = off;

-- all of its actions in one statement
SET bemi.context = '{"by": "merge"}';
MERGE INTO todo USING (SELECT * FROM wish ORDER BY id OFFSET 0) w ON todo.id = w.id
	WHEN MATCHED AND w.task IS NULL THEN DELETE
	WHEN MATCHED THEN UPDATE SET task = w.task
	WHEN NOT MATCHED THEN INSERT VALUES (w.id, w.task);
SELECT messages();
SELECT "table", operation, key, by FROM tell() ORDER BY key;

-- the comment wins over the setting; no context
MERGE INTO todo USING wish w ON todo.id = w.id AND w.id = 4
	WHEN MATCHED THEN UPDATE SET task = 'comment' /*Bemi {"by": "comment"} Bemi*/;
RESET bemi.context;
MERGE INTO todo USING wish w ON todo.id = w.id AND w.id = 4
	WHEN MATCHED THEN DELETE;
SELECT * FROM tell();

-- prepared
PREPARE put (integer, text) AS MERGE INTO todo USING (VALUES ($1, $2)) AS w (id, task) ON todo.id = w.id
	WHEN MATCHED THEN UPDATE SET task = w.task
	WHEN NOT MATCHED THEN INSERT VALUES (w.id, w.task);
SET bemi.context = '{"by": "ann"}';
EXECUTE put (4, 'new');
SET bemi.context = '{"by": "bob"}';
EXECUTE put (4, 'newer');
RESET bemi.context;
EXECUTE put (5, 'new');
DEALLOCATE put;
SELECT * FROM tell();

-- functions that set other contexts, in the source, the condition and the action
CREATE FUNCTION log_inside(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN INSERT INTO log VALUES (i); RETURN i; END $$;
SET bemi.context = '{"by": "outer"}';
MERGE INTO todo USING (SELECT log_inside(i) AS id FROM generate_series(11, 12) i) w ON todo.id = w.id
	WHEN NOT MATCHED AND log_inside(w.id + 100) > 0 THEN INSERT VALUES (w.id, log_inside(w.id + 200));
SELECT * FROM tell();
RESET bemi.context;
MERGE INTO todo USING (VALUES (11)) AS w (id) ON todo.id = w.id
	WHEN MATCHED THEN UPDATE SET task = log_inside(w.id + 300);
SELECT * FROM tell();

-- a trigger that writes with another context, before each row
CREATE FUNCTION log_row_inside() RETURNS trigger LANGUAGE plpgsql
	SET bemi.context = '{"by": "trigger"}'
AS $$ BEGIN INSERT INTO log VALUES (new.id + 400); RETURN new; END $$;
CREATE TRIGGER log BEFORE INSERT ON todo FOR EACH ROW EXECUTE FUNCTION log_row_inside();
SET bemi.context = '{"by": "outer"}';
MERGE INTO todo USING (VALUES (21), (22)) AS w (id) ON todo.id = w.id
	WHEN NOT MATCHED THEN INSERT VALUES (w.id);
SELECT * FROM tell();
DROP TRIGGER log ON todo;

-- inside of another statement, and of one that fails
CREATE FUNCTION put_inside(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$
BEGIN
	MERGE INTO todo USING (VALUES (i)) AS w (id) ON todo.id = w.id
		WHEN MATCHED THEN DELETE
		WHEN NOT MATCHED THEN INSERT VALUES (w.id);
	RETURN i;
END $$;
INSERT INTO log SELECT put_inside(i) FROM generate_series(22, 23) i;
SELECT * FROM tell();
MERGE INTO todo USING (VALUES (31, 1), (32, 0)) AS w (id, n) ON todo.id = w.id
	WHEN NOT MATCHED THEN INSERT VALUES (w.id, 1 / w.n);
RESET bemi.context;
INSERT INTO todo VALUES (33);
SELECT * FROM tell();

-- partitions, rows that move
CREATE TABLE part (id integer PRIMARY KEY, task text) PARTITION BY RANGE (id);
CREATE TABLE part_0 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (10) TO (20);
SELECT bemi.track('part');
INSERT INTO part VALUES (1), (11);
SELECT count(*) FROM tell();
SET bemi.context = '{"by": "merge"}';
MERGE INTO part USING (VALUES (1), (2), (11)) AS w (id) ON part.id = w.id
	WHEN MATCHED AND w.id = 1 THEN UPDATE SET id = 12
	WHEN MATCHED THEN DELETE
	WHEN NOT MATCHED THEN INSERT VALUES (w.id);
SELECT messages() > 0 AS reset;
SELECT "table", operation, key, by FROM tell() ORDER BY key::integer;

-- no row matches, or there is none: nothing is written; EXPLAIN
MERGE INTO todo USING wish w ON todo.id = w.id + 1000 WHEN MATCHED THEN DELETE;
MERGE INTO todo USING (SELECT * FROM wish WHERE false) w ON todo.id = w.id
	WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (w.id);
DO $$ BEGIN EXECUTE 'EXPLAIN MERGE INTO todo USING wish w ON todo.id = w.id WHEN MATCHED THEN DELETE'; END $$;
SELECT messages();
SELECT * FROM tell();
DO $$ BEGIN EXECUTE 'EXPLAIN ANALYZE MERGE INTO todo USING wish w ON todo.id = w.id WHEN MATCHED THEN DELETE'; END $$;
SELECT * FROM tell();

-- after all of this the worker is well
SELECT state, invalid_messages, restarts, last_error FROM bemi.status;

DROP TABLE todo, log, wish, part;
DROP FUNCTION tell(), messages(), log_inside(integer), log_row_inside(), put_inside(integer);
SELECT pg_drop_replication_slot('bemi_ways');
CALL bemi.drop_source('main');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
