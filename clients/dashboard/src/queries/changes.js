// Changes, as the page of changes shows them.

import { join, bind, quotedName, sql } from './sql.js';
import { changedFields, changedSql, keyParts, members, membersSql, MOST_MEMBERS, plain } from './values.js';
import { conditionsOf, objectText, searchRows } from '../search/statement.js';

// A page looks at so many changes, and shows so many groups with so many lines each.
const LOOKED_AT = 1000;
const LOOKED_AT_WITH_CONDITIONS = 10_000;
const GROUPS = 30;
const LINES = 5;
const SHORT = 400;

// Returns one page of the changes that a search finds, newest first, in groups:
//
//     { groups: [{ id, source, transactionId, committedAt, context, lines, count }], count, isCapped, next }
//
// Neighbouring changes are one group if they are of the same transaction, or have the same context. count is how many
// changes were found from here on, and isCapped whether there may be more. next: the id for the page after this one.
export async function findGroups(client, meaning, { beforeId, facts }) {
  const limit = meaning.conditions.length > 0 ? LOOKED_AT_WITH_CONDITIONS : LOOKED_AT;
  const { rows: [page] } = await client.query(pageSql(meaning, limit, beforeId).toQuery());
  const groups = groupsOf(page.lines ?? [], facts);
  const isLast = page.looked_at < limit && page.groups <= GROUPS;
  return {
    groups,
    count: page.count,
    isCapped: page.looked_at === limit || Boolean(beforeId),
    next: isLast ? undefined : page.groups > GROUPS ? page.last_shown : page.last_looked_at,
  };
}

// bemi.find_changes() refuses a column that its table has never had. Only the server knows the former names, so it is asked for those that the
// table does not have today. A refusal is a problem of the search.
export async function checkColumn(database, { table, column, problems }, signal) {
  if (!table || column === undefined || table.columns.includes(column)) return;
  const query = sql`
    SELECT FROM bemi.find_changes(target => ${bind(quotedName(table), 'regclass')}, column_name => ${bind(column, 'name')}, newest => 1)`;
  await database.read(client => client.query(query.toQuery()), { signal }).catch(error => {
    if (error.code !== '42703') throw error;
    problems.push({ key: 'search.problem.column', values: { value: column, table: table.name } });
  });
}

// The changes that a search looks at, finds, and groups: the beginning of a statement.
export function groupedSql(meaning, limit, beforeId) {
  const { rows } = searchRows(meaning, { limit, beforeId });
  const conditions = conditionsOf(meaning);
  const where = conditions.length > 0 ? sql`WHERE ${join(conditions, ' AND ')}` : sql``;
  return sql`
WITH looked_at AS MATERIALIZED (SELECT * FROM ${rows} c),
found AS (SELECT * FROM looked_at c ${where}),
compared AS (
    SELECT *, lag(source) OVER newest AS previous_source, lag(transaction_id) OVER newest AS previous_transaction,
        lag(context) OVER newest AS previous_context
    FROM found WINDOW newest AS (ORDER BY place)),
grouped AS (
    SELECT *, count(*) FILTER (WHERE source IS DISTINCT FROM previous_source OR
            transaction_id IS DISTINCT FROM previous_transaction AND (context = '{}' OR context IS DISTINCT FROM previous_context))
        OVER (ORDER BY place) AS group_number
    FROM compared)`;
}

function pageSql(meaning, limit, beforeId) {
  return sql`
${groupedSql(meaning, limit, beforeId)},
numbered AS (
    SELECT *, row_number() OVER (PARTITION BY group_number ORDER BY place DESC) AS line,
        count(*) OVER (PARTITION BY group_number) AS lines
    FROM grouped),
shown AS (
    SELECT group_number, line, lines, id, source, schema, "table", primary_key, operation, committed_at, transaction_id,
        ${changedSql(sql`before`, sql`after`, SHORT)} AS changed,
        CASE WHEN line = 1 THEN ${membersSql(sql`context`, SHORT)} END AS context
    FROM numbered WHERE group_number <= ${bind(GROUPS, 'integer')} AND line <= ${bind(LINES, 'integer')}
    ORDER BY group_number, line)
SELECT (SELECT jsonb_agg(to_jsonb(s)) FROM shown s) AS lines,
    (SELECT count(*)::integer FROM looked_at) AS looked_at,
    (SELECT count(*)::integer FROM found) AS count,
    (SELECT coalesce(max(group_number), 0)::integer FROM grouped) AS groups,
    (SELECT id FROM grouped WHERE group_number <= ${bind(GROUPS, 'integer')} ORDER BY place DESC LIMIT 1) AS last_shown,
    (SELECT id FROM looked_at ORDER BY place DESC LIMIT 1) AS last_looked_at`;
}

