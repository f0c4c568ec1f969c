-- Rules: which updates are stored, and which values.
--
-- A rule that fails leaks secrets or loses changes. An owner sets it, renames, dumps and
-- partitions carry it, and a worker applies it later. So each kind is tested from the call to the
-- row in bemi.changes, together with changes that must not be lost.

CREATE EXTENSION bemi;
CALL bemi.start();
\set SHOW_CONTEXT never
CREATE FUNCTION stored() RETURNS TABLE (n bigint, "table" text, operation text, key text, before jsonb, after jsonb) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT row_number() OVER (ORDER BY c.id), c."table", c.operation, c.primary_key, c.before, c.after
		FROM bemi.changes c ORDER BY c.id;
END $$;
CREATE PROCEDURE forget() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.sync('60s');
	COMMIT;
	TRUNCATE bemi.changes;
END $$;
-- Hashes are secret: shown are the same ones by the same number.
CREATE FUNCTION hashes(name text) RETURNS TABLE (n bigint, operation text, before text, after text) LANGUAGE sql AS $$
	SELECT bemi.sync('60s');
	WITH h AS (SELECT DISTINCT on (v) v, c.id AS first FROM bemi.changes c, LATERAL (VALUES (before->>name), (after->>name)) x(v)
			WHERE v ~ '^\[redacted:[0-9a-f]{32}\]$' ORDER BY v, c.id),
		numbered AS (SELECT v, 'hash ' || row_number() OVER (ORDER BY first, v = ANY (SELECT after->>name FROM bemi.changes c WHERE c.id = first)) AS number FROM h)
	SELECT row_number() OVER (ORDER BY id), operation,
			coalesce((SELECT number FROM numbered WHERE v = c.before->>name), c.before->>name),
			coalesce((SELECT number FROM numbered WHERE v = c.after->>name), c.after->>name)
		FROM bemi.changes c ORDER BY id
$$;

-- ignore: an update of such columns alone leaves nothing behind; with others they
-- are stored; inserts and deletes always are.
CREATE TABLE todo (id integer PRIMARY KEY, task text, "updatedAt" integer, cached_a text, cached_b integer[], big text);
SELECT bemi.track('todo', ignore => '{updatedAt,cached_*}');
SELECT ignore, redact, redact_hash, problems FROM bemi.tracked;
INSERT INTO todo VALUES (1, 'eat', 1, 'a', '{1}', repeat('x', 3000));
UPDATE todo SET "updatedAt" = 2;
UPDATE todo SET cached_a = NULL, cached_b = '{1,2}', "updatedAt" = 3;
UPDATE todo SET task = 'sleep', "updatedAt" = 4;
UPDATE todo SET id = 2;
DELETE FROM todo;
SELECT n, operation, key, before - 'big' AS before, after - 'big' AS after FROM stored();

-- Values are compared, not contained: other order, one more, null for empty.
SELECT bemi.track('todo', ignore => '{updatedAt}');
CALL forget();
INSERT INTO todo VALUES (3, '', 1, NULL, '{1,2}');
UPDATE todo SET cached_b = '{2,1}', "updatedAt" = 2;
UPDATE todo SET cached_b = '{2,1,1}';
UPDATE todo SET cached_b = '[2:4]={2,1,1}';
UPDATE todo SET task = NULL;
SELECT operation, before -> 'cached_b' AS before, after -> 'cached_b' AS after FROM stored();

-- An update that changes nothing is kept, or not.
CALL forget();
UPDATE todo SET task = task;
SELECT count(*) FROM stored();
ALTER SYSTEM SET bemi.noop_updates = off;
SELECT pg_reload_conf();
-- the worker reads the file between two batches
CREATE PROCEDURE wait_for_rules(statement text, kept boolean) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		TRUNCATE bemi.changes;
		COMMIT;
		EXECUTE statement;
		COMMIT;
		PERFORM bemi.sync('60s');
		COMMIT;
		EXIT WHEN EXISTS (SELECT FROM bemi.changes) = kept;
	END LOOP;
