/*-------------------------------------------------------------------------
 *
 * statement.c
 *		Stack of running statements, innermost first, and the context message
 *		each has emitted.
 *
 * Input: the statements that capture.c has armed, and the COPY and TRUNCATE
 * commands.  Output: the statement that a trigger or a plan node belongs to,
 * and the statement that must emit its context again.
 *
 * Statements nest: a function that a statement calls, or a trigger that it
 * fires, may change rows and contexts while the outer statement is still
 * writing rows.  So whenever a nested statement ends, the outer one emits its
 * context again if another message has come after it.
 *
 * An armed statement lives in its query's memory context.  It is unlinked when
 * that context is deleted or its (sub)transaction is rolled back.  The entry
 * of COPY or TRUNCATE lives on the stack of its ProcessUtility hook.  What
 * must never happen: an entry outlives its query, or emits the context of a
 * statement that has failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/trigger.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "capture/capture_internal.h"
#include "context/context.h"

/* Innermost first. */
static dlist_head armed_statements = DLIST_STATIC_INIT(armed_statements);

void
bemi_link_statement(BemiStatement *statement)
{
	statement->nest_level = GetCurrentTransactionNestLevel();
	statement->linked = true;
	dlist_push_head(&armed_statements, &statement->link);
}

void
bemi_unlink_statement(BemiStatement *statement)
{
	if (statement->linked)
		dlist_delete(&statement->link);
	statement->linked = false;
}

/*
 * Reset callback: the memory of an armed statement is about to be freed.
 */
static void
disarm_statement(void *arg)
{
	bemi_unlink_statement(arg);
}

/*
 * Unlinks failed statements.  They write no more rows, although their memory
 * may live on until the block is rolled back or a function ends.
 */
static void
disarm_failed_statement(int nest_level)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &armed_statements)
	{
		BemiStatement *statement =
			dlist_container(BemiStatement, link, iter.cur);

		if (statement->nest_level >= nest_level)
			bemi_unlink_statement(statement);
	}
}

/*
 * A statement that outlives its subtransaction belongs to the parent.
 */
static void
hand_over_statements(int nest_level)
{
	dlist_iter	iter;

	dlist_foreach(iter, &armed_statements)
	{
		BemiStatement *statement =
			dlist_container(BemiStatement, link, iter.cur);

		statement->nest_level = Min(statement->nest_level, nest_level - 1);
	}
}

static void
statements_at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		disarm_failed_statement(0);
}

static void
statements_at_subtransaction_end(SubXactEvent event, SubTransactionId mySubid,
								 SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		disarm_failed_statement(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		hand_over_statements(GetCurrentTransactionNestLevel());
}

/*
 * Takes a snapshot of the context when the statement begins.  A context that
 * its own functions set later does not count.
 */
void
bemi_snapshot_context(BemiStatement *statement)
{
	MemoryContext caller;
	const char *context;
	const char *tags;

	if (statement->has_snapshot)
		return;

	caller = MemoryContextSwitchTo(statement->memory);
	context = bemi_context_of_statement(&statement->text);
	statement->context = context ? pstrdup(context) : NULL;
	tags = bemi_tags_of_statement(&statement->text);
	statement->tags = tags ? pstrdup(tags) : NULL;
	statement->has_snapshot = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Creates the entry of a query, in the query's memory.
 */
BemiStatement *
bemi_arm_statement(QueryDesc *queryDesc)
{
	MemoryContext memory = queryDesc->estate->es_query_cxt;
	BemiStatement *statement =
		MemoryContextAllocZero(memory, sizeof(BemiStatement));

	statement->memory = memory;
	statement->text =
		bemi_statement_text(queryDesc->sourceText, queryDesc->plannedstmt);
	slist_init(&statement->source_plans);

	bemi_link_statement(statement);
	statement->on_end.func = disarm_statement;
	statement->on_end.arg = statement;
	MemoryContextRegisterResetCallback(memory, &statement->on_end);
	return statement;
}

/*
 * Finds the armed source plan at this plan node, and its statement.
 */
BemiSourcePlan *
bemi_source_plan_at_node(const PlanState *node, BemiStatement **statement)
{
	dlist_iter	outer;

	dlist_foreach(outer, &armed_statements)
	{
		slist_iter	inner;

		*statement = dlist_container(BemiStatement, link, outer.cur);
		slist_foreach(inner, &(*statement)->source_plans)
		{
			BemiSourcePlan *source_plan =
				slist_container(BemiSourcePlan, link, inner.cur);

			if (source_plan->node == node)
				return source_plan;
		}
	}
	elog(ERROR, "plan node is not armed");
	return NULL;				/* keep the compiler quiet */
}

/*
 * Whether the statement may write more rows.
 */
static bool
statement_is_writing(BemiStatement *statement)
{
	slist_iter	iter;

	if (statement->is_utility)
		return statement->emitted;

	slist_foreach(iter, &statement->source_plans)
	{
		const BemiSourcePlan *source_plan =
			slist_container(BemiSourcePlan, link, iter.cur);

		if (source_plan->running && !source_plan->modification->mt_done)
			return true;
	}
	return false;
}

/*
 * Called when a statement has ended.  The outer statement may go on to write
 * rows, which must not get the context of the nested one.
 */
void
bemi_reemit_outer(void)
{
	dlist_iter	iter;

	/* ROLLBACK of a failed transaction comes here, too. */
	if (!IsTransactionState())
		return;

	dlist_foreach(iter, &armed_statements)
	{
		BemiStatement *statement =
			dlist_container(BemiStatement, link, iter.cur);

		if (statement_is_writing(statement))
		{
			bemi_reemit_message(statement->context, statement->nest_level);
			return;
		}
	}
}

/*
 * The armed source plan that fires this trigger, or NULL.  The executor passes
 * a pointer into the trigger array of its own ResultRelInfo, so the pointer
 * identifies it at any depth of nesting.
 */
BemiSourcePlan *
bemi_source_plan_that_fires(const Trigger *trigger, BemiStatement **statement)
{
	dlist_iter	outer;

	dlist_foreach(outer, &armed_statements)
	{
		slist_iter	inner;

		*statement = dlist_container(BemiStatement, link, outer.cur);
		slist_foreach(inner, &(*statement)->source_plans)
		{
			BemiSourcePlan *source_plan =
				slist_container(BemiSourcePlan, link, inner.cur);
			const TriggerDesc *triggers =
				source_plan->modification->rootResultRelInfo->ri_TrigDesc;

			if (triggers != NULL &&
				trigger >= triggers->triggers &&
				trigger < triggers->triggers + triggers->numtriggers)
				return source_plan;
		}
	}
	return NULL;
}

/*
 * The innermost COPY or TRUNCATE, or NULL if this library was loaded after it
 * began.  A trigger without a source plan belongs to it, because every
 * statement that is nested in it has an entry of its own or has ended.
 */
BemiStatement *
bemi_running_utility(void)
{
	dlist_iter	iter;

	dlist_foreach(iter, &armed_statements)
	{
		BemiStatement *statement =
			dlist_container(BemiStatement, link, iter.cur);

		if (statement->is_utility)
			return statement;
	}
	return NULL;
}

void
bemi_capture_statement_init(void)
{
	RegisterXactCallback(statements_at_transaction_end, NULL);
	RegisterSubXactCallback(statements_at_subtransaction_end, NULL);
}
