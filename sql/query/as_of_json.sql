
--
-- The past of a table from the history alone
--

-- Where reading can begin: with the rows of a baseline, or with no rows after a TRUNCATE. A
-- baseline of a later time can have a lower id than the first change after a time. Then
-- changes that were not tracked can be between both.
CREATE FUNCTION _bemi.base_of_past(source_name text, schema_name text, table_name text,
		end_id uuid, until timestamptz, OUT id uuid, OUT at timestamptz, OUT is_baseline boolean,
		OUT key_names text[])
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.id, u.at, u.is_baseline, u.key_names FROM (
			(SELECT b.id, b.taken_at, true, b.key_columns FROM bemi.baselines b
				WHERE b.source = source_name AND b.schema = schema_name AND b."table" = table_name
					AND b.id < end_id AND (b.taken_at <= until) IS NOT FALSE
				ORDER BY b.id DESC LIMIT 1)
			UNION ALL
			(SELECT c.id, c.committed_at, false, NULL FROM bemi.changes c
				WHERE c."table" = table_name AND c.primary_key IS NULL AND c.schema = schema_name
					AND c.source = source_name AND c.operation = 'TRUNCATE' AND c.id < end_id
				ORDER BY c.id DESC LIMIT 1)
		) u(id, at, is_baseline, key_names)
		ORDER BY u.id DESC LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.base_of_past(text, text, text, uuid, timestamptz)
	IS 'internal: last baseline or TRUNCATE of a table before an id, and up to a time if it is not '
		'NULL';
REVOKE ALL ON FUNCTION _bemi.base_of_past(text, text, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, because nobody else can read what sources report. The schema history has the key of
-- then: the table may have got another one since, or may no longer be tracked. {}: the table has no
-- key, NULL: it is not known. A state without columns is of a description that was too long for a
-- message. Sources whose messages cannot be verified report only to the worker.
CREATE FUNCTION _bemi.source_key(source_name text, schema_name text, table_name text, end_id uuid)
	RETURNS text[]
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT jsonb_array_elements_text(k.names)) FROM (
			(SELECT c.after -> 'key', c.after -> 'columns' <> '[]', 1
				FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.after ->> 'schema' = schema_name
					AND c.after ->> 'table' = table_name AND c.id < end_id
				ORDER BY c.id DESC LIMIT 1)
			UNION ALL
			(SELECT c.before -> 'key', c.before -> 'columns' <> '[]', 2
				FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.before ->> 'schema' = schema_name
					AND c.before ->> 'table' = table_name AND c.id >= end_id
				ORDER BY c.id LIMIT 1)
			UNION ALL
			SELECT r.description -> 'key', true, 3
				FROM _bemi.source_tables t JOIN _bemi.source_relations r USING (source, relation)
				WHERE t.source = source_name AND t.schema = schema_name AND t."table" = table_name
			UNION ALL
			(SELECT to_jsonb(b.key_columns), true, 4 FROM bemi.baselines b
				WHERE b.source = source_name AND b.schema = schema_name
					AND b."table" = table_name
				ORDER BY b.id DESC LIMIT 1)
		) k(names, is_known, place)
		WHERE k.is_known AND jsonb_typeof(k.names) = 'array'
		ORDER BY k.place LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.source_key(text, text, text, uuid)
	IS 'internal: columns of the primary key of a table of a source, as described last before an '
		'id';
