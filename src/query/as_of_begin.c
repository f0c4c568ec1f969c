/*-------------------------------------------------------------------------
 *
 * as_of_begin.c
 *		Opens the past of a table: locks, rights, two snapshots, and the place
 *		in commit order.
 *
 * Input: a table and a time, a position or a change.  Output: BemiPast, with
 * which as_of_rows.c reads.
 *
 * What must never happen: a row of today is returned although it was changed
 * since, or although a change of the past is not in it.  So a change that the
 * snapshot of the table sees must be stored when the changes are read, and the
 * snapshot must see each change of the past.  This holds because of the order:
 *
 * 1. The table is locked, so that nobody can replace its file.
 * 2. bemi_wait_for_commits() waits until no commit can come with a time before
 *	  the place.
 * 3. The snapshot of the table is taken.  If it lacks commits of the past
 *	  (as_of_hidden.c), they are waited for, and it is taken again.
 * 4. bemi_wait_until_stored() waits until everything that was committed before
 *	  is stored.
 * 5. The snapshot of the changes is taken, and completeness is checked with
 *	  it.
 *
 * If the history has a gap since the place, its rows come from the changes
 * before it (as_of_replay.c), or this is an error.
 *
 * Later changes may be stored, too.  They do no harm, because the row before
 * the first change since the time is the same for all snapshots.  For the same
 * reason, both snapshots are new ones, also in a transaction of REPEATABLE
 * READ: the past does not depend on them.
 *
 * The caller's own uncommitted changes are not in the history.  The snapshots
 * are of the transaction's first command, so they do not see these changes.
 * Commands that replace rows outside of the snapshot's sight (TRUNCATE, ATTACH
 * PARTITION) hold a strong lock until the end of the transaction, and are
 * refused.
 *
 * Rights: those of the current user, checked at each opening and not when a
 * query is planned.  Row security that applies to him is an error, because
 * policies cannot be applied to rows of the history.
 *
 * docs/internals/reading.md has the reasons.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/pg_lsn.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "decode/decode.h"
#include "query/query_internal.h"
#include "store/store.h"
#include "worker/worker.h"

/* ---------- the table ---------- */

/*
 * "hint": NULL for none.
 */
static void
refuse_table(const BemiPast *past, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot read the past of table \"%s\"",
					RelationGetRelationName(past->table)),
			 errdetail("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * What a user can do if row security applies to him.
 */
static char *
hint_of_row_security(void)
{
	return psprintf("Read it as a role to which it does not apply. A superuser can make this one such a role: ALTER ROLE %s BYPASSRLS;",
					quote_identifier(GetUserNameFromId(GetUserId(), false)));
}

/*
 * Throws an error if the current user may not read the table, or only some of
 * its rows.
 */
static void
check_rights(const BemiPast *past)
{
	bemi_check_select(past->table);
	if (check_enable_rls(RelationGetRelid(past->table), InvalidOid,
						 false) == RLS_ENABLED)
		refuse_table(past, "Its row security applies to you.",
					 hint_of_row_security());
}

/*
 * Throws an error if this transaction has run a command that can change which
 * rows the table has without changing rows.  Such a command holds its lock
 * until the end of the transaction, or of the savepoint that undoes it.
 */
static void
check_own_commands(Relation relation)
{
	if (CheckRelationLockedByMe(relation, ShareUpdateExclusiveLock, true))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot read the past of %s in this transaction",
						quote_identifier(RelationGetRelationName(relation))),
				 errdetail("The transaction holds a lock on the table that commands such as TRUNCATE and ALTER TABLE take."),
				 errhint("Read the past in another transaction.")));
}

/*
 * Throws an error for a table that is never tracked.
 */
