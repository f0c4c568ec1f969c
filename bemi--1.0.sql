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

-- ENABLE ALWAYS and ENABLE REPLICA event triggers fire all the same. They get one command
-- of each kind first, so that the error can name the one that fails.
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

-- The packages of bemi.io make a trigger for each row, an event trigger that gives it to new
-- tables, and one that sets replica identities. The row trigger's message takes the place of
-- the context that bemi has written for the statement.
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

-- The schema is a member of the extension, and the script must make it itself:
-- were it allowed to exist before, its owner could have planted objects in it.
CREATE SCHEMA bemi;
COMMENT ON SCHEMA bemi IS 'history of every row, with the reason for each change';
REVOKE ALL ON SCHEMA bemi FROM PUBLIC;
GRANT USAGE ON SCHEMA bemi TO PUBLIC;

-- Functions of schema bemi call those of _bemi with the rights of their caller, so everybody
-- may look names up in it.
CREATE SCHEMA _bemi;
COMMENT ON SCHEMA _bemi
	IS 'partitions of bemi.changes; the rest is internal, and changes without notice';
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
	IS 'schemas whose tables are all tracked, also those made later';
COMMENT ON COLUMN bemi.tracked_schemas.schema IS 'name of the schema given to bemi.track_schema()';
COMMENT ON COLUMN bemi.tracked_schemas.schema_oid
	IS 'its OID in the database in which the row was made';
COMMENT ON COLUMN bemi.tracked_schemas.enabled_in
	IS 'database in which the row was made, see _bemi.this_database()';
REVOKE ALL ON bemi.tracked_schemas FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('bemi.tracked_schemas', '');

-- What the publication lists decides what is in the history, so each change of it
-- goes into the write-ahead log, where the worker meets it in its place between the
-- changes, and writes it down in bemi.gaps. Like a context, it is a logical message,
-- which anybody can write; unlike a context, it is signed.
CREATE TABLE _bemi.signing_key (
	value text NOT NULL
);
COMMENT ON TABLE _bemi.signing_key
	IS 'key that signs the messages about tables, so that nobody else can write them';
COMMENT ON COLUMN _bemi.signing_key.value IS 'made by CREATE EXTENSION; a dump does not carry it';
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
COMMENT ON TABLE bemi.changes
	IS 'history: one row for each row inserted, updated or deleted, and for each table truncated';
COMMENT ON COLUMN bemi.changes.id
	IS 'UUID version 8 made of commit LSN, place in the transaction, and source; in commit order';
COMMENT ON COLUMN bemi.changes.database IS 'database of the changed table';
COMMENT ON COLUMN bemi.changes.schema IS 'schema of the changed table';
COMMENT ON COLUMN bemi.changes."table" IS 'changed table, the root if it is partitioned';
COMMENT ON COLUMN bemi.changes.primary_key
	IS 'primary key as text; several columns: JSON array of texts in key order; none: NULL';
COMMENT ON COLUMN bemi.changes.operation IS 'CREATE, UPDATE, DELETE or TRUNCATE';
COMMENT ON COLUMN bemi.changes.before IS 'row before the change, {} if there was none';
COMMENT ON COLUMN bemi.changes.after IS 'row after the change, {} if there is none';
COMMENT ON COLUMN bemi.changes.context
	IS 'context of the statement, {} if there was none; of a large one, later changes of a '
		'transaction have its small members, see bemi.full_context()';
COMMENT ON COLUMN bemi.changes.committed_at IS 'when the transaction committed at the source';
COMMENT ON COLUMN bemi.changes.queued_at IS 'when the worker received the change';
COMMENT ON COLUMN bemi.changes.created_at IS 'when the worker stored the change';
COMMENT ON COLUMN bemi.changes.transaction_id IS 'transaction at the source (xid)';
COMMENT ON COLUMN bemi.changes.position
	IS 'LSN of the row''s record in the source''s write-ahead log';
COMMENT ON COLUMN bemi.changes.source IS 'source that it was read from, as named to bemi.start()';
REVOKE ALL ON bemi.changes FROM PUBLIC;

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
	IS 'times whose changes are kept whatever bemi.retention says; made by bemi.hold() and '
		'bemi.hold_partition(), ended by bemi.release() and bemi.release_partition()';
COMMENT ON COLUMN bemi.holds.from_time IS 'first time that is held; compared with committed_at';
COMMENT ON COLUMN bemi.holds.to_time IS 'first time after it that is not held';
COMMENT ON COLUMN bemi.holds.reason IS 'reason given with the hold';
COMMENT ON COLUMN bemi.holds.held_by IS 'role that was logged in when the hold was made';
COMMENT ON COLUMN bemi.holds.held_at IS 'when the hold was made';
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
	IS 'where history may be missing; bemi.complete() and bemi.completeness() read it';
COMMENT ON COLUMN bemi.gaps.id IS 'counts the gaps in the order in which they were noticed';
COMMENT ON COLUMN bemi.gaps.source IS 'source that the gap concerns, NULL: all';
COMMENT ON COLUMN bemi.gaps.schema IS 'schema of the table';
COMMENT ON COLUMN bemi.gaps."table" IS 'table that the gap concerns, NULL: all of the source';
COMMENT ON COLUMN bemi.gaps.reason
	IS 'why; a code, see the constraint gaps_reason_check, and detail for what it means';
COMMENT ON COLUMN bemi.gaps.from_lsn
	IS 'position in the source''s write-ahead log up to which everything is stored, NULL: unknown';
COMMENT ON COLUMN bemi.gaps.to_lsn
	IS 'position from which on everything is stored, NULL: unknown, or the gap is open';
COMMENT ON COLUMN bemi.gaps.from_time
	IS 'changes committed after this time may be missing; -infinity: all before to_time';
COMMENT ON COLUMN bemi.gaps.to_time IS 'up to this time; NULL: the gap is open';
COMMENT ON COLUMN bemi.gaps.noticed_at IS 'when the gap was written down';
COMMENT ON COLUMN bemi.gaps.detail
	IS 'sentences that explain the reason, and what else is known of the gap';
REVOKE ALL ON bemi.gaps FROM PUBLIC;
COMMENT ON SEQUENCE bemi.gaps_id_seq IS 'internal: numbers of bemi.gaps';
REVOKE ALL ON SEQUENCE bemi.gaps_id_seq FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('bemi.gaps', '');
SELECT pg_catalog.pg_extension_config_dump('bemi.gaps_id_seq', '');

-- Of the tables that no change has been seen of, this tells tracked from untracked.
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
	IS 'tables that the sources track, as far as the workers have read';
COMMENT ON COLUMN _bemi.source_tables.source IS 'name of the source';
COMMENT ON COLUMN _bemi.source_tables.schema IS 'schema of the table';
COMMENT ON COLUMN _bemi.source_tables."table" IS 'tracked table';
COMMENT ON COLUMN _bemi.source_tables.relation IS 'its OID at the source';
COMMENT ON COLUMN _bemi.source_tables.server IS 'system identifier and database of the source';
REVOKE ALL ON _bemi.source_tables FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.source_tables', '');

