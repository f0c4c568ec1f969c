/*-------------------------------------------------------------------------
 *
 * source_queries.c
 *		Queries to a source, apart from the stream.
 *
 * They ask for the source's identity, its slot and the slot's cost, and the
 * tables of the publication; others create and drop the slot.  Replication
 * commands use the replication connection.  SQL uses the catalog connection,
 * also before the stream begins.
 *
 * What must never happen: a walsender reads a catalog before it streams.  It
 * would keep today's rows in its caches and decode the past with them.  If the
 * publication was created again or a partition was detached since, it would
 * silently skip changes.
 *
 * The catalog connection is an ordinary client of the source: it takes one of
 * max_connections, and a smart shutdown waits until it is closed.  So it is
 * open only while it is used.
 *
 * Results of libpq are freed before a function returns.  Returned values are
 * palloc'd in the current memory context.  Callers should hold no lock or
 * snapshot of the destination, because the source may be slow.
 *
 * The command texts follow "Streaming Replication Protocol" in PostgreSQL's
 * documentation.  The queries are in sql/remote/.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "stream/remote_sql.h"
#include "stream/stream_internal.h"

/*
 * A transaction reads the clock for its commit time shortly before it writes
 * the commit record.  A source without the extension cannot report how long
 * that takes at most; this is more than enough.
 */
#define COMMIT_TAKES_US		1000000

/* From this version on, slots can be synchronized to standbys. */
#define FAILOVER_VERSION	170000

/*
 * The catalog connection is closed when it has not been used for the first
 * time, or when it has been open for the second, even if it is in use often.
 */
#define CATALOG_UNUSED_MS	1000
#define CATALOG_OPEN_MS		10000

/*
 * Runs a replication command that has a result.  The caller clears it.
 */
static PGresult *
ask_walsender(BemiStream *stream, const char *command)
{
	return bemi_stream_run_command(stream, stream->replication, command,
								   PGRES_TUPLES_OK);
}

/*
 * Time that the catalog connection may stay open without being used again, at
 * least 0; -1 if it is not open.
 */
long
bemi_stream_catalog_left_ms(const BemiStream *stream)
{
	int64		unused;
	int64		old;

	if (stream->catalog == NULL)
		return -1;
	unused = stream->catalog_used_at + CATALOG_UNUSED_MS;
	old = stream->catalog_opened_at + CATALOG_OPEN_MS;
	return Max(Min(unused, old) - bemi_monotonic_ms(), 0);
}

void
bemi_stream_close_catalog(BemiStream *stream)
{
	PQfinish(stream->catalog);
	stream->catalog = NULL;
}

/*
 * Closes the catalog connection if its time is over.  It is called between the
 * commands of a burst, too, because "pg_ctl stop -m smart" of the source waits
 * for every client.
 */
void
bemi_stream_close_idle_catalog(BemiStream *stream)
{
	if (bemi_stream_catalog_left_ms(stream) == 0)
		bemi_stream_close_catalog(stream);
}

/*
 * Returns the connection for SQL, and opens it if needed.  The source may have
 * closed one that was idle.
 */
PGconn *
bemi_stream_catalog(BemiStream *stream)
{
	bemi_stream_close_idle_catalog(stream);
	if (PQstatus(stream->catalog) != CONNECTION_OK)
		bemi_stream_close_catalog(stream);
	if (stream->catalog == NULL)
	{
		bemi_stream_open_connection(stream, false);
		stream->catalog_opened_at = bemi_monotonic_ms();
	}
	stream->catalog_used_at = bemi_monotonic_ms();
	return stream->catalog;
}

/*
 * Runs a query; the caller clears the result.
 */
PGresult *
bemi_stream_query(BemiStream *stream, const char *command)
{
	return bemi_stream_run_command(stream, bemi_stream_catalog(stream),
								   command, PGRES_TUPLES_OK);
}

/*
 * Runs a query with values for $1 and so on, as texts, over a connection.
 */
PGresult *
bemi_stream_run_with(BemiStream *stream, PGconn *conn, const char *command,
					 int count, const char *const *values)
{
	PGresult   *result;

	if (!PQsendQueryParams(conn, command, count, NULL, values, NULL, NULL, 0))
		bemi_stream_report_failure(stream, conn,
								   "could not send a command to source");
	result = bemi_stream_await_result(stream, conn);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		bemi_stream_report_refusal(stream, result);
	return result;
}

