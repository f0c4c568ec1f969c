--
-- bemi.schema_changes: which command changed a tracked table, who ran it, and what the table was like before.
--
-- An auditor asks which deploy dropped a column. The answer is worthless if it names another command of the same
-- transaction, or one that was rolled back, and it must not show a password that was sent in the same text. The
-- functions that read the history look up former names here, so the place among the changes must be exact.
--
\set SHOW_CONTEXT never
\set ECHO none
CREATE EXTENSION bemi;
-- The schema changes since its last call.
CREATE FUNCTION told() RETURNS TABLE ("table" text, event text, command text, statement text, context jsonb,
	added text[], dropped text[], renamed jsonb, retyped jsonb)
LANGUAGE plpgsql AS $$
DECLARE
	seen text := current_setting('told.seen', true);
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT CASE WHEN (s.former_schema, s.former_table) <> (s.schema, s."table")
				THEN format('%s.%s -> ', s.former_schema, s.former_table) ELSE '' END || concat_ws('.', s.schema, s."table"),
			s.event, s.command, s.statement, s.context, s.added, s.dropped, s.renamed, s.retyped
		FROM bemi.schema_changes s WHERE seen IS NULL OR seen = '' OR s.id > seen::uuid ORDER BY s.id, s."table";
	PERFORM set_config('told.seen', coalesce((SELECT s.id::text FROM bemi.schema_changes s
		ORDER BY s.id DESC LIMIT 1), ''), false);
END $$;
-- The names of a table over time, as the functions that read the history get them.
CREATE FUNCTION names(target regclass) RETURNS TABLE (schema_name text, table_name text, columns jsonb, predecessor boolean, changes text[])
LANGUAGE sql AS $$
	SELECT n.schema_name, n.table_name, n.columns, n.predecessor, ARRAY(SELECT c.operation || ' ' || coalesce(c.primary_key, '')
			FROM bemi.changes c WHERE c.schema = n.schema_name AND c."table" = n.table_name AND c.source = 'main'
				AND (n.from_id IS NULL OR c.id > n.from_id) AND (n.to_id IS NULL OR c.id < n.to_id) ORDER BY c.id)
		FROM _bemi.history_of(target) h, _bemi.table_names(h.sources, h.relation, h.schema_name, h.table_name) n
$$;
\set ECHO all

CREATE TABLE todo (id int PRIMARY KEY, task text, done boolean);
SELECT bemi.track('todo');
CALL bemi.start();
SELECT "table", event, command, context FROM told();
SELECT detail FROM bemi.schema_changes;

--
-- Columns and names
--
SET bemi.context = '{"deploy": "v42"}';
INSERT INTO todo VALUES (1, 'Sleep', false);
ALTER TABLE todo ADD note varchar(10), DROP done;
ALTER TABLE todo RENAME task TO title;
INSERT INTO todo VALUES (2, 'Eat');
ALTER TABLE todo ALTER note TYPE text /*Bemi {"deploy": "v43"} Bemi*/;
/* before */ ALTER TABLE todo RENAME TO task; -- behind
INSERT INTO task VALUES (3, 'Run');
RESET bemi.context;
SELECT * FROM told();
SELECT columns_before, columns_after FROM bemi.schema_changes WHERE 'done' = ANY (dropped);
SELECT * FROM names('task');
-- A name that another column had.
ALTER TABLE task ADD done timestamptz;
ALTER TABLE task RENAME title TO tmp;
ALTER TABLE task RENAME note TO title;
SELECT bemi.sync();
SELECT * FROM names('task');
SELECT _bemi.rename_members('{"id": 1, "task": "x", "done": true, "other": 1}', n.columns) FROM names('task') n WHERE 'CREATE 1' = ANY (n.changes);
-- The key and the rules.
ALTER TABLE task DROP CONSTRAINT todo_pkey, ADD PRIMARY KEY (id, tmp);
SELECT bemi.track('task', ignore => '{done}', redact => '{title}');
SELECT bemi.sync();
SELECT event, command, key_before, key_after, rules_before, rules_after FROM bemi.schema_changes ORDER BY id DESC LIMIT 2;
SELECT count(*) FROM told();

--
-- No change
--
GRANT SELECT ON task TO pg_monitor;
ALTER TABLE task ALTER title SET STORAGE EXTERNAL, ALTER title SET STATISTICS 10, SET (fillfactor = 90);
CREATE INDEX ON task (tmp);
COMMENT ON TABLE task IS 'x';
ALTER TABLE task RENAME id TO id2;
ALTER TABLE task RENAME id2 TO id;
BEGIN;
ALTER TABLE task DROP tmp CASCADE;
ROLLBACK;
SELECT "table", renamed FROM told();

