/*-------------------------------------------------------------------------
 *
 * row_json.c
 *		Column values, as the text that pgoutput sends, to jsonb.
 *
 * In flows a row of texts with its relation's columns (protocol.c) and what
 * their types are made of (types.c); out flows a jsonb that equals
 * to_jsonb(row), built from the values without a detour by JSON text, in the
 * memory context of the caller.  Values that are not to be kept are replaced
 * on the way (rules.c).
 *
 * The rules are those of datum_to_jsonb() in the server's jsonb.c: booleans
 * and numbers as such, dates and times as in ISO 8601, json and jsonb as they
 * are, arrays by element, composites by field, the rest as text.
 *
 * Nothing in a row may stop the worker.  Values whose conversion can fail
 * (json that jsonb cannot hold, arrays, composites, very long ones) are
 * converted within a subtransaction.  When that fails, the row is built again
 * with care, each such value and part of one in a subtransaction of its own,
 * so that only the one at fault becomes a text; and if that fails too, all of
 * them become texts, and long ones are replaced by a note of their length.
 * All other conversions are written so that no input makes them fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type_d.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/typcache.h"

#include "decode/decode_internal.h"

/* Rows longer than this may come near the limits of jsonb. */
#define LONG_ROW	(16 * 1024 * 1024)

/*
 * A text that stays whole in a row where something else was too long: as many
 * as a row can have, with names and numbers, stay far below what a jsonb
 * holds.
 */
#define SHORT_TEXT	(64 * 1024)

/*
 * A primary key that is longer is cut, and its hash appended: an entry of the
 * index by which rows are found must fit into a third of a page.
 */
#define LONGEST_KEY	2000

/*
 * How true to the row a conversion is; each is the way out for the one above.
 */
typedef enum Fidelity
{
	EXACT,						/* equals to_jsonb(row) */
	CAREFUL,					/* values that jsonb cannot hold as text */
	SHORTENED,					/* all as text, long ones as a note */
	FIDELITIES
} Fidelity;

/* What may be done within a subtransaction: work on arg, and its result. */
typedef Jsonb *(*Conversion) (const void *arg, Fidelity fidelity);

typedef struct RowToConvert
{
	const BemiRelation *relation;
	const BemiImage *image;
} RowToConvert;

typedef struct ValueToConvert
{
	const BemiType *type;
	const char *text;
	int			len;
} ValueToConvert;

typedef struct TextToConvert
{
	const char *text;
	int			len;
} TextToConvert;

static Jsonb *try_conversion(Conversion convert, const void *arg,
							 Fidelity fidelity);
static void type_value(const BemiType *type, const char *text, int len,
					   Fidelity fidelity, JsonbValue *value);

static void
string_value(JsonbValue *value, const char *text, int len)
{
	value->type = jbvString;
	value->val.string.val = (char *) text;
	value->val.string.len = len;
}

/*
 * A number, or a string for those that JSON does not know: NaN, Infinity.
 */
static void
number_value(JsonbValue *value, const char *text, int len)
{
	const int	int64_safe_digits = 18;
	Datum		number;

	if (strspn(text, "+-.0123456789eE") != len)
	{
		string_value(value, text, len);
		return;
	}

	value->type = jbvNumeric;
	if (len <= int64_safe_digits && strpbrk(text, ".eE") == NULL)
		value->val.numeric = int64_to_numeric(strtoll(text, NULL, 10));
	else
	{
		number = DirectFunctionCall3(numeric_in, CStringGetDatum(text),
									 ObjectIdGetDatum(InvalidOid),
									 Int32GetDatum(-1));
		value->val.numeric = DatumGetNumeric(number);
	}
}

/*
 * A timestamp as JsonEncodeDateTime() writes it: "T" between date and time,
 * the time zone with minutes.  The stream's time zone is UTC, so the zone is
 * always "+00".  Only the text is changed, which nothing can make fail.
 */