REVOKE ALL ON FUNCTION _bemi.source_key(text, text, text, uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.key_of_past(key_names text[], image jsonb, change_id uuid)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT image ?& key_names THEN
		RAISE EXCEPTION 'row of change % lacks a column of the primary key', change_id
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('The key is (%s), and the row is %s.',
					array_to_string(key_names, ', '), left(image::text, 200)),
				HINT = 'The key was changed or renamed since. A baseline after that has it.';
	ELSIF EXISTS (SELECT FROM unnest(key_names) k WHERE image ->> k = '[redacted]') THEN
		RAISE EXCEPTION 'row of change % has a redacted primary key', change_id
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Changes of different rows cannot be told apart.',
				HINT = 'Use redact_hash instead of redact for a key.';
	END IF;
	RETURN (SELECT jsonb_agg(image -> k ORDER BY n)
		FROM unnest(key_names) WITH ORDINALITY u(k, n));
END
$$;
COMMENT ON FUNCTION _bemi.key_of_past(text[], jsonb, uuid)
	IS 'internal: values of the primary key in a row of the history; error if it has none';
REVOKE ALL ON FUNCTION _bemi.key_of_past(text[], jsonb, uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.wrong_key_of_past(key jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'rows with the key % cannot be told apart', key
		USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'Several rows have had it at once, and their changes do not tell which of '
				'them is left.',
			HINT = 'A baseline after these changes has it.';
END
$$;
COMMENT ON FUNCTION _bemi.wrong_key_of_past(jsonb)
	IS 'internal: error if neither the key nor the changes identify the rows';
REVOKE ALL ON FUNCTION _bemi.wrong_key_of_past(jsonb) FROM PUBLIC;

-- What the changes between two ids lead to, beginning with the rows of a baseline or with none.
--
-- With a key, the last change of it has the row. But several rows can have one key: in the middle
-- of a transaction if it is deferrable, or since the table has got another key. Then the number of
-- rows with the key and the last change disagree, and equal rows of these keys are counted. In a
-- table without a key, all are.
CREATE FUNCTION _bemi.replay(source_name text, schema_name text, table_name text, key_names text[],
		base_id uuid, base_at timestamptz, end_id uuid, allow_gaps boolean)
	RETURNS SETOF jsonb
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	wrong jsonb;
BEGIN
	IF key_names <> '{}' THEN
		RETURN QUERY WITH change AS (
				SELECT c.id, c.operation, c.before, c.after FROM bemi.changes c
					WHERE c."table" = table_name AND c.schema = schema_name
						AND c.source = source_name AND c.id > base_id AND c.id < end_id
						AND c.operation <> 'TRUNCATE'
						AND (c.operation <> 'SNAPSHOT' OR c.committed_at = base_at)
			), moved AS (
				SELECT c.*, c.operation <> 'UPDATE' OR c.before ?| key_names AND EXISTS (
						SELECT FROM unnest(key_names) k
							WHERE c.before -> k IS DISTINCT FROM c.after -> k) AS is_moved
					FROM change c
			), touched AS (
				SELECT c.id, _bemi.key_of_past(key_names, c.after, c.id) AS key, c.after AS image,
						c.is_moved::integer AS added
					FROM moved c WHERE c.after <> '{}'
				UNION ALL
				SELECT c.id, _bemi.key_of_past(key_names, c.before, c.id), NULL, -1
					FROM moved c WHERE c.before ?| key_names AND c.is_moved
			), last AS MATERIALIZED (
				SELECT t.key, t.image, t.n, allow_gaps OR t.n = (t.image IS NOT NULL)::integer
						AS is_clear
					FROM (SELECT u.key, u.image, lead(u.id) OVER w IS NULL AS is_last,
							sum(u.added) OVER (PARTITION BY u.key) AS n
						FROM touched u WINDOW w AS (PARTITION BY u.key ORDER BY u.id)) t
					WHERE t.is_last
			), copies AS (
				SELECT i.key, i.image, sum(i.n) AS n FROM (
						SELECT _bemi.key_of_past(key_names, x.image, c.id), x.image::text, x.n
							FROM change c, LATERAL (VALUES (c.before, -1), (c.after, 1)) x(image, n)
							WHERE x.image ?& key_names AND EXISTS (
								SELECT FROM last l WHERE NOT l.is_clear)
					) i(key, image, n)
					WHERE i.key IN (SELECT l.key FROM last l WHERE NOT l.is_clear)
					GROUP BY i.key, i.image HAVING sum(i.n) <> 0
			), counted AS (
				SELECT c.image, c.n, l.key, sum(c.n) OVER w IS DISTINCT FROM l.n
						OR min(c.n) OVER w < 0 AS is_wrong
					FROM last l LEFT JOIN copies c ON c.key = l.key
					WHERE NOT l.is_clear AND (l.n <> 0 OR c.key IS NOT NULL)
					WINDOW w AS (PARTITION BY l.key)
			)
			SELECT l.image FROM last l WHERE l.is_clear AND l.image IS NOT NULL
			UNION ALL
			SELECT CASE WHEN c.is_wrong THEN _bemi.wrong_key_of_past(c.key) ELSE c.image::jsonb END
				FROM counted c, generate_series(1, CASE WHEN c.is_wrong THEN 1 ELSE c.n END);
		RETURN;
	END IF;
	SELECT r.image INTO wrong FROM _bemi.replay_copies(source_name, schema_name, table_name,
		base_id, base_at, end_id) r WHERE r.n < 0 AND NOT allow_gaps LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'the history of %.% removes a row that is not there', schema_name,
				table_name
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('The table has no primary key. The row is %s, or one with other '
					'columns.', left(wrong::text, 200));
	END IF;
	RETURN QUERY SELECT r.image FROM _bemi.replay_copies(source_name, schema_name, table_name,
		base_id, base_at, end_id) r, generate_series(1, r.n);
END
$$;
COMMENT ON FUNCTION _bemi.replay(text, text, text, text[], uuid, timestamptz, uuid, boolean)
	IS 'internal: rows of a table at an id, from a baseline and the changes after it';
REVOKE ALL ON FUNCTION _bemi.replay(text, text, text, text[], uuid, timestamptz, uuid, boolean)
	FROM PUBLIC;

-- As text, because jsonb calls 1.5 and 1.50 equal.
CREATE FUNCTION _bemi.replay_counts(source_name text, schema_name text, table_name text,
		base_id uuid, base_at timestamptz, end_id uuid, OUT image jsonb, OUT n bigint)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.image::text::jsonb, sum(u.n) FROM bemi.changes c,
			LATERAL (VALUES (c.before, -1), (c.after, 1)) u(image, n)
		WHERE c."table" = table_name AND c.schema = schema_name AND c.source = source_name
			AND c.id > base_id AND c.id < end_id AND c.operation <> 'TRUNCATE'
			AND (c.operation <> 'SNAPSHOT' OR c.committed_at = base_at)
			AND u.image <> '{}'
		GROUP BY u.image::text HAVING sum(u.n) <> 0
$$;
COMMENT ON FUNCTION _bemi.replay_counts(text, text, text, uuid, timestamptz, uuid)
	IS 'internal: for tables without a primary key: rows, and how many of each there are';
REVOKE ALL ON FUNCTION _bemi.replay_counts(text, text, text, uuid, timestamptz, uuid) FROM PUBLIC;

-- If columns were added, dropped or renamed, a row is removed with other columns than it was added
-- with. Then it is one of the rows that are equal in the columns that all have. If these are all
-- the same, it does not matter which. Otherwise n is negative.
CREATE FUNCTION _bemi.replay_copies(source_name text, schema_name text, table_name text,
		base_id uuid, base_at timestamptz, end_id uuid, OUT image jsonb, OUT n bigint)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH counts AS MATERIALIZED (
		SELECT c.image, c.n FROM _bemi.replay_counts(source_name, schema_name, table_name, base_id,
			base_at, end_id) c
	), common AS MATERIALIZED (
		SELECT ARRAY(SELECT k FROM counts c, jsonb_object_keys(c.image) k
			WHERE EXISTS (SELECT FROM counts w WHERE w.n < 0)
			GROUP BY k HAVING count(*) = (SELECT count(*) FROM counts)) AS names
	), grouped AS (
		SELECT c.image, c.n, sum(c.n) OVER w AS remaining, min(c.n) OVER w < 0 AS has_removed,
				count(*) FILTER (WHERE c.n > 0) OVER w AS different
			FROM counts c, common m
			WINDOW w AS (PARTITION BY CASE WHEN m.names = '{}' THEN c.image::text
				ELSE (SELECT jsonb_object_agg(e.key, e.value)::text FROM jsonb_each(c.image) e
					WHERE e.key = ANY (m.names)) END)
	)
	SELECT g.image, CASE WHEN NOT g.has_removed THEN g.n
			WHEN g.remaining = 0 OR g.remaining > 0 AND g.different = 1 THEN g.remaining
			ELSE least(g.n, -1) END
		FROM grouped g
		WHERE g.n > 0 OR g.remaining < 0
$$;
COMMENT ON FUNCTION _bemi.replay_copies(text, text, text, uuid, timestamptz, uuid)
	IS 'internal: the same if columns were added, dropped or renamed';
REVOKE ALL ON FUNCTION _bemi.replay_copies(text, text, text, uuid, timestamptz, uuid) FROM PUBLIC;

-- The first id that does not belong to the past, and the time up to which all must be stored.
CREATE FUNCTION _bemi.end_of_past(source_name text, at timestamptz, before uuid,
		OUT id uuid, OUT until timestamptz)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
	IF before IS NULL THEN
		-- In commit order and not in time order, because a clock may have been set back. A SNAPSHOT
		-- is no commit, and the past must not end within a baseline.
		id := (SELECT c.id FROM bemi.changes c
			WHERE c.source = source_name AND c.committed_at > at AND c.operation <> 'SNAPSHOT'
			ORDER BY c.id LIMIT 1);
		id := coalesce(id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
		until := at;
		RETURN;
	END IF;
	SELECT c.id, c.committed_at INTO id, until FROM bemi.schema_changes c
		WHERE c.source = source_name AND c.id = before LIMIT 1;
	IF NOT FOUND THEN
		SELECT f.id, f.committed_at INTO id, until FROM _bemi.find_change(before) f
			WHERE f.source = source_name AND f.operation <> 'SNAPSHOT';
	END IF;
	IF id IS NULL THEN
		RAISE EXCEPTION 'change "%" is not a change of source "%"', before, source_name
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'It is of another source, or a row of a baseline.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.end_of_past(text, timestamptz, uuid)
	IS 'internal: first change, in commit order, after the longest prefix of the commits with '
		'times up to this one; or this change';
REVOKE ALL ON FUNCTION _bemi.end_of_past(text, timestamptz, uuid) FROM PUBLIC;

-- As the owner, because nobody else can read gaps. Gaps are compared by time, as in
-- bemi.source_completeness(), and also by position, because a clock may have been set back. A
-- gap counts if it ends after the base or is within its commit, and begins before the end. In
-- the commit of the end, the schema change with which it begins must be before the end. If the
-- end is a time, a change that is read must follow the begin, because a gap that begins after
-- this time can have a position before the end. Or the tracking has ended at this time, by a
-- transaction that may have made changes after that. Positions of another server, or from
-- before a restore, tell nothing.
CREATE FUNCTION _bemi.gap_of_past(source_name text, schema_name text, table_name text,
		base_id uuid, base_at timestamptz, end_id uuid, until timestamptz, ends_by_time boolean,
		OUT reason text, OUT detail text, OUT missing_from timestamptz, OUT missing_to timestamptz)
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.reason, u.detail, u.missing_from, u.missing_to FROM (
			SELECT c.reason, c.detail, c.missing_from, c.missing_to
				FROM bemi.source_completeness(source_name, schema_name, table_name,
					least(coalesce(base_at, '-infinity'), until), until) c
				WHERE NOT c.complete
			UNION ALL
			SELECT g.reason, g.detail, g.from_time, g.to_time FROM bemi.gaps g
				WHERE (g.source = source_name OR g.source IS NULL)
					AND (g."table" IS NULL OR g.schema = schema_name AND g."table" = table_name)
					AND (g.from_lsn < _bemi.lsn_of_id(end_id)
						OR g.from_lsn = _bemi.lsn_of_id(end_id) AND EXISTS (
							SELECT FROM _bemi.schema_changes c
								WHERE c.source = source_name
									AND c.before ->> 'schema' = schema_name
									AND c.before ->> 'table' = table_name
									AND c.id >= _bemi.first_id_at(g.from_lsn) AND c.id < end_id))
					AND (coalesce(g.to_lsn > _bemi.lsn_of_id(base_id), g.to_time IS NULL)
						OR g.to_lsn = _bemi.lsn_of_id(base_id)
							AND (g.reason = 'rows_changed_by_ddl' OR g.from_lsn = g.to_lsn))
					AND NOT EXISTS (SELECT FROM bemi.gaps s
						WHERE s.source = source_name AND s.reason IN ('server_changed',
							'history_moved', 'timeline_changed', 'source_went_back')
							AND (s.id > g.id OR coalesce(s.to_time, 'infinity') > base_at))
					AND (NOT ends_by_time OR g.reason = 'tracking_ended' AND g.from_time = until
						OR EXISTS (SELECT FROM bemi.changes c
							WHERE c."table" = table_name AND c.schema = schema_name
								AND c.source = source_name AND c.id < end_id
								AND c.id > _bemi.first_id_at(g.from_lsn + 1)))
		) u LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.gap_of_past(text, text, text, uuid, timestamptz, uuid, timestamptz,
	boolean)
	IS 'internal: the first gap of a table between a base and a place; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.gap_of_past(text, text, text, uuid, timestamptz, uuid, timestamptz,
	boolean) FROM PUBLIC;

CREATE FUNCTION bemi.source_as_of_json(source_name text, schema_name text, table_name text,
		at timestamptz DEFAULT NULL, before uuid DEFAULT NULL, allow_gaps boolean DEFAULT false)
	RETURNS SETOF jsonb
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	last record;
	base record;
	gap record;
	key_names text[];
BEGIN
	IF num_nulls(source_name, schema_name, table_name) > 0 THEN
		RAISE EXCEPTION 'source and table must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF num_nonnulls(at, before) <> 1 THEN
		RAISE EXCEPTION 'either a time or a change must be given'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
		-- What is stored is known as of now, and the changes would be those of an old snapshot.
		RAISE EXCEPTION 'the history alone can be read in READ COMMITTED only'
			USING ERRCODE = 'feature_not_supported',
				DETAIL = format('The transaction is %s.',
					upper(current_setting('transaction_isolation')));
	ELSIF row_security_active('bemi.changes'::regclass) THEN
		RAISE EXCEPTION 'cannot read the past of %.%', schema_name, table_name
			USING ERRCODE = 'feature_not_supported',
				DETAIL = 'The row security of bemi.changes applies to you.',
				HINT = format('Read it as a role to which it does not apply. A superuser can make '
					'this one such a role: ALTER ROLE %I BYPASSRLS;', current_user);
	END IF;
	allow_gaps := coalesce(allow_gaps, false);
	SELECT e.* INTO last FROM _bemi.end_of_past(source_name, at, before) e;
	SELECT b.* INTO base
		FROM _bemi.base_of_past(source_name, schema_name, table_name, last.id,
			source_as_of_json.at) b;
	IF base.id IS NULL AND NOT allow_gaps THEN
		RAISE EXCEPTION 'the rows that %.% had before its tracking are not known', schema_name,
				table_name
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'There is no baseline and no TRUNCATE of the table before this time.',
				HINT = format('For the time from now on: CALL bemi.baseline(%L, %L);', source_name,
					format('%I.%I', schema_name, table_name));
	END IF;
	SELECT g.* INTO gap FROM _bemi.gap_of_past(source_name, schema_name, table_name, base.id,
		base.at, last.id, last.until, at IS NOT NULL) g WHERE NOT allow_gaps;
	IF gap.reason IS NOT NULL THEN
		RAISE EXCEPTION 'the history of %.% is not complete from % to %', schema_name, table_name,
				base.at, last.until
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('%s (from %s to %s): %s', gap.reason, gap.missing_from,
					coalesce(gap.missing_to::text, 'now'), gap.detail),
				HINT = 'With allow_gaps => true, the result can be wrong.';
	END IF;
	key_names := coalesce(base.key_names,
		_bemi.source_key(source_name, schema_name, table_name, last.id));
	IF key_names IS NULL THEN
		RAISE EXCEPTION 'the primary key of %.% is not known', schema_name, table_name
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('Source "%s" does not track the table, or has not described it '
					'yet.', source_name);
	END IF;
	-- The end is looked up again, because changes may have been stored since. None of them belongs
	-- to the past, or it would not have been complete.
	SELECT e.* INTO last FROM _bemi.end_of_past(source_name, at, before) e;
	RETURN QUERY SELECT r.* FROM _bemi.replay(source_name, schema_name, table_name, key_names,
		coalesce(base.id, '00000000-0000-0000-0000-000000000000'),
		CASE WHEN base.is_baseline THEN base.at END, last.id, allow_gaps) r;
END
$$;
COMMENT ON FUNCTION bemi.source_as_of_json(text, text, text, timestamptz, uuid, boolean)
	IS 'rows of a table of any source as they were at a time, or before a change, from the history '
		'alone; it needs a baseline or a TRUNCATE before that';
REVOKE ALL ON FUNCTION bemi.source_as_of_json(text, text, text, timestamptz, uuid, boolean)
	FROM PUBLIC;

--
-- The past of a table of this database, with columns that were dropped since
--

-- As the owner, because nobody else can read what is known of tables. A column is shown under its
-- name, or one that says that it was dropped if another column has the name today. first_id is that
-- of a row's change, so columns may have been dropped between the time and it. Names can move to
-- other columns. So a row of the history counts only if it was written between a from_id and its
-- to_id: there these names, and those of the key, belong to the same columns.
CREATE FUNCTION _bemi.dropped_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT names text[], OUT shown text[], OUT from_ids uuid[],
		OUT to_ids uuid[], OUT complete_since timestamptz, OUT complete_since_id uuid)
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH state AS MATERIALIZED (
		SELECT s.* FROM _bemi.table_states(ARRAY[source_name], target, _bemi.this_server()) s
	), dropped(number, name) AS MATERIALIZED (
		SELECT (c ->> 0)::integer, c ->> 1
			FROM (SELECT s.state FROM state s
					WHERE s.from_id IS NULL OR s.from_id < least(first_id,
						(SELECT min(c.id::text)::uuid FROM _bemi.schema_changes c
							WHERE c.source = source_name AND c.committed_at > at))
					ORDER BY s.from_id DESC NULLS LAST LIMIT 1) s,
				jsonb_array_elements(s.state -> 'columns') c
			WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target
				AND a.attnum = (c ->> 0)::integer AND NOT a.attisdropped)
	), needed(number, name) AS (
		SELECT d.number, d.name FROM dropped d
		UNION ALL
		SELECT a.attnum, a.attname FROM _bemi.key_columns(target) k
			JOIN pg_attribute a ON a.attrelid = target AND a.attname = ANY (k.names)
	), range AS (
		SELECT s.from_id, s.to_id FROM state s
			WHERE NOT EXISTS (SELECT FROM needed n
				WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(s.state -> 'columns') c
					WHERE (c ->> 0)::integer = n.number AND c ->> 1 = n.name))
	), gap AS (
		SELECT g.* FROM bemi.gaps g
			WHERE (g.source = source_name OR g.source IS NULL) AND (g.from_time < at) IS NOT FALSE
				AND (g."table" IS NULL OR (g.schema, g."table") IN
					(SELECT s.state ->> 'schema', s.state ->> 'table' FROM state s))
	)
	SELECT ARRAY(SELECT d.name FROM dropped d ORDER BY d.name),
		ARRAY(SELECT d.name || CASE WHEN EXISTS (SELECT FROM pg_attribute a
					WHERE a.attrelid = target AND a.attname = d.name AND a.attnum > 0
						AND NOT a.attisdropped) THEN ' (dropped)' ELSE '' END
			FROM dropped d ORDER BY d.name),
		ARRAY(SELECT r.from_id FROM range r ORDER BY r.from_id),
		ARRAY(SELECT r.to_id FROM range r ORDER BY r.from_id),
		(SELECT max(g.to_time) FROM gap g),
		-- A clock may have been set back. Positions of another server tell nothing.
		(SELECT _bemi.first_id_at(max(g.to_lsn)) FROM gap g WHERE NOT EXISTS (
			SELECT FROM bemi.gaps s WHERE s.source = source_name AND s.id > g.id
				AND s.reason IN ('server_changed', 'history_moved', 'timeline_changed',
					'source_went_back')))