static void
refuse_untracked_kind(const BemiPast *past)
{
	Oid			schema = RelationGetNamespace(past->table);

	if (RelationGetRelid(past->table) == bemi_own_table("changes"))
		refuse_table(past, "It is the history itself.",
					 "SELECT * FROM bemi.changes WHERE committed_at <= TIME;");
	if (bemi_is_own_schema(schema))
		refuse_table(past, "It belongs to bemi, and has no history.", NULL);
	if (IsCatalogNamespace(schema) ||
		schema == get_namespace_oid("information_schema", true))
		refuse_table(past, "It is a system table, and has no history.", NULL);
	if (past->table->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse_table(past, "It is a temporary table, and has no history.",
					 NULL);
}

static void
check_kind(const BemiPast *past)
{
	TupleDesc	columns = RelationGetDescr(past->table);
	char		kind = past->table->rd_rel->relkind;

	if (kind != RELKIND_RELATION && kind != RELKIND_PARTITIONED_TABLE)
		refuse_table(past, "It is not a table.", NULL);
	refuse_untracked_kind(past);
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(columns, i);

		if (!column->attisdropped &&
			column->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
			refuse_table(past,
						 psprintf("Column \"%s\" is generated, and not stored.",
								  NameStr(column->attname)),
						 NULL);
	}
}

/*
 * A query of a table reads those that inherit from it, too.  They have
 * histories of their own, and none has when they began to inherit.
 */
static void
refuse_inherited(const BemiPast *past, const BemiAsOfCall *call)
{
	List	   *children;

	if (past->table->rd_rel->relkind != RELKIND_RELATION ||
		!past->table->rd_rel->relhassubclass ||
		bemi_sql_is_true(&call->allow_gaps))
		return;
	children = find_inheritance_children(call->table, NoLock);
	if (children != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot read the past of table \"%s\"",
						RelationGetRelationName(past->table)),
				 errdetail("Other tables inherit from it."),
				 errhint("Read each of them: SELECT ... FROM bemi.as_of(NULL::%s, ...). With allow_gaps => true, the result has the rows of this table only.",
						 quote_qualified_identifier(get_namespace_name(
																	   get_rel_namespace(
																						 linitial_oid(
																									  children))),
													get_rel_name(linitial_oid(
																			  children))))));
}

static void
open_leaf(BemiPast *past, Oid oid)
{
	Relation	relation = table_open(oid, NoLock);
	BemiPastLeaf *leaf;

	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		check_own_commands(relation);
	if (relation->rd_rel->relkind != RELKIND_RELATION)
	{
		bool		is_foreign =
			relation->rd_rel->relkind == RELKIND_FOREIGN_TABLE;

		table_close(relation, NoLock);
		if (is_foreign)
			refuse_table(past, "A partition is a foreign table.", NULL);
		return;
	}
	leaf = palloc0(sizeof(BemiPastLeaf));
	leaf->table = relation;
	leaf->map = convert_tuples_by_name(RelationGetDescr(relation),
									   RelationGetDescr(past->table));
	leaf->slot = table_slot_create(relation, NULL);
	past->leaves = lappend(past->leaves, leaf);
}

/*
 * Locks the table and opens its partitions.  Other sessions cannot truncate or
 * attach until the end of the transaction.
 */
static void
open_table(BemiPast *past, const BemiAsOfCall *call)
{
	Oid			oid = call->table;

	past->table = table_open(oid, AccessShareLock);
	check_rights(past);
	past->key = bemi_key_create(past->table);
	past->is_counted = past->key == NULL || !past->key->tells_apart;
	check_kind(past);
	refuse_inherited(past, call);
	if (past->table->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		ListCell   *cell;

		foreach(cell, find_all_inheritors(oid, AccessShareLock, NULL))
		{
			open_leaf(past, lfirst_oid(cell));
		}
	}
	else
		open_leaf(past, oid);
}

/* ---------- snapshots ---------- */

/*
 * A snapshot of now, without the changes of this transaction.
 */
static Snapshot
take_snapshot(const BemiPast *past)
{
	Snapshot	snapshot;

	PushCopiedSnapshot(GetLatestSnapshot());
	GetActiveSnapshot()->curcid = FirstCommandId;
	snapshot = RegisterSnapshotOnOwner(GetActiveSnapshot(), past->owner);
	PopActiveSnapshot();
	return snapshot;
}

/*
 * The snapshot of the table.  Each commit whose record is from before it is
 * seen, or was running.
 */
static void
take_table_snapshot(BemiPast *past)
{
	bemi_make_change_id(GetXLogInsertRecPtr(), 0, 0, &past->table_id);
	past->of_table = take_snapshot(past);
}

/* ---------- what the history has of the table ---------- */

/*
 * Finds the source and the table's name in its history.
 */
static void
find_history(BemiPast *past)
{
	BemiValue	table =
		bemi_sql_oid(REGCLASSOID, RelationGetRelid(past->table));
	BemiValue	columns[] = {
		{.type = TEXTOID}, {.type = TEXTOID}, {.type = TEXTOID},
		{.type = TEXTOID}, {.type = UUIDOID}, {.type = JSONBOID},
		{.type = TIMESTAMPTZOID}
	};

	(void)
		bemi_sql_read_row("SELECT source, schema, \"table\", root, key_text_since,"
						  " names, created_at"
						  " FROM _bemi.as_of_history($1)",
						  &table, 1, columns, lengthof(columns));
	if (columns[0].is_null)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no source of this database is started"),
				 errhint("CALL bemi.start();")));
	if (!columns[3].is_null)
		refuse_table(past, "It is a partition, and its root has the history.",
					 psprintf("SELECT * FROM bemi.as_of(NULL::%s, TIME);",
							  bemi_sql_text_of(&columns[3])));
	past->sources = list_make1(bemi_sql_text_of(&columns[0]));
	past->schema_name = bemi_sql_text_of(&columns[1]);
	past->table_name = bemi_sql_text_of(&columns[2]);
	if (!columns[4].is_null)
		past->key_text_since = *DatumGetUUIDP(columns[4].datum);
	past->created_at = columns[6].is_null ? DT_NOBEGIN :
		bemi_sql_number_of(&columns[6]);
	past->periods =
		columns[5].is_null ? NULL : DatumGetJsonbP(columns[5].datum);
}

