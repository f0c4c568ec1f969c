/*-------------------------------------------------------------------------
 *
 * source.c
 *		A worker's source: its row, slot and origin.
 *
 * The row of bemi.sources contains the desired state.  Workers and sessions
 * read and change it under the same lock.  The slot records the worker's
 * position at the source, and the origin records it at the destination.  They
 * are created in the order row, origin (both by bemi.start()), slot, and
 * dropped in the order slot, row, origin.  So after a failure in between, the
 * next worker finds the rest and continues.
 *
 * What must never happen: a lock is held while the worker waits for a source
 * on another server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_replication_origin.h"
#include "catalog/pg_type.h"
#include "replication/slot.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "extension/extension.h"
#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/* Name of the source, as given to bemi.start(). */
char	   *bemi_source_name = NULL;

/* Name of the origin, and of a slot of this server. */
char	   *bemi_origin_name = NULL;

/* Name of the slot, from the row. */
char	   *bemi_slot_name = NULL;

/* Whether it is this server; known when the worker has connected. */
bool		bemi_source_is_local = false;

/* Longest wait for our own walsender to release the slot. */
#define RELEASE_TIMEOUT_MS	10000

/*
 * The memory context before bemi_begin_transaction(), which
 * bemi_end_transaction() restores.
 */
static MemoryContext around_transaction = NULL;

/*
 * Begins a short transaction.  The sources are locked before its snapshot is
 * taken, unless the mode is NoLock.
 */
static void
begin_locked_transaction(LOCKMODE mode)
{
	around_transaction = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (mode != NoLock)
	{
		bemi_lock_sources(mode);
		bemi_entry_begin_attempt();
	}
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Begin and end a short transaction outside of source transactions.  The end
 * restores the memory context.
 */
void
bemi_begin_transaction(void)
{
	begin_locked_transaction(NoLock);
}

void
bemi_end_transaction(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(around_transaction);
}

/* Columns of the query in read_source_row(), in its order. */
typedef enum SourceColumn
{
	SOURCE_DESIRED,
	SOURCE_SLOT_MADE,
	SOURCE_CONNINFO,
	SOURCE_SYSTEM_IDENTIFIER,
	SOURCE_TIMELINE,
	SOURCE_ANCESTORS,
	SOURCE_DATABASE,
	SOURCE_SLOT_NAME,
	SOURCE_READER,
	SOURCE_STARTED_AT,
	SOURCE_GAP_OPEN,
	SOURCE_WAS_READ
} SourceColumn;

static void
fill_source_row(BemiSourceRow *row, const BemiValue *columns)
{
	char	   *desired = bemi_sql_text_of(&columns[SOURCE_DESIRED]);

	row->exists = true;
	row->run = strcmp(desired, "run") == 0;
	row->force = strcmp(desired, "force_drop") == 0;
	row->drop = row->force || strcmp(desired, "drop") == 0;
	row->slot_made = bemi_sql_is_true(&columns[SOURCE_SLOT_MADE]);
	row->conninfo = bemi_sql_text_of(&columns[SOURCE_CONNINFO]);
	row->system_identifier =
		bemi_sql_text_of(&columns[SOURCE_SYSTEM_IDENTIFIER]);
	row->timeline = (uint32) bemi_sql_number_of(&columns[SOURCE_TIMELINE]);
	row->ancestors = bemi_sql_text_of(&columns[SOURCE_ANCESTORS]);
	row->database = bemi_sql_text_of(&columns[SOURCE_DATABASE]);
	row->slot_name = bemi_sql_text_of(&columns[SOURCE_SLOT_NAME]);
	row->reader = bemi_sql_text_of(&columns[SOURCE_READER]);
	row->started_at = bemi_sql_number_of(&columns[SOURCE_STARTED_AT]);
	row->gap_open = bemi_sql_is_true(&columns[SOURCE_GAP_OPEN]);
	row->was_read = bemi_sql_is_true(&columns[SOURCE_WAS_READ]);
}

/*
 * Reads the worker's row, with its texts in "memory", within a transaction
 * that has locked the sources.  The row is missing if the source was dropped,
 * and the table if the extension was.  If the history came with a dump, the
 * source's identity is not in the row, but in _bemi.source_progress.
 */
static void
read_source_row(BemiSourceRow *row, MemoryContext memory)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);
	BemiValue	columns[] = {
		[SOURCE_DESIRED] = {.type = TEXTOID},
		[SOURCE_SLOT_MADE] = {.type = BOOLOID},
		[SOURCE_CONNINFO] = {.type = TEXTOID},
		[SOURCE_SYSTEM_IDENTIFIER] = {.type = TEXTOID},
		[SOURCE_TIMELINE] = {.type = INT8OID},
		[SOURCE_ANCESTORS] = {.type = TEXTOID},
		[SOURCE_DATABASE] = {.type = TEXTOID},
		[SOURCE_SLOT_NAME] = {.type = TEXTOID},
		[SOURCE_READER] = {.type = TEXTOID},
		[SOURCE_STARTED_AT] = {.type = TIMESTAMPTZOID},
		[SOURCE_GAP_OPEN] = {.type = BOOLOID},
		[SOURCE_WAS_READ] = {.type = BOOLOID}
	};
	MemoryContext caller = MemoryContextSwitchTo(memory);

	memset(row, 0, sizeof(BemiSourceRow));
	if (OidIsValid(bemi_own_table("sources")) &&
		OidIsValid(bemi_own_table("gaps")) &&
		bemi_sql_read_row("SELECT s.desired, s.slot_made, s.conninfo,"
						  " coalesce(s.system_identifier, p.system_identifier),"
						  " CASE WHEN s.system_identifier IS NULL THEN p.timeline ELSE s.timeline END,"
						  " CASE WHEN s.system_identifier IS NULL THEN p.timeline_ancestors ELSE s.timeline_ancestors END,"
						  " coalesce(s.database, p.database), s.slot_name::text,"
						  " s.reader, p.server_started_at,"
						  " EXISTS (SELECT FROM bemi.gaps g WHERE g.source = s.name"
						  " AND g.\"table\" IS NULL AND g.to_time IS NULL),"
						  " EXISTS (SELECT FROM bemi.gaps g WHERE g.source = s.name"
						  " AND g.\"table\" IS NULL)"
						  " FROM bemi.sources s LEFT JOIN _bemi.source_progress p ON p.source = s.name"
						  " WHERE s.name = $1",
						  &source, 1, columns, lengthof(columns)))
		fill_source_row(row, columns);
	MemoryContextSwitchTo(caller);
	if (row->run)
		bemi_entry_is_to_run();
}

