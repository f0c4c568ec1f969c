--
-- Tracking: what bemi.track() does to a table, what bemi.untrack() restores, what they refuse,
-- and who may call them (src/track/table.c, and the checks of the trigger function in
-- src/capture/capture.c).
--
-- No worker runs: tracking is visible in the catalogs.
--
CREATE EXTENSION bemi;
-- The origin of an error does not matter here, only its text.
\set SHOW_CONTEXT never

CREATE TABLE todo (id integer PRIMARY KEY, task text NOT NULL);
SELECT bemi.track('todo');
SELECT * FROM bemi.tracked;
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'todo'::regclass;
SELECT pubname, schemaname, tablename FROM pg_publication_tables;
SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication WHERE pubname = 'bemi';

-- Twice is harmless.
SELECT bemi.track('todo');
SELECT * FROM bemi.tracked;
SELECT bemi.untrack('todo');
SELECT bemi.untrack('todo');
SELECT * FROM bemi.tracked;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'todo'::regclass;
SELECT pubname, schemaname, tablename FROM pg_publication_tables;

-- bemi.untrack() restores the former state of a table. The names need quotes.
CREATE VIEW identity AS
	SELECT c.oid::regclass AS "table", relreplident, i.indexrelid::regclass AS index
	FROM pg_class c LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
	WHERE relkind IN ('r', 'p') AND relnamespace::regnamespace::text ~ '^(public|"My)';
CREATE TABLE as_default (id integer PRIMARY KEY);
CREATE TABLE as_nothing (id integer PRIMARY KEY);
ALTER TABLE as_nothing REPLICA IDENTITY NOTHING;
CREATE TABLE as_full (id integer PRIMARY KEY);
ALTER TABLE as_full REPLICA IDENTITY FULL;
CREATE TABLE as_index (id integer NOT NULL CONSTRAINT as_index_id UNIQUE);
ALTER TABLE as_index REPLICA IDENTITY USING INDEX as_index_id;
CREATE SCHEMA "My ""schema""";
CREATE TABLE "My ""schema"""."As 'Index" (id integer NOT NULL CONSTRAINT "It's ""one" UNIQUE);
ALTER TABLE "My ""schema"""."As 'Index" REPLICA IDENTITY USING INDEX "It's ""one";
CREATE FUNCTION all_tables() RETURNS SETOF regclass LANGUAGE sql AS
	$$ SELECT "table" FROM identity ORDER BY "table"::text COLLATE "C" $$;
SELECT * FROM identity ORDER BY "table"::text COLLATE "C";
SELECT count(bemi.track(t)) FROM all_tables() t;
SELECT * FROM identity ORDER BY "table"::text COLLATE "C";
SELECT * FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SELECT count(bemi.untrack(t)) FROM all_tables() t;
SELECT * FROM identity ORDER BY "table"::text COLLATE "C";
SELECT * FROM bemi.tracked;
DROP SCHEMA "My ""schema""" CASCADE;

-- An identity that was changed in between stays; an index that is gone
-- under its name leaves DEFAULT.
SELECT bemi.track('as_nothing');
ALTER TABLE as_nothing REPLICA IDENTITY DEFAULT;
SELECT * FROM bemi.tracked;
SELECT bemi.untrack('as_nothing');
SELECT bemi.track('as_index');
ALTER INDEX as_index_id RENAME TO as_index_renamed;
SELECT bemi.untrack('as_index');
ALTER TABLE as_index REPLICA IDENTITY USING INDEX as_index_renamed;
SELECT bemi.track('as_index');
ALTER TABLE as_index DROP CONSTRAINT as_index_renamed;
SELECT bemi.untrack('as_index');
SELECT * FROM identity ORDER BY "table"::text COLLATE "C";

-- Tracking follows a rename, and goes with the table.
SELECT bemi.track('as_nothing');
ALTER TABLE as_nothing RENAME TO as_renamed;
SELECT * FROM bemi.tracked;
DROP TABLE as_renamed;
SELECT * FROM bemi.tracked;

