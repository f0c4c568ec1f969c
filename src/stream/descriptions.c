/*-------------------------------------------------------------------------
 *
 * descriptions.c
 *		Asks a source for the descriptions of its tables.
 *
 * The stream has the names and type OIDs of a table's columns.  It lacks the
 * primary key (with REPLICA IDENTITY FULL it flags every column) and the parts
 * of types.  A query to the catalog (sql/remote/description.sql) returns these
 * as a JSON object:
 *
 *	{"key": ["id"], "columns": ["id", "name"], "partly": false,
 *	 "types": [["16402", "d", "23", null], ...]}
 *
 * "key" has the columns of the primary key, in key order.  "columns" has all
 * columns.  "partly" is true for a partitioned table if some partition has
 * another replica identity than FULL (the stream has only that of the root).
 * "types" has the parts of all types in a column that are not built in, see
 * BemiTypePart.
 *
 * A source with the extension describes a table itself (track/describe.c),
 * with the rules for its columns, when the table is tracked or altered.  It
 * sends this description through the stream, so it fits the changes that come
 * next.  Both descriptions must have the same members.  The worker asks other
 * sources when the stream describes the table.  That answer may be newer than
 * the changes that come next.
 *
 * Casts to json are listed only for base types and functions in C, because
 * only a superuser can create these. decode/types.c decides which of them may
 * be called.
 *
 * What must never happen: the query locks a table, because everybody who can
 * lock it could then stop the worker.  It reads only catalogs.
 * pg_partition_tree() would lock every partition, so the query reads
 * pg_inherits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/relpath.h"
#include "utils/builtins.h"

#include "stream/remote_sql.h"
#include "stream/stream_internal.h"

/*
 * Today's description of a table, with the rules for its columns if the source
 * has the extension; JSON text, palloc'd; NULL if the table is gone.  It uses
 * the catalog connection, because the replication connection is streaming.
 */
char *
bemi_stream_describe(BemiStream *stream, Oid relation)
{
	char		oid[OIDCHARS + 1];
	const char *values[] = {oid};
	PGresult   *result;
	char	   *description;

	snprintf(oid, sizeof(oid), "%u", relation);
	result = bemi_stream_query_with(stream, stream->describes ?
									BEMI_SQL_DESCRIPTION_OF_EXTENSION :
									BEMI_SQL_DESCRIPTION,
									lengthof(values), values);
	description = bemi_answer_is_null(result, 0, 0) ? NULL :
		bemi_stream_string(stream, bemi_answer_text(result, 0, 0));
	PQclear(result);
	return description;
}

/*
 * The descriptions of the publication's tables at the time of the snapshot, as
 * a JSON array of objects with OID and description; palloc'd.  Empty if the
 * source sends no tracking messages that can be verified.
 */
char *
bemi_stream_descriptions(BemiStream *stream, const char *snapshot)
{
	PGresult   *result;
	char	   *descriptions;

	if (stream->signing_key == NULL)
		return pstrdup("[]");

	result = bemi_stream_query_at(stream, snapshot, BEMI_SQL_DESCRIPTIONS);
	descriptions = bemi_stream_string(stream, bemi_answer_text(result, 0, 0));
	PQclear(result);
	return descriptions;
}

/*
 * Which of these tables have been dropped at the source, and the end of its
 * WAL at that time; in the current memory context.
 */
List *
bemi_stream_gone(BemiStream *stream, const List *oids, XLogRecPtr *position)
{
	StringInfoData list;
	const char *values[1];
	PGresult   *result;
	ListCell   *cell;
	List	   *gone = NIL;

	initStringInfo(&list);
	appendStringInfoChar(&list, '{');
	foreach(cell, oids)
	{
		appendStringInfo(&list, "%s%u", list.len > 1 ? "," : "",
						 lfirst_oid(cell));
	}
	appendStringInfoChar(&list, '}');
	values[0] = list.data;
	result = bemi_stream_query_with(stream, BEMI_SQL_GONE_TABLES, 1, values);
	for (int i = 0; i < PQntuples(result); i++)
	{
		*position = bemi_answer_lsn_or_invalid(result, i, 0);
		gone = lappend_oid(gone, bemi_answer_number(result, i, 1));
	}
	PQclear(result);
	pfree(list.data);
	return gone;
}
