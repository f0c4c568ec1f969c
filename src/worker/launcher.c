/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher: one process that keeps a worker running for each source.
 *
 * The launcher is connected to no database, so it cannot read bemi.sources.  A
 * background process can connect only once, and a permanent connection would
 * prevent DROP DATABASE.  So it starts discovery workers: short-lived
 * processes that connect to one database each, create entries in shared memory
 * for the sources there, and exit.  They are started after the server has
 * started, was promoted, or has recovered from a crash.  After that,
 * bemi.start() creates the entries.
 *
 * A source counts if its replication origin bemi_<database OID>_<name> exists.
 * A row without an origin came with a dump or a template database.  It is not
 * read here until bemi.start() is called.
 *
 * A worker that has failed is started again after a delay that doubles from
 * one second to a minute.  A worker that was stopped is started again when its
 * row has changed.
 *
 * A process cannot connect to a closed database (ALLOW_CONNECTIONS is false,
 * or DROP DATABASE was interrupted), and fails before it can report the
 * reason.  So none is started there.  The launcher itself records the error,
 * and checks again later.
 *
 * The launcher sleeps on its latch.  Discovery workers and workers set it when
 * they exit, sessions when they have changed bemi.sources.  What must never
 * happen: two workers for one source, or a started source that never gets one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_replication_origin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "worker/worker_internal.h"

/* Handles of the workers that this launcher has registered, by entry. */
static BackgroundWorkerHandle **handles = NULL;

/* Whether a process of ours can connect to a database. */
typedef enum DatabaseState
{
	DATABASE_GONE,
	DATABASE_INVALID,			/* DROP DATABASE was interrupted */
	DATABASE_CLOSED,			/* ALLOW_CONNECTIONS is false */
	DATABASE_OPEN
} DatabaseState;

/*
 * Databases that must still be searched for sources.
 */
typedef struct Discovery
{
	List	   *to_visit;		/* databases that need a discovery worker */
	List	   *closed;			/* databases that accept no connections now */
	int64		closed_seen_at; /* time of the last check of them */
	BackgroundWorkerHandle *worker; /* running discovery worker, or NULL ... */
	Oid			database;		/* ... and its database */
	int			failures;		/* in a row */
	int64		next_start;		/* earliest next start; 0: at once */
} Discovery;

static Discovery discovery;

/*
 * OIDs of all databases, in the current memory context.
 */
static List *
list_databases(void)
{
	Relation	catalog = table_open(DatabaseRelationId, AccessShareLock);
	TableScanDesc scan = table_beginscan_catalog(catalog, 0, NULL);
	List	   *databases = NIL;
	HeapTuple	tuple;

	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		databases =
			lappend_oid(databases, ((Form_pg_database) GETSTRUCT(tuple))->oid);
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	return databases;
}

/*
 * Parses an origin's name.  Returns false if it is not one of ours.
 */
static bool
parse_origin_name(const char *name, Oid *database, const char **source)
{
	char	   *end;

	if (strncmp(name, "bemi_", 5) != 0 || !isdigit((unsigned char) name[5]))
		return false;
	*database = strtoul(name + 5, &end, 10);
	if (*end != '_' || strlen(end + 1) == 0 ||
		strlen(end + 1) >= BEMI_SOURCE_NAME_LEN)
		return false;
	*source = end + 1;
	return true;
}

/*
 * Names of the replication origins of a database's sources, or of all
 * databases' (InvalidOid), in the current memory context.
 */
List *
bemi_list_origins(Oid database)
{
	Relation	catalog =
		table_open(ReplicationOriginRelationId, AccessShareLock);
	SysScanDesc scan =
		systable_beginscan(catalog, InvalidOid, false, NULL, 0, NULL);
	List	   *names = NIL;
	HeapTuple	tuple;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		is_null;
		Datum		value =
			heap_getattr(tuple, Anum_pg_replication_origin_roname,
						 RelationGetDescr(catalog), &is_null);
		char	   *name = TextDatumGetCString(value);
		const char *source;
		Oid			owner;

		if (parse_origin_name(name, &owner, &source) &&
			(!OidIsValid(database) || database == owner))
			names = lappend(names, name);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return names;
}

/*
 * Entry point of a discovery worker: creates entries for the sources of its
 * database.  It also drops origins of dropped databases, because no other
 * process can.
 */
