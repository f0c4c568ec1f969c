/*-------------------------------------------------------------------------
 *
 * command.c
 *		Reads what a DDL command has done, for the event triggers.
 *
 * The server's event_trigger.c keeps the list of objects that a command has
 * created, altered or dropped.  Only two set-returning functions return it:
 * pg_event_trigger_ddl_commands() and pg_event_trigger_dropped_objects().
 * They are called here directly, not in a query, so the user's rights and
 * search_path do not matter.  What must never happen: a user's DDL fails
 * because their EXECUTE privilege was revoked.  Results are in the current
 * memory context.
 *
 * Each row of the first function has the collected command itself, with its
 * parse tree and, for ALTER TABLE, the subcommands.  They show which table a
 * command has attached or detached.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication_rel.h"
#include "catalog/pg_type_d.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/parsenodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

#include "track/track_internal.h"

/* The columns of pg_event_trigger_ddl_commands() that are used here. */
#define COMMAND_CLASSID			1
#define COMMAND_OBJID			2
#define COMMAND_OBJSUBID		3
#define COMMAND_IN_EXTENSION	8
#define COMMAND_COMMAND			9

/* The columns of pg_event_trigger_dropped_objects(). */
#define DROPPED_CLASSID			1
#define DROPPED_OBJID			2
#define DROPPED_IS_TEMPORARY	6
#define DROPPED_OBJECT_TYPE		7
#define DROPPED_IDENTITY		10
#define DROPPED_ADDRESS_NAMES	11
#define DROPPED_ADDRESS_ARGS	12

typedef struct ResultRows
{
	ReturnSetInfo result;
	TupleTableSlot *row;
} ResultRows;

/*
 * Calls a function of the server without arguments that returns a set.
 */
static void
open_command_rows(Oid oid, ResultRows *rows)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	function;

	memset(rows, 0, sizeof(*rows));
	rows->result.type = T_ReturnSetInfo;
	rows->result.econtext = CreateStandaloneExprContext();
	rows->result.allowedModes = SFRM_Materialize;
	rows->result.returnMode = SFRM_Materialize;

	fmgr_info_cxt(oid, &function,
				  rows->result.econtext->ecxt_per_query_memory);
	InitFunctionCallInfoData(*fcinfo, &function, 0, InvalidOid, NULL,
							 (Node *) &rows->result);
	(void) FunctionCallInvoke(fcinfo);
	rows->row =
		MakeSingleTupleTableSlot(rows->result.setDesc, &TTSOpsMinimalTuple);
}

static bool
next_command_row(ResultRows *rows)
{
	return tuplestore_gettupleslot(rows->result.setResult, true, false,
								   rows->row);
}

static void
close_command_rows(ResultRows *rows)
{
	ExecDropSingleTupleTableSlot(rows->row);
	tuplestore_end(rows->result.setResult);
	FreeExprContext(rows->result.econtext, true);
}

/*
 * One row of the result.
 */
static BemiCommand *
read_command(TupleTableSlot *row)
{
	BemiCommand *command = palloc0(sizeof(BemiCommand));
	bool		is_null;

	slot_getallattrs(row);
	if (!row->tts_isnull[COMMAND_CLASSID - 1])
	{
		command->catalog =
			DatumGetObjectId(slot_getattr(row, COMMAND_CLASSID, &is_null));
		command->object =
			DatumGetObjectId(slot_getattr(row, COMMAND_OBJID, &is_null));
		command->subobject =
			DatumGetInt32(slot_getattr(row, COMMAND_OBJSUBID, &is_null));
	}
	command->in_extension =
		DatumGetBool(slot_getattr(row, COMMAND_IN_EXTENSION, &is_null));
	command->collected = (CollectedCommand *) DatumGetPointer(
															  slot_getattr(row, COMMAND_COMMAND, &is_null));
	return command;
}

