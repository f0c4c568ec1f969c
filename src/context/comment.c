/*-------------------------------------------------------------------------
 *
 * comment.c
 *		The context in the comments behind a statement.
 *
 * Input: the text that a statement was parsed from, and the statement's place
 * in it.  Output: the context of the last Bemi comment among the comments that
 * follow the statement's last token.  White space, semicolons and the comments
 * of other tools may precede and follow it.
 *
 * The server's own scanner finds the end of the last token.  So no string
 * literal, quoted name or nested comment can pass for a comment of ours.  The
 * scanner runs only if the opening mark of a Bemi comment is in the
 * statement's text.  A text of many statements is read piece by piece, each
 * with its statement.
 *
 * The client's statement is searched once, however many statements are nested
 * in it.  The result lives in the server's MessageContext, as long as the
 * client's message.  Deferred triggers fire at the end of the transaction,
 * when the text may be gone.  For them a copy of the last text with a comment
 * is kept in the transaction's memory.  A rolled-back subtransaction removes
 * its own copy.
 *
 * What must never happen: an error.  A broken comment must not break its
 * query.  It is reported as a warning, once per message of the client, and
 * ignored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/keywords.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "parser/scanner.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/memutils.h"

#include "context/context_internal.h"

#define COMMENT_OPEN		"/*Bemi"
#define COMMENT_CLOSE		"Bemi*/"
#define COMMENT_OPEN_LEN	((int) strlen(COMMENT_OPEN))
#define COMMENT_CLOSE_LEN	((int) strlen(COMMENT_CLOSE))

/* The server's scanner has the same set. */
#define WHITE_SPACE			" \t\n\r\f\v"

/* A comment of ours, marks included. */
typedef struct Comment
{
	const char *start;			/* NULL: there is none */
	int			len;
	bool		nested;			/* it has comment marks within */
} Comment;

/* The client's message that is being executed; lives in MessageContext. */
typedef struct ClientMessage
{
	MemoryContextCallback on_end;
	BemiStatementText statement;	/* the one that runs now */
	uint64		serial;			/* of that statement */
	bool		conforming_strings; /* when its text was parsed */
	bool		sets_constraints;
	bool		searched;		/* for the opening mark */
	bool		has_mark;		/* the text has it */
	bool		looked;
	const char *context;		/* of its comment; NULL: none */
	bool		warned;
} ClientMessage;

/* A copy of a statement's text with a comment, for deferred triggers. */
typedef struct KeptText
{
	struct KeptText *outer;		/* of an outer subtransaction, or NULL */
	int			nest_level;		/* of its subtransaction */
	uint64		serial;
	bool		conforming_strings;
	bool		looked;
	const char *context;
	char		text[FLEXIBLE_ARRAY_MEMBER];
} KeptText;

static bool read_comments = true;

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;

static ClientMessage *message = NULL;

/* Counts the client's statements. */
static uint64 statement_serial = 0;

/* The last such copy in this transaction; NULL: none. */
static KeptText *kept = NULL;

/*
 * Warns of a broken comment, once per message of the client.
 */
static void
warn_of_comment(const BemiContextError *error)
{
	if (message != NULL && message->warned)
		return;
	if (message != NULL)
		message->warned = true;
	ereport(WARNING,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("context in the query's comment is not valid and was left out"),
			 errdetail("%s", error->detail),
			 errhint("%s",
					 error->hint ?
					 error->hint :
					 "Write a JSON object, such as /*Bemi {\"userId\": 1} Bemi*/.")));
}

/*
 * Whether the opening mark of a Bemi comment is anywhere in the text.
 */
static bool
has_comment_mark(const char *text, int len)
{
	const char *end = text + len;

	for (const char *p = text; (p = memchr(p, '/', end - p)) != NULL; p++)
		if (end - p >= COMMENT_OPEN_LEN &&
			memcmp(p, COMMENT_OPEN, COMMENT_OPEN_LEN) == 0)
			return true;
	return false;
}

/*
 * Scans a statement and returns the end of its last token.  The scanner puts a
 * zero behind each token, so strlen() measures it.  It allocates much, so the
 * caller gives it a memory context of its own.
 *
 * conforming_strings is the setting under which the text was parsed.  Under
 * the other one, a string would end elsewhere, and its content could pass for
 * a comment.
 */
static int
scan_to_last_token(const char *text, bool conforming_strings)
{
	core_yy_extra_type extra;
	core_yyscan_t scanner =
		scanner_init(text, &extra, &ScanKeywords, ScanKeywordTokens);
	core_YYSTYPE value;
	YYLTYPE		location;
	int			token;
	int			end = 0;

	extra.standard_conforming_strings = conforming_strings;
	extra.escape_string_warning = false;
	while ((token = core_yylex(&value, &location, scanner)) != 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (token != ';')
			end = location + strlen(extra.scanbuf + location);
	}
	scanner_finish(scanner);
	return end;
}

