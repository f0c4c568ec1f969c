
--
-- Tracking: which tables have their changes stored
--
-- A tracked table has bemi's statement trigger, REPLICA IDENTITY FULL and a place
-- in publication "bemi". The arguments of the trigger store the former replica
-- identity (pg_class.relreplident, name of the index), how the table became tracked
-- (on its own, as a partition with its root, or because it was attached to a
-- tracked root), and the rules for its columns. So all this stays with the table in
-- a dump and after a rename, and DROP TABLE removes it.
--

CREATE FUNCTION _bemi.check_publication_owner()
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_check_publication'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.check_publication_owner()
	IS 'internal: error if the owner of publication "bemi" lacks the rights of the extension''s '
		'owner';
REVOKE ALL ON FUNCTION _bemi.check_publication_owner() FROM PUBLIC;

-- The publication may be older than the extension.
SELECT _bemi.check_publication_owner();

-- The publication cannot be a member of the extension, so it is created on first use. pg_dump
-- dumps it like any other.
CREATE FUNCTION _bemi.ensure_publication()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_publication_owner();
	IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'bemi') THEN
		BEGIN
			CREATE PUBLICATION bemi
				WITH (publish = 'insert, update, delete, truncate',
					publish_via_partition_root = true);
		EXCEPTION WHEN duplicate_object OR unique_violation THEN
			-- Another session was faster.
			PERFORM _bemi.check_publication_owner();
		END;
	END IF;
	-- Before 18, generated columns are not in the stream; from then on, writes to a table
	-- with REPLICA IDENTITY FULL fail unless they are.
	IF EXISTS (SELECT FROM pg_publication p
		WHERE p.pubname = 'bemi' AND to_jsonb(p) ->> 'pubgencols' = 'n') THEN
		EXECUTE 'ALTER PUBLICATION bemi SET (publish_generated_columns = stored)';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.ensure_publication()
	IS 'internal: creates publication "bemi" if it does not exist, and makes it publish '
		'generated columns from PostgreSQL 18 on';
REVOKE ALL ON FUNCTION _bemi.ensure_publication() FROM PUBLIC;

-- Parents come first. pg_partition_tree() would lock all partitions.
CREATE FUNCTION _bemi.partitions(target regclass)
	RETURNS SETOF regclass
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE tree(relid, level) AS (
		SELECT target::oid, 0
		UNION ALL SELECT i.inhrelid, t.level + 1
			FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid AND NOT i.inhdetachpending
			JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
	)
	SELECT t.relid::regclass FROM tree t ORDER BY t.level, t.relid
$$;
COMMENT ON FUNCTION _bemi.partitions(regclass)
	IS 'internal: the table and all its partitions, found without a lock on them';
REVOKE ALL ON FUNCTION _bemi.partitions(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.has_trigger(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = target
		AND tgname = 'bemi_emit_context' AND tgfoid = 'bemi.emit_context()'::regprocedure)
$$;
COMMENT ON FUNCTION _bemi.has_trigger(regclass)
	IS 'internal: whether the table has the trigger of bemi.track()';
-- Granted to PUBLIC, like others below, because bemi.track() and similar functions call it with
-- the rights of their caller.
GRANT EXECUTE ON FUNCTION _bemi.has_trigger(regclass) TO PUBLIC;

CREATE FUNCTION _bemi.is_published(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
		WHERE p.pubname = 'bemi' AND pr.prrelid = target)
$$;
COMMENT ON FUNCTION _bemi.is_published(regclass)
	IS 'internal: whether the table itself is in publication "bemi"';
REVOKE ALL ON FUNCTION _bemi.is_published(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.partition_root(target regclass)
	RETURNS regclass
	AS 'MODULE_PATHNAME', 'bemi_root_of_partition'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.partition_root(regclass)
	IS 'internal: the table under whose name the changes of this one are stored: the topmost of '
		'its ancestors and itself that is in publication "bemi", or the topmost of all if none '
		'is';
REVOKE ALL ON FUNCTION _bemi.partition_root(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.check_tracker(owner oid, object text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT pg_has_role(current_user, owner, 'USAGE')
		OR NOT has_function_privilege(current_user,
			'bemi.track(regclass, name[], name[], name[])', 'EXECUTE') THEN
		RAISE EXCEPTION 'permission denied to track %', object
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'You must own it and have the right to call bemi.track().';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_tracker(oid, text)
	IS 'internal: error unless the current user may track objects of this owner';
GRANT EXECUTE ON FUNCTION _bemi.check_tracker(oid, text) TO PUBLIC;

CREATE FUNCTION _bemi.untrackable(target regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_untrackable'
	LANGUAGE C STABLE PARALLEL SAFE STRICT;
COMMENT ON FUNCTION _bemi.untrackable(regclass)
	IS 'internal: reason why the relation cannot be tracked, NULL if it can';
GRANT EXECUTE ON FUNCTION _bemi.untrackable(regclass) TO PUBLIC;

-- Rules for columns are stored in the last argument of the trigger, see src/track/rules.c.
CREATE FUNCTION bemi.track(target regclass, ignore name[] DEFAULT NULL,
		redact name[] DEFAULT NULL, redact_hash name[] DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_track'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.track(regclass, name[], name[], name[])
	IS 'stores every change of the table and its partitions from now on; ignore, redact and '
		'redact_hash set rules for columns, NULL keeps the current ones; can be repeated';
REVOKE ALL ON FUNCTION bemi.track(regclass, name[], name[], name[]) FROM PUBLIC;

CREATE FUNCTION bemi.untrack(target regclass)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_untrack'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.untrack(regclass)
	IS 'stores no more changes of the table, and restores its state before bemi.track(); its '
		'history stays';
REVOKE ALL ON FUNCTION bemi.untrack(regclass) FROM PUBLIC;
