/*-------------------------------------------------------------------------
 *
 * protocol.c
 *		Reads the messages of pgoutput.
 *
 * Input: messages of the output plugin pgoutput, protocol version 1 (see
 * "Logical Replication Message Formats" in PostgreSQL's documentation).
 * Output: events with tables, rows and messages.  The server's own functions
 * read the messages wherever they can.  They cannot read the description of a
 * table, because its names are in the source's encoding.
 *
 * All texts are converted to this database's encoding as they are read.  The
 * content of messages is not, because it may be signed in its original bytes.
 *
 * An event and its values live in the caller's memory context, which the
 * caller resets after each event.  The description of a table has a memory
 * context of its own, and lives until the stream describes the table again.
 *
 * What must never happen: tables that are created and dropped all day fill the
 * memory, or a table is forgotten while rows of it can still come. pgoutput
 * describes a table once, and again after an invalidation of its relcache
 * entry.  DROP TABLE sends such an invalidation, and all transactions with
 * rows of the table have ended before it gets its lock.  So the source is
 * asked from time to time which tables were dropped, and for the end of its
 * WAL.  They are forgotten when the stream has passed that position.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqformat.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "decode/decode_internal.h"
#include "stream/stream.h"

struct BemiProtocol
{
	BemiStream *stream;			/* for the source's encoding */
	MemoryContext memory;		/* parent of the relations' own */
	HTAB	   *relations;		/* source's OID -> BemiRelation */
	long		known;			/* relations when the source was asked last */
	List	   *gone;			/* OIDs of dropped tables, without rows */
	XLogRecPtr	gone_at;		/* from this position on */
};

/* Number of new tables after which the source is asked for dropped ones. */
#define ASK_AFTER	200

/*
 * Creates a reader, in the current memory context.
 */
BemiProtocol *
bemi_protocol_create(BemiStream *stream)
{
	BemiProtocol *protocol = palloc0(sizeof(BemiProtocol));
	HASHCTL		control = {0};

	protocol->stream = stream;
	protocol->memory = AllocSetContextCreate(CurrentMemoryContext,
											 "bemi relations",
											 ALLOCSET_DEFAULT_SIZES);
	control.keysize = sizeof(Oid);
	control.entrysize = sizeof(BemiRelation);
	control.hcxt = protocol->memory;
	protocol->relations = hash_create("bemi relations", 128, &control,
									  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return protocol;
}

/*
 * Reads a name of the source, palloc'd.
 */
static char *
read_name(BemiProtocol *protocol, StringInfo bytes)
{
	return bemi_stream_string(protocol->stream, pq_getmsgrawstring(bytes));
}

/*
 * Reads the columns that a relation message lists.
 */
static void
read_columns(BemiProtocol *protocol, BemiRelation *relation, StringInfo bytes)
{
	const int	key_flag = 1;

	relation->column_count = pq_getmsgint(bytes, 2);
	relation->columns =
		palloc0(sizeof(BemiColumn) * Max(relation->column_count, 1));
	for (int i = 0; i < relation->column_count; i++)
	{
		BemiColumn *column = &relation->columns[i];

		column->identity = (pq_getmsgbyte(bytes) & key_flag) != 0;
		column->name = read_name(protocol, bytes);
		column->type_oid = pq_getmsgint(bytes, 4);
		(void) pq_getmsgint(bytes, 4);	/* its typmod */
	}
}

/*
 * Reads the description of a table, which is new or has changed. description.c
 * adds the facts that the stream lacks.
 */
static BemiRelation *
read_relation(BemiProtocol *protocol, StringInfo bytes)
{
	Oid			oid = pq_getmsgint(bytes, 4);
	BemiRelation *relation;
	MemoryContext caller;
	bool		found;

	/* A new table may have got the OID of a dropped one. */
	protocol->gone = list_delete_oid(protocol->gone, oid);
	relation = hash_search(protocol->relations, &oid, HASH_ENTER, &found);
	if (found && relation->memory != NULL)
		MemoryContextDelete(relation->memory);
	memset(relation, 0, sizeof(BemiRelation));
	relation->oid = oid;
	relation->memory = AllocSetContextCreate(protocol->memory, "bemi relation",
											 ALLOCSET_SMALL_SIZES);

	caller = MemoryContextSwitchTo(relation->memory);
	relation->schema = read_name(protocol, bytes);
	if (relation->schema[0] == '\0')
		relation->schema = "pg_catalog";
	relation->table = read_name(protocol, bytes);
	(void) pq_getmsgbyte(bytes);	/* its replica identity */
	read_columns(protocol, relation, bytes);
	MemoryContextSwitchTo(caller);
	return relation;
}

static BemiRelation *
find_relation(BemiProtocol *protocol, Oid oid)
{
	BemiRelation *relation =
		hash_search(protocol->relations, &oid, HASH_FIND, NULL);

	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source sent a row of table %u without having described the table",
						oid)));
	return relation;
}

