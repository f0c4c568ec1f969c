/*-------------------------------------------------------------------------
 *
 * source.c
 *		What a worker owns of its source: row, slot and origin.
 *
 * The row of bemi.sources says what is desired; it is read, and changed, under
 * the lock that sessions hold who change it.  The slot is the source's record
 * of how far the worker has come, the origin the destination's; both have the
 * same name.  They are made in the order row, origin (both by bemi.start()),
 * slot, and dropped in the order slot, row, origin, so that a failure in
 * between leaves something that the next worker finds and goes on with.
 *
 * No lock is held while a source on another server is spoken to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_replication_origin.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "replication/slot.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "extension/extension.h"
#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/* The entry of this process. */
BemiWorker *bemi_my_worker = NULL;

/* Name of the origin, and of a slot of this server. */
char	   *bemi_origin_name = NULL;

/* Name of the slot, as the row says. */
char	   *bemi_slot_name = NULL;

/* For how long to wait for the walsender that has just served us. */
#define RELEASE_TIMEOUT_MS	10000

/*
 * What bemi_begin_transaction() has left, and bemi_end_transaction() goes back
 * to.
 */
static MemoryContext around_transaction = NULL;

/*
 * Begins a small transaction, with the sources locked before its snapshot is
 * taken, or not (NoLock).
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
		bemi_begin_attempt(bemi_my_worker);
	}
	PushActiveSnapshot(GetTransactionSnapshot());
}

/*
 * Begin and end the small transactions around the stream; the end goes back to
 * the memory context of the beginning.
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

/*
 * A column's text in "memory", or NULL.
 */
static char *
copy_column_text(HeapTuple tuple, TupleDesc columns, int column,
				 MemoryContext memory)
{
	char	   *value = SPI_getvalue(tuple, columns, column);

	return value ? MemoryContextStrdup(memory, value) : NULL;
}

/*
 * A column of eight bytes: a number, a time or a position; 0 for NULL.
 */
static int64
column_or_zero(HeapTuple tuple, TupleDesc columns, int column)
{
	bool		is_null;
	Datum		value = SPI_getbinval(tuple, columns, column, &is_null);

	return is_null ? 0 : DatumGetInt64(value);
}

/*
 * Reads the worker's row, whose texts go into "memory", within a transaction
 * that has locked the sources.  The row is missing if the source was dropped,
 * and with it the table if the extension was.  What the source was is not in
 * the row of a history that came with a dump, but in its progress.
 */
static void
read_source_row(BemiSourceRow *row, MemoryContext memory)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(bemi_my_worker->source)};

	memset(row, 0, sizeof(BemiSourceRow));
	if (!OidIsValid(bemi_own_table("sources")) ||
		!OidIsValid(bemi_own_table("gaps")))
		return;

	SPI_connect();
	if (SPI_execute_with_args("SELECT desired, slot_made::text, conninfo,"
							  " coalesce(s.system_identifier, p.system_identifier),"
							  " (CASE WHEN s.system_identifier IS NULL THEN p.timeline ELSE s.timeline END)::text,"
							  " coalesce(s.database, p.database), slot_name::text,"
							  " EXISTS (SELECT FROM bemi.gaps g WHERE g.source = s.name"
							  " AND g.\"table\" IS NULL AND g.to_time IS NULL)::text,"
							  " CASE WHEN s.system_identifier IS NULL THEN p.timeline_ancestors ELSE s.timeline_ancestors END,"
							  " reader, p.server_started_at, EXISTS (SELECT FROM bemi.gaps g WHERE g.source = s.name"
							  " AND g.\"table\" IS NULL)::text"
							  " FROM bemi.sources s LEFT JOIN _bemi.source_progress p ON p.source = s.name"
							  " WHERE name = $1",
							  1, types, values, NULL, true,
							  1) != SPI_OK_SELECT)
		elog(ERROR, "could not read bemi.sources");
	if (SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	columns = SPI_tuptable->tupdesc;
		char	   *timeline = SPI_getvalue(tuple, columns, 5);

		row->exists = true;
		row->run = strcmp(SPI_getvalue(tuple, columns, 1), "run") == 0;
		row->force =
			strcmp(SPI_getvalue(tuple, columns, 1), "force_drop") == 0;
		row->drop =
			row->force || strcmp(SPI_getvalue(tuple, columns, 1), "drop") == 0;
		row->slot_made = strcmp(SPI_getvalue(tuple, columns, 2), "true") == 0;
		row->conninfo = copy_column_text(tuple, columns, 3, memory);
		row->system_identifier = copy_column_text(tuple, columns, 4, memory);
		row->timeline = timeline ? strtoul(timeline, NULL, 10) : 0;
		row->database = copy_column_text(tuple, columns, 6, memory);
		row->slot_name = copy_column_text(tuple, columns, 7, memory);
		row->gap_open = strcmp(SPI_getvalue(tuple, columns, 8), "true") == 0;
		row->ancestors = copy_column_text(tuple, columns, 9, memory);
		row->reader = copy_column_text(tuple, columns, 10, memory);
		row->started_at = column_or_zero(tuple, columns, 11);
		row->was_read = strcmp(SPI_getvalue(tuple, columns, 12), "true") == 0;
	}
	SPI_finish();
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
 * Runs a statement whose first parameter is the source's name; the others come
 * with their types, nulls as SPI takes them, or NULL.
 */
