/*-------------------------------------------------------------------------
 *
 * facts.c
 *		The facts about each source, in shared memory.
 *
 * Workers write their progress here, the state of their source, and data for
 * the next worker. bemi.status and bemi.sync() read them.  Facts have the
 * number of their entry (entry.c) and begin empty with it.
 *
 * Only this file can access the facts; other files read copies.  Each function
 * takes the lock of BemiShared, unless its comment states that the caller
 * holds it, and never waits with it.  A function without a number is for the
 * worker's own source.
 *
 * Each fact has one writer, which is the worker, with these exceptions.
 * bemi.sync() writes "awaited" and "synced".  The launcher, for a slot of this
 * server, writes "warned", "give_up" and "given_up_at".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "worker/worker_internal.h"

typedef struct FactsMemory
{
	int			expected_markers;	/* sessions that are about to write a
									 * marker */
	BemiFacts	facts[FLEXIBLE_ARRAY_MEMBER];	/* bemi_max_sources */
} FactsMemory;

static FactsMemory *memory = NULL;

static void
lock_facts(LWLockMode mode)
{
	LWLockAcquire(bemi_shared->lock, mode);
}

static void
unlock_facts(void)
{
	LWLockRelease(bemi_shared->lock);
}

static BemiFacts *
my_facts(void)
{
	return &memory->facts[bemi_entry_mine()];
}

/* ---------- memory ---------- */

Size
bemi_facts_memory_size(void)
{
	return add_size(offsetof(FactsMemory, facts),
					mul_size(sizeof(BemiFacts), bemi_max_sources));
}

/*
 * Called while shared memory is created, with its lock.
 */
void
bemi_facts_attach(void)
{
	bool		found;

	memory = ShmemInitStruct("bemi facts", bemi_facts_memory_size(), &found);
	if (!found)
		memset(memory, 0, bemi_facts_memory_size());
}

/*
 * Empties the facts when another source gets this number; caller holds the
 * lock.
 */
void
bemi_facts_reset(int i)
{
	memset(&memory->facts[i], 0, sizeof(BemiFacts));
}

/*
 * Copies the facts of a source; caller holds the lock.
 */
void
bemi_facts_get(int i, BemiFacts *copy)
{
	*copy = memory->facts[i];
}

void
bemi_facts_copy_mine(BemiFacts *copy)
{
	lock_facts(LW_SHARED);
	*copy = *my_facts();
	unlock_facts();
}

/* ---------- bemi.sync() ---------- */

/*
 * Called before a session writes a marker.  Until its position is known,
 * workers treat each marker as awaited, so they cannot miss it.
 */
void
bemi_facts_expect_marker(void)
{
	lock_facts(LW_EXCLUSIVE);
	memory->expected_markers++;
	unlock_facts();
}

/*
 * Called when the session has written its marker, and waits for the sources of
 * the database that may read this server; InvalidXLogRecPtr: it has failed.
 */
void
bemi_facts_await_marker(Oid database, XLogRecPtr position)
{
	lock_facts(LW_EXCLUSIVE);
	Assert(memory->expected_markers > 0);
	memory->expected_markers--;
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiFacts  *facts = &memory->facts[i];

		if (XLogRecPtrIsInvalid(position) ||
			!bemi_entry_is_of(i, database) || facts->is_remote)
			continue;
		facts->awaited = facts->awaited <= facts->stored ? position :
			Min(facts->awaited, position);
		facts->awaited_last = Max(facts->awaited_last, position);
		bemi_entry_set_latch(i);	/* a resting worker does not read */
	}
	unlock_facts();
}

/*
 * Whether a session waits for the marker at this position.
 */
bool
bemi_facts_is_awaited(XLogRecPtr position)
{
	bool		awaited;

	lock_facts(LW_SHARED);
	awaited = memory->expected_markers > 0 ||
		(my_facts()->awaited > my_facts()->stored &&
		 my_facts()->awaited <= position);
	unlock_facts();
	return awaited;
}

/*
 * Records for workers of a database that have stored everything up to a
 * position: all commits before this time are stored.  A worker that has a
 * later time keeps it, unless that is in the future because the clock was set
 * back.
 */
void
bemi_facts_record_synced(Oid database, XLogRecPtr position, TimestampTz time)
{
	TimestampTz now = GetCurrentTimestamp();

	lock_facts(LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiFacts  *facts = &memory->facts[i];

		if (bemi_entry_is_of(i, database) &&
			facts->is_local && facts->stored >= position &&
			(time > facts->synced.time || facts->synced.time > now))
		{
			facts->synced.time = time;
			facts->synced.position = position;
		}
	}
	unlock_facts();
}

