/*-------------------------------------------------------------------------
 *
 * changes_stream.c
 *		The changes of one partition of bemi.changes, in the order of a scan.
 *
 * A stream takes changes from an index that has this order ("walk"), or from a
 * sort of ids with the places of their rows ("sorted").
 *
 * Which index: for one row that of keys, with a second stream for TRUNCATEs.
 * For changes of a column its own index, with a stream for each operation.
 * For a value of the context its own index.  Otherwise the stream begins to
 * walk the index of ids.  If most changes do not meet the conditions, it also
 * takes steps on another way: it reads the table's entries in the index of
 * keys, which have the ids, and sorts them.  Whichever ends first decides, so
 * a stream takes at most about twice the time of the better way, and needs no
 * statistics.  A bitmap of a GIN index cannot be built in steps.  Its size
 * decides whether its rows are sorted.
 *
 * Memory: that of the scan.  Sorts use work_mem each, and then disk.  A stream
 * that waits for its turn holds a copy of one row and no pin on a page of the
 * table, because there can be thousands.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/gin.h"
#include "access/nbtree.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "catalog/pg_collation_d.h"
#include "catalog/pg_type_d.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "query/query_internal.h"

/*
 * After so many changes of a walk that were not wanted, minus those that were,
 * the scan takes a step on the other way, of so many entries.
 */
#define WALK_STEP		100
#define GATHER_STEP		500

/* As many at first, before the scan builds a bitmap. */
#define WALK_BEFORE_BITMAP	1000

/* Columns of a sort. */
#define SORTED_ID		1
#define SORTED_TIME		2
#define SORTED_PLACE	3

/*
 * The conditions on an index, in the order of its columns.
 */
typedef struct Keys
{
	int			count;
	ScanKeyData keys[8];
} Keys;

static void
add_key(Keys *keys, AttrNumber column, StrategyNumber strategy,
		RegProcedure procedure, Datum value)
{
	ScanKeyEntryInitialize(&keys->keys[keys->count++], 0, column, strategy,
						   InvalidOid, C_COLLATION_OID, procedure, value);
}

/* A BRIN index looks the comparison up by the type. */
static void
add_time_key(Keys *keys, StrategyNumber strategy, RegProcedure procedure,
			 TimestampTz time)
{
	ScanKeyEntryInitialize(&keys->keys[keys->count++], 0, 1, strategy,
						   TIMESTAMPTZOID, InvalidOid, procedure,
						   TimestampTzGetDatum(time));
}

