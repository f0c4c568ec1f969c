--
-- Partitioned tables: tracking the root covers every leaf, including later ones. No way to
-- create, attach, move or detach a partition makes a write of the application fail.
--
-- PostgreSQL gives a partition neither the statement triggers nor the replica identity of its
-- root, and refuses to update a published table without identity. So each section writes to the
-- new partition, through the root and directly, and shows what the worker has stored. A missing
-- trigger shows as {}, a missing identity as an error. bemi.tracked shows the same without a
-- write.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();

-- The changes stored since the last call, in commit order.
\i test/sql/include/tell.sql
\i test/sql/include/tracked.sql

CREATE TABLE part (id integer PRIMARY KEY, task text) PARTITION BY RANGE (id);
CREATE TABLE part_0 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
CREATE TABLE part_1_a PARTITION OF part_1 FOR VALUES FROM (10) TO (15);
SELECT bemi.track('part');
CREATE TABLE part_1_b PARTITION OF part_1 DEFAULT;
CREATE TABLE part_rest PARTITION OF part DEFAULT;
SELECT * FROM tracked;

--
-- Written through the root, through the middle, directly
--
SET bemi.context = '{"by": "root"}';
INSERT INTO part VALUES (1), (11), (16), (21);
SET bemi.context = '{"by": "middle"}';
INSERT INTO part_1 VALUES (12), (17);
UPDATE part_1 SET task = 'a' WHERE id = 17;
SET bemi.context = '{"by": "leaf"}';
INSERT INTO part_0 VALUES (2);
UPDATE part_1_a SET id = 13 WHERE id = 11;
DELETE FROM part_1_b;
UPDATE part_rest SET id = 22;
SELECT * FROM tell();
-- A row that moves between leaves is a DELETE and an INSERT to PostgreSQL. Here some
-- rows of a statement move and one does not; into a sub-partition and out of it;
-- within one; none.
SET bemi.context = '{"by": "move"}';
UPDATE part SET id = CASE id WHEN 2 THEN 11 WHEN 12 THEN 23 ELSE id END WHERE id IN (2, 12, 13);
UPDATE part SET id = 3 WHERE id = 13;
UPDATE part_1 SET id = 16 WHERE id = 11;
UPDATE part SET task = 'none' WHERE id IN (3, 16);
-- a leaf that is named keeps its rows
UPDATE part_0 SET id = 11 WHERE id = 3;
SELECT * FROM tell();
COPY part (id) FROM stdin;
4
14
17
24
\.
COPY part_0 (id) FROM stdin;
5
\.
TRUNCATE part_0;
TRUNCATE part;
SELECT * FROM tell();

-- two leaves, a context for each row: the function within does not colour the rows
CREATE FUNCTION note(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"by": "inner"}'
AS $$ BEGIN INSERT INTO part VALUES (i + 100); RETURN i; END $$;
SET bemi.context = '{"by": "outer"}';
INSERT INTO part SELECT note(i) FROM generate_series(1, 21, 10) i;
UPDATE part SET task = note(id + 100) WHERE id < 100;
RESET bemi.context;
DELETE FROM part WHERE note(id + 200) > 300;
SELECT * FROM tell();
TRUNCATE part;
SELECT count(*) FROM tell();

