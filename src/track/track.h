/*-------------------------------------------------------------------------
 *
 * track.h
 *		Which tables are tracked, for other rooms.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_TRACK_H
#define BEMI_TRACK_H

#include "context/context.h"

/* A TRUNCATE that is running. */
typedef struct BemiTruncate
{
	struct BemiTruncate *outer; /* in which it is nested, or NULL */
	MemoryContext memory;		/* for the lists */
	List	   *tables;			/* OIDs of those it may empty */
	List	   *filled;			/* of these, partitions that have rows */
	List	   *unlocked;		/* partitions that were not looked at */
} BemiTruncate;

/* A DDL command that is running. */
typedef struct BemiRunningCommand
{
	struct BemiRunningCommand *outer;	/* in which it is nested, or NULL */
	BemiStatementText text;
	Node	   *command;
} BemiRunningCommand;

/* rule_match.c */
extern bool bemi_rule_is_prefix(const char *rule);
extern bool bemi_rule_matches(const char *column, const char *rule);
extern bool bemi_rules_match(const char *column, const List *rules);

/* restore.c */
extern PlannedStmt *bemi_replace_restored(PlannedStmt *statement);

/* running.c */
extern bool bemi_is_ddl(Node *command);
extern void bemi_running_begin(BemiRunningCommand *running, const char *text,
							   const PlannedStmt *statement);
extern void bemi_running_end(BemiRunningCommand *running);

/* truncate.c */
extern void bemi_truncate_begin(BemiTruncate *truncate);
extern void bemi_truncate_end(BemiTruncate *truncate);
extern void bemi_truncate_abort(BemiTruncate *truncate);
extern void bemi_truncate_fires(Oid relation);
extern void bemi_truncate_init(void);

#endif							/* BEMI_TRACK_H */
