/*-------------------------------------------------------------------------
 *
 * diff.c
 *		Which columns differ between two rows.
 *
 * Input: two rows as JSON objects.  Output: an object with each column that
 * differs, as [old, new]; or whether one column does.  In C, because
 * bemi.history() needs it for each change, and the worker for each entry of
 * an index of bemi.index_column().  Values are compared as jsonb compares
 * them, so 1.5 equals 1.50.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "query/query_internal.h"

PG_FUNCTION_INFO_V1(bemi_diff);
PG_FUNCTION_INFO_V1(bemi_changed_columns);
PG_FUNCTION_INFO_V1(bemi_column_is_changed);
PG_FUNCTION_INFO_V1(bemi_key_is_changed);

/*
 * A member of an object; NULL: there is none.
 */
static JsonbValue *
find_member(Jsonb *object, const char *name, int len)
{
	return getKeyJsonValueFromContainer(&object->root, name, len, NULL);
}

/*
 * Whether two values differ.  A missing one counts as null.
 */
static bool
values_differ(const JsonbValue *one, const JsonbValue *other)
{
	JsonbValue	null = {.type = jbvNull};

	one = one ? one : &null;
	other = other ? other : &null;
	if (one->type != other->type)
		return true;
	switch (one->type)
	{
		case jbvNull:
			return false;
		case jbvString:
			return one->val.string.len != other->val.string.len ||
				memcmp(one->val.string.val, other->val.string.val,
					   one->val.string.len) != 0;
		case jbvNumeric:
			return !DatumGetBool(
								 DirectFunctionCall2(numeric_eq,
													 NumericGetDatum(one->val.numeric),
													 NumericGetDatum(
																	 other->val.numeric)));
		case jbvBool:
			return one->val.boolean != other->val.boolean;
		default:
			return compareJsonbContainers(one->val.binary.data,
										  other->val.binary.data) != 0;
	}
}

/*
 * A value as a part of another one.
 */
static void
push_value(JsonbParseState **state, JsonbIteratorToken token,
		   JsonbValue *value)
{
	JsonbValue	null = {.type = jbvNull};

	(void) pushJsonbValue(state, token, value ? value : &null);
}

static void
push_pair(JsonbParseState **state, JsonbValue *name, JsonbValue *before,
		  JsonbValue *after)
{
	(void) pushJsonbValue(state, WJB_KEY, name);
	(void) pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
	push_value(state, WJB_ELEM, before);
	push_value(state, WJB_ELEM, after);
	(void) pushJsonbValue(state, WJB_END_ARRAY, NULL);
}

/*
 * Adds the members of "before" that differ.  "all": also those that "after"
 * lacks.
 */
static void
push_changed(JsonbParseState **state, Jsonb *before, Jsonb *after, bool all)
{
	JsonbIterator *iterator = JsonbIteratorInit(&before->root);
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	old;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		JsonbValue *new;

		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &old, true);
		new = find_member(after, name.val.string.val, name.val.string.len);
		if ((all || new != NULL) && values_differ(&old, new))
			push_pair(state, &name, &old, new);
	}
}

/*
 * Adds the members of "after" that "before" lacks.
 */
static void
push_added(JsonbParseState **state, Jsonb *before, Jsonb *after)
{
	JsonbIterator *iterator = JsonbIteratorInit(&after->root);
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	new;

	while ((token = JsonbIteratorNext(&iterator, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		(void) JsonbIteratorNext(&iterator, &new, true);
		if (find_member(before, name.val.string.val,
						name.val.string.len) == NULL &&
			values_differ(NULL, &new))
			push_pair(state, &name, NULL, &new);
	}
}

static void
check_objects(Jsonb *before, Jsonb *after)
{
	if (!JB_ROOT_IS_OBJECT(before) || !JB_ROOT_IS_OBJECT(after))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("before and after must be JSON objects")));
}

/*
 * The members that differ.  "both": only those that both rows have.
 */