/*
 * The first gap after a place, up to now or up to past->until; NULL if there
 * is none.  If the table has another key since, equal rows are counted, unless
 * some were already returned; then that is a gap.
 */
char *
bemi_past_find_gap(BemiPast *past, TimestampTz since, XLogRecPtr position,
				   bool up_to_now)
{
	BemiValue	arguments[] = {
		bemi_sql_oid(REGCLASSOID, RelationGetRelid(past->table)),
		bemi_sql_text(linitial(past->sources)), bemi_sql_time(since),
		bemi_sql_lsn(position),
		bemi_sql_time(up_to_now ? DT_NOEND : past->until),
		bemi_sql_null_if(up_to_now || past->is_time,
						 bemi_sql_lsn(past->position + past->splits_commit)),
		bemi_sql_null_if(position != past->position,
						 bemi_sql_uuid(&past->first_id))
	};
	BemiValue	columns[] = {
		{.type = TEXTOID}, {.type = PG_LSNOID}, {.type = TEXTOID}
	};

	PushActiveSnapshot(past->of_changes);
	(void)
		bemi_sql_read_row("SELECT gap, stored_until, former_key FROM _bemi.as_of_gap($1, $2, $3, $4, $5, $6, $7)",
						  arguments, lengthof(arguments), columns,
						  lengthof(columns));
	PopActiveSnapshot();
	if (!up_to_now && past->is_time && !columns[1].is_null)
		past->stored_until = DatumGetLSN(columns[1].datum);
	if (!columns[2].is_null && !past->is_open)
		past->is_counted = past->has_former_key = true;
	return bemi_sql_text_of(&columns[columns[0].is_null &&
									 !past->is_counted ? 2 : 0]);
}

/*
 * What a user can do about a gap.
 */
static char *
hint_of_gap(const BemiPast *past, const char *gap)
{
	const char *name = quote_qualified_identifier(past->schema_name,
												  past->table_name);
	char	   *table = quote_literal_cstr(name);

	if (strncmp(gap, "not_tracked:", strlen("not_tracked:")) == 0)
		return psprintf("%sSELECT bemi.track(%s); makes later times readable. With allow_gaps => true, the result can be wrong.",
						past->table->rd_rel->relpersistence ==
						RELPERSISTENCE_UNLOGGED ?
						psprintf("ALTER TABLE %s SET LOGGED; ", name) :
						"",
						table);
	return psprintf("With allow_gaps => true, the result can be wrong. Later times can be read in spite of later gaps after CALL bemi.baseline(%s, %s);",
					quote_literal_cstr(linitial(past->sources)), table);
}

void
bemi_past_refuse_gap(const BemiPast *past, TimestampTz since, const char *gap)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("the history of table \"%s\" is not complete since %s",
					RelationGetRelationName(past->table),
					timestamptz_to_str(since)),
			 errdetail("%s", gap),
			 errhint("%s", hint_of_gap(past, gap))));
}

/*
 * Throws an error if changes may be missing before this one.  The times of a
 * gap do not tell that if a clock was set back.
 */
void
bemi_past_check_stored(const BemiPast *past, const pg_uuid_t *id)
{
	if (bemi_commit_lsn_of(id) > past->stored_until && !past->allow_gaps)
		bemi_past_refuse_gap(past, past->base_time,
							 "A clock was set back, and a gap is among the changes of that time.");
}

/*
 * Rows of today do not help if the history has a gap since the place.  Then
 * all must come from the history before it.
 */
static void
choose_rows(BemiPast *past, const BemiAsOfCall *call)
{
	char	   *gap = bemi_past_find_gap(past, past->time, past->position,
										 true);

	past->from_history = past->has_base = false;
	past->stored_until = PG_UINT64_MAX;
	if (gap == NULL)
		return;
	past->from_history = call->only_changes ?
		bemi_past_find_gap(past, past->time, past->position, false) == NULL :
		bemi_replay_find_base(past) == NULL;
	if (!past->from_history && !past->allow_gaps)
		bemi_past_refuse_gap(past, past->time, gap);
}

