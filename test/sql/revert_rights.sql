--
-- bemi.revert() and bemi.restore(): rights, and what surrounds a call.
--
-- They write with the rights of their caller, and run code of others only where a write of the caller
-- would run it, too. Also: where a revert may be called from, and what may have happened to the table
-- since.
--
\set SHOW_CONTEXT never
CREATE EXTENSION bemi;
CALL bemi.start();
CREATE ROLE regress_bemi_reader;
CREATE ROLE regress_bemi_other;
SELECT bemi.grant_read('regress_bemi_reader');
CREATE TABLE account (id integer PRIMARY KEY, name text, balance integer, doubled integer GENERATED ALWAYS AS (balance * 2) STORED);
SELECT bemi.track('account');
INSERT INTO account VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3);
SET bemi.context = '{"by": "name"}';
UPDATE account SET name = 'X' WHERE id = 1;
SET bemi.context = '{"by": "balance"}';
UPDATE account SET balance = 9 WHERE id = 1;
SET bemi.context = '{"by": "delete"}';
DELETE FROM account WHERE id = 2;
RESET bemi.context;
SELECT bemi.sync();
SELECT id AS change FROM bemi.changes WHERE operation = 'DELETE' \gset

-- Reading alone gives no right to write.
GRANT SELECT ON account TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT key, verdict FROM bemi.plan_revert(context => '{"by": "name"}');
SELECT bemi.revert(context => '{"by": "name"}');
SELECT bemi.revert(context => '{"by": "delete"}');
SELECT bemi.restore('account', '2', before => :'change');
RESET ROLE;
-- Rights on columns
GRANT UPDATE (name), INSERT (id, name) ON account TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT steps FROM bemi.revert(context => '{"by": "name"}');
SELECT bemi.revert(context => '{"by": "balance"}');
SELECT bemi.revert(context => '{"by": "delete"}');
RESET ROLE;
SELECT * FROM account ORDER BY id;
-- SELECT on some columns is not enough to see the rows as they are.
REVOKE SELECT ON account FROM regress_bemi_reader;
GRANT SELECT (id, name) ON account TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT bemi.plan_revert(context => '{"by": "name"}');
SELECT bemi.plan_revert(context => '{"by": "balance"}');
RESET ROLE;

-- Functions of the caller's search_path are not called.
CREATE SCHEMA trap;
CREATE FUNCTION trap.is_equal(a integer, b integer) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR trap.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = trap.is_equal);
CREATE FUNCTION trap.to_jsonb(anyelement) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION trap.count(integer) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE TYPE trap.jsonb AS (a integer);
CREATE TABLE trap.account (LIKE account);
SET search_path = trap, pg_catalog, public;
SET bemi.context = '{"by": "trap"}';
UPDATE public.account SET balance = 7, name = 'trap' WHERE id OPERATOR(pg_catalog.=) 1;
RESET bemi.context;
SELECT statement FROM bemi.plan_revert(context => '{"by": "trap"}');
SELECT steps FROM bemi.revert(context => '{"by": "trap"}');
RESET search_path;
SELECT * FROM account WHERE id = 1;
SET client_min_messages = warning;
DROP SCHEMA trap CASCADE;
RESET client_min_messages;

-- A trigger of another role is run as for any write: with the rights of the caller.
CREATE TABLE spy (caller name);
GRANT INSERT ON spy TO PUBLIC;
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.spy VALUES (current_user); RETURN NEW; END $$;
ALTER FUNCTION spy() OWNER TO regress_bemi_other;
CREATE TRIGGER spies BEFORE UPDATE ON account FOR EACH ROW EXECUTE FUNCTION spy();
GRANT SELECT, UPDATE ON account TO regress_bemi_reader;
SET bemi.context = '{"by": "spied"}';
ALTER TABLE account DISABLE TRIGGER spies;
UPDATE account SET balance = 8 WHERE id = 1;
ALTER TABLE account ENABLE TRIGGER spies;
RESET bemi.context;
SELECT bemi.sync();
SET ROLE regress_bemi_reader;
SELECT reason FROM bemi.plan_revert(context => '{"by": "spied"}');
SELECT count(*) FROM bemi.revert(context => '{"by": "spied"}');
RESET ROLE;
SELECT * FROM spy;
DROP TRIGGER spies ON account;

