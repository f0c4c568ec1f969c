// One row of a table, through its history.

import { bind, sql } from './sql.js';
import { changedFields, changedSql, keyParts, members, membersSql, MOST_MEMBERS, plain, value, valueSql } from './values.js';
import { regclassText } from '../search/statement.js';

// The newest versions of a row, oldest first: [{ id, committedAt, operation }], and whether there are more.
export async function versionsOf(client, { table, primaryKey, newest = 12 }) {
  const query = sql`
    SELECT id, committed_at, operation FROM bemi.history(${bind(regclassText(table), 'regclass')}, ${bind(primaryKey, 'text')},
        newest => ${bind(newest + 1, 'integer')})`;
  const { rows } = await client.query(query.toQuery());
  return {
    versions: rows.slice(0, newest).reverse().map(row => ({ id: row.id, committedAt: row.committed_at, operation: row.operation })),
    hasEarlier: rows.length > newest,
  };
}

// Who has set each column last: [{ column, value, changedAt, context, changeId }].
export async function blameOf(client, { table, primaryKey, longest = 200 }) {
  const query = sql`
    SELECT column_name, ${valueSql(sql`value`, longest)} AS value, changed_at, ${membersSql(sql`context`, longest)} AS context, change_id
    FROM bemi.blame(${bind(regclassText(table), 'regclass')}, ${bind(primaryKey, 'text')})`;
  const { rows } = await client.query(query.toQuery());
  return rows.map(row => ({
    column: row.column_name,
    value: value(row.value),
    changedAt: row.changed_at,
    context: plain(members(row.context)),
    changeId: row.change_id,
  }));
}

// Calls read(true). A key of the history may be no key of the table any more: its type or its columns have changed, or it was cut because it is
// very long. Then bemi.history() refuses it, or finds nothing, and read(false) takes the changes as they are stored.
export async function withKeyOfToday(read) {
  const found = await read(true).catch(error => {
    if (!/^22/.test(error.code ?? '')) throw error;
  });
  return found ?? read(false);
}

// The history of a row: of a table of this database as bemi.history() knows it, with former names; of one of another server, or one
// that does not exist any more, as it is stored. row: { table, schema, name, source, primaryKey }, and table is undefined then. beforeId: only what
// came before this change of the row.
function historySql({ table, schema, name, source, primaryKey }, newest, beforeId) {
  if (table) {
    return sql`bemi.history(${bind(regclassText(table), 'regclass')}, ${bind(primaryKey, 'text')}, newest => ${bind(newest, 'integer')},
        before_id => ${bind(beforeId ?? null, 'uuid')})`;
  }
  return sql`(SELECT c.id, c.committed_at, c.operation, bemi.diff(c.before, c.after) AS changed, c.before, c.after, bemi.full_context(c) AS context
    FROM bemi.changes c WHERE ${storedSql({ schema, name, source, primaryKey })}
        AND (${bind(beforeId ?? null, 'uuid')} IS NULL OR c.id < ${bind(beforeId ?? null, 'uuid')})
    ORDER BY c.id DESC LIMIT ${bind(newest, 'integer')})`;
}

const storedSql = ({ schema, name, source, primaryKey }) => sql`c.schema = ${bind(schema, 'text')} AND c."table" = ${bind(name, 'text')}
        AND c.primary_key = ${bind(primaryKey, 'text')} AND (${bind(source ?? null, 'text')} IS NULL OR c.source = ${bind(source ?? null, 'text')})`;

const VERSIONS = 200;
const MOST_VERSIONS = 5000;
const LONG = 20_000;

// The versions of a row, oldest first: { versions: [{ id, depth, beforeId, committedAt, operation, columns, context }], hasEarlier, hasLater }. columns is
// undefined if it is not known which columns have changed. depth: how many versions there are from it on, before beforeId. Of very many versions, those around
// the one with this id.
export async function rowHistory(client, row, { around } = {}) {
  let all = await readVersions(client, row, VERSIONS + 1);
  let beforeId;
  const isThere = () => all.some(({ id }) => id === around);
  if (around && all.length > VERSIONS && !isThere()) {
    beforeId = await versionAfter(client, row, around, VERSIONS / 2);
    all = beforeId ? await readVersions(client, row, VERSIONS + 1, beforeId) : all;
  }
  // Its key was another one, so the place is not known.
  if (around && all.length > VERSIONS && !isThere()) {
    beforeId = undefined;
    all = await readVersions(client, row, MOST_VERSIONS);
  }
  const place = Math.max(0, all.findIndex(({ id }) => id === around));
  const first = place < VERSIONS ? 0 : place - VERSIONS / 2;
  return {
    versions: all.slice(first, first + VERSIONS).reverse(),
    hasEarlier: all.length > first + VERSIONS,
    hasLater: first > 0 || beforeId !== undefined,
  };
}

// The change of the row that is so many changes later.
async function versionAfter(client, row, id, count) {
  const query = sql`SELECT c.id FROM bemi.changes c WHERE ${storedSql(row)} AND c.id > ${bind(id, 'uuid')} ORDER BY c.id OFFSET ${bind(count, 'integer')} LIMIT 1`;
  const { rows } = await client.query(query.toQuery());
  return rows[0]?.id;
}

