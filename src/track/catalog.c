/*-------------------------------------------------------------------------
 *
 * catalog.c
 *		Look-ups of tracking: by OID, by syscache or index, without locks.
 *
 * None of them asks for a right of the current user, and none calls an SQL
 * function: event triggers use them in everybody's DDL, which must not fail
 * because somebody has revoked EXECUTE on functions, or USAGE on the schema.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_publication_rel.h"
#include "catalog/pg_type.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "extension/extension.h"
#include "track/track_internal.h"

/*
 * Whether a role may track what belongs to "owner": it has the owner's
 * privileges, and has been granted bemi.track().
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
				 errdetail("It takes the owner, and the right to call bemi.track().")));
}

/*
 * The root of a partition; any other relation is its own.
 */
Oid
bemi_partition_root(Oid relation)
{
	List	   *ancestors = get_rel_relispartition(relation) ?
		get_partition_ancestors(relation) : NIL;
	Oid			root = ancestors == NIL ? relation : llast_oid(ancestors);

	list_free(ancestors);
	return root;
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
 * Name of a relation as it is written in SQL, with its schema.
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
