/*-------------------------------------------------------------------------
 *
 * as_of_changes.c
 *		The changes of a table in commit order, under all names that it and its
 *		columns have had.
 *
 * Changes are stored under the names of their time.  _bemi.table_names() lists
 * these names with the ids between which they count (BemiPastNames).  A scan
 * reads the changes of each period, and merges them by id: the periods overlap
 * if transactions ran beside ALTER SCHEMA ... RENAME.
 *
 * Memory: a change lives in the current memory context, and what it points to
 * may live only until the next one is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "query/query_internal.h"

/* The changes of one period. */
typedef struct Period
{
	const BemiPastNames *names;
	pg_uuid_t	from_id;
	pg_uuid_t	to_id;
	BemiChangesScan *scan;
	TupleTableSlot *next;		/* NULL: no more */
} Period;

struct BemiPastScan
{
	BemiPast   *past;
	MemoryContext memory;		/* holds this struct and all below */
	int			count;
	Period	   *periods;
	Period	   *last;			/* that has returned a change; NULL: none */
};

static int
compare_ids(const pg_uuid_t *a, const pg_uuid_t *b)
{
	return memcmp(a, b, sizeof(pg_uuid_t));
}

/*
 * Begins to read a period, unless it is outside of the ids.
 */
static void
begin_period(BemiPastScan *scan, const BemiPastNames *names,
			 const BemiChangesQuery *conditions)
{
	Period	   *period = &scan->periods[scan->count];
	BemiChangesQuery query = *conditions;

	period->names = names;
	period->from_id = *conditions->from_id;
	period->to_id = *conditions->to_id;
	if (compare_ids(&names->from_id, &period->from_id) > 0)
		period->from_id = names->from_id;
	if (compare_ids(&names->to_id, &period->to_id) < 0)
		period->to_id = names->to_id;
	if (compare_ids(&period->from_id, &period->to_id) > 0)
		return;
	query.order = BEMI_OLDEST_FIRST;
	query.sources = scan->past->sources;
	query.schema = names->schema;
	query.table = names->table;
	query.from_id = &period->from_id;
	query.to_id = &period->to_id;
	if (compare_ids(&period->from_id, &scan->past->first_id) >= 0)
		query.ids_since = &scan->past->time;
	period->scan = bemi_changes_begin(scan->past->history, &query);
	period->next = bemi_changes_next(period->scan);
	scan->count++;
}

/*
 * Begins to read the changes with ids in this range, both inclusive; with a
 * key, only those with it and each TRUNCATE.
 */
