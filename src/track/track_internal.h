/*-------------------------------------------------------------------------
 *
 * track_internal.h
 *		Triggers, rules and commands, and the functions that only the files of
 *		this room use.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_TRACK_INTERNAL_H
#define BEMI_TRACK_INTERNAL_H

#include "catalog/pg_trigger.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "tcop/deparse_utility.h"
#include "utils/array.h"
#include "utils/snapshot.h"

#include "track/track.h"

/*
 * An object that the DDL command of an event trigger has created or altered.
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

/* The trigger that bemi.track() creates. */
#define BEMI_TRIGGER			"bemi_emit_context"

/* Its arguments, in this order. */
#define BEMI_FORMER_IDENTITY	0	/* pg_class.relreplident before tracking */
#define BEMI_FORMER_INDEX		1	/* name of the index for 'i', or "" */
#define BEMI_MEMBERSHIP			2	/* one of the words below */
#define BEMI_RULES				3	/* column rules; may be absent */

/* How a table is tracked. */
#define BEMI_AS_TABLE			"table" /* by itself */
#define BEMI_AS_PARTITION		"partition" /* with its root */
#define BEMI_AS_ATTACHED		"attached"	/* by itself, and attached since */

typedef struct BemiTrigger
{
	Oid			oid;			/* InvalidOid: the table has no trigger of
								 * that name */
	bool		ours;			/* executes bemi.emit_context() */
	char		enabled;		/* pg_trigger.tgenabled */
	List	   *arguments;		/* of char *; NIL unless bemi.track() created
								 * it */
} BemiTrigger;

/* A relation, as it is in the catalog now. */
typedef struct BemiTable
{
	Oid			oid;
	Oid			root;			/* see bemi_partition_root() */
	Oid			schema;
	Oid			owner;
	Oid			row_type;		/* or InvalidOid */
	char		kind;			/* pg_class.relkind */
	char		persistence;
	char		identity;		/* pg_class.relreplident */
	bool		is_partition;
	bool		has_children;	/* may have */
	bool		has_trigger;	/* bemi's; false: it is not known */
	int			natts;
	NameData	name;
} BemiTable;

/* Column rules of a table: lists of names (char *), in order. */
typedef struct BemiRules
{
	bool		known;			/* false: bemi.track() did not create the
								 * trigger */
	bool		readable;		/* false: they redact all columns */
	List	   *ignore;
	List	   *redact;
	List	   *redact_hash;
} BemiRules;

/*
 * A table that the DDL command of an event trigger has dropped, or a table's
 * row in a publication.  Temporary tables are left out.
 */
typedef struct BemiDropped
{
	Oid			catalog;		/* pg_class or pg_publication_rel */
	Oid			object;
	char	   *identity;		/* qualified name of a table, quoted as in SQL */
	char	   *publication;	/* names in a row of a publication */
	char	   *schema;
	char	   *table;
} BemiDropped;

/* table.c */
extern bool bemi_table_look_up(Oid relation, BemiTable *table);
extern List *bemi_table_tree(const BemiTable *table);
extern List *bemi_relation_tree(Oid relation);
extern const char *bemi_table_untrackable(const BemiTable *table);
extern bool bemi_table_can_be_full(const BemiTable *table);
extern void bemi_table_trigger(Oid relation, BemiTrigger *trigger);
extern void bemi_table_trigger_at(Oid relation, Snapshot snapshot,
								  BemiTrigger *trigger);
extern void bemi_table_set_trigger(Oid relation, const List *arguments);
extern void bemi_table_set_identity(Oid relation, char identity, char *index);
extern bool bemi_table_prepare(Oid relation, Oid root);
extern void bemi_table_restore(Oid relation);
extern void bemi_table_restore_tree(const BemiTable *table);
extern void bemi_table_invalidate(Oid relation);
extern void bemi_table_invalidate_tree(const BemiTable *table);

/* publication.c */
extern void bemi_publish_table(Oid relation);
extern void bemi_unpublish_table(Oid relation);
extern bool bemi_may_publish(void);
extern void bemi_publication_invalidate(Oid root);

