/*-------------------------------------------------------------------------
 *
 * steps.c
 *		The end of a slot: what must be done to its row, or why that is not possible.
 *
 * Input: the state of a slot that walk.c has walked, with the row as it is
 * now.  Output: rows of "bemi_steps", at most one of which is carried out, and
 * one for each column in conflict.
 *
 * What must never happen: a step overwrites what the history does not know.
 * So the row as it is now is compared with what the last change left, in the
 * columns that matter.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "revert/revert_internal.h"

TupleDesc
bemi_revert_step_columns(void)
{
	static const BemiRevertColumnType types[] = {
		{"tbl", INT4OID}, {"slot", TEXTOID}, {"place", UUIDOID},
		{"part", INT4OID}, {"depth", INT4OID}, {"kind", TEXTOID},
		{"columns", TEXTARRAYOID}, {"row_now", JSONBOID},
		{"value_now", JSONBOID}, {"value_after", JSONBOID},
		{"verdict", TEXTOID}, {"reason", TEXTOID}, {"changes", UUIDARRAYOID},
		{"arrived", UUIDOID}, {"departed", UUIDOID}, {"row_ctid", TIDOID},
		{"row_table", OIDOID}
	};

	return bemi_revert_columns(types, lengthof(types));
}

TupleDesc
bemi_revert_event_columns(void)
{
	static const BemiRevertColumnType types[] = {
		{"tbl", INT4OID}, {"slot", TEXTOID}, {"id", UUIDOID},
		{"kind", TEXTOID}, {"in_set", BOOLOID}, {"before", JSONBOID},
		{"after", JSONBOID}, {"committed_at", TIMESTAMPTZOID},
		{"context", JSONBOID}, {"row_ctid", TIDOID}, {"row_table", OIDOID}
	};

	return bemi_revert_columns(types, lengthof(types));
}

/*
 * How a change of others is named in a reason.
 */
static char *
describe_change(const char *what, const BemiRevertEvent *event)
{
	char	   *id = DatumGetCString(
									 DirectFunctionCall1(uuid_out, UUIDPGetDatum(&event->id)));
	char	   *context = JsonbToCString(NULL, &event->context->root,
										 VARSIZE(event->context));

	if (strlen(context) > 200)
		strcpy(context + pg_mbcliplen(context, strlen(context), 197), "...");
	return psprintf("%s by change %s of %s with context %s", what, id,
					timestamptz_to_str(event->time), context);
}

static const char *
verb_of(const BemiRevertEvent *event)
{
	switch (event->kind)
	{
		case DELETED:
			return "was deleted";
		case TRUNCATED:
			return "was truncated";
		case CREATED:
			return "was inserted";
		default:
			return "was changed";
	}
}

/*
 * A reason why nothing needs to be done.
 */
static char *
describe_done(const BemiRevertEvent *event)
{
	bool		is_revert = event != NULL &&
		bemi_revert_member(event->context, "revertOf", 8) != NULL;

	return describe_change(is_revert ? "has been taken back already" :
						   "has been undone already", event);
}

static Datum
array_of_changes(const BemiRevertWalk *walk)
{
	Datum	   *ids = palloc(sizeof(Datum) * list_length(walk->changes));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, walk->changes)
	{
		ids[count++] = UUIDPGetDatum(lfirst(cell));
	}
	return PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN,
										   false, TYPALIGN_CHAR));
}

