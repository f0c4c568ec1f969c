/*-------------------------------------------------------------------------
 *
 * refuse.c
 *		Refuses DDL that the user has no right to.
 *
 * PostgreSQL allows three things that would undermine the history:
 *
 * - A trigger with arguments of bemi's sets rules.  An owner who may not untrack
 *   his table must not hide its changes by a rule, nor take a rule back.
 * - A trigger on a table of bemi runs with the rights of the extension's owner,
 *   because bemi's functions write to that table with them.
 * - The owner of publication "bemi" can take tables out of the history.  It is a
 *   publication like any other, so a role with CREATE on the database could make
 *   it before bemi does, rename one of its own to it, or be given it.
 *
 * The event triggers here run with the rights of the user who runs the
 * command, because they check these rights.  They also fire for commands that
 * do not concern bemi.  What must never happen: such a command fails.  So they
 * call no SQL function and need no privilege (see catalog.c).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_trigger.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_refuse_triggers);
PG_FUNCTION_INFO_V1(bemi_refuse_publication);
PG_FUNCTION_INFO_V1(bemi_check_publication);

/* Number of arguments that bemi.track() gives to its trigger without rules. */
#define ARGUMENTS_WITHOUT_RULES	3

/*
 * Copies a trigger's row.  Returns false if it was dropped.
 */
bool
bemi_trigger_look_up(Oid oid, FormData_pg_trigger *form)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found;

	ScanKeyInit(&key, Anum_pg_trigger_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(catalog, TriggerOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	found = HeapTupleIsValid(tuple);
	if (found)
		memcpy(form, GETSTRUCT(tuple), offsetof(FormData_pg_trigger, tgattr));
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return found;
}

/*
 * Copies the fixed part of a relation's row.  Returns false if it was dropped.
 */
static bool
copy_relation_form(Oid oid, FormData_pg_class *form)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(oid));

	if (!HeapTupleIsValid(tuple))
		return false;
	memcpy(form, GETSTRUCT(tuple), CLASS_TUPLE_SIZE);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * Refuses a trigger on a table of bemi.  Triggers on bemi.changes are allowed,
 * because only the worker writes to it, and the worker fires only triggers
 * that the table's owner has enabled, see store/user_code.c.
 */
static void
refuse_trigger_on_bemi(const FormData_pg_class *table)
{
	Oid			extension = get_extension_oid("bemi", true);

	if (table->relkind == RELKIND_PARTITIONED_TABLE ||
		has_privs_of_role(GetUserId(), table->relowner) ||
		getExtensionOfObject(RelationRelationId, table->oid) != extension)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to create trigger on table \"%s\"",
					bemi_relation_name(table->oid)),
			 errdetail("It would run with the rights of the owner of extension bemi.")));
}

/*
 * Whether a trigger sets or removes rules.  Without arguments for rules, a
 * trigger on a published table removes those that a former one had.
 */
static bool
trigger_sets_rules(Oid relation, int argument_count)
{
	return argument_count > ARGUMENTS_WITHOUT_RULES ||
		(argument_count == ARGUMENTS_WITHOUT_RULES &&
		 bemi_is_published(bemi_partition_root(relation)));
}

/*
 * Throws an error unless the current user may give bemi's trigger this many
 * arguments.
 */
static void
check_rule_setter(Oid relation, Oid owner, int argument_count)
{
	if (!trigger_sets_rules(relation, argument_count) ||
		bemi_may_track(GetUserId(), owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to set rules for table \"%s\"",
					bemi_relation_name(relation)),
			 errdetail("You must own it and have the right to call bemi.track()."),
			 errhint("GRANT EXECUTE ON FUNCTION bemi.track TO %s;",
					 quote_identifier(
									  GetUserNameFromId(GetUserId(), false)))));
}

/*
 * Throws an error if bemi.emit_context() does not work in a trigger of this
 * kind, because otherwise the application's first write would fail.
 */
