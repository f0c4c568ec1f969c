/*-------------------------------------------------------------------------
 *
 * plan.c
 *		bemi.plan_revert(): what must be done to take changes back.
 *
 * Input: a set of changes, named in one of three ways, and a mode.  Output:
 * the rows of the plan in a tuplestore, and its hash.
 *
 * 1. Everything that was committed before the call must be stored, so it waits
 *	  for the worker.
 * 2. A snapshot is taken, for the history and for the tables.
 * 3. SQL makes the queries for the set (sql/revert/plan.sql).
 * 4. The first ones return events, and walk.c makes steps of them.  The next
 *	  ones find steps that cannot be carried out, or are not in their place.
 *	  The last one completes the steps.
 *
 * Each of the intermediate results is a tuplestore, which spills to disk.
 *
 * One snapshot is enough, although the worker may not have stored yet what the
 * snapshot sees: the walk compares each row with what the history says of it,
 * and a row that differs is a conflict.
 *
 * The hash is computed from the rows of the plan in order.  Statements and
 * reasons are left out, because they follow from the rest.
 *
 * What must never happen: a value depends on the settings of the session.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/tuptable.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "revert/revert_internal.h"

PG_FUNCTION_INFO_V1(bemi_plan_revert);

/*
 * The settings that change the text of a value; and compiling each of the
 * queries takes longer than it saves.
 */
