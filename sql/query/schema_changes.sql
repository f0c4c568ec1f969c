
--
-- Names over time: tables and columns that were renamed
--

-- Which columns had other names than today, see _bemi.table_names(). Elements of both arguments are
-- arrays that begin with number and name.
CREATE FUNCTION _bemi.former_names(former jsonb, today jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_object_agg(f.name, CASE WHEN t.name IS NOT NULL THEN t.name
				WHEN o.name IS NULL THEN f.name END)
		FROM (SELECT c ->> 0, c ->> 1 FROM jsonb_array_elements(former) c) f(number, name)
			LEFT JOIN (SELECT c ->> 0, c ->> 1 FROM jsonb_array_elements(today) c) t(number, name)
				USING (number)
			LEFT JOIN (SELECT c ->> 1 FROM jsonb_array_elements(today) c) o(name)
				ON o.name = f.name
		HAVING bool_or(f.name <> t.name) OR bool_or(t.name IS NULL AND o.name IS NOT NULL)
$$;
COMMENT ON FUNCTION _bemi.former_names(jsonb, jsonb)
	IS 'internal: former names of columns, each with the name of today; that of a dropped column '
		'is its own, or null if another column has it; NULL if all names are the same';
REVOKE ALL ON FUNCTION _bemi.former_names(jsonb, jsonb) FROM PUBLIC;

-- The states of a table, newest first: "after" of each schema change, then "before" of the oldest.
-- A change of the table is above from_id and below to_id. The server may have been upgraded, which
-- keeps OIDs, or restored from a dump, which does not. So a state of another server counts only if
-- it has the same names.
CREATE FUNCTION _bemi.table_states(sources text[], relation oid, server text,
		OUT from_id uuid, OUT to_id uuid, OUT state jsonb, OUT created boolean)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s _bemi.schema_changes;
	newer _bemi.schema_changes;
BEGIN
	IF server IS NULL THEN
		RETURN;
	END IF;
	FOR s IN SELECT c.* FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.relation = table_states.relation
			AND c.event <> 'rows changed'
		ORDER BY CASE WHEN c.server <> table_states.server THEN c.committed_at END
			DESC NULLS FIRST, c.id DESC
	LOOP
		EXIT WHEN s.server <> coalesce(newer.server, table_states.server)
			AND (newer.id IS NULL OR s.after IS NULL
				OR s.after ->> 'schema' <> newer.schema OR s.after ->> 'table' <> newer."table");
		-- Another table had this OID.
		EXIT WHEN newer.id IS NOT NULL AND s.after IS NULL;
		IF s.after IS NOT NULL THEN
			from_id := s.id;
			to_id := newer.id;
			state := s.after;
			created := s.before IS NULL AND s.event = 'began'
				AND s.command IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
					'CREATE SCHEMA');
			RETURN NEXT;
		END IF;
		newer := s;
	END LOOP;
	IF newer.before IS NOT NULL THEN
		from_id := NULL;
		to_id := newer.id;
		state := newer.before;
		created := false;
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.table_states(text[], oid, text)
	IS 'internal: what a table was like, newest first, and between which ids of changes';
REVOKE ALL ON FUNCTION _bemi.table_states(text[], oid, text) FROM PUBLIC;

-- Rows that follow each other with the same names are one. With the rights of the owner, because
-- nobody else can read the sources.
CREATE FUNCTION _bemi.table_names(sources text[], relation oid, schema_today text,
		table_today text)
	RETURNS TABLE (from_id uuid, to_id uuid, schema_name text, table_name text, columns jsonb,
		predecessor boolean, known boolean)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_one text := _bemi.this_server();
	known_server text;
	today jsonb;
	s record;
	former jsonb;
	created uuid;
