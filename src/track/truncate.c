/*-------------------------------------------------------------------------
 *
 * truncate.c
 *		Follows TRUNCATE of partitions, which is not in the stream.
 *
 * PostgreSQL publishes the TRUNCATE of a partitioned table, but not that of
 * its partitions.  So a statement that empties a partition, but not the table
 * under whose name its changes are stored, causes a gap of that table
 * (rows.c).
 *
 * Input: calls of object_access_hook, for each table that a statement is about
 * to empty.  Output: tracking messages.  Triggers are not used, because the
 * owner of a partition can disable them, and session_replication_role does.
 *
 *	table						is passed to the hook
 *	-----						---------------------
 *	named by the statement		before it is locked, perhaps more than once
 *	partition, child, or added	when it is locked
 *	by CASCADE
 *
 * A table without a lock can still get rows, or another name.  So the hook
 * only remembers it.  After the statement, a locked table was emptied, and its
 * former storage, which exists until the transaction ends, shows whether it
 * had rows.  If the table was locked before, its storage may be new in this
 * transaction and be emptied in place, so the hook checks it at once.
 *
 * A worker of logical replication truncates without a statement and without
 * the hook.  It executes no other command, so the tables to which its
 * transaction has given new storage were truncated.  They are found among
 * those whose relcache entries were invalidated.  If their root is locked, it
 * was truncated with them.  One case is not found: a transaction truncates the
 * root, adds rows, and truncates a partition alone.
 *
 * If the library is not preloaded, a session may load it by bemi's trigger in
 * the middle of a TRUNCATE, after the calls of the hook.  Then the trigger
 * passes the tables on.  They are locked and not yet emptied.  Two cases are
 * not found: the trigger is disabled, or the transaction has locked the root
 * in ACCESS EXCLUSIVE mode before.
 *
 * What must never happen: a wait for a lock, or a lock that the statement does
 * not take itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "replication/logicalworker.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "track/track_internal.h"

static object_access_hook_type prev_object_access_hook = NULL;

/* The innermost running statement; NULL: none. */
static BemiTruncate *running_truncate = NULL;

/*
 * In a worker of logical replication: OIDs of the relations whose relcache
 * entries were invalidated in this transaction, in its memory.
 */
static List *invalidated_relations = NIL;

/*
 * Whether a table is a partition whose TRUNCATE is not in the stream.  Its
 * rows are in the stream, under another name.
 */
static bool
truncate_is_unpublished(Oid relation)
{
	Oid			root;

	if (!get_rel_relispartition(relation) ||
		get_rel_relkind(relation) != RELKIND_RELATION)
		return false;
	root = bemi_partition_root(relation);
	return root != relation && bemi_is_published(root);
}

/*
 * Remembers a table that the statement is about to empty, or one that had its
 * name.
 */
static void
remember_truncated(BemiTruncate *truncate, Oid relation)
{
	bool		is_unpublished = truncate_is_unpublished(relation);
	bool		is_locked = is_unpublished && bemi_is_locked(relation);
	bool		has_rows = is_locked && bemi_may_have_rows(relation);
	MemoryContext caller = MemoryContextSwitchTo(truncate->memory);

	truncate->tables = lappend_oid(truncate->tables, relation);
	if (has_rows)
		truncate->filled = lappend_oid(truncate->filled, relation);
	else if (is_unpublished && !is_locked)
		truncate->unlocked =
			list_append_unique_oid(truncate->unlocked, relation);
	MemoryContextSwitchTo(caller);
}

/*
 * object_access_hook
 */
static void
bemi_object_access(ObjectAccessType access, Oid catalog, Oid object,
				   int subobject, void *argument)
{
	if (prev_object_access_hook)
		prev_object_access_hook(access, catalog, object, subobject, argument);
	if (access == OAT_TRUNCATE && running_truncate != NULL)
		remember_truncated(running_truncate, object);
}

/*
 * Called when a utility command begins, which may be TRUNCATE.
 */
void
bemi_truncate_begin(BemiTruncate *truncate)
{
	memset(truncate, 0, sizeof(*truncate));
	truncate->memory = CurrentMemoryContext;
	truncate->outer = running_truncate;
	running_truncate = truncate;
}

/*
 * Called when it has ended or failed.
 */
void
bemi_truncate_abort(BemiTruncate *truncate)
{
	running_truncate = truncate->outer;
}

/*
 * Whether the statement has emptied the table under whose name a partition's
 * changes are stored.
 */
static bool
root_was_truncated(const BemiTruncate *truncate, Oid partition)
{
	Oid			root = bemi_partition_root(partition);

	return list_member_oid(truncate->tables, root) && bemi_is_locked(root);
}

/*
 * Called when it has succeeded.
 */
void
bemi_truncate_end(BemiTruncate *truncate)
{
	ListCell   *cell;

	running_truncate = truncate->outer;
	foreach(cell, truncate->filled)
	{
		if (!root_was_truncated(truncate, lfirst_oid(cell)))
			bemi_emit_truncated(lfirst_oid(cell));
	}
	foreach(cell, truncate->unlocked)
	{
		if (bemi_is_locked(lfirst_oid(cell)) &&
			!root_was_truncated(truncate, lfirst_oid(cell)) &&
			bemi_had_rows_in_former_storage(lfirst_oid(cell)))
			bemi_emit_truncated(lfirst_oid(cell));
	}
}

/*
 * Called by bemi's trigger for a table of a TRUNCATE that has begun before
 * this library was loaded.
 */
void
bemi_truncate_fires(Oid relation)
{
	if (!IsLogicalWorker() && truncate_is_unpublished(relation) &&
		!bemi_is_locked(bemi_partition_root(relation)) &&
		bemi_may_have_rows(relation))
		bemi_emit_truncated(relation);
}

/*
 * Relcache callback.  Does nothing except in a worker of logical replication,
 * within a transaction.
 */
static void
remember_invalidated(Datum argument, Oid relation)
{
	MemoryContext caller;

	if (!OidIsValid(relation) || !IsLogicalWorker() || !IsTransactionState())
		return;
	caller = MemoryContextSwitchTo(TopTransactionContext);
	invalidated_relations =
		list_append_unique_oid(invalidated_relations, relation);
	MemoryContextSwitchTo(caller);
}

/*
 * Called before the commit of a worker of logical replication.
 */
static void
emit_applied_truncates(void)
{
	List	   *relations = invalidated_relations;
	ListCell   *cell;

	invalidated_relations = NIL;
	foreach(cell, relations)
	{
		Oid			relation = lfirst_oid(cell);

		if (truncate_is_unpublished(relation) && bemi_is_locked(relation) &&
			!bemi_is_locked(bemi_partition_root(relation)) &&
			bemi_had_rows_in_former_storage(relation))
			bemi_emit_truncated(relation);
	}
}

static void
at_transaction_end(XactEvent event, void *argument)
{
	if (event == XACT_EVENT_PRE_COMMIT || event == XACT_EVENT_PRE_PREPARE)
		emit_applied_truncates();
	else
		invalidated_relations = NIL;
}

void
bemi_truncate_init(void)
{
	prev_object_access_hook = object_access_hook;
	object_access_hook = bemi_object_access;
	CacheRegisterRelcacheCallback(remember_invalidated, (Datum) 0);
	RegisterXactCallback(at_transaction_end, NULL);
}