-- Where it is called from
SET bemi.context = '{"by": "where"}';
UPDATE account SET balance = 5 WHERE id = 1;
RESET bemi.context;
BEGIN READ ONLY;
SELECT key, verdict FROM bemi.plan_revert(context => '{"by": "where"}');
SELECT bemi.revert(context => '{"by": "where"}');
ROLLBACK;
-- An error after it, or in it, that is caught
DO $$ BEGIN
	BEGIN PERFORM bemi.revert(context => '{"by": "where"}'); RAISE 'after'; EXCEPTION WHEN raise_exception THEN RAISE NOTICE 'caught'; END;
	BEGIN PERFORM bemi.revert(context => '{"by": "nobody"}'); EXCEPTION WHEN no_data_found THEN RAISE NOTICE 'caught: %', SQLERRM; END;
	RAISE NOTICE '%', bemi.current_context();
END $$;
SELECT balance FROM account WHERE id = 1;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT steps FROM bemi.revert(context => '{"by": "where"}');
SELECT balance FROM account WHERE id = 1;
COMMIT;
-- A plan in a cursor, and a prepared one that runs again after an error
SET bemi.context = '{"by": "again"}';
UPDATE account SET balance = 6 WHERE id = 1;
RESET bemi.context;
PREPARE again(jsonb) AS SELECT steps FROM bemi.revert(context => $1);
EXECUTE again('[]');
EXECUTE again('{"by": "nobody"}');
EXECUTE again('{"by": "again"}');
\set VERBOSITY terse
EXECUTE again('{"by": "again"}');
\set VERBOSITY default

-- Values that a domain or a CHECK does not allow any more
CREATE DOMAIN small AS integer;
CREATE TABLE sized (id integer PRIMARY KEY, n small, m integer);
SELECT bemi.track('sized');
INSERT INTO sized VALUES (1, 100, 100);
SET bemi.context = '{"by": "size"}';
UPDATE sized SET n = 1, m = 1;
RESET bemi.context;
ALTER DOMAIN small ADD CHECK (value < 50);
SELECT key, columns, verdict, reason FROM bemi.plan_revert(context => '{"by": "size"}');
SELECT bemi.revert(context => '{"by": "size"}');
ALTER DOMAIN small DROP CONSTRAINT small_check;
ALTER TABLE sized ADD CHECK (m < 50);
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "size"}');
SELECT bemi.revert(context => '{"by": "size"}');
SELECT * FROM sized;

-- Many values, a few of which do not fit the type of today
CREATE TABLE many (id integer PRIMARY KEY, v text);
SELECT bemi.track('many');
INSERT INTO many SELECT i, CASE WHEN i % 1700 = 0 THEN 'x' ELSE i::text END FROM generate_series(1, 5000) i;
SET bemi.context = '{"by": "many"}';
DELETE FROM many;
RESET bemi.context;
ALTER TABLE many ALTER v TYPE integer USING v::integer;
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "many"}') WHERE verdict <> 'ok' LIMIT 10;
SELECT steps, skipped FROM bemi.revert(context => '{"by": "many"}', mode => 'skip');
SELECT count(*), sum(v) FROM many;

-- A domain that is NOT NULL: the statements of an UPDATE and of a DELETE have few of the values.
CREATE DOMAIN given AS text NOT NULL;
CREATE TABLE strict (id integer PRIMARY KEY, a given, b text);
SELECT bemi.track('strict');
INSERT INTO strict VALUES (1, 'a', 'b'), (2, 'a', 'b');
SET bemi.context = '{"by": "strict"}';
UPDATE strict SET b = 'c' WHERE id = 1;
DELETE FROM strict WHERE id = 2;
INSERT INTO strict VALUES (3, 'a', 'b'), (4, 'a', 'b');
RESET bemi.context;
UPDATE strict SET b = 'x' WHERE id = 4;
SELECT key, verdict, statement FROM bemi.plan_revert(context => '{"by": "strict"}');
SELECT steps FROM bemi.revert(context => '{"by": "strict"}', mode => 'force');
SELECT * FROM strict ORDER BY id;