-- Partitions, of all levels; the publication holds the root.
CREATE TABLE part (id integer, kind text) PARTITION BY LIST (kind);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a');
CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE part_b_1 PARTITION OF part_b FOR VALUES FROM (0) TO (10);
CREATE TABLE part_b_2 PARTITION OF part_b FOR VALUES FROM (10) TO (20);
ALTER TABLE part_b_2 REPLICA IDENTITY NOTHING;
SELECT bemi.track('part');
SELECT * FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SELECT pubname, schemaname, tablename FROM pg_publication_tables;
SELECT bemi.untrack('part');
SELECT * FROM bemi.tracked;
SELECT * FROM identity WHERE "table"::text LIKE 'part%' ORDER BY "table"::text COLLATE "C";

-- An ordinary parent is tracked without its children, as it is written to without them.
CREATE TABLE base (id integer);
CREATE TABLE derived () INHERITS (base);
SELECT bemi.track('base');
SELECT * FROM bemi.tracked;
DROP TABLE base, derived;

-- What may be wrong with a tracked table.
SELECT bemi.track('todo'), bemi.track('as_default'), bemi.track('as_full');
ALTER TABLE todo DISABLE TRIGGER bemi_emit_context;
ALTER TABLE as_default REPLICA IDENTITY USING INDEX as_default_pkey;
ALTER PUBLICATION bemi DROP TABLE as_default;
DROP TRIGGER bemi_emit_context ON as_full;
SELECT "table", unnest(problems) AS problem FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
-- Tracking again mends what is missing; what was disabled stays so.
SELECT bemi.track('as_default'), bemi.track('as_full');
SELECT "table", unnest(problems) AS problem FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SELECT bemi.untrack('todo'), bemi.untrack('as_default'), bemi.untrack('as_full');
DROP TABLE as_default, as_full, as_index, part;

-- What cannot be tracked.
CREATE VIEW a_view AS SELECT * FROM todo;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM todo;
CREATE SEQUENCE a_sequence;
CREATE TYPE a_type AS (a integer);
CREATE FOREIGN DATA WRAPPER regress_bemi_fdw;
CREATE SERVER regress_bemi_server FOREIGN DATA WRAPPER regress_bemi_fdw;
CREATE FOREIGN TABLE a_foreign (a integer) SERVER regress_bemi_server;
CREATE UNLOGGED TABLE "An unlogged" (id integer);
CREATE TABLE part (id integer) PARTITION BY RANGE (id);
CREATE FOREIGN TABLE part_foreign PARTITION OF part FOR VALUES FROM (0) TO (10) SERVER regress_bemi_server;
CREATE TEMP TABLE a_temporary (id integer);
CREATE FUNCTION refusal(target regclass, OUT message text, OUT detail text, OUT hint text, OUT code text)
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.track(target);
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
		hint = PG_EXCEPTION_HINT, code = RETURNED_SQLSTATE;
END $$;
SELECT refusal.* FROM unnest('{a_view, a_matview, a_sequence, a_type, todo_pkey, a_foreign,
	a_temporary, "\"An unlogged\"", pg_class, information_schema.sql_features,
	bemi.changes, bemi.sources, bemi.tracked}'::text[]) AS relation, refusal(relation::regclass);
SELECT bemi.track('"An unlogged"');
SELECT bemi.track('nowhere');
SELECT bemi.track(NULL);
SELECT bemi.untrack(0::regclass);
SELECT * FROM bemi.tracked;

-- The trigger function, called as it should not be.
SELECT bemi.emit_context();
CREATE TABLE wrong (id integer);
-- Refused when made, or, where the event trigger is disabled, when used.
CREATE TRIGGER after_statement AFTER INSERT ON wrong FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context();
ALTER EVENT TRIGGER bemi_follow_ddl DISABLE;
CREATE TRIGGER after_statement AFTER INSERT ON wrong FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context();
CREATE TRIGGER before_row BEFORE UPDATE ON wrong FOR EACH ROW EXECUTE FUNCTION bemi.emit_context();
ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;
INSERT INTO wrong VALUES (1);
ALTER TABLE wrong DISABLE TRIGGER after_statement;
INSERT INTO wrong VALUES (1);
UPDATE wrong SET id = 2;

