/*-------------------------------------------------------------------------
 *
 * names.c
 *		Gives an image of a row the names that its columns have today.
 *
 * _bemi.table_names() returns which names columns had: an object with the name
 * of that time -> the name of today, and null for a dropped column whose name
 * another column has today.  NULL: all names are the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "bemi.h"

PG_FUNCTION_INFO_V1(bemi_rename_json_members);

/* What is behind the name of a dropped column that another column has. */
#define DROPPED_SUFFIX	" (dropped)"

/*
 * The key of a member under today's name.
 */
static JsonbValue
rename_key(const JsonbValue *key, const Jsonb *columns)
{
	JsonbValue	renamed;

	if (getKeyJsonValueFromContainer((JsonbContainer *) &columns->root,
									 key->val.string.val, key->val.string.len,
									 &renamed) == NULL)
		return *key;
	if (renamed.type == jbvNull)
	{
		renamed.type = jbvString;
		renamed.val.string.val =
			psprintf("%.*s%s", key->val.string.len, key->val.string.val,
					 DROPPED_SUFFIX);
		renamed.val.string.len = strlen(renamed.val.string.val);
	}
	return renamed;
}

/*
 * An image with the names that its columns have today; the same image if all
 * names are the same.
 */
static Jsonb *
rename_members(Jsonb *image, const Jsonb *columns)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbParseState *state = NULL;
	JsonbValue	value;

	if (columns == NULL || !JB_ROOT_IS_OBJECT(columns) ||
		!JB_ROOT_IS_OBJECT(image) || JB_ROOT_COUNT(image) == 0)
		return image;
	iterator = JsonbIteratorInit(&image->root);
	(void) JsonbIteratorNext(&iterator, &value, true);	/* the object begins */
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) == WJB_KEY ||
		   token == WJB_VALUE)
	{
		if (token == WJB_KEY)
			value = rename_key(&value, columns);
		(void) pushJsonbValue(&state, token, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * _bemi.rename_members(image jsonb, columns jsonb)
 */
Datum
bemi_rename_json_members(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(
					  rename_members(PG_GETARG_JSONB_P(0),
									 PG_ARGISNULL(1) ? NULL :
									 PG_GETARG_JSONB_P(1)));
}
