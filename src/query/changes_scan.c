/*-------------------------------------------------------------------------
 *
 * changes_scan.c
 *		Reads changes from the partitions of bemi.changes, in order.
 *
 * Input: conditions and an order.  Output: changes, one at a time.  A plan for
 * hundreds of partitions takes tens of milliseconds, so there are no plans
 * here.
 *
 * A stream returns changes of one partition, in the order of the scan.  The
 * scan merges the streams by id.  From late to early times, it opens the
 * streams of a partition when it has returned all changes of the partition
 * before.  Ids do not follow the times if a clock was set back, so the order
 * from the oldest id on needs a stream of each partition at once.
 *
 * Snapshot: the active one of the beginning.
 *
 * Memory: "bemi changes scan".  Its child "bemi change" is reset for each
 * change.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupconvert.h"
#include "executor/tuptable.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

#include "query/query_internal.h"

/*
 * Order of two streams by their current changes: that of the scan.
 */
static int
compare_streams(Datum a, Datum b, void *arg)
{
	const BemiChangesStream *one =
		(const BemiChangesStream *) DatumGetPointer(a);
	const BemiChangesStream *other =
		(const BemiChangesStream *) DatumGetPointer(b);
	const BemiChangesScan *scan = arg;
	int			order = 0;

	if (scan->query.order == BEMI_NEWEST_BY_TIME)
		order = (one->time > other->time) - (one->time < other->time);
	if (order == 0)
		order = memcmp(&one->id, &other->id, UUID_LEN);
	/* The heap's first is the greatest. */
	return ScanDirectionIsForward(scan->direction) ? -order : order;
}

/*
 * Opens a stream of a partition, and adds it to the scan if it has a change.
 */
static void
open_stream(BemiChangesScan *scan, const BemiPiece *piece, BemiLeaf *leaf,
			BemiChangesStreamKind kind)
{
	BemiChangesStream *stream =
		bemi_changes_stream_open(scan, piece, leaf, kind);

	if (!bemi_changes_stream_next(stream))
	{
		bemi_changes_stream_close(stream);
		return;
	}
	bemi_changes_stream_park(stream);
	binaryheap_add(scan->streams, PointerGetDatum(stream));
}

/*
 * Whether a range of times can have wanted changes.
 */
static bool
piece_is_wanted(const BemiChangesQuery *query, const BemiPiece *piece)
{
	if (query->to_time != NULL && piece->from >= *query->to_time)
		return false;
	if (query->from_time != NULL && piece->has_to &&
		piece->to <= *query->from_time)
		return false;
	return query->after_id == NULL || piece->from <= query->after_time;
}

/*
 * Whether a partition may have wanted ids.  If it is unlikely, one probe of
 * the index of ids is cheaper than two of that by row.
 */
static bool
leaf_is_wanted(BemiChangesScan *scan, const BemiPiece *piece, BemiLeaf *leaf)
{
	const BemiChangesQuery *query = &scan->query;

	if (query->primary_key == NULL || query->ids_since == NULL ||
		!piece->has_to || piece->to > *query->ids_since)
		return true;
	return bemi_leaf_has_ids(scan, piece, leaf);
}

/*
 * Opens the streams of changes of the query's column.  Those of other
 * operations change no column.
 */
static void
open_column(BemiChangesScan *scan, const BemiPiece *piece, BemiLeaf *leaf)
{
	static const struct
	{
		const char *operation;
		BemiChangesStreamKind kind;
	}			streams[] = {
		{"CREATE", BEMI_STREAM_CREATES}, {"UPDATE", BEMI_STREAM_UPDATES},
		{"DELETE", BEMI_STREAM_DELETES}
	};

	for (int i = 0; i < lengthof(streams); i++)
	{
		if (bemi_wants_operation(&scan->query, streams[i].operation))
			open_stream(scan, piece, leaf, streams[i].kind);
	}
}

/*
 * Whether only TRUNCATEs of a table are wanted.  They have no primary key.
 */
static bool
wants_truncates(const BemiChangesQuery *query)
{
	return query->table != NULL && query->schema != NULL &&
		query->primary_key == NULL && bemi_wants_only(query, "TRUNCATE");
}

/*
 * Opens the streams of a partition.
 */
static void
open_leaf(BemiChangesScan *scan, const BemiPiece *piece, BemiLeaf *leaf)
{
	const BemiChangesQuery *query = &scan->query;
	bool		by_id = query->order != BEMI_NEWEST_BY_TIME;

	if (query->primary_key != NULL && by_id &&
		bemi_leaf_index(leaf, BEMI_INDEX_KEY) != NULL)
	{
		open_stream(scan, piece, leaf, BEMI_STREAM_KEY);
		open_stream(scan, piece, leaf, BEMI_STREAM_TRUNCATES);
	}
	else if (wants_truncates(query) && by_id &&
			 bemi_leaf_index(leaf, BEMI_INDEX_KEY) != NULL)
		open_stream(scan, piece, leaf, BEMI_STREAM_TRUNCATES);
	else if (query->changed_column != NULL && query->table != NULL && by_id &&
			 query->primary_key == NULL &&
			 bemi_leaf_column_index(leaf, query->changed_column) != NULL)
		open_column(scan, piece, leaf);
	else
		open_stream(scan, piece, leaf, BEMI_STREAM_ALL);
}