static const struct
{
	const char *name;
	const char *value;
}			pinned_settings[] = {
	{"timezone", "UTC"},
	{"datestyle", "ISO"},
	{"intervalstyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"standard_conforming_strings", "on"},
	{"jit", "off"},
};

/* In the order of BemiRevertMode. */
static const char *const mode_names[] = {"refuse", "skip", "force", "cascade"};

static void
pin_setting(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * A large plan is a maintenance task, so its sorts may use the memory of one.
 */
static int
pin_settings(void)
{
	int			level = NewGUCNestLevel();
	char	   *memory = psprintf("%dkB", Max(work_mem, maintenance_work_mem));

	pin_setting("work_mem", memory);
	for (int i = 0; i < lengthof(pinned_settings); i++)
		pin_setting(pinned_settings[i].name, pinned_settings[i].value);
	return level;
}

/*
 * Waits until everything that was committed until now is stored.
 */
static void
wait_for_worker(BemiValue timeout)
{
	bemi_sql_run("SELECT bemi.sync($1)", &timeout, 1);
}

/*
 * Rows in memory of their own, which does not round their sizes up.  It ends
 * with the current memory context.
 */
BemiRows
bemi_revert_make_rows(const char *name, TupleDesc columns)
{
	BemiRows	rows = {name, columns, NULL};
	MemoryContext caller =
		MemoryContextSwitchTo(bemi_create_generation(CurrentMemoryContext,
													 "bemi revert rows"));

	rows.rows = tuplestore_begin_heap(true, false, work_mem);
	MemoryContextSwitchTo(caller);
	return rows;
}

TupleDesc
bemi_revert_columns(const BemiRevertColumnType *types, int count)
{
	TupleDesc	columns = CreateTemplateTupleDesc(count);

	for (int i = 0; i < count; i++)
		TupleDescInitEntry(columns, i + 1, types[i].name, types[i].type, -1,
						   0);
	return columns;
}

static BemiRevertMode
mode_of(const BemiValue *value)
{
	char	   *name = bemi_sql_text_of(value);

	for (int i = 0; name && i < lengthof(mode_names); i++)
	{
		if (strcmp(name, mode_names[i]) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("mode \"%s\" is not valid", name ? name : "NULL"),
			 errhint("Write refuse, skip, force or cascade.")));
}

/*
 * Replaces the steps by what a query makes of them.
 */
static void
rewrite_steps(BemiRows *steps, const char *query)
{
	BemiRows	result = bemi_revert_make_rows(steps->name, steps->columns);

	bemi_sql_read_rows(query, steps, &result);
	tuplestore_end(steps->rows);
	*steps = result;
}

/*
 * The text that an SQL function of two arguments returns.
 */
static char *
query_of(const char *call, const char *first, const char *second)
{
	BemiValue	arguments[] = {bemi_sql_text(first), bemi_sql_text(second)};
	BemiValue	query = {TEXTOID, true, 0};

	(void) bemi_sql_read_row(call, arguments, lengthof(arguments), &query, 1);
	return bemi_sql_text_of(&query);
}

/* Columns of _bemi.revert_queries(). */
enum
{
	QUERY_TABLES,
	QUERY_SET,
	QUERY_EVENTS,
	QUERY_LATER,
	QUERY_ROWS_NOW,
	QUERY_VALUES_NOW,
	QUERY_LOST,
	QUERY_FITS,
	QUERY_IN_THE_WAY,
	QUERY_CHECKS,
	QUERY_INSERT_CHECKS,
	QUERY_ORDER,
	QUERY_PLAN,
	QUERY_NEW_CHILDREN,
	QUERY_SETTLES,
	QUERY_COUNT
};

/* A plan in the making. */
typedef struct Making
{
	const BemiRevertCall *call;
	BemiRevertPlan *plan;
	BemiRevertSet set;
	char	   *queries[QUERY_COUNT];
	bool		has_inserts;	/* any step */
} Making;

/*
 * The value of a query of one row and one column.
 */
static Datum
read_value(const char *query, const BemiRows *source)
{
	BemiRows	rows = bemi_revert_make_rows("bemi_value", NULL);
	TupleTableSlot *row;
	bool		is_null;
	Datum		value;

	bemi_sql_read_rows(query, source, &rows);
	row = MakeSingleTupleTableSlot(rows.columns, &TTSOpsMinimalTuple);
	(void) tuplestore_gettupleslot(rows.rows, true, false, row);
	value = slot_getattr(row, 1, &is_null);
	value = is_null ? (Datum) 0 :
		PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	ExecDropSingleTupleTableSlot(row);
	tuplestore_end(rows.rows);
	return value;
}

/*
 * The elements of a text[].
 */
static char **
read_names(Datum array, int *count)
{
	Datum	   *elements;
	char	  **names;

	deconstruct_array(DatumGetArrayTypeP(array), TEXTOID, -1, false,
					  TYPALIGN_INT, &elements, NULL, count);
	names = palloc(sizeof(char *) * *count);
	for (int i = 0; i < *count; i++)
		names[i] = TextDatumGetCString(elements[i]);
	return names;
}

static void
read_table(TupleTableSlot *row, void *argument)
{
	BemiRevertPlan *plan = argument;
	Datum	   *values = row->tts_values;
	BemiRevertTable *table;

	plan->tables = repalloc(plan->tables, sizeof(BemiRevertTable) *
							(plan->table_count + 1));
	table = &plan->tables[plan->table_count++];
	table->relation = row->tts_isnull[0] ? InvalidOid :
		DatumGetObjectId(values[0]);
	table->name = TextDatumGetCString(values[1]);
	table->columns = read_names(values[2], &table->column_count);
	table->key = read_names(values[3], &table->key_count);
	table->source = row->tts_isnull[4] ? NULL : TextDatumGetCString(values[4]);
	table->schema = TextDatumGetCString(values[5]);
	table->table = TextDatumGetCString(values[6]);
	table->reading = row->tts_isnull[7] ? NULL :
		TextDatumGetCString(values[7]);
	table->mends = DatumGetBool(values[8]);
}

static void
read_tables(BemiRevertPlan *plan, const char *tables)
{
	plan->tables = palloc(sizeof(BemiRevertTable));
	plan->table_count = 0;
	bemi_sql_read_each_row(psprintf("SELECT t.relation::oid, t.name, t.columns, t.key, t.source,"
									" t.schema, t.\"table\", t.reading, t.mends FROM jsonb_to_recordset(%s)"
									" t(relation bigint, name text, columns text[], key text[],"
									" source text, schema text, \"table\" text, reading text, mends boolean)",
									quote_literal_cstr(tables)),
						   NULL, read_table, plan);
}

/*
 * Makes the queries for the set.
 */
static void
make_queries(Making *making, bool with_plain)
{
	BemiValue	arguments[] =
		{bemi_sql_text(making->set.condition),
			{JSONBOID, false,
				read_value("SELECT jsonb_agg(to_jsonb(g)) FROM bemi_groups g",
						   &making->set.group_rows)},
			making->set.running,
			bemi_sql_text(mode_names[making->call->mode]),
			bemi_sql_bool(with_plain),
			bemi_sql_bool(making->call->with_text),
		making->set.without_gap};
	BemiValue	columns[QUERY_COUNT];

	for (int i = 0; i < QUERY_COUNT; i++)
		columns[i] = bemi_sql_null_if(true, i == QUERY_SETTLES ?
									  bemi_sql_bool(false) :
									  bemi_sql_text(NULL));
	(void)
		bemi_sql_read_row("SELECT tables::text, set_of_events, events, later, rows_now,"
						  " values_now, lost, fits, in_the_way, checks, insert_checks, ordering,"
						  " plan, new_children, settles"
						  " FROM _bemi.revert_queries($1, $2, $3, $4, $5, $6, $7)",
						  arguments, lengthof(arguments), columns,
						  lengthof(columns));
	for (int i = 0; i < QUERY_SETTLES; i++)
		making->queries[i] = bemi_sql_text_of(&columns[i]);
	making->plan->settles = bemi_sql_is_true(&columns[QUERY_SETTLES]);
	making->plan->new_children = making->queries[QUERY_NEW_CHILDREN];
	read_tables(making->plan, making->queries[QUERY_TABLES]);
}

static void
read_rows_if(const char *query, const BemiRows *source, BemiRows *result)
{
	if (query != NULL)
		bemi_sql_read_rows(query, source, result);
}

/*
 * The events of tables that are not plain, and the later events of those that
 * are.
 */
static BemiRows
read_events(Making *making)
{
	BemiRows	events = bemi_revert_make_rows("bemi_events",
											   bemi_revert_event_columns());
	BemiRows	set = bemi_revert_make_rows("bemi_set", NULL);

	if (making->queries[QUERY_SET] != NULL)
	{
		bemi_sql_read_rows(making->queries[QUERY_SET], NULL, &set);
		bemi_sql_read_rows(making->queries[QUERY_EVENTS], &set, &events);
	}
	tuplestore_end(set.rows);
	read_rows_if(making->queries[QUERY_LATER], &making->set.changes, &events);
	return events;
}

static void
walk_sorted(BemiRevertWalk *walk, const BemiRows *events)
{
	BemiRows	sorted;

	if (tuplestore_tuple_count(events->rows) == 0)
		return;
	sorted = bemi_revert_make_rows("bemi_events", events->columns);
	bemi_sql_read_rows("SELECT e.* FROM bemi_events e ORDER BY e.tbl,"
					   " e.slot COLLATE \"C\" NULLS FIRST, e.id, e.kind DESC",
					   events, &sorted);
	bemi_revert_walk_rows(walk, &sorted);
	walk->is_ordered = false;
	tuplestore_end(sorted.rows);
}

/*
 * Whether anything looks at the rows as they are now after the walk.
 */
static bool
needs_rows(const Making *making)
{
	return making->call->with_text || making->plan->settles ||
		making->queries[QUERY_SET] != NULL ||
		making->queries[QUERY_IN_THE_WAY] != NULL ||
		making->queries[QUERY_CHECKS] != NULL ||
		making->queries[QUERY_ORDER] != NULL;
}

/*
 * Walks the changes of plain tables.  If there are no changes of others, the
 * walk compares only the columns that the set has changed.
 */
static void
walk_plain(Making *making, BemiRevertWalk *walk, BemiRows *events)
{
	bool		whole = needs_rows(making) ||
		tuplestore_tuple_count(events->rows) > 0;

	if (making->queries[QUERY_ROWS_NOW] == NULL)
		return;
	bemi_revert_walk_set(&making->set, making->plan->tables,
						 making->plan->table_count,
						 making->queries[whole ? QUERY_ROWS_NOW :
										 QUERY_VALUES_NOW],
						 !whole, walk, events);
}

/*
 * Makes steps of all events.  Returns false if the set has changed the key of
 * a row of a table that was plain.
 */
static bool
make_steps(Making *making, BemiRows *steps)
{
	BemiRevertWalk walk;
	BemiRows	events = read_events(making);

	*steps = bemi_revert_make_rows("bemi_steps", bemi_revert_step_columns());
	bemi_revert_begin_walk(&walk, making->call, making->plan->tables, steps);
	walk.keeps_rows = needs_rows(making);
	walk_plain(making, &walk, &events);
	walk_sorted(&walk, &events);
	bemi_revert_end_walk(&walk);
	tuplestore_end(events.rows);
	if (walk.has_lost_key)
	{
		tuplestore_end(steps->rows);
		return false;
	}
	making->plan->is_reversed = walk.is_ordered;
	memcpy(making->plan->runs, walk.runs, sizeof(walk.runs));
	making->plan->run_count = walk.run_count;
	making->has_inserts = walk.has_inserts;
	if (walk.has_moved)
		rewrite_steps(steps, query_of("SELECT _bemi.revert_moved()"
									  " WHERE $1 IS NULL AND $2 IS NULL",
									  NULL, NULL));
	return true;
}

/*
 * The number of rows that a query of the steps returns.
 */
static int64
count_found(const char *query, const BemiRows *steps)
{
	BemiRows	found = bemi_revert_make_rows("bemi_found", NULL);
	int64		count;

	bemi_sql_read_rows(query, steps, &found);
	count = tuplestore_tuple_count(found.rows);
	tuplestore_end(found.rows);
	return count;
}

/*
 * Looks for steps that cannot be carried out, and repeats this until there are
 * none: each step that is left out may have been what another one relies on.
 */
static void
apply_findings(Making *making, BemiRows *steps, const char *findings)
{
	while (findings != NULL && count_found(findings, steps) > 0)
	{
		CHECK_FOR_INTERRUPTS();
		rewrite_steps(steps, query_of("SELECT _bemi.revert_apply($1, $2)",
									  findings,
									  mode_names[making->call->mode]));
		making->plan->is_reversed = false;
	}
}

/*
 * Puts the steps in order, if the reverse order of the changes is not right.
 * Returns false if some steps are in conflict now.
 */
static bool
put_in_order(Making *making, BemiRows *steps)
{
	const char *pairs = making->queries[QUERY_ORDER];

	if (pairs == NULL ||
		count_found(psprintf("SELECT 1 FROM (%s) p WHERE p.is_violated",
							 pairs),
					steps) == 0)
		return true;
	making->plan->is_reversed = false;
	rewrite_steps(steps, query_of("SELECT _bemi.revert_numbered()"
								  " WHERE $1 IS NULL AND $2 IS NULL",
								  NULL, NULL));
	return bemi_revert_put_in_order(steps, pairs, making->call->mode);
}

/*
 * The checks of the steps, or NULL.
 */
static const char *
checks_of(const Making *making)
{
	const char *checks = making->queries[QUERY_CHECKS];
	const char *others = making->has_inserts ?
		making->queries[QUERY_INSERT_CHECKS] : NULL;

	if (checks == NULL || others == NULL)
		return checks ? checks : others;
	return psprintf("%s UNION ALL %s", checks, others);
}

/*
 * Puts the steps into the order of the plan, with their statements if these
 * are shown.
 */
static void
complete_steps(Making *making, BemiRows *steps)
{
	BemiRevertPlan *plan = making->plan;

	plan->rows = *steps;
	if (plan->is_reversed && !making->call->with_text)
		return;
	plan->is_reversed = false;
	plan->rows = bemi_revert_make_rows("bemi_steps", NULL);
	bemi_sql_read_rows(making->queries[QUERY_PLAN], steps, &plan->rows);
	tuplestore_end(steps->rows);
}

/*
 * Reads the set, and makes the steps that take it back.  Returns false if
 * there are no such changes.
 */
static bool
make_steps_of_set(Making *making, BemiRows *steps)
{
	bemi_revert_read_set(making->call, &making->set);
	if (making->set.groups == NIL)
		return false;
	make_queries(making, true);
	if (!make_steps(making, steps))
	{
		make_queries(making, false);
		(void) make_steps(making, steps);
	}
	if (making->queries[QUERY_LOST] != NULL)
	{
		bemi_sql_read_rows(making->queries[QUERY_LOST], &making->set.changes,
						   steps);
		making->plan->is_reversed = false;
	}
	bemi_revert_end_set(&making->set);
	apply_findings(making, steps, making->queries[QUERY_FITS]);
	return true;
}

/*
 * Adds later changes by others that are in the way of steps, in mode cascade,
 * to the set.  Returns whether there are any.
 */
static bool
add_later_changes(Making *making, BemiRows *steps)
{
	const char *query = making->queries[QUERY_IN_THE_WAY];
	Datum		added;

	if (query == NULL)
		return false;
	added = read_value(query_of("SELECT _bemi.revert_added($1, $2)", query,
								making->set.added), steps);
	if (added == (Datum) 0)
		return false;
	making->set.added = TextDatumGetCString(added);
	tuplestore_end(steps->rows);
	return true;
}

/*
 * Makes the plan, with the active snapshot.
 */
static void
make_plan(Making *making)
{
	BemiRows	steps;

	making->set.running = bemi_revert_running(GetActiveSnapshot());
	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!make_steps_of_set(making, &steps))
			return;
	} while (add_later_changes(making, &steps));
	making->plan->revert_of = making->set.revert_of;
	do
	{
		apply_findings(making, &steps, checks_of(making));
	} while (!put_in_order(making, &steps));
	if (bemi_revert_keeps_any(making->call->choices))
		bemi_revert_keep_chosen(making->call->choices, making->plan->tables,
								&steps);
	complete_steps(making, &steps);
}