static void
timestamp_value(JsonbValue *value, const char *text, int len)
{
	StringInfoData iso;
	const char *space = strchr(text, ' ');
	const char *zone = strchr(text, '+');

	if (space == NULL || !isdigit((unsigned char) space[1]))
	{
		string_value(value, text, len); /* infinity */
		return;
	}

	initStringInfo(&iso);
	appendBinaryStringInfo(&iso, text, len);
	iso.data[space - text] = 'T';
	if (zone != NULL && strncmp(zone, "+00", 3) == 0)
	{
		iso.len = zone - text + 3;
		appendStringInfo(&iso, ":00%s", zone + 3);
	}
	string_value(value, iso.data, iso.len);
}

/*
 * A jsonb as part of another.
 */
static void
jsonb_value(JsonbValue *value, Jsonb *part)
{
	if (JB_ROOT_IS_SCALAR(part))
	{
		(void) JsonbExtractScalar(&part->root, value);
		return;
	}
	value->type = jbvBinary;
	value->val.binary.data = &part->root;
	value->val.binary.len = VARSIZE(part) - VARHDRSZ;
}

/*
 * A text, or in the last resort a note of its length.
 */
static void
text_value(JsonbValue *value, const char *text, int len, Fidelity fidelity)
{
	if (fidelity == SHORTENED && len > SHORT_TEXT)
	{
		text =
			psprintf("[bemi: value of %d bytes left out, too long for jsonb]",
					 len);
		len = strlen(text);
	}
	string_value(value, text, len);
}

/*
 * What a function has cached for itself; one chunk of memory for all functions
 * that types.c lists.
 */
static void
forget_function_cache(FmgrInfo *call)
{
	if (call->fn_extra != NULL)
		pfree(call->fn_extra);
}

/*
 * Reads a text by a function of the type's choice.  Each call has an FmgrInfo
 * of its own, as the server does it: one that is kept would also keep what a
 * call had cached that ended in an error, for the next row.
 */
static Datum
parse_value(const BemiType *type, const char *text)
{
	FmgrInfo	call;
	Datum		value;

	fmgr_info_copy(&call, (FmgrInfo *) &type->input, CurrentMemoryContext);
	value = InputFunctionCall(&call, (char *) text, type->input_parameter,
							  type->input_typmod);
	forget_function_cache(&call);
	return value;
}

/*
 * The text of an array's element.
 */
static char *
element_text(const BemiType *type, Datum element)
{
	FmgrInfo	call;
	char	   *result;

	if (type->parsed_as == TEXTOID)
		return TextDatumGetCString(element);
	fmgr_info_copy(&call, (FmgrInfo *) &type->output, CurrentMemoryContext);
	result = OutputFunctionCall(&call, element);
	forget_function_cache(&call);
	return result;
}

/*
 * The json text that a cast makes of a value's text.
 */
static char *
cast_to_json(const BemiType *type, const char *literal)
{
	FmgrInfo	call;
	Datum		json;

	fmgr_info_copy(&call, (FmgrInfo *) &type->output, CurrentMemoryContext);
	json = FunctionCall1(&call, parse_value(type, literal));
	forget_function_cache(&call);
	return TextDatumGetCString(json);
}

/*
 * Pushes the elements of one dimension of an array, and those of the
 * dimensions below; *next counts them.
 */
static void
push_dimension(JsonbParseState **state, const BemiType *type, ArrayType *array,
			   int dimension, const Datum *elements, const bool *nulls,
			   int *next, Fidelity fidelity)
{
	pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < ARR_DIMS(array)[dimension]; i++)
	{
		JsonbValue	value = {.type = jbvNull};

		if (dimension + 1 < ARR_NDIM(array))
		{
			push_dimension(state, type, array, dimension + 1, elements, nulls,
						   next, fidelity);
			continue;
		}
		if (!nulls[*next])
		{
			char	   *element = element_text(type, elements[*next]);

			type_value(type->element, element, strlen(element), fidelity,
					   &value);
		}
		pushJsonbValue(state, WJB_ELEM, &value);
		(*next)++;
		CHECK_FOR_INTERRUPTS();
	}
	/* The result is that of the outermost one. */
	if (dimension > 0)
		pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