static void
add_null_key(Keys *keys, AttrNumber column)
{
	ScanKeyEntryInitialize(&keys->keys[keys->count++],
						   SK_ISNULL | SK_SEARCHNULL, column, InvalidStrategy,
						   InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
}

/*
 * The conditions on ids, which are a column of each index.
 */
static void
add_id_keys(Keys *keys, const BemiChangesStream *stream, AttrNumber column)
{
	const BemiChangesQuery *query = &stream->scan->query;

	if (query->from_id != NULL)
		add_key(keys, column, BTGreaterEqualStrategyNumber, F_UUID_GE,
				UUIDPGetDatum(query->from_id));
	if (query->to_id != NULL)
		add_key(keys, column, BTLessEqualStrategyNumber, F_UUID_LE,
				UUIDPGetDatum(query->to_id));
	if (bemi_piece_continues(query, stream->piece))
		add_key(keys, column, BTLessStrategyNumber, F_UUID_LT,
				UUIDPGetDatum(query->after_id));
}

/*
 * Begins to read an index.  "entries": also the entries themselves, not only
 * the rows.
 */
static IndexScanDesc
begin_index(const BemiChangesStream *stream, Relation index, Keys *keys,
			bool entries)
{
	IndexScanDesc result = bemi_index_beginscan(stream->leaf->relation, index,
												stream->scan->snapshot,
												keys->count);

	result->xs_want_itup = entries;
	index_rescan(result, keys->keys, keys->count, NULL, 0);
	return result;
}

/*
 * Whether a partition has ids of the range, visible or not.  Also true if it
 * has no index of ids.
 */
bool
bemi_leaf_has_ids(BemiChangesScan *scan, const BemiPiece *piece,
				  BemiLeaf *leaf)
{
	BemiChangesStream stream = {.scan = scan,.piece = piece,.leaf = leaf};
	Relation	index = bemi_leaf_index(leaf, BEMI_INDEX_ID);
	IndexScanDesc probe;
	Keys		keys = {0};
	bool		result;

	if (index == NULL)
		return true;
	add_id_keys(&keys, &stream, 1);
	probe = begin_index(&stream, index, &keys, false);
	result = index_getnext_tid(probe, ForwardScanDirection) != NULL;
	index_endscan(probe);
	return result;
}

/*
 * The current change of the stream is the one in its slot.
 */
static void
set_current(BemiChangesStream *stream)
{
	bool		is_null;
	Datum		value;

	value = slot_getattr(stream->slot, stream->leaf->columns[BEMI_CHANGE_ID],
						 &is_null);
	memcpy(&stream->id, DatumGetUUIDP(value), UUID_LEN);
	if (stream->scan->query.order != BEMI_NEWEST_BY_TIME)
		return;
	value = slot_getattr(stream->slot,
						 stream->leaf->columns[BEMI_CHANGE_COMMITTED_AT],
						 &is_null);
	stream->time = DatumGetTimestampTz(value);
}

/*
 * The operation that all changes of a stream have; NULL: any.
 */
static const char *
operation_of(const BemiChangesStream *stream)
{
	switch (stream->kind)
	{
		case BEMI_STREAM_CREATES:
			return "CREATE";
		case BEMI_STREAM_UPDATES:
			return "UPDATE";
		case BEMI_STREAM_DELETES:
			return "DELETE";
		default:
			return NULL;
	}
}

/*
 * Whether the row in the stream's slot is wanted.
 */
static bool
row_is_wanted(const BemiChangesStream *stream)
{
	BemiChangesScan *scan = stream->scan;
	MemoryContext caller = MemoryContextSwitchTo(scan->per_change);
	bool		result;

	MemoryContextReset(scan->per_change);
	result = bemi_text_is(stream->leaf, stream->slot, BEMI_CHANGE_OPERATION,
						  operation_of(stream)) &&
		bemi_filter_matches(&scan->query, stream->piece, stream->leaf,
							stream->slot);
	MemoryContextSwitchTo(caller);
	return result;
}

/*
 * Begins a sort.  If all that is put in is wanted, no more is kept than the
 * scan may still return.
 */
static void
begin_sort(BemiChangesStream *stream, bool all_are_wanted)
{
	BemiChangesScan *scan = stream->scan;
	bool		by_time = scan->query.order == BEMI_NEWEST_BY_TIME;
	bool		forward = ScanDirectionIsForward(scan->direction);
	TypeCacheEntry *time =
		lookup_type_cache(TIMESTAMPTZOID, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	TypeCacheEntry *uuid =
		lookup_type_cache(UUIDOID, TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);
	AttrNumber	columns[] = {SORTED_TIME, SORTED_ID};
	Oid			operators[] = {
		time->gt_opr, forward ? uuid->lt_opr : uuid->gt_opr
	};
	Oid			collations[] = {InvalidOid, InvalidOid};
	bool		nulls_first[] = {false, false};
	int			first = by_time ? 0 : 1;
	bool		has_bound = all_are_wanted && scan->query.limit > 0;

	stream->sorted =
		tuplesort_begin_heap(scan->sort_columns, 2 - first, columns + first,
							 operators + first, collations + first,
							 nulls_first + first, work_mem, NULL,
							 has_bound ? BEMI_SORT_WITH_BOUND : 0);
	if (has_bound)
		tuplesort_set_bound(stream->sorted,
							scan->query.limit - scan->returned);
}

static void
put_into_sort(BemiChangesStream *stream, Datum id, TimestampTz time,
			  ItemPointer place)
{
	TupleTableSlot *slot = ExecClearTuple(stream->scan->into_sort);

	memset(slot->tts_isnull, false, sizeof(bool) * SORTED_PLACE);
	slot->tts_values[SORTED_ID - 1] = id;
	slot->tts_values[SORTED_TIME - 1] = TimestampTzGetDatum(time);
	slot->tts_values[SORTED_PLACE - 1] = PointerGetDatum(place);
	ExecStoreVirtualTuple(slot);
	tuplesort_puttupleslot(stream->sorted, slot);
}

/*
 * Whether the walk that came before the sort has passed an id.
 */
static bool
walk_has_passed(const BemiChangesStream *stream, Datum id)
{
	int			order;

	if (!stream->has_walked)
		return false;
	order = memcmp(DatumGetUUIDP(id), &stream->walked, UUID_LEN);
	return ScanDirectionIsForward(stream->scan->direction) ?
		order <= 0 : order >= 0;
}

/*
 * Puts the row in the stream's slot into its sort, if it is wanted.  A row
 * that the walk has returned must not take a place in a sort that has a limit.
 */
static void
put_row_if_wanted(BemiChangesStream *stream, ItemPointer place)
{
	CHECK_FOR_INTERRUPTS();
	if (!row_is_wanted(stream))
		return;
	set_current(stream);
	if (!walk_has_passed(stream, UUIDPGetDatum(&stream->id)))
		put_into_sort(stream, UUIDPGetDatum(&stream->id), stream->time, place);
}

/*
 * Ends the walk.  From now on the stream reads what was sorted.
 */
static void
read_sorted(BemiChangesStream *stream)
{
	if (stream->walk != NULL)
		index_endscan(stream->walk);
	stream->walk = NULL;
	ExecClearTuple(stream->slot);
	tuplesort_performsort(stream->sorted);
	stream->fetch = table_index_fetch_begin(stream->leaf->relation);
}

/*
 * Puts the row at a place into the stream's slot.  False if the snapshot does
 * not see it.
 */
static bool
fetch_place(BemiChangesStream *stream, ItemPointer place)
{
	Snapshot	snapshot = stream->scan->snapshot;
	ItemPointerData row = *place;
	bool		call_again = false;

	if (stream->places_are_rows)
		return table_tuple_fetch_row_version(stream->leaf->relation, &row,
											 snapshot, stream->slot);
	return table_index_fetch_tuple(stream->fetch, &row, snapshot,
								   stream->slot, &call_again, NULL);
}

/*
 * Next change of a sort.
 */
static bool
next_sorted(BemiChangesStream *stream)
{
	TupleTableSlot *entry = stream->scan->from_sort;
	bool		is_null;

	while (tuplesort_gettupleslot(stream->sorted, true, false, entry, NULL))
	{
		Datum		id = slot_getattr(entry, SORTED_ID, &is_null);
		Datum		place = slot_getattr(entry, SORTED_PLACE, &is_null);

		CHECK_FOR_INTERRUPTS();
		if (!walk_has_passed(stream, id) &&
			fetch_place(stream, (ItemPointer) DatumGetPointer(place)) &&
			row_is_wanted(stream))
			return true;
	}
	return false;
}

/*
 * Sorts the rows of a partition that has no index for the scan.
 */
static void
sort_table(BemiChangesStream *stream)
{
	TableScanDesc scan = table_beginscan(stream->leaf->relation,
										 stream->scan->snapshot, 0, NULL);

	stream->places_are_rows = true;
	begin_sort(stream, true);
	while (table_scan_getnextslot(scan, ForwardScanDirection, stream->slot))
		put_row_if_wanted(stream, &stream->slot->tts_tid);
	table_endscan(scan);
	read_sorted(stream);
}

/*
 * Sorts the rows of an index that has another order than the scan.
 */
static void
sort_index(BemiChangesStream *stream, Relation index, Keys *keys)
{
	IndexScanDesc scan = begin_index(stream, index, keys, false);

	begin_sort(stream, true);
	stream->places_are_rows = true;
	while (index_getnext_slot(scan, ForwardScanDirection, stream->slot))
		put_row_if_wanted(stream, &stream->slot->tts_tid);
	index_endscan(scan);
	read_sorted(stream);
}

/*
 * Adds what an index finds to a bitmap.  Returns how many rows, or pages times
 * ten if the index knows pages only.
 */
static int64
add_to_bitmap(BemiChangesStream *stream, Relation index, Keys *keys,
			  TIDBitmap *bitmap)
{
	IndexScanDesc scan;
	int64		found;

	scan = bemi_index_beginscan_bitmap(index, stream->scan->snapshot,
									   keys->count);
	index_rescan(scan, keys->keys, keys->count, NULL, 0);
	found = index_getbitmap(scan, bitmap);
	index_endscan(scan);
	return found;
}

/*
 * Puts the rows of these pages into the sort.
 */
static void
sort_pages(BemiChangesStream *stream, BlockNumber first, BlockNumber last)
{
	ItemPointerData from;
	ItemPointerData to;
	TableScanDesc scan;

	ItemPointerSet(&from, first, FirstOffsetNumber);
	ItemPointerSet(&to, last, MaxOffsetNumber);
	scan = table_beginscan_tidrange(stream->leaf->relation,
									stream->scan->snapshot, &from, &to);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection,
										   stream->slot))
		put_row_if_wanted(stream, &stream->slot->tts_tid);
	table_endscan(scan);
}

