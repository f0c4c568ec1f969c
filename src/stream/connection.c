/*-------------------------------------------------------------------------
 *
 * connection.c
 *		The connections to a source, and the commands that run over them.
 *
 * Input: a connection string, or none for the worker's own server and
 * database.  Output: libpq connections whose sessions print values in the form
 * that decode/row_json.c expects (extension/settings.c), and the results of
 * commands.
 *
 * Each wait is on the process latch and the socket together, and processes
 * interrupts.  Only libpq itself may block, while it looks up a host's name or
 * sends to a full socket.  A stream belongs to the worker's process: an error
 * ends the process, and with it the connections.
 *
 * What must never happen: a command waits for the source without a time limit,
 * except where it must wait for other transactions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "commands/dbcommands.h"
#include "postmaster/postmaster.h"
#include "replication/walreceiver.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "extension/extension.h"
#include "stream/stream_internal.h"

#define CONNECT_TIMEOUT_MS	30000

/* An absence of the worker is mentioned in errors for this long. */
#define RECENTLY_MS			60000

/*
 * Timeouts of the catalog connection.  Its queries are short and need no lock
 * that is usually held for long.  If one takes longer, changes must not wait
 * for it, so the worker fails and tries again.
 */
#define CATALOG_LOCK_TIMEOUT		"5s"
#define CATALOG_STATEMENT_TIMEOUT	"30s"

/*
 * The source closes this connection if the worker cannot do it because it
 * waits for a lock.  Well above CATALOG_UNUSED_MS of source_queries.c.
 */
#define CATALOG_IDLE_TIMEOUT		"5s"

/*
 * Called whenever the worker reads from the stream or writes to it.  Records
 * an absence that was so long that the source may have closed the connection.
 */
void
bemi_stream_record_activity(BemiStream *stream)
{
	int64		now = bemi_monotonic_ms();

	if (stream->source_timeout_ms > 0 && stream->active_at != 0 &&
		now - stream->active_at >= stream->source_timeout_ms / 2)
	{
		stream->absent_until = now;
		stream->absent_ms = (int) Min(now - stream->active_at, PG_INT32_MAX);
	}
	stream->active_at = now;
}

/*
 * The errdetail and errhint of an error that an absence may have caused.
 */
static int
absence_detail(const BemiStream *stream)
{
	if (bemi_has_passed(stream->absent_until, RECENTLY_MS))
		return 0;
	errdetail("The worker had not answered for %d ms before, because it was busy or waited for a lock.",
			  stream->absent_ms);
	return errhint("Raise \"wal_sender_timeout\" at the source, or see why the worker waits: SELECT warning FROM bemi.status;");
}

/*
 * Throws libpq's error message for a connection.
 */
void
bemi_stream_report_failure(BemiStream *stream, PGconn *conn, const char *what)
{
	char	   *text = pchomp(PQerrorMessage(conn));
	const char *sqlstate = bemi_cut_sqlstate(text);
	char	   *message = bemi_stream_string(stream, text);
	const char *hint;

	/* Without a password, libpq gives up before the server refuses. */
	if (sqlstate == NULL && PQconnectionNeedsPassword(conn))
		sqlstate = "28P01";		/* invalid_password */
	hint = bemi_connection_hint(stream, message, sqlstate);

	ereport(ERROR,
			(errcode(ERRCODE_CONNECTION_FAILURE),
			 message[0] ? errmsg("%s: %s", what, message) : errmsg("%s", what),
			 hint ? errhint("%s", hint) : absence_detail(stream)));
}

/*
 * Classes of SQLSTATE (their first two characters) of errors that repeat
 * whenever the same row is decoded: data exception, external routine
 * exception, syntax error or access rule violation, program limit exceeded,
 * PL/pgSQL error and internal error.  Lack of memory, disk, locks or
 * connections, actions of an administrator, and I/O errors are not among them.
 */
static const char *const repeatable_classes[] = {"22", "38", "39", "42",
"54", "P0", "XX"};

/* Those that only the values of a row cause. */
static const char *const row_classes[] = {"22", "54"};

