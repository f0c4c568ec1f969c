/*-------------------------------------------------------------------------
 *
 * maintenance.c
 *		House-keeping: old partitions go, statistics are kept.
 *
 * In flow two settings: bemi.retention, how long changes are kept, and
 * bemi.partition_interval, of which _bemi.make_partition() asks what time a
 * new partition is for.  Out go whole partitions of bemi.changes whose every
 * row is older than the retention, and that nobody holds (bemi.holds); what is
 * gone is written down in bemi.gaps, in the same transaction.
 *
 * The worker calls in between source transactions.  Whatever fails here is
 * logged and tried again later: to keep too much is no reason to stop storing.
 * So each piece of work has a transaction of its own, whose end goes back to
 * the memory context of the beginning; what outlives it is in "bemi
 * house-keeping", which ends with the visit.
 *
 * Locks: to detach a partition takes an exclusive lock of bemi.changes, and
 * whoever wants to read queues up behind it while it waits.  So the worker
 * does not ask for that lock while the partition itself is in use, which it
 * knows without waiting.  Otherwise it waits for half of the time after which
 * others look for deadlocks, at most for a second, and for nothing else once
 * it has that lock: it gives up before anybody's statement is chosen as the
 * victim of a deadlock.  Other workers of this database keep the same house;
 * the lock lets one of them in at a time, and each looks again what is left
 * when it is in.
 *
 * What keeps a partition from being dropped is logged once, until that, or the
 * setting, changes.
 *
 * What must never happen: a row goes that is younger than the retention, or
 * held; a commit here moves the replication origin, which says how far the
 * source has been stored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/vacuum.h"
#include "executor/spi.h"
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
#include "worker/worker_internal.h"

/* How often the worker looks, reports its statistics, analyzes at most. */
#define MAINTENANCE_INTERVAL_MS		60000
#define STATISTICS_INTERVAL_MS	1000
#define ANALYZE_INTERVAL_MS		86400000

/* The longest wait for a lock, and the longest piece of work. */
#define LONGEST_LOCK_WAIT_MS	1000
#define LONGEST_WORK_MS			20000

/*
 * With so much time spent on dropping, the rest has to wait for the next
 * visit.
 */
#define LONGEST_VISIT_MS		1000

/* A partition that could not be dropped, and the error that was logged. */
typedef struct Refusal
{
	Oid			partition;
	int			sqlerrcode;
} Refusal;

/* A piece of work; returns whether it did anything. */
typedef bool (*MaintenanceStep) (Oid table);

static const struct config_enum_entry partition_intervals[] = {
	{"day", 0, false},
	{"week", 1, false},
	{"month", 2, false},
	{NULL, 0, false}
};

static int	partition_interval = 2;
static char *retention_setting = NULL;

/* As bemi.retention says; NULL: for ever. */
static Interval *retention = NULL;

/* Whether the setting has changed, or nobody has ever looked. */
static bool maintenance_is_due = true;

/* The setting has changed: what stands in the way of it is logged again. */
static bool log_refusals_again = false;

static TimestampTz maintained_at = 0;
static TimestampTz statistics_sent_at = 0;
static TimestampTz analyze_tried_at = 0;

/* What lasts for a visit: partitions to drop, and the name of one that was. */
static MemoryContext maintenance_memory = NULL;
static List *expired = NIL;
static char *dropped_name = NULL;

/* Of Refusal: what the log has been told, in TopMemoryContext. */
static List *refusals = NIL;