/*
 * Returns the end of the statement's last token, -1 if it cannot be scanned.
 * Scanning can fail for a prepared statement, because
 * standard_conforming_strings may have been different when it was parsed.  The
 * scanner holds only memory, so no subtransaction is needed to catch its
 * errors.
 */
static int
end_of_last_token(const char *text, int len, bool conforming_strings)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext scratch =
		AllocSetContextCreate(caller, "bemi statement scan",
							  ALLOCSET_DEFAULT_SIZES);
	volatile int end = -1;

	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		end = scan_to_last_token(pnstrdup(text, len), conforming_strings);
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		if (category != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
			category != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return end;
}

/*
 * Returns the end of the comment that starts here.  Comments nest in SQL.  A
 * comment without an end reaches to the end of the text; the parser would have
 * refused it.
 */
static const char *
end_of_comment(const char *start, bool *nested)
{
	const char *p = start + 2;
	int			depth = 1;

	*nested = false;
	while (*p != '\0' && depth > 0)
	{
		if (p[0] == '/' && p[1] == '*')
		{
			*nested = true;
			depth++;
			p += 2;
		}
		else if (p[0] == '*' && p[1] == '/')
		{
			depth--;
			p += 2;
		}
		else
			p++;
	}
	return p;
}

static bool
comment_is_ours(const char *start, int len)
{
	return len >= COMMENT_OPEN_LEN + COMMENT_CLOSE_LEN &&
		memcmp(start, COMMENT_OPEN, COMMENT_OPEN_LEN) == 0 &&
		memcmp(start + len - COMMENT_CLOSE_LEN, COMMENT_CLOSE,
			   COMMENT_CLOSE_LEN) == 0;
}

/*
 * Finds the last Bemi comment in the run of comments, white space and
 * semicolons that begins here, between two tokens.  Returns the end of the
 * run.
 */
static const char *
find_comment_in_run(const char *p, Comment *found)
{
	found->start = NULL;
	for (;;)
	{
		p += strspn(p, WHITE_SPACE ";");
		if (p[0] == '-' && p[1] == '-')
			p += strcspn(p, "\n\r");
		else if (p[0] == '/' && p[1] == '*')
		{
			bool		nested;
			const char *end = end_of_comment(p, &nested);

			if (comment_is_ours(p, end - p))
			{
				found->start = p;
				found->len = end - p;
				found->nested = nested;
			}
			p = end;
		}
		else
			return p;
	}
}

/*
 * Length of a statement's own part of the text.
 */
static int
statement_length(const BemiStatementText *statement)
{
	return statement->len > 0 ? statement->len :
		strlen(statement->text + statement->location);
}

/*
 * Finds the Bemi comment of a statement.  Returns false if it has none.  A
 * semicolon ends the statement's own part of the text, but not the run of
 * comments behind it.
 */
static bool
find_comment(const BemiStatementText *statement, bool conforming_strings,
			 Comment *found)
{
	const char *start = statement->text + statement->location;
	int			len = statement_length(statement);
	int			end = len;

	if (has_comment_mark(start, len))
		end = end_of_last_token(start, len, conforming_strings);
	if (end < 0)
		return false;
	(void) find_comment_in_run(start + end, found);
	return found->start != NULL;
}

/*
 * Returns the context in a statement's comment, palloc'd, or NULL if it has
 * none.
 */
static char *
context_in_comment(const BemiStatementText *statement, bool conforming_strings)
{
	Comment		comment;
	const char *text;
	int			len;
	char	   *context;
	BemiContextError error;

	if (!find_comment(statement, conforming_strings, &comment))
		return NULL;
	if (comment.nested)
	{
		error.detail = pstrdup("The comment contains another comment mark.");
		error.hint = "In strings of the context, write \\u002f for the slash.";
		warn_of_comment(&error);
		return NULL;
	}

	text = comment.start + COMMENT_OPEN_LEN;
	len = comment.len - COMMENT_OPEN_LEN - COMMENT_CLOSE_LEN;
	while (len > 0 && strchr(WHITE_SPACE, text[0]) != NULL)
		text++, len--;
	while (len > 0 && strchr(WHITE_SPACE, text[len - 1]) != NULL)
		len--;
	context = pnstrdup(text, len);
	if (bemi_context_is_valid(context, len, &error))
		return context;
	warn_of_comment(&error);
	return NULL;
}