static bool
sqlstate_is_in_class(const char *sqlstate, const char *const *classes,
					 int count)
{
	for (int i = 0; i < count; i++)
		if (strncmp(sqlstate, classes[i], 2) == 0)
			return true;
	return false;
}

/*
 * Whether the source can never decode this position: the publication did not
 * exist there, or the rows' files were moved to another tablespace later (that
 * message is not translated).  The text must name the publication, because
 * other missing objects have the same SQLSTATE.
 */
static bool
error_is_unreadable(const char *sqlstate, const char *message)
{
	if (strcmp(sqlstate, "42704") == 0) /* undefined_object */
		return strstr(message, BEMI_PUBLICATION) != NULL;
	return strstr(message, "could not map filenode") != NULL;
}

/*
 * SQLSTATE for an error of the source in the middle of the stream.  The
 * source's own SQLSTATE decides whether trying again is of use.  Missing
 * rights can be granted, so they do not count as repeatable.
 */
static int
errcode_of_stream(const PGresult *result, const char *message)
{
	const char *sqlstate = PQresultErrorField(result, PG_DIAG_SQLSTATE);

	if (sqlstate == NULL || strcmp(sqlstate, "42501") == 0) /* insufficient_privilege */
		return ERRCODE_CONNECTION_FAILURE;
	if (error_is_unreadable(sqlstate, message))
		return BEMI_ERRCODE_UNREADABLE;
	if (sqlstate_is_in_class(sqlstate, row_classes, lengthof(row_classes)))
		return BEMI_ERRCODE_ROW_AT_FAULT;
	if (sqlstate_is_in_class(sqlstate, repeatable_classes,
							 lengthof(repeatable_classes)))
		return BEMI_ERRCODE_REPEATABLE;
	return ERRCODE_CONNECTION_FAILURE;
}

/*
 * Position of the row that the walsender was decoding.  It is the last word of
 * the error's context in every language; InvalidXLogRecPtr if there is none.
 */
static XLogRecPtr
failed_row_position(const PGresult *result)
{
	const char *context = PQresultErrorField(result, PG_DIAG_CONTEXT);
	const char *slash = context ? strrchr(context, '/') : NULL;
	uint32		high;
	uint32		low;

	while (slash != NULL && slash > context &&
		   isxdigit((unsigned char) slash[-1]))
		slash--;
	if (slash == NULL || sscanf(slash, "%X/%X", &high, &low) != 2)
		return InvalidXLogRecPtr;
	return ((XLogRecPtr) high) << 32 | low;
}

/*
 * Position of the row that the source was decoding when it reported its last
 * error; InvalidXLogRecPtr if it named none.
 */
XLogRecPtr
bemi_stream_failed_at(const BemiStream *stream)
{
	return stream->failed_at;
}

/*
 * Hint for an error that repeats.
 */
static const char *
stream_hint(int code)
{
	if (code != BEMI_ERRCODE_REPEATABLE && code != BEMI_ERRCODE_ROW_AT_FAULT)
		return NULL;
	return "After a few more failures, the worker skips this transaction and records a gap in bemi.gaps.";
}

/*
 * Throws the source's error message for a command, and frees the result.  The
 * SQLSTATE shows whether trying again is of use.
 */
void
bemi_stream_report_refusal(BemiStream *stream, PGresult *result)
{
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	char	   *message =
		bemi_stream_string(stream,
						   pchomp(primary ? primary :
								  PQresultErrorMessage(result)));
	char	   *detail =
		bemi_stream_string(stream,
						   PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL));
	int			code = stream->ended ? errcode_of_stream(result, message) :
		ERRCODE_CONNECTION_FAILURE;
	const char *hint =
		bemi_stream_hint(stream, message,
						 PQresultErrorField(result, PG_DIAG_SQLSTATE));

	if (hint == NULL)
		hint = stream_hint(code);
	stream->failed_at = failed_row_position(result);
	PQclear(result);
	ereport(ERROR, (errcode(code), errmsg("source reports: %s", message),
					detail ? errdetail("%s", detail) : 0,
					hint ? errhint("%s", hint) :
					detail ? 0 :
					absence_detail(stream)));
}

