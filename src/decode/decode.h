/*-------------------------------------------------------------------------
 *
 * decode.h
 *		Messages of pgoutput become events, and events become changes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_DECODE_H
#define BEMI_DECODE_H

#include "store/store.h"
#include "stream/stream.h"

typedef struct BemiRelation BemiRelation;
typedef struct BemiColumn BemiColumn;

/* rules.c */
extern void bemi_rules_init(void);
extern bool bemi_is_placeholder(const JsonbValue *value);
extern bool bemi_is_ignored_everywhere(const char *column);

/* protocol.c */

/* A table of the source, as the stream describes it; kept until it changes. */
struct BemiRelation
{
	Oid			oid;			/* at the source; hash key, must be first */
	MemoryContext memory;		/* of all pointers below */
	const char *schema;
	const char *table;
	bool		risky;			/* has columns whose conversion may fail */
	int			column_count;
	BemiColumn *columns;
	int		   *order;			/* indexes into columns, in jsonb's order */
	int			key_count;
	int		   *keys;			/* primary key, as indexes into columns */
	bool		identity_is_partial;	/* for some partitions the WAL lacks
										 * the old row, and the stream does
										 * not show it */
	bool		ignores;		/* some columns are ignored */
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
	BEMI_EVENT_NOTHING			/* not needed for the history */
} BemiEventKind;

/* One message of pgoutput; lives until the next one is read. */
typedef struct BemiEvent
{
	BemiEventKind kind;
	XLogRecPtr	position;		/* of the record, from the stream's frame */

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

extern BemiProtocol *bemi_protocol_create(BemiStream *stream);
extern void bemi_protocol_read(BemiProtocol *protocol, XLogRecPtr position,
							   StringInfo bytes, BemiEvent *event);
extern void bemi_protocol_forget_gone(BemiProtocol *protocol);

/* stitch.c */
typedef struct BemiStitch BemiStitch;

extern BemiStitch *bemi_stitch_create(const char *tag, BemiStream *stream,
									  BemiStore *store);
extern void bemi_stitch_event(BemiStitch *stitch, const BemiEvent *event);
extern void bemi_make_change_id(XLogRecPtr commit_lsn, uint64 ordinal,
								uint32 tag, pg_uuid_t *id);
extern bool bemi_is_next_change_id(const pg_uuid_t *id, const pg_uuid_t *next);

/* row_json.c */
extern char *bemi_key_of_texts(char *const *texts, int count);

/* copied_rows.c */
typedef struct BemiCopiedRows BemiCopiedRows;

extern BemiCopiedRows *bemi_copied_rows_create(BemiStream *stream,
											   const BemiCopyStart *start,
											   StringInfo table,
											   const char *tag);
extern const BemiRelation *bemi_copied_rows_relation(
													 const BemiCopiedRows *rows);
extern pg_uuid_t bemi_copied_rows_start(const BemiCopiedRows *rows);
extern void bemi_copied_rows_read(BemiCopiedRows *rows, StringInfo message,
								  BemiChange *change);

#endif							/* BEMI_DECODE_H */
