--
-- bemi.revert() of many rows of a table, which it then reads completely.
--
-- bemi.plan_revert() always finds rows by a join, so both must come to the same plan: with all types
-- whose texts are compared, with values that the history does not know, and with rows that are gone.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
SET client_min_messages = warning;
CREATE TABLE kinds (id bigint PRIMARY KEY, t text, v varchar(20), n numeric, i integer, s smallint, b boolean, u uuid, f float8);
CREATE TABLE by_text (name text PRIMARY KEY, n integer);
CREATE TABLE by_number (key numeric PRIMARY KEY, n integer);
CREATE TABLE by_uuid (key uuid PRIMARY KEY, n integer);
CREATE TABLE unknown_size (id integer PRIMARY KEY, n integer);
SELECT bemi.track(t) FROM unnest('{kinds,by_text,by_number,by_uuid,unknown_size}'::regclass[]) t;
INSERT INTO kinds SELECT i, 't' || i, 'v' || i, i / 4.0, i, i, i % 2 = 0, md5(i::text)::uuid, i / 3.0 FROM generate_series(1, 1200) i;
INSERT INTO by_text SELECT 'Key "' || i || '\', i FROM generate_series(1, 300) i;
INSERT INTO by_number SELECT i / 2.0, i FROM generate_series(1, 300) i;
INSERT INTO by_uuid SELECT md5(i::text)::uuid, i FROM generate_series(1, 300) i;
INSERT INTO unknown_size SELECT i, i FROM generate_series(1, 300) i;
ANALYZE kinds, by_text, by_number, by_uuid;
CREATE FUNCTION state() RETURNS text LANGUAGE sql AS $$
	SELECT md5(string_agg(r, E'\n' ORDER BY r COLLATE "C")) FROM (
		SELECT t::text FROM kinds t UNION ALL SELECT t::text FROM by_text t UNION ALL SELECT t::text FROM by_number t
		UNION ALL SELECT t::text FROM by_uuid t UNION ALL SELECT t::text FROM unknown_size t) s(r)
$$;
-- The verdicts of both, and whether the plans are the same.
CREATE FUNCTION compare_plans(by text, mode text DEFAULT 'refuse') RETURNS TABLE (verdicts text, steps bigint, same_hash boolean) LANGUAGE plpgsql AS $$
DECLARE
	plan record;
BEGIN
	SELECT max(p.plan_hash) AS hash, count(*) FILTER (WHERE p.verdict = 'ok') || ' ok, ' || count(*) FILTER (WHERE p.verdict = 'skip') || ' skip' AS verdicts
		INTO plan FROM bemi.plan_revert(context => jsonb_build_object('by', by), mode => compare_plans.mode) p;
	RETURN QUERY SELECT plan.verdicts, r.steps, r.plan_hash = plan.hash FROM bemi.revert(context => jsonb_build_object('by', by), mode => compare_plans.mode) r;
END $$;
SELECT state() AS before \gset

-- All types
SET bemi.context = '{"by": "kinds"}';
UPDATE kinds SET t = CASE id % 4 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'true' ELSE '1' END, v = nullif(v, 'v7'), n = CASE id % 3 WHEN 0 THEN 'NaN' WHEN 1 THEN n * 1.000 ELSE n + 1e20 END,
	i = -i, s = NULL, b = NOT b, u = CASE WHEN id % 5 = 0 THEN NULL ELSE gen_random_uuid() END;
RESET bemi.context;
SELECT * FROM compare_plans('kinds');
SELECT state() = :'before' AS restored;

-- A type whose text is not compared
SET bemi.context = '{"by": "float"}';
UPDATE kinds SET f = f * 1e30, i = i + 1;
RESET bemi.context;
SELECT * FROM compare_plans('float');
SELECT state() = :'before' AS restored;

