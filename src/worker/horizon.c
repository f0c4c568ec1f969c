/*-------------------------------------------------------------------------
 *
 * horizon.c
 *		Up to which time every commit has its place in the WAL.
 *
 * A transaction takes the time of its commit first and writes its commit
 * record then.  In between, it may wait for whatever the WAL waits for.  So a
 * worker that has stored all WAL up to now may still receive a commit of an
 * earlier time, and what bemi.status and bemi.complete() promise of a time
 * needs a proof: a time and a position such that each commit of an earlier
 * time has its record before the position.
 *
 * The server marks a process as committing before the process takes the time,
 * and takes the mark away after the record is written, because checkpoints
 * need that, too.  So: note who is marked at some time; when the last of them
 * is done, the end of the WAL is the position.  Who is marked later takes a
 * later time.
 *
 * Two things blur this by less than SETTLE_MS.  The mark is set without a
 * memory barrier, so that others see it somewhat later, and COMMIT PREPARED
 * takes the time a few instructions before its mark.  Commits that a
 * subscription applies have the time of their publisher, which nothing here
 * can know.
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

/* So old a time must be before one looks who is committing. */
#define SETTLE_MS		1

/* How often a wait looks whether the commits are done. */
#define LOOK_MS			2

/*
 * Begins to look for the position of a time that is at least SETTLE_MS old.
 * What it remembers is in the current memory context.
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
 * Waits for the position of a time that has just been, though not longer than
 * so many milliseconds.  False if some commit takes longer.
 */
bool
bemi_horizon_wait(BemiHorizon *horizon, TimestampTz time, int64 timeout_ms)
{
	int64		since = bemi_monotonic_ms();

	while (!TimestampDifferenceExceeds(time, GetCurrentTimestamp(), SETTLE_MS))
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
 * _bemi.commit_horizon(timeout_ms): now, and the position; NULLs if commits
 * take longer than the timeout, and on a standby, where nobody commits.
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
