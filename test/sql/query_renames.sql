--
-- bemi.history(), bemi.blame(), bemi.find_changes() and bemi.completeness() follow renamed tables and columns.
--
-- Names are reused: a column or table that is dropped or renamed leaves its name to another one, whose values must not
-- be taken for its own. The test knows the story of each row, and reads it page by page as well.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE SCHEMA shop;
SELECT bemi.track_schema('shop');
CREATE FUNCTION pages(target regclass, key text, newest integer) RETURNS uuid[] LANGUAGE plpgsql AS $$
DECLARE
	page uuid[];
	result uuid[] := '{}';
BEGIN
	LOOP
		page := ARRAY(SELECT h.id FROM bemi.history(target, key, newest, result[cardinality(result)]) h);
		result := result || page;
		EXIT WHEN cardinality(page) < newest;
	END LOOP;
	RETURN result;
END $$;
CREATE FUNCTION story(target regclass, key text) RETURNS TABLE (operation text, row_key text, changed jsonb, context jsonb, wrong_pages integer[])
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM bemi.sync('60s');
	RETURN QUERY SELECT h.operation, h.primary_key, h.changed, h.context, ARRAY(SELECT n FROM generate_series(1, 5) n
			WHERE pages(target, story.key, n) IS DISTINCT FROM ARRAY(SELECT x.id FROM bemi.history(target, story.key, NULL) x))
		FROM bemi.history(target, story.key) h;
END $$;
-- Changes of one column, of all rows, and the page sizes by which find_changes() returns others.
CREATE FUNCTION column_story(target regclass, column_name text) RETURNS TABLE (name text, operation text, row_key text, old jsonb, new jsonb, context jsonb, wrong_pages integer[])
LANGUAGE plpgsql AS $$
DECLARE
	all_ids uuid[] := ARRAY(SELECT f.id FROM bemi.find_changes(target, column_name => column_story.column_name, newest => NULL) f);
	page uuid[];
	ids uuid[];
BEGIN
	FOR n IN 1..5 LOOP
		ids := '{}';
		LOOP
			page := ARRAY(SELECT f.id FROM bemi.find_changes(target, column_name => column_story.column_name, newest => n, before_id => ids[cardinality(ids)]) f);
			ids := ids || page;
			EXIT WHEN cardinality(page) < n;
		END LOOP;
		wrong_pages := CASE WHEN ids <> all_ids THEN wrong_pages || n ELSE wrong_pages END;
	END LOOP;
	RETURN QUERY SELECT format('%s.%s', f.schema, f."table"), f.operation, f.primary_key, f.before -> column_name, f.after -> column_name, f.context, wrong_pages
		FROM bemi.find_changes(target, column_name => column_story.column_name) f;
END $$;

-- Columns: renamed, also those of the key, swapped, and dropped with another one in its place.
CREATE TABLE shop.item (id int PRIMARY KEY, name text, price int, size int);
SELECT clock_timestamp() AS created \gset
SET bemi.context = '{"step": 1}';
INSERT INTO shop.item VALUES (1, 'pen', 10, 20), (2, 'cup', 11, 21);
ALTER TABLE shop.item RENAME id TO number;
SET bemi.context = '{"step": 2}';
UPDATE shop.item SET number = 100, price = 12 WHERE number = 1;
BEGIN;
ALTER TABLE shop.item RENAME price TO tmp;
ALTER TABLE shop.item RENAME size TO price;
ALTER TABLE shop.item RENAME tmp TO size;
COMMIT;
SET bemi.context = '{"step": 3}';
UPDATE shop.item SET size = 13 WHERE number = 100;
ALTER TABLE shop.item DROP name;
ALTER TABLE shop.item ADD name int DEFAULT 7;
SET bemi.context = '{"step": 4}';
UPDATE shop.item SET price = 22;
SELECT * FROM story('shop.item', '100');
SELECT before, after FROM bemi.history('shop.item', '100');
SELECT column_name, value, operation, context FROM bemi.blame('shop.item', '100');
SELECT column_name, value, operation, context FROM bemi.blame('shop.item', '2');
SELECT * FROM column_story('shop.item', 'price');
SELECT * FROM column_story('shop.item', 'size');
SELECT * FROM column_story('shop.item', 'number');
SELECT * FROM column_story('shop.item', 'name (dropped)');
SELECT operation, after FROM bemi.find_changes('shop.item', column_name => 'name');

