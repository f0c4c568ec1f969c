--
-- Starting and stopping a source (src/worker/control.c, src/worker/launcher.c): what is refused
-- and with which hint, what takes effect when, and what is left afterwards.
--
-- All of this is seen from a session, on a server with the right settings. The TAP tests have
-- mistakes in postgresql.conf, restarts, crashes, and what processes do after a commit.
--
CREATE EXTENSION bemi;
CREATE TABLE todo (id integer PRIMARY KEY);
SELECT bemi.track('todo');
-- The origin of an error does not matter here, only its text.
\set SHOW_CONTEXT never

-- The slot and the origin of a source have the same name.
CREATE VIEW left_behind AS
	SELECT slot_name::text AS name FROM pg_replication_slots WHERE slot_name LIKE 'bemi%'
	UNION ALL SELECT roname FROM pg_replication_origin WHERE roname LIKE 'bemi%';

-- Nothing is started.
SELECT bemi.sync();
CALL bemi.stop();
CALL bemi.stop('nobody');
CALL bemi.stop(NULL);
SELECT * FROM bemi.status;

-- Names.
CALL bemi.start('Main');
CALL bemi.start('');
CALL bemi.start('a-b');
CALL bemi.start('a23456789012345678901234567890123');
CALL bemi.start(NULL);
SELECT count(*) FROM bemi.sources;

-- A source that cannot be reached is forgotten, and can be started again with another connection string.
-- The detail is libpq's and names a socket.
\set VERBOSITY terse
CALL bemi.start('elsewhere', 'host=/nonexistent dbname=nowhere');
CALL bemi.start('elsewhere', 'nonsense=1');
\set VERBOSITY default
SELECT count(*) FROM bemi.sources;
SELECT count(*) FROM left_behind;

-- In a transaction one cannot wait, and so neither in a function; in a DO block
-- outside of a transaction one can.
BEGIN;
CALL bemi.start();
ROLLBACK;
CREATE FUNCTION by_function() RETURNS void LANGUAGE plpgsql AS $$ BEGIN CALL bemi.start(); END $$;
SELECT by_function();
DROP FUNCTION by_function();
DO $$ BEGIN CALL bemi.start(); CALL bemi.drop_source('main'); END $$;

-- wait => false: rolled back, nothing was; committed, it comes.
BEGIN;
CALL bemi.start(wait => false);
SELECT name, desired, slot_made FROM bemi.sources;
ROLLBACK;
SELECT count(*) FROM bemi.sources;
SELECT count(*) FROM left_behind;
BEGIN;
CALL bemi.start(wait => false);
COMMIT;
SELECT bemi.sync('1 minute');
SELECT count(*) FROM left_behind;
SELECT source, state, pid IS NOT NULL AS runs, slot_name LIKE 'bemi\_%\_main' AS slot, invalid_messages, restarts,
	last_error, stored_lsn <= received_lsn AS lsn FROM bemi.status;
SELECT name, conninfo, desired, slot_made FROM bemi.sources;

-- Started twice, in each way.
CALL bemi.start();
CALL bemi.start(wait => false);

-- Stopped, nothing is lost: the slot keeps it for the next start.
INSERT INTO todo VALUES (1);
CALL bemi.stop();
SELECT state, pid IS NULL AS gone FROM bemi.status;
SELECT desired, slot_made FROM bemi.sources;
INSERT INTO todo VALUES (2);
SELECT bemi.sync('1 minute');
CALL bemi.stop();
CALL bemi.start();
INSERT INTO todo VALUES (3);
SELECT bemi.sync();
SELECT operation, primary_key FROM bemi.changes ORDER BY id;

-- Stopped within a transaction: when that commits, and not if it does not.
BEGIN;
CALL bemi.stop();
ROLLBACK;
INSERT INTO todo VALUES (4);
SELECT bemi.sync();
SELECT state FROM bemi.status;
BEGIN;
CALL bemi.stop();
SELECT desired FROM bemi.sources;
COMMIT;
SELECT desired FROM bemi.sources;
-- Started again, whether the worker has ended meanwhile or not.
INSERT INTO todo VALUES (5);
CALL bemi.start();
SELECT bemi.sync();
SELECT count(*), count(DISTINCT primary_key) FROM bemi.changes;

-- A second source of this database would store everything twice.
CALL bemi.start('second');
SELECT source, state FROM bemi.status ORDER BY source;

-- Not in a prepared transaction, because no session would signal the worker.
BEGIN;
CALL bemi.stop();
PREPARE TRANSACTION 'bemi_control';
SELECT state FROM bemi.status;

-- drop_source() is as much a part of a transaction as stop(), and takes the same names.
BEGIN;
CALL bemi.drop_source('main');
ROLLBACK;
SELECT state FROM bemi.status;
CALL bemi.drop_source(NULL);
CALL bemi.drop_source('nobody');
CALL bemi.drop_source('nobody', force => true);
CALL bemi.drop_source();
CALL bemi.stop('main', true);

-- When it returns, all is gone but the history.
CALL bemi.drop_source('main');
SELECT * FROM left_behind;
SELECT * FROM bemi.status;
SELECT count(*) FROM bemi.changes;
CALL bemi.drop_source('main');

-- The extension is not dropped by the way while it holds history. CASCADE takes
-- all of it.
DROP EXTENSION bemi;
DROP EXTENSION bemi CASCADE;
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'todo'::regclass AND NOT tgisinternal;
INSERT INTO todo VALUES (7);

DROP TABLE todo;
DROP VIEW left_behind;
DROP PUBLICATION bemi;
