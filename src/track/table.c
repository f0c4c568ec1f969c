/*-------------------------------------------------------------------------
 *
 * table.c
 *		A table's trigger and replica identity, found and changed by OID.
 *
 * A tracked table has bemi's statement trigger, REPLICA IDENTITY FULL and a
 * row in the publication (publication.c).  The arguments of the trigger
 * contain the former replica identity, how the table is tracked, and the
 * column rules, see track_internal.h.  So all of these are in a dump, survive
 * a rename and disappear with DROP TABLE.  A table's owner can create a
 * trigger with any arguments.  So the root of a partition is read from the
 * catalog.
 *
 * Everything here works by OID.  During a wait for a lock, a name can go to
 * another table, and the caller often has a superuser's rights.  So a table is
 * locked by OID, looked up again under the lock, and then changed by functions
 * of the server that take an OID: CreateTrigger(), AlterTableInternal(),
 * performDeletion().  CreateTrigger() and AlterTableInternal() check the
 * rights of the current user.  Other arguments for an existing trigger are
 * written into its row, with the same check.  Look-ups take no lock.
 *
 * Users' event triggers do not see these changes as commands, like the
 * server's own internal changes.  The collection of commands is inhibited,
 * because otherwise AlterTableInternal() would crash inside an event trigger.
 *
 * What must never happen: a lock on a table that neither the current command
 * nor the caller of bemi.track() has named; or an error of locks, resources or
 * cancellation is hidden from the user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type_d.h"
#include "commands/event_trigger.h"
#include "commands/tablecmds.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_untrackable);

/*
 * Reads a relation from the catalog, without a lock on it.  Returns false if
 * it was dropped.
 */
bool
bemi_table_look_up(Oid relation, BemiTable *table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	Form_pg_class form;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_class) GETSTRUCT(tuple);
	table->oid = relation;
	table->schema = form->relnamespace;
	table->owner = form->relowner;
	table->row_type = form->reltype;
	table->kind = form->relkind;
	table->persistence = form->relpersistence;
	table->identity = form->relreplident;
	table->is_partition = form->relispartition;
	table->has_children = form->relhassubclass;
	table->has_trigger = false;
	table->natts = form->relnatts;
	table->name = form->relname;
	ReleaseSysCache(tuple);
	table->root =
		table->is_partition ? bemi_partition_root(relation) : relation;
	return true;
}

/*
 * Locks a relation until the end of the transaction, and looks it up under the
 * lock.  Returns false if it was dropped.  The caller has checked that the
 * current user may lock it.
 */
static bool
lock_table(Oid relation, LOCKMODE mode, BemiTable *table)
{
	LockRelationOid(relation, mode);
	if (bemi_table_look_up(relation, table))
		return true;
	UnlockRelationOid(relation, mode);
	return false;
}

/*
 * OIDs of the table and of all its partitions, parents first, without a lock
 * on any of them.
 */
