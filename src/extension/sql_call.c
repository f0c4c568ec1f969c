/*-------------------------------------------------------------------------
 *
 * sql_call.c
 *		One way to call SQL from C, with typed arguments and results.
 *
 * Input: a statement and its arguments.  Output: the columns of its first row,
 * if the caller requests them.  This is the only file that uses SPI.
 *
 * What must never happen: a statement runs under a search_path that a user has
 * set.
 *
 * - The statement is a constant of the code and never contains text of a user.
 *	 It qualifies all names except those of pg_catalog.  search_path is pinned
 *	 during the call, so the session's own has no effect.
 * - The statement runs as the current user.  rights.c switches the user before;
 *	 bemi_sql_..._as_owner() does both.
 * - Memory: plan and result are in contexts of SPI, which end with the call.
 *	 Results are copied into the caller's memory context, detoasted.  All other
 *	 memory is freed.  Arguments are only read.
 * - Snapshot: bemi_sql_read_...() reads with the active snapshot, so it does not
 *	 see later changes of this transaction.  The other functions see all changes
 *	 of this transaction, and may change data.
 *
 * Each call is parsed and planned, which takes about a tenth of a millisecond.
 * So nothing here is used for each row: store/writer.c inserts rows without
 * SQL.
 *
 * A procedure that commits calls bemi_procedure_begin() first and
 * bemi_procedure_end() at its end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/pg_lsn.h"
#include "utils/plancache.h"
#include "utils/queryenvironment.h"
#include "utils/timestamp.h"

#include "extension/extension.h"

/*
 * A running call.
 */
typedef struct SqlCall
{
	const char *statement;
	MemoryContext caller;		/* for the results */
	int			settings;		/* nest level of the pinned ones */
} SqlCall;

static BemiValue
make_value(Oid type, bool is_null, Datum datum)
{
	BemiValue	value = {type, is_null, is_null ? (Datum) 0 : datum};

	return value;
}

/*
 * Arguments of each type, palloc'd if they are passed by reference.  A NULL
 * pointer becomes an SQL NULL.
 */
BemiValue
bemi_sql_text(const char *text)
{
	return make_value(TEXTOID, text == NULL,
					  text ? CStringGetTextDatum(text) : (Datum) 0);
}

BemiValue
bemi_sql_json(const char *json)
{
	BemiValue	value = bemi_sql_text(json);

	value.type = JSONOID;
	return value;
}

BemiValue
bemi_sql_jsonb(const Jsonb *jsonb)
{
	return make_value(JSONBOID, jsonb == NULL, PointerGetDatum(jsonb));
}

BemiValue
bemi_sql_uuid(const pg_uuid_t *uuid)
{
	return make_value(UUIDOID, uuid == NULL, PointerGetDatum(uuid));
}

BemiValue
bemi_sql_interval(const Interval *interval)
{
	return make_value(INTERVALOID, interval == NULL,
					  PointerGetDatum(interval));
}

BemiValue
bemi_sql_bool(bool truth)
{
	return make_value(BOOLOID, false, BoolGetDatum(truth));
}

BemiValue
bemi_sql_int8(int64 number)
{
	return make_value(INT8OID, false, Int64GetDatum(number));
}

BemiValue
bemi_sql_time(TimestampTz time)
{
	return make_value(TIMESTAMPTZOID, false, TimestampTzGetDatum(time));
}

BemiValue
bemi_sql_lsn(XLogRecPtr position)
{
	return make_value(PG_LSNOID, false, LSNGetDatum(position));
}

BemiValue
bemi_sql_xid(TransactionId xid)
{
	return make_value(XIDOID, false, TransactionIdGetDatum(xid));
}

/*
 * An OID as an argument of type "type": oid, or one of the reg* types.
 */
BemiValue
bemi_sql_oid(Oid type, Oid oid)
{
	return make_value(type, false, ObjectIdGetDatum(oid));
}

/*
 * The value, or NULL of its type.
 */
BemiValue
bemi_sql_null_if(bool is_null, BemiValue value)
{
	return make_value(value.type, is_null || value.is_null, value.datum);
}

/*
 * The argument of a function that is called from SQL.
 */