/*
 * Moves a run to its next step.
 */
static void
advance_run(BemiRevertPlan *plan, BemiRevertRun *run)
{
	tuplestore_select_read_pointer(plan->rows.rows, run->pointer);
	if (run->left-- > 0 &&
		tuplestore_gettupleslot(plan->rows.rows, !plan->is_reversed, false,
								run->row))
		slot_getallattrs(run->row);
	else
		ExecClearTuple(run->row);
}

/*
 * Begins a run at its last step, before "end".  The tuplestore returns the
 * step before the one that has been read last.
 */
static void
begin_run(BemiRevertPlan *plan, BemiRevertRun *run, int64 end)
{
	Tuplestorestate *rows = plan->rows.rows;

	if (run->row == NULL)
	{
		run->row = MakeSingleTupleTableSlot(plan->rows.columns,
											&TTSOpsMinimalTuple);
		run->pointer = run == plan->runs ? 0 :
			tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND |
										  EXEC_FLAG_BACKWARD);
	}
	tuplestore_select_read_pointer(rows, run->pointer);
	tuplestore_rescan(rows);
	if (plan->is_reversed)
		(void) tuplestore_skiptuples(rows, end + 1, true);
	run->left = end - run->start;
	advance_run(plan, run);
}

/*
 * Begins to read the steps of a plan.
 */
