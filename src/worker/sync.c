/*-------------------------------------------------------------------------
 *
 * sync.c
 *		bemi.sync(): waits until the workers have stored what is committed.
 *
 * The session writes a marker into the WAL, after everything that was
 * committed before.  It waits until the workers of its database have stored
 * everything up to the marker.  Sources on other servers do not count.
 *
 * Every wait is on the condition variable in shared memory, processes
 * interrupts, and holds no lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "storage/fd.h"
#include "utils/builtins.h"
#include "utils/pidfile.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_sync);

/* Longest wait of bemi.sync() for commits in progress. */
#define COMMIT_MS	1000

/*
 * An interval in milliseconds; NULL: for ever.
 */
static int64
timeout_ms_of(const Interval *timeout)
{
	int64		days;

	if (timeout == NULL)
		return PG_INT64_MAX;
	days = (int64) timeout->month * DAYS_PER_MONTH + timeout->day;
	if (days < 0 || timeout->time < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return days * SECS_PER_DAY * 1000 + timeout->time / 1000;
}

/*
 * Writes the marker and returns its position.  It is not transactional, so it
 * is sent in WAL order, after all earlier commits.  The workers must know that
 * a session waits for it before they receive it.
 */
static XLogRecPtr
write_marker(void)
{
	volatile XLogRecPtr position = InvalidXLogRecPtr;

	bemi_facts_expect_marker();
	PG_TRY();
	{
		position = bemi_log_message(BEMI_MARKER_PREFIX, "sync", 4, false);
	}
	PG_FINALLY();
	{
		bemi_facts_await_marker(MyDatabaseId, position);
	}
	PG_END_TRY();

	/* The walsender reads only flushed WAL. */
	XLogFlush(position);
	return position;
}

/*
 * Whether the server is shutting down.  It then accepts no connections, and in
 * a smart shutdown waits for the existing sessions.
 */
static bool
is_shutting_down(void)
{
	FILE	   *file = AllocateFile("postmaster.pid", "r");
	char		line[MAXPGPATH];
	bool		stopping = false;

	if (file == NULL)
		return false;
	for (int i = 1;
		 i <= LOCK_FILE_LINE_PM_STATUS && fgets(line, sizeof(line), file); i++)
		stopping = i == LOCK_FILE_LINE_PM_STATUS &&
			strncmp(line, PM_STATUS_STOPPING, strlen(PM_STATUS_STOPPING)) == 0;
	FreeFile(file);
	return stopping;
}

/* A source that bemi.sync() waits for. */
typedef struct Lagging
{
	BemiEntry	entry;
	XLogRecPtr	stored;
} Lagging;

/*
 * Throws an error if the awaited worker cannot come back before the server is
 * started again.
 */
static void
check_shutdown(const BemiEntry *entry)
{
	if (entry->state == BEMI_STATE_STREAMING || !is_shutting_down())
		return;
	ereport(ERROR,
			(errcode(ERRCODE_CANNOT_CONNECT_NOW),
			 errmsg("bemi.sync() cannot finish because the server is shutting down"),
			 errdetail("Source \"%s\" is %s, and its worker cannot connect before the server is started again.",
					   entry->source, bemi_state_name(entry->state))));
}

/*
 * Whether there is a started source for which the launcher has no entry yet.
 */
static bool
is_started(void)
{
	return bemi_sql_run_bool_as_owner("SELECT _bemi.is_started()", NULL, 0);
}

/*
 * Finds a source of this server that has not stored everything up to the
 * position.  Returns false if there is none.  Counts all running sources of
 * this server, and those that read other servers.
 */
static bool
find_lagging_entry(XLogRecPtr position, Lagging *lagging, int *sources,
				   int *elsewhere)
{
	BemiEntry  *entries;
	BemiFacts  *facts;
	int			count = bemi_entry_copy_all(&entries, &facts);
	bool		found = false;

	*sources = *elsewhere = 0;
	for (int i = 0; i < count; i++)
	{
		if (entries[i].database != MyDatabaseId ||
			entries[i].state == BEMI_STATE_STOPPED)
			continue;
		if (facts[i].is_remote)
		{
			(*elsewhere)++;
			continue;
		}
		(*sources)++;
		if (entries[i].state != BEMI_STATE_STREAMING ||
			facts[i].stored < position)
		{
			lagging->entry = entries[i];
			lagging->stored = facts[i].stored;
			found = true;
		}
	}
	pfree(entries);
	pfree(facts);
	return found;
}

/*
 * The same.  A source without an entry counts as lagging, because after a
 * restart of the server its entry is created only after a moment.  Throws an
 * error if no source is started.
 */
static bool
find_lagging_source(XLogRecPtr position, Lagging *lagging)
{
	int			sources;
	int			elsewhere;

	if (find_lagging_entry(position, lagging, &sources, &elsewhere))
		return true;
	if (sources > 0)
		return false;

	if (elsewhere > 0 || !is_started())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no source of this database is started"),
				 elsewhere > 0 ?
				 errdetail("bemi.sync() does not wait for sources on other servers.") :
				 0,
				 errhint("CALL bemi.start();")));
	memset(lagging, 0, sizeof(Lagging));
	strlcpy(lagging->entry.source, "?", BEMI_SOURCE_NAME_LEN);
	return true;
}

