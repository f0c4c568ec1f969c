/*-------------------------------------------------------------------------
 *
 * as_of_rows.c
 *		The rows of a past: all of them, or the one with a key.
 *
 * The row of a key is:
 *
 * - if the key was changed since: "before" of the first change that removes
 *	 the key, unless a change that adds the key comes first.  Then there was no
 *	 row.
 * - otherwise today's row.
 *
 * An UPDATE that changes the key removes one key and adds another.  If the
 * table has no key, or a deferrable one, as_of_copies.c decides instead which
 * rows there were.
 *
 * bemi_past_next() reads the changes first, in commit order.  It returns
 * "before" of each change that removes a key that was not seen earlier, and
 * keeps only the keys.  Then it returns the rows of the table whose keys were
 * not seen.  So no image is kept in memory.
 *
 * bemi_past_probe() finds the first change of the key by the index.  An UPDATE
 * that changes the key is in the index with its new key only.  So if nothing
 * proves that the row was there, it may have been moved away, and all changes
 * are read.  These cases remain:
 *
 *	first change of the key in the index	row
 *	removes the key							its "before": if the row had been
 *											moved away earlier, it would have
 *											been added again, in the index
 *	adds the key							only if it was moved away earlier
 *	none, and the row is in the table		today's, for the same reason
 *	none, and no row						only if it was moved away since
 *
 * Memory: a row lives until the next one is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "query/query_internal.h"

/* ---------- changes ---------- */

/*
 * The next row that was there before a change; NULL if there is none.
 */
static TupleTableSlot *
next_changed_row(BemiPast *past)
{
	BemiPastChange change;

	for (;;)
	{
		Datum		removed[INDEX_MAX_KEYS];
		Datum		added[INDEX_MAX_KEYS];
		bool		is_first;

		MemoryContextReset(past->row_memory);
		if (!bemi_past_scan_next(past->changes, &change))
			return NULL;
		if (change.operation == 'T')
		{
			bemi_replay_begin(past);
			return NULL;
		}
		/* A SNAPSHOT adds nothing: its row was there. */
		if (change.operation == 'S')
			continue;
		is_first = bemi_removed_key(past, &change, removed) &&
			bemi_key_set_add(past->seen, removed);
		if (bemi_added_key(past, &change, added))
			(void) bemi_key_set_add(past->seen, added);
		if (is_first)
			return bemi_row_of_change(past, &change, true);
	}
}

/* ---------- the table ---------- */

/*
 * A row of a partition as a row of the table.
 */
static TupleTableSlot *
as_table_row(BemiPast *past, BemiPastLeaf *leaf)
{
	if (leaf->map == NULL)
		return leaf->slot;
	return execute_attr_map_slot(leaf->map->attrMap, leaf->slot, past->mapped);
}

/*
 * A row of the table as it was; NULL if it was changed.
 */
static TupleTableSlot *
if_unchanged(BemiPast *past, TupleTableSlot *row)
{
	Datum		values[INDEX_MAX_KEYS];

	if (past->is_counted)
		return bemi_copies_row_of_table(past->copies, row);
	if (bemi_key_set_is_empty(past->seen))
		return row;
	/* Most rows are returned, so their columns are read in one go. */
	slot_getsomeattrs(row, past->last_column);
	(void) bemi_key_of_slot(past->key, row, values);
	return bemi_key_set_contains(past->seen, values) ? NULL : row;
}

/*
 * The next row of the table that was not changed; NULL if there is none.
 */
static TupleTableSlot *
next_unchanged_row(BemiPast *past, BemiPastLeaf *leaf)
{
	while (table_scan_getnextslot(past->scan, ForwardScanDirection,
								  leaf->slot))
	{
		TupleTableSlot *row = if_unchanged(past, as_table_row(past, leaf));

		CHECK_FOR_INTERRUPTS();
		if (row != NULL)
			return row;
	}
	return NULL;
}

static void
begin_table_scan(BemiPast *past, BemiPastLeaf *leaf)
{
	MemoryContext caller = MemoryContextSwitchTo(past->scan_memory);

	past->scan = table_beginscan(leaf->table, past->of_table, 0, NULL);
	MemoryContextSwitchTo(caller);
}

static TupleTableSlot *
next_table_row(BemiPast *past)
{
	while (past->leaf < list_length(past->leaves))
	{
		BemiPastLeaf *leaf = list_nth(past->leaves, past->leaf);
		TupleTableSlot *row;

		if (past->scan == NULL)
			begin_table_scan(past, leaf);
		row = next_unchanged_row(past, leaf);
		if (row != NULL)
			return row;
		ExecClearTuple(leaf->slot);
		table_endscan(past->scan);
		past->scan = NULL;
		past->leaf++;
	}
	return NULL;
}

