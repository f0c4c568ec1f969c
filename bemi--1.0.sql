/* bemi--1.0.sql: make puts it together from the files in sql/, so change those */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION bemi" to load this file. \quit

-- Event triggers of others fire for each command of this script, and fail if they need
-- another search_path than its own. So the script runs as a replica, for which ordinary
-- event triggers do not fire. CREATE EXTENSION itself fires them, because the last command
-- of this script restores the role. Scripts for ALTER EXTENSION ... UPDATE need both, too.
SELECT pg_catalog.set_config('bemi_script.session_replication_role',
	pg_catalog.current_setting('session_replication_role'), true);
SET LOCAL session_replication_role = replica;

-- ENABLE ALWAYS and ENABLE REPLICA event triggers fire all the same. This runs one command
-- of each kind first, because then the error can name the trigger that fails.
DO $$
DECLARE
	message text;
	context text;
	state text;
	failing record;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtenabled IN ('A', 'R')) THEN
		RETURN;
	END IF;
	CREATE SCHEMA bemi;
	COMMENT ON SCHEMA bemi IS '';
	CREATE FUNCTION bemi.probe() RETURNS integer LANGUAGE sql AS 'SELECT 1';
	CREATE PROCEDURE bemi.probe_procedure() LANGUAGE sql AS 'SELECT 1';
	CREATE TABLE bemi.probe_table (id integer);
	ALTER TABLE bemi.probe_table SET (autovacuum_enabled = off);
	CREATE INDEX ON bemi.probe_table (id);
	CREATE VIEW bemi.probe_view AS SELECT id FROM bemi.probe_table;
	GRANT USAGE ON SCHEMA bemi TO PUBLIC;
	REVOKE USAGE ON SCHEMA bemi FROM PUBLIC;
	-- Undoes all of this.
	RAISE SQLSTATE 'BEMI0';
EXCEPTION
	WHEN SQLSTATE 'BEMI0' THEN
		RETURN;
	WHEN OTHERS THEN
		GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, context = PG_EXCEPTION_CONTEXT,
			state = RETURNED_SQLSTATE;
		SELECT e.evtname, CASE e.evtenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END AS enabled
			INTO failing
			FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
			WHERE e.evtenabled IN ('A', 'R') AND (strpos(context, format(' %I()', p.proname)) > 0
				OR strpos(context, format('.%I()', p.proname)) > 0
				OR strpos(context, format(' "%s"', p.proname)) > 0)
			ORDER BY e.evtname LIMIT 1;
		IF NOT FOUND THEN
			RAISE;
		END IF;
		RAISE EXCEPTION 'event trigger "%" fails for a command of the script that creates bemi',
			failing.evtname
			USING ERRCODE = state, DETAIL = message,
				HINT = format('ALTER EVENT TRIGGER %I DISABLE; CREATE EXTENSION bemi; '
					'ALTER EVENT TRIGGER %1$I ENABLE %s;', failing.evtname, failing.enabled);
END
$$;

-- The packages of bemi.io create a trigger for each row, an event trigger that adds it to new
-- tables, and one that sets replica identities. The message of the row trigger replaces the
-- context that bemi has emitted for the statement.
DO $$
DECLARE
	remedy text;
BEGIN
	SELECT string_agg(d.command, ' ' ORDER BY d.place, d.command) INTO remedy
		FROM (SELECT 1, format('DROP EVENT TRIGGER %I;', e.evtname) FROM pg_event_trigger e
				WHERE e.evtname ~ '^_bemi_(create_table|set_replica_identity)_trigger'
			UNION SELECT 2, format('DROP FUNCTION %s CASCADE;', t.tgfoid::regprocedure)
				FROM pg_trigger t WHERE t.tgname ~ '^_bemi_row_trigger_') d(place, command);
	IF remedy IS NOT NULL THEN
		RAISE WARNING 'triggers of another Bemi are in this database'
			USING HINT = remedy, DETAIL = 'They write a second context for each row, '
				'and track new tables a second time.';
	END IF;
END
$$;

-- The script creates the schema itself, and fails if it exists, because its owner could have
-- planted objects in it.
CREATE SCHEMA bemi;
COMMENT ON SCHEMA bemi IS 'history of every row, with the reason for each change';
REVOKE ALL ON SCHEMA bemi FROM PUBLIC;
GRANT USAGE ON SCHEMA bemi TO PUBLIC;

-- Functions of schema bemi call those of _bemi with the rights of their caller, so every role
-- needs USAGE.
CREATE SCHEMA _bemi;
COMMENT ON SCHEMA _bemi
	IS 'partitions of bemi.changes, and internals that can change without notice';
REVOKE ALL ON SCHEMA _bemi FROM PUBLIC;
GRANT USAGE ON SCHEMA _bemi TO PUBLIC;

--
-- Tables: the state of the extension. The functions are in the files after this one.
--

-- A row that came with a dump has no effect until bemi.start() or bemi.track_schema() enables
-- it. Otherwise the event trigger would track tables for which the dump is about to restore
-- trigger, identity and publication. Name and OID: a dump keeps the name, a rename keeps the
-- OID. (pg_upgrade refuses columns of type regnamespace.)
CREATE TABLE bemi.tracked_schemas (
	schema name PRIMARY KEY,
	schema_oid oid NOT NULL,
	enabled_in text NOT NULL
);
CREATE INDEX tracked_schemas_schema_oid_idx ON bemi.tracked_schemas (schema_oid);
COMMENT ON TABLE bemi.tracked_schemas
	IS 'schemas whose tables are all tracked, including tables created later';
COMMENT ON COLUMN bemi.tracked_schemas.schema IS 'name of the schema given to bemi.track_schema()';
COMMENT ON COLUMN bemi.tracked_schemas.schema_oid
	IS 'OID of the schema in the database where the row was written';
COMMENT ON COLUMN bemi.tracked_schemas.enabled_in
	IS 'database where the row was written, as _bemi.this_database() names it; the row has no '
		'effect in another one';
REVOKE ALL ON bemi.tracked_schemas FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('bemi.tracked_schemas', '');

-- The publication decides which changes are in the history. Each change of the publication is
-- written to the WAL as a tracking message, so the worker reads it in order with the changes and
-- records it in bemi.gaps. Every user can write logical messages. Tracking messages are signed,
-- because a forged one would falsify bemi.gaps.
CREATE TABLE _bemi.signing_key (
	value text NOT NULL
);
COMMENT ON TABLE _bemi.signing_key
	IS 'signing key of tracking messages; a role that can read it can forge them';
COMMENT ON COLUMN _bemi.signing_key.value IS 'created by CREATE EXTENSION, and not dumped';
REVOKE ALL ON _bemi.signing_key FROM PUBLIC;
INSERT INTO _bemi.signing_key
	VALUES (pg_catalog.concat(pg_catalog.gen_random_uuid(), pg_catalog.gen_random_uuid()));

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
	source text COLLATE "C" NOT NULL
) PARTITION BY RANGE (committed_at);
-- Partitions have an identity of their own, see _bemi.make_partition(). A subscriber that reads
-- them under the root's name gets the root's, and refuses an UPDATE or DELETE without one. An
-- index of id alone cannot be unique over all partitions, so it cannot be the root's identity.
ALTER TABLE bemi.changes REPLICA IDENTITY FULL;
COMMENT ON TABLE bemi.changes
	IS 'history: one row for each row inserted, updated or deleted, and for each table truncated';
COMMENT ON COLUMN bemi.changes.id
	IS 'UUID version 8, built from commit LSN, place in the transaction and source; orders the '
		'changes by commit';
COMMENT ON COLUMN bemi.changes.database IS 'database of the changed table';
COMMENT ON COLUMN bemi.changes.schema IS 'schema of the changed table';
COMMENT ON COLUMN bemi.changes."table"
	IS 'changed table; for a partition, the root that is published';
COMMENT ON COLUMN bemi.changes.primary_key
	IS 'primary key as text; a JSON array of texts in key order if it has several columns; NULL '
		'if there is none';
COMMENT ON COLUMN bemi.changes.operation IS 'CREATE, UPDATE, DELETE or TRUNCATE';
COMMENT ON COLUMN bemi.changes.before IS 'row before the change, {} if there was none';
COMMENT ON COLUMN bemi.changes.after IS 'row after the change, {} if there is none';
COMMENT ON COLUMN bemi.changes.context
	IS 'context of the statement, {} if there was none; only the first change of a transaction '
		'has all of a large context, see bemi.full_context()';
COMMENT ON COLUMN bemi.changes.committed_at
	IS 'commit time, as the source sent it; bemi.retention uses it';
COMMENT ON COLUMN bemi.changes.queued_at IS 'when the worker received the change';
COMMENT ON COLUMN bemi.changes.created_at IS 'when the worker stored the change';
COMMENT ON COLUMN bemi.changes.transaction_id IS 'transaction ID (xid) at the source';
COMMENT ON COLUMN bemi.changes.position IS 'LSN of the row''s WAL record at the source';
COMMENT ON COLUMN bemi.changes.source
	IS 'source that the change was read from, as named in bemi.start()';
REVOKE ALL ON bemi.changes FROM PUBLIC;

-- bemi.index_context() writes it, and _bemi.make_partition() reads it.
CREATE TABLE _bemi.context_index_keys (
	key text COLLATE "C" PRIMARY KEY
);
COMMENT ON TABLE _bemi.context_index_keys
	IS 'keys of the context that each new partition of bemi.changes gets an index for';
COMMENT ON COLUMN _bemi.context_index_keys.key IS 'key given to bemi.index_context()';
REVOKE ALL ON _bemi.context_index_keys FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.context_index_keys', '');

CREATE TABLE bemi.holds (
	from_time timestamptz NOT NULL,
	to_time timestamptz NOT NULL,
	reason text,
	held_by text NOT NULL DEFAULT session_user,
	held_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	PRIMARY KEY (from_time, to_time),
	CHECK (from_time < to_time)
);
COMMENT ON TABLE bemi.holds
	IS 'time ranges whose partitions bemi.retention does not drop; bemi.hold() adds a range, '
		'bemi.release() removes it';
COMMENT ON COLUMN bemi.holds.from_time IS 'start of the range; compared with committed_at';
COMMENT ON COLUMN bemi.holds.to_time IS 'end of the range, which is not part of it';
COMMENT ON COLUMN bemi.holds.reason IS 'reason for the hold';
COMMENT ON COLUMN bemi.holds.held_by IS 'session user who created the hold';
COMMENT ON COLUMN bemi.holds.held_at IS 'when the hold was created';
REVOKE ALL ON bemi.holds FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('bemi.holds', '');

CREATE TABLE bemi.gaps (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source text COLLATE "C",
	schema text COLLATE "C",
	"table" text COLLATE "C",
	reason text COLLATE "C" NOT NULL,
	from_lsn pg_lsn,
	to_lsn pg_lsn,
	from_time timestamptz NOT NULL,
	to_time timestamptz,
	noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	detail text NOT NULL,
	CHECK (from_time <= to_time),
	-- Each of these has its row in docs/reference/gap-reasons.md, and its sentence in
	-- _bemi.default_detail().
	CONSTRAINT gaps_reason_check CHECK (reason IN (
		'source_started',
		'source_dropped',
		'slot_dropped',
		'slot_lost',
		'max_slot_lag',
		'slot_unreadable',
		'transaction_unreadable',
		'server_changed',
		'history_moved',
		'timeline_changed',
		'source_went_back',
		'history_went_back',
		'tracking_began',
		'tracking_ended',
		'rows_changed_by_ddl',
		'retention'))
);
CREATE INDEX ON bemi.gaps (source, schema, "table");
CREATE INDEX ON bemi.gaps (source) WHERE "table" IS NULL;
CREATE INDEX ON bemi.gaps (source, from_time) WHERE "table" IS NOT NULL AND to_time IS NULL;
COMMENT ON TABLE bemi.gaps
	IS 'time ranges in which changes may be missing; bemi.complete() and bemi.completeness() '
		'evaluate them';
COMMENT ON COLUMN bemi.gaps.id IS 'number of the gap, in the order in which gaps were noticed';
COMMENT ON COLUMN bemi.gaps.source IS 'source with the gap; NULL: all sources';
COMMENT ON COLUMN bemi.gaps.schema IS 'schema of the table; NULL: all tables';
COMMENT ON COLUMN bemi.gaps."table" IS 'table with the gap; NULL: all tables of the source';
COMMENT ON COLUMN bemi.gaps.reason
	IS 'code of the reason, see constraint gaps_reason_check; detail explains it';
COMMENT ON COLUMN bemi.gaps.from_lsn
	IS 'everything up to this LSN of the source is stored; NULL: unknown';
COMMENT ON COLUMN bemi.gaps.to_lsn
	IS 'everything from this LSN of the source on is stored; NULL: unknown, or the gap is open';
COMMENT ON COLUMN bemi.gaps.from_time
	IS 'changes committed after this time may be missing; -infinity: all before to_time';
COMMENT ON COLUMN bemi.gaps.to_time
	IS 'changes committed up to this time may be missing; NULL: the gap is open';
COMMENT ON COLUMN bemi.gaps.noticed_at IS 'when the gap was recorded or extended';
COMMENT ON COLUMN bemi.gaps.detail IS 'explains the reason, with other facts about the gap';
REVOKE ALL ON bemi.gaps FROM PUBLIC;
COMMENT ON SEQUENCE bemi.gaps_id_seq IS 'internal: numbers of bemi.gaps';
REVOKE ALL ON SEQUENCE bemi.gaps_id_seq FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('bemi.gaps', '');
SELECT pg_catalog.pg_extension_config_dump('bemi.gaps_id_seq', '');

-- Distinguishes a tracked table without changes from an untracked one.
CREATE TABLE _bemi.source_tables (
	source text COLLATE "C",
	schema text COLLATE "C",
	"table" text COLLATE "C",
	relation oid NOT NULL,
	server text NOT NULL,
	PRIMARY KEY (source, schema, "table")
);
CREATE INDEX ON _bemi.source_tables (relation);
COMMENT ON TABLE _bemi.source_tables
	IS 'tables that each source tracks, up to where its worker has read';
COMMENT ON COLUMN _bemi.source_tables.source IS 'name of the source';
COMMENT ON COLUMN _bemi.source_tables.schema IS 'schema of the table';
COMMENT ON COLUMN _bemi.source_tables."table" IS 'tracked table';
COMMENT ON COLUMN _bemi.source_tables.relation IS 'OID of the table at the source';
COMMENT ON COLUMN _bemi.source_tables.server IS 'system identifier and database of the source';
REVOKE ALL ON _bemi.source_tables FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.source_tables', '');

-- Sources send descriptions in the stream, so a description is valid for the changes that follow
-- it. Not dumped, because a source sends all descriptions again after it is started.
CREATE TABLE _bemi.source_relations (
	source text COLLATE "C",
	relation oid,
	description jsonb NOT NULL,
	PRIMARY KEY (source, relation)
);
COMMENT ON TABLE _bemi.source_relations
	IS 'descriptions of published tables, up to where each worker has read';
COMMENT ON COLUMN _bemi.source_relations.source IS 'name of the source';
COMMENT ON COLUMN _bemi.source_relations.relation IS 'OID of the table at the source';
COMMENT ON COLUMN _bemi.source_relations.description
	IS 'result of _bemi.describe(): columns of the primary key, parts of types, and rules for '
		'columns';
REVOKE ALL ON _bemi.source_relations FROM PUBLIC;

CREATE TABLE bemi.sources (
	name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[a-z0-9_]{1,32}$'),
	owner name NOT NULL,
	conninfo text,
	slot_name name NOT NULL,
	desired text COLLATE "C" NOT NULL CHECK (desired IN ('run', 'stop', 'drop', 'force_drop')),
	slot_made boolean NOT NULL DEFAULT false,
	system_identifier text,
	timeline bigint,
	timeline_ancestors text,
	database text,
	reader text
);
COMMENT ON TABLE bemi.sources IS 'sources created by bemi.start(); bemi.status shows their state';
COMMENT ON COLUMN bemi.sources.name IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.sources.owner
	IS 'role that can start and stop the source, if it has REPLICATION; superusers always can';
COMMENT ON COLUMN bemi.sources.conninfo
	IS 'connection string of the source, NULL for this database; can contain secrets';
COMMENT ON COLUMN bemi.sources.slot_name
	IS 'replication slot at the source; the replication origin has the name _bemi.origin_of(name)';
COMMENT ON COLUMN bemi.sources.desired
	IS 'state to be reached: run, stop, drop (slot, origin and this row), or force_drop (as '
		'drop, but keeps a slot on another server)';
COMMENT ON COLUMN bemi.sources.slot_made
	IS 'whether the slot was created; if it is missing later, changes are lost';
COMMENT ON COLUMN bemi.sources.system_identifier
	IS 'system identifier of the server where the slot was created';
COMMENT ON COLUMN bemi.sources.timeline IS 'timeline of the server when the worker last connected';
COMMENT ON COLUMN bemi.sources.timeline_ancestors
	IS 'former timelines of the server, one per line: number, and LSN at which it ended; NULL: '
		'unknown';
COMMENT ON COLUMN bemi.sources.database IS 'database that is read';
COMMENT ON COLUMN bemi.sources.reader
	IS 'server that reads a source on another server, as _bemi.this_reader() names it; NULL: the '
		'next server that finds the slot without a reader';
REVOKE ALL ON bemi.sources FROM PUBLIC;
-- Connection strings are for superusers only. Row security hides the rows from everybody else.
-- The table is not dumped, because others can make and read a dump. After a restore, sources are
-- started again.
ALTER TABLE bemi.sources ENABLE ROW LEVEL SECURITY;

-- Separate from bemi.sources, because a session can lock rows of that until its transaction ends,
-- and the worker must not wait for it.
CREATE TABLE _bemi.source_progress (
	source text COLLATE "C" PRIMARY KEY,
	changes bigint NOT NULL,
	transactions bigint NOT NULL,
	invalid_messages bigint NOT NULL,
	stored_until timestamptz,
	signing_key_version text,
	stored_lsn pg_lsn,
	changed_lsn pg_lsn,
	changed_at timestamptz,
	changed_xid bigint,
	server_started_at timestamptz,
	system_identifier text,
	timeline bigint,
	timeline_ancestors text,
	database text
) WITH (fillfactor = 50);
COMMENT ON TABLE _bemi.source_progress
	IS 'counters and positions of each source, about a second old; bemi.status shows the current '
		'ones';
COMMENT ON COLUMN _bemi.source_progress.source IS 'name of the source';
COMMENT ON COLUMN _bemi.source_progress.changes IS 'changes stored';
COMMENT ON COLUMN _bemi.source_progress.transactions
	IS 'source transactions with changes that were stored';
COMMENT ON COLUMN _bemi.source_progress.invalid_messages
	IS 'messages under bemi''s prefixes that were not valid';
COMMENT ON COLUMN _bemi.source_progress.stored_until
	IS 'everything committed at the source before this time is stored';
COMMENT ON COLUMN _bemi.source_progress.stored_lsn
	IS 'LSN at the source; all commits with times before stored_until are before it';
COMMENT ON COLUMN _bemi.source_progress.changed_lsn
	IS 'LSN of the last commit with changes at the source; NULL: unknown';
COMMENT ON COLUMN _bemi.source_progress.changed_at IS 'time of that commit';
COMMENT ON COLUMN _bemi.source_progress.changed_xid IS 'transaction ID of that commit';
COMMENT ON COLUMN _bemi.source_progress.server_started_at
	IS 'start time of the source''s server, as of the last connection';
COMMENT ON COLUMN _bemi.source_progress.system_identifier
	IS 'as in bemi.sources, which is not dumped: system identifier of the server';
COMMENT ON COLUMN _bemi.source_progress.timeline IS 'as in bemi.sources: timeline of the server';
COMMENT ON COLUMN _bemi.source_progress.timeline_ancestors
	IS 'as in bemi.sources: former timelines of the server';
COMMENT ON COLUMN _bemi.source_progress.database IS 'as in bemi.sources: database that is read';
COMMENT ON COLUMN _bemi.source_progress.signing_key_version
	IS 'hash of the source''s signing key; NULL: the worker can read no key';
REVOKE ALL ON _bemi.source_progress FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.source_progress', '');

--
-- Context: what the application states about its own statements
--

CREATE FUNCTION bemi.set_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_set_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.set_context(jsonb, boolean)
	IS 'sets the context of later statements in this transaction, or in this session if is_local '
		'is false';
