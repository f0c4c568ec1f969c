/*-------------------------------------------------------------------------
 *
 * bemi.h
 *		What the steps of a change's way tell each other.
 *
 * The steps, in order, with their files; bemi.c has the map.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_H
#define BEMI_H

#include "access/xlogdefs.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/pg_list.h"
#include "replication/logicalproto.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#include "compat.h"

/*
 * Prefixes of messages in the WAL: contexts, the marker that bemi.sync() waits
 * for, and what bemi.emit_tracking() has to say.
 */
#define BEMI_MESSAGE_PREFIX		"_bemi"
#define BEMI_MARKER_PREFIX		"_bemi_sync"
#define BEMI_TRACKING_PREFIX	"_bemi_tracking"

#define BEMI_PUBLICATION		"bemi"

/* ---------- context.c ---------- */

extern const char *bemi_context_of_statement(const char *query);
extern void bemi_context_init(void);

/* context_facts.c */
extern bool bemi_facts_are_included(void);
extern const char *bemi_context_with_facts(const char *context);
extern void bemi_require_context(const char *context, Relation table);
extern void bemi_context_facts_init(void);

/* ---------- capture.c ---------- */

extern void bemi_capture_init(void);

/* capture_track.c */
extern Oid	bemi_extension_owner(void);

/* ---------- stream.c ---------- */

/*
 * SQLSTATE of the error that a stream ends with when there is no use in trying
 * again; nobody else's.
 */
#define BEMI_ERRCODE_UNREADABLE		MAKE_SQLSTATE('B', 'E', 'M', 'I', 'U')

typedef struct BemiStream BemiStream;

/* What the source says of itself. */
typedef struct BemiSourceIdentity
{
	uint64		system_identifier;
	uint32		timeline;
	XLogRecPtr	position;		/* end of its flushed WAL */
	char	   *database;
	char	   *secret;			/* of its messages about tables; NULL: it tells
								 * nothing, for it has no extension, or we may
								 * not read that */
} BemiSourceIdentity;

/* What the source says of a slot. */
typedef struct BemiSlot
{
	bool		exists;
	bool		here;			/* of the database that is connected to */
	bool		made;			/* and not only about to be */
	bool		lost;			/* invalidated: its WAL is gone */
	XLogRecPtr	confirmed;
} BemiSlot;

/* How much a slot costs the source. */
typedef struct BemiSlotCost
{
	XLogRecPtr	source_lsn;		/* end of the source's WAL */
	int64		wal_kept;		/* bytes, -1 if unknown */
	char		wal_status[16];
	int32		catalog_xmin_age;	/* -1 if unknown */
} BemiSlotCost;

extern BemiStream *bemi_stream_connect(const char *conninfo, const char *name,
									   void (*on_wait) (BemiStream *));
extern void bemi_stream_on_wait(BemiStream *stream,
								void (*on_wait) (BemiStream *));
extern void bemi_stream_cancel(BemiStream *stream);
extern void bemi_stream_close(BemiStream *stream);
extern int	bemi_stream_walsender(const BemiStream *stream);
extern void bemi_stream_identify(BemiStream *stream, BemiSourceIdentity *identity);
extern void bemi_stream_find_slot(BemiStream *stream, const char *name,
								  BemiSlot *slot);
extern XLogRecPtr bemi_stream_switch_point(BemiStream *stream,
										   uint32 timeline, uint32 former);
extern TimestampTz bemi_stream_now(BemiStream *stream);
extern char *bemi_stream_published(BemiStream *stream);
extern bool bemi_stream_slot_cost(BemiStream *stream, const char *slot,
								  BemiSlotCost *cost);
extern XLogRecPtr bemi_stream_create_slot(BemiStream *stream, const char *slot);
extern void bemi_stream_drop_slot(BemiStream *stream, const char *slot);
extern List *bemi_stream_key_columns(BemiStream *stream, Oid relation);
extern void bemi_stream_start(BemiStream *stream, const char *slot,
							  XLogRecPtr position);
extern bool bemi_stream_receive(BemiStream *stream, StringInfo message);
extern void bemi_stream_wait(BemiStream *stream, long timeout_ms);
extern XLogRecPtr bemi_stream_position(const BemiStream *stream);
extern XLogRecPtr bemi_stream_received(const BemiStream *stream);
extern TimestampTz bemi_stream_complete_until(const BemiStream *stream);
extern bool bemi_stream_reply_requested(const BemiStream *stream);
extern void bemi_stream_confirm(BemiStream *stream, XLogRecPtr flushed);

/* ---------- protocol.c ---------- */

/* How a column's text becomes a JSON value, see row_json.c. */
typedef enum BemiColumnKind
{
	BEMI_COLUMN_TEXT,			/* a string, as it is */
	BEMI_COLUMN_BOOLEAN,
	BEMI_COLUMN_NUMBER,
	BEMI_COLUMN_TIMESTAMP,		/* with and without time zone */
	BEMI_COLUMN_JSON,			/* json and jsonb */
	BEMI_COLUMN_ARRAY			/* parsed by its type, then to_jsonb() */
} BemiColumnKind;

typedef struct BemiColumn
{
	const char *name;
	Oid			type;
	bool		identity;		/* belongs to the replica identity */
	BemiColumnKind kind;
	FmgrInfo	input;			/* BEMI_COLUMN_ARRAY: text -> datum */
	Oid			input_parameter;
	FmgrInfo	to_jsonb;		/* BEMI_COLUMN_ARRAY: datum -> jsonb */
} BemiColumn;