/*
 * Sleeps until the connection's socket is ready, the latch is set or the time
 * is over.  Returns true if the socket is ready.
 */
bool
bemi_stream_wait_for_socket(PGconn *conn, int socket_event, long timeout_ms)
{
	static uint32 wait_event = 0;
	int			events;

	if (wait_event == 0)
		wait_event = bemi_wait_event("BemiStream");

	events = WaitLatchOrSocket(MyLatch,
							   WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
							   WL_TIMEOUT | socket_event,
							   PQsocket(conn), timeout_ms, wait_event);
	if (events & WL_LATCH_SET)
		ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return (events & socket_event) != 0;
}

/*
 * Joins directories for libpq, which tries one after the other.  The server
 * may have a socket in only some of them.
 */
static char *
join_directories(List *directories)
{
	StringInfoData list;
	ListCell   *cell;

	initStringInfo(&list);
	foreach(cell, directories)
	{
		appendStringInfo(&list, "%s%s", list.len > 0 ? "," : "",
						 (char *) lfirst(cell));
	}
	return list.data;
}

/*
 * The options in a connection string, or NULL.
 */
static char *
connection_options(const char *conninfo)
{
	PQconninfoOption *all = PQconninfoParse(conninfo, NULL);
	char	   *options = NULL;

	for (PQconninfoOption *option = all; option && option->keyword; option++)
		if (strcmp(option->keyword, "options") == 0 && option->val != NULL)
			options = pstrdup(option->val);
	PQconninfoFree(all);
	return options;
}

/*
 * The directories of this server's Unix sockets, for libpq.
 */
static char *
own_socket_directories(const char *database)
{
	char	   *sockets = pstrdup(Unix_socket_directories);
	List	   *directories;

	if (!SplitDirectoriesString(sockets, ',', &directories) ||
		directories == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("this server has no Unix socket that the worker can connect to"),
				 errhint("Put this line into postgresql.conf and restart the server: unix_socket_directories = '%s'. Or give a connection string: CALL bemi.stop('...'); CALL bemi.start('...', conninfo => 'host=localhost port=%d dbname=%s');",
						 DEFAULT_PGSOCKET_DIR, PostPortNumber, database)));
	return join_directories(directories);
}

/*
 * The startup options of a session: the pinned settings, and two more for a
 * walsender of this server.  It needs no wal_sender_timeout, because the
 * socket is closed when the worker dies, and a worker that waits for a lock
 * does not answer.  And its command need not be logged with each message.
 */
static char *
session_options(const BemiStream *stream, bool replication)
{
	char	   *options =
		stream->conninfo ? connection_options(stream->conninfo) : NULL;

	if (!stream->refuses_options)
		options = bemi_settings_as_options(options);
	if (replication && stream->conninfo == NULL)
		options =
			psprintf("%s -c wal_sender_timeout=0 -c log_min_error_statement=fatal",
					 options);
	return options;
}

/*
 * Begins a connection.  To its own server the worker connects by Unix socket
 * as the bootstrap superuser.  Peer authentication usually lets it in, because
 * the server runs under the account of that name.
 */