--
-- Nested commands: each has its own text
--
CREATE FUNCTION deploy() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	ALTER TABLE task ADD by_function int;
	BEGIN
		ALTER TABLE task ADD rolled_back int;
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		EXECUTE 'ALTER TABLE task ADD by_execute int; ALTER TABLE task DROP by_execute';
	END;
END $$;
SELECT deploy() /*Bemi {"job": "migrate"} Bemi*/;
DO 'BEGIN ALTER TABLE task DROP by_function; END';
BEGIN;
SET LOCAL bemi.context = '{"step": 1}';
ALTER TABLE task ADD a int;
SAVEPOINT s;
SET LOCAL bemi.context = '{"step": 2}';
ALTER TABLE task ADD b int;
ROLLBACK TO s;
ALTER TABLE task ADD c int;
RELEASE s;
INSERT INTO task (id, tmp) VALUES (4, 'x');
ALTER TABLE task DROP a, DROP c;
COMMIT;
SELECT "table", command, statement, context, added, dropped FROM told();
SELECT operation FROM bemi.changes c, (SELECT id FROM bemi.schema_changes ORDER BY id DESC LIMIT 3) s GROUP BY c.id, operation, primary_key
	HAVING primary_key = '["4", "x"]' AND array_agg(c.id < s.id ORDER BY s.id) = '{f,f,t}';

--
-- Secrets
--
-- Several statements in one text, as psql and drivers send them.
CREATE ROLE schema_changes_a PASSWORD 'secret' \; ALTER TABLE task ADD d int \; ALTER ROLE schema_changes_a PASSWORD 'secret';
DO 'BEGIN EXECUTE ''ALTER ROLE schema_changes_a PASSWORD $x$secret$x$; ALTER TABLE task ADD e int; DROP ROLE schema_changes_a''; END';
-- A rule redacts a column, so a constant may be secret.
ALTER TABLE task ADD f text DEFAULT 'secret';
ALTER TABLE task ADD g int DEFAULT 1234;
-- A query, an expression
CREATE SCHEMA own;
SELECT bemi.track_schema('own');
CREATE TABLE own.copy AS SELECT 'secret' AS x;
ALTER TABLE own.copy ALTER x TYPE int USING length('secret');
CREATE TABLE own.plain (id int PRIMARY KEY, x text DEFAULT 'not secret');
SELECT "table", event, command, statement, added FROM told();
SELECT count(*) FROM bemi.schema_changes s WHERE s::text LIKE '%secret%' AND s::text NOT LIKE '%not secret%';
-- A description that is too long for a message does not come, so the rules are not known.
BEGIN;
SELECT _bemi.record_schema_change('x', '1/x', 'x', '{"event": "began", "relation": "1", "schema": "s", "table": "t",
	"command": "ALTER TABLE", "statement": "ALTER TABLE t ADD x text DEFAULT ''secret''"}', '00000000-0000-8000-8000-000000000000', now(), NULL);
