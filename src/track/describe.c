/*-------------------------------------------------------------------------
 *
 * describe.c
 *		Describes a table for the worker: the facts that the stream lacks.
 *
 * Input: a table's OID.  Output: a JSON object, palloc'd:
 *
 *	{"redact": ["card"], "key": ["id"], "columns": ["id", "card"],
 *	 "attributes": [[1, "id", "integer"], [3, "card", "text"]], "partly": false,
 *	 "types": [["16402", "d", "23", null], ...]}
 *
 * with the rules of the table, or of its root if it is a partition.
 * stream/descriptions.c explains the other members; its query returns the same
 * for a source without the extension.  "rules": "unknown" means that the
 * trigger has been dropped, and the worker keeps the known rules.  "stale":
 * true is set for a partition whose changes are stored under the name of its
 * root, because no message updates its own description.
 *
 * Everything is read from the catalogs with a snapshot, because the worker
 * needs the descriptions at the position of a new slot.  The server's caches
 * have only the current state, so they are used if no snapshot is given, and
 * for built-in types, which never change.
 *
 * What must never happen: a table is locked or SQL runs, because this is
 * called within every user's DDL, with the rights of a superuser.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_cast.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/json.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_describe_table);

/* How the server qualifies the names of its own types. */
#define SERVER_SCHEMA	"pg_catalog."

/* A column of a table, or a field of a composite type. */
typedef struct Column
{
	AttrNumber	number;
	char	   *name;
	Oid			type;
	int32		modifier;
} Column;

/*
 * Copies of the rows of a catalog that an index finds by these keys.  Snapshot
 * NULL: the current state.
 */
static List *
rows_with_keys(Oid catalog, Oid index, ScanKey keys, int count,
			   Snapshot snapshot)
{
	Relation	relation = table_open(catalog, AccessShareLock);
	List	   *rows = NIL;
	SysScanDesc scan;
	HeapTuple	tuple;

	scan = systable_beginscan(relation, index, true, snapshot, count, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
		rows = lappend(rows, heap_copytuple(tuple));
	systable_endscan(scan);
	table_close(relation, AccessShareLock);
	return rows;
}

/*
 * The same for an OID in the first column of the index.
 */
List *
bemi_catalog_rows(Oid catalog, Oid index, AttrNumber column, Oid oid,
				  Snapshot snapshot)
{
	ScanKeyData key;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	return rows_with_keys(catalog, index, &key, 1, snapshot);
}

/*
 * The same for a single row; NULL if there is none.
 */
static HeapTuple
catalog_row(Oid catalog, Oid index, AttrNumber column, Oid oid,
			Snapshot snapshot)
{
	List	   *rows =
		bemi_catalog_rows(catalog, index, column, oid, snapshot);

	return rows == NIL ? NULL : linitial(rows);
}

static Form_pg_class
class_row(Oid relation, Snapshot snapshot)
{
	HeapTuple	tuple =
		snapshot == NULL ?
		SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(relation)) :
		catalog_row(RelationRelationId, ClassOidIndexId, Anum_pg_class_oid,
					relation, snapshot);

	return HeapTupleIsValid(tuple) ? (Form_pg_class) GETSTRUCT(tuple) : NULL;
}

static Form_pg_type
type_row(Oid type, Snapshot snapshot)
{
	HeapTuple	tuple =
		snapshot == NULL || type < FirstGenbkiObjectId ?
		SearchSysCacheCopy1(TYPEOID, ObjectIdGetDatum(type)) :
		catalog_row(TypeRelationId, TypeOidIndexId, Anum_pg_type_oid, type,
					snapshot);

	return HeapTupleIsValid(tuple) ? (Form_pg_type) GETSTRUCT(tuple) : NULL;
}

/*
 * The columns of a relation, in their order, without dropped ones.
 */
static List *
described_columns(Oid relation, Snapshot snapshot)
{
	List	   *columns = NIL;
	ScanKeyData keys[2];
	ListCell   *cell;

	ScanKeyInit(&keys[0], Anum_pg_attribute_attrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relation));
	ScanKeyInit(&keys[1], Anum_pg_attribute_attnum, BTGreaterStrategyNumber,
				F_INT2GT, Int16GetDatum(0));
	foreach(cell,
			rows_with_keys(AttributeRelationId, AttributeRelidNumIndexId, keys,
						   lengthof(keys), snapshot))
	{
		Form_pg_attribute row =
			(Form_pg_attribute) GETSTRUCT((HeapTuple) lfirst(cell));
		Column	   *column;

		if (row->attisdropped)
			continue;
		column = palloc(sizeof(Column));
		column->number = row->attnum;
		column->name = NameStr(row->attname);
		column->type = row->atttypid;
		column->modifier = row->atttypmod;
		columns = lappend(columns, column);
	}
	return columns;
}

