/*-------------------------------------------------------------------------
 *
 * as_of_replay.c
 *		The rows of a past from the history alone, if the table was truncated
 *		since, or the history has a gap since.
 *
 * A TRUNCATE removes rows without a word about each.  So of the keys that were
 * not changed between the place and the TRUNCATE, today's table knows nothing.
 * Beyond a gap, neither it nor the changes tell what was there before.
 *
 * These rows are those that the changes before the place have left: "after" of
 * the last change of each key.  This needs all changes since a base: the
 * creation of the table, or a TRUNCATE or a baseline before the place.
 * Completeness is checked from there up to the place.
 *
 * The changes are read twice, in commit order.  First the last change of each
 * key is found, and only its number is kept.  Then these changes are returned.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "query/query_internal.h"
#include "store/store.h"

/*
 * Finds the last TRUNCATE before the place.
 */
static void
find_truncate(BemiPast *past)
{
	pg_uuid_t	zero = {{0}};
	BemiPastScan *scan =
		bemi_past_scan_begin(past, &zero, &past->first_id, "");
	BemiPastChange change;

	while (bemi_past_scan_next(scan, &change))
	{
		if (change.operation != 'T' ||
			memcmp(&change.id, &past->first_id, sizeof(pg_uuid_t)) >= 0)
			continue;
		past->base_id = change.id;
		past->base_time = change.time;
	}
	bemi_past_scan_end(scan);
}

/*
 * The last baseline before the place, with one of the table's names, if it is
 * later than the base.  Its rows can have lower ids than the first change
 * after the place, although a gap is between the place and the baseline.
 */
static void
find_baseline(BemiPast *past, const BemiPastNames *names)
{
	BemiValue	arguments[] = {
		bemi_sql_text(linitial(past->sources)), bemi_sql_text(names->schema),
		bemi_sql_text(names->table), bemi_sql_uuid(&names->from_id),
		bemi_sql_uuid(&names->to_id), bemi_sql_uuid(&past->first_id),
		bemi_sql_uuid(&past->base_id), bemi_sql_time(past->time)
	};
	BemiValue	columns[] = {{.type = UUIDOID}, {.type = TIMESTAMPTZOID}};

	if (!bemi_sql_read_row("SELECT b.id, b.taken_at FROM bemi.baselines b"
						   " WHERE b.source = $1 AND b.schema = $2 AND b.\"table\" = $3"
						   " AND b.id BETWEEN $4 AND $5 AND b.id < $6 AND b.id > $7"
						   " AND b.taken_at <= $8"
						   " ORDER BY b.id DESC LIMIT 1",
						   arguments, lengthof(arguments), columns,
						   lengthof(columns)))
		return;
	past->base_id = *DatumGetUUIDP(columns[0].datum);
	past->base_time = DatumGetTimestampTz(columns[1].datum);
}

/*
 * Finds where the rows of the place begin.  Returns the first gap between it
 * and the place; NULL if there is none.
 */
char *
bemi_replay_find_base(BemiPast *past)
{
	ListCell   *cell;
	char	   *gap;

	past->base_id = ((BemiPastNames *) linitial(past->names))->from_id;
	past->base_time = past->created_at;
	find_truncate(past);
	PushActiveSnapshot(past->of_changes);
	foreach(cell, past->names)
	{
		find_baseline(past, lfirst(cell));
	}
	PopActiveSnapshot();
	gap = bemi_past_find_gap(past, past->base_time,
							 bemi_commit_lsn_of(&past->base_id), false);
	if (gap == NULL && TIMESTAMP_IS_NOBEGIN(past->base_time))
		gap =
			"There is no baseline and no TRUNCATE before, and it is not known when the table was created.";
	past->has_base = gap == NULL || past->allow_gaps;
	return gap;
}

/*
 * The same; an error if there is a gap.
 */
void
bemi_replay_need_base(BemiPast *past)
{
	char	   *gap = past->has_base ? NULL : bemi_replay_find_base(past);

	if (gap != NULL && !past->allow_gaps)
		bemi_past_refuse_gap(past, past->base_time, gap);
}

