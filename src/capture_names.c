/*-------------------------------------------------------------------------
 *
 * capture_names.c
 *		Has the stream tell a table's name again when that has changed.
 *
 * pgoutput tells the name of a table once, with the first change that it sends,
 * and again when the table's relation cache entry was invalidated.  Some changes
 * of a name invalidate no entry that it looks at: up to PostgreSQL 15 that of a
 * schema, and in all versions that of a partitioned table, whose name the changes
 * of its partitions go by.  They would be stored under the former name, for as
 * long as the stream lasts.
 *
 * So the event triggers that follow such commands call bemi.tell_again() for each
 * table whose rows are concerned.  The invalidation takes no lock, is part of the
 * transaction, and goes into the write-ahead log with it, where the walsender
 * meets it in its place between the changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/inval.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(bemi_tell_again);

/*
 * bemi.tell_again(target regclass); somebody may have dropped it meanwhile.
 */
Datum
bemi_tell_again(PG_FUNCTION_ARGS)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, PG_GETARG_DATUM(0));

	if (HeapTupleIsValid(tuple))
	{
		/* Without an id of its own, a subtransaction's would go astray. */
		(void) GetCurrentTransactionId();
		CacheInvalidateRelcacheByTuple(tuple);
		ReleaseSysCache(tuple);
	}
	PG_RETURN_VOID();
}