/* rules.c */
extern void bemi_read_rules(Oid relation, Snapshot snapshot, BemiRules *rules);
extern char *bemi_rules_text(const BemiRules *rules);
extern void bemi_set_rules(Oid relation, ArrayType *ignore, ArrayType *redact,
						   ArrayType *redact_hash);
extern void bemi_carry_rules(const BemiTable *table, const char *former,
							 const char *present);
extern void bemi_check_rules(Oid relation);
extern void bemi_warn_of_lost_redaction(const BemiTable *table);

/* describe.c */
extern List *bemi_catalog_rows(Oid catalog, Oid index, AttrNumber column,
							   Oid oid, Snapshot snapshot);
extern char *bemi_describe(Oid relation, Snapshot snapshot);

/* message.c */
#define BEMI_EVENT_BEGAN		"began"
#define BEMI_EVENT_ENDED		"ended"
#define BEMI_EVENT_ROWS_CHANGED	"rows changed"

/*
 * These functions call no SQL, need no rights, and take only AccessShareLock
 * on catalogs and on _bemi.signing_key.  The caller has made its own changes
 * of catalogs visible (CommandCounterIncrement()).
 */
extern void bemi_emit_tracked(Oid relation);
extern void bemi_emit_tracked_tree(Oid relation);
extern void bemi_emit_tracking_ended(Oid relation, const char *schema,
									 const char *table);
extern void bemi_emit_tracking_message(const char *event, Oid relation,
									   const char *schema, const char *table,
									   const char *description,
									   const char *detail);

/* running.c */
extern const char *bemi_running_tag(void);
extern char *bemi_running_text(void);
extern const char *bemi_running_context(void);

/* rows.c */
extern void bemi_emit_moved_rows(Oid root, Oid partition, bool attached);
extern void bemi_follow_dropped_table(const BemiDropped *dropped);
extern bool bemi_may_have_rows(Oid relation);
extern bool bemi_had_rows_in_former_storage(Oid relation);
extern void bemi_emit_truncated(Oid partition);

/* track.c */
extern void bemi_track_attached(Oid relation, BemiTrigger *trigger);
extern void bemi_warn_of_missing_values(Oid relation);

/* restore.c */
extern void bemi_track_restored(const FormData_pg_trigger *trigger);
extern void bemi_restore_privileges(const BemiTable *table);

/* schema.c */
extern bool bemi_schema_is_tracked(Oid schema);

/* command.c */
extern List *bemi_collected_commands(void);
extern List *bemi_dropped_objects(Oid catalog);
extern List *bemi_dropped_tables(void);
extern List *bemi_replaced_rows(Oid catalog, Oid index, AttrNumber column,
								Oid oid);
extern List *bemi_deleted_rows(Oid catalog, Oid index, AttrNumber column,
							   Oid oid);
extern HeapTuple bemi_deleted_row(Oid catalog, Oid index, AttrNumber column,
								  Oid oid);
extern List *bemi_command_partitions(const CollectedCommand *command,
									 bool attached);

/* catalog.c */
extern bool bemi_may_track(Oid role, Oid owner);
extern void bemi_check_tracker(const BemiTable *table);
extern Oid	bemi_partition_root(Oid relation);
extern bool bemi_is_within(Oid relation, Oid table);
extern bool bemi_is_locked(Oid relation);
extern bool bemi_is_published(Oid relation);
extern char *bemi_relation_name(Oid relation);
extern List *bemi_type_dependents(Oid type);

/* refuse.c */
extern bool bemi_trigger_look_up(Oid oid, FormData_pg_trigger *form);
extern void bemi_check_called_as_event_trigger(FunctionCallInfo fcinfo,
											   const char *name);
extern void bemi_check_trigger_kind(const FormData_pg_trigger *trigger);
extern void bemi_check_publication_owner(Oid rightful);

#endif							/* BEMI_TRACK_INTERNAL_H */
