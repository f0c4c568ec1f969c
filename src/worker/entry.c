/*-------------------------------------------------------------------------
 *
 * entry.c
 *		Shared memory: what each worker does, and how others reach it.
 *
 * Workers write their state, positions and errors here; bemi.status,
 * bemi.start(), bemi.stop() and bemi.sync() read them and sleep on one
 * condition variable that is broadcast with each change.  The memory is empty
 * after a restart or crash of the server; the launcher's scouts fill it again
 * from what really lasts, the replication origins.
 *
 * One lightweight lock protects everything, held for a few instructions and
 * never over a wait.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "funcapi.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/*
 * The entry of a source, or NULL.  The caller holds the lock.
 */
BemiWorker *
bemi_find_worker(Oid database, const char *source)
{
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiWorker *worker = &bemi_shared->workers[i];

		if (worker->in_use && worker->database == database &&
			strcmp(worker->source, source) == 0)
			return worker;
	}
	return NULL;
}

/*
 * Makes an entry for a source, unless it has one.  False if there is no room.
 */
bool
bemi_add_worker(Oid database, const char *source)
{
	BemiWorker *worker;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker = bemi_find_worker(database, source);
	for (int i = 0; i < bemi_max_sources && worker == NULL; i++)
	{
		if (bemi_shared->workers[i].in_use || bemi_shared->workers[i].launched)
			continue;
		worker = &bemi_shared->workers[i];
		memset(worker, 0, sizeof(BemiWorker));
		worker->in_use = true;
		worker->database = database;
		strlcpy(worker->source, source, BEMI_SOURCE_NAME_LEN);
		worker->state = BEMI_STATE_STARTING;
	}
	LWLockRelease(bemi_shared->lock);
	return worker != NULL;
}

/*
 * Takes away the entry of a source that was given up.  False if a worker has
 * it, which will then find out by itself.
 */
bool
bemi_remove_worker(Oid database, const char *source)
{
	BemiWorker *worker;
	bool		removed = true;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker = bemi_find_worker(database, source);
	if (worker != NULL && worker->launched)
		removed = false;
	else if (worker != NULL)
		worker->in_use = false;
	LWLockRelease(bemi_shared->lock);
	return removed;
}

/*
 * Name of a source's slot; of one that no worker has looked at since the
 * server started, as if it were on this server.  The caller holds the lock, or
 * is the worker itself.  Palloc'd.
 */
const char *
bemi_slot_of_worker(const BemiWorker *worker)
{
	if (worker->slot[0] != '\0')
		return pstrdup(worker->slot);
	return psprintf("bemi_%u_%s", worker->database, worker->source);
}

void
bemi_set_state(BemiWorker *worker, BemiState state)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->state = state;
	LWLockRelease(bemi_shared->lock);
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * Copies a text into shared memory, without cutting a character in two.
 */
static void
copy_text(char *to, const char *text)
{
	strlcpy(to, text,
			pg_mbcliplen(text, strlen(text), BEMI_ERROR_LEN - 1) + 1);
}

/*
 * A worker begins to do what its row asks for, or the launcher tries to start
 * one.  Called whenever a worker reads its row, with the sources locked.  A
 * session that changes the row notes the number of attempts while it holds
 * that lock, so that it can tell the errors of later attempts from those of
 * workers that have not seen the change.
 */
void
bemi_begin_attempt(BemiWorker *worker)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->attempt = ++bemi_shared->attempts;
	LWLockRelease(bemi_shared->lock);
}

/*
 * Notes why a worker failed; hint may be NULL.
 */
void
bemi_set_error(BemiWorker *worker, const char *error, const char *hint)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->state = BEMI_STATE_FAILED;
	worker->failed_attempt = worker->attempt;
	worker->error_count++;
	worker->error_at = GetCurrentTimestamp();
	copy_text(worker->error, error);
	copy_text(worker->hint, hint ? hint : "");
	LWLockRelease(bemi_shared->lock);
	ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * Notes whether commits at the source may wait for the worker, and what to do
 * about it ("": nothing).
 */
void
bemi_set_election(BemiWorker *worker, bool is_elected, const char *advice)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->is_elected = is_elected;
	copy_text(worker->advice, advice);
	LWLockRelease(bemi_shared->lock);
}

/*
 * Notes how far a worker has come.
 */
void
bemi_set_progress(BemiWorker *worker, XLogRecPtr received, XLogRecPtr stored)
{
	bool		moved;

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	moved = worker->stored != stored;
	worker->received = received;
	worker->stored = stored;
	if (worker->awaited <= stored)
		worker->awaited = worker->awaited_last;
	LWLockRelease(bemi_shared->lock);
	if (moved)
		ConditionVariableBroadcast(&bemi_shared->changed);
}

/*
 * The workers of this database that have stored all up to a position have all
 * that was committed before this time.  That may have been some time ago, when
 * they know more by now, unless what they know is still to come: the clock was
 * set back.
 */
void
bemi_record_synced(XLogRecPtr position, TimestampTz time)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < bemi_max_sources; i++)
	{
		BemiWorker *worker = &bemi_shared->workers[i];

		if (worker->in_use && worker->database == MyDatabaseId &&
			worker->is_local && worker->stored >= position &&
			(time > worker->synced.time || worker->synced.time > now))
		{
			worker->synced.time = time;
			worker->synced.position = position;
		}
	}
	LWLockRelease(bemi_shared->lock);
}

/*
 * Adds to what a worker has counted, with the time that it has found out last,
 * 0 for none.  A worker reads a clock again and again: if the time is earlier
 * than the last one, the clock was set back, and what bemi.sync() has found
 * out before that may be committed yet.
 */
void
bemi_add_counts(BemiWorker *worker, const BemiCounts *counts,
				const BemiUntil *until)
{
	LWLockAcquire(bemi_shared->lock, LW_EXCLUSIVE);
	worker->counts.changes += counts->changes;
	worker->counts.transactions += counts->transactions;
	worker->counts.invalid_messages += counts->invalid_messages;
	if (!XLogRecPtrIsInvalid(counts->changed.commit_lsn))
		worker->counts.changed = counts->changed;
	if (until->time != 0)
	{
		if (until->time < worker->until.time)
			memset(&worker->synced, 0, sizeof(BemiUntil));
		worker->until = *until;
	}
	LWLockRelease(bemi_shared->lock);
}