static PGconn *
begin_connection(BemiStream *stream, bool replication)
{
	const char *keys[14];
	const char *values[14];
	int			n = 0;
	PGconn	   *conn;

	if (stream->conninfo != NULL)
	{
		/* Before the connection string, which may override them. */
		keys[n] = "keepalives_idle", values[n++] = "30";
		keys[n] = "keepalives_interval", values[n++] = "10";
		keys[n] = "keepalives_count", values[n++] = "3";
		/* Otherwise libpq would not try the next of several hosts. */
		keys[n] = "tcp_user_timeout", values[n++] = "10000";
		keys[n] = "dbname", values[n++] = stream->conninfo;
	}
	else
	{
		keys[n] = "dbname", values[n++] = stream->database;
		keys[n] = "host",
			values[n++] = own_socket_directories(stream->database);
		keys[n] = "port", values[n++] = psprintf("%d", PostPortNumber);
		keys[n] = "user", values[n++] = stream->user;
	}
	if (replication)
		keys[n] = "replication", values[n++] = "database";
	keys[n] =
		stream->conninfo ? "fallback_application_name" : "application_name";
	values[n++] = stream->name;
	/* A remote source sends its texts unconverted, see encoding.c. */
	keys[n] = "client_encoding";
	values[n++] = stream->conninfo ? "SQL_ASCII" : GetDatabaseEncodingName();
	keys[n] = "options", values[n++] = session_options(stream, replication);
	keys[n] = values[n] = NULL;
	Assert(n < lengthof(keys));

	conn = PQconnectStartParams(keys, values, stream->conninfo != NULL);
	/* For bemi_cut_sqlstate(), until the connection is established. */
	(void) PQsetErrorVerbosity(conn, PQERRORS_VERBOSE);
	return conn;
}

/*
 * Waits until a connection is established or has failed, as the documentation
 * of PQconnectPoll describes.
 */
static void
complete_connection(BemiStream *stream, PGconn *conn)
{
	int			timeout_ms = wal_receiver_timeout > 0 ?
		Min(wal_receiver_timeout, CONNECT_TIMEOUT_MS) : CONNECT_TIMEOUT_MS;
	int64		begun_at = bemi_monotonic_ms();
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (conn == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY), errmsg("out of memory")));

	while (PQstatus(conn) != CONNECTION_BAD &&
		   status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED)
	{
		int			event = status == PGRES_POLLING_READING ?
			WL_SOCKET_READABLE : WL_SOCKET_WRITEABLE;

		/* libpq would block if it were called before the socket is ready. */
		if (bemi_stream_wait_for_socket(conn, event, Min(timeout_ms, 1000)))
			status = PQconnectPoll(conn);
		else if (bemi_has_passed(begun_at, timeout_ms))
			ereport(ERROR,
					(errcode(ERRCODE_CONNECTION_FAILURE),
					 errmsg("could not connect to source: no answer within %d ms",
							timeout_ms)));
		if (stream->on_wait)
			stream->on_wait(stream);
	}
}

/*
 * Throws an error if the source does not answer.  Only commands that create or
 * drop slots may take long; for those this is not called.
 */
static void
check_query_timeout(int64 begun_at)
{
	if (wal_receiver_timeout > 0 &&
		bemi_has_passed(begun_at, wal_receiver_timeout))
		ereport(ERROR, (errcode(ERRCODE_CONNECTION_FAILURE),
						errmsg("source has not answered for %d ms",
							   wal_receiver_timeout)));
}

/*
 * Waits for the next result of a command: all of it, or a row in libpq's
 * single-row mode.  NULL: there are no more.  The caller clears it.
 */
PGresult *
bemi_stream_next_result(BemiStream *stream, PGconn *conn)
{
	int64		begun_at = bemi_monotonic_ms();

	while (PQisBusy(conn))
	{
		(void) bemi_stream_wait_for_socket(conn, WL_SOCKET_READABLE, 1000);
		if (stream->on_wait)
			stream->on_wait(stream);
		if (!stream->has_no_timeout)
			check_query_timeout(begun_at);
		if (!PQconsumeInput(conn))
			bemi_stream_report_failure(stream, conn,
									   "lost the connection to source");
	}
	return PQgetResult(conn);
}

/*
 * Waits for the result of a command, success or error.  The caller clears it.
 */
PGresult *
bemi_stream_await_result(BemiStream *stream, PGconn *conn)
{
	PGresult   *result = NULL;
	PGresult   *next;

	while ((next = bemi_stream_next_result(stream, conn)) != NULL)
	{
		PQclear(result);
		result = next;
		if (PQresultStatus(result) == PGRES_COPY_BOTH)
			break;
	}
	return result;
}

/*
 * Runs a command and returns its result, success or error.  The caller clears
 * it.
 */
