/*-------------------------------------------------------------------------
 *
 * status.c
 *		The rows of bemi.status for this server's workers.
 *
 * Input: a copy of the entries in shared memory.  Output: the rows of
 * _bemi.source_status(), which the view reads, and the reason why no worker of
 * this server can run.
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
 * Each of these fills some columns of _bemi.source_status(), and returns their
 * number.
 */
static int
fill_progress(const BemiEntry *entry, const BemiFacts *facts, Datum *values,
			  bool *nulls)
{
	TimestampTz stored_until = Max(facts->until.time, facts->synced.time);
	int			n = 0;

	values[n++] = CStringGetTextDatum(entry->source);
	values[n++] = CStringGetTextDatum(bemi_state_name(entry->state));
	nulls[n] = (entry->pid == 0);
	values[n++] = Int32GetDatum(entry->pid);
	nulls[n] = XLogRecPtrIsInvalid(facts->received);
	values[n++] = LSNGetDatum(facts->received);
	nulls[n] = XLogRecPtrIsInvalid(facts->stored);
	values[n++] = LSNGetDatum(facts->stored);
	nulls[n] = (stored_until == 0);
	values[n++] = TimestampTzGetDatum(stored_until);

	nulls[n] = nulls[n + 1] = nulls[n + 2] = !facts->counted;
	values[n++] = Int64GetDatum(facts->counts.changes);
	values[n++] = Int64GetDatum(facts->counts.transactions);
	values[n++] = Int64GetDatum(facts->counts.invalid_messages);
	return n;
}

static int
fill_error(const BemiEntry *entry, Datum *values, bool *nulls)
{
	int			n = 0;

	values[n++] = Int64GetDatum(entry->restarts);
	nulls[n] = nulls[n + 1] = (entry->error_count == 0);
	values[n++] = CStringGetTextDatum(entry->error);
	values[n++] = TimestampTzGetDatum(entry->error_at);
	nulls[n] = (entry->hint[0] == '\0');
	values[n++] = CStringGetTextDatum(entry->hint);
	return n;
}

/*
 * The cost of a slot on another server.
 */
static int
fill_slot_cost(const BemiFacts *facts, Datum *values, bool *nulls)
{
	const BemiSlotCost *cost = &facts->cost;
	bool		unknown = XLogRecPtrIsInvalid(cost->source_lsn);
	int			n = 0;

	nulls[n] = unknown;
	values[n++] = LSNGetDatum(Max(cost->source_lsn, facts->received));
	nulls[n] = unknown || cost->wal_kept < 0;
	values[n++] = Int64GetDatum(cost->wal_kept);
	nulls[n] = (cost->wal_status[0] == '\0');
	values[n++] = CStringGetTextDatum(cost->wal_status);
	nulls[n] = unknown || cost->catalog_xmin_age < 0;
	values[n++] = Int32GetDatum(cost->catalog_xmin_age);
	return n;
}

static int
fill_source(const BemiEntry *entry, const BemiFacts *facts, Datum *values,
			bool *nulls)
{
	int			n = 0;

	nulls[n] = (entry->pid == 0 || entry->walsender == 0);
	values[n++] = Int32GetDatum(entry->walsender);
	n += fill_slot_cost(facts, &values[n], &nulls[n]);
	nulls[n] = (facts->advice[0] == '\0');
	values[n++] = CStringGetTextDatum(facts->advice);

	values[n++] = Int32GetDatum(facts->unreadable.tries);
	nulls[n] = XLogRecPtrIsInvalid(facts->unreadable.commit_lsn);
	values[n++] = LSNGetDatum(facts->unreadable.commit_lsn);
	nulls[n] = (entry->pid == 0 || facts->strays[0] == '\0');
	values[n++] = CStringGetTextDatum(facts->strays);
	return n;
}

/*
 * Puts one row of _bemi.source_status() into the result.
 */
static void
put_source_status(ReturnSetInfo *result, const BemiEntry *entry,
				  const BemiFacts *facts)
{
	Datum		values[22];
	bool		nulls[22] = {0};
	int			n = 0;

	n += fill_progress(entry, facts, &values[n], &nulls[n]);
	n += fill_error(entry, &values[n], &nulls[n]);
	n += fill_source(entry, facts, &values[n], &nulls[n]);
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
	BemiEntry  *entries;
	BemiFacts  *facts;
	int			count;

	bemi_init_result_set(fcinfo);
	if (bemi_shared == NULL)
		return (Datum) 0;

	count = bemi_entry_copy_all(&entries, &facts);
	for (int i = 0; i < count; i++)
		if (entries[i].database == MyDatabaseId)
			put_source_status((ReturnSetInfo *) fcinfo->resultinfo,
							  &entries[i], &facts[i]);
	return (Datum) 0;
}

/*
 * Why no worker of this server can run; NULL: they can.
 */
static const char *
why_no_worker(void)
{
	if (!IsUnderPostmaster)
		return "the server runs in single-user mode, without workers";
	if (RecoveryInProgress())
		return "this server is a standby, the worker runs at its primary";
	if (bemi_shared == NULL)
		return "the library is not in shared_preload_libraries, add bemi to it and restart the server";

	return bemi_launcher_is_running() ?
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