-- A partition that was detached
CREATE TABLE part (day integer, v text, PRIMARY KEY (day)) PARTITION BY RANGE (day);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20) PARTITION BY LIST (day);
CREATE TABLE part_3 PARTITION OF part_2 FOR VALUES IN (11, 12);
SELECT bemi.track('part');
INSERT INTO part VALUES (1, 'a'), (2, 'b'), (11, 'c'), (12, 'd');
SET bemi.context = '{"by": "part"}';
DELETE FROM part WHERE day = 1;
UPDATE part SET v = 'X' WHERE day = 2;
DELETE FROM part WHERE day = 11;
RESET bemi.context;
ALTER TABLE part DETACH PARTITION part_1;
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "part"}');
SELECT steps, skipped FROM bemi.revert(context => '{"by": "part"}', mode => 'skip');
SELECT * FROM part ORDER BY day;
SELECT * FROM part_1 ORDER BY day;

-- bemi.restore() at a position
SELECT bemi.sync();
SELECT pg_current_wal_insert_lsn() AS position \gset
UPDATE account SET name = 'later' WHERE id = 3;
SELECT action, value_before, value_now FROM bemi.restore('account', '3', at_lsn => :'position');
SELECT action, value_before, value_now FROM bemi.restore('account', '3', at_lsn => :'position');
SELECT bemi.restore('account', '3', at_lsn => '0/1', before => NULL, at => now());

-- A row of a baseline is no change.
CREATE TABLE copied (id integer PRIMARY KEY);
SELECT bemi.track('copied');
INSERT INTO copied VALUES (1);
SELECT bemi.sync();
CALL bemi.baseline('main', 'copied');
DO $$ BEGIN
	PERFORM bemi.plan_revert(changes => ARRAY(SELECT id FROM bemi.changes WHERE operation = 'SNAPSHOT' LIMIT 1));
EXCEPTION WHEN invalid_parameter_value THEN RAISE NOTICE '%', regexp_replace(SQLERRM, '[0-9a-f-]{36}', 'ID'); END $$;

-- A foreign key would change rows that the caller does not see.
CREATE TABLE office (id integer PRIMARY KEY, name text);
CREATE TABLE desk (id integer PRIMARY KEY, office integer DEFAULT 1 REFERENCES office ON UPDATE SET NULL);
CREATE TABLE chair (id integer PRIMARY KEY, office integer DEFAULT 1 REFERENCES office ON UPDATE SET DEFAULT);
SELECT bemi.track('office');
INSERT INTO office VALUES (1, 'a'), (2, 'b'), (3, 'c');
SET bemi.context = '{"by": "number"}';
UPDATE office SET id = 20 WHERE id = 2;
UPDATE office SET name = 'X' WHERE id = 3;
RESET bemi.context;
INSERT INTO desk VALUES (1, 20);
GRANT SELECT, UPDATE ON office TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "number"}') ORDER BY key;
SELECT steps, skipped FROM bemi.revert(context => '{"by": "number"}', mode => 'skip');
RESET ROLE;
GRANT SELECT ON desk TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT key, verdict, reason FROM bemi.plan_revert(context => '{"by": "number"}') WHERE verdict = 'conflict';
RESET ROLE;
DELETE FROM desk;
GRANT SELECT ON chair TO regress_bemi_reader;
SET ROLE regress_bemi_reader;
SELECT steps FROM bemi.revert(context => '{"by": "number"}');
RESET ROLE;
SELECT * FROM office ORDER BY id;

SELECT bemi.revoke_read('regress_bemi_reader');
DROP OWNED BY regress_bemi_reader;
DROP TABLE spy;
DROP FUNCTION spy;
DROP ROLE regress_bemi_reader, regress_bemi_other;
CALL bemi.stop();
CALL bemi.drop_source('main');
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
DROP TABLE account, sized, many, strict, part, part_1, copied, office, desk, chair;
DROP DOMAIN small, given;
