
--
-- One row
--

-- A missing column counts as null, because "before" of a new row and "after" of a deleted one
-- are {}.
CREATE FUNCTION bemi.diff(before jsonb, after jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF jsonb_typeof(before) <> 'object' OR jsonb_typeof(after) <> 'object' THEN
		RAISE EXCEPTION 'before and after must be JSON objects'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN (SELECT coalesce(jsonb_object_agg(k.name, jsonb_build_array(before -> k.name,
				after -> k.name)), '{}')
			FROM (SELECT jsonb_object_keys(before) UNION SELECT jsonb_object_keys(after)) k(name)
			WHERE coalesce(before -> k.name, 'null') <> coalesce(after -> k.name, 'null'));
END
$$;
COMMENT ON FUNCTION bemi.diff(jsonb, jsonb)
	IS 'columns that differ between two rows, each with [old, new]';
GRANT EXECUTE ON FUNCTION bemi.diff(jsonb, jsonb) TO PUBLIC;

-- With a replica identity other than FULL, an UPDATE has only a part of "before", or nothing.
CREATE FUNCTION _bemi.changed_columns(operation text, before jsonb, after jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN operation <> 'UPDATE' THEN bemi.diff(before, after)
		WHEN before <> '{}' THEN (SELECT coalesce(jsonb_object_agg(b.key,
				jsonb_build_array(b.value, after -> b.key)), '{}')
			FROM jsonb_each(before) b WHERE after ? b.key AND after -> b.key <> b.value)
	END
$$;
COMMENT ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb)
	IS 'internal: columns that a change has changed, each with [old, new]; NULL: not known';
REVOKE ALL ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION bemi.history(target regclass, key text, newest integer DEFAULT 100,
		before_id uuid DEFAULT NULL)
	RETURNS TABLE (id uuid, committed_at timestamptz, operation text, primary_key text,
		changed jsonb, before jsonb, after jsonb, context jsonb, transaction_id bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	h record;
	key_names text[];
	cursor_change bemi.changes;
	row_key text;
	passed boolean := true;
	returned integer := 0;
	part record;
	below uuid;
	truncated boolean;
	moved boolean;
	c bemi.changes;
BEGIN
	PERFORM _bemi.check_page(newest);
	h := _bemi.history_of(target);
	row_key := _bemi.key_from_user(h.relation, history.key);
	key_names := (SELECT k.names FROM _bemi.key_columns(h.relation) k);
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
		IF (cursor_change.schema, cursor_change."table") <> (h.schema_name, h.table_name)
			OR cursor_change.source <> ALL (h.sources) THEN
			RAISE EXCEPTION 'change "%" is not a change of table "%"', before_id, target
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		-- If it has another key, the page before has followed a changed one, or this is a change
		-- of another row. And a TRUNCATE has none. So the way to it is repeated.
		passed := cursor_change.primary_key IS NOT DISTINCT FROM row_key;
		IF passed AND cursor_change.operation = 'UPDATE' THEN
			row_key := coalesce(_bemi.key_from_image(h.relation, cursor_change.before), row_key);
		END IF;
	END IF;

	FOR part IN SELECT t.from_time, t.to_time FROM _bemi.partition_times() t LOOP
		CONTINUE WHEN before_id IS NOT NULL AND passed
			AND part.from_time > cursor_change.committed_at;
		below := CASE WHEN before_id IS NOT NULL AND passed
				AND cursor_change.committed_at BETWEEN part.from_time AND part.to_time
			THEN before_id ELSE 'ffffffff-ffff-ffff-ffff-ffffffffffff' END;
		-- Such a partition is rare, and a plan for both costs twice as much.
		truncated := EXISTS (SELECT FROM bemi.changes t
			WHERE t.committed_at BETWEEN part.from_time AND part.to_time
				AND t."table" = h.table_name AND t.schema = h.schema_name
				AND t.primary_key IS NULL AND t.operation = 'TRUNCATE');
		LOOP
			moved := false;
			FOR c IN
				SELECT u.* FROM (
						SELECT r.* FROM bemi.changes r
							WHERE r."table" = h.table_name AND r.schema = h.schema_name
								AND r.primary_key = row_key AND r.source = ANY (h.sources)
								AND r.committed_at BETWEEN part.from_time AND part.to_time
								AND r.id < below
						UNION ALL
						SELECT t.* FROM bemi.changes t
							WHERE truncated
								AND t.committed_at BETWEEN part.from_time AND part.to_time
								AND t."table" = h.table_name AND t.schema = h.schema_name
								AND t.primary_key IS NULL AND t.operation = 'TRUNCATE'
								AND t.source = ANY (h.sources) AND t.id < below) u
					ORDER BY u.id DESC
					LIMIT CASE WHEN passed THEN newest - returned END
			LOOP
				IF passed THEN
					id := c.id;
					committed_at := c.committed_at;
					operation := c.operation;
					primary_key := c.primary_key;
					changed := _bemi.changed_columns(c.operation, c.before, c.after);
					before := c.before;
					after := c.after;
					context := CASE WHEN c.context ? '_whole' THEN bemi.full_context(c)
						ELSE c.context END;
					transaction_id := c.transaction_id;
					RETURN NEXT;
					returned := returned + 1;
				END IF;
				passed := passed OR c.id = before_id;
				IF returned = newest THEN
					RETURN;
				END IF;
				-- The row had another key before. As text, because 1.5 and 1.50 are two keys.
				IF c.operation = 'UPDATE' AND EXISTS (SELECT FROM unnest(key_names) k
					WHERE (c.before -> k)::text <> (c.after -> k)::text) THEN
					row_key := coalesce(_bemi.key_from_image(h.relation, c.before), row_key);
					below := c.id;
					moved := true;
					EXIT;
				END IF;
			END LOOP;
			EXIT WHEN NOT moved;
		END LOOP;
	END LOOP;

	IF NOT passed THEN
		RAISE EXCEPTION 'change "%" is not in the history of row "%" of table "%"', before_id,
				history.key, target
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'before_id is the last id of the page before.';
	END IF;
	IF returned = 0 AND NOT h.known THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('SELECT bemi.track(%L);', target);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.history(regclass, text, integer, uuid)
	IS 'changes of the row with this primary key, newest first; bemi.find_changes() has those of '
		'a table';
REVOKE ALL ON FUNCTION bemi.history(regclass, text, integer, uuid) FROM PUBLIC;

CREATE FUNCTION bemi.blame(target regclass, key text)
	RETURNS TABLE (column_name text, value jsonb, changed_at timestamptz, operation text,
		context jsonb, change_id uuid)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	page integer := 10;
	last_id uuid;
	seen integer;
	c record;
	removal record;		-- a TRUNCATE that removed the row
	pending jsonb;		-- columns whose change has not been found, with their values
	blamed jsonb := '{}';	-- column -> change
	image jsonb := '{}';
	changes jsonb := '{}';	-- id -> what to return of the change
	found_columns text[];
BEGIN
	LOOP
		seen := 0;
		FOR c IN SELECT h.* FROM bemi.history(target, blame.key, page, last_id) h LOOP
			seen := seen + 1;
			last_id := c.id;
			IF pending IS NULL AND c.operation = 'TRUNCATE' THEN
				removal := c;
				changes := changes || jsonb_build_object(c.id, jsonb_build_object('at',
					c.committed_at, 'operation', c.operation, 'context', c.context));
				CONTINUE;
			END IF;
			IF pending IS NULL THEN
				pending := CASE c.operation WHEN 'DELETE' THEN c.before ELSE c.after END;
				-- The values of a row that is gone are null.
				image := CASE WHEN c.operation = 'DELETE' OR changes <> '{}'
					THEN (SELECT jsonb_object_agg(k, NULL) FROM jsonb_object_keys(pending) k)
					ELSE pending END;
				IF c.operation <> 'DELETE' AND changes <> '{}' THEN
					blamed := (SELECT jsonb_object_agg(k, removal.id)
						FROM jsonb_object_keys(pending) k);
					pending := '{}';
					EXIT;
				END IF;
			ELSIF c.operation IN ('DELETE', 'TRUNCATE') THEN
				-- An earlier row with this key. How this one began is not in the history.
				EXIT;
			END IF;
			found_columns := ARRAY(SELECT k FROM jsonb_object_keys(pending) k
				WHERE c.operation = 'DELETE' OR c.changed ? k
					OR c.operation = 'CREATE' AND c.after ? k);
			IF found_columns <> '{}' THEN
				changes := changes || jsonb_build_object(c.id, jsonb_build_object('at',
					c.committed_at, 'operation', c.operation, 'context', c.context));
				blamed := blamed || (SELECT jsonb_object_agg(k, c.id) FROM unnest(found_columns) k);
				pending := pending - found_columns;
			END IF;
			-- An UPDATE without the old value may have set it.
			IF c.operation = 'UPDATE' THEN
				pending := pending - ARRAY(SELECT k FROM jsonb_object_keys(pending) k
					WHERE NOT c.before ? k);
			END IF;
			EXIT WHEN pending = '{}' OR c.operation = 'CREATE';
		END LOOP;
		EXIT WHEN seen < page OR image <> '{}' AND (pending = '{}'
			OR c.operation IN ('CREATE', 'DELETE', 'TRUNCATE'));
		page := page * 4;
	END LOOP;
	RETURN QUERY SELECT i.key, i.value, (changes -> (blamed ->> i.key) ->> 'at')::timestamptz,
			changes -> (blamed ->> i.key) ->> 'operation',
			changes -> (blamed ->> i.key) -> 'context', (blamed ->> i.key)::uuid
		FROM jsonb_each(image) i LEFT JOIN pg_attribute a
			ON a.attrelid = target AND a.attname = i.key AND NOT a.attisdropped
		ORDER BY a.attnum, i.key;
END
$$;
COMMENT ON FUNCTION bemi.blame(regclass, text)
	IS 'columns of the row with this primary key, each with the change that set its value';
REVOKE ALL ON FUNCTION bemi.blame(regclass, text) FROM PUBLIC;