/*
 * Reads the worker's row, into the current memory context.
 */
void
bemi_read_source(BemiSourceRow *row)
{
	MemoryContext caller = CurrentMemoryContext;

	begin_locked_transaction(ShareLock);
	read_source_row(row, caller);
	bemi_end_transaction();
}

/*
 * Loads the counts and the progress into shared memory, unless they are there.
 * Shared memory is up to date, but the table may be a second late.
 */
void
bemi_load_progress(void)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);
	BemiValue	columns[] = {
		{.type = INT8OID}, {.type = INT8OID}, {.type = INT8OID},
		{.type = TIMESTAMPTZOID}, {.type = PG_LSNOID},
		{.type = PG_LSNOID}, {.type = TIMESTAMPTZOID}, {.type = INT8OID}
	};
	BemiCounts	counts = {0};
	BemiUntil	until = {0};
	BemiFacts	known;

	bemi_facts_copy_mine(&known);
	if (known.counted)
		return;
	if (bemi_sql_read_row("SELECT changes, transactions, invalid_messages, stored_until, stored_lsn,"
						  " changed_lsn, changed_at, changed_xid"
						  " FROM _bemi.source_progress WHERE source = $1",
						  &source, 1, columns, lengthof(columns)))
	{
		counts.changes = bemi_sql_number_of(&columns[0]);
		counts.transactions = bemi_sql_number_of(&columns[1]);
		counts.invalid_messages = bemi_sql_number_of(&columns[2]);
		until.time = bemi_sql_number_of(&columns[3]);
		until.position = bemi_sql_number_of(&columns[4]);
		counts.changed.commit_lsn = bemi_sql_number_of(&columns[5]);
		counts.changed.committed_at = bemi_sql_number_of(&columns[6]);
		counts.changed.xid = (TransactionId) bemi_sql_number_of(&columns[7]);
	}
	bemi_facts_load_progress(&counts, &until);
}

/*
 * Number of the source's gaps that concern all tables.  After such a gap,
 * positions may repeat, so the number becomes part of the tag in ids.
 */
int
bemi_count_gaps(void)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);
	BemiValue	count = {.type = INT8OID};

	(void) bemi_sql_read_row("SELECT pg_catalog.count(*) FROM bemi.gaps"
							 " WHERE source = $1 AND \"table\" IS NULL",
							 &source, 1, &count, 1);
	return (int) bemi_sql_number_of(&count);
}