END $$;
CALL wait_for_rules('UPDATE todo SET task = task', false);
UPDATE todo SET task = task;
UPDATE todo SET "updatedAt" = 10;
UPDATE todo SET task = 'changed';
INSERT INTO todo VALUES (4);
UPDATE todo SET task = NULL WHERE id = 4;
SELECT operation, before ->> 'task' AS before, after ->> 'task' AS after FROM stored();
ALTER SYSTEM RESET bemi.noop_updates;
SELECT pg_reload_conf();
CALL wait_for_rules('UPDATE todo SET task = task', true);

-- For all tables: the setting.
CREATE TABLE other (id integer PRIMARY KEY, seen_at integer, "x,y" integer, v integer);
SELECT bemi.track('other');
INSERT INTO other VALUES (1, 1, 1, 1);
ALTER SYSTEM SET bemi.ignore_columns = 'seen_*, "x,y"';
SELECT pg_reload_conf();
CALL wait_for_rules('UPDATE other SET seen_at = seen_at + 1', false);
UPDATE other SET seen_at = 0, "x,y" = 0;
UPDATE todo SET "updatedAt" = 20;
UPDATE other SET seen_at = 1, v = 2;
SELECT "table", operation, before, after FROM stored();
ALTER SYSTEM RESET bemi.ignore_columns;
SELECT pg_reload_conf();
CALL wait_for_rules('UPDATE other SET seen_at = seen_at + 1', true);
SET bemi.ignore_columns = 'a,,b';
SET bemi.ignore_columns = '"a';
SET bemi.noop_updates = maybe;
SELECT bemi.untrack('other');

-- redact: in before, after and primary key; NULL stays NULL.
CREATE TABLE person (email text, id integer, name text, card jsonb, n numeric, PRIMARY KEY (id, email));
SELECT bemi.track('person', redact => '{email,card}', redact_hash => '{name,n}');
SELECT "table", ignore, redact, redact_hash FROM bemi.tracked ORDER BY "table"::text COLLATE "C";
CALL forget();
INSERT INTO person VALUES ('ann@example.com', 1, 'Ann', '{"number": "4111"}', 1.0), ('bob@example.com', 2, 'Ann', NULL, NULL);
UPDATE person SET card = '{"number": "4222"}' WHERE id = 1;
UPDATE person SET name = 'Anna' WHERE id = 1;
UPDATE person SET name = 'Ann', n = 1.00 WHERE id = 1;
DELETE FROM person WHERE id = 1;
SELECT n, operation, key, before - '{name,n}'::text[] AS before, after - '{name,n}'::text[] AS after FROM stored();
SELECT * FROM hashes('name');
SELECT * FROM hashes('n');
SELECT count(*) FROM bemi.changes WHERE concat(before, after, primary_key) ~ 'example|"4111|"4222|Ann';
-- A hashed key of one column still distinguishes rows.
CREATE TABLE keyed (email text PRIMARY KEY, v integer);
SELECT bemi.track('keyed', redact_hash => '{email}');
CALL forget();
INSERT INTO keyed VALUES ('a@example.com', 1), ('b@example.com', 1);
UPDATE keyed SET v = 2 WHERE email = 'a@example.com';
SELECT n, operation, count(*) OVER (PARTITION BY key) AS of_this_key, key = after ->> 'email' AS is_its_hash, after ->> 'v' AS v FROM stored() ORDER BY n;

