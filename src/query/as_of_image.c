/*-------------------------------------------------------------------------
 *
 * as_of_image.c
 *		Makes rows of a table from images: "before" and "after" of a change.
 *
 * Input: an image, which is to_jsonb() of a row with settings that bemi pins.
 * Output: the row, with the columns that the table has today.
 *
 * How a value is made is decided once for each column (prepare_value()), so a
 * row needs no look-up.  The most frequent types are made directly.  All
 * others are made from text by the input function of the type.
 *
 * What must never happen:
 *
 * - Code of a user runs with the rights of the reader.  Only a superuser can
 *	 make input functions.  The constraints of domains are not checked, because
 *	 the row was in the table.  Input functions of types that contain a domain,
 *	 such as a range of one, check them.  These run with the rights of the
 *	 table's owner, as functions in indexes do.  So do the expressions of
 *	 generated columns, which are not in the history and are computed.
 * - A value is returned that the row did not have.  So an image that is not the
 *	 complete row, or has a placeholder in it, is an error (check_image()).
 *
 * An error of an input function gets a context line with change, column and
 * value.
 *
 * Memory: a maker is in the context in which it was created.  Values are in
 * the current context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tupdesc_details.h"
#include "catalog/pg_type.h"
#include "rewrite/rewriteHandler.h"
#include "optimizer/optimizer.h"
#include "executor/executor.h"
#include "access/sysattr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "decode/decode.h"
#include "query/query_internal.h"

/* An error shows this much of a value. */
#define SHOWN_LEN	200

typedef struct ValueMaker ValueMaker;
typedef Datum (*MakeValue) (ValueMaker *maker, JsonbValue *value);

/* How values of a type are made. */
struct ValueMaker
{
	MakeValue	make;
	Oid			type;			/* never a domain */
	int32		typmod;
	int16		len;
	bool		by_value;
	char		align;
	bool		keeps_null;		/* JSON's null is a value */

	Oid			owner;			/* of the table */
	bool		checks_domain;	/* the input function does */
	FmgrInfo	input;
	Oid			io_param;

	ValueMaker *element;		/* of an array */
	TupleDesc	columns;		/* of a composite type */
	ValueMaker *members;
};

/* A column of the table. */
typedef struct ColumnMaker
{
	const char *name;			/* of today; NULL: dropped, or not needed */
	const char *member;			/* its name in images; NULL: not in them */
	int			member_len;
	ExprState  *computed;		/* of a generated column, which is not in the
								 * image; NULL: it is not one */
	ValueMaker	value;
} ColumnMaker;

struct BemiRowMaker
{
	MemoryContext memory;
	BemiPast   *past;			/* has the values of columns that an image
								 * lacks */
	Oid			table;
	Oid			owner;
	TupleDesc	columns;
	List	   *unique_columns; /* Bitmapset of each unique index */
	bool		computes;		/* there are generated columns */
	TupleTableSlot *row;		/* input of their expressions */
	ExprContext *context;
	ColumnMaker makers[FLEXIBLE_ARRAY_MEMBER];
};

/* What is being made, for the context line of an error. */
typedef struct Making
{
	const BemiRowImage *image;
	const char *column;
	JsonbValue *value;
} Making;

static void prepare_value(ValueMaker *maker, Oid type, int32 typmod);

/* ---------- values ---------- */

/*
 * The text of a value, palloc'd.
 */
