/*-------------------------------------------------------------------------
 *
 * entry.c
 *		The entries of sources in shared memory: a state machine.
 *
 * A source has one entry and at most one process, its worker.  The entry holds
 * the state that bemi.status shows, the process, when to start the next one,
 * and the last error.  docs/internals/worker-states.md has the picture of the
 * states; the tables of moves below say the same, and each move is checked
 * against them where assertions are enabled.
 *
 * This file is the only one that can reach the entries.  Others call the
 * functions below, one for each thing that can happen to an entry, and read
 * copies.  Each function takes the lock of BemiShared, unless its comment says
 * that the caller holds it, and waits for nothing while it has it.  Workers
 * call the functions for their own entry, which bemi_entry_enter() gives them;
 * the launcher and sessions call those that take a number or a name.
 *
 * What is known of the source itself is in facts.c, under the same lock and
 * the same numbers.
 *
 * What must never happen: two processes with one entry; an entry without a
 * process that nobody will start again and that is neither stopped nor gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/timestamp.h"

#include "worker/worker_internal.h"

typedef struct EntryMemory
{
	int64		attempts;		/* of all workers, since the server started */
	BemiEntry	entries[FLEXIBLE_ARRAY_MEMBER]; /* bemi_max_sources */
} EntryMemory;

static EntryMemory *memory = NULL;

/* The entry of this process, if it is a worker. */
static BemiEntry *my_entry = NULL;

#ifdef USE_ASSERT_CHECKING

#define STATE(name)		(1 << BEMI_STATE_##name)

/* Where an error, or the end of the process, can lead. */
#define ENDS			(STATE(PAUSED) | STATE(FAILED) | STATE(STOPPED))

/*
 * Which states may follow a state: moves of the worker's process.  From the
 * last three it begins, if a former launcher had registered it and it comes
 * late.
 */
static const int worker_moves[] = {
	[BEMI_STATE_STARTING] =
	STATE(STARTING) | STATE(CONNECTING) | STATE(DROPPING) | ENDS,
	[BEMI_STATE_CONNECTING] = STATE(MAKING_SLOT) | STATE(STREAMING) | ENDS,
	[BEMI_STATE_MAKING_SLOT] = STATE(STREAMING) | ENDS,
	[BEMI_STATE_STREAMING] = STATE(DROPPING) | ENDS,
	[BEMI_STATE_DROPPING] = ENDS,
	[BEMI_STATE_PAUSED] = STATE(STARTING) | STATE(PAUSED),
	[BEMI_STATE_FAILED] = STATE(STARTING) | STATE(PAUSED),
	[BEMI_STATE_STOPPED] = STATE(STARTING) | STATE(PAUSED)
};

/*
 * The same for moves of the launcher, while there is no process.
 */
static const int launcher_moves[] = {
	[BEMI_STATE_STARTING] = STATE(STARTING) | STATE(FAILED),
	[BEMI_STATE_PAUSED] = STATE(STARTING),
	[BEMI_STATE_FAILED] = STATE(STARTING),
	[BEMI_STATE_STOPPED] = STATE(STARTING)
};

#endif							/* USE_ASSERT_CHECKING */

static void
lock_entries(LWLockMode mode)
{
	LWLockAcquire(bemi_shared->lock, mode);
}

static void
unlock_entries(void)
{
	LWLockRelease(bemi_shared->lock);
}

/*
 * Lets sessions look that wait for a worker.
 */
