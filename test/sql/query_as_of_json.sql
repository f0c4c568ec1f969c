--
-- bemi.as_of_json(): a table as it was, with columns that were dropped since.
--
-- The rows are those of bemi.as_of(). Values of a dropped column are in no row of the table, so each
-- place where the history has them, or lacks them, has its row here: changed before and after the
-- column was dropped, since then, never. Another column has the name of one that was dropped.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric, stamp timestamptz, secret text);
INSERT INTO item VALUES (0, 'before tracking', 1, '2026-01-02 03:04:05.6+00', NULL);
SELECT bemi.track('item', redact => '{secret}');
INSERT INTO item VALUES (1, 'pen', 1.50, '2026-01-02 03:04:05+00', NULL), (2, 'cup', 2, NULL, NULL), (3, 'jar', NULL, NULL, NULL), (4, 'box', 4, NULL, NULL);
SELECT bemi.sync();
SELECT clock_timestamp() AS whole \gset
-- nothing was dropped yet
SET timezone = 'Asia/Tokyo';
SELECT * FROM bemi.as_of_json('item', :'whole') r ORDER BY r;
RESET timezone;	-- times are in UTC

UPDATE item SET name = 'pencil' WHERE id = 1;
ALTER TABLE item DROP price;
UPDATE item SET name = 'mug' WHERE id = 2;
DELETE FROM item WHERE id = 4;
INSERT INTO item VALUES (5, 'new');
SELECT bemi.sync();
SELECT clock_timestamp() AS dropped \gset
SELECT * FROM bemi.as_of_json('item', :'whole');
SELECT * FROM bemi.as_of_json('item', :'whole', allow_gaps => true) r ORDER BY r -> 'id';
SELECT * FROM bemi.as_of_json('item', :'dropped') r ORDER BY r -> 'id';
SELECT h.id AS pencil FROM bemi.history('item', '1') h WHERE operation = 'UPDATE' \gset
SELECT * FROM bemi.as_of_json('item', before => :'pencil', allow_gaps => true) r WHERE r ->> 'id' = '1';

-- several
ALTER TABLE item DROP stamp, DROP name;
SELECT * FROM bemi.as_of_json('item', :'whole', allow_gaps => true) r ORDER BY r -> 'id';
SELECT * FROM bemi.as_of_json('item', :'dropped', allow_gaps => true) r ORDER BY r -> 'id';
-- another column of this name
ALTER TABLE item ADD name text DEFAULT 'much';
SELECT * FROM bemi.as_of_json('item', :'dropped', allow_gaps => true) r ORDER BY r -> 'id';

-- A key of several columns; all rows are in the history.
CREATE TABLE part (a integer, b text, "Odd 'name" text, n integer, PRIMARY KEY (a, b));
SELECT bemi.track('part');
INSERT INTO part VALUES (1, 'x', 'odd', 1), (1, 'y', NULL, 2);
SELECT bemi.sync();
SELECT clock_timestamp() AS whole \gset
UPDATE part SET a = 2 WHERE b = 'x';
ALTER TABLE part DROP "Odd 'name";
SELECT * FROM bemi.as_of_json('part', :'whole') r ORDER BY r -> 'n';
-- own changes do not count
BEGIN;
DELETE FROM part;
SELECT * FROM bemi.as_of_json('part', :'whole') r ORDER BY r -> 'n';
ROLLBACK;

-- Another column gets the name, or had it before. A row that was written then has the other's value.
CREATE TABLE again (id integer PRIMARY KEY, v integer);
CREATE TABLE moved (id integer PRIMARY KEY, a text, b text);
CREATE TABLE former (id integer PRIMARY KEY, a text, b text);
CREATE TABLE swapped (a integer, b integer, v text, PRIMARY KEY (a, b));
SELECT bemi.track(t) FROM unnest(ARRAY['again', 'moved', 'former', 'swapped']::regclass[]) t;
INSERT INTO again VALUES (1, 10), (2, 20);
INSERT INTO moved VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2');
INSERT INTO former VALUES (1, 'a1', 'b1'), (2, 'a2', 'b2');
ALTER TABLE former RENAME a TO c;
ALTER TABLE former RENAME b TO a;
UPDATE former SET c = 'c2' WHERE id = 2;
INSERT INTO swapped VALUES (1, 2, '1-2'), (2, 1, '2-1');
SELECT bemi.sync();
SELECT clock_timestamp() AS whole \gset
ALTER TABLE again DROP v;
ALTER TABLE again ADD v integer DEFAULT 99;
UPDATE again SET v = 100 WHERE id = 1;
SELECT * FROM bemi.as_of_json('again', :'whole') r ORDER BY r -> 'id';
ALTER TABLE moved DROP a;
ALTER TABLE moved RENAME b TO a;
UPDATE moved SET a = 'new' WHERE id = 1;
SELECT * FROM bemi.as_of_json('moved', :'whole') r ORDER BY r -> 'id';
ALTER TABLE former DROP a;
SELECT * FROM bemi.as_of_json('former', :'whole');
SELECT * FROM bemi.as_of_json('former', :'whole', allow_gaps => true) r ORDER BY r -> 'id';
ALTER TABLE swapped RENAME a TO x;
ALTER TABLE swapped RENAME b TO a;
ALTER TABLE swapped RENAME x TO b;
ALTER TABLE swapped DROP v;
SELECT * FROM bemi.as_of_json('swapped', :'whole', allow_gaps => true) r ORDER BY r -> 'a';
DROP TABLE again, moved, former, swapped;

-- A change may be missing between the last one and the time.
CREATE TABLE missed (id integer PRIMARY KEY, v text);
SELECT bemi.track('missed');
INSERT INTO missed VALUES (1, 'old');
SELECT bemi.sync();
INSERT INTO bemi.gaps (source, schema, "table", reason, from_time, to_time, detail)
	SELECT 'main', 'public', 'missed', 'slot_lost', clock_timestamp(), clock_timestamp(), 'made by a test';
INSERT INTO missed VALUES (2, 'after the gap');
SELECT bemi.sync();
SELECT clock_timestamp() AS whole \gset
ALTER TABLE missed DROP v;
SELECT * FROM bemi.as_of_json('missed', :'whole');
SELECT * FROM bemi.as_of_json('missed', :'whole', allow_gaps => true) r ORDER BY r -> 'id';
DROP TABLE missed;

-- Rights.
CREATE ROLE bemi_json_reader;
SELECT bemi.grant_read('bemi_json_reader');
SET ROLE bemi_json_reader;
SELECT * FROM bemi.as_of_json('part', :'whole');
RESET ROLE;
GRANT SELECT ON part TO bemi_json_reader;
SET ROLE bemi_json_reader;
SELECT count(*) FROM bemi.as_of_json('part', :'whole');
RESET ROLE;
SELECT bemi.revoke_read('bemi_json_reader');
REVOKE ALL ON part FROM bemi_json_reader;
DROP ROLE bemi_json_reader;

-- Errors.
SELECT * FROM bemi.as_of_json(NULL, :'whole');
SELECT * FROM bemi.as_of_json('part');
SELECT * FROM bemi.as_of_json('pg_tables', :'whole');
DROP TABLE item, part;
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
