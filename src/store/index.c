/*-------------------------------------------------------------------------
 *
 * index.c
 *		Inserts the index entries of rows that have just been written.
 *
 * Input: rows that a partition's multi-insert has written (partition.c).  Each
 * index gets its entries for all of these rows before the next index, because
 * its pages are then in the cache.
 *
 * The worker spends most of its time here, so there are five ways, chosen once
 * when the partition is opened:
 *
 * - By the executor, as any INSERT does it.  Users' indexes may need this:
 *	 those on users' columns, or with an exclusion constraint.
 * - By row.  An index on our columns needs only values that we already have,
 *	 so the executor need not read them from the row again.
 * - By run.  Expressions and the condition of an index are computed from our
 *	 columns, and once for successive rows that share these.  Such rows are
 *	 those of a statement, and their context, table and operation.  Functions
 *	 of an index are immutable, so the result would be the same for each row.
 * - By context.  Rows of one statement share a context, and so the keys that a
 *	 GIN index extracts from it.  These are entered once for all these rows, as
 *	 when a GIN index is built.  If few rows share a context, the pending list
 *	 is faster, from which keys are moved later.  Keys of many rows are appended
 *	 to it at once, because each time its metadata is written to the WAL, too.
 * - By range.  A BRIN index on times and ids has the smallest and the largest
 *	 value of each range of pages.  So of all rows that were written to a range,
 *	 only the smallest and the largest values are entered, each once.
 *
 * The server summarizes a range of a BRIN index when it vacuums the table, and
 * a reader must read all ranges without a summary.  In a table that only grows
 * these would be a fifth of it.  So a range is summarized here, when its first
 * rows have been written: a summary is made from rows that are read, and there
 * are few of them then.
 *
 * BemiIndexes lives in the memory of the partition, within one destination
 * transaction.  Memory for rows is in the caller's context.  What must never
 * happen: a row has no entry in one of the indexes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/brin.h"
#include "access/brin_internal.h"
#include "access/genam.h"
#include "access/gin_private.h"
#include "access/sysattr.h"
#include "catalog/index.h"
#include "catalog/pg_am_d.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "store/store_internal.h"

/*
 * Least number of rows with the same context for which its keys are entered at
 * once.  Finding the place of a key costs about as much as adding it to the
 * pending list for this many rows.  This is an estimate from profiles.  It
 * matters little, because most runs are either long or short.
 */
#define SHARED_ROWS		8

/*
 * The keys of a larger context are appended to the pending list alone, because
 * those of many would need too much memory.
 */
#define COLLECTED_CONTEXT	1024

typedef enum IndexWay
{
	BY_EXECUTOR,
	BY_ROW,
	BY_RUN,
	BY_CONTEXT,
	BY_RANGE
} IndexWay;

typedef struct HistoryIndex
{
	IndexWay	way;
	Relation	relation;
	IndexInfo  *info;
	IndexUniqueCheck unique;
	int			columns[INDEX_MAX_KEYS];	/* into bemi_store_columns; -1: an
											 * expression */
	int			input_count;	/* BY_RUN: columns that are computed with */
	int			inputs[BEMI_STORE_COLUMNS]; /* into bemi_store_columns */
	ExprState  *condition;		/* BY_RUN; NULL: none */
	bool		has_pending_list;	/* BY_CONTEXT */
	GinState   *gin;			/* BY_CONTEXT; NULL: not needed yet */
	BlockNumber range_pages;	/* BY_RANGE: pages of a range */
} HistoryIndex;

struct BemiIndexes
{
	MemoryContext memory;		/* holds this struct and all below */
	ResultRelInfo *target;
	EState	   *estate;
	const AttrNumber *attnums;	/* numbers of our columns */
	TupleTableSlot *row;		/* that expressions are computed from */
	int			count;
	HistoryIndex *indexes;
};

/*
 * The range of pages that was summarized last, of a BRIN index.  It outlives
 * the transaction, because most transactions write to the same range.
 */
