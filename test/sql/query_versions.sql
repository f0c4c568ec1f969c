--
-- bemi.versions() and bemi.diff_table(): a table between two times.
--
-- They must agree with bemi.as_of() at every time. So a history of a few rows, with all kinds of
-- changes, is compared with it at the time of each commit, and from each time to each other. The
-- test also makes each error once, and reads with the rights of a reader.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric, doc json);
INSERT INTO item VALUES (0, 'before tracking', 1, NULL);
SELECT bemi.track('item');
CREATE TABLE place (no integer GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT clock_timestamp());
SELECT bemi.sync();
CREATE PROCEDURE note() LANGUAGE sql AS 'INSERT INTO place DEFAULT VALUES';

CALL note();
SET bemi.context = '{"by": "ann"}';
INSERT INTO item VALUES (1, 'pen', 1.5, '{"a": 1}'), (2, 'cup', 2, NULL);
CALL note();
UPDATE item SET price = 3 WHERE id = 1;
CALL note();
SET bemi.context = '{"by": "bob"}';
BEGIN;
UPDATE item SET price = 4 WHERE id = 1;
UPDATE item SET price = 5 WHERE id = 1;
DELETE FROM item WHERE id = 2;
INSERT INTO item VALUES (2, 'jar', 7, NULL);
COMMIT;
CALL note();
UPDATE item SET id = 10 WHERE id = 1;
CALL note();
INSERT INTO item VALUES (1, 'book', 9, NULL);
CALL note();
DELETE FROM item WHERE id = 0;
CALL note();
UPDATE item SET price = 1.50 WHERE id = 2;
UPDATE item SET price = 7 WHERE id = 2;
CALL note();
RESET bemi.context;

SELECT min(at) AS first, max(at) AS last FROM place \gset
-- each version
SELECT (SELECT max(p.no) FROM place p WHERE p.at < valid_from) AS from_no, (SELECT min(p.no) FROM place p WHERE p.at > valid_to) AS to_no,
		operation, context ->> 'by' AS by, (version).id, (version).name, (version).price, (version).doc
	FROM bemi.versions(NULL::item, :'first', :'last');
SELECT count(*) = count(c.id) AS all_known FROM bemi.versions(NULL::item, :'first', :'last') v
	LEFT JOIN bemi.changes c ON c.id = v.change AND c.committed_at = v.valid_from AND c.operation = v.operation AND c.context = v.context
	WHERE v.change IS NOT NULL;
-- net differences
SELECT kind, before, after FROM bemi.diff_table(NULL::item, :'first', :'last') ORDER BY coalesce((before).id, (after).id);
SELECT kind, before, after FROM place p, place q, bemi.diff_table(NULL::item, p.at, q.at)
	WHERE p.no = 7 AND q.no = 8;	-- changed and changed back
SELECT kind, before, after FROM bemi.diff_table(NULL::item, :'last', :'last');

-- as bemi.as_of()
CREATE FUNCTION row_texts(at timestamptz) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(t::text, '; ' ORDER BY id) FROM bemi.as_of(NULL::item, row_texts.at) t
$$;
SELECT count(*) AS disagree FROM place p, place q, place t, LATERAL (
		SELECT string_agg(v.version::text, '; ' ORDER BY (v.version).id) AS rows
			FROM bemi.versions(NULL::item, p.at, q.at) v
			WHERE coalesce(v.valid_from, '-infinity') <= t.at AND coalesce(v.valid_to, 'infinity') > t.at) v
	WHERE p.at <= t.at AND t.at <= q.at AND v.rows IS DISTINCT FROM row_texts(t.at);
SELECT count(*) AS disagree FROM place p, place q, LATERAL (
		SELECT string_agg(coalesce(d.before::text, '-') || coalesce(d.after::text, '-') || d.kind, ';' ORDER BY coalesce((d.before).id, (d.after).id))
			FROM bemi.diff_table(NULL::item, p.at, q.at) d) d(rows), LATERAL (
		SELECT string_agg(coalesce(b.r, '-') || coalesce(a.r, '-') || CASE WHEN b.r IS NULL THEN 'CREATE' WHEN a.r IS NULL THEN 'DELETE' ELSE 'UPDATE' END,
				';' ORDER BY coalesce(a.id, b.id))
			FROM (SELECT b.id, b::text AS r FROM bemi.as_of(NULL::item, p.at) b) b
				FULL JOIN (SELECT a.id, a::text AS r FROM bemi.as_of(NULL::item, q.at) a) a USING (id)
			WHERE a.r IS DISTINCT FROM b.r) o(rows)
	WHERE p.at <= q.at AND d.rows IS DISTINCT FROM o.rows;