$$;
COMMENT ON FUNCTION _bemi.dropped_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns that a table had at an id and has no more, under which names '
		'bemi.as_of_json() returns them, and which changes have them';
REVOKE ALL ON FUNCTION _bemi.dropped_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.no_dropped_value(target text, version jsonb, dropped text[])
	RETURNS jsonb
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the history has no value of dropped column % for a row of %', dropped[1],
			target
		USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = format('The row was not written between the last gap of its history and that '
				'time, or a column was renamed. It is %s.', left(version::text, 200)),
			HINT = 'With allow_gaps => true, such rows lack the column.';
END
$$;
COMMENT ON FUNCTION _bemi.no_dropped_value(text, jsonb, text[])
	IS 'internal: error if bemi.as_of_json() does not find the value of a dropped column';
REVOKE ALL ON FUNCTION _bemi.no_dropped_value(text, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION _bemi.json_members(object text, names text[])
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format('%s -> %L', object, n), ', ') FROM unnest(names) n
$$;
COMMENT ON FUNCTION _bemi.json_members(text, text[])
	IS 'internal: SQL expressions of members of an object';
REVOKE ALL ON FUNCTION _bemi.json_members(text, text[]) FROM PUBLIC;

-- Rows, and images of rows that were changed since, are in bemi_rows. An image lacks a column that
-- was dropped before the row was changed. Then the last change before that time has the value,
-- unless there is a gap between the two. NULL: no column was dropped.
CREATE FUNCTION _bemi.query_of_json(target regclass, source_name text, schema_name text,
		table_name text, first_id uuid, at timestamptz, allow_gaps boolean)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET quote_all_identifiers = off
