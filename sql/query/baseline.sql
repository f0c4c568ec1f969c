
--
-- Rows of a table as they are now, for a history that must do without the table
--

-- As the owner, because nobody else can read which sources there are. The table is named as at the
-- source, and is found by its OID there.
CREATE FUNCTION _bemi.find_copied_table(source text, table_name text, caller name,
		OUT conninfo text, OUT server text, OUT relation bigint)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts text[] := parse_ident(table_name);
	candidates text[];
BEGIN
	PERFORM _bemi.check_controller(source, NULL, caller, 'bemi.baseline');
	SELECT s.conninfo INTO conninfo FROM bemi.sources s
		WHERE s.name = source AND s.slot_made
			AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NOT NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" does not exist, or was never started', source
			USING ERRCODE = 'undefined_object',
				HINT = 'SELECT source, state FROM bemi.status; lists the sources.';
	END IF;
	SELECT array_agg(format('%I.%I', t.schema, t."table") ORDER BY t.schema, t."table"),
			min(t.server), min(t.relation::bigint)
		INTO candidates, server, relation
		FROM _bemi.source_tables t
		WHERE t.source = find_copied_table.source AND t."table" = parts[cardinality(parts)]
			AND (cardinality(parts) = 1 OR cardinality(parts) = 2 AND t.schema = parts[1]);
	IF candidates IS NULL THEN
		RAISE EXCEPTION 'source "%" does not track a table %', source, table_name
			USING ERRCODE = 'undefined_table',
				DETAIL = 'Its changes would not be stored, so its rows would soon be out of date.',
				HINT = format('In the source''s database: SELECT bemi.track(%L);', table_name);
	ELSIF cardinality(candidates) > 1 THEN
		RAISE EXCEPTION 'source "%" tracks several tables %', source, table_name
			USING ERRCODE = 'ambiguous_alias',
				HINT = format('CALL bemi.baseline(%L, %L);', source, candidates[1]);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.find_copied_table(text, text, name)
	IS 'internal: for bemi.baseline(): connection string and server of a source, and the OID of a '
		'table there; error unless the role may control the source';
REVOKE ALL ON FUNCTION _bemi.find_copied_table(text, text, name) FROM PUBLIC;

CREATE PROCEDURE bemi.baseline(source text, table_name text)
	AS 'MODULE_PATHNAME', 'bemi_baseline'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.baseline(text, text)
	IS 'stores the present rows of a tracked table as changes of operation SNAPSHOT, so that its '
		'past can be read from the history alone; bemi.baselines lists the calls';
REVOKE ALL ON PROCEDURE bemi.baseline(text, text) FROM PUBLIC;
