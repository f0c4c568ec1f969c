--
-- Rights: who can do what, and that nobody can do more with bemi than without it.
--
-- bemi works inside the statements of other roles: its triggers run in their writes, its event
-- triggers in their DDL, partly as the superuser who created the extension. So a role with only
-- INSERT on one table calls every function that it may call. A table owner tries to have bemi
-- change a table of another role. A role that may create objects plants some that a superuser
-- might run.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_bare, regress_bemi_owner, regress_bemi_keeper, regress_bemi_monitor;
RESET client_min_messages;
CREATE ROLE regress_bemi_bare;
CREATE ROLE regress_bemi_owner;
CREATE ROLE regress_bemi_keeper;
CREATE ROLE regress_bemi_monitor IN ROLE pg_monitor;

--
-- What PUBLIC may execute and read, and what runs with its owner's rights
--
SELECT p.oid::regprocedure AS public FROM pg_proc p
	WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND has_function_privilege('regress_bemi_bare', p.oid, 'EXECUTE')
	ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regprocedure AS monitor FROM pg_proc p
	WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND has_function_privilege('regress_bemi_monitor', p.oid, 'EXECUTE')
		AND NOT has_function_privilege('regress_bemi_bare', p.oid, 'EXECUTE')
	ORDER BY p.oid::regprocedure::text COLLATE "C";
SELECT p.oid::regprocedure AS definer FROM pg_proc p
	WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND p.prosecdef
	ORDER BY p.oid::regprocedure::text COLLATE "C";
-- a definer without a pinned search_path, or one that ends elsewhere than in pg_temp: none
SELECT p.oid::regprocedure, p.proconfig FROM pg_proc p
	WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND p.prosecdef
		AND (p.proconfig IS NULL OR NOT 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig));
-- all others that are not written in C have it, too, because they can run in a superuser's session;
-- a body that was parsed when the function was created needs none
SELECT p.oid::regprocedure, p.proconfig FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
	WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND l.lanname <> 'c'
		AND p.prosqlbody IS NULL
		AND (p.proconfig IS NULL OR NOT 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig));
SELECT c.relname, c.relkind, has_table_privilege('regress_bemi_bare', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE') AS public,
		has_table_privilege('regress_bemi_monitor', c.oid, 'SELECT') AS monitor
	FROM pg_class c WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'S')
	ORDER BY c.relname COLLATE "C", c.relkind;
SELECT has_schema_privilege('regress_bemi_bare', 'bemi', 'USAGE') AS usage,
	has_schema_privilege('regress_bemi_bare', 'bemi', 'CREATE') AS "create";

