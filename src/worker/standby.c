/*-------------------------------------------------------------------------
 *
 * standby.c
 *		Prevents that the worker's walsender counts as a synchronous standby.
 *
 * A server elects its synchronous standbys among all walsenders whose
 * application_name matches synchronous_standby_names. '*' matches the worker's
 * walsender, too.  What must never happen: commits wait for the history
 * instead of a standby, and are acknowledged although no standby has them.
 *
 * The client of a walsender cannot decline.  The server ignores walsenders
 * without a flush position, but that position also moves a logical slot.  A
 * later reply without it does not help, because the earlier one has already
 * released waiting commits. pg_replication_slot_advance() refuses a slot that
 * is streaming.
 *
 * So the walsender declines.  The server computes a walsender's priority in
 * the walsender's own process, from that process's synchronous_standby_names,
 * when streaming begins and after each reload.  Before it streams, the worker
 * sends SET bemi.asynchronous = on.  A hook in the walsender then makes
 * synchronous_standby_names empty, in that process alone.  The priority is 0
 * from the first frame on.  The hook reacts only to that statement, not to the
 * setting, because a user who can set it for a database or a role must not
 * affect other walsenders.
 *
 * An administrator who wants commits to wait for the history gives the
 * connection an application_name of its own.  The worker then does not
 * decline.
 *
 * A source that does not preload the library has no such hook.  Then the
 * worker checks whether its walsender may be elected.  If so, it confirms
 * flushed positions without delay, and a warning shows the setting to change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "nodes/parsenodes.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "stream/stream.h"
#include "worker/worker_internal.h"

/* Interval at which the worker checks its walsender on this server. */
#define LOOK_MS		5000

/* bemi.asynchronous */
static bool asynchronous = false;

/* In a worker: whether commits at its source may wait for it. */
static bool is_elected = false;

static ProcessUtility_hook_type prev_ProcessUtility = NULL;

/* ---------- in the walsender ---------- */

/*
 * Whether a statement was SET bemi.asynchronous = on.
 */
static bool
declines_election(const VariableSetStmt *statement)
{
	return asynchronous && statement->kind == VAR_SET_VALUE &&
		strcmp(statement->name, "bemi.asynchronous") == 0;
}

static void
standby_process_utility(PlannedStmt *planned, const char *query,
						bool read_only_tree, ProcessUtilityContext context,
						ParamListInfo params, QueryEnvironment *environment,
						DestReceiver *receiver, QueryCompletion *completion)
{
	if (prev_ProcessUtility)
		prev_ProcessUtility(planned, query, read_only_tree, context, params,
							environment, receiver, completion);
	else
		standard_ProcessUtility(planned, query, read_only_tree, context,
								params, environment, receiver, completion);

	/*
	 * PGC_S_OVERRIDE, because otherwise a reload of the configuration would
	 * undo it.
	 */
	if (am_db_walsender && IsA(planned->utilityStmt, VariableSetStmt) &&
		declines_election((VariableSetStmt *) planned->utilityStmt))
		SetConfigOption("synchronous_standby_names", "", PGC_SIGHUP,
						PGC_S_OVERRIDE);
}

/* ---------- in the worker ---------- */

/*
 * Whether a walsender of this server may be elected.
 */
static bool
may_be_elected(pid_t pid)
{
	bool		found = false;

	for (int i = 0; i < max_wal_senders && !found; i++)
	{
		WalSnd	   *walsender = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&walsender->mutex);
		found = walsender->pid == pid && walsender->sync_standby_priority > 0;
		SpinLockRelease(&walsender->mutex);
	}
	return found;
}

/*
 * Records the election for bemi.status and report_progress(), and logs a
 * change.
 */
static void
update_election(const BemiElection *election)
{
	is_elected = election->possible;
	if (bemi_facts_set_advice(election->advice))
		ereport(LOG,
				(errmsg("bemi: commits at source \"%s\" may wait for its worker instead of a standby",
						bemi_source_name),
				 errdetail("\"synchronous_standby_names\" of the source matches the worker's walsender."),
				 errhint("At the source: %s", election->advice)));
}

/*
 * Whether commits at the source may wait for this worker.
 */
bool
bemi_is_elected(void)
{
	return is_elected;
}

/*
 * Asks the source whether the worker's walsender may be elected.
 */
void
bemi_ask_for_election(BemiStream *stream)
{
	BemiElection election;
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory =
		AllocSetContextCreate(caller, "bemi election", ALLOCSET_SMALL_SIZES);

	MemoryContextSwitchTo(memory);
	bemi_stream_election(stream, &election);
	update_election(&election);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
}

/*
 * The same for a source on this server, from time to time.  Shared memory
 * shows whether the source must be asked.
 */
void
bemi_watch_election(BemiStream *stream)
{
	static int64 looked_at = 0;

	if (!bemi_has_passed(looked_at, LOOK_MS))
		return;
	looked_at = bemi_monotonic_ms();
	if (may_be_elected(bemi_stream_walsender(stream)) ||
		is_elected)
		bemi_ask_for_election(stream);
}

void
bemi_worker_standby_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	/*
	 * The existence of this setting also shows that the server has the hook.
	 */
	DefineCustomBoolVariable("bemi.asynchronous",
							 "Sets whether a walsender of bemi declines to be a synchronous standby.",
							 NULL, &asynchronous, false, PGC_USERSET,
							 GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL,
							 NULL, NULL);
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = standby_process_utility;
}
