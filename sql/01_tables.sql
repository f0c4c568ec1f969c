
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
