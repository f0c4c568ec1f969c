/*-------------------------------------------------------------------------
 *
 * pipeline.c
 *		The pipeline from a source to the history, and the loop around it.
 *
 * Messages go from stream/replication.c through decode/protocol.c and
 * decode/stitch.c to store/writer.c.  The worker processes all messages that
 * have arrived, commits when the stream pauses or a transaction is large
 * enough, confirms the flushed position to the source, and sleeps.  While many
 * transactions arrive, it rests after a commit (pace.c).
 *
 * Memory: the pipeline is in the worker's memory, "bemi event" is reset after
 * each message.  What must never happen: the worker sleeps with a lock or
 * snapshot of the destination, except within a source transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/procarray.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "decode/decode.h"
#include "extension/extension.h"
#include "store/store.h"
#include "stream/stream.h"
#include "worker/worker_internal.h"

/* The longest sleep, and that while the source waits for a confirmation. */
#define IDLE_MS			10000
#define UNCONFIRMED_MS	200

/*
 * Interval at which the time up to which the history is complete is
 * determined.
 */
#define HORIZON_MS			100

/* A commit's mark is visible this much later, see horizon.c. */
#define HORIZON_MARGIN_MS	10

/*
 * During this time, keepalives alone cause no round.  Then one is due.
 */
#define QUIET_MS		5000

/* A worker that has streamed this long, or stored a change, has recovered. */
#define RECOVERED_MS	60000

/* The objects of one stream, in the order of a change's way. */
struct BemiPipeline
{
	BemiStream *stream;
	BemiProtocol *protocol;
	BemiStitch *stitch;
	BemiStore  *store;

	MemoryContext event_memory;
	int64		started_at;
	bool		recovered;		/* the next failure is a first one */
	int64		confirmed_at;
	XLogRecPtr	confirmed;
	bool		asked;			/* the source waits for a confirmation */
	bool		has_signing_key;	/* the source's key was known at the
									 * beginning */
	BemiWitness witness;		/* that the stream must begin with */

	BemiPace	pace;			/* of commits */
	BemiHorizon horizon;		/* the next one; time 0: none yet */
	int64		horizon_at;		/* when it was begun */

	bool		drained;		/* messages were processed since the last
								 * round */
	bool		settled;		/* the last round has left nothing to do soon */
	int64		round_at;		/* time of the last round */
};

/*
 * Records the connection in shared memory, before any command that may take
 * long.
 */
static void
record_connection(BemiStream *stream, const BemiSourceIdentity *identity)
{
	/* A copy of this server has the same identifier, but other processes. */
	bemi_source_is_local = bemi_stream_is_here(stream) ||
		(identity->system_identifier == GetSystemIdentifier() &&
		 BackendPidGetProc(bemi_stream_walsender(stream)) != NULL);
	bemi_facts_record_place(bemi_source_is_local, !bemi_source_is_local);
	bemi_entry_record_walsender(bemi_source_is_local ?
								bemi_stream_walsender(stream) : 0);
}

/*
 * Whether bemi.sync() waits for this message.  Any user can write markers, so
 * one counts only if a session waits for its position.  Otherwise a flood of
 * markers would cause a commit after each source transaction.
 */
static bool
is_awaited_marker(const BemiEvent *event)
{
	return event->kind == BEMI_EVENT_MESSAGE && !event->transactional &&
		strcmp(event->prefix, BEMI_MARKER_PREFIX) == 0 &&
		bemi_facts_is_awaited(event->position);
}

/*
 * Processes one message.  Returns true if it was followed by a commit.
 */
