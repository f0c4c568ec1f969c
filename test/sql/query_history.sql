--
-- Functions that read the history: bemi.history(), diff(), blame(), transactions, transaction()
-- and find_changes().
--
-- Users copy these calls from the documents, so a call that returns too little is worse than an
-- error. The test reads the story of a few rows whose changes it knows, page by page as well as at
-- once, across partitions, with the rights of a reader and a row policy. It makes each error once.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SELECT * FROM bemi.history('pg_class', '1');	-- no source yet
CALL bemi.start();
SET timezone = 'UTC';

SELECT bemi.diff('{"a": 1, "b": null, "c": [1, 2], "d": "x"}', '{"a": 1.0, "c": [2, 1], "e": null, "f": {"g": 1}}');
SELECT bemi.diff('{}', '{"a": 1, "b": null}'), bemi.diff('{"a": 1}', '{}'), bemi.diff('{}', '{}'), bemi.diff(NULL, '{}') IS NULL AS null;
SELECT bemi.diff('[]', '{}');

-- The story of a row whose key changes twice. A second row takes its first key.
CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric(8,2), secret text);
SELECT bemi.track('item', redact => '{secret}');
SET bemi.context = '{"by": "ann"}';
INSERT INTO item VALUES (1, 'pen', 1.5, 'x'), (2, 'cup', NULL, NULL);
UPDATE item SET price = 2 WHERE id = 1;
SET bemi.context = '{"by": "bob"}';
UPDATE item SET id = 10, name = 'pencil' WHERE id = 1;
BEGIN;
UPDATE item SET price = price + 1;
UPDATE item SET id = 100, secret = 'y' WHERE id = 10;
COMMIT;
RESET bemi.context;
INSERT INTO item VALUES (1, 'book', 9, NULL);
SELECT bemi.sync();
SELECT operation, primary_key, changed, context FROM bemi.history('item', '100');
SELECT operation, primary_key, changed, context FROM bemi.history('item', ' 01');
SELECT count(*) FROM bemi.history('item', '10');
SELECT count(*) FROM bemi.history('item', '99');
-- page by page
CREATE FUNCTION pages(target regclass, key text, newest integer) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
	page uuid[];
	result uuid[] := '{}';
BEGIN
	LOOP
		page := ARRAY(SELECT h.id FROM bemi.history(target, key, newest, result[cardinality(result)]) h);
		result := result || page;
		EXIT WHEN cardinality(page) < newest;
	END LOOP;
	RETURN result;
END $$;
CREATE FUNCTION pages_agree(target regclass, key text) RETURNS SETOF integer LANGUAGE sql AS $$
	SELECT n FROM generate_series(1, 8) n WHERE pages(target, key, n) IS DISTINCT FROM ARRAY(SELECT h.id FROM bemi.history(target, key, NULL) h)
$$;
SELECT pages_agree('item', '100') AS wrong UNION SELECT pages_agree('item', '2') UNION SELECT pages_agree('item', '1');

-- per column
SELECT column_name, value, operation, context FROM bemi.blame('item', '100');
SELECT column_name, value, operation, context FROM bemi.blame('item', '2');
SELECT count(*) FROM bemi.blame('item', '99');

-- removed by DELETE and by TRUNCATE, and made again
SET bemi.context = '{"by": "eve"}';
DELETE FROM item WHERE id = 2;
TRUNCATE item;
INSERT INTO item VALUES (2, 'mug', 3, NULL);
ALTER TABLE item ADD COLUMN size integer DEFAULT 5;
UPDATE item SET price = 4 WHERE id = 2;
RESET bemi.context;
SELECT bemi.sync();
SELECT operation, primary_key, changed FROM bemi.history('item', '2');
SELECT operation, primary_key, changed FROM bemi.history('item', '100', newest => 2);
SELECT pages_agree('item', '100') AS wrong UNION SELECT pages_agree('item', '2');
SELECT column_name, value, operation, context FROM bemi.blame('item', '2');
SELECT column_name, value, operation FROM bemi.blame('item', '100');
DELETE FROM item;
TRUNCATE item;
SELECT bemi.sync();
SELECT column_name, value, operation FROM bemi.blame('item', '2');

-- many changes of one column: blame() looks further back
INSERT INTO item VALUES (3, 'pot', 0, NULL, 1);
DO $$ BEGIN FOR n IN 1..60 LOOP UPDATE item SET price = n WHERE id = 3; END LOOP; END $$;
SELECT bemi.sync();
SELECT column_name, value, operation FROM bemi.blame('item', '3');

