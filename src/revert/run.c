/*-------------------------------------------------------------------------
 *
 * run.c
 *		bemi.revert(): carries a plan out.
 *
 * Input: a plan in a tuplestore.  Output: changed rows of the application, and
 * in each change the caller's context with "revertOf".
 *
 * The steps of each table run in the order of the plan, that is the reverse
 * order of the changes.  Consecutive ones of one kind become one statement,
 * which finds its rows by ctid and table.  So a row that somebody has changed
 * since the snapshot of the plan is not found, and the call fails.
 *
 * The whole plan is one statement for triggers: AFTER triggers are queued, and
 * fire when all steps have been carried out.  Foreign keys are such triggers.
 * So no order of the steps violates them, not even that of a cascade, which is
 * recorded after its cause, or a circle of references.  What they find at the
 * end counts.
 *
 * Statements run with the rights, the search_path and the other settings of
 * the caller, as his own would.
 *
 * What must never happen: a part of a plan is carried out.  Each error throws,
 * and the caller's statement is rolled back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/snapmgr.h"

#include "context/context.h"
#include "revert/revert_internal.h"

PG_FUNCTION_INFO_V1(bemi_revert);
PG_FUNCTION_INFO_V1(bemi_restore);

#define ROWS_PER_STATEMENT	1000
#define STATEMENTS_PER_TABLE	32
#define STEPS_PER_NOTICE	100000

/*
 * No row of a plan was written before the command that has carried out its
 * step.
 */
#define ANY_COMMAND ((CommandId) 1)

/*
 * A statement for steps of one table, kind and set of columns.  It reads
 * "bemi_rows", of which the first two columns are the place of a row.
 */
typedef struct Statement
{
	char	   *kind;
	Datum		columns;
	bool		columns_are_null;
	TupleDesc	row_columns;
	BemiInput  *inputs;			/* for each column */
	BemiWrite  *write;
	int			limit;			/* rows */
} Statement;

#define PLACE_COLUMNS	2

/* The steps of one table that have not been carried out yet. */
typedef struct Batch
{
	const BemiRevertTable *table;
	CommandId	since;			/* 0, or see settle_rows() */
	List	   *statements;		/* Statement *, the last used one first */
	MemoryContext memory;		/* of a row */
	int			count;
	Tuplestorestate *rows;
} Batch;

/*
 * The value of a column after a step, or that of the key, which may be in the
 * row as it is now.
 */
static JsonbValue *
find_value(TupleTableSlot *row, const char *name, JsonbValue *buffer)
{
	static const int sources[] = {BEMI_STEP_AFTER, BEMI_STEP_ROW_NOW};
	JsonbValue *value = NULL;

	for (int i = 0; i < lengthof(sources) && value == NULL; i++)
	{
		if (!row->tts_isnull[sources[i]])
			value =
				getKeyJsonValueFromContainer(&DatumGetJsonbP(
															 row->tts_values
															 [sources[i]])
											 ->root,
											 name, strlen(name), buffer);
	}
	return value;
}

/*
 * The values of a step, and where its row is.
 */
static void
push_row(Batch *batch, const Statement *statement, TupleTableSlot *row)
{
	int			count = statement->row_columns->natts;
	Datum	   *values = palloc(sizeof(Datum) * count);
	bool	   *nulls = palloc(sizeof(bool) * count);
	JsonbValue	buffer;

	values[0] = row->tts_values[BEMI_STEP_TABLEOID];
	nulls[0] = row->tts_isnull[BEMI_STEP_TABLEOID];
	values[1] = row->tts_values[BEMI_STEP_CTID];
	nulls[1] = row->tts_isnull[BEMI_STEP_CTID];
	for (int i = PLACE_COLUMNS; i < count; i++)
	{
		const char *name =
			NameStr(TupleDescAttr(statement->row_columns, i)->attname);

		values[i] = bemi_revert_input(&statement->inputs[i],
									  find_value(row, name, &buffer),
									  &nulls[i]);
	}
	tuplestore_putvalues(batch->rows, statement->row_columns, values, nulls);
}

static Statement *
current_statement(const Batch *batch)
{
	return linitial(batch->statements);
}

