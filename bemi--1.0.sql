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

-- bemi-source.sql has made schemas with the same names, in which its owner can have put anything.
-- So they get other names, and nothing in them is called. The tables keep its triggers until
-- sql/22_take_over.sql replaces them. The publication goes to the extension's owner.
DO $$
DECLARE
	former name;
	present name;
	n integer := 0;
BEGIN
	-- The session can have any value of it.
	PERFORM set_config('bemi_script.former_schema', '', true);
	IF NOT EXISTS (SELECT FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			JOIN pg_language l ON l.oid = p.prolang
		WHERE n.nspname = 'bemi' AND p.proname = 'emit_context' AND p.pronargs = 0
			AND p.prorettype = 'trigger'::regtype AND l.lanname = 'plpgsql')
	THEN
		RETURN;
	END IF;
	WHILE EXISTS (SELECT FROM pg_namespace s WHERE s.nspname IN
		(concat('bemi_source', nullif(n, 0)), concat('_bemi_source', nullif(n, 0))))
	LOOP
		n := n + 1;
	END LOOP;
	FOR former, present IN
		SELECT s.nspname, concat(s.nspname, '_source', nullif(n, 0))
			FROM pg_namespace s
			WHERE s.nspname IN ('bemi', '_bemi')
				AND s.nspowner = (SELECT o.nspowner FROM pg_namespace o WHERE o.nspname = 'bemi')
	LOOP
		EXECUTE format('ALTER SCHEMA %I RENAME TO %I', former, present);
	END LOOP;
	PERFORM set_config('bemi_script.former_schema', concat('bemi_source', nullif(n, 0)), true);
	IF EXISTS (SELECT FROM pg_publication p WHERE p.pubname = 'bemi') THEN
		ALTER PUBLICATION bemi OWNER TO CURRENT_USER;
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
COMMENT ON COLUMN bemi.changes.operation
	IS 'CREATE, UPDATE, DELETE, TRUNCATE, or SNAPSHOT for a row that bemi.baseline() has copied';
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

-- A baseline whose table was empty has no changes, so each has a row here.
CREATE TABLE bemi.baselines (
	id uuid PRIMARY KEY,
	source text COLLATE "C" NOT NULL,
	schema text COLLATE "C" NOT NULL,
	"table" text COLLATE "C" NOT NULL,
	position pg_lsn NOT NULL,
	taken_at timestamptz NOT NULL,
	row_count bigint NOT NULL,
	key_columns text[] NOT NULL,
	stored_by text NOT NULL DEFAULT session_user
);
CREATE INDEX baselines_table_idx ON bemi.baselines (source, schema, "table", id);
COMMENT ON TABLE bemi.baselines
	IS 'tables whose rows bemi.baseline() has stored, as changes of operation SNAPSHOT';
COMMENT ON COLUMN bemi.baselines.id
	IS 'the ids of its rows follow this one; earlier changes are in the rows, later ones are not';
COMMENT ON COLUMN bemi.baselines.source IS 'source of the table';
COMMENT ON COLUMN bemi.baselines.schema IS 'schema of the table at that time';
COMMENT ON COLUMN bemi.baselines."table" IS 'copied table';
COMMENT ON COLUMN bemi.baselines.position
	IS 'LSN at the source; the rows are as of all commits whose records begin before it';
COMMENT ON COLUMN bemi.baselines.taken_at
	IS 'when the copy began, by the source''s clock; committed_at of the rows'' changes';
COMMENT ON COLUMN bemi.baselines.row_count IS 'number of rows';
COMMENT ON COLUMN bemi.baselines.key_columns
	IS 'columns of the primary key at that time, {} if there was none';
COMMENT ON COLUMN bemi.baselines.stored_by IS 'session user who called bemi.baseline()';
REVOKE ALL ON bemi.baselines FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('bemi.baselines', '');

-- bemi.index_context() and bemi.index_column() write it, and _bemi.make_partition() reads it.
CREATE TABLE _bemi.indexes_on_demand (
	kind text COLLATE "C" CHECK (kind IN ('context', 'column')),
	name text COLLATE "C",
	PRIMARY KEY (kind, name)
);
COMMENT ON TABLE _bemi.indexes_on_demand
	IS 'what each new partition of bemi.changes gets an index for';
COMMENT ON COLUMN _bemi.indexes_on_demand.kind
	IS 'context: values of a key of the context; column: changes of columns of this name';
COMMENT ON COLUMN _bemi.indexes_on_demand.name
	IS 'key given to bemi.index_context(), or column given to bemi.index_column()';
REVOKE ALL ON _bemi.indexes_on_demand FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.indexes_on_demand', '');

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

-- What each table was like before and after each command that changed it. "before" and "after" are
-- those of _bemi.table_state(). Rows are found by the place of a change, so each has an id in the
-- same order. A table that was found at a new slot, or in the stream of a source without the
-- extension, has no id of its own, and shares it with others.
CREATE TABLE _bemi.schema_changes (
	source text COLLATE "C" NOT NULL,
	relation oid NOT NULL,
	id uuid NOT NULL,
	server text NOT NULL,
	database text COLLATE "C" NOT NULL,
	schema text COLLATE "C" NOT NULL,
	"table" text COLLATE "C" NOT NULL,
	event text COLLATE "C" NOT NULL CHECK (event IN
		('began', 'altered', 'rows changed', 'ended', 'dropped')),
	command text COLLATE "C",
	statement text,
	context jsonb NOT NULL,
	committed_at timestamptz NOT NULL,
	transaction_id bigint,
	detail text,
	before jsonb,
	after jsonb,
	PRIMARY KEY (source, relation, id)
);
COMMENT ON TABLE _bemi.schema_changes
	IS 'changes of tables, for bemi.schema_changes and the functions that read the history';
COMMENT ON COLUMN _bemi.schema_changes.source IS 'name of the source';
COMMENT ON COLUMN _bemi.schema_changes.relation IS 'OID of the table at the source';
COMMENT ON COLUMN _bemi.schema_changes.id
	IS 'place among the changes of the source: those with a lower id were made before';
COMMENT ON COLUMN _bemi.schema_changes.server IS 'as in _bemi.source_tables';
COMMENT ON COLUMN _bemi.schema_changes.database IS 'database of the table';
COMMENT ON COLUMN _bemi.schema_changes.schema IS 'schema of the table after the command';
COMMENT ON COLUMN _bemi.schema_changes."table" IS 'name of the table after the command';
COMMENT ON COLUMN _bemi.schema_changes.event IS 'as in bemi.schema_changes';
COMMENT ON COLUMN _bemi.schema_changes.command IS 'as in bemi.schema_changes';
COMMENT ON COLUMN _bemi.schema_changes.statement IS 'as in bemi.schema_changes';
COMMENT ON COLUMN _bemi.schema_changes.context IS 'as in bemi.schema_changes';
COMMENT ON COLUMN _bemi.schema_changes.committed_at IS 'commit time at the source';
COMMENT ON COLUMN _bemi.schema_changes.transaction_id
	IS 'transaction ID (xid) at the source; NULL: unknown';
COMMENT ON COLUMN _bemi.schema_changes.detail IS 'as in bemi.schema_changes';
COMMENT ON COLUMN _bemi.schema_changes.before
	IS 'names, columns, key and rules before; NULL: unknown';
COMMENT ON COLUMN _bemi.schema_changes.after
	IS 'names, columns, key and rules after; NULL: the table was dropped';
REVOKE ALL ON _bemi.schema_changes FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('_bemi.schema_changes', '');

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
-- Taking over from bemi-source.sql: its tables get the trigger of the extension
--
-- All in one transaction, so a statement has the one trigger or the other. This must come before
-- the event triggers. Tables are locked and changed by name. A name that has gone to another table
-- in the meantime is an error.
--

-- Locks all tables. A transaction of the application that has written to one table can be waiting
-- for another one. If it finds a deadlock after deadlock_timeout, it fails. So each wait that
-- begins with locks ends before that time, and the check for a deadlock comes at once, here. Then
-- all locks are released, the application goes on, and the next try begins with the table that was
-- busy, so the order becomes that of the application. Later tries wait for longer.
--
-- At once the lock that DROP TRIGGER needs, because an upgrade would deadlock with a transaction
-- that has read the table.
DO $$
DECLARE
	former name := nullif(current_setting('bemi_script.former_schema', true), '');
	functions oid[];
	began timestamptz := clock_timestamp();
	lock_timeout text := current_setting('lock_timeout');
	deadlock_timeout text := current_setting('deadlock_timeout');
	longest interval := coalesce(nullif(lock_timeout::interval, '0'), '1 minute');
	try_began timestamptz;
	has_locks boolean;
	relation regclass;
	table_name text;
	busy text[] := '{}';
BEGIN
	IF former IS NULL THEN
		RETURN;
	END IF;
	functions := ARRAY[to_regprocedure(format('%I.emit_context()', former)),
		to_regprocedure(format('%I.reemit_context()', former))];
	PERFORM set_config('deadlock_timeout', '1ms', true);
	LOOP
		try_began := clock_timestamp();
		has_locks := false;
		BEGIN
			FOR relation, table_name IN
				SELECT c.oid, c.oid::regclass::text FROM pg_class c
					WHERE c.relkind IN ('r', 'p') AND EXISTS (SELECT FROM pg_trigger g
						WHERE g.tgrelid = c.oid AND g.tgfoid = ANY (functions)
							AND g.tgname IN ('bemi_emit_context', 'bemi_reemit_context'))
					ORDER BY array_position(busy, c.oid::regclass::text), c.oid
			LOOP
				PERFORM set_config('lock_timeout', ceil(1000 * extract(epoch FROM greatest(
					least(interval '100 ms' + (try_began - began) / 10,
						longest - (clock_timestamp() - began),
						CASE WHEN has_locks THEN deadlock_timeout::interval / 2
							ELSE interval '5 s' END), '1 ms')))::text, true);
				EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', table_name);
				has_locks := true;
				IF to_regclass(table_name) IS DISTINCT FROM relation THEN
					RAISE undefined_table;
				END IF;
			END LOOP;
			EXIT;
		EXCEPTION
			-- A table was dropped or renamed, or its schema was.
			WHEN deadlock_detected OR lock_not_available OR undefined_table OR invalid_schema_name
			THEN
				busy := table_name || array_remove(busy, table_name);
		END;
		IF clock_timestamp() - began >= longest THEN
			RAISE EXCEPTION 'could not lock the tables that bemi-source.sql tracks'
				USING ERRCODE = 'lock_not_available',
					DETAIL = format('Transactions have used table "%s" for %s s.', busy[1],
						round(extract(epoch FROM longest), 3)::float8),
					HINT = 'Try again when no long transaction uses it, or wait for longer: '
						'SET lock_timeout = ''10min''; CREATE EXTENSION bemi;';
		END IF;
		-- Those that have waited go first. A varying time, because the load can have a rhythm.
		PERFORM pg_sleep(extract(epoch FROM (0.5 + random()) * greatest(interval '10 ms',
			clock_timestamp() - try_began)));
	END LOOP;
	PERFORM set_config('lock_timeout', lock_timeout, true),
		set_config('deadlock_timeout', deadlock_timeout, true);
END
$$;

DO $$
DECLARE
	former name := nullif(current_setting('bemi_script.former_schema', true), '');
	emit regprocedure;
	reemit regprocedure;
	t record;
	table_name text;
	arguments text[];
	index_name text;
	present name;
