/*-------------------------------------------------------------------------
 *
 * history.c
 *		Opens bemi.changes and its partitions for readers in C.
 *
 * Output: bemi.changes, locked as a query locks it, and the ranges of its
 * partitions from late to early times.  A partition is locked and opened when
 * a scan needs it.
 *
 * What must never happen: a reader gets a change that a query of his would not
 * return.  A query checks the rights of the current user on bemi.changes, and
 * adds the row policies for him.  So bemi_history_open() throws the errors of
 * missing rights, and bemi_history_is_readable() is false if policies apply.
 * The server's own check runs, so the hooks of other extensions see the read,
 * once.  bemi_history_reads_by_index() checks no rights, because the read that
 * follows it does.  Partitions have no rights of their own for readers of
 * bemi.changes.
 *
 * Locks: ACCESS SHARE, until the end of the transaction.  That of bemi.changes
 * comes first.  While it is held, no partition can be dropped or detached,
 * except one whose concurrent detachment had begun before.  The active
 * snapshot decides whether that one still counts, as for a query.
 *
 * Memory: "bemi history", a child of the caller's memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "query/query_internal.h"
#include "store/store.h"

/*
 * Columns, with their types.  C code reads the bytes of a value, so another
 * type, which the owner of the table could give a column, must be an error.
 */
static const struct
{
	const char *name;
	Oid			type;
}			known_columns[BEMI_CHANGE_COLUMNS] =

{
	[BEMI_CHANGE_ID] = {"id", UUIDOID},
	[BEMI_CHANGE_SCHEMA] = {"schema", TEXTOID},
	[BEMI_CHANGE_TABLE] = {"table", TEXTOID},
	[BEMI_CHANGE_PRIMARY_KEY] = {"primary_key", TEXTOID},
	[BEMI_CHANGE_OPERATION] = {"operation", TEXTOID},
	[BEMI_CHANGE_BEFORE] = {"before", JSONBOID},
	[BEMI_CHANGE_AFTER] = {"after", JSONBOID},
	[BEMI_CHANGE_CONTEXT] = {"context", JSONBOID},
	[BEMI_CHANGE_COMMITTED_AT] = {"committed_at", TIMESTAMPTZOID},
	[BEMI_CHANGE_TRANSACTION_ID] = {"transaction_id", INT8OID},
	[BEMI_CHANGE_SOURCE] = {"source", TEXTOID}
};

/*
 * Throws the error of a query if the current user may not read all columns of
 * the table.  Extensions that observe or restrict queries see it as one.
 */
void
bemi_check_select(Relation table)
{
	TupleDesc	columns = RelationGetDescr(table);
	RangeTblEntry *entry = makeNode(RangeTblEntry);
	Bitmapset  *attnums = NULL;

	entry->rtekind = RTE_RELATION;
	entry->relid = RelationGetRelid(table);
	entry->relkind = table->rd_rel->relkind;
	entry->rellockmode = AccessShareLock;
	entry->inh = true;
	for (int i = 0; i < columns->natts; i++)
	{
		if (!TupleDescAttr(columns, i)->attisdropped)
			attnums =
				bms_add_member(attnums,
							   i + 1 - FirstLowInvalidHeapAttributeNumber);
	}
	bemi_check_permissions(entry, ACL_SELECT, attnums);
}

/*
 * Throws the error of a query if the current user may not read bemi.changes.
 */
static void
check_rights(Relation changes)
{
	AclResult	result =
		bemi_schema_aclcheck(RelationGetNamespace(changes), GetUserId());

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_SCHEMA, BEMI_SCHEMA);
	bemi_check_select(changes);
}

/*
 * Number of a column.  Nearly always it is the expected one.
 */
static AttrNumber
find_column(Relation relation, const char *name, AttrNumber expected)
{
	TupleDesc	columns = RelationGetDescr(relation);
	AttrNumber	result;

	if (expected != InvalidAttrNumber && expected <= columns->natts &&
		!TupleDescAttr(columns, expected - 1)->attisdropped &&
		strcmp(NameStr(TupleDescAttr(columns, expected - 1)->attname),
			   name) == 0)
		return expected;
	result = get_attnum(RelationGetRelid(relation), name);
	if (result == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of table \"%s\" is missing", name,
						RelationGetRelationName(relation)),
				 errhint("Columns of bemi.changes must not be renamed or dropped.")));
	return result;
}

