/*-------------------------------------------------------------------------
 *
 * indexing.c
 *		bemi.index_context() and bemi.index_column(), and those that drop.
 *
 * Input: a key of the context, or the name of a column.  Output: an index in
 * each partition of bemi.changes, see sql/query/indexing.sql, and a row in
 * _bemi.indexes_on_demand, by which _bemi.make_partition() creates the index
 * on new partitions.
 *
 * The worker writes to the newest partition all the time, and must not wait
 * while an index is built.  So each is built by CREATE INDEX CONCURRENTLY, and
 * dropped by DROP INDEX CONCURRENTLY.  These commands commit several times, so
 * this is a procedure.  The server forbids them in procedures, because a
 * procedure's caller may hold a snapshot or SPI's memory over a commit.  Here
 * nobody does: the call must be a statement of its own, and no call of SPI is
 * open when the command runs.
 *
 * First the row is written and committed, under the lock that a worker takes
 * while it creates a partition.  So every partition either is in the list that
 * is read next, or has the index already.  If the call is cancelled in the
 * middle, some partitions have the index, and one may have an invalid one.
 * The next call continues, and replaces the invalid one.
 *
 * Locks: a session lock on _bemi.indexes_on_demand lets one of these calls
 * run at a time.  In each partition, it locks the partition as CREATE INDEX
 * CONCURRENTLY does, looks, and acts.  That command waits for older snapshots
 * of other sessions.  So this one holds no snapshot while it waits for a lock.
 * What must never happen: a worker or a reader waits for a build.
 *
 * Memory: "bemi indexing" lives in the portal's memory, until the end of
 * the statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "nodes/primnodes.h"
#include "storage/lmgr.h"
#include "tcop/dest.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "store/store_internal.h"

PG_FUNCTION_INFO_V1(bemi_index_context);
PG_FUNCTION_INFO_V1(bemi_drop_index_context);
PG_FUNCTION_INFO_V1(bemi_index_column);
PG_FUNCTION_INFO_V1(bemi_drop_index_column);

/* A key or column is in a B-tree, too. */
#define LONGEST_NAME	1000

/* What the indexes are on. */
typedef struct IndexKind
{
	const char *name;			/* in _bemi.indexes_on_demand */
	const char *create;			/* procedures */
	const char *drop;
	const char *null_error;
	const char *length_error;
	const char *example;
	const char *none_error;
	const char *list_hint;
} IndexKind;

static const IndexKind on_context = {
	.name = "context",
	.create = "bemi.index_context()",
	.drop = "bemi.drop_index_context()",
	.null_error = "the key of the context must not be NULL",
	.length_error = "the key of the context must not exceed %d bytes",
	.example = "CALL bemi.index_context('userId');",
	.none_error = "the history has no index on key \"%s\" of the context",
	.list_hint = "SELECT * FROM bemi.context_indexes; lists those that it has."
};

static const IndexKind on_column = {
	.name = "column",
	.create = "bemi.index_column()",
	.drop = "bemi.drop_index_column()",
	.null_error = "the name of the column must not be NULL",
	.length_error = "the name of the column must not exceed %d bytes",
	.example = "CALL bemi.index_column('price');",
	.none_error = "the history has no index on column \"%s\"",
	.list_hint = "SELECT * FROM bemi.column_indexes; lists those that it has."
};

/* A running call. */
typedef struct Indexing
{
	FunctionCallInfo fcinfo;
	MemoryContext memory;
	const IndexKind *kind;
	char	   *name;			/* the key or column */
	LockRelId	lock;			/* _bemi.indexes_on_demand, locked for the
								 * session */
} Indexing;

/*
 * Throws an error unless the call is a statement of its own.
 */
static void
require_own_statement(FunctionCallInfo fcinfo, const char *procedure)
{
	PlannedStmt *planned = linitial_node(PlannedStmt, ActivePortal->stmts);
	CallStmt   *call = (CallStmt *) planned->utilityStmt;

	if (!bemi_procedure_is_atomic(fcinfo) && call != NULL &&
		IsA(call, CallStmt) &&
		call->funcexpr->funcid == fcinfo->flinfo->fn_oid)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
			 errmsg("%s cannot run inside a transaction block, a function or another procedure",
					procedure),
			 errdetail("It commits for each partition, so that the worker does not wait."),
			 errhint("Call it as a statement of its own.")));
}

static char *
name_argument(FunctionCallInfo fcinfo, const IndexKind *kind)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s", kind->null_error),
				 errhint("%s", kind->example)));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (strlen(name) > LONGEST_NAME)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg(kind->length_error, LONGEST_NAME)));
	return name;
}

/*
 * Throws an error unless the user may create indexes on bemi.changes.  He runs
 * the commands himself, because rights that are exchanged would not survive
 * their commits.
 */