BEGIN
	IF former IS NULL THEN
		RETURN;
	END IF;
	emit := to_regprocedure(format('%I.emit_context()', former));
	reemit := to_regprocedure(format('%I.reemit_context()', former));

	FOR t IN SELECT e.evtname FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid
		JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = '_' || former AND p.proname = 'follow_ddl'
	LOOP
		EXECUTE format('DROP EVENT TRIGGER %I', t.evtname);
	END LOOP;

	FOR t IN SELECT g.tgrelid, g.tgname, g.tgenabled, g.tgargs, g.tgfoid, c.relispartition,
			c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND g.tgqual IS NULL
				AND g.tgattr = ''::int2vector AND (g.tgtype, g.tgname, g.tgfoid) IN (
					(62, 'bemi_emit_context', emit),
					(60, 'bemi_reemit_context', reemit)) AS is_usual
		FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
		WHERE g.tgfoid IN (emit, reemit) AND NOT g.tgisinternal
		ORDER BY g.tgrelid, g.tgfoid = emit
	LOOP
		table_name := t.tgrelid::regclass::text;
		-- Others were made by hand, perhaps on a view or a foreign table, or are part of a trigger
		-- of the root.
		IF NOT t.is_usual THEN
			RAISE WARNING 'trigger "%" of table "%" still runs a function of bemi-source.sql',
				t.tgname, table_name
				USING HINT = format('DROP TRIGGER %I ON %s; SELECT bemi.track(%L);',
					t.tgname, table_name, table_name);
			CONTINUE;
		END IF;
		EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', table_name);
		IF to_regclass(table_name) IS DISTINCT FROM t.tgrelid::regclass THEN
			RAISE EXCEPTION 'table "%" was renamed in the meantime', table_name
				USING ERRCODE = 'object_in_use', HINT = 'CREATE EXTENSION bemi;';
		END IF;
		EXECUTE format('DROP TRIGGER %I ON %s', t.tgname, table_name);
		CONTINUE WHEN t.tgfoid = reemit;

		-- The owner of a table could have made its trigger with any arguments. Texts end with
		-- a zero byte. Rules for columns, the fourth argument, are left out.
		arguments := string_to_array(encode(t.tgargs, 'escape'), E'\\000');
		BEGIN
			index_name := convert_from(decode(coalesce(arguments[2], ''), 'escape'),
				getdatabaseencoding());
		EXCEPTION WHEN data_exception THEN
			index_name := '';
		END;
		EXECUTE format('CREATE TRIGGER bemi_emit_context '
			'BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s '
			'FOR EACH STATEMENT EXECUTE FUNCTION bemi.emit_context(%L, %L, %L)', table_name,
			CASE WHEN arguments[1] IN ('d', 'n', 'f', 'i') THEN arguments[1] ELSE 'd' END,
			index_name,
			CASE WHEN arguments[3] IN ('table', 'partition', 'attached') THEN arguments[3]
				WHEN t.relispartition THEN 'partition' ELSE 'table' END);
		IF t.tgenabled <> 'O' THEN
			EXECUTE format('ALTER TABLE ONLY %s %s TRIGGER bemi_emit_context', table_name,
				CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN 'ENABLE ALWAYS'
					ELSE 'ENABLE REPLICA' END);
		END IF;
		IF NOT EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.tgrelid
			AND g.tgname = 'bemi_emit_context' AND g.tgfoid = 'bemi.emit_context()'::regprocedure)
		THEN
			RAISE EXCEPTION 'table "%" was renamed in the meantime', table_name
				USING ERRCODE = 'object_in_use', HINT = 'CREATE EXTENSION bemi;';
		END IF;
	END LOOP;

	FOR t IN SELECT s.name, v.value[1] AS value
		FROM unnest('{bemi.include,bemi.tags,bemi.tags_format}'::text[]) s(name),
			pg_proc p, LATERAL regexp_match(p.prosrc,
				format(E'''([A-Za-z0-9_.:@*, "-]+)'' /\\* %s \\*/', s.name)) v(value)
		WHERE p.oid = emit AND v.value IS NOT NULL
	LOOP
		RAISE WARNING 'the value of "%" in bemi-source.sql has no effect any more', t.name
			USING HINT = format('ALTER DATABASE %I SET %s = %L;', current_database(), t.name,
				t.value);
	END LOOP;

	-- Only the functions of bemi-source.sql. What something else depends on stays.
	FOR t IN SELECT p.oid::regprocedure AS function
		FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE p.prokind = 'f' AND (
			n.nspname = former AND (p.proname, oidvectortypes(p.proargtypes)) IN (
				('set_context', 'jsonb, boolean'), ('merge_context', 'jsonb, boolean'),
				('current_context', ''), ('emit_context', ''), ('reemit_context', ''),
				('track', 'regclass, name[], name[], name[]'), ('untrack', 'regclass'),
				('set_default', 'text, text'))
			OR n.nspname = '_' || former AND (p.proname, oidvectortypes(p.proargtypes)) IN (
				('partitions', 'regclass'), ('is_published', 'regclass'),
				('has_trigger', 'regclass'), ('partition_root', 'regclass'),
				('can_be_full', 'regclass'), ('untrackable', 'regclass'),
				('prepare_table', 'regclass'), ('lock_table', 'regclass, text'),
				('check_owner', 'regclass'), ('follow_ddl', '')))
	LOOP
		BEGIN
			EXECUTE format('DROP FUNCTION %s', t.function);
		EXCEPTION WHEN dependent_objects_still_exist THEN
			NULL;
		END;
	END LOOP;
	FOREACH present IN ARRAY ARRAY['_' || former, former]::name[] LOOP
		BEGIN
			EXECUTE format('DROP SCHEMA IF EXISTS %I', present);
		EXCEPTION WHEN dependent_objects_still_exist THEN
			RAISE WARNING 'schema "%" of bemi-source.sql is called "%" now',
				replace(present, '_source', ''), present
				USING DETAIL = 'It has objects that are not part of bemi-source.sql, or that '
					'others depend on.',
					HINT = format('When nothing uses them: DROP SCHEMA %I CASCADE;', present);
		END;
	END LOOP;
END
$$;

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
	-- For times. It has the smallest and largest times and ids of every 64 pages, so it is tiny.
	EXECUTE format('CREATE INDEX ON _bemi.%I USING brin (committed_at, id)'
		' WITH (pages_per_range = 64)', partition);
	-- Deletes are asked for often, and are rare in most histories.
	EXECUTE format('CREATE INDEX ON _bemi.%I ("table", id) WITH (deduplicate_items = off)'
		' WHERE operation = ''DELETE''', partition);
	PERFORM _bemi.create_indexes(partition);
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
	PERFORM _bemi.forget_schema_changes(retention);
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
CREATE FUNCTION _bemi.apply_tracking(source text, server text, database text, transaction xid,
		message jsonb, at_lsn pg_lsn, at_time timestamptz, id uuid, context jsonb)
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
		PERFORM _bemi.record_schema_change(source, server, database, message, id, at_time, context);
		RETURN true;
	END IF;
	PERFORM _bemi.record_description(source, (message ->> 'relation')::oid,
		nullif(message -> 'description', 'null'));
	PERFORM _bemi.record_schema_change(source, server, database, message, id, at_time, context);
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
COMMENT ON FUNCTION _bemi.apply_tracking(text, text, text, xid, jsonb, pg_lsn, timestamptz, uuid,
	jsonb)
	IS 'internal: applies a tracking message, see src/track/message.c; false if it was not '
		'written in this transaction';
REVOKE ALL ON FUNCTION _bemi.apply_tracking(text, text, text, xid, jsonb, pg_lsn, timestamptz,
	uuid, jsonb) FROM PUBLIC;

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
		PERFORM _bemi.record_seen_table(source, server, p.relation, p.schema, p."table",
				d.description, _bemi.first_id_at(at_lsn), at_time, p.complete)
			FROM json_to_recordset(published)
					p(relation oid, schema text, "table" text, complete boolean)
				JOIN json_to_recordset(descriptions) d(relation oid, description jsonb)
					USING (relation);
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
-- Schema changes: what tables were like
--
-- A row is written in the destination transaction that stores the changes of the same source
-- transaction. Each row has the state before and after, so the state at any place in the history
-- is "before" of the next row, and older rows can be dropped.
--

-- What a description says of a table that readers of its changes need. "columns" has arrays of
-- number, name and type. "types" differs if a composite type in a column was altered.
CREATE FUNCTION _bemi.table_state(schema text, "table" text, tracked boolean, description jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('schema', $1, 'table', $2, 'tracked', $3,
		'columns', coalesce($4 -> 'attributes', '[]'), 'key', coalesce($4 -> 'key', '[]'),
		'types', md5(nullif($4 -> 'types', '[]')::text),
		'rules', (SELECT coalesce(jsonb_object_agg(e.key, e.value), '{}')
			FROM jsonb_each($4) e WHERE e.key IN ('ignore', 'redact', 'redact_hash')))
$$;
COMMENT ON FUNCTION _bemi.table_state(text, text, boolean, jsonb)
	IS 'internal: names, columns, key and rules of a table, from its description';
REVOKE ALL ON FUNCTION _bemi.table_state(text, text, boolean, jsonb) FROM PUBLIC;

-- Below all ids of changes that were committed from here on, see bemi_make_change_id() in
-- src/decode/stitch.c.
CREATE FUNCTION _bemi.first_id_at(lsn pg_lsn)
	RETURNS uuid
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (substr(h.hex, 1, 12) || '8' || substr(h.hex, 13, 3)
			|| to_hex(128 + 4 * (h.position & 15)::integer) || repeat('0', 14))::uuid
		FROM (SELECT p.position, lpad(to_hex(p.position), 16, '0')
			FROM (SELECT (lsn - '0/0')::bigint) p(position)) h(position, hex)
$$;
COMMENT ON FUNCTION _bemi.first_id_at(pg_lsn)
	IS 'internal: an id below those of all changes that a transaction with this commit LSN, or a '
		'later one, has made';
REVOKE ALL ON FUNCTION _bemi.first_id_at(pg_lsn) FROM PUBLIC;

CREATE FUNCTION _bemi.lsn_of_id(id uuid)
	RETURNS pg_lsn
	LANGUAGE sql IMMUTABLE STRICT
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT (left(h.lsn, 8) || '/' || substr(h.lsn, 9))::pg_lsn
		FROM (SELECT replace(id::text, '-', '')) r(hex),
			LATERAL (SELECT substr(r.hex, 1, 12) || substr(r.hex, 14, 3)
				|| to_hex(('x' || substr(r.hex, 17, 2))::bit(8)::integer >> 2 & 15)) h(lsn)
$$;
COMMENT ON FUNCTION _bemi.lsn_of_id(uuid)
	IS 'internal: commit LSN in the id of a change';
REVOKE ALL ON FUNCTION _bemi.lsn_of_id(uuid) FROM PUBLIC;

-- The worker may read a message again after a restart. Then its row is there already, or the
-- states are equal again.
CREATE FUNCTION _bemi.store_schema_change(change _bemi.schema_changes)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	changes_rows boolean := change.event = 'rows changed';
BEGIN
	change.before := (SELECT s.after FROM _bemi.schema_changes s
		WHERE s.source = change.source AND s.relation = change.relation
			AND s.server = change.server AND s.id < change.id
		ORDER BY s.id DESC LIMIT 1);
	IF changes_rows THEN
		change.after := change.before;
	ELSIF change.before = change.after OR change.event = 'dropped' AND change.before IS NULL THEN
		RETURN;
	ELSIF change.event <> 'dropped' THEN
		change.event := CASE
			WHEN coalesce(change.before -> 'tracked', 'false') = change.after -> 'tracked'
				THEN 'altered'
			WHEN change.after -> 'tracked' = 'true' THEN 'began'
			ELSE 'ended' END;
	END IF;
	INSERT INTO _bemi.schema_changes SELECT change.* ON CONFLICT DO NOTHING;
END
$$;
COMMENT ON FUNCTION _bemi.store_schema_change(_bemi.schema_changes)
	IS 'internal: stores a schema change, unless the table is as it was before';
REVOKE ALL ON FUNCTION _bemi.store_schema_change(_bemi.schema_changes) FROM PUBLIC;

-- TRUNCATE is no DDL. Constants in a command can be values of columns that a rule redacts. Without
-- a description, because it is too long for a message, the rules are not known.
CREATE FUNCTION _bemi.record_schema_change(source text, server text, database text, message jsonb,
		id uuid, at_time timestamptz, context jsonb)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	change _bemi.schema_changes;
	description jsonb := (SELECT r.description FROM _bemi.source_relations r
		WHERE r.source = record_schema_change.source
			AND r.relation = (message ->> 'relation')::oid);
BEGIN
	IF num_nulls(message ->> 'schema', message ->> 'table') > 0
		OR message ->> 'event' = 'rows changed'
		AND coalesce(message ->> 'command', 'TRUNCATE TABLE') = 'TRUNCATE TABLE' THEN
		RETURN;
	END IF;
	change.source := source;
	change.relation := (message ->> 'relation')::oid;
	change.id := id;
	change.server := server;
	change.database := database;
	change.schema := message ->> 'schema';
	change."table" := message ->> 'table';
	change.event := message ->> 'event';
	change.command := message ->> 'command';
	change.statement := CASE
		WHEN coalesce(description ?| '{redact,redact_hash}', change.event <> 'ended')
			AND message ->> 'statement' ~ '[''$0-9]' THEN NULL
		ELSE message ->> 'statement' END;
	change.context := coalesce(context, '{}');
	change.committed_at := at_time;
	change.transaction_id := (message ->> 'transaction')::bigint;
	change.detail := message ->> 'detail';
	IF change.event = 'ended' AND message -> 'description' = 'null' THEN
		change.event := 'dropped';
	ELSE
		change.after := _bemi.table_state(change.schema, change."table", change.event <> 'ended',
			description);
	END IF;
	PERFORM _bemi.store_schema_change(change);
END
$$;
COMMENT ON FUNCTION
	_bemi.record_schema_change(text, text, text, jsonb, uuid, timestamptz, jsonb)
	IS 'internal: records what a tracking message says of a table';
REVOKE ALL ON FUNCTION
	_bemi.record_schema_change(text, text, text, jsonb, uuid, timestamptz, jsonb) FROM PUBLIC;

-- A table as it is at a place without a tracking message. The source may have altered it by several
-- commands, of which nothing is known.
CREATE FUNCTION _bemi.record_seen_table(source text, server text, relation oid, schema text,
		"table" text, description jsonb, id uuid, at_time timestamptz, tracked boolean DEFAULT true)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	change _bemi.schema_changes;
BEGIN
	change.source := source;
	change.relation := relation;
	change.id := id;
	change.server := server;
	change.database := substr(server, strpos(server, '/') + 1);
	change.schema := schema;
	change."table" := "table";
	change.event := 'altered';
	change.context := '{}';
	change.committed_at := at_time;
	change.detail := 'Seen when the source was read. The command is not known.';
	change.after := _bemi.table_state(schema, "table", tracked, description);
	PERFORM _bemi.store_schema_change(change);
END
$$;
COMMENT ON FUNCTION
	_bemi.record_seen_table(text, text, oid, text, text, jsonb, uuid, timestamptz, boolean)
	IS 'internal: records what a table is like, if it has changed without a tracking message';
REVOKE ALL ON FUNCTION
	_bemi.record_seen_table(text, text, oid, text, text, jsonb, uuid, timestamptz, boolean)
	FROM PUBLIC;

-- The state of a table at a change is "before" of its next schema change. So those that are older
-- than all changes are not needed. The last one of a tracked table stays, because the next one
-- takes its state from it. With a partition that has no lower bound, nothing is dropped.
CREATE FUNCTION _bemi.forget_schema_changes(retention interval)
	RETURNS void
	LANGUAGE sql
	SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM _bemi.schema_changes s
		WHERE s.committed_at < least(now() - retention,
				(SELECT min(r.from_time) FROM _bemi.partition_ranges() r))
			AND NOT EXISTS (SELECT FROM pg_partitioned_table t
				WHERE t.partrelid = 'bemi.changes'::regclass AND t.partdefid <> 0)
			AND NOT EXISTS (SELECT FROM bemi.holds h
				WHERE h.from_time <= s.committed_at AND s.committed_at < h.to_time)
			AND (NOT coalesce((s.after ->> 'tracked')::boolean, false)
				OR EXISTS (SELECT FROM _bemi.schema_changes later
					WHERE later.source = s.source AND later.relation = s.relation
						AND later.id > s.id))
$$;
COMMENT ON FUNCTION _bemi.forget_schema_changes(interval)
	IS 'internal: deletes schema changes that are older than the retention and than all changes '
		'that are left';
REVOKE ALL ON FUNCTION _bemi.forget_schema_changes(interval) FROM PUBLIC;

CREATE VIEW bemi.schema_changes AS
	SELECT s.id, s.source, s.database, s.schema, s."table", s.event, s.command, s.statement,
		s.context, s.committed_at, s.transaction_id, s.detail,
		s.before ->> 'schema' AS former_schema, s.before ->> 'table' AS former_table,
		d.added, d.dropped, d.renamed, d.retyped,
		s.before -> 'columns' AS columns_before, s.after -> 'columns' AS columns_after,
		s.before -> 'key' AS key_before, s.after -> 'key' AS key_after,
		s.before -> 'rules' AS rules_before, s.after -> 'rules' AS rules_after
	FROM _bemi.schema_changes s,
		LATERAL (SELECT
			coalesce(array_agg(a.name ORDER BY a.number) FILTER (WHERE b.name IS NULL), '{}')
				AS added,
			coalesce(array_agg(b.name ORDER BY b.number) FILTER (WHERE a.name IS NULL), '{}')
				AS dropped,
			coalesce(jsonb_object_agg(a.name, b.name)
				FILTER (WHERE a.name <> b.name), '{}') AS renamed,
			coalesce(jsonb_object_agg(a.name, jsonb_build_array(b.type, a.type))
				FILTER (WHERE a.type <> b.type), '{}') AS retyped
			FROM (SELECT (c ->> 0)::integer, c ->> 1, c ->> 2
					FROM jsonb_array_elements(s.before -> 'columns') c
					WHERE s.before IS NOT NULL) b(number, name, type)
				FULL JOIN (SELECT (c ->> 0)::integer, c ->> 1, c ->> 2
					FROM jsonb_array_elements(s.after -> 'columns') c) a(number, name, type)
				USING (number)
			WHERE s.before IS NOT NULL) d;
COMMENT ON VIEW bemi.schema_changes
	IS 'one row for each command that changed what a tracked table is like, with its context; '
		'also where tracking began or ended';
COMMENT ON COLUMN bemi.schema_changes.id
	IS 'changes of the same source with a lower id were made before, those with a higher id after';
COMMENT ON COLUMN bemi.schema_changes.source IS 'source of the table';
COMMENT ON COLUMN bemi.schema_changes.database IS 'database of the table';
COMMENT ON COLUMN bemi.schema_changes.schema IS 'schema of the table after the command';
COMMENT ON COLUMN bemi.schema_changes."table" IS 'name of the table after the command';
COMMENT ON COLUMN bemi.schema_changes.event
	IS 'began: tracked from here on; altered; rows changed: rows without a change for each, see '
		'bemi.gaps; ended: no longer tracked; dropped';
COMMENT ON COLUMN bemi.schema_changes.command
	IS 'tag of the command, such as ALTER TABLE; NULL: a function such as bemi.track(), or unknown';
COMMENT ON COLUMN bemi.schema_changes.statement
	IS 'text of the command, at most 8 kB; NULL: unknown, or left out because it can contain '
		'secrets';
COMMENT ON COLUMN bemi.schema_changes.context
	IS 'context of the command, {} if there was none';
COMMENT ON COLUMN bemi.schema_changes.committed_at IS 'commit time at the source';
COMMENT ON COLUMN bemi.schema_changes.transaction_id
	IS 'transaction ID (xid) at the source; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.detail IS 'sentence that explains the event, or NULL';
COMMENT ON COLUMN bemi.schema_changes.former_schema
	IS 'schema of the table before the command; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.former_table
	IS 'name of the table before the command; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.added IS 'new columns';
COMMENT ON COLUMN bemi.schema_changes.dropped
	IS 'dropped columns; all of them if the table was dropped';
COMMENT ON COLUMN bemi.schema_changes.renamed IS 'renamed columns: new name -> former name';
COMMENT ON COLUMN bemi.schema_changes.retyped IS 'columns of another type: name -> [former, new]';
COMMENT ON COLUMN bemi.schema_changes.columns_before
	IS 'columns before, each with number, name and type; NULL: unknown';
COMMENT ON COLUMN bemi.schema_changes.columns_after
	IS 'columns after, likewise; NULL: the table was dropped';
COMMENT ON COLUMN bemi.schema_changes.key_before IS 'columns of the primary key before';
COMMENT ON COLUMN bemi.schema_changes.key_after IS 'columns of the primary key after';
COMMENT ON COLUMN bemi.schema_changes.rules_before
	IS 'rules of bemi.track() before: ignore, redact, redact_hash';
COMMENT ON COLUMN bemi.schema_changes.rules_after IS 'rules of bemi.track() after';
REVOKE ALL ON bemi.schema_changes FROM PUBLIC;

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

-- Under each of its names, the table must be complete for the time in which it had the name. What
-- was before the first name that is known is asked for under that name.
CREATE FUNCTION _bemi.find_gaps_of(source text, relation oid, schema_today text, table_today text,
		from_time timestamptz, to_time timestamptz)
	RETURNS SETOF bemi.gaps
	LANGUAGE sql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH named AS (
		SELECT t.*, CASE WHEN lead(t.ordinality) OVER w IS NULL THEN '-infinity'
				ELSE c.committed_at END AS since
			FROM _bemi.table_names(ARRAY[source], relation, schema_today, table_today)
					WITH ORDINALITY t
				LEFT JOIN _bemi.schema_changes c ON c.source = find_gaps_of.source
					AND c.relation = find_gaps_of.relation AND c.id = t.from_id
			WHERE NOT t.predecessor
			WINDOW w AS (ORDER BY t.ordinality)
	)
	SELECT DISTINCT g.*
		FROM (SELECT n.*, lag(n.since) OVER (ORDER BY n.ordinality) AS until FROM named n) n,
			LATERAL _bemi.find_gaps(source, n.schema_name, n.table_name,
				greatest(find_gaps_of.from_time, n.since), least(find_gaps_of.to_time, n.until)) g
		WHERE n.since <= find_gaps_of.to_time
			AND coalesce(n.until >= find_gaps_of.from_time, true)
			AND (g.reason <> 'not_tracked' OR n.until IS NULL)
		ORDER BY g.from_time, g.reason
$$;
COMMENT ON FUNCTION
	_bemi.find_gaps_of(text, oid, text, text, timestamptz, timestamptz)
	IS 'internal: gaps in this time range of a table, also under its former names';
REVOKE ALL ON FUNCTION
	_bemi.find_gaps_of(text, oid, text, text, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.completeness_of(source text, relation oid, schema_name text, table_name text,
		from_time timestamptz, to_time timestamptz)
	RETURNS TABLE (complete boolean, source_name text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF num_nulls(source, schema_name, table_name, from_time, to_time) > 0 THEN
		RAISE EXCEPTION 'source, table and times must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	RETURN QUERY SELECT false, g.source, g.reason, g.from_time, g.to_time, g.detail
		FROM _bemi.find_gaps_of(source, relation, schema_name, table_name,
			completeness_of.from_time, completeness_of.to_time) g;
	IF NOT FOUND THEN
		RETURN QUERY SELECT true, source, NULL::text, NULL::timestamptz, NULL::timestamptz,
			NULL::text;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.completeness_of(text, oid, text, text, timestamptz, timestamptz)
	IS 'internal: bemi.completeness() of this source; without a relation, former names do not '
		'count';
REVOKE ALL ON FUNCTION _bemi.completeness_of(text, oid, text, text, timestamptz, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION bemi.source_completeness(source_name text, schema_name text, table_name text,
		from_time timestamptz DEFAULT '-infinity', to_time timestamptz DEFAULT now())
	RETURNS TABLE (complete boolean, source text, reason text, missing_from timestamptz,
		missing_to timestamptz, detail text)
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT * FROM _bemi.completeness_of(source_name, NULL, schema_name, table_name, from_time,
		to_time)
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
	stored record;
	candidate text;
BEGIN
	SELECT s.* INTO stored FROM _bemi.stored_as(target) s;

	-- Sources that read this database, now or formerly. The current one comes last, and its gaps
	-- are returned if no source is complete.
	FOR candidate IN
		SELECT l.source FROM (
				SELECT s.name, s.desired = 'run' FROM bemi.sources s WHERE s.conninfo IS NULL
				UNION ALL SELECT t.source, false FROM _bemi.source_tables t
					WHERE t.server = _bemi.this_server()
			) l(source, runs) GROUP BY l.source ORDER BY bool_or(l.runs), l.source
	LOOP
		EXIT WHEN NOT EXISTS (SELECT FROM _bemi.find_gaps_of(candidate, stored.relation,
			stored.schema_name, stored.table_name, from_time, to_time));
	END LOOP;
	IF candidate IS NULL THEN
		RETURN QUERY SELECT false, NULL::text, 'no_source',
			'-infinity'::timestamptz, NULL::timestamptz,
			_bemi.default_detail('no_source');
	ELSE
		RETURN QUERY SELECT * FROM _bemi.completeness_of(candidate, stored.relation,
			stored.schema_name, stored.table_name, from_time, to_time);
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
		bemi.status, bemi.tracked, bemi.gaps, bemi.context_indexes, bemi.column_indexes,
		_bemi.indexes_on_demand', reader);
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
		-- bemi.context_indexes and bemi.column_indexes
		_bemi.index_definition(text, text, text),
		_bemi.index_states(text, text, regclass),
		_bemi.indexes_of(text),
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
	EXECUTE format(verb, 'SELECT ON
		bemi.changes, bemi.baselines, bemi.holds, bemi.schema_changes, bemi.transactions', reader);
	EXECUTE format(verb, 'EXECUTE ON FUNCTION
		bemi.as_of(anyelement, timestamptz, uuid, pg_lsn, boolean, interval),
		bemi.as_of_json(regclass, timestamptz, uuid, pg_lsn, boolean, interval),
		bemi.blame(regclass, text),
		bemi.changes_by_id(uuid[]),
		bemi.column_is_changed(text, jsonb, jsonb, text),
		bemi.context_is(jsonb, text, text),
		bemi.diff(jsonb, jsonb),
		bemi.diff_table(anyelement, timestamptz, timestamptz, boolean, interval),
		bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text, integer,
			uuid, jsonb),
		bemi.full_context(bemi.changes),
		bemi.history(regclass, text, integer, uuid),
		bemi.past(name, regnamespace, timestamptz, uuid, pg_lsn, boolean),
		bemi.row_as_of(anyelement, text, timestamptz, uuid, pg_lsn, boolean, interval),
		bemi.source_as_of_json(text, text, text, timestamptz, uuid, boolean),
		bemi.transaction(uuid),
		bemi.versions(anyelement, timestamptz, timestamptz, boolean, interval),
		_bemi.as_of_added_columns(regclass, text, uuid, timestamptz),
		_bemi.as_of_unknown_columns(regclass, text, uuid, timestamptz),
		_bemi.as_of_gap(regclass, text, timestamptz, pg_lsn, timestamptz, pg_lsn, uuid),
		_bemi.as_of_history(regclass),
		_bemi.as_of_ignored_columns(regclass, text, uuid, timestamptz),
		_bemi.base_of_past(text, text, text, uuid, timestamptz),
		_bemi.changed_columns(text, jsonb, jsonb),
		_bemi.changes_by_index(text, text, text, text[], text[], text, jsonb, jsonb, timestamptz,
			timestamptz, uuid, uuid, timestamptz, uuid, text, integer),
		_bemi.changes_by_plans(text, text, text, text[], text[], text, jsonb, jsonb, timestamptz,
			timestamptz, uuid, uuid, timestamptz, uuid, text, integer),
		_bemi.check_page(integer),
		_bemi.check_view_of_past(regclass, regnamespace),
		_bemi.column_of_today(text, text[], regclass, text, text),
		_bemi.dropped_columns(regclass, text, uuid, timestamptz),
		_bemi.end_of_past(text, timestamptz, uuid),
		_bemi.find_change(uuid),
		_bemi.gap_of_past(text, text, text, uuid, timestamptz, uuid, timestamptz, boolean),
		_bemi.former_column(text, jsonb),
		_bemi.has_several_sources(),
		_bemi.first_change_of(uuid),
		_bemi.history_of(regclass),
		_bemi.key_has_changed(text[], regclass),
		_bemi.key_columns(regclass),
		_bemi.key_from_image(regclass, jsonb),
		_bemi.key_from_user(regclass, text),
		_bemi.key_is_changed(text[], jsonb, jsonb),
		_bemi.json_members(text, text[]),
		_bemi.names_of_change(bemi.changes, text[], oid, text, text),
		_bemi.key_of_past(text[], jsonb, uuid),
		_bemi.key_text(jsonb, text),
		_bemi.key_of_texts(text[]),
		_bemi.no_dropped_value(text, jsonb, text[]),
		_bemi.no_past(anyelement, text, text),
		_bemi.partition_ranges(),
		_bemi.partition_times(),
		_bemi.read_changes(text, text, text, text[], text[], text, jsonb, jsonb, timestamptz,
			timestamptz, uuid, uuid, timestamptz, uuid, text, integer),
		_bemi.read_key(regclass, text),
		_bemi.reads_by_index(),
		_bemi.relations_of(regnamespace),
		_bemi.rename_members(jsonb, jsonb),
		_bemi.table_names(text[], oid, text, text),
		_bemi.tables_of_name(text[], text, text),
		_bemi.throw_no_history(regclass),
		_bemi.query_of_json(regclass, text, text, text, uuid, timestamptz, boolean),
		_bemi.replay(text, text, text, text[], uuid, timestamptz, uuid, boolean),
		_bemi.replay_copies(text, text, text, uuid, timestamptz, uuid),
		_bemi.replay_counts(text, text, text, uuid, timestamptz, uuid),
		_bemi.source_key(text, text, text, uuid),
		_bemi.wrong_change_of_past(text, uuid),
		_bemi.wrong_key_of_past(jsonb),
		_bemi.reverts_of(uuid),
		_bemi.transaction_changes(),
		_bemi.transaction_range(uuid),
		-- bemi.plan_revert() and the like, which write with the rights of their caller
		_bemi.has_following_rows(regclass[]),
		_bemi.has_writing_triggers(regclass[]),
		_bemi.restore_query(regclass, text, timestamptz, uuid, pg_lsn, interval),
		_bemi.revert_added(text, text),
		_bemi.revert_apply(text, text),
		_bemi.revert_cause(regclass, name[], text),
		_bemi.revert_changes(regclass, text, boolean, text),
		_bemi.revert_columns(regclass),
		_bemi.revert_condition(uuid[], uuid, jsonb, timestamptz, timestamptz, boolean),
		_bemi.revert_complete_set(text, bigint[], uuid[]),
		_bemi.revert_context(jsonb, text),
		_bemi.revert_events(integer, regclass, text, text),
		_bemi.revert_foreign_keys(regclass[]),
		_bemi.revert_followers(regclass),
		_bemi.revert_generated(regclass),
		_bemi.revert_has_name(text, text, uuid, uuid),
		_bemi.revert_hidden_children(regclass[]),
		_bemi.revert_hidden(uuid[], uuid, jsonb, timestamptz, timestamptz, bigint[]),
		_bemi.revert_history(regclass, text[], bigint[], uuid, timestamptz),
		_bemi.revert_identity(integer, regclass, boolean),
		_bemi.revert_in_the_way(regclass[], text[], bigint[], uuid, timestamptz),
		_bemi.revert_is_comparable(oid),
		_bemi.revert_key(regclass),
		_bemi.revert_key_value(regclass, text, name, text, boolean),
		_bemi.revert_later(integer, regclass, text, text, text),
		_bemi.revert_lost_table(integer, text, text, text),
		_bemi.revert_member(text, name),
		_bemi.revert_mends(regclass),
		_bemi.revert_missing_parents(regclass[]),
		_bemi.revert_moved(),
		_bemi.revert_names(regclass, text[]),
		_bemi.revert_new_children(regclass[]),
		_bemi.revert_no_partition(regclass[]),
		_bemi.revert_numbered(),
		_bemi.revert_of(uuid[], uuid[]),
		_bemi.revert_of_steps(),
		_bemi.revert_only(regclass),
		_bemi.revert_order(regclass[]),
		_bemi.revert_partial(regclass[], bigint),
		_bemi.revert_plain(integer, regclass, text, text, text, text[]),
		_bemi.revert_reading(regclass, text[]),
		_bemi.revert_queries(text, jsonb, bigint[], text, boolean, boolean, uuid),
		_bemi.revert_referenced(regclass[]),
		_bemi.revert_row_now(regclass, text[]),
		_bemi.revert_same_key(regclass, text),
		_bemi.revert_same_value(regclass, text),
		_bemi.revert_set(integer, regclass, text, text, text),
		_bemi.revert_statement(regclass, text, text[], bigint),
		_bemi.revert_steps(integer, regclass),
		_bemi.revert_tables(jsonb, text, text[]),
		_bemi.revert_taken(regclass[]),
		_bemi.revert_text(regclass),
		_bemi.revert_fired(regclass),
		_bemi.revert_triggers(regclass, integer),
		_bemi.revert_truncated(regclass, text, text),
		_bemi.revert_tuple(text, text),
		_bemi.revert_unfit(regclass[], bigint),
		_bemi.revert_unique(regclass[]),
		_bemi.revert_unmet(regclass[], bigint),
		_bemi.revert_violated(),
		_bemi.revert_visible(bigint[]),
		_bemi.unfit_values(jsonb, text),
		_bemi.why_unfit(jsonb, text),
		bemi.plan_revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, interval, jsonb),
		bemi.restore(regclass, text, timestamptz, uuid, pg_lsn, interval),
		bemi.revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, text, interval,
			jsonb)', reader);
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
		'tracked, context_indexes, column_indexes, complete(), completeness(), sync()';
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
-- The past of a table: bemi.as_of(), bemi.row_as_of()
--
-- docs/internals/reading.md explains why the answer is exact.
--

-- What the text of a row's primary_key depends on, in a state of _bemi.schema_changes: numbers and
-- types of the columns of the key, and rules that may redact them.
CREATE FUNCTION _bemi.key_text_form(state jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_array(state -> 'rules' -> 'redact', state -> 'rules' -> 'redact_hash',
		(SELECT jsonb_agg(jsonb_build_array(c -> 0, c -> 2) ORDER BY k.place)
			FROM jsonb_array_elements_text(nullif(state -> 'key', 'null'))
					WITH ORDINALITY k(name, place)
				JOIN jsonb_array_elements(state -> 'columns') c ON c ->> 1 = k.name))
$$;
COMMENT ON FUNCTION _bemi.key_text_form(jsonb)
	IS 'internal: what the text of a primary key depends on';
REVOKE ALL ON FUNCTION _bemi.key_text_form(jsonb) FROM PUBLIC;

-- With the rights of the owner, because its caller need not see which sources there are. The source
-- is the running one that reads this database. root is not NULL if the changes are stored under the
-- name of another table. Changes from key_text_since on have in primary_key the text that the key
-- has today: NULL: all; the highest id: perhaps none.
CREATE FUNCTION _bemi.as_of_history(target regclass, OUT source text, OUT schema text,
		OUT "table" text, OUT root text, OUT key_text_since uuid, OUT names jsonb,
		OUT created_at timestamptz)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	published_as regclass := _bemi.partition_root(target);
	redacted jsonb;
BEGIN
	SELECT n.nspname, c.relname INTO schema, "table"
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
	source := (SELECT min(s.name) FROM bemi.sources s
		WHERE s.conninfo IS NULL AND s.desired = 'run');
	IF published_as <> target AND _bemi.is_published(published_as) THEN
		root := published_as;
	END IF;
	-- A name in the rules may be a pattern. Values of an enum can be renamed, and no change tells.
	redacted := _bemi.rules(target);
	redacted := coalesce(redacted -> 'redact', '[]') || coalesce(redacted -> 'redact_hash', '[]');
	IF EXISTS (SELECT FROM jsonb_array_elements_text(redacted) r, _bemi.key_columns(target) k
			WHERE r = ANY (k.names) OR r ~ '[*?]')
		OR EXISTS (SELECT FROM pg_index i
				JOIN pg_attribute a ON a.attrelid = i.indexrelid
				JOIN pg_type t ON t.oid = a.atttypid
				LEFT JOIN pg_type b ON b.oid = t.typbasetype
			WHERE i.indrelid = target AND i.indisprimary AND 'e' IN (t.typtype, b.typtype)) THEN
		key_text_since := 'ffffffff-ffff-ffff-ffff-ffffffffffff';
	ELSE
		key_text_since := (SELECT c.id FROM _bemi.schema_changes c
			WHERE c.source = as_of_history.source AND c.relation = target
				AND c.before IS NOT NULL AND c.after IS NOT NULL
				AND _bemi.key_text_form(c.before) <> _bemi.key_text_form(c.after)
			ORDER BY c.id DESC LIMIT 1);
	END IF;
	-- Names of earlier times, newest first. NULL if they were always those of today. created_at is
	-- NULL if the table was not empty then.
	SELECT jsonb_agg(to_jsonb(n) ORDER BY n.ordinality),
			(SELECT c.committed_at FROM _bemi.schema_changes c
				WHERE c.source = as_of_history.source AND c.relation = target
					AND c.id = (array_agg(n.from_id ORDER BY n.ordinality DESC))[1]
					AND c.command NOT IN ('CREATE TABLE AS', 'SELECT INTO'))
		INTO names, created_at
		FROM _bemi.table_names(ARRAY[source], target, schema, "table") WITH ORDINALITY n
		WHERE NOT n.predecessor;
	IF jsonb_array_length(names) = 1 AND jsonb_typeof(names -> 0 -> 'columns') = 'null'
		AND jsonb_typeof(names -> 0 -> 'from_id') = 'null' THEN
		names := NULL;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.as_of_history(regclass)
	IS 'internal: for bemi.as_of(): source and names of a table, and which of its changes the text '
		'of a key finds';
REVOKE ALL ON FUNCTION _bemi.as_of_history(regclass) FROM PUBLIC;

-- What rows from before another primary key were told apart by. Their keys of today are unique if
-- all columns of the former key are among those of today. Otherwise several rows may have had one
-- key, and equal rows are counted.
CREATE FUNCTION _bemi.as_of_former_key(target regclass, source text, since timestamptz,
		since_id uuid)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('key_changed (until %s): Before, the primary key was %s. Rows with an equal key '
			'of today cannot be told apart.', c.committed_at,
			coalesce(nullif(c.before ->> 'key', '[]'), 'missing'))
		FROM _bemi.schema_changes c
			JOIN pg_index i ON i.indrelid = target AND i.indisprimary
		WHERE c.source = as_of_former_key.source AND c.relation = target
			AND (c.committed_at > since OR c.id >= since_id) AND c.before IS NOT NULL
			AND (SELECT coalesce(bool_or(NOT (k -> 0)::int2
						= ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])), true)
				FROM jsonb_array_elements(nullif(_bemi.key_text_form(c.before) -> 2, 'null')) k)
		ORDER BY c.id LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.as_of_former_key(regclass, text, timestamptz, uuid)
	IS 'internal: why the primary key of today does not tell rows of a time apart; NULL if it does';
REVOKE ALL ON FUNCTION _bemi.as_of_former_key(regclass, text, timestamptz, uuid) FROM PUBLIC;

-- As above. The first gap between two places; until infinity: up to now. What is not stored yet is
-- no gap, because bemi.as_of() has waited for it. Under each name, the table must be complete for
-- the time in which it had the name.
--
-- A gap is before the first place if it ends there by time, and also by position, because a clock
-- may have been set back. It is after the second place if it begins there: by position, if
-- until_lsn is not NULL, otherwise by time. Then a change beyond stored_until may follow missing
-- ones. The transaction that ends the tracking can make changes after that, at the time at which
-- the gap begins. Positions of another server, or from before a restore, tell nothing.
CREATE FUNCTION _bemi.as_of_gap(target regclass, source text, since timestamptz, since_lsn pg_lsn,
		until timestamptz, until_lsn pg_lsn, since_id uuid, OUT gap text,
		OUT stored_until pg_lsn, OUT former_key text)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	named record;
	named_until timestamptz := 'infinity';
	named_until_lsn pg_lsn;
	comparable bigint := coalesce((SELECT max(g.id) FROM bemi.gaps g
		WHERE g.source = as_of_gap.source AND g.reason IN ('server_changed', 'history_moved',
			'timeline_changed', 'source_went_back')), 0);
BEGIN
	FOR named IN
		SELECT t.schema_name AS schema, t.table_name AS "table",
				greatest(since, c.committed_at) AS from_time,
				greatest(since_lsn, _bemi.lsn_of_id(t.from_id)) AS from_lsn,
				c.committed_at AS named_at, _bemi.lsn_of_id(t.from_id) AS named_lsn, c.command,
				-- Times are not in commit order, but ids of one server are.
				c.committed_at > since
					OR comparable = 0 AND t.from_id >= since_id AS is_later
			FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace,
				_bemi.table_names(ARRAY[source], r.oid, n.nspname, r.relname) WITH ORDINALITY t
				LEFT JOIN _bemi.schema_changes c
					ON c.source = as_of_gap.source AND c.relation = target AND c.id = t.from_id
			WHERE r.oid = target AND NOT t.predecessor
			ORDER BY t.ordinality
	LOOP
		SELECT (array_agg(format('%s (from %s to %s): %s', g.reason, g.from_time,
					coalesce(g.to_time::text, 'now'), g.detail) ORDER BY g.from_time, g.id)
				FILTER (WHERE NOT e.is_after))[1],
				least(stored_until, min(g.from_lsn) FILTER (WHERE g.id >= comparable))
			INTO gap, stored_until
			FROM bemi.gaps g, LATERAL (SELECT CASE
					WHEN g.id >= comparable AND until_lsn IS NOT NULL
					THEN coalesce(g.from_lsn >= until_lsn, false)
					WHEN g.reason = 'tracking_ended' THEN g.from_time > until
					ELSE g.from_time >= until END) e(is_after)
			WHERE (g.source = as_of_gap.source OR g.source IS NULL)
				AND (g."table" IS NULL OR g.schema = named.schema AND g."table" = named."table")
				AND (g.from_time < named_until OR g.from_lsn < named_until_lsn)
				AND (coalesce(g.to_time, 'infinity') > named.from_time
					-- A command is at its position, and everything else is before the end. Within
					-- the commit of the place, the order is not known. Names can be swapped in one.
					OR g.id >= comparable AND (g.to_lsn > named.from_lsn
						OR g.to_lsn = named.from_lsn AND (g.reason = 'rows_changed_by_ddl'
							OR g.from_lsn = g.to_lsn AND g.to_lsn = since_lsn)));
		IF gap IS NULL AND named_until = 'infinity'
			AND NOT EXISTS (SELECT FROM _bemi.source_tables t
				WHERE t.source = as_of_gap.source AND t.schema = named.schema
					AND t."table" = named."table")
			AND (until = 'infinity' OR NOT EXISTS (SELECT FROM bemi.gaps g
				WHERE g.source = as_of_gap.source AND g.schema = named.schema
					AND g."table" = named."table" AND g.to_time IS NULL)) THEN
			gap := 'not_tracked: ' || _bemi.default_detail('not_tracked');
		END IF;
		-- The history does not have the first rows of such a table.
		IF gap IS NULL AND named.command IN ('CREATE TABLE AS', 'SELECT INTO')
			AND named.is_later THEN
			gap := format('rows_changed_by_ddl (%s, %s): %s', named.command, named.named_at,
				_bemi.default_detail('rows_changed_by_ddl'));
		END IF;
		-- The rows are newest first.
		named_until := named.named_at;
		named_until_lsn := CASE comparable WHEN 0 THEN named.named_lsn END;
		EXIT WHEN gap IS NOT NULL OR NOT named.is_later;
	END LOOP;
	former_key := _bemi.as_of_former_key(target, source, since,
		CASE comparable WHEN 0 THEN since_id END);
END
$$;
COMMENT ON FUNCTION _bemi.as_of_gap(regclass, text, timestamptz, pg_lsn, timestamptz, pg_lsn,
	uuid)
	IS 'internal: the first gap of a table between two places; NULL if there is none; and up to '
		'which position no later gap has left out a change; and whether the key has changed since';
REVOKE ALL ON FUNCTION _bemi.as_of_gap(regclass, text, timestamptz, pg_lsn, timestamptz, pg_lsn,
	uuid) FROM PUBLIC;

-- What a table was like at a place (is_first), and after it. first_id is the first change of a row
-- after the place, so the table may have been changed between a time and it.
CREATE FUNCTION _bemi.as_of_states(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT state jsonb, OUT is_first boolean)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.state, s.from_id IS NULL OR s.from_id < p.id
		FROM (SELECT least(first_id, (SELECT min(c.id::text)::uuid FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.committed_at > at))) p(id),
			_bemi.table_states(ARRAY[source_name], target, _bemi.this_server()) s
		WHERE s.to_id IS NULL OR s.to_id >= p.id
$$;
COMMENT ON FUNCTION _bemi.as_of_states(regclass, text, uuid, timestamptz)
	IS 'internal: what a table was like at a place in commit order, and since';
REVOKE ALL ON FUNCTION _bemi.as_of_states(regclass, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, because nobody else can read what is known of tables. By number and by name,
-- because a restored table has other numbers.
CREATE FUNCTION _bemi.as_of_added_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT attnum smallint)
	RETURNS SETOF smallint
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum FROM pg_attribute a,
			_bemi.as_of_states(target, source_name, first_id, at) s
		WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
			AND s.is_first
			AND NOT EXISTS (SELECT FROM jsonb_array_elements(s.state -> 'columns') c
				WHERE (c ->> 0)::integer = a.attnum OR c ->> 1 = a.attname)
$$;
COMMENT ON FUNCTION _bemi.as_of_added_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns of a table that it did not have at a place in commit order';
REVOKE ALL ON FUNCTION _bemi.as_of_added_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, for the same reason. Columns that a table had at a place, and that were added by a
-- command that may have had a default. In the file that a table was created with, the default is
-- still in the catalog.
CREATE FUNCTION _bemi.as_of_unknown_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT attnum smallint)
	RETURNS SETOF smallint
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum FROM pg_class r
			JOIN pg_attribute a ON a.attrelid = r.oid
			JOIN pg_type t ON t.oid = a.atttypid
		WHERE r.oid = target AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
			AND (r.relkind <> 'r' OR r.relfilenode <> r.oid)
			AND EXISTS (SELECT FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.relation = target AND c.before IS NOT NULL
					AND a.attnum IN (SELECT (e -> 0)::smallint
						FROM jsonb_array_elements(c.after -> 'columns') e)
					AND a.attnum NOT IN (SELECT (e -> 0)::smallint
						FROM jsonb_array_elements(c.before -> 'columns') e)
					-- Text without the word has no default, except that of a domain.
					AND NOT coalesce(c.command = 'ALTER TABLE' AND t.typtype <> 'd'
						AND c.statement ~* '^\s*alter\s' AND c.statement !~* 'default', false))
			AND a.attnum NOT IN (SELECT s.attnum
				FROM _bemi.as_of_added_columns(target, source_name, first_id, at) s)
$$;
COMMENT ON FUNCTION _bemi.as_of_unknown_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns of a table that were added before a place in commit order, perhaps with '
		'a default that the catalog has no longer';
REVOKE ALL ON FUNCTION _bemi.as_of_unknown_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, for the same reason.
CREATE FUNCTION _bemi.as_of_ignored_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT attnum smallint)
	RETURNS SETOF smallint
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT DISTINCT u.attnum FROM (
			SELECT a.attnum, a.attname, _bemi.rules(target) FROM pg_attribute a
				WHERE a.attrelid = target AND a.attnum > 0 AND NOT a.attisdropped
			UNION ALL
			SELECT (c ->> 0)::smallint, c ->> 1, s.state -> 'rules'
				FROM _bemi.as_of_states(target, source_name, first_id, at) s,
					jsonb_array_elements(s.state -> 'columns') c
		) u(attnum, name, rules), jsonb_array_elements_text(nullif(u.rules -> 'ignore', 'null')) r
		WHERE r = u.name OR r LIKE '%*' AND starts_with(u.name, left(r, -1))
$$;
COMMENT ON FUNCTION _bemi.as_of_ignored_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns of a table that a rule ignores, or has ignored since a place in commit '
		'order';
REVOKE ALL ON FUNCTION _bemi.as_of_ignored_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

CREATE FUNCTION bemi.as_of(target anyelement, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false,
		timeout interval DEFAULT '10 seconds')
	RETURNS SETOF anyelement
	AS 'MODULE_PATHNAME', 'bemi_as_of'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.as_of(anyelement, timestamptz, uuid, pg_lsn, boolean, interval)
	IS 'rows of a table as they were at a time, at a position in the WAL, or before a change';
REVOKE ALL ON FUNCTION bemi.as_of(anyelement, timestamptz, uuid, pg_lsn, boolean, interval)
	FROM PUBLIC;

CREATE FUNCTION bemi.row_as_of(target anyelement, key text, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false,
		timeout interval DEFAULT '10 seconds')
	RETURNS SETOF anyelement
	AS 'MODULE_PATHNAME', 'bemi_row_as_of'
	LANGUAGE C STABLE PARALLEL UNSAFE ROWS 1;
COMMENT ON FUNCTION bemi.row_as_of(anyelement, text, timestamptz, uuid, pg_lsn, boolean, interval)
	IS 'one row of a table as it was at a time, at a position in the WAL, or before a change';
REVOKE ALL ON FUNCTION bemi.row_as_of(anyelement, text, timestamptz, uuid, pg_lsn, boolean,
	interval)
	FROM PUBLIC;

--
-- The past of a table from the history alone
--

-- Where reading can begin: with the rows of a baseline, or with no rows after a TRUNCATE. A
-- baseline of a later time can have a lower id than the first change after a time. Then
-- changes that were not tracked can be between both.
CREATE FUNCTION _bemi.base_of_past(source_name text, schema_name text, table_name text,
		end_id uuid, until timestamptz, OUT id uuid, OUT at timestamptz, OUT is_baseline boolean,
		OUT key_names text[])
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.id, u.at, u.is_baseline, u.key_names FROM (
			(SELECT b.id, b.taken_at, true, b.key_columns FROM bemi.baselines b
				WHERE b.source = source_name AND b.schema = schema_name AND b."table" = table_name
					AND b.id < end_id AND (b.taken_at <= until) IS NOT FALSE
				ORDER BY b.id DESC LIMIT 1)
			UNION ALL
			(SELECT c.id, c.committed_at, false, NULL FROM bemi.changes c
				WHERE c."table" = table_name AND c.primary_key IS NULL AND c.schema = schema_name
					AND c.source = source_name AND c.operation = 'TRUNCATE' AND c.id < end_id
				ORDER BY c.id DESC LIMIT 1)
		) u(id, at, is_baseline, key_names)
		ORDER BY u.id DESC LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.base_of_past(text, text, text, uuid, timestamptz)
	IS 'internal: last baseline or TRUNCATE of a table before an id, and up to a time if it is not '
		'NULL';
REVOKE ALL ON FUNCTION _bemi.base_of_past(text, text, text, uuid, timestamptz) FROM PUBLIC;

-- As the owner, because nobody else can read what sources report. The schema history has the key of
-- then: the table may have got another one since, or may no longer be tracked. {}: the table has no
-- key, NULL: it is not known. A state without columns is of a description that was too long for a
-- message. Sources whose messages cannot be verified report only to the worker.
CREATE FUNCTION _bemi.source_key(source_name text, schema_name text, table_name text, end_id uuid)
	RETURNS text[]
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT jsonb_array_elements_text(k.names)) FROM (
			(SELECT c.after -> 'key', c.after -> 'columns' <> '[]', 1
				FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.after ->> 'schema' = schema_name
					AND c.after ->> 'table' = table_name AND c.id < end_id
				ORDER BY c.id DESC LIMIT 1)
			UNION ALL
			(SELECT c.before -> 'key', c.before -> 'columns' <> '[]', 2
				FROM _bemi.schema_changes c
				WHERE c.source = source_name AND c.before ->> 'schema' = schema_name
					AND c.before ->> 'table' = table_name AND c.id >= end_id
				ORDER BY c.id LIMIT 1)
			UNION ALL
			SELECT r.description -> 'key', true, 3
				FROM _bemi.source_tables t JOIN _bemi.source_relations r USING (source, relation)
				WHERE t.source = source_name AND t.schema = schema_name AND t."table" = table_name
			UNION ALL
			(SELECT to_jsonb(b.key_columns), true, 4 FROM bemi.baselines b
				WHERE b.source = source_name AND b.schema = schema_name
					AND b."table" = table_name
				ORDER BY b.id DESC LIMIT 1)
		) k(names, is_known, place)
		WHERE k.is_known AND jsonb_typeof(k.names) = 'array'
		ORDER BY k.place LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.source_key(text, text, text, uuid)
	IS 'internal: columns of the primary key of a table of a source, as described last before an '
		'id';
