
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