static bool
process_message(BemiPipeline *pipeline, StringInfo message)
{
	MemoryContext caller = MemoryContextSwitchTo(pipeline->event_memory);
	BemiEvent	event = {0};
	bool		single = false;
	bool		commit;

	bemi_protocol_read(pipeline->protocol,
					   bemi_stream_position(pipeline->stream), message,
					   &event);
	if (XLogRecPtrIsInvalid(pipeline->witness.stored.commit_lsn))
		single = bemi_watch_event(&event);
	else if (!bemi_witness_event(&pipeline->witness, &event))
		event.kind = BEMI_EVENT_NOTHING;
	bemi_stitch_event(pipeline->stitch, &event);
	commit = single || is_awaited_marker(&event) ||
		bemi_store_is_due(pipeline->store);
	if (commit)
		bemi_store_commit(pipeline->store);

	MemoryContextSwitchTo(caller);
	MemoryContextReset(pipeline->event_memory);
	return commit;
}

/*
 * Reads until the witness has been received completely.  Before that, it is
 * not known whether the stream continues the stored changes.
 */
static void
await_witness(BemiPipeline *pipeline)
{
	StringInfoData message;

	while (!XLogRecPtrIsInvalid(pipeline->witness.stored.commit_lsn))
	{
		if (bemi_stream_receive(pipeline->stream, &message))
		{
			(void) process_message(pipeline, &message);
			CHECK_FOR_INTERRUPTS();
			continue;
		}
		bemi_check_witness(&pipeline->witness,
						   bemi_stream_received(pipeline->stream));
		if (bemi_stream_reply_requested(pipeline->stream))
			bemi_stream_confirm(pipeline->stream, InvalidXLogRecPtr);
		bemi_stream_wait(pipeline->stream, UNCONFIRMED_MS);
		bemi_leave_if_woken(pipeline->stream);
	}
}

/*
 * Connects to the source, and finds out from where to read on.
 */
static void
connect_pipeline(BemiPipeline *pipeline, BemiSourceRow *row,
				 BemiSourceIdentity *identity)
{
	bemi_entry_set_state(BEMI_STATE_CONNECTING);
	bemi_check_reading(row);
	pipeline->stream =
		bemi_stream_connect(row->conninfo, bemi_source_name,
							bemi_slot_name, bemi_leave_if_woken);
	bemi_stream_identify(pipeline->stream, identity);
	record_connection(pipeline->stream, identity);
	bemi_claim_source(pipeline->stream, row);
	bemi_secure_slot(pipeline->stream, identity, row, &pipeline->witness);
	bemi_entry_record_slot(NULL, row->conninfo != NULL);
}

/*
 * The tag that makes ids of changes unique, palloc'd.
 */
static char *
make_id_tag(const BemiSourceIdentity *identity)
{
	int			gaps;

	bemi_begin_transaction();
	gaps = bemi_count_gaps();
	bemi_end_transaction();
	return psprintf(UINT64_FORMAT "/%u/%d/%s", identity->system_identifier,
					identity->timeline, gaps, bemi_source_name);
}

/*
 * Connects to the source, creates the objects of the stream in the current
 * memory context, and starts the stream.
 */
static void
open_pipeline(BemiPipeline *pipeline, BemiSourceRow *row)
{
	BemiSourceIdentity identity;
	XLogRecPtr	origin;

	connect_pipeline(pipeline, row, &identity);
	bemi_begin_transaction();
	bemi_store_find_changes();
	bemi_end_transaction();
	origin = bemi_acquire_origin();
	pipeline->protocol = bemi_protocol_create(pipeline->stream);
	pipeline->store =
		bemi_store_create(bemi_source_name, &identity, origin);
	pipeline->stitch =
		bemi_stitch_create(make_id_tag(&identity), pipeline->stream,
						   pipeline->store);
	pipeline->event_memory = AllocSetContextCreate(CurrentMemoryContext,
												   "bemi event",
												   ALLOCSET_DEFAULT_SIZES);
	(void) bemi_stream_read_timeout(pipeline->stream);
	bemi_stream_start(pipeline->stream, bemi_slot_name,
					  pipeline->witness.stored.commit_lsn ?
					  pipeline->witness.stored.commit_lsn :
					  origin);
	await_witness(pipeline);
	bemi_stream_on_wait(pipeline->stream, NULL);
	pipeline->started_at = bemi_monotonic_ms();
	pipeline->has_signing_key = bemi_stream_has_signing_key(pipeline->stream);
	if (!bemi_source_is_local)
		bemi_limit_slot(pipeline->stream);
	bemi_entry_set_state(BEMI_STATE_STREAMING);
}

