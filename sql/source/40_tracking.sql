
--
-- Tracking: which tables have their changes stored
--
-- A tracked table has the triggers, REPLICA IDENTITY FULL and a place in publication "bemi". The
-- arguments of trigger bemi_emit_context are those of the extension: the former replica identity,
-- its index, and how the table became tracked.
--

-- Reader of the history: the server with the extension. It needs the publication when it starts.
DO $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication p
		WHERE p.pubname OPERATOR(pg_catalog.=) 'bemi')
	THEN
		CREATE PUBLICATION bemi
			WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
		-- From 18 on, writes to a table with REPLICA IDENTITY FULL fail if generated columns are
		-- not in the stream.
		IF pg_catalog.current_setting('server_version_num')::pg_catalog.int4
			OPERATOR(pg_catalog.>=) 180000
		THEN
			EXECUTE 'ALTER PUBLICATION bemi SET (publish_generated_columns = stored)';
		END IF;
	END IF;
END
$$;

CREATE OR REPLACE FUNCTION _bemi.partitions(target regclass)
	RETURNS SETOF regclass
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	WITH RECURSIVE tree(relid, level) AS (
		SELECT target::oid, 0
		UNION ALL SELECT i.inhrelid, t.level + 1
			FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid AND NOT i.inhdetachpending
			JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
	)
	SELECT t.relid::regclass FROM tree t ORDER BY t.level, t.relid
$bemi$;
COMMENT ON FUNCTION _bemi.partitions(regclass)
	IS 'internal: the table and all its partitions, parents first';