BemiValue
bemi_sql_argument(FunctionCallInfo fcinfo, int number, Oid type)
{
	return PG_ARGISNULL(number) ? make_value(type, true, (Datum) 0) :
		make_value(type, false, PG_GETARG_DATUM(number));
}

/*
 * The text of a column; NULL if it is NULL.
 */
char *
bemi_sql_text_of(const BemiValue *column)
{
	Assert(column->type == TEXTOID);
	return column->is_null ? NULL : TextDatumGetCString(column->datum);
}

bool
bemi_sql_is_true(const BemiValue *column)
{
	Assert(column->type == BOOLOID);
	return !column->is_null && DatumGetBool(column->datum);
}

/*
 * An eight-byte column (a number, a time or a position); 0 if it is NULL.
 */
int64
bemi_sql_number_of(const BemiValue *column)
{
	Assert(column->type == INT8OID || column->type == TIMESTAMPTZOID ||
		   column->type == PG_LSNOID);
	return column->is_null ? 0 : DatumGetInt64(column->datum);
}

static void
begin_call(SqlCall *call, const char *statement)
{
	call->statement = statement;
	call->caller = CurrentMemoryContext;
	SPI_connect();
	call->settings = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp",
							 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE,
							 true, 0, false);
}

/*
 * Ends a call.  After an error, the end of the (sub)transaction does this.
 */
static void
end_call(const SqlCall *call)
{
	AtEOXact_GUC(false, call->settings);
	SPI_finish();
}

/*
 * Runs the statement, and reads at most "limit" rows of its result; 0: all.
 */
static void
execute_call(const SqlCall *call, const BemiValue *arguments, int count,
			 bool read_only, int limit)
{
	Oid		   *types = palloc(sizeof(Oid) * count);
	Datum	   *values = palloc(sizeof(Datum) * count);
	char	   *nulls = palloc(count);
	int			result;

	for (int i = 0; i < count; i++)
	{
		types[i] = arguments[i].type;
		values[i] = arguments[i].datum;
		nulls[i] = arguments[i].is_null ? 'n' : ' ';
	}
	result = SPI_execute_with_args(call->statement, count, types, values,
								   nulls, read_only, limit);
	if (result < 0)
		elog(ERROR, "could not run \"%s\": %s", call->statement,
			 SPI_result_code_string(result));
}

/*
 * Copies a column of the result.  Throws an error if it has another type.
 */
static void
copy_column(const SqlCall *call, uint64 row, int column, BemiValue *copy)
{
	Form_pg_attribute attribute;
	MemoryContext caller;
	Datum		value;

	if (SPI_tuptable == NULL || column > SPI_tuptable->tupdesc->natts ||
		SPI_gettypeid(SPI_tuptable->tupdesc, column) != copy->type)
		elog(ERROR, "column %d of \"%s\" is not of type %u", column,
			 call->statement, copy->type);
	attribute = TupleDescAttr(SPI_tuptable->tupdesc, column - 1);
	value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						  column, &copy->is_null);
	copy->datum = (Datum) 0;
	if (copy->is_null)
		return;
	caller = MemoryContextSwitchTo(call->caller);
	copy->datum = attribute->attlen == -1 ?
		PointerGetDatum(PG_DETOAST_DATUM_COPY(value)) :
		datumCopy(value, attribute->attbyval, attribute->attlen);
	MemoryContextSwitchTo(caller);
}

static bool
fetch_row(const char *statement, const BemiValue *arguments, int count,
		  bool read_only, BemiValue *columns, int column_count)
{
	SqlCall		call;
	bool		found;

	begin_call(&call, statement);
	execute_call(&call, arguments, count, read_only, 1);
	found = SPI_processed > 0;
	for (int i = 0; i < column_count && found; i++)
		copy_column(&call, 0, i + 1, &columns[i]);
	end_call(&call);
	return found;
}

/*
 * Runs a statement and ignores its result.
 */
void
bemi_sql_run(const char *statement, const BemiValue *arguments, int count)
{
	SqlCall		call;

	begin_call(&call, statement);
	execute_call(&call, arguments, count, false, 0);
	end_call(&call);
}

/*
 * Calls a function that returns a boolean.  NULL counts as false.
 */
