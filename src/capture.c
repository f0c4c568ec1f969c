/*-------------------------------------------------------------------------
 *
 * capture.c
 *		Puts the context into the WAL, next to the rows that a statement
 *		changes.
 *
 * In flows the context of a statement (context.c); out flows one logical
 * message, transactional, prefix "_bemi", whose content is the context's
 * JSON text.  The stream's reader gives a change the nearest message before
 * it in the same transaction, so a message must stand before the rows it
 * explains, and must be written again when another statement's rows follow.
 *
 * A message costs a transaction id and a flushed commit, which a statement
 * that changes nothing should not pay: polling queries do that all day.
 * Hence two steps.  When the executor starts a statement that modifies a
 * tracked table, the plan node that feeds the modification is "armed": its
 * ExecProcNode is replaced by ours.  The statement trigger then finds its
 * statement armed and only takes down the context; the message is written
 * when the node yields its first row.  Where there is no plan node (COPY,
 * TRUNCATE), or this library was not yet loaded when the executor started,
 * the trigger writes at once.
 *
 * The trigger decides, not the hook: whether the trigger is enabled, what its
 * WHEN says, and what session_replication_role makes of it is the server's
 * business.  Only where a statement names a parent and the rows belong to a
 * tracked child does no trigger fire; there the hook asks in its stead.
 *
 * An armed statement lives in its query's memory context and leaves the list
 * when that context is deleted, on success and on error alike.  What must
 * never happen: a list entry that outlives its query, or "a message stands in
 * this transaction" remembered across the rollback of that message.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "commands/trigger.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "bemi.h"

PG_FUNCTION_INFO_V1(bemi_emit_context);

/*
 * A running statement that will write its message with its first row.
 */
typedef struct ArmedStatement
{
	dlist_node	link;			/* in armed_statements */
	MemoryContextCallback on_end;	/* takes the link out */
	MemoryContext memory;		/* the query's own, holds this struct too */
	const char *query;			/* the statement's text */

	PlanState  *feeder;			/* node below ModifyTable */
	ExecProcNodeMtd produce;	/* what the feeder ran before we came */
	TriggerDesc *triggers;		/* of the table that the statement names */

	bool		wanted;			/* a trigger asked for the message */
	const char *context;		/* taken down when it asked; NULL: none */
} ArmedStatement;

static dlist_head armed_statements = DLIST_STATIC_INIT(armed_statements);

/*
 * Nest level of the outermost subtransaction that holds a message which is
 * still valid; 0 if the transaction has none.
 */
static int	message_level = 0;

/* OID of bemi.emit_context() in this database, InvalidOid without bemi. */
static Oid	emit_context_oid = InvalidOid;
static bool emit_context_oid_known = false;

static ExecutorStart_hook_type prev_ExecutorStart = NULL;

static TupleTableSlot *produce_first_row(PlanState *feeder);

/*
 * Writes the message for rows that follow in the WAL.  Without a context
 * nothing needs to be said, unless rows would inherit an earlier message.
 */
static void
write_message(const char *context)
{
	if (!XLogLogicalInfoActive())
		return;					/* nobody could ever read it */

	if (context == NULL)
	{
		if (message_level == 0)
			return;
		context = "{}";
	}

	(void) bemi_log_message(BEMI_MESSAGE_PREFIX, context, strlen(context), true);
	if (message_level == 0)
		message_level = GetCurrentTransactionNestLevel();
}

/*
 * The end of the transaction, in whatever way, ends its messages' reach.
 */
static void
forget_messages(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			message_level = 0;
			break;
		default:
			break;
	}
}

/*
 * A subtransaction hands its messages to its parent, or takes them along when
 * it is rolled back.
 */