static Oid	summarized_index = InvalidOid;
static BlockNumber summarized_range = InvalidBlockNumber;

/*
 * Which of our columns has this number in the partition; -1 if none has.  A
 * column that a user has made a generated one does not count, because its
 * value is not ours.
 */
static int
history_column(const BemiIndexes *indexes, AttrNumber attnum)
{
	TupleDesc	columns = RelationGetDescr(indexes->target->ri_RelationDesc);

	for (int i = 0; i < BEMI_STORE_COLUMNS; i++)
		if (indexes->attnums[i] == attnum)
			return TupleDescAttr(columns, attnum - 1)->attgenerated ? -1 : i;
	return -1;
}

/*
 * Records the columns of an index.  Returns false if one is not ours.
 */
static bool
find_index_columns(const BemiIndexes *indexes, HistoryIndex *index)
{
	for (int i = 0; i < index->info->ii_NumIndexAttrs; i++)
	{
		AttrNumber	attnum = index->info->ii_IndexAttrNumbers[i];

		index->columns[i] = -1;
		if (attnum == 0)
			continue;
		index->columns[i] = history_column(indexes, attnum);
		if (index->columns[i] < 0)
			return false;
	}
	return true;
}

/*
 * Records the columns that the expressions and the condition of an index are
 * computed with.  Returns false if one is not ours.
 */
static bool
find_index_inputs(const BemiIndexes *indexes, HistoryIndex *index)
{
	Bitmapset  *attnums = NULL;
	int			i = -1;

	pull_varattnos((Node *) index->info->ii_Expressions, 1, &attnums);
	pull_varattnos((Node *) index->info->ii_Predicate, 1, &attnums);
	while ((i = bms_next_member(attnums, i)) >= 0)
	{
		AttrNumber	attnum = i + FirstLowInvalidHeapAttributeNumber;
		int			column = history_column(indexes, attnum);

		if (column < 0)
			return false;
		index->inputs[index->input_count++] = column;
	}
	bms_free(attnums);
	return true;
}

/*
 * Whether this is a BRIN index of smallest and largest times and ids.
 */
static bool
is_range_index(const HistoryIndex *index)
{
	if (index->relation->rd_rel->relam != BRIN_AM_OID)
		return false;
	for (int i = 0; i < index->info->ii_NumIndexAttrs; i++)
		if ((index->columns[i] != BEMI_STORE_ID &&
			 index->columns[i] != BEMI_STORE_COMMITTED_AT) ||
			index_getprocid(index->relation, i + 1, BRIN_PROCNUM_OPCINFO) !=
			F_BRIN_MINMAX_OPCINFO)
			return false;
	return true;
}

/*
 * Chooses the way for one index, and records what it needs.
 */
static IndexWay
choose_index_way(BemiIndexes *indexes, HistoryIndex *index)
{
	const IndexInfo *info = index->info;

	if (info->ii_ExclusionOps != NULL || !info->ii_ReadyForInserts ||
		!find_index_columns(indexes, index) ||
		!find_index_inputs(indexes, index))
		return BY_EXECUTOR;
	if (info->ii_Expressions != NIL || info->ii_Predicate != NIL)
	{
		index->condition =
			ExecPrepareQual(info->ii_Predicate, indexes->estate);
		return BY_RUN;
	}
	if (index->relation->rd_rel->relam == GIN_AM_OID &&
		info->ii_NumIndexAttrs == 1 && index->columns[0] == BEMI_STORE_CONTEXT)
	{
		index->has_pending_list = GinGetUseFastUpdate(index->relation);
		return BY_CONTEXT;
	}
	if (is_range_index(index))
	{
		index->range_pages = BrinGetPagesPerRange(index->relation);
		return BY_RANGE;
	}
	return BY_ROW;
}

/*
 * Creates the description of a partition's open indexes, in the current memory
 * context.  "attnums" has the numbers of our columns, and lives as long.
 */
