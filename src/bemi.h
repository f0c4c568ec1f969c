/*-------------------------------------------------------------------------
 *
 * bemi.h
 *		What all rooms share: names and prefixes.
 *
 * bemi.c has the map.
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
#include "portability/instr_time.h"
#include "replication/logicalproto.h"
#include "utils/jsonb.h"
#include "utils/relcache.h"
#include "utils/uuid.h"

#include "compat.h"

/*
 * Milliseconds of a monotonic clock, the same for all processes of a server:
 * for delays and time-outs, which a time of day that is set back would make
 * endless.  Never 0.
 */
static inline int64
bemi_monotonic_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return 1 + (int64) INSTR_TIME_GET_MILLISEC(now);
}

/*
 * Whether so many milliseconds have passed since that time of
 * bemi_monotonic_ms(); 0: since ever.
 */
static inline bool
bemi_has_passed(int64 since, int64 milliseconds)
{
	return since == 0 || bemi_monotonic_ms() - since >= milliseconds;
}

/*
 * Prefixes of messages in the WAL: contexts, the marker that bemi.sync() waits
 * for, and tracking messages (track/message.c).
 */
#define BEMI_MESSAGE_PREFIX		"_bemi"
#define BEMI_MARKER_PREFIX		"_bemi_sync"
#define BEMI_TRACKING_PREFIX	"_bemi_tracking"

#define BEMI_PUBLICATION		"bemi"

/* Schemas of the extension: what users call and read, and the rest. */
#define BEMI_SCHEMA				"bemi"
#define BEMI_INTERNAL_SCHEMA	"_bemi"

#endif							/* BEMI_H */
