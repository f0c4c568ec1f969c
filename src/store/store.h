/*-------------------------------------------------------------------------
 *
 * store.h
 *		Changes are written into bemi.changes, and kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_STORE_H
#define BEMI_STORE_H

#include "decode/decode.h"
#include "stream/stream.h"

/* writer.c */

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

/* maintenance.c */
extern void bemi_history_keep_house(void);
extern void bemi_history_retention_init(void);

/* stored.c */

extern bool bemi_find_last_stored(const char *source, XLogRecPtr from,
								  XLogRecPtr to, BemiStored *stored);
extern bool bemi_is_stored(const char *source, const BemiStored *stored);
extern bool bemi_find_stored_outside(const char *source, XLogRecPtr from,
									 XLogRecPtr to, Datum from_times,
									 Datum to_times, BemiStored *stored);

#endif							/* BEMI_STORE_H */
