/*-------------------------------------------------------------------------
 *
 * as_of_hidden.c
 *		Commits that belong to a past, but that no snapshot sees yet.
 *
 * A transaction writes its commit record first.  Snapshots see it later, and
 * much later if it waits for a synchronous standby.  In between, the worker
 * can have stored it.  Then its changes are in the history before the place,
 * and the table lacks them.
 *
 * What must never happen: such a change is missing in the past.  So it is
 * waited for, and the snapshot of the table is taken again.
 *
 * When bemi_wait_for_commits() has returned, TransactionIdDidCommit() is true
 * for each commit of the past.  So the hidden ones are among the transactions
 * that are running and committed.  This is true for a transaction until
 * snapshots see it, and for nothing else.  Only those of this database that
 * hold a lock for writing to the table count.  Such a lock is released after
 * snapshots see the transaction.
 *
 * A transaction that commits after the place is hidden, too, but the table may
 * lack it.  Its changes are after the place in the history.
 *
 * A transaction can hold such a lock without having changed a row of the
 * table.  While it waits for a standby, its process shows the end of its
 * commit record.  If it has changes of the table, these are the last ones that
 * were committed before that position.  So one look tells, and it is not
 * waited for.  COMMIT PREPARED waits in another process, and is not
 * recognized.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/twophase.h"
#include "miscadmin.h"
#include "replication/syncrep.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "decode/decode.h"
#include "query/query_internal.h"

/* Time in which most commits become visible. */
#define SHORT_WAIT_MS	100

/* ---------- running transactions ---------- */

static void
add_running(BemiHidden *hidden, PGPROC *procs, int count)
{
	for (int i = 0; i < count; i++)
	{
		BemiHiddenCommit *commit = &hidden->commits[hidden->count];

		commit->xid = procs[i].xid;
		if (!TransactionIdIsValid(commit->xid) ||
			procs[i].databaseId != MyDatabaseId)
			continue;
		GET_VXID_FROM_PGPROC(commit->vxid, procs[i]);
		commit->proc = &procs[i];
		hidden->count++;
	}
}

/*
 * Lists the running transactions of this database, prepared ones included.
 */
static void
list_running(BemiHidden *hidden)
{
	int			most = ProcGlobal->allProcCount + max_prepared_xacts;

	hidden->count = 0;
	hidden->commits = palloc(sizeof(BemiHiddenCommit) * (most + 1));
	LWLockAcquire(ProcArrayLock, LW_SHARED);
	add_running(hidden, ProcGlobal->allProcs, ProcGlobal->allProcCount);
	add_running(hidden, PreparedXactProcs, max_prepared_xacts);
	LWLockRelease(ProcArrayLock);
}

/*
 * Keeps those that are committed, and that the snapshot does not see.  A
 * prepared transaction's process keeps its number after its end, so numbers
 * are tested before their state is looked up.
 */
static void
keep_committed(BemiHidden *hidden, Snapshot snapshot)
{
	TransactionId next = ReadNextTransactionId();
	int			kept = 0;

	for (int i = 0; i < hidden->count; i++)
	{
		TransactionId xid = hidden->commits[i].xid;

		if (TransactionIdPrecedes(xid, next) &&
			XidInMVCCSnapshot(xid, snapshot) && TransactionIdDidCommit(xid))
			hidden->commits[kept++] = hidden->commits[i];
	}
	hidden->count = kept;
}

/* ---------- writers of the table ---------- */

static void
mark_writers(BemiHidden *hidden, Oid table)
{
	LOCKTAG		tag;
	VirtualTransactionId *holders;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	holders = GetLockConflicts(&tag, ShareLock, NULL);
	for (; VirtualTransactionIdIsValid(*holders); holders++)
	{
		for (int i = 0; i < hidden->count; i++)
		{
			if (VirtualTransactionIdEquals(hidden->commits[i].vxid, *holders))
				hidden->commits[i].is_writer = true;
		}
	}
}

/*
 * Keeps those that may have written to the table.
 */
static void
keep_writers(BemiHidden *hidden, const BemiPast *past)
{
	ListCell   *cell;
	int			kept = 0;

	for (int i = 0; i < hidden->count; i++)
		hidden->commits[i].is_writer = false;
	foreach(cell, past->leaves)
	{
		BemiPastLeaf *leaf = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		mark_writers(hidden, RelationGetRelid(leaf->table));
	}
	for (int i = 0; i < hidden->count; i++)
	{
		if (hidden->commits[i].is_writer)
			hidden->commits[kept++] = hidden->commits[i];
	}
	hidden->count = kept;
}

/* ---------- what as_of_begin.c asks ---------- */

/*
 * Whether no transaction was running when the snapshot was taken.  Numbers
 * from xmax on are not in its list.
 */
static bool
sees_everything(Snapshot snapshot)
{
	return snapshot->xcnt == 0 && snapshot->xmax == ReadNextTransactionId();
}

/*
 * Finds the commits that the table's snapshot does not see, and waits for them
 * for a short time.  Returns true if the snapshot must be taken again.
 *
 * Commits that end before they are listed are not found, so the snapshot must
 * be taken again also if none is found.
 */
bool
bemi_hidden_find(BemiHidden *hidden, const BemiPast *past,
				 const BemiWait *wait)
{
	BemiWait	short_wait = *wait;

	hidden->count = 0;
	if (sees_everything(past->of_table))
		return false;
	list_running(hidden);
	keep_committed(hidden, past->of_table);
	if (hidden->count > 0)
		keep_writers(hidden, past);

	short_wait.timeout_ms =
		Min(wait->timeout_ms,
			bemi_monotonic_ms() - wait->since + SHORT_WAIT_MS);
	for (int i = 0; i < hidden->count; i++)
		(void) bemi_wait_until_ended(hidden->commits[i].xid, &short_wait);
	return true;
}

