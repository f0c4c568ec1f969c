--
-- Tables that join or leave a tracked root in unusual ways. No ATTACH or UPDATE may fail because
-- of what an owner did with the table before. Each part starts with the required result.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CREATE ROLE regress_bemi_evil;
CREATE SCHEMA evil AUTHORIZATION regress_bemi_evil;
CREATE TABLE todo (id integer);
SELECT bemi.track('todo');
-- 1. a trigger with the name of bemi's and other arguments, on another role's table: ATTACH elsewhere succeeds without a message
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
SELECT bemi.track('root');
SET ROLE regress_bemi_evil;
CREATE TABLE evil.t (id integer);
CREATE TRIGGER bemi_emit_context BEFORE INSERT ON evil.t EXECUTE FUNCTION bemi.emit_context('partition');
RESET ROLE;
CREATE TABLE leaf (id integer);
ALTER TABLE root ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10);
INSERT INTO root VALUES (1);
UPDATE root SET id = 2;
SELECT bemi.untrack('evil.t');
DROP TABLE root, evil.t;
-- 2. a leaf tracked on its own, then with a root that is untracked: the UPDATE succeeds
CREATE TABLE leaf (id integer);
SELECT bemi.track('leaf');
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
ALTER TABLE root ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10);
SELECT bemi.track('root');
SELECT bemi.untrack('root');
INSERT INTO root VALUES (1);
UPDATE root SET id = 2;
DROP TABLE root;
-- 3. a leaf tracked on its own, in a tree that is detached: the UPDATE succeeds
CREATE TABLE leaf (id integer);
SELECT bemi.track('leaf');
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
CREATE TABLE mid (id integer) PARTITION BY RANGE (id);
SELECT bemi.track('root');
ALTER TABLE mid ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10);
ALTER TABLE root ATTACH PARTITION mid FOR VALUES FROM (0) TO (10);
ALTER TABLE root DETACH PARTITION mid;
INSERT INTO leaf VALUES (1);
UPDATE leaf SET id = 2;
DROP TABLE root, mid;
-- 4. another role's trigger has the name of bemi's: a WARNING at ATTACH, and the UPDATE succeeds
CREATE FUNCTION somebodys() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
SELECT bemi.track('root');
CREATE TABLE leaf (id integer);
CREATE TRIGGER bemi_emit_context BEFORE INSERT ON leaf FOR EACH STATEMENT EXECUTE FUNCTION somebodys();
ALTER TABLE root ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10);
INSERT INTO root VALUES (1);
UPDATE root SET id = 2;
DROP TABLE root;
DROP FUNCTION somebodys();
-- 5. the root was published by hand, its trigger has another name: the UPDATE succeeds
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
CREATE TRIGGER by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON root EXECUTE FUNCTION bemi.emit_context();
ALTER PUBLICATION bemi ADD TABLE root;
CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
INSERT INTO root VALUES (1);
UPDATE root SET id = 2;
DROP TABLE root;
-- a table that was removed from the publication stays out, also when other tables change
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
SELECT bemi.track('root');
ALTER PUBLICATION bemi DROP TABLE todo;
ALTER TABLE root ADD COLUMN task text;
SELECT published FROM bemi.tracked WHERE "table" = 'todo'::regclass;
DROP TABLE root;
-- 6. untrack() of one table of a tracked schema: the error has a hint
CREATE SCHEMA shop;
SELECT bemi.track_schema('shop');
CREATE TABLE shop.item (id integer);
SELECT bemi.untrack('shop.item');
SELECT "table", triggers FROM bemi.tracked WHERE "table" = 'shop.item'::regclass;
SET client_min_messages = warning;
DROP SCHEMA shop, evil CASCADE;
DROP TABLE todo;
DROP ROLE regress_bemi_evil;
DROP PUBLICATION bemi;
DROP EXTENSION bemi CASCADE;
