/*-------------------------------------------------------------------------
 *
 * history_protect.c
 *		Keeps DROP EXTENSION from silently deleting the history.
 *
 * The history's partitions hang on bemi.changes, and that hangs on the
 * extension, so dropping the extension would drop them without a word.  An
 * event trigger looks at the command before it runs; what it needs to know,
 * CASCADE or not, is in the parse tree, which only C can see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/event_trigger.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"

#include "worker.h"

PG_FUNCTION_INFO_V1(bemi_protect_history);

/*
 * Whether DROP EXTENSION names this extension.
 */
static bool
drops_bemi(const DropStmt *statement)
{
	ListCell   *cell;

	if (statement->removeType != OBJECT_EXTENSION)
		return false;
	foreach(cell, statement->objects)
		if (strcmp(strVal(lfirst(cell)), "bemi") == 0)
			return true;
	return false;
}

/*
 * bemi.protect_history(): event trigger at the start of DROP EXTENSION.
 *
 * The workers look afterwards whether they still have work; one whose extension
 * is gone takes its slot and origin with it.
 */
Datum
bemi_protect_history(PG_FUNCTION_ARGS)
{
	EventTriggerData *trigger = (EventTriggerData *) fcinfo->context;
	DropStmt   *statement;
	bool		stored;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by event trigger manager",
						"bemi.protect_history")));
	if (!IsA(trigger->parsetree, DropStmt))
		PG_RETURN_NULL();
	statement = (DropStmt *) trigger->parsetree;
	if (!drops_bemi(statement))
		PG_RETURN_NULL();

	bemi_lock_sources(ExclusiveLock);
	bemi_wake_workers_at_commit();
	if (statement->behavior == DROP_CASCADE)
		PG_RETURN_NULL();

	SPI_connect();
	if (SPI_execute("SELECT FROM bemi.changes LIMIT 1", true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look into bemi.changes");
	stored = SPI_processed > 0;
	SPI_finish();

	if (stored)
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop extension bemi because it holds history"),
				 errdetail("Changes are stored in bemi.changes."),
				 errhint("DROP EXTENSION bemi CASCADE deletes them for ever; pg_dump --table='bemi.changes*' keeps a copy.")));
	PG_RETURN_NULL();
}
