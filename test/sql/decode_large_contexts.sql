--
-- Large contexts: the first change of a transaction has the complete context. Later changes have
-- its small members and the ID of the first change (src/decode/stitch_context.c).
--
-- IDs differ from run to run, so the output identifies rows by key. "holder" is the key of the
-- change that "_whole" names.
--
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TABLE item (id integer PRIMARY KEY, v integer DEFAULT 0, touched integer);
CREATE TABLE other (id integer PRIMARY KEY);
SELECT bemi.track('item', ignore => '{touched}'), bemi.track('other');

CREATE VIEW stored AS
	SELECT c."table", c.primary_key AS key, c.operation, octet_length(c.context::text) < 2000 AS is_small,
		(SELECT h."table" || ' ' || h.primary_key FROM bemi.changes h WHERE h.id = (c.context ->> '_whole')::uuid) AS holder,
		length(bemi.full_context(c) ->> 'body') AS body, c.context - '_whole' - 'body' - 'large' AS rest
	FROM bemi.changes c ORDER BY c.id;

-- One statement, and another one that repeats it in the same transaction; the next has its own.
BEGIN;
SELECT bemi.set_context(jsonb_build_object('userId', 1, 'body', repeat('x', 100000), 'path', '/items'));
INSERT INTO item SELECT n FROM generate_series(1, 3) n;
INSERT INTO other VALUES (1);
COMMIT;
BEGIN;
SELECT bemi.set_context(jsonb_build_object('userId', 1, 'body', repeat('x', 100000), 'path', '/items'));
UPDATE item SET v = 1;
COMMIT;
SELECT bemi.sync();
SELECT * FROM stored;
-- All of them are found by what is small, and all have the whole context.
SELECT count(*) FROM bemi.changes WHERE context @> '{"userId": 1, "path": "/items"}';
SELECT count(DISTINCT bemi.full_context(c)), count(DISTINCT c.context) FROM bemi.changes c;
-- A partition's own rows, and a row without its holder.
SELECT tableoid::regclass AS partition FROM bemi.changes LIMIT 1 \gset
SELECT count(*) FROM :partition c WHERE length(bemi.full_context(c) ->> 'body') = 100000;
BEGIN;
DELETE FROM bemi.changes WHERE context ? 'body' AND operation = 'CREATE';
SELECT DISTINCT bemi.full_context(c) - '_whole' AS what_is_left FROM bemi.changes c WHERE operation = 'CREATE';
ROLLBACK;
TRUNCATE bemi.changes;

-- What is small is not changed in any way, however many rows share it.
SET bemi.context = '{"userId": 1, "_other": 2, "text": "small"}';
INSERT INTO other SELECT n FROM generate_series(11, 13) n;
SELECT bemi.sync();
SELECT context, count(*) FROM bemi.changes GROUP BY 1;
TRUNCATE bemi.changes;

-- An update that is not stored holds nothing, nor does a change that was rolled back.
BEGIN;
SELECT bemi.set_context(jsonb_build_object('n', 1, 'body', repeat('x', 10000)));
UPDATE item SET touched = 1;
SAVEPOINT s;
UPDATE item SET v = 2 WHERE id = 1;
ROLLBACK TO s;
UPDATE item SET v = 2, touched = 2 WHERE id > 1;
COMMIT;
SELECT bemi.sync();
SELECT * FROM stored;
TRUNCATE bemi.changes;

-- Contexts in turn: each time one takes over, it is stored whole once more.
BEGIN;
SELECT bemi.set_context(jsonb_build_object('n', 'a', 'body', repeat('x', 10000)));
INSERT INTO other SELECT n FROM generate_series(21, 22) n;
SELECT bemi.set_context(jsonb_build_object('n', 'b', 'body', repeat('y', 20000)));
INSERT INTO other SELECT n FROM generate_series(23, 24) n;
SELECT bemi.set_context(jsonb_build_object('n', 'c'));
INSERT INTO other SELECT n FROM generate_series(25, 26) n;
SELECT bemi.set_context(jsonb_build_object('n', 'a', 'body', repeat('x', 10000)));
INSERT INTO other SELECT n FROM generate_series(27, 28) n;
COMMIT;
SELECT bemi.sync();
SELECT * FROM stored;
-- In the list of a transaction, each is there once. If the change that has all of it is gone, what the others have is.
CREATE VIEW listed AS
	SELECT t.changes, ARRAY(SELECT concat(c ->> 'n', length(c ->> 'body')) FROM unnest(t.contexts) c ORDER BY 1) AS contexts FROM bemi.transactions t;
SELECT * FROM listed;
BEGIN;
DELETE FROM bemi.changes WHERE primary_key IN ('21', '23');
SELECT * FROM listed;
DELETE FROM bemi.changes WHERE primary_key IN ('25', '26', '27');
SELECT * FROM listed;
ROLLBACK;
DROP VIEW listed;
TRUNCATE bemi.changes;

