// The SQL of a search. Values are bound; the shape depends on which terms there are, and never on their text.

import { bind, join, quotedName, sql } from '../queries/sql.js';

// Changes that meet the terms, newest first, at most "limit" of them are looked at: { rows, isPartial }.
//
// rows is a fragment for FROM, with the columns of bemi.changes and "place", which counts the changes.
// isPartial: conditions were checked after the limit, so fewer may come although there are more.
export function searchRows(meaning, { limit, beforeId }) {
  const byKey = rowCondition(meaning);
  const rows = byKey
    ? sql`(SELECT row_number() OVER (ORDER BY c.id DESC) AS place, c.*
    FROM (SELECT * FROM bemi.changes c WHERE ${join(byKeyConditions(meaning, byKey, beforeId), '\n          AND ')}
        ORDER BY c.id DESC LIMIT ${bind(limit, 'integer')}) c)`
    : sql`(SELECT c.ordinality AS place, c.* FROM bemi.find_changes(${argumentsOf(meaning, { limit, beforeId })}) WITH ORDINALITY AS c)`;
  return { rows, isPartial: !byKey && meaning.conditions.length > 0 };
}

// The statement for people, to be copied into psql.
export function searchText(meaning, { limit = 100 } = {}) {
  const columns = sql`SELECT committed_at, schema, "table", primary_key, operation, before, after, context`;
  const byKey = rowCondition(meaning);
  if (byKey) {
    return sql`${columns}
FROM bemi.changes c
WHERE ${join(byKeyConditions(meaning, byKey), '\n  AND ')}
ORDER BY id DESC LIMIT ${bind(limit, 'integer')};`.toText();
  }
  const where = meaning.conditions.length > 0 ? sql`\nWHERE ${join(meaning.conditions.map(conditionSql), '\n  AND ')}` : sql``;
  return sql`${columns}
FROM bemi.find_changes(${argumentsOf(meaning, { limit: where.values.length > 0 ? 10_000 : limit })}) c${where};`.toText();
}

// The statement that makes searches for a key of the context fast.
export const indexStatement = key => sql`CALL bemi.index_context(${bind(key, 'text')});`.toText();

export const conditionsOf = meaning => rowCondition(meaning) ? [] : meaning.conditions.map(conditionSql);

function argumentsOf({ table, operations, column, context, texts, from, to, source }, { limit, beforeId }) {
  const args = [];
  if (table) args.push(sql`target => ${bind(regclassText(table), 'regclass')}`);
  if (operations) args.push(sql`operation => ${bind(operations.join(', '), 'text')}`);
  if (column) args.push(sql`column_name => ${bind(column, 'name')}`);
  if (context.size > 0) args.push(sql`context => ${bind(objectText(context), 'jsonb')}`);
  if (texts.size > 0) args.push(sql`context_is => ${bind(JSON.stringify(Object.fromEntries(texts)), 'jsonb')}`);
  if (from) args.push(sql`from_time => ${timeSql(from)}`);
  if (to) args.push(sql`to_time => ${timeSql(to)}`);
  if (source) args.push(sql`source_name => ${bind(source, 'text')}`);
  args.push(sql`newest => ${bind(limit, 'integer')}`);
  if (beforeId) args.push(sql`before_id => ${bind(beforeId, 'uuid')}`);
  return join(args, ', ');
}

// One row of one table: the index of rows finds its changes, in bemi.changes itself. find_changes() has no key.
function rowCondition({ table, conditions }) {
  if (!table) return undefined;
  return conditions.find(condition => condition.kind === 'key' && !condition.exclude && condition.values.length === 1);
}

function byKeyConditions(meaning, byKey, beforeId) {
  const { table, operations, column, context, texts, from, to, source } = meaning;
  const all = [
    sql`c.schema = ${bind(table.schema, 'text')}`,
    sql`c."table" = ${bind(table.name, 'text')}`,
    sql`c.primary_key = ${bind(byKey.values[0], 'text')}`,
  ];
  if (operations) all.push(conditionSql({ kind: 'operation', values: operations }));
  if (column) all.push(conditionSql({ kind: 'column', values: [column] }));
  if (context.size > 0) all.push(sql`c.context @> ${bind(objectText(context), 'jsonb')}`);
  for (const [key, value] of texts) all.push(contextSql(key, value));
  if (from) all.push(sql`c.committed_at >= ${timeSql(from)}`);
  if (to) all.push(sql`c.committed_at < ${timeSql(to)}`);
  if (source) all.push(sql`c.source = ${bind(source, 'text')}`);
  if (beforeId) all.push(sql`c.id < ${bind(beforeId, 'uuid')}`);
  return [...all, ...meaning.conditions.filter(condition => condition !== byKey).map(conditionSql)];
}

function conditionSql(condition) {
  const positive = positiveSql(condition);
  return condition.exclude ? sql`coalesce(${positive}, false) IS FALSE` : positive;
}

function positiveSql({ kind, values, key }) {
  if (kind === 'context') return sql`(${join(values.map(value => contextSql(key, value)), ' OR ')})`;
  const list = bind(values, 'text[]');
  if (kind === 'table') return sql`(c."table" = ANY (${list}) OR c.schema || '.' || c."table" = ANY (${list}))`;
  if (kind === 'key') return sql`c.primary_key = ANY (${list})`;
  if (kind === 'operation') return sql`c.operation = ANY (${list})`;
  if (kind === 'source') return sql`c.source = ANY (${list})`;
  return sql`bemi.diff(c.before, c.after) ?| ${list}`;
}

function contextSql(key, value) {
  if (value.length > 1 && value.endsWith('*')) {
    return sql`starts_with(c.context ->> ${bind(key, 'text')}, ${bind(value.slice(0, -1), 'text')})`;
  }
  return sql`bemi.context_is(c.context, ${bind(key, 'text')}, ${bind(value, 'text')})`;
}

const timeSql = ({ interval, instant }) =>
  interval ? sql`now() - ${bind(interval, 'interval')}` : sql`${bind(instant.toISOString(), 'timestamptz')}`;

export const regclassText = quotedName;

// The values are JSON already.
export const objectText = context => `{${[...context].map(([key, value]) => `${JSON.stringify(key)}: ${value}`).join(', ')}}`;