void
bemi_revert_begin_steps(BemiRevertPlan *plan)
{
	int64		end = tuplestore_tuple_count(plan->rows.rows);

	if (!plan->is_reversed)
	{
		plan->run_count = 1;
		plan->runs[0].start = 0;
	}
	for (int i = plan->run_count - 1; i >= 0; i--)
	{
		begin_run(plan, &plan->runs[i], end);
		end = plan->runs[i].start;
	}
	plan->current = NULL;
}

static bool
is_before(const BemiRevertRun *run, const BemiRevertRun *other)
{
	if (TupIsNull(run->row))
		return false;
	return other == NULL ||
		memcmp(DatumGetUUIDP(run->row->tts_values[BEMI_STEP_PLACE]),
			   DatumGetUUIDP(other->row->tts_values[BEMI_STEP_PLACE]),
			   UUID_LEN) > 0;
}

/*
 * The next step, in the order of the plan, until the next call; NULL: there is
 * none.
 */
TupleTableSlot *
bemi_revert_next_step(BemiRevertPlan *plan)
{
	CHECK_FOR_INTERRUPTS();
	if (plan->current != NULL)
		advance_run(plan, plan->current);
	plan->current = NULL;
	for (int i = 0; i < plan->run_count; i++)
	{
		if (is_before(&plan->runs[i], plan->current))
			plan->current = &plan->runs[i];
	}
	return plan->current ? plan->current->row : NULL;
}