BemiPastScan *
bemi_past_scan_begin(BemiPast *past, const pg_uuid_t *from_id,
					 const pg_uuid_t *to_id, const char *key_text)
{
	MemoryContext memory = AllocSetContextCreate(past->memory,
												 "bemi past changes",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	BemiPastScan *scan = palloc0(sizeof(BemiPastScan));
	BemiChangesQuery conditions = {
		.from_id = from_id,.to_id = to_id,.primary_key = key_text
	};
	ListCell   *cell;

	scan->past = past;
	scan->memory = memory;
	scan->periods = palloc0(sizeof(Period) * list_length(past->names));
	PushActiveSnapshot(past->of_changes);
	foreach(cell, past->names)
	{
		begin_period(scan, lfirst(cell), &conditions);
	}
	PopActiveSnapshot();
	MemoryContextSwitchTo(caller);
	return scan;
}

void
bemi_past_scan_end(BemiPastScan *scan)
{
	for (int i = 0; i < scan->count; i++)
		bemi_changes_end(scan->periods[i].scan);
	MemoryContextDelete(scan->memory);
}

/*
 * A column of a change; 0: NULL.  All columns of the slot must have been read.
 */
static Datum
change_column(const BemiPast *past, const TupleTableSlot *slot,
			  BemiChangeColumn column)
{
	int			i = past->history->columns[column] - 1;

	return slot->tts_isnull[i] ? (Datum) 0 : slot->tts_values[i];
}

/*
 * The period with the next change; NULL: there is none.
 */
static Period *
next_period(BemiPastScan *scan)
{
	Period	   *first = NULL;
	pg_uuid_t	first_id = {{0}};

	for (int i = 0; i < scan->count; i++)
	{
		Period	   *period = &scan->periods[i];
		pg_uuid_t  *id;

		if (period->next == NULL)
			continue;
		if (scan->count == 1)
			return period;
		slot_getallattrs(period->next);
		id = DatumGetUUIDP(change_column(scan->past, period->next,
										 BEMI_CHANGE_ID));
		if (first == NULL || compare_ids(id, &first_id) < 0)
		{
			first = period;
			first_id = *id;
		}
	}
	return first;
}

/*
 * Reads the next change.  False if there is none.
 */
bool
bemi_past_scan_next(BemiPastScan *scan, BemiPastChange *change)
{
	const BemiPast *past = scan->past;
	TupleTableSlot *slot;
	Datum		key_text;

	CHECK_FOR_INTERRUPTS();
	if (scan->last != NULL)
		scan->last->next = bemi_changes_next(scan->last->scan);
	scan->last = next_period(scan);
	if (scan->last == NULL)
		return false;
	slot = scan->last->next;
	slot_getallattrs(slot);
	change->names = scan->last->names;
	change->id = *DatumGetUUIDP(change_column(past, slot, BEMI_CHANGE_ID));
	change->operation = VARDATA_ANY(DatumGetPointer(
													change_column(past, slot, BEMI_CHANGE_OPERATION)))[0];
	change->time = DatumGetTimestampTz(
									   change_column(past, slot, BEMI_CHANGE_COMMITTED_AT));
	change->xid = (TransactionId)
		DatumGetInt64(change_column(past, slot, BEMI_CHANGE_TRANSACTION_ID));
	change->before =
		DatumGetJsonbP(change_column(past, slot, BEMI_CHANGE_BEFORE));
	change->after =
		DatumGetJsonbP(change_column(past, slot, BEMI_CHANGE_AFTER));
	change->context = change_column(past, slot, BEMI_CHANGE_CONTEXT);
	key_text = change_column(past, slot, BEMI_CHANGE_PRIMARY_KEY);
	change->key_text = key_text ? DatumGetTextPP(key_text) : NULL;
	return true;
}

/* ---------- what a change does ---------- */

static BemiRowImage
image_of(const BemiPastChange *change, bool before)
{
	BemiRowImage image = {0};

	image.row = before ? change->before : change->after;
	image.is_before = before;
	image.after = change->after;
	image.change = &change->id;
	image.key_text = change->key_text;
	return image;
}

bool
bemi_change_removes(const BemiPastChange *change)
{
	return change->operation == 'U' || change->operation == 'D';
}

/*
 * A SNAPSHOT is a row that was there when bemi.baseline() was called.
 */
bool
bemi_change_adds(const BemiPastChange *change)
{
	return change->operation == 'U' || change->operation == 'C' ||
		change->operation == 'S';
}

/*
 * The key that a change removes.  False if it removes none.
 */
bool
bemi_removed_key(const BemiPast *past, const BemiPastChange *change,
				 Datum *values)
{
	BemiRowImage image = image_of(change, true);

	return bemi_change_removes(change) &&
		bemi_key_of_image(past->key, change->names->key_maker, &image, values);
}

/*
 * The key that a change adds.  False if it adds none.
 */
bool
bemi_added_key(const BemiPast *past, const BemiPastChange *change,
			   Datum *values)
{
	BemiRowImage image = image_of(change, false);

	return bemi_change_adds(change) &&
		bemi_key_of_image(past->key, change->names->key_maker, &image, values);
}

/*
 * Makes the row that was there before or after a change.
 */
TupleTableSlot *
bemi_row_of_change(BemiPast *past, const BemiPastChange *change, bool before)
{
	BemiRowImage image = image_of(change, before);

	ExecClearTuple(past->made);
	bemi_make_row(change->names->maker, &image, past->made->tts_values,
				  past->made->tts_isnull);
	return ExecStoreVirtualTuple(past->made);
}

/*
 * A row as a value, in the current memory context.  A row on disk can be from
 * before a column was added, and one of a partition has another type.
 */
Datum
bemi_row_datum(TupleDesc columns, TupleTableSlot *row)
{
	slot_getallattrs(row);
	return HeapTupleGetDatum(toast_build_flattened_tuple(columns,
														 row->tts_values,
														 row->tts_isnull));
}

/* ---------- names ---------- */

static void
read_id(Jsonb *periods, int i, const char *member, pg_uuid_t *id)
{
	JsonbValue *period = getIthJsonbValueFromContainer(&periods->root, i);
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(period->val.binary.data, member,
									 strlen(member), &value) != NULL &&
		value.type == jbvString)
		*id = *DatumGetUUIDP(
							 DirectFunctionCall1(uuid_in,
												 CStringGetDatum(
																 pnstrdup(value.val.string.val,
																		  value.val.string.len))));
}

