/*-------------------------------------------------------------------------
 *
 * user_code.c
 *		Runs users' code on bemi.changes with the rights of its owner.
 *
 * The worker is a superuser. bemi.changes is a table like others, so users can
 * add code to it: defaults, also of domains, generated columns, CHECK
 * constraints, expressions and conditions of indexes, and triggers.  Input:
 * partitions that are being opened (partition.c).  Output: which of this code
 * runs and as which role, and the functions bemi_code_enter() and
 * bemi_code_leave() around it.
 *
 * - The code runs as the table's owner, in a security-restricted operation.
 *	 Settings that it changes are restored at the end, as in native logical
 *	 replication.
 * - The owner must have agreed to it.  Only the owner can add code, except
 *	 triggers: the right TRIGGER is enough for those.  So the worker has
 *	 session_replication_role = replica, and fires a trigger only if the owner
 *	 has set it to ENABLE ALWAYS or ENABLE REPLICA.  CREATE OR REPLACE TRIGGER
 *	 resets that.
 * - The owner of a function can replace its body later.  So a trigger does not
 *	 fire if its function, or a function in its WHEN, belongs to neither the
 *	 table's owner nor a superuser.  Expressions cannot be skipped.  So if an
 *	 expression calls such a function, the worker fails before the server
 *	 evaluates any part of it.  This includes the creation of a partition, which
 *	 evaluates constant parts.
 *
 * Constraints are not users' code.  Foreign keys and deferrable unique
 * constraints are triggers of the server, and are checked.  Nothing is
 * deferred, because that is forbidden in a security-restricted operation, and
 * would run at the worker's commit, as the worker.
 *
 * The common case costs nothing: without such code, there is no switch of the
 * role.  bemi's own indexes have expressions and conditions, too, of a few of
 * the server's functions and one of bemi's, which need no switch.  The
 * decisions are made once for each opened partition, and are in its memory.
 *
 * What must never happen: a function that a role could have written runs with
 * rights that this role lacks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "store/store_internal.h"

PG_FUNCTION_INFO_V1(bemi_check_history_code);

struct BemiCode
{
	Oid			role;			/* that the code runs as */
	char	   *partition;		/* its name */
	StringInfoData triggers;	/* that fire, for a hint */

	/* while it runs */
	BemiRights	caller;
	ErrorContextCallback context;
};

/* The owners of functions that an expression calls. */
typedef struct Functions
{
	Oid			owner;			/* of the table */
	Oid			untrusted_owner;	/* another owner; InvalidOid: none */
	Oid			untrusted_function; /* his function */
	Oid			untrusted_domain;	/* or his domain */
} Functions;

/*
 * OIDs of triggers that do not fire, which was logged; kept until the process
 * ends.
 */
static List *reported = NIL;

/*
 * The one with fewer rights of two owners: that of a partition, and that of
 * bemi.changes, whose expressions and triggers the partition has inherited.
 */
static Oid
lesser_owner(Oid partition_owner, Oid history_owner)
{
	if (superuser_arg(partition_owner) && !superuser_arg(history_owner))
		return history_owner;
	return partition_owner;
}

/*
 * Whether a role's functions may run with the rights of the table's owner.
 */
static bool
owner_is_trusted(Oid role, Oid owner)
{
	return role == owner || superuser_arg(role);
}

static Oid
function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

static Oid
type_owner(Oid type)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	owner = ((Form_pg_type) GETSTRUCT(tuple))->typowner;
	ReleaseSysCache(tuple);
	return owner;
}

static void
check_function_owner(Functions *functions, Oid owner, Oid function, Oid domain)
{
	if (OidIsValid(functions->untrusted_owner) ||
		owner_is_trusted(owner, functions->owner))
		return;
	functions->untrusted_owner = owner;
	functions->untrusted_function = function;
	functions->untrusted_domain = domain;
}

/*
 * Callback of check_functions_in_node(): checks a function that an expression
 * calls.
 */
static bool
check_function(Oid function, void *functions)
{
	if (function >= FirstNormalObjectId)
		check_function_owner(functions, function_owner(function), function,
							 InvalidOid);
	return false;
}

