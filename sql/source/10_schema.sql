/* bemi-source.sql: make puts it together from the files in sql/source/, so change those */

-- Tracks tables and writes the context of each change into the write-ahead log, on a server where
-- extension bemi cannot be installed. A server with the extension reads it and keeps the history:
-- docs/how-to/use-managed-hosts.md.
--
-- Run it in the database to track, as its owner. It needs no superuser. Running it again upgrades
-- it. CREATE EXTENSION bemi takes its place.
--
-- Functions have the names, the arguments and the messages of the extension. None is SECURITY
-- DEFINER. The functions of triggers refer to nothing but pg_catalog, so a role that writes rows
-- needs no right on these schemas.

BEGIN;

-- The session's path could find types of others first.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA IF NOT EXISTS bemi;
CREATE SCHEMA IF NOT EXISTS _bemi;

DO $$
DECLARE
	owner name;
	former name;
BEGIN
	IF EXISTS (SELECT FROM pg_catalog.pg_extension e
		WHERE e.extname OPERATOR(pg_catalog.=) 'bemi')
	THEN
		RAISE EXCEPTION 'extension bemi is in this database'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'It has all that bemi-source.sql has.';
	END IF;
	-- Their owner could replace what is in them.
	SELECT n.nspname, r.rolname INTO former, owner
		FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r
			ON r.oid OPERATOR(pg_catalog.=) n.nspowner
		WHERE n.nspname OPERATOR(pg_catalog.=) ANY ('{bemi,_bemi}'::pg_catalog.name[])
			AND r.rolname OPERATOR(pg_catalog.<>) current_user
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "%" belongs to role "%"', former, owner
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Its owner could replace the functions in it.',
				HINT = pg_catalog.format('SET ROLE %I;', owner);
	END IF;
END
$$;

-- What bemi.set_default() has set is kept.
DO $$
BEGIN
	PERFORM pg_catalog.set_config('_bemi.former_source', coalesce((SELECT p.prosrc
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n
			ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
		WHERE n.nspname OPERATOR(pg_catalog.=) 'bemi'
			AND p.proname OPERATOR(pg_catalog.=) 'current_context' LIMIT 1), ''), true);
END
$$;

COMMENT ON SCHEMA bemi IS 'writes the context of each change into the write-ahead log';
COMMENT ON SCHEMA _bemi IS 'internals of schema bemi';
GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC;
