--
-- bemi.past(): an unmodified application reads the past with SET search_path.
--
-- What would be wrong is a row of today among those of the past. So each relation of the schema has
-- a view there, which returns the past or fails: tables, partitions, tables that others inherit
-- from, views of all kinds, also ones that read other schemas. The views read with the rights of
-- their reader.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE SCHEMA app;
CREATE SCHEMA elsewhere;
CREATE TABLE app.person (id integer PRIMARY KEY, name text);
CREATE TABLE app."Order" (id integer PRIMARY KEY, person integer REFERENCES app.person, "total sum" numeric);
CREATE TABLE app.item (part integer, no integer, PRIMARY KEY (part, no)) PARTITION BY LIST (part);
CREATE TABLE app.item_1 PARTITION OF app.item DEFAULT;
CREATE TABLE app.parent (id integer PRIMARY KEY);
CREATE TABLE app.child () INHERITS (app.parent);
CREATE TABLE app.untracked (id integer PRIMARY KEY, note text);
CREATE TABLE elsewhere.invoice (id integer PRIMARY KEY, person integer);
CREATE FUNCTION app.shout(text) RETURNS text LANGUAGE sql AS 'SELECT upper($1)';
SELECT bemi.track(t) FROM unnest(ARRAY['app.person', 'app."Order"', 'app.item', 'app.parent', 'elsewhere.invoice']::regclass[]) t;
-- A view that is created first and reads one that is created later.
CREATE VIEW app.a_top AS SELECT 1 AS id, ''::text AS name, 1::numeric AS total;
CREATE VIEW app.sums AS SELECT p.id, app.shout(p.name) AS name, sum("total sum") AS total
	FROM app.person p LEFT JOIN app."Order" o ON o.person = p.id GROUP BY p.id, p.name;
CREATE VIEW app.by_key AS SELECT id, name FROM app.person GROUP BY id;
CREATE OR REPLACE VIEW app.a_top AS SELECT * FROM app.sums WHERE total > 5;
CREATE MATERIALIZED VIEW app.names AS SELECT name FROM app.person;
CREATE VIEW app.billing AS SELECT * FROM app.person JOIN elsewhere.invoice USING (id);
CREATE VIEW app.notes AS SELECT note FROM app.untracked;
CREATE VIEW app.catalogs AS SELECT count(*) > 0 AS some FROM pg_class;

INSERT INTO app.person VALUES (1, 'ann'), (2, 'bob');
INSERT INTO app."Order" VALUES (1, 1, 10), (2, 2, 1);
INSERT INTO app.item VALUES (1, 1);
SELECT bemi.sync();
SELECT clock_timestamp() AS before_lunch \gset
UPDATE app.person SET name = 'anna' WHERE id = 1;
UPDATE app."Order" SET "total sum" = 100;
DELETE FROM app.item;
INSERT INTO app.untracked VALUES (1, 'today');
REFRESH MATERIALIZED VIEW app.names;

SELECT * FROM bemi.past('then', 'app', :'before_lunch');
SET search_path = "then", app;
SELECT * FROM person ORDER BY id;
SELECT * FROM "Order" ORDER BY id;
SELECT * FROM item;
SELECT * FROM sums ORDER BY id;
SELECT * FROM a_top;
SELECT * FROM names ORDER BY name;
SELECT * FROM by_key;	-- a view has no primary key
SELECT * FROM catalogs;
SELECT p.name FROM person p JOIN "Order" o ON o.person = p.id WHERE "total sum" > 5;
-- no rows of today
SELECT * FROM untracked;
SELECT * FROM notes;
SELECT * FROM billing;
SELECT * FROM item_1;
SELECT * FROM parent;
INSERT INTO person VALUES (3, 'eve');
SELECT * FROM child;
\echo :LAST_ERROR_SQLSTATE
RESET search_path;
SELECT obj_description('"then"'::regnamespace) LIKE 'bemi.past(): schema app, at => ''%+00''::timestamptz' AS commented;

-- Before a change, and at a position.
SELECT h.id AS change FROM bemi.history('app.person', '1') h WHERE operation = 'UPDATE' \gset
SELECT count(*) FROM bemi.past('before_it', 'app', before => :'change');
SELECT * FROM before_it.person ORDER BY id;
SELECT pg_current_wal_insert_lsn() AS here \gset
SELECT count(*) FROM bemi.past('at_lsn', 'app', at_lsn => :'here', allow_gaps => true);
SELECT * FROM at_lsn.person ORDER BY id;

-- Rights: the creator needs CREATE, a reader needs all rights on the tables.
CREATE ROLE bemi_past_reader;
SELECT bemi.grant_read('bemi_past_reader');
GRANT USAGE ON SCHEMA app, "then" TO bemi_past_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA "then" TO bemi_past_reader;
GRANT SELECT ON app.person TO bemi_past_reader;
SET ROLE bemi_past_reader;
SELECT * FROM bemi.past('mine', 'app', :'before_lunch');
SELECT count(*) FROM "then".person;
SELECT count(*) FROM "then"."Order";
SELECT count(*) FROM "then".sums;
RESET ROLE;
SELECT format('GRANT CREATE ON DATABASE %I TO bemi_past_reader', current_database()) \gexec
SET ROLE bemi_past_reader;
SELECT count(*) FROM bemi.past('mine', 'app', :'before_lunch');
SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'mine';
SELECT count(*) FROM mine.person;
\set VERBOSITY terse
DROP SCHEMA mine CASCADE;
\set VERBOSITY default
RESET ROLE;
SELECT bemi.revoke_read('bemi_past_reader');
SET ROLE bemi_past_reader;
SELECT count(*) FROM "then".person;
RESET ROLE;

-- Errors.
SELECT * FROM bemi.past('then', 'app', :'before_lunch');
SELECT * FROM bemi.past('public', 'app', :'before_lunch');
SELECT * FROM bemi.past(NULL, 'app', :'before_lunch');
SELECT * FROM bemi.past('p', NULL, :'before_lunch');
SELECT * FROM bemi.past('p', 'app');
SELECT * FROM bemi.past('p', 'app', :'before_lunch', before => :'change');
SELECT * FROM bemi.past('p', '1', :'before_lunch');
SELECT * FROM bemi.past('p', 'app', '2100-01-01 UTC');

\set VERBOSITY terse
DROP SCHEMA "then", before_it, at_lsn CASCADE;
SELECT format('REVOKE CREATE ON DATABASE %I FROM bemi_past_reader', current_database()) \gexec
DROP SCHEMA app, elsewhere CASCADE;
DROP ROLE bemi_past_reader;
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
