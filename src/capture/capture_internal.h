/*-------------------------------------------------------------------------
 *
 * capture_internal.h
 *		Running statements and their messages: capture.c, statement.c, message.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_CAPTURE_INTERNAL_H
#define BEMI_CAPTURE_INTERNAL_H

#include "executor/execdesc.h"
#include "lib/ilist.h"
#include "nodes/execnodes.h"

#include "capture/capture.h"
#include "context/context.h"

/*
 * The plan node below a ModifyTable node: its source plan, which yields the
 * rows of one modification.
 */
typedef struct BemiSourcePlan
{
	slist_node	link;			/* in its statement's source_plans */
	PlanState  *node;
	ExecProcNodeMtd produce;	/* the node's own function */
	ModifyTableState *modification;
	bool		needs_message;	/* a trigger requested it */
	bool		running;		/* has yielded a row */
} BemiSourcePlan;

/*
 * A running statement, which emits its context with its first row.
 */
typedef struct BemiStatement
{
	dlist_node	link;			/* in armed_statements */
	bool		linked;			/* false: the statement has ended, or failed */
	int			nest_level;		/* of the subtransaction that it runs in */
	MemoryContextCallback on_end;	/* unlinks the statement */
	MemoryContext memory;		/* the query's own, holds all of this */
	BemiStatementText text;
	slist_head	source_plans;

	bool		is_utility;		/* COPY or TRUNCATE: without source plans, not
								 * armed */
	bool		triggers_skipped;	/* by the server, after the first of a
									 * kind */
	bool		has_snapshot;
	const char *context;		/* when it began; NULL: none */
	const char *tags;			/* the same */
	bool		emitted;		/* the message was written */
} BemiStatement;

/* statement.c */
extern void bemi_link_statement(BemiStatement *statement);
extern void bemi_unlink_statement(BemiStatement *statement);
extern BemiStatement *bemi_arm_statement(QueryDesc *queryDesc);
extern void bemi_snapshot_context(BemiStatement *statement);
extern BemiSourcePlan *bemi_source_plan_at_node(const PlanState *node,
												BemiStatement **statement);
extern BemiSourcePlan *bemi_source_plan_that_fires(const Trigger *trigger,
												   BemiStatement **statement);
extern BemiStatement *bemi_running_utility(void);
extern void bemi_reemit_outer(void);
extern void bemi_capture_statement_init(void);

/* message.c */
extern void bemi_message_for_statement(const char *context);
extern void bemi_reemit_message(const char *context, int nest_level);
extern void bemi_capture_message_init(void);

#endif							/* BEMI_CAPTURE_INTERNAL_H */