-- As the sources send it in the stream, so of the time of the changes that come next. Not in
-- a dump, because each source that is started sends all of it again.
CREATE TABLE _bemi.source_relations (
	source text COLLATE "C",
	relation oid,
	description jsonb NOT NULL,
	PRIMARY KEY (source, relation)
);
COMMENT ON TABLE _bemi.source_relations
	IS 'what published tables are like, as far as the workers have read';
COMMENT ON COLUMN _bemi.source_relations.source IS 'name of the source';
COMMENT ON COLUMN _bemi.source_relations.relation IS 'OID of the table at the source';
COMMENT ON COLUMN _bemi.source_relations.description
	IS 'as _bemi.describe() says it: names of the primary key''s columns, parts of types, and the '
		'rules for columns';
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
COMMENT ON TABLE bemi.sources
	IS 'sources that bemi.start() was called for; bemi.status shows how they are';
COMMENT ON COLUMN bemi.sources.name IS 'name given to bemi.start()';
COMMENT ON COLUMN bemi.sources.owner
	IS 'role that may start and stop it, if it has REPLICATION; superusers always may';
COMMENT ON COLUMN bemi.sources.conninfo
	IS 'connection string of the source, NULL for this database; may hold secrets';
COMMENT ON COLUMN bemi.sources.slot_name
	IS 'its replication slot; the replication origin that keeps its progress has the same name';
COMMENT ON COLUMN bemi.sources.desired
	IS 'run, stop, drop (slot, origin and this row), or force_drop (the same, but not a slot on '
		'another server)';
COMMENT ON COLUMN bemi.sources.slot_made
	IS 'whether the slot was made; one that is missing then is a gap';
COMMENT ON COLUMN bemi.sources.system_identifier IS 'of the server that the slot was made on';
COMMENT ON COLUMN bemi.sources.timeline IS 'that the server was on when the worker connected last';
COMMENT ON COLUMN bemi.sources.timeline_ancestors
	IS 'former timelines of that one, a line each: number, and position at which it was left; '
		'NULL: not known';
COMMENT ON COLUMN bemi.sources.database IS 'database that is read';
COMMENT ON COLUMN bemi.sources.reader
	IS 'server that reads a source on another server, as _bemi.this_reader() names it; NULL: the '
		'next one that finds the slot without a reader';
REVOKE ALL ON bemi.sources FROM PUBLIC;
-- Connection strings are for superusers only, whom row security does not concern, and
-- so are not in a dump, which others may make and read. What is restored is started anew.
ALTER TABLE bemi.sources ENABLE ROW LEVEL SECURITY;

-- Apart from bemi.sources, whose rows a session may hold locked for as long as its
-- transaction lasts: the worker must not wait for that.
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
	IS 'what the workers have counted, about a second behind; bemi.status shows it up to date';
COMMENT ON COLUMN _bemi.source_progress.source IS 'name of the source';
COMMENT ON COLUMN _bemi.source_progress.changes IS 'changes stored';
COMMENT ON COLUMN _bemi.source_progress.transactions
	IS 'source transactions with changes that were stored';
COMMENT ON COLUMN _bemi.source_progress.invalid_messages
	IS 'messages under bemi''s prefixes that were not valid';
COMMENT ON COLUMN _bemi.source_progress.stored_until
	IS 'everything committed at the source before this time is stored';
COMMENT ON COLUMN _bemi.source_progress.stored_lsn
	IS 'position in the source''s write-ahead log before which all commits of times before '
		'stored_until are';
COMMENT ON COLUMN _bemi.source_progress.changed_lsn
	IS 'where the last transaction with changes has committed, in the source''s write-ahead log; '
		'NULL: none is known';
COMMENT ON COLUMN _bemi.source_progress.changed_at IS 'commit time of that transaction';
COMMENT ON COLUMN _bemi.source_progress.changed_xid IS 'its transaction id at the source';
COMMENT ON COLUMN _bemi.source_progress.server_started_at
	IS 'when the source''s server was started, as of the last connection';
COMMENT ON COLUMN _bemi.source_progress.system_identifier
	IS 'as in bemi.sources, which is not in a dump: of the server that is read';
COMMENT ON COLUMN _bemi.source_progress.timeline
	IS 'the same: that the server was on when the worker connected last';
COMMENT ON COLUMN _bemi.source_progress.timeline_ancestors
	IS 'the same: former timelines of that one';
COMMENT ON COLUMN _bemi.source_progress.database IS 'the same: database that is read';
COMMENT ON COLUMN _bemi.source_progress.signing_key_version
	IS 'hash of the source''s _bemi.signing_key that its messages are verified with, NULL: it has '
		'none that the worker may read';
REVOKE ALL ON _bemi.source_progress FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.source_progress', '');

--
-- Context: what the application says about its own statements
--

CREATE FUNCTION bemi.set_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_set_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.set_context(jsonb, boolean)
	IS 'sets the context of the statements that follow, in this transaction or, if not local, in '
		'this session';
GRANT EXECUTE ON FUNCTION bemi.set_context(jsonb, boolean) TO PUBLIC;

CREATE FUNCTION bemi.merge_context(context jsonb, is_local boolean DEFAULT true)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_merge_context'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.merge_context(jsonb, boolean)
	IS 'adds keys to the setting bemi.context, or replaces them, in this transaction or, if not '
		'local, in this session';
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
	IS 'trigger function (BEFORE ... FOR EACH STATEMENT): writes the context to the write-ahead '
		'log, before the rows of the statement';
GRANT EXECUTE ON FUNCTION bemi.emit_context() TO PUBLIC;

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

--
-- Automatic tracking: what follows the tables as they come, move and go
--

CREATE FUNCTION _bemi.this_server()
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s/%s', c.system_identifier, current_database()) FROM pg_control_system() c
$$;
COMMENT ON FUNCTION _bemi.this_server() IS 'internal: as _bemi.source_tables names servers';
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
	IS 'internal: identifies this database among all databases of all servers';
REVOKE ALL ON FUNCTION _bemi.this_database() FROM PUBLIC;

-- In C, because a role that may untrack a table may lack the right to read bemi.tracked_schemas.
CREATE FUNCTION _bemi.is_tracked_schema(target regnamespace)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_is_schema_tracked'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.is_tracked_schema(regnamespace)
	IS 'internal: are all tables of the schema tracked?';
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
	IS 'internal: notes whether all tables of a schema are tracked';
REVOKE ALL ON FUNCTION _bemi.set_tracked_schema(regnamespace, boolean) FROM PUBLIC;

CREATE FUNCTION _bemi.enter_schema(target regnamespace, desired boolean)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_enter_schema'
	LANGUAGE C VOLATILE PARALLEL UNSAFE STRICT;
COMMENT ON FUNCTION _bemi.enter_schema(regnamespace, boolean)
	IS 'internal: _bemi.set_tracked_schema() for the owner of the schema, who must have been '
		'granted bemi.track()';
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
	IS 'internal: does the table belong to an extension? Such tables are tracked one by one only';
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

	-- First, or a table made meanwhile could be missed. Tables that are tracked already, as far
	-- as can be told from all of them at once, take no lock and next to no time.
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
	IS 'tracks all tables of the schema, and every table that is made in it, or moved to it, later';
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
	IS 'untracks all tables of the schema, and no longer tracks those that are made in it';
