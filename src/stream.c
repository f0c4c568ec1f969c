/*-------------------------------------------------------------------------
 *
 * stream.c
 *		The replication connection to a source.
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
 * Each wait is on the process latch and the socket together, and serves
 * interrupts; nothing here blocks in libpq.  A stream belongs to the worker's
 * process: an error ends the process, and with it the connections.  No lock
 * or snapshot of the destination should be held by callers who wait.
 *
 * The command texts follow "Streaming Replication Protocol" in PostgreSQL's
 * documentation.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "libpq-fe.h"
#include "libpq/pqformat.h"
#include "postmaster/postmaster.h"
#include "replication/slot.h"
#include "replication/walsender.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "bemi.h"

#define CONNECT_TIMEOUT_MS	30000

/* For how long a slot may still be held by the walsender before. */
#define SLOT_TIMEOUT_MS		10000

struct BemiStream
{
	char	   *conninfo;		/* NULL: this server, by the two below */
	char	   *database;
	char	   *user;
	char	   *name;			/* application_name, unless conninfo has one */
	void		(*on_wait) (BemiStream *);	/* called while a command runs */
	PGconn	   *replication;
	PGconn	   *catalog;		/* ordinary connection, made when needed */

	char	   *frame;			/* libpq's memory, until the next frame */
	XLogRecPtr	position;		/* of the frame that was handed out last */
	XLogRecPtr	received;		/* the source has sent all up to here */
	bool		reply_requested;
	XLogRecPtr	flushed;		/* the highest that was confirmed */
};

/*
 * What the values' texts depend on, in the session that prints them; the
 * conversions of row_json.c rely on it.
 */
static const char *const session_settings[][2] = {
	{"datestyle", "ISO"},
	{"intervalstyle", "postgres"},
	{"extra_float_digits", "3"},
	{"timezone", "UTC"},
	{"search_path", ""},
	{"bytea_output", "hex"},
	{"statement_timeout", "0"},
	{"lock_timeout", "0"},
	{"idle_session_timeout", "0"}
};

/* From this version on there is transaction_timeout, too. */
#define TRANSACTION_TIMEOUT_VERSION 170000

/*
 * Mistakes of the set-up, told by what the server's message says, and the line
 * that mends each.
 */
static const char *
setup_hint(const BemiStream *stream, const char *message)
{
	if (strstr(message, "pg_hba.conf") || strstr(message, "authentication failed"))
		return stream->conninfo == NULL ?
			psprintf("Put this line before the others in pg_hba.conf and reload: local \"%s\" \"%s\" peer",
					 stream->database, stream->user) :
			"Let pg_hba.conf of the source admit this connection, with a line such as: host DATABASE USER ADDRESS scram-sha-256";
	if (strstr(message, "max_wal_senders"))
		return psprintf("Put this line into postgresql.conf of the source and restart it: max_wal_senders = %d",
						max_wal_senders + 5);
	if (strstr(message, "replication slots are in use") ||
		strstr(message, "max_replication_slots"))
		return psprintf("Drop a slot that nobody needs, or put this line into postgresql.conf of the source and restart it: max_replication_slots = %d",
						max_replication_slots + 5);
	if (strstr(message, "wal_level"))
		return "Put this line into postgresql.conf of the source and restart it: wal_level = logical";
	return NULL;
}

/*
 * Reports what libpq says of a connection.
 */