/*
 * Records the numbers of the columns, by name, because users may have added
 * columns, and a partition may have them in another order.
 */
static void
find_columns(Relation relation, const AttrNumber *expected,
			 AttrNumber *columns)
{
	for (int i = 0; i < BEMI_CHANGE_COLUMNS; i++)
	{
		const char *name = known_columns[i].name;

		columns[i] = find_column(relation, name,
								 expected ? expected[i] : InvalidAttrNumber);
		if (TupleDescAttr(RelationGetDescr(relation),
						  columns[i] - 1)->atttypid != known_columns[i].type)
			ereport(ERROR,
					(errcode(ERRCODE_DATATYPE_MISMATCH),
					 errmsg("column \"%s\" of table \"%s\" is not of type %s",
							name, RelationGetRelationName(relation),
							format_type_be(known_columns[i].type)),
					 errhint("Types of columns of bemi.changes must not be changed.")));
	}
}

/*
 * Whether a column of a user is computed when it is read.
 */
static bool
has_virtual_columns(Relation relation)
{
	TupleDesc	columns = RelationGetDescr(relation);

	for (int i = 0; i < columns->natts; i++)
	{
		if (TupleDescAttr(columns, i)->attgenerated ==
			ATTRIBUTE_GENERATED_VIRTUAL)
			return true;
	}
	return false;
}

/*
 * Adds a partition to the list, or all tables below it.
 */
static List *
add_leaves(BemiHistory *history, List *leaves, Oid partition)
{
	char		kind = get_rel_relkind(partition);
	BemiLeaf   *leaf;

	if (kind == RELKIND_FOREIGN_TABLE)
		history->is_readable = false;
	if (kind != RELKIND_RELATION)
		return leaves;
	leaf = palloc0(sizeof(BemiLeaf));
	leaf->oid = partition;
	leaf->memory = history->memory;
	history->leaves = lappend(history->leaves, leaf);
	return lappend(leaves, leaf);
}

static List *
leaves_of_partition(BemiHistory *history, Oid partition)
{
	List	   *leaves = NIL;
	ListCell   *cell;

	if (get_rel_relkind(partition) != RELKIND_PARTITIONED_TABLE)
		return add_leaves(history, NIL, partition);
	LockRelationOid(partition, AccessShareLock);
	foreach(cell, find_all_inheritors(partition, AccessShareLock, NULL))
	{
		leaves = add_leaves(history, leaves, lfirst_oid(cell));
	}
	return leaves;
}

/*
 * Adds the range that ends at the upper-th bound.  Between the bounds of two
 * partitions, the default partition has the changes.
 */
static void
add_piece(BemiHistory *history, PartitionDesc partitions, int upper,
		  List *of_default)
{
	PartitionBoundInfo bounds = partitions->boundinfo;
	BemiPiece  *piece = &history->pieces[history->piece_count];
	int			partition = bounds->indexes[upper];
	bool		has_from;
	Datum		from;
	Datum		to;

	has_from = bemi_partition_bound_time(bounds, upper - 1, &from);
	piece->has_to = bemi_partition_bound_time(bounds, upper, &to);
	piece->from = DatumGetTimestampTz(from);
	piece->to = DatumGetTimestampTz(to);
	piece->is_shared = partition < 0;
	if ((partition < 0 && of_default == NIL) ||
		(!has_from && TIMESTAMP_IS_NOEND(piece->from)) ||
		(!piece->has_to && TIMESTAMP_IS_NOBEGIN(piece->to)))
		return;					/* no partition, or nothing between */
	piece->leaves = partition < 0 ? of_default :
		leaves_of_partition(history, partitions->oids[partition]);
	history->piece_count++;
}

static void
find_pieces(BemiHistory *history)
{
	PartitionDesc partitions = RelationGetPartitionDesc(history->changes,
														true);
	PartitionBoundInfo bounds = partitions->boundinfo;
	List	   *of_default = NIL;

	if (partitions->nparts == 0)
		return;
	history->pieces = palloc0(sizeof(BemiPiece) * (bounds->ndatums + 1));
	if (bounds->default_index >= 0)
		of_default =
			leaves_of_partition(history,
								partitions->oids[bounds->default_index]);
	for (int upper = bounds->ndatums; upper >= 0; upper--)
		add_piece(history, partitions, upper, of_default);
}