/*
 * Opens the streams of a range of times.
 */
static void
open_piece(BemiChangesScan *scan, const BemiPiece *piece)
{
	ListCell   *cell;

	if (!piece_is_wanted(&scan->query, piece))
		return;
	foreach(cell, piece->leaves)
	{
		BemiLeaf   *leaf = lfirst(cell);

		CHECK_FOR_INTERRUPTS();
		if (bemi_leaf_open(scan->history, leaf) &&
			leaf_is_wanted(scan, piece, leaf))
			open_leaf(scan, piece, leaf);
	}
}

/*
 * Opens streams until there is a change, or no partition is left.
 */
static void
open_streams(BemiChangesScan *scan)
{
	const BemiHistory *history = scan->history;
	bool		all_at_once = scan->query.order == BEMI_OLDEST_FIRST;

	while (scan->next_piece < history->piece_count &&
		   (all_at_once || binaryheap_empty(scan->streams)))
		open_piece(scan, &history->pieces[scan->next_piece++]);
}

/*
 * At most so many streams are open at once: three of each table, for each
 * range that it has changes of.
 */
static int
count_streams(const BemiHistory *history)
{
	int			count = 0;

	for (int i = 0; i < history->piece_count; i++)
		count += 3 * list_length(history->pieces[i].leaves);
	return count;
}

static Datum
text_datum(const char *text)
{
	return text == NULL ? (Datum) 0 : CStringGetTextDatum(text);
}

/*
 * Begins to read changes.  The history must be readable.
 */
BemiChangesScan *
bemi_changes_begin(BemiHistory *history, const BemiChangesQuery *query)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi changes scan",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	BemiChangesScan *scan = palloc0(sizeof(BemiChangesScan));

	Assert(history->is_readable);
	Assert(query->primary_key == NULL ||
		   (query->table != NULL && query->schema != NULL));
	scan->history = history;
	scan->query = *query;
	scan->memory = memory;
	scan->per_change = AllocSetContextCreate(memory, "bemi change",
											 ALLOCSET_DEFAULT_SIZES);
	scan->snapshot = RegisterSnapshot(GetActiveSnapshot());
	scan->direction = query->order == BEMI_OLDEST_FIRST ?
		ForwardScanDirection : BackwardScanDirection;
	scan->table = text_datum(query->table);
	scan->schema = text_datum(query->schema);
	scan->primary_key = text_datum(query->primary_key);
	scan->contexts = bemi_contexts_to_find(query);
	scan->streams = binaryheap_allocate(Max(count_streams(history), 1),
										compare_streams, scan);
	scan->converted =
		MakeSingleTupleTableSlot(bemi_history_row_type(history),
								 &TTSOpsVirtual);
	bemi_changes_stream_sort_slots(scan);
	MemoryContextSwitchTo(caller);
	return scan;
}

/*
 * Moves the stream of the last change on.
 */
static void
advance_last(BemiChangesScan *scan)
{
	BemiChangesStream *stream = scan->last;

	if (stream == NULL)
		return;
	if (bemi_changes_stream_next(stream))
	{
		binaryheap_replace_first(scan->streams, PointerGetDatum(stream));
		return;
	}
	(void) binaryheap_remove_first(scan->streams);
	bemi_changes_stream_close(stream);
	scan->last = NULL;
}

/*
 * The stream with the next change, or NULL.
 */
static BemiChangesStream *
next_stream(BemiChangesScan *scan)
{
	BemiChangesStream *stream;

	advance_last(scan);
	open_streams(scan);
	if (binaryheap_empty(scan->streams))
		return NULL;
	stream =
		(BemiChangesStream *) DatumGetPointer(binaryheap_first(scan->streams));
	if (scan->last != NULL && scan->last != stream)
		bemi_changes_stream_park(scan->last);
	scan->last = stream;
	return stream;
}

/*
 * The next change, as a row of bemi.changes, or NULL.  It lives until the next
 * call.
 */
TupleTableSlot *
bemi_changes_next(BemiChangesScan *scan)
{
	MemoryContext caller = MemoryContextSwitchTo(scan->memory);
	BemiChangesStream *stream = NULL;
	AttrMap    *map;

	if (scan->query.limit == 0 || scan->returned < scan->query.limit)
		stream = next_stream(scan);
	MemoryContextSwitchTo(caller);
	if (stream == NULL)
		return NULL;
	scan->returned++;
	map = bemi_leaf_map(scan->history, stream->leaf);
	if (map == NULL)
		return stream->slot;
	return execute_attr_map_slot(map, stream->slot, scan->converted);
}

void
bemi_changes_end(BemiChangesScan *scan)
{
	while (!binaryheap_empty(scan->streams))
		bemi_changes_stream_close(
								  (BemiChangesStream *) DatumGetPointer(
																		binaryheap_remove_first(scan->streams)));
	ExecDropSingleTupleTableSlot(scan->converted);
	ExecDropSingleTupleTableSlot(scan->into_sort);
	ExecDropSingleTupleTableSlot(scan->from_sort);
	UnregisterSnapshot(scan->snapshot);
	MemoryContextDelete(scan->memory);
}
