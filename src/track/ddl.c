/*-------------------------------------------------------------------------
 *
 * ddl.c
 *		Follows the commands that make and alter tables.
 *
 * An event trigger function at the end of each such command tracks the new
 * partitions of tracked tables and the new tables of tracked schemas, goes on
 * with or gives up partitions that were detached, and has the worker learn
 * what has changed.  It runs for every command of every user, so it leaves
 * early if the command does not concern bemi: a temporary table, or one that
 * is neither published, nor with a published root, nor in a tracked schema.
 * That takes a few look-ups by key, which do not grow with the database, and
 * no lock.
 *
 * What a command has attached or detached is read from the command itself, and
 * the root of a partition from the catalog.  What a trigger says in its
 * arguments counts only for the table that the command has detached.
 *
 * Nothing but the table that the command was about, and what it has attached
 * or detached, is locked or changed.  All these are locked by the command
 * already, except for what lies below a detached table, and for the partitions
 * of a table that comes into a tracked schema.
 *
 * Whoever makes a table need not be allowed to track. bemi does to the table
 * what the root's or the schema's owner has asked for, with the rights of the
 * extension's owner, and with the server's functions only.  That owner is a
 * superuser, unless somebody has taken that from him.  Then the rights are
 * those of the command's user, who owns what he alters.  That is enough for
 * all but partitions that belong to others.
 *
 * What can be expected to fail is looked at before, and is a warning, because
 * it is no fault of the command's user: somebody's trigger of the same name,
 * missing rights.  The history stays true: a table that is published without
 * bemi's trigger has its problem shown in bemi.tracked, and one that cannot be
 * published is not said to be tracked.  Any other error is the command's
 * error, because a table that is made and not tracked would have a false
 * history: lock time-outs, deadlocks, a full lock table, cancellation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "tcop/deparse_utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_follow_ddl);

/*
 * Takes the rights with which tables are changed, until bemi_act_as_before().
 */
static void
act_on_tables(BemiRights *former)
{
	bemi_act_as_owner(former);
	if (!superuser())
		bemi_act_as_before(former);
}

/*
 * Why the trigger and the replica identity of a table cannot be changed now,
 * NULL if they can: what the server's functions would fail with.
 */
static const char *
tracking_obstacle(const BemiTable *table)
{
	BemiTrigger trigger;

	bemi_table_trigger(table->oid, &trigger);
	if (OidIsValid(trigger.oid) && !trigger.ours)
		return psprintf("Its trigger \"%s\" does not execute bemi.emit_context().",
						BEMI_TRIGGER);
	if (!bemi_table_ownercheck(table->oid, GetUserId()) ||
		bemi_function_aclcheck(bemi_emit_context_oid(), GetUserId()) !=
		ACLCHECK_OK)
		return "The owner of extension bemi is no superuser.";
	return NULL;
}

static const char *
obstacle_to_publish(void)
{
	return bemi_may_publish() ?
		NULL :
		"The owner of extension bemi is no superuser, and does not own the publication.";
}

static void
warn_of_obstacle(const BemiTable *table, const char *obstacle)
{
	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("could not track table \"%s\"",
					bemi_relation_name(table->oid)),
			 errdetail("%s", obstacle),
			 errhint("SELECT bemi.track(%s);",
					 quote_literal_cstr(bemi_relation_name(table->oid)))));
}

/*
 * Gives a table the replica identity without which updates of it would fail,
 * where it cannot have bemi's trigger.
 */
static void
set_full_identity(const BemiTable *table)
{
	if (table->identity != REPLICA_IDENTITY_FULL &&
		bemi_table_can_be_full(table) &&
		bemi_table_ownercheck(table->oid, GetUserId()))
		bemi_table_set_identity(table->oid, REPLICA_IDENTITY_FULL, NULL);
}

/*
 * Prepares a table that is published with its root, unless it has bemi's
 * trigger already: other choices of identity are the user's.
 */
