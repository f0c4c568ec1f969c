\set ECHO none
-- wal() is what is written to the WAL since its last call: of messages their content, of rows
-- table, operation and id.  The test drops slot bemi_wal.
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_wal', 'test_decoding')
\g /dev/null
CREATE FUNCTION wal() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT regexp_replace(regexp_replace(data, '^message: .* content:', ''),
		'^table public\.(\w+): ([A-Z]+):.* id\[integer\]:(\d+).*$', '  \1 \2 \3')
	FROM pg_logical_slot_get_changes('bemi_wal', NULL, NULL, 'include-xids', '0', 'skip-empty-xacts', '1')
	WHERE data NOT IN ('BEGIN', 'COMMIT') AND data NOT LIKE '%prefix: _bemi_tracking,%'
$$;
\set ECHO all
