/*-------------------------------------------------------------------------
 *
 * order.c
 *		The order of the steps of a plan.
 *
 * Input: steps, numbered in the reverse order of their changes, and pairs of
 * steps of which one must come before the other.  Output: the steps with their
 * places.  A step only moves behind what must come before it.
 *
 * A pair is hard if bemi.revert() minds the order: a unique value must be free
 * before another row can have it.  The other pairs are those of foreign keys
 * and of deferrable indexes, which are checked after all steps.  They are for
 * those who paste the statements, and are given up where steps wait for each
 * other in a circle.  A circle of hard pairs cannot be carried out step by
 * step, so its steps are in conflict.
 *
 * Memory: some bytes for each step and each pair, but only if the reverse
 * order is not right.
 *
 * What must never happen: a step has the verdict "ok" and fails because of a
 * later one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "revert/revert_internal.h"

typedef struct Pair
{
	int			former;			/* numbers of steps, from 0 */
	int			latter;
	bool		is_hard;
} Pair;

typedef struct Order
{
	int			count;			/* steps */
	Pair	   *pairs;			/* by former step */
	int64		pair_count;
	int64		pair_limit;
	int64	   *first_pair;		/* of each step, and the end */
	int		   *waits;			/* pairs whose former step has no place yet */
	int		   *hard_waits;		/* those that are hard */
	int		   *places;			/* from 1; 0: none yet */
	int			placed;
	binaryheap *ready;			/* steps that wait for none */
	binaryheap *freed;			/* steps that wait for none by a hard pair */
} Order;

static void
add_pair(TupleTableSlot *row, void *argument)
{
	Order	   *order = argument;
	Pair	   *pair;

	if (order->pair_count == order->pair_limit)
	{
		order->pair_limit *= 2;
		order->pairs = repalloc_huge(order->pairs,
									 sizeof(Pair) * order->pair_limit);
	}
	pair = &order->pairs[order->pair_count++];
	pair->former = DatumGetInt32(row->tts_values[0]) - 1;
	pair->latter = DatumGetInt32(row->tts_values[1]) - 1;
	pair->is_hard = DatumGetBool(row->tts_values[2]);
}

static int
compare_pairs(const void *a, const void *b)
{
	const Pair *first = a;
	const Pair *second = b;

	return first->former < second->former ? -1 :
		first->former > second->former;
}

/*
 * The heap's first element is the largest one.
 */
static int
compare_steps(Datum a, Datum b, void *argument)
{
	int32		first = DatumGetInt32(a);
	int32		second = DatumGetInt32(b);

	return first < second ? 1 : first > second ? -1 : 0;
}

static void
count_waits(Order *order)
{
	int64		next = 0;

	qsort(order->pairs, order->pair_count, sizeof(Pair), compare_pairs);
	for (int64 i = 0; i < order->pair_count; i++)
	{
		const Pair *pair = &order->pairs[i];

		order->waits[pair->latter]++;
		order->hard_waits[pair->latter] += pair->is_hard;
	}
	for (int step = 0; step <= order->count; step++)
	{
		while (next < order->pair_count && order->pairs[next].former < step)
			next++;
		order->first_pair[step] = next;
	}
}

static void
read_pairs(Order *order, const char *pairs, const BemiRows *steps)
{
	int64		count = tuplestore_tuple_count(steps->rows);

	if (count >= INT_MAX / sizeof(Datum))
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("plan of " INT64_FORMAT
							   " steps cannot be put in order",
							   count)));
	memset(order, 0, sizeof(*order));
	order->count = count;
	order->pair_limit = 1024;
	order->pairs = palloc(sizeof(Pair) * order->pair_limit);
	bemi_sql_read_each_row(psprintf("SELECT p.former, p.latter, p.is_hard FROM (%s) p",
									pairs),
						   steps, add_pair, order);
	order->first_pair =
		MemoryContextAllocHuge(CurrentMemoryContext,
							   sizeof(int64) * (order->count + 1));
	order->waits = palloc0(sizeof(int) * order->count);
	order->hard_waits = palloc0(sizeof(int) * order->count);
	order->places = palloc0(sizeof(int) * order->count);
	order->ready = binaryheap_allocate(order->count, compare_steps, NULL);
	order->freed = binaryheap_allocate(order->count, compare_steps, NULL);
	count_waits(order);
}

