/*-------------------------------------------------------------------------
 *
 * partition.c
 *		The partition of bemi.changes that rows are being written to.
 *
 * Input: values of rows, in runs that belong to one partition.  They are
 * written by the server's multi-insert and then indexed, or one by one if
 * triggers fire.  Users' code on the history runs with the rights of its owner
 * (user_code.c).  A missing partition is created.
 *
 * Every commit time must find a partition, because a source may send any time.
 * Partitions may have any range: a day, a week, a month, or one that a user
 * has chosen.  So a new partition is limited by the bounds of its neighbours.
 *
 * A partition is opened for one destination transaction.  It lives in a child
 * of that transaction's memory context, and its lock is held until the
 * transaction ends.  What must never happen: a change fails to be stored
 * because there is no partition for its time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "funcapi.h"
#include "optimizer/optimizer.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "rewrite/rewriteHandler.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "extension/extension.h"
#include "store/store_internal.h"

PG_FUNCTION_INFO_V1(bemi_attach_partition);
PG_FUNCTION_INFO_V1(bemi_partition_ranges);

/*
 * So many rows go into one multi-insert.  With more, a new range of pages of a
 * BRIN index would have many rows already when it is summarized, which reads
 * them.
 */
#define ROWS_TOGETHER	128

const char *const bemi_store_columns[BEMI_STORE_COLUMNS] = {
	[BEMI_STORE_ID] = "id",
	"database", "schema", "table", "primary_key", "operation",
	"before", "after",
	[BEMI_STORE_CONTEXT] = "context",
	[BEMI_STORE_COMMITTED_AT] = "committed_at",
	"queued_at",
	[BEMI_STORE_CREATED_AT] = "created_at",
	"transaction_id", "position", "source"
};

struct BemiPartition
{
	MemoryContext memory;		/* holds this struct and all below */
	Relation	relation;
	EState	   *estate;
	ResultRelInfo *target;
	BemiIndexes *indexes;
	BemiCode   *code;			/* users' code on it; NULL: none */
	AttrNumber	attnums[BEMI_STORE_COLUMNS];
	int			slot_count;
	TupleTableSlot *slots[BEMI_PARTITION_SLOTS];

	/* columns that users have added, with a default */
	int			default_count;
	AttrNumber *default_attnums;
	ExprState **defaults;
};

/*
 * OID of bemi.changes.  It is looked up once, and must be the extension's own
 * table: the worker is a superuser, and must not write to a user's table of
 * that name or read from it.
 */
static Oid	changes_oid = InvalidOid;

/*
 * Looks up bemi.changes.  Must be called first, in a transaction.  If the
 * extension is dropped and created again later, the worker fails and a new one
 * starts.
 */
