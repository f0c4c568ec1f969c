/*-------------------------------------------------------------------------
 *
 * worker.h
 *		The processes that read sources, and the functions that control them.
 *
 * The library initializes this room, and readers of the history wait for it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_WORKER_H
#define BEMI_WORKER_H

#include "bemi.h"

/* worker.c */
extern void bemi_worker_init(void);

/* A time-out for several waits together. */
typedef struct BemiWait
{
	int64		since;			/* by bemi_monotonic_ms() */
	int64		timeout_ms;
} BemiWait;

/* sync.c */
extern BemiWait bemi_wait_begin(const Interval *timeout);
extern void bemi_wait_for_commits(TimestampTz time, const BemiWait *wait);
extern void bemi_wait_until_stored(const BemiWait *wait);

/* horizon.c */
extern bool bemi_wait_until_ended(TransactionId xid, const BemiWait *wait);
extern void bemi_wait_until_visible(TransactionId xid, const BemiWait *wait);

#endif							/* BEMI_WORKER_H */