/*
 * Frees the steps of a plan.
 */
void
bemi_revert_end_steps(BemiRevertPlan *plan)
{
	for (int i = 0; i < plan->run_count; i++)
	{
		if (plan->runs[i].row != NULL)
			ExecDropSingleTupleTableSlot(plan->runs[i].row);
	}
	tuplestore_end(plan->rows.rows);
}

const BemiRevertTable *
bemi_revert_table_of(const BemiRevertPlan *plan, TupleTableSlot *row)
{
	return &plan->tables[DatumGetInt32(row->tts_values[BEMI_STEP_TABLE]) - 1];
}

/*
 * A SHA-256 in the making.  Its input is collected, because each call of the
 * library takes longer than a small value.
 */
typedef struct PlanHash
{
	pg_cryptohash_ctx *context;
	int			count;
	uint8		bytes[8192];
} PlanHash;

static void
flush_hash(PlanHash *hash)
{
	if (pg_cryptohash_update(hash->context, hash->bytes, hash->count) < 0)
		elog(ERROR, "could not compute a hash");
	hash->count = 0;
}

static void
hash_bytes_of(PlanHash *hash, const void *bytes, size_t length)
{
	if (length > sizeof(hash->bytes) - hash->count)
		flush_hash(hash);
	if (length <= sizeof(hash->bytes))
	{
		memcpy(hash->bytes + hash->count, bytes, length);
		hash->count += length;
	}
	else if (pg_cryptohash_update(hash->context, bytes, length) < 0)
		elog(ERROR, "could not compute a hash");
}