/*
 * Waits until the workers have stored everything up to the position.
 */
static void
wait_for_sources(XLogRecPtr position, int64 timeout_ms, int64 begun_at)
{
	Lagging		lagging;

	while (find_lagging_source(position, &lagging))
	{
		int64		waited_ms = bemi_monotonic_ms() - begun_at;

		if (waited_ms >= timeout_ms)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("bemi.sync() timed out"),
					 errdetail("Source \"%s\" is %s and has stored up to %X/%X; bemi.sync() waits for %X/%X.",
							   lagging.entry.source,
							   bemi_state_name(lagging.entry.state),
							   LSN_FORMAT_ARGS(lagging.stored),
							   LSN_FORMAT_ARGS(position)),
					 lagging.entry.error[0] ? errhint("Its last error was: %s",
													  lagging.entry.error) :
					 0));
		check_shutdown(&lagging.entry);
		bemi_wait_for_news(timeout_ms - waited_ms);
	}
	ConditionVariableCancelSleep();
}

static void
require_workers(const char *function)
{
	bemi_require_workers(function, "Start the server as usual.");
	bemi_require_preload();
	PreventCommandDuringRecovery(function);
}

/*
 * bemi.sync(timeout)
 *
 * The marker follows all commits that have returned.  If no commit takes too
 * long, it also follows all commits with a time before the call.
 */
Datum
bemi_sync(PG_FUNCTION_ARGS)
{
	int64		timeout_ms =
		timeout_ms_of(PG_ARGISNULL(0) ? NULL : PG_GETARG_INTERVAL_P(0));
	int64		begun_at = bemi_monotonic_ms();
	TimestampTz since = GetCurrentTimestamp();
	BemiHorizon horizon;
	bool		settled;
	XLogRecPtr	position;

	require_workers("bemi.sync()");
	settled = bemi_horizon_wait(&horizon, since, Min(timeout_ms, COMMIT_MS));
	position = write_marker();
	wait_for_sources(position, timeout_ms, begun_at);
	if (settled)
		bemi_facts_record_synced(MyDatabaseId, position, since);
	PG_RETURN_VOID();
}

/*
 * Begins to wait for all that a past needs, at most for this time; NULL: for
 * ever.
 */
BemiWait
bemi_wait_begin(const Interval *timeout)
{
	BemiWait	wait = {bemi_monotonic_ms(), timeout_ms_of(timeout)};

	require_workers("bemi.as_of()");
	return wait;
}

/*
 * Waits until each commit of an earlier time is in the WAL, and is committed
 * for TransactionIdDidCommit().  An error if one takes too long.  With
 * DT_NOBEGIN, waits for the commits whose records are in the WAL.
 */
void
bemi_wait_for_commits(TimestampTz time, const BemiWait *wait)
{
	BemiHorizon horizon;

	if (!bemi_horizon_wait(&horizon, time, Min(wait->timeout_ms, COMMIT_MS)))
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("a commit takes too long"),
				 errdetail("Until it has finished, the past can still change.")));
}

/*
 * Waits until the workers have stored everything that is committed.
 *
 * Workers record in shared memory up to which position everything is stored,
 * also if the WAL up to there has nothing for them.  So if nothing important
 * was written since, no marker is needed, which would have to be flushed.
 */
void
bemi_wait_until_stored(const BemiWait *wait)
{
	Lagging		lagging;

	/* A record is stored if the position is behind its beginning. */
	if (find_lagging_source(GetLastImportantRecPtr() + 1, &lagging))
		wait_for_sources(write_marker(), wait->timeout_ms, wait->since);
}