static void
fail_for_other_rows(const Batch *batch, uint64 changed)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("table \"%s\" has changed since the plan was made",
					DatumGetCString(
									DirectFunctionCall1(regclassout,
														ObjectIdGetDatum(
																		 batch->table
																		 ->relation)))),
			 errdetail("%s of %d rows took effect for " UINT64_FORMAT
					   ".",
					   current_statement(batch)->kind, batch->count,
					   changed),
			 errhint("Make a new plan, or look for a trigger that suppresses rows.")));
}

/*
 * Runs the statement for the steps that have been collected.
 */
static void
flush_batch(Batch *batch)
{
	BemiRows	rows = {"bemi_rows", NULL, batch->rows};
	uint64		changed;

	if (batch->count == 0)
		return;
	rows.columns = current_statement(batch)->row_columns;
	changed = bemi_sql_write(current_statement(batch)->write, &rows);
	if (changed != batch->count && batch->since == 0)
		fail_for_other_rows(batch, changed);
	tuplestore_clear(batch->rows);
	batch->count = 0;
}

static bool
is_same_array(Datum a, Datum b)
{
	return VARSIZE_ANY(DatumGetPointer(a)) ==
		VARSIZE_ANY(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b),
			   VARSIZE_ANY(DatumGetPointer(a))) == 0;
}

/*
 * Whether a statement is that of a step.
 */
static bool
is_statement_of(const Statement *statement, TupleTableSlot *row,
				const char *kind)
{
	return strcmp(statement->kind, kind) == 0 &&
		statement->columns_are_null == row->tts_isnull[BEMI_STEP_COLUMNS] &&
		(statement->columns_are_null ||
		 is_same_array(statement->columns,
					   row->tts_values[BEMI_STEP_COLUMNS]));
}

/*
 * The columns of the rows of a statement, and how JSON becomes their values.
 */
static void
prepare_rows(Statement *statement, Datum names, Datum types)
{
	Datum	   *name;
	Datum	   *type;
	int			count;

	deconstruct_array(DatumGetArrayTypeP(types), OIDOID, sizeof(Oid), true,
					  TYPALIGN_INT, &type, NULL, &count);
	deconstruct_array(DatumGetArrayTypeP(names), TEXTOID, -1, false,
					  TYPALIGN_INT, &name, NULL, &count);
	count += PLACE_COLUMNS;
	statement->row_columns = CreateTemplateTupleDesc(count);
	TupleDescInitEntry(statement->row_columns, 1, "bemi table", OIDOID, -1, 0);
	TupleDescInitEntry(statement->row_columns, 2, "bemi row", TIDOID, -1, 0);
	statement->inputs = palloc0(sizeof(BemiInput) * count);
	for (int i = PLACE_COLUMNS; i < count; i++)
	{
		Oid			its_type = DatumGetObjectId(type[i - PLACE_COLUMNS]);

		TupleDescInitEntry(statement->row_columns, i + 1,
						   TextDatumGetCString(name[i - PLACE_COLUMNS]),
						   its_type, -1, 0);
		bemi_revert_prepare_input(&statement->inputs[i], its_type);
	}
}

static Statement *
prepare_statement(const Batch *batch, TupleTableSlot *row, char *kind)
{
	Statement  *statement = palloc(sizeof(Statement));
	BemiRows	rows = {"bemi_rows", NULL, batch->rows};
	BemiValue	arguments[4];
	BemiValue	columns[] = {
		{TEXTOID, true, 0}, {BOOLOID, true, 0}, {TEXTARRAYOID, true, 0},
		{OIDARRAYOID, true, 0}
	};

	statement->kind = kind;
	statement->columns_are_null = row->tts_isnull[BEMI_STEP_COLUMNS];
	statement->columns = statement->columns_are_null ? (Datum) 0 :
		datumCopy(row->tts_values[BEMI_STEP_COLUMNS], false, -1);
	arguments[0] = bemi_sql_oid(REGCLASSOID, batch->table->relation);
	arguments[1] = bemi_sql_text(kind);
	arguments[2].type = TEXTARRAYOID;
	arguments[2].is_null = statement->columns_are_null;
	arguments[2].datum = statement->columns;
	arguments[3] = bemi_sql_int8(batch->since);
	(void)
		bemi_sql_read_row("SELECT statement, one_by_one, coalesce(names, '{}'),"
						  " coalesce(types, '{}')"
						  " FROM _bemi.revert_statement($1, $2, $3, $4)",
						  arguments, lengthof(arguments), columns,
						  lengthof(columns));
	prepare_rows(statement, columns[2].datum, columns[3].datum);
	rows.columns = statement->row_columns;
	statement->write = bemi_sql_prepare_write(bemi_sql_text_of(&columns[0]),
											  &rows);
	statement->limit = bemi_sql_is_true(&columns[1]) ? 1 : ROWS_PER_STATEMENT;
	return statement;
}

