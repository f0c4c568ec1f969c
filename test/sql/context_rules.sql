--
-- The rules for a context: merging, omitting repeated messages (bemi.emit), facts of the server
-- (bemi.include), requiring a context (bemi.require_context), removing it (RESET, DISCARD ALL).
-- None of them costs anything in a statement that changes no row.
--
-- The messages in the WAL decide, so the test reads them through a slot of test_decoding. Facts
-- that differ from run to run are compared by the query, and not printed.
--
CREATE EXTENSION bemi;

-- Messages and rows since the last call: a context as it is, a row as table and key.
\i test/sql/include/wal_short.sql

CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE done (id integer PRIMARY KEY, task text);
SELECT bemi.track('todo'), bemi.track('done');
SELECT count(*) FROM wal();

--
-- bemi.merge_context
--
SELECT bemi.merge_context('{"a": 1}', is_local => false);
SHOW bemi.context;
SELECT bemi.merge_context('{"b": {"c": 2}, "a": 3}', is_local => false);
SHOW bemi.context;
-- the values of the first level are replaced, not merged; null is a value
SELECT bemi.merge_context('{"b": {"d": 4}, "a": null}', is_local => false);
SHOW bemi.context;
SELECT bemi.merge_context(NULL, is_local => false);
SELECT bemi.merge_context('{}', is_local => false);
SHOW bemi.context;
SELECT bemi.merge_context('[1]');
SELECT bemi.merge_context('1');
SELECT bemi.merge_context('{"a": "\u0000"}');
SHOW bemi.context;
-- local is the default, and ends with the transaction or the savepoint
BEGIN;
SELECT bemi.merge_context('{"e": 5}');
SAVEPOINT a;
SELECT bemi.merge_context('{"f": 6}');
INSERT INTO todo VALUES (1);
ROLLBACK TO a;
INSERT INTO todo VALUES (2);
COMMIT;
SHOW bemi.context;
-- it merges with the setting, not with the comment that wins over it
SELECT bemi.merge_context('{"g": 7}', is_local => false) /*Bemi {"comment": true} Bemi*/;
SHOW bemi.context;
SELECT bemi.set_context(NULL, is_local => false);
SELECT bemi.merge_context('{"h": 8}', is_local => false);
SHOW bemi.context;
-- bindable, like any parameter
PREPARE merge (jsonb) AS SELECT bemi.merge_context($1, is_local => false);
EXECUTE merge ('{"say": "\"hello\""}');
SHOW bemi.context;
DEALLOCATE merge;
-- what would become too long is refused, and the context stays
SET bemi.max_context_size = 50;
SELECT bemi.merge_context(jsonb_build_object('long', repeat('x', 20)));
RESET bemi.max_context_size;
SHOW bemi.context;
SELECT * FROM wal();

--
-- RESET, SET TO DEFAULT, DISCARD ALL
--
RESET bemi.context;
SHOW bemi.context;
SET bemi.context = '{"n": 1}';
SET bemi.context TO DEFAULT;
INSERT INTO todo VALUES (3);
SET bemi.context = '{"n": 1}';
SET bemi.emit = statement;
INSERT INTO todo VALUES (4);
DISCARD ALL;
SELECT current_setting('bemi.context') AS context, current_setting('bemi.emit') AS emit;
INSERT INTO todo VALUES (5);
SELECT * FROM wal();

--
-- bemi.emit = changed: a message equal to the last one that is still valid is left out
--
SET bemi.emit = sometimes;
SET bemi.emit = changed;
SET bemi.context = '{"n": 1}';
BEGIN;
INSERT INTO todo VALUES (10);
INSERT INTO done VALUES (10);
UPDATE todo SET task = 'same' WHERE id = 10;
SET LOCAL bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (11);
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (12);
COPY todo (id) FROM PROGRAM 'echo 13';
SET LOCAL bemi.context = '';
INSERT INTO todo VALUES (14);
INSERT INTO todo VALUES (15);
COMMIT;
-- a transaction begins without a message
INSERT INTO todo VALUES (16);
RESET bemi.context;
BEGIN;
INSERT INTO todo VALUES (17);
INSERT INTO todo VALUES (18);
COMMIT;
SELECT * FROM wal();

-- rolled back, the message is gone and must be emitted again
SET bemi.context = '{"n": 1}';
BEGIN;
SAVEPOINT a;
INSERT INTO todo VALUES (20);
ROLLBACK TO a;
INSERT INTO todo VALUES (21);
SAVEPOINT b;
INSERT INTO todo VALUES (22);
SET LOCAL bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (23);
ROLLBACK TO b;
INSERT INTO todo VALUES (24);	-- {"n": 1} of 21 stands
COMMIT;
SELECT * FROM wal();