static void
move_messages(SubXactEvent event, SubTransactionId mySubid,
			  SubTransactionId parentSubid, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (message_level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		message_level = 0;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		message_level = level - 1;
}

/*
 * Functions or schemas changed: look emit_context() up again when asked.
 */
static void
forget_emit_context_oid(Datum arg, int cacheid, uint32 hashvalue)
{
	emit_context_oid_known = false;
}

/*
 * Tells whether the trigger runs bemi.emit_context().  A catalog look-up only
 * when functions of this database have changed since the last one.
 */
static bool
is_our_trigger(const Trigger *trigger)
{
	if (!emit_context_oid_known)
	{
		Oid			schema = get_namespace_oid("bemi", true);
		oidvector  *no_arguments = buildoidvector(NULL, 0);

		emit_context_oid = InvalidOid;
		if (OidIsValid(schema))
			emit_context_oid = GetSysCacheOid3(PROCNAMEARGSNSP,
											   Anum_pg_proc_oid,
											   CStringGetDatum("emit_context"),
											   PointerGetDatum(no_arguments),
											   ObjectIdGetDatum(schema));
		pfree(no_arguments);
		emit_context_oid_known = true;
	}

	return OidIsValid(emit_context_oid) && trigger->tgfoid == emit_context_oid;
}

/*
 * The rule of TriggerEnabled() in the server's trigger.c, for triggers that
 * the server does not fire because the statement named the table's parent.
 */
static bool
is_enabled(const Trigger *trigger)
{
	if (trigger->tgenabled == TRIGGER_DISABLED)
		return false;
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return trigger->tgenabled != TRIGGER_FIRES_ON_ORIGIN;
	return trigger->tgenabled != TRIGGER_FIRES_ON_REPLICA;
}

/*
 * Tells whether a table carries bemi's trigger; with "enabled", one that
 * would fire in this session.
 */
static bool
has_our_trigger(const ResultRelInfo *table, bool enabled)
{
	const TriggerDesc *triggers = table->ri_TrigDesc;

	if (triggers == NULL)
		return false;
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		const Trigger *trigger = &triggers->triggers[i];

		if (is_our_trigger(trigger) && (!enabled || is_enabled(trigger)))
			return true;
	}
	return false;
}

/*
 * Tells whether a statement changes rows of a tracked table that it does not
 * name: a child, whose statement trigger will not fire.
 */
static bool
has_tracked_child(const ModifyTableState *modification)
{
	for (int i = 0; i < modification->mt_nrels; i++)
	{
		const ResultRelInfo *table = &modification->resultRelInfo[i];

		if (table != modification->rootResultRelInfo &&
			has_our_trigger(table, true))
			return true;
	}
	return false;
}

/*
 * The memory of an armed statement is about to go.
 */
static void
disarm(void *arg)
{
	dlist_delete(&((ArmedStatement *) arg)->link);
}

/*
 * Takes down that the statement must write its message, and with what
 * context: that of its beginning, whatever its own functions set later.
 */
static void
want_message(ArmedStatement *statement)
{
	MemoryContext caller;
	const char *context;

	if (statement->wanted)
		return;

	caller = MemoryContextSwitchTo(statement->memory);
	context = bemi_context_of_statement(statement->query);
	statement->context = context ? pstrdup(context) : NULL;
	statement->wanted = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Arms one ModifyTable node, if it is bemi's business.
 */
static void
arm(ModifyTableState *modification, QueryDesc *queryDesc)
{
	MemoryContext memory = queryDesc->estate->es_query_cxt;
	PlanState  *feeder = outerPlanState(modification);
	bool		child = has_tracked_child(modification);
	ArmedStatement *statement;

	if (!child && !has_our_trigger(modification->rootResultRelInfo, false))
		return;

	statement = MemoryContextAllocZero(memory, sizeof(ArmedStatement));
	statement->memory = memory;
	statement->query = queryDesc->sourceText;
	statement->feeder = feeder;
	statement->produce = feeder->ExecProcNodeReal;
	statement->triggers = modification->rootResultRelInfo->ri_TrigDesc;

	dlist_push_head(&armed_statements, &statement->link);
	statement->on_end.func = disarm;
	statement->on_end.arg = statement;
	MemoryContextRegisterResetCallback(memory, &statement->on_end);

	ExecSetExecProcNode(feeder, produce_first_row);
	if (child)
		want_message(statement);
}

/*
 * ExecutorStart hook: arms every ModifyTable node of the query.  The main one
 * is the top node, the executor lists those in WITH clauses; a statement that
 * a rule added is both.
 */
static void
bemi_executor_start(QueryDesc *queryDesc, int eflags)
{
	ListCell   *cell;

	if (prev_ExecutorStart)
		prev_ExecutorStart(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);

	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) != 0 || !XLogLogicalInfoActive())
		return;

	if (queryDesc->planstate && IsA(queryDesc->planstate, ModifyTableState))
		arm((ModifyTableState *) queryDesc->planstate, queryDesc);
	foreach(cell, queryDesc->estate->es_auxmodifytables)
	{
		ModifyTableState *modification = (ModifyTableState *) lfirst(cell);

		if (&modification->ps != queryDesc->planstate)
			arm(modification, queryDesc);
	}
}

