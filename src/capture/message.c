/*-------------------------------------------------------------------------
 *
 * message.c
 *		The context messages of the current transaction.
 *
 * Input: the context of rows that are about to be written.  Output: a
 * transactional logical message with the prefix "_bemi" and the context's JSON
 * text.  No message is written if the rows would get this context from an
 * earlier one.
 *
 * The worker gives each row the nearest message before it.  To know which one
 * that is, this file remembers the latest message of each subtransaction.  A
 * rollback removes the messages of its subtransaction from the stream, so it
 * must remove them here, too.  A release passes the latest one on to the
 * parent.  The list is in the transaction's memory.  What must never happen: a
 * message is remembered although its subtransaction was rolled back, because
 * rows after it would silently get the wrong context.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "capture/capture_internal.h"
#include "context/context.h"

/* The latest message of one subtransaction. */
typedef struct WrittenMessage
{
	struct WrittenMessage *outer;	/* of an outer subtransaction, or NULL */
	int			nest_level;		/* of its subtransaction */
	SubTransactionId subtransaction;	/* the one that wrote it */
	XLogRecPtr	end;			/* of its record */
	char		context[FLEXIBLE_ARRAY_MEMBER];
} WrittenMessage;

/* The latest message that is still valid; NULL: none in this transaction. */
static WrittenMessage *latest = NULL;

/* Values of bemi.emit. */
typedef enum EmitMode
{
	EMIT_STATEMENT,
	EMIT_CHANGED
} EmitMode;

static const struct config_enum_entry emit_modes[] = {
	{"statement", EMIT_STATEMENT, false},
	{"changed", EMIT_CHANGED, false},
	{NULL, 0, false}
};

static int	emit_mode = EMIT_CHANGED;

/*
 * Remembers a message of the current subtransaction.
 */
static void
remember_message(const char *context, XLogRecPtr end)
{
	int			nest_level = GetCurrentTransactionNestLevel();
	Size		size = strlen(context) + 1;
	WrittenMessage *message;

	message = MemoryContextAlloc(TopTransactionContext,
								 offsetof(WrittenMessage, context) + size);
	message->nest_level = nest_level;
	message->subtransaction = GetCurrentSubTransactionId();
	message->end = end;
	memcpy(message->context, context, size);
	message->outer = latest;
	if (latest != NULL && latest->nest_level == nest_level)
	{
		message->outer = latest->outer;
		pfree(latest);
	}
	latest = message;
}

/*
 * Whether the decoder might send a row that is written now before the latest
 * message.  It orders the records of different subtransactions by LSN.  It
 * uses the end of a message's record and the start of a row's record, and
 * equal LSNs come in any order.
 */
static bool
message_may_be_overtaken(void)
{
	return latest->subtransaction != GetCurrentSubTransactionId() &&
		latest->end == GetXLogInsertRecPtr();
}

/*
 * Whether rows that are written now would get this context; NULL: none.
 */
static bool
message_is_valid(const char *context)
{
	if (latest == NULL)
		return context == NULL;
	if (message_may_be_overtaken())
		return false;
	return strcmp(latest->context, context ? context : "{}") == 0;
}

static void
write_context_message(const char *context)
{
	if (context == NULL)
		context = "{}";
	remember_message(context, bemi_log_message(BEMI_MESSAGE_PREFIX, context,
											   strlen(context), true));
}

/*
 * Called when a statement is about to write its first row.  Without a context
 * no message is needed, unless the rows would inherit an earlier one.
 */
void
bemi_message_for_statement(const char *context)
{
	if (!XLogLogicalInfoActive())
		return;					/* the WAL would not contain it */
	if (context == NULL && latest == NULL)
		return;

	/*
	 * With bemi.include, a message is always written, because one that the
	 * client has written itself must not replace ours.
	 */
	if (emit_mode == EMIT_CHANGED && !bemi_server_fields_are_included() &&
		message_is_valid(context))
		return;
	write_context_message(context);
}

/*
 * Emits a statement's context again if another message has come after it.
 * Statements that are nested in it may have written messages of their own
 * while it still writes rows.  "nest_level" is the statement's.
 *
 * The nested statement's subtransaction may not have ended yet.  Then a row of
 * the outer one could overtake the message, see message_may_be_overtaken().  A
 * second message prevents that, because a row cannot overtake two.
 */
void
bemi_reemit_message(const char *context, int nest_level)
{
	if (!XLogLogicalInfoActive() || message_is_valid(context))
		return;
	write_context_message(context);
	if (GetCurrentTransactionNestLevel() > nest_level)
		write_context_message(context);
}

/*
 * No message has an effect beyond the end of its transaction.
 */
static void
messages_at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			latest = NULL;		/* its memory goes with the transaction */
			break;
		default:
			break;
	}
}

/*
 * Rollback of a subtransaction: forgets its messages.
 */
static void
forget_messages(int nest_level)
{
	while (latest != NULL && latest->nest_level >= nest_level)
	{
		WrittenMessage *gone = latest;

		latest = gone->outer;
		pfree(gone);
	}
}

/*
 * Release of a subtransaction: its latest message becomes its parent's.
 */
static void
hand_over_message(int nest_level)
{
	WrittenMessage *outer;

	if (latest == NULL || latest->nest_level < nest_level)
		return;
	Assert(latest->nest_level == nest_level);
	latest->nest_level = nest_level - 1;

	outer = latest->outer;
	if (outer != NULL && outer->nest_level == latest->nest_level)
	{
		latest->outer = outer->outer;
		pfree(outer);
	}
}

static void
messages_at_subtransaction_end(SubXactEvent event, SubTransactionId mySubid,
							   SubTransactionId parentSubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_messages(GetCurrentTransactionNestLevel());
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		hand_over_message(GetCurrentTransactionNestLevel());
}

void
bemi_capture_message_init(void)
{
	DefineCustomEnumVariable("bemi.emit",
							 "Sets when a statement writes its context to the WAL.",
							 "With \"changed\", only if it differs from the last one of the transaction.",
							 &emit_mode, EMIT_CHANGED, emit_modes,
							 PGC_USERSET, 0, NULL, NULL, NULL);

	RegisterXactCallback(messages_at_transaction_end, NULL);
	RegisterSubXactCallback(messages_at_subtransaction_end, NULL);
}
