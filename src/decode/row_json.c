/*-------------------------------------------------------------------------
 *
 * row_json.c
 *		Converts column values from text, as pgoutput sends them, to jsonb.
 *
 * Input: a row of texts with its relation's columns (protocol.c) and their
 * types (types.c).  Output: a jsonb that equals to_jsonb(row), in the memory
 * context of the caller.  It is built from the values directly, without JSON
 * text in between.  Redacted values are replaced on the way (rules.c).
 *
 * The rules are those of datum_to_jsonb() in the server's jsonb.c: booleans
 * and numbers become such, timestamps are written as in ISO 8601, json and
 * jsonb are kept, arrays are converted by element and composites by field, and
 * all others are text.
 *
 * What must never happen: a value in a row stops the worker.  A row with
 * values whose conversion can fail (json that jsonb cannot hold, arrays,
 * composites, very long ones) is converted within a subtransaction.  If that
 * fails, the row is built again, with each such value and each part of it in a
 * subtransaction of its own, and only the failing one becomes a text.  If that
 * fails, too, all of them become texts, and long ones are replaced by a note
 * of their length.  All other conversions cannot fail on any input.
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

/* Rows that are longer may reach the limits of jsonb. */
#define LONG_ROW	(16 * 1024 * 1024)

/*
 * Longest text that stays in a row with another value that was too long.  Even
 * a row of as many such texts as there can be columns fits into a jsonb.
 */
#define SHORT_TEXT	(64 * 1024)

/*
 * A longer primary key is cut, and its hash is appended, because an entry of
 * the B-tree index on primary_key must fit into a third of a page.
 */
#define LONGEST_KEY	2000

/*
 * Fidelity of a conversion.  If one fails, the next lower one is tried.
 */
typedef enum Fidelity
{
	EXACT,						/* equals to_jsonb(row) */
	CAREFUL,					/* what jsonb cannot hold becomes text */
	SHORTENED,					/* all become text, long ones a note */
	FIDELITIES
} Fidelity;

/* A conversion of arg that try_conversion() runs in a subtransaction. */
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
 * A number; a string for NaN and Infinity, which JSON lacks.
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
 * Writes a timestamp as JsonEncodeDateTime() does, with "T" between date and
 * time and with minutes in the time zone.  The stream's time zone is UTC, so
 * the zone is always "+00".  Only the text is edited, which cannot fail.
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
 * Makes a jsonb a part of another.
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
 * A text, or a note of its length if it is too long.
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
 * Frees the cache of a function call.  Each function that types.c lists caches
 * at most one chunk of memory.
 */
static void
forget_function_cache(FmgrInfo *call)
{
	if (call->fn_extra != NULL)
		pfree(call->fn_extra);
}

/*
 * Calls a type's input function.  Each call has an FmgrInfo of its own, as in
 * the server, because a failed call may leave a broken cache in it.
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
 * Returns the text of an array's element.
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
 * Returns the json text that a cast makes of a value's text.
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
	/* The caller ends the outermost array, which is the result. */
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
 * Parses JSON text.  Throws an error if jsonb cannot hold it.
 */
static Jsonb *
parse_json(char *text)
{
	return DatumGetJsonbP(
						  DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

/*
 * Appends the character of a code point in this database's encoding.  If the
 * encoding lacks it, [U+xxxx] is appended, as in stream/encoding.c.
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
 * Replaces escapes in JSON text by their characters, because jsonb refuses an
 * escape if the database's encoding lacks the character.  Returns NULL if
 * there are none.  Escapes of ASCII characters stay, as does half a surrogate
 * pair.
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
			/* A backslash is copied together with the character behind it. */
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

	/* Arrays and composites may be nested. */
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
 * Converts a value whose conversion may fail, as the fidelity demands.
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
 * Converts the value of a column that is not NULL, or redacts it.
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
 * Whether an old row, complete or only its key, has a column's value.  A NULL
 * may mean that the value is missing.
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
 * Returns the row that has a column's value.  This is the old row if the new
 * one has an unchanged TOAST value, which is never NULL.  Returns NULL if the
 * WAL does not contain the value.
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
 * Compares column names as jsonb sorts its keys: shorter ones first, see
 * lengthCompareJsonbStringValue().  Equal names stay in the order of the
 * columns, because jsonb keeps the last one.
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
 * Sorts the columns as jsonb does.  This is done once for a relation, because
 * the server's sort of each row is faster if the keys are already in order.
 * The result is in the current memory context, the relation's.
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
 * Whether the data has caused an error.  Then another conversion may succeed.
 * Cancellation and lack of memory are not.
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
 * Runs a conversion within a subtransaction.  Returns NULL if it failed
 * because of the data.
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
 * Whether the row is so long that it may exceed the limits of jsonb.
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
 * Placeholder for a row that could not be converted even in shortened form.
 */
static Jsonb *
row_placeholder(void)
{
	return parse_json("{\"bemiError\": \"row left out, jsonb cannot hold it\"}");
}

/*
 * Converts a row to jsonb, with the highest fidelity that works.  The result
 * is in the caller's memory.  Needs a transaction.
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
 * Converts an untrusted text to jsonb, in the caller's memory.  Returns NULL
 * if it is not valid JSON.  Needs a transaction.
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
 * A copy of a key, of bounded length.  Different keys stay different, because
 * the hash of a long key is appended.
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
 * A primary key as text, palloc'd, from the texts of its columns: the text of
 * its column, or for several columns a JSON array of texts in key order.
 */
char *
bemi_key_of_texts(char *const *texts, int count)
{
	JsonbParseState *state = NULL;
	Jsonb	   *array;

	if (count == 1)
		return bounded_key(texts[0]);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < count; i++)
	{
		const char *text = texts[i];
		JsonbValue	value;

		/*
		 * An index could not hold it, but the description may be newer than
		 * the row.
		 */
		if (strlen(text) > LONG_ROW)
			text = bounded_key(text);
		string_value(&value, text, strlen(text));
		pushJsonbValue(&state, WJB_ELEM, &value);
	}
	array = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	return bounded_key(JsonbToCString(NULL, &array->root, VARSIZE(array)));
}

/*
 * The primary key of a row as text, palloc'd.  NULL if the table has no key or
 * the WAL lacks a part of it.
 */
char *
bemi_row_primary_key(const BemiRelation *relation, const BemiImage *image)
{
	char	  **texts;

	if (relation->key_count == 0)
		return NULL;

	texts = palloc(sizeof(char *) * relation->key_count);
	for (int i = 0; i < relation->key_count; i++)
	{
		const BemiColumn *column = &relation->columns[relation->keys[i]];
		const LogicalRepTupleData *holder =
			row_with_value(relation, image, relation->keys[i]);
		const StringInfoData *datum;

		if (holder == NULL ||
			holder->colstatus[relation->keys[i]] != LOGICALREP_COLUMN_TEXT)
			return NULL;
		datum = &holder->colvalues[relation->keys[i]];
		texts[i] = column->redaction == BEMI_KEEP ? datum->data :
			bemi_redacted(column, datum->data, datum->len);
	}
	return bemi_key_of_texts(texts, relation->key_count);
}