/*
 * Begins a horizon: a time, and the position that must be stored for the
 * history to be complete up to it.  A remote source is asked when its slot is
 * checked.
 */
static void
record_horizon(BemiPipeline *pipeline)
{
	BemiHorizon *horizon = &pipeline->horizon;

	if (!bemi_source_is_local)
		horizon->time =
			bemi_stream_horizon(pipeline->stream, &horizon->position);
	else if (bemi_has_passed(pipeline->horizon_at, HORIZON_MS))
	{
		pipeline->horizon_at = bemi_monotonic_ms();
		bemi_horizon_begin(horizon,
						   TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													   -HORIZON_MARGIN_MS));
	}
}

/*
 * Called when everything up to this position is stored.  If the horizon's
 * position is reached, the history is complete up to its time.
 */
static void
reach_horizon(BemiPipeline *pipeline, XLogRecPtr stored)
{
	BemiHorizon *horizon = &pipeline->horizon;

	if (horizon->time == 0)
		record_horizon(pipeline);
	if (horizon->time == 0 || !bemi_horizon_is_settled(horizon) ||
		stored < horizon->position)
		return;
	bemi_store_is_complete_until(pipeline->store, horizon->time,
								 horizon->position);
	horizon->time = 0;
}

/*
 * Shows the progress to sessions, in shared memory.
 */
static void
show_progress(BemiPipeline *pipeline)
{
	XLogRecPtr	received = bemi_stream_received(pipeline->stream);
	bool		all = bemi_store_is_stored(pipeline->store);
	BemiUntil	until;
	BemiCounts	counts;

	if (all)
	{
		reach_horizon(pipeline, received);
		bemi_watch_progress(received);
	}
	bemi_store_drain_counts(pipeline->store, &counts, &until);
	bemi_pace_record(&pipeline->pace, counts.transactions);

	if (!pipeline->recovered &&
		(counts.changes > 0 ||
		 bemi_has_passed(pipeline->started_at, RECOVERED_MS)))
	{
		bemi_entry_recover();
		pipeline->recovered = true;
	}
	bemi_facts_add_progress(received, all, &counts, &until);
}

/*
 * Shows the progress to sessions, and confirms the flushed position to the
 * source: at once if it has requested that or its commits wait for it,
 * otherwise after some time.
 */
static void
report_progress(BemiPipeline *pipeline)
{
	bool		asked = bemi_stream_reply_requested(pipeline->stream);
	XLogRecPtr	flushed = bemi_store_flushed(pipeline->store);

	show_progress(pipeline);
	bemi_stream_close_idle_catalog(pipeline->stream);
	if (asked ||
		(bemi_is_elected() && flushed != pipeline->confirmed) ||
		bemi_has_passed(pipeline->confirmed_at,
						flushed != pipeline->confirmed ? UNCONFIRMED_MS :
						IDLE_MS))
	{
		pipeline->asked |= asked;
		bemi_stream_confirm(pipeline->stream, flushed);
		pipeline->confirmed = flushed;
		pipeline->confirmed_at = bemi_monotonic_ms();
	}
}

/*
 * Whether commits at the source wait for a confirmation of WAL without changes
 * to store.  On the worker's own server, recording the position writes more
 * WAL, so it is not done too often.
 */
static bool
progress_is_awaited(const BemiPipeline *pipeline)
{
	return bemi_is_elected() &&
		bemi_stream_received(pipeline->stream) > pipeline->confirmed &&
		bemi_has_passed(pipeline->confirmed_at,
						bemi_source_is_local ? UNCONFIRMED_MS : 0);
}

