/*-------------------------------------------------------------------------
 *
 * answer.c
 *		Takes values out of what a source answers.
 *
 * A query of ours has the columns that it asks for, and one without FROM has a
 * row.  But not everything that speaks the protocol is PostgreSQL: a pooler
 * may answer by itself, and a broken or hostile source may answer anything.
 * libpq returns a null pointer for a value that is not there, which would
 * crash the history's server.  So every value of an answer is taken by one of
 * these functions.  An answer that lacks it is an error.
 *
 * An answer that is short stays allocated then, until the process ends with
 * that error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"

/*
 * Whether a value of an answer is NULL.  Error if the answer does not have it.
 */
bool
bemi_answer_is_null(const PGresult *answer, int row, int column)
{
	if (row >= PQntuples(answer) || column >= PQnfields(answer))
		ereport(ERROR,
				(errcode(ERRCODE_PROTOCOL_VIOLATION),
				 errmsg("source has sent an incomplete answer"),
				 errdetail("Row %d, column %d is missing in an answer of %d rows and %d columns.",
						   row + 1, column + 1, PQntuples(answer),
						   PQnfields(answer))));
	return PQgetisnull(answer, row, column);
}

/*
 * A value that must not be NULL, as the source has sent it.  It lives as long
 * as the answer.
 */
char *
bemi_answer_text(const PGresult *answer, int row, int column)
{
	if (bemi_answer_is_null(answer, row, column))
		ereport(ERROR, (errcode(ERRCODE_PROTOCOL_VIOLATION),
						errmsg("source has sent an incomplete answer"),
						errdetail("Row %d, column %d is NULL.", row + 1,
								  column + 1)));
	return PQgetvalue(answer, row, column);
}

int64
bemi_answer_number(const PGresult *answer, int row, int column)
{
	return strtoll(bemi_answer_text(answer, row, column), NULL, 10);
}

bool
bemi_answer_bool(const PGresult *answer, int row, int column)
{
	return strcmp(bemi_answer_text(answer, row, column), "t") == 0;
}

XLogRecPtr
bemi_answer_lsn(const PGresult *answer, int row, int column)
{
	char	   *text = bemi_answer_text(answer, row, column);

	return DatumGetLSN(DirectFunctionCall1(pg_lsn_in, CStringGetDatum(text)));
}

/*
 * A position that may be NULL, which becomes InvalidXLogRecPtr.
 */
XLogRecPtr
bemi_answer_lsn_or_invalid(const PGresult *answer, int row, int column)
{
	return bemi_answer_is_null(answer, row, column) ? InvalidXLogRecPtr :
		bemi_answer_lsn(answer, row, column);
}

/*
 * A time that a query has as microseconds since 1970.
 */
TimestampTz
bemi_answer_time(const PGresult *answer, int row, int column)
{
	return bemi_answer_number(answer, row, column) -
		(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/*
 * A time that may be NULL, which becomes 0.
 */
TimestampTz
bemi_answer_time_or_zero(const PGresult *answer, int row, int column)
{
	return bemi_answer_is_null(answer, row, column) ? 0 :
		bemi_answer_time(answer, row, column);
}
