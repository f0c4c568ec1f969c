--
-- How rows are found: bemi.changes.primary_key for every kind of key, and names of schemas,
-- tables, columns, triggers and indexes with any characters.
--
-- Users look a row's history up by key and table name, and both are texts of the application. So
-- what is stored is compared with what format('%s') and the catalog return for the same rows.
-- Only differences are printed. (store_changes.sql and t/track_keys_in_stream.pl have keys of two
-- columns, no key, and keys that change while the worker is stopped.)
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
-- The worker's setting; pg_regress sets another one.
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';

-- The changes stored since the last call, in commit order.
CREATE FUNCTION tell() RETURNS TABLE ("table" text, operation text, primary_key text, before jsonb, after jsonb)
LANGUAGE plpgsql AS $$
DECLARE
	seen text := current_setting('tell.seen', true);
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT c."table", c.operation, c.primary_key, c.before, c.after
		FROM bemi.changes c WHERE seen IS NULL OR seen = '' OR c.id > seen::uuid ORDER BY c.id;
	PERFORM set_config('tell.seen', (SELECT c.id::text FROM bemi.changes c ORDER BY c.id DESC LIMIT 1), false);
END $$;

--
-- Which columns
--

-- In the order of the key, which is neither that of the columns nor that of the
-- names; what INCLUDE adds is not of the key.
CREATE TABLE ordered (a integer, b text, c integer, d text, PRIMARY KEY (c, a, b) INCLUDE (d));
CREATE TABLE included (d text, id integer PRIMARY KEY, e text UNIQUE);
ALTER TABLE included DROP CONSTRAINT included_pkey, ADD PRIMARY KEY (id) INCLUDE (e, d);
-- One that has columns before and between that are gone.
CREATE TABLE thinned (gone text, b integer, gone_too text, a integer, PRIMARY KEY (a, b));
ALTER TABLE thinned DROP COLUMN gone, DROP COLUMN gone_too;
-- Names that differ in nothing but case.
CREATE TABLE cases (id integer, "ID" integer PRIMARY KEY, "Id" integer);
SELECT bemi.track('ordered'), bemi.track('included'), bemi.track('thinned'), bemi.track('cases');
INSERT INTO ordered VALUES (1, 'b', 2, 'd');
INSERT INTO included VALUES ('d', 3, 'e');
INSERT INTO thinned VALUES (4, 5);
INSERT INTO cases VALUES (1, 2, 3);
SELECT "table", primary_key FROM tell();

-- An index made before is taken for the key, under the constraint's name.
CREATE TABLE promoted (a integer NOT NULL, b integer NOT NULL);
CREATE UNIQUE INDEX one_of_these ON promoted (b, a) INCLUDE (a);
ALTER TABLE promoted ADD CONSTRAINT promoted_key PRIMARY KEY USING INDEX one_of_these;
-- A key that is checked only at the end: it cannot be a replica identity, and is
-- a key all the same.
CREATE TABLE deferred (id integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, v text);
SELECT bemi.track('promoted'), bemi.track('deferred');
INSERT INTO promoted VALUES (1, 2);
INSERT INTO deferred VALUES (1, 'a'), (2, 'b');
UPDATE deferred SET id = 3 - id;
SELECT "table", operation, primary_key, before->'id' AS before, after FROM tell();

-- The key of a change is that of the row after it, "before" has the one before.
UPDATE ordered SET c = 20;
UPDATE ordered SET d = 'D';
UPDATE ordered SET a = 10, b = '';
DELETE FROM ordered;
SELECT operation, primary_key, before, after FROM tell();
BEGIN;
UPDATE included SET id = 30;
UPDATE included SET id = 300;
DELETE FROM included;
INSERT INTO included VALUES ('D', 30, 'E') ON CONFLICT (id) DO UPDATE SET id = 3;
INSERT INTO included VALUES ('D', 30, 'E2') ON CONFLICT (id) DO UPDATE SET id = 3;
COMMIT;
SELECT operation, primary_key, before->'id' AS before, after->'id' AS after FROM tell();

-- Nothing else is used as a key: no unique columns that are NOT NULL, no former
-- replica identity, no unique expression or partial index.
CREATE TABLE nearly (id integer NOT NULL CONSTRAINT nearly_unique UNIQUE, n integer GENERATED ALWAYS AS IDENTITY, v text);
ALTER TABLE nearly REPLICA IDENTITY USING INDEX nearly_unique;
CREATE UNIQUE INDEX ON nearly (lower(v));
CREATE UNIQUE INDEX ON nearly (n) WHERE id > 0;
-- Nor the parent's key: a child has no key unless it defines one.
CREATE TABLE parent (id integer PRIMARY KEY, v text);
CREATE TABLE child () INHERITS (parent);
CREATE TABLE other_child (w text PRIMARY KEY) INHERITS (parent);
-- Nothing at all.
CREATE TABLE blank ();
SELECT bemi.track(t) FROM unnest('{nearly, parent, child, other_child, blank}'::regclass[]) t;
INSERT INTO nearly (id, v) VALUES (1, 'a');
UPDATE nearly SET id = 2;
INSERT INTO parent VALUES (1, 'a');
INSERT INTO child VALUES (2, 'b');
INSERT INTO other_child VALUES (3, 'c', 'w');
UPDATE parent SET v = 'all' WHERE id > 1;
INSERT INTO blank DEFAULT VALUES;
DELETE FROM blank;
TRUNCATE parent;
SELECT * FROM tell();

