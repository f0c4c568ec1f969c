/*-------------------------------------------------------------------------
 *
 * index.c
 *		Inserts the index entries of rows that have just been written.
 *
 * Input: rows that a partition's multi-insert has written (partition.c).  Each
 * index gets its entries for all of these rows before the next index, because
 * its pages are then in the cache.
 *
 * The worker spends most of its time here, so there are three ways, chosen
 * once when the partition is opened:
 *
 * - By the executor, as any INSERT does it.  Users' indexes may need this:
 *	 those with expressions, a condition, or users' columns.
 * - By row.  An index on our columns needs only values that we already have,
 *	 so the executor need not read them from the row again.
 * - By context.  Rows of one statement share a context, and so the keys that a
 *	 GIN index extracts from it.  These are entered once for all these rows, as
 *	 when a GIN index is built.  Otherwise each row would go into the pending
 *	 list, and be moved from there later.  If few rows share a context, the
 *	 pending list is faster, and they are entered by row.
 *
 * BemiIndexes lives in the memory of the partition, within one destination
 * transaction.  Memory for rows is in the caller's context.  What must never
 * happen: a row has no entry in one of the indexes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/gin_private.h"
#include "catalog/pg_am_d.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/rel.h"

#include "store/store_internal.h"

/*
 * Least number of rows with the same context for which its keys are entered at
 * once.  Finding the place of a key costs about as much as adding it to the
 * pending list for this many rows.  This is an estimate from profiles.  It
 * matters little, because most runs are either long or short.
 */
#define SHARED_ROWS		8

typedef enum IndexWay
{
	BY_EXECUTOR,
	BY_ROW,
	BY_CONTEXT
} IndexWay;

typedef struct HistoryIndex
{
	IndexWay	way;
	Relation	relation;
	IndexInfo  *info;
	IndexUniqueCheck unique;
	int			columns[INDEX_MAX_KEYS];	/* into bemi_store_columns */
	GinState   *gin;			/* BY_CONTEXT; NULL: not needed yet */
} HistoryIndex;

struct BemiIndexes
{
	MemoryContext memory;		/* holds this struct and all below */
	ResultRelInfo *target;
	EState	   *estate;
	int			count;
	HistoryIndex *indexes;
};

/*
 * Which of our columns has this number in the partition; -1 if none has.  A
 * column that a user has made a generated one does not count, because its
 * value is not ours.
 */
static int
history_column(Relation table, const AttrNumber *attnums, AttrNumber attnum)
{
	for (int i = 0; i < BEMI_STORE_COLUMNS; i++)
		if (attnums[i] == attnum)
			return TupleDescAttr(RelationGetDescr(table), attnum - 1)
				->attgenerated ?
				-1 :
				i;
	return -1;
}

/*
 * Chooses the way for one index, and records its columns.
 */
static IndexWay
choose_index_way(Relation table, HistoryIndex *index,
				 const AttrNumber *attnums)
{
	const IndexInfo *info = index->info;

	if (info->ii_Expressions != NIL || info->ii_Predicate != NIL ||
		info->ii_ExclusionOps != NULL || !info->ii_ReadyForInserts)
		return BY_EXECUTOR;
	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
	{
		index->columns[i] =
			history_column(table, attnums, info->ii_IndexAttrNumbers[i]);
		if (index->columns[i] < 0)
			return BY_EXECUTOR;
	}
	if (index->relation->rd_rel->relam == GIN_AM_OID &&
		info->ii_NumIndexAttrs == 1 && index->columns[0] == BEMI_STORE_CONTEXT)
		return BY_CONTEXT;
	return BY_ROW;
}

/*
 * Creates the description of a partition's open indexes, in the current memory
 * context.  "attnums" has the numbers of our columns.
 */
BemiIndexes *
bemi_indexes_create(ResultRelInfo *target, EState *estate,
					const AttrNumber *attnums)
{
	BemiIndexes *indexes = palloc0(sizeof(BemiIndexes));

	indexes->memory = CurrentMemoryContext;
	indexes->target = target;
	indexes->estate = estate;
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
		index->way = choose_index_way(target->ri_RelationDesc, index, attnums);
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

static void
insert_index_by_row(BemiIndexes *indexes, HistoryIndex *index,
					TupleTableSlot **slots, const BemiStoreRow *rows,
					int count)
{
	Relation	table = indexes->target->ri_RelationDesc;
	Datum		values[INDEX_MAX_KEYS];
	bool		nulls[INDEX_MAX_KEYS];

	for (int i = 0; i < count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		for (int key = 0; key < index->info->ii_NumIndexAttrs; key++)
		{
			values[key] = rows[i].values[index->columns[key]];
			nulls[key] = rows[i].nulls[index->columns[key]];
		}
		(void) index_insert(index->relation, values, nulls, &slots[i]->tts_tid,
							table, index->unique, false, index->info);
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
 * Enters the keys of a context for all rows that share it.
 */
static void
insert_shared_context(BemiIndexes *indexes, HistoryIndex *index,
					  TupleTableSlot **slots, Datum context, int count)
{
	ItemPointerData *places = row_places(slots, count);
	GinNullCategory *categories;
	Datum	   *keys;
	int32		key_count;

	if (index->gin == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(indexes->memory);

		index->gin = palloc(sizeof(GinState));
		initGinState(index->gin, index->relation);
		MemoryContextSwitchTo(caller);
	}
	keys = ginExtractEntries(index->gin, FirstOffsetNumber, context, false,
							 &key_count, &categories);
	for (int i = 0; i < key_count; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ginEntryInsert(index->gin, FirstOffsetNumber, keys[i], categories[i],
					   places, count, NULL);
	}
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
	int			first = 0;

	while (first < count)
	{
		Datum		context = rows[first].values[BEMI_STORE_CONTEXT];
		int			end = first + 1;

		while (end < count && rows[end].values[BEMI_STORE_CONTEXT] == context)
			end++;
		if (end - first >= SHARED_ROWS)
			insert_shared_context(indexes, index, &slots[first], context,
								  end - first);
		else
			insert_index_by_row(indexes, index, &slots[first], &rows[first],
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
			case BY_CONTEXT:
				insert_index_by_context(indexes, index, slots, rows, count);
				break;
		}
	}
}
