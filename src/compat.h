/*-------------------------------------------------------------------------
 *
 * compat.h
 *		Names of today's server on the servers of yesterday.
 *
 * This is the only file of bemi that tests PG_VERSION_NUM.  The rest of the
 * code is written once, against the names below; a name without a version
 * test next to it is the same from PostgreSQL 14 on.
 *
 *-------------------------------------------------------------------------
 */
#ifndef BEMI_COMPAT_H
#define BEMI_COMPAT_H

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#if PG_VERSION_NUM >= 150000
#include "catalog/pg_publication_namespace.h"
#endif
#include "catalog/pg_publication_rel.h"
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#endif
#include "common/jsonapi.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/tidbitmap.h"
#if PG_VERSION_NUM >= 160000
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_publication.h"
#include "nodes/miscnodes.h"
#include "parser/parse_relation.h"
#endif
#include "replication/message.h"
#include "replication/origin.h"
#include "storage/ipc.h"
#include "storage/smgr.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/syscache.h"
#include "utils/wait_event.h"

#if PG_VERSION_NUM < 140000
#error "bemi needs PostgreSQL 14 or newer"
#endif

/* 15 reserves a setting's prefix; 14 can only warn about unknown names. */
#if PG_VERSION_NUM < 150000
#define MarkGUCPrefixReserved(prefix)	EmitWarningsOnPlaceholders(prefix)
#endif

/* 17 added an argument that flushes a non-transactional message. */
#if PG_VERSION_NUM >= 170000
#define bemi_log_message(prefix, message, size, transactional) \
	LogLogicalMessage(prefix, message, size, transactional, false)
#else
#define bemi_log_message(prefix, message, size, transactional) \
	LogLogicalMessage(prefix, message, size, transactional)
#endif

/*
 * 16 reports errors of a JSON text, its actions and its numbers without
 * throwing them.  Before, the caller has to catch them.
 */
#if PG_VERSION_NUM >= 160000
#define BEMI_JSON_ERRORS_ARE_THROWN 0
typedef JsonParseErrorType bemi_json_action_result;
#define BEMI_JSON_ACTION_DONE	JSON_SUCCESS

static inline JsonParseErrorType
bemi_check_json_number(char *token)
{
	ErrorSaveContext errors = {.type = T_ErrorSaveContext};
	Datum		number;

	return DirectInputFunctionCallSafe(numeric_in, token, InvalidOid, -1,
									   (fmNodePtr) &errors, &number) ?
		JSON_SUCCESS : JSON_SEM_ACTION_FAILED;
}
#else
#define BEMI_JSON_ERRORS_ARE_THROWN 1
#define JSON_SEM_ACTION_FAILED	(-4)
typedef void bemi_json_action_result;
#define BEMI_JSON_ACTION_DONE

static inline void
bemi_check_json_number(char *token)
{
	(void) DirectFunctionCall3(numeric_in, CStringGetDatum(token),
							   ObjectIdGetDatum(InvalidOid),
							   Int32GetDatum(-1));
}
#endif

/*
 * 17 added a resource owner for sets of wait events; NULL: none.
 */
#if PG_VERSION_NUM >= 170000
#define bemi_create_wait_event_set(count)	CreateWaitEventSet(NULL, count)
#else
#define bemi_create_wait_event_set(count)	CreateWaitEventSet(TopMemoryContext, count)
#endif

/* 14 marks a partition's copies of users' triggers as internal, too. */
#if PG_VERSION_NUM >= 150000
#define bemi_trigger_is_internal(trigger)	((trigger)->tgisinternal)
#else
#define bemi_trigger_is_internal(trigger)	((trigger)->tgisinternal && !(trigger)->tgisclone)
#endif

/* 17 lets the caller own the lexer; NULL asks for one in palloc'd memory. */
#if PG_VERSION_NUM >= 170000
#define bemi_json_lexer(json, len) \
	makeJsonLexContextCstringLen(NULL, json, len, GetDatabaseEncoding(), true)
#else
#define bemi_json_lexer(json, len) \
	makeJsonLexContextCstringLen((char *) (json), len, \
								 GetDatabaseEncoding(), true)
#endif