-- released, it stays; released and then rolled back with the outer savepoint, it does not
BEGIN;
SAVEPOINT a;
SAVEPOINT b;
SAVEPOINT c;
INSERT INTO todo VALUES (30);
RELEASE c;
INSERT INTO todo VALUES (31);
RELEASE b;
INSERT INTO todo VALUES (32);
ROLLBACK TO a;
INSERT INTO todo VALUES (33);	-- emitted again
RELEASE a;
INSERT INTO todo VALUES (34);
SAVEPOINT a;
SET LOCAL bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (35);
SAVEPOINT b;
SET LOCAL bemi.context = '{"n": 3}';
INSERT INTO todo VALUES (36);
RELEASE b;
INSERT INTO todo VALUES (37);	-- {"n": 3} stands
ROLLBACK TO a;
INSERT INTO todo VALUES (38);	-- {"n": 1} of 33 stands
ROLLBACK TO a;
SAVEPOINT a;
SET LOCAL bemi.context = '{"n": 2}';
INSERT INTO todo VALUES (39);
RELEASE a;
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (40);	-- not the one that stands any more
COMMIT;
SELECT * FROM wal();

-- no context after one: {} is emitted once, and again if it was rolled back
BEGIN;
INSERT INTO todo VALUES (50);
SET LOCAL bemi.context = '';
SAVEPOINT a;
INSERT INTO todo VALUES (51);	-- {}
INSERT INTO todo VALUES (52);
ROLLBACK TO a;
INSERT INTO todo VALUES (53);	-- {}
INSERT INTO todo VALUES (54);
COMMIT;
SELECT * FROM wal();

-- exception blocks are savepoints
DO $$
BEGIN
	INSERT INTO todo VALUES (60);
	BEGIN
		INSERT INTO todo VALUES (61);
		SET LOCAL bemi.context = '{"n": 2}';
		INSERT INTO todo VALUES (62);
		RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN
		INSERT INTO todo VALUES (63);	-- {"n": 1} of 60 stands
	END;
	BEGIN
		SET LOCAL bemi.context = '{"n": 2}';
		INSERT INTO todo VALUES (64);
	EXCEPTION WHEN division_by_zero THEN
	END;
	INSERT INTO todo VALUES (65);	-- {"n": 2} of 64 stands
END $$;
SELECT * FROM wal();

