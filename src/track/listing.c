/*-------------------------------------------------------------------------
 *
 * listing.c
 *		Follows the list of tables of the publication "bemi".
 *
 * The publication determines which tables are in the history.  So each change
 * of it is emitted as a tracking message (message.c): tables that are added or
 * dropped, options that concern all of its tables, and its name.
 *
 * Input: the events of two event triggers.  The one for dropped objects fires
 * for every command that drops something, because a table can be dropped
 * together with anything that it depends on: a schema, a type, a function, an
 * extension, a role.  It reads only the list of dropped objects, unless a
 * table of the publication is among them.
 *
 * Everything is found by OID.  A table that was dropped, or is no longer
 * published, is found by the row of pg_publication_rel that the command has
 * deleted.  What must never happen: a table leaves the publication, and the
 * worker does not learn it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "commands/event_trigger.h"
#include "nodes/parsenodes.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_follow_publication);
PG_FUNCTION_INFO_V1(bemi_follow_unpublished);

static void
refuse_all_tables(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("publication \"%s\" must list its tables",
					BEMI_PUBLICATION),
			 errdetail("All tables would include the history itself."),
			 errhint("SELECT bemi.track_schema('public'); tracks all tables of a schema, also later ones.")));
}

static void
refuse_schema(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("publication \"%s\" must list its tables one by one",
					BEMI_PUBLICATION),
			 errdetail("Tables that are published with their schema have no context, and bemi cannot know since when they are published."),
			 errhint("SELECT bemi.track_schema(...); tracks all tables of a schema, also later ones.")));
}

/*
 * Emits all tables, after the publication has got new options or its name.
 */
static void
emit_all_tracked(Oid publication)
{
	ListCell   *cell;

	if (GetPublication(publication)->alltables)
		refuse_all_tables();
	foreach(cell, GetPublicationRelations(publication, PUBLICATION_PART_ROOT))
	{
		bemi_emit_tracked(lfirst_oid(cell));
	}
}

/*
 * Emits that tracking of all tables has ended, because the publication has
 * lost the name that the worker uses.
 */
static void
emit_all_tracking_ended(Oid publication)
{
	ListCell   *cell;

	foreach(cell, GetPublicationRelations(publication, PUBLICATION_PART_ROOT))
	{
		Oid			relation = lfirst_oid(cell);

		bemi_emit_tracking_ended(relation,
								 get_namespace_name(
													get_rel_namespace(relation)),
								 get_rel_name(relation));
	}
}

/*
 * Whether the command has renamed the publication away.
 */
static bool
command_removes_name(const Node *command)
{
	const RenameStmt *rename = (const RenameStmt *) command;

	return IsA(command, RenameStmt) &&
		rename->renameType == OBJECT_PUBLICATION &&
		strcmp(strVal(rename->object), BEMI_PUBLICATION) == 0;
}

/*
 * Emits a table that was added to a publication.
 */
static void
emit_added_table(Oid row, Oid publication)
{
	HeapTuple	tuple = SearchSysCache1(PUBLICATIONREL, ObjectIdGetDatum(row));
	Form_pg_publication_rel form;

	if (!HeapTupleIsValid(tuple))
		return;
	form = (Form_pg_publication_rel) GETSTRUCT(tuple);
	if (form->prpubid == publication)
		bemi_emit_tracked_tree(form->prrelid);
	ReleaseSysCache(tuple);
}

/*
 * Event trigger function for CREATE PUBLICATION and ALTER PUBLICATION.  The
 * server lists the tables and schemas that were added, or the publication
 * itself if it was created or altered.
 */
Datum
bemi_follow_publication(PG_FUNCTION_ARGS)
{
	Oid			publication = get_publication_oid(BEMI_PUBLICATION, true);
	ListCell   *cell;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.follow_publication");
	foreach(cell, bemi_collected_commands())
	{
		const BemiCommand *command = lfirst(cell);

		if (command->catalog == PublicationRelRelationId)
			emit_added_table(command->object, publication);
		else if (OidIsValid(publication) &&
				 bemi_publication_of_schema(command->catalog,
											command->object) == publication)
			refuse_schema();
		else if (command->catalog != PublicationRelationId)
			continue;
		else if (command->object == publication)
			emit_all_tracked(publication);
		else if (command_removes_name(
									  ((EventTriggerData *) fcinfo->context)
									  ->parsetree))
			emit_all_tracking_ended(command->object);
	}
	PG_RETURN_VOID();
}

/*
 * The table of a deleted row of pg_publication_rel; InvalidOid if the row
 * cannot be found.
 */
static Oid
table_of_deleted_row(Oid row)
{
	HeapTuple	tuple =
		bemi_deleted_row(PublicationRelRelationId, PublicationRelObjectIndexId,
						 Anum_pg_publication_rel_oid, row);

	return tuple ? ((Form_pg_publication_rel) GETSTRUCT(tuple))->prrelid :
		InvalidOid;
}

/*
 * Emits that tracking has ended: a table was removed from the publication,
 * dropped, or the publication was dropped.
 */
static void
follow_removed(const BemiDropped *dropped)
{
	Oid			relation;

	if (dropped->publication == NULL ||
		strcmp(dropped->publication, BEMI_PUBLICATION) != 0)
		return;
	relation = table_of_deleted_row(dropped->object);
	bemi_emit_tracking_ended(relation, dropped->schema, dropped->table);
	if (OidIsValid(relation))
		bemi_emit_tracked_tree(relation);
}

/*
 * Event trigger function for all commands that drop objects.
 */
Datum
bemi_follow_unpublished(PG_FUNCTION_ARGS)
{
	ListCell   *cell;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.follow_unpublished");
	foreach(cell, bemi_dropped_tables())
	{
		const BemiDropped *dropped = lfirst(cell);

		if (dropped->catalog == PublicationRelRelationId)
			follow_removed(dropped);
		else
			bemi_follow_dropped_table(dropped);
	}
	PG_RETURN_VOID();
}