static void
report_failure(BemiStream *stream, PGconn *conn, const char *what)
{
	char	   *message = pchomp(PQerrorMessage(conn));
	const char *hint = setup_hint(stream, message);

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("%s: %s", what, message),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * Reports what the source says of a command, and frees the result.
 */
static void
report_refusal(BemiStream *stream, PGresult *result)
{
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	char	   *message = pchomp(primary ? primary : PQresultErrorMessage(result));
	const char *hint = setup_hint(stream, message);

	PQclear(result);
	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 errmsg("source reports: %s", message),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * Sleeps until the connection's socket is ready, the latch is set or the time
 * is over.  Returns false in the last case.
 */
static bool
wait_for_socket(PGconn *conn, int socket_event, long timeout_ms)
{
	static uint32 wait_event = 0;
	int			events;

	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiStream");

	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT | socket_event,
							   PQsocket(conn), timeout_ms, wait_event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return (events & WL_TIMEOUT) == 0;
}

/*
 * The parameters of a connection.  For the own server: the socket that it
 * listens on, as its bootstrap superuser, whom peer authentication lets in
 * because the server runs under that very account.
 */
static PGconn *
begin_connection(BemiStream *stream, bool replication)
{
	const char *keys[9];
	const char *values[9];
	char		port[12];
	char	   *sockets = pstrdup(Unix_socket_directories);
	List	   *directories;
	int			n = 0;

	if (stream->conninfo != NULL)
		keys[n] = "dbname", values[n++] = stream->conninfo;
	else
	{
		if (!SplitDirectoriesString(sockets, ',', &directories) || directories == NIL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("this server has no Unix socket for the worker to connect to"),
					 errhint("Give a connection string: CALL bemi.start(conninfo => 'host=localhost dbname=%s');",
							 stream->database)));
		snprintf(port, sizeof(port), "%d", PostPortNumber);
		keys[n] = "dbname", values[n++] = stream->database;
		keys[n] = "host", values[n++] = linitial(directories);
		keys[n] = "port", values[n++] = port;
		keys[n] = "user", values[n++] = stream->user;
	}
	if (replication)
		keys[n] = "replication", values[n++] = "database";
	keys[n] = "fallback_application_name", values[n++] = stream->name;
	keys[n] = "client_encoding", values[n++] = GetDatabaseEncodingName();
	keys[n] = values[n] = NULL;
	Assert(n < lengthof(keys));

	return PQconnectStartParams(keys, values, stream->conninfo != NULL);
}

/*
 * Waits for a connection that has been begun, as PQconnectPoll's documentation
 * says.
 */
static void
complete_connection(BemiStream *stream, PGconn *conn)
{
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
													  CONNECT_TIMEOUT_MS);
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));

	while (PQstatus(conn) != CONNECTION_BAD &&
		   status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		int			event = status == PGRES_POLLING_READING ?
			WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;

		if (!wait_for_socket(conn, event, 1000) &&
			GetCurrentTimestamp() > give_up)
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not connect to source: no answer within %d seconds",
							CONNECT_TIMEOUT_MS / 1000)));
		status = PQconnectPoll(conn);
	}
	if (PQstatus(conn) != CONNECTION_OK)
		report_failure(stream, conn, "could not connect to source");
}

/*
 * Runs a command and waits for its result, good or bad, which the caller
 * clears.
 */
static PGresult *
run_any_command(BemiStream *stream, PGconn *conn, const char *command)
{
	PGresult   *result = NULL;

	if (!PQsendQuery(conn, command))
		report_failure(stream, conn, "could not send a command to source");

	for (;;)
	{
		PGresult   *next;

		while (PQisBusy(conn))
		{
			(void) wait_for_socket(conn, WL_SOCKET_READABLE, 1000);
			if (stream->on_wait)
				stream->on_wait(stream);
			if (!PQconsumeInput(conn))
				report_failure(stream, conn, "lost the connection to source");
		}
		next = PQgetResult(conn);
		if (next == NULL)
			break;
		PQclear(result);
		result = next;
		if (PQresultStatus(result) == PGRES_COPY_BOTH)
			break;
	}
	return result;
}

/*
 * Runs a command that must have this kind of result, which the caller clears.
 */
static PGresult *
run_command(BemiStream *stream, PGconn *conn, const char *command,
			ExecStatusType expected)
{
	PGresult   *result = run_any_command(stream, conn, command);

	if (PQresultStatus(result) != expected)
		report_refusal(stream, result);
	return result;
}

/*
 * A notice of the source would go to the server's standard error as it is.
 */
static void
ignore_notice(void *arg, const PGresult *result)
{
}

