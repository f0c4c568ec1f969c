--
-- bemi.plan_revert(): what it takes back, and each reason why it does not.
--
-- A revert that takes back too much destroys what others have written, and one that takes back too
-- little is believed to have worked. So each reason of docs/reference/functions.md is made once,
-- and each mode is shown with the same conflict.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SELECT * FROM bemi.plan_revert(context => '{}');	-- no source yet
CALL bemi.start();
SET timezone = 'UTC';

-- Ids and times vary, so a reason is shown without them.
CREATE FUNCTION plan(set_context jsonb, mode text DEFAULT 'refuse', OUT step bigint, OUT key text, OUT columns text[], OUT now jsonb, OUT after jsonb, OUT verdict text, OUT reason text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT p.step, p.table_name || ' ' || p.key, p.columns, p.value_now, p.value_after, p.verdict,
		regexp_replace(p.reason, 'change [0-9a-f-]+ of \S+ \S+', 'change ID')
	FROM bemi.plan_revert(context => set_context, mode => plan.mode) p ORDER BY p.step
$$;
CREATE FUNCTION statements(set_context jsonb, mode text DEFAULT 'refuse') RETURNS SETOF text LANGUAGE sql AS $$
	SELECT coalesce(p.statement, '-- ' || p.verdict) FROM bemi.plan_revert(context => set_context, mode => statements.mode) p ORDER BY p.step
$$;

-- Which changes
SELECT bemi.plan_revert();
SELECT bemi.plan_revert(changes => '{00000000-0000-8000-8000-000000000000}', context => '{}');
SELECT bemi.plan_revert(changes => '{}');
SELECT bemi.plan_revert(changes => '{00000000-0000-8000-8000-000000000000}', from_time => now());
SELECT bemi.plan_revert(context => '[]');
SELECT bemi.plan_revert(context => '{}', from_time => '2024-01-02', to_time => '2024-01-01');
SELECT bemi.plan_revert(context => '{}', to_time => now());
SELECT bemi.plan_revert(context => '{}', mode => 'maybe');
SELECT bemi.plan_revert(context => '{}', mode => NULL);
SELECT bemi.plan_revert(changes => '{00000000-0000-8000-8000-000000000000}');
SELECT bemi.plan_revert(transaction_of => '00000000-0000-8000-8000-000000000000');
SELECT bemi.plan_revert(context => '{"by": "nobody"}');
SELECT bemi.revert(context => '{"by": "nobody"}');
SELECT bemi.revert(context => NULL);

-- Conflicts are per column
CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric(8,2), tags text[], secret text, at timestamptz);
SELECT bemi.track('item', redact => '{secret}');
INSERT INTO item VALUES (1, 'pen', 1.5, '{a,b}', 's', '2024-01-01 12:00+02'), (2, 'cup', NULL, NULL, NULL, NULL), (3, 'jar', 3, '{}', NULL, NULL), (4, 'box', 4, NULL, NULL, NULL);
SET bemi.context = '{"by": "deploy"}';
UPDATE item SET name = upper(name), price = coalesce(price, 0) + 1, tags = tags || '{c}', at = '2025-01-01 UTC' WHERE id <= 2;
DELETE FROM item WHERE id = 3;
INSERT INTO item VALUES (5, 'new', 5, NULL, NULL, NULL);
RESET bemi.context;
SELECT * FROM plan('{"by": "deploy"}');
SELECT * FROM statements('{"by": "deploy"}');
SET bemi.context = '{"by": "ann"}';
UPDATE item SET name = 'Pen' WHERE id = 1;
UPDATE item SET price = 50 WHERE id = 5;
INSERT INTO item VALUES (3, 'JAR', 33, NULL, NULL, NULL);
RESET bemi.context;
SELECT * FROM plan('{"by": "deploy"}');
SELECT * FROM plan('{"by": "deploy"}', 'skip');
SELECT * FROM plan('{"by": "deploy"}', 'force');
SELECT * FROM plan('{"by": "deploy"}', 'cascade');
SELECT * FROM statements('{"by": "deploy"}', 'force');
\set VERBOSITY terse
SELECT bemi.revert(context => '{"by": "deploy"}');
\set VERBOSITY default
-- A plan changes nothing.
SELECT count(*), sum(price) FROM item;

