/*-------------------------------------------------------------------------
 *
 * baseline.c
 *		bemi.baseline(): stores the rows of a table as they are at a position of
 *		its source.
 *
 * A history begins with the tracking of a table, and does not have the rows
 * that were there before.  For a table of this database they are read from
 * the table itself.  For a table elsewhere, and for a table that is dropped
 * later, the history alone must do.  So a baseline stores each row as a change
 * of operation SNAPSHOT, whose id is between the commits that the rows contain
 * and those that they do not.  A row of bemi.baselines says that all rows are
 * there.
 *
 * The session itself reads the source, over connections of its own.  It first
 * collects all rows in a temporary file, converted and redacted as they are to
 * be stored, and closes the connections.  Then it stores them, in one
 * transaction.  What must never happen: it holds a lock or a snapshot of the
 * history while it waits for the source, or a part of the rows is stored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/progress.h"
#include "executor/tuptable.h"
#include "pgstat.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "decode/decode.h"
#include "extension/extension.h"
#include "store/store.h"
#include "stream/stream.h"

PG_FUNCTION_INFO_V1(bemi_baseline);

/* What _bemi.find_copied_table() returns, and the arguments. */
typedef struct Baseline
{
	char	   *source;
	char	   *conninfo;		/* NULL: this database */
	char	   *server;			/* system identifier and database */
	Oid			relation;		/* at the source */

	char	   *database;
	char	   *schema;
	char	   *table;
	BemiCopyStart start;
	pg_uuid_t	id;				/* before those of the rows */
	Tuplestorestate *rows;
	int64		row_count;
} Baseline;

/* Columns of a collected row. */
enum
{
	ROW_ID,
	ROW_PRIMARY_KEY,
	ROW_AFTER,
	ROW_COLUMNS
};

static char *
text_argument(FunctionCallInfo fcinfo, int number)
{
	if (PG_ARGISNULL(number))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("source and table must not be null")));
	return text_to_cstring(PG_GETARG_TEXT_PP(number));
}

/*
 * Throws an error in a transaction block.  A slot waits for all transactions,
 * and the caller's locks would be held for as long as the copy takes.
 */
static void
require_no_transaction(FunctionCallInfo fcinfo)
{
	if (bemi_procedure_is_atomic(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("bemi.baseline() cannot run inside a transaction block"),
				 errdetail("It waits for every running transaction of the source, and commits."),
				 errhint("Call it as a statement of its own.")));
}

/*
 * Finds the source and the table.  Throws an error unless the user may control
 * the source.
 */
static void
find_table(Baseline *baseline, const char *table)
{
	BemiValue	arguments[] = {
		bemi_sql_text(baseline->source), bemi_sql_text(table),
		bemi_sql_text(GetUserNameFromId(GetUserId(), false))
	};
	BemiValue	columns[] = {
		{.type = TEXTOID}, {.type = TEXTOID}, {.type = INT8OID}
	};
	BemiRights	former;

	bemi_act_as_owner(&former);
	(void)
		bemi_sql_run_row("SELECT conninfo, server, relation FROM _bemi.find_copied_table($1, $2, $3::name)",
						 arguments, lengthof(arguments), columns,
						 lengthof(columns));
	bemi_act_as_before(&former);
	baseline->conninfo = bemi_sql_text_of(&columns[0]);
	baseline->server = bemi_sql_text_of(&columns[1]);
	baseline->relation = (Oid) bemi_sql_number_of(&columns[2]);
}

/*
 * Throws an error if the source is another server than the one with whose
 * changes the rows would be stored.
 */
static void
check_server(Baseline *baseline, const BemiSourceIdentity *identity)
{
	char	   *server = psprintf(UINT64_FORMAT "/%s",
								  identity->system_identifier,
								  identity->database);

	if (strcmp(server, baseline->server) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("source \"%s\" is now another server",
						baseline->source),
				 errdetail("The history has changes of %s, and the connection leads to %s.",
						   baseline->server, server)));
	baseline->database = identity->database;
}

static TupleDesc
describe_rows(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(ROW_COLUMNS);

	TupleDescInitEntry(desc, ROW_ID + 1, "id", UUIDOID, -1, 0);
	TupleDescInitEntry(desc, ROW_PRIMARY_KEY + 1, "primary_key", TEXTOID, -1,
					   0);
	TupleDescInitEntry(desc, ROW_AFTER + 1, "after", JSONBOID, -1, 0);
	return desc;
}

