--
-- What "before" and "after" contain: complete rows if the write-ahead log (WAL) has them, and
-- otherwise only what the WAL has.
--
-- A reader can see that a value is missing, but not that a value is invented. So complete rows
-- are compared with what a row trigger has recorded in the same transaction. Incomplete rows are
-- tested one by one, for each replica identity that a user can set on a tracked table.
-- (store_changes.sql has the types.)
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
-- The worker's setting; pg_regress sets another one.
SET timezone = 'UTC';
SET datestyle = 'ISO';
-- Row filters and column lists came with PostgreSQL 15 (decode_images_1.out is without).
SELECT current_setting('server_version_num')::integer >= 150000 AS has_filters \gset

-- More than 2 kB that nothing compresses, and that an UPDATE therefore leaves where
-- it is, out of line, if it is not itself changed.
CREATE FUNCTION big(seed text, bytes integer DEFAULT 10000) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT left(string_agg(md5(seed || n), ''), bytes) FROM generate_series(1, bytes / 32 + 1) n
$$;
-- Texts of some length as a note of what they are.
CREATE FUNCTION brief(image jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT coalesce(jsonb_object_agg(key, CASE WHEN length(value #>> '{}') > 100
		THEN to_jsonb(format('%s...(%s)', left(value #>> '{}', 4), length(value #>> '{}'))) ELSE value END), '{}')
	FROM jsonb_each(image)
$$;
-- The changes stored since the last call, in commit order.
CREATE FUNCTION tell() RETURNS TABLE ("table" text, operation text, primary_key text, before jsonb, after jsonb)
LANGUAGE plpgsql AS $$
DECLARE
	seen text := current_setting('tell.seen', true);
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT c."table", c.operation, CASE WHEN length(c.primary_key) > 100 THEN 'long ' || length(c.primary_key) ELSE c.primary_key END,
			brief(c.before), brief(c.after)
		FROM bemi.changes c WHERE seen IS NULL OR seen = '' OR c.id > seen::uuid ORDER BY c.id;
	PERFORM set_config('tell.seen', (SELECT c.id::text FROM bemi.changes c ORDER BY c.id DESC LIMIT 1), false);
END $$;
-- The other record, made by each table's row trigger. Generated columns are not in
-- the stream everywhere, so they are left out of the comparison.
CREATE TABLE noted (n serial, "table" name, operation text, before jsonb, after jsonb);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
	generated text[] := ARRAY(SELECT attname FROM pg_attribute WHERE attrelid = TG_RELID AND attgenerated <> '');
BEGIN
	INSERT INTO public.noted ("table", operation, before, after) VALUES (TG_TABLE_NAME, replace(TG_OP, 'INSERT', 'CREATE'),
		CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN to_jsonb(OLD) - generated ELSE '{}' END,
		CASE WHEN TG_OP IN ('UPDATE', 'INSERT') THEN to_jsonb(NEW) - generated ELSE '{}' END);
	RETURN NULL;
END $$;
CREATE FUNCTION follow(VARIADIC tables regclass[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	target regclass;
BEGIN
	FOREACH target IN ARRAY tables LOOP
		EXECUTE format('CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION note()', target);
		PERFORM bemi.track(target);
	END LOOP;
END $$;
-- Where the two are not the same, for tables whose identity is still FULL.
CREATE FUNCTION differences() RETURNS TABLE (which text, noted jsonb, stored jsonb) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT concat_ws(' ', n."table", n.operation, c."table", c.operation), brief(n.before || n.after), brief(c.before || c.after)
		FROM (SELECT *, row_number() OVER (ORDER BY t.n) AS nth FROM noted t) n
		FULL JOIN (SELECT *, row_number() OVER (ORDER BY t.id) AS nth FROM bemi.changes t
				WHERE t.operation <> 'TRUNCATE' AND t."table" IN (SELECT o."table" FROM noted o)) c USING (nth)
		WHERE (n."table", n.operation, n.before, n.after) IS DISTINCT FROM (c."table", c.operation, c.before - 'generated', c.after - 'generated')
		ORDER BY nth;
END $$;

--
-- REPLICA IDENTITY FULL: both are whole
--

-- Values out of line, compressed, compressed and out of line, and in the row; each
-- left alone, changed, emptied, set to the same.
CREATE TABLE doc (id integer PRIMARY KEY, n integer, body text, squeezed text, far text, short text, bytes bytea, list text[], json jsonb);
ALTER TABLE doc ALTER body SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL, ALTER short SET STORAGE EXTERNAL;
SELECT follow('doc');
INSERT INTO doc SELECT i, i, big('body' || i), repeat('squeezed', 10000), repeat(big('far' || i, 2000), 10), 'short',
		decode(big('bytes' || i), 'hex'), ARRAY[big('list' || i), NULL, 'x'], jsonb_build_object('a', big('json' || i), 'b', NULL)
	FROM generate_series(1, 4) i;
UPDATE doc SET n = 10 WHERE id = 1;
UPDATE doc SET body = big('other') WHERE id = 1;
UPDATE doc SET body = body, bytes = bytes WHERE id = 1;
UPDATE doc SET body = body || '' WHERE id = 1;
UPDATE doc SET body = NULL, list = list || NULL, json = json - 'b' WHERE id = 1;
UPDATE doc SET body = '', bytes = NULL WHERE id = 1;
UPDATE doc SET body = big('back'), short = big('no longer') WHERE id = 1;
UPDATE doc SET short = far, far = short WHERE id = 1;
UPDATE doc SET id = 100 WHERE id = 2;
UPDATE doc SET (n, body, squeezed, far, short, bytes, list, json) = (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) WHERE id = 3;
BEGIN;
UPDATE doc SET n = 11 WHERE id = 4;
UPDATE doc SET n = 12 WHERE id = 4;
SAVEPOINT s;
UPDATE doc SET body = 'undone' WHERE id = 4;
ROLLBACK TO s;
UPDATE doc SET n = 13 WHERE id = 4;
COMMIT;
INSERT INTO doc (id, n) VALUES (4, 14) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
DELETE FROM doc;
SELECT * FROM differences();
SELECT count(*) FROM noted;

-- An UPDATE to equal values is a change, as everywhere in PostgreSQL. An UPDATE of no
-- row, or a suppressed one, is none.
CREATE TABLE idle (id integer PRIMARY KEY, v text, big text);
ALTER TABLE idle ALTER big SET STORAGE EXTERNAL;
SELECT follow('idle');
INSERT INTO idle VALUES (1, 'a', big('idle')), (2, NULL, NULL);
UPDATE idle SET id = id, v = v, big = big;
UPDATE idle SET v = v WHERE false;
INSERT INTO idle VALUES (1) ON CONFLICT DO NOTHING;
INSERT INTO idle VALUES (1) ON CONFLICT (id) DO UPDATE SET v = idle.v;
CREATE TRIGGER z_suppress BEFORE UPDATE ON idle FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
UPDATE idle SET v = v WHERE id = 2;
SELECT operation, primary_key, before, after, before = after AS same FROM tell() WHERE "table" = 'idle';
SELECT * FROM differences();

-- Columns that the server fills: generated, identity, serial, default.
CREATE TABLE filled (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, other integer GENERATED BY DEFAULT AS IDENTITY (START 100),
	n serial, v text DEFAULT 'def' || 'ault', at timestamptz DEFAULT '2024-02-29 12:00+00', generated text GENERATED ALWAYS AS (upper(v)) STORED, w uuid);
SELECT follow('filled');
INSERT INTO filled DEFAULT VALUES;
INSERT INTO filled (id, other, n, v) OVERRIDING SYSTEM VALUE VALUES (50, 51, 52, NULL);
INSERT INTO filled (v) VALUES (DEFAULT), ('given');
UPDATE filled SET v = 'updated' WHERE id = 1;
UPDATE filled SET id = DEFAULT, n = DEFAULT, v = DEFAULT WHERE id = 50;
DELETE FROM filled;
SELECT operation, primary_key, before - 'generated' AS before, after - 'generated' AS after FROM tell();
-- where it is there, it is right
SELECT operation, before->'generated', before->'v', after->'generated', after->'v' FROM bemi.changes WHERE "table" = 'filled'
	AND (before ? 'generated' AND before->>'generated' IS DISTINCT FROM upper(before->>'v')
		OR after ? 'generated' AND after->>'generated' IS DISTINCT FROM upper(after->>'v'));

-- Tracking makes no UPDATE or DELETE fail, for columns of any kind. (PostgreSQL 18 has
-- generated columns that are not stored, and takes none of any kind for a part of the
-- replica identity that is not published. A table that cannot be tracked for it may
-- be refused.)
CREATE SCHEMA computed;
SELECT bemi.track_schema('computed');
SELECT CASE WHEN current_setting('server_version_num')::integer >= 180000 THEN 'VIRTUAL' ELSE 'STORED' END AS virtual \gset
CREATE TABLE computed_stored (id integer PRIMARY KEY, v text, generated text GENERATED ALWAYS AS (upper(v)) STORED);
CREATE TABLE computed_virtual (id integer PRIMARY KEY, v text, generated text GENERATED ALWAYS AS (upper(v)) :virtual);
CREATE TABLE computed_later (id integer PRIMARY KEY, v text);
CREATE TABLE computed_root (id integer PRIMARY KEY, v text, generated text GENERATED ALWAYS AS (upper(v)) STORED) PARTITION BY RANGE (id);
CREATE TABLE computed_part PARTITION OF computed_root FOR VALUES FROM (0) TO (10);
DO $$
DECLARE
	target regclass;
BEGIN
	FOREACH target IN ARRAY '{computed_stored, computed_virtual, computed_later, computed_root}'::regclass[] LOOP
		BEGIN
			PERFORM bemi.track(target);
		EXCEPTION WHEN feature_not_supported OR wrong_object_type OR object_not_in_prerequisite_state THEN
		END;
	END LOOP;
END $$;
SET client_min_messages = error;
CREATE TABLE computed.stored (id integer PRIMARY KEY, v text, generated text GENERATED ALWAYS AS (upper(v)) STORED);
CREATE TABLE computed.virtual (id integer PRIMARY KEY, v text, generated text GENERATED ALWAYS AS (upper(v)) :virtual);
ALTER TABLE computed_later ADD COLUMN generated text GENERATED ALWAYS AS (upper(v)) STORED, ADD COLUMN virtual text GENERATED ALWAYS AS (upper(v)) :virtual;
RESET client_min_messages;
CREATE FUNCTION write_to(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO %s (id, v) VALUES (1, ''a'')', target);
	EXECUTE format('UPDATE %s SET v = ''b''', target);
	EXECUTE format('DELETE FROM %s', target);
END $$;
SELECT write_to('computed_stored');
SELECT write_to('computed_virtual');
SELECT write_to('computed_later');
SELECT write_to('computed_root');
SELECT write_to('computed.stored');
SELECT write_to('computed.virtual');
SELECT bemi.sync('60s');
-- what was tracked is stored, one for each
SELECT t AS "table", count(c.*) <> CASE WHEN b."table" IS NULL THEN 0 ELSE 3 END AS wrong
	FROM unnest('{computed_stored, computed_virtual, computed_later, computed_root, computed.stored, computed.virtual}'::regclass[]) t
		LEFT JOIN bemi.tracked b ON b."table" = t
		LEFT JOIN bemi.changes c ON to_regclass(format('%I.%I', c.schema, c."table")) = t
	GROUP BY 1, b."table" ORDER BY 1;
SELECT bemi.untrack_schema('computed');
DROP TABLE computed_stored, computed_virtual, computed_later, computed_root;
SET client_min_messages = warning;
DROP SCHEMA computed CASCADE;
RESET client_min_messages;

-- Columns that rows do not have in them: added with a default, and never written;
-- and such that they still have, though they are dropped.
CREATE TABLE aged (id integer PRIMARY KEY, gone text, v text);
INSERT INTO aged VALUES (1, 'gone', 'old'), (2, big('gone'), 'old'), (3, NULL, NULL);
ALTER TABLE aged ADD COLUMN since text DEFAULT 'then', ADD COLUMN empty text, ADD COLUMN made_at timestamptz DEFAULT '2024-02-29 12:00+00';
ALTER TABLE aged ALTER since SET DEFAULT 'now';
ALTER TABLE aged DROP COLUMN gone, ADD COLUMN "...." integer[] DEFAULT '{1, NULL}';
SELECT follow('aged');
UPDATE aged SET v = 'new' WHERE id = 1;
DELETE FROM aged WHERE id = 2;
INSERT INTO aged VALUES (4);
ALTER TABLE aged ADD COLUMN gone numeric DEFAULT 1.50;
UPDATE aged SET gone = gone + 1 WHERE id = 3;
ALTER TABLE aged DROP COLUMN since;
UPDATE aged SET v = 'newer' WHERE id <> 2;
SELECT operation, primary_key, before, after FROM tell() WHERE "table" = 'aged';
SELECT * FROM differences();

-- A key of several columns, one of them out of line: the rows and the key are whole
-- all the same. (An entry of an index has room for 2.7 kB.)
CREATE TABLE heavy (id integer, part text, v text, more text, PRIMARY KEY (part, id));
ALTER TABLE heavy ALTER part SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL;
SELECT follow('heavy');
INSERT INTO heavy VALUES (1, big('part', 2400), 'a', big('more'));
UPDATE heavy SET v = 'b';
UPDATE heavy SET id = 2;
UPDATE heavy SET part = big('other', 2400);
DELETE FROM heavy;
SELECT operation, primary_key, before, after FROM tell();
SELECT count(DISTINCT primary_key), bool_and(right(primary_key, 32) = md5(
		jsonb_build_array(coalesce(after->>'part', before->>'part'), coalesce(after->>'id', before->>'id'))::text)) AS right
	FROM bemi.changes WHERE "table" = 'heavy';
SELECT * FROM differences();
SELECT "table" FROM bemi.tracked WHERE identity <> 'FULL'
	OR array_remove(problems, 'generated columns are not in the stream: before and after lack them') <> '{}';
DROP TABLE doc, idle, filled, aged;

--
-- REPLICA IDENTITY DEFAULT, set after tracking: of the old row, the WAL has the key,
-- and that only if the key changes or the row is deleted; of the new one, all but
-- values that were left out of line
--
CREATE TABLE pair (a integer, b text, v text, big text, PRIMARY KEY (b, a) INCLUDE (v));
ALTER TABLE pair ALTER big SET STORAGE EXTERNAL;
SELECT bemi.track('pair');
ALTER TABLE pair REPLICA IDENTITY DEFAULT;
SELECT "table", identity, problems FROM bemi.tracked WHERE "table" = 'pair'::regclass;
INSERT INTO pair VALUES (1, 'x', 'v', big('big')), (2, 'y', NULL, NULL);
-- not changed, changed, both; with the key and without
UPDATE pair SET v = 'w' WHERE a = 1;
UPDATE pair SET big = big('other') WHERE a = 1;
UPDATE pair SET a = 3 WHERE a = 1;
UPDATE pair SET a = 4, big = 'short' WHERE a = 3;
UPDATE pair SET v = 'short', b = 'X' WHERE a = 4;
UPDATE pair SET big = NULL WHERE a = 4;
-- one that was always NULL is not one that is missing
UPDATE pair SET v = 'v' WHERE a = 2;
UPDATE pair SET a = a, b = b, v = v, big = big;
DELETE FROM pair;
TRUNCATE pair;
SELECT * FROM tell();
-- Values are missing or right: nothing replaces one that is left out.
SELECT count(*) FILTER (WHERE NOT after ? 'big') AS missing, count(*) FILTER (WHERE after ? 'big') AS there,
		bool_and(after->>'big' IN (big('big'), big('other'), 'short')) AS right
	FROM bemi.changes WHERE "table" = 'pair' AND operation IN ('CREATE', 'UPDATE');
-- Whole again.
SELECT bemi.track('pair');
SELECT "table", identity, problems FROM bemi.tracked WHERE "table" = 'pair'::regclass;
INSERT INTO pair VALUES (1, 'x', 'v', big('big'));
UPDATE pair SET v = 'w';
DELETE FROM pair;
SELECT * FROM tell();
-- Each change uses the identity at the time when it was written.
BEGIN;
INSERT INTO pair VALUES (1, 'x', 'v', 'whole');
UPDATE pair SET v = 'whole';
ALTER TABLE pair REPLICA IDENTITY DEFAULT;
UPDATE pair SET v = 'part';
UPDATE pair SET a = 2;
ALTER TABLE pair REPLICA IDENTITY FULL;
UPDATE pair SET a = 3;
COMMIT;
SELECT * FROM tell();

-- A key out of line: the WAL has the old key with each UPDATE, because otherwise it
-- would not have it at all. So the row can be found by it, also if "after" lacks it.
ALTER TABLE heavy REPLICA IDENTITY DEFAULT;
INSERT INTO heavy VALUES (1, big('part', 2400), 'a', big('more'));
UPDATE heavy SET v = 'b';
UPDATE heavy SET id = 2;
UPDATE heavy SET part = big('other', 2400);
DELETE FROM heavy;
SELECT operation, primary_key, before, after - 'part' AS after FROM tell();
SELECT operation, right(primary_key, 32) = md5(jsonb_build_array(coalesce(n.part, o.part), coalesce(after->>'id', before->>'id'))::text) AS key,
		before->>'part' = o.part AS before, (after->>'part' = n.part) IS NOT FALSE AS after
	FROM (SELECT *, row_number() OVER (ORDER BY id) AS nth FROM bemi.changes WHERE "table" = 'heavy') c
		JOIN (VALUES (6, NULL, big('part', 2400)), (7, big('part', 2400), big('part', 2400)), (8, big('part', 2400), big('part', 2400)),
			(9, big('part', 2400), big('other', 2400)), (10, big('other', 2400), NULL)) p (nth, o, n) USING (nth),
		LATERAL (SELECT p.o AS part) o, LATERAL (SELECT p.n AS part) n
	ORDER BY nth;

-- Without a key, the server itself refuses to update such a table.
CREATE TABLE keyless (id integer, v text);
SELECT bemi.track('keyless');
ALTER TABLE keyless REPLICA IDENTITY DEFAULT;
SELECT identity, problems FROM bemi.tracked WHERE "table" = 'keyless'::regclass;
INSERT INTO keyless VALUES (1, 'a');
UPDATE keyless SET v = 'b';
DELETE FROM keyless;
SELECT bemi.track('keyless');
UPDATE keyless SET v = 'b';
SELECT * FROM tell();

--
-- USING INDEX: the same with the columns of the index, which need not be the key
--
CREATE TABLE by_index (id integer PRIMARY KEY, code text NOT NULL, area text NOT NULL, v text, big text);
ALTER TABLE by_index ALTER big SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX by_code ON by_index (area, code) INCLUDE (v);
SELECT bemi.track('by_index');
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_code;
SELECT "table", identity, problems FROM bemi.tracked WHERE "table" = 'by_index'::regclass;
INSERT INTO by_index VALUES (1, 'c', 'a', 'v', big('big'));
UPDATE by_index SET v = 'w';
UPDATE by_index SET id = 2;
UPDATE by_index SET code = 'C';
UPDATE by_index SET area = 'A', id = 3, big = 'short';
-- The key is not in the WAL of a DELETE then.
DELETE FROM by_index;
SELECT * FROM tell();
-- One that has the key within.
CREATE UNIQUE INDEX by_all ON by_index (v, id);
ALTER TABLE by_index ALTER v SET NOT NULL;
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_all;
INSERT INTO by_index VALUES (1, 'c', 'a', 'v', big('big'));
UPDATE by_index SET code = 'C';
UPDATE by_index SET v = 'w';
DELETE FROM by_index;
SELECT * FROM tell();

--
-- NOTHING: each write either fails or is stored
--
CREATE TABLE nothing (id integer PRIMARY KEY, v text);
SELECT bemi.track('nothing');
INSERT INTO nothing VALUES (1, 'full');
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
SELECT "table", identity, problems FROM bemi.tracked WHERE "table" = 'nothing'::regclass;
INSERT INTO nothing VALUES (2, 'nothing');
UPDATE nothing SET v = 'no';
DELETE FROM nothing;
-- Minor releases from before 2025 let this UPDATE through: they forget to check for the identity.
DO $$ BEGIN
	INSERT INTO nothing VALUES (2, 'no') ON CONFLICT (id) DO UPDATE SET v = 'no';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	IF SQLERRM NOT LIKE 'cannot update table "nothing" because it does not have a replica identity %' THEN
		RAISE;
	END IF;
END $$;
SELECT v = 'no' AS let_through FROM nothing WHERE id = 2 \gset
INSERT INTO nothing VALUES (2, 'no') ON CONFLICT (id) DO NOTHING;
TRUNCATE nothing;
INSERT INTO nothing VALUES (3, 'nothing');
ALTER TABLE nothing REPLICA IDENTITY FULL;
UPDATE nothing SET v = 'full';
CREATE TEMP TABLE told AS SELECT * FROM tell();
DELETE FROM told WHERE primary_key = '2' AND operation = 'UPDATE' AND before = '{}' AND after = '{"id": 2, "v": "no"}' AND :'let_through';
SELECT * FROM told;
SELECT count(*) = CASE WHEN :'let_through' THEN 6 ELSE 5 END AS is_all FROM bemi.changes WHERE "table" = 'nothing';

-- A partition may have another identity than its root.
CREATE TABLE whole (id integer PRIMARY KEY, v text, big text) PARTITION BY RANGE (id);
CREATE TABLE part_0 PARTITION OF whole FOR VALUES FROM (0) TO (10);
CREATE TABLE part_1 PARTITION OF whole FOR VALUES FROM (10) TO (20);
ALTER TABLE part_0 ALTER big SET STORAGE EXTERNAL;
SELECT bemi.track('whole');
ALTER TABLE part_0 REPLICA IDENTITY DEFAULT;
SELECT "table", identity, problems FROM bemi.tracked WHERE "table" IN ('whole'::regclass, 'part_0'::regclass, 'part_1'::regclass) ORDER BY 1;
INSERT INTO whole VALUES (1, 'a', big('1')), (11, 'b', big('11'));
UPDATE whole SET v = 'c';
UPDATE whole SET id = id + 1;
UPDATE whole SET id = 15 WHERE id = 2;
DELETE FROM whole;
SELECT * FROM tell();
DROP TABLE heavy, pair, keyless, by_index, nothing, whole;

--
-- Row filters: what the publication leaves out is not stored, and a row that comes
-- into what it publishes is a new one, as in native logical replication
--
\if :has_filters
CREATE TABLE filtered (id integer PRIMARY KEY, n integer, v text, big text);
ALTER TABLE filtered ALTER big SET STORAGE EXTERNAL;
SELECT bemi.track('filtered');
ALTER PUBLICATION bemi SET TABLE filtered WHERE (n > 0);
SELECT "table", problems FROM bemi.tracked;
SET bemi.context = '{"filtered": true}';
INSERT INTO filtered VALUES (1, 1, 'in', big('1')), (2, 0, 'out', big('2')), (3, NULL, 'unknown', big('3'));
SELECT * FROM tell();
UPDATE filtered SET v = 'same';
-- into it, out of it
UPDATE filtered SET n = 1, v = 'came in' WHERE id = 2;
UPDATE filtered SET n = 2 WHERE id = 3;
UPDATE filtered SET n = NULL, v = 'goes' WHERE id = 1;
SELECT * FROM tell();
-- the same row more than once in a transaction, and with its key
BEGIN;
UPDATE filtered SET n = 5 WHERE id = 1;
UPDATE filtered SET id = 10 WHERE id = 1;
UPDATE filtered SET n = 0, id = 11 WHERE id = 10;
SAVEPOINT s;
UPDATE filtered SET n = 1, id = 12 WHERE id = 11;
ROLLBACK TO s;
UPDATE filtered SET n = 1, id = 13 WHERE id = 11;
COMMIT;
UPDATE filtered SET n = -n;
SELECT * FROM tell();
DELETE FROM filtered WHERE id = 13;
UPDATE filtered SET n = 7 WHERE id = 2;
DELETE FROM filtered;
INSERT INTO filtered VALUES (20, 1, 'in', NULL), (21, -1, 'out', NULL);
TRUNCATE filtered;
SELECT * FROM tell();
SELECT count(*), bool_and(context = '{"filtered": true}') AS with_context FROM bemi.changes WHERE "table" = 'filtered';
SELECT count(*) FROM bemi.changes WHERE "table" = 'filtered' AND (after->>'big' <> big(left(after->>'id', 1)) AND after->>'id' IN ('1', '2', '3')
	OR before->>'big' <> big(left(before->>'id', 1)) AND before->>'id' IN ('1', '2', '3'));

-- With the key as the identity, a filter can use only columns of the key.
ALTER TABLE filtered REPLICA IDENTITY DEFAULT;
INSERT INTO filtered VALUES (1, 1, 'in', big('1'));
UPDATE filtered SET v = 'no';
ALTER PUBLICATION bemi SET TABLE filtered WHERE (id > 10);
UPDATE filtered SET v = 'out';
UPDATE filtered SET id = 11, v = 'in';
UPDATE filtered SET id = 12, v = 'in';
UPDATE filtered SET v = 'still in';
UPDATE filtered SET id = 1, v = 'out';
DELETE FROM filtered;
SELECT * FROM tell();

-- A partitioned table's filter is its root's, whichever partition a row goes to.
CREATE TABLE part (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE part_0 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_1 (v text, id integer NOT NULL);
ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (10) TO (20);
SELECT bemi.track('part');
ALTER PUBLICATION bemi SET TABLE part WHERE (v <> 'out');
INSERT INTO part VALUES (1, 'in'), (2, 'out'), (11, 'in'), (12, 'out');
UPDATE part_1 SET v = 'in';
UPDATE part SET v = 'out' WHERE id < 10;
UPDATE part SET id = 3 WHERE id = 12;
UPDATE part SET id = 13, v = 'out' WHERE id = 3;
SELECT * FROM tell();

-- A column list: no other column is stored. PostgreSQL takes no UPDATE then whose
-- identity is more than the list.
ALTER PUBLICATION bemi SET TABLE filtered (id, v);
ALTER TABLE filtered REPLICA IDENTITY FULL;
SELECT "table", problems FROM bemi.tracked WHERE "table" = 'filtered'::regclass;
INSERT INTO filtered VALUES (1, 1, 'a', big('1'));
UPDATE filtered SET v = 'b';
ALTER TABLE filtered REPLICA IDENTITY DEFAULT;
UPDATE filtered SET v = 'b', big = 'short';
UPDATE filtered SET id = 2, n = 2;
DELETE FROM filtered;
SELECT * FROM tell();
-- one without the key
ALTER PUBLICATION bemi SET TABLE filtered (v, n);
INSERT INTO filtered VALUES (1, 1, 'a', 'b');
SELECT * FROM tell();
RESET bemi.context;
DROP TABLE filtered, part;
\endif

-- Virtual generated columns (18) are never in the stream, and with REPLICA IDENTITY FULL
-- the table could not be updated: so it is tracked by its key, or not at all. Nothing
-- of this prints anything, as older versions cannot do it.
DO $$
DECLARE
	messages text := current_setting('client_min_messages');
BEGIN
	IF current_setting('server_version_num')::integer < 180000 THEN
		RETURN;
	END IF;
	PERFORM set_config('client_min_messages', 'error', false);
	EXECUTE 'CREATE TABLE virtual (id integer PRIMARY KEY, v text, g text GENERATED ALWAYS AS (v || v) VIRTUAL)';
	CREATE TABLE later (id integer PRIMARY KEY, v text);
	CREATE TABLE later_keyless (id integer, v text);
	PERFORM bemi.track('virtual'), bemi.track('later'), bemi.track('later_keyless');
	EXECUTE 'ALTER TABLE later ADD g text GENERATED ALWAYS AS (v || v) VIRTUAL';
	EXECUTE 'ALTER TABLE later_keyless ADD g text GENERATED ALWAYS AS (v || v) VIRTUAL';
	EXECUTE $q$INSERT INTO virtual VALUES (1, 'a'); INSERT INTO later VALUES (1, 'a'); INSERT INTO later_keyless VALUES (1, 'a');
		UPDATE virtual SET v = 'b'; UPDATE later SET v = 'b'; UPDATE later_keyless SET v = 'b';
		DELETE FROM virtual; DELETE FROM later; DELETE FROM later_keyless$q$;
	IF (SELECT string_agg("table" || ' ' || identity, ', ' ORDER BY "table"::text) FROM bemi.tracked
		WHERE "table"::text IN ('virtual', 'later', 'later_keyless')) IS DISTINCT FROM 'later DEFAULT, virtual DEFAULT' THEN
		RAISE EXCEPTION 'virtual generated columns: %', (SELECT array_agg(t) FROM bemi.tracked t);
	END IF;
	BEGIN
		PERFORM bemi.track('later_keyless');
		RAISE EXCEPTION 'a table that cannot be updated is tracked';
	EXCEPTION WHEN wrong_object_type THEN
		NULL;
	END;
	EXECUTE 'DROP TABLE virtual, later, later_keyless';
	-- Also if the column is inherited from a parent that is not tracked, or a foreign table.
	CREATE TABLE base (id integer, v text);
	CREATE TABLE base_2 (id integer, v text);
	CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (base);
	CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (heir);
	CREATE TABLE heir_keyless () INHERITS (base);
	CREATE TABLE heir_of_two (PRIMARY KEY (id)) INHERITS (base, base_2);
	CREATE FOREIGN DATA WRAPPER nothing;
	CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
	CREATE FOREIGN TABLE far (id integer, v text) SERVER nowhere;
	CREATE TABLE heir_of_far (PRIMARY KEY (id)) INHERITS (far);
	CREATE TABLE parted (id integer PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
	PERFORM bemi.track(t) FROM unnest('{heir, grandchild, heir_keyless, heir_of_two, heir_of_far, parted}'::regclass[]) t;
	EXECUTE 'ALTER TABLE base ADD g text GENERATED ALWAYS AS (v || v) VIRTUAL';
	EXECUTE 'ALTER FOREIGN TABLE far ADD g text GENERATED ALWAYS AS (v || v) VIRTUAL';
	EXECUTE 'ALTER TABLE parted ADD g text GENERATED ALWAYS AS (v || v) VIRTUAL';
	EXECUTE $q$INSERT INTO heir VALUES (1, 'a'); INSERT INTO grandchild VALUES (1, 'a'); INSERT INTO heir_keyless VALUES (1, 'a');
		INSERT INTO heir_of_two VALUES (1, 'a'); INSERT INTO heir_of_far VALUES (1, 'a'); INSERT INTO parted VALUES (1, 'a');
		UPDATE base SET v = 'b'; UPDATE heir_of_far SET v = 'b'; UPDATE parted SET v = 'b'; UPDATE parted_1 SET v = 'c';
		DELETE FROM base; DELETE FROM heir_of_far; DELETE FROM parted$q$;
	IF (SELECT string_agg("table" || ' ' || identity, ', ' ORDER BY "table"::text COLLATE "C") FROM bemi.tracked
		WHERE "table"::text ~ '^(heir|grandchild|parted)') IS DISTINCT FROM
		'grandchild DEFAULT, heir DEFAULT, heir_of_far DEFAULT, heir_of_two DEFAULT, parted DEFAULT, parted_1 DEFAULT' THEN
		RAISE EXCEPTION 'virtual generated columns of heirs: %', (SELECT array_agg(t) FROM bemi.tracked t);
	END IF;
	EXECUTE 'DROP TABLE base, base_2, parted CASCADE';
	DROP FOREIGN DATA WRAPPER nothing CASCADE;
	PERFORM set_config('client_min_messages', messages, false);
END $$;

CALL bemi.drop_source('main');
DROP TABLE noted;
DROP FUNCTION big, brief, tell, note, follow, differences;
DROP PUBLICATION bemi;
\set VERBOSITY terse
DROP EXTENSION bemi CASCADE;
