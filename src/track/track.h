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

/* rule_match.c */
extern bool bemi_rule_is_prefix(const char *rule);
extern bool bemi_rule_matches(const char *column, const char *rule);
extern bool bemi_rules_match(const char *column, const List *rules);

/* rows.c */
extern bool bemi_truncates_published_rows(Relation table);
extern void bemi_follow_truncated(const List *partitions,
								  const List *truncated);

#endif							/* BEMI_TRACK_H */