void
bemi_discovery_main(Datum arg)
{
	Oid			my_database = DatumGetObjectId(arg);
	List	   *databases;
	List	   *origins;
	ListCell   *cell;

	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(my_database, InvalidOid, 0);
	bemi_pin_settings();

	/*
	 * Do not wait for a standby: the next discovery workers wait for this
	 * one.
	 */
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());

	/*
	 * In this order, because an origin of a new database would otherwise seem
	 * lost.
	 */
	origins = bemi_list_origins(InvalidOid);
	databases = list_databases();
	foreach(cell, origins)
	{
		const char *source;
		Oid			database;

		if (!parse_origin_name(lfirst(cell), &database, &source))
			continue;
		if (!list_member_oid(databases, database))
			replorigin_drop_by_name(lfirst(cell), true, true);
		if (database != my_database)
			continue;
		if (!bemi_entry_add(database, source))
			bemi_report_no_place(source);
	}
	PopActiveSnapshot();
	CommitTransactionCommand();

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_shared->discovered = my_database;
	LWLockRelease(bemi_shared->lock);
}

/*
 * Sets what the launcher's processes have in common.
 */
static void
describe_process(BackgroundWorker *process, const char *kind,
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
static bool
register_process(BackgroundWorker *process, BackgroundWorkerHandle **handle)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	bool		registered = RegisterDynamicBackgroundWorker(process, handle);

	MemoryContextSwitchTo(caller);
	return registered;
}

/*
 * Whether a database accepts connections, and its name.
 */
static DatabaseState
database_state_of(Form_pg_database database, NameData *name)
{
	*name = database->datname;
	if (database->datconnlimit == DATCONNLIMIT_INVALID_DB)
		return DATABASE_INVALID;
	return database->datallowconn ? DATABASE_OPEN : DATABASE_CLOSED;
}

/*
 * The same for a database that may have been dropped.
 */