-- keys of several columns, whose texts differ from those in jsonb
CREATE TABLE line (on_sale boolean, at timestamptz, code char(3), weight double precision, n integer, PRIMARY KEY (at, on_sale, code, weight));
SELECT bemi.track('line');
INSERT INTO line VALUES (true, '2026-01-01 12:00+02', 'a', 1e30, 1);
UPDATE line SET n = 2;
UPDATE line SET at = '2026-01-02 12:00+02', on_sale = false, code = 'b', weight = '-Infinity';
SELECT bemi.sync();
SELECT operation, primary_key, changed FROM bemi.history('line', '{"at": "2026-01-02 11:00+01", "on_sale": false, "code": "b", "weight": "-Infinity"}');
SELECT count(*) FROM bemi.changes c, bemi.history('line', c.primary_key) WHERE c."table" = 'line';
SELECT pages_agree('line', '["2026-01-02 10:00:00+00", "f", "b", "-Infinity"]') AS wrong;
CREATE DOMAIN code AS char(3);
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE TABLE odd (code code, mood mood, days date[], PRIMARY KEY (code, mood, days));
SELECT bemi.track('odd');
INSERT INTO odd VALUES ('x', 'glad', '{2026-01-01}');
UPDATE odd SET mood = 'sad';
CREATE TABLE long (id text PRIMARY KEY);
SELECT bemi.track('long');
CREATE TABLE scale (id numeric PRIMARY KEY);
SELECT bemi.track('scale');
INSERT INTO scale VALUES (1.5);
UPDATE scale SET id = 1.50;
INSERT INTO long SELECT string_agg('é' || md5(n::text), '') FROM generate_series(1, 70) n;
SELECT bemi.sync();
SELECT operation, primary_key FROM bemi.history('odd', '{"code": "x", "mood": "sad", "days": ["2026-01-01"]}');
SELECT count(*) FROM long, bemi.history('long', long.id);
SELECT operation, primary_key FROM bemi.history('scale', '1.50');

