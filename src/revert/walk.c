/*-------------------------------------------------------------------------
 *
 * walk.c
 *		From changes to steps: what must be done to each row so that the
 *		changes of a set are taken back and all others are kept.
 *
 * Input: events, sorted by table, slot and commit order.  A slot is a primary
 * key, or, in a table without one, a complete row.  The events of a slot are
 * the changes of the set, the later changes of others, and at last the row as
 * it is now, if there is one.  A change of the key is two events: the row
 * leaves one slot and arrives in another.  A TRUNCATE empties all slots, so
 * these events come first, without a slot.
 *
 * Output: steps.  There is at most one that is carried out for each slot, and
 * one for each column that is in conflict.
 *
 * All state is that of one slot, in a memory context that is reset between two
 * slots.  So memory does not grow with the number of changes.
 *
 * For each column that the set has changed, the walk keeps two values: "first"
 * is the one before the first change of the set, "base" the one before the
 * first change of the set after the last change of others.  Without changes of
 * others, they are the same, and the step restores it.  A change of others
 * ends what can be taken back: what the set did after it returns to "base",
 * and what it did before is in conflict.
 *
 * Once the set has inserted or deleted the row, the row as a whole counts in
 * place of its columns, in the same way.
 *
 * What must never happen: a step overwrites what the history does not know.
 * So each step compares the row as it is now with the last event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "revert/revert_internal.h"

/*
 * The UUID in 36 characters; NULL if there is none.
 */
static pg_uuid_t *
read_uuid(const char *text)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	int			digits = 0;

	for (int i = 0; i < 36; i++)
	{
		char		c = text[i];
		int			digit;

		if (i == 8 || i == 13 || i == 18 || i == 23)
		{
			if (c != '-')
				return NULL;
			continue;
		}
		if (!isxdigit((unsigned char) c))
			return NULL;
		digit = isdigit((unsigned char) c) ? c - '0' : (c | 0x20) - 'a' + 10;
		id->data[digits / 2] = digits % 2 ?
			id->data[digits / 2] | digit : digit << 4;
		digits++;
	}
	return id;
}

static BemiRevertColumn *
find_column(const BemiRevertWalk *walk, const char *name, int length)
{
	ListCell   *cell;

	foreach(cell, walk->columns)
	{
		BemiRevertColumn *column = lfirst(cell);

		if (column->length == length &&
			memcmp(column->name, name, length) == 0)
			return column;
	}
	return NULL;
}

/*
 * A row of which some members have other values: the "first" of the columns,
 * or the "base", if they have one.
 */
static Jsonb *
with_columns(const BemiRevertWalk *walk, Jsonb *row, bool first)
{
	JsonbParseState *state = NULL;
	JsonbValue *members;
	ListCell   *cell;

	if (row == NULL || walk->columns == NIL)
		return row;
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	foreach(cell, walk->columns)
	{
		BemiRevertColumn *column = lfirst(cell);
		Jsonb	   *value = first ? column->first : column->base;

		if (value != NULL)
			bemi_revert_push_member(&state, column->name, column->length,
									value);
	}
	members = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return DatumGetJsonbP(
						  DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(row),
											  JsonbPGetDatum(
															 JsonbValueToJsonb(members))));
}

static BemiRevertEvent *
keep(BemiRevertEvent *event)
{
	event->kept = true;
	return event;
}

/*
 * What the set did to columns before the row itself is part of the row now.
 * Columns in conflict remain, to be reported.
 */
static void
forget_columns(BemiRevertWalk *walk)
{
	List	   *blocked = NIL;
	ListCell   *cell;

	foreach(cell, walk->columns)
	{
		BemiRevertColumn *column = lfirst(cell);

		column->base = NULL;
		if (column->blocker != NULL)
			blocked = lappend(blocked, column);
	}
	walk->columns = bemi_revert_mode_of(walk, NULL) == BEMI_REVERT_FORCE ?
		NIL : blocked;
}

/*
 * The set has inserted the row or, if "row" is not NULL, deleted it.
 */
static void
take_back_row(BemiRevertWalk *walk, BemiRevertEvent *event, Jsonb *row)
{
	if (row == NULL)
		walk->arrival = keep(event);
	else if (walk->arrival == NULL)
		walk->departure = keep(event);
	else
	{
		if (walk->arrival->kind == ARRIVED && event->kind == LEFT)
			bemi_revert_emit_link(walk, event);
		walk->arrival = NULL;
	}
	if (walk->whole)
		return;
	walk->whole = true;
	walk->whole_first = with_columns(walk, row, true);
	walk->whole_base = with_columns(walk, row, false);
	walk->removal = NULL;
	forget_columns(walk);
}