static char *
read_name(Jsonb *periods, int i, const char *member)
{
	JsonbValue *period = getIthJsonbValueFromContainer(&periods->root, i);
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(period->val.binary.data, member,
									 strlen(member), &value) == NULL ||
		value.type != jbvString)
		elog(ERROR, "period %d of the names has no \"%s\"", i, member);
	return pnstrdup(value.val.string.val, value.val.string.len);
}

static void
read_columns(Jsonb *periods, int i, BemiPastNames *names)
{
	JsonbValue *period = getIthJsonbValueFromContainer(&periods->root, i);
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(period->val.binary.data, "columns", 7,
									 &value) == NULL ||
		value.type != jbvBinary)
		return;
	bemi_row_maker_set_names(names->maker, JsonbValueToJsonb(&value));
	bemi_row_maker_set_names(names->key_maker, JsonbValueToJsonb(&value));
}

/*
 * Reads the periods in which the table had other names than today: an array of
 * objects, newest first.  NULL: it always had those of today.
 */
void
bemi_past_read_names(BemiPast *past, const Bitmapset *needed)
{
	Jsonb	   *periods = past->periods;
	int			count = periods ? JsonContainerSize(&periods->root) : 1;
	Bitmapset  *of_key = NULL;

	past->names = NIL;
	if (past->is_counted)
		needed = bemi_counted_columns(past->table, needed);
	for (int i = 0; past->key != NULL && i < past->key->count; i++)
		of_key = bms_add_member(of_key, past->key->attnums[i]);
	for (int i = 0; i < count; i++)
	{
		BemiPastNames *names = palloc0(sizeof(BemiPastNames));

		names->schema = past->schema_name;
		names->table = past->table_name;
		memset(&names->to_id, 0xFF, sizeof(names->to_id));
		names->maker = bemi_row_maker_create(past, needed);
		names->key_maker = bemi_row_maker_create(past, of_key);
		if (periods != NULL)
		{
			read_id(periods, i, "from_id", &names->from_id);
			read_id(periods, i, "to_id", &names->to_id);
			names->schema = read_name(periods, i, "schema_name");
			names->table = read_name(periods, i, "table_name");
			read_columns(periods, i, names);
		}
		past->names = lcons(names, past->names);
	}
	past->last_column = needed == NULL ?
		RelationGetNumberOfAttributes(past->table) :
		Max(bms_prev_member(needed, -1), bms_prev_member(of_key, -1));
	past->maker = ((BemiPastNames *) llast(past->names))->maker;
	past->key_maker = ((BemiPastNames *) llast(past->names))->key_maker;
}
