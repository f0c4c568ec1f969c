/*-------------------------------------------------------------------------
 *
 * comment.c
 *		The comments around a statement, and the context in those behind it.
 *
 * Input: the text that a statement was parsed from, and the statement's place
 * in it.  Output: the comments in front of its first token and behind its last
 * one, for tags.c, and the context of the last Bemi comment among those
 * behind.  White space, semicolons and the comments of other tools may precede
 * and follow it.
 *
 * The server's own scanner finds the end of the last token.  So no string
 * literal, quoted name or nested comment can pass for a comment of ours.  The
 * scanner runs only if the opening mark of a Bemi comment is in the
 * statement's text, or if the text ends like one with tags.  A text of many
 * statements is read piece by piece, each with its statement.
 *
 * client_statement.c decides whose text is searched, and keeps the results.
 *
 * What must never happen: an error.  A broken comment must not break its
 * query.  It is reported as a warning, once per message of the client, and
 * ignored.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/keywords.h"
#include "miscadmin.h"
#include "parser/parser.h"
#include "parser/scanner.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "context/context_internal.h"

#define COMMENT_OPEN		"/*Bemi"
#define COMMENT_CLOSE		"Bemi*/"
#define COMMENT_OPEN_LEN	((int) strlen(COMMENT_OPEN))
#define COMMENT_CLOSE_LEN	((int) strlen(COMMENT_CLOSE))

/*
 * Warns of a broken comment, once per message of the client.
 */
static void
warn_of_comment(const BemiContextError *error)
{
	if (!bemi_first_warning_of_message())
		return;
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
	int			client_level = client_min_messages;
	int			log_level = log_min_messages;

	/* The parser has already reported that names are truncated. */
	client_min_messages = log_min_messages = ERROR;
	MemoryContextSwitchTo(scratch);
	PG_TRY();
	{
		end = scan_to_last_token(pnstrdup(text, len), conforming_strings);
	}
	PG_CATCH();
	{
		int			category = ERRCODE_TO_CATEGORY(geterrcode());

		client_min_messages = client_level;
		log_min_messages = log_level;
		if (category != ERRCODE_FEATURE_NOT_SUPPORTED &&
			category != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION &&
			category != ERRCODE_DATA_EXCEPTION)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
	}
	PG_END_TRY();
	client_min_messages = client_level;
	log_min_messages = log_level;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(scratch);
	return end;
}

/*
 * Length of a statement's own part of the text.
 */
int
bemi_statement_length(const BemiStatementText *statement)
{
	return statement->len > 0 ? statement->len :
		strlen(statement->text + statement->location);
}

/*
 * Behind the last token of a statement, NULL if it cannot be scanned.  It is
 * scanned at most once.
 */
const char *
bemi_behind_last_token(BemiSourceText *source)
{
	const BemiStatementText *statement = &source->statement;
	const char *start = statement->text + statement->location;

	if (!source->scanned)
		source->tokens_end =
			end_of_last_token(start, bemi_statement_length(statement),
							  source->conforming_strings);
	source->scanned = true;
	return source->tokens_end < 0 ? NULL : start + source->tokens_end;
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
 * Finds the next comment between two tokens.  Comments that begin with "--",
 * white space and semicolons are skipped.  *p goes behind the comment, or to
 * the next token if there is none.
 */
bool
bemi_next_comment(const char **p, BemiComment *comment)
{
	for (;;)
	{
		*p += strspn(*p, BEMI_WHITE_SPACE ";");
		if ((*p)[0] == '-' && (*p)[1] == '-')
			*p += strcspn(*p, "\n\r");
		else if ((*p)[0] == '/' && (*p)[1] == '*')
		{
			comment->start = *p;
			*p = end_of_comment(*p, &comment->nested);
			comment->len = *p - comment->start;
			return true;
		}
		else
			return false;
	}
}

/*
 * Behind the comments, white space and semicolons that begin here, between two
 * tokens.
 */
const char *
bemi_end_of_comments(const char *p)
{
	BemiComment comment;

	while (bemi_next_comment(&p, &comment))
		;
	return p;
}

/*
 * Finds the last Bemi comment in the run of comments that begins here, between
 * two tokens.
 */
static bool
find_comment_in_run(const char *p, BemiComment *found)
{
	BemiComment comment;

	found->start = NULL;
	while (bemi_next_comment(&p, &comment))
		if (comment_is_ours(comment.start, comment.len))
			*found = comment;
	return found->start != NULL;
}

/*
 * Whether a statement may have a Bemi comment.
 */
bool
bemi_may_have_context_comment(const BemiStatementText *statement)
{
	const char *start = statement->text + statement->location;
	int			len = bemi_statement_length(statement);
	BemiComment comment;

	return has_comment_mark(start, len) ||
		(statement->len > 0 && find_comment_in_run(start + len, &comment));
}

/*
 * Finds the Bemi comment of a statement.  Returns false if it has none.  A
 * semicolon ends the statement's own part of the text, but not the run of
 * comments behind it.
 */
static bool
find_comment(BemiSourceText *source, BemiComment *found)
{
	const BemiStatementText *statement = &source->statement;
	const char *start = statement->text + statement->location;
	int			len = bemi_statement_length(statement);
	const char *end = start + len;

	if (has_comment_mark(start, len))
		end = bemi_behind_last_token(source);
	return end != NULL && find_comment_in_run(end, found);
}

bool
bemi_has_context_comment(BemiSourceText *source)
{
	BemiComment comment;

	return find_comment(source, &comment);
}

/*
 * Returns the context in a statement's comment, palloc'd, or NULL if it has
 * none.
 */
const char *
bemi_read_context_comment(BemiSourceText *source)
{
	BemiComment comment;
	const char *text;
	int			len;
	char	   *context;
	BemiContextError error;

	if (!find_comment(source, &comment))
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
	while (len > 0 && strchr(BEMI_WHITE_SPACE, text[0]) != NULL)
		text++, len--;
	while (len > 0 && strchr(BEMI_WHITE_SPACE, text[len - 1]) != NULL)
		len--;
	context = pnstrdup(text, len);
	if (bemi_context_is_valid(context, len, &error))
		return bemi_context_without_tags(context);
	warn_of_comment(&error);
	return NULL;
}

/*
 * A statement's place in the text that it was parsed from.  If the server does
 * not know the place, as for statements of rules and of stored functions, it
 * is the whole text.  The length is ignored then, because it may refer to
 * another text.
 */
BemiStatementText
bemi_statement_in_text(const char *text, int location, int len)
{
	BemiStatementText place = {.text = text};

	if (location >= 0)
	{
		place.location = location;
		place.len = Max(len, 0);
		place.is_placed = true;
	}
	return place;
}

BemiStatementText
bemi_statement_text(const char *text, const PlannedStmt *statement)
{
	return bemi_statement_in_text(text, statement->stmt_location,
								  statement->stmt_len);
}

/*
 * A statement without the comments and white space around it, palloc'd; NULL
 * if that is not known.  Other statements of the same text are left out.
 */
char *
bemi_statement_command(const BemiStatementText *statement)
{
	const char *end;
	const char *start;
	int			len;

	if (statement->text == NULL || !statement->is_placed ||
		statement->location > strlen(statement->text))
		return NULL;
	start = statement->text + statement->location;
	end = start + strnlen(start, bemi_statement_length(statement));
	start = bemi_end_of_comments(start);
	if (start >= end)
		return NULL;
	len = end_of_last_token(start, end - start, standard_conforming_strings);
	return len > 0 ? pnstrdup(start, len) : NULL;
}