GRANT EXECUTE ON FUNCTION _bemi.partitions(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION _bemi.is_published(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
		WHERE p.pubname = 'bemi' AND pr.prrelid = target)
$bemi$;
COMMENT ON FUNCTION _bemi.is_published(regclass)
	IS 'internal: whether the table itself is in publication "bemi"';
GRANT EXECUTE ON FUNCTION _bemi.is_published(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION _bemi.has_trigger(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT EXISTS (SELECT FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
			JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE t.tgrelid = target AND t.tgname = 'bemi_emit_context'
			AND p.proname = 'emit_context' AND n.nspname = 'bemi')
$bemi$;
COMMENT ON FUNCTION _bemi.has_trigger(regclass)
	IS 'internal: whether the table has the trigger of bemi.track()';
GRANT EXECUTE ON FUNCTION _bemi.has_trigger(regclass) TO PUBLIC;

-- The topmost of the table and its ancestors that is published, otherwise the topmost of all.
CREATE OR REPLACE FUNCTION _bemi.partition_root(target regclass)
	RETURNS regclass
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	WITH RECURSIVE line(relid, level) AS (
		SELECT target::oid, 0
		UNION ALL SELECT i.inhparent, l.level + 1
			FROM line l JOIN pg_class c ON c.oid = l.relid AND c.relispartition
			JOIN pg_inherits i ON i.inhrelid = l.relid AND NOT i.inhdetachpending
	)
	SELECT l.relid::regclass FROM line l
		ORDER BY _bemi.is_published(l.relid) DESC, l.level DESC LIMIT 1
$bemi$;
COMMENT ON FUNCTION _bemi.partition_root(regclass)
	IS 'internal: the table under whose name the changes of this one are stored';
GRANT EXECUTE ON FUNCTION _bemi.partition_root(regclass) TO PUBLIC;

-- REPLICA IDENTITY FULL includes virtual generated columns (18), which are never in the stream.
CREATE OR REPLACE FUNCTION _bemi.can_be_full(target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT NOT EXISTS (SELECT FROM pg_attribute a
		WHERE a.attrelid = target AND a.attgenerated = 'v' AND NOT a.attisdropped)
$bemi$;
COMMENT ON FUNCTION _bemi.can_be_full(regclass)
	IS 'internal: whether the table can be written to with REPLICA IDENTITY FULL';
GRANT EXECUTE ON FUNCTION _bemi.can_be_full(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION _bemi.untrackable(target regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
	SELECT CASE
		WHEN c.relkind = 'f'
			THEN 'The rows of a foreign table are on another server; track them there.'
		WHEN c.relkind IN ('v', 'm')
			THEN 'A view has no rows of its own; track the tables below it.'
		WHEN c.relkind NOT IN ('r', 'p') THEN 'It is not a table.'
		WHEN n.nspname IN ('pg_catalog', 'pg_toast', 'information_schema')
			THEN 'It is a system table.'
		WHEN n.nspname IN ('bemi', '_bemi')
			THEN 'It belongs to bemi; storing changes of the history would cause further changes.'
		WHEN c.relpersistence = 't' THEN 'A temporary table is not written to the write-ahead log.'
		WHEN c.relpersistence = 'u' THEN 'An unlogged table is not written to the write-ahead log.'
		WHEN NOT _bemi.can_be_full(target)
				AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = target AND i.indisprimary)
			THEN 'It has a virtual generated column, so it needs a primary key, and has none.'
		END
	FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target
$bemi$;
COMMENT ON FUNCTION _bemi.untrackable(regclass)
	IS 'internal: reason why the relation cannot be tracked, NULL if it can';
GRANT EXECUTE ON FUNCTION _bemi.untrackable(regclass) TO PUBLIC;

-- Creates the triggers of one table and sets its replica identity, if they are missing.
CREATE OR REPLACE FUNCTION _bemi.prepare_table(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
	index_name name;
	is_full boolean := _bemi.can_be_full(target);
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT _bemi.has_trigger(target) THEN
		IF t.relreplident = 'i' THEN
			SELECT c.relname INTO index_name
				FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
				WHERE i.indrelid = target AND i.indisreplident;
		END IF;
		EXECUTE format('CREATE TRIGGER bemi_emit_context '
			'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT '
			'EXECUTE FUNCTION bemi.emit_context(%L, %L, %L)',
			target, t.relreplident, coalesce(index_name, ''),
			CASE WHEN t.relispartition THEN 'partition' ELSE 'table' END);
	END IF;
	IF NOT EXISTS (SELECT FROM pg_trigger g
		WHERE g.tgrelid = target AND g.tgname = 'bemi_reemit_context')
	THEN
		EXECUTE format('CREATE TRIGGER bemi_reemit_context '
			'AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT '
			'EXECUTE FUNCTION bemi.reemit_context()', target);
	END IF;
	IF is_full AND t.relreplident <> 'f' THEN
		EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY FULL', target);
	ELSIF NOT is_full AND t.relreplident IN ('f', 'n') THEN
		EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT', target);
	END IF;
END
$bemi$;
COMMENT ON FUNCTION _bemi.prepare_table(regclass)
	IS 'internal: creates the triggers of a table and sets its replica identity';
GRANT EXECUTE ON FUNCTION _bemi.prepare_table(regclass) TO PUBLIC;

-- Locks the table under the name that it has. It may get another name during the wait.
CREATE OR REPLACE FUNCTION _bemi.lock_table(target regclass, mode text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	name text := target::text;
BEGIN
	EXECUTE format('LOCK TABLE ONLY %s IN %s MODE', name, mode);
	IF to_regclass(name) IS DISTINCT FROM target THEN
		RAISE EXCEPTION 'table "%" was renamed in the meantime', name
			USING ERRCODE = 'object_in_use', HINT = 'Try again.';
	END IF;
END
$bemi$;
COMMENT ON FUNCTION _bemi.lock_table(regclass, text) IS 'internal: locks a table';
GRANT EXECUTE ON FUNCTION _bemi.lock_table(regclass, text) TO PUBLIC;

-- Throws an error unless the current user owns the table.
CREATE OR REPLACE FUNCTION _bemi.check_owner(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT pg_has_role(current_user, t.relowner, 'USAGE') THEN
		RAISE EXCEPTION 'permission denied to track table "%"', t.relname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'You must own it and have the right to call bemi.track().';
	END IF;
END
$bemi$;
COMMENT ON FUNCTION _bemi.check_owner(regclass)
	IS 'internal: error unless the current user owns the table';
GRANT EXECUTE ON FUNCTION _bemi.check_owner(regclass) TO PUBLIC;

CREATE OR REPLACE FUNCTION bemi.track(target regclass, ignore name[] DEFAULT NULL,
		redact name[] DEFAULT NULL, redact_hash name[] DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
	root regclass;
	reason text;
	partition regclass;
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to track does not exist' USING ERRCODE = 'undefined_table';
	END IF;
	reason := _bemi.untrackable(target);
	IF reason IS NOT NULL THEN
		IF t.relkind = 'r' AND t.relpersistence = 'u' THEN
			RAISE EXCEPTION 'cannot track "%"', t.relname
				USING ERRCODE = 'wrong_object_type', DETAIL = reason,
					HINT = format('ALTER TABLE %s SET LOGGED;', target);
		END IF;
		RAISE EXCEPTION 'cannot track "%"', t.relname
			USING ERRCODE = 'wrong_object_type', DETAIL = reason;
	END IF;
	root := _bemi.partition_root(target);
	IF root <> target AND NOT _bemi.has_trigger(root) THEN
		RAISE EXCEPTION 'cannot track partition "%" alone', t.relname
			USING ERRCODE = 'wrong_object_type',
				DETAIL = 'Rows that are written through its root would have no context.',
				HINT = format('SELECT bemi.track(%L);', root);
	END IF;
	IF ignore <> '{}' OR redact <> '{}' OR redact_hash <> '{}' THEN
		RAISE EXCEPTION 'cannot set rules for table "%"', t.relname
			USING ERRCODE = 'feature_not_supported',
				DETAIL = 'Rules for columns need extension bemi in this database.',
				HINT = 'bemi.ignore_columns at the server of the history ignores columns.';
	END IF;
	PERFORM _bemi.check_owner(target);

	-- At once the lock that REPLICA IDENTITY needs, because an upgrade could deadlock. The loop
	-- looks for partitions that were attached during the wait.
	LOOP
		SELECT p INTO partition FROM _bemi.partitions(target) p
			JOIN pg_class c ON c.oid = p
			WHERE _bemi.untrackable(p) IS NULL
				AND NOT (_bemi.has_trigger(p)
					AND EXISTS (SELECT FROM pg_trigger g
						WHERE g.tgrelid = p AND g.tgname = 'bemi_reemit_context')
					AND (c.relreplident = 'f' OR NOT _bemi.can_be_full(p))
					AND (p = root OR NOT _bemi.is_published(p)))
			LIMIT 1;
		EXIT WHEN NOT FOUND;
		PERFORM _bemi.check_owner(partition);
		PERFORM _bemi.lock_table(partition, 'ACCESS EXCLUSIVE');
		PERFORM _bemi.prepare_table(partition);
		IF partition <> root AND _bemi.is_published(partition) THEN
			-- It was tracked by itself.
			EXECUTE format('ALTER PUBLICATION bemi DROP TABLE ONLY %s', partition);
			EXECUTE (SELECT regexp_replace(
					regexp_replace(pg_get_triggerdef(g.oid), '^CREATE', 'CREATE OR REPLACE'),
					E'''table''\\)$', E'''attached'')')
				FROM pg_trigger g WHERE g.tgrelid = partition AND g.tgname = 'bemi_emit_context');
		END IF;
	END LOOP;
	FOR partition, reason IN SELECT p, _bemi.untrackable(p) FROM _bemi.partitions(target) p
		WHERE _bemi.untrackable(p) IS NOT NULL
	LOOP
		RAISE NOTICE 'partition "%" is not tracked', partition USING DETAIL = reason;
	END LOOP;
	IF root = target AND NOT _bemi.is_published(target) THEN
		EXECUTE format('ALTER PUBLICATION bemi ADD TABLE ONLY %s', target);
	END IF;
END
$bemi$;
COMMENT ON FUNCTION bemi.track(regclass, name[], name[], name[])
	IS 'stores every change of the table and its partitions from now on; call it again after a '
		'partition was added';
REVOKE ALL ON FUNCTION bemi.track(regclass, name[], name[], name[]) FROM PUBLIC;

CREATE OR REPLACE FUNCTION bemi.untrack(target regclass)
	RETURNS void
	LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	t pg_class;
	root regclass;
	partition regclass;
	arguments text[];
	identity text;
BEGIN
	SELECT * INTO t FROM pg_class c WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to untrack does not exist' USING ERRCODE = 'undefined_table';
	END IF;
	root := _bemi.partition_root(target);
	IF root <> target AND _bemi.has_trigger(root) THEN
		RAISE EXCEPTION 'cannot untrack partition "%" alone', t.relname
			USING ERRCODE = 'wrong_object_type',
				DETAIL = 'It is published with its root, and updates of a published table fail '
					'without a replica identity.',
				HINT = format('SELECT bemi.untrack(%L);', root);
	END IF;
	PERFORM _bemi.check_owner(target);
	IF NOT _bemi.has_trigger(target) AND NOT _bemi.is_published(target) THEN
		RETURN;
	END IF;
	PERFORM _bemi.lock_table(target, 'ACCESS EXCLUSIVE');
	IF _bemi.is_published(target) THEN
		EXECUTE format('ALTER PUBLICATION bemi DROP TABLE ONLY %s', target);
	END IF;

	FOR partition IN SELECT p FROM _bemi.partitions(target) p WHERE _bemi.has_trigger(p) LOOP
		PERFORM _bemi.check_owner(partition);
		PERFORM _bemi.lock_table(partition, 'ACCESS EXCLUSIVE');
		-- Arguments are texts, each ended by a zero byte.
		SELECT string_to_array(encode(g.tgargs, 'escape'), E'\\000') INTO arguments
			FROM pg_trigger g WHERE g.tgrelid = partition AND g.tgname = 'bemi_emit_context';
		SELECT * INTO t FROM pg_class c WHERE c.oid = partition;
		EXECUTE format('DROP TRIGGER bemi_emit_context ON %s', partition);
		EXECUTE format('DROP TRIGGER IF EXISTS bemi_reemit_context ON %s', partition);
		CONTINUE WHEN t.relreplident <> 'f' OR arguments[1] = 'f';
		identity := CASE arguments[1] WHEN 'n' THEN 'NOTHING' WHEN 'i'
			THEN format('USING INDEX %I',
				convert_from(decode(arguments[2], 'escape'), getdatabaseencoding()))
			ELSE 'DEFAULT' END;
		BEGIN
			EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', partition, identity);
		EXCEPTION WHEN undefined_object OR undefined_table OR wrong_object_type
			OR object_not_in_prerequisite_state
		THEN
			RAISE NOTICE
				'index "%" of table "%" no longer exists, its replica identity becomes DEFAULT',
				arguments[2], t.relname;
			EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY DEFAULT', partition);
		END;
	END LOOP;
END
$bemi$;
COMMENT ON FUNCTION bemi.untrack(regclass)
	IS 'stores no more changes of the table, and restores its state before bemi.track(); its '
		'history stays';
REVOKE ALL ON FUNCTION bemi.untrack(regclass) FROM PUBLIC;

-- Not used unless there is an event trigger, which takes a superuser, or a host that allows it:
--   CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end
--       WHEN TAG IN ('CREATE TABLE', 'ALTER TABLE') EXECUTE FUNCTION _bemi.follow_ddl();
-- It runs with the rights of whoever runs the command, who owns the new partition.
CREATE OR REPLACE FUNCTION _bemi.follow_ddl()
	RETURNS event_trigger
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $bemi$
DECLARE
	partition regclass;
BEGIN
	-- Only pg_catalog: a role without rights on _bemi may create tables that are not tracked.
	IF NOT EXISTS (
		WITH RECURSIVE line(relid) AS (
			SELECT d.objid FROM pg_event_trigger_ddl_commands() d
				WHERE d.classid = 'pg_class'::regclass
			UNION SELECT i.inhparent FROM line l JOIN pg_inherits i ON i.inhrelid = l.relid
		)
		SELECT FROM line l JOIN pg_trigger g
			ON g.tgrelid = l.relid AND g.tgname = 'bemi_emit_context')
	THEN
		RETURN;
	END IF;
	FOR partition IN
		SELECT DISTINCT p.relation
			FROM pg_event_trigger_ddl_commands() d,
				LATERAL _bemi.partitions(d.objid) p(relation)
				JOIN pg_class c ON c.oid = p.relation
			WHERE d.classid = 'pg_class'::regclass AND d.object_type = 'table'
				AND c.relispartition AND NOT _bemi.has_trigger(p.relation)
				AND _bemi.untrackable(p.relation) IS NULL
				AND _bemi.has_trigger(_bemi.partition_root(p.relation))
	LOOP
		PERFORM _bemi.prepare_table(partition);
	END LOOP;
END
$bemi$;
COMMENT ON FUNCTION _bemi.follow_ddl()
	IS 'event trigger function: tracks new partitions of tracked tables';
GRANT EXECUTE ON FUNCTION _bemi.follow_ddl() TO PUBLIC;