/* 16 keeps the "extra" of check hooks in memory of its own. */
#if PG_VERSION_NUM >= 160000
#define bemi_guc_malloc(size)	guc_malloc(LOG, size)
#else
#define bemi_guc_malloc(size)	malloc(size)
#endif

/* 16 added an argument for summarizing indexes, which only updates use. */
#if PG_VERSION_NUM >= 160000
#define bemi_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#else
#define bemi_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#endif

/* 16 lets parallel apply workers share an origin; 0: do not share it. */
#if PG_VERSION_NUM >= 160000
#define bemi_origin_session_setup(node)	replorigin_session_setup(node, 0)
#else
#define bemi_origin_session_setup(node)	replorigin_session_setup(node)
#endif

/* 15 added an argument that returns the timeline. */
#if PG_VERSION_NUM >= 150000
#define bemi_flush_position()	GetFlushRecPtr(NULL)
#else
#define bemi_flush_position()	GetFlushRecPtr()
#endif

/*
 * 15 reads again how a relation is published if the relation is invalidated,
 * 14 only if the publication is.
 */
#if PG_VERSION_NUM >= 150000
#define BEMI_RELATION_RENEWS_PUBLICATION 1
#else
#define BEMI_RELATION_RENEWS_PUBLICATION 0
#endif

/*
 * 15 brought row filters and column lists.  "tuple" is one of
 * PUBLICATIONRELMAP.
 */
#if PG_VERSION_NUM >= 150000
static inline bool
bemi_publishes_whole_rows(HeapTuple tuple)
{
	bool		no_filter;
	bool		no_list;

	(void) SysCacheGetAttr(PUBLICATIONRELMAP, tuple,
						   Anum_pg_publication_rel_prqual, &no_filter);
	(void) SysCacheGetAttr(PUBLICATIONRELMAP, tuple,
						   Anum_pg_publication_rel_prattrs, &no_list);
	return no_filter && no_list;
}
#else
#define bemi_publishes_whole_rows(tuple)	true
#endif

/*
 * 15 brought schemas in publications.  InvalidOid for an object of another
 * catalog.
 */
#if PG_VERSION_NUM >= 150000
static inline Oid
bemi_publication_of_schema(Oid catalog, Oid object)
{
	HeapTuple	tuple = catalog == PublicationNamespaceRelationId ?
		SearchSysCache1(PUBLICATIONNAMESPACE, ObjectIdGetDatum(object)) : NULL;
	Oid			publication = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		publication =
			((Form_pg_publication_namespace) GETSTRUCT(tuple))->pnpubid;
		ReleaseSysCache(tuple);
	}
	return publication;
}
#else
#define bemi_publication_of_schema(catalog, object) InvalidOid
#endif

/*
 * 17 asks whether a stronger lock will do, too.
 */
#if PG_VERSION_NUM >= 170000
#define bemi_lock_is_held(tag, mode)	LockHeldByMe(tag, mode, true)
#else
#define bemi_lock_is_held(tag, mode)	LockHeldByMe(tag, mode)
#endif

/* 15 must know at the beginning whether a sort gets a bound. */
#if PG_VERSION_NUM >= 150000
#define BEMI_SORT_WITH_BOUND	TUPLESORT_ALLOWBOUNDED
#else
#define BEMI_SORT_WITH_BOUND	false
#endif

/* 18 added an argument that counts searches for EXPLAIN. */
#if PG_VERSION_NUM >= 180000
#define bemi_index_beginscan(table, index, snapshot, key_count) \
	index_beginscan(table, index, snapshot, NULL, key_count, 0)
#define bemi_index_beginscan_bitmap(index, snapshot, key_count) \
	index_beginscan_bitmap(index, snapshot, NULL, key_count)
#else
#define bemi_index_beginscan(table, index, snapshot, key_count) \
	index_beginscan(table, index, snapshot, key_count, 0)
#define bemi_index_beginscan_bitmap(index, snapshot, key_count) \
	index_beginscan_bitmap(index, snapshot, key_count)
#endif

/*
 * 18 unpacks the rows of a bitmap's page on demand.  The result is the number
 * of offsets, -1 if the bitmap has only the page.
 */
#if PG_VERSION_NUM >= 180000
typedef TBMPrivateIterator bemi_bitmap_iterator;
#define bemi_bitmap_iterate(bitmap)	tbm_begin_private_iterate(bitmap)
#define bemi_bitmap_end(iterator)	tbm_end_private_iterate(iterator)

