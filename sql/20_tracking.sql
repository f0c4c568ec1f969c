
--
-- Tracking: which tables have their changes kept
--
-- A tracked table has bemi's statement trigger, REPLICA IDENTITY FULL and a
-- place in the publication "bemi". The trigger's arguments remember the replica
-- identity that the table had before (pg_class.relreplident, name of the index),
-- how it came to be tracked: as a table of its own, as a partition with its
-- root, or as a table that was attached to a tracked root since; and, if there are
-- any, the rules for its columns. So this travels with the table: into a dump,
-- through a rename, and away with DROP TABLE.
--

CREATE FUNCTION _bemi.check_publication_owner()
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_check_publication'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.check_publication_owner()
	IS 'internal: error if publication "bemi" belongs to somebody who has not the rights of the '
		'extension''s owner';
REVOKE ALL ON FUNCTION _bemi.check_publication_owner() FROM PUBLIC;

-- It may have been made before the extension.
SELECT _bemi.check_publication_owner();

-- The publication cannot be a member of the extension, so it is made when first
-- needed; pg_dump carries it along like any other.
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
	IS 'internal: makes the publication "bemi" unless it exists, and lets it have generated '
		'columns where that can be';
REVOKE ALL ON FUNCTION _bemi.ensure_publication() FROM PUBLIC;

-- The table's partitions, the table itself among them, parents first. pg_partition_tree()
-- would lock all of them.
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
	IS 'internal: does the table carry the trigger that bemi.track() makes?';
-- Granted, as others below are, because bemi.track() and its like call it with the rights of
-- their caller, so that they can do no more than the caller.
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
	IS 'internal: is the table itself in the publication "bemi"?';
REVOKE ALL ON FUNCTION _bemi.is_published(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.partition_root(target regclass)
	RETURNS regclass
	AS 'MODULE_PATHNAME', 'bemi_root_of_partition'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.partition_root(regclass)
	IS 'internal: under the name of which table the changes of a table are stored: the topmost of '
		'it and the tables above it that is in the publication "bemi", or the topmost of all';
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
	IS 'internal: error unless the current user may track what belongs to this owner';
GRANT EXECUTE ON FUNCTION _bemi.check_tracker(oid, text) TO PUBLIC;

CREATE FUNCTION _bemi.untrackable(target regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_untrackable'
	LANGUAGE C STABLE PARALLEL SAFE STRICT;
COMMENT ON FUNCTION _bemi.untrackable(regclass)
	IS 'internal: why the relation cannot be tracked, NULL if it can';
GRANT EXECUTE ON FUNCTION _bemi.untrackable(regclass) TO PUBLIC;

-- Rules for columns are kept as the last argument of the table's trigger, see src/track/rules.c.
CREATE FUNCTION bemi.track(target regclass, ignore name[] DEFAULT NULL,
		redact name[] DEFAULT NULL, redact_hash name[] DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_track'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.track(regclass, name[], name[], name[])
	IS 'keeps every change of the table from now on, partitions included, but not updates of '
		'ignored columns alone, nor values of redacted ones; tracking twice is harmless, rules '
		'that are not given stay';
REVOKE ALL ON FUNCTION bemi.track(regclass, name[], name[], name[]) FROM PUBLIC;

CREATE FUNCTION bemi.untrack(target regclass)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_untrack'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.untrack(regclass)
	IS 'keeps no further changes of the table, and leaves it as it was before bemi.track()';
REVOKE ALL ON FUNCTION bemi.untrack(regclass) FROM PUBLIC;
