--
-- bemi.revert(), bemi.restore() and bemi.transactions.reverted_by: what they write.
--
-- Each part changes rows, takes the changes back and looks at the tables and at the history. Foreign
-- keys, triggers, partitions, identity and generated columns are where a write differs from the
-- change that it takes back.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
SET timezone = 'UTC';
-- What the last transaction has written.
CREATE FUNCTION written(OUT operation text, OUT "table" text, OUT key text, OUT context text) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT bemi.sync('60s');
	SELECT c.operation, c."table", c.primary_key, regexp_replace(c.context::text, '[0-9a-f]{8}-[0-9a-f-]+', 'ID', 'g')
		FROM bemi.changes c WHERE c.transaction_id = (SELECT transaction_id FROM bemi.changes ORDER BY id DESC LIMIT 1) ORDER BY c.id
$$;

-- A cascade is taken back with its cause, and the other way round.
CREATE TABLE project (id integer PRIMARY KEY, name text UNIQUE, main integer REFERENCES project ON DELETE CASCADE);
CREATE TABLE task (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, project integer REFERENCES project ON DELETE CASCADE ON UPDATE CASCADE,
	title text, length integer GENERATED ALWAYS AS (length(title)) STORED);
CREATE TABLE favourite (person text PRIMARY KEY, project integer REFERENCES project ON DELETE SET NULL ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED);
SELECT bemi.track('project'), bemi.track('task'), bemi.track('favourite');
INSERT INTO project VALUES (1, 'garden', NULL), (2, 'trees', 1), (3, 'house', NULL);
INSERT INTO task (project, title) VALUES (1, 'dig'), (2, 'plant'), (3, 'paint');
INSERT INTO favourite VALUES ('ann', 1), ('bob', 2), ('eve', 3);
SET bemi.context = '{"by": "ann"}';
DELETE FROM project WHERE id = 1;
SET bemi.context = '{"by": "support"}';
SELECT step, statement FROM bemi.plan_revert(context => '{"by": "ann"}');
SELECT steps, skipped FROM bemi.revert(context => '{"by": "ann"}');
SELECT * FROM written();
SELECT * FROM project ORDER BY id;
SELECT * FROM task ORDER BY id;
SELECT * FROM favourite ORDER BY person;
-- The sequence is left alone, although rows with its values were inserted again.
SELECT last_value FROM task_id_seq;
SELECT tables, changes, cardinality(reverted_by) FROM bemi.transactions WHERE reverted_by IS NOT NULL;
SELECT contexts -> 0 ->> 'by' AS reverting FROM (SELECT to_jsonb(t.contexts) AS contexts FROM bemi.transactions t JOIN bemi.transactions r ON t.change_id = ANY (r.reverted_by)) c;
-- It has been done, and can be undone.
\set VERBOSITY terse
SELECT bemi.revert(context => '{"by": "ann"}', mode => 'force');
\set VERBOSITY default
SELECT DISTINCT verdict, regexp_replace(reason, 'change .*', 'change ID') FROM bemi.plan_revert(context => '{"by": "ann"}');
SET bemi.context = '{"by": "boss"}';
SELECT steps FROM bemi.revert(context => '{"by": "support"}');
SELECT count(*) FROM project;
SET bemi.context = '{"by": "support again"}';
SELECT steps FROM bemi.revert(context => '{"by": "ann"}');
SELECT * FROM task ORDER BY id;
RESET bemi.context;

-- The statements of a plan can be pasted.
SET bemi.context = '{"by": "bob"}';
DELETE FROM project WHERE id = 3;
RESET bemi.context;
SELECT statement FROM bemi.plan_revert(context => '{"by": "bob"}') ORDER BY step \gexec
SELECT * FROM project ORDER BY id;

-- A changed key: the action of the foreign key has changed the rows that refer to it.
SET bemi.context = '{"by": "key"}';
UPDATE project SET id = 30, name = 'home' WHERE id = 3;
RESET bemi.context;
SELECT statement FROM bemi.plan_revert(context => '{"by": "key"}') ORDER BY step;
SELECT steps FROM bemi.revert(context => '{"by": "key"}');
SELECT p.id, p.name, t.project, f.project FROM project p JOIN task t ON t.project = p.id JOIN favourite f ON f.project = p.id WHERE p.id = 3;

