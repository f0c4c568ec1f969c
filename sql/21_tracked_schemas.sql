
--
-- Tracked schemas: a table that is created in one, or moved to it, is tracked automatically
--

CREATE FUNCTION _bemi.this_server()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s/%s', c.system_identifier, current_database()) FROM pg_control_system() c
$$;
COMMENT ON FUNCTION _bemi.this_server()
	IS 'internal: this server and database, as in _bemi.source_tables.server';
REVOKE ALL ON FUNCTION _bemi.this_server() FROM PUBLIC;

CREATE FUNCTION _bemi.this_database()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s/%s', c.system_identifier, d.oid)
		FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION _bemi.this_database()
	IS 'internal: identifier of this database, unique among all databases of all servers';
REVOKE ALL ON FUNCTION _bemi.this_database() FROM PUBLIC;

-- In C, because a role that may untrack a table may lack the right to read bemi.tracked_schemas.
CREATE FUNCTION _bemi.is_tracked_schema(target regnamespace)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_is_schema_tracked'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.is_tracked_schema(regnamespace)
	IS 'internal: whether all tables of the schema are tracked';
GRANT EXECUTE ON FUNCTION _bemi.is_tracked_schema(regnamespace) TO PUBLIC;

CREATE FUNCTION _bemi.check_schema_tracker(target regnamespace, desired boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_tracker(n.nspowner, format('schema "%s"', n.nspname))
		FROM pg_namespace n WHERE n.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schema to track does not exist' USING ERRCODE = 'invalid_schema_name';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_schema_tracker(regnamespace, boolean)
	IS 'internal: error unless the current user may track the schema';
GRANT EXECUTE ON FUNCTION _bemi.check_schema_tracker(regnamespace, boolean) TO PUBLIC;

CREATE FUNCTION _bemi.set_tracked_schema(target regnamespace, desired boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF desired THEN
		INSERT INTO bemi.tracked_schemas SELECT n.nspname, n.oid, _bemi.this_database()
			FROM pg_namespace n WHERE n.oid = target
			ON CONFLICT (schema) DO UPDATE
				SET schema_oid = excluded.schema_oid, enabled_in = excluded.enabled_in;
	ELSE
		DELETE FROM bemi.tracked_schemas s USING pg_namespace n
			WHERE n.oid = target AND (s.schema = n.nspname
				OR s.schema_oid = n.oid AND s.enabled_in = _bemi.this_database());
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.set_tracked_schema(regnamespace, boolean)
	IS 'internal: records whether all tables of a schema are tracked';
REVOKE ALL ON FUNCTION _bemi.set_tracked_schema(regnamespace, boolean) FROM PUBLIC;

CREATE FUNCTION _bemi.enter_schema(target regnamespace, desired boolean)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_enter_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT;
COMMENT ON FUNCTION _bemi.enter_schema(regnamespace, boolean)
	IS 'internal: calls _bemi.set_tracked_schema() for the owner of the schema, who needs the '
		'right to call bemi.track()';
GRANT EXECUTE ON FUNCTION _bemi.enter_schema(regnamespace, boolean) TO PUBLIC;

CREATE FUNCTION _bemi.is_of_extension(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_depend d
		WHERE d.classid = 'pg_class'::regclass AND d.objid = target AND d.deptype = 'e')
$$;
COMMENT ON FUNCTION _bemi.is_of_extension(regclass)
	IS 'internal: whether the table belongs to an extension; only bemi.track() tracks such a table';
GRANT EXECUTE ON FUNCTION _bemi.is_of_extension(regclass) TO PUBLIC;

CREATE FUNCTION bemi.track_schema(target regnamespace)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	relation regclass;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = target) THEN
		RAISE EXCEPTION 'schema to track does not exist'
			USING ERRCODE = 'invalid_schema_name';
	END IF;
	IF EXISTS (SELECT FROM pg_namespace n WHERE n.oid = target
		AND (n.nspname IN ('bemi', '_bemi', 'information_schema') OR n.nspname ~ '^pg_')) THEN
		RAISE EXCEPTION 'cannot track schema "%"', target
			USING ERRCODE = 'wrong_object_type', DETAIL = 'It is a system schema, or bemi''s own.';
	END IF;

	-- This comes first, because a table that is created meanwhile would be missed. The query
	-- leaves out tables that are already tracked, because bemi.track() would lock each of them.
	PERFORM _bemi.enter_schema(target, true);
	FOR relation IN SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = target AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND NOT (c.relkind = 'r' AND c.relreplident = 'f'
				AND EXISTS (SELECT FROM pg_trigger t
					WHERE t.tgrelid = c.oid AND t.tgname = 'bemi_emit_context'
					AND t.tgfoid = 'bemi.emit_context()'::regprocedure)
				AND EXISTS (SELECT FROM pg_publication_rel r
					JOIN pg_publication p ON p.oid = r.prpubid
					WHERE p.pubname = 'bemi' AND r.prrelid = c.oid))
			AND _bemi.untrackable(c.oid) IS NULL AND NOT _bemi.is_of_extension(c.oid)
		ORDER BY c.relname
	LOOP
		PERFORM bemi.track(relation);
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.track_schema(regnamespace)
	IS 'tracks all tables of the schema, and later every table that is created in it or moved to '
		'it';
REVOKE ALL ON FUNCTION bemi.track_schema(regnamespace) FROM PUBLIC;

CREATE FUNCTION bemi.untrack_schema(target regnamespace)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	relation regclass;
BEGIN
	PERFORM _bemi.enter_schema(target, false);
	FOR relation IN SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = target AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND _bemi.has_trigger(c.oid)
		ORDER BY c.relname
	LOOP
		PERFORM bemi.untrack(relation);
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.untrack_schema(regnamespace)
	IS 'untracks all tables of the schema, and no longer tracks new tables in it';
REVOKE ALL ON FUNCTION bemi.untrack_schema(regnamespace) FROM PUBLIC;

-- ALTER TABLE ... ADD COLUMN ... DEFAULT does not rewrite rows, so they have no value for the
-- column. PostgreSQL 14 decodes the old row of a partition with the columns of the root, which
-- lack that default.
CREATE FUNCTION _bemi.warn_of_missing_values(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	lost record;
BEGIN
	IF current_setting('server_version_num')::integer >= 150000 THEN
		RETURN;
	END IF;
	FOR lost IN SELECT p.relation, a.attname
		FROM _bemi.partitions(target) p(relation)
			JOIN pg_attribute a ON a.attrelid = p.relation
		WHERE a.atthasmissing AND NOT a.attisdropped
			AND _bemi.is_published(nullif(_bemi.partition_root(p.relation), p.relation))
	LOOP
		RAISE WARNING 'before is null for column "%" in changes of rows that partition "%" has now',
			lost.attname, lost.relation
			USING DETAIL = 'PostgreSQL 14 does not send the default of a column '
				'that was added later.',
				HINT = format('VACUUM FULL %s;', lost.relation);
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.warn_of_missing_values(regclass)
	IS 'internal: warns if PostgreSQL 14 sends null for a column that was added with a default';
REVOKE ALL ON FUNCTION _bemi.warn_of_missing_values(regclass) FROM PUBLIC;
