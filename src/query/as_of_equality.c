/*-------------------------------------------------------------------------
 *
 * as_of_equality.c
 *		When two rows of a table without a key are equal.
 *
 * Input: a row, of the table or made of an image.  Output: 16 bytes, which are
 * the same for equal rows.
 *
 * Two rows are equal if the history stores them alike.  So what JSON does not
 * keep does not count: the sign of a floating-point zero, the spaces in a json
 * value, the first number of an array, and whether a jsonb is null or NULL.
 * What JSON keeps counts, though an operator of the type may call it equal:
 * 1.5 and 1.50 differ.
 *
 * How a column is compared is decided once, by its type:
 *
 *	bytes		the type has one form for each value
 *	float		the same, without the sign of a zero
 *	JSON		json, arrays and composite types, by to_jsonb()
 *	text		all others, by the output function
 *
 * Generated columns follow from the others and are left out.
 *
 * The bytes of the columns are hashed twice, with two random seeds.  So nobody
 * can prepare two rows that differ and have the same 16 bytes.  Among 2^30
 * rows, the probability that two have them by chance is 2^-69.
 *
 * to_jsonb() can call a cast of the type's owner.  So it runs with the rights
 * of the table's owner, as functions in indexes do.  Only superusers can make
 * output functions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "query/query_internal.h"

typedef enum Comparison
{
	NOT_COMPARED,
	BY_BYTES,
	BY_FLOAT4,
	BY_FLOAT8,
	BY_JSON,
	BY_TEXT
} Comparison;

typedef struct ComparedColumn
{
	Comparison	comparison;
	bool		by_value;
	int16		len;
	FmgrInfo	function;		/* to_jsonb() or the output function */
} ComparedColumn;

struct BemiEquality
{
	Oid			owner;			/* of the table */
	bool		uses_settings;	/* of the session, for texts */
	BemiDigest	seed;			/* random */
	int			count;
	ComparedColumn columns[FLEXIBLE_ARRAY_MEMBER];
};

/* ---------- columns ---------- */

static Comparison
comparison_of_type(Oid type)
{
	if (OidIsValid(get_element_type(type)))
		return BY_JSON;
	if (get_typtype(type) == TYPTYPE_ENUM)
		return BY_BYTES;
	if (get_typtype(type) == TYPTYPE_COMPOSITE)
		return BY_JSON;
	switch (type)
	{
		case BOOLOID:
		case CHAROID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case OIDOID:
		case NUMERICOID:
		case NAMEOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case BYTEAOID:
		case UUIDOID:
		case DATEOID:
		case TIMEOID:
		case TIMETZOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INETOID:
		case CIDROID:
		case BITOID:
		case VARBITOID:
			return BY_BYTES;
		case FLOAT4OID:
			return BY_FLOAT4;
		case FLOAT8OID:
			return BY_FLOAT8;
		case JSONOID:
		case JSONBOID:
			return BY_JSON;
		default:
			return BY_TEXT;
	}
}

static void
prepare_column(ComparedColumn *column, Form_pg_attribute attribute)
{
	Oid			output;
	bool		is_varlena;

	column->comparison = comparison_of_type(getBaseType(attribute->atttypid));
	column->by_value = attribute->attbyval;
	column->len = attribute->attlen;
	if (column->comparison == BY_JSON)
	{
		Const	   *argument = makeConst(attribute->atttypid, -1, InvalidOid,
										 -1, (Datum) 0, true, false);

		fmgr_info(F_TO_JSONB, &column->function);
		fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID,
												 list_make1(argument),
												 InvalidOid, InvalidOid,
												 COERCE_EXPLICIT_CALL),
						   &column->function);
	}
	if (column->comparison == BY_TEXT)
	{
		getTypeOutputInfo(attribute->atttypid, &output, &is_varlena);
		fmgr_info(output, &column->function);
	}
}

/*
 * How rows of a table are compared, in the current memory context.  "left_out"
 * has the numbers of columns that do not count.
 */