/* ---------- how far the worker has come ---------- */

/*
 * Records whether the source is this server or another one; neither: unknown.
 */
void
bemi_facts_record_place(bool is_local, bool is_remote)
{
	lock_facts(LW_EXCLUSIVE);
	my_facts()->is_local = is_local;
	my_facts()->is_remote = is_remote;
	unlock_facts();
}

/*
 * Adds to the counts, and sets the time up to which the history is complete;
 * 0: not known.  If that time is earlier than the last one, the clock was set
 * back.  Then the time that bemi.sync() has recorded is removed, because
 * commits before it may still come.  Caller holds the lock.
 */
static void
add_counts(BemiFacts *facts, const BemiCounts *counts, const BemiUntil *until)
{
	facts->counts.changes += counts->changes;
	facts->counts.transactions += counts->transactions;
	facts->counts.invalid_messages += counts->invalid_messages;
	if (!XLogRecPtrIsInvalid(counts->changed.commit_lsn))
		facts->counts.changed = counts->changed;
	if (until->time == 0)
		return;
	if (until->time < facts->until.time)
		memset(&facts->synced, 0, sizeof(BemiUntil));
	facts->until = *until;
}

/*
 * Sets the counts and the progress from before the start of this server.
 */
void
bemi_facts_load_progress(const BemiCounts *counts, const BemiUntil *until)
{
	lock_facts(LW_EXCLUSIVE);
	add_counts(my_facts(), counts, until);
	my_facts()->counted = true;
	unlock_facts();
}

/*
 * Records that the worker has received everything up to this position, and if
 * "all_stored", that it has stored all of that.
 */
