/*-------------------------------------------------------------------------
 *
 * capture_names.c
 *		Names that change: tells the stream, and what they were before.
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
 * pgoutput also caches whether a relation is published, and under which root.
 * ATTACH PARTITION and DETACH PARTITION change both.  PostgreSQL 14 renews this only
 * when the publication is invalidated, so bemi.invalidate_publication() does that.
 *
 * Of a column that was renamed, an event trigger is told where it is, but not what
 * it was called; that is in the command's parse tree.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "fmgr.h"
#include "funcapi.h"
#include "tcop/deparse_utility.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/syscache.h"

#include "compat.h"
#include "track.h"

PG_FUNCTION_INFO_V1(bemi_tell_again);
PG_FUNCTION_INFO_V1(bemi_invalidate_publication);
PG_FUNCTION_INFO_V1(bemi_renamed_column);

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

/*
 * bemi.invalidate_publication(target regclass)
 *
 * Sends the invalidation that an update of the root's row in pg_publication_rel would
 * send.  The row itself stays as it is, because two sessions that attach partitions
 * to one root must not wait for each other.
 */
Datum
bemi_invalidate_publication(PG_FUNCTION_ARGS)
{
	HeapTuple	tuple;

	if (BEMI_RELATION_RENEWS_PUBLICATION)
		PG_RETURN_VOID();
	tuple = SearchSysCache2(PUBLICATIONRELMAP,
							ObjectIdGetDatum(bemi_partition_root(PG_GETARG_OID(0))),
							ObjectIdGetDatum(get_publication_oid("bemi", true)));
	if (HeapTupleIsValid(tuple))
	{
		Relation	catalog = table_open(PublicationRelRelationId, AccessShareLock);

		(void) GetCurrentTransactionId();
		CacheInvalidateHeapTuple(catalog, tuple, NULL);
		/* The next command may write rows, and must log the invalidation first. */
		(void) GetCurrentCommandId(true);
		table_close(catalog, AccessShareLock);
		ReleaseSysCache(tuple);
	}
	PG_RETURN_VOID();
}

/*
 * bemi.renamed_column(command pg_ddl_command, OUT former name, OUT present name)
 *
 * Renamed attributes of a composite type come as OBJECT_ATTRIBUTE.
 */
Datum
bemi_renamed_column(PG_FUNCTION_ARGS)
{
	CollectedCommand *command = (CollectedCommand *) PG_GETARG_POINTER(0);
	RenameStmt *rename = command->type == SCT_Simple && IsA(command->parsetree, RenameStmt) ?
		(RenameStmt *) command->parsetree : NULL;
	TupleDesc	columns;
	Datum		values[2] = {0};
	bool		nulls[2] = {true, true};
	NameData	former;
	NameData	present;

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (rename != NULL &&
		(rename->renameType == OBJECT_COLUMN || rename->renameType == OBJECT_ATTRIBUTE))
	{
		namestrcpy(&former, rename->subname);
		namestrcpy(&present, rename->newname);
		values[0] = NameGetDatum(&former);
		values[1] = NameGetDatum(&present);
		nulls[0] = nulls[1] = false;
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(columns), values, nulls)));
}
