/*-------------------------------------------------------------------------
 *
 * versions.c
 *		bemi.versions() and bemi.diff_table(): a table between two times.
 *
 * Input: a table and two times.  Output: each version that a row had between
 * them, or the rows that differ at the two.
 *
 * The rows of the first time are those of bemi.as_of() (as_of_begin.c,
 * as_of_rows.c), with its snapshots, its waiting and its errors.  The changes
 * up to the second time are read with the same snapshot of the changes.  Both
 * become events, in commit order: a row is added, or the row of a key is
 * removed.  An UPDATE is both.  They are collected in a tuplestore, and a
 * query with a window for each key makes versions of them.  So memory is
 * bounded by work_mem, as in any query.
 *
 * A TRUNCATE removes all rows.  It begins a new epoch, and the windows are of
 * key and epoch.
 *
 * In a table without a key, or with a deferrable one, each event has the
 * digest of its row (as_of_equality.c).  The first removal of a row ends the
 * copy that was added first, the second one the next, and so on.  So the
 * windows are of digest, epoch and number.
 *
 * bemi.diff_table() only reads the changes, because the first removal of a key
 * has the row of the first time.  Only if the table was truncated it also
 * needs the rows that no change names.  Without a key, it sums up how many
 * copies of each row were added and removed.
 *
 * What must never happen: the result disagrees with bemi.as_of() at one of the
 * two times.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "query/query_internal.h"

PG_FUNCTION_INFO_V1(bemi_versions);
PG_FUNCTION_INFO_V1(bemi_diff_table);

/* Columns of an event, in the order of describe_events(). */
enum
{
	EVENT_PLACE,				/* order */
	EVENT_EPOCH,				/* number of TRUNCATEs before */
	EVENT_ADDED,				/* or removed */
	EVENT_CHANGE,				/* NULL: a row of the first time */
	EVENT_COMMITTED_AT,
	EVENT_OPERATION,
	EVENT_CONTEXT,
	EVENT_IDENTITY,				/* digest of the row; NULL: the key tells */
	EVENT_VERSION,				/* the row; only its key if it is removed and
								 * nobody needs the rest */
	EVENT_COLUMNS
};

/* A table between two times. */
typedef struct Between
{
	BemiPast   *past;			/* of the first time */
	pg_uuid_t	end_id;			/* the first that is after the second time */
	bool		is_net;			/* of bemi.diff_table() */

	BemiRows	events;
	MemoryContext memory;		/* of one event */
	int64		place;
	int32		epoch;
	StringInfoData truncates;	/* their times, as elements of an array */
	BemiKeySet *seen;			/* keys of events, if is_net */
	BemiEquality *equality;		/* NULL: the key tells rows apart */
} Between;

/* ---------- events ---------- */

static TupleDesc
describe_events(const BemiPast *past)
{
	TupleDesc	desc = CreateTemplateTupleDesc(EVENT_COLUMNS);

	TupleDescInitEntry(desc, EVENT_PLACE + 1, "place", INT8OID, -1, 0);
	TupleDescInitEntry(desc, EVENT_EPOCH + 1, "epoch", INT4OID, -1, 0);
	TupleDescInitEntry(desc, EVENT_ADDED + 1, "added", BOOLOID, -1, 0);
	TupleDescInitEntry(desc, EVENT_CHANGE + 1, "change", UUIDOID, -1, 0);
	TupleDescInitEntry(desc, EVENT_COMMITTED_AT + 1, "committed_at",
					   TIMESTAMPTZOID, -1, 0);
	TupleDescInitEntry(desc, EVENT_OPERATION + 1, "operation", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, EVENT_CONTEXT + 1, "context", JSONBOID, -1, 0);
	TupleDescInitEntry(desc, EVENT_IDENTITY + 1, "identity", UUIDOID, -1, 0);
	TupleDescInitEntry(desc, EVENT_VERSION + 1, "version",
					   past->table->rd_rel->reltype, -1, 0);
	return desc;
}

