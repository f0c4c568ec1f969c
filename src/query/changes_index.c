/*-------------------------------------------------------------------------
 *
 * changes_index.c
 *		Which indexes of a partition of bemi.changes serve a scan.
 *
 * An index is recognized by its shape and not by its name, because users can
 * rename indexes, and partitions of users have indexes of their own.  The
 * shapes are
 *
 *		(id)
 *		("table", primary_key, schema, id)
 *		("table", id)
 *		("table", id) WHERE operation = 'DELETE'
 *		(left(context ->> KEY, 200), id) WHERE context ->> KEY IS NOT NULL
 *		("table", operation, id) WHERE bemi.column_is_changed(operation, before,
 *			after, COLUMN)
 *		GIN (context)
 *		BRIN (committed_at)
 *
 * with ascending order, collation "C", and the server's own comparisons.  More
 * columns at the end do no harm.
 *
 * What must never happen: an index is used that lacks changes which the
 * snapshot sees.  So an index counts only if the planner would use it: it is
 * valid and complete, has no condition but those above, and was not built
 * over rows whose older versions the snapshot may need (indcheckxmin).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/brin_internal.h"
#include "access/genam.h"
#include "access/gin.h"
#include "access/htup_details.h"
#include "access/nbtree.h"
#include "access/transam.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type_d.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "query/query_internal.h"

/*
 * Whether the planner would use an index, apart from its condition.
 */
static bool
index_is_complete(Relation index)
{
	Form_pg_index form = index->rd_index;

	if (!form->indisvalid || !form->indisready || !form->indislive)
		return false;
	return !form->indcheckxmin ||
		TransactionIdPrecedes(HeapTupleHeaderGetXmin(
													 index->rd_indextuple->t_data),
							  TransactionXmin);
}

/*
 * Whether a column of a B-tree has the order of its type: text in collation
 * "C", or uuid.
 */
static bool
column_has_order(Relation index, AttrNumber column, RegProcedure compare)
{
	return index->rd_indoption[column - 1] == 0 &&
		index_getprocid(index, column, BTORDER_PROC) == compare &&
		(compare == F_UUID_CMP ||
		 index->rd_indcollation[column - 1] == C_COLLATION_OID);
}

static bool
has_condition(Relation index)
{
	return !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

/*
 * Whether a B-tree has these columns first, of which the last is the id.
 */
static bool
has_columns(Relation index, const AttrNumber *columns, int count)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || form->indnkeyatts < count)
		return false;
	for (int i = 0; i < count; i++)
	{
		if (form->indkey.values[i] != columns[i] ||
			!column_has_order(index, i + 1, i == count - 1 ?
							  F_UUID_CMP : F_BTTEXTCMP))
			return false;
	}
	return true;
}

static bool
is_constant(Node *node, Oid type)
{
	return IsA(node, Const) && ((Const *) node)->consttype == type &&
		!((Const *) node)->constisnull;
}

/*
 * The key, if an expression is context ->> KEY; otherwise NULL.
 */
static char *
key_of_member(Node *node, AttrNumber context)
{
	OpExpr	   *member = (OpExpr *) node;

	if (!IsA(node, OpExpr) ||
		member->opfuncid != F_JSONB_OBJECT_FIELD_TEXT ||
		!IsA(linitial(member->args), Var) ||
		((Var *) linitial(member->args))->varattno != context ||
		!is_constant(lsecond(member->args), TEXTOID))
		return NULL;
	return TextDatumGetCString(((Const *) lsecond(member->args))->constvalue);
}

/*
 * The key, if an expression is left(context ->> KEY, 200); otherwise NULL.
 */
static char *
key_of_indexed(Node *node, AttrNumber context)
{
	FuncExpr   *left = (FuncExpr *) node;

	if (!IsA(node, FuncExpr) || left->funcid != F_LEFT ||
		!is_constant(lsecond(left->args), INT4OID) ||
		DatumGetInt32(((Const *) lsecond(left->args))->constvalue) !=
		BEMI_INDEXED_LENGTH)
		return NULL;
	return key_of_member(linitial(left->args), context);
}

/*
 * The key, if a condition is context ->> KEY IS NOT NULL; otherwise NULL.
 */
static char *
key_of_condition(List *condition, AttrNumber context)
{
	NullTest   *test =
		list_length(condition) == 1 ? linitial(condition) : NULL;

	if (test == NULL || !IsA(test, NullTest) ||
		test->nulltesttype != IS_NOT_NULL)
		return NULL;
	return key_of_member((Node *) test->arg, context);
}

/*
 * The key of the context that an index is on; NULL: it is another index.
 */
