--
-- Tags of frameworks in comments (bemi.tags): who may choose them and which values are refused, what
-- they add to a context, and what they leave alone. The grammar is tested by test/t/context_tags.pl.
--
-- The messages in the WAL decide, so the test reads them through a slot of test_decoding. Each statement
-- writes its own, because the tags of each are to be seen.
--
CREATE EXTENSION bemi;
SET bemi.emit = statement;

-- Messages and rows since the last call: a context as it is, a row as table and key.
\i test/sql/include/wal_short.sql

CREATE TABLE todo (id integer PRIMARY KEY, task text);
CREATE TABLE done (id integer PRIMARY KEY, task text);
SELECT bemi.track('todo'), bemi.track('done');
SELECT count(*) FROM wal();

--
-- The settings
--
SHOW bemi.tags;
SHOW bemi.tags_format;
SET bemi.tags = 'controller,,action';
SET bemi.tags = 'controller,';
SET bemi.tags = 'controller, ""';
SET bemi.tags = '*, action';
SET bemi.tags = 'act*';
SET bemi.tags = '"controller';
SET bemi.tags_format = '';
SET bemi.tags_format = 'sqlcommenter, rails';
SET bemi.tags_format = 'sqlcommenter,,marginalia';
SHOW bemi.tags;
SHOW bemi.tags_format;
SET bemi.tags_format = ' Marginalia , SQLCOMMENTER';
SHOW bemi.tags_format;
SET bemi.tags = controller, action;
SHOW bemi.tags;
SET bemi.tags = ' "a b" , requestId ';
SHOW bemi.tags;
SELECT bemi.current_context() /*a%20b='1',requestId='2',requestid='3'*/;
RESET bemi.tags;
RESET bemi.tags_format;

-- off by default
INSERT INTO todo VALUES (1) /*controller='orders'*/;
SELECT bemi.current_context() /*controller='orders'*/;
SELECT * FROM wal();

-- a superuser chooses them, for a session, a role or a database
SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_bemi_tagged;
RESET client_min_messages;
CREATE ROLE regress_bemi_tagged;
SET ROLE regress_bemi_tagged;
SET bemi.tags = '*';
SET bemi.tags_format = 'marginalia';
ALTER ROLE regress_bemi_tagged SET bemi.tags = '*';
RESET ROLE;
ALTER ROLE regress_bemi_tagged SET bemi.tags = 'act*';
ALTER ROLE regress_bemi_tagged SET bemi.tags = 'controller';
ALTER ROLE regress_bemi_tagged SET bemi.tags_format = 'sqlcommenter, marginalia';
SELECT unnest(setconfig) FROM pg_db_role_setting s JOIN pg_roles r ON r.oid = s.setrole
	WHERE rolname = 'regress_bemi_tagged' ORDER BY 1;
ALTER ROLE regress_bemi_tagged LOGIN;
GRANT INSERT ON todo TO regress_bemi_tagged;
SELECT current_user AS me \gset
\c - regress_bemi_tagged
SET bemi.tags = '';
RESET bemi.tags;
INSERT INTO todo VALUES (2) /*controller='orders',action='create'*/;
INSERT INTO todo VALUES (3) /*controller:orders,action:create*/;
\c - :me
SELECT * FROM wal();
SET bemi.tags = '*';

--
-- Beside a context
--
INSERT INTO todo VALUES (10) /*a='1'*/;
/*a='1'*/ INSERT INTO todo VALUES (11);
SET bemi.context = '{"userId": 1}';
INSERT INTO todo VALUES (12) /*a='1'*/;
INSERT INTO todo VALUES (13) /*a='1'*/ /*Bemi {"by": "comment"} Bemi*/;
INSERT INTO todo VALUES (14) /*Bemi {"by": "comment"} Bemi*/ /*a='1'*/;
-- a comment that is not valid is a warning, as without tags
INSERT INTO todo VALUES (15) /*Bemi nonsense Bemi*/ /*a='1'*/;
-- tags that are not valid are none
INSERT INTO todo VALUES (16) /*a='1*/;
INSERT INTO todo VALUES (17);
-- they do not depend on bemi.read_comments
SET bemi.read_comments = off;
INSERT INTO todo VALUES (18) /*a='1'*/ /*Bemi {"by": "comment"} Bemi*/;
RESET bemi.read_comments;
SET bemi.context = ' { "a": "}" } ';
INSERT INTO todo VALUES (19) /*a='1'*/;
SET bemi.context = '{}';
INSERT INTO todo VALUES (20) /*a='1'*/;
SET bemi.context = E'{\n}';
INSERT INTO todo VALUES (21) /*a='1'*/;
RESET bemi.context;
SELECT * FROM wal();

