/*-------------------------------------------------------------------------
 *
 * stream.c
 *		The replication stream of a source.
 *
 * Out of the source's walsender flow the frames of a logical replication
 * stream; this file hands on their contents one by one, answers with the
 * positions that are safe, and runs the few commands around it (who are you,
 * make a slot, drop a slot, what is this table's primary key).
 *
 * There is one way to a source, libpq, also for the worker's own server: one
 * path to test, the walsender decodes on another core while the worker
 * writes, and pg_stat_replication shows it.  (libpqwalreceiver would be at
 * hand, but cannot ask for logical messages.)
 *
 * No lock or snapshot of the destination should be held by callers who wait.
 * The command texts follow "Streaming Replication Protocol" in PostgreSQL's
 * documentation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "stream.h"

/* For how long a slot may still be held by the walsender before. */
#define SLOT_TIMEOUT_MS		10000

/*
 * Asks the source who it is.
 */
void
bemi_stream_identify(BemiStream *stream, BemiSourceIdentity *identity)
{
	PGresult   *result = bemi_stream_run_command(stream, stream->replication,
									 "IDENTIFY_SYSTEM", PGRES_TUPLES_OK);

	identity->system_identifier = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
	identity->timeline = strtoul(PQgetvalue(result, 0, 1), NULL, 10);
	identity->database = pstrdup(PQgetvalue(result, 0, 3));
	PQclear(result);
}

/*
 * Whether the slot is there, and not only about to be made: then it has not
 * confirmed any position yet.
 */
bool
bemi_stream_slot_exists(BemiStream *stream, const char *slot)
{
	char	   *command = psprintf("SELECT FROM pg_catalog.pg_replication_slots"
								   " WHERE slot_name OPERATOR(pg_catalog.=) %s"
								   " AND confirmed_flush_lsn IS NOT NULL",
								   quote_literal_cstr(slot));
	PGresult   *result = bemi_stream_run_command(stream, stream->replication, command,
									 PGRES_TUPLES_OK);
	bool		exists = PQntuples(result) > 0;

	PQclear(result);
	return exists;
}

/*
 * Makes the slot and returns the position from which it sees every commit.
 * Waits for all transactions that are running at the source.
 */
XLogRecPtr
bemi_stream_create_slot(BemiStream *stream, const char *slot)
{
	char	   *command = psprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput NOEXPORT_SNAPSHOT",
								   quote_identifier(slot));
	PGresult   *result = bemi_stream_run_command(stream, stream->replication, command,
									 PGRES_TUPLES_OK);
	XLogRecPtr	position;

	position = DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
											   CStringGetDatum(PQgetvalue(result, 0, 1))));
	PQclear(result);
	return position;
}

/*
 * Drops the slot, after waiting for whoever still reads from it.
 */
void
bemi_stream_drop_slot(BemiStream *stream, const char *slot)
{
	char	   *command = psprintf("DROP_REPLICATION_SLOT %s WAIT",
								   quote_identifier(slot));

	PQclear(bemi_stream_run_command(stream, stream->replication, command, PGRES_COMMAND_OK));
}

/*
 * Names of a table's primary key columns in key order, palloc'd; empty without
 * a primary key.  The replication connection is busy streaming, so this goes
 * over a connection of its own.
 */
List *
bemi_stream_key_columns(BemiStream *stream, Oid relation)
{
	char	   *command = psprintf("SELECT a.attname"
								   " FROM pg_catalog.pg_index i,"
								   " pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k(attnum, place),"
								   " pg_catalog.pg_attribute a"
								   " WHERE i.indrelid = %u AND i.indisprimary"
								   " AND k.place <= i.indnkeyatts"
								   " AND a.attrelid = i.indrelid AND a.attnum = k.attnum"
								   " ORDER BY k.place", relation);
	List	   *names = NIL;
	PGresult   *result;

	if (stream->catalog == NULL)
		stream->catalog = bemi_stream_open_connection(stream, false);
	result = bemi_stream_run_command(stream, stream->catalog, command, PGRES_TUPLES_OK);
	for (int i = 0; i < PQntuples(result); i++)
		names = lappend(names, pstrdup(PQgetvalue(result, i, 0)));
	PQclear(result);
	pfree(command);
	return names;
}

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
 * Starts streaming.  The source begins at the later of this position and the
 * one that the slot has confirmed.
 */
