/*-------------------------------------------------------------------------
 *
 * as_of_copies.c
 *		The rows of a past by counting equal ones, for tables whose rows have
 *		no key that tells them apart.
 *
 * Without a key, nobody can say which of today's rows a change was about, and
 * nobody needs to: equal rows are the same to a query.  For each row, the
 * number of copies in the past is that of today, minus the copies that the
 * changes since have added, plus those that they have removed.  With a
 * deferrable key, a statement can give a key away after another row has got
 * it.  So the first change of a key does not tell what was there, but counting
 * does.  If the key contains an array, two keys can have the same image.
 *
 * 1. The changes since are read, and each row of "before" and "after" is
 *	  counted (as_of_equality.c decides which are equal).
 * 2. They are read again until as many copies of a row are returned as were
 *	  removed more often than added.
 * 3. The table is read.  Copies that were added more often than removed are
 *	  left out.
 *
 * Today's rows are those that the table's snapshot sees.  So only changes that
 * it sees are counted.  It sees a transaction that was not running when it was
 * taken, if the commit record is from before.  Numbers of transactions are
 * used again after 2^32.  So an older change is compared with the numbers of
 * the transactions that were running then, and with nothing else.  (If such a
 * transaction has a number that a transaction with changes of the table had
 * exactly 2^32 numbers before, it is checked whether it has committed since.)
 *
 * If copies are left that the table does not have, it and the history
 * disagree, and that is an error.
 *
 * If the table was truncated since, or the history has a gap since, today's
 * rows do not count.  Then the changes from a base up to the place are counted
 * (as_of_replay.c).
 *
 * Memory: 32 bytes for each different row that is not as often in the table as
 * it was in the past.  A row whose changes cancel out takes none.  If that
 * exceeds what a hash table of the executor may take, the rows are split into
 * parts by a hash.  Each part is counted and returned in a pass of its own
 * over the changes and the table.  A part that is still too large is split
 * again while it is counted, which is before it has returned a row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "query/query_internal.h"

/* A row, and how many copies must be added to those of today. */
typedef struct CountEntry
{
	BemiDigest	row;
	int64		count;
	char		status;
} CountEntry;

#define SH_PREFIX		rows
#define SH_ELEMENT_TYPE	CountEntry
#define SH_KEY_TYPE		BemiDigest
#define SH_KEY			row
#define SH_HASH_KEY(tb, digest)	((uint32) (digest).words[0])
#define SH_EQUAL(tb, a, b)	\
	((a).words[0] == (b).words[0] && (a).words[1] == (b).words[1])
#define SH_SCOPE		static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* More parts would take too long. */
#define MOST_PART_BITS	16

struct BemiCopies
{
	BemiPast   *past;
	BemiEquality *equality;
	uint64		most_rows;		/* that are counted at the same time */
	int			part_bits;		/* there are 2^part_bits parts */
	uint64		part;			/* that is being read */
	Bitmapset  *added;			/* columns that were added since */
	rows_hash  *rows;
	int64		to_add;			/* copies that are to be returned yet */
	int64		to_leave_out;
	bool		is_replay;		/* today's rows do not count */
	BemiPastScan *changes;		/* second time; NULL: all read */
};

/* ---------- columns ---------- */

/*
 * The columns that must be made of an image: all that count, and those that
 * the query needs.  NULL: all.
 */
const Bitmapset *
bemi_counted_columns(Relation table, const Bitmapset *needed)
{
	TupleDesc	columns = RelationGetDescr(table);
	Bitmapset  *result = bms_copy(needed);

	if (needed == NULL)
		return NULL;
	for (int i = 0; i < columns->natts; i++)
	{
		if (TupleDescAttr(columns, i)->attgenerated == '\0')
			result = bms_add_member(result, i + 1);
	}
	return result;
}

/* ---------- parts ---------- */

/*
 * Whether a row belongs to the part that is being read.  The hash table uses
 * other bits.
 */
static bool
is_in_part(const BemiCopies *copies, const BemiDigest *row)
{
	return copies->part_bits == 0 ||
		row->words[1] >> (64 - copies->part_bits) == copies->part;
}

/*
 * Adds to the count of a row.  Keeps the sums of what is to be added and left
 * out.
 */
static void
change_count(BemiCopies *copies, CountEntry *entry, int64 number)
{
	int64		before = entry->count;

	entry->count = before + number;
	copies->to_add += Max(entry->count, 0) - Max(before, 0);
	copies->to_leave_out += Max(-entry->count, 0) - Max(-before, 0);
	if (entry->count == 0)
		(void) rows_delete(copies->rows, entry->row);
}

/*
 * Halves the part, and forgets the counts of its second half.
 */
