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
#include "nodes/plannodes.h"
#include "replication/logicalproto.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#include "compat.h"

/*
 * Prefixes of messages in the WAL: contexts, the marker that bemi.sync() waits
 * for, and what is tracked (track_message.c).
 */
#define BEMI_MESSAGE_PREFIX		"_bemi"
#define BEMI_MARKER_PREFIX		"_bemi_sync"
#define BEMI_TRACKING_PREFIX	"_bemi_tracking"

#define BEMI_PUBLICATION		"bemi"

/* ---------- hmac.c ---------- */

#define BEMI_HMAC_LEN	64		/* hexadecimal digits */

/* What a key is derived for; no two uses of the signing key share one. */
#define BEMI_KEY_TRACKING		"bemi tracking message"
#define BEMI_KEY_REDACT_HASH	"bemi redact_hash"
#define BEMI_KEY_VERSION		"bemi secret version"

extern char *bemi_hmac(const char *key, const char *bytes, int len);
extern char *bemi_derive_key(const char *secret, const char *purpose);

/* ---------- context.c ---------- */

/*
 * What bemi.include may add to a context that is as large as the settings allow.
 */
#define BEMI_FACTS_SIZE		(64 * 1024)
#define BEMI_FACTS_KEYS		8

/*
 * The text that a statement was parsed from, which may hold others, and where in
 * it the statement stands.
 */
typedef struct BemiStatementText
{
	const char *text;			/* NULL: not known */
	int			location;		/* in bytes */
	int			len;			/* 0: up to the end */
} BemiStatementText;

extern bool bemi_context_is_valid(const char *json, int len, char **detail);
extern bool bemi_is_json_object(const char *json, int len);
extern const char *bemi_context_of_statement(const BemiStatementText *statement);
extern bool bemi_context_is_too_large(const char *content, int len);
extern void bemi_context_init(void);

/* context_comment.c */
extern BemiStatementText bemi_statement_text(const char *text,
											 const PlannedStmt *statement);
extern void bemi_statement_begins(void);
extern void bemi_utility_begins(const Node *command);
extern const char *bemi_context_in_comment(const BemiStatementText *statement);
extern void bemi_context_comment_init(void);

/* context_facts.c */
extern bool bemi_facts_are_included(void);
extern const char *bemi_context_with_facts(const char *context);
extern void bemi_require_context(const char *context, Relation table);
extern void bemi_context_facts_init(void);

/* ---------- capture.c ---------- */

extern Oid	bemi_emit_context_oid(void);
extern void bemi_capture_init(void);

/* track_rights.c */
extern Oid	bemi_extension_owner(void);

/* ---------- settings.c ---------- */

extern void bemi_pin_settings(void);
extern char *bemi_settings_as_options(const char *options);
extern bool bemi_settings_are_refused(const char *message);
extern char *bemi_settings_as_commands(int server_version, const char *datestyle,
									   const char *timezone);

/* ---------- stream.c ---------- */

/*
 * SQLSTATEs of the errors that a stream ends with because of what the source
 * decodes: there is no use in trying again; the error is likely to come again at
 * the same place; the same, and the values of a row are the cause.
 */
#define BEMI_ERRCODE_UNREADABLE		MAKE_SQLSTATE('B', 'E', 'M', 'I', 'U')
#define BEMI_ERRCODE_REPEATABLE		MAKE_SQLSTATE('B', 'E', 'M', 'I', 'R')
#define BEMI_ERRCODE_ROW_AT_FAULT	MAKE_SQLSTATE('B', 'E', 'M', 'I', 'F')

typedef struct BemiStream BemiStream;

/* A transaction of a source that is stored. */
typedef struct BemiStored
{
	XLogRecPtr	commit_lsn;		/* InvalidXLogRecPtr: there is none */
	TimestampTz committed_at;
	TransactionId xid;
} BemiStored;

/* What the source says of itself. */
typedef struct BemiSourceIdentity
{
	uint64		system_identifier;
	uint32		timeline;
	XLogRecPtr	position;		/* end of its flushed WAL */
	TimestampTz started_at;		/* its server */
	char	   *database;
	char	   *ancestors;		/* former timelines: lines of number and
								 * position at which each was left; "" for the
								 * first timeline, NULL: not known */
} BemiSourceIdentity;

/* One part of what a type of the source is made of. */
typedef struct BemiTypePart
{
	Oid			type;
	char		kind;			/* b: it is there, d: domain over other, a: array
								 * of other, whose delimiter is name, c:
								 * composite, f: its next field, j: becomes
								 * json by function other */
	Oid			other;
	char	   *name;
} BemiTypePart;