-- partitions, other replica identities, redacted keys, a large context
CREATE TABLE part (id integer PRIMARY KEY, n integer, note text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (10) TO (20);
SELECT bemi.track('part');
INSERT INTO part VALUES (1, 1);
UPDATE part SET id = 11;
CREATE TABLE narrow (id integer PRIMARY KEY, task text);
SELECT bemi.track('narrow');
ALTER TABLE narrow REPLICA IDENTITY DEFAULT;
INSERT INTO narrow VALUES (1, 'eat');
UPDATE narrow SET task = 'drink';
UPDATE narrow SET id = 2;
CREATE TABLE person (mail text PRIMARY KEY, n integer);
SELECT bemi.track('person', redact_hash => '{mail}');
SELECT set_config('bemi.context', jsonb_build_object('n', 1, 'big', repeat('x', 5000))::text, false) IS NOT NULL AS large;
BEGIN;
INSERT INTO person VALUES ('a@b', 1);
UPDATE person SET n = 2;
COMMIT;
RESET bemi.context;
SELECT bemi.sync();
SELECT operation, primary_key, changed FROM bemi.history('part2', '11');
SELECT operation, primary_key, changed FROM bemi.history('narrow', '2');
SELECT column_name, value, operation FROM bemi.blame('narrow', '2');	-- either UPDATE may have set the task
SELECT h.operation, length(h.context ->> 'big') AS big FROM bemi.changes c, bemi.history('person', c.primary_key) h
	WHERE c."table" = 'person' AND c.operation = 'CREATE';

-- transactions
SELECT t.changes, t.created, t.updated, t.deleted, t.truncated, t.tables, t.contexts FROM bemi.transactions t
	WHERE 'public.item' = ANY (t.tables) AND t.changes > 1 ORDER BY t.committed_at LIMIT 2;
SELECT count(*) FILTER (WHERE t.changes <> (SELECT count(*) FROM bemi.transaction(t.change_id))) AS wrong, count(*) > 20 AS many FROM bemi.transactions t;
SELECT o.operation, o.primary_key FROM bemi.history('item', '100') h, bemi.transaction(h.id) o WHERE h.changed ? 'secret' OR h.changed = '{"id": [10, 100]}';

-- changes of many rows: each condition against plain SQL
CREATE TABLE asked (n integer GENERATED ALWAYS AS IDENTITY, call text, plain text);
INSERT INTO asked (call, plain) VALUES
	('', 'true'),
	($$'item'$$, $$"table" = 'item'$$),
	($$'part1'$$, $$"table" = 'part'$$),
	($$operation => 'DELETE'$$, $$operation = 'DELETE'$$),
	($$'item', column_name => 'price'$$, $$"table" = 'item' AND bemi.diff(before, after) ? 'price'$$),
	($$'item', 'UPDATE', 'price'$$, $$"table" = 'item' AND operation = 'UPDATE' AND before -> 'price' <> after -> 'price'$$),
	($$column_name => 'n', operation => 'UPDATE'$$, $$operation = 'UPDATE' AND before -> 'n' <> after -> 'n'$$),
	($$context => '{"by": "bob"}'$$, $$context @> '{"by": "bob"}'$$),
	($$context => '{"by": "bob"}', operation => 'UPDATE', target => 'item'$$, $$context @> '{"by": "bob"}' AND operation = 'UPDATE' AND "table" = 'item'$$),
	($$source_name => 'main'$$, 'true'),
	($$source_name => 'other'$$, 'false'),
	($$from_time => (SELECT min(committed_at) FROM bemi.changes WHERE "table" = 'line')$$, $$committed_at >= (SELECT min(committed_at) FROM bemi.changes WHERE "table" = 'line')$$),
	($$to_time => (SELECT min(committed_at) FROM bemi.changes WHERE "table" = 'line')$$, $$committed_at < (SELECT min(committed_at) FROM bemi.changes WHERE "table" = 'line')$$),
	($$from_time => '-infinity', to_time => 'infinity'$$, 'true'),
	($$from_time => '2020-01-01', to_time => '2020-01-01'$$, 'false');
CREATE FUNCTION ids(query text) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
	result uuid[];
BEGIN
	EXECUTE 'SELECT ARRAY(' || query || ')' INTO result;
	RETURN result;
END $$;
CREATE FUNCTION find_pages(call text, newest integer) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
	page uuid[];
	result uuid[] := '{}';
BEGIN
	LOOP
		page := ids(format('SELECT id FROM bemi.find_changes(%s newest => %s, before_id => %L)', nullif(call, '') || ', ', newest, result[cardinality(result)]));
		result := result || page;
		EXIT WHEN cardinality(page) < newest;
	END LOOP;
	RETURN result;
END $$;
CREATE FUNCTION wrong_answers() RETURNS TABLE (call text, newest integer) LANGUAGE sql AS $$
	SELECT a.call, p.size FROM asked a, unnest('{3, 500}'::int[]) p(size)
	WHERE find_pages(a.call, p.size) <> ids(format('SELECT id FROM bemi.changes WHERE %s ORDER BY id DESC', a.plain)) ORDER BY a.n
$$;
SELECT * FROM wrong_answers();
SELECT count(*) FROM bemi.find_changes(newest => NULL);
SELECT count(*) FROM bemi.find_changes();

-- The same rows in other months, a default partition, and partitions with holes between them.
-- An id says nothing about the time then, as if a clock had been set back.
SELECT count(_bemi.make_partition(m)) FROM unnest('{2024-01-15 UTC, 2024-02-15 UTC, 2024-05-15 UTC}'::timestamptz[]) m;
CREATE TABLE rest (LIKE bemi.changes INCLUDING ALL);
CREATE UNIQUE INDEX ON rest (id);
ALTER TABLE bemi.changes ATTACH PARTITION rest DEFAULT;
UPDATE bemi.changes c SET committed_at = m.t FROM (SELECT h.id, (ARRAY['infinity', '2024-05-31 23:59:59.999999 UTC', '2024-05-01 UTC', '2024-03-15 UTC', '2024-02-01 UTC', '2023-12-31 UTC',
		'-infinity']::timestamptz[])[row_number() OVER (ORDER BY h.id DESC)] AS t FROM bemi.history('item', '100', NULL) h WHERE h.operation <> 'TRUNCATE') m WHERE m.id = c.id;
SELECT count(DISTINCT tableoid) FROM bemi.changes;
SELECT committed_at, operation, primary_key FROM bemi.history('item', '100') WHERE operation <> 'TRUNCATE';
SELECT pages_agree('item', '100') AS wrong;
SELECT find_pages('', 4) = find_pages('', 1000) AND cardinality(find_pages('', 1000)) = (SELECT count(*) FROM bemi.changes) AS all_pages;
SELECT array_agg(committed_at) FROM bemi.find_changes(from_time => '2024-02-01 UTC', to_time => '2024-05-31 23:59:59.999999 UTC');
SELECT array_agg(committed_at) FROM bemi.find_changes(to_time => '2023-12-31 UTC');
SELECT count(*) AS not_found FROM bemi.changes c WHERE NOT EXISTS (SELECT FROM bemi.transaction(c.id) t WHERE t.id = c.id);

-- Several sources: by time
UPDATE bemi.changes SET source = 'other', committed_at = committed_at + interval '1 day' WHERE "table" = 'line';
INSERT INTO _bemi.source_progress (source, changes, transactions, invalid_messages) VALUES ('other', 3, 3, 0);
SELECT array_agg(DISTINCT source) FROM bemi.find_changes(newest => 3);
SELECT find_pages('', 1) = ids('SELECT id FROM bemi.changes ORDER BY committed_at DESC, id DESC') AS by_time;
SELECT count(*) FROM bemi.history('line', '["2026-01-02 10:00:00+00", "f", "b", "-Infinity"]');	-- its table is another one

-- keys that one statement shifts or swaps: two rows have one key until the end of the transaction
CREATE TABLE seat (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text, seen integer);
SELECT bemi.track('seat', ignore => '{see*}');
INSERT INTO seat VALUES (1, 'a'), (2, 'b'), (3, 'c');
UPDATE seat SET id = id + 1;
UPDATE seat SET id = CASE id WHEN 3 THEN 4 ELSE 3 END WHERE id > 2;	-- now c is 3, and b is 4
BEGIN;	-- a comes to the place of c, which is gone at the end
UPDATE seat SET id = 3 WHERE v = 'a';
UPDATE seat SET v = 'c again' WHERE v = 'c';
DELETE FROM seat WHERE v = 'c again';
COMMIT;
BEGIN;	-- the UPDATE of an ignored column is not stored
UPDATE seat SET v = 'A' WHERE id = 3;
UPDATE seat SET seen = 1 WHERE id = 3;
UPDATE seat SET v = 'a' WHERE id = 3;
COMMIT;
SELECT bemi.sync();
SELECT operation, primary_key, changed FROM bemi.history('seat', '3');
SELECT operation, primary_key, changed FROM bemi.history('seat', '4');
SELECT column_name, value, operation FROM bemi.blame('seat', '3');
SELECT pages_agree('seat', '3') AS wrong UNION SELECT pages_agree('seat', '4');
SELECT count(*) FROM bemi.history('seat', '4', newest => 3);
UPDATE seat SET seen = NULL WHERE id = 3;
UPDATE seat SET v = 'aa' WHERE id = 3;
SELECT bemi.sync();
SELECT column_name, value, operation FROM bemi.blame('seat', '3');
DROP TABLE seat;

-- Errors
CREATE TABLE untracked (id integer PRIMARY KEY);
CREATE TABLE keyless (id integer);
SELECT bemi.track('keyless');
SELECT * FROM bemi.history('nosuch', '1');
SELECT * FROM bemi.history(1::oid, '1');
SELECT * FROM bemi.history(NULL, '1');
SELECT * FROM bemi.history('item', NULL);
SELECT * FROM bemi.history('item', 'x');
SELECT * FROM bemi.history('item', '1', newest => 0);
SELECT * FROM bemi.history('untracked', '1');
SELECT * FROM bemi.history('keyless', '1');
SELECT * FROM bemi.history('line', '1');
SELECT * FROM bemi.history('line', '["1"]');
SELECT * FROM bemi.history('line', '{"at": "2026-01-02", "code": "b", "weight": 1}');
SELECT * FROM bemi.history('line', '{"at": "2026-01-02", "code": "b", "weight": 1, "on_sale": null}');
SELECT * FROM bemi.history('line', '{"at": "2026-01-02", "code": "b", "weight": 1, "on_sale": true, "n": 1}');
SELECT * FROM bemi.history('line', '{');
SELECT * FROM bemi.history('item', '1', before_id => '00000000-0000-8000-8000-000000000000');
INSERT INTO bemi.changes SELECT '00000000-0000-8000-8000-000000000001', database, schema, 'part', primary_key, operation, before, after, context, committed_at,
	queued_at, created_at, transaction_id, position, source FROM bemi.changes LIMIT 1;
SELECT * FROM bemi.history('item', '1', before_id => '00000000-0000-8000-8000-000000000001');
-- a change of another row of the table
DO $$ BEGIN
	PERFORM bemi.history('item', '3', before_id => (SELECT id FROM bemi.history('item', '100') WHERE operation <> 'TRUNCATE' LIMIT 1));
EXCEPTION WHEN invalid_parameter_value THEN
	RAISE NOTICE '%', regexp_replace(sqlerrm, '[0-9a-f-]{36}', '...');
END $$;
SELECT * FROM bemi.blame('untracked', '1');
SELECT * FROM bemi.blame('item', NULL);
SELECT * FROM bemi.transaction(NULL);
SELECT * FROM bemi.transaction('00000000-0000-8000-8000-000000000000');
SELECT * FROM bemi.find_changes('untracked');
SELECT * FROM bemi.find_changes(1::oid);
SELECT * FROM bemi.find_changes(operation => 'INSERT');
SELECT * FROM bemi.find_changes(context => '[1]');
SELECT * FROM bemi.find_changes(from_time => '2026-01-02 UTC', to_time => '2026-01-01 UTC');
SELECT * FROM bemi.find_changes(newest => -1);
SELECT * FROM bemi.find_changes(before_id => '00000000-0000-8000-8000-000000000000');

-- settings of the session
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SELECT count(*) FROM bemi.history('line', '["2026-01-02 10:00:00+00", "f", "b", "-Infinity"]');
SELECT count(*) FROM bemi.changes c, bemi.transaction(c.id) t WHERE c."table" = 'long';
RESET escape_string_warning;
RESET standard_conforming_strings;

-- Rights: what grant_read() gives is enough in a hardened database, row policies hold, and types of
-- others run no code
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_reader, regress_bemi_owner;
RESET client_min_messages;
CREATE ROLE regress_bemi_reader;
CREATE ROLE regress_bemi_owner;
CREATE SCHEMA trap AUTHORIZATION regress_bemi_owner;
SET ROLE regress_bemi_owner;
CREATE FUNCTION trap.check(text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'code of % runs as %', 'another role', current_user; END $$;
CREATE DOMAIN trap.key AS text;
CREATE TABLE trap.trap (id trap.key PRIMARY KEY);
RESET ROLE;
SELECT bemi.track('trap.trap');
INSERT INTO trap.trap VALUES ('a');
UPDATE trap.trap SET id = 'b';
ALTER DOMAIN trap.key ADD CHECK (trap.check(VALUE)) NOT VALID;
SELECT bemi.sync();
SELECT operation, primary_key FROM bemi.history('trap.trap', 'b');
REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM PUBLIC;
SET ROLE regress_bemi_reader;
SELECT * FROM bemi.transactions;
SELECT * FROM bemi.history('item', '100');
SELECT * FROM bemi.transaction('00000000-0000-8000-8000-000000000000');
SELECT * FROM bemi.find_changes();
RESET ROLE;
SELECT bemi.grant_read('regress_bemi_reader');
ALTER TABLE bemi.changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY read ON bemi.changes TO regress_bemi_reader USING ("table" <> 'part');
SET ROLE regress_bemi_reader;
SELECT count(*) FROM bemi.history('item', '100');
SELECT count(*) FROM bemi.history('line', '["2026-01-02 10:00:00+00", "f", "b", "-Infinity"]');
SELECT count(*) FROM bemi.history('part', '11');
SELECT count(*) FROM bemi.blame('item', '100');
SELECT count(*) FROM bemi.find_changes('item');
SELECT count(*) FROM bemi.find_changes('part');
SELECT count(*) > 0 AS sees, count(*) FILTER (WHERE tables && '{public.part}') AS hidden FROM bemi.transactions;
SELECT count(*) FROM bemi.transactions t, bemi.transaction(t.change_id) WHERE t.source = 'other';
SELECT bemi.diff('{}', '{}');
RESET ROLE;
SELECT bemi.revoke_read('regress_bemi_reader');
SELECT p.oid::regprocedure FROM pg_proc p WHERE pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND has_function_privilege('regress_bemi_reader', p.oid, 'EXECUTE');
SELECT has_table_privilege('regress_bemi_reader', 'bemi.transactions', 'SELECT');

SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
-- Another primary key, of which the history does not know yet.
CREATE TABLE rekeyed (id integer PRIMARY KEY, code integer NOT NULL);
SELECT bemi.track('rekeyed');
INSERT INTO rekeyed VALUES (1, 2);
SELECT bemi.sync();
SELECT operation, after FROM bemi.history('rekeyed', '1');
BEGIN;
ALTER TABLE rekeyed DROP CONSTRAINT rekeyed_pkey, ADD PRIMARY KEY (code);
SELECT operation, after FROM bemi.history('rekeyed', '1');
ROLLBACK;
SELECT operation, after FROM bemi.history('rekeyed', '1');
-- The history can be read without its source.
CALL bemi.drop_source('main');
SELECT count(*) FROM bemi.history('item', '100');
SELECT count(*) FROM bemi.find_changes('item');
DROP EXTENSION bemi CASCADE;
DROP ROLE regress_bemi_reader, regress_bemi_owner;
DROP TABLE item, line, odd, long, scale, part, narrow, person, asked, untracked, keyless, rekeyed;
DROP DOMAIN code;
DROP TYPE mood;
DROP FUNCTION pages, pages_agree, ids, find_pages, wrong_answers;
