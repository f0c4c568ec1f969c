/*-------------------------------------------------------------------------
 *
 * context.c
 *		The context: what the application says about its own statements.
 *
 * In flows text from the client, by one of three ways: the setting
 * bemi.context, the functions bemi.set_context() and friends (which set the
 * setting), and a trailing comment of the query.  Out flows a JSON object
 * whose text capture.c may put into the WAL as it is.
 *
 * The text is checked when it comes in, never later: the setting by its
 * check hook, the comment when it is read.  A context that has passed is a
 * JSON object, no longer than bemi.max_context_size, of no more values than
 * bemi.max_context_keys, without \u0000 (which jsonb cannot hold).  The size is
 * measured and the values are counted before anything else is done with the text.
 *
 * The setting's memory belongs to guc.c and may be freed by the next SET, so
 * callers copy what must live longer.  A broken comment must never break the
 * query that carries it: it is reported as a warning and left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/parallel.h"
#include "fmgr.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "bemi.h"

PG_FUNCTION_INFO_V1(bemi_set_context);
PG_FUNCTION_INFO_V1(bemi_merge_context);
PG_FUNCTION_INFO_V1(bemi_current_context);

#define COMMENT_OPEN	"/*Bemi"
#define COMMENT_CLOSE	"Bemi*/"

/* A refused value that is longer is not shown in the error. */
#define LONGEST_SHOWN	256

/* What parse_without_error() adds to the parser's own results. */
#define TOO_DEEP		(-1)
#define UNTRANSLATABLE	(-2)
#define BAD_NUMBER		(-3)

static char *context_setting = NULL;
static int	max_context_size = 1024 * 1024;
static int	max_context_keys = 10000;
static bool read_comments = true;

/*
 * JSON takes any number, jsonb only those that numeric holds.
 */
