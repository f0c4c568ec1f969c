/*-------------------------------------------------------------------------
 *
 * entry.c
 *		Shared memory: what each worker does, and how others reach it.
 *
 * Workers write their state, positions and errors here; bemi.status,
 * bemi.start(), bemi.stop() and bemi.sync() read them and sleep on one
 * condition variable that is broadcast with each change.  The memory is empty
 * after a restart or crash of the server; the launcher's scouts fill it again
 * from what really lasts, the replication origins.
 *
 * One lightweight lock protects everything, held for a few instructions and
 * never over a wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_source_status);
PG_FUNCTION_INFO_V1(bemi_why_no_worker);

BemiShared *bemi_shared = NULL;
int			bemi_max_sources = 64;

static bool wake_at_commit = false;

/* Sources that get entries at commit; of the transaction's memory. */
static List *add_at_commit = NIL;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#if BEMI_HAS_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

static Size
shared_memory_size(void)
{
	return add_size(offsetof(BemiShared, workers),
					mul_size(sizeof(BemiWorker), bemi_max_sources));
}

static void
request_shared_memory(void)
{
#if BEMI_HAS_SHMEM_REQUEST_HOOK
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
#endif
	RequestAddinShmemSpace(MAXALIGN(shared_memory_size()));
	RequestNamedLWLockTranche("bemi", 1);
}

static void
attach_shared_memory(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	bemi_shared = ShmemInitStruct("bemi", shared_memory_size(), &found);
	if (!found)
	{
		memset(bemi_shared, 0, shared_memory_size());
		bemi_shared->lock = &GetNamedLWLockTranche("bemi")->lock;
		ConditionVariableInit(&bemi_shared->changed);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * The entry of a source, or NULL.  The caller holds the lock.
 */
BemiWorker *
bemi_find_worker(Oid database, const char *source)
{
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiWorker *worker = &bemi_shared->workers[i];

		if (worker->in_use && worker->database == database &&
			strcmp(worker->source, source) == 0)
			return worker;
	}
	return NULL;
}

/*
 * Makes an entry for a source, unless it has one.  False if there is no room.
 */
bool
bemi_add_worker(Oid database, const char *source)
{
	BemiWorker *worker;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker = bemi_find_worker(database, source);
	for (int i = 0; i < bemi_max_sources && worker == NULL; i++)
	{
		if (bemi_shared->workers[i].in_use || bemi_shared->workers[i].launched)
			continue;
		worker = &bemi_shared->workers[i];
		memset(worker, 0, sizeof(BemiWorker));
		worker->in_use = true;
		worker->database = database;
		strlcpy(worker->source, source, BEMI_SOURCE_NAME_LEN);
		worker->state = BEMI_STATE_STARTING;
	}
	LWLockRelease(bemi_shared->lock);
	return worker != NULL;
}

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
 * Takes away the entry of a source that was given up.  False if a worker has
 * it, which will then find out by itself.
 */
bool
bemi_remove_worker(Oid database, const char *source)
{
	BemiWorker *worker;
	bool		removed = true;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker = bemi_find_worker(database, source);
	if (worker != NULL && worker->launched)
		removed = false;
	else if (worker != NULL)
		worker->in_use = false;
	LWLockRelease(bemi_shared->lock);
	return removed;
}

/*
 * Name of a source's slot; of one that no worker has looked at since the
 * server started, as if it were on this server.  The caller holds the lock, or
 * is the worker itself.  Palloc'd.
 */
const char *
bemi_slot_of_worker(const BemiWorker *worker)
{
	if (worker->slot[0] != '\0')
		return pstrdup(worker->slot);
	return psprintf("bemi_%u_%s", worker->database, worker->source);
}

void
bemi_set_state(BemiWorker *worker, BemiState state)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->state = state;
	LWLockRelease(bemi_shared->lock);
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * Copies a text into shared memory, without cutting a character in two.
 */
static void
copy_text(char *to, const char *text)
{
	strlcpy(to, text,
			pg_mbcliplen(text, strlen(text), BEMI_ERROR_LEN - 1) + 1);
}

/*
 * A worker begins to do what its row asks for, or the launcher tries to start
 * one.  Called whenever a worker reads its row, with the sources locked.  A
 * session that changes the row notes the number of attempts while it holds
 * that lock, so that it can tell the errors of later attempts from those of
 * workers that have not seen the change.
 */
void
bemi_begin_attempt(BemiWorker *worker)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->attempt = ++bemi_shared->attempts;
	LWLockRelease(bemi_shared->lock);
}

/*
 * Notes why a worker failed; hint may be NULL.
 */