/*
 * Whether the old row consists only of its replica identity.  A letter behind
 * the table's OID shows that.
 */
static bool
old_is_key(StringInfo bytes)
{
	int			mark = bytes->cursor + sizeof(uint32);

	return mark < bytes->len && bytes->data[mark] == 'K';
}

static void
read_truncate(BemiProtocol *protocol, StringInfo bytes, BemiEvent *event)
{
	bool		cascade;
	bool		restart_identity;
	List	   *oids =
		logicalrep_read_truncate(bytes, &cascade, &restart_identity);
	ListCell   *cell;

	event->truncated = NIL;
	foreach(cell, oids)
	{
		event->truncated = lappend(event->truncated,
								   find_relation(protocol, lfirst_oid(cell)));
	}
}

/*
 * Reads a logical message.  The server has no function for that, because its
 * subscribers do not use them.
 */
static void
read_message(StringInfo bytes, BemiEvent *event)
{
	const int	transactional_flag = 1;

	event->transactional = (pq_getmsgbyte(bytes) & transactional_flag) != 0;
	(void) pq_getmsgint64(bytes);	/* its LSN */
	event->prefix = pq_getmsgrawstring(bytes);
	event->content_len = pq_getmsgint(bytes, 4);
	event->content = pq_getmsgbytes(bytes, event->content_len);
}

/*
 * Replaces a time outside of the type's range by an infinite one.  Only a
 * broken source sends such a time, but it must be possible to store and show
 * it.
 */
static TimestampTz
valid_timestamp(TimestampTz time)
{
	if (IS_VALID_TIMESTAMP(time))
		return time;
	return time < 0 ? DT_NOBEGIN : DT_NOEND;
}

static void
read_begin(StringInfo bytes, BemiEvent *event)
{
	LogicalRepBeginData begin;

	logicalrep_read_begin(bytes, &begin);
	event->commit_lsn = begin.final_lsn;
	event->committed_at = valid_timestamp(begin.committime);
	event->xid = begin.xid;
}

static void
read_commit(StringInfo bytes, BemiEvent *event)
{
	LogicalRepCommitData commit;

	logicalrep_read_commit(bytes, &commit);
	event->commit_lsn = commit.commit_lsn;
	event->end_lsn = commit.end_lsn;
	event->committed_at = commit.committime;
}

/*
 * Converts the values of a row.
 */
static void
convert_row_encoding(BemiProtocol *protocol, LogicalRepTupleData *row)
{
	for (int i = 0; i < row->ncols; i++)
	{
		StringInfo	value = &row->colvalues[i];

		if (row->colstatus[i] == LOGICALREP_COLUMN_TEXT)
			value->data =
				bemi_stream_text(protocol->stream, value->data, &value->len);
	}
}

/*
 * Reads a changed row; "action" is the letter of the message.
 */
static void
read_row(BemiProtocol *protocol, char action, StringInfo bytes,
		 BemiEvent *event)
{
	Oid			oid;

	event->has_before = event->before_is_key = false;
	switch (action)
	{
		case LOGICAL_REP_MSG_INSERT:
			oid = logicalrep_read_insert(bytes, &event->after);
			event->kind = BEMI_EVENT_INSERT;
			break;
		case LOGICAL_REP_MSG_UPDATE:
			event->before_is_key = old_is_key(bytes);
			oid = logicalrep_read_update(bytes, &event->has_before,
										 &event->before, &event->after);
			event->kind = BEMI_EVENT_UPDATE;
			break;
		default:
			event->before_is_key = old_is_key(bytes);
			oid = logicalrep_read_delete(bytes, &event->before);
			event->has_before = true;
			event->kind = BEMI_EVENT_DELETE;
			break;
	}
	event->relation = find_relation(protocol, oid);
	if (event->has_before)
		convert_row_encoding(protocol, &event->before);
	if (event->kind != BEMI_EVENT_DELETE)
		convert_row_encoding(protocol, &event->after);
}

