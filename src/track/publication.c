/*-------------------------------------------------------------------------
 *
 * publication.c
 *		Adds tables to the publication "bemi", and removes them.
 *
 * ALTER PUBLICATION takes a name, and locks the publication until the
 * transaction ends.  Two sessions that create tables would wait for each
 * other.  The functions here work by OID and share a lock with each other.  It
 * conflicts with the lock of ALTER PUBLICATION and DROP PUBLICATION.
 *
 * What must never happen: a table is published whose owner has not been
 * checked, or a publication is changed that has got another owner.
 *
 * pgoutput caches whether a relation is published, and under which root.
 * ATTACH PARTITION and DETACH PARTITION change both.  PostgreSQL 14 reads this
 * again only after an invalidation of the publication, see
 * bemi_publication_invalidate().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "catalog/pg_type_d.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "extension/extension.h"
#include "track/track_internal.h"

/*
 * Whether the publication exists, and publishes generated columns if the
 * server can.
 */
static bool
publication_is_usable(Oid publication)
{
	HeapTuple	tuple =
		SearchSysCache1(PUBLICATIONOID, ObjectIdGetDatum(publication));
	bool		publication_is_usable = HeapTupleIsValid(tuple) &&
		!bemi_lacks_generated_columns((Form_pg_publication) GETSTRUCT(tuple));

	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return publication_is_usable;
}

/*
 * Locks the publication, which is created if it is missing.  It may be dropped
 * or renamed during the wait for the lock, so its name is looked up again.
 */
static Oid
lock_publication(void)
{
	for (;;)
	{
		Oid			publication = get_publication_oid(BEMI_PUBLICATION, true);

		CHECK_FOR_INTERRUPTS();
		if (!publication_is_usable(publication))
		{
			bemi_sql_run_as_owner("SELECT _bemi.ensure_publication()", NULL,
								  0);
			publication = get_publication_oid(BEMI_PUBLICATION, false);
		}
		LockDatabaseObject(PublicationRelationId, publication, 0,
						   AccessShareLock);
		if (get_publication_oid(BEMI_PUBLICATION, true) == publication)
			return publication;
		UnlockDatabaseObject(PublicationRelationId, publication, 0,
							 AccessShareLock);
	}
}

/*
 * Throws an error unless the current user, who is the extension's owner, may
 * alter the publication.
 */
static void
check_publication(Oid publication)
{
	bemi_check_publication_owner(GetUserId());
	if (!bemi_publication_ownercheck(publication, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_PUBLICATION,
					   BEMI_PUBLICATION);
	if (GetPublication(publication)->alltables)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("publication \"%s\" must list its tables",
						BEMI_PUBLICATION),
				 errdetail("All tables would include the history itself."),
				 errhint("DROP PUBLICATION %s;", BEMI_PUBLICATION)));
}

static void
publish_table(Oid relation)
{
	Relation	table;
	Oid			publication;
	bool		is_new;

	/* The lock that ALTER PUBLICATION takes. */
	table = table_open(relation, ShareUpdateExclusiveLock);
	publication = lock_publication();
	check_publication(publication);
	is_new = !bemi_is_published(relation);
	if (is_new)
		(void) bemi_publication_add(publication, table);
	/* At the end of a command, relations that are open are read again. */
	table_close(table, NoLock);
	if (is_new)
	{
		CommandCounterIncrement();
		bemi_emit_tracked_tree(relation);
	}
}

/*
 * Adds a table to the publication, with the rights of the extension's owner.
 * The caller has checked the user's right to do that.
 */
void
bemi_publish_table(Oid relation)
{
	BemiRights	former;

	if (bemi_is_published(relation))
		return;
	bemi_act_as_owner(&former);
	publish_table(relation);
	bemi_act_as_before(&former);
}

static void
unpublish_table(Oid relation)
{
	Oid			publication;
	ObjectAddress address;

	LockRelationOid(relation, ShareUpdateExclusiveLock);
	publication = lock_publication();
	check_publication(publication);
	ObjectAddressSet(address, PublicationRelRelationId,
					 GetSysCacheOid2(PUBLICATIONRELMAP,
									 Anum_pg_publication_rel_oid,
									 ObjectIdGetDatum(relation),
									 ObjectIdGetDatum(publication)));
	if (!OidIsValid(address.objectId))
		return;
	performDeletion(&address, DROP_CASCADE, PERFORM_DELETION_INTERNAL);
	CommandCounterIncrement();
	/* Transactions that have written to it may commit later. */
	bemi_emit_tracking_ended(relation,
							 get_namespace_name(get_rel_namespace(relation)),
							 get_rel_name(relation));
	bemi_emit_tracked_tree(relation);
}

/*
 * Removes a table from the publication, under the same conditions.
 */
void
bemi_unpublish_table(Oid relation)
{
	BemiRights	former;

	if (!bemi_is_published(relation))
		return;
	bemi_act_as_owner(&former);
	unpublish_table(relation);
	bemi_act_as_before(&former);
}

/*
 * Whether the extension's owner may alter the publication, or make it.  A role
 * that is not a superuser may not if another role owns the publication.
 */
bool
bemi_may_publish(void)
{
	Oid			publication = get_publication_oid(BEMI_PUBLICATION, true);
	Oid			owner = bemi_extension_owner();

	return OidIsValid(publication) ?
		bemi_publication_ownercheck(publication, owner) :
		superuser_arg(owner);
}

/*
 * Sends the invalidation that an update of the root's row in
 * pg_publication_rel would send.  The row is not updated, because two sessions
 * that attach partitions to one root must not wait for each other.
 */
void
bemi_publication_invalidate(Oid root)
{
	HeapTuple	tuple;
	Relation	catalog;

	if (BEMI_RELATION_RENEWS_PUBLICATION)
		return;
	tuple = SearchSysCache2(PUBLICATIONRELMAP, ObjectIdGetDatum(root),
							ObjectIdGetDatum(
											 get_publication_oid(BEMI_PUBLICATION,
																 true)));
	if (!HeapTupleIsValid(tuple))
		return;
	catalog = table_open(PublicationRelRelationId, AccessShareLock);
	(void) GetCurrentTransactionId();
	CacheInvalidateHeapTuple(catalog, tuple, NULL);
	/* The next command may write rows, and must log the invalidation first. */
	(void) GetCurrentCommandId(true);
	table_close(catalog, AccessShareLock);
	ReleaseSysCache(tuple);
}