async function readVersions(client, row, newest, beforeId) {
  const query = sql`
    SELECT h.id, h.committed_at, h.operation, h.changed IS NULL AS "isUnknown", ARRAY(SELECT jsonb_object_keys(h.changed)) AS columns,
        ${membersSql(sql`h.context`, 200)} AS context
    FROM ${historySql(row, newest, beforeId)} h`;
  const { rows } = await client.query(query.toQuery());
  return rows.map((version, i) => ({
    id: version.id,
    depth: i + 1,
    beforeId,
    committedAt: version.committed_at,
    operation: version.operation,
    columns: version.isUnknown && version.operation === 'UPDATE' ? undefined : version.columns,
    context: plain(members(version.context)),
  }));
}

// The row as one change has left it, or removed it: { columns: [{ name, value }], changed }. The version is one of rowHistory().
export async function versionOf(client, row, { id, depth, beforeId }) {
  const { columns } = row;
  const query = sql`
    SELECT ${changedSql(sql`h.before`, sql`h.after`, LONG, MOST_MEMBERS)} AS changed,
        ${membersSql(sql`(CASE WHEN h.operation = 'DELETE' THEN h.before ELSE h.after END)`, LONG, MOST_MEMBERS)} AS columns
    FROM ${historySql(row, depth, beforeId)} h WHERE h.id = ${bind(id, 'uuid')}`;
  const { rows: [version] } = await client.query(query.toQuery());
  return version && { columns: members(version.columns, columns), changed: changedFields(version.changed, columns) };
}

// What differs between the row after one change and after another: { changed, same }.
export async function compareVersions(client, row, [from, to]) {
  const { columns } = row;
  const query = sql`
    WITH h AS MATERIALIZED (SELECT id, after FROM ${historySql(row, Math.max(from.depth, to.depth), from.beforeId)} h)
    SELECT ${changedSql(sql`a.after`, sql`b.after`, LONG, MOST_MEMBERS)} AS changed, ${membersSql(sql`b.after`, LONG, MOST_MEMBERS)} AS columns
    FROM h a, h b WHERE a.id = ${bind(from.id, 'uuid')} AND b.id = ${bind(to.id, 'uuid')}`;
  const { rows: [found] } = await client.query(query.toQuery());
  if (!found) return undefined;
  const changed = changedFields(found.changed, columns);
  const names = new Set(changed.map(field => field.name));
  return { changed, same: members(found.columns, columns).filter(column => !names.has(column.name)) };
}

// The changes of the same row next to a change: { earlier, later }, ids. The earlier one of a table of this database may have another key.
export async function neighboursOf(client, { change, table }) {
  const sameRow = sql`c.source = ${bind(change.source, 'text')} AND c.schema = ${bind(change.schema, 'text')} AND c."table" = ${bind(change.table, 'text')}
        AND c.primary_key = ${bind(change.primaryKey, 'text')}`;
  const id = bind(change.id, 'uuid');
  const earlier = table
    ? sql`SELECT h.id FROM bemi.history(${bind(regclassText(table), 'regclass')}, ${bind(change.primaryKey, 'text')}, newest => 1, before_id => ${id}) h`
    : sql`SELECT c.id FROM bemi.changes c WHERE ${sameRow} AND c.id < ${id} ORDER BY c.id DESC LIMIT 1`;
  const query = sql`SELECT (${earlier}) AS earlier, (SELECT c.id FROM bemi.changes c WHERE ${sameRow} AND c.id > ${id} ORDER BY c.id LIMIT 1) AS later`;
  const { rows: [found] } = await client.query(query.toQuery());
  return { earlier: found.earlier ?? undefined, later: found.later ?? undefined };
}

// Rows that were changed last: [{ schema, table, primaryKey, key, source, database, changes, committedAt, operation, context }].
export async function recentRows(client, { table, source }) {
  const target = table ? sql`target => ${bind(regclassText(table), 'regclass')}, ` : sql``;
  const query = sql`
    SELECT DISTINCT ON (c.source, c.schema, c."table", c.primary_key) c.source, c.database, c.schema, c."table", c.primary_key, c.operation, c.committed_at,
        count(*) OVER (PARTITION BY c.source, c.schema, c."table", c.primary_key)::integer AS changes, ${membersSql(sql`c.context`, 200)} AS context
    FROM bemi.find_changes(${target}source_name => ${bind(source ?? null, 'text')}, newest => 1000) WITH ORDINALITY c
    WHERE c.primary_key IS NOT NULL AND c.operation <> 'SNAPSHOT'
    ORDER BY c.source, c.schema, c."table", c.primary_key, c.ordinality`;
  const { rows } = await client.query(sql`SELECT * FROM (${query}) r ORDER BY r.committed_at DESC LIMIT 50`.toQuery());
  return rows.map(row => ({
    source: row.source,
    database: row.database,
    schema: row.schema,
    table: row.table,
    primaryKey: row.primary_key,
    key: keyParts(row.primary_key),
    operation: row.operation,
    committedAt: row.committed_at,
    changes: row.changes,
    context: plain(members(row.context)),
  }));
}

// The key as somebody types it, "42" or "40, 1", as primary_key of bemi.changes, if the history has such a row.
export async function rowKey(client, table, text) {
  const parts = table.key.length > 1 && !/^[[{]/.test(text) ? text.split(',').map(part => part.trim()) : undefined;
  if (parts && parts.length !== table.key.length) return undefined;
  const query = sql`
    SELECT c.primary_key FROM bemi.changes c
    WHERE c.schema = ${bind(table.schema, 'text')} AND c."table" = ${bind(table.name, 'text')}
        AND c.primary_key = ${bind(parts ? `[${parts.map(part => JSON.stringify(part)).join(', ')}]` : text, 'text')}
    ORDER BY c.id DESC LIMIT 1`;
  const { rows } = await client.query(query.toQuery());
  return rows[0]?.primary_key;
}
