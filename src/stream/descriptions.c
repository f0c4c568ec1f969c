/*-------------------------------------------------------------------------
 *
 * descriptions.c Asks a source for the descriptions of its tables.
 *
 * The stream has the names and type OIDs of a table's columns.  It lacks the
 * primary key (with REPLICA IDENTITY FULL it flags every column) and the parts
 * of types.  One query to the catalog returns these as a JSON object:
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

#include "access/transam.h"
#include "catalog/pg_type_d.h"
#include "utils/builtins.h"

#include "stream/stream_internal.h"

/*
 * The query.  Each "%s" is the table's OID, "%u" is the first OID of a type
 * that is not built in.
 */
static const char *const description_query =
"WITH RECURSIVE t(oid) AS ("
" SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped"
" UNION"
" SELECT x.oid FROM t JOIN pg_type p ON p.oid = t.oid, LATERAL ("
"SELECT p.typbasetype"
" UNION ALL SELECT p.typelem"
" UNION ALL SELECT a.atttypid FROM pg_attribute a"
" WHERE a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped) x(oid)"
"), part AS ("
" SELECT t.oid, part.* FROM t JOIN pg_type p ON p.oid = t.oid, LATERAL ("
"SELECT 'b'::text, 0::oid, NULL::text, 0::int"
" UNION ALL SELECT 'd', p.typbasetype, NULL, 1 WHERE p.typtype = 'd'"
" UNION ALL SELECT 'a', e.oid, e.typdelim::text, 1 FROM pg_type e"
" WHERE e.oid = p.typelem AND e.typarray = p.oid"
" UNION ALL SELECT 'c', 0, NULL, 0 WHERE p.typtype = 'c'"
" UNION ALL SELECT 'f', a.atttypid, a.attname::text, a.attnum::int FROM pg_attribute a"
" WHERE p.typtype = 'c' AND a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped"
" UNION ALL SELECT 'j', c.castfunc, NULL, 1 FROM pg_cast c"
" JOIN pg_proc f ON f.oid = c.castfunc JOIN pg_language l ON l.oid = f.prolang"
" WHERE c.castsource = p.oid AND c.casttarget = 'json'::regtype AND p.typtype = 'b' AND l.lanname = 'c'"
") part(kind, other, name, place) WHERE t.oid >= %u OR p.typtype = 'c'"
" OR (SELECT e.typtype = 'c' FROM pg_type e WHERE e.oid = p.typelem)"
") SELECT json_build_object('key', (SELECT coalesce(json_agg(a.attname ORDER BY k.place), '[]')"
" FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a"
" WHERE i.indrelid = %s AND i.indisprimary AND k.place <= i.indnkeyatts"
" AND a.attrelid = i.indrelid AND a.attnum = k.attnum),"
" 'columns', (SELECT coalesce(json_agg(a.attname ORDER BY a.attnum), '[]') FROM pg_attribute a"
" WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped),"
" 'partly', (SELECT CASE c.relkind WHEN 'p' THEN EXISTS (WITH RECURSIVE below(oid) AS ("
" SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = c.oid AND NOT i.inhdetachpending"
" UNION ALL SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid AND NOT i.inhdetachpending"
") SELECT FROM below b JOIN pg_class l ON l.oid = b.oid WHERE l.relkind <> 'p' AND l.relreplident <> 'f')"
" ELSE false END FROM pg_class c WHERE c.oid = %s),"
" 'types', (SELECT coalesce(json_agg(json_build_array(part.oid::text, part.kind, part.other::text, part.name)"
" ORDER BY part.oid, part.place, part.kind), '[]') FROM part))";

static char *
description_query_of(const char *relation)
{
	return psprintf(description_query, relation, FirstGenbkiObjectId,
					relation, relation, relation);
}

/*
 * Today's description of a table, with the rules for its columns if the source
 * has the extension; JSON text, palloc'd; NULL if the table is gone.  It uses
 * the catalog connection, because the replication connection is streaming.
 */
char *
bemi_stream_describe(BemiStream *stream, Oid relation)
{
	char	   *command = stream->describes ?
		psprintf("SELECT _bemi.describe(%u)", relation) :
		description_query_of(psprintf("%u", relation));
	PGresult   *result = bemi_stream_query(stream, command);
	char	   *description = bemi_answer_is_null(result, 0, 0) ? NULL :
		bemi_stream_string(stream, bemi_answer_text(result, 0, 0));

	PQclear(result);
	pfree(command);
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

	/*
	 * The function includes partitions and FOR ALL TABLES, but it returns
	 * only today's tables. pg_publication_rel has those of the snapshot.
	 */
	result =
		bemi_stream_query_at(stream, snapshot,
							 "SELECT coalesce(json_agg(json_build_object("
							 "'relation', c.oid, 'description', _bemi.describe(c.oid))), '[]')"
							 " FROM (SELECT relid FROM pg_get_publication_tables('" BEMI_PUBLICATION
							 "')"
							 " UNION SELECT r.prrelid FROM pg_publication p"
							 " JOIN pg_publication_rel r ON r.prpubid = p.oid"
							 " WHERE p.pubname = '" BEMI_PUBLICATION
							 "') t(oid)"
							 " JOIN pg_class c USING (oid)");
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
	StringInfoData command;
	PGresult   *result;
	ListCell   *cell;
	List	   *gone = NIL;

	initStringInfo(&command);
	appendStringInfoString(&command,
						   "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
						   " ELSE pg_current_wal_insert_lsn() END, t.oid FROM unnest('{");
	foreach(cell, oids)
	{
		appendStringInfo(&command, "%s%u", cell == list_head(oids) ? "" : ",",
						 lfirst_oid(cell));
	}
	appendStringInfoString(&command,
						   "}'::oid[]) t(oid)"
						   " WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.oid)");
	result = bemi_stream_query(stream, command.data);
	for (int i = 0; i < PQntuples(result); i++)
	{
		*position = bemi_answer_lsn_or_invalid(result, i, 0);
		gone = lappend_oid(gone, bemi_answer_number(result, i, 1));
	}
	PQclear(result);
	pfree(command.data);
	return gone;
}
