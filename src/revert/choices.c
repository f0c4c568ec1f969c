/*-------------------------------------------------------------------------
 *
 * choices.c
 *		What the caller has chosen for single rows and columns in conflict.
 *
 * Input: an array of JSON objects.  Output: the choices, sorted, so that the
 * walk finds those of a slot.  "restore" has the walk make the step, as mode
 * force does.  "keep" changes nothing but the verdict of a step in conflict,
 * so it is applied to the steps of the plan, whoever has put them in conflict.
 *
 * A choice is used if the walk has looked it up, or if a step of the plan is
 * for its row and column.  What must never happen: a choice has no place in
 * the plan, and its author does not learn of it.
 *
 * The hash of a plan has the verdicts, so it stands for the choices, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "revert/revert_internal.h"

typedef struct Choice
{
	const char *table;
	const char *key;
	const char *column;			/* "": the row */
	bool		keep;
	bool		used;
} Choice;

struct BemiRevertChoices
{
	int			count;
	bool		keeps;			/* any */
	Choice		list[FLEXIBLE_ARRAY_MEMBER];
};

static int
compare_choices(const void *a, const void *b)
{
	const Choice *left = a;
	const Choice *right = b;
	int			order = strcmp(left->table, right->table);

	if (order == 0)
		order = strcmp(left->key, right->key);
	return order != 0 ? order : strcmp(left->column, right->column);
}

static void
pg_attribute_noreturn()
throw_invalid_choice(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("choices must be an array of JSON objects"),
			 errdetail("Each has the texts \"table\" and \"key\" of a step, \"choice\", which is \"keep\" or \"restore\", and may have a \"column\". It has nothing else."),
			 errhint("Write it as choices => '[{\"table\": \"public.todo\", \"key\": \"26\", \"column\": \"task\", \"choice\": \"keep\"}]'.")));
}

/*
 * A member of a choice, which is a text.  "absent": what stands for a member
 * that is missing; NULL: that is an error.
 */
