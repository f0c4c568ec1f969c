--
-- Errors of the functions that read the past and take changes back, where no other test raises them.
--
-- An error that should come, and does not, is a wrong answer that nobody notices. So each is raised
-- here with its complete text, by histories that lack what the function needs. An argument that is
-- NULL must not count as the permission to return wrong rows.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE TABLE item (id integer PRIMARY KEY, name text);
SELECT bemi.track('item');
INSERT INTO item VALUES (1, 'pen');
SELECT bemi.sync();
-- Ids vary.
CREATE FUNCTION error_of(query text) RETURNS TABLE (line text) LANGUAGE plpgsql AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE query;
	RETURN QUERY VALUES ('no error');
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	RETURN QUERY VALUES (regexp_replace(message, '[0-9a-f]{8}-[0-9a-f-]{27}', 'ID')), (detail), (hint);
END $$;

-- Places that are not in the past
SELECT * FROM bemi.as_of(NULL::item, before => '00000000-0000-8000-8000-000000000000');
SELECT * FROM bemi.row_as_of(NULL::item, '1', before => '00000000-0000-8000-8000-000000000000');
SELECT * FROM bemi.as_of_json('item', before => '00000000-0000-8000-8000-000000000000');
SELECT * FROM bemi.restore('item', '1', before => '00000000-0000-8000-8000-000000000000');
SELECT * FROM bemi.as_of(NULL::item, at_lsn => 'FFFFFFFF/0');
SELECT * FROM bemi.row_as_of(NULL::item, '1', at_lsn => 'FFFFFFFF/0');
SELECT * FROM bemi.as_of_json('item', at_lsn => 'FFFFFFFF/0');
SELECT * FROM bemi.restore('item', '1', at_lsn => 'FFFFFFFF/0');
SELECT * FROM bemi.row_as_of(NULL::item, '1', '2100-01-01 UTC'::timestamptz, at_lsn => '0/1');
SET timezone = 'UTC';
SELECT * FROM bemi.as_of(NULL::item, '2100-01-01');
SELECT * FROM bemi.versions(NULL::item, '2000-01-01', '2100-01-01');
SELECT * FROM bemi.past('past_of_errors', 'public', '2100-01-01');
RESET timezone;
CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted DEFAULT;
SELECT bemi.track('parted');
SELECT * FROM bemi.as_of(NULL::part, now());
DROP TABLE parted;
-- Keys
SELECT * FROM bemi.row_as_of(NULL::item, NULL, now());
SELECT * FROM bemi.row_as_of(NULL::item, 'x', now());
SELECT * FROM bemi.restore('item', 'x', now());
SELECT name FROM item;	-- nothing was written
-- Functions of bemi are not in the context, but those of the user are.
CREATE FUNCTION ask() RETURNS SETOF item LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY SELECT * FROM bemi.row_as_of(NULL::item, 'x', now()); END $$;
\set SHOW_CONTEXT always
SELECT * FROM bemi.row_as_of(NULL::item, 'x', now());
SELECT * FROM bemi.history('item', 'x');
SELECT * FROM bemi.history('item', NULL);
SELECT * FROM ask();
\set SHOW_CONTEXT never
DROP FUNCTION ask();
SELECT count(*) FROM bemi.history('item', '1');	-- the session goes on
-- Tables without a past
CREATE TEMP TABLE a_temporary (a integer PRIMARY KEY);
CREATE UNLOGGED TABLE an_unlogged (a integer PRIMARY KEY);
CREATE VIEW a_view AS SELECT * FROM item;
SELECT * FROM bemi.as_of(NULL::bemi.changes, now());
SELECT * FROM bemi.versions(NULL::bemi.changes, now() - interval '1 hour', now());
SELECT * FROM bemi.as_of_json('bemi.changes', now());
SELECT * FROM bemi.as_of(NULL::bemi.gaps, now(), allow_gaps => true);
SELECT * FROM bemi.as_of(NULL::pg_class, now());
SELECT * FROM bemi.as_of(NULL::information_schema.sql_features, now());
SELECT * FROM bemi.as_of(NULL::a_temporary, now());
SELECT * FROM bemi.as_of(NULL::a_view, now());
SELECT * FROM error_of('SELECT bemi.as_of(NULL::an_unlogged, now())') WHERE line NOT LIKE 'the history %';
SELECT * FROM bemi.find_changes('bemi.changes');
SELECT * FROM bemi.find_changes('an_unlogged');
SELECT * FROM bemi.history('bemi.changes', '1');
DROP TABLE a_temporary, an_unlogged;
DROP VIEW a_view;
-- Columns that a table never had; former names find the column
CREATE TABLE former (id integer PRIMARY KEY, old text, gone text);
CREATE TABLE other (id integer PRIMARY KEY, old text);
SELECT bemi.track('former'), bemi.track('other');
INSERT INTO former VALUES (1, 'a', 'g');
ALTER TABLE former RENAME old TO new;
UPDATE former SET new = 'b';
ALTER TABLE former DROP gone;
ALTER TABLE former RENAME TO latter;
SELECT bemi.sync();
SELECT n AS column_name, operation, before, after
	FROM unnest('{old, new, gone}'::name[]) WITH ORDINALITY c(n, i), LATERAL bemi.find_changes('latter', column_name => n) WITH ORDINALITY f
	ORDER BY i, f.ordinality;