/*
 * Reads an interval without throwing.  NULL, with the reason for the check
 * hook's caller, if it is none.
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
 * Check hook of bemi.retention.  A number alone would mean seconds, and cost
 * somebody his history who had days in mind.
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
		GUC_check_errdetail("It has no unit.");
		GUC_check_errhint("Say, for instance, bemi.retention = '90 days'.");
		return false;
	}
	interval = parse_interval(*newval);
	if (interval == NULL)
		return false;
	if (!DatumGetBool(DirectFunctionCall2(interval_gt,
										  IntervalPGetDatum(interval),
										  IntervalPGetDatum(&nothing))))
	{
		GUC_check_errdetail("It must be longer than nothing.");
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
 * Begins a piece of work.  Returns OID of bemi.changes, or InvalidOid if the
 * extension is gone, or what stands there is not its own: the worker is a
 * superuser and would be led astray.  The lock on the sources keeps the
 * extension from being dropped meanwhile.
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
 * Commits it.  The origin does not move: no position, and not the time of the
 * last source transaction.
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
 * The work took too long, or took too long no more.
 */
static void
disarm_lock_timeout(void)
{
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
}

/*
 * Forgets what was logged of partitions other than those.
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
 * Whether an error has not yet been logged for a partition; takes note of it.
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
 * Rolls back what has failed, and says why to the log, for a partition once.
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
 * Does a piece of work, on a table, in a transaction of its own.  True if it
 * did anything; what fails is logged.
 */
static bool
attempt_maintenance_step(MaintenanceStep step, Oid table, const char *what)
{
	bool volatile done = false;

	PG_TRY();
	{
		Oid			changes = begin_maintenance();

		if (OidIsValid(changes))
			done = step(OidIsValid(table) ? table : changes);
		end_maintenance();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(maintenance_memory);
		report_failure(what, table);
		done = false;
	}
	PG_END_TRY();
	disarm_lock_timeout();
	MemoryContextSwitchTo(maintenance_memory);
	return done;
}

/*
 * Finds the partitions that are too old.  They are looked at once more before
 * they go.
 */
static bool
find_expired(Oid changes)
{
	Oid			types[] = {INTERVALOID};
	Datum		values[] = {IntervalPGetDatum(retention)};

	SPI_connect();
	if (SPI_execute_with_args("SELECT partition FROM _bemi.expired_partitions($1)",
							  1, types, values, NULL, true,
							  0) != SPI_OK_SELECT)
		elog(ERROR, "could not look for old partitions");
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		is_null;
		Datum		partition =
			SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1,
						  &is_null);
		MemoryContext caller = MemoryContextSwitchTo(maintenance_memory);

		expired = lappend_oid(expired, DatumGetObjectId(partition));
		MemoryContextSwitchTo(caller);
	}
	SPI_finish();
	return expired != NIL;
}

static bool
drop_partition(Oid partition)
{
	Oid			types[] = {REGCLASSOID, INTERVALOID};
	Datum		values[] = {ObjectIdGetDatum(partition),
	IntervalPGetDatum(retention)};
	char	   *name = get_rel_name(partition);
	bool		is_null;
	bool		dropped;
	BemiDdl		ddl;

	if (name == NULL)
		return false;
	if (!ConditionalLockRelationOid(partition, AccessExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("partition \"%s\" is in use", name)));
	/* In the order of readers, bemi.changes comes first. */
	UnlockRelationOid(partition, AccessExclusiveLock);
	dropped_name = MemoryContextStrdup(maintenance_memory, name);

	bemi_ddl_enter(&ddl);
	SPI_connect();
	if (SPI_execute_with_args("SELECT _bemi.drop_expired_partition($1, $2)", 2,
							  types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not drop an old partition");
	dropped = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1, &is_null));
	SPI_finish();
	bemi_ddl_leave(&ddl);
	return dropped;
}

/*
 * Drops what is too old, oldest first.
 */
static void
drop_expired(void)
{
	ListCell   *cell;

	expired = NIL;
	if (retention == NULL ||
		!attempt_maintenance_step(find_expired, InvalidOid,
								  "look for partitions older than bemi.retention"))
		return;
	forget_refusals(log_refusals_again ? NIL : expired);
	log_refusals_again = false;
	foreach(cell, expired)
	{
		CHECK_FOR_INTERRUPTS();
		if (attempt_maintenance_step(drop_partition, lfirst_oid(cell),
									 "drop a partition older than bemi.retention"))
			ereport(LOG,
					(errmsg("bemi: partition \"%s\" of bemi.changes was dropped",
							dropped_name),
					 errdetail("All of it was older than bemi.retention, \"%s\".",
							   retention_setting)));
		if (TimestampDifferenceExceeds(maintained_at, GetCurrentTimestamp(),
									   LONGEST_VISIT_MS))
			break;
	}
}

