/*-------------------------------------------------------------------------
 *
 * stitch.c
 *		Joins each change with its context.
 *
 * Input: events in stream order (protocol.c).  Output: changes
 * (store/writer.c).  The context of a change is the nearest context message
 * before it in the same transaction; without one it is an empty object.  Only
 * the order of the stream counts.  LSNs are never compared, because a row has
 * the LSN of the start of its WAL record, a message has that of the end, and
 * all rows of a multi-insert record have the same one.
 *
 * Any SQL user can write any bytes under bemi's prefixes, at any time.  An
 * invalid context (stitch_context.c) is counted, and the changes after it get
 * an empty object, because they must not inherit the context of another
 * statement. bemi writes contexts and tracking messages only within the
 * transaction that they belong to.  A message outside of a transaction is
 * counted as invalid and not read, because reading it would take a transaction
 * at the destination, and a flood of such messages must not begin one for
 * each.
 *
 * A tracking message takes an ordinal of its transaction, as a change does, so
 * its id tells which changes come before and after the command.  A message
 * with a wrong signature takes one, too, because ids must not depend on what
 * the worker knows.
 *
 * All other events need a destination transaction, which BEGIN opens.  If a
 * broken source sends one of them outside of a transaction, an error is
 * raised.
 *
 * The last context lives in a memory context of its own, because many changes
 * refer to it, and the next transaction of a job is likely to repeat it.  If
 * it is large, only the first of these changes is stored with all of it.  All
 * other memory of an event is the caller's, who resets it after the event.
 *
 * What must never happen: a change gets the context of another statement, or
 * an id depends on anything but its place in the stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "decode/decode_internal.h"
#include "store/store.h"
#include "stream/stream.h"

struct BemiStitch
{
	BemiStream *stream;			/* for descriptions and signing key */
	BemiStore  *store;
	uint32		source_tag;		/* 22 bits that distinguish sources in ids */

	/* the current transaction */
	bool		in_transaction;
	XLogRecPtr	commit_lsn;
	TimestampTz committed_at;
	TransactionId xid;
	uint64		ordinal;		/* of its last change */

	/* the last context that was valid */
	MemoryContext memory;		/* of the two below */
	Jsonb	   *context;
	char	   *content;		/* its message; NULL: none yet */
	int			content_len;
	uint64		context_serial; /* 0: no context */
	bool		is_current;		/* it applies to the next changes */

	/* if it is large, how it is shared in the current transaction */
	bool		held;			/* a stored change holds all of it */
	pg_uuid_t	holder;			/* that change */
	Jsonb	   *small_members;	/* for those after it; NULL: not needed yet */
	uint64		small_serial;

	uint64		serials;		/* given out so far */
};

/* A longer context is forgotten at the end of its transaction. */
#define LONGEST_REMEMBERED	(64 * 1024)

/* Widths of an id's parts, see bemi_make_change_id(). */
#define ORDINAL_BITS	36
#define SOURCE_BITS		22

/* Ids with it come after those of all sources. */
#define LAST_TAG	((1U << SOURCE_BITS) - 1)

/*
 * Makes an id: a UUID of version 8 (RFC 9562, "custom").  Its 122 free bits
 * hold the commit LSN, the ordinal in the transaction and the source's tag, in
 * this order, so ids sort in commit order.
 */
void
bemi_make_change_id(XLogRecPtr commit_lsn, uint64 ordinal, uint32 tag,
					pg_uuid_t *id)
{
	const uint64 version = 8;
	const uint64 variant = 2;
	uint64		lsn = commit_lsn;
	uint64		high;
	uint64		low;

	StaticAssertStmt(64 + ORDINAL_BITS + SOURCE_BITS == 128 - 4 - 2,
					 "the parts of an id fill a UUID");
	StaticAssertStmt(sizeof(id->data) == 2 * sizeof(uint64),
					 "a UUID is two words");
	Assert(ordinal < UINT64CONST(1) << ORDINAL_BITS);

	high = (lsn >> 16 << 16) | version << 12 | (lsn >> 4 & 0xFFF);
	low = variant << 62 | (lsn & 0xF) << (ORDINAL_BITS + SOURCE_BITS) |
		ordinal << SOURCE_BITS | tag;

	high = pg_hton64(high);
	low = pg_hton64(low);
	memcpy(id->data, &high, sizeof(high));
	memcpy(id->data + sizeof(high), &low, sizeof(low));
}

/*
 * Whether "next" is the id of the next change in the transaction of "id", so
 * that no other change is between them.
 */