-- Tables: renamed, moved with their schema, and two that swap their names while rows are written.
ALTER TABLE shop.item RENAME TO article;
SET bemi.context = '{"step": 5}';
UPDATE shop.article SET name = 8 WHERE number = 100;
ALTER SCHEMA shop RENAME TO store;
SET bemi.context = '{"step": 6}';
UPDATE store.article SET name = 9 WHERE number = 100;
CREATE TABLE store.new (number int PRIMARY KEY, name text);
INSERT INTO store.new VALUES (100, 'other');
BEGIN;
UPDATE store.article SET name = 10 WHERE number = 100;
ALTER TABLE store.article RENAME TO old;
ALTER TABLE store.new RENAME TO article;
UPDATE store.article SET name = 'another';
UPDATE store.old SET name = 11 WHERE number = 100;
COMMIT;
SELECT clock_timestamp() AS renamed \gset
SELECT * FROM story('store.old', '100');
SELECT column_name, value, operation, context FROM bemi.blame('store.old', '100');
SELECT * FROM story('store.article', '100');
SELECT * FROM column_story('store.old', 'name');
SELECT * FROM column_story('store.article', 'name');
-- A change of another table, or one under another name of this one, is a place, too.
SELECT count(*) AS wrong FROM bemi.changes c, LATERAL (SELECT ARRAY(SELECT f.id FROM bemi.find_changes('store.old', before_id => c.id, newest => NULL) f)) page(ids)
	WHERE page.ids <> ARRAY(SELECT f.id FROM bemi.find_changes('store.old', newest => NULL) f WHERE f.id < c.id);
SELECT f.schema, f."table", count(*) FROM bemi.find_changes('store.old', operation => 'UPDATE', context => '{"step": 6}', newest => NULL) f GROUP BY 1, 2 ORDER BY 1, 2;
-- It is complete since it was created, under whatever name.
SELECT c.reason, c.missing_from, c.missing_to < :'created' AS before_all, c.detail FROM bemi.completeness('store.old', to_time => :'renamed') c ORDER BY c.reason;
SELECT c.complete FROM bemi.completeness('store.old', :'created', :'renamed') c;
SELECT c.reason, c.detail FROM bemi.source_completeness('main', 'store', 'old', :'created', :'renamed') c;

-- Names that come back: each change belongs to one table, and to one of its names. Whoever has the name, a row says its owner.
CREATE TABLE store.home (id int PRIMARY KEY, owner text, v int);
CREATE TABLE store.away (id int PRIMARY KEY, owner text, v int);
CREATE FUNCTION owners(target regclass) RETURNS TABLE (owner text, vs int[], found int[], by_names int[]) LANGUAGE sql AS $$
	SELECT h.after ->> 'owner', array_agg((h.after ->> 'v')::int ORDER BY h.id),
		ARRAY(SELECT (f.after ->> 'v')::int FROM bemi.find_changes(target, newest => NULL) WITH ORDINALITY f ORDER BY f.ordinality DESC),
		ARRAY(SELECT (c.after ->> 'v')::int
			FROM _bemi.history_of(target) o, _bemi.table_names(o.sources, o.relation, o.schema_name, o.table_name) n, bemi.changes c
			WHERE c.schema = n.schema_name AND c."table" = n.table_name AND coalesce(c.id > n.from_id, true) AND coalesce(c.id < n.to_id, true) ORDER BY c.id)
		FROM bemi.history(target, '1') h GROUP BY 1
$$;
SELECT clock_timestamp() AS begin \gset
-- Away and back, twice.
INSERT INTO store.home VALUES (1, 'home', 1);
ALTER TABLE store.home RENAME TO home_2;
UPDATE store.home_2 SET v = 2;
ALTER TABLE store.home_2 RENAME TO home;
UPDATE store.home SET v = 3;
ALTER TABLE store.home RENAME TO home_2;
UPDATE store.home_2 SET v = 4;
ALTER TABLE store.home_2 RENAME TO home;
UPDATE store.home SET v = 5;
INSERT INTO store.away VALUES (1, 'away', 1);
-- They swap their names through a third one, and back, and again in one transaction with changes in between.
CREATE PROCEDURE swap(v int) LANGUAGE plpgsql AS $$
BEGIN
	ALTER TABLE store.home RENAME TO third;
	UPDATE store.third SET v = swap.v;
	ALTER TABLE store.away RENAME TO home;
	UPDATE store.home SET v = swap.v;
	ALTER TABLE store.third RENAME TO away;
	UPDATE store.away SET v = swap.v + 1;