void
bemi_run_on_source(const char *statement, int count, const Oid *types,
				   const Datum *values, const char *nulls)
{
	Oid			all_types[8] = {TEXTOID};
	Datum		all_values[8] = {CStringGetTextDatum(bemi_my_worker->source)};
	char		all_nulls[8] = {' '};

	Assert(count < lengthof(all_types));
	for (int i = 0; i < count; i++)
	{
		all_types[i + 1] = types[i];
		all_values[i + 1] = values[i];
		all_nulls[i + 1] = nulls ? nulls[i] : ' ';
	}
	SPI_connect();
	if (SPI_execute_with_args(statement, count + 1, all_types, all_values,
							  all_nulls, false, 0) < 0)
		elog(ERROR, "could not run \"%s\"", statement);
	SPI_finish();
}

/*
 * What was counted and stored so far, into shared memory, unless it is there:
 * that is up to date, while the table may be a second late.
 */
void
bemi_load_progress(void)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(bemi_my_worker->source)};
	BemiCounts	counts = {0};
	BemiUntil	until = {0};

	if (bemi_my_worker->counted)
		return;
	SPI_connect();
	if (SPI_execute_with_args("SELECT changes, transactions, invalid_messages, stored_until, stored_lsn,"
							  " changed_lsn, changed_at, changed_xid"
							  " FROM _bemi.source_progress WHERE source = $1",
							  1, types, values, NULL, true,
							  1) != SPI_OK_SELECT)
		elog(ERROR, "could not read _bemi.source_progress");
	if (SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	columns = SPI_tuptable->tupdesc;

		counts.changes = column_or_zero(tuple, columns, 1);
		counts.transactions = column_or_zero(tuple, columns, 2);
		counts.invalid_messages = column_or_zero(tuple, columns, 3);
		until.time = column_or_zero(tuple, columns, 4);
		until.position = column_or_zero(tuple, columns, 5);
		counts.changed.commit_lsn = column_or_zero(tuple, columns, 6);
		counts.changed.committed_at = column_or_zero(tuple, columns, 7);
		counts.changed.xid = (TransactionId) column_or_zero(tuple, columns, 8);
	}
	SPI_finish();
	bemi_add_counts(bemi_my_worker, &counts, &until);
	bemi_my_worker->counted = true;
}

/*
 * How many gaps of all its tables the source has had.  Each is a reason why
 * positions may come again, so this tells ids apart.
 */
int
bemi_count_gaps(void)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(bemi_my_worker->source)};
	bool		is_null;
	int			count;

	SPI_connect();
	if (SPI_execute_with_args("SELECT pg_catalog.count(*)::int4 FROM bemi.gaps"
							  " WHERE source = $1 AND \"table\" IS NULL",
							  1, types, values, NULL, true,
							  1) != SPI_OK_SELECT)
		elog(ERROR, "could not read bemi.gaps");
	count = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &is_null));
	SPI_finish();
	return count;
}

/*
 * Waits until nobody reads from a slot of this server any more, though not for
 * long, and before any lock is taken: whoever else reads from it may stay.
 */
static void
wait_for_release(const char *name)
{
	TimestampTz give_up =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), RELEASE_TIMEOUT_MS);
	ReplicationSlot *slot = SearchNamedReplicationSlot(name, true);
	uint32		wait_event = bemi_wait_event("BemiSlotRelease");

	if (slot == NULL)
		return;
	ConditionVariablePrepareToSleep(&slot->active_cv);
	while (slot->active_pid != 0 && GetCurrentTimestamp() < give_up)
		ConditionVariableTimedSleep(&slot->active_cv, 1000, wait_event);
	ConditionVariableCancelSleep();
}

/*
 * Drops a slot of this server and this database, if it is there.
 */
static void
drop_local_slot(void)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(bemi_origin_name, true);

	if (slot != NULL && slot->data.database == MyDatabaseId)
		ReplicationSlotDrop(bemi_origin_name, true);
}

/*
 * Drops the origin, which this process may hold.
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
 * Drops the slot of a source on another server.  No lock is held meanwhile.
 */
static void
drop_remote_slot(BemiSourceRow *row)
{
	BemiStream *stream;
	BemiSlot	slot;

	bemi_check_reading(row);
	stream = bemi_stream_connect(row->conninfo, bemi_my_worker->source,
								 bemi_slot_name, bemi_leave_if_woken);
	bemi_claim_source(stream, row);
	bemi_stream_find_slot(stream, bemi_slot_name, &slot);
	if (slot.exists)
		bemi_stream_drop_slot(stream, bemi_slot_name);
	bemi_stream_close(stream);
}

/*
 * Takes the source away: its slot, its row and its origin.  The slot first, so
 * that a failure in between leaves the rest to the next try.  A source whose
 * row is gone already can only have its local slot dropped.
 *
 * Returns false, and leaves the row as it is now in *row, if meanwhile
 * somebody has started the source anew.
 */
bool
bemi_remove_source(BemiSourceRow *row)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		dropped;

	bemi_set_state(bemi_my_worker, BEMI_STATE_DROPPING);
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
			bemi_run_on_source("SELECT _bemi.forget_source($1)", 0, NULL, NULL,
							   NULL);
		drop_origin();

		LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
		bemi_my_worker->in_use = false;
		LWLockRelease(bemi_shared->lock);
		ereport(LOG, (errmsg("bemi: source \"%s\" was dropped",
							 bemi_my_worker->source)));
	}
	bemi_end_transaction();
	return dropped;
}

/*
 * Where the origin stands, without holding it.
 */
XLogRecPtr
bemi_origin_position(void)
{
	return replorigin_get_progress(replorigin_by_name(bemi_origin_name, false),
								   false);
}

/*
 * Sets the origin, forwards or backwards.
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
 * Makes this process the one that moves the source's origin, and returns where
 * it stands.
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
	 * What is committed, but not flushed, must not be confirmed to the
	 * source.
	 */
	return replorigin_session_get_progress(true);
}
