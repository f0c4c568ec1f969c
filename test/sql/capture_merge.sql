--
-- MERGE is one statement with up to three kinds of change, and one statement trigger for each
-- kind. It still writes one message. This is a file of its own because MERGE came with PostgreSQL
-- 15. Before that there is nothing to test (capture_merge_1.out).
--
-- capture_messages.sql explains how the WAL is read here.
--
SELECT current_setting('server_version_num')::integer < 150000 AS too_old \gset
\if :too_old
\quit
\endif
CREATE EXTENSION bemi;
\i test/sql/include/wal.sql
CREATE TABLE stock (id integer PRIMARY KEY, amount integer);
CREATE TABLE delivery (id integer PRIMARY KEY, amount integer);
INSERT INTO stock VALUES (1, 10), (2, 20);
INSERT INTO delivery VALUES (1, 5), (2, -20), (3, 7);
SELECT bemi.track('stock');
SELECT count(*) FROM wal();

-- The rows come in the order of the deliveries.
SET enable_hashjoin = off;
SET enable_mergejoin = off;
PREPARE deliver AS
	MERGE INTO stock USING (SELECT * FROM delivery ORDER BY id) AS d ON stock.id = d.id
	WHEN MATCHED AND stock.amount + d.amount = 0 THEN DELETE
	WHEN MATCHED THEN UPDATE SET amount = stock.amount + d.amount
	WHEN NOT MATCHED THEN INSERT VALUES (d.id, d.amount);
SET bemi.context = '{"n": 1}';
EXECUTE deliver;
SELECT wal();

-- Without a context; and after one in the same transaction.
DELETE FROM delivery WHERE id > 1;
RESET bemi.context;
EXECUTE deliver;
BEGIN;
SET LOCAL bemi.context = '{"n": 2}';
EXECUTE deliver;
SET LOCAL bemi.context = '';
EXECUTE deliver;
COMMIT;
SELECT wal();

-- No row at all: no transaction id.
SET bemi.context = '{"n": 3}';
DELETE FROM delivery;
BEGIN;
EXECUTE deliver;
SELECT pg_current_xact_id_if_assigned() IS NULL AS free;
COMMIT;

RESET bemi.context;
DEALLOCATE deliver;
DROP TABLE stock, delivery;
DROP FUNCTION wal();
SELECT pg_drop_replication_slot('bemi_wal');
DROP PUBLICATION bemi;
DROP EXTENSION bemi;
