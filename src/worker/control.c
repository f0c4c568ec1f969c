/*-------------------------------------------------------------------------
 *
 * control.c
 *		bemi.start(), bemi.stop() and bemi.drop_source().
 *
 * Start, stop and drop write the desired state into bemi.sources and wake the
 * workers at commit.  The workers do the rest.  So these calls can be part of
 * a larger transaction, such as a migration.  To wait for the effect, they
 * must commit: the publication must be committed before the slot is created,
 * and the slot waits for all running transactions, including its caller's.  So
 * they are procedures, because functions cannot commit.
 *
 * Every wait is on the condition variable in shared memory, processes
 * interrupts, and holds no lock.  If the session is cancelled, its committed
 * change stays in effect, and bemi.status shows it.  What must never happen: a
 * wait that cannot end although no worker can come.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "libpq-fe.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_start);
PG_FUNCTION_INFO_V1(bemi_stop);
PG_FUNCTION_INFO_V1(bemi_drop_source);

/* Interval at which a wait checks that the launcher is running. */
#define LOOK_MS		1000

/*
 * Time that the launcher may be missing, because it is restarted after a
 * crash.
 */
#define GRACE_MS	10000

/*
 * Throws an error unless the library was preloaded, because sessions reach
 * workers only through shared memory.
 */
void
bemi_require_preload(void)
{
	const char *libraries =
		GetConfigOption("shared_preload_libraries", true, false);

	if (bemi_shared != NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("bemi must be loaded when the server starts"),
			 errhint("Put this line into postgresql.conf and restart the server: shared_preload_libraries = '%s%sbemi'",
					 libraries ? libraries : "",
					 libraries && libraries[0] ? ", " : "")));
}

static void
require_logical_wal(void)
{
	if (wal_level < WAL_LEVEL_LOGICAL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"wal_level\" must be \"logical\" to read changes"),
				 errhint("Put this line into postgresql.conf and restart the server: wal_level = logical")));
}

/*
 * Throws an error in single-user mode, because there are no workers to wait
 * for.
 */
void
bemi_require_workers(const char *function, const char *hint)
{
	if (IsUnderPostmaster)
		return;
	ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("%s cannot wait for a worker in single-user mode",
						   function),
					errhint("%s", hint)));
}

/* Result of a wait for a worker's end. */
typedef enum Outcome
{
	OUTCOME_GONE,
	OUTCOME_FAILED,
	OUTCOME_STARTED				/* another session has started the source */
} Outcome;

/*
 * Sleeps until a worker's state changes, at most LOOK_MS.
 */
void
bemi_wait_for_news(int64 timeout_ms)
{
	static uint32 wait_event = 0;

	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiControl");
	ConditionVariableTimedSleep(&bemi_shared->changed,
								Min(timeout_ms, LOOK_MS), wait_event);
}

/*
 * Whether no worker can come, because the launcher is missing.  The error is
 * put into *worker, as if the worker had reported it.
 */
static bool
launcher_is_missing(int64 since, BemiEntry *worker)
{
	if (bemi_launcher_is_running() || !bemi_has_passed(since, GRACE_MS))
		return false;

	worker->state = BEMI_STATE_FAILED;
	strlcpy(worker->error, "bemi's launcher is not running", BEMI_ERROR_LEN);
	snprintf(worker->hint, BEMI_ERROR_LEN,
			 "Put this line into postgresql.conf and restart the server: max_worker_processes = %d",
			 max_worker_processes + 4);
	return true;
}

/*
 * Reports that another session has stopped or dropped the source that this one
 * is starting.
 */
static void
report_taken_back(BemiEntry *worker)
{
	worker->state = BEMI_STATE_FAILED;
	strlcpy(worker->error, "another session has stopped the source",
			BEMI_ERROR_LEN);
	worker->hint[0] = '\0';
}

/*
 * Waits until the source's worker streams.  Returns false if an attempt after
 * "since_attempt" fails; *worker then has the error.
 */
static bool
wait_until_streaming(const char *source, int64 since_attempt,
					 BemiEntry *worker)
{
	int64		since = bemi_monotonic_ms();

	ConditionVariablePrepareToSleep(&bemi_shared->changed);
	for (;;)
	{
		if (!bemi_entry_copy(MyDatabaseId, source, worker) ||
			(worker->state == BEMI_STATE_STOPPED && !worker->wake &&
			 !worker->launched))
		{
			report_taken_back(worker);
			break;
		}
		if (worker->state == BEMI_STATE_STREAMING ||
			worker->failed_attempt > since_attempt)
			break;
		if (launcher_is_missing(since, worker))
			break;
		bemi_wait_for_news(LOOK_MS);
	}
	ConditionVariableCancelSleep();
	return worker->state == BEMI_STATE_STREAMING;
}