/*
 * Reset callback of MessageContext: the client's message has been executed.
 */
static void
forget_message(void *arg)
{
	message = NULL;
}

/*
 * Records the client's statement that is about to run.
 */
static void
set_client_statement(BemiStatementText statement)
{
	if (message == NULL)
	{
		message =
			MemoryContextAllocZero(MessageContext, sizeof(ClientMessage));
		message->conforming_strings = standard_conforming_strings;
		message->on_end.func = forget_message;
		MemoryContextRegisterResetCallback(MessageContext, &message->on_end);
	}
	message->statement = statement;
	message->serial = ++statement_serial;
	message->sets_constraints = false;
	message->searched = message->looked = false;
	message->context = NULL;
}

/*
 * Makes "message" describe the client's message.  Returns false if there is no
 * client, as in another extension's background worker.  In the extended
 * protocol, a message has one statement, which may have been analyzed much
 * earlier.
 */
static bool
has_client_message(void)
{
	BemiStatementText whole = {.text = debug_query_string};

	if (debug_query_string == NULL || MessageContext == NULL)
		return false;
	if (message == NULL || message->statement.text != debug_query_string)
		set_client_statement(whole);
	return true;
}

/*
 * A statement's place in the text that it was parsed from.  If the server does
 * not know the place, as for statements of rules and of stored functions, it
 * is the whole text.  The length is ignored then, because it may refer to
 * another text.
 */
static BemiStatementText
statement_in_text(const char *text, int location, int len)
{
	BemiStatementText place = {.text = text};

	if (location >= 0)
	{
		place.location = location;
		place.len = Max(len, 0);
	}
	return place;
}

BemiStatementText
bemi_statement_text(const char *text, const PlannedStmt *statement)
{
	return statement_in_text(text, statement->stmt_location,
							 statement->stmt_len);
}

/*
 * Whether an analyzed statement is part of the client's running statement, as
 * the statement that EXPLAIN explains is.  Up to PostgreSQL 17, such a part
 * has no place of its own: location and length are those of a text with only
 * one statement.
 */
static bool
is_part_of_message(const Query *query)
{
	return message != NULL && message->statement.text == debug_query_string &&
		query->stmt_location <= 0 && query->stmt_len <= 0;
}

/*
 * post_parse_analyze hook.  A text of the simple protocol may have many
 * statements, and each is analyzed just before it runs.
 */
static void
record_client_statement(ParseState *pstate, Query *query, JumbleState *jumble)
{
	if (prev_post_parse_analyze)
		prev_post_parse_analyze(pstate, query, jumble);
	if (debug_query_string != NULL &&
		pstate->p_sourcetext == debug_query_string && MessageContext != NULL &&
		!is_part_of_message(query))
		set_client_statement(statement_in_text(debug_query_string,
											   query->stmt_location,
											   query->stmt_len));
}

/*
 * Whether the client's statement may have a Bemi comment.
 */
static bool
message_has_comment_mark(void)
{
	if (!message->searched)
	{
		const BemiStatementText *statement = &message->statement;
		int			len = statement_length(statement);
		Comment		comment;

		message->searched = true;
		message->has_mark =
			has_comment_mark(statement->text + statement->location, len);
		if (!message->has_mark && statement->len > 0)
		{
			(void) find_comment_in_run(statement->text + statement->location +
									   len,
									   &comment);
			message->has_mark = (comment.start != NULL);
		}
	}
	return message->has_mark;
}

/*
 * Keeps the text of the client's statement, with the comments behind it.
 */
static void
keep_client_text(void)
{
	const char *start = message->statement.text + message->statement.location;
	int			nest_level = GetCurrentTransactionNestLevel();
	Comment		comment;
	int			len =
		find_comment_in_run(start + statement_length(&message->statement),
							&comment) -
		start;
	KeptText   *text =
		MemoryContextAllocZero(TopTransactionContext,
							   offsetof(KeptText, text) + len + 1);

	memcpy(text->text, start, len);
	text->nest_level = nest_level;
	text->serial = message->serial;
	text->conforming_strings = message->conforming_strings;
	text->outer = kept;
	if (kept != NULL && kept->nest_level == nest_level)
	{
		text->outer = kept->outer;
		pfree(kept);
	}
	kept = text;
}

/*
 * Whether to keep the text of the client's statement.  The mark may be part of
 * a string.  The slow check for that is made only if the text would replace
 * another one.
 */
