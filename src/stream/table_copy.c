/*-------------------------------------------------------------------------
 *
 * table_copy.c
 *		Copies the rows of a table as they were at a position of the source.
 *
 * Input: a connection, and the OID of a table.  Output: the position, and the
 * table and its rows as messages of pgoutput (RELATION, and an INSERT for each
 * row), so that decode/ treats them as if they had come in the stream.
 *
 * A new slot reports a position and exports a snapshot.  The snapshot sees
 * exactly the commits whose records begin before the position, as the initial
 * copy of native logical replication needs it.  The slot is temporary, and is
 * dropped when the snapshot has been imported by the other connection, so it
 * keeps no WAL while rows are copied.
 *
 * Some commands take effect at once, whatever a snapshot sees: TRUNCATE,
 * rewrites of a table, ATTACH and DETACH PARTITION.  The table is locked only
 * after the snapshot was taken, because the slot waits for all transactions,
 * and one of them may wait for that lock.  So after locking it is checked that
 * no such command has come between, and that each column of the result is that
 * column of that table which the snapshot sees.
 *
 * Rows come one at a time (libpq's single-row mode), so memory is bounded by
 * the longest row.
 *
 * What must never happen: a row is returned that is not of this position, or
 * the query runs code of the table's owner, who may rename the table and put a
 * view in its place.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "stream/remote_sql.h"
#include "stream/stream_internal.h"

/* A column of the table, as the snapshot sees it. */
typedef struct CopiedColumn
{
	AttrNumber	number;
	char	   *name;			/* in the source's encoding */
	Oid			type;
} CopiedColumn;

struct BemiTableCopy
{
	BemiStream *stream;
	PGconn	   *conn;			/* the stream's, with the snapshot */
	Oid			relation;
	char	   *schema;			/* in the source's encoding, as below */
	char	   *table;
	bool		partitioned;
	int			column_count;
	CopiedColumn *columns;
	int64		row_count;		/* returned so far */
};

/* Columns of BEMI_SQL_COPIED_TABLE. */
enum
{
	COPIED_SCHEMA,
	COPIED_TABLE,
	COPIED_PARTITIONED,
	COPIED_NUMBER,
	COPIED_NAME,
	COPIED_TYPE
};

static void
run_in_copy(BemiTableCopy *copy, const char *command)
{
	PQclear(bemi_stream_run_command(copy->stream, copy->conn, command,
									PGRES_COMMAND_OK));
}

/*
 * Runs a query with the table's OID as $1; the caller clears the result.
 */
static PGresult *
ask_in_copy(BemiTableCopy *copy, const char *query)
{
	char		oid[OIDCHARS + 1];
	const char *values[] = {oid};

	snprintf(oid, sizeof(oid), "%u", copy->relation);
	return bemi_stream_run_with(copy->stream, copy->conn, query,
								lengthof(values), values);
}

/*
 * Throws an error, because of a command since the snapshot was taken.
 */
static void
report_altered_table(const BemiTableCopy *copy)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s.%s\" was altered while its copy began",
					bemi_stream_string(copy->stream, copy->schema),
					bemi_stream_string(copy->stream, copy->table)),
			 errhint("Try again.")));
}

/*
 * Imports the snapshot.  Rows that the role may not see are an error, because
 * row_security is off (extension/settings.c).
 */
static void
begin_copy(BemiTableCopy *copy, const char *snapshot)
{
	run_in_copy(copy, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
	run_in_copy(copy, psprintf("SET TRANSACTION SNAPSHOT %s",
							   quote_literal_cstr(snapshot)));
	run_in_copy(copy,
				"SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0");
}

/*
 * Reads the table's name and columns in the snapshot.
 */
static void
read_copied_table(BemiTableCopy *copy)
{
	PGresult   *result = ask_in_copy(copy, BEMI_SQL_COPIED_TABLE);
	int			count = PQntuples(result);

	if (count == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table %u does not exist at the source",
						copy->relation)));
	copy->schema = pstrdup(bemi_answer_text(result, 0, COPIED_SCHEMA));
	copy->table = pstrdup(bemi_answer_text(result, 0, COPIED_TABLE));
	copy->partitioned = bemi_answer_bool(result, 0, COPIED_PARTITIONED);
	copy->columns = palloc(sizeof(CopiedColumn) * count);
	for (int i = 0; i < count; i++)
	{
		CopiedColumn *column = &copy->columns[copy->column_count];

		if (bemi_answer_is_null(result, i, COPIED_NUMBER))
			continue;
		column->number = bemi_answer_number(result, i, COPIED_NUMBER);
		column->name = pstrdup(bemi_answer_text(result, i, COPIED_NAME));
		column->type = bemi_answer_number(result, i, COPIED_TYPE);
		copy->column_count++;
	}
	PQclear(result);
}