/* What the source says of a slot. */
typedef struct BemiSlot
{
	bool		exists;
	bool		here;			/* of the database that is connected to */
	bool		made;			/* and not only about to be */
	bool		lost;			/* invalidated: its WAL is gone */
	bool		active;			/* somebody reads it */
	XLogRecPtr	confirmed;
} BemiSlot;

/* A slot of the source that nobody reads. */
typedef struct BemiIdleSlot
{
	char	   *name;
	char	   *kept;			/* WAL, with its unit */
} BemiIdleSlot;

/* How much a slot costs the source. */
typedef struct BemiSlotCost
{
	XLogRecPtr	source_lsn;		/* end of the source's WAL */
	int64		wal_kept;		/* bytes, -1 if unknown */
	char		wal_status[16];
	int32		catalog_xmin_age;	/* -1 if unknown */
} BemiSlotCost;

/* Whether commits at the source may wait for the stream's walsender. */
typedef struct BemiElection
{
	bool		possible;
	char	   *advice;			/* what to do if that is not meant, or "" */
} BemiElection;

extern BemiStream *bemi_stream_connect(const char *conninfo, const char *source,
									   const char *name,
									   void (*on_wait) (BemiStream *));
extern void bemi_stream_on_wait(BemiStream *stream,
								void (*on_wait) (BemiStream *));
extern XLogRecPtr bemi_stream_failed_at(void);
extern void bemi_stream_cancel(BemiStream *stream);
extern void bemi_stream_close(BemiStream *stream);
extern int	bemi_stream_walsender(const BemiStream *stream);
extern bool bemi_stream_is_here(const BemiStream *stream);
extern void bemi_stream_identify(BemiStream *stream, BemiSourceIdentity *identity);
extern void bemi_stream_find_slot(BemiStream *stream, const char *name,
								  BemiSlot *slot);
extern TimestampTz bemi_stream_now(BemiStream *stream);
extern void bemi_stream_look_at_horizon(BemiStream *stream);
extern TimestampTz bemi_stream_horizon(BemiStream *stream, XLogRecPtr *position);
extern char *bemi_stream_published(BemiStream *stream);
extern bool bemi_stream_slot_cost(BemiStream *stream, const char *slot,
								  BemiSlotCost *cost);
extern List *bemi_stream_idle_slots(BemiStream *stream, const char *but);
extern void bemi_stream_election(BemiStream *stream, BemiElection *election);
extern void bemi_stream_rest(BemiStream *stream);
extern void bemi_stream_close_catalog(BemiStream *stream);
extern XLogRecPtr bemi_stream_create_slot(BemiStream *stream, const char *slot,
										  char **snapshot);
extern void bemi_stream_drop_slot(BemiStream *stream, const char *slot);
extern void bemi_stream_start(BemiStream *stream, const char *slot,
							  XLogRecPtr position);
extern bool bemi_stream_receive(BemiStream *stream, StringInfo message);
extern void bemi_stream_wait(BemiStream *stream, long timeout_ms);
extern XLogRecPtr bemi_stream_position(const BemiStream *stream);
extern TimestampTz bemi_stream_heard_at(const BemiStream *stream);
extern XLogRecPtr bemi_stream_received(const BemiStream *stream);
extern bool bemi_stream_reply_requested(const BemiStream *stream);
extern void bemi_stream_confirm(BemiStream *stream, XLogRecPtr flushed);
extern int	bemi_stream_learn_patience(BemiStream *stream);

/* stream_probe.c */
extern XLogRecPtr bemi_stream_find_commit(BemiStream *stream, const char *slot,
										  XLogRecPtr row, XLogRecPtr begin,
										  XLogRecPtr end);
extern XLogRecPtr bemi_stream_last_common(BemiStream *stream, const char *slot,
										  XLogRecPtr from, XLogRecPtr end,
										  bool (*is_stored) (XLogRecPtr, TimestampTz, TransactionId));

/* stream_wal.c */

/* What the source's WAL has where a transaction has committed. */
typedef enum BemiTrace
{
	BEMI_TRACE_FOUND,			/* this very transaction */
	BEMI_TRACE_GONE,			/* something else */
	BEMI_TRACE_UNKNOWN			/* the WAL cannot be read */
} BemiTrace;

extern BemiTrace bemi_stream_trace(BemiStream *stream, uint32 timeline,
								   XLogRecPtr end,
								   const BemiStored *transaction, char **refusal);

/* stream_description.c */
extern char *bemi_stream_describe(BemiStream *stream, Oid relation);
extern char *bemi_stream_descriptions(BemiStream *stream, const char *snapshot);
extern List *bemi_stream_gone(BemiStream *stream, const List *oids,
							  XLogRecPtr *position);

