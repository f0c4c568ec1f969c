/*-------------------------------------------------------------------------
 *
 * set.c
 *		The changes that are to be taken back, and how they become events.
 *
 * Input: a condition on bemi.changes.  Output: the changes in a tuplestore;
 * and, with the rows as they are now, events for walk.c.
 *
 * The history is read once for the set.  A table of it is plain if each of its
 * changes is one event as it is: it has a key, which the set does not change,
 * and the set does not truncate it.  _bemi.revert_queries() decides.  Changes
 * of other tables become events by SQL.
 *
 * Most sets change each row once, and nobody else has changed these rows
 * since.  Such a change and the row as it is now are all events of their slot,
 * so they are walked at once, without a sort.  To know them, the hashes of all
 * slots are counted, as one, or more.  Two slots of the same hash count as
 * more than one, which costs a sort, but is right.  If the hashes do not fit
 * into work_mem, all events are sorted.
 *
 * If the set has only updated rows, and many of a table, reader.c reads this
 * table.  All other rows are found by a join.
 *
 * The query of the rows as they are now returns them with the numbers of their
 * changes, and both are merged.  Mostly, it returns them in the order of the
 * changes.  From the first row on that is another one than expected, the rows
 * are sorted before.
 *
 * The changes have the order in which they are stored.  That is nearly the
 * order of commits, which nothing here relies on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"

#include "decode/decode.h"
#include "revert/revert_internal.h"

/* The first letter of an operation that is no event. */
#define SNAPSHOT	'S'

/* Columns of the set: those of the query, and a number. */
enum
{
	SET_ID, SET_SOURCE, SET_SCHEMA, SET_TABLE, SET_SLOT, SET_OPERATION,
	SET_BEFORE, SET_AFTER, SET_TIME, SET_TRANSACTION, SET_IS_LARGE, SET_NUMBER,
	SET_COUNT
};

/* Columns of the rows as they are now. */
enum
{
	NOW_NUMBER, NOW_CTID, NOW_TABLEOID, NOW_IMAGE
};

/*
 * A compressed context may be large, see _bemi.revert_context().
 */
#define SET_QUERY \
	"SELECT c.id, c.source, c.schema, c.\"table\", c.primary_key, c.operation," \
	" c.before, c.after, c.committed_at, c.transaction_id," \
	" pg_column_size(c.context) > 2048" \
	" OR pg_column_compression(c.context) IS NOT NULL AS is_large" \
	" FROM bemi.changes c WHERE %s"

/* Changes of a table under one name. */
typedef struct SetGroup
{
	text	   *source;
	text	   *schema;
	text	   *table;
	pg_uuid_t	first_id;
	pg_uuid_t	last_id;
	TimestampTz first_time;
	int64		first_transaction;
	int64		count;			/* of changes */
	bool		truncates;
	bool		only_updates;
	List	   *changed;		/* columns, text *; only of updates */
	int			place;			/* among the groups */
	int			number;			/* of its plain table; 0: it is not plain */
	struct BemiRevertReader *reader;	/* NULL: rows are found by a join */
} SetGroup;

/*
 * The hash of a slot, with its lowest bit set if there is more than one event
 * in the slot.  0: no slot.
 */
typedef struct SlotCell
{
	uint64		hash;
	int64		number;			/* of the first change */
} SlotCell;

typedef struct Counts
{
	SlotCell   *cells;			/* NULL: there are too many */
	uint64		mask;
	uint64		used;
	bool		has_several;	/* any slot has more than one */
} Counts;

/* A set that is being read. */
typedef struct Survey
{
	BemiRows   *changes;
	List	   *groups;			/* SetGroup *, the last used one first */
	Datum		ids[BEMI_REVERT_OF_LIMIT + 1];
	int			id_count;
	pg_uuid_t	transactions[BEMI_REVERT_OF_LIMIT]; /* the first ones, sorted */
	int			transaction_count;
	pg_uuid_t	last_id;
	pg_uuid_t	first_id;		/* and the last one without a gap */
	pg_uuid_t	last_without_gap;
	bool		has_gap;
	bool		is_unordered;	/* the first one has not come first */
	bool		has_large;
	int64		number;
	Counts	   *counts;
} Survey;

static int
compare_ids(const pg_uuid_t *a, const pg_uuid_t *b)
{
	return memcmp(a->data, b->data, UUID_LEN);
}

static bool
is_same_text(const text * a, Datum b)
{
	const		text *other = (const text *) DatumGetPointer(b);

	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(other) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(other), VARSIZE_ANY_EXHDR(a)) == 0;
}