void
bemi_store_find_changes(void)
{
	changes_oid = bemi_own_table("changes");
	if (!OidIsValid(changes_oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table bemi.changes of extension bemi does not exist")));
}

/*
 * Owner of a table.
 */
static Oid
owner_of_table(Oid oid)
{
	Relation	table = table_open(oid, AccessShareLock);
	Oid			owner = table->rd_rel->relowner;

	table_close(table, NoLock);
	return owner;
}

/*
 * Index of the last bound that is not later than this time, -1 if there is
 * none.
 */
static int
last_partition_bound(Relation parent, PartitionDesc partitions,
					 TimestampTz time)
{
	PartitionKey key = RelationGetPartitionKey(parent);
	Datum		value = TimestampTzGetDatum(time);
	bool		is_equal;

	Assert(key->strategy == PARTITION_STRATEGY_RANGE && key->partnatts == 1);
	return partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
										 partitions->boundinfo, 1, &value,
										 &is_equal);
}

/*
 * OID of the partition for this commit time, or InvalidOid.  "omit_detached"
 * leaves out partitions that are being detached.
 */
static Oid
partition_at(TimestampTz committed_at, bool omit_detached)
{
	Relation	parent = table_open(changes_oid, RowExclusiveLock);
	PartitionDesc partitions = RelationGetPartitionDesc(parent, omit_detached);
	Oid			result = InvalidOid;

	if (partitions->nparts > 0)
	{
		int			i = last_partition_bound(parent, partitions, committed_at);

		i = partitions->boundinfo->indexes[i + 1];
		if (i < 0)
			i = partitions->boundinfo->default_index;
		if (i >= 0)
			result = partitions->oids[i];
	}
	table_close(parent, NoLock);
	return result;
}

static Oid
find_partition(TimestampTz committed_at)
{
	return partition_at(committed_at, true);
}

/*
 * The time of a bound.  If the bound is MINVALUE, MAXVALUE or missing, *time
 * is infinite, and the result is false.
 */
bool
bemi_partition_bound_time(PartitionBoundInfo bounds, int i, Datum *time)
{
	bool		below = i < 0;

	if (i >= 0 && i < bounds->ndatums)
	{
		if (bounds->kind[i][0] == PARTITION_RANGE_DATUM_VALUE)
		{
			*time = bounds->datums[i][0];
			return true;
		}
		below = bounds->kind[i][0] == PARTITION_RANGE_DATUM_MINVALUE;
	}
	*time = TimestampTzGetDatum(below ? DT_NOBEGIN : DT_NOEND);
	return false;
}

/*
 * The bounds of the neighbours of a commit time without a partition; NULL: no
 * neighbour.
 */
static void
find_partition_hole(TimestampTz committed_at, BemiValue *bounds)
{
	Relation	parent = table_open(changes_oid, RowExclusiveLock);
	PartitionDesc partitions = RelationGetPartitionDesc(parent, false);

	bounds[0] = bounds[1] = bemi_sql_null_if(true, bemi_sql_time(0));
	if (partitions->nparts > 0)
	{
		int			i = last_partition_bound(parent, partitions, committed_at);

		for (int n = 0; n < 2; n++)
			bounds[n].is_null =
				!bemi_partition_bound_time(partitions->boundinfo, i + n,
										   &bounds[n].datum);
	}
	table_close(parent, NoLock);
}

/*
 * Creates the partition for this commit time.
 */
static void
create_partition(TimestampTz committed_at)
{
	BemiValue	arguments[3] = {bemi_sql_time(committed_at)};
	BemiDdl		ddl;

	find_partition_hole(committed_at, &arguments[1]);
	bemi_ddl_enter(&ddl);
	bemi_sql_run("SELECT _bemi.make_partition($1, $2, $3)", arguments,
				 lengthof(arguments));
	bemi_ddl_leave(&ddl);
	CommandCounterIncrement();
}

/*
 * _bemi.attach_partition(partition regclass, bounds text): the last step of
 * _bemi.make_partition().  It runs with the rights of the owner of both
 * tables, because ATTACH evaluates constant parts of CHECK constraints and
 * index expressions.
 */
Datum
bemi_attach_partition(PG_FUNCTION_ARGS)
{
	Oid			partition = PG_GETARG_OID(0);
	char	   *command;
	BemiRights	caller;

	command =
		psprintf("ALTER TABLE bemi.changes ATTACH PARTITION " BEMI_INTERNAL_SCHEMA
				 ".%s FOR VALUES %s",
				 quote_identifier(get_rel_name(partition)),
				 text_to_cstring(PG_GETARG_TEXT_PP(1)));
	bemi_act_restricted_as(owner_of_table(partition), &caller);
	bemi_sql_run(command, NULL, 0);
	bemi_act_as_before(&caller);
	PG_RETURN_VOID();
}

/*
 * Finishes an interrupted DETACH ...  CONCURRENTLY.  It cannot be undone, and
 * until it is finished there can be no other partition for that time.  The
 * caller's lock excludes one that is still running.
 */
static void
finish_partition_detach(Oid partition)
{
	char	   *name = get_rel_name(partition);
	char	   *schema = get_namespace_name(get_rel_namespace(partition));
	char	   *command =
		psprintf("ALTER TABLE bemi.changes DETACH PARTITION %s FINALIZE",
				 quote_qualified_identifier(schema, name));
	BemiDdl		ddl;

	bemi_ddl_enter(&ddl);
	bemi_sql_run(command, NULL, 0);
	bemi_ddl_leave(&ddl);
	CommandCounterIncrement();
	ereport(LOG,
			(errmsg("bemi: partition \"%s\" of bemi.changes is detached now",
					name),
			 errdetail("DETACH PARTITION ... CONCURRENTLY had been interrupted, and there are new changes of that time.")));
}

/*
 * OID of the partition for this commit time, which is created if there is
 * none.  Another worker may be creating the same one.  So it looks again under
 * the lock that ATTACH PARTITION takes.
 */
static Oid
find_or_create_partition(TimestampTz committed_at)
{
	Oid			oid = find_partition(committed_at);

	if (OidIsValid(oid))
		return oid;
	LockRelationOid(changes_oid, ShareUpdateExclusiveLock);
	oid = find_partition(committed_at);
	if (OidIsValid(oid))
		return oid;
	oid = partition_at(committed_at, false);
	if (OidIsValid(oid))
		finish_partition_detach(oid);
	create_partition(committed_at);
	return find_partition(committed_at);
}

/*
 * Appends one partition and its bounds to the result of
 * _bemi.partition_ranges().
 */
static void
append_partition_range(ReturnSetInfo *result, PartitionDesc partitions,
					   int upper)
{
	PartitionBoundInfo bounds = partitions->boundinfo;
	int			partition = bounds->indexes[upper];
	Datum		values[3];
	bool		nulls[3] = {0};

	if (partition < 0)
		return;
	values[0] = ObjectIdGetDatum(partitions->oids[partition]);
	(void) bemi_partition_bound_time(bounds, upper - 1, &values[1]);
	(void) bemi_partition_bound_time(bounds, upper, &values[2]);
	tuplestore_putvalues(result->setResult, result->setDesc, values, nulls);
}

/*
 * _bemi.partition_ranges(): the partitions of bemi.changes, with the bounds of
 * their times.  The default partition is left out, because it has none.
 */
Datum
bemi_partition_ranges(PG_FUNCTION_ARGS)
{
	Oid			table = bemi_own_table("changes");
	Relation	parent;
	PartitionDesc partitions;

	bemi_init_result_set(fcinfo);
	if (!OidIsValid(table))
		return (Datum) 0;
	parent = table_open(table, AccessShareLock);
	partitions = RelationGetPartitionDesc(parent, true);
	for (int i = 1;
		 partitions->nparts > 0 && i < partitions->boundinfo->ndatums; i++)
		append_partition_range((ReturnSetInfo *) fcinfo->resultinfo,
							   partitions, i);
	table_close(parent, AccessShareLock);
	return (Datum) 0;
}

/*
 * Records the numbers of our columns, by name, because users may have added
 * columns, and a partition may have dropped ones.
 */
static void
find_partition_columns(BemiPartition *partition)
{
	for (int i = 0; i < BEMI_STORE_COLUMNS; i++)
	{
		partition->attnums[i] =
			get_attnum(RelationGetRelid(partition->relation),
					   bemi_store_columns[i]);
		if (partition->attnums[i] == InvalidAttrNumber)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of table \"%s\" is missing",
							bemi_store_columns[i],
							RelationGetRelationName(partition->relation)),
					 errhint("Columns of bemi.changes must not be renamed or dropped.")));
	}
}