REVOKE ALL ON FUNCTION _bemi.source_key(text, text, text, uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.key_of_past(key_names text[], image jsonb, change_id uuid)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT image ?& key_names THEN
		RAISE EXCEPTION 'row of change % lacks a column of the primary key', change_id
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('The key is (%s), and the row is %s.',
					array_to_string(key_names, ', '), left(image::text, 200)),
				HINT = 'The key was changed or renamed since. A baseline after that has it.';
	ELSIF EXISTS (SELECT FROM unnest(key_names) k WHERE image ->> k = '[redacted]') THEN
		RAISE EXCEPTION 'row of change % has a redacted primary key', change_id
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'Changes of different rows cannot be told apart.',
				HINT = 'Use redact_hash instead of redact for a key.';
	END IF;
	RETURN (SELECT jsonb_agg(image -> k ORDER BY n)
		FROM unnest(key_names) WITH ORDINALITY u(k, n));
END
$$;
COMMENT ON FUNCTION _bemi.key_of_past(text[], jsonb, uuid)
	IS 'internal: values of the primary key in a row of the history; error if it has none';
REVOKE ALL ON FUNCTION _bemi.key_of_past(text[], jsonb, uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.wrong_key_of_past(key jsonb)
	RETURNS jsonb
	LANGUAGE plpgsql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'rows with the key % cannot be told apart', key
		USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = 'Several rows have had it at once, and their changes do not tell which of '
				'them is left.',
			HINT = 'A baseline after these changes has it.';
END
$$;
COMMENT ON FUNCTION _bemi.wrong_key_of_past(jsonb)
	IS 'internal: error if neither the key nor the changes identify the rows';
REVOKE ALL ON FUNCTION _bemi.wrong_key_of_past(jsonb) FROM PUBLIC;

-- What the changes between two ids lead to, beginning with the rows of a baseline or with none.
--
-- With a key, the last change of it has the row. But several rows can have one key: in the middle
-- of a transaction if it is deferrable, or since the table has got another key. Then the number of
-- rows with the key and the last change disagree, and equal rows of these keys are counted. In a
-- table without a key, all are.
CREATE FUNCTION _bemi.replay(source_name text, schema_name text, table_name text, key_names text[],
		base_id uuid, base_at timestamptz, end_id uuid, allow_gaps boolean)
	RETURNS SETOF jsonb
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	wrong jsonb;
BEGIN
	IF key_names <> '{}' THEN
		RETURN QUERY WITH change AS (
				SELECT c.id, c.operation, c.before, c.after FROM bemi.changes c
					WHERE c."table" = table_name AND c.schema = schema_name
						AND c.source = source_name AND c.id > base_id AND c.id < end_id
						AND c.operation <> 'TRUNCATE'
						AND (c.operation <> 'SNAPSHOT' OR c.committed_at = base_at)
			), moved AS (
				SELECT c.*, c.operation <> 'UPDATE' OR c.before ?| key_names AND EXISTS (
						SELECT FROM unnest(key_names) k
							WHERE c.before -> k IS DISTINCT FROM c.after -> k) AS is_moved
					FROM change c
			), touched AS (
				SELECT c.id, _bemi.key_of_past(key_names, c.after, c.id) AS key, c.after AS image,
						c.is_moved::integer AS added
					FROM moved c WHERE c.after <> '{}'
				UNION ALL
				SELECT c.id, _bemi.key_of_past(key_names, c.before, c.id), NULL, -1
					FROM moved c WHERE c.before ?| key_names AND c.is_moved
			), last AS MATERIALIZED (
				SELECT t.key, t.image, t.n, allow_gaps OR t.n = (t.image IS NOT NULL)::integer
						AS is_clear
					FROM (SELECT u.key, u.image, lead(u.id) OVER w IS NULL AS is_last,
							sum(u.added) OVER (PARTITION BY u.key) AS n
						FROM touched u WINDOW w AS (PARTITION BY u.key ORDER BY u.id)) t
					WHERE t.is_last
			), copies AS (
				SELECT i.key, i.image, sum(i.n) AS n FROM (
						SELECT _bemi.key_of_past(key_names, x.image, c.id), x.image::text, x.n
							FROM change c, LATERAL (VALUES (c.before, -1), (c.after, 1)) x(image, n)
							WHERE x.image ?& key_names AND EXISTS (
								SELECT FROM last l WHERE NOT l.is_clear)
					) i(key, image, n)
					WHERE i.key IN (SELECT l.key FROM last l WHERE NOT l.is_clear)
					GROUP BY i.key, i.image HAVING sum(i.n) <> 0
			), counted AS (
				SELECT c.image, c.n, l.key, sum(c.n) OVER w IS DISTINCT FROM l.n
						OR min(c.n) OVER w < 0 AS is_wrong
					FROM last l LEFT JOIN copies c ON c.key = l.key
					WHERE NOT l.is_clear AND (l.n <> 0 OR c.key IS NOT NULL)
					WINDOW w AS (PARTITION BY l.key)
			)
			SELECT l.image FROM last l WHERE l.is_clear AND l.image IS NOT NULL
			UNION ALL
			SELECT CASE WHEN c.is_wrong THEN _bemi.wrong_key_of_past(c.key) ELSE c.image::jsonb END
				FROM counted c, generate_series(1, CASE WHEN c.is_wrong THEN 1 ELSE c.n END);
		RETURN;
	END IF;
	SELECT r.image INTO wrong FROM _bemi.replay_copies(source_name, schema_name, table_name,
		base_id, base_at, end_id) r WHERE r.n < 0 AND NOT allow_gaps LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'the history of %.% removes a row that is not there', schema_name,
				table_name
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('The table has no primary key. The row is %s, or one with other '
					'columns.', left(wrong::text, 200));
	END IF;
	RETURN QUERY SELECT r.image FROM _bemi.replay_copies(source_name, schema_name, table_name,
		base_id, base_at, end_id) r, generate_series(1, r.n);
END
$$;
COMMENT ON FUNCTION _bemi.replay(text, text, text, text[], uuid, timestamptz, uuid, boolean)
	IS 'internal: rows of a table at an id, from a baseline and the changes after it';
REVOKE ALL ON FUNCTION _bemi.replay(text, text, text, text[], uuid, timestamptz, uuid, boolean)
	FROM PUBLIC;

-- As text, because jsonb calls 1.5 and 1.50 equal.
CREATE FUNCTION _bemi.replay_counts(source_name text, schema_name text, table_name text,
		base_id uuid, base_at timestamptz, end_id uuid, OUT image jsonb, OUT n bigint)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.image::text::jsonb, sum(u.n) FROM bemi.changes c,
			LATERAL (VALUES (c.before, -1), (c.after, 1)) u(image, n)
		WHERE c."table" = table_name AND c.schema = schema_name AND c.source = source_name
			AND c.id > base_id AND c.id < end_id AND c.operation <> 'TRUNCATE'
			AND (c.operation <> 'SNAPSHOT' OR c.committed_at = base_at)
			AND u.image <> '{}'
		GROUP BY u.image::text HAVING sum(u.n) <> 0
$$;
COMMENT ON FUNCTION _bemi.replay_counts(text, text, text, uuid, timestamptz, uuid)
	IS 'internal: for tables without a primary key: rows, and how many of each there are';
REVOKE ALL ON FUNCTION _bemi.replay_counts(text, text, text, uuid, timestamptz, uuid) FROM PUBLIC;

-- If columns were added, dropped or renamed, a row is removed with other columns than it was added
-- with. Then it is one of the rows that are equal in the columns that all have. If these are all
-- the same, it does not matter which. Otherwise n is negative.
CREATE FUNCTION _bemi.replay_copies(source_name text, schema_name text, table_name text,
		base_id uuid, base_at timestamptz, end_id uuid, OUT image jsonb, OUT n bigint)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH counts AS MATERIALIZED (
		SELECT c.image, c.n FROM _bemi.replay_counts(source_name, schema_name, table_name, base_id,
			base_at, end_id) c
	), common AS MATERIALIZED (
		SELECT ARRAY(SELECT k FROM counts c, jsonb_object_keys(c.image) k
			WHERE EXISTS (SELECT FROM counts w WHERE w.n < 0)
			GROUP BY k HAVING count(*) = (SELECT count(*) FROM counts)) AS names
	), grouped AS (
		SELECT c.image, c.n, sum(c.n) OVER w AS remaining, min(c.n) OVER w < 0 AS has_removed,
				count(*) FILTER (WHERE c.n > 0) OVER w AS different
			FROM counts c, common m
			WINDOW w AS (PARTITION BY CASE WHEN m.names = '{}' THEN c.image::text
				ELSE (SELECT jsonb_object_agg(e.key, e.value)::text FROM jsonb_each(c.image) e
					WHERE e.key = ANY (m.names)) END)
	)
	SELECT g.image, CASE WHEN NOT g.has_removed THEN g.n
			WHEN g.remaining = 0 OR g.remaining > 0 AND g.different = 1 THEN g.remaining
			ELSE least(g.n, -1) END
		FROM grouped g
		WHERE g.n > 0 OR g.remaining < 0
$$;
COMMENT ON FUNCTION _bemi.replay_copies(text, text, text, uuid, timestamptz, uuid)
	IS 'internal: the same if columns were added, dropped or renamed';
REVOKE ALL ON FUNCTION _bemi.replay_copies(text, text, text, uuid, timestamptz, uuid) FROM PUBLIC;

-- The first id that does not belong to the past, and the time up to which all must be stored.
CREATE FUNCTION _bemi.end_of_past(source_name text, at timestamptz, before uuid,
		OUT id uuid, OUT until timestamptz)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
	IF before IS NULL THEN
		-- In commit order and not in time order, because a clock may have been set back. A SNAPSHOT
		-- is no commit, and the past must not end within a baseline.
		id := (SELECT c.id FROM bemi.changes c
			WHERE c.source = source_name AND c.committed_at > at AND c.operation <> 'SNAPSHOT'
			ORDER BY c.id LIMIT 1);
		id := coalesce(id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
		until := at;
		RETURN;
	END IF;
	SELECT c.id, c.committed_at INTO id, until FROM bemi.schema_changes c
		WHERE c.source = source_name AND c.id = before LIMIT 1;
	IF NOT FOUND THEN
		SELECT f.id, f.committed_at INTO id, until FROM _bemi.find_change(before) f
			WHERE f.source = source_name AND f.operation <> 'SNAPSHOT';
	END IF;
	IF id IS NULL THEN
		RAISE EXCEPTION 'change "%" is not a change of source "%"', before, source_name
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'It is of another source, or a row of a baseline.';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.end_of_past(text, timestamptz, uuid)
	IS 'internal: first change, in commit order, after the longest prefix of the commits with '
		'times up to this one; or this change';
REVOKE ALL ON FUNCTION _bemi.end_of_past(text, timestamptz, uuid) FROM PUBLIC;

-- As the owner, because nobody else can read gaps. Gaps are compared by time, as in
-- bemi.source_completeness(), and also by position, because a clock may have been set back. A
-- gap counts if it ends after the base or is within its commit, and begins before the end. In
-- the commit of the end, the schema change with which it begins must be before the end. If the
-- end is a time, a change that is read must follow the begin, because a gap that begins after
-- this time can have a position before the end. Or the tracking has ended at this time, by a
-- transaction that may have made changes after that. Positions of another server, or from
-- before a restore, tell nothing.
CREATE FUNCTION _bemi.gap_of_past(source_name text, schema_name text, table_name text,
		base_id uuid, base_at timestamptz, end_id uuid, until timestamptz, ends_by_time boolean,
		OUT reason text, OUT detail text, OUT missing_from timestamptz, OUT missing_to timestamptz)
	LANGUAGE sql VOLATILE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.reason, u.detail, u.missing_from, u.missing_to FROM (
			SELECT c.reason, c.detail, c.missing_from, c.missing_to
				FROM bemi.source_completeness(source_name, schema_name, table_name,
					least(coalesce(base_at, '-infinity'), until), until) c
				WHERE NOT c.complete
			UNION ALL
			SELECT g.reason, g.detail, g.from_time, g.to_time FROM bemi.gaps g
				WHERE (g.source = source_name OR g.source IS NULL)
					AND (g."table" IS NULL OR g.schema = schema_name AND g."table" = table_name)
					AND (g.from_lsn < _bemi.lsn_of_id(end_id)
						OR g.from_lsn = _bemi.lsn_of_id(end_id) AND EXISTS (
							SELECT FROM _bemi.schema_changes c
								WHERE c.source = source_name
									AND c.before ->> 'schema' = schema_name
									AND c.before ->> 'table' = table_name
									AND c.id >= _bemi.first_id_at(g.from_lsn) AND c.id < end_id))
					AND (coalesce(g.to_lsn > _bemi.lsn_of_id(base_id), g.to_time IS NULL)
						OR g.to_lsn = _bemi.lsn_of_id(base_id)
							AND (g.reason = 'rows_changed_by_ddl' OR g.from_lsn = g.to_lsn))
					AND NOT EXISTS (SELECT FROM bemi.gaps s
						WHERE s.source = source_name AND s.reason IN ('server_changed',
							'history_moved', 'timeline_changed', 'source_went_back')
							AND (s.id > g.id OR coalesce(s.to_time, 'infinity') > base_at))
					AND (NOT ends_by_time OR g.reason = 'tracking_ended' AND g.from_time = until
						OR EXISTS (SELECT FROM bemi.changes c
							WHERE c."table" = table_name AND c.schema = schema_name
								AND c.source = source_name AND c.id < end_id
								AND c.id > _bemi.first_id_at(g.from_lsn + 1)))
		) u LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.gap_of_past(text, text, text, uuid, timestamptz, uuid, timestamptz,
	boolean)
	IS 'internal: the first gap of a table between a base and a place; NULL if there is none';
REVOKE ALL ON FUNCTION _bemi.gap_of_past(text, text, text, uuid, timestamptz, uuid, timestamptz,
	boolean) FROM PUBLIC;

CREATE FUNCTION bemi.source_as_of_json(source_name text, schema_name text, table_name text,
		at timestamptz DEFAULT NULL, before uuid DEFAULT NULL, allow_gaps boolean DEFAULT false)
	RETURNS SETOF jsonb
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	last record;
	base record;
	gap record;
	key_names text[];
BEGIN
	IF num_nulls(source_name, schema_name, table_name) > 0 THEN
		RAISE EXCEPTION 'source and table must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF num_nonnulls(at, before) <> 1 THEN
		RAISE EXCEPTION 'either a time or a change must be given'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
		-- What is stored is known as of now, and the changes would be those of an old snapshot.
		RAISE EXCEPTION 'the history alone can be read in READ COMMITTED only'
			USING ERRCODE = 'feature_not_supported',
				DETAIL = format('The transaction is %s.',
					upper(current_setting('transaction_isolation')));
	ELSIF row_security_active('bemi.changes'::regclass) THEN
		RAISE EXCEPTION 'cannot read the past of %.%', schema_name, table_name
			USING ERRCODE = 'feature_not_supported',
				DETAIL = 'The row security of bemi.changes applies to you.',
				HINT = format('Read it as a role to which it does not apply. A superuser can make '
					'this one such a role: ALTER ROLE %I BYPASSRLS;', current_user);
	END IF;
	allow_gaps := coalesce(allow_gaps, false);
	SELECT e.* INTO last FROM _bemi.end_of_past(source_name, at, before) e;
	SELECT b.* INTO base
		FROM _bemi.base_of_past(source_name, schema_name, table_name, last.id,
			source_as_of_json.at) b;
	IF base.id IS NULL AND NOT allow_gaps THEN
		RAISE EXCEPTION 'the rows that %.% had before its tracking are not known', schema_name,
				table_name
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'There is no baseline and no TRUNCATE of the table before this time.',
				HINT = format('For the time from now on: CALL bemi.baseline(%L, %L);', source_name,
					format('%I.%I', schema_name, table_name));
	END IF;
	SELECT g.* INTO gap FROM _bemi.gap_of_past(source_name, schema_name, table_name, base.id,
		base.at, last.id, last.until, at IS NOT NULL) g WHERE NOT allow_gaps;
	IF gap.reason IS NOT NULL THEN
		RAISE EXCEPTION 'the history of %.% is not complete from % to %', schema_name, table_name,
				base.at, last.until
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('%s (from %s to %s): %s', gap.reason, gap.missing_from,
					coalesce(gap.missing_to::text, 'now'), gap.detail),
				HINT = 'With allow_gaps => true, the result can be wrong.';
	END IF;
	key_names := coalesce(base.key_names,
		_bemi.source_key(source_name, schema_name, table_name, last.id));
	IF key_names IS NULL THEN
		RAISE EXCEPTION 'the primary key of %.% is not known', schema_name, table_name
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = format('Source "%s" does not track the table, or has not described it '
					'yet.', source_name);
	END IF;
	-- The end is looked up again, because changes may have been stored since. None of them belongs
	-- to the past, or it would not have been complete.
	SELECT e.* INTO last FROM _bemi.end_of_past(source_name, at, before) e;
	RETURN QUERY SELECT r.* FROM _bemi.replay(source_name, schema_name, table_name, key_names,
		coalesce(base.id, '00000000-0000-0000-0000-000000000000'),
		CASE WHEN base.is_baseline THEN base.at END, last.id, allow_gaps) r;
END
$$;
COMMENT ON FUNCTION bemi.source_as_of_json(text, text, text, timestamptz, uuid, boolean)
	IS 'rows of a table of any source as they were at a time, or before a change, from the history '
		'alone; it needs a baseline or a TRUNCATE before that';
REVOKE ALL ON FUNCTION bemi.source_as_of_json(text, text, text, timestamptz, uuid, boolean)
	FROM PUBLIC;

--
-- The past of a table of this database, with columns that were dropped since
--

-- As the owner, because nobody else can read what is known of tables. A column is shown under its
-- name, or one that says that it was dropped if another column has the name today. first_id is that
-- of a row's change, so columns may have been dropped between the time and it. Names can move to
-- other columns. So a row of the history counts only if it was written between a from_id and its
-- to_id: there these names, and those of the key, belong to the same columns.
CREATE FUNCTION _bemi.dropped_columns(target regclass, source_name text, first_id uuid,
		at timestamptz, OUT names text[], OUT shown text[], OUT from_ids uuid[],
		OUT to_ids uuid[], OUT complete_since timestamptz, OUT complete_since_id uuid)
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH state AS MATERIALIZED (
		SELECT s.* FROM _bemi.table_states(ARRAY[source_name], target, _bemi.this_server()) s
	), dropped(number, name) AS MATERIALIZED (
		SELECT (c ->> 0)::integer, c ->> 1
			FROM (SELECT s.state FROM state s
					WHERE s.from_id IS NULL OR s.from_id < least(first_id,
						(SELECT min(c.id::text)::uuid FROM _bemi.schema_changes c
							WHERE c.source = source_name AND c.committed_at > at))
					ORDER BY s.from_id DESC NULLS LAST LIMIT 1) s,
				jsonb_array_elements(s.state -> 'columns') c
			WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target
				AND a.attnum = (c ->> 0)::integer AND NOT a.attisdropped)
	), needed(number, name) AS (
		SELECT d.number, d.name FROM dropped d
		UNION ALL
		SELECT a.attnum, a.attname FROM _bemi.key_columns(target) k
			JOIN pg_attribute a ON a.attrelid = target AND a.attname = ANY (k.names)
	), range AS (
		SELECT s.from_id, s.to_id FROM state s
			WHERE NOT EXISTS (SELECT FROM needed n
				WHERE NOT EXISTS (SELECT FROM jsonb_array_elements(s.state -> 'columns') c
					WHERE (c ->> 0)::integer = n.number AND c ->> 1 = n.name))
	), gap AS (
		SELECT g.* FROM bemi.gaps g
			WHERE (g.source = source_name OR g.source IS NULL) AND (g.from_time < at) IS NOT FALSE
				AND (g."table" IS NULL OR (g.schema, g."table") IN
					(SELECT s.state ->> 'schema', s.state ->> 'table' FROM state s))
	)
	SELECT ARRAY(SELECT d.name FROM dropped d ORDER BY d.name),
		ARRAY(SELECT d.name || CASE WHEN EXISTS (SELECT FROM pg_attribute a
					WHERE a.attrelid = target AND a.attname = d.name AND a.attnum > 0
						AND NOT a.attisdropped) THEN ' (dropped)' ELSE '' END
			FROM dropped d ORDER BY d.name),
		ARRAY(SELECT r.from_id FROM range r ORDER BY r.from_id),
		ARRAY(SELECT r.to_id FROM range r ORDER BY r.from_id),
		(SELECT max(g.to_time) FROM gap g),
		-- A clock may have been set back. Positions of another server tell nothing.
		(SELECT _bemi.first_id_at(max(g.to_lsn)) FROM gap g WHERE NOT EXISTS (
			SELECT FROM bemi.gaps s WHERE s.source = source_name AND s.id > g.id
				AND s.reason IN ('server_changed', 'history_moved', 'timeline_changed',
					'source_went_back')))
$$;
COMMENT ON FUNCTION _bemi.dropped_columns(regclass, text, uuid, timestamptz)
	IS 'internal: columns that a table had at an id and has no more, under which names '
		'bemi.as_of_json() returns them, and which changes have them';
REVOKE ALL ON FUNCTION _bemi.dropped_columns(regclass, text, uuid, timestamptz) FROM PUBLIC;

CREATE FUNCTION _bemi.no_dropped_value(target text, version jsonb, dropped text[])
	RETURNS jsonb
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the history has no value of dropped column % for a row of %', dropped[1],
			target
		USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = format('The row was not written between the last gap of its history and that '
				'time, or a column was renamed. It is %s.', left(version::text, 200)),
			HINT = 'With allow_gaps => true, such rows lack the column.';
END
$$;
COMMENT ON FUNCTION _bemi.no_dropped_value(text, jsonb, text[])
	IS 'internal: error if bemi.as_of_json() does not find the value of a dropped column';
REVOKE ALL ON FUNCTION _bemi.no_dropped_value(text, jsonb, text[]) FROM PUBLIC;

CREATE FUNCTION _bemi.json_members(object text, names text[])
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format('%s -> %L', object, n), ', ') FROM unnest(names) n
$$;
COMMENT ON FUNCTION _bemi.json_members(text, text[])
	IS 'internal: SQL expressions of members of an object';
REVOKE ALL ON FUNCTION _bemi.json_members(text, text[]) FROM PUBLIC;

-- Rows, and images of rows that were changed since, are in bemi_rows. An image lacks a column that
-- was dropped before the row was changed. Then the last change before that time has the value,
-- unless there is a gap between the two. NULL: no column was dropped.
CREATE FUNCTION _bemi.query_of_json(target regclass, source_name text, schema_name text,
		table_name text, first_id uuid, at timestamptz, allow_gaps boolean)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET quote_all_identifiers = off
AS $$
DECLARE
	dropped record;
	members text;
	counts text;
	key text[] := (SELECT k.names FROM _bemi.key_columns(target) k);
BEGIN
	SELECT d.* INTO dropped FROM _bemi.dropped_columns(target, source_name, first_id, at) d;
	IF dropped.names = '{}' THEN
		RETURN NULL;
	END IF;
	members := (SELECT string_agg(format('%L, x.image -> %L', u.shown, u.name), ', ')
		FROM unnest(dropped.names, dropped.shown) u(name, shown));
	counts := format('r.image ?& %L::text[] AND EXISTS ('
		'SELECT FROM unnest(%L::uuid[], %L::uuid[]) u(from_id, to_id) '
		'WHERE (r.id >= u.from_id) IS NOT FALSE AND (r.id < u.to_id) IS NOT FALSE)',
		dropped.names, dropped.from_ids, dropped.to_ids);
	RETURN format($query$
		WITH image AS MATERIALIZED (
			SELECT r.image FROM bemi_rows r WHERE %1$s
		), last AS MATERIALIZED (
			SELECT r.image FROM (
					SELECT DISTINCT ON (c.primary_key) c.id, c.after AS image, c.committed_at
						FROM bemi.changes c
						WHERE c."table" = %2$L AND c.schema = %3$L AND c.source = %4$L
							AND c.id < %5$L AND c.primary_key IS NOT NULL
						ORDER BY c.primary_key, c.id DESC
				) r
				WHERE (%7$L::boolean OR (r.committed_at < %12$L::timestamptz
					OR r.id < %14$L::uuid) IS NOT TRUE) AND %1$s
		)
		SELECT r.version || CASE WHEN x.image IS NOT NULL THEN jsonb_build_object(%6$s)
				WHEN %7$L::boolean THEN '{}' ELSE _bemi.no_dropped_value(%8$L, r.version, %13$L) END
			FROM bemi_rows r
				LEFT JOIN image i ON jsonb_build_array(%9$s) = jsonb_build_array(%10$s)
				LEFT JOIN last l ON i.image IS NULL
					AND jsonb_build_array(%9$s) = jsonb_build_array(%11$s)
				CROSS JOIN LATERAL (SELECT coalesce(i.image, l.image)) x(image)
			WHERE r.version IS NOT NULL $query$,
		counts, table_name, schema_name, source_name, first_id, members, allow_gaps, target,
		_bemi.json_members('r.version', key), _bemi.json_members('i.image', key),
		_bemi.json_members('l.image', key), dropped.complete_since, dropped.names,
		dropped.complete_since_id);
END
$$;
COMMENT ON FUNCTION _bemi.query_of_json(regclass, text, text, text, uuid, timestamptz, boolean)
	IS 'internal: query of bemi.as_of_json(): JSON of the rows that were read, with columns that '
		'were dropped since';
REVOKE ALL ON FUNCTION _bemi.query_of_json(regclass, text, text, text, uuid, timestamptz, boolean)
	FROM PUBLIC;

CREATE FUNCTION bemi.as_of_json(target regclass, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false,
		timeout interval DEFAULT '10 seconds')
	RETURNS SETOF jsonb
	AS 'MODULE_PATHNAME', 'bemi_as_of_json'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.as_of_json(regclass, timestamptz, uuid, pg_lsn, boolean, interval)
	IS 'rows of a table as they were, as jsonb, with the columns that were dropped since';
REVOKE ALL ON FUNCTION bemi.as_of_json(regclass, timestamptz, uuid, pg_lsn, boolean, interval)
	FROM PUBLIC;

--
-- Rows of a table as they are now, for a history that must do without the table
--

-- As the owner, because nobody else can read which sources there are. The table is named as at the
-- source, and is found by its OID there.
CREATE FUNCTION _bemi.find_copied_table(source text, table_name text, caller name,
		OUT conninfo text, OUT server text, OUT relation bigint)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	parts text[] := parse_ident(table_name);
	candidates text[];
BEGIN
	PERFORM _bemi.check_controller(source, NULL, caller, 'bemi.baseline');
	SELECT s.conninfo INTO conninfo FROM bemi.sources s
		WHERE s.name = source AND s.slot_made
			AND pg_replication_origin_oid(_bemi.origin_of(s.name)) IS NOT NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'source "%" does not exist, or was never started', source
			USING ERRCODE = 'undefined_object',
				HINT = 'SELECT source, state FROM bemi.status; lists the sources.';
	END IF;
	SELECT array_agg(format('%I.%I', t.schema, t."table") ORDER BY t.schema, t."table"),
			min(t.server), min(t.relation::bigint)
		INTO candidates, server, relation
		FROM _bemi.source_tables t
		WHERE t.source = find_copied_table.source AND t."table" = parts[cardinality(parts)]
			AND (cardinality(parts) = 1 OR cardinality(parts) = 2 AND t.schema = parts[1]);
	IF candidates IS NULL THEN
		RAISE EXCEPTION 'source "%" does not track a table %', source, table_name
			USING ERRCODE = 'undefined_table',
				DETAIL = 'Its changes would not be stored, so its rows would soon be out of date.',
				HINT = format('In the source''s database: SELECT bemi.track(%L);', table_name);
	ELSIF cardinality(candidates) > 1 THEN
		RAISE EXCEPTION 'source "%" tracks several tables %', source, table_name
			USING ERRCODE = 'ambiguous_alias',
				HINT = format('CALL bemi.baseline(%L, %L);', source, candidates[1]);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.find_copied_table(text, text, name)
	IS 'internal: for bemi.baseline(): connection string and server of a source, and the OID of a '
		'table there; error unless the role may control the source';
REVOKE ALL ON FUNCTION _bemi.find_copied_table(text, text, name) FROM PUBLIC;

CREATE PROCEDURE bemi.baseline(source text, table_name text)
	AS 'MODULE_PATHNAME', 'bemi_baseline'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.baseline(text, text)
	IS 'stores the present rows of a tracked table as changes of operation SNAPSHOT, so that its '
		'past can be read from the history alone; bemi.baselines lists the calls';
REVOKE ALL ON PROCEDURE bemi.baseline(text, text) FROM PUBLIC;

--
-- Changes of many rows
--

-- The name that a column of today had, by "columns" of _bemi.table_names(); NULL: it did not exist.
CREATE FUNCTION _bemi.former_column(name text, columns jsonb)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN columns IS NULL THEN name
		ELSE coalesce((SELECT c.key FROM jsonb_each_text(columns) c
				WHERE coalesce(c.value, c.key || ' (dropped)') = name LIMIT 1),
			CASE WHEN NOT columns ? name THEN name END) END
$$;
COMMENT ON FUNCTION _bemi.former_column(text, jsonb)
	IS 'internal: the name that a column of today had at the time of these names';
REVOKE ALL ON FUNCTION _bemi.former_column(text, jsonb) FROM PUBLIC;

-- As the owner, because nobody else can read what is known of tables. A dropped column has its last
-- name, with " (dropped)" if another column has that today. Tables that were restored have other
-- OIDs, and the same names.
CREATE FUNCTION _bemi.column_of_today(name text, sources text[], relation regclass,
		schema_today text, table_today text)
	RETURNS text
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN EXISTS (SELECT FROM pg_attribute a
			WHERE a.attrelid = column_of_today.relation AND a.attname = name
				AND a.attnum > 0 AND NOT a.attisdropped)
		THEN name
		ELSE coalesce((SELECT t.columns ->> name
				FROM _bemi.table_names(sources, relation, schema_today, table_today)
						WITH ORDINALITY t
				WHERE t.columns ? name ORDER BY t.ordinality LIMIT 1),
			(SELECT name WHERE EXISTS (SELECT
				FROM _bemi.table_names(sources, relation, schema_today, table_today) t,
					jsonb_each_text(t.columns) n
				WHERE n.value IS NULL AND n.key || ' (dropped)' = name)),
			(SELECT name WHERE EXISTS (SELECT
				FROM _bemi.schema_changes c, LATERAL (VALUES (c.before), (c.after)) s(state),
					jsonb_array_elements(s.state -> 'columns') e
				WHERE c.source = ANY (sources) AND e ->> 1 = name
					AND (c.relation = column_of_today.relation
						OR (s.state ->> 'schema', s.state ->> 'table') IN (
							SELECT t.schema_name, t.table_name
								FROM _bemi.table_names(sources, column_of_today.relation,
									schema_today, table_today) t))))) END
$$;
COMMENT ON FUNCTION _bemi.column_of_today(text, text[], regclass, text, text)
	IS 'internal: the name of today of the column that has or had this name; NULL: none had it';
REVOKE ALL ON FUNCTION _bemi.column_of_today(text, text[], regclass, text, text) FROM PUBLIC;

-- A table was called by one name after the other, so the changes under each name come after those
-- under the next one. A page continues under the name of its cursor, in the order of this name. If
-- the cursor is a change of another table, it is a place in the order of all.
CREATE FUNCTION bemi.find_changes(target regclass DEFAULT NULL, operation text DEFAULT NULL,
		column_name name DEFAULT NULL, context jsonb DEFAULT NULL,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL,
		source_name text DEFAULT NULL, newest integer DEFAULT 100, before_id uuid DEFAULT NULL,
		context_is jsonb DEFAULT NULL)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	table_sources text[];
	sources text[];
	relation regclass;
	its_schema text;
	its_table text;
	known boolean := true;
	column_today text := column_name;
	operations text[] := regexp_split_to_array(btrim(operation), '\s*,\s*');
	texts jsonb;
	cursor_change bemi.changes;
	cursor_place bigint;		-- of its names, among those of the table
	returned integer := 0;
	n record;
	c bemi.changes;
BEGIN
	PERFORM _bemi.check_page(newest);
	IF NOT operations <@ '{CREATE, UPDATE, DELETE, TRUNCATE, SNAPSHOT}' THEN
		RAISE EXCEPTION 'operation "%" is not valid', operation
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write CREATE, UPDATE, DELETE, TRUNCATE or SNAPSHOT, or several of them '
					'with commas.';
	ELSIF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write it as context => ''{"userId": 42}''.';
	ELSIF jsonb_typeof(context_is) <> 'object' THEN
		RAISE EXCEPTION 'context_is must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'Write it as context_is => ''{"userId": "42"}''.';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;
	texts := (SELECT jsonb_object_agg(t.key, t.value) FROM jsonb_each_text(context_is) t);
	IF target IS NOT NULL THEN
		SELECT h.sources, h.relation, h.schema_name, h.table_name, h.known
			INTO table_sources, relation, its_schema, its_table, known
			FROM _bemi.history_of(target) h;
	END IF;
	IF target IS NOT NULL AND column_name IS NOT NULL THEN
		column_today := _bemi.column_of_today(column_name, table_sources, relation, its_schema,
			its_table);
		IF column_today IS NULL THEN
			RAISE EXCEPTION 'column "%" of table "%" does not exist', column_name, target
				USING ERRCODE = 'undefined_column',
					DETAIL = 'Neither the table nor its schema history has a column of this name.',
					HINT = format('The columns are %s.', (SELECT string_agg(
							quote_literal(a.attname), ', ' ORDER BY a.attnum)
						FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0
							AND NOT a.attisdropped));
		END IF;
	END IF;
	sources := CASE WHEN source_name IS NULL THEN table_sources
		ELSE ARRAY(SELECT source_name WHERE coalesce(source_name = ANY (table_sources), true)) END;
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
		cursor_place := (SELECT m.place FROM _bemi.names_of_change(cursor_change, table_sources,
			relation, its_schema, its_table) m);
	END IF;

	-- Without a table, one row without names.
	FOR n IN SELECT t.*, t.ordinality > cursor_place AS follows
		FROM _bemi.table_names(table_sources, relation, its_schema, its_table)
				WITH ORDINALITY t
		WHERE coalesce(t.ordinality >= cursor_place, true)
			AND (column_today IS NULL
				OR _bemi.former_column(column_today, t.columns) IS NOT NULL)
	LOOP
		-- Between sources on several servers, ids have no order.
		FOR c IN SELECT * FROM _bemi.read_changes(n.schema_name, n.table_name, NULL,
			sources, operations, _bemi.former_column(column_today, n.columns),
			find_changes.context, texts, find_changes.from_time, find_changes.to_time,
			n.from_id, n.to_id,
			CASE WHEN n.follows IS NOT TRUE THEN cursor_change.committed_at END,
			CASE WHEN n.follows IS NOT TRUE THEN cursor_change.id END,
			CASE WHEN sources IS NULL AND _bemi.has_several_sources() THEN 'newest by time'
				ELSE 'newest' END, newest - returned)
		LOOP
			IF n.columns IS NOT NULL THEN
				c.before := _bemi.rename_members(c.before, n.columns);
				c.after := _bemi.rename_members(c.after, n.columns);
			END IF;
			RETURN NEXT c;
			returned := returned + 1;
		END LOOP;
		EXIT WHEN returned = newest;
	END LOOP;

	IF returned = 0 AND NOT known THEN
		PERFORM _bemi.throw_no_history(target);
	END IF;
END
$$;
COMMENT ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz, text,
	integer, uuid, jsonb)
	IS 'changes that meet all of these conditions, newest first; bemi.history() has those of a row';
