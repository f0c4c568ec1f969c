/*-------------------------------------------------------------------------
 *
 * stitch.c
 *		Joins each change with its context.
 *
 * In flow events in stream order (protocol.c); out flow changes (history.c).
 * The rule: the context of a change is the nearest context message before it
 * in the same transaction; without one it is an empty object.  Stream order
 * is all that counts.  LSNs are never compared, because rows carry the start
 * of their WAL record, messages the end, and all rows of one multi-insert
 * record share one LSN.
 *
 * Any SQL user can write any bytes under bemi's prefix.  What is not a JSON
 * object is counted as invalid, and the changes it stands before get an empty
 * object: they must not inherit what belongs to another statement.
 *
 * The last context that a message had lives in a memory context of its own: many
 * changes refer to it, and the next transaction of a job is likely to repeat it.
 * Everything else is gone after the event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "bemi.h"

struct BemiStitch
{
	BemiStream *stream;			/* for what it says beside its changes */
	BemiHistory *history;
	uint32		source_tag;		/* 22 bits that tell sources apart in ids */

	/* the transaction at hand */
	XLogRecPtr	commit_lsn;
	TimestampTz committed_at;
	TransactionId xid;
	uint64		ordinal;		/* of its last change */

	/* the last context that was valid */
	MemoryContext memory;		/* of the two below */
	Jsonb	   *context;
	char	   *content;		/* the message it was made of; NULL: none yet */
	int			content_len;
	uint64		context_serial; /* counts contexts, 0 is that of none */
	bool		stands;			/* it is that of the changes that follow */
};

/* A context that is longer is forgotten with its transaction. */
#define LONGEST_REMEMBERED	(64 * 1024)

/* Widths of an id's parts, see make_id(). */
#define ORDINAL_BITS	36
#define SOURCE_BITS		22

/*
 * Makes an id: UUID version 8 (RFC 9562, "custom"), whose 122 free bits hold
 * the commit LSN, the ordinal in the transaction and the source's tag, in this
 * order, so that ids sort in commit order.
 */
static void
make_id(const BemiStitch *stitch, pg_uuid_t *id)
{
	const uint64 version = 8;
	const uint64 variant = 2;
	uint64		lsn = stitch->commit_lsn;
	uint64		high;
	uint64		low;

	StaticAssertStmt(64 + ORDINAL_BITS + SOURCE_BITS == 128 - 4 - 2,
					 "the parts of an id fill a UUID");
	StaticAssertStmt(sizeof(id->data) == 2 * sizeof(uint64),
					 "a UUID is two words");
	Assert(stitch->ordinal < UINT64CONST(1) << ORDINAL_BITS);

	high = (lsn >> 16 << 16) | version << 12 | (lsn >> 4 & 0xFFF);
	low = variant << 62 | (lsn & 0xF) << (ORDINAL_BITS + SOURCE_BITS) |
		stitch->ordinal << SOURCE_BITS | stitch->source_tag;

	high = pg_hton64(high);
	low = pg_hton64(low);
	memcpy(id->data, &high, sizeof(high));
	memcpy(id->data + sizeof(high), &low, sizeof(low));
}

/*
 * Starts to stitch; the result lives in the current memory context.  The tag
 * tells sources apart, and times when one and the same counts its positions
 * anew.
 */
BemiStitch *
bemi_stitch_begin(const char *tag, BemiStream *stream, BemiHistory *history)
{
	BemiStitch *stitch = palloc0(sizeof(BemiStitch));

	stitch->stream = stream;
	stitch->history = history;
	stitch->source_tag = hash_bytes((unsigned char *) tag, strlen(tag)) >>
		(32 - SOURCE_BITS);
	stitch->memory = AllocSetContextCreate(CurrentMemoryContext,
										   "bemi change context",
										   ALLOCSET_SMALL_SIZES);
	return stitch;
}

/*
 * Replaces the context of the changes that follow.
 */
