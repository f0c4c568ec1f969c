// Requests: what belongs to one call of the application, in all tables.
//
// A request is all changes whose context has the same requestId, traceId or the like (search/context_keys.js). If the context names none, it
// is the transaction. A request does not last longer than an hour, so that no index of the key is needed.

import { bind, sql } from './sql.js';
import { changedSql, members, membersSql, plain } from './values.js';
import { groupedSql, lineOf } from './changes.js';
import { find } from '../search/context_keys.js';

const DURATION = '1 hour';
const LOOKED_AT = 10_000;
const SHORT = 400;
const LINES = 12;
const LINES_OF_TABLE = 200;

// Later changes of a transaction do not have a longer member of the context (bemi: large contexts).
const LONGEST_ID = 200;

// The key of the context that names the request of a change, with its value: [key, text]; undefined if it has none.
export function requestOf({ context }) {
  const found = find(context, 'request');
  return found && found[1].length <= LONGEST_ID ? found : undefined;
}

// This part of the context, as JSON.
export function requestContext(change) {
  const [key] = requestOf(change);
  const { value } = change.contextMembers.find(({ name }) => name === key);
  return `{${JSON.stringify(key)}: ${value.kind === 'string' ? JSON.stringify(value.text) : value.text}}`;
}

// The times between which a request of this moment lies.
export const requestTimes = ({ committedAt }) => ({ from: timeAfter(committedAt, -HOUR), to: timeAfter(committedAt, HOUR) });

const HOUR = 3_600_000;
const timeAfter = (date, duration) => new Date(date.getTime() + duration).toISOString();

// What the request of a change has done, or its transaction if isTransaction:
//
//     { tables: [{ schema, table, counts: { UPDATE: 3 }, count, rows, lines, next }], count, isCapped, transactions }
//
// Of each table, the first changes. With table ("schema.name"), of this one alone more of them, those after a place.
export async function findRequest(client, change, { facts, isTransaction, table, after = 0 }) {
  const { rows: [found] } = await client.query(requestSql(change, { isTransaction, table, after }).toQuery());
  const linesOf = ({ schema, table: name }) => (found.lines ?? []).filter(line => line.schema === schema && line.table === name);
  const tables = (found.tables ?? []).map(summary => {
    const lines = linesOf(summary);
    const last = lines.at(-1)?.line ?? 0;
    return { ...summary, lines: lines.map(line => lineOf(line, facts)), next: last < summary.count ? last : undefined };
  });
  return {
    tables,
    count: Math.min(found.count, LOOKED_AT),
    isCapped: found.count > LOOKED_AT,
    transactions: (found.transactions ?? []).map(one => ({ id: one.id, transactionId: one.transaction_id, committedAt: new Date(one.committed_at) })),
  };
}

function requestSql(change, { isTransaction, table, after }) {
  const ofTable = table ? sql`AND schema || '.' || "table" = ${bind(table, 'text')}` : sql``;
  const first = table ? after : 0;
  return sql`
WITH touched AS MATERIALIZED (
    SELECT * FROM ${changesOf(change, isTransaction)} c ORDER BY id LIMIT ${bind(LOOKED_AT + 1, 'integer')}),
numbered AS (
    SELECT *, row_number() OVER (PARTITION BY schema, "table" ORDER BY id) AS line FROM touched LIMIT ${bind(LOOKED_AT, 'integer')}),
counted AS (
    SELECT schema, "table", operation, count(*) AS count, min(id::text) AS first_id FROM numbered GROUP BY schema, "table", operation),
summaries AS (
    SELECT schema, "table", min(first_id) AS first_id, sum(count)::integer AS count, jsonb_object_agg(operation, count) AS counts,
        (SELECT count(DISTINCT n.primary_key)::integer FROM numbered n WHERE n.schema = c.schema AND n."table" = c."table") AS rows
    FROM counted c GROUP BY schema, "table"),
shown AS (
    SELECT line, id, schema, "table", primary_key, operation, committed_at, ${changedSql(sql`before`, sql`after`, SHORT)} AS changed
    FROM numbered
    WHERE line > ${bind(first, 'integer')} AND line <= ${bind(first + (table ? LINES_OF_TABLE : LINES), 'integer')} ${ofTable}
    ORDER BY id)
SELECT (SELECT jsonb_agg(to_jsonb(s) ORDER BY s.first_id) FROM summaries s WHERE true ${ofTable}) AS tables,
    (SELECT jsonb_agg(to_jsonb(s) ORDER BY s.id) FROM shown s) AS lines,
    (SELECT count(*)::integer FROM touched) AS count,
    (SELECT jsonb_agg(to_jsonb(t)) FROM (
        SELECT min(id::text) AS id, transaction_id, committed_at FROM touched GROUP BY transaction_id, committed_at ORDER BY committed_at LIMIT 50) t) AS transactions`;
}

