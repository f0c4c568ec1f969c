/*-------------------------------------------------------------------------
 *
 * capture_internal.h
 *		What capture.c and its second file know of each other.
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
 * A plan node that yields the rows of one modification.
 */
typedef struct BemiSourcePlan
{
	slist_node	link;			/* in its statement's feeders */
	PlanState  *node;
	ExecProcNodeMtd produce;	/* what the node ran before we came */
	ModifyTableState *modification;
	bool		wanted;			/* a trigger asked for the message */
	bool		running;		/* has yielded a row that wanted one */
} BemiSourcePlan;

/*
 * A running statement that says its context with its first row.
 */
typedef struct BemiStatement
{
	dlist_node	link;			/* in armed_statements */
	bool		linked;			/* false: the statement has ended, or failed */
	int			nest_level;		/* of the subtransaction that it runs in */
	MemoryContextCallback on_end;	/* takes the link out */
	MemoryContext memory;		/* the query's own, holds all of this */
	BemiStatementText text;
	slist_head	source_plans;

	bool		is_utility;		/* COPY or TRUNCATE: no feeders, not armed */
	bool		triggers_skipped;	/* by the server, after the first of a
									 * kind */
	bool		has_snapshot;
	const char *context;		/* of its beginning; NULL: none */
	bool		emitted;		/* the message was written */
	List	   *truncated;		/* OIDs of tables whose trigger TRUNCATE has
								 * fired */
	List	   *truncated_partitions;	/* those of published roots, with rows */
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
