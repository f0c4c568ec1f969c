/*-------------------------------------------------------------------------
 *
 * stored.c
 *		Reads stored transactions from bemi.changes.
 *
 * Input: a source and a range of commit positions.  Output: the last stored
 * transaction in the range, or whether a transaction is stored.  Ids are in
 * the order of commit positions, so each query reads few entries of the index
 * of ids.
 *
 * When the server plans a query, it evaluates constant parts of CHECK
 * constraints and index expressions of the table, which are code of its owner
 * (user_code.c).  The worker is a superuser.  So it reads as the owner of
 * bemi.changes, security-restricted, after it has checked the owners of the
 * functions in these expressions.  For that reason these queries are here, use
 * no function of bemi, and read no other table.
 *
 * Results are in the caller's memory.  What must never happen: the worker
 * plans a query on bemi.changes with its own rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type_d.h"
#include "funcapi.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"

#include "extension/extension.h"
#include "store/store_internal.h"
#include "stream/stream.h"

PG_FUNCTION_INFO_V1(bemi_last_stored);
PG_FUNCTION_INFO_V1(bemi_last_stored_time);

/*
 * The lowest id that a change of a transaction with this commit position can
 * have, see bemi_make_change_id() in decode/stitch.c.  All later ones have
 * higher ids.
 */
static BemiValue
first_change_id(XLogRecPtr commit_lsn)
{
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	uint64		high = (commit_lsn >> 16 << 16) | UINT64CONST(8) << 12 |
		(commit_lsn >> 4 & 0xFFF);
	uint64		low = UINT64CONST(2) << 62 | (commit_lsn & 0xF) << 58;

	high = pg_hton64(high);
	low = pg_hton64(low);
	memcpy(id->data, &high, sizeof(high));
	memcpy(id->data + sizeof(high), &low, sizeof(low));
	return bemi_sql_uuid(id);
}

/*
 * The commit LSN in an id.
 */
XLogRecPtr
bemi_commit_lsn_of(const pg_uuid_t *id)
{
	uint64		high;
	uint64		low;

	memcpy(&high, id->data, sizeof(high));
	memcpy(&low, id->data + sizeof(high), sizeof(low));
	high = pg_ntoh64(high);
	low = pg_ntoh64(low);
	return (high >> 16 << 16) | (high & 0xFFF) << 4 | (low >> 58 & 0xF);
}

/*
 * Reads the first row of a query on bemi.changes as its owner, within a
 * transaction.  False if there is none.
 */
static bool
read_history(const char *query, const BemiValue *arguments, int count,
			 BemiValue *columns, int column_count)
{
	BemiRights	caller;
	bool		found;

	bemi_act_as_history_reader(&caller);
	found = bemi_sql_read_row(query, arguments, count, columns, column_count);
	bemi_act_as_before(&caller);
	return found;
}

/*
 * Finds the transaction that a query on bemi.changes selects, by id, time and
 * xid of one of its changes.
 */
static bool
find_stored(const char *query, const BemiValue *arguments, int count,
			BemiStored *stored)
{
	BemiValue	columns[] = {
		{.type = UUIDOID}, {.type = TIMESTAMPTZOID}, {.type = INT8OID}
	};

	memset(stored, 0, sizeof(BemiStored));
	if (!read_history(query, arguments, count, columns, lengthof(columns)))
		return false;
	stored->commit_lsn = bemi_commit_lsn_of(DatumGetUUIDP(columns[0].datum));
	stored->committed_at = bemi_sql_number_of(&columns[1]);
	stored->xid = (TransactionId) bemi_sql_number_of(&columns[2]);
	return true;
}

/*
 * Finds the last stored transaction of a source with a commit position in this
 * range.  Returns false if there is none.  Needs a transaction.
 */
