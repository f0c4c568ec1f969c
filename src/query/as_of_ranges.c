/*-------------------------------------------------------------------------
 *
 * as_of_ranges.c
 *		The ids that changes of later times can have in a partition.
 *
 * Input: a partition and a time.  Output: a lower bound for the ids of its
 * changes with a later time, by the BRIN index.  That has the smallest and the
 * largest time and id of each range of pages.  Only ranges with a later time
 * count, and of those that begin before it the rows are read.  They are few,
 * because changes are stored nearly in the order of their times.
 *
 * A partition of 20 million changes has 20,000 summaries.  So they are read in
 * the order in which the index has them, and not one by one through its map of
 * ranges.  While they are read, a summary can be moved to a page that has been
 * read already.  So ranges without a plain summary there are looked up again
 * through the map.  A summary that grows meanwhile does so for rows that the
 * snapshot of the past does not see.
 *
 * What must never happen: a bound that is greater than the id of a later
 * change.  A bound that is too small only costs time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/brin.h"
#include "access/brin_internal.h"
#include "access/brin_page.h"
#include "access/brin_revmap.h"
#include "access/brin_tuple.h"
#include "access/genam.h"
#include "access/heapam.h"
#include "access/tableam.h"
#include "catalog/pg_am_d.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "query/query_internal.h"

/* So many ranges are read.  Of more, only the summaries count. */
#define MAX_MIXED	8

/* The values of a summary, as the index has them. */
typedef struct Summary
{
	TimestampTz first;
	TimestampTz last;
	pg_uuid_t	least;
	pg_uuid_t	greatest;
} Summary;

/* A range with times up to the wanted one, and later ones. */
typedef struct Mixed
{
	BlockNumber range;
	pg_uuid_t	least;
} Mixed;

/* What is looked for in a partition. */
typedef struct Search
{
	const BemiPast *past;
	const BemiLeaf *leaf;
	Relation	index;
	TimestampTz at;
	pg_uuid_t  *bound;			/* smallest id of a later change, at most */
	BlockNumber pages;			/* of the partition */
	BlockNumber pages_per_range;
	BlockNumber count;			/* of ranges */
	bool	   *is_known;		/* ranges of which the summary was read */
	int			mixed_count;
	Mixed		mixed[MAX_MIXED];
} Search;

static void
lower_bound(Search *search, const pg_uuid_t *id)
{
	if (memcmp(id, search->bound, sizeof(pg_uuid_t)) < 0)
		*search->bound = *id;
}

/* ---------- rows ---------- */

/*
 * Reads the rows of a range.
 */