List *
bemi_table_tree(const BemiTable *table)
{
	if (table->kind != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(table->oid);
	return find_all_inheritors(table->oid, NoLock, NULL);
}

/*
 * The same for a relation that need not be looked up.
 */
List *
bemi_relation_tree(Oid relation)
{
	BemiTable	table = {.oid = relation,.kind = get_rel_relkind(relation)};

	return bemi_table_tree(&table);
}

/*
 * Whether the table can be written to with REPLICA IDENTITY FULL.  Virtual
 * generated columns are never in the stream.  FULL includes them, and writes
 * to a published table with such an identity fail.
 */
bool
bemi_table_can_be_full(const BemiTable *table)
{
	int			count = BEMI_HAS_VIRTUAL_COLUMNS ? table->natts : 0;

	for (AttrNumber number = 1; number <= count; number++)
	{
		HeapTuple	tuple =
			SearchSysCache2(ATTNUM, ObjectIdGetDatum(table->oid),
							Int16GetDatum(number));
		bool		is_virtual;

		if (!HeapTupleIsValid(tuple))
			continue;
		is_virtual = ((Form_pg_attribute) GETSTRUCT(tuple))->attgenerated ==
			ATTRIBUTE_GENERATED_VIRTUAL &&
			!((Form_pg_attribute) GETSTRUCT(tuple))->attisdropped;
		ReleaseSysCache(tuple);
		if (is_virtual)
			return false;
	}
	return true;
}

/*
 * Index of the table for which this boolean column of pg_index is true.
 */
static Oid
index_with_property(Oid relation, AttrNumber property)
{
	Relation	catalog = table_open(IndexRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			index = InvalidOid;

	ScanKeyInit(&key, Anum_pg_index_indrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relation));
	scan =
		systable_beginscan(catalog, IndexIndrelidIndexId, true, NULL, 1, &key);
	while (!OidIsValid(index) &&
		   HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		is_null;

		if (DatumGetBool(heap_getattr(tuple, property,
									  RelationGetDescr(catalog), &is_null)))
			index = ((Form_pg_index) GETSTRUCT(tuple))->indexrelid;
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return index;
}

/*
 * Why a relation cannot be tracked, NULL if it can.
 */
const char *
bemi_table_untrackable(const BemiTable *table)
{
	if (table->kind == RELKIND_FOREIGN_TABLE)
		return "The rows of a foreign table are on another server; track them there.";
	if (table->kind == RELKIND_VIEW || table->kind == RELKIND_MATVIEW)
		return "A view has no rows of its own; track the tables below it.";
	if (table->kind != RELKIND_RELATION &&
		table->kind != RELKIND_PARTITIONED_TABLE)
		return "It is not a table.";
	if (IsCatalogNamespace(table->schema) || IsToastNamespace(table->schema) ||
		table->schema == get_namespace_oid("information_schema", true))
		return "It is a system table.";
	if (bemi_is_own_schema(table->schema))
		return "It belongs to bemi; storing changes of the history would cause further changes.";
	if (table->persistence == RELPERSISTENCE_TEMP)
		return "A temporary table is not written to the write-ahead log.";
	if (table->persistence == RELPERSISTENCE_UNLOGGED)
		return "An unlogged table is not written to the write-ahead log.";
	if (!bemi_table_can_be_full(table) &&
		!OidIsValid(index_with_property(table->oid,
										Anum_pg_index_indisprimary)))
		return "It has a virtual generated column, so it needs a primary key, and has none.";
	return NULL;
}

/*
 * _bemi.untrackable(target regclass)
 */
Datum
bemi_untrackable(PG_FUNCTION_ARGS)
{
	BemiTable	table;
	const char *reason = NULL;

	if (bemi_table_look_up(PG_GETARG_OID(0), &table))
		reason = bemi_table_untrackable(&table);
	if (reason == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(reason));
}

/*
 * The arguments of a trigger. pg_trigger has them one after the other, each
 * ended by a zero byte.
 */
static List *
trigger_arguments(HeapTuple tuple, TupleDesc columns)
{
	bool		is_null;
	Datum		bytes =
		heap_getattr(tuple, Anum_pg_trigger_tgargs, columns, &is_null);
	const char *argument = VARDATA_ANY(DatumGetByteaPP(bytes));
	List	   *arguments = NIL;

	for (int i = 0; i < ((Form_pg_trigger) GETSTRUCT(tuple))->tgnargs; i++)
	{
		arguments = lappend(arguments, pstrdup(argument));
		argument += strlen(argument) + 1;
	}
	return arguments;
}

/*
 * Begins to read the table's trigger with the name that bemi.track() uses, in
 * pg_trigger.
 */
static SysScanDesc
scan_for_trigger(Relation catalog, Oid relation, Snapshot snapshot)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_pg_trigger_tgrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relation));
	ScanKeyInit(&keys[1], Anum_pg_trigger_tgname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum(BEMI_TRIGGER));
	return systable_beginscan(catalog, TriggerRelidNameIndexId, true, snapshot,
							  lengthof(keys), keys);
}

/*
 * Reads that trigger with a snapshot.
 */
void
bemi_table_trigger_at(Oid relation, Snapshot snapshot, BemiTrigger *trigger)
{
	Relation	catalog = table_open(TriggerRelationId, AccessShareLock);
	SysScanDesc scan = scan_for_trigger(catalog, relation, snapshot);
	HeapTuple	tuple = systable_getnext(scan);

	memset(trigger, 0, sizeof(BemiTrigger));
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

		trigger->oid = form->oid;
		trigger->ours = form->tgfoid == bemi_emit_context_oid();
		trigger->enabled = form->tgenabled;
		if (trigger->ours && form->tgnargs > BEMI_MEMBERSHIP)
			trigger->arguments =
				trigger_arguments(tuple, RelationGetDescr(catalog));
	}
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
}

/*
 * The same for the current state.
 */
void
bemi_table_trigger(Oid relation, BemiTrigger *trigger)
{
	bemi_table_trigger_at(relation, NULL, trigger);
}

