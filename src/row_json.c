/*-------------------------------------------------------------------------
 *
 * row_json.c
 *		Column values, as the text that pgoutput sends, to jsonb.
 *
 * In flows a row of texts with its relation's columns (protocol.c); out flows
 * a jsonb that equals to_jsonb(row), built from the values without a detour
 * by JSON text, in the memory context of the caller.
 *
 * The rules are those of jsonb_categorize_type() and datum_to_jsonb() in the
 * server's jsonb.c: booleans and numbers as such, dates and times as in ISO
 * 8601, json and jsonb as they are, arrays by element, the rest as text.
 *
 * Nothing in a row may stop the worker.  Values whose conversion can fail
 * (json that jsonb cannot hold, arrays, very long ones) are converted within
 * a subtransaction.  When that fails, the row is built again with care, each
 * such value in a subtransaction of its own, so that only the one at fault
 * becomes a text; and if that fails too, long texts are replaced by a note of
 * their length.  All other conversions are written so that no input makes them
 * fail.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"

#include "bemi.h"

/* Rows longer than this may come near the limits of jsonb. */
#define LONG_ROW	(16 * 1024 * 1024)

/*
 * A text that stays whole in a row where something else was too long: as many
 * as a row can have, with names and numbers, stay far below what a jsonb holds.
 */
#define SHORT_TEXT	(64 * 1024)

/*
 * A primary key that is longer is cut, and its hash appended: an entry of the
 * index by which rows are found must fit into a third of a page.
 */
#define LONGEST_KEY	2000

/* How true to the row a conversion is; each is the way out for the one above. */
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
	const BemiColumn *column;
	const StringInfoData *datum;
} ValueToConvert;

typedef struct TextToConvert
{
	const char *text;
	int			len;
} TextToConvert;

static Jsonb *try_conversion(Conversion convert, const void *arg,
							 Fidelity fidelity);

/*
 * Decides once for a column how its values are converted.  Only built-in
 * types are looked at: their OIDs mean the same on every server.
 */
void
bemi_column_init(BemiColumn *column)
{
	Oid			input;
	Node	   *argument;

	switch (column->type)
	{
		case BOOLOID:
			column->kind = BEMI_COLUMN_BOOLEAN;
			return;
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
			column->kind = BEMI_COLUMN_NUMBER;
			return;
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			column->kind = BEMI_COLUMN_TIMESTAMP;
			return;
		case JSONOID:
		case JSONBOID:
			column->kind = BEMI_COLUMN_JSON;
			return;
	}

	column->kind = BEMI_COLUMN_TEXT;
	if (column->type >= FirstNormalObjectId ||
		!OidIsValid(get_element_type(column->type)))
		return;

	/* to_jsonb() learns its argument's type from the calling expression. */
	column->kind = BEMI_COLUMN_ARRAY;
	getTypeInputInfo(column->type, &input, &column->input_parameter);
	fmgr_info(input, &column->input);
	fmgr_info(F_TO_JSONB, &column->to_jsonb);
	argument = (Node *) makeNullConst(column->type, -1, InvalidOid);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
											 list_make1(argument), InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL),
					   &column->to_jsonb);
}

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
		text = psprintf("[bemi: value of %d bytes left out, too long for jsonb]", len);
		len = strlen(text);
	}
	string_value(value, text, len);
}

/*
 * Converts a value of json, jsonb or an array type; a Conversion.
 */
static Jsonb *
convert_value(const void *arg, Fidelity fidelity)
{
	const ValueToConvert *work = arg;
	BemiColumn *column = (BemiColumn *) work->column;
	char	   *text = work->datum->data;
	Datum		result;

	if (column->kind == BEMI_COLUMN_JSON)
		result = DirectFunctionCall1(jsonb_in, CStringGetDatum(text));
	else
		result = FunctionCall1(&column->to_jsonb,
							   InputFunctionCall(&column->input, text,
												 column->input_parameter, -1));
	return DatumGetJsonbP(result);
}

/*
 * A value whose conversion may fail, as the fidelity demands.
 */
static void
risky_value(const BemiColumn *column, const StringInfoData *datum,
			Fidelity fidelity, JsonbValue *value)
{
	ValueToConvert work = {column, datum};
	Jsonb	   *part = NULL;

	if (fidelity == EXACT)
		part = convert_value(&work, fidelity);
	else if (fidelity == CAREFUL)
		part = try_conversion(convert_value, &work, fidelity);

	if (part != NULL)
		jsonb_value(value, part);
	else
		text_value(value, datum->data, datum->len, fidelity);
}

/*
 * Converts one value that is not NULL.
 */