static void
set_context(BemiStitch *stitch, const char *content, int len, const Jsonb *context)
{
	MemoryContext caller;

	MemoryContextReset(stitch->memory);
	caller = MemoryContextSwitchTo(stitch->memory);
	stitch->context = palloc(VARSIZE(context));
	memcpy(stitch->context, context, VARSIZE(context));
	stitch->content = palloc(Max(len, 1));
	memcpy(stitch->content, content, len);
	stitch->content_len = len;
	MemoryContextSwitchTo(caller);

	stitch->context_serial++;
	stitch->stands = true;
}

static void
begin_transaction(BemiStitch *stitch, const BemiEvent *event)
{
	bemi_history_begin_transaction(stitch->history);
	stitch->commit_lsn = event->commit_lsn;
	stitch->committed_at = event->committed_at;
	stitch->xid = event->xid;
	stitch->ordinal = 0;
	stitch->stands = false;
	if (stitch->content_len > LONGEST_REMEMBERED)
	{
		MemoryContextReset(stitch->memory);
		stitch->context = NULL;
		stitch->content = NULL;
		stitch->content_len = 0;
	}
}

/*
 * A message under bemi's prefix.  Statements in a loop, and the transactions of a
 * job, repeat their context, so the last one is not parsed again.
 */
static void
take_context(BemiStitch *stitch, const BemiEvent *event)
{
	Jsonb	   *context = NULL;
	int			len = event->content_len;

	if (event->transactional && stitch->content != NULL &&
		event->content_len == stitch->content_len &&
		memcmp(event->content, stitch->content, event->content_len) == 0)
	{
		stitch->stands = true;
		return;
	}

	/* One that is not transactional may come between transactions. */
	bemi_history_open(stitch->history);
	if (memchr(event->content, '\0', len) == NULL)
	{
		const char *text = bemi_stream_text(stitch->stream, (char *) event->content, &len);

		context = bemi_text_to_jsonb(text, len);
	}
	if (!event->transactional || context == NULL || !JB_ROOT_IS_OBJECT(context))
	{
		bemi_history_count_invalid(stitch->history);
		context = NULL;
	}
	if (!event->transactional)
		return;
	if (context != NULL)
		set_context(stitch, event->content, event->content_len, context);
	else
		stitch->stands = false;
}

/*
 * A message that says which table is tracked from here on, or no longer, and what
 * it is like.
 */
static void
take_tracking(BemiStitch *stitch, const BemiEvent *event)
{
	char	   *text = bemi_stream_verify(stitch->stream, event->content, event->content_len);
	Jsonb	   *message;

	if (!bemi_stream_has_secret(stitch->stream))
		return;
	bemi_history_open(stitch->history);
	message = text ? bemi_text_to_jsonb(text, strlen(text)) : NULL;
	if (!event->transactional || message == NULL || !JB_ROOT_IS_OBJECT(message) ||
		!bemi_history_take_tracking(stitch->history, message, stitch->xid,
									stitch->commit_lsn, stitch->committed_at))
		bemi_history_count_invalid(stitch->history);
}

/*
 * What the source says today of a table, as jsonb.
 */
static Jsonb *
ask_for_description(BemiStitch *stitch, const BemiRelation *relation)
{
	char	   *text = bemi_stream_describe(stitch->stream, relation->oid);
	Jsonb	   *description = text ? bemi_text_to_jsonb(text, strlen(text)) : NULL;

	if (description == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source gave no description of table \"%s.%s\"",
						relation->schema, relation->table)));
	return description;
}

/*
 * The stream has described a table.  What it is like beside that, the source has
 * told before, in its place between the changes.  Where it has not, or that does not
 * fit, or there is doubt, it is asked for what the table is like today, which is
 * preferred only where the source's messages cannot be believed.
 */