/*
 * Waits until the source's worker has ended, and with "entry" until the source
 * is removed.  If an attempt after "since_attempt" fails, *worker has the
 * error.
 */
static Outcome
wait_until_gone(const char *source, bool entry, int64 since_attempt,
				BemiEntry *worker)
{
	int64		since = bemi_monotonic_ms();
	Outcome		outcome = OUTCOME_GONE;

	ConditionVariablePrepareToSleep(&bemi_shared->changed);
	while (bemi_entry_copy(MyDatabaseId, source, worker))
	{
		if (!entry && worker->state == BEMI_STATE_STOPPED && worker->pid == 0)
			break;
		if (worker->run_attempt > since_attempt)
			outcome = OUTCOME_STARTED;
		else if (worker->failed_attempt > since_attempt ||
				 launcher_is_missing(since, worker))
			outcome = OUTCOME_FAILED;
		if (outcome != OUTCOME_GONE)
			break;
		bemi_wait_for_news(LOOK_MS);
	}
	ConditionVariableCancelSleep();
	return outcome;
}

/*
 * Throws the worker's error.  A source that has failed before it had a slot is
 * removed, so the caller can correct the mistake and call again.
 */
static void
forget_failed_source(const char *source, const BemiEntry *worker)
{
	BemiEntry	ignored;
	int64		since_attempt;
	BemiValue	name = bemi_sql_text(source);
	const char *hint = worker->hint[0] ? worker->hint : NULL;

	bemi_lock_sources(ExclusiveLock);
	since_attempt = bemi_entry_last_attempt();
	if (bemi_sql_run_bool_as_owner("SELECT _bemi.unregister_source($1)", &name,
								   1))
	{
		bemi_remove_entry_at_commit(source);
		bemi_procedure_commit();
		(void) wait_until_gone(source, true, since_attempt, &ignored);
	}
	else if (hint == NULL)
		hint =
			"The worker tries again; SELECT * FROM bemi.status; shows whether that succeeds.";
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not start source \"%s\"", source),
			 errdetail("The worker reports: %s", worker->error),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * Throws an error unless the user may start and stop the source.
 */
static void
check_controller(const char *source, const char *conninfo,
				 const char *procedure)
{
	BemiValue	arguments[] = {
		bemi_sql_text(source), bemi_sql_text(conninfo),
		bemi_sql_text(GetUserNameFromId(GetUserId(), false)),
		bemi_sql_text(procedure)
	};

	bemi_sql_run_as_owner("SELECT _bemi.check_controller($1, $2, $3::name, $4)",
						  arguments, lengthof(arguments));
}

/*
 * Throws an error unless libpq can parse the connection string.  Otherwise the
 * worker's error could show a part of it.
 */
static void
check_conninfo(const char *conninfo)
{
	char	   *message = NULL;
	PQconninfoOption *options = PQconninfoParse(conninfo, &message);

	if (options == NULL)
	{
		char	   *copy = pchomp(message ? message : "out of memory");

		PQfreemem(message);
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("invalid connection string: %s", copy)));
	}
	PQconninfoFree(options);
}

/*
 * Registers the source in the tables.
 */
static void
register_source(const char *source, const char *conninfo)
{
	BemiValue	arguments[] = {
		bemi_sql_text(source), bemi_sql_text(conninfo),
		bemi_sql_text(GetUserNameFromId(GetUserId(), false))
	};

	bemi_sql_run_as_owner("SELECT _bemi.register_source($1, $2, $3::name)",
						  arguments, lengthof(arguments));
}

static char *
source_argument(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the name of a source must not be NULL")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/*
 * Error where bemi.start() would wait for ever.
 */
static void
require_commit(FunctionCallInfo fcinfo, const char *source)
{
	if (!bemi_procedure_is_atomic(fcinfo))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("bemi.start() cannot wait inside a transaction block"),
			 errdetail("The slot waits for every running transaction, this one included."),
			 errhint("Let it take effect at commit: CALL bemi.start('%s', wait => false);",
					 source)));
}