static void
hash_column(PlanHash *hash, TupleTableSlot *row, int column)
{
	uint32		length = PG_UINT32_MAX;
	struct varlena *value = NULL;

	if (!row->tts_isnull[column])
	{
		value = PG_DETOAST_DATUM_PACKED(row->tts_values[column]);
		length = VARSIZE_ANY_EXHDR(value);
	}
	hash_bytes_of(hash, &length, sizeof(length));
	if (value == NULL)
		return;
	hash_bytes_of(hash, VARDATA_ANY(value), length);
	if ((Pointer) value != DatumGetPointer(row->tts_values[column]))
		pfree(value);
}

static void
hash_step(PlanHash *hash, const BemiRevertPlan *plan, TupleTableSlot *row)
{
	static const int hashed[] = {
		BEMI_STEP_KEY, BEMI_STEP_KIND, BEMI_STEP_COLUMNS, BEMI_STEP_NOW,
		BEMI_STEP_AFTER, BEMI_STEP_VERDICT
	};
	const char *name = bemi_revert_table_of(plan, row)->name;

	hash_bytes_of(hash, name, strlen(name) + 1);
	for (int i = 0; i < lengthof(hashed); i++)
		hash_column(hash, row, hashed[i]);
}

static BemiRevertRow
name_row(const BemiRevertPlan *plan, TupleTableSlot *row)
{
	BemiRevertRow named;

	named.table = bemi_revert_table_of(plan, row)->name;
	named.key = TextDatumGetCString(row->tts_values[BEMI_STEP_KEY]);
	named.reason = row->tts_isnull[BEMI_STEP_REASON] ? NULL :
		TextDatumGetCString(row->tts_values[BEMI_STEP_REASON]);
	return named;
}