static const char *
operation_name(const BemiPastChange *change)
{
	return change->operation == 'C' ? "CREATE" :
		change->operation == 'U' ? "UPDATE" : "DELETE";
}

/*
 * Appends an event.  "change" is the change that causes it, or NULL.
 * "identity" is NULL if the key tells rows apart.
 */
static void
put_event(Between *between, bool added, const BemiPastChange *change,
		  const BemiDigest *identity, Datum version)
{
	Datum		values[EVENT_COLUMNS] = {0};
	bool		nulls[EVENT_COLUMNS] = {0};

	values[EVENT_PLACE] = Int64GetDatum(between->place++);
	values[EVENT_EPOCH] = Int32GetDatum(between->epoch);
	values[EVENT_ADDED] = BoolGetDatum(added);
	nulls[EVENT_CHANGE] = nulls[EVENT_COMMITTED_AT] =
		nulls[EVENT_OPERATION] = nulls[EVENT_CONTEXT] = change == NULL;
	if (change != NULL)
	{
		values[EVENT_CHANGE] = UUIDPGetDatum(&change->id);
		values[EVENT_COMMITTED_AT] = TimestampTzGetDatum(change->time);
		values[EVENT_OPERATION] = CStringGetTextDatum(operation_name(change));
		values[EVENT_CONTEXT] =
			PointerGetDatum(PG_DETOAST_DATUM(change->context));
	}
	nulls[EVENT_IDENTITY] = identity == NULL;
	values[EVENT_IDENTITY] = PointerGetDatum(identity);
	values[EVENT_VERSION] = version;
	tuplestore_putvalues(between->events.rows, between->events.columns, values,
						 nulls);
}

/*
 * Appends the event of a row.
 */
static void
put_row(Between *between, bool added, const BemiPastChange *change,
		TupleTableSlot *row)
{
	BemiDigest	identity;

	StaticAssertStmt(sizeof(BemiDigest) == sizeof(pg_uuid_t),
					 "a digest is as long as a UUID");
	if (between->equality != NULL)
		bemi_equality_digest(between->equality, row, &identity);
	put_event(between, added, change,
			  between->equality != NULL ? &identity : NULL,
			  bemi_row_datum(RelationGetDescr(between->past->table), row));
}

/*
 * Appends the rows of the first time.
 */
static void
put_first_rows(Between *between)
{
	TupleTableSlot *row;
	int32		epoch = between->epoch;

	between->place = PG_INT64_MIN;
	between->epoch = 0;
	while ((row = bemi_past_next(between->past)) != NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(between->memory);

		put_row(between, true, NULL, row);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(between->memory);
		CHECK_FOR_INTERRUPTS();
	}
	between->epoch = epoch;
}

/*
 * A row with these values of the key, the others are NULL.
 */
static Datum
row_of_key(const Between *between, const Datum *key)
{
	TupleDesc	desc = RelationGetDescr(between->past->table);
	const BemiKey *columns = between->past->key;
	Datum	   *values = palloc0(sizeof(Datum) * desc->natts);
	bool	   *nulls = palloc(sizeof(bool) * desc->natts);

	memset(nulls, true, sizeof(bool) * desc->natts);
	for (int i = 0; i < columns->count; i++)
	{
		values[columns->attnums[i] - 1] = key[i];
		nulls[columns->attnums[i] - 1] = false;
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, nulls));
}

/* ---------- changes ---------- */

/*
 * Appends that the row of a key is removed.  An UPDATE of a table without
 * REPLICA IDENTITY FULL has no row before if it keeps the key.
 */
