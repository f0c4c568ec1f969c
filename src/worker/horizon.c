/*-------------------------------------------------------------------------
 *
 * horizon.c
 *		The commit horizon: a time such that all earlier commits are in the
 *		WAL.
 *
 * A transaction reads the clock for its commit time first, and writes its
 * commit record later.  In between, it may wait for the WAL.  So a worker that
 * has stored all WAL up to now may still receive a commit with an earlier
 * time. bemi.status and bemi.complete() therefore need a horizon: a time and a
 * position such that each commit with an earlier time has its record before
 * the position.  What must never happen: such a commit has its record after
 * the position.
 *
 * The server marks a process as committing before the process reads the clock,
 * and removes the mark after the record is written, because checkpoints need
 * this.  So we list the marked processes at some time.  When the last of them
 * has finished, the end of the WAL is the position.  A process that is marked
 * later reads a later time.
 *
 * Two effects need a margin, which is less than SETTLE_MS.  The mark is set
 * without a memory barrier, so others see it a little later.  COMMIT PREPARED
 * reads the clock a few instructions before its mark.  Commits that a
 * subscription applies have their publisher's time, which no horizon can
 * cover.
 *
 * When the mark is removed, TransactionIdDidCommit() is already true, but
 * snapshots may not see the transaction yet: it can wait for a synchronous
 * standby first.  bemi_wait_until_ended() waits for that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "funcapi.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_commit_horizon);

/* Least age of a time when the marked processes are listed. */
#define SETTLE_MS		1

/* Interval at which a wait checks whether the commits have finished. */
#define LOOK_MS			2

/* The longest such interval if the transaction may wait for a standby. */
#define LONGEST_LOOK_MS	50

/*
 * Begins to determine the position for a time that is at least SETTLE_MS old.
 * The list of processes is in the current memory context.
 */
void
bemi_horizon_begin(BemiHorizon *horizon, TimestampTz time)
{
	horizon->time = time;
	horizon->position = InvalidXLogRecPtr;
	horizon->committing = bemi_committing(&horizon->count);
}

/*
 * Whether the position is known.
 */
bool
bemi_horizon_is_settled(BemiHorizon *horizon)
{
	if (!XLogRecPtrIsInvalid(horizon->position))
		return true;
	if (horizon->count > 0 &&
		bemi_are_committing(horizon->committing, horizon->count))
		return false;

	horizon->position = GetXLogInsertRecPtr();
	pfree(horizon->committing);
	horizon->committing = NULL;
	return true;
}

static void
sleep_until_settled(long milliseconds)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiHorizon");
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 milliseconds, wait_event);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Waits for the position of a recent time, at most this many milliseconds.
 * Returns false if a commit takes longer.
 */
bool
bemi_horizon_wait(BemiHorizon *horizon, TimestampTz time, int64 timeout_ms)
{
	int64		since = bemi_monotonic_ms();

	/* No difference of times, because -infinity has none. */
	while (time > GetCurrentTimestamp() - SETTLE_MS * INT64CONST(1000))
		sleep_until_settled(SETTLE_MS);
	bemi_horizon_begin(horizon, time);
	while (!bemi_horizon_is_settled(horizon))
	{
		if (bemi_has_passed(since, timeout_ms))
			return false;
		sleep_until_settled(LOOK_MS);
	}
	return true;
}

/*
 * Waits until snapshots see that a transaction has ended.  Returns false if it
 * takes longer.
 */
bool
bemi_wait_until_ended(TransactionId xid, const BemiWait *wait)
{
	long		pause_ms = 1;

	while (TransactionIdIsInProgress(xid))
	{
		if (bemi_has_passed(wait->since, wait->timeout_ms))
			return false;
		sleep_until_settled(pause_ms);
		pause_ms = Min(pause_ms * 2, LONGEST_LOOK_MS);
	}
	return true;
}

/*
 * Waits until snapshots see a transaction whose changes are stored; an error
 * if that takes too long.
 */
void
bemi_wait_until_visible(TransactionId xid, const BemiWait *wait)
{
	if (!bemi_wait_until_ended(xid, wait))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("a commit takes too long"),
				 errdetail("The history has transaction %u, and queries do not see it yet. A commit waits for a synchronous standby.",
						   xid),
				 errhint("SELECT * FROM pg_stat_activity WHERE wait_event = 'SyncRep';")));
}

/*
 * _bemi.commit_horizon(timeout_ms): now, and its position; NULLs if commits
 * take longer than the timeout, and on a standby, which has no commits.
 */
Datum
bemi_commit_horizon(PG_FUNCTION_ARGS)
{
	int32		timeout_ms = PG_GETARG_INT32(0);
	TimestampTz now = GetCurrentTimestamp();
	BemiHorizon horizon;
	TupleDesc	columns;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (!RecoveryInProgress() && bemi_horizon_wait(&horizon, now, timeout_ms))
	{
		values[0] = TimestampTzGetDatum(horizon.time);
		values[1] = LSNGetDatum(horizon.position);
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(
					HeapTupleGetDatum(heap_form_tuple(columns, values, nulls)));
}
