/*-------------------------------------------------------------------------
 *
 * store.h
 *		Writes changes into bemi.changes, reads them back, and maintains them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_STORE_H
#define BEMI_STORE_H

#include "partitioning/partdefs.h"

#include "extension/extension.h"
#include "stream/stream.h"

/* writer.c */

/* A row of bemi.changes, without the columns that store/writer.c fills. */
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

/* A place in the stream at which a table has changed, and the context. */
typedef struct BemiSchemaChange
{
	pg_uuid_t	id;
	XLogRecPtr	commit_lsn;
	TimestampTz committed_at;
	TransactionId xid;
	const Jsonb *context;		/* NULL: an empty object */
} BemiSchemaChange;

typedef struct BemiStore BemiStore;

/* Counts of stored changes, transactions and invalid messages. */
typedef struct BemiCounts
{
	int64		changes;
	int64		transactions;
	int64		invalid_messages;
	BemiStored	changed;		/* last transaction with changes */
} BemiCounts;

/*
 * A time and a position: all commits of earlier times are stored, and are
 * before the position.
 */
typedef struct BemiUntil
{
	TimestampTz time;			/* 0: unknown */
	XLogRecPtr	position;
} BemiUntil;

extern BemiStore *bemi_store_create(const char *source,
									const BemiSourceIdentity *identity,
									XLogRecPtr origin);
extern BemiStore *bemi_store_begin_import(const char *source,
										  const char *database);
extern void bemi_store_end_import(BemiStore *store);
extern void bemi_store_begin_transaction(BemiStore *store);
extern void bemi_store_add(BemiStore *store, const BemiChange *change);
extern void bemi_store_begin_tracking(BemiStore *store, Oid relation,
									  const char *schema, const char *table,
									  XLogRecPtr at_lsn, TimestampTz at_time);
extern void bemi_store_record_seen(BemiStore *store, Oid relation,
								   const char *schema, const char *table,
								   const Jsonb *description,
								   const BemiSchemaChange *change);
extern bool bemi_store_apply_tracking(BemiStore *store,
									  const Jsonb *message,
									  const BemiSchemaChange *change);
extern void bemi_store_record_signing_key(BemiStore *store,
										  const char *version);
extern Jsonb *bemi_store_description(BemiStore *store, Oid relation);
extern void bemi_store_count_invalid(BemiStore *store);
extern void bemi_store_end_transaction(BemiStore *store,
									   const BemiStored *transaction,
									   XLogRecPtr end_lsn);
extern void bemi_store_is_complete_until(BemiStore *store,
										 TimestampTz time,
										 XLogRecPtr position);
extern void bemi_store_flush_commits(BemiStore *store, bool flush);
extern bool bemi_store_is_due(const BemiStore *store);
extern bool bemi_store_is_stored(const BemiStore *store);
extern void bemi_store_commit(BemiStore *store);
extern bool bemi_store_may_advance(const BemiStore *store,
								   XLogRecPtr received, bool is_asked);
extern void bemi_store_advance(BemiStore *store, XLogRecPtr received);
extern XLogRecPtr bemi_store_flushed(BemiStore *store);
extern bool bemi_store_awaits_count(const BemiStore *store);
extern bool bemi_store_awaits_flush(const BemiStore *store);
extern bool bemi_store_awaits_time(const BemiStore *store);
extern void bemi_store_drain_counts(BemiStore *store,
									BemiCounts *counts, BemiUntil *until);

/* partition.c */
extern void bemi_store_find_changes(void);
extern bool bemi_partition_bound_time(PartitionBoundInfo bounds, int i,
									  Datum *time);

/* maintenance.c */
extern void bemi_store_maintain(const char *source);
extern void bemi_store_maintenance_init(void);

/* stored.c */

extern XLogRecPtr bemi_commit_lsn_of(const pg_uuid_t *id);
extern bool bemi_find_last_stored(const char *source, XLogRecPtr from,
								  XLogRecPtr to, BemiStored *stored);
extern bool bemi_is_stored(const char *source, const BemiStored *stored);
extern bool bemi_find_stored_outside(const char *source, XLogRecPtr from,
									 XLogRecPtr to, BemiValue from_times,
									 BemiValue to_times, BemiStored *stored);

#endif							/* BEMI_STORE_H */