-- with the fields of the server, which come last
SET bemi.include = 'application_name';
SET application_name = 'test';
INSERT INTO todo VALUES (22) /*a='1'*/;
SET bemi.context = '{"userId": 1}';
INSERT INTO todo VALUES (23) /*a='1'*/;
RESET bemi.context;
RESET bemi.include;
RESET application_name;
SELECT * FROM wal();

--
-- The key is reserved: bemi removes what a client sends, with bemi.tags and without
--
SET bemi.context = '{"_tags": {"a": "forged"}, "userId": 1}';
SHOW bemi.context;
INSERT INTO todo VALUES (30);
INSERT INTO todo VALUES (31) /*a='1'*/;
SET bemi.context = '{"_t\u0061gs": 1, "\u005ftags": {"a": "forged"}}';
INSERT INTO todo VALUES (32);
INSERT INTO todo VALUES (33) /*Bemi {"_tags": 1, "n": 1} Bemi*/;
INSERT INTO todo VALUES (34) /*Bemi {"_tags": 1} Bemi*/ /*a='1'*/;
SET bemi.tags = '';
INSERT INTO todo VALUES (35);
INSERT INTO todo VALUES (36) /*Bemi {"_tags": 1, "n": 1} Bemi*/;
SELECT bemi.current_context();
-- elsewhere it is a key as any other
SET bemi.context = '{"x": {"_tags": 1}, "y": "_tags", "_tagss": 2, "a_tags": 3}';
INSERT INTO todo VALUES (37);
SELECT bemi.set_context('{"_tags": 1, "n": 2}', is_local => false);
SELECT bemi.merge_context('{"m": 3}', is_local => false);
SELECT bemi.current_context();
RESET bemi.context;
SET bemi.tags = '*';
SELECT * FROM wal();

--
-- The limits for contexts: tags that exceed them are left out, all of them
--
SET bemi.max_context_size = 44;
INSERT INTO todo VALUES (40) /*a='1234567890',b='12345'*/;
INSERT INTO todo VALUES (41) /*a='1234567890',b='123456'*/;
SET bemi.context = '{"userId": 1}';
INSERT INTO todo VALUES (42) /*a='12345678901'*/;
INSERT INTO todo VALUES (43) /*a='123456789012'*/;
-- as are comments that are longer than a context may be
INSERT INTO todo VALUES (44) /*                     a                      ='1'*/;
RESET bemi.max_context_size;
SET bemi.max_context_keys = 4;
INSERT INTO todo VALUES (45) /*a='1',b='2'*/;
INSERT INTO todo VALUES (46) /*a='1',b='2',c='3'*/;
SET bemi.tags = 'a, c';
INSERT INTO todo VALUES (47) /*a='1',b='2',c='3'*/;
SET bemi.tags = '*';
RESET bemi.max_context_keys;
RESET bemi.context;
SELECT * FROM wal();

--
-- Tags do not fulfil bemi.require_context: they do not name who acts
--
SET bemi.require_context = error;
INSERT INTO todo VALUES (50) /*a='1'*/;
COPY todo (id) FROM PROGRAM 'echo 50' /*a='1'*/;
INSERT INTO todo VALUES (51) /*a='1'*/ /*Bemi {"userId": 1} Bemi*/;
SET bemi.context = '{"_tags": {"a": "1"}}';
INSERT INTO todo VALUES (52);
RESET bemi.context;
RESET bemi.require_context;
SELECT * FROM wal();

--
-- bemi.emit = changed: tags count
--
SET bemi.emit = changed;
BEGIN;
INSERT INTO todo VALUES (60) /*a='1'*/;
INSERT INTO todo VALUES (61) /* x */ /*a='1'*/;
INSERT INTO todo VALUES (62) /*a='2'*/;
INSERT INTO todo VALUES (63);
COMMIT;
SET bemi.emit = statement;
SELECT * FROM wal();