PGresult *
bemi_stream_query_with(BemiStream *stream, const char *command, int count,
					   const char *const *values)
{
	return bemi_stream_run_with(stream, bemi_stream_catalog(stream), command,
								count, values);
}

/*
 * Runs a query with an exported snapshot.
 */
PGresult *
bemi_stream_query_at(BemiStream *stream, const char *snapshot,
					 const char *command)
{
	PGconn	   *conn = bemi_stream_catalog(stream);
	PGresult   *result;

	PQclear(
			bemi_stream_run_command(stream, conn,
									"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
									PGRES_COMMAND_OK));
	PQclear(bemi_stream_run_command(stream, conn,
									psprintf("SET TRANSACTION SNAPSHOT %s",
											 quote_literal_cstr(snapshot)),
									PGRES_COMMAND_OK));
	/* The query may read the catalog rows of all tables. */
	PQclear(bemi_stream_run_command(stream, conn,
									"SET LOCAL statement_timeout = 0",
									PGRES_COMMAND_OK));
	stream->has_no_timeout = true;
	/* This connection has the snapshot, so it must not be replaced now. */
	result = bemi_stream_run_command(stream, conn, command, PGRES_TUPLES_OK);
	stream->has_no_timeout = false;
	PQclear(bemi_stream_run_command(stream, conn, "COMMIT", PGRES_COMMAND_OK));
	return result;
}

/*
 * The former timelines of a timeline, see BemiSourceIdentity.  NULL if the
 * server lacks the history file.
 */
static char *
read_ancestors(BemiStream *stream, uint32 timeline)
{
	PGresult   *result;
	char	   *line;
	char	   *rest;
	StringInfoData ancestors;

	initStringInfo(&ancestors);
	if (timeline <= 1)
		return ancestors.data;
	result =
		bemi_stream_run_any_command(stream, stream->replication,
									psprintf("TIMELINE_HISTORY %u", timeline));
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
	{
		PQclear(result);
		return NULL;
	}
	/* Each line: timeline, position of the switch, reason. */
	line = strtok_r(pstrdup(bemi_answer_text(result, 0, 1)), "\n", &rest);
	for (; line != NULL; line = strtok_r(NULL, "\n", &rest))
	{
		uint32		parent;
		uint32		high;
		uint32		low;

		if (sscanf(line, "%u %X/%X", &parent, &high, &low) == 3)
			appendStringInfo(&ancestors, "%u %X/%X\n", parent, high, low);
	}
	PQclear(result);
	return ancestors.data;
}

/*
 * The start time of the source's server.
 */
static TimestampTz
read_start_time(BemiStream *stream)
{
	PGresult   *result = bemi_stream_query(stream, BEMI_SQL_START_TIME);
	TimestampTz started_at = bemi_answer_time(result, 0, 0);

	PQclear(result);
	return started_at;
}

/*
 * Asks for the source's identity.
 */
void
bemi_stream_identify(BemiStream *stream, BemiSourceIdentity *identity)
{
	PGresult   *result = ask_walsender(stream, "IDENTIFY_SYSTEM");

	identity->system_identifier =
		strtoull(bemi_answer_text(result, 0, 0), NULL, 10);
	identity->timeline = bemi_answer_number(result, 0, 1);
	identity->position = bemi_answer_lsn(result, 0, 2);
	identity->database =
		bemi_stream_string(stream, bemi_answer_text(result, 0, 3));
	PQclear(result);
	identity->ancestors = read_ancestors(stream, identity->timeline);
	identity->started_at = read_start_time(stream);

	bemi_stream_read_signing_key(stream);
}

/*
 * Looks up a slot.  A slot without a confirmed position is still being
 * created, perhaps by a process that has died since.
 */
void
bemi_stream_find_slot(BemiStream *stream, const char *name, BemiSlot *slot)
{
	PGresult   *result =
		bemi_stream_query_with(stream, BEMI_SQL_SLOT, 1, &name);

	memset(slot, 0, sizeof(BemiSlot));
	if (PQntuples(result) > 0)
	{
		slot->exists = true;
		slot->confirmed = bemi_answer_lsn_or_invalid(result, 0, 0);
		slot->made = !XLogRecPtrIsInvalid(slot->confirmed);
		slot->lost = bemi_answer_bool(result, 0, 1);
		slot->here = bemi_answer_bool(result, 0, 2);
		slot->active = bemi_answer_bool(result, 0, 3);
	}
	PQclear(result);
}