static inline bool
bemi_bitmap_next(TBMPrivateIterator * iterator, BlockNumber *page,
				 OffsetNumber *offsets, int *count)
{
	TBMIterateResult result;

	if (!tbm_private_iterate(iterator, &result))
		return false;
	*page = result.blockno;
	*count = result.lossy ? -1 :
		tbm_extract_page_tuple(&result, offsets, MaxHeapTuplesPerPage);
	return true;
}
#else
typedef TBMIterator bemi_bitmap_iterator;
#define bemi_bitmap_iterate(bitmap)	tbm_begin_iterate(bitmap)
#define bemi_bitmap_end(iterator)	tbm_end_iterate(iterator)

static inline bool
bemi_bitmap_next(TBMIterator *iterator, BlockNumber *page,
				 OffsetNumber *offsets, int *count)
{
	TBMIterateResult *result = tbm_iterate(iterator);

	if (result == NULL)
		return false;
	*page = result->blockno;
	*count = result->ntuples;
	if (*count > 0)
		memcpy(offsets, result->offsets, sizeof(OffsetNumber) * *count);
	return true;
}
#endif

/*
 * 16 renamed the identifier of a relation's storage, 17 the invalid backend
 * number.
 */
#if PG_VERSION_NUM >= 160000
typedef RelFileLocator bemi_storage_id;
#else
typedef RelFileNode bemi_storage_id;
#endif
#if PG_VERSION_NUM < 170000
#define INVALID_PROC_NUMBER	InvalidBackendId
#endif

/* 15 moved requests for shared memory out of _PG_init into a hook. */
#if PG_VERSION_NUM >= 150000
#define BEMI_HAS_SHMEM_REQUEST_HOOK 1
#else
#define BEMI_HAS_SHMEM_REQUEST_HOOK 0
#endif

/* 15 added a function that prepares the result of a set-returning function. */
#if PG_VERSION_NUM >= 150000
#define bemi_init_result_set(fcinfo)	InitMaterializedSRF(fcinfo, 0)
#else
static inline void
bemi_init_result_set(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext caller =
		MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	TupleDesc	columns;

	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	result->returnMode = SFRM_Materialize;
	result->setResult = tuplestore_begin_heap(true, false, work_mem);
	result->setDesc = columns;
	MemoryContextSwitchTo(caller);
}
#endif

/*
 * 16 has one function for the owners of all kinds of objects, and one for
 * their privileges.
 */
#if PG_VERSION_NUM >= 160000
#define bemi_database_ownercheck(database, role) \
	object_ownercheck(DatabaseRelationId, database, role)
#define bemi_table_ownercheck(table, role) \
	object_ownercheck(RelationRelationId, table, role)
#define bemi_publication_ownercheck(publication, role) \
	object_ownercheck(PublicationRelationId, publication, role)
#define bemi_function_aclcheck(function, role) \
	object_aclcheck(ProcedureRelationId, function, role, ACL_EXECUTE)
#define bemi_schema_aclcheck(schema, role) \
	object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE)
#else
#define bemi_database_ownercheck(database, role) \
	pg_database_ownercheck(database, role)
#define bemi_table_ownercheck(table, role) \
	pg_class_ownercheck(table, role)
#define bemi_publication_ownercheck(publication, role) \
	pg_publication_ownercheck(publication, role)
#define bemi_function_aclcheck(function, role) \
	pg_proc_aclcheck(function, role, ACL_EXECUTE)
#define bemi_schema_aclcheck(schema, role) \
	pg_namespace_aclcheck(schema, role, ACL_USAGE)
#endif

/*
 * 16 keeps the rights that a query needs apart from its range table.  Calls
 * ExecutorCheckPerms_hook, too.  Column numbers are offset as in selectedCols.
 */