static void
require_history_owner(void)
{
	Oid			changes = bemi_own_table("changes");

	if (OidIsValid(changes) && bemi_table_ownercheck(changes, GetUserId()))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to index the history"),
			 errdetail("You must be a superuser or a member of the role that owns bemi.changes.")));
}

/*
 * Ends the transaction, and begins one without a snapshot.
 */
static void
begin_step(const Indexing *indexing)
{
	bemi_procedure_begin(indexing->fcinfo);
	bemi_procedure_commit();
	bemi_procedure_end();
	InvalidateCatalogSnapshot();
}

/*
 * The server's parse of one command.
 */
static PlannedStmt *
parse_command(const char *command)
{
	RawStmt    *raw = linitial_node(RawStmt, pg_parse_query(command));
	PlannedStmt *planned = makeNode(PlannedStmt);

	planned->commandType = CMD_UTILITY;
	planned->utilityStmt = raw->stmt;
	return planned;
}

/*
 * Settings by which the server reads a command as it was written.  They end
 * with the transaction, and by then the command is analyzed.
 */
static void
pin_command_settings(void)
{
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
	(void) set_config_option("standard_conforming_strings", "on",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL,
							 true, 0, false);
}

/*
 * Runs a command that commits, as if the client had sent it.  It expects one
 * snapshot, and may leave it or not.  An event trigger may have given the
 * portal one, which the next step removes.
 */
static void
run_command(const Indexing *indexing, const char *command)
{
	PlannedStmt *planned;

	pin_command_settings();
	planned = parse_command(command);
	ForgetPortalSnapshots();
	PushActiveSnapshot(GetTransactionSnapshot());
	ProcessUtility(planned, command, false, PROCESS_UTILITY_TOPLEVEL, NULL,
				   NULL, None_Receiver, NULL);
	if (ActivePortal->portalSnapshot == NULL && ActiveSnapshotSet())
		PopActiveSnapshot();
	MemoryContextSwitchTo(indexing->memory);
}

/*
 * Begins: waits for other calls, and records the key or column, or removes it.
 * Returns whether that changed anything.
 */
static bool
begin_indexing(Indexing *indexing, FunctionCallInfo fcinfo,
			   const IndexKind *kind, const char *statement)
{
	Oid			table = bemi_own_internal_table("indexes_on_demand");
	BemiValue	arguments[2];
	bool		changed;

	indexing->fcinfo = fcinfo;
	indexing->memory = AllocSetContextCreate(PortalContext, "bemi indexing",
											 ALLOCSET_SMALL_SIZES);
	indexing->lock.relId = table;
	indexing->lock.dbId = MyDatabaseId;
	MemoryContextSwitchTo(indexing->memory);
	indexing->kind = kind;
	indexing->name = name_argument(fcinfo, kind);
	arguments[0] = bemi_sql_text(kind->name);
	arguments[1] = bemi_sql_text(indexing->name);

	begin_step(indexing);
	LockRelationIdForSession(&indexing->lock, ShareUpdateExclusiveLock);
	LockRelationOid(bemi_own_table("changes"), ShareUpdateExclusiveLock);
	changed = bemi_sql_run_bool_as_owner(statement, arguments,
										 lengthof(arguments));
	begin_step(indexing);
	return changed;
}

static void
end_indexing(Indexing *indexing)
{
	UnlockRelationIdForSession(&indexing->lock, ShareUpdateExclusiveLock);
}

/*
 * The partitions of bemi.changes.
 */
static List *
read_partitions(const Indexing *indexing)
{
	BemiValue	arguments[] = {
		bemi_sql_text(indexing->kind->name), bemi_sql_text(indexing->name)
	};

	EnsurePortalSnapshotExists();
	return bemi_sql_read_oids("SELECT DISTINCT partition FROM _bemi.index_states($1, $2)",
							  arguments, lengthof(arguments), REGCLASSOID);
}

/*
 * Locks a partition in a transaction of its own, and finds its index, if it
 * has one.  A valid one is preferred.  Returns false if this is no partition
 * of the history any more.
 */
static bool
lock_partition(const Indexing *indexing, Oid partition, Oid *index,
			   bool *is_valid, bool *is_attached)
{
	BemiValue	arguments[] = {
		bemi_sql_text(indexing->kind->name), bemi_sql_text(indexing->name),
		bemi_sql_oid(REGCLASSOID, partition)
	};
	BemiValue	columns[] = {
		{.type = REGCLASSOID}, {.type = BOOLOID}, {.type = BOOLOID}
	};

	begin_step(indexing);
	LockRelationOid(partition, ShareUpdateExclusiveLock);
	if (!bemi_sql_run_row("SELECT index, is_valid, is_attached"
						  " FROM _bemi.index_states($1, $2, $3)"
						  " ORDER BY is_attached, is_valid DESC LIMIT 1",
						  arguments, lengthof(arguments), columns,
						  lengthof(columns)))
		return false;
	*index = columns[0].is_null ? InvalidOid :
		DatumGetObjectId(columns[0].datum);
	*is_valid = bemi_sql_is_true(&columns[1]);
	*is_attached = bemi_sql_is_true(&columns[2]);
	return true;
}