/* stream_encoding.c */
extern char *bemi_stream_text(BemiStream *stream, char *text, int *len);
extern char *bemi_stream_string(BemiStream *stream, const char *string);

/* stream_secret.c */
extern bool bemi_stream_has_secret(const BemiStream *stream);
extern void bemi_stream_look_for_secret(BemiStream *stream);
extern char *bemi_stream_secret_version(const BemiStream *stream);
extern bool bemi_stream_secret_is_new(BemiStream *stream);
extern void bemi_stream_settle_secret(BemiStream *stream, bool now);
extern char *bemi_stream_hash_key(const BemiStream *stream);
extern char *bemi_stream_verify(BemiStream *stream, const char *content, int len);

/* ---------- row_type.c ---------- */

/* How a value's text becomes a JSON value, see row_json.c. */
typedef enum BemiTypeKind
{
	BEMI_TYPE_TEXT,				/* a string, as it is */
	BEMI_TYPE_BOOLEAN,
	BEMI_TYPE_NUMBER,
	BEMI_TYPE_TIMESTAMP,		/* with and without time zone */
	BEMI_TYPE_JSON,				/* json and jsonb */
	BEMI_TYPE_ARRAY,
	BEMI_TYPE_COMPOSITE,
	BEMI_TYPE_JSON_CAST			/* parsed by its type, then cast to json */
} BemiTypeKind;

/* What is known of a type of the source; a domain is what it is over. */
typedef struct BemiType
{
	Oid			oid;
	BemiTypeKind kind;
	bool		risky;			/* the conversion may fail */
	FmgrInfo	input;			/* ARRAY, COMPOSITE, JSON_CAST: text -> datum */
	Oid			input_parameter;
	int32		input_typmod;
	FmgrInfo	output;			/* ARRAY: element -> text, unless it is that;
								 * JSON_CAST: datum -> json */
	Oid			parsed_as;		/* ARRAY: element type that input makes */
	const struct BemiType *element; /* ARRAY */
	int			field_count;	/* COMPOSITE */
	const char **field_names;
	const struct BemiType **field_types;
} BemiType;

typedef struct BemiTypes BemiTypes;

extern BemiTypes *bemi_types_begin(const List *parts);
extern bool bemi_types_know(BemiTypes *types, Oid oid);
extern const BemiType *bemi_type_of(BemiTypes *types, Oid oid);
extern List *bemi_type_parts_elsewhere(const List *parts);
extern bool bemi_type_is_known(Oid type);

/* ---------- row_rules.c ---------- */

typedef struct BemiRelation BemiRelation;
typedef struct BemiColumn BemiColumn;

/* What becomes of a column's values. */
typedef enum BemiRedaction
{
	BEMI_KEEP,
	BEMI_REDACT,				/* replaced by "[redacted]" */
	BEMI_REDACT_HASH			/* replaced by a keyed hash */
} BemiRedaction;

extern bool bemi_rule_is_prefix(const char *rule);
extern bool bemi_rule_matches(const char *column, const char *rule);
extern bool bemi_rules_match(const char *column, const List *rules);
extern void bemi_rules_apply(BemiRelation *relation, const List *ignore,
							 const List *redact, const List *redact_hash,
							 const List *known, const char *hash_key);
extern bool bemi_rules_keep_update(const BemiRelation *relation,
								   const LogicalRepTupleData *before,
								   const LogicalRepTupleData *after);
extern char *bemi_redacted(const BemiColumn *column, const char *text, int len);
extern void bemi_rules_init(void);

/* row_description.c */
extern bool bemi_description_fits(const BemiRelation *relation,
								  const Jsonb *description);
extern void bemi_description_apply(BemiRelation *relation, const Jsonb *first,
								   const Jsonb *second, const char *hash_key,
								   bool is_local);

/* ---------- protocol.c ---------- */

/* A column of a table of the source. */
struct BemiColumn
{
	const char *name;
	Oid			type_oid;
	const BemiType *type;
	bool		identity;		/* belongs to the replica identity */
	bool		ignored;		/* alone, makes no change, see row_rules.c */
	BemiRedaction redaction;
	const char *hash_key;		/* for BEMI_REDACT_HASH; NULL: unknown */
};

/* A table of the source, as the stream describes it; kept until it changes. */
struct BemiRelation
{
	Oid			oid;			/* at the source; hash key, must be first */
	MemoryContext memory;		/* all that hangs below */
	const char *schema;
	const char *table;
	bool		risky;			/* has columns whose conversion may fail */
	int			column_count;
	BemiColumn *columns;
	int		   *order;			/* of columns in jsonb, as indexes into them */
	int			key_count;
	int		   *keys;			/* primary key, as indexes into columns */
	bool		identity_is_partial;	/* of some partitions, the WAL does not
										 * hold the old row, and nothing says so */
	bool		ignores;		/* some of its columns are ignored */
};

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
extern void bemi_protocol_forget_gone(BemiProtocol *protocol);

