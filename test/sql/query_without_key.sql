--
-- The past of tables without a primary key, or with a deferrable one.
--
-- Their rows are found by counting equal ones, so what matters is which rows are equal, that each
-- copy is counted once, and that the table and the history agree. The test keeps copies of its
-- tables at some times, and compares all functions with them, for all kinds of changes.
--
\set SHOW_CONTEXT never
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TYPE mood AS ENUM ('bad', 'good');
CREATE TYPE pair AS (n numeric, j json);
CREATE DOMAIN share AS float8 CHECK (VALUE <= 100);
CREATE TABLE bag (a integer, n numeric, f float8, j json, b jsonb, l integer[], i interval, m mood, p pair, s share, c char(3), t text);
CREATE TABLE seat (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, name text);
CREATE TABLE parts (a integer, t text) PARTITION BY LIST (a);
CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE part_2 (t text, gone integer, a integer);
ALTER TABLE part_2 DROP gone;
ALTER TABLE parts ATTACH PARTITION part_2 FOR VALUES IN (2);
-- Values that are equal for an operator, or in JSON, but not both. JSON lacks the sign of a zero, spaces, the bounds of an array.
INSERT INTO bag VALUES
	(1, 1.5, '-0', '{"x":   1}', 'null', '[0:1]={1,2}', '1 mon', 'bad', ROW(1.50, '{"y":  2}'), '-0', 'a', 'x'),
	(1, 1.50, '0', '{"x": 1}', NULL, '{1,2}', '30 days', 'bad', ROW(1.5, '{"y": 2}'), '0', 'a', 'x'),
	(1, 1.5, '0', '{"x": 1}', NULL, '{1,2}', '1 mon', 'bad', ROW(1.50, '{"y": 2}'), '0', 'a', 'x');
INSERT INTO bag (a) VALUES (NULL), (NULL), (2), (2), (2);
INSERT INTO bag (a, t) SELECT 3, repeat('long ', 10000) || n % 2 FROM generate_series(1, 4) n;
INSERT INTO seat SELECT n, 'guest ' || n FROM generate_series(1, 4) n;
INSERT INTO parts SELECT n % 2 + 1, 'p' FROM generate_series(1, 4) n;
SELECT bemi.track('bag'), bemi.track('seat'), bemi.track('parts');

-- What a query shows of a row that comes from JSON.
CREATE FUNCTION shown(r anyelement) RETURNS text LANGUAGE sql AS 'SELECT (to_jsonb(r) - ARRAY(SELECT key FROM jsonb_each(to_jsonb(r)) WHERE value = ''null''))::text';
CREATE TABLE place (no integer, at timestamptz, lsn pg_lsn);
CREATE TABLE kept (no integer, name text, row text);
CREATE PROCEDURE note(this integer) LANGUAGE sql AS $$
	INSERT INTO place VALUES (this, clock_timestamp(), pg_current_wal_insert_lsn());
	INSERT INTO kept SELECT this, 'bag', shown(r) FROM bag r;
	INSERT INTO kept SELECT this, 'seat', shown(r) FROM seat r;
	INSERT INTO kept SELECT this, 'parts', shown(r) FROM parts r;