-- A large context is stored once for a transaction, here with a change of another table.
CREATE TABLE second (id integer PRIMARY KEY, n integer);
SELECT bemi.track('second');
SELECT bemi.sync();
SELECT clock_timestamp() AS second \gset
SELECT set_config('bemi.context', jsonb_build_object('big', repeat('x', 5000))::text, false) IS NOT NULL AS large;
BEGIN;
INSERT INTO item VALUES (20, 'lid', 1, NULL);
INSERT INTO second VALUES (1, 1);
UPDATE second SET n = 2;
COMMIT;
RESET bemi.context;
SELECT operation, length(context ->> 'big') AS big, context ? '_whole' AS shortened FROM bemi.versions(NULL::second, :'second', clock_timestamp());

-- A key of several columns, whose partitions move rows.
CREATE TABLE part (a integer, b text, n integer, PRIMARY KEY (a, b)) PARTITION BY LIST (a);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
SELECT bemi.track('part');
SELECT bemi.sync();
SELECT clock_timestamp() AS first \gset
INSERT INTO part VALUES (1, 'x', 1);
UPDATE part SET n = 2;
UPDATE part SET a = 2;
SELECT operation, version, valid_to IS NULL AS lasts FROM bemi.versions(NULL::part, :'first', clock_timestamp());
SELECT * FROM bemi.diff_table(NULL::part, :'first', clock_timestamp());

-- A TRUNCATE ends all versions. Names have changed since.
CREATE TABLE cut (id integer PRIMARY KEY, n integer);
SELECT bemi.track('cut');
TRUNCATE cut;
CREATE TABLE cut_place (no integer GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT clock_timestamp());
CREATE PROCEDURE note_cut() LANGUAGE sql AS 'INSERT INTO cut_place DEFAULT VALUES';
INSERT INTO cut VALUES (1, 1), (2, 2), (3, 3);
CALL note_cut();
UPDATE cut SET n = 10 WHERE id = 1;
CALL note_cut();
TRUNCATE cut;
CALL note_cut();
INSERT INTO cut VALUES (1, 1), (3, 3), (4, 4);
CALL note_cut();
BEGIN;
DELETE FROM cut WHERE id = 4;
TRUNCATE cut;
INSERT INTO cut VALUES (5, 5);
COMMIT;
CALL note_cut();
ALTER TABLE cut RENAME n TO number;
ALTER TABLE cut RENAME TO shortened;
UPDATE shortened SET number = 6;
CALL note_cut();
SELECT (SELECT max(p.no) FROM cut_place p WHERE p.at < valid_from) AS from_no, (SELECT min(p.no) FROM cut_place p WHERE p.at > valid_to) AS to_no, operation, version
	FROM (SELECT min(at) AS first, max(at) AS last FROM cut_place) f, bemi.versions(NULL::shortened, first, last);
SELECT kind, before, after FROM (SELECT min(at) AS first, max(at) AS last FROM cut_place) f, bemi.diff_table(NULL::shortened, first, last)
	ORDER BY coalesce((before).id, (after).id);
SELECT r FROM (SELECT min(at) AS first FROM cut_place) f, bemi.as_of_json('shortened', first) r ORDER BY r -> 'id';
SELECT count(*) AS disagree FROM cut_place p, cut_place q, cut_place t, LATERAL (
		SELECT string_agg(v.version::text, '; ' ORDER BY (v.version).id) AS rows
			FROM bemi.versions(NULL::shortened, p.at, q.at) v
			WHERE coalesce(v.valid_from, '-infinity') <= t.at AND coalesce(v.valid_to, 'infinity') > t.at) v
	WHERE p.at <= t.at AND t.at <= q.at
		AND v.rows IS DISTINCT FROM (SELECT string_agg(t::text, '; ' ORDER BY id) FROM bemi.as_of(NULL::shortened, t.at) t);