/*
 * An identifier in the source's encoding, quoted.
 */
static char *
quoted_name(const BemiTableCopy *copy, const char *name)
{
	char	   *quoted = PQescapeIdentifier(copy->conn, name, strlen(name));
	char	   *result;

	if (quoted == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CONNECTION_FAILURE),
				 errmsg("could not quote a name of the source: %s",
						PQerrorMessage(copy->conn))));
	result = pstrdup(quoted);
	PQfreemem(quoted);
	return result;
}

/*
 * The table as it stands in a FROM clause.  Tables that inherit from one
 * without partitions have a history of their own.
 */
static char *
from_clause(const BemiTableCopy *copy)
{
	return psprintf("%s%s.%s", copy->partitioned ? "" : "ONLY ",
					quoted_name(copy, copy->schema),
					quoted_name(copy, copy->table));
}

/*
 * Locks the table, and checks that its name and its files are those that the
 * snapshot sees.
 */
static void
lock_copied_table(BemiTableCopy *copy)
{
	PGresult   *result;
	bool		exact;

	run_in_copy(copy, psprintf("LOCK TABLE %s IN ACCESS SHARE MODE",
							   from_clause(copy)));
	result = ask_in_copy(copy, BEMI_SQL_COPY_IS_EXACT);
	exact = bemi_answer_bool(result, 0, 0);
	PQclear(result);
	if (!exact)
		report_altered_table(copy);
}

/*
 * Makes the source refuse views and foreign tables, as pg_dump does.  The name
 * of the table may lead to a view by now, because its owner can rename both.
 * Functions of the view would run with the rights of the copy.  Old minor
 * releases lack the setting.  They only have lock_copied_table().
 */
static void
forbid_views(BemiTableCopy *copy)
{
	PQclear(
			bemi_stream_run_command(copy->stream, copy->conn,
									"SELECT set_config(name, 'view, foreign-table', true)"
									" FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'",
									PGRES_TUPLES_OK));
}

/*
 * Sends the query of the rows.  They are read by bemi_stream_copied_row().
 */
static void
begin_rows(BemiTableCopy *copy)
{
	StringInfoData query;

	forbid_views(copy);
	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT ");
	for (int i = 0; i < copy->column_count; i++)
		appendStringInfo(&query, "%s%s", i > 0 ? ", " : "",
						 quoted_name(copy, copy->columns[i].name));
	appendStringInfo(&query, " FROM %s", from_clause(copy));
	if (!PQsendQuery(copy->conn, query.data) ||
		!PQsetSingleRowMode(copy->conn))
		bemi_stream_report_failure(copy->stream, copy->conn,
								   "could not send a command to source");
	pfree(query.data);
}

/*
 * The table as a message of pgoutput.
 */
static void
describe_copied_table(const BemiTableCopy *copy, StringInfo message)
{
	initStringInfo(message);
	pq_sendbyte(message, LOGICAL_REP_MSG_RELATION);
	pq_sendint32(message, copy->relation);
	appendBinaryStringInfo(message, copy->schema, strlen(copy->schema) + 1);
	appendBinaryStringInfo(message, copy->table, strlen(copy->table) + 1);
	pq_sendbyte(message, REPLICA_IDENTITY_FULL);
	pq_sendint16(message, copy->column_count);
	for (int i = 0; i < copy->column_count; i++)
	{
		CopiedColumn *column = &copy->columns[i];

		pq_sendbyte(message, 0);
		appendBinaryStringInfo(message, column->name,
							   strlen(column->name) + 1);
		pq_sendint32(message, column->type);
		pq_sendint32(message, -1);	/* its typmod is not used */
	}
}

