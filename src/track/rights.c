/*-------------------------------------------------------------------------
 *
 * rights.c
 *		What tracking does with the rights of the extension's owner, and for whom.
 *
 * A table's owner may be allowed to track it without owning the publication or
 * the list of tracked schemas.  The functions of tracking check the rights of
 * whoever calls them and then act as the owner of the extension.
 *
 * They are not SECURITY DEFINER functions, because those cannot tell who calls
 * them: the role that the session has set is not it, when the call comes from
 * somebody else's index expression or function that a superuser's session
 * happens to run.  The current user at the time of the call is what counts,
 * and only C can look at that first and change it then.
 *
 * All SQL here calls functions by qualified names, without operators, and
 * those pin their search_path.  An error takes the user back, as the server
 * resets it with the (sub)transaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"

#include "extension/extension.h"
#include "track/track_internal.h"

PG_FUNCTION_INFO_V1(bemi_enter_schema);

/*
 * Runs a query that calls a function, and has no use for its result.
 */
static void
call_function(const char *command, int count, Oid *types, Datum *values)
{
	if (SPI_execute_with_args(command, count, types, values, NULL, false, 0) !=
		SPI_OK_SELECT)
		elog(ERROR, "could not run \"%s\"", command);
}

void
bemi_call_as_owner(const char *command, int count, Oid *types, Datum *values)
{
	BemiRights	former;

	SPI_connect();
	bemi_act_as_owner(&former);
	call_function(command, count, types, values);
	bemi_act_as_before(&former);
	SPI_finish();
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
 * _bemi.enter_schema(target regnamespace, desired boolean)
 */
Datum
bemi_enter_schema(PG_FUNCTION_ARGS)
{
	Oid			types[] = {REGNAMESPACEOID, BOOLOID};
	Datum		values[] = {PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)};

	SPI_connect();
	call_function("SELECT _bemi.check_schema_tracker($1, $2)", lengthof(types),
				  types, values);
	SPI_finish();
	bemi_call_as_owner("SELECT _bemi.set_tracked_schema($1, $2)",
					   lengthof(types), types, values);
	PG_RETURN_VOID();
}