static void
begin_changes(BemiPast *past)
{
	MemoryContext caller = MemoryContextSwitchTo(past->scan_memory);
	pg_uuid_t	last;

	memset(&last, 0xFF, sizeof(last));
	past->seen = bemi_key_set_create(past->key);
	MemoryContextSwitchTo(caller);
	if (past->from_history)
		bemi_replay_begin(past);
	else
		past->changes =
			bemi_past_scan_begin(past, &past->first_id, &last, NULL);
}

/*
 * The next row of the part that is being read; NULL if there is none.
 */
static TupleTableSlot *
next_row_of_part(BemiPast *past)
{
	TupleTableSlot *row = bemi_copies_next(past->copies);

	if (row != NULL || !bemi_copies_use_table(past->copies))
		return row;
	row = next_table_row(past);
	if (row == NULL)
		bemi_copies_check(past->copies);
	return row;
}

/*
 * The next row if equal rows are counted; NULL if there is none.
 */
static TupleTableSlot *
next_counted_row(BemiPast *past)
{
	MemoryContext caller;
	TupleTableSlot *row;

	if (past->copies == NULL)
	{
		caller = MemoryContextSwitchTo(past->scan_memory);
		past->copies = bemi_copies_create(past);
		MemoryContextSwitchTo(caller);
	}
	do
	{
		row = next_row_of_part(past);
		if (row != NULL)
			return row;
		past->leaf = 0;
	} while (bemi_copies_next_part(past->copies));
	past->leaf = list_length(past->leaves);
	return NULL;
}

/*
 * The next row if a key tells rows apart; NULL if there is none.
 */
static TupleTableSlot *
next_keyed_row(BemiPast *past)
{
	TupleTableSlot *row = NULL;

	if (past->seen == NULL)
		begin_changes(past);
	if (past->changes != NULL)
	{
		row = next_changed_row(past);
		if (row == NULL)
		{
			bemi_past_scan_end(past->changes);
			past->changes = NULL;
		}
	}
	if (row == NULL)
		row = past->replay ? bemi_replay_next(past) : next_table_row(past);
	return row;
}

/*
 * The next row; NULL if there is none.  It is valid until the next call.
 */
TupleTableSlot *
bemi_past_next(BemiPast *past)
{
	MemoryContext caller = MemoryContextSwitchTo(past->row_memory);
	TupleTableSlot *row = past->is_counted ? next_counted_row(past) :
		next_keyed_row(past);

	MemoryContextSwitchTo(caller);
	return row;
}

/*
 * Begins again with the first row.
 */
void
bemi_past_rewind(BemiPast *past)
{
	if (past->changes != NULL)
		bemi_past_scan_end(past->changes);
	if (past->copies != NULL)
		bemi_copies_end(past->copies);
	bemi_replay_end(past);
	if (past->scan != NULL)
		table_endscan(past->scan);
	past->changes = NULL;
	past->scan = NULL;
	past->seen = NULL;
	past->copies = NULL;
	past->leaf = 0;
	MemoryContextReset(past->scan_memory);
}

/* ---------- one row ---------- */

/*
 * The row of a partition with this key, which today's index finds; NULL if
 * there is none.
 */
static TupleTableSlot *
find_in_leaf(BemiPast *past, BemiPastLeaf *leaf, const Datum *values)
{
	Relation	index = index_open(leaf->key_index, AccessShareLock);
	IndexScanDesc scan;
	ScanKeyData keys[INDEX_MAX_KEYS];
	bool		found;

	for (int i = 0; i < past->key->count; i++)
		ScanKeyEntryInitialize(&keys[i], 0, i + 1,
							   BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i],
							   get_opcode(
										  get_opfamily_member(index->rd_opfamily
															  [i],
															  index->rd_opcintype
															  [i],
															  index->rd_opcintype
															  [i],
															  BTEqualStrategyNumber)),
							   values[i]);
	scan = bemi_index_beginscan(leaf->table, index, past->of_table,
								past->key->count);
	index_rescan(scan, keys, past->key->count, NULL, 0);
	found = index_getnext_slot(scan, ForwardScanDirection, leaf->slot);
	if (found)
		ExecMaterializeSlot(leaf->slot);
	index_endscan(scan);
	index_close(index, NoLock);
	return found ? as_table_row(past, leaf) : NULL;
}

/*
 * Today's row with this key; NULL if there is none.
 */
static TupleTableSlot *
find_today(BemiPast *past, const Datum *values)
{
	ListCell   *cell;

	foreach(cell, past->leaves)
	{
		BemiPastLeaf *leaf = lfirst(cell);
		TupleTableSlot *row;

		CHECK_FOR_INTERRUPTS();
		if (!OidIsValid(leaf->key_index))
		{
			BemiKey    *key = bemi_key_create(leaf->table);

			if (key == NULL)
				elog(ERROR, "table \"%s\" has no primary key",
					 RelationGetRelationName(leaf->table));
			leaf->key_index = key->index;
			pfree(key);
		}
		row = find_in_leaf(past, leaf, values);
		if (row != NULL)
			return row;
	}
	return NULL;
}