SELECT count(*) AS disagree FROM cut_place p, cut_place q, LATERAL (
		SELECT string_agg(coalesce(d.before::text, '-') || coalesce(d.after::text, '-') || d.kind, ';' ORDER BY coalesce((d.before).id, (d.after).id))
			FROM bemi.diff_table(NULL::shortened, p.at, q.at) d) d(rows), LATERAL (
		SELECT string_agg(coalesce(b.r, '-') || coalesce(a.r, '-') || CASE WHEN b.r IS NULL THEN 'CREATE' WHEN a.r IS NULL THEN 'DELETE' ELSE 'UPDATE' END,
				';' ORDER BY coalesce(a.id, b.id))
			FROM (SELECT b.id, b::text AS r FROM bemi.as_of(NULL::shortened, p.at) b) b
				FULL JOIN (SELECT a.id, a::text AS r FROM bemi.as_of(NULL::shortened, q.at) a) a USING (id)
			WHERE a.r IS DISTINCT FROM b.r) o(rows)
	WHERE p.at <= q.at AND d.rows IS DISTINCT FROM o.rows;
-- a dropped column of rows that a TRUNCATE has removed
CREATE TABLE cut_json (id integer PRIMARY KEY, n integer, kept text);
SELECT bemi.track('cut_json');
TRUNCATE cut_json;
INSERT INTO cut_json VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c');
SELECT bemi.sync();
SELECT clock_timestamp() AS at \gset
UPDATE cut_json SET n = 20 WHERE id = 2;
ALTER TABLE cut_json DROP n;
UPDATE cut_json SET kept = 'd' WHERE id = 3;
TRUNCATE cut_json;
INSERT INTO cut_json VALUES (1, 'new'), (4, 'new');
SELECT * FROM bemi.as_of_json('cut_json', :'at') r ORDER BY r -> 'id';

-- The own changes of the transaction do not count.
BEGIN ISOLATION LEVEL REPEATABLE READ;
DELETE FROM part;
SELECT operation, version, valid_to IS NULL AS lasts FROM bemi.versions(NULL::part, :'first', clock_timestamp());
SELECT * FROM bemi.diff_table(NULL::part, :'first', clock_timestamp());
ROLLBACK;

-- Rights.
CREATE ROLE bemi_versions_reader;
GRANT SELECT ON item TO bemi_versions_reader;
SET ROLE bemi_versions_reader;
SELECT count(*) FROM bemi.versions(NULL::item, :'first', now());
RESET ROLE;
SELECT bemi.grant_read('bemi_versions_reader');
SET ROLE bemi_versions_reader;
SELECT count(*) FROM bemi.versions(NULL::item, :'first', now());
SELECT count(*) FROM bemi.diff_table(NULL::item, :'first', now());
SELECT count(*) FROM bemi.versions(NULL::part, :'first', now());
SELECT count(*) FROM bemi.diff_table(NULL::part, :'first', now());
RESET ROLE;
SELECT bemi.revoke_read('bemi_versions_reader');
REVOKE ALL ON item FROM bemi_versions_reader;
DROP ROLE bemi_versions_reader;

-- Errors.
SELECT * FROM bemi.versions(NULL::item, :'first', NULL);
SELECT * FROM bemi.diff_table(NULL::item, NULL, :'first');
SELECT * FROM bemi.versions(NULL::item, :'last', :'last'::timestamptz - interval '1 second');
SELECT * FROM bemi.diff_table(NULL::item, :'last', '2100-01-01 UTC');
SELECT * FROM bemi.versions(1, :'last', :'last');
\set VERBOSITY terse
SELECT * FROM bemi.versions(NULL::item, '2020-01-01', :'last');
SELECT count(*) FROM bemi.versions(NULL::item, '2020-01-01', :'last', allow_gaps => true);
SELECT count(*) FROM bemi.diff_table(NULL::item, '2020-01-01', :'last');
DROP TABLE item, second, part, place, shortened, cut_place, cut_json CASCADE;
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