-- Several changes of a row are one step, and what others did in between is kept.
SET bemi.context = '{"by": "loop"}';
UPDATE item SET price = 10 WHERE id = 4;
UPDATE item SET price = 11, name = 'b1' WHERE id = 4;
RESET bemi.context;
UPDATE item SET price = 12 WHERE id = 4;
SET bemi.context = '{"by": "loop"}';
UPDATE item SET price = 13, name = 'b2' WHERE id = 4;
RESET bemi.context;
SELECT * FROM plan('{"by": "loop"}');
SELECT * FROM plan('{"by": "loop"}', 'skip');
SELECT * FROM plan('{"by": "loop"}', 'force');
-- What the set has done and undone needs nothing.
SET bemi.context = '{"by": "nothing"}';
INSERT INTO item VALUES (6, 'x'); UPDATE item SET name = 'y' WHERE id = 6; DELETE FROM item WHERE id = 6;
UPDATE item SET price = 1 WHERE id = 2; UPDATE item SET price = NULL WHERE id = 2; UPDATE item SET price = 1.00 WHERE id = 2;
RESET bemi.context;
SELECT * FROM plan('{"by": "nothing"}');

-- Other reasons
SET bemi.context = '{"by": "gone"}';
UPDATE item SET name = 'gone' WHERE id = 5;
INSERT INTO item VALUES (7, 'gone');
RESET bemi.context;
DELETE FROM item WHERE id IN (5, 7);
SELECT * FROM plan('{"by": "gone"}');
SET bemi.context = '{"by": "secret"}';
INSERT INTO item VALUES (8, 'secret', 8, NULL, 's');
UPDATE item SET secret = 't' WHERE id = 1;
UPDATE item SET secret = NULL WHERE id = 1;
RESET bemi.context;
SET bemi.context = '{"by": "secret 2"}';
DELETE FROM item WHERE id = 8;
RESET bemi.context;
SELECT * FROM plan('{"by": "secret 2"}');
-- Changed without the history's knowledge: by an update that is ignored, and by one that is not captured.
CREATE TABLE note (id integer PRIMARY KEY, text text, seen integer, old text);
SELECT bemi.track('note', ignore => '{seen}');
INSERT INTO note VALUES (1, 'a', 1), (2, 'a', 1), (3, 'a', 1);
SET bemi.context = '{"by": "note"}';
UPDATE note SET text = 'b', seen = 2, old = 'o';
RESET bemi.context;
UPDATE note SET seen = 3 WHERE id = 1;
BEGIN;
UPDATE note SET text = 'mine' WHERE id = 2;
SELECT * FROM plan('{"by": "note"}');
ROLLBACK;
BEGIN;
DELETE FROM note WHERE id = 2;
SELECT * FROM plan('{"by": "note"}', 'skip');
ROLLBACK;
-- columns and types
SET bemi.context = '{"by": "note 2"}';
DELETE FROM note WHERE id = 3;
RESET bemi.context;
ALTER TABLE note DROP COLUMN old;
ALTER TABLE note ALTER text TYPE integer USING 7;
SELECT * FROM plan('{"by": "note"}');
SELECT * FROM plan('{"by": "note 2"}');
DROP TABLE note;
SELECT * FROM plan('{"by": "note"}');

-- keys
CREATE TABLE parent (id integer PRIMARY KEY, code text UNIQUE);
CREATE TABLE child (id integer PRIMARY KEY, parent integer REFERENCES parent ON DELETE CASCADE);
SELECT bemi.track('parent'), bemi.track('child');
INSERT INTO parent VALUES (1, 'a'), (2, 'b'), (3, 'c');
INSERT INTO child VALUES (1, 1), (2, 2);
SET bemi.context = '{"by": "keys"}';
UPDATE child SET parent = 3 WHERE id = 2;
UPDATE parent SET code = 'aa' WHERE id = 1;
INSERT INTO parent VALUES (4, 'd');
RESET bemi.context;
DELETE FROM parent WHERE id = 2;
INSERT INTO parent VALUES (5, 'a');
INSERT INTO child VALUES (4, 4);
SELECT * FROM plan('{"by": "keys"}');
SELECT * FROM plan('{"by": "keys"}', 'skip');
-- A step that is left out takes those with it that rely on it.
SET bemi.context = '{"by": "chain"}';
DELETE FROM parent WHERE id = 3;
RESET bemi.context;
INSERT INTO parent VALUES (6, 'c');
SELECT * FROM plan('{"by": "chain"}', 'skip');