bool
bemi_is_next_change_id(const pg_uuid_t *id, const pg_uuid_t *next)
{
	uint64		low;
	uint64		next_low;

	memcpy(&low, id->data + sizeof(low), sizeof(low));
	memcpy(&next_low, next->data + sizeof(low), sizeof(low));
	return memcmp(id->data, next->data, sizeof(low)) == 0 &&
		pg_ntoh64(low) + (UINT64CONST(1) << SOURCE_BITS) ==
		pg_ntoh64(next_low);
}

/*
 * The bits of a tag in an id.
 */
uint32
bemi_id_tag(const char *tag)
{
	return hash_bytes((unsigned char *) tag, strlen(tag)) >>
		(32 - SOURCE_BITS);
}

/*
 * Creates a stitch, in the current memory context.  The tag distinguishes
 * sources, and periods of one source if its positions start again from the
 * beginning.
 */
BemiStitch *
bemi_stitch_create(const char *tag, BemiStream *stream, BemiStore *store)
{
	BemiStitch *stitch = palloc0(sizeof(BemiStitch));

	stitch->stream = stream;
	stitch->store = store;
	stitch->source_tag = bemi_id_tag(tag);
	stitch->memory = AllocSetContextCreate(CurrentMemoryContext,
										   "bemi change context",
										   ALLOCSET_SMALL_SIZES);
	return stitch;
}

/*
 * From now on no change of the current transaction has the complete context.
 */
static void
forget_context_holder(BemiStitch *stitch)
{
	if (stitch->small_members != NULL)
		pfree(stitch->small_members);
	stitch->small_members = NULL;
	stitch->held = false;
}

/*
 * Replaces the context of the changes that follow.
 */
static void
stitch_set_context(BemiStitch *stitch, const char *content, int len,
				   const Jsonb *context)
{
	MemoryContext caller;

	forget_context_holder(stitch);
	MemoryContextReset(stitch->memory);
	caller = MemoryContextSwitchTo(stitch->memory);
	stitch->context = palloc(VARSIZE(context));
	memcpy(stitch->context, context, VARSIZE(context));
	stitch->content = palloc(Max(len, 1));
	memcpy(stitch->content, content, len);
	stitch->content_len = len;
	MemoryContextSwitchTo(caller);

	stitch->context_serial = ++stitch->serials;
	stitch->is_current = true;
}

static void
begin_transaction(BemiStitch *stitch, const BemiEvent *event)
{
	bemi_store_begin_transaction(stitch->store);
	stitch->in_transaction = true;
	stitch->commit_lsn = event->commit_lsn;
	stitch->committed_at = event->committed_at;
	stitch->xid = event->xid;
	stitch->ordinal = 0;
	stitch->is_current = false;
	forget_context_holder(stitch);
	if (stitch->content_len > LONGEST_REMEMBERED)
	{
		MemoryContextReset(stitch->memory);
		stitch->context = NULL;
		stitch->content = NULL;
		stitch->content_len = 0;
	}
}

/*
 * Applies a context message.  Statements in a loop, and the transactions of a
 * job, repeat their context, so an equal one is not parsed again.
 */
static void
apply_context(BemiStitch *stitch, const BemiEvent *event)
{
	Jsonb	   *context;

	if (stitch->content != NULL && event->content_len == stitch->content_len &&
		memcmp(event->content, stitch->content, event->content_len) == 0)
	{
		stitch->is_current = true;
		return;
	}

	context = bemi_context_of_message(stitch->stream, event->content,
									  event->content_len);
	if (context != NULL)
		stitch_set_context(stitch, event->content, event->content_len,
						   context);
	else
	{
		bemi_store_count_invalid(stitch->store);
		stitch->is_current = false;
	}
}

/*
 * What a schema change at this place of the stream has in common with row
 * changes.  If no ordinal was taken for it, its id is between those of the
 * last change and the next.
 */
static BemiSchemaChange
place_of_schema_change(const BemiStitch *stitch, bool has_ordinal)
{
	BemiSchemaChange change = {
		.commit_lsn = stitch->commit_lsn,
		.committed_at = stitch->committed_at,
		.xid = stitch->xid
	};

	bemi_make_change_id(stitch->commit_lsn, stitch->ordinal,
						has_ordinal ? stitch->source_tag : LAST_TAG,
						&change.id);
	return change;
}

/*
 * Applies a tracking message: tracking of a table begins or ends here, and
 * this is its description.
 */