static DatabaseState
check_database(Oid oid, NameData *name)
{
	MemoryContext caller = CurrentMemoryContext;
	DatabaseState state = DATABASE_GONE;
	Relation	catalog;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	catalog = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(catalog, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
		if (((Form_pg_database) GETSTRUCT(tuple))->oid == oid)
			state =
				database_state_of((Form_pg_database) GETSTRUCT(tuple), name);
	table_endscan(scan);
	table_close(catalog, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return state;
}

/*
 * Why a database accepts no connections, and the statement that repairs it.
 */
static void
explain_closed_database(DatabaseState state, const NameData *name,
						char **error, char **hint)
{
	const char *database = quote_identifier(NameStr(*name));

	if (state == DATABASE_INVALID)
	{
		*error =
			psprintf("database \"%s\" is invalid, because DROP DATABASE was interrupted",
					 NameStr(*name));
		*hint = psprintf("Run it again: DROP DATABASE %s;", database);
	}
	else
	{
		*error = psprintf("database \"%s\" does not accept connections",
						  NameStr(*name));
		*hint =
			psprintf("Run this in another database: ALTER DATABASE %s ALLOW_CONNECTIONS true;",
					 database);
	}
}

/*
 * Adds a database to the list for discovery, or to the list of closed ones.  A
 * closed one is logged if a slot of it keeps WAL.  Returns true if it is to be
 * discovered.
 */
static bool
plan_discovery(Oid database)
{
	NameData	name;
	DatabaseState state = check_database(database, &name);
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	char	   *error;
	char	   *hint;

	if (state == DATABASE_OPEN)
		discovery.to_visit = lappend_oid(discovery.to_visit, database);
	else if (state != DATABASE_GONE)
		discovery.closed = lappend_oid(discovery.closed, database);
	MemoryContextSwitchTo(caller);
	if (state == DATABASE_OPEN || state == DATABASE_GONE ||
		!bemi_database_has_slot(database))
		return state == DATABASE_OPEN;

	explain_closed_database(state, &name, &error, &hint);
	ereport(LOG,
			(errmsg("bemi: sources are not read: %s", error),
			 errdetail("Their replication slots keep WAL."),
			 errhint("%s", hint)));
	return false;
}

/*
 * From time to time, checks whether closed databases accept connections again.
 */
static void
recheck_closed(void)
{
	List	   *still = NIL;
	ListCell   *cell;
	NameData	name;

	if (!bemi_has_passed(discovery.closed_seen_at, BEMI_LONGEST_DELAY_MS))
		return;
	discovery.closed_seen_at = bemi_monotonic_ms();
	foreach(cell, discovery.closed)
	{
		DatabaseState state = check_database(lfirst_oid(cell), &name);
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		if (state == DATABASE_OPEN)
			discovery.to_visit =
				lappend_oid(discovery.to_visit, lfirst_oid(cell));
		else if (state != DATABASE_GONE)
			still = lappend_oid(still, lfirst_oid(cell));
		MemoryContextSwitchTo(caller);
	}
	list_free(discovery.closed);
	discovery.closed = still;
}

/*
 * Checks whether the discovery worker has ended.  If it has failed, its
 * database is discovered again later, because its sources would otherwise
 * never be read.
 */
static void
receive_discovery(void)
{
	pid_t		pid;
	bool		done;

	if (discovery.worker == NULL ||
		GetBackgroundWorkerPid(discovery.worker, &pid) != BGWH_STOPPED)
		return;
	pfree(discovery.worker);
	discovery.worker = NULL;

	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	done = (bemi_shared->discovered == discovery.database);
	LWLockRelease(bemi_shared->lock);
	if (done || !plan_discovery(discovery.database))
	{
		discovery.failures = 0;
		discovery.next_start = 0;
		return;
	}
	discovery.next_start = bemi_monotonic_ms() +
		bemi_delay_after(++discovery.failures);
}

/*
 * The next database to discover; paused ones wait.
 */
static Oid
next_to_visit(void)
{
	Oid			next = InvalidOid;
	ListCell   *cell;

	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	foreach(cell, discovery.to_visit)
	{
		if (!OidIsValid(next) && !bemi_is_paused(lfirst_oid(cell)))
			next = lfirst_oid(cell);
	}
	LWLockRelease(bemi_shared->lock);
	return next;
}

/*
 * Starts the next discovery worker when the former one has ended.  Returns for
 * how long there is nothing to do here.
 */
static long
start_discovery(void)
{
	BackgroundWorker process;
	long		left;

	receive_discovery();
	recheck_closed();
	if (discovery.worker != NULL)
		return BEMI_LONGEST_DELAY_MS;
	discovery.database = next_to_visit();
	if (!OidIsValid(discovery.database))
		return BEMI_LONGEST_DELAY_MS;
	left = discovery.next_start - bemi_monotonic_ms();
	if (left > 0)
		return left;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_shared->discovered = InvalidOid;
	LWLockRelease(bemi_shared->lock);

	describe_process(&process, "bemi discovery worker", "bemi_discovery_main");
	process.bgw_main_arg = ObjectIdGetDatum(discovery.database);
	if (!register_process(&process, &discovery.worker))
		return BEMI_FIRST_DELAY_MS;
	discovery.to_visit =
		list_delete_oid(discovery.to_visit, discovery.database);
	return BEMI_LONGEST_DELAY_MS;
}

/*
 * Starts a worker's process.
 */
static void
launch_worker(int i, const char *source)
{
	BackgroundWorker process;

	describe_process(&process, "bemi worker", "bemi_worker_main");
	process.bgw_main_arg = Int32GetDatum(i);
	snprintf(process.bgw_name, BGW_MAXLEN, "bemi worker %s", source);
	if (handles[i] != NULL)
		pfree(handles[i]);
	handles[i] = NULL;
	if (!register_process(&process, &handles[i]))
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
refuse_worker(int i, const char *source, DatabaseState state,
			  const NameData *name)
{
	char	   *error;
	char	   *hint;

	explain_closed_database(state, name, &error, &hint);
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
	DatabaseState state = check_database(entry->database, &name);

	if (state == DATABASE_GONE)
		bemi_entry_forget(i);
	else if (state == DATABASE_OPEN)
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
 * Plans the discovery of all databases, when the launcher has started.
 */
static void
discover_all_databases(void)
{
	List	   *databases;
	ListCell   *cell;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	MemoryContextSwitchTo(TopMemoryContext);
	databases = list_databases();
	CommitTransactionCommand();
	MemoryContextSwitchTo(TopMemoryContext);

	foreach(cell, databases)
	{
		(void) plan_discovery(lfirst_oid(cell));
	}
	list_free(databases);
	discovery.closed_seen_at = bemi_monotonic_ms();
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
	discover_all_databases();

	round = AllocSetContextCreate(TopMemoryContext, "bemi launcher round",
								  ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		long		timeout_ms;

		MemoryContextReset(round);
		MemoryContextSwitchTo(round);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		timeout_ms = start_due_workers();
		bemi_limit_local_slots(&timeout_ms);
		timeout_ms = Min(timeout_ms, start_discovery());
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

	describe_process(&process, "bemi launcher", "bemi_launcher_main");
	process.bgw_restart_time = 5;
	process.bgw_notify_pid = 0;
	RegisterBackgroundWorker(&process);
}
