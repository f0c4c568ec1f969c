/*-------------------------------------------------------------------------
 *
 * track.c
 *		bemi.track() and bemi.untrack().
 *
 * Both check a table before they lock it and again under the lock, because the
 * table may change during the wait.  Triggers and identities are set with the
 * rights of the current user, who must own the table and all partitions that
 * are changed.  The publication and the column rules are changed with the
 * rights of the extension's owner.
 *
 * A partition that needs no change is not locked.  What must never happen: an
 * act with the owner's rights on a table that the user may not track.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_track);
PG_FUNCTION_INFO_V1(bemi_untrack);

static bool
has_tracking_trigger(Oid relation)
{
	BemiTrigger trigger;

	bemi_table_trigger(relation, &trigger);
	return trigger.ours;
}

/*
 * Throws an error with the reason if the relation cannot be tracked.
 */
static void
check_trackable(const BemiTable *table)
{
	const char *reason = bemi_table_untrackable(table);

	if (reason != NULL)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("cannot track \"%s\"", NameStr(table->name)),
						errdetail("%s", reason),
						table->kind == RELKIND_RELATION &&
						table->persistence == RELPERSISTENCE_UNLOGGED ?
						errhint("ALTER TABLE %s SET LOGGED;",
								bemi_relation_name(table->oid)) :
						0));
	/* Triggers of a partition do not fire when its root is written to. */
	if (table->root != table->oid && !has_tracking_trigger(table->root))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot track partition \"%s\" alone",
						NameStr(table->name)),
				 errdetail("Rows that are written through its root would have no context."),
				 errhint("SELECT bemi.track(%s);",
						 quote_literal_cstr(
											bemi_relation_name(table->root)))));
}

/*
 * Looks a table up for bemi.track(), or throws an error.
 */
static void
look_up_trackable(Oid relation, BemiTable *table)
{
	if (!bemi_table_look_up(relation, table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table to track does not exist")));
	check_trackable(table);
}

static void
check_rules_allowed(const BemiTable *table)
{
	if (table->oid != table->root)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot set rules for partition \"%s\"",
						bemi_relation_name(table->oid)),
				 errdetail("Partitions use the rules of the partitioned table, because their changes are stored under its name."),
				 errhint("SELECT bemi.track(%s, ...);",
						 quote_literal_cstr(
											bemi_relation_name(table->root)))));
}

/*
 * Follows a table that was tracked by itself and is now published with its
 * root, whose rules apply.  The trigger records this for a later DETACH.
 */
void
bemi_track_attached(Oid relation, BemiTrigger *trigger)
{
	BemiTable	table;

	if (trigger->arguments != NIL)
	{
		if (list_length(trigger->arguments) > BEMI_RULES &&
			bemi_table_look_up(relation, &table))
			bemi_warn_of_lost_redaction(&table);
		lfirst(list_nth_cell(trigger->arguments, BEMI_MEMBERSHIP)) =
			BEMI_AS_ATTACHED;
		bemi_table_set_trigger(relation, trigger->arguments);
	}
	bemi_unpublish_table(relation);
}

/*
 * Prepares one table of the target's tree.  Returns whether it has changed
 * anything.
 */
static bool
track_partition(Oid relation, const BemiTable *target)
{
	BemiTable	partition;
	BemiTrigger trigger;
	BemiRights	former;
	const char *reason;
	bool		changed;

	if (!bemi_table_look_up(relation, &partition))
		return false;
	reason = bemi_table_untrackable(&partition);
	if (reason != NULL)
	{
		ereport(NOTICE, (errmsg("partition \"%s\" is not tracked",
								bemi_relation_name(relation)),
						 errdetail("%s", reason)));
		return false;
	}
	changed = bemi_table_prepare(relation, target->root);
	if (relation != target->root && bemi_is_published(relation))
	{
		bemi_check_tracker(&partition);
		bemi_table_trigger(relation, &trigger);
		bemi_act_as_owner(&former);
		bemi_track_attached(relation, &trigger);
		bemi_act_as_before(&former);
	}
	return changed;
}

/*
 * Prepares the table and its partitions, and publishes it.  If it is published
 * already and has changed, it is emitted again.
 *
 * Another session may be attaching a table to a partition.  That table appears
 * in the tree only after this session has locked the partition, so the loop
 * repeats until there are no new tables.
 */
static void
track_tree(const BemiTable *target)
{
	bool		changed = false;
	List	   *done = NIL;
	List	   *more;
	ListCell   *cell;

	while ((more = list_difference_oid(bemi_table_tree(target), done)) != NIL)
	{
		foreach(cell, more)
		{
			changed |= track_partition(lfirst_oid(cell), target);
		}
		done = list_concat(done, more);
	}
	if (!bemi_is_published(target->root) && !target->is_partition)
		bemi_publish_table(target->oid);
	else if (changed)
	{
		bemi_emit_tracked(target->root);
		bemi_table_invalidate_tree(target);
	}
}