-- What is kept: scalars first, of objects what is small in them, of the rest as much as
-- there is room for. A member that is too large keeps none of the others out.
BEGIN;
SELECT bemi.set_context(jsonb_build_object('large', repeat('x', 10000), 'list', (SELECT jsonb_agg(n) FROM generate_series(1, 1000) n),
	'short', '[1, 2]'::jsonb, 'number', 1.50, 'yes', true, 'nothing', NULL, 'empty', '{}'::jsonb,
	'outer', jsonb_build_object('inner', jsonb_build_object('large', repeat('x', 10000), 'id', 5), 'id', 4), repeat('long key ', 1000), 1));
INSERT INTO other SELECT n FROM generate_series(31, 32) n;
COMMIT;
BEGIN;
SELECT bemi.set_context((SELECT jsonb_object_agg('key' || n, n) FROM generate_series(1, 5000) n) || '{"z": 26}');
INSERT INTO other SELECT n FROM generate_series(33, 34) n;
COMMIT;
SELECT bemi.sync();
SELECT jsonb_pretty(rest) FROM stored WHERE key = '32';
SELECT holder, rest ? 'z' AS has_shortest, is_small, (SELECT count(*) FROM jsonb_object_keys(rest)) > 10 AS has_others FROM stored WHERE key = '34';
SELECT count(DISTINCT bemi.full_context(c)) FROM bemi.changes c;
TRUNCATE bemi.changes;

-- Facts of the server have their own limit, and a long query leaves room for the others.
SET bemi.include = 'session_user, query, application_name';
SET application_name = 'shop';
BEGIN;
SELECT bemi.set_context((SELECT jsonb_object_agg('k' || n, n) FROM generate_series(1, 1000) n) || '{"_db": {"session_user": "forged"}}');
SELECT 'INSERT INTO other SELECT n FROM generate_series(41, 42) n WHERE ' || quote_literal(repeat('x', 700)) || ' <> ''''' AS insert \gset
:insert;
COMMIT;
RESET bemi.include;
SELECT bemi.sync();
SELECT key, holder, (rest #>> '{_db,session_user}') = session_user AS user_kept, rest #>> '{_db,application_name}' AS application_name,
	rest -> '_db' ? 'query' AS query_kept, length(bemi.full_context(c) #>> '{_db,query}') > 700 AS query_in_full
	FROM stored s JOIN bemi.changes c ON c.primary_key = s.key;
TRUNCATE bemi.changes;

-- A client's own "_whole" is removed, for a context of any size.
SET bemi.context = '{"_whole": "00000000-0000-0000-0000-000000000000", "small": true, "deep": {"_whole": 1}}';
INSERT INTO other SELECT n FROM generate_series(51, 52) n;
BEGIN;
SELECT bemi.set_context(jsonb_build_object('_whole', '00000000-0000-0000-0000-000000000000', 'body', repeat('x', 10000)));
INSERT INTO other SELECT n FROM generate_series(53, 54) n;
COMMIT;
SELECT bemi.sync();
SELECT stored.*, f.full_context ? '_whole' AS still_there FROM stored, LATERAL (SELECT bemi.full_context(c) FROM bemi.changes c WHERE c.primary_key = key) f;
RESET bemi.context;

-- Only roles that may read the history can read whole contexts. The query uses the index of one partition.
CREATE ROLE regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT bemi.full_context(NULL);
\set VERBOSITY terse
SELECT bemi.full_context(ROW(NULL, '', '', '', '', '', '{}', '{}', '{"_whole": "00000000-0000-0000-0000-000000000000"}', now(), now(), now(), 0, 0, '')::bemi.changes);
\set VERBOSITY default
RESET ROLE;
GRANT SELECT ON bemi.changes TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT length(bemi.full_context(c) ->> 'body') FROM bemi.changes c WHERE primary_key = '54';
RESET ROLE;
SELECT _bemi.make_partition('2001-01-01');
SET enable_seqscan = off;
DO $$ DECLARE line text; BEGIN
	FOR line IN EXPLAIN (COSTS OFF) SELECT c.context FROM bemi.changes c
		WHERE c.id = '00000000-0000-0000-0000-000000000000' AND c.committed_at = '2001-01-01'
	LOOP
		IF line ~ 'Scan' THEN RAISE NOTICE '%', regexp_replace(line, ' using \w+', ''); END IF;
	END LOOP;
END $$;
RESET enable_seqscan;

REVOKE ALL ON bemi.changes FROM regress_bemi_reader;
DROP ROLE regress_bemi_reader;
DROP VIEW stored;
SELECT bemi.untrack('item'), bemi.untrack('other');
DROP TABLE item, other;
CALL bemi.drop_source('main');
DROP PUBLICATION bemi;
\set VERBOSITY terse
DROP EXTENSION bemi CASCADE;