/*
 * The parent of a partition, InvalidOid if the relation is not one.
 */
static Oid
described_parent(Oid relation, Snapshot snapshot)
{
	Form_pg_class row = class_row(relation, snapshot);
	HeapTuple	parent = row != NULL && row->relispartition ?
		catalog_row(InheritsRelationId, InheritsRelidSeqnoIndexId,
					Anum_pg_inherits_inhrelid, relation, snapshot) :
		NULL;

	if (parent == NULL ||
		((Form_pg_inherits) GETSTRUCT(parent))->inhdetachpending)
		return InvalidOid;
	return ((Form_pg_inherits) GETSTRUCT(parent))->inhparent;
}

static bool
publication_is_ours(Oid publication, Snapshot snapshot)
{
	HeapTuple	row =
		catalog_row(PublicationRelationId, PublicationObjectIndexId,
					Anum_pg_publication_oid, publication, snapshot);

	return row != NULL &&
		strcmp(NameStr(((Form_pg_publication) GETSTRUCT(row))->pubname),
			   BEMI_PUBLICATION) == 0;
}

/*
 * Like bemi_is_published(), at the time of the snapshot.
 */
static bool
was_published(Oid relation, Snapshot snapshot)
{
	ListCell   *cell;

	foreach(cell,
			bemi_catalog_rows(PublicationRelRelationId,
							  PublicationRelPrrelidPrpubidIndexId,
							  Anum_pg_publication_rel_prrelid, relation,
							  snapshot))
	{
		Form_pg_publication_rel row =
			(Form_pg_publication_rel) GETSTRUCT((HeapTuple) lfirst(cell));

		if (publication_is_ours(row->prpubid, snapshot))
			return true;
	}
	return false;
}

/*
 * Like bemi_partition_root(), at the time of the snapshot.
 */
static Oid
described_root(Oid relation, Snapshot snapshot)
{
	Oid			published = InvalidOid;
	Oid			topmost;

	if (snapshot == NULL)
		return bemi_partition_root(relation);
	do
	{
		if (was_published(relation, snapshot))
			published = relation;
		topmost = relation;
		relation = described_parent(relation, snapshot);
	} while (OidIsValid(relation));
	return OidIsValid(published) ? published : topmost;
}

/*
 * Appends a key of an object.
 */
static void
append_key(StringInfo text, const char *key)
{
	if (text->data[text->len - 1] != '{')
		appendStringInfoString(text, ", ");
	appendStringInfo(text, "\"%s\": ", key);
}

/*
 * Appends a name to an array.
 */
static void
append_name(StringInfo text, const char *name)
{
	if (text->data[text->len - 1] != '[')
		appendStringInfoString(text, ", ");
	escape_json(text, name);
}

static void
append_columns(StringInfo text, const List *columns)
{
	ListCell   *cell;

	append_key(text, "columns");
	appendStringInfoChar(text, '[');
	foreach(cell, columns)
	{
		append_name(text, ((Column *) lfirst(cell))->name);
	}
	appendStringInfoChar(text, ']');
}

/*
 * The columns with their numbers and types, for _bemi.schema_changes.  The
 * names of types are those of today.  They are qualified, except for the
 * server's own, because the user's search_path must not matter.
 */
static void
append_attributes(StringInfo text, const List *columns)
{
	const char *separator = "";
	ListCell   *cell;

	append_key(text, "attributes");
	appendStringInfoChar(text, '[');
	foreach(cell, columns)
	{
		Column	   *column = lfirst(cell);
		char	   *type = format_type_extended(column->type, column->modifier,
												FORMAT_TYPE_TYPEMOD_GIVEN |
												FORMAT_TYPE_ALLOW_INVALID |
												FORMAT_TYPE_FORCE_QUALIFY);

		if (strncmp(type, SERVER_SCHEMA, strlen(SERVER_SCHEMA)) == 0)
			type += strlen(SERVER_SCHEMA);
		appendStringInfo(text, "%s[%d, ", separator, column->number);
		escape_json(text, column->name);
		appendStringInfoString(text, ", ");
		escape_json(text, type);
		appendStringInfoChar(text, ']');
		separator = ", ";
	}
	appendStringInfoChar(text, ']');
}