static void
column_value(const BemiColumn *column, const StringInfoData *datum,
			 Fidelity fidelity, JsonbValue *value)
{
	switch (column->kind)
	{
		case BEMI_COLUMN_BOOLEAN:
			value->type = jbvBool;
			value->val.boolean = (datum->data[0] == 't');
			break;
		case BEMI_COLUMN_NUMBER:
			number_value(value, datum->data, datum->len);
			break;
		case BEMI_COLUMN_TIMESTAMP:
			timestamp_value(value, datum->data, datum->len);
			break;
		case BEMI_COLUMN_JSON:
		case BEMI_COLUMN_ARRAY:
			risky_value(column, datum, fidelity, value);
			break;
		case BEMI_COLUMN_TEXT:
			text_value(value, datum->data, datum->len, fidelity);
			break;
	}
}

/*
 * Where the value of a column is to be taken from: the row, or the old row if
 * the row has it unchanged out of line.  NULL if the WAL does not hold it.
 */
static const LogicalRepTupleData *
holder_of(const BemiImage *image, int column)
{
	if (column >= image->row->ncols)
		return NULL;
	if (image->row->colstatus[column] != LOGICALREP_COLUMN_UNCHANGED)
		return image->row;
	if (image->old != NULL && column < image->old->ncols &&
		image->old->colstatus[column] != LOGICALREP_COLUMN_UNCHANGED)
		return image->old;
	return NULL;
}

/*
 * Builds the jsonb of a row; a Conversion.
 */
static Jsonb *
convert_row(const void *arg, Fidelity fidelity)
{
	const RowToConvert *work = arg;
	const BemiRelation *relation = work->relation;
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < relation->column_count; i++)
	{
		const BemiColumn *column = &relation->columns[i];
		const LogicalRepTupleData *holder = holder_of(work->image, i);
		JsonbValue	value;

		if (holder == NULL || (work->image->is_key && !column->identity))
			continue;

		string_value(&value, column->name, strlen(column->name));
		pushJsonbValue(&state, WJB_KEY, &value);

		if (holder->colstatus[i] == LOGICALREP_COLUMN_NULL)
			value.type = jbvNull;
		else
			column_value(column, &holder->colvalues[i], fidelity, &value);
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
	char	   *text = pnstrdup(work->text, work->len);

	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
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
is_long(const BemiImage *image)
{
	Size		total = 0;

	for (int i = 0; i < image->row->ncols; i++)
	{
		const LogicalRepTupleData *holder = holder_of(image, i);

		if (holder != NULL && holder->colstatus[i] == LOGICALREP_COLUMN_TEXT)
			total += holder->colvalues[i].len;
	}
	return total > LONG_ROW;
}

/*
 * What stands for a row that no way of conversion has been good for.
 */
static Jsonb *
note_of_row(void)
{
	Datum		note = DirectFunctionCall1(jsonb_in,
										   CStringGetDatum("{\"bemiError\": \"row left out, jsonb cannot hold it\"}"));

	return DatumGetJsonbP(note);
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

	if (!relation->risky && !is_long(image))
		return convert_row(&work, EXACT);

	StaticAssertStmt((uint64) MaxTupleAttributeNumber * SHORT_TEXT < JENTRY_OFFLENMASK / 2,
					 "a row of shortened texts fits into a jsonb");
	for (Fidelity fidelity = EXACT; fidelity < FIDELITIES && result == NULL; fidelity++)
		result = try_conversion(convert_row, &work, fidelity);

	return result ? result : note_of_row();
}

/*
 * The jsonb of a text that anybody may have written, or NULL if it is not
 * valid JSON, in the caller's memory.  Needs a transaction.
 */
Jsonb *
bemi_text_to_jsonb(const char *text, int len)
{
	TextToConvert work = {text, len};

	if (memchr(text, '\0', len) != NULL ||
		!pg_verify_mbstr(GetDatabaseEncoding(), text, len, true))
		return NULL;
	return try_conversion(convert_text, &work, EXACT);
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
	hash = DirectFunctionCall1Coll(md5_text, DEFAULT_COLLATION_OID,
								   PointerGetDatum(cstring_to_text_with_len(key, len)));
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
		int			column = relation->keys[i];
		const LogicalRepTupleData *holder = holder_of(image, column);
		JsonbValue	value;

		if (holder == NULL || holder->colstatus[column] != LOGICALREP_COLUMN_TEXT ||
			(image->is_key && !relation->columns[column].identity))
			return NULL;
		if (relation->key_count == 1)
			return bounded_key(holder->colvalues[column].data);
		string_value(&value, holder->colvalues[column].data,
					 holder->colvalues[column].len);
		pushJsonbValue(&state, WJB_ELEM, &value);
	}
	array = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	return bounded_key(JsonbToCString(NULL, &array->root, VARSIZE(array)));
}
