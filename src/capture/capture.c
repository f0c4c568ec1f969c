/*-------------------------------------------------------------------------
 *
 * capture.c
 *		Finds the moment at which a statement's context must go into the WAL.
 *
 * Input: a statement that modifies a tracked table, with its context
 * (context/context.c).  Output: the context for message.c, just before the
 * first row that the statement changes.
 *
 * A message costs a transaction id and a flushed commit.  A statement that
 * changes no row should not pay for that, because polling queries run all day.
 * Hence two steps.  When the executor starts a statement that modifies a
 * tracked table, the source plan of each modification is "armed": its
 * ExecProcNode is replaced by ours.  The statement trigger finds its statement
 * armed and only takes a snapshot of the context.  The message is written when
 * the source plan yields its first row.  If there is no source plan (COPY,
 * TRUNCATE), or if this library was loaded after the executor had started, the
 * trigger writes the message at once.
 *
 * The trigger decides, not the hook, because the server knows whether the
 * trigger is enabled, evaluates its WHEN and obeys session_replication_role.
 * The hook requests the message itself in two cases in which the server fires
 * no trigger: for rows of a tracked child if the statement names its parent,
 * and for the second and later queries of a foreign key's action.
 *
 * statement.c keeps the list of armed statements.  A statement's entry and its
 * source plans live in the query's memory context.
 *
 * What must never happen: a row of a tracked table reaches the WAL before the
 * context of its statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "capture/capture_internal.h"
#include "context/context.h"
#include "extension/extension.h"
#include "track/track.h"

PG_FUNCTION_INFO_V1(bemi_emit_context);

static ExecutorStart_hook_type prev_ExecutorStart = NULL;
static ExecutorEnd_hook_type prev_ExecutorEnd = NULL;
static ProcessUtility_hook_type prev_ProcessUtility = NULL;

static TupleTableSlot *produce_first_row(PlanState *node);

/*
 * Whether the trigger runs bemi.emit_context().
 */
static bool
is_our_trigger(const Trigger *trigger)
{
	return trigger->tgfoid == bemi_emit_context_oid();
}

/*
 * Same rule as TriggerEnabled() in the server's trigger.c.  Needed for
 * triggers that the server does not fire because the statement named the
 * table's parent.
 */
static bool
trigger_is_enabled(const Trigger *trigger)
{
	if (trigger->tgenabled == TRIGGER_DISABLED)
		return false;
	if (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA)
		return trigger->tgenabled != TRIGGER_FIRES_ON_ORIGIN;
	return trigger->tgenabled != TRIGGER_FIRES_ON_REPLICA;
}

/*
 * Whether a table has bemi's trigger; with "enabled", one that would fire in
 * this session.
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

		if (is_our_trigger(trigger) &&
			(!enabled || trigger_is_enabled(trigger)))
			return true;
	}
	return false;
}

/*
 * Whether a statement changes rows of a tracked table that it does not name: a
 * child, whose statement trigger does not fire.
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
 * Called when a trigger has fired: all source plans of this table now need the
 * message.  A WITH clause may change the same table as the main query, and the
 * server fires the trigger only once for both.
 */
static void
request_context_message(BemiStatement *statement, const BemiSourcePlan *fired)
{
	slist_iter	iter;

	bemi_snapshot_context(statement);
	slist_foreach(iter, &statement->source_plans)
	{
		BemiSourcePlan *source_plan =
			slist_container(BemiSourcePlan, link, iter.cur);

		if (RelationGetRelid(
							 source_plan->modification->rootResultRelInfo
							 ->ri_RelationDesc) ==
			RelationGetRelid(fired->modification->rootResultRelInfo
							 ->ri_RelationDesc))
			source_plan->needs_message = true;
	}
}

/*
 * Arms the source plan of a ModifyTable node if that modifies a tracked table.
 * Returns the statement's entry, which it creates for the first one.
 */
static BemiStatement *
arm_source_plan(BemiStatement *statement, ModifyTableState *modification,
				QueryDesc *queryDesc)
{
	bool		skipped =
		(queryDesc->estate->es_top_eflags & EXEC_FLAG_SKIP_TRIGGERS) != 0;
	bool		unasked = has_tracked_child(modification) ||
		(skipped && has_our_trigger(modification->rootResultRelInfo, true));
	BemiSourcePlan *source_plan;

	if (!unasked && !has_our_trigger(modification->rootResultRelInfo, false))
		return statement;
	if (statement == NULL)
		statement = bemi_arm_statement(queryDesc);
	statement->triggers_skipped = skipped;

	source_plan =
		MemoryContextAllocZero(statement->memory, sizeof(BemiSourcePlan));
	source_plan->modification = modification;
	source_plan->node = outerPlanState(modification);
	source_plan->produce = source_plan->node->ExecProcNodeReal;
	slist_push_head(&statement->source_plans, &source_plan->link);

	ExecSetExecProcNode(source_plan->node, produce_first_row);
	if (unasked)
	{
		bemi_snapshot_context(statement);
		source_plan->needs_message = true;
	}
	return statement;
}