/*
 * Reads the next change from the base up to the place.
 */
bool
bemi_replay_scan_next(const BemiPast *past, BemiPastScan *scan,
					  BemiPastChange *change)
{
	if (!bemi_past_scan_next(scan, change) ||
		memcmp(&change->id, &past->first_id, sizeof(pg_uuid_t)) >= 0)
		return false;
	bemi_past_check_stored(past, &change->id);
	return true;
}

/*
 * Begins to read the changes from the base on.
 */
BemiPastScan *
bemi_replay_scan_begin(BemiPast *past)
{
	return bemi_past_scan_begin(past, &past->base_id, &past->first_id, NULL);
}

/*
 * Finds the last change of each key.
 */
static void
number_last_changes(BemiPast *past)
{
	BemiPastScan *scan = bemi_replay_scan_begin(past);
	BemiPastChange change;
	int64		number = 0;

	while (bemi_replay_scan_next(past, scan, &change))
	{
		Datum		key[INDEX_MAX_KEYS];

		number++;
		if (bemi_removed_key(past, &change, key))
			bemi_key_set_number(past->last_changes, key, 0);
		if (bemi_added_key(past, &change, key))
			bemi_key_set_number(past->last_changes, key, number);
		MemoryContextReset(past->row_memory);
	}
	bemi_past_scan_end(scan);
}

/*
 * Begins to return the rows of keys that were not changed between the place
 * and the TRUNCATE.
 */
void
bemi_replay_begin(BemiPast *past)
{
	MemoryContext caller = MemoryContextSwitchTo(past->scan_memory);

	bemi_replay_need_base(past);
	past->last_changes = bemi_key_set_create(past->key);
	MemoryContextSwitchTo(past->row_memory);
	number_last_changes(past);
	past->replay = bemi_replay_scan_begin(past);
	past->replayed = 0;
	MemoryContextSwitchTo(caller);
}

/*
 * The next of these rows; NULL if there is none.
 */
TupleTableSlot *
bemi_replay_next(BemiPast *past)
{
	BemiPastChange change;

	for (;;)
	{
		Datum		key[INDEX_MAX_KEYS];

		MemoryContextReset(past->row_memory);
		if (!bemi_replay_scan_next(past, past->replay, &change))
			return NULL;
		past->replayed++;
		if (bemi_added_key(past, &change, key) &&
			bemi_key_set_number_of(past->last_changes, key) ==
			past->replayed &&
			!bemi_key_set_contains(past->seen, key))
			return bemi_row_of_change(past, &change, false);
	}
}

void
bemi_replay_end(BemiPast *past)
{
	if (past->replay != NULL)
		bemi_past_scan_end(past->replay);
	past->replay = NULL;
}

/*
 * The row with this key, if nothing has changed it between the place and the
 * TRUNCATE; NULL if there was none.
 */
TupleTableSlot *
bemi_replay_find(BemiPast *past, const Datum *values)
{
	BemiPastScan *scan;
	BemiPastChange change;
	int64		number = 0;
	int64		last = 0;
	TupleTableSlot *row = NULL;

	bemi_replay_need_base(past);
	for (int pass = 0; pass == 0 || (pass == 1 && last > 0); pass++)
	{
		scan = bemi_replay_scan_begin(past);
		number = 0;
		while (row == NULL && bemi_replay_scan_next(past, scan, &change))
		{
			Datum		key[INDEX_MAX_KEYS];

			number++;
			if (pass == 1 && number == last)
			{
				row = bemi_row_of_change(past, &change, false);
				break;
			}
			if (pass == 0 && bemi_removed_key(past, &change, key) &&
				bemi_keys_equal(past->key, key, values))
				last = 0;
			if (pass == 0 && bemi_added_key(past, &change, key) &&
				bemi_keys_equal(past->key, key, values))
				last = number;
			MemoryContextReset(past->row_memory);
		}
		bemi_past_scan_end(scan);
	}
	return row;
}
