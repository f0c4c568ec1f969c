--
-- Tables that come to a tracked root, or leave it, in unusual ways: whatever their
-- owners have done with them before, nobody's ATTACH or UPDATE may fail for it.
-- Each part says what must happen.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CREATE ROLE regress_bemi_evil;
CREATE SCHEMA evil AUTHORIZATION regress_bemi_evil;
CREATE TABLE todo (id integer);
SELECT bemi.track('todo');
-- 1. a trigger of bemi's name, with arguments of its own, on somebody's table: ATTACH elsewhere goes through without a word
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
-- 2. a leaf tracked on its own, then with a root that is untracked: the UPDATE goes through
CREATE TABLE leaf (id integer);
SELECT bemi.track('leaf');
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
ALTER TABLE root ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10);
SELECT bemi.track('root');
SELECT bemi.untrack('root');
INSERT INTO root VALUES (1);
UPDATE root SET id = 2;
DROP TABLE root;
-- 3. a leaf tracked on its own, within a tree that is detached: the UPDATE goes through
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
-- 4. somebody's own trigger has bemi's name: a WARNING at ATTACH, and the UPDATE goes through
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
-- 5. the root was published by hand, its trigger has another name: the UPDATE goes through
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
CREATE TRIGGER by_hand BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON root EXECUTE FUNCTION bemi.emit_context();
ALTER PUBLICATION bemi ADD TABLE root;
CREATE TABLE leaf PARTITION OF root FOR VALUES FROM (0) TO (10);
INSERT INTO root VALUES (1);
UPDATE root SET id = 2;
DROP TABLE root;
-- what somebody has taken out of the publication stays out, whatever is done to other tables
CREATE TABLE root (id integer) PARTITION BY RANGE (id);
SELECT bemi.track('root');
ALTER PUBLICATION bemi DROP TABLE todo;
ALTER TABLE root ADD COLUMN task text;
SELECT published FROM bemi.tracked WHERE "table" = 'todo'::regclass;
DROP TABLE root;
-- 6. untrack() of one table of a tracked schema: an error says what to do
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