-- So does a chain of any length.
CREATE TABLE chain (id integer PRIMARY KEY, up integer REFERENCES chain ON DELETE CASCADE, name text UNIQUE);
SELECT bemi.track('chain');
INSERT INTO chain SELECT i, nullif(i - 1, 0), 'n' || i FROM generate_series(1, 120) i;
SET bemi.context = '{"by": "long chain"}';
DELETE FROM chain WHERE id = 1;
RESET bemi.context;
INSERT INTO chain VALUES (1000, NULL, 'n2');
SELECT verdict, reason, count(*), min(key::integer), max(key::integer) FROM bemi.plan_revert(context => '{"by": "long chain"}', mode => 'skip') GROUP BY 1, 2 ORDER BY 3;

-- A table without a key: the row itself is the key.
CREATE TABLE bag (a integer, b text);
SELECT bemi.track('bag');
INSERT INTO bag VALUES (1, 'x'), (2, 'y'), (2, 'y');
SET bemi.context = '{"by": "bag"}';
UPDATE bag SET b = 'z' WHERE a = 1;
UPDATE bag SET b = 'zz' WHERE a = 1;
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 2);
INSERT INTO bag VALUES (3, 'w');
RESET bemi.context;
SELECT * FROM statements('{"by": "bag"}');
SELECT * FROM plan('{"by": "bag"}');
UPDATE bag SET b = 'other' WHERE a = 3;
SELECT * FROM plan('{"by": "bag"}', 'skip');

-- The context of others is theirs: elements of revertOf can be anything.
CREATE TABLE odd (id integer PRIMARY KEY, v integer, j json, p point[], "a'b\c %s" text);
SELECT bemi.track('odd');
INSERT INTO odd VALUES (1, 1, '{"a": 1}', '{"(1,2)"}', 'x''y\z %s'), (2, 1, NULL, NULL, NULL);
SET bemi.context = '{"by": "forged"}';
UPDATE odd SET v = 2 WHERE id = 1;
RESET bemi.context;
UPDATE odd SET v = 3 WHERE id = 1;
SET bemi.context = '{"revertOf": [["a", "b"], [[1]], {"transaction": [1]}, {}, 7, null, "x"]}';
UPDATE odd SET v = 2 WHERE id = 1;
RESET bemi.context;
SELECT key, verdict FROM plan('{"by": "forged"}');
-- Statements can be pasted, whatever the names, the values and the types are.
SET bemi.context = '{"by": "odd"}';
UPDATE odd SET j = '[]', p = '{"(3,4)"}', "a'b\c %s" = '''; DROP TABLE odd; --' WHERE id = 1;
RESET bemi.context;
SELECT * FROM statements('{"by": "odd"}');
SELECT * FROM statements('{"by": "odd"}') \gexec
SELECT * FROM odd WHERE id = 1;
-- Without REPLICA IDENTITY FULL, the rows before are not known.
ALTER TABLE odd REPLICA IDENTITY DEFAULT;
SET bemi.context = '{"by": "no image"}';
UPDATE odd SET v = 4 WHERE id = 1;
DELETE FROM odd WHERE id = 2;
RESET bemi.context;
SELECT * FROM plan('{"by": "no image"}', 'force');
ALTER TABLE odd REPLICA IDENTITY FULL;
SET bemi.context = '{"by": "younger column"}';
DELETE FROM odd WHERE id = 1;
RESET bemi.context;
ALTER TABLE odd ADD younger integer DEFAULT 5;
SELECT key, verdict, reason FROM plan('{"by": "younger column"}');
-- A view that has taken the name of the table is not read.
ALTER TABLE odd RENAME TO former;
CREATE VIEW odd AS SELECT id, 1 / (id - id) AS v, '(0,1)'::tid AS ctid, 0::oid AS tableoid FROM former;
SELECT key, verdict, reason FROM plan('{"by": "younger column"}');
DROP VIEW odd;
DROP TABLE former;

-- Changes of the key
SET bemi.context = '{"by": "key"}';
UPDATE item SET id = 100, name = 'moved' WHERE id = 1;
RESET bemi.context;
SELECT * FROM statements('{"by": "key"}');
BEGIN;
INSERT INTO item VALUES (1, 'taken');
COMMIT;
SELECT * FROM plan('{"by": "key"}');

CALL bemi.stop();
SELECT bemi.plan_revert(context => '{"by": "key"}');
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP TABLE item, parent, child, chain, bag;
DROP FUNCTION plan, statements;