/*
 * Waits until snapshots see the commits; an error if that takes too long.
 */
void
bemi_hidden_wait(const BemiHidden *hidden, const BemiWait *wait)
{
	for (int i = 0; i < hidden->count; i++)
		bemi_wait_until_visible(hidden->commits[i].xid, wait);
}

/*
 * Whether two ids are of the same commit, see bemi_make_change_id() in
 * decode/stitch.c.
 */
static bool
is_same_commit(const pg_uuid_t *a, const pg_uuid_t *b)
{
	return memcmp(a->data, b->data, 8) == 0 &&
		a->data[8] >> 2 == b->data[8] >> 2;
}

/*
 * Forgets a transaction if this change of it is after the place.  Only a place
 * that a change names can be in the middle of a transaction.
 */
static void
forget_later(BemiHidden *hidden, const BemiPast *past,
			 const BemiPastChange *change)
{
	if (is_same_commit(&change->id, &past->first_id) && past->splits_commit)
		return;
	for (int i = 0; i < hidden->count; i++)
	{
		if (hidden->commits[i].xid == change->xid)
			hidden->commits[i--] = hidden->commits[--hidden->count];
	}
}

/* ---------- commits without a change of the table ---------- */

/*
 * The end of the commit record of a transaction that waits for a standby;
 * InvalidXLogRecPtr: it does not, or is prepared.
 */
static XLogRecPtr
end_of_commit(const BemiHiddenCommit *commit)
{
	XLogRecPtr	end = InvalidXLogRecPtr;

	LWLockAcquire(SyncRepLock, LW_SHARED);
	if (commit->proc->xid == commit->xid &&
		commit->proc->syncRepState != SYNC_REP_NOT_WAITING)
		end = commit->proc->waitLSN;
	LWLockRelease(SyncRepLock);
	return end;
}

/*
 * Looks for a later change of the table in a piece of the history, up to an
 * id.  Sets *id and *xid if there is one.
 */
static void
find_last_change(BemiPast *past, const BemiPiece *piece,
				 BemiChangesQuery *query, pg_uuid_t *id, TransactionId *xid)
{
	BemiChangesScan *scan;
	TupleTableSlot *slot;
	bool		is_null;

	query->from_time = &piece->from;
	query->to_time = piece->has_to ? &piece->to : NULL;
	scan = bemi_changes_begin(past->history, query);
	slot = bemi_changes_next(scan);
	if (slot != NULL)
	{
		const BemiHistory *history = past->history;
		pg_uuid_t  *found =
			DatumGetUUIDP(slot_getattr(slot, history->columns[BEMI_CHANGE_ID],
									   &is_null));

		if (memcmp(found, id, sizeof(pg_uuid_t)) > 0)
		{
			*id = *found;
			*xid = (TransactionId) DatumGetInt64(
												 slot_getattr(slot,
															  history
															  ->columns[BEMI_CHANGE_TRANSACTION_ID],
															  &is_null));
		}
	}
	bemi_changes_end(scan);
}

/*
 * Whether a commit whose record ends here has changed the table.  Ids follow
 * the positions, but not the times of the pieces.
 */
static bool
has_changed_table(BemiPast *past, TransactionId xid, XLogRecPtr end)
{
	pg_uuid_t	bound;
	pg_uuid_t	last_id = {{0}};
	TransactionId last_xid = InvalidTransactionId;
	ListCell   *cell;

	bemi_make_change_id(end, 0, 0, &bound);
	PushActiveSnapshot(past->of_changes);
	foreach(cell, past->names)
	{
		const BemiPastNames *names = lfirst(cell);
		BemiChangesQuery query = {
			.order = BEMI_NEWEST_FIRST,.limit = 1,.sources = past->sources,
			.schema = names->schema,.table = names->table,.to_id = &bound
		};

		for (int i = 0; i < past->history->piece_count; i++)
			find_last_change(past, &past->history->pieces[i], &query, &last_id,
							 &last_xid);
	}
	PopActiveSnapshot();
	return last_xid == xid;
}

/*
 * Forgets commits that have changed nothing in the table.
 */
static void
forget_idle(BemiHidden *hidden, BemiPast *past)
{
	int			kept = 0;

	for (int i = 0; i < hidden->count; i++)
	{
		XLogRecPtr	end = end_of_commit(&hidden->commits[i]);

		if (XLogRecPtrIsInvalid(end) ||
			has_changed_table(past, hidden->commits[i].xid, end))
			hidden->commits[kept++] = hidden->commits[i];
	}
	hidden->count = kept;
}

/*
 * Keeps the commits that the table's snapshot lacks and that belong to the
 * past.  Their changes are stored.  False if there is none.
 */
bool
bemi_hidden_keep_past(BemiHidden *hidden, BemiPast *past)
{
	MemoryContext memory;
	MemoryContext caller;
	BemiPastScan *scan;
	BemiPastChange change;
	pg_uuid_t	last;

	keep_committed(hidden, past->of_table);
	if (hidden->count == 0)
		return false;
	memory = AllocSetContextCreate(past->memory, "bemi hidden commits",
								   ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(memory);
	memset(&last, 0xFF, sizeof(last));
	scan = bemi_past_scan_begin(past, &past->first_id, &last, NULL);
	while (hidden->count > 0 && bemi_past_scan_next(scan, &change))
	{
		forget_later(hidden, past, &change);
		MemoryContextReset(memory);
	}
	bemi_past_scan_end(scan);
	forget_idle(hidden, past);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	return hidden->count > 0;
}