-- A circle of references, which only a deferred check allows.
CREATE TABLE left_one (id integer PRIMARY KEY, other integer);
CREATE TABLE right_one (id integer PRIMARY KEY, other integer REFERENCES left_one DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE left_one ADD FOREIGN KEY (other) REFERENCES right_one DEFERRABLE;
SELECT bemi.track('left_one'), bemi.track('right_one');
BEGIN; INSERT INTO right_one VALUES (1, 1); INSERT INTO left_one VALUES (1, 1); COMMIT;
SET bemi.context = '{"by": "circle"}';
BEGIN; SET CONSTRAINTS ALL DEFERRED; DELETE FROM left_one; DELETE FROM right_one; COMMIT;
RESET bemi.context;
SELECT steps FROM bemi.revert(context => '{"by": "circle"}');
SELECT * FROM left_one, right_one;

-- Unique values that were handed on
SET bemi.context = '{"by": "shift"}';
UPDATE project SET name = 'tmp' WHERE id = 1;
UPDATE project SET name = 'garden' WHERE id = 2;
INSERT INTO project VALUES (4, 'trees', NULL);
RESET bemi.context;
SELECT steps FROM bemi.revert(context => '{"by": "shift"}');
SELECT * FROM project ORDER BY id;

-- Triggers of the application fire, under the caller's search_path, and what they count is right.
CREATE SCHEMA app;
SET search_path = app, public;
CREATE TABLE app.counter (id integer PRIMARY KEY, tasks integer, touched integer DEFAULT 0);
CREATE TABLE app.job (id integer PRIMARY KEY, counter integer);
CREATE TABLE app.log (entry text);
CREATE FUNCTION app.count_jobs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE counter SET tasks = tasks + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END WHERE id = coalesce(NEW.counter, OLD.counter);
	INSERT INTO log VALUES (TG_OP);
	RETURN NULL;
END $$;
CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.touched := OLD.touched + 1; RETURN NEW; END $$;
CREATE TRIGGER counts AFTER INSERT OR DELETE ON job FOR EACH ROW EXECUTE FUNCTION count_jobs();
CREATE TRIGGER touches BEFORE UPDATE ON counter FOR EACH ROW EXECUTE FUNCTION touch();
SELECT bemi.track('app.counter'), bemi.track('app.job');
INSERT INTO counter VALUES (1, 0), (2, 0);
INSERT INTO job VALUES (1, 1);
SET bemi.context = '{"by": "jobs"}';
INSERT INTO job VALUES (2, 1), (3, 2);
RESET bemi.context;
SELECT statement, reason FROM bemi.plan_revert(context => '{"by": "jobs"}');
SELECT steps FROM bemi.revert(context => '{"by": "jobs"}');
SELECT id, tasks FROM counter ORDER BY id;
SELECT entry, count(*) FROM log GROUP BY 1 ORDER BY 1;
-- A trigger that suppresses a row must not make it seem that all was done.
CREATE FUNCTION app.suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER suppresses BEFORE INSERT ON job FOR EACH ROW EXECUTE FUNCTION suppress();
SET bemi.context = '{"by": "suppress"}';
DELETE FROM job;
RESET bemi.context;
SELECT bemi.revert(context => '{"by": "suppress"}');
DROP TRIGGER suppresses ON job;
-- An error in the middle leaves nothing.
CREATE FUNCTION app.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no job 1'; END $$;
CREATE TRIGGER fails AFTER INSERT ON job FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION fail();
SELECT bemi.revert(context => '{"by": "suppress"}');
SELECT count(*) FROM job;
SELECT bemi.current_context();
DROP TRIGGER fails ON job;
SELECT steps FROM bemi.revert(context => '{"by": "suppress"}');
RESET search_path;

-- Partitions, several columns in the key, types of all kinds
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN short AS text CHECK (length(value) < 10);
CREATE TABLE part (day date, n integer, v numeric, m mood, s short, a mood[], j json, b bytea, i interval, t timestamptz, r int4range, c box, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2024-01-01') TO ('2024-02-01');
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
SELECT bemi.track('part');
INSERT INTO part VALUES ('2024-01-01', 1, 1.50, 'good', 'x', '{good,bad}', '{"a": 1}', '\x00ff', '1 day -02:03', '2024-01-01 12:00+05', '[1,5)', '(1,2),(0,0)'),
	('2024-02-01', 2, 'NaN', NULL, NULL, NULL, NULL, NULL, NULL, 'infinity', NULL, NULL);
CREATE TABLE before AS TABLE part;
SET bemi.context = '{"by": "parts"}';
UPDATE part SET v = v + 1, m = 'bad', s = 'y', a = NULL, j = '[]', b = '\x01', i = '1 s', t = NULL, r = NULL, c = NULL WHERE n = 1;
UPDATE part SET v = 2.0, t = now() WHERE n = 2;
DELETE FROM part WHERE n = 1;
UPDATE part SET day = '2024-01-02' WHERE n = 2;
RESET bemi.context;
SET datestyle = 'German'; SET intervalstyle = 'sql_standard'; SET extra_float_digits = -5; SET timezone = 'Asia/Tokyo';
SELECT steps FROM bemi.revert(context => '{"by": "parts"}');
RESET datestyle; RESET intervalstyle; RESET extra_float_digits; SET timezone = 'UTC';
SELECT count(*) FROM (SELECT part.*::text FROM part EXCEPT SELECT before.*::text FROM before) d;
SELECT tableoid::regclass, day, n, v FROM part ORDER BY day;

-- TRUNCATE, if the history has the rows
SELECT bemi.track('before');
SET bemi.context = '{"by": "truncate"}';
TRUNCATE before;
RESET bemi.context;
SELECT verdict, reason FROM bemi.plan_revert(context => '{"by": "truncate"}');
CREATE TABLE bin (id integer PRIMARY KEY, at timestamptz);
SELECT bemi.track('bin');
INSERT INTO bin SELECT i, '2024-01-01 UTC' FROM generate_series(1, 3) i;
SELECT bemi.sync();
CALL bemi.baseline('main', 'bin');
UPDATE bin SET at = NULL WHERE id = 2;
DELETE FROM bin WHERE id = 3;
SET bemi.context = '{"by": "truncate 2"}';
BEGIN;
UPDATE bin SET at = 'infinity' WHERE id = 1;
TRUNCATE bin;
INSERT INTO bin VALUES (2, '2025-01-01 UTC'), (4, NULL);
COMMIT;
RESET bemi.context;
SELECT statement, verdict, reason FROM bemi.plan_revert(context => '{"by": "truncate 2"}');
SELECT steps FROM bemi.revert(context => '{"by": "truncate 2"}');
SELECT * FROM bin ORDER BY id;
-- A TRUNCATE by others is in the way.
SET bemi.context = '{"by": "truncate 3"}';
UPDATE bin SET at = '2026-01-01 UTC' WHERE id = 1;
RESET bemi.context;
TRUNCATE bin;
SELECT verdict, regexp_replace(reason, 'change .*', 'change ID') FROM bemi.plan_revert(context => '{"by": "truncate 3"}');

-- Rights: the caller's own, row security included
CREATE ROLE regress_bemi_user;
SELECT bemi.grant_read('regress_bemi_user');
CREATE TABLE own (id integer PRIMARY KEY, owner text, v integer);
SELECT bemi.track('own');
INSERT INTO own VALUES (1, 'regress_bemi_user', 1), (2, 'other', 1);
SET bemi.context = '{"by": "own"}';
UPDATE own SET v = 2;
RESET bemi.context;
SELECT bemi.sync();
SET ROLE regress_bemi_user;
SELECT bemi.plan_revert(context => '{"by": "own"}');
RESET ROLE;
GRANT SELECT ON own TO regress_bemi_user;
SET ROLE regress_bemi_user;
SELECT key, verdict FROM bemi.plan_revert(context => '{"by": "own"}');
SELECT bemi.revert(context => '{"by": "own"}');
RESET ROLE;
GRANT UPDATE ON own TO regress_bemi_user;
ALTER TABLE own ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_rows ON own USING (owner = current_user);
SET ROLE regress_bemi_user;
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "own"}');
SELECT steps, skipped FROM bemi.revert(context => '{"by": "own"}', mode => 'skip');
RESET ROLE;
SELECT * FROM own ORDER BY id;
-- A foreign key would delete rows that the caller does not see.
CREATE TABLE owned (id integer PRIMARY KEY, own integer REFERENCES own ON DELETE CASCADE);
SET bemi.context = '{"by": "owned"}';
INSERT INTO own VALUES (3, 'regress_bemi_user', 1);
RESET bemi.context;
INSERT INTO owned VALUES (1, 3);
GRANT DELETE ON own TO regress_bemi_user;
SELECT bemi.sync();
SET ROLE regress_bemi_user;
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "owned"}');
RESET ROLE;
DROP TABLE owned;
-- Without the right to read
CREATE ROLE regress_bemi_nobody;
SET ROLE regress_bemi_nobody;
SELECT bemi.plan_revert(context => '{}', from_time => now());
SELECT bemi.revert(context => '{}', from_time => now());
SELECT bemi.restore('own', '1', now());
RESET ROLE;