static char *
text_of_value(JsonbValue *value)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(
								   DirectFunctionCall1(numeric_out,
													   NumericGetDatum(
																	   value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		case jbvBinary:
			return JsonbToCString(NULL, value->val.binary.data,
								  value->val.binary.len);
		default:
			return pstrdup("null");
	}
}

/*
 * Takes the rights of the table's owner.  The caller could set search_path so
 * that the owner's functions call his own, so it is pinned.
 */
static void
act_as_owner(Oid owner, BemiRights *caller)
{
	bemi_act_restricted_as(owner, caller);
	(void) bemi_pin_settings_of_texts();
}

static Datum
call_input(ValueMaker *maker, char *text)
{
	return InputFunctionCall(&maker->input, text, maker->io_param,
							 maker->typmod);
}

/*
 * The same with the rights of the table's owner.
 */
static Datum
call_input_as_owner(ValueMaker *maker, char *text)
{
	BemiRights	caller;
	Datum		result;

	act_as_owner(maker->owner, &caller);
	result = call_input(maker, text);
	bemi_act_as_before(&caller);
	return result;
}

/*
 * The same for a type whose input depends on settings.
 */
static Datum
call_input_pinned(ValueMaker *maker, char *text)
{
	int			settings = bemi_pin_settings_of_texts();
	Datum		result = call_input(maker, text);

	AtEOXact_GUC(false, settings);
	return result;
}

static Datum
make_from_text(ValueMaker *maker, JsonbValue *value)
{
	char	   *text = text_of_value(value);

	if (maker->checks_domain)
		return call_input_as_owner(maker, text);
	return maker->type == INTERVALOID ? call_input_pinned(maker, text) :
		call_input(maker, text);
}

static Datum
make_int2(ValueMaker *maker, JsonbValue *value)
{
	if (value->type != jbvNumeric)
		return make_from_text(maker, value);
	return DirectFunctionCall1(numeric_int2,
							   NumericGetDatum(value->val.numeric));
}

static Datum
make_int4(ValueMaker *maker, JsonbValue *value)
{
	if (value->type != jbvNumeric)
		return make_from_text(maker, value);
	return DirectFunctionCall1(numeric_int4,
							   NumericGetDatum(value->val.numeric));
}

static Datum
make_int8(ValueMaker *maker, JsonbValue *value)
{
	if (value->type != jbvNumeric)
		return make_from_text(maker, value);
	return DirectFunctionCall1(numeric_int8,
							   NumericGetDatum(value->val.numeric));
}

static Datum
make_numeric(ValueMaker *maker, JsonbValue *value)
{
	if (value->type != jbvNumeric)
		return make_from_text(maker, value);
	return DirectFunctionCall2(numeric, NumericGetDatum(value->val.numeric),
							   Int32GetDatum(maker->typmod));
}

static Datum
make_bool(ValueMaker *maker, JsonbValue *value)
{
	if (value->type != jbvBool)
		return make_from_text(maker, value);
	return BoolGetDatum(value->val.boolean);
}

static Datum
make_text(ValueMaker *maker, JsonbValue *value)
{
	if (value->type != jbvString)
		return make_from_text(maker, value);
	return PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
													value->val.string.len));
}

static Datum
make_jsonb(ValueMaker *maker, JsonbValue *value)
{
	return JsonbPGetDatum(JsonbValueToJsonb(value));
}

static Datum
make_json(ValueMaker *maker, JsonbValue *value)
{
	Jsonb	   *json = JsonbValueToJsonb(value);

	return CStringGetTextDatum(JsonbToCString(NULL, &json->root,
											  VARSIZE(json)));
}

static Datum
make_value(ValueMaker *maker, JsonbValue *value, bool *is_null)
{
	*is_null = value->type == jbvNull && !maker->keeps_null;
	return *is_null ? (Datum) 0 : maker->make(maker, value);
}

/* ---------- arrays ---------- */

/* The elements of an array, in the order of storage. */
typedef struct Elements
{
	ValueMaker *maker;
	int			dimensions;
	int			sizes[MAXDIM];
	int			count;
	int			allocated;
	Datum	   *values;
	bool	   *nulls;
} Elements;

static void
add_element(Elements *elements, JsonbValue *value)
{
	if (elements->count == elements->allocated)
	{
		elements->allocated *= 2;
		elements->values = repalloc(elements->values,
									elements->allocated * sizeof(Datum));
		elements->nulls = repalloc(elements->nulls,
								   elements->allocated * sizeof(bool));
	}
	elements->values[elements->count] =
		make_value(elements->maker, value,
				   &elements->nulls[elements->count]);
	elements->count++;
}

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary &&
		JsonContainerIsArray(value->val.binary.data) &&
		!JsonContainerIsScalar(value->val.binary.data);
}

