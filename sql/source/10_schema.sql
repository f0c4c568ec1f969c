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

-- The session's path could find types and operators of others first.
SET LOCAL search_path = pg_catalog, pg_temp;
SET LOCAL client_min_messages = warning;

DO $$
DECLARE
	present text := substring(obj_description(to_regnamespace('_bemi'), 'pg_namespace')
		FROM 'bemi-source[.]sql ([0-9]+(?:[.][0-9]+)*)$');
BEGIN
	IF EXISTS (SELECT FROM pg_extension e WHERE e.extname = 'bemi') THEN
		RAISE EXCEPTION 'extension bemi is in this database'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'It has all that bemi-source.sql has.';
	END IF;
	IF string_to_array(present, '.')::integer[] > string_to_array('@VERSION@', '.')::integer[] THEN
		RAISE EXCEPTION 'version % of bemi-source.sql is in this database', present
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'This file is version @VERSION@.',
				HINT = 'Run the newer file.';
	END IF;
END
$$;

-- Whoever else can put a function bemi.track(text) into the schema, or replace a function there,
-- runs code with the rights of those who call bemi.track(). Whoever else owns the publication can
-- take tables out of the history.
DO $$
DECLARE
	other record;
BEGIN
	SELECT n.nspname, r.rolname INTO other
		FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
		WHERE n.nspname IN ('bemi', '_bemi') AND r.rolname <> current_user
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'schema "%" belongs to role "%"', other.nspname, other.rolname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Its owner could replace the functions in it.',
				HINT = format('SET ROLE %I;', other.rolname);
	END IF;

	SELECT n.nspname, a.grantee::regrole::text AS grantee, coalesce(r.rolname, 'PUBLIC') AS rolname
		INTO other
		FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a LEFT JOIN pg_roles r
			ON r.oid = a.grantee
		WHERE n.nspname IN ('bemi', '_bemi') AND a.privilege_type = 'CREATE'
			AND a.grantee <> n.nspowner
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'role "%" can create objects in schema "%"', other.rolname, other.nspname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Such objects could run with the rights of those who call '
					'functions of bemi.',
				HINT = format('REVOKE CREATE ON SCHEMA %I FROM %s CASCADE;', other.nspname,
					CASE other.grantee WHEN '-' THEN 'PUBLIC' ELSE other.grantee END);
	END IF;

	SELECT n.nspname, r.rolname, i.type, i.identity INTO other
		FROM pg_namespace n
			JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
			JOIN pg_shdepend s ON s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'o'
				AND s.dbid = (SELECT c.oid FROM pg_database c WHERE c.datname = current_database())
			JOIN pg_roles r ON r.oid = s.refobjid
			CROSS JOIN pg_identify_object(d.classid, d.objid, 0) i
		WHERE n.nspname IN ('bemi', '_bemi') AND r.rolname <> current_user AND NOT r.rolsuper
		LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION '% % in schema "%" belongs to role "%"', other.type, other.identity,
				other.nspname, other.rolname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'It could run with the rights of those who call functions of bemi.',
				HINT = format('DROP %s %s;', upper(other.type), other.identity);
	END IF;

	SELECT r.rolname INTO other
		FROM pg_publication p JOIN pg_roles r ON r.oid = p.pubowner
		WHERE p.pubname = 'bemi' AND NOT r.rolsuper
			AND NOT pg_has_role(r.oid, current_user::regrole, 'USAGE');
	IF FOUND THEN
		RAISE EXCEPTION 'publication "bemi" must not belong to role "%"', other.rolname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'Its owner can take tables out of the history.',
				HINT = format('ALTER PUBLICATION bemi OWNER TO %I;', current_user);
	END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS bemi;
CREATE SCHEMA IF NOT EXISTS _bemi;

-- Default privileges can have given it to others.
DO $$
DECLARE
	granted record;
BEGIN
	FOR granted IN SELECT n.nspname, a.grantee
		FROM pg_namespace n CROSS JOIN aclexplode(n.nspacl) a
		WHERE n.nspname IN ('bemi', '_bemi') AND a.privilege_type = 'CREATE'
			AND a.grantee <> n.nspowner
	LOOP
		EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM %s CASCADE', granted.nspname,
			CASE granted.grantee WHEN 0 THEN 'PUBLIC' ELSE granted.grantee::regrole::text END);
	END LOOP;
END
$$;

-- What bemi.set_default() has set is kept.
DO $$
BEGIN
	PERFORM set_config('_bemi.former_source', coalesce((SELECT p.prosrc
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = 'bemi' AND p.proname = 'current_context' LIMIT 1), ''), true);
END
$$;

COMMENT ON SCHEMA bemi IS 'writes the context of each change into the write-ahead log';
COMMENT ON SCHEMA _bemi IS 'internals of schema bemi, of bemi-source.sql @VERSION@';
GRANT USAGE ON SCHEMA bemi, _bemi TO PUBLIC;