static void
unlock_and_broadcast(void)
{
	LWLockRelease(bemi_shared->lock);
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * The one place where a state changes; caller holds the lock.
 */
static void
move_entry(BemiEntry *entry, BemiState to)
{
	Assert(LWLockHeldByMeInMode(bemi_shared->lock, LW_EXCLUSIVE));
	Assert(((entry == my_entry ? worker_moves : launcher_moves)[entry->state] &
			(1 << to)) != 0);
	entry->state = to;
}

/*
 * Copies a text into shared memory.  A long text is cut between characters.
 */
static void
copy_text(char *to, const char *text)
{
	strlcpy(to, text,
			pg_mbcliplen(text, strlen(text), BEMI_ERROR_LEN - 1) + 1);
}

/*
 * Why there is no process, or soon will be none; caller holds the lock.
 */
static void
fail_entry(BemiEntry *entry, const char *error, const char *hint)
{
	move_entry(entry, BEMI_STATE_FAILED);
	entry->failed_attempt = entry->attempt;
	entry->error_count++;
	entry->error_at = GetCurrentTimestamp();
	copy_text(entry->error, error);
	copy_text(entry->hint, hint ? hint : "");
}

/*
 * The process is gone, after a failure; caller holds the lock.
 */
static void
count_failure(BemiEntry *entry)
{
	entry->launched = false;
	entry->failures++;
	entry->next_start = 0;
}

/* ---------- memory ---------- */

Size
bemi_entry_memory_size(void)
{
	return add_size(offsetof(EntryMemory, entries),
					mul_size(sizeof(BemiEntry), bemi_max_sources));
}

/*
 * Called while shared memory is made, with its lock.
 */
void
bemi_entry_attach(void)
{
	bool		found;

	memory = ShmemInitStruct("bemi entries", bemi_entry_memory_size(), &found);
	if (!found)
		memset(memory, 0, bemi_entry_memory_size());
}

/* ---------- reading ---------- */

/*
 * Whether an entry is used by a source of this database; caller holds the
 * lock.
 */
bool
bemi_entry_is_of(int i, Oid database)
{
	return memory->entries[i].in_use &&
		memory->entries[i].database == database;
}

/*
 * The number of a source's entry, or -1; caller holds the lock.
 */
static int
find_entry(Oid database, const char *source)
{
	for (int i = 0; i < bemi_max_sources; i++)
		if (bemi_entry_is_of(i, database) &&
			strcmp(memory->entries[i].source, source) == 0)
			return i;
	return -1;
}

/*
 * The same for an entry that is removed, but whose process still keeps the
 * place.
 */
static int
find_leaving(Oid database, const char *source)
{
	for (int i = 0; i < bemi_max_sources; i++)
		if (memory->entries[i].pid != 0 &&
			memory->entries[i].database == database &&
			strcmp(memory->entries[i].source, source) == 0)
			return i;
	return -1;
}

/*
 * Copies a source's entry; false if it has none, and its process is gone.
 */
bool
bemi_entry_copy(Oid database, const char *source, BemiEntry *copy)
{
	int			i;

	lock_entries(LW_SHARED);
	i = find_entry(database, source);
	if (i < 0)
		i = find_leaving(database, source);
	if (i >= 0)
		*copy = memory->entries[i];
	unlock_entries();
	return i >= 0;
}

/*
 * Copies all that are used, with their facts unless "facts" is NULL, into the
 * current memory context, and returns their number.
 */
int
bemi_entry_copy_all(BemiEntry **entries, BemiFacts **facts)
{
	int			count = 0;

	*entries = palloc(sizeof(BemiEntry) * bemi_max_sources);
	if (facts != NULL)
		*facts = palloc(sizeof(BemiFacts) * bemi_max_sources);
	lock_entries(LW_SHARED);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		if (!memory->entries[i].in_use)
			continue;
		(*entries)[count] = memory->entries[i];
		if (facts != NULL)
			bemi_facts_get(i, &(*facts)[count]);
		count++;
	}
	unlock_entries();
	return count;
}

/*
 * Writes the name of a source's slot into a buffer of NAMEDATALEN; of one that
 * no worker has looked at since the server started, as if it were on this
 * server.
 */
void
bemi_entry_slot_name(const BemiEntry *entry, char *name)
{
	if (entry->slot[0] != '\0')
		strlcpy(name, entry->slot, NAMEDATALEN);
	else
		snprintf(name, NAMEDATALEN, "bemi_%u_%s", entry->database,
				 entry->source);
}

/*
 * The number of the entry that a slot belongs to, or -1.  An entry keeps its
 * number.
 */
int
bemi_entry_find_slot(const char *slot, BemiEntry *copy)
{
	int			found = -1;

	lock_entries(LW_SHARED);
	for (int i = 0; i < bemi_max_sources && found < 0; i++)
	{
		char		name[NAMEDATALEN];

		bemi_entry_slot_name(&memory->entries[i], name);
		if (memory->entries[i].in_use && strcmp(name, slot) == 0)
			found = i;
	}
	if (found >= 0)
		*copy = memory->entries[found];
	unlock_entries();
	return found;
}

