/*-------------------------------------------------------------------------
 *
 * restore.c
 *		Tracks restored tables as they were tracked in the dump.
 *
 * A dump of single tables has bemi's trigger, with the rules, and the replica
 * identity, but not the table's place in the publication.  Without that, none
 * of its changes are stored.  So the event trigger for CREATE TRIGGER
 * publishes the table if the user may track it, and warns otherwise.
 *
 * A dump of the complete database has the same trigger, and adds the table to
 * the publication later, which would fail if it was there already.  Such a
 * dump is restored into a database that is not read yet: it has no slot of
 * bemi.  There, the function does not publish.  It warns only if there is a
 * publication, because the dump's publication may come later. bemi.start()
 * warns of tables that are still missing then.
 *
 * pg_restore shows warnings of the server only with --verbose.  So the table
 * is published where this is possible.
 *
 * The dump creates bemi's trigger after the table.  A partition whose root is
 * published already got one from ddl.c then: if it is restored alone, or if
 * pg_restore has several jobs, which may publish the root before they create
 * the keys of its partitions.  The dump's trigger replaces that one, because
 * it has the identity and the rules of the dump.
 *
 * A partition of bemi.changes grants no rights.  This equals the server's
 * default, so the dump does not state it, and a restored partition would get
 * the rights of ALTER DEFAULT PRIVILEGES.  What must never happen: others can
 * read a restored partition.  So its rights are revoked here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "extension/extension.h"
#include "track/track_internal.h"

/*
 * Whether bemi.track() has created the trigger, and the table is tracked by
 * itself and not published.  A partition follows its root.
 */
static bool
needs_publication(const FormData_pg_trigger *trigger, const BemiTable *table)
{
	return trigger->tgnargs > BEMI_MEMBERSHIP && !table->is_partition &&
		strcmp(NameStr(trigger->tgname), BEMI_TRIGGER) == 0 &&
		!bemi_is_published(table->oid);
}

/*
 * Whether the table and all its partitions have REPLICA IDENTITY FULL.
 * Updates of a published table fail without an identity.
 */
static bool
has_identities(const BemiTable *table)
{
	ListCell   *cell;

	foreach(cell, bemi_table_tree(table))
	{
		BemiTable	part;

		if (bemi_table_look_up(lfirst_oid(cell), &part) &&
			part.kind == RELKIND_RELATION &&
			part.identity != REPLICA_IDENTITY_FULL)
			return false;
	}
	return true;
}

static bool
can_publish(const BemiTable *table)
{
	return bemi_may_track(GetUserId(), table->owner) &&
		bemi_database_has_slot(MyDatabaseId) &&
		bemi_table_untrackable(table) == NULL && has_identities(table);
}

static void
warn_of_unpublished(const BemiTable *table)
{
	char	   *name = bemi_relation_name(table->oid);

	ereport(WARNING,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" is not in publication \"%s\"", name,
					BEMI_PUBLICATION),
			 errdetail("Its changes are not stored. A dump of single tables does not contain the publication."),
			 errhint("SELECT bemi.track(%s);", quote_literal_cstr(name))));
}

/*
 * Whether a command creates the trigger of bemi.track(), as a dump does.
 */
static bool
creates_own_trigger(const CreateTrigStmt *command)
{
	return strcmp(command->trigname, BEMI_TRIGGER) == 0 &&
		!command->replace && !command->isconstraint &&
		list_length(command->args) > BEMI_MEMBERSHIP &&
		OidIsValid(bemi_emit_context_oid()) &&
		LookupFuncName(command->funcname, 0, NULL, true) ==
		bemi_emit_context_oid();
}

/*
 * Called before a DDL command.  If it creates bemi's trigger, and the table
 * has one, returns a copy of the command that replaces it.  The lock is that
 * of the command, which the server takes before it checks any right, too.
 */
PlannedStmt *
bemi_replace_restored(PlannedStmt *statement)
{
	const CreateTrigStmt *command =
		(const CreateTrigStmt *) statement->utilityStmt;
	Oid			table;
	BemiTrigger trigger;

	if (!IsA(command, CreateTrigStmt) || XactReadOnly ||
		!creates_own_trigger(command))
		return statement;
	table = RangeVarGetRelid(command->relation, ShareRowExclusiveLock, true);
	if (!OidIsValid(table))
		return statement;
	bemi_table_trigger(table, &trigger);
	if (!trigger.ours)
		return statement;
	statement = copyObject(statement);
	((CreateTrigStmt *) statement->utilityStmt)->replace = true;
	return statement;
}

/*
 * Called for each trigger that CREATE TRIGGER has created for
 * bemi.emit_context().
 */
void
bemi_track_restored(const FormData_pg_trigger *trigger)
{
	BemiTable	table;

	if (!bemi_table_look_up(trigger->tgrelid, &table) ||
		!needs_publication(trigger, &table) ||
		!OidIsValid(get_publication_oid(BEMI_PUBLICATION, true)))
		return;
	if (!can_publish(&table))
	{
		warn_of_unpublished(&table);
		return;
	}
	bemi_publish_table(table.oid);
	ereport(NOTICE, (errmsg("table \"%s\" is tracked again",
							bemi_relation_name(table.oid))));
}

/*
 * Called for each table that CREATE TABLE has created.  A table in a schema of
 * bemi is a partition of the history, and has only default privileges yet.
 */
void
bemi_restore_privileges(const BemiTable *table)
{
	BemiValue	partition = bemi_sql_oid(REGCLASSOID, table->oid);

	if (bemi_is_own_schema(table->schema))
		bemi_sql_run_as_owner("SELECT _bemi.make_private($1)", &partition, 1);
}