/*
 * Puts the rows at these places of a page into the sort.
 */
static void
sort_places(BemiChangesStream *stream, BlockNumber page,
			const OffsetNumber *offsets, int count)
{
	for (int i = 0; i < count; i++)
	{
		ItemPointerData place;

		ItemPointerSet(&place, page, offsets[i]);
		if (fetch_place(stream, &place))
			put_row_if_wanted(stream, &stream->slot->tts_tid);
	}
}

/*
 * Puts the rows of a bitmap into the sort.  Of some pages it names the rows,
 * and of others not: runs of these are read in one go.
 */
static void
sort_bitmap_rows(BemiChangesStream *stream, TIDBitmap *bitmap)
{
	bemi_bitmap_iterator *iterator = bemi_bitmap_iterate(bitmap);
	OffsetNumber offsets[MaxHeapTuplesPerPage];
	BlockNumber first = InvalidBlockNumber;
	BlockNumber last = InvalidBlockNumber;
	BlockNumber page;
	int			count;

	while (bemi_bitmap_next(iterator, &page, offsets, &count))
	{
		CHECK_FOR_INTERRUPTS();
		if (first != InvalidBlockNumber && (count >= 0 || page != last + 1))
		{
			sort_pages(stream, first, last);
			first = InvalidBlockNumber;
		}
		if (count >= 0)
			sort_places(stream, page, offsets, count);
		else if (first == InvalidBlockNumber)
			first = page;
		last = page;
	}
	if (first != InvalidBlockNumber)
		sort_pages(stream, first, last);
	bemi_bitmap_end(iterator);
}