/*
 * Whether a column is one of ours.
 */
static bool
column_is_written(const BemiPartition *partition, AttrNumber attnum)
{
	for (int i = 0; i < BEMI_STORE_COLUMNS; i++)
		if (partition->attnums[i] == attnum)
			return true;
	return false;
}

/*
 * Prepares the defaults of columns that users have added.
 */
static void
find_column_defaults(BemiPartition *partition)
{
	TupleDesc	columns = RelationGetDescr(partition->relation);

	partition->default_attnums = palloc(sizeof(AttrNumber) * columns->natts);
	partition->defaults = palloc(sizeof(ExprState *) * columns->natts);
	for (AttrNumber attnum = 1; attnum <= columns->natts; attnum++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, attnum - 1);
		Expr	   *expression;

		if (column->attisdropped || column->attgenerated ||
			column_is_written(partition, attnum))
			continue;
		expression =
			(Expr *) build_column_default(partition->relation, attnum);
		if (expression == NULL)
			continue;
		partition->default_attnums[partition->default_count] = attnum;
		partition->defaults[partition->default_count++] =
			ExecInitExpr(expression_planner(expression), NULL);
	}
}

static BemiPartition *
open_partition(Oid oid)
{
	MemoryContext memory = AllocSetContextCreate(TopTransactionContext,
												 "bemi open partition",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	BemiPartition *partition = palloc0(sizeof(BemiPartition));

	partition->memory = memory;
	partition->relation = table_open(oid, RowExclusiveLock);
	if (partition->relation->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("partition \"%s\" of bemi.changes is not a plain table",
						RelationGetRelationName(partition->relation)),
				 errhint("Detach it. The worker then creates a partition of its own.")));

	partition->estate = CreateExecutorState();
	partition->target = makeNode(ResultRelInfo);
	InitResultRelInfo(partition->target, partition->relation, 0, NULL, 0);
	partition->code =
		bemi_code_of(partition->target, owner_of_table(changes_oid));
	bemi_code_enter(partition->code);
	ExecOpenIndices(partition->target, false);
	/* AFTER triggers look for it there. */
	partition->estate->es_opened_result_relations =
		lappend(partition->estate->es_opened_result_relations,
				partition->target);
	find_partition_columns(partition);
	find_column_defaults(partition);
	partition->indexes =
		bemi_indexes_create(partition->target, partition->estate,
							partition->attnums);
	bemi_code_leave(partition->code);

	MemoryContextSwitchTo(caller);
	return partition;
}

/*
 * Closes a partition; NULL does nothing.
 */
void
bemi_partition_close(BemiPartition *partition)
{
	if (partition == NULL)
		return;
	for (int i = 0; i < partition->slot_count; i++)
		ExecDropSingleTupleTableSlot(partition->slots[i]);
	ExecCloseIndices(partition->target);
	ExecResetTupleTable(partition->estate->es_tupleTable, false);
	FreeExecutorState(partition->estate);
	table_close(partition->relation, NoLock);
	MemoryContextDelete(partition->memory);
}