/*
 * Counts the verdict of a step, and remembers the first one of each kind.
 */
static void
count_step(BemiRevertPlan *plan, TupleTableSlot *row)
{
	switch (*VARDATA_ANY(DatumGetPointer(row->tts_values[BEMI_STEP_VERDICT])))
	{
		case 'o':
			plan->ok++;
			break;
		case 'c':
			if (plan->conflicts++ == 0)
				plan->first_conflict = name_row(plan, row);
			break;
		default:
			if (plan->skipped++ == 0)
				plan->first_skipped = name_row(plan, row);
	}
}

/*
 * Computes the hash, counts the verdicts, and notes which choices are used.
 */
static void
read_plan(BemiRevertPlan *plan, BemiRevertChoices *choices)
{
	PlanHash   *hash = palloc0(sizeof(PlanHash));
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	TupleTableSlot *row;

	hash->context = pg_cryptohash_create(PG_SHA256);
	if (hash->context == NULL || pg_cryptohash_init(hash->context) < 0)
		elog(ERROR, "could not compute a hash");
	if (plan->rows.columns != NULL)
	{
		bemi_revert_begin_steps(plan);
		while ((row = bemi_revert_next_step(plan)) != NULL)
		{
			hash_step(hash, plan, row);
			count_step(plan, row);
			if (choices != NULL)
				bemi_revert_use_choices(choices,
										bemi_revert_table_of(plan, row)->name,
										row);
		}
	}
	flush_hash(hash);
	if (pg_cryptohash_final(hash->context, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a hash");
	pg_cryptohash_free(hash->context);
	hex_encode((const char *) digest, sizeof(digest), plan->hash);
	plan->hash[2 * sizeof(digest)] = '\0';
	pfree(hash);
}

/*
 * The context names what is taken back, and not the complete set if some of it
 * is left out, or if changes were added to it.
 */
static void
name_what_is_done(Making *making)
{
	BemiRevertPlan *plan = making->plan;

	if (plan->ok == 0 || (plan->skipped == 0 && making->set.added == NULL &&
						  making->call->mode != BEMI_REVERT_CASCADE))
		return;
	plan->revert_of.datum =
		read_value(query_of("SELECT _bemi.revert_of_steps()"
							" WHERE $1 IS NULL AND $2 IS NULL",
							NULL, NULL),
				   &plan->rows);
}

/*
 * Makes a plan of the present.
 */
void
bemi_revert_make_plan(const BemiRevertCall *call, BemiRevertPlan *plan)
{
	Making		making = {.call = call,.plan = plan};
	BemiWait	wait = bemi_wait_begin(call->timeout.is_null ? NULL :
									   DatumGetIntervalP(call->timeout.datum));
	int			settings;

	wait_for_worker(call->timeout);
	settings = pin_settings();
	bemi_revert_push_snapshot(call, &wait);
	memset(plan, 0, sizeof(*plan));
	make_plan(&making);
	plan->skips_conflicts = call->mode == BEMI_REVERT_SKIP ||
		bemi_revert_keeps_any(call->choices);
	read_plan(plan, call->choices);
	name_what_is_done(&making);
	PopActiveSnapshot();
	AtEOXact_GUC(false, settings);
}

/*
 * Makes the plan of one step that brings a row back.
 */
void
bemi_revert_make_restore(const BemiValue *arguments, int count,
						 BemiRevertPlan *plan)
{
	BemiValue	query[] = {{TEXTOID, true, 0}, {JSONBOID, true, 0}};
	int			settings = pin_settings();

	memset(plan, 0, sizeof(*plan));
	(void)
		bemi_sql_run_row("SELECT * FROM _bemi.restore_query($1, $2, $3, $4, $5, $6)",
						 arguments, count, query, lengthof(query));
	plan->revert_of = query[1];
	plan->tables = palloc0(sizeof(BemiRevertTable));
	plan->table_count = 1;
	plan->tables->relation = DatumGetObjectId(arguments[0].datum);
	plan->tables->name = get_rel_name(plan->tables->relation);
	plan->rows = bemi_revert_make_rows("bemi_steps", NULL);
	bemi_sql_read_rows(bemi_sql_text_of(&query[0]), NULL, &plan->rows);
	read_plan(plan, NULL);
	AtEOXact_GUC(false, settings);
}

/*
 * The arguments that plan_revert() and revert() share.  The choices come after
 * the timeout.
 */
BemiRevertCall
bemi_revert_arguments(FunctionCallInfo fcinfo, bool with_text, int timeout)
{
	BemiRevertCall call;
	BemiValue	mode;
	BemiValue	choices;

	call.set[0] = bemi_sql_argument(fcinfo, 0, UUIDARRAYOID);
	call.set[1] = bemi_sql_argument(fcinfo, 1, UUIDOID);
	call.set[2] = bemi_sql_argument(fcinfo, 2, JSONBOID);
	call.set[3] = bemi_sql_argument(fcinfo, 3, TIMESTAMPTZOID);
	call.set[4] = bemi_sql_argument(fcinfo, 4, TIMESTAMPTZOID);
	mode = bemi_sql_argument(fcinfo, 5, TEXTOID);
	call.mode = mode_of(&mode);
	call.with_text = with_text;
	call.timeout = bemi_sql_argument(fcinfo, timeout, INTERVALOID);
	choices = bemi_sql_argument(fcinfo, timeout + 1, JSONBOID);
	call.choices = bemi_revert_read_choices(&choices);
	return call;
}

/*
 * A row of the result of bemi.plan_revert().
 */
static void
show_step(ReturnSetInfo *result, const BemiRevertPlan *plan,
		  TupleTableSlot *row, int64 step, Datum hash)
{
	/* -1: none of the columns of a step */
	static const int shown[] = {
		-1, BEMI_STEP_STATEMENT, -1, BEMI_STEP_KEY, BEMI_STEP_COLUMNS,
		BEMI_STEP_NOW, BEMI_STEP_AFTER, BEMI_STEP_VERDICT, BEMI_STEP_REASON,
		BEMI_STEP_CHANGES, -1
	};
	Datum		values[lengthof(shown)];
	bool		nulls[lengthof(shown)] = {false};

	for (int i = 0; i < lengthof(shown); i++)
	{
		if (shown[i] < 0)
			continue;
		values[i] = row->tts_values[shown[i]];
		nulls[i] = row->tts_isnull[shown[i]];
	}
	values[0] = Int64GetDatum(step);
	values[2] = CStringGetTextDatum(bemi_revert_table_of(plan, row)->name);
	values[lengthof(shown) - 1] = hash;
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * bemi.plan_revert(changes, transaction_of, context, from_time, to_time, mode,
 * timeout, choices)
 */
Datum
bemi_plan_revert(PG_FUNCTION_ARGS)
{
	BemiRevertCall call = bemi_revert_arguments(fcinfo, true, 6);
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	BemiRevertPlan plan;
	TupleTableSlot *row;
	int64		step = 0;
	Datum		hash;

	bemi_init_result_set(fcinfo);
	bemi_revert_make_plan(&call, &plan);
	if (plan.rows.columns == NULL)
		return (Datum) 0;
	bemi_revert_check_choices(call.choices);
	hash = CStringGetTextDatum(plan.hash);
	bemi_revert_begin_steps(&plan);
	while ((row = bemi_revert_next_step(&plan)) != NULL)
		show_step(result, &plan, row, ++step, hash);
	bemi_revert_end_steps(&plan);
	return (Datum) 0;
}