/*
 * Reads the changes of a bitmap from now on.
 */
static void
read_bitmap(BemiChangesStream *stream, TIDBitmap *bitmap)
{
	begin_sort(stream, true);
	stream->fetch = table_index_fetch_begin(stream->leaf->relation);
	sort_bitmap_rows(stream, bitmap);
	table_index_fetch_end(stream->fetch);
	stream->places_are_rows = true;
	read_sorted(stream);
}

static TIDBitmap *
create_bitmap(void)
{
	return tbm_create(work_mem * (Size) 1024, NULL);
}

/*
 * Rows of a partition, as the planner estimates them.  pg_class has no number
 * before the first ANALYZE.
 */
static double
estimated_rows(Relation partition)
{
	BlockNumber pages;
	double		rows;
	double		all_visible;

	table_relation_estimate_size(partition, NULL, &pages, &rows,
								 &all_visible);
	return rows;
}

/*
 * Reads the changes with the contexts of the scan by the GIN index.  Not if
 * the walk is expected to find enough within fewer rows.
 */
static bool
try_contexts(BemiChangesStream *stream)
{
	const BemiChangesScan *scan = stream->scan;
	double		rows = estimated_rows(stream->leaf->relation);
	double		limit = scan->query.limit - scan->returned;
	Relation	index = bemi_leaf_index(stream->leaf, BEMI_INDEX_CONTEXT);
	TIDBitmap  *bitmap = create_bitmap();
	int64		found = 0;
	bool		better;
	ListCell   *cell;

	foreach(cell, scan->contexts)
	{
		Keys		keys = {0};

		add_key(&keys, 1, JsonbContainsStrategyNumber, F_JSONB_CONTAINS,
				JsonbPGetDatum(lfirst(cell)));
		found += add_to_bitmap(stream, index, &keys, bitmap);
	}
	better = stream->walk == NULL || scan->query.limit == 0 ||
		(double) found * found <= rows * limit;
	if (better)
		read_bitmap(stream, bitmap);
	tbm_free(bitmap);
	return better;
}

