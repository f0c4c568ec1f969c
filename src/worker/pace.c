/*-------------------------------------------------------------------------
 *
 * pace.c
 *		The pace of the worker's commits, setting bemi.commit_delay.
 *
 * A commit at the destination costs the worker as much as some changes.  So
 * while source transactions arrive close to each other, the worker rests after
 * a commit until bemi.commit_delay has passed since that commit.  Then it
 * processes what has arrived, and commits that together.  After a quiet moment
 * the delay has passed, so the first transaction is stored at once.
 *
 * The worker rests before it reads, not before it commits.  Messages wait in
 * the buffer of the socket.  A worker that read them at once would wake up for
 * each of them, and would sleep with a lock and a snapshot of the destination.
 * The buffer holds some 50 small transactions, then the walsender waits.  So
 * the worker rests only if the walsender has nothing more to send.  With a
 * backlog it would otherwise store one full buffer in each delay.
 *
 * Nobody may wait for a resting worker.  A resting worker does not read the
 * marker of bemi.sync() in the stream.  So the session sets the worker's latch
 * (facts.c), and the worker does not rest while a marker is awaited.  It does
 * not rest, either, if commits at the source wait for it.  Signals, and a
 * change of the worker's row, set the latch, too.
 *
 * What must never happen: a rest with uncommitted changes, or one that is
 * longer than bemi.commit_delay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/latch.h"
#include "utils/guc.h"

#include "worker/worker_internal.h"

/* Setting bemi.commit_delay. */
static int	commit_delay_ms = 5;

/*
 * Records that a commit has stored this many source transactions with changes.
 */
void
bemi_pace_record(BemiPace *pace, int64 transactions)
{
	int64		now = bemi_monotonic_ms();
	int			new = Min(transactions, BEMI_BUSY_TRANSACTIONS);

	memmove(pace->stored_at + new, pace->stored_at,
			(BEMI_BUSY_TRANSACTIONS - new) * sizeof(int64));
	for (int i = 0; i < new; i++)
		pace->stored_at[i] = now;
}

/*
 * How long the worker should rest; 0: not at all.
 */
long
bemi_pace_rest_ms(const BemiPace *pace)
{
	if (bemi_has_passed(pace->stored_at[BEMI_BUSY_TRANSACTIONS - 1],
						commit_delay_ms) ||
		bemi_is_elected() || bemi_facts_is_awaited(PG_UINT64_MAX))
		return 0;
	return pace->stored_at[0] + commit_delay_ms - bemi_monotonic_ms();
}

/*
 * Rests until the time is over or the latch is set.
 */
void
bemi_pace_rest(long rest_ms)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiCommitDelay");
	if (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
				  rest_ms, wait_event) & WL_LATCH_SET)
		ResetLatch(MyLatch);
}

void
bemi_worker_pace_init(void)
{
	/*
	 * In milliseconds, because that is the unit in which a process waits for
	 * its latch.  No longer than COMMIT_INTERVAL_MS of store/writer.c.
	 */
	DefineCustomIntVariable("bemi.commit_delay",
							"Sets how long a worker waits after a commit to store the changes of several transactions together.",
							"It waits only while transactions arrive close to each other. 0 means that it never waits.",
							&commit_delay_ms, 5, 0, 100, PGC_SIGHUP,
							GUC_UNIT_MS, NULL, NULL, NULL);
}
