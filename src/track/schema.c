/*-------------------------------------------------------------------------
 *
 * schema.c
 *		Tracked schemas, all of whose tables are tracked: bemi.tracked_schemas.
 *
 * A row counts only in the database in which it was inserted, because a dump
 * contains the table.  It is found by the schema's OID, with an index.  The
 * event triggers here update the schema's name in it, and delete it with the
 * schema.  Renaming or dropping another schema costs one look-up.  What must
 * never happen: a new schema that gets the OID of a dropped one is tracked.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type_d.h"
#include "commands/event_trigger.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_enter_schema);
PG_FUNCTION_INFO_V1(bemi_is_schema_tracked);
PG_FUNCTION_INFO_V1(bemi_follow_renamed_schemas);
PG_FUNCTION_INFO_V1(bemi_forget_dropped_schemas);

/* Columns of bemi.tracked_schemas. */
#define SCHEMA_COLUMN		1
#define SCHEMA_OID_COLUMN	2
#define ENABLED_IN_COLUMN		3

/*
 * Whether a row belongs to this database, see _bemi.this_database().
 */
static bool
is_of_this_database(HeapTuple tuple, TupleDesc columns)
{
	bool		is_null;
	Datum		enabled_in =
		heap_getattr(tuple, ENABLED_IN_COLUMN, columns, &is_null);

	return strcmp(TextDatumGetCString(enabled_in),
				  psprintf(INT64_FORMAT "/%u", (int64) GetSystemIdentifier(),
						   MyDatabaseId)) == 0;
}

/*
 * Whether there is a row with this key, of this database or of any.
 */
static bool
has_schema_row(const char *index_name, ScanKey key, bool of_any_database)
{
	Oid			own_schema = get_namespace_oid(BEMI_SCHEMA, true);
	Oid			table = get_relname_relid("tracked_schemas", own_schema);
	Oid			index = get_relname_relid(index_name, own_schema);
	Relation	rows;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	if (!OidIsValid(table))
		return false;			/* CREATE EXTENSION is running */
	rows = table_open(table, AccessShareLock);
	scan = systable_beginscan(rows, index, OidIsValid(index), NULL, 1, key);
	while (!found && HeapTupleIsValid(tuple = systable_getnext(scan)))
		found = of_any_database ||
			is_of_this_database(tuple, RelationGetDescr(rows));
	systable_endscan(scan);
	table_close(rows, AccessShareLock);
	return found;
}

/*
 * Whether all tables of the schema are tracked.
 */
bool
bemi_schema_is_tracked(Oid schema)
{
	ScanKeyData key;

	ScanKeyInit(&key, SCHEMA_OID_COLUMN, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(schema));
	return has_schema_row("tracked_schemas_schema_oid_idx", &key, false);
}

/*
 * Whether there is a row with this name.  It may have come with a dump.
 */
static bool
is_name_tracked(const char *schema)
{
	ScanKeyData key;
	NameData	name;

	namestrcpy(&name, schema);
	ScanKeyInit(&key, SCHEMA_COLUMN, BTEqualStrategyNumber, F_NAMEEQ,
				NameGetDatum(&name));
	return has_schema_row("tracked_schemas_pkey", &key, true);
}

/*
 * Emits the tables of a renamed schema.  Their partitions in other schemas are
 * stored under the name of their root, too.
 */
static void
emit_new_names(Oid schema)
{
	Oid			publication = get_publication_oid(BEMI_PUBLICATION, true);
	ListCell   *cell;

	if (!OidIsValid(publication))
		return;
	foreach(cell, GetPublicationRelations(publication, PUBLICATION_PART_ROOT))
	{
		BemiTable	table;

		if (!bemi_table_look_up(lfirst_oid(cell), &table) ||
			table.schema != schema)
			continue;
		bemi_emit_tracked(table.oid);
		bemi_table_invalidate_tree(&table);
	}
}

/*
 * _bemi.follow_renamed_schemas(), for ALTER SCHEMA
 */
Datum
bemi_follow_renamed_schemas(PG_FUNCTION_ARGS)
{
	EventTriggerData *event = (EventTriggerData *) fcinfo->context;
	const RenameStmt *rename;
	Oid			schema;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.follow_renamed_schemas");
	if (!IsA(event->parsetree, RenameStmt))
		PG_RETURN_VOID();		/* OWNER TO */
	rename = (const RenameStmt *) event->parsetree;
	schema = get_namespace_oid(rename->newname, true);
	if (bemi_schema_is_tracked(schema) || is_name_tracked(rename->newname))
		bemi_sql_run_as_owner("SELECT _bemi.rename_tracked_schemas()", NULL,
							  0);
	emit_new_names(schema);
	PG_RETURN_VOID();
}

/*
 * _bemi.forget_dropped_schemas(), for sql_drop: a new schema may get the OID
 * of a dropped one.
 */
Datum
bemi_forget_dropped_schemas(PG_FUNCTION_ARGS)
{
	ListCell   *cell;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.forget_dropped_schemas");
	foreach(cell, bemi_dropped_objects(NamespaceRelationId))
	{
		BemiValue	schema = bemi_sql_oid(OIDOID, lfirst_oid(cell));

		if (bemi_schema_is_tracked(lfirst_oid(cell)))
			bemi_sql_run_as_owner("SELECT _bemi.forget_tracked_schema($1)",
								  &schema, 1);
	}
	PG_RETURN_VOID();
}

/*
 * _bemi.is_tracked_schema(target regnamespace)
 */
Datum
bemi_is_schema_tracked(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bemi_schema_is_tracked(PG_GETARG_OID(0)));
}

/*
 * _bemi.enter_schema(target regnamespace, desired boolean)
 */
Datum
bemi_enter_schema(PG_FUNCTION_ARGS)
{
	BemiValue	arguments[] = {
		bemi_sql_oid(REGNAMESPACEOID, PG_GETARG_OID(0)),
		bemi_sql_bool(PG_GETARG_BOOL(1))
	};

	bemi_sql_run("SELECT _bemi.check_schema_tracker($1, $2)", arguments,
				 lengthof(arguments));
	bemi_sql_run_as_owner("SELECT _bemi.set_tracked_schema($1, $2)", arguments,
						  lengthof(arguments));
	PG_RETURN_VOID();
}