static ArrayType *
name_array_argument(FunctionCallInfo fcinfo, int argument)
{
	return PG_ARGISNULL(argument) ? NULL : PG_GETARG_ARRAYTYPE_P(argument);
}

/*
 * Sets the rules that were given, with the rights of the extension's owner.
 */
static void
set_rules(FunctionCallInfo fcinfo)
{
	BemiRights	former;

	bemi_act_as_owner(&former);
	bemi_set_rules(PG_GETARG_OID(0), name_array_argument(fcinfo, 1),
				   name_array_argument(fcinfo, 2),
				   name_array_argument(fcinfo, 3));
	bemi_act_as_before(&former);
}

/*
 * Waits for transactions that have written to the table or its partitions,
 * because later commits must have been written under the new rules.  The lock
 * is that of CREATE TRIGGER.
 */
static void
lock_for_rules(Oid relation)
{
	LockRelationOid(relation, ShareRowExclusiveLock);
	if (get_rel_relkind(relation) == RELKIND_PARTITIONED_TABLE)
		(void) find_all_inheritors(relation, ShareRowExclusiveLock, NULL);
}

/*
 * Warns of PostgreSQL 14, see _bemi.warn_of_missing_values().  It decodes the
 * old row of a partition with the columns of the root, and then knows no value
 * for a column that was added with a default.
 */
void
bemi_warn_of_missing_values(Oid relation)
{
	BemiValue	table = bemi_sql_oid(REGCLASSOID, relation);

	if (!BEMI_MISSING_VALUES_ARE_SENT)
		bemi_sql_run_as_owner("SELECT _bemi.warn_of_missing_values($1)",
							  &table, 1);
}

/*
 * The lock that bemi.track() needs on the table itself: none if the table
 * needs no change.
 */
static LOCKMODE
lock_to_track(const BemiTable *table)
{
	BemiTrigger trigger;

	bemi_table_trigger(table->oid, &trigger);
	if (!trigger.ours || table->identity != REPLICA_IDENTITY_FULL)
		return AccessExclusiveLock;
	return table->is_partition || bemi_is_published(table->oid) ?
		NoLock :
		ShareUpdateExclusiveLock;
}

/*
 * bemi.track(target regclass, ignore name[], redact name[], redact_hash
 * name[])
 */
Datum
bemi_track(PG_FUNCTION_ARGS)
{
	Oid			relation = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	bool		has_rules =
		!PG_ARGISNULL(1) || !PG_ARGISNULL(2) || !PG_ARGISNULL(3);
	BemiTable	table;
	LOCKMODE	mode;

	look_up_trackable(relation, &table);
	if (has_rules)
		check_rules_allowed(&table);
	bemi_check_tracker(&table);
	mode = lock_to_track(&table);
	if (mode != NoLock)
	{
		LockRelationOid(relation, mode);
		look_up_trackable(relation, &table);
		bemi_check_tracker(&table);
	}

	track_tree(&table);
	bemi_warn_of_missing_values(relation);
	if (has_rules)
	{
		lock_for_rules(relation);
		look_up_trackable(relation, &table);
		bemi_check_tracker(&table);
		check_rules_allowed(&table);
		set_rules(fcinfo);
	}
	PG_RETURN_VOID();
}

/*
 * Throws an error if bemi.untrack() cannot untrack the table alone.
 */
static void
check_untrackable_alone(const BemiTable *table)
{
	if (bemi_schema_is_tracked(table->schema))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot untrack table \"%s\" alone",
						NameStr(table->name)),
				 errdetail("All tables of its schema are tracked, so its next ALTER TABLE would track it again."),
				 errhint("SELECT bemi.untrack_schema(%s);",
						 quote_literal_cstr(quote_identifier(
															 get_namespace_name(table->schema))))));
	if (table->root != table->oid && has_tracking_trigger(table->root))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot untrack partition \"%s\" alone",
						NameStr(table->name)),
				 errdetail("It is published with its root, and updates of a published table fail without a replica identity."),
				 errhint("SELECT bemi.untrack(%s);",
						 quote_literal_cstr(
											bemi_relation_name(table->root)))));
}

static void
look_up_untrackable(Oid relation, BemiTable *table)
{
	if (!bemi_table_look_up(relation, table))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table to untrack does not exist")));
	check_untrackable_alone(table);
	bemi_check_tracker(table);
}

/*
 * bemi.untrack(target regclass)
 */
Datum
bemi_untrack(PG_FUNCTION_ARGS)
{
	Oid			relation = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	BemiTable	table;

	look_up_untrackable(relation, &table);
	if (has_tracking_trigger(relation) || bemi_is_published(relation))
	{
		LockRelationOid(relation, AccessExclusiveLock);
		look_up_untrackable(relation, &table);
		bemi_unpublish_table(relation);
	}
	bemi_table_restore_tree(&table);
	PG_RETURN_VOID();
}