/*
 * Makes the statement of a step the first one of the list.  The list is
 * bounded, because a table has many sets of columns.
 */
static void
choose_statement(Batch *batch, TupleTableSlot *row, char *kind)
{
	ListCell   *cell;
	Statement  *statement = NULL;

	foreach(cell, batch->statements)
	{
		if (is_statement_of(lfirst(cell), row, kind))
		{
			statement = lfirst(cell);
			batch->statements =
				foreach_delete_current(batch->statements, cell);
			break;
		}
	}
	if (statement == NULL)
		statement = prepare_statement(batch, row, kind);
	batch->statements = lcons(statement, batch->statements);
	if (list_length(batch->statements) > STATEMENTS_PER_TABLE)
	{
		statement = llast(batch->statements);
		bemi_sql_forget_write(statement->write);
		batch->statements = list_delete_last(batch->statements);
	}
}

static Batch *
batch_of_table(List **batches, const BemiRevertTable *table, CommandId since)
{
	ListCell   *cell;
	Batch	   *batch;

	foreach(cell, *batches)
	{
		batch = lfirst(cell);
		if (batch->table->relation == table->relation)
			return batch;
	}
	batch = palloc0(sizeof(Batch));
	batch->table = table;
	batch->since = since == 0 || table->mends ? since : ANY_COMMAND;
	batch->memory = AllocSetContextCreate(CurrentMemoryContext,
										  "bemi revert row",
										  ALLOCSET_DEFAULT_SIZES);
	batch->rows = tuplestore_begin_heap(false, false, work_mem);
	*batches = lappend(*batches, batch);
	return batch;
}

static void
add_step(Batch *batch, TupleTableSlot *row)
{
	char	   *kind = batch->since ? pstrdup("SETTLE") :
		TextDatumGetCString(row->tts_values[BEMI_STEP_KIND]);
	MemoryContext caller;

	if (batch->statements == NIL ||
		!is_statement_of(current_statement(batch), row, kind))
	{
		flush_batch(batch);
		choose_statement(batch, row, kind);
	}
	else
		pfree(kind);
	caller = MemoryContextSwitchTo(batch->memory);
	push_row(batch, current_statement(batch), row);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(batch->memory);
	if (++batch->count == current_statement(batch)->limit)
		flush_batch(batch);
}

static void
flush_batches(List *batches)
{
	ListCell   *cell;

	foreach(cell, batches)
	{
		flush_batch(lfirst(cell));
	}
}

/*
 * Frees what outlives the memory of the call.  Also after an error.
 */
static void
forget_writes(List *batches)
{
	ListCell   *cell;
	ListCell   *other;

	foreach(cell, batches)
	{
		foreach(other, ((Batch *) lfirst(cell))->statements)
		{
			bemi_sql_forget_write(((Statement *) lfirst(other))->write);
		}
	}
}

static void
end_batches(List *batches)
{
	ListCell   *cell;

	foreach(cell, batches)
	{
		Batch	   *batch = lfirst(cell);

		tuplestore_end(batch->rows);
		MemoryContextDelete(batch->memory);
	}
}

/*
 * Whether a step is to be carried out, or, after the triggers, its row is to
 * be settled.
 */