/*
 * The number of the last attempt that any worker has begun.  With the sources
 * locked, it is the last one that does not know what this session is about to
 * change.
 */
int64
bemi_entry_last_attempt(void)
{
	int64		attempt;

	lock_entries(LW_SHARED);
	attempt = memory->attempts;
	unlock_entries();
	return attempt;
}

/* ---------- what sessions do ---------- */

/*
 * The number of an entry that is free, or -1; caller holds the lock.  As long
 * as a process is registered for one it is not.
 */
static int
find_place(void)
{
	for (int i = 0; i < bemi_max_sources; i++)
		if (!memory->entries[i].in_use && !memory->entries[i].launched)
			return i;
	return -1;
}

/*
 * Whether there is room for a source, or it has an entry.
 */
bool
bemi_entry_has_place(Oid database, const char *source)
{
	bool		has_place;

	lock_entries(LW_SHARED);
	has_place = find_entry(database, source) >= 0 || find_place() >= 0;
	unlock_entries();
	return has_place;
}

/*
 * Creates an entry for a source, unless it has one.  Returns false if there is
 * no free one.
 */
bool
bemi_entry_add(Oid database, const char *source)
{
	int			i;

	lock_entries(LW_EXCLUSIVE);
	i = find_entry(database, source);
	if (i < 0 && (i = find_place()) >= 0)
	{
		BemiEntry  *entry = &memory->entries[i];

		memset(entry, 0, sizeof(BemiEntry));
		entry->in_use = true;
		entry->database = database;
		strlcpy(entry->source, source, BEMI_SOURCE_NAME_LEN);
		entry->state = BEMI_STATE_STARTING;
		bemi_facts_reset(i);
	}
	unlock_entries();
	return i >= 0;
}

/*
 * The source's row is gone.  So is its entry, unless a process has it, which
 * will then find out by itself.
 */
void
bemi_entry_remove_idle(Oid database, const char *source)
{
	int			i;

	lock_entries(LW_EXCLUSIVE);
	i = find_entry(database, source);
	if (i >= 0 && !memory->entries[i].launched)
		memory->entries[i].in_use = false;
	unlock_and_broadcast();
}

/*
 * Lets the workers of a database look at their rows of bemi.sources.
 */
void
bemi_entry_wake_all(Oid database)
{
	lock_entries(LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiEntry  *entry = &memory->entries[i];

		if (!bemi_entry_is_of(i, database))
			continue;
		entry->wake = true;
		entry->next_start = 0;
		if (entry->latch)
			SetLatch(entry->latch);
	}
	unlock_entries();
	bemi_wake_launcher();
}

/*
 * The next process of this entry is to be started without a delay.
 */
void
bemi_entry_wake(int i)
{
	lock_entries(LW_EXCLUSIVE);
	memory->entries[i].wake = true;
	unlock_entries();
}

/*
 * Ends the workers of a database, which is no failure of theirs, and returns
 * whether one is still there.  "signalled" keeps who was signalled: an entry
 * forgets its process a little before the process has gone.
 */
bool
bemi_entry_stop_all(Oid database, pid_t *signalled)
{
	bool		found = false;

	lock_entries(LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiEntry  *entry = &memory->entries[i];

		/* It clears its pid under this lock, so it is still this process. */
		if (entry->database != database || entry->pid == 0)
			continue;
		entry->asked_to_leave = true;
		kill(entry->pid, SIGTERM);
		signalled[i] = entry->pid;
		found = true;
	}
	unlock_entries();
	for (int i = 0; i < bemi_max_sources; i++)
		found |= bemi_is_connected(signalled[i], database);
	return found;
}

/*
 * The database is gone, and with it the entries.  A process that was
 * registered for one and comes now finds it unused; until then "launched"
 * keeps others from taking it.
 */
