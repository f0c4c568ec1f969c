/*-------------------------------------------------------------------------
 *
 * values.c
 *		Rows of the history as jsonb: members, comparison, making objects.
 *
 * Values are compared as they are stored, so 1.5 and 1.50 differ.  Results are
 * palloc'd in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "decode/decode.h"
#include "revert/revert_internal.h"

/*
 * A member of a row, as a jsonb; NULL if the row lacks it.
 */
Jsonb *
bemi_revert_member(Jsonb *row, const char *name, int length)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (row == NULL)
		return NULL;
	value = getKeyJsonValueFromContainer(&row->root, name, length, &buffer);
	return value ? JsonbValueToJsonb(value) : NULL;
}

/*
 * Whether two values are stored in the same way.  1.5 and 1.50 are not.
 */
bool
bemi_revert_is_same(const Jsonb *a, const Jsonb *b)
{
	if (a == NULL || b == NULL)
		return a == b;
	return VARSIZE(a) == VARSIZE(b) &&
		memcmp(VARDATA(a), VARDATA(b), VARSIZE(a) - VARHDRSZ) == 0;
}

/*
 * The same for members of rows.
 */
bool
bemi_revert_is_same_value(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvString:
			return a->val.string.len == b->val.string.len &&
				memcmp(a->val.string.val, b->val.string.val,
					   a->val.string.len) == 0;
		case jbvNumeric:
			return VARSIZE_ANY(a->val.numeric) ==
				VARSIZE_ANY(b->val.numeric) &&
				memcmp(a->val.numeric, b->val.numeric,
					   VARSIZE_ANY(a->val.numeric)) == 0;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvBinary:
			return a->val.binary.len == b->val.binary.len &&
				memcmp(a->val.binary.data, b->val.binary.data,
					   a->val.binary.len) == 0;
		default:
			return true;
	}
}

/*
 * Text that stands for a value that is not in the history.
 */
bool
bemi_revert_is_placeholder(Jsonb *value)
{
	JsonbValue	text;

	return value != NULL && JB_ROOT_IS_SCALAR(value) &&
		JsonbExtractScalar(&value->root, &text) && bemi_is_placeholder(&text);
}

/*
 * Whether a row of the history has a value that is not in the history.
 */
bool
bemi_revert_has_placeholder(Jsonb *row)
{
	JsonbIterator *members = JsonbIteratorInit(&row->root);
	JsonbValue	value;

	(void) JsonbIteratorNext(&members, &value, true);
	while (JsonbIteratorNext(&members, &value, true) == WJB_KEY)
	{
		(void) JsonbIteratorNext(&members, &value, true);
		if (bemi_revert_is_placeholder(JsonbValueToJsonb(&value)))
			return true;
	}
	return false;
}

void
bemi_revert_push_member(JsonbParseState **state, char *name, int length,
						Jsonb *value)
{
	JsonbValue	member = {.type = jbvString};

	member.val.string.val = name;
	member.val.string.len = length;
	(void) pushJsonbValue(state, WJB_KEY, &member);
	if (value == NULL)
		member.type = jbvNull;
	else if (!JB_ROOT_IS_SCALAR(value) ||
			 !JsonbExtractScalar(&value->root, &member))
	{
		member.type = jbvBinary;
		member.val.binary.data = &value->root;
		member.val.binary.len = VARSIZE(value) - VARHDRSZ;
	}
	(void) pushJsonbValue(state, WJB_VALUE, &member);
}

/*
 * Splits the members of a row into names and values: all of them, or those
 * that "other" has with another value.
 */
void
bemi_revert_list_members(Jsonb *row, Jsonb *other, List **names, List **now,
						 List **after)
{
	JsonbIterator *members = JsonbIteratorInit(&row->root);
	JsonbValue	name;
	JsonbValue	value;

	(void) JsonbIteratorNext(&members, &name, true);
	while (JsonbIteratorNext(&members, &name, true) == WJB_KEY)
	{
		Jsonb	   *theirs = bemi_revert_member(other, name.val.string.val,
												name.val.string.len);
		Jsonb	   *ours;

		(void) JsonbIteratorNext(&members, &value, true);
		ours = JsonbValueToJsonb(&value);
		if (theirs == NULL || bemi_revert_is_same(ours, theirs))
			continue;
		*names = lappend(*names, pnstrdup(name.val.string.val,
										  name.val.string.len));
		*now = lappend(*now, theirs);
		*after = lappend(*after, ours);
	}
}

/*
 * The members of a step.
 */
Jsonb *
bemi_revert_object(List *columns, List *values)
{
	JsonbParseState *state = NULL;
	ListCell   *column;
	ListCell   *value;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	forboth(column, columns, value, values)
		bemi_revert_push_member(&state, lfirst(column), strlen(lfirst(column)),
								lfirst(value));
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
