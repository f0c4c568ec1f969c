/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *		Maintenance of bemi.changes: drops old partitions, updates statistics.
 *
 * Input: the settings bemi.retention, which is how long changes are kept, and
 * bemi.partition_interval, which _bemi.make_partition() uses for the range of
 * a new partition.  Whole partitions of bemi.changes are dropped if all their
 * rows are older than the retention and no hold (bemi.holds) covers them.  The
 * same transaction records a gap in bemi.gaps.
 *
 * The worker runs this between source transactions.  An error is logged, and
 * the step is tried again later, because keeping too much is no reason to stop
 * storing.  So each step has a transaction of its own.  Data that outlives the
 * step is in the memory context "bemi maintenance", which is deleted at the
 * end of the run.
 *
 * Locks: detaching a partition takes an exclusive lock on bemi.changes.  While
 * the worker waits for that lock, all readers wait behind it.  So the worker
 * first checks, without waiting, that the partition itself is not in use.
 * Then it waits for bemi.changes for at most half of deadlock_timeout, and at
 * most a second.  After that it waits for no other lock.  So it gives up
 * before a user's statement could become the victim of a deadlock.  Other
 * workers of this database do the same maintenance.  The lock admits one of
 * them at a time, and each checks again which partitions are left.
 *
 * The reason why a partition could not be dropped is logged once, and again if
 * the reason or the setting changes.
 *
 * What must never happen: a row is dropped that is younger than the retention,
 * or held; or a commit here moves the replication origin, which is the
 * position up to which the source is stored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/vacuum.h"
#include "pgstat.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "store/store_internal.h"

/* Least intervals of maintenance, of reports of statistics, and of ANALYZE. */
#define MAINTENANCE_INTERVAL_MS		60000
#define STATISTICS_INTERVAL_MS	1000
#define ANALYZE_INTERVAL_MS		86400000

/* The longest wait for a lock, and the longest duration of a step. */
#define LONGEST_LOCK_WAIT_MS	1000
#define LONGEST_WORK_MS			20000

/*
 * After this time, the rest of the partitions waits for the next run.
 */
#define LONGEST_VISIT_MS		1000

/* A partition that could not be dropped, and the error that was logged. */
typedef struct Refusal
{
	Oid			partition;
	int			sqlerrcode;
} Refusal;

/* One run of maintenance. */
typedef struct Maintenance
{
	const char *source;			/* that this worker reads */
	int64		begun_at;
	MemoryContext memory;		/* lives for this run */
	List	   *expired;		/* partitions to drop */
	char	   *dropped;		/* name of a dropped one */
} Maintenance;

/* A step of maintenance; returns whether it changed anything. */
typedef bool (*MaintenanceStep) (Maintenance *maintenance, Oid table);

static const struct config_enum_entry partition_intervals[] = {
	{"day", 0, false},
	{"week", 1, false},
	{"month", 2, false},
	{NULL, 0, false}
};

static int	partition_interval = 2;
static char *retention_setting = NULL;

/* Value of bemi.retention; NULL: for ever. */
static Interval *retention = NULL;

/* Whether the setting has changed, or maintenance has never run. */
static bool maintenance_is_due = true;

/* The setting has changed, so obstacles are logged again. */
static bool log_refusals_again = false;

/* By bemi_monotonic_ms(). */
static int64 maintained_at = 0;
static int64 statistics_sent_at = 0;
static int64 analyze_tried_at = 0;

/* List of Refusal that were logged, in TopMemoryContext. */
static List *refusals = NIL;

/*
 * Parses an interval without throwing an error.  If it is not valid, returns
 * NULL and sets the errdetail of the check hook.
 */
