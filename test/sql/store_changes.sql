--
-- What is stored: the rows of bemi.changes, which the worker reads from the WAL of this database
-- (src/stream/replication.c to src/store/writer.c).
--
-- bemi.sync() waits for the worker, so everything written before it can be read. Values are
-- compared row by row with to_jsonb(row), not with a list made by hand. Only differences are
-- printed.
--
CREATE EXTENSION bemi;
CALL bemi.start();
-- The worker's setting; pg_regress sets another one.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';

-- The story of one row.
CREATE TABLE todo (id integer PRIMARY KEY, task text, done boolean DEFAULT false);
SELECT bemi.track('todo');
SET bemi.context = '{"user": "ann"}';
INSERT INTO todo VALUES (1, 'eat');
UPDATE todo SET done = true WHERE id = 1 /*Bemi {"user": "bob"} Bemi*/;
RESET bemi.context;
DELETE FROM todo WHERE id = 1;
TRUNCATE todo;
SELECT bemi.sync();
\x on
SELECT database = current_database() AS database_ok, schema, "table", primary_key, operation, before, after, context
	FROM bemi.changes ORDER BY id;
\x off

-- Primary keys: of several columns, in the order of the key; none; changed; renamed.
CREATE TABLE several (a integer, b text, c date, PRIMARY KEY (c, b));
CREATE TABLE keyless (a integer UNIQUE);
CREATE TABLE "Two ""words" ("The key" text PRIMARY KEY);
SELECT bemi.track('several'), bemi.track('keyless'), bemi.track('"Two ""words"');
INSERT INTO several VALUES (1, 'say "b"', '2024-02-29');
UPDATE several SET a = 2, b = 'b';
INSERT INTO keyless VALUES (1);
DELETE FROM keyless;
INSERT INTO "Two ""words" VALUES ('é');
-- The key is that of the time of the change, however late the worker is.
ALTER TABLE several DROP CONSTRAINT several_pkey, ADD PRIMARY KEY (a);
ALTER TABLE several RENAME TO fewer;
DELETE FROM fewer;
SELECT bemi.sync();
SELECT "table", operation, primary_key, before, after FROM bemi.changes
	WHERE "table" <> 'todo' ORDER BY id;

-- Columns and tables that change between the changes.
CREATE TABLE shape (id integer PRIMARY KEY, gone text);
SELECT bemi.track('shape');
BEGIN;
INSERT INTO shape VALUES (1, 'x');
ALTER TABLE shape DROP COLUMN gone;
ALTER TABLE shape ADD COLUMN come integer DEFAULT 5;
UPDATE shape SET come = 6;
ALTER TABLE shape RENAME COLUMN come TO stay;
UPDATE shape SET stay = 7;
COMMIT;
SELECT bemi.sync();
SELECT operation, before, after FROM bemi.changes WHERE "table" = 'shape' ORDER BY id;

-- A value out of line that an UPDATE leaves alone is not in the WAL of the new
-- row; the history has it nevertheless.
CREATE TABLE toasted (id integer PRIMARY KEY, n integer, big text, bigger text);
ALTER TABLE toasted ALTER big SET STORAGE EXTERNAL, ALTER bigger SET STORAGE EXTERNAL;
SELECT bemi.track('toasted');
INSERT INTO toasted VALUES (1, 1, repeat('big', 3000), repeat('bigger', 5000));
UPDATE toasted SET n = 2;
UPDATE toasted SET big = 'small';
DELETE FROM toasted;
SELECT bemi.sync();
SELECT operation,
	before->>'n' AS n, length(before->>'big') AS big, md5(before->>'bigger') = md5(repeat('bigger', 5000)) AS bigger,
	after->>'n' AS n, length(after->>'big') AS big, md5(after->>'bigger') = md5(repeat('bigger', 5000)) AS bigger
	FROM bemi.changes WHERE "table" = 'toasted' ORDER BY id;