/*
 * ExecutorStart hook: arms every ModifyTable node of the query.  The main one
 * is the top node.  Those in WITH clauses are in the executor's list.  A
 * statement that a rule added is both.
 */
static void
bemi_executor_start(QueryDesc *queryDesc, int eflags)
{
	BemiStatement *statement = NULL;
	PlanState  *top;
	ListCell   *cell;

	bemi_statement_begins(queryDesc->operation != CMD_SELECT ||
						  queryDesc->plannedstmt->hasModifyingCTE);
	if (prev_ExecutorStart)
		prev_ExecutorStart(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);

	if ((eflags & EXEC_FLAG_EXPLAIN_ONLY) != 0)
		return;

	top = queryDesc->planstate;
	if (top && IsA(top, ModifyTableState))
		statement =
			arm_source_plan(statement, (ModifyTableState *) top, queryDesc);
	foreach(cell, queryDesc->estate->es_auxmodifytables)
	{
		if (lfirst(cell) != top)
			statement = arm_source_plan(statement, lfirst(cell), queryDesc);
	}
}

/*
 * Emits the context when a source plan has yielded its first row.  All
 * modifications of one statement share one message as long as no other message
 * follows it.  The queries of a foreign key's action share the message of the
 * statement that has caused them.
 */
static void
emit_context(BemiStatement *statement, BemiSourcePlan *source_plan)
{
	MemoryContext caller = MemoryContextSwitchTo(statement->memory);

	if (!statement->emitted)
	{
		bemi_require_context(statement->context,
							 source_plan->modification->rootResultRelInfo
							 ->ri_RelationDesc);
		statement->context =
			bemi_context_with_additions(statement->context, statement->tags);
	}
	if (!statement->emitted && !statement->triggers_skipped)
		bemi_message_for_statement(statement->context);
	else
		bemi_reemit_message(statement->context, statement->nest_level);
	statement->emitted = true;
	source_plan->running = true;
	MemoryContextSwitchTo(caller);
}

/*
 * ExecProcNode of an armed source plan.  Emits the context with the first row,
 * before ModifyTable writes that row, and then restores the node's own
 * function.  If another extension has wrapped the node after us, we cannot
 * restore it, and pass all rows on.
 *
 * If the table's trigger did not fire, because it is disabled for this session
 * or its WHEN was false, the rows have no context.  They must not inherit the
 * context of an earlier statement.
 */
static TupleTableSlot *
produce_first_row(PlanState *node)
{
	BemiStatement *statement;
	BemiSourcePlan *source_plan = bemi_source_plan_at_node(node, &statement);
	TupleTableSlot *row = source_plan->produce(node);

	if (TupIsNull(row))
		return row;

	if (!source_plan->needs_message)
		bemi_reemit_message(NULL, statement->nest_level);
	else if (!source_plan->running)
		emit_context(statement, source_plan);
	if (node->ExecProcNodeReal == produce_first_row)
		ExecSetExecProcNode(node, source_plan->produce);
	return row;
}

/*
 * ExecutorEnd hook.  The server's function deletes the query's memory, and
 * with it the query's own entry.
 */
static void
bemi_executor_end(QueryDesc *queryDesc)
{
	if (prev_ExecutorEnd)
		prev_ExecutorEnd(queryDesc);
	else
		standard_ExecutorEnd(queryDesc);
	bemi_reemit_outer();
}

/*
 * Whether a utility command changes rows and fires our triggers.
 */
static bool
command_changes_rows(const Node *command)
{
	return IsA(command, TruncateStmt) ||
		(IsA(command, CopyStmt) && ((const CopyStmt *) command)->is_from);
}

/*
 * Calls the previous hook.  A function of its own, because a variable for the
 * hook would be live across PG_TRY().
 */
static void
call_process_utility(PlannedStmt *pstmt, const char *queryString,
					 bool readOnlyTree, ProcessUtilityContext context,
					 ParamListInfo params, QueryEnvironment *queryEnv,
					 DestReceiver *dest, QueryCompletion *qc)
{
	if (prev_ProcessUtility)
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params,
							queryEnv, dest, qc);
	else
		standard_ProcessUtility(pstmt, queryString, readOnlyTree, context,
								params, queryEnv, dest, qc);
}