BemiEquality *
bemi_equality_create(Relation table, const Bitmapset *left_out)
{
	TupleDesc	columns = RelationGetDescr(table);
	BemiEquality *equality =
		palloc0(offsetof(BemiEquality, columns) +
				sizeof(ComparedColumn) * columns->natts);

	equality->owner = table->rd_rel->relowner;
	equality->count = columns->natts;
	if (!pg_strong_random(&equality->seed, sizeof(equality->seed)))
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not generate random numbers")));
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute attribute = TupleDescAttr(columns, i);
		ComparedColumn *column = &equality->columns[i];

		if (attribute->attisdropped || attribute->attgenerated != '\0' ||
			bms_is_member(i + 1, left_out))
			continue;
		prepare_column(column, attribute);
		if (column->comparison == BY_JSON || column->comparison == BY_TEXT)
			equality->uses_settings = true;
	}
	return equality;
}

/* ---------- values ---------- */

static void
add_bytes(BemiDigest *digest, const void *bytes, int len)
{
	for (int i = 0; i < lengthof(digest->words); i++)
		digest->words[i] = hash_bytes_extended(bytes, len, digest->words[i]);
}

static void
add_varlena(BemiDigest *digest, Datum value)
{
	struct varlena *packed = PG_DETOAST_DATUM_PACKED(value);

	add_bytes(digest, VARDATA_ANY(packed), VARSIZE_ANY_EXHDR(packed));
	if ((Pointer) packed != DatumGetPointer(value))
		pfree(packed);
}

static void
add_image(BemiDigest *digest, const ComparedColumn *column, Datum value)
{
	if (column->by_value)
	{
		value = bemi_stored_form(value, true, column->len);
		add_bytes(digest, &value, sizeof(value));
	}
	else if (column->len == -1)
		add_varlena(digest, value);
	else
		add_bytes(digest, DatumGetPointer(value), column->len);
}

static bool
is_json_null(Jsonb *json)
{
	JsonbValue	scalar;

	return JB_ROOT_IS_SCALAR(json) &&
		JsonbExtractScalar(&json->root, &scalar) && scalar.type == jbvNull;
}

static void
add_value(BemiDigest *digest, ComparedColumn *column, Datum value)
{
	float4		single;
	float8		number;
	Jsonb	   *json;
	char	   *text;

	switch (column->comparison)
	{
		case BY_FLOAT4:
			single = DatumGetFloat4(value);
			add_bytes(digest, single == 0 ? "0" : (char *) &single,
					  single == 0 ? 1 : sizeof(single));
			break;
		case BY_FLOAT8:
			number = DatumGetFloat8(value);
			add_bytes(digest, number == 0 ? "0" : (char *) &number,
					  number == 0 ? 1 : sizeof(number));
			break;
		case BY_JSON:
			json = DatumGetJsonbP(FunctionCall1(&column->function, value));
			/* A null of JSON is as NULL. */
			if (!is_json_null(json))
				add_bytes(digest, VARDATA(json), VARSIZE(json) - VARHDRSZ);
			break;
		case BY_TEXT:
			text = OutputFunctionCall(&column->function, value);
			add_bytes(digest, text, strlen(text));
			break;
		default:
			add_image(digest, column, value);
	}
}

static void
add_row(BemiEquality *equality, TupleTableSlot *row, BemiDigest *digest)
{
	slot_getallattrs(row);
	for (int i = 0; i < equality->count; i++)
	{
		ComparedColumn *column = &equality->columns[i];

		if (column->comparison == NOT_COMPARED)
			continue;
		/* So that it counts which ones are NULL. */
		digest->words[0] = hash_combine64(digest->words[0], i);
		digest->words[1] = hash_combine64(digest->words[1], i);
		if (!row->tts_isnull[i])
			add_value(digest, column, row->tts_values[i]);
	}
}

/*
 * The same with the rights of the table's owner, and with settings that give
 * each value one text.
 */
static void
add_row_as_owner(BemiEquality *equality, TupleTableSlot *row,
				 BemiDigest *digest)
{
	BemiRights	caller;

	bemi_act_restricted_as(equality->owner, &caller);
	(void) bemi_pin_settings_of_texts();
	add_row(equality, row, digest);
	bemi_act_as_before(&caller);
}

/*
 * Sets the 16 bytes that equal rows share.  What it allocates is in the
 * current memory context.
 */
void
bemi_equality_digest(BemiEquality *equality, TupleTableSlot *row,
					 BemiDigest *digest)
{
	*digest = equality->seed;
	if (equality->uses_settings)
		add_row_as_owner(equality, row, digest);
	else
		add_row(equality, row, digest);
}
