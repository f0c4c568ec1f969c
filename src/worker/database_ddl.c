/*-------------------------------------------------------------------------
 *
 * database_ddl.c
 *		Ends workers for commands that need a database for themselves.
 *
 * DROP DATABASE, CREATE DATABASE with a template, and ALTER DATABASE ...
 * RENAME are refused while there are connections to the database.  DROP
 * DATABASE is also refused while one of its slots is read.  The server stops
 * autovacuum's workers for these commands.  Ours must be stopped, too, because
 * a user who drops a database should not have to know its readers.
 *
 * A hook around these commands first checks whether the command can succeed.
 * A user without the right to it must not be able to disturb workers.  Then
 * the hook pauses the database (see pause.c), runs the command, and cleans up
 * after DROP DATABASE.  If the command fails, the workers continue when the
 * pause ends.
 *
 * After DROP DATABASE, the entries in shared memory are removed at its commit.
 * The origins are dropped in a transaction after it, because the progress of
 * an origin is lost at once, not at commit.  What must never happen: an origin
 * is dropped before a commit that fails, because changes would then be stored
 * twice.
 *
 * A worker of another server that reads this database is an ordinary client,
 * and is not stopped.
 *
 * Workers are not stopped for ALTER DATABASE ...  SET TABLESPACE.  The WAL
 * names tables by tablespace and file, so the server could never decode
 * changes that were written before the move and not read yet.  So it is better
 * that the server refuses the command while a worker is connected.  If the
 * source is stopped, the server does not refuse it, and the hook warns.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "nodes/parsenodes.h"
#include "replication/slot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "worker/worker_internal.h"

/* A command and the databases that it affects. */
typedef struct DatabaseCommand
{
	Oid			paused;
	Oid			dropped;
	List	   *origins;		/* of its sources */
	List	   *slots;			/* of its sources on other servers */
	Oid			moved;
	Oid			tablespace;		/* of "moved", before the command */
} DatabaseCommand;

static ProcessUtility_hook_type prev_ProcessUtility = NULL;

/* ---------- which commands ---------- */

static bool
may_create_databases(void)
{
	HeapTuple	role;
	bool		may;

	if (superuser())
		return true;
	role = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	may = HeapTupleIsValid(role) &&
		((Form_pg_authid) GETSTRUCT(role))->rolcreatedb;
	if (HeapTupleIsValid(role))
		ReleaseSysCache(role);
	return may;
}