function groupsOf(lines, facts) {
  const groups = [];
  for (const line of lines) {
    if (line.line === 1) groups.push(groupOf(line));
    groups.at(-1).lines.push(lineOf(line, facts));
  }
  return groups;
}

function groupOf(line) {
  return {
    id: line.id,
    source: line.source,
    transactionId: line.transaction_id,
    committedAt: new Date(line.committed_at),
    context: plain(members(line.context)),
    isBaseline: line.operation === 'SNAPSHOT',
    count: line.lines,
    lines: [],
  };
}

export function lineOf(row, facts) {
  return {
    id: row.id,
    schema: row.schema,
    table: row.table,
    key: keyParts(row.primary_key),
    primaryKey: row.primary_key,
    operation: row.operation,
    changed: changedFields(row.changed, columnsOf(facts, row)).filter(field => !isKnownByKey(facts, row, field.name)),
    committedAt: new Date(row.committed_at),
  };
}

// A line names the row by its key, so the columns of the key say nothing new of a row that came or went.
function isKnownByKey(facts, row, column) {
  return row.operation !== 'UPDATE' && row.primary_key !== null && tableOf(facts, row)?.key.includes(column);
}

const columnsOf = (facts, row) => tableOf(facts, row)?.columns;

// The table of a change, if it is one of this database.
export function tableOf(facts, { schema, table }) {
  return facts.tables.find(known => known.schema === schema && known.name === table);
}

// The newest change of all, or of those that a link for a customer shows, to see whether there is something new.
export async function newestChange(client, limit) {
  const context = limit ? sql`context => ${bind(objectText(new Map(limit.context)), 'jsonb')}, ` : sql``;
  const { rows } = await client.query(sql`SELECT id FROM bemi.find_changes(${context}newest => 1)`.toQuery());
  return rows[0]?.id;
}

const LONG = 20_000;

// The members of what bemi itself has added to a context, under a key that no application can set.
const groupSql = key => membersSql(sql`(CASE jsonb_typeof(bemi.full_context(c) -> ${key}) WHEN 'object' THEN bemi.full_context(c) -> ${key} ELSE '{}' END)`, LONG);

// One change with everything that belongs to it, or undefined.
export async function findChange(client, id, { facts }) {
  const query = sql`
    SELECT c.id, c.source, c.database, c.schema, c."table", c.primary_key, c.operation, c.committed_at, c.created_at,
        c.committed_at::text AS commit_time, c.transaction_id,
        ${changedSql(sql`c.before`, sql`c.after`, LONG, MOST_MEMBERS)} AS changed,
        ${membersSql(sql`(CASE WHEN c.operation = 'DELETE' THEN c.before ELSE c.after END)`, LONG, MOST_MEMBERS)} AS columns,
        ${membersSql(sql`bemi.full_context(c)`, LONG, MOST_MEMBERS)} AS context, ${groupSql(sql`'_tags'`)} AS tags, ${groupSql(sql`'_db'`)} AS server
    FROM bemi.changes_by_id(ARRAY[${bind(id, 'uuid')}]) c`;
  const { rows: [row] } = await client.query(query.toQuery());
  if (!row) return undefined;
  const columns = columnsOf(facts, row);
  const changed = changedFields(row.changed, columns);
  const names = new Set(changed.map(field => field.name));
  const context = members(row.context);
  return {
    id: row.id,
    source: row.source,
    database: row.database,
    schema: row.schema,
    table: row.table,
    primaryKey: row.primary_key,
    key: keyParts(row.primary_key),
    operation: row.operation,
    committedAt: row.committed_at,
    // A Date has no microseconds.
    commitTime: row.commit_time,
    createdAt: row.created_at,
    transactionId: row.transaction_id,
    changed,
    unchanged: members(row.columns, columns).filter(column => !names.has(column.name)),
    contextMembers: context,
    context: plain(context),
    tags: members(row.tags),
    server: members(row.server),
  };
}