REVOKE ALL ON FUNCTION bemi.find_changes(regclass, text, name, jsonb, timestamptz, timestamptz,
	text, integer, uuid, jsonb) FROM PUBLIC;

-- By indexes, because a plan over hundreds of partitions takes longer than all else.
CREATE FUNCTION bemi.changes_by_id(change_ids uuid[])
	RETURNS SETOF bemi.changes
	LANGUAGE sql STABLE ROWS 1
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.* FROM (SELECT DISTINCT u.id FROM unnest(change_ids) u(id) WHERE u.id IS NOT NULL) i
		CROSS JOIN LATERAL _bemi.read_changes(from_id => i.id, to_id => i.id, newest => 1) c
		ORDER BY c.id
$$;
COMMENT ON FUNCTION bemi.changes_by_id(uuid[])
	IS 'the changes with these ids; those that do not exist are left out';
REVOKE ALL ON FUNCTION bemi.changes_by_id(uuid[]) FROM PUBLIC;

--
-- One row
--

-- A missing column counts as null, because "before" of a new row and "after" of a deleted one
-- are {}.
CREATE FUNCTION bemi.diff(before jsonb, after jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_diff'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION bemi.diff(jsonb, jsonb)
	IS 'columns that differ between two rows, each with [old, new]';
GRANT EXECUTE ON FUNCTION bemi.diff(jsonb, jsonb) TO PUBLIC;

CREATE FUNCTION _bemi.changed_columns(operation text, before jsonb, after jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_changed_columns'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb)
	IS 'internal: columns that a change has changed, each with [old, new]; NULL: not known';
REVOKE ALL ON FUNCTION _bemi.changed_columns(text, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION _bemi.key_is_changed(key_names text[], before jsonb, after jsonb)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_key_is_changed'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.key_is_changed(text[], jsonb, jsonb)
	IS 'internal: whether the row had another primary key before the change';
REVOKE ALL ON FUNCTION _bemi.key_is_changed(text[], jsonb, jsonb) FROM PUBLIC;

-- As the owner, because nobody else can read what is known of tables.
CREATE FUNCTION _bemi.key_has_changed(sources text[], target regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.relation = target
			AND c.before IS NOT NULL AND c.after IS NOT NULL
			AND _bemi.key_text_form(c.before) -> 2 IS DISTINCT FROM
				_bemi.key_text_form(c.after) -> 2)
		-- The last change of the key may not be stored yet.
		OR coalesce((SELECT nullif(c.after -> 'key', 'null') IS DISTINCT FROM
				(SELECT to_jsonb(k.names) FROM _bemi.key_columns(target) k)
			FROM _bemi.schema_changes c
			WHERE c.source = ANY (sources) AND c.relation = target AND c.after IS NOT NULL
			ORDER BY c.id DESC LIMIT 1), false)
$$;
COMMENT ON FUNCTION _bemi.key_has_changed(text[], regclass)
	IS 'internal: whether the primary key of a table has had other columns';
REVOKE ALL ON FUNCTION _bemi.key_has_changed(text[], regclass) FROM PUBLIC;

-- The names are those of today, also in changes from before a column or the table was renamed.
--
-- Two rows can have one key until a deferrable primary key is checked, so a change with the row's
-- key can be another row's. It is skipped if it leaves another row than the next change has found.
-- In an earlier transaction, the row can also differ because of a gap or an ALTER TABLE. There it
-- is only skipped if one of the changes before it leaves that row. From before the primary key got
-- other columns, a change of another row can have the same text.
CREATE FUNCTION bemi.history(target regclass, key text, newest integer DEFAULT 100,
		before_id uuid DEFAULT NULL)
	RETURNS TABLE (id uuid, committed_at timestamptz, operation text, primary_key text,
		changed jsonb, before jsonb, after jsonb, context jsonb, transaction_id bigint)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	h record;
	key_names text[];
	cursor_change bemi.changes;
	cursor_names record;
	first_place bigint := 1;	-- among the names of the table
	row_key text;
	passed boolean := true;
	returned integer := 0;
	last_time timestamptz;
	last_id uuid;
	moved boolean;
	skipped boolean;
	other_keys boolean;		-- whether the table has had another primary key
	row_now jsonb;			-- after the change, or before a DELETE
	read_time timestamptz;
	read_id uuid;
	shares_keys boolean;	-- two rows can have one key for a while
	row_before jsonb;		-- before the last change; NULL: there was none, or it is not known
	row_transaction bigint;
	n record;
	c bemi.changes;
BEGIN
	PERFORM _bemi.check_page(newest);
	h := _bemi.history_of(target);
	row_key := _bemi.key_from_user(h.relation, history.key);
	shares_keys := EXISTS (SELECT FROM pg_index i
		WHERE i.indrelid = h.relation AND i.indisprimary AND NOT i.indimmediate);
	key_names := (SELECT k.names FROM _bemi.key_columns(h.relation) k);
	IF before_id IS NOT NULL THEN
		cursor_change := _bemi.find_change(before_id);
		SELECT m.* INTO cursor_names FROM _bemi.names_of_change(cursor_change, h.sources,
			h.relation, h.schema_name, h.table_name) m;
		IF cursor_names.place IS NULL THEN
			RAISE EXCEPTION 'change "%" is not a change of table "%"', before_id, target
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = 'before_id is the last id of the page before.';
		END IF;
		-- If it has another key, the page before has followed a changed one, or this is a change
		-- of another row. And a TRUNCATE has none. So the way to it is repeated.
		passed := cursor_change.primary_key IS NOT DISTINCT FROM row_key;
		IF passed THEN
			last_time := cursor_change.committed_at;
			last_id := before_id;
			first_place := cursor_names.place;
		END IF;
		IF passed AND cursor_change.operation IN ('UPDATE', 'DELETE') THEN
			row_before := _bemi.rename_members(cursor_change.before, cursor_names.columns);
			row_transaction := cursor_change.transaction_id;
			row_key := coalesce(_bemi.key_from_image(h.relation, row_before), row_key);
		END IF;
	END IF;

	FOR n IN SELECT t.* FROM _bemi.table_names(h.sources, h.relation, h.schema_name, h.table_name)
			WITH ORDINALITY t
		WHERE t.ordinality >= first_place
	LOOP
		LOOP
			moved := false;
			skipped := false;
			FOR c IN SELECT * FROM _bemi.read_changes(n.schema_name, n.table_name, row_key,
				h.sources, from_id => n.from_id, to_id => n.to_id,
				after_time => last_time, after_id => last_id,
				newest => CASE WHEN passed THEN newest - returned END)
			LOOP
				IF n.columns IS NOT NULL THEN
					c.before := _bemi.rename_members(c.before, n.columns);
					c.after := _bemi.rename_members(c.after, n.columns);
				END IF;
				read_time := c.committed_at;
				read_id := c.id;
				row_now := CASE c.operation WHEN 'DELETE' THEN c.before ELSE c.after END;
				IF c.operation <> 'TRUNCATE'
					AND row_now ->> key_names[1] IS DISTINCT FROM c.primary_key
					AND to_jsonb(ARRAY(SELECT row_now ->> k FROM unnest(key_names) k))::text
						<> c.primary_key THEN
					other_keys := coalesce(other_keys,
						_bemi.key_has_changed(h.sources, h.relation));
					IF other_keys AND _bemi.key_from_image(h.relation, row_now) <> row_key THEN
						skipped := true;
						CONTINUE;
					END IF;
				END IF;
				IF shares_keys AND row_before IS NOT NULL
					AND c.operation IN ('CREATE', 'UPDATE', 'DELETE')
					AND (c.operation = 'DELETE' OR EXISTS (
						SELECT FROM jsonb_object_keys(
								_bemi.changed_columns('UPDATE', c.after, row_before)) k
							WHERE NOT EXISTS (SELECT FROM unnest(h.ignored) rule WHERE k = rule
								OR rule LIKE '%*' AND starts_with(k, left(rule, -1)))))
					AND (c.transaction_id = row_transaction OR EXISTS (
						SELECT FROM _bemi.read_changes(n.schema_name, n.table_name, row_key,
								h.sources, from_id => n.from_id, to_id => n.to_id,
								after_time => c.committed_at, after_id => c.id, newest => 100) o
							WHERE _bemi.rename_members(o.after, n.columns) = row_before)) THEN
					last_time := c.committed_at;
					last_id := c.id;
					moved := true;
					EXIT;
				END IF;
				IF shares_keys THEN
					row_before := CASE c.operation WHEN 'SNAPSHOT' THEN c.after
						WHEN 'UPDATE' THEN c.before WHEN 'DELETE' THEN c.before END;
					row_transaction := c.transaction_id;
				END IF;
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
				-- The row had another key before.
				IF c.operation = 'UPDATE'
					AND _bemi.key_is_changed(key_names, c.before, c.after) THEN
					row_key := coalesce(_bemi.key_from_image(h.relation, c.before), row_key);
					last_time := c.committed_at;
					last_id := c.id;
					moved := true;
					EXIT;
				END IF;
			END LOOP;
			IF NOT moved AND skipped THEN
				last_time := read_time;
				last_id := read_id;
			ELSIF NOT moved THEN
				EXIT;
			END IF;
		END LOOP;
		-- All changes under former names follow.
		last_time := NULL;
		last_id := NULL;
	END LOOP;

	IF NOT passed THEN
		RAISE EXCEPTION 'change "%" is not in the history of row "%" of table "%"', before_id,
				history.key, target
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'before_id is the last id of the page before.';
	END IF;
	IF returned = 0 AND NOT h.known THEN
		PERFORM _bemi.throw_no_history(target);
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
	page integer := 50;
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
			-- A later change, which is not in the history, has set another value: that of an
			-- ignored column, or one in a gap. A redacted value can have been stored before there
			-- was the rule.
			pending := pending - ARRAY(SELECT p.key FROM jsonb_each_text(pending) p
				WHERE c.after ? p.key AND p.value IS DISTINCT FROM '[redacted]'
					AND c.after ->> p.key IS DISTINCT FROM p.value
					AND c.after -> p.key IS DISTINCT FROM pending -> p.key);
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
-- Indexes on demand: on values of the context, and on changes of a column
--
-- Each is a B-tree of one partition of bemi.changes that ends with the id. So the newest changes
-- with a value, or of a column, are found without a search among all others. bemi.index_context()
-- and bemi.index_column() create them on all partitions there are (src/store/indexing.c), and
-- _bemi.make_partition() on those to come. There is none on bemi.changes itself: a dump would
-- attach those of its partitions to it, and restoring that fails, because the extension has created
-- bemi.changes without it.
--

-- Everything after the name of the table. The text is as pg_get_indexdef() returns it. No two
-- entries are equal, so a search for duplicates would only cost time.
--
-- "context": a value can have a megabyte, and an entry of a B-tree less than 3 kB, and an entry
-- that does not fit would stop the worker. So the index has the first 200 characters.
-- bemi.context_is() compares them first, and then the whole value. Collation "C", because that is
-- the cheapest, and no update of a collation damages the index.
--
-- "column": by operation, so that the UPDATEs of a column that rarely changes are found among many
-- INSERTs. Tables that have a column of this name share the index.
CREATE FUNCTION _bemi.index_definition(kind text, name text,
		options text DEFAULT ' WITH (deduplicate_items=off)')
	RETURNS text
	LANGUAGE sql STABLE STRICT
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE kind
		WHEN 'context' THEN format(
			'USING btree ("left"((context ->> %1$s), 200) COLLATE "C", id)%2$s'
			' WHERE ((context ->> %1$s) IS NOT NULL)', l.literal, options)
		WHEN 'column' THEN format('USING btree ("table", operation, id)%2$s'
			' WHERE bemi.column_is_changed(operation, before, after, %1$s)', l.literal, options)
		END
		FROM (SELECT format('''%s''::text', replace(name, '''', ''''''))) l(literal)
$$;
COMMENT ON FUNCTION _bemi.index_definition(text, text, text)
	IS 'internal: definition of the index of a partition on a key of the context or a column, from '
		'USING on';
REVOKE ALL ON FUNCTION _bemi.index_definition(text, text, text) FROM PUBLIC;

-- With these settings, the server's text has no more quotes than the definition has, and only
-- quotes are doubled. An index that a user has created with the same definition counts, too, also
-- without the option.
CREATE FUNCTION _bemi.index_states(kind text, name text, only_partition regclass DEFAULT NULL,
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
		CROSS JOIN _bemi.index_definition(kind, name) definition
		CROSS JOIN _bemi.index_definition(kind, name, '') without_option
		JOIN pg_class c ON c.oid = t.oid AND c.relkind = 'r'
		LEFT JOIN pg_index i ON i.indrelid = c.oid
			AND (right(pg_get_indexdef(i.indexrelid), length(definition)) = definition
				OR right(pg_get_indexdef(i.indexrelid), length(without_option)) = without_option)
	WHERE only_partition IS NULL OR c.oid = only_partition
$$;
COMMENT ON FUNCTION _bemi.index_states(text, text, regclass)
	IS 'internal: for each partition of bemi.changes that is a table, its indexes on a key of the '
		'context or a column, or NULL if it has none';
REVOKE ALL ON FUNCTION _bemi.index_states(text, text, regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.create_indexes(partition name)
	RETURNS void
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	definition text;
BEGIN
	FOR definition IN SELECT _bemi.index_definition(i.kind, i.name)
		FROM _bemi.indexes_on_demand i ORDER BY i.kind, i.name
	LOOP
		EXECUTE format('CREATE INDEX ON _bemi.%I %s', partition, definition);
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.create_indexes(name)
	IS 'internal: creates the indexes on demand on a new partition';
REVOKE ALL ON FUNCTION _bemi.create_indexes(name) FROM PUBLIC;

CREATE FUNCTION _bemi.indexes_of(kind text)
	RETURNS TABLE (name text, partitions integer, indexed integer, bytes bigint)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT i.name, count(DISTINCT s.partition)::integer,
			count(DISTINCT s.partition) FILTER (WHERE s.is_valid)::integer,
			sum(pg_relation_size(s.index))::bigint
		FROM _bemi.indexes_on_demand i
			LEFT JOIN LATERAL _bemi.index_states(i.kind, i.name) s ON true
		WHERE i.kind = indexes_of.kind
		GROUP BY i.name
$$;
COMMENT ON FUNCTION _bemi.indexes_of(text)
	IS 'internal: indexes on demand, with how many partitions have them';
REVOKE ALL ON FUNCTION _bemi.indexes_of(text) FROM PUBLIC;

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
	SELECT i.name AS key, i.partitions, i.indexed, i.bytes FROM _bemi.indexes_of('context') i;
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

CREATE FUNCTION bemi.column_is_changed(operation text, before jsonb, after jsonb, column_name text)
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_column_is_changed'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION bemi.column_is_changed(text, jsonb, jsonb, text)
	IS 'whether a change has set another value of this column; a CREATE or DELETE if the value is '
		'not null';
GRANT EXECUTE ON FUNCTION bemi.column_is_changed(text, jsonb, jsonb, text) TO PUBLIC;

CREATE PROCEDURE bemi.index_column(column_name text)
	AS 'MODULE_PATHNAME', 'bemi_index_column'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.index_column(text)
	IS 'indexes the history by the changes of all columns of this name, without blocking readers '
		'or workers; bemi.find_changes() uses the index';
REVOKE ALL ON PROCEDURE bemi.index_column(text) FROM PUBLIC;

CREATE PROCEDURE bemi.drop_index_column(column_name text)
	AS 'MODULE_PATHNAME', 'bemi_drop_index_column'
	LANGUAGE C;
COMMENT ON PROCEDURE bemi.drop_index_column(text)
	IS 'drops the indexes that bemi.index_column() has created for columns of this name';
REVOKE ALL ON PROCEDURE bemi.drop_index_column(text) FROM PUBLIC;

CREATE VIEW bemi.column_indexes AS
	SELECT i.name AS column_name, i.partitions, i.indexed, i.bytes
		FROM _bemi.indexes_of('column') i;
COMMENT ON VIEW bemi.column_indexes
	IS 'columns whose changes bemi.index_column() has indexed';
COMMENT ON COLUMN bemi.column_indexes.column_name IS 'name of the column, in any table';
COMMENT ON COLUMN bemi.column_indexes.partitions
	IS 'partitions of bemi.changes, without foreign tables';
COMMENT ON COLUMN bemi.column_indexes.indexed
	IS 'how many of them have the index; if not all, call bemi.index_column() again';
COMMENT ON COLUMN bemi.column_indexes.bytes IS 'size of these indexes; NULL if there are none';
REVOKE ALL ON bemi.column_indexes FROM PUBLIC;

--
-- Primary keys as bemi.changes has them
--

-- The type is NULL if its text is the same in jsonb, or if an ordinary role may have made it:
-- the functions of such a type would run with the rights of the reader. In PL/pgSQL, because that
-- keeps the plan for the next call.
CREATE FUNCTION _bemi.key_columns(target regclass, OUT names text[], OUT types text[])
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT array_agg(a.attname::text ORDER BY k.place),
			array_agg(CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace
					AND t.oid NOT IN ('text'::regtype, 'jsonb'::regtype)
				THEN format_type(t.oid, CASE WHEN t.oid = a.atttypid THEN a.atttypmod
					ELSE d.typtypmod END) END ORDER BY k.place)
		INTO names, types
		FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, place)
			JOIN pg_attribute a ON a.attnum = k.attnum
			JOIN pg_type d ON d.oid = a.atttypid
			JOIN pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
		WHERE i.indrelid = target AND i.indisprimary AND a.attrelid = target
			AND k.place <= i.indnkeyatts;
END
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

CREATE FUNCTION _bemi.read_key(target regclass, key text)
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
		RAISE EXCEPTION 'key must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				DETAIL = 'A primary key has a value in each row.',
				HINT = format('SELECT * FROM bemi.find_changes(%L);', target);
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
COMMENT ON FUNCTION _bemi.read_key(regclass, text)
	IS 'internal: as _bemi.key_from_user(), with errors whose context has functions of bemi';
REVOKE ALL ON FUNCTION _bemi.read_key(regclass, text) FROM PUBLIC;

CREATE FUNCTION _bemi.key_from_user(target regclass, key text)
	RETURNS text
	AS 'MODULE_PATHNAME', 'bemi_key_from_user'
	LANGUAGE C STABLE;
COMMENT ON FUNCTION _bemi.key_from_user(regclass, text)
	IS 'internal: primary_key of bemi.changes for a key that a user has written';
REVOKE ALL ON FUNCTION _bemi.key_from_user(regclass, text) FROM PUBLIC;

--
-- Reading changes
--
-- Functions for users call _bemi.read_changes(). It reads by indexes (src/query), or by plans if
-- row policies, foreign tables or virtual columns demand it. Both go through the partitions from
-- late to early times, and stop when they have enough. Both have the same conditions, which must
-- all hold, and NULL is no condition:
--
--	of_row			changes of the row with this primary_key, and each TRUNCATE of its table
--	from_id, to_id	both are part of the range
--	from_time		part of the range; to_time is not
--	after_time, after_id	only what follows this change in the order
--	in_order		'newest': partitions from late to early times, in each by id, descending;
--					'newest by time': in each by time and id; 'oldest': by id
--

CREATE FUNCTION _bemi.reads_by_index()
	RETURNS boolean
	AS 'MODULE_PATHNAME', 'bemi_reads_by_index'
	LANGUAGE C STABLE;
COMMENT ON FUNCTION _bemi.reads_by_index()
	IS 'internal: whether _bemi.changes_by_index() works for the current user';
REVOKE ALL ON FUNCTION _bemi.reads_by_index() FROM PUBLIC;

CREATE FUNCTION _bemi.changes_by_index(of_schema text, of_table text, of_row text,
		of_sources text[], of_operations text[], of_column text, in_context jsonb,
		context_texts jsonb, from_time timestamptz, to_time timestamptz, from_id uuid, to_id uuid,
		after_time timestamptz, after_id uuid, in_order text, newest integer)
	RETURNS SETOF bemi.changes
	AS 'MODULE_PATHNAME', 'bemi_changes_by_index'
	LANGUAGE C STABLE ROWS 100;
COMMENT ON FUNCTION _bemi.changes_by_index(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer)
	IS 'internal: changes that meet these conditions, by the indexes of the partitions';
REVOKE ALL ON FUNCTION _bemi.changes_by_index(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer) FROM PUBLIC;

-- Each query has a condition on committed_at that one partition satisfies, and a custom plan, so
-- the planner opens this partition only, and leaves out conditions that are not given. Readers have
-- no rights on partitions, and row policies of bemi.changes must hold, so no query names a
-- partition.

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

CREATE FUNCTION _bemi.changes_by_plans(of_schema text, of_table text, of_row text,
		of_sources text[], of_operations text[], of_column text, in_context jsonb,
		context_texts jsonb, from_time timestamptz, to_time timestamptz, from_id uuid, to_id uuid,
		after_time timestamptz, after_id uuid, in_order text, newest integer)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	by_time boolean := in_order = 'newest by time';
	oldest boolean := in_order = 'oldest';
	left_over integer := newest;
	n integer;
	part record;
	below uuid;
	truncated boolean;
	indexed record;
BEGIN
	-- A key that bemi.index_context() has indexed, and the text of its value. Numbers have several
	-- texts.
	SELECT e.key, e.value INTO indexed
		FROM (SELECT t.key, t.value FROM jsonb_each_text(context_texts) t
				UNION ALL SELECT t.key, t.value FROM jsonb_each_text(in_context) t
				WHERE jsonb_typeof(in_context -> t.key) IN ('string', 'boolean')) e
			JOIN _bemi.indexes_on_demand i ON i.kind = 'context' AND i.name = e.key LIMIT 1;

	-- Ids do not follow the times if a clock was set back, so the order by id needs one query.
	FOR part IN
		SELECT t.from_time, t.to_time FROM _bemi.partition_times() t WHERE NOT oldest
		UNION ALL SELECT coalesce(changes_by_plans.from_time, '-infinity'),
			coalesce(changes_by_plans.to_time, 'infinity') WHERE oldest
	LOOP
		CONTINUE WHEN part.to_time < changes_by_plans.from_time
			OR part.from_time >= changes_by_plans.to_time
			OR part.from_time > after_time;
		below := CASE WHEN after_time BETWEEN part.from_time AND part.to_time
			THEN after_id END;
		-- Such a partition is rare, and a plan for both costs more.
		truncated := of_row IS NOT NULL AND EXISTS (SELECT FROM bemi.changes t
			WHERE t.committed_at BETWEEN part.from_time AND part.to_time
				AND t."table" = of_table AND t.schema = of_schema
				AND t.primary_key IS NULL AND t.operation = 'TRUNCATE');
		RETURN QUERY SELECT c.* FROM bemi.changes c
			WHERE c.committed_at BETWEEN part.from_time AND part.to_time
				AND (changes_by_plans.from_time IS NULL
					OR c.committed_at >= changes_by_plans.from_time)
				AND (changes_by_plans.to_time IS NULL
					OR c.committed_at < changes_by_plans.to_time)
				AND (from_id IS NULL OR c.id >= from_id)
				AND (to_id IS NULL OR c.id <= to_id)
				AND (below IS NULL OR by_time OR c.id < below)
				AND (below IS NULL OR NOT by_time
					OR (c.committed_at, c.id) < (after_time, below))
				AND (of_table IS NULL OR c."table" = of_table)
				AND (of_schema IS NULL OR c.schema = of_schema)
				AND (of_row IS NULL OR c.primary_key = of_row
					OR truncated AND c.primary_key IS NULL AND c.operation = 'TRUNCATE')
				AND (of_sources IS NULL OR c.source = ANY (of_sources))
				AND (of_operations IS NULL OR c.operation = ANY (of_operations))
				-- The index by row finds it.
				AND (of_operations IS DISTINCT FROM '{TRUNCATE}' OR c.primary_key IS NULL)
				AND (in_context IS NULL OR indexed.key IS NOT NULL OR c.context @> in_context)
				AND (context_texts IS NULL OR NOT EXISTS (
					SELECT FROM jsonb_each_text(context_texts) t
						WHERE bemi.context_is(c.context, t.key, t.value) IS NOT TRUE))
				-- In a CASE, it does not lower the number of rows that the planner expects. With a
				-- lower one, it would read and sort all changes with this value.
				AND (indexed.key IS NULL
					OR bemi.context_is(c.context, indexed.key, indexed.value)
						AND CASE WHEN coalesce(c.context @> in_context, true) THEN true
							ELSE false END)
				AND (of_column IS NULL
					OR bemi.column_is_changed(c.operation, c.before, c.after, of_column))
			ORDER BY CASE WHEN by_time THEN c.committed_at END DESC,
				CASE WHEN oldest THEN c.id END, c.id DESC
			LIMIT left_over;
		GET DIAGNOSTICS n = ROW_COUNT;
		left_over := left_over - n;
		EXIT WHEN left_over = 0;
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.changes_by_plans(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer)
	IS 'internal: changes that meet these conditions, by a query of each partition';
REVOKE ALL ON FUNCTION _bemi.changes_by_plans(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer) FROM PUBLIC;

CREATE FUNCTION _bemi.read_changes(of_schema text DEFAULT NULL, of_table text DEFAULT NULL,
		of_row text DEFAULT NULL, of_sources text[] DEFAULT NULL,
		of_operations text[] DEFAULT NULL, of_column text DEFAULT NULL,
		in_context jsonb DEFAULT NULL, context_texts jsonb DEFAULT NULL,
		from_time timestamptz DEFAULT NULL, to_time timestamptz DEFAULT NULL,
		from_id uuid DEFAULT NULL, to_id uuid DEFAULT NULL,
		after_time timestamptz DEFAULT NULL, after_id uuid DEFAULT NULL,
		in_order text DEFAULT 'newest', newest integer DEFAULT NULL)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _bemi.reads_by_index() THEN
		RETURN QUERY SELECT * FROM _bemi.changes_by_index(of_schema, of_table, of_row, of_sources,
			of_operations, of_column, in_context, context_texts, from_time, to_time, from_id,
			to_id, after_time, after_id, in_order, newest);
	ELSE
		RETURN QUERY SELECT * FROM _bemi.changes_by_plans(of_schema, of_table, of_row, of_sources,
			of_operations, of_column, in_context, context_texts, from_time, to_time, from_id,
			to_id, after_time, after_id, in_order, newest);
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.read_changes(text, text, text, text[], text[], text, jsonb, jsonb,
	timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer)
	IS 'internal: changes that meet these conditions';
REVOKE ALL ON FUNCTION _bemi.read_changes(text, text, text, text[], text[], text, jsonb,
	jsonb, timestamptz, timestamptz, uuid, uuid, timestamptz, uuid, text, integer) FROM PUBLIC;

CREATE FUNCTION _bemi.find_change(change_id uuid)
	RETURNS bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	found_change bemi.changes;
BEGIN
	SELECT * INTO found_change
		FROM _bemi.read_changes(from_id => change_id, to_id => change_id, newest => 1);
	IF NOT FOUND THEN
		RAISE EXCEPTION 'change "%" does not exist', change_id
			USING ERRCODE = 'no_data_found',
				DETAIL = 'It was never stored, has been deleted, or you may not see it.';
	END IF;
	RETURN found_change;
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

-- Changes of a partition are stored under the name of its root, if the root is tracked.
CREATE FUNCTION _bemi.stored_as(target regclass, OUT relation regclass, OUT schema_name text,
		OUT table_name text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	SELECT c.oid, n.nspname, c.relname INTO relation, schema_name, table_name
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = CASE WHEN _bemi.is_published(_bemi.partition_root(target))
			THEN _bemi.partition_root(target) ELSE target END;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'there is no such table' USING ERRCODE = 'undefined_table';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.stored_as(regclass)
	IS 'internal: the table under whose name the changes of this one are stored, or an error';
REVOKE ALL ON FUNCTION _bemi.stored_as(regclass) FROM PUBLIC;

-- With the rights of the owner, because nobody else can read which sources there are. All sources
-- that read this database, or have read it, have the WAL positions of one server, so ids order
-- their changes.
CREATE FUNCTION _bemi.history_of(target regclass,
		OUT sources text[], OUT schema_name text, OUT table_name text, OUT relation regclass,
		OUT known boolean, OUT ignored text[])
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_one text := _bemi.this_server();
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'target table must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'Write its name as a string: ''public.todo''.';
	END IF;
	SELECT s.* INTO relation, schema_name, table_name FROM _bemi.stored_as(target) s;
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
	ignored := ARRAY(SELECT jsonb_array_elements_text(_bemi.rules(relation) -> 'ignore')
		UNION SELECT btrim(rule)
			FROM string_to_table(current_setting('bemi.ignore_columns', true), ',') rule);
END
$$;
COMMENT ON FUNCTION _bemi.history_of(regclass)
	IS 'internal: under which sources and names the history of this table is, whether any of '
		'them has ever tracked it, and the rules that ignore columns';
REVOKE ALL ON FUNCTION _bemi.history_of(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.throw_no_history(target regclass)
	RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	reason text := _bemi.untrackable(target);
BEGIN
	IF target = 'bemi.changes'::regclass THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = 'It is the history itself.', HINT = 'SELECT * FROM bemi.changes;';
	ELSIF reason IS NOT NULL THEN
		RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
			USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = reason;
	END IF;
	RAISE EXCEPTION 'table "%" is not tracked, and has no history', target
		USING ERRCODE = 'object_not_in_prerequisite_state',
			HINT = format('SELECT bemi.track(%L);', target);
END
$$;
COMMENT ON FUNCTION _bemi.throw_no_history(regclass)
	IS 'internal: the error for a table that no source has ever tracked';
REVOKE ALL ON FUNCTION _bemi.throw_no_history(regclass) FROM PUBLIC;

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
-- A schema of the past
--

-- SETOF, so that a view over it has the columns of the relation.
CREATE FUNCTION _bemi.no_past(target anyelement, name text, reason text)
	RETURNS SETOF anyelement
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the past of % is not known', name
		USING ERRCODE = 'object_not_in_prerequisite_state', DETAIL = reason;
END
$$;
COMMENT ON FUNCTION _bemi.no_past(anyelement, text, text)
	IS 'internal: error of a view of bemi.past() for a relation whose past cannot be read';
REVOKE ALL ON FUNCTION _bemi.no_past(anyelement, text, text) FROM PUBLIC;

-- What a schema consists of for bemi.past(). Tables come first, and a view after those it reads.
CREATE FUNCTION _bemi.relations_of(source regnamespace, OUT relation regclass, OUT name name,
		OUT is_view boolean, OUT problem text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE relation AS (
		SELECT c.* FROM pg_class c
			WHERE c.relnamespace = source AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
				AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
					AND d.objid = c.oid AND d.deptype = 'e')
	), reads(reader, read) AS (
		SELECT DISTINCT w.ev_class, d.refobjid FROM relation r
			JOIN pg_rewrite w ON w.ev_class = r.oid
			JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
				AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class
		WHERE r.relkind IN ('v', 'm')
	), depth(oid, n) AS (
		SELECT r.oid, 0 FROM relation r
		UNION SELECT p.reader, d.n + 1 FROM depth d JOIN reads p ON p.read = d.oid
	)
	SELECT r.oid, r.relname, r.relkind IN ('v', 'm'),
			CASE WHEN r.relkind IN ('v', 'm') THEN NULL
				WHEN r.relkind = 'f' THEN 'It is a foreign table.'
				WHEN r.relispartition
					THEN 'It is a partition. Its rows are in the past of its root.'
				WHEN r.relkind = 'r'
					AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = r.oid)
					THEN 'Other tables inherit from it.'
				WHEN NOT _bemi.is_published(r.oid)
					THEN format('It is not tracked: SELECT bemi.track(%L);', r.oid::regclass)
			END
		FROM relation r JOIN depth d ON d.oid = r.oid
		GROUP BY r.oid, r.relname, r.relkind, r.relispartition
		ORDER BY max(d.n), r.relkind IN ('v', 'm'), r.relname
$$;
COMMENT ON FUNCTION _bemi.relations_of(regnamespace)
	IS 'internal: tables and views of a schema, in the order in which bemi.past() creates them';
REVOKE ALL ON FUNCTION _bemi.relations_of(regnamespace) FROM PUBLIC;

-- Rows of today must not appear among those of the past.
CREATE FUNCTION _bemi.check_view_of_past(view regclass, source regnamespace)
	RETURNS void
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	foreigner regclass := (SELECT r.oid FROM pg_rewrite w
			JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
				AND d.refclassid = 'pg_class'::regclass
			JOIN pg_class r ON r.oid = d.refobjid
			JOIN pg_namespace n ON n.oid = r.relnamespace
			JOIN pg_class v ON v.oid = w.ev_class
		WHERE w.ev_class = view AND r.relnamespace <> v.relnamespace
			AND n.nspname NOT IN ('pg_catalog', 'information_schema')
		ORDER BY r.relname LIMIT 1);
BEGIN
	IF foreigner IS NOT NULL THEN
		RAISE EXCEPTION 'it reads %, which is not in schema %', foreigner, source
			USING ERRCODE = 'feature_not_supported';
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.check_view_of_past(regclass, regnamespace)
	IS 'internal: error if a view that bemi.past() has created reads a relation of the present';
REVOKE ALL ON FUNCTION _bemi.check_view_of_past(regclass, regnamespace) FROM PUBLIC;

-- Nothing of the present is reachable by the names of the schema: what has no readable past gets
-- a view that fails. The views need no security_invoker (which 14 lacks), because they read no
-- table: the function reads, and functions in a view run with the rights of the reader.
CREATE FUNCTION bemi.past(schema_name name, source regnamespace, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL, allow_gaps boolean DEFAULT false)
	RETURNS TABLE (relation_name name, problem text)
	LANGUAGE plpgsql
	SET search_path = pg_catalog, pg_temp
	SET timezone = 'UTC'
	SET datestyle = 'ISO'
	SET standard_conforming_strings = on
	SET quote_all_identifiers = off
AS $$
DECLARE
	rel record;
	place text;
	path text;
	command text;
BEGIN
	IF schema_name IS NULL OR source IS NULL THEN
		RAISE EXCEPTION 'schema and source must not be null'
			USING ERRCODE = 'null_value_not_allowed';
	ELSIF num_nonnulls(at, before, at_lsn) <> 1 THEN
		RAISE EXCEPTION 'one of a time, a change and a position must be given'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('SELECT * FROM bemi.past(%L, %L, now() - interval ''1 day'');',
					schema_name, source);
	ELSIF at > clock_timestamp() THEN
		RAISE EXCEPTION 'time % is in the future', at
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'SELECT now(), current_setting(''timezone''); shows the latest time, and '
					'the zone of times without one.';
	ELSIF NOT EXISTS (SELECT FROM pg_namespace n WHERE n.oid = source) THEN
		RAISE EXCEPTION 'there is no such schema' USING ERRCODE = 'invalid_schema_name';
	ELSIF EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = schema_name) THEN
		RAISE EXCEPTION 'schema "%" already exists', schema_name
			USING ERRCODE = 'duplicate_schema',
				DETAIL = 'bemi.past() creates the schema, and changes none that exists.',
				HINT = CASE WHEN EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = schema_name
						AND obj_description(n.oid, 'pg_namespace') LIKE 'bemi.past(): %')
					THEN format('If you need it no more: DROP SCHEMA %I CASCADE;', schema_name)
					ELSE 'Write a name that no schema has.' END;
	END IF;
	place := CASE WHEN at IS NOT NULL THEN format('at => %L::timestamptz', at)
			WHEN before IS NOT NULL THEN format('before => %L::uuid', before)
			ELSE format('at_lsn => %L::pg_lsn', at_lsn) END
		|| CASE WHEN allow_gaps THEN ', allow_gaps => true' ELSE '' END;
	EXECUTE format('CREATE SCHEMA %I', schema_name);
	EXECUTE format('COMMENT ON SCHEMA %I IS %L', schema_name, format('bemi.past(): schema %s, %s',
		source, place));

	FOR rel IN SELECT * FROM _bemi.relations_of(source) LOOP
		relation_name := rel.name;
		problem := rel.problem;
		IF rel.is_view THEN
			-- It reads the relations of the same names that are next to it. While the path has the
			-- source, nothing but the view's own text is parsed with it.
			BEGIN
				path := format('%s, pg_temp', source);
				PERFORM set_config('search_path', path, true);
				command := pg_catalog.pg_get_viewdef(rel.relation);
				PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
				command := format('CREATE VIEW %I.%I AS %s', schema_name, rel.name, command);
				path := format('%I, %s, pg_temp', schema_name, source);
				PERFORM set_config('search_path', path, true);
				EXECUTE command;
				PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
				PERFORM _bemi.check_view_of_past(format('%I.%I', schema_name, rel.name), source);
			EXCEPTION WHEN OTHERS THEN
				problem := format('It cannot read the past: %s.', sqlerrm);
			END;
		ELSIF problem IS NULL THEN
			EXECUTE format('CREATE VIEW %I.%I AS SELECT t.* FROM bemi.as_of(NULL::%s, %s) t',
				schema_name, rel.name, rel.relation, place);
		END IF;
		IF problem IS NOT NULL THEN
			EXECUTE format('CREATE VIEW %I.%I AS SELECT t.* FROM _bemi.no_past(NULL::%s, %L, %L) t',
				schema_name, rel.name, rel.relation, rel.relation, problem);
		END IF;
		RETURN NEXT;
	END LOOP;
END
$$;
COMMENT ON FUNCTION bemi.past(name, regnamespace, timestamptz, uuid, pg_lsn, boolean)
	IS 'creates a schema with a view for each table and view of a schema, as they were at a time, '
		'at a position in the WAL, or before a change; returns which of them cannot be read';
REVOKE ALL ON FUNCTION bemi.past(name, regnamespace, timestamptz, uuid, pg_lsn, boolean)
	FROM PUBLIC;

--
-- Names over time: tables and columns that were renamed
--

-- Which columns had other names than today, see _bemi.table_names(). Elements of both arguments are
-- arrays that begin with number and name.
CREATE FUNCTION _bemi.former_names(former jsonb, today jsonb)
	RETURNS jsonb
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_object_agg(f.name, CASE WHEN t.name IS NOT NULL THEN t.name
				WHEN o.name IS NULL THEN f.name END)
		FROM (SELECT c ->> 0, c ->> 1 FROM jsonb_array_elements(former) c) f(number, name)
			LEFT JOIN (SELECT c ->> 0, c ->> 1 FROM jsonb_array_elements(today) c) t(number, name)
				USING (number)
			LEFT JOIN (SELECT c ->> 1 FROM jsonb_array_elements(today) c) o(name)
				ON o.name = f.name
		HAVING bool_or(f.name <> t.name) OR bool_or(t.name IS NULL AND o.name IS NOT NULL)
$$;
COMMENT ON FUNCTION _bemi.former_names(jsonb, jsonb)
	IS 'internal: former names of columns, each with the name of today; that of a dropped column '
		'is its own, or null if another column has it; NULL if all names are the same';
REVOKE ALL ON FUNCTION _bemi.former_names(jsonb, jsonb) FROM PUBLIC;

-- The states of a table, newest first: "after" of each schema change, then "before" of the oldest.
-- A change of the table is above from_id and below to_id. The server may have been upgraded, which
-- keeps OIDs, or restored from a dump, which does not. So a state of another server counts only if
-- it has the same names.
CREATE FUNCTION _bemi.table_states(sources text[], relation oid, server text,
		OUT from_id uuid, OUT to_id uuid, OUT state jsonb, OUT created boolean)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	s _bemi.schema_changes;
	newer _bemi.schema_changes;
BEGIN
	IF server IS NULL THEN
		RETURN;
	END IF;
	FOR s IN SELECT c.* FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.relation = table_states.relation
			AND c.event <> 'rows changed'
		ORDER BY CASE WHEN c.server <> table_states.server THEN c.committed_at END
			DESC NULLS FIRST, c.id DESC
	LOOP
		EXIT WHEN s.server <> coalesce(newer.server, table_states.server)
			AND (newer.id IS NULL OR s.after IS NULL
				OR s.after ->> 'schema' <> newer.schema OR s.after ->> 'table' <> newer."table");
		-- Another table had this OID.
		EXIT WHEN newer.id IS NOT NULL AND s.after IS NULL;
		IF s.after IS NOT NULL THEN
			from_id := s.id;
			to_id := newer.id;
			state := s.after;
			created := s.before IS NULL AND s.event = 'began'
				AND s.command IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO',
					'CREATE SCHEMA');
			RETURN NEXT;
		END IF;
		newer := s;
	END LOOP;
	IF newer.before IS NOT NULL THEN
		from_id := NULL;
		to_id := newer.id;
		state := newer.before;
		created := false;
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.table_states(text[], oid, text)
	IS 'internal: what a table was like, newest first, and between which ids of changes';
REVOKE ALL ON FUNCTION _bemi.table_states(text[], oid, text) FROM PUBLIC;

-- Rows that follow each other with the same names are one. With the rights of the owner, because
-- nobody else can read the sources.
CREATE FUNCTION _bemi.table_names(sources text[], relation oid, schema_today text,
		table_today text)
	RETURNS TABLE (from_id uuid, to_id uuid, schema_name text, table_name text, columns jsonb,
		predecessor boolean, known boolean)
	LANGUAGE plpgsql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	this_one text := _bemi.this_server();
	known_server text;
	today jsonb;
	s record;
	former jsonb;
	created uuid;
BEGIN
	SELECT c.server INTO known_server FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.relation = table_names.relation
			AND (c.server = this_one OR c.schema = schema_today AND c."table" = table_today)
		ORDER BY c.server = this_one DESC, c.committed_at DESC, c.id DESC LIMIT 1;
	IF known_server = this_one THEN
		today := (SELECT jsonb_agg(jsonb_build_array(a.attnum, a.attname))
			FROM pg_attribute a
			WHERE a.attrelid = table_names.relation AND a.attnum > 0 AND NOT a.attisdropped);
	END IF;

	predecessor := false;
	known := true;
	FOR s IN SELECT t.* FROM _bemi.table_states(sources, table_names.relation, known_server) t LOOP
		today := coalesce(today, s.state -> 'columns');
		former := _bemi.former_names(s.state -> 'columns', today);
		created := CASE WHEN s.created THEN s.from_id END;
		CONTINUE WHEN schema_name = s.state ->> 'schema' AND table_name = s.state ->> 'table'
			AND columns IS NOT DISTINCT FROM former;
		IF schema_name IS NOT NULL THEN
			from_id := s.to_id;
			RETURN NEXT;
		END IF;
		to_id := s.to_id;
		-- While ALTER SCHEMA renames a schema, others can write to its tables. They may commit
		-- later, under the former name. So the former name counts until a table takes it: another
		-- one, or this one again.
		IF (schema_name, table_name) <> (s.state ->> 'schema', s.state ->> 'table') THEN
			to_id := (SELECT min(c.id::text)::uuid FROM _bemi.schema_changes c
				WHERE c.source = ANY (sources) AND c.id >= s.to_id
					AND c.event <> 'rows changed' AND c.after IS NOT NULL
					AND c.schema = s.state ->> 'schema' AND c."table" = s.state ->> 'table');
		END IF;
		schema_name := s.state ->> 'schema';
		table_name := s.state ->> 'table';
		columns := former;
	END LOOP;
	known := schema_name IS NOT NULL;
	schema_name := coalesce(schema_name, schema_today);
	table_name := coalesce(table_name, table_today);
	from_id := created;
	RETURN NEXT;

	-- The dropped table whose name this one took. Before that, the name may have been that of a
	-- table that was renamed.
	IF EXISTS (SELECT FROM _bemi.schema_changes c
		WHERE c.source = ANY (sources) AND c.id < created AND c.event = 'dropped'
			AND c.before ->> 'schema' = schema_name AND c.before ->> 'table' = table_name) THEN
		from_id := (SELECT max(c.id::text)::uuid FROM _bemi.schema_changes c
			WHERE c.source = ANY (sources) AND c.id < created
				AND c.before ->> 'schema' = schema_name AND c.before ->> 'table' = table_name
				AND (c.schema, c."table") <> (schema_name, table_name));
		to_id := created;
		columns := NULL;
		predecessor := true;
		RETURN NEXT;
	END IF;
END
$$;
COMMENT ON FUNCTION _bemi.table_names(text[], oid, text, text)
	IS 'internal: under which names the changes of a table are stored, newest first: above '
		'from_id and below to_id, which are NULL if there is no limit; columns is that of '
		'_bemi.former_names(); predecessor: another table of this name, dropped before this one '
		'was created; known: false if nothing is known of the table';
REVOKE ALL ON FUNCTION _bemi.table_names(text[], oid, text, text) FROM PUBLIC;

-- NULL if it is not a change of the table.
CREATE FUNCTION _bemi.names_of_change(change bemi.changes, sources text[], relation oid,
		schema_today text, table_today text, OUT place bigint, OUT columns jsonb)
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.ordinality, t.columns
		FROM _bemi.table_names(sources, relation, schema_today, table_today) WITH ORDINALITY t
		WHERE change.source = ANY (sources)
			AND (change.schema, change."table") = (t.schema_name, t.table_name)
			AND coalesce(change.id > t.from_id, true) AND coalesce(change.id < t.to_id, true)
		LIMIT 1
$$;
COMMENT ON FUNCTION _bemi.names_of_change(bemi.changes, text[], oid, text, text)
	IS 'internal: which row of _bemi.table_names() has the names of a change';
REVOKE ALL ON FUNCTION _bemi.names_of_change(bemi.changes, text[], oid, text, text) FROM PUBLIC;

CREATE FUNCTION _bemi.rename_members(image jsonb, columns jsonb)
	RETURNS jsonb
	AS 'MODULE_PATHNAME', 'bemi_rename_json_members'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION _bemi.rename_members(jsonb, jsonb)
	IS 'internal: an object with the names that its columns have today';
REVOKE ALL ON FUNCTION _bemi.rename_members(jsonb, jsonb) FROM PUBLIC;

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

-- Ids of a transaction begin with its commit LSN, which make_change_id() in src/decode/stitch.c
-- puts into the first 8 bytes and the upper half of the ninth, below 2 bits of the variant.
CREATE FUNCTION _bemi.transaction_range(change_id uuid, OUT first_id uuid, OUT last_id uuid)
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT encode(substr(set_byte(u.bytes, 8, get_byte(u.bytes, 8) & 252), 1, 9)
			|| '\x00000000000000', 'hex')::uuid,
		encode(substr(set_byte(u.bytes, 8, get_byte(u.bytes, 8) | 3), 1, 9)
			|| '\xffffffffffffff', 'hex')::uuid
	FROM (SELECT uuid_send(change_id)) u(bytes)
$$;
COMMENT ON FUNCTION _bemi.transaction_range(uuid)
	IS 'internal: between which ids all changes of the transaction of a change are';
REVOKE ALL ON FUNCTION _bemi.transaction_range(uuid) FROM PUBLIC;

CREATE FUNCTION _bemi.first_change_of(change_id uuid)
	RETURNS uuid
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	ids record;
BEGIN
	SELECT r.first_id, r.last_id INTO ids FROM _bemi.transaction_range(change_id) r;
	RETURN (SELECT c.id FROM bemi.changes c WHERE c.id BETWEEN ids.first_id AND ids.last_id
		ORDER BY c.id LIMIT 1);
END
$$;
COMMENT ON FUNCTION _bemi.first_change_of(uuid)
	IS 'internal: the first change of the transaction of this change';
REVOKE ALL ON FUNCTION _bemi.first_change_of(uuid) FROM PUBLIC;

-- bemi.revert() writes into the context of its changes which transactions they take back.
CREATE FUNCTION _bemi.reverts_of(change_id uuid)
	RETURNS uuid[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(f.id ORDER BY f.id)
		FROM (SELECT DISTINCT _bemi.first_change_of(t.id) AS id
			FROM (SELECT DISTINCT ON (r.transaction_id, r.committed_at) r.id
				FROM _bemi.read_changes(in_context => jsonb_build_object('revertOf',
					jsonb_build_array(jsonb_build_object('transaction', change_id)))) r) t) f
$$;
COMMENT ON FUNCTION _bemi.reverts_of(uuid)
	IS 'internal: first changes of the transactions that took back changes of the transaction with '
		'this first change';
REVOKE ALL ON FUNCTION _bemi.reverts_of(uuid) FROM PUBLIC;

-- What a change has of a large context counts only if the reader sees no change with the whole.
-- In CASE, so that this is looked up by id.
CREATE VIEW bemi.transactions AS
	SELECT c.source, c.database, c.transaction_id, c.committed_at,
			min(c.id::text)::uuid AS change_id,
			count(*) AS changes,
			count(*) FILTER (WHERE c.operation = 'CREATE') AS created,
			count(*) FILTER (WHERE c.operation = 'UPDATE') AS updated,
			count(*) FILTER (WHERE c.operation = 'DELETE') AS deleted,
			count(*) FILTER (WHERE c.operation = 'TRUNCATE') AS truncated,
			array_agg(DISTINCT format('%I.%I', c.schema_name, c.table_name)) AS tables,
			ARRAY(SELECT DISTINCT o.context - '_whole'
				FROM unnest(array_agg(DISTINCT c.context)) o(context)
				WHERE CASE WHEN o.context ? '_whole' THEN
					NOT EXISTS (SELECT FROM _bemi.transaction_changes() h
						WHERE h.id = (o.context ->> '_whole')::uuid
							AND h.committed_at = c.committed_at) ELSE true END
				ORDER BY 1) AS contexts,
			_bemi.reverts_of(min(c.id::text)::uuid) AS reverted_by
		FROM _bemi.transaction_changes() c
		WHERE c.operation <> 'SNAPSHOT'
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
COMMENT ON COLUMN bemi.transactions.reverted_by
	IS 'transactions, by their change_id, in which bemi.revert() took back changes of this one; '
		'NULL if there is none';
REVOKE ALL ON bemi.transactions FROM PUBLIC;

CREATE FUNCTION bemi.transaction(change_id uuid)
	RETURNS SETOF bemi.changes
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	one bemi.changes;
	ids record;
BEGIN
	IF change_id IS NULL THEN
		RAISE EXCEPTION 'id of the change must not be null'
			USING ERRCODE = 'null_value_not_allowed',
				HINT = 'SELECT change_id FROM bemi.transactions WHERE committed_at > ''TIME'';';
	END IF;
	one := _bemi.find_change(change_id);
	SELECT r.first_id, r.last_id INTO ids FROM _bemi.transaction_range(change_id) r;
	-- All have the same time. At the limits of the type, it has no successor.
	RETURN QUERY SELECT c.* FROM _bemi.read_changes(of_sources => ARRAY[one.source],
			from_time => one.committed_at,
			to_time => CASE WHEN isfinite(one.committed_at)
				AND one.committed_at < '294276-12-31 UTC'
				THEN one.committed_at + interval '1 microsecond' END,
			from_id => ids.first_id, to_id => ids.last_id, in_order => 'oldest') c
		WHERE c.committed_at = one.committed_at;
END
$$;
COMMENT ON FUNCTION bemi.transaction(uuid)
	IS 'all changes of the transaction that made this change, in their order';
REVOKE ALL ON FUNCTION bemi.transaction(uuid) FROM PUBLIC;

--
-- A table between two times: bemi.versions(), bemi.diff_table()
--

CREATE FUNCTION _bemi.wrong_change_of_past(target text, change uuid)
	RETURNS boolean
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION 'the history of table "%" does not lead to its rows', target
		USING ERRCODE = 'object_not_in_prerequisite_state',
			DETAIL = format('Change %s removes a row that is not there.', change),
			HINT = 'With allow_gaps => true, the result can be wrong.';
END
$$;
COMMENT ON FUNCTION _bemi.wrong_change_of_past(text, uuid)
	IS 'internal: error if a change of a table without a key removes a row that is not there';
REVOKE ALL ON FUNCTION _bemi.wrong_change_of_past(text, uuid) FROM PUBLIC;

CREATE FUNCTION bemi.versions(target anyelement, from_time timestamptz, to_time timestamptz,
		allow_gaps boolean DEFAULT false, timeout interval DEFAULT '10 seconds')
	RETURNS TABLE (valid_from timestamptz, valid_to timestamptz, change uuid, operation text,
		context jsonb, version anyelement)
	AS 'MODULE_PATHNAME', 'bemi_versions'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.versions(anyelement, timestamptz, timestamptz, boolean, interval)
	IS 'every version that each row of a table had between two times, with the change that made it';
REVOKE ALL ON FUNCTION bemi.versions(anyelement, timestamptz, timestamptz, boolean, interval)
	FROM PUBLIC;

CREATE FUNCTION bemi.diff_table(target anyelement, from_time timestamptz, to_time timestamptz,
		allow_gaps boolean DEFAULT false, timeout interval DEFAULT '10 seconds')
	RETURNS TABLE (kind text, before anyelement, after anyelement)
	AS 'MODULE_PATHNAME', 'bemi_diff_table'
	LANGUAGE C STABLE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.diff_table(anyelement, timestamptz, timestamptz, boolean, interval)
	IS 'rows of a table that differ between two times: kind is CREATE, UPDATE or DELETE';
REVOKE ALL ON FUNCTION bemi.diff_table(anyelement, timestamptz, timestamptz, boolean, interval)
	FROM PUBLIC;

--
-- Taking changes back: later changes of other rows, which mode "cascade" takes back, too
--
-- Later changes of the same row are found by src/revert/walk.c. Those of other rows are found here,
-- from what is in the way of a step: a row that refers to one that would be deleted, a row that a
-- step would refer to and that was deleted, or a row with the same unique value. The last change
-- that made it so is added to the set, the steps are made again, and so on.
--

-- A join with c, the last changes that set columns of a row t.
CREATE FUNCTION _bemi.revert_cause(relation regclass, names name[], history text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format('JOIN %s ON %s AND (c.operation = ''CREATE'' '
			'OR c.operation = ''UPDATE'' AND (%s))',
		history,
		CASE WHEN EXISTS (SELECT FROM _bemi.revert_key(relation))
			THEN format('c.primary_key = _bemi.key_from_image(%L, to_jsonb(t.*))', relation)
			ELSE format('c.after - %L::text[] = to_jsonb(t.*) - %1$L::text[]',
				_bemi.revert_generated(relation)) END,
		(SELECT string_agg(format('c.before -> %L IS DISTINCT FROM c.after -> %1$L', n), ' OR ')
			FROM unnest(names) n))
$$;
COMMENT ON FUNCTION _bemi.revert_cause(regclass, name[], text)
	IS 'internal: join of a row t with the changes c that have set these columns';
REVOKE ALL ON FUNCTION _bemi.revert_cause(regclass, name[], text) FROM PUBLIC;

-- The conditions are those of the findings of the same subject.
CREATE FUNCTION _bemi.revert_in_the_way(relations regclass[], sources text[], running bigint[],
		first_id uuid, first_time timestamptz)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH found(query) AS (
		-- rows that refer to a row that would be deleted
		SELECT format($query$
				SELECT DISTINCT ON (t.tableoid, t.ctid) c.id FROM bemi_steps s
					JOIN %1$s t ON %2$s %3$s
				WHERE s.tbl = %4$s AND s.verdict = 'ok' AND (s.kind = 'DELETE'
						OR %5$L AND s.kind = 'UPDATE' AND s.value_after ?| %6$L)
				ORDER BY t.tableoid, t.ctid, c.id DESC$query$,
			f.child,
			(SELECT string_agg(format('(s.row_now ->> %L)::%s %s t.%I', k.parent, k.type,
					k.operator, k.child), ' AND ')
				FROM unnest(f.parent_names, f.parent_types, f.operators, f.child_names)
					k(parent, type, operator, child)),
			_bemi.revert_cause(f.child, f.child_names, h.history),
			f.parent_number, f.on_update <> 'c', f.parent_names)
		FROM _bemi.revert_foreign_keys(relations) f, LATERAL _bemi.revert_history(f.child, sources,
				running, first_id, first_time) h(history)
		WHERE f.parent_number > 0 AND f.child_readable
		UNION ALL
		-- rows that a step refers to, and that others have removed
		SELECT format($query$
				SELECT DISTINCT ON (s.tbl, s.slot, s.part) c.id FROM bemi_steps s
					JOIN %1$s ON %2$s AND (c.operation = 'DELETE'
						OR c.operation = 'UPDATE' AND (%3$s))
				WHERE s.tbl = %4$s AND s.verdict = 'ok' AND s.kind <> 'DELETE'
					AND s.value_after ?| %5$L AND %8$s
					AND NOT EXISTS (SELECT FROM %6$s t WHERE %7$s)
				ORDER BY s.tbl, s.slot, s.part, c.id DESC$query$,
			h.history,
			(SELECT string_agg(format('c.before -> %L = (%s)', k.parent,
					_bemi.revert_member('s', k.child)), ' AND ')
				FROM unnest(f.parent_names, f.child_names) k(parent, child)),
			(SELECT string_agg(format('c.before -> %L IS DISTINCT FROM c.after -> %1$L', n),
					' OR ')
				FROM unnest(f.parent_names) n),
			f.child_number, f.child_names, f.parent,
			(SELECT string_agg(format('t.%I %s ((%s) #>> %L)::%s', k.parent, k.operator,
					_bemi.revert_member('s', k.child), '{}', k.type), ' AND ')
				FROM unnest(f.parent_names, f.child_names, f.operators, f.child_types)
					k(parent, child, operator, type)),
			(SELECT string_agg(format('(%s) <> %L', _bemi.revert_member('s', k), 'null'), ' AND ')
				FROM unnest(f.child_names) k))
		FROM _bemi.revert_foreign_keys(relations) f, LATERAL _bemi.revert_history(f.parent, sources,
				running, first_id, first_time) h(history)
		WHERE f.child_number > 0 AND f.parent_readable
		UNION ALL
		-- rows that have the unique value of a step
		SELECT format($query$
				SELECT DISTINCT ON (t.tableoid, t.ctid) c.id FROM bemi_steps s
					CROSS JOIN LATERAL %6$s v JOIN %1$s ON %2$s
						AND (t.tableoid, t.ctid) IS DISTINCT FROM (s.row_table, s.row_ctid) %3$s
				WHERE s.tbl = %4$s AND s.verdict = 'ok' AND s.kind <> 'DELETE'
					AND s.value_after ?| %5$L
				ORDER BY t.tableoid, t.ctid, c.id DESC$query$,
			i.rows, i.same, _bemi.revert_cause(i.relation, i.names::name[], h.history), i.number,
			i.names, _bemi.revert_tuple(i.tuple, 's'))
		FROM _bemi.revert_unique(relations) i, LATERAL _bemi.revert_history(i.relation, sources,
				running, first_id, first_time) h(history)
	)
	SELECT string_agg(format('(%s)', f.query), ' UNION ALL ') FROM found f
$$;
COMMENT ON FUNCTION _bemi.revert_in_the_way(regclass[], text[], bigint[], uuid, timestamptz)
	IS 'internal: query of later changes of other rows that are in the way of steps; NULL if none '
		'can be';
REVOKE ALL ON FUNCTION _bemi.revert_in_the_way(regclass[], text[], bigint[], uuid, timestamptz)
	FROM PUBLIC;

CREATE FUNCTION _bemi.revert_added(in_the_way text, added text)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format('SELECT CASE WHEN bool_or(u.id <> ALL (%1$L::uuid[])) '
		'THEN array_agg(DISTINCT u.id)::text END '
		'FROM (SELECT x.id FROM (%2$s) x UNION ALL SELECT unnest(%1$L::uuid[])) u(id)',
		coalesce(added, '{}'), in_the_way)
$$;
COMMENT ON FUNCTION _bemi.revert_added(text, text)
	IS 'internal: query of the ids that are added to the set; NULL if they have all been added';
REVOKE ALL ON FUNCTION _bemi.revert_added(text, text) FROM PUBLIC;

--
-- Taking changes back: the set of changes, and the events of its rows
--
-- docs/internals/reverting.md explains the design. src/revert/plan.c makes a plan: functions of
-- this folder make queries for the set of changes, and those of this file read the changes as
-- events. src/revert/walk.c turns the events into steps.
--

-- Only the first change of a transaction with a large context has all of it, see
-- bemi.full_context(). Those after it name this one. Without all of them, only the first change
-- would be taken back. The operator || decompresses.
CREATE FUNCTION _bemi.revert_context(context jsonb, in_time text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	condition text := format('c.context @> %L', context);
	firsts jsonb[];
BEGIN
	EXECUTE format('SELECT array_agg(jsonb_build_object(''_whole'', f.id))
		FROM (SELECT DISTINCT ON (c.source, c.transaction_id, c.committed_at, c.context) c.id
			FROM bemi.changes c WHERE %s AND pg_column_size(c.context || ''{}'') > 2048
				AND NOT c.context ? ''_whole''
			ORDER BY c.source, c.transaction_id, c.committed_at, c.context, c.id) f',
		concat_ws(' AND ', condition, in_time)) INTO firsts;
	RETURN condition || CASE WHEN firsts IS NULL THEN ''
		ELSE format(' OR c.context @> ANY (%L)', firsts) END;
END
$$;
COMMENT ON FUNCTION _bemi.revert_context(jsonb, text)
	IS 'internal: condition on bemi.changes c that changes with this part of a context meet';
REVOKE ALL ON FUNCTION _bemi.revert_context(jsonb, text) FROM PUBLIC;

-- All changes of one transaction have ids in one range. has_large: some of the changes that have
-- this context may be the first ones of a large one.
CREATE FUNCTION _bemi.revert_condition(changes uuid[], transaction_of uuid, context jsonb,
		from_time timestamptz, to_time timestamptz, has_large boolean)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	found record;
	missing uuid;
	in_time text := nullif(concat_ws(' AND ',
		CASE WHEN from_time IS NOT NULL THEN format('c.committed_at >= %L', from_time) END,
		CASE WHEN to_time IS NOT NULL THEN format('c.committed_at < %L', to_time) END), '');
BEGIN
	IF num_nonnulls(changes, transaction_of, context) <> 1 THEN
		RAISE EXCEPTION 'exactly one of changes, transaction_of and context must be given'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'SELECT * FROM bemi.plan_revert(changes => ARRAY[ID]);';
	ELSIF context IS NULL AND num_nonnulls(from_time, to_time) > 0 THEN
		RAISE EXCEPTION 'from_time and to_time can only be given with context'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = 'With context => ''{}'', all changes of the time range are meant.';
	ELSIF jsonb_typeof(context) <> 'object' THEN
		RAISE EXCEPTION 'context must be a JSON object'
			USING ERRCODE = 'invalid_parameter_value';
	ELSIF context = '{}' AND from_time IS NULL THEN
		RAISE EXCEPTION 'an empty context needs from_time'
			USING ERRCODE = 'invalid_parameter_value',
				DETAIL = 'Without both, the complete history would be taken back.',
				HINT = 'SELECT * FROM bemi.plan_revert(context => ''{}'', '
					'from_time => now() - interval ''10 minutes'');';
	ELSIF from_time > to_time THEN
		RAISE EXCEPTION 'time range from % to % is not valid', from_time, to_time
			USING ERRCODE = 'invalid_parameter_value', DETAIL = 'It ends before it begins.';
	END IF;

	IF changes IS NOT NULL THEN
		SELECT min(c.committed_at) AS first_time, max(c.committed_at) AS last_time,
				array_agg(c.id) AS ids,
				min(c.id::text) FILTER (WHERE c.operation = 'SNAPSHOT') AS of_baseline
			INTO found FROM bemi.changes c WHERE c.id = ANY (revert_condition.changes);
		missing := (SELECT u FROM unnest(changes) u
			WHERE u <> ALL (coalesce(found.ids, '{}')) LIMIT 1);
		IF missing IS NOT NULL THEN
			PERFORM _bemi.find_change(missing);
		ELSIF found.ids IS NULL THEN
			RAISE EXCEPTION 'changes must have at least one id'
				USING ERRCODE = 'invalid_parameter_value';
		END IF;
		IF found.of_baseline IS NOT NULL THEN
			RAISE EXCEPTION 'change "%" is a row of a baseline', found.of_baseline
				USING ERRCODE = 'invalid_parameter_value',
					DETAIL = 'It shows a row as it was, and has changed nothing.',
					HINT = 'bemi.restore() brings a row back to what it was.';
		END IF;
		RETURN format('c.id = ANY (%L::uuid[]) AND c.committed_at BETWEEN %L AND %L',
			found.ids, found.first_time, found.last_time);
	ELSIF transaction_of IS NOT NULL THEN
		SELECT min(t.id::text) AS first_id, max(t.id::text) AS last_id, min(t.committed_at) AS time,
				min(t.source) AS source
			INTO found FROM bemi.transaction(transaction_of) t;
		RETURN format('c.id BETWEEN %L AND %L AND c.committed_at = %L AND c.source = %L',
			found.first_id, found.last_id, found.time, found.source);
	END IF;
	RETURN concat_ws(' AND ', CASE WHEN context <> '{}'
		THEN format('(%s)', CASE WHEN has_large THEN _bemi.revert_context(context, in_time)
			ELSE format('c.context @> %L', context) END) END, in_time,
		format('c.source = ANY (%L)', (_bemi.history_of('bemi.changes')).sources));
END
$$;
COMMENT ON FUNCTION _bemi.revert_condition(uuid[], uuid, jsonb, timestamptz, timestamptz, boolean)
	IS 'internal: condition on bemi.changes c that the changes to be taken back meet';
REVOKE ALL ON FUNCTION _bemi.revert_condition(uuid[], uuid, jsonb, timestamptz, timestamptz,
	boolean) FROM PUBLIC;

-- A value of by_record has no text that a cast would read.
CREATE FUNCTION _bemi.revert_key(relation regclass, OUT place bigint, OUT name name, OUT type text,
		OUT equals text, OUT by_record boolean)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	-- With -1, bpchar and bit are not cut to one character.
	SELECT k.place, a.attname, format_type(a.atttypid, -1),
			format('OPERATOR(%I.%s)', n.nspname, o.oprname),
			y.typtype IN ('d', 'c') OR y.typcategory = 'A'
		FROM pg_index i
			CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[])
				WITH ORDINALITY k(attnum, class, place)
			JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
			JOIN pg_type y ON y.oid = a.atttypid
			JOIN pg_opclass c ON c.oid = k.class
			JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
				AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
			JOIN pg_operator o ON o.oid = m.amopopr
			JOIN pg_namespace n ON n.oid = o.oprnamespace
		WHERE i.indrelid = relation AND i.indisprimary AND k.place <= i.indnkeyatts
		ORDER BY k.place
$$;
COMMENT ON FUNCTION _bemi.revert_key(regclass)
	IS 'internal: columns of the primary key, with their equality';
REVOKE ALL ON FUNCTION _bemi.revert_key(regclass) FROM PUBLIC;

-- The columns that can be written. The history of newer servers also has generated ones.
CREATE FUNCTION _bemi.revert_columns(relation regclass,
		OUT place smallint, OUT name text, OUT type text, OUT is_key boolean, OUT equals text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT a.attnum, a.attname::text, format_type(a.atttypid, a.atttypmod), k.name IS NOT NULL,
			k.equals
		FROM pg_attribute a LEFT JOIN _bemi.revert_key(relation) k ON k.name = a.attname
		WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
			AND a.attgenerated = ''
$$;
COMMENT ON FUNCTION _bemi.revert_columns(regclass)
	IS 'internal: columns of a table that are not generated';
REVOKE ALL ON FUNCTION _bemi.revert_columns(regclass) FROM PUBLIC;

-- Members of a row in the history that no column of today can take.
CREATE FUNCTION _bemi.revert_generated(relation regclass)
	RETURNS text[]
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT a.attname::text FROM pg_attribute a
		WHERE a.attrelid = relation AND a.attnum > 0 AND a.attgenerated <> '')
$$;
COMMENT ON FUNCTION _bemi.revert_generated(regclass)
	IS 'internal: generated columns of a table';
REVOKE ALL ON FUNCTION _bemi.revert_generated(regclass) FROM PUBLIC;

-- Changes of a table as events: slot, id, kind, in_set, before, after, committed_at, context. In a
-- table without a key, the row itself is its slot, so an UPDATE is two events.
CREATE FUNCTION _bemi.revert_changes(relation regclass, history text, in_set boolean,
		condition text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format(CASE WHEN k.moved IS NOT NULL
		THEN $query$SELECT c.primary_key AS slot, c.id, CASE WHEN c.operation = 'UPDATE' AND (%1$s)
				THEN 'A' ELSE left(c.operation, 1) END AS kind, %4$L::boolean AS in_set,
			%2$s AS before, %3$s AS after, c.committed_at, %6$s AS context
		FROM %7$s WHERE %5$s$query$
		ELSE $query$SELECT (CASE WHEN e.kind IN ('D', 'L') THEN %2$s ELSE %3$s END)::text AS slot,
			c.id, e.kind, %4$L::boolean AS in_set, %2$s AS before,
			CASE WHEN e.kind = 'L' THEN '{}' ELSE %3$s END AS after, c.committed_at, %6$s AS context
		FROM %7$s JOIN (VALUES ('CREATE', 'C'), ('DELETE', 'D'), ('UPDATE', 'L'),
				('UPDATE', 'A')) e(operation, kind) ON e.operation = c.operation
		WHERE %5$s$query$ END,
		k.moved, 'c.before' || g.without, 'c.after' || g.without, in_set, condition,
		-- Only changes of others are described in reasons, and may be reverts.
		CASE WHEN in_set THEN format('%L::jsonb', '{}') ELSE 'c.full_context' END, history)
	FROM (SELECT string_agg(format('c.before ->> %L <> c.after ->> %1$L', c.name), ' OR ')
				AS moved FROM _bemi.revert_key(relation) c) k,
		(SELECT coalesce(' - ' || quote_literal(nullif(_bemi.revert_generated(relation), '{}'))
				|| '::text[]', '')
				AS without) g
$$;
COMMENT ON FUNCTION _bemi.revert_changes(regclass, text, boolean, text)
	IS 'internal: query of changes of one table, as events';
REVOKE ALL ON FUNCTION _bemi.revert_changes(regclass, text, boolean, text) FROM PUBLIC;

-- The rows that TRUNCATEs of the set have removed, as events, from the history alone. Today's table
-- knows nothing of them. If the history does not know all of them, the reason is returned.
CREATE FUNCTION _bemi.revert_truncated(relation regclass, history text, condition text,
		OUT events text, OUT reason text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	slot text := CASE WHEN EXISTS (SELECT FROM _bemi.revert_key(relation))
		THEN format('_bemi.key_from_image(%L, t.image)', relation)
		ELSE format('(t.image - %L::text[])::text', _bemi.revert_generated(relation)) END;
	truncation record;
	rows_before text;
BEGIN
	FOR truncation IN EXECUTE format('SELECT c.* FROM %s WHERE c.operation = ''TRUNCATE'' '
		'AND c.primary_key IS NULL AND (%s)', history, condition)
	LOOP
		rows_before := format('(SELECT _bemi.rename_members(r, %L) FROM '
			'bemi.source_as_of_json(%L, %L, %L, before => %L) r) t(image)', truncation.names,
			truncation.source, truncation.schema, truncation."table", truncation.id);
		BEGIN
			EXECUTE format('SELECT count(*) FROM %s', rows_before);
		EXCEPTION WHEN object_not_in_prerequisite_state OR feature_not_supported
				OR data_exception OR no_data_found THEN
			reason := SQLERRM;
			RETURN;
		END;
		-- The rows of the past have the names of each change that led to them.
		IF EXISTS (SELECT FROM _bemi.base_of_past(truncation.source, truncation.schema,
					truncation."table", truncation.id, NULL) b,
				_bemi.revert_names(relation, ARRAY[truncation.source]) n
			WHERE n.from_id > b.id AND n.from_id < truncation.id) THEN
			reason := 'a column was renamed after the last baseline before it';
			RETURN;
		END IF;
		events := concat_ws(' UNION ALL ', events, format('SELECT %s AS slot, %L::uuid AS id, '
			'%L AS kind, true AS in_set, t.image - %L::text[] AS before, %L::jsonb AS after, '
			'%L::timestamptz AS committed_at, %5$L::jsonb AS context FROM %7$s', slot,
			truncation.id, 'D', _bemi.revert_generated(relation), '{}', truncation.committed_at,
			rows_before));
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.revert_truncated(regclass, text, text)
	IS 'internal: query of the rows that TRUNCATE has removed, as events, or why they are not '
		'known; NULL if there is no TRUNCATE';
REVOKE ALL ON FUNCTION _bemi.revert_truncated(regclass, text, text) FROM PUBLIC;

-- Events of one table in the set: its changes, and a second event for each change of the key.
-- src/revert/walk.c explains the kinds. The result becomes bemi_set.
CREATE FUNCTION _bemi.revert_set(number integer, relation regclass, history text, condition text,
		truncated text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	changes text := _bemi.revert_changes(relation, history, true, format(
		'c.operation IN (''CREATE'', ''UPDATE'', ''DELETE'') AND (%s)', condition));
	has_key boolean := EXISTS (SELECT FROM _bemi.revert_key(relation));
BEGIN
	RETURN format('SELECT %s AS tbl, x.* FROM (%s) x', number, CASE WHEN has_key
		THEN format('WITH y AS (%s) SELECT * FROM y UNION ALL '
			'SELECT _bemi.key_from_image(%L, y.before), y.id, ''L'', true, y.before, ''{}'', '
			'y.committed_at, y.context FROM y WHERE y.kind = ''A''',
			concat_ws(' UNION ALL ', changes, truncated), relation)
		ELSE concat_ws(' UNION ALL ', changes, truncated) END);
END
$$;
COMMENT ON FUNCTION _bemi.revert_set(integer, regclass, text, text, text)
	IS 'internal: query of the events of one table in the set';
REVOKE ALL ON FUNCTION _bemi.revert_set(integer, regclass, text, text, text) FROM PUBLIC;

-- A column of the key in an image.
CREATE FUNCTION _bemi.revert_key_value(relation regclass, image text, name name, type text,
		by_record boolean)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN by_record
		THEN format('(jsonb_populate_record(NULL::%s, %s)).%I', relation, image, name)
		ELSE format('((%s) ->> %L)::%s', image, name, type) END
$$;
COMMENT ON FUNCTION _bemi.revert_key_value(regclass, text, name, text, boolean)
	IS 'internal: SQL expression of a column of the key in a row of the history';
REVOKE ALL ON FUNCTION _bemi.revert_key_value(regclass, text, name, text, boolean) FROM PUBLIC;

-- Conditions under which a row t of today is that of an image.
CREATE FUNCTION _bemi.revert_same_key(relation regclass, image text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format('t.%I %s %s', k.name, k.equals,
			_bemi.revert_key_value(relation, image, k.name, k.type, k.by_record)), ' AND ')
		FROM _bemi.revert_key(relation) k
$$;
COMMENT ON FUNCTION _bemi.revert_same_key(regclass, text)
	IS 'internal: condition that a row t has the key of an image; NULL if the table has none';
REVOKE ALL ON FUNCTION _bemi.revert_same_key(regclass, text) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_only(relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END || relation FROM pg_class c
		WHERE c.oid = relation
$$;
COMMENT ON FUNCTION _bemi.revert_only(regclass)
	IS 'internal: the table without those that inherit from it, but with its partitions';
REVOKE ALL ON FUNCTION _bemi.revert_only(regclass) FROM PUBLIC;

-- The later changes of rows of the set by others. If the set has several changes of a row, some
-- are there several times, which the walk notices. A DISTINCT would keep the planner from knowing
-- how many rows there are. "rows" is an item of FROM with the alias s.
CREATE FUNCTION _bemi.revert_later(number integer, relation regclass, rows text, history text,
		condition text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT o.*, NULL::tid AS row_ctid, NULL::oid AS row_table
			FROM (SELECT %1$s AS tbl, o.* FROM %5$s JOIN (%2$s) o USING (slot)
				UNION ALL SELECT %1$s, NULL, c.id, 'T', false, '{}', '{}', c.committed_at,
						c.full_context
					FROM %3$s WHERE NOT (%4$s) AND c.operation = 'TRUNCATE'
						AND c.primary_key IS NULL) o$query$,
		number,
		_bemi.revert_changes(relation, history, false, format(
			'c.operation IN (''CREATE'', ''UPDATE'', ''DELETE'') AND NOT (%s)', condition)),
		history, condition, rows)
$$;
COMMENT ON FUNCTION _bemi.revert_later(integer, regclass, text, text, text)
	IS 'internal: query of later events of the same rows by others';
REVOKE ALL ON FUNCTION _bemi.revert_later(integer, regclass, text, text, text) FROM PUBLIC;

-- Besides those of bemi_set, the events of one table: the later changes of the same rows by others,
-- and the rows as they are now. "tbl = number" outside of a CASE would keep the planner from
-- knowing how many rows there are.
CREATE FUNCTION _bemi.revert_events(number integer, relation regclass, history text,
		condition text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	image constant text := $i$CASE WHEN s.kind IN ('D', 'L') THEN s.before ELSE s.after END$i$;
	row_now text := 'to_jsonb(t.*)' || coalesce(' - '
		|| quote_literal(nullif(_bemi.revert_generated(relation), '{}')) || '::text[]', '');
	of_number text := format('CASE WHEN s.tbl = %s THEN true ELSE false END', number);
BEGIN
	RETURN format($query$%s
		UNION ALL
		SELECT s.tbl, s.slot, 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'N', false, '{}', %s,
				'epoch', '{}', t.ctid, t.tableoid
			FROM bemi_set s JOIN %s t ON %s WHERE %s$query$,
		_bemi.revert_later(number, relation, format('(SELECT s.slot FROM bemi_set s WHERE %s) s',
			of_number), history, condition),
		row_now, _bemi.revert_only(relation),
		coalesce(_bemi.revert_same_key(relation, image), format('(%s)::text = s.slot', row_now)),
		of_number);
END
$$;
COMMENT ON FUNCTION _bemi.revert_events(integer, regclass, text, text)
	IS 'internal: query of the events of one table, besides those in bemi_set';
REVOKE ALL ON FUNCTION _bemi.revert_events(integer, regclass, text, text) FROM PUBLIC;

-- The row t of today as jsonb. By the columns, the planner need not make a value of the complete
-- row before it knows that it is wanted. A function has at most 100 arguments.
CREATE FUNCTION _bemi.revert_row_now(relation regclass, names text[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN count(*) > 50 THEN 'to_jsonb(t.*)'
			ELSE format('jsonb_build_object(%s)', string_agg(format('%L, t.%I', c.name, c.name),
				', ' ORDER BY c.place)) END
		FROM _bemi.revert_columns(relation) c WHERE coalesce(c.name = ANY (names), true)
$$;
COMMENT ON FUNCTION _bemi.revert_row_now(regclass, text[])
	IS 'internal: SQL expression of a row as jsonb, for a table without generated columns; all '
		'columns, or at least those with these names';
REVOKE ALL ON FUNCTION _bemi.revert_row_now(regclass, text[]) FROM PUBLIC;

-- A query of all rows of a table: place, key, and the columns that the set has changed. src/revert/
-- reader.c compares their texts with the history, so only for types whose texts are those of JSON.
CREATE FUNCTION _bemi.revert_reading(target regclass, changed text[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT t.ctid, t.%I, %s FROM ONLY %s t', k.name,
			string_agg(format('t.%I', a.attname), ', ' ORDER BY a.attnum), target)
		FROM pg_class c, _bemi.revert_key(target) k, pg_attribute a
		WHERE c.oid = target AND c.relkind = 'r' AND a.attrelid = target AND NOT a.attisdropped
			AND a.attname = ANY (changed)
		GROUP BY k.name
		HAVING count(*) = cardinality(changed)
			AND NOT EXISTS (SELECT FROM _bemi.revert_key(target) o WHERE o.place > 1)
			AND bool_and(a.atttypid = ANY ('{bool,int2,int4,int8,numeric,text,varchar,uuid}'
				::regtype[]))
			AND EXISTS (SELECT FROM pg_attribute p WHERE p.attrelid = target AND p.attname = k.name
				AND p.atttypid = ANY ('{int2,int4,int8,numeric,text,varchar,uuid}'::regtype[]))
$$;
COMMENT ON FUNCTION _bemi.revert_reading(regclass, text[])
	IS 'internal: query of all rows of a table, with these columns; NULL if it cannot be used';
REVOKE ALL ON FUNCTION _bemi.revert_reading(regclass, text[]) FROM PUBLIC;

-- The same as _bemi.revert_events() for a plain table, whose changes become events without a query.
-- The rows of today are found by the keys of its changes in bemi_changes, and named by their
-- numbers. OFFSET 0 keeps the planner from hashing the images, too. is_its: condition on
-- bemi_changes s. changed: the columns that the set has changed, or NULL if it has inserted or
-- deleted rows.
CREATE FUNCTION _bemi.revert_plain(number integer, relation regclass, is_its text, history text,
		condition text, changed text[], OUT later text, OUT rows_now text, OUT values_now text)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	image constant text := $i$CASE s.operation WHEN 'DELETE' THEN s.before ELSE s.after END$i$;
BEGIN
	later := _bemi.revert_later(number, relation, format(
		'(SELECT s.primary_key AS slot FROM bemi_changes s WHERE %s) s', is_its), history,
		condition);
	rows_now := (SELECT format('SELECT s.n, t.ctid, t.tableoid, %%s AS image FROM '
			'(SELECT s.n, %s FROM bemi_changes s WHERE %s OFFSET 0) s JOIN %s t ON %s',
			string_agg(format('%s AS key_%s', _bemi.revert_key_value(relation, image, k.name,
				k.type, k.by_record), k.place), ', '), is_its, _bemi.revert_only(relation),
			string_agg(format('t.%I %s s.key_%s', k.name, k.equals, k.place), ' AND '))
		FROM _bemi.revert_key(relation) k);
	values_now := replace(rows_now, '%s', _bemi.revert_row_now(relation, changed));
	rows_now := replace(rows_now, '%s', _bemi.revert_row_now(relation, NULL));
END
$$;
COMMENT ON FUNCTION _bemi.revert_plain(integer, regclass, text, text, text, text[])
	IS 'internal: queries of the later changes and of the rows of one table whose changes are read '
		'as they are';
REVOKE ALL ON FUNCTION _bemi.revert_plain(integer, regclass, text, text, text, text[])
	FROM PUBLIC;

--
-- Taking changes back: the statement of a step, and its values, as SQL expressions
--

-- Types without an equality, such as json and point, are compared as jsonb.
CREATE FUNCTION _bemi.revert_is_comparable(type oid)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE inner_type AS (
		SELECT type AS id
		UNION ALL
		SELECT CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE y.typelem END
			FROM inner_type i JOIN pg_type y ON y.oid = i.id
			WHERE y.typtype = 'd' OR y.typcategory = 'A' AND y.typelem <> 0
	)
	SELECT NOT EXISTS (SELECT FROM inner_type i JOIN pg_type y ON y.oid = i.id
		WHERE y.typtype = 'b' AND y.typcategory <> 'A' AND NOT EXISTS (
			SELECT FROM pg_operator o WHERE o.oprname = '=' AND o.oprleft = o.oprright
				AND (o.oprleft = i.id OR o.oprleft IN (SELECT c.casttarget FROM pg_cast c
					WHERE c.castsource = i.id AND c.castmethod = 'b' AND c.castcontext = 'i'))))
$$;
COMMENT ON FUNCTION _bemi.revert_is_comparable(oid)
	IS 'internal: whether values of a type can be compared with the operator =';
REVOKE ALL ON FUNCTION _bemi.revert_is_comparable(oid) FROM PUBLIC;

-- A condition of a statement: the column has the value of the row now.
CREATE FUNCTION _bemi.revert_same_value(relation regclass, name text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN _bemi.revert_is_comparable(a.atttypid)
			THEN format('format(''%%s IS NOT DISTINCT FROM %%L'', %L, o.%I)', quote_ident(name),
				name)
			ELSE format('format(''to_jsonb(%%s) IS NOT DISTINCT FROM %%L'', %L, to_jsonb(o.%I))',
				quote_ident(name), name) END
		FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = name
$$;
COMMENT ON FUNCTION _bemi.revert_same_value(regclass, text)
	IS 'internal: SQL expression of a condition that a column has not changed since the plan';
REVOKE ALL ON FUNCTION _bemi.revert_same_value(regclass, text) FROM PUBLIC;

-- The statement of a step, as an expression on bemi_steps s, and on the rows n (values after) and
-- o (row now) of the table's type.
CREATE FUNCTION _bemi.revert_text(relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($text$CASE s.kind
			WHEN 'INSERT' THEN format('INSERT INTO %%s (%%s)%1$s VALUES (%%s);', %2$L,
				array_to_string(ARRAY[%3$s], ', '), array_to_string(ARRAY[%4$s], ', '))
			WHEN 'DELETE' THEN format('DELETE FROM %%s WHERE %%s;', %2$L,
				array_to_string(ARRAY[%5$s], ' AND '))
			ELSE format('UPDATE %%s SET %%s WHERE %%s;', %2$L,
				array_to_string(ARRAY[%6$s], ', '),
				array_to_string(ARRAY[%5$s%7$s], ' AND '))
			END$text$,
		CASE WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation
			AND a.attidentity <> '') THEN ' OVERRIDING SYSTEM VALUE' ELSE '' END,
		relation,
		string_agg(format('CASE WHEN s.value_after ? %L THEN %L END', c.name,
			quote_ident(c.name)), ', ' ORDER BY c.place),
		string_agg(format('CASE WHEN s.value_after ? %L THEN format(''%%L'', n.%I) END', c.name,
			c.name), ', ' ORDER BY c.place),
		coalesce(string_agg(format('format(''%%s = %%L'', %L, o.%I)', quote_ident(c.name), c.name),
				', ' ORDER BY c.place) FILTER (WHERE c.is_key),
			string_agg(_bemi.revert_same_value(relation, c.name), ', ' ORDER BY c.place)),
		string_agg(format('CASE WHEN s.value_after ? %L THEN format(''%%s = %%L'', %L, n.%I) END',
			c.name, quote_ident(c.name), c.name), ', ' ORDER BY c.place),
		coalesce(string_agg(format(', CASE WHEN s.value_after ? %L THEN %s END', c.name,
			_bemi.revert_same_value(relation, c.name)), '' ORDER BY c.place)
			FILTER (WHERE NOT c.is_key AND k.exists), ''))
	FROM _bemi.revert_columns(relation) c,
		(SELECT bool_or(w.is_key) FROM _bemi.revert_columns(relation) w) k(exists)
$$;
COMMENT ON FUNCTION _bemi.revert_text(regclass)
	IS 'internal: SQL expression of the statement of a step of this table';
REVOKE ALL ON FUNCTION _bemi.revert_text(regclass) FROM PUBLIC;

-- A member of a row after a step.
CREATE FUNCTION _bemi.revert_member(step text, name name)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format('CASE WHEN %1$s.value_after ? %2$L THEN %1$s.value_after ELSE %1$s.row_now END '
		'-> %2$L', step, name)
$$;
COMMENT ON FUNCTION _bemi.revert_member(text, name)
	IS 'internal: SQL expression of a value after a step';
REVOKE ALL ON FUNCTION _bemi.revert_member(text, name) FROM PUBLIC;

--
-- Taking changes back: why a step cannot be carried out, and its place in the order
--

-- Foreign keys from or to a table of the plan. Number 0: the other table is not in the
-- plan. readable: whether the caller sees all of its rows, because the server decides on others.
CREATE FUNCTION _bemi.revert_foreign_keys(relations regclass[],
		OUT name name, OUT child regclass, OUT child_number integer, OUT child_readable boolean,
		OUT child_names name[], OUT child_types text[], OUT parent regclass,
		OUT parent_number integer, OUT parent_readable boolean, OUT parent_names name[],
		OUT parent_types text[],
		OUT operators text[], OUT on_update "char", OUT on_delete "char")
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.conname, f.conrelid, coalesce(array_position(relations, f.conrelid::regclass), 0),
			has_table_privilege(f.conrelid, 'SELECT') AND NOT row_security_active(f.conrelid),
			c.child_names, c.child_types, f.confrelid,
			coalesce(array_position(relations, f.confrelid::regclass), 0),
			has_table_privilege(f.confrelid, 'SELECT') AND NOT row_security_active(f.confrelid),
			c.parent_names, c.parent_types, c.operators, f.confupdtype,
			f.confdeltype
		FROM pg_constraint f CROSS JOIN LATERAL (
			SELECT array_agg(a.attname ORDER BY k.place) AS child_names,
					array_agg(format_type(a.atttypid, -1) ORDER BY k.place) AS child_types,
					array_agg(b.attname ORDER BY k.place) AS parent_names,
					array_agg(format_type(b.atttypid, -1) ORDER BY k.place) AS parent_types,
					array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.place)
						AS operators
				FROM unnest(f.conkey, f.confkey, f.conpfeqop) WITH ORDINALITY
						k(child_number, parent_number, operator, place)
					JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.child_number
					JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = k.parent_number
					JOIN pg_operator o ON o.oid = k.operator
					JOIN pg_namespace n ON n.oid = o.oprnamespace) c
		WHERE f.contype = 'f' AND f.conparentid = 0
			AND (f.conrelid = ANY (relations) OR f.confrelid = ANY (relations))
$$;
COMMENT ON FUNCTION _bemi.revert_foreign_keys(regclass[])
	IS 'internal: foreign keys of the tables of a plan';
REVOKE ALL ON FUNCTION _bemi.revert_foreign_keys(regclass[]) FROM PUBLIC;

-- Which step must come before which other one, as rows (former, latter, ...): the position of each,
-- which is that in the plan once the steps are numbered (depth), and whether bemi.revert() minds.
--
-- A step that sets a unique value comes after the one that takes it away from the row that has it.
--
-- Foreign keys are checked after all steps, but who pastes the statements needs an order. A cascade
-- is recorded after its cause, so a row would be inserted before the row that it refers to.
CREATE FUNCTION _bemi.revert_order(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH pair(query) AS (
		-- The row that is referred to is there first.
		SELECT format($query$
				SELECT b.depth AS former, a.depth AS latter, false AS is_hard,
					%6$s AS is_violated
				FROM bemi_steps a JOIN bemi_steps b ON %1$s
				WHERE a.tbl = %2$s AND a.verdict = 'ok' AND a.kind <> 'DELETE'
					AND a.value_after ?| %3$L
					AND b.tbl = %4$s AND b.verdict = 'ok' AND b.kind <> 'DELETE'
					AND b.value_after ?| %5$L AND (a.tbl, a.slot) <> (b.tbl, b.slot)$query$,
			(SELECT string_agg(format('(%s) = (%s)', _bemi.revert_member('b', k.parent),
					_bemi.revert_member('a', k.child)), ' AND ')
				FROM unnest(f.parent_names, f.child_names) k(parent, child)),
			f.child_number, f.child_names, f.parent_number, f.parent_names,
			_bemi.revert_violated())
		FROM _bemi.revert_foreign_keys(relations) f
		WHERE f.child_number > 0 AND f.parent_number > 0
		UNION ALL
		-- The row that is referred to goes last.
		SELECT format($query$
				SELECT b.depth AS former, a.depth AS latter, false AS is_hard,
					%6$s AS is_violated
				FROM bemi_steps a JOIN bemi_steps b ON %1$s
				WHERE a.tbl = %4$s AND a.verdict = 'ok' AND a.kind = 'DELETE'
					AND b.tbl = %2$s AND b.verdict = 'ok' AND (b.kind = 'DELETE'
						OR b.kind = 'UPDATE' AND b.value_after ?| %3$L)
					AND (a.tbl, a.slot) <> (b.tbl, b.slot)$query$,
			(SELECT string_agg(format('a.row_now -> %L = b.row_now -> %L', k.parent, k.child),
					' AND ')
				FROM unnest(f.parent_names, f.child_names) k(parent, child)),
			f.child_number, f.child_names, f.parent_number, f.parent_names,
			_bemi.revert_violated())
		FROM _bemi.revert_foreign_keys(relations) f
		WHERE f.child_number > 0 AND f.parent_number > 0
		UNION ALL
		-- A value is free first.
		SELECT format($query$
				SELECT b.depth AS former, a.depth AS latter, %6$L::boolean AS is_hard,
					%7$s AS is_violated
				FROM bemi_steps a CROSS JOIN LATERAL %1$s v JOIN %2$s ON %3$s
					JOIN bemi_steps b ON b.row_table = t.tableoid AND b.row_ctid = t.ctid
				WHERE a.tbl = %4$s AND a.verdict = 'ok' AND a.kind <> 'DELETE'
					AND a.value_after ?| %5$L
					AND b.tbl = %4$s AND b.verdict = 'ok'
					AND (b.kind = 'DELETE' OR b.kind = 'UPDATE' AND b.value_after ?| %5$L)
					AND (a.slot, a.part) <> (b.slot, b.part)$query$,
			_bemi.revert_tuple(i.tuple, 'a'), i.rows, i.same, i.number, i.names,
			i.is_immediate, _bemi.revert_violated())
		FROM _bemi.revert_unique(relations) i
	)
	SELECT string_agg(format('(%s)', p.query), ' UNION ALL ') FROM pair p
$$;
COMMENT ON FUNCTION _bemi.revert_order(regclass[])
	IS 'internal: query of pairs of steps, of each pair the one first that must come first; NULL '
		'if there can be none';
REVOKE ALL ON FUNCTION _bemi.revert_order(regclass[]) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_violated()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '(a.place > b.place OR a.place = b.place '
		'AND (a.depth, a.tbl, a.slot COLLATE "C", a.part) '
		'< (b.depth, b.tbl, b.slot COLLATE "C", b.part))'
$$;
COMMENT ON FUNCTION _bemi.revert_violated()
	IS 'internal: condition that step a comes before step b in the plan';
REVOKE ALL ON FUNCTION _bemi.revert_violated() FROM PUBLIC;

CREATE FUNCTION _bemi.revert_numbered()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $query$
		SELECT s.tbl, s.slot, s.place, s.part, (row_number() OVER (ORDER BY s.place DESC, s.depth,
				s.tbl, s.slot COLLATE "C", s.part))::integer AS depth, s.kind, s.columns, s.row_now,
			s.value_now, s.value_after, s.verdict, s.reason, s.changes, s.arrived, s.departed,
			s.row_ctid, s.row_table
		FROM bemi_steps s
	$query$
$$;
COMMENT ON FUNCTION _bemi.revert_numbered()
	IS 'internal: query of the steps with their place in the plan as a number';
REVOKE ALL ON FUNCTION _bemi.revert_numbered() FROM PUBLIC;

-- Findings are rows (tbl, slot, part, place, depth, reason): why a step cannot be carried out.
CREATE FUNCTION _bemi.revert_missing_parents(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT c.tbl, c.slot, c.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps c
			WHERE c.tbl = %2$s AND c.verdict = 'ok' AND c.kind <> 'DELETE' AND c.value_after ?| %3$L
				AND %4$s
				AND NOT EXISTS (SELECT FROM %5$s t WHERE %6$s AND NOT EXISTS (
					SELECT FROM bemi_steps r WHERE r.tbl = %7$s AND r.row_table = t.tableoid
						AND r.row_ctid = t.ctid AND r.verdict = 'ok'
						AND (r.kind = 'DELETE' OR r.value_after ?| %8$L)))
				AND NOT EXISTS (SELECT FROM bemi_steps p WHERE p.tbl = %7$s AND p.verdict = 'ok'
					AND p.kind <> 'DELETE' AND p.value_after ?| %8$L AND %9$s)$query$,
		format('table %s has no row for foreign key "%s"', f.parent, f.name),
		f.child_number, f.child_names,
		(SELECT string_agg(format('(%s) <> %L', _bemi.revert_member('c', k), 'null'), ' AND ')
			FROM unnest(f.child_names) k),
		f.parent,
		(SELECT string_agg(format('t.%I %s ((%s) #>> %L)::%s', k.parent, k.operator,
				_bemi.revert_member('c', k.child), '{}', k.type), ' AND ')
			FROM unnest(f.parent_names, f.child_names, f.operators, f.child_types)
				k(parent, child, operator, type)),
		f.parent_number, f.parent_names,
		(SELECT string_agg(format('(%s) = (%s)', _bemi.revert_member('p', k.parent),
				_bemi.revert_member('c', k.child)), ' AND ')
			FROM unnest(f.parent_names, f.child_names) k(parent, child))), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f WHERE f.child_number > 0 AND f.parent_readable
$$;
COMMENT ON FUNCTION _bemi.revert_missing_parents(regclass[])
	IS 'internal: query of steps whose row would refer to one that does not exist';
REVOKE ALL ON FUNCTION _bemi.revert_missing_parents(regclass[]) FROM PUBLIC;

-- Without this, ON DELETE CASCADE would delete rows that others have inserted, and ON UPDATE SET
-- NULL would change them. ON UPDATE CASCADE may: rows of others follow the row that they refer to.
CREATE FUNCTION _bemi.revert_referenced(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT p.tbl, p.slot, p.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps p
			WHERE p.tbl = %2$s AND p.verdict = 'ok' AND (p.kind = 'DELETE'
					OR %3$L AND p.kind = 'UPDATE' AND p.value_after ?| %4$L)
				AND EXISTS (SELECT FROM %5$s t WHERE %6$s AND NOT EXISTS (
					SELECT FROM bemi_steps r WHERE r.tbl = %7$s AND r.row_table = t.tableoid
						AND r.row_ctid = t.ctid AND r.verdict = 'ok'
						AND (r.kind = 'DELETE' OR r.value_after ?| %8$L)))$query$,
		format('rows of table %s refer to it by foreign key "%s"', f.child, f.name),
		f.parent_number, f.on_update <> 'c', f.parent_names, f.child,
		(SELECT string_agg(format('(p.row_now ->> %L)::%s %s t.%I', k.parent, k.type, k.operator,
				k.child), ' AND ')
			FROM unnest(f.parent_names, f.parent_types, f.operators, f.child_names)
				k(parent, type, operator, child)),
		f.child_number, f.child_names), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f WHERE f.parent_number > 0 AND f.child_readable
$$;
COMMENT ON FUNCTION _bemi.revert_referenced(regclass[])
	IS 'internal: query of steps that would delete a row to which others refer';
REVOKE ALL ON FUNCTION _bemi.revert_referenced(regclass[]) FROM PUBLIC;

-- An action of a foreign key on rows that the caller may not all see.
CREATE FUNCTION _bemi.revert_hidden_children(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT p.tbl, p.slot, p.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps p
			WHERE p.tbl = %2$s AND p.verdict = 'ok' AND (%3$L AND p.kind = 'DELETE'
				OR %4$L AND p.kind = 'UPDATE' AND p.value_after ?| %5$L)$query$,
		format('rows of table %s may refer to it by foreign key "%s"', f.child, f.name),
		f.parent_number, f.on_delete NOT IN ('a', 'r'), f.on_update IN ('n', 'd'),
		f.parent_names), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f
	WHERE f.parent_number > 0 AND NOT f.child_readable
		AND (f.on_delete NOT IN ('a', 'r') OR f.on_update IN ('n', 'd'))
$$;
COMMENT ON FUNCTION _bemi.revert_hidden_children(regclass[])
	IS 'internal: query of steps that may delete or change rows which the caller does not see';
REVOKE ALL ON FUNCTION _bemi.revert_hidden_children(regclass[]) FROM PUBLIC;

-- Rows that others have inserted since the plan was made. They are looked for when the rows that
-- they refer to are deleted or get another key, and so locked, and before the action of the foreign
-- key. A unique value can go from one row to another by the plan. Rows that refer to it by a step
-- of their own are not new.
CREATE FUNCTION _bemi.revert_new_children(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT %1$L::text AS child
			FROM (SELECT s.kind, coalesce(s.row_now, '{}') || coalesce(s.value_now, '{}') AS former
					FROM bemi_plan s
					WHERE s.tbl = %3$s AND s.verdict = 'ok' AND (s.kind = 'DELETE'
						OR %4$L AND s.kind = 'UPDATE' AND s.value_after ?| %5$L)) p
				JOIN %1$s t ON %2$s
			WHERE p.kind = 'DELETE' OR NOT EXISTS (SELECT FROM bemi_plan r
				WHERE r.tbl = %6$s AND r.verdict = 'ok' AND r.kind <> 'DELETE'
					AND r.value_after ?| %7$L AND %8$s)$query$,
		f.child,
		(SELECT string_agg(format('(p.former ->> %L)::%s %s t.%I', k.parent, k.type, k.operator,
				k.child), ' AND ')
			FROM unnest(f.parent_names, f.parent_types, f.operators, f.child_names)
				k(parent, type, operator, child)),
		f.parent_number, f.on_update IN ('n', 'd'), f.parent_names, f.child_number, f.child_names,
		coalesce(_bemi.revert_same_key(f.child,
			'coalesce(r.row_now, ''{}'') || r.value_after'), 'true')), ' UNION ALL ')
	FROM _bemi.revert_foreign_keys(relations) f WHERE f.parent_number > 0 AND f.child_readable
$$;
COMMENT ON FUNCTION _bemi.revert_new_children(regclass[])
	IS 'internal: query of rows that refer to rows which the plan has deleted or given another '
		'key';
REVOKE ALL ON FUNCTION _bemi.revert_new_children(regclass[]) FROM PUBLIC;

-- Unique indexes and exclusion constraints: the columns on which they depend; an item of FROM for
-- the values of an image in the index; one for the rows t of the table; and the conditions that
-- such a row, or the values w of another step, are in the way of values v. The server decides on
-- indexes of generated columns and of complete rows. Primary keys need no check: they are slots.
CREATE FUNCTION _bemi.revert_unique(relations regclass[], OUT name text, OUT number bigint,
		OUT relation regclass, OUT names text[], OUT is_immediate boolean,
		OUT tuple text, OUT rows text, OUT same text, OUT same_after text)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH index AS (
		SELECT x.*, r.number, r.relation, o.oid AS constraint_id, o.conexclop, c.relname,
				pg_get_expr(x.indpred, x.indrelid) AS predicate,
				x.indpred IS NOT NULL OR x.indexprs IS NOT NULL AS has_expressions,
				coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::boolean, false) AS same_nulls
			FROM unnest(relations) WITH ORDINALITY r(relation, number)
				JOIN pg_class c ON c.oid = r.relation
				JOIN pg_index x ON x.indrelid = r.relation AND NOT x.indisprimary AND x.indislive
					AND (x.indisunique OR x.indisexclusion)
				LEFT JOIN pg_constraint o ON o.conindid = x.indexrelid AND o.contype IN ('u', 'x')
			WHERE concat(x.indexprs, x.indpred) !~ ':varattno 0 '
	)
	SELECT x.indexrelid::regclass::text, x.number, x.relation, n.names, x.indimmediate,
			format('(SELECT %s FROM jsonb_to_record("bemi image") %I(%s) WHERE %s)', k.exprs,
				x.relname, n.definitions, coalesce(x.predicate, 'true')),
			format('%s t', x.relation) || CASE WHEN x.has_expressions
				THEN format(' CROSS JOIN LATERAL (SELECT %s FROM (SELECT t.*) %I WHERE %s) e',
					k.exprs, x.relname, coalesce(x.predicate, 'true')) ELSE '' END,
			k.same, CASE WHEN k.has_equality THEN k.same_after END
		FROM index x CROSS JOIN LATERAL (
			SELECT array_agg(a.attname::text) AS names,
					bool_or(a.attgenerated <> '') AS is_generated,
					string_agg(format('%I %s', a.attname, format_type(a.atttypid, -1)), ', ')
						AS definitions
				FROM pg_attribute a WHERE a.attrelid = x.indrelid AND a.attnum > 0
					AND (a.attnum = ANY (x.indkey::int2[]) OR a.attnum IN (
						SELECT d.refobjsubid FROM pg_depend d
						WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid
							AND (d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
								OR d.classid = 'pg_constraint'::regclass
									AND d.objid = x.constraint_id)))) n
			CROSS JOIN LATERAL (
			SELECT string_agg(format('(%s) AS e%s', l.expr, l.place), ', ' ORDER BY l.place)
						AS exprs,
					string_agg(CASE WHEN x.same_nulls
						THEN format('(%1$s %2$s v.e%3$s OR %1$s IS NULL AND v.e%3$s IS NULL)',
							l.of_row, l.operator, l.place)
						ELSE format('%s %s v.e%s', l.of_row, l.operator, l.place) END,
						' AND ' ORDER BY l.place) AS same,
					string_agg(CASE WHEN x.same_nulls
						THEN format('(w.e%2$s %1$s v.e%2$s '
							'OR w.e%2$s IS NULL AND v.e%2$s IS NULL)', l.operator, l.place)
						ELSE format('w.e%2$s %1$s v.e%2$s', l.operator, l.place) END,
						' AND ' ORDER BY l.place) AS same_after,
					bool_or(l.can_hash) AS has_equality
				FROM (SELECT k.place, p.oprcanhash AS can_hash,
							format('OPERATOR(%I.%s)', s.nspname, p.oprname) AS operator,
							pg_get_indexdef(x.indexrelid, k.place::integer, false) AS expr,
							CASE WHEN x.has_expressions THEN format('e.e%s', k.place)
								ELSE format('t.%s', pg_get_indexdef(x.indexrelid, k.place::integer,
									false)) END AS of_row
						FROM unnest(x.indclass::oid[]) WITH ORDINALITY k(class, place)
							JOIN pg_opclass c ON c.oid = k.class
							JOIN pg_operator p ON p.oid = coalesce(x.conexclop[k.place], (
								SELECT m.amopopr FROM pg_amop m WHERE m.amopfamily = c.opcfamily
									AND m.amopstrategy = 3 AND m.amoplefttype = c.opcintype
									AND m.amoprighttype = c.opcintype AND NOT x.indisexclusion))
							JOIN pg_namespace s ON s.oid = p.oprnamespace
						WHERE k.place <= x.indnkeyatts) l) k
		WHERE NOT n.is_generated
$$;
COMMENT ON FUNCTION _bemi.revert_unique(regclass[])
	IS 'internal: unique indexes and exclusion constraints of the tables of a plan, apart from '
		'primary keys';
REVOKE ALL ON FUNCTION _bemi.revert_unique(regclass[]) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_tuple(tuple text, step text)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT replace(tuple, '"bemi image"',
		format('coalesce(%1$s.row_now, ''{}'') || %1$s.value_after', step))
$$;
COMMENT ON FUNCTION _bemi.revert_tuple(text, text)
	IS 'internal: item of FROM with the values of a row in an index after a step';
REVOKE ALL ON FUNCTION _bemi.revert_tuple(text, text) FROM PUBLIC;

-- Of two steps that would set the same value, the one with the earlier change is found.
CREATE FUNCTION _bemi.revert_taken(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps s CROSS JOIN LATERAL %6$s v
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind <> 'DELETE' AND s.value_after ?| %3$L
				AND EXISTS (SELECT FROM %4$s WHERE %5$s
					AND (t.tableoid, t.ctid) IS DISTINCT FROM (s.row_table, s.row_ctid)
					AND NOT EXISTS (SELECT FROM bemi_steps r WHERE r.tbl = %2$s
						AND r.row_table = t.tableoid AND r.row_ctid = t.ctid AND r.verdict = 'ok'
						AND (r.kind = 'DELETE' OR r.value_after ?| %3$L)))$query$,
			i.reason, i.number, i.names, i.rows, i.same, _bemi.revert_tuple(i.tuple, 's'))
		|| CASE WHEN i.same_after IS NULL THEN '' ELSE format($query$ UNION ALL
			SELECT s.tbl, s.slot, s.part, NULL, NULL, %1$L
			FROM bemi_steps s CROSS JOIN LATERAL %5$s v
				JOIN (bemi_steps o CROSS JOIN LATERAL %6$s w) ON %4$s
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind <> 'DELETE' AND s.value_after ?| %3$L
				AND o.tbl = %2$s AND o.verdict = 'ok' AND o.kind <> 'DELETE'
				AND o.value_after ?| %3$L
				AND (s.place, s.slot COLLATE "C", s.part)
					< (o.place, o.slot COLLATE "C", o.part)$query$,
			i.reason, i.number, i.names, i.same_after, _bemi.revert_tuple(i.tuple, 's'),
			_bemi.revert_tuple(i.tuple, 'o')) END, ' UNION ALL ')
	FROM (SELECT u.*, format('another row has the same value in index "%s"', u.name) AS reason
		FROM _bemi.revert_unique(relations) u) i
$$;
COMMENT ON FUNCTION _bemi.revert_taken(regclass[])
	IS 'internal: query of steps that would violate a unique index or an exclusion constraint';
REVOKE ALL ON FUNCTION _bemi.revert_taken(regclass[]) FROM PUBLIC;

-- Columns whose catalog row is older than the first change have the type that they had then. A
-- domain can have got a constraint since.
CREATE FUNCTION _bemi.why_unfit(value jsonb, type text)
	RETURNS text
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	EXECUTE format('SELECT r.x FROM jsonb_to_record($1) r(x %s)', type)
		USING jsonb_build_object('x', value);
	RETURN NULL;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	RETURN SQLERRM;
END
$$;
COMMENT ON FUNCTION _bemi.why_unfit(jsonb, text)
	IS 'internal: why a value cannot be one of this type, or NULL';
REVOKE ALL ON FUNCTION _bemi.why_unfit(jsonb, text) FROM PUBLIC;

-- Each subtransaction costs time, so 1000 values have one, and each has its own only if one of them
-- does not fit.
CREATE FUNCTION _bemi.unfit_values(vals jsonb, type text, OUT place bigint, OUT why text)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
BEGIN
	EXECUTE format('SELECT count(r.x) FROM jsonb_to_recordset($1) r(x %s)', type) USING vals;
EXCEPTION WHEN data_exception OR integrity_constraint_violation THEN
	RETURN QUERY SELECT v.place, w.why
		FROM jsonb_array_elements(vals) WITH ORDINALITY v(value, place)
		CROSS JOIN LATERAL _bemi.why_unfit(v.value -> 'x', type) w(why) WHERE w.why IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _bemi.unfit_values(jsonb, text)
	IS 'internal: which members "x" of an array of objects cannot be of this type, and why';
REVOKE ALL ON FUNCTION _bemi.unfit_values(jsonb, text) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_unfit(relations regclass[], first_transaction bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT %3$s AS tbl, b.slots[u.place] AS slot, b.parts[u.place] AS part,
				NULL::uuid AS place, NULL::integer AS depth,
				format('value of column "%%s" does not fit: %%s', %1$L, u.why) AS reason
			FROM (SELECT array_agg(s.slot) AS slots, array_agg(s.part) AS parts,
						jsonb_agg(jsonb_build_object('x', s.value_after -> %1$L)) AS vals
					FROM (SELECT s.*, row_number() OVER () / 1000 AS batch FROM bemi_steps s
						WHERE s.tbl = %3$s AND s.verdict = 'ok' AND s.kind <> 'DELETE'
							AND s.value_after ? %1$L) s
					GROUP BY s.batch) b
				CROSS JOIN LATERAL _bemi.unfit_values(b.vals, %2$L) u$query$,
		a.attname, format_type(a.atttypid, a.atttypmod), r.number), ' UNION ALL ')
	FROM unnest(relations) WITH ORDINALITY r(relation, number)
		JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0 AND NOT a.attisdropped
		JOIN pg_type y ON y.oid = a.atttypid
	WHERE age(a.xmin) <= age(first_transaction::text::xid)
		OR y.typtype = 'd' AND (age(y.xmin) <= age(first_transaction::text::xid)
			OR EXISTS (SELECT FROM pg_constraint c WHERE c.contypid = y.oid
				AND age(c.xmin) <= age(first_transaction::text::xid)))
$$;
COMMENT ON FUNCTION _bemi.revert_unfit(regclass[], bigint)
	IS 'internal: query of steps with values of columns that may have another type now';
REVOKE ALL ON FUNCTION _bemi.revert_unfit(regclass[], bigint) FROM PUBLIC;

-- An UPDATE can set a GENERATED ALWAYS identity column only to a new value. The columns of the key
-- are looked at in tables that are not plain, because in the others the set has not changed them.
CREATE FUNCTION _bemi.revert_identity(number integer, relation regclass, with_key boolean)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps s
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind = 'UPDATE'
				AND s.value_after ? %3$L$query$,
		format('column "%s" is GENERATED ALWAYS AS IDENTITY', a.attname), number, a.attname),
		' UNION ALL ')
	FROM pg_attribute a
	WHERE a.attrelid = relation AND a.attidentity = 'a' AND NOT a.attisdropped
		AND (with_key OR a.attname NOT IN (SELECT k.name FROM _bemi.revert_key(relation) k))
$$;
COMMENT ON FUNCTION _bemi.revert_identity(integer, regclass, boolean)
	IS 'internal: query of steps that would set a GENERATED ALWAYS identity column to a value';
REVOKE ALL ON FUNCTION _bemi.revert_identity(integer, regclass, boolean) FROM PUBLIC;

-- Constraints of the table: CHECK, and NOT NULL. Former values met a constraint on one column that
-- is older than the first change. Those of several columns can be broken by values of different
-- times. BEFORE triggers may change what would violate one, so the server decides.
CREATE FUNCTION _bemi.revert_unmet(relations regclass[], first_transaction bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	WITH constrained AS (
		SELECT r.number, r.relation, c.relname FROM unnest(relations) WITH ORDINALITY
					r(relation, number)
				JOIN pg_class c ON c.oid = r.relation
			WHERE NOT _bemi.revert_mends(r.relation)
	), condition(number, is_violated, reason) AS (
		SELECT r.number, format('s.value_after ?| %L AND (coalesce(s.row_now, ''{}'') '
				'|| s.value_after) ?& %1$L AND EXISTS (SELECT FROM jsonb_to_record('
				'coalesce(s.row_now, ''{}'') || s.value_after) %I(%s) WHERE (%s) IS FALSE)',
				n.names, r.relname, n.definitions, pg_get_expr(c.conbin, c.conrelid)),
			format('row would violate check constraint "%s"', c.conname)
		FROM constrained r JOIN pg_constraint c ON c.conrelid = r.relation AND c.contype = 'c'
			CROSS JOIN LATERAL (
				SELECT array_agg(a.attname::text) AS names,
						string_agg(format('%I %s', a.attname, format_type(a.atttypid, -1)), ', ')
							AS definitions,
						bool_or(a.attgenerated <> '') AS is_generated
					FROM pg_attribute a
					WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) n
		WHERE NOT n.is_generated AND c.conbin !~ ':varattno 0 '
			AND (cardinality(c.conkey) > 1 OR age(c.xmin) <= age(first_transaction::text::xid))
		UNION ALL
		SELECT r.number, format('(s.value_after -> %L = ''null'' '
				'OR %L AND s.kind = ''INSERT'' AND NOT s.value_after ? %1$L)', a.attname,
				NOT a.atthasdef AND a.attidentity = ''),
			format('column "%s" must not be null', a.attname)
		FROM constrained r JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0
			AND NOT a.attisdropped AND a.attnotnull AND a.attgenerated = ''
			AND age(a.xmin) <= age(first_transaction::text::xid)
	)
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				%1$L AS reason
			FROM bemi_steps s
			WHERE s.tbl = %2$s AND s.verdict = 'ok' AND s.kind <> 'DELETE' AND %3$s$query$,
		c.reason, c.number, c.is_violated), ' UNION ALL ')
	FROM condition c
$$;
COMMENT ON FUNCTION _bemi.revert_unmet(regclass[], bigint)
	IS 'internal: query of steps that would violate CHECK or NOT NULL';
REVOKE ALL ON FUNCTION _bemi.revert_unmet(regclass[], bigint) FROM PUBLIC;

-- Rows that no partition takes: theirs was detached or dropped. A partition with a constraint that
-- refers to columns by name has the names of its parent.
CREATE FUNCTION _bemi.revert_no_partition(relations regclass[])
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				'table has no partition for the row' AS reason
			FROM bemi_steps s
			WHERE s.tbl = %1$s AND s.verdict = 'ok' AND (s.kind = 'INSERT'
					OR s.kind = 'UPDATE' AND s.value_after ?| %2$L)
				AND NOT EXISTS (SELECT FROM jsonb_populate_record(NULL::%3$s,
						coalesce(s.row_now, '{}') || s.value_after) n WHERE %4$s)$query$,
		r.number, ARRAY(SELECT c.name FROM _bemi.revert_columns(r.relation) c),
		r.relation, coalesce(p.takes, 'false')), ' UNION ALL ')
	FROM unnest(relations) WITH ORDINALITY r(relation, number)
		JOIN pg_partitioned_table t ON t.partrelid = r.relation
		CROSS JOIN LATERAL (
			SELECT string_agg(format('(%s)',
					coalesce(pg_get_partition_constraintdef(l.relid), 'true')), ' OR ') AS takes
				FROM pg_partition_tree(r.relation) l WHERE l.isleaf AND l.relid <> r.relation) p
