/*-------------------------------------------------------------------------
 *
 * context.c
 *		The context: the JSON object that the application gives for its
 *		statements.
 *
 * Input: text from the client, by one of three ways: the setting bemi.context,
 * the functions bemi.set_context() and bemi.merge_context() (which set the
 * setting), and a comment behind the statement (comment.c).  Output: the text
 * of a JSON object, which capture/message.c writes into the WAL, with what is
 * added under reserved keys (tags.c, server_fields.c).
 *
 * The text is checked when it comes in, never later: the setting by its check
 * hook, the comment when it is found.  A valid context is a JSON object, no
 * longer than bemi.max_context_size, with at most bemi.max_context_keys
 * values, and without \u0000 (which jsonb cannot hold).  Size and values are
 * checked first, because the parser would take time and memory for a huge
 * text.
 *
 * The setting's memory belongs to guc.c and may be freed by the next SET, so
 * callers copy a context that must live longer.
 *
 * What must never happen: a text that jsonb_in() would reject passes the
 * check, because the worker would then have to discard a context that the
 * server has accepted.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "access/xact.h"
#include "fmgr.h"
#include "nodes/plannodes.h"
#include "tcop/pquery.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "context/context_internal.h"

PG_FUNCTION_INFO_V1(bemi_set_context);
PG_FUNCTION_INFO_V1(bemi_merge_context);
PG_FUNCTION_INFO_V1(bemi_current_context);

/* A refused value that is longer is not shown in the error. */
#define LONGEST_SHOWN	256

/* A result that parse_json_without_error() adds to the parser's own. */
#define UNTRANSLATABLE	(-2)

/*
 * Deeper than any real context, and far below the limit of the stack.
 */
#define DEEPEST_CONTEXT	1000

static char *context_setting = NULL;
static bool setting_may_have_tags_key = false;
static const char *override_context = NULL;
static int	max_context_size = 1024 * 1024;
static int	max_context_keys = 10000;

/* The extent of a JSON text. */
typedef struct JsonExtent
{
	int			values;			/* members of objects and elements of arrays */
	int			depth;			/* objects and arrays within each other */
} JsonExtent;

/*
 * Lexer callback: rejects numbers that JSON allows and jsonb does not, because
 * numeric cannot hold them.
 */
static bemi_json_action_result
check_json_number(void *state, char *token, JsonTokenType type)
{
	if (type == JSON_TOKEN_NUMBER)
		return bemi_check_json_number(token);
	return BEMI_JSON_ACTION_DONE;
}

#if BEMI_JSON_ERRORS_ARE_THROWN
/*
 * Parses, and returns a JsonParseErrorType or UNTRANSLATABLE.
 *
 * The parser throws two errors: a number is out of range, or an escaped
 * character does not exist in the encoding.  It holds no lock, pin or other
 * resource, only memory of a context that the caller deletes.  So no
 * subtransaction is needed to catch them.
 */
static int
parse_json_without_error(JsonLexContext *lexer, JsonSemAction *actions)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile int result = JSON_SUCCESS;

	PG_TRY();
	{
		result = pg_parse_json(lexer, actions);
	}
	PG_CATCH();
	{
		switch (geterrcode())
		{
			case ERRCODE_UNTRANSLATABLE_CHARACTER:
			case ERRCODE_FEATURE_NOT_SUPPORTED:
				result = UNTRANSLATABLE;
				break;
			case ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE:
			case ERRCODE_INVALID_TEXT_REPRESENTATION:
				result = JSON_SEM_ACTION_FAILED;
				break;
			default:
				PG_RE_THROW();
		}
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	return result;
}
#else
#define parse_json_without_error(lexer, actions) ((int) pg_parse_json(lexer, actions))
#endif

/*
 * Measures a JSON text in one pass, without memory or recursion.  The result
 * has no meaning if the text is not valid JSON.  Comparing bytes is enough: in
 * every encoding that a server may have, the bytes of these ASCII characters
 * are part of no other character.
 */
