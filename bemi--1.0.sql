/* bemi--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION bemi" to load this file. \quit

-- The schema is a member of the extension, and the script must make it itself:
-- were it allowed to exist before, its owner could have planted objects in it.
CREATE SCHEMA bemi;
COMMENT ON SCHEMA bemi IS 'history of every row, with the reason for each change';

-- Everybody may set a context, so everybody may look into the schema. What
-- reads history, tracks tables or starts workers is granted one by one.
GRANT USAGE ON SCHEMA bemi TO PUBLIC;

--
-- Context: what the application says about its own statements
--

CREATE FUNCTION bemi.set_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_set_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.set_context(jsonb, boolean)
	IS 'sets the context of the statements that follow, in this transaction or, if not local, in this session';

CREATE FUNCTION bemi.merge_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_merge_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.merge_context(jsonb, boolean)
	IS 'adds keys to the setting bemi.context, or replaces them, in this transaction or, if not local, in this session';

CREATE FUNCTION bemi.current_context()
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_current_context'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION bemi.current_context()
	IS 'context that a row written by this statement would get, {} if there is none';

CREATE FUNCTION bemi.emit_context()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'bemi_emit_context'
	LANGUAGE C;
COMMENT ON FUNCTION bemi.emit_context()
	IS 'trigger function (BEFORE ... FOR EACH STATEMENT): writes the context to the write-ahead log, before the rows of the statement';

--
-- Tracking: which tables have their changes kept
--
-- A tracked table has bemi's statement trigger, REPLICA IDENTITY FULL and a
-- place in the publication "bemi". The trigger's arguments remember the replica
-- identity that the table had before (pg_class.relreplident, name of the index),
-- and how it came to be tracked: as a table of its own, as a partition with its
-- root, or as a table that was attached to a tracked root since. So this travels
-- with the table: into a dump, through a rename, and away with DROP TABLE.
--

-- The publication cannot be a member of the extension, so it is made when first
-- needed; pg_dump carries it along like any other.
CREATE FUNCTION bemi.ensure_publication()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'bemi') THEN
		CREATE PUBLICATION bemi
			WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.ensure_publication() IS 'internal: makes the publication "bemi" unless it exists';

-- The table's partitions, the table itself among them, parents first.
CREATE FUNCTION bemi.partitions(target regclass)
	RETURNS TABLE (relation regclass, schema name, name name, identity "char", identity_index name)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.oid::regclass, n.nspname, c.relname, c.relreplident,
		(SELECT ic.relname FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
			WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i')
	FROM (SELECT target AS relid, 0 AS level
			UNION SELECT p.relid, p.level FROM pg_partition_tree(target) p) AS tree
		JOIN pg_class c ON c.oid = tree.relid
		JOIN pg_namespace n ON n.oid = c.relnamespace
	ORDER BY tree.level, n.nspname, c.relname
$$;
COMMENT ON FUNCTION bemi.partitions(regclass) IS 'internal: the table and all its partitions, with their replica identities';

CREATE FUNCTION bemi.has_trigger(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = target
		AND tgname = 'bemi_emit_context' AND tgfoid = 'bemi.emit_context()'::regprocedure)
$$;
COMMENT ON FUNCTION bemi.has_trigger(regclass) IS 'internal: does the table carry the trigger that bemi.track() makes?';

-- tgargs holds the arguments, each ended by a zero byte.
CREATE FUNCTION bemi.trigger_arguments(target regclass)
	RETURNS text[]
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rest bytea;
	arguments text[] := '{}';
BEGIN
	SELECT tgargs INTO rest FROM pg_trigger WHERE tgrelid = target AND tgnargs = 3
		AND tgname = 'bemi_emit_context' AND tgfoid = 'bemi.emit_context()'::regprocedure;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	WHILE octet_length(rest) > 0 LOOP
		arguments := arguments || convert_from(substring(rest FOR position('\x00'::bytea IN rest) - 1), getdatabaseencoding());
		rest := substring(rest FROM position('\x00'::bytea IN rest) + 1);
	END LOOP;
	RETURN arguments;
END
$$;
COMMENT ON FUNCTION bemi.trigger_arguments(regclass)
	IS 'internal: former identity, its index, and how the table came to be tracked: table, partition, attached; NULL if bemi.track() did not make the trigger';

CREATE FUNCTION bemi.is_published(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
		WHERE p.pubname = 'bemi' AND pr.prrelid = target)
$$;
COMMENT ON FUNCTION bemi.is_published(regclass) IS 'internal: is the table itself in the publication "bemi"?';

CREATE FUNCTION bemi.set_published(target regclass, wanted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	published boolean;
BEGIN
	SELECT n.nspname, c.relname INTO STRICT rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	published := bemi.is_published(target);
	IF wanted AND NOT published THEN
		PERFORM bemi.ensure_publication();
		EXECUTE format('ALTER PUBLICATION bemi ADD TABLE ONLY %I.%I', rel.nspname, rel.relname);
	ELSIF NOT wanted AND published THEN
		EXECUTE format('ALTER PUBLICATION bemi DROP TABLE ONLY %I.%I', rel.nspname, rel.relname);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.set_published(regclass, boolean)
	IS 'internal: puts a table into the publication "bemi", or takes it out';

CREATE FUNCTION bemi.set_attached(target regclass, attached boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	args text[] := bemi.trigger_arguments(target);
	rel record;
BEGIN
	IF args IS NULL THEN
		RETURN;
	END IF;
	SELECT n.nspname, c.relname INTO STRICT rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	EXECUTE format('CREATE OR REPLACE TRIGGER bemi_emit_context'
		' BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I.%I FOR EACH STATEMENT'
		' EXECUTE FUNCTION bemi.emit_context(%L, %L, %L)',
		rel.nspname, rel.relname, args[1], args[2], CASE WHEN attached THEN 'attached' ELSE 'table' END);
END
$$;
COMMENT ON FUNCTION bemi.set_attached(regclass, boolean)
	IS 'internal: notes in its trigger whether a table that was tracked alone is now published with a root';

-- Who may track what: its owner, if he has been granted bemi.track().
CREATE FUNCTION bemi.check_tracker(owner oid, object text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT pg_has_role(current_user, owner, 'USAGE')
		OR NOT has_function_privilege(current_user, 'bemi.track(regclass)', 'EXECUTE') THEN
		RAISE EXCEPTION 'permission denied to track %', object
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'It takes the owner, and the right to call bemi.track().';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.check_tracker(oid, text) IS 'internal: error unless the current user may track what belongs to this owner';

CREATE FUNCTION bemi.check_table_tracker(target regclass, wanted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM bemi.check_tracker(c.relowner, format('table "%s"', c.relname)) FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to track does not exist' USING ERRCODE = 'undefined_table';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.check_table_tracker(regclass, boolean) IS 'internal: error unless the current user may track the table';

-- In C, because it checks the current user first and then acts as the owner of
-- the extension, who owns the publication.
CREATE FUNCTION bemi.publish(target regclass, wanted boolean)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_publish'
	LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT;
COMMENT ON FUNCTION bemi.publish(regclass, boolean)
	IS 'internal: set_published() for the owner of the table, who must have been granted bemi.track()';

-- Why a relation cannot be tracked, NULL if it can.
CREATE FUNCTION bemi.untrackable(target regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN c.relkind = 'f' THEN 'The rows of a foreign table are written on another server; track them there.'
		WHEN c.relkind IN ('v', 'm') THEN 'A view has no rows of its own; track the tables below it.'
		WHEN c.relkind NOT IN ('r', 'p') THEN 'It is not a table.'
		WHEN n.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') THEN 'It is a system table.'
		WHEN n.nspname = 'bemi' THEN 'It is one of bemi''s own; the history would grow by being kept.'
		WHEN c.relpersistence = 't' THEN 'A temporary table is not written to the write-ahead log.'
		WHEN c.relpersistence = 'u' THEN 'An unlogged table is not written to the write-ahead log.'
	END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
$$;
COMMENT ON FUNCTION bemi.untrackable(regclass) IS 'internal: why the relation cannot be tracked, NULL if it can';

CREATE FUNCTION bemi.check_trackable(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	reason text := bemi.untrackable(target);
	root regclass;
BEGIN
	SELECT c.relname, c.relkind, c.relpersistence, c.relispartition, n.nspname INTO rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to track does not exist'
			USING ERRCODE = 'undefined_table';
	END IF;
	IF reason IS NOT NULL AND rel.relpersistence = 'u' AND rel.relkind = 'r' THEN
		RAISE EXCEPTION 'cannot track "%"', rel.relname
			USING ERRCODE = 'wrong_object_type', DETAIL = reason,
				HINT = format('ALTER TABLE %I.%I SET LOGGED;', rel.nspname, rel.relname);
	ELSIF reason IS NOT NULL THEN
		RAISE EXCEPTION 'cannot track "%"', rel.relname
			USING ERRCODE = 'wrong_object_type', DETAIL = reason;
	END IF;

	-- Triggers of a partition do not fire when its root is written to.
	root := CASE WHEN rel.relispartition THEN pg_partition_root(target) END;
	IF root IS NOT NULL AND NOT bemi.has_trigger(root) THEN
		RAISE EXCEPTION 'cannot track partition "%" alone', rel.relname
			USING ERRCODE = 'wrong_object_type',
				DETAIL = 'Rows that are written by way of its root would come without context.',
				HINT = format('SELECT bemi.track(%L);', root);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.check_trackable(regclass) IS 'internal: error with the reason if the relation cannot be tracked';

-- Gives a published table its trigger and its identity. The trigger first, so that
-- the event trigger that ALTER TABLE fires finds nothing left to do; both under the
-- stronger lock, as an upgrade could deadlock with the application.
CREATE FUNCTION bemi.prepare_table(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
BEGIN
	SELECT n.nspname AS schema, c.relname AS name, c.relispartition, c.relreplident AS identity,
			(SELECT ic.relname FROM pg_index i JOIN pg_class ic ON ic.oid = i.indexrelid
				WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i') AS identity_index
		INTO STRICT rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	IF bemi.has_trigger(target) AND rel.identity = 'f' THEN
		RETURN;
	END IF;

	EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE', rel.schema, rel.name);
	IF NOT bemi.has_trigger(target) THEN
		EXECUTE format('CREATE TRIGGER bemi_emit_context'
			' BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I.%I FOR EACH STATEMENT'
			' EXECUTE FUNCTION bemi.emit_context(%L, %L, %L)',
			rel.schema, rel.name, rel.identity, coalesce(rel.identity_index, ''),
			CASE WHEN rel.relispartition THEN 'partition' ELSE 'table' END);
	END IF;
	IF rel.identity <> 'f' THEN
		EXECUTE format('ALTER TABLE ONLY %I.%I REPLICA IDENTITY FULL', rel.schema, rel.name);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.prepare_table(regclass) IS 'internal: gives a table bemi''s trigger and REPLICA IDENTITY FULL';

-- For track(): errors are errors, and an identity that somebody has changed since
-- is made FULL again.
CREATE FUNCTION bemi.prepare_partitions(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	partition regclass;
BEGIN
	FOR partition IN SELECT p.relation FROM bemi.partitions(target) p LOOP
		IF bemi.untrackable(partition) IS NOT NULL THEN
			RAISE NOTICE 'partition "%" is not tracked', partition
				USING DETAIL = bemi.untrackable(partition);
			CONTINUE;
		END IF;
		PERFORM bemi.prepare_table(partition);
		-- One that was tracked alone is now published with its root.
		IF partition <> target AND bemi.is_published(partition) THEN
			PERFORM bemi.set_attached(partition, true);
			PERFORM bemi.publish(partition, false);
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.prepare_partitions(regclass)
	IS 'internal: prepare_table() for the table and all partitions that can be tracked';

-- For the event trigger: only what has no trigger yet is prepared, since other
-- choices of identity are the user's. The application's own command must not
-- fail for it, nor later updates for want of an identity.
CREATE FUNCTION bemi.follow_partitions(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
BEGIN
	FOR rel IN SELECT p.*, bemi.is_published(pg_partition_root(p.relation)) AS needs_identity
		FROM bemi.partitions(target) p
		WHERE bemi.untrackable(p.relation) IS NULL AND NOT bemi.has_trigger(p.relation)
			-- nothing more can be done for this one, see below
			AND NOT (p.identity = 'f' AND EXISTS (SELECT FROM pg_trigger t
				WHERE t.tgrelid = p.relation AND t.tgname = 'bemi_emit_context'))
	LOOP
		BEGIN
			PERFORM bemi.prepare_table(rel.relation);
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'could not track table "%"', rel.relation
				USING DETAIL = SQLERRM, HINT = format('SELECT bemi.track(%L);', rel.relation);
			IF rel.needs_identity AND rel.identity <> 'f' THEN
				EXECUTE format('ALTER TABLE ONLY %I.%I REPLICA IDENTITY FULL', rel.schema, rel.name);
			END IF;
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.follow_partitions(regclass)
	IS 'internal: prepare_table() for the table and its partitions that have no trigger yet, with a warning where it fails';

CREATE FUNCTION bemi.track(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM bemi.check_trackable(target);
	-- First, because it checks the rights. A partition is published with its root.
	IF NOT (SELECT c.relispartition FROM pg_class c WHERE c.oid = target) THEN
		PERFORM bemi.publish(target, true);
	END IF;
	PERFORM bemi.prepare_partitions(target);
END
$$;
COMMENT ON FUNCTION bemi.track(regclass)
	IS 'keeps every change of the table from now on, partitions included; tracking twice is harmless';

-- Takes the trigger from a table and puts its former identity back.
CREATE FUNCTION bemi.restore_table(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	args text[];
	former_identity text;
	former_index name;
BEGIN
	SELECT n.nspname AS schema, c.relname AS name, c.relreplident AS identity INTO STRICT rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	IF NOT bemi.has_trigger(target) THEN
		RETURN;
	END IF;
	args := bemi.trigger_arguments(target);
	EXECUTE format('LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE', rel.schema, rel.name);
	EXECUTE format('DROP TRIGGER bemi_emit_context ON %I.%I', rel.schema, rel.name);

	-- An identity that somebody has changed since is not ours to put back.
	-- Nor does a trigger made by hand know of a former one.
	former_identity := args[1];
	former_index := args[2];
	IF former_identity IS NULL OR former_identity = 'f' OR rel.identity <> 'f' THEN
		RETURN;
	END IF;
	IF former_identity = 'i' AND NOT EXISTS (SELECT FROM pg_index i
		JOIN pg_class c ON c.oid = i.indexrelid
		WHERE i.indrelid = target AND c.relname = former_index) THEN
		RAISE NOTICE 'index "%" of table "%" is gone, its replica identity becomes DEFAULT',
			former_index, rel.name;
		former_identity := 'd';
	END IF;
	EXECUTE format('ALTER TABLE ONLY %I.%I REPLICA IDENTITY ', rel.schema, rel.name)
		|| CASE former_identity
			WHEN 'n' THEN 'NOTHING'
			WHEN 'i' THEN format('USING INDEX %I', former_index)
			ELSE 'DEFAULT' END;
END
$$;
COMMENT ON FUNCTION bemi.restore_table(regclass) IS 'internal: takes bemi''s trigger from a table and puts its former replica identity back';

CREATE FUNCTION bemi.untrack(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	partition regclass;
BEGIN
	SELECT c.relname, c.relispartition, c.relnamespace::regnamespace AS schema INTO rel
		FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to untrack does not exist'
			USING ERRCODE = 'undefined_table';
	END IF;
	IF bemi.is_marked(rel.schema) THEN
		RAISE EXCEPTION 'cannot untrack table "%" alone', rel.relname
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'All tables of its schema are tracked, and it would be again with its next ALTER TABLE.',
				HINT = format('SELECT bemi.untrack_schema(%L);', rel.schema);
	END IF;
	IF rel.relispartition AND bemi.has_trigger(pg_partition_root(target)) THEN
		RAISE EXCEPTION 'cannot untrack partition "%" alone', rel.relname
			USING ERRCODE = 'wrong_object_type',
				DETAIL = 'It is published with its root, and updates of a published table fail without a replica identity.',
				HINT = format('SELECT bemi.untrack(%L);', pg_partition_root(target));
	END IF;

	PERFORM bemi.publish(target, false);
	FOR partition IN SELECT p.relation FROM bemi.partitions(target) p LOOP
		PERFORM bemi.restore_table(partition);
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.untrack(regclass)
	IS 'keeps no further changes of the table, and leaves it as it was before bemi.track()';

--
-- Automatic tracking: what follows the tables as they come, move and go
--

-- A row that came with a dump sleeps until bemi.start() or bemi.track_schema(): the
-- rest of the dump brings triggers, identities and publication by itself, and would
-- meet what the event trigger had done before it.
CREATE TABLE bemi.tracked_schemas (
	schema regnamespace PRIMARY KEY,
	awake_in text NOT NULL
);
COMMENT ON TABLE bemi.tracked_schemas IS 'schemas whose tables are all tracked, also those made later';
COMMENT ON COLUMN bemi.tracked_schemas.schema IS 'schema given to bemi.track_schema()';
COMMENT ON COLUMN bemi.tracked_schemas.awake_in IS 'database in which the row was made, see bemi.this_database()';
SELECT pg_catalog.pg_extension_config_dump('bemi.tracked_schemas', '');

CREATE FUNCTION bemi.this_database()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s/%s', c.system_identifier, d.oid)
		FROM pg_control_system() c, pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION bemi.this_database() IS 'internal: identifies this database among all databases of all servers';

-- SECURITY DEFINER, so that whoever may untrack a table need not read the list.
CREATE FUNCTION bemi.is_marked(target regnamespace)
	RETURNS boolean
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM bemi.tracked_schemas s
		WHERE s.schema = target AND s.awake_in = bemi.this_database())
$$;
COMMENT ON FUNCTION bemi.is_marked(regnamespace) IS 'internal: are all tables of the schema tracked?';

CREATE FUNCTION bemi.check_schema_tracker(target regnamespace, wanted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM bemi.check_tracker(n.nspowner, format('schema "%s"', n.nspname)) FROM pg_namespace n WHERE n.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'schema to track does not exist' USING ERRCODE = 'invalid_schema_name';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.check_schema_tracker(regnamespace, boolean) IS 'internal: error unless the current user may track the schema';

CREATE FUNCTION bemi.set_marked(target regnamespace, wanted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF wanted THEN
		INSERT INTO bemi.tracked_schemas VALUES (target, bemi.this_database())
			ON CONFLICT (schema) DO UPDATE SET awake_in = excluded.awake_in;
	ELSE
		DELETE FROM bemi.tracked_schemas WHERE schema = target;
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.set_marked(regnamespace, boolean) IS 'internal: notes whether all tables of a schema are tracked';

CREATE FUNCTION bemi.mark_schema(target regnamespace, wanted boolean)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_mark_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT;
COMMENT ON FUNCTION bemi.mark_schema(regnamespace, boolean)
	IS 'internal: set_marked() for the owner of the schema, who must have been granted bemi.track()';

CREATE FUNCTION bemi.is_of_extension(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_depend d
		WHERE d.classid = 'pg_class'::regclass AND d.objid = target AND d.deptype = 'e')
$$;
COMMENT ON FUNCTION bemi.is_of_extension(regclass) IS 'internal: does the table belong to an extension? Such tables are tracked one by one only';

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
		AND (n.nspname IN ('bemi', 'information_schema') OR n.nspname ~ '^pg_')) THEN
		RAISE EXCEPTION 'cannot track schema "%"', target
			USING ERRCODE = 'wrong_object_type', DETAIL = 'It is a system schema, or bemi''s own.';
	END IF;

	-- First, or a table made meanwhile could be missed.
	PERFORM bemi.mark_schema(target, true);
	FOR relation IN SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = target AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND bemi.untrackable(c.oid) IS NULL AND NOT bemi.is_of_extension(c.oid)
		ORDER BY c.relname
	LOOP
		PERFORM bemi.track(relation);
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.track_schema(regnamespace)
	IS 'tracks all tables of the schema, and every table that is made in it, or moved to it, later';

CREATE FUNCTION bemi.untrack_schema(target regnamespace)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	relation regclass;
BEGIN
	PERFORM bemi.mark_schema(target, false);
	FOR relation IN SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace = target AND c.relkind IN ('r', 'p') AND NOT c.relispartition
			AND bemi.has_trigger(c.oid)
		ORDER BY c.relname
	LOOP
		PERFORM bemi.untrack(relation);
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.untrack_schema(regnamespace)
	IS 'untracks all tables of the schema, and no longer tracks those that are made in it';

-- Partitions that were detached still have what they got by their root. Those
-- that were tracked before they were attached go on being tracked.
CREATE FUNCTION bemi.release_detached()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
BEGIN
	FOR rel IN
		SELECT c.oid::regclass AS relation, (bemi.trigger_arguments(c.oid))[3] = 'attached'
				-- anybody can write this into a trigger on a table of his own
				AND has_function_privilege(c.relowner, 'bemi.track(regclass)', 'EXECUTE')
				OR bemi.is_marked(c.relnamespace::regnamespace) AS stays
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE t.tgname = 'bemi_emit_context' AND t.tgfoid = 'bemi.emit_context()'::regprocedure
			AND NOT c.relispartition AND (bemi.trigger_arguments(c.oid))[3] IN ('partition', 'attached')
	LOOP
		IF rel.stays THEN
			PERFORM bemi.set_attached(rel.relation, false);
			PERFORM bemi.set_published(rel.relation, true);
		ELSE
			PERFORM bemi.restore_table(p.relation) FROM bemi.partitions(rel.relation) p;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.release_detached() IS 'internal: untracks partitions that were detached from a tracked table';

-- What a table needs after it was made or altered.
CREATE FUNCTION bemi.follow_table(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
BEGIN
	SELECT c.relkind, c.relispartition, c.relnamespace::regnamespace AS schema,
			CASE WHEN c.relispartition THEN pg_partition_root(c.oid) ELSE c.oid END AS root
		INTO rel FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND OR bemi.untrackable(target) IS NOT NULL THEN
		RETURN;
	END IF;

	IF rel.relispartition OR rel.relkind = 'p' THEN
		-- Attached, or made as a partition; or its parent was altered.
		IF bemi.is_published(rel.root) THEN
			PERFORM bemi.follow_partitions(target);
			PERFORM bemi.set_attached(p.relation, true), bemi.set_published(p.relation, false)
				FROM bemi.partitions(target) p
				WHERE p.relation <> rel.root AND bemi.is_published(p.relation);
			IF rel.relkind = 'p' THEN
				PERFORM bemi.release_detached();
			END IF;
			RETURN;
		END IF;
	END IF;

	IF NOT rel.relispartition AND bemi.is_marked(rel.schema) AND NOT bemi.is_of_extension(target) THEN
		PERFORM bemi.set_published(target, true);
		PERFORM bemi.follow_partitions(target);
		IF NOT bemi.has_trigger(target) THEN
			PERFORM bemi.set_published(target, false);
		END IF;
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.follow_table(regclass) IS 'internal: tracks or untracks a table that was made or altered, as its root and its schema ask';

-- SECURITY DEFINER, because whoever makes a table need not be allowed to track.
-- It does to the table what its root's or schema's owner has asked for.
CREATE FUNCTION bemi.follow_ddl()
	RETURNS event_trigger
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	target regclass;
	trigger record;
BEGIN
	-- A trigger of another kind would fail with the application's first write;
	-- better now. In pg_trigger.tgtype, 1 stands for ROW and 2 for BEFORE.
	FOR trigger IN SELECT t.tgname, t.tgrelid::regclass AS relation FROM pg_event_trigger_ddl_commands() c
		JOIN pg_trigger t ON t.oid = c.objid AND c.classid = 'pg_trigger'::regclass
		WHERE t.tgfoid = 'bemi.emit_context()'::regprocedure AND t.tgtype & 3 <> 2
	LOOP
		RAISE EXCEPTION 'trigger "%" of table "%" cannot execute bemi.emit_context()', trigger.tgname, trigger.relation
			USING ERRCODE = 'invalid_object_definition',
				DETAIL = 'The context must be written before the rows, once a statement.',
				HINT = format('CREATE TRIGGER %I BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT'
					' EXECUTE FUNCTION bemi.emit_context();', trigger.tgname, trigger.relation);
	END LOOP;

	FOR target IN SELECT DISTINCT c.objid::regclass FROM pg_event_trigger_ddl_commands() c
		WHERE c.classid = 'pg_class'::regclass AND c.object_type = 'table' AND NOT c.in_extension
	LOOP
		BEGIN
			PERFORM bemi.follow_table(target);
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'could not track table "%"', target
				USING DETAIL = SQLERRM, HINT = format('SELECT bemi.track(%L);', target);
		END;
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.follow_ddl()
	IS 'event trigger function: tracks new partitions of tracked tables and new tables of tracked schemas, refuses triggers that cannot work';
CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA', 'CREATE TRIGGER')
	EXECUTE FUNCTION bemi.follow_ddl();
COMMENT ON EVENT TRIGGER bemi_follow_ddl IS 'tracks new partitions of tracked tables and new tables of tracked schemas';
-- Without it, an update of a new partition would fail; so also for sessions
-- that have set session_replication_role.
ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;

CREATE FUNCTION bemi.forget_dropped_schemas()
	RETURNS event_trigger
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM bemi.tracked_schemas s
		WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = s.schema);
END
$$;
COMMENT ON FUNCTION bemi.forget_dropped_schemas() IS 'event trigger function: a schema made later may get the OID of a dropped one';
CREATE EVENT TRIGGER bemi_forget_dropped_schemas ON sql_drop WHEN TAG IN ('DROP SCHEMA', 'DROP OWNED')
	EXECUTE FUNCTION bemi.forget_dropped_schemas();
COMMENT ON EVENT TRIGGER bemi_forget_dropped_schemas IS 'forgets dropped schemas that were tracked';
ALTER EVENT TRIGGER bemi_forget_dropped_schemas ENABLE ALWAYS;

CREATE VIEW bemi.tracked AS
	SELECT rel."table", rel.triggers, rel.identity, rel.published,
		array_remove(ARRAY[
			CASE WHEN rel.triggers = '{}' THEN 'no trigger: changes come without context, or with an earlier one' END,
			CASE WHEN rel.disabled THEN 'a trigger is disabled' END,
			CASE WHEN rel.identity <> 'FULL' THEN 'replica identity is not FULL: before is not whole' END,
			CASE WHEN NOT rel.published THEN 'not in publication "bemi": changes are not stored' END,
			CASE WHEN rel.relpersistence = 'u' THEN 'unlogged: changes are not stored' END,
			CASE WHEN rel.rootless THEN 'partition of an untracked table: rows written by way of it come without context' END
		], NULL) AS problems
	FROM (
		SELECT c.oid::regclass AS "table", c.relpersistence,
			c.relispartition AND NOT bemi.has_trigger(pg_partition_root(c.oid)) AS rootless,
			ARRAY(SELECT t.tgname FROM pg_trigger t
				WHERE t.tgrelid = c.oid AND t.tgfoid = 'bemi.emit_context()'::regprocedure
				ORDER BY t.tgname) AS triggers,
			EXISTS (SELECT FROM pg_trigger t
				WHERE t.tgrelid = c.oid AND t.tgfoid = 'bemi.emit_context()'::regprocedure
					AND t.tgenabled = 'D') AS disabled,
			CASE c.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'n' THEN 'NOTHING'
				WHEN 'f' THEN 'FULL' ELSE 'USING INDEX' END AS identity,
			EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
				WHERE p.pubname = 'bemi'
					AND (pr.prrelid = c.oid OR pr.prrelid IN (SELECT * FROM pg_partition_ancestors(c.oid)))
			) AS published
		FROM pg_class c WHERE c.relkind IN ('r', 'p')
	) AS rel
	WHERE rel.published OR rel.triggers <> '{}';
COMMENT ON VIEW bemi.tracked IS 'tables whose changes are kept, and what is wrong with them';
COMMENT ON COLUMN bemi.tracked."table" IS 'tracked table or partition';
COMMENT ON COLUMN bemi.tracked.triggers IS 'its triggers that call bemi.emit_context()';
COMMENT ON COLUMN bemi.tracked.identity IS 'its replica identity; only FULL gives a whole "before"';
COMMENT ON COLUMN bemi.tracked.published IS 'whether it is in the publication "bemi", itself or by its partition root';
COMMENT ON COLUMN bemi.tracked.problems IS 'what is wrong with its tracking; empty if nothing';

--
-- History
--
-- The table is a member of the extension, its partitions are not: the worker
-- makes them, and pg_dump carries them with their rows. The indexes belong to the
-- partitions: were they made by way of bemi.changes, a restored dump would make
-- them twice. Text is compared by bytes, which is what look-ups by key need and
-- is cheaper to index.
--

CREATE TABLE bemi.changes (
	id uuid NOT NULL,
	database text COLLATE "C" NOT NULL,
	schema text COLLATE "C" NOT NULL,
	"table" text COLLATE "C" NOT NULL,
	primary_key text COLLATE "C",
	operation text COLLATE "C" NOT NULL,
	before jsonb NOT NULL,
	after jsonb NOT NULL,
	context jsonb NOT NULL,
	committed_at timestamptz NOT NULL,
	queued_at timestamptz NOT NULL,
	created_at timestamptz NOT NULL,
	transaction_id bigint NOT NULL,
	position bigint NOT NULL
) PARTITION BY RANGE (committed_at);
COMMENT ON TABLE bemi.changes IS 'history: one row for each row inserted, updated or deleted, and for each table truncated';
COMMENT ON COLUMN bemi.changes.id IS 'UUID version 8 made of commit LSN, place in the transaction, and source; in commit order';
COMMENT ON COLUMN bemi.changes.database IS 'database of the changed table';
COMMENT ON COLUMN bemi.changes.schema IS 'schema of the changed table';
COMMENT ON COLUMN bemi.changes."table" IS 'changed table, the root if it is partitioned';
COMMENT ON COLUMN bemi.changes.primary_key IS 'primary key as text; several columns: JSON array of texts in key order; none: NULL';
COMMENT ON COLUMN bemi.changes.operation IS 'CREATE, UPDATE, DELETE or TRUNCATE';
COMMENT ON COLUMN bemi.changes.before IS 'row before the change, {} if there was none';
COMMENT ON COLUMN bemi.changes.after IS 'row after the change, {} if there is none';
COMMENT ON COLUMN bemi.changes.context IS 'context of the statement, {} if there was none';
COMMENT ON COLUMN bemi.changes.committed_at IS 'when the transaction committed at the source';
COMMENT ON COLUMN bemi.changes.queued_at IS 'when the worker received the change';
COMMENT ON COLUMN bemi.changes.created_at IS 'when the worker stored the change';
COMMENT ON COLUMN bemi.changes.transaction_id IS 'transaction at the source (xid)';
COMMENT ON COLUMN bemi.changes.position IS 'LSN of the row''s record in the source''s write-ahead log';

-- Called by the worker, before it stores the first change of a month. Made apart
-- and attached then, because CREATE TABLE ... PARTITION OF would wait for every
-- reader of the history, and make later readers wait for it.
CREATE FUNCTION bemi.make_partition(committed_at timestamptz)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
AS $$
DECLARE
	first_day timestamptz := date_trunc('month', committed_at);
	next_day timestamptz := first_day + interval '1 month';
	partition name := 'changes_' || to_char(first_day, 'YYYY_MM') || CASE WHEN first_day < '0001-01-01' THEN '_bc' ELSE '' END;
	stem name := partition;
	n integer := 0;
BEGIN
	-- Somebody may have detached the partition of this month, and kept it.
	WHILE EXISTS (SELECT FROM pg_class WHERE relname = partition AND relnamespace = 'bemi'::regnamespace) LOOP
		n := n + 1;
		partition := stem || '_' || n;
	END LOOP;
	EXECUTE format('CREATE TABLE bemi.%I (LIKE bemi.changes INCLUDING ALL, PRIMARY KEY (id))', partition);
	EXECUTE format('CREATE INDEX ON bemi.%I (schema, "table", primary_key, id)', partition);
	EXECUTE format('CREATE INDEX ON bemi.%I USING gin (context jsonb_path_ops)', partition);
	EXECUTE format('ALTER TABLE bemi.changes ATTACH PARTITION bemi.%I FOR VALUES FROM (%L) TO (%L)',
		partition, first_day, next_day);
END
$$;
COMMENT ON FUNCTION bemi.make_partition(timestamptz) IS 'internal: makes the partition of bemi.changes for the month of this time';

-- History is not dropped by the way: DROP EXTENSION needs CASCADE while there is any.
CREATE FUNCTION bemi.protect_history()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_protect_history'
	LANGUAGE C;
COMMENT ON FUNCTION bemi.protect_history() IS 'event trigger function: refuses DROP EXTENSION bemi without CASCADE while changes are stored';
CREATE EVENT TRIGGER bemi_protect_history ON ddl_command_start WHEN TAG IN ('DROP EXTENSION', 'DROP OWNED')
	EXECUTE FUNCTION bemi.protect_history();
COMMENT ON EVENT TRIGGER bemi_protect_history IS 'refuses DROP EXTENSION bemi without CASCADE while changes are stored';

--
-- Sources: what is read into the history
--

CREATE TABLE bemi.sources (
	name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9_]{1,32}$'),
	conninfo text,
	slot_name name NOT NULL,
	wanted text COLLATE "C" NOT NULL CHECK (wanted IN ('run', 'stop', 'drop')),
	slot_made boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE bemi.sources IS 'sources that bemi.start() was called for; bemi.status shows how they are';
COMMENT ON COLUMN bemi.sources.name IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.sources.conninfo IS 'connection string of the source, NULL for this database; may hold secrets';
COMMENT ON COLUMN bemi.sources.slot_name IS 'its replication slot; the replication origin that keeps its progress has the same name';
COMMENT ON COLUMN bemi.sources.wanted IS 'run, stop, or drop (slot, origin and this row)';
COMMENT ON COLUMN bemi.sources.slot_made IS 'whether the slot was made; a slot that is missing then is an error, not made anew';
SELECT pg_catalog.pg_extension_config_dump('bemi.sources', '');

-- Apart from bemi.sources, whose rows a session may hold locked for as long as its
-- transaction lasts: the worker must not wait for that.
CREATE TABLE bemi.source_counters (
	name text COLLATE "C" PRIMARY KEY,
	invalid_messages bigint NOT NULL
);
COMMENT ON TABLE bemi.source_counters IS 'what the workers have counted; bemi.status shows it';
COMMENT ON COLUMN bemi.source_counters.name IS 'name of the source';
COMMENT ON COLUMN bemi.source_counters.invalid_messages IS 'context messages that were not JSON objects';

CREATE FUNCTION bemi.count_invalid_messages(source text, messages bigint)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO bemi.source_counters AS c VALUES (source, messages)
		ON CONFLICT (name) DO UPDATE SET invalid_messages = c.invalid_messages + excluded.invalid_messages
$$;
COMMENT ON FUNCTION bemi.count_invalid_messages(text, bigint) IS 'internal: adds to what bemi.status shows';

CREATE FUNCTION bemi.forget_source(source text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM bemi.source_counters c WHERE c.name = source;
	DELETE FROM bemi.sources s WHERE s.name = source;
$$;
COMMENT ON FUNCTION bemi.forget_source(text) IS 'internal: deletes the rows of a source whose slot was dropped';

-- Not taken from the row: one that came with a dump or a template database names the
-- original's, which may be alive on this very server.
CREATE FUNCTION bemi.slot_of(source text)
	RETURNS name
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('bemi_%s_%s', d.oid, source)::name FROM pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION bemi.slot_of(text) IS 'internal: name of the slot and of the origin that a source of this database has';

CREATE FUNCTION bemi.register_source(source text, conninfo text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slot name := bemi.slot_of(source);
	known record;
	fresh boolean := pg_replication_origin_oid(slot) IS NULL;
BEGIN
	IF source IS NULL OR source !~ '^[a-z0-9_]{1,32}$' THEN
		RAISE EXCEPTION 'source name "%" is not valid', source
			USING ERRCODE = 'invalid_name',
				DETAIL = 'It becomes part of a slot''s name: 1 to 32 lower-case letters, digits and underscores.';
	END IF;

	SELECT s.wanted INTO known FROM bemi.sources s WHERE s.name = source FOR UPDATE;
	-- A row without an origin came with a dump: its source was never started here.
	IF FOUND AND known.wanted <> 'stop' AND NOT fresh THEN
		RAISE EXCEPTION 'source "%" is already started', source
			USING ERRCODE = 'object_in_use',
				DETAIL = format('Its state is shown by SELECT * FROM bemi.status WHERE source = %L.', source),
				HINT = format('To start it anew, call CALL bemi.stop(%L) first.', source);
	END IF;

	IF register_source.conninfo IS NULL AND EXISTS (SELECT FROM bemi.sources s
		WHERE s.conninfo IS NULL AND s.wanted = 'run' AND s.name <> source
			AND pg_replication_origin_oid(bemi.slot_of(s.name)) IS NOT NULL) THEN
		RAISE EXCEPTION 'this database is already read by another source'
			USING ERRCODE = 'object_in_use',
				DETAIL = 'Every change would be stored twice.',
				HINT = 'SELECT source, state FROM bemi.status;';
	END IF;

	PERFORM bemi.ensure_publication();
	-- What came with a dump and has slept since, see bemi.tracked_schemas.
	PERFORM bemi.track_schema(s.schema) FROM bemi.tracked_schemas s
		WHERE s.awake_in <> bemi.this_database()
			AND EXISTS (SELECT FROM pg_namespace n WHERE n.oid = s.schema);
	IF fresh THEN
		PERFORM pg_replication_origin_create(slot);
	END IF;
	INSERT INTO bemi.sources AS s (name, conninfo, slot_name, wanted)
		VALUES (source, register_source.conninfo, slot, 'run')
		ON CONFLICT (name) DO UPDATE SET conninfo = excluded.conninfo, slot_name = excluded.slot_name,
			wanted = 'run', slot_made = s.slot_made AND NOT fresh;
END
$$;
COMMENT ON FUNCTION bemi.register_source(text, text) IS 'internal: the part of bemi.start() that is a transaction';

CREATE FUNCTION bemi.unregister_source(source text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slot name;
BEGIN
	DELETE FROM bemi.sources s WHERE s.name = source AND NOT s.slot_made AND s.wanted = 'run' RETURNING s.slot_name INTO slot;
	IF FOUND THEN
		PERFORM pg_replication_origin_drop(slot);
	END IF;
	RETURN slot IS NOT NULL;
END
$$;
COMMENT ON FUNCTION bemi.unregister_source(text)
	IS 'internal: takes back what register_source() did, if the source never got as far as its slot';

CREATE FUNCTION bemi.want_source(source text, wanted text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Without an origin no worker knows of the row: it came with a dump.
	IF want_source.wanted = 'drop' THEN
		DELETE FROM bemi.sources s WHERE s.name = source
			AND pg_replication_origin_oid(bemi.slot_of(s.name)) IS NULL;
		IF FOUND THEN
			RETURN true;
		END IF;
	END IF;
	UPDATE bemi.sources s SET wanted = want_source.wanted WHERE s.name = source;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION bemi.want_source(text, text) IS 'internal: the part of bemi.stop() that is a transaction';

CREATE PROCEDURE bemi.start(name text DEFAULT 'main', conninfo text DEFAULT NULL, wait boolean DEFAULT true)
	AS 'MODULE_PATHNAME', 'bemi_start'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.start(text, text, boolean)
	IS 'begins to read a source, this database by default; when it returns, every later commit is captured (wait => false: once this transaction has committed and the slot is made)';

CREATE PROCEDURE bemi.stop(name text DEFAULT 'main', drop_slot boolean DEFAULT false)
	AS 'MODULE_PATHNAME', 'bemi_stop'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.stop(text, boolean)
	IS 'stops reading a source; its slot keeps the write-ahead log for the next start, unless it is dropped';

-- For bemi.sync(): after a restart, a source is known from its row before the
-- launcher has come to it. SECURITY DEFINER, since it tells no more than sync().
CREATE FUNCTION bemi.is_started()
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM bemi.sources s
		WHERE s.wanted = 'run' AND pg_replication_origin_oid(bemi.slot_of(s.name)) IS NOT NULL)
$$;
COMMENT ON FUNCTION bemi.is_started() IS 'internal: is any source of this database meant to be read?';

CREATE FUNCTION bemi.sync(timeout interval DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_sync'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.sync(interval)
	IS 'waits until everything committed before the call is in bemi.changes; error after the timeout, NULL waits for ever';

CREATE FUNCTION bemi.source_status(
		OUT source text, OUT state text, OUT pid integer,
		OUT received_lsn pg_lsn, OUT stored_lsn pg_lsn,
		OUT restarts bigint, OUT last_error text, OUT last_error_at timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_source_status'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 2;
COMMENT ON FUNCTION bemi.source_status() IS 'internal: what the workers of this database say of themselves';

CREATE VIEW bemi.status AS
	SELECT s.name AS source,
		coalesce(w.state, CASE s.wanted WHEN 'stop' THEN 'stopped' ELSE 'not running' END) AS state,
		w.pid, CASE s.slot_name WHEN bemi.slot_of(s.name) THEN s.slot_name END AS slot_name, w.received_lsn, w.stored_lsn,
		coalesce(c.invalid_messages, 0) AS invalid_messages, coalesce(w.restarts, 0) AS restarts, w.last_error, w.last_error_at
	FROM bemi.sources s
		LEFT JOIN bemi.source_counters c ON c.name = s.name
		LEFT JOIN bemi.source_status() w ON w.source = s.name;
COMMENT ON VIEW bemi.status IS 'state, progress and errors of each source';
COMMENT ON COLUMN bemi.status.source IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.status.state IS 'starting, connecting, making slot, streaming, paused (gives way to DROP DATABASE and its like), failed (tried again, see last_error), stopped, dropping, not running';
COMMENT ON COLUMN bemi.status.pid IS 'process of the worker, NULL if it is not running';
COMMENT ON COLUMN bemi.status.slot_name IS 'replication slot at the source; NULL if the source came with a dump or a template database';
COMMENT ON COLUMN bemi.status.received_lsn IS 'position in the source''s write-ahead log that the worker has received';
COMMENT ON COLUMN bemi.status.stored_lsn IS 'position up to which everything is in bemi.changes';
COMMENT ON COLUMN bemi.status.invalid_messages IS 'context messages that were not JSON objects; their changes have the context {}';
COMMENT ON COLUMN bemi.status.restarts IS 'how often the worker failed and was started again since the server started';
COMMENT ON COLUMN bemi.status.last_error IS 'why the worker failed last';
COMMENT ON COLUMN bemi.status.last_error_at IS 'when the worker failed last';

--
-- Rights: setting a context and writing to tracked tables needs none
--

REVOKE ALL ON ALL TABLES IN SCHEMA bemi FROM PUBLIC;
-- Take effect only for the table's owner with the right to track, see publish().
REVOKE EXECUTE ON FUNCTION bemi.track(regclass), bemi.untrack(regclass),
	bemi.track_schema(regnamespace), bemi.untrack_schema(regnamespace) FROM PUBLIC;
-- Change what is read, or reveal how it is.
REVOKE EXECUTE ON FUNCTION bemi.ensure_publication(), bemi.set_published(regclass, boolean),
	bemi.set_marked(regnamespace, boolean), bemi.follow_partitions(regclass), bemi.release_detached(),
	bemi.follow_table(regclass), bemi.make_partition(timestamptz),
	bemi.register_source(text, text), bemi.unregister_source(text), bemi.want_source(text, text),
	bemi.count_invalid_messages(text, bigint), bemi.forget_source(text),
	bemi.source_status(), bemi.is_started(), bemi.sync(interval) FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE bemi.start(text, text, boolean), bemi.stop(text, boolean) FROM PUBLIC;
-- Monitoring sees how the sources are, not what they store.
GRANT SELECT ON bemi.status, bemi.tracked TO pg_monitor;
GRANT EXECUTE ON FUNCTION bemi.source_status(), bemi.is_started(), bemi.sync(interval) TO pg_monitor;
