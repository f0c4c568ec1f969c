// Changes for an export, page by page.
//
// There is no cursor: bemi.find_changes() returns its whole result before the first row can be fetched. Each page is a short transaction
// of its own, with the last change of the page before as its beginning. So an export of millions of changes needs little memory, holds
// back no vacuum, and takes no connection while a slow browser reads. A page ends early if its rows are large.

import { bind, join, sql } from './sql.js';
import { conditionsOf, searchRows } from '../search/statement.js';

const PAGE = 500;
const PAGE_WITH_CONDITIONS = 10_000;
// As the server stores them, often compressed: their texts take several times as much.
const LARGE = 1_000_000;

export const columns = ['id', 'committed_at', 'source', 'database', 'schema', 'table', 'primary_key', 'operation', 'transaction_id', 'before', 'after', 'context'];

// { rows, next }: rows are objects with a text or null for each of columns. The last three are JSON. next is where the next page begins.
export async function exportPage(client, meaning, { beforeId }) {
  const conditions = conditionsOf(meaning);
  const matches = conditions.length > 0 ? sql`coalesce(${join(conditions, ' AND ')}, false)` : sql`true`;
  const limit = conditions.length > 0 ? PAGE_WITH_CONDITIONS : PAGE;
  const query = sql`
    WITH found AS (SELECT c.*, ${matches} AS matches FROM ${searchRows(meaning, { limit, beforeId }).rows} c),
    sized AS (
        SELECT *, coalesce(sum(pg_column_size(before) + pg_column_size(after)) FILTER (WHERE matches) OVER before_it, 0) AS size, count(*) OVER () AS looked_at
        FROM found WINDOW before_it AS (ORDER BY place ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
    SELECT l.id, l.matches, l.looked_at::integer, m.*
    FROM sized l
    LEFT JOIN LATERAL (
        SELECT to_char(l.committed_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS committed_at, l.source, l.database, l.schema, l."table", l.primary_key,
            l.operation, l.transaction_id::text, l.before::text, l.after::text, ${WHOLE_CONTEXT}::text AS context) m ON l.matches
    WHERE l.size < ${bind(LARGE, 'bigint')}
    ORDER BY l.place`;
  const { rows } = await client.query(query.toQuery());
  const isMore = rows.length > 0 && (rows.length < rows[0].looked_at || rows.length === limit);
  return { rows: rows.filter(row => row.matches), next: isMore ? rows.at(-1).id : undefined };
}

// A large context is stored once for a transaction, and bemi.full_context() takes a row of bemi.changes.
const WHOLE_CONTEXT = sql`(CASE WHEN l.context ? '_whole'
    THEN (SELECT bemi.full_context(c) FROM bemi.changes c WHERE c.id = l.id AND c.committed_at = l.committed_at) ELSE l.context END)`;
