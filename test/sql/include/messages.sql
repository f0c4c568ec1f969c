\set ECHO none
-- messages() is the number of context messages that are written since its last call.
-- The test drops slot bemi_ways.
SELECT slot_name FROM pg_create_logical_replication_slot('bemi_ways', 'test_decoding')
\g /dev/null
CREATE FUNCTION messages() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FILTER (WHERE data LIKE 'message: transactional: 1 prefix: _bemi,%')
		FROM pg_logical_slot_get_changes('bemi_ways', NULL, NULL)
$$;
\set ECHO all