#if PG_VERSION_NUM >= 160000
static inline void
bemi_check_permissions(RangeTblEntry *table, AclMode rights,
					   Bitmapset *columns)
{
	List	   *permissions = NIL;
	RTEPermissionInfo *needed = addRTEPermissionInfo(&permissions, table);

	needed->requiredPerms = rights;
	needed->selectedCols = columns;
	(void) ExecCheckPermissions(list_make1(table), permissions, true);
}
#else
static inline void
bemi_check_permissions(RangeTblEntry *table, AclMode rights,
					   Bitmapset *columns)
{
	table->requiredPerms = rights;
	table->selectedCols = columns;
	(void) ExecCheckRTPerms(list_make1(table), true);
}
#endif

/*
 * 15 added row filters and column lists to an entry of a publication.
 */
#if PG_VERSION_NUM >= 150000
#define bemi_publication_add(publication, table)                              \
	publication_add_relation(publication,                                     \
							 &(PublicationRelInfo){.relation = (table)},      \
							 false)
#else
#define bemi_publication_add(publication, table) \
	publication_add_relation(publication, table, false)
#endif

/* 18 can publish generated columns, and has virtual ones. */
#if PG_VERSION_NUM >= 180000
#define bemi_lacks_generated_columns(publication) \
	((publication)->pubgencols == PUBLISH_GENCOLS_NONE)
#define BEMI_HAS_VIRTUAL_COLUMNS 1
#else
#define bemi_lacks_generated_columns(publication)	false
#define BEMI_HAS_VIRTUAL_COLUMNS 0
#define ATTRIBUTE_GENERATED_VIRTUAL	'v'
#endif

/*
 * 15 decodes the old row of a partition with the columns of the partition
 * itself.
 */
#if PG_VERSION_NUM >= 150000
#define BEMI_MISSING_VALUES_ARE_SENT 1
#else
#define BEMI_MISSING_VALUES_ARE_SENT 0
#endif

/*
 * 15 has several marks that delay a checkpoint; 14 has only that of a commit.
 */
#if PG_VERSION_NUM >= 150000
#define bemi_committing(count) \
	GetVirtualXIDsDelayingChkpt(count, DELAY_CHKPT_START)
#define bemi_are_committing(transactions, count) \
	HaveVirtualXIDsDelayingChkpt(transactions, count, DELAY_CHKPT_START)
#else
#define bemi_committing(count)	GetVirtualXIDsDelayingChkpt(count)
#define bemi_are_committing(transactions, count) \
	HaveVirtualXIDsDelayingChkpt(transactions, count)
#endif

/*
 * The minor releases of August 2023 mark a database whose DROP DATABASE was
 * interrupted.
 */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB	(-2)
#endif

/*
 * 17 gives extensions wait events with names of their own; before, all of
 * them share "Extension".
 */
#if PG_VERSION_NUM >= 170000
#define bemi_wait_event(name)	WaitEventExtensionNew(name)
#else
#define bemi_wait_event(name)	PG_WAIT_EXTENSION
#endif

/* 17 no longer checks how old the snapshot of a reader is. */
#if PG_VERSION_NUM >= 170000
#define bemi_brin_revmap(index, pages_per_range, snapshot) \
	brinRevmapInitialize(index, pages_per_range)
#define bemi_brin_tuple(revmap, page, buffer, offset, size, snapshot) \
	brinGetTupleForHeapBlock(revmap, page, buffer, offset, size, \
							 BUFFER_LOCK_SHARE)
#else
#define bemi_brin_revmap(index, pages_per_range, snapshot) \
	brinRevmapInitialize(index, pages_per_range, snapshot)
#define bemi_brin_tuple(revmap, page, buffer, offset, size, snapshot) \
	brinGetTupleForHeapBlock(revmap, page, buffer, offset, size, \
							 BUFFER_LOCK_SHARE, snapshot)
#endif

/* 15 gives blocks of a generation context several sizes. */
#if PG_VERSION_NUM >= 150000
#define bemi_create_generation(parent, name) \
	GenerationContextCreate(parent, name, ALLOCSET_DEFAULT_SIZES)
#else
#define bemi_create_generation(parent, name) \
	GenerationContextCreate(parent, name, 64 * 1024)
#endif

/* 15 asks whether a custom scan projects; before, it does. */
#if PG_VERSION_NUM >= 150000
#define BEMI_CUSTOMPATH_PROJECTS	CUSTOMPATH_SUPPORT_PROJECTION
#else
#define BEMI_CUSTOMPATH_PROJECTS	0
#endif

#endif							/* BEMI_COMPAT_H */
