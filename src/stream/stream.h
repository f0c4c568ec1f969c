/*-------------------------------------------------------------------------
 *
 * stream.h
 *		A connection to a source, its stream, and queries to it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_STREAM_H
#define BEMI_STREAM_H

#include "bemi.h"

typedef struct BemiStream BemiStream;

/* A stored transaction of a source. */
typedef struct BemiStored
{
	XLogRecPtr	commit_lsn;		/* InvalidXLogRecPtr: there is none */
	TimestampTz committed_at;
	TransactionId xid;
} BemiStored;

/* connection.c */
extern BemiStream *bemi_stream_connect(const char *conninfo,
									   const char *source, const char *name,
									   void (*on_wait) (BemiStream *));
extern BemiStream *bemi_stream_connect_session(const char *conninfo,
											   const char *source,
											   const char *name);
extern void bemi_stream_disconnect(BemiStream *stream);
extern void bemi_stream_on_wait(BemiStream *stream,
								void (*on_wait) (BemiStream *));
extern XLogRecPtr bemi_stream_failed_at(const BemiStream *stream);
extern void bemi_stream_cancel(BemiStream *stream);
extern void bemi_stream_close(BemiStream *stream);
extern int	bemi_stream_walsender(const BemiStream *stream);
extern bool bemi_stream_is_here(const BemiStream *stream);

/* source_queries.c */

/* The identity of a source, as it reports it. */
typedef struct BemiSourceIdentity
{
	uint64		system_identifier;
	uint32		timeline;
	XLogRecPtr	position;		/* end of its flushed WAL */
	TimestampTz started_at;		/* its server */
	char	   *database;
	char	   *ancestors;		/* former timelines: a line for each, with its
								 * number and the position of the switch; ""
								 * on the first timeline, NULL: unknown */
} BemiSourceIdentity;

/* A slot of the source. */
typedef struct BemiSlot
{
	bool		exists;
	bool		here;			/* in the database of the connection */
	bool		made;			/* creation is complete */
	bool		lost;			/* invalidated: its WAL is gone */
	bool		active;			/* has a reader */
	XLogRecPtr	confirmed;
} BemiSlot;

/* A slot of the source without a reader. */
typedef struct BemiIdleSlot
{
	char	   *name;
	char	   *kept;			/* WAL, as text with a unit */
} BemiIdleSlot;

/* The cost of a slot for the source. */
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
	char	   *advice;			/* the statement to type if it is not
								 * intended, or "" */
} BemiElection;

extern void bemi_stream_identify(BemiStream *stream,
								 BemiSourceIdentity *identity);
extern void bemi_stream_find_slot(BemiStream *stream, const char *name,
								  BemiSlot *slot);
extern TimestampTz bemi_stream_now(BemiStream *stream);
extern void bemi_stream_look_at_horizon(BemiStream *stream);
extern TimestampTz bemi_stream_horizon(BemiStream *stream,
									   XLogRecPtr *position);
extern char *bemi_stream_published(BemiStream *stream);
extern bool bemi_stream_slot_cost(BemiStream *stream, const char *slot,
								  BemiSlotCost *cost);
extern List *bemi_stream_idle_slots(BemiStream *stream, const char *but);
extern void bemi_stream_election(BemiStream *stream, BemiElection *election);
extern int	bemi_stream_read_timeout(BemiStream *stream);
extern XLogRecPtr bemi_stream_create_slot(BemiStream *stream, const char *slot,
										  char **snapshot);
extern void bemi_stream_drop_slot(BemiStream *stream, const char *slot);
extern void bemi_stream_close_idle_catalog(BemiStream *stream);
extern void bemi_stream_close_catalog(BemiStream *stream);

/* replication.c */

/*
 * SQLSTATEs of errors that end a stream while the source decodes: trying again
 * is of no use; the error is likely to repeat at the same place; it is likely
 * to repeat, and the values of a row are the cause.
 */
