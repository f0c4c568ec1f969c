/*-------------------------------------------------------------------------
 *
 * track_command.c
 *		What a DDL command has done, for the event triggers that are written in C.
 *
 * The server keeps the list of objects that a command has made or altered in
 * event_trigger.c, and gives it out by one way only: the set-returning function
 * pg_event_trigger_ddl_commands().  It is called here directly, not in a query,
 * so its caller's rights and search_path are of no consequence: a REVOKE of
 * its EXECUTE privilege must not make other people's DDL fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/fmgroids.h"

#include "track.h"

/* The columns of pg_event_trigger_ddl_commands() that are of use here. */
#define COMMAND_CLASSID			1
#define COMMAND_OBJID			2
#define COMMAND_OBJSUBID		3
#define COMMAND_IN_EXTENSION	8
#define COMMAND_COMMAND			9

/*
 * Calls pg_event_trigger_ddl_commands().  Its result is allocated in "econtext".
 */
static void
call_ddl_commands(ReturnSetInfo *result, ExprContext *econtext)
{
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	function;

	memset(result, 0, sizeof(*result));
	result->type = T_ReturnSetInfo;
	result->econtext = econtext;
	result->allowedModes = SFRM_Materialize;
	result->returnMode = SFRM_Materialize;

	fmgr_info_cxt(F_PG_EVENT_TRIGGER_DDL_COMMANDS, &function,
				  econtext->ecxt_per_query_memory);
	InitFunctionCallInfoData(*fcinfo, &function, 0, InvalidOid, NULL, (Node *) result);
	(void) FunctionCallInvoke(fcinfo);
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
		command->catalog = DatumGetObjectId(slot_getattr(row, COMMAND_CLASSID, &is_null));
		command->object = DatumGetObjectId(slot_getattr(row, COMMAND_OBJID, &is_null));
		command->subobject = DatumGetInt32(slot_getattr(row, COMMAND_OBJSUBID, &is_null));
	}
	command->in_extension = DatumGetBool(slot_getattr(row, COMMAND_IN_EXTENSION, &is_null));
	command->collected = (CollectedCommand *) DatumGetPointer(slot_getattr(row, COMMAND_COMMAND, &is_null));
	return command;
}

/*
 * The BemiCommands of the command that the running event trigger was fired for
 * (at ddl_command_end), in the current memory context.
 */
List *
bemi_collected_commands(void)
{
	ExprContext *econtext = CreateStandaloneExprContext();
	List	   *commands = NIL;
	ReturnSetInfo result;
	TupleTableSlot *row;

	call_ddl_commands(&result, econtext);
	row = MakeSingleTupleTableSlot(result.setDesc, &TTSOpsMinimalTuple);
	while (tuplestore_gettupleslot(result.setResult, true, false, row))
		commands = lappend(commands, read_command(row));
	ExecDropSingleTupleTableSlot(row);
	tuplestore_end(result.setResult);
	FreeExprContext(econtext, true);
	return commands;
}