REVOKE ALL ON FUNCTION bemi.untrack_schema(regnamespace) FROM PUBLIC;

-- ALTER TABLE ... ADD COLUMN ... DEFAULT leaves rows as they are, without a value for the
-- column. PostgreSQL 14 decodes the old row of a partition with the columns of the root,
-- which does not know that value.
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
	IS 'internal: warning where PostgreSQL 14 sends null for a column that was added with a '
		'default';
REVOKE ALL ON FUNCTION _bemi.warn_of_missing_values(regclass) FROM PUBLIC;

--
-- Event triggers that follow DDL
--

CREATE FUNCTION _bemi.follow_ddl()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_ddl'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_ddl()
	IS 'event trigger function: tracks new partitions of tracked tables and new tables of tracked '
		'schemas, refuses triggers that cannot work, tells the workers what has changed';
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
-- Without it, an update of a new partition would fail; so also for sessions
-- that have set session_replication_role.
ALTER EVENT TRIGGER bemi_follow_ddl ENABLE ALWAYS;

CREATE FUNCTION _bemi.refuse_triggers()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_refuse_triggers'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.refuse_triggers()
	IS 'event trigger function: only who may track a table sets rules for it, and only their owner '
		'puts triggers on tables of bemi; warns of a restored table that is not published';
REVOKE ALL ON FUNCTION _bemi.refuse_triggers() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_refuse_triggers ON ddl_command_end
	WHEN TAG IN ('CREATE TRIGGER', 'CREATE SCHEMA')
	EXECUTE FUNCTION _bemi.refuse_triggers();
COMMENT ON EVENT TRIGGER bemi_refuse_triggers
	IS 'refuses triggers that set rules or run with the rights of bemi''s owner, from those who '
		'have not these rights';
ALTER EVENT TRIGGER bemi_refuse_triggers ENABLE ALWAYS;

CREATE FUNCTION _bemi.refuse_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_refuse_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.refuse_publication()
	IS 'event trigger function: publication "bemi" belongs to a superuser or a member of the role '
		'that owns the extension';
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
	IS 'internal: gives tracked schemas the names that they have now';
REVOKE ALL ON FUNCTION _bemi.rename_tracked_schemas() FROM PUBLIC;

CREATE FUNCTION _bemi.follow_renamed_schemas()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_renamed_schemas'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_renamed_schemas()
	IS 'event trigger function: a tracked schema stays tracked when it is renamed, also in a dump, '
		'and its tables are stored under the new name';
REVOKE ALL ON FUNCTION _bemi.follow_renamed_schemas() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_renamed_schemas ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA')
	EXECUTE FUNCTION _bemi.follow_renamed_schemas();
COMMENT ON EVENT TRIGGER bemi_follow_renamed_schemas
	IS 'notes the new names of renamed schemas that are tracked';
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
	IS 'internal: removes a schema that was dropped from the tracked ones';
REVOKE ALL ON FUNCTION _bemi.forget_tracked_schema(oid) FROM PUBLIC;

CREATE FUNCTION _bemi.forget_dropped_schemas()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_forget_dropped_schemas'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.forget_dropped_schemas()
	IS 'event trigger function: a schema made later may get the OID of a dropped one';
REVOKE ALL ON FUNCTION _bemi.forget_dropped_schemas() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_forget_dropped_schemas ON sql_drop
	WHEN TAG IN ('DROP SCHEMA', 'DROP OWNED', 'DROP EXTENSION')
	EXECUTE FUNCTION _bemi.forget_dropped_schemas();
COMMENT ON EVENT TRIGGER bemi_forget_dropped_schemas IS 'forgets dropped schemas that were tracked';
ALTER EVENT TRIGGER bemi_forget_dropped_schemas ENABLE ALWAYS;

--
-- What the workers are told of tables
--

