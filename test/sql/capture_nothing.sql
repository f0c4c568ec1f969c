--
-- A statement that changes no row costs nothing (src/capture/capture.c).
--
-- A polling query (UPDATE ... WHERE status = 'new') runs all day without finding a row. If its
-- context were written, each run would take a transaction ID and flush a commit. So the test
-- checks whether the server has assigned an ID, and whether the WAL has grown. It checks a
-- tracked table, an untracked table, and a statement that changes a row, which proves that the
-- checks can notice a difference.
--
CREATE EXTENSION bemi;
CREATE TABLE tracked (id integer PRIMARY KEY, task text);
CREATE TABLE untracked (id integer PRIMARY KEY, task text);
CREATE TABLE empty (id integer, task text);
SELECT bemi.track('tracked');
INSERT INTO tracked VALUES (1, 'eat');
INSERT INTO untracked VALUES (1, 'eat');

-- Runs the statement and returns whether its transaction has an ID.
CREATE FUNCTION takes_xid(statement text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN pg_current_xact_id_if_assigned() IS NOT NULL;
END $$;

-- Returns whether the statement writes WAL, its commit included. Other processes
-- write WAL, too (a checkpoint, a vacuum), and a page may be pruned on the way,
-- so one clean pass among many is the proof.
CREATE PROCEDURE writes_wal(statement text, INOUT answer boolean) LANGUAGE plpgsql AS $$
DECLARE
	before pg_lsn;
BEGIN
	answer := true;
	FOR pass IN 1 .. 20 LOOP
		COMMIT;
		before := pg_current_wal_insert_lsn();
		EXECUTE statement;
		COMMIT;
		answer := pg_current_wal_insert_lsn() <> before;
		EXIT WHEN NOT answer;
	END LOOP;
END $$;

CREATE TABLE question (n serial, context text, statement text);
CREATE TABLE answer (n integer, tracked_xid boolean, untracked_xid boolean, tracked_wal boolean, untracked_wal boolean);
INSERT INTO question (context, statement)
	SELECT context, statement FROM (VALUES (1, ''), (2, '{"n": 1}')) AS c (place, context), (VALUES
		(1, 'UPDATE % SET task = NULL WHERE id = 0'),
		(2, 'DELETE FROM % WHERE id = 0'),
		(3, 'INSERT INTO % SELECT * FROM empty'),
		(4, 'INSERT INTO % SELECT * FROM empty ON CONFLICT (id) DO UPDATE SET task = NULL'),
		(5, 'UPDATE % SET task = empty.task FROM empty WHERE empty.id = %.id RETURNING %.id'),
		(6, 'WITH gone AS (DELETE FROM % WHERE id = 0 RETURNING *) UPDATE % SET task = gone.task FROM gone WHERE %.id = gone.id'),
		(7, 'DO $do$ BEGIN FOR i IN 1 .. 3 LOOP UPDATE % SET task = NULL WHERE id = -i; END LOOP; END $do$'),
		(8, 'UPDATE % SET task = NULL WHERE id = 1'),
		(9, 'DELETE FROM % WHERE id > 1; INSERT INTO % VALUES (2, NULL)')
	) AS s (place, statement)
	ORDER BY c.place, s.place;

-- Each check in its own transaction, with the result in the next one.
DO $$
DECLARE
	q record;
	on_tracked text;
	on_untracked text;
	tracked_xid boolean;
	untracked_xid boolean;
	tracked_wal boolean;
	untracked_wal boolean;
BEGIN
	FOR q IN SELECT * FROM question ORDER BY n LOOP
		on_tracked := replace(q.statement, '%', 'tracked');
		on_untracked := replace(q.statement, '%', 'untracked');
		COMMIT;
		PERFORM set_config('bemi.context', q.context, false);
		COMMIT;
		tracked_xid := takes_xid(on_tracked);
		COMMIT;
		untracked_xid := takes_xid(on_untracked);
		CALL writes_wal(on_tracked, tracked_wal);
		CALL writes_wal(on_untracked, untracked_wal);
		INSERT INTO answer VALUES (q.n, tracked_xid, untracked_xid, tracked_wal, untracked_wal);
	END LOOP;
END $$;
SELECT context, tracked_xid, untracked_xid, tracked_wal, untracked_wal, statement
	FROM question JOIN answer USING (n) ORDER BY n;

-- From the client, prepared and in a transaction block.
SET bemi.context = '{"n": 1}';
PREPARE poll (integer) AS UPDATE tracked SET task = upper(task) WHERE id = $1 RETURNING *;
BEGIN;
EXECUTE poll (0);
EXECUTE poll (0);
SELECT pg_current_xact_id_if_assigned() IS NULL AS free;
EXECUTE poll (1);
SELECT pg_current_xact_id_if_assigned() IS NULL AS free;
COMMIT;

-- Nor with facts to add, from a prepared plan, in a loop of cached plans, or after an
-- error in the middle of a statement that had emitted its context.
SET bemi.include = 'session_user, current_user, application_name, client_addr, backend_pid, query';
CREATE PROCEDURE poll_in_loop() LANGUAGE plpgsql AS $$
BEGIN FOR i IN 1 .. 20 LOOP UPDATE tracked SET task = NULL WHERE id = -i; END LOOP; END $$;
CALL writes_wal('EXECUTE poll (0)', NULL);
CALL writes_wal('CALL poll_in_loop()', NULL);
INSERT INTO tracked SELECT 100 + i, (1 / (2 - i))::text FROM generate_series(1, 3) i;
CALL writes_wal('EXECUTE poll (0)', NULL);
CALL writes_wal('EXECUTE poll (1)', NULL);
RESET bemi.include;

RESET bemi.context;
DEALLOCATE poll;
DROP PROCEDURE poll_in_loop;
DROP TABLE tracked, untracked, empty, question, answer;
DROP FUNCTION takes_xid;
DROP PROCEDURE writes_wal;
DROP PUBLICATION bemi;
DROP EXTENSION bemi;