static void
prepare_published(const BemiTable *table)
{
	BemiTrigger trigger;
	const char *reason;

	if (bemi_table_untrackable(table) != NULL)
		return;
	bemi_table_trigger(table->oid, &trigger);
	if (trigger.ours)
		return;
	reason = tracking_obstacle(table);
	if (reason == NULL)
		bemi_table_prepare(table->oid, table->root);
	else if (table->identity != REPLICA_IDENTITY_FULL)
	{
		warn_of_obstacle(table, reason);
		set_full_identity(table);
	}
}

/*
 * A table that was tracked by itself was attached.
 */
static void
follow_attached_published(const BemiTable *table)
{
	const char *reason = tracking_obstacle(table);

	if (reason == NULL)
		bemi_track_attached(table->oid);
	else
	{
		warn_of_obstacle(table, reason);
		bemi_unpublish_table(table->oid);
	}
}

/*
 * A table that was attached to a tracked one, or lies below it.
 */
static void
follow_attached(Oid relation)
{
	BemiTable	table;

	if (!bemi_table_look_up(relation, &table))
		return;
	prepare_published(&table);
	if (bemi_is_published(relation))
		follow_attached_published(&table);
	else if (bemi_table_look_up(relation, &table) &&
			 bemi_table_untrackable(&table) == NULL)
		set_full_identity(&table);
	bemi_table_invalidate(relation);
}

static void
follow_attached_tree(Oid relation)
{
	BemiTable	table;
	ListCell   *cell;

	if (!bemi_table_look_up(relation, &table))
		return;
	foreach(cell, bemi_table_tree(&table))
	{
		follow_attached(lfirst_oid(cell));
	}
}

/*
 * Takes from a table what it has got with tracking.
 */
static void
restore_untracked(Oid relation)
{
	char	   *name = bemi_relation_name(relation);

	if (bemi_table_ownercheck(relation, GetUserId()))
		bemi_table_restore(relation);
	else
		ereport(WARNING,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("could not take trigger \"%s\" from table \"%s\"",
						BEMI_TRIGGER, name),
				 errdetail("The owner of extension bemi is no superuser."),
				 errhint("SELECT bemi.untrack(%s);",
						 quote_literal_cstr(name))));
}

/*
 * The same for all partitions of a table, but not for those that are still
 * published, by themselves or with another table.
 */
static void
restore_untracked_tree(const BemiTable *table)
{
	ListCell   *cell;

	foreach(cell, bemi_table_tree(table))
	{
		if (!bemi_is_published(bemi_partition_root(lfirst_oid(cell))))
			restore_untracked(lfirst_oid(cell));
	}
}

/*
 * Is a detached table to be tracked by itself from now on?  One that was
 * tracked before it was attached is; but whether it was, its owner may have
 * written into the trigger himself.
 */
static bool
table_stays_tracked(const BemiTable *table, const BemiTrigger *trigger)
{
	const char *membership;

	if (trigger->arguments == NIL || bemi_table_untrackable(table) != NULL)
		return false;
	membership = list_nth(trigger->arguments, BEMI_MEMBERSHIP);
	return (strcmp(membership, BEMI_AS_ATTACHED) == 0 &&
			bemi_may_track(table->owner, table->owner)) ||
		bemi_schema_is_tracked(table->schema);
}

/*
 * A detached table that stays tracked.  If it had its rules from the root, it
 * must not be without.
 */
