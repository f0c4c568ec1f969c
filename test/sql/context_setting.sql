--
-- How a context is set, and what is refused (src/context/context.c): the setting bemi.context,
-- its functions, and the trailing comment of a query.
--
-- bemi.current_context() returns what a row written by the same statement would get, so most
-- tests need no table. What must hold while rows are written (a broken comment costs no row) is
-- tested in the WAL, through a slot of test_decoding. psql sends comments in C style unchanged,
-- up to and including the semicolon.
--
CREATE EXTENSION bemi;

-- The setting: empty, or a JSON object.
SHOW bemi.context;
SET bemi.context = '{"user": "Zoë", "nested": {"list": [1, null]}}';
SELECT bemi.current_context();
SET bemi.context = ' { } ';
SELECT bemi.current_context();
SET bemi.context = '';
SELECT bemi.current_context();
SET bemi.context = '{"n": 1}';
RESET bemi.context;
SELECT bemi.current_context();

-- Refused, and the former value stays.
SET bemi.context = '{"n": 1}';
SET bemi.context = '{"n": }';
SET bemi.context = '{"n": 1';
SET bemi.context = '{"n": 1} {"n": 2}';
SET bemi.context = 'user 1';
SET bemi.context = ' ';
SET bemi.context = '[{"n": 1}]';
SET bemi.context = '1';
SET bemi.context = '"text"';
SET bemi.context = 'null';
SET bemi.context = '{"text": "\u0000"}';
SELECT bemi.current_context();
-- A number that JSON takes, but jsonb does not.
SET bemi.context = '{"n": 1e999999}';
SET bemi.context = '{"n": [1, {"m": -1e-999999}]}';
-- Nested too deep, and just as deep as is allowed.
\set VERBOSITY terse
DO $$ BEGIN PERFORM set_config('bemi.context', '{"a": ' || repeat('[', 100000), false); END $$;
DO $$ BEGIN PERFORM set_config('bemi.context', '{"a": ' || repeat('[', 1000) || repeat(']', 1000) || '}', false); END $$;
DO $$ BEGIN PERFORM set_config('bemi.context', '{"a": ' || repeat('[', 999) || repeat(']', 999) || '}', true); END $$;
\set VERBOSITY default
SELECT bemi.current_context();

-- Too long: counted in bytes.
SET bemi.max_context_size = 10;
SET bemi.context = '{"n":1234}';
SET bemi.context = '{"n":12345}';
SET bemi.context = '{"é":1234}';
SELECT bemi.set_context('{"n": 1234567}');
SELECT bemi.current_context();
RESET bemi.max_context_size;
-- Too many keys and elements, at all levels together. The contents of strings do not count.
SET bemi.max_context_keys = 4;
SET bemi.context = '{"a": "{,[,\",\\", "b": [ [ ], { } ]}';
SELECT bemi.current_context();
SET bemi.context = '{"a": 1, "b": {"c": [1, {}]}}';
SELECT bemi.set_context('{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}');
SELECT bemi.merge_context('{"c": 3}');
SELECT bemi.merge_context('{"a": 3}');
SELECT bemi.current_context() /*Bemi {"a": [1, 2, 3, 4]} Bemi*/;
RESET bemi.max_context_keys;
\set VERBOSITY sqlstate
SET bemi.max_context_keys = 0;
SET bemi.max_context_size = 1;
\set VERBOSITY default

-- How long it lasts.
SET bemi.context = '{"of": "session"}';
BEGIN;
SET LOCAL bemi.context = '{"of": "transaction"}';
SAVEPOINT a;
SET LOCAL bemi.context = '{"of": "savepoint"}';
SELECT bemi.current_context();
ROLLBACK TO a;
SELECT bemi.current_context();
COMMIT;
SELECT bemi.current_context();
BEGIN;
SET bemi.context = '{"of": "nobody"}';
ROLLBACK;
SELECT bemi.current_context();
CREATE FUNCTION inside() RETURNS jsonb LANGUAGE sql
	SET bemi.context = '{"of": "function"}' AS 'SELECT bemi.current_context()';