void
bemi_check_trigger_kind(const FormData_pg_trigger *trigger)
{
	const char *name = NameStr(trigger->tgname);
	const char *table = bemi_relation_name(trigger->tgrelid);

	if (!TRIGGER_FOR_ROW(trigger->tgtype) &&
		TRIGGER_FOR_BEFORE(trigger->tgtype))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
			 errmsg("trigger \"%s\" of table \"%s\" cannot execute bemi.emit_context()",
					name, table),
			 errdetail("The context must be written before the rows, once for each statement."),
			 errhint("CREATE TRIGGER %s BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT"
					 " EXECUTE FUNCTION bemi.emit_context();",
					 quote_identifier(name), table)));
}

/*
 * Whether CREATE OR REPLACE has created the trigger.  Then it does not come
 * from a dump.
 */
static bool
trigger_is_replaced(const BemiCommand *command)
{
	Node	   *parsetree = command->collected->parsetree;

	return parsetree != NULL && IsA(parsetree, CreateTrigStmt) &&
		((CreateTrigStmt *) parsetree)->replace;
}

static void
check_trigger(const BemiCommand *command, Oid emit_context)
{
	FormData_pg_trigger trigger;
	FormData_pg_class table;

	if (!bemi_trigger_look_up(command->object, &trigger) ||
		!copy_relation_form(trigger.tgrelid, &table))
		return;
	refuse_trigger_on_bemi(&table);
	if (trigger.tgfoid != emit_context)
		return;
	check_rule_setter(table.oid, table.relowner, trigger.tgnargs);
	if (!trigger_is_replaced(command))
		bemi_track_restored(&trigger);
}

void
bemi_check_called_as_event_trigger(FunctionCallInfo fcinfo, const char *name)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by event trigger manager",
						name)));
}

/*
 * _bemi.refuse_triggers(): event trigger at the end of CREATE TRIGGER and
 * CREATE SCHEMA, which may have triggers in it.
 */
Datum
bemi_refuse_triggers(PG_FUNCTION_ARGS)
{
	Oid			emit_context;
	ListCell   *cell;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.refuse_triggers");
	emit_context = bemi_emit_context_oid();
	foreach(cell, bemi_collected_commands())
	{
		BemiCommand *command = lfirst(cell);

		if (command->catalog == TriggerRelationId)
			check_trigger(command, emit_context);
	}
	PG_RETURN_NULL();
}

/*
 * Owner of publication "bemi", InvalidOid if there is none.
 */
static Oid
publication_owner(Oid publication)
{
	HeapTuple	tuple =
		SearchSysCache1(PUBLICATIONOID, ObjectIdGetDatum(publication));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_publication) GETSTRUCT(tuple))->pubowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/*
 * Throws an error if the owner of publication "bemi" lacks the rights of the
 * extension's owner, "rightful".  Any superuser may own it, because pg_restore
 * --no-owner makes its user the owner.
 */
void
bemi_check_publication_owner(Oid rightful)
{
	Oid			owner = publication_owner(get_publication_oid("bemi", true));

	if (!OidIsValid(owner) || !OidIsValid(rightful) ||
		has_privs_of_role(owner, rightful))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("publication \"bemi\" must not belong to role \"%s\"",
					GetUserNameFromId(owner, false)),
			 errdetail("Its owner can take tables out of the history. It must belong to a superuser, or to a member of the role that owns extension bemi."),
			 errhint("ALTER PUBLICATION bemi OWNER TO %s;",
					 quote_identifier(GetUserNameFromId(rightful, false)))));
}

/*
 * _bemi.refuse_publication(): event trigger at the end of CREATE PUBLICATION
 * and ALTER PUBLICATION.
 */
Datum
bemi_refuse_publication(PG_FUNCTION_ARGS)
{
	Oid			publication;
	ListCell   *cell;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.refuse_publication");
	publication = get_publication_oid("bemi", true);
	foreach(cell, OidIsValid(publication) ? bemi_collected_commands() : NIL)
	{
		BemiCommand *command = lfirst(cell);

		if (command->catalog == PublicationRelationId &&
			command->object == publication)
			bemi_check_publication_owner(bemi_extension_owner());
	}
	PG_RETURN_NULL();
}

/*
 * _bemi.check_publication_owner()
 */
Datum
bemi_check_publication(PG_FUNCTION_ARGS)
{
	bemi_check_publication_owner(bemi_extension_owner());
	PG_RETURN_VOID();
}