/*
 * The time of the source's clock.
 */
TimestampTz
bemi_stream_now(BemiStream *stream)
{
	PGresult   *result = bemi_stream_query(stream, BEMI_SQL_CLOCK);
	TimestampTz now = bemi_answer_time(result, 0, 0);

	PQclear(result);
	return now;
}

/*
 * Asks the source for a time and a position such that all commits of earlier
 * times have their records before that position, see worker/horizon.c.  The
 * OFFSET 0 makes the query read the clock first.
 */
void
bemi_stream_look_at_horizon(BemiStream *stream)
{
	PGresult   *result =
		bemi_stream_query(stream,
						  stream->describes ?
						  BEMI_SQL_HORIZON_OF_EXTENSION : BEMI_SQL_HORIZON);

	stream->horizon_time = bemi_answer_time_or_zero(result, 0, 0);
	if (stream->horizon_time != 0)
		stream->horizon_position = bemi_answer_lsn_or_invalid(result, 0, 1);
	if (stream->horizon_time != 0 && !stream->describes)
		stream->horizon_time -= COMMIT_TAKES_US;
	PQclear(result);
}

/*
 * Returns the source's last answer once; 0 if there is none.
 */
TimestampTz
bemi_stream_horizon(BemiStream *stream, XLogRecPtr *position)
{
	TimestampTz time = stream->horizon_time;

	*position = stream->horizon_position;
	stream->horizon_time = 0;
	return time;
}

/*
 * The tables of the publication, as a JSON array of objects with OID, schema
 * and table, and with "complete": whether all changes of the table are
 * published.  They are not if there is a row filter or a column list (since
 * PostgreSQL 15), or if a partition's rows are not in the source's WAL because
 * it is a foreign table or unlogged.
 */
char *
bemi_stream_published(BemiStream *stream)
{
	PGresult   *result = bemi_stream_query(stream, BEMI_SQL_PUBLISHED);
	char	   *tables;

	if (PQntuples(result) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("publication \"%s\" does not exist at the source",
						BEMI_PUBLICATION),
				 errhint("In the source's database: CREATE PUBLICATION %s WITH (publish_via_partition_root = true); then track its tables, or add them to the publication. Where the extension cannot be installed, bemi-source.sql makes the publication.",
						 BEMI_PUBLICATION)));
	tables = bemi_stream_string(stream, bemi_answer_text(result, 0, 0));
	PQclear(result);
	return tables;
}

/*
 * The cost of a slot for the source.  Returns false if the slot is gone.
 */
bool
bemi_stream_slot_cost(BemiStream *stream, const char *slot, BemiSlotCost *cost)
{
	PGresult   *result =
		bemi_stream_query_with(stream, BEMI_SQL_SLOT_COST, 1, &slot);
	bool		found = PQntuples(result) > 0;

	if (found)
	{
		cost->source_lsn = bemi_answer_lsn_or_invalid(result, 0, 0);
		cost->wal_kept = bemi_answer_number(result, 0, 1);
		strlcpy(cost->wal_status, bemi_answer_text(result, 0, 2),
				sizeof(cost->wal_status));
		cost->catalog_xmin_age = bemi_answer_number(result, 0, 3);
	}
	PQclear(result);
	return found;
}

/*
 * Slots of bemi in this database of the source without a reader, except one,
 * as a list of BemiIdleSlot.  Those that keep most WAL come first.  Slots that
 * a standby (17 or newer) synchronizes from its primary are left out, because
 * nobody can read or drop them there.
 */
List *
bemi_stream_idle_slots(BemiStream *stream, const char *but)
{
	PGresult   *result =
		bemi_stream_query_with(stream, BEMI_SQL_IDLE_SLOTS, 1, &but);
	List	   *slots = NIL;

	for (int i = 0; i < PQntuples(result); i++)
	{
		BemiIdleSlot *slot = palloc(sizeof(BemiIdleSlot));

		slot->name = pstrdup(bemi_answer_text(result, i, 0));
		slot->kept = pstrdup(bemi_answer_text(result, i, 1));
		slots = lappend(slots, slot);
	}
	PQclear(result);
	return slots;
}