SELECT * FROM bemi.find_changes('latter', column_name => 'nwe');
SELECT * FROM bemi.find_changes('item', column_name => 'Name', from_time => now());
SELECT * FROM bemi.find_changes('other', column_name => 'gone');
SELECT count(*) FROM bemi.find_changes('other', column_name => 'old');
SELECT count(*) FROM bemi.find_changes(column_name => 'nwe');	-- of any table, also of those of other servers
DROP TABLE latter, other;
-- Redacted columns: the hint has those that can be read, or where the changes are
CREATE TABLE secret (id integer PRIMARY KEY, "Full name" text, card text, pin text, twice text GENERATED ALWAYS AS (pin || pin) STORED);
CREATE TABLE secret_bag (a integer, card text);
CREATE TABLE secret_key (card text PRIMARY KEY);
SELECT bemi.track('secret', redact => '{card, pin}'), bemi.track('secret_bag', redact => '{card}'), bemi.track('secret_key', redact => '{card}');
INSERT INTO secret VALUES (1, 'Ann', '4711', '12');
INSERT INTO secret_bag VALUES (1, '4711');
INSERT INTO secret_key VALUES ('4711');
SELECT bemi.sync();
SELECT now() AS before \gset
UPDATE secret SET "Full name" = 'Bob';
UPDATE secret_bag SET a = 2;
UPDATE secret_key SET card = '4712';
SELECT query, e.line FROM unnest(ARRAY['SELECT bemi.as_of(NULL::secret, %L)', 'SELECT bemi.row_as_of(NULL::secret, ''1'', %L)', 'SELECT card FROM bemi.as_of(NULL::secret, %L)',
		'SELECT bemi.versions(NULL::secret, %L, clock_timestamp())', 'SELECT bemi.as_of(NULL::secret_bag, %L)', 'SELECT bemi.as_of(NULL::secret_key, %L)']) WITH ORDINALITY q(query, n),
		error_of(format(query, :'before')) WITH ORDINALITY e(line, i)
	WHERE i = 3 ORDER BY n;
SELECT id, "Full name" FROM bemi.as_of(NULL::secret, :'before');
DROP TABLE secret, secret_bag, secret_key;

-- A column whose type has changed since: values are converted, or the error names row, column and value.
CREATE TABLE retyped (id integer PRIMARY KEY, v text, "when" text);
SELECT bemi.track('retyped');
TRUNCATE retyped;	-- a base, because the command that rewrites the table is a gap
INSERT INTO retyped VALUES (1, '12', '2020-02-02'), (2, 'twelve', 'soon');
SELECT bemi.sync();
SELECT now() AS before \gset
UPDATE retyped SET v = '7', "when" = '2021-01-01';
ALTER TABLE retyped ALTER v TYPE integer USING v::integer, ALTER "when" TYPE date USING "when"::date;
CREATE FUNCTION cast_error_of(query text) RETURNS TABLE (line text) LANGUAGE plpgsql AS $$
DECLARE
	message text;
	context text;
BEGIN
	EXECUTE query;
	RETURN QUERY VALUES ('no error');
EXCEPTION WHEN data_exception THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, context = PG_EXCEPTION_CONTEXT;
	RETURN QUERY VALUES (message), (regexp_replace(split_part(context, E'\n', 1), '[0-9a-f]{8}-[0-9a-f-]{27}', 'ID'));