-- NULL keeps a rule, an empty list removes it.
SELECT bemi.track('person');
SELECT bemi.track('person', ignore => '{n}');
SELECT ignore, redact, redact_hash FROM bemi.tracked WHERE "table" = 'person'::regclass;
SELECT bemi.track('person', redact => '{}', redact_hash => '{card,name,card}');
SELECT ignore, redact, redact_hash FROM bemi.tracked WHERE "table" = 'person'::regclass;
SELECT bemi.track('person', redact => '{card}', redact_hash => '{}');
SELECT ignore, redact, redact_hash FROM bemi.tracked WHERE "table" = 'person'::regclass;
SELECT bemi.track('person', redact_hash => '{c*}');
SELECT bemi.track('person', ignore => '{nothing}');
SELECT bemi.track('person', redact => '{"Name"}');
SELECT bemi.track('person', ignore => '{name,nothing_*}');
SELECT bemi.track('person', redact => '{name,NULL}');
SELECT bemi.track('person', ignore => '{""}');
SELECT bemi.track('person', ignore => '{ctid}');
SELECT ignore, redact, redact_hash FROM bemi.tracked WHERE "table" = 'person'::regclass;
-- A mistake at the first call tracks nothing.
CREATE TABLE fresh (id integer);
SELECT bemi.track('fresh', ignore => '{no}');
SELECT count(*) FROM bemi.tracked WHERE "table" = 'fresh'::regclass;
-- Names that need quoting.
CREATE TABLE "My ""table" (id integer PRIMARY KEY, "It's a ""name"", $1 %s" text, "ä\b" text, "{a,b}" text);
SELECT bemi.track('"My ""table"', redact => ARRAY['It''s a "name", $1 %s', 'ä\b'], ignore => ARRAY['{a,b}']);
SELECT ignore, redact, problems FROM bemi.tracked WHERE "table" = '"My ""table"'::regclass;
CALL forget();
INSERT INTO "My ""table" VALUES (1, 'secret', 'secret', 'x');
UPDATE "My ""table" SET "{a,b}" = 'y';
SELECT operation, after FROM stored();

-- A change of rules is for later commits, wherever the worker is.
CALL forget();
SELECT bemi.track('keyed', redact_hash => '{}');
CALL bemi.stop();
INSERT INTO keyed VALUES ('open', 1);
BEGIN;
INSERT INTO keyed VALUES ('before, in the same transaction', 2);
SELECT bemi.track('keyed', redact => '{email}', ignore => '{v}');
INSERT INTO keyed VALUES ('after, in the same transaction', 2);
UPDATE keyed SET v = 3;
COMMIT;
INSERT INTO keyed VALUES ('closed', 3);
BEGIN;
SELECT bemi.track('keyed', redact => '{}');
ROLLBACK;
INSERT INTO keyed VALUES ('closed, too', 4);
SELECT bemi.track('keyed', redact => '{}', ignore => '{}');
INSERT INTO keyed VALUES ('open again', 5);
UPDATE keyed SET v = 6 WHERE email = 'open again';
CALL bemi.start();
SELECT operation, key, after FROM stored();

-- A renamed column takes its rules along, also out of reach of a prefix; one that
-- takes over its name does not stay as it was.
SELECT bemi.track('todo', ignore => '{cached_*,updatedAt}', redact => '{task,cached_a}');
CALL forget();
INSERT INTO todo VALUES (9, 'secret', 1, 'secret', '{1}', 'open');
ALTER TABLE todo RENAME task TO duty;
ALTER TABLE todo RENAME cached_b TO plain;
ALTER TABLE todo RENAME cached_a TO cached_c;
ALTER TABLE todo RENAME big TO task;
SELECT ignore, redact, problems FROM bemi.tracked WHERE "table" = 'todo'::regclass;
UPDATE todo SET plain = '{2}' WHERE id = 9;
UPDATE todo SET duty = 'secret, too', cached_c = 'secret, too', task = 'open, too' WHERE id = 9;
SELECT operation, after FROM stored();
-- Dropped: shown as a problem, until the rules are set again, or the column is added again.
ALTER TABLE todo DROP duty;
SELECT ignore, redact, problems FROM bemi.tracked WHERE "table" = 'todo'::regclass;
CALL forget();
ALTER TABLE todo ADD duty text DEFAULT 'secret';
UPDATE todo SET task = 'open' WHERE id = 9;
SELECT operation, after FROM stored();