/*
 * Forgets tables of the source that are gone, as bemi--1.0.sql says.
 */
static bool
forget_gone_tables(Oid changes)
{
	Oid			types[] = {TEXTOID};
	Datum		values[] = {CStringGetTextDatum(bemi_my_worker->source)};

	SPI_connect();
	if (SPI_execute_with_args("SELECT _bemi.forget_gone_tables($1)", 1, types,
							  values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not forget tables that are gone");
	SPI_finish();
	return true;
}

/*
 * Samples bemi.changes as a whole, if enough has changed, for autovacuum does
 * so with its partitions only.  Not by the command ANALYZE, which would go
 * through all partitions once more, each by itself.
 */
static bool
analyze_changes(Oid changes)
{
	VacuumParams params = {0};
	bool		is_null;
	bool		needed;

	SPI_connect();
	if (SPI_execute("SELECT _bemi.needs_analyze()", true, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not look at the statistics of bemi.changes");
	needed = DatumGetBool(SPI_getbinval(SPI_tuptable->vals[0],
										SPI_tuptable->tupdesc, 1, &is_null));
	SPI_finish();
	if (!needed)
		return false;

	/* What cannot be locked is tried again soon, what is slow tomorrow. */
	LockRelationOid(changes, ShareUpdateExclusiveLock);
	analyze_tried_at = GetCurrentTimestamp();
	params.options = VACOPT_ANALYZE;
	params.log_min_duration = -1;
	analyze_rel(changes, NULL, &params, NIL, true,
				GetAccessStrategy(BAS_VACUUM));
	return true;
}

/*
 * Whether so much time has passed since, and if so, notes that it begins anew.
 */
static bool
interval_is_over(TimestampTz *since, TimestampTz now, int interval_ms)
{
	if (!TimestampDifferenceExceeds(*since, now, interval_ms))
		return false;
	*since = now;
	return true;
}

static void
run_maintenance(TimestampTz now)
{
	MemoryContext caller = CurrentMemoryContext;

	maintenance_memory = AllocSetContextCreate(caller, "bemi maintenance",
											   ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(maintenance_memory);
	pgstat_report_activity(STATE_RUNNING, "keeping house");
	drop_expired();
	(void) attempt_maintenance_step(forget_gone_tables, InvalidOid,
									"forget tables that are gone");
	if (TimestampDifferenceExceeds(analyze_tried_at, now, ANALYZE_INTERVAL_MS))
		(void) attempt_maintenance_step(analyze_changes, InvalidOid,
										"analyze bemi.changes");
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(maintenance_memory);
}

/*
 * Does what is due.  To be called often, outside of a transaction.
 *
 * What was written is told to the statistics by each commit, unless one has
 * just done so; the last ones before a pause would never be told, and
 * autovacuum would not come.
 */
void
bemi_store_maintain(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (maintenance_is_due ||
		interval_is_over(&maintained_at, now, MAINTENANCE_INTERVAL_MS))
	{
		maintenance_is_due = false;
		maintained_at = now;
		run_maintenance(now);
	}
	if (interval_is_over(&statistics_sent_at, now, STATISTICS_INTERVAL_MS))
		pgstat_report_stat(true);
}

void
bemi_store_maintenance_init(void)
{
	DefineCustomEnumVariable("bemi.partition_interval",
							 "Sets for how much time a new partition of bemi.changes is.",
							 NULL, &partition_interval, 2, partition_intervals,
							 PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomStringVariable("bemi.retention",
							   "Sets how long changes are kept, as an interval.",
							   "Whole partitions that are older are dropped. Empty: changes are kept for ever.",
							   &retention_setting, "", PGC_SUSET, 0,
							   check_retention, assign_retention, NULL);
}
