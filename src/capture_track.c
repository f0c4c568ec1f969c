/*-------------------------------------------------------------------------
 *
 * capture_track.c
 *		What tracking does with the rights of the extension's owner.
 *
 * A table's owner may be allowed to track it without owning the publication
 * or the list of tracked schemas.  The functions here check the rights of
 * whoever calls them and then act as the owner of the extension.
 *
 * They are not SECURITY DEFINER functions, because those cannot tell who calls
 * them: the role that the session has set is not it, when the call comes from
 * somebody else's index expression or function that a superuser's session
 * happens to run.  The current user at the time of the call is what counts, and
 * only C can look at that first and change it then.
 *
 * All SQL here calls functions by qualified names, without operators, and those
 * pin their search_path.  An error takes the user back, as the server resets it
 * with the (sub)transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"

#include "capture.h"

PG_FUNCTION_INFO_V1(bemi_publish);
PG_FUNCTION_INFO_V1(bemi_mark_schema);

/*
 * Owner of the extension, InvalidOid if it is not there.
 */
Oid
bemi_extension_owner(void)
{
	Oid			extension = get_extension_oid("bemi", true);
	Oid			owner = InvalidOid;
	Relation	catalog;
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	catalog = table_open(ExtensionRelationId, AccessShareLock);
	scan = systable_beginscan(catalog, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	systable_endscan(scan);
	table_close(catalog, AccessShareLock);
	return owner;
}

/*
 * Calls an SQL function with the arguments of this one, also where it has no use
 * for the second: the checks take the same two as the work.
 */
static void
call_function(FunctionCallInfo fcinfo, const char *call, Oid object_type)
{
	Oid			types[] = {object_type, BOOLOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};

	if (SPI_execute_with_args(call, 2, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\"", call);
}

/*
 * Has the rights of the current user checked, and then the work done by the
 * owner of the extension.
 */
static void
check_and_do(FunctionCallInfo fcinfo, const char *check, const char *work,
			 Oid object_type)
{
	Oid			user;
	int			security;

	SPI_connect();
	call_function(fcinfo, check, object_type);

	GetUserIdAndSecContext(&user, &security);
	SetUserIdAndSecContext(bemi_extension_owner(),
						   security | SECURITY_LOCAL_USERID_CHANGE);
	call_function(fcinfo, work, object_type);
	SetUserIdAndSecContext(user, security);
	SPI_finish();
}

/*
 * bemi.publish(target regclass, wanted boolean)
 */
Datum
bemi_publish(PG_FUNCTION_ARGS)
{
	check_and_do(fcinfo, "SELECT bemi.check_table_tracker($1, $2)",
				 "SELECT bemi.set_published($1, $2)", REGCLASSOID);
	PG_RETURN_VOID();
}

/*
 * bemi.mark_schema(target regnamespace, wanted boolean)
 */
Datum
bemi_mark_schema(PG_FUNCTION_ARGS)
{
	check_and_do(fcinfo, "SELECT bemi.check_schema_tracker($1, $2)",
				 "SELECT bemi.set_marked($1, $2)", REGNAMESPACEOID);
	PG_RETURN_VOID();
}
