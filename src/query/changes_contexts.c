/*-------------------------------------------------------------------------
 *
 * changes_contexts.c
 *		What a GIN index on contexts is asked for.
 *
 * Input: the conditions of a query on the context.  Output: contexts.  Each
 * change that is wanted contains one of them at least.  A change that contains
 * one may still not be wanted, so the scan tests it.
 *
 * The condition on a text has several: the text 7 is that of the string "7"
 * and of the number 7.  The index compares numbers by value, so the number
 * also stands for 7.0, which has another text.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/jsonapi.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

#include "query/query_internal.h"

/* A longer number is not worth a search. */
#define LONGEST_NUMBER	100

static Jsonb *
object_of(JsonbValue *key, JsonbValue *value)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	(void) pushJsonbValue(&state, WJB_KEY, key);
	(void) pushJsonbValue(&state, WJB_VALUE, value);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

static bool
text_is(const JsonbValue *text, const char *expected)
{
	return text->val.string.len == strlen(expected) &&
		memcmp(text->val.string.val, expected, strlen(expected)) == 0;
}

/*
 * Whether an array or an object, or a long number, may have this text.
 */
static bool
may_be_complex(const JsonbValue *text)
{
	const char *first = text->val.string.val;
	int			len = text->val.string.len;

	return len > 0 && (*first == '[' || *first == '{' ||
					   (len > LONGEST_NUMBER &&
						IsValidJsonNumber(first, len)));
}

/*
 * The value besides a string that has this text.  False if there is none.
 */
static bool
other_value(const JsonbValue *text, JsonbValue *value)
{
	if (IsValidJsonNumber(text->val.string.val, text->val.string.len))
	{
		char	   *number =
			pnstrdup(text->val.string.val, text->val.string.len);

		/* No number is printed with an exponent. */
		if (strpbrk(number, "eE") != NULL)
			return false;
		value->type = jbvNumeric;
		value->val.numeric =
			DatumGetNumeric(DirectFunctionCall3(numeric_in,
												CStringGetDatum(number),
												ObjectIdGetDatum(InvalidOid),
												Int32GetDatum(-1)));
		return true;
	}
	value->type = jbvBool;
	value->val.boolean = text_is(text, "true");
	return value->val.boolean || text_is(text, "false");
}

/*
 * The contexts in which the first of these keys has its text.
 */
static List *
contexts_with_text(const Jsonb *texts)
{
	JsonbIterator *iterator =
		JsonbIteratorInit(unconstify(JsonbContainer *, &texts->root));
	JsonbValue	key;
	JsonbValue	text;
	JsonbValue	other;
	List	   *contexts;

	(void) JsonbIteratorNext(&iterator, &key, true);
	(void) JsonbIteratorNext(&iterator, &key, true);
	(void) JsonbIteratorNext(&iterator, &text, true);
	if (text.type != jbvString || may_be_complex(&text))
		return NIL;
	contexts = list_make1(object_of(&key, &text));
	if (other_value(&text, &other))
		contexts = lappend(contexts, object_of(&key, &other));
	return contexts;
}

/*
 * The contexts of which each wanted change contains one, in the current memory
 * context.  NIL: the index is of no use.
 */
List *
bemi_contexts_to_find(const BemiChangesQuery *query)
{
	if (query->context != NULL && JB_ROOT_COUNT(query->context) > 0)
		return list_make1(unconstify(Jsonb *, query->context));
	if (query->context_texts != NULL &&
		JB_ROOT_COUNT(query->context_texts) > 0)
		return contexts_with_text(query->context_texts);
	return NIL;
}