void
bemi_set_error(BemiWorker *worker, const char *error, const char *hint)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->state = BEMI_STATE_FAILED;
	worker->failed_attempt = worker->attempt;
	worker->error_count++;
	worker->error_at = GetCurrentTimestamp();
	copy_text(worker->error, error);
	copy_text(worker->hint, hint ? hint : "");
	LWLockRelease(bemi_shared->lock);
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * Notes whether commits at the source may wait for the worker, and what to do
 * about it ("": nothing).
 */
void
bemi_set_election(BemiWorker *worker, bool is_elected, const char *advice)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->is_elected = is_elected;
	copy_text(worker->advice, advice);
	LWLockRelease(bemi_shared->lock);
}

/*
 * Notes how far a worker has come.
 */
void
bemi_set_progress(BemiWorker *worker, XLogRecPtr received, XLogRecPtr stored)
{
	bool		moved;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	moved = worker->stored != stored;
	worker->received = received;
	worker->stored = stored;
	if (worker->awaited <= stored)
		worker->awaited = worker->awaited_last;
	LWLockRelease(bemi_shared->lock);
	if (moved)
		ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * The workers of this database that have stored all up to a position have all
 * that was committed before this time.  That may have been some time ago, when
 * they know more by now, unless what they know is still to come: the clock was
 * set back.
 */
void
bemi_record_synced(XLogRecPtr position, TimestampTz time)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiWorker *worker = &bemi_shared->workers[i];

		if (worker->in_use && worker->database == MyDatabaseId &&
			worker->is_local && worker->stored >= position &&
			(time > worker->synced.time || worker->synced.time > now))
		{
			worker->synced.time = time;
			worker->synced.position = position;
		}
	}
	LWLockRelease(bemi_shared->lock);
}

/*
 * Adds to what a worker has counted, with the time that it has found out last,
 * 0 for none.  A worker reads a clock again and again: if the time is earlier
 * than the last one, the clock was set back, and what bemi.sync() has found
 * out before that may be committed yet.
 */
void
bemi_add_counts(BemiWorker *worker, const BemiCounts *counts,
				const BemiUntil *until)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->counts.changes += counts->changes;
	worker->counts.transactions += counts->transactions;
	worker->counts.invalid_messages += counts->invalid_messages;
	if (!XLogRecPtrIsInvalid(counts->changed.commit_lsn))
		worker->counts.changed = counts->changed;
	if (until->time != 0)
	{
		if (until->time < worker->until.time)
			memset(&worker->synced, 0, sizeof(BemiUntil));
		worker->until = *until;
	}
	LWLockRelease(bemi_shared->lock);
}

/*
 * Lets the launcher look for workers to start.
 */
void
bemi_wake_launcher(void)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	if (bemi_shared->launcher_latch)
		SetLatch(bemi_shared->launcher_latch);
	LWLockRelease(bemi_shared->lock);
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

const char *
bemi_state_name(BemiState state)
{
	switch (state)
	{
		case BEMI_STATE_STARTING:
			return "starting";
		case BEMI_STATE_CONNECTING:
			return "connecting";
		case BEMI_STATE_MAKING_SLOT:
			return "making slot";
		case BEMI_STATE_STREAMING:
			return "streaming";
		case BEMI_STATE_DROPPING:
			return "dropping";
		case BEMI_STATE_PAUSED:
			return "paused";
		case BEMI_STATE_FAILED:
			return "failed";
		case BEMI_STATE_STOPPED:
			return "stopped";
	}
	return "unknown";			/* keep the compiler quiet */
}

/*
 * Fills the columns of what a slot on another server costs, and returns their
 * number.
 */
static int
fill_slot_cost(const BemiWorker *worker, Datum *values, bool *nulls)
{
	const BemiSlotCost *cost = &worker->cost;
	bool		unknown = XLogRecPtrIsInvalid(cost->source_lsn);
	int			n = 0;

	nulls[n] = unknown;
	values[n++] = LSNGetDatum(Max(cost->source_lsn, worker->received));
	nulls[n] = unknown || cost->wal_kept < 0;
	values[n++] = Int64GetDatum(cost->wal_kept);
	nulls[n] = (cost->wal_status[0] == '\0');
	values[n++] = CStringGetTextDatum(cost->wal_status);
	nulls[n] = unknown || cost->catalog_xmin_age < 0;
	values[n++] = Int32GetDatum(cost->catalog_xmin_age);
	return n;
}

/*
 * Puts one row of _bemi.source_status() into the result.
 */