BemiIndexes *
bemi_indexes_create(ResultRelInfo *target, EState *estate,
					const AttrNumber *attnums)
{
	BemiIndexes *indexes = palloc0(sizeof(BemiIndexes));

	indexes->memory = CurrentMemoryContext;
	indexes->target = target;
	indexes->estate = estate;
	indexes->attnums = attnums;
	indexes->row =
		ExecAllocTableSlot(&estate->es_tupleTable,
						   RelationGetDescr(target->ri_RelationDesc),
						   &TTSOpsVirtual);
	indexes->count = target->ri_NumIndices;
	indexes->indexes = palloc0(sizeof(HistoryIndex) * Max(indexes->count, 1));
	for (int i = 0; i < indexes->count; i++)
	{
		HistoryIndex *index = &indexes->indexes[i];

		index->relation = target->ri_IndexRelationDescs[i];
		index->info = target->ri_IndexRelationInfo[i];
		index->unique = index->relation->rd_index->indisunique ?
			UNIQUE_CHECK_YES : UNIQUE_CHECK_NO;

		/*
		 * A deferrable index has a trigger, and rows are then inserted one by
		 * one.
		 */
		Assert(target->ri_TrigDesc != NULL ||
			   index->unique == UNIQUE_CHECK_NO ||
			   index->relation->rd_index->indimmediate);
		index->way = choose_index_way(indexes, index);
	}
	return indexes;
}

/*
 * Lets the executor insert the entries of the n-th index.
 */
static void
insert_index_by_executor(BemiIndexes *indexes, int n, TupleTableSlot **slots,
						 int count)
{
	ResultRelInfo one_index = *indexes->target;

	one_index.ri_NumIndices = 1;
	one_index.ri_IndexRelationDescs =
		&indexes->target->ri_IndexRelationDescs[n];
	one_index.ri_IndexRelationInfo = &indexes->target->ri_IndexRelationInfo[n];
	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		list_free(bemi_insert_index_tuples(&one_index, slots[i],
										   indexes->estate));
	}
}

/*
 * Inserts the entry of one row.  "values" has the values of expressions.
 */
static void
insert_index_row(const BemiIndexes *indexes, const HistoryIndex *index,
				 TupleTableSlot *slot, const BemiStoreRow *row,
				 Datum *values, bool *nulls)
{
	for (int key = 0; key < index->info->ii_NumIndexAttrs; key++)
	{
		int			column = index->columns[key];

		if (column < 0)
			continue;
		values[key] = row->values[column];
		nulls[key] = row->nulls[column];
	}
	(void) index_insert(index->relation, values, nulls, &slot->tts_tid,
						indexes->target->ri_RelationDesc, index->unique,
						false, index->info);
}

static void
insert_index_by_row(BemiIndexes *indexes, HistoryIndex *index,
					TupleTableSlot **slots, const BemiStoreRow *rows,
					int count)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		insert_index_row(indexes, index, slots[i], &rows[i], values, nulls);
	}
}

/*
 * Whether two rows share what an index is computed with.  Values that are not
 * passed by value are the same if they have the same address.
 */
static bool
share_index_inputs(const HistoryIndex *index, const BemiStoreRow *a,
				   const BemiStoreRow *b)
{
	for (int i = 0; i < index->input_count; i++)
	{
		int			column = index->inputs[i];

		if (a->values[column] != b->values[column] ||
			a->nulls[column] != b->nulls[column])
			return false;
	}
	return true;
}

/*
 * Puts our values of a row where expressions are computed from.
 */
static void
fill_expression_row(BemiIndexes *indexes, const BemiStoreRow *row)
{
	TupleTableSlot *slot = ExecClearTuple(indexes->row);

	memset(slot->tts_isnull, true,
		   sizeof(bool) * slot->tts_tupleDescriptor->natts);
	for (int column = 0; column < BEMI_STORE_COLUMNS; column++)
	{
		slot->tts_values[indexes->attnums[column] - 1] = row->values[column];
		slot->tts_isnull[indexes->attnums[column] - 1] = row->nulls[column];
	}
	ExecStoreVirtualTuple(slot);
}