/*
 * Name of a table or index, with its schema.
 */
static char *
qualified_name(Oid relation)
{
	return quote_qualified_identifier(get_namespace_name(
														 get_rel_namespace(relation)),
									  get_rel_name(relation));
}

static void
drop_index(const Indexing *indexing, Oid index)
{
	run_command(indexing, psprintf("DROP INDEX CONCURRENTLY %s",
								   qualified_name(index)));
}

static void
create_index(const Indexing *indexing, Oid partition)
{
	BemiValue	arguments[] = {
		bemi_sql_text(indexing->kind->name), bemi_sql_text(indexing->name)
	};
	BemiValue	definition = {.type = TEXTOID};

	(void) bemi_sql_run_row("SELECT _bemi.index_definition($1, $2)",
							arguments, lengthof(arguments), &definition, 1);
	run_command(indexing, psprintf("CREATE INDEX CONCURRENTLY ON %s %s",
								   qualified_name(partition),
								   bemi_sql_text_of(&definition)));
}

/*
 * Gives a partition a valid index.  An invalid one is what a cancelled call
 * has left.  Creates no second one if the server prints the definition of the
 * first in another way than expected.
 */
static void
index_partition(const Indexing *indexing, Oid partition)
{
	Oid			index;
	bool		is_valid;
	bool		is_attached;
	bool		created = false;

	while (lock_partition(indexing, partition, &index, &is_valid,
						  &is_attached) &&
		   !is_valid)
	{
		CHECK_FOR_INTERRUPTS();
		if (created)
			elog(ERROR,
				 "could not find the index on %s \"%s\" that was created on \"%s\"",
				 indexing->kind->name, indexing->name,
				 get_rel_name(partition));
		if (OidIsValid(index))
			drop_index(indexing, index);
		else
		{
			create_index(indexing, partition);
			created = true;
		}
	}
}

/*
 * Drops the indexes of a partition.  One that is attached to an index of
 * bemi.changes itself is a user's.  Returns whether there was one.
 */
static bool
unindex_partition(const Indexing *indexing, Oid partition)
{
	Oid			index;
	bool		is_valid;
	bool		is_attached;
	bool		any = false;

	while (lock_partition(indexing, partition, &index, &is_valid,
						  &is_attached) &&
		   OidIsValid(index) && !is_attached)
	{
		CHECK_FOR_INTERRUPTS();
		drop_index(indexing, index);
		any = true;
	}
	return any;
}

/*
 * Creates the indexes that a procedure was called for.
 */
static Datum
create_indexes(FunctionCallInfo fcinfo, const IndexKind *kind)
{
	Indexing	indexing;
	ListCell   *cell;

	PreventCommandDuringRecovery(kind->create);
	require_own_statement(fcinfo, kind->create);
	require_history_owner();
	(void) begin_indexing(&indexing, fcinfo, kind,
						  "INSERT INTO _bemi.indexes_on_demand VALUES ($1, $2)"
						  " ON CONFLICT DO NOTHING RETURNING true");
	foreach(cell, read_partitions(&indexing))
	{
		index_partition(&indexing, lfirst_oid(cell));
	}
	end_indexing(&indexing);
	PG_RETURN_NULL();
}

static Datum
drop_indexes(FunctionCallInfo fcinfo, const IndexKind *kind)
{
	Indexing	indexing;
	ListCell   *cell;
	bool		any;

	PreventCommandDuringRecovery(kind->drop);
	require_own_statement(fcinfo, kind->drop);
	require_history_owner();
	any = begin_indexing(&indexing, fcinfo, kind,
						 "DELETE FROM _bemi.indexes_on_demand"
						 " WHERE kind = $1 AND name = $2 RETURNING true");
	foreach(cell, read_partitions(&indexing))
	{
		any |= unindex_partition(&indexing, lfirst_oid(cell));
	}
	end_indexing(&indexing);
	if (!any)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg(kind->none_error, indexing.name),
				 errhint("%s", kind->list_hint)));
	PG_RETURN_NULL();
}

/*
 * bemi.index_context(key)
 */
Datum
bemi_index_context(PG_FUNCTION_ARGS)
{
	return create_indexes(fcinfo, &on_context);
}

/*
 * bemi.drop_index_context(key)
 */
Datum
bemi_drop_index_context(PG_FUNCTION_ARGS)
{
	return drop_indexes(fcinfo, &on_context);
}

/*
 * bemi.index_column(column_name)
 */
Datum
bemi_index_column(PG_FUNCTION_ARGS)
{
	return create_indexes(fcinfo, &on_column);
}

/*
 * bemi.drop_index_column(column_name)
 */
Datum
bemi_drop_index_column(PG_FUNCTION_ARGS)
{
	return drop_indexes(fcinfo, &on_column);
}