static bool
is_meant(const BemiRevertTable *table, TupleTableSlot *row, CommandId since)
{
	if (*VARDATA_ANY(DatumGetPointer(row->tts_values[BEMI_STEP_VERDICT])) !=
		'o')
		return false;
	return since == 0 ||
		(table->key_count > 0 &&
		 *VARDATA_ANY(DatumGetPointer(row->tts_values[BEMI_STEP_KIND])) !=
		 'D');
}

static void
report_progress(const BemiRevertPlan *plan, int64 steps, CommandId since)
{
	if (steps % STEPS_PER_NOTICE == 0 && since == 0)
		ereport(NOTICE, (errmsg(INT64_FORMAT " of " INT64_FORMAT
								" steps are carried out",
								steps, plan->ok)));
}

static void
add_steps(List **batches, BemiRevertPlan *plan, CommandId since)
{
	TupleTableSlot *row;
	int64		steps = 0;

	bemi_revert_begin_steps(plan);
	while ((row = bemi_revert_next_step(plan)) != NULL)
	{
		const BemiRevertTable *table = bemi_revert_table_of(plan, row);

		if (!is_meant(table, row, since))
			continue;
		add_step(batch_of_table(batches, table, since), row);
		report_progress(plan, ++steps, since);
	}
}

/*
 * Carries out all steps that have the verdict "ok".
 *
 * With "since", it only sets values once more: in tables with BEFORE triggers,
 * those of rows that have been written since this command.
 */
static void
run_steps(BemiRevertPlan *plan, CommandId since)
{
	List	  **batches = palloc0(sizeof(List *));

	PG_TRY();
	{
		add_steps(batches, plan, since);
		flush_batches(*batches);
	}
	PG_FINALLY();
	{
		forget_writes(*batches);
	}
	PG_END_TRY();
	end_batches(*batches);
}

/*
 * Fires the triggers that have been queued.
 */
static void
fire_triggers(void)
{
	EState	   *estate = CreateExecutorState();

	AfterTriggerEndQuery(estate);
	ExecCloseResultRelations(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	FreeExecutorState(estate);
}

/*
 * A foreign key's action would delete rows that others have inserted after the
 * snapshot of the plan.  From now on nobody can, because the rows they would
 * refer to are locked.
 */
static void
check_new_children(BemiRevertPlan *plan)
{
	BemiRows	found = {"bemi_found", NULL, NULL};
	BemiRows	rows = plan->rows;

	if (plan->new_children == NULL)
		return;
	found.rows = tuplestore_begin_heap(true, false, work_mem);
	PushActiveSnapshot(GetTransactionSnapshot());
	rows.name = "bemi_plan";
	bemi_sql_read_rows(plan->new_children, &rows, &found);
	PopActiveSnapshot();
	if (tuplestore_tuple_count(found.rows) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("rows that refer to a row of the plan have been inserted since it was made"),
				 errhint("Make a new plan.")));
	tuplestore_end(found.rows);
}

/*
 * Triggers may have changed values that a step has set: a counter is taken
 * back by its own step, and once more by the trigger that counts.  What the
 * plan announces is set again.  A value that differs because of the row's own
 * BEFORE trigger remains, so in tables that have some, only rows that were
 * written after the steps are set.
 */
static void
settle_rows(BemiRevertPlan *plan, CommandId since)
{
	if (!plan->settles)
		return;
	AfterTriggerBeginQuery();
	run_steps(plan, since);
	fire_triggers();
}

/*
 * Carries the plan out as one statement for triggers.
 */
static void
run_plan(BemiRevertPlan *plan)
{
	CommandId	since;

	AfterTriggerBeginQuery();
	run_steps(plan, 0);
	check_new_children(plan);
	since = GetCurrentCommandId(true);
	fire_triggers();
	settle_rows(plan, since);
}

/*
 * The context of the caller, with what is taken back or restored.  The caller
 * can be a trigger that another revert has fired.
 */
static char *
merged_context(const BemiValue *member)
{
	BemiValue	text = {TEXTOID, true, 0};

	(void)
		bemi_sql_read_row("SELECT (bemi.current_context() - '_db' - '_tags' || $1)::text",
						  member, 1, &text, 1);
	return bemi_sql_text_of(&text);
}

