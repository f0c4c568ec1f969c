/*-------------------------------------------------------------------------
 *
 * client_statement.c
 *		The client's statement: whose comments count for a statement.
 *
 * Input: the text that the client has sent, and the statement that is about to
 * run.  Output: the context in its comment (comment.c) and the tags in its
 * comments (tags.c).  Both follow the same rules, each for itself.  A
 * statement's own comments take precedence over those of the client's
 * statement, in which it is nested.
 *
 * The client's statement is searched once, however many statements are nested
 * in it.  The result lives in the server's MessageContext, as long as the
 * client's message.  Deferred triggers fire at the end of the transaction,
 * when the text may be gone.  For them a copy of the last text with a comment
 * is kept in the transaction's memory.  A rolled-back subtransaction removes
 * its own copy.
 *
 * What must never happen: a row gets the comment of a statement that was
 * rolled back, or of another transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "parser/analyze.h"
#include "parser/parser.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "context/context_internal.h"

/* What a statement's comments can hold. */
typedef enum CommentKind
{
	CONTEXT_COMMENT,
	TAGS
} CommentKind;

#define COMMENT_KINDS	2

static const struct
{
	bool		(*may_be_in) (const BemiStatementText *statement);
	const char *(*read) (BemiSourceText *source);	/* palloc'd; NULL: none */
}			comment_kinds[COMMENT_KINDS] = {
	{bemi_may_have_context_comment, bemi_read_context_comment},
	{bemi_may_have_tags, bemi_read_tags}
};

/* What was found in the comments of a statement. */
typedef struct CommentContent
{
	bool		searched;		/* quickly */
	bool		may_exist;
	bool		looked;
	const char *content;		/* NULL: none */
} CommentContent;

/* The client's message that is being executed; lives in MessageContext. */
typedef struct ClientMessage
{
	MemoryContextCallback on_end;
	BemiSourceText source;		/* the statement that runs now */
	uint64		serial;			/* of that statement */
	bool		sets_constraints;
	CommentContent contents[COMMENT_KINDS];
	bool		warned;
} ClientMessage;

/* A copy of a statement's text with a comment, for deferred triggers. */
typedef struct KeptText
{
	struct KeptText *outer;		/* of an outer subtransaction, or NULL */
	int			nest_level;		/* of its subtransaction */
	uint64		serial;
	bool		conforming_strings;
	MemoryContext memory;		/* of content; NULL: not read yet */
	const char *content;
	char		text[FLEXIBLE_ARRAY_MEMBER];
} KeptText;

static bool read_comments = true;

static post_parse_analyze_hook_type prev_post_parse_analyze = NULL;

static ClientMessage *message = NULL;

/* Counts the client's statements. */
static uint64 statement_serial = 0;

/* The last such copy of each kind in this transaction; NULL: none. */
static KeptText *kept_texts[COMMENT_KINDS] = {NULL, NULL};

/*
 * Reset callback of MessageContext: the client's message has been executed.
 */
static void
forget_message(void *arg)
{
	message = NULL;
}

/*
 * Where to search for comments in front of the client's next statement: behind
 * the statement before it, of the same text.  The server knows the place of
 * the statement's first token, up to PostgreSQL 17 only that of the semicolon.
 * The client's statement may have a part with a place of its own, as that of
 * PREPARE.
 */
static int
front_of_next_statement(const BemiStatementText *next)
{
	const BemiStatementText *last = &message->source.statement;

	if (last->text != next->text || next->location < last->location)
		return 0;
	if (last->len > 0 && next->location >= last->location + last->len)
		return last->location + last->len;
	return last->front;
}

/*
 * Records the client's statement that is about to run.
 */
static void
set_client_statement(BemiStatementText statement)
{
	bool		conforming_strings;

	if (message == NULL)
	{
		message =
			MemoryContextAllocZero(MessageContext, sizeof(ClientMessage));
		message->source.conforming_strings = standard_conforming_strings;
		message->on_end.func = forget_message;
		MemoryContextRegisterResetCallback(MessageContext, &message->on_end);
	}
	conforming_strings = message->source.conforming_strings;
	statement.front = front_of_next_statement(&statement);
	message->source = (BemiSourceText)
	{
		.statement = statement,.conforming_strings = conforming_strings
	};
	message->serial = ++statement_serial;
	message->sets_constraints = false;
	memset(message->contents, 0, sizeof(message->contents));
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
	if (message == NULL ||
		message->source.statement.text != debug_query_string)
		set_client_statement(whole);
	return true;
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
	return message != NULL &&
		message->source.statement.text == debug_query_string &&
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
		set_client_statement(bemi_statement_in_text(debug_query_string,
													query->stmt_location,
													query->stmt_len));
}

