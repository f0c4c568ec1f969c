/*-------------------------------------------------------------------------
 *
 * slot_limit.c
 *		Limits the WAL that slots keep, so a stuck worker cannot fill the
 *		source's disk.
 *
 * A slot keeps all WAL that its worker has not stored yet.  If the worker
 * cannot store it, the WAL grows without limit. bemi.max_slot_lag sets the
 * size at which the user prefers a gap in the history to a full disk.
 *
 * The launcher checks slots of this server, even while a worker fails or a
 * source is stopped.  It drops a slot without a reader, and ends the walsender
 * of one with a reader, whose worker then exits.  A worker checks its own slot
 * on another server.  Both record the reason in shared memory.  The next
 * worker records the gap and creates another slot.  If a crash has erased the
 * reason, it finds the slot missing, and records a gap for that.  What must
 * never happen: a slot is dropped without a gap.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "replication/slot.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/* Interval of checks. */
#define LOOK_MS			5000

/*
 * Intervals for other servers: without a limit, and without new WAL.
 */
#define REMOTE_LOOK_MS	15000
#define QUIET_LOOK_MS	60000

/*
 * Least time between two drops, because a new slot may exceed a low limit at
 * once.
 */
#define AGAIN_MS		10000

/* Time in which a walsender releases its slot after SIGTERM. */
#define RELEASE_MS		200

typedef enum LagAction
{
	LAG_WARN,
	LAG_DROP
} LagAction;

static const struct config_enum_entry lag_actions[] = {
	{"warn", LAG_WARN, false},
	{"drop", LAG_DROP, false},
	{NULL, 0, false}
};

static int	max_slot_lag_mb = -1;
static int	max_slot_lag_action = LAG_WARN;

/* A slot of this server and the WAL that it keeps. */
typedef struct LaggingSlot
{
	char		name[NAMEDATALEN];
	int64		kept;
	pid_t		reader;			/* 0: none */
} LaggingSlot;

static bool
kept_exceeds_limit(int64 kept)
{
	return max_slot_lag_mb >= 0 &&
		kept > (int64) max_slot_lag_mb * 1024 * 1024;
}

/*
 * Handles a slot that keeps too much.  Returns true if it must be given up.
 * The excess is logged once until the slot has recovered.
 */
static bool
report_excess(int entry, const char *source, int64 kept)
{
	bool		give_up = false;
	bool		is_new = false;

	if (max_slot_lag_action == LAG_DROP)
		give_up = bemi_facts_give_up_lag(entry, AGAIN_MS, &is_new);
	if (is_new)
		bemi_entry_wake(entry);
	if (!bemi_facts_set_warned(entry, true))
		ereport(LOG,
				(errmsg("bemi: slot of source \"%s\" keeps %lld MB of WAL, more than \"bemi.max_slot_lag\"",
						source, (long long) (kept / (1024 * 1024))),
				 give_up ?
				 errdetail("The slot is dropped, and a gap is recorded in bemi.gaps.") :
				 errhint("SELECT * FROM bemi.status; shows why its worker does not store changes.")));
	return give_up;
}

/*
 * Drops a slot without a reader.  If it has got a reader just now, the next
 * check handles it.
 */
static void
drop_excessive_slot(const char *name)
{
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		ReplicationSlotDrop(name, true);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		EmitErrorReport();
		FlushErrorState();
		LWLockReleaseAll();
		if (MyReplicationSlot != NULL)
			ReplicationSlotRelease();
	}
	PG_END_TRY();
}

/*
 * Reads one slot in shared memory.  Returns false if it is not bemi's.
 */
static bool
check_local_slot(ReplicationSlot *slot, XLogRecPtr now_at,
				 LaggingSlot *lagging)
{
	bool		ours;

	SpinLockAcquire(&slot->mutex);
	ours = slot->in_use && slot->data.database != InvalidOid &&
		strncmp(NameStr(slot->data.name), "bemi_", 5) == 0;
	strlcpy(lagging->name, NameStr(slot->data.name), NAMEDATALEN);
	lagging->reader = slot->active_pid;
	lagging->kept = XLogRecPtrIsInvalid(slot->data.restart_lsn) ? 0 :
		(int64) (now_at - slot->data.restart_lsn);
	SpinLockRelease(&slot->mutex);
	return ours;
}

/*
 * Checks the slots of this server.  *timeout_ms is lowered to the time of the
 * next check.  Called by the launcher.
 */