-- A comment has the context of the client's statement. A revert adds to it, too.
SET bemi.context = '{"by": "comment"}';
INSERT INTO own VALUES (9, 'x', 9);
RESET bemi.context;
SELECT steps FROM bemi.revert(context => '{"by": "comment"}') /*Bemi {"user": 7} Bemi*/;
SELECT * FROM written();

-- A trigger that calls bemi.restore() within a revert: what comes after it is still part of the revert.
CREATE TABLE nest (id integer PRIMARY KEY, v integer);
SELECT bemi.track('nest');
INSERT INTO nest VALUES (1, 1), (2, 1);
SELECT bemi.sync();
SELECT clock_timestamp() AS then \gset
UPDATE nest SET v = 2 WHERE id = 2;
SET bemi.context = '{"by": "nest"}';
UPDATE nest SET v = 2 WHERE id = 1;
RESET bemi.context;
SELECT bemi.sync();
SELECT set_config('test.then', :'then', false) IS NULL;
CREATE FUNCTION nest() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
	PERFORM bemi.restore('nest', '2', current_setting('test.then')::timestamptz); RETURN NEW;
END $$;
CREATE TRIGGER nests BEFORE UPDATE ON nest FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION nest();
-- Neither its end nor an error leaves the context of a revert behind.
DO $$ BEGIN
	BEGIN PERFORM bemi.revert(context => '{"by": "nest"}'), 1 / (random() * 0)::integer; EXCEPTION WHEN division_by_zero THEN NULL; END;
	PERFORM bemi.revert(context => '{"by": "nest"}');
	INSERT INTO nest VALUES (3, 3);