static JsonExtent
measure_json(const char *json, int len)
{
	JsonExtent	extent = {0};
	int			depth = 0;
	bool		in_string = false;
	bool		opened = false; /* an object or array has just begun */

	for (const char *c = json; c < json + len; c++)
	{
		if (in_string)
		{
			if (*c == '\\')
				c++;
			else
				in_string = *c != '"';
			continue;
		}
		if (*c == ' ' || *c == '\t' || *c == '\n' || *c == '\r')
			continue;
		if (*c == ',' || (opened && *c != '}' && *c != ']'))
			extent.values++;
		opened = *c == '{' || *c == '[';
		depth += opened ? 1 : *c == '}' || *c == ']' ? -1 : 0;
		extent.depth = Max(extent.depth, depth);
		in_string = *c == '"';
	}
	return extent;
}

/*
 * Whether the worker must reject the content of a message, because it exceeds
 * the limits for contexts by more than bemi.include may add.
 */
bool
bemi_context_is_too_large(const char *content, int len)
{
	JsonExtent	extent;

	if (len > max_context_size + BEMI_SERVER_FIELDS_SIZE)
		return true;
	extent = measure_json(content, len);
	return extent.values > max_context_keys + BEMI_SERVER_FIELDS_KEYS ||
		extent.depth > DEEPEST_CONTEXT;
}

int
bemi_max_context_size(void)
{
	return max_context_size;
}

/*
 * Whether a valid JSON text is within the limits for contexts.  Each value
 * takes two bytes or more.
 */
bool
bemi_context_fits(const char *json, int len)
{
	return len <= max_context_size &&
		(len / 2 <= max_context_keys ||
		 measure_json(json, len).values <= max_context_keys);
}

/*
 * Whether the text is within the limits for contexts.
 */
static bool
context_is_small_enough(const char *json, int len, BemiContextError *error)
{
	JsonExtent	extent;

	if (len > max_context_size)
	{
		error->detail =
			psprintf("The context is %d bytes long, \"bemi.max_context_size\" allows %d.",
					 len, max_context_size);
		error->hint =
			"Leave values out of the context, or raise \"bemi.max_context_size\".";
		return false;
	}
	extent = measure_json(json, len);
	if (extent.depth > DEEPEST_CONTEXT)
	{
		error->detail =
			psprintf("The context is nested too deeply, at most %d levels are allowed.",
					 DEEPEST_CONTEXT);
		error->hint = "Leave nested values out of the context.";
	}
	else if (extent.values > max_context_keys)
	{
		error->detail =
			psprintf("The context has %d keys and array elements, \"bemi.max_context_keys\" allows %d.",
					 extent.values, max_context_keys);
		error->hint =
			"Leave keys out of the context, or raise \"bemi.max_context_keys\".";
	}
	else
		return true;
	return false;
}

/*
 * Whether the text is a JSON object that jsonb can hold.  If not, *detail is
 * the errdetail, palloc'd.  The caller has checked how deeply it is nested,
 * because the parser recurses.
 */
static bool
is_valid_object(const char *json, int len, char **detail)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch;
	JsonSemAction actions = {.scalar = check_json_number};
	JsonLexContext *lexer;
	int			error;

	scratch = AllocSetContextCreate(caller, "bemi context check",
									ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(scratch);

	/* The lexer must unescape strings, or \u0000 would pass. */
	lexer = bemi_json_lexer(json, len);
	error = parse_json_without_error(lexer, &actions);

	MemoryContextSwitchTo(caller);
	if (error == JSON_SUCCESS && json[strspn(json, " \t\r\n")] != '{')
	{
		*detail = pstrdup("The context is not a JSON object.");
		error = JSON_EXPECTED_JSON;
	}
	else if (error == JSON_SEM_ACTION_FAILED)
		*detail = pstrdup("The context has a number that is out of range.");
	else if (error == UNTRANSLATABLE)
		*detail =
			psprintf("The context has a character that encoding \"%s\" does not have.",
					 GetDatabaseEncodingName());
	else if (error != JSON_SUCCESS)
		*detail = pstrdup(json_errdetail(error, lexer));
	MemoryContextDelete(scratch);

	return error == JSON_SUCCESS;
}

/*
 * Whether the text is a JSON object within the limits for contexts.  If not,
 * *error is the reason.
 */
bool
bemi_context_is_valid(const char *json, int len, BemiContextError *error)
{
	error->hint = NULL;
	return context_is_small_enough(json, len, error) &&
		is_valid_object(json, len, &error->detail);
}

/*
 * Whether the text is a JSON object that jsonb_in() reads without an error.
 */
