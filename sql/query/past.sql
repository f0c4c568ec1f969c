
--
-- A schema of the past
--

-- SETOF, so that a view over it has the columns of the relation.
CREATE FUNCTION _bemi.no_past(target anyelement, name text, reason text)
	RETURNS SETOF anyelement
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the past of % is not known', name
		USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = reason;
END
$$;
COMMENT ON FUNCTION _bemi.no_past(anyelement, text, text)
	IS 'internal: error of a view of bemi.past() for a relation whose past cannot be read';
REVOKE ALL ON FUNCTION _bemi.no_past(anyelement, text, text) FROM PUBLIC;

-- What a schema consists of for bemi.past(). Tables come first, and a view after those it reads.
CREATE FUNCTION _bemi.relations_of(source regnamespace, OUT relation regclass, OUT name name,
		OUT is_view boolean, OUT problem text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE relation AS (
		SELECT c.* FROM pg_class c
			WHERE c.relnamespace = source AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
				AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
					AND d.objid = c.oid AND d.deptype = 'e')
	), reads(reader, read) AS (
		SELECT DISTINCT w.ev_class, d.refobjid FROM relation r
			JOIN pg_rewrite w ON w.ev_class = r.oid
			JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
				AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class
		WHERE r.relkind IN ('v', 'm')
	), depth(oid, n) AS (
		SELECT r.oid, 0 FROM relation r
		UNION SELECT p.reader, d.n + 1 FROM depth d JOIN reads p ON p.read = d.oid
	)
	SELECT r.oid, r.relname, r.relkind IN ('v', 'm'),
			CASE WHEN r.relkind IN ('v', 'm') THEN NULL
				WHEN r.relkind = 'f' THEN 'It is a foreign table.'
				WHEN r.relispartition
					THEN 'It is a partition. Its rows are in the past of its root.'
				WHEN r.relkind = 'r'
					AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = r.oid)
					THEN 'Other tables inherit from it.'
				WHEN NOT _bemi.is_published(r.oid)
					THEN format('It is not tracked: SELECT bemi.track(%L);', r.oid::regclass)
			END
		FROM relation r JOIN depth d ON d.oid = r.oid
		GROUP BY r.oid, r.relname, r.relkind, r.relispartition
		ORDER BY max(d.n), r.relkind IN ('v', 'm'), r.relname
$$;
COMMENT ON FUNCTION _bemi.relations_of(regnamespace)
	IS 'internal: tables and views of a schema, in the order in which bemi.past() creates them';
REVOKE ALL ON FUNCTION _bemi.relations_of(regnamespace) FROM PUBLIC;

-- Rows of today must not appear among those of the past.
CREATE FUNCTION _bemi.check_view_of_past(view regclass, source regnamespace)
	RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	foreigner regclass := (SELECT r.oid FROM pg_rewrite w
			JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
				AND d.refclassid = 'pg_class'::regclass
			JOIN pg_class r ON r.oid = d.refobjid
			JOIN pg_namespace n ON n.oid = r.relnamespace
			JOIN pg_class v ON v.oid = w.ev_class
		WHERE w.ev_class = view AND r.relnamespace <> v.relnamespace
			AND n.nspname NOT IN ('pg_catalog', 'information_schema')
		ORDER BY r.relname LIMIT 1);
BEGIN
	IF foreigner IS NOT NULL THEN
		RAISE EXCEPTION 'it reads %, which is not in schema %', foreigner, source
			USING ERRCODE = 'feature_not_supported';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_view_of_past(regclass, regnamespace)
	IS 'internal: error if a view that bemi.past() has created reads a relation of the present';
REVOKE ALL ON FUNCTION _bemi.check_view_of_past(regclass, regnamespace) FROM PUBLIC;

-- Nothing of the present is reachable by the names of the schema: what has no readable past gets
-- a view that fails. The views need no security_invoker (which 14 lacks), because they read no
-- table: the function reads, and functions in a view run with the rights of the reader.
CREATE FUNCTION bemi.past(schema_name name, source regnamespace, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false)
	RETURNS TABLE (relation_name name, problem text)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
	SET standard_conforming_strings = on
	SET quote_all_identifiers = off