static bool check_functions(Node *node, void *functions);

/*
 * The constraints of a domain, as trees of expressions.
 */
static List *
domain_constraints(Oid domain)
{
	Relation	catalog = table_open(ConstraintRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *expressions = NIL;

	ScanKeyInit(&key, Anum_pg_constraint_contypid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(domain));
	scan = systable_beginscan(catalog, ConstraintTypidIndexId, true, NULL, 1,
							  &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		is_null;
		Datum		expression =
			heap_getattr(tuple, Anum_pg_constraint_conbin,
						 RelationGetDescr(catalog), &is_null);

		if (!is_null)
			expressions =
				lappend(expressions,
						stringToNode(TextDatumGetCString(expression)));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return expressions;
}

/*
 * The type below a domain, which may be a domain, too.
 */
static Oid
base_type_of(Oid domain)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(domain));
	Oid			base;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", domain);
	base = ((Form_pg_type) GETSTRUCT(tuple))->typbasetype;
	ReleaseSysCache(tuple);
	return base;
}

/*
 * Checks a domain, the domains below it, and the functions of their
 * constraints.  The owner of a domain counts like the owner of a function,
 * because he can add constraints.
 */
static void
check_domain(Oid type, Functions *functions)
{
	for (; get_typtype(type) == TYPTYPE_DOMAIN; type = base_type_of(type))
	{
		check_function_owner(functions, type_owner(type), InvalidOid, type);
		(void) check_functions((Node *) domain_constraints(type), functions);
	}
}

/*
 * Expression walker: checks all functions in a tree.
 */
static bool
check_functions(Node *node, void *functions)
{
	if (node == NULL)
		return false;
	(void) check_functions_in_node(node, check_function, functions);
	if (IsA(node, CoerceToDomain))
		check_domain(((CoerceToDomain *) node)->resulttype, functions);
	return expression_tree_walker(node, check_functions, functions);
}

static void
check_expression(const char *expression, Functions *functions)
{
	(void) check_functions(stringToNode(expression), functions);
}

/*
 * Callback of check_functions_in_node(): whether this is no function of the
 * indexes that bemi creates.
 */
static bool
is_other_function(Oid function, void *unused)
{
	return function != F_TEXTEQ && function != F_LEFT &&
		function != F_JSONB_OBJECT_FIELD_TEXT &&
		function != bemi_column_is_changed_oid();
}

/*
 * Expression walker: whether a tree has anything that the indexes of bemi do
 * not have.
 */
static bool
is_users_expression(Node *node, void *unused)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_List:
		case T_Var:
		case T_Const:
		case T_NullTest:
			break;
		case T_OpExpr:
		case T_FuncExpr:
			if (check_functions_in_node(node, is_other_function, NULL))
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, is_users_expression, NULL);
}

/*
 * Checks the functions of an index's expressions and condition.  They are read
 * from the catalog, because the relation cache evaluates constant parts when
 * it loads them.  Returns false if the index has none, or only such as bemi's
 * own indexes have.
 */
static bool
check_index(Oid index, Functions *functions)
{
	static const AttrNumber parts[] = {Anum_pg_index_indexprs,
	Anum_pg_index_indpred};
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		found = false;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	for (int i = 0; i < lengthof(parts); i++)
	{
		bool		is_null;
		Datum		part =
			SysCacheGetAttr(INDEXRELID, tuple, parts[i], &is_null);
		Node	   *expression;

		if (is_null)
			continue;
		expression = stringToNode(TextDatumGetCString(part));
		(void) check_functions(expression, functions);
		found |= is_users_expression(expression, NULL);
	}
	ReleaseSysCache(tuple);
	return found;
}

/*
 * Checks the functions of the default that a column gets from its domain.
 * Returns false if there is none.
 */
static bool
check_domain_default(Form_pg_attribute column, Functions *functions)
{
	Node	   *expression = NULL;

	if (!column->attisdropped && !column->atthasdef && !column->attidentity)
		expression = get_typdefault(column->atttypid);
	if (expression == NULL)
		return false;
	(void) check_functions(expression, functions);
	check_domain(column->atttypid, functions);
	return true;
}