/*
 * Waits until a slot of this server has no reader, at most RELEASE_TIMEOUT_MS.
 * Must be called before any lock is taken, because another client may read the
 * slot for a long time.
 */
static void
wait_for_release(const char *name)
{
	int64		since = bemi_monotonic_ms();
	ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
	uint32		wait_event = bemi_wait_event("BemiSlotRelease");

	if (slot == NULL)
		return;
	ConditionVariablePrepareToSleep(&slot->active_cv);
	while (slot->active_pid != 0 &&
		   !bemi_has_passed(since, RELEASE_TIMEOUT_MS))
		ConditionVariableTimedSleep(&slot->active_cv, 1000, wait_event);
	ConditionVariableCancelSleep();
}

/*
 * Drops the slot, if it is in this database of this server.
 */
static void
drop_local_slot(void)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(bemi_origin_name, true);

	if (slot != NULL && slot->data.database == MyDatabaseId)
		ReplicationSlotDrop(bemi_origin_name, true);
}

/*
 * Drops the origin.  This process may have acquired it.
 */
static void
drop_origin(void)
{
	if (replorigin_session_origin != InvalidRepOriginId)
	{
		replorigin_session_reset();
		replorigin_session_origin = InvalidRepOriginId;
	}
	replorigin_drop_by_name(bemi_origin_name, true, false);
}

/*
 * Drops the slot of a source on another server, without a lock.
 */
static void
drop_remote_slot(BemiSourceRow *row)
{
	BemiStream *stream;
	BemiSlot	slot;

	bemi_check_reading(row);
	stream = bemi_stream_connect(row->conninfo, bemi_source_name,
								 bemi_slot_name, bemi_leave_if_woken);
	bemi_claim_source(stream, row);
	bemi_stream_find_slot(stream, bemi_slot_name, &slot);
	if (slot.exists)
		bemi_stream_drop_slot(stream, bemi_slot_name);
	bemi_stream_close(stream);
}

/*
 * Removes the source: its slot, its row and its origin.  The slot comes first,
 * because after a failure the next try still finds the rest.  If the row is
 * already gone, only a local slot can be dropped.
 *
 * Returns false, with the new row in *row, if a session has started the source
 * again meanwhile.
 */
bool
bemi_remove_source(BemiSourceRow *row)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);
	MemoryContext caller = CurrentMemoryContext;
	bool		dropped;

	bemi_entry_set_state(BEMI_STATE_DROPPING);
	if (row->conninfo != NULL && !row->force)
		drop_remote_slot(row);
	wait_for_release(bemi_origin_name);

	begin_locked_transaction(ExclusiveLock);
	read_source_row(row, caller);
	dropped = row->drop || !row->exists;
	if (dropped)
	{
		if (row->conninfo == NULL)
			drop_local_slot();
		if (row->exists && row->slot_made)
			bemi_record_stop();
		if (row->exists)
			bemi_sql_run("SELECT _bemi.forget_source($1)", &source, 1);
		drop_origin();

		bemi_entry_remove();
		ereport(LOG, (errmsg("bemi: source \"%s\" was dropped",
							 bemi_source_name)));
	}
	bemi_end_transaction();
	return dropped;
}

/*
 * The origin's position, without acquiring the origin.
 */
XLogRecPtr
bemi_origin_position(void)
{
	return replorigin_get_progress(replorigin_by_name(bemi_origin_name, false),
								   false);
}

/*
 * Moves the origin, forwards or backwards.
 */
void
bemi_set_origin(XLogRecPtr position)
{
	RepOriginId origin = replorigin_by_name(bemi_origin_name, false);

	LockRelationOid(ReplicationOriginRelationId, RowExclusiveLock);
	replorigin_advance(origin, position, InvalidXLogRecPtr, true, true);
	UnlockRelationOid(ReplicationOriginRelationId, RowExclusiveLock);
}

/*
 * Acquires the source's origin for this process, and returns its position.
 */
XLogRecPtr
bemi_acquire_origin(void)
{
	RepOriginId origin;

	bemi_begin_transaction();
	origin = replorigin_by_name(bemi_origin_name, false);
	bemi_origin_session_setup(origin);
	replorigin_session_origin = origin;
	bemi_end_transaction();

	/*
	 * Flush first, because unflushed commits must not be confirmed to the
	 * source.
	 */
	return replorigin_session_get_progress(true);
}