bool
bemi_is_json_object(const char *json, int len)
{
	char	   *detail;

	return measure_json(json, len).depth <= DEEPEST_CONTEXT &&
		is_valid_object(json, len, &detail);
}

/*
 * Check hook of bemi.context: empty, or a JSON object.
 */
static bool
check_context(char **newval, void **extra, GucSource source)
{
	BemiContextError error;

	if (*newval == NULL || **newval == '\0')
		return true;

	/*
	 * The leader has checked it, perhaps with a larger limit than this worker
	 * has restored so far.
	 */
	if (InitializingParallelWorker)
		return true;
	if (bemi_context_is_valid(*newval, strlen(*newval), &error))
		return true;

	/* The server's own message would contain the whole value. */
	if (strlen(*newval) > LONGEST_SHOWN)
		GUC_check_errmsg("invalid value for parameter \"%s\"", "bemi.context");
	GUC_check_errdetail("%s", error.detail);
	GUC_check_errhint("%s",
					  error.hint ?
					  error.hint :
					  "Write a JSON object, such as SET bemi.context = '{\"userId\": 1}'.");
	pfree(error.detail);
	return false;
}

static void
assign_context(const char *newval, void *extra)
{
	setting_may_have_tags_key = newval && bemi_may_have_tags_key(newval);
}

/*
 * Sets a context that takes the place of all others, and returns the former
 * one, or NULL.  The caller sets that again at its end, after errors, too.
 */
const char *
bemi_override_context(const char *context)
{
	const char *former = override_context;

	override_context = context;
	return former;
}

/*
 * The context of the statement that is about to run, or NULL if it has none.
 * "statement" is its own text, or NULL if that is unknown.
 *
 * An override takes precedence, then the statement's own comment, then the
 * comment of the client's statement (which a function's statements belong to),
 * then the setting.  The result is valid until the current memory context ends
 * or the setting changes.
 */
const char *
bemi_context_of_statement(const BemiStatementText *statement)
{
	const char *context = override_context ?
		override_context :
		bemi_context_in_comment(statement);

	if (context != NULL)
		return context;
	if (context_setting == NULL || context_setting[0] == '\0')
		return NULL;
	return setting_may_have_tags_key ?
		bemi_context_without_tags(context_setting) : context_setting;
}

/*
 * A context, or NULL, with all that is added under reserved keys.  Returns the
 * same pointer if nothing is, otherwise a palloc'd text.
 */
const char *
bemi_context_with_additions(const char *context, const char *tags)
{
	if (tags != NULL)
		context = bemi_context_with_tags(context, tags);
	return bemi_context_with_server_fields(context);
}

/*
 * The argument of set_context() and merge_context(), which must be an object.
 */
static Jsonb *
context_argument(FunctionCallInfo fcinfo, const char *function)
{
	Jsonb	   *context = PG_GETARG_JSONB_P(0);

	if (!JB_ROOT_IS_OBJECT(context))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("context must be a JSON object"),
				 errhint("Write an object, such as SELECT bemi.%s('{\"userId\": 1}');",
						 function)));
	return context;
}

/*
 * Whether an expression is a call of the function that is being called.
 */
static bool
expression_is_this_call(const Node *expr, FunctionCallInfo fcinfo)
{
	return IsA(expr, FuncExpr) &&
		((const FuncExpr *) expr)->funcid == fcinfo->flinfo->fn_oid;
}

/*
 * Whether a query does nothing but call the function: SELECT f() or SELECT *
 * FROM f().
 */
static bool
query_is_only_this_call(const PlannedStmt *query, FunctionCallInfo fcinfo)
{
	const Plan *plan = query->planTree;
	const Node *column;

	if (query->commandType != CMD_SELECT || plan == NULL ||
		list_length(plan->targetlist) != 1)
		return false;
	column = (const Node *) linitial_node(TargetEntry, plan->targetlist)->expr;
	if (IsA(plan, FunctionScan) && IsA(column, Var))
	{
		const RangeTblFunction *function =
			linitial(((const FunctionScan *) plan)->functions);

		return expression_is_this_call(function->funcexpr, fcinfo);
	}
	return IsA(plan, Result) && outerPlan(plan) == NULL &&
		expression_is_this_call(column, fcinfo);
}