static void
apply_tracking(BemiStitch *stitch, const BemiEvent *event)
{
	char	   *text =
		bemi_stream_verify(stitch->stream, event->content, event->content_len);
	BemiSchemaChange change = place_of_schema_change(stitch, true);
	Jsonb	   *message;

	if (!bemi_stream_has_signing_key(stitch->stream))
		return;
	message = text ? bemi_text_to_jsonb(text, strlen(text)) : NULL;
	if (message == NULL || !JB_ROOT_IS_OBJECT(message))
	{
		bemi_store_count_invalid(stitch->store);
		return;
	}
	change.context = bemi_context_of_tracking(message);
	if (!bemi_store_apply_tracking(stitch->store, message, &change))
		bemi_store_count_invalid(stitch->store);
}

/*
 * Applies a message of any prefix.
 */
static void
apply_message(BemiStitch *stitch, const BemiEvent *event)
{
	bool		is_context = strcmp(event->prefix, BEMI_MESSAGE_PREFIX) == 0;
	bool		is_tracking = strcmp(event->prefix, BEMI_TRACKING_PREFIX) == 0;

	if ((is_context || is_tracking) && !event->transactional)
		bemi_store_count_invalid(stitch->store);
	else if (is_context)
		apply_context(stitch, event);
	else if (is_tracking)
	{
		stitch->ordinal++;
		apply_tracking(stitch, event);
	}
}

/*
 * Asks the source for the current description of a table, as jsonb.
 */
static Jsonb *
ask_for_description(BemiStitch *stitch, const BemiRelation *relation)
{
	char	   *text = bemi_stream_describe(stitch->stream, relation->oid);
	Jsonb	   *description =
		text ? bemi_text_to_jsonb(text, strlen(text)) : NULL;

	if (description == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source gave no description of table \"%s.%s\"",
						relation->schema, relation->table)));
	return description;
}

/*
 * Called before a description is used.  If the source has a new signing key,
 * messages of its own may have been rejected so far, and all stored
 * descriptions become stale.
 */
static void
check_signing_key(BemiStitch *stitch)
{
	bemi_stream_settle_signing_key(stitch->stream, true);
	if (bemi_stream_signing_key_is_new(stitch->stream))
		bemi_store_record_signing_key(stitch->store,
									  bemi_stream_signing_key_version(
																	  stitch->stream));
}

/*
 * Records what a table is like if the source sends no tracking messages that
 * can be verified.  A description that does not fit is of another time.
 */
static void
record_seen_table(BemiStitch *stitch, const BemiRelation *relation,
				  const Jsonb *today)
{
	BemiSchemaChange change = place_of_schema_change(stitch, false);

	if (bemi_description_fits(relation, today))
		bemi_store_record_seen(stitch->store, relation->oid, relation->schema,
							   relation->table, today, &change);
}

/*
 * Applies the description of a table in the stream.  The facts that it lacks
 * came with an earlier tracking message, so they are those of this place in
 * the stream.  If there is no such message, or it does not fit or is stale,
 * the source is asked for today's description as well.  That one takes
 * precedence only if the source's messages cannot be verified.
 */
static void
apply_relation(BemiStitch *stitch, BemiRelation *relation)
{
	bool		is_verified;
	Jsonb	   *described;
	Jsonb	   *today = NULL;
	Jsonb	   *first;

	check_signing_key(stitch);
	is_verified = bemi_stream_has_signing_key(stitch->stream);
	described = bemi_store_description(stitch->store, relation->oid);
	if (!is_verified)
		bemi_store_begin_tracking(stitch->store, relation->oid,
								  relation->schema, relation->table,
								  stitch->commit_lsn, stitch->committed_at);
	if (!is_verified || described == NULL ||
		!bemi_description_fits(relation, described))
		today = ask_for_description(stitch, relation);
	if (!is_verified)
		record_seen_table(stitch, relation, today);
	first = is_verified && described ? described : today;
	bemi_description_apply(relation, first,
						   first == described ? today : described,
						   bemi_stream_hash_key(stitch->stream),
						   bemi_stream_is_here(stitch->stream));
}

/*
 * The small members of the context, for the changes after its holder.
 */
static Jsonb *
small_members(BemiStitch *stitch)
{
	MemoryContext caller = MemoryContextSwitchTo(stitch->memory);

	stitch->small_members =
		bemi_context_small_members(stitch->context, &stitch->holder);
	stitch->small_serial = ++stitch->serials;
	MemoryContextSwitchTo(caller);
	return stitch->small_members;
}

/*
 * Gives a change that is about to be stored its context.
 */
