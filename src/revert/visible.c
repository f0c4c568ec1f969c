/*-------------------------------------------------------------------------
 *
 * visible.c
 *		Commits that are in the history, but that no snapshot sees yet.
 *
 * A transaction writes its commit record first.  Snapshots see it later, and
 * much later if it waits for a synchronous standby.  In between, the worker
 * can have stored its changes.  The tables of a plan then lack what the
 * history has. docs/internals/reading.md says more about such commits.
 *
 * A plan has one snapshot for the tables and for the history.  Changes of
 * transactions that were running when the snapshot was taken do not count for
 * the plan, whatever the history has of them.  So both agree.  Rows that such
 * a transaction has written are locked by it, so a step that meets one of them
 * waits and fails.
 *
 * Only if the changes that are to be taken back are among them, the plan waits
 * for their commit.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "revert/revert_internal.h"

/*
 * The transactions that are running as the snapshot has it, as int8[]: all of
 * them, or those that have written their commit record since.
 */
static BemiValue
array_of_running(Snapshot snapshot, bool only_committed)
{
	Datum	   *xids = palloc(sizeof(Datum) * (snapshot->xcnt + 1));
	int			count = 0;
	BemiValue	array = {.type = INT8ARRAYOID};

	for (uint32 i = 0; i < snapshot->xcnt; i++)
	{
		if (!only_committed || TransactionIdDidCommit(snapshot->xip[i]))
			xids[count++] = Int64GetDatum(snapshot->xip[i]);
	}
	array.datum = PointerGetDatum(construct_array(xids, count, INT8OID,
												  sizeof(int64),
												  FLOAT8PASSBYVAL,
												  TYPALIGN_DOUBLE));
	array.is_null = count == 0;
	return array;
}

BemiValue
bemi_revert_running(Snapshot snapshot)
{
	return array_of_running(snapshot, false);
}

/*
 * A transaction with changes that are to be taken back, if the snapshot does
 * not see it.
 */
static TransactionId
find_hidden(const BemiRevertCall *call, Snapshot snapshot)
{
	BemiValue	arguments[BEMI_REVERT_SET_ARGUMENTS + 1];
	BemiValue	xid = {INT8OID, true, (Datum) 0};

	memcpy(arguments, call->set,
		   sizeof(BemiValue) * BEMI_REVERT_SET_ARGUMENTS);
	arguments[BEMI_REVERT_SET_ARGUMENTS] = array_of_running(snapshot, true);
	if (arguments[BEMI_REVERT_SET_ARGUMENTS].is_null)
		return InvalidTransactionId;
	(void)
		bemi_sql_read_row("SELECT _bemi.revert_hidden($1, $2, $3, $4, $5, $6)",
						  arguments, lengthof(arguments), &xid, 1);
	return xid.is_null ? InvalidTransactionId : DatumGetInt64(xid.datum);
}

/*
 * Pushes a snapshot that sees all changes that are to be taken back.
 */
void
bemi_revert_push_snapshot(const BemiRevertCall *call, const BemiWait *wait)
{
	TransactionId xid;

	for (;;)
	{
		/* A new one in REPEATABLE READ, too, because the history is. */
		PushActiveSnapshot(GetLatestSnapshot());
		xid = find_hidden(call, GetActiveSnapshot());
		if (!TransactionIdIsValid(xid))
			return;
		PopActiveSnapshot();
		bemi_wait_until_visible(xid, wait);
	}
}
