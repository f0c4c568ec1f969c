/*-------------------------------------------------------------------------
 *
 * replication.c
 *		The replication stream of a source.
 *
 * Input: frames of a logical replication stream from the source's walsender.
 * Output: their contents, one by one, in libpq's memory until the next one;
 * and answers to the walsender with the positions that are stored.
 *
 * The worker uses libpq also for its own server.  So there is one path to
 * test, the walsender decodes on one core while the worker writes on another,
 * and pg_stat_replication shows it.  (libpqwalreceiver cannot request logical
 * messages.)
 *
 * What must never happen: a position is confirmed that is not flushed at the
 * destination, or a caller waits here with a lock or snapshot of the
 * destination.  The command texts follow "Streaming Replication Protocol" in
 * PostgreSQL's documentation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "replication/walreceiver.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"

/* Time that the walsender of a former connection gets to release the slot. */
#define SLOT_TIMEOUT_MS		10000

/*
 * Whether a command failed because the walsender of a former connection still
 * holds the slot.
 */
static bool
slot_is_in_use(const PGresult *result)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	return sqlstate != NULL && strcmp(sqlstate, "55006") == 0;	/* object_in_use */
}

/*
 * The source has sent something.
 */
void
bemi_stream_record_answer(BemiStream *stream)
{
	stream->heard_at = GetCurrentTimestamp();
	stream->heard_ms = bemi_monotonic_ms();
}

/*
 * Starts streaming.  The source begins at this position or at the slot's
 * confirmed one, whichever is later.
 */
void
bemi_stream_start(BemiStream *stream, const char *slot, XLogRecPtr position)
{
	char	   *command =
		psprintf("START_REPLICATION SLOT %s LOGICAL %X/%X"
				 " (proto_version '1', publication_names '%s', messages 'true')",
				 quote_identifier(slot), LSN_FORMAT_ARGS(position),
				 BEMI_PUBLICATION);
	int64		begun_at = bemi_monotonic_ms();
	PGresult   *result =
		bemi_stream_run_any_command(stream, stream->replication, command);

	/*
	 * The former walsender releases it when it notices that its client is
	 * gone.
	 */
	while (slot_is_in_use(result) &&
		   !bemi_has_passed(begun_at, SLOT_TIMEOUT_MS))
	{
		PQclear(result);
		(void) bemi_stream_wait_for_socket(stream->replication,
										   WL_SOCKET_READABLE, 100);
		result =
			bemi_stream_run_any_command(stream, stream->replication, command);
	}
	if (PQresultStatus(result) != PGRES_COPY_BOTH)
		bemi_stream_report_refusal(stream, result);
	PQclear(result);
	bemi_stream_record_answer(stream);
}

/*
 * Throws the reason for the end of the stream.
 */
static void
report_stream_end(BemiStream *stream)
{
	PGresult   *result = PQgetResult(stream->replication);

	if (PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) != NULL)
		bemi_stream_report_refusal(stream, result);
	bemi_stream_report_failure(stream, stream->replication,
							   "source ended the stream");
}

/*
 * Reads the next frame from libpq's buffer, or from the socket without
 * waiting.  Returns its length, 0 if there is none yet.
 *
 * The end of the stream is reported only by the second call.  The first one
 * returns 0, and the worker then stores the changes before it.  Otherwise, if
 * the source cannot go on, it would send these changes again and again, and
 * they would never be stored.
 */
static int
next_stream_frame(BemiStream *stream)
{
	int			len;

	if (stream->frame != NULL)
		PQfreemem(stream->frame);
	stream->frame = NULL;
	if (stream->ended)
		report_stream_end(stream);

	len = PQgetCopyData(stream->replication, &stream->frame, true);
	if (len == 0)
	{
		if (!PQconsumeInput(stream->replication))
			bemi_stream_report_failure(stream, stream->replication,
									   "lost the connection to source");
		len = PQgetCopyData(stream->replication, &stream->frame, true);
	}
	stream->ended = (len < 0);
	return Max(len, 0);
}

/*
 * Returns the next message of the output plugin if one has arrived.  Its bytes
 * live until the next call.  Keepalives are processed on the way.
 */
bool
bemi_stream_receive(BemiStream *stream, StringInfo message)
{
	int			len;

	bemi_stream_record_activity(stream);
	while ((len = next_stream_frame(stream)) > 0)
	{
		StringInfoData frame = {.data = stream->frame,.len = len,.maxlen = -1};
		char		kind = pq_getmsgbyte(&frame);
		XLogRecPtr	start;
		XLogRecPtr	end;

		bemi_stream_record_answer(stream);
		stream->asked_at = 0;
		if (kind == 'w')
		{
			start = pq_getmsgint64(&frame);
			end = pq_getmsgint64(&frame);
			(void) pq_getmsgint64(&frame);	/* when it was sent */
			stream->position = start;
			stream->received = Max(stream->received, Max(start, end));
			stream->caught_up = false;
			*message = frame;
			return true;
		}
		if (kind != 'k')
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("source sent a frame of unknown type \"%c\"",
							kind)));

		end = pq_getmsgint64(&frame);
		(void) pq_getmsgint64(&frame);	/* when it was sent */
		stream->received = Max(stream->received, end);
		stream->caught_up = true;
		stream->reply_requested |= pq_getmsgbyte(&frame) != 0;
	}
	return false;
}

