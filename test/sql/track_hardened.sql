--
-- Hardened databases: ordinary roles can do with bemi what they can do without it.
--
-- Event triggers of bemi fire in every DDL command, its statement triggers in every write. An
-- administrator can have revoked EXECUTE from PUBLIC by default privileges before CREATE
-- EXTENSION, or on all functions afterwards, or USAGE on the schema. So the same long list of
-- statements runs as an ordinary role in all these states, and all of them must succeed.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_low, regress_bemi_owner;
CREATE ROLE regress_bemi_low;
CREATE ROLE regress_bemi_owner;
SELECT current_database() AS database \gset
GRANT CREATE ON DATABASE :"database" TO regress_bemi_low;
GRANT CREATE ON SCHEMA public TO regress_bemi_low;

-- What runs with the extension there, one statement a row. "low" owns nothing but what it makes, and has been
-- granted nothing but writes to "watched".
CREATE TABLE statements (n serial, statement text);
INSERT INTO statements (statement) SELECT * FROM regexp_split_to_table($$
	CREATE TABLE public.lt (id int PRIMARY KEY, v text);
	CREATE FUNCTION public.lf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
	CREATE TRIGGER mine AFTER INSERT ON public.lt FOR EACH STATEMENT EXECUTE FUNCTION public.lf();
	CREATE OR REPLACE TRIGGER mine AFTER UPDATE ON public.lt FOR EACH STATEMENT EXECUTE FUNCTION public.lf();
	ALTER TABLE public.lt DISABLE TRIGGER mine;
	DROP TRIGGER mine ON public.lt;
	CREATE SCHEMA low_schema;
	CREATE SCHEMA low_too CREATE TABLE t (id int PRIMARY KEY) CREATE VIEW v AS SELECT * FROM t
		CREATE TRIGGER mine AFTER INSERT ON t FOR EACH STATEMENT EXECUTE FUNCTION public.lf();
	ALTER SCHEMA low_schema RENAME TO low_other;
	ALTER TABLE public.lt SET SCHEMA low_other;
	ALTER TABLE low_other.lt ADD COLUMN w text DEFAULT 'x', ALTER COLUMN v SET NOT NULL;
	ALTER TABLE low_other.lt RENAME v TO u;
	ALTER TABLE low_other.lt RENAME TO lt2;
	CREATE TEMPORARY TABLE scratch (id int);
	ALTER TABLE scratch ADD COLUMN v text;
	DROP TABLE scratch;
	CREATE TABLE low_other.made AS SELECT 1 AS id;
	CREATE TYPE low_other.pair AS (a int, b text);
	ALTER TYPE low_other.pair RENAME ATTRIBUTE b TO c;
	ALTER TYPE low_other.pair ADD ATTRIBUTE d int;
	CREATE TABLE low_other.uses_pair (id int, p low_other.pair);
	CREATE VIEW low_other.v AS SELECT * FROM low_other.made;
	ALTER VIEW low_other.v RENAME id TO number;
	CREATE MATERIALIZED VIEW low_other.mv AS SELECT * FROM low_other.made;
	ALTER MATERIALIZED VIEW low_other.mv RENAME id TO number;
	CREATE SEQUENCE low_other.s;
	ALTER SEQUENCE low_other.s RENAME TO s2;
	CREATE INDEX made_id ON low_other.made (id);
	ALTER INDEX low_other.made_id RENAME TO made_index;
	CREATE TABLE low_other.parted (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE low_other.parted_0 PARTITION OF low_other.parted FOR VALUES FROM (0) TO (10);
	CREATE TABLE low_other.parted_1 (id int PRIMARY KEY);
	ALTER TABLE low_other.parted ATTACH PARTITION low_other.parted_1 FOR VALUES FROM (10) TO (20);
	ALTER TABLE low_other.parted DETACH PARTITION low_other.parted_0;
	CREATE TABLE low_other.child () INHERITS (low_other.lt2);
	CREATE PUBLICATION low_publication FOR TABLE low_other.made;
	ALTER PUBLICATION low_publication ADD TABLE low_other.parted_1;
	ALTER PUBLICATION low_publication RENAME TO low_renamed;
	ALTER PUBLICATION low_renamed DROP TABLE low_other.made;
	DROP PUBLICATION low_renamed;
	INSERT INTO watched VALUES (1, 'a') ON CONFLICT DO NOTHING;
	UPDATE watched SET v = 'b';
	DELETE FROM watched WHERE id = 1;
	TRUNCATE watched;
	INSERT INTO watched_parts VALUES (1), (11);
	UPDATE watched_parts SET id = 2 WHERE id = 1;
	DELETE FROM watched_parts;
	-- the table of another owner, tracked: created, altered and dropped by roles that were granted access
	CREATE TABLE watched_schema.mine (id int PRIMARY KEY, v text);
	ALTER TABLE watched_schema.mine RENAME v TO w;
	INSERT INTO watched_schema.mine VALUES (1, 'a');
	UPDATE watched_schema.mine SET w = 'b';
	ALTER TABLE watched_schema.mine ADD COLUMN x int;
	ALTER TABLE watched_schema.mine SET SCHEMA low_other;
	ALTER TABLE low_other.mine SET SCHEMA watched_schema;
	CREATE TABLE watched_schema.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE watched_schema.parts_0 PARTITION OF watched_schema.parts FOR VALUES FROM (0) TO (10);
	INSERT INTO watched_schema.parts VALUES (1);
	UPDATE watched_schema.parts SET id = 2;
	ALTER TABLE watched_schema.parts DETACH PARTITION watched_schema.parts_0;
	ALTER TABLE watched_schema.parts ATTACH PARTITION watched_schema.parts_0 FOR VALUES FROM (0) TO (10);
	DROP TABLE watched_schema.parts, watched_schema.mine;
	DROP SCHEMA low_other, low_too CASCADE;
	DROP FUNCTION public.lf()
	$$, ';\s*\n') s WHERE s !~ '^\s*$';

CREATE FUNCTION run_as_low() RETURNS TABLE (failed text, message text) LANGUAGE plpgsql AS $$
DECLARE
	command text;
BEGIN
	FOR command IN SELECT statement FROM statements ORDER BY n LOOP
		BEGIN
			SET LOCAL ROLE regress_bemi_low;
			EXECUTE command;
			RESET ROLE;
		EXCEPTION WHEN OTHERS THEN
			RESET ROLE;
			failed := command;
			message := SQLERRM;
			RETURN NEXT;
		END;
	END LOOP;
END $$;

-- what a database with bemi has: a tracked table and a tracked schema that "low" may write to
CREATE PROCEDURE prepare() LANGUAGE plpgsql AS $$
BEGIN
	CREATE TABLE watched (id int PRIMARY KEY, v text);
	CREATE TABLE watched_parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
	CREATE TABLE watched_parts_0 PARTITION OF watched_parts FOR VALUES FROM (0) TO (10);
	CREATE TABLE watched_parts_1 PARTITION OF watched_parts FOR VALUES FROM (10) TO (20);
	GRANT ALL ON watched, watched_parts TO regress_bemi_low;
	CREATE SCHEMA watched_schema;
	GRANT ALL ON SCHEMA watched_schema TO regress_bemi_low;
END $$;
CREATE PROCEDURE track() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.track('watched', redact => '{v}'), bemi.track('watched_parts'), bemi.track_schema('watched_schema');
END $$;
CREATE PROCEDURE tidy() LANGUAGE plpgsql AS $$
BEGIN
	DROP TABLE watched, watched_parts;
	DROP SCHEMA watched_schema CASCADE;
END $$;

-- Without bemi, all of it works: what fails below fails because of bemi.
CALL prepare();
SELECT * FROM run_as_low();
CALL tidy();

-- By default privileges, from the beginning
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE EXTENSION bemi;
CALL prepare();
CALL track();
SELECT * FROM run_as_low();
-- and contexts can be set, which takes functions that were granted to PUBLIC
SET ROLE regress_bemi_low;
BEGIN;
SELECT bemi.set_context('{"n": 1}');
SELECT bemi.merge_context('{"m": 2}');
SELECT bemi.current_context();
INSERT INTO watched VALUES (1, 'a');
COMMIT;
RESET ROLE;
-- an owner may track, if he has been granted that; what bemi.track() calls needs no grant
GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack, bemi.track_schema(regnamespace), bemi.untrack_schema(regnamespace) TO regress_bemi_owner;
CREATE SCHEMA shop AUTHORIZATION regress_bemi_owner;
SET ROLE regress_bemi_owner;
CREATE TABLE shop.item (id int PRIMARY KEY, card text);
CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE shop.parts_0 PARTITION OF shop.parts FOR VALUES FROM (0) TO (10);
SELECT bemi.track('shop.item', redact => '{card}'), bemi.track('shop.parts');
SELECT bemi.untrack('shop.item');
SELECT bemi.track_schema('shop');
SELECT bemi.untrack_schema('shop');
RESET ROLE;
DROP SCHEMA shop CASCADE;
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;

-- On all functions, afterwards
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA bemi, _bemi FROM PUBLIC;
SELECT * FROM run_as_low();

-- On the schema, too
REVOKE ALL ON SCHEMA bemi, _bemi FROM PUBLIC;
SELECT * FROM run_as_low();

-- Those of the server that event triggers are for
REVOKE EXECUTE ON FUNCTION pg_event_trigger_ddl_commands(), pg_event_trigger_dropped_objects() FROM PUBLIC;
SELECT * FROM run_as_low();
GRANT EXECUTE ON FUNCTION pg_event_trigger_ddl_commands(), pg_event_trigger_dropped_objects() TO PUBLIC;

-- An owner tracks, if he is given by name what that takes.
GRANT USAGE ON SCHEMA bemi, _bemi TO regress_bemi_owner;
GRANT EXECUTE ON FUNCTION bemi.emit_context() TO regress_bemi_owner;
CREATE SCHEMA shop AUTHORIZATION regress_bemi_owner;
SET ROLE regress_bemi_owner;
CREATE TABLE shop.item (id int PRIMARY KEY, card text);
CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE shop.parts_0 PARTITION OF shop.parts FOR VALUES FROM (0) TO (10);
SELECT bemi.track('shop.item', redact => '{card}'), bemi.track('shop.parts');
SELECT bemi.track('shop.item', redact => '{}', ignore => '{card}');
SELECT bemi.untrack('shop.item'), bemi.untrack('shop.parts');
RESET ROLE;
DROP SCHEMA shop CASCADE;

-- What is refused is still refused.
GRANT USAGE ON SCHEMA bemi, _bemi TO regress_bemi_low;
GRANT EXECUTE ON FUNCTION bemi.emit_context() TO regress_bemi_low;
SET ROLE regress_bemi_low;
CREATE TABLE public.lt (id int);
CREATE TRIGGER bemi_emit_context BEFORE INSERT ON public.lt EXECUTE FUNCTION bemi.emit_context('d', '', 'table', '{"ignore": ["*"]}');
RESET ROLE;

CALL tidy();
DROP PUBLICATION bemi;
DROP EXTENSION bemi CASCADE;	-- and what roles have been granted on it
DROP TABLE public.lt, statements;
DROP FUNCTION run_as_low;
DROP PROCEDURE prepare, track, tidy;
REVOKE ALL ON DATABASE :"database" FROM regress_bemi_low;
REVOKE ALL ON SCHEMA public FROM regress_bemi_low;
DROP ROLE regress_bemi_low, regress_bemi_owner;