/*
 * Computes the condition of an index for a row, and if it is met, the values
 * of the entry.  Returns whether it is met.
 */
static bool
compute_index_values(BemiIndexes *indexes, HistoryIndex *index,
					 const BemiStoreRow *row, Datum *values, bool *nulls)
{
	ExprContext *context = GetPerTupleExprContext(indexes->estate);

	fill_expression_row(indexes, row);
	context->ecxt_scantuple = indexes->row;
	if (!ExecQual(index->condition, context))
		return false;
	FormIndexDatum(index->info, indexes->row, indexes->estate, values, nulls);
	return true;
}

static void
insert_index_by_run(BemiIndexes *indexes, HistoryIndex *index,
					TupleTableSlot **slots, const BemiStoreRow *rows,
					int count)
{
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];
	bool		belongs = false;

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (i == 0 || !share_index_inputs(index, &rows[i - 1], &rows[i]))
			belongs = compute_index_values(indexes, index, &rows[i],
										   values, nulls);
		if (belongs)
			insert_index_row(indexes, index, slots[i], &rows[i],
							 values, nulls);
	}
}

static int
compare_places(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) a, (ItemPointer) b);
}

/*
 * The places of rows, sorted as a GIN index needs them; palloc'd.
 */
static ItemPointerData *
row_places(TupleTableSlot **slots, int count)
{
	ItemPointerData *places = palloc(sizeof(ItemPointerData) * count);

	for (int i = 0; i < count; i++)
		places[i] = slots[i]->tts_tid;
	qsort(places, count, sizeof(ItemPointerData), compare_places);
	return places;
}

/*
 * What the server's functions need to know of a GIN index.
 */
static GinState *
gin_state(BemiIndexes *indexes, HistoryIndex *index)
{
	if (index->gin == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(indexes->memory);

		index->gin = palloc(sizeof(GinState));
		initGinState(index->gin, index->relation);
		MemoryContextSwitchTo(caller);
	}
	return index->gin;
}

/*
 * Enters the keys of a context for all rows that share it.
 */
static void
insert_shared_context(BemiIndexes *indexes, HistoryIndex *index,
					  TupleTableSlot **slots, Datum context, int count)
{
	GinState   *gin = gin_state(indexes, index);
	ItemPointerData *places = row_places(slots, count);
	GinNullCategory *categories;
	Datum	   *keys;
	int32		key_count;

	keys = ginExtractEntries(gin, FirstOffsetNumber, context, false,
							 &key_count, &categories);
	for (int i = 0; i < key_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ginEntryInsert(gin, FirstOffsetNumber, keys[i], categories[i],
					   places, count, NULL);
	}
}

/*
 * Collects the keys of one row for the pending list.
 *
 * At most one page is appended at once.  Of more, a reader takes all keys of a
 * page that is not the last one for those of one row (scanGetCandidate() in
 * ginget.c).  So the rows before this one are appended if it does not fit.  A
 * row that needs several pages is then alone.
 */
static void
collect_pending_row(GinState *gin, GinTupleCollector * pending,
					TupleTableSlot *slot, Datum context)
{
	GinTupleCollector before = *pending;

	ginHeapTupleFastCollect(gin, pending, FirstOffsetNumber, context, false,
							&slot->tts_tid);
	if (before.ntuples == 0 ||
		pending->sumsize + pending->ntuples * sizeof(ItemIdData) <=
		GinListPageSize)
		return;
	before.tuples = pending->tuples;
	ginHeapTupleFastInsert(gin, &before);
	pending->ntuples -= before.ntuples;
	pending->sumsize -= before.sumsize;
	memmove(pending->tuples, pending->tuples + before.ntuples,
			sizeof(IndexTuple) * pending->ntuples);
}

