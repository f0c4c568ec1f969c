/*-------------------------------------------------------------------------
 *
 * track.h
 *		Which tables are tracked, for other rooms.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_TRACK_H
#define BEMI_TRACK_H

#include "bemi.h"

/* A TRUNCATE that is running. */
typedef struct BemiTruncate
{
	struct BemiTruncate *outer; /* in which it is nested, or NULL */
	MemoryContext memory;		/* for the lists */
	List	   *tables;			/* OIDs of those it may empty */
	List	   *filled;			/* of these, partitions that have rows */
	List	   *unlocked;		/* partitions that were not looked at */
} BemiTruncate;

/* rule_match.c */
extern bool bemi_rule_is_prefix(const char *rule);
extern bool bemi_rule_matches(const char *column, const char *rule);
extern bool bemi_rules_match(const char *column, const List *rules);

/* truncate.c */
extern void bemi_truncate_begin(BemiTruncate *truncate);
extern void bemi_truncate_end(BemiTruncate *truncate);
extern void bemi_truncate_abort(BemiTruncate *truncate);
extern void bemi_truncate_fires(Oid relation);
extern void bemi_truncate_init(void);

#endif							/* BEMI_TRACK_H */
