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
#include "replication/walreceiver.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "stream.h"

/* For how long a slot may still be held by the walsender before. */
#define SLOT_TIMEOUT_MS		10000

/* From this version on, slots can be carried over to standbys. */
#define FAILOVER_VERSION	170000

/*
 * A keepalive tells that all WAL up to a position was sent at a time.  A
 * transaction takes its commit time a moment before its record is flushed and
 * can be sent; for that moment this is ample.
 */
#define COMMIT_TAKES_MS		1000

/*
 * Runs a query over the replication connection; the caller clears the result.
 */
static PGresult *
query(BemiStream *stream, const char *command)
{
	return bemi_stream_run_command(stream, stream->replication, command,
								   PGRES_TUPLES_OK);
}

static XLogRecPtr
lsn_value(const PGresult *result, int column)
{
	if (PQgetisnull(result, 0, column))
		return InvalidXLogRecPtr;
	return DatumGetLSN(DirectFunctionCall1(pg_lsn_in,
										   CStringGetDatum(PQgetvalue(result, 0, column))));
}

static bool
bool_value(const PGresult *result, int column)
{
	return strcmp(PQgetvalue(result, 0, column), "t") == 0;
}

/*
 * Asks the source who it is.
 */
void
bemi_stream_identify(BemiStream *stream, BemiSourceIdentity *identity)
{
	PGresult   *result = query(stream, "IDENTIFY_SYSTEM");

	identity->system_identifier = strtoull(PQgetvalue(result, 0, 0), NULL, 10);
	identity->timeline = strtoul(PQgetvalue(result, 0, 1), NULL, 10);
	identity->position = lsn_value(result, 2);
	identity->database = pstrdup(PQgetvalue(result, 0, 3));
	PQclear(result);

	result = query(stream, "SELECT EXISTS (SELECT FROM pg_catalog.pg_extension"
				   " WHERE extname = 'bemi')");
	identity->has_extension = bool_value(result, 0);
	PQclear(result);
}

/*
 * Looks at a slot.  One that is only about to be made, by a process that may
 * have died since, has not confirmed any position yet.
 */
void
bemi_stream_find_slot(BemiStream *stream, const char *name, BemiSlot *slot)
{
	char	   *command = psprintf("SELECT confirmed_flush_lsn,"
								   " coalesce(wal_status = 'lost', false),"
								   " coalesce(database = current_database(), false)"
								   " FROM pg_catalog.pg_replication_slots"
								   " WHERE slot_name = %s",
								   quote_literal_cstr(name));
	PGresult   *result = query(stream, command);

	memset(slot, 0, sizeof(BemiSlot));
	if (PQntuples(result) > 0)
	{
		slot->exists = true;
		slot->confirmed = lsn_value(result, 0);
		slot->made = !XLogRecPtrIsInvalid(slot->confirmed);
		slot->lost = bool_value(result, 1);
		slot->here = bool_value(result, 2);
	}
	PQclear(result);
}

/*
 * Where the source's timeline left a former one, InvalidXLogRecPtr if it does
 * not stem from that.
 */
XLogRecPtr
bemi_stream_switch_point(BemiStream *stream, uint32 timeline, uint32 former)
{
	char	   *command = psprintf("TIMELINE_HISTORY %u", timeline);
	PGresult   *result;
	char	   *line;
	char	   *rest;
	XLogRecPtr	position = InvalidXLogRecPtr;

	if (timeline <= former)
		return InvalidXLogRecPtr;

	/* Lines of: timeline, position at which it was left, reason. */
	result = query(stream, command);
	line = strtok_r(pstrdup(PQgetvalue(result, 0, 1)), "\n", &rest);
	for (; line != NULL; line = strtok_r(NULL, "\n", &rest))
	{
		uint32		parent;
		uint32		high;
		uint32		low;

		if (sscanf(line, "%u %X/%X", &parent, &high, &low) == 3 && parent == former)
			position = ((XLogRecPtr) high) << 32 | low;
	}
	PQclear(result);
	return position;
}

/*
 * What the source's clock says.
 */