void
bemi_stream_start(BemiStream *stream, const char *slot, XLogRecPtr position)
{
	char	   *command = psprintf("START_REPLICATION SLOT %s LOGICAL %X/%X"
								   " (proto_version '1', publication_names '%s', messages 'true')",
								   quote_identifier(slot), LSN_FORMAT_ARGS(position),
								   BEMI_PUBLICATION);
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  SLOT_TIMEOUT_MS);
	PGresult   *result = bemi_stream_run_any_command(stream, stream->replication, command);

	/* It lets go when it notices that its client has gone. */
	while (slot_is_in_use(result) && GetCurrentTimestamp() < give_up)
	{
		PQclear(result);
		(void) bemi_stream_wait_for_socket(stream->replication, WL_SOCKET_READABLE, 100);
		result = bemi_stream_run_any_command(stream, stream->replication, command);
	}
	if (PQresultStatus(result) != PGRES_COPY_BOTH)
		bemi_stream_report_refusal(stream, result);
	PQclear(result);
}

/*
 * The stream has ended, by the source's word or by its silence.
 */
static void
report_end(BemiStream *stream)
{
	PGresult   *result = PQgetResult(stream->replication);

	if (PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY) != NULL)
		bemi_stream_report_refusal(stream, result);
	bemi_stream_report_failure(stream, stream->replication, "source ended the stream");
}

/*
 * Takes the next frame from libpq's buffer, or from the socket if that needs
 * no waiting.  Returns its length, 0 if there is none yet.
 */
static int
next_frame(BemiStream *stream)
{
	int			len;

	if (stream->frame != NULL)
		PQfreemem(stream->frame);
	stream->frame = NULL;

	len = PQgetCopyData(stream->replication, &stream->frame, true);
	if (len == 0)
	{
		if (!PQconsumeInput(stream->replication))
			bemi_stream_report_failure(stream, stream->replication, "lost the connection to source");
		len = PQgetCopyData(stream->replication, &stream->frame, true);
	}
	if (len < 0)
		report_end(stream);
	return len;
}

/*
 * Gives the next message of the output plugin, if one is at hand; its bytes
 * live until the next call.  Keepalives are taken note of on the way.
 */
bool
bemi_stream_receive(BemiStream *stream, StringInfo message)
{
	int			len;

	while ((len = next_frame(stream)) > 0)
	{
		StringInfoData frame = {.data = stream->frame,.len = len,.maxlen = -1};
		char		kind = pq_getmsgbyte(&frame);
		XLogRecPtr	start;
		XLogRecPtr	end;

		if (kind == 'w')
		{
			start = pq_getmsgint64(&frame);
			end = pq_getmsgint64(&frame);
			(void) pq_getmsgint64(&frame);	/* when it was sent */
			stream->position = start;
			stream->received = Max(stream->received, Max(start, end));
			*message = frame;
			return true;
		}
		if (kind != 'k')
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("source sent a frame of unknown type \"%c\"", kind)));

		end = pq_getmsgint64(&frame);
		(void) pq_getmsgint64(&frame);
		stream->received = Max(stream->received, end);
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

/* The source has sent everything that was committed up to here. */
XLogRecPtr
bemi_stream_received(const BemiStream *stream)
{
	return stream->received;
}

bool
bemi_stream_reply_requested(const BemiStream *stream)
{
	return stream->reply_requested;
}

/*
 * Sleeps until something has arrived, the latch is set, or the time is over.
 */
void
bemi_stream_wait(BemiStream *stream, long timeout_ms)
{
	(void) bemi_stream_wait_for_socket(stream->replication, WL_SOCKET_READABLE, timeout_ms);
}

/*
 * Tells the source what was received, and what it may forget because it is
 * stored and flushed.
 */
void
bemi_stream_confirm(BemiStream *stream, XLogRecPtr flushed)
{
	StringInfoData reply;

	/* Never backwards: some servers would take that at its word. */
	stream->flushed = Max(stream->flushed, flushed);

	initStringInfo(&reply);
	pq_sendbyte(&reply, 'r');
	pq_sendint64(&reply, stream->received);
	pq_sendint64(&reply, stream->flushed);
	pq_sendint64(&reply, stream->flushed);	/* applied */
	pq_sendint64(&reply, GetCurrentTimestamp());
	pq_sendbyte(&reply, 0);		/* no answer wanted */

	if (PQputCopyData(stream->replication, reply.data, reply.len) <= 0 ||
		PQflush(stream->replication) != 0)
		bemi_stream_report_failure(stream, stream->replication, "could not answer source");
	stream->reply_requested = false;
	pfree(reply.data);
}