static void
append_column_of_key(StringInfo text, const List *columns, AttrNumber number)
{
	ListCell   *cell;

	foreach(cell, columns)
	{
		if (((Column *) lfirst(cell))->number == number)
			append_name(text, ((Column *) lfirst(cell))->name);
	}
}

/*
 * The primary key's columns, in key order.  Columns that the index only
 * includes are no part of the key.
 */
static void
append_primary_key(StringInfo text, Oid relation, const List *columns,
				   Snapshot snapshot)
{
	ListCell   *cell;

	append_key(text, "key");
	appendStringInfoChar(text, '[');
	foreach(cell,
			bemi_catalog_rows(IndexRelationId, IndexIndrelidIndexId,
							  Anum_pg_index_indrelid, relation, snapshot))
	{
		Form_pg_index index =
			(Form_pg_index) GETSTRUCT((HeapTuple) lfirst(cell));

		for (int i = 0; index->indisprimary && i < index->indnkeyatts; i++)
			append_column_of_key(text, columns, index->indkey.values[i]);
	}
	appendStringInfoChar(text, ']');
}

/*
 * Whether a table or one of its partitions has another replica identity than
 * FULL.  Partitioned tables have no rows, so theirs does not count.
 */
static bool
is_partly_full(Oid relation, Snapshot snapshot)
{
	Form_pg_class row = class_row(relation, snapshot);
	ListCell   *cell;

	CHECK_FOR_INTERRUPTS();
	if (row == NULL)
		return false;
	if (row->relkind != RELKIND_PARTITIONED_TABLE)
		return row->relreplident != REPLICA_IDENTITY_FULL;
	foreach(cell,
			bemi_catalog_rows(InheritsRelationId, InheritsParentIndexId,
							  Anum_pg_inherits_inhparent, relation, snapshot))
	{
		Form_pg_inherits child =
			(Form_pg_inherits) GETSTRUCT((HeapTuple) lfirst(cell));

		if (!child->inhdetachpending &&
			is_partly_full(child->inhrelid, snapshot))
			return true;
	}
	return false;
}

static bool
is_partitioned_table(Oid relation, Snapshot snapshot)
{
	Form_pg_class row = class_row(relation, snapshot);

	return row != NULL && row->relkind == RELKIND_PARTITIONED_TABLE;
}

static List *
add_types_of(List *types, const List *columns)
{
	ListCell   *cell;

	foreach(cell, columns)
	{
		types = list_append_unique_oid(types, ((Column *) lfirst(cell))->type);
	}
	return types;
}

/*
 * Adds the types that a type is composed of.
 */
static List *
add_types_within(List *types, Oid type, Snapshot snapshot)
{
	Form_pg_type row = type_row(type, snapshot);

	if (row == NULL)
		return types;
	if (OidIsValid(row->typbasetype))
		types = list_append_unique_oid(types, row->typbasetype);
	if (OidIsValid(row->typelem))
		types = list_append_unique_oid(types, row->typelem);
	if (OidIsValid(row->typrelid))
		types =
			add_types_of(types, described_columns(row->typrelid, snapshot));
	return types;
}

/*
 * All types in a table's columns, directly or within other types, in the order
 * of their OIDs.
 */
static List *
all_types_of(const List *columns, Snapshot snapshot)
{
	List	   *types = add_types_of(NIL, columns);

	/* The loop also visits the types that it appends. */
	for (int i = 0; i < list_length(types); i++)
	{
		CHECK_FOR_INTERRUPTS();
		types = add_types_within(types, list_nth_oid(types, i), snapshot);
	}
	list_sort(types, list_oid_cmp);
	return types;
}

/*
 * One part of a type, see BemiTypePart.
 */
static void
append_part(StringInfo text, Oid type, char kind, Oid other, const char *name)
{
	if (text->data[text->len - 1] != '[')
		appendStringInfoString(text, ", ");
	appendStringInfo(text, "[\"%u\", \"%c\", \"%u\", ", type, kind, other);
	if (name != NULL)
		escape_json(text, name);
	else
		appendStringInfoString(text, "null");
	appendStringInfoChar(text, ']');
}

static void
append_fields(StringInfo text, Oid type, const List *fields)
{
	ListCell   *cell;

	append_part(text, type, 'c', InvalidOid, NULL);
	foreach(cell, fields)
	{
		Column	   *field = lfirst(cell);

		append_part(text, type, 'f', field->type, field->name);
	}
}

/*
 * The cast to json of a base type, if it is a function in C.
 */