PGresult *
bemi_stream_run_any_command(BemiStream *stream, PGconn *conn,
							const char *command)
{
	if (!PQsendQuery(conn, command))
		bemi_stream_report_failure(stream, conn,
								   "could not send a command to source");
	return bemi_stream_await_result(stream, conn);
}

/*
 * Runs a command.  Throws an error unless the result is of this kind.  The
 * caller clears it.
 */
PGresult *
bemi_stream_run_command(BemiStream *stream, PGconn *conn, const char *command,
						ExecStatusType expected)
{
	PGresult   *result = bemi_stream_run_any_command(stream, conn, command);

	if (PQresultStatus(result) != expected)
		bemi_stream_report_refusal(stream, result);
	return result;
}

/*
 * Ignores a notice of the source, which libpq would write to stderr.
 */
static void
ignore_notice(void *arg, const PGresult *result)
{
}

/*
 * Sets by commands the settings that the options could not set.
 */
static void
complete_settings(BemiStream *stream, PGconn *conn)
{
	char	   *commands =
		bemi_settings_as_commands(PQserverVersion(conn),
								  PQparameterStatus(conn, "DateStyle"),
								  PQparameterStatus(conn, "TimeZone"));

	if (commands != NULL)
		PQclear(bemi_stream_run_command(stream, conn, commands,
										PGRES_COMMAND_OK));
}

/*
 * Opens one of the stream's two connections, with the settings that they
 * share.  The stream owns the connection even if that fails, and closes it.
 */
void
bemi_stream_open_connection(BemiStream *stream, bool replication)
{
	PGconn	  **conn = replication ? &stream->replication : &stream->catalog;

	*conn = begin_connection(stream, replication);
	complete_connection(stream, *conn);
	if (PQstatus(*conn) != CONNECTION_OK &&
		stream->conninfo != NULL && !stream->refuses_options &&
		bemi_settings_are_refused(PQerrorMessage(*conn)))
	{
		stream->refuses_options = true;
		PQfinish(*conn);
		*conn = NULL;
		*conn = begin_connection(stream, replication);
		complete_connection(stream, *conn);
	}
	if (PQstatus(*conn) != CONNECTION_OK)
		bemi_stream_report_failure(stream, *conn,
								   "could not connect to source");
	(void) PQsetErrorVerbosity(*conn, PQERRORS_DEFAULT);
	(void) PQsetNoticeReceiver(*conn, ignore_notice, NULL);
	complete_settings(stream, *conn);
	if (!replication)
		PQclear(
				bemi_stream_run_command(stream, *conn,
										"SET lock_timeout = '" CATALOG_LOCK_TIMEOUT
										"';"
										" SET statement_timeout = '" CATALOG_STATEMENT_TIMEOUT
										"';"
										" SET idle_session_timeout = '" CATALOG_IDLE_TIMEOUT
										"'",
										PGRES_COMMAND_OK));
}

/*
 * Lets the walsender decline to be a synchronous standby, see
 * worker/standby.c.  If the connection string has an application_name, the
 * user may want it to be one.  A source without the library accepts the
 * setting as an unknown one, or refuses it.
 */
static void
decline_election(BemiStream *stream)
{
	const char *name =
		PQparameterStatus(stream->replication, "application_name");
	PGresult   *result;

	if (name == NULL || strcmp(name, stream->name) != 0)
		return;
	result = bemi_stream_run_any_command(stream, stream->replication,
										 "SET bemi.asynchronous = on");
	stream->declines = PQresultStatus(result) == PGRES_COMMAND_OK;
	PQclear(result);
}

/*
 * Begins a transaction for a look-up, unless there is one, as in a session.
 */
static bool
begin_short_transaction(void)
{
	if (IsTransactionState())
		return false;
	StartTransactionCommand();
	return true;
}

static void
end_short_transaction(bool begun, MemoryContext caller)
{
	if (begun)
		CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
}

/*
 * Connects a stream, which is in the current memory context, to its source.
 */
