
--
-- The past of a table: bemi.as_of(), bemi.row_as_of()
--
-- docs/internals/reading.md explains why the answer is exact.
--

-- What the text of a row's primary_key depends on, in a state of _bemi.schema_changes: numbers and
-- types of the columns of the key, and rules that may redact them.
CREATE FUNCTION _bemi.key_text_form(state jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_array(state -> 'rules' -> 'redact', state -> 'rules' -> 'redact_hash',
		(SELECT jsonb_agg(jsonb_build_array(c -> 0, c -> 2) ORDER BY k.place)
			FROM jsonb_array_elements_text(nullif(state -> 'key', 'null'))
					WITH ORDINALITY k(name, place)
				JOIN jsonb_array_elements(state -> 'columns') c ON c ->> 1 = k.name))
$$;
COMMENT ON FUNCTION _bemi.key_text_form(jsonb)
	IS 'internal: what the text of a primary key depends on';
REVOKE ALL ON FUNCTION _bemi.key_text_form(jsonb) FROM PUBLIC;

-- With the rights of the owner, because its caller need not see which sources there are. The source
-- is the running one that reads this database. root is not NULL if the changes are stored under the
-- name of another table. Changes from key_text_since on have in primary_key the text that the key
-- has today: NULL: all; the highest id: perhaps none.
CREATE FUNCTION _bemi.as_of_history(target regclass, OUT source text, OUT schema text,
		OUT "table" text, OUT root text, OUT key_text_since uuid, OUT names jsonb,
		OUT created_at timestamptz)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	published_as regclass := _bemi.partition_root(target);
	redacted jsonb;
BEGIN
	SELECT n.nspname, c.relname INTO schema, "table"
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	source := (SELECT min(s.name) FROM bemi.sources s
		WHERE s.conninfo IS NULL AND s.desired = 'run');
	IF published_as <> target AND _bemi.is_published(published_as) THEN
		root := published_as;
	END IF;
	-- A name in the rules may be a pattern. Values of an enum can be renamed, and no change tells.
	redacted := _bemi.rules(target);
	redacted := coalesce(redacted -> 'redact', '[]') || coalesce(redacted -> 'redact_hash', '[]');
	IF EXISTS (SELECT FROM jsonb_array_elements_text(redacted) r, _bemi.key_columns(target) k
			WHERE r = ANY (k.names) OR r ~ '[*?]')
		OR EXISTS (SELECT FROM pg_index i
				JOIN pg_attribute a ON a.attrelid = i.indexrelid
				JOIN pg_type t ON t.oid = a.atttypid
				LEFT JOIN pg_type b ON b.oid = t.typbasetype
			WHERE i.indrelid = target AND i.indisprimary AND 'e' IN (t.typtype, b.typtype)) THEN
		key_text_since := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
	ELSE
		key_text_since := (SELECT c.id FROM _bemi.schema_changes c
			WHERE c.source = as_of_history.source AND c.relation = target
				AND c.before IS NOT NULL AND c.after IS NOT NULL
				AND _bemi.key_text_form(c.before) <> _bemi.key_text_form(c.after)
			ORDER BY c.id DESC LIMIT 1);
	END IF;
	-- Names of earlier times, newest first. NULL if they were always those of today. created_at is
	-- NULL if the table was not empty then.
	SELECT jsonb_agg(to_jsonb(n) ORDER BY n.ordinality),
			(SELECT c.committed_at FROM _bemi.schema_changes c
				WHERE c.source = as_of_history.source AND c.relation = target
					AND c.id = (array_agg(n.from_id ORDER BY n.ordinality DESC))[1]
					AND c.command NOT IN ('CREATE TABLE AS', 'SELECT INTO'))
		INTO names, created_at
		FROM _bemi.table_names(ARRAY[source], target, schema, "table") WITH ORDINALITY n
		WHERE NOT n.predecessor;
	IF jsonb_array_length(names) = 1 AND jsonb_typeof(names -> 0 -> 'columns') = 'null'
		AND jsonb_typeof(names -> 0 -> 'from_id') = 'null' THEN
		names := NULL;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.as_of_history(regclass)
	IS 'internal: for bemi.as_of(): source and names of a table, and which of its changes the text '
		'of a key finds';
REVOKE ALL ON FUNCTION _bemi.as_of_history(regclass) FROM PUBLIC;

-- What rows from before another primary key were told apart by. Their keys of today are unique if
-- all columns of the former key are among those of today. Otherwise several rows may have had one
-- key, and equal rows are counted.
CREATE FUNCTION _bemi.as_of_former_key(target regclass, source text, since timestamptz,
		since_id uuid)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('key_changed (until %s): Before, the primary key was %s. Rows with an equal key '
			'of today cannot be told apart.', c.committed_at,
			coalesce(nullif(c.before ->> 'key', '[]'), 'missing'))
		FROM _bemi.schema_changes c
			JOIN pg_index i ON i.indrelid = target AND i.indisprimary
		WHERE c.source = as_of_former_key.source AND c.relation = target
			AND (c.committed_at > since OR c.id >= since_id) AND c.before IS NOT NULL
			AND (SELECT coalesce(bool_or(NOT (k -> 0)::int2
						= ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])), true)
				FROM jsonb_array_elements(nullif(_bemi.key_text_form(c.before) -> 2, 'null')) k)
		ORDER BY c.id LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.as_of_former_key(regclass, text, timestamptz, uuid)
	IS 'internal: why the primary key of today does not tell rows of a time apart; NULL if it does';