SELECT inside(), bemi.current_context();

-- The prefix is reserved: a misspelt setting is an error, from PostgreSQL 15 on.
DO $$
BEGIN
	PERFORM set_config('bemi.contxt', '{}', false);
	ASSERT current_setting('server_version_num')::integer < 150000;
EXCEPTION WHEN invalid_name THEN
	NULL;
END $$;

-- Only superusers set the limit, everybody the context.
CREATE ROLE regress_bemi_bare;
SET ROLE regress_bemi_bare;
SET bemi.max_context_size = '64MB';
SET bemi.max_context_keys = 20000;
SET bemi.context = '{"of": "bare role"}';
SET bemi.read_comments = off;
SELECT bemi.set_context('{"of": "bare role, too"}', is_local => false);
SELECT bemi.current_context();
RESET ROLE;
RESET bemi.read_comments;
DROP ROLE regress_bemi_bare;

-- set_context(): for this transaction by default.
SET bemi.context = '{"of": "session"}';
BEGIN;
SELECT bemi.set_context('{"of": "transaction", "a": 1}');
SELECT bemi.current_context();
COMMIT;
SELECT bemi.current_context();
BEGIN;
SELECT bemi.set_context('{"of": "transaction"}', is_local => NULL);
COMMIT;
SELECT bemi.current_context();
SELECT bemi.set_context('{"of": "session, too"}', false);
SELECT bemi.current_context();
SHOW bemi.context;
SELECT bemi.set_context('[]');
SELECT bemi.set_context('1');
SELECT bemi.set_context('null');
SELECT bemi.current_context();
SELECT bemi.set_context(NULL, false);
SELECT bemi.current_context();
-- Without effect, and so worth a warning, as with SET LOCAL; but not where more of the
-- statement, or of the transaction, is to come.
SELECT bemi.set_context('{"lost": 1}');
SELECT * FROM bemi.merge_context('{"lost": 2}');
SELECT bemi.set_context(NULL), bemi.current_context() = '{}' AS none;
SELECT bemi.current_context() FROM bemi.set_context('{"of": "statement"}');
DO $$ BEGIN PERFORM bemi.set_context('{"of": "block"}'); RAISE NOTICE '%', bemi.current_context(); END $$;
-- psql 14 shows the last result only
\set SHOW_ALL_RESULTS off
SELECT bemi.set_context('{"of": "text"}') \; SELECT bemi.current_context();
SELECT bemi.current_context();
PREPARE as_parameter (jsonb) AS SELECT bemi.set_context($1, false);
EXECUTE as_parameter ('{"quoted": "it''s \"fine\""}');
SELECT bemi.current_context();
DEALLOCATE as_parameter;

-- The trailing comment wins over the setting, for its own statement.
SET bemi.context = '{"from": "setting"}';
SELECT bemi.current_context() /*Bemi {"from": "comment"} Bemi*/;
SELECT bemi.current_context();
SELECT bemi.current_context() /*Bemi{"from":"comment"}Bemi*/;
SELECT bemi.current_context() /*Bemi
	{"from": "comment",
	 "lines": 2}
Bemi*/ ;
-- Read only behind the statement; comments of others may follow.
SELECT /*Bemi {"from": "comment"} Bemi*/ bemi.current_context();
SELECT bemi.current_context() /*Bemi {"from": "comment"} Bemi*/ /* other */;
SELECT bemi.current_context() /*Bemi {"from": "comment"} Bemi*/ LIMIT 1;
SELECT bemi.current_context(), '/*Bemi {"from": "literal"} Bemi*/' AS literal;
SELECT bemi.current_context() AS "/*Bemi {""from"": ""name""} Bemi*/";
SELECT bemi.current_context() /* /*Bemi {"from": "nested comment"} Bemi*/ */;
SELECT bemi.current_context() /* /*Bemi {"from": "nested comment"} */ Bemi*/;
SELECT bemi.current_context() /*bemi {"from": "comment"} bemi*/;
SELECT bemi.current_context() /* Bemi {"from": "comment"} Bemi*/;
SELECT bemi.current_context() /* other */;
-- Two: the last.
SELECT bemi.current_context() /*Bemi {"n": 1} Bemi*/ /*Bemi {"n": 2} Bemi*/;
-- Not valid: a warning, and the setting.
SELECT bemi.current_context() /*Bemi {"from": Bemi*/;
SELECT bemi.current_context() /*Bemi [1] Bemi*/;
SELECT bemi.current_context() /*Bemi Bemi*/;
SELECT bemi.current_context() /*Bemi {"text": "\u0000"} Bemi*/;
SET bemi.max_context_size = 18;
SELECT bemi.current_context() /*Bemi {"from": "comment"} Bemi*/;
RESET bemi.max_context_size;
-- Switched off.
SET bemi.read_comments = off;
SELECT bemi.current_context() /*Bemi {"from": "comment"} Bemi*/;
SELECT bemi.current_context() /*Bemi {"from": Bemi*/;
RESET bemi.read_comments;

