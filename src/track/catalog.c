/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		Look-ups of tracking, by OID, with syscaches and indexes, without
 *		locks.
 *
 * Event triggers use them in every user's DDL.  What must never happen: that
 * DDL fails because EXECUTE on functions or USAGE on the schema was revoked.
 * So none of them checks a right of the current user, and none calls an SQL
 * function.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/objectaddress.h"
#include "catalog/partition.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_root_of_partition);

/*
 * Whether a role may track tables of "owner": it has the owner's privileges,
 * and EXECUTE on bemi.track().
 */
bool
bemi_may_track(Oid role, Oid owner)
{
	static const Oid types[] = {REGCLASSOID, NAMEARRAYOID, NAMEARRAYOID,
	NAMEARRAYOID};
	Oid			track = bemi_own_function("track", lengthof(types), types);

	return OidIsValid(track) && has_privs_of_role(role, owner) &&
		bemi_function_aclcheck(track, role) == ACLCHECK_OK;
}

/*
 * Error unless the current user may track the table.
 */
void
bemi_check_tracker(const BemiTable *table)
{
	if (!bemi_may_track(GetUserId(), table->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to track table \"%s\"",
						NameStr(table->name)),
				 errdetail("You must own it and have the right to call bemi.track().")));
}

/*
 * The tables above a partition, the next one first; NIL for any other
 * relation.
 */
static List *
relation_ancestors(Oid relation)
{
	return get_rel_relispartition(relation) ?
		get_partition_ancestors(relation) : NIL;
}

/*
 * The table under whose name the changes of a relation are stored.  As in
 * pgoutput, that is the topmost one that the publication lists, among the
 * relation and the tables above it.  If it lists none of them, the topmost of
 * all.
 */
Oid
bemi_partition_root(Oid relation)
{
	List	   *line = lcons_oid(relation, relation_ancestors(relation));
	Oid			root = llast_oid(line);

	for (int i = list_length(line) - 1; i >= 0; i--)
	{
		if (bemi_is_published(list_nth_oid(line, i)))
		{
			root = list_nth_oid(line, i);
			break;
		}
	}
	list_free(line);
	return root;
}

/*
 * _bemi.partition_root(target regclass)
 */
Datum
bemi_root_of_partition(PG_FUNCTION_ARGS)
{
	PG_RETURN_OID(bemi_partition_root(PG_GETARG_OID(0)));
}

/*
 * Whether a relation is this table, or lies below it as a partition.
 */
bool
bemi_is_within(Oid relation, Oid table)
{
	return relation == table ||
		list_member_oid(relation_ancestors(relation), table);
}

/*
 * Whether this transaction has locked a relation as TRUNCATE, ATTACH and
 * DETACH do.
 */
bool
bemi_is_locked(Oid relation)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, relation);
	return bemi_lock_is_held(&tag, AccessExclusiveLock);
}

/*
 * Whether publication "bemi" lists the table itself.
 */
bool
bemi_is_published(Oid relation)
{
	Oid			publication = get_publication_oid("bemi", true);

	return OidIsValid(publication) &&
		SearchSysCacheExists2(PUBLICATIONRELMAP, ObjectIdGetDatum(relation),
							  ObjectIdGetDatum(publication));
}

/*
 * Qualified name of a relation, quoted as in SQL.
 */
char *
bemi_relation_name(Oid relation)
{
	char	   *name = get_rel_name(relation);
	char	   *schema = get_namespace_name(get_rel_namespace(relation));

	if (name == NULL || schema == NULL)
		return psprintf("%u", relation);
	return quote_qualified_identifier(schema, name);
}

/*
 * The objects that depend on a type, as ObjectAddress, each perhaps more than
 * once, in the current memory context.
 */
List *
bemi_type_dependents(Oid type)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	List	   *dependents = NIL;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], Anum_pg_depend_refclassid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(TypeRelationId));
	ScanKeyInit(&keys[1], Anum_pg_depend_refobjid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(type));
	scan = systable_beginscan(depend, DependReferenceIndexId, true, NULL, 2,
							  keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend row = (Form_pg_depend) GETSTRUCT(tuple);
		ObjectAddress *object = palloc(sizeof(ObjectAddress));

		ObjectAddressSubSet(*object, row->classid, row->objid, row->objsubid);
		dependents = lappend(dependents, object);
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
	return dependents;
}
