/*-------------------------------------------------------------------------
 *
 * store_internal.h
 *		The open partition, its indexes, and users' code on it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_STORE_INTERNAL_H
#define BEMI_STORE_INTERNAL_H

#include "nodes/execnodes.h"

#include "extension/extension.h"
#include "store/store.h"

/* Columns of bemi.changes, in the order of bemi_store_columns. */
#define BEMI_STORE_COLUMNS	15
#define BEMI_STORE_ID		0
#define BEMI_STORE_CONTEXT	8
#define BEMI_STORE_COMMITTED_AT	9
#define BEMI_STORE_CREATED_AT		11

/* A row of bemi.changes.  Its values live until it is written. */
typedef struct BemiStoreRow
{
	Datum		values[BEMI_STORE_COLUMNS];
	bool		nulls[BEMI_STORE_COLUMNS];
} BemiStoreRow;

/* Rows that are inserted into a partition at once. */
#define BEMI_PARTITION_SLOTS	1000

/* A partition that is open for writing, within one transaction. */
typedef struct BemiPartition BemiPartition;

/* partition.c */
extern const char *const bemi_store_columns[BEMI_STORE_COLUMNS];
extern BemiPartition *bemi_partition_for(BemiPartition *open,
										 TimestampTz committed_at);
extern bool bemi_partition_contains(const BemiPartition *partition,
									TimestampTz committed_at);
extern void bemi_partition_insert(BemiPartition *partition,
								  const BemiStoreRow *rows, int count);
extern void bemi_partition_close(BemiPartition *partition);

/* user_code.c */

/* DDL that the worker runs. */
typedef struct BemiDdl
{
	char	   *event_triggers; /* users' ones that fire; NULL: none */
	ErrorContextCallback context;
} BemiDdl;

/* Users' code on an open partition. */
typedef struct BemiCode BemiCode;

extern void bemi_act_as_history_reader(BemiRights *caller);
extern BemiCode *bemi_code_of(ResultRelInfo *target, Oid history_owner);
extern void bemi_code_enter(BemiCode *code);
extern void bemi_code_leave(BemiCode *code);
extern void bemi_ddl_enter(BemiDdl *ddl);
extern void bemi_ddl_leave(BemiDdl *ddl);

/* index.c */
typedef struct BemiIndexes BemiIndexes;

extern BemiIndexes *bemi_indexes_create(ResultRelInfo *target, EState *estate,
										const AttrNumber *attnums);
extern void bemi_indexes_insert(BemiIndexes *indexes, TupleTableSlot **slots,
								const BemiStoreRow *rows, int count);
extern void bemi_indexes_summarize(BemiIndexes *indexes,
								   TupleTableSlot **slots, int count);

#endif							/* BEMI_STORE_INTERNAL_H */
