/*-------------------------------------------------------------------------
 *
 * rows.c
 *		Follows commands that change rows of a tracked table without DML.
 *
 * ATTACH adds the rows of a partition, and DETACH and DROP remove them.  ALTER
 * TABLE computes new values for a column of all rows.  None of this is in the
 * stream, so the worker records a gap in bemi.gaps, at the commit of the
 * command.  Input: the events of event triggers, and TRUNCATE from truncate.c.
 * Output: tracking messages (message.c) about the root.
 *
 *	command							gap, if there are rows
 *	-------							----------------------
 *	ATTACH PARTITION				yes
 *	DETACH PARTITION				yes, also if the partition comes back
 *	DETACH ... CONCURRENTLY			yes, also without rows, see bemi_follow_detach()
 *	DETACH ... FINALIZE				yes, also if the rows are deleted by then
 *	DROP of a partition, by any way	yes
 *	TRUNCATE of a partition			yes, unless its root is truncated, too
 *	ALTER COLUMN TYPE, rewrites		yes
 *	ADD COLUMN, rewrites			yes: a volatile default, an identity, a generated
 *									column differ from row to row
 *	ADD COLUMN with a constant		no, the default of all rows is in the catalog
 *	DROP COLUMN, RENAME				no, no value of a remaining column changes
 *	SET LOGGED, CLUSTER, VACUUM		no, the rows stay as they are
 *	ATTACH, CREATE of a foreign or	the root's history is not complete for as long as
 *	unlogged partition				it has that partition, see bemi_emit_tracked()
 *
 * An empty table causes no gap, unless another session may be writing to it.
 * A large table with only dead rows counts as not empty, because scanning it
 * would take too long.  What must never happen: a wait for a lock on a table
 * that the command has not locked itself.  If another session has locked such
 * a table, it counts as not empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_follow_detach);
PG_FUNCTION_INFO_V1(bemi_follow_rewrite);

/*
 * Number of blocks that are searched for a row, under a lock that excludes
 * readers: 8 MB, which take milliseconds.
 */
#define MOST_BLOCKS_TO_SCAN	1000

/* The evidence that a table may have rows. */
typedef enum RowEvidence
{
	EVIDENCE_ROW,				/* a row that the transaction can see */
	EVIDENCE_BLOCK				/* a block, even with invisible rows only */
} RowEvidence;

/*
 * The table under whose name the changes of a relation are published,
 * InvalidOid if they are not.
 */
static Oid
published_as(Oid relation)
{
	Oid			root = bemi_partition_root(relation);

	return bemi_is_published(root) ? root : InvalidOid;
}

/*
 * Emits that rows of a published table have changed without DML.  "detail" is
 * a sentence for bemi.gaps.
 */
static void
emit_rows_changed(Oid published, const char *detail)
{
	char	   *table = get_rel_name(published);

	if (table != NULL)
		bemi_emit_tracking_message(BEMI_EVENT_ROWS_CHANGED, published,
								   get_namespace_name(
													  get_rel_namespace(published)),
								   table, NULL, detail);
}

/*
 * Whether an open table has a row that the transaction can see.
 */
static bool
has_visible_row(Relation table)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(table, NULL);
	TableScanDesc scan = table_beginscan(table, snapshot, 0, NULL);
	bool		found =
		table_scan_getnextslot(scan, ForwardScanDirection, slot);

	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	return found;
}

/*
 * Whether the storage of a table has any blocks, also that of a dropped one,
 * which is deleted at commit.
 */
static bool
storage_has_blocks(Form_pg_class table)
{
	bemi_storage_id storage = {OidIsValid(table->reltablespace) ?
		table->reltablespace :
		MyDatabaseTableSpace,
	MyDatabaseId, table->relfilenode};

	if (table->relam != HEAP_TABLE_AM_OID || !OidIsValid(table->relfilenode))
		return true;
	return smgrnblocks(smgropen(storage, INVALID_PROC_NUMBER), MAIN_FORKNUM) >
		0;
}

/*
 * The same for a table that is locked; false if it was dropped.  It opens no
 * relation, because that takes long after a command that has changed it.
 */