/*
 * Checks the functions of all expressions of a table.  Returns false if there
 * are none.
 */
static bool
check_table(Relation table, Functions *functions)
{
	TupleConstr *constraints = RelationGetDescr(table)->constr;
	List	   *indexes = RelationGetIndexList(table);
	bool		found = constraints != NULL &&
		(constraints->num_defval > 0 || constraints->num_check > 0);
	ListCell   *cell;

	for (int i = 0; constraints != NULL && i < constraints->num_defval; i++)
		check_expression(constraints->defval[i].adbin, functions);
	for (int i = 0; constraints != NULL && i < constraints->num_check; i++)
		check_expression(constraints->check[i].ccbin, functions);
	for (int i = 0; i < RelationGetNumberOfAttributes(table); i++)
		found |=
			check_domain_default(TupleDescAttr(RelationGetDescr(table), i),
								 functions);
	foreach(cell, indexes)
	{
		found |= check_index(lfirst_oid(cell), functions);
	}
	list_free(indexes);
	return found;
}

/*
 * Checks the expressions of a table before any of them is evaluated.  Throws
 * an error if one depends on an untrusted role.  Returns false if there are
 * none.
 */
static bool
check_expressions(Relation table, Functions *functions)
{
	bool		found = check_table(table, functions);

	if (!OidIsValid(functions->untrusted_owner))
		return found;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("an expression of table \"%s\" depends on another role",
					RelationGetRelationName(table)),
			 errdetail("It calls a function or uses a domain of \"%s\", who can replace it. The table belongs to \"%s\".",
					   GetUserNameFromId(functions->untrusted_owner,
										 true),
					   GetUserNameFromId(functions->owner, true)),
			 OidIsValid(functions->untrusted_function) ?
			 errhint("ALTER FUNCTION %s OWNER TO %s;",
					 format_procedure(
									  functions->untrusted_function),
					 quote_identifier(
									  GetUserNameFromId(functions->owner,
														false))) :
			 errhint("ALTER DOMAIN %s OWNER TO %s;",
					 format_type_be_qualified(
											  functions->untrusted_domain),
					 quote_identifier(
									  GetUserNameFromId(functions->owner,
														false)))));
}

/*
 * Whether the worker's inserts could fire a trigger.
 */
static bool
trigger_is_for_inserts(const Trigger *trigger)
{
	return TRIGGER_FOR_ROW(trigger->tgtype) &&
		TRIGGER_FOR_INSERT(trigger->tgtype);
}

/*
 * Whether all functions that a trigger calls are trusted.  If not, *functions
 * has the untrusted one.
 */
static bool
is_trusted_trigger(const BemiCode *code, const Trigger *trigger,
				   Functions *functions)
{
	functions->owner = code->role;
	(void) check_function(trigger->tgfoid, functions);
	if (trigger->tgqual != NULL)
		check_expression(trigger->tgqual, functions);
	return !OidIsValid(functions->untrusted_owner);
}

/*
 * Logs once that a trigger does not fire.
 */
static void
report_trigger(const BemiCode *code, const Trigger *trigger,
			   const Functions *functions)
{
	MemoryContext caller;

	if (list_member_oid(reported, trigger->tgoid))
		return;
	caller = MemoryContextSwitchTo(TopMemoryContext);
	reported = lappend_oid(reported, trigger->tgoid);
	MemoryContextSwitchTo(caller);

	if (trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN)
		ereport(LOG,
				(errmsg("bemi: trigger \"%s\" of bemi.changes does not fire",
						trigger->tgname),
				 errdetail("The worker fires only triggers that the table's owner has enabled with ENABLE ALWAYS or ENABLE REPLICA."),
				 errhint("ALTER TABLE bemi.changes ENABLE ALWAYS TRIGGER %s;",
						 quote_identifier(trigger->tgname))));
	else
		ereport(LOG,
				(errmsg("bemi: trigger \"%s\" of bemi.changes does not fire",
						trigger->tgname),
				 errdetail("It calls functions that belong to neither \"%s\" nor a superuser.",
						   GetUserNameFromId(code->role, true)),
				 OidIsValid(functions->untrusted_function) ?
				 errhint("ALTER FUNCTION %s OWNER TO %s;",
						 format_procedure(
										  functions->untrusted_function),
						 quote_identifier(
										  GetUserNameFromId(code->role,
															true))) :
				 0));
}