/*
 * Reads one message into *event.  Its values are in the current memory context
 * or point into the bytes.  "position" is the LSN in the frame.  Needs a
 * transaction if the message describes a table.
 */
void
bemi_protocol_read(BemiProtocol *protocol, XLogRecPtr position,
				   StringInfo bytes, BemiEvent *event)
{
	char		action = pq_getmsgbyte(bytes);

	event->kind = BEMI_EVENT_NOTHING;
	event->position = position;
	switch (action)
	{
		case LOGICAL_REP_MSG_BEGIN:
			event->kind = BEMI_EVENT_BEGIN;
			read_begin(bytes, event);
			break;
		case LOGICAL_REP_MSG_COMMIT:
			event->kind = BEMI_EVENT_COMMIT;
			read_commit(bytes, event);
			break;
		case LOGICAL_REP_MSG_RELATION:
			event->kind = BEMI_EVENT_RELATION;
			event->relation = read_relation(protocol, bytes);
			break;
		case LOGICAL_REP_MSG_INSERT:
		case LOGICAL_REP_MSG_UPDATE:
		case LOGICAL_REP_MSG_DELETE:
			read_row(protocol, action, bytes, event);
			break;
		case LOGICAL_REP_MSG_TRUNCATE:
			event->kind = BEMI_EVENT_TRUNCATE;
			read_truncate(protocol, bytes, event);
			break;
		case LOGICAL_REP_MSG_MESSAGE:
			event->kind = BEMI_EVENT_MESSAGE;
			read_message(bytes, event);
			break;
		case LOGICAL_REP_MSG_TYPE:
		case LOGICAL_REP_MSG_ORIGIN:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_PROTOCOL_VIOLATION),
					 errmsg("source sent a message of unknown type \"%c\"",
							action)));
	}
}

/*
 * OIDs of all relations.
 */
static List *
list_relations(const BemiProtocol *protocol)
{
	HASH_SEQ_STATUS scan;
	BemiRelation *relation;
	List	   *oids = NIL;

	hash_seq_init(&scan, protocol->relations);
	while ((relation = hash_seq_search(&scan)) != NULL)
		oids = lappend_oid(oids, relation->oid);
	return oids;
}

static void
forget_gone_relations(BemiProtocol *protocol)
{
	ListCell   *cell;

	foreach(cell, protocol->gone)
	{
		Oid			oid = lfirst_oid(cell);
		BemiRelation *relation =
			hash_search(protocol->relations, &oid, HASH_FIND, NULL);

		if (relation == NULL)
			continue;
		MemoryContextDelete(relation->memory);
		(void) hash_search(protocol->relations, &oid, HASH_REMOVE, NULL);
	}
	list_free(protocol->gone);
	protocol->gone = NIL;
	protocol->known = hash_get_num_entries(protocol->relations);
}

/*
 * Forgets tables that have been dropped at the source.  The worker calls it
 * between source transactions.
 */
void
bemi_protocol_forget_gone(BemiProtocol *protocol)
{
	MemoryContext caller;
	List	   *oids;

	if (protocol->gone != NIL &&
		bemi_stream_received(protocol->stream) >= protocol->gone_at)
		forget_gone_relations(protocol);
	if (protocol->gone != NIL || hash_get_num_entries(protocol->relations) <
		protocol->known + ASK_AFTER)
		return;

	caller = MemoryContextSwitchTo(protocol->memory);
	oids = list_relations(protocol);
	protocol->known = list_length(oids);
	protocol->gone =
		bemi_stream_gone(protocol->stream, oids, &protocol->gone_at);
	list_free(oids);
	MemoryContextSwitchTo(caller);
}