/*
 * Calls the previous hook for a DDL command, whose text and context go into
 * tracking messages.
 */
static void
call_ddl(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
		 ProcessUtilityContext context, ParamListInfo params,
		 QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	BemiRunningCommand running;

	pstmt = bemi_replace_restored(pstmt);
	bemi_running_begin(&running, queryString, pstmt);
	PG_TRY();
	{
		call_process_utility(pstmt, queryString, readOnlyTree, context, params,
							 queryEnv, dest, qc);
	}
	PG_FINALLY();
	{
		bemi_running_end(&running);
	}
	PG_END_TRY();
}

/*
 * ProcessUtility hook.  COPY and TRUNCATE have an entry while they run,
 * because statements may be nested in them.
 */
static void
bemi_process_utility(PlannedStmt *pstmt, const char *queryString,
					 bool readOnlyTree, ProcessUtilityContext context,
					 ParamListInfo params, QueryEnvironment *queryEnv,
					 DestReceiver *dest, QueryCompletion *qc)
{
	BemiStatement entry = {0};
	BemiTruncate truncate;

	bemi_utility_begins(pstmt->utilityStmt);
	if (bemi_is_ddl(pstmt->utilityStmt))
		call_ddl(pstmt, queryString, readOnlyTree, context, params, queryEnv,
				 dest, qc);
	else if (!command_changes_rows(pstmt->utilityStmt))
		call_process_utility(pstmt, queryString, readOnlyTree, context, params,
							 queryEnv, dest, qc);
	else
	{
		entry.is_utility = true;
		entry.memory = CurrentMemoryContext;
		entry.text = bemi_statement_text(queryString, pstmt);
		slist_init(&entry.source_plans);
		bemi_link_statement(&entry);
		bemi_truncate_begin(&truncate);
		PG_TRY();
		{
			call_process_utility(pstmt, queryString, readOnlyTree, context,
								 params, queryEnv, dest, qc);
		}
		PG_CATCH();
		{
			bemi_truncate_abort(&truncate);
			bemi_unlink_statement(&entry);
			PG_RE_THROW();
		}
		PG_END_TRY();
		bemi_unlink_statement(&entry);
		bemi_truncate_end(&truncate);
	}
	bemi_reemit_outer();
}

/*
 * Emits the context of a statement without an armed source plan: COPY or
 * TRUNCATE.  TRUNCATE fires a trigger for each table, and all share one
 * message.
 */
static void
emit_context_at_once(Relation table)
{
	BemiStatement *statement = bemi_running_utility();
	const char *context;

	if (statement == NULL)
	{
		context = bemi_context_of_statement(NULL);
		bemi_require_context(context, table);
		context = bemi_context_with_additions(context,
											  bemi_tags_of_statement(NULL));
		bemi_message_for_statement(context);
		return;
	}

	bemi_snapshot_context(statement);
	bemi_require_context(statement->context, table);
	if (statement->emitted)
		bemi_reemit_message(statement->context, statement->nest_level);
	else
	{
		MemoryContext caller = MemoryContextSwitchTo(statement->memory);

		statement->context =
			bemi_context_with_additions(statement->context, statement->tags);
		MemoryContextSwitchTo(caller);
		bemi_message_for_statement(statement->context);
	}
	statement->emitted = true;
}

/*
 * bemi.emit_context(): statement trigger, before INSERT, UPDATE, DELETE or
 * TRUNCATE.  ON CONFLICT and MERGE fire it several times for one statement,
 * which still emits one message.
 */
Datum
bemi_emit_context(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	BemiStatement *statement;
	BemiSourcePlan *source_plan;

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
				 errhint("Create the trigger with bemi.track().")));

	source_plan = bemi_source_plan_that_fires(trigger->tg_trigger, &statement);
	if (source_plan != NULL)
		request_context_message(statement, source_plan);
	else
	{
		if (TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event) &&
			bemi_running_utility() == NULL)
			bemi_truncate_fires(RelationGetRelid(trigger->tg_relation));
		emit_context_at_once(trigger->tg_relation);
	}

	PG_RETURN_POINTER(NULL);
}

void
bemi_capture_init(void)
{
	bemi_capture_message_init();
	bemi_capture_statement_init();

	prev_ExecutorStart = ExecutorStart_hook;
	ExecutorStart_hook = bemi_executor_start;
	prev_ExecutorEnd = ExecutorEnd_hook;
	ExecutorEnd_hook = bemi_executor_end;
	prev_ProcessUtility = ProcessUtility_hook;
	ProcessUtility_hook = bemi_process_utility;
}
