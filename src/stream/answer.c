/*-------------------------------------------------------------------------
 *
 * answer.c
 *		Reads values from a source's answers.
 *
 * A broken or hostile source, or a pooler, may answer a query with too few
 * rows or columns. libpq returns a null pointer for a missing value, and
 * reading that would crash the history's server.  So every value is read by
 * one of these functions, which throw an error if it is missing.
 *
 * An incomplete answer is not freed: the error ends the process.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "stream/stream_internal.h"

/*
 * Whether a value of an answer is NULL.  Throws an error if it is missing.
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
 * A value that must not be NULL, in the source's encoding.  It lives as long
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
 * A position; NULL becomes InvalidXLogRecPtr.
 */
XLogRecPtr
bemi_answer_lsn_or_invalid(const PGresult *answer, int row, int column)
{
	return bemi_answer_is_null(answer, row, column) ? InvalidXLogRecPtr :
		bemi_answer_lsn(answer, row, column);
}

/*
 * A time that a query returns as microseconds since 1970.
 */
TimestampTz
bemi_answer_time(const PGresult *answer, int row, int column)
{
	return bemi_answer_number(answer, row, column) -
		(int64) (POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * USECS_PER_DAY;
}

/*
 * A time; NULL becomes 0.
 */
TimestampTz
bemi_answer_time_or_zero(const PGresult *answer, int row, int column)
{
	return bemi_answer_is_null(answer, row, column) ? 0 :
		bemi_answer_time(answer, row, column);
}