/* LSN in the frame of the message that was received last. */
XLogRecPtr
bemi_stream_position(const BemiStream *stream)
{
	return stream->position;
}

/* When that message was received. */
TimestampTz
bemi_stream_heard_at(const BemiStream *stream)
{
	return stream->heard_at;
}

/* The source has sent everything that was committed up to here. */
XLogRecPtr
bemi_stream_received(const BemiStream *stream)
{
	return stream->received;
}

/*
 * Whether the source has nothing more to send at the moment: its last frame is
 * a keepalive.  A walsender sends one before it waits for new WAL.  While it
 * decodes a backlog, it sends almost none.
 */
bool
bemi_stream_is_caught_up(const BemiStream *stream)
{
	return stream->caught_up;
}

bool
bemi_stream_reply_requested(const BemiStream *stream)
{
	return stream->reply_requested;
}

/*
 * Sends the received and the flushed position to the source.
 */
static void
send_stream_reply(BemiStream *stream, bool answer_requested)
{
	StringInfoData reply;

	/* Sending would fail, and its error would hide the source's reason. */
	if (stream->ended)
		return;
	bemi_stream_record_activity(stream);
	initStringInfo(&reply);
	pq_sendbyte(&reply, 'r');
	pq_sendint64(&reply, stream->received);
	pq_sendint64(&reply, stream->flushed);
	pq_sendint64(&reply, stream->flushed);	/* applied */
	pq_sendint64(&reply, GetCurrentTimestamp());
	pq_sendbyte(&reply, answer_requested);

	if (PQputCopyData(stream->replication, reply.data, reply.len) <= 0 ||
		PQflush(stream->replication) != 0)
		bemi_stream_report_failure(stream, stream->replication,
								   "could not answer source");
	pfree(reply.data);
}

/*
 * Confirms to the source that changes up to a position are flushed.
 */
void
bemi_stream_confirm(BemiStream *stream, XLogRecPtr flushed)
{
	/* Never backwards, because some servers would accept that. */
	stream->flushed = Max(stream->flushed, flushed);
	send_stream_reply(stream, false);
	stream->reply_requested = false;
}

/*
 * Requests an answer with the source's position.
 */
void
bemi_stream_ask(BemiStream *stream)
{
	send_stream_reply(stream, true);
}

/*
 * Requests an answer if the source has sent nothing for half of
 * wal_receiver_timeout.  Throws an error if none comes in the other half.
 * Native logical replication does the same.
 */
static void
check_stream_silence(BemiStream *stream)
{
	if (stream->asked_at != 0)
	{
		if (bemi_has_passed(stream->asked_at, wal_receiver_timeout / 2))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("source has not answered for %d ms",
							wal_receiver_timeout),
					 errhint("If the network is that slow, raise \"wal_receiver_timeout\".")));
	}
	else if (bemi_has_passed(stream->heard_ms, wal_receiver_timeout / 2))
	{
		send_stream_reply(stream, true);
		stream->asked_at = bemi_monotonic_ms();
	}
}

/*
 * Creates the set of events that the stream waits for.  It is created once,
 * because there is a wait after each keepalive, and every commit at the source
 * may send one.
 */
static WaitEventSet *
make_wait_set(BemiStream *stream)
{
	WaitEventSet *set = bemi_create_wait_event_set(3);

	AddWaitEventToSet(set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(set, WL_SOCKET_READABLE, PQsocket(stream->replication),
					  NULL, NULL);
	return set;
}

/*
 * Sleeps until something has arrived, the latch is set, or the time is over.
 * The caller processes interrupts.
 */
void
bemi_stream_wait(BemiStream *stream, long timeout_ms)
{
	static uint32 wait_event = 0;
	WaitEvent	event;

	if (stream->ended)
		return;
	if (wal_receiver_timeout > 0)
	{
		check_stream_silence(stream);
		timeout_ms = Min(timeout_ms, Max(wal_receiver_timeout / 4, 1));
	}
	bemi_stream_close_idle_catalog(stream);
	if (stream->catalog != NULL)
		timeout_ms = Min(timeout_ms, bemi_stream_catalog_left_ms(stream));
	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiStream");
	if (stream->wait_set == NULL)
		stream->wait_set = make_wait_set(stream);
	if (WaitEventSetWait(stream->wait_set, timeout_ms, &event, 1, wait_event) >
		0 &&
		(event.events & WL_LATCH_SET))
		ResetLatch(MyLatch);
	stream->active_at = bemi_monotonic_ms();	/* waiting is not an absence */
}