$$;
-- Rows that are in one bag more often than in the other.
CREATE FUNCTION differences(one text, other text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint;
BEGIN
	EXECUTE format('SELECT count(*) FROM ((%1$s EXCEPT ALL %2$s) UNION ALL (%2$s EXCEPT ALL %1$s)) d', '(' || one || ')', '(' || other || ')') INTO n;
	RETURN n;
END
$$;
-- The error of a statement, without what varies.
CREATE FUNCTION error_of(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	EXECUTE sql;
	RETURN NULL;
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RETURN regexp_replace(concat_ws(E'\n', sqlstate, sqlerrm, detail), '[0-9a-f]{8}-[0-9a-f-]{27}|(since|from|to) ([0-9: .+-]{20,}|-infinity)', '...', 'g');
END
$$;
SELECT bemi.sync();

CALL note(1);
UPDATE bag SET t = 'y' WHERE n::text = '1.5' AND i = '1 mon';
DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 2);
UPDATE seat SET id = id % 4 + 1;
UPDATE parts SET a = 3 - a WHERE ctid IN (SELECT min(ctid) FROM parts);
CALL note(2);
UPDATE bag SET t = 'x' WHERE t = 'y';
INSERT INTO bag SELECT * FROM bag WHERE a IS NULL;
-- The long value is not in the new row in the WAL.
UPDATE bag SET a = 4 WHERE a = 3;
BEGIN;
UPDATE seat SET id = 5 WHERE id = 1;
UPDATE seat SET id = 1, name = 'moved' WHERE id = 2;
INSERT INTO seat VALUES (5, 'twice');
SAVEPOINT a;
DELETE FROM seat;
ROLLBACK TO a;
DELETE FROM seat WHERE name = 'guest 4';
COMMIT;
INSERT INTO parts VALUES (1, 'q'), (1, 'q'), (2, NULL);
CALL note(3);
DELETE FROM bag WHERE a IS NULL;
UPDATE seat SET id = 10 - id;
DELETE FROM parts WHERE t = 'q';
CALL note(4);

CREATE VIEW checked AS SELECT p.no, p.at, p.lsn, k.name FROM place p, (VALUES ('bag'), ('seat'), ('parts')) k(name);
SELECT count(*), count(*) FILTER (WHERE d = 0) AS as_of FROM checked c,
	differences(format('SELECT shown(r) FROM bemi.as_of(NULL::%I, %L) r', c.name, c.at), format('SELECT row FROM kept WHERE no = %s AND name = %L', c.no, c.name)) d;
SELECT count(*), count(*) FILTER (WHERE d = 0) AS at_lsn FROM checked c,
	differences(format('SELECT shown(r) FROM bemi.as_of(NULL::%I, at_lsn => %L) r', c.name, c.lsn), format('SELECT row FROM kept WHERE no = %s AND name = %L', c.no, c.name)) d;
SELECT count(*), count(*) FILTER (WHERE d = 0) AS as_of_json FROM checked c,
	differences(format('SELECT (r - ARRAY(SELECT key FROM jsonb_each(r) WHERE value = ''null''))::text FROM bemi.as_of_json(%L, %L) r', c.name, c.at),
		format('SELECT row FROM kept WHERE no = %s AND name = %L', c.no, c.name)) d;
-- Versions of all changes, at each time between.
SELECT count(*), count(*) FILTER (WHERE d = 0) AS versions FROM checked c, place p, place q,
	differences(format('SELECT shown(v.version) FROM bemi.versions(NULL::%I, %L, %L) v WHERE coalesce(v.valid_from, ''-infinity'') <= %L AND coalesce(v.valid_to, ''infinity'') > %4$L',
		c.name, p.at, q.at, c.at), format('SELECT row FROM kept WHERE no = %s AND name = %L', c.no, c.name)) d
	WHERE p.at <= c.at AND c.at <= q.at;
-- The rows of the first time, with the differences, are those of the second.
SELECT count(*), count(*) FILTER (WHERE d = 0) AS diff_table FROM checked c, place p,
	differences(format('(SELECT row FROM kept WHERE no = %s AND name = %L EXCEPT ALL SELECT shown(before) FROM bemi.diff_table(NULL::%2$I, %L, %L) WHERE before IS DISTINCT FROM NULL)
			UNION ALL SELECT shown(after) FROM bemi.diff_table(NULL::%2$I, %3$L, %4$L) WHERE after IS DISTINCT FROM NULL', p.no, c.name, p.at, c.at),
		format('SELECT row FROM kept WHERE no = %s AND name = %L', c.no, c.name)) d
	WHERE p.at <= c.at;

SELECT at AS one FROM place WHERE no = 1 \gset
SELECT at AS two FROM place WHERE no = 2 \gset
SELECT at AS three FROM place WHERE no = 3 \gset
SELECT at AS four FROM place WHERE no = 4 \gset
-- Copies are rows of the result. Without a key nothing is an UPDATE.
SELECT kind, before, after FROM bemi.diff_table(NULL::parts, :'two', :'three') ORDER BY 1, 2, 3;
SELECT kind, before, after FROM bemi.diff_table(NULL::parts, :'one', :'two') ORDER BY 1, 2, 3;
SELECT kind, before, after FROM bemi.diff_table(NULL::seat, :'one', :'two') ORDER BY (before).id;
SELECT kind, before, after FROM bemi.diff_table(NULL::seat, :'two', :'three') ORDER BY (before).id, (after).id;
-- The copy that was made first ends first.
SELECT valid_from IS NULL AS before, valid_to IS NULL AS lasts, operation, version FROM bemi.versions(NULL::parts, :'two', :'four');

-- One row of a table with a deferrable key, in the middle of a transaction also two.
SELECT * FROM bemi.row_as_of(NULL::seat, '2', :'one');
SELECT * FROM bemi.row_as_of(NULL::seat, '2', :'two');
SELECT * FROM bemi.as_of(NULL::seat, :'one') WHERE id = 2;
SELECT c.id AS deletes FROM bemi.changes c WHERE c."table" = 'seat' AND operation = 'DELETE' \gset
SELECT * FROM bemi.row_as_of(NULL::seat, '5', before => :'deletes') ORDER BY name;
SELECT * FROM bemi.as_of(NULL::seat, before => :'deletes') ORDER BY id, name;
SELECT * FROM bemi.row_as_of(NULL::bag, '2', :'one');
SELECT p.problem FROM bemi.past('was', 'public', :'one') p WHERE p.relation_name IN ('bag', 'seat', 'parts');
SELECT count(*) FROM was.bag;
SELECT * FROM was.seat ORDER BY id;
SET client_min_messages = warning;
DROP SCHEMA was CASCADE;
RESET client_min_messages;

-- Own changes do not count, those of savepoints included.
BEGIN ISOLATION LEVEL REPEATABLE READ;
DELETE FROM bag WHERE a = 2;
INSERT INTO bag (a) VALUES (4), (4);
SAVEPOINT a;
UPDATE bag SET a = 9;
SELECT differences(format('SELECT shown(r) FROM bemi.as_of(NULL::bag, %L) r', :'three'), 'SELECT row FROM kept WHERE no = 3 AND name = ''bag''');
RELEASE a;
DECLARE c CURSOR FOR SELECT a FROM bemi.as_of(NULL::bag, :'one') ORDER BY a;
DELETE FROM bag;
FETCH 2 FROM c;
CLOSE c;
TRUNCATE bag;
SELECT a FROM bemi.as_of(NULL::bag, :'one');
ROLLBACK;


-- A TRUNCATE: its rows come from the history.
CREATE TABLE emptied (a integer, b numeric);
SELECT bemi.track('emptied');
SELECT clock_timestamp() AS never \gset
TRUNCATE emptied;
INSERT INTO emptied VALUES (1, 1.5), (1, 1.50), (2, NULL), (2, NULL), (2, NULL);
DELETE FROM emptied WHERE ctid = (SELECT min(ctid) FROM emptied WHERE a = 2);
SELECT clock_timestamp() AS before \gset
UPDATE emptied SET a = 3;
TRUNCATE emptied;
INSERT INTO emptied VALUES (2, NULL), (4, NULL);
SELECT clock_timestamp() AS between \gset
DELETE FROM emptied;
TRUNCATE emptied;
SELECT * FROM bemi.as_of(NULL::emptied, :'before') ORDER BY a, b::text;
SELECT * FROM bemi.as_of(NULL::emptied, :'between') ORDER BY a;
SELECT kind, before, after FROM bemi.diff_table(NULL::emptied, :'before', :'between') ORDER BY kind, before::text, after::text;
SELECT valid_from IS NULL AS before, operation, version FROM bemi.versions(NULL::emptied, :'before', clock_timestamp()) WHERE valid_to > :'between';
SELECT error_of(format('SELECT * FROM bemi.as_of(NULL::emptied, %L)', :'never'));
-- Of rows from before the tracking, a baseline has the copies.
CREATE TABLE based (a integer);
INSERT INTO based VALUES (1), (1), (2);
SELECT bemi.track('based');
SELECT bemi.sync();
CALL bemi.baseline('main', 'based');
INSERT INTO based VALUES (2);
SELECT clock_timestamp() AS first \gset
DELETE FROM based WHERE ctid = (SELECT min(ctid) FROM based);
CALL bemi.baseline('main', 'based');
SELECT clock_timestamp() AS second \gset
UPDATE based SET a = 5 WHERE a = 2;
TRUNCATE based;
SELECT array_agg(a ORDER BY a) FROM bemi.as_of(NULL::based, :'first');
SELECT array_agg(a ORDER BY a) FROM bemi.as_of(NULL::based, :'second');
SELECT kind, before, after FROM bemi.diff_table(NULL::based, :'first', :'second');

-- Columns that were added, dropped, renamed or retyped since.
CREATE TABLE shape (a integer, b varchar(5), gone integer);
SELECT bemi.track('shape');
INSERT INTO shape VALUES (1, 'x', 1), (1, 'x', 2), (2, 'y', 1), (3, 'z', 1);
SELECT clock_timestamp() AS shaped \gset
ALTER TABLE shape ADD new integer DEFAULT 7;
UPDATE shape SET new = 8 WHERE a = 1;
DELETE FROM shape WHERE a = 2;
ALTER TABLE shape RENAME b TO label;
INSERT INTO shape VALUES (1, 'x', 1);
ALTER TABLE shape DROP gone;
ALTER TABLE shape ALTER label TYPE text;
UPDATE shape SET label = 'w' WHERE a = 3;
SELECT * FROM bemi.as_of(NULL::shape, :'shaped') ORDER BY a;
SELECT r FROM bemi.as_of_json('shape', :'shaped', allow_gaps => true) r ORDER BY r::text;
SELECT r FROM bemi.as_of_json('shape', :'shaped') r;
-- The default is no more in the catalog.
VACUUM FULL shape;
SELECT * FROM bemi.as_of(NULL::shape, :'shaped') ORDER BY a;
SELECT kind, before, after FROM bemi.diff_table(NULL::shape, :'shaped', clock_timestamp()) ORDER BY 1, 2, 3;

-- A generated column is computed, and does not count.
CREATE TABLE area (w integer, h integer, size integer GENERATED ALWAYS AS (w * h) STORED);
SELECT bemi.track('area');
INSERT INTO area VALUES (2, 3), (2, 3), (4, 5);
SELECT clock_timestamp() AS measured \gset
DELETE FROM area WHERE w = 4;
UPDATE area SET h = 6;
SELECT * FROM bemi.as_of(NULL::area, :'measured') ORDER BY w;
SELECT sum(h) FROM bemi.as_of(NULL::area, :'measured');

-- Ignored columns do not count. Their values can be younger.
CREATE TABLE seen (a integer, times integer);
SELECT bemi.track('seen', ignore => '{times}');
INSERT INTO seen VALUES (1, 0), (2, 0);
SELECT clock_timestamp() AS unseen \gset
UPDATE seen SET times = 5;
INSERT INTO seen VALUES (3, 0);
UPDATE seen SET a = 4 WHERE a = 1;
UPDATE seen SET times = 6;
SELECT * FROM bemi.as_of(NULL::seen, :'unseen') ORDER BY a;
SELECT bemi.track('seen', ignore => '{}');
UPDATE seen SET times = 7;
SELECT * FROM bemi.as_of(NULL::seen, :'unseen') ORDER BY a;
SELECT kind, before, after FROM bemi.diff_table(NULL::seen, :'unseen', clock_timestamp()) ORDER BY 1, 2, 3;

-- A redacted value is an error, also if the query does not use it.
CREATE TABLE secret (a integer, pin text);
SELECT bemi.track('secret', redact => '{pin}');
INSERT INTO secret VALUES (1, '1234');
SELECT clock_timestamp() AS quiet \gset
SELECT * FROM bemi.as_of(NULL::secret, :'quiet');
UPDATE secret SET a = 2;
SELECT error_of(format('SELECT a FROM bemi.as_of(NULL::secret, %L)', :'quiet'));
SELECT count(*) FROM bemi.as_of(NULL::secret, clock_timestamp());

-- The history and the table disagree.
CREATE TABLE lost (a integer);
SELECT bemi.track('lost');
SELECT clock_timestamp() AS early \gset
INSERT INTO lost VALUES (1), (2);
SELECT bemi.sync();
SELECT clock_timestamp() AS late \gset
UPDATE lost SET a = 3 WHERE a = 2;
SELECT bemi.sync();
DELETE FROM bemi.changes WHERE "table" = 'lost' AND operation = 'UPDATE';
SELECT error_of(format('SELECT * FROM bemi.as_of(NULL::lost, %L)', :'early'));
SELECT * FROM bemi.as_of(NULL::lost, :'early', allow_gaps => true);
DELETE FROM lost WHERE a = 3;
SELECT error_of(format('SELECT * FROM bemi.versions(NULL::lost, %L, clock_timestamp())', :'early'));
SELECT valid_to IS NULL AS lasts, version FROM bemi.versions(NULL::lost, :'early', clock_timestamp(), allow_gaps => true);
TRUNCATE lost;
INSERT INTO lost VALUES (1);
SELECT bemi.sync();
DELETE FROM bemi.changes WHERE "table" = 'lost' AND operation = 'CREATE';
DELETE FROM lost;
SELECT clock_timestamp() AS later \gset
TRUNCATE lost;
SELECT error_of(format('SELECT * FROM bemi.as_of(NULL::lost, %L)', :'later'));
SELECT count(*) FROM bemi.as_of(NULL::lost, :'later', allow_gaps => true);

-- More different rows than fit into work_mem: they are counted in several passes.
CREATE TABLE large (a integer, b text);
SELECT bemi.track('large');
TRUNCATE large;
INSERT INTO large SELECT n % 2000, 'first' FROM generate_series(1, 2500) n;
CREATE TABLE copy_of_large AS TABLE large;
SELECT bemi.sync();
SELECT clock_timestamp() AS filled \gset
UPDATE large SET b = 'second' WHERE a % 5 > 0;
DELETE FROM large WHERE a % 7 = 0;
INSERT INTO large SELECT n, 'third' FROM generate_series(1, 1000) n;
SET work_mem = '64kB';
SET hash_mem_multiplier = 1;
CREATE VIEW large_then AS SELECT * FROM bemi.as_of(NULL::large, :'filled');
SELECT count(*) FROM large_then;
SELECT * FROM ((TABLE large_then EXCEPT ALL TABLE copy_of_large) UNION ALL (TABLE copy_of_large EXCEPT ALL TABLE large_then)) d;
SELECT a, count(*) FROM large_then WHERE a < 3 GROUP BY a ORDER BY a;
TRUNCATE large;
SELECT * FROM ((TABLE large_then EXCEPT ALL TABLE copy_of_large) UNION ALL (TABLE copy_of_large EXCEPT ALL TABLE large_then)) d;
RESET work_mem;
RESET hash_mem_multiplier;
DROP TABLE large, copy_of_large CASCADE;

-- With the rights of a reader. A cast to json of another user runs with those of the table's owner.
CREATE ROLE regress_bemi_reader;
CREATE ROLE regress_bemi_holder;
SELECT bemi.grant_read('regress_bemi_reader');
GRANT USAGE ON SCHEMA public TO regress_bemi_reader;
SELECT error_of(format('SET LOCAL ROLE regress_bemi_reader; SELECT * FROM bemi.as_of(NULL::seat, %L)', :'one'));
GRANT SELECT ON seat, bag TO regress_bemi_reader;
CREATE FUNCTION told(mood) RETURNS json LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''as %'', current_user; RETURN to_json($1::text); END';
CREATE CAST (mood AS json) WITH FUNCTION told(mood);
ALTER TABLE bag ADD h mood[];
ALTER TABLE bag OWNER TO regress_bemi_holder;
GRANT CREATE, USAGE ON SCHEMA public TO regress_bemi_holder;
INSERT INTO bag (a, h) VALUES (8, '{good}');
SELECT clock_timestamp() AS told \gset
UPDATE bag SET a = 9 WHERE a = 8;
SET ROLE regress_bemi_reader;
SELECT * FROM bemi.as_of(NULL::seat, :'one') ORDER BY id;
SELECT a, h FROM bemi.as_of(NULL::bag, :'told') WHERE a = 8;
RESET ROLE;

-- Numbers without a sign are found in today's rows, also those over 2^31, and negative ones if expressions are
-- compiled.
CREATE TABLE numbered (id oid PRIMARY KEY, v integer);
CREATE TABLE marked (id oid);
CREATE TABLE below (id integer PRIMARY KEY, v integer);
SELECT bemi.track('numbered'), bemi.track('marked'), bemi.track('below');
INSERT INTO numbered VALUES (3000000000, 1);
INSERT INTO marked VALUES (3000000000), (3000000001);
INSERT INTO below VALUES (-5, 1);
SELECT clock_timestamp() AS told \gset
UPDATE numbered SET v = 2;
UPDATE marked SET id = '3000000002' WHERE id = '3000000000';
UPDATE marked SET id = '3000000000' WHERE id = '3000000001';
UPDATE below SET v = 2;
SELECT * FROM bemi.as_of(NULL::numbered, :'told');
SELECT * FROM bemi.as_of(NULL::marked, :'told') ORDER BY id;
SET jit_above_cost = 0;
SELECT p.* FROM below b JOIN bemi.as_of(NULL::below, :'told') p ON p.id = b.id;
RESET jit_above_cost;
-- A row that is kept has the columns that were added without a rewrite, and the type of the table, not of a partition.
CREATE TABLE quick (id integer PRIMARY KEY);
CREATE TABLE split (id integer PRIMARY KEY, v integer) PARTITION BY RANGE (id);
CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (1) TO (9);
SELECT bemi.track('quick'), bemi.track('split');
INSERT INTO quick VALUES (1);
INSERT INTO split VALUES (1, 8);
ALTER TABLE quick ADD c integer DEFAULT 7;
SELECT clock_timestamp() AS told \gset
CREATE TABLE rows_of_quick AS SELECT p FROM bemi.as_of(NULL::quick, :'told') p;
CREATE TABLE rows_of_split AS SELECT p FROM bemi.as_of(NULL::split, :'told') p;
CREATE TABLE versions_of_split AS SELECT version FROM bemi.versions(NULL::split, :'told', :'told');
VACUUM FULL quick;
DROP TABLE split_1;
SELECT (p).c FROM rows_of_quick;
SELECT (p).v FROM rows_of_split;
SELECT (version).v FROM versions_of_split;
DROP TABLE numbered, marked, below, quick, split, rows_of_quick, rows_of_split, versions_of_split CASCADE;

DROP TABLE bag, seat, parts, place, kept, emptied, shape, area, seen, secret, lost, based CASCADE;
DROP PROCEDURE note(integer);
DROP FUNCTION shown, differences, error_of;
DROP TYPE mood, pair CASCADE;
DROP DOMAIN share;
CALL bemi.drop_source('main');
DROP OWNED BY regress_bemi_reader, regress_bemi_holder;
DROP ROLE regress_bemi_reader, regress_bemi_holder;
DROP EXTENSION bemi CASCADE;
