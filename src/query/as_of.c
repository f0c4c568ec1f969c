/*-------------------------------------------------------------------------
 *
 * as_of.c
 *		bemi.as_of() and bemi.row_as_of(): a table as it was.
 *
 * Input: a table, and a time, a position or a change.  Output: its rows then.
 * as_of_begin.c finds the place in commit order, as_of_rows.c the rows.
 *
 * These functions return all rows in one piece.  If the library is preloaded,
 * as_of_plan.c replaces bemi.as_of() in FROM by a node that returns them one
 * by one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "query/query_internal.h"

PG_FUNCTION_INFO_V1(bemi_as_of);
PG_FUNCTION_INFO_V1(bemi_row_as_of);
PG_FUNCTION_INFO_V1(bemi_key_from_user);

static void
refuse_argument(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("%s", message),
			 errhint("%s", hint)));
}

void
bemi_refuse_future(TimestampTz time)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("time %s is in the future", timestamptz_to_str(time)),
			 errhint("SELECT now(), current_setting('timezone'); shows the latest time, and the zone of times without one.")));
}

/*
 * Throws an error if the arguments do not name a place in the past of a table.
 */
void
bemi_check_as_of_call(const BemiAsOfCall *call)
{
	if (!OidIsValid(call->table))
		refuse_argument("the first argument must have the row type of a table",
						"SELECT * FROM bemi.as_of(NULL::TABLE, TIME);");
	if (call->at.is_null + call->before.is_null + call->at_lsn.is_null != 2)
		refuse_argument("one of a time, a change and a position must be given",
						"SELECT * FROM bemi.as_of(NULL::TABLE, TIME);");
	if (!call->at.is_null &&
		DatumGetTimestampTz(call->at.datum) > GetCurrentTimestamp())
		bemi_refuse_future(DatumGetTimestampTz(call->at.datum));
	if (!call->at_lsn.is_null && !RecoveryInProgress() &&
		DatumGetLSN(call->at_lsn.datum) > GetXLogInsertRecPtr())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position %X/%X is in the future",
						LSN_FORMAT_ARGS(DatumGetLSN(call->at_lsn.datum))),
				 errhint("SELECT pg_current_wal_insert_lsn(); shows the latest position.")));
}

/*
 * The arguments from number "first" on, and the table from the type of the
 * first argument of all.
 */
static BemiAsOfCall
read_arguments(FunctionCallInfo fcinfo, int first)
{
	BemiAsOfCall call;

	call.table = get_typ_typrelid(get_fn_expr_argtype(fcinfo->flinfo, 0));
	call.at = bemi_sql_argument(fcinfo, first, TIMESTAMPTZOID);
	call.before = bemi_sql_argument(fcinfo, first + 1, UUIDOID);
	call.at_lsn = bemi_sql_argument(fcinfo, first + 2, PG_LSNOID);
	call.allow_gaps = bemi_sql_argument(fcinfo, first + 3, BOOLOID);
	call.timeout = bemi_sql_argument(fcinfo, first + 4, INTERVALOID);
	call.upto = 0;
	call.only_changes = false;
	bemi_check_as_of_call(&call);
	return call;
}

/*
 * bemi.as_of(target, at, before, at_lsn, allow_gaps, timeout)
 */
Datum
bemi_as_of(PG_FUNCTION_ARGS)
{
	BemiAsOfCall call = read_arguments(fcinfo, 1);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BemiPast   *past;
	TupleTableSlot *row;

	bemi_init_result_set(fcinfo);
	past = bemi_past_begin(&call, NULL);
	while ((row = bemi_past_next(past)) != NULL)
		tuplestore_puttupleslot(result->setResult, row);
	bemi_past_end(past);
	return (Datum) 0;
}

/* ---------- a key that a user has written ---------- */

/*
 * Throws the current error again, without the functions of bemi that have
 * found it.  What has called them remains.
 */
static void
throw_without_context(MemoryContext memory)
{
	ErrorData  *error;

	MemoryContextSwitchTo(memory);
	error = CopyErrorData();
	FlushErrorState();
	error->context = NULL;
	ThrowErrorData(error);
}

/*
 * The text of primary_key in bemi.changes.  Throws an error if it is no key of
 * the table.
 */