void
bemi_limit_local_slots(long *timeout_ms)
{
	static int64 looked_at = 0;
	XLogRecPtr	now_at;

	if (max_slot_lag_mb < 0)
		return;
	if (!bemi_has_passed(looked_at, RELEASE_MS))
	{
		*timeout_ms = Min(*timeout_ms, RELEASE_MS);
		return;
	}
	looked_at = bemi_monotonic_ms();
	*timeout_ms = Min(*timeout_ms, LOOK_MS);

	now_at = GetXLogWriteRecPtr();
	for (int i = 0; i < max_replication_slots; i++)
	{
		LaggingSlot lagging;
		BemiEntry	entry;
		int			number;

		LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
		if (!check_local_slot(&ReplicationSlotCtl->replication_slots[i],
							  now_at, &lagging))
			lagging.name[0] = '\0';
		LWLockRelease(ReplicationSlotControlLock);
		number = lagging.name[0] ?
			bemi_entry_find_slot(lagging.name, &entry) : -1;
		if (number < 0)
			continue;

		if (!kept_exceeds_limit(lagging.kept))
			(void) bemi_facts_set_warned(number, false);
		else if (report_excess(number, entry.source, lagging.kept))
		{
			if (lagging.reader != 0)
				(void) kill(lagging.reader, SIGTERM);
			else
				drop_excessive_slot(lagging.name);
			*timeout_ms = Min(*timeout_ms, RELEASE_MS);
		}
	}
}

/*
 * Whether a check of a slot on another server is due.  Each check opens a
 * connection.  So they are rare if the source has written nothing, or if the
 * last check has failed.
 */
static bool
check_is_due(const BemiStream *stream, bool failing)
{
	static int64 looked_at = 0;
	static XLogRecPtr looked_to = InvalidXLogRecPtr;
	XLogRecPtr	received = bemi_stream_received(stream);
	int			interval_ms = REMOTE_LOOK_MS;

	if (failing || received == looked_to)
		interval_ms = QUIET_LOOK_MS;
	else if (max_slot_lag_mb >= 0)
		interval_ms = LOOK_MS;
	if (!bemi_has_passed(looked_at, interval_ms))
		return false;
	looked_at = bemi_monotonic_ms();
	looked_to = received;
	return true;
}

/*
 * Logs that a slot could not be checked because of the connection, and
 * rethrows other errors.  The stream continues, and bemi.status shows the cost
 * of the slot as unknown.
 */
static void
report_blindness(MemoryContext memory)
{
	ErrorData  *error;

	if (geterrcode() != ERRCODE_CONNECTION_FAILURE)
		PG_RE_THROW();
	MemoryContextSwitchTo(memory);
	error = CopyErrorData();
	FlushErrorState();
	ereport(LOG,
			(errmsg("bemi: could not check the slot of source \"%s\": %s",
					bemi_source_name, error->message),
			 error->hint ? errhint("%s", error->hint) : 0));
	bemi_facts_set_cost(NULL);
}

/*
 * Checks a slot on another server, and asks its source for everything else
 * that changes from time to time.  Returns false if the slot could not be
 * found.
 */
static bool
check_remote_slot(BemiStream *stream, BemiSlotCost *cost, bool *failing)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory =
		AllocSetContextCreate(caller, "bemi slot cost", ALLOCSET_SMALL_SIZES);
	volatile bool found = false;

	*failing = true;
	MemoryContextSwitchTo(memory);
	PG_TRY();
	{
		found = bemi_stream_slot_cost(stream, bemi_slot_name, cost);
		bemi_ask_for_election(stream);
		bemi_stream_look_at_horizon(stream);
		bemi_look_for_strays(stream);
		bemi_stream_look_for_signing_key(stream);
		*failing = false;
	}
	PG_CATCH();
	{
		found = false;
		bemi_stream_close_catalog(stream);
		report_blindness(memory);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
	return found;
}

/*
 * Checks the slot of a source on another server if a check is due.  Called by
 * its worker when it is idle.
 */
void
bemi_limit_slot(BemiStream *stream)
{
	static bool failing = false;
	BemiSlotCost cost;

	if (!check_is_due(stream, failing) ||
		!check_remote_slot(stream, &cost, &failing))
		return;

	bemi_facts_set_cost(&cost);
	if (!kept_exceeds_limit(cost.wal_kept))
		(void) bemi_facts_set_warned(bemi_entry_mine(), false);
	else if (report_excess(bemi_entry_mine(), bemi_source_name,
						   cost.wal_kept))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("slot \"%s\" keeps more WAL than \"bemi.max_slot_lag\"",
						bemi_slot_name)));
}

void
bemi_slot_limit_init(void)
{
	DefineCustomIntVariable("bemi.max_slot_lag",
							"Sets how much WAL the slot of a source may keep.",
							"-1 means no limit.", &max_slot_lag_mb, -1, -1,
							INT_MAX, PGC_SIGHUP, GUC_UNIT_MB, NULL, NULL,
							NULL);
	DefineCustomEnumVariable("bemi.max_slot_lag_action",
							 "Sets what happens to a slot that keeps more than bemi.max_slot_lag.",
							 "\"warn\" writes to the server's log; \"drop\" drops the slot and records a gap in bemi.gaps.",
							 &max_slot_lag_action, LAG_WARN, lag_actions,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
}
