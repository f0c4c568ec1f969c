/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		The extension's own objects: owner, schemas, tables, functions, and the
 *		lock on its sources.
 *
 * Input: names.  Output: OIDs, or InvalidOid for missing objects.  CREATE
 * EXTENSION and DROP EXTENSION can come between any two calls, so every caller
 * must expect that.
 *
 * No function here checks a right of the current user or calls SQL.  Event
 * triggers and hooks use them in every user's statements, and these must not
 * fail because EXECUTE on functions or USAGE on the schema was revoked.
 *
 * What must never happen: the worker, a superuser, reads or writes a user's
 * table that has a name of bemi.  own_table_of_schema() checks that the table
 * belongs to the extension.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type_d.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "storage/lmgr.h"
#include "storage/lwlock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "extension/extension.h"

/* OID of bemi.emit_context() in this database, InvalidOid without bemi. */
static Oid	emit_context_oid = InvalidOid;
static bool emit_context_oid_known = false;

/*
 * Counts the invalidations, because one may come in the middle of a look-up.
 */
static uint64 emit_context_changes = 0;

/*
 * OID of _bemi.signing_key in this database, InvalidOid until it is looked up.
 * The hash value stands for it in invalidations of pg_class.
 */
static Oid	signing_key_oid = InvalidOid;
static uint32 signing_key_hash = 0;
static uint64 signing_key_changes = 0;

/*
 * Owner of the extension, InvalidOid if the extension does not exist.
 */
Oid
bemi_extension_owner(void)
{
	Oid			owner = InvalidOid;
	Relation	catalog;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber,
				F_NAMEEQ, CStringGetDatum("bemi"));
	catalog = table_open(ExtensionRelationId, AccessShareLock);
	scan =
		systable_beginscan(catalog, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return owner;
}

/*
 * Whether a schema is one of bemi's two.
 */
bool
bemi_is_own_schema(Oid schema)
{
	return schema == get_namespace_oid(BEMI_SCHEMA, true) ||
		schema == get_namespace_oid(BEMI_INTERNAL_SCHEMA, true);
}

/*
 * OID of a table of this schema, InvalidOid if it is missing, or not the
 * extension's own.
 */
static Oid
own_table_of_schema(const char *schema_name, const char *name)
{
	Oid			extension = get_extension_oid("bemi", true);
	Oid			schema = get_namespace_oid(schema_name, true);
	Oid			table =
		OidIsValid(schema) ? get_relname_relid(name, schema) : InvalidOid;

	if (!OidIsValid(extension) || !OidIsValid(table) ||
		getExtensionOfObject(RelationRelationId, table) != extension)
		return InvalidOid;
	return table;
}

/*
 * The same for a table that users read.
 */
Oid
bemi_own_table(const char *name)
{
	return own_table_of_schema(BEMI_SCHEMA, name);
}

/*
 * The same for an internal table.
 */
Oid
bemi_own_internal_table(const char *name)
{
	return own_table_of_schema(BEMI_INTERNAL_SCHEMA, name);
}

/*
 * Syscache callback: schemas or a relation have changed.
 */
static void
forget_signing_key_oid(Datum arg, int cacheid, uint32 hashvalue)
{
	signing_key_changes++;
	if (cacheid != RELOID || hashvalue == 0 || hashvalue == signing_key_hash)
		signing_key_oid = InvalidOid;
}

/*
 * OID of _bemi.signing_key, InvalidOid if it is missing.  Each tracking
 * message needs it, so the catalog is read only if the table or a schema has
 * changed since the last look-up.
 */
Oid
bemi_signing_key_oid(void)
{
	uint64		changes = signing_key_changes;
	Oid			relation;

	if (OidIsValid(signing_key_oid))
		return signing_key_oid;
	relation = bemi_own_internal_table("signing_key");
	if (OidIsValid(relation) && changes == signing_key_changes)
	{
		signing_key_hash =
			GetSysCacheHashValue1(RELOID, ObjectIdGetDatum(relation));
		signing_key_oid = relation;
	}
	return relation;
}

/*
 * OID of a function of schema bemi with exactly these arguments, InvalidOid if
 * it is missing.  Only the extension's owner can create objects in that
 * schema.
 */
Oid
bemi_own_function(const char *name, int nargs, const Oid *types)
{
	Oid			schema = get_namespace_oid(BEMI_SCHEMA, true);
	oidvector  *arguments = buildoidvector(types, nargs);
	Oid			function = InvalidOid;

	if (OidIsValid(schema))
		function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
								   CStringGetDatum(name),
								   PointerGetDatum(arguments),
								   ObjectIdGetDatum(schema));
	pfree(arguments);
	return function;
}

/*
 * OID of bemi.column_is_changed(), which is in the condition of indexes.
 */
Oid
bemi_column_is_changed_oid(void)
{
	const Oid	types[] = {TEXTOID, JSONBOID, JSONBOID, TEXTOID};

	return bemi_own_function("column_is_changed", lengthof(types), types);
}

/*
 * Syscache callback: functions or schemas have changed, so the next caller
 * looks emit_context() up again.
 */
static void
forget_emit_context_oid(Datum arg, int cacheid, uint32 hashvalue)
{
	emit_context_changes++;
	emit_context_oid_known = false;
}

/*
 * OID of bemi.emit_context().  The catalog is read only if functions of this
 * database have changed since the last look-up.
 */
Oid
bemi_emit_context_oid(void)
{
	if (!emit_context_oid_known)
	{
		uint64		changes = emit_context_changes;

		emit_context_oid = bemi_own_function("emit_context", 0, NULL);
		emit_context_oid_known = (changes == emit_context_changes);
	}
	return emit_context_oid;
}

/*
 * Locks the list of this database's sources until the end of the transaction:
 * exclusively to change it, shared to read it.  A lock on bemi.sources is not
 * enough, because the extension may be dropped and created.  The lock also
 * makes a woken reader see the complete change: a session wakes others when it
 * has committed, but before it releases its locks and sends its invalidations.
 */
void
bemi_lock_sources(LOCKMODE mode)
{
	const uint16 subobject = 0xBE31;	/* the database itself is 0 */

	LockSharedObject(DatabaseRelationId, MyDatabaseId, subobject, mode);
}

/*
 * Whether a slot of this server belongs to a source of the database.
 */
bool
bemi_database_has_slot(Oid database)
{
	bool		found = false;

	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	for (int i = 0; i < max_replication_slots && !found; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];

		found = slot->in_use && slot->data.database == database &&
			strncmp(NameStr(slot->data.name), "bemi_", 5) == 0;
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found;
}

void
bemi_extension_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, forget_emit_context_oid,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_emit_context_oid,
								  (Datum) 0);
	CacheRegisterSyscacheCallback(RELOID, forget_signing_key_oid, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, forget_signing_key_oid,
								  (Datum) 0);
}