bool
bemi_sql_run_bool(const char *statement, const BemiValue *arguments, int count)
{
	BemiValue	result = {BOOLOID, true, (Datum) 0};

	(void) fetch_row(statement, arguments, count, false, &result, 1);
	return bemi_sql_is_true(&result);
}

/*
 * The same with the rights of the owner of the extension.  The caller has
 * checked the rights of the current user.
 */
void
bemi_sql_run_as_owner(const char *statement, const BemiValue *arguments,
					  int count)
{
	BemiRights	former;

	bemi_act_as_owner(&former);
	bemi_sql_run(statement, arguments, count);
	bemi_act_as_before(&former);
}

bool
bemi_sql_run_bool_as_owner(const char *statement, const BemiValue *arguments,
						   int count)
{
	BemiRights	former;
	bool		result;

	bemi_act_as_owner(&former);
	result = bemi_sql_run_bool(statement, arguments, count);
	bemi_act_as_before(&former);
	return result;
}

/*
 * Runs a statement and copies the columns of its first row.  The caller has
 * put their types into "columns".  Returns false if there is no row.
 */
bool
bemi_sql_run_row(const char *statement, const BemiValue *arguments, int count,
				 BemiValue *columns, int column_count)
{
	return fetch_row(statement, arguments, count, false, columns,
					 column_count);
}

/*
 * The same for a query, with the active snapshot.
 */
bool
bemi_sql_read_row(const char *query, const BemiValue *arguments, int count,
				  BemiValue *columns, int column_count)
{
	return fetch_row(query, arguments, count, true, columns, column_count);
}

/*
 * All rows of a query with one column of type "type" (oid or one of the reg*
 * types), as a list of OIDs, with the active snapshot.
 */
List *
bemi_sql_read_oids(const char *query, const BemiValue *arguments, int count,
				   Oid type)
{
	SqlCall		call;
	List	   *oids = NIL;

	begin_call(&call, query);
	execute_call(&call, arguments, count, true, 0);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		BemiValue	oid = {type, true, (Datum) 0};
		MemoryContext spi;

		copy_column(&call, i, 1, &oid);
		spi = MemoryContextSwitchTo(call.caller);
		oids = lappend_oid(oids, DatumGetObjectId(oid.datum));
		MemoryContextSwitchTo(spi);
	}
	end_call(&call);
	return oids;
}

/*
 * Makes rows readable under their name, for the rest of the call.
 */
static void
register_rows(const BemiRows *source)
{
	EphemeralNamedRelation relation =
		palloc0(sizeof(EphemeralNamedRelationData));
	int			result;

	relation->md.name = pstrdup(source->name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = source->columns;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = tuplestore_tuple_count(source->rows);
	relation->reldata = source->rows;
	result = SPI_register_relation(relation);
	if (result != SPI_OK_REL_REGISTER)
		elog(ERROR, "could not register \"%s\": %s", source->name,
			 SPI_result_code_string(result));
}

/*
 * The columns that a plan returns.
 */
static TupleDesc
result_columns(SPIPlanPtr plan)
{
	CachedPlanSource *source = linitial(SPI_plan_get_plan_sources(plan));

	return source->resultDesc;
}

/*
 * Runs a query and sends its rows to "receiver".  Unlike other statements, the
 * query is not a constant.  Its author must have qualified and quoted all
 * names.  If "columns" points to NULL, it gets the columns of the query.
 */
static void
send_rows(const SqlCall *call, const BemiRows *source, DestReceiver *receiver,
		  TupleDesc *columns)
{
	SPIExecuteOptions options = {.read_only = true,.must_return_tuples = true};
	SPIPlanPtr	plan;

	if (source != NULL)
		register_rows(source);
	plan = SPI_prepare_cursor(call->statement, 0, NULL,
							  CURSOR_OPT_PARALLEL_OK);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", call->statement,
			 SPI_result_code_string(SPI_result));
	if (columns != NULL && *columns == NULL)
	{
		MemoryContext spi = MemoryContextSwitchTo(call->caller);

		*columns = CreateTupleDescCopy(result_columns(plan));
		MemoryContextSwitchTo(spi);
	}
	options.dest = receiver;
	(void) SPI_execute_plan_extended(plan, &options);
}