CREATE FUNCTION _bemi.describe(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_describe_table'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.describe(regclass)
	IS 'internal: primary key, types and rules of the table, for the worker';
-- The worker of another server calls it, as a role with REPLICATION.
GRANT EXECUTE ON FUNCTION _bemi.describe(regclass) TO PUBLIC;

CREATE FUNCTION _bemi.follow_publication()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_publication'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_publication()
	IS 'event trigger function: has the worker note which tables the publication "bemi" lists from '
		'now on; refuses to have it list whole schemas';
REVOKE ALL ON FUNCTION _bemi.follow_publication() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_publication ON ddl_command_end
	WHEN TAG IN ('CREATE PUBLICATION', 'ALTER PUBLICATION')
	EXECUTE FUNCTION _bemi.follow_publication();
COMMENT ON EVENT TRIGGER bemi_follow_publication
	IS 'has the worker note which tables are tracked from now on';
ALTER EVENT TRIGGER bemi_follow_publication ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_unpublished()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_unpublished'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_unpublished()
	IS 'event trigger function: has the worker note which tables the publication "bemi" no longer '
		'lists';
REVOKE ALL ON FUNCTION _bemi.follow_unpublished() FROM PUBLIC;

-- Without a list of commands: a table can be dropped with anything that it depends on.
CREATE EVENT TRIGGER bemi_follow_unpublished ON sql_drop
	EXECUTE FUNCTION _bemi.follow_unpublished();
COMMENT ON EVENT TRIGGER bemi_follow_unpublished
	IS 'has the worker note which tables are no longer tracked';
ALTER EVENT TRIGGER bemi_follow_unpublished ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_detach()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_detach'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_detach()
	IS 'event trigger function: has the worker note that DETACH PARTITION ... CONCURRENTLY takes '
		'rows from a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_detach() FROM PUBLIC;
-- At the start, because the command commits before it ends.
CREATE EVENT TRIGGER bemi_follow_detach ON ddl_command_start
	WHEN TAG IN ('ALTER TABLE')
	EXECUTE FUNCTION _bemi.follow_detach();
COMMENT ON EVENT TRIGGER bemi_follow_detach
	IS 'has the worker note which partitions are detached concurrently';
ALTER EVENT TRIGGER bemi_follow_detach ENABLE ALWAYS;

CREATE FUNCTION _bemi.follow_rewrite()
	RETURNS event_trigger
	AS 'MODULE_PATHNAME', 'bemi_follow_rewrite'
	LANGUAGE C;
COMMENT ON FUNCTION _bemi.follow_rewrite()
	IS 'event trigger function: has the worker note when a command computes new values for all '
		'rows of a tracked table';
REVOKE ALL ON FUNCTION _bemi.follow_rewrite() FROM PUBLIC;

CREATE EVENT TRIGGER bemi_follow_rewrite ON table_rewrite EXECUTE FUNCTION _bemi.follow_rewrite();
COMMENT ON EVENT TRIGGER bemi_follow_rewrite IS 'has the worker note which rows were rewritten';
ALTER EVENT TRIGGER bemi_follow_rewrite ENABLE ALWAYS;

--
-- bemi.tracked: which tables are tracked, and what is wrong with them
--

CREATE FUNCTION _bemi.rules(target regclass)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.rules(regclass)
	IS 'internal: what bemi.track() was told to ignore and to redact of the table; to redact all '
		'of it if that cannot be read';
REVOKE ALL ON FUNCTION _bemi.rules(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.has_bad_rules(target regclass)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_has_bad_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.has_bad_rules(regclass)
	IS 'internal: are there rules in the arguments of the table''s trigger that cannot be read?';
REVOKE ALL ON FUNCTION _bemi.has_bad_rules(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.columnless_rules(target regclass, source regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_columnless_rules'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.columnless_rules(regclass, regclass)
	IS 'internal: names in the rules of the source that are no columns of the table, NULL if there '
		'are none';
REVOKE ALL ON FUNCTION _bemi.columnless_rules(regclass, regclass) FROM PUBLIC;

-- A partition is tracked with its root. The root is the table whose place in the publication,
-- and whose rules, count. If none above the partition is published, it is the topmost table
-- that has the trigger.
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
	IS 'internal: for bemi.tracked, whether a partition is published, by which name, with which '
		'rules';
REVOKE ALL ON FUNCTION _bemi.tracked_with_root(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.unstored_partition(root regclass)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_unstored_partition'
	LANGUAGE C STABLE STRICT;
COMMENT ON FUNCTION _bemi.unstored_partition(regclass)
	IS 'internal: a partition whose rows are not in the write-ahead log, and why; NULL if there is '
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
	IS 'internal: what to do where DETACH PARTITION ... CONCURRENTLY of the table, or of a '
		'partition of it, has begun and not ended; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.pending_detach(regclass) FROM PUBLIC;

-- Whoever looks has one table in mind, or all. A condition on "table" reaches pg_class and, by
-- the joins, the other catalogs. All tables are joined as sets; functions are called for
-- partitions and for tables with rules only, and OFFSET 0 has them called once.
CREATE VIEW bemi.tracked AS
	SELECT c.oid::regclass AS "table", coalesce(t.triggers, '{}') AS triggers, rel.identity,
		rel.published,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'ignore')) AS ignore,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'redact')) AS redact,
		ARRAY(SELECT jsonb_array_elements_text(rel.rules -> 'redact_hash')) AS redact_hash,
		-- The server's own view makes it readable, but for all tables at a time: once, and
		-- only if there is any.
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
				ELSE 'replica identity is not FULL: before is not complete, '
					'nor after where large values stay as they were' END,
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
					'rows written by way of it come without context' END,
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
	IS 'tables whose changes are kept, or should be, and what is wrong with them';
COMMENT ON COLUMN bemi.tracked."table" IS 'tracked table or partition';
COMMENT ON COLUMN bemi.tracked.triggers IS 'its triggers that call bemi.emit_context()';
COMMENT ON COLUMN bemi.tracked.identity
	IS 'its replica identity; only FULL gives a complete "before"';
COMMENT ON COLUMN bemi.tracked.published
	IS 'whether it is in the publication "bemi", itself or by its partition root';
COMMENT ON COLUMN bemi.tracked.ignore
	IS 'columns whose updates, alone, leave no change; see bemi.track()';
COMMENT ON COLUMN bemi.tracked.redact IS 'columns whose values are not stored';
COMMENT ON COLUMN bemi.tracked.redact_hash IS 'columns of whose values only hashes are stored';
COMMENT ON COLUMN bemi.tracked.row_filter
	IS 'WHERE of the publication "bemi": only changes of such rows are stored';
COMMENT ON COLUMN bemi.tracked.problems IS 'what is wrong with its tracking; empty if nothing';
REVOKE ALL ON bemi.tracked FROM PUBLIC;

--
-- History
--
-- The table is a member of the extension, its partitions are not: the worker
-- makes them, and pg_dump carries them with their rows. The indexes belong to the
-- partitions: were they made by way of bemi.changes, a restored dump would make
-- them twice. Text is compared by bytes, which is what look-ups by key need and
-- is cheaper to index.
--

-- Of a large context, only the first change of a transaction has all of it, see
-- src/decode/stitch_context.c. Without that change (somebody has deleted it), what is left.
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
	IS 'the complete context of a change, also where a large one is stored with an earlier change '
		'of the same transaction';
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
	IS 'internal: names of event triggers of others that the worker fires, NULL if there are none';
REVOKE ALL ON FUNCTION _bemi.event_triggers_of_others() FROM PUBLIC;

-- A partition gives nobody more than bemi.changes does, so it gives nothing: a right that
-- was copied would outlive a REVOKE on bemi.changes, and pass by its row policies.
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
	-- which default privileges can lack, too
	IF object.acl IS NOT NULL THEN
		EXECUTE format('GRANT ALL ON %s TO %s', object.name, object.owner);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.make_private(regclass)
	IS 'internal: takes from everybody but the owner what default privileges gave on a new table';
REVOKE ALL ON FUNCTION _bemi.make_private(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.check_history_code()
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_check_history_code'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.check_history_code()
	IS 'internal: error if an expression of bemi.changes depends on somebody who is neither its '
		'owner nor a superuser';
REVOKE ALL ON FUNCTION _bemi.check_history_code() FROM PUBLIC;

-- Called by the worker, which knows the neighbours' bounds, before it stores the
-- first change of a month (week, day). Made apart and attached then, because CREATE
-- TABLE ... PARTITION OF would wait for every reader of the history, and make later
-- readers wait for it.
--
-- Rows of the history are written once, so they are frozen as soon as they are vacuumed,
-- rather than with a second visit years later. When that is, is left to the server's
-- autovacuum_vacuum_insert_scale_factor: each visit reads the whole index on contexts,
-- and in proportion to growth that stays a few times the work of writing it.
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

	-- Indexes of users come with ATTACH. No primary key, because bemi.changes may have one or
	-- be given one. Who publishes the history, and deletes from it, needs the identity.
	EXECUTE format('CREATE TABLE _bemi.%I (LIKE bemi.changes INCLUDING ALL EXCLUDING INDEXES)'
		' WITH (autovacuum_freeze_min_age = 0, toast.autovacuum_freeze_min_age = 0)', partition);
	EXECUTE format('CREATE UNIQUE INDEX %I ON _bemi.%I (id) WITH (deduplicate_items = off)',
		partition || '_id_key', partition);
	EXECUTE format('ALTER TABLE _bemi.%I REPLICA IDENTITY USING INDEX %I',
		partition, partition || '_id_key');
	-- For the life of a row, and for all changes of a table. The schema comes third, because
	-- it separates few rows, and each search compares the columns before the key. (So all
	-- changes of a table are found among those of its namesakes in other schemas.) No two
	-- entries are the same, and to find that out takes time.
	EXECUTE format('CREATE INDEX ON _bemi.%I ("table", primary_key, schema, id)'
		' WITH (deduplicate_items = off)', partition);
	EXECUTE format('CREATE INDEX ON _bemi.%I USING gin (context jsonb_path_ops)', partition);
	-- the same owner, whose rights what users have put on the history runs with
	EXECUTE (SELECT format('ALTER TABLE _bemi.%I OWNER TO %s', partition, c.relowner::regrole)
		FROM pg_class c WHERE c.oid = 'bemi.changes'::regclass);
	-- Readers come by way of bemi.changes, which asks for no right on a partition.
	PERFORM _bemi.make_private(format('_bemi.%I', partition)::regclass);
	-- no wider than the hole that it is for; greatest() and least() pass over NULL
	PERFORM _bemi.attach_partition(format('_bemi.%I', partition)::regclass, format(
		'FROM (%s) TO (%s)',
		coalesce(quote_literal(greatest(nullif(first_day, first_time), hole_from)), 'MINVALUE'),
		coalesce(quote_literal(least(next_day, hole_to)), 'MAXVALUE')));
END
$$;
COMMENT ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz)
	IS 'internal: makes the partition of bemi.changes for the month (see bemi.partition_interval) '
		'of this time, as far as its neighbours leave room';
REVOKE ALL ON FUNCTION _bemi.make_partition(timestamptz, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.partition_ranges(OUT partition regclass,
		OUT from_time timestamptz, OUT to_time timestamptz)
	RETURNS SETOF record
	AS 'MODULE_PATHNAME', 'bemi_partition_ranges'
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100;
COMMENT ON FUNCTION _bemi.partition_ranges()
	IS 'internal: partitions of bemi.changes and the times that they are for, infinite for '
		'MINVALUE and MAXVALUE; without the default partition';
REVOKE ALL ON FUNCTION _bemi.partition_ranges() FROM PUBLIC;

-- What is wrong with what users have done to bemi.changes, with the line that mends it. In
-- pg_trigger.tgtype, 1 stands for ROW and 4 for INSERT.
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
			-- the trigger's function, and those of its WHEN
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
			'trigger %I of %s does not fire, since somebody else can replace a function of it:'
				' ALTER FUNCTION %s OWNER TO %s;', t.name, t.relation, t.of_other, t.owner)
			FROM trigger t WHERE t.enabled IN ('A', 'R') AND t.of_other IS NOT NULL
		UNION ALL SELECT 3, format('a partition is neither attached nor detached:'
				' ALTER TABLE bemi.changes DETACH PARTITION %s FINALIZE;', p.oid::regclass)
			FROM part p WHERE p.pending
	) w(place, warning)
