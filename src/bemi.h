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
 * for, and what is tracked (track/message.c).
 */
#define BEMI_MESSAGE_PREFIX		"_bemi"
#define BEMI_MARKER_PREFIX		"_bemi_sync"
#define BEMI_TRACKING_PREFIX	"_bemi_tracking"

#define BEMI_PUBLICATION		"bemi"

/* Schemas of the extension: what users call and read, and the rest. */
#define BEMI_SCHEMA				"bemi"
#define BEMI_INTERNAL_SCHEMA	"_bemi"

#endif							/* BEMI_H */