bool
bemi_find_last_stored(const char *source, XLogRecPtr from, XLogRecPtr to,
					  BemiStored *stored)
{
	BemiValue	arguments[] = {
		bemi_sql_text(source), first_change_id(from), first_change_id(to)
	};

	return find_stored("SELECT id, committed_at, transaction_id FROM bemi.changes"
					   " WHERE source = $1 AND id >= $2 AND id < $3"
					   " ORDER BY id DESC LIMIT 1",
					   arguments, lengthof(arguments), stored);
}

/*
 * The same for transactions whose time is in no gap of the source: from_times
 * and to_times are arrays of timestamptz.  Needs a transaction.
 */
bool
bemi_find_stored_outside(const char *source, XLogRecPtr from, XLogRecPtr to,
						 BemiValue from_times, BemiValue to_times,
						 BemiStored *stored)
{
	BemiValue	arguments[] = {
		bemi_sql_text(source), first_change_id(from), first_change_id(to),
		from_times, to_times
	};

	return find_stored("SELECT id, committed_at, transaction_id FROM bemi.changes c"
					   " WHERE source = $1 AND id >= $2 AND id < $3"
					   " AND NOT EXISTS (SELECT FROM unnest($4, $5) g(from_time, to_time)"
					   " WHERE g.from_time < c.committed_at AND g.to_time >= c.committed_at)"
					   " ORDER BY id DESC LIMIT 1",
					   arguments, lengthof(arguments), stored);
}

/*
 * Whether a transaction of a source is stored.  Needs a transaction.
 */
bool
bemi_is_stored(const char *source, const BemiStored *stored)
{
	BemiValue	arguments[] = {
		bemi_sql_text(source),
		first_change_id(stored->commit_lsn),
		first_change_id(stored->commit_lsn + 1),
		bemi_sql_time(stored->committed_at),
		bemi_sql_int8((int64) stored->xid)
	};

	return read_history("SELECT FROM bemi.changes WHERE source = $1 AND id >= $2 AND id < $3"
						" AND committed_at = $4 AND transaction_id = $5",
						arguments, lengthof(arguments), NULL, 0);
}

/*
 * _bemi.last_stored(source text, from_lsn pg_lsn, to_lsn pg_lsn): commit
 * position, commit time and xid of the last stored transaction in this range;
 * NULLs if there is none.
 */
Datum
bemi_last_stored(PG_FUNCTION_ARGS)
{
	BemiStored	stored;
	TupleDesc	columns;
	Datum		values[3];
	bool		nulls[3];
	bool		found;

	found = bemi_find_last_stored(text_to_cstring(PG_GETARG_TEXT_PP(0)),
								  PG_GETARG_LSN(1), PG_GETARG_LSN(2), &stored);
	if (get_call_result_type(fcinfo, NULL, &columns) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = LSNGetDatum(stored.commit_lsn);
	values[1] = TimestampTzGetDatum(stored.committed_at);
	values[2] = Int64GetDatum((int64) stored.xid);
	memset(nulls, !found, sizeof(nulls));
	PG_RETURN_DATUM(HeapTupleGetDatum(
									  heap_form_tuple(BlessTupleDesc(columns), values, nulls)));
}

/*
 * _bemi.last_stored_time(source text, before_lsn pg_lsn): the greatest commit
 * time, not in the future, of stored transactions before a position; NULL if
 * there is none.
 */
Datum
bemi_last_stored_time(PG_FUNCTION_ARGS)
{
	BemiValue	arguments[] = {
		bemi_sql_text(text_to_cstring(PG_GETARG_TEXT_PP(0))),
		first_change_id(PG_GETARG_LSN(1))
	};
	BemiValue	time = {.type = TIMESTAMPTZOID};

	(void)
		read_history("SELECT pg_catalog.max(committed_at) FROM bemi.changes"
					 " WHERE source = $1 AND id < $2 AND committed_at <= pg_catalog.clock_timestamp()",
					 arguments, lengthof(arguments), &time, 1);
	if (time.is_null)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(time.datum);
}
