/*-------------------------------------------------------------------------
 *
 * drop_protection.c
 *		Keeps DROP EXTENSION from silently deleting the history.
 *
 * The partitions depend on bemi.changes, and bemi.changes is a member of the
 * extension, so DROP EXTENSION would silently drop them.  An event trigger
 * checks the command before it runs.  Whether it has CASCADE is in the parse
 * tree, which only C can read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/event_trigger.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"

#include "extension/extension.h"
#include "worker/worker_internal.h"

PG_FUNCTION_INFO_V1(bemi_protect_history);

/*
 * Whether DROP EXTENSION lists this extension.
 */
static bool
names_bemi(List *names)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		if (strcmp(strVal(lfirst(cell)), "bemi") == 0)
			return true;
	}
	return false;
}

/*
 * Whether DROP OWNED BY lists the extension's owner.
 */
static bool
names_owner(List *roles)
{
	Oid			owner = bemi_extension_owner();
	ListCell   *cell;

	foreach(cell, roles)
	{
		if (get_rolespec_oid(lfirst(cell), true) == owner)
			return true;
	}
	return false;
}

/*
 * Whether the command drops the extension.  *cascade is whether it also drops
 * what depends on it.
 */
static bool
drops_bemi(Node *command, bool *cascade)
{
	if (IsA(command, DropStmt))
	{
		DropStmt   *drop = (DropStmt *) command;

		*cascade = drop->behavior == DROP_CASCADE;
		return drop->removeType == OBJECT_EXTENSION &&
			names_bemi(drop->objects);
	}
	if (IsA(command, DropOwnedStmt))
	{
		DropOwnedStmt *drop = (DropOwnedStmt *) command;

		*cascade = drop->behavior == DROP_CASCADE;
		return names_owner(drop->roles);
	}
	return false;
}

/*
 * Whether any change is stored.
 */
static bool
holds_history(void)
{
	return bemi_sql_read_row("SELECT FROM bemi.changes", NULL, 0, NULL, 0);
}

/*
 * _bemi.protect_history(): event trigger at the start of DROP EXTENSION and
 * DROP OWNED.
 *
 * It wakes the workers at commit.  A worker without its extension drops its
 * slot and origin.
 */
Datum
bemi_protect_history(PG_FUNCTION_ARGS)
{
	EventTriggerData *trigger = (EventTriggerData *) fcinfo->context;
	bool		cascade;

	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by event trigger manager",
						"_bemi.protect_history")));
	if (!drops_bemi(trigger->parsetree, &cascade))
		PG_RETURN_NULL();

	bemi_lock_sources(ExclusiveLock);
	bemi_wake_workers_at_commit();
	if (!cascade && holds_history())
		ereport(ERROR,
				(errcode(ERRCODE_DEPENDENT_OBJECTS_STILL_EXIST),
				 errmsg("cannot drop extension bemi because it holds history"),
				 errdetail("Changes are stored in bemi.changes."),
				 errhint("DROP EXTENSION bemi CASCADE deletes them for ever; pg_dump --table='_bemi.changes_*' keeps a copy.")));
	PG_RETURN_NULL();
}