static char *
indexed_context_key(const BemiLeaf *leaf, Relation index)
{
	Form_pg_index form = index->rd_index;
	AttrNumber	context = leaf->columns[BEMI_CHANGE_CONTEXT];
	List	   *expressions;
	char	   *key;
	char	   *required;

	if (index->rd_rel->relam != BTREE_AM_OID || form->indnkeyatts != 2 ||
		form->indkey.values[0] != 0 ||
		form->indkey.values[1] != leaf->columns[BEMI_CHANGE_ID] ||
		!column_has_order(index, 1, F_BTTEXTCMP) ||
		!column_has_order(index, 2, F_UUID_CMP))
		return NULL;
	expressions = RelationGetIndexExpressions(index);
	key = list_length(expressions) == 1 ?
		key_of_indexed(linitial(expressions), context) : NULL;
	if (key == NULL)
		return NULL;
	if (!has_condition(index))
		return key;
	required = key_of_condition(RelationGetIndexPredicate(index), context);
	return required != NULL && strcmp(key, required) == 0 ? key : NULL;
}

static bool
is_column(Node *node, AttrNumber column)
{
	return IsA(node, Var) && ((Var *) node)->varattno == column;
}

/*
 * The column of whose changes an index has entries, by its condition; NULL: it
 * has another one.
 */
static char *
indexed_column(const BemiLeaf *leaf, Relation index)
{
	List	   *condition = RelationGetIndexPredicate(index);
	FuncExpr   *call = list_length(condition) == 1 ?
		linitial(condition) : NULL;

	if (call == NULL || !IsA(call, FuncExpr) ||
		call->funcid != bemi_column_is_changed_oid() ||
		!is_column(linitial(call->args),
				   leaf->columns[BEMI_CHANGE_OPERATION]) ||
		!is_column(lsecond(call->args), leaf->columns[BEMI_CHANGE_BEFORE]) ||
		!is_column(lthird(call->args), leaf->columns[BEMI_CHANGE_AFTER]) ||
		!is_constant(lfourth(call->args), TEXTOID))
		return NULL;
	return TextDatumGetCString(((Const *) lfourth(call->args))->constvalue);
}

/*
 * Whether an index finds the changes whose context contains another.
 */
static bool
finds_contexts(const BemiLeaf *leaf, Relation index)
{
	RegProcedure extract;

	if (index->rd_rel->relam != GIN_AM_OID ||
		index->rd_index->indkey.values[0] !=
		leaf->columns[BEMI_CHANGE_CONTEXT] ||
		has_condition(index))
		return false;
	extract = index_getprocid(index, 1, GIN_EXTRACTQUERY_PROC);
	return extract == F_GIN_EXTRACT_JSONB_QUERY ||
		extract == F_GIN_EXTRACT_JSONB_QUERY_PATH;
}

/*
 * Whether an index has ranges of pages with their first and last times.
 */
static bool
finds_times(const BemiLeaf *leaf, Relation index)
{
	return index->rd_rel->relam == BRIN_AM_OID &&
		index->rd_index->indkey.values[0] ==
		leaf->columns[BEMI_CHANGE_COMMITTED_AT] &&
		!has_condition(index) &&
		index_getprocid(index, 1, BRIN_PROCNUM_OPCINFO) ==
		F_BRIN_MINMAX_OPCINFO &&
		index->rd_opcintype[0] == TIMESTAMPTZOID;
}

/*
 * Whether the condition of an index is operation = 'DELETE'.
 */
static bool
has_deletes(const BemiLeaf *leaf, Relation index)
{
	List	   *condition = RelationGetIndexPredicate(index);
	OpExpr	   *equals = list_length(condition) == 1 ?
		linitial(condition) : NULL;

	return equals != NULL && IsA(equals, OpExpr) &&
		equals->opfuncid == F_TEXTEQ &&
		equals->inputcollid == C_COLLATION_OID &&
		IsA(linitial(equals->args), Var) &&
		((Var *) linitial(equals->args))->varattno ==
		leaf->columns[BEMI_CHANGE_OPERATION] &&
		is_constant(lsecond(equals->args), TEXTOID) &&
		strcmp(TextDatumGetCString(
								   ((Const *) lsecond(equals->args))->constvalue),
			   "DELETE") == 0;
}

/*
 * Whether an index is of a kind; if it is on a key of the context or a column,
 * returns that, too.
 */