/*
 * The BemiCommands of the command that the running event trigger was fired for
 * (at ddl_command_end), in the current memory context.
 */
List *
bemi_collected_commands(void)
{
	List	   *commands = NIL;
	ResultRows	rows;

	open_command_rows(F_PG_EVENT_TRIGGER_DDL_COMMANDS, &rows);
	while (next_command_row(&rows))
		commands = lappend(commands, read_command(rows.row));
	close_command_rows(&rows);
	return commands;
}

/*
 * OIDs of the objects of one catalog that the command has dropped (at
 * sql_drop).
 */
List *
bemi_dropped_objects(Oid catalog)
{
	List	   *objects = NIL;
	ResultRows	rows;

	open_command_rows(F_PG_EVENT_TRIGGER_DROPPED_OBJECTS, &rows);
	while (next_command_row(&rows))
	{
		bool		is_null;

		if (DatumGetObjectId(slot_getattr(rows.row, DROPPED_CLASSID,
										  &is_null)) == catalog)
			objects =
				lappend_oid(objects,
							DatumGetObjectId(slot_getattr(rows.row,
														  DROPPED_OBJID,
														  &is_null)));
	}
	close_command_rows(&rows);
	return objects;
}

/*
 * An element of an array of texts, palloc'd; NULL if there is none.
 */
static char *
command_text(TupleTableSlot *row, int column, int element)
{
	bool		is_null;
	Datum		array = slot_getattr(row, column, &is_null);
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	if (is_null)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &count);
	return element < count && !nulls[element] ?
		TextDatumGetCString(elements[element]) :
		NULL;
}

/*
 * Whether a row is about a table that may have been a partition of a tracked
 * one.
 */
static bool
is_lasting_table(TupleTableSlot *row)
{
	bool		is_null;
	char	   *type =
		TextDatumGetCString(slot_getattr(row, DROPPED_OBJECT_TYPE, &is_null));

	return !DatumGetBool(slot_getattr(row, DROPPED_IS_TEMPORARY, &is_null)) &&
		(strcmp(type, "table") == 0 || strcmp(type, "foreign table") == 0);
}

/*
 * One row of the result; NULL if it is about neither a table nor a row of a
 * publication.
 */
static BemiDropped *
read_dropped(TupleTableSlot *row)
{
	bool		is_null;
	Oid			catalog =
		DatumGetObjectId(slot_getattr(row, DROPPED_CLASSID, &is_null));
	Datum		identity = slot_getattr(row, DROPPED_IDENTITY, &is_null);
	BemiDropped *dropped;

	if (is_null || (catalog != PublicationRelRelationId &&
					(catalog != RelationRelationId || !is_lasting_table(row))))
		return NULL;
	dropped = palloc0(sizeof(BemiDropped));
	dropped->catalog = catalog;
	dropped->object =
		DatumGetObjectId(slot_getattr(row, DROPPED_OBJID, &is_null));
	dropped->identity = TextDatumGetCString(identity);
	if (catalog == PublicationRelRelationId)
	{
		dropped->publication = command_text(row, DROPPED_ADDRESS_ARGS, 0);
		dropped->schema = command_text(row, DROPPED_ADDRESS_NAMES, 0);
		dropped->table = command_text(row, DROPPED_ADDRESS_NAMES, 1);
	}
	return dropped;
}

/*
 * The tables and rows of publications that the command has dropped (at
 * sql_drop), as BemiDropped.
 */
List *
bemi_dropped_tables(void)
{
	List	   *objects = NIL;
	ResultRows	rows;

	open_command_rows(F_PG_EVENT_TRIGGER_DROPPED_OBJECTS, &rows);
	while (next_command_row(&rows))
	{
		BemiDropped *dropped = read_dropped(rows.row);

		if (dropped != NULL)
			objects = lappend(objects, dropped);
	}
	close_command_rows(&rows);
	return objects;
}

/*
 * Whether this transaction has deleted a version of a row, or replaced it by
 * another.  To lock it is neither.
 */