/*
 * Whether changes committed at this time belong to this partition.
 */
bool
bemi_partition_contains(const BemiPartition *partition,
						TimestampTz committed_at)
{
	return find_partition(committed_at) ==
		RelationGetRelid(partition->relation);
}

/*
 * Returns the open partition for a commit time.  If it is not the one that is
 * open now (or NULL), that one is closed.  A missing partition is created.
 */
BemiPartition *
bemi_partition_for(BemiPartition *open, TimestampTz committed_at)
{
	if (open != NULL && bemi_partition_contains(open, committed_at))
		return open;

	bemi_partition_close(open);
	return open_partition(find_or_create_partition(committed_at));
}

/*
 * Puts a row into the i-th slot, which is created at its first use.
 */
static void
fill_partition_slot(BemiPartition *partition, int i, const BemiStoreRow *row)
{
	TupleTableSlot *slot;

	if (i == partition->slot_count)
	{
		MemoryContext caller = MemoryContextSwitchTo(partition->memory);

		partition->slots[partition->slot_count++] =
			table_slot_create(partition->relation, NULL);
		MemoryContextSwitchTo(caller);
	}
	slot = ExecClearTuple(partition->slots[i]);

	memset(slot->tts_isnull, true,
		   sizeof(bool) * slot->tts_tupleDescriptor->natts);
	for (int column = 0; column < BEMI_STORE_COLUMNS; column++)
	{
		int			place = partition->attnums[column] - 1;

		slot->tts_values[place] = row->values[column];
		slot->tts_isnull[place] = row->nulls[column];
	}
	for (int n = 0; n < partition->default_count; n++)
	{
		int			place = partition->default_attnums[n] - 1;

		slot->tts_values[place] =
			ExecEvalExpr(partition->defaults[n],
						 GetPerTupleExprContext(partition->estate),
						 &slot->tts_isnull[place]);
	}
	ExecStoreVirtualTuple(slot);
}

/*
 * Writes filled slots.  Always at the end of the table: small rows in the gaps
 * of earlier pages would make the index of times useless.
 */
static void
write_rows(BemiPartition *partition, TupleTableSlot **slots, int count)
{
	table_multi_insert(partition->relation, slots, count,
					   GetCurrentCommandId(true), TABLE_INSERT_SKIP_FSM, NULL);
	bemi_indexes_summarize(partition->indexes, slots, count);
}

/*
 * Writes the filled slots with multi-inserts, and then their index entries.
 */
static void
insert_rows_together(BemiPartition *partition, const BemiStoreRow *rows,
					 int count)
{
	EState	   *estate = partition->estate;
	TupleConstr *constraints = partition->relation->rd_att->constr;
	MemoryContext caller;

	for (int i = 0; i < count && constraints != NULL; i++)
	{
		if (constraints->has_generated_stored)
			ExecComputeStoredGenerated(partition->target, estate,
									   partition->slots[i], CMD_INSERT);
		ExecConstraints(partition->target, partition->slots[i], estate);
	}

	caller = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	for (int first = 0; first < count; first += ROWS_TOGETHER)
		write_rows(partition, &partition->slots[first],
				   Min(ROWS_TOGETHER, count - first));
	bemi_indexes_insert(partition->indexes, partition->slots, rows, count);
	MemoryContextSwitchTo(caller);
}

/*
 * Writes the filled slots one by one, and fires triggers.
 */
static void
insert_rows_singly(BemiPartition *partition, int count)
{
	AfterTriggerBeginQuery();
	for (int i = 0; i < count; i++)
	{
		partition->estate->es_output_cid = GetCurrentCommandId(true);
		ExecSimpleRelationInsert(partition->target, partition->estate,
								 partition->slots[i]);
	}
	AfterTriggerEndQuery(partition->estate);
	bemi_indexes_summarize(partition->indexes, partition->slots, count);
}

/*
 * Writes rows, at most BEMI_PARTITION_SLOTS of them.
 */
void
bemi_partition_insert(BemiPartition *partition, const BemiStoreRow *rows,
					  int count)
{
	bemi_code_enter(partition->code);
	for (int i = 0; i < count; i++)
		fill_partition_slot(partition, i, &rows[i]);
	if (partition->target->ri_TrigDesc == NULL)
		insert_rows_together(partition, rows, count);
	else
		insert_rows_singly(partition, count);
	bemi_code_leave(partition->code);

	ResetPerTupleExprContext(partition->estate);
	for (int i = 0; i < count; i++)
		ExecClearTuple(partition->slots[i]);
}