static void
append_json_cast(StringInfo text, Oid type, Snapshot snapshot)
{
	ListCell   *cell;

	foreach(cell, bemi_catalog_rows(CastRelationId, CastSourceTargetIndexId,
									Anum_pg_cast_castsource, type, snapshot))
	{
		Form_pg_cast cast = (Form_pg_cast) GETSTRUCT((HeapTuple) lfirst(cell));
		HeapTuple	function =
			cast->casttarget == JSONOID ?
			catalog_row(ProcedureRelationId, ProcedureOidIndexId,
						Anum_pg_proc_oid, cast->castfunc, snapshot) :
			NULL;

		if (function != NULL &&
			((Form_pg_proc) GETSTRUCT(function))->prolang == ClanguageId)
			append_part(text, type, 'j', cast->castfunc, NULL);
	}
}

/*
 * Whether a type needs no description: a built-in one without composites,
 * because their columns may differ between versions.
 */
static bool
is_well_known(Oid type, Form_pg_type row, Form_pg_type element)
{
	return type < FirstGenbkiObjectId && row->typtype != TYPTYPE_COMPOSITE &&
		!(element != NULL && element->typtype == TYPTYPE_COMPOSITE);
}

static void
append_type(StringInfo text, Oid type, Snapshot snapshot)
{
	Form_pg_type row = type_row(type, snapshot);
	Form_pg_type element = row && OidIsValid(row->typelem) ?
		type_row(row->typelem, snapshot) :
		NULL;

	if (row == NULL || is_well_known(type, row, element))
		return;
	append_part(text, type, 'b', InvalidOid, NULL);
	if (row->typtype == TYPTYPE_DOMAIN)
		append_part(text, type, 'd', row->typbasetype, NULL);

	/*
	 * A type with subscripts need not be the array type of its elements.
	 */
	if (element != NULL && element->typarray == type)
		append_part(text, type, 'a', row->typelem,
					psprintf("%c", element->typdelim));
	if (row->typtype == TYPTYPE_COMPOSITE)
		append_fields(text, type, described_columns(row->typrelid, snapshot));
	if (row->typtype == TYPTYPE_BASE)
		append_json_cast(text, type, snapshot);
}

static void
append_types(StringInfo text, const List *columns, Snapshot snapshot)
{
	ListCell   *cell;

	append_key(text, "types");
	appendStringInfoChar(text, '[');
	foreach(cell, all_types_of(columns, snapshot))
	{
		CHECK_FOR_INTERRUPTS();
		append_type(text, lfirst_oid(cell), snapshot);
	}
	appendStringInfoChar(text, ']');
}

/*
 * Appends the relation's own members of the description.
 */
static void
append_relation(StringInfo text, Oid relation, Snapshot snapshot)
{
	List	   *columns = described_columns(relation, snapshot);

	append_primary_key(text, relation, columns, snapshot);
	append_columns(text, columns);
	append_attributes(text, columns);
	append_key(text, "partly");
	appendStringInfoString(text, is_partitioned_table(relation, snapshot) &&
						   is_partly_full(relation, snapshot) ?
						   "true" :
						   "false");
	append_types(text, columns, snapshot);
}

/*
 * Describes a table, see the top of this file.  Snapshot NULL: the current
 * state.  The result is palloc'd; all other memory is in a context of its own,
 * which is deleted.
 */
char *
bemi_describe(Oid relation, Snapshot snapshot)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(caller, "bemi description",
												  ALLOCSET_DEFAULT_SIZES);
	BemiRules	rules;
	StringInfoData text;
	Oid			root;
	char	   *description;

	MemoryContextSwitchTo(scratch);
	root = described_root(relation, snapshot);
	bemi_read_rules(root, snapshot, &rules);
	initStringInfo(&text);
	appendStringInfoString(&text, bemi_rules_text(&rules));
	text.data[--text.len] = '\0';	/* the closing brace */
	if (!rules.known)
	{
		append_key(&text, "rules");
		appendStringInfoString(&text, "\"unknown\"");
	}
	if (root != relation)
	{
		append_key(&text, "stale");
		appendStringInfoString(&text, "true");
	}
	append_relation(&text, relation, snapshot);
	appendStringInfoChar(&text, '}');
	description = MemoryContextStrdup(caller, text.data);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return description;
}

/*
 * _bemi.describe(target regclass) returns jsonb: for workers that have no
 * description from the stream yet.  It uses the caller's snapshot.
 */
Datum
bemi_describe_table(PG_FUNCTION_ARGS)
{
	char	   *description =
		bemi_describe(PG_GETARG_OID(0), GetActiveSnapshot());

	return DirectFunctionCall1(jsonb_in, CStringGetDatum(description));
}