GRANT EXECUTE ON FUNCTION bemi.set_context(jsonb, boolean) TO PUBLIC;

CREATE FUNCTION bemi.merge_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_merge_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.merge_context(jsonb, boolean)
	IS 'adds keys to the context, or replaces them, in this transaction, or in this session if '
		'is_local is false';
GRANT EXECUTE ON FUNCTION bemi.merge_context(jsonb, boolean) TO PUBLIC;

CREATE FUNCTION bemi.current_context()
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_current_context'
	LANGUAGE C STABLE PARALLEL RESTRICTED;
COMMENT ON FUNCTION bemi.current_context()
	IS 'context that a row written by this statement would get, {} if there is none';
GRANT EXECUTE ON FUNCTION bemi.current_context() TO PUBLIC;

CREATE FUNCTION bemi.emit_context()
	RETURNS trigger
	AS 'MODULE_PATHNAME', 'bemi_emit_context'
	LANGUAGE C;
COMMENT ON FUNCTION bemi.emit_context()
	IS 'trigger function for BEFORE ... FOR EACH STATEMENT: writes the context to the WAL before '
		'the rows of the statement';
GRANT EXECUTE ON FUNCTION bemi.emit_context() TO PUBLIC;

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

--
-- Event triggers that follow DDL
--

CREATE FUNCTION _bemi.follow_ddl()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_ddl'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_ddl()
	IS 'event trigger function: tracks new partitions of tracked tables and new tables of '
		'tracked schemas, refuses triggers that cannot work, and sends changed descriptions of '
		'tables to the workers';
REVOKE ALL ON FUNCTION _bemi.follow_ddl() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_ddl ON ddl_command_end
	WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE FOREIGN TABLE',
		'ALTER TABLE', 'CREATE SCHEMA', 'CREATE TRIGGER', 'ALTER TYPE',
		-- with which tables and their columns can be renamed, too
		'ALTER VIEW', 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE',
		'ALTER INDEX', 'ALTER SEQUENCE')
	EXECUTE FUNCTION _bemi.follow_ddl();
COMMENT ON EVENT TRIGGER bemi_follow_ddl
	IS 'tracks new partitions of tracked tables and new tables of tracked schemas';
-- ALWAYS, because an update of a new partition would fail without it, also in sessions that have
-- set session_replication_role.
ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;

CREATE FUNCTION _bemi.refuse_triggers()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_refuse_triggers'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.refuse_triggers()
	IS 'event trigger function: only a role that may track a table can set rules for it, and '
		'only the owner of bemi''s tables can put triggers on them; warns about restored tables '
		'that are not published';
REVOKE ALL ON FUNCTION _bemi.refuse_triggers() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_refuse_triggers ON ddl_command_end
	WHEN TAG IN ('CREATE TRIGGER', 'CREATE SCHEMA')
	EXECUTE FUNCTION _bemi.refuse_triggers();
COMMENT ON EVENT TRIGGER bemi_refuse_triggers
	IS 'refuses triggers that set rules, or that run with the rights of bemi''s owner, if the '
		'role that creates them lacks these rights';
ALTER EVENT TRIGGER bemi_refuse_triggers ENABLE ALWAYS;

CREATE FUNCTION _bemi.refuse_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_refuse_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.refuse_publication()
	IS 'event trigger function: publication "bemi" must belong to a superuser or to a member of '
		'the role that owns the extension';
REVOKE ALL ON FUNCTION _bemi.refuse_publication() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_refuse_publication ON ddl_command_end
	WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
	EXECUTE FUNCTION _bemi.refuse_publication();
COMMENT ON EVENT TRIGGER bemi_refuse_publication
	IS 'refuses a publication "bemi" whose owner could take tables out of the history';
ALTER EVENT TRIGGER bemi_refuse_publication ENABLE ALWAYS;

CREATE FUNCTION _bemi.rename_tracked_schemas()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- A row that came with a dump, and is not enabled, may have the new name.
	DELETE FROM bemi.tracked_schemas s USING pg_namespace n
		WHERE n.nspname = s.schema
			AND (n.oid <> s.schema_oid OR s.enabled_in <> _bemi.this_database());
	UPDATE bemi.tracked_schemas s SET schema = n.nspname FROM pg_namespace n
		WHERE n.oid = s.schema_oid AND n.nspname <> s.schema
			AND s.enabled_in = _bemi.this_database();
END
$$;
COMMENT ON FUNCTION _bemi.rename_tracked_schemas()
	IS 'internal: updates the names of tracked schemas that were renamed';
REVOKE ALL ON FUNCTION _bemi.rename_tracked_schemas() FROM PUBLIC;

CREATE FUNCTION _bemi.follow_renamed_schemas()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_renamed_schemas'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_renamed_schemas()
	IS 'event trigger function: updates the name of a renamed schema in bemi.tracked_schemas; '
		'changes of its tables are then stored under the new name';
REVOKE ALL ON FUNCTION _bemi.follow_renamed_schemas() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_renamed_schemas ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA')
	EXECUTE FUNCTION _bemi.follow_renamed_schemas();
COMMENT ON EVENT TRIGGER bemi_follow_renamed_schemas
	IS 'records the new name of a tracked schema that is renamed';
ALTER EVENT TRIGGER bemi_follow_renamed_schemas ENABLE ALWAYS;

CREATE FUNCTION _bemi.forget_tracked_schema(schema oid)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM bemi.tracked_schemas s
		WHERE s.schema_oid = forget_tracked_schema.schema AND s.enabled_in = _bemi.this_database()
$$;
COMMENT ON FUNCTION _bemi.forget_tracked_schema(oid)
	IS 'internal: removes a dropped schema from bemi.tracked_schemas';
REVOKE ALL ON FUNCTION _bemi.forget_tracked_schema(oid) FROM PUBLIC;

CREATE FUNCTION _bemi.forget_dropped_schemas()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_forget_dropped_schemas'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.forget_dropped_schemas()
	IS 'event trigger function: removes dropped schemas from bemi.tracked_schemas, because a new '
		'schema can get the same OID';
REVOKE ALL ON FUNCTION _bemi.forget_dropped_schemas() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_forget_dropped_schemas ON sql_drop
	WHEN TAG IN ('DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION')
	EXECUTE FUNCTION _bemi.forget_dropped_schemas();
COMMENT ON EVENT TRIGGER bemi_forget_dropped_schemas
	IS 'removes dropped schemas from bemi.tracked_schemas';
ALTER EVENT TRIGGER bemi_forget_dropped_schemas ENABLE ALWAYS;

--
-- Tracking messages: which tables are published, what they are like, and which rows DDL changes
--