-- The replica identity decides what "before" contains, if it was changed.
CREATE TABLE narrow (id integer PRIMARY KEY, task text);
SELECT bemi.track('narrow');
ALTER TABLE narrow REPLICA IDENTITY DEFAULT;
INSERT INTO narrow VALUES (1, 'eat');
UPDATE narrow SET task = 'drink';
UPDATE narrow SET id = 2;
DELETE FROM narrow;
SELECT bemi.sync();
SELECT operation, primary_key, before, after FROM bemi.changes WHERE "table" = 'narrow' ORDER BY id;

-- Partitions are stored under their root, one TRUNCATE for each table named.
CREATE TABLE part (id integer PRIMARY KEY, task text) PARTITION BY RANGE (id);
CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part2 (task text, id integer NOT NULL);
ALTER TABLE part ATTACH PARTITION part2 FOR VALUES FROM (10) TO (20);
SELECT bemi.track('part');
SET bemi.context = '{"n": 1}';
INSERT INTO part VALUES (1, 'one'), (11, 'eleven');
UPDATE part SET id = 12 WHERE id = 1;
DELETE FROM part2 WHERE id = 11;
TRUNCATE part, todo;
RESET bemi.context;
SELECT bemi.sync();
SELECT "table", operation, primary_key, before, after, context FROM bemi.changes
	WHERE context = '{"n": 1}' ORDER BY id, "table";

-- Values equal to_jsonb(row), for each type and each of its oddities.
CREATE TYPE mood AS ENUM ('glad', 'so so', '"quoted"');
CREATE TABLE numbers (id serial PRIMARY KEY, s smallint, i integer, b bigint, r real, d double precision,
	n numeric, n2 numeric(20, 4), o boolean, a1 integer[], a2 numeric[], a3 double precision[], a4 boolean[]);