-- an error in the middle of the statement that emitted it
BEGIN;
SAVEPOINT a;
INSERT INTO todo SELECT 700 / (3 - i) FROM generate_series(1, 3) i;
ROLLBACK TO a;
INSERT INTO todo VALUES (71);
COMMIT;
-- within another statement
CREATE FUNCTION note(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"n": 2}'
AS $$ BEGIN INSERT INTO done VALUES (i); RETURN i; END $$;
CREATE FUNCTION note_the_same(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = '{"n": 1}'
AS $$ BEGIN INSERT INTO done VALUES (i); RETURN i; END $$;
INSERT INTO todo SELECT note(i) FROM generate_series(72, 73) i;
INSERT INTO todo SELECT note_the_same(i) FROM generate_series(74, 75) i;
SELECT * FROM wal();
-- changed in the middle of a transaction, both ways
BEGIN;
INSERT INTO todo VALUES (80);
INSERT INTO todo VALUES (81);
SET LOCAL bemi.emit = statement;
INSERT INTO todo VALUES (82);
SET LOCAL bemi.emit = changed;
INSERT INTO todo VALUES (83);
COMMIT;
SELECT * FROM wal();
RESET bemi.emit;
RESET bemi.context;
TRUNCATE todo, done;
SELECT count(*) FROM wal();

--
-- bemi.include: facts that the client cannot set, under "_db"
--
SHOW bemi.include;
SET bemi.include = 'session_user, nothing';
SET bemi.include = 'session_user,,query';
SET bemi.include = '*';
SET bemi.include = '"Query"';
SHOW bemi.include;

-- each of them; text is text, with quotes and backslashes kept
SET application_name = 'a "quoted" \ name';
SET bemi.include = 'application_name';
INSERT INTO todo VALUES (1);
SET bemi.include = 'query';
INSERT INTO todo VALUES (2, 'a "quoted" \ task')	/* tab */;
SET bemi.include = 'client_addr';
INSERT INTO todo VALUES (3);
SELECT * FROM wal();
SET bemi.include = 'backend_pid';
INSERT INTO todo VALUES (4);
SELECT replace(line, '": ' || pg_backend_pid() || '}', '": this one}') AS line FROM wal() AS line;
SET bemi.include = 'session_user, current_user';
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_ruled;
RESET client_min_messages;
CREATE ROLE regress_bemi_ruled;
GRANT INSERT ON todo TO regress_bemi_ruled;
SET ROLE regress_bemi_ruled;
INSERT INTO todo VALUES (5);
RESET ROLE;
SELECT replace(line, format('"session_user": %s', to_json(session_user)), '"session_user": this one') AS line FROM wal() AS line;
-- all together, in the order of the documentation, for any order, case or blanks of the setting
SET bemi.include = ' QUERY,backend_pid , client_addr, application_name, "current_user",session_user,query ';
INSERT INTO todo VALUES (6);
SELECT jsonb_pretty(line::jsonb || jsonb_build_object('_db', line::jsonb->'_db' || jsonb_build_object(
	'session_user', line::jsonb->'_db'->>'session_user' = session_user,
	'current_user', line::jsonb->'_db'->>'current_user' = current_user,
	'backend_pid', line::jsonb->'_db'->'backend_pid' = to_jsonb(pg_backend_pid())))) AS line
	FROM wal() AS line WHERE line LIKE '{%';

-- together with a context of any form; of two equal keys, jsonb keeps the last
SET bemi.include = 'application_name';
SET application_name = 'fact';
SET bemi.context = '{}';
INSERT INTO todo VALUES (10);
SET bemi.context = ' { } ';
INSERT INTO todo VALUES (11);
SET bemi.context = E' \t{ "a": {} }\n ';
INSERT INTO todo VALUES (12);
SET bemi.context = '{"_db": {"application_name": "forged"}, "a": "}"}';
INSERT INTO todo VALUES (13);
SET bemi.context = '{"_db": 1, "\u005fdb": {"application_name": "forged"}}';
INSERT INTO todo VALUES (14) /*Bemi {"_db": {"application_name": "forged"}} Bemi*/;
INSERT INTO todo VALUES (15);
SELECT line, CASE WHEN line ~ '^\s*\{' THEN line::jsonb END AS read FROM wal() AS line;
SELECT bemi.current_context();
RESET bemi.context;
SELECT bemi.current_context();

-- without a context of the client, for COPY and TRUNCATE too; for each statement
BEGIN;
COPY todo (id) FROM PROGRAM 'echo 20';
SET LOCAL application_name = 'other fact';
INSERT INTO todo VALUES (21);
SET LOCAL bemi.include = '';
INSERT INTO todo VALUES (22);	-- {}: neither facts nor a context
COMMIT;
TRUNCATE done;
SELECT * FROM wal();
-- with bemi.emit = changed, facts that change count
SET bemi.emit = changed;
BEGIN;
INSERT INTO todo VALUES (23);
INSERT INTO todo VALUES (24);
SET LOCAL application_name = 'other fact';
INSERT INTO todo VALUES (25);
COMMIT;
RESET bemi.emit;
SELECT * FROM wal();
-- within another statement: the outer one keeps the facts of its beginning
INSERT INTO todo SELECT note(i) FROM generate_series(26, 27) i;
SELECT * FROM wal();

-- the client cannot set it in any way
SET ROLE regress_bemi_ruled;
SET bemi.include = '';
SELECT set_config('bemi.include', '', true);
RESET bemi.include;
SHOW bemi.include;
RESET ROLE;
RESET bemi.include;
RESET application_name;

--
-- bemi.require_context: a statement that changes a row of a tracked table must have one
--
SET bemi.require_context = sometimes;
SET bemi.require_context = error;
INSERT INTO todo VALUES (30);
UPDATE todo SET task = 'x' WHERE id = 1;
DELETE FROM todo WHERE id = 1;
COPY todo (id) FROM PROGRAM 'echo 30';
TRUNCATE done, todo;
WITH gone AS (DELETE FROM todo RETURNING *) INSERT INTO done SELECT * FROM gone;
-- none is needed where no row is changed
UPDATE todo SET task = 'x' WHERE id = 0;
DELETE FROM todo WHERE id = 0;
INSERT INTO todo SELECT * FROM done WHERE id = 0;
-- and what is not tracked is free
CREATE TABLE loose AS SELECT 1 AS id;
INSERT INTO loose VALUES (2);
DROP TABLE loose;
-- from the setting or the comment; an empty object is none
INSERT INTO todo VALUES (31) /*Bemi {"n": 1} Bemi*/;
INSERT INTO todo VALUES (32) /*Bemi not JSON Bemi*/;
SET bemi.context = '{}';
INSERT INTO todo VALUES (33);
RESET bemi.context;
-- the server's facts are not the client's context
SET bemi.include = 'application_name';
INSERT INTO todo VALUES (34);
RESET bemi.include;
-- the message that was refused leaves nothing behind
BEGIN;
SET LOCAL bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (35);
SAVEPOINT a;
SET LOCAL bemi.context = '';
INSERT INTO todo VALUES (36);
ROLLBACK TO a;
INSERT INTO todo VALUES (37);
COMMIT;
-- a statement within a statement, a cascade: each table counts
CREATE FUNCTION note_without(i integer) RETURNS integer LANGUAGE plpgsql
	SET bemi.context = ''
AS $$ BEGIN INSERT INTO done VALUES (i); RETURN i; END $$;
SET bemi.context = '{"n": 1}';
INSERT INTO todo SELECT note_without(38);
RESET bemi.context;
INSERT INTO todo SELECT note(39);
SELECT * FROM wal();

-- warn: the row is written, with one warning for each statement
SET bemi.require_context = warn;
INSERT INTO todo VALUES (40), (41);
UPDATE todo SET task = 'x' WHERE id = 0;
COPY todo (id) FROM PROGRAM 'echo 42';
INSERT INTO todo VALUES (40), (43) ON CONFLICT DO NOTHING;
SELECT * FROM wal();

-- to be set for a role and for a database, by a superuser only
RESET bemi.require_context;
SET ROLE regress_bemi_ruled;
SET bemi.require_context = off;
SELECT set_config('bemi.require_context', 'off', false);
ALTER ROLE regress_bemi_ruled SET bemi.require_context = off;
RESET ROLE;
ALTER ROLE regress_bemi_ruled SET bemi.require_context = error;
ALTER ROLE regress_bemi_ruled SET bemi.include = nonsense;
ALTER ROLE regress_bemi_ruled SET bemi.include = 'current_user, application_name';
SELECT current_database() AS datname \gset
ALTER DATABASE :"datname" SET bemi.require_context = warn;
SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
	WHERE rolname = 'regress_bemi_ruled' ORDER BY 1;
ALTER ROLE regress_bemi_ruled LOGIN;
SELECT current_user AS me \gset
\c - regress_bemi_ruled
SET application_name = 'ruled';
SHOW bemi.require_context;
INSERT INTO todo VALUES (50);
RESET bemi.require_context;
DISCARD ALL;
INSERT INTO todo VALUES (50);
SET application_name = 'ruled';
SET bemi.context = '{"n": 1}';
INSERT INTO todo VALUES (51);
\c - :me
SHOW bemi.require_context;
INSERT INTO todo VALUES (52);
ALTER DATABASE :"datname" RESET bemi.require_context;
RESET bemi.require_context;
\c
SHOW bemi.require_context;
INSERT INTO todo VALUES (53);
SELECT * FROM wal();

--
-- A statement that changes no row takes no transaction ID, under any rules
--
SET bemi.context = '{"n": 1}';
SET bemi.include = 'session_user, current_user, application_name, client_addr, backend_pid, query';
SET bemi.require_context = error;
CREATE FUNCTION no_xid() RETURNS boolean LANGUAGE sql AS $$ SELECT pg_current_xact_id_if_assigned() IS NULL $$;
PREPARE poll (integer) AS UPDATE todo SET task = 'x' WHERE id = $1;
BEGIN;
UPDATE todo SET task = 'x' WHERE id = 0;
DELETE FROM todo WHERE id = 0 /*Bemi {"n": 2} Bemi*/;
INSERT INTO todo SELECT * FROM todo WHERE id = 0;
WITH gone AS (DELETE FROM todo WHERE id = 0 RETURNING *) INSERT INTO done SELECT * FROM gone;
SET LOCAL plan_cache_mode = force_generic_plan;
EXECUTE poll (0);
EXECUTE poll (0);
SET LOCAL plan_cache_mode = force_custom_plan;
EXECUTE poll (0);
SET LOCAL bemi.context = '';
EXECUTE poll (0);
SELECT no_xid();
COMMIT;
DO $$
BEGIN
	FOR i IN 1..20 LOOP
		UPDATE todo SET task = 'x' WHERE id = -i;
		INSERT INTO done SELECT * FROM todo WHERE id = -i ON CONFLICT DO NOTHING;
		DELETE FROM done WHERE id = -i;
	END LOOP;
	ASSERT no_xid();
END $$;
SET bemi.emit = changed;
BEGIN;
EXECUTE poll (0);
SELECT no_xid();
COMMIT;
-- also after an error in the middle of a statement, or where one was refused
RESET bemi.emit;
INSERT INTO todo SELECT 700 / (3 - i) FROM generate_series(1, 3) i;
BEGIN;
EXECUTE poll (0);
SELECT no_xid();
COMMIT;
RESET bemi.context;
EXECUTE poll (53);
BEGIN;
EXECUTE poll (0);
SELECT no_xid();
COMMIT;
-- none of it left anything in the WAL
SELECT * FROM wal();
DEALLOCATE poll;

DROP FUNCTION wal(), no_xid(), note(integer), note_the_same(integer), note_without(integer);
DROP TABLE todo, done;
DROP ROLE regress_bemi_ruled;
SELECT pg_drop_replication_slot('bemi_wal');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
