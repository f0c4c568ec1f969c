--
-- The arguments of bemi's trigger are claims of the table's owner, and are not trusted.
--
-- The arguments stay with the table in a dump and after a rename, so they cannot be stored
-- elsewhere. But a role can write any arguments when it creates triggers on its own table. So a
-- role that may not track makes each claim, next to another role's root that is tracked with
-- rules, and the test shows what is stored. A trusted claim would hide changes, or store those of
-- an untracked table.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_claimer, regress_bemi_victim;
RESET client_min_messages;
CREATE ROLE regress_bemi_claimer;
CREATE ROLE regress_bemi_victim;
CREATE SCHEMA shop;
GRANT USAGE, CREATE ON SCHEMA shop TO regress_bemi_claimer;
CREATE SCHEMA own AUTHORIZATION regress_bemi_claimer;
SELECT bemi.track_schema('shop');
CREATE TABLE root (id integer, v text) PARTITION BY RANGE (id);
ALTER TABLE root OWNER TO regress_bemi_victim;
SELECT bemi.track('root', ignore => '{v}');
CALL bemi.start();
CREATE VIEW tracked AS SELECT "table"::text, identity, published, ignore, problems FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
CREATE FUNCTION claim(target regclass, membership text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s'
		' FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context(''d'', '''', %L)', target, membership);
END $$;

--
-- The claim to be a partition: the table, moved to a tracked schema, has the rules of no root
--
SET ROLE regress_bemi_claimer;
CREATE TABLE own.salary (id integer PRIMARY KEY, v text);
SELECT claim('own.salary', 'partition');
ALTER TABLE own.salary SET SCHEMA shop;
SET ROLE regress_bemi_victim;
ALTER TABLE root ALTER COLUMN id SET STATISTICS 10;
SET ROLE regress_bemi_claimer;
INSERT INTO shop.salary VALUES (1, '1');
UPDATE shop.salary SET v = '1000000';
RESET ROLE;
SELECT bemi.sync('60s');
SELECT operation, after FROM bemi.changes ORDER BY id;
SELECT * FROM tracked;

--
-- The claim to have been attached: a table that was a partition is not tracked when it is detached
--
SET ROLE regress_bemi_claimer;
CREATE TABLE own.parent (id integer) PARTITION BY RANGE (id);
CREATE TABLE own.child (id integer);
SELECT claim('own.child', 'attached');
ALTER TABLE own.parent ATTACH PARTITION own.child FOR VALUES FROM (0) TO (10);
RESET ROLE;
SELECT bemi.track('own.parent');
SET ROLE regress_bemi_claimer;
ALTER TABLE own.parent DETACH PARTITION own.child;
RESET ROLE;
SELECT * FROM tracked WHERE "table" LIKE 'own%';
-- a role that may track can do so
GRANT EXECUTE ON FUNCTION bemi.track TO regress_bemi_claimer;
SET ROLE regress_bemi_claimer;
SELECT bemi.track('own.child');
ALTER TABLE own.parent ATTACH PARTITION own.child FOR VALUES FROM (0) TO (10);
ALTER TABLE own.parent DETACH PARTITION own.child;
RESET ROLE;
SELECT * FROM tracked WHERE "table" LIKE 'own%';

--
-- The claim to be tracked already: a table that is attached has an identity nevertheless
--
SET ROLE regress_bemi_claimer;
CREATE TABLE own.bare (id integer);
SELECT claim('own.bare', 'partition');
ALTER TABLE own.parent ATTACH PARTITION own.bare FOR VALUES FROM (20) TO (30);
INSERT INTO own.parent VALUES (20);
UPDATE own.parent SET id = 21;
RESET ROLE;
SELECT * FROM tracked WHERE "table" LIKE 'own%';
-- an unknown word
SET ROLE regress_bemi_claimer;
ALTER TABLE own.parent DETACH PARTITION own.bare;
SELECT claim('own.bare', 'nonsense');
ALTER TABLE own.parent ATTACH PARTITION own.bare FOR VALUES FROM (20) TO (30);
ALTER TABLE own.parent DETACH PARTITION own.bare;
RESET ROLE;
SELECT * FROM tracked WHERE "table" LIKE 'own%';

CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP SCHEMA shop, own CASCADE;
DROP TABLE root;
DROP VIEW tracked;
DROP FUNCTION claim(regclass, text);
DROP PUBLICATION bemi;
DROP EXTENSION bemi CASCADE;
DROP ROLE regress_bemi_claimer, regress_bemi_victim;