#define BEMI_ERRCODE_UNREADABLE		MAKE_SQLSTATE('B', 'E', 'M', 'I', 'U')
#define BEMI_ERRCODE_REPEATABLE		MAKE_SQLSTATE('B', 'E', 'M', 'I', 'R')
#define BEMI_ERRCODE_ROW_AT_FAULT	MAKE_SQLSTATE('B', 'E', 'M', 'I', 'F')

extern void bemi_stream_start(BemiStream *stream, const char *slot,
							  XLogRecPtr position);
extern bool bemi_stream_receive(BemiStream *stream, StringInfo message);
extern void bemi_stream_wait(BemiStream *stream, long timeout_ms);
extern XLogRecPtr bemi_stream_position(const BemiStream *stream);
extern TimestampTz bemi_stream_heard_at(const BemiStream *stream);
extern XLogRecPtr bemi_stream_received(const BemiStream *stream);
extern bool bemi_stream_is_caught_up(const BemiStream *stream);
extern bool bemi_stream_reply_requested(const BemiStream *stream);
extern void bemi_stream_confirm(BemiStream *stream, XLogRecPtr flushed);

/* probe.c */
extern XLogRecPtr bemi_stream_find_commit(BemiStream *stream, const char *slot,
										  XLogRecPtr row, XLogRecPtr begin,
										  XLogRecPtr end);
extern XLogRecPtr bemi_stream_last_common(
										  BemiStream *stream, const char *slot, XLogRecPtr from,
										  XLogRecPtr end,
										  bool (*is_stored) (XLogRecPtr, TimestampTz, TransactionId));

/* wal.c */

/* The source's WAL at the commit position of a transaction. */
typedef enum BemiTrace
{
	BEMI_TRACE_FOUND,			/* this transaction */
	BEMI_TRACE_GONE,			/* something else */
	BEMI_TRACE_UNKNOWN			/* the WAL cannot be read */
} BemiTrace;

extern BemiTrace bemi_stream_trace(BemiStream *stream, uint32 timeline,
								   XLogRecPtr end,
								   const BemiStored *transaction,
								   char **refusal);

/* descriptions.c */

/* One part of a type of the source. */
typedef struct BemiTypePart
{
	Oid			type;
	char		kind;			/* b: it exists, d: domain over other, a:
								 * array of other with delimiter name, c:
								 * composite, f: its next field, j: function
								 * other casts it to json */
	Oid			other;
	char	   *name;
} BemiTypePart;

extern char *bemi_stream_describe(BemiStream *stream, Oid relation);
extern char *bemi_stream_descriptions(BemiStream *stream,
									  const char *snapshot);
extern List *bemi_stream_gone(BemiStream *stream, const List *oids,
							  XLogRecPtr *position);

/* table_copy.c */

/* A table that is being copied. */
typedef struct BemiTableCopy BemiTableCopy;

/* What is known of it before its rows come. */
typedef struct BemiCopyStart
{
	XLogRecPtr	position;		/* it has all commits whose records begin
								 * before */
	TimestampTz taken_at;		/* by the source's clock; all later commits
								 * have later times */
	char	   *description;	/* as of bemi_stream_describe() */
} BemiCopyStart;

extern BemiTableCopy *bemi_stream_copy_table(BemiStream *stream, Oid relation,
											 const char *slot,
											 BemiCopyStart *start,
											 StringInfo message);
extern bool bemi_stream_copied_row(BemiTableCopy *copy, StringInfo message);

/* encoding.c */
extern char *bemi_stream_text(BemiStream *stream, char *text, int *len);
extern char *bemi_stream_string(BemiStream *stream, const char *string);

/* verify.c */
extern bool bemi_stream_has_signing_key(const BemiStream *stream);
extern void bemi_stream_look_for_signing_key(BemiStream *stream);
extern char *bemi_stream_signing_key_version(const BemiStream *stream);
extern bool bemi_stream_signing_key_is_new(BemiStream *stream);
extern void bemi_stream_settle_signing_key(BemiStream *stream, bool now);
extern char *bemi_stream_hash_key(const BemiStream *stream);
extern char *bemi_stream_verify(BemiStream *stream, const char *content,
								int len);

#endif							/* BEMI_STREAM_H */