$$;
COMMENT ON FUNCTION _bemi.history_warning()
	IS 'internal: triggers of bemi.changes that do not fire, and partitions whose DETACH '
		'CONCURRENTLY was interrupted; NULL: none';
REVOKE ALL ON FUNCTION _bemi.history_warning() FROM PUBLIC;

-- History is not dropped by the way: DROP EXTENSION needs CASCADE while there is any.
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
-- Long life: what becomes of old partitions
--
-- The worker drops partitions that bemi.retention no longer wants, unless somebody
-- holds them. Both sides lock bemi.holds, and the dropping side takes bemi.changes
-- first: so a hold either comes before, or finds the partition gone.
--

-- For hold_partition() and release_partition(). A partition of a partition goes with it, and
-- is not held alone.
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
			'"%" is not a partition of bemi.changes that could ever be dropped for its age', target
			USING ERRCODE = 'wrong_object_type',
				HINT = 'SELECT * FROM pg_partition_tree(''bemi.changes''); shows the partitions. '
					'The default partition is never dropped.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.partition_range(regclass)
	IS 'internal: the times that a partition of bemi.changes is for, error if it has none';
REVOKE ALL ON FUNCTION _bemi.partition_range(regclass) FROM PUBLIC;

-- SECURITY DEFINER: the right to hold is the right to call this, and not one to
-- take away what others hold. The first lock is the one that the worker respects.
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
				DETAIL = format('By "%s" since %s, for this reason: %s.', other.held_by,
					other.held_at, coalesce(other.reason, 'none given')),
				HINT = 'A hold of your own, of somewhat wider times, '
					'stays when the other one is released.';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.hold(timestamptz, timestamptz, text)
	IS 'keeps the partitions that have any part in these times from being dropped for their age, '
		'until bemi.release()';
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
	-- before the look at the partitions: none of them goes after it
	LOCK TABLE bemi.holds IN ROW EXCLUSIVE MODE;
	SELECT * INTO range FROM _bemi.partition_range(hold_partition.partition);
	PERFORM bemi.hold(range.from_time, range.to_time, hold_partition.reason);
END
$$;
COMMENT ON FUNCTION bemi.hold_partition(regclass, text)
	IS 'keeps a partition of bemi.changes from being dropped for its age, until '
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
				DETAIL = 'A hold ends with the very times that it was made with.',
				HINT = 'SELECT * FROM bemi.holds;';
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.release(timestamptz, timestamptz)
	IS 'ends what bemi.hold() began with the same times';
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
COMMENT ON FUNCTION bemi.release_partition(regclass) IS 'ends what bemi.hold_partition() began';
REVOKE ALL ON FUNCTION bemi.release_partition(regclass) FROM PUBLIC;

-- Whole partitions of which nothing is younger. A foreign table is not the worker's to
-- drop, and the default partition has no bounds. An interval can mix signs so
-- that it leads into the future ("1 month -29 days", in February), and be so long that
-- it leads out of time.
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
	IS 'internal: partitions of bemi.changes that are older than this and not held, oldest first';
REVOKE ALL ON FUNCTION _bemi.expired_partitions(interval) FROM PUBLIC;

-- The one wait is for the first lock; see src/store/maintenance.c. What is left
-- to do is only then looked at, for others may have held or dropped the partition.
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
	IS 'internal: drops a partition of bemi.changes that is older than this and not held, and '
		'writes that down; false if it no longer is so';
REVOKE ALL ON FUNCTION _bemi.drop_expired_partition(regclass, interval) FROM PUBLIC;

-- Autovacuum analyzes partitions, but never their root. A partition that it has seen to
-- since then counts as changed. Not by pg_partition_tree(), which locks them all.
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
	IS 'internal: has bemi.changes not been analyzed for a day, and has enough of it changed '
		'since?';
REVOKE ALL ON FUNCTION _bemi.needs_analyze() FROM PUBLIC;

--
-- Gaps: what may be missing from the history
--
-- Positions and times are those of the source. A gap without a table concerns all
-- tables of the source, one without a source all sources. The worker writes gaps
-- down in their place among the changes.
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
	IS 'internal: the sentence that explains a reason of bemi.gaps or bemi.completeness(), NULL if '
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
	IS 'internal: the worker has read what a table is like, or (NULL) that it is no more';
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
	IS 'internal: the worker is to ask the source about its tables, beside what it has told, until '
		'it tells it anew';
REVOKE ALL ON FUNCTION _bemi.mark_descriptions_stale(text) FROM PUBLIC;

CREATE FUNCTION _bemi.last_stored(source text, from_lsn pg_lsn, to_lsn pg_lsn,
		OUT commit_lsn pg_lsn, OUT committed_at timestamptz, OUT transaction_id bigint)
	AS 'MODULE_PATHNAME', 'bemi_last_stored'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.last_stored(text, pg_lsn, pg_lsn)
	IS 'internal: the last transaction of a source that is stored, of those that have committed in '
		'this range; NULLs if none is';