static Jsonb *
convert_array(const BemiType *type, const char *literal, Fidelity fidelity)
{
	ArrayType  *array = DatumGetArrayTypeP(parse_value(type, literal));
	JsonbParseState *state = NULL;
	int16		len;
	bool		by_value;
	char		align;
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	int			next = 0;

	get_typlenbyvalalign(type->parsed_as, &len, &by_value, &align);
	deconstruct_array(array, type->parsed_as, len, by_value, align, &elements,
					  &nulls, &count);
	if (count == 0)
		pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	else
		push_dimension(&state, type, array, 0, elements, nulls, &next,
					   fidelity);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
}

static Jsonb *
convert_composite(const BemiType *type, const char *literal, Fidelity fidelity)
{
	HeapTupleHeader row = DatumGetHeapTupleHeader(parse_value(type, literal));
	TupleDesc	columns =
		lookup_rowtype_tupdesc(type->input_parameter, type->input_typmod);
	HeapTupleData tuple = {.t_len = HeapTupleHeaderGetDatumLength(row),
	.t_data = row};
	Datum	   *values = palloc(sizeof(Datum) * Max(columns->natts, 1));
	bool	   *nulls = palloc(sizeof(bool) * Max(columns->natts, 1));
	JsonbParseState *state = NULL;

	heap_deform_tuple(&tuple, columns, values, nulls);
	ReleaseTupleDesc(columns);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < type->field_count; i++)
	{
		JsonbValue	value;

		string_value(&value, type->field_names[i],
					 strlen(type->field_names[i]));
		pushJsonbValue(&state, WJB_KEY, &value);
		if (nulls[i])
			value.type = jbvNull;
		else
		{
			char	   *field = TextDatumGetCString(values[i]);

			type_value(type->field_types[i], field, strlen(field), fidelity,
					   &value);
		}
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Parses JSON text, in which nothing may be that jsonb cannot hold.
 */
static Jsonb *
parse_json(char *text)
{
	return DatumGetJsonbP(
						  DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

/*
 * Appends the character of a code point in this database's encoding, or, if it
 * has none, what stands for it (see stream/encoding.c).
 */
static void
append_code_point(StringInfo result, Oid conversion, unsigned int code)
{
	unsigned char utf8[MAX_MULTIBYTE_CHAR_LEN + 1] = {0};
	unsigned char
				converted[MAX_MULTIBYTE_CHAR_LEN * MAX_CONVERSION_GROWTH + 1];
	int			len = pg_utf_mblen(unicode_to_utf8(code, utf8));

	if (OidIsValid(conversion) &&
		pg_do_encoding_conversion_buf(conversion, PG_UTF8,
									  GetDatabaseEncoding(), utf8, len,
									  converted, sizeof(converted),
									  true) == len)
		appendStringInfoString(result, (char *) converted);
	else
		appendStringInfo(result, "[U+%04X]", code);
}

/*
 * The same JSON text, with characters in place of escapes, which jsonb refuses
 * if the database's encoding is not UTF8 and lacks them; NULL if there are
 * none.  Escapes of ASCII characters stay, zero bytes among them, and so do
 * halves of pairs without the other.
 */
static char *
remove_escapes(const char *text)
{
	StringInfoData result;
	Oid			conversion;
	bool		found = false;

	if (GetDatabaseEncoding() == PG_UTF8)
		return NULL;
	conversion = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	initStringInfo(&result);
	while (*text)
	{
		unsigned int code;
		unsigned int low;

		if (text[0] != '\\' || sscanf(text, "\\u%4x", &code) != 1 ||
			code < 0x80)
		{
			/* A backslash and what it escapes go together. */
			int			len = text[0] == '\\' && text[1] != '\0' ? 2 : 1;

			appendBinaryStringInfo(&result, text, len);
			text += len;
			continue;
		}
		text += strlen("\\u0000");
		if (is_utf16_surrogate_first(code) &&
			sscanf(text, "\\u%4x", &low) == 1 &&
			is_utf16_surrogate_second(low))
		{
			code = surrogate_pair_to_codepoint(code, low);
			text += strlen("\\u0000");
		}
		append_code_point(&result, conversion, code);
		found = true;
	}
	return found ? result.data : NULL;
}

/*
 * Converts a value whose conversion may fail; a Conversion.
 */
static Jsonb *
convert_value(const void *arg, Fidelity fidelity)
{
	const ValueToConvert *work = arg;
	const BemiType *type = work->type;

	/* Of arrays and composites, one in another. */
	check_stack_depth();
	switch (type->kind)
	{
		case BEMI_TYPE_ARRAY:
			return convert_array(type, work->text, fidelity);
		case BEMI_TYPE_COMPOSITE:
			return convert_composite(type, work->text, fidelity);
		case BEMI_TYPE_JSON_CAST:
			return parse_json(cast_to_json(type, work->text));
		default:
			return parse_json((char *) work->text);
	}
}

/*
 * A value whose conversion may fail, as the fidelity demands.
 */
static void
risky_value(const BemiType *type, const char *text, int len, Fidelity fidelity,
			JsonbValue *value)
{
	ValueToConvert work = {type, text, len};
	Jsonb	   *part = NULL;

	if (fidelity == EXACT)
		part = convert_value(&work, fidelity);
	else if (fidelity == CAREFUL)
	{
		part = try_conversion(convert_value, &work, fidelity);
		if (part == NULL && type->kind == BEMI_TYPE_JSON &&
			(work.text = remove_escapes(text)) != NULL)
			part = try_conversion(convert_value, &work, fidelity);
	}

	if (part != NULL)
		jsonb_value(value, part);
	else
		text_value(value, text, len, fidelity);
}

/*
 * Converts one value that is not NULL.
 */
static void
type_value(const BemiType *type, const char *text, int len, Fidelity fidelity,
		   JsonbValue *value)
{
	switch (type->kind)
	{
		case BEMI_TYPE_BOOLEAN:
			value->type = jbvBool;
			value->val.boolean = (text[0] == 't');
			break;
		case BEMI_TYPE_NUMBER:
			number_value(value, text, len);
			break;
		case BEMI_TYPE_TIMESTAMP:
			timestamp_value(value, text, len);
			break;
		case BEMI_TYPE_JSON:
		case BEMI_TYPE_ARRAY:
		case BEMI_TYPE_COMPOSITE:
		case BEMI_TYPE_JSON_CAST:
			risky_value(type, text, len, fidelity, value);
			break;
		case BEMI_TYPE_TEXT:
			text_value(value, text, len, fidelity);
			break;
	}
}

/*
 * Converts the value of a column that is not NULL, or what is kept instead.
 */
static void
column_json_value(const BemiColumn *column, const StringInfoData *datum,
				  Fidelity fidelity, JsonbValue *value)
{
	if (column->redaction != BEMI_KEEP)
	{
		char	   *instead = bemi_redacted(column, datum->data, datum->len);

		string_value(value, instead, strlen(instead));
		return;
	}
	type_value(column->type, datum->data, datum->len, fidelity, value);
}

/*
 * Whether an old row, whole or only its key, holds a column's value.  A NULL
 * may stand for one that is not there.
 */
static bool
old_row_holds(const BemiRelation *relation, const LogicalRepTupleData *old,
			  bool is_key, int column)
{
	return column < old->ncols &&
		old->colstatus[column] != LOGICALREP_COLUMN_UNCHANGED &&
		(!is_key || relation->columns[column].identity) &&
		(!relation->identity_is_partial ||
		 old->colstatus[column] != LOGICALREP_COLUMN_NULL);
}

/*
 * Where the value of a column is to be taken from: the row, or the old row if
 * the row has it unchanged out of line, which is never NULL.  NULL if the WAL
 * does not hold it.
 */
static const LogicalRepTupleData *
row_with_value(const BemiRelation *relation, const BemiImage *image,
			   int column)
{
	if (image->is_old)
		return old_row_holds(relation, image->row, image->is_key, column) ?
			image->row :
			NULL;
	if (column >= image->row->ncols)
		return NULL;
	if (image->row->colstatus[column] != LOGICALREP_COLUMN_UNCHANGED)
		return image->row;
	if (image->old != NULL &&
		old_row_holds(relation, image->old, image->is_key, column) &&
		image->old->colstatus[column] != LOGICALREP_COLUMN_NULL)
		return image->old;
	return NULL;
}

/*
 * Whether a column's name stands before another's in a jsonb: the shorter one
 * first, see lengthCompareJsonbStringValue().  Of equal ones, the last counts.
 */
static int
compare_names(const void *a, const void *b, void *columns)
{
	int			i = *(const int *) a;
	int			j = *(const int *) b;
	const char *name_i = ((const BemiColumn *) columns)[i].name;
	const char *name_j = ((const BemiColumn *) columns)[j].name;
	size_t		len_i = strlen(name_i);
	size_t		len_j = strlen(name_j);
	int			result;

	if (len_i != len_j)
		return len_i > len_j ? 1 : -1;
	result = memcmp(name_i, name_j, len_i);
	return result != 0 ? result : i - j;
}

/*
 * Finds the order in which a jsonb has the columns, once, so that the server
 * need not sort them anew for each row.  In the current memory context, for as
 * long as the relation's columns.
 */
void
bemi_row_order(BemiRelation *relation)
{
	relation->order = palloc(sizeof(int) * relation->column_count);
	for (int i = 0; i < relation->column_count; i++)
		relation->order[i] = i;
	qsort_arg(relation->order, relation->column_count, sizeof(int),
			  compare_names, relation->columns);
}

/*
 * Builds the jsonb of a row; a Conversion.
 */
static Jsonb *
row_to_jsonb(const void *arg, Fidelity fidelity)
{
	const RowToConvert *work = arg;
	const BemiRelation *relation = work->relation;
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int n = 0; n < relation->column_count; n++)
	{
		int			i = relation->order[n];
		const BemiColumn *column = &relation->columns[i];
		const LogicalRepTupleData *holder =
			row_with_value(relation, work->image, i);
		JsonbValue	value;

		if (holder == NULL)
			continue;

		string_value(&value, column->name, strlen(column->name));
		pushJsonbValue(&state, WJB_KEY, &value);

		if (holder->colstatus[i] == LOGICALREP_COLUMN_NULL)
			value.type = jbvNull;
		else
			column_json_value(column, &holder->colvalues[i], fidelity, &value);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Parses JSON text; a Conversion.
 */
static Jsonb *
convert_text(const void *arg, Fidelity fidelity)
{
	const TextToConvert *work = arg;

	return parse_json(pnstrdup(work->text, work->len));
}

/*
 * Tells whether an error lies in the data, so that the worker goes on without
 * this conversion.  A cancelled or starved worker must not go on.
 */
static bool
is_data_error(int sqlerrcode)
{
	int			category = ERRCODE_TO_CATEGORY(sqlerrcode);

	return category == ERRCODE_DATA_EXCEPTION ||
		category == ERRCODE_PROGRAM_LIMIT_EXCEEDED ||
		category == ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION ||
		category == ERRCODE_FEATURE_NOT_SUPPORTED ||
		category == ERRCODE_INTERNAL_ERROR; /* invalid memory alloc request */
}

/*
 * Runs a conversion within a subtransaction.  NULL if the data made it fail.
 */
static Jsonb *
try_conversion(Conversion convert, const void *arg, Fidelity fidelity)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Jsonb	   *volatile result = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		result = convert(arg, fidelity);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		if (!is_data_error(geterrcode()))
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		result = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;

	return result;
}

/*
 * Tells whether the row is so long that jsonb's own limits come near.
 */
static bool
text_is_long(const BemiRelation *relation, const BemiImage *image)
{
	Size		total = 0;

	for (int i = 0; i < Min(image->row->ncols, relation->column_count); i++)
	{
		const LogicalRepTupleData *holder = row_with_value(relation, image, i);

		if (holder != NULL && holder->colstatus[i] == LOGICALREP_COLUMN_TEXT)
			total += holder->colvalues[i].len;
	}
	return total > LONG_ROW;
}

/*
 * What stands for a row that no way of conversion has been good for.
 */
static Jsonb *
row_placeholder(void)
{
	return parse_json("{\"bemiError\": \"row left out, jsonb cannot hold it\"}");
}

/*
 * The jsonb of a row, as true as it can be had; in the caller's memory.
 * Needs a transaction.
 */
Jsonb *
bemi_row_to_jsonb(const BemiRelation *relation, const BemiImage *image)
{
	RowToConvert work = {relation, image};
	Jsonb	   *result = NULL;

	Assert(IsTransactionState());
	if (!relation->risky && !text_is_long(relation, image))
		return row_to_jsonb(&work, EXACT);

	StaticAssertStmt((uint64) MaxTupleAttributeNumber * SHORT_TEXT <
					 JENTRY_OFFLENMASK / 2,
					 "a row of shortened texts fits into a jsonb");
	for (Fidelity fidelity = EXACT; fidelity < FIDELITIES && result == NULL;
		 fidelity++)
		result = try_conversion(row_to_jsonb, &work, fidelity);

	return result ? result : row_placeholder();
}

/*
 * The jsonb of a text that anybody may have written, or NULL if it is not
 * valid JSON, in the caller's memory.  Needs a transaction.
 */
Jsonb *
bemi_text_to_jsonb(const char *text, int len)
{
	TextToConvert work = {text, len};
	Jsonb	   *result;

	Assert(IsTransactionState());
	if (memchr(text, '\0', len) != NULL ||
		!pg_verify_mbstr(GetDatabaseEncoding(), text, len, true))
		return NULL;
	result = try_conversion(convert_text, &work, EXACT);
	if (result == NULL &&
		(work.text = remove_escapes(pnstrdup(text, len))) != NULL)
	{
		work.len = strlen(work.text);
		result = try_conversion(convert_text, &work, EXACT);
	}
	return result;
}

/*
 * A copy of a key, of bounded length and still telling keys apart.
 */
static char *
bounded_key(const char *key)
{
	int			len = strlen(key);
	Datum		hash;

	if (len <= LONGEST_KEY)
		return pstrdup(key);
	hash =
		DirectFunctionCall1Coll(md5_text, DEFAULT_COLLATION_OID,
								PointerGetDatum(
												cstring_to_text_with_len(key,
																		 len)));
	return psprintf("%.*s...md5:%s", pg_mbcliplen(key, len, LONGEST_KEY), key,
					TextDatumGetCString(hash));
}

/*
 * The primary key of a row as text, palloc'd: that of its one column, or a
 * JSON array of texts in key order.  NULL without a key, or where the WAL
 * does not hold all of it.
 */
char *
bemi_row_primary_key(const BemiRelation *relation, const BemiImage *image)
{
	JsonbParseState *state = NULL;
	Jsonb	   *array;

	if (relation->key_count == 0)
		return NULL;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < relation->key_count; i++)
	{
		const BemiColumn *column = &relation->columns[relation->keys[i]];
		const LogicalRepTupleData *holder =
			row_with_value(relation, image, relation->keys[i]);
		const StringInfoData *datum;
		char	   *text;
		JsonbValue	value;

		if (holder == NULL ||
			holder->colstatus[relation->keys[i]] != LOGICALREP_COLUMN_TEXT)
			return NULL;
		datum = &holder->colvalues[relation->keys[i]];
		text = column->redaction == BEMI_KEEP ? datum->data :
			bemi_redacted(column, datum->data, datum->len);
		if (relation->key_count == 1)
			return bounded_key(text);

		/*
		 * No index could hold it, but the key of today may be of an older
		 * row.
		 */
		if (strlen(text) > LONG_ROW)
			text = bounded_key(text);
		string_value(&value, text, strlen(text));
		pushJsonbValue(&state, WJB_ELEM, &value);
	}
	array = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	return bounded_key(JsonbToCString(NULL, &array->root, VARSIZE(array)));
}