$$;
COMMENT ON FUNCTION _bemi.revert_no_partition(regclass[])
	IS 'internal: query of steps whose row would be in no partition of its table';
REVOKE ALL ON FUNCTION _bemi.revert_no_partition(regclass[]) FROM PUBLIC;

-- Without REPLICA IDENTITY FULL, the row before a DELETE has few columns. The others would be
-- inserted with their defaults. Only columns that were added later may be missing: they come after
-- all that the row has, and their catalog row is not older than the first change.
CREATE FUNCTION _bemi.revert_partial(relations regclass[], first_transaction bigint)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT string_agg(format($query$
			SELECT s.tbl, s.slot, s.part, NULL::uuid AS place, NULL::integer AS depth,
				'value before is not in the history' AS reason
			FROM bemi_steps s
			WHERE s.tbl = %1$s AND s.verdict = 'ok' AND s.kind = 'INSERT' AND (%2$s)$query$,
		m.number, m.is_missing), ' UNION ALL ')
	FROM (SELECT r.number, string_agg(CASE WHEN age(a.xmin) > age(first_transaction::text::xid)
				THEN format('NOT s.value_after ? %L', a.attname)
				ELSE format('NOT s.value_after ? %L AND s.value_after ?| %L', a.attname,
					ARRAY(SELECT b.name FROM _bemi.revert_columns(r.relation) b
						WHERE b.place > a.attnum)) END, ' OR ') AS is_missing
			FROM unnest(relations) WITH ORDINALITY r(relation, number)
				JOIN pg_attribute a ON a.attrelid = r.relation AND a.attnum > 0
					AND NOT a.attisdropped AND a.attgenerated = ''
			GROUP BY r.number) m
