/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher: one process that keeps a worker running for each source.
 *
 * It starts a worker for each entry in shared memory that is due (entry.c).
 * After a start of the server there are no entries, so it starts discovery
 * workers, which create them (discovery.c).
 *
 * A worker that has failed is started again after a delay that doubles from
 * one second to a minute.  A worker that was stopped is started again when its
 * row has changed.
 *
 * The launcher sleeps on its latch.  Discovery workers and workers set it when
 * they exit, sessions when they have changed bemi.sources.  What must never
 * happen: two workers for one source, or a started source that never gets one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "extension/extension.h"
#include "worker/worker_internal.h"

/* Handles of the workers that this launcher has registered, by entry. */
static BackgroundWorkerHandle **handles = NULL;

/*
 * Sets what the launcher's processes have in common.
 */
void
bemi_describe_process(BackgroundWorker *process, const char *kind,
					  const char *function)
{
	memset(process, 0, sizeof(BackgroundWorker));
	process->bgw_flags =
		BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	process->bgw_start_time = BgWorkerStart_RecoveryFinished;
	process->bgw_restart_time = BGW_NEVER_RESTART;
	process->bgw_notify_pid = MyProcPid;
	snprintf(process->bgw_library_name, BGW_MAXLEN, "bemi");
	snprintf(process->bgw_function_name, BGW_MAXLEN, "%s", function);
	snprintf(process->bgw_type, BGW_MAXLEN, "%s", kind);
	snprintf(process->bgw_name, BGW_MAXLEN, "%s", kind);
}

/*
 * Registers a process; the handle must outlive the launcher's round.
 */
bool
bemi_register_process(BackgroundWorker *process,
					  BackgroundWorkerHandle **handle)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	bool		registered = RegisterDynamicBackgroundWorker(process, handle);

	MemoryContextSwitchTo(caller);
	return registered;
}

/*
 * Starts a worker's process.
 */
static void
launch_worker(int i, const char *source)
{
	BackgroundWorker process;

	bemi_describe_process(&process, "bemi worker", "bemi_worker_main");
	process.bgw_main_arg = Int32GetDatum(i);
	snprintf(process.bgw_name, BGW_MAXLEN, "bemi worker %s", source);
	if (handles[i] != NULL)
		pfree(handles[i]);
	handles[i] = NULL;
	if (!bemi_register_process(&process, &handles[i]))
		(void)
			bemi_entry_refuse_start(i, "could not start a worker process",
									psprintf("Put this line into postgresql.conf and restart: max_worker_processes = %d",
											 max_worker_processes + 4));
}

/*
 * Does not start a worker that could not connect, and records the error.  It
 * is tried again, but logged once.
 */
static void
refuse_worker(int i, const char *source, BemiDatabaseState state,
			  const NameData *name)
{
	char	   *error;
	char	   *hint;

	bemi_explain_closed_database(state, name, &error, &hint);
	if (bemi_entry_refuse_start(i, error, hint))
		ereport(LOG, (errmsg("bemi: source \"%s\" is not read: %s",
							 source, error),
					  errdetail("Its replication slot keeps WAL."),
					  errhint("%s", hint)));
	bemi_wake_launcher();		/* it computes the time of the next try */
}

/*
 * Starts a worker that is due, if its database exists and accepts connections.
 */
static void
launch_if_possible(int i, const BemiEntry *entry)
{
	NameData	name;
	BemiDatabaseState state = bemi_check_database(entry->database, &name);

	if (state == BEMI_DATABASE_GONE)
		bemi_entry_forget(i);
	else if (state == BEMI_DATABASE_OPEN)
		launch_worker(i, entry->source);
	else
		refuse_worker(i, entry->source, state, &name);
}

/*
 * Checks whether a worker has ended.
 */
static void
reap_worker(int i)
{
	pid_t		pid;

	if (handles[i] == NULL ||
		GetBackgroundWorkerPid(handles[i], &pid) != BGWH_STOPPED)
		return;
	pfree(handles[i]);
	handles[i] = NULL;
	bemi_entry_process_is_gone(i);
}

/*
 * Starts the workers that are due, and returns for how long there is nothing
 * to do.
 */
static long
start_due_workers(void)
{
	long		timeout_ms = BEMI_LONGEST_DELAY_MS;

	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiEntry	entry;

		reap_worker(i);
		if (bemi_entry_begin_start(i, &entry, &timeout_ms))
			launch_if_possible(i, &entry);
	}
	return timeout_ms;
}

/*
 * Entry point of the launcher's process.
 */
void
bemi_launcher_main(Datum arg)
{
	MemoryContext round;
	uint32		wait_event;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	bemi_pin_settings();
	wait_event = bemi_wait_event("BemiLauncher");

	bemi_enter_launcher();
	handles = MemoryContextAllocZero(TopMemoryContext,
									 sizeof(BackgroundWorkerHandle *) *
									 bemi_max_sources);
	bemi_entry_forget_unborn();
	bemi_discover_all_databases();

	round = AllocSetContextCreate(TopMemoryContext, "bemi launcher round",
								  ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		long		timeout_ms;

		MemoryContextReset(round);
		MemoryContextSwitchTo(round);
		/* A shutdown is no error, so it is not logged as one. */
		if (ProcDiePending)
			proc_exit(1);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		timeout_ms = start_due_workers();
		bemi_limit_local_slots(&timeout_ms);
		timeout_ms = Min(timeout_ms, bemi_start_discovery());
		pgstat_report_activity(STATE_IDLE, NULL);
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout_ms, wait_event);
		ResetLatch(MyLatch);
	}
}

/*
 * Registers the launcher with the postmaster.
 */
void
bemi_worker_launcher_init(void)
{
	BackgroundWorker process;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	bemi_describe_process(&process, "bemi launcher", "bemi_launcher_main");
	process.bgw_restart_time = 5;
	process.bgw_notify_pid = 0;
	RegisterBackgroundWorker(&process);
}