/*
 * Whether a trigger is the one that bemi.track() creates, except for its
 * arguments.  Owners can create another kind.
 */
static bool
trigger_is_as_created(HeapTuple tuple)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);

	return form->tgfoid == bemi_emit_context_oid() &&
		form->tgtype == (TRIGGER_TYPE_BEFORE | TRIGGER_TYPE_EVENT_MASK) &&
		form->tgattr.dim1 == 0 &&
		heap_attisnull(tuple, Anum_pg_trigger_tgqual, NULL);
}

/*
 * The opposite of trigger_arguments().
 */
static Datum
trigger_argument_bytes(const List *arguments)
{
	StringInfoData bytes;
	ListCell   *cell;

	initStringInfo(&bytes);
	appendStringInfoSpaces(&bytes, VARHDRSZ);
	foreach(cell, arguments)
	{
		const char *argument = lfirst(cell);

		appendBinaryStringInfo(&bytes, argument, strlen(argument) + 1);
	}
	SET_VARSIZE(bytes.data, bytes.len);
	return PointerGetDatum(bytes.data);
}

/*
 * Writes these arguments into a row of pg_trigger.
 */
static void
update_trigger_row(Relation catalog, HeapTuple tuple, const List *arguments)
{
	Datum		values[Natts_pg_trigger] = {0};
	bool		nulls[Natts_pg_trigger] = {0};
	bool		replaced[Natts_pg_trigger] = {0};
	HeapTuple	updated;

	values[Anum_pg_trigger_tgnargs - 1] =
		Int16GetDatum(list_length(arguments));
	values[Anum_pg_trigger_tgargs - 1] = trigger_argument_bytes(arguments);
	replaced[Anum_pg_trigger_tgnargs - 1] = true;
	replaced[Anum_pg_trigger_tgargs - 1] = true;
	updated = heap_modify_tuple(tuple, RelationGetDescr(catalog), values,
								nulls, replaced);
	CatalogTupleUpdate(catalog, &updated->t_self, updated);
	InvokeObjectPostAlterHook(TriggerRelationId,
							  ((Form_pg_trigger) GETSTRUCT(updated))->oid, 0);
}

/*
 * Throws an error unless the current user may create bemi's trigger.
 */
static void
check_trigger_rights(Oid relation)
{
	if (pg_class_aclcheck(relation, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV,
					   get_relkind_objtype(get_rel_relkind(relation)),
					   get_rel_name(relation));
	if (bemi_function_aclcheck(bemi_emit_context_oid(), GetUserId()) !=
		ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION,
					   "bemi.emit_context");
}

/*
 * Changes the arguments of bemi's trigger.  CREATE OR REPLACE TRIGGER would do
 * several times the work, because it writes the dependencies again.  Returns
 * false if the table has no such trigger.
 */
static bool
change_trigger(Oid relation, const List *arguments)
{
	Relation	catalog = table_open(TriggerRelationId, RowExclusiveLock);
	SysScanDesc scan = scan_for_trigger(catalog, relation, NULL);
	HeapTuple	tuple = systable_getnext(scan);
	bool		is_as_created =
		HeapTupleIsValid(tuple) && trigger_is_as_created(tuple);

	if (is_as_created)
	{
		check_trigger_rights(relation);
		update_trigger_row(catalog, tuple, arguments);
		CacheInvalidateRelcacheByRelid(relation);
	}
	systable_endscan(scan);
	table_close(catalog, RowExclusiveLock);
	return is_as_created;
}

/*
 * Creates or replaces bemi's trigger with these arguments.  Checks the same
 * rights of the current user as CREATE TRIGGER.  If a user's trigger has the
 * name, the server throws an error.
 */
static void
create_trigger(Oid relation, const BemiTrigger *former, const List *arguments)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);
	ListCell   *cell;

	statement->replace = former->ours;
	statement->trigname = BEMI_TRIGGER;
	statement->relation =
		makeRangeVar(get_namespace_name(get_rel_namespace(relation)),
					 get_rel_name(relation), -1);
	statement->funcname =
		list_make2(makeString("bemi"), makeString("emit_context"));
	statement->timing = TRIGGER_TYPE_BEFORE;
	statement->events = TRIGGER_TYPE_EVENT_MASK;
	foreach(cell, arguments)
	{
		statement->args = lappend(statement->args, makeString(lfirst(cell)));
	}

	(void) CreateTriggerFiringOn(statement, NULL, relation, InvalidOid,
								 InvalidOid, InvalidOid,
								 bemi_emit_context_oid(), InvalidOid, NULL,
								 false, false,
								 former->ours ? former->enabled :
								 TRIGGER_FIRES_ON_ORIGIN);
	CommandCounterIncrement();
}

