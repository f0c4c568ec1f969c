--
-- bemi.plan_revert(): the order of steps, and what the server would refuse.
--
-- A plan that says "ok" must not fail when it is carried out. So each step comes after the one that frees its unique
-- value, whatever the order of the changes was, and what no order can do is a conflict in the plan.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();

CREATE FUNCTION plan(set_context jsonb, mode text DEFAULT 'refuse', OUT step bigint, OUT key text, OUT after jsonb, OUT verdict text, OUT reason text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT p.step, p.table_name || ' ' || p.key, p.value_after, p.verdict,
		regexp_replace(p.reason, 'change [0-9a-f-]+ of \S+ \S+', 'change ID')
	FROM bemi.plan_revert(context => set_context, mode => plan.mode) p ORDER BY p.step
$$;

-- The row that has the value now has the later step in the reverse order of the changes.
CREATE TABLE item (id integer PRIMARY KEY, code text UNIQUE, n integer, rank integer UNIQUE DEFERRABLE);
SELECT bemi.track('item');
INSERT INTO item SELECT i, 'c' || i, 0, i FROM generate_series(1, 200) i;
SET bemi.context = '{"by": "key"}';
UPDATE item SET id = 1005 WHERE id = 5;
INSERT INTO item VALUES (5, 'new', 0, 1000);
RESET bemi.context;
SELECT * FROM plan('{"by": "key"}');
SELECT steps FROM bemi.revert(context => '{"by": "key"}');
SELECT id, code FROM item WHERE code = 'c5' OR id = 5;

-- A chain in the wrong order, longer than any number of rounds
SET bemi.context = '{"by": "shift"}';
DO $$ BEGIN FOR i IN REVERSE 200 .. 1 LOOP UPDATE item SET code = 'c' || i + 1 WHERE id = i; END LOOP; END $$;
DO $$ BEGIN FOR i IN 1 .. 200 LOOP UPDATE item SET n = 1 WHERE id = i; END LOOP; END $$;
DO $$ BEGIN FOR i IN REVERSE 200 .. 1 LOOP UPDATE item SET n = 2 WHERE id = i; END LOOP; END $$;
RESET bemi.context;
SELECT step, key FROM plan('{"by": "shift"}') ORDER BY step LIMIT 2;
-- The statements can be pasted.
BEGIN;
\set ECHO errors
SELECT statement FROM bemi.plan_revert(context => '{"by": "shift"}') ORDER BY step \gexec
\set ECHO all
SELECT count(*) FROM item WHERE code = 'c' || id AND n = 0;
ROLLBACK;
SELECT steps FROM bemi.revert(context => '{"by": "shift"}');
SELECT count(*) FROM item WHERE code = 'c' || id AND n = 0;

-- A circle, of values that the server checks at once, and of those that it checks at the end
SET bemi.context = '{"by": "circle"}';
UPDATE item SET code = 'x' WHERE id = 1;
UPDATE item SET code = 'c1' WHERE id = 2;
UPDATE item SET code = 'c2' WHERE id = 1;
UPDATE item SET code = 'y' WHERE id = 3;
RESET bemi.context;
SELECT * FROM plan('{"by": "circle"}');
SELECT * FROM plan('{"by": "circle"}', 'force');
SELECT * FROM bemi.revert(context => '{"by": "circle"}');
SELECT steps, skipped FROM bemi.revert(context => '{"by": "circle"}', mode => 'skip');
SET bemi.context = '{"by": "ranks"}';
UPDATE item SET rank = 201 - rank WHERE id <= 200;
RESET bemi.context;
SELECT count(*), count(*) FILTER (WHERE verdict = 'ok') FROM plan('{"by": "ranks"}');
SELECT steps FROM bemi.revert(context => '{"by": "ranks"}');
SELECT count(*) FROM item WHERE rank = id;

-- Two steps that would set the same value
SET bemi.context = '{"by": "twice"}';
UPDATE item SET code = 'u' WHERE id = 10;
RESET bemi.context;
UPDATE item SET code = 'c10' WHERE id = 11;
SET bemi.context = '{"by": "twice"}';
UPDATE item SET code = 'v' WHERE id = 11;
RESET bemi.context;
SELECT * FROM plan('{"by": "twice"}', 'refuse');
SELECT * FROM plan('{"by": "twice"}', 'skip');

-- Indexes on expressions, with a condition, and exclusion constraints
CREATE TABLE slot (id integer PRIMARY KEY, email text, gone boolean NOT NULL DEFAULT false, during int4range,
	at integer CHECK (at > 0), until integer, CHECK (until >= at), EXCLUDE USING gist (during WITH &&));
CREATE UNIQUE INDEX slot_email ON slot (lower(email)) WHERE NOT gone;
SELECT bemi.track('slot');
INSERT INTO slot VALUES (1, 'Ann', false, '[1,5)', 1, 2), (2, 'bob', false, '[5,9)', 1, 2), (3, 'eve', false, NULL, NULL, NULL);
SET bemi.context = '{"by": "slots"}';
UPDATE slot SET email = 'ann2', during = '[1,3)' WHERE id = 1;
UPDATE slot SET email = 'ANN', during = '[3,9)' WHERE id = 2;
UPDATE slot SET until = 3 WHERE id = 1;
RESET bemi.context;
SELECT * FROM plan('{"by": "slots"}');
BEGIN;
SELECT steps FROM bemi.revert(context => '{"by": "slots"}');
TABLE slot;
ROLLBACK;
SET bemi.context = '{"by": "free"}';
UPDATE slot SET email = NULL, during = NULL WHERE id <= 2;
RESET bemi.context;
INSERT INTO slot VALUES (4, 'aNN', false, '[8,12)', 1, 1), (5, 'ann2', true, NULL, 1, 1);
SELECT * FROM plan('{"by": "free"}');
SELECT * FROM plan('{"by": "free"}', 'skip');
SELECT * FROM plan('{"by": "free"}', 'cascade');
-- CHECK and NOT NULL: of several columns, and younger than the change
SET bemi.context = '{"by": "checks"}';
UPDATE slot SET at = 2, until = 9 WHERE id = 2;
UPDATE slot SET at = 5, until = 9 WHERE id = 3;
RESET bemi.context;
UPDATE slot SET at = 4 WHERE id = 2;
SELECT * FROM plan('{"by": "checks"}', 'skip');
ALTER TABLE slot ALTER at SET NOT NULL, ADD CONSTRAINT late CHECK (until > 2) NOT VALID;
SELECT * FROM plan('{"by": "checks"}', 'force');
-- A trigger may mend the row.
CREATE FUNCTION mend() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.at := coalesce(NEW.at, 3); NEW.until := greatest(NEW.until, 3); RETURN NEW; END $$;
CREATE TRIGGER mends BEFORE UPDATE ON slot FOR EACH ROW EXECUTE FUNCTION mend();
SELECT steps FROM bemi.revert(context => '{"by": "checks"}', mode => 'force');
SELECT id, at, until FROM slot WHERE id IN (2, 3) ORDER BY id;

-- A row that the set has inserted, and whose key others have changed, is not forgotten.
CREATE TABLE bag (a integer, b text);
SELECT bemi.track('bag');
SET bemi.context = '{"by": "rows"}';
INSERT INTO item VALUES (500, 'r', 0, 500);
INSERT INTO bag VALUES (1, 'x');
RESET bemi.context;
UPDATE item SET id = 501 WHERE id = 500;
UPDATE bag SET b = 'y';
SELECT * FROM plan('{"by": "rows"}');
SELECT * FROM plan('{"by": "rows"}', 'force');
SELECT * FROM plan('{"by": "rows"}', 'cascade');
\set VERBOSITY terse
SELECT steps FROM bemi.revert(context => '{"by": "rows"}', mode => 'force');
\set VERBOSITY default

-- Values that are handed on, and rows that refer to them
CREATE TABLE part (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text REFERENCES item (code) ON UPDATE CASCADE);
SELECT bemi.track('part');
INSERT INTO item VALUES (600, 'p1', 0, 600), (610, 'p2', 0, 610);
INSERT INTO part (item) VALUES ('p1'), ('p2'), ('p1');
SET bemi.context = '{"by": "hand on"}';
DELETE FROM part WHERE id = 3;
UPDATE item SET code = 'p0' WHERE id = 600;
UPDATE item SET code = 'p1' WHERE id = 610;
RESET bemi.context;
SELECT * FROM plan('{"by": "hand on"}');
SELECT steps FROM bemi.revert(context => '{"by": "hand on"}');
SELECT p.id, i.id AS item, i.code FROM part p JOIN item i ON i.code = p.item ORDER BY p.id;

CALL bemi.stop();
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP TABLE part, item, slot, bag;
DROP FUNCTION plan, mend;
