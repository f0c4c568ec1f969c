/*-------------------------------------------------------------------------
 *
 * worker_source.c
 *		What a worker owns of its source: row, slot and origin.
 *
 * The row of bemi.sources says what is wanted; it is read, and changed, under
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
#include "utils/snapmgr.h"

#include "history.h"
#include "worker.h"

/* The entry of this process. */
BemiWorker *bemi_my_worker = NULL;

/* Name of the slot and of the origin. */
char	   *bemi_slot_name = NULL;

/* What bemi_begin_transaction() has left, and bemi_end_transaction() goes back to. */
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
		bemi_lock_sources(mode);
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
 * Reads the worker's row, whose texts go into "memory", within a transaction
 * that has locked the sources.  The row is missing if the source was dropped,
 * and with it the table if the extension was.
 */
static void
read_row(BemiSourceRow *row, MemoryContext memory)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(bemi_my_worker->source)};

	memset(row, 0, sizeof(BemiSourceRow));
	if (!OidIsValid(bemi_own_table("sources")))
		return;

	SPI_connect();
	if (SPI_execute_with_args("SELECT wanted, slot_made::text, conninfo FROM bemi.sources WHERE name = $1",
							  1, types, values, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read bemi.sources");
	if (SPI_processed == 1)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		TupleDesc	columns = SPI_tuptable->tupdesc;
		char	   *conninfo = SPI_getvalue(tuple, columns, 3);

		row->exists = true;
		row->run = strcmp(SPI_getvalue(tuple, columns, 1), "run") == 0;
		row->drop = strcmp(SPI_getvalue(tuple, columns, 1), "drop") == 0;
		row->slot_made = strcmp(SPI_getvalue(tuple, columns, 2), "true") == 0;
		row->conninfo = conninfo ? MemoryContextStrdup(memory, conninfo) : NULL;
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
	read_row(row, caller);
	bemi_end_transaction();
}

/*
 * Runs a statement on the worker's row, whose name is its one parameter.
 */
static void
change_source(const char *statement)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(bemi_my_worker->source)};

	SPI_connect();
	if (SPI_execute_with_args(statement, 1, types, values, NULL, false, 0) < 0)
		elog(ERROR, "could not change bemi.sources");
	SPI_finish();
}

/*
 * Drops a slot of this server and this database, if it is there.
 */
static void
drop_local_slot(void)
{
	ReplicationSlot *slot = SearchNamedReplicationSlot(bemi_slot_name, true);

	if (slot != NULL && slot->data.database == MyDatabaseId)
		ReplicationSlotDrop(bemi_slot_name, false);
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
	replorigin_drop_by_name(bemi_slot_name, true, false);
}

/*
 * Drops the slot of a source on another server.  No lock is held meanwhile.
 */
static void
drop_remote_slot(const BemiSourceRow *row)
{
	BemiStream *stream = bemi_stream_connect(row->conninfo, bemi_slot_name);

	if (bemi_stream_slot_exists(stream, bemi_slot_name))
		bemi_stream_drop_slot(stream, bemi_slot_name);
	bemi_stream_close(stream);
}

/*
 * Takes the source away: its slot, its row and its origin.  The slot first, so
 * that a failure in between leaves the rest to the next try.  A source whose
 * row is gone already can only have its local slot dropped.
 *
 * Returns false, and leaves the row as it is now in *row, if meanwhile somebody
 * has started the source anew.
 */
bool
bemi_drop_source(BemiSourceRow *row)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		dropped;

	bemi_set_state(bemi_my_worker, BEMI_STATE_DROPPING);
	if (row->conninfo != NULL)
		drop_remote_slot(row);

	begin_locked_transaction(ExclusiveLock);
	read_row(row, caller);
	dropped = row->drop || !row->exists;
	if (dropped)
	{
		if (row->conninfo == NULL)
			drop_local_slot();
		if (row->exists)
			change_source("SELECT bemi.forget_source($1)");
		drop_origin();

		LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
		bemi_my_worker->in_use = false;
		LWLockRelease(bemi_shared->lock);
		ereport(LOG,
				(errmsg("bemi: source \"%s\" was dropped", bemi_my_worker->source)));
	}
	bemi_end_transaction();
	return dropped;
}

/*
 * Makes the slot, unless an earlier worker came just so far, and lets the
 * origin begin there.
 */
void
bemi_make_slot(BemiStream *stream)
{
	XLogRecPtr	position = InvalidXLogRecPtr;
	RepOriginId origin;

	bemi_set_state(bemi_my_worker, BEMI_STATE_MAKING_SLOT);
	if (!bemi_stream_slot_exists(stream, bemi_slot_name))
		position = bemi_stream_create_slot(stream, bemi_slot_name);

	bemi_begin_transaction();
	change_source("UPDATE bemi.sources SET slot_made = true WHERE name = $1");
	if (!XLogRecPtrIsInvalid(position))
	{
		origin = replorigin_by_name(bemi_slot_name, false);
		LockRelationOid(ReplicationOriginRelationId, RowExclusiveLock);
		replorigin_advance(origin, position, InvalidXLogRecPtr, true, true);
		UnlockRelationOid(ReplicationOriginRelationId, RowExclusiveLock);
	}
	bemi_end_transaction();
}

/*
 * Makes this process the one that moves the source's origin, and returns where
 * it stands.
 */
XLogRecPtr
bemi_take_origin(void)
{
	RepOriginId origin;

	bemi_begin_transaction();
	origin = replorigin_by_name(bemi_slot_name, false);
	bemi_origin_session_setup(origin);
	replorigin_session_origin = origin;
	bemi_end_transaction();
	return replorigin_session_get_progress(false);
}