/*
 * The set has changed a column.  Takes over the value.
 */
static void
take_back_column(BemiRevertWalk *walk, char *name, int length, Jsonb *before)
{
	BemiRevertColumn *column = find_column(walk, name, length);

	if (column == NULL)
	{
		column = palloc0(sizeof(BemiRevertColumn));
		column->name = pnstrdup(name, length);
		column->length = length;
		column->first = before;
		walk->columns = lappend(walk->columns, column);
	}
	if (column->base == NULL)
		column->base = before;
	column->unknown |= before == NULL;
}

static void
block_column(BemiRevertColumn *column, BemiRevertEvent *event)
{
	if (column == NULL)
		return;
	column->blocker = keep(event);
	column->base = NULL;
}

static bool
is_name(const JsonbValue *name, const char *text, int length)
{
	return name->val.string.len == length &&
		memcmp(name->val.string.val, text, length) == 0;
}

static bool
is_of_key(const BemiRevertWalk *walk, const JsonbValue *name)
{
	const BemiRevertTable *table = &walk->tables[walk->table - 1];

	for (int i = 0; i < table->key_count; i++)
	{
		if (is_name(name, table->key[i], strlen(table->key[i])))
			return true;
	}
	return false;
}

/*
 * An update has changed a column.
 */
static void
walk_column(BemiRevertWalk *walk, BemiRevertEvent *event,
			const JsonbValue *name, JsonbValue *before)
{
	if (!event->in_set)
	{
		block_column(find_column(walk, name->val.string.val,
								 name->val.string.len), event);
		return;
	}
	walk->has_lost_key |= before != NULL && is_of_key(walk, name);
	take_back_column(walk, name->val.string.val, name->val.string.len,
					 before ? JsonbValueToJsonb(before) : NULL);
}

/*
 * Calls walk_column() for each column that an update has changed.
 */
static void
walk_columns(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	JsonbIterator *members = JsonbIteratorInit(&event->after->root);
	JsonbValue	name;
	JsonbValue	value;
	JsonbValue	buffer;
	JsonbValue *before;

	(void) JsonbIteratorNext(&members, &name, true);
	while (JsonbIteratorNext(&members, &name, true) == WJB_KEY)
	{
		before = getKeyJsonValueFromContainer(&event->before->root,
											  name.val.string.val,
											  name.val.string.len, &buffer);
		(void) JsonbIteratorNext(&members, &value, true);
		if (before == NULL || !bemi_revert_is_same_value(before, &value))
			walk_column(walk, event, &name, before);
	}
}

/*
 * Whether an update has changed the key.  walk_columns() is not called if the
 * set has inserted the row.
 */
static bool
changes_key(const BemiRevertWalk *walk, const BemiRevertEvent *event)
{
	const BemiRevertTable *table = &walk->tables[walk->table - 1];

	for (int i = 0; i < table->key_count; i++)
	{
		int			length = strlen(table->key[i]);
		Jsonb	   *before = bemi_revert_member(event->before, table->key[i],
												length);

		if (before != NULL &&
			!bemi_revert_is_same(before,
								 bemi_revert_member(event->after,
													table->key[i], length)))
			return true;
	}
	return false;
}

/*
 * Whether an update by others has changed a column that the set has changed.
 */
static bool
touches_columns(const BemiRevertWalk *walk, const BemiRevertEvent *event)
{
	ListCell   *cell;

	foreach(cell, walk->columns)
	{
		BemiRevertColumn *column = lfirst(cell);

		if (!bemi_revert_is_same(bemi_revert_member(event->before,
													column->name,
													column->length),
								 bemi_revert_member(event->after, column->name,
													column->length)))
			return true;
	}
	return false;
}

/*
 * A change of the set, or one that is taken back with it.
 */
static void
walk_change_of_set(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	event->in_set = true;
	walk->changes = lappend(walk->changes, &keep(event)->id);
	walk->has_moved |= event->kind == ARRIVED;
	if (event->kind == CREATED || event->kind == ARRIVED)
		take_back_row(walk, event, NULL);
	else if (event->kind != UPDATED)
		take_back_row(walk, event, event->before);
	else if (!walk->whole ||
			 (walk->whole_blocker != NULL &&
			  bemi_revert_mode_of(walk, NULL) != BEMI_REVERT_FORCE))
		walk_columns(walk, event);
	else
		walk->has_lost_key |= changes_key(walk, event);
}