REVOKE ALL ON FUNCTION _bemi.last_stored(text, pg_lsn, pg_lsn) FROM PUBLIC;

CREATE FUNCTION _bemi.last_stored_time(source text, before_lsn pg_lsn)
	RETURNS timestamptz
	AS 'MODULE_PATHNAME', 'bemi_last_stored_time'
	LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION _bemi.last_stored_time(text, pg_lsn)
	IS 'internal: the greatest commit time of the changes of a source that are stored and were '
		'committed before this position, but for times to come';
REVOKE ALL ON FUNCTION _bemi.last_stored_time(text, pg_lsn) FROM PUBLIC;

-- A gap without an end. It begins a tenth of a second before the time up to which the
-- history is known to be complete: until goes with until_lsn, before which the source has
-- written all commits of earlier times. If the source went back, that must be true of the
-- position that it went back to; then _bemi.source_progress may know what it was a moment
-- before.
--
-- A change that was committed after until_lsn with an earlier time shows that the source's
-- clock was set back since. Then, and where nothing is known, the gap begins a second before
-- the last change: the last one in commit order, since the one with the greatest time may
-- come from before the clock was set back. Commit times are not quite in commit order. What
-- a clock that was ahead has said does not count. A gap that is open already began earlier,
-- and stays, unless the source went back since to before it.
--
-- If nothing proves that the source still has what is stored, the gap begins with the
-- history, and the detail ends with the statement that shortens it.
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
	-- Nothing that is stored tells: since the end of the last gap, nothing was lost.
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
	IS 'internal: the worker has noticed that changes of all tables of a source are lost, from '
		'this position on';
REVOKE ALL ON FUNCTION
	_bemi.open_gap(text, text, pg_lsn, text, timestamptz, pg_lsn, boolean, boolean) FROM PUBLIC;

-- The gap of one transaction. The worker may die before its origin has moved, and then
-- comes here again.
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
	IS 'internal: the worker skips a transaction that the source cannot decode';
REVOKE ALL ON FUNCTION _bemi.record_skipped(text, pg_lsn, pg_lsn, timestamptz, timestamptz, text)
	FROM PUBLIC;

-- A table whose name is known goes on. One that was dropped and made again has a gap
-- between. Any other was not tracked before.
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
	-- Another table had the name. On another server, it may be the same one, which came with a
	-- dump. On the same server, nobody knows when the other table was dropped.
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
			'Another table of this name was dropped, and nothing tells when.')
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
	IS 'internal: the worker has read that a table is tracked from here on (is_first: it was '
		'before, too, but nothing was read)';
REVOKE ALL ON FUNCTION
	_bemi.begin_tracking(text, text, oid, text, text, pg_lsn, timestamptz, boolean) FROM PUBLIC;

-- A table that is made and dropped all day would have a gap for each time. The oldest gaps
-- of a table become one, which covers the times between them, too: so nothing is ever held
-- for complete that is not.
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
	IS 'internal: makes one gap of the oldest ones of a table, if it has very many';
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
	IS 'internal: the worker has read that a table is no longer tracked';
REVOKE ALL ON FUNCTION _bemi.end_tracking(text, text, text, pg_lsn, timestamptz, text) FROM PUBLIC;

-- After a restart, the worker may read again what it has read of the time after the last
-- stored change. What has become of a table since is not undone by that. What the same
-- transaction has done before counts, because it can track and untrack a table.
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
	IS 'internal: has the worker read already that a table was tracked or untracked by a later '
		'transaction?';
REVOKE ALL ON FUNCTION _bemi.is_tracking_known(text, text, text, pg_lsn, timestamptz) FROM PUBLIC;

-- A command has changed rows, and their changes are not in the stream. The gap's ends are a
-- microsecond before and after the commit. Several commands of a transaction make one gap.
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
	IS 'internal: the worker has read that a command changed rows of a table without a change for '
		'each';
REVOKE ALL ON FUNCTION _bemi.record_changed_rows(text, text, oid, pg_lsn, timestamptz, text)
	FROM PUBLIC;

-- The worker has seen to it that the source has written the message (see src/stream/verify.c);
-- anybody may have copied it, though, into a transaction of his own.
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
		-- Under whatever name it was known.
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
	IS 'internal: the worker has met a tracking message, see src/track/message.c; false if it was '
		'not written in this transaction';
REVOKE ALL ON FUNCTION _bemi.apply_tracking(text, text, xid, jsonb, pg_lsn, timestamptz)
	FROM PUBLIC;

-- Of a table that is gone, the rows can go, too: then it is one that was never tracked, and
-- not complete at any time. So they go where its history has gone, and if very many tables
-- have gone since. Each worker does this for its own source, so nobody writes the same rows,
-- and for sources that were dropped; not all at once.
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
	IS 'internal: deletes the gaps of tables that are gone, as their history is, and of the oldest '
		'if they are very many; returns of how many tables';
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
	IS 'internal: the worker has looked which tables the publication lists';
REVOKE ALL ON FUNCTION
	_bemi.compare_published(text, text, pg_lsn, timestamptz, pg_lsn, timestamptz, json, boolean)
	FROM PUBLIC;

-- From here on every commit is read. What the publication has listed before the slot
-- was made, and still lists, is tracked from there on; what it lists since, from now.
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

	-- What is read on with is of a time when tables may have been other than they are.
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
	IS 'internal: the worker has a slot that sees every commit from this position on, and this is '
		'what the publication lists, and what tables were like there (NULL: the slot is an old '
		'one)';
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
	IS 'internal: adds to what bemi.status shows';
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
	IS 'internal: deletes the rows of a source whose slot was dropped, not its gaps';
REVOKE ALL ON FUNCTION _bemi.forget_source(text) FROM PUBLIC;

-- Not taken from the row: one that came with a dump or a template database names the
-- original's, which may be alive on this very server.
CREATE FUNCTION _bemi.origin_of(source text)
	RETURNS name
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('bemi_%s_%s', d.oid, source)::name
		FROM pg_database d WHERE d.datname = current_database()
$$;
COMMENT ON FUNCTION _bemi.origin_of(text)
	IS 'internal: name of the origin that a source of this database has, and of a slot of its own '
		'server';
REVOKE ALL ON FUNCTION _bemi.origin_of(text) FROM PUBLIC;

-- A copy of this server has the same files, so it is told by the inode of one, by the host,
-- and by the directory.
CREATE FUNCTION _bemi.this_reader()
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_this_reader'
	LANGUAGE C STABLE PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.this_reader()
	IS 'internal: this server, as bemi.sources names the one that reads a source: system '
		'identifier, inode of pg_control, host, data directory';
REVOKE ALL ON FUNCTION _bemi.this_reader() FROM PUBLIC;