REVOKE ALL ON FUNCTION _bemi.as_of_former_key(regclass, text, timestamptz, uuid) FROM PUBLIC;

-- As above. The first gap between two places; until infinity: up to now. What is not stored yet is
-- no gap, because bemi.as_of() has waited for it. Under each name, the table must be complete for
-- the time in which it had the name.
--
-- A gap is before the first place if it ends there by time, and also by position, because a clock
-- may have been set back. It is after the second place if it begins there: by position, if
-- until_lsn is not NULL, otherwise by time. Then a change beyond stored_until may follow missing
-- ones. The transaction that ends the tracking can make changes after that, at the time at which
-- the gap begins. Positions of another server, or from before a restore, tell nothing.
CREATE FUNCTION _bemi.as_of_gap(target regclass, source text, since timestamptz, since_lsn pg_lsn,
		until timestamptz, until_lsn pg_lsn, since_id uuid, OUT gap text,
		OUT stored_until pg_lsn, OUT former_key text)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	named record;
	named_until timestamptz := 'infinity';
	named_until_lsn pg_lsn;
	comparable bigint := coalesce((SELECT max(g.id) FROM bemi.gaps g
		WHERE g.source = as_of_gap.source AND g.reason IN ('server_changed', 'history_moved',
			'timeline_changed', 'source_went_back')), 0);