CREATE FUNCTION _bemi.describe(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_describe_table'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.describe(regclass)
	IS 'internal: description of the table for the worker: primary key, types and rules';
-- The worker of another server calls it, as a role with REPLICATION.
GRANT EXECUTE ON FUNCTION _bemi.describe(regclass) TO PUBLIC;

CREATE FUNCTION _bemi.follow_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_publication()
	IS 'event trigger function: emits tracking messages about the tables that publication "bemi" '
		'lists from now on; refuses whole schemas in it';
REVOKE ALL ON FUNCTION _bemi.follow_publication() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_publication ON ddl_command_end
	WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
	EXECUTE FUNCTION _bemi.follow_publication();
COMMENT ON EVENT TRIGGER bemi_follow_publication
	IS 'emits tracking messages about tables that are tracked from now on';
ALTER EVENT TRIGGER bemi_follow_publication ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_unpublished()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_unpublished'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_unpublished()
	IS 'event trigger function: emits tracking messages about tables that publication "bemi" no '
		'longer lists';
REVOKE ALL ON FUNCTION _bemi.follow_unpublished() FROM PUBLIC;

-- Without a list of commands, because a table can be dropped with anything that it depends on.
CREATE EVENT TRIGGER bemi_follow_unpublished ON sql_drop
	EXECUTE FUNCTION _bemi.follow_unpublished();
COMMENT ON EVENT TRIGGER bemi_follow_unpublished
	IS 'emits tracking messages about tables that are no longer tracked';
ALTER EVENT TRIGGER bemi_follow_unpublished ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_detach()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_detach'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_detach()
	IS 'event trigger function: emits a tracking message when DETACH PARTITION ... CONCURRENTLY '
		'takes rows from a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_detach() FROM PUBLIC;
-- At the start, because the command commits before it ends.
CREATE EVENT TRIGGER bemi_follow_detach ON ddl_command_start
	WHEN TAG IN ('ALTER TABLE')
	EXECUTE FUNCTION _bemi.follow_detach();
COMMENT ON EVENT TRIGGER bemi_follow_detach
	IS 'emits tracking messages about partitions that are detached concurrently';
ALTER EVENT TRIGGER bemi_follow_detach ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_rewrite()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_rewrite'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_rewrite()
	IS 'event trigger function: emits a tracking message when a command computes new values for '
		'all rows of a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_rewrite() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_rewrite ON table_rewrite EXECUTE FUNCTION _bemi.follow_rewrite();
COMMENT ON EVENT TRIGGER bemi_follow_rewrite
	IS 'emits tracking messages about tables whose rows are rewritten';
ALTER EVENT TRIGGER bemi_follow_rewrite ENABLE ALWAYS;

--
-- bemi.tracked: which tables are tracked, and what is wrong with them
--

CREATE FUNCTION _bemi.rules(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.rules(regclass)
	IS 'internal: rules of the table, as given to bemi.track(); redacts all columns if they '
		'cannot be read';
REVOKE ALL ON FUNCTION _bemi.rules(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.has_bad_rules(target regclass)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_has_bad_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.has_bad_rules(regclass)
	IS 'internal: whether the table''s trigger has rules that cannot be read';
REVOKE ALL ON FUNCTION _bemi.has_bad_rules(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.columnless_rules(target regclass, source regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_columnless_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.columnless_rules(regclass, regclass)
	IS 'internal: names in the rules of the source table that are no columns of the target, NULL '
		'if there are none';
REVOKE ALL ON FUNCTION _bemi.columnless_rules(regclass, regclass) FROM PUBLIC;

-- A partition is tracked with its root. The root is the table that is published and has the
-- rules. If no table above the partition is published, the root is the topmost table that has the
-- trigger.
CREATE FUNCTION _bemi.tracked_with_root(partition regclass)
	RETURNS jsonb
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('published', r.prrelid IS NOT NULL,
			'published_as', source.relation::oid, 'rules', _bemi.rules(source.relation),
			'filtered', r.prqual IS NOT NULL, 'partly', r.prattrs IS NOT NULL)
		FROM (SELECT CASE WHEN _bemi.is_published(root) OR _bemi.has_trigger(root)
					THEN root ELSE partition END
				FROM _bemi.partition_root(partition) root) source(relation)
			LEFT JOIN (SELECT r.prrelid, to_jsonb(r) ->> 'prqual' AS prqual,
					to_jsonb(r) ->> 'prattrs' AS prattrs
				FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
				WHERE p.pubname = 'bemi') r ON r.prrelid = source.relation
$$;
COMMENT ON FUNCTION _bemi.tracked_with_root(regclass)
	IS 'internal: for bemi.tracked: whether a partition is published, under which name, and with '
		'which rules';
REVOKE ALL ON FUNCTION _bemi.tracked_with_root(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.unstored_partition(root regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_unstored_partition'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.unstored_partition(regclass)
	IS 'internal: a partition whose rows are not in the WAL, with the reason; NULL if there is '
		'none';
REVOKE ALL ON FUNCTION _bemi.unstored_partition(regclass) FROM PUBLIC;

-- The server allows one at a time for each partitioned table.
CREATE FUNCTION _bemi.pending_detach(target regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('partition %s is half detached, its changes are not stored: '
			'ALTER TABLE %s DETACH PARTITION %1$s FINALIZE;',
			i.inhrelid::regclass, i.inhparent::regclass)
		FROM pg_inherits i
		WHERE i.inhdetachpending AND (i.inhparent = target OR i.inhrelid = target)
$$;
COMMENT ON FUNCTION _bemi.pending_detach(regclass)
	IS 'internal: the command that finishes an interrupted DETACH PARTITION ... CONCURRENTLY of '
		'the table or of one of its partitions; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.pending_detach(regclass) FROM PUBLIC;

-- A query asks for one table, or for all. A condition on "table" reaches pg_class and, through
-- the joins, the other catalogs. All tables are joined as sets. Functions are called only for
-- partitions and for tables with rules, and OFFSET 0 makes that one call each.
CREATE VIEW bemi.tracked AS
	SELECT c.oid::regclass AS "table", coalesce(t.triggers, '{}') AS triggers, rel.identity,
		rel.published,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'ignore')) AS ignore,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'redact')) AS redact,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'redact_hash')) AS redact_hash,
		-- The server's view has the filter as text, but only for all tables at once. So it is
		-- read once, and only if there is a filter.
		CASE WHEN rel.filtered THEN (SELECT jsonb_object_agg(k.oid, to_jsonb(f) ->> 'rowfilter')
			FROM pg_publication_tables f JOIN pg_namespace n ON f.schemaname = n.nspname
				JOIN pg_class k ON k.relnamespace = n.oid AND k.relname = f.tablename
			WHERE f.pubname = 'bemi' AND to_jsonb(f) ->> 'rowfilter' IS NOT NULL)
				->> rel.published_as::text
		END AS row_filter,
		array_remove(ARRAY[
			CASE WHEN c.relkind = 'f' THEN 'foreign table: changes are not stored'
				WHEN NOT rel.published AND t.triggers IS NULL
					THEN format('its schema is tracked, but it is not: SELECT bemi.track(%L);',
						c.oid::regclass)
				WHEN t.triggers IS NULL
					THEN 'no trigger: changes come without context, or with an earlier one' END,
			CASE WHEN t.disabled THEN 'a trigger is disabled' END,
			CASE WHEN c.relkind = 'f' OR NOT rel.published AND t.triggers IS NULL
					OR rel.identity = 'FULL' THEN NULL
				WHEN rel.identity = 'NOTHING'
					THEN 'replica identity is NOTHING: UPDATE and DELETE fail'
				ELSE 'replica identity is not FULL: before is incomplete, '
					'and after lacks large values that did not change' END,
			CASE WHEN NOT rel.published AND t.triggers IS NOT NULL
				THEN 'not in publication "bemi": changes are not stored' END,
			CASE WHEN c.relpersistence = 'u' THEN 'unlogged: changes are not stored' END,
			'partition ' || rel.unstored || ': its changes are not stored',
			CASE WHEN c.relkind = 'p' OR c.relispartition THEN _bemi.pending_detach(c.oid) END,
			CASE WHEN rel.filtered OR rel.partly
				THEN 'row filter or column list in publication "bemi": '
					'changes are stored in part' END,
			CASE WHEN rel.rootless AND _bemi.pending_detach(c.oid) IS NULL
				THEN 'partition of an untracked table: '
					'rows written through it come without context' END,
			CASE WHEN g.attrelid IS NOT NULL
				THEN 'generated columns are not in the stream: before and after lack them' END,
			CASE WHEN rel.rules -> 'redact' ? '*' AND _bemi.has_bad_rules(rel.published_as)
				THEN 'rules cannot be read: all columns are redacted' END,
			CASE WHEN rel.rules <> '{}'
				THEN 'rule for a column that does not exist: '
					|| _bemi.columnless_rules(c.oid, rel.published_as) END
		], NULL) AS problems
	FROM pg_class c
		LEFT JOIN (SELECT t.tgrelid, array_agg(t.tgname ORDER BY t.tgname) AS triggers,
				bool_or(t.tgenabled = 'D') AS disabled,
				bool_or(t.tgname = 'bemi_emit_context' AND t.tgnargs > 3) AS has_rules
			FROM pg_trigger t WHERE t.tgfoid = 'bemi.emit_context()'::regprocedure
			GROUP BY t.tgrelid) AS t ON t.tgrelid = c.oid
		-- Row filters and column lists came with 15.
		LEFT JOIN (SELECT r.prrelid, to_jsonb(r) ->> 'prqual' IS NOT NULL AS filtered,
				to_jsonb(r) ->> 'prattrs' IS NOT NULL AS partly
			FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
			WHERE p.pubname = 'bemi') AS r ON r.prrelid = c.oid
		LEFT JOIN (SELECT DISTINCT a.attrelid FROM pg_attribute a
			WHERE a.attgenerated <> '' AND NOT a.attisdropped
				AND (a.attgenerated <> 's' OR NOT EXISTS (SELECT FROM pg_publication p
					WHERE p.pubname = 'bemi' AND to_jsonb(p) ->> 'pubgencols' = 's'))) AS g
			ON g.attrelid = c.oid
		LEFT JOIN bemi.tracked_schemas s
			ON s.schema_oid = c.relnamespace AND s.enabled_in = _bemi.this_database(),
		LATERAL (SELECT CASE WHEN c.relispartition THEN _bemi.tracked_with_root(c.oid) END AS root
			OFFSET 0) AS w,
		LATERAL (SELECT CASE c.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'n' THEN 'NOTHING'
				WHEN 'f' THEN 'FULL' ELSE 'USING INDEX' END AS identity,
			r.prrelid IS NOT NULL OR coalesce(w.root -> 'published' = 'true', false) AS published,
			coalesce((w.root ->> 'published_as')::oid, c.oid) AS published_as,
			coalesce(CASE WHEN c.relispartition THEN w.root -> 'filtered' = 'true'
				ELSE r.filtered END, false) AS filtered,
			coalesce(CASE WHEN c.relispartition THEN w.root -> 'partly' = 'true'
				ELSE r.partly END, false) AS partly,
			c.relispartition AND (w.root ->> 'published_as')::oid = c.oid AS rootless,
			CASE WHEN c.relispartition THEN w.root -> 'rules'
				WHEN t.has_rules THEN _bemi.rules(c.oid) ELSE '{}' END AS rules,
			CASE WHEN c.relkind = 'p' AND r.prrelid IS NOT NULL
				THEN _bemi.unstored_partition(c.oid) END AS unstored,
			CASE WHEN s.schema_oid IS NOT NULL AND t.triggers IS NULL AND r.prrelid IS NULL
					AND c.relkind <> 'f' AND NOT c.relispartition
				THEN _bemi.untrackable(c.oid) IS NULL AND NOT _bemi.is_of_extension(c.oid)
				ELSE false END AS forgotten
			OFFSET 0) AS rel
	WHERE c.relkind IN ('r', 'p', 'f')
		AND (t.triggers IS NOT NULL OR rel.published OR rel.forgotten);
COMMENT ON VIEW bemi.tracked
	IS 'tables whose changes are stored, or should be, and the problems with them';
COMMENT ON COLUMN bemi.tracked."table" IS 'tracked table or partition';
COMMENT ON COLUMN bemi.tracked.triggers IS 'triggers of the table that call bemi.emit_context()';
COMMENT ON COLUMN bemi.tracked.identity
	IS 'replica identity of the table; "before" is complete only with FULL';
COMMENT ON COLUMN bemi.tracked.published
	IS 'whether the table is in publication "bemi", itself or with its root';
COMMENT ON COLUMN bemi.tracked.ignore IS 'columns whose updates alone are not stored';
COMMENT ON COLUMN bemi.tracked.redact IS 'columns whose values are not stored';
COMMENT ON COLUMN bemi.tracked.redact_hash IS 'columns whose values are stored as hashes';
COMMENT ON COLUMN bemi.tracked.row_filter
	IS 'row filter of publication "bemi": only changes of matching rows are stored';
COMMENT ON COLUMN bemi.tracked.problems
	IS 'problems with the tracking of the table; empty if there are none';
REVOKE ALL ON bemi.tracked FROM PUBLIC;

--
-- History
--
-- The table is a member of the extension. Its partitions are not: the worker
-- creates them, and pg_dump dumps them with their rows. Each partition has its own
-- indexes, because a restored dump would create indexes of bemi.changes twice. Text
-- columns have the collation "C", which look-ups by key need and which is cheaper
-- to index.
--

-- Only the first change of a transaction has all of a large context, see
-- src/decode/stitch_context.c. If that change was deleted, the result is what this change has.
CREATE FUNCTION bemi.full_context(change bemi.changes)
	RETURNS jsonb
	LANGUAGE plpgsql STABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF change.context ? '_whole' THEN
		RETURN coalesce((SELECT c.context FROM bemi.changes c
				WHERE c.id = (change.context ->> '_whole')::uuid
					AND c.committed_at = change.committed_at),
			change.context);
	END IF;
	RETURN change.context;
END
$$;
COMMENT ON FUNCTION bemi.full_context(bemi.changes)
	IS 'complete context of a change, also if an earlier change of the same transaction stores it';
GRANT EXECUTE ON FUNCTION bemi.full_context(bemi.changes) TO PUBLIC;

CREATE FUNCTION _bemi.attach_partition(partition regclass, bounds text)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_attach_partition'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.attach_partition(regclass, text)
	IS 'internal: attaches a partition to bemi.changes, with the rights of its owner';
REVOKE ALL ON FUNCTION _bemi.attach_partition(regclass, text) FROM PUBLIC;

CREATE FUNCTION _bemi.event_triggers_of_others()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(quote_ident(e.evtname), ', ' ORDER BY e.evtname)
	FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
	WHERE e.evtenabled IN ('A', 'R')
		AND p.pronamespace NOT IN ('bemi'::regnamespace, '_bemi'::regnamespace)
		AND coalesce(current_setting('event_triggers', true), 'on') = 'on'
$$;
COMMENT ON FUNCTION _bemi.event_triggers_of_others()
	IS 'internal: event triggers, other than bemi''s, that fire in the worker; NULL if there are '
		'none';
REVOKE ALL ON FUNCTION _bemi.event_triggers_of_others() FROM PUBLIC;

-- Nobody but the owner has rights on a partition, because they would outlive a REVOKE on
-- bemi.changes and bypass its row policies.
CREATE FUNCTION _bemi.make_private(relation regclass)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	object record;
	grantee text;
BEGIN
	SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relowner::regrole AS owner,
		c.relacl AS acl INTO STRICT object
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
	FOR grantee IN
		SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END
		FROM aclexplode(object.acl) a WHERE a.grantee <> object.owner
	LOOP
		EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', object.name, grantee);
	END LOOP;
	-- Default privileges can also have taken rights from the owner.
	IF object.acl IS NOT NULL THEN
		EXECUTE format('GRANT ALL ON %s TO %s', object.name, object.owner);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.make_private(regclass)
	IS 'internal: revokes from everybody but the owner what default privileges granted on a new '
		'table';
REVOKE ALL ON FUNCTION _bemi.make_private(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.check_history_code()
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_check_history_code'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.check_history_code()
	IS 'internal: error if an expression of bemi.changes depends on an object of a role that is '
		'neither its owner nor a superuser';
REVOKE ALL ON FUNCTION _bemi.check_history_code() FROM PUBLIC;

-- The worker knows the bounds of the neighbours, and calls this before it stores the first change
-- of a month (week, day). The table is created alone and then attached, because CREATE TABLE ...
-- PARTITION OF would wait for every reader of the history, and later readers would wait for it.
--
-- Rows of the history are written once. So the first vacuum freezes them, and they need no second
-- one years later. The server's autovacuum_vacuum_insert_scale_factor decides when that is, because
-- each vacuum reads the whole index on contexts. With vacuums in proportion to growth, that costs a
-- few times the work of writing the index.
CREATE FUNCTION _bemi.make_partition(committed_at timestamptz,
		hole_from timestamptz DEFAULT NULL, hole_to timestamptz DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
AS $$
DECLARE
	unit text := coalesce(current_setting('bemi.partition_interval', true), 'month');
	first_time timestamptz := '4714-11-24 00:00:00+00 BC';
	last_time timestamptz := '294276-12-31 23:59:59.999999+00';
	-- infinite times belong to the partition of the last finite one
	moment timestamptz := greatest(first_time, least(last_time, committed_at));
	first_day timestamptz;
	next_day timestamptz;
	partition name;
	stem name;
	n integer := 0;
BEGIN
	-- before anything computes an expression of bemi.changes
	PERFORM _bemi.check_history_code();
	-- Near the limits of the type, a bound can lie outside of it.
	BEGIN
		first_day := date_trunc(unit, moment);
	EXCEPTION WHEN datetime_field_overflow THEN
		first_day := first_time;
	END;
	BEGIN
		next_day := date_trunc(unit, moment + ('1 ' || unit)::interval);
	EXCEPTION WHEN datetime_field_overflow THEN
		next_day := NULL;
	END;
	partition := 'changes_'
		|| to_char(first_day, CASE unit WHEN 'month' THEN 'YYYY_MM' ELSE 'YYYY_MM_DD' END)
		|| CASE WHEN first_day < '0001-01-01' THEN '_bc' ELSE '' END;
	-- Somebody may have detached the partition of this month, and kept it.
	stem := partition;
	WHILE EXISTS (SELECT FROM pg_class
		WHERE relname = partition AND relnamespace = '_bemi'::regnamespace) LOOP
		n := n + 1;
		partition := stem || '_' || n;
	END LOOP;

	-- ATTACH adds the indexes of users. There is no primary key, because bemi.changes may have
	-- one or get one. The replica identity is for users who publish the history and delete from
	-- it.
	EXECUTE format('CREATE TABLE _bemi.%I (LIKE bemi.changes INCLUDING ALL EXCLUDING INDEXES)'
		' WITH (autovacuum_freeze_min_age = 0, toast.autovacuum_freeze_min_age = 0)', partition);
	EXECUTE format('CREATE UNIQUE INDEX %I ON _bemi.%I (id) WITH (deduplicate_items = off)',
		partition || '_id_key', partition);
	EXECUTE format('ALTER TABLE _bemi.%I REPLICA IDENTITY USING INDEX %I',
		partition, partition || '_id_key');
	-- For all changes of a row, and of a table. The schema comes third, because it separates few
	-- rows, and each search compares the columns before the key. (So the changes of a table are
	-- found among those of tables of the same name in other schemas.) No two entries are equal,
	-- so a search for duplicates would only cost time.
	EXECUTE format('CREATE INDEX ON _bemi.%I ("table", primary_key, schema, id)'
		' WITH (deduplicate_items = off)', partition);
	EXECUTE format('CREATE INDEX ON _bemi.%I USING gin (context jsonb_path_ops)', partition);
	PERFORM _bemi.create_context_indexes(partition);
	-- The same owner, because triggers and expressions that users add to the history run with his
	-- rights.
	EXECUTE (SELECT format('ALTER TABLE _bemi.%I OWNER TO %s', partition, c.relowner::regrole)
		FROM pg_class c WHERE c.oid = 'bemi.changes'::regclass);
	-- Readers use bemi.changes, and need no rights on a partition.
	PERFORM _bemi.make_private(format('_bemi.%I', partition)::regclass);
	-- Not wider than the hole between the neighbours. greatest() and least() ignore NULL.
	PERFORM _bemi.attach_partition(format('_bemi.%I', partition)::regclass, format(
		'FROM (%s) TO (%s)',
		coalesce(quote_literal(greatest(nullif(first_day, first_time), hole_from)), 'MINVALUE'),
		coalesce(quote_literal(least(next_day, hole_to)), 'MAXVALUE')));
END
$$;
COMMENT ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz)
	IS 'internal: creates the partition of bemi.changes for the month of this time (see '
		'bemi.partition_interval), or for the part of it that its neighbours leave free';
REVOKE ALL ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.partition_ranges(OUT partition regclass,
		OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_partition_ranges'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION _bemi.partition_ranges()
	IS 'internal: partitions of bemi.changes with their bounds, infinite for MINVALUE and '
		'MAXVALUE; without the default partition';
REVOKE ALL ON FUNCTION _bemi.partition_ranges() FROM PUBLIC;

-- In pg_trigger.tgtype, 1 is ROW and 4 is INSERT.
CREATE FUNCTION _bemi.history_warning()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH part(oid, pending) AS (
		SELECT 'bemi.changes'::regclass::oid, false
		UNION ALL SELECT i.inhrelid, i.inhdetachpending FROM pg_inherits i
			WHERE i.inhparent = 'bemi.changes'::regclass
	), trigger(name, relation, enabled, owner, of_other) AS (
		SELECT t.tgname, t.tgrelid::regclass, t.tgenabled, c.relowner::regrole,
			-- the trigger's function, and those in its WHEN
			(SELECT min(f.oid)::regprocedure FROM pg_depend d
					JOIN pg_proc f ON f.oid = d.refobjid JOIN pg_roles r ON r.oid = f.proowner
				WHERE d.classid = 'pg_trigger'::regclass AND d.objid = t.oid
					AND d.refclassid = 'pg_proc'::regclass
					AND f.proowner <> c.relowner AND NOT r.rolsuper)
		FROM pg_trigger t JOIN part p ON p.oid = t.tgrelid JOIN pg_class c ON c.oid = t.tgrelid
		WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgtype & 5 = 5
	)
	SELECT string_agg(w.warning, '; ' ORDER BY w.place, w.warning)
	FROM (
		SELECT 1, format('trigger %I of %s does not fire: ALTER TABLE %s ENABLE ALWAYS TRIGGER %I;',
				t.name, t.relation, t.relation, t.name)
			FROM trigger t WHERE t.enabled = 'O'
		UNION ALL SELECT 2, format(
			'trigger %I of %s does not fire, because another role owns a function that it calls:'
				' ALTER FUNCTION %s OWNER TO %s;', t.name, t.relation, t.of_other, t.owner)
			FROM trigger t WHERE t.enabled IN ('A', 'R') AND t.of_other IS NOT NULL
		UNION ALL SELECT 3, format('a partition is half detached:'
				' ALTER TABLE bemi.changes DETACH PARTITION %s FINALIZE;', p.oid::regclass)
			FROM part p WHERE p.pending
	) w(place, warning)
$$;
COMMENT ON FUNCTION _bemi.history_warning()
	IS 'internal: triggers of bemi.changes that do not fire and partitions that are half '
		'detached, each with the command to run; NULL if there are none';
REVOKE ALL ON FUNCTION _bemi.history_warning() FROM PUBLIC;

CREATE FUNCTION _bemi.protect_history()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_protect_history'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.protect_history()
	IS 'event trigger function: refuses DROP EXTENSION bemi without CASCADE while changes are '
		'stored';
REVOKE ALL ON FUNCTION _bemi.protect_history() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_protect_history ON ddl_command_start
	WHEN TAG IN ('DROP EXTENSION', 'DROP OWNED')
	EXECUTE FUNCTION _bemi.protect_history();
COMMENT ON EVENT TRIGGER bemi_protect_history
	IS 'refuses DROP EXTENSION bemi without CASCADE while changes are stored';

--
-- Retention: how old partitions are dropped, and held
--
-- The worker drops partitions that are older than bemi.retention, unless a hold
-- overlaps them. Both sides lock bemi.holds, and the worker locks bemi.changes
-- first. So a hold either comes before the drop, or no longer finds the partition.
--

-- For hold_partition() and release_partition(). A partition of a partition is dropped with it,
-- and cannot be held alone.
CREATE FUNCTION _bemi.partition_range(target regclass,
		OUT from_time timestamptz, OUT to_time timestamptz)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'partition must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	SELECT r.from_time, r.to_time INTO from_time, to_time
		FROM _bemi.partition_ranges() r WHERE r.partition = target;
	IF NOT FOUND THEN
		RAISE EXCEPTION
			'"%" is not a partition of bemi.changes that bemi.retention can drop', target
			USING ERRCODE = 'wrong_object_type',
				HINT = 'SELECT * FROM pg_partition_tree(''bemi.changes''); shows the partitions. '
					'The default partition is never dropped.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.partition_range(regclass)
	IS 'internal: bounds of a partition of bemi.changes, error if it has none';
REVOKE ALL ON FUNCTION _bemi.partition_range(regclass) FROM PUBLIC;

-- SECURITY DEFINER, because EXECUTE on this function gives the right to hold, but not to remove
-- the holds of others. The worker drops no partition while this lock is held.
CREATE FUNCTION bemi.hold(from_time timestamptz, to_time timestamptz, reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	other record;
BEGIN
	IF from_time IS NULL OR to_time IS NULL THEN
		RAISE EXCEPTION 'times to hold must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Times without end are ''-infinity'' and ''infinity''.';
	ELSIF from_time >= to_time THEN
		RAISE EXCEPTION 'times to hold must not be empty'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'The first time must be before the second one.';
	END IF;
	LOCK TABLE bemi.holds IN ROW EXCLUSIVE MODE;
	INSERT INTO bemi.holds (from_time, to_time, reason)
		VALUES (hold.from_time, hold.to_time, hold.reason)
		ON CONFLICT DO NOTHING;
	IF NOT FOUND THEN
		SELECT h.held_by, h.held_at, h.reason INTO other FROM bemi.holds h
			WHERE h.from_time = hold.from_time AND h.to_time = hold.to_time;
		RAISE EXCEPTION 'these times are already held'
			USING ERRCODE = 'duplicate_object',
				DETAIL = format('Held by "%s" since %s, reason: %s.', other.held_by,
					other.held_at, coalesce(other.reason, 'none given')),
				HINT = 'Hold slightly wider times. '
					'That hold stays when the other one is released.';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.hold(timestamptz, timestamptz, text)
	IS 'keeps bemi.retention from dropping any partition that overlaps these times, until '
		'bemi.release()';
REVOKE ALL ON FUNCTION bemi.hold(timestamptz, timestamptz, text) FROM PUBLIC;

CREATE FUNCTION bemi.hold_partition(partition regclass, reason text DEFAULT NULL)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	range record;
BEGIN
	-- This comes before the query, because the worker drops no partition after it.
	LOCK TABLE bemi.holds IN ROW EXCLUSIVE MODE;
	SELECT * INTO range FROM _bemi.partition_range(hold_partition.partition);
	PERFORM bemi.hold(range.from_time, range.to_time, hold_partition.reason);
END
$$;
COMMENT ON FUNCTION bemi.hold_partition(regclass, text)
	IS 'keeps bemi.retention from dropping this partition of bemi.changes, until '
		'bemi.release_partition()';
REVOKE ALL ON FUNCTION bemi.hold_partition(regclass, text) FROM PUBLIC;

CREATE FUNCTION bemi.release(from_time timestamptz, to_time timestamptz)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF from_time IS NULL OR to_time IS NULL THEN
		RAISE EXCEPTION 'times to release must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	END IF;
	DELETE FROM bemi.holds h WHERE h.from_time = release.from_time AND h.to_time = release.to_time;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such hold'
			USING ERRCODE = 'undefined_object',
				DETAIL = 'The times must be exactly those of the hold.',
				HINT = 'SELECT * FROM bemi.holds;';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.release(timestamptz, timestamptz)
	IS 'ends the hold that bemi.hold() created with the same times';
REVOKE ALL ON FUNCTION bemi.release(timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.release_partition(partition regclass)
	RETURNS void
	LANGUAGE plpgsql
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	range record;
BEGIN
	SELECT * INTO range FROM _bemi.partition_range(release_partition.partition);
	PERFORM bemi.release(range.from_time, range.to_time);
END
$$;
COMMENT ON FUNCTION bemi.release_partition(regclass)
	IS 'ends the hold that bemi.hold_partition() created';
REVOKE ALL ON FUNCTION bemi.release_partition(regclass) FROM PUBLIC;

-- Partitions that end before the oldest time to keep. The worker does not drop foreign tables,
-- and the default partition has no bounds. An interval with mixed signs can lead into the future
-- ("1 month -29 days", in February), and a long one out of the range of times.
CREATE FUNCTION _bemi.expired_partitions(retention interval,
		OUT partition regclass, OUT to_time timestamptz)
	RETURNS SETOF record
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	oldest timestamptz;
BEGIN
	BEGIN
		oldest := least(now() - retention, now());
	EXCEPTION WHEN datetime_field_overflow THEN
		RETURN;
	END;
	RETURN QUERY SELECT r.partition, r.to_time
		FROM _bemi.partition_ranges() r JOIN pg_class c ON c.oid = r.partition
		WHERE r.to_time <= oldest AND c.relkind IN ('r', 'p')
			AND NOT EXISTS (SELECT FROM bemi.holds h
				WHERE r.from_time < h.to_time AND h.from_time < r.to_time)
		ORDER BY r.to_time;
END
$$;
COMMENT ON FUNCTION _bemi.expired_partitions(interval)
	IS 'internal: partitions of bemi.changes that are older than the interval and not held, '
		'oldest first';
REVOKE ALL ON FUNCTION _bemi.expired_partitions(interval) FROM PUBLIC;

-- Only the first lock waits, see src/store/maintenance.c. The partition is checked after that,
-- because others may have held or dropped it meanwhile.
CREATE FUNCTION _bemi.drop_expired_partition(target regclass, retention interval)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	upper_bound timestamptz;
	name text;
BEGIN
	LOCK TABLE ONLY bemi.changes IN ACCESS EXCLUSIVE MODE;
	LOCK TABLE bemi.holds IN SHARE MODE NOWAIT;
	SELECT e.to_time, format('%I.%I', n.nspname, c.relname) INTO upper_bound, name
		FROM _bemi.expired_partitions(retention) e
			JOIN pg_class c ON c.oid = e.partition JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE e.partition = target;
	IF NOT FOUND THEN
		RETURN false;
	END IF;

	EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', name);
	EXECUTE format('ALTER TABLE bemi.changes DETACH PARTITION %s', name);
	EXECUTE format('DROP TABLE %s', name);
	UPDATE bemi.gaps g
		SET to_time = greatest(g.to_time, upper_bound), noticed_at = clock_timestamp()
		WHERE g.reason = 'retention' AND g.source IS NULL AND g."table" IS NULL;
	IF NOT FOUND THEN
		INSERT INTO bemi.gaps (reason, from_time, to_time, detail)
			VALUES ('retention', '-infinity', upper_bound, _bemi.default_detail('retention'));
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION _bemi.drop_expired_partition(regclass, interval)
	IS 'internal: drops a partition of bemi.changes that is older than the interval and not '
		'held, and records that in bemi.gaps; false if it is held, gone or not old enough';
REVOKE ALL ON FUNCTION _bemi.drop_expired_partition(regclass, interval) FROM PUBLIC;

-- Autovacuum analyzes partitions, but never their root. A partition that was analyzed after the
-- root counts as changed. pg_partition_tree() would lock all partitions.
CREATE FUNCTION _bemi.needs_analyze()
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE tree(relid) AS (
		SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'bemi.changes'::regclass
		UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid
	)
	SELECT coalesce(root.analyzed_at < clock_timestamp() - interval '1 day', true)
		AND sum(CASE WHEN root.analyzed_at IS NULL OR part.analyzed_at > root.analyzed_at
			THEN greatest(part.rows, part.changed) ELSE part.changed END)
				> 1000 + 0.1 * sum(part.rows)
	FROM greatest(pg_stat_get_last_analyze_time('bemi.changes'::regclass),
			pg_stat_get_last_autoanalyze_time('bemi.changes'::regclass)) AS root(analyzed_at),
		(SELECT greatest(pg_stat_get_last_analyze_time(t.relid),
					pg_stat_get_last_autoanalyze_time(t.relid)),
				pg_stat_get_live_tuples(t.relid), pg_stat_get_mod_since_analyze(t.relid)
			FROM tree t JOIN pg_class c ON c.oid = t.relid
			WHERE c.relkind = 'r') AS part(analyzed_at, rows, changed)
	GROUP BY root.analyzed_at
$$;
COMMENT ON FUNCTION _bemi.needs_analyze()
	IS 'internal: whether bemi.changes was not analyzed for a day, and enough of it has changed '
		'since';
REVOKE ALL ON FUNCTION _bemi.needs_analyze() FROM PUBLIC;

--
-- Gaps: what may be missing from the history
--
-- Positions and times are those of the source. A gap without a table concerns all
-- tables of the source, a gap without a source all sources. The worker records gaps
-- in order with the changes.
--

CREATE FUNCTION _bemi.default_detail(reason text)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE reason
		WHEN 'source_started'
			THEN 'The source was started for the first time. '
				'What was committed before is not in the history.'
		WHEN 'source_dropped'
			THEN 'The source was dropped. '
				'What is committed until it is started again is not in the history.'
		WHEN 'slot_dropped'
			THEN 'The replication slot did not exist any more when the worker connected.'
		WHEN 'slot_lost'
			THEN 'The server invalidated the replication slot, '
				'usually because it removed write-ahead log that the slot needed.'
		WHEN 'max_slot_lag'
			THEN 'The replication slot kept more write-ahead log than bemi.max_slot_lag, '
				'and was dropped.'
		WHEN 'slot_unreadable' THEN 'The source fails to decode its write-ahead log.'
		WHEN 'transaction_unreadable'
			THEN 'The source fails to decode a transaction, and the worker skipped it.'
		WHEN 'server_changed' THEN 'The source is another server or another database than before.'
		WHEN 'history_moved' THEN 'The history came with a dump, or its database was copied.'
		WHEN 'timeline_changed'
			THEN 'The source is on another timeline, '
				'because a standby was promoted or a backup was restored.'
		WHEN 'source_went_back' THEN 'The source was put back to an earlier state.'
		WHEN 'history_went_back'
			THEN 'This database was put back to an earlier state, or the slot was advanced by hand.'
		WHEN 'tracking_began' THEN 'The table was not tracked before.'
		WHEN 'tracking_ended'
			THEN 'The table is not tracked any more, or the publication leaves out a part of it.'
		WHEN 'rows_changed_by_ddl'
			THEN 'A command changed rows of the table without a change for each.'
		WHEN 'retention' THEN 'Partitions older than bemi.retention were dropped.'
		-- of bemi.completeness() alone
		WHEN 'not_tracked' THEN 'No time is known at which the table was tracked.'
		WHEN 'not_stored_yet'
			THEN 'The worker has not stored everything up to the end of the time range.'
		WHEN 'no_source' THEN 'No source reads this database.'
	END
$$;
COMMENT ON FUNCTION _bemi.default_detail(text)
	IS 'internal: sentence that explains a reason of bemi.gaps or bemi.completeness(), NULL if '
		'there is no such reason';
REVOKE ALL ON FUNCTION _bemi.default_detail(text) FROM PUBLIC;

CREATE FUNCTION _bemi.record_description(source text, relation oid, description jsonb)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM _bemi.source_relations r WHERE r.source = $1 AND r.relation = $2 AND $3 IS NULL;
	INSERT INTO _bemi.source_relations AS r SELECT $1, $2, $3 WHERE $3 IS NOT NULL
		ON CONFLICT ON CONSTRAINT source_relations_pkey DO UPDATE
			SET description = excluded.description
				|| CASE WHEN excluded.description ? 'rules'
					THEN (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')
						FROM jsonb_each(r.description) e
						WHERE e.key IN ('ignore', 'redact', 'redact_hash'))
					ELSE '{}' END;
$$;
COMMENT ON FUNCTION _bemi.record_description(text, oid, jsonb)
	IS 'internal: records the description of a table, as read by the worker; NULL: the table was '
		'dropped';
REVOKE ALL ON FUNCTION _bemi.record_description(text, oid, jsonb) FROM PUBLIC;

CREATE FUNCTION _bemi.mark_descriptions_stale(source text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE _bemi.source_relations r SET description = r.description || '{"stale": true}'
		WHERE r.source = $1
$$;
COMMENT ON FUNCTION _bemi.mark_descriptions_stale(text)
	IS 'internal: marks all descriptions of a source as stale; the worker then also queries the '
		'source about a table, until the source sends its description again';
REVOKE ALL ON FUNCTION _bemi.mark_descriptions_stale(text) FROM PUBLIC;

CREATE FUNCTION _bemi.last_stored(source text, from_lsn pg_lsn, to_lsn pg_lsn,
		OUT commit_lsn pg_lsn, OUT committed_at timestamptz, OUT transaction_id bigint)
	AS 'MODULE_PATHNAME', 'bemi_last_stored'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.last_stored(text, pg_lsn, pg_lsn)
	IS 'internal: last stored transaction of a source that committed in this range; NULLs if '
		'there is none';
REVOKE ALL ON FUNCTION _bemi.last_stored(text, pg_lsn, pg_lsn) FROM PUBLIC;

CREATE FUNCTION _bemi.last_stored_time(source text, before_lsn pg_lsn)
	RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'bemi_last_stored_time'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.last_stored_time(text, pg_lsn)
	IS 'internal: latest commit time, not in the future, of the stored changes of a source that '
		'committed before this LSN';
REVOKE ALL ON FUNCTION _bemi.last_stored_time(text, pg_lsn) FROM PUBLIC;

-- The gap has no end yet. It begins a tenth of a second before "until", the time up to which the
-- history is known to be complete: the source has written all commits of earlier times before
-- until_lsn. If the source went back, that must be true of the position that it went back to. If it
-- is not, _bemi.source_progress may have an older pair.
--
-- A change that was committed after until_lsn with an earlier time proves that the source's clock
-- was set back since. Then, or if nothing is known, the gap begins a second before the last change.
-- That is the last one in commit order, because a change with a later time may have committed
-- before the clock was set back. The second is there because commit times are not exactly in
-- commit order. Times in the future come from a clock that was ahead, and are not used. A gap that
-- is open already began earlier. It stays, unless the source went back to before it.
--
-- If nothing proves that the source still has what is stored, the gap begins at -infinity, and the
-- detail ends with the statement that shortens it.
CREATE FUNCTION _bemi.open_gap(source text, reason text, from_lsn pg_lsn, detail text,
		until timestamptz, until_lsn pg_lsn, goes_back boolean, proven boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	last record;
	gap bigint;
	former bemi.gaps;
BEGIN
	SELECT g.* INTO former FROM bemi.gaps g
		WHERE g.source = open_gap.source AND g."table" IS NULL AND g.to_time IS NULL;
	IF FOUND AND proven AND NOT goes_back THEN
		RETURN;
	END IF;
	IF goes_back AND (until_lsn <= from_lsn) IS NOT TRUE THEN
		SELECT p.stored_until, p.stored_lsn INTO until, until_lsn FROM _bemi.source_progress p
			WHERE p.source = open_gap.source AND p.stored_lsn <= from_lsn;
	END IF;
	SELECT l.commit_lsn, l.committed_at INTO last FROM (
			SELECT s.commit_lsn, s.committed_at
				FROM _bemi.last_stored(open_gap.source, '0/0', from_lsn) s
			UNION ALL SELECT p.changed_lsn, p.changed_at FROM _bemi.source_progress p
				WHERE p.source = open_gap.source AND p.changed_lsn < from_lsn
		) l ORDER BY l.commit_lsn DESC NULLS LAST LIMIT 1;
	IF until IS NULL OR until > clock_timestamp()
		OR last.commit_lsn >= until_lsn AND last.committed_at < until THEN
		until := last.committed_at - interval '1 second';
	ELSE
		until := until - interval '100 milliseconds';
	END IF;
	IF until > clock_timestamp() THEN
		until := _bemi.last_stored_time(source, from_lsn) - interval '1 second';
	END IF;
	-- Nothing that is stored has a usable time. Since the end of the last gap, nothing was lost.
	IF until IS NULL THEN
		SELECT max(g.to_time) INTO until FROM bemi.gaps g
			WHERE g.source = open_gap.source AND g."table" IS NULL
				AND g.to_lsn <= open_gap.from_lsn AND g.to_time <= clock_timestamp();
	END IF;
	IF former.id IS NULL THEN
		INSERT INTO bemi.gaps (source, reason, from_lsn, from_time, detail)
			VALUES (source, reason, CASE WHEN proven THEN nullif(from_lsn, '0/0') END,
				CASE WHEN proven THEN coalesce(until, '-infinity') ELSE '-infinity' END,
				coalesce(detail, _bemi.default_detail(reason)))
			RETURNING id INTO gap;
	ELSE
		UPDATE bemi.gaps g
			SET from_lsn = CASE WHEN proven THEN nullif(open_gap.from_lsn, '0/0') END,
				from_time = CASE WHEN proven THEN coalesce(until, '-infinity') ELSE '-infinity' END,
				detail = concat_ws(' ', former.detail, open_gap.detail)
			WHERE g.id = former.id AND g.from_time
				> CASE WHEN proven THEN coalesce(until, '-infinity') ELSE '-infinity' END
			RETURNING g.id INTO gap;
	END IF;
	UPDATE bemi.gaps g
		SET detail = format('%s UPDATE bemi.gaps SET from_time = %L WHERE id = %s;', g.detail,
			coalesce(least(until, former.from_time)::text, '...'), gap)
		WHERE g.id = gap AND NOT proven;
END
$$;
COMMENT ON FUNCTION _bemi.open_gap(text, text, pg_lsn, text, timestamptz, pg_lsn, boolean, boolean)
	IS 'internal: records that changes of all tables of a source are lost from this LSN on';
REVOKE ALL ON FUNCTION
	_bemi.open_gap(text, text, pg_lsn, text, timestamptz, pg_lsn, boolean, boolean) FROM PUBLIC;

-- A worker that ends before its origin has moved calls this again for the same transaction.
CREATE FUNCTION _bemi.record_skipped(source text, from_lsn pg_lsn, to_lsn pg_lsn,
		from_time timestamptz, to_time timestamptz, detail text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO bemi.gaps (source, reason, from_lsn, to_lsn, from_time, to_time, detail)
		SELECT $1, 'transaction_unreadable', $2, $3, $4, $5, $6
		WHERE NOT EXISTS (SELECT FROM bemi.gaps g
			WHERE g.source = $1 AND g.schema IS NULL AND g."table" IS NULL
			AND g.reason = 'transaction_unreadable' AND g.to_lsn = $3 AND g.to_time = $5)
$$;
COMMENT ON FUNCTION _bemi.record_skipped(text, pg_lsn, pg_lsn, timestamptz, timestamptz, text)
	IS 'internal: records the gap of a transaction that the source cannot decode and the worker '
		'skips';
REVOKE ALL ON FUNCTION _bemi.record_skipped(text, pg_lsn, pg_lsn, timestamptz, timestamptz, text)
	FROM PUBLIC;

-- A table that is known by this name, OID and server gets no gap. A table that was dropped and
-- created again has a gap in between. Any other table was not tracked before.
CREATE FUNCTION _bemi.begin_tracking(source text, server text, relation oid,
		schema text, "table" text,
		at_lsn pg_lsn, at_time timestamptz, is_first boolean DEFAULT false)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	former record;
	former_name text;
BEGIN
	IF EXISTS (SELECT FROM _bemi.source_tables t WHERE t.source = begin_tracking.source
		AND t.schema = begin_tracking.schema AND t."table" = begin_tracking."table"
		AND t.server = begin_tracking.server AND t.relation = begin_tracking.relation) THEN
		RETURN;
	END IF;
	-- Another table had the name. On another server, it may be the same one, restored from a
	-- dump. On the same server, the other table was dropped at an unknown time.
	IF EXISTS (SELECT FROM _bemi.source_tables t
		WHERE t.source = begin_tracking.source AND t.server <> begin_tracking.server
			AND t.schema = begin_tracking.schema AND t."table" = begin_tracking."table") THEN
		UPDATE _bemi.source_tables t
			SET relation = begin_tracking.relation, server = begin_tracking.server
			WHERE t.source = begin_tracking.source AND t.schema = begin_tracking.schema
				AND t."table" = begin_tracking."table";
		RETURN;
	END IF;
	PERFORM _bemi.end_tracking(t.source, t.schema, t."table", NULL,
			coalesce((SELECT max(g.to_time) FROM bemi.gaps g
				WHERE g.source = t.source
					AND (g."table" IS NULL OR g.schema = t.schema AND g."table" = t."table")
					AND g.to_time <= at_time), '-infinity'),
			'Another table of this name was dropped at an unknown time.')
		FROM _bemi.source_tables t
		WHERE t.source = begin_tracking.source AND t.schema = begin_tracking.schema
			AND t."table" = begin_tracking."table";

	FOR former IN SELECT t.schema, t."table" FROM _bemi.source_tables t
		WHERE t.source = begin_tracking.source AND t.server = begin_tracking.server
			AND t.relation = begin_tracking.relation
	LOOP
		former_name := format('%I.%I', former.schema, former."table");
		PERFORM _bemi.end_tracking(begin_tracking.source, former.schema, former."table",
			at_lsn, at_time,
			format('It was renamed to %I.%I.', begin_tracking.schema, begin_tracking."table"));
	END LOOP;

	UPDATE bemi.gaps g SET to_lsn = at_lsn, to_time = at_time,
			from_time = CASE WHEN g.from_time <= at_time THEN g.from_time ELSE '-infinity' END
		WHERE g.source = begin_tracking.source AND g.schema = begin_tracking.schema
			AND g."table" = begin_tracking."table" AND g.to_time IS NULL;
	IF NOT FOUND AND NOT is_first THEN
		INSERT INTO bemi.gaps (source, schema, "table", reason, from_time, to_lsn, to_time, detail)
			VALUES (begin_tracking.source, begin_tracking.schema, begin_tracking."table",
				'tracking_began', '-infinity', at_lsn, at_time,
				coalesce('Before, it was ' || former_name || '.',
					_bemi.default_detail('tracking_began')));
	END IF;
	INSERT INTO _bemi.source_tables
		VALUES (begin_tracking.source, begin_tracking.schema, begin_tracking."table",
		begin_tracking.relation, begin_tracking.server);
END
$$;
COMMENT ON FUNCTION _bemi.begin_tracking(text, text, oid, text, text, pg_lsn, timestamptz, boolean)
	IS 'internal: records that a table is tracked from here on (is_first: it was tracked before, '
		'too, but the source was not read)';
REVOKE ALL ON FUNCTION
	_bemi.begin_tracking(text, text, oid, text, text, pg_lsn, timestamptz, boolean) FROM PUBLIC;

-- A table that is created and dropped all day would get a gap each time. So the oldest gaps of a
-- table become one, which also covers the times between them: an incomplete time never counts as
-- complete.
CREATE FUNCTION _bemi.merge_gaps(source text, schema text, "table" text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	kept CONSTANT integer := 100;
	oldest bigint[];
	last bemi.gaps;
BEGIN
	SELECT (array_agg(g.id ORDER BY g.from_time, g.id))[:count(*) - kept] INTO oldest
		FROM bemi.gaps g
		WHERE g.source = merge_gaps.source AND g.schema = merge_gaps.schema
			AND g."table" = merge_gaps."table" AND g.to_time IS NOT NULL;
	IF coalesce(cardinality(oldest), 0) < 2 THEN
		RETURN;
	END IF;
	SELECT g.* INTO last FROM bemi.gaps g
		WHERE g.id = ANY (oldest) ORDER BY g.to_time DESC, g.id DESC LIMIT 1;
	UPDATE bemi.gaps g SET to_lsn = last.to_lsn, to_time = last.to_time,
			noticed_at = clock_timestamp(),
			detail = 'Several gaps, and the times between them.'
		WHERE g.id = oldest[1];
	DELETE FROM bemi.gaps g WHERE g.id = ANY (oldest[2:]);
END
$$;
COMMENT ON FUNCTION _bemi.merge_gaps(text, text, text)
	IS 'internal: merges the oldest gaps of a table into one, if it has more than 100';
REVOKE ALL ON FUNCTION _bemi.merge_gaps(text, text, text) FROM PUBLIC;

CREATE FUNCTION _bemi.end_tracking(source text, schema text, "table" text, at_lsn pg_lsn,
		at_time timestamptz, detail text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH ended AS (
		DELETE FROM _bemi.source_tables t
			WHERE t.source = $1 AND t.schema = $2 AND t."table" = $3 RETURNING *
	)
	INSERT INTO bemi.gaps (source, schema, "table", reason, from_lsn, from_time, detail)
		SELECT e.source, e.schema, e."table", 'tracking_ended', $4, $5,
				coalesce($6, _bemi.default_detail('tracking_ended'))
			FROM ended e;
	SELECT _bemi.merge_gaps($1, $2, $3);
$$;
COMMENT ON FUNCTION _bemi.end_tracking(text, text, text, pg_lsn, timestamptz, text)
	IS 'internal: records that a table is no longer tracked';
REVOKE ALL ON FUNCTION _bemi.end_tracking(text, text, text, pg_lsn, timestamptz, text) FROM PUBLIC;

-- After a restart, the worker reads again the WAL after the last stored change. A tracking
-- message in it must not undo what a later transaction has done, if that is already recorded.
-- Messages of the same transaction are applied, because one transaction can track and untrack a
-- table.
CREATE FUNCTION _bemi.is_tracking_known(source text, schema text, "table" text, at_lsn pg_lsn,
		at_time timestamptz)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM bemi.gaps g WHERE g.source = $1 AND g.schema = $2 AND g."table" = $3
		AND g.reason <> 'rows_changed_by_ddl'
		AND (g.from_lsn > $4 AND g.from_time >= $5 OR g.to_lsn > $4 AND g.to_time >= $5))
$$;
COMMENT ON FUNCTION _bemi.is_tracking_known(text, text, text, pg_lsn, timestamptz)
	IS 'internal: whether it is already recorded that a later transaction tracked or untracked '
		'the table';
REVOKE ALL ON FUNCTION _bemi.is_tracking_known(text, text, text, pg_lsn, timestamptz) FROM PUBLIC;

-- The gap begins a microsecond before the commit and ends a microsecond after it. Several
-- commands of a transaction make one gap.
CREATE FUNCTION _bemi.record_changed_rows(source text, server text, relation oid, at_lsn pg_lsn,
		at_time timestamptz, detail text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO bemi.gaps
			(source, schema, "table", reason, from_lsn, to_lsn, from_time, to_time, detail)
		SELECT t.source, t.schema, t."table", 'rows_changed_by_ddl', $4, $4, e.from_time, e.to_time,
			coalesce($6, _bemi.default_detail('rows_changed_by_ddl'))
		FROM _bemi.source_tables t,
			-- Commit times can be as far off as the type allows.
			(SELECT CASE WHEN $5 > '4714-11-24 00:00:00+00 BC'
						THEN $5 - interval '1 microsecond' ELSE $5 END,
					CASE WHEN $5 < '294276-12-31 23:59:59.999999+00'
						THEN $5 + interval '1 microsecond' ELSE $5 END) e(from_time, to_time)
		WHERE t.source = $1 AND t.server = $2 AND t.relation = $3
			AND NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = $1 AND g.schema = t.schema AND g."table" = t."table"
				AND g.reason = 'rows_changed_by_ddl' AND g.to_lsn = $4 AND g.to_time = e.to_time);
	SELECT _bemi.merge_gaps(t.source, t.schema, t."table") FROM _bemi.source_tables t
		WHERE t.source = $1 AND t.server = $2 AND t.relation = $3;
$$;
COMMENT ON FUNCTION _bemi.record_changed_rows(text, text, oid, pg_lsn, timestamptz, text)
	IS 'internal: records that a command changed rows of a table without a change for each';
REVOKE ALL ON FUNCTION _bemi.record_changed_rows(text, text, oid, pg_lsn, timestamptz, text)
	FROM PUBLIC;

-- The worker has verified the signature (see src/stream/verify.c). But every user can copy a
-- signed message into another transaction, so the message names its transaction.
CREATE FUNCTION _bemi.apply_tracking(source text, server text, transaction xid, message jsonb,
		at_lsn pg_lsn, at_time timestamptz)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF message ->> 'transaction' IS DISTINCT FROM transaction::text THEN
		RETURN false;
	END IF;
	IF message ->> 'event' = 'rows changed' THEN
		PERFORM _bemi.record_changed_rows(source, server, (message ->> 'relation')::oid, at_lsn,
			at_time, message ->> 'detail');
		RETURN true;
	END IF;
	PERFORM _bemi.record_description(source, (message ->> 'relation')::oid,
		nullif(message -> 'description', 'null'));
	IF _bemi.is_tracking_known(source, message ->> 'schema', message ->> 'table',
		at_lsn, at_time) THEN
		RETURN true;
	ELSIF message ->> 'event' = 'began' THEN
		PERFORM _bemi.begin_tracking(source, server, (message ->> 'relation')::oid,
			message ->> 'schema', message ->> 'table', at_lsn, at_time);
	ELSE
		-- Under each name that the source has for it.
		PERFORM _bemi.end_tracking(t.source, t.schema, t."table", at_lsn, at_time,
				message ->> 'detail')
			FROM _bemi.source_tables t
			WHERE t.source = apply_tracking.source
				AND (t.schema = message ->> 'schema' AND t."table" = message ->> 'table'
				OR t.server = apply_tracking.server AND t.relation = (message ->> 'relation')::oid);
	END IF;
	RETURN true;
END
$$;
COMMENT ON FUNCTION _bemi.apply_tracking(text, text, xid, jsonb, pg_lsn, timestamptz)
	IS 'internal: applies a tracking message, see src/track/message.c; false if it was not '
		'written in this transaction';
REVOKE ALL ON FUNCTION _bemi.apply_tracking(text, text, xid, jsonb, pg_lsn, timestamptz)
	FROM PUBLIC;

-- A dropped table without gaps counts as never tracked, and is complete at no time. So its gaps
-- can be deleted when its history was dropped, and the oldest when more than 10000 dropped tables
-- are known. Each worker does this for its own source and for dropped sources, for at most 1000
-- tables of a source at a time.
CREATE FUNCTION _bemi.forget_gone_tables(source text)
	RETURNS integer
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	remembered CONSTANT integer := 10000;
	dropped_until timestamptz := (SELECT max(g.to_time) FROM bemi.gaps g
		WHERE g.source IS NULL AND g."table" IS NULL AND g.reason = 'retention');
	owner text;
	surplus timestamptz;
	gone record;
	forgotten integer := 0;
BEGIN
	FOR owner IN SELECT forget_gone_tables.source
		UNION SELECT t.source FROM _bemi.source_tables t
			WHERE NOT EXISTS (SELECT FROM bemi.sources s WHERE s.name = t.source)
	LOOP
		SELECT g.from_time INTO surplus FROM bemi.gaps g
			WHERE g.source = owner AND g."table" IS NOT NULL AND g.to_time IS NULL
			ORDER BY g.from_time DESC OFFSET remembered LIMIT 1;
		FOR gone IN SELECT g.schema, g."table" FROM bemi.gaps g
			WHERE g.source = owner AND g."table" IS NOT NULL AND g.to_time IS NULL
				AND g.from_time <= greatest(dropped_until, surplus)
				AND NOT EXISTS (SELECT FROM _bemi.source_tables t
					WHERE t.source = owner AND t.schema = g.schema AND t."table" = g."table")
			ORDER BY g.from_time LIMIT 1000
		LOOP
			DELETE FROM bemi.gaps g
				WHERE g.source = owner AND g.schema = gone.schema AND g."table" = gone."table";
			forgotten := forgotten + 1;
		END LOOP;
	END LOOP;
	RETURN forgotten;
END
$$;
COMMENT ON FUNCTION _bemi.forget_gone_tables(text)
	IS 'internal: deletes the gaps of dropped tables whose history was dropped, and of the '
		'oldest dropped tables if there are very many; returns the number of these tables';
REVOKE ALL ON FUNCTION _bemi.forget_gone_tables(text) FROM PUBLIC;

CREATE FUNCTION _bemi.compare_published(source text, server text,
		end_lsn pg_lsn, end_time timestamptz,
		begin_lsn pg_lsn, begin_time timestamptz, published json, is_first boolean)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _bemi.end_tracking(t.source, t.schema, t."table", $3, $4,
		'It was no longer in the publication.')
		FROM _bemi.source_tables t WHERE t.source = $1
			AND NOT EXISTS (
				SELECT FROM json_to_recordset($7)
					p(relation oid, schema text, "table" text, complete boolean)
				WHERE p.schema = t.schema AND p."table" = t."table" AND p.complete
					AND (p.relation = t.relation OR t.server <> $2));
	SELECT _bemi.begin_tracking($1, $2, p.relation, p.schema, p."table", $5, $6, $8)
		FROM json_to_recordset($7) p(relation oid, schema text, "table" text, complete boolean)
		WHERE p.complete;
$$;
COMMENT ON FUNCTION
	_bemi.compare_published(text, text, pg_lsn, timestamptz, pg_lsn, timestamptz, json, boolean)
	IS 'internal: compares the tables that the publication lists with the recorded ones, and '
		'records the differences';
REVOKE ALL ON FUNCTION
	_bemi.compare_published(text, text, pg_lsn, timestamptz, pg_lsn, timestamptz, json, boolean)
	FROM PUBLIC;

-- Every commit from here on is read. If the source is new, tables that the publication listed
-- before the slot was created, and still lists, get no gap of their own. Tables that were added
-- since get one.
CREATE FUNCTION _bemi.close_gap(source text, server text, at_lsn pg_lsn, at_time timestamptz,
		before json, published json, descriptions json)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	is_first boolean := false;
	still json;
BEGIN
	-- A clock that was ahead may have let it begin in the future.
	UPDATE bemi.gaps g SET to_lsn = at_lsn, to_time = at_time,
			from_time = CASE WHEN g.from_time <= at_time THEN g.from_time ELSE '-infinity' END
		WHERE g.source = close_gap.source AND g."table" IS NULL AND g.to_time IS NULL;
	IF NOT FOUND THEN
		is_first := true;
		INSERT INTO bemi.gaps (source, reason, from_time, to_lsn, to_time, detail)
			VALUES (close_gap.source, 'source_started', '-infinity', at_lsn, at_time,
				_bemi.default_detail('source_started'));
	END IF;

	SELECT coalesce(json_agg(p), '[]') INTO still
		FROM json_to_recordset(published)
			p(relation oid, schema text, "table" text, complete boolean)
		WHERE EXISTS (SELECT FROM json_to_recordset(before) b(relation oid, complete boolean)
			WHERE b.relation = p.relation AND b.complete);
	PERFORM _bemi.compare_published(source, server, at_lsn, at_time, at_lsn, at_time,
		still, is_first);
	PERFORM _bemi.compare_published(source, server, at_lsn, at_time, at_lsn, at_time,
		published, false);

	-- An old slot sends changes of a time when tables may have been different.
	IF descriptions IS NULL THEN
		PERFORM _bemi.mark_descriptions_stale(source);
	ELSE
		DELETE FROM _bemi.source_relations r WHERE r.source = close_gap.source;
		INSERT INTO _bemi.source_relations SELECT close_gap.source, d.relation, d.description
			FROM json_to_recordset(descriptions) d(relation oid, description jsonb);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.close_gap(text, text, pg_lsn, timestamptz, json, json, json)
	IS 'internal: ends the gap of a source, because its slot sends every commit from this LSN '
		'on; records the tables that the publication lists, and their descriptions (NULL: the '
		'slot is an old one)';
REVOKE ALL ON FUNCTION _bemi.close_gap(text, text, pg_lsn, timestamptz, json, json, json)
	FROM PUBLIC;

--
-- Sources: what is read into the history
--

CREATE FUNCTION _bemi.update_progress(source text,
		changes bigint, transactions bigint, invalid_messages bigint,
		stored_until timestamptz, stored_lsn pg_lsn,
		changed_lsn pg_lsn, changed_at timestamptz, changed_xid bigint)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO _bemi.source_progress AS p
			(source, changes, transactions, invalid_messages, stored_until, stored_lsn,
			changed_lsn, changed_at, changed_xid)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (source) DO UPDATE SET changes = p.changes + excluded.changes,
			transactions = p.transactions + excluded.transactions,
			invalid_messages = p.invalid_messages + excluded.invalid_messages,
			stored_until = coalesce(excluded.stored_until, p.stored_until),
			stored_lsn = coalesce(excluded.stored_lsn, p.stored_lsn),
			changed_lsn = coalesce(excluded.changed_lsn, p.changed_lsn),
			changed_at = coalesce(excluded.changed_at, p.changed_at),
			changed_xid = coalesce(excluded.changed_xid, p.changed_xid)
$$;
COMMENT ON FUNCTION _bemi.update_progress(text, bigint, bigint, bigint, timestamptz, pg_lsn,
	pg_lsn, timestamptz, bigint)
	IS 'internal: adds to the counters of a source, and moves its positions';
REVOKE ALL ON FUNCTION _bemi.update_progress(text, bigint, bigint, bigint, timestamptz, pg_lsn,
	pg_lsn, timestamptz, bigint) FROM PUBLIC;

-- The worker refuses messages that were signed with a key that it has never read, although the
-- source may have written them. If it can read no key, it refuses all messages.
CREATE FUNCTION _bemi.record_key_version(source text, version text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM _bemi.source_progress p
		WHERE p.source = record_key_version.source AND p.signing_key_version = version) THEN
		RETURN false;
	END IF;
	INSERT INTO _bemi.source_progress AS p VALUES (source, 0, 0, 0, NULL, version)
		ON CONFLICT ON CONSTRAINT source_progress_pkey DO UPDATE
			SET signing_key_version = excluded.signing_key_version;
	PERFORM _bemi.mark_descriptions_stale(source);
	RETURN true;
END
$$;
COMMENT ON FUNCTION _bemi.record_key_version(text, text)
	IS 'internal: records which signing key a source has; if it is another one, or none, what the '
		'source has sent so far becomes stale, and the result is true';
REVOKE ALL ON FUNCTION _bemi.record_key_version(text, text) FROM PUBLIC;

CREATE FUNCTION _bemi.forget_source(source text)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM _bemi.source_progress p WHERE p.source = forget_source.source;
	DELETE FROM _bemi.source_relations r WHERE r.source = forget_source.source;
	DELETE FROM bemi.sources s WHERE s.name = forget_source.source;
$$;
COMMENT ON FUNCTION _bemi.forget_source(text)
	IS 'internal: deletes the rows of a dropped source, but not its gaps';
REVOKE ALL ON FUNCTION _bemi.forget_source(text) FROM PUBLIC;

-- Not read from bemi.sources, because the row may have been copied with its database. Then it
-- names the slot of the original, which may be on this server.
CREATE FUNCTION _bemi.origin_of(source text)
	RETURNS name
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('bemi_%s_%s', d.oid, source)::name
		FROM pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION _bemi.origin_of(text)
	IS 'internal: name of the replication origin of a source of this database, and of its slot '
		'if the slot is on this server';
REVOKE ALL ON FUNCTION _bemi.origin_of(text) FROM PUBLIC;

-- A copy of this server has the same files. It differs in the inode of one, in the host, or in
-- the directory.
CREATE FUNCTION _bemi.this_reader()
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_this_reader'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.this_reader()
	IS 'internal: identifier of this server for bemi.sources.reader: system identifier, inode of '
		'pg_control, host, data directory';
REVOKE ALL ON FUNCTION _bemi.this_reader() FROM PUBLIC;

-- Another server can have slots of several histories, also of copies of this one.
CREATE FUNCTION _bemi.slot_of(source text, conninfo text)
	RETURNS name
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN conninfo IS NULL THEN _bemi.origin_of(source)
		ELSE (_bemi.origin_of(source) || '_' || left(md5(_bemi.this_reader()), 8))::name END
$$;
COMMENT ON FUNCTION _bemi.slot_of(text, text)
	IS 'internal: name of the slot that a new source of this database gets';
REVOKE ALL ON FUNCTION _bemi.slot_of(text, text) FROM PUBLIC;

-- A dump of single tables brings their triggers, but not the publication.
CREATE FUNCTION _bemi.warn_of_unpublished()
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	tables regclass[] := ARRAY(SELECT c.oid::regclass
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE t.tgfoid = 'bemi.emit_context()'::regprocedure AND t.tgname = 'bemi_emit_context'
			AND t.tgnargs >= 3
			AND NOT c.relispartition AND NOT _bemi.is_published(c.oid)
		ORDER BY c.oid::regclass::text COLLATE "C");
BEGIN
	IF tables <> '{}' THEN
		RAISE WARNING 'tables with the trigger of bemi.track() are not in publication "bemi"'
			USING DETAIL = format('The changes of %s tables are not stored. '
					'A dump of single tables does not contain the publication.',
					cardinality(tables)),
				HINT = (SELECT string_agg(format('SELECT bemi.track(%L);', t.name), ' ')
					FROM unnest(tables[:10]) t(name));
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.warn_of_unpublished()
	IS 'internal: warns about tables that were restored without their place in the publication';
REVOKE ALL ON FUNCTION _bemi.warn_of_unpublished() FROM PUBLIC;

CREATE FUNCTION _bemi.register_source(source text, conninfo text, caller name)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	origin name := _bemi.origin_of(source);
	slot name := _bemi.slot_of(source, conninfo);
	known record;
	fresh boolean := pg_replication_origin_oid(origin) IS NULL;
BEGIN
	IF source IS NULL OR source !~ '^[a-z0-9_]{1,32}$' THEN
		RAISE EXCEPTION 'source name "%" is not valid', source
			USING ERRCODE = 'invalid_name',
				DETAIL = 'It becomes part of a slot''s name: '
					'1 to 32 lower-case letters, digits and underscores.';
	END IF;

	SELECT s.desired, s.conninfo,
			s.conninfo IS NULL OR s.reader = _bemi.this_reader() AS reads_here INTO known
		FROM bemi.sources s WHERE s.name = source FOR UPDATE;
	-- A row without an origin was copied with its database: its source was never started here.
	IF FOUND AND known.desired <> 'stop' AND NOT fresh AND known.reads_here THEN
		RAISE EXCEPTION 'source "%" is already started', source
			USING ERRCODE = 'object_in_use',
				DETAIL = format(
					'Its state is shown by SELECT * FROM bemi.status WHERE source = %L.', source),
				HINT = format('To start it again, stop it first: CALL bemi.stop(%L);', source);
	END IF;

	IF coalesce(register_source.conninfo, known.conninfo) IS NULL
		AND EXISTS (SELECT FROM bemi.sources s
		WHERE s.conninfo IS NULL AND s.desired = 'run' AND s.name <> source
			AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NOT NULL) THEN
		RAISE EXCEPTION 'this database is already read by another source'
			USING ERRCODE = 'object_in_use',
				DETAIL = 'Every change would be stored twice.',
				HINT = 'SELECT source, state FROM bemi.status;';
	END IF;

	PERFORM _bemi.ensure_publication();
	-- Tracked schemas that came with a dump are not enabled yet.
	PERFORM bemi.track_schema(n.oid::regnamespace) FROM bemi.tracked_schemas s
		JOIN pg_namespace n ON n.nspname = s.schema WHERE s.enabled_in <> _bemi.this_database();
	PERFORM _bemi.warn_of_unpublished();
	IF fresh THEN
		PERFORM pg_replication_origin_create(origin);
	END IF;
	INSERT INTO bemi.sources AS s (name, owner, conninfo, slot_name, desired)
		VALUES (source, caller, register_source.conninfo, slot, 'run')
		ON CONFLICT (name) DO UPDATE SET conninfo = coalesce(excluded.conninfo, s.conninfo),
			slot_name = CASE WHEN fresh THEN excluded.slot_name ELSE s.slot_name END,
			desired = 'run', slot_made = s.slot_made AND NOT fresh,
			-- NULL: the worker makes this server the reader.
			reader = CASE WHEN s.reader = _bemi.this_reader() THEN s.reader END;
END
$$;
COMMENT ON FUNCTION _bemi.register_source(text, text, name)
	IS 'internal: the transactional part of bemi.start()';
REVOKE ALL ON FUNCTION _bemi.register_source(text, text, name) FROM PUBLIC;

CREATE FUNCTION _bemi.unregister_source(source text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	slot name;
BEGIN
	DELETE FROM bemi.sources s
		WHERE s.name = source AND NOT s.slot_made AND s.system_identifier IS NULL
			AND s.desired = 'run'
		RETURNING s.slot_name INTO slot;
	IF FOUND THEN
		PERFORM pg_replication_origin_drop(_bemi.origin_of(source));
		-- The worker may have failed just after it had made the slot.
		PERFORM pg_drop_replication_slot(s.slot_name) FROM pg_replication_slots s
			WHERE s.slot_name = slot AND s.database = current_database() AND NOT s.active;
	END IF;
	RETURN slot IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _bemi.unregister_source(text)
	IS 'internal: undoes _bemi.register_source(), if the source has no slot yet';
REVOKE ALL ON FUNCTION _bemi.unregister_source(text) FROM PUBLIC;

CREATE FUNCTION _bemi.set_desired_state(source text, desired text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- A row without an origin was copied with its database, and no worker reads it.
	IF set_desired_state.desired IN ('drop', 'force_drop') THEN
		DELETE FROM bemi.sources s WHERE s.name = source
			AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NULL;
		IF FOUND THEN
			RETURN true;
		END IF;
	END IF;
	UPDATE bemi.sources s SET desired = set_desired_state.desired WHERE s.name = source;
	RETURN FOUND;
END
$$;
COMMENT ON FUNCTION _bemi.set_desired_state(text, text)
	IS 'internal: the transactional part of bemi.stop() and bemi.drop_source()';
REVOKE ALL ON FUNCTION _bemi.set_desired_state(text, text) FROM PUBLIC;

-- The server connects to a source with the rights of its own account. So only a superuser may
-- give connection strings.
CREATE FUNCTION _bemi.check_controller(source text, conninfo text, caller name, procedure text)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	owner name;
	role pg_roles;
BEGIN
	SELECT r.* INTO STRICT role FROM pg_roles r WHERE r.rolname = caller;
	SELECT s.owner INTO owner FROM bemi.sources s WHERE s.name = source;
	IF role.rolsuper OR role.rolreplication AND conninfo IS NULL
		AND (owner IS NULL OR EXISTS (SELECT FROM pg_roles r
			WHERE r.rolname = owner AND pg_has_role(caller, r.oid, 'USAGE'))) THEN
		RETURN;
	END IF;
	RAISE EXCEPTION 'permission denied to call %()', procedure
		USING ERRCODE = 'insufficient_privilege',
			DETAIL = CASE WHEN conninfo IS NOT NULL
				THEN 'Only a superuser may give a connection string.'
				ELSE format('You must be a superuser, or have REPLICATION and own source "%s".',
					source) END,
			HINT = CASE WHEN conninfo IS NOT NULL
					THEN format('Have a superuser start it, and then: '
						'SELECT bemi.set_source_owner(%L, %L);', source, caller)
				WHEN NOT role.rolreplication
					THEN format('As a superuser: ALTER ROLE %I REPLICATION;', caller)
				ELSE format('As a superuser: SELECT bemi.set_source_owner(%L, %L);',
					source, caller) END;
END
$$;
COMMENT ON FUNCTION _bemi.check_controller(text, text, name, text)
	IS 'internal: error unless the role may start, stop and drop the source';
REVOKE ALL ON FUNCTION _bemi.check_controller(text, text, name, text) FROM PUBLIC;

CREATE FUNCTION bemi.set_source_owner(source text, owner regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE bemi.sources s SET owner = r.rolname FROM pg_roles r
		WHERE s.name = source AND r.oid = set_source_owner.owner;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" or its new owner does not exist', source
			USING ERRCODE = 'undefined_object',
				HINT = 'SELECT source, state FROM bemi.status; lists the sources.';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.set_source_owner(text, regrole)
	IS 'lets a role start, stop and drop a source; the role also needs REPLICATION, and EXECUTE '
		'on bemi.start(), bemi.stop() and bemi.drop_source()';
REVOKE ALL ON FUNCTION bemi.set_source_owner(text, regrole) FROM PUBLIC;

CREATE PROCEDURE bemi.start(name text DEFAULT 'main',
		conninfo text DEFAULT NULL, wait boolean DEFAULT true)
	AS 'MODULE_PATHNAME', 'bemi_start'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.start(text, text, boolean)
	IS 'starts to read a source, by default this database; every commit after the call is stored '
		'(wait => false: every commit after this transaction has committed and the slot is '
		'created)';
REVOKE ALL ON PROCEDURE bemi.start(text, text, boolean) FROM PUBLIC;

CREATE PROCEDURE bemi.stop(name text DEFAULT 'main')
	AS 'MODULE_PATHNAME', 'bemi_stop'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.stop(text)
	IS 'stops reading a source; its slot keeps the WAL for the next start';
REVOKE ALL ON PROCEDURE bemi.stop(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_source(name text, force boolean DEFAULT false)
	AS 'MODULE_PATHNAME', 'bemi_drop_source'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_source(text, boolean)
	IS 'stops reading a source and drops its slot; the history stays; force: keeps the slot of a '
		'source on another server, which may be unreachable';
REVOKE ALL ON PROCEDURE bemi.drop_source(text, boolean) FROM PUBLIC;

-- For bemi.sync(): after a restart, the row is there before the launcher has read it. SECURITY
-- DEFINER, because it reveals no more than bemi.sync().
CREATE FUNCTION _bemi.is_started()
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM bemi.sources s
		WHERE s.desired = 'run' AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NOT NULL)
$$;
COMMENT ON FUNCTION _bemi.is_started()
	IS 'internal: whether any source of this database is started';
REVOKE ALL ON FUNCTION _bemi.is_started() FROM PUBLIC;

CREATE FUNCTION bemi.sync(timeout interval DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_sync'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.sync(interval)
	IS 'waits until everything committed before the call is in bemi.changes; error after the '
		'timeout; NULL: no timeout';
REVOKE ALL ON FUNCTION bemi.sync(interval) FROM PUBLIC;

--
-- bemi.status: the state of sources and workers
--

CREATE FUNCTION _bemi.source_status(
		OUT source text, OUT state text, OUT pid integer,
		OUT received_lsn pg_lsn, OUT stored_lsn pg_lsn, OUT stored_until timestamptz,
		OUT changes bigint, OUT transactions bigint, OUT invalid_messages bigint,
		OUT restarts bigint, OUT last_error text, OUT last_error_at timestamptz,
		OUT last_hint text, OUT walsender integer,
		OUT source_lsn pg_lsn, OUT wal_kept bigint, OUT wal_status text,
		OUT catalog_xmin_age integer, OUT standby_advice text,
		OUT unreadable_tries integer, OUT unreadable_lsn pg_lsn, OUT stray_slots text)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_source_status'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 2;
COMMENT ON FUNCTION _bemi.source_status()
	IS 'internal: what the workers of this database report and, from source_lsn on, the state of '
		'slots on other servers; standby_advice: command to run if commits at the source may '
		'wait for the worker; stray_slots: slots at the source without a reader, with the WAL '
		'that they keep';
REVOKE ALL ON FUNCTION _bemi.source_status() FROM PUBLIC;

-- The slots of this server are read directly, so they are shown also while their workers fail.
-- The worker queries the state of other slots every few seconds.
CREATE FUNCTION _bemi.local_slots(
		OUT slot_name name, OUT source_lsn pg_lsn,
		OUT wal_kept bigint, OUT wal_status text, OUT catalog_xmin_age integer)
	RETURNS SETOF record
	LANGUAGE sql VOLATILE PARALLEL SAFE ROWS 2
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.slot_name, l.lsn, pg_wal_lsn_diff(l.lsn, s.restart_lsn)::bigint, s.wal_status,
		age(s.catalog_xmin)
	FROM pg_replication_slots s,
		(SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
			ELSE pg_current_wal_lsn() END AS lsn) l
	WHERE s.database = current_database()
$$;
COMMENT ON FUNCTION _bemi.local_slots() IS 'internal: slots of this server and database';
REVOKE ALL ON FUNCTION _bemi.local_slots() FROM PUBLIC;

CREATE FUNCTION _bemi.commit_horizon(timeout_ms integer, OUT until timestamptz, OUT lsn pg_lsn)
	RETURNS record
	AS 'MODULE_PATHNAME', 'bemi_commit_horizon'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE COST 1000;
COMMENT ON FUNCTION _bemi.commit_horizon(integer)
	IS 'internal: all commits with a time before "until" are in the WAL before "lsn"; NULLs if a '
		'commit takes longer than the timeout';
-- The worker of another server calls it, as a role with REPLICATION. It shows no more than
-- pg_current_wal_insert_lsn() does.
GRANT EXECUTE ON FUNCTION _bemi.commit_horizon(integer) TO PUBLIC;

CREATE FUNCTION _bemi.why_no_worker()
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_why_no_worker'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION _bemi.why_no_worker()
	IS 'internal: reason why no worker of this server can run; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.why_no_worker() FROM PUBLIC;

-- Waits of less than 100 ms are normal. A role that is no member of pg_monitor sees less of the
-- process that holds the lock.
CREATE FUNCTION _bemi.lock_wait(waiting integer)
	RETURNS text
	LANGUAGE sql VOLATILE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('waits for a lock on %s, held by %s',
		CASE WHEN l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND l.objsubid <> 0
				THEN 'the sources (bemi.start(), bemi.stop(), bemi.drop_source())'
			WHEN l.relation IS NOT NULL AND l.database = d.oid THEN l.relation::regclass::text
			ELSE l.locktype END,
		(SELECT string_agg(CASE b.pid WHEN 0 THEN 'a prepared transaction, see pg_prepared_xacts'
				ELSE format('process %s (%s)', b.pid,
					concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
						'transaction of ' || date_trunc('second', a.xact_start))) END,
				' and ' ORDER BY b.pid)
			FROM (SELECT DISTINCT unnest(pg_blocking_pids(waiting)) AS pid) b
				LEFT JOIN pg_stat_activity a ON a.pid = b.pid))
	FROM pg_locks l, pg_database d
	WHERE l.pid = waiting AND NOT l.granted
		AND l.waitstart < clock_timestamp() - interval '100 milliseconds'
		AND d.datname = current_database()
$$;
COMMENT ON FUNCTION _bemi.lock_wait(integer)
	IS 'internal: lock that a process of this server waits for, and who holds it; NULL if it '
		'waits for none';
REVOKE ALL ON FUNCTION _bemi.lock_wait(integer) FROM PUBLIC;

CREATE VIEW bemi.status AS
	SELECT s.name AS source, s.database,
		coalesce(w.state, CASE s.desired WHEN 'stop' THEN 'stopped' ELSE 'not running' END)
			AS state,
		w.pid,
		CASE WHEN starts_with(s.slot_name::text, _bemi.origin_of(s.name)::text)
			THEN s.slot_name END AS slot_name,
		w.received_lsn, w.stored_lsn,
		CASE WHEN l.slot_name IS NOT NULL OR w.state = 'streaming'
			THEN greatest(pg_wal_lsn_diff(n.source_lsn, w.stored_lsn), 0)::bigint END AS lag_bytes,
		CASE WHEN w.state = 'streaming' AND w.stored_lsn >= n.source_lsn THEN interval '0'
			WHEN coalesce(w.stored_until, p.stored_until) > clock_timestamp() THEN interval '0'
			ELSE clock_timestamp() - coalesce(w.stored_until, p.stored_until) END AS lag,
		coalesce(w.stored_until, p.stored_until) AS stored_until,
		coalesce(w.changes, p.changes, 0) AS changes,
		coalesce(w.transactions, p.transactions, 0) AS transactions,
		coalesce(w.invalid_messages, p.invalid_messages, 0) AS invalid_messages,
		coalesce(w.restarts, 0) AS restarts, w.last_error, w.last_error_at, w.last_hint,
		n.wal_kept, n.wal_status, n.catalog_xmin_age,
		-- One expression for each problem, NULL if there is none.
		nullif(concat_ws('; ',
			CASE n.wal_status
				WHEN 'lost'
					THEN 'the slot is lost: changes are missing from the history; '
						'the worker records a gap in bemi.gaps when it connects'
				WHEN 'unreserved'
					THEN 'the slot is about to be lost: the server removes WAL that it needs'
			END,
			CASE WHEN n.wal_kept
					> nullif(pg_size_bytes(current_setting('bemi.max_slot_lag', true)), -1)
				THEN 'the slot keeps more WAL than bemi.max_slot_lag' END,
			CASE WHEN w.unreadable_tries > 0 AND w.unreadable_lsn IS NOT NULL THEN
				format('the source fails to decode the transaction committed at %s '
					'(%s times so far): if it keeps failing, the worker skips it, '
					'and records a gap in bemi.gaps', w.unreadable_lsn, w.unreadable_tries)
			WHEN w.unreadable_tries > 0 THEN
				format('the source fails to decode what comes after %s (%s times so far): '
					'if it keeps failing, the worker skips that, and records a gap in bemi.gaps',
					w.stored_lsn, w.unreadable_tries)
			END,
			'commits at the source may wait for the worker instead of a standby; at the source: '
				|| w.standby_advice,
			CASE WHEN w.stray_slots IS NOT NULL THEN
				format('slots without a reader keep write-ahead log at the source: %s; '
					'each may belong to a former server of this history, '
					'or to a history that is only stopped; '
					'to drop one, at the source: SELECT pg_drop_replication_slot(%L);',
					w.stray_slots, split_part(w.stray_slots, ' ', 1))
			END,
			CASE WHEN s.desired = 'run' THEN _bemi.why_no_worker() END,
			CASE WHEN s.desired = 'run'
				AND NOT starts_with(s.slot_name::text, _bemi.origin_of(s.name)::text)
				THEN format('the source was copied with its database: '
					'CALL bemi.start(%L);', s.name) END,
			'the worker ' || _bemi.lock_wait(w.pid),
			'the WAL sender of the worker ' || _bemi.lock_wait(w.walsender),
			_bemi.history_warning(),
			(SELECT format(
					'the owner of extension bemi is no superuser (tables may stay untracked when '
					'they are made or attached): ALTER ROLE %I SUPERUSER;', r.rolname)
				FROM pg_extension e JOIN pg_roles r ON r.oid = e.extowner
				WHERE e.extname = 'bemi' AND NOT r.rolsuper),
			-- Those that follow DDL also fire where session_replication_role is replica.
			(SELECT format('event triggers of bemi are disabled (DDL is not followed and makes no '
					'gap): %s',
					string_agg(format('ALTER EVENT TRIGGER %I ENABLE%s;', e.evtname,
						CASE WHEN e.evtname <> 'bemi_protect_history' THEN ' ALWAYS' END), ' '
						ORDER BY e.evtname))
				FROM pg_event_trigger e
					JOIN pg_depend d ON d.classid = 'pg_event_trigger'::regclass
						AND d.objid = e.oid AND d.deptype = 'e'
					JOIN pg_extension x ON x.oid = d.refobjid
						AND d.refclassid = 'pg_extension'::regclass
				WHERE x.extname = 'bemi' AND (e.evtenabled IN ('D', 'R')
					OR (e.evtenabled = 'O' AND e.evtname <> 'bemi_protect_history'))
				HAVING count(*) > 0)
		), '') AS warning
	FROM bemi.sources s
		LEFT JOIN _bemi.source_progress p ON p.source = s.name
		LEFT JOIN _bemi.source_status() w ON w.source = s.name
		LEFT JOIN _bemi.local_slots() l ON l.slot_name = s.slot_name
		CROSS JOIN LATERAL (SELECT coalesce(l.source_lsn, w.source_lsn) AS source_lsn,
			CASE WHEN l.slot_name IS NULL THEN w.wal_kept ELSE l.wal_kept END AS wal_kept,
			coalesce(l.wal_status, w.wal_status) AS wal_status,
			coalesce(l.catalog_xmin_age, w.catalog_xmin_age) AS catalog_xmin_age) n;
COMMENT ON VIEW bemi.status IS 'state, progress and errors of each source';
COMMENT ON COLUMN bemi.status.source IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.status.database IS 'database that is read';
COMMENT ON COLUMN bemi.status.state
	IS 'starting, connecting, making slot, streaming, paused (for DROP DATABASE and similar '
		'commands), failed (tried again, see last_error), stopped, dropping, not running';
COMMENT ON COLUMN bemi.status.pid IS 'process of the worker, NULL if it is not running';
COMMENT ON COLUMN bemi.status.slot_name
	IS 'replication slot at the source; NULL if the source was copied with its database';
COMMENT ON COLUMN bemi.status.received_lsn
	IS 'LSN of the source up to which the worker has received the WAL';
COMMENT ON COLUMN bemi.status.stored_lsn
	IS 'LSN of the source up to which everything is in bemi.changes';
COMMENT ON COLUMN bemi.status.lag_bytes
	IS 'bytes of WAL between stored_lsn and the end of WAL at the source; NULL: unknown';
COMMENT ON COLUMN bemi.status.lag
	IS 'age of stored_until; 0 if everything is stored, NULL if nothing ever was';
COMMENT ON COLUMN bemi.status.stored_until
	IS 'everything committed before this time is in bemi.changes';
COMMENT ON COLUMN bemi.status.changes
	IS 'changes stored since bemi.start() created the source; a crash can lose the last second '
		'of the count';
COMMENT ON COLUMN bemi.status.transactions IS 'source transactions with these changes';
COMMENT ON COLUMN bemi.status.invalid_messages
	IS 'invalid messages with a prefix of bemi; after an invalid context message, changes have '
		'the context {}';
COMMENT ON COLUMN bemi.status.restarts
	IS 'how often the worker failed and was restarted since the server started';
COMMENT ON COLUMN bemi.status.last_error IS 'last error of the worker';
COMMENT ON COLUMN bemi.status.last_error_at IS 'when the worker last failed';
COMMENT ON COLUMN bemi.status.last_hint IS 'how to solve the last error, if that is known';
COMMENT ON COLUMN bemi.status.wal_kept IS 'bytes of WAL that the source keeps for the slot';
COMMENT ON COLUMN bemi.status.wal_status
	IS 'state of the slot, as in pg_replication_slots: reserved, extended, unreserved, lost';
COMMENT ON COLUMN bemi.status.catalog_xmin_age
	IS 'age of the oldest transaction whose catalog rows the slot keeps from VACUUM';
COMMENT ON COLUMN bemi.status.warning
	IS 'problems that do not stop the worker, and why no worker runs; separated by "; "';
REVOKE ALL ON bemi.status FROM PUBLIC;

--
-- Completeness: what the gaps mean for a table and a time
--

CREATE FUNCTION _bemi.find_gaps(source text, schema text, "table" text,
		from_time timestamptz, to_time timestamptz)
	RETURNS SETOF bemi.gaps
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT g.* FROM bemi.gaps g
		WHERE g.source = $1 AND g.schema = $2 AND g."table" = $3
			AND g.from_time < $5 AND coalesce(g.to_time, 'infinity') > $4
	UNION ALL
	SELECT g.* FROM bemi.gaps g
		WHERE (g.source = $1 OR g.source IS NULL) AND g."table" IS NULL
			AND g.from_time < $5 AND coalesce(g.to_time, 'infinity') > $4
	UNION ALL
	SELECT NULL, $1, $2, $3, 'not_tracked', NULL, NULL, '-infinity', NULL, clock_timestamp(),
			_bemi.default_detail('not_tracked')
		WHERE NOT EXISTS (SELECT FROM _bemi.source_tables t
			WHERE t.source = $1 AND t.schema = $2 AND t."table" = $3)
			AND NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = $1 AND g.schema = $2 AND g."table" = $3)
	UNION ALL
	-- On an idle server, stored_until is behind the clock. Then the end of this server's WAL
	-- shows whether everything is stored.
	SELECT NULL, $1, NULL, NULL, 'not_stored_yet', s.stored_lsn, NULL,
			coalesce(s.stored_until, '-infinity'), NULL, clock_timestamp(),
			concat_ws(' ', _bemi.default_detail('not_stored_yet'),
				'The last error of the worker was: ' || s.last_error)
		FROM bemi.status s
		WHERE s.source = $1 AND coalesce(s.stored_until, '-infinity') < $5
			AND ($5 <= clock_timestamp() AND s.state = 'streaming'
				AND EXISTS (SELECT FROM _bemi.local_slots() l WHERE l.slot_name = s.slot_name)
				AND (SELECT s.stored_lsn >= h.lsn FROM _bemi.commit_horizon(1000) h
					WHERE h.until >= $5)) IS NOT TRUE
			AND NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = $1 AND g."table" IS NULL AND g.to_time IS NULL)
	ORDER BY 8, 5
$$;
COMMENT ON FUNCTION _bemi.find_gaps(text, text, text, timestamptz, timestamptz)
	IS 'internal: gaps of a table in this time range; no row if there is none';
REVOKE ALL ON FUNCTION _bemi.find_gaps(text, text, text, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.source_completeness(source_name text, schema_name text, table_name text,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS TABLE (complete boolean, source text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE plpgsql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF num_nulls(source_name, schema_name, table_name, from_time, to_time) > 0 THEN
		RAISE EXCEPTION 'source, table and times must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	RETURN QUERY SELECT false, g.source, g.reason, g.from_time, g.to_time, g.detail
		FROM _bemi.find_gaps(source_name, schema_name, table_name, source_completeness.from_time,
			source_completeness.to_time) g;
	IF NOT FOUND THEN
		RETURN QUERY SELECT true, source_name, NULL::text, NULL::timestamptz, NULL::timestamptz,
			NULL::text;
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.source_completeness(text, text, text, timestamptz, timestamptz)
	IS 'whether the history of this table of this source is complete in the time range: one row '
		'if it is, otherwise a row for each gap';
REVOKE ALL ON FUNCTION bemi.source_completeness(text, text, text, timestamptz, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION bemi.completeness(target regclass,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS TABLE (complete boolean, source text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE plpgsql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	rel record;
	candidate text;
BEGIN
	-- Changes of a partition are stored under the name of its root, if the root is tracked.
	SELECT n.nspname AS schema, c.relname AS "table" INTO rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = CASE WHEN _bemi.is_published(_bemi.partition_root(target))
			THEN _bemi.partition_root(target) ELSE target END;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
	END IF;

	-- Sources that read this database, now or formerly. The current one comes last, and its gaps
	-- are returned if no source is complete.
	FOR candidate IN
		SELECT l.source FROM (
				SELECT s.name, s.desired = 'run' FROM bemi.sources s WHERE s.conninfo IS NULL
				UNION ALL SELECT t.source, false FROM _bemi.source_tables t
					WHERE t.server = _bemi.this_server()
			) l(source, runs) GROUP BY l.source ORDER BY bool_or(l.runs), l.source
	LOOP
		EXIT WHEN NOT EXISTS (SELECT
			FROM _bemi.find_gaps(candidate, rel.schema, rel."table", from_time, to_time));
	END LOOP;
	IF candidate IS NULL THEN
		RETURN QUERY SELECT false, NULL::text, 'no_source',
			'-infinity'::timestamptz, NULL::timestamptz,
			_bemi.default_detail('no_source');
	ELSE
		RETURN QUERY SELECT c.*
			FROM bemi.source_completeness(candidate, rel.schema, rel."table", from_time, to_time) c;
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.completeness(regclass, timestamptz, timestamptz)
	IS 'whether the history of this table is complete in the time range: one row if it is, '
		'otherwise a row for each gap';
REVOKE ALL ON FUNCTION bemi.completeness(regclass, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.source_complete(source_name text, schema_name text, table_name text,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT bool_and(c.complete)
		FROM bemi.source_completeness(source_name, schema_name, table_name, from_time, to_time) c
$$;
COMMENT ON FUNCTION bemi.source_complete(text, text, text, timestamptz, timestamptz)
	IS 'whether the history of this table of this source is complete in the time range; '
		'bemi.source_completeness() returns the gaps';
REVOKE ALL ON FUNCTION bemi.source_complete(text, text, text, timestamptz, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION bemi.complete(target regclass,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS boolean
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT bool_and(c.complete) FROM bemi.completeness(target, from_time, to_time) c
$$;
COMMENT ON FUNCTION bemi.complete(regclass, timestamptz, timestamptz)
	IS 'whether the history of this table is complete in the time range; bemi.completeness() '
		'returns the gaps';
REVOKE ALL ON FUNCTION bemi.complete(regclass, timestamptz, timestamptz) FROM PUBLIC;

--
-- Readers: all rights that reading needs
--

-- A view calls its functions with the rights of its reader.
CREATE FUNCTION _bemi.set_monitoring(reader regrole, granted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	verb text := CASE WHEN granted THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
BEGIN
	EXECUTE format(verb, 'USAGE ON SCHEMA bemi, _bemi', reader);
	EXECUTE format(verb, 'SELECT ON
		bemi.status, bemi.tracked, bemi.gaps, bemi.context_indexes, _bemi.context_index_keys',
		reader);
	EXECUTE format(verb, 'EXECUTE ON FUNCTION
		bemi.complete(regclass, timestamptz, timestamptz),
		bemi.completeness(regclass, timestamptz, timestamptz),
		bemi.source_complete(text, text, text, timestamptz, timestamptz),
		bemi.source_completeness(text, text, text, timestamptz, timestamptz),
		bemi.sync(interval),
		_bemi.is_started(),
		-- bemi.status
		_bemi.history_warning(),
		_bemi.local_slots(),
		_bemi.lock_wait(integer),
		_bemi.origin_of(text),
		_bemi.source_status(),
		_bemi.why_no_worker(),
		-- bemi.context_indexes
		_bemi.context_index_definition(text),
		_bemi.context_index_states(text, regclass),
		-- bemi.tracked
		_bemi.columnless_rules(regclass, regclass),
		_bemi.has_bad_rules(regclass),
		_bemi.has_trigger(regclass),
		_bemi.is_of_extension(regclass),
		_bemi.is_published(regclass),
		_bemi.partition_root(regclass),
		_bemi.rules(regclass),
		_bemi.this_database(),
		_bemi.tracked_with_root(regclass),
		_bemi.pending_detach(regclass),
		_bemi.unstored_partition(regclass),
		_bemi.untrackable(regclass)', reader);
END
$$;
COMMENT ON FUNCTION _bemi.set_monitoring(regrole, boolean)
	IS 'internal: grants or revokes the right to see the state of sources and tracked tables';
REVOKE ALL ON FUNCTION _bemi.set_monitoring(regrole, boolean) FROM PUBLIC;

-- The functions of sql/query call those of _bemi with the rights of their caller.
CREATE FUNCTION _bemi.set_reading(reader regrole, granted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	verb text := CASE WHEN granted THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
BEGIN
	EXECUTE format(verb, 'SELECT ON bemi.changes, bemi.holds, bemi.transactions', reader);
	EXECUTE format(verb, 'EXECUTE ON FUNCTION
		bemi.blame(regclass, text),
		bemi.context_is(jsonb, text, text),
		bemi.diff(jsonb, jsonb),
		bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text, integer,
			uuid),
		bemi.full_context(bemi.changes),
		bemi.history(regclass, text, integer, uuid),
		bemi.transaction(uuid),
		_bemi.changed_columns(text, jsonb, jsonb),
		_bemi.check_page(integer),
		_bemi.find_change(uuid),
		_bemi.has_several_sources(),
		_bemi.history_of(regclass),
		_bemi.key_columns(regclass),
		_bemi.key_from_image(regclass, jsonb),
		_bemi.key_from_user(regclass, text),
		_bemi.key_text(jsonb, text),
		_bemi.key_of_texts(text[]),
		_bemi.partition_ranges(),
		_bemi.partition_times(),
		_bemi.transaction_changes()', reader);
END
$$;
COMMENT ON FUNCTION _bemi.set_reading(regrole, boolean)
	IS 'internal: grants or revokes the right to read the history';
REVOKE ALL ON FUNCTION _bemi.set_reading(regrole, boolean) FROM PUBLIC;

CREATE FUNCTION _bemi.check_reader(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = reader) THEN
		RAISE EXCEPTION 'reader role does not exist' USING ERRCODE = 'undefined_object';
	-- A GRANT that has no effect is a warning only.
	ELSIF NOT (SELECT pg_has_role(current_user, e.extowner, 'USAGE')
		FROM pg_extension e WHERE e.extname = 'bemi') THEN
		RAISE EXCEPTION 'permission denied to grant or revoke reading'
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'You must be a superuser or a member of the role that owns '
					'extension bemi.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_reader(regrole)
	IS 'internal: error unless the role exists and the current user may grant it the right to read';
REVOKE ALL ON FUNCTION _bemi.check_reader(regrole) FROM PUBLIC;

CREATE FUNCTION bemi.grant_read(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_reader(reader);
	PERFORM _bemi.set_monitoring(reader, true);
	PERFORM _bemi.set_reading(reader, true);
END
$$;
COMMENT ON FUNCTION bemi.grant_read(regrole)
	IS 'lets a role read the history and its completeness: bemi.changes, gaps, holds, status, '
		'tracked, context_indexes, complete(), completeness(), sync()';
REVOKE ALL ON FUNCTION bemi.grant_read(regrole) FROM PUBLIC;

CREATE FUNCTION bemi.revoke_read(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_reader(reader);
	PERFORM _bemi.set_monitoring(reader, false);
	PERFORM _bemi.set_reading(reader, false);
END
$$;
COMMENT ON FUNCTION bemi.revoke_read(regrole)
	IS 'revokes the rights that bemi.grant_read() granted';
REVOKE ALL ON FUNCTION bemi.revoke_read(regrole) FROM PUBLIC;
--
-- Indexes on values of the context
--
-- Each is a B-tree of one partition of bemi.changes, on the value of a key and the id. So the
-- newest changes with a value are found without a search among all others. bemi.index_context()
-- creates them on all partitions there are (src/store/context_index.c), and _bemi.make_partition()
-- on those to come. There is none on bemi.changes itself: a dump would attach those of its
-- partitions to it, and restoring that fails, because the extension has created bemi.changes
-- without it.
--

-- Everything after the name of the table. A value of a context can have a megabyte, and an entry of
-- a B-tree less than 3 kB, and an entry that does not fit would stop the worker. So the index has
-- the first 200 characters. bemi.context_is() compares them first, and then the whole value.
-- Collation "C", because that is the cheapest, and no update of a collation damages the index.
-- The text is as pg_get_indexdef() returns it.
CREATE FUNCTION _bemi.context_index_definition(key text)
	RETURNS text
	LANGUAGE sql STABLE STRICT
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('USING btree ("left"(%1$s, 200) COLLATE "C", id) WHERE (%1$s IS NOT NULL)',
		format('(context ->> ''%s''::text)', replace(key, '''', '''''')))
$$;
COMMENT ON FUNCTION _bemi.context_index_definition(text)
	IS 'internal: definition of the index of a partition on a key of the context, from USING on';
REVOKE ALL ON FUNCTION _bemi.context_index_definition(text) FROM PUBLIC;

-- With these settings, the server's text has no more quotes than the definition has, and only
-- quotes are doubled. An index that a user has created with the same definition counts, too.
CREATE FUNCTION _bemi.context_index_states(key text, only_partition regclass DEFAULT NULL,
		OUT partition regclass, OUT index regclass, OUT is_valid boolean, OUT is_attached boolean)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET quote_all_identifiers = off
AS $$
	WITH RECURSIVE tree(oid) AS (
		SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'bemi.changes'::regclass
		UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
	)
	SELECT c.oid, i.indexrelid, i.indisvalid,
		EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
	FROM tree t
		CROSS JOIN _bemi.context_index_definition(key) definition
		JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'r'
		LEFT JOIN pg_index i ON i.indrelid = c.oid
			AND right(pg_get_indexdef(i.indexrelid), length(definition)) = definition
	WHERE only_partition IS NULL OR c.oid = only_partition
$$;
COMMENT ON FUNCTION _bemi.context_index_states(text, regclass)
	IS 'internal: for each partition of bemi.changes that is a table, its indexes on a key of the '
		'context, or NULL if it has none';
REVOKE ALL ON FUNCTION _bemi.context_index_states(text, regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.create_context_indexes(partition name)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	key text;
BEGIN
	FOR key IN SELECT k.key FROM _bemi.context_index_keys k ORDER BY k.key LOOP
		EXECUTE format('CREATE INDEX ON _bemi.%I %s', partition,
			_bemi.context_index_definition(key));
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.create_context_indexes(name)
	IS 'internal: creates the indexes on keys of the context on a new partition';
REVOKE ALL ON FUNCTION _bemi.create_context_indexes(name) FROM PUBLIC;

CREATE PROCEDURE bemi.index_context(key text)
	AS 'MODULE_PATHNAME', 'bemi_index_context'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.index_context(text)
	IS 'indexes the history by the value of a key of the context, without blocking readers or '
		'workers; bemi.context_is() uses the index';
REVOKE ALL ON PROCEDURE bemi.index_context(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_index_context(key text)
	AS 'MODULE_PATHNAME', 'bemi_drop_index_context'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_index_context(text)
	IS 'drops the indexes that bemi.index_context() has created for a key';
REVOKE ALL ON PROCEDURE bemi.drop_index_context(text) FROM PUBLIC;

CREATE VIEW bemi.context_indexes AS
	SELECT k.key, count(DISTINCT s.partition)::integer AS partitions,
		count(DISTINCT s.partition) FILTER (WHERE s.is_valid)::integer AS indexed,
		sum(pg_catalog.pg_relation_size(s.index))::bigint AS bytes
	FROM _bemi.context_index_keys k
		LEFT JOIN LATERAL _bemi.context_index_states(k.key) s ON true
	GROUP BY k.key;
COMMENT ON VIEW bemi.context_indexes IS 'keys of the context that bemi.index_context() has indexed';
COMMENT ON COLUMN bemi.context_indexes.key IS 'key of the context';
COMMENT ON COLUMN bemi.context_indexes.partitions
	IS 'partitions of bemi.changes, without foreign tables';
COMMENT ON COLUMN bemi.context_indexes.indexed
	IS 'how many of them have the index; if not all, call bemi.index_context() again';
COMMENT ON COLUMN bemi.context_indexes.bytes IS 'size of these indexes; NULL if there are none';
REVOKE ALL ON bemi.context_indexes FROM PUBLIC;

-- The server replaces a call by the expression, and then finds the index. This takes a body that
-- was parsed when the function was created, which also needs no search_path. The second comparison
-- is for long values only. It disappears from the plan for a short one, because the planner would
-- otherwise multiply both estimates, expect few rows, and sort them all.
CREATE FUNCTION bemi.context_is(context jsonb, key text, value text)
	RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	RETURN pg_catalog.left(context OPERATOR(pg_catalog.->>) key, 200) COLLATE "C"
			OPERATOR(pg_catalog.=) pg_catalog.left(value, 200)
		AND (pg_catalog.length(value) OPERATOR(pg_catalog.<) 200
			OR context OPERATOR(pg_catalog.->>) key OPERATOR(pg_catalog.=) value);
COMMENT ON FUNCTION bemi.context_is(jsonb, text, text)
	IS 'whether a key of the context has this value, as text; uses the index of '
		'bemi.index_context()';
GRANT EXECUTE ON FUNCTION bemi.context_is(jsonb, text, text) TO PUBLIC;

--
-- Changes of many rows
--

-- Custom plans see which conditions are given, and leave out the others.
CREATE FUNCTION bemi.find_changes(target regclass DEFAULT NULL, operation text DEFAULT NULL,
		column_name name DEFAULT NULL, context jsonb DEFAULT NULL,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL,
		source_name text DEFAULT NULL, newest integer DEFAULT 100, before_id uuid DEFAULT NULL)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	sources text[];
	its_schema text;
	its_table text;
	known boolean := true;
	cursor_change bemi.changes;
	by_time boolean;
	left_over integer := newest;
	part record;
	below uuid;
	n integer;
	returned boolean := false;
	indexed record;
BEGIN
	PERFORM _bemi.check_page(newest);
	IF operation NOT IN ('CREATE', 'UPDATE', 'DELETE', 'TRUNCATE') THEN
		RAISE EXCEPTION 'operation "%" is not valid', operation
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write CREATE, UPDATE, DELETE or TRUNCATE.';
	ELSIF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	IF target IS NOT NULL THEN
		SELECT h.sources, h.schema_name, h.table_name, h.known
			INTO sources, its_schema, its_table, known FROM _bemi.history_of(target) h;
	END IF;
	-- Between sources on several servers, ids have no order.
	by_time := target IS NULL AND source_name IS NULL AND _bemi.has_several_sources();
	-- A key that bemi.index_context() has indexed, and the text of its value.
	SELECT e.key, e.value INTO indexed
		FROM jsonb_each_text(context) e JOIN _bemi.context_index_keys k USING (key)
		WHERE jsonb_typeof(context -> e.key) IN ('string', 'number', 'boolean') LIMIT 1;
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
	END IF;

	FOR part IN SELECT t.from_time, t.to_time FROM _bemi.partition_times() t LOOP
		CONTINUE WHEN part.to_time < find_changes.from_time
			OR part.from_time >= find_changes.to_time
			OR part.from_time > cursor_change.committed_at;
		below := CASE WHEN cursor_change.committed_at BETWEEN part.from_time AND part.to_time
			THEN before_id END;
		RETURN QUERY SELECT c.* FROM bemi.changes c
			WHERE c.committed_at BETWEEN part.from_time AND part.to_time
				AND (find_changes.from_time IS NULL OR c.committed_at >= find_changes.from_time)
				AND (find_changes.to_time IS NULL OR c.committed_at < find_changes.to_time)
				AND (below IS NULL OR by_time OR c.id < below)
				AND (below IS NULL OR NOT by_time
					OR (c.committed_at, c.id) < (cursor_change.committed_at, below))
				AND (target IS NULL OR c."table" = its_table AND c.schema = its_schema
					AND c.source = ANY (sources))
				AND (source_name IS NULL OR c.source = source_name)
				AND (find_changes.operation IS NULL OR c.operation = find_changes.operation)
				AND (find_changes.context IS NULL OR indexed.key IS NOT NULL
					OR c.context @> find_changes.context)
				-- In a CASE, it does not lower the number of rows that the planner expects. With a
				-- lower one, it would read and sort all changes with this value.
				AND (indexed.key IS NULL
					OR bemi.context_is(c.context, indexed.key, indexed.value)
						AND CASE WHEN c.context @> find_changes.context THEN true ELSE false END)
				AND (column_name IS NULL OR
					CASE WHEN c.operation = 'UPDATE' THEN c.before ? column_name::text
							AND c.after ? column_name::text
							AND c.before -> column_name::text <> c.after -> column_name::text
						ELSE coalesce(nullif(c.before -> column_name::text, 'null'),
							c.after -> column_name::text) <> 'null' END)
			ORDER BY CASE WHEN by_time THEN c.committed_at END DESC, c.id DESC
			LIMIT left_over;
		GET DIAGNOSTICS n = ROW_COUNT;
		returned := returned OR n > 0;
		left_over := left_over - n;
		EXIT WHEN left_over = 0;
	END LOOP;

	IF NOT returned AND NOT known THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('SELECT bemi.track(%L);', target);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text,
	integer, uuid)
	IS 'changes that meet all of these conditions, newest first; bemi.history() has those of a row';
REVOKE ALL ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz,
	text, integer, uuid) FROM PUBLIC;

--
-- One row
--

-- A missing column counts as null, because "before" of a new row and "after" of a deleted one
-- are {}.
CREATE FUNCTION bemi.diff(before jsonb, after jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF jsonb_typeof(before) <> 'object' OR jsonb_typeof(after) <> 'object' THEN
		RAISE EXCEPTION 'before and after must be JSON objects'
			USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN (SELECT coalesce(jsonb_object_agg(k.name, jsonb_build_array(before -> k.name,
				after -> k.name)), '{}')
			FROM (SELECT jsonb_object_keys(before) UNION SELECT jsonb_object_keys(after)) k(name)
			WHERE coalesce(before -> k.name, 'null') <> coalesce(after -> k.name, 'null'));
END
$$;
COMMENT ON FUNCTION bemi.diff(jsonb, jsonb)
	IS 'columns that differ between two rows, each with [old, new]';
GRANT EXECUTE ON FUNCTION bemi.diff(jsonb, jsonb) TO PUBLIC;

-- With a replica identity other than FULL, an UPDATE has only a part of "before", or nothing.
CREATE FUNCTION _bemi.changed_columns(operation text, before jsonb, after jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN operation <> 'UPDATE' THEN bemi.diff(before, after)
		WHEN before <> '{}' THEN (SELECT coalesce(jsonb_object_agg(b.key,
				jsonb_build_array(b.value, after -> b.key)), '{}')
			FROM jsonb_each(before) b WHERE after ? b.key AND after -> b.key <> b.value)
	END
$$;
COMMENT ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb)
	IS 'internal: columns that a change has changed, each with [old, new]; NULL: not known';
REVOKE ALL ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION bemi.history(target regclass, key text, newest integer DEFAULT 100,
		before_id uuid DEFAULT NULL)
	RETURNS TABLE (id uuid, committed_at timestamptz, operation text, primary_key text,
		changed jsonb, before jsonb, after jsonb, context jsonb, transaction_id bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	h record;
	key_names text[];
	cursor_change bemi.changes;
	row_key text;
	passed boolean := true;
	returned integer := 0;
	part record;
	below uuid;
	truncated boolean;
	moved boolean;
	c bemi.changes;
BEGIN
	PERFORM _bemi.check_page(newest);
	h := _bemi.history_of(target);
	row_key := _bemi.key_from_user(h.relation, history.key);
	key_names := (SELECT k.names FROM _bemi.key_columns(h.relation) k);
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
		IF (cursor_change.schema, cursor_change."table") <> (h.schema_name, h.table_name)
			OR cursor_change.source <> ALL (h.sources) THEN
			RAISE EXCEPTION 'change "%" is not a change of table "%"', before_id, target
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		-- If it has another key, the page before has followed a changed one, or this is a change
		-- of another row. And a TRUNCATE has none. So the way to it is repeated.
		passed := cursor_change.primary_key IS NOT DISTINCT FROM row_key;
		IF passed AND cursor_change.operation = 'UPDATE' THEN
			row_key := coalesce(_bemi.key_from_image(h.relation, cursor_change.before), row_key);
		END IF;
	END IF;

	FOR part IN SELECT t.from_time, t.to_time FROM _bemi.partition_times() t LOOP
		CONTINUE WHEN before_id IS NOT NULL AND passed
			AND part.from_time > cursor_change.committed_at;
		below := CASE WHEN before_id IS NOT NULL AND passed
				AND cursor_change.committed_at BETWEEN part.from_time AND part.to_time
			THEN before_id ELSE 'ffffffff-ffff-ffff-ffff-ffffffffffff' END;
		-- Such a partition is rare, and a plan for both costs twice as much.
		truncated := EXISTS (SELECT FROM bemi.changes t
			WHERE t.committed_at BETWEEN part.from_time AND part.to_time
				AND t."table" = h.table_name AND t.schema = h.schema_name
				AND t.primary_key IS NULL AND t.operation = 'TRUNCATE');
		LOOP
			moved := false;
			FOR c IN
				SELECT u.* FROM (
						SELECT r.* FROM bemi.changes r
							WHERE r."table" = h.table_name AND r.schema = h.schema_name
								AND r.primary_key = row_key AND r.source = ANY (h.sources)
								AND r.committed_at BETWEEN part.from_time AND part.to_time
								AND r.id < below
						UNION ALL
						SELECT t.* FROM bemi.changes t
							WHERE truncated
								AND t.committed_at BETWEEN part.from_time AND part.to_time
								AND t."table" = h.table_name AND t.schema = h.schema_name
								AND t.primary_key IS NULL AND t.operation = 'TRUNCATE'
								AND t.source = ANY (h.sources) AND t.id < below) u
					ORDER BY u.id DESC
					LIMIT CASE WHEN passed THEN newest - returned END
			LOOP
				IF passed THEN
					id := c.id;
					committed_at := c.committed_at;
					operation := c.operation;
					primary_key := c.primary_key;
					changed := _bemi.changed_columns(c.operation, c.before, c.after);
					before := c.before;
					after := c.after;
					context := CASE WHEN c.context ? '_whole' THEN bemi.full_context(c)
						ELSE c.context END;
					transaction_id := c.transaction_id;
					RETURN NEXT;
					returned := returned + 1;
				END IF;
				passed := passed OR c.id = before_id;
				IF returned = newest THEN
					RETURN;
				END IF;
				-- The row had another key before. As text, because 1.5 and 1.50 are two keys.
				IF c.operation = 'UPDATE' AND EXISTS (SELECT FROM unnest(key_names) k
					WHERE (c.before -> k)::text <> (c.after -> k)::text) THEN
					row_key := coalesce(_bemi.key_from_image(h.relation, c.before), row_key);
					below := c.id;
					moved := true;
					EXIT;
				END IF;
			END LOOP;
			EXIT WHEN NOT moved;
		END LOOP;
	END LOOP;

	IF NOT passed THEN
		RAISE EXCEPTION 'change "%" is not in the history of row "%" of table "%"', before_id,
				history.key, target
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'before_id is the last id of the page before.';
	END IF;
	IF returned = 0 AND NOT h.known THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				HINT = format('SELECT bemi.track(%L);', target);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.history(regclass, text, integer, uuid)
	IS 'changes of the row with this primary key, newest first; bemi.find_changes() has those of '
		'a table';
REVOKE ALL ON FUNCTION bemi.history(regclass, text, integer, uuid) FROM PUBLIC;

CREATE FUNCTION bemi.blame(target regclass, key text)
	RETURNS TABLE (column_name text, value jsonb, changed_at timestamptz, operation text,
		context jsonb, change_id uuid)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	page integer := 10;
	last_id uuid;
	seen integer;
	c record;
	removal record;		-- a TRUNCATE that removed the row
	pending jsonb;		-- columns whose change has not been found, with their values
	blamed jsonb := '{}';	-- column -> change
	image jsonb := '{}';
	changes jsonb := '{}';	-- id -> what to return of the change
	found_columns text[];
BEGIN
	LOOP
		seen := 0;
		FOR c IN SELECT h.* FROM bemi.history(target, blame.key, page, last_id) h LOOP
			seen := seen + 1;
			last_id := c.id;
			IF pending IS NULL AND c.operation = 'TRUNCATE' THEN
				removal := c;
				changes := changes || jsonb_build_object(c.id, jsonb_build_object('at',
					c.committed_at, 'operation', c.operation, 'context', c.context));
				CONTINUE;
			END IF;
			IF pending IS NULL THEN
				pending := CASE c.operation WHEN 'DELETE' THEN c.before ELSE c.after END;
				-- The values of a row that is gone are null.
				image := CASE WHEN c.operation = 'DELETE' OR changes <> '{}'
					THEN (SELECT jsonb_object_agg(k, NULL) FROM jsonb_object_keys(pending) k)
					ELSE pending END;
				IF c.operation <> 'DELETE' AND changes <> '{}' THEN
					blamed := (SELECT jsonb_object_agg(k, removal.id)
						FROM jsonb_object_keys(pending) k);
					pending := '{}';
					EXIT;
				END IF;
			ELSIF c.operation IN ('DELETE', 'TRUNCATE') THEN
				-- An earlier row with this key. How this one began is not in the history.
				EXIT;
			END IF;
			found_columns := ARRAY(SELECT k FROM jsonb_object_keys(pending) k
				WHERE c.operation = 'DELETE' OR c.changed ? k
					OR c.operation = 'CREATE' AND c.after ? k);
			IF found_columns <> '{}' THEN
				changes := changes || jsonb_build_object(c.id, jsonb_build_object('at',
					c.committed_at, 'operation', c.operation, 'context', c.context));
				blamed := blamed || (SELECT jsonb_object_agg(k, c.id) FROM unnest(found_columns) k);
				pending := pending - found_columns;
			END IF;
			-- An UPDATE without the old value may have set it.
			IF c.operation = 'UPDATE' THEN
				pending := pending - ARRAY(SELECT k FROM jsonb_object_keys(pending) k
					WHERE NOT c.before ? k);
			END IF;
			EXIT WHEN pending = '{}' OR c.operation = 'CREATE';
		END LOOP;
		EXIT WHEN seen < page OR image <> '{}' AND (pending = '{}'
			OR c.operation IN ('CREATE', 'DELETE', 'TRUNCATE'));
		page := page * 4;
	END LOOP;
	RETURN QUERY SELECT i.key, i.value, (changes -> (blamed ->> i.key) ->> 'at')::timestamptz,
			changes -> (blamed ->> i.key) ->> 'operation',
			changes -> (blamed ->> i.key) -> 'context', (blamed ->> i.key)::uuid
		FROM jsonb_each(image) i LEFT JOIN pg_attribute a
			ON a.attrelid = target AND a.attname = i.key AND NOT a.attisdropped
		ORDER BY a.attnum, i.key;
END
$$;
COMMENT ON FUNCTION bemi.blame(regclass, text)
	IS 'columns of the row with this primary key, each with the change that set its value';
REVOKE ALL ON FUNCTION bemi.blame(regclass, text) FROM PUBLIC;

--
-- Primary keys as bemi.changes has them
--

-- The type is NULL if its text is the same in jsonb, or if an ordinary role may have made it:
-- the functions of such a type would run with the rights of the reader.
CREATE FUNCTION _bemi.key_columns(target regclass, OUT names text[], OUT types text[])
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(a.attname::text ORDER BY k.place),
			array_agg(CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace
					AND t.oid NOT IN ('text'::regtype, 'jsonb'::regtype)
				THEN format_type(t.oid, CASE WHEN t.oid = a.atttypid THEN a.atttypmod
					ELSE d.typtypmod END) END ORDER BY k.place)
		FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
			JOIN pg_attribute a ON a.attnum = k.attnum
			JOIN pg_type d ON d.oid = a.atttypid
			JOIN pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
		WHERE i.indrelid = target AND i.indisprimary AND a.attrelid = target
			AND k.place <= i.indnkeyatts
$$;
COMMENT ON FUNCTION _bemi.key_columns(regclass)
	IS 'internal: names and built-in types of the columns of the primary key, in key order';
REVOKE ALL ON FUNCTION _bemi.key_columns(regclass) FROM PUBLIC;

-- %s of format() prints a value as the type's output function does.
CREATE FUNCTION _bemi.key_text(value jsonb, type text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
	SET intervalstyle = 'postgres'
	SET extra_float_digits = 1
	SET bytea_output = 'hex'
AS $$
DECLARE
	result text;
BEGIN
	IF type IS NULL OR starts_with(value #>> '{}', '[redacted') THEN
		RETURN value #>> '{}';
	END IF;
	EXECUTE format('SELECT format(''%%s'', r.x) FROM jsonb_to_record($1) r(x %s)', type)
		INTO result USING jsonb_build_object('x', value);
	RETURN result;
END
$$;
COMMENT ON FUNCTION _bemi.key_text(jsonb, text)
	IS 'internal: text of a value in the primary key; with type NULL, the text in the jsonb';
REVOKE ALL ON FUNCTION _bemi.key_text(jsonb, text) FROM PUBLIC;

-- As bounded_key() in src/decode/row_json.c.
CREATE FUNCTION _bemi.key_of_texts(texts text[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN octet_length(k.key) <= 2000 THEN k.key
			ELSE left(k.key, (SELECT max(n) FROM generate_series(500, least(2000, length(k.key))) n
				WHERE octet_length(left(k.key, n)) <= 2000)) || '...md5:' || md5(k.key) END
		FROM (SELECT CASE cardinality(texts) WHEN 1 THEN texts[1]
			ELSE to_jsonb(texts)::text END) k(key)
$$;
COMMENT ON FUNCTION _bemi.key_of_texts(text[])
	IS 'internal: primary_key of bemi.changes for the texts of the key''s columns';
REVOKE ALL ON FUNCTION _bemi.key_of_texts(text[]) FROM PUBLIC;

CREATE FUNCTION _bemi.key_from_image(target regclass, image jsonb)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _bemi.key_of_texts(array_agg(_bemi.key_text(image -> c.name, c.type) ORDER BY c.place))
		FROM _bemi.key_columns(target) k,
			unnest(k.names, k.types) WITH ORDINALITY c(name, type, place)
		HAVING bool_and(image ? c.name)
$$;
COMMENT ON FUNCTION _bemi.key_from_image(regclass, jsonb)
	IS 'internal: primary_key of bemi.changes for a row; NULL if it lacks a part of the key';
REVOKE ALL ON FUNCTION _bemi.key_from_image(regclass, jsonb) FROM PUBLIC;

CREATE FUNCTION _bemi.key_from_user(target regclass, key text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	columns record;
	image jsonb;
	example text;
BEGIN
	IF key IS NULL THEN
		RAISE EXCEPTION 'key must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	SELECT k.names, k.types INTO columns FROM _bemi.key_columns(target) k;
	IF columns.names IS NULL THEN
		RAISE EXCEPTION 'table "%" has no primary key', target
			USING ERRCODE = 'undefined_object',
				HINT = format('SELECT * FROM bemi.find_changes(%L);', target);
	ELSIF cardinality(columns.names) = 1 THEN
		RETURN _bemi.key_of_texts(ARRAY[_bemi.key_text(to_jsonb(key), columns.types[1])]);
	END IF;

	example := (SELECT format('{%s}', string_agg(format('%s: ...', to_json(n)), ', ' ORDER BY i))
		FROM unnest(columns.names) WITH ORDINALITY c(n, i));
	-- Also as bemi.changes has it, so that it can be copied from there.
	IF key ~ '^\s*\[' AND jsonb_array_length(key::jsonb) = cardinality(columns.names) THEN
		image := (SELECT jsonb_object_agg(n, key::jsonb -> (i - 1)::integer)
			FROM unnest(columns.names) WITH ORDINALITY c(n, i));
	ELSIF key ~ '^\s*\{' THEN
		image := key::jsonb;
	ELSE
		RAISE EXCEPTION 'key of table "%" has % columns', target, cardinality(columns.names)
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Write the key as %L.', example);
	END IF;
	IF NOT (image ?& columns.names)
		OR (SELECT count(*) <> cardinality(columns.names) FROM jsonb_object_keys(image))
		OR jsonb_path_exists(image, '$.* ? (@ == null)') THEN
		RAISE EXCEPTION 'key of table "%" must have each of its columns, and no others', target
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('Write the key as %L.', example);
	END IF;
	RETURN _bemi.key_from_image(target, image);
END
$$;
COMMENT ON FUNCTION _bemi.key_from_user(regclass, text)
	IS 'internal: primary_key of bemi.changes for a key that a user has written';
REVOKE ALL ON FUNCTION _bemi.key_from_user(regclass, text) FROM PUBLIC;

--
-- Reading: one partition at a time, newest first
--
-- Each query of bemi.changes below has a condition on committed_at that one partition satisfies,
-- and a custom plan, so the planner opens this partition only. A plan for all partitions costs
-- tens of milliseconds if there are hundreds. Readers have no rights on partitions, and row
-- policies of bemi.changes must hold, so no query names a partition.
--

-- A row of the default partition has a time that no other partition covers. to_time is part of
-- the range.
CREATE FUNCTION _bemi.partition_times(OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	LANGUAGE sql STABLE ROWS 100
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH range AS (
		SELECT r.from_time, r.to_time, lead(r.from_time, 1, 'infinity') OVER w AS next_from,
				row_number() OVER w = 1 AS first
			FROM _bemi.partition_ranges() r WINDOW w AS (ORDER BY r.from_time)
	), piece AS (
		SELECT r.from_time, r.to_time FROM range r
		UNION ALL
		SELECT h.from_time, h.to_time
			FROM (SELECT r.to_time, r.next_from FROM range r
				UNION ALL SELECT '-infinity', r.from_time FROM range r WHERE r.first
				UNION ALL SELECT '-infinity', 'infinity' WHERE NOT EXISTS (SELECT FROM range)
			) h(from_time, to_time)
			WHERE h.from_time < h.to_time AND EXISTS (SELECT FROM pg_partitioned_table t
				WHERE t.partrelid = 'bemi.changes'::regclass AND t.partdefid <> 0)
	)
	SELECT p.from_time, p.to_time - interval '1 microsecond' FROM piece p
		ORDER BY p.from_time DESC
$$;
COMMENT ON FUNCTION _bemi.partition_times()
	IS 'internal: ranges of committed_at, newest first; each is in one partition of bemi.changes';
REVOKE ALL ON FUNCTION _bemi.partition_times() FROM PUBLIC;

CREATE FUNCTION _bemi.find_change(change_id uuid)
	RETURNS bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	part record;
	found_change bemi.changes;
BEGIN
	FOR part IN SELECT t.from_time, t.to_time FROM _bemi.partition_times() t LOOP
		SELECT c.* INTO found_change FROM bemi.changes c
			WHERE c.id = change_id AND c.committed_at BETWEEN part.from_time AND part.to_time;
		IF FOUND THEN
			RETURN found_change;
		END IF;
	END LOOP;
	RAISE EXCEPTION 'change "%" does not exist', change_id
		USING ERRCODE = 'no_data_found',
			DETAIL = 'It was never stored, has been deleted, or you may not see it.';
END
$$;
COMMENT ON FUNCTION _bemi.find_change(uuid) IS 'internal: the change with this id, or an error';
REVOKE ALL ON FUNCTION _bemi.find_change(uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.check_page(newest integer)
	RETURNS void
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF newest < 1 THEN
		RAISE EXCEPTION 'newest must be at least 1'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'newest => NULL returns all changes.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_page(integer)
	IS 'internal: error if this is no number of changes to return';
REVOKE ALL ON FUNCTION _bemi.check_page(integer) FROM PUBLIC;

-- With the rights of the owner, because nobody else can read which sources there are. All sources
-- that read this database, or have read it, have the WAL positions of one server, so ids order
-- their changes.
CREATE FUNCTION _bemi.history_of(target regclass,
		OUT sources text[], OUT schema_name text, OUT table_name text, OUT relation regclass,
		OUT known boolean)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_one text := _bemi.this_server();
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'target table must not be null' USING ERRCODE = 'null_value_not_allowed';
	END IF;
	-- Changes of a partition are stored under the name of its root, if the root is tracked.
	SELECT c.oid, n.nspname, c.relname INTO relation, schema_name, table_name
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = CASE WHEN _bemi.is_published(_bemi.partition_root(target))
			THEN _bemi.partition_root(target) ELSE target END;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
	END IF;
	-- If this database is read over a connection string, too, that source has the same changes.
	sources := ARRAY(
		SELECT s.name FROM bemi.sources s WHERE s.conninfo IS NULL
		UNION SELECT p.source FROM _bemi.source_progress p
			WHERE format('%s/%s', p.system_identifier, p.database) = this_one
				AND p.source NOT IN (SELECT s.name FROM bemi.sources s));
	IF sources = '{}' THEN
		sources := ARRAY(SELECT DISTINCT t.source FROM _bemi.source_tables t
			WHERE t.server = this_one);
	END IF;
	IF sources = '{}' THEN
		RAISE EXCEPTION 'no source of this database is started'
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Changes that are stored are in bemi.changes.',
				HINT = 'CALL bemi.start();';
	END IF;
	known := EXISTS (SELECT FROM _bemi.source_tables t WHERE t.source = ANY (sources)
			AND t.schema = schema_name AND t."table" = table_name)
		OR EXISTS (SELECT FROM bemi.gaps g WHERE g.source = ANY (sources)
			AND g.schema = schema_name AND g."table" = table_name);
END
$$;
COMMENT ON FUNCTION _bemi.history_of(regclass)
	IS 'internal: under which sources and names the history of this table is, and whether any of '
		'them has ever tracked it';
REVOKE ALL ON FUNCTION _bemi.history_of(regclass) FROM PUBLIC;

-- With the rights of the owner, as above.
CREATE FUNCTION _bemi.has_several_sources()
	RETURNS boolean
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT count(*) > 1 FROM (SELECT s.name FROM bemi.sources s
		UNION SELECT p.source FROM _bemi.source_progress p) u
$$;
COMMENT ON FUNCTION _bemi.has_several_sources()
	IS 'internal: whether changes of several sources are in the history, between which ids have '
		'no order';
REVOKE ALL ON FUNCTION _bemi.has_several_sources() FROM PUBLIC;

--
-- Transactions
--

-- A view reads with the rights of its owner, but the tables of a function that the planner puts
-- in its place with those of the reader. So the row policies for the reader hold. Without SET, or
-- else the planner could not do so, and conditions on committed_at would not reach the
-- partitions. The body is parsed when it is created, so no search_path changes it.
CREATE FUNCTION _bemi.transaction_changes()
	RETURNS TABLE (source text, database text, transaction_id bigint, committed_at timestamptz,
		id uuid, schema_name text, table_name text, operation text, context jsonb)
	LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	SELECT c.source, c.database, c.transaction_id, c.committed_at, c.id, c.schema, c."table",
			c.operation, c.context
		FROM bemi.changes c;
END;
COMMENT ON FUNCTION _bemi.transaction_changes()
	IS 'internal: bemi.changes for bemi.transactions, with the rights of the reader';
REVOKE ALL ON FUNCTION _bemi.transaction_changes() FROM PUBLIC;

CREATE VIEW bemi.transactions AS
	SELECT c.source, c.database, c.transaction_id, c.committed_at,
			min(c.id::text)::uuid AS change_id,
			count(*) AS changes,
			count(*) FILTER (WHERE c.operation = 'CREATE') AS created,
			count(*) FILTER (WHERE c.operation = 'UPDATE') AS updated,
			count(*) FILTER (WHERE c.operation = 'DELETE') AS deleted,
			count(*) FILTER (WHERE c.operation = 'TRUNCATE') AS truncated,
			array_agg(DISTINCT format('%I.%I', c.schema_name, c.table_name)) AS tables,
			array_agg(DISTINCT c.context - '_whole') AS contexts
		FROM _bemi.transaction_changes() c
		GROUP BY c.source, c.database, c.transaction_id, c.committed_at;
COMMENT ON VIEW bemi.transactions
	IS 'one row for each transaction in bemi.changes; with a condition on committed_at, only '
		'partitions of that time are read';
COMMENT ON COLUMN bemi.transactions.source IS 'source that the transaction was read from';
COMMENT ON COLUMN bemi.transactions.database IS 'database of the transaction';
COMMENT ON COLUMN bemi.transactions.transaction_id IS 'transaction ID (xid) at the source';
COMMENT ON COLUMN bemi.transactions.committed_at IS 'commit time at the source';
COMMENT ON COLUMN bemi.transactions.change_id
	IS 'id of its first change; bemi.transaction() returns all of them';
COMMENT ON COLUMN bemi.transactions.changes IS 'number of changes';
COMMENT ON COLUMN bemi.transactions.created IS 'rows inserted';
COMMENT ON COLUMN bemi.transactions.updated IS 'rows updated';
COMMENT ON COLUMN bemi.transactions.deleted IS 'rows deleted';
COMMENT ON COLUMN bemi.transactions.truncated IS 'tables truncated';
COMMENT ON COLUMN bemi.transactions.tables IS 'changed tables';
COMMENT ON COLUMN bemi.transactions.contexts IS 'different contexts of its changes';
REVOKE ALL ON bemi.transactions FROM PUBLIC;

-- Ids of a transaction begin with its commit LSN, which make_change_id() in src/decode/stitch.c
-- puts into the first 8 bytes and the upper half of the ninth, below 2 bits of the variant.
CREATE FUNCTION bemi.transaction(change_id uuid)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	one bemi.changes;
	bytes bytea := uuid_send(change_id);
	first_id uuid;
	last_id uuid;
BEGIN
	IF change_id IS NULL THEN
		RAISE EXCEPTION 'id of the change must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	END IF;
	one := _bemi.find_change(change_id);
	first_id := encode(substr(set_byte(bytes, 8, get_byte(bytes, 8) & 252), 1, 9)
		|| '\x00000000000000', 'hex');
	last_id := encode(substr(set_byte(bytes, 8, get_byte(bytes, 8) | 3), 1, 9)
		|| '\xffffffffffffff', 'hex');
	RETURN QUERY SELECT c.* FROM bemi.changes c
		WHERE c.id BETWEEN first_id AND last_id AND c.committed_at = one.committed_at
			AND c.source = one.source
		ORDER BY c.id;
END
$$;
COMMENT ON FUNCTION bemi.transaction(uuid)
	IS 'all changes of the transaction that made this change, in their order';
REVOKE ALL ON FUNCTION bemi.transaction(uuid) FROM PUBLIC;

--
-- Rights that no single object states
--
-- Each file states what PUBLIC may do with an object, right after it. A function that is granted
-- to PUBLIC in schema _bemi has its reason there. Default privileges of the role that creates the
-- extension may have given more, to roles whose names no script can know, and may have taken
-- rights from the owner. Both are undone here. The server records the result as the initial
-- privileges of the extension (pg_init_privs), so a dump has only what an administrator has
-- granted or revoked later.
--

DO $$
DECLARE
	owner regrole := (SELECT e.extowner FROM pg_extension e WHERE e.extname = 'bemi');
	grantee regrole;
BEGIN
	FOR grantee IN
		SELECT DISTINCT a.grantee
			FROM (SELECT n.nspacl FROM pg_namespace n WHERE n.nspname IN ('bemi', '_bemi')
				UNION ALL SELECT p.proacl FROM pg_proc p
					WHERE p.pronamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)
				UNION ALL SELECT c.relacl FROM pg_class c
					WHERE c.relnamespace IN ('bemi'::regnamespace, '_bemi'::regnamespace)) o(acl),
				aclexplode(o.acl) a
			WHERE a.grantee NOT IN (0, owner)
	LOOP
		EXECUTE format('REVOKE ALL ON SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA bemi, _bemi FROM %s CASCADE', grantee);
		EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA bemi, _bemi FROM %s CASCADE',
			grantee);
	END LOOP;
	EXECUTE format('GRANT ALL ON SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL ROUTINES IN SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL TABLES IN SCHEMA bemi, _bemi TO %s', owner);
	EXECUTE format('GRANT ALL ON ALL SEQUENCES IN SCHEMA bemi, _bemi TO %s', owner);
END
$$;

-- pg_monitor sees the state of sources, but not the history.
SELECT _bemi.set_monitoring('pg_monitor', true);

-- Last: restore session_replication_role, see sql/00_schemas.sql.
SELECT pg_catalog.set_config('session_replication_role',
	pg_catalog.current_setting('bemi_script.session_replication_role'), true);