-- A generated column is not in the stream, nor is a key that has one. (From
-- PostgreSQL 18 on it can be; then the key is right.)
CREATE TABLE made_up (a integer, b integer GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (b));
CREATE TABLE partly_made_up (a integer, b integer GENERATED ALWAYS AS (a * 2) STORED, PRIMARY KEY (a, b));
SELECT bemi.track('made_up'), bemi.track('partly_made_up');
INSERT INTO made_up VALUES (1);
INSERT INTO partly_made_up VALUES (1);
SELECT "table", primary_key IS NULL OR after ? 'b' AND primary_key IN ('2', '["1", "2"]') AS none_or_right, after - 'b' AS after FROM tell();

-- Partitions use the key of their root, even if they have another one. A partition
-- tracked alone uses its own.
CREATE TABLE whole (area text, id integer, v text, PRIMARY KEY (id, area)) PARTITION BY LIST (area);
CREATE TABLE north PARTITION OF whole FOR VALUES IN ('n');
CREATE TABLE south (gone text, v text, id integer NOT NULL, area text NOT NULL);
ALTER TABLE south DROP COLUMN gone;
ALTER TABLE whole ATTACH PARTITION south FOR VALUES IN ('s');
CREATE TABLE far PARTITION OF whole FOR VALUES IN ('e', 'w') PARTITION BY LIST (area);
CREATE TABLE east (v text, area text, id integer, PRIMARY KEY (id, area));
ALTER TABLE far ATTACH PARTITION east FOR VALUES IN ('e');
CREATE TABLE keyless_root (id integer, v text) PARTITION BY RANGE (id);
CREATE TABLE keyed_leaf PARTITION OF keyless_root (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
SELECT bemi.track('whole'), bemi.track('keyless_root');
INSERT INTO whole VALUES ('n', 1, 'root'), ('s', 2, 'root'), ('e', 3, 'root');
INSERT INTO east VALUES ('leaf', 'e', 4);
UPDATE far SET v = 'far' WHERE id = 4;
UPDATE whole SET area = 's' WHERE id = 1;
DELETE FROM south WHERE id = 1;
INSERT INTO keyless_root VALUES (1, 'a');
UPDATE keyed_leaf SET v = 'b';
SELECT * FROM tell();
ALTER TABLE whole DETACH PARTITION south;
ALTER TABLE keyless_root DETACH PARTITION keyed_leaf;
SELECT bemi.track('south'), bemi.track('keyed_leaf');
UPDATE south SET v = 'alone';
UPDATE keyed_leaf SET v = 'alone';
SELECT * FROM tell();
DROP TABLE ordered, included, thinned, cases, promoted, deferred, nearly, child, other_child, parent, blank,
	made_up, partly_made_up, whole, south, keyless_root, keyed_leaf;

--
-- Which values: a table for each type, by the type's name, alone and as one of two
--
CREATE TYPE mood AS ENUM ('glad', 'so so', '"quoted"', 'with, comma', 'été');
CREATE TYPE pair AS (a integer, b text);
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE DOMAIN very_positive AS positive CHECK (VALUE > 10);
CREATE DOMAIN tags AS text[];
CREATE DOMAIN plain_pair AS pair;
CREATE TYPE timespan AS RANGE (subtype = time);
CREATE TABLE wanted (n serial, "table" text, operation text, key text);
-- The row of each key is updated, goes to the key before and back, and is deleted.
CREATE FUNCTION live(type text, VARIADIC keys text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	one text := 'of ' || type;
	two text := one || ' and text';
	k text;
	former text;
	note text := 'INSERT INTO wanted ("table", operation, key) SELECT %1$L, %2$L, format(''%%s'', k) FROM %1$I WHERE k = CAST(%3$L AS %4$s)';
BEGIN
	EXECUTE format('CREATE TABLE %I (v text, k %s PRIMARY KEY)', one, type);
	EXECUTE format('CREATE TABLE %I (v text, k %s, PRIMARY KEY (v, k))', two, type);
	PERFORM bemi.track(format('%I', one)::regclass), bemi.track(format('%I', two)::regclass);
	FOREACH k IN ARRAY keys LOOP
		EXECUTE format('INSERT INTO %I VALUES (''", "'', %L)', one, k);
		EXECUTE format(note, one, 'CREATE', k, type);
		EXECUTE format('UPDATE %I SET v = ''é''', one);
		EXECUTE format(note, one, 'UPDATE', k, type);
		IF former IS NOT NULL THEN
			EXECUTE format('UPDATE %I SET k = %L', one, former);
			EXECUTE format(note, one, 'UPDATE', former, type);
			EXECUTE format('UPDATE %I SET k = %L', one, k);
			EXECUTE format(note, one, 'UPDATE', k, type);
		END IF;
		EXECUTE format(note, one, 'DELETE', k, type);
		EXECUTE format('DELETE FROM %I', one);
		EXECUTE format('INSERT INTO %I VALUES (''", "'', %L)', two, k);
		former := k;
	END LOOP;
	EXECUTE format('INSERT INTO wanted ("table", operation, key)'
		' SELECT %1$L, ''CREATE'', jsonb_build_array(v, format(''%%s'', k))::text FROM %1$I', two);
END $$;
SELECT live('smallint', '0', '-1', '32767');
SELECT live('integer', '0', '-2147483648', '2147483647');
SELECT live('bigint', '0', '9223372036854775807', '-9223372036854775808');
SELECT live('numeric', '0.000', '1.10', '-1', '1e40', 'NaN', 'Infinity', '-Infinity', '123456789012345678901234567890.123456789');
SELECT live('numeric(6,2)', '1.1', '-1000');
SELECT live('real', '0.1', '1e-37', 'NaN', 'Infinity', '16777217');
SELECT live('double precision', '0.1', '-0', '1e300', '-Infinity', '9007199254740993');
SELECT live('money', '1234.5', '-0.01');
SELECT live('boolean', 'true', 'false');
SELECT live('uuid', '00000000-0000-0000-0000-000000000000', 'FFFFFFFF-ffff-4fff-8fff-ffffffffffff', '{a0eebc999c0b4ef8bb6d6bb9bd380a11}');
SELECT live('text', '', ' ', 'say "b"', 'a,b', 'it''s', E'back\\slash', E'new\nline\ttab\r', E'\x01', 'NULL', 'null', '{}', '[]',
	'["a", "b"]', '{"a": 1}', '*/ --', '%s %I %', '日本語 🐘', E'e\u0301', 'é', '  both  ');
SELECT live('character varying(3)', 'abc', 'été');
SELECT live('character(5)', 'ab', 'été', '');
SELECT live('name', 'a', repeat('n', 63));
SELECT live('"char"', 'a', '"', ',', ' ', '\');
SELECT live('bytea', '', '\x00', '\xdeadbeef', 'text');
SELECT live('date', '2024-02-29', 'infinity', '0044-03-15 BC', '10000-01-01');
SELECT live('time', '00:00', '23:59:59.999999', '24:00');
SELECT live('timetz', '12:34:56.7+05:30', '00:00-12');
SELECT live('timestamp', '2024-02-29 12:34:56.789', '-infinity', '0044-03-15 10:00 BC');
SELECT live('timestamptz', '2024-02-29 12:34:56.789+05:30', '2024-02-29 00:00+00', 'infinity', '0044-03-15 10:00+00 BC');
SELECT live('timestamptz(0)', '2024-02-29 12:34:56.789 Europe/Berlin');
SELECT live('interval', '1 year -2 days 03:04:05.6', '0', '-1 month');
SELECT live('inet', '10.0.0.1/8', '10.0.0.1', '::1', 'fe80::1/64');
SELECT live('cidr', '10.0.0.0/8', '::/0');
SELECT live('macaddr', '08:00:2b:01:02:03');
SELECT live('macaddr8', '08:00:2b:01:02:03');
SELECT live('bit(3)', '101', '000');
SELECT live('bit varying', '1', '');
SELECT live('oid', '0', '4294967295');
SELECT live('xid8', '18446744073709551615');
SELECT live('tid', '(0,1)');
SELECT live('pg_lsn', '16/B374D848', '0/0');
SELECT live('tsvector', 'a:1 fat:2', '');
SELECT live('jsonb', '{"b": {"c": [1, 2.50, null]}, "a": "say \"b\""}', 'null', '"text"', '[]', '{}');
SELECT live('int4range', '[1,5)', 'empty', '(,)');
SELECT live('tstzrange', '[2024-02-29 12:00+02,)');
SELECT live('timespan', '[10:00,11:30)', 'empty');
SELECT live('nummultirange', '{[1.0,2],[5,6.50)}', '{}');
SELECT live('mood', 'glad', 'so so', '"quoted"', 'with, comma', 'été');
SELECT live('positive', '1');
SELECT live('very_positive', '11');
SELECT live('integer[]', '{}', '{1,NULL,-3}', '{{1,2},{3,4}}', '[5:6]={7,8}');
SELECT live('text[]', '{}', '{"a b","c,d",NULL,"NULL","","say \"b\"","back\\\\slash"}', '{{a},{b}}');
SELECT live('timestamptz[]', '{"2024-02-29 12:00+02",infinity}');
SELECT live('boolean[]', '{t,f}');
SELECT live('tags', '{a,"b c"}', '{}');
SELECT live('mood[]', '{glad,"so so","\"quoted\""}');
SELECT live('positive[]', '{1,2}');
SELECT live('pair', '(1,a)', '(,)', '(1,"say ""b"", (c)")', '(,"")');
SELECT live('plain_pair', '(1,"a b")');
SELECT live('pair[]', '{"(1,\"a b\")",NULL}');
SELECT live('oidvector', '1 2 3');

SELECT bemi.sync('60s');
-- Each change, in order: none is missing, none too many, all have the key that was
-- written down.
SELECT * FROM (SELECT "table", operation, key, row_number() OVER (PARTITION BY "table" ORDER BY n) AS nth FROM wanted) w
	FULL JOIN (SELECT "table", operation, primary_key, row_number() OVER (PARTITION BY "table" ORDER BY id) AS nth
		FROM bemi.changes WHERE "table" LIKE 'of %') c USING ("table", operation, nth)
	WHERE primary_key IS DISTINCT FROM key;
SELECT count(DISTINCT "table") AS tables, count(*) AS changes, count(key) AS keys FROM wanted;
-- Shows what those are.
SELECT "table", string_agg(primary_key, ' | ' ORDER BY id) AS keys FROM bemi.changes
	WHERE operation = 'CREATE' AND substr("table", 4) IN ('numeric', 'real', 'boolean', 'uuid', 'text', 'character(5)', '"char"', 'bytea', 'timestamptz',
		'inet', 'mood', 'text[]', 'pair', 'timestamptz and text', 'boolean and text', 'bytea and text', 'pair and text') GROUP BY 1 ORDER BY 1;
-- The query of docs/how-to/read-the-history.md finds the whole life of a row.
SELECT operation, before, after FROM bemi.changes
	WHERE schema = 'public' AND "table" = 'of uuid' AND primary_key = 'ffffffff-ffff-4fff-8fff-ffffffffffff' ORDER BY id;

--
-- Long keys: of more than 2000 bytes, 2000 are kept, and the md5 of the whole
--
CREATE TABLE long_text (k text PRIMARY KEY);
CREATE TABLE long_pair (a text, b text, PRIMARY KEY (a, b));
CREATE TABLE long_array (k integer[] PRIMARY KEY);
SELECT bemi.track('long_text'), bemi.track('long_pair'), bemi.track('long_array');
INSERT INTO long_text VALUES (repeat('x', 1999)), (repeat('x', 2000)), (repeat('x', 2001)), (repeat('x', 2500)),
	-- these two differ behind the cut only
	(repeat('x', 2400) || 'a'), (repeat('x', 2400) || 'b'),
	-- a character is not cut in two
	(repeat('é', 1000)), ('x' || repeat('é', 1000)), ('xx' || repeat('🐘', 600)),
	-- one that looks as if it had been cut
	(repeat('x', 1000) || '...md5:' || md5('x'));
INSERT INTO long_pair VALUES (repeat('a', 1200), repeat('b', 1200)), (repeat('"', 995), '');
INSERT INTO long_array SELECT array_agg(n) FROM generate_series(1, 600) n;
SELECT bemi.sync('60s');
CREATE FUNCTION bounded(key text) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN octet_length(key) <= 2000 THEN key ELSE
		(SELECT left(key, n) FROM generate_series(2000, 0, -1) n WHERE octet_length(left(key, n)) <= 2000 LIMIT 1)
		|| '...md5:' || md5(key) END
$$;
SELECT * FROM (SELECT bounded(k) AS key, k FROM long_text) t
	FULL JOIN (SELECT primary_key AS key, after->>'k' AS after FROM bemi.changes WHERE "table" = 'long_text') c USING (key)
	WHERE after IS DISTINCT FROM k;
SELECT * FROM (SELECT bounded(jsonb_build_array(a, b)::text) AS key, to_jsonb(p) AS k FROM long_pair p) t
	FULL JOIN (SELECT primary_key AS key, after FROM bemi.changes WHERE "table" = 'long_pair') c USING (key)
	WHERE after IS DISTINCT FROM k;
SELECT * FROM (SELECT bounded(k::text) AS key, to_jsonb(p) AS k FROM long_array p) t
	FULL JOIN (SELECT primary_key AS key, after FROM bemi.changes WHERE "table" = 'long_array') c USING (key)
	WHERE after IS DISTINCT FROM k;
-- Without elephants, whose width psql 14 counts differently.
SELECT "table", octet_length(primary_key), translate(left(primary_key, 3), '🐘', '@') AS left, translate(right(primary_key, 43), '🐘', '@') AS right FROM bemi.changes
	WHERE "table" LIKE 'long%' ORDER BY id;
-- The same row is found by the same key, to its end.
UPDATE long_text SET k = k WHERE length(k) = 2401;
DELETE FROM long_text WHERE length(k) = 2401;
SELECT bemi.sync('60s');
SELECT operation, count(*), count(DISTINCT primary_key) AS keys, bool_and(primary_key = bounded(coalesce(after->>'k', before->>'k'))) AS right FROM bemi.changes
	WHERE "table" = 'long_text' AND length(coalesce(after->>'k', before->>'k')) = 2401 GROUP BY 1 ORDER BY 1;

SET client_min_messages = warning;
DO $$
DECLARE
	name text;
BEGIN
	FOR name IN SELECT DISTINCT "table" FROM wanted LOOP
		EXECUTE format('DROP TABLE %I', name);
	END LOOP;
END $$;
DROP TABLE wanted, long_text, long_pair, long_array;
DROP FUNCTION live, bounded;
DROP TYPE timespan;
DROP DOMAIN plain_pair, tags, very_positive, positive;
DROP TYPE mood, pair;
RESET client_min_messages;

--
-- Names
--
CREATE TABLE names (n serial PRIMARY KEY, name name UNIQUE);
INSERT INTO names (name) VALUES
	('double "quote"'), ('""'), ('"'), ('a space'), (' '), (' around '), ('UPPER'), ('upper'), ('do.t'), ('.'), ('a.b."c"'),
	('it''s'), (''''), (E'back\\slash'), (E'\\'), (E'\\x00'), (E'new\nline'), (E'tab\t'), (E'\x01'), ('ünïcödé'), ('日本語'), ('🐘'),
	(repeat('x', 63)), (repeat('"', 63)), (repeat('é', 31) || '%'), (repeat('🐘', 15) || 'abc'), (E'e\u0301'),
	('select'), ('table'), ('user'), ('null'), ('true'), ('primary'), ('only'), ('pg'), ('sql'),
	('%'), ('%s'), ('%I %L %%'), ('100%d'), ('$1'), ('$$'), ('$name$'), (':name'), ('?'), ('*'), ('{}'), ('[a]'), ('{"a", b}'),
	('; DROP TABLE names; --'), ('/* comment */'), ('-- comment'), ('/*Bemi {} Bemi*/'), ('1'), ('-1'), ('_bemi_'),
	('a,b'), ('(a)'), ('a=b'), ('/'), ('&<>'), (E'\u00A0'), (E'\u200B'), (E'a\u0085b');
-- The name so many places later, in a circle: no two objects of one name space have
-- the same name.
CREATE FUNCTION name_at(place bigint) RETURNS name LANGUAGE sql STABLE AS $$
	SELECT name FROM names WHERE n = 1 + place % (SELECT count(*) FROM names)
$$;
CREATE TABLE things AS
	SELECT n, name_at(n) AS schema, name_at(n + 1) AS "table", name_at(n + 2) AS key, name_at(n + 3) AS "column", name_at(n + 4) AS key_constraint,
		name_at(n + 5) AS identity_index, name_at(n + 6) AS own_trigger, name_at(n + 7) AS context_trigger, name_at(n + 8) AS later_table,
		name_at(n + 9) AS later_key, name_at(n + 10) AS later_column,
		-- another one for the schema, of no more than 63 bytes
		CASE WHEN octet_length(name) < 62 THEN name || ' 2' ELSE '2 ' || right(name, -2) END AS later_schema
	FROM names;
SELECT count(*) AS names, max(octet_length(name)) AS longest, count(DISTINCT later_schema) AS later FROM names JOIN things USING (n);
-- Runs a statement for each of them: %1$s is the number, %2$I the schema and so on,
-- as above. Prints which have failed, and why.
CREATE FUNCTION each(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	t things;
BEGIN
	FOR t IN SELECT * FROM things ORDER BY n LOOP
		BEGIN
			EXECUTE format(statement, t.n, t.schema, t."table", t.key, t."column", t.key_constraint, t.identity_index, t.own_trigger,
				t.context_trigger, t.later_table, t.later_key, t.later_column, t.later_schema);
		EXCEPTION WHEN OTHERS THEN
			RETURN NEXT concat_ws(': ', t."table", SQLERRM);
		END;
	END LOOP;
END $$;
-- What each table has: bemi's objects, and its own.
CREATE VIEW condition AS
	SELECT t.n, c.relreplident AS identity, ic.relname AS identity_index,
		ARRAY(SELECT tgname FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgname <> 'bemi_emit_context' ORDER BY tgname) AS triggers,
		EXISTS (SELECT FROM pg_publication_tables p WHERE pubname = 'bemi' AND p.schemaname = n.nspname AND p.tablename = c.relname) AS published,
		b.identity AS listed_as, b.triggers = ARRAY(SELECT unnest(ARRAY['bemi_emit_context', t.context_trigger]::name[]) AS name ORDER BY name) AS both_triggers,
		b.problems
	FROM things t JOIN pg_namespace n ON n.nspname = t.schema
		JOIN pg_class c ON c.relnamespace = n.oid AND c.relname IN (t."table", t.later_table) AND c.relkind = 'r'
		LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
		LEFT JOIN pg_class ic ON ic.oid = i.indexrelid
		LEFT JOIN bemi.tracked b ON b."table" = c.oid;

CREATE FUNCTION own() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
SELECT each('CREATE SCHEMA %2$I');
SELECT each('CREATE TABLE %2$I.%3$I (%4$I text CONSTRAINT %6$I PRIMARY KEY, %5$I integer, id integer NOT NULL)');
SELECT each('CREATE UNIQUE INDEX %7$I ON %2$I.%3$I (id)');
SELECT each('ALTER TABLE %2$I.%3$I REPLICA IDENTITY USING INDEX %7$I');
-- One of the application's own, and one made by hand that calls bemi.
SELECT each('CREATE TRIGGER %8$I BEFORE UPDATE ON %2$I.%3$I FOR EACH ROW EXECUTE FUNCTION own()');
SELECT each('CREATE TRIGGER %9$I BEFORE INSERT ON %2$I.%3$I FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context()');
CREATE TABLE untracked AS SELECT * FROM condition;
SELECT count(*), count(DISTINCT identity_index) AS indexes, bool_and(identity = 'i') AS by_index, bool_or(published) AS published FROM untracked;

-- Tracked.
SELECT each('SELECT bemi.track(format(''%%I.%%I'', %2$L, %3$L)::regclass)');
SELECT count(*), identity, identity_index, published, listed_as, both_triggers, problems FROM condition GROUP BY 2, 3, 4, 5, 6, 7;
SELECT bemi.sync('60s');
SELECT clock_timestamp() AS tracked_at \gset

-- Written to, renamed and written to again, the schema renamed and once more.
SELECT each($write$
	SELECT set_config('bemi.context', '{"phase": 1, "n": %1$s}', true);
	INSERT INTO %2$I.%3$I (id, %4$I, %5$I) VALUES (%1$s, %4$L, %1$s);
	UPDATE %2$I.%3$I SET %4$I = '%%';
	DELETE FROM %2$I.%3$I;
	TRUNCATE %2$I.%3$I $write$);
BEGIN;
SELECT bemi.sync('60s');
SELECT complete, reason, count(*) FROM things, bemi.completeness(format('%I.%I', schema, "table")::regclass, :'tracked_at') GROUP BY 1, 2;
SELECT complete, reason, count(*) FROM things, bemi.source_completeness('main', schema, "table", :'tracked_at') GROUP BY 1, 2;
COMMIT;
SELECT each('ALTER TABLE %2$I.%3$I RENAME TO %10$I');
SELECT each('ALTER TABLE %2$I.%10$I RENAME COLUMN %4$I TO %11$I');
SELECT each('ALTER TABLE %2$I.%10$I RENAME COLUMN %5$I TO %12$I');
SELECT each($write$
	SELECT set_config('bemi.context', '{"phase": 2, "n": %1$s}', true);
	INSERT INTO %2$I.%10$I (id, %11$I, %12$I) VALUES (%1$s, %11$L, %1$s);
	UPDATE %2$I.%10$I SET %11$I = '%%';
	DELETE FROM %2$I.%10$I;
	TRUNCATE %2$I.%10$I $write$);
SELECT each('ALTER SCHEMA %2$I RENAME TO %13$I');
SELECT each($write$
	SELECT set_config('bemi.context', '{"phase": 3, "n": %1$s}', true);
	INSERT INTO %13$I.%10$I (id, %11$I, %12$I) VALUES (%1$s, %11$L, %1$s);
	UPDATE %13$I.%10$I SET %11$I = '%%';
	DELETE FROM %13$I.%10$I;
	TRUNCATE %13$I.%10$I $write$);
SELECT each('ALTER SCHEMA %13$I RENAME TO %2$I');
SELECT bemi.sync('60s');
-- What is stored, and what should be.
WITH stored AS (
	SELECT context->>'phase' AS phase, (context->>'n')::integer AS n, row_number() OVER (PARTITION BY context ORDER BY id) AS nth,
		concat_ws(' ', schema, "table", operation, coalesce(primary_key, 'no key'), before, after) AS change
	FROM bemi.changes WHERE context ? 'phase'
), named AS (
	SELECT '1' AS phase, n, schema, "table", key, "column" FROM things
	UNION ALL SELECT '2', n, schema, later_table, later_key, later_column FROM things
	UNION ALL SELECT '3', n, later_schema, later_table, later_key, later_column FROM things
), wanted AS (
	SELECT phase, n, nth, concat_ws(' ', schema, "table", operation, primary_key, before, after) AS change
	FROM named, LATERAL (SELECT jsonb_build_object('id', n, key, key, "column", n), jsonb_build_object('id', n, key, '%', "column", n)) row (a, b),
		LATERAL (VALUES (1, 'CREATE', key::text, '{}', a), (2, 'UPDATE', '%', a, b), (3, 'DELETE', '%', b, '{}'), (4, 'TRUNCATE', 'no key', '{}', '{}'))
			o (nth, operation, primary_key, before, after)
)
SELECT phase, n, nth, stored.change, wanted.change FROM stored FULL JOIN wanted USING (phase, n, nth)
	WHERE stored.change IS DISTINCT FROM wanted.change;
SELECT context->>'phase' AS phase, count(*), count(DISTINCT schema), count(DISTINCT "table") FROM bemi.changes WHERE context ? 'phase' GROUP BY 1 ORDER BY 1;
-- Under each of its former names, a table's history ends.
CREATE FUNCTION ends(wanted_schema text, wanted_table text) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(concat_ws(' ', reason, CASE WHEN to_time IS NULL THEN 'open' END), ', ' ORDER BY from_time)
	FROM bemi.gaps WHERE schema = wanted_schema AND "table" = wanted_table
$$;
SELECT ends(schema, "table") AS first, ends(schema, later_table) AS second, ends(later_schema, later_table) AS third, count(*) FROM things GROUP BY 1, 2, 3;

-- Untracked, it is as it was.
SELECT each('SELECT bemi.untrack(format(''%%I.%%I'', %2$L, %10$L)::regclass)');
SELECT * FROM (SELECT 'after' AS "when", * FROM condition) a FULL JOIN untracked USING (n, identity, identity_index, triggers, published, both_triggers)
	WHERE a."when" IS NULL OR untracked.problems IS DISTINCT FROM a.problems;
SELECT count(*) FROM condition c JOIN untracked u ON u.n = c.n AND u.identity_index = c.identity_index AND c.identity = 'i' AND NOT c.published;
SELECT bemi.sync('60s');
SELECT ends(schema, later_table), count(*) FROM things GROUP BY 1;

-- Dropped while it is tracked.
SELECT each('SELECT bemi.track(format(''%%I.%%I'', %2$L, %10$L)::regclass)');
SELECT each('DROP TABLE %2$I.%10$I');
SELECT count(*) FROM bemi.tracked;
SELECT bemi.sync('60s');
SELECT right(ends(schema, later_table), 20), count(*) FROM things GROUP BY 1;

-- The whole schema.
SELECT each('SELECT bemi.track_schema(format(''%%I'', %2$L)::regnamespace)');
SELECT each($make$
	SELECT set_config('bemi.context', '{"phase": 4, "n": %1$s}', true);
	CREATE TABLE %2$I.%3$I (%4$I text PRIMARY KEY);
	INSERT INTO %2$I.%3$I VALUES (%4$L) $make$);
SELECT each('ALTER SCHEMA %2$I RENAME TO %13$I');
SELECT each('INSERT INTO %13$I.%3$I VALUES (''later'')');
SELECT each($make$
	SELECT set_config('bemi.context', '{"phase": 4, "n": %1$s}', true);
	CREATE TABLE %13$I.%10$I (%11$I text PRIMARY KEY);
	INSERT INTO %13$I.%10$I VALUES (%11$L) $make$);
SELECT count(*), count(*) FILTER (WHERE problems = '{}') AS whole FROM bemi.tracked;
SELECT bemi.sync('60s');
SELECT n, c.schema, c."table", c.primary_key, c.after FROM things t
	FULL JOIN (SELECT (context->>'n')::integer AS n, * FROM bemi.changes WHERE context @> '{"phase": 4}') c USING (n)
	WHERE (c.schema, c."table", c.primary_key, c.after) IS DISTINCT FROM (t.schema, t."table", t.key, jsonb_build_object(t.key, t.key))
		AND (c.schema, c."table", c.primary_key, c.after) IS DISTINCT FROM (t.later_schema, t.later_table, t.later_key, jsonb_build_object(t.later_key, t.later_key));
SELECT count(*) FROM bemi.changes WHERE context @> '{"phase": 4}';
SELECT count(*) FROM bemi.changes c JOIN things t ON (c.schema, c."table") = (t.later_schema, t."table") WHERE c.after = jsonb_build_object(t.key, 'later');
SELECT count(*) FROM things t JOIN bemi.tracked_schemas s ON s.schema = t.later_schema;
SELECT each('SELECT bemi.untrack_schema(format(''%%I'', %13$L)::regnamespace)');
SELECT (SELECT count(*) FROM bemi.tracked), (SELECT count(*) FROM bemi.tracked_schemas);
SET client_min_messages = warning;
SELECT each('DROP SCHEMA %13$I CASCADE');
RESET client_min_messages;

-- Messages with such names can be run as they are.
CREATE SCHEMA "My ""schema""";
CREATE TABLE "My ""schema"""."It's a ""root"" %s" (id integer) PARTITION BY RANGE (id);
CREATE TABLE "My ""schema"""."Part. %I" PARTITION OF "My ""schema"""."It's a ""root"" %s" FOR VALUES FROM (0) TO (10);
CREATE FUNCTION hint(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE statement;
	RETURN 'not refused';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN hint;
END $$;
SELECT hint($$ SELECT bemi.track('"My ""schema"""."Part. %I"') $$);
SELECT hint($$ SELECT bemi.track('"My ""schema"""."Part. %I"') $$) AS command \gset
:command
SELECT hint($$ SELECT bemi.untrack('"My ""schema"""."Part. %I"') $$);
SELECT hint($$ SELECT bemi.untrack('"My ""schema"""."Part. %I"') $$) AS command \gset
:command
SELECT count(*) FROM bemi.tracked;
SELECT bemi.track_schema('"My ""schema"""');
SELECT hint($$ SELECT bemi.untrack('"My ""schema"""."It''s a ""root"" %s"') $$);
SELECT hint($$ SELECT bemi.untrack('"My ""schema"""."It''s a ""root"" %s"') $$) AS command \gset
:command
SELECT count(*) FROM bemi.tracked;
CREATE UNLOGGED TABLE "My ""schema"""."Un'logged %" (id integer);
SELECT hint($$ SELECT bemi.track('"My ""schema"""."Un''logged %"') $$);
SELECT hint($$ SELECT bemi.track('"My ""schema"""."Un''logged %"') $$) AS command \gset
:command
SELECT bemi.track('"My ""schema"""."Un''logged %"');
SELECT hint($$ CREATE TRIGGER "A ""trigger"" %" AFTER INSERT ON "My ""schema"""."Un'logged %" FOR EACH ROW EXECUTE FUNCTION bemi.emit_context() $$);
SELECT hint($$ CREATE TRIGGER "A ""trigger"" %" AFTER INSERT ON "My ""schema"""."Un'logged %" FOR EACH ROW EXECUTE FUNCTION bemi.emit_context() $$) AS command \gset
:command
SELECT "table", triggers, problems FROM bemi.tracked;
SELECT bemi.untrack('"My ""schema"""."Un''logged %"');
-- An index that has another name when it is restored.
ALTER TABLE "My ""schema"""."Un'logged %" ADD CONSTRAINT "In""dex %" PRIMARY KEY (id);
ALTER TABLE "My ""schema"""."Un'logged %" REPLICA IDENTITY USING INDEX "In""dex %";
SELECT bemi.track('"My ""schema"""."Un''logged %"');
ALTER INDEX "My ""schema"""."In""dex %" RENAME TO "Other ""index"" %";
SELECT bemi.untrack('"My ""schema"""."Un''logged %"');
DROP SCHEMA "My ""schema""" CASCADE;

--
-- Keys that change in the transaction that writes the row, next to it in the log
--
-- Without a context, whose message would stand in between.
SELECT count(*) >= 0 AS seen FROM tell();
CREATE TABLE changing (id int PRIMARY KEY, code int NOT NULL, v text);
SELECT bemi.track('changing');
INSERT INTO changing VALUES (1, 101, '1');
BEGIN; ALTER TABLE changing DROP CONSTRAINT changing_pkey, ADD PRIMARY KEY (code); UPDATE changing SET v = '101'; COMMIT;
BEGIN; ALTER TABLE changing DROP CONSTRAINT changing_pkey; ALTER TABLE changing ADD PRIMARY KEY (id); UPDATE changing SET v = '1 again'; COMMIT;
BEGIN; ALTER TABLE changing DROP CONSTRAINT changing_pkey; UPDATE changing SET v = 'none'; COMMIT;
BEGIN; ALTER TABLE changing ADD PRIMARY KEY (code); UPDATE changing SET v = '101 again'; COMMIT;
CREATE UNIQUE INDEX changing_index ON changing (id);
BEGIN; ALTER TABLE changing DROP CONSTRAINT changing_pkey, ALTER id SET NOT NULL, ADD PRIMARY KEY USING INDEX changing_index; DELETE FROM changing; COMMIT;
-- From int to bigint, by another column.
INSERT INTO changing VALUES (2, 102, '2');
BEGIN;
ALTER TABLE changing ADD big bigint;
UPDATE changing SET big = id + 10;
SAVEPOINT s;
ALTER TABLE changing DROP CONSTRAINT changing_index, ALTER big SET NOT NULL, ADD PRIMARY KEY (big);
UPDATE changing SET v = '12';
RELEASE s;
ALTER TABLE changing RENAME id TO former;
ALTER TABLE changing RENAME big TO id;
UPDATE changing SET v = '12 by another name';
COMMIT;
BEGIN; CREATE TABLE made (id int, v text); SELECT bemi.track('made'); INSERT INTO made VALUES (1, 'none'); ALTER TABLE made ADD PRIMARY KEY (id); INSERT INTO made VALUES (2, '2'); COMMIT;
SELECT "table", operation, primary_key, coalesce(after ->> 'v', before ->> 'v') AS its_key FROM tell();
DROP TABLE changing, made;

-- The row in a subtransaction that begins after the change.
CREATE SCHEMA former_schema;
CREATE TABLE former_schema.moving (id int PRIMARY KEY, v text);
SELECT bemi.track('former_schema.moving');
BEGIN; ALTER SCHEMA former_schema RENAME TO present_schema; SAVEPOINT s; INSERT INTO present_schema.moving VALUES (1, 'present'); COMMIT;
BEGIN; ALTER TABLE present_schema.moving RENAME TO moved; SAVEPOINT s; INSERT INTO present_schema.moved VALUES (2, 'moved'); COMMIT;
SELECT bemi.sync('60s');
SELECT schema, "table", primary_key, after ->> 'v' AS v FROM bemi.changes WHERE schema LIKE '%\_schema' ORDER BY id;
DROP SCHEMA present_schema CASCADE;

CALL bemi.drop_source('main');
DROP VIEW condition;
DROP TABLE names, things, untracked;
DROP FUNCTION tell, name_at, each, own, ends, hint;
DROP PUBLICATION bemi;
\set VERBOSITY terse
DROP EXTENSION bemi CASCADE;