/* A table of the source, as the stream describes it; kept until it changes. */
typedef struct BemiRelation
{
	Oid			oid;			/* at the source; hash key, must be first */
	MemoryContext memory;		/* all that hangs below */
	const char *schema;
	const char *table;
	bool		risky;			/* has columns whose conversion may fail */
	int			column_count;
	BemiColumn *columns;
	int			key_count;
	int		   *keys;			/* primary key, as indexes into columns */
} BemiRelation;

typedef enum BemiEventKind
{
	BEMI_EVENT_BEGIN,
	BEMI_EVENT_COMMIT,
	BEMI_EVENT_INSERT,
	BEMI_EVENT_UPDATE,
	BEMI_EVENT_DELETE,
	BEMI_EVENT_TRUNCATE,
	BEMI_EVENT_MESSAGE,
	BEMI_EVENT_RELATION,		/* a table is described */
	BEMI_EVENT_NOTHING			/* of no interest to the history */
} BemiEventKind;

/* What one message of pgoutput says; lives until the next one is read. */
typedef struct BemiEvent
{
	BemiEventKind kind;
	XLogRecPtr	position;		/* of the record, as the stream's frame says */

	/* BEGIN, COMMIT */
	XLogRecPtr	commit_lsn;
	XLogRecPtr	end_lsn;		/* COMMIT only */
	TimestampTz committed_at;
	TransactionId xid;			/* BEGIN only */

	/* INSERT, UPDATE, DELETE, RELATION; TRUNCATE has a list */
	BemiRelation *relation;
	bool		has_before;		/* the WAL holds the old row, or its key */
	bool		before_is_key;	/* only the columns of the replica identity */
	LogicalRepTupleData before;
	LogicalRepTupleData after;
	List	   *truncated;		/* of BemiRelation */

	/* MESSAGE */
	bool		transactional;
	const char *prefix;
	const char *content;
	int			content_len;
} BemiEvent;

typedef struct BemiProtocol BemiProtocol;

extern BemiProtocol *bemi_protocol_begin(BemiStream *stream);
extern void bemi_protocol_read(BemiProtocol *protocol, XLogRecPtr position,
							   StringInfo bytes, BemiEvent *event);

/* ---------- row_json.c ---------- */

/* One state of a row: its values, and where those left out may be found. */
typedef struct BemiImage
{
	const LogicalRepTupleData *row;
	const LogicalRepTupleData *old; /* for unchanged TOAST values; or NULL */
	bool		is_key;			/* holds the replica identity's columns only */
} BemiImage;

extern void bemi_column_init(BemiColumn *column);
extern Jsonb *bemi_row_to_jsonb(const BemiRelation *relation,
								const BemiImage *image);
extern char *bemi_row_primary_key(const BemiRelation *relation,
								  const BemiImage *image);
extern Jsonb *bemi_text_to_jsonb(const char *text, int len);

/* ---------- stitch.c ---------- */

/* A row of bemi.changes, but for what history.c knows better. */
typedef struct BemiChange
{
	pg_uuid_t	id;
	const char *schema;
	const char *table;
	const char *primary_key;	/* or NULL */
	const char *operation;
	Jsonb	   *before;			/* NULL: an empty object */
	Jsonb	   *after;			/* likewise */
	Jsonb	   *context;
	uint64		context_serial; /* the same for the same context */
	TimestampTz committed_at;
	TransactionId xid;
	XLogRecPtr	position;
} BemiChange;

typedef struct BemiStitch BemiStitch;
typedef struct BemiHistory BemiHistory;

extern BemiStitch *bemi_stitch_begin(const char *tag, BemiHistory *history);
extern void bemi_stitch_event(BemiStitch *stitch, const BemiEvent *event);

/* ---------- history.c ---------- */

/* What has been stored since somebody last took note of it. */
typedef struct BemiCounts
{
	int64		changes;
	int64		transactions;
	int64		invalid_messages;
} BemiCounts;

extern BemiHistory *bemi_history_begin(const char *source,
									   const BemiSourceIdentity *identity,
									   XLogRecPtr origin);
extern void bemi_history_open(BemiHistory *history);
extern void bemi_history_begin_transaction(BemiHistory *history);
extern void bemi_history_add(BemiHistory *history, const BemiChange *change);
extern void bemi_history_begin_tracking(BemiHistory *history,
										const BemiRelation *relation,
										XLogRecPtr at_lsn, TimestampTz at_time);
extern bool bemi_history_take_tracking(BemiHistory *history,
									   const Jsonb *message, TransactionId xid,
									   XLogRecPtr at_lsn, TimestampTz at_time);
extern void bemi_history_count_invalid(BemiHistory *history);
extern void bemi_history_end_transaction(BemiHistory *history,
										 XLogRecPtr end_lsn,
										 TimestampTz committed_at);
extern void bemi_history_is_complete_until(BemiHistory *history,
										   TimestampTz time);
extern bool bemi_history_is_due(const BemiHistory *history);
extern bool bemi_history_is_stored(const BemiHistory *history);
extern void bemi_history_commit(BemiHistory *history);
extern bool bemi_history_may_advance(const BemiHistory *history,
									 XLogRecPtr received, bool is_asked);
extern void bemi_history_advance(BemiHistory *history, XLogRecPtr received);
extern XLogRecPtr bemi_history_flushed(BemiHistory *history);
extern bool bemi_history_awaits_flush(const BemiHistory *history);
extern TimestampTz bemi_history_take_counts(BemiHistory *history,
											BemiCounts *counts);

/* history_retention.c */
extern void bemi_history_keep_house(void);
extern void bemi_history_retention_init(void);

/* ---------- worker*.c ---------- */

extern void bemi_worker_init(void);

#endif							/* BEMI_H */