static void
set_remotely(BemiStream *stream, PGconn *conn, const char *name, const char *value)
{
	char	   *command = psprintf("SET %s = '%s'", name, value);

	PQclear(run_command(stream, conn, command, PGRES_COMMAND_OK));
	pfree(command);
}

/*
 * Opens one connection with the settings that all of them share.
 */
static PGconn *
open_connection(BemiStream *stream, bool replication)
{
	PGconn	   *conn = begin_connection(stream, replication);

	complete_connection(stream, conn);
	(void) PQsetNoticeReceiver(conn, ignore_notice, NULL);
	for (int i = 0; i < lengthof(session_settings); i++)
		set_remotely(stream, conn, session_settings[i][0], session_settings[i][1]);
	if (PQserverVersion(conn) >= TRANSACTION_TIMEOUT_VERSION)
		set_remotely(stream, conn, "transaction_timeout", "0");
	return conn;
}

/*
 * Connects to a source; conninfo NULL means this server and this database.
 * The result lives in the current memory context, its connections until
 * bemi_stream_close() or the end of the process.  Not to be called within a
 * transaction, since it may take long.
 */
BemiStream *
bemi_stream_connect(const char *conninfo, const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	BemiStream *stream = palloc0(sizeof(BemiStream));

	stream->conninfo = conninfo ? pstrdup(conninfo) : NULL;
	stream->name = pstrdup(name);

	StartTransactionCommand();
	stream->database = MemoryContextStrdup(caller, get_database_name(MyDatabaseId));
	stream->user = MemoryContextStrdup(caller, GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false));
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);

	stream->replication = open_connection(stream, true);
	return stream;
}

/*
 * Has a function called whenever a command keeps us waiting, which some do for
 * as long as others' transactions last.
 */
void
bemi_stream_on_wait(BemiStream *stream, void (*on_wait) (BemiStream *))
{
	stream->on_wait = on_wait;
}

/*
 * Asks the source to cancel the command that is running.
 */
void
bemi_stream_cancel(BemiStream *stream)
{
	PGcancel   *cancel = PQgetCancel(stream->replication);
	char		error[256];

	if (cancel != NULL && !PQcancel(cancel, error, sizeof(error)))
		ereport(LOG,
				(errmsg("bemi: could not cancel a command at the source: %s", error)));
	PQfreeCancel(cancel);
}

void
bemi_stream_close(BemiStream *stream)
{
	PQfreemem(stream->frame);
	PQfinish(stream->replication);
	PQfinish(stream->catalog);
	pfree(stream);
}

/*
 * Asks the source who it is.
 */
void
bemi_stream_identify(BemiStream *stream, BemiSourceIdentity *identity)
{
	PGresult   *result = run_command(stream, stream->replication,
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
	PGresult   *result = run_command(stream, stream->replication, command,
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
	PGresult   *result = run_command(stream, stream->replication, command,
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

	PQclear(run_command(stream, stream->replication, command, PGRES_COMMAND_OK));
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
		stream->catalog = open_connection(stream, false);
	result = run_command(stream, stream->catalog, command, PGRES_TUPLES_OK);
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
	PGresult   *result = run_any_command(stream, stream->replication, command);

	/* It lets go when it notices that its client has gone. */
	while (slot_is_in_use(result) && GetCurrentTimestamp() < give_up)
	{
		PQclear(result);
		(void) wait_for_socket(stream->replication, WL_SOCKET_READABLE, 100);
		result = run_any_command(stream, stream->replication, command);
	}
	if (PQresultStatus(result) != PGRES_COPY_BOTH)
		report_refusal(stream, result);
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
		report_refusal(stream, result);
	report_failure(stream, stream->replication, "source ended the stream");
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
			report_failure(stream, stream->replication, "lost the connection to source");
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
	(void) wait_for_socket(stream->replication, WL_SOCKET_READABLE, timeout_ms);
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
		report_failure(stream, stream->replication, "could not answer source");
	stream->reply_requested = false;
	pfree(reply.data);
}