END $$;
SELECT bemi.sync();
SELECT operation, primary_key, context ? 'revertOf' AS revert, context ? 'restoreOf' AS restore FROM bemi.changes
	WHERE transaction_id = (SELECT transaction_id FROM bemi.changes ORDER BY id DESC LIMIT 1) ORDER BY primary_key;
DROP TABLE nest;
DROP FUNCTION nest;

-- A large context is stored once in a transaction. All of it names the changes, and all of it says what a revert took back.
CREATE TABLE wide (id integer PRIMARY KEY, v integer);
SELECT bemi.track('wide');
INSERT INTO wide SELECT i, 1 FROM generate_series(1, 10) i;
SELECT set_config('bemi.context', jsonb_build_object('body', repeat('x', 3000))::text, false) IS NULL;
UPDATE wide SET v = 2;
SELECT set_config('bemi.context', jsonb_build_object('by', 'wide support', 'note', repeat('y', 3000))::text, false) IS NULL;
SELECT steps FROM bemi.revert(context => jsonb_build_object('body', repeat('x', 3000)), from_time => now() - interval '1 hour');
SELECT v, count(*) FROM wide GROUP BY 1;
SELECT verdict, regexp_replace(reason, ' by change .*', ''), count(*) FROM bemi.plan_revert(context => jsonb_build_object('body', repeat('x', 3000))) GROUP BY 1, 2;
SET bemi.context = '{"by": "wide boss"}';
SELECT steps FROM bemi.revert(context => '{"by": "wide support"}');
SELECT verdict, count(*) FROM bemi.plan_revert(context => jsonb_build_object('body', repeat('x', 3000))) GROUP BY 1;
RESET bemi.context;

-- Mode cascade takes later changes of the same row back, and what is later than that. Other changes remain.
CREATE TABLE fall (id integer PRIMARY KEY, a integer, b integer, c integer, d integer);
SELECT bemi.track('fall');
INSERT INTO fall VALUES (1, 1, 1, 1, 1), (2, 1, 1, 1, 1), (3, 1, 1, 1, 1);
SET bemi.context = '{"by": "fall"}';
UPDATE fall SET a = 2 WHERE id <= 2;
DELETE FROM fall WHERE id = 3;
RESET bemi.context;
UPDATE fall SET a = 3, b = 3 WHERE id = 1;
UPDATE fall SET b = 4, c = 4 WHERE id = 1;
UPDATE fall SET d = 5 WHERE id <= 2;
INSERT INTO fall VALUES (3, 6, 6, 6, 6);
SELECT steps, skipped FROM bemi.revert(context => '{"by": "fall"}', mode => 'cascade');
SELECT * FROM fall ORDER BY id;
-- Unique values that were exchanged by way of a third one, in one set: the index refuses it, and nothing is done.
SET bemi.context = '{"by": "exchange"}';
UPDATE project SET name = 'tmp' WHERE id = 1;
UPDATE project SET name = 'garden' WHERE id = 2;
UPDATE project SET name = 'trees' WHERE id = 1;
RESET bemi.context;
SELECT bemi.revert(context => '{"by": "exchange"}');
SELECT id, name FROM project WHERE id <= 2 ORDER BY id;

