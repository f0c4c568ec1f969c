/*-------------------------------------------------------------------------
 *
 * ddl.c
 *		Follows the commands that create and alter tables.
 *
 * An event trigger function at the end of each such command tracks new
 * partitions of tracked tables and new tables of tracked schemas, keeps or
 * ends the tracking of detached partitions, and emits tracking messages for
 * the worker.  It runs for every command of every user.  So it returns early
 * if the command does not concern bemi: if the table is temporary, or if it is
 * not published, has no published root, and is in no tracked schema.  This
 * check takes a few look-ups by key and no lock, whatever the size of the
 * database.
 *
 * The attached or detached table is read from the command, and the root of a
 * partition from the catalog.  The arguments of a trigger count only for the
 * table that the command has detached, because any owner can write them.
 *
 * Only the command's own table, and the tables that it has attached or
 * detached, are locked or changed.  The command has locked these already,
 * except for tables below a detached table and for partitions of a table that
 * moves into a tracked schema.
 *
 * The user who creates a table need not have the right to track it.  The owner
 * of the root or the schema has asked for tracking, so it is done with the
 * rights of the extension's owner, and only by functions of the server.  That
 * owner is usually a superuser.  If he has lost SUPERUSER, the rights of the
 * command's user are used instead.  These are enough for everything but
 * partitions of other owners.
 *
 * Expected obstacles are checked before and cause only a warning, because the
 * command's user has not caused them: a user's trigger of the same name, or
 * missing rights.  The history stays true: bemi.tracked shows the problem of a
 * table that is published without bemi's trigger, and a table that cannot be
 * published is not recorded as tracked.  Any other error (lock timeouts,
 * deadlocks, a full lock table, cancellation) is an error of the command.
 *
 * What must never happen: a table of a tracked schema or root is created and
 * silently not tracked, because its history would be wrong.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
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
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_follow_ddl);

/*
 * Switches to the role whose rights tables are changed with, until
 * bemi_act_as_before().
 */
static void
act_on_tables(BemiRights *former)
{
	bemi_act_as_owner(former);
	if (!superuser())
		bemi_act_as_before(former);
}

/*
 * Why the server's functions would fail to change the trigger and the replica
 * identity of a table now; NULL if they would not.
 */