INSERT INTO numbers (s, i, b, r, d, n, n2, o, a1, a2, a3, a4) VALUES
	(0, 0, 0, 0, 0, 0, 0, true, '{}', '{}', '{}', '{}'),
	(-32768, -2147483648, -9223372036854775808, '-1e-37', '-1e-300', '-1e-300', -0.5, false,
		'{1,NULL,-3}', '{1.50,NULL,NaN}', '{1e40,NULL,-0}', '{t,NULL,f}'),
	(32767, 2147483647, 9223372036854775807, '1e37', '1e300', '1e300', 1.5, NULL,
		'{{1,2},{3,NULL}}', '{{1.0},{2.00}}', '{{Infinity,-Infinity}}', '{{t},{f}}'),
	(1, 1, 999999999999999999, 'NaN', 'NaN', 'NaN', 'NaN', NULL, '[5:6]={7,8}', NULL, '{NaN}', NULL),
	(1, 1, 1000000000000000000, 'Infinity', 'Infinity', 'Infinity', 0, NULL, NULL, '{Infinity,-Infinity}', NULL, NULL),
	(1, 1, -999999999999999999, '-Infinity', '-Infinity', '-Infinity', 0.0001, NULL, NULL, NULL, NULL, NULL),
	(1, 1, 1, '-0', '-0', 1.10, 100, NULL, NULL, NULL, NULL, NULL),
	(1, 1, 1, 0.1, 0.1, 1e40, 1234567890123456.7890, NULL, NULL, NULL, NULL, NULL),
	(1, 1, 1, 16777217, 9007199254740993, 123456789012345678901234567890.000, 0, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE texts (id serial PRIMARY KEY, t text, v varchar(20), c char(5), n name, u uuid, b bytea, q "char",
	e mood, a1 text[], a2 varchar[], a3 uuid[], a4 bytea[], a5 char(5)[]);
INSERT INTO texts (t, v, c, n, u, b, q, e, a1, a2, a3, a4, a5) VALUES
	('', '', '', '', '00000000-0000-0000-0000-000000000000', '', 'x', 'glad', '{}', '{}', '{}', '{}', '{}'),
	(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
	(E'line\n\ttab \x01 "quote" \\ / {} [] null', 'true', 'ab', 'n', 'ffffffff-ffff-ffff-ffff-ffffffffffff',
		'\x00ff', '"', '"quoted"', ARRAY['NULL', NULL, '', ' ', '"', '\', '{}', ','], '{{a,b},{c,NULL}}',
		'{ffffffff-ffff-ffff-ffff-ffffffffffff}', '{"\\x00",NULL}', '{a,NULL}'),
	('Zoë, 日本語, 🐘', 'ë', 'ë', 'ë', NULL, 'text', NULL, 'so so', '{🐘,日}', '[0:1]={a,b}', NULL, NULL, NULL);
CREATE TABLE times (id serial PRIMARY KEY, d date, t time, tz timetz, ts timestamp, tstz timestamptz,
	ts0 timestamp(0), i interval, a1 date[], a2 timestamp[], a3 timestamptz[], a4 interval[], a5 time[]);
INSERT INTO times (d, t, tz, ts, tstz, ts0, i, a1, a2, a3, a4, a5) VALUES
	('2024-02-29', '12:34:56.789', '12:34:56.789+05:30', '2024-02-29 12:34:56.789', '2024-02-29 12:34:56.789+05:30',
		'2024-02-29 12:34:56.789', '1 year -2 days 03:04:05.6', '{2024-02-29,NULL}', '{2024-02-29 12:00,NULL}',
		'{2024-02-29 12:00+02,NULL}', '{1 day,NULL}', '{24:00,NULL}'),
	('infinity', '00:00', '00:00-12', 'infinity', 'infinity', '-infinity', '0', '{infinity,-infinity}',
		'{infinity,-infinity}', '{infinity,-infinity}', '{}', '{}'),
	('-infinity', '24:00', '24:00+00', '-infinity', '-infinity', NULL, '-178000000 years', NULL, NULL, NULL, NULL, NULL),
	('0044-03-15 BC', '23:59:59.999999', NULL, '0044-03-15 10:00 BC', '0044-03-15 10:00:00.5+00 BC', '0044-03-15 10:00 BC',
		'-00:00:00.000001', '{0044-03-15 BC}', '{0044-03-15 10:00 BC}', '{0044-03-15 10:00+00 BC}', NULL, NULL),
	('10000-01-01', NULL, NULL, '10000-01-01 00:00:00.000001', '294276-12-31 23:59:59.999999+00', NULL, NULL,
		'{12345-01-01}', '{12345-01-01 01:02:03}', '{12345-01-01 01:02:03+00}', NULL, NULL),
	('4713-11-24 BC', NULL, NULL, '4713-11-24 BC', '4713-11-24 00:00+00 BC', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
CREATE TABLE jsons (id serial PRIMARY KEY, j json, b jsonb, a1 json[], a2 jsonb[]);
INSERT INTO jsons (j, b, a1, a2) VALUES
	('{"a": 1, "a": 2, "b": {"c": [1, 2.50, null]}}', '{"b": {"c": [1, 2.50, null]}, "a": true}',
		ARRAY['{"a": 1, "a": 2}', NULL, '1']::json[], ARRAY['{"a": 1}', NULL, 'null']::jsonb[]),
	('1', '"text"', '{}', '{}'), ('null', 'null', NULL, NULL), (NULL, NULL, NULL, NULL), ('""', '{}', NULL, NULL),
	(' [ 1 , "two" ] ', '[1, "two", []]', ARRAY[ARRAY['[]'], ARRAY['{}']]::json[], ARRAY[ARRAY['[]'], ARRAY['{}']]::jsonb[]);
CREATE TABLE others (id serial PRIMARY KEY, inet inet, cidr cidr, mac macaddr, point point, box box, path path,
	money money, bit bit(3), varbit varbit, r1 int4range, r2 tstzrange, r3 int4multirange, ts tsvector, tq tsquery,
	oid oid, lsn pg_lsn, tid tid, a1 inet[], a2 point[], a3 int4range[], a4 box[], v int2vector, o oidvector);
INSERT INTO others (inet, cidr, mac, point, box, path, money, bit, varbit, r1, r2, r3, ts, tq, oid, lsn, tid,
		a1, a2, a3, a4, v, o) VALUES
	('10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03', '(1,2.5)', '((0,0),(1,1))', '[(0,0),(1,1)]', 1234.5, '101', '1',
		'[1,5)', '[2024-02-29 12:00+02,)', '{[1,2],[5,6]}', 'a:1 fat:2', 'fat & cat', 4294967295, '16/B374D848', '(0,1)',
		'{10.0.0.1,NULL}', '{"(1,2)",NULL}', '{empty,"[1,2)"}', '{(1,1),(0,0);(3,3),(2,2)}', '1 2 3', '1 2');
SELECT count(bemi.track(t)) FROM unnest('{numbers, texts, times, jsons, others}'::regclass[]) t;
-- What the table holds becomes "after" once each row is touched.
UPDATE numbers SET id = id;
UPDATE texts SET id = id;
UPDATE times SET id = id;
UPDATE jsons SET id = id;
UPDATE others SET id = id;
SELECT bemi.sync();

CREATE FUNCTION not_as_to_jsonb(target regclass) RETURNS TABLE (id text, key text, kept jsonb, wanted jsonb)
LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE format($q$
		SELECT whole.id::text, w.key, c.after->w.key, w.value
		FROM %1$s AS whole
			LEFT JOIN bemi.changes c ON c."table" = %1$L AND c.primary_key = whole.id::text AND c.operation = 'UPDATE'
			CROSS JOIN LATERAL jsonb_each(to_jsonb(whole)) w
		WHERE c.after IS DISTINCT FROM to_jsonb(whole) AND c.after->w.key IS DISTINCT FROM w.value
			OR c.before IS DISTINCT FROM c.after
		ORDER BY whole.id, w.key $q$, target);
END $$;
SELECT * FROM unnest('{numbers, texts, times, jsons, others}'::regclass[]) AS "table", not_as_to_jsonb("table");
SELECT "table", count(*) FROM bemi.changes
	WHERE "table" IN ('numbers', 'texts', 'times', 'jsons', 'others') GROUP BY 1 ORDER BY 1;
-- Values that are equal as jsonb can differ as text: trailing zeros stay.
SELECT after->>'n' AS n, after->>'n2' AS n2 FROM bemi.changes
	WHERE "table" = 'numbers' ORDER BY id LIMIT 3 OFFSET 6;

-- Types that are not built in.
CREATE TYPE pair AS (a integer, b text);
CREATE TABLE own (id integer PRIMARY KEY, m mood, ms mood[], p pair, ps pair[]);
SELECT bemi.track('own');
INSERT INTO own VALUES (1, 'so so', '{glad,"so so"}', (1, 'say "b"'), ARRAY[(1, 'b')::pair, NULL]), (2, NULL, NULL, NULL, NULL);
SELECT bemi.sync();
SELECT after FROM bemi.changes WHERE "table" = 'own' ORDER BY id;

-- What jsonb cannot hold is kept as its text, and the rest of the row as it is.
CREATE TABLE stubborn (id integer PRIMARY KEY, j json, a json[], n numeric);
SELECT bemi.track('stubborn');
INSERT INTO stubborn VALUES (1, '{"text": "\u0000"}', ARRAY['"\u0000"', '1']::json[], 1.0),
	(2, '{"text": "fine"}', ARRAY['1']::json[], 2.0);
SELECT bemi.sync();
SELECT primary_key, after FROM bemi.changes WHERE "table" = 'stubborn' ORDER BY id;

-- Each change: its id is unique, a UUID of version 8, and in commit order; its
-- times come one after the other; it is in the partition of its month.
SELECT count(*) = count(DISTINCT id) AS unique_ids,
	bool_and(substr(id::text, 15, 1) = '8') AS version_8,
	bool_and(substr(id::text, 20, 1) IN ('8', '9', 'a', 'b')) AS variant,
	bool_and(committed_at <= queued_at AND queued_at <= created_at) AS times_in_order,
	bool_and(c.tableoid = to_regclass('_bemi.changes_' || to_char(committed_at, 'YYYY_MM'))) AS right_partition,
	bool_and(position > 0 AND transaction_id > 0) AS numbered
	FROM bemi.changes c;
SELECT bool_and(committed_at >= previous) AS in_commit_order
	FROM (SELECT committed_at, lag(committed_at) OVER (ORDER BY id) AS previous FROM bemi.changes) c
	WHERE previous IS NOT NULL;

-- Every user can write any message with bemi's prefix: it is counted, and costs no
-- change but its context.
SELECT state, invalid_messages, restarts, last_error FROM bemi.status;
CREATE ROLE regress_bemi_bare;
GRANT INSERT ON todo TO regress_bemi_bare;
-- The message, then a row without a context, in one transaction.
CREATE FUNCTION say(n integer, message bytea) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_logical_emit_message(true, '_bemi', message);
	INSERT INTO todo VALUES (n, 'said');
END $$;
SET ROLE regress_bemi_bare;
SELECT say(1, '{"n": 1}');
SELECT say(2, 'no JSON');
SELECT say(3, '[{"n": 1}]');
SELECT say(4, '{"n": "\\u0000"}');
SELECT say(5, '\xff00fe');
SELECT say(6, '');
SELECT say(7, '{"n": 1}\000');
SELECT say(8, convert_to(repeat('[', 100000), 'UTF8'));
SELECT say(9, convert_to('{"a":' || repeat('[', 100000), 'UTF8'));
-- After a valid one: not inherited.
BEGIN;
SELECT say(10, '{"n": 1}');
SELECT say(11, 'no JSON');
COMMIT;
-- Not transactional: counted, and the context of no row.
SELECT pg_logical_emit_message(false, '_bemi', '{"n": 1}') IS NOT NULL AS sent;
SELECT say(12, '{"n": 1}');
BEGIN;
SELECT say(13, '{"n": 1}');
SELECT pg_logical_emit_message(false, '_bemi', '{"n": 2}') IS NOT NULL AS sent;
INSERT INTO todo VALUES (14, 'still 1');
COMMIT;
-- Another prefix is none of our business.
SELECT pg_logical_emit_message(true, '_bemi_other', 'no JSON') IS NOT NULL AS sent;
SELECT pg_logical_emit_message(false, '_bemi_sync', 'no marker') IS NOT NULL AS sent;
RESET ROLE;
SELECT bemi.sync();
SELECT primary_key, context FROM bemi.changes WHERE after->>'task' IN ('said', 'still 1') ORDER BY id;
SELECT state, invalid_messages, restarts, last_error FROM bemi.status;

-- Users' own things on the history: a trigger fires, and a column of theirs stands
-- in nobody's way, nor does one that is gone.
CREATE TABLE seen (operation text, task text);
CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen VALUES (NEW.operation, NEW.after->>'task');
	RETURN NEW;
END $$;
CREATE TRIGGER see AFTER INSERT ON bemi.changes FOR EACH ROW WHEN (NEW."table" = 'todo') EXECUTE FUNCTION see();
ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER see;
ALTER TABLE bemi.changes ADD COLUMN reviewed boolean;
INSERT INTO todo VALUES (20, 'with trigger'), (21, 'with trigger');
SELECT bemi.sync();
SELECT * FROM seen;
DROP TRIGGER see ON bemi.changes;
ALTER TABLE bemi.changes DROP COLUMN reviewed;
INSERT INTO todo VALUES (22, 'with neither');
SELECT bemi.sync();
SELECT primary_key, after FROM bemi.changes WHERE "table" = 'todo' AND primary_key IN ('20', '21', '22') ORDER BY id;
SELECT count(*) FROM seen;

-- sync(): a timeout that is long enough, and one that makes no sense.
SELECT bemi.sync('1 hour');
SELECT bemi.sync('-1 second');

CALL bemi.drop_source('main');
SELECT bemi.sync();

DROP TABLE todo, fewer, keyless, "Two ""words", shape, toasted, narrow, part, numbers, texts, times, jsons,
	others, own, stubborn, seen;
DROP FUNCTION say, see, not_as_to_jsonb;
DROP TYPE mood, pair;
DROP ROLE regress_bemi_bare;
DROP PUBLICATION bemi;
\set VERBOSITY terse
DROP EXTENSION bemi CASCADE;