/*
 * Sets how many dimensions the array has, from its first elements.
 */
static void
measure_array(Elements *elements, JsonbContainer *array)
{
	bool		of_json = elements->maker->type == JSONBOID ||
		elements->maker->type == JSONOID;

	for (;;)
	{
		JsonbValue *first;

		if (elements->dimensions == MAXDIM)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("array has more than %d dimensions", MAXDIM)));
		elements->sizes[elements->dimensions++] = JsonContainerSize(array);
		if (JsonContainerSize(array) == 0 || of_json)
			return;
		first = getIthJsonbValueFromContainer(array, 0);
		if (!is_array(first))
			return;
		array = first->val.binary.data;
	}
}

static void
add_elements(Elements *elements, JsonbContainer *array, int dimension)
{
	int			size = JsonContainerSize(array);

	if (size != elements->sizes[dimension])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("array has parts of different sizes")));
	for (int i = 0; i < size; i++)
	{
		JsonbValue *value = getIthJsonbValueFromContainer(array, i);

		CHECK_FOR_INTERRUPTS();
		if (dimension == elements->dimensions - 1)
			add_element(elements, value);
		else if (is_array(value))
			add_elements(elements, value->val.binary.data, dimension + 1);
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
					 errmsg("array has parts of different sizes")));
	}
}

static Datum
make_array(ValueMaker *maker, JsonbValue *value)
{
	Elements	elements = {.maker = maker->element,.allocated = 16};
	ValueMaker *element = maker->element;
	int			lower_bounds[MAXDIM];

	if (!is_array(value))
		return make_from_text(maker, value);
	measure_array(&elements, value->val.binary.data);
	if (elements.sizes[0] == 0)
		return PointerGetDatum(construct_empty_array(element->type));
	elements.values = palloc(elements.allocated * sizeof(Datum));
	elements.nulls = palloc(elements.allocated * sizeof(bool));
	add_elements(&elements, value->val.binary.data, 0);
	for (int i = 0; i < elements.dimensions; i++)
		lower_bounds[i] = 1;
	return PointerGetDatum(construct_md_array(elements.values, elements.nulls,
											  elements.dimensions,
											  elements.sizes, lower_bounds,
											  element->type, element->len,
											  element->by_value,
											  element->align));
}

/* ---------- composite types ---------- */

static Datum
make_composite(ValueMaker *maker, JsonbValue *value)
{
	int			count = maker->columns->natts;
	Datum	   *values = palloc0(count * sizeof(Datum));
	bool	   *nulls = palloc(count * sizeof(bool));

	if (value->type != jbvBinary ||
		!JsonContainerIsObject(value->val.binary.data))
		return make_from_text(maker, value);
	for (int i = 0; i < count; i++)
	{
		Form_pg_attribute column = TupleDescAttr(maker->columns, i);
		JsonbValue	member;

		nulls[i] = true;
		if (!column->attisdropped &&
			getKeyJsonValueFromContainer(value->val.binary.data,
										 NameStr(column->attname),
										 strlen(NameStr(column->attname)),
										 &member))
			values[i] = make_value(&maker->members[i], &member, &nulls[i]);
	}
	return HeapTupleGetDatum(heap_form_tuple(maker->columns, values, nulls));
}

/*
 * Whether a type contains a domain, or may contain one.
 */
static bool
contains_domain(Oid type)
{
	char		kind = get_typtype(type);

	check_stack_depth();
	if (kind == TYPTYPE_RANGE)
		return contains_domain(get_range_subtype(type));
	if (kind == TYPTYPE_MULTIRANGE)
		return contains_domain(get_multirange_range(type));
	if (OidIsValid(get_element_type(type)))
		return contains_domain(get_element_type(type));
	return kind == TYPTYPE_DOMAIN || kind == TYPTYPE_COMPOSITE;
}