/*
 * Converts a row and collects it.  Conversions need a snapshot, which is not
 * kept while the session waits for the next row.
 */
static void
collect_row(Baseline *baseline, BemiCopiedRows *copied, StringInfo message,
			TupleDesc desc)
{
	BemiChange	change;
	Datum		values[ROW_COLUMNS];
	bool		nulls[ROW_COLUMNS] = {0};

	PushActiveSnapshot(GetTransactionSnapshot());
	bemi_copied_rows_read(copied, message, &change);
	PopActiveSnapshot();

	values[ROW_ID] = UUIDPGetDatum(&change.id);
	nulls[ROW_PRIMARY_KEY] = change.primary_key == NULL;
	values[ROW_PRIMARY_KEY] = change.primary_key ?
		CStringGetTextDatum(change.primary_key) : (Datum) 0;
	values[ROW_AFTER] = JsonbPGetDatum(change.after);
	tuplestore_putvalues(baseline->rows, desc, values, nulls);
	pgstat_progress_update_param(PROGRESS_COPY_TUPLES_PROCESSED,
								 ++baseline->row_count);
}

/*
 * Collects the rows of a table that is being copied.
 */
static void
collect_rows(Baseline *baseline, BemiTableCopy *copy, BemiCopiedRows *copied)
{
	TupleDesc	desc = describe_rows();
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi copied row",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	StringInfoData message;

	for (;;)
	{
		initStringInfo(&message);
		if (!bemi_stream_copied_row(copy, &message))
			break;
		collect_row(baseline, copied, &message, desc);
		MemoryContextReset(memory);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(memory);
}

/*
 * The tag of the ids: another baseline may begin at the same position.
 */
static char *
make_tag(const Baseline *baseline)
{
	return psprintf("baseline/%s/%s/%u", baseline->server, baseline->source,
					baseline->relation);
}

/*
 * A name that no other slot has.
 */
static char *
make_slot_name(void)
{
	return psprintf("bemi_baseline_%u_%d_%ld", MyDatabaseId, MyProcPid,
					(long) (GetCurrentTimestamp() % USECS_PER_DAY));
}

/*
 * Reads the table at the source.  On return, the connections are closed.
 */
static void
copy_table(Baseline *baseline)
{
	BemiStream *stream = bemi_stream_connect_session(baseline->conninfo,
													 baseline->source,
													 "bemi baseline");
	BemiSourceIdentity identity;
	StringInfoData message;
	BemiTableCopy *copy;
	BemiCopiedRows *copied;

	bemi_stream_identify(stream, &identity);
	check_server(baseline, &identity);
	copy = bemi_stream_copy_table(stream, baseline->relation, make_slot_name(),
								  &baseline->start, &message);
	copied = bemi_copied_rows_create(stream, &baseline->start, &message,
									 make_tag(baseline));
	baseline->schema = pstrdup(bemi_copied_rows_relation(copied)->schema);
	baseline->table = pstrdup(bemi_copied_rows_relation(copied)->table);
	baseline->id = bemi_copied_rows_start(copied);
	collect_rows(baseline, copy, copied);
	bemi_stream_disconnect(stream);
}

/*
 * The change for a collected row.  Its values point into the slot.
 */
static void
fill_change(const Baseline *baseline, TupleTableSlot *slot, BemiChange *change)
{
	bool		isnull;
	Datum		key;

	memset(change, 0, sizeof(BemiChange));
	change->id = *DatumGetUUIDP(slot_getattr(slot, ROW_ID + 1, &isnull));
	key = slot_getattr(slot, ROW_PRIMARY_KEY + 1, &isnull);
	change->primary_key = isnull ? NULL : TextDatumGetCString(key);
	change->after = DatumGetJsonbP(slot_getattr(slot, ROW_AFTER + 1, &isnull));
	change->schema = baseline->schema;
	change->table = baseline->table;
	change->operation = "SNAPSHOT";
	change->committed_at = change->queued_at = baseline->start.taken_at;
	change->position = baseline->start.position - 1;
}

/*
 * Adds the collected rows to the history.
 */
static void
store_rows(const Baseline *baseline)
{
	BemiStore  *store = bemi_store_begin_import(baseline->source,
												baseline->database);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(describe_rows(),
													&TTSOpsMinimalTuple);
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi copied row",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = CurrentMemoryContext;
	BemiChange	change;

	while (tuplestore_gettupleslot(baseline->rows, true, false, slot))
	{
		MemoryContextSwitchTo(memory);
		fill_change(baseline, slot, &change);
		bemi_store_add(store, &change);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(memory);
		CHECK_FOR_INTERRUPTS();
	}
	bemi_store_end_import(store);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(memory);
}

/*
 * Records that all rows are there.  Returns false if that is recorded already,
 * because another call began to copy the table at the same position.
 */
static bool
record_baseline(const Baseline *baseline)
{
	BemiValue	arguments[] = {
		bemi_sql_uuid(&baseline->id), bemi_sql_text(baseline->source),
		bemi_sql_text(baseline->schema), bemi_sql_text(baseline->table),
		bemi_sql_lsn(baseline->start.position),
		bemi_sql_time(baseline->start.taken_at),
		bemi_sql_int8(baseline->row_count),
		bemi_sql_json(baseline->start.description)
	};

	return bemi_sql_run_bool("WITH recorded AS (INSERT INTO bemi.baselines"
							 " (id, source, schema, \"table\", position, taken_at, row_count, key_columns)"
							 " VALUES ($1, $2, $3, $4, $5, $6, $7,"
							 " ARRAY(SELECT json_array_elements_text($8 -> 'key')))"
							 " ON CONFLICT (id) DO NOTHING RETURNING id)"
							 " SELECT EXISTS (SELECT FROM recorded)",
							 arguments, lengthof(arguments));
}

/*
 * The other call has stored the same rows.  Throws an error if it was for
 * another table, whose tag happens to be the same.
 */
static void
report_same_baseline(const Baseline *baseline)
{
	BemiValue	arguments[] = {
		bemi_sql_uuid(&baseline->id), bemi_sql_text(baseline->source),
		bemi_sql_text(baseline->schema), bemi_sql_text(baseline->table)
	};

	if (!bemi_sql_run_bool("SELECT EXISTS (SELECT FROM bemi.baselines b WHERE b.id = $1"
						   " AND (b.source, b.schema, b.\"table\") = ($2, $3, $4))",
						   arguments, lengthof(arguments)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another table was copied at the same position"),
				 errhint("Try again.")));
	ereport(NOTICE,
			(errmsg("another call of bemi.baseline() has stored these rows of \"%s.%s\"",
					baseline->schema, baseline->table)));
}

/*
 * Stores the collected rows, as the owner of the history.
 */
static void
store_baseline(Baseline *baseline)
{
	BemiRights	former;
	int			settings;

	bemi_act_as_owner(&former);
	settings = bemi_pin_settings_of_call();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (record_baseline(baseline))
		store_rows(baseline);
	else
		report_same_baseline(baseline);
	PopActiveSnapshot();
	AtEOXact_GUC(false, settings);
	bemi_act_as_before(&former);
}

/*
 * bemi.baseline(source, table_name)
 */
Datum
bemi_baseline(PG_FUNCTION_ARGS)
{
	Baseline	baseline = {0};
	char	   *table;
	int			settings;

	baseline.source = text_argument(fcinfo, 0);
	table = text_argument(fcinfo, 1);
	PreventCommandDuringRecovery("bemi.baseline()");
	PreventCommandIfReadOnly("bemi.baseline()");
	require_no_transaction(fcinfo);

	bemi_procedure_begin(fcinfo);
	find_table(&baseline, table);
	bemi_procedure_commit();
	/* With the session's default, the first snapshot could be kept. */
	XactIsoLevel = XACT_READ_COMMITTED;

	pgstat_progress_start_command(PROGRESS_COMMAND_COPY, InvalidOid);
	settings = bemi_pin_settings_of_call();
	baseline.rows = tuplestore_begin_heap(false, false, work_mem);
	copy_table(&baseline);
	AtEOXact_GUC(false, settings);
	store_baseline(&baseline);
	tuplestore_end(baseline.rows);
	pgstat_progress_end_command();
	bemi_procedure_end();
	PG_RETURN_NULL();
}
