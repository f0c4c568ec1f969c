--
-- Choices of bemi.plan_revert() and bemi.revert(): what happens to single columns and rows in conflict.
--
-- Who takes a change back may want the later value of one column and the former one of another. A choice must
-- count for its column and its row alone, and the hash of a plan must stand for it, because people
-- confirm the plan that they see.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
SET timezone = 'UTC';

CREATE FUNCTION plan(set_context jsonb, chosen jsonb DEFAULT NULL, mode text DEFAULT 'refuse', OUT of_row text, OUT columns text[], OUT now jsonb, OUT after jsonb, OUT verdict text, OUT reason text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT p.table_name || ' ' || p.key, p.columns, p.value_now, p.value_after, p.verdict, regexp_replace(p.reason, ' by change .*', '')
	FROM bemi.plan_revert(context => set_context, mode => plan.mode, choices => chosen) p ORDER BY p.step
$$;
-- [choice, row, column], ... of table "item"
CREATE FUNCTION choices(VARIADIC words text[]) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object('table', 'public.item', 'choice', w[1], 'key', w[2], 'column', w[3])))
	FROM (SELECT string_to_array(word, ' ') FROM unnest(words) word) s(w)
$$;

CREATE TABLE item (id integer PRIMARY KEY, name text, price integer, note text);
CREATE TABLE line (item integer NOT NULL REFERENCES item, n integer, PRIMARY KEY (item, n));
SELECT bemi.track('item'), bemi.track('line');
INSERT INTO item VALUES (1, 'pen', 1, 'a'), (2, 'cup', 2, 'b'), (3, 'jar', 3, 'c');
SET bemi.context = '{"by": "deploy"}';
UPDATE item SET name = upper(name), price = price * 10, note = note || '!' WHERE id <= 2;
DELETE FROM item WHERE id = 3;
INSERT INTO item VALUES (4, 'new', 4, 'd'), (5, 'old', 5, 'e');
RESET bemi.context;
UPDATE item SET name = 'Pen', price = 11 WHERE id = 1;
UPDATE item SET name = 'Cup' WHERE id = 2;
INSERT INTO item VALUES (3, 'JAR', 33, NULL);
UPDATE item SET price = 44 WHERE id = 4;
INSERT INTO line VALUES (5, 1);

SELECT * FROM plan('{"by": "deploy"}');
-- one column of a row each; the other conflicts remain
SELECT * FROM plan('{"by": "deploy"}', choices('keep 1 name', 'restore 1 price')) WHERE of_row LIKE '% 1' OR verdict = 'conflict';
-- the row, and one of its columns
SELECT * FROM plan('{"by": "deploy"}', choices('keep 1', 'restore 1 price')) WHERE of_row LIKE '% 1';
SELECT * FROM plan('{"by": "deploy"}', choices('restore 1', 'keep 1 price')) WHERE of_row LIKE '% 1';
-- rows that come or go have a choice as a whole; what cannot be done can be kept only
SELECT * FROM plan('{"by": "deploy"}', choices('restore 3', 'keep 4', 'keep 5')) WHERE of_row LIKE '% _' AND of_row !~ '[12]$';
SELECT * FROM plan('{"by": "deploy"}', choices('restore 3', 'restore 4', 'restore 5')) WHERE of_row !~ '[12]$';
-- with each mode
SELECT * FROM plan('{"by": "deploy"}', choices('restore 1 price'), 'skip') WHERE of_row LIKE '% 1';
SELECT * FROM plan('{"by": "deploy"}', choices('keep 1 price'), 'force') WHERE of_row LIKE '% 1';
SELECT * FROM plan('{"by": "deploy"}', choices('keep 5'), 'cascade') WHERE of_row LIKE '%item 5';
-- no conflict: nothing changes
SELECT count(*) FROM ((SELECT * FROM plan('{"by": "deploy"}', choices('keep 1 note', 'restore 2 price')))
	EXCEPT SELECT * FROM plan('{"by": "deploy"}')) d;
SELECT * FROM plan('{"by": "deploy"}', '[]') EXCEPT SELECT * FROM plan('{"by": "deploy"}');

-- What was shown is what runs
CREATE FUNCTION hash(chosen jsonb) RETURNS text LANGUAGE sql AS $$
	SELECT DISTINCT plan_hash FROM bemi.plan_revert(context => '{"by": "deploy"}', choices => chosen)
$$;
CREATE TABLE chosen AS SELECT choices('keep 1 name', 'restore 1 price', 'restore 2', 'restore 3', 'keep 4', 'keep 5') AS choices;
CREATE TABLE shown AS SELECT hash(choices) FROM chosen;
SELECT count(DISTINCT h) FROM (SELECT hash(NULL) UNION ALL SELECT hash(choices) FROM chosen UNION ALL SELECT hash(choices('restore 1', 'keep 2', 'restore 3', 'keep 4', 'keep 5'))) s(h);
\set VERBOSITY terse
DO $$ BEGIN
	PERFORM bemi.revert(context => '{"by": "deploy"}', choices => choices('restore 1', 'restore 2', 'restore 3', 'keep 4', 'keep 5'), expect => (SELECT hash FROM shown));