--
-- Utility commands, statements in statements, savepoints
--
COPY todo (id) FROM PROGRAM 'echo 70' /*a='1'*/;
/*a='1'*/ COPY todo (id) FROM PROGRAM 'echo 71';
TRUNCATE done /*a='1'*/;
WITH gone AS (DELETE FROM todo WHERE id = 70 RETURNING *) INSERT INTO done SELECT * FROM gone /*a='1'*/;
CREATE FUNCTION note(i integer) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO done VALUES (i);
	EXECUTE format('INSERT INTO done VALUES (%s) /*b=''2''*/', i + 1);
	EXECUTE format('/*b=''3''*/ INSERT INTO done VALUES (%s)', i + 2);
	INSERT INTO done VALUES (i + 3) /*b='4'*/;
	RETURN i;
END $$;
SELECT note(72) /*a='1'*/;
DO 'BEGIN PERFORM note(82); END' /*a='1'*/;
INSERT INTO todo SELECT note(92) /*a='1'*/;
SELECT * FROM wal();
CREATE FUNCTION copy_todo() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO done VALUES (NEW.id);
	RETURN NULL;
END $$;
CREATE TRIGGER copy AFTER INSERT ON todo FOR EACH ROW EXECUTE FUNCTION copy_todo();
INSERT INTO todo VALUES (100) /*a='1'*/;
BEGIN;
SAVEPOINT a;
INSERT INTO todo VALUES (101) /*a='1'*/;
ROLLBACK TO a;
INSERT INTO todo VALUES (102);
SAVEPOINT a;
INSERT INTO todo VALUES (103) /*a='2'*/;
RELEASE a;
INSERT INTO todo VALUES (104);
COMMIT;
SELECT * FROM wal();

-- EXECUTE: the tags of PREPARE, as with comments; otherwise its own
PREPARE with_tags AS INSERT INTO done VALUES ($1) /*a='1'*/;
/*a='1'*/ PREPARE with_tags_in_front AS INSERT INTO done VALUES ($1);
PREPARE without_tags AS INSERT INTO done VALUES ($1);
EXECUTE with_tags (110) /*a='2'*/;
EXECUTE with_tags_in_front (111) /*a='2'*/;
EXECUTE without_tags (112) /*a='2'*/;
EXECUTE without_tags (113);
DEALLOCATE ALL;
SELECT * FROM wal();

--
-- Deferred triggers: the tags of the last statement that may have queued them
--
DROP TRIGGER copy ON todo;
CREATE CONSTRAINT TRIGGER copy AFTER INSERT ON todo DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION copy_todo();
INSERT INTO todo VALUES (120) /*a='1'*/;
BEGIN;
INSERT INTO todo VALUES (121) /*a='1'*/;
/*a='2'*/ INSERT INTO todo VALUES (122);
SELECT 1 AS one /*a='3'*/;
INSERT INTO todo VALUES (123);
SELECT ' /*a=4*/' AS text;
COMMIT;
BEGIN;
INSERT INTO todo VALUES (124) /*a='1'*/;
SAVEPOINT a;
INSERT INTO todo VALUES (125) /*a='2'*/;
ROLLBACK TO a;
COMMIT;
BEGIN;
INSERT INTO todo VALUES (126) /*a='1'*/;
SAVEPOINT a;
SAVEPOINT b;
INSERT INTO todo VALUES (127) /*a='2'*/;
RELEASE b;
RELEASE a;
SET CONSTRAINTS ALL IMMEDIATE;
COMMIT;
-- a comment of bemi and tags of different statements
BEGIN;
INSERT INTO todo VALUES (128) /*Bemi {"userId": 1} Bemi*/;
INSERT INTO todo VALUES (129) /*a='1'*/;
COMMIT;
BEGIN;
INSERT INTO todo VALUES (130) /*a='1'*/;
INSERT INTO todo VALUES (131) /*Bemi {"userId": 1} Bemi*/;
COMMIT /*a='2'*/;
INSERT INTO todo VALUES (132);
SELECT * FROM wal();

--
-- A statement that changes no row takes no transaction ID
--
BEGIN;
UPDATE todo SET task = 'x' WHERE id = 0 /*a='1'*/;
SELECT pg_current_xact_id_if_assigned() IS NULL AS "no xid" /*a='1'*/;
COMMIT;
SELECT * FROM wal();

DROP FUNCTION wal(), note(integer);
DROP TABLE todo, done;
DROP FUNCTION copy_todo();
DROP ROLE regress_bemi_tagged;
SELECT pg_drop_replication_slot('bemi_wal');
DROP PUBLICATION IF EXISTS bemi;
SET client_min_messages = warning;
DROP EXTENSION bemi CASCADE;