-- On another server, slots of several histories may meet, those of copies among them.
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
	IS 'internal: warning of tables that were restored without their place in the publication';
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
	-- A row without an origin came with a dump: its source was never started here.
	IF FOUND AND known.desired <> 'stop' AND NOT fresh AND known.reads_here THEN
		RAISE EXCEPTION 'source "%" is already started', source
			USING ERRCODE = 'object_in_use',
				DETAIL = format(
					'Its state is shown by SELECT * FROM bemi.status WHERE source = %L.', source),
				HINT = format('To start it anew, call CALL bemi.stop(%L) first.', source);
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
	-- Those that came with a dump are not enabled yet, see bemi.tracked_schemas.
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
			-- Else the worker is to become the reader.
			reader = CASE WHEN s.reader = _bemi.this_reader() THEN s.reader END;
END
$$;
COMMENT ON FUNCTION _bemi.register_source(text, text, name)
	IS 'internal: the part of bemi.start() that is a transaction';
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
	IS 'internal: takes back what register_source() did, if the source never got as far as its '
		'slot';
REVOKE ALL ON FUNCTION _bemi.unregister_source(text) FROM PUBLIC;

CREATE FUNCTION _bemi.set_desired_state(source text, desired text)
	RETURNS boolean
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- Without an origin no worker knows of the row: it came with a dump.
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
	IS 'internal: the part of bemi.stop() and bemi.drop_source() that is a transaction';
REVOKE ALL ON FUNCTION _bemi.set_desired_state(text, text) FROM PUBLIC;

-- Whoever starts a source chooses what the server connects to, with the rights of the
-- account that it runs under. So only a superuser gives connection strings.
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
				ELSE format('It takes a superuser, or the owner of source "%s", with REPLICATION.',
					source) END,
			HINT = CASE WHEN conninfo IS NOT NULL
					THEN format('A superuser can start it, and then: '
						'SELECT bemi.set_source_owner(%L, %L);', source, caller)
				WHEN NOT role.rolreplication
					THEN format('A superuser can say: ALTER ROLE %I REPLICATION;', caller)
				ELSE format('A superuser can say: SELECT bemi.set_source_owner(%L, %L);',
					source, caller) END;
END
$$;
COMMENT ON FUNCTION _bemi.check_controller(text, text, name, text)
	IS 'internal: error unless the role may start and stop the source';
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
	IS 'lets a role start and stop a source, if it also has REPLICATION and may call bemi.start(), '
		'bemi.stop() and bemi.drop_source()';
REVOKE ALL ON FUNCTION bemi.set_source_owner(text, regrole) FROM PUBLIC;

CREATE PROCEDURE bemi.start(name text DEFAULT 'main',
		conninfo text DEFAULT NULL, wait boolean DEFAULT true)
	AS 'MODULE_PATHNAME', 'bemi_start'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.start(text, text, boolean)
	IS 'begins to read a source, this database by default; when it returns, every later commit is '
		'captured (wait => false: once this transaction has committed and the slot is made)';
REVOKE ALL ON PROCEDURE bemi.start(text, text, boolean) FROM PUBLIC;

CREATE PROCEDURE bemi.stop(name text DEFAULT 'main')
	AS 'MODULE_PATHNAME', 'bemi_stop'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.stop(text)
	IS 'stops reading a source; its slot keeps the write-ahead log for the next start';