$$;
COMMENT ON FUNCTION _bemi.revert_partial(regclass[], bigint)
	IS 'internal: query of steps that would insert a row that the history has only in part';
REVOKE ALL ON FUNCTION _bemi.revert_partial(regclass[], bigint) FROM PUBLIC;

-- The steps with the findings in place.
CREATE FUNCTION _bemi.revert_apply(findings text, mode text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT s.tbl, s.slot, coalesce(f.place, s.place), s.part, coalesce(f.depth, s.depth),
			s.kind, s.columns, s.row_now, s.value_now, s.value_after,
			CASE WHEN f.reason IS NULL THEN s.verdict ELSE %2$L END, coalesce(f.reason, s.reason),
			s.changes, s.arrived, s.departed, s.row_ctid, s.row_table
		FROM bemi_steps s LEFT JOIN (
			SELECT DISTINCT ON (u.tbl, u.slot, u.part) u.* FROM (%1$s) u
				ORDER BY u.tbl, u.slot, u.part, u.place, u.depth DESC, u.reason) f
			ON f.tbl = s.tbl AND f.slot = s.slot AND f.part = s.part$query$,
		findings, CASE mode WHEN 'skip' THEN 'skip' ELSE 'conflict' END)
$$;
COMMENT ON FUNCTION _bemi.revert_apply(text, text)
	IS 'internal: query of the steps with findings about them';
