/*-------------------------------------------------------------------------
 *
 * history.h
 *		What history.c and the open partition know of each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_HISTORY_H
#define BEMI_HISTORY_H

#include "bemi.h"

/* Columns of bemi.changes, in the order of bemi_history_columns. */
#define BEMI_HISTORY_COLUMNS	15

/* Rows that a partition takes in one go. */
#define BEMI_PARTITION_SLOTS	1000

/* A partition that is being written to, within one transaction. */
typedef struct BemiPartition BemiPartition;

/* history_partition.c */
extern const char *const bemi_history_columns[BEMI_HISTORY_COLUMNS];
extern Oid	bemi_own_table(const char *name);
extern void bemi_partition_init(void);
extern BemiPartition *bemi_partition_for(BemiPartition *open,
										 TimestampTz committed_at);
extern bool bemi_partition_takes(const BemiPartition *partition,
								 TimestampTz committed_at);
extern void bemi_partition_put(BemiPartition *partition, int i,
							   const Datum *values, const bool *nulls);
extern void bemi_partition_insert(BemiPartition *partition, int count);
extern void bemi_partition_close(BemiPartition *partition);

#endif							/* BEMI_HISTORY_H */
