/*-------------------------------------------------------------------------
 *
 * input.c
 *		From a member of a row in JSON to the value of a column.
 *
 * It is what jsonb_to_recordset() does with scalars, and with types that have
 * a text.  Arrays, composite types and domains are left to SQL: their columns
 * are jsonb here, see _bemi.revert_statement().
 *
 * Results are palloc'd in the current memory context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "revert/revert_internal.h"

void
bemi_revert_prepare_input(BemiInput *input, Oid type)
{
	Oid			function;

	input->type = type;
	getTypeInputInfo(type, &function, &input->parameter);
	fmgr_info(function, &input->function);
}

/*
 * The text that the type reads.  That of json has quotes.
 */
static char *
text_of(BemiInput *input, JsonbValue *value)
{
	Jsonb	   *whole;

	if (value->type == jbvString && input->type != JSONOID)
		return pnstrdup(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return DatumGetCString(
							   DirectFunctionCall1(numeric_out,
												   NumericGetDatum(value->val.numeric)));
	if (value->type == jbvBool)
		return pstrdup(value->val.boolean ? "true" : "false");
	whole = JsonbValueToJsonb(value);
	return JsonbToCString(NULL, &whole->root, VARSIZE(whole));
}

/*
 * The value of a column; NULL: it has none.
 */
Datum
bemi_revert_input(BemiInput *input, JsonbValue *value, bool *is_null)
{
	*is_null = value == NULL || value->type == jbvNull;
	if (*is_null)
		return (Datum) 0;
	if (input->type == JSONBOID)
		return JsonbPGetDatum(JsonbValueToJsonb(value));
	return InputFunctionCall(&input->function,
							 text_of(input, value), input->parameter, -1);
}