REVOKE ALL ON FUNCTION _bemi.revert_apply(text, text) FROM PUBLIC;

--
-- Taking changes back: plans
--

-- Triggers of the application that statements of a plan fire. A partition can have row triggers
-- that its root does not have. Its statement triggers do not fire, because statements name the
-- root.
CREATE FUNCTION _bemi.revert_fired(relation regclass, OUT name name, OUT type smallint)
	RETURNS SETOF record
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT DISTINCT t.tgname, t.tgtype
		FROM (SELECT relation UNION SELECT p.relid FROM pg_partition_tree(relation) p) m(member)
			JOIN pg_trigger t ON t.tgrelid = m.member
		WHERE NOT t.tgisinternal AND t.tgfoid <> 'bemi.emit_context()'::regprocedure
			AND (m.member = relation OR t.tgtype & 1 = 1)
			AND t.tgenabled IN ('A', CASE current_setting('session_replication_role')
				WHEN 'replica' THEN 'R' ELSE 'O' END)
$$;
COMMENT ON FUNCTION _bemi.revert_fired(regclass)
	IS 'internal: triggers of the application on a table and its partitions, as in pg_trigger';
REVOKE ALL ON FUNCTION _bemi.revert_fired(regclass) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_triggers(relation regclass, event integer)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'fires trigger ' || string_agg(format('"%s"', t.name), ', ' ORDER BY t.name)
		FROM (SELECT DISTINCT f.name FROM _bemi.revert_fired(relation) f
			WHERE f.type & event <> 0) t
$$;
COMMENT ON FUNCTION _bemi.revert_triggers(regclass, integer)
	IS 'internal: triggers of the application for an event, as in pg_trigger.tgtype';
REVOKE ALL ON FUNCTION _bemi.revert_triggers(regclass, integer) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_mends(relation regclass)
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM _bemi.revert_fired(relation) f
		WHERE f.type & 3 = 3 AND f.type & 20 <> 0)
$$;
COMMENT ON FUNCTION _bemi.revert_mends(regclass)
	IS 'internal: whether BEFORE triggers of the application can change a row as it is written';
REVOKE ALL ON FUNCTION _bemi.revert_mends(regclass) FROM PUBLIC;

-- Such triggers may change rows that a step has written: a counter that the set had changed, too,
-- would be taken back twice. While the steps run, only rows of tables without BEFORE triggers are
-- known to differ because of another row's trigger.
CREATE FUNCTION _bemi.has_writing_triggers(relations regclass[])
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(bool_or(f.type & 66 = 0), false)
			OR count(f.*) > 0 AND NOT bool_and(_bemi.revert_mends(r.relation))
		FROM unnest(relations) r(relation)
			LEFT JOIN LATERAL _bemi.revert_fired(r.relation) f ON true
$$;
COMMENT ON FUNCTION _bemi.has_writing_triggers(regclass[])
	IS 'internal: whether triggers on these tables may write rows of a plan that can be set again';
REVOKE ALL ON FUNCTION _bemi.has_writing_triggers(regclass[]) FROM PUBLIC;

-- So may ON UPDATE CASCADE: if unique values have been handed on, a row that refers to one of them
-- by its step would follow the row that had this value. That cannot be with primary keys, because
-- the row of a slot is replaced, and keeps its key.
CREATE FUNCTION _bemi.has_following_rows(relations regclass[])
	RETURNS boolean
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM _bemi.revert_foreign_keys(relations) f
		WHERE f.child_number > 0 AND f.parent_number > 0 AND f.on_update IN ('c', 'n', 'd')
			AND NOT f.parent_names::text[] <@ ARRAY(
				SELECT k.name::text FROM _bemi.revert_key(f.parent) k))
$$;
COMMENT ON FUNCTION _bemi.has_following_rows(regclass[])
	IS 'internal: whether rows of these tables change with those that they refer to';
REVOKE ALL ON FUNCTION _bemi.has_following_rows(regclass[]) FROM PUBLIC;

-- Foreign keys whose action changes rows that refer to the row of an UPDATE.
CREATE FUNCTION _bemi.revert_followers(relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT coalesce(string_agg(format(
			'CASE WHEN s.kind = ''UPDATE'' AND s.value_after ?| %L THEN %L END', f.parent_names,
			format('changes rows of table %s by foreign key "%s"', f.child, f.name)), ', '
			ORDER BY f.child::text, f.name), 'NULL')
		FROM _bemi.revert_foreign_keys(ARRAY[relation]) f
		WHERE f.parent_number > 0 AND f.on_update = 'c'
$$;
COMMENT ON FUNCTION _bemi.revert_followers(regclass)
	IS 'internal: SQL expressions of reasons that name foreign keys with ON UPDATE CASCADE';
REVOKE ALL ON FUNCTION _bemi.revert_followers(regclass) FROM PUBLIC;

-- The steps of one table, with their statements and triggers.
CREATE FUNCTION _bemi.revert_steps(number integer, relation regclass)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT s.tbl, s.slot, s.place, s.part, s.depth, s.kind, s.columns, s.row_now, s.value_now,
			s.value_after, s.verdict, coalesce(s.reason, nullif(concat_ws('; ', CASE s.kind
				WHEN 'INSERT' THEN %4$L WHEN 'DELETE' THEN %5$L ELSE %6$L END, %7$s), ''))
				AS reason, s.changes, s.arrived, s.departed,
			s.row_ctid, s.row_table, CASE WHEN s.verdict = 'ok' THEN %1$s END AS statement
		FROM bemi_steps s
			CROSS JOIN LATERAL jsonb_populate_record(NULL::%2$s, CASE s.verdict WHEN 'ok'
				THEN coalesce(s.row_now, '{}') || coalesce(s.value_after, '{}') END) n
			CROSS JOIN LATERAL jsonb_populate_record(NULL::%2$s, s.row_now) o
		WHERE s.tbl = %3$s$query$,
		_bemi.revert_text(relation), relation, number, _bemi.revert_triggers(relation, 4),
		_bemi.revert_triggers(relation, 8), _bemi.revert_triggers(relation, 16),
		_bemi.revert_followers(relation))
$$;
COMMENT ON FUNCTION _bemi.revert_steps(integer, regclass)
	IS 'internal: query of the steps of one table, with their statements';
REVOKE ALL ON FUNCTION _bemi.revert_steps(integer, regclass) FROM PUBLIC;

-- One step for each change that cannot be taken back at all.
CREATE FUNCTION _bemi.revert_lost_table(number integer, condition text, reason text, mode text)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT format($query$
		SELECT %1$s AS tbl, coalesce(c.primary_key, c.operation) AS slot, c.id AS place, 0 AS part,
			0 AS depth, CASE c.operation WHEN 'CREATE' THEN 'DELETE' WHEN 'UPDATE' THEN 'UPDATE'
				ELSE 'INSERT' END AS kind,
			NULL::text[] AS columns, NULL::jsonb AS row_now, NULLIF(c.after, '{}') AS value_now,
			NULLIF(c.before, '{}') AS value_after, %2$L AS verdict, %4$L AS reason,
			ARRAY[c.id] AS changes, NULL::uuid AS arrived, NULL::uuid AS departed,
			NULL::tid AS row_ctid, NULL::oid AS row_table
		FROM bemi_changes c WHERE %3$s$query$,
		number, CASE mode WHEN 'skip' THEN 'skip' ELSE 'conflict' END, condition, reason)
$$;
COMMENT ON FUNCTION _bemi.revert_lost_table(integer, text, text, text)
	IS 'internal: steps of changes that cannot be taken back, for this reason';
REVOKE ALL ON FUNCTION _bemi.revert_lost_table(integer, text, text, text) FROM PUBLIC;

-- What the context of a revert shows: the changes, if they are few, and their transactions, by one
-- change of each.
CREATE FUNCTION _bemi.revert_of(changes uuid[], transactions uuid[])
	RETURNS jsonb
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('revertOf',
		(SELECT coalesce(jsonb_agg(c ORDER BY c), '[]') FROM unnest(changes) c)
		|| (SELECT coalesce(jsonb_agg(jsonb_build_object('transaction', _bemi.first_change_of(t))
				ORDER BY t), '[]')
			FROM unnest(transactions) t))
$$;
COMMENT ON FUNCTION _bemi.revert_of(uuid[], uuid[])
	IS 'internal: member of the context that shows what was taken back';
REVOKE ALL ON FUNCTION _bemi.revert_of(uuid[], uuid[]) FROM PUBLIC;

-- The same of the steps that are carried out, if some are left out, or if changes were added. The
-- ids of a transaction have the same first 20 characters, because LSNs of commits are multiples of
-- 8.
CREATE FUNCTION _bemi.revert_of_steps()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $query$
		WITH changes AS (
			SELECT DISTINCT u.id FROM bemi_steps s, unnest(s.changes) u(id) WHERE s.verdict = 'ok'
		)
		SELECT _bemi.revert_of(
			(SELECT array_agg(i.id) FROM (SELECT c.id FROM changes c LIMIT 21) i
				HAVING count(*) <= 20),
			ARRAY(SELECT min(c.id::text)::uuid FROM changes c GROUP BY left(c.id::text, 20)
				ORDER BY 1 LIMIT 20))
	$query$
$$;
COMMENT ON FUNCTION _bemi.revert_of_steps()
	IS 'internal: query of the member of the context that shows what was taken back';
REVOKE ALL ON FUNCTION _bemi.revert_of_steps() FROM PUBLIC;