static Datum
array_of_names(List *names)
{
	Datum	   *texts = palloc(sizeof(Datum) * list_length(names));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, names)
	{
		texts[count++] = CStringGetTextDatum(lfirst(cell));
	}
	return PointerGetDatum(construct_array(texts, count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * A step in the making.
 */
typedef struct Step
{
	const char *kind;
	List	   *names;			/* columns, char *; NIL: the row */
	Jsonb	   *now;
	Jsonb	   *after;
	const char *verdict;
	const char *reason;
} Step;

static Datum
value_or_null(const void *pointer, bool *is_null)
{
	*is_null = pointer == NULL;
	return PointerGetDatum(pointer);
}

/*
 * Begins another run if a step is out of order.
 */
static void
place_step(BemiRevertWalk *walk, const pg_uuid_t *place)
{
	int			order = memcmp(place, &walk->place, UUID_LEN);

	walk->place = *place;
	if (walk->run_count > 0 && order > 0)
		return;
	walk->is_ordered &= order != 0 && walk->run_count < BEMI_REVERT_RUNS;
	if (walk->is_ordered)
		walk->runs[walk->run_count++].start =
			tuplestore_tuple_count(walk->steps->rows);
}

static void
emit_step(BemiRevertWalk *walk, const Step *step)
{
	Datum		values[BEMI_STEP_COUNT] = {0};
	bool		nulls[BEMI_STEP_COUNT] = {0};
	pg_uuid_t  *place = llast(walk->changes);

	place_step(walk, place);
	values[BEMI_STEP_TABLE] = Int32GetDatum(walk->table);
	values[BEMI_STEP_KEY] = CStringGetTextDatum(walk->slot);
	values[BEMI_STEP_PLACE] = UUIDPGetDatum(place);
	values[BEMI_STEP_PART] = Int32GetDatum(walk->parts++);
	values[BEMI_STEP_DEPTH] = Int32GetDatum(0);
	values[BEMI_STEP_KIND] = CStringGetTextDatum(step->kind);
	values[BEMI_STEP_COLUMNS] = array_of_names(step->names);
	nulls[BEMI_STEP_COLUMNS] =
		step->names == NIL && strcmp(step->kind, "INSERT") != 0;
	values[BEMI_STEP_ROW_NOW] =
		value_or_null(walk->keeps_rows ? walk->now : NULL,
					  &nulls[BEMI_STEP_ROW_NOW]);
	values[BEMI_STEP_NOW] = value_or_null(step->now, &nulls[BEMI_STEP_NOW]);
	values[BEMI_STEP_AFTER] =
		value_or_null(step->after, &nulls[BEMI_STEP_AFTER]);
	values[BEMI_STEP_VERDICT] = CStringGetTextDatum(step->verdict);
	values[BEMI_STEP_REASON] =
		step->reason ? CStringGetTextDatum(step->reason) : (Datum) 0;
	nulls[BEMI_STEP_REASON] = step->reason == NULL;
	values[BEMI_STEP_CHANGES] = array_of_changes(walk);
	values[BEMI_STEP_ARRIVED] =
		value_or_null(walk->arrival && walk->arrival->kind == ARRIVED ?
					  &walk->arrival->id : NULL, &nulls[BEMI_STEP_ARRIVED]);
	values[BEMI_STEP_LEFT] =
		value_or_null(walk->departure && walk->departure->kind == LEFT ?
					  &walk->departure->id : NULL, &nulls[BEMI_STEP_LEFT]);
	values[BEMI_STEP_CTID] = PointerGetDatum(&walk->ctid);
	nulls[BEMI_STEP_CTID] = walk->now == NULL;
	values[BEMI_STEP_TABLEOID] = ObjectIdGetDatum(walk->tableoid);
	nulls[BEMI_STEP_TABLEOID] = walk->now == NULL;
	tuplestore_putvalues(walk->steps->rows, walk->steps->columns, values,
						 nulls);
}

/*
 * A row has been in the slot only for a while: the change by which it came,
 * and the one by which it left.
 */
void
bemi_revert_emit_link(BemiRevertWalk *walk, const BemiRevertEvent *departure)
{
	Step		step = {"LINK", NIL, NULL, NULL, "skip", NULL};
	BemiRevertEvent *former = walk->departure;

	walk->departure = (BemiRevertEvent *) departure;
	emit_step(walk, &step);
	walk->departure = former;
}

static const char *
verdict_of_conflict(const BemiRevertWalk *walk)
{
	return walk->mode == BEMI_REVERT_SKIP ? "skip" : "conflict";
}

static void
emit_column(BemiRevertWalk *walk, const BemiRevertColumn *column, Jsonb *now,
			Jsonb *after, const char *verdict, const char *reason)
{
	Step		step = {"UPDATE", list_make1(column->name), NULL, NULL,
	verdict, reason};

	if (walk->now != NULL && now != NULL)
		step.now = bemi_revert_object(step.names, list_make1(now));
	if (after != NULL)
		step.after = bemi_revert_object(step.names, list_make1(after));
	emit_step(walk, &step);
}

/*
 * The columns of a row that can be inserted.
 */
static List *
columns_to_insert(const BemiRevertWalk *walk, Jsonb *row)
{
	const BemiRevertTable *table = &walk->tables[walk->table - 1];
	List	   *names = NIL;

	for (int i = 0; i < table->column_count; i++)
	{
		if (bemi_revert_member(row, table->columns[i],
							   strlen(table->columns[i])) != NULL)
			names = lappend(names, table->columns[i]);
	}
	return names;
}

/*
 * A row of the history can have values of columns that were dropped since.
 */
static Jsonb *
members_of(Jsonb *row, List *names)
{
	List	   *values = NIL;
	ListCell   *name;

	if (list_length(names) == JB_ROOT_COUNT(row))
		return row;
	foreach(name, names)
	{
		values = lappend(values, bemi_revert_member(row, lfirst(name),
													strlen(lfirst(name))));
	}
	return bemi_revert_object(names, values);
}

static void
emit_row(BemiRevertWalk *walk, Jsonb *after, const char *verdict,
		 const char *reason)
{
	Step		step = {after == NULL ? "DELETE" :
		walk->now ? "UPDATE" :
		"INSERT",
		NIL,
		walk->now,
		after,
		verdict,
	reason};

	if (after != NULL && walk->now == NULL)
	{
		walk->has_inserts = true;
		step.names = columns_to_insert(walk, after);
		step.after = members_of(after, step.names);
	}
	emit_step(walk, &step);
}

/*
 * Why the row as it is now does not follow from the history, or NULL.
 */
static const char *
unexplained_row(const BemiRevertWalk *walk)
{
	if (walk->rows > 1)
		return "row is not unique";
	if (walk->now == NULL && bemi_revert_is_occupied(walk))
		return "row is gone, and no change of its key explains it";
	if (walk->now != NULL && !bemi_revert_is_occupied(walk))
		return "row exists, and no change of its key explains it";
	return NULL;
}

/*
 * Whether a value is what the last change left.  A column that is younger than
 * the last change was not changed by it.
 */
static bool
is_explained(const BemiRevertWalk *walk, const char *name, int length,
			 Jsonb *now)
{
	Jsonb	   *after;

	if (walk->now == walk->last->after)
		return true;
	after = bemi_revert_member(walk->last->after, name, length);
	return after == NULL || bemi_revert_is_same(after, now) ||
		bemi_revert_is_placeholder(after) ||
		compareJsonbContainers(&after->root, &now->root) == 0;
}

/*
 * The row that is there differs from the last change: the first such column,
 * or NULL.
 */
static char *
unexplained_column(const BemiRevertWalk *walk)
{
	List	   *names = NIL;
	List	   *now = NIL;
	List	   *after = NIL;
	ListCell   *name;
	ListCell   *value;

	bemi_revert_list_members(walk->last->after, walk->now, &names, &now,
							 &after);
	forboth(name, names, value, now)
	{
		if (!is_explained(walk, lfirst(name), strlen(lfirst(name)),
						  lfirst(value)))
			return lfirst(name);
	}
	return NULL;
}

/*
 * A row is in the slot, and another one must be: an update of all columns that
 * differ.
 */
static void
replace_row(BemiRevertWalk *walk, Jsonb *row)
{
	Step		step = {"UPDATE", NIL, NULL, NULL, "ok", NULL};
	List	   *now = NIL;
	List	   *after = NIL;

	bemi_revert_list_members(row, walk->now, &step.names, &now, &after);
	if (step.names == NIL)
		return;
	step.now = bemi_revert_object(step.names, now);
	step.after = bemi_revert_object(step.names, after);
	emit_step(walk, &step);
}

/*
 * A row that the set has inserted is not in its slot, although the history
 * does not say that it was deleted.  It is in another slot now: others have
 * changed its key or, in a table without one, any column.
 */
static bool
is_elsewhere(const BemiRevertWalk *walk)
{
	return walk->now == NULL && (bemi_revert_is_occupied(walk) ||
								 (walk->whole_blocker != NULL &&
								  walk->whole_blocker->kind == LEFT));
}

/*
 * Why the row cannot be brought to what it was, or NULL.
 */
static const char *
reason_against_row(const BemiRevertWalk *walk, Jsonb *row)
{
	const char *unexplained = unexplained_row(walk);
	bool		force =
		bemi_revert_mode_of(walk, NULL) == BEMI_REVERT_FORCE;
	char	   *column;

	if (walk->rows > 1 || (unexplained != NULL &&
						   (!force || (row == NULL && walk->now == NULL))))
		return unexplained;
	if (row != NULL && JB_ROOT_COUNT(row) == 0)
		return "value before is not in the history";
	if (row != NULL && bemi_revert_has_placeholder(row))
		return "value is redacted";
	if (force && (row != NULL || walk->now != NULL))
		return NULL;
	if (walk->whole_blocker != NULL)
		return describe_change(psprintf("row %s",
										verb_of(walk->whole_blocker)),
							   walk->whole_blocker);
	column = walk->now ? unexplained_column(walk) : NULL;
	return column ?
		psprintf("column \"%s\" has a value that is not in the history",
				 column) :
		NULL;
}

static void
finish_row(BemiRevertWalk *walk)
{
	Jsonb	   *row =
		bemi_revert_mode_of(walk, NULL) == BEMI_REVERT_FORCE ?
		walk->whole_first : walk->whole_base;
	const char *reason;

	if (row == NULL && walk->now == NULL && !is_elsewhere(walk))
	{
		if (walk->whole_blocker != NULL)
			emit_row(walk, NULL, "skip", describe_done(walk->whole_blocker));
		return;
	}
	if (row != NULL && walk->now != NULL && walk->whole_blocker != NULL &&
		compareJsonbContainers(&row->root, &walk->now->root) == 0)
	{
		emit_row(walk, row, "skip", describe_done(walk->whole_blocker));
		return;
	}
	reason = reason_against_row(walk, row);
	if (reason != NULL)
		emit_row(walk, row, verdict_of_conflict(walk), reason);
	else if (row != NULL && walk->now != NULL)
		replace_row(walk, row);
	else
		emit_row(walk, row, "ok", NULL);
}

/*
 * Why a column cannot be brought to a value, or NULL.
 */
static const char *
reason_against_column(const BemiRevertWalk *walk,
					  const BemiRevertColumn *column, Jsonb *now, Jsonb *value)
{
	const char *unexplained = unexplained_row(walk);

	if (column->lost)
		return describe_change(psprintf("row %s", verb_of(column->blocker)),
							   column->blocker);
	if (unexplained != NULL)
		return unexplained;
	if (now == NULL)
		return "column does not exist any more";
	if (column->unknown || value == NULL)
		return "value before is not in the history";
	if (bemi_revert_is_placeholder(value))
		return "value is redacted";
	if (bemi_revert_mode_of(walk, column->name) != BEMI_REVERT_FORCE &&
		!is_explained(walk, column->name, column->length, now))
		return "value is not in the history";
	return NULL;
}

/*
 * A column that others have changed after the set.
 */
static void
report_blocked_column(BemiRevertWalk *walk, const BemiRevertColumn *column,
					  Jsonb *now)
{
	if (column->base == NULL && bemi_revert_is_same(now, column->first))
		emit_column(walk, column, now, column->first, "skip",
					describe_done(column->blocker));
	else
		emit_column(walk, column, column->base ? column->base : now,
					column->first, verdict_of_conflict(walk),
					describe_change(column->lost ?
									psprintf("row %s",
											 verb_of(column->blocker)) :
									"value was changed",
									column->blocker));
}

static void
finish_columns(BemiRevertWalk *walk)
{
	Step		step = {"UPDATE", NIL, NULL, NULL, "ok", NULL};
	List	   *now_values = NIL;
	List	   *after_values = NIL;
	ListCell   *cell;

	foreach(cell, walk->columns)
	{
		BemiRevertColumn *column = lfirst(cell);
		Jsonb	   *now =
			bemi_revert_member(walk->now, column->name, column->length);
		bool		force =
			bemi_revert_mode_of(walk, column->name) == BEMI_REVERT_FORCE;
		Jsonb	   *value = force ? column->first : column->base;
		const char *reason;

		if (column->blocker != NULL && !(force && !column->lost))
			report_blocked_column(walk, column, now);
		if (column->blocker != NULL && column->base == NULL &&
			!(force && !column->lost))
			continue;
		reason = reason_against_column(walk, column, now, value);
		if (reason != NULL)
			emit_column(walk, column, now, value, verdict_of_conflict(walk),
						reason);
		else if (column->blocker != NULL && bemi_revert_is_same(now, value))
			emit_column(walk, column, now, value, "skip",
						describe_done(column->blocker));
		else if (!bemi_revert_is_same(now, value))
		{
			step.names = lappend(step.names, column->name);
			now_values = lappend(now_values, now);
			after_values = lappend(after_values, value);
		}
	}
	if (step.names == NIL)
		return;
	step.now = bemi_revert_object(step.names, now_values);
	step.after = bemi_revert_object(step.names, after_values);
	emit_step(walk, &step);
}

/*
 * Emits the steps of a slot whose events have all been walked.
 */
void
bemi_revert_finish(BemiRevertWalk *walk)
{
	if (walk->whole)
		finish_row(walk);
	else if (walk->removal != NULL && walk->columns == NIL)
		emit_row(walk, NULL, "skip", describe_done(walk->removal));
	finish_columns(walk);
}