static void
add_context(BemiStitch *stitch, BemiChange *change)
{
	if (!stitch->is_current)
		return;
	change->context = stitch->context;
	change->context_serial = stitch->context_serial;
	if (!bemi_context_is_large(stitch->context))
		return;
	if (stitch->held)
	{
		change->context = stitch->small_members ? stitch->small_members :
			small_members(stitch);
		change->context_serial = stitch->small_serial;
	}
	else
	{
		stitch->held = true;
		stitch->holder = change->id;
	}
}

/*
 * Passes one change of the relation to the store; images may be NULL.
 */
static void
add_change(BemiStitch *stitch, const BemiEvent *event,
		   const BemiRelation *relation, const char *operation,
		   const BemiImage *before, const BemiImage *after)
{
	BemiChange	change = {0};

	/*
	 * If the history were published to itself, each change would cause
	 * another.
	 */
	if (strcmp(relation->schema, BEMI_SCHEMA) == 0 ||
		strcmp(relation->schema, BEMI_INTERNAL_SCHEMA) == 0)
		return;

	/*
	 * Changes that are not kept count, too, because ids must not depend on
	 * rules.
	 */
	stitch->ordinal++;
	if (before && after && !before->is_key &&
		!bemi_rules_keep_update(relation, before->row, after->row))
		return;
	bemi_make_change_id(stitch->commit_lsn, stitch->ordinal,
						stitch->source_tag, &change.id);
	change.schema = relation->schema;
	change.table = relation->table;
	change.operation = operation;
	change.before = before ? bemi_row_to_jsonb(relation, before) : NULL;
	change.after = after ? bemi_row_to_jsonb(relation, after) : NULL;
	if (before || after)
		change.primary_key =
			bemi_row_primary_key(relation, after ? after : before);
	add_context(stitch, &change);
	change.committed_at = stitch->committed_at;
	change.queued_at = bemi_stream_heard_at(stitch->stream);
	change.xid = stitch->xid;
	change.position = event->position;

	bemi_store_add(stitch->store, &change);
}

static void
add_truncates(BemiStitch *stitch, const BemiEvent *event)
{
	ListCell   *cell;

	foreach(cell, event->truncated)
	{
		add_change(stitch, event, lfirst(cell), "TRUNCATE", NULL, NULL);
	}
}

static void
end_transaction(BemiStitch *stitch, const BemiEvent *event)
{
	BemiStored	transaction = {stitch->commit_lsn, stitch->committed_at,
	stitch->xid};

	bemi_store_end_transaction(stitch->store, &transaction, event->end_lsn);
	stitch->in_transaction = false;
}

/*
 * Throws an error if the event may not come at this place of the stream.
 * Transactions are not nested, and all events except non-transactional
 * messages are within one.
 */
static void
check_event_place(const BemiStitch *stitch, const BemiEvent *event)
{
	bool		anywhere = event->kind == BEMI_EVENT_NOTHING ||
		(event->kind == BEMI_EVENT_MESSAGE && !event->transactional);
	bool		begins = event->kind == BEMI_EVENT_BEGIN;

	if (!anywhere && begins == stitch->in_transaction)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 begins ?
				 errmsg("source began a transaction within another one") :
				 errmsg("source sent a change outside of a transaction")));
	Assert(anywhere || begins || IsTransactionState());
}

/*
 * Processes one event.
 */
void
bemi_stitch_event(BemiStitch *stitch, const BemiEvent *event)
{
	BemiImage	before = {.row = &event->before,
		.is_old = true,
	.is_key = event->before_is_key};
	BemiImage	after = {.row = &event->after,.is_key = event->before_is_key};

	if (event->has_before)
		after.old = &event->before;
	check_event_place(stitch, event);
	switch (event->kind)
	{
		case BEMI_EVENT_BEGIN:
			begin_transaction(stitch, event);
			break;
		case BEMI_EVENT_COMMIT:
			end_transaction(stitch, event);
			break;
		case BEMI_EVENT_INSERT:
			add_change(stitch, event, event->relation, "CREATE", NULL, &after);
			break;
		case BEMI_EVENT_UPDATE:
			add_change(stitch, event, event->relation, "UPDATE",
					   event->has_before ? &before : NULL, &after);
			break;
		case BEMI_EVENT_DELETE:
			add_change(stitch, event, event->relation, "DELETE", &before,
					   NULL);
			break;
		case BEMI_EVENT_TRUNCATE:
			add_truncates(stitch, event);
			break;
		case BEMI_EVENT_MESSAGE:
			apply_message(stitch, event);
			break;
		case BEMI_EVENT_RELATION:
			apply_relation(stitch, event->relation);
			break;
		case BEMI_EVENT_NOTHING:
			break;
	}
}