void
bemi_facts_add_progress(XLogRecPtr received, bool all_stored,
						const BemiCounts *counts, const BemiUntil *until)
{
	BemiFacts  *facts = my_facts();
	bool		moved;

	lock_facts(LW_EXCLUSIVE);
	add_counts(facts, counts, until);
	facts->received = received;
	moved = all_stored && facts->stored != received;
	if (moved)
		facts->stored = received;
	if (facts->awaited <= facts->stored)
		facts->awaited = facts->awaited_last;
	unlock_facts();
	if (moved)
		ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * Forgets positions that may no longer be valid.  Later losses are either
 * later than the time up to which the history is complete, or in the gap that
 * ends now.
 */
void
bemi_facts_forget_positions(XLogRecPtr position, TimestampTz now)
{
	BemiFacts  *facts = my_facts();

	lock_facts(LW_EXCLUSIVE);
	memset(&facts->counts.changed, 0, sizeof(BemiStored));
	memset(&facts->synced, 0, sizeof(BemiUntil));
	facts->until.time = Min(facts->until.time, now);
	facts->until.position = position;
	unlock_facts();
}

/*
 * Called when the worker begins to read at a new position, and has given up
 * what it had to.
 */
void
bemi_facts_begin_reading(BemiGiveUp given_up)
{
	BemiFacts  *facts = my_facts();

	lock_facts(LW_EXCLUSIVE);
	facts->received = facts->stored = InvalidXLogRecPtr;
	facts->must_compare = false;
	if (facts->give_up == given_up)
		facts->give_up = BEMI_KEEP_SLOT;
	unlock_facts();
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * Forgets the last transaction if it is after this position, because the
 * source no longer has it.
 */
void
bemi_facts_set_back(XLogRecPtr position)
{
	BemiFacts  *facts = my_facts();

	lock_facts(LW_EXCLUSIVE);
	facts->must_compare = false;
	if (facts->counts.changed.commit_lsn >= position)
		memset(&facts->counts.changed, 0, sizeof(BemiStored));
	unlock_facts();
}

/*
 * Requests that the next worker compares transactions, because the source
 * lacks a stored one.
 */
void
bemi_facts_require_comparison(void)
{
	lock_facts(LW_EXCLUSIVE);
	my_facts()->must_compare = true;
	unlock_facts();
}

/*
 * The last transaction with changes that the worker has stored.
 */
void
bemi_facts_last_changed(BemiStored *changed)
{
	lock_facts(LW_SHARED);
	*changed = my_facts()->counts.changed;
	unlock_facts();
}

/* ---------- the slot, and what becomes of it ---------- */

/*
 * Replaces a text.  Returns whether there was none before.  Caller holds the
 * lock.
 */
static bool
update_text(char *text, const char *by, int size)
{
	bool		is_news = by[0] != '\0' && text[0] == '\0';

	strlcpy(text, by, pg_mbcliplen(by, strlen(by), size - 1) + 1);
	return is_news;
}

/*
 * Records the statement to type if commits at the source may wait for the
 * worker; "": none.  Returns whether there was none before.
 */
bool
bemi_facts_set_advice(const char *advice)
{
	bool		is_news;

	lock_facts(LW_EXCLUSIVE);
	is_news = update_text(my_facts()->advice, advice, BEMI_ERROR_LEN);
	unlock_facts();
	return is_news;
}

/*
 * Records the slots at the source without a reader.  Returns whether there
 * were none before.
 */
bool
bemi_facts_set_strays(const char *strays)
{
	bool		is_news;

	lock_facts(LW_EXCLUSIVE);
	is_news = update_text(my_facts()->strays, strays, BEMI_STRAYS_LEN);
	unlock_facts();
	return is_news;
}

/*
 * Records the cost of a slot on another server; NULL: unknown.
 */
void
bemi_facts_set_cost(const BemiSlotCost *cost)
{
	lock_facts(LW_EXCLUSIVE);
	if (cost != NULL)
		my_facts()->cost = *cost;
	else
		memset(&my_facts()->cost, 0, sizeof(BemiSlotCost));
	unlock_facts();
}

/*
 * Sets whether the excess of the slot was logged.  Returns the former value.
 */
bool
bemi_facts_set_warned(int i, bool warned)
{
	bool		former;

	lock_facts(LW_EXCLUSIVE);
	former = memory->facts[i].warned;
	memory->facts[i].warned = warned;
	unlock_facts();
	return former;
}

/*
 * Gives up a slot that keeps more than bemi.max_slot_lag, unless one was given
 * up less than "again_ms" ago.  Returns whether the slot must be given up;
 * *is_new: whether this was decided now.
 */
bool
bemi_facts_give_up_lag(int i, int again_ms, bool *is_new)
{
	BemiFacts  *facts = &memory->facts[i];
	int64		now = bemi_monotonic_ms();
	bool		given_up;

	lock_facts(LW_EXCLUSIVE);
	*is_new = facts->give_up != BEMI_GIVE_UP_LAG &&
		(facts->given_up_at == 0 || now - facts->given_up_at >= again_ms);
	if (*is_new)
	{
		facts->give_up = BEMI_GIVE_UP_LAG;
		facts->given_up_at = now;
	}
	given_up = facts->give_up == BEMI_GIVE_UP_LAG;
	unlock_facts();
	return given_up;
}

/*
 * Sets the reason for giving something up, unless there is already a reason
 * for giving up more.  Returns the reason that counts.
 */
BemiGiveUp
bemi_facts_give_up(BemiGiveUp reason)
{
	BemiFacts  *facts = my_facts();

	lock_facts(LW_EXCLUSIVE);
	if (facts->give_up == BEMI_KEEP_SLOT)
		facts->give_up = reason;
	reason = facts->give_up;
	unlock_facts();
	return reason;
}

/*
 * Resets this reason, because it was acted on, or no longer applies.  The
 * launcher may have set another one since.
 */
void
bemi_facts_keep_slot(BemiGiveUp given_up)
{
	lock_facts(LW_EXCLUSIVE);
	if (my_facts()->give_up == given_up)
		my_facts()->give_up = BEMI_KEEP_SLOT;
	unlock_facts();
}

/*
 * Records the place where the source fails.
 */
void
bemi_facts_set_unreadable(const BemiUnreadable *unreadable)
{
	lock_facts(LW_EXCLUSIVE);
	my_facts()->unreadable = *unreadable;
	unlock_facts();
}

/*
 * Milliseconds since another server was first seen to read the slot.
 */
int64
bemi_facts_contest(void)
{
	int64		now = bemi_monotonic_ms();
	int64		since;

	lock_facts(LW_EXCLUSIVE);
	if (my_facts()->contested_at == 0)
		my_facts()->contested_at = now;
	since = my_facts()->contested_at;
	unlock_facts();
	return now - since;
}

void
bemi_facts_end_contest(void)
{
	lock_facts(LW_EXCLUSIVE);
	my_facts()->contested_at = 0;
	unlock_facts();
}