static void
prepare_composite(ValueMaker *maker)
{
	maker->columns = lookup_rowtype_tupdesc_copy(maker->type, maker->typmod);
	maker->members = palloc0(sizeof(ValueMaker) * maker->columns->natts);
	for (int i = 0; i < maker->columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(maker->columns, i);

		maker->members[i].owner = maker->owner;
		if (!column->attisdropped)
			prepare_value(&maker->members[i], column->atttypid,
						  column->atttypmod);
	}
}

/* ---------- preparation ---------- */

static MakeValue
function_for_type(Oid type, int32 typmod)
{
	switch (type)
	{
		case INT2OID:
			return make_int2;
		case INT4OID:
			return make_int4;
		case INT8OID:
			return make_int8;
		case NUMERICOID:
			return make_numeric;
		case BOOLOID:
			return make_bool;
		case TEXTOID:
			return make_text;
		case VARCHAROID:
			return typmod < 0 ? make_text : make_from_text;
		case JSONBOID:
			return make_jsonb;
		case JSONOID:
			return make_json;
		default:
			return make_from_text;
	}
}

static void
prepare_value(ValueMaker *maker, Oid type, int32 typmod)
{
	Oid			input;
	char		delimiter;

	check_stack_depth();
	maker->typmod = typmod;
	maker->type = getBaseTypeAndTypmod(type, &maker->typmod);
	get_type_io_data(maker->type, IOFunc_input, &maker->len, &maker->by_value,
					 &maker->align, &delimiter, &maker->io_param, &input);
	fmgr_info(input, &maker->input);
	maker->checks_domain = contains_domain(maker->type);
	maker->make = function_for_type(maker->type, maker->typmod);
	if (OidIsValid(get_element_type(maker->type)))
	{
		maker->make = make_array;
		maker->element = palloc0(sizeof(ValueMaker));
		maker->element->owner = maker->owner;
		prepare_value(maker->element, get_element_type(maker->type),
					  maker->typmod);
	}
	else if (get_typtype(maker->type) == TYPTYPE_COMPOSITE)
	{
		maker->make = make_composite;
		prepare_composite(maker);
	}
}

static void
prepare_column(BemiRowMaker *maker, int i, bool is_needed)
{
	Form_pg_attribute attribute = TupleDescAttr(maker->columns, i);
	ColumnMaker *column = &maker->makers[i];

	if (attribute->attisdropped)
		return;
	if (!is_needed)
		return;
	column->name = pstrdup(NameStr(attribute->attname));
	column->member = column->name;
	column->member_len = strlen(column->name);
	column->value.owner = maker->owner;
	prepare_value(&column->value, attribute->atttypid, attribute->atttypmod);

	/* A NULL of SQL and one of JSON are the same in an image. */
	column->value.keeps_null = attribute->attnotnull &&
		(column->value.type == JSONBOID || column->value.type == JSONOID);
}

/*
 * The columns of each unique index of the table.
 */
static List *
find_unique_columns(Relation table)
{
	List	   *result = NIL;
	ListCell   *cell;

	foreach(cell, RelationGetIndexList(table))
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);
		Bitmapset  *columns = NULL;

		for (int i = 0; i < index->rd_index->indnatts; i++)
			if (index->rd_index->indkey.values[i] > 0)
				columns = bms_add_member(columns,
										 index->rd_index->indkey.values[i]);
		if (index->rd_index->indisunique)
			result = lappend(result, columns);
		index_close(index, NoLock);
	}
	return result;
}

/*
 * The needed columns, and those that generated ones among them are computed
 * from.
 */
static const Bitmapset *
add_inputs(Relation table, const Bitmapset *needed)
{
	TupleDesc	columns = RelationGetDescr(table);
	Bitmapset  *result = bms_copy(needed);
	Bitmapset  *inputs = NULL;
	int			input = -1;

	if (needed == NULL)
		return NULL;
	for (int i = 0; i < columns->natts; i++)
	{
		if (bms_is_member(i + 1, needed) &&
			TupleDescAttr(columns, i)->attgenerated != '\0')
			pull_varattnos(build_column_default(table, i + 1), 1, &inputs);
	}
	while ((input = bms_next_member(inputs, input)) >= 0)
	{
		if (input + FirstLowInvalidHeapAttributeNumber <= 0)
			return NULL;
		result = bms_add_member(result,
								input + FirstLowInvalidHeapAttributeNumber);
	}
	return result;
}