void
bemi_entry_forget_all(Oid database)
{
	lock_entries(LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
		if (memory->entries[i].database == database)
			memory->entries[i].in_use = false;
	unlock_and_broadcast();
}

/* ---------- what the launcher does ---------- */

/*
 * Milliseconds to wait after so many failures in a row.
 */
long
bemi_delay_after(int failures)
{
	if (failures == 0)
		return 0;
	return Min((long) BEMI_FIRST_DELAY_MS << Min(failures - 1, 10),
			   BEMI_LONGEST_DELAY_MS);
}

/*
 * Milliseconds until the next process may be started; 0: now.  Not by the time
 * of day, which may be set back.  Caller holds the lock.
 */
static long
start_is_due_in(BemiEntry *entry)
{
	int64		now = bemi_monotonic_ms();

	if (entry->wake || entry->failures == 0)
		return 0;
	if (entry->next_start == 0)
		entry->next_start = now + bemi_delay_after(entry->failures);
	return Max(entry->next_start - now, 0);
}

/*
 * Decides whether a process is to be started now.  If only later, *timeout_ms
 * is lowered to that time.
 */
bool
bemi_entry_begin_start(int i, BemiEntry *copy, long *timeout_ms)
{
	BemiEntry  *entry = &memory->entries[i];
	bool		due;
	long		left;

	lock_entries(LW_EXCLUSIVE);
	due = entry->in_use && !entry->launched &&
		(entry->state != BEMI_STATE_STOPPED || entry->wake) &&
		!bemi_is_paused(entry->database);
	left = due ? start_is_due_in(entry) : 0;
	if (left > 0)
	{
		*timeout_ms = Min(*timeout_ms, left);
		due = false;
	}
	if (due)
	{
		if (entry->failures > 0 && entry->state == BEMI_STATE_FAILED)
			entry->restarts++;
		entry->launched = true;
		entry->wake = false;
		entry->next_start = 0;
		move_entry(entry, BEMI_STATE_STARTING);
		*copy = *entry;
	}
	unlock_entries();
	return due;
}

/*
 * The launcher cannot start the process.  Whether the error is another one
 * than the last.
 */
bool
bemi_entry_refuse_start(int i, const char *error, const char *hint)
{
	BemiEntry  *entry = &memory->entries[i];
	bool		is_news;

	lock_entries(LW_EXCLUSIVE);
	is_news = strcmp(entry->error, error) != 0;
	entry->attempt = ++memory->attempts;
	fail_entry(entry, error, hint);
	count_failure(entry);
	unlock_and_broadcast();
	return is_news;
}

/*
 * The process that the launcher has started is gone.  It has done the rest in
 * bemi_entry_leave(), unless it died before it came to enter.
 */
void
bemi_entry_process_is_gone(int i)
{
	BemiEntry  *entry = &memory->entries[i];

	lock_entries(LW_EXCLUSIVE);
	if (entry->launched && entry->pid == 0)
	{
		move_entry(entry, BEMI_STATE_FAILED);
		count_failure(entry);
	}
	unlock_entries();
}

/*
 * The database of the source is gone.
 */
void
bemi_entry_forget(int i)
{
	lock_entries(LW_EXCLUSIVE);
	memory->entries[i].in_use = false;
	memory->entries[i].launched = false;
	unlock_and_broadcast();
}

/*
 * A launcher before this one may have died between registering a process and
 * that process's start.  Should it come after all, it finds another one there,
 * or becomes the worker.
 */
void
bemi_entry_forget_unborn(void)
{
	lock_entries(LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
		if (memory->entries[i].pid == 0)
			memory->entries[i].launched = false;
	unlock_entries();
}

/* ---------- what the worker does with its own entry ---------- */

/*
 * The worker leaves a database that a session needs for itself, and is to be
 * started again as soon as it may; caller holds the lock.
 */
static void
pause_entry(BemiEntry *entry)
{
	move_entry(entry, BEMI_STATE_PAUSED);
	entry->launched = false;
	entry->wake = true;
}

/*
 * Makes this process the worker of the entry that the launcher has started it
 * for, and copies the entry.  False if the process is not to run.
 */
bool
bemi_entry_enter(int i, BemiEntry *copy)
{
	BemiEntry  *entry = &memory->entries[i];
	bool		entered = false;

	lock_entries(LW_EXCLUSIVE);
	if (entry->in_use && entry->pid == 0)
	{
		my_entry = entry;
		if (bemi_is_paused(entry->database))
			pause_entry(entry);
		else
		{
			move_entry(entry, BEMI_STATE_STARTING);
			entry->launched = entered = true;
			entry->asked_to_leave = false;
			entry->pid = MyProcPid;
			entry->latch = MyLatch;
			entry->attempt = ++memory->attempts;
			*copy = *entry;
		}
	}
	else if (entry->pid == 0)
		entry->launched = false;
	unlock_entries();
	return entered;
}

/*
 * The process ends, in any way short of a crash.
 */
void
bemi_entry_leave(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->launched = false;
	my_entry->pid = 0;
	my_entry->latch = NULL;
	if (my_entry->in_use && my_entry->state != BEMI_STATE_STOPPED)
	{
		if (my_entry->asked_to_leave && my_entry->state != BEMI_STATE_FAILED)
			pause_entry(my_entry);
		else
		{
			if (my_entry->state != BEMI_STATE_FAILED)
				fail_entry(my_entry, "worker was terminated", NULL);
			count_failure(my_entry);
		}
	}
	unlock_and_broadcast();
	bemi_wake_launcher();
}

/*
 * The number of this worker's entry.
 */
int
bemi_entry_mine(void)
{
	return my_entry - memory->entries;
}

void
bemi_entry_copy_mine(BemiEntry *copy)
{
	lock_entries(LW_SHARED);
	*copy = *my_entry;
	unlock_entries();
}

/*
 * The worker begins to do what its row asks for.  Called whenever it reads its
 * row, with the sources locked.  A session that changes the row notes the
 * number of attempts while it holds that lock, so that it can tell what later
 * attempts do from what workers do that have not seen the change.
 */
void
bemi_entry_begin_attempt(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->attempt = ++memory->attempts;
	unlock_entries();
}

/*
 * The row that was read for the last attempt asks to run.
 */
void
bemi_entry_is_to_run(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->run_attempt = my_entry->attempt;
	unlock_and_broadcast();
}

/*
 * The name of the slot, unless NULL, and whether it is one that DROP DATABASE
 * would leave behind.
 */
void
bemi_entry_record_slot(const char *slot, bool elsewhere)
{
	lock_entries(LW_EXCLUSIVE);
	if (slot != NULL)
		strlcpy(my_entry->slot, slot, NAMEDATALEN);
	my_entry->slot_elsewhere = elsewhere;
	unlock_entries();
}

/*
 * The process of this server that serves the worker; 0: none does.
 */
void
bemi_entry_record_walsender(pid_t walsender)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->walsender = walsender;
	unlock_entries();
}

/*
 * The worker goes on to its next state.
 */
void
bemi_entry_set_state(BemiState state)
{
	lock_entries(LW_EXCLUSIVE);
	move_entry(my_entry, state);
	unlock_and_broadcast();
}

/*
 * The worker is about to end, without an error: for good, or so that another
 * one begins ("again").
 */
void
bemi_entry_stop(bool again)
{
	lock_entries(LW_EXCLUSIVE);
	move_entry(my_entry, BEMI_STATE_STOPPED);
	my_entry->wake |= again;
	unlock_and_broadcast();
}

/*
 * An error is about to end the worker; hint may be NULL.
 */
void
bemi_entry_fail(const char *error, const char *hint)
{
	lock_entries(LW_EXCLUSIVE);
	fail_entry(my_entry, error, hint);
	unlock_and_broadcast();
}

/*
 * The next failure is a first one again.
 */
void
bemi_entry_recover(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->failures = 0;
	unlock_entries();
}

/*
 * The worker has dropped its source.
 */
void
bemi_entry_remove(void)
{
	lock_entries(LW_EXCLUSIVE);
	Assert(my_entry->state == BEMI_STATE_DROPPING);
	my_entry->in_use = false;
	unlock_and_broadcast();
}

/*
 * Whether somebody has changed the worker's row since bemi_entry_take_wake().
 */
bool
bemi_entry_is_woken(void)
{
	bool		woken;

	lock_entries(LW_SHARED);
	woken = my_entry->wake;
	unlock_entries();
	return woken;
}

/*
 * The same, and from now on, only later changes count.
 */
bool
bemi_entry_take_wake(void)
{
	bool		woken;

	lock_entries(LW_EXCLUSIVE);
	woken = my_entry->wake;
	my_entry->wake = false;
	unlock_entries();
	return woken;
}
