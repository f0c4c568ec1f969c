/*-------------------------------------------------------------------------
 *
 * changes_filter.c
 *		Whether a change meets the conditions of a scan.
 *
 * Input: a change in the columns of its partition.  All conditions are tested,
 * also those that the index has tested already: an index on a key of the
 * context has a part of the value, and a bitmap may have too much.
 *
 * The conditions are those of _bemi.changes_by_plans().  What must never
 * happen: the two differ.
 *
 * Memory: values that have to be detoasted are in the current memory context,
 * which the caller resets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "query/query_internal.h"

/*
 * The column of a change, which is not NULL in a history that is sound.
 */
static Datum
column_of(const BemiLeaf *leaf, TupleTableSlot *slot, BemiChangeColumn column,
		  bool *is_null)
{
	return slot_getattr(slot, leaf->columns[column], is_null);
}

/*
 * Whether a column of a change has this text; NULL: any.
 */
bool
bemi_text_is(const BemiLeaf *leaf, TupleTableSlot *slot,
			 BemiChangeColumn column, const char *expected)
{
	bool		is_null;
	Datum		value;
	text	   *found;
	int			len;

	if (expected == NULL)
		return true;
	value = column_of(leaf, slot, column, &is_null);
	if (is_null)
		return false;
	found = DatumGetTextPP(value);
	len = strlen(expected);
	return VARSIZE_ANY_EXHDR(found) == len &&
		memcmp(VARDATA_ANY(found), expected, len) == 0;
}

/*
 * Whether it is a change of the table.  If so, and all columns are needed
 * because the source is the last one, they are read in one go.
 */
static bool
table_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
			  TupleTableSlot *slot)
{
	if (!bemi_text_is(leaf, slot, BEMI_CHANGE_TABLE, query->table))
		return false;
	if (query->table != NULL && query->sources != NIL)
		slot_getallattrs(slot);
	return true;
}

static bool
source_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
			   TupleTableSlot *slot)
{
	ListCell   *cell;

	if (query->sources == NIL)
		return true;
	foreach(cell, query->sources)
	{
		if (bemi_text_is(leaf, slot, BEMI_CHANGE_SOURCE, lfirst(cell)))
			return true;
	}
	return false;
}

static bool
operation_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
				  TupleTableSlot *slot)
{
	ListCell   *cell;

	if (query->operations == NIL)
		return true;
	foreach(cell, query->operations)
	{
		if (bemi_text_is(leaf, slot, BEMI_CHANGE_OPERATION, lfirst(cell)))
			return true;
	}
	return false;
}

/*
 * Whether changes with an operation are among those that are wanted.
 */
bool
bemi_wants_operation(const BemiChangesQuery *query, const char *operation)
{
	ListCell   *cell;

	if (query->operations == NIL)
		return true;
	foreach(cell, query->operations)
	{
		if (strcmp(lfirst(cell), operation) == 0)
			return true;
	}
	return false;
}

/*
 * Whether only changes with this operation are wanted.
 */
bool
bemi_wants_only(const BemiChangesQuery *query, const char *operation)
{
	return list_length(query->operations) == 1 &&
		bemi_wants_operation(query, operation);
}

/*
 * Whether it is a change of the row, or a TRUNCATE of the table.
 */
static bool
row_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
			TupleTableSlot *slot)
{
	bool		is_null;

	if (query->primary_key == NULL)
		return true;
	(void) column_of(leaf, slot, BEMI_CHANGE_PRIMARY_KEY, &is_null);
	if (is_null)
		return bemi_text_is(leaf, slot, BEMI_CHANGE_OPERATION, "TRUNCATE");
	return bemi_text_is(leaf, slot, BEMI_CHANGE_PRIMARY_KEY,
						query->primary_key);
}

static bool
time_matches(const BemiChangesQuery *query, const BemiPiece *piece,
			 const BemiLeaf *leaf, TupleTableSlot *slot)
{
	bool		is_null;
	TimestampTz time;

	if (!piece->is_shared && query->from_time == NULL &&
		query->to_time == NULL)
		return true;
	time = DatumGetTimestampTz(column_of(leaf, slot,
										 BEMI_CHANGE_COMMITTED_AT, &is_null));
	if (is_null || time < piece->from || (piece->has_to && time >= piece->to))
		return false;
	return (query->from_time == NULL || time >= *query->from_time) &&
		(query->to_time == NULL || time < *query->to_time);
}

static bool
id_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
		   TupleTableSlot *slot)
{
	bool		is_null;
	Datum		id;

	if (query->from_id == NULL && query->to_id == NULL)
		return true;
	id = column_of(leaf, slot, BEMI_CHANGE_ID, &is_null);
	return !is_null &&
		(query->from_id == NULL ||
		 memcmp(DatumGetUUIDP(id), query->from_id, UUID_LEN) >= 0) &&
		(query->to_id == NULL ||
		 memcmp(DatumGetUUIDP(id), query->to_id, UUID_LEN) <= 0);
}

/*
 * Whether the change has set another value of the query's column.
 */
static bool
changed_column_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
					   TupleTableSlot *slot)
{
	const BemiChangeColumn columns[] = {
		BEMI_CHANGE_OPERATION, BEMI_CHANGE_BEFORE, BEMI_CHANGE_AFTER
	};
	Datum		values[lengthof(columns)];
	bool		is_null = false;

	if (query->changed_column == NULL)
		return true;
	for (int i = 0; i < lengthof(columns) && !is_null; i++)
		values[i] = column_of(leaf, slot, columns[i], &is_null);
	return !is_null &&
		bemi_change_sets_column(DatumGetTextPP(values[0]),
								DatumGetJsonbP(values[1]),
								DatumGetJsonbP(values[2]),
								query->changed_column,
								strlen(query->changed_column));
}

