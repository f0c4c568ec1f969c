--
-- bemi.plan_revert() and bemi.revert() with mode "cascade": later changes of other rows.
--
-- A revert deletes rows that others refer to, or needs rows that others have deleted. In this mode it
-- takes these later changes back, too, and what is later than them, through any number of tables. All
-- that was taken back must stand in the context of the revert, or nobody could find out.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TABLE customer (id integer PRIMARY KEY, code text UNIQUE, name text);
CREATE TABLE purchase (id integer PRIMARY KEY, customer integer REFERENCES customer ON DELETE CASCADE, note text);
CREATE TABLE line (purchase integer REFERENCES purchase ON DELETE CASCADE, n integer, article text, PRIMARY KEY (purchase, n));
CREATE TABLE remark (line_purchase integer, line_n integer, text text, FOREIGN KEY (line_purchase, line_n) REFERENCES line (purchase, n) ON DELETE SET NULL);
CREATE TABLE untracked (customer integer REFERENCES customer);
SELECT bemi.track('customer'), bemi.track('purchase'), bemi.track('line'), bemi.track('remark');
INSERT INTO customer VALUES (1, 'a', 'Ann'), (2, 'b', 'Bob');
INSERT INTO purchase VALUES (10, 1, 'old');

CREATE FUNCTION plan(set_context jsonb, mode text DEFAULT 'cascade', OUT step bigint, OUT key text, OUT columns text[], OUT after jsonb, OUT verdict text, OUT reason text)
RETURNS SETOF record LANGUAGE sql AS $$
	SELECT p.step, p.table_name || ' ' || p.key, p.columns, p.value_after, p.verdict,
		regexp_replace(p.reason, 'change [0-9a-f-]+ of \S+ \S+', 'change ID')
	FROM bemi.plan_revert(context => set_context, mode => plan.mode) p ORDER BY p.step