/*
 * Prepares the expressions of generated columns.  That may evaluate parts of
 * them, which are code of the table's owner.
 */
static void
prepare_generated(BemiRowMaker *maker, Relation table)
{
	BemiRights	caller;

	for (int i = 0; i < maker->columns->natts; i++)
	{
		if (maker->makers[i].name == NULL ||
			TupleDescAttr(maker->columns, i)->attgenerated == '\0')
			continue;
		act_as_owner(maker->owner, &caller);
		maker->makers[i].computed =
			ExecInitExpr(expression_planner(
											(Expr *) build_column_default(table,
																		  i + 1)),
						 NULL);
		bemi_act_as_before(&caller);
		maker->computes = true;
	}
	if (!maker->computes)
		return;
	maker->row = MakeTupleTableSlot(maker->columns, &TTSOpsVirtual);
	maker->context = CreateStandaloneExprContext();
}

/*
 * A maker of rows of a past's table, in the current memory context.  "needed"
 * has the numbers of the columns; NULL: all.  The others become NULL.
 */
BemiRowMaker *
bemi_row_maker_create(BemiPast *past, const Bitmapset *needed)
{
	Relation	table = past->table;
	TupleDesc	columns = CreateTupleDescCopyConstr(RelationGetDescr(table));
	BemiRowMaker *maker =
		palloc0(offsetof(BemiRowMaker, makers) +
				sizeof(ColumnMaker) * columns->natts);

	maker->memory = CurrentMemoryContext;
	maker->past = past;
	maker->table = RelationGetRelid(table);
	maker->owner = table->rd_rel->relowner;
	maker->columns = columns;
	maker->unique_columns = find_unique_columns(table);
	needed = add_inputs(table, needed);
	for (int i = 0; i < columns->natts; i++)
		prepare_column(maker, i,
					   needed == NULL || bms_is_member(i + 1, needed));
	prepare_generated(maker, table);
	return maker;
}

/*
 * Sets the names that columns have in images: "names" has each column of that
 * time, with its name of today, or null if it was dropped.
 */
void
bemi_row_maker_set_names(BemiRowMaker *maker, Jsonb *names)
{
	JsonbIterator *iterator = JsonbIteratorInit(&names->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *member = NULL;

	for (int i = 0; i < maker->columns->natts; i++)
		maker->makers[i].member = NULL;
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			member = pnstrdup(value.val.string.val, value.val.string.len);
		if (token != WJB_VALUE || value.type != jbvString)
			continue;
		for (int i = 0; i < maker->columns->natts; i++)
		{
			ColumnMaker *column = &maker->makers[i];

			if (column->name == NULL ||
				strlen(column->name) != value.val.string.len ||
				memcmp(column->name, value.val.string.val,
					   value.val.string.len) != 0)
				continue;
			column->member = member;
			column->member_len = strlen(member);
		}
	}
}

/* ---------- errors ---------- */

static const char *
key_of_image(const BemiRowImage *image)
{
	return image->key_text ? text_to_cstring(image->key_text) :
		"without a key";
}

/*
 * Context line of errors while a value is made.
 */
static void
describe_making(void *arg)
{
	Making	   *making = arg;
	const BemiRowImage *image = making->image;
	char	   *text;

	if (making->column == NULL)
		return;
	text = text_of_value(making->value);
	text[pg_mbcliplen(text, strlen(text), SHOWN_LEN)] = '\0';
	if (image->change == NULL)
		errcontext("value \"%s\" of column \"%s\"", text, making->column);
	else
		errcontext("value \"%s\" of column \"%s\" in \"%s\" of change %s, row %s",
				   text, making->column, image->is_before ? "before" : "after",
				   bemi_id_text(image->change), key_of_image(image));
}