/*
 * Gives bemi's trigger other arguments, under the lock and with the rights
 * that CREATE TRIGGER needs.  It stays enabled or disabled.
 */
void
bemi_table_set_trigger(Oid relation, const List *arguments)
{
	BemiTrigger former;

	/*
	 * A further lock is slow, because other sessions' fast locks are
	 * searched.
	 */
	if (!bemi_is_locked(relation))
		LockRelationOid(relation, ShareRowExclusiveLock);
	if (!change_trigger(relation, arguments))
	{
		bemi_table_trigger(relation, &former);
		create_trigger(relation, &former, arguments);
	}
	CommandCounterIncrement();
}

/*
 * Sets the replica identity, like ALTER TABLE ONLY ...  REPLICA IDENTITY.
 */
void
bemi_table_set_identity(Oid relation, char identity, char *index)
{
	ReplicaIdentityStmt *statement = makeNode(ReplicaIdentityStmt);
	AlterTableCmd *command = makeNode(AlterTableCmd);

	statement->identity_type = identity;
	statement->name = index;
	command->subtype = AT_ReplicaIdentity;
	command->def = (Node *) statement;

	EventTriggerInhibitCommandCollection();
	PG_TRY();
	{
		AlterTableInternal(relation, list_make1(command), false);
	}
	PG_FINALLY();
	{
		EventTriggerUndoInhibitCommandCollection();
	}
	PG_END_TRY();
	CommandCounterIncrement();
}