-- Keys of other types, several tables, and rows that are changed twice
SET bemi.context = '{"by": "keys"}';
BEGIN;
UPDATE by_text SET n = n + 1;
UPDATE by_number SET n = n + 1 WHERE n > 100;
UPDATE by_uuid SET n = n + 1;
UPDATE unknown_size SET n = n + 1;
UPDATE by_uuid SET n = n + 1 WHERE n % 3 = 0;
COMMIT;
RESET bemi.context;
SELECT * FROM compare_plans('keys');
SELECT state() = :'before' AS restored;

-- What the history does not know: values, the scale of a number, a key that is written in another
-- way, a row that is gone and one that has another key.
SET bemi.context = '{"by": "unknown"}';
BEGIN;
UPDATE kinds SET n = n + 1, t = t || '!';
UPDATE by_number SET n = n + 1;
UPDATE by_text SET n = n + 1;
COMMIT;
RESET bemi.context;
SELECT bemi.sync('60s');
BEGIN;
UPDATE kinds SET t = 'other' WHERE id = 3;
UPDATE kinds SET n = n::numeric(20, 9) WHERE id = 4;
UPDATE kinds SET n = n WHERE id = 5;
UPDATE kinds SET t = NULL WHERE id = 6;
DELETE FROM kinds WHERE id = 7;
UPDATE by_number SET key = 2.000 WHERE key = 2;
UPDATE by_text SET name = lower(name) WHERE n = 20;
SELECT bemi.revert(context => '{"by": "unknown"}');
ROLLBACK;
BEGIN;
UPDATE kinds SET t = 'other' WHERE id = 3;
UPDATE kinds SET n = n::numeric(20, 9) WHERE id = 4;
UPDATE kinds SET n = n WHERE id = 5;
UPDATE kinds SET t = NULL WHERE id = 6;
DELETE FROM kinds WHERE id = 7;
UPDATE by_number SET key = 2.000 WHERE key = 2;
UPDATE by_text SET name = lower(name) WHERE n = 20;
SELECT * FROM compare_plans('unknown', 'skip');
SELECT id, t, n FROM kinds WHERE id BETWEEN 3 AND 8 ORDER BY id;
ROLLBACK;
SELECT * FROM compare_plans('unknown');
SELECT state() = :'before' AS restored;

-- A column that has another type now
SET bemi.context = '{"by": "type"}';
UPDATE kinds SET i = i + 1;
RESET bemi.context;
ALTER TABLE kinds ALTER COLUMN i TYPE text;
SELECT * FROM compare_plans('type', 'skip');
ALTER TABLE kinds ALTER COLUMN i TYPE integer USING i::integer;
SELECT * FROM compare_plans('type');
SELECT state() = :'before' AS restored;

-- Changes of others in the midst of a transaction of the set, and none
BEGIN;
SET bemi.context = '{"by": "parts", "part": 1}';
UPDATE kinds SET i = i + 1 WHERE id <= 100;
SET bemi.context = '{"by": "between"}';
UPDATE kinds SET i = i + 1 WHERE id = 50;
UPDATE kinds SET s = s + 1 WHERE id = 51;
SET bemi.context = '{"by": "parts", "part": 2}';
UPDATE kinds SET i = i + 1 WHERE id > 100;
COMMIT;
RESET bemi.context;
BEGIN;
SELECT * FROM compare_plans('parts', 'skip');
ROLLBACK;
SELECT * FROM compare_plans('between');
SELECT * FROM compare_plans('parts');
SELECT state() = :'before' AS restored;

-- The texts do not fit into memory.
SET bemi.context = '{"by": "memory"}';
UPDATE kinds SET t = repeat(t, 500);
RESET bemi.context;
SET work_mem = '64kB';
SET maintenance_work_mem = '1MB';
SELECT * FROM compare_plans('memory');
SELECT state() = :'before' AS restored;
RESET work_mem;
RESET maintenance_work_mem;

CALL bemi.stop();
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
DROP TABLE kinds, by_text, by_number, by_uuid, unknown_size;
DROP FUNCTION state, compare_plans;