TimestampTz
bemi_stream_now(BemiStream *stream)
{
	PGresult   *result = query(stream, "SELECT (extract(epoch FROM clock_timestamp())"
							   " * 1000000)::bigint");
	int64		unix_us = strtoll(PQgetvalue(result, 0, 0), NULL, 10);

	PQclear(result);
	return unix_us -
		(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/*
 * What the publication lists, as a JSON array of objects with OID, schema and
 * table.
 */
char *
bemi_stream_published(BemiStream *stream)
{
	PGresult   *result;
	char	   *tables;

	result = query(stream, "SELECT (SELECT coalesce(json_agg(json_build_object("
				   "'relation', c.oid, 'schema', n.nspname, 'table', c.relname)), '[]')"
				   " FROM pg_get_publication_tables(p.pubname::text) t"
				   " JOIN pg_class c ON c.oid = t.relid"
				   " JOIN pg_namespace n ON n.oid = c.relnamespace)"
				   " FROM pg_publication p WHERE p.pubname = '" BEMI_PUBLICATION "'");
	if (PQntuples(result) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist at the source", BEMI_PUBLICATION),
				 errhint("In the database that is read: CREATE PUBLICATION %s WITH (publish_via_partition_root = true); then track its tables, or add them to it.",
						 BEMI_PUBLICATION)));
	tables = pstrdup(PQgetvalue(result, 0, 0));
	PQclear(result);
	return tables;
}

/*
 * The connection beside the stream, which is busy.
 */
static PGconn *
catalog_connection(BemiStream *stream)
{
	if (stream->catalog == NULL)
		stream->catalog = bemi_stream_open_connection(stream, false);
	return stream->catalog;
}

/*
 * What a slot costs the source; false if the slot is gone.
 */
bool
bemi_stream_slot_cost(BemiStream *stream, const char *slot, BemiSlotCost *cost)
{
	char	   *command = psprintf("SELECT l.lsn,"
								   " coalesce(pg_wal_lsn_diff(l.lsn, s.restart_lsn), -1),"
								   " s.wal_status, coalesce(age(s.catalog_xmin), -1)"
								   " FROM pg_replication_slots s, (SELECT CASE WHEN"
								   " pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
								   " ELSE pg_current_wal_lsn() END AS lsn) l"
								   " WHERE s.slot_name = %s", quote_literal_cstr(slot));
	PGresult   *result = bemi_stream_run_command(stream, catalog_connection(stream),
												 command, PGRES_TUPLES_OK);
	bool		found = PQntuples(result) > 0;

	if (found)
	{
		cost->source_lsn = lsn_value(result, 0);
		cost->wal_kept = strtoll(PQgetvalue(result, 0, 1), NULL, 10);
		strlcpy(cost->wal_status, PQgetvalue(result, 0, 2), sizeof(cost->wal_status));
		cost->catalog_xmin_age = atoi(PQgetvalue(result, 0, 3));
	}
	PQclear(result);
	pfree(command);
	return found;
}

/*
 * Makes the slot and returns the position from which it sees every commit.
 * Waits for all transactions that are running at the source.  From 17 on, the
 * source's standbys are to carry it, too.
 */
XLogRecPtr
bemi_stream_create_slot(BemiStream *stream, const char *slot)
{
	bool		failover = PQserverVersion(stream->replication) >= FAILOVER_VERSION;
	char	   *command = psprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s",
								   quote_identifier(slot),
								   failover ? "(SNAPSHOT 'nothing', FAILOVER true)" : "NOEXPORT_SNAPSHOT");
	PGresult   *result;
	XLogRecPtr	position;

	stream->patient = true;
	result = query(stream, command);
	stream->patient = false;
	position = lsn_value(result, 1);
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

	stream->patient = true;
	PQclear(bemi_stream_run_command(stream, stream->replication, command, PGRES_COMMAND_OK));
	stream->patient = false;
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

	result = bemi_stream_run_command(stream, catalog_connection(stream), command,
									 PGRES_TUPLES_OK);
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
	stream->heard_at = GetCurrentTimestamp();
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

		stream->heard_at = GetCurrentTimestamp();
		stream->asked_at = 0;
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
		stream->complete_until = pq_getmsgint64(&frame) - COMMIT_TAKES_MS * 1000;
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

/*
 * Everything that was committed before this time has been sent; 0 as long as
 * the source has not said so.
 */
TimestampTz
bemi_stream_complete_until(const BemiStream *stream)
{
	return stream->complete_until;
}

bool
bemi_stream_reply_requested(const BemiStream *stream)
{
	return stream->reply_requested;
}

/*
 * Sends the source what was received, and what it may forget.
 */
static void
reply(BemiStream *stream, bool answer_wanted)
{
	StringInfoData reply;

	initStringInfo(&reply);
	pq_sendbyte(&reply, 'r');
	pq_sendint64(&reply, stream->received);
	pq_sendint64(&reply, stream->flushed);
	pq_sendint64(&reply, stream->flushed);	/* applied */
	pq_sendint64(&reply, GetCurrentTimestamp());
	pq_sendbyte(&reply, answer_wanted);

	if (PQputCopyData(stream->replication, reply.data, reply.len) <= 0 ||
		PQflush(stream->replication) != 0)
		bemi_stream_report_failure(stream, stream->replication, "could not answer source");
	pfree(reply.data);
}

/*
 * Tells the source what was received, and what it may forget because it is
 * stored and flushed.
 */
void
bemi_stream_confirm(BemiStream *stream, XLogRecPtr flushed)
{
	/* Never backwards: some servers would take that at its word. */
	stream->flushed = Max(stream->flushed, flushed);
	reply(stream, false);
	stream->reply_requested = false;
}

/*
 * A source that has been silent for half of wal_receiver_timeout is asked for a
 * word, and given up if none comes in the other half; as native logical
 * replication does.
 */
static void
check_silence(BemiStream *stream)
{
	TimestampTz now = GetCurrentTimestamp();

	if (stream->asked_at != 0)
	{
		if (TimestampDifferenceExceeds(stream->asked_at, now, wal_receiver_timeout / 2))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("source has not answered for %d ms", wal_receiver_timeout),
					 errhint("If the network is that slow, raise \"wal_receiver_timeout\".")));
	}
	else if (TimestampDifferenceExceeds(stream->heard_at, now, wal_receiver_timeout / 2))
	{
		reply(stream, true);
		stream->asked_at = now;
	}
}

/*
 * Sleeps until something has arrived, the latch is set, or the time is over.
 */
void
bemi_stream_wait(BemiStream *stream, long timeout_ms)
{
	if (wal_receiver_timeout > 0)
	{
		check_silence(stream);
		timeout_ms = Min(timeout_ms, Max(wal_receiver_timeout / 4, 1));
	}
	(void) bemi_stream_wait_for_socket(stream->replication, WL_SOCKET_READABLE, timeout_ms);
}