static bool
is_operation(TupleTableSlot *row, char first)
{
	return *VARDATA_ANY(DatumGetPointer(row->tts_values[SET_OPERATION])) ==
		first;
}

/*
 * The group of a change, which is moved to the front; NULL if it is new.
 */
static SetGroup *
find_group(List **groups, TupleTableSlot *row)
{
	ListCell   *cell;

	foreach(cell, *groups)
	{
		SetGroup   *group = lfirst(cell);

		if (!is_same_text(group->table, row->tts_values[SET_TABLE]) ||
			!is_same_text(group->schema, row->tts_values[SET_SCHEMA]) ||
			!is_same_text(group->source, row->tts_values[SET_SOURCE]))
			continue;
		if (cell != list_head(*groups))
			*groups = lcons(group, list_delete_cell(*groups, cell));
		return group;
	}
	return NULL;
}

static SetGroup *
make_group(TupleTableSlot *row)
{
	SetGroup   *group = palloc0(sizeof(SetGroup));

	group->source = DatumGetTextPCopy(row->tts_values[SET_SOURCE]);
	group->schema = DatumGetTextPCopy(row->tts_values[SET_SCHEMA]);
	group->table = DatumGetTextPCopy(row->tts_values[SET_TABLE]);
	group->first_id = group->last_id =
		*DatumGetUUIDP(row->tts_values[SET_ID]);
	group->first_time = DatumGetTimestampTz(row->tts_values[SET_TIME]);
	group->first_transaction = DatumGetInt64(row->tts_values[SET_TRANSACTION]);
	group->only_updates = true;
	return group;
}

static SetGroup *
count_in_group(Survey *survey, TupleTableSlot *row)
{
	SetGroup   *group = find_group(&survey->groups, row);
	const pg_uuid_t *id = DatumGetUUIDP(row->tts_values[SET_ID]);

	if (group == NULL)
	{
		group = make_group(row);
		group->place = list_length(survey->groups);
		survey->groups = lcons(group, survey->groups);
	}
	if (compare_ids(id, &group->first_id) < 0)
		group->first_id = *id;
	if (compare_ids(id, &group->last_id) > 0)
		group->last_id = *id;
	group->first_time =
		Min(group->first_time, DatumGetTimestampTz(row->tts_values[SET_TIME]));
	group->first_transaction =
		Min(group->first_transaction,
			DatumGetInt64(row->tts_values[SET_TRANSACTION]));
	group->truncates |= is_operation(row, TRUNCATED);
	return group;
}

/*
 * Whether two changes are of one transaction: their ids share the LSN of the
 * commit, and commits are multiples of 8.
 */
static bool
is_same_transaction(const pg_uuid_t *a, const pg_uuid_t *b)
{
	return memcmp(a->data, b->data, 8) == 0 &&
		(a->data[8] & 0xFC) == (b->data[8] & 0xFC);
}

static Datum
copy_id(const pg_uuid_t *id)
{
	pg_uuid_t  *copy = palloc(sizeof(pg_uuid_t));

	*copy = *id;
	return UUIDPGetDatum(copy);
}

/*
 * Remembers a transaction, by its first change, if it is one of the first.
 */
static void
remember_transaction(Survey *survey, const pg_uuid_t *id)
{
	pg_uuid_t  *firsts = survey->transactions;
	int			i = survey->transaction_count;

	while (i > 0 && compare_ids(id, &firsts[i - 1]) < 0)
		i--;
	if (i > 0 && is_same_transaction(id, &firsts[i - 1]))
		return;
	if (i < survey->transaction_count && is_same_transaction(id, &firsts[i]))
	{
		firsts[i] = *id;
		return;
	}
	if (i == BEMI_REVERT_OF_LIMIT)
		return;
	survey->transaction_count =
		Min(survey->transaction_count + 1, BEMI_REVERT_OF_LIMIT);
	memmove(&firsts[i + 1], &firsts[i],
			sizeof(pg_uuid_t) * (survey->transaction_count - i - 1));
	firsts[i] = *id;
}

/*
 * A set often has all changes of a transaction.  Others have none among them.
 */
static void
look_for_gap(Survey *survey, const pg_uuid_t *id)
{
	if (survey->id_count == 0)
		survey->first_id = survey->last_without_gap = *id;
	else if (!survey->has_gap &&
			 bemi_is_next_change_id(&survey->last_without_gap, id))
		survey->last_without_gap = *id;
	else
	{
		survey->has_gap = true;
		survey->is_unordered |= compare_ids(id, &survey->first_id) < 0;
	}
}