/*
 * Asks whether the source may elect the stream's walsender as a synchronous
 * standby.  If it does because of a "*" in synchronous_standby_names, the
 * advice replaces the "*" by the connected standbys.  For a role that may not
 * see priorities the names are compared.  Such a source does not elect the
 * walsender if it has the hook of worker/standby.c.
 */
void
bemi_stream_election(BemiStream *stream, BemiElection *election)
{
	char		walsender[12];
	const char *values[] = {walsender, stream->declines ? "true" : "false"};
	PGresult   *result;

	pg_ltoa(bemi_stream_walsender(stream), walsender);
	result = bemi_stream_query_with(stream, BEMI_SQL_ELECTION,
									lengthof(values), values);

	election->possible = bemi_answer_bool(result, 0, 0);
	election->advice =
		bemi_stream_string(stream, bemi_answer_text(result, 0, 1));
	PQclear(result);
}

static bool
source_is_standby(BemiStream *stream)
{
	PGresult   *result = bemi_stream_query(stream, BEMI_SQL_RECOVERY);
	bool		standby = bemi_answer_bool(result, 0, 0);

	PQclear(result);
	return standby;
}

static XLogRecPtr
create_slot(BemiStream *stream, const char *command, char **snapshot)
{
	PGresult   *result;
	XLogRecPtr	position;

	bemi_stream_close_catalog(stream);	/* this may take long */
	stream->has_no_timeout = true;
	result = ask_walsender(stream, command);
	stream->has_no_timeout = false;
	position = bemi_answer_lsn(result, 0, 1);
	*snapshot = pstrdup(bemi_answer_text(result, 0, 2));
	PQclear(result);
	return position;
}

/*
 * Creates the slot and returns the position from which it sees every commit.
 * Waits for all running transactions of the source.  From 17 on, the slot is
 * synchronized to the source's standbys, unless the source is one itself.
 *
 * *snapshot shows the commits up to that position.  It is valid until the next
 * command over the replication connection.
 */
XLogRecPtr
bemi_stream_create_slot(BemiStream *stream, const char *slot, char **snapshot)
{
	bool		failover =
		PQserverVersion(stream->replication) >= FAILOVER_VERSION &&
		!source_is_standby(stream);

	return create_slot(stream,
					   psprintf("CREATE_REPLICATION_SLOT %s LOGICAL pgoutput %s",
								quote_identifier(slot),
								failover ?
								"(SNAPSHOT 'export', FAILOVER true)" :
								"EXPORT_SNAPSHOT"),
					   snapshot);
}

/*
 * The same for a slot that lives as long as the connection at most.
 */
XLogRecPtr
bemi_stream_create_temporary_slot(BemiStream *stream, const char *slot,
								  char **snapshot)
{
	return create_slot(stream,
					   psprintf("CREATE_REPLICATION_SLOT %s TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
								quote_identifier(slot)),
					   snapshot);
}

/*
 * Drops it, while the catalog connection stays as it is.
 */
void
bemi_stream_drop_temporary_slot(BemiStream *stream, const char *slot)
{
	PQclear(bemi_stream_run_command(stream, stream->replication,
									psprintf("DROP_REPLICATION_SLOT %s",
											 quote_identifier(slot)),
									PGRES_COMMAND_OK));
}

/*
 * Reads for how many milliseconds the source waits for an answer before it
 * ends the stream; 0: for ever.
 *
 * The worker does not answer while it waits for a lock of the history,
 * although it could: a source that shuts down waits until all is confirmed, or
 * until this time is over.
 */
int
bemi_stream_read_timeout(BemiStream *stream)
{
	PGresult   *result =
		ask_walsender(stream, BEMI_SQL_WALSENDER_TIMEOUT);

	stream->source_timeout_ms =
		PQntuples(result) == 1 ? bemi_answer_number(result, 0, 0) : 0;
	PQclear(result);
	return stream->source_timeout_ms;
}

/*
 * Drops the slot, after waiting for its reader to release it.
 */
void
bemi_stream_drop_slot(BemiStream *stream, const char *slot)
{
	char	   *command = psprintf("DROP_REPLICATION_SLOT %s WAIT",
								   quote_identifier(slot));

	bemi_stream_close_catalog(stream);	/* this may take long */
	stream->has_no_timeout = true;
	PQclear(bemi_stream_run_command(stream, stream->replication, command,
									PGRES_COMMAND_OK));
	stream->has_no_timeout = false;
}