-- A row whose key the set has changed is missing in its former slot and is too much in its new one.
-- Both steps become one UPDATE, or both are in conflict. Links are slots in which such a row has
-- been in between.
CREATE FUNCTION _bemi.revert_moved()
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT $query$
		WITH RECURSIVE chain AS (
			SELECT s.tbl, s.slot, s.part, s.departed AS link FROM bemi_steps s
				WHERE s.departed IS NOT NULL AND s.kind <> 'LINK'
					AND (s.kind = 'INSERT' OR s.columns IS NULL)
			UNION ALL
			SELECT c.tbl, c.slot, c.part, l.departed FROM chain c
				JOIN bemi_steps l ON l.tbl = c.tbl AND l.kind = 'LINK' AND l.arrived = c.link
		), pair AS (
			SELECT f.tbl, f.slot AS former_slot, f.part AS former_part, n.slot AS new_slot,
					n.part AS new_part, f.value_after, n.row_now,
					CASE WHEN f.verdict <> 'ok' THEN f.verdict ELSE n.verdict END AS verdict,
					CASE WHEN f.verdict <> 'ok' THEN f.reason ELSE n.reason END AS reason,
					f.changes || n.changes AS changes,
					f.kind = 'INSERT' AND f.verdict = 'ok' AND n.verdict = 'ok' AS is_one
				FROM chain c
					JOIN bemi_steps f ON f.tbl = c.tbl AND f.slot = c.slot AND f.part = c.part
					JOIN bemi_steps n ON n.tbl = c.tbl AND n.arrived = c.link AND n.kind = 'DELETE'
		)
		SELECT s.tbl, s.slot, s.place, s.part, s.depth,
				CASE WHEN p.is_one THEN 'UPDATE' ELSE s.kind END,
				CASE WHEN p.is_one THEN d.names ELSE s.columns END, s.row_now,
				CASE WHEN p.is_one THEN d.now ELSE s.value_now END,
				CASE WHEN p.is_one THEN d.after ELSE s.value_after END,
				coalesce(p.verdict, s.verdict), coalesce(p.reason, s.reason),
				CASE WHEN p.is_one THEN ARRAY(SELECT DISTINCT u FROM unnest(p.changes) u ORDER BY u)
					ELSE s.changes END,
				NULL::uuid, NULL::uuid, s.row_ctid, s.row_table
			FROM bemi_steps s LEFT JOIN (
					SELECT q.*, q.new_slot AS at_slot, q.new_part AS at_part FROM pair q
					UNION ALL SELECT q.*, q.former_slot, q.former_part FROM pair q
						WHERE NOT q.is_one
				) p ON p.tbl = s.tbl AND p.at_slot = s.slot AND p.at_part = s.part
				LEFT JOIN LATERAL (
					SELECT array_agg(e.key ORDER BY e.key) AS names,
							jsonb_object_agg(e.key, p.row_now -> e.key) AS now,
							jsonb_object_agg(e.key, e.value) AS after
						FROM jsonb_each(p.value_after) e
						WHERE p.is_one AND p.row_now ? e.key
							AND (p.row_now -> e.key)::text <> e.value::text
				) d ON p.is_one
			WHERE s.kind <> 'LINK' AND NOT EXISTS (SELECT FROM pair q WHERE q.is_one
				AND q.tbl = s.tbl AND q.former_slot = s.slot AND q.former_part = s.part)
	$query$
$$;
COMMENT ON FUNCTION _bemi.revert_moved()
	IS 'internal: query that joins the two steps of a row whose key was changed';
REVOKE ALL ON FUNCTION _bemi.revert_moved() FROM PUBLIC;

-- The queries of a plan, and its tables. "groups" are the changes of the set by the names of their
-- tables. A table is plain if its changes can be walked as they are in the history. values_now is
-- as rows_now, but only with the columns that the set has changed, where these are all. The plan's
-- steps are in the reverse order of the changes. without_gap: up to this id, all changes since the
-- first one are those of the set.
CREATE FUNCTION _bemi.revert_queries(condition text, groups jsonb, running bigint[], mode text,
		with_plain boolean, with_text boolean, without_gap uuid,
		OUT tables jsonb, OUT set_of_events text, OUT events text, OUT later text,
		OUT rows_now text, OUT values_now text, OUT lost text, OUT fits text, OUT in_the_way text,
		OUT checks text,
		OUT insert_checks text, OUT ordering text, OUT plan text, OUT new_children text,
		OUT settles boolean)
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
	SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
	sources text[] := (_bemi.history_of('bemi.changes')).sources;
	t record;
	number integer := 0;
	relations regclass[] := '{}';
	first_transaction bigint;
	first_id text;
	first_time timestamptz;
	history text;
	truncated record;
	plain record;
	is_plain boolean;
BEGIN
	tables := '[]';
	FOR t IN SELECT r.relation, min(r.condition) AS condition, min(r.first_id::text) AS first_id,
				min(r.first_time) AS first_time, min(r.first_transaction) AS first_transaction,
				min(r.source) AS source, min(r.schema_name) AS schema,
				min(r.table_name) AS "table", min(r.changed) AS changed,
				count(*) = 1 AND bool_and(r.is_plain AND r.relations = 1) AS is_plain,
				(count(*) OVER ()) = 1 AS is_only
			FROM (SELECT o.*, count(*) OVER (PARTITION BY o.source, o.schema_name, o.table_name)
					AS relations
				FROM _bemi.revert_tables(groups, condition, sources) o) r
			GROUP BY r.relation, CASE WHEN r.relation IS NULL THEN r.condition END
			ORDER BY min(r.schema_name), min(r.table_name), r.relation
	LOOP
		number := number + 1;
		relations := relations || t.relation;
		first_transaction := least(first_transaction, t.first_transaction);
		first_id := least(first_id, t.first_id);
		first_time := least(first_time, t.first_time);
		is_plain := with_plain AND t.is_plain AND _bemi.revert_generated(t.relation) = '{}'
			AND EXISTS (SELECT FROM _bemi.revert_key(t.relation));
		tables := tables || jsonb_build_object('relation', t.relation::oid::bigint,
			'name', coalesce(t.relation::text, format('%I.%I', t.schema, t."table")),
			'columns', ARRAY(SELECT c.name FROM _bemi.revert_columns(t.relation) c
				ORDER BY c.place),
			'key', ARRAY(SELECT k.name FROM _bemi.revert_key(t.relation) k),
			'source', CASE WHEN is_plain THEN t.source END, 'schema', t.schema,
			'table', t."table", 'reading', _bemi.revert_reading(t.relation, t.changed),
			'mends', _bemi.revert_mends(t.relation));
		IF t.relation IS NULL THEN
			lost := concat_ws(' UNION ALL ', lost, _bemi.revert_lost_table(number, t.condition,
				'table does not exist any more', mode));
			CONTINUE;
		END IF;
		fits := concat_ws(' UNION ALL ', nullif(fits, ''),
			_bemi.revert_identity(number, t.relation, NOT is_plain));
		IF is_plain THEN
			plain := _bemi.revert_plain(number, t.relation, CASE WHEN t.is_only THEN 'true'
				ELSE format('CASE WHEN s."table" = %L AND s.schema = %L THEN true ELSE false END',
					t."table", t.schema) END, _bemi.revert_history(t.relation, sources, running,
					greatest(t.first_id::uuid, without_gap), t.first_time), condition, t.changed);
			later := concat_ws(' UNION ALL ', later, plain.later);
			rows_now := concat_ws(' UNION ALL ', rows_now, plain.rows_now);
			values_now := concat_ws(' UNION ALL ', values_now, plain.values_now);
			CONTINUE;
		END IF;
		history := _bemi.revert_history(t.relation, sources, running, t.first_id::uuid,
			t.first_time);
		truncated := _bemi.revert_truncated(t.relation, history, condition);
		IF truncated.reason IS NOT NULL THEN
			lost := concat_ws(' UNION ALL ', lost, _bemi.revert_lost_table(number,
				format('c.id IN (SELECT c.id FROM %s WHERE c.operation = ''TRUNCATE'' AND (%s))',
					history, condition), truncated.reason, mode));
		END IF;
		set_of_events := concat_ws(' UNION ALL ', set_of_events,
			_bemi.revert_set(number, t.relation, history, condition, truncated.events));
		events := concat_ws(' UNION ALL ', events,
			_bemi.revert_events(number, t.relation, history, condition));
	END LOOP;
	events := 'SELECT s.*, NULL::tid AS row_ctid, NULL::oid AS row_table FROM bemi_set s UNION ALL '
		|| events;
	-- The others cast values.
	fits := nullif(concat_ws(' UNION ALL ', nullif(fits, ''),
		_bemi.revert_unfit(relations, first_transaction)), '');
	checks := nullif(concat_ws(' UNION ALL ', _bemi.revert_missing_parents(relations),
		_bemi.revert_referenced(relations), _bemi.revert_hidden_children(relations),
		_bemi.revert_taken(relations), _bemi.revert_unmet(relations, first_transaction),
		_bemi.revert_no_partition(relations)), '');
	IF mode = 'cascade' THEN
		in_the_way := _bemi.revert_in_the_way(relations, sources, running, first_id::uuid,
			first_time);
	END IF;
	insert_checks := _bemi.revert_partial(relations, first_transaction);
	ordering := _bemi.revert_order(relations);
	plan := format('SELECT p.* FROM (%s) p '
		'ORDER BY p.place DESC, p.depth, p.tbl, p.slot COLLATE "C", p.part', CASE WHEN with_text
		THEN (SELECT string_agg(CASE WHEN r.relation IS NULL
					THEN format('SELECT s.*, NULL FROM bemi_steps s WHERE s.tbl = %s', r.number)
					ELSE _bemi.revert_steps(r.number::integer, r.relation) END, ' UNION ALL ')
				FROM unnest(relations) WITH ORDINALITY r(relation, number))
		ELSE 'TABLE bemi_steps' END);
	new_children := _bemi.revert_new_children(relations);
	settles := _bemi.has_writing_triggers(relations) OR _bemi.has_following_rows(relations);
END
$$;
COMMENT ON FUNCTION _bemi.revert_queries(text, jsonb, bigint[], text, boolean, boolean, uuid)
	IS 'internal: queries of the events, of findings and of the plan, for src/revert/plan.c';
REVOKE ALL ON FUNCTION _bemi.revert_queries(text, jsonb, bigint[], text, boolean, boolean,
	uuid) FROM PUBLIC;

CREATE FUNCTION bemi.plan_revert(changes uuid[] DEFAULT NULL, transaction_of uuid DEFAULT NULL,
		context jsonb DEFAULT NULL, from_time timestamptz DEFAULT NULL,
		to_time timestamptz DEFAULT NULL, mode text DEFAULT 'refuse',
		timeout interval DEFAULT '10 seconds', choices jsonb DEFAULT NULL)
	RETURNS TABLE (step bigint, statement text, table_name text, key text, columns text[],
		value_now jsonb, value_after jsonb, verdict text, reason text, change_ids uuid[],
		plan_hash text)
	AS 'MODULE_PATHNAME', 'bemi_plan_revert'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.plan_revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, interval,
	jsonb)
	IS 'what bemi.revert() would do to take these changes back, without doing it';
REVOKE ALL ON FUNCTION bemi.plan_revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text,
	interval, jsonb) FROM PUBLIC;

CREATE FUNCTION bemi.revert(changes uuid[] DEFAULT NULL, transaction_of uuid DEFAULT NULL,
		context jsonb DEFAULT NULL, from_time timestamptz DEFAULT NULL,
		to_time timestamptz DEFAULT NULL, mode text DEFAULT 'refuse', expect text DEFAULT NULL,
		timeout interval DEFAULT '10 seconds', choices jsonb DEFAULT NULL,
		OUT steps bigint, OUT skipped bigint, OUT plan_hash text)
	AS 'MODULE_PATHNAME', 'bemi_revert'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, text,
	interval, jsonb)
	IS 'takes changes back, in the transaction of the caller; later changes of others remain';
REVOKE ALL ON FUNCTION bemi.revert(uuid[], uuid, jsonb, timestamptz, timestamptz, text, text,
	interval, jsonb) FROM PUBLIC;

-- The statement that carries out steps of one kind, for the rows n in bemi_rows. These have two
-- columns for the place of the row, and those of "names" and "types". Runs under the search_path of
-- the caller, because his triggers may need it, so every name is qualified. Only SQL can make
-- arrays and composite values of JSON.
CREATE FUNCTION _bemi.revert_statement(relation regclass, kind text, columns text[],
		since bigint, OUT statement text, OUT one_by_one boolean, OUT names text[], OUT types oid[])
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	target text := (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
		JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation);
	only_it text := CASE WHEN (SELECT c.relkind <> 'p' FROM pg_class c WHERE c.oid = relation)
		THEN 'ONLY ' ELSE '' END;
	same_row text := 't.tableoid OPERATOR(pg_catalog.=) n."bemi table" '
		'AND t.ctid OPERATOR(pg_catalog.=) n."bemi row"';
	of_keys boolean := kind = 'SETTLE';
	targets text;
	new_values text;
	settings text;
	same_key text;
	changed text;
BEGIN
	SELECT string_agg(quote_ident(a.attname), ', ') FILTER (WHERE x.is_set),
			string_agg(x.value, ', ') FILTER (WHERE x.is_set),
			string_agg(format('%I = %s', a.attname, x.value), ', ') FILTER (WHERE x.is_set),
			string_agg(format('t.%I %s %s', a.attname, k.equals, x.value), ' AND ')
				FILTER (WHERE k.name IS NOT NULL),
			format('ROW(%s)::pg_catalog.record OPERATOR(pg_catalog.*<>) '
				'ROW(%s)::pg_catalog.record',
				string_agg(format('t.%I', a.attname), ', ') FILTER (WHERE x.is_set),
				string_agg(x.value, ', ') FILTER (WHERE x.is_set)),
			array_agg(a.attname::text),
			array_agg(CASE WHEN x.by_record THEN 'jsonb'::regtype ELSE a.atttypid END)
		INTO targets, new_values, settings, same_key, changed, names, types
		FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
			JOIN pg_namespace n ON n.oid = y.typnamespace
			LEFT JOIN _bemi.revert_key(relation) k ON k.name = a.attname
			CROSS JOIN LATERAL (SELECT y.typtype IN ('d', 'c') OR y.typcategory = 'A' AS by_record,
				a.attname = ANY (columns) AND NOT (of_keys AND (k.name IS NOT NULL
					OR a.attidentity = 'a')) AS is_set) b
			CROSS JOIN LATERAL (SELECT b.by_record, b.is_set, CASE WHEN b.by_record
				THEN format('(SELECT r.x FROM pg_catalog.jsonb_to_record('
					'pg_catalog.jsonb_build_object(%L, n.%I)) r(x %I.%I))', 'x', a.attname,
					n.nspname, y.typname)
				ELSE format('n.%I', a.attname) END AS value) x
		WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped
			AND (a.attname = ANY (columns) OR of_keys AND k.name IS NOT NULL);
	statement := CASE kind
		WHEN 'INSERT' THEN format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s '
			'FROM bemi_rows n', target, targets, new_values)
		WHEN 'UPDATE' THEN format('UPDATE %s%s t SET %s FROM bemi_rows n WHERE %s', only_it,
			target, settings, same_row)
		-- Of the rows of the plan, only those that triggers have written later.
		WHEN 'SETTLE' THEN CASE WHEN settings IS NULL
			THEN format('DELETE FROM %s USING bemi_rows n WHERE false', target)
			ELSE format('UPDATE %s%s t SET %s FROM bemi_rows n '
			'WHERE %s AND t.cmin::pg_catalog.text::pg_catalog.int8 OPERATOR(pg_catalog.>=) %s '
			'AND %s', only_it, target, settings, same_key, since, changed) END
		ELSE format('DELETE FROM %s%s t USING bemi_rows n WHERE %s', only_it, target, same_row)
		END;
	-- Unique values are handed on from row to row in the order of the plan.
	one_by_one := kind = 'UPDATE' AND EXISTS (SELECT FROM pg_index i JOIN pg_attribute a
			ON a.attrelid = relation AND (a.attnum = ANY (i.indkey::int2[])
				OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
		WHERE i.indrelid = relation AND (i.indisunique OR i.indisexclusion)
			AND a.attname = ANY (columns));
END
$$;
COMMENT ON FUNCTION _bemi.revert_statement(regclass, text, text[], bigint)
	IS 'internal: statement that carries out steps of one kind, and whether each needs one of its '
		'own';
REVOKE ALL ON FUNCTION _bemi.revert_statement(regclass, text, text[], bigint) FROM PUBLIC;

--
-- Bringing back the state of one row
--

-- What must be done, as a query of one step, for src/revert/run.c. The row is found again by its
-- ctid, so a change by others in between is an error.
CREATE FUNCTION _bemi.restore_query(target regclass, key text, at timestamptz, before uuid,
		at_lsn pg_lsn, timeout interval, OUT query text, OUT restore_of jsonb)
	LANGUAGE plpgsql VOLATILE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	generated text[] := _bemi.revert_generated(target);
	key_names text[];
	members jsonb;
	former jsonb;
	present record;
	kind text;
	names text[];
BEGIN
	IF target IS NULL THEN
		RAISE EXCEPTION 'target table must not be null' USING ERRCODE = 'null_value_not_allowed';
	ELSIF num_nonnulls(at, before, at_lsn) <> 1 THEN
		RAISE EXCEPTION 'exactly one of at, before and at_lsn must be given'
			USING ERRCODE = 'invalid_parameter_value',
				HINT = format('SELECT * FROM bemi.restore(%L, %L, before => CHANGE_ID);', target,
					key);
	END IF;
	EXECUTE format('SELECT to_jsonb(r.*) - %L::text[] '
		'FROM bemi.row_as_of(NULL::%s, $1, $2, $3, $4, timeout => $5) r', generated, target)
		INTO former USING key, at, before, at_lsn, timeout;
	-- bemi.row_as_of() has checked the key. A key of one column need not be JSON.
	SELECT k.names INTO key_names FROM _bemi.key_columns(target) k;
	IF cardinality(key_names) = 1 THEN
		members := jsonb_build_object(key_names[1], key);
	ELSIF key ~ '^\s*\[' THEN
		members := (SELECT jsonb_object_agg(n, key::jsonb -> (i - 1)::integer)
			FROM unnest(key_names) WITH ORDINALITY c(n, i));
	ELSE
		members := key::jsonb;
	END IF;
	EXECUTE format('SELECT to_jsonb(t.*) - %L::text[] AS image, t.ctid, t.tableoid '
		'FROM %s%s t WHERE %s',
		generated, (SELECT CASE c.relkind WHEN 'p' THEN '' ELSE 'ONLY ' END FROM pg_class c
			WHERE c.oid = target), target,
		(SELECT string_agg(format('t.%I %s %L::%s', k.name, k.equals, members ->> k.name::text,
			k.type), ' AND ') FROM _bemi.revert_key(target) k)) INTO present;
	kind := CASE WHEN former IS NULL AND present.image IS NULL THEN 'NONE'
		WHEN former IS NULL THEN 'DELETE' WHEN present.image IS NULL THEN 'INSERT'
		ELSE 'UPDATE' END;
	names := CASE WHEN kind IN ('INSERT', 'UPDATE') THEN ARRAY(
		SELECT c.name FROM _bemi.revert_columns(target) c
			WHERE former ? c.name AND (former -> c.name)::text
				IS DISTINCT FROM (present.image -> c.name)::text ORDER BY c.place) END;
	IF kind = 'UPDATE' AND names = '{}' THEN
		kind := 'NONE';
		names := NULL;
	ELSIF kind = 'UPDATE' THEN
		former := (SELECT jsonb_object_agg(n, former -> n) FROM unnest(names) n);
		present.image := (SELECT jsonb_object_agg(n, present.image -> n) FROM unnest(names) n);
	END IF;
	IF kind = 'UPDATE' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = target
			AND a.attidentity = 'a' AND a.attname = ANY (names)) THEN
		RAISE EXCEPTION 'row % of table "%" cannot be brought back', key, target
			USING ERRCODE = 'object_not_in_prerequisite_state',
				DETAIL = (SELECT format('Column "%s" is GENERATED ALWAYS AS IDENTITY.', a.attname)
					FROM pg_attribute a WHERE a.attrelid = target AND a.attidentity = 'a'),
				HINT = (SELECT format('ALTER TABLE %s ALTER %I SET GENERATED BY DEFAULT;', target,
						a.attname)
					FROM pg_attribute a WHERE a.attrelid = target AND a.attidentity = 'a');
	END IF;
	query := format('SELECT 1 AS tbl, %L::text AS slot, NULL::uuid AS place, 0 AS part, '
		'0 AS depth, %L::text AS kind, %L::text[] AS columns, NULL::jsonb AS row_now, '
		'%L::jsonb AS value_now, '
		'%L::jsonb AS value_after, %L::text AS verdict, NULL::text AS reason, '
		'NULL::uuid[] AS changes, NULL::uuid AS arrived, NULL::uuid AS departed, '
		'%L::tid AS row_ctid, %L::oid AS row_table',
		key, kind, names, present.image, former, CASE kind WHEN 'NONE' THEN 'skip' ELSE 'ok' END,
		present.ctid, present.tableoid);
	restore_of := jsonb_build_object('restoreOf', jsonb_strip_nulls(jsonb_build_object(
		'table', target, 'key', key, 'at', at, 'before', before, 'at_lsn', at_lsn)));
END
$$;
COMMENT ON FUNCTION _bemi.restore_query(regclass, text, timestamptz, uuid, pg_lsn, interval)
	IS 'internal: query of the step that brings a row back, and what the context shows of it';
REVOKE ALL ON FUNCTION _bemi.restore_query(regclass, text, timestamptz, uuid, pg_lsn, interval)
	FROM PUBLIC;

CREATE FUNCTION bemi.restore(target regclass, key text, at timestamptz DEFAULT NULL,
		before uuid DEFAULT NULL, at_lsn pg_lsn DEFAULT NULL,
		timeout interval DEFAULT '10 seconds',
		OUT action text, OUT columns text[], OUT value_before jsonb, OUT value_now jsonb)
	AS 'MODULE_PATHNAME', 'bemi_restore'
	LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION bemi.restore(regclass, text, timestamptz, uuid, pg_lsn, interval)
	IS 'brings a row back to what it was at a time, at a position in the WAL, or before a change, '
		'and returns what was done: INSERT, UPDATE, DELETE or NONE';
REVOKE ALL ON FUNCTION bemi.restore(regclass, text, timestamptz, uuid, pg_lsn, interval)
	FROM PUBLIC;

--
-- Taking changes back: the tables of the set, and their changes under all names
--

-- With the rights of the owner, because nobody else can read all names that tables had.
CREATE FUNCTION _bemi.tables_of_name(sources text[], schema_name text, table_name text)
	RETURNS SETOF regclass
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	-- A view that has taken the name is not the table, nor is a partition whose changes are stored
	-- under the name of its root.
	SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p') AND CASE WHEN n.nspname = schema_name
					AND c.relname = table_name
				THEN NOT c.relispartition OR NOT _bemi.is_published(_bemi.partition_root(c.oid))
				ELSE c.oid IN (SELECT s.relation FROM _bemi.schema_changes s
					WHERE s.source = ANY (sources)
						AND (s.schema = schema_name AND s."table" = table_name
							OR s.before ->> 'schema' = schema_name
							AND s.before ->> 'table' = table_name)) END
$$;
COMMENT ON FUNCTION _bemi.tables_of_name(text[], text, text)
	IS 'internal: tables that have this name, or had it';
REVOKE ALL ON FUNCTION _bemi.tables_of_name(text[], text, text) FROM PUBLIC;

-- Another table that had the name and was dropped is not this one, also if it is not known when
-- this one was created. With the rights of the owner, as above.
CREATE FUNCTION _bemi.revert_names(relation regclass, sources text[])
	RETURNS TABLE (from_id uuid, to_id uuid, schema_name text, table_name text, columns jsonb)
	LANGUAGE sql STABLE
	SECURITY DEFINER
	SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(t.from_id, (SELECT max(s.id::text)::uuid FROM _bemi.schema_changes s
				WHERE s.source = ANY (sources) AND s.relation <> c.oid AND s.event = 'dropped'
					AND s.before ->> 'schema' = t.schema_name
					AND s.before ->> 'table' = t.table_name AND coalesce(s.id < t.to_id, true))),
			t.to_id, t.schema_name, t.table_name, t.columns
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			CROSS JOIN LATERAL _bemi.table_names(sources, c.oid, n.nspname, c.relname) t
		WHERE c.oid = relation AND NOT t.predecessor
$$;
COMMENT ON FUNCTION _bemi.revert_names(regclass, text[])
	IS 'internal: under which names the changes of a table are stored, as _bemi.table_names()';
REVOKE ALL ON FUNCTION _bemi.revert_names(regclass, text[]) FROM PUBLIC;

-- A condition on bemi.changes c: the changes of a time in which a table had this name.
CREATE FUNCTION _bemi.revert_has_name(schema_name text, table_name text, from_id uuid, to_id uuid)
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT concat_ws(' AND ', format('c.schema = %L AND c."table" = %L', schema_name, table_name),
		CASE WHEN from_id IS NOT NULL THEN format('c.id > %L', from_id) END,
		CASE WHEN to_id IS NOT NULL THEN format('c.id < %L', to_id) END)
$$;
COMMENT ON FUNCTION _bemi.revert_has_name(text, text, uuid, uuid)
	IS 'internal: condition on changes that are stored under a name, above and below these ids';
REVOKE ALL ON FUNCTION _bemi.revert_has_name(text, text, uuid, uuid) FROM PUBLIC;

-- A condition on bemi.changes c: the tables of the plan's snapshot have these changes, see
-- src/revert/visible.c. Transaction ids come again after some time.
CREATE FUNCTION _bemi.revert_visible(running bigint[])
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT CASE WHEN running IS NOT NULL
		THEN format('NOT (c.transaction_id = ANY (%L::bigint[]) AND c.committed_at '
			'> now() - interval ''7 days'')', running) END
$$;
COMMENT ON FUNCTION _bemi.revert_visible(bigint[])
	IS 'internal: condition on changes that are not those of running transactions; NULL: none';
REVOKE ALL ON FUNCTION _bemi.revert_visible(bigint[]) FROM PUBLIC;

-- A condition on bemi.changes c: the set, with changes that mode "cascade" has added.
CREATE FUNCTION _bemi.revert_complete_set(condition text, running bigint[], added uuid[])
	RETURNS text
	LANGUAGE sql IMMUTABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT concat_ws(' AND ', CASE WHEN added IS NULL THEN condition
		ELSE format('(%s OR c.id = ANY (%L::uuid[]))', condition, added) END,
		_bemi.revert_visible(running))
$$;
COMMENT ON FUNCTION _bemi.revert_complete_set(text, bigint[], uuid[])
	IS 'internal: condition on the changes of a set that are visible, with those that are added';
REVOKE ALL ON FUNCTION _bemi.revert_complete_set(text, bigint[], uuid[]) FROM PUBLIC;

CREATE FUNCTION _bemi.revert_hidden(changes uuid[], transaction_of uuid, context jsonb,
		from_time timestamptz, to_time timestamptz, committed bigint[])
	RETURNS bigint
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	hidden bigint;
BEGIN
	EXECUTE format('SELECT c.transaction_id FROM bemi.changes c WHERE %s AND NOT (%s) LIMIT 1',
			_bemi.revert_condition(changes, transaction_of, context, from_time, to_time, false),
			_bemi.revert_visible(committed))
		INTO hidden;
	RETURN hidden;
END
$$;
COMMENT ON FUNCTION
	_bemi.revert_hidden(uuid[], uuid, jsonb, timestamptz, timestamptz, bigint[])
	IS 'internal: which of these transactions has made changes that are to be taken back';
REVOKE ALL ON FUNCTION
	_bemi.revert_hidden(uuid[], uuid, jsonb, timestamptz, timestamptz, bigint[]) FROM PUBLIC;

-- The tables of the set, and where the set begins in each. Changes of a table that does not exist
-- any more have no relation, and are those in bemi_changes c that meet "condition". is_plain: the
-- table has all changes of the name, and its columns had the names of today. changed: the columns
-- that were changed, if all changes are updates.
CREATE FUNCTION _bemi.revert_tables(groups jsonb, set_condition text, sources text[],
		OUT relation regclass, OUT source text, OUT schema_name text, OUT table_name text,
		OUT condition text, OUT first_id uuid, OUT first_time timestamptz,
		OUT first_transaction bigint, OUT changed text[], OUT is_plain boolean)
	RETURNS SETOF record
	LANGUAGE plpgsql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
DECLARE
	first_change constant text := 'min(c.id::text)::uuid AS first_id, '
		'min(c.committed_at) AS first_time, min(c.transaction_id) AS first_transaction';
	t record;
	n record;
	found record;
	has_name text;
	is_complete boolean;
BEGIN
	FOR t IN SELECT g.* FROM jsonb_to_recordset(groups) g(source text, schema text, "table" text,
			first_id uuid, last_id uuid, first_time timestamptz, first_transaction bigint,
			truncates boolean, changed text[])
		ORDER BY g.schema COLLATE "C", g."table" COLLATE "C", g.source COLLATE "C"
	LOOP
		IF t.source <> ALL (sources) THEN
			RAISE EXCEPTION 'changes of source "%" cannot be taken back here', t.source
				USING ERRCODE = 'feature_not_supported',
					DETAIL = 'The source is another database.';
		END IF;
		source := t.source;
		schema_name := t.schema;
		table_name := t."table";
		condition := format('c.source = %L AND c.schema = %L AND c."table" = %L', t.source,
			t.schema, t."table");
		is_complete := false;
		FOR n IN SELECT o.relation, r.*,
				coalesce(t.first_id > r.from_id, true) AND coalesce(t.last_id < r.to_id, true)
					AS has_all
			FROM _bemi.tables_of_name(sources, t.schema, t."table") o(relation)
				CROSS JOIN LATERAL _bemi.revert_names(o.relation, sources) r
			WHERE r.schema_name = t.schema AND r.table_name = t."table"
				AND coalesce(t.last_id > r.from_id, true)
				AND coalesce(t.first_id < r.to_id, true)
		LOOP
			has_name := _bemi.revert_has_name(n.schema_name, n.table_name, n.from_id, n.to_id);
			found := t;
			IF NOT n.has_all THEN
				EXECUTE format('SELECT %s FROM bemi.changes c WHERE c.source = %L AND %s AND (%s)',
					first_change, t.source, has_name, set_condition) INTO found;
			END IF;
			condition := format('%s AND NOT (%s)', condition, has_name);
			is_complete := is_complete OR n.has_all;
			relation := n.relation;
			first_id := found.first_id;
			first_time := found.first_time;
			first_transaction := found.first_transaction;
			changed := t.changed;
			is_plain := n.has_all AND n.columns IS NULL AND NOT t.truncates;
			IF first_id IS NOT NULL THEN
				RETURN NEXT;
			END IF;
		END LOOP;
		relation := NULL;
		IF NOT is_complete THEN
			RETURN NEXT;
		END IF;
	END LOOP;
END
$$;
COMMENT ON FUNCTION _bemi.revert_tables(jsonb, text, text[])
	IS 'internal: tables of the changes that are to be taken back';
REVOKE ALL ON FUNCTION _bemi.revert_tables(jsonb, text, text[]) FROM PUBLIC;

-- The changes of a table since the first one of the set, with the names that its columns have
-- today: c, for FROM.
CREATE FUNCTION _bemi.revert_history(relation regclass, sources text[], running bigint[],
		first_id uuid, first_time timestamptz)
	RETURNS text
	LANGUAGE sql STABLE
	SET search_path = pg_catalog, pg_temp
	SET standard_conforming_strings = on
AS $$
	SELECT '(' || string_agg(format('SELECT c.id, c.source, c.schema, c."table", c.operation, '
			'c.primary_key, %s AS before, %s AS after, c.committed_at, c.context, CASE WHEN '
			'c.context ? ''_whole'' THEN bemi.full_context(c) ELSE c.context END AS full_context, '
			'c.transaction_id, %L::jsonb AS names '
			'FROM bemi.changes c WHERE c.source = ANY (%L) AND %s AND c.id >= %L '
			'AND c.committed_at >= %L%s',
			CASE WHEN n.columns IS NULL THEN 'c.before'
				ELSE format('_bemi.rename_members(c.before, %L)', n.columns) END,
			CASE WHEN n.columns IS NULL THEN 'c.after'
				ELSE format('_bemi.rename_members(c.after, %L)', n.columns) END,
			n.columns, sources,
			_bemi.revert_has_name(n.schema_name, n.table_name, n.from_id, n.to_id), first_id,
			first_time, ' AND ' || _bemi.revert_visible(running)), ' UNION ALL ') || ') c'
		FROM _bemi.revert_names(relation, sources) n WHERE coalesce(n.to_id > first_id, true)
$$;
COMMENT ON FUNCTION _bemi.revert_history(regclass, text[], bigint[], uuid, timestamptz)
	IS 'internal: changes of a table under all of its names, as an item of FROM with the alias c';
REVOKE ALL ON FUNCTION _bemi.revert_history(regclass, text[], bigint[], uuid, timestamptz)
	FROM PUBLIC;

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