static void
search_rows(Search *search, BlockNumber range)
{
	const AttrNumber *columns = search->leaf->columns;
	Relation	relation = search->leaf->relation;
	BlockNumber first = range * search->pages_per_range;
	TupleTableSlot *slot = table_slot_create(relation, NULL);
	TableScanDesc scan = table_beginscan_strat(relation,
											   search->past->of_changes, 0,
											   NULL, false, false);

	heap_setscanlimits(scan, first,
					   Min(search->pages_per_range, search->pages - first));
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		is_null;
		Datum		time = slot_getattr(slot,
										columns[BEMI_CHANGE_COMMITTED_AT],
										&is_null);

		CHECK_FOR_INTERRUPTS();
		if (DatumGetTimestampTz(time) > search->at)
			lower_bound(search,
						DatumGetUUIDP(slot_getattr(slot,
												   columns[BEMI_CHANGE_ID],
												   &is_null)));
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Reads the rows of the mixed ranges, unless they cannot have a lower id.
 */
static void
search_mixed(Search *search)
{
	for (int i = 0; i < search->mixed_count; i++)
	{
		if (memcmp(&search->mixed[i].least, search->bound,
				   sizeof(pg_uuid_t)) < 0)
			search_rows(search, search->mixed[i].range);
	}
}

/* ---------- summaries ---------- */

/*
 * Uses the summary of a range.
 */
static void
use_summary(Search *search, BlockNumber range, const Summary *summary)
{
	search->is_known[range] = true;
	if (summary->last <= search->at)
		return;
	if (summary->first > search->at || search->mixed_count == MAX_MIXED)
	{
		lower_bound(search, &summary->least);
		return;
	}
	search->mixed[search->mixed_count].range = range;
	search->mixed[search->mixed_count++].least = summary->least;
}

/*
 * Reads the plain summaries of a page of the index.  Others, of ranges without
 * rows or that are being summarized, have flags.
 */
static void
read_summaries(Search *search, Page page)
{
	for (OffsetNumber i = FirstOffsetNumber;
		 i <= PageGetMaxOffsetNumber(page); i++)
	{
		ItemId		item = PageGetItemId(page, i);
		BrinTuple  *tuple;
		Size		offset;
		Summary		summary;

		if (!ItemIdIsUsed(item))
			continue;
		tuple = (BrinTuple *) PageGetItem(page, item);
		offset = BrinTupleDataOffset(tuple);
		if (tuple->bt_info != offset ||
			ItemIdGetLength(item) < offset + sizeof(Summary) ||
			tuple->bt_blkno / search->pages_per_range >= search->count)
			continue;
		memcpy(&summary, (char *) tuple + offset, sizeof(Summary));
		use_summary(search, tuple->bt_blkno / search->pages_per_range,
					&summary);
	}
}

static void
read_index(Search *search)
{
	BlockNumber pages = RelationGetNumberOfBlocks(search->index);

	for (BlockNumber i = 0; i < pages; i++)
	{
		Buffer		buffer = ReadBuffer(search->index, i);

		CHECK_FOR_INTERRUPTS();
		LockBuffer(buffer, BUFFER_LOCK_SHARE);
		if (!PageIsNew(BufferGetPage(buffer)) &&
			BRIN_IS_REGULAR_PAGE(BufferGetPage(buffer)))
			read_summaries(search, BufferGetPage(buffer));
		UnlockReleaseBuffer(buffer);
	}
}

/* How ranges are looked up one by one.  The memory is that of the last one. */
typedef struct LookUp
{
	BrinRevmap *revmap;
	BlockNumber pages_per_range;
	BrinDesc   *desc;
	Buffer		buffer;
	BrinTuple  *tuple;			/* has a page of memory, so any fits */
	BrinMemTuple *values;
} LookUp;

/*
 * Uses the summary that was looked up.  False if it has no values that count.
 */
static bool
use_looked_up(Search *search, BlockNumber range, LookUp *look_up)
{
	BrinMemTuple *found =
		brin_deform_tuple(look_up->desc, look_up->tuple, look_up->values);
	const BrinValues *times = &found->bt_columns[0];
	const BrinValues *ids = &found->bt_columns[1];
	Summary		summary;

	if (found->bt_placeholder || times->bv_allnulls || ids->bv_allnulls)
		return false;
	summary.first = DatumGetTimestampTz(times->bv_values[0]);
	summary.last = DatumGetTimestampTz(times->bv_values[1]);
	summary.least = *DatumGetUUIDP(ids->bv_values[0]);
	summary.greatest = *DatumGetUUIDP(ids->bv_values[1]);
	use_summary(search, range, &summary);
	return true;
}

/*
 * Looks up the summary of a range.  If there is none, the rows are read.
 */
static void
look_up_range(Search *search, BlockNumber range, LookUp *look_up)
{
	OffsetNumber offset;
	Size		size;
	Size		most = BLCKSZ;
	BrinTuple  *tuple;

	tuple = bemi_brin_tuple(look_up->revmap, range * look_up->pages_per_range,
							&look_up->buffer, &offset, &size,
							search->past->of_changes);
	if (tuple != NULL)
	{
		(void) brin_copy_tuple(tuple, size, look_up->tuple, &most);
		LockBuffer(look_up->buffer, BUFFER_LOCK_UNLOCK);
	}
	if (tuple == NULL || !use_looked_up(search, range, look_up))
		search_rows(search, range);
}

/*
 * Looks up the ranges of which no plain summary was read.
 */
static void
look_up_others(Search *search)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi summaries",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	LookUp		look_up = {.buffer = InvalidBuffer};

	look_up.revmap = bemi_brin_revmap(search->index, &look_up.pages_per_range,
									  search->past->of_changes);
	look_up.desc = brin_build_desc(search->index);
	look_up.tuple = palloc(BLCKSZ);
	look_up.values = brin_new_memtuple(look_up.desc);
	for (BlockNumber range = 0; range < search->count; range++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!search->is_known[range])
			look_up_range(search, range, &look_up);
	}
	if (look_up.buffer != InvalidBuffer)
		ReleaseBuffer(look_up.buffer);
	brinRevmapTerminate(look_up.revmap);
	brin_free_desc(look_up.desc);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
}

/* ---------- the index ---------- */

/*
 * Whether an index has the smallest and largest times and ids.
 */
static bool
has_ranges(const BemiLeaf *leaf, Relation index)
{
	return index->rd_rel->relam == BRIN_AM_OID &&
		index->rd_index->indisvalid && index->rd_index->indnatts == 2 &&
		index->rd_index->indkey.values[0] ==
		leaf->columns[BEMI_CHANGE_COMMITTED_AT] &&
		index->rd_index->indkey.values[1] == leaf->columns[BEMI_CHANGE_ID] &&
		RelationGetIndexPredicate(index) == NIL &&
		index_getprocid(index, 1, BRIN_PROCNUM_OPCINFO) ==
		F_BRIN_MINMAX_OPCINFO &&
		index_getprocid(index, 2, BRIN_PROCNUM_OPCINFO) ==
		F_BRIN_MINMAX_OPCINFO;
}

/*
 * Opens the index of smallest and largest times and ids; NULL: there is none.
 */
static Relation
open_range_index(const BemiLeaf *leaf)
{
	ListCell   *cell;

	if (leaf->relation->rd_rel->relam != HEAP_TABLE_AM_OID)
		return NULL;
	foreach(cell, RelationGetIndexList(leaf->relation))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (has_ranges(leaf, index))
			return index;
		index_close(index, NoLock);
	}
	return NULL;
}

static BlockNumber
pages_of_range(Relation index)
{
	BrinStatsData statistics;

	brinGetStats(index, &statistics);
	return statistics.pagesPerRange;
}

/*
 * Lowers *bound to a lower bound for the ids of changes of an open partition
 * that have a later time.  False if none is known.
 */
bool
bemi_leaf_lower_bound(const BemiPast *past, const BemiLeaf *leaf,
					  TimestampTz at, pg_uuid_t *bound)
{
	Search		search = {.past = past,.leaf = leaf,.at = at,.bound = bound};

	search.index = open_range_index(leaf);
	if (search.index == NULL)
		return false;
	search.pages = RelationGetNumberOfBlocks(leaf->relation);
	search.pages_per_range = pages_of_range(search.index);
	search.count = (search.pages + search.pages_per_range - 1) /
		search.pages_per_range;
	search.is_known = palloc0(sizeof(bool) * Max(search.count, 1));
	read_index(&search);
	look_up_others(&search);
	search_mixed(&search);
	pfree(search.is_known);
	index_close(search.index, NoLock);
	return true;
}