SELECT event, command, statement FROM bemi.schema_changes WHERE source = 'x';
ROLLBACK;
-- A long text is cut.
DO $$ BEGIN EXECUTE 'ALTER TABLE own.plain ALTER x SET DEFAULT ''' || repeat('ä', 10000) || ''', ADD y int'; END $$;
SELECT length(statement), octet_length(statement), right(statement, 4) FROM told();

--
-- Tables that take the names of others
--
-- a swap, with rows on both sides
CREATE TABLE own.new (id int PRIMARY KEY, x text);
INSERT INTO own.plain VALUES (1, 'old');
INSERT INTO own.new VALUES (1, 'new');
BEGIN;
INSERT INTO own.plain VALUES (2, 'old');
ALTER TABLE own.plain RENAME TO old;
ALTER TABLE own.new RENAME TO plain;
INSERT INTO own.plain VALUES (2, 'new');
INSERT INTO own.old VALUES (3, 'old');
COMMIT;
SELECT "table", event, statement FROM told();
SELECT * FROM names('own.plain');
SELECT * FROM names('own.old');
-- dropped and created again
DROP TABLE own.plain;
CREATE TABLE own.plain (id int PRIMARY KEY, z text);
INSERT INTO own.plain VALUES (9, 'newest');
SELECT "table", event, command, statement, added, dropped FROM told();
SELECT * FROM names('own.plain');
-- a schema, and out of it
ALTER SCHEMA own RENAME TO mine;
ALTER TABLE mine.old SET SCHEMA public;
SELECT "table", event, command, statement FROM told();
SELECT * FROM names('old');

--
-- Types, partitions, other ways to end
--
CREATE TYPE pair AS (x int, y int);
CREATE TABLE mine.typed (id int PRIMARY KEY, p pair);
SELECT count(*) FROM told();
ALTER TYPE pair ADD ATTRIBUTE z int;
SELECT "table", event, command, statement, added FROM told();
CREATE TABLE mine.parted (id int PRIMARY KEY, x text) PARTITION BY RANGE (id);
CREATE TABLE mine.parted_1 PARTITION OF mine.parted FOR VALUES FROM (0) TO (10);
CREATE TABLE public.parted_2 (id int PRIMARY KEY, x text);
INSERT INTO public.parted_2 VALUES (10);
ALTER TABLE mine.parted ATTACH PARTITION public.parted_2 FOR VALUES FROM (10) TO (20);
ALTER TABLE mine.parted ADD y int;
ALTER TABLE mine.parted_1 SET (fillfactor = 80);
INSERT INTO mine.parted VALUES (1);
ALTER TABLE mine.parted DETACH PARTITION mine.parted_1;
TRUNCATE public.parted_2;
SELECT t."table", t.event, t.statement, t.added FROM told() t;
SELECT event, detail FROM bemi.schema_changes WHERE event = 'rows changed' ORDER BY id;
SELECT bemi.untrack('old');
ALTER TABLE old RENAME x TO untold;
SELECT bemi.track('old');
DROP SCHEMA mine CASCADE;
SELECT "table", event, command, statement, renamed FROM told();

--
-- Rights
--
CREATE ROLE schema_changes_owner;
CREATE ROLE schema_changes_reader;
GRANT CREATE ON SCHEMA public TO schema_changes_owner;
SET ROLE schema_changes_owner;
CREATE TABLE owned (id int PRIMARY KEY);
RESET ROLE;
SELECT bemi.track('owned');
SET ROLE schema_changes_owner;
ALTER TABLE owned ADD x int;
RESET ROLE;
SELECT "table", event, statement, added FROM told();
SET ROLE schema_changes_reader;
SELECT count(*) FROM bemi.schema_changes;
RESET ROLE;
SELECT bemi.grant_read('schema_changes_reader');
SET ROLE schema_changes_reader;
SELECT count(*) > 10 AS readable FROM bemi.schema_changes;
SELECT table_name FROM _bemi.table_names('{main}', 'owned'::regclass, 'public', 'owned');
SELECT count(*) FROM _bemi.schema_changes;
RESET ROLE;
SELECT bemi.revoke_read('schema_changes_reader');
SET ROLE schema_changes_reader;
SELECT count(*) FROM bemi.schema_changes;
RESET ROLE;
DROP OWNED BY schema_changes_owner;
SELECT "table", event, command, statement, dropped FROM told();

--
-- Retention
--
-- What the changes that are left need is kept: "before" of the next schema change has the state. The last of a tracked
-- table is kept, too.
SELECT count(*) > 0 AS before, (SELECT count(*) FROM (SELECT DISTINCT ON (relation) after FROM _bemi.schema_changes
	ORDER BY relation, id DESC) s WHERE after -> 'tracked' = 'true') AS tracked FROM _bemi.schema_changes;
SELECT _bemi.forget_schema_changes('0');
SELECT count(*) > 10 AS before FROM _bemi.schema_changes;
DO $$ BEGIN EXECUTE (SELECT format('DROP TABLE %s', string_agg(partition::text, ', ')) FROM _bemi.partition_ranges()); END $$;
INSERT INTO bemi.holds (from_time, to_time) SELECT committed_at, committed_at + interval '1 microsecond' FROM _bemi.schema_changes WHERE 'done' = ANY (
	SELECT c ->> 1 FROM jsonb_array_elements(before -> 'columns') c) ORDER BY id LIMIT 1;
SELECT _bemi.forget_schema_changes('0');
SELECT schema, "table", event, statement FROM _bemi.schema_changes ORDER BY "table", id;
-- A change that comes again changes nothing.
SELECT _bemi.store_schema_change(s) FROM _bemi.schema_changes s;
SELECT count(*) FROM _bemi.schema_changes;

CALL bemi.stop();
DROP EXTENSION bemi CASCADE;
DROP TABLE task, old;
DROP TYPE pair;
DROP ROLE schema_changes_owner, schema_changes_reader;
