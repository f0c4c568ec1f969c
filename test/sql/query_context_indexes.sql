--
-- Indexes on keys of the context and on columns: on the partitions there are and on those to come, and what the
-- calls refuse. A search for a value must use the index whatever the key is called, because
-- otherwise it reads the whole history. So plans are printed, of tables without statistics and with
-- other kinds of scans disabled.
--
-- No worker runs here. test/t/store_context_indexes.pl has one, which must not wait.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_sort = off;

SELECT _bemi.make_partition(m) FROM unnest('{2026-01-15, 2026-02-15}'::timestamptz[]) m;
INSERT INTO bemi.changes
	SELECT ('00000000-0000-8000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'shop', 'public', 'todo', n::text, 'CREATE', '{}', '{}',
		CASE WHEN n % 3 = 0 THEN '{}' WHEN n = 400 THEN jsonb_build_object('userId', repeat('x', 100000) || 'y')
			ELSE jsonb_build_object('userId', n % 10, 'it''s \ "odd"', n % 7) END,
		m, m, m, n, n, 'main'
	FROM generate_series(1, 400) n, LATERAL (SELECT '2026-01-01'::timestamptz + n * interval '3 hours' AS m) t;
-- one of a user's own
CREATE TABLE mine (LIKE bemi.changes);
ALTER TABLE bemi.changes ATTACH PARTITION mine FOR VALUES FROM ('2025-01-01') TO ('2025-02-01');

CREATE VIEW indexes AS SELECT indrelid::regclass AS partition, indexrelid::regclass AS index,
	substring(pg_get_indexdef(indexrelid) FROM ' USING .*') AS definition, indisvalid
	FROM pg_index WHERE pg_get_indexdef(indexrelid) LIKE '%->>%' ORDER BY indrelid::regclass::text COLLATE "C", 3;

CALL bemi.index_context('userId');
CALL bemi.index_context('it''s \ "odd"');
SELECT * FROM indexes;
-- a second call finds all of them
CALL bemi.index_context('userId');
SELECT count(*) FROM indexes;
SELECT key, partitions, indexed, bytes > 0 AS has_bytes FROM bemi.context_indexes ORDER BY key;
-- those to come
SELECT _bemi.make_partition('2026-03-15');
SELECT * FROM indexes WHERE partition = '_bemi.changes_2026_03'::regclass;
SELECT key, partitions, indexed FROM bemi.context_indexes ORDER BY key;

-- Searches
CREATE FUNCTION plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY EXECUTE 'EXPLAIN (COSTS off) ' || query;
END
$$;
SELECT plan($$ SELECT id FROM bemi.changes WHERE bemi.context_is(context, 'userId', '7') ORDER BY id DESC LIMIT 3 $$);
SELECT id, context FROM bemi.changes WHERE bemi.context_is(context, 'userId', '7') ORDER BY id DESC LIMIT 3;
SELECT plan($$ SELECT id FROM bemi.changes WHERE bemi.context_is(context, 'it''s \ "odd"', '3') AND committed_at < '2026-02-01' ORDER BY id DESC LIMIT 3 $$);
SELECT id, context FROM bemi.changes WHERE bemi.context_is(context, 'it''s \ "odd"', '3') AND committed_at < '2026-02-01' ORDER BY id DESC LIMIT 3;
-- also with parameters of a prepared statement
PREPARE by_user(text) AS SELECT count(*) FROM bemi.changes WHERE bemi.context_is(context, 'userId', $1);
SET plan_cache_mode = force_generic_plan;
EXECUTE by_user('7');
EXECUTE by_user(repeat('x', 100000) || 'y');
EXECUTE by_user(repeat('x', 100000) || 'z');
EXECUTE by_user(repeat('x', 200));
EXECUTE by_user(NULL);
SELECT plan($$ EXECUTE by_user('7') $$);
SELECT count(*) FROM bemi.changes WHERE context ->> 'userId' = '7';

-- find_changes() by the text of a value, whatever its type in JSON, and by several operations
INSERT INTO bemi.changes
	SELECT ('00000000-0000-8000-8001-' || lpad(to_hex(n), 12, '0'))::uuid, 'shop', 'public', 'todo', n::text, o, '{}', '{}', jsonb_build_object('userId', v), m, m, m, n, n, 'main'
	FROM (VALUES (1, 'DELETE', '"7"'::jsonb), (2, 'UPDATE', '7.0'), (3, 'UPDATE', 'true'), (4, 'CREATE', '"true"'), (5, 'CREATE', 'null'), (6, 'CREATE', '[7]')) u(n, o, v), (VALUES ('2026-02-20'::timestamptz)) t(m);
SELECT jsonb_typeof(context -> 'userId') AS type, count(*) FROM bemi.find_changes(context_is => '{"userId": 7}', newest => NULL) GROUP BY 1 ORDER BY 1;
SELECT context FROM bemi.find_changes(context_is => '{"userId": "7.0"}');
SELECT context FROM bemi.find_changes(context_is => '{"userId": "true"}');
SELECT context FROM bemi.find_changes(context_is => '{"userId": "[7]"}');
SELECT context FROM bemi.find_changes(context_is => '{"userId": null}');
SELECT count(*) FROM bemi.find_changes(context_is => '{}', newest => NULL);
SELECT operation, primary_key FROM bemi.find_changes(operation => 'DELETE, UPDATE', source_name => 'main');
SELECT count(*) FROM bemi.find_changes(context => '{"userId": 7}', context_is => '{"it''s \\ \"odd\"": "3"}', newest => NULL);
SELECT count(*) FROM bemi.changes WHERE context ->> 'userId' IN ('7', '7.0') AND context ->> 'it''s \ "odd"' = '3';
SELECT bemi.find_changes(operation => 'DELETE,');
SELECT bemi.find_changes(operation => '');
SELECT bemi.find_changes(context_is => '"userId"');
DELETE FROM bemi.changes WHERE id::text LIKE '%-8001-%';

-- An index with the same definition counts, whoever made it. One of bemi.changes itself stays.
CALL bemi.drop_index_context('userId');
SELECT partition, definition FROM indexes;
CREATE INDEX mine_of_user ON mine ("left"((context ->> 'userId'), 200) COLLATE "C", id) WHERE context ->> 'userId' IS NOT NULL;
CALL bemi.index_context('userId');
SELECT index FROM indexes WHERE partition = 'mine'::regclass AND definition LIKE '%userId%';
CREATE INDEX whole_key ON bemi.changes ("left"((context ->> 'whole'), 200) COLLATE "C", id) WHERE context ->> 'whole' IS NOT NULL;
CALL bemi.index_context('whole');
SELECT partition, count(*) FROM indexes WHERE definition LIKE '%whole%' GROUP BY partition ORDER BY partition::text COLLATE "C";
CALL bemi.drop_index_context('whole');
SELECT count(*) FROM indexes WHERE definition LIKE '%whole%';
DROP INDEX bemi.whole_key;

-- Mistakes
CALL bemi.index_context(NULL);
CALL bemi.index_context(repeat('k', 1001));
CALL bemi.drop_index_context('nosuch');
BEGIN;
CALL bemi.index_context('userId');
ROLLBACK;
DO $$ BEGIN CALL bemi.index_context('userId'); END $$;
CREATE PROCEDURE around() LANGUAGE plpgsql AS $$ BEGIN CALL bemi.drop_index_context('userId'); END $$;
CALL around();
SET default_transaction_read_only = on;
CALL bemi.index_context('other');
RESET default_transaction_read_only;
-- settings of the session: nothing is created twice, nor with another function or key
CREATE SCHEMA trap;
CREATE FUNCTION trap."left"(text, integer) RETURNS text IMMUTABLE LANGUAGE sql AS $$ SELECT 'trap' $$;
SET search_path = trap, pg_catalog, public;
SET default_transaction_isolation = 'serializable';
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET quote_all_identifiers = on;
CALL bemi.index_context('it''s \\ "odd"');
CALL bemi.index_context('back\\slash');
SELECT key, partitions, indexed FROM bemi.context_indexes ORDER BY key;
RESET quote_all_identifiers;
RESET standard_conforming_strings;
RESET default_transaction_isolation;
RESET search_path;
SELECT count(*), count(DISTINCT definition) FROM indexes;

-- Columns: the same calls, by the same code
SET standard_conforming_strings = off;
SET quote_all_identifiers = on;
SET search_path = trap, pg_catalog, public;
CALL bemi.index_column('it''s \\ "odd"');
CALL bemi.index_column('it''s \\ "odd"');
RESET search_path;
RESET quote_all_identifiers;
RESET standard_conforming_strings;
RESET escape_string_warning;
CALL bemi.index_column('price');
SELECT _bemi.make_partition('2026-04-15');
SELECT column_name, partitions, indexed, bytes > 0 AS has_bytes FROM bemi.column_indexes ORDER BY column_name;
SELECT substring(pg_get_indexdef(indexrelid) FROM ' USING .*') AS definition, count(*) FROM pg_index WHERE pg_get_indexdef(indexrelid) LIKE '%column_is_changed%' GROUP BY 1 ORDER BY 1;
UPDATE bemi.changes SET operation = 'UPDATE', before = '{"price": 1, "name": "a"}', after = jsonb_build_object('price', transaction_id % 2, 'name', 'a') WHERE transaction_id < 100;
SELECT plan($$ SELECT id FROM bemi.changes WHERE "table" = 'todo' AND operation = 'UPDATE' AND bemi.column_is_changed(operation, before, after, 'price') AND committed_at < '2026-02-01' ORDER BY id DESC LIMIT 3 $$);
SELECT primary_key FROM bemi.changes WHERE "table" = 'todo' AND operation = 'UPDATE' AND bemi.column_is_changed(operation, before, after, 'price') ORDER BY id DESC LIMIT 3;
SELECT operation, bemi.column_is_changed(operation, before, after, 'a') FROM (VALUES
	('UPDATE', '{"a": 1}'::jsonb, '{"a": 1.0}'::jsonb), ('UPDATE', '{"a": 1}', '{"a": "1"}'), ('UPDATE', '{"a": null}', '{"a": null}'), ('UPDATE', '{"a": null}', '{"a": false}'), ('UPDATE', '{"a": true}', '{"a": false}'),
	('UPDATE', '{"a": [1]}', '{"a": [1.0]}'), ('UPDATE', '{"a": [1]}', '{"a": {"b": 1}}'), ('UPDATE', '{"a": "x"}', '{"a": "xy"}'), ('UPDATE', '{}', '{"a": 1}'), ('UPDATE', '[]', '"a"'),
	('CREATE', '{}', '{"a": 1}'), ('CREATE', '{}', '{"a": null}'), ('CREATE', '{}', '{}'), ('DELETE', '{"a": {}}', '{}'), ('SNAPSHOT', '{}', '{"a": 1}'), ('TRUNCATE', '{}', '{}'), ('UPDATE', NULL, '{}')) c(operation, before, after);
CALL bemi.index_column(NULL);
CALL bemi.index_column(repeat('k', 1001));
CALL bemi.drop_index_column('nosuch');
BEGIN;
CALL bemi.drop_index_column('price');
ROLLBACK;
CALL bemi.drop_index_column('price');
SELECT column_name FROM bemi.column_indexes;

-- Rights: the procedures need EXECUTE and the owner's rights, the view a reader's.
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_clerk;
RESET client_min_messages;
CREATE ROLE regress_bemi_clerk;
SET ROLE regress_bemi_clerk;
CALL bemi.index_context('userId');
CALL bemi.index_column('price');
SELECT * FROM bemi.column_indexes;
SELECT * FROM bemi.context_indexes;
RESET ROLE;
GRANT USAGE ON SCHEMA bemi TO regress_bemi_clerk;
GRANT EXECUTE ON PROCEDURE bemi.index_context(text), bemi.drop_index_context(text) TO regress_bemi_clerk;
SET ROLE regress_bemi_clerk;
CALL bemi.index_context('userId');
CALL bemi.drop_index_context('userId');
RESET ROLE;
SELECT bemi.grant_read('regress_bemi_clerk');
SET ROLE regress_bemi_clerk;
SELECT key, partitions, indexed FROM bemi.context_indexes ORDER BY key;
SELECT column_name, partitions, indexed FROM bemi.column_indexes;
SELECT count(*) FROM bemi.changes WHERE bemi.context_is(context, 'userId', '7');
RESET ROLE;
SELECT bemi.revoke_read('regress_bemi_clerk');
SET ROLE regress_bemi_clerk;
SELECT * FROM bemi.context_indexes;
RESET ROLE;
REVOKE ALL ON SCHEMA bemi FROM regress_bemi_clerk;
REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi FROM regress_bemi_clerk;
DROP ROLE regress_bemi_clerk;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP SCHEMA trap CASCADE;
DROP FUNCTION plan(text);
