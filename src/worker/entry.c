/*-------------------------------------------------------------------------
 *
 * entry.c
 *		The entries of sources in shared memory: a state machine.
 *
 * A source has one entry and at most one process, its worker.  The entry holds
 * the state that bemi.status shows, the process, when to start the next one,
 * and the last error.  docs/internals/worker-states.md has the picture of the
 * states; the tables of moves below have the same ones, and assertions check
 * each move against them.
 *
 * Only this file can access the entries.  Other files call the functions
 * below, one for each event of an entry, and read copies.  Each function takes
 * the lock of BemiShared, unless its comment states that the caller holds it,
 * and never waits with it.  Workers call the functions for their own entry,
 * which bemi_entry_enter() assigns.  The launcher and sessions call those that
 * take a number or a name.
 *
 * facts.c has the facts about the source itself, under the same lock and the
 * same numbers.
 *
 * What must never happen: two processes have one entry; or a process is never
 * started again although its entry is in use and not stopped.
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

/* States after an error or the end of the process. */
#define ENDS			(STATE(PAUSED) | STATE(FAILED) | STATE(STOPPED))

/*
 * The states that may follow a state, for moves of the worker's process.  It
 * begins with one of the last three if a former launcher has registered it and
 * it starts late.
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
 * Releases the lock and wakes sessions that wait for a worker.
 */
static void
unlock_and_broadcast(void)
{
	LWLockRelease(bemi_shared->lock);
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * The only place where a state changes; caller holds the lock.
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
 * Records the error for which the process ends, or cannot start; caller holds
 * the lock.
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
 * Counts a failure, when the process has ended; caller holds the lock.
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
 * Called while shared memory is created, with its lock.
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
 * The same for an entry that is removed, but whose process has not ended yet.
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
 * Copies a source's entry.  Returns false if it has none and its process has
 * ended.
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
 * Copies all used entries, and their facts unless "facts" is NULL, into the
 * current memory context.  Returns their number.
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
 * Writes the name of a source's slot into a buffer of NAMEDATALEN.  If no
 * worker has read the source's row since the server started, it is the name
 * that a slot on this server would have.
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
 * The number of the last attempt of any worker.  While this session has the
 * sources locked, later attempts are those that see its change.
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
 * The number of a free entry, or -1; caller holds the lock.  An entry with a
 * registered process is not free.
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
 * Whether the source has an entry, or there is a free one.
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
 * Frees the entry of a source without a row.  If it has a process, that
 * notices the removal itself.
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
 * Ends the sleep of an entry's worker, if it has one; caller holds the lock.
 */
void
bemi_entry_set_latch(int i)
{
	if (memory->entries[i].latch)
		SetLatch(memory->entries[i].latch);
}

/*
 * Wakes the workers of a database to read their rows of bemi.sources.
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
		bemi_entry_set_latch(i);
	}
	unlock_entries();
	bemi_wake_launcher();
}

/*
 * Requests that the next process of this entry is started without a delay.
 */
void
bemi_entry_wake(int i)
{
	lock_entries(LW_EXCLUSIVE);
	memory->entries[i].wake = true;
	unlock_entries();
}

/*
 * Ends the workers of a database, without counting a failure.  Returns whether
 * one still exists.  "signalled" keeps their PIDs, because an entry loses its
 * PID shortly before the process ends.
 */
bool
bemi_entry_stop_all(Oid database, pid_t *signalled)
{
	bool		found = false;

	lock_entries(LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiEntry  *entry = &memory->entries[i];

		/*
		 * The worker clears its pid under this lock, so it is still this
		 * process.
		 */
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
 * Frees the entries of a dropped database.  A process that was registered for
 * one and starts now finds it unused.  Until then "launched" prevents that the
 * entry is used for another source.
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
 * Milliseconds to wait after this many failures in a row.
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
 * Milliseconds until the next process may be started; 0: now.  The time of day
 * is not used, because it may be set back.  Caller holds the lock.
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
 * Begins to start a process if one is due, and returns whether it is.  If it
 * is due later, *timeout_ms is lowered to that time.
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
 * Records that the launcher cannot start the process.  Returns whether the
 * error differs from the last one.
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
 * Called when the process that the launcher has started has ended.
 * bemi_entry_leave() has done the rest, unless the process died before
 * bemi_entry_enter().
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
 * Frees an entry whose database was dropped.
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
 * Resets entries of processes that a former launcher has registered and that
 * have not started.  If such a process starts after all, it becomes the
 * worker, or finds another one and exits.
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
 * Marks the entry as paused, because a session needs the database for itself.
 * The worker is started again when the pause ends.  Caller holds the lock.
 */
static void
pause_entry(BemiEntry *entry)
{
	move_entry(entry, BEMI_STATE_PAUSED);
	entry->launched = false;
	entry->wake = true;
}

/*
 * Makes this process the worker of its entry, and copies the entry.  Returns
 * false if the process must not run.
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
 * before_shmem_exit callback: publishes the worker's end in shared memory.
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
 * Counts an attempt.  It is called whenever the worker reads its row, with the
 * sources locked.  A session that changes the row reads the number of attempts
 * under the same lock.  So it can distinguish later attempts from those of
 * workers that have not seen the change.
 */
void
bemi_entry_begin_attempt(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->attempt = ++memory->attempts;
	unlock_entries();
}

/*
 * Records that the row of the last attempt has the desired state "run".
 */
void
bemi_entry_is_to_run(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->run_attempt = my_entry->attempt;
	unlock_and_broadcast();
}

/*
 * Records the name of the slot, unless it is NULL, and whether DROP DATABASE
 * would leave the slot behind.
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
 * Records the worker's walsender on this server; 0: none.
 */
void
bemi_entry_record_walsender(pid_t walsender)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->walsender = walsender;
	unlock_entries();
}

/*
 * Moves the worker to its next state.
 */
void
bemi_entry_set_state(BemiState state)
{
	lock_entries(LW_EXCLUSIVE);
	move_entry(my_entry, state);
	unlock_and_broadcast();
}

/*
 * Records that the worker is about to end without an error.  "again": another
 * one must be started.
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
 * Records the error that is about to end the worker; hint may be NULL.
 */
void
bemi_entry_fail(const char *error, const char *hint)
{
	lock_entries(LW_EXCLUSIVE);
	fail_entry(my_entry, error, hint);
	unlock_and_broadcast();
}

/*
 * Resets the count of failures in a row.
 */
void
bemi_entry_recover(void)
{
	lock_entries(LW_EXCLUSIVE);
	my_entry->failures = 0;
	unlock_entries();
}

/*
 * Frees the worker's own entry, because it has dropped its source.
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
 * Whether a session has changed the worker's row since
 * bemi_entry_drain_wake().
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
 * The same, and resets it, so only later changes count from now on.
 */
bool
bemi_entry_drain_wake(void)
{
	bool		woken;

	lock_entries(LW_EXCLUSIVE);
	woken = my_entry->wake;
	my_entry->wake = false;
	unlock_entries();
	return woken;
}