static bool
table_has_blocks(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	bool		has_blocks;

	if (!HeapTupleIsValid(tuple))
		return false;
	has_blocks = storage_has_blocks((Form_pg_class) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return has_blocks;
}

static bool
has_rows(Oid relation, RowEvidence evidence)
{
	Relation	table;
	BlockNumber blocks;
	bool		has_rows;

	if (!table_has_blocks(relation))
		return false;
	table = table_open(relation, NoLock);
	blocks = RelationGetNumberOfBlocks(table);
	has_rows = evidence == EVIDENCE_ROW && blocks <= MOST_BLOCKS_TO_SCAN ?
		blocks > 0 && has_visible_row(table) :
		blocks > 0;
	table_close(table, NoLock);
	return has_rows;
}

/*
 * Whether a table may have rows.  Returns true if another session has locked
 * it.
 */
static bool
may_have_rows(Oid relation, RowEvidence evidence)
{
	bool		found;

	if (!ConditionalLockRelationOid(relation, AccessShareLock))
		return true;
	found = has_rows(relation, evidence);
	UnlockRelationOid(relation, AccessShareLock);
	return found;
}

/*
 * The same for a table and all its partitions.
 */
static bool
tree_may_have_rows(Oid relation, RowEvidence evidence)
{
	ListCell   *cell;

	foreach(cell, bemi_relation_tree(relation))
	{
		CHECK_FOR_INTERRUPTS();
		if (get_rel_relkind(lfirst_oid(cell)) == RELKIND_RELATION &&
			may_have_rows(lfirst_oid(cell), evidence))
			return true;
	}
	return false;
}

/*
 * Whether the command has finished a pending detachment, which an earlier
 * transaction has begun.
 */
static bool
was_detach_pending(Oid partition)
{
	ListCell   *cell;

	foreach(cell,
			bemi_deleted_rows(InheritsRelationId, InheritsRelidSeqnoIndexId,
							  Anum_pg_inherits_inhrelid, partition))
	{
		HeapTuple	row = lfirst(cell);

		if (((Form_pg_inherits) GETSTRUCT(row))->inhdetachpending)
			return true;
	}
	return false;
}

/*
 * Emits that a partition with rows was attached to a published root or a table
 * below it, or detached.  While its detachment was pending, its rows could be
 * deleted unseen.
 */
void
bemi_emit_moved_rows(Oid root, Oid partition, bool attached)
{
	if (tree_may_have_rows(partition, EVIDENCE_BLOCK) &&
		((!attached && was_detach_pending(partition)) ||
		 tree_may_have_rows(partition, EVIDENCE_ROW)))
		emit_rows_changed(root, psprintf("Partition %s was %s with its rows.",
										 bemi_relation_name(partition),
										 attached ? "attached" : "detached"));
}

/*
 * The partition that a command detaches concurrently; NULL for another
 * command.
 */
static const RangeVar *
detached_concurrently(const Node *command)
{
	ListCell   *cell;

	if (!IsA(command, AlterTableStmt))
		return NULL;
	foreach(cell, ((const AlterTableStmt *) command)->cmds)
	{
		const AlterTableCmd *subcommand = lfirst(cell);

		if (subcommand->subtype == AT_DetachPartition &&
			((const PartitionCmd *) subcommand->def)->concurrent)
			return ((const PartitionCmd *) subcommand->def)->name;
	}
	return NULL;
}

/*
 * Event trigger function at the start of ALTER TABLE, for DETACH PARTITION ...
 * CONCURRENTLY.
 *
 * That command marks the partition, commits, waits for other transactions, and
 * finishes in a second transaction.  After the first commit, queries of the
 * root no longer see the partition's rows, and changes of them are not in the
 * stream.  So the message belongs to the first transaction.  The second one
 * may come much later with FINALIZE, or never, if the wait is canceled or the
 * server stops.  If the first transaction aborts, the message is rolled back
 * with it.
 *
 * The gap does not depend on rows, because other sessions may be writing to
 * the partition.  The table is looked up and locked in the same way as by the
 * command, with the same errors, so it is the same table.
 */
Datum
bemi_follow_detach(PG_FUNCTION_ARGS)
{
	Node	   *command;
	const RangeVar *name;
	Oid			published = InvalidOid;
	Oid			table;
	Oid			partition;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.follow_detach");
	command = ((EventTriggerData *) fcinfo->context)->parsetree;
	name = detached_concurrently(command);
	if (name == NULL)
		PG_RETURN_VOID();
	table = AlterTableLookupRelation((AlterTableStmt *) command,
									 ShareUpdateExclusiveLock);
	partition = RangeVarGetRelid(name, NoLock, true);
	if (OidIsValid(table) && OidIsValid(partition))
		published = published_as(table);
	if (OidIsValid(published))
		emit_rows_changed(published,
						  psprintf("Partition %s was detached concurrently.",
								   bemi_relation_name(partition)));
	PG_RETURN_VOID();
}

/*
 * Event trigger function for commands that are about to rewrite a table.  They
 * have locked it.  Values change only if the rewrite computes new ones.
 */
Datum
bemi_follow_rewrite(PG_FUNCTION_ARGS)
{
	Oid			table;
	int			reason;
	Oid			published;

	bemi_check_called_as_event_trigger(fcinfo, "_bemi.follow_rewrite");
	table = DatumGetObjectId(
							 OidFunctionCall0(F_PG_EVENT_TRIGGER_TABLE_REWRITE_OID));
	reason = DatumGetInt32(
						   OidFunctionCall0(F_PG_EVENT_TRIGGER_TABLE_REWRITE_REASON));
	if ((reason & (AT_REWRITE_DEFAULT_VAL | AT_REWRITE_COLUMN_REWRITE)) == 0)
		PG_RETURN_VOID();
	published = published_as(table);
	if (OidIsValid(published) && may_have_rows(table, EVIDENCE_ROW))
		emit_rows_changed(published,
						  psprintf("Table %s was rewritten: %s.",
								   bemi_relation_name(table),
								   reason & AT_REWRITE_COLUMN_REWRITE ?
								   "the type of a column has changed" :
								   "a column was computed for each row"));
	PG_RETURN_VOID();
}

/*
 * Adds the parents of a partition before this transaction.  There are several
 * if it was detached and attached again before it was dropped.
 */
static List *
add_former_parents(List *parents, Oid partition)
{
	ListCell   *cell;

	foreach(cell,
			bemi_deleted_rows(InheritsRelationId, InheritsRelidSeqnoIndexId,
							  Anum_pg_inherits_inhrelid, partition))
	{
		HeapTuple	row = lfirst(cell);

		parents =
			list_append_unique_oid(parents, ((Form_pg_inherits) GETSTRUCT(row))
								   ->inhparent);
	}
	return parents;
}

/*
 * The tables with the names under which changes of a dropped partition were
 * published, and those of its siblings still are.  Partitions between them may
 * be dropped, too.
 */
static List *
formerly_published_as(Oid partition)
{
	List	   *parents = add_former_parents(NIL, partition);
	List	   *published = NIL;

	for (int i = 0; i < list_length(parents); i++)
	{
		Oid			parent = list_nth_oid(parents, i);
		Oid			root;

		CHECK_FOR_INTERRUPTS();
		if (get_rel_relkind(parent) == '\0')
		{
			parents = add_former_parents(parents, parent);
			continue;
		}
		root = published_as(parent);
		if (OidIsValid(root))
			published = list_append_unique_oid(published, root);
	}
	return published;
}

/*
 * Follows a dropped table, which may have been a partition of a table that
 * still exists.
 */
void
bemi_follow_dropped_table(const BemiDropped *dropped)
{
	HeapTuple	tuple = bemi_deleted_row(RelationRelationId, ClassOidIndexId,
										 Anum_pg_class_oid, dropped->object);
	Form_pg_class form = tuple ? (Form_pg_class) GETSTRUCT(tuple) : NULL;
	ListCell   *cell;

	if (form == NULL || !form->relispartition)
		return;
	foreach(cell, formerly_published_as(dropped->object))
	{
		if (form->relkind == RELKIND_RELATION && storage_has_blocks(form))
			emit_rows_changed(lfirst_oid(cell),
							  psprintf("Partition %s was dropped with its rows.",
									   dropped->identity));
		if (form->relkind == RELKIND_FOREIGN_TABLE ||
			form->relpersistence == RELPERSISTENCE_UNLOGGED)
			bemi_emit_tracked(lfirst_oid(cell));
	}
}

/*
 * Whether a table that this transaction has locked may have rows.
 */
bool
bemi_may_have_rows(Oid relation)
{
	return may_have_rows(relation, EVIDENCE_ROW);
}

/*
 * pg_class.relfilenode at present.
 */
static Oid
current_storage(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Oid			storage = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		storage = ((Form_pg_class) GETSTRUCT(tuple))->relfilenode;
		ReleaseSysCache(tuple);
	}
	return storage;
}

/*
 * Whether a table had rows in the storage that this transaction has replaced,
 * which goes at commit.
 */
bool
bemi_had_rows_in_former_storage(Oid relation)
{
	Oid			storage = current_storage(relation);
	ListCell   *cell;

	foreach(cell, bemi_replaced_rows(RelationRelationId, ClassOidIndexId,
									 Anum_pg_class_oid, relation))
	{
		Form_pg_class former =
			(Form_pg_class) GETSTRUCT((HeapTuple) lfirst(cell));

		if (former->relfilenode != storage && storage_has_blocks(former))
			return true;
	}
	return false;
}

/*
 * TRUNCATE has emptied a partition and not its root, see truncate.c.
 */
void
bemi_emit_truncated(Oid partition)
{
	emit_rows_changed(bemi_partition_root(partition),
					  psprintf("Partition %s was truncated.",
							   bemi_relation_name(partition)));
}