--
-- A role with nothing but INSERT
--
CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE other (id integer PRIMARY KEY, task text);
SELECT bemi.track('todo');
GRANT INSERT ON todo TO regress_bemi_bare;
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_rights', 'test_decoding');
SET ROLE regress_bemi_bare;
SET bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (1);
BEGIN;
SELECT bemi.set_context('{"n": 2}');
SELECT bemi.merge_context('{"m": 3}');
SELECT bemi.current_context();
INSERT INTO todo VALUES (2);
COMMIT;
INSERT INTO todo VALUES (3) /*Bemi {"n": 4} Bemi*/;
COPY todo (id) FROM stdin;
4
\.
-- what it may not do, it may not do with a context either
DELETE FROM todo;
TRUNCATE todo;
INSERT INTO other VALUES (1);
RESET ROLE;
SELECT data FROM pg_logical_slot_get_changes('bemi_rights', NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1')
	WHERE data NOT IN ('BEGIN', 'COMMIT');

-- and every function that it may execute, and those for others, on a table and a schema of another role
CREATE SCHEMA shop AUTHORIZATION regress_bemi_owner;
CREATE TABLE shop.item (id integer PRIMARY KEY);
ALTER TABLE shop.item OWNER TO regress_bemi_owner;
SET ROLE regress_bemi_bare;
SELECT bemi.track('other');
SELECT bemi.untrack('todo');
SELECT bemi.track_schema('shop');
SELECT bemi.untrack_schema('shop');
SELECT _bemi.enter_schema('shop', true);
SELECT _bemi.enter_schema('shop', false);
SELECT _bemi.check_tracker(10, 'anything');
SELECT * FROM _bemi.source_status();
SELECT bemi.sync();
CALL bemi.start();
CALL bemi.drop_source('main');
SELECT bemi.emit_context();
SELECT _bemi.follow_ddl();
SELECT _bemi.forget_dropped_schemas();
SELECT _bemi.protect_history();
-- these only read what everybody may read
SELECT _bemi.has_trigger('todo'), _bemi.has_trigger('other');
SELECT _bemi.untrackable('todo'), _bemi.untrackable('pg_class');
-- nor the tables
SELECT * FROM bemi.changes;
SELECT * FROM bemi.sources;
INSERT INTO bemi.tracked_schemas VALUES ('shop');
SELECT has_table_privilege('bemi.tracked', 'SELECT');		-- (which permission a query lacks first depends on the version)
SELECT * FROM bemi.status;
CREATE TABLE bemi.mine ();
-- nor a trigger of bemi's on another's table
CREATE TRIGGER mine BEFORE INSERT ON todo EXECUTE FUNCTION bemi.emit_context();
ALTER TABLE todo DISABLE TRIGGER bemi_emit_context;
RESET ROLE;
-- nothing has come of it
SELECT "table", triggers, problems FROM bemi.tracked;
SELECT count(*) FROM bemi.tracked_schemas;
SELECT count(*) FROM bemi.sources;

--
-- An owner: may track what is his once he has been granted bemi.track(), no more
--
SET ROLE regress_bemi_owner;
SELECT bemi.track('shop.item');
SELECT _bemi.enter_schema('shop', true);
RESET ROLE;
GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack,
	bemi.track_schema(regnamespace), bemi.untrack_schema(regnamespace) TO regress_bemi_owner, regress_bemi_keeper;
SET ROLE regress_bemi_owner;
SELECT bemi.track('shop.item');
SELECT bemi.track('shop.item');
SELECT bemi.untrack('shop.item');
SELECT bemi.track_schema('shop');
CREATE TABLE shop.order (id integer);
SELECT bemi.track('other');
SELECT bemi.untrack('todo');
SELECT bemi.track_schema('public');
SELECT _bemi.enter_schema('public', true);
RESET ROLE;
SELECT "table", triggers, problems FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SELECT schema FROM bemi.tracked_schemas;
-- another role that was granted it: not for this owner's table
SET ROLE regress_bemi_keeper;
SELECT bemi.untrack('shop.item');
SELECT _bemi.enter_schema('shop', false);
RESET ROLE;
-- unless he is a member of the owner
GRANT regress_bemi_owner TO regress_bemi_keeper;
SET ROLE regress_bemi_keeper;
SELECT bemi.untrack('shop.item');
SELECT bemi.untrack_schema('shop');
RESET ROLE;
SELECT "table" FROM bemi.tracked ORDER BY "table"::text COLLATE "C";

-- Code of one role that another one's session happens to run has that role's
-- rights: an index expression, run by a superuser's ANALYZE, untracks nothing.
GRANT EXECUTE ON FUNCTION bemi.untrack TO regress_bemi_bare;
SET ROLE regress_bemi_bare;
CREATE TEMPORARY TABLE bait (id integer);
CREATE FUNCTION pg_temp.harmless(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
	AS $$ BEGIN RETURN i; END $$;
CREATE INDEX ON bait (pg_temp.harmless(id));
INSERT INTO bait VALUES (1), (2);
CREATE OR REPLACE FUNCTION pg_temp.harmless(i integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE
	AS $$ BEGIN PERFORM bemi.untrack('public.todo'); RETURN i; END $$;
RESET ROLE;
\set VERBOSITY terse
ANALYZE bait;
\set VERBOSITY default
SELECT "table" FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
DROP TABLE bait;
DROP FUNCTION pg_temp.harmless(integer);
REVOKE EXECUTE ON FUNCTION bemi.untrack FROM regress_bemi_bare;
-- and what does not exist cannot be noted
SELECT _bemi.enter_schema(99999::oid::regnamespace, true);

--
-- Monitoring sees how the sources are, not what they store
--
SET ROLE regress_bemi_monitor;
SELECT count(*) FROM bemi.status;
SELECT count(*) FROM bemi.tracked;
SELECT count(*) FROM _bemi.source_status();
SELECT count(*) FROM bemi.changes;
SELECT count(*) FROM bemi.sources;
CALL bemi.start();
RESET ROLE;

--
-- A role that may create objects plants some in a schema, by the names
-- that bemi's functions use; a superuser with it and pg_temp first in his path tracks its
-- table and makes partitions of it. "caught" would list a role that ran them.
--
CREATE TABLE caught (by text);
GRANT INSERT ON caught TO PUBLIC;
CREATE SCHEMA trap AUTHORIZATION regress_bemi_owner;
SET ROLE regress_bemi_owner;
CREATE FUNCTION trap.catch() RETURNS integer LANGUAGE sql AS 'INSERT INTO public.caught VALUES (current_user) RETURNING 1';
CREATE FUNCTION trap.format(text, name, name) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN pg_catalog.format($1, $2, $3); END $$;
CREATE FUNCTION trap.format(text, name, regclass) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN pg_catalog.format($1, $2, $3); END $$;
CREATE FUNCTION trap.pg_has_role(name, oid, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE FUNCTION trap.has_function_privilege(name, text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE FUNCTION trap.pg_partition_root(oid) RETURNS regclass LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN $1; END $$;
CREATE FUNCTION trap.pg_partition_tree(oid) RETURNS TABLE (relid regclass, level integer) LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); END $$;
CREATE FUNCTION trap.equal(name, name) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE FUNCTION trap.equal(name, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE FUNCTION trap.equal("char", text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE FUNCTION trap.equal(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE FUNCTION trap.equal(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM trap.catch(); RETURN true; END $$;
CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = name, FUNCTION = trap.equal);
CREATE OPERATOR trap.= (LEFTARG = name, RIGHTARG = text, FUNCTION = trap.equal);
CREATE OPERATOR trap.= (LEFTARG = "char", RIGHTARG = text, FUNCTION = trap.equal);
CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = trap.equal);
CREATE OPERATOR trap.= (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = trap.equal);
CREATE VIEW trap.pg_class AS SELECT c.*, trap.catch() FROM pg_catalog.pg_class c;
CREATE VIEW trap.pg_trigger AS SELECT c.*, trap.catch() FROM pg_catalog.pg_trigger c;
CREATE VIEW trap.pg_publication AS SELECT c.*, trap.catch() FROM pg_catalog.pg_publication c;
-- names of tables and columns that would run SQL if they were not quoted
CREATE TABLE trap."t; SELECT trap.catch(); --" (id integer) PARTITION BY RANGE (id);
CREATE TABLE trap."') ; SELECT trap.catch(); --" (id integer NOT NULL UNIQUE);
ALTER TABLE trap."') ; SELECT trap.catch(); --" REPLICA IDENTITY USING INDEX "') ; SELECT trap.catch(); --_id_key";
ALTER INDEX trap."') ; SELECT trap.catch(); --_id_key" RENAME TO "'); SELECT trap.catch(); --";
RESET ROLE;
CREATE TEMP TABLE pg_class AS SELECT * FROM pg_catalog.pg_class LIMIT 0;
CREATE TEMP TABLE pg_trigger AS SELECT * FROM pg_catalog.pg_trigger LIMIT 0;
CREATE TEMP TABLE pg_publication_rel AS SELECT * FROM pg_catalog.pg_publication_rel LIMIT 0;
CREATE TEMP TABLE tracked_schemas (schema name, schema_oid oid);
-- the trap works
SET search_path = trap, public, pg_temp, pg_catalog;
SELECT 'a'::name = 'b'::name;
DELETE FROM caught RETURNING by = session_user AS myself;
SELECT bemi.track('trap."t; SELECT trap.catch(); --"');
SELECT bemi.track('trap."'') ; SELECT trap.catch(); --"');
CREATE TABLE trap."p; SELECT trap.catch(); --" PARTITION OF trap."t; SELECT trap.catch(); --" FOR VALUES FROM (0) TO (10);
ALTER TABLE trap."t; SELECT trap.catch(); --" DETACH PARTITION trap."p; SELECT trap.catch(); --";
ALTER TABLE trap."t; SELECT trap.catch(); --" ATTACH PARTITION trap."p; SELECT trap.catch(); --" FOR VALUES FROM (0) TO (10);
INSERT INTO trap."t; SELECT trap.catch(); --" VALUES (1);
SET search_path = pg_catalog;
SELECT "table", triggers, problems FROM bemi.tracked WHERE "table"::text LIKE 'trap%' ORDER BY "table"::text COLLATE "C";
SET search_path = trap, public, pg_temp, pg_catalog;
SELECT bemi.untrack('trap."t; SELECT trap.catch(); --"');
SELECT bemi.untrack('trap."'') ; SELECT trap.catch(); --"');
SELECT bemi.track_schema('trap');
SELECT bemi.untrack_schema('trap');
RESET search_path;
SELECT * FROM caught;
-- the identity by index is back
SELECT relreplident FROM pg_catalog.pg_class WHERE relname = ''') ; SELECT trap.catch(); --';
DROP TABLE pg_temp.pg_class, pg_temp.pg_trigger, pg_temp.pg_publication_rel, pg_temp.tracked_schemas;

-- a trigger function of the owner's that would run as another role: what bemi does
-- to a table fires no trigger of the table, and the owner's event is his own
SET ROLE regress_bemi_owner;
CREATE TABLE trap.part (id integer) PARTITION BY RANGE (id);
RESET ROLE;
SELECT bemi.track('trap.part');
SET ROLE regress_bemi_owner;
SET search_path = trap, public, pg_temp, pg_catalog;
CREATE TABLE trap.part_0 PARTITION OF trap.part FOR VALUES FROM (0) TO (10);
RESET search_path;
RESET ROLE;
SELECT * FROM caught;

-- a schema of the name "bemi" cannot be there before the extension, nor come into it
SET client_min_messages = warning;
DROP SCHEMA trap, shop CASCADE;
DROP TABLE todo, other, caught;
SELECT pg_drop_replication_slot('bemi_rights');
DROP PUBLICATION IF EXISTS bemi;
DROP EXTENSION bemi CASCADE;
CREATE SCHEMA bemi AUTHORIZATION regress_bemi_owner;
CREATE EXTENSION bemi;
DROP SCHEMA bemi;
DROP ROLE regress_bemi_bare, regress_bemi_owner, regress_bemi_keeper, regress_bemi_monitor;