/*
 * For how long the worker may sleep if nothing arrives.
 */
static long
idle_time_ms(BemiPipeline *pipeline, XLogRecPtr flushed)
{
	if (flushed != pipeline->confirmed ||
		bemi_store_awaits_flush(pipeline->store) ||
		(bemi_is_elected() &&
		 bemi_stream_received(pipeline->stream) > flushed))
		return UNCONFIRMED_MS;
	return bemi_source_is_local &&
		bemi_store_awaits_time(pipeline->store) ?
		UNCONFIRMED_MS :
		IDLE_MS;
}

/*
 * For how long the worker should rest instead; 0: not at all.  It does not
 * rest within a source transaction, nor while the source has more to send.
 */
static long
rest_time_ms(const BemiPipeline *pipeline)
{
	if (!bemi_store_is_stored(pipeline->store) ||
		!bemi_stream_is_caught_up(pipeline->stream))
		return 0;
	return bemi_pace_rest_ms(&pipeline->pace);
}

/*
 * Whether only keepalives have come since the last round, and that round has
 * left nothing to do.  Each commit at the source sends a keepalive to all its
 * readers, so these are most of a quiet worker's wake-ups.
 */
static bool
stream_is_quiet(const BemiPipeline *pipeline)
{
	return pipeline->settled && !pipeline->drained && !bemi_is_elected() &&
		!bemi_entry_is_woken() &&
		!bemi_stream_reply_requested(pipeline->stream) &&
		!bemi_store_may_advance(pipeline->store,
								bemi_stream_received(pipeline->stream),
								false) &&
		!bemi_has_passed(pipeline->round_at, QUIET_MS);
}

/*
 * Does the deferred work when no message has arrived, and sleeps.
 */
static void
wait_for_stream(BemiPipeline *pipeline)
{
	XLogRecPtr	received = bemi_stream_received(pipeline->stream);
	XLogRecPtr	flushed;
	long		timeout_ms;
	long		rest_ms;

	if (bemi_store_may_advance(pipeline->store, received,
							   pipeline->asked ||
							   progress_is_awaited(pipeline)))
	{
		MemoryContext caller = MemoryContextSwitchTo(pipeline->event_memory);

		bemi_store_advance(pipeline->store, received);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(pipeline->event_memory);
		pipeline->asked = false;
		report_progress(pipeline);
	}
	if (bemi_store_is_stored(pipeline->store))
		bemi_stream_settle_signing_key(pipeline->stream, false);
	flushed = bemi_store_flushed(pipeline->store);
	pgstat_report_activity(STATE_IDLE, NULL);
	timeout_ms = idle_time_ms(pipeline, flushed);
	rest_ms = rest_time_ms(pipeline);
	pipeline->settled = (timeout_ms == IDLE_MS && rest_ms <= 0);
	pipeline->drained = false;
	if (rest_ms > 0)
		bemi_pace_rest(rest_ms);
	else
		bemi_stream_wait(pipeline->stream, timeout_ms);
}

/*
 * Processes the messages that have arrived, until a commit.  It returns after
 * a commit, because otherwise a stream that never pauses would prevent all
 * other work.  Returns true if there may be more messages.
 */
static bool
process_received(BemiPipeline *pipeline)
{
	StringInfoData message;
	MemoryContext caller;
	int			count = 0;

	while (bemi_stream_receive(pipeline->stream, &message))
	{
		if (!pipeline->drained)
			pgstat_report_activity(STATE_RUNNING, "storing changes");
		pipeline->drained = true;
		if (process_message(pipeline, &message))
			return true;
		CHECK_FOR_INTERRUPTS();
		if (++count % 1000 == 0)
			report_progress(pipeline);
	}
	caller = MemoryContextSwitchTo(pipeline->event_memory);
	bemi_store_commit(pipeline->store);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(pipeline->event_memory);
	return false;
}

/*
 * Records the counts of the last second, which are not yet in
 * _bemi.source_progress, while no source transaction is open.
 */
