-- What the dashboard has in the database: the access log, and the links for customers. It may run again and again, and brings the objects
-- of an older dashboard up to date. It takes a superuser, or a member of the role that owns extension bemi.
--
-- All of it belongs to the owner of the extension, who could change the history, too. Readers have some functions, which add
-- entries and links with their own role and the time of the server. They cannot read, change or delete those of others.
--
-- The version is a part of the comment on the schema (objects.js), because a comment can be read without running anything that
-- somebody else may have made. A function may get new arguments only at its end, with a default: an older dashboard still calls it.

DO $$
DECLARE
    owner oid := (SELECT extowner FROM pg_extension WHERE extname = 'bemi');
    schema oid := to_regnamespace('bemi_dashboard');
BEGIN
    IF schema IS NULL THEN
        -- Not IF NOT EXISTS: a schema that somebody else makes at this moment must be an error.
        CREATE SCHEMA bemi_dashboard;
        EXECUTE format('ALTER SCHEMA bemi_dashboard OWNER TO %s', owner::regrole);
    ELSIF EXISTS (SELECT FROM pg_namespace WHERE oid = schema AND nspowner <> owner)
        OR EXISTS (SELECT FROM pg_class WHERE relnamespace = schema AND relowner <> owner)
        OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = schema AND proowner <> owner) THEN
        -- What is made here runs with the rights of the owner. The triggers of somebody else would, too.
        RAISE EXCEPTION 'schema "bemi_dashboard" has objects of a role that does not own bemi'
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'DROP SCHEMA bemi_dashboard CASCADE;';
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS bemi_dashboard.access_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    logged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    role name NOT NULL,
    person text,
    action text NOT NULL CHECK (action IN ('view', 'export', 'exported', 'export_ended')),
    address text NOT NULL,
    changes bigint
);
COMMENT ON TABLE bemi_dashboard.access_log IS 'who has looked at the history with bemi-dashboard, and what was exported';
COMMENT ON COLUMN bemi_dashboard.access_log.logged_at IS 'time of the server';
COMMENT ON COLUMN bemi_dashboard.access_log.role IS 'role that read the history';
COMMENT ON COLUMN bemi_dashboard.access_log.person IS 'person that the dashboard has logged in, if several share the role';
COMMENT ON COLUMN bemi_dashboard.access_log.action IS 'view: a page was opened; export: an export began; exported: all was sent; export_ended: it ended early';
COMMENT ON COLUMN bemi_dashboard.access_log.address IS 'address of the page, with the search';
COMMENT ON COLUMN bemi_dashboard.access_log.changes IS 'how many changes were exported';

CREATE TABLE IF NOT EXISTS bemi_dashboard.links (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    context jsonb NOT NULL CHECK (jsonb_typeof(context) = 'object' AND context <> '{}'),
    until timestamptz NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    made_by name NOT NULL,
    person text,
    ended_at timestamptz,
    ended_by name
);
COMMENT ON TABLE bemi_dashboard.links IS 'links for customers; one that has no row here, or has ended, opens nothing';
COMMENT ON COLUMN bemi_dashboard.links.name IS 'for whom the link is';
COMMENT ON COLUMN bemi_dashboard.links.context IS 'context of the changes that it shows';
COMMENT ON COLUMN bemi_dashboard.links.until IS 'when it ends by itself';
COMMENT ON COLUMN bemi_dashboard.links.made_at IS 'time of the server';
COMMENT ON COLUMN bemi_dashboard.links.made_by IS 'role that made it; its members can end it';
COMMENT ON COLUMN bemi_dashboard.links.person IS 'person that the dashboard has logged in, if several share the role';
COMMENT ON COLUMN bemi_dashboard.links.ended_at IS 'when somebody has ended it';
COMMENT ON COLUMN bemi_dashboard.links.ended_by IS 'role that has ended it';

-- current_user is the owner in the functions below. A dashboard that changes roles connects as another one.
CREATE OR REPLACE FUNCTION bemi_dashboard.reader()
    RETURNS name
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END
$$;
COMMENT ON FUNCTION bemi_dashboard.reader() IS 'the role that reads, also inside of a function with the rights of another one';

-- Others must not fill the disk.
CREATE OR REPLACE FUNCTION bemi_dashboard.check_reader()
    RETURNS name
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reader name := bemi_dashboard.reader();
BEGIN
    IF NOT has_table_privilege(reader, 'bemi.changes', 'SELECT') THEN
        RAISE EXCEPTION 'permission denied for the access log'
            USING ERRCODE = 'insufficient_privilege', DETAIL = format('Role "%s" may not read the history.', reader),
                HINT = format('SELECT bemi.grant_read(%L);', reader);
    END IF;
    RETURN reader;
