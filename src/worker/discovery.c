/*-------------------------------------------------------------------------
 *
 * discovery.c
 *		Discovery: finds the sources of all databases after a start.
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
 * A row without an origin was copied with its database, as by CREATE DATABASE
 * ... TEMPLATE.  It is not read here until bemi.start() is called.
 *
 * A process cannot connect to a closed database (ALLOW_CONNECTIONS is false,
 * or DROP DATABASE was interrupted), and fails before it can report the
 * reason.  So none is started there.  The launcher records the error, and
 * checks again later.
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
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "worker/worker_internal.h"

/*
 * Databases that must still be searched for sources.
 */
typedef struct Discovery
{
	List	   *waiting;		/* databases that need a discovery worker */
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
 * Creates an entry for each origin of a source of this database, and drops
 * those whose database is gone.
 */
static void
add_sources(const List *origins, const List *databases, Oid my_database)
{
	ListCell   *cell;

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
	add_sources(origins, databases, my_database);
	PopActiveSnapshot();
	CommitTransactionCommand();

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_shared->discovered = my_database;
	LWLockRelease(bemi_shared->lock);
}

/*
 * Whether a database accepts connections, and its name.
 */
static BemiDatabaseState
database_state_of(Form_pg_database database, NameData *name)
{
	*name = database->datname;
	if (database->datconnlimit == DATCONNLIMIT_INVALID_DB)
		return BEMI_DATABASE_INVALID;
	return database->datallowconn ? BEMI_DATABASE_OPEN : BEMI_DATABASE_CLOSED;
}

/*
 * The same for a database that may have been dropped.
 */
BemiDatabaseState
bemi_check_database(Oid oid, NameData *name)
{
	MemoryContext caller = CurrentMemoryContext;
	BemiDatabaseState state = BEMI_DATABASE_GONE;
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
void
bemi_explain_closed_database(BemiDatabaseState state, const NameData *name,
							 char **error, char **hint)
{
	const char *database = quote_identifier(NameStr(*name));

	if (state == BEMI_DATABASE_INVALID)
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
	BemiDatabaseState state = bemi_check_database(database, &name);
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
	char	   *error;
	char	   *hint;

	if (state == BEMI_DATABASE_OPEN)
		discovery.waiting = lappend_oid(discovery.waiting, database);
	else if (state != BEMI_DATABASE_GONE)
		discovery.closed = lappend_oid(discovery.closed, database);
	MemoryContextSwitchTo(caller);
	if (state == BEMI_DATABASE_OPEN || state == BEMI_DATABASE_GONE ||
		!bemi_database_has_slot(database))
		return state == BEMI_DATABASE_OPEN;

	bemi_explain_closed_database(state, &name, &error, &hint);
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
		BemiDatabaseState state = bemi_check_database(lfirst_oid(cell), &name);
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

		if (state == BEMI_DATABASE_OPEN)
			discovery.waiting =
				lappend_oid(discovery.waiting, lfirst_oid(cell));
		else if (state != BEMI_DATABASE_GONE)
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
next_waiting_database(void)
{
	Oid			next = InvalidOid;
	ListCell   *cell;

	LWLockAcquire(bemi_shared->lock, LW_SHARED);
	foreach(cell, discovery.waiting)
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
long
bemi_start_discovery(void)
{
	BackgroundWorker process;
	long		left;

	receive_discovery();
	recheck_closed();
	if (discovery.worker != NULL)
		return BEMI_LONGEST_DELAY_MS;
	discovery.database = next_waiting_database();
	if (!OidIsValid(discovery.database))
		return BEMI_LONGEST_DELAY_MS;
	left = discovery.next_start - bemi_monotonic_ms();
	if (left > 0)
		return left;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	bemi_shared->discovered = InvalidOid;
	LWLockRelease(bemi_shared->lock);

	bemi_describe_process(&process, "bemi discovery worker",
						  "bemi_discovery_main");
	process.bgw_main_arg = ObjectIdGetDatum(discovery.database);
	if (!bemi_register_process(&process, &discovery.worker))
		return BEMI_FIRST_DELAY_MS;
	discovery.waiting =
		list_delete_oid(discovery.waiting, discovery.database);
	return BEMI_LONGEST_DELAY_MS;
}

/*
 * Plans the discovery of all databases, when the launcher has started.
 */
void
bemi_discover_all_databases(void)
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