/*
 * Reads the changes of a range of times by the BRIN index.  Not if the range
 * has most pages.  The index counts ten rows for a page.
 */
static bool
try_times(BemiChangesStream *stream)
{
	const BemiChangesQuery *query = &stream->scan->query;
	Relation	index = bemi_leaf_index(stream->leaf, BEMI_INDEX_TIMES);
	TIDBitmap  *bitmap = create_bitmap();
	Keys		keys = {0};
	int64		found;
	bool		better;

	if (query->from_time != NULL)
		add_time_key(&keys, BTGreaterEqualStrategyNumber, F_TIMESTAMPTZ_GE,
					 *query->from_time);
	if (query->to_time != NULL)
		add_time_key(&keys, BTLessStrategyNumber, F_TIMESTAMPTZ_LT,
					 *query->to_time);
	found = add_to_bitmap(stream, index, &keys, bitmap);
	better = found / 10 * 2 <=
		RelationGetNumberOfBlocks(stream->leaf->relation);
	if (better)
		read_bitmap(stream, bitmap);
	tbm_free(bitmap);
	return better;
}

/*
 * The index whose entries are gathered: all that the query can want.
 */
static Relation
gathered_index(const BemiChangesStream *stream)
{
	const BemiChangesQuery *query = &stream->scan->query;
	Relation	result = NULL;

	if (bemi_wants_only(query, "DELETE"))
		result = bemi_leaf_index(stream->leaf, BEMI_INDEX_DELETES);
	if (result == NULL && query->table != NULL)
		result = bemi_leaf_index(stream->leaf, BEMI_INDEX_KEY);
	return result;
}

/*
 * Begins to read entries of an index.
 */
static void
begin_gather(BemiChangesStream *stream)
{
	BemiChangesScan *scan = stream->scan;
	Relation	index = gathered_index(stream);
	bool		by_key =
		index == bemi_leaf_index(stream->leaf, BEMI_INDEX_KEY);
	Keys		keys = {0};

	stream->gathered_id = by_key ? 4 : 2;
	if (scan->query.table != NULL)
		add_key(&keys, 1, BTEqualStrategyNumber, F_TEXTEQ, scan->table);
	if (scan->query.schema != NULL && by_key)
		add_key(&keys, 3, BTEqualStrategyNumber, F_TEXTEQ, scan->schema);
	add_id_keys(&keys, stream, stream->gathered_id);
	stream->gather = begin_index(stream, index, &keys, true);
	begin_sort(stream, false);
}

static void
end_gather(BemiChangesStream *stream)
{
	if (stream->gather != NULL)
		index_endscan(stream->gather);
	stream->gather = NULL;
}

/*
 * Takes one step of gathering.  Returns whether all entries are in the sort.
 */
static bool
gather_entries(BemiChangesStream *stream)
{
	IndexScanDesc gather = stream->gather;

	for (int i = 0; i < GATHER_STEP; i++)
	{
		ItemPointer place = index_getnext_tid(gather, ForwardScanDirection);
		bool		is_null;

		CHECK_FOR_INTERRUPTS();
		if (place == NULL)
			return true;
		put_into_sort(stream,
					  index_getattr(gather->xs_itup, stream->gathered_id,
									gather->xs_itupdesc, &is_null),
					  0, place);
	}
	return false;
}

static bool
try_gather(BemiChangesStream *stream)
{
	if (stream->gather == NULL)
		begin_gather(stream);
	if (!gather_entries(stream))
		return false;
	end_gather(stream);
	read_sorted(stream);
	return true;
}

/*
 * Whether only a part of the stream's times is wanted.
 */
static bool
times_are_limited(const BemiChangesStream *stream)
{
	const BemiChangesQuery *query = &stream->scan->query;
	const BemiPiece *piece = stream->piece;

	return (query->from_time != NULL && piece->from < *query->from_time) ||
		(query->to_time != NULL &&
		 (!piece->has_to || piece->to > *query->to_time));
}

/*
 * Whether a bitmap can be read: it may have pages without the rows in them.
 */
