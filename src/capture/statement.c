/*-------------------------------------------------------------------------
 *
 * statement.c
 *		The statements that are running, innermost first, and what each has
 *		said of its context.
 *
 * In flow the statements that capture.c has armed, and the COPY and TRUNCATE
 * commands; out flows the answer to two questions: whose trigger, or whose
 * plan node, is this; and who must say its context again.
 *
 * Statements nest: a function that a statement calls, or a trigger that it
 * fires, may change rows and contexts while the outer statement is still
 * writing rows.  So whenever a nested statement ends, the outer one says its
 * context again if another one stands.
 *
 * An armed statement lives in its query's memory context and leaves the list
 * when that context is deleted, or its (sub)transaction is rolled back.  What
 * must never happen: a list entry that outlives its query, or that speaks for
 * a statement that has failed.
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
 * The memory of an armed statement is about to go.
 */
static void
disarm_statement(void *arg)
{
	bemi_unlink_statement(arg);
}

/*
 * A statement that has failed writes no more rows, though its memory may stay
 * for a while: until the block is rolled back, or as long as a function's.
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
 * Statements that outlive their subtransaction belong to its parent.
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
 * Takes down the context of a statement: that of its beginning, whatever its
 * own functions set later.
 */
void
bemi_snapshot_context(BemiStatement *statement)
{
	MemoryContext caller;
	const char *context;

	if (statement->has_snapshot)
		return;

	caller = MemoryContextSwitchTo(statement->memory);
	context = bemi_context_of_statement(&statement->text);
	statement->context = context ? pstrdup(context) : NULL;
	statement->has_snapshot = true;
	MemoryContextSwitchTo(caller);
}

/*
 * Makes the entry of a query, in its own memory.
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
 * The armed feeder that runs at this plan node, with its statement.
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
 * A statement has ended.  The one that it was nested in may go on to write
 * rows, which must not get the context of the inner one.
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
 * The armed feeder that fires this trigger, or NULL.  The executor hands out a
 * pointer into the trigger array of its own ResultRelInfo, so this holds
 * however deep statements are nested.
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
 * The innermost COPY or TRUNCATE; what it fires its triggers for is its own,
 * as all that is nested in it has an entry above, or has ended.  NULL if this
 * library was loaded after it began.
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