BEGIN
	SELECT c.server INTO known_server FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.relation = table_names.relation
			AND (c.server = this_one OR c.schema = schema_today AND c."table" = table_today)
		ORDER BY c.server = this_one DESC, c.committed_at DESC, c.id DESC LIMIT 1;
	IF known_server = this_one THEN
		today := (SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname))
			FROM pg_attribute a
			WHERE a.attrelid = table_names.relation AND a.attnum > 0 AND NOT a.attisdropped);
	END IF;

	predecessor := false;
	known := true;
	FOR s IN SELECT t.* FROM _bemi.table_states(sources, table_names.relation, known_server) t LOOP
		today := coalesce(today, s.state -> 'columns');
		former := _bemi.former_names(s.state -> 'columns', today);
		created := CASE WHEN s.created THEN s.from_id END;
		CONTINUE WHEN schema_name = s.state ->> 'schema' AND table_name = s.state ->> 'table'
			AND columns IS NOT DISTINCT FROM former;
		IF schema_name IS NOT NULL THEN
			from_id := s.to_id;
			RETURN NEXT;
		END IF;
		to_id := s.to_id;
		-- While ALTER SCHEMA renames a schema, others can write to its tables. They may commit
		-- later, under the former name. So the former name counts until a table takes it: another
		-- one, or this one again.
		IF (schema_name, table_name) <> (s.state ->> 'schema', s.state ->> 'table') THEN
			to_id := (SELECT min(c.id::text)::uuid FROM _bemi.schema_changes c
				WHERE c.source = ANY (sources) AND c.id >= s.to_id
					AND c.event <> 'rows changed' AND c.after IS NOT NULL
					AND c.schema = s.state ->> 'schema' AND c."table" = s.state ->> 'table');
		END IF;
		schema_name := s.state ->> 'schema';
		table_name := s.state ->> 'table';
		columns := former;
	END LOOP;
	known := schema_name IS NOT NULL;
	schema_name := coalesce(schema_name, schema_today);
	table_name := coalesce(table_name, table_today);
	from_id := created;
	RETURN NEXT;

	-- The dropped table whose name this one took. Before that, the name may have been that of a
	-- table that was renamed.
	IF EXISTS (SELECT FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.id < created AND c.event = 'dropped'
			AND c.before ->> 'schema' = schema_name AND c.before ->> 'table' = table_name) THEN
		from_id := (SELECT max(c.id::text)::uuid FROM _bemi.schema_changes c
			WHERE c.source = ANY (sources) AND c.id < created
				AND c.before ->> 'schema' = schema_name AND c.before ->> 'table' = table_name
				AND (c.schema, c."table") <> (schema_name, table_name));
		to_id := created;
		columns := NULL;
		predecessor := true;
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.table_names(text[], oid, text, text)
	IS 'internal: under which names the changes of a table are stored, newest first: above '
		'from_id and below to_id, which are NULL if there is no limit; columns is that of '
		'_bemi.former_names(); predecessor: another table of this name, dropped before this one '
		'was created; known: false if nothing is known of the table';
REVOKE ALL ON FUNCTION _bemi.table_names(text[], oid, text, text) FROM PUBLIC;

-- NULL if it is not a change of the table.
CREATE FUNCTION _bemi.names_of_change(change bemi.changes, sources text[], relation oid,
		schema_today text, table_today text, OUT place bigint, OUT columns jsonb)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.ordinality, t.columns
		FROM _bemi.table_names(sources, relation, schema_today, table_today) WITH ORDINALITY t
		WHERE change.source = ANY (sources)
			AND (change.schema, change."table") = (t.schema_name, t.table_name)
			AND coalesce(change.id > t.from_id, true) AND coalesce(change.id < t.to_id, true)
		LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.names_of_change(bemi.changes, text[], oid, text, text)
	IS 'internal: which row of _bemi.table_names() has the names of a change';
REVOKE ALL ON FUNCTION _bemi.names_of_change(bemi.changes, text[], oid, text, text) FROM PUBLIC;

CREATE FUNCTION _bemi.rename_members(image jsonb, columns jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_rename_json_members'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.rename_members(jsonb, jsonb)
	IS 'internal: an object with the names that its columns have today';
REVOKE ALL ON FUNCTION _bemi.rename_members(jsonb, jsonb) FROM PUBLIC;
