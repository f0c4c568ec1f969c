/*-------------------------------------------------------------------------
 *
 * read_changes.c
 *		_bemi.changes_by_index() and _bemi.reads_by_index(), for sql/query.
 *
 * Input: the conditions as arguments.  Output: rows of bemi.changes, with the
 * rights of the current user.  The server keeps all rows of a function before
 * the caller gets the first one, so the caller states how many he wants.
 *
 * Readers may call the functions themselves, so what sql/query never passes
 * must be an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "query/query.h"

PG_FUNCTION_INFO_V1(bemi_reads_by_index);
PG_FUNCTION_INFO_V1(bemi_changes_by_index);

/* Arguments of _bemi.changes_by_index(). */
enum
{
	ARG_SCHEMA,
	ARG_TABLE,
	ARG_ROW,
	ARG_SOURCES,
	ARG_OPERATIONS,
	ARG_COLUMN,
	ARG_CONTEXT,
	ARG_CONTEXT_TEXTS,
	ARG_FROM_TIME,
	ARG_TO_TIME,
	ARG_FROM_ID,
	ARG_TO_ID,
	ARG_AFTER_TIME,
	ARG_AFTER_ID,
	ARG_ORDER,
	ARG_LIMIT
};

/*
 * _bemi.reads_by_index(): whether _bemi.changes_by_index() works for the
 * current user, if he may read bemi.changes.
 */
Datum
bemi_reads_by_index(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(bemi_history_reads_by_index());
}

static const char *
text_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(number));
}

static const Jsonb *
jsonb_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : PG_GETARG_JSONB_P(number);
}

static const pg_uuid_t *
uuid_argument(FunctionCallInfo fcinfo, int number)
{
	return PG_ARGISNULL(number) ? NULL : PG_GETARG_UUID_P(number);
}

static const TimestampTz *
time_argument(FunctionCallInfo fcinfo, int number)
{
	TimestampTz *time;

	if (PG_ARGISNULL(number))
		return NULL;
	time = palloc(sizeof(TimestampTz));
	*time = PG_GETARG_TIMESTAMPTZ(number);
	return time;
}

/*
 * The texts of an array, as strings.  An empty one matches nothing: no source
 * and no operation has an empty name.
 */
static List *
texts_argument(FunctionCallInfo fcinfo, int number)
{
	List	   *texts = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(number))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(number), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (!nulls[i])
			texts = lappend(texts, TextDatumGetCString(elements[i]));
	}
	return texts != NIL ? texts : list_make1("");
}

static BemiChangesOrder
order_argument(FunctionCallInfo fcinfo, int number)
{
	const char *order = text_argument(fcinfo, number);

	if (order == NULL || strcmp(order, "newest") == 0)
		return BEMI_NEWEST_FIRST;
	if (strcmp(order, "newest by time") == 0)
		return BEMI_NEWEST_BY_TIME;
	if (strcmp(order, "oldest") == 0)
		return BEMI_OLDEST_FIRST;
	elog(ERROR, "order \"%s\" is not valid", order);
}

static void
read_conditions(FunctionCallInfo fcinfo, BemiChangesQuery *query)
{
	memset(query, 0, sizeof(BemiChangesQuery));
	query->schema = text_argument(fcinfo, ARG_SCHEMA);
	query->table = text_argument(fcinfo, ARG_TABLE);
	query->primary_key = text_argument(fcinfo, ARG_ROW);
	query->sources = texts_argument(fcinfo, ARG_SOURCES);
	query->operations = texts_argument(fcinfo, ARG_OPERATIONS);
	query->changed_column = text_argument(fcinfo, ARG_COLUMN);
	query->context = jsonb_argument(fcinfo, ARG_CONTEXT);
	query->context_texts = jsonb_argument(fcinfo, ARG_CONTEXT_TEXTS);
	query->from_time = time_argument(fcinfo, ARG_FROM_TIME);
	query->to_time = time_argument(fcinfo, ARG_TO_TIME);
	query->from_id = uuid_argument(fcinfo, ARG_FROM_ID);
	query->to_id = uuid_argument(fcinfo, ARG_TO_ID);
	if (!PG_ARGISNULL(ARG_AFTER_TIME))
	{
		query->after_time = PG_GETARG_TIMESTAMPTZ(ARG_AFTER_TIME);
		query->after_id = uuid_argument(fcinfo, ARG_AFTER_ID);
	}
	query->order = order_argument(fcinfo, ARG_ORDER);
	query->limit = PG_ARGISNULL(ARG_LIMIT) ? 0 : PG_GETARG_INT32(ARG_LIMIT);
}

static void
check_conditions(const BemiChangesQuery *query)
{
	if (query->primary_key != NULL &&
		(query->schema == NULL || query->table == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("of_row needs of_schema and of_table")));
	if (query->context != NULL && !JB_ROOT_IS_OBJECT(query->context))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("in_context must be a JSON object")));
	if (query->context_texts != NULL &&
		!JB_ROOT_IS_OBJECT(query->context_texts))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("context_texts must be a JSON object")));
}

/*
 * _bemi.changes_by_index()
 */
Datum
bemi_changes_by_index(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BemiHistory *history = bemi_history_open();
	BemiChangesQuery query;
	BemiChangesScan *scan;
	TupleTableSlot *slot;

	if (!bemi_history_is_readable(history))
		elog(ERROR, "bemi.changes cannot be read by its indexes");
	read_conditions(fcinfo, &query);
	check_conditions(&query);
	bemi_init_result_set(fcinfo);
	scan = bemi_changes_begin(history, &query);
	while ((slot = bemi_changes_next(scan)) != NULL)
	{
		tuplestore_puttupleslot(result->setResult, slot);
	}
	bemi_changes_end(scan);
	bemi_history_close(history);
	return (Datum) 0;
}
