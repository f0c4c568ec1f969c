/*-------------------------------------------------------------------------
 *
 * witness.c
 *		Is the source still the one whose changes are stored?
 *
 * A source that was put back to a snapshot, with its slot and on the same
 * timeline, looks like one that has crashed.  If it has written past the
 * position of the origin since, its new transactions up to there would be
 * passed over, and those that the restore has undone would stay in the
 * history.
 *
 * The witness is the last transaction with changes.  The worker starts the
 * stream so that the source sends this transaction again, compares commit
 * position, commit time and xid, and drops its changes.  WAL is linear: a
 * source that has this very commit has everything before it, and everything
 * after it is read from there.  So the worker also sets the origin back to the
 * witness.
 *
 * The source sends a transaction again only if its slot has not confirmed it.
 * If the slot has confirmed the last stored transaction, no witness is needed:
 * the state of the slot is part of the snapshot, and is older than the
 * snapshot's WAL.  Then the stream starts at the slot's position, and nothing
 * that comes is stored.
 *
 * This needs no write at the source, so it costs an idle source nothing and
 * works with standbys, without the extension, and with every version.
 *
 * If the witness is not there, the worker ends, because nothing can be read
 * from that stream.  The next one compares all transactions that the slot can
 * send with those that are stored (bemi_find_last_common()), and writes a gap
 * (loss_check.c).
 *
 * The worker remembers the last transaction with changes in shared memory, and
 * once a second in _bemi.source_progress.  The history alone does not tell:
 * rows are deleted, and partitions detached.  It does tell what was stored in
 * the second before the server crashed.
 *
 * What must never happen: that a transaction is stored twice.  The stream
 * starts at the last transaction with changes, or later.
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
 * Finds the last transaction with changes whose commit position is in this
 * range, from where the slot stands to the origin: the one that the worker
 * remembers, or a later one that is stored.
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
 * The stream does not have the witness where it must be.  Nothing can be read
 * from it; the next worker finds out what the source has.
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
 * Takes an event that comes while the witness is expected.  True if the event
 * is to be processed: the frame of the witness, and the descriptions of
 * tables, on which later transactions rely.  Its changes are stored already.
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
 * Leaves if the source has come beyond the witness without sending it.
 */
void
bemi_check_witness(const BemiWitness *witness, XLogRecPtr received)
{
	if (!XLogRecPtrIsInvalid(witness->stored.commit_lsn) && !witness->begun &&
		received > witness->stored.commit_lsn)
		exit_to_compare(witness);
}

/*
 * Whether this transaction is stored, or was, as far as the worker remembers.
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
 * Commit position of the last transaction in this range that is stored, and
 * that the source can still send; InvalidXLogRecPtr if there is none.
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
 * Finds the last transaction that is stored, that committed in this range, and
 * that no gap covers yet.  Within a transaction.
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
 * Whether a transaction is stored that committed in this range, and that no
 * gap covers yet.
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
