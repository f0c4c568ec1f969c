
--
-- One row
--

-- A missing column counts as null, because "before" of a new row and "after" of a deleted one
-- are {}.
CREATE FUNCTION bemi.diff(before jsonb, after jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_diff'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION bemi.diff(jsonb, jsonb)
	IS 'columns that differ between two rows, each with [old, new]';
GRANT EXECUTE ON FUNCTION bemi.diff(jsonb, jsonb) TO PUBLIC;

CREATE FUNCTION _bemi.changed_columns(operation text, before jsonb, after jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_changed_columns'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb)
	IS 'internal: columns that a change has changed, each with [old, new]; NULL: not known';
REVOKE ALL ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION _bemi.key_is_changed(key_names text[], before jsonb, after jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_key_is_changed'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.key_is_changed(text[], jsonb, jsonb)
	IS 'internal: whether the row had another primary key before the change';
REVOKE ALL ON FUNCTION _bemi.key_is_changed(text[], jsonb, jsonb) FROM PUBLIC;

-- As the owner, because nobody else can read what is known of tables.
CREATE FUNCTION _bemi.key_has_changed(sources text[], target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.relation = target
			AND c.before IS NOT NULL AND c.after IS NOT NULL
			AND _bemi.key_text_form(c.before) -> 2 IS DISTINCT FROM
				_bemi.key_text_form(c.after) -> 2)
		-- The last change of the key may not be stored yet.
		OR coalesce((SELECT nullif(c.after -> 'key', 'null') IS DISTINCT FROM
				(SELECT to_jsonb(k.names) FROM _bemi.key_columns(target) k)
			FROM _bemi.schema_changes c
			WHERE c.source = ANY (sources) AND c.relation = target AND c.after IS NOT NULL
			ORDER BY c.id DESC LIMIT 1), false)
$$;
COMMENT ON FUNCTION _bemi.key_has_changed(text[], regclass)
	IS 'internal: whether the primary key of a table has had other columns';
REVOKE ALL ON FUNCTION _bemi.key_has_changed(text[], regclass) FROM PUBLIC;

-- The names are those of today, also in changes from before a column or the table was renamed.
--
-- Two rows can have one key until a deferrable primary key is checked, so a change with the row's
-- key can be another row's. It is skipped if it leaves another row than the next change has found.
-- In an earlier transaction, the row can also differ because of a gap or an ALTER TABLE. There it
-- is only skipped if one of the changes before it leaves that row. From before the primary key got
-- other columns, a change of another row can have the same text.
CREATE FUNCTION bemi.history(target regclass, key text, newest integer DEFAULT 100,
		before_id uuid DEFAULT NULL)
	RETURNS TABLE (id uuid, committed_at timestamptz, operation text, primary_key text,
		changed jsonb, before jsonb, after jsonb, context jsonb, transaction_id bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	h record;
	key_names text[];
	cursor_change bemi.changes;
	cursor_names record;
	first_place bigint := 1;	-- among the names of the table
	row_key text;
	passed boolean := true;
	returned integer := 0;
	last_time timestamptz;
	last_id uuid;
	moved boolean;
	skipped boolean;
	other_keys boolean;		-- whether the table has had another primary key
	row_now jsonb;			-- after the change, or before a DELETE
	read_time timestamptz;
	read_id uuid;
	shares_keys boolean;	-- two rows can have one key for a while
	row_before jsonb;		-- before the last change; NULL: there was none, or it is not known
	row_transaction bigint;
	n record;
	c bemi.changes;
BEGIN
	PERFORM _bemi.check_page(newest);
	h := _bemi.history_of(target);
	row_key := _bemi.key_from_user(h.relation, history.key);
	shares_keys := EXISTS (SELECT FROM pg_index i
		WHERE i.indrelid = h.relation AND i.indisprimary AND NOT i.indimmediate);
	key_names := (SELECT k.names FROM _bemi.key_columns(h.relation) k);
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
		SELECT m.* INTO cursor_names FROM _bemi.names_of_change(cursor_change, h.sources,
			h.relation, h.schema_name, h.table_name) m;
		IF cursor_names.place IS NULL THEN
			RAISE EXCEPTION 'change "%" is not a change of table "%"', before_id, target
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = 'before_id is the last id of the page before.';
		END IF;
		-- If it has another key, the page before has followed a changed one, or this is a change
		-- of another row. And a TRUNCATE has none. So the way to it is repeated.
		passed := cursor_change.primary_key IS NOT DISTINCT FROM row_key;
		IF passed THEN
			last_time := cursor_change.committed_at;
			last_id := before_id;
			first_place := cursor_names.place;
		END IF;
		IF passed AND cursor_change.operation IN ('UPDATE', 'DELETE') THEN
			row_before := _bemi.rename_members(cursor_change.before, cursor_names.columns);
			row_transaction := cursor_change.transaction_id;
			row_key := coalesce(_bemi.key_from_image(h.relation, row_before), row_key);
		END IF;
	END IF;

	FOR n IN SELECT t.* FROM _bemi.table_names(h.sources, h.relation, h.schema_name, h.table_name)
			WITH ORDINALITY t
		WHERE t.ordinality >= first_place
	LOOP
		LOOP
			moved := false;
			skipped := false;
			FOR c IN SELECT * FROM _bemi.read_changes(n.schema_name, n.table_name, row_key,
				h.sources, from_id => n.from_id, to_id => n.to_id,
				after_time => last_time, after_id => last_id,
				newest => CASE WHEN passed THEN newest - returned END)
			LOOP
				IF n.columns IS NOT NULL THEN
					c.before := _bemi.rename_members(c.before, n.columns);
					c.after := _bemi.rename_members(c.after, n.columns);
				END IF;
				read_time := c.committed_at;
				read_id := c.id;
				row_now := CASE c.operation WHEN 'DELETE' THEN c.before ELSE c.after END;
				IF c.operation <> 'TRUNCATE'
					AND row_now ->> key_names[1] IS DISTINCT FROM c.primary_key
					AND to_jsonb(ARRAY(SELECT row_now ->> k FROM unnest(key_names) k))::text
						<> c.primary_key THEN
					other_keys := coalesce(other_keys,
						_bemi.key_has_changed(h.sources, h.relation));
					IF other_keys AND _bemi.key_from_image(h.relation, row_now) <> row_key THEN
						skipped := true;
						CONTINUE;
					END IF;
				END IF;
				IF shares_keys AND row_before IS NOT NULL
					AND c.operation IN ('CREATE', 'UPDATE', 'DELETE')
					AND (c.operation = 'DELETE' OR EXISTS (
						SELECT FROM jsonb_object_keys(
								_bemi.changed_columns('UPDATE', c.after, row_before)) k
							WHERE NOT EXISTS (SELECT FROM unnest(h.ignored) rule WHERE k = rule
								OR rule LIKE '%*' AND starts_with(k, left(rule, -1)))))
					AND (c.transaction_id = row_transaction OR EXISTS (
						SELECT FROM _bemi.read_changes(n.schema_name, n.table_name, row_key,
								h.sources, from_id => n.from_id, to_id => n.to_id,
								after_time => c.committed_at, after_id => c.id, newest => 100) o
							WHERE _bemi.rename_members(o.after, n.columns) = row_before)) THEN
					last_time := c.committed_at;
					last_id := c.id;
					moved := true;
					EXIT;
				END IF;
				IF shares_keys THEN
					row_before := CASE c.operation WHEN 'SNAPSHOT' THEN c.after
						WHEN 'UPDATE' THEN c.before WHEN 'DELETE' THEN c.before END;
					row_transaction := c.transaction_id;
				END IF;
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
				-- The row had another key before.
				IF c.operation = 'UPDATE'
					AND _bemi.key_is_changed(key_names, c.before, c.after) THEN
					row_key := coalesce(_bemi.key_from_image(h.relation, c.before), row_key);
					last_time := c.committed_at;
					last_id := c.id;
					moved := true;
					EXIT;
				END IF;
			END LOOP;
			IF NOT moved AND skipped THEN
				last_time := read_time;
				last_id := read_id;
			ELSIF NOT moved THEN
				EXIT;
			END IF;
		END LOOP;
		-- All changes under former names follow.
		last_time := NULL;
		last_id := NULL;
	END LOOP;

	IF NOT passed THEN
		RAISE EXCEPTION 'change "%" is not in the history of row "%" of table "%"', before_id,
				history.key, target
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'before_id is the last id of the page before.';
	END IF;
	IF returned = 0 AND NOT h.known THEN
		PERFORM _bemi.throw_no_history(target);
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
	page integer := 50;
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
			-- A later change, which is not in the history, has set another value: that of an
			-- ignored column, or one in a gap. A redacted value can have been stored before there
			-- was the rule.
			pending := pending - ARRAY(SELECT p.key FROM jsonb_each_text(pending) p
				WHERE c.after ? p.key AND p.value IS DISTINCT FROM '[redacted]'
					AND c.after ->> p.key IS DISTINCT FROM p.value
					AND c.after -> p.key IS DISTINCT FROM pending -> p.key);
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
