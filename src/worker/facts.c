/*-------------------------------------------------------------------------
 *
 * facts.c
 *		What is known of each source, in shared memory.
 *
 * Workers write here how far they have come, what they have found out about
 * their source, and what the next worker must know.  bemi.status and
 * bemi.sync() read it.  It has the numbers of the entries (entry.c) and begins
 * empty with each of them.
 *
 * This file is the only one that can reach the facts; others read copies.
 * Each function takes the lock of BemiShared, unless its comment says that the
 * caller holds it, and waits for nothing while it has it.  A function without
 * a number is about the worker's own source.
 *
 * One writer each: the worker, with these exceptions.  bemi.sync() writes
 * "awaited" and "synced".  The launcher, for a slot of this server, writes
 * "warned", "give_up" and "given_up_at".
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
	int			expected_markers;	/* sessions that are about to write one */
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
 * Called while shared memory is made, with its lock.
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
 * Another source takes this number; caller holds the lock.
 */
void
bemi_facts_reset(int i)
{
	memset(&memory->facts[i], 0, sizeof(BemiFacts));
}

/*
 * Copies the facts of any source; caller holds the lock.
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
 * A session is about to write a marker.  Until it knows where, workers take
 * any marker for it; so theirs cannot be passed over.
 */
void
bemi_facts_expect_marker(void)
{
	lock_facts(LW_EXCLUSIVE);
	memory->expected_markers++;
	unlock_facts();
}

/*
 * The session has written its marker, and waits for those sources of the
 * database that may read this server; or it has failed to (InvalidXLogRecPtr).
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
 * The workers of a database that have stored all up to a position have all
 * that was committed before this time.  That may have been some time ago, when
 * they know more by now, unless what they know is still to come: the clock was
 * set back.
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
 * Whether the source is this server, another one, or neither is known.
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
 * Adds what was counted, with the time that was found out last, 0 for none;
 * caller holds the lock.  A worker reads a clock again and again: if the time
 * is earlier than the last one, the clock was set back, and what bemi.sync()
 * has found out before that may be committed yet.
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
 * What the history says of the time before this server was started.
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
 * The worker has received all up to this position, and stored all of that or
 * ("all_stored" is false) no more than before.
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
 * Positions so far may mean nothing any more.  What is lost from this one on
 * is either younger than what was complete, or in the gap that ends now.
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
 * The worker reads from a position of its choice, and what it was to give up
 * is given up.
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
 * The source has what is stored up to this position.  A transaction from there
 * on is one that it does not have any more.
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
 * The source lacks a transaction that is stored: the next worker compares.
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
 * Replaces a text; whether there was none before, and caller holds the lock.
 */
static bool
update_text(char *text, const char *by, int size)
{
	bool		is_news = by[0] != '\0' && text[0] == '\0';

	strlcpy(text, by, pg_mbcliplen(by, strlen(by), size - 1) + 1);
	return is_news;
}

/*
 * What to do because commits at the source may wait for the worker; "":
 * nothing.  Whether there was nothing to do before.
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
 * Slots at the source without a reader.  Whether there were none before.
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
 * What the slot costs another server; NULL: it could not be looked at.
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
 * Whether the log has been warned of what the slot keeps.  Returns the former
 * value.
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
 * The slot keeps more than bemi.max_slot_lag, and is to be given up, unless
 * that was done less than "again_ms" ago.  Whether it is to be given up;
 * *is_new: since now.
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
 * The worker gives something up, unless there is a reason already to give up
 * more.  Returns the reason that counts.
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
 * What was to be given up for this reason is given up, or need not be.  The
 * launcher may have another reason since.
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
 * Where the source fails.
 */
void
bemi_facts_set_unreadable(const BemiUnreadable *unreadable)
{
	lock_facts(LW_EXCLUSIVE);
	my_facts()->unreadable = *unreadable;
	unlock_facts();
}

/*
 * Another server reads the slot.  For how many milliseconds by now?
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
