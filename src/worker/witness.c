/*-------------------------------------------------------------------------
 *
 * witness.c
 *		The witness: proves that the source still has the stored changes.
 *
 * A source that was restored from a snapshot, with its slot and on the same
 * timeline, looks like one that has crashed.  If it has written beyond the
 * origin's position since, its new transactions before that position would be
 * skipped, and the undone ones would stay in the history.
 *
 * The witness is the last transaction with changes.  The worker starts the
 * stream at a position from which the source sends this transaction again.  It
 * compares commit position, commit time and xid, and discards its changes.
 * WAL is linear: a source that has this commit has everything before it, and
 * everything after it is read from there.  So the worker also sets the origin
 * back to the witness.
 *
 * The source sends a transaction again only if its slot has not confirmed it.
 * If the slot has confirmed the last stored transaction, no witness is needed,
 * because the state of the slot is part of the snapshot, and is older than the
 * snapshot's WAL.  Then the stream starts at the slot's position, and none of
 * its transactions is stored yet.
 *
 * This needs no write at the source, so it costs an idle source nothing and
 * works with standbys, without the extension, and with every version.
 *
 * If the witness is missing, the worker ends, because this stream cannot be
 * used.  The next worker compares all transactions that the slot can send with
 * the stored ones (bemi_find_last_common()), and records a gap (loss_check.c).
 *
 * The last transaction with changes is in shared memory, and once a second it
 * is stored in _bemi.source_progress.  The history alone does not show it,
 * because rows may be deleted and partitions detached.  But it shows the
 * transactions of the last second before a crash.
 *
 * What must never happen: a transaction is stored twice.  The stream starts at
 * the last transaction with changes, or later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type_d.h"
#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "decode/decode.h"
#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/*
 * Finds the last transaction with changes and a commit position in this range,
 * from the slot's position to the origin: the one that the worker remembers,
 * or a later one that is stored.
 */
void
bemi_find_witness(XLogRecPtr from, XLogRecPtr to, BemiWitness *witness)
{
	BemiStored	changed;
	bool		remembers;

	bemi_facts_last_changed(&changed);
	remembers = changed.commit_lsn >= from && changed.commit_lsn < to &&
		!XLogRecPtrIsInvalid(changed.commit_lsn);
	memset(witness, 0, sizeof(BemiWitness));
	bemi_begin_transaction();
	if (!bemi_find_last_stored(bemi_source_name,
							   remembers ? changed.commit_lsn + 1 : from, to,
							   &witness->stored) &&
		remembers)
		witness->stored = changed;
	bemi_end_transaction();
}

/*
 * Ends the process because the witness is missing in the stream.  The next
 * worker compares the source's transactions with the stored ones.
 */
static void
exit_to_compare(const BemiWitness *witness)
{
	ereport(LOG,
			(errmsg("bemi: source \"%s\" no longer has the transaction that was stored last",
					bemi_source_name),
			 errdetail("Transaction %u was committed at %X/%X.",
					   witness->stored.xid,
					   LSN_FORMAT_ARGS(witness->stored.commit_lsn))));
	bemi_facts_require_comparison();
	bemi_entry_stop(true);
	proc_exit(0);
}

/*
 * Checks an event that comes while the witness is expected.  Returns true if
 * the event must be processed: BEGIN and COMMIT of the witness, and
 * descriptions of tables, which later transactions need.  Its changes are
 * already stored.
 */
bool
bemi_witness_event(BemiWitness *witness, const BemiEvent *event)
{
	if (event->kind == BEMI_EVENT_BEGIN)
	{
		if (event->commit_lsn != witness->stored.commit_lsn ||
			event->committed_at != witness->stored.committed_at ||
			event->xid != witness->stored.xid)
			exit_to_compare(witness);
		witness->begun = true;
		return true;
	}
	if (event->kind == BEMI_EVENT_COMMIT)
		memset(witness, 0, sizeof(BemiWitness));
	return event->kind == BEMI_EVENT_COMMIT ||
		event->kind == BEMI_EVENT_RELATION;
}

/*
 * Ends the process if the source has passed the witness without sending it.
 */
void
bemi_check_witness(const BemiWitness *witness, XLogRecPtr received)
{
	if (!XLogRecPtrIsInvalid(witness->stored.commit_lsn) && !witness->begun &&
		received > witness->stored.commit_lsn)
		exit_to_compare(witness);
}

/*
 * Whether this transaction is stored, or was the last one that the worker
 * remembers.
 */
static bool
transaction_is_stored(XLogRecPtr commit_lsn, TimestampTz committed_at,
					  TransactionId xid)
{
	BemiStored	changed;
	BemiStored	transaction = {commit_lsn, committed_at, xid};
	bool		stored;

	bemi_facts_last_changed(&changed);
	if (commit_lsn == changed.commit_lsn &&
		committed_at == changed.committed_at && xid == changed.xid)
		return true;
	bemi_begin_transaction();
	stored = bemi_is_stored(bemi_source_name, &transaction);
	bemi_end_transaction();
	return stored;
}

/*
 * Commit position of the last stored transaction in this range that the source
 * can still send; InvalidXLogRecPtr if there is none.
 */
XLogRecPtr
bemi_find_last_common(BemiStream *stream, XLogRecPtr from, XLogRecPtr to)
{
	if (from >= to)
		return InvalidXLogRecPtr;
	return bemi_stream_last_common(stream, bemi_slot_name, from, to,
								   transaction_is_stored);
}

/*
 * Finds the last stored transaction in this range that no gap covers yet.
 * Within a transaction.
 */
bool
bemi_find_last_outside(XLogRecPtr from, XLogRecPtr to, BemiStored *stored)
{
	BemiValue	source = bemi_sql_text(bemi_source_name);
	BemiValue	gaps[] = {
		{.type = TIMESTAMPTZARRAYOID}, {.type = TIMESTAMPTZARRAYOID}
	};

	(void)
		bemi_sql_read_row("SELECT coalesce(pg_catalog.array_agg(from_time), '{}'),"
						  " coalesce(pg_catalog.array_agg(coalesce(to_time, 'infinity')), '{}')"
						  " FROM bemi.gaps WHERE source = $1 AND \"table\" IS NULL",
						  &source, 1, gaps, lengthof(gaps));
	return bemi_find_stored_outside(bemi_source_name, from, to, gaps[0],
									gaps[1], stored);
}

/*
 * Whether there is a stored transaction in this range that no gap covers yet.
 */
bool
bemi_stores_undone(XLogRecPtr from, XLogRecPtr to)
{
	BemiStored	stored;
	bool		found;

	bemi_begin_transaction();
	found = bemi_find_last_outside(from, to, &stored);
	bemi_end_transaction();
	return found;
}