/*
 * Enters contexts that few rows share.
 */
static void
insert_contexts(BemiIndexes *indexes, HistoryIndex *index,
				GinTupleCollector * pending, TupleTableSlot **slots,
				const BemiStoreRow *rows, int count)
{
	Datum		context = rows[0].values[BEMI_STORE_CONTEXT];

	if (!index->has_pending_list ||
		VARSIZE_ANY(DatumGetPointer(context)) > COLLECTED_CONTEXT)
		insert_index_by_row(indexes, index, slots, rows, count);
	else
		for (int i = 0; i < count; i++)
			collect_pending_row(gin_state(indexes, index), pending, slots[i],
								context);
}

/*
 * Enters contexts.  Rows that share a context have the same pointer to it, see
 * shared_context() in writer.c.
 */
static void
insert_index_by_context(BemiIndexes *indexes, HistoryIndex *index,
						TupleTableSlot **slots, const BemiStoreRow *rows,
						int count)
{
	GinTupleCollector pending = {0};
	int			first = 0;

	while (first < count)
	{
		Datum		context = rows[first].values[BEMI_STORE_CONTEXT];
		int			end = first + 1;

		CHECK_FOR_INTERRUPTS();
		while (end < count && rows[end].values[BEMI_STORE_CONTEXT] == context)
			end++;
		if (end - first >= SHARED_ROWS)
			insert_shared_context(indexes, index, &slots[first], context,
								  end - first);
		else
			insert_contexts(indexes, index, &pending, &slots[first],
							&rows[first], end - first);
		first = end;
	}
	if (pending.ntuples > 0)
		ginHeapTupleFastInsert(gin_state(indexes, index), &pending);
}

/*
 * The range of pages that a row is in.
 */
static BlockNumber
page_range_of(const HistoryIndex *index, const TupleTableSlot *slot)
{
	return ItemPointerGetBlockNumber(&slot->tts_tid) / index->range_pages;
}

/*
 * Compares two values of a column, which is the id or the commit time, in the
 * order of its type.
 */
static int
compare_stored_values(int column, Datum a, Datum b)
{
	if (column == BEMI_STORE_ID)
		return memcmp(DatumGetUUIDP(a), DatumGetUUIDP(b), UUID_LEN);
	return DatumGetTimestampTz(a) < DatumGetTimestampTz(b) ? -1 :
		DatumGetTimestampTz(a) > DatumGetTimestampTz(b);
}

/*
 * Finds the smallest and the largest value of a column.
 */
static void
find_extremes(const BemiStoreRow *rows, int count, int column,
			  Datum *smallest, Datum *largest)
{
	*smallest = *largest = rows[0].values[column];
	for (int i = 1; i < count; i++)
	{
		Datum		value = rows[i].values[column];

		if (value == rows[i - 1].values[column])
			continue;
		if (compare_stored_values(column, value, *largest) > 0)
			*largest = value;
		else if (compare_stored_values(column, value, *smallest) < 0)
			*smallest = value;
	}
}

/*
 * Enters rows of one range of pages.  The largest values of the columns are
 * entered as if they were of one row, and so are the smallest, because the
 * columns of a summary have nothing to do with one another.  Rows come in the
 * order of commits, so after the largest values the smallest are mostly within
 * the range already, and the summary is written once.
 */
static void
insert_page_range(BemiIndexes *indexes, HistoryIndex *index,
				  TupleTableSlot **slots, const BemiStoreRow *rows, int count)
{
	BemiStoreRow smallest = rows[0];
	BemiStoreRow largest = rows[0];

	for (int key = 0; key < index->info->ii_NumIndexAttrs; key++)
	{
		int			column = index->columns[key];

		find_extremes(rows, count, column, &smallest.values[column],
					  &largest.values[column]);
	}
	insert_index_by_row(indexes, index, slots, &largest, 1);
	if (count > 1)
		insert_index_by_row(indexes, index, slots, &smallest, 1);
}