static bool
pages_are_readable(const BemiChangesStream *stream)
{
	return stream->leaf->relation->rd_tableam->scan_set_tidrange != NULL;
}

/*
 * Whether the partition has the index for a way, and the query its condition.
 */
static bool
way_is_possible(const BemiChangesStream *stream, BemiOtherWay way)
{
	switch (way)
	{
		case BEMI_WAY_CONTEXTS:
			return stream->scan->contexts != NIL &&
				GinFuzzySearchLimit == 0 && pages_are_readable(stream) &&
				bemi_leaf_index(stream->leaf, BEMI_INDEX_CONTEXT) != NULL;
		case BEMI_WAY_TIMES:
			return times_are_limited(stream) && pages_are_readable(stream) &&
				bemi_leaf_index(stream->leaf, BEMI_INDEX_TIMES) != NULL;
		case BEMI_WAY_GATHER:
			return operation_of(stream) == NULL &&
				gathered_index(stream) != NULL;
		case BEMI_WAY_NONE:
			break;
	}
	return true;
}

/*
 * The first way from this one on that is possible.
 */
static BemiOtherWay
next_way(const BemiChangesStream *stream, BemiOtherWay way)
{
	while (!way_is_possible(stream, way))
		way++;
	return way;
}

/*
 * Takes a step on the other way.  Returns whether the stream has changed to
 * it.  If a bitmap is no better than the walk, the next way is tried.
 */
static bool
try_other_way(BemiChangesStream *stream)
{
	while (stream->other_way < BEMI_WAY_GATHER)
	{
		if (stream->other_way == BEMI_WAY_CONTEXTS ? try_contexts(stream) :
			try_times(stream))
			return true;
		stream->other_way = next_way(stream, stream->other_way + 1);
	}
	return stream->other_way == BEMI_WAY_GATHER && try_gather(stream);
}

/*
 * Counts a change of a walk that is not wanted.  Now and then takes a step on
 * the other way.
 */
static bool
leave_walk(BemiChangesStream *stream)
{
	int			limit = stream->other_way == BEMI_WAY_GATHER ?
		WALK_STEP : WALK_BEFORE_BITMAP;
	bool		is_null;
	Datum		id;

	if (stream->other_way == BEMI_WAY_NONE || ++stream->unwanted < limit)
		return false;
	stream->unwanted = 0;
	id = slot_getattr(stream->slot, stream->leaf->columns[BEMI_CHANGE_ID],
					  &is_null);
	memcpy(&stream->walked, DatumGetUUIDP(id), UUID_LEN);
	stream->has_walked = true;
	stream->scan->other_way_pays = try_other_way(stream);
	return stream->scan->other_way_pays;
}

/*
 * Next change of a walk, or of the way to which it changes.
 */
static bool
next_walked(BemiChangesStream *stream)
{
	while (index_getnext_slot(stream->walk, stream->scan->direction,
							  stream->slot))
	{
		CHECK_FOR_INTERRUPTS();
		if (row_is_wanted(stream))
		{
			stream->unwanted = Max(stream->unwanted - 1, 0);
			return true;
		}
		if (leave_walk(stream))
			return next_sorted(stream);
	}
	return false;
}

/*
 * Finds the next change of a stream.  False at its end.
 */
bool
bemi_changes_stream_next(BemiChangesStream *stream)
{
	bool		found = stream->walk != NULL ? next_walked(stream) :
		next_sorted(stream);

	if (found)
		set_current(stream);
	return found;
}

/*
 * Lets a stream wait while others return changes.
 */
void
bemi_changes_stream_park(BemiChangesStream *stream)
{
	ExecMaterializeSlot(stream->slot);
	if (stream->walk != NULL)
		table_index_fetch_reset(stream->walk->xs_heapfetch);
	else
		table_index_fetch_reset(stream->fetch);
}

void
bemi_changes_stream_close(BemiChangesStream *stream)
{
	end_gather(stream);
	if (stream->walk != NULL)
		index_endscan(stream->walk);
	if (stream->fetch != NULL)
		table_index_fetch_end(stream->fetch);
	if (stream->sorted != NULL)
		tuplesort_end(stream->sorted);
	ExecDropSingleTupleTableSlot(stream->slot);
	pfree(stream);
}