static void
put_removal(Between *between, const BemiPastChange *change)
{
	BemiPast   *past = between->past;
	Datum		key[INDEX_MAX_KEYS];

	if (past->is_counted)
	{
		put_row(between, false, change,
				bemi_row_of_change(past, change, true));
		return;
	}
	if (!bemi_removed_key(past, change, key) &&
		!bemi_added_key(past, change, key))
		return;
	if (between->is_net && bemi_key_set_add(between->seen, key))
		put_row(between, false, change,
				bemi_row_of_change(past, change, true));
	else
		put_event(between, false, change, NULL, row_of_key(between, key));
}

static void
put_addition(Between *between, const BemiPastChange *change)
{
	Datum		key[INDEX_MAX_KEYS];

	if (between->seen != NULL && bemi_added_key(between->past, change, key))
		(void) bemi_key_set_add(between->seen, key);
	put_row(between, true, change,
			bemi_row_of_change(between->past, change, false));
}

static void
put_truncate(Between *between, const BemiPastChange *change)
{
	appendStringInfo(&between->truncates, "%s\"%s\"",
					 between->epoch++ > 0 ? "," : "",
					 timestamptz_to_str(change->time));
}

/*
 * Appends what one change does.  A SNAPSHOT does nothing.
 */
static void
put_change(Between *between, const BemiPastChange *change)
{
	if (change->operation == 'T')
		put_truncate(between, change);
	if (bemi_change_removes(change))
		put_removal(between, change);
	if (change->operation == 'C' || change->operation == 'U')
		put_addition(between, change);
}

/*
 * Appends the changes between the two times.
 */
static void
put_changes(Between *between)
{
	BemiPast   *past = between->past;
	BemiPastScan *scan =
		bemi_past_scan_begin(past, &past->first_id, &between->end_id, NULL);
	BemiPastChange change;
	MemoryContext caller = MemoryContextSwitchTo(between->memory);

	between->place = 0;
	/* The range of the scan includes its end. */
	while (bemi_past_scan_next(scan, &change) &&
		   memcmp(&change.id, &between->end_id, sizeof(pg_uuid_t)) < 0)
	{
		bemi_past_check_stored(past, &change.id);
		put_change(between, &change);
		MemoryContextReset(between->memory);
	}
	MemoryContextSwitchTo(caller);
	bemi_past_scan_end(scan);
}

/* ---------- the query ---------- */

/*
 * The events, those of a table without a key with numbers: the first removal
 * of a row belongs to the first addition.
 */
static const char *
events_of(const Between *between)
{
	return between->equality == NULL ?
		"bemi_events" :
		"(SELECT b.*, row_number() OVER (PARTITION BY b.identity, b.epoch, b.added ORDER BY b.place) AS number"
		" FROM bemi_events b)";
}

/*
 * What tells the rows of events "e" apart, as a list for PARTITION BY.
 */
static char *
key_columns(const Between *between)
{
	const BemiPast *past = between->past;
	TupleDesc	desc = RelationGetDescr(past->table);
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < past->key->count; i++)
	{
		Form_pg_attribute column =
			TupleDescAttr(desc, past->key->attnums[i] - 1);

		appendStringInfo(&list, "%s(e.version).%s", i > 0 ? ", " : "",
						 quote_identifier(NameStr(column->attname)));
	}
	return list.data;
}

/*
 * A large context is complete only in the first change of its transaction,
 * which may be of another table.
 */
static char *
query_of_versions(const Between *between)
{
	return psprintf("SELECT v.committed_at, coalesce(v.next_at, t.at), v.change, v.operation,"
					" CASE WHEN v.context ? '_whole'"
					" THEN (SELECT bemi.full_context(c) FROM bemi.changes c"
					" WHERE c.id = v.change AND c.committed_at = v.committed_at)"
					" ELSE v.context END, v.version"
					" FROM (SELECT e.*, lead(e.committed_at) OVER w AS next_at,"
					" lag(true) OVER w IS NULL AND NOT e.added AND e.identity IS NOT NULL AS is_wrong"
					" FROM %s e"
					" WINDOW w AS (PARTITION BY %s, e.epoch ORDER BY e.place)) v"
					" LEFT JOIN unnest('{%s}'::timestamptz[]) WITH ORDINALITY t(at, n) ON t.n = v.epoch + 1"
					" WHERE v.added OR v.is_wrong AND %s AND _bemi.wrong_change_of_past(%s, v.change)"
					" ORDER BY v.place",
					events_of(between),
					between->equality != NULL ?
					"e.identity, e.number" :
					key_columns(between),
					between->truncates.data,
					between->past->allow_gaps ? "false" : "true",
					quote_literal_cstr(RelationGetRelationName(
															   between->past->table)));
}