static bool
index_is_of(const BemiLeaf *leaf, Relation index, BemiIndexKind kind,
			const char **name)
{
	const AttrNumber of_key[] = {
		leaf->columns[BEMI_CHANGE_TABLE],
		leaf->columns[BEMI_CHANGE_PRIMARY_KEY],
		leaf->columns[BEMI_CHANGE_SCHEMA],
		leaf->columns[BEMI_CHANGE_ID]
	};
	const AttrNumber of_table[] = {of_key[0], of_key[3]};
	const AttrNumber of_column[] = {
		of_key[0], leaf->columns[BEMI_CHANGE_OPERATION], of_key[3]
	};

	switch (kind)
	{
		case BEMI_INDEX_ID:
			return !has_condition(index) && has_columns(index, of_key + 3, 1);
		case BEMI_INDEX_KEY:
			return !has_condition(index) &&
				has_columns(index, of_key, lengthof(of_key));
		case BEMI_INDEX_TABLE:
			return !has_condition(index) &&
				has_columns(index, of_table, lengthof(of_table));
		case BEMI_INDEX_DELETES:
			return has_columns(index, of_table, lengthof(of_table)) &&
				has_deletes(leaf, index);
		case BEMI_INDEX_TIMES:
			return finds_times(leaf, index);
		case BEMI_INDEX_CONTEXT:
			return finds_contexts(leaf, index);
		case BEMI_INDEX_MEMBER:
			*name = indexed_context_key(leaf, index);
			return *name != NULL;
		case BEMI_INDEX_COLUMN:
			if (!has_columns(index, of_column, lengthof(of_column)))
				return false;
			*name = indexed_column(leaf, index);
			return *name != NULL;
	}
	return false;
}

/*
 * Whether an index can be of a kind, by its first column, of which 0 is an
 * expression, and whether it has a condition.  The others are left out in this
 * way before they are locked and opened.
 */
static bool
index_may_be_of(const BemiLeaf *leaf, Oid index, BemiIndexKind kind)
{
	const AttrNumber first[] = {
		[BEMI_INDEX_ID] = leaf->columns[BEMI_CHANGE_ID],
		[BEMI_INDEX_KEY] = leaf->columns[BEMI_CHANGE_TABLE],
		[BEMI_INDEX_TABLE] = leaf->columns[BEMI_CHANGE_TABLE],
		[BEMI_INDEX_DELETES] = leaf->columns[BEMI_CHANGE_TABLE],
		[BEMI_INDEX_TIMES] = leaf->columns[BEMI_CHANGE_COMMITTED_AT],
		[BEMI_INDEX_CONTEXT] = leaf->columns[BEMI_CHANGE_CONTEXT],
		[BEMI_INDEX_MEMBER] = 0,
		[BEMI_INDEX_COLUMN] = leaf->columns[BEMI_CHANGE_TABLE]
	};
	HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_index) GETSTRUCT(tuple))->indkey.values[0] ==
		first[kind];
	if (kind != BEMI_INDEX_MEMBER)
		result = result &&
			(kind == BEMI_INDEX_DELETES || kind == BEMI_INDEX_COLUMN) !=
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL);
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Opens an index if it is of this kind; otherwise NULL.
 */
static BemiLeafIndex *
open_index(const BemiLeaf *leaf, Oid oid, BemiIndexKind kind)
{
	Relation	relation;
	BemiLeafIndex *index;
	const char *name = NULL;

	if (!index_may_be_of(leaf, oid, kind))
		return NULL;
	relation = index_open(oid, AccessShareLock);
	if (!index_is_complete(relation) ||
		!index_is_of(leaf, relation, kind, &name))
	{
		index_close(relation, AccessShareLock);
		return NULL;
	}
	index = palloc(sizeof(BemiLeafIndex));
	index->relation = relation;
	index->name = name;
	return index;
}

/*
 * The indexes of this kind of an open partition.  Of most kinds, one is
 * enough.
 */
List *
bemi_leaf_indexes(BemiLeaf *leaf, BemiIndexKind kind)
{
	MemoryContext caller;
	List	   *found = NIL;
	ListCell   *cell;

	if (leaf->has_indexes[kind])
		return leaf->indexes[kind];
	caller = MemoryContextSwitchTo(leaf->memory);
	foreach(cell, RelationGetIndexList(leaf->relation))
	{
		BemiLeafIndex *index = open_index(leaf, lfirst_oid(cell), kind);

		if (index != NULL)
			found = lappend(found, index);
		if (found != NIL && kind != BEMI_INDEX_MEMBER &&
			kind != BEMI_INDEX_COLUMN)
			break;
	}
	MemoryContextSwitchTo(caller);
	leaf->indexes[kind] = found;
	leaf->has_indexes[kind] = true;
	return found;
}

/*
 * An index of this kind, or NULL.
 */
Relation
bemi_leaf_index(BemiLeaf *leaf, BemiIndexKind kind)
{
	List	   *indexes = bemi_leaf_indexes(leaf, kind);

	return indexes == NIL ? NULL :
		((BemiLeafIndex *) linitial(indexes))->relation;
}

/*
 * An index on the changes of a column, or NULL.
 */
Relation
bemi_leaf_column_index(BemiLeaf *leaf, const char *column)
{
	ListCell   *cell;

	foreach(cell, bemi_leaf_indexes(leaf, BEMI_INDEX_COLUMN))
	{
		BemiLeafIndex *index = lfirst(cell);

		if (strcmp(index->name, column) == 0)
			return index->relation;
	}
	return NULL;
}