-- Where a rename goes along: inheriting tables, typed tables.
CREATE TABLE parent (id integer, secret text);
CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
CREATE TABLE grandchild (more text) INHERITS (child);
SELECT bemi.track('parent'), bemi.track('child', redact => '{secret}'), bemi.track('grandchild', redact_hash => '{sec*,more}');
CREATE TYPE shape AS (id integer, secret text);
CREATE TABLE typed OF shape;
SELECT bemi.track('typed', redact => '{secret}');
CALL forget();
ALTER TABLE parent RENAME secret TO hidden;
ALTER TYPE shape RENAME ATTRIBUTE secret TO hidden CASCADE;
SELECT "table", redact, redact_hash, problems FROM bemi.tracked WHERE "table" IN ('parent'::regclass, 'child', 'grandchild', 'typed') ORDER BY "table"::text COLLATE "C";
INSERT INTO parent VALUES (1, 'open');
INSERT INTO child VALUES (2, 'secret');
INSERT INTO grandchild VALUES (3, NULL, NULL);
INSERT INTO typed VALUES (4, 'secret');
SELECT "table", key, after FROM stored();

-- Partitions have the rules of their root, which alone has any.
CREATE TABLE part (id integer PRIMARY KEY, secret text, seen integer) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
SELECT bemi.track('part', redact => '{secret}', ignore => '{seen}');
CREATE TABLE part_2 (seen integer, gone integer, secret text, id integer NOT NULL);
ALTER TABLE part_2 DROP gone;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES FROM (10) TO (20);
SELECT bemi.track('part_1', ignore => '{id}');
SELECT bemi.track('part_1');
SELECT "table", ignore, redact, problems FROM bemi.tracked WHERE "table"::text LIKE 'part%' ORDER BY "table"::text COLLATE "C";
CALL forget();
INSERT INTO part VALUES (1, 'secret', 1), (11, 'secret', 1);
UPDATE part SET seen = 2;
UPDATE part_2 SET seen = 3;
SELECT bemi.track('part', ignore => '{}', redact => '{secret,seen}');
UPDATE part SET seen = 4;
SELECT "table", operation, before, after FROM stored();

-- Where the WAL does not hold the old row, nothing is left out.
ALTER TABLE other REPLICA IDENTITY DEFAULT;
SELECT bemi.track('other', ignore => '{seen_at}', redact => '{v}');
ALTER TABLE other REPLICA IDENTITY DEFAULT;
CALL forget();
UPDATE other SET seen_at = 7;
UPDATE other SET id = 2;
SELECT operation, key, before, after FROM stored();

-- Columns can change places, and a name counts once.
CREATE TABLE places (id integer, a text, b text, c text);
SELECT bemi.track('places', redact => '{a, a}', redact_hash => '{b, c}');
SELECT bemi.track('places', redact => '{b}', redact_hash => '{c, a}');
SELECT bemi.track('places', redact => '{b, c}');
SELECT bemi.track('places', redact_hash => '{b, a}');
SELECT bemi.track('places', redact => '{b, *}', redact_hash => '{a}');
SELECT redact, redact_hash FROM bemi.tracked WHERE "table" = 'places'::regclass;
-- Rules survive the rename of a column, under any settings of the session.
SET standard_conforming_strings = off;
SET client_min_messages = error;
SET backslash_quote = off;
SET search_path = pg_temp;
ALTER TABLE public.places RENAME b TO "b\d, ""e""";
RESET search_path;
RESET backslash_quote;
RESET client_min_messages;
RESET standard_conforming_strings;
SELECT redact, redact_hash FROM bemi.tracked WHERE "table" = 'places'::regclass;
DROP TABLE places;

-- Untracked, a table has no rules any more.
SELECT bemi.untrack('other');
SELECT bemi.track('other');
SELECT ignore, redact, redact_hash FROM bemi.tracked WHERE "table" = 'other'::regclass;

