/*-------------------------------------------------------------------------
 *
 * as_of_json.c
 *		bemi.as_of_json(): a table as it was, with columns that were dropped
 *		since.
 *
 * Input: a table and a place in its past.  Output: the rows of bemi.as_of() as
 * jsonb, and in each the columns of that time which the table no longer has.
 *
 * The rows are those of as_of_rows.c.  If columns were dropped since, their
 * values are in the JSON of the history: in "before" of the first change of
 * the row since, or in "after" of the last one before that time.  Rows and
 * images are collected in a tuplestore, and a query (_bemi.query_of_json())
 * joins them by their keys.  Without a key, dropped columns are an error.
 *
 * What must never happen: code of a user runs with the rights of the reader. A
 * type can have a cast to json, which is a function of the type's owner.  So
 * JSON is made with the rights of the table's owner, as functions in indexes
 * are called.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "query/query_internal.h"

PG_FUNCTION_INFO_V1(bemi_as_of_json);

/* Columns of a collected row. */
enum
{
	ROW_VERSION,				/* as JSON; or NULL */
	ROW_ID,						/* of a change; or NULL */
	ROW_IMAGE,					/* its row "before"; or NULL */
	ROW_COLUMNS
};

static TupleDesc
describe_rows(void)
{
	TupleDesc	desc = CreateTemplateTupleDesc(ROW_COLUMNS);

	TupleDescInitEntry(desc, ROW_VERSION + 1, "version", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, ROW_ID + 1, "id", UUIDOID, -1, 0);
	TupleDescInitEntry(desc, ROW_IMAGE + 1, "image", JSONBOID, -1, 0);
	return desc;
}

/*
 * to_jsonb() of a row.
 */
static Datum
call_to_jsonb(Oid type, Datum row)
{
	FmgrInfo	function;
	Const	   *argument = makeConst(type, -1, InvalidOid, -1, (Datum) 0, true,
									 false);

	fmgr_info(F_TO_JSONB, &function);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(argument), InvalidOid,
											 InvalidOid,
											 COERCE_EXPLICIT_CALL),
					   &function);
	return FunctionCall1(&function, row);
}

/*
 * The same with the rights of the table's owner.
 */
static Datum
json_of_row(const BemiPast *past, Datum row)
{
	Form_pg_class table = past->table->rd_rel;
	BemiRights	caller;
	Datum		json;

	bemi_act_restricted_as(table->relowner, &caller);
	json = call_to_jsonb(table->reltype, row);
	bemi_act_as_before(&caller);
	return json;
}

/*
 * Collects the rows.
 */
static void
collect_rows(BemiPast *past, BemiRows *rows, MemoryContext memory)
{
	TupleTableSlot *row;

	while ((row = bemi_past_next(past)) != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(memory);
		Datum		version =
			bemi_row_datum(RelationGetDescr(past->table), row);
		Datum		values[ROW_COLUMNS] = {json_of_row(past, version)};
		bool		nulls[ROW_COLUMNS] = {false, true, true};

		tuplestore_putvalues(rows->rows, rows->columns, values, nulls);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(memory);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Collects the images of rows that were changed since: "before" of the first
 * change that removes a key, unless an earlier one has added it.  After a
 * TRUNCATE there are none.
 */
static void
collect_images(BemiPast *past, BemiRows *rows, MemoryContext memory)
{
	BemiKeySet *seen = bemi_key_set_create(past->key);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	BemiPastScan *scan;
	BemiPastChange change;
	pg_uuid_t	last;

	memset(&last, 0xFF, sizeof(last));
	scan = bemi_past_scan_begin(past, &past->first_id, &last, NULL);
	while (bemi_past_scan_next(scan, &change) && change.operation != 'T')
	{
		Datum		values[ROW_COLUMNS] = {
			0, UUIDPGetDatum(&change.id), JsonbPGetDatum(change.before)
		};
		bool		nulls[ROW_COLUMNS] = {true, false, false};
		Datum		key[INDEX_MAX_KEYS];

		if (change.operation != 'S' && bemi_removed_key(past, &change, key) &&
			bemi_key_set_add(seen, key))
			tuplestore_putvalues(rows->rows, rows->columns, values, nulls);
		if (change.operation != 'S' && bemi_added_key(past, &change, key))
			(void) bemi_key_set_add(seen, key);
		MemoryContextReset(memory);
	}
	bemi_past_scan_end(scan);
	MemoryContextSwitchTo(caller);
}

/*
 * The query that adds dropped columns to the collected rows; NULL: there are
 * none.
 */
static char *
query_of_json(const BemiPast *past, const BemiAsOfCall *call)
{
	BemiValue	arguments[] = {
		bemi_sql_oid(REGCLASSOID, RelationGetRelid(past->table)),
		bemi_sql_text(linitial(past->sources)),
		bemi_sql_text(past->schema_name), bemi_sql_text(past->table_name),
		bemi_sql_uuid(&past->first_id), call->at,
		bemi_sql_bool(bemi_sql_is_true(&call->allow_gaps))
	};
	BemiValue	query = {.type = TEXTOID};

	PushActiveSnapshot(past->of_changes);
	(void)
		bemi_sql_read_row("SELECT _bemi.query_of_json($1, $2, $3, $4, $5, $6, $7)",
						  arguments, lengthof(arguments), &query, 1);
	PopActiveSnapshot();
	return bemi_sql_text_of(&query);
}

/*
 * Throws an error if columns were dropped, and no key tells the rows apart:
 * rows that are equal today had different values in them.
 */
static void
check_dropped_columns(const BemiPast *past)
{
	if (past->is_counted && !past->allow_gaps)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot read dropped columns of table \"%s\"",
						RelationGetRelationName(past->table)),
				 errdetail("It has no primary key, or a deferrable one, or one with an array, so it is not known which row had which value."),
				 errhint("With allow_gaps => true, the rows lack these columns.")));
}