-- bemi.restore() brings a state back, whatever has changed it.
CREATE TABLE doc (id integer PRIMARY KEY, title text, body text);
SELECT bemi.track('doc');
INSERT INTO doc VALUES (1, 'a', 'first'), (2, 'b', 'second');
SELECT bemi.sync();
SELECT clock_timestamp() AS then \gset
UPDATE doc SET title = 'aa' WHERE id = 1;
UPDATE doc SET body = 'changed' WHERE id = 1;
DELETE FROM doc WHERE id = 2;
INSERT INTO doc VALUES (3, 'c', 'third');
SET bemi.context = '{"by": "restore"}';
SELECT * FROM bemi.restore('doc', '1', :'then');
SELECT * FROM bemi.restore('doc', '2', :'then');
SELECT * FROM bemi.restore('doc', '3', :'then');
SELECT * FROM bemi.restore('doc', '3', :'then');
SELECT * FROM bemi.restore('doc', '1', :'then');
RESET bemi.context;
SELECT * FROM doc ORDER BY id;
SELECT bemi.sync();
SELECT operation, primary_key, context - 'restoreOf' AS context, (context -> 'restoreOf') - 'at' AS of FROM bemi.changes WHERE context ? 'restoreOf' AND "table" = 'doc' ORDER BY id;
SELECT id AS change FROM bemi.changes WHERE "table" = 'doc' AND operation = 'DELETE' ORDER BY id LIMIT 1 \gset
SELECT * FROM bemi.restore('doc', '2', before => :'change');
-- A key that is no JSON, and one of several columns.
CREATE TABLE tag (name text, place integer, colour text, PRIMARY KEY (name, place));
CREATE TABLE word (word text PRIMARY KEY, meaning text);
SELECT bemi.track('tag'), bemi.track('word');
INSERT INTO tag VALUES ('a, b', 1, 'red'), ('a, b', 2, 'red');
INSERT INTO word VALUES ('T-1', 'old'), ('[1]', 'old');
SELECT bemi.sync();
SELECT clock_timestamp() AS then \gset
UPDATE tag SET colour = 'blue';
UPDATE word SET meaning = 'new';
SELECT * FROM bemi.restore('word', 'T-1', :'then');
SELECT * FROM bemi.restore('word', '[1]', :'then');
SELECT * FROM bemi.restore('tag', '{"name": "a, b", "place": 1}', :'then');
SELECT * FROM bemi.restore('tag', '["a, b", "2"]', :'then');
SELECT bemi.restore('doc', '1');
SELECT bemi.restore(NULL, '1', now());
SELECT bemi.restore('doc', NULL, now());