BEGIN
	FOR named IN
		SELECT t.schema_name AS schema, t.table_name AS "table",
				greatest(since, c.committed_at) AS from_time,
				greatest(since_lsn, _bemi.lsn_of_id(t.from_id)) AS from_lsn,
				c.committed_at AS named_at, _bemi.lsn_of_id(t.from_id) AS named_lsn, c.command,
				-- Times are not in commit order, but ids of one server are.
				c.committed_at > since
					OR comparable = 0 AND t.from_id >= since_id AS is_later
			FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace,
				_bemi.table_names(ARRAY[source], r.oid, n.nspname, r.relname) WITH ORDINALITY t
				LEFT JOIN _bemi.schema_changes c
					ON c.source = as_of_gap.source AND c.relation = target AND c.id = t.from_id
			WHERE r.oid = target AND NOT t.predecessor
			ORDER BY t.ordinality
	LOOP
		SELECT (array_agg(format('%s (from %s to %s): %s', g.reason, g.from_time,
					coalesce(g.to_time::text, 'now'), g.detail) ORDER BY g.from_time, g.id)
				FILTER (WHERE NOT e.is_after))[1],
				least(stored_until, min(g.from_lsn) FILTER (WHERE g.id >= comparable))
			INTO gap, stored_until
			FROM bemi.gaps g, LATERAL (SELECT CASE
					WHEN g.id >= comparable AND until_lsn IS NOT NULL
					THEN coalesce(g.from_lsn >= until_lsn, false)
					WHEN g.reason = 'tracking_ended' THEN g.from_time > until
					ELSE g.from_time >= until END) e(is_after)
			WHERE (g.source = as_of_gap.source OR g.source IS NULL)
				AND (g."table" IS NULL OR g.schema = named.schema AND g."table" = named."table")
				AND (g.from_time < named_until OR g.from_lsn < named_until_lsn)
				AND (coalesce(g.to_time, 'infinity') > named.from_time
					-- A command is at its position, and everything else is before the end. Within
					-- the commit of the place, the order is not known. Names can be swapped in one.
					OR g.id >= comparable AND (g.to_lsn > named.from_lsn
						OR g.to_lsn = named.from_lsn AND (g.reason = 'rows_changed_by_ddl'
							OR g.from_lsn = g.to_lsn AND g.to_lsn = since_lsn)));
		IF gap IS NULL AND named_until = 'infinity'
			AND NOT EXISTS (SELECT FROM _bemi.source_tables t
				WHERE t.source = as_of_gap.source AND t.schema = named.schema
					AND t."table" = named."table")
			AND (until = 'infinity' OR NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = as_of_gap.source AND g.schema = named.schema
					AND g."table" = named."table" AND g.to_time IS NULL)) THEN
			gap := 'not_tracked: ' || _bemi.default_detail('not_tracked');
		END IF;
		-- The history does not have the first rows of such a table.
		IF gap IS NULL AND named.command IN ('CREATE TABLE AS', 'SELECT INTO')
			AND named.is_later THEN
			gap := format('rows_changed_by_ddl (%s, %s): %s', named.command, named.named_at,
				_bemi.default_detail('rows_changed_by_ddl'));
		END IF;
		-- The rows are newest first.
		named_until := named.named_at;
		named_until_lsn := CASE comparable WHEN 0 THEN named.named_lsn END;
		EXIT WHEN gap IS NOT NULL OR NOT named.is_later;
	END LOOP;
	former_key := _bemi.as_of_former_key(target, source, since,
		CASE comparable WHEN 0 THEN since_id END);
END
$$;
COMMENT ON FUNCTION _bemi.as_of_gap(regclass, text, timestamptz, pg_lsn, timestamptz, pg_lsn,
	uuid)
	IS 'internal: the first gap of a table between two places; NULL if there is none; and up to '
		'which position no later gap has left out a change; and whether the key has changed since';
REVOKE ALL ON FUNCTION _bemi.as_of_gap(regclass, text, timestamptz, pg_lsn, timestamptz, pg_lsn,
	uuid) FROM PUBLIC;

-- What a table was like at a place (is_first), and after it. first_id is the first change of a row
-- after the place, so the table may have been changed between a time and it.
CREATE FUNCTION _bemi.as_of_states(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT state jsonb, OUT is_first boolean)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.state, s.from_id IS NULL OR s.from_id < p.id
		FROM (SELECT least(first_id, (SELECT min(c.id::text)::uuid FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.committed_at > at))) p(id),
			_bemi.table_states(ARRAY[source_name], target, _bemi.this_server()) s
		WHERE s.to_id IS NULL OR s.to_id >= p.id
$$;
COMMENT ON FUNCTION _bemi.as_of_states(regclass, text, uuid, timestamptz)
	IS 'internal: what a table was like at a place in commit order, and since';
REVOKE ALL ON FUNCTION _bemi.as_of_states(regclass, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, because nobody else can read what is known of tables. By number and by name,
-- because a restored table has other numbers.
CREATE FUNCTION _bemi.as_of_added_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT attnum smallint)
	RETURNS SETOF smallint
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum FROM pg_attribute a,
			_bemi.as_of_states(target, source_name, first_id, at) s
		WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
			AND s.is_first
			AND NOT EXISTS (SELECT FROM jsonb_array_elements(s.state -> 'columns') c
				WHERE (c ->> 0)::integer = a.attnum OR c ->> 1 = a.attname)