static bool
database_is_template(Oid database)
{
	HeapTuple	tuple =
		SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		template;

	template = HeapTupleIsValid(tuple) &&
		((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return template;
}

/*
 * OID of a database that the user owns and is not connected to, or InvalidOid.
 */
static Oid
own_other_database(const char *name)
{
	Oid			database = get_database_oid(name, true);

	if (!OidIsValid(database) || database == MyDatabaseId ||
		!bemi_database_ownercheck(database, GetUserId()))
		return InvalidOid;
	return database;
}

/*
 * The value of an option, or NULL.
 */
static char *
find_command_option(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *element = lfirst(cell);

		if (strcmp(element->defname, name) == 0 && element->arg != NULL)
			return defGetString(element);
	}
	return NULL;
}

/*
 * Each of these returns the database that the command needs for itself, or
 * InvalidOid if the server will refuse the command.
 */
static Oid
database_to_drop(const DropdbStmt *drop, bool top_level)
{
	Oid			database = own_other_database(drop->dbname);

	if (!OidIsValid(database) || database_is_template(database) ||
		bemi_has_other_readers(database))
		return InvalidOid;
	PreventInTransactionBlock(top_level, "DROP DATABASE");
	return database;
}

static Oid
database_to_copy(const CreatedbStmt *create, bool top_level)
{
	const char *template = find_command_option(create->options, "template");
	Oid			database = get_database_oid(template ? template : "template1", true);

	if (!OidIsValid(database) || !may_create_databases() ||
		OidIsValid(get_database_oid(create->dbname, true)))
		return InvalidOid;
	if (!database_is_template(database) &&
		!bemi_database_ownercheck(database, GetUserId()))
		return InvalidOid;
	PreventInTransactionBlock(top_level, "CREATE DATABASE");
	return database;
}

static Oid
database_to_rename(const RenameStmt *rename)
{
	if (rename->renameType != OBJECT_DATABASE || !may_create_databases() ||
		OidIsValid(get_database_oid(rename->newname, true)))
		return InvalidOid;
	return own_other_database(rename->subname);
}

static Oid
database_concerned_by(Node *command, bool top_level)
{
	switch (nodeTag(command))
	{
		case T_DropdbStmt:
			return database_to_drop((DropdbStmt *) command, top_level);
		case T_CreatedbStmt:
			return database_to_copy((CreatedbStmt *) command, top_level);
		case T_RenameStmt:
			return database_to_rename((RenameStmt *) command);
		default:
			return InvalidOid;
	}
}

/* ---------- after DROP DATABASE ---------- */

/*
 * Names of the slots that workers of a database have created on other servers.
 * The server cannot drop these with the database.
 */
static List *
slots_elsewhere(Oid database)
{
	List	   *slots = NIL;
	BemiEntry  *entries;
	int			count = bemi_entry_copy_all(&entries, NULL);

	for (int i = 0; i < count; i++)
	{
		char		name[NAMEDATALEN];
		ReplicationSlot *slot;

		if (entries[i].database != database || !entries[i].slot_elsewhere)
			continue;
		bemi_entry_slot_name(&entries[i], name);

		/* A connection string may lead back to this database. */
		slot = SearchNamedReplicationSlot(name, true);
		if (slot == NULL || slot->data.database != database)
			slots = lappend(slots, pstrdup(name));
	}
	return slots;
}

/*
 * Commits the command, as VACUUM does, and begins another transaction.
 */
static void
commit_and_begin(void)
{
	MemoryContext caller = CurrentMemoryContext;

	if (ActiveSnapshotSet())
		PopActiveSnapshot();
	CommitTransactionCommand();
	StartTransactionCommand();
	MemoryContextSwitchTo(caller);
}

static void
drop_origins(List *names)
{
	ListCell   *cell;

	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(cell, names)
	{
		replorigin_drop_by_name(lfirst(cell), true, true);
	}
	PopActiveSnapshot();
}

/*
 * Cleans up after a dropped database: removes its entries and origins, and
 * warns of slots on other servers, which cannot be dropped here.  It checks
 * the OID, because two databases may have swapped their names before the
 * command got its lock.
 */
static void
forget_database(const DatabaseCommand *database_command)
{
	bool		gone;
	ListCell   *cell;

	/* The files are deleted, so nothing may interrupt us before the commit. */
	HOLD_INTERRUPTS();
	CommandCounterIncrement();
	gone = !SearchSysCacheExists1(DATABASEOID,
								  ObjectIdGetDatum(database_command->dropped));
	RESUME_INTERRUPTS();
	if (!gone)
		return;

	bemi_forget_entries_at_commit(database_command->dropped);
	if (database_command->origins != NIL)
	{
		commit_and_begin();
		drop_origins(database_command->origins);
	}
	foreach(cell, database_command->slots)
	{
		ereport(WARNING,
				(errcode(ERRCODE_WARNING),
				 errmsg("replication slot \"%s\" stays at the source that the dropped database has read",
						(char *) lfirst(cell)),
				 errdetail("It keeps the source's WAL until it is dropped."),
				 errhint("Run this there: SELECT pg_drop_replication_slot('%s');",
						 (char *) lfirst(cell))));
	}
}

/* ---------- after SET TABLESPACE ---------- */

static Oid
tablespace_of(Oid database)
{
	HeapTuple	tuple =
		SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	Oid			tablespace;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	tablespace = ((Form_pg_database) GETSTRUCT(tuple))->dattablespace;
	ReleaseSysCache(tuple);
	return tablespace;
}

/*
 * The source in the name of a slot or origin.
 */
static const char *
source_of_name(const char *name)
{
	return strchr(name + strlen("bemi_"), '_') + 1;
}

/*
 * Warns of slots whose database was moved while their sources were stopped.
 */
static void
warn_of_move(Oid database)
{
	List	   *origins = bemi_list_origins(database);
	ListCell   *cell;

	foreach(cell, origins)
	{
		ReplicationSlot *slot = SearchNamedReplicationSlot(lfirst(cell), true);

		if (slot != NULL && slot->data.database == database)
			ereport(WARNING,
					(errcode(ERRCODE_WARNING),
					 errmsg("replication slot \"%s\" may not be readable any more",
							(char *) lfirst(cell)),
					 errdetail("Changes that were written before the move and not yet read cannot be decoded."),
					 errhint("If bemi.status shows an error, start the source again: CALL bemi.drop_source('%s'); CALL bemi.start('%s');",
							 source_of_name(lfirst(cell)),
							 source_of_name(lfirst(cell)))));
	}
}

/* ---------- the hook ---------- */

/*
 * Prepares a command, and records what is needed after it.
 */
static void
prepare_database_command(Node *command, bool top_level,
						 DatabaseCommand *database_command)
{
	memset(database_command, 0, sizeof(DatabaseCommand));
	if (bemi_shared == NULL || RecoveryInProgress())
		return;

	if (IsA(command, AlterDatabaseStmt))
	{
		database_command->moved =
			get_database_oid(((AlterDatabaseStmt *) command)->dbname, true);
		database_command->tablespace = tablespace_of(database_command->moved);
		return;
	}

	database_command->paused = database_concerned_by(command, top_level);
	if (!OidIsValid(database_command->paused))
		return;
	if (bemi_pause_database(database_command->paused))
		bemi_stop_readers(database_command->paused);
	if (IsA(command, DropdbStmt))
	{
		database_command->dropped = database_command->paused;
		database_command->origins =
			bemi_list_origins(database_command->dropped);
		database_command->slots = slots_elsewhere(database_command->dropped);
	}
}

static void
database_process_utility(PlannedStmt *statement, const char *query,
						 bool read_only, ProcessUtilityContext context,
						 ParamListInfo parameters,
						 QueryEnvironment *environment, DestReceiver *receiver,
						 QueryCompletion *completion)
{
	ProcessUtility_hook_type next = prev_ProcessUtility ? prev_ProcessUtility :
		standard_ProcessUtility;
	DatabaseCommand database_command;

	prepare_database_command(statement->utilityStmt,
							 context == PROCESS_UTILITY_TOPLEVEL,
							 &database_command);
	next(statement, query, read_only, context, parameters, environment,
		 receiver, completion);
	if (OidIsValid(database_command.dropped))
		forget_database(&database_command);
	if (OidIsValid(database_command.moved) &&
		tablespace_of(database_command.moved) != database_command.tablespace)
		warn_of_move(database_command.moved);
}

/*
 * Without shared memory this server has no workers of ours.
 */
void
bemi_database_ddl_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = database_process_utility;
}