/*
 * Appends all rows of a query to "result", with the active snapshot.  Its
 * columns are converted to those of "result"; if it has none, it gets those of
 * the query, in the current memory context.  The query can read the rows of
 * "source" as a table.
 */
void
bemi_sql_read_rows(const char *query, const BemiRows *source, BemiRows *result)
{
	DestReceiver *receiver;
	SqlCall		call;

	begin_call(&call, query);
	receiver = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(receiver, result->rows, call.caller, false,
									result->columns,
									"rows of the query have other columns");
	send_rows(&call, source, receiver, &result->columns);
	end_call(&call);
}

/* Calls a function for each row. */
typedef struct RowReceiver
{
	DestReceiver receiver;
	MemoryContext caller;
	BemiRowFunction function;
	void	   *argument;
} RowReceiver;

static void
ignore_start(DestReceiver *self, int operation, TupleDesc columns)
{
}

static void
ignore_end(DestReceiver *self)
{
}

static bool
receive_row(TupleTableSlot *row, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	MemoryContext executor = MemoryContextSwitchTo(receiver->caller);

	slot_getallattrs(row);
	receiver->function(row, receiver->argument);
	MemoryContextSwitchTo(executor);
	return true;
}

/*
 * The same, but calls a function for each row, in the current memory context.
 * The row is valid until the function returns.
 */
void
bemi_sql_read_each_row(const char *query, const BemiRows *source,
					   BemiRowFunction function, void *argument)
{
	SqlCall		call;
	RowReceiver receiver = {
		{receive_row, ignore_start, ignore_end, ignore_end, DestNone},
		CurrentMemoryContext, function, argument
	};

	begin_call(&call, query);
	send_rows(&call, source, (DestReceiver *) &receiver, NULL);
	end_call(&call);
}

/*
 * Prepares a statement that changes rows of the application, under the
 * search_path of the session, because triggers and the functions of defaults
 * may need it.  The author of the statement must have qualified and quoted all
 * names.  It reads the rows of "source" as a table.
 */
BemiWrite *
bemi_sql_prepare_write(const char *statement, const BemiRows *source)
{
	BemiWrite  *write = palloc(sizeof(BemiWrite));
	SPIPlanPtr	plan;

	SPI_connect();
	register_rows(source);
	plan = SPI_prepare(statement, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", statement,
			 SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan of \"%s\"", statement);
	SPI_finish();
	write->plan = plan;
	return write;
}

/*
 * Runs it for the rows of "source", and returns how many rows it has changed.
 * Its AFTER triggers wait until the caller's AfterTriggerEndQuery().
 */
uint64
bemi_sql_write(const BemiWrite *write, const BemiRows *source)
{
	uint64		changed;
	int			result;

	SPI_connect();
	register_rows(source);
	result = SPI_execute_snapshot(write->plan, NULL, NULL, InvalidSnapshot,
								  InvalidSnapshot, false, false, 0);
	if (result < 0)
		elog(ERROR, "could not write rows: %s",
			 SPI_result_code_string(result));
	changed = SPI_processed;
	SPI_finish();
	return changed;
}

/*
 * Without this call, also after an error, the plan lives until the end of the
 * session.
 */
void
bemi_sql_forget_write(BemiWrite *write)
{
	if (write == NULL)
		return;
	(void) SPI_freeplan(write->plan);
	pfree(write);
}

/*
 * Whether a procedure must not commit, because it was called in a transaction
 * block or from a function.
 */
bool
bemi_procedure_is_atomic(FunctionCallInfo fcinfo)
{
	return fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic;
}

/*
 * Begins a procedure, in a memory context that outlives its commits, until
 * bemi_procedure_end().
 */
void
bemi_procedure_begin(FunctionCallInfo fcinfo)
{
	SPI_connect_ext(bemi_procedure_is_atomic(fcinfo) ? 0 : SPI_OPT_NONATOMIC);
}

/*
 * Commits, and begins the next transaction.  Must not be called if the
 * procedure is atomic.
 */
void
bemi_procedure_commit(void)
{
	SPI_commit();
}

void
bemi_procedure_end(void)
{
	SPI_finish();
}
