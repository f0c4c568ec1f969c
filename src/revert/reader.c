/*-------------------------------------------------------------------------
 *
 * reader.c
 *		The rows as they are now, of a table of which the set has changed many.
 *
 * Input: a query of all rows of a table: their places, keys, and the columns
 * that the set has changed.  Output: for each change, whether its row is as
 * the change has left it, and where it is.
 *
 * A join hashes the table, makes JSON of its rows, and compares that.  If most
 * of the table was changed, it is faster to look each row up among the
 * changes, and to compare texts.
 *
 * Rows are found by the hashes of their keys.  Two keys may have the same
 * hash, so the key is compared, too.  What is not found here, or not the same,
 * or does not fit into memory, is left to the join.  So an answer must only be
 * right if it is "the same".
 *
 * The text of a value is compared with that of its member in JSON, which must
 * be of the kind that the type has.  _bemi.revert_reading() knows the types.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/syscache.h"

#include "revert/revert_internal.h"

/* A table is read if at least one of so many rows was changed. */
#define ROWS_PER_CHANGE	4

/* The columns of the query. */
enum
{
	READ_PLACE, READ_KEY, READ_VALUES
};

/* The row of a change. */
typedef struct FoundRow
{
	char	   *texts;			/* of the key and the values; NULL: none */
	ItemPointerData place;
	bool		is_double;
} FoundRow;

typedef struct ReadColumn
{
	char	   *name;
	int			length;
	Oid			type;
	FmgrInfo	output;
} ReadColumn;

struct BemiRevertReader
{
	Oid			relation;
	FoundRow   *rows;			/* by the numbers of changes */
	ReadColumn *columns;		/* NULL: no row has been read */
	int			column_count;
	MemoryContext texts;
	MemoryContext row_memory;
	StringInfoData row;
	Size		left;			/* bytes for texts */
	BemiRevertFind find;
	void	   *argument;
};

static void
prepare_columns(BemiRevertReader *reader, TupleDesc columns)
{
	reader->column_count = columns->natts;
	reader->columns = palloc(sizeof(ReadColumn) * columns->natts);
	for (int i = READ_KEY; i < columns->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(columns, i);
		ReadColumn *column = &reader->columns[i];
		Oid			output;
		bool		is_varlena;

		column->name = pstrdup(NameStr(attribute->attname));
		column->length = strlen(column->name);
		column->type = attribute->atttypid;
		getTypeOutputInfo(column->type, &output, &is_varlena);
		fmgr_info(output, &column->output);
	}
}

/*
 * Appends a length and a text; -1: NULL.
 */
static void
append_text(StringInfo row, const char *text)
{
	int32		length = text ? strlen(text) : -1;

	appendBinaryStringInfo(row, (const char *) &length, sizeof(length));
	if (text != NULL)
		appendBinaryStringInfo(row, text, length);
}

static void
keep_row(BemiRevertReader *reader, FoundRow *found, TupleTableSlot *row,
		 const char *key)
{
	resetStringInfo(&reader->row);
	append_text(&reader->row, key);
	for (int i = READ_VALUES; i < reader->column_count; i++)
		append_text(&reader->row, row->tts_isnull[i] ? NULL :
					OutputFunctionCall(&reader->columns[i].output,
									   row->tts_values[i]));
	if (reader->row.len > reader->left)
		return;
	reader->left -= reader->row.len;
	found->texts = MemoryContextAlloc(reader->texts, reader->row.len);
	memcpy(found->texts, reader->row.data, reader->row.len);
	found->place = *(ItemPointer) DatumGetPointer(row->tts_values[READ_PLACE]);
}

/*
 * Keeps a row if the set has changed it.
 */
static void
read_row(TupleTableSlot *row, void *argument)
{
	BemiRevertReader *reader = argument;
	MemoryContext caller;
	char	   *key;
	int64		number;

	if (reader->columns == NULL)
		prepare_columns(reader, row->tts_tupleDescriptor);
	caller = MemoryContextSwitchTo(reader->row_memory);
	key = OutputFunctionCall(&reader->columns[READ_KEY].output,
							 row->tts_values[READ_KEY]);
	number = reader->find(key, strlen(key), reader->argument);
	if (number >= 0 && reader->rows[number].texts != NULL)
		reader->rows[number].is_double = true;
	else if (number >= 0)
		keep_row(reader, &reader->rows[number], row, key);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(reader->row_memory);
}

