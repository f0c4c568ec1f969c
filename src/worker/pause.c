/*-------------------------------------------------------------------------
 *
 * pause.c
 *		Pauses a database: ends its workers, and keeps new ones away.
 *
 * A session that needs a database for itself marks it as paused, in shared
 * memory.  The launcher then starts no process there, and a worker that is
 * just starting exits.  Running workers get a SIGTERM.  After their end, their
 * walsenders get one, too, because they would notice it too late.  A discovery
 * worker is not stopped, because its result would be lost.  It ends within
 * milliseconds, and the server waits for that.
 *
 * The pause ends with the transaction.  The end of the session aborts it, too,
 * and a crash empties shared memory.  It must not end earlier, because a new
 * worker would wait for the command's lock, and then find the database
 * renamed.  It delays only the database's own workers, which continue where
 * they had committed.  What must never happen: a pause that outlives its
 * session.
 *
 * The request to leave is stored in the workers' entries, because a canceled
 * command ends the pause while they are still exiting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "replication/walsender_private.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "worker/worker_internal.h"

/*
 * Longest wait for the workers.  After it, the server reports the connections.
 */
#define GIVE_WAY_MS		10000

/*
 * Interval at which their end is checked: a walsender's end signals nothing.
 */
#define LOOK_MS			20

/* Whether this session has paused a database. */
static bool pausing = false;

/* The database that the current transaction has dropped. */
static Oid	dropped = InvalidOid;

/* ---------- the pause ---------- */

/*
 * Whether a database is paused.  The caller holds the lock.
 */
bool
bemi_is_paused(Oid database)
{
	for (int i = 0; i < BEMI_MAX_PAUSES; i++)
		if (bemi_shared->pauses[i].session != 0 &&
			bemi_shared->pauses[i].database == database)
			return true;
	return false;
}

/*
 * Pauses a database until the end of the transaction.  Returns false if there
 * is no free place; then no worker is stopped.
 */
bool
bemi_pause_database(Oid database)
{
	bool		paused = false;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < BEMI_MAX_PAUSES && !paused; i++)
	{
		BemiPause  *pause = &bemi_shared->pauses[i];

		if (pause->session != 0)
			continue;
		pause->session = MyProcPid;
		pause->database = database;
		paused = true;
	}
	LWLockRelease(bemi_shared->lock);
	pausing |= paused;
	return paused;
}

/*
 * Ends the pauses with the transaction.
 */
static void
pause_at_transaction_end(XactEvent event, void *arg)
{
	if ((!pausing && !OidIsValid(dropped)) ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		 event != XACT_EVENT_PREPARE))
		return;

	if (event == XACT_EVENT_COMMIT && OidIsValid(dropped))
		bemi_entry_forget_all(dropped);
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < BEMI_MAX_PAUSES; i++)
		if (bemi_shared->pauses[i].session == MyProcPid)
			bemi_shared->pauses[i].session = 0;
	LWLockRelease(bemi_shared->lock);
	pausing = false;
	dropped = InvalidOid;
	ConditionVariableBroadcast(&bemi_shared->changed);
	bemi_wake_launcher();
}

/* ---------- who is in the way ---------- */

/*
 * Whether a process is connected to the database.
 */
bool
bemi_is_connected(pid_t pid, Oid database)
{
	PGPROC	   *process = pid != 0 ? BackendPidGetProc(pid) : NULL;

	return process != NULL && process->databaseId == database;
}

static bool
is_walsender(pid_t pid)
{
	bool		found = false;

	for (int i = 0; i < max_wal_senders && !found; i++)
	{
		WalSnd	   *walsender = &WalSndCtl->walsnds[i];

		SpinLockAcquire(&walsender->mutex);
		found = walsender->pid == pid;
		SpinLockRelease(&walsender->mutex);
	}
	return found;
}

/*
 * Whether a worker of this database has created the slot.
 */
static bool
is_our_slot(const ReplicationSlot *slot, Oid database)
{
	char		prefix[NAMEDATALEN];

	snprintf(prefix, sizeof(prefix), "bemi_%u_", database);
	return strncmp(NameStr(slot->data.name), prefix, strlen(prefix)) == 0;
}

/*
 * Finds the slots of a database that are in use.  "Ours" are those that a
 * walsender reads for one of our workers.  With "stop", these walsenders get a
 * SIGTERM.
 */
static void
find_slots_in_use(Oid database, bool stop, bool *ours, bool *others)
{
	*ours = *others = false;
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		pid_t		reader;

		if (!slot->in_use || slot->data.database != database)
			continue;
		SpinLockAcquire(&slot->mutex);
		reader = slot->active_pid;
		SpinLockRelease(&slot->mutex);
		if (reader == 0)
			continue;
		if (!is_our_slot(slot, database) || !is_walsender(reader))
			*others = true;
		else
		{
			*ours = true;
			if (stop)
				kill(reader, SIGTERM);
		}
	}
	LWLockRelease(ReplicationSlotControlLock);
}

/*
 * Stops the walsenders of a database's workers.  Returns whether one still
 * exists, even if it has not acquired its slot yet.
 */
static bool
stop_walsenders(Oid database)
{
	bool		found;
	bool		others;
	BemiEntry  *entries;
	int			count;

	find_slots_in_use(database, true, &found, &others);
	count = bemi_entry_copy_all(&entries, NULL);
	for (int i = 0; i < count; i++)
		if (entries[i].database == database)
			found |= bemi_is_connected(entries[i].walsender, database);
	pfree(entries);
	return found;
}

/*
 * Stops the workers of a paused database and then their walsenders, and waits
 * for their end.  The workers come first, because otherwise they would report
 * the lost connection as a failure.
 */
void
bemi_stop_readers(Oid database)
{
	static uint32 wait_event = 0;
	int64		since = bemi_monotonic_ms();
	pid_t	   *signalled = palloc0(sizeof(pid_t) * bemi_max_sources);

	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiMakeWay");

	ConditionVariablePrepareToSleep(&bemi_shared->changed);
	while ((bemi_entry_stop_all(database, signalled) ||
			stop_walsenders(database)) &&
		   !bemi_has_passed(since, GIVE_WAY_MS))
		ConditionVariableTimedSleep(&bemi_shared->changed, LOOK_MS,
									wait_event);
	ConditionVariableCancelSleep();
	pfree(signalled);
}

/*
 * Whether another client reads a slot of the database.
 */
bool
bemi_has_other_readers(Oid database)
{
	bool		ours;
	bool		others;

	find_slots_in_use(database, false, &ours, &others);
	return others;
}

/*
 * Called after DROP DATABASE: if the transaction commits, the entries of the
 * database's sources are freed before the pause ends.
 */
void
bemi_forget_entries_at_commit(Oid database)
{
	dropped = database;
}

void
bemi_worker_pause_init(void)
{
	if (process_shared_preload_libraries_in_progress)
		RegisterXactCallback(pause_at_transaction_end, NULL);
}