static void
track_detached(const BemiTable *table, BemiTrigger *trigger, Oid root)
{
	ListCell   *membership =
		list_nth_cell(trigger->arguments, BEMI_MEMBERSHIP);
	const char *reason = tracking_obstacle(table);

	if (reason == NULL)
		reason = obstacle_to_publish();
	if (reason != NULL)
	{
		warn_of_obstacle(table, reason);
		return;
	}
	if (strcmp(lfirst(membership), BEMI_AS_PARTITION) == 0)
	{
		BemiTrigger of_root;

		bemi_table_trigger(root, &of_root);
		trigger->arguments = list_truncate(trigger->arguments, BEMI_RULES);
		if (list_length(of_root.arguments) > BEMI_RULES)
			trigger->arguments =
				lappend(trigger->arguments,
						list_nth(of_root.arguments, BEMI_RULES));
	}
	lfirst(list_nth_cell(trigger->arguments, BEMI_MEMBERSHIP)) = BEMI_AS_TABLE;
	bemi_table_set_trigger(table->oid, trigger->arguments);
	bemi_publish_table(table->oid);
}

/*
 * A table that was detached from a tracked one still has what it got with it.
 */
static void
follow_detached(Oid relation, Oid root)
{
	BemiTable	table;
	BemiTrigger trigger;

	if (!bemi_table_look_up(relation, &table) || table.is_partition)
		return;
	bemi_table_trigger(relation, &trigger);
	if (table_stays_tracked(&table, &trigger))
		track_detached(&table, &trigger, root);
	else
		restore_untracked_tree(&table);
	bemi_emit_tracked_tree(relation);
	bemi_table_invalidate_tree(&table);
}

/*
 * A tracked table has got a column with which every further write would fail.
 * Returns whether it is tracked all the same.
 */
static bool
follow_virtual_column(const BemiTable *table)
{
	const char *reason = bemi_table_untrackable(table);
	BemiTable	root;
	ListCell   *cell;

	/* Its partitions have got the column, too, and are locked by the command. */
	if (reason == NULL)
	{
		ereport(WARNING,
				(errmsg("before is no longer complete in changes of table \"%s\"",
						NameStr(table->name)),
				 errdetail("It has a virtual generated column, which no replica identity can have.")));
		foreach(cell, bemi_table_tree(table))
		{
			BemiTable	part;

			if (bemi_table_look_up(lfirst_oid(cell), &part) &&
				bemi_table_untrackable(&part) == NULL)
				bemi_table_prepare(part.oid, table->root);
		}
		return true;
	}
	ereport(WARNING, (errmsg("table \"%s\" is no longer tracked",
							 bemi_relation_name(table->root)),
					  errdetail("%s", reason)));
	bemi_unpublish_table(table->root);
	if (bemi_table_look_up(table->root, &root))
		restore_untracked_tree(&root);
	return false;
}

/*
 * Does a subcommand change what a partition sends of itself, or whether it
 * does?
 */
static bool
is_change_of_root(AlterTableType subcommand)
{
	return subcommand == AT_ReplicaIdentity ||
		subcommand == AT_SetLogged || subcommand == AT_SetUnLogged;
}

/*
 * Did the command change what the stream sends of the root with the changes of
 * its partitions, and does not invalidate there: its name or its replica
 * identity?
 */
static bool
changes_root(const CollectedCommand *command)
{
	ListCell   *cell;

	if (command->type == SCT_Simple)
		return IsA(command->parsetree, RenameStmt) ||
			IsA(command->parsetree, AlterObjectSchemaStmt);
	foreach(cell, command->d.alterTable.subcmds)
	{
		const CollectedATSubcmd *subcommand = lfirst(cell);

		if (IsA(subcommand->parsetree, AlterTableCmd) &&
			is_change_of_root(
							  ((AlterTableCmd *) subcommand->parsetree)->subtype))
			return true;
	}
	return false;
}

/*
 * PostgreSQL 14 sends null for a column that was added with a default, see
 * _bemi.warn_of_missing_values().
 */
static void
warn_of_missing_values(Oid relation)
{
	BemiValue	table = bemi_sql_oid(REGCLASSOID, relation);

	if (!BEMI_MISSING_VALUES_ARE_SENT)
		bemi_sql_run_as_owner("SELECT _bemi.warn_of_missing_values($1)",
							  &table, 1);
}

