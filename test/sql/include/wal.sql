\set ECHO none
-- wal() is what is written to the WAL since its last call: messages and rows, one a line.
-- The test drops slot bemi_wal.
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_wal', 'test_decoding')
\g /dev/null
CREATE FUNCTION wal() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT data FROM pg_logical_slot_get_changes('bemi_wal', NULL, NULL,
		'include-xids', '0', 'skip-empty-xacts', '1')
	WHERE data NOT IN ('BEGIN', 'COMMIT') AND data NOT LIKE '%prefix: _bemi_tracking,%'
$$;
\set ECHO all