static const char *
text_of_member(JsonbContainer *choice, const char *name, const char *absent)
{
	JsonbValue *value =
		getKeyJsonValueFromContainer(choice, name, strlen(name), NULL);

	if (value == NULL && absent != NULL)
		return absent;
	if (value == NULL || value->type != jbvString)
		throw_invalid_choice();
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static Choice
read_choice(JsonbValue *value)
{
	JsonbContainer *object;
	Choice		choice;
	const char *chosen;

	if (value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		throw_invalid_choice();
	object = value->val.binary.data;
	choice.table = text_of_member(object, "table", NULL);
	choice.key = text_of_member(object, "key", NULL);
	choice.column = text_of_member(object, "column", "");
	chosen = text_of_member(object, "choice", NULL);
	choice.used = false;
	/* A misspelt "column" would make the choice that of the row. */
	if (JsonContainerSize(object) != (*choice.column ? 4 : 3))
		throw_invalid_choice();
	choice.keep = strcmp(chosen, "keep") == 0;
	if (!choice.keep && strcmp(chosen, "restore") != 0)
		throw_invalid_choice();
	return choice;
}

/*
 * "row 1 of table "todo"", or "column "task" of" that row.
 */
static char *
describe_choice(const Choice *choice)
{
	char	   *row = psprintf("row %s of table \"%s\"", choice->key,
							   choice->table);

	return *choice->column ?
		psprintf("column \"%s\" of %s", choice->column, row) : row;
}

/*
 * Two choices could contradict each other.
 */
static void
check_duplicates(const BemiRevertChoices *choices)
{
	for (int i = 1; i < choices->count; i++)
	{
		const Choice *choice = &choices->list[i];

		if (compare_choices(choice - 1, choice) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("choices has more than one choice for %s",
							describe_choice(choice)),
					 errdetail("Only one of them could count."),
					 errhint("Leave one of them out.")));
	}
}

/*
 * The choices of an argument, in the current memory context; NULL: none.
 */
BemiRevertChoices *
bemi_revert_read_choices(const BemiValue *argument)
{
	BemiRevertChoices *choices;
	JsonbContainer *array;
	int			count;

	if (argument->is_null)
		return NULL;
	array = &DatumGetJsonbP(argument->datum)->root;
	if (!JsonContainerIsArray(array) || JsonContainerIsScalar(array))
		throw_invalid_choice();
	count = JsonContainerSize(array);
	choices = palloc0(offsetof(BemiRevertChoices, list) +
					  count * sizeof(Choice));
	for (int i = 0; i < count; i++)
	{
		choices->list[i] =
			read_choice(getIthJsonbValueFromContainer(array, i));
		choices->keeps |= choices->list[i].keep;
	}
	choices->count = count;
	qsort(choices->list, count, sizeof(Choice), compare_choices);
	check_duplicates(choices);
	return choices;
}

bool
bemi_revert_keeps_any(const BemiRevertChoices *choices)
{
	return choices != NULL && choices->keeps;
}

/*
 * The choice for a column, or for a row; NULL: there is none.  It counts as
 * used.
 */
static const Choice *
find_choice(BemiRevertChoices *choices, const char *table, const char *key,
			const char *column)
{
	Choice		wanted = {table, key, column, false, false};
	Choice	   *choice = bsearch(&wanted, choices->list, choices->count,
								 sizeof(Choice), compare_choices);

	if (choice != NULL)
		choice->used = true;
	return choice;
}

/*
 * The mode for a column of a slot; NULL: for its row.  The choice for a row is
 * that of its columns, too, if they have none of their own.
 */
BemiRevertMode
bemi_revert_mode_of(const BemiRevertWalk *walk, const char *column)
{
	const char *table;
	const Choice *choice = NULL;

	if (walk->choices == NULL)
		return walk->mode;
	table = walk->tables[walk->table - 1].name;
	/* A row that comes or goes does so with all its columns. */
	if (column != NULL && !walk->whole)
		choice = find_choice(walk->choices, table, walk->slot, column);
	if (choice == NULL)
		choice = find_choice(walk->choices, table, walk->slot, "");
	if (choice == NULL)
		return walk->mode;
	return choice->keep ? BEMI_REVERT_REFUSE : BEMI_REVERT_FORCE;
}

/*
 * The only column of a step, or "".
 */
static const char *
column_of_step(TupleTableSlot *row)
{
	Datum	   *names;
	bool	   *nulls;
	int			count;

	if (row->tts_isnull[BEMI_STEP_COLUMNS])
		return "";
	deconstruct_array(DatumGetArrayTypeP(row->tts_values[BEMI_STEP_COLUMNS]),
					  TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &count);
	return count == 1 ? TextDatumGetCString(names[0]) : "";
}

/*
 * Whether a step in conflict is to be left out.
 */
static bool
is_kept(BemiRevertChoices *choices, const char *table, TupleTableSlot *row)
{
	const char *key = TextDatumGetCString(row->tts_values[BEMI_STEP_KEY]);
	const Choice *choice =
		find_choice(choices, table, key, column_of_step(row));

	if (choice == NULL)
		choice = find_choice(choices, table, key, "");
	return choice != NULL && choice->keep;
}

/*
 * Leaves out the steps in conflict whose values are to be kept.
 */
void
bemi_revert_keep_chosen(BemiRevertChoices *choices,
						const BemiRevertTable *tables, BemiRows *steps)
{
	BemiRows	result = bemi_revert_make_rows(steps->name, steps->columns);
	TupleTableSlot *row = MakeSingleTupleTableSlot(steps->columns,
												   &TTSOpsMinimalTuple);

	/* A query that has read them leaves its own read pointer. */
	tuplestore_select_read_pointer(steps->rows, 0);
	tuplestore_rescan(steps->rows);
	while (tuplestore_gettupleslot(steps->rows, true, false, row))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(row);
		if (*VARDATA_ANY(DatumGetPointer(
										 row->tts_values[BEMI_STEP_VERDICT])) == 'c' &&
			is_kept(choices,
					tables[DatumGetInt32(
										 row->tts_values[BEMI_STEP_TABLE]) -
						   1]
					.name,
					row))
			row->tts_values[BEMI_STEP_VERDICT] = CStringGetTextDatum("skip");
		tuplestore_putvalues(result.rows, result.columns, row->tts_values,
							 row->tts_isnull);
	}
	ExecDropSingleTupleTableSlot(row);
	tuplestore_end(steps->rows);
	*steps = result;
}

/*
 * The choices for a step of the plan count as used, also if there is no
 * conflict.
 */
void
bemi_revert_use_choices(BemiRevertChoices *choices, const char *table,
						TupleTableSlot *row)
{
	const char *key = TextDatumGetCString(row->tts_values[BEMI_STEP_KEY]);
	Datum	   *names;
	int			count;

	(void) find_choice(choices, table, key, "");
	if (row->tts_isnull[BEMI_STEP_COLUMNS])
		return;
	deconstruct_array(DatumGetArrayTypeP(row->tts_values[BEMI_STEP_COLUMNS]),
					  TEXTOID, -1, false, TYPALIGN_INT, &names, NULL, &count);
	for (int i = 0; i < count; i++)
		(void) find_choice(choices, table, key, TextDatumGetCString(names[i]));
}

/*
 * Throws an error if a choice is not used.  NULL: there are none.
 */
void
bemi_revert_check_choices(const BemiRevertChoices *choices)
{
	for (int i = 0; choices != NULL && i < choices->count; i++)
	{
		const Choice *choice = &choices->list[i];

		if (!choice->used)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("choices has a choice for %s, which is not in the plan",
							describe_choice(choice)),
					 errdetail("Such a choice would have no effect."),
					 errhint("SELECT table_name, key, columns FROM bemi.plan_revert(...); lists rows and columns. A row that is inserted, deleted or replaced is chosen without a column.")));
	}
}