static bemi_json_action_result
check_number(void *state, char *token, JsonTokenType type)
{
	if (type == JSON_TOKEN_NUMBER)
		(void) DirectFunctionCall3(numeric_in, CStringGetDatum(token),
								   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return BEMI_JSON_ACTION_DONE;
}

/*
 * Parses, and gives a JsonParseErrorType, or one of our own.
 *
 * Few errors are thrown here: when the stack has no more room, for a number that
 * is out of range, and, up to PostgreSQL 15, for an escaped character that the
 * encoding does not have.  Nothing holds a lock, pin or other resource, only
 * memory of a context that the caller deletes, so that it is safe to go on
 * without a subtransaction.
 */
static int
parse_without_error(JsonLexContext *lexer)
{
	MemoryContext caller = CurrentMemoryContext;
	JsonSemAction actions = {.scalar = check_number};
	volatile int result = JSON_SUCCESS;

	PG_TRY();
	{
		result = pg_parse_json(lexer, &actions);
	}
	PG_CATCH();
	{
		switch (geterrcode())
		{
			case ERRCODE_STATEMENT_TOO_COMPLEX:
				result = TOO_DEEP;
				break;
			case ERRCODE_UNTRANSLATABLE_CHARACTER:
			case ERRCODE_FEATURE_NOT_SUPPORTED:
				result = UNTRANSLATABLE;
				break;
			case ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE:
			case ERRCODE_INVALID_TEXT_REPRESENTATION:
				result = BAD_NUMBER;
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

/*
 * Counts the values in a JSON text: members of objects and elements of arrays, at any
 * depth.  One look at each byte, no memory.  Where the text is no valid JSON, the
 * count means nothing.  Every encoding of a server has these marks as in ASCII, and
 * their bytes in no other character.
 */
static int
count_values(const char *json, int len)
{
	int			count = 0;
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
			count++;
		opened = *c == '{' || *c == '[';
		in_string = *c == '"';
	}
	return count;
}

/*
 * Tells whether the worker must not take the content of a message, because it exceeds
 * the limits for contexts by more than what bemi.include adds.
 */
bool
bemi_context_is_too_large(const char *content, int len)
{
	return len > max_context_size + BEMI_FACTS_SIZE ||
		count_values(content, len) > max_context_keys + BEMI_FACTS_KEYS;
}

/*
 * Tells whether the text is within the limits for contexts.  If not, *detail is a
 * sentence that says why, in the current memory context.
 */
static bool
context_is_small_enough(const char *json, int len, char **detail)
{
	int			values;

	if (len > max_context_size)
	{
		*detail = psprintf("The context is %d bytes long, \"bemi.max_context_size\" allows %d.",
						   len, max_context_size);
		return false;
	}
	values = count_values(json, len);
	if (values > max_context_keys)
	{
		*detail = psprintf("The context has %d keys and array elements, \"bemi.max_context_keys\" allows %d.",
						   values, max_context_keys);
		return false;
	}
	return true;
}

/*
 * Tells whether the text is a JSON object that jsonb can hold.  If not,
 * *detail is a sentence that says why, in the current memory context.
 */
static bool
context_is_valid(const char *json, int len, char **detail)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch;
	JsonLexContext *lexer;
	int			error;

	if (!context_is_small_enough(json, len, detail))
		return false;

	scratch = AllocSetContextCreate(caller, "bemi context check",
									ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(scratch);

	/* The lexer unescapes strings, or it would let \u0000 pass. */
	lexer = bemi_json_lexer(json, len);
	error = parse_without_error(lexer);

	MemoryContextSwitchTo(caller);
	if (error == JSON_SUCCESS && json[strspn(json, " \t\r\n")] != '{')
	{
		*detail = pstrdup("The context is not a JSON object.");
		error = JSON_EXPECTED_JSON;
	}
	else if (error == TOO_DEEP)
		*detail = pstrdup("The context is nested too deeply.");
	else if (error == BAD_NUMBER)
		*detail = pstrdup("The context has a number that is out of range.");
	else if (error == UNTRANSLATABLE)
		*detail = psprintf("The context has a character that encoding \"%s\" does not have.",
						   GetDatabaseEncodingName());
	else if (error != JSON_SUCCESS)
		*detail = pstrdup(json_errdetail(error, lexer));
	MemoryContextDelete(scratch);

	return error == JSON_SUCCESS;
}

/*
 * Check hook of bemi.context: empty, or a JSON object.
 */
static bool
check_context(char **newval, void **extra, GucSource source)
{
	char	   *detail;

	if (*newval == NULL || **newval == '\0')
		return true;
	/* The leader has checked it, maybe by a larger limit that is to come yet. */
	if (InitializingParallelWorker)
		return true;
	if (context_is_valid(*newval, strlen(*newval), &detail))
		return true;

	/* The server's own message holds the value, which may be very long. */
	if (strlen(*newval) > LONGEST_SHOWN)
		GUC_check_errmsg("invalid value for parameter \"%s\"", "bemi.context");
	GUC_check_errdetail("%s", detail);
	GUC_check_errhint("Write a JSON object, such as SET bemi.context = '{\"userId\": 1}'.");
	pfree(detail);
	return false;
}

/*
 * A broken comment must not break its query.
 */
static void
warn_of_comment(const char *detail)
{
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("context in the query's comment is not valid and was left out"),
			 errdetail("%s", detail)));
}

/*
 * Finds "/ *Bemi ... Bemi* /" as the very last thing of the query text, white
 * space and semicolons after it aside, and gives the text in between.
 *
 * A query that parsed and ends in "* /" ends in a comment, so no string
 * literal can be mistaken for one.  Comments nest in SQL: the nearest comment
 * mark before the end must be ours, or the text was cut out of the middle of
 * another comment.
 */
static bool
find_comment(const char *query, const char **text, int *len)
{
	const int	open_len = strlen(COMMENT_OPEN);
	const int	close_len = strlen(COMMENT_CLOSE);
	const char *end = query + strlen(query);
	const char *mark;

	while (end > query && strchr(" \t\r\n\f\v;", end[-1]) != NULL)
		end--;
	end -= close_len;
	if (end - query < open_len || memcmp(end, COMMENT_CLOSE, close_len) != 0)
		return false;

	for (mark = end - 2; mark > query; mark--)
		if ((mark[0] == '/' && mark[1] == '*') ||
			(mark[0] == '*' && mark[1] == '/'))
			break;
	if (end - mark >= open_len && memcmp(mark, COMMENT_OPEN, open_len) == 0)
	{
		*text = mark + open_len;
		*len = end - *text;
		return true;
	}

	if (strstr(query, COMMENT_OPEN) != NULL)
		warn_of_comment("There is a comment mark within the comment.");
	return false;
}

/*
 * Gives the context in the query's trailing comment, palloc'd, or NULL.
 */
static char *
context_in_comment(const char *query)
{
	/*
	 * The last one that was valid: a function's statements all have that of the query
	 * that called it, and to check takes longer than all else here.
	 */
	static char checked[1024];
	static int	checked_len = -1;

	const char *text;
	int			len;
	char	   *context;
	char	   *detail;

	if (!read_comments || query == NULL || !find_comment(query, &text, &len))
		return NULL;

	while (len > 0 && strchr(" \t\r\n", text[0]) != NULL)
		text++, len--;
	while (len > 0 && strchr(" \t\r\n", text[len - 1]) != NULL)
		len--;

	context = pnstrdup(text, len);
	if (len == checked_len && memcmp(context, checked, len) == 0 &&
		context_is_small_enough(context, len, &detail))
		return context;
	if (!context_is_valid(context, len, &detail))
	{
		warn_of_comment(detail);
		return NULL;
	}
	if (len <= sizeof(checked))
	{
		memcpy(checked, context, len);
		checked_len = len;
	}
	return context;
}

/*
 * The context of the statement that is about to run, or NULL if there is
 * none.  "query" is the statement's own text, NULL where it is not known.
 *
 * The nearest word wins: the statement's own comment, then the comment of
 * what the client sent (a function's statements belong to the client's
 * statement), then the setting.  The result lives as long as the current
 * memory context or until the setting changes, whichever comes first.
 */
const char *
bemi_context_of_statement(const char *query)
{
	char	   *context = NULL;

	if (query != NULL && query != debug_query_string)
		context = context_in_comment(query);
	if (context == NULL)
		context = context_in_comment(debug_query_string);
	if (context != NULL)
		return context;

	if (context_setting == NULL || context_setting[0] == '\0')
		return NULL;
	return context_setting;
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
 * SET LOCAL or SET bemi.context, by the second argument.
 */
static void
set_context(FunctionCallInfo fcinfo, const char *value)
{
	bool		is_local = PG_ARGISNULL(1) || PG_GETARG_BOOL(1);

	(void) set_config_option("bemi.context", value, PGC_USERSET, PGC_S_SESSION,
							 is_local ? GUC_ACTION_LOCAL : GUC_ACTION_SET,
							 true, 0, false);
}

/*
 * bemi.set_context(context jsonb, is_local boolean): SET bemi.context, with
 * the value as a parameter.  NULL takes the context away.
 */
Datum
bemi_set_context(PG_FUNCTION_ARGS)
{
	Jsonb	   *context;

	if (PG_ARGISNULL(0))
		set_context(fcinfo, "");
	else
	{
		context = context_argument(fcinfo, "set_context");
		set_context(fcinfo, JsonbToCString(NULL, &context->root, VARSIZE(context)));
	}
	PG_RETURN_VOID();
}

/*
 * bemi.merge_context(context jsonb, is_local boolean): adds keys to the
 * setting, and replaces those that it has.  NULL changes nothing.
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
	merged = DirectFunctionCall1(jsonb_in,
								 CStringGetDatum(is_set ? context_setting : "{}"));
	merged = DirectFunctionCall2(jsonb_concat, merged, JsonbPGetDatum(context));
	context = DatumGetJsonbP(merged);
	set_context(fcinfo, JsonbToCString(NULL, &context->root, VARSIZE(context)));
	PG_RETURN_VOID();
}

/*
 * bemi.current_context(): the context that a row written by this very
 * statement would get; an empty object if there is none.
 */
Datum
bemi_current_context(PG_FUNCTION_ARGS)
{
	const char *context = bemi_context_with_facts(bemi_context_of_statement(NULL));

	PG_RETURN_DATUM(DirectFunctionCall1(jsonb_in,
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
							NULL,
							&max_context_keys,
							10000, 1, 16 * 1024 * 1024,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("bemi.read_comments",
							 "Reads the context from a query's trailing comment.",
							 "The comment looks like /*Bemi {\"userId\": 1} Bemi*/.",
							 &read_comments,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("bemi.context",
							   "Sets the context that is kept with each change.",
							   "A JSON object, or empty for none.",
							   &context_setting,
							   "",
							   PGC_USERSET, GUC_NOT_IN_SAMPLE,
							   check_context, NULL, NULL);

	bemi_context_facts_init();
}