static Interval *
parse_interval(const char *text)
{
	MemoryContext caller = CurrentMemoryContext;
	Interval   *volatile interval = NULL;

	PG_TRY();
	{
		interval = DatumGetIntervalP(
									 DirectFunctionCall3(interval_in, CStringGetDatum(text),
														 ObjectIdGetDatum(InvalidOid),
														 Int32GetDatum(-1)));
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		GUC_check_errdetail("%s.", error->message);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return interval;
}

/*
 * Check hook of bemi.retention.  A number without a unit would mean seconds,
 * and a user who meant days would lose his history.
 */
static bool
check_retention(char **newval, void **extra, GucSource source)
{
	Interval	nothing = {0};
	Interval   *interval;

	if (*newval == NULL || **newval == '\0')
		return true;
	if (strspn(*newval, " \t0123456789.+-") == strlen(*newval))
	{
		GUC_check_errdetail("The interval has no unit.");
		GUC_check_errhint("Example: bemi.retention = '90 days'");
		return false;
	}
	interval = parse_interval(*newval);
	if (interval == NULL)
		return false;
	if (!DatumGetBool(DirectFunctionCall2(interval_gt,
										  IntervalPGetDatum(interval),
										  IntervalPGetDatum(&nothing))))
	{
		GUC_check_errdetail("The interval must be positive.");
		GUC_check_errhint("To keep changes for ever, set it to an empty string.");
		return false;
	}

	*extra = bemi_guc_malloc(sizeof(Interval));
	if (*extra == NULL)
		return false;
	memcpy(*extra, interval, sizeof(Interval));
	pfree(interval);
	return true;
}

static void
assign_retention(const char *newval, void *extra)
{
	if (retention_setting == NULL || newval == NULL ||
		strcmp(newval, retention_setting) != 0)
		log_refusals_again = true;
	retention = extra;
	maintenance_is_due = true;
}

/*
 * Begins a step.  Returns the OID of bemi.changes, or InvalidOid if the
 * extension has been dropped.  A table of that name that is not the
 * extension's own does not count, because the worker is a superuser and must
 * not work on a user's table.  The lock on the sources prevents that the
 * extension is dropped meanwhile.
 */
static Oid
begin_maintenance(void)
{
	char	   *lock_wait =
		psprintf("%d", Max(1, Min(DeadlockTimeout / 2, LONGEST_LOCK_WAIT_MS)));

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	enable_timeout_after(STATEMENT_TIMEOUT, LONGEST_WORK_MS);
	(void) set_config_option("lock_timeout", lock_wait, PGC_SUSET,
							 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
	bemi_lock_sources(ShareLock);
	PushActiveSnapshot(GetTransactionSnapshot());
	return OidIsValid(bemi_own_table("holds")) ? bemi_own_table("changes") :
		InvalidOid;
}

/*
 * Commits a step.  The commit has no position, so it does not move the origin.
 */
static void
end_maintenance(void)
{
	PopActiveSnapshot();
	replorigin_session_origin_lsn = InvalidXLogRecPtr;
	replorigin_session_origin_timestamp = GetCurrentTimestamp();
	CommitTransactionCommand();
}

/*
 * Ends the timeout of a step.  It may have expired just at the end.
 */
static void
disarm_lock_timeout(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

/*
 * Forgets logged refusals of partitions other than these.
 */
static void
forget_refusals(const List *partitions)
{
	ListCell   *cell;

	foreach(cell, refusals)
	{
		Refusal    *refusal = lfirst(cell);

		if (list_member_oid(partitions, refusal->partition))
			continue;
		refusals = foreach_delete_current(refusals, cell);
		pfree(refusal);
	}
}

/*
 * Whether an error has not yet been logged for a partition.  Records it.
 */
static bool
refusal_is_news(Oid partition, int sqlerrcode)
{
	MemoryContext caller;
	Refusal    *refusal;
	ListCell   *cell;

	foreach(cell, refusals)
	{
		refusal = lfirst(cell);
		if (refusal->partition == partition &&
			refusal->sqlerrcode == sqlerrcode)
			return false;
	}
	caller = MemoryContextSwitchTo(TopMemoryContext);
	refusal = palloc(sizeof(Refusal));
	refusal->partition = partition;
	refusal->sqlerrcode = sqlerrcode;
	refusals = lappend(refusals, refusal);
	MemoryContextSwitchTo(caller);
	return true;
}

/*
 * Rolls back a failed step and logs the error, once for a partition.
 */
static void
report_failure(const char *what, Oid partition)
{
	ErrorData  *error = CopyErrorData();

	FlushErrorState();
	AbortCurrentTransaction();
	if (OidIsValid(partition) &&
		!refusal_is_news(partition, error->sqlerrcode))
		return;
	ereport(LOG, (errcode(error->sqlerrcode),
				  errmsg("bemi: could not %s, will try again: %s", what,
						 error->message),
				  error->detail ? errdetail_internal("%s", error->detail) : 0,
				  error->hint ? errhint("%s", error->hint) : 0));
}

/*
 * Runs a step on a table in a transaction of its own.  Returns whether it
 * changed anything.  Errors are logged.
 */
static bool
attempt_maintenance_step(Maintenance *maintenance, MaintenanceStep step,
						 Oid table, const char *what)
{
	bool volatile done = false;

	PG_TRY();
	{
		Oid			changes = begin_maintenance();

		if (OidIsValid(changes))
			done = step(maintenance, OidIsValid(table) ? table : changes);
		end_maintenance();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(maintenance->memory);
		report_failure(what, table);
		done = false;
	}
	PG_END_TRY();
	disarm_lock_timeout();
	MemoryContextSwitchTo(maintenance->memory);
	return done;
}

/*
 * Finds the partitions that are too old.  Each is checked again before it is
 * dropped.
 */
static bool
find_expired(Maintenance *maintenance, Oid changes)
{
	BemiValue	age = bemi_sql_interval(retention);
	MemoryContext caller = MemoryContextSwitchTo(maintenance->memory);

	maintenance->expired =
		bemi_sql_read_oids("SELECT partition FROM _bemi.expired_partitions($1)",
						   &age, 1, REGCLASSOID);
	MemoryContextSwitchTo(caller);
	return maintenance->expired != NIL;
}

static bool
drop_partition(Maintenance *maintenance, Oid partition)
{
	BemiValue	arguments[] = {
		bemi_sql_oid(REGCLASSOID, partition), bemi_sql_interval(retention)
	};
	char	   *name = get_rel_name(partition);
	bool		dropped;
	BemiDdl		ddl;

	if (name == NULL)
		return false;
	if (!ConditionalLockRelationOid(partition, AccessExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("partition \"%s\" is in use", name)));
	/* Readers lock bemi.changes first, so lock in the same order. */
	UnlockRelationOid(partition, AccessExclusiveLock);
	maintenance->dropped = MemoryContextStrdup(maintenance->memory, name);

	bemi_ddl_enter(&ddl);
	dropped =
		bemi_sql_run_bool("SELECT _bemi.drop_expired_partition($1, $2)",
						  arguments, lengthof(arguments));
	bemi_ddl_leave(&ddl);
	return dropped;
}

/*
 * Drops partitions that are too old, oldest first.
 */
static void
drop_expired(Maintenance *maintenance)
{
	ListCell   *cell;

	if (retention == NULL ||
		!attempt_maintenance_step(maintenance, find_expired, InvalidOid,
								  "look for partitions older than bemi.retention"))
		return;
	forget_refusals(log_refusals_again ? NIL : maintenance->expired);
	log_refusals_again = false;
	foreach(cell, maintenance->expired)
	{
		CHECK_FOR_INTERRUPTS();
		if (attempt_maintenance_step(maintenance, drop_partition,
									 lfirst_oid(cell),
									 "drop a partition older than bemi.retention"))
			ereport(LOG,
					(errmsg("bemi: partition \"%s\" of bemi.changes was dropped",
							maintenance->dropped),
					 errdetail("All its changes were older than bemi.retention, \"%s\".",
							   retention_setting)));
		if (bemi_has_passed(maintenance->begun_at,
							LONGEST_VISIT_MS))
			break;
	}
}

/*
 * Forgets tables that have been dropped at the source, see
 * _bemi.forget_gone_tables().
 */
static bool
forget_gone_tables(Maintenance *maintenance, Oid changes)
{
	BemiValue	source = bemi_sql_text(maintenance->source);

	bemi_sql_run("SELECT _bemi.forget_gone_tables($1)", &source, 1);
	return true;
}

/*
 * Analyzes bemi.changes as a whole if enough has changed, because autovacuum
 * analyzes only its partitions.  The command ANALYZE would also analyze each
 * partition again.
 */
static bool
analyze_changes(Maintenance *maintenance, Oid changes)
{
	VacuumParams params = {0};
	BemiValue	needed = {.type = BOOLOID};

	(void) bemi_sql_read_row("SELECT _bemi.needs_analyze()", NULL, 0, &needed,
							 1);
	if (!bemi_sql_is_true(&needed))
		return false;

	/* A lock that fails is tried again soon, a slow ANALYZE tomorrow. */
	LockRelationOid(changes, ShareUpdateExclusiveLock);
	analyze_tried_at = bemi_monotonic_ms();
	params.options = VACOPT_ANALYZE;
	params.log_min_duration = -1;
	analyze_rel(changes, NULL, &params, NIL, true,
				GetAccessStrategy(BAS_VACUUM));
	return true;
}

/*
 * Whether an interval is over.  If so, the next one begins now.
 */
static bool
interval_is_over(int64 *since, int64 interval_ms)
{
	if (!bemi_has_passed(*since, interval_ms))
		return false;
	*since = bemi_monotonic_ms();
	return true;
}

static void
run_maintenance(const char *source)
{
	MemoryContext caller = CurrentMemoryContext;
	Maintenance maintenance = {
		.source = source,
		.begun_at = bemi_monotonic_ms(),
		.memory = AllocSetContextCreate(caller, "bemi maintenance",
										ALLOCSET_SMALL_SIZES),
	};

	MemoryContextSwitchTo(maintenance.memory);
	pgstat_report_activity(STATE_RUNNING, "maintenance");
	drop_expired(&maintenance);
	(void) attempt_maintenance_step(&maintenance, forget_gone_tables,
									InvalidOid,
									"forget dropped tables");
	if (bemi_has_passed(analyze_tried_at, ANALYZE_INTERVAL_MS))
		(void) attempt_maintenance_step(&maintenance, analyze_changes,
										InvalidOid, "analyze bemi.changes");
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(maintenance.memory);
}

/*
 * Runs maintenance that is due, for the worker of a source.  The worker calls
 * it often, outside of a transaction.
 *
 * Commits report their statistics, but not more often than about once a
 * second.  So the last ones before a pause are reported here.  Otherwise
 * autovacuum would not know of them.
 */
void
bemi_store_maintain(const char *source)
{
	if (maintenance_is_due ||
		interval_is_over(&maintained_at, MAINTENANCE_INTERVAL_MS))
	{
		maintenance_is_due = false;
		maintained_at = bemi_monotonic_ms();
		run_maintenance(source);
	}
	if (interval_is_over(&statistics_sent_at, STATISTICS_INTERVAL_MS))
		pgstat_report_stat(true);
}

void
bemi_store_maintenance_init(void)
{
	DefineCustomEnumVariable("bemi.partition_interval",
							 "Sets the time range of new partitions of bemi.changes.",
							 NULL, &partition_interval, 2, partition_intervals,
							 PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomStringVariable("bemi.retention",
							   "Sets how long changes are kept, as an interval.",
							   "Whole partitions that are older are dropped. Empty: changes are kept for ever.",
							   &retention_setting, "", PGC_SUSET, 0,
							   check_retention, assign_retention, NULL);
}