END
$$;
COMMENT ON FUNCTION bemi_dashboard.check_reader() IS 'the role that reads; an error if it may not read the history';

CREATE OR REPLACE FUNCTION bemi_dashboard.log_access(action text, address text, changes bigint DEFAULT NULL, person text DEFAULT NULL)
    RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO bemi_dashboard.access_log (role, person, action, address, changes)
        VALUES (bemi_dashboard.check_reader(), left(person, 200), action, left(address, 16384), changes)
$$;
COMMENT ON FUNCTION bemi_dashboard.log_access(text, text, bigint, text) IS 'adds an entry of the current role to the access log';

CREATE OR REPLACE FUNCTION bemi_dashboard.add_link(id uuid, name text, context jsonb, until timestamptz, person text DEFAULT NULL)
    RETURNS void
    LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO bemi_dashboard.links (id, name, context, until, made_by, person)
        VALUES (id, left(name, 200), context, until, bemi_dashboard.check_reader(), left(person, 200))
$$;
COMMENT ON FUNCTION bemi_dashboard.add_link(uuid, text, jsonb, timestamptz, text) IS 'adds a link for a customer, of the current role';

-- With the context, because the signature of a link is worth nothing if its key has leaked.
CREATE OR REPLACE FUNCTION bemi_dashboard.link_is_open(id uuid, context jsonb)
    RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM bemi_dashboard.links l
        WHERE l.id = $1 AND l.context = $2 AND l.ended_at IS NULL AND l.until > clock_timestamp())
$$;
COMMENT ON FUNCTION bemi_dashboard.link_is_open(uuid, jsonb) IS 'whether a link for a customer shows the changes with this context now';

-- Those of roles that the reader is a member of. The owner of bemi has all, also those of roles that were dropped.
CREATE OR REPLACE FUNCTION bemi_dashboard.own_links()
    RETURNS SETOF bemi_dashboard.links
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT l.* FROM bemi_dashboard.links l
        WHERE pg_has_role(bemi_dashboard.reader(), current_user, 'USAGE')
            OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = l.made_by AND pg_has_role(bemi_dashboard.reader(), r.oid, 'USAGE'))
$$;
COMMENT ON FUNCTION bemi_dashboard.own_links() IS 'links for customers that belong to the current role';

CREATE OR REPLACE FUNCTION bemi_dashboard.end_link(id uuid)
    RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE bemi_dashboard.links l SET ended_at = clock_timestamp(), ended_by = bemi_dashboard.reader()
        WHERE l.ended_at IS NULL AND l.id = (SELECT o.id FROM bemi_dashboard.own_links() o WHERE o.id = end_link.id);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'you have no link "%" that is open', id
            USING ERRCODE = 'undefined_object', HINT = 'SELECT id, name, ended_at FROM bemi_dashboard.own_links(); lists your links.';
    END IF;
END
$$;
COMMENT ON FUNCTION bemi_dashboard.end_link(uuid) IS 'ends a link for a customer that belongs to the current role';

-- The owner of a source is in bemi.sources, whose rows only superusers see. EXECUTE and REPLICATION are needed, too.
CREATE OR REPLACE FUNCTION bemi_dashboard.owns_source(source text)
    RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM bemi.sources s JOIN pg_roles r ON r.rolname = s.owner
        WHERE s.name = source AND pg_has_role(bemi_dashboard.reader(), r.oid, 'USAGE'))
$$;
COMMENT ON FUNCTION bemi_dashboard.owns_source(text) IS 'whether the current role is the owner of a source, or a member of it';

REVOKE ALL ON bemi_dashboard.access_log, bemi_dashboard.links FROM PUBLIC;
GRANT USAGE ON SCHEMA bemi_dashboard TO PUBLIC;
-- ALTER DEFAULT PRIVILEGES may have taken it.
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA bemi_dashboard TO PUBLIC;

-- Those that were made just now belong to the role that has made them.
DO $$
DECLARE
    owner regrole := (SELECT extowner FROM pg_extension WHERE extname = 'bemi');
    made record;
BEGIN
    FOR made IN
        SELECT 'TABLE ' || oid::regclass AS object FROM pg_class
            WHERE relnamespace = 'bemi_dashboard'::regnamespace AND relkind = 'r' AND relowner <> owner
        UNION ALL
        SELECT 'FUNCTION ' || oid::regprocedure FROM pg_proc
            WHERE pronamespace = 'bemi_dashboard'::regnamespace AND proowner <> owner
    LOOP
        EXECUTE format('ALTER %s OWNER TO %s', made.object, owner);
    END LOOP;
END
$$;

-- Increase it with each change of this file.
COMMENT ON SCHEMA bemi_dashboard IS 'objects of bemi-dashboard, version 2';