/* What the first change of a key has done with it. */
typedef enum Touch
{
	UNTOUCHED,
	REMOVED,
	ADDED,
	TRUNCATED
} Touch;

static Touch
touch_of(const BemiPast *past, const BemiPastChange *change,
		 const Datum *values)
{
	Datum		other[INDEX_MAX_KEYS];

	if (change->operation == 'T')
		return TRUNCATED;
	if (change->operation == 'S')
		return UNTOUCHED;
	if (bemi_removed_key(past, change, other) &&
		bemi_keys_equal(past->key, other, values))
		return REMOVED;
	if (bemi_added_key(past, change, other) &&
		bemi_keys_equal(past->key, other, values))
		return ADDED;
	return UNTOUCHED;
}

/*
 * Finds the first change that touches the key, up to *id; with a text of the
 * key, among those that are stored with it.  Sets *id, and *row if it removes
 * the key.
 */
static Touch
find_first_touch(BemiPast *past, const char *key_text, const Datum *values,
				 pg_uuid_t *id, TupleTableSlot **row)
{
	BemiPastScan *scan = bemi_past_scan_begin(past, &past->first_id, id,
											  key_text);
	Touch		touch = UNTOUCHED;
	BemiPastChange change;

	while (touch == UNTOUCHED)
	{
		MemoryContextReset(past->row_memory);
		if (!bemi_past_scan_next(scan, &change))
			break;
		touch = touch_of(past, &change, values);
	}
	if (touch != UNTOUCHED)
		*id = change.id;
	if (touch == REMOVED)
		*row = bemi_row_of_change(past, &change, true);
	bemi_past_scan_end(scan);
	return touch;
}

/*
 * Whether the index has all changes of a key since the place under one text.
 * Sets *key_text unless the caller knows it; NULL: no row can have the key.
 */
static bool
finds_by_text(const BemiPast *past, const Datum *values, const char **key_text)
{
	return memcmp(&past->first_id, &past->key_text_since,
				  sizeof(pg_uuid_t)) >= 0 &&
		(past->key->by_image || bemi_one_key_text(past, values, key_text));
}

/*
 * The row with this key, by the index if it is found by a text.
 */
static TupleTableSlot *
find_row(BemiPast *past, const Datum *values, bool by_text,
		 const char *key_text)
{
	TupleTableSlot *row = NULL;
	Touch		touch = ADDED;
	pg_uuid_t	id;

	memset(&id, 0xFF, sizeof(id));
	if (by_text)
	{
		touch = find_first_touch(past, key_text, values, &id, &row);
		if (touch == UNTOUCHED)
			row = find_today(past, values);
	}
	/* It may have been moved away. */
	if (row == NULL)
	{
		touch = find_first_touch(past, NULL, values, &id, &row);
		if (touch == UNTOUCHED)
			row = find_today(past, values);
		else if (touch == TRUNCATED)
			row = bemi_replay_find(past, values);
	}
	return row;
}

/*
 * The row with this key, of which primary_key in bemi.changes is "key_text" if
 * equal keys have equal bytes; NULL if there was none.  It is valid until the
 * next call.
 */
TupleTableSlot *
bemi_past_probe(BemiPast *past, const Datum *values, const char *key_text)
{
	bool		by_text = finds_by_text(past, values, &key_text);
	MemoryContext caller = MemoryContextSwitchTo(past->row_memory);
	TupleTableSlot *row = NULL;

	if (past->from_history)
		row = bemi_replay_find(past, values);
	else if (!by_text || key_text != NULL)
		row = find_row(past, values, by_text, key_text);
	MemoryContextSwitchTo(caller);
	return row;
}

/* ---------- begin and end ---------- */

/*
 * Prepares what reading needs, in the memory of the past.
 */
void
bemi_past_rows_init(BemiPast *past)
{
	TupleDesc	columns = RelationGetDescr(past->table);

	past->made = MakeSingleTupleTableSlot(columns, &TTSOpsVirtual);
	past->mapped = MakeSingleTupleTableSlot(columns, &TTSOpsVirtual);
	past->row_memory = AllocSetContextCreate(past->memory, "bemi row",
											 ALLOCSET_DEFAULT_SIZES);
	past->scan_memory = AllocSetContextCreate(past->memory, "bemi past scan",
											  ALLOCSET_DEFAULT_SIZES);
}

void
bemi_past_rows_end(BemiPast *past)
{
	bemi_past_rewind(past);
	ExecDropSingleTupleTableSlot(past->made);
	ExecDropSingleTupleTableSlot(past->mapped);
}