static void
connect_stream(BemiStream *stream, const char *conninfo, const char *source,
			   const char *name)
{
	MemoryContext caller = CurrentMemoryContext;
	bool		begun;

	stream->conninfo = conninfo ? pstrdup(conninfo) : NULL;
	stream->source = pstrdup(source);
	stream->name = pstrdup(name);

	begun = begin_short_transaction();
	stream->database =
		MemoryContextStrdup(caller, get_database_name(MyDatabaseId));
	stream->user =
		MemoryContextStrdup(caller,
							GetUserNameFromId(BOOTSTRAP_SUPERUSERID, false));
	end_short_transaction(begun, caller);

	bemi_stream_open_connection(stream, true);
	decline_election(stream);

	begun = begin_short_transaction();
	MemoryContextSwitchTo(caller);
	bemi_stream_learn_encoding(stream);
	end_short_transaction(begun, caller);
}

/*
 * Connects to a source; conninfo NULL: this server and this database. on_wait,
 * if not NULL, is called repeatedly during each wait, until
 * bemi_stream_on_wait() replaces it.  The result lives in the current memory
 * context, its connections until bemi_stream_close() or the end of the
 * process.  Must not be called within a transaction, because it may take long.
 */
BemiStream *
bemi_stream_connect(const char *conninfo, const char *source, const char *name,
					void (*on_wait) (BemiStream *))
{
	BemiStream *stream = palloc0(sizeof(BemiStream));

	stream->on_wait = on_wait;
	connect_stream(stream, conninfo, source, name);
	return stream;
}

/*
 * Closes the connections of a session's stream.  A command that may take long
 * would not notice that, because it waits for other transactions.
 */
static void
close_connections(void *arg)
{
	BemiStream *stream = arg;

	if (stream->has_no_timeout)
		bemi_stream_cancel(stream);
	PQfinish(stream->replication);
	PQfinish(stream->catalog);
}

/*
 * The same for a session, which calls it in a transaction without locks.  The
 * connections are closed by bemi_stream_disconnect(), or by an error, which
 * deletes the current memory context.
 */
BemiStream *
bemi_stream_connect_session(const char *conninfo, const char *source,
							const char *name)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi source",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	BemiStream *stream = palloc0(sizeof(BemiStream));
	MemoryContextCallback *callback = palloc0(sizeof(MemoryContextCallback));

	callback->func = close_connections;
	callback->arg = stream;
	MemoryContextRegisterResetCallback(memory, callback);
	connect_stream(stream, conninfo, source, name);
	MemoryContextSwitchTo(caller);
	return stream;
}

void
bemi_stream_disconnect(BemiStream *stream)
{
	MemoryContextDelete(GetMemoryChunkContext(stream));
}

/*
 * Sets the function that is called while a command waits.  Some commands wait
 * for other transactions.
 */
void
bemi_stream_on_wait(BemiStream *stream, void (*on_wait) (BemiStream *))
{
	stream->on_wait = on_wait;
}

/*
 * Asks the source to cancel the running command.
 */
void
bemi_stream_cancel(BemiStream *stream)
{
	PGcancel   *cancel = PQstatus(stream->replication) == CONNECTION_OK ?
		PQgetCancel(stream->replication) : NULL;
	char		error[256];

	if (cancel != NULL && !PQcancel(cancel, error, sizeof(error)))
		ereport(LOG,
				(errmsg("bemi: could not cancel a command at the source: %s",
						error)));
	PQfreeCancel(cancel);
}

/*
 * Whether the source is certainly this database.  A connection string may also
 * lead here, but that is not known.
 */
bool
bemi_stream_is_here(const BemiStream *stream)
{
	return stream->conninfo == NULL;
}

/*
 * PID of the walsender at the source.
 */
int
bemi_stream_walsender(const BemiStream *stream)
{
	return PQbackendPID(stream->replication);
}

void
bemi_stream_close(BemiStream *stream)
{
	PQfreemem(stream->frame);
	if (stream->wait_set != NULL)
		FreeWaitEventSet(stream->wait_set);
	PQfinish(stream->replication);
	PQfinish(stream->catalog);
	pfree(stream);
}
