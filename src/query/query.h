/*-------------------------------------------------------------------------
 *
 * query.h
 *		Reads bemi.changes by its indexes, without plans.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_QUERY_H
#define BEMI_QUERY_H

#include "executor/tuptable.h"

#include "extension/extension.h"

/* Columns of bemi.changes that C code looks at, by name. */
typedef enum BemiChangeColumn
{
	BEMI_CHANGE_ID,
	BEMI_CHANGE_SCHEMA,
	BEMI_CHANGE_TABLE,
	BEMI_CHANGE_PRIMARY_KEY,
	BEMI_CHANGE_OPERATION,
	BEMI_CHANGE_BEFORE,
	BEMI_CHANGE_AFTER,
	BEMI_CHANGE_CONTEXT,
	BEMI_CHANGE_COMMITTED_AT,
	BEMI_CHANGE_TRANSACTION_ID,
	BEMI_CHANGE_SOURCE
} BemiChangeColumn;

#define BEMI_CHANGE_COLUMNS (BEMI_CHANGE_SOURCE + 1)

/* as_of_plan.c */
extern void bemi_as_of_plan_init(void);

/* history.c */

/* bemi.changes, open and locked, with the partitions that are in use. */
typedef struct BemiHistory BemiHistory;

extern BemiHistory *bemi_history_open(void);
extern bool bemi_history_reads_by_index(void);
extern bool bemi_history_is_readable(const BemiHistory *history);
extern AttrNumber bemi_history_column(const BemiHistory *history,
									  BemiChangeColumn column);
extern TupleDesc bemi_history_row_type(const BemiHistory *history);
extern void bemi_history_close(BemiHistory *history);

/* changes_scan.c */

typedef enum BemiChangesOrder
{
	BEMI_NEWEST_FIRST,			/* partitions from late to early times, and in
								 * each by id, descending */
	BEMI_NEWEST_BY_TIME,		/* the same, but in each by time and id */
	BEMI_OLDEST_FIRST			/* by id, ascending, over all partitions */
} BemiChangesOrder;

/*
 * Which changes are read, and in which order.  All conditions must hold.  All
 * zeros: all changes, newest first.  What it points to must live as long as
 * the scan.
 */
typedef struct BemiChangesQuery
{
	BemiChangesOrder order;
	int64		limit;			/* so many at most are wanted; 0: all */

	const char *schema;			/* NULL: any */
	const char *table;			/* NULL: any */
	const char *primary_key;	/* changes of this row, and each TRUNCATE of
								 * the table; NULL: any */
	List	   *sources;		/* of char *; NIL: any */
	List	   *operations;		/* of char *; NIL: any */
	const char *changed_column; /* NULL: any */
	const Jsonb *context;		/* that the change's context contains; NULL:
								 * any */
	const Jsonb *context_texts; /* texts of keys of the change's context;
								 * NULL: any */
	const TimestampTz *from_time;	/* inclusive; NULL: unbounded */
	const TimestampTz *to_time; /* exclusive; NULL: unbounded */
	const pg_uuid_t *from_id;	/* inclusive; NULL: unbounded */
	const pg_uuid_t *to_id;		/* inclusive; NULL: unbounded */
	const TimestampTz *ids_since;	/* partitions that end before this time
									 * have few of these ids; NULL: unknown */

	/*
	 * With both "newest" orders: only changes that follow this one in the
	 * order; NULL: from the beginning.
	 */
	const pg_uuid_t *after_id;
	TimestampTz after_time;		/* its time */
} BemiChangesQuery;

typedef struct BemiChangesScan BemiChangesScan;

extern BemiChangesScan *bemi_changes_begin(BemiHistory *history,
										   const BemiChangesQuery *query);
extern TupleTableSlot *bemi_changes_next(BemiChangesScan *scan);
extern void bemi_changes_end(BemiChangesScan *scan);

#endif							/* BEMI_QUERY_H */
