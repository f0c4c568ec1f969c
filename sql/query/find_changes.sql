
--
-- Changes of many rows
--

-- Custom plans see which conditions are given, and leave out the others.
CREATE FUNCTION bemi.find_changes(target regclass DEFAULT NULL, operation text DEFAULT NULL,
		column_name name DEFAULT NULL, context jsonb DEFAULT NULL,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL,
		source_name text DEFAULT NULL, newest integer DEFAULT 100, before_id uuid DEFAULT NULL)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	sources text[];
	its_schema text;
	its_table text;
	known boolean := true;
	cursor_change bemi.changes;
	by_time boolean;
	left_over integer := newest;
	part record;
	below uuid;
	n integer;
	returned boolean := false;
	indexed record;
BEGIN
	PERFORM _bemi.check_page(newest);
	IF operation NOT IN ('CREATE', 'UPDATE', 'DELETE', 'TRUNCATE') THEN
		RAISE EXCEPTION 'operation "%" is not valid', operation
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write CREATE, UPDATE, DELETE or TRUNCATE.';
	ELSIF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	IF target IS NOT NULL THEN
		SELECT h.sources, h.schema_name, h.table_name, h.known
			INTO sources, its_schema, its_table, known FROM _bemi.history_of(target) h;
	END IF;
	-- Between sources on several servers, ids have no order.
	by_time := target IS NULL AND source_name IS NULL AND _bemi.has_several_sources();
	-- A key that bemi.index_context() has indexed, and the text of its value.
	SELECT e.key, e.value INTO indexed
		FROM jsonb_each_text(context) e JOIN _bemi.context_index_keys k USING (key)
		WHERE jsonb_typeof(context -> e.key) IN ('string', 'number', 'boolean') LIMIT 1;
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
	END IF;

	FOR part IN SELECT t.from_time, t.to_time FROM _bemi.partition_times() t LOOP
		CONTINUE WHEN part.to_time < find_changes.from_time
			OR part.from_time >= find_changes.to_time
			OR part.from_time > cursor_change.committed_at;
		below := CASE WHEN cursor_change.committed_at BETWEEN part.from_time AND part.to_time
			THEN before_id END;
		RETURN QUERY SELECT c.* FROM bemi.changes c
			WHERE c.committed_at BETWEEN part.from_time AND part.to_time
				AND (find_changes.from_time IS NULL OR c.committed_at >= find_changes.from_time)
				AND (find_changes.to_time IS NULL OR c.committed_at < find_changes.to_time)
				AND (below IS NULL OR by_time OR c.id < below)
				AND (below IS NULL OR NOT by_time
					OR (c.committed_at, c.id) < (cursor_change.committed_at, below))
				AND (target IS NULL OR c."table" = its_table AND c.schema = its_schema
					AND c.source = ANY (sources))
				AND (source_name IS NULL OR c.source = source_name)
				AND (find_changes.operation IS NULL OR c.operation = find_changes.operation)
				AND (find_changes.context IS NULL OR indexed.key IS NOT NULL
					OR c.context @> find_changes.context)
				-- In a CASE, it does not lower the number of rows that the planner expects. With a
				-- lower one, it would read and sort all changes with this value.
				AND (indexed.key IS NULL
					OR bemi.context_is(c.context, indexed.key, indexed.value)
						AND CASE WHEN c.context @> find_changes.context THEN true ELSE false END)
				AND (column_name IS NULL OR
					CASE WHEN c.operation = 'UPDATE' THEN c.before ? column_name::text
							AND c.after ? column_name::text
							AND c.before -> column_name::text <> c.after -> column_name::text
						ELSE coalesce(nullif(c.before -> column_name::text, 'null'),
							c.after -> column_name::text) <> 'null' END)
			ORDER BY CASE WHEN by_time THEN c.committed_at END DESC, c.id DESC
			LIMIT left_over;
		GET DIAGNOSTICS n = ROW_COUNT;
		returned := returned OR n > 0;
		left_over := left_over - n;
		EXIT WHEN left_over = 0;
	END LOOP;

	IF NOT returned AND NOT known THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('SELECT bemi.track(%L);', target);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text,
	integer, uuid)
	IS 'changes that meet all of these conditions, newest first; bemi.history() has those of a row';
REVOKE ALL ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz,
	text, integer, uuid) FROM PUBLIC;