/*
 * Returns true once per message of the client, always if there is none.
 */
bool
bemi_first_warning_of_message(void)
{
	bool		is_first = message == NULL || !message->warned;

	if (message != NULL)
		message->warned = true;
	return is_first;
}

/*
 * Whether the client's statement may have such a comment.
 */
static bool
message_may_have(CommentKind kind)
{
	CommentContent *content = &message->contents[kind];

	if (!content->searched)
		content->may_exist =
			comment_kinds[kind].may_be_in(&message->source.statement);
	content->searched = true;
	return content->may_exist;
}

/*
 * The content of the comments of the client's statement, which exists.
 */
static const char *
content_of_client_statement(CommentKind kind)
{
	CommentContent *content = &message->contents[kind];

	if (!content->looked && message_may_have(kind))
	{
		MemoryContext caller = MemoryContextSwitchTo(MessageContext);

		content->looked = true;
		content->content = comment_kinds[kind].read(&message->source);
		MemoryContextSwitchTo(caller);
	}
	return content->content;
}

/*
 * The part of the text that has the client's statement and the comments of a
 * kind.  Returns its length.
 */
static int
part_with_comments(CommentKind kind, const char **start)
{
	const BemiStatementText *statement = &message->source.statement;

	if (kind == TAGS)
		return bemi_length_with_tags(statement, start);
	*start = statement->text + statement->location;
	return bemi_end_of_comments(*start + bemi_statement_length(statement)) -
		*start;
}

/*
 * Frees a kept text with what was read from it, because a transaction can keep
 * one text after another.
 */
static void
free_kept_text(KeptText *kept)
{
	if (kept->memory != NULL)
		MemoryContextDelete(kept->memory);
	pfree(kept);
}

/*
 * Keeps the text of the client's statement, with its comments.
 */
static void
keep_client_text(CommentKind kind)
{
	const char *start;
	int			len = part_with_comments(kind, &start);
	int			nest_level = GetCurrentTransactionNestLevel();
	KeptText   *kept = kept_texts[kind];
	KeptText   *text =
		MemoryContextAllocZero(TopTransactionContext,
							   offsetof(KeptText, text) + len + 1);

	memcpy(text->text, start, len);
	text->nest_level = nest_level;
	text->serial = message->serial;
	text->conforming_strings = message->source.conforming_strings;
	text->outer = kept;
	if (kept != NULL && kept->nest_level == nest_level)
	{
		text->outer = kept->outer;
		free_kept_text(kept);
	}
	kept_texts[kind] = text;
}

/*
 * Whether to keep the text of the client's statement.  What looks like a
 * comment may be part of a string.  The slow check for that is made only if
 * the text would replace another one.
 */
static bool
text_is_worth_keeping(CommentKind kind)
{
	const KeptText *kept = kept_texts[kind];

	if (!has_client_message() || !message_may_have(kind) ||
		(kept != NULL && kept->serial == message->serial))
		return false;
	if (kept != NULL)
		message->contents[kind].may_exist = kind == TAGS ?
			content_of_client_statement(kind) != NULL :
			bemi_has_context_comment(&message->source);
	return message->contents[kind].may_exist;
}

/*
 * Called when a statement begins, the client's or one that is nested in it.
 *
 * Frameworks put tags on each query, so their text is kept only if the
 * statement, or one that is nested in it, may queue a trigger.
 */
void
bemi_statement_begins(bool may_queue_triggers)
{
	if (!IsTransactionState())
		return;
	if (read_comments && text_is_worth_keeping(CONTEXT_COMMENT))
		keep_client_text(CONTEXT_COMMENT);
	if (bemi_tags_are_read && may_queue_triggers &&
		text_is_worth_keeping(TAGS))
		keep_client_text(TAGS);
}

/*
 * Called when a utility command begins.  SET CONSTRAINTS fires triggers that
 * earlier statements have deferred.
 */
void
bemi_utility_begins(const Node *command)
{
	bemi_statement_begins(true);
	if (IsA(command, ConstraintsSetStmt) && has_client_message())
		message->sets_constraints = true;
}

/*
 * The content of the comments of the transaction's last statement that had
 * some.
 */
static const char *
content_of_transaction(CommentKind kind)
{
	KeptText   *kept = kept_texts[kind];

	if (kept == NULL)
		return NULL;
	if (kept->memory == NULL)
	{
		MemoryContext memory =
			AllocSetContextCreate(TopTransactionContext, "bemi kept comment",
								  ALLOCSET_SMALL_SIZES);
		MemoryContext caller = MemoryContextSwitchTo(memory);
		BemiSourceText source = {
			.statement.text = kept->text,
			.conforming_strings = kept->conforming_strings
		};

		kept->content = comment_kinds[kind].read(&source);
		MemoryContextSwitchTo(caller);

		/* Not before, or a cancelled search would count as one. */
		kept->memory = memory;
	}
	return kept->content;
}