-- Rights. Writing with a context takes none but those on the table.
CREATE ROLE regress_bemi_bare;
CREATE ROLE regress_bemi_owner;
SELECT bemi.track('todo');
GRANT INSERT ON todo TO regress_bemi_bare;
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_track', 'test_decoding');
SET ROLE regress_bemi_bare;
SET bemi.context = '{"by": "bare"}';
INSERT INTO todo VALUES (1, 'eat');
SELECT bemi.set_context('{"by": "bare"}'), bemi.current_context();
RESET ROLE;
RESET bemi.context;
SELECT data FROM pg_logical_slot_get_changes('bemi_track', NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1') WHERE data NOT IN ('BEGIN', 'COMMIT');
SELECT pg_drop_replication_slot('bemi_track');

-- Everything else is refused.
SET ROLE regress_bemi_bare;
SELECT bemi.track('todo');
SELECT bemi.untrack('todo');
SELECT FROM bemi.changes;
SELECT FROM bemi.sources;
SELECT FROM bemi.status;
SELECT has_table_privilege('bemi.tracked', 'SELECT');		-- (which permission a query lacks first depends on the version)
CALL bemi.start();
CALL bemi.stop();
SELECT bemi.sync();
SELECT _bemi.source_status();
SELECT _bemi.register_source('main', NULL, 'regress_bemi_owner');
SELECT _bemi.set_desired_state('main', 'stop');
SELECT _bemi.ensure_publication();
SELECT _bemi.make_partition(now());
RESET ROLE;

-- A table's owner may track once that is granted, without being superuser; not
-- the tables of others.
CREATE TABLE others (id integer PRIMARY KEY);
GRANT CREATE ON SCHEMA public TO regress_bemi_owner;
SET ROLE regress_bemi_owner;
CREATE TABLE mine (id integer PRIMARY KEY);
SELECT bemi.track('mine');
RESET ROLE;
GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack TO regress_bemi_owner;
SET ROLE regress_bemi_owner;
SELECT bemi.track('mine');
SELECT bemi.track('others');
SELECT bemi.track('todo');
SELECT bemi.untrack('todo');
RESET ROLE;
SELECT * FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
SET ROLE regress_bemi_owner;
SELECT bemi.untrack('mine');
RESET ROLE;
SELECT * FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
-- Nobody acts with the rights of the extension's owner.
GRANT EXECUTE ON PROCEDURE bemi.start, bemi.stop TO regress_bemi_owner;
SET ROLE regress_bemi_owner;
CALL bemi.start();
CALL bemi.stop();
RESET ROLE;
-- Monitoring sees the state, not the history.
GRANT pg_monitor TO regress_bemi_bare;
SET ROLE regress_bemi_bare;
SELECT FROM bemi.status;
SELECT "table" FROM bemi.tracked ORDER BY "table"::text;
SELECT FROM bemi.changes;
SELECT FROM bemi.sources;
RESET ROLE;

DROP VIEW identity, a_view;
DROP MATERIALIZED VIEW a_matview;
DROP TABLE a_temporary, todo, "An unlogged", wrong, mine, others, part;
DROP SEQUENCE a_sequence;
DROP TYPE a_type;
DROP FOREIGN DATA WRAPPER regress_bemi_fdw CASCADE;
DROP FUNCTION all_tables(), refusal(regclass);
DROP PUBLICATION bemi;
DROP EXTENSION bemi;
DROP OWNED BY regress_bemi_bare, regress_bemi_owner;
DROP ROLE regress_bemi_bare, regress_bemi_owner;