/*
 * Whether so many changes are many of a table.
 */
static bool
are_many(Oid relation, int64 changes)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	float4		rows = -1;

	if (HeapTupleIsValid(tuple))
	{
		rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
		ReleaseSysCache(tuple);
	}
	return rows > 0 && rows <= (float8) changes * ROWS_PER_CHANGE;
}

/*
 * Reads a table, with the active snapshot.  "numbers" is the number of changes
 * of all tables.  Returns NULL if it is better not to.
 */
BemiRevertReader *
bemi_revert_read_table(const BemiRevertTable *table, int64 changes,
					   int64 numbers, BemiRevertFind find, void *argument)
{
	BemiRevertReader *reader;
	Size		size = numbers * sizeof(FoundRow);
	Size		limit = work_mem * (Size) 1024;

	if (table->reading == NULL || size > limit ||
		!are_many(table->relation, changes))
		return NULL;
	reader = palloc0(sizeof(BemiRevertReader));
	reader->relation = table->relation;
	reader->rows = MemoryContextAllocExtended(CurrentMemoryContext, size,
											  MCXT_ALLOC_HUGE |
											  MCXT_ALLOC_ZERO);
	reader->left = limit - size;
	reader->texts = bemi_create_generation(CurrentMemoryContext,
										   "bemi revert rows");
	reader->row_memory = AllocSetContextCreate(CurrentMemoryContext,
											   "bemi revert row",
											   ALLOCSET_DEFAULT_SIZES);
	initStringInfo(&reader->row);
	reader->find = find;
	reader->argument = argument;
	bemi_sql_read_each_row(table->reading, NULL, read_row, reader);
	return reader;
}

void
bemi_revert_end_reader(BemiRevertReader *reader)
{
	pfree(reader->rows);
	MemoryContextDelete(reader->texts);
	MemoryContextDelete(reader->row_memory);
	pfree(reader);
}

/*
 * Whether a text is that of a member, of the kind that the type has.
 */
static bool
is_text_of(Oid type, const char *text, int length, const JsonbValue *value)
{
	char	   *number;

	switch (type)
	{
		case BOOLOID:
			return value->type == jbvBool && length == 1 &&
				*text == (value->val.boolean ? 't' : 'f');
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
			if (value->type != jbvNumeric)
				return false;
			number = DatumGetCString(
									 DirectFunctionCall1(numeric_out,
														 NumericGetDatum(
																		 value->val.numeric)));
			return strlen(number) == length &&
				memcmp(number, text, length) == 0;
		default:
			return value->type == jbvString &&
				value->val.string.len == length &&
				memcmp(value->val.string.val, text, length) == 0;
	}
}

/*
 * Takes the next text.  Returns its length; -1: NULL.
 */
static int32
next_text(const char **texts, const char **text)
{
	int32		length;

	memcpy(&length, *texts, sizeof(length));
	*text = *texts + sizeof(length);
	*texts = *text + Max(length, 0);
	return length;
}

static bool
is_same_column(const ReadColumn *column, const char **texts, Jsonb *after)
{
	const char *text;
	int32		length = next_text(texts, &text);
	JsonbValue	buffer;
	JsonbValue *value =
		getKeyJsonValueFromContainer(&after->root, column->name,
									 column->length, &buffer);

	if (value == NULL)
		return false;
	if (length < 0)
		return value->type == jbvNull;
	return is_text_of(column->type, text, length, value);
}

/*
 * Where the row of a change is, if it is as the change has left it; NULL: it
 * is not, or that is not known.  May leave memory in the current context.
 */
ItemPointer
bemi_revert_find_same(const BemiRevertReader *reader, int64 number,
					  const text * key, Jsonb *after)
{
	FoundRow   *found = &reader->rows[number];
	const char *texts = found->texts;
	const char *text;
	int32		length;

	if (texts == NULL || found->is_double)
		return NULL;
	length = next_text(&texts, &text);
	if (length != VARSIZE_ANY_EXHDR(key) ||
		memcmp(text, VARDATA_ANY(key), length) != 0)
		return NULL;
	for (int i = READ_VALUES; i < reader->column_count; i++)
	{
		if (!is_same_column(&reader->columns[i], &texts, after))
			return NULL;
	}
	return &found->place;
}

Oid
bemi_revert_relation(const BemiRevertReader *reader)
{
	return reader->relation;
}