/*
 * Does the schema's tracking include a table?  Partitions are tracked with
 * their root, tables of extensions one by one only.
 */
static bool
is_tracked_with_schema(const BemiTable *table)
{
	return !table->is_partition && bemi_schema_is_tracked(table->schema) &&
		bemi_table_untrackable(table) == NULL &&
		!OidIsValid(getExtensionOfObject(RelationRelationId, table->oid));
}

/*
 * A table that is published, itself or with its root, was made or altered.
 */
static void
follow_published(const BemiTable *table, const CollectedCommand *command,
				 const List *attached, const List *detached)
{
	ListCell   *cell;

	if (table->identity == REPLICA_IDENTITY_FULL &&
		!bemi_table_can_be_full(table) && !follow_virtual_column(table))
		return;
	if (table->oid != table->root ||
		table->kind == RELKIND_PARTITIONED_TABLE ||
		is_tracked_with_schema(table))
		prepare_published(table);
	foreach(cell, attached)
	{
		bemi_emit_moved_rows(table->root, lfirst_oid(cell), true);
	}
	foreach(cell, attached)
	{
		follow_attached_tree(lfirst_oid(cell));
	}
	foreach(cell, detached)
	{
		bemi_emit_moved_rows(table->root, lfirst_oid(cell), false);
	}
	foreach(cell, detached)
	{
		follow_detached(lfirst_oid(cell), table->root);
	}

	/* The message says whether all partitions are FULL, and logged. */
	if (table->oid == table->root || attached != NIL || detached != NIL ||
		table->persistence == RELPERSISTENCE_UNLOGGED || changes_root(command))
		bemi_emit_tracked(table->root);
	if (table->oid == table->root && changes_root(command))
		bemi_table_invalidate_tree(table);
	if (table->is_partition || table->kind == RELKIND_PARTITIONED_TABLE)
		warn_of_missing_values(table->oid);
}

/*
 * A table that is in a tracked schema, and not published.
 */
static void
track_with_schema(const BemiTable *table)
{
	const char *reason = tracking_obstacle(table);
	List	   *done = NIL;
	List	   *more;
	ListCell   *cell;

	if (reason == NULL)
		reason = obstacle_to_publish();
	if (reason != NULL)
	{
		warn_of_obstacle(table, reason);
		return;
	}
	bemi_table_prepare(table->oid, table->oid);
	/* As in track.c: what somebody attaches to a partition is seen late. */
	while ((more = list_difference_oid(bemi_table_tree(table), done)) != NIL)
	{
		foreach(cell, more)
		{
			BemiTable	partition;

			if (bemi_table_look_up(lfirst_oid(cell), &partition))
				prepare_published(&partition);
		}
		done = list_concat(done, more);
	}
	bemi_publish_table(table->oid);
}

/*
 * A table that inherits from an altered one has been altered with it, under
 * the command's lock.
 */
static void
follow_heir(Oid relation)
{
	BemiTable	heir;
	BemiRights	former;
	bool		is_tracked = true;

	if (!bemi_is_published(relation) || !bemi_table_look_up(relation, &heir))
		return;
	if (heir.identity == REPLICA_IDENTITY_FULL &&
		!bemi_table_can_be_full(&heir))
	{
		act_on_tables(&former);
		is_tracked = follow_virtual_column(&heir);
		bemi_act_as_before(&former);
	}
	if (is_tracked)
		bemi_emit_tracked(relation);
}

/*
 * Does the command alter what inherits from the table, too?  ATTACH and DETACH
 * of a partition do nothing else.
 */
static bool
command_alters_heirs(const CollectedCommand *command)
{
	const CollectedATSubcmd *first;

	if (command->type == SCT_Simple && IsA(command->parsetree, RenameStmt))
		return ((RenameStmt *) command->parsetree)->renameType ==
			OBJECT_COLUMN;
	if (command->type != SCT_AlterTable ||
		command->d.alterTable.subcmds == NIL)
		return false;
	first = linitial(command->d.alterTable.subcmds);
	if (!IsA(first->parsetree, AlterTableCmd))
		return true;
	switch (((AlterTableCmd *) first->parsetree)->subtype)
	{
		case AT_AttachPartition:
		case AT_DetachPartition:
		case AT_DetachPartitionFinalize:
			return false;
		default:
			return true;
	}
}

