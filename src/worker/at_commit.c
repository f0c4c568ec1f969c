/*-------------------------------------------------------------------------
 *
 * at_commit.c
 *		How a session's change of bemi.sources reaches the workers.
 *
 * bemi.start(), bemi.stop() and bemi.drop_source() change a row, which nobody
 * else can see before the commit.  So what shared memory must know of the
 * change is kept in this process until the transaction commits, and forgotten
 * if it does not.
 *
 * At the commit it is too late for errors: whether a new source finds a place
 * is checked before, and if another session takes the last one meanwhile, the
 * log says so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "worker/worker_internal.h"

static bool wake_at_commit = false;

/* Sources that get entries at commit; of the transaction's memory. */
static List *add_at_commit = NIL;

/*
 * Error unless there is room for a source, or it has an entry.  Another
 * session may take the last place before this one commits; then the log tells.
 */
void
bemi_require_place(const char *source)
{
	bool		has_place;

	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	has_place = bemi_find_worker(MyDatabaseId, source) != NULL;
	for (int i = 0; i < bemi_max_sources && !has_place; i++)
		has_place = !bemi_shared->workers[i].in_use;
	LWLockRelease(bemi_shared->lock);
	if (!has_place)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("cannot start source \"%s\"", source),
				 errdetail("This server has %d sources already, in all its databases.",
						   bemi_max_sources),
				 errhint("Put this line into postgresql.conf and restart the server: bemi.max_sources = %d",
						 bemi_max_sources * 2)));
}

/*
 * A source that found no place, when it is too late for errors.
 */
void
bemi_report_no_place(const char *source)
{
	ereport(LOG,
			(errmsg("bemi: source \"%s\" is not started, %d others are",
					source, bemi_max_sources),
			 errhint("Put this line into postgresql.conf and restart the server: bemi.max_sources = %d",
					 bemi_max_sources * 2)));
}

/*
 * Lets the workers of this database look at their rows of bemi.sources.
 */
static void
wake_workers(void)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiWorker *worker = &bemi_shared->workers[i];

		if (!worker->in_use || worker->database != MyDatabaseId)
			continue;
		worker->wake = true;
		worker->next_start = 0;
		if (worker->latch)
			SetLatch(worker->latch);
	}
	LWLockRelease(bemi_shared->lock);
	bemi_wake_launcher();
}

/*
 * Called by whoever changes bemi.sources: nobody can see it before the commit.
 */
void
bemi_wake_workers_at_commit(void)
{
	wake_at_commit = (bemi_shared != NULL);
}

/*
 * The same, and a worker for a source that may have none yet.
 */
void
bemi_add_worker_at_commit(const char *source)
{
	MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

	add_at_commit = lappend(add_at_commit, pstrdup(source));
	MemoryContextSwitchTo(caller);
	bemi_wake_workers_at_commit();
}

/*
 * Too late for errors: a source that finds no room is reported to the log.
 */
static void
add_workers(void)
{
	ListCell   *cell;

	foreach(cell, add_at_commit)
	{
		if (!bemi_add_worker(MyDatabaseId, lfirst(cell)))
			bemi_report_no_place(lfirst(cell));
	}
}

static void
entries_at_transaction_end(XactEvent event, void *arg)
{
	if (!wake_at_commit)
		return;
	if (event == XACT_EVENT_PRE_PREPARE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot PREPARE a transaction that has started or stopped a source of bemi")));
	if (event == XACT_EVENT_COMMIT)
	{
		add_workers();
		wake_workers();
	}
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT)
	{
		wake_at_commit = false;
		add_at_commit = NIL;
	}
}

void
bemi_at_commit_init(void)
{
	RegisterXactCallback(entries_at_transaction_end, NULL);
}