static void
halve_part(BemiCopies *copies)
{
	rows_iterator place;
	CountEntry *entry;

	if (copies->part_bits == MOST_PART_BITS)
		return;
	copies->part_bits++;
	copies->part *= 2;
	/* The current entry may be deleted during the iteration. */
	rows_start_iterate(copies->rows, &place);
	while ((entry = rows_iterate(copies->rows, &place)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (!is_in_part(copies, &entry->row))
			change_count(copies, entry, -entry->count);
	}
}

/* ---------- counting ---------- */

/*
 * Counts copies of a row.
 */
static void
count_row(BemiCopies *copies, const BemiDigest *row, int number)
{
	bool		found;
	CountEntry *entry;

	if (!is_in_part(copies, row))
		return;
	entry = rows_insert(copies->rows, *row, &found);
	if (!found)
		entry->count = 0;
	change_count(copies, entry, number);
	if (copies->rows->members > copies->most_rows)
		halve_part(copies);
}

static void
digest_of_change(BemiCopies *copies, const BemiPastChange *change, bool before,
				 BemiDigest *digest)
{
	bemi_equality_digest(copies->equality,
						 bemi_row_of_change(copies->past, change, before),
						 digest);
}

/*
 * Whether a change has added a row that counts.  A SNAPSHOT adds nothing,
 * because its row was there, unless its baseline is the base.
 */
static bool
adds_row(const BemiCopies *copies, const BemiPastChange *change)
{
	if (change->operation == 'S')
		return copies->is_replay && change->time == copies->past->base_time;
	return bemi_change_adds(change);
}

/*
 * Counts the rows before and after a change: these copies of the one before,
 * and as many less of the one after.
 */
static void
count_change(BemiCopies *copies, const BemiPastChange *change, int number)
{
	BemiDigest	digest;

	if (bemi_change_removes(change))
	{
		digest_of_change(copies, change, true, &digest);
		count_row(copies, &digest, number);
	}
	if (adds_row(copies, change))
	{
		digest_of_change(copies, change, false, &digest);
		count_row(copies, &digest, -number);
	}
}

/* ---------- what the table's snapshot sees ---------- */

static bool
was_running(Snapshot snapshot, TransactionId xid)
{
	for (uint32 i = 0; i < snapshot->xcnt; i++)
	{
		if (TransactionIdEquals(snapshot->xip[i], xid))
			return true;
	}
	return false;
}

/*
 * Whether the table's snapshot sees a stored change.
 */
static bool
is_seen(const BemiPast *past, const BemiPastChange *change)
{
	Snapshot	snapshot = past->of_table;

	if (snapshot->takenDuringRecovery ||
		memcmp(&change->id, &past->table_id, sizeof(pg_uuid_t)) >= 0)
		return !XidInMVCCSnapshot(change->xid, snapshot);
	return !was_running(snapshot, change->xid) ||
		!TransactionIdDidCommit(change->xid);
}

/* ---------- reading ---------- */

static BemiPastScan *
begin_changes(BemiCopies *copies)
{
	BemiPast   *past = copies->past;
	pg_uuid_t	last;

	if (copies->is_replay)
		return bemi_replay_scan_begin(past);
	memset(&last, 0xFF, sizeof(last));
	return bemi_past_scan_begin(past, &past->first_id, &last, NULL);
}

static bool
next_change(const BemiCopies *copies, BemiPastScan *scan,
			BemiPastChange *change)
{
	if (copies->is_replay)
		return bemi_replay_scan_next(copies->past, scan, change);
	while (bemi_past_scan_next(scan, change))
	{
		if (is_seen(copies->past, change))
			return true;
	}
	return false;
}

/*
 * Counts all changes.  False if there is a TRUNCATE among those since the
 * place.
 */
static bool
count_changes(BemiCopies *copies)
{
	MemoryContext caller = MemoryContextSwitchTo(copies->past->row_memory);
	BemiPastScan *scan = begin_changes(copies);
	BemiPastChange change;
	bool		truncated = false;

	while (!truncated && next_change(copies, scan, &change))
	{
		truncated = change.operation == 'T' && !copies->is_replay;
		count_change(copies, &change, copies->is_replay ? -1 : 1);
		MemoryContextReset(copies->past->row_memory);
	}
	bemi_past_scan_end(scan);
	MemoryContextSwitchTo(caller);
	return !truncated;
}

static void
init_columns(BemiCopies *copies)
{
	BemiPast   *past = copies->past;
	Bitmapset  *left_out =
		bemi_ignored_columns(past, copies->is_replay ? &past->base_id : NULL);

	copies->added = bemi_added_columns(past);
	left_out = bms_add_members(left_out, copies->added);
	copies->equality = bemi_equality_create(past->table, left_out);
}

static void
refuse_history(const BemiCopies *copies)
{
	if (copies->to_leave_out == 0 || copies->past->allow_gaps)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the history of table \"%s\" does not lead to its rows",
					RelationGetRelationName(copies->past->table)),
			 errdetail(
					   copies->is_replay ?
					   "Rows that it removes are not among those that it has added." :
					   "Rows that it has added are not in the table."),
			 errhint("With allow_gaps => true, the result can be wrong.")));
}

