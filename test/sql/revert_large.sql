--
-- bemi.revert() of more rows than one statement writes.
--
-- Most rows of such a set are changed once, and are never sorted. Others are changed several times,
-- or by others, or have no place in the order of the changes. So this mixes all of them, and the
-- result must be that of a table which never had these changes. The hash of the plan must be the
-- same for both functions, because they do not make it of the same rows.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
SET client_min_messages = warning;
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN tags AS text[] CHECK (cardinality(value) < 4);
CREATE TABLE many (id integer PRIMARY KEY, v text, n numeric(8, 2), j jsonb, p pair, t tags, b boolean, c "char");
CREATE TABLE other (id integer PRIMARY KEY, many integer, v text);
CREATE TABLE keyless (a integer, b text);
SELECT bemi.track('many'), bemi.track('other'), bemi.track('keyless');
INSERT INTO many SELECT i, 'v' || i, i / 4.0, jsonb_build_object('i', i, 'l', jsonb_build_array(i, NULL)), ROW(i, 'b' || i)::pair,
	ARRAY['a' || i, NULL, 'b c'], i % 2 = 0, 'x' FROM generate_series(1, 4500) i;
INSERT INTO other SELECT i, i, 'o' || i FROM generate_series(1, 2300) i;
INSERT INTO keyless SELECT i, 'k' || i FROM generate_series(1, 1200) i;
CREATE TABLE many_before AS TABLE many;
CREATE TABLE other_before AS TABLE other;
CREATE TABLE keyless_before AS TABLE keyless;
CREATE FUNCTION differences() RETURNS TABLE (name text, rows bigint) LANGUAGE sql AS $$
	SELECT 'many', count(*) FROM ((TABLE many EXCEPT TABLE many_before) UNION ALL (TABLE many_before EXCEPT TABLE many)) d
	UNION ALL SELECT 'other', count(*) FROM ((TABLE other EXCEPT TABLE other_before) UNION ALL (TABLE other_before EXCEPT TABLE other)) d
	UNION ALL SELECT 'keyless', count(*) FROM ((TABLE keyless EXCEPT TABLE keyless_before) UNION ALL (TABLE keyless_before EXCEPT TABLE keyless)) d
$$;

-- Only changes that are alone: nothing is sorted.
SET bemi.context = '{"by": "once"}';
UPDATE many SET v = 'x', n = -n, j = '[]', p = ROW(0, NULL)::pair, t = '{}', b = NULL, c = 'y';
RESET bemi.context;
SELECT max(plan_hash) AS hash, count(DISTINCT plan_hash), count(*) FROM bemi.plan_revert(context => '{"by": "once"}') \gset
SELECT :count AS steps;
SELECT steps, skipped, plan_hash = :'hash' AS same_hash FROM bemi.revert(context => '{"by": "once"}', expect => :'hash');
SELECT * FROM differences() ORDER BY name;

-- Everything at once, in three transactions. Other rows lie in the way of none of it.
SET bemi.context = '{"by": "mixed"}';
BEGIN;
UPDATE many SET v = v || '!' WHERE id % 3 <> 0;
UPDATE many SET n = n + 1, v = v || '?' WHERE id % 5 = 0;
DELETE FROM many WHERE id > 3300;
INSERT INTO many (id, v) SELECT i, 'new' FROM generate_series(10001, 11200) i;
COMMIT;
BEGIN;
UPDATE other SET v = v || '!';
DELETE FROM other WHERE id % 7 = 0;
UPDATE keyless SET b = b || '!' WHERE a % 2 = 0;
COMMIT;
INSERT INTO many (id, v) SELECT i, 'again' FROM generate_series(4000, 4100) i;
RESET bemi.context;
-- By others: another column, and a row that is in no change of the set
UPDATE many SET j = j || '{"others": true}' WHERE id IN (1, 2000, 3000);
UPDATE many_before SET j = j || '{"others": true}' WHERE id IN (1, 2000, 3000);
UPDATE other SET many = 0 WHERE id = 1;
UPDATE other_before SET many = 0 WHERE id = 1;
SELECT max(plan_hash) AS hash, count(*) FROM bemi.plan_revert(context => '{"by": "mixed"}') \gset
SELECT verdict, count(*) FROM bemi.plan_revert(context => '{"by": "mixed"}') GROUP BY 1;
-- By their ids, in another order
SELECT max(p.plan_hash) = :'hash' AS same_hash FROM bemi.plan_revert(
	changes => (SELECT array_agg(c.id ORDER BY md5(c.id::text)) FROM bemi.changes c WHERE c.context @> '{"by": "mixed"}')) p;