static BemiHistory *
open_history(bool checks_rights)
{
	Oid			changes = bemi_own_table("changes");
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(caller, "bemi history",
												 ALLOCSET_DEFAULT_SIZES);
	BemiHistory *history = MemoryContextAllocZero(memory, sizeof(BemiHistory));

	if (!OidIsValid(changes))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table bemi.changes of extension bemi does not exist")));
	history->memory = memory;
	history->changes = table_open(changes, AccessShareLock);
	MemoryContextSwitchTo(memory);
	if (checks_rights)
		check_rights(history->changes);
	history->is_readable =
		check_enable_rls(changes, InvalidOid, false) != RLS_ENABLED &&
		!has_virtual_columns(history->changes);
	find_columns(history->changes, NULL, history->columns);
	if (history->is_readable)
		find_pieces(history);
	MemoryContextSwitchTo(caller);
	return history;
}

/*
 * Opens bemi.changes.  Throws an error if the current user may not read it.
 * Needs an active snapshot.
 */
BemiHistory *
bemi_history_open(void)
{
	return open_history(true);
}

/*
 * Whether the current user's history will be readable, if he may read it.
 */
bool
bemi_history_reads_by_index(void)
{
	BemiHistory *history = open_history(false);
	bool		result = history->is_readable;

	bemi_history_close(history);
	return result;
}

/*
 * Whether the scans of this room return what a query would return.  If not,
 * because of row policies, foreign tables or virtual columns, the caller must
 * read bemi.changes by a query.
 */
bool
bemi_history_is_readable(const BemiHistory *history)
{
	return history->is_readable;
}

/*
 * Number of a column in the rows of a scan.
 */
AttrNumber
bemi_history_column(const BemiHistory *history, BemiChangeColumn column)
{
	return history->columns[column];
}

TupleDesc
bemi_history_row_type(const BemiHistory *history)
{
	return RelationGetDescr(history->changes);
}

/*
 * Opens a partition.  False if it was detached and dropped.
 */
bool
bemi_leaf_open(const BemiHistory *history, BemiLeaf *leaf)
{
	if (leaf->relation != NULL || leaf->is_gone)
		return !leaf->is_gone;
	leaf->relation = try_table_open(leaf->oid, AccessShareLock);
	leaf->is_gone = leaf->relation == NULL;
	if (leaf->is_gone)
		return false;
	find_columns(leaf->relation, history->columns, leaf->columns);
	return true;
}

/*
 * How a row of a partition becomes a row of bemi.changes.  NULL: it is one.
 */
AttrMap *
bemi_leaf_map(const BemiHistory *history, BemiLeaf *leaf)
{
	TupleConversionMap *conversion;
	MemoryContext caller;

	if (leaf->has_map)
		return leaf->map;
	caller = MemoryContextSwitchTo(history->memory);
	conversion = convert_tuples_by_name(RelationGetDescr(leaf->relation),
										RelationGetDescr(history->changes));
	MemoryContextSwitchTo(caller);
	leaf->map = conversion ? conversion->attrMap : NULL;
	leaf->has_map = true;
	return leaf->map;
}

static void
close_leaf(BemiLeaf *leaf)
{
	if (leaf->relation == NULL)
		return;
	for (int kind = 0; kind < BEMI_INDEX_KINDS; kind++)
	{
		ListCell   *cell;

		foreach(cell, leaf->indexes[kind])
		{
			index_close(((BemiLeafIndex *) lfirst(cell))->relation, NoLock);
		}
	}
	table_close(leaf->relation, NoLock);
}

/*
 * Closes bemi.changes.  All scans must have ended.  The locks stay.
 */
void
bemi_history_close(BemiHistory *history)
{
	ListCell   *cell;

	foreach(cell, history->leaves)
	{
		close_leaf(lfirst(cell));
	}
	table_close(history->changes, NoLock);
	MemoryContextDelete(history->memory);
}