/*
 * Whether an index on a key of the context may have a number under another
 * text, as 7.0 for 7, or 7.50 for 7.5.  All that begin in this way are between
 * two texts.
 */
static bool
number_has_other_texts(const BemiChangesStream *stream, Relation index,
					   const char *shortest)
{
	bool		is_whole = strchr(shortest, '.') == NULL;
	char	   *from = psprintf("%s%c", shortest, is_whole ? '.' : '0');
	char	   *to = psprintf("%s%c", shortest, is_whole ? '.' + 1 : '0' + 1);
	Keys		keys = {0};
	IndexScanDesc scan;
	bool		found;

	if (strlen(from) >= BEMI_INDEXED_LENGTH)
		return true;
	add_key(&keys, 1, BTGreaterEqualStrategyNumber, F_TEXT_GE,
			CStringGetTextDatum(from));
	add_key(&keys, 1, BTLessStrategyNumber, F_TEXT_LT,
			CStringGetTextDatum(to));
	scan = begin_index(stream, index, &keys, false);
	found = index_getnext_tid(scan, ForwardScanDirection) != NULL;
	index_endscan(scan);
	return found;
}

/*
 * Whether an index on a key of the context finds what the query wants, by a
 * text.  The text of a number may have others.
 */
static bool
finds_value(const BemiChangesStream *stream, const BemiLeafIndex *index,
			Datum *value)
{
	const BemiChangesQuery *query = &stream->scan->query;
	bool		is_number;

	if (query->context_texts != NULL &&
		bemi_plain_member(query->context_texts, index->name, value,
						  &is_number))
		return true;
	return query->context != NULL &&
		bemi_plain_member(query->context, index->name, value, &is_number) &&
		!(is_number &&
		  number_has_other_texts(stream, index->relation,
								 TextDatumGetCString(*value)));
}

/*
 * An index on a key of the context that the query has a plain value of.
 */
static Relation
context_index_for(const BemiChangesStream *stream, Datum *value)
{
	const BemiChangesQuery *query = &stream->scan->query;
	ListCell   *cell;

	if (query->context == NULL && query->context_texts == NULL)
		return NULL;
	foreach(cell, bemi_leaf_indexes(stream->leaf, BEMI_INDEX_MEMBER))
	{
		if (finds_value(stream, lfirst(cell), value))
			return ((BemiLeafIndex *) lfirst(cell))->relation;
	}
	return NULL;
}

static void
add_context_key(Keys *keys, Datum value)
{
	Datum		indexed =
		DirectFunctionCall2(text_left, value,
							Int32GetDatum(BEMI_INDEXED_LENGTH));

	add_key(keys, 1, BTEqualStrategyNumber, F_TEXTEQ, indexed);
}

/*
 * Begins to read the changes of a row, or the TRUNCATEs of its table.
 */
static void
begin_row(BemiChangesStream *stream)
{
	BemiChangesScan *scan = stream->scan;
	Keys		keys = {0};

	add_key(&keys, 1, BTEqualStrategyNumber, F_TEXTEQ, scan->table);
	if (stream->kind == BEMI_STREAM_KEY)
		add_key(&keys, 2, BTEqualStrategyNumber, F_TEXTEQ, scan->primary_key);
	else
		add_null_key(&keys, 2);
	add_key(&keys, 3, BTEqualStrategyNumber, F_TEXTEQ, scan->schema);
	add_id_keys(&keys, stream, 4);
	stream->walk =
		begin_index(stream, bemi_leaf_index(stream->leaf, BEMI_INDEX_KEY),
					&keys, false);
}

/*
 * Lets a walk change to the other way at once, if that was better in the last
 * partition.
 */
static void
try_what_paid(BemiChangesStream *stream)
{
	if (stream->scan->other_way_pays && stream->other_way != BEMI_WAY_NONE)
		stream->scan->other_way_pays = try_other_way(stream);
}

/*
 * Begins to read the changes of a column that have the stream's operation.
 */