-- A role that may not track may not set rules. Invalid rules are refused.
CREATE ROLE regress_bemi_sly;
CREATE SCHEMA sly AUTHORIZATION regress_bemi_sly;
SET ROLE regress_bemi_sly;
CREATE TABLE sly.account (id integer, sum integer);
RESET ROLE;
SELECT bemi.track('sly.account');
SET ROLE regress_bemi_sly;
SELECT bemi.track('sly.account', ignore => '{sum}');
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', '{"ignore": ["*"]}');
CREATE TRIGGER other BEFORE INSERT OR UPDATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', '{"ignore": ["*"]}');
RESET ROLE;
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', 'no json');
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', '["ignore"]');
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', '{"ignore": "sum"}');
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', '{"other": ["sum"]}');
SELECT "table", ignore, problems FROM bemi.tracked WHERE "table" = 'sly.account'::regclass;
GRANT EXECUTE ON FUNCTION bemi.track TO regress_bemi_sly;
SET ROLE regress_bemi_sly;
SELECT bemi.track('sly.account', ignore => '{sum}');
RESET ROLE;
SELECT "table", ignore, problems FROM bemi.tracked WHERE "table" = 'sly.account'::regclass;

-- A role that may only create triggers removes no rule and adds none; nor does a trigger that
-- comes with its schema.
CREATE ROLE regress_bemi_maker;
GRANT EXECUTE ON FUNCTION bemi.track TO regress_bemi_maker;
GRANT USAGE ON SCHEMA sly TO regress_bemi_maker;
GRANT TRIGGER ON sly.account TO regress_bemi_maker;
SET ROLE regress_bemi_maker;
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table', '{"ignore": ["*"]}');
CREATE OR REPLACE TRIGGER bemi_emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON sly.account FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('f', '', 'table');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION bemi.track FROM regress_bemi_sly;
SELECT format('GRANT CREATE ON DATABASE %I TO regress_bemi_sly', current_database()) AS statement \gset
:statement;
SET ROLE regress_bemi_sly;
CREATE SCHEMA sly2 CREATE TABLE planted (id integer)
	CREATE TRIGGER bemi_emit_context BEFORE UPDATE ON planted FOR EACH STATEMENT
		EXECUTE FUNCTION bemi.emit_context('d', '', 'table', '{"ignore": ["*"]}');
RESET ROLE;
SELECT "table", ignore, problems FROM bemi.tracked WHERE "table"::text LIKE 'sly%';
SELECT replace(:'statement', 'GRANT', 'REVOKE') AS statement \gset
SELECT replace(:'statement', ' TO ', ' FROM ') AS statement \gset
:statement;

-- A trigger that its owner has created for fewer commands: to set rules makes it complete. Further rules
-- change only its arguments.
CREATE TABLE few (id integer PRIMARY KEY, secret text);
CREATE TRIGGER bemi_emit_context BEFORE UPDATE OF secret ON few FOR EACH STATEMENT
	EXECUTE FUNCTION bemi.emit_context('d', '', 'table');
SELECT bemi.track('few');
SELECT bemi.track('few', redact => '{secret}');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'few'::regclass;
SELECT oid AS trigger FROM pg_trigger WHERE tgrelid = 'few'::regclass \gset
SELECT bemi.track('few', ignore => '{secret}', redact => '{}');
SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE oid = :trigger;
SELECT ignore, redact FROM bemi.tracked WHERE "table" = 'few'::regclass;
DROP TABLE few;

-- The trigger dropped by hand: this is shown, and the columns are still redacted.
CREATE TABLE bare (id integer PRIMARY KEY, secret text);
SELECT bemi.track('bare', redact => '{secret}');
DROP TRIGGER bemi_emit_context ON bare;
ALTER TABLE bare ADD more text;
CALL forget();
INSERT INTO bare VALUES (1, 'secret', 'more');
SELECT operation, after FROM stored() WHERE "table" = 'bare';
SELECT redact, problems FROM bemi.tracked WHERE "table" = 'bare'::regclass;
-- Tracked again, the table has no rules.
SELECT bemi.track('bare');
CALL forget();
INSERT INTO bare VALUES (2, 'open', 'more');
SELECT operation, after FROM stored() WHERE "table" = 'bare';