static void
record_last_counts(BemiPipeline *pipeline)
{
	if (bemi_store_awaits_count(pipeline->store))
		bemi_store_advance(pipeline->store, InvalidXLogRecPtr);
}

/*
 * Ends the process without an error on SIGTERM, while no source transaction is
 * open.  It writes nothing to the log, because a server may have many sources.
 *
 * The signal must not cancel the update of the counts, but a second one may.
 * A lock that somebody holds delays the end by a second at most; then the
 * counts of the last second are lost.
 */
static void
exit_quietly(BemiPipeline *pipeline)
{
	ProcDiePending = false;
	SetConfigOption("lock_timeout", "1s", PGC_USERSET, PGC_S_SESSION);
	record_last_counts(pipeline);
	bemi_stream_close(pipeline->stream);
	proc_exit(0);
}

/*
 * Ends the process because the source's signing key has become readable.
 * Earlier tracking messages could not be verified, so the next worker compares
 * the tables.
 */
static void
connect_with_signing_key(BemiPipeline *pipeline)
{
	ereport(LOG,
			(errmsg("bemi: the worker of source \"%s\" can now read \"_bemi.signing_key\" and connects again",
					bemi_source_name)));
	bemi_entry_stop(true);
	exit_quietly(pipeline);
}

/*
 * Checks from time to time the election, the slot and the signing key.
 */
static void
watch_source(BemiPipeline *pipeline)
{
	if (bemi_source_is_local)
		bemi_watch_election(pipeline->stream);
	else
		bemi_limit_slot(pipeline->stream);
	bemi_store_flush_commits(pipeline->store, bemi_is_elected());
	if (bemi_stream_has_signing_key(pipeline->stream) &&
		!pipeline->has_signing_key && bemi_store_is_stored(pipeline->store))
		connect_with_signing_key(pipeline);
}

/*
 * Ends the process after SIGTERM, and applies new settings.
 */
static void
serve_interrupts(BemiPipeline *pipeline, const BemiSourceRow *row)
{
	if (ProcDiePending && bemi_store_is_stored(pipeline->store))
		exit_quietly(pipeline);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
		bemi_check_reading(row);
	}
}

/*
 * Streams until the row no longer requires it.  The last row is in *row.
 */
void
bemi_stream_changes(BemiPipeline *pipeline, BemiSourceRow *row)
{
	open_pipeline(pipeline, row);
	while (row->run)
	{
		bool		more;

		serve_interrupts(pipeline, row);
		more = process_received(pipeline);
		if (stream_is_quiet(pipeline))
		{
			show_progress(pipeline);
			bemi_stream_wait(pipeline->stream,
							 idle_time_ms(pipeline, pipeline->confirmed));
			continue;
		}
		pipeline->round_at = bemi_monotonic_ms();
		report_progress(pipeline);
		watch_source(pipeline);

		/* Not in the middle of a source transaction. */
		if (bemi_store_is_stored(pipeline->store))
		{
			bemi_store_maintain(bemi_source_name);
			bemi_protocol_forget_gone(pipeline->protocol);
		}
		if (bemi_store_is_stored(pipeline->store) && bemi_entry_drain_wake())
			bemi_read_source(row);
		else if (!more)
			wait_for_stream(pipeline);
	}
	if (row->exists)
		record_last_counts(pipeline);
	bemi_stream_close(pipeline->stream);
	pipeline->stream = NULL;
}

/*
 * An empty pipeline, in the current memory context.
 */
BemiPipeline *
bemi_pipeline_create(void)
{
	return palloc0(sizeof(BemiPipeline));
}

/*
 * The row at which the source has failed; InvalidXLogRecPtr if it is not
 * known.
 */
XLogRecPtr
bemi_pipeline_failed_at(const BemiPipeline *pipeline)
{
	return pipeline->stream ? bemi_stream_failed_at(pipeline->stream) :
		InvalidXLogRecPtr;
}