static char *
primary_key_of(Oid table, BemiValue key)
{
	BemiValue	arguments[] = {bemi_sql_oid(REGCLASSOID, table), key};
	BemiValue	result = {.type = TEXTOID};
	MemoryContext caller = CurrentMemoryContext;

	PG_TRY();
	{
		error_context_stack = NULL;
		(void) bemi_sql_read_row("SELECT _bemi.read_key($1, $2)", arguments,
								 lengthof(arguments), &result, 1);
	}
	PG_CATCH();
	{
		throw_without_context(caller);
	}
	PG_END_TRY();
	return bemi_sql_text_of(&result);
}

/*
 * _bemi.key_from_user(target, key)
 */
Datum
bemi_key_from_user(PG_FUNCTION_ARGS)
{
	return CStringGetTextDatum(primary_key_of(PG_GETARG_OID(0),
											  bemi_sql_argument(fcinfo, 1,
																TEXTOID)));
}

static void
push_member(JsonbParseState **state, const BemiPast *past, int i,
			JsonbValue *value)
{
	Form_pg_attribute column = TupleDescAttr(RelationGetDescr(past->table),
											 past->key->attnums[i] - 1);
	JsonbValue	name = {
		.type = jbvString,
		.val.string.val = NameStr(column->attname),
		.val.string.len = strlen(NameStr(column->attname))
	};

	pushJsonbValue(state, WJB_KEY, &name);
	pushJsonbValue(state, WJB_VALUE, value);
}

/*
 * The key as an object: of one column it is text, of several an object or an
 * array.
 */
static Jsonb *
key_as_object(const BemiPast *past, text * key)
{
	JsonbParseState *state = NULL;
	JsonbValue	string = {
		.type = jbvString,
		.val.string.val = VARDATA_ANY(key),
		.val.string.len = VARSIZE_ANY_EXHDR(key)
	};
	Jsonb	   *json = NULL;

	if (past->key->count > 1)
	{
		json = DatumGetJsonbP(
							  DirectFunctionCall1(jsonb_in, CStringGetDatum(
																			text_to_cstring(key))));
		if (JB_ROOT_IS_OBJECT(json))
			return json;
	}
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < past->key->count; i++)
		push_member(&state, past, i, json == NULL ? &string :
					getIthJsonbValueFromContainer(&json->root, i));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Puts the rows with a key.  There can be several if the key is deferrable, in
 * the middle of a transaction, or was not the key then.
 */
static void
put_rows(BemiPast *past, text * key, Tuplestorestate *result)
{
	BemiValue	argument = {TEXTOID, false, PointerGetDatum(key)};
	char	   *key_text = primary_key_of(RelationGetRelid(past->table),
										  argument);
	BemiRowImage image = {.row = key_as_object(past, key)};
	Datum		values[INDEX_MAX_KEYS];
	Datum		of_row[INDEX_MAX_KEYS];
	TupleTableSlot *row;

	if (!bemi_key_of_image(past->key, past->key_maker, &image, values))
		return;
	if (!past->is_counted)
	{
		row = bemi_past_probe(past, values, key_text);
		if (row != NULL)
			tuplestore_puttupleslot(result, row);
		return;
	}
	while ((row = bemi_past_next(past)) != NULL)
	{
		if (bemi_key_of_slot(past->key, row, of_row) &&
			bemi_keys_equal(past->key, of_row, values))
			tuplestore_puttupleslot(result, row);
	}
}

/*
 * bemi.row_as_of(target, key, at, before, at_lsn, allow_gaps, timeout)
 */
Datum
bemi_row_as_of(PG_FUNCTION_ARGS)
{
	BemiAsOfCall call = read_arguments(fcinfo, 2);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BemiPast   *past;

	if (PG_ARGISNULL(1))
		refuse_argument("key must not be null",
						"SELECT * FROM bemi.row_as_of(NULL::TABLE, KEY, TIME);");
	bemi_init_result_set(fcinfo);
	past = bemi_past_begin(&call, NULL);
	put_rows(past, PG_GETARG_TEXT_PP(1), result->setResult);
	bemi_past_end(past);
	return (Datum) 0;
}