--
-- ATTACH and DETACH, of a leaf and of a whole tree
--
SET bemi.context = '{"by": "ann"}';
CREATE TABLE came (id integer PRIMARY KEY, task text);
INSERT INTO came VALUES (30, 'before it came');
ALTER TABLE part DETACH PARTITION part_rest;
ALTER TABLE part ATTACH PARTITION came FOR VALUES FROM (30) TO (40);
CREATE TABLE tree (task text, id integer NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE tree_0 PARTITION OF tree FOR VALUES FROM (40) TO (45) PARTITION BY HASH (id);
CREATE TABLE tree_0_0 PARTITION OF tree_0 FOR VALUES WITH (MODULUS 1, REMAINDER 0);
ALTER TABLE part ATTACH PARTITION tree FOR VALUES FROM (40) TO (50);
CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (45) TO (50);
SELECT * FROM tracked;
UPDATE part SET task = 'came' WHERE id = 30;
UPDATE came SET id = 31;
INSERT INTO part VALUES (41), (46);
UPDATE part SET id = 47 WHERE id = 41;
DELETE FROM tree_1 WHERE id = 46;
DELETE FROM tree;
SELECT * FROM tell();

-- what is detached is as it was before, and its changes are its own
ALTER TABLE part DETACH PARTITION tree;
ALTER TABLE part DETACH PARTITION came CONCURRENTLY;
SELECT * FROM tracked;
INSERT INTO came VALUES (32);
UPDATE came SET task = 'gone';
INSERT INTO tree VALUES ('gone', 42);
UPDATE tree SET task = 'still gone';
UPDATE part_rest SET task = 'gone';
DELETE FROM came;
DELETE FROM tree;
SELECT * FROM tell();
SELECT relname, relreplident FROM pg_class WHERE relname IN ('came', 'tree', 'tree_0', 'tree_0_0', 'tree_1', 'part_rest') ORDER BY 1;
-- and back: the identity that it had is remembered
ALTER TABLE came REPLICA IDENTITY USING INDEX came_pkey;
ALTER TABLE part ATTACH PARTITION came FOR VALUES FROM (30) TO (40);
INSERT INTO part VALUES (33);
DELETE FROM came;
SELECT * FROM tell();
ALTER TABLE part DETACH PARTITION came;
SELECT relreplident FROM pg_class WHERE relname = 'came';

-- a table that is tracked on its own stays so when it comes and when it goes
SELECT bemi.track('tree');
ALTER TABLE part ATTACH PARTITION tree FOR VALUES FROM (40) TO (50);
INSERT INTO part VALUES (43);
UPDATE tree SET task = 'x';
SELECT * FROM tell();
ALTER TABLE part DETACH PARTITION tree;
UPDATE tree SET task = 'y';
DELETE FROM tree_0;
SELECT * FROM tell();
SELECT * FROM tracked;
SELECT bemi.untrack('tree');
DROP TABLE tree, came, part_rest;

--
-- Tracked before it is attached to a root that is not: rows that are written
-- through that root have no trigger, which bemi.tracked shows; no write fails
--
CREATE TABLE loose (id integer PRIMARY KEY, task text) PARTITION BY RANGE (id);
CREATE TABLE loose_0 (id integer PRIMARY KEY, task text);
SELECT bemi.track('loose_0');
ALTER TABLE loose ATTACH PARTITION loose_0 FOR VALUES FROM (0) TO (10);
SELECT "table", problems FROM tracked WHERE "table" LIKE 'loose%';
INSERT INTO loose_0 VALUES (1);
INSERT INTO loose VALUES (2);
UPDATE loose SET task = 'x' WHERE id = 1;
UPDATE loose_0 SET id = 3 WHERE id = 2;
DELETE FROM loose;
SELECT * FROM tell();
-- a partition alone cannot be tracked; tracking the root cures it all
CREATE TABLE loose_1 PARTITION OF loose FOR VALUES FROM (10) TO (20);
SELECT bemi.track('loose_1');
SELECT bemi.track('loose');
SELECT "table", problems FROM tracked WHERE "table" LIKE 'loose%';
INSERT INTO loose VALUES (4), (14);
SELECT * FROM tell();
SELECT bemi.untrack('loose_1');
SELECT bemi.untrack('loose');
DROP TABLE loose;

--
-- What cannot be tracked is left out, with a warning; the root's writes succeed
--
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE TABLE mixed (id integer, task text) PARTITION BY RANGE (id);
CREATE TABLE mixed_0 PARTITION OF mixed FOR VALUES FROM (0) TO (10);
CREATE UNLOGGED TABLE mixed_1 PARTITION OF mixed FOR VALUES FROM (10) TO (20);
CREATE FOREIGN TABLE mixed_2 PARTITION OF mixed FOR VALUES FROM (20) TO (30) SERVER nowhere;
ALTER TABLE mixed REPLICA IDENTITY FULL;
SELECT bemi.track('mixed');
SET client_min_messages = warning;
CREATE UNLOGGED TABLE mixed_3 PARTITION OF mixed FOR VALUES FROM (30) TO (40);
CREATE FOREIGN TABLE mixed_4 PARTITION OF mixed FOR VALUES FROM (40) TO (50) SERVER nowhere;
CREATE UNLOGGED TABLE mixed_5 (id integer, task text);
ALTER TABLE mixed ATTACH PARTITION mixed_5 FOR VALUES FROM (50) TO (60);
RESET client_min_messages;
SELECT "table", problems FROM tracked WHERE "table" LIKE 'mixed%';
DROP FOREIGN TABLE mixed_2, mixed_4;
INSERT INTO mixed VALUES (1, 'a'), (11, 'a'), (31, 'a'), (51, 'a');
UPDATE mixed SET id = CASE id WHEN 1 THEN 12 WHEN 11 THEN 2 ELSE id END, task = 'moved';
DELETE FROM mixed;
SELECT * FROM tell();
-- logged from now on: tracked from now on
ALTER TABLE mixed_1 SET LOGGED;
INSERT INTO mixed VALUES (13, 'a');
UPDATE mixed_1 SET task = 'b';
SELECT * FROM tell();
-- a leaf that becomes unlogged is not stored while it is, and no write fails
ALTER TABLE mixed_0 SET UNLOGGED;
SELECT "table", problems FROM tracked WHERE "table" = 'mixed_0';
INSERT INTO mixed VALUES (3, 'a');
UPDATE mixed SET task = 'b' WHERE id = 3;
ALTER TABLE mixed_0 SET LOGGED;
DELETE FROM mixed WHERE id = 3;
SELECT * FROM tell();
DROP TABLE mixed;
DROP SERVER nowhere;
DROP FOREIGN DATA WRAPPER nowhere;
-- all partitions of a temporary table are temporary, and none of bemi's business
CREATE TEMP TABLE passing (id integer) PARTITION BY RANGE (id);
CREATE TEMP TABLE passing_0 PARTITION OF passing FOR VALUES FROM (0) TO (10);
SELECT count(*) FROM tracked WHERE "table" LIKE '%passing%';
DROP TABLE passing;

--
-- Made and attached by the owner of the table, who may do nothing else, and in a
-- session whose session_replication_role holds ordinary triggers back
--
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_owner;
RESET client_min_messages;
CREATE ROLE regress_bemi_owner;
CREATE SCHEMA owned AUTHORIZATION regress_bemi_owner;
SET ROLE regress_bemi_owner;
CREATE TABLE owned.part (id integer PRIMARY KEY, task text) PARTITION BY RANGE (id);
SELECT bemi.track('owned.part');
RESET ROLE;
SELECT bemi.track('owned.part');
SET ROLE regress_bemi_owner;
SET bemi.context = '{"by": "owner"}';
CREATE TABLE owned.part_0 PARTITION OF owned.part FOR VALUES FROM (0) TO (10);
CREATE TABLE owned.part_1 (id integer PRIMARY KEY, task text);
ALTER TABLE owned.part ATTACH PARTITION owned.part_1 FOR VALUES FROM (10) TO (20);
INSERT INTO owned.part VALUES (1), (11);
UPDATE owned.part SET task = 'x';
UPDATE owned.part_0 SET task = 'y';
DELETE FROM owned.part_1;
ALTER TABLE owned.part DETACH PARTITION owned.part_1;
INSERT INTO owned.part_1 VALUES (12);
DELETE FROM owned.part_1;
RESET ROLE;
SELECT * FROM tell();
SET session_replication_role = replica;
CREATE TABLE owned.part_2 PARTITION OF owned.part FOR VALUES FROM (20) TO (30);
ALTER TABLE owned.part ATTACH PARTITION owned.part_1 FOR VALUES FROM (10) TO (20);
INSERT INTO owned.part VALUES (13), (23);
UPDATE owned.part SET task = 'replica' WHERE id > 10;
DELETE FROM owned.part_2;
SELECT * FROM tell();
ALTER TABLE owned.part DETACH PARTITION owned.part_1;
UPDATE owned.part_1 SET task = 'detached';
RESET session_replication_role;
SELECT "table", problems FROM tracked WHERE "table" LIKE 'owned%';
DROP SCHEMA owned CASCADE;
DROP ROLE regress_bemi_owner;

--
-- In one transaction with the writes, rolled back and committed
--
BEGIN;
SET LOCAL bemi.context = '{"by": "ann"}';
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (20) TO (30);
INSERT INTO part VALUES (20);
SAVEPOINT a;
CREATE TABLE part_3 PARTITION OF part FOR VALUES FROM (30) TO (40);
SET LOCAL bemi.context = '{"by": "bob"}';
INSERT INTO part VALUES (30);
ROLLBACK TO a;
UPDATE part_2 SET task = 'x';
ALTER TABLE part DETACH PARTITION part_2;
UPDATE part_2 SET task = 'not tracked';
COMMIT;
SELECT * FROM tell();

-- after all of this the worker is well
SELECT state, invalid_messages, restarts, last_error FROM bemi.status;

-- untracking the root leaves nothing on any leaf
SELECT bemi.untrack('part');
SELECT * FROM tracked;
SELECT relname, relreplident FROM pg_class WHERE relname LIKE 'part%' AND relkind IN ('r', 'p') ORDER BY 1;

DROP TABLE part, part_2;
DROP VIEW tracked;
DROP FUNCTION tell(), note(integer);
CALL bemi.drop_source('main');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