/*
 * The content of the comments of the client's statement, or of its text if
 * there is no client.
 */
static const char *
content_of_message(CommentKind kind)
{
	BemiSourceText whole = {
		.statement.text = debug_query_string,
		.conforming_strings = standard_conforming_strings
	};

	if (has_client_message())
		return content_of_client_statement(kind);
	return debug_query_string ? comment_kinds[kind].read(&whole) : NULL;
}

/*
 * The content of the comments of the client's statement, or NULL.  Deferred
 * triggers get that of the transaction's last statement with such a comment:
 * they run at the end of the transaction, when no portal is active, or in SET
 * CONSTRAINTS.
 */
static const char *
content_of_client(CommentKind kind)
{
	const char *content = content_of_message(kind);

	if (content == NULL && (ActivePortal == NULL ||
							(message != NULL && message->sets_constraints)))
		content = content_of_transaction(kind);
	return content;
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
	if (debug_query_string == NULL)
		return false;
	/* First, because a text of many EXECUTE would be compared for each. */
	if (statement->len > 0 && has_client_message() &&
		statement->location != message->source.statement.location)
		return false;
	return statement->text == debug_query_string ||
		strcmp(statement->text, debug_query_string) == 0;
}

/*
 * Returns the content of a statement's own comments, otherwise of those of the
 * client's statement, in which it is nested; NULL if neither has any.  The
 * result lives as long as the current memory context or the client's message,
 * whichever ends first.
 */
static const char *
content_of_statement(CommentKind kind, const BemiStatementText *statement)
{
	const char *content = NULL;

	if (statement != NULL && statement->text != NULL &&
		!is_client_statement(statement))
	{
		BemiSourceText source = {
			.statement = *statement,
			.conforming_strings = standard_conforming_strings
		};

		content = comment_kinds[kind].read(&source);
	}
	return content ? content : content_of_client(kind);
}

const char *
bemi_context_in_comment(const BemiStatementText *statement)
{
	if (!read_comments)
		return NULL;
	return content_of_statement(CONTEXT_COMMENT, statement);
}

/*
 * The tags of the statement that is about to run, as a JSON object; NULL if it
 * has none.  "statement" is its own text, or NULL if that is unknown.
 */
const char *
bemi_tags_of_statement(const BemiStatementText *statement)
{
	if (!bemi_tags_are_read)
		return NULL;
	return content_of_statement(TAGS, statement);
}

/*
 * The kept texts are in the transaction's memory, which is freed now.
 */
static void
client_statement_at_transaction_end(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		memset(kept_texts, 0, sizeof(kept_texts));
}

/*
 * A rolled-back subtransaction removes its kept text; a released one passes it
 * on to its parent.
 */
static void
end_subtransaction_of_text(KeptText **kept, SubXactEvent event, int nest_level)
{
	KeptText   *gone = NULL;

	if (*kept == NULL || (*kept)->nest_level < nest_level)
		return;
	Assert((*kept)->nest_level == nest_level);
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		gone = *kept;
		*kept = gone->outer;
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		(*kept)->nest_level--;
		gone = (*kept)->outer;
		if (gone != NULL && gone->nest_level == (*kept)->nest_level)
			(*kept)->outer = gone->outer;
		else
			gone = NULL;
	}
	if (gone != NULL)
		free_kept_text(gone);
}

static void
client_statement_at_subtransaction_end(SubXactEvent event,
									   SubTransactionId mySubid,
									   SubTransactionId parentSubid, void *arg)
{
	int			nest_level = GetCurrentTransactionNestLevel();

	for (int kind = 0; kind < COMMENT_KINDS; kind++)
		end_subtransaction_of_text(&kept_texts[kind], event, nest_level);
}

void
bemi_client_statement_init(void)
{
	DefineCustomBoolVariable("bemi.read_comments",
							 "Reads the context from the comments behind a statement.",
							 "The comment looks like /*Bemi {\"userId\": 1} Bemi*/.",
							 &read_comments, true, PGC_USERSET, 0, NULL, NULL,
							 NULL);

	prev_post_parse_analyze = post_parse_analyze_hook;
	post_parse_analyze_hook = record_client_statement;
	RegisterXactCallback(client_statement_at_transaction_end, NULL);
	RegisterSubXactCallback(client_statement_at_subtransaction_end, NULL);
}