END $$;
SELECT * FROM bemi.row_as_of(NULL::retyped, '1', :'before');
SELECT e.line FROM unnest(ARRAY['SELECT v FROM bemi.as_of(NULL::retyped, %L)', 'SELECT "when" FROM bemi.as_of(NULL::retyped, %L)', 'SELECT bemi.row_as_of(NULL::retyped, ''2'', %L)',
		'SELECT bemi.as_of_json(''retyped'', %L)']) WITH ORDINALITY q(query, n), cast_error_of(format(query, :'before')) e
	ORDER BY n;
SELECT id FROM bemi.as_of(NULL::retyped, :'before') ORDER BY id;	-- columns that are not asked for are no error
DROP FUNCTION cast_error_of;
DROP TABLE retyped;

-- The history alone
CREATE TABLE renamed (id integer PRIMARY KEY);
CREATE TABLE person (mail text PRIMARY KEY);
CREATE TABLE bag (a integer);
SELECT bemi.track('renamed'), bemi.track('person', redact => '{mail}'), bemi.track('bag');
TRUNCATE renamed, person, bag;
INSERT INTO renamed VALUES (1);
ALTER TABLE renamed RENAME id TO number;
INSERT INTO person VALUES ('a@b');
INSERT INTO bag VALUES (1);
DELETE FROM bag;
INSERT INTO item VALUES (2, 'cup');
SELECT bemi.sync();
SELECT h.id AS end FROM bemi.history('item', '2') h \gset
SELECT count(*) FROM bemi.source_as_of_json('main', 'public', 'bag', before => :'end');
DELETE FROM bemi.changes WHERE "table" = 'bag' AND operation = 'CREATE';
SELECT t, allow_gaps, e.line FROM unnest('{renamed, person, bag, item}'::text[]) WITH ORDINALITY t(t, n), unnest('{f, NULL}'::boolean[]) allow_gaps,
		error_of(format('SELECT bemi.source_as_of_json(''main'', ''public'', %L, before => %L, allow_gaps => %L)', t, :'end', allow_gaps)) WITH ORDINALITY e(line, i)
	ORDER BY n, allow_gaps, i;
SELECT count(*) FROM bemi.source_as_of_json('main', 'public', 'bag', before => :'end', allow_gaps => true);
CREATE ROLE regress_bemi_errors;
SELECT bemi.grant_read('regress_bemi_errors');
ALTER TABLE bemi.changes ENABLE ROW LEVEL SECURITY;
SET ROLE regress_bemi_errors;
SELECT bemi.source_as_of_json('main', 'public', 'item', now());
RESET ROLE;
GRANT SELECT ON item TO regress_bemi_errors;
SET ROLE regress_bemi_errors;
SELECT * FROM bemi.as_of(NULL::item, now());
RESET ROLE;
ALTER TABLE bemi.changes DISABLE ROW LEVEL SECURITY;
ALTER TABLE item ENABLE ROW LEVEL SECURITY;
SET ROLE regress_bemi_errors;
SELECT * FROM bemi.as_of(NULL::item, now());
RESET ROLE;
ALTER ROLE regress_bemi_errors BYPASSRLS;
SET ROLE regress_bemi_errors;
SELECT count(*) FROM bemi.as_of(NULL::item, now());
RESET ROLE;
ALTER TABLE item DISABLE ROW LEVEL SECURITY;
REVOKE SELECT ON item FROM regress_bemi_errors;
SELECT bemi.revoke_read('regress_bemi_errors');
DROP ROLE regress_bemi_errors;

-- Another server, another database
UPDATE _bemi.source_tables SET server = '1/elsewhere' WHERE "table" = 'item';
\set VERBOSITY terse
CALL bemi.baseline('main', 'item');
\set VERBOSITY default
SELECT count(*) FROM bemi.baselines;
INSERT INTO bemi.changes SELECT '00000000-0000-8000-8000-000000000001', database, schema, "table", primary_key, operation, before, after, context, committed_at,
	queued_at, created_at, transaction_id, position, 'other' FROM bemi.changes WHERE id = :'end';
SELECT * FROM bemi.plan_revert(changes => '{00000000-0000-8000-8000-000000000001}');
SELECT * FROM bemi.revert(changes => '{00000000-0000-8000-8000-000000000001}', mode => 'force');
SELECT * FROM bemi.revert(transaction_of => '00000000-0000-8000-8000-000000000001', mode => 'skip');
SELECT id FROM item ORDER BY id;	-- no change was taken back

DROP TABLE item, renamed, person, bag;
DROP FUNCTION error_of;
CALL bemi.stop();
CALL bemi.drop_source('main');
DROP EXTENSION bemi CASCADE;