/*
 * bemi.start(name, conninfo, wait)
 */
Datum
bemi_start(PG_FUNCTION_ARGS)
{
	bool		wait = PG_ARGISNULL(2) || PG_GETARG_BOOL(2);
	char	   *source;
	char	   *conninfo;
	int64		since_attempt;
	BemiEntry	worker;

	source = source_argument(fcinfo);
	/* First, because up to PostgreSQL 14 this mode preloads nothing. */
	if (wait)
		bemi_require_workers("bemi.start()",
							 psprintf("Let it take effect with the server's next start: CALL bemi.start('%s', wait => false);",
									  source));
	bemi_require_preload();
	PreventCommandDuringRecovery("bemi.start()");
	conninfo = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (conninfo != NULL)
		check_conninfo(conninfo);
	if (conninfo == NULL)
		require_logical_wal();
	if (wait)
		require_commit(fcinfo, source);

	bemi_procedure_begin(fcinfo);
	check_controller(source, conninfo, "bemi.start");
	bemi_lock_sources(ExclusiveLock);
	since_attempt = bemi_entry_last_attempt();
	bemi_require_place(source);
	register_source(source, conninfo);
	bemi_add_entry_at_commit(source);
	if (wait)
	{
		bemi_procedure_commit();
		if (!wait_until_streaming(source, since_attempt, &worker))
			forget_failed_source(source, &worker);
	}
	bemi_procedure_end();
	PG_RETURN_NULL();
}

/*
 * Throws an error because another session has started the source again, or
 * because the worker has failed.  It continues to try.
 */
static void
report_not_ended(const char *source, bool drop, Outcome outcome,
				 const BemiEntry *worker)
{
	if (outcome == OUTCOME_STARTED)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session has started source \"%s\"", source),
				 errhint(drop ?
						 "To drop it after all: CALL bemi.drop_source('%s');" :
						 "To stop it after all: CALL bemi.stop('%s');",
						 source)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 drop ? errmsg("could not drop source \"%s\" yet", source) :
			 errmsg("could not stop source \"%s\" yet", source),
			 errdetail("The worker reports: %s", worker->error),
			 drop ?
			 errhint("The worker tries again. If the source no longer exists: CALL bemi.drop_source('%s', force => true);",
					 source) :
			 errhint("The worker tries again; SELECT * FROM bemi.status; shows whether that succeeds.")));
}

/*
 * Sets the desired state of a source, and waits until its worker has reached
 * it.  In an atomic context it cannot commit, so it does not wait, and takes
 * effect at the caller's commit.
 */
static void
end_source(FunctionCallInfo fcinfo, const char *procedure, const char *desired)
{
	bool		drop = strcmp(desired, "stop") != 0;
	BemiValue	arguments[2];
	char	   *source;
	int64		since_attempt;
	Outcome		outcome;
	BemiEntry	worker;

	bemi_require_preload();
	PreventCommandDuringRecovery(psprintf("%s()", procedure));
	source = source_argument(fcinfo);

	bemi_procedure_begin(fcinfo);
	check_controller(source, NULL, procedure);
	bemi_lock_sources(ExclusiveLock);
	since_attempt = bemi_entry_last_attempt();
	arguments[0] = bemi_sql_text(source);
	arguments[1] = bemi_sql_text(desired);
	if (!bemi_sql_run_bool_as_owner("SELECT _bemi.set_desired_state($1, $2)",
									arguments, lengthof(arguments)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("source \"%s\" does not exist", source),
				 errhint("SELECT source, state FROM bemi.status; lists those that do.")));
	bemi_wake_workers_at_commit();
	if (!bemi_procedure_is_atomic(fcinfo))
	{
		bemi_procedure_commit();
		outcome = wait_until_gone(source, drop, since_attempt, &worker);
		if (outcome != OUTCOME_GONE)
			report_not_ended(source, drop, outcome, &worker);
	}
	bemi_procedure_end();
}

/*
 * bemi.stop(name)
 */
Datum
bemi_stop(PG_FUNCTION_ARGS)
{
	end_source(fcinfo, "bemi.stop", "stop");
	PG_RETURN_NULL();
}

/*
 * bemi.drop_source(name, force)
 */
Datum
bemi_drop_source(PG_FUNCTION_ARGS)
{
	bool		force = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);

	end_source(fcinfo, "bemi.drop_source", force ? "force_drop" : "drop");
	PG_RETURN_NULL();
}
