/*-------------------------------------------------------------------------
 *
 * status.c
 *		What bemi.status shows of this server's workers.
 *
 * In flow copies of the entries in shared memory, out flow the rows of
 * _bemi.source_status(), from which the view is made, and what keeps all
 * workers of this server from running.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_source_status);
PG_FUNCTION_INFO_V1(bemi_why_no_worker);

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