static void
begin_column(BemiChangesStream *stream)
{
	BemiChangesScan *scan = stream->scan;
	Keys		keys = {0};

	add_key(&keys, 1, BTEqualStrategyNumber, F_TEXTEQ, scan->table);
	add_key(&keys, 2, BTEqualStrategyNumber, F_TEXTEQ,
			CStringGetTextDatum(operation_of(stream)));
	add_id_keys(&keys, stream, 3);
	stream->other_way = next_way(stream, 0);
	stream->walk =
		begin_index(stream, bemi_leaf_column_index(stream->leaf,
												   scan->query.changed_column),
					&keys, false);
	try_what_paid(stream);
}

/*
 * Begins to read changes without an index that has the order of the scan.
 */
static void
begin_sorted(BemiChangesStream *stream)
{
	Keys		keys = {0};
	Relation	index;
	Datum		value;

	index = context_index_for(stream, &value);
	if (index != NULL)
	{
		add_context_key(&keys, value);
		sort_index(stream, index, &keys);
	}
	else if (!way_is_possible(stream, BEMI_WAY_CONTEXTS) ||
			 !try_contexts(stream))
		sort_table(stream);
}

/*
 * An index on the table and ids, for the operation if there is one.
 */
static Relation
table_index_for(const BemiChangesStream *stream)
{
	const BemiChangesQuery *query = &stream->scan->query;
	Relation	result = NULL;

	if (query->table == NULL)
		return NULL;
	if (bemi_wants_only(query, "DELETE"))
		result = bemi_leaf_index(stream->leaf, BEMI_INDEX_DELETES);
	return result != NULL ? result :
		bemi_leaf_index(stream->leaf, BEMI_INDEX_TABLE);
}

/*
 * Begins to read changes by an index that has the order of the scan.
 */
static void
begin_walk(BemiChangesStream *stream)
{
	Keys		keys = {0};
	Relation	index;
	Datum		value;

	index = context_index_for(stream, &value);
	if (index != NULL)
	{
		add_context_key(&keys, value);
		add_id_keys(&keys, stream, 2);
	}
	else if ((index = table_index_for(stream)) != NULL)
	{
		add_key(&keys, 1, BTEqualStrategyNumber, F_TEXTEQ,
				stream->scan->table);
		add_id_keys(&keys, stream, 2);
	}
	else
	{
		index = bemi_leaf_index(stream->leaf, BEMI_INDEX_ID);
		add_id_keys(&keys, stream, 1);
		stream->other_way = next_way(stream, 0);
	}
	stream->walk = begin_index(stream, index, &keys, false);
	try_what_paid(stream);
}

/*
 * Opens a stream of a partition, before its first change.
 */
BemiChangesStream *
bemi_changes_stream_open(BemiChangesScan *scan, const BemiPiece *piece,
						 BemiLeaf *leaf, BemiChangesStreamKind kind)
{
	BemiChangesStream *stream = palloc0(sizeof(BemiChangesStream));

	stream->scan = scan;
	stream->piece = piece;
	stream->leaf = leaf;
	stream->kind = kind;
	stream->other_way = BEMI_WAY_NONE;
	stream->slot = table_slot_create(leaf->relation, NULL);
	if (operation_of(stream) != NULL)
		begin_column(stream);
	else if (kind != BEMI_STREAM_ALL)
		begin_row(stream);
	else if (scan->query.primary_key != NULL ||
			 scan->query.order == BEMI_NEWEST_BY_TIME ||
			 bemi_leaf_index(leaf, BEMI_INDEX_ID) == NULL)
		begin_sorted(stream);
	else
		begin_walk(stream);
	return stream;
}

/*
 * Columns of a sort: SORTED_ID and so on.
 */
void
bemi_changes_stream_sort_slots(BemiChangesScan *scan)
{
	scan->sort_columns = CreateTemplateTupleDesc(SORTED_PLACE);
	TupleDescInitEntry(scan->sort_columns, SORTED_ID, "id", UUIDOID, -1, 0);
	TupleDescInitEntry(scan->sort_columns, SORTED_TIME, "time",
					   TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(scan->sort_columns, SORTED_PLACE, "place", TIDOID, -1,
					   0);
	scan->into_sort = MakeSingleTupleTableSlot(scan->sort_columns,
											   &TTSOpsVirtual);
	scan->from_sort = MakeSingleTupleTableSlot(scan->sort_columns,
											   &TTSOpsMinimalTuple);
}