/* ---------- row_json.c ---------- */

/* One state of a row: its values, and where those left out may be found. */
typedef struct BemiImage
{
	const LogicalRepTupleData *row;
	const LogicalRepTupleData *old; /* for unchanged TOAST values; or NULL */
	bool		is_old;			/* the row before the change */
	bool		is_key;			/* holds the replica identity's columns only;
								 * "old" does, if there is one */
} BemiImage;

extern void bemi_row_order(BemiRelation *relation);
extern Jsonb *bemi_row_to_jsonb(const BemiRelation *relation,
								const BemiImage *image);
extern char *bemi_row_primary_key(const BemiRelation *relation,
								  const BemiImage *image);
extern Jsonb *bemi_text_to_jsonb(const char *text, int len);

/* ---------- stitch.c ---------- */

/* stitch_context.c */
extern Jsonb *bemi_context_of_message(BemiStream *stream, const char *content, int len);
extern bool bemi_context_is_large(const Jsonb *context);
extern Jsonb *bemi_context_small_members(const Jsonb *context, const pg_uuid_t *holder);

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
	Jsonb	   *context;		/* likewise */
	uint64		context_serial; /* the same for the same context */
	TimestampTz committed_at;
	TimestampTz queued_at;		/* when the worker received it */
	TransactionId xid;
	XLogRecPtr	position;
} BemiChange;

typedef struct BemiStitch BemiStitch;
typedef struct BemiHistory BemiHistory;

extern BemiStitch *bemi_stitch_begin(const char *tag, BemiStream *stream,
									 BemiHistory *history);
extern void bemi_stitch_event(BemiStitch *stitch, const BemiEvent *event);

/* ---------- history.c ---------- */

/*
 * Whether so many milliseconds have passed since that time.  Yes also if the clock was
 * set back since then: what is done now and then must not stop until the clock is there
 * again.
 */
static inline bool
bemi_has_passed(TimestampTz since, int ms)
{
	TimestampTz now = GetCurrentTimestamp();

	return now < since || TimestampDifferenceExceeds(since, now, ms);
}

/* What has been stored since somebody last took note of it. */
typedef struct BemiCounts
{
	int64		changes;
	int64		transactions;
	int64		invalid_messages;
	BemiStored	changed;		/* the last transaction with changes */
} BemiCounts;

/* All commits of earlier times than this are stored, and before the position. */
typedef struct BemiUntil
{
	TimestampTz time;			/* 0: not known */
	XLogRecPtr	position;
} BemiUntil;

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
extern void bemi_history_note_secret(BemiHistory *history, const char *version);
extern Jsonb *bemi_history_description(BemiHistory *history,
									   const BemiRelation *relation);
extern void bemi_history_count_invalid(BemiHistory *history);
extern void bemi_history_end_transaction(BemiHistory *history,
										 const BemiStored *transaction,
										 XLogRecPtr end_lsn);
extern void bemi_history_is_complete_until(BemiHistory *history,
										   TimestampTz time,
										   XLogRecPtr position);
extern void bemi_history_flush_commits(BemiHistory *history, bool flush);
extern bool bemi_history_is_due(const BemiHistory *history);
extern bool bemi_history_is_stored(const BemiHistory *history);
extern void bemi_history_commit(BemiHistory *history);
extern bool bemi_history_may_advance(const BemiHistory *history,
									 XLogRecPtr received, bool is_asked);
extern void bemi_history_advance(BemiHistory *history, XLogRecPtr received);
extern XLogRecPtr bemi_history_flushed(BemiHistory *history);
extern bool bemi_history_awaits_flush(const BemiHistory *history);
extern bool bemi_history_awaits_time(const BemiHistory *history);
extern void bemi_history_take_counts(BemiHistory *history,
									 BemiCounts *counts, BemiUntil *until);

/* history_retention.c */
extern void bemi_history_keep_house(void);
extern void bemi_history_retention_init(void);

/* ---------- worker*.c ---------- */

extern void bemi_worker_init(void);
extern bool bemi_database_has_slot(Oid database);

/* history_stored.c */

extern bool bemi_find_last_stored(const char *source, XLogRecPtr from,
								  XLogRecPtr to, BemiStored *stored);
extern bool bemi_is_stored(const char *source, const BemiStored *stored);
extern bool bemi_find_stored_outside(const char *source, XLogRecPtr from,
									 XLogRecPtr to, Datum from_times,
									 Datum to_times, BemiStored *stored);

#endif							/* BEMI_H */