EXCEPTION WHEN serialization_failure THEN RAISE NOTICE '%', sqlerrm; END $$;
SELECT bemi.revert(context => '{"by": "deploy"}', choices => choices('restore 1', 'restore 2', 'restore 3'));
\set VERBOSITY default
SELECT steps, skipped FROM bemi.revert(context => '{"by": "deploy"}', choices => (SELECT choices FROM chosen), expect => (SELECT hash FROM shown));
SELECT * FROM item ORDER BY id;
-- all that is left is kept
SELECT steps, skipped FROM bemi.revert(context => '{"by": "deploy"}', choices => choices('keep 1', 'keep 4', 'keep 5'));

-- A row whose key the set has changed: the walk knows it by both keys, the plan by one
CREATE TABLE moved (id integer PRIMARY KEY, v text);
SELECT bemi.track('moved');
INSERT INTO moved VALUES (1, 'a');
SET bemi.context = '{"by": "mover"}';
UPDATE moved SET id = 2;
SET bemi.context = '{"by": "others"}';
UPDATE moved SET v = 'b';
RESET bemi.context;
SELECT bemi.sync();
SELECT statement, key, verdict FROM bemi.plan_revert(context => '{"by": "mover"}');
SELECT statement, key, verdict FROM bemi.plan_revert(context => '{"by": "mover"}',
	choices => '[{"table": "public.moved", "key": "1", "choice": "restore"}, {"table": "public.moved", "key": "2", "choice": "restore"}]');

-- With force, an inserted row goes as a whole, also if others and the set have changed it since
CREATE TABLE made (id integer PRIMARY KEY, v text);
SELECT bemi.track('made');
SET bemi.context = '{"by": "who made it"}';
INSERT INTO made VALUES (15, 'a');
SET bemi.context = '{"by": "others"}';
UPDATE made SET v = 'b';
SET bemi.context = '{"by": "who made it"}';
UPDATE made SET v = 'a2';
RESET bemi.context;
SELECT bemi.sync();
SELECT statement, columns, verdict FROM bemi.plan_revert(context => '{"by": "who made it"}', mode => 'force');
SELECT statement, columns, verdict FROM bemi.plan_revert(context => '{"by": "who made it"}', mode => 'skip');
SELECT steps, skipped FROM bemi.revert(context => '{"by": "who made it"}', mode => 'force');
SELECT * FROM made;

-- Mistakes
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '{}');
\set VERBOSITY terse
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '"keep"');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '["keep"]');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '[[]]');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '[{"table": "public.item", "key": 1, "choice": "keep"}]');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '[{"table": "public.item", "key": "1", "choice": "maybe"}]');
SELECT bemi.revert(context => '{"by": "deploy"}', choices => '[{"key": "1", "choice": "keep"}]');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '[{"table": "public.item", "key": "1", "colunm": "name", "choice": "keep"}]');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => '[{"table": "public.item", "key": "1", "column": "", "choice": "keep"}]');
\set VERBOSITY default
-- two choices for one row or column, also if they are the same
SELECT bemi.plan_revert(context => '{"by": "mover"}', choices => '[{"table": "public.moved", "key": "2", "choice": "keep"}, {"table": "public.moved", "key": "2", "choice": "restore"}]');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => choices('keep 1', 'keep 1 name', 'restore 2', 'keep 1 name'));
SELECT bemi.revert(context => '{"by": "deploy"}', choices => choices('keep 1', 'keep 1'));
-- a choice that has no place in the plan
\set VERBOSITY default
SELECT bemi.plan_revert(context => '{"by": "mover"}', choices => '[{"table": "public.moved", "key": "2", "choice": "keep"}, {"table": "public.moved", "key": "9", "choice": "keep"}]');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY terse
SELECT bemi.plan_revert(context => '{"by": "mover"}', choices => '[{"table": "moved", "key": "2", "choice": "keep"}]');
SELECT bemi.plan_revert(context => '{"by": "mover"}', choices => '[{"table": "public.moved", "key": "2", "column": "v", "choice": "keep"}]');
SELECT bemi.plan_revert(context => '{"by": "deploy"}', choices => choices('keep 1 nmae'));
SELECT bemi.revert(context => '{"by": "mover"}', choices => '[{"table": "public.item", "key": "2", "choice": "keep"}]');
SELECT bemi.revert(context => '{"by": "mover"}', choices => '[{"table": "public.item", "key": "2", "choice": "keep"}]', expect => 'another');
SELECT bemi.revert(context => '{"by": "nobody"}', choices => choices('keep 1'));
SELECT count(*) FROM bemi.plan_revert(context => '{"by": "nobody"}', choices => choices('keep 1'));
\set VERBOSITY default
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP TABLE line, item, chosen, shown, made, moved;
DROP FUNCTION plan, choices, hash;