static void
run_plan_in_context(BemiRevertPlan *plan, const BemiValue *member)
{
	const char *former = bemi_override_context(merged_context(member));

	PG_TRY();
	{
		run_plan(plan);
	}
	PG_FINALLY();
	{
		(void) bemi_override_context(former);
	}
	PG_END_TRY();
}

static void
check_conflicts(const BemiRevertPlan *plan)
{
	if (plan->conflicts > 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("changes cannot be taken back because of conflicts"),
				 errdetail("The first of " INT64_FORMAT
						   " conflicts is at row %s of table \"%s\": %s.",
						   plan->conflicts, plan->first_conflict.key,
						   plan->first_conflict.table,
						   plan->first_conflict.reason),
				 errhint("SELECT * FROM bemi.plan_revert(...); lists all of them. With mode => 'skip', these steps are left out.")));
}

/*
 * Throws an error if there is nothing to do.  Without mode "skip", a step is
 * only skipped if it has been done already.
 */
static void
check_work(const BemiRevertPlan *plan)
{
	if (plan->rows.columns == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NO_DATA_FOUND),
				 errmsg("there are no such changes"),
				 errdetail("The history has no change that meets these conditions.")));
	if (plan->ok == 0 && plan->skipped > 0 && !plan->skips_conflicts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is nothing left to take back"),
				 errdetail("Row %s of table \"%s\" %s.",
						   plan->first_skipped.key, plan->first_skipped.table,
						   plan->first_skipped.reason)));
}

static void
check_hash(const BemiRevertPlan *plan, const char *expected)
{
	if (expected != NULL && strcmp(plan->hash, expected) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("the plan is not the same any more"),
				 errdetail("The rows, or what would be done to them, have changed since plan %s was made.",
						   expected),
				 errhint("SELECT * FROM bemi.plan_revert(...); shows the new plan.")));
}

/*
 * bemi.revert(changes, transaction_of, context, from_time, to_time, mode,
 * expect, timeout, choices)
 */
Datum
bemi_revert(PG_FUNCTION_ARGS)
{
	BemiRevertCall call = bemi_revert_arguments(fcinfo, false, 7);
	char	   *expected = PG_ARGISNULL(6) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(6));
	BemiRevertPlan plan;
	TupleDesc	columns;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	bemi_revert_make_plan(&call, &plan);
	check_hash(&plan, expected);
	if (plan.rows.columns != NULL)
		bemi_revert_check_choices(call.choices);
	check_conflicts(&plan);
	check_work(&plan);
	if (plan.ok > 0)
		run_plan_in_context(&plan, &plan.revert_of);
	if (plan.rows.columns != NULL)
		bemi_revert_end_steps(&plan);
	values[0] = Int64GetDatum(plan.ok);
	values[1] = Int64GetDatum(plan.skipped);
	values[2] = CStringGetTextDatum(plan.hash);
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values,
											 nulls));
}

/*
 * bemi.restore(target, key, at, before, at_lsn, timeout)
 */
Datum
bemi_restore(PG_FUNCTION_ARGS)
{
	static const Oid types[] = {
		REGCLASSOID, TEXTOID, TIMESTAMPTZOID, UUIDOID, PG_LSNOID, INTERVALOID
	};
	static const int returned[] = {
		BEMI_STEP_KIND, BEMI_STEP_COLUMNS, BEMI_STEP_NOW, BEMI_STEP_AFTER
	};
	BemiValue	arguments[lengthof(types)];
	BemiRevertPlan plan;
	TupleDesc	columns;
	TupleTableSlot *row;
	Datum		values[lengthof(returned)];
	bool		nulls[lengthof(returned)];

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	for (int i = 0; i < lengthof(types); i++)
		arguments[i] = bemi_sql_argument(fcinfo, i, types[i]);
	bemi_revert_make_restore(arguments, lengthof(arguments), &plan);
	if (plan.ok > 0)
		run_plan_in_context(&plan, &plan.revert_of);
	bemi_revert_begin_steps(&plan);
	row = bemi_revert_next_step(&plan);
	for (int i = 0; i < lengthof(returned); i++)
	{
		values[i] = row->tts_values[returned[i]];
		nulls[i] = row->tts_isnull[returned[i]];
	}
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values,
											 nulls));
}
