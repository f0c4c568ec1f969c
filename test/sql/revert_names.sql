--
-- bemi.plan_revert(), bemi.revert() and bemi.restore() after renames.
--
-- Changes are stored under the names that tables and columns had. A revert that looked for today's
-- names would find nothing, or, much worse, the changes of another table or column that has taken a
-- name since.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE FUNCTION plan(set_context jsonb, mode text DEFAULT 'refuse', OUT step bigint, OUT key text, OUT columns text[], OUT now jsonb, OUT after jsonb, OUT verdict text, OUT reason text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT p.step, p.table_name || ' ' || p.key, p.columns, p.value_now, p.value_after, p.verdict,
		regexp_replace(p.reason, 'change [0-9a-f-]+ of \S+ \S+', 'change ID')
	FROM bemi.plan_revert(context => set_context, mode => plan.mode) p ORDER BY p.step
$$;

-- Columns: renamed, exchanged, dropped, and one that has taken the name of a dropped one. The set is
-- from both sides of the renames.
CREATE TABLE item (id integer PRIMARY KEY, a integer, b integer, c integer, d integer);
SELECT bemi.track('item');
INSERT INTO item VALUES (1, 10, 20, 30, 40), (2, 11, 21, 31, 41), (3, 12, 22, 32, 42), (4, 13, 23, 33, 43);
SET bemi.context = '{"by": "deploy"}';
UPDATE item SET a = a + 100, b = b + 200 WHERE id <= 2;
UPDATE item SET c = c + 300 WHERE id = 2;
UPDATE item SET d = d + 400 WHERE id = 3;
DELETE FROM item WHERE id = 4;
RESET bemi.context;
ALTER TABLE item RENAME a TO x;
ALTER TABLE item RENAME b TO a;
ALTER TABLE item RENAME x TO b;
ALTER TABLE item RENAME id TO number;
ALTER TABLE item DROP c, DROP d;
ALTER TABLE item ADD c integer DEFAULT 0;
UPDATE item SET a = 1000 WHERE number = 2;
SET bemi.context = '{"by": "deploy"}';
UPDATE item SET b = b + 1000 WHERE number = 1;
RESET bemi.context;
SELECT * FROM plan('{"by": "deploy"}');
SELECT statement FROM bemi.plan_revert(context => '{"by": "deploy"}', mode => 'skip') WHERE verdict = 'ok' ORDER BY step;
SELECT steps, skipped FROM bemi.revert(context => '{"by": "deploy"}', mode => 'skip');
SELECT * FROM item ORDER BY number;
-- A revert of the revert, after one more rename
ALTER TABLE item RENAME b TO "b 2";
SELECT bemi.sync();
SELECT id AS revert FROM bemi.changes WHERE context ? 'revertOf' ORDER BY id LIMIT 1 \gset
SELECT steps FROM bemi.revert(transaction_of => :'revert');
SELECT * FROM item ORDER BY number;

-- Tables: two that exchange their names, one in another schema, one that is dropped and made again.
CREATE SCHEMA elsewhere;
CREATE TABLE one (id integer PRIMARY KEY, v text);
CREATE TABLE two (id integer PRIMARY KEY, v text);
CREATE TABLE moved (v text, n integer);
CREATE TABLE again (id integer PRIMARY KEY, v text);
SELECT bemi.track('one'), bemi.track('two'), bemi.track('moved'), bemi.track('again');
INSERT INTO one VALUES (1, 'one 1'), (2, 'one 2');
INSERT INTO two VALUES (1, 'two 1'), (2, 'two 2');
INSERT INTO moved VALUES ('m', 1), ('m', 2);
INSERT INTO again VALUES (1, 'first');
SET bemi.context = '{"by": "names"}';
UPDATE one SET v = 'one X' WHERE id = 1;
DELETE FROM two WHERE id = 1;
UPDATE moved SET v = 'X' WHERE n = 1;
SET bemi.context = '{"by": "again"}';
UPDATE again SET v = 'X';
RESET bemi.context;
ALTER TABLE one RENAME TO three;
ALTER TABLE two RENAME TO one;
ALTER TABLE three RENAME TO two;
ALTER TABLE moved SET SCHEMA elsewhere;
ALTER TABLE elsewhere.moved RENAME v TO w;
DROP TABLE again;
CREATE TABLE again (id integer PRIMARY KEY, v text);
SELECT bemi.track('again');
INSERT INTO again VALUES (1, 'X');
SET bemi.context = '{"by": "names"}';
UPDATE one SET v = 'two X' WHERE id = 2;
UPDATE two SET v = 'one X' WHERE id = 2;
RESET bemi.context;
SELECT * FROM plan('{"by": "names"}');
SELECT * FROM plan('{"by": "again"}');
-- A later change under another name is a conflict.
UPDATE two SET v = 'later' WHERE id = 1;
SELECT key, verdict, reason FROM plan('{"by": "names"}') WHERE key LIKE '%two 1';
SELECT steps, skipped FROM bemi.revert(context => '{"by": "names"}', mode => 'skip');
SELECT * FROM one ORDER BY id;
SELECT * FROM two ORDER BY id;
SELECT * FROM elsewhere.moved ORDER BY n;
SELECT * FROM again;
SELECT steps, skipped FROM bemi.revert(context => '{"by": "names"}', mode => 'force');
ALTER SCHEMA elsewhere RENAME TO "else where";
SET bemi.context = '{"by": "schema"}';
DELETE FROM "else where".moved;
RESET bemi.context;
SELECT key, verdict, reason FROM plan('{"by": "schema"}');
SELECT key, verdict, reason FROM plan('{"by": "names"}') WHERE key LIKE '%moved%';

-- By ids, from two tables of today that had one name
SELECT bemi.sync();
SELECT array_agg(id ORDER BY id) AS ids FROM bemi.changes WHERE "table" = 'two' AND context @> '{"by": "names"}' AND NOT context ? 'revertOf' \gset
SELECT table_name, key, verdict, left(reason, 20) AS reason FROM bemi.plan_revert(changes => :'ids');

-- A partition and its root
CREATE TABLE part (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
SELECT bemi.track('part');
INSERT INTO part VALUES (1, 'a');
SET bemi.context = '{"by": "part"}';
UPDATE part SET v = 'X';
RESET bemi.context;
ALTER TABLE part RENAME v TO w;
ALTER TABLE part RENAME TO parted;
ALTER TABLE part_1 RENAME TO part;
SELECT * FROM plan('{"by": "part"}');
SELECT steps FROM bemi.revert(context => '{"by": "part"}');
TABLE parted;

-- TRUNCATE: the rows come from the history under the names of that time.
CREATE TABLE bin (id integer PRIMARY KEY, v integer);
SELECT bemi.track('bin');
INSERT INTO bin VALUES (1, 1), (2, 2);
SELECT bemi.sync();
CALL bemi.baseline('main', 'bin');
UPDATE bin SET v = 20 WHERE id = 2;
SET bemi.context = '{"by": "truncate"}';
TRUNCATE bin;
RESET bemi.context;
ALTER TABLE bin RENAME v TO w;
ALTER TABLE bin RENAME TO basket;
SELECT * FROM plan('{"by": "truncate"}');
SELECT steps FROM bemi.revert(context => '{"by": "truncate"}');
SELECT * FROM basket ORDER BY id;
SELECT bemi.sync();
CALL bemi.baseline('main', 'basket');
ALTER TABLE basket RENAME w TO z;
SET bemi.context = '{"by": "truncate 2"}';
TRUNCATE basket;
RESET bemi.context;
SELECT verdict, reason FROM plan('{"by": "truncate 2"}');

-- bemi.restore()
CREATE TABLE doc (id integer PRIMARY KEY, title text, body text);
SELECT bemi.track('doc');
INSERT INTO doc VALUES (1, 'a', 'first'), (2, 'b', 'second');
SELECT bemi.sync();
SELECT clock_timestamp() AS then \gset
UPDATE doc SET title = 'aa' WHERE id = 1;
DELETE FROM doc WHERE id = 2;
ALTER TABLE doc RENAME title TO heading;
ALTER TABLE doc RENAME TO paper;
SELECT * FROM bemi.restore('paper', '1', :'then');
SELECT * FROM bemi.restore('paper', '2', :'then');
SELECT * FROM paper ORDER BY id;

CALL bemi.stop();
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP SCHEMA "else where" CASCADE;
DROP TABLE item, one, two, again, parted, basket, paper;
DROP FUNCTION plan;