-- How the trigger fires is not forgotten with a rule.
ALTER TABLE bare ENABLE ALWAYS TRIGGER bemi_emit_context;
SELECT bemi.track('bare', redact => '{secret}');
ALTER TABLE bare RENAME secret TO hidden;
SELECT tgenabled, redact FROM pg_trigger, bemi.tracked WHERE tgrelid = 'bare'::regclass AND "table" = 'bare'::regclass;
ALTER TABLE bare DISABLE TRIGGER bemi_emit_context;
SELECT bemi.track('bare', ignore => '{more}');
SELECT tgenabled, ignore, problems FROM pg_trigger, bemi.tracked WHERE tgrelid = 'bare'::regclass AND "table" = 'bare'::regclass;
ALTER TABLE bare ENABLE TRIGGER bemi_emit_context;

-- There are other commands that rename a table's column.
ALTER VIEW bare RENAME COLUMN hidden TO hidden_2;
ALTER MATERIALIZED VIEW bare RENAME COLUMN hidden_2 TO hidden_3;
CALL forget();
INSERT INTO bare VALUES (3, 'secret', 'more');
ALTER INDEX bare RENAME TO barer;
UPDATE barer SET more = 'more still', hidden_3 = NULL WHERE id = 3;
SELECT "table", operation, before, after FROM stored() WHERE "table" LIKE 'bare%';

-- Partitions that go are as redacted as they were, if they stay tracked; those that
-- come lose what they had, and are warned about.
CREATE SCHEMA parts;
SELECT bemi.track_schema('parts');
CREATE TABLE parts.root (id integer PRIMARY KEY, secret text) PARTITION BY RANGE (id);
CREATE TABLE parts.leaf PARTITION OF parts.root FOR VALUES FROM (0) TO (10);
SELECT bemi.track('parts.root', redact => '{secret}');
INSERT INTO parts.root VALUES (1, 'secret');
ALTER TABLE parts.root DETACH PARTITION parts.leaf;
SELECT "table", redact, problems FROM bemi.tracked WHERE "table"::text LIKE 'parts.%' ORDER BY "table"::text COLLATE "C";
CALL forget();
DELETE FROM parts.leaf;
SELECT "table", operation, before, after FROM stored() WHERE "table" = 'leaf';
SELECT bemi.track('parts.root', redact => '{}');
ALTER TABLE parts.root ATTACH PARTITION parts.leaf FOR VALUES FROM (0) TO (10);
SELECT "table", redact, problems FROM bemi.tracked WHERE "table"::text LIKE 'parts.%' ORDER BY "table"::text COLLATE "C";
-- Published by its own name, a partition still has the rules of its root.
SELECT bemi.track('parts.root', redact => '{secret}');
ALTER PUBLICATION bemi SET (publish_via_partition_root = false);
CALL forget();
INSERT INTO parts.root VALUES (2, 'secret');
SELECT "table", operation, after FROM stored() WHERE "table" IN ('root', 'leaf');
ALTER PUBLICATION bemi SET (publish_via_partition_root = true);

SELECT state, restarts, invalid_messages FROM bemi.status;

SET client_min_messages = warning;
CALL bemi.drop_source('main');
DROP SCHEMA sly, parts CASCADE;
DROP TABLE barer, todo, other, person, keyed, fresh, "My ""table", parent, child, grandchild, typed, part;
DROP TYPE shape;
DROP FUNCTION stored, hashes;
DROP PROCEDURE wait_for_rules, forget;
DROP PUBLICATION bemi;
DROP EXTENSION bemi CASCADE;
DROP ROLE regress_bemi_sly, regress_bemi_maker;