/*
 * Others have removed the row.
 */
static void
walk_removal(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	ListCell   *cell;

	if (walk->whole && walk->whole_first == NULL)
	{
		walk->whole = false;
		walk->removal = keep(event);
	}
	else if (walk->whole)
		walk->whole_blocker = keep(event);
	foreach(cell, walk->columns)
	{
		BemiRevertColumn *column = lfirst(cell);

		block_column(column, event);
		column->lost = true;
	}
}

/*
 * Whether a change of others is in the way of what has been walked.
 */
static bool
is_in_the_way(const BemiRevertWalk *walk, const BemiRevertEvent *event)
{
	if (event->kind == UPDATED)
		return walk->whole || touches_columns(walk, event);
	return walk->whole || walk->columns != NIL;
}

/*
 * Whether a change can be taken back by what is done to this slot.  A change
 * of the key is two events, and the other slot may not be part of the walk.
 */
static bool
is_in_one_slot(const BemiRevertEvent *event)
{
	return event->kind == CREATED || event->kind == UPDATED ||
		event->kind == DELETED;
}

static void
walk_change_of_others(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	if (!is_in_the_way(walk, event))
		return;
	if (walk->mode == BEMI_REVERT_CASCADE && is_in_one_slot(event))
		walk_change_of_set(walk, event);
	else if (event->kind == DELETED || event->kind == TRUNCATED)
		walk_removal(walk, event);
	else if (walk->whole)
		walk->whole_blocker = keep(event);
	else if (event->kind == UPDATED)
		walk_columns(walk, event);
}

static void
forget_event(BemiRevertEvent *event)
{
	if (event == NULL || event->kept)
		return;
	pfree(event->before);
	pfree(event->after);
	pfree(event->context);
	pfree(event);
}

static void
set_last(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	if (event->kind == TRUNCATED)
		keep(event);
	forget_event(walk->last);
	walk->last = event;
}

static void
release_held(BemiRevertWalk *walk)
{
	BemiRevertEvent *event = walk->held;

	walk->held = NULL;
	if (event == NULL ||
		(event->kind == TRUNCATED && !bemi_revert_is_occupied(walk)))
		return;
	walk_change_of_others(walk, event);
	set_last(walk, event);
}

/*
 * Whether an element of "revertOf" names this change or its transaction, whose
 * ids share their first 66 bits.  A context is what an application has
 * written, so an element can be anything.
 */
static bool
names_change(JsonbValue *element, const BemiRevertEvent *event)
{
	JsonbValue	buffer;
	JsonbValue *text = element;
	bool		by_transaction = element->type == jbvBinary &&
		JsonContainerIsObject(element->val.binary.data);
	pg_uuid_t  *id;

	if (by_transaction)
		text = getKeyJsonValueFromContainer(element->val.binary.data,
											"transaction", 11, &buffer);
	if (text == NULL || text->type != jbvString || text->val.string.len != 36)
		return false;
	id = read_uuid(text->val.string.val);
	if (id == NULL)
		return false;
	return by_transaction ? memcmp(id->data, event->id.data, 8) == 0 &&
		(id->data[8] & 0xFC) == (event->id.data[8] & 0xFC) :
		memcmp(id->data, event->id.data, UUID_LEN) == 0;
}

/*
 * Whether a change is the exact reversal of the one before it, and says so.
 */
static bool
takes_back(const BemiRevertEvent *event, const BemiRevertEvent *former)
{
	Jsonb	   *names = bemi_revert_member(event->context, "revertOf", 8);
	JsonbIterator *elements;
	JsonbValue	element;

	if (names == NULL || !JB_ROOT_IS_ARRAY(names) ||
		!bemi_revert_is_same(event->before, former->after) ||
		!bemi_revert_is_same(event->after, former->before))
		return false;
	elements = JsonbIteratorInit(&names->root);
	(void) JsonbIteratorNext(&elements, &element, true);
	while (JsonbIteratorNext(&elements, &element, true) == WJB_ELEM)
	{
		if (names_change(&element, former))
			return true;
	}
	return false;
}