AS $$
DECLARE
	rel record;
	place text;
	path text;
	command text;
BEGIN
	IF schema_name IS NULL OR source IS NULL THEN
		RAISE EXCEPTION 'schema and source must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF num_nonnulls(at, before, at_lsn) <> 1 THEN
		RAISE EXCEPTION 'one of a time, a change and a position must be given'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('SELECT * FROM bemi.past(%L, %L, now() - interval ''1 day'');',
					schema_name, source);
	ELSIF at > clock_timestamp() THEN
		RAISE EXCEPTION 'time % is in the future', at
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'SELECT now(), current_setting(''timezone''); shows the latest time, and '
					'the zone of times without one.';
	ELSIF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = source) THEN
		RAISE EXCEPTION 'there is no such schema' USING ERRCODE = 'invalid_schema_name';
	ELSIF EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = schema_name) THEN
		RAISE EXCEPTION 'schema "%" already exists', schema_name
			USING ERRCODE = 'duplicate_schema',
				DETAIL = 'bemi.past() creates the schema, and changes none that exists.',
				HINT = CASE WHEN EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = schema_name
						AND obj_description(n.oid, 'pg_namespace') LIKE 'bemi.past(): %')
					THEN format('If you need it no more: DROP SCHEMA %I CASCADE;', schema_name)
					ELSE 'Write a name that no schema has.' END;
	END IF;
	place := CASE WHEN at IS NOT NULL THEN format('at => %L::timestamptz', at)
			WHEN before IS NOT NULL THEN format('before => %L::uuid', before)
			ELSE format('at_lsn => %L::pg_lsn', at_lsn) END
		|| CASE WHEN allow_gaps THEN ', allow_gaps => true' ELSE '' END;
	EXECUTE format('CREATE SCHEMA %I', schema_name);
	EXECUTE format('COMMENT ON SCHEMA %I IS %L', schema_name, format('bemi.past(): schema %s, %s',
		source, place));

	FOR rel IN SELECT * FROM _bemi.relations_of(source) LOOP
		relation_name := rel.name;
		problem := rel.problem;
		IF rel.is_view THEN
			-- It reads the relations of the same names that are next to it. While the path has the
			-- source, nothing but the view's own text is parsed with it.
			BEGIN
				path := format('%s, pg_temp', source);
				PERFORM set_config('search_path', path, true);
				command := pg_catalog.pg_get_viewdef(rel.relation);
				PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
				command := format('CREATE VIEW %I.%I AS %s', schema_name, rel.name, command);
				path := format('%I, %s, pg_temp', schema_name, source);
				PERFORM set_config('search_path', path, true);
				EXECUTE command;
				PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
				PERFORM _bemi.check_view_of_past(format('%I.%I', schema_name, rel.name), source);
			EXCEPTION WHEN OTHERS THEN
				problem := format('It cannot read the past: %s.', sqlerrm);
			END;
		ELSIF problem IS NULL THEN
			EXECUTE format('CREATE VIEW %I.%I AS SELECT t.* FROM bemi.as_of(NULL::%s, %s) t',
				schema_name, rel.name, rel.relation, place);
		END IF;
		IF problem IS NOT NULL THEN
			EXECUTE format('CREATE VIEW %I.%I AS SELECT t.* FROM _bemi.no_past(NULL::%s, %L, %L) t',
				schema_name, rel.name, rel.relation, rel.relation, problem);
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.past(name, regnamespace, timestamptz, uuid, pg_lsn, boolean)
	IS 'creates a schema with a view for each table and view of a schema, as they were at a time, '
		'at a position in the WAL, or before a change; returns which of them cannot be read';
REVOKE ALL ON FUNCTION bemi.past(name, regnamespace, timestamptz, uuid, pg_lsn, boolean)
	FROM PUBLIC;