/*
 * Copies at the second time, less those of the first, for each row of a table
 * without a key.
 */
static char *
query_of_copies(const Between *between)
{
	return psprintf("SELECT s.* FROM (SELECT row_number() OVER w AS i,"
					" first_value(e.version) OVER w AS before, last_value(e.version) OVER w AS after,"
					" sum(CASE WHEN e.place < 0 THEN -1 WHEN e.epoch < %d THEN 0 WHEN e.added THEN 1 ELSE -1 END) OVER w AS n"
					" FROM bemi_events e WINDOW w AS (PARTITION BY e.identity ORDER BY e.place"
					" ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)) s"
					" WHERE s.i = 1 AND s.n <> 0",
					between->epoch);
}

/*
 * The rows of a table without a key were only added or removed.
 */
static char *
query_of_unkeyed_differences(const Between *between)
{
	return psprintf("SELECT CASE WHEN d.n > 0 THEN 'CREATE' ELSE 'DELETE' END,"
					" CASE WHEN d.n < 0 THEN d.before END, CASE WHEN d.n > 0 THEN d.after END"
					" FROM (%s) d, pg_catalog.generate_series(1, abs(d.n))",
					query_of_copies(between));
}

/*
 * With a deferrable key, there is at most one row with a key at each time.  So
 * a key has one copy less, one more, or both.
 */
static char *
query_of_deferrable_differences(const Between *between)
{
	return psprintf("SELECT CASE WHEN d.n > 0 THEN 'CREATE' WHEN d.number = 1 THEN 'DELETE' ELSE 'UPDATE' END,"
					" CASE WHEN d.n < 0 THEN d.before END, d.next"
					" FROM (SELECT e.n, e.before, row_number() OVER w AS i, count(*) OVER w AS number,"
					" last_value(CASE WHEN e.n > 0 THEN e.after END) OVER w AS next"
					" FROM (SELECT c.*, CASE WHEN c.n < 0 THEN c.before ELSE c.after END AS version FROM (%s) c) e"
					" WINDOW w AS (PARTITION BY %s ORDER BY e.n"
					" ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)) d"
					" WHERE d.i = 1",
					query_of_copies(between), key_columns(between));
}

/*
 * The first event of a key tells the row of the first time, and the last event
 * that of the second time.  A window for the key over all epochs.
 */
static char *
query_of_differences(const Between *between)
{
	return psprintf("SELECT CASE WHEN NOT d.was THEN 'CREATE' WHEN NOT d.stays THEN 'DELETE' ELSE 'UPDATE' END,"
					" CASE WHEN d.was THEN d.before END, CASE WHEN d.stays THEN d.after END"
					" FROM (SELECT row_number() OVER w AS n,"
					" first_value(e.place < 0 OR NOT e.added) OVER w AS was,"
					" last_value(e.added AND e.epoch = %d) OVER w AS stays,"
					" first_value(e.version) OVER w AS before, last_value(e.version) OVER w AS after"
					" FROM bemi_events e WINDOW w AS (PARTITION BY %s ORDER BY e.place"
					" ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)) d"
					" WHERE d.n = 1 AND (d.was OR d.stays)"
					" AND NOT (d.was AND d.stays AND d.before OPERATOR(pg_catalog.*=) d.after)",
					between->epoch, key_columns(between));
}