function changesOf(change, isTransaction) {
  if (isTransaction) return sql`bemi.transaction(${bind(change.id, 'uuid')})`;
  const at = sql`${bind(change.committedAt.toISOString(), 'timestamptz')}`;
  return sql`bemi.find_changes(context => ${bind(requestContext(change), 'jsonb')}, source_name => ${bind(change.source, 'text')},
        from_time => ${at} - ${bind(DURATION, 'interval')}, to_time => ${at} + ${bind(DURATION, 'interval')}, newest => ${bind(LOOKED_AT + 1, 'integer')})`;
}

// The first changes of transactions that have taken back changes of this one: [{ id, committedAt, context }].
export async function revertsOf(client, change) {
  const query = sql`
    SELECT c.id, c.committed_at, ${membersSql(sql`bemi.full_context(c)`, SHORT)} AS context
    FROM bemi.changes_by_id(ARRAY(
        SELECT unnest(t.reverted_by) FROM bemi.transactions t
        WHERE t.committed_at = ${bind(change.commitTime, 'timestamptz')} AND t.transaction_id = ${bind(change.transactionId, 'bigint')}
            AND t.source = ${bind(change.source, 'text')})) c
    ORDER BY c.id`;
  const { rows } = await client.query(query.toQuery());
  return rows.map(row => ({ id: row.id, committedAt: row.committed_at, context: plain(members(row.context)) }));
}

const PAGE = 1000;
const PAGE_WITH_CONDITIONS = 10_000;
const REQUESTS = 50;

// One page of requests that a search finds, newest first, each as a summary:
//
//     { requests: [{ id, committedAt, context, isBaseline, count, isCut, tables: [{ schema, table, count }] }], next }
//
// isCut: it has more changes than the page has looked at.
export async function findRequests(client, meaning, { beforeId }) {
  const limit = meaning.conditions.length > 0 ? PAGE_WITH_CONDITIONS : PAGE;
  const { rows: [page] } = await client.query(requestsSql(meaning, limit, beforeId).toQuery());
  const isMore = page.looked_at === limit;
  const requests = (page.requests ?? []).map((row, i, all) => ({
    id: row.id,
    committedAt: new Date(row.committed_at),
    context: plain(members(row.context)),
    isBaseline: row.is_baseline,
    count: row.count,
    isCut: isMore && i === all.length - 1 && page.groups <= REQUESTS,
    tables: row.tables,
  }));
  return { requests, next: page.groups > REQUESTS ? page.last_shown : isMore ? page.last_looked_at : undefined };
}

function requestsSql(meaning, limit, beforeId) {
  return sql`${groupedSql(meaning, limit, beforeId)},
counted AS (
    SELECT group_number, schema, "table", count(*)::integer AS count, max(place) AS place FROM grouped
    WHERE group_number <= ${bind(REQUESTS, 'integer')} GROUP BY group_number, schema, "table"),
shown AS (
    SELECT g.group_number, g.id, g.committed_at, ${membersSql(sql`g.context`, SHORT)} AS context, g.operation = 'SNAPSHOT' AS is_baseline, c.count, c.tables
    FROM (SELECT DISTINCT ON (group_number) * FROM grouped WHERE group_number <= ${bind(REQUESTS, 'integer')} ORDER BY group_number, place) g
    JOIN (SELECT group_number, sum(count)::integer AS count,
            jsonb_agg(jsonb_build_object('schema', schema, 'table', "table", 'count', count) ORDER BY place DESC) AS tables
        FROM counted GROUP BY group_number) c USING (group_number))
SELECT (SELECT jsonb_agg(to_jsonb(s) ORDER BY s.group_number) FROM shown s) AS requests,
    (SELECT count(*)::integer FROM looked_at) AS looked_at,
    (SELECT coalesce(max(group_number), 0)::integer FROM grouped) AS groups,
    (SELECT id FROM grouped WHERE group_number <= ${bind(REQUESTS, 'integer')} ORDER BY place DESC LIMIT 1) AS last_shown,
    (SELECT id FROM looked_at ORDER BY place DESC LIMIT 1) AS last_looked_at`;
}
