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
-- identity that the table had before, so that it travels with the table: into a
-- dump, through a rename, and away with DROP TABLE.
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

-- ALTER PUBLICATION takes the publication's owner, and whoever may track a table
-- need not be that one; hence SECURITY DEFINER. The caller must own the table,
-- and must have been granted track(). "role" is the caller's SET ROLE, which
-- SECURITY DEFINER does not change and nobody can set beyond his memberships.
CREATE FUNCTION bemi.publish(target regclass, wanted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
	rel record;
	published boolean;
BEGIN
	SELECT n.nspname, c.relname, c.relowner INTO STRICT rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	IF NOT pg_has_role(caller, rel.relowner, 'USAGE')
		OR NOT has_function_privilege(caller, 'bemi.track(regclass)', 'EXECUTE') THEN
		RAISE EXCEPTION 'permission denied to track table "%"', rel.relname
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'It takes the owner of the table, and the right to call bemi.track().';
	END IF;

	SELECT EXISTS (SELECT FROM pg_publication_rel pr JOIN pg_publication p ON p.oid = pr.prpubid
		WHERE p.pubname = 'bemi' AND pr.prrelid = target) INTO published;
	IF wanted AND NOT published THEN
		PERFORM bemi.ensure_publication();
		EXECUTE format('ALTER PUBLICATION bemi ADD TABLE ONLY %I.%I', rel.nspname, rel.relname);
	ELSIF NOT wanted AND published THEN
		EXECUTE format('ALTER PUBLICATION bemi DROP TABLE ONLY %I.%I', rel.nspname, rel.relname);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.publish(regclass, boolean)
	IS 'internal: puts a table into the publication "bemi", or takes it out';

CREATE FUNCTION bemi.check_trackable(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	reason text;
BEGIN
	SELECT c.relname, c.relkind, c.relpersistence, n.nspname INTO rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'table to track does not exist'
			USING ERRCODE = 'undefined_table';
	END IF;

	reason := CASE
		WHEN rel.relkind = 'f' THEN 'The rows of a foreign table are written on another server; track them there.'
		WHEN rel.relkind IN ('v', 'm') THEN 'A view has no rows of its own; track the tables below it.'
		WHEN rel.relkind NOT IN ('r', 'p') THEN 'It is not a table.'
		WHEN rel.nspname IN ('pg_catalog', 'information_schema', 'pg_toast') THEN 'It is a system table.'
		WHEN rel.nspname = 'bemi' THEN 'It is one of bemi''s own; the history would grow by being kept.'
		WHEN rel.relpersistence = 't' THEN 'A temporary table is not written to the write-ahead log.'
		WHEN rel.relpersistence = 'u' THEN 'An unlogged table is not written to the write-ahead log.'
	END;
	IF reason IS NOT NULL AND rel.relpersistence = 'u' AND rel.relkind = 'r' THEN
		RAISE EXCEPTION 'cannot track "%"', rel.relname
			USING ERRCODE = 'wrong_object_type', DETAIL = reason,
				HINT = format('ALTER TABLE %I.%I SET LOGGED;', rel.nspname, rel.relname);
	ELSIF reason IS NOT NULL THEN
		RAISE EXCEPTION 'cannot track "%"', rel.relname
			USING ERRCODE = 'wrong_object_type', DETAIL = reason;
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.check_trackable(regclass) IS 'internal: error with the reason if the relation cannot be tracked';

CREATE FUNCTION bemi.track(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
BEGIN
	FOR rel IN SELECT * FROM bemi.partitions(target) LOOP
		PERFORM bemi.check_trackable(rel.relation);
	END LOOP;
	IF NOT FOUND THEN
		PERFORM bemi.check_trackable(target);
	END IF;

	FOR rel IN SELECT * FROM bemi.partitions(target) LOOP
		-- The stronger lock first: an upgrade could deadlock with the application.
		IF rel.identity <> 'f' THEN
			EXECUTE format('ALTER TABLE %I.%I REPLICA IDENTITY FULL', rel.schema, rel.name);
		END IF;
		IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = rel.relation
			AND tgname = 'bemi_emit_context' AND tgfoid = 'bemi.emit_context()'::regprocedure) THEN
			EXECUTE format('CREATE TRIGGER bemi_emit_context'
				' BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I.%I FOR EACH STATEMENT'
				' EXECUTE FUNCTION bemi.emit_context(%L, %L)',
				rel.schema, rel.name, rel.identity, coalesce(rel.identity_index, ''));
		END IF;
	END LOOP;

	PERFORM bemi.publish(target, true);
END
$$;
COMMENT ON FUNCTION bemi.track(regclass)
	IS 'keeps every change of the table from now on, partitions included; tracking twice is harmless';

CREATE FUNCTION bemi.untrack(target regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	args bytea;
	first_end integer;
	former_identity text;
	former_index name;
BEGIN
	IF NOT EXISTS (SELECT FROM bemi.partitions(target)) THEN
		RAISE EXCEPTION 'table to untrack does not exist'
			USING ERRCODE = 'undefined_table';
	END IF;
	PERFORM bemi.publish(target, false);

	FOR rel IN SELECT * FROM bemi.partitions(target) LOOP
		SELECT tgargs INTO args FROM pg_trigger WHERE tgrelid = rel.relation
			AND tgname = 'bemi_emit_context' AND tgfoid = 'bemi.emit_context()'::regprocedure;
		CONTINUE WHEN NOT FOUND;

		-- tgargs holds both arguments, each ended by a zero byte.
		first_end := position('\x00'::bytea IN args);
		former_identity := convert_from(substring(args FOR first_end - 1), getdatabaseencoding());
		former_index := convert_from(substring(args FROM first_end + 1
			FOR octet_length(args) - first_end - 1), getdatabaseencoding());

		-- An identity that somebody has changed since is not ours to put back.
		IF rel.identity = 'f' AND former_identity <> 'f' THEN
			IF former_identity = 'i' AND NOT EXISTS (SELECT FROM pg_index i
				JOIN pg_class c ON c.oid = i.indexrelid
				WHERE i.indrelid = rel.relation AND c.relname = former_index) THEN
				RAISE NOTICE 'index "%" of table "%" is gone, its replica identity becomes DEFAULT',
					former_index, rel.name;
				former_identity := 'd';
			END IF;
			EXECUTE format('ALTER TABLE %I.%I REPLICA IDENTITY ', rel.schema, rel.name)
				|| CASE former_identity
					WHEN 'n' THEN 'NOTHING'
					WHEN 'i' THEN format('USING INDEX %I', former_index)
					ELSE 'DEFAULT' END;
		END IF;
		EXECUTE format('DROP TRIGGER bemi_emit_context ON %I.%I', rel.schema, rel.name);
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.untrack(regclass)
	IS 'keeps no further changes of the table, and leaves it as it was before bemi.track()';

CREATE VIEW bemi.tracked AS
	SELECT rel."table", rel.triggers, rel.identity, rel.published,
		array_remove(ARRAY[
			CASE WHEN rel.triggers = '{}' THEN 'no trigger: changes come without context' END,
			CASE WHEN rel.disabled THEN 'a trigger is disabled' END,
			CASE WHEN rel.identity <> 'FULL' THEN 'replica identity is not FULL: before is not whole' END,
			CASE WHEN NOT rel.published THEN 'not in publication "bemi": changes are not stored' END,
			CASE WHEN rel.relpersistence = 'u' THEN 'unlogged: changes are not stored' END
		], NULL) AS problems
	FROM (
		SELECT c.oid::regclass AS "table", c.relpersistence,
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
-- makes them, and pg_dump carries them with their rows. Text is compared by
-- bytes, which is what look-ups by key need and is cheaper to index.
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
	position bigint NOT NULL,
	-- id alone is unique, but the key of a partitioned table names its partition
	PRIMARY KEY (id, committed_at)
) PARTITION BY RANGE (committed_at);
CREATE INDEX changes_row_idx ON bemi.changes (schema, "table", primary_key, id);
CREATE INDEX changes_context_idx ON bemi.changes USING gin (context jsonb_path_ops);
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
BEGIN
	EXECUTE format('CREATE TABLE bemi.%I (LIKE bemi.changes INCLUDING ALL EXCLUDING INDEXES)', partition);
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
CREATE EVENT TRIGGER bemi_protect_history ON ddl_command_start WHEN TAG IN ('DROP EXTENSION')
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
	slot_made boolean NOT NULL DEFAULT false,
	invalid_messages bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE bemi.sources IS 'sources that bemi.start() was called for; bemi.status shows how they are';
COMMENT ON COLUMN bemi.sources.name IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.sources.conninfo IS 'connection string of the source, NULL for this database; may hold secrets';
COMMENT ON COLUMN bemi.sources.slot_name IS 'its replication slot; the replication origin that keeps its progress has the same name';
COMMENT ON COLUMN bemi.sources.wanted IS 'run, stop, or drop (slot, origin and this row)';
COMMENT ON COLUMN bemi.sources.slot_made IS 'whether the slot was made; a slot that is missing then is an error, not made anew';
COMMENT ON COLUMN bemi.sources.invalid_messages IS 'context messages that were not JSON objects';
SELECT pg_catalog.pg_extension_config_dump('bemi.sources', '');

CREATE FUNCTION bemi.register_source(source text, conninfo text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slot name := format('bemi_%s_%s', (SELECT oid FROM pg_database WHERE datname = current_database()), source);
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

	PERFORM bemi.ensure_publication();
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
	DELETE FROM bemi.sources s WHERE s.name = source AND NOT s.slot_made RETURNING s.slot_name INTO slot;
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
			AND pg_replication_origin_oid(s.slot_name) IS NULL;
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
		w.pid, s.slot_name, w.received_lsn, w.stored_lsn,
		s.invalid_messages, coalesce(w.restarts, 0) AS restarts, w.last_error, w.last_error_at
	FROM bemi.sources s LEFT JOIN bemi.source_status() w ON w.source = s.name;
COMMENT ON VIEW bemi.status IS 'state, progress and errors of each source';
COMMENT ON COLUMN bemi.status.source IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.status.state IS 'starting, connecting, making slot, streaming, failed (tried again, see last_error), stopped, dropping, not running';
COMMENT ON COLUMN bemi.status.pid IS 'process of the worker, NULL if it is not running';
COMMENT ON COLUMN bemi.status.slot_name IS 'replication slot at the source';
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
REVOKE EXECUTE ON FUNCTION bemi.track(regclass), bemi.untrack(regclass) FROM PUBLIC;
-- Change what is read, or reveal how it is.
REVOKE EXECUTE ON FUNCTION bemi.ensure_publication(), bemi.make_partition(timestamptz),
	bemi.register_source(text, text), bemi.unregister_source(text), bemi.want_source(text, text),
	bemi.source_status(), bemi.sync(interval) FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE bemi.start(text, text, boolean), bemi.stop(text, boolean) FROM PUBLIC;
-- Monitoring sees how the sources are, not what they store.
GRANT SELECT ON bemi.status, bemi.tracked TO pg_monitor;
GRANT EXECUTE ON FUNCTION bemi.source_status(), bemi.sync(interval) TO pg_monitor;
