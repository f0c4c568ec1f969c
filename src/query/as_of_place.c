/*-------------------------------------------------------------------------
 *
 * as_of_place.c
 *		The place of a past in commit order.
 *
 * Input: a time, a position or a change.  Output: the first id that does not
 * belong to the past.
 *
 * The past of a time is the longest prefix of the commits that all have times
 * up to it.  It ends before the first change, by id, with a later time.  Times
 * are nearly in the order of ids, but not quite: commits take their times
 * before they write their records, and clocks are set back.  So each change
 * before the end must be known to have no later time.  In partitions of later
 * times, the first id is the first later change.  In the partition of the time
 * itself, the summaries of the BRIN index and some rows give a lower bound
 * (as_of_ranges.c), from which changes are read in the order of ids.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "decode/decode.h"
#include "query/query_internal.h"
#include "store/store.h"

/* ---------- partitions ---------- */

static const BemiPiece *
piece_of_time(const BemiHistory *history, TimestampTz time)
{
	for (int i = 0; i < history->piece_count; i++)
	{
		const BemiPiece *piece = &history->pieces[i];

		if (time >= piece->from && (!piece->has_to || time < piece->to))
			return piece;
	}
	return NULL;
}

/*
 * A lower bound for ids of changes in a partition that have a later time.
 * False if none is known.
 */
static bool
bound_of_piece(const BemiPast *past, const BemiPiece *piece, TimestampTz at,
			   pg_uuid_t *bound)
{
	ListCell   *cell;

	memset(bound, 0xFF, sizeof(pg_uuid_t));
	foreach(cell, piece->leaves)
	{
		BemiLeaf   *leaf = lfirst(cell);

		if (bemi_leaf_open(past->history, leaf) &&
			!bemi_leaf_lower_bound(past, leaf, at, bound))
			return false;
	}
	return true;
}

/* ---------- places ---------- */

/*
 * Reads one change.  False if there is none.
 */
static bool
read_one(const BemiPast *past, BemiChangesQuery *query, pg_uuid_t *id,
		 TimestampTz *time)
{
	BemiChangesScan *scan;
	TupleTableSlot *slot;
	bool		is_null;

	query->order = BEMI_OLDEST_FIRST;
	query->sources = past->sources;
	query->limit = 1;
	scan = bemi_changes_begin(past->history, query);
	slot = bemi_changes_next(scan);
	if (slot != NULL)
	{
		*id = *DatumGetUUIDP(
							 slot_getattr(slot,
										  bemi_history_column(past->history,
															  BEMI_CHANGE_ID),
										  &is_null));
		*time = DatumGetTimestampTz(
									slot_getattr(slot,
												 bemi_history_column(past->history,
																	 BEMI_CHANGE_COMMITTED_AT),
												 &is_null));
	}
	bemi_changes_end(scan);
	return slot != NULL;
}

/*
 * The prefix ends before the first change, by id, with a later time.  In the
 * partition of this time, ranges of pages without later times are left out.
 */
static void
find_end_by_time(BemiPast *past, TimestampTz at)
{
	TimestampTz later = at + 1;
	const BemiPiece *piece = piece_of_time(past->history, later);
	BemiChangesQuery query = {.from_time = &later};
	BemiChangesQuery after = {0};
	pg_uuid_t	bound;
	pg_uuid_t	id;
	TimestampTz time;

	memset(&past->first_id, 0xFF, sizeof(past->first_id));
	past->time = at;
	if (piece != NULL && bound_of_piece(past, piece, at, &bound))
	{
		query.from_id = &bound;
		if (piece->has_to)
		{
			query.to_time = &piece->to;
			after.from_time = &piece->to;
			if (read_one(past, &after, &id, &time))
				past->first_id = id;
		}
	}
	if (read_one(past, &query, &id, &time) &&
		memcmp(&id, &past->first_id, sizeof(id)) < 0)
		past->first_id = id;
}

/*
 * When the source has committed the schema change with this id.  False if
 * there is none.
 */
static bool
read_schema_change(const BemiPast *past, const pg_uuid_t *id,
				   TimestampTz *time)
{
	BemiValue	arguments[] = {
		bemi_sql_text(linitial(past->sources)), bemi_sql_uuid(id)
	};
	BemiValue	column = {.type = TIMESTAMPTZOID};

	(void)
		bemi_sql_read_row("SELECT min(c.committed_at) FROM bemi.schema_changes c"
						  " WHERE c.source = $1 AND c.id = $2",
						  arguments, lengthof(arguments), &column, 1);
	if (!column.is_null)
		*time = DatumGetTimestampTz(column.datum);
	return !column.is_null;
}

/*
 * The prefix ends before this change of a row or of the schema.
 */
static void
find_end_by_change(BemiPast *past, const pg_uuid_t *change)
{
	BemiChangesQuery query = {.from_id = change};
	pg_uuid_t	found;

	past->first_id = *change;
	if ((!read_one(past, &query, &found, &past->time) ||
		 memcmp(&found, change, sizeof(found)) != 0) &&
		!read_schema_change(past, change, &past->time))
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("change %s does not exist", bemi_id_text(change)),
				 errdetail("It is not in the history of source \"%s\".",
						   (char *) linitial(past->sources))));
	past->time--;
}

/*
 * The prefix ends before the first commit record from this position on.
 */
static void
find_end_by_position(BemiPast *past, XLogRecPtr position)
{
	BemiChangesQuery query = {.from_id = &past->first_id};
	pg_uuid_t	found;

	bemi_make_change_id(position, 0, 0, &past->first_id);
	if (read_one(past, &query, &found, &past->time))
		past->time--;
	else
		past->time = GetCurrentTimestamp();
}

/*
 * Finds the end of the prefix of commits that the call names.
 */
void
bemi_past_find_end(BemiPast *past, const BemiAsOfCall *call)
{
	if (!call->at.is_null)
		find_end_by_time(past, DatumGetTimestampTz(call->at.datum));
	else if (!call->before.is_null)
		find_end_by_change(past, DatumGetUUIDP(call->before.datum));
	else
		find_end_by_position(past, DatumGetLSN(call->at_lsn.datum));
	past->position = bemi_commit_lsn_of(&past->first_id);
}

/*
 * The first id that does not belong to a later time.
 */
void
bemi_past_end_at(BemiPast *past, TimestampTz at, pg_uuid_t *id)
{
	pg_uuid_t	first_id = past->first_id;
	TimestampTz time = past->time;

	PushActiveSnapshot(past->of_changes);
	find_end_by_time(past, at);
	PopActiveSnapshot();
	*id = past->first_id;
	past->first_id = first_id;
	past->time = time;
}
