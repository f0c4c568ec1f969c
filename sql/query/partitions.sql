
--
-- Reading changes
--
-- Functions for users call _bemi.read_changes(). It reads by indexes (src/query), or by plans if
-- row policies, foreign tables or virtual columns demand it. Both go through the partitions from
-- late to early times, and stop when they have enough. Both have the same conditions, which must
-- all hold, and NULL is no condition:
--
--	of_row			changes of the row with this primary_key, and each TRUNCATE of its table
--	from_id, to_id	both are part of the range
--	from_time		part of the range; to_time is not
--	after_time, after_id	only what follows this change in the order
--	in_order		'newest': partitions from late to early times, in each by id, descending;
--					'newest by time': in each by time and id; 'oldest': by id
--

CREATE FUNCTION _bemi.reads_by_index()
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_reads_by_index'
	LANGUAGE C STABLE;
COMMENT ON FUNCTION _bemi.reads_by_index()
	IS 'internal: whether _bemi.changes_by_index() works for the current user';
REVOKE ALL ON FUNCTION _bemi.reads_by_index() FROM PUBLIC;

CREATE FUNCTION _bemi.changes_by_index(of_schema text, of_table text, of_row text,
		of_sources text[], of_operations text[], of_column text, in_context jsonb,
		context_texts jsonb, from_time timestamptz, to_time timestamptz, from_id uuid, to_id uuid,
		after_time timestamptz, after_id uuid, in_order text, newest integer)
	RETURNS SETOF bemi.changes
	AS 'MODULE_PATHNAME', 'bemi_changes_by_index'
	LANGUAGE C STABLE ROWS 100;
COMMENT ON FUNCTION _bemi.changes_by_index(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer)
	IS 'internal: changes that meet these conditions, by the indexes of the partitions';
REVOKE ALL ON FUNCTION _bemi.changes_by_index(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer) FROM PUBLIC;

-- Each query has a condition on committed_at that one partition satisfies, and a custom plan, so
-- the planner opens this partition only, and leaves out conditions that are not given. Readers have
-- no rights on partitions, and row policies of bemi.changes must hold, so no query names a
-- partition.