static void
take_relation(BemiStitch *stitch, BemiRelation *relation)
{
	bool		is_believed = bemi_stream_has_secret(stitch->stream);
	Jsonb	   *told = bemi_history_description(stitch->history, relation);
	Jsonb	   *today = NULL;
	Jsonb	   *first;

	if (!is_believed)
		bemi_history_begin_tracking(stitch->history, relation,
									stitch->commit_lsn, stitch->committed_at);
	if (!is_believed || told == NULL || bemi_stream_is_in_doubt(stitch->stream) ||
		!bemi_description_fits(relation, told))
		today = ask_for_description(stitch, relation);
	first = is_believed && told ? told : today;
	bemi_description_apply(relation, first, first == told ? today : told,
						   bemi_stream_hash_key(stitch->stream),
						   bemi_stream_is_here(stitch->stream));
}

/*
 * Hands on one change of the relation; images may be NULL.
 */
static void
add_change(BemiStitch *stitch, const BemiEvent *event,
		   const BemiRelation *relation, const char *operation,
		   const BemiImage *before, const BemiImage *after)
{
	BemiChange	change = {0};

	/* Were the history published to itself, each change would beget another. */
	if (strcmp(relation->schema, "bemi") == 0)
		return;

	/* Also of one that is not kept: ids do not depend on rules. */
	stitch->ordinal++;
	if (before && after && !before->is_key &&
		!bemi_rules_keep_update(relation, before->row, after->row))
		return;
	make_id(stitch, &change.id);
	change.schema = relation->schema;
	change.table = relation->table;
	change.operation = operation;
	change.before = before ? bemi_row_to_jsonb(relation, before) : NULL;
	change.after = after ? bemi_row_to_jsonb(relation, after) : NULL;
	if (before || after)
		change.primary_key = bemi_row_primary_key(relation, after ? after : before);
	change.context = stitch->stands ? stitch->context : NULL;
	change.context_serial = stitch->stands ? stitch->context_serial : 0;
	change.committed_at = stitch->committed_at;
	change.queued_at = bemi_stream_heard_at(stitch->stream);
	change.xid = stitch->xid;
	change.position = event->position;

	bemi_history_add(stitch->history, &change);
}

static void
add_truncates(BemiStitch *stitch, const BemiEvent *event)
{
	ListCell   *cell;

	foreach(cell, event->truncated)
		add_change(stitch, event, lfirst(cell), "TRUNCATE", NULL, NULL);
}

/*
 * Takes one event.
 */
void
bemi_stitch_event(BemiStitch *stitch, const BemiEvent *event)
{
	BemiImage	before = {.row = &event->before,.is_old = true,.is_key = event->before_is_key};
	BemiImage	after = {.row = &event->after,.is_key = event->before_is_key};

	if (event->has_before)
		after.old = &event->before;
	switch (event->kind)
	{
		case BEMI_EVENT_BEGIN:
			begin_transaction(stitch, event);
			break;
		case BEMI_EVENT_COMMIT:
			bemi_history_end_transaction(stitch->history, event->end_lsn,
										 event->committed_at);
			break;
		case BEMI_EVENT_INSERT:
			add_change(stitch, event, event->relation, "CREATE", NULL, &after);
			break;
		case BEMI_EVENT_UPDATE:
			add_change(stitch, event, event->relation, "UPDATE",
					   event->has_before ? &before : NULL, &after);
			break;
		case BEMI_EVENT_DELETE:
			add_change(stitch, event, event->relation, "DELETE", &before, NULL);
			break;
		case BEMI_EVENT_TRUNCATE:
			add_truncates(stitch, event);
			break;
		case BEMI_EVENT_MESSAGE:
			if (strcmp(event->prefix, BEMI_MESSAGE_PREFIX) == 0)
				take_context(stitch, event);
			else if (strcmp(event->prefix, BEMI_TRACKING_PREFIX) == 0)
				take_tracking(stitch, event);
			break;
		case BEMI_EVENT_RELATION:
			take_relation(stitch, event->relation);
			break;
		case BEMI_EVENT_NOTHING:
			break;
	}
}