static void
remember_id(Survey *survey, const pg_uuid_t *id)
{
	look_for_gap(survey, id);
	if (survey->id_count < lengthof(survey->ids))
		survey->ids[survey->id_count++] = copy_id(id);
	if (compare_ids(id, &survey->last_id) < 0 ||
		!is_same_transaction(id, &survey->last_id))
		remember_transaction(survey, id);
	survey->last_id = *id;
}

static void
make_counts(Counts *counts, uint64 cells)
{
	counts->mask = cells - 1;
	counts->cells = cells * sizeof(SlotCell) > work_mem * (uint64) 1024 ?
		NULL : MemoryContextAllocExtended(CurrentMemoryContext,
										  cells * sizeof(SlotCell),
										  MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

static void
free_counts(Counts *counts)
{
	if (counts->cells != NULL)
		pfree(counts->cells);
	counts->cells = NULL;
}

/*
 * The cell of a hash, or the one where it belongs.
 */
static SlotCell *
cell_of_hash(const Counts *counts, uint64 hash)
{
	uint64		i = (hash >> 2) & counts->mask;

	while (counts->cells[i].hash != 0 &&
		   (counts->cells[i].hash & ~UINT64CONST(1)) != hash)
		i = (i + 1) & counts->mask;
	return &counts->cells[i];
}

/*
 * The hash of a slot of a group.
 */
static uint64
hash_of_key(int group, const char *key, int length)
{
	uint64		hash =
		DatumGetUInt64(hash_any_extended((const unsigned char *) key, length,
										 group));

	return (hash | 2) & ~UINT64CONST(1);
}

static uint64
hash_of_slot(int group, Datum slot)
{
	text	   *key = DatumGetTextPP(slot);

	return hash_of_key(group, VARDATA_ANY(key), VARSIZE_ANY_EXHDR(key));
}

static void
grow_counts(Counts *counts)
{
	Counts		former = *counts;

	make_counts(counts, 2 * (former.mask + 1));
	for (uint64 i = 0; i <= former.mask && counts->cells != NULL; i++)
	{
		if (former.cells[i].hash != 0)
			*cell_of_hash(counts, former.cells[i].hash & ~UINT64CONST(1)) =
				former.cells[i];
	}
	pfree(former.cells);
}

static void
count_event(Counts *counts, int group, Datum slot, int64 number)
{
	uint64		hash = hash_of_slot(group, slot);
	SlotCell   *cell = cell_of_hash(counts, hash);

	if (cell->hash != 0)
	{
		cell->hash |= 1;
		counts->has_several = true;
	}
	else
	{
		cell->hash = hash;
		cell->number = number;
		if (++counts->used > counts->mask / 2)
			grow_counts(counts);
	}
}

/*
 * The columns of the query, and a number.  Texts have the collation that they
 * have in bemi.changes.
 */
static TupleDesc
columns_of_set(void)
{
	static const BemiRevertColumnType types[] = {
		{"id", UUIDOID}, {"source", TEXTOID}, {"schema", TEXTOID},
		{"table", TEXTOID}, {"primary_key", TEXTOID}, {"operation", TEXTOID},
		{"before", JSONBOID}, {"after", JSONBOID},
		{"committed_at", TIMESTAMPTZOID}, {"transaction_id", INT8OID},
		{"is_large", BOOLOID}, {"n", INT8OID}
	};
	TupleDesc	columns = bemi_revert_columns(types, lengthof(types));

	for (int i = 0; i < lengthof(types); i++)
	{
		if (types[i].type == TEXTOID)
			TupleDescInitEntryCollation(columns, i + 1, C_COLLATION_OID);
	}
	return columns;
}

static void
keep_change(Survey *survey, TupleTableSlot *row)
{
	Datum		values[SET_COUNT];
	bool		nulls[SET_COUNT];

	memcpy(values, row->tts_values, sizeof(Datum) * SET_NUMBER);
	memcpy(nulls, row->tts_isnull, sizeof(bool) * SET_NUMBER);
	values[SET_NUMBER] = Int64GetDatum(survey->number++);
	nulls[SET_NUMBER] = false;
	tuplestore_putvalues(survey->changes->rows, survey->changes->columns,
						 values, nulls);
}

static bool
is_listed(List *texts, const JsonbValue *name)
{
	ListCell   *cell;

	foreach(cell, texts)
	{
		text	   *known = lfirst(cell);

		if (VARSIZE_ANY_EXHDR(known) == name->val.string.len &&
			memcmp(VARDATA_ANY(known), name->val.string.val,
				   name->val.string.len) == 0)
			return true;
	}
	return false;
}

/*
 * Lists the columns that an update has changed.
 */
static void
list_changed(SetGroup *group, Jsonb *before, Jsonb *after)
{
	JsonbIterator *members = JsonbIteratorInit(&after->root);
	JsonbValue	name;
	JsonbValue	value;
	JsonbValue	buffer;
	JsonbValue *former;

	(void) JsonbIteratorNext(&members, &name, true);
	while (JsonbIteratorNext(&members, &name, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&members, &value, true);
		if (is_listed(group->changed, &name))
			continue;
		former = getKeyJsonValueFromContainer(&before->root,
											  name.val.string.val,
											  name.val.string.len, &buffer);
		if (former == NULL || !bemi_revert_is_same_value(former, &value))
			group->changed =
				lappend(group->changed,
						cstring_to_text_with_len(name.val.string.val,
												 name.val.string.len));
	}
}

static void
survey_columns(SetGroup *group, TupleTableSlot *row)
{
	Jsonb	   *before;
	Jsonb	   *after;

	group->only_updates &= is_operation(row, UPDATED);
	if (!group->only_updates)
		return;
	before = DatumGetJsonbP(row->tts_values[SET_BEFORE]);
	after = DatumGetJsonbP(row->tts_values[SET_AFTER]);
	list_changed(group, before, after);
	if ((Pointer) before != DatumGetPointer(row->tts_values[SET_BEFORE]))
		pfree(before);
	if ((Pointer) after != DatumGetPointer(row->tts_values[SET_AFTER]))
		pfree(after);
}

static void
survey_change(TupleTableSlot *row, void *argument)
{
	Survey	   *survey = argument;
	SetGroup   *group = count_in_group(survey, row);

	survey->has_large |= DatumGetBool(row->tts_values[SET_IS_LARGE]);
	survey_columns(group, row);
	if (!is_operation(row, SNAPSHOT))
		remember_id(survey, DatumGetUUIDP(row->tts_values[SET_ID]));
	if (survey->counts->cells != NULL && !row->tts_isnull[SET_SLOT])
		count_event(survey->counts, group->place,
					row->tts_values[SET_SLOT], survey->number);
	group->count++;
	keep_change(survey, row);
}

static Datum
array_of_texts(List *texts)
{
	Datum	   *elements = palloc(sizeof(Datum) * (list_length(texts) + 1));
	int			count = 0;
	ListCell   *cell;

	foreach(cell, texts)
	{
		elements[count++] = PointerGetDatum(lfirst(cell));
	}
	return PointerGetDatum(construct_array(elements, count, TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/*
 * The groups in a tuplestore.
 */
static BemiRows
rows_of_groups(List *groups)
{
	static const BemiRevertColumnType types[] = {
		{"source", TEXTOID}, {"schema", TEXTOID}, {"table", TEXTOID},
		{"first_id", UUIDOID}, {"last_id", UUIDOID},
		{"first_time", TIMESTAMPTZOID}, {"first_transaction", INT8OID},
		{"truncates", BOOLOID}, {"changed", TEXTARRAYOID}
	};
	BemiRows	rows =
		bemi_revert_make_rows("bemi_groups",
							  bemi_revert_columns(types, lengthof(types)));
	bool		nulls[lengthof(types)] = {false};
	ListCell   *cell;

	foreach(cell, groups)
	{
		SetGroup   *group = lfirst(cell);
		Datum		values[] = {
			PointerGetDatum(group->source), PointerGetDatum(group->schema),
			PointerGetDatum(group->table), UUIDPGetDatum(&group->first_id),
			UUIDPGetDatum(&group->last_id),
			TimestampTzGetDatum(group->first_time),
			Int64GetDatum(group->first_transaction),
			BoolGetDatum(group->truncates), array_of_texts(group->changed)
		};

		nulls[lengthof(types) - 1] = !group->only_updates;
		tuplestore_putvalues(rows.rows, rows.columns, values, nulls);
	}
	return rows;
}

static BemiValue
array_of_ids(Datum *ids, int count)
{
	BemiValue	value = {UUIDARRAYOID, false, (Datum) 0};

	value.datum =
		PointerGetDatum(construct_array(ids, count, UUIDOID, UUID_LEN, false,
										TYPALIGN_CHAR));
	return value;
}

/*
 * What the context of the revert shows.
 */
static BemiValue
read_revert_of(Survey *survey)
{
	BemiValue	revert_of = {JSONBOID, true, (Datum) 0};
	Datum		transactions[BEMI_REVERT_OF_LIMIT];
	BemiValue	arguments[2];

	for (int i = 0; i < survey->transaction_count; i++)
		transactions[i] = UUIDPGetDatum(&survey->transactions[i]);
	arguments[0] = array_of_ids(survey->ids,
								survey->id_count > BEMI_REVERT_OF_LIMIT ? 0 :
								survey->id_count);
	arguments[1] = array_of_ids(transactions, survey->transaction_count);
	(void) bemi_sql_read_row("SELECT _bemi.revert_of($1, $2)", arguments,
							 lengthof(arguments), &revert_of, 1);
	return revert_of;
}

/*
 * The condition of the set.
 */
static char *
read_condition(const BemiRevertCall *call, const BemiRevertSet *set,
			   bool has_large)
{
	BemiValue	arguments[BEMI_REVERT_SET_ARGUMENTS + 3];
	BemiValue	condition = {TEXTOID, true, (Datum) 0};

	memcpy(arguments, call->set, sizeof(call->set));
	arguments[BEMI_REVERT_SET_ARGUMENTS] = bemi_sql_bool(has_large);
	arguments[BEMI_REVERT_SET_ARGUMENTS + 1] = set->running;
	arguments[BEMI_REVERT_SET_ARGUMENTS + 2] = bemi_sql_text(set->added);
	(void)
		bemi_sql_read_row("SELECT _bemi.revert_complete_set(_bemi.revert_condition("
						  "$1, $2, $3, $4, $5, $6), $7, $8::uuid[])",
						  arguments, lengthof(arguments), &condition, 1);
	return bemi_sql_text_of(&condition);
}

static void
read_changes(BemiRevertSet *set, Survey *survey)
{
	memset(survey, 0, sizeof(*survey));
	set->changes = bemi_revert_make_rows("bemi_changes", columns_of_set());
	set->counts = survey->counts = palloc0(sizeof(Counts));
	survey->changes = &set->changes;
	make_counts(survey->counts, 1024);
	bemi_sql_read_each_row(psprintf(SET_QUERY, set->condition), NULL,
						   survey_change, survey);
}

/*
 * Reads the set.  The rest of a large context is in other changes, so if there
 * is one, the condition is another one.
 */
void
bemi_revert_read_set(const BemiRevertCall *call, BemiRevertSet *set)
{
	Survey		survey;
	char	   *complete;

	set->condition = read_condition(call, set, false);
	read_changes(set, &survey);
	if (survey.has_large)
	{
		complete = read_condition(call, set, true);
		if (strcmp(complete, set->condition) != 0)
		{
			free_counts(set->counts);
			tuplestore_end(set->changes.rows);
			set->condition = complete;
			read_changes(set, &survey);
		}
	}
	set->groups = survey.groups;
	set->group_rows = rows_of_groups(survey.groups);
	set->revert_of = read_revert_of(&survey);
	set->without_gap =
		bemi_sql_null_if(survey.is_unordered,
						 bemi_sql_uuid(DatumGetUUIDP(
													 copy_id(&survey.last_without_gap))));
}

/*
 * Another event in a slot, if the slot is known.
 */
static void
mark_slot(Counts *counts, int group, Datum slot)
{
	SlotCell   *cell;

	if (counts->cells == NULL)
		return;
	cell = cell_of_hash(counts, hash_of_slot(group, slot));
	if (cell->hash != 0)
	{
		cell->hash |= 1;
		counts->has_several = true;
	}
}

static bool
is_single(const Counts *counts, int group, Datum slot)
{
	return counts->cells != NULL &&
		(!counts->has_several ||
		 (cell_of_hash(counts, hash_of_slot(group, slot))->hash & 1) == 0);
}

/*
 * A pass over the changes of plain tables.
 */
typedef struct Pass
{
	BemiRevertSet *set;
	BemiRows   *changes;		/* of the set, or those that are left */
	BemiRevertWalk *walk;
	BemiRows   *events;
	SetGroup  **groups;			/* by the number of the table */
	bool	   *has_truncation; /* the same */
	TupleTableSlot *row;		/* empty: the pass has ended */
	BemiRows	late;			/* rows as they are now that must be sorted */
	SetGroup   *group;
	Datum		values[BEMI_EVENT_COUNT];
	bool		nulls[BEMI_EVENT_COUNT];
	Datum		kinds[4];
	Datum		empty;			/* jsonb */
	bool		is_single;
} Pass;

/*
 * Moves to the next change of a plain table.
 */
static bool
next_change(Pass *pass)
{
	BemiRows   *changes = pass->changes;

	for (;;)
	{
		/* A query may read the same rows, by a pointer of its own. */
		tuplestore_select_read_pointer(changes->rows, 0);
		if (!tuplestore_gettupleslot(changes->rows, true, false, pass->row))
			return false;
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(pass->row);
		pass->group = find_group(&pass->set->groups, pass->row);
		if (pass->group->number > 0 &&
			(is_operation(pass->row, CREATED) ||
			 is_operation(pass->row, UPDATED) ||
			 is_operation(pass->row, DELETED)))
			return true;
	}
}

static void
begin_pass(Pass *pass)
{
	tuplestore_select_read_pointer(pass->changes->rows, 0);
	tuplestore_rescan(pass->changes->rows);
	pass->row = MakeSingleTupleTableSlot(pass->changes->columns,
										 &TTSOpsMinimalTuple);
}

/*
 * Slots that have later events of others, too.  A TRUNCATE is one of each slot
 * of its table.
 */
static void
mark_later_events(Pass *pass)
{
	TupleTableSlot *row;

	row = MakeSingleTupleTableSlot(pass->events->columns, &TTSOpsMinimalTuple);
	tuplestore_rescan(pass->events->rows);
	while (tuplestore_gettupleslot(pass->events->rows, true, false, row))
	{
		int			number;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(row);
		number = DatumGetInt32(row->tts_values[BEMI_EVENT_TABLE]);
		if (row->tts_isnull[BEMI_EVENT_SLOT])
			pass->has_truncation[number] = true;
		else if (pass->groups[number] != NULL)
			mark_slot(pass->set->counts, pass->groups[number]->place,
					  row->tts_values[BEMI_EVENT_SLOT]);
	}
	ExecDropSingleTupleTableSlot(row);
}

/*
 * Sends an event to its walk, or to those that must be sorted.
 */
static void
send_event(Pass *pass)
{
	if (pass->is_single)
		bemi_revert_walk_event(pass->walk, pass->values, true);
	else
		tuplestore_putvalues(pass->events->rows, pass->events->columns,
							 pass->values, pass->nulls);
}

/*
 * Whether the present change and its row as it is now are all events of the
 * slot.
 */
static bool
is_alone(const Pass *pass)
{
	return !pass->row->tts_isnull[SET_SLOT] &&
		!pass->has_truncation[pass->group->number] &&
		is_single(pass->set->counts, pass->group->place,
				  pass->row->tts_values[SET_SLOT]);
}

static void
send_change(Pass *pass)
{
	Datum	   *values = pass->row->tts_values;

	pass->is_single = is_alone(pass);
	pass->values[BEMI_EVENT_TABLE] = Int32GetDatum(pass->group->number);
	pass->values[BEMI_EVENT_SLOT] = values[SET_SLOT];
	pass->nulls[BEMI_EVENT_SLOT] = pass->row->tts_isnull[SET_SLOT];
	pass->values[BEMI_EVENT_ID] = values[SET_ID];
	pass->values[BEMI_EVENT_KIND] =
		pass->kinds[is_operation(pass->row, CREATED) ? 0 :
					is_operation(pass->row, UPDATED) ? 1 : 2];
	pass->values[BEMI_EVENT_IN_SET] = BoolGetDatum(true);
	pass->values[BEMI_EVENT_BEFORE] = values[SET_BEFORE];
	pass->values[BEMI_EVENT_AFTER] = values[SET_AFTER];
	pass->values[BEMI_EVENT_TIME] = values[SET_TIME];
	pass->values[BEMI_EVENT_CONTEXT] = pass->empty;
	pass->nulls[BEMI_EVENT_CTID] = pass->nulls[BEMI_EVENT_TABLEOID] = true;
	send_event(pass);
}

/*
 * The row of the present change as it is now.
 */
static void
send_row_of_now(Pass *pass, const Datum *now)
{
	static const pg_uuid_t last_id = {
		{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
		0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	};

	pass->values[BEMI_EVENT_ID] = UUIDPGetDatum(&last_id);
	pass->values[BEMI_EVENT_KIND] = pass->kinds[3];
	pass->values[BEMI_EVENT_IN_SET] = BoolGetDatum(false);
	pass->values[BEMI_EVENT_BEFORE] = pass->empty;
	pass->values[BEMI_EVENT_AFTER] = now[NOW_IMAGE];
	pass->values[BEMI_EVENT_CTID] = now[NOW_CTID];
	pass->values[BEMI_EVENT_TABLEOID] = now[NOW_TABLEOID];
	pass->nulls[BEMI_EVENT_CTID] = pass->nulls[BEMI_EVENT_TABLEOID] = false;
	send_event(pass);
}

/*
 * The number of the present change.
 */
static int64
number_of(const Pass *pass)
{
	return DatumGetInt64(pass->row->tts_values[SET_NUMBER]);
}

/*
 * Sends the changes up to that of a row as it is now, and then this row.
 */
static void
merge_row(Pass *pass, TupleTableSlot *now)
{
	int64		number = DatumGetInt64(now->tts_values[NOW_NUMBER]);

	while (!TupIsNull(pass->row) && number_of(pass) < number)
	{
		if (next_change(pass))
			send_change(pass);
	}
	if (!TupIsNull(pass->row) && number_of(pass) == number)
		send_row_of_now(pass, now->tts_values);
}

/*
 * A row as it is now is merged if it is that of the next change.  If it is
 * not, the change may have none, or a later row may be its.
 */
static void
merge_or_keep(TupleTableSlot *now, void *argument)
{
	Pass	   *pass = argument;

	if (tuplestore_tuple_count(pass->late.rows) == 0 &&
		!TupIsNull(pass->row) &&
		number_of(pass) == DatumGetInt64(now->tts_values[NOW_NUMBER]))
	{
		send_row_of_now(pass, now->tts_values);
		if (next_change(pass))
			send_change(pass);
	}
	else
		tuplestore_putvalues(pass->late.rows, pass->late.columns,
							 now->tts_values, now->tts_isnull);
}

static void
merge_late_rows(Pass *pass)
{
	BemiRows	sorted = bemi_revert_make_rows("bemi_late", pass->late.columns);
	TupleTableSlot *now =
		MakeSingleTupleTableSlot(sorted.columns, &TTSOpsMinimalTuple);

	bemi_sql_read_rows("SELECT l.* FROM bemi_late l ORDER BY l.n",
					   &pass->late, &sorted);
	while (tuplestore_gettupleslot(sorted.rows, true, false, now))
	{
		slot_getallattrs(now);
		merge_row(pass, now);
	}
	ExecDropSingleTupleTableSlot(now);
	tuplestore_end(sorted.rows);
}

/*
 * Merges the changes with the rows as they are now.
 */
static void
merge(Pass *pass, const char *rows_now)
{
	static const BemiRevertColumnType types[] = {
		{"n", INT8OID}, {"row_ctid", TIDOID}, {"row_table", OIDOID},
		{"image", JSONBOID}
	};

	pass->late = bemi_revert_make_rows("bemi_late",
									   bemi_revert_columns(types,
														   lengthof(types)));
	begin_pass(pass);
	if (next_change(pass))
		send_change(pass);
	bemi_sql_read_each_row(rows_now, pass->changes, merge_or_keep, pass);
	if (tuplestore_tuple_count(pass->late.rows) > 0)
		merge_late_rows(pass);
	tuplestore_end(pass->late.rows);
	while (!TupIsNull(pass->row) && next_change(pass))
		send_change(pass);
	ExecDropSingleTupleTableSlot(pass->row);
}

static bool
is_text(const text * a, const char *b)
{
	return VARSIZE_ANY_EXHDR(a) == strlen(b) &&
		memcmp(VARDATA_ANY(a), b, strlen(b)) == 0;
}

/*
 * The group of a plain table; NULL if it is not plain.
 */
static SetGroup *
group_of_table(const BemiRevertSet *set, const BemiRevertTable *table)
{
	ListCell   *cell;

	foreach(cell, set->groups)
	{
		SetGroup   *group = lfirst(cell);

		if (table->source != NULL && is_text(group->source, table->source) &&
			is_text(group->schema, table->schema) &&
			is_text(group->table, table->table))
			return group;
	}
	return NULL;
}

static void
number_groups(Pass *pass, const BemiRevertTable *tables, int count)
{
	ListCell   *cell;

	foreach(cell, pass->set->groups)
	{
		SetGroup   *group = lfirst(cell);

		group->number = 0;
		group->reader = NULL;
	}
	for (int i = 1; i <= count; i++)
	{
		pass->groups[i] = group_of_table(pass->set, &tables[i - 1]);
		if (pass->groups[i] != NULL)
			pass->groups[i]->number = i;
	}
}

/*
 * The number of the change of a key, or -1.
 */
static int64
find_change(const char *key, int length, void *argument)
{
	const Pass *pass = argument;
	const SlotCell *cell =
		cell_of_hash(pass->set->counts,
					 hash_of_key(pass->group->place, key, length));

	return cell->hash != 0 ? cell->number : -1;
}

/*
 * Reads the tables of which the set has changed many rows.  Returns whether
 * there are any.
 */
static bool
read_tables(Pass *pass, const BemiRevertTable *tables, int count)
{
	bool		any = false;

	for (int i = 1; i <= count; i++)
	{
		pass->group = pass->groups[i];
		if (pass->group != NULL && pass->set->counts->cells != NULL)
			pass->group->reader =
				bemi_revert_read_table(&tables[i - 1],
									   pass->group->count,
									   tuplestore_tuple_count(
															  pass->changes->rows),
									   find_change, pass);
		any |= pass->group != NULL && pass->group->reader != NULL;
	}
	return any;
}

static void
end_readers(List *groups)
{
	ListCell   *cell;

	foreach(cell, groups)
	{
		SetGroup   *group = lfirst(cell);

		if (group->reader != NULL)
			bemi_revert_end_reader(group->reader);
		group->reader = NULL;
	}
}

/*
 * Walks the present change if its row has been read, and is as the change has
 * left it.
 */
static bool
walk_if_same(Pass *pass)
{
	Datum	   *values = pass->row->tts_values;
	BemiRevertEvent event = {.kind = UPDATED,.in_set = true};
	ItemPointer place;

	if (pass->group->reader == NULL || !is_operation(pass->row, UPDATED) ||
		!is_alone(pass))
		return false;
	event.before = DatumGetJsonbP(values[SET_BEFORE]);
	event.after = DatumGetJsonbP(values[SET_AFTER]);
	event.id = *DatumGetUUIDP(values[SET_ID]);
	place = bemi_revert_find_same(pass->group->reader, number_of(pass),
								  DatumGetTextPP(values[SET_SLOT]),
								  event.after);
	if (place == NULL)
		return false;
	bemi_revert_walk_same(pass->walk, pass->group->number, values[SET_SLOT],
						  &event, place,
						  bemi_revert_relation(pass->group->reader));
	return true;
}

/*
 * Walks the changes whose rows are as they have left them.  All others are
 * left.
 */
static void
walk_same(Pass *pass, BemiRows *left)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext memory = AllocSetContextCreate(caller, "bemi revert change",
												 ALLOCSET_DEFAULT_SIZES);
	bool		is_walked;

	begin_pass(pass);
	while (next_change(pass))
	{
		MemoryContextSwitchTo(memory);
		is_walked = walk_if_same(pass);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(memory);
		if (!is_walked)
			tuplestore_putvalues(left->rows, left->columns,
								 pass->row->tts_values, pass->row->tts_isnull);
	}
	ExecDropSingleTupleTableSlot(pass->row);
	MemoryContextDelete(memory);
}

/*
 * Walks what can be walked by reading tables, and the rest by a join.
 */
static void
walk_plain(Pass *pass, const char *rows_now)
{
	BemiRows	left = bemi_revert_make_rows(pass->changes->name,
											 pass->changes->columns);

	walk_same(pass, &left);
	pass->changes = &left;
	if (tuplestore_tuple_count(left.rows) > 0)
		merge(pass, rows_now);
	tuplestore_end(left.rows);
}

/*
 * Walks the changes of plain tables that are alone in their slots, and appends
 * the events of other slots to "events", which has those of others.  If the
 * columns that the set has changed are enough, tables may be read completely.
 */
void
bemi_revert_walk_set(BemiRevertSet *set, const BemiRevertTable *tables,
					 int count, const char *rows_now, bool reads_tables,
					 BemiRevertWalk *walk, BemiRows *events)
{
	static const char *const kinds[] = {"C", "U", "D", "N"};
	Pass	   *pass = palloc0(sizeof(Pass));

	pass->set = set;
	pass->changes = &set->changes;
	pass->walk = walk;
	pass->events = events;
	pass->groups = palloc0(sizeof(SetGroup *) * (count + 1));
	pass->has_truncation = palloc0(sizeof(bool) * (count + 1));
	pass->empty = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
	for (int i = 0; i < lengthof(kinds); i++)
		pass->kinds[i] = CStringGetTextDatum(kinds[i]);
	number_groups(pass, tables, count);
	mark_later_events(pass);
	if (reads_tables && read_tables(pass, tables, count))
		walk_plain(pass, rows_now);
	else
		merge(pass, rows_now);
	end_readers(set->groups);
	free_counts(set->counts);
}

/*
 * Frees what grows with the set, when its steps have been made.
 */
void
bemi_revert_end_set(BemiRevertSet *set)
{
	free_counts(set->counts);
	tuplestore_end(set->group_rows.rows);
	tuplestore_end(set->changes.rows);
}