static bool
context_matches(const BemiChangesQuery *query, const BemiLeaf *leaf,
				TupleTableSlot *slot)
{
	bool		is_null;
	Datum		context;

	if (query->context == NULL)
		return true;
	context = column_of(leaf, slot, BEMI_CHANGE_CONTEXT, &is_null);
	return !is_null &&
		DatumGetBool(DirectFunctionCall2(jsonb_contains, context,
										 JsonbPGetDatum(query->context)));
}

/*
 * Whether a value has this text, as ->> returns it.
 */
static bool
value_has_text(const JsonbValue *value, const JsonbValue *expected)
{
	const char *text;

	if (value->type == jbvString)
		return value->val.string.len == expected->val.string.len &&
			memcmp(value->val.string.val, expected->val.string.val,
				   expected->val.string.len) == 0;
	if (value->type == jbvNumeric)
		text = DatumGetCString(
							   DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value->val.numeric)));
	else if (value->type == jbvBool)
		text = value->val.boolean ? "true" : "false";
	else if (value->type == jbvBinary)
		text = JsonbToCString(NULL, value->val.binary.data,
							  value->val.binary.len);
	else
		return false;
	return strlen(text) == expected->val.string.len &&
		memcmp(text, expected->val.string.val, expected->val.string.len) == 0;
}

static bool
context_texts_match(const BemiChangesQuery *query, const BemiLeaf *leaf,
					TupleTableSlot *slot)
{
	JsonbIterator *texts;
	JsonbValue	key;
	JsonbValue	text;
	Datum		context;
	bool		is_null;

	if (query->context_texts == NULL)
		return true;
	context = column_of(leaf, slot, BEMI_CHANGE_CONTEXT, &is_null);
	if (is_null)
		return false;
	context = JsonbPGetDatum(DatumGetJsonbP(context));
	texts = JsonbIteratorInit(unconstify(JsonbContainer *,
										 &query->context_texts->root));
	(void) JsonbIteratorNext(&texts, &key, true);
	while (JsonbIteratorNext(&texts, &key, true) == WJB_KEY)
	{
		JsonbValue *value =
			getKeyJsonValueFromContainer(&DatumGetJsonbP(context)->root,
										 key.val.string.val,
										 key.val.string.len, NULL);

		(void) JsonbIteratorNext(&texts, &text, true);
		if (value == NULL || text.type != jbvString ||
			!value_has_text(value, &text))
			return false;
	}
	return true;
}

/*
 * Whether the scan continues within this range of times.
 */
bool
bemi_piece_continues(const BemiChangesQuery *query, const BemiPiece *piece)
{
	return query->after_id != NULL && query->after_time >= piece->from &&
		(!piece->has_to || query->after_time < piece->to);
}

/*
 * Whether a change follows the one after which the scan continues.
 */
static bool
follows(const BemiChangesQuery *query, const BemiPiece *piece,
		const BemiLeaf *leaf, TupleTableSlot *slot)
{
	bool		is_null;
	Datum		value;

	if (!bemi_piece_continues(query, piece))
		return true;
	value = column_of(leaf, slot, BEMI_CHANGE_COMMITTED_AT, &is_null);
	if (query->order == BEMI_NEWEST_BY_TIME &&
		DatumGetTimestampTz(value) != query->after_time)
		return DatumGetTimestampTz(value) < query->after_time;
	value = column_of(leaf, slot, BEMI_CHANGE_ID, &is_null);
	return memcmp(DatumGetUUIDP(value), query->after_id, UUID_LEN) < 0;
}

/*
 * The shortest text of a number.
 */
static char *
text_of_number(Numeric number)
{
	Datum		shortest = DirectFunctionCall1(numeric_trim_scale,
											   NumericGetDatum(number));

	return DatumGetCString(DirectFunctionCall1(numeric_out, shortest));
}

/*
 * Whether a JSON object has a plain value of a key, and its text.  A number
 * can have other texts, too, with zeros at the end.
 */
bool
bemi_plain_member(const Jsonb *object, const char *key, Datum *value,
				  bool *is_number)
{
	JsonbContainer *root = unconstify(JsonbContainer *, &object->root);
	JsonbValue *member;

	member = getKeyJsonValueFromContainer(root, key, strlen(key), NULL);
	if (member == NULL)
		return false;
	*is_number = member->type == jbvNumeric;
	if (member->type == jbvString)
		*value =
			PointerGetDatum(cstring_to_text_with_len(member->val.string.val,
													 member->val.string.len));
	else if (member->type == jbvNumeric)
		*value = CStringGetTextDatum(text_of_number(member->val.numeric));
	else if (member->type == jbvBool)
		*value = CStringGetTextDatum(member->val.boolean ? "true" : "false");
	else
		return false;
	return true;
}

/*
 * Whether a change meets all conditions of a query.  The cheap ones first.
 */
bool
bemi_filter_matches(const BemiChangesQuery *query, const BemiPiece *piece,
					const BemiLeaf *leaf, TupleTableSlot *slot)
{
	return table_matches(query, leaf, slot) &&
		operation_matches(query, leaf, slot) &&
		bemi_text_is(leaf, slot, BEMI_CHANGE_SCHEMA, query->schema) &&
		row_matches(query, leaf, slot) &&
		id_matches(query, leaf, slot) &&
		time_matches(query, piece, leaf, slot) &&
		source_matches(query, leaf, slot) &&
		follows(query, piece, leaf, slot) &&
		context_matches(query, leaf, slot) &&
		context_texts_match(query, leaf, slot) &&
		changed_column_matches(query, leaf, slot);
}