static void
free_order(Order *order)
{
	binaryheap_free(order->ready);
	binaryheap_free(order->freed);
	pfree(order->pairs);
	pfree(order->first_pair);
	pfree(order->waits);
	pfree(order->hard_waits);
	pfree(order->places);
}

/*
 * A step that waits for none any more.
 */
static void
free_step(Order *order, int step)
{
	if (order->places[step] != 0)
		return;
	if (order->waits[step] == 0)
		binaryheap_add(order->ready, Int32GetDatum(step));
	else if (order->hard_waits[step] == 0)
		binaryheap_add(order->freed, Int32GetDatum(step));
}

static void
place_step(Order *order, int step)
{
	order->places[step] = ++order->placed;
	for (int64 i = order->first_pair[step]; i < order->first_pair[step + 1];
		 i++)
	{
		const Pair *pair = &order->pairs[i];

		order->waits[pair->latter]--;
		order->hard_waits[pair->latter] -= pair->is_hard;
		if (order->waits[pair->latter] == 0 ||
			(pair->is_hard && order->hard_waits[pair->latter] == 0))
			free_step(order, pair->latter);
	}
}

/*
 * The next step, or -1 if all that remain wait for each other by hard pairs.
 */
static int
next_step(Order *order)
{
	binaryheap *heaps[] = {order->ready, order->freed};

	for (int i = 0; i < lengthof(heaps); i++)
	{
		while (!binaryheap_empty(heaps[i]))
		{
			int			step =
				DatumGetInt32(binaryheap_remove_first(heaps[i]));

			if (order->places[step] == 0)
				return step;
		}
	}
	return -1;
}

static void
place_steps(Order *order)
{
	int			step;

	for (step = 0; step < order->count; step++)
		free_step(order, step);
	while ((step = next_step(order)) >= 0)
	{
		CHECK_FOR_INTERRUPTS();
		place_step(order, step);
	}
}

/*
 * A step of a circle, or one that waits for a circle.
 */
static void
put_in_conflict(Datum *values, bool *nulls, BemiRevertMode mode)
{
	values[BEMI_STEP_VERDICT] =
		CStringGetTextDatum(mode == BEMI_REVERT_SKIP ? "skip" : "conflict");
	values[BEMI_STEP_REASON] = CStringGetTextDatum("its unique values and those of other rows would have to change at once");
	nulls[BEMI_STEP_REASON] = false;
}

/*
 * Writes the places into the steps.
 */
static void
write_places(const Order *order, BemiRows *steps, BemiRevertMode mode)
{
	BemiRows	result = bemi_revert_make_rows(steps->name, steps->columns);
	TupleTableSlot *row = MakeSingleTupleTableSlot(steps->columns,
												   &TTSOpsMinimalTuple);

	/* A query that has read them leaves its own read pointer. */
	tuplestore_select_read_pointer(steps->rows, 0);
	tuplestore_rescan(steps->rows);
	while (tuplestore_gettupleslot(steps->rows, true, false, row))
	{
		int			place;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(row);
		place =
			order->places[DatumGetInt32(row->tts_values[BEMI_STEP_DEPTH]) - 1];
		if (place == 0)
			put_in_conflict(row->tts_values, row->tts_isnull, mode);
		else if (order->placed == order->count)
		{
			row->tts_isnull[BEMI_STEP_PLACE] = true;
			row->tts_values[BEMI_STEP_DEPTH] = Int32GetDatum(place);
		}
		tuplestore_putvalues(result.rows, result.columns, row->tts_values,
							 row->tts_isnull);
	}
	ExecDropSingleTupleTableSlot(row);
	tuplestore_end(steps->rows);
	*steps = result;
}

/*
 * Puts numbered steps in order.  Returns false if some are in conflict now,
 * and all others have been left as they are.
 */
bool
bemi_revert_put_in_order(BemiRows *steps, const char *pairs,
						 BemiRevertMode mode)
{
	Order		order;
	bool		is_done;

	read_pairs(&order, pairs, steps);
	place_steps(&order);
	write_places(&order, steps, mode);
	is_done = order.placed == order.count;
	free_order(&order);
	return is_done;
}