static void
refuse_image(const BemiRowMaker *maker, const BemiRowImage *image,
			 const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("row %s of table \"%s\" cannot be restored",
					key_of_image(image), get_rel_name(maker->table)),
			 errdetail("It is in \"%s\" of change %s. %s",
					   image->is_before ? "before" : "after",
					   bemi_id_text(image->change), detail),
			 errhint("%s", hint)));
}

static char *
name_of_table(const BemiRowMaker *maker)
{
	return quote_qualified_identifier(get_namespace_name(
														 get_rel_namespace(
																		   maker->table)),
									  get_rel_name(maker->table));
}

static bool
is_in_key(const BemiKey *key, AttrNumber attnum)
{
	for (int i = 0; i < key->count; i++)
	{
		if (key->attnums[i] == attnum)
			return true;
	}
	return false;
}

static bool
has_placeholder(const ColumnMaker *column, const BemiRowImage *image)
{
	JsonbValue	value;

	return column->member != NULL &&
		getKeyJsonValueFromContainer(&image->row->root, column->member,
									 column->member_len, &value) != NULL &&
		bemi_is_placeholder(&value);
}

/*
 * Those of the needed columns that can be made of the image.  Empty if a row
 * needs one that cannot.
 */
static char *
restorable_columns(const BemiRowMaker *maker, const BemiRowImage *image)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < maker->columns->natts; i++)
	{
		const ColumnMaker *column = &maker->makers[i];
		bool		redacted = has_placeholder(column, image);

		if (redacted && (maker->past->is_counted ||
						 is_in_key(maker->past->key, i + 1)))
			return "";
		if (column->name != NULL && column->computed == NULL && !redacted)
			appendStringInfo(&list, "%s%s", list.len > 0 ? ", " : "",
							 quote_identifier(column->name));
	}
	return list.data;
}

static char *
hint_of_placeholder(const BemiRowMaker *maker, const BemiRowImage *image)
{
	const char *columns = restorable_columns(maker, image);
	char	   *table = name_of_table(maker);

	if (*columns == '\0')
		return psprintf("SELECT before, after FROM bemi.find_changes(%s);",
						quote_literal_cstr(table));
	return psprintf("SELECT %s FROM bemi.as_of(NULL::%s, TIME);", columns,
					table);
}

static void
refuse_placeholder(const BemiRowMaker *maker, const BemiRowImage *image,
				   const char *column, JsonbValue *value)
{
	char	   *text = text_of_value(value);

	text[pg_mbcliplen(text, strlen(text), SHOWN_LEN)] = '\0';
	refuse_image(maker, image,
				 psprintf("Column \"%s\" is %s in the history.", column,
						  text),
				 hint_of_placeholder(maker, image));
}

static bool
has_member(Jsonb *image, const char *name)
{
	JsonbValue	member;

	return getKeyJsonValueFromContainer(&image->root, name, strlen(name),
										&member) != NULL;
}

static AttrNumber
column_of_member(const BemiRowMaker *maker, const JsonbValue *name)
{
	for (int i = 0; i < maker->columns->natts; i++)
	{
		const char *member = maker->makers[i].member;

		if (member == NULL && !TupleDescAttr(maker->columns, i)->attisdropped)
			member = NameStr(TupleDescAttr(maker->columns, i)->attname);
		if (member != NULL && strlen(member) == name->val.string.len &&
			memcmp(member, name->val.string.val, name->val.string.len) == 0)
			return i + 1;
	}
	return InvalidAttrNumber;
}

/*
 * Whether an image has only columns of a unique index, as the old row of a
 * table whose replica identity is not FULL.
 */
static bool
is_partial(const BemiRowMaker *maker, Jsonb *image)
{
	JsonbIterator *iterator = JsonbIteratorInit(&image->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	Bitmapset  *members = NULL;
	ListCell   *cell;

	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			members = bms_add_member(members, column_of_member(maker, &value));
	}
	foreach(cell, maker->unique_columns)
	{
		if (bms_is_subset(members, lfirst(cell)))
			return true;
	}
	return false;
}

/*
 * Called if the image lacks a column.  That is right if the column was added
 * since.  Throws an error if the image is not the complete row.
 */