$$;
COMMENT ON FUNCTION _bemi.as_of_added_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns of a table that it did not have at a place in commit order';
REVOKE ALL ON FUNCTION _bemi.as_of_added_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, for the same reason. Columns that a table had at a place, and that were added by a
-- command that may have had a default. In the file that a table was created with, the default is
-- still in the catalog.
CREATE FUNCTION _bemi.as_of_unknown_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT attnum smallint)
	RETURNS SETOF smallint
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum FROM pg_class r
			JOIN pg_attribute a ON a.attrelid = r.oid
			JOIN pg_type t ON t.oid = a.atttypid
		WHERE r.oid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
			AND (r.relkind <> 'r' OR r.relfilenode <> r.oid)
			AND EXISTS (SELECT FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.relation = target AND c.before IS NOT NULL
					AND a.attnum IN (SELECT (e -> 0)::smallint
						FROM jsonb_array_elements(c.after -> 'columns') e)
					AND a.attnum NOT IN (SELECT (e -> 0)::smallint
						FROM jsonb_array_elements(c.before -> 'columns') e)
					-- Text without the word has no default, except that of a domain.
					AND NOT coalesce(c.command = 'ALTER TABLE' AND t.typtype <> 'd'
						AND c.statement ~* '^\s*alter\s' AND c.statement !~* 'default', false))
			AND a.attnum NOT IN (SELECT s.attnum
				FROM _bemi.as_of_added_columns(target, source_name, first_id, at) s)
$$;
COMMENT ON FUNCTION _bemi.as_of_unknown_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns of a table that were added before a place in commit order, perhaps with '
		'a default that the catalog has no longer';
REVOKE ALL ON FUNCTION _bemi.as_of_unknown_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, for the same reason.
CREATE FUNCTION _bemi.as_of_ignored_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT attnum smallint)
	RETURNS SETOF smallint
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT DISTINCT u.attnum FROM (
			SELECT a.attnum, a.attname, _bemi.rules(target) FROM pg_attribute a
				WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
			UNION ALL
			SELECT (c ->> 0)::smallint, c ->> 1, s.state -> 'rules'
				FROM _bemi.as_of_states(target, source_name, first_id, at) s,
					jsonb_array_elements(s.state -> 'columns') c
		) u(attnum, name, rules), jsonb_array_elements_text(nullif(u.rules -> 'ignore', 'null')) r
		WHERE r = u.name OR r LIKE '%*' AND starts_with(u.name, left(r, -1))
$$;
COMMENT ON FUNCTION _bemi.as_of_ignored_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns of a table that a rule ignores, or has ignored since a place in commit '
		'order';
REVOKE ALL ON FUNCTION _bemi.as_of_ignored_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.as_of(target anyelement, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false,
		timeout interval DEFAULT '10 seconds')
	RETURNS SETOF anyelement
	AS 'MODULE_PATHNAME', 'bemi_as_of'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.as_of(anyelement, timestamptz, uuid, pg_lsn, boolean, interval)
	IS 'rows of a table as they were at a time, at a position in the WAL, or before a change';
REVOKE ALL ON FUNCTION bemi.as_of(anyelement, timestamptz, uuid, pg_lsn, boolean, interval)
	FROM PUBLIC;

CREATE FUNCTION bemi.row_as_of(target anyelement, key text, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false,
		timeout interval DEFAULT '10 seconds')
	RETURNS SETOF anyelement
	AS 'MODULE_PATHNAME', 'bemi_row_as_of'
	LANGUAGE C STABLE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION bemi.row_as_of(anyelement, text, timestamptz, uuid, pg_lsn, boolean, interval)
	IS 'one row of a table as it was at a time, at a position in the WAL, or before a change';
REVOKE ALL ON FUNCTION bemi.row_as_of(anyelement, text, timestamptz, uuid, pg_lsn, boolean,
	interval)
	FROM PUBLIC;