AS $$
DECLARE
	dropped record;
	members text;
	counts text;
	key text[] := (SELECT k.names FROM _bemi.key_columns(target) k);
BEGIN
	SELECT d.* INTO dropped FROM _bemi.dropped_columns(target, source_name, first_id, at) d;
	IF dropped.names = '{}' THEN
		RETURN NULL;
	END IF;
	members := (SELECT string_agg(format('%L, x.image -> %L', u.shown, u.name), ', ')
		FROM unnest(dropped.names, dropped.shown) u(name, shown));
	counts := format('r.image ?& %L::text[] AND EXISTS ('
		'SELECT FROM unnest(%L::uuid[], %L::uuid[]) u(from_id, to_id) '
		'WHERE (r.id >= u.from_id) IS NOT FALSE AND (r.id < u.to_id) IS NOT FALSE)',
		dropped.names, dropped.from_ids, dropped.to_ids);
	RETURN format($query$
		WITH image AS MATERIALIZED (
			SELECT r.image FROM bemi_rows r WHERE %1$s
		), last AS MATERIALIZED (
			SELECT r.image FROM (
					SELECT DISTINCT ON (c.primary_key) c.id, c.after AS image, c.committed_at
						FROM bemi.changes c
						WHERE c."table" = %2$L AND c.schema = %3$L AND c.source = %4$L
							AND c.id < %5$L AND c.primary_key IS NOT NULL
						ORDER BY c.primary_key, c.id DESC
				) r
				WHERE (%7$L::boolean OR (r.committed_at < %12$L::timestamptz
					OR r.id < %14$L::uuid) IS NOT TRUE) AND %1$s
		)
		SELECT r.version || CASE WHEN x.image IS NOT NULL THEN jsonb_build_object(%6$s)
				WHEN %7$L::boolean THEN '{}' ELSE _bemi.no_dropped_value(%8$L, r.version, %13$L) END
			FROM bemi_rows r
				LEFT JOIN image i ON jsonb_build_array(%9$s) = jsonb_build_array(%10$s)
				LEFT JOIN last l ON i.image IS NULL
					AND jsonb_build_array(%9$s) = jsonb_build_array(%11$s)
				CROSS JOIN LATERAL (SELECT coalesce(i.image, l.image)) x(image)
			WHERE r.version IS NOT NULL $query$,
		counts, table_name, schema_name, source_name, first_id, members, allow_gaps, target,
		_bemi.json_members('r.version', key), _bemi.json_members('i.image', key),
		_bemi.json_members('l.image', key), dropped.complete_since, dropped.names,
		dropped.complete_since_id);
END
$$;
COMMENT ON FUNCTION _bemi.query_of_json(regclass, text, text, text, uuid, timestamptz, boolean)
	IS 'internal: query of bemi.as_of_json(): JSON of the rows that were read, with columns that '
		'were dropped since';
REVOKE ALL ON FUNCTION _bemi.query_of_json(regclass, text, text, text, uuid, timestamptz, boolean)
	FROM PUBLIC;

CREATE FUNCTION bemi.as_of_json(target regclass, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false,
		timeout interval DEFAULT '10 seconds')
	RETURNS SETOF jsonb
	AS 'MODULE_PATHNAME', 'bemi_as_of_json'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.as_of_json(regclass, timestamptz, uuid, pg_lsn, boolean, interval)
	IS 'rows of a table as they were, as jsonb, with the columns that were dropped since';
REVOKE ALL ON FUNCTION bemi.as_of_json(regclass, timestamptz, uuid, pg_lsn, boolean, interval)
	FROM PUBLIC;