/*
 * The altered table itself need not be tracked, and can be a foreign table.
 * Partitions of a published table need no message of their own.
 */
static void
follow_heirs(const BemiTable *table, const CollectedCommand *command)
{
	ListCell   *cell;

	if (!table->has_children || !command_alters_heirs(command) ||
		(table->kind != RELKIND_RELATION &&
		 table->kind != RELKIND_FOREIGN_TABLE &&
		 table->kind != RELKIND_PARTITIONED_TABLE) ||
		(table->kind == RELKIND_PARTITIONED_TABLE &&
		 bemi_is_published(table->root)))
		return;
	foreach(cell, find_all_inheritors(table->oid, NoLock, NULL))
	{
		if (lfirst_oid(cell) != table->oid)
			follow_heir(lfirst_oid(cell));
	}
}

/*
 * A table was made or altered.
 */
static void
follow_table(const BemiTable *table, const CollectedCommand *command)
{
	bool		is_published = bemi_is_published(table->root);
	List	   *attached;
	List	   *detached;
	BemiRights	former;

	if (is_published)
	{
		attached = bemi_command_partitions(command, true);
		detached = bemi_command_partitions(command, false);
		act_on_tables(&former);
		bemi_publication_invalidate(table->root);
		follow_published(table, command, attached, detached);
		bemi_act_as_before(&former);
	}
	else if (is_tracked_with_schema(table))
	{
		act_on_tables(&former);
		track_with_schema(table);
		bemi_act_as_before(&former);
	}
}

/*
 * A relation was made or altered.
 */
static void
follow_relation(const BemiTable *table, const CollectedCommand *command)
{
	/* Its rows are not in the stream. */
	if (table->kind == RELKIND_FOREIGN_TABLE && table->is_partition)
		bemi_emit_tracked(table->root);
	if ((table->kind == RELKIND_RELATION ||
		 table->kind == RELKIND_PARTITIONED_TABLE) &&
		table->persistence != RELPERSISTENCE_TEMP)
		follow_table(table, command);
	follow_heirs(table, command);
}

/*
 * Types and tables that depend on a type: OIDs of the types, and of the row
 * types of the tables.
 */