/*
 * Whether a trigger is a built-in one that checks a constraint.
 */
static bool
trigger_is_constraint(const Trigger *trigger)
{
	return bemi_trigger_is_internal(trigger) &&
		(RI_FKey_trigger_type(trigger->tgfoid) != RI_TRIGGER_NONE ||
		 trigger->tgfoid == F_UNIQUE_KEY_RECHECK);
}

/*
 * Decides about one trigger of our copy.  Returns true if it may fire.
 */
static bool
choose_trigger(BemiCode *code, Trigger *trigger)
{
	Functions	functions = {0};

	trigger->tgdeferrable = trigger->tginitdeferred = false;
	if (!trigger_is_for_inserts(trigger))
		return false;
	if (trigger_is_constraint(trigger))
	{
		if (trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN)
			trigger->tgenabled = TRIGGER_FIRES_ALWAYS;
		return true;
	}
	if (trigger->tgenabled == TRIGGER_DISABLED)
		return false;
	if (trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN ||
		!is_trusted_trigger(code, trigger, &functions))
	{
		report_trigger(code, trigger, &functions);
		trigger->tgenabled = TRIGGER_DISABLED;
		return false;
	}
	appendStringInfo(&code->triggers, "%s%s (%s)",
					 code->triggers.len > 0 ? ", " : "",
					 quote_identifier(trigger->tgname),
					 format_procedure(trigger->tgfoid));
	return true;
}

/*
 * Decides which triggers fire, in the copy of the open partition.  If none
 * does, the copy gets no triggers.
 */
static void
choose_triggers(BemiCode *code, ResultRelInfo *target)
{
	bool		any = false;

	for (int i = 0;
		 target->ri_TrigDesc != NULL && i < target->ri_TrigDesc->numtriggers;
		 i++)
		any |= choose_trigger(code, &target->ri_TrigDesc->triggers[i]);
	if (!any)
		target->ri_TrigDesc = NULL;
}

/*
 * Describes the code of a partition that is being opened, before any of it
 * runs, and disables the triggers that must not fire.  Returns NULL if there
 * is no code to run, otherwise a description in the current memory context.
 * "history_owner" is the owner of bemi.changes.
 */
BemiCode *
bemi_code_of(ResultRelInfo *target, Oid history_owner)
{
	Relation	partition = target->ri_RelationDesc;
	Functions	functions = {
	.owner = lesser_owner(partition->rd_rel->relowner, history_owner)};
	bool		expressions = check_expressions(partition, &functions);
	BemiCode   *code;

	if (!expressions && target->ri_TrigDesc == NULL)
		return NULL;
	code = palloc0(sizeof(BemiCode));
	code->role = functions.owner;
	code->partition = pstrdup(RelationGetRelationName(partition));
	initStringInfo(&code->triggers);
	choose_triggers(code, target);
	return expressions || target->ri_TrigDesc != NULL ? code : NULL;
}

/*
 * _bemi.check_history_code(): throws an error if an expression of bemi.changes
 * must not be evaluated.  A new partition inherits these expressions.
 */
Datum
bemi_check_history_code(PG_FUNCTION_ARGS)
{
	Relation	changes = table_open(bemi_own_table("changes"), AccessShareLock);
	Functions	functions = {.owner = changes->rd_rel->relowner};

	(void) check_expressions(changes, &functions);
	table_close(changes, AccessShareLock);
	PG_RETURN_VOID();
}

/*
 * Whether users' code may have caused an error.  Errors that come from the
 * state of the server do not count, nor do messages that are not errors.
 */