/*
 * Today's description, with the rules for columns.  The lock keeps the columns
 * as they are.
 */
static char *
read_description(BemiTableCopy *copy)
{
	PGresult   *result = ask_in_copy(copy, copy->stream->describes ?
									 BEMI_SQL_DESCRIPTION_OF_EXTENSION :
									 BEMI_SQL_DESCRIPTION);
	char	   *description =
		bemi_stream_string(copy->stream, bemi_answer_text(result, 0, 0));

	PQclear(result);
	return description;
}

/*
 * Begins to copy a table, in the current memory context.  "message" becomes
 * the RELATION message.  The copy ends with the stream, which can be used for
 * nothing else.  Waits for all running transactions of the source.
 *
 * The time is taken before that wait.  All transactions that commit after the
 * position have begun since, so their commits have later times.
 */
BemiTableCopy *
bemi_stream_copy_table(BemiStream *stream, Oid relation, const char *slot,
					   BemiCopyStart *start, StringInfo message)
{
	BemiTableCopy *copy = palloc0(sizeof(BemiTableCopy));
	char	   *snapshot;

	copy->stream = stream;
	copy->relation = relation;
	start->taken_at = bemi_stream_now(stream);
	start->position =
		bemi_stream_create_temporary_slot(stream, slot, &snapshot);
	copy->conn = bemi_stream_catalog(stream);
	begin_copy(copy, snapshot);
	bemi_stream_drop_temporary_slot(stream, slot);
	read_copied_table(copy);
	lock_copied_table(copy);
	start->description = read_description(copy);
	describe_copied_table(copy, message);
	begin_rows(copy);
	return copy;
}

/*
 * Throws an error unless each column of the result is that of the table which
 * the snapshot sees.
 */
static void
check_copied_columns(const BemiTableCopy *copy, const PGresult *row)
{
	bool		same = PQnfields(row) == copy->column_count;

	for (int i = 0; i < copy->column_count && same; i++)
		same = PQftable(row, i) == copy->relation &&
			PQftablecol(row, i) == copy->columns[i].number &&
			PQftype(row, i) == copy->columns[i].type;
	if (!same)
		report_altered_table(copy);
}

/*
 * A row as a message of pgoutput.
 */
static void
write_row_message(const BemiTableCopy *copy, const PGresult *row,
				  StringInfo message)
{
	resetStringInfo(message);
	pq_sendbyte(message, LOGICAL_REP_MSG_INSERT);
	pq_sendint32(message, copy->relation);
	pq_sendbyte(message, 'N');
	pq_sendint16(message, copy->column_count);
	for (int i = 0; i < copy->column_count; i++)
	{
		int			len = PQgetlength(row, 0, i);

		if (PQgetisnull(row, 0, i))
		{
			pq_sendbyte(message, LOGICALREP_COLUMN_NULL);
			continue;
		}
		pq_sendbyte(message, LOGICALREP_COLUMN_TEXT);
		pq_sendint32(message, len);
		appendBinaryStringInfo(message, PQgetvalue(row, 0, i), len);
	}
}

/*
 * Reads the next row into "message", which the caller has initialized.
 * Returns false if there are no more rows.
 */
bool
bemi_stream_copied_row(BemiTableCopy *copy, StringInfo message)
{
	PGresult   *row = bemi_stream_next_result(copy->stream, copy->conn);
	bool		more;

	if (row != NULL && PQresultStatus(row) != PGRES_SINGLE_TUPLE &&
		PQresultStatus(row) != PGRES_TUPLES_OK)
		bemi_stream_report_refusal(copy->stream, row);
	if (copy->row_count == 0 && row != NULL)
		check_copied_columns(copy, row);
	more = row != NULL && PQntuples(row) == 1;
	if (more)
		write_row_message(copy, row, message);
	PQclear(row);
	copy->row_count++;
	return more;
}