static void
insert_index_by_range(BemiIndexes *indexes, HistoryIndex *index,
					  TupleTableSlot **slots, const BemiStoreRow *rows,
					  int count)
{
	int			first = 0;

	while (first < count)
	{
		BlockNumber range = page_range_of(index, slots[first]);
		int			end = first + 1;

		while (end < count && page_range_of(index, slots[end]) == range)
			end++;
		insert_page_range(indexes, index, &slots[first], &rows[first],
						  end - first);
		first = end;
	}
}

/*
 * Inserts the entries of rows that are in the partition.  Allocates in the
 * current memory context.
 */
void
bemi_indexes_insert(BemiIndexes *indexes, TupleTableSlot **slots,
					const BemiStoreRow *rows, int count)
{
	for (int n = 0; n < indexes->count; n++)
	{
		HistoryIndex *index = &indexes->indexes[n];

		switch (index->way)
		{
			case BY_EXECUTOR:
				insert_index_by_executor(indexes, n, slots, count);
				break;
			case BY_ROW:
				insert_index_by_row(indexes, index, slots, rows, count);
				break;
			case BY_RUN:
				insert_index_by_run(indexes, index, slots, rows, count);
				break;
			case BY_CONTEXT:
				insert_index_by_context(indexes, index, slots, rows, count);
				break;
			case BY_RANGE:
				insert_index_by_range(indexes, index, slots, rows, count);
				break;
		}
	}
}

/*
 * Summarizes a range of pages, unless that was done.  If others may lack their
 * summary, too, all of these are summarized: the worker has just started, or
 * the lock was not available.  VACUUM and CREATE INDEX CONCURRENTLY hold it,
 * and it is not waited for.
 */
static void
summarize_page_range(const BemiIndexes *indexes, const HistoryIndex *index,
					 BlockNumber range)
{
	Oid			table = RelationGetRelid(indexes->target->ri_RelationDesc);
	Oid			oid = RelationGetRelid(index->relation);
	bool		is_next =
		summarized_index == oid && range == summarized_range + 1;

	if ((summarized_index == oid && summarized_range == range) ||
		!bemi_table_ownercheck(oid, GetUserId()) ||
		!ConditionalLockRelationOid(table, ShareUpdateExclusiveLock))
		return;
	if (is_next)
		(void) DirectFunctionCall2(brin_summarize_range, ObjectIdGetDatum(oid),
								   Int64GetDatum((int64) range *
												 index->range_pages));
	else
		(void) DirectFunctionCall1(brin_summarize_new_values,
								   ObjectIdGetDatum(oid));
	UnlockRelationOid(table, ShareUpdateExclusiveLock);
	summarized_index = oid;
	summarized_range = range;
}

/*
 * Summarizes the ranges of pages that rows have been written to.  A row that a
 * trigger has skipped has no place.
 */
static void
summarize_page_ranges(const BemiIndexes *indexes, const HistoryIndex *index,
					  TupleTableSlot **slots, int count)
{
	BlockNumber last = InvalidBlockNumber;

	for (int i = 0; i < count; i++)
	{
		BlockNumber range;

		if (!ItemPointerIsValid(&slots[i]->tts_tid))
			continue;
		range = page_range_of(index, slots[i]);
		if (range != last)
			summarize_page_range(indexes, index, range);
		last = range;
	}
}

/*
 * Summarizes the ranges of pages that rows have been written to, before or
 * after their entries are inserted.
 */
void
bemi_indexes_summarize(BemiIndexes *indexes, TupleTableSlot **slots,
					   int count)
{
	MemoryContext caller =
		MemoryContextSwitchTo(GetPerTupleMemoryContext(indexes->estate));

	for (int n = 0; n < indexes->count; n++)
		if (indexes->indexes[n].way == BY_RANGE)
			summarize_page_ranges(indexes, &indexes->indexes[n], slots, count);
	MemoryContextSwitchTo(caller);
}