/*
 * A change of others is held until the next one is known: a change that has
 * been taken back, and the revert that did it, count as nothing together.
 */
static void
walk_others(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	if (walk->held != NULL && takes_back(event, walk->held))
	{
		forget_event(walk->held);
		walk->held = NULL;
		set_last(walk, event);
		return;
	}
	release_held(walk);
	walk->held = event;
}

static void
walk_change(BemiRevertWalk *walk, BemiRevertEvent *event)
{
	if (!event->in_set)
	{
		walk_others(walk, event);
		return;
	}
	release_held(walk);
	walk_change_of_set(walk, event);
	set_last(walk, event);
}

static void
walk_truncations(BemiRevertWalk *walk, const pg_uuid_t *until)
{
	while (walk->truncation < list_length(walk->truncations))
	{
		BemiRevertEvent *event = list_nth(walk->truncations, walk->truncation);

		if (until && memcmp(&event->id, until, UUID_LEN) > 0)
			return;
		walk_change(walk, event);
		walk->truncation++;
	}
}

static void
finish_slot(BemiRevertWalk *walk)
{
	if (walk->slot == NULL)
		return;
	walk_truncations(walk, NULL);
	release_held(walk);
	if (walk->changes != NIL)
		bemi_revert_finish(walk);
	MemoryContextReset(walk->slot_memory);
}

static void
begin_slot(BemiRevertWalk *walk, int table, Datum slot)
{
	walk->table = table;
	walk->slot = TextDatumGetCString(slot);
	walk->truncation = 0;
	walk->columns = NIL;
	walk->changes = NIL;
	walk->last = walk->held = NULL;
	walk->whole = false;
	walk->whole_first = walk->whole_base = NULL;
	walk->whole_blocker = walk->removal = NULL;
	walk->arrival = walk->departure = NULL;
	walk->now = NULL;
	walk->rows = walk->parts = 0;
}

/*
 * Whether the walk is in this slot.
 */
static bool
is_slot(const BemiRevertWalk *walk, int table, Datum slot)
{
	text	   *key = DatumGetTextPP(slot);
	int			length = VARSIZE_ANY_EXHDR(key);

	return walk->slot != NULL && table == walk->table &&
		strlen(walk->slot) == length &&
		memcmp(walk->slot, VARDATA_ANY(key), length) == 0;
}

static BemiRevertEvent *
read_event(const Datum *values)
{
	BemiRevertEvent *event = palloc0(sizeof(BemiRevertEvent));

	event->kind = *VARDATA_ANY(DatumGetPointer(values[BEMI_EVENT_KIND]));
	event->in_set = DatumGetBool(values[BEMI_EVENT_IN_SET]);
	event->id = *DatumGetUUIDP(values[BEMI_EVENT_ID]);
	event->before = DatumGetJsonbPCopy(values[BEMI_EVENT_BEFORE]);
	event->after = DatumGetJsonbPCopy(values[BEMI_EVENT_AFTER]);
	event->time = DatumGetTimestampTz(values[BEMI_EVENT_TIME]);
	event->context = DatumGetJsonbPCopy(values[BEMI_EVENT_CONTEXT]);
	return event;
}

/*
 * Events of others are there once for each change of the set.
 */
static bool
is_repeated(const BemiRevertWalk *walk, const BemiRevertEvent *event)
{
	const BemiRevertEvent *former = walk->held ? walk->held : walk->last;

	return former != NULL && former->kind == event->kind &&
		memcmp(&former->id, &event->id, UUID_LEN) == 0;
}

/*
 * The last event of a slot.
 */
static void
walk_row_of_now(BemiRevertWalk *walk, const Datum *values)
{
	ItemPointer ctid = (ItemPointer) DatumGetPointer(values[BEMI_EVENT_CTID]);

	if (walk->now != NULL && ItemPointerEquals(&walk->ctid, ctid) &&
		walk->tableoid == DatumGetObjectId(values[BEMI_EVENT_TABLEOID]))
		return;
	walk->rows++;
	walk->now = DatumGetJsonbPCopy(values[BEMI_EVENT_AFTER]);
	ItemPointerCopy(ctid, &walk->ctid);
	walk->tableoid = DatumGetObjectId(values[BEMI_EVENT_TABLEOID]);
}

/*
 * TRUNCATE by others comes before the slots of its table.
 */