-- A row of the default partition has a time that no other partition covers. to_time is part of
-- the range.
CREATE FUNCTION _bemi.partition_times(OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	LANGUAGE sql STABLE ROWS 100
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH range AS (
		SELECT r.from_time, r.to_time, lead(r.from_time, 1, 'infinity') OVER w AS next_from,
				row_number() OVER w = 1 AS first
			FROM _bemi.partition_ranges() r WINDOW w AS (ORDER BY r.from_time)
	), piece AS (
		SELECT r.from_time, r.to_time FROM range r
		UNION ALL
		SELECT h.from_time, h.to_time
			FROM (SELECT r.to_time, r.next_from FROM range r
				UNION ALL SELECT '-infinity', r.from_time FROM range r WHERE r.first
				UNION ALL SELECT '-infinity', 'infinity' WHERE NOT EXISTS (SELECT FROM range)
			) h(from_time, to_time)
			WHERE h.from_time < h.to_time AND EXISTS (SELECT FROM pg_partitioned_table t
				WHERE t.partrelid = 'bemi.changes'::regclass AND t.partdefid <> 0)
	)
	SELECT p.from_time, p.to_time - interval '1 microsecond' FROM piece p
		ORDER BY p.from_time DESC
$$;
COMMENT ON FUNCTION _bemi.partition_times()
	IS 'internal: ranges of committed_at, newest first; each is in one partition of bemi.changes';
REVOKE ALL ON FUNCTION _bemi.partition_times() FROM PUBLIC;

CREATE FUNCTION _bemi.changes_by_plans(of_schema text, of_table text, of_row text,
		of_sources text[], of_operations text[], of_column text, in_context jsonb,
		context_texts jsonb, from_time timestamptz, to_time timestamptz, from_id uuid, to_id uuid,
		after_time timestamptz, after_id uuid, in_order text, newest integer)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	by_time boolean := in_order = 'newest by time';
	oldest boolean := in_order = 'oldest';
	left_over integer := newest;
	n integer;
	part record;
	below uuid;
	truncated boolean;
	indexed record;
BEGIN
	-- A key that bemi.index_context() has indexed, and the text of its value. Numbers have several
	-- texts.
	SELECT e.key, e.value INTO indexed
		FROM (SELECT t.key, t.value FROM jsonb_each_text(context_texts) t
				UNION ALL SELECT t.key, t.value FROM jsonb_each_text(in_context) t
				WHERE jsonb_typeof(in_context -> t.key) IN ('string', 'boolean')) e
			JOIN _bemi.indexes_on_demand i ON i.kind = 'context' AND i.name = e.key LIMIT 1;

	-- Ids do not follow the times if a clock was set back, so the order by id needs one query.
	FOR part IN
		SELECT t.from_time, t.to_time FROM _bemi.partition_times() t WHERE NOT oldest
		UNION ALL SELECT coalesce(changes_by_plans.from_time, '-infinity'),
			coalesce(changes_by_plans.to_time, 'infinity') WHERE oldest
	LOOP
		CONTINUE WHEN part.to_time < changes_by_plans.from_time
			OR part.from_time >= changes_by_plans.to_time
			OR part.from_time > after_time;
		below := CASE WHEN after_time BETWEEN part.from_time AND part.to_time
			THEN after_id END;
		-- Such a partition is rare, and a plan for both costs more.
		truncated := of_row IS NOT NULL AND EXISTS (SELECT FROM bemi.changes t
			WHERE t.committed_at BETWEEN part.from_time AND part.to_time
				AND t."table" = of_table AND t.schema = of_schema
				AND t.primary_key IS NULL AND t.operation = 'TRUNCATE');
		RETURN QUERY SELECT c.* FROM bemi.changes c
			WHERE c.committed_at BETWEEN part.from_time AND part.to_time
				AND (changes_by_plans.from_time IS NULL
					OR c.committed_at >= changes_by_plans.from_time)
				AND (changes_by_plans.to_time IS NULL
					OR c.committed_at < changes_by_plans.to_time)
				AND (from_id IS NULL OR c.id >= from_id)
				AND (to_id IS NULL OR c.id <= to_id)
				AND (below IS NULL OR by_time OR c.id < below)
				AND (below IS NULL OR NOT by_time
					OR (c.committed_at, c.id) < (after_time, below))
				AND (of_table IS NULL OR c."table" = of_table)
				AND (of_schema IS NULL OR c.schema = of_schema)
				AND (of_row IS NULL OR c.primary_key = of_row
					OR truncated AND c.primary_key IS NULL AND c.operation = 'TRUNCATE')
				AND (of_sources IS NULL OR c.source = ANY (of_sources))
				AND (of_operations IS NULL OR c.operation = ANY (of_operations))
				-- The index by row finds it.
				AND (of_operations IS DISTINCT FROM '{TRUNCATE}' OR c.primary_key IS NULL)
				AND (in_context IS NULL OR indexed.key IS NOT NULL OR c.context @> in_context)
				AND (context_texts IS NULL OR NOT EXISTS (
					SELECT FROM jsonb_each_text(context_texts) t
						WHERE bemi.context_is(c.context, t.key, t.value) IS NOT TRUE))
				-- In a CASE, it does not lower the number of rows that the planner expects. With a
				-- lower one, it would read and sort all changes with this value.
				AND (indexed.key IS NULL
					OR bemi.context_is(c.context, indexed.key, indexed.value)
						AND CASE WHEN coalesce(c.context @> in_context, true) THEN true
							ELSE false END)
				AND (of_column IS NULL
					OR bemi.column_is_changed(c.operation, c.before, c.after, of_column))
			ORDER BY CASE WHEN by_time THEN c.committed_at END DESC,
				CASE WHEN oldest THEN c.id END, c.id DESC
			LIMIT left_over;
		GET DIAGNOSTICS n = ROW_COUNT;
		left_over := left_over - n;
		EXIT WHEN left_over = 0;
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.changes_by_plans(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer)
	IS 'internal: changes that meet these conditions, by a query of each partition';
REVOKE ALL ON FUNCTION _bemi.changes_by_plans(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer) FROM PUBLIC;

CREATE FUNCTION _bemi.read_changes(of_schema text DEFAULT NULL, of_table text DEFAULT NULL,
		of_row text DEFAULT NULL, of_sources text[] DEFAULT NULL,
		of_operations text[] DEFAULT NULL, of_column text DEFAULT NULL,
		in_context jsonb DEFAULT NULL, context_texts jsonb DEFAULT NULL,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL,
		from_id uuid DEFAULT NULL, to_id uuid DEFAULT NULL,
		after_time timestamptz DEFAULT NULL, after_id uuid DEFAULT NULL,
		in_order text DEFAULT 'newest', newest integer DEFAULT NULL)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _bemi.reads_by_index() THEN
		RETURN QUERY SELECT * FROM _bemi.changes_by_index(of_schema, of_table, of_row, of_sources,
			of_operations, of_column, in_context, context_texts, from_time, to_time, from_id,
			to_id, after_time, after_id, in_order, newest);
	ELSE
		RETURN QUERY SELECT * FROM _bemi.changes_by_plans(of_schema, of_table, of_row, of_sources,
			of_operations, of_column, in_context, context_texts, from_time, to_time, from_id,
			to_id, after_time, after_id, in_order, newest);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.read_changes(text, text, text, text[], text[], text, jsonb, jsonb,
	timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer)
	IS 'internal: changes that meet these conditions';
REVOKE ALL ON FUNCTION _bemi.read_changes(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer) FROM PUBLIC;

CREATE FUNCTION _bemi.find_change(change_id uuid)
	RETURNS bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found_change bemi.changes;
BEGIN
	SELECT * INTO found_change
		FROM _bemi.read_changes(from_id => change_id, to_id => change_id, newest => 1);
	IF NOT FOUND THEN
		RAISE EXCEPTION 'change "%" does not exist', change_id
			USING ERRCODE = 'no_data_found',
				DETAIL = 'It was never stored, has been deleted, or you may not see it.';
	END IF;
	RETURN found_change;
END
$$;
COMMENT ON FUNCTION _bemi.find_change(uuid) IS 'internal: the change with this id, or an error';
REVOKE ALL ON FUNCTION _bemi.find_change(uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.check_page(newest integer)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF newest < 1 THEN
		RAISE EXCEPTION 'newest must be at least 1'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'newest => NULL returns all changes.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_page(integer)
	IS 'internal: error if this is no number of changes to return';
REVOKE ALL ON FUNCTION _bemi.check_page(integer) FROM PUBLIC;

-- Changes of a partition are stored under the name of its root, if the root is tracked.
CREATE FUNCTION _bemi.stored_as(target regclass, OUT relation regclass, OUT schema_name text,
		OUT table_name text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT c.oid, n.nspname, c.relname INTO relation, schema_name, table_name
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = CASE WHEN _bemi.is_published(_bemi.partition_root(target))
			THEN _bemi.partition_root(target) ELSE target END;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.stored_as(regclass)
	IS 'internal: the table under whose name the changes of this one are stored, or an error';
REVOKE ALL ON FUNCTION _bemi.stored_as(regclass) FROM PUBLIC;

-- With the rights of the owner, because nobody else can read which sources there are. All sources
-- that read this database, or have read it, have the WAL positions of one server, so ids order
-- their changes.
CREATE FUNCTION _bemi.history_of(target regclass,
		OUT sources text[], OUT schema_name text, OUT table_name text, OUT relation regclass,
		OUT known boolean, OUT ignored text[])
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_one text := _bemi.this_server();
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'target table must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Write its name as a string: ''public.todo''.';
	END IF;
	SELECT s.* INTO relation, schema_name, table_name FROM _bemi.stored_as(target) s;
	-- If this database is read over a connection string, too, that source has the same changes.
	sources := ARRAY(
		SELECT s.name FROM bemi.sources s WHERE s.conninfo IS NULL
		UNION SELECT p.source FROM _bemi.source_progress p
			WHERE format('%s/%s', p.system_identifier, p.database) = this_one
				AND p.source NOT IN (SELECT s.name FROM bemi.sources s));
	IF sources = '{}' THEN
		sources := ARRAY(SELECT DISTINCT t.source FROM _bemi.source_tables t
			WHERE t.server = this_one);
	END IF;
	IF sources = '{}' THEN
		RAISE EXCEPTION 'no source of this database is started'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Changes that are stored are in bemi.changes.',
				HINT = 'CALL bemi.start();';
	END IF;
	known := EXISTS (SELECT FROM _bemi.source_tables t WHERE t.source = ANY (sources)
			AND t.schema = schema_name AND t."table" = table_name)
		OR EXISTS (SELECT FROM bemi.gaps g WHERE g.source = ANY (sources)
			AND g.schema = schema_name AND g."table" = table_name);
	ignored := ARRAY(SELECT jsonb_array_elements_text(_bemi.rules(relation) -> 'ignore')
		UNION SELECT btrim(rule)
			FROM string_to_table(current_setting('bemi.ignore_columns', true), ',') rule);
END
$$;
COMMENT ON FUNCTION _bemi.history_of(regclass)
	IS 'internal: under which sources and names the history of this table is, whether any of '
		'them has ever tracked it, and the rules that ignore columns';
REVOKE ALL ON FUNCTION _bemi.history_of(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.throw_no_history(target regclass)
	RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	reason text := _bemi.untrackable(target);
BEGIN
	IF target = 'bemi.changes'::regclass THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'It is the history itself.', HINT = 'SELECT * FROM bemi.changes;';
	ELSIF reason IS NOT NULL THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = reason;
	END IF;
	RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
		USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = format('SELECT bemi.track(%L);', target);
END
$$;
COMMENT ON FUNCTION _bemi.throw_no_history(regclass)
	IS 'internal: the error for a table that no source has ever tracked';
REVOKE ALL ON FUNCTION _bemi.throw_no_history(regclass) FROM PUBLIC;

-- With the rights of the owner, as above.
CREATE FUNCTION _bemi.has_several_sources()
	RETURNS boolean
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT count(*) > 1 FROM (SELECT s.name FROM bemi.sources s
		UNION SELECT p.source FROM _bemi.source_progress p) u
$$;
COMMENT ON FUNCTION _bemi.has_several_sources()
	IS 'internal: whether changes of several sources are in the history, between which ids have '
		'no order';
REVOKE ALL ON FUNCTION _bemi.has_several_sources() FROM PUBLIC;