SET bemi.context = '{"by": "support"}';
SELECT steps = :count AS all_steps, skipped, plan_hash = :'hash' AS same_hash FROM bemi.revert(context => '{"by": "mixed"}', expect => :'hash');
SELECT * FROM differences() ORDER BY name;
SELECT bemi.sync('60s');
SELECT cardinality(reverted_by) FROM bemi.transactions WHERE contexts @> '{"{\"by\": \"mixed\"}"}' ORDER BY change_id;
-- The revert is taken back, and that, too.
SET bemi.context = '{"by": "redo"}';
SELECT steps = :count AS all_steps FROM bemi.revert(context => '{"by": "support"}');
SET bemi.context = '{"by": "undo"}';
SELECT steps = :count AS all_steps FROM bemi.revert(context => '{"by": "redo"}');
RESET bemi.context;
SELECT * FROM differences() ORDER BY name;

-- A key that changes in the midst of changes that are alone
SET bemi.context = '{"by": "key"}';
UPDATE many SET b = NOT b WHERE id <= 2500;
UPDATE many SET id = id + 20000 WHERE id IN (7, 1007);
RESET bemi.context;
SELECT steps FROM bemi.revert(context => '{"by": "key"}');
SELECT * FROM differences() ORDER BY name;

-- Little memory, so that the changes and the steps are read from disk: the plan is the same.
SET bemi.context = '{"by": "disk"}';
UPDATE many SET b = NOT b;
DELETE FROM many WHERE id = 17;
RESET bemi.context;
SELECT max(plan_hash) AS hash FROM bemi.plan_revert(context => '{"by": "disk"}') \gset
SET work_mem = '64kB';
SET maintenance_work_mem = '1MB';
SELECT steps, plan_hash = :'hash' AS same_hash FROM bemi.revert(context => '{"by": "disk"}', expect => :'hash');
SELECT * FROM differences() ORDER BY name;
RESET work_mem;
RESET maintenance_work_mem;

-- Partitions of the history from before the set are not read, but for one look-up by id in each: what is the first
-- change of the transaction? There are four for each of the twelve partitions: one for each plan, and two in mode cascade.
SELECT count(_bemi.make_partition(m)) FROM generate_series('2024-01-15 UTC'::timestamptz, '2024-12-15 UTC', interval '1 month') m;
CREATE TABLE late (id integer PRIMARY KEY, v integer UNIQUE);
SELECT bemi.track('late');
INSERT INTO late VALUES (1, 1);
SET bemi.context = '{"by": "late"}';
UPDATE late SET v = 2;
-- The counts of a session are those since they were last reported.
\c -
SET client_min_messages = warning;
BEGIN;
SELECT count(*) FROM bemi.plan_revert(context => '{"by": "late"}', from_time => now() - interval '1 hour', mode => 'cascade');
SELECT count(*) FROM bemi.plan_revert(context => '{"by": "late"}', from_time => now() - interval '1 hour');
SELECT steps FROM bemi.revert(context => '{"by": "late"}', from_time => now() - interval '1 hour');
SELECT sum(seq_scan + coalesce(idx_scan, 0)) FILTER (WHERE i.inhrelid::regclass::text ~ '2024') ::integer / 12 AS old, sum(seq_scan + coalesce(idx_scan, 0)) > 0 AS now
	FROM pg_inherits i JOIN pg_stat_xact_all_tables t ON t.relid = i.inhrelid WHERE i.inhparent = 'bemi.changes'::regclass;
ROLLBACK;
DROP TABLE late;

CALL bemi.stop();
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
DROP TABLE many, other, keyless, many_before, other_before, keyless_before;
DROP TYPE pair;
DROP DOMAIN tags;
DROP FUNCTION differences;