/*
 * Runs the query into the result of the function.
 */
static void
return_json(const BemiPast *past, const BemiRows *collected, const char *query,
			ReturnSetInfo *result)
{
	BemiRows	rows = {"", result->setDesc, result->setResult};

	PushActiveSnapshot(past->of_changes);
	bemi_sql_read_rows(query, collected, &rows);
	PopActiveSnapshot();
}

/*
 * Collects all that the query needs.
 */
static void
collect(BemiPast *past, BemiRows *rows, bool with_images)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi row",
												 ALLOCSET_DEFAULT_SIZES);
	int			settings = bemi_pin_settings_of_texts();

	collect_rows(past, rows, memory);
	if (with_images)
		collect_images(past, rows, memory);
	AtEOXact_GUC(false, settings);
	MemoryContextDelete(memory);
}

static BemiAsOfCall
read_arguments(FunctionCallInfo fcinfo)
{
	BemiAsOfCall call = {
		.at = bemi_sql_argument(fcinfo, 1, TIMESTAMPTZOID),
		.before = bemi_sql_argument(fcinfo, 2, UUIDOID),
		.at_lsn = bemi_sql_argument(fcinfo, 3, PG_LSNOID),
		.allow_gaps = bemi_sql_argument(fcinfo, 4, BOOLOID),
		.timeout = bemi_sql_argument(fcinfo, 5, INTERVALOID)
	};

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("target table must not be null")));
	call.table = PG_GETARG_OID(0);
	bemi_check_as_of_call(&call);
	return call;
}

/*
 * Prepares a result of one column.
 */
static ReturnSetInfo *
init_result(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller =
		MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);

	result->returnMode = SFRM_Materialize;
	result->setResult = tuplestore_begin_heap(true, false, work_mem);
	result->setDesc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(result->setDesc, 1, "as_of_json", JSONBOID, -1, 0);
	MemoryContextSwitchTo(caller);
	return result;
}

/*
 * bemi.as_of_json(target, at, before, at_lsn, allow_gaps, timeout)
 */
Datum
bemi_as_of_json(PG_FUNCTION_ARGS)
{
	BemiAsOfCall call = read_arguments(fcinfo);
	ReturnSetInfo *result = init_result(fcinfo);
	BemiPast   *past;
	char	   *query;
	BemiRows	rows = {"bemi_rows", NULL, NULL};

	past = bemi_past_begin(&call, NULL);
	query = query_of_json(past, &call);
	if (query != NULL)
		check_dropped_columns(past);
	if (past->is_counted)
		query = NULL;
	rows.columns = describe_rows();
	rows.rows = tuplestore_begin_heap(true, false, work_mem);
	/* Changes beyond a gap do not have the rows of the place. */
	collect(past, &rows, query != NULL && !past->from_history);
	return_json(past, &rows,
				query ? query : "SELECT r.version FROM bemi_rows r", result);
	tuplestore_end(rows.rows);
	bemi_past_end(past);
	return (Datum) 0;
}