/*
 * Warns if the client's statement is the whole transaction, because a context
 * that ends with it then has no effect.  SET LOCAL warns of the same.
 */
static void
warn_of_no_transaction(FunctionCallInfo fcinfo, const char *function)
{
	if (IsTransactionBlock() || ActivePortal == NULL ||
		list_length(ActivePortal->stmts) != 1 ||
		!query_is_only_this_call(linitial_node(PlannedStmt,
											   ActivePortal->stmts),
								 fcinfo))
		return;
	ereport(WARNING,
			(errcode(ERRCODE_NO_ACTIVE_SQL_TRANSACTION),
			 errmsg("bemi.%s() has no effect outside of a transaction block",
					function),
			 errhint("Call it after BEGIN, or set the context of the session: SELECT bemi.%s(..., is_local => false);",
					 function)));
}

/*
 * SET LOCAL or SET bemi.context, by the second argument.
 */
static void
set_context(FunctionCallInfo fcinfo, const char *function, const char *value)
{
	bool		is_local = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);

	(void) set_config_option("bemi.context", value, PGC_USERSET, PGC_S_SESSION,
							 is_local ? GUC_ACTION_LOCAL : GUC_ACTION_SET,
							 true, 0, false);
	if (is_local)
		warn_of_no_transaction(fcinfo, function);
}

/*
 * bemi.set_context(context jsonb, is_local boolean): sets bemi.context to a
 * value that may be a parameter of the query.  NULL removes the context.
 */
Datum
bemi_set_context(PG_FUNCTION_ARGS)
{
	Jsonb	   *context;

	if (PG_ARGISNULL(0))
		set_context(fcinfo, "set_context", "");
	else
	{
		context = context_argument(fcinfo, "set_context");
		set_context(fcinfo, "set_context",
					JsonbToCString(NULL, &context->root, VARSIZE(context)));
	}
	PG_RETURN_VOID();
}

/*
 * bemi.merge_context(context jsonb, is_local boolean): adds keys to the
 * setting, and replaces keys that it already has.  NULL changes nothing.
 */
Datum
bemi_merge_context(PG_FUNCTION_ARGS)
{
	bool		is_set = context_setting != NULL && context_setting[0] != '\0';
	Datum		merged;
	Jsonb	   *context;

	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	context = context_argument(fcinfo, "merge_context");
	merged =
		DirectFunctionCall1(jsonb_in,
							CStringGetDatum(is_set ? context_setting : "{}"));
	merged =
		DirectFunctionCall2(jsonb_concat, merged, JsonbPGetDatum(context));
	context = DatumGetJsonbP(merged);
	set_context(fcinfo, "merge_context",
				JsonbToCString(NULL, &context->root, VARSIZE(context)));
	PG_RETURN_VOID();
}

/*
 * bemi.current_context(): the context that a row written by this statement
 * would get; an empty object if it has none.
 */
Datum
bemi_current_context(PG_FUNCTION_ARGS)
{
	const char *context =
		bemi_context_with_additions(bemi_context_of_statement(NULL),
									bemi_tags_of_statement(NULL));

	PG_RETURN_DATUM(
					DirectFunctionCall1(jsonb_in,
										CStringGetDatum(context ? context : "{}")));
}

void
bemi_context_init(void)
{
	/* First, because the check of bemi.context reads it. */
	DefineCustomIntVariable("bemi.max_context_size",
							"Sets the largest context that is accepted.",
							NULL,
							&max_context_size,
							1024 * 1024, 2, 64 * 1024 * 1024,
							PGC_SUSET, GUC_UNIT_BYTE,
							NULL, NULL, NULL);

	DefineCustomIntVariable("bemi.max_context_keys",
							"Sets how many keys and array elements a context may have, at all its levels.",
							NULL, &max_context_keys, 10000, 1,
							16 * 1024 * 1024, PGC_SUSET, 0, NULL, NULL, NULL);

	DefineCustomStringVariable("bemi.context",
							   "Sets the context that is kept with each change.",
							   "A JSON object, or empty for none.",
							   &context_setting, "", PGC_USERSET,
							   GUC_NOT_IN_SAMPLE, check_context,
							   assign_context, NULL);

	bemi_client_statement_init();
	bemi_tags_init();
	bemi_server_fields_init();
}