static void
walk_truncation(BemiRevertWalk *walk, int table, const Datum *values)
{
	MemoryContext caller;

	if (walk->slot != NULL || table != walk->table)
	{
		finish_slot(walk);
		walk->slot = NULL;
		walk->truncations = NIL;
		MemoryContextReset(walk->table_memory);
	}
	walk->table = table;
	caller = MemoryContextSwitchTo(walk->table_memory);
	walk->truncations =
		lappend(walk->truncations, keep(read_event(values)));
	MemoryContextSwitchTo(caller);
}

/*
 * Walks an event, of the slot of the former one or of a new one.
 */
static void
walk_event(BemiRevertWalk *walk, const Datum *values, bool has_slot)
{
	int			table = DatumGetInt32(values[BEMI_EVENT_TABLE]);
	BemiRevertEvent *event;

	if (!has_slot)
	{
		walk_truncation(walk, table, values);
		return;
	}
	if (!is_slot(walk, table, values[BEMI_EVENT_SLOT]))
	{
		finish_slot(walk);
		if (table != walk->table)
			walk->truncations = NIL;
		begin_slot(walk, table, values[BEMI_EVENT_SLOT]);
	}
	if (*VARDATA_ANY(DatumGetPointer(values[BEMI_EVENT_KIND])) == IS_NOW)
	{
		walk_row_of_now(walk, values);
		return;
	}
	event = read_event(values);
	if (is_repeated(walk, event))
	{
		forget_event(event);
		return;
	}
	walk_truncations(walk, &event->id);
	walk_change(walk, event);
}

/*
 * Begins a walk that appends steps to "steps".
 */
void
bemi_revert_begin_walk(BemiRevertWalk *walk, const BemiRevertCall *call,
					   const BemiRevertTable *tables, BemiRows *steps)
{
	memset(walk, 0, sizeof(*walk));
	walk->mode = call->mode;
	walk->choices = call->choices;
	walk->tables = tables;
	walk->steps = steps;
	walk->table = -1;
	walk->is_ordered = true;
	walk->slot_memory = AllocSetContextCreate(CurrentMemoryContext,
											  "bemi revert slot",
											  ALLOCSET_DEFAULT_SIZES);
	walk->table_memory = AllocSetContextCreate(CurrentMemoryContext,
											   "bemi revert table",
											   ALLOCSET_SMALL_SIZES);
}

/*
 * Walks an event in the columns of BEMI_EVENT_...
 */
void
bemi_revert_walk_event(BemiRevertWalk *walk, const Datum *values,
					   bool has_slot)
{
	MemoryContext caller = MemoryContextSwitchTo(walk->slot_memory);

	walk_event(walk, values, has_slot);
	MemoryContextSwitchTo(caller);
}

/*
 * Walks an update of the set that is alone in its slot, and whose row has
 * these values now.
 */
void
bemi_revert_walk_same(BemiRevertWalk *walk, int table, Datum slot,
					  BemiRevertEvent *event, ItemPointer place, Oid relation)
{
	MemoryContext caller = MemoryContextSwitchTo(walk->slot_memory);

	finish_slot(walk);
	if (table != walk->table)
		walk->truncations = NIL;
	begin_slot(walk, table, slot);
	walk->changes = list_make1(&event->id);
	walk_columns(walk, event);
	walk->last = event;
	walk->now = event->after;
	walk->rows = 1;
	walk->ctid = *place;
	walk->tableoid = relation;
	bemi_revert_finish(walk);
	walk->slot = NULL;
	MemoryContextReset(walk->slot_memory);
	MemoryContextSwitchTo(caller);
}

/*
 * Walks sorted events.
 */
void
bemi_revert_walk_rows(BemiRevertWalk *walk, const BemiRows *events)
{
	TupleTableSlot *row =
		MakeSingleTupleTableSlot(events->columns, &TTSOpsMinimalTuple);

	/* A row that was read from disk is in the caller's memory. */
	while (tuplestore_gettupleslot(events->rows, true, false, row))
	{
		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(row);
		bemi_revert_walk_event(walk, row->tts_values,
							   !row->tts_isnull[BEMI_EVENT_SLOT]);
	}
	ExecDropSingleTupleTableSlot(row);
}

void
bemi_revert_end_walk(BemiRevertWalk *walk)
{
	MemoryContext caller = MemoryContextSwitchTo(walk->slot_memory);

	finish_slot(walk);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(walk->slot_memory);
	MemoryContextDelete(walk->table_memory);
}