static void
check_table_owner(const BemiTable *table)
{
	if (!bemi_table_ownercheck(table->oid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(table->kind),
					   NameStr(table->name));
}

/*
 * Whether bemi_table_prepare() has nothing left to do.
 */
static bool
table_is_prepared(const BemiTable *table)
{
	BemiTrigger trigger;

	bemi_table_trigger(table->oid, &trigger);
	return trigger.ours && table->identity == REPLICA_IDENTITY_FULL &&
		bemi_table_can_be_full(table);
}

/*
 * The arguments of the trigger for a table that was not tracked before.
 */
static List *
first_trigger_arguments(const BemiTable *table)
{
	char	   *index = table->identity == REPLICA_IDENTITY_INDEX ?
		get_rel_name(index_with_property(table->oid,
										 Anum_pg_index_indisreplident)) :
		NULL;

	return list_make3(psprintf("%c", table->identity), index ? index : "",
					  table->is_partition ? BEMI_AS_PARTITION : BEMI_AS_TABLE);
}

/*
 * Gives a table bemi's trigger and, if possible, REPLICA IDENTITY FULL.  It
 * takes the stronger lock for both, because a lock upgrade could deadlock with
 * the application.  Does nothing if the table was dropped or has left this
 * root before the lock was granted.  Returns whether it has changed anything.
 */
bool
bemi_table_prepare(Oid relation, Oid root)
{
	BemiTable	table;
	BemiTrigger trigger;

	if (!bemi_table_look_up(relation, &table) || table_is_prepared(&table))
		return false;
	check_table_owner(&table);
	if (!lock_table(relation, AccessExclusiveLock, &table) ||
		!bemi_is_within(relation, root))
		return false;
	check_table_owner(&table);

	bemi_table_trigger(relation, &trigger);
	if (!trigger.ours)
		create_trigger(relation, &trigger, first_trigger_arguments(&table));
	if (bemi_table_can_be_full(&table))
	{
		if (table.identity != REPLICA_IDENTITY_FULL)
			bemi_table_set_identity(relation, REPLICA_IDENTITY_FULL, NULL);
	}
	else if (table.identity == REPLICA_IDENTITY_FULL ||
			 table.identity == REPLICA_IDENTITY_NOTHING)
		bemi_table_set_identity(relation, REPLICA_IDENTITY_DEFAULT, NULL);
	return true;
}

/*
 * Whether an index has only columns that exist and are NOT NULL.
 */
static bool
has_certain_columns(const Form_pg_index index)
{
	for (int i = 0; i < index->indnkeyatts; i++)
	{
		HeapTuple	tuple =
			SearchSysCache2(ATTNUM, ObjectIdGetDatum(index->indrelid),
							Int16GetDatum(index->indkey.values[i]));
		bool		is_certain = HeapTupleIsValid(tuple) &&
			index->indkey.values[i] > 0 &&
			((Form_pg_attribute) GETSTRUCT(tuple))->attnotnull;

		if (HeapTupleIsValid(tuple))
			ReleaseSysCache(tuple);
		if (!is_certain)
			return false;
	}
	return true;
}

/*
 * Whether this index can still be the table's replica identity.  The server
 * checks the same, but throws an error.
 */
static bool
can_be_identity(Oid relation, const char *name)
{
	HeapTuple	tuple =
		SearchSysCache1(INDEXRELID,
						ObjectIdGetDatum(
										 get_relname_relid(name, get_rel_namespace(
																				   relation))));
	Form_pg_index index;
	bool		can_be;

	if (!HeapTupleIsValid(tuple))
		return false;
	index = (Form_pg_index) GETSTRUCT(tuple);
	can_be = index->indrelid == relation && index->indisunique &&
		index->indimmediate && index->indisvalid &&
		heap_attisnull(tuple, Anum_pg_index_indpred, NULL) &&
		heap_attisnull(tuple, Anum_pg_index_indexprs, NULL) &&
		has_certain_columns(index);
	ReleaseSysCache(tuple);
	return can_be;
}

/*
 * Restores the former replica identity.  If the user has changed the identity
 * since, it is kept.  A trigger that was created by hand has no former
 * identity.
 */
static void
restore_identity(const BemiTable *table, const BemiTrigger *trigger)
{
	char		former;
	char	   *index;

	if (trigger->arguments == NIL || table->identity != REPLICA_IDENTITY_FULL)
		return;
	former = *(char *) list_nth(trigger->arguments, BEMI_FORMER_IDENTITY);
	index = list_nth(trigger->arguments, BEMI_FORMER_INDEX);
	if (former == REPLICA_IDENTITY_FULL)
		return;
	if (former == REPLICA_IDENTITY_INDEX &&
		!can_be_identity(table->oid, index))
	{
		ereport(NOTICE,
				(errmsg("index \"%s\" of table \"%s\" no longer exists, its replica identity becomes DEFAULT",
						index, NameStr(table->name))));
		former = REPLICA_IDENTITY_DEFAULT;
	}
	if (former != REPLICA_IDENTITY_INDEX && former != REPLICA_IDENTITY_NOTHING)
		former = REPLICA_IDENTITY_DEFAULT;
	bemi_table_set_identity(table->oid, former,
							former == REPLICA_IDENTITY_INDEX ? index : NULL);
}

/*
 * Removes bemi's trigger from a table and restores its former replica
 * identity.  It checks the owner itself, because performDeletion() does not.
 */
void
bemi_table_restore(Oid relation)
{
	BemiTable	table;
	BemiTrigger trigger;
	ObjectAddress address;

	bemi_table_trigger(relation, &trigger);
	if (!trigger.ours || !bemi_table_look_up(relation, &table))
		return;
	check_table_owner(&table);
	if (!lock_table(relation, AccessExclusiveLock, &table))
		return;
	check_table_owner(&table);
	bemi_table_trigger(relation, &trigger);
	if (!trigger.ours)
		return;

	ObjectAddressSet(address, TriggerRelationId, trigger.oid);
	performDeletion(&address, DROP_RESTRICT, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
	restore_identity(&table, &trigger);
}

/*
 * The same for a table that is no longer tracked and for all its partitions,
 * but not for those that are still published, by themselves or with another.
 */
void
bemi_table_restore_tree(const BemiTable *table)
{
	ListCell   *cell;

	foreach(cell, bemi_table_tree(table))
	{
		if (!bemi_is_published(bemi_partition_root(lfirst_oid(cell))))
			bemi_table_restore(lfirst_oid(cell));
	}
}

/*
 * Makes the stream describe a relation again with its next change.  It is
 * needed for changes that invalidate no cache entry by themselves.  Takes no
 * lock; the relation may have been dropped.
 */
void
bemi_table_invalidate(Oid relation)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));

	if (!HeapTupleIsValid(tuple))
		return;

	/*
	 * Assign an id first: without one, the invalidation of a subtransaction
	 * would be lost.
	 */
	(void) GetCurrentTransactionId();
	CacheInvalidateRelcacheByTuple(tuple);
	ReleaseSysCache(tuple);
}

void
bemi_table_invalidate_tree(const BemiTable *table)
{
	ListCell   *cell;

	foreach(cell, bemi_table_tree(table))
	{
		bemi_table_invalidate(lfirst_oid(cell));
	}
}