static List *
add_type_users(List *types, Oid type)
{
	Relation	catalog = table_open(DependRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(catalog, DependReferenceIndexId, true, NULL, 2,
							  keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);
		Oid			user = InvalidOid;

		if (form->classid == TypeRelationId)
			user = form->objid;
		else if (form->classid == RelationRelationId)
			user = get_rel_type_id(form->objid);
		if (OidIsValid(user))
			types = list_append_unique_oid(types, user);
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return types;
}

/*
 * What a composite type is made of belongs to the description of each tracked
 * table that has such a column, an array of it, a domain over it, or a
 * composite with it.  The worker learns the descriptions without a lock on
 * these tables.
 */
static void
follow_row_type(const BemiTable *table)
{
	List	   *types =
		OidIsValid(table->row_type) ? list_make1_oid(table->row_type) : NIL;

	for (int i = 0; i < list_length(types); i++)
	{
		Oid			user = get_typ_typrelid(list_nth_oid(types, i));

		CHECK_FOR_INTERRUPTS();
		types = add_type_users(types, list_nth_oid(types, i));
		if (i > 0 && OidIsValid(user) && bemi_is_published(user))
		{
			bemi_emit_tracked(user);
			bemi_table_invalidate(user);
		}
	}
}

/*
 * May the rules of some table have to follow the new name of a column?  The
 * columns of inheriting tables are renamed with it, and those of typed tables
 * with their type's attribute.
 */
static bool
may_have_rules(const BemiTable *table)
{
	BemiTrigger trigger;

	if (table->has_children || table->kind == RELKIND_COMPOSITE_TYPE)
		return true;
	bemi_table_trigger(table->oid, &trigger);
	return list_length(trigger.arguments) > BEMI_RULES;
}

/*
 * A renamed column takes its rules along.
 */
static void
follow_renamed_column(const BemiTable *table, const CollectedCommand *command)
{
	const RenameStmt *rename = (const RenameStmt *) command->parsetree;
	BemiRights	former;

	if (command->type != SCT_Simple || !IsA(rename, RenameStmt) ||
		(rename->renameType != OBJECT_COLUMN &&
		 rename->renameType != OBJECT_ATTRIBUTE) ||
		!may_have_rules(table))
		return;
	act_on_tables(&former);
	bemi_carry_rules(table, rename->subname, rename->newname);
	bemi_act_as_before(&former);
}

/*
 * A trigger was made.  If it is bemi's, rules may have been set.
 */
static void
follow_trigger(Oid oid)
{
	FormData_pg_trigger trigger;
	BemiTable	table;

	if (!bemi_trigger_look_up(oid, &trigger) ||
		trigger.tgfoid != bemi_emit_context_oid())
		return;
	bemi_check_trigger_kind(&trigger);
	if (strcmp(NameStr(trigger.tgname), BEMI_TRIGGER) != 0 ||
		trigger.tgnargs <= BEMI_MEMBERSHIP)
		return;
	if (trigger.tgnargs > BEMI_RULES)
		bemi_check_rules(trigger.tgrelid);
	if (bemi_is_published(trigger.tgrelid) &&
		bemi_table_look_up(trigger.tgrelid, &table))
	{
		bemi_emit_tracked(trigger.tgrelid);
		bemi_table_invalidate_tree(&table);
	}
}

static void
follow_command(const BemiCommand *command)
{
	const CollectedCommand *collected = command->collected;
	BemiTable	table;

	if (command->catalog == TriggerRelationId)
		follow_trigger(command->object);
	if (command->catalog != RelationRelationId ||
		!bemi_table_look_up(command->object, &table))
		return;
	if (IsA(collected->parsetree, CreateStmt) && !command->in_extension)
		bemi_restore_privileges(&table);
	follow_renamed_column(&table, collected);
	follow_relation(&table, collected);
	if (collected->type == SCT_AlterTable ||
		IsA(collected->parsetree, RenameStmt))
		follow_row_type(&table);
}

/*
 * Is the command about a temporary table, as its text says?  One that becomes
 * temporary by its schema is found out later.
 */
static bool
command_is_temporary(const Node *command)
{
	const RangeVar *table = NULL;

	if (IsA(command, CreateStmt))
		table = ((const CreateStmt *) command)->relation;
	else if (IsA(command, CreateTableAsStmt))
		table = ((const CreateTableAsStmt *) command)->into->rel;
	return table != NULL && table->relpersistence == RELPERSISTENCE_TEMP;
}

/*
 * _bemi.follow_ddl(), for ddl_command_end
 */
Datum
bemi_follow_ddl(PG_FUNCTION_ARGS)
{
	ListCell   *cell;
	bool		pushed = false;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.follow_ddl");
	if (command_is_temporary(
							 ((EventTriggerData *) fcinfo->context)->parsetree))
		PG_RETURN_VOID();

	/*
	 * The second transaction of DETACH CONCURRENTLY has no snapshot, without
	 * which long values of a deleted catalog row cannot be deleted.
	 */
	if (!ActiveSnapshotSet())
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		pushed = true;
	}
	foreach(cell, bemi_collected_commands())
	{
		follow_command(lfirst(cell));
	}
	if (pushed)
		PopActiveSnapshot();
	PG_RETURN_VOID();
}