static bool
text_is_worth_keeping(void)
{
	Comment		comment;

	if (!has_client_message() || !message_has_comment_mark() ||
		(kept != NULL && kept->serial == message->serial))
		return false;
	if (kept != NULL)
		message->has_mark =
			find_comment(&message->statement, message->conforming_strings,
						 &comment);
	return message->has_mark;
}

/*
 * Called when a statement begins, the client's or one that is nested in it.
 */
void
bemi_statement_begins(void)
{
	if (read_comments && IsTransactionState() && text_is_worth_keeping())
		keep_client_text();
}

/*
 * Called when a utility command begins.  SET CONSTRAINTS fires triggers that
 * earlier statements have deferred.
 */
void
bemi_utility_begins(const Node *command)
{
	bemi_statement_begins();
	if (IsA(command, ConstraintsSetStmt) && has_client_message())
		message->sets_constraints = true;
}

/*
 * Context in the comment of the transaction's last statement with a comment.
 */
static const char *
context_of_transaction(void)
{
	if (kept == NULL)
		return NULL;
	if (!kept->looked)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);
		BemiStatementText text = {.text = kept->text};

		kept->looked = true;
		kept->context = context_in_comment(&text, kept->conforming_strings);
		MemoryContextSwitchTo(caller);
	}
	return kept->context;
}

/*
 * Context in the comment of the client's statement.
 */
static const char *
context_of_message(void)
{
	BemiStatementText whole = {.text = debug_query_string};

	if (!has_client_message())
		return debug_query_string ?
			context_in_comment(&whole, standard_conforming_strings) : NULL;
	if (!message->looked)
	{
		MemoryContext caller = MemoryContextSwitchTo(MessageContext);

		message->looked = true;
		message->context = context_in_comment(&message->statement,
											  message->conforming_strings);
		MemoryContextSwitchTo(caller);
	}
	return message->context;
}

/*
 * Context in the comment of the client's statement, or NULL.  Deferred
 * triggers get that of the transaction's last statement with a comment: they
 * run at the end of the transaction, when no portal is active, or in SET
 * CONSTRAINTS.
 */
static const char *
context_of_client(void)
{
	const char *context = context_of_message();

	if (context == NULL && (ActivePortal == NULL ||
							(message != NULL && message->sets_constraints)))
		context = context_of_transaction();
	return context;
}

/*
 * Whether a statement is the client's, or part of it.  The texts are compared,
 * because the server copies the text in the extended protocol.  A statement at
 * another place of the text was prepared there, and the client's EXECUTE runs
 * it.
 */
static bool
is_client_statement(const BemiStatementText *statement)
{
	if (debug_query_string == NULL ||
		(statement->text != debug_query_string &&
		 strcmp(statement->text, debug_query_string) != 0))
		return false;
	return statement->len == 0 || !has_client_message() ||
		statement->location == message->statement.location;
}

/*
 * Returns the context in a statement's own comment, otherwise the context in
 * the comment of the client's statement, in which it is nested; NULL if
 * neither has one.  The result lives as long as the current memory context or
 * the client's message, whichever ends first.
 */
const char *
bemi_context_in_comment(const BemiStatementText *statement)
{
	const char *context = NULL;

	if (!read_comments)
		return NULL;
	if (statement != NULL && statement->text != NULL &&
		!is_client_statement(statement))
		context = context_in_comment(statement, standard_conforming_strings);
	return context ? context : context_of_client();
}

/*
 * The kept text is in the transaction's memory, which is freed now.
 */
static void
comment_at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		kept = NULL;
}

/*
 * A rolled-back subtransaction removes its kept text; a released one passes it
 * on to its parent.
 */
static void
comment_at_subtransaction_end(SubXactEvent event, SubTransactionId mySubid,
							  SubTransactionId parentSubid, void *arg)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	KeptText   *gone = NULL;

	if (kept == NULL || kept->nest_level < nest_level)
		return;
	Assert(kept->nest_level == nest_level);
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		gone = kept;
		kept = kept->outer;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		kept->nest_level--;
		gone = kept->outer;
		if (gone != NULL && gone->nest_level == kept->nest_level)
			kept->outer = gone->outer;
		else
			gone = NULL;
	}
	if (gone != NULL)
		pfree(gone);
}

void
bemi_context_comment_init(void)
{
	DefineCustomBoolVariable("bemi.read_comments",
							 "Reads the context from the comments behind a statement.",
							 "The comment looks like /*Bemi {\"userId\": 1} Bemi*/.",
							 &read_comments, true, PGC_USERSET, 0, NULL, NULL,
							 NULL);

	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = record_client_statement;
	RegisterXactCallback(comment_at_transaction_end, NULL);
	RegisterSubXactCallback(comment_at_subtransaction_end, NULL);
}