static bool
is_replaced(HeapTuple row)
{
	return (row->t_data->t_infomask & HEAP_XMAX_INVALID) == 0 &&
		!HEAP_XMAX_IS_LOCKED_ONLY(row->t_data->t_infomask) &&
		TransactionIdIsCurrentTransactionId(
											HeapTupleHeaderGetUpdateXid(row->t_data));
}

/*
 * Whether it has deleted the row.  A version that was updated before is linked
 * to the next one.
 */
static bool
is_deleted(HeapTuple row)
{
	return is_replaced(row) &&
		ItemPointerEquals(&row->t_self, &row->t_data->t_ctid);
}

/*
 * Versions of rows that are no longer valid for this transaction, because of
 * what it has done.  The index finds them by the OID in its first column.
 */
static List *
former_rows(Oid catalog, Oid index, AttrNumber column, Oid oid,
			bool (*is_former) (HeapTuple row))
{
	List	   *former = NIL;
	ListCell   *cell;

	foreach(cell, bemi_catalog_rows(catalog, index, column, oid, SnapshotAny))
	{
		if (is_former(lfirst(cell)))
			former = lappend(former, lfirst(cell));
	}
	return former;
}

/*
 * The rows of a catalog that this transaction has deleted, as they were at
 * last.
 */
List *
bemi_deleted_rows(Oid catalog, Oid index, AttrNumber column, Oid oid)
{
	return former_rows(catalog, index, column, oid, is_deleted);
}

/*
 * Those that it has deleted or replaced, as they were at any time.
 */
List *
bemi_replaced_rows(Oid catalog, Oid index, AttrNumber column, Oid oid)
{
	return former_rows(catalog, index, column, oid, is_replaced);
}

/*
 * The same for a column that is unique: NULL if there is none.
 */
HeapTuple
bemi_deleted_row(Oid catalog, Oid index, AttrNumber column, Oid oid)
{
	List	   *deleted = bemi_deleted_rows(catalog, index, column, oid);

	return deleted != NIL ? linitial(deleted) : NULL;
}

static bool
concerns_partition(const AlterTableCmd *subcommand, bool attached)
{
	if (attached)
		return subcommand->subtype == AT_AttachPartition;
	return subcommand->subtype == AT_DetachPartition ||
		subcommand->subtype == AT_DetachPartitionFinalize;
}

/*
 * The table that a subcommand has attached or detached.  Before PostgreSQL 16
 * the server provides only its name, which may belong to another table by now.
 * Its lock shows that it is the right one.
 */
static Oid
concerned_partition(const CollectedATSubcmd *subcommand)
{
	const RangeVar *name =
		((PartitionCmd *) ((AlterTableCmd *) subcommand->parsetree)->def)
		->name;
	Oid			partition = subcommand->address.objectId;

	if (OidIsValid(partition))
		return partition;
	partition = RangeVarGetRelid(name, NoLock, true);
	if (!OidIsValid(partition) || !bemi_is_locked(partition))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("partition \"%s\" was renamed while a command was working on it",
						name->relname),
				 errhint("Try the command again.")));
	return partition;
}

/*
 * OIDs of the tables that a command has attached as partitions, or detached.
 * Must be called with the rights of the user, because the meaning of names
 * depends on them.
 */
List *
bemi_command_partitions(const CollectedCommand *command, bool attached)
{
	List	   *partitions = NIL;
	ListCell   *cell;

	if (command->type != SCT_AlterTable)
		return NIL;
	foreach(cell, command->d.alterTable.subcmds)
	{
		const CollectedATSubcmd *subcommand = lfirst(cell);

		if (IsA(subcommand->parsetree, AlterTableCmd) &&
			concerns_partition((AlterTableCmd *) subcommand->parsetree,
							   attached))
			partitions =
				lappend_oid(partitions, concerned_partition(subcommand));
	}
	return partitions;
}