REVOKE ALL ON PROCEDURE bemi.stop(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_source(name text, force boolean DEFAULT false)
	AS 'MODULE_PATHNAME', 'bemi_drop_source'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_source(text, boolean)
	IS 'stops reading a source for good, and drops its slot; what is stored stays; force: leaves '
		'the slot of a source on another server, which may be gone';
REVOKE ALL ON PROCEDURE bemi.drop_source(text, boolean) FROM PUBLIC;

-- For bemi.sync(): after a restart, a source is known from its row before the
-- launcher has come to it. SECURITY DEFINER, since it tells no more than sync().
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
	IS 'internal: is any source of this database to run?';
REVOKE ALL ON FUNCTION _bemi.is_started() FROM PUBLIC;

CREATE FUNCTION bemi.sync(timeout interval DEFAULT NULL)
	RETURNS void
	AS 'MODULE_PATHNAME', 'bemi_sync'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.sync(interval)
	IS 'waits until everything committed before the call is in bemi.changes; error after the '
		'timeout, NULL waits for ever';
REVOKE ALL ON FUNCTION bemi.sync(interval) FROM PUBLIC;

--
-- bemi.status: how sources and workers are
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
	IS 'internal: what the workers of this database say of themselves and, from source_lsn on, of '
		'slots on other servers; standby_advice: what to type if commits at the source may wait '
		'for the worker; stray_slots: slots at the source that nobody reads, with the write-ahead '
		'log that they keep';
REVOKE ALL ON FUNCTION _bemi.source_status() FROM PUBLIC;

-- What the slots of this server are like can be seen from here, also while their
-- workers cannot work; of others, the worker has asked in the last seconds.
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
	IS 'internal: all commits with a time before "until" are in the write-ahead log before "lsn"; '
		'NULL if one takes longer than the timeout';
-- The worker of another server calls it, as a role with REPLICATION. It shows no more than
-- pg_current_wal_insert_lsn() does.
GRANT EXECUTE ON FUNCTION _bemi.commit_horizon(integer) TO PUBLIC;

CREATE FUNCTION _bemi.why_no_worker()
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_why_no_worker'
	LANGUAGE C VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION _bemi.why_no_worker()
	IS 'internal: what keeps all workers of this server from running; NULL if nothing does';
REVOKE ALL ON FUNCTION _bemi.why_no_worker() FROM PUBLIC;

-- Short waits are part of every day's work. Who is no member of pg_monitor sees less of
-- the process that holds the lock.
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
	IS 'internal: which lock a process of this server waits for, and who holds it; NULL if it '
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
		-- One expression for each thing that may be wrong, NULL if it is not.
		nullif(concat_ws('; ',
			CASE n.wal_status
				WHEN 'lost'
					THEN 'the slot is lost: changes are missing from the history; '
						'the worker writes a gap into bemi.gaps when it connects'
				WHEN 'unreserved'
					THEN 'the slot is about to be lost: the server removes WAL that it needs'
			END,
			CASE WHEN n.wal_kept
					> nullif(pg_size_bytes(current_setting('bemi.max_slot_lag', true)), -1)
				THEN 'the slot keeps more WAL than bemi.max_slot_lag' END,
			CASE WHEN w.unreadable_tries > 0 AND w.unreadable_lsn IS NOT NULL THEN
				format('the source fails to decode the transaction committed at %s '
					'(%s times so far): if it goes on to fail, the transaction is skipped, '
					'and a gap is written into bemi.gaps', w.unreadable_lsn, w.unreadable_tries)
			WHEN w.unreadable_tries > 0 THEN
				format('the source fails to decode what comes after %s (%s times so far): '
					'if it goes on to fail, that is skipped, and a gap is written into bemi.gaps',
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
				THEN format('the source came with a dump or a template database: '
					'CALL bemi.start(%L);', s.name) END,
			'the worker ' || _bemi.lock_wait(w.pid),
			'the WAL sender of the worker ' || _bemi.lock_wait(w.walsender),
			_bemi.history_warning(),
			(SELECT format(
					'the owner of extension bemi is no superuser, so that tables may be left '
					'untracked when they are made or attached: ALTER ROLE %I SUPERUSER;', r.rolname)
				FROM pg_extension e JOIN pg_roles r ON r.oid = e.extowner
				WHERE e.extname = 'bemi' AND NOT r.rolsuper)
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
	IS 'starting, connecting, making slot, streaming, paused (gives way to DROP DATABASE and its '
		'like), failed (tried again, see last_error), stopped, dropping, not running';
COMMENT ON COLUMN bemi.status.pid IS 'process of the worker, NULL if it is not running';
COMMENT ON COLUMN bemi.status.slot_name
	IS 'replication slot at the source; NULL if the source came with a dump or a template database';
COMMENT ON COLUMN bemi.status.received_lsn
	IS 'position in the source''s write-ahead log that the worker has received';
COMMENT ON COLUMN bemi.status.stored_lsn IS 'position up to which everything is in bemi.changes';
COMMENT ON COLUMN bemi.status.lag_bytes
	IS 'bytes of the source''s write-ahead log between that and its end, NULL if unknown';
COMMENT ON COLUMN bemi.status.lag
	IS 'how long ago everything was stored, 0 if it is, NULL if nothing ever was';
COMMENT ON COLUMN bemi.status.stored_until
	IS 'everything committed before this time is in bemi.changes';
COMMENT ON COLUMN bemi.status.changes
	IS 'changes stored since bemi.start() made the source; a crash of the server may lose the last '
		'second of the count';
COMMENT ON COLUMN bemi.status.transactions IS 'source transactions that these changes came in';
COMMENT ON COLUMN bemi.status.invalid_messages
	IS 'messages under bemi''s prefixes that were not valid; after a context that was not, changes '
		'have the context {}';
COMMENT ON COLUMN bemi.status.restarts
	IS 'how often the worker failed and was started again since the server started';
COMMENT ON COLUMN bemi.status.last_error IS 'why the worker failed last';
COMMENT ON COLUMN bemi.status.last_error_at IS 'when the worker failed last';
COMMENT ON COLUMN bemi.status.last_hint IS 'what mends it, if that is known';
COMMENT ON COLUMN bemi.status.wal_kept
	IS 'bytes of write-ahead log that the source keeps for the slot';
COMMENT ON COLUMN bemi.status.wal_status
	IS 'of the slot, as in pg_replication_slots: reserved, extended, unreserved, lost';
COMMENT ON COLUMN bemi.status.catalog_xmin_age
	IS 'transactions since the oldest one whose catalog rows the slot keeps from being vacuumed';
COMMENT ON COLUMN bemi.status.warning
	IS 'what needs a look although the worker works, and why no worker runs; several are separated '
		'by "; "';
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
	-- The end of this server's write-ahead log is up to date where the clock is not, if
	-- nothing happens.
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
	IS 'internal: what is missing of a table''s history in this time; no row if nothing is';
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
	IS 'is the history of this table, of this source, complete in that time? One row that says so, '
		'or a row for each gap';
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
	-- Changes of a partition go by the name of its root, if that is tracked.
	SELECT n.nspname AS schema, c.relname AS "table" INTO rel
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = CASE WHEN _bemi.is_published(_bemi.partition_root(target))
			THEN _bemi.partition_root(target) ELSE target END;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
	END IF;

	-- Sources that read this database, now or formerly; the one that does now comes
	-- last, and speaks for all if none has everything.
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
	IS 'is the history of this table complete in that time? One row that says so, or a row for '
		'each gap';
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
	IS 'is the history of this table, of this source, complete in that time? '
		'bemi.source_completeness() shows why not';
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
	IS 'is the history of this table complete in that time? bemi.completeness() shows why not';
REVOKE ALL ON FUNCTION bemi.complete(regclass, timestamptz, timestamptz) FROM PUBLIC;

--
-- Reading: what a role needs for it, as a whole
--

-- A view calls its functions with the rights of whoever reads it.
CREATE FUNCTION _bemi.set_monitoring(reader regrole, granted boolean)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	verb text := CASE WHEN granted THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
BEGIN
	EXECUTE format(verb, 'USAGE ON SCHEMA bemi, _bemi', reader);
	EXECUTE format(verb, 'SELECT ON bemi.status, bemi.tracked, bemi.gaps', reader);
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
	IS 'internal: gives a role what it needs to see how sources and tracked tables are, or takes '
		'it';
REVOKE ALL ON FUNCTION _bemi.set_monitoring(regrole, boolean) FROM PUBLIC;

CREATE FUNCTION _bemi.check_reader(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = reader) THEN
		RAISE EXCEPTION 'role that is to read does not exist' USING ERRCODE = 'undefined_object';
	-- A GRANT that has no effect is a warning only.
	ELSIF NOT (SELECT pg_has_role(current_user, e.extowner, 'USAGE')
		FROM pg_extension e WHERE e.extname = 'bemi') THEN
		RAISE EXCEPTION 'permission denied to grant or revoke reading'
			USING ERRCODE = 'insufficient_privilege',
				DETAIL = 'It takes a superuser, or a member of the role that owns extension bemi.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_reader(regrole)
	IS 'internal: error unless the role exists and the current user may let it read';
REVOKE ALL ON FUNCTION _bemi.check_reader(regrole) FROM PUBLIC;

CREATE FUNCTION bemi.grant_read(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_reader(reader);
	PERFORM _bemi.set_monitoring(reader, true);
	EXECUTE format('GRANT SELECT ON bemi.changes, bemi.holds TO %s', reader);
	EXECUTE format('GRANT EXECUTE ON FUNCTION bemi.full_context(bemi.changes) TO %s', reader);
END
$$;
COMMENT ON FUNCTION bemi.grant_read(regrole)
	IS 'lets a role read the history, and how complete it is: bemi.changes, gaps, holds, status, '
		'tracked, complete(), completeness(), sync()';
REVOKE ALL ON FUNCTION bemi.grant_read(regrole) FROM PUBLIC;

CREATE FUNCTION bemi.revoke_read(reader regrole)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM _bemi.check_reader(reader);
	PERFORM _bemi.set_monitoring(reader, false);
	EXECUTE format('REVOKE SELECT ON bemi.changes, bemi.holds FROM %s', reader);
	EXECUTE format('REVOKE EXECUTE ON FUNCTION bemi.full_context(bemi.changes) FROM %s', reader);
END
$$;
COMMENT ON FUNCTION bemi.revoke_read(regrole) IS 'takes what bemi.grant_read() has given';
REVOKE ALL ON FUNCTION bemi.revoke_read(regrole) FROM PUBLIC;

--
-- Rights that stand with no object
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

-- Monitoring sees how the sources are, not what they store.
SELECT _bemi.set_monitoring('pg_monitor', true);

-- Last: the role in which CREATE EXTENSION was called, see above.
SELECT pg_catalog.set_config('session_replication_role',
	pg_catalog.current_setting('bemi_script.session_replication_role'), true);
