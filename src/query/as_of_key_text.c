/*-------------------------------------------------------------------------
 *
 * as_of_key_text.c
 *		The text by which the history finds all changes of a key.
 *
 * Input: a key whose bytes do not decide whether it equals another one.
 * Output: the text that all keys equal to it have in primary_key.  If they can
 * have several, all changes of the table must be read.
 *
 * 1.5 and 1.50 are equal numbers with two texts.  But a column numeric(10, 2)
 * stores both as 1.50, and char(5) stores all its values with five characters.
 * So the value is brought into the form of the column first.  This holds for
 * changes since the column has had its type.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/nbtree.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "decode/decode.h"
#include "query/query_internal.h"

/*
 * Whether equal values of a type have equal bytes, and so equal texts.
 */
static bool
has_equal_images(Oid opfamily, Oid type, Oid collation)
{
	Oid			function =
		get_opfamily_proc(opfamily, type, type, BTEQUALIMAGE_PROC);

	return OidIsValid(function) &&
		DatumGetBool(OidFunctionCall1Coll(function, collation,
										  ObjectIdGetDatum(type)));
}

/*
 * A number with as many decimals as the column has.  Unlike a cast, it is no
 * error if it is too large.
 */
static Datum
with_scale(Datum value, int32 typmod)
{
	int			scale = (((typmod - VARHDRSZ) & 0x7FF) ^ 0x400) - 0x400;

	return DirectFunctionCall2(numeric_round, value, Int32GetDatum(scale));
}

static Datum
with_length(Datum value, int32 typmod)
{
	return DirectFunctionCall3(bpchar, value, Int32GetDatum(typmod),
							   BoolGetDatum(true));
}

/*
 * Whether a column has equal values of its type in one form, apart from the
 * zeros of floats.
 */
static bool
has_one_form(Oid type, int32 typmod, Oid collation)
{
	switch (type)
	{
		case FLOAT4OID:
		case FLOAT8OID:
			return true;
		case NUMERICOID:
			return typmod >= VARHDRSZ;
		case BPCHAROID:
			return typmod >= VARHDRSZ &&
				get_collation_isdeterministic(collation);
		default:
			return false;
	}
}

/*
 * The form in which a column of such a type has a value.
 */
static Datum
stored_form(Oid type, int32 typmod, Datum value)
{
	return type == NUMERICOID ? with_scale(value, typmod) :
		type == BPCHAROID ? with_length(value, typmod) : value;
}

/* 0 and -0 are equal. */
static bool
is_zero(Oid type, Datum value)
{
	return (type == FLOAT4OID && DatumGetFloat4(value) == 0) ||
		(type == FLOAT8OID && DatumGetFloat8(value) == 0);
}

/*
 * Whether keys of the table that are equal have the same text in primary_key,
 * apart from the zeros of floats, as long as the columns have their types.
 */
bool
bemi_has_one_key_text(Relation table, const BemiKey *key)
{
	Relation	index = index_open(key->index, AccessShareLock);
	bool		has_one = true;

	for (int i = 0; i < key->count && has_one; i++)
	{
		Form_pg_attribute column =
			TupleDescAttr(RelationGetDescr(table), key->attnums[i] - 1);
		int32		typmod = column->atttypmod;
		Oid			type = getBaseTypeAndTypmod(column->atttypid, &typmod);

		has_one = has_equal_images(index->rd_opfamily[i],
								   index->rd_opcintype[i],
								   index->rd_indcollation[i]) ||
			has_one_form(type, typmod, column->attcollation);
	}
	index_close(index, NoLock);
	return has_one;
}

/*
 * The text of one value; NULL: the column cannot have it.
 */
static char *
text_of_value(const BemiPast *past, int i, Datum value)
{
	const BemiKey *key = past->key;
	Form_pg_attribute column =
		TupleDescAttr(RelationGetDescr(past->table), key->attnums[i] - 1);
	int32		typmod = column->atttypmod;
	Oid			type = getBaseTypeAndTypmod(column->atttypid, &typmod);
	Datum		stored = stored_form(type, typmod, value);
	Oid			output;
	bool		is_varlena;

	if (!DatumGetBool(FunctionCall2Coll((FmgrInfo *) &key->equals[i],
										key->collations[i], stored, value)))
		return NULL;
	getTypeOutputInfo(type, &output, &is_varlena);
	return OidOutputFunctionCall(output, stored);
}

static bool
has_zero(const BemiPast *past, const Datum *values)
{
	for (int i = 0; i < past->key->count; i++)
	{
		Oid			type =
			TupleDescAttr(RelationGetDescr(past->table),
						  past->key->attnums[i] - 1)->atttypid;

		if (is_zero(getBaseType(type), values[i]))
			return true;
	}
	return false;
}

/*
 * Finds primary_key of all changes of a key; NULL: no row can have had it.
 * False if it can have several texts.
 */
bool
bemi_one_key_text(const BemiPast *past, const Datum *values,
				  const char **text)
{
	char	   *texts[INDEX_MAX_KEYS];
	int			level;
	int			count = 0;

	if (!bemi_has_one_key_text(past->table, past->key) ||
		has_zero(past, values))
		return false;
	level = bemi_pin_settings_of_texts();
	while (count < past->key->count)
	{
		texts[count] = text_of_value(past, count, values[count]);
		if (texts[count] == NULL)
			break;
		count++;
	}
	AtEOXact_GUC(true, level);
	*text = count < past->key->count ? NULL : bemi_key_of_texts(texts, count);
	return true;
}