static Jsonb *
diff_of(Jsonb *before, Jsonb *after, bool both)
{
	JsonbParseState *state = NULL;

	check_objects(before, after);
	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_changed(&state, before, after, !both);
	if (!both)
		push_added(&state, before, after);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * bemi.diff(before, after)
 */
Datum
bemi_diff(PG_FUNCTION_ARGS)
{
	PG_RETURN_JSONB_P(diff_of(PG_GETARG_JSONB_P(0), PG_GETARG_JSONB_P(1),
							  false));
}

/*
 * _bemi.changed_columns(operation, before, after): what a change has changed;
 * NULL: not known.  With a replica identity other than FULL, an UPDATE has
 * only a part of "before", or nothing.
 */
Datum
bemi_changed_columns(PG_FUNCTION_ARGS)
{
	char	   *operation = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Jsonb	   *before = PG_GETARG_JSONB_P(1);
	Jsonb	   *after = PG_GETARG_JSONB_P(2);

	if (strcmp(operation, "SNAPSHOT") == 0)
		PG_RETURN_JSONB_P(diff_of(after, after, true));
	if (strcmp(operation, "UPDATE") != 0)
		PG_RETURN_JSONB_P(diff_of(before, after, false));
	if (JB_ROOT_COUNT(before) == 0)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(diff_of(before, after, true));
}

static JsonbValue *
find_column(Jsonb *row, const char *name, int len)
{
	return JB_ROOT_IS_OBJECT(row) ? find_member(row, name, len) : NULL;
}

static bool
text_equals(const text * value, const char *expected)
{
	return VARSIZE_ANY_EXHDR(value) == strlen(expected) &&
		memcmp(VARDATA_ANY(value), expected, strlen(expected)) == 0;
}

/*
 * Whether a change has set another value of a column.  A row that is new or
 * gone counts if it has a value there.  Other operations change no column.
 */
bool
bemi_change_sets_column(const text * operation, Jsonb *before, Jsonb *after,
						const char *name, int len)
{
	JsonbValue *old = find_column(before, name, len);
	JsonbValue *new = find_column(after, name, len);

	if (text_equals(operation, "UPDATE"))
		return old != NULL && new != NULL && values_differ(old, new);
	return (text_equals(operation, "CREATE") ||
			text_equals(operation, "DELETE")) &&
		(values_differ(NULL, old) || values_differ(NULL, new));
}

/*
 * bemi.column_is_changed(operation, before, after, column_name)
 */
Datum
bemi_column_is_changed(PG_FUNCTION_ARGS)
{
	text	   *name = PG_GETARG_TEXT_PP(3);

	PG_RETURN_BOOL(bemi_change_sets_column(PG_GETARG_TEXT_PP(0),
										   PG_GETARG_JSONB_P(1),
										   PG_GETARG_JSONB_P(2),
										   VARDATA_ANY(name),
										   VARSIZE_ANY_EXHDR(name)));
}

/*
 * The text of a member; NULL: there is none.
 */
static char *
text_of_member(Jsonb *object, const char *name)
{
	JsonbValue *member = find_member(object, name, strlen(name));
	Jsonb	   *value;

	if (member == NULL)
		return NULL;
	value = JsonbValueToJsonb(member);
	return JsonbToCString(NULL, &value->root, VARSIZE(value));
}

/*
 * _bemi.key_is_changed(names, before, after): whether one of these members has
 * another text.  As text, because 1.5 and 1.50 are two keys.
 */
Datum
bemi_key_is_changed(PG_FUNCTION_ARGS)
{
	Jsonb	   *before = PG_GETARG_JSONB_P(1);
	Jsonb	   *after = PG_GETARG_JSONB_P(2);
	Datum	   *names;
	bool	   *nulls;
	int			count;
	bool		result = false;

	check_objects(before, after);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false,
					  TYPALIGN_INT, &names, &nulls, &count);
	for (int i = 0; i < count && !result; i++)
	{
		char	   *name = nulls[i] ? NULL : TextDatumGetCString(names[i]);
		char	   *old = name ? text_of_member(before, name) : NULL;
		char	   *new = name ? text_of_member(after, name) : NULL;

		result = old != NULL && new != NULL && strcmp(old, new) != 0;
	}
	PG_RETURN_BOOL(result);
}