static const char *
tracking_obstacle(const BemiTable *table, const BemiTrigger *trigger)
{
	if (OidIsValid(trigger->oid) && !trigger->ours)
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
 * Sets only the replica identity, for a table that cannot have bemi's trigger,
 * because its updates would fail without one.
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
 * Prepares a table that is published with its root, unless it already has
 * bemi's trigger; another identity is then the user's choice.
 */
static void
prepare_published(const BemiTable *table, const BemiTrigger *trigger)
{
	const char *reason;

	if (trigger->ours || bemi_table_untrackable(table) != NULL)
		return;
	reason = tracking_obstacle(table, trigger);
	if (reason == NULL)
		bemi_table_prepare(table->oid, table->root);
	else if (table->identity != REPLICA_IDENTITY_FULL)
	{
		warn_of_obstacle(table, reason);
		set_full_identity(table);
	}
}

/*
 * Follows an attached table that was tracked by itself.
 */
static void
follow_attached_published(const BemiTable *table, BemiTrigger *trigger)
{
	const char *reason = tracking_obstacle(table, trigger);

	if (reason == NULL)
		bemi_track_attached(table->oid, trigger);
	else
	{
		warn_of_obstacle(table, reason);
		bemi_unpublish_table(table->oid);
	}
}

/*
 * Follows a table that was attached to a tracked one, or is below such a
 * table.
 */
static void
follow_attached(Oid relation)
{
	BemiTable	table;
	BemiTrigger trigger;

	if (!bemi_table_look_up(relation, &table))
		return;
	bemi_table_trigger(relation, &trigger);
	if (!trigger.ours)
	{
		prepare_published(&table, &trigger);
		bemi_table_trigger(relation, &trigger);
	}
	if (bemi_is_published(relation))
		follow_attached_published(&table, &trigger);
	else if (bemi_table_look_up(relation, &table) &&
			 bemi_table_untrackable(&table) == NULL)
		set_full_identity(&table);
	bemi_table_invalidate(relation);
}

static void
follow_attached_tree(Oid relation)
{
	ListCell   *cell;

	foreach(cell, bemi_relation_tree(relation))
	{
		follow_attached(lfirst_oid(cell));
	}
}

/*
 * Removes from a table what tracking has added to it.
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
				 errmsg("could not remove trigger \"%s\" from table \"%s\"",
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
 * Whether a detached table is tracked by itself from now on.  It is if it was
 * tracked before it was attached.  Its owner may have written that into the
 * trigger himself, so he must have the right to track.
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
 * Tracks a detached table by itself.  If it used the rules of its root, it
 * gets a copy of them.
 */
static void
track_detached(const BemiTable *table, BemiTrigger *trigger, Oid root)
{
	ListCell   *membership =
		list_nth_cell(trigger->arguments, BEMI_MEMBERSHIP);
	const char *reason = tracking_obstacle(table, trigger);

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
 * Follows a table that was detached from a tracked one.  If it is no longer
 * tracked, its trigger is removed and its former replica identity restored.
 */
static void
follow_detached(Oid relation, Oid root)
{
	BemiTable	table;
	BemiTrigger trigger;
	bool		was_published;

	if (!bemi_table_look_up(relation, &table) || table.is_partition)
		return;
	bemi_table_trigger(relation, &trigger);
	was_published = bemi_is_published(relation);
	if (table_stays_tracked(&table, &trigger))
		track_detached(&table, &trigger, root);
	else
		restore_untracked_tree(&table);
	/* To publish it has emitted it. */
	if (was_published || !bemi_is_published(relation))
		bemi_emit_tracked_tree(relation);
	bemi_table_invalidate_tree(&table);
}

/*
 * Follows a new virtual generated column of a tracked table, with which every
 * further write would fail.  Returns whether the table is still tracked.
 */
static bool
follow_virtual_column(const BemiTable *table)
{
	const char *reason = bemi_table_untrackable(table);
	BemiTable	root;
	ListCell   *cell;

	/* Its partitions have the column, too, and the command has locked them. */
	if (reason == NULL)
	{
		ereport(WARNING,
				(errmsg("before is no longer complete in changes of table \"%s\"",
						NameStr(table->name)),
				 errdetail("It has a virtual generated column, which cannot be part of a replica identity.")));
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
 * Whether an altered table is still tracked.
 */
static bool
stays_tracked(const BemiTable *table)
{
	BemiRights	former;
	bool		stays_tracked;

	if (table->identity != REPLICA_IDENTITY_FULL ||
		bemi_table_can_be_full(table))
		return true;
	act_on_tables(&former);
	stays_tracked = follow_virtual_column(table);
	bemi_act_as_before(&former);
	return stays_tracked;
}

/*
 * Whether a subcommand changes which old values a partition sends, or whether
 * it sends its changes at all.
 */
static bool
is_change_of_root(AlterTableType subcommand)
{
	return subcommand == AT_ReplicaIdentity ||
		subcommand == AT_SetLogged || subcommand == AT_SetUnLogged;
}

/*
 * Whether the command has changed the name or the replica identity of a root.
 * The stream sends these with changes of partitions, but the server does not
 * invalidate the partitions.
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
 * Whether a table is tracked because of its schema.  Partitions are tracked
 * with their root, and members of extensions only by bemi.track().
 */
static bool
is_tracked_with_schema(const BemiTable *table)
{
	return !table->is_partition && bemi_schema_is_tracked(table->schema) &&
		bemi_table_untrackable(table) == NULL &&
		!OidIsValid(getExtensionOfObject(RelationRelationId, table->oid));
}

/*
 * Prepares a published table that was created or altered, if it is tracked
 * because of its root or schema, or may have partitions.
 */
static void
prepare_altered(const BemiTable *table)
{
	BemiTrigger trigger;
	BemiRights	former;

	if (table->has_trigger)
		return;
	bemi_table_trigger(table->oid, &trigger);
	if (trigger.ours ||
		(table->oid == table->root &&
		 table->kind != RELKIND_PARTITIONED_TABLE &&
		 !is_tracked_with_schema(table)))
		return;
	act_on_tables(&former);
	prepare_published(table, &trigger);
	bemi_act_as_before(&former);
}

/*
 * Follows tables that were attached to a published table, or detached from it.
 */
static void
follow_moved(const BemiTable *table, const List *attached,
			 const List *detached)
{
	BemiRights	former;
	ListCell   *cell;

	if (attached == NIL && detached == NIL)
		return;
	act_on_tables(&former);
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
	bemi_act_as_before(&former);
}

/*
 * Follows a table that is published, by itself or with its root, and was
 * created or altered.
 */
static void
follow_published(const BemiTable *table, const CollectedCommand *command)
{
	/* With the rights of the user. */
	List	   *attached = bemi_command_partitions(command, true);
	List	   *detached = bemi_command_partitions(command, false);

	bemi_publication_invalidate(table->root);
	if (!stays_tracked(table))
		return;
	prepare_altered(table);
	follow_moved(table, attached, detached);

	/* The message contains whether all partitions are FULL and logged. */
	if (table->oid == table->root || attached != NIL || detached != NIL ||
		table->persistence == RELPERSISTENCE_UNLOGGED || changes_root(command))
		bemi_emit_tracked(table->root);
	if (table->oid == table->root && changes_root(command))
		bemi_table_invalidate_tree(table);
	if (table->is_partition || table->kind == RELKIND_PARTITIONED_TABLE)
		bemi_warn_of_missing_values(table->oid);
}

/*
 * Tracks a table that is in a tracked schema and not published.
 */
static void
track_with_schema(const BemiTable *table)
{
	BemiTrigger trigger;
	const char *reason;
	List	   *done = NIL;
	List	   *more;
	ListCell   *cell;

	bemi_table_trigger(table->oid, &trigger);
	reason = tracking_obstacle(table, &trigger);
	if (reason == NULL)
		reason = obstacle_to_publish();
	if (reason != NULL)
	{
		warn_of_obstacle(table, reason);
		return;
	}
	bemi_table_prepare(table->oid, table->oid);

	/*
	 * As in track_tree() of track.c: a table that another session attaches to
	 * a partition becomes visible only after the partition is locked.
	 */
	while ((more = list_difference_oid(bemi_table_tree(table), done)) != NIL)
	{
		foreach(cell, more)
		{
			BemiTable	partition;

			if (bemi_table_look_up(lfirst_oid(cell), &partition))
			{
				bemi_table_trigger(partition.oid, &trigger);
				prepare_published(&partition, &trigger);
			}
		}
		done = list_concat(done, more);
	}
	bemi_publish_table(table->oid);
}

/*
 * Follows a table that inherits from an altered one and was altered with it,
 * under the command's lock.
 */
static void
follow_heir(Oid relation)
{
	BemiTable	heir;

	if (bemi_is_published(relation) && bemi_table_look_up(relation, &heir) &&
		stays_tracked(&heir))
		bemi_emit_tracked(relation);
}

/*
 * Does ALTER TABLE alter the table's columns, or may it?  ATTACH and DETACH of
 * a partition do nothing else.
 */
static bool
command_alters_columns(const CollectedCommand *command)
{
	const CollectedATSubcmd *first;

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
 * Does the command alter what inherits from the table, too?
 */
static bool
command_alters_heirs(const CollectedCommand *command)
{
	if (command->type == SCT_Simple && IsA(command->parsetree, RenameStmt))
		return ((RenameStmt *) command->parsetree)->renameType ==
			OBJECT_COLUMN;
	return command_alters_columns(command);
}

/*
 * Follows all tables that inherit from an altered one.  That one need not be
 * tracked, and can be a foreign table.  Partitions of a published table need
 * no message of their own.
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
 * Follows a table that was created or altered.
 */
static void
follow_table(const BemiTable *table, const CollectedCommand *command)
{
	BemiRights	former;

	if (bemi_is_published(table->root))
		follow_published(table, command);
	else if (is_tracked_with_schema(table))
	{
		act_on_tables(&former);
		track_with_schema(table);
		bemi_act_as_before(&former);
	}
}

/*
 * Follows a relation that was created or altered.
 */
static void
follow_relation(const BemiTable *table, const CollectedCommand *command)
{
	/* The rows of a foreign table are not in the stream. */
	if (table->kind == RELKIND_FOREIGN_TABLE && table->is_partition)
		bemi_emit_tracked(table->root);
	if ((table->kind == RELKIND_RELATION ||
		 table->kind == RELKIND_PARTITIONED_TABLE) &&
		table->persistence != RELPERSISTENCE_TEMP)
		follow_table(table, command);
	follow_heirs(table, command);
}

/*
 * Adds the users of a type: types that depend on it, and the row types of
 * tables that do.
 */
static List *
add_type_users(List *types, Oid type)
{
	ListCell   *cell;

	foreach(cell, bemi_type_dependents(type))
	{
		const ObjectAddress *object = lfirst(cell);
		Oid			user = InvalidOid;

		if (object->classId == TypeRelationId)
			user = object->objectId;
		else if (object->classId == RelationRelationId)
			user = get_rel_type_id(object->objectId);
		if (OidIsValid(user))
			types = list_append_unique_oid(types, user);
	}
	return types;
}

/*
 * Emits the descriptions of all tracked tables that use an altered row type:
 * in a column, an array, a domain or another composite.  These tables are not
 * locked.
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
 * Whether a renamed column may have rules.  The columns of inheriting tables
 * are renamed with it, and those of typed tables with an attribute of their
 * type, so these may have rules, too.
 */
static bool
may_have_rules(BemiTable *table)
{
	BemiTrigger trigger;

	if (table->has_children || table->kind == RELKIND_COMPOSITE_TYPE)
		return true;
	bemi_table_trigger(table->oid, &trigger);
	table->has_trigger = trigger.ours;
	return list_length(trigger.arguments) > BEMI_RULES;
}

/*
 * Gives a renamed column its rules.
 */
static void
follow_renamed_column(BemiTable *table, const CollectedCommand *command)
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
 * Follows a new trigger.  If it is bemi's, it may have set rules.
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
	if (command_alters_columns(collected) ||
		IsA(collected->parsetree, RenameStmt))
		follow_row_type(&table);
}

/*
 * Whether the command's text creates a temporary table.  A table that is
 * temporary because of its schema is recognized later.
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
	 * The second transaction of DETACH CONCURRENTLY has no snapshot, but
	 * deleting TOAST values of a catalog row needs one.
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