END $$;
CALL swap(11);
UPDATE store.home SET v = 13;
CALL swap(21);
BEGIN;
CALL swap(31);
CALL swap(41);
UPDATE store.home SET v = 43;
COMMIT;
-- The third name was that of both. And a new table takes it, and gives it back.
CREATE TABLE store.third (id int PRIMARY KEY, owner text, v int);
INSERT INTO store.third VALUES (1, 'third', 1);
ALTER TABLE store.third RENAME TO fourth;
ALTER TABLE store.home RENAME TO third;
UPDATE store.third SET v = 51;
ALTER TABLE store.third RENAME TO home;
ALTER TABLE store.fourth RENAME TO third;
UPDATE store.third SET v = 61;
SELECT bemi.sync('60s');
SELECT t, o.* FROM unnest('{store.home, store.away, store.third}'::regclass[]) t, owners(t) o;
SELECT column_name, value, operation FROM bemi.blame('store.home', '1');
SELECT t, wrong_pages, count(*) FROM unnest('{store.home, store.away, store.third}'::regclass[]) t, story(t, '1') GROUP BY 1, 2 ORDER BY 1;
SELECT t, wrong_pages, count(*) FROM unnest('{store.home, store.away, store.third}'::regclass[]) t, column_story(t, 'v') GROUP BY 1, 2 ORDER BY 1;
SELECT v.operation, (v.version).* FROM bemi.versions(NULL::store.home, :'begin', clock_timestamp()) v ORDER BY v.change;
SELECT kind, (before).v AS before, (after).v AS after FROM bemi.diff_table(NULL::store.home, :'begin', clock_timestamp());
SELECT a.* FROM bemi.history('store.home', '1') h, bemi.as_of(NULL::store.home, before => h.id) a WHERE h.after ->> 'v' IN ('4', '21', '51') ORDER BY 3;
DROP FUNCTION owners;
DROP PROCEDURE swap;

CREATE TABLE store.busy (id int PRIMARY KEY, v int);
INSERT INTO store.busy VALUES (1, 0);
-- Dropped and created again: the former table's changes are shown, too.
DROP TABLE store.article;
CREATE TABLE store.article (number int PRIMARY KEY, title text);
INSERT INTO store.article VALUES (100, 'newest');
SELECT * FROM story('store.article', '100');
SELECT primary_key, after FROM bemi.find_changes('store.article');
\set VERBOSITY sqlstate
SELECT * FROM bemi.history('store.busy', '1', before_id => (SELECT id FROM bemi.history('store.article', '100', 1)));
\set VERBOSITY default

-- Another primary key since: a value of the former one is no key of today.
CREATE TABLE store.badge (number int PRIMARY KEY, code int NOT NULL UNIQUE, v int);
INSERT INTO store.badge VALUES (1, 2, 10), (2, 1, 20), (3, 3, 30);
UPDATE store.badge SET v = v + 1;
ALTER TABLE store.badge DROP CONSTRAINT badge_pkey, ADD PRIMARY KEY (code);
UPDATE store.badge SET v = v + 1 WHERE code < 4;
SELECT bemi.sync('60s');
SELECT h.operation, h.after FROM bemi.history('store.badge', '2') h;
SELECT h.operation, h.after FROM bemi.history('store.badge', '3') h;
SELECT * FROM story('store.badge', '1');
SELECT * FROM story('store.badge', '3');
ALTER TABLE store.badge DROP CONSTRAINT badge_pkey, ADD PRIMARY KEY (number, code);
UPDATE store.badge SET v = v + 1;
ALTER TABLE store.badge DROP CONSTRAINT badge_pkey, ADD PRIMARY KEY (code, number);
UPDATE store.badge SET v = 0;
SELECT bemi.sync('60s');
SELECT h.operation, h.after FROM bemi.history('store.badge', '[2, 1]') h;

-- Only what the reader may see.
CREATE ROLE regress_bemi_renames;
SELECT bemi.grant_read('regress_bemi_renames');
SET ROLE regress_bemi_renames;
SELECT count(*) FROM bemi.history((SELECT oid FROM pg_class WHERE relname = 'old')::regclass, '100');
SELECT count(*) FROM bemi.find_changes((SELECT oid FROM pg_class WHERE relname = 'old')::regclass, column_name => 'name');
RESET ROLE;
SELECT bemi.revoke_read('regress_bemi_renames');
DROP ROLE regress_bemi_renames;

CALL bemi.stop();
DROP EXTENSION bemi CASCADE;
DROP SCHEMA store CASCADE;
DROP FUNCTION pages, story, column_story;