/*
 * Counts a part of the copies of the past: those of the changes before the
 * place, or of those since it.
 */
static void
count_part(BemiCopies *copies)
{
	rows_reset(copies->rows);
	copies->to_add = copies->to_leave_out = 0;
	(void) count_changes(copies);
	if (copies->is_replay)
		refuse_history(copies);
	copies->changes = begin_changes(copies);
}

/*
 * Whether the changes since the place were counted.  They do not help if the
 * table was truncated.
 */
static bool
count_since_place(BemiCopies *copies)
{
	if (copies->past->from_history)
		return false;
	init_columns(copies);
	if (!count_changes(copies))
		return false;
	copies->changes = begin_changes(copies);
	return true;
}

/*
 * How many rows fit into the memory of a hash table.  It is at least half
 * empty after it has grown.
 */
static uint64
most_rows(void)
{
	double		bytes = work_mem * 1024.0 * hash_mem_multiplier;

	return Max(bytes / (2 * sizeof(CountEntry)), 256);
}

/*
 * Reads the changes and counts, in the current memory context.
 */
BemiCopies *
bemi_copies_create(BemiPast *past)
{
	BemiCopies *copies = palloc0(sizeof(BemiCopies));

	copies->past = past;
	copies->most_rows = most_rows();
	copies->rows = rows_create(CurrentMemoryContext, 256, NULL);
	if (count_since_place(copies))
		return copies;
	copies->is_replay = true;
	bemi_replay_need_base(past);
	init_columns(copies);
	copies->part_bits = copies->part = 0;
	count_part(copies);
	return copies;
}

/*
 * Begins with the next part.  False if there is none.
 */
bool
bemi_copies_next_part(BemiCopies *copies)
{
	/* A last part of smaller ones belongs to larger ones that are done. */
	while (copies->part_bits > 0 && copies->part % 2 == 1)
	{
		copies->part /= 2;
		copies->part_bits--;
	}
	if (copies->part_bits == 0)
		return false;
	copies->part++;
	count_part(copies);
	return true;
}

void
bemi_copies_end(BemiCopies *copies)
{
	if (copies->changes != NULL)
		bemi_past_scan_end(copies->changes);
	copies->changes = NULL;
}

/* ---------- rows ---------- */

/*
 * Gives the columns that were added since the value that they were added with.
 */
static TupleTableSlot *
without_added(const BemiCopies *copies, TupleTableSlot *row)
{
	TupleTableSlot *made = copies->past->made;
	int			column = -1;

	if (copies->added == NULL)
		return row;
	if (row != made)
		ExecCopySlot(made, row);
	while ((column = bms_next_member(copies->added, column)) >= 0)
		(void) bemi_missing_value(copies->past, column,
								  &made->tts_values[column - 1],
								  &made->tts_isnull[column - 1]);
	return made;
}

/*
 * Takes one of the copies of a row that are to be added (1) or left out (-1).
 * False if there is none.
 */
static bool
take_copy(BemiCopies *copies, const BemiDigest *row, int sign)
{
	CountEntry *entry = rows_lookup(copies->rows, *row);

	if (entry == NULL || entry->count * sign <= 0)
		return false;
	change_count(copies, entry, -sign);
	return true;
}

/*
 * The next row of the part that is not in the table as often as it was in the
 * past; NULL if there is none.
 */
TupleTableSlot *
bemi_copies_next(BemiCopies *copies)
{
	BemiPastChange change;
	BemiDigest	digest;

	while (copies->to_add > 0)
	{
		bool		before = !copies->is_replay;

		MemoryContextReset(copies->past->row_memory);
		if (!next_change(copies, copies->changes, &change))
			elog(ERROR, "the history of table \"%s\" has changed",
				 RelationGetRelationName(copies->past->table));
		if (before ? !bemi_change_removes(&change) :
			!adds_row(copies, &change))
			continue;
		digest_of_change(copies, &change, before, &digest);
		if (take_copy(copies, &digest, 1))
			return without_added(copies, copies->past->made);
	}
	bemi_copies_end(copies);
	return NULL;
}

/*
 * A row of the table as it was in the past; NULL if it is left out, or of
 * another part.
 */
TupleTableSlot *
bemi_copies_row_of_table(BemiCopies *copies, TupleTableSlot *row)
{
	BemiDigest	digest;

	if (copies->to_leave_out > 0 || copies->part_bits > 0)
	{
		MemoryContextReset(copies->past->row_memory);
		bemi_equality_digest(copies->equality, row, &digest);
		if (!is_in_part(copies, &digest) || take_copy(copies, &digest, -1))
			return NULL;
	}
	return without_added(copies, row);
}

/*
 * Whether the rows of the table count.
 */
bool
bemi_copies_use_table(const BemiCopies *copies)
{
	return !copies->is_replay;
}

/*
 * Called when all rows of the table were read for a part.
 */
void
bemi_copies_check(const BemiCopies *copies)
{
	refuse_history(copies);
}