/*
 * Whether at most one row of each time has a key, in images, too.
 */
static bool
has_unique_key(const BemiPast *past)
{
	return past->key != NULL && past->key->is_in_images &&
		!past->has_former_key;
}

/* ---------- calls ---------- */

/*
 * The arguments: target, from_time, to_time, allow_gaps, timeout.
 */
static BemiAsOfCall
read_arguments(FunctionCallInfo fcinfo)
{
	BemiAsOfCall call = {
		.table = get_typ_typrelid(get_fn_expr_argtype(fcinfo->flinfo, 0)),
		.at = bemi_sql_argument(fcinfo, 1, TIMESTAMPTZOID),
		.before = {UUIDOID, true, 0},
		.at_lsn = {PG_LSNOID, true, 0},
		.allow_gaps = bemi_sql_argument(fcinfo, 3, BOOLOID),
		.timeout = bemi_sql_argument(fcinfo, 4, INTERVALOID)
	};

	if (call.at.is_null || PG_ARGISNULL(2))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("times must not be null")));
	call.upto = PG_GETARG_TIMESTAMPTZ(2);
	if (DatumGetTimestampTz(call.at.datum) > call.upto)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time range is not valid"),
				 errdetail("It ends before it begins.")));
	bemi_check_as_of_call(&call);
	if (call.upto > GetCurrentTimestamp())
		bemi_refuse_future(call.upto);
	return call;
}

static void
begin_between(Between *between, BemiAsOfCall *call, bool is_net)
{
	memset(between, 0, sizeof(Between));
	between->is_net = is_net;
	call->only_changes = is_net;
	between->past = bemi_past_begin(call, NULL);
	bemi_past_end_at(between->past, call->upto, &between->end_id);
	between->events.name = "bemi_events";
	between->events.columns = describe_events(between->past);
	between->events.rows = tuplestore_begin_heap(true, false, work_mem);
	between->memory = AllocSetContextCreate(CurrentMemoryContext,
											"bemi event",
											ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&between->truncates);
	if (between->past->is_counted)
		between->equality =
			bemi_equality_create(between->past->table,
								 bemi_ignored_columns(between->past, NULL));
	else if (is_net)
		between->seen = bemi_key_set_create(between->past->key);
}

/*
 * Runs the query of the events into the result of the function.
 */
static void
return_rows(Between *between, char *query, FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BemiRows	rows = {"", result->setDesc, result->setResult};

	PushActiveSnapshot(between->past->of_changes);
	bemi_sql_read_rows(query, &between->events, &rows);
	PopActiveSnapshot();
	tuplestore_end(between->events.rows);
	bemi_past_end(between->past);
}

/*
 * bemi.versions(target, from_time, to_time, allow_gaps, timeout)
 */
Datum
bemi_versions(PG_FUNCTION_ARGS)
{
	BemiAsOfCall call = read_arguments(fcinfo);
	Between		between;

	bemi_init_result_set(fcinfo);
	begin_between(&between, &call, false);
	put_first_rows(&between);
	put_changes(&between);
	return_rows(&between, query_of_versions(&between), fcinfo);
	return (Datum) 0;
}

/*
 * bemi.diff_table(target, from_time, to_time, allow_gaps, timeout)
 */
Datum
bemi_diff_table(PG_FUNCTION_ARGS)
{
	BemiAsOfCall call = read_arguments(fcinfo);
	Between		between;

	bemi_init_result_set(fcinfo);
	begin_between(&between, &call, true);
	put_changes(&between);
	if (between.epoch > 0)
		put_first_rows(&between);
	return_rows(&between, between.equality == NULL ?
				query_of_differences(&between) :
				!has_unique_key(between.past) ?
				query_of_unkeyed_differences(&between) :
				query_of_deferrable_differences(&between), fcinfo);
	return (Datum) 0;
}