/*
 * Waits until no commit can come with a time or a position before the place.
 */
static BemiWait
wait_for_commits(const BemiAsOfCall *call)
{
	BemiWait	wait = bemi_wait_begin(call->timeout.is_null ? NULL :
									   DatumGetIntervalP(call->timeout.datum));
	TimestampTz time = call->at.is_null ? DT_NOBEGIN :
		DatumGetTimestampTz(call->at.datum);

	bemi_wait_for_commits(call->upto != 0 ? call->upto : time, &wait);
	return wait;
}

/*
 * Throws an error if bemi.changes can only be read by queries.
 */
static void
refuse_history(const BemiPast *past)
{
	if (bemi_history_is_readable(past->history))
		return;
	if (check_enable_rls(bemi_own_table("changes"), InvalidOid, true) ==
		RLS_ENABLED)
		refuse_table(past, "The row security of bemi.changes applies to you.",
					 hint_of_row_security());
	refuse_table(past,
				 "A partition of bemi.changes is a foreign table, or has virtual columns.",
				 NULL);
}

static void
read_places(BemiPast *past, const BemiAsOfCall *call,
			const Bitmapset *needed)
{
	bool		was_counted;

	PushActiveSnapshot(past->of_changes);
	past->history = bemi_history_open();
	refuse_history(past);
	find_history(past);
	bemi_past_read_names(past, needed);
	bemi_past_find_end(past, call);
	past->splits_commit = !call->before.is_null;
	past->is_time = !call->at.is_null;
	past->until = call->upto != 0 ? call->upto : past->time;
	past->allow_gaps = bemi_sql_is_true(&call->allow_gaps);
	was_counted = past->is_counted;
	choose_rows(past, call);
	if (past->is_counted && !was_counted)
		bemi_past_read_names(past, needed);
	past->is_open = true;
	PopActiveSnapshot();
}

/*
 * Waits until the changes of all commits that the table's snapshot sees are
 * stored, and finds the place among them.
 */
static void
open_changes(BemiPast *past, const BemiAsOfCall *call, const Bitmapset *needed,
			 const BemiWait *wait)
{
	bemi_wait_until_stored(wait);
	past->of_changes = take_snapshot(past);
	read_places(past, call, needed);
}

static void
close_changes(BemiPast *past)
{
	past->is_open = false;
	bemi_history_close(past->history);
	UnregisterSnapshotFromOwner(past->of_changes, past->owner);
	UnregisterSnapshotFromOwner(past->of_table, past->owner);
	past->names = NIL;
}

/*
 * Takes both snapshots and finds the place.  The table's snapshot sees all
 * commits of the past.
 */
static void
open_snapshots(BemiPast *past, const BemiAsOfCall *call,
			   const Bitmapset *needed)
{
	BemiWait	wait = wait_for_commits(call);
	BemiHidden	hidden;

	take_table_snapshot(past);
	if (bemi_hidden_find(&hidden, past, &wait))
	{
		UnregisterSnapshotFromOwner(past->of_table, past->owner);
		take_table_snapshot(past);
	}
	open_changes(past, call, needed, &wait);
	if (hidden.count > 0 && bemi_hidden_keep_past(&hidden, past))
	{
		close_changes(past);
		bemi_hidden_wait(&hidden, &wait);
		take_table_snapshot(past);
		open_changes(past, call, needed, &wait);
	}
}

/*
 * Opens the past, in a child of the current memory context.  "needed" has the
 * numbers of the columns that are read; NULL: all.
 */
BemiPast *
bemi_past_begin(const BemiAsOfCall *call, const Bitmapset *needed)
{
	MemoryContext memory = AllocSetContextCreate(CurrentMemoryContext,
												 "bemi past",
												 ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(memory);
	BemiPast   *past = palloc0(sizeof(BemiPast));

	past->memory = memory;
	past->owner = CurrentResourceOwner;
	open_table(past, call);
	open_snapshots(past, call, needed);
	bemi_past_rows_init(past);
	MemoryContextSwitchTo(caller);
	return past;
}

/*
 * Closes the past.  After an error, the end of the transaction does that.
 */
void
bemi_past_end(BemiPast *past)
{
	ListCell   *cell;

	bemi_past_rows_end(past);
	foreach(cell, past->leaves)
	{
		BemiPastLeaf *leaf = lfirst(cell);

		ExecDropSingleTupleTableSlot(leaf->slot);
		table_close(leaf->table, NoLock);
	}
	table_close(past->table, NoLock);
	close_changes(past);
	MemoryContextDelete(past->memory);
}

char *
bemi_id_text(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}