-- Triggers that only a partition has, and those that fire only on replicas
CREATE TABLE piece (id integer PRIMARY KEY, n integer, m integer) PARTITION BY RANGE (id);
CREATE TABLE piece_1 PARTITION OF piece FOR VALUES FROM (0) TO (10);
CREATE TABLE piece_2 PARTITION OF piece FOR VALUES FROM (10) TO (20);
CREATE TABLE piece_count (id integer PRIMARY KEY, pieces integer);
CREATE FUNCTION app.count_pieces() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE piece_count SET pieces = pieces + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END; RETURN NULL; END $$;
CREATE FUNCTION app.limit_piece() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.n := least(NEW.n, 5); RETURN NEW; END $$;
CREATE TRIGGER counts AFTER INSERT OR DELETE ON piece_1 FOR EACH ROW EXECUTE FUNCTION app.count_pieces();
CREATE TRIGGER counts AFTER INSERT OR DELETE ON piece_2 FOR EACH ROW EXECUTE FUNCTION app.count_pieces();
CREATE TRIGGER states AFTER DELETE ON piece_1 EXECUTE FUNCTION app.fail();
CREATE TRIGGER replicates AFTER DELETE ON piece FOR EACH ROW EXECUTE FUNCTION app.fail();
ALTER TABLE piece ENABLE REPLICA TRIGGER replicates;
SELECT bemi.track('piece'), bemi.track('piece_count');
INSERT INTO piece_count VALUES (1, 0);
INSERT INTO piece VALUES (2, 9, 9);
SET bemi.context = '{"by": "piece"}';
INSERT INTO piece VALUES (1, 1, 1), (11, 1, 1);
RESET bemi.context;
SELECT table_name, key, verdict, reason FROM bemi.plan_revert(context => '{"by": "piece"}') ORDER BY table_name, key;
SELECT steps FROM bemi.revert(context => '{"by": "piece"}');
SELECT * FROM piece_count;
-- Such a trigger may mend a row, so the server decides on constraints.
SET bemi.context = '{"by": "mend"}';
UPDATE piece SET n = 4 WHERE id = 2;
RESET bemi.context;
CREATE TRIGGER limits BEFORE UPDATE ON piece_1 FOR EACH ROW EXECUTE FUNCTION app.limit_piece();
ALTER TABLE piece ADD CHECK (n < 6);
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "mend"}');
SELECT steps FROM bemi.revert(context => '{"by": "mend"}');
SELECT * FROM piece;

-- A BEFORE trigger that writes another row of the plan
CREATE TABLE ticket (id integer PRIMARY KEY);
CREATE TABLE ticket_count (id integer PRIMARY KEY, tickets integer);
CREATE FUNCTION app.count_tickets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE ticket_count SET tickets = tickets + CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END; RETURN coalesce(NEW, OLD); END $$;
CREATE TRIGGER counts BEFORE INSERT OR DELETE ON ticket FOR EACH ROW EXECUTE FUNCTION app.count_tickets();
SELECT bemi.track('ticket'), bemi.track('ticket_count');
INSERT INTO ticket_count VALUES (1, 5);
BEGIN;
SET LOCAL bemi.context = '{"by": "ticket"}';
INSERT INTO ticket VALUES (1);
UPDATE ticket_count SET tickets = tickets + 10;
COMMIT;
SELECT table_name, value_after, verdict FROM bemi.plan_revert(context => '{"by": "ticket"}');
SELECT steps FROM bemi.revert(context => '{"by": "ticket"}');
SELECT * FROM ticket_count;

-- An identity column that is GENERATED ALWAYS cannot be set to a former value.
CREATE TABLE numbered (id integer PRIMARY KEY, n integer GENERATED ALWAYS AS IDENTITY, v text);
CREATE TABLE counted (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
SELECT bemi.track('numbered'), bemi.track('counted');
INSERT INTO numbered VALUES (1), (2);
INSERT INTO counted (v) VALUES ('a');
SELECT bemi.sync();
SELECT clock_timestamp() AS then \gset
SET bemi.context = '{"by": "identity"}';
UPDATE numbered SET n = DEFAULT WHERE id = 1;
UPDATE numbered SET v = 'b' WHERE id = 2;
DELETE FROM numbered WHERE id = 2;
UPDATE counted SET id = DEFAULT;
RESET bemi.context;
SELECT table_name, key, verdict, reason FROM bemi.plan_revert(context => '{"by": "identity"}');
SELECT steps, skipped FROM bemi.revert(context => '{"by": "identity"}', mode => 'skip');
SELECT bemi.restore('numbered', '1', :'then');
ALTER TABLE numbered ALTER n SET GENERATED BY DEFAULT;
SELECT action, value_before FROM bemi.restore('numbered', '1', :'then');
SELECT * FROM numbered ORDER BY id;

-- No plan of a statement remains, also after errors.
SELECT count(*) FROM pg_backend_memory_contexts WHERE ident ~ '^(INSERT|UPDATE|DELETE) .*bemi_rows';

DROP ROLE regress_bemi_nobody;
SELECT bemi.revoke_read('regress_bemi_user');
DROP OWNED BY regress_bemi_user;
DROP ROLE regress_bemi_user;
CALL bemi.stop();
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP SCHEMA app CASCADE;
DROP TABLE project, task, favourite, left_one, right_one, part, before, bin, own, doc, tag, word, wide, fall, piece, piece_count, ticket, ticket_count, numbered, counted;
DROP TYPE mood;
DROP DOMAIN short;
DROP FUNCTION written;