-- While rows are written.
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_context', 'test_decoding');
CREATE FUNCTION wal() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT data FROM pg_logical_slot_get_changes('bemi_context', NULL, NULL,
		'include-xids', '0', 'skip-empty-xacts', '1')
	WHERE data NOT IN ('BEGIN', 'COMMIT') AND data NOT LIKE '%prefix: _bemi_tracking,%'
$$;
CREATE TABLE todo (id integer PRIMARY KEY);
SELECT bemi.track('todo');
SET bemi.context = '{"from": "setting"}';

INSERT INTO todo VALUES (1) /*Bemi {"from": "comment"} Bemi*/;
INSERT INTO todo VALUES (2) /*Bemi {"from": Bemi*/;
UPDATE todo SET id = 20 WHERE id = 0 /*Bemi {"from": "no row"} Bemi*/;
SELECT wal();

-- One text, several statements: the comment belongs to the one before it. White space and
-- semicolons may follow it.
INSERT INTO todo VALUES (3) \; INSERT INTO todo VALUES (4)
/*Bemi {"from": "comment"} Bemi*/ \;
	\; ;
SELECT wal();

-- Where no executor looks at the text: COPY, TRUNCATE.
COPY todo FROM stdin /*Bemi {"from": "comment"} Bemi*/;
5
\.
TRUNCATE todo /*Bemi {"from": "comment"} Bemi*/;
SELECT wal();

-- The statement's own comment, then that of what the client sent.
DO $$ BEGIN
	INSERT INTO todo VALUES (6);
	EXECUTE 'INSERT INTO todo VALUES (7) /*Bemi {"from": "own comment"} Bemi*/ ; ';
	EXECUTE 'INSERT INTO todo VALUES (8) /*Bemi {"from": Bemi*/';
END $$ /*Bemi {"from": "comment of DO"} Bemi*/;
SELECT wal();

-- A prepared statement keeps its own comment.
PREPARE add (integer) AS INSERT INTO todo VALUES ($1) /*Bemi {"from": "PREPARE"} Bemi*/;
EXECUTE add (9);
EXECUTE add (10) /*Bemi {"from": "EXECUTE"} Bemi*/;
DEALLOCATE add;
PREPARE add (integer) AS INSERT INTO todo VALUES ($1);
EXECUTE add (11) /*Bemi {"from": "EXECUTE"} Bemi*/;
EXECUTE add (12);
DEALLOCATE add;
SELECT wal();

-- A literal at the end of the text is no comment.
CREATE TABLE note (text text);
SELECT bemi.track('note');
INSERT INTO note VALUES ('/*Bemi {"from": "literal"} Bemi*/');
DELETE FROM note WHERE text = '/*Bemi {"from": "literal"} Bemi*/';
SELECT wal();

RESET bemi.context;
DROP TABLE todo, note;
DROP FUNCTION inside(), wal();
SELECT pg_drop_replication_slot('bemi_context');
DROP PUBLICATION bemi;
DROP EXTENSION bemi;