$$;
-- Who made the changes that the last revert has taken back.
CREATE FUNCTION taken_back(OUT by text, OUT changes bigint) RETURNS SETOF record LANGUAGE sql AS $$
	SELECT bemi.sync('60s');
	SELECT c.context ->> 'by', count(*) FROM bemi.changes c
		WHERE c.id IN (SELECT (e #>> '{}')::uuid FROM bemi.changes r, jsonb_array_elements(r.context -> 'revertOf') e
			WHERE r.id = (SELECT max(id::text)::uuid FROM bemi.changes WHERE context ? 'revertOf') AND jsonb_typeof(e) = 'string')
		GROUP BY 1 ORDER BY 1
$$;

-- A row that the set has inserted, and all that others have hung on it.
SET bemi.context = '{"by": "import"}';
INSERT INTO customer VALUES (3, 'c', 'Eve');
SET bemi.context = '{"by": "shop"}';
UPDATE customer SET name = 'Eva' WHERE id = 3;
INSERT INTO purchase VALUES (11, 3, 'new');
UPDATE purchase SET note = 'first' WHERE id = 10;
UPDATE purchase SET customer = 3 WHERE id = 10;
INSERT INTO line VALUES (11, 1, 'pen'), (11, 2, 'cup'), (10, 1, 'jar');
SET bemi.context = '{"by": "support"}';
UPDATE line SET article = 'mug' WHERE purchase = 11 AND n = 2;
INSERT INTO remark VALUES (11, 2, 'broken'), (10, 1, 'fine');
SET bemi.context = '{"by": "boss"}';
SELECT key, verdict, reason FROM plan('{"by": "import"}', 'refuse');
SELECT * FROM plan('{"by": "import"}');
SELECT max(plan_hash) AS hash FROM bemi.plan_revert(context => '{"by": "import"}', mode => 'cascade') \gset
SELECT steps, skipped FROM bemi.revert(context => '{"by": "import"}', mode => 'cascade', expect => :'hash');
SELECT * FROM customer ORDER BY id;
SELECT * FROM purchase ORDER BY id;
SELECT * FROM line ORDER BY purchase, n;
SELECT * FROM remark;
SELECT * FROM taken_back();
SELECT t.contexts[1] ->> 'by' AS by, t.changes, cardinality(t.reverted_by) FROM bemi.transactions t WHERE t.reverted_by IS NOT NULL ORDER BY t.committed_at, 1, 2;
-- The revert is one transaction like any other, and can be taken back.
SELECT steps FROM bemi.revert(context => '{"by": "boss"}');
SELECT c.name, p.note, l.article, r.text FROM customer c JOIN purchase p ON p.customer = c.id JOIN line l ON l.purchase = p.id LEFT JOIN remark r ON (r.line_purchase, r.line_n) = (l.purchase, l.n) ORDER BY p.id, l.n;

-- A row that refers to it and is not in the history
SET bemi.context = '{"by": "import 2"}';
INSERT INTO customer VALUES (4, 'd', 'Dan');
RESET bemi.context;
INSERT INTO untracked VALUES (4);
SELECT * FROM plan('{"by": "import 2"}');
DELETE FROM untracked;

-- A row that the set needs, and that others have deleted or renumbered
SET bemi.context = '{"by": "move"}';
UPDATE purchase SET customer = 1 WHERE id = 10;
UPDATE purchase SET customer = 3 WHERE id = 10;
UPDATE purchase SET customer = 2 WHERE id = 11;
RESET bemi.context;
SET bemi.context = '{"by": "cleanup"}';
UPDATE purchase SET customer = NULL WHERE id = 10;
DELETE FROM customer WHERE id = 3;
RESET bemi.context;
SELECT key, verdict, reason FROM plan('{"by": "move"}', 'refuse');
SELECT * FROM plan('{"by": "move"}');
SET bemi.context = '{"by": "boss 2"}';
SELECT steps FROM bemi.revert(context => '{"by": "move"}', mode => 'cascade');
SELECT * FROM taken_back();
RESET bemi.context;
SELECT * FROM customer ORDER BY id;
SELECT * FROM purchase ORDER BY id;
SET bemi.context = '{"by": "move 2"}';
UPDATE purchase SET customer = 1 WHERE id = 11;
RESET bemi.context;
ALTER TABLE purchase DROP CONSTRAINT purchase_customer_fkey, ADD FOREIGN KEY (customer) REFERENCES customer ON UPDATE CASCADE;
UPDATE customer SET id = 33 WHERE id = 3;
SELECT key, verdict, reason FROM plan('{"by": "move 2"}', 'refuse');
SELECT * FROM plan('{"by": "move 2"}');

-- A key goes back that others refer to: their rows follow it, but lose no value.
BEGIN;
SET LOCAL bemi.context = '{"by": "renumber"}';
INSERT INTO customer VALUES (40, 'h', 'Hal');
UPDATE customer SET id = 41 WHERE id = 40;
SET LOCAL bemi.context = '{"by": "order"}';
INSERT INTO purchase VALUES (14, 41, 'Hal''s');
COMMIT;
CREATE VIEW renumbering AS SELECT p.key, p.columns, p.verdict, p.reason
	FROM bemi.plan_revert(changes => (SELECT array_agg(id) FROM bemi.changes WHERE context @> '{"by": "renumber"}' AND operation = 'UPDATE')) p;
SELECT bemi.sync('60s');
SELECT * FROM renumbering;
ALTER TABLE purchase DROP CONSTRAINT purchase_customer_fkey, ADD FOREIGN KEY (customer) REFERENCES customer ON UPDATE SET NULL;
SELECT * FROM renumbering;
ALTER TABLE purchase DROP CONSTRAINT purchase_customer_fkey, ADD FOREIGN KEY (customer) REFERENCES customer ON UPDATE CASCADE;
DELETE FROM purchase WHERE id = 14;
DELETE FROM customer WHERE id = 41;
DROP VIEW renumbering;

-- A unique value that others have taken
SET bemi.context = '{"by": "rename"}';
UPDATE customer SET code = 'aa' WHERE id = 1;
SET bemi.context = '{"by": "taker"}';
UPDATE customer SET code = 'a' WHERE id = 2;
INSERT INTO customer VALUES (5, 'b', 'Fay');
INSERT INTO purchase VALUES (12, 5, 'Fay''s');
RESET bemi.context;
SELECT key, verdict, reason FROM plan('{"by": "rename"}', 'refuse');
SELECT * FROM plan('{"by": "rename"}');
SELECT steps FROM bemi.revert(context => '{"by": "rename"}', mode => 'cascade');
SELECT * FROM taken_back();
SELECT * FROM customer ORDER BY id;

-- Later changes under another name of the table
SET bemi.context = '{"by": "import 3"}';
INSERT INTO customer VALUES (6, 'f', 'Gil');
RESET bemi.context;
INSERT INTO purchase VALUES (13, 6, 'Gil''s');
ALTER TABLE purchase RENAME customer TO buyer;
ALTER TABLE purchase RENAME TO sale;
INSERT INTO sale VALUES (14, 6, 'Gil''s, too');
SELECT * FROM plan('{"by": "import 3"}');

-- What a mode leaves out is not said to be taken back.
SET bemi.context = '{"by": "two"}';
UPDATE customer SET name = 'X' WHERE id <= 2;
RESET bemi.context;
UPDATE customer SET name = 'Annie' WHERE id = 1;
SELECT steps, skipped FROM bemi.revert(context => '{"by": "two"}', mode => 'skip');
SELECT * FROM taken_back();

CALL bemi.stop();
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP TABLE untracked, remark, line, sale, customer;
DROP FUNCTION plan, taken_back;