static void
put_source_status(ReturnSetInfo *result, const BemiWorker *worker)
{
	Datum		values[22];
	bool		nulls[22] = {0};
	TimestampTz stored_until = Max(worker->until.time, worker->synced.time);
	int			n = 0;

	values[n++] = CStringGetTextDatum(worker->source);
	values[n++] = CStringGetTextDatum(bemi_state_name(worker->state));
	nulls[n] = (worker->pid == 0);
	values[n++] = Int32GetDatum(worker->pid);
	nulls[n] = XLogRecPtrIsInvalid(worker->received);
	values[n++] = LSNGetDatum(worker->received);
	nulls[n] = XLogRecPtrIsInvalid(worker->stored);
	values[n++] = LSNGetDatum(worker->stored);
	nulls[n] = (stored_until == 0);
	values[n++] = TimestampTzGetDatum(stored_until);

	nulls[n] = nulls[n + 1] = nulls[n + 2] = !worker->counted;
	values[n++] = Int64GetDatum(worker->counts.changes);
	values[n++] = Int64GetDatum(worker->counts.transactions);
	values[n++] = Int64GetDatum(worker->counts.invalid_messages);

	values[n++] = Int64GetDatum(worker->restarts);
	nulls[n] = nulls[n + 1] = (worker->error_count == 0);
	values[n++] = CStringGetTextDatum(worker->error);
	values[n++] = TimestampTzGetDatum(worker->error_at);
	nulls[n] = (worker->hint[0] == '\0');
	values[n++] = CStringGetTextDatum(worker->hint);

	nulls[n] = (worker->pid == 0 || worker->walsender == 0);
	values[n++] = Int32GetDatum(worker->walsender);
	n += fill_slot_cost(worker, &values[n], &nulls[n]);
	nulls[n] = (worker->advice[0] == '\0');
	values[n++] = CStringGetTextDatum(worker->advice);

	values[n++] = Int32GetDatum(worker->unreadable.tries);
	nulls[n] = XLogRecPtrIsInvalid(worker->unreadable.commit_lsn);
	values[n++] = LSNGetDatum(worker->unreadable.commit_lsn);
	nulls[n] = (worker->pid == 0 || worker->strays[0] == '\0');
	values[n++] = CStringGetTextDatum(worker->strays);
	Assert(n == lengthof(values));

	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * _bemi.source_status(): the workers of this database, no row if the library
 * was not preloaded.
 */
Datum
bemi_source_status(PG_FUNCTION_ARGS)
{
	BemiWorker *copy;

	bemi_init_result_set(fcinfo);
	if (bemi_shared == NULL)
		return (Datum) 0;

	/* Building rows allocates; not while others wait for the lock. */
	copy = palloc(sizeof(BemiWorker) * bemi_max_sources);
	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	memcpy(copy, bemi_shared->workers, sizeof(BemiWorker) * bemi_max_sources);
	LWLockRelease(bemi_shared->lock);

	for (int i = 0; i < bemi_max_sources; i++)
		if (copy[i].in_use && copy[i].database == MyDatabaseId)
			put_source_status((ReturnSetInfo *) fcinfo->resultinfo, &copy[i]);
	return (Datum) 0;
}

/*
 * What keeps all workers of this server from running; NULL: nothing does.
 */
static const char *
why_no_worker(void)
{
	bool		launcher;

	if (!IsUnderPostmaster)
		return "the server runs in single-user mode, without workers";
	if (RecoveryInProgress())
		return "this server is a standby, the worker runs at its primary";
	if (bemi_shared == NULL)
		return "the library is not in shared_preload_libraries, add bemi to it and restart the server";

	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	launcher = bemi_shared->launcher_pid != 0;
	LWLockRelease(bemi_shared->lock);
	return launcher ?
		NULL :
		"bemi's launcher is not running, raise max_worker_processes and restart the server";
}

/*
 * _bemi.why_no_worker()
 */
Datum
bemi_why_no_worker(PG_FUNCTION_ARGS)
{
	const char *why = why_no_worker();

	if (why == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(why));
}

/*
 * Only while shared_preload_libraries are loaded can memory be had.
 */
void
bemi_worker_state_init(void)
{
	RegisterXactCallback(entries_at_transaction_end, NULL);

	if (!process_shared_preload_libraries_in_progress)
		return;
	DefineCustomIntVariable("bemi.max_sources",
							"Sets how many sources the server can read, in all its databases.",
							"Each takes a background worker, and 5 kB of shared memory.",
							&bemi_max_sources, 64, 1, 1000, PGC_POSTMASTER, 0,
							NULL, NULL, NULL);
#if BEMI_HAS_SHMEM_REQUEST_HOOK
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
#else
	request_shared_memory();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = attach_shared_memory;
}
