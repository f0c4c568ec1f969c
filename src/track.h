/*-------------------------------------------------------------------------
 *
 * track.h
 *		What the files of tracking share: which tables have their changes kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_TRACK_H
#define BEMI_TRACK_H

#include "nodes/pg_list.h"
#include "tcop/deparse_utility.h"

#include "bemi.h"

/*
 * An object that the DDL command of an event trigger has made or altered.
 */
typedef struct BemiCommand
{
	Oid			catalog;		/* pg_class, pg_trigger, ...; InvalidOid for
								 * GRANT and ALTER DEFAULT PRIVILEGES */
	Oid			object;
	int32		subobject;		/* column, or 0 */
	bool		in_extension;	/* by the script of an extension */
	CollectedCommand *collected;
} BemiCommand;

/* track_command.c */
extern List *bemi_collected_commands(void);

/* track_catalog.c */
extern Oid	bemi_function(const char *name, int nargs, const Oid *types);
extern bool bemi_may_track(Oid role, Oid owner);
extern Oid	bemi_partition_root(Oid relation);
extern bool bemi_is_published(Oid relation);
extern char *bemi_relation_name(Oid relation);

/* track_refuse.c */
extern void bemi_check_publication_owner(void);

#endif							/* BEMI_TRACK_H */