static bool
error_may_be_of_user_code(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category != ERRCODE_SUCCESSFUL_COMPLETION &&
		category != ERRCODE_WARNING && category != ERRCODE_NO_DATA &&
		category != ERRCODE_INSUFFICIENT_RESOURCES &&
		category != ERRCODE_OPERATOR_INTERVENTION &&
		category != ERRCODE_SYSTEM_ERROR;
}

/*
 * Error context callback: adds the code that may be at fault.  Without it, the
 * worker's last error would not show that users' code was running.
 */
static void
user_code_error_callback(void *arg)
{
	BemiCode   *code = arg;

	errcontext("storing changes in partition \"%s\" with the rights of its owner",
			   code->partition);
	if (!error_may_be_of_user_code(geterrcode()))
		return;
	if (code->triggers.len > 0)
		errhint("These triggers of bemi.changes have run: %s. To go on without one: ALTER TABLE bemi.changes DISABLE TRIGGER ...;",
				code->triggers.data);
	else
		errhint("The cause may be a default, generated column, CHECK constraint or index expression of bemi.changes.");
}

/*
 * Switches to the owner of bemi.changes, to read from it.  Planning a query
 * evaluates constant parts of the expressions of the table and its partitions.
 * Throws an error if one of these depends on another role, such as the owner
 * of a partition.
 */
void
bemi_act_as_history_reader(BemiRights *caller)
{
	Oid			changes = bemi_own_table("changes");
	List	   *tables = find_all_inheritors(changes, AccessShareLock, NULL);
	Functions	functions = {0};
	ListCell   *cell;

	foreach(cell, tables)
	{
		Relation	table = table_open(lfirst_oid(cell), NoLock);

		if (RelationGetRelid(table) == changes)
			functions.owner = table->rd_rel->relowner;
		(void) check_expressions(table, &functions);
		table_close(table, NoLock);
	}
	list_free(tables);
	bemi_act_restricted_as(functions.owner, caller);
}

/*
 * Switches to the role that runs the code of a partition; NULL does nothing.
 */
void
bemi_code_enter(BemiCode *code)
{
	if (code == NULL)
		return;
	bemi_act_restricted_as(code->role, &code->caller);
	code->context.callback = user_code_error_callback;
	code->context.arg = code;
	code->context.previous = error_context_stack;
	error_context_stack = &code->context;
}

/*
 * Switches back.  After an error, the end of the transaction does this.
 */
void
bemi_code_leave(BemiCode *code)
{
	if (code == NULL)
		return;
	error_context_stack = code->context.previous;
	bemi_act_as_before(&code->caller);
}

/*
 * Users' event triggers that fire with the worker's DDL, palloc'd; NULL: none.
 * Only those that are enabled for replicas fire in the worker; from PostgreSQL
 * 17 on, none.
 */
static char *
event_triggers_of_others(void)
{
	BemiValue	names = {.type = TEXTOID};

	(void) bemi_sql_read_row("SELECT _bemi.event_triggers_of_others()", NULL,
							 0, &names, 1);
	return bemi_sql_text_of(&names);
}

/*
 * Error context callback: adds the event triggers that may be at fault.
 */
static void
event_trigger_error_callback(void *arg)
{
	BemiDdl    *ddl = arg;

	if (error_may_be_of_user_code(geterrcode()))
		errhint("These event triggers have run with the worker's DDL: %s. To go on without one: ALTER EVENT TRIGGER ... ENABLE;",
				ddl->event_triggers);
}

/*
 * Begins DDL of the worker.  Errors until its end name the event triggers that
 * may be at fault.
 */
void
bemi_ddl_enter(BemiDdl *ddl)
{
	ddl->event_triggers = event_triggers_of_others();
	ddl->context.callback = event_trigger_error_callback;
	ddl->context.arg = ddl;
	ddl->context.previous = error_context_stack;
	if (ddl->event_triggers != NULL)
		error_context_stack = &ddl->context;
}

void
bemi_ddl_leave(BemiDdl *ddl)
{
	error_context_stack = ddl->context.previous;
}