/*
 * The armed statement that this plan node feeds.
 */
static ArmedStatement *
armed_statement_fed_by(const PlanState *feeder)
{
	dlist_iter	iter;

	dlist_foreach(iter, &armed_statements)
	{
		ArmedStatement *statement = dlist_container(ArmedStatement, link,
													iter.cur);

		if (statement->feeder == feeder)
			return statement;
	}
	elog(ERROR, "plan node is armed for no statement");
	return NULL;				/* keep the compiler quiet */
}

/*
 * ExecProcNode of an armed statement's feeder.  Writes the message once a row
 * has come, before ModifyTable can write that row, and then gets out of the
 * way.  If somebody has wrapped the node after us, we cannot, and pass on.
 */
static TupleTableSlot *
produce_first_row(PlanState *feeder)
{
	ArmedStatement *statement = armed_statement_fed_by(feeder);
	TupleTableSlot *row = statement->produce(feeder);

	if (TupIsNull(row))
		return row;

	if (statement->wanted)
	{
		write_message(statement->context);
		statement->wanted = false;
	}
	if (feeder->ExecProcNodeReal == produce_first_row)
		ExecSetExecProcNode(feeder, statement->produce);
	return row;
}

/*
 * The armed statement that fires this trigger, or NULL.  The executor hands
 * out a pointer into the trigger array of its own ResultRelInfo, so this
 * holds however deep statements are nested.
 */
static ArmedStatement *
armed_statement_of(const Trigger *trigger)
{
	dlist_iter	iter;

	dlist_foreach(iter, &armed_statements)
	{
		ArmedStatement *statement = dlist_container(ArmedStatement, link,
													iter.cur);
		const TriggerDesc *triggers = statement->triggers;

		if (triggers != NULL &&
			trigger >= triggers->triggers &&
			trigger < triggers->triggers + triggers->numtriggers)
			return statement;
	}
	return NULL;
}

/*
 * bemi.emit_context(): statement trigger, before INSERT, UPDATE, DELETE or
 * TRUNCATE.  ON CONFLICT and MERGE fire it several times for one statement,
 * which stays one message.
 */
Datum
bemi_emit_context(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	ArmedStatement *statement;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"bemi.emit_context")));
	if (!TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired BEFORE and FOR EACH STATEMENT",
						"bemi.emit_context"),
				 errdetail("Trigger \"%s\" of table \"%s\" is of another kind.",
						   trigger->tg_trigger->tgname,
						   RelationGetRelationName(trigger->tg_relation)),
				 errhint("Let bemi.track() make the trigger.")));

	statement = armed_statement_of(trigger->tg_trigger);
	if (statement != NULL)
		want_message(statement);
	else
		write_message(bemi_context_of_statement(NULL));

	PG_RETURN_POINTER(NULL);
}

void
bemi_capture_init(void)
{
	RegisterXactCallback(forget_messages, NULL);
	RegisterSubXactCallback(move_messages, NULL);
	CacheRegisterSyscacheCallback(PROCOID, forget_emit_context_oid, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_emit_context_oid, (Datum) 0);

	prev_ExecutorStart = ExecutorStart_hook;
	ExecutorStart_hook = bemi_executor_start;
}