static void
check_lacking_column(const BemiRowMaker *maker, const BemiRowImage *image,
					 const ColumnMaker *column)
{
	if (JsonContainerSize(&image->row->root) == 0 ||
		(image->after != NULL && has_member(image->after, column->member)) ||
		is_partial(maker, image->row))
		refuse_image(maker, image,
					 "The table's replica identity was not FULL when it was written.",
					 psprintf("ALTER TABLE %s REPLICA IDENTITY FULL; makes later times readable.",
							  name_of_table(maker)));
}

/* ---------- rows ---------- */

/*
 * Makes a column that the image lacks.  A generated one is computed later.
 */
static void
make_lacking_column(const BemiRowMaker *maker, int i,
					const BemiRowImage *image, Datum *value, bool *is_null)
{
	const ColumnMaker *column = &maker->makers[i];

	*value = (Datum) 0;
	*is_null = true;
	if (column->computed != NULL)
		return;
	if (column->member != NULL)
		check_lacking_column(maker, image, column);
	if (!bemi_missing_value(maker->past, i + 1, value, is_null))
		refuse_image(maker, image,
					 psprintf("Column \"%s\" was added later, and it is not known with which default.",
							  column->name),
					 "With allow_gaps => true, the result can be wrong.");
}

static void
make_column(BemiRowMaker *maker, int i, const BemiRowImage *image,
			Making *making, Datum *value, bool *is_null)
{
	ColumnMaker *column = &maker->makers[i];
	JsonbValue	member;

	if (column->member == NULL ||
		getKeyJsonValueFromContainer(&image->row->root, column->member,
									 column->member_len, &member) == NULL)
	{
		make_lacking_column(maker, i, image, value, is_null);
		return;
	}
	if (bemi_is_placeholder(&member))
		refuse_placeholder(maker, image, column->name, &member);
	making->column = column->name;
	making->value = &member;
	*value = make_value(&column->value, &member, is_null);
	making->column = NULL;
}

/*
 * Computes the generated columns with the rights of the table's owner.
 */
static void
compute_generated(BemiRowMaker *maker, Datum *values, bool *nulls)
{
	int			count = maker->columns->natts;
	BemiRights	caller;

	ExecClearTuple(maker->row);
	memcpy(maker->row->tts_values, values, sizeof(Datum) * count);
	memcpy(maker->row->tts_isnull, nulls, sizeof(bool) * count);
	ExecStoreVirtualTuple(maker->row);
	maker->context->ecxt_scantuple = maker->row;
	act_as_owner(maker->owner, &caller);
	for (int i = 0; i < count; i++)
	{
		if (maker->makers[i].computed != NULL)
			values[i] = ExecEvalExpr(maker->makers[i].computed, maker->context,
									 &nulls[i]);
	}
	bemi_act_as_before(&caller);
}

/*
 * Makes the needed columns of a row.  "values" and "nulls" have a place for
 * each column of the table.
 */
void
bemi_make_row(BemiRowMaker *maker, const BemiRowImage *image, Datum *values,
			  bool *nulls)
{
	Making		making = {.image = image};
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = describe_making,
		.arg = &making
	};

	error_context_stack = &context;
	for (int i = 0; i < maker->columns->natts; i++)
	{
		values[i] = (Datum) 0;
		nulls[i] = true;
		if (maker->makers[i].name != NULL)
			make_column(maker, i, image, &making, &values[i], &nulls[i]);
	}
	error_context_stack = context.previous;
	if (maker->computes)
		compute_generated(maker, values, nulls);
}

/*
 * Makes one column, which must have been among the needed ones.
 */
Datum
bemi_make_column(BemiRowMaker *maker, AttrNumber attnum,
				 const BemiRowImage *image, bool *is_null)
{
	Making		making = {.image = image};
	ErrorContextCallback context = {
		.previous = error_context_stack,
		.callback = describe_making,
		.arg = &making
	};
	Datum		value;

	Assert(maker->makers[attnum - 1].name != NULL);
	error_context_stack = &context;
	make_column(maker, attnum - 1, image, &making, &value, is_null);
	error_context_stack = context.previous;
	return value;
}
