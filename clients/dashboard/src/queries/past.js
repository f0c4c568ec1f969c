// A table as it was, through bemi.as_of_json(), and what has become of it since, through bemi.diff_table().
//
// A moment is { at }, a text in the form that PostgreSQL writes, because a Date of JavaScript would lose the microseconds. Or
// it is { at, before }: the moment just before the change with the id "before", and "at" is then just before its transaction.

import { bind, join, named, sql } from './sql.js';
import { changedFields, changedSql, keyParts, members, membersSql, plain } from './values.js';
import { regclassText } from '../search/statement.js';

const LONG = 2_000;
const SHORT = 400;
const PAGE = 50;
// Of a table with more columns, a page of rows would be too large.
const COLUMNS = 200;

// The rows of a page: { rows: [{ key, primaryKey, columns: [{ name, value }], hiddenColumns }], next }.
export async function rowsAt(client, { table, moment, filter, after, allowGaps }) {
  const query = sql`
WITH past AS (
    SELECT r.image, ${placeSql(table, sql`r.image`)} AS place
    FROM ${pastSql(table)}, ${momentSql(moment)}, allow_gaps => ${bind(Boolean(allowGaps), 'boolean')}) r(image)
    WHERE ${filterSql(filter, [sql`r.image`])})
SELECT place::text AS place, ${primaryKeySql(table, sql`image`)} AS primary_key, ${membersSql(sql`image`, LONG, COLUMNS)} AS columns,
    (SELECT count(*)::integer FROM jsonb_object_keys(image)) AS members
FROM past WHERE ${afterSql(after)} ORDER BY past.place LIMIT ${bind(PAGE + 1, 'integer')}`;
  return pageOf(await client.query(query.toQuery()), row => ({ columns: members(row.columns, table.columns), hiddenColumns: Math.max(0, row.members - COLUMNS) }));
}

// The beginning of a call. A table with a source is not here: it is on another server, or was dropped. The history alone knows it.
const pastSql = ({ source, schema, name, ...table }) => (source
  ? sql`bemi.source_as_of_json(${bind(source, 'text')}, ${bind(schema, 'text')}, ${bind(name, 'text')}`
  : sql`bemi.as_of_json(${bind(regclassText({ schema, name, ...table }), 'regclass')}`);

// What differs between the moment and now: { rows: [{ operation, key, primaryKey, changed }], next }.
export async function differencesSince(client, { table, moment, filter, after, allowGaps }) {
  const images = [sql`d.was`, sql`d.is`];
  const image = sql`coalesce(d.is, d.was)`;
  const query = sql`
WITH differing AS (
    SELECT d.*, ${placeSql(table, image)} AS place
    FROM (SELECT t.kind, to_jsonb(t.before) AS was, to_jsonb(t.after) AS is
        FROM bemi.diff_table(NULL::${named(table)}, ${bind(moment.at, 'timestamptz')}, clock_timestamp(),
            allow_gaps => ${bind(Boolean(allowGaps), 'boolean')}) t) d
    WHERE ${filterSql(filter, images)})
SELECT place::text AS place, kind, ${primaryKeySql(table, image)} AS primary_key,
    ${changedSql(sql`coalesce(d.was, '{}')`, sql`coalesce(d.is, '{}')`, SHORT)} AS changed
FROM differing d WHERE ${afterSql(after)} ORDER BY d.place LIMIT ${bind(PAGE + 1, 'integer')}`;
  return pageOf(await client.query(query.toQuery()), row => ({ operation: row.kind, changed: changedFields(row.changed, table.columns) }));
}

function pageOf({ rows }, more) {
  const shown = rows.slice(0, PAGE);
  return {
    rows: shown.map(row => ({ primaryKey: row.primary_key, key: keyParts(row.primary_key), ...more(row) })),
    next: rows.length > PAGE ? shown.at(-1).place : undefined,
  };
}

const momentSql = ({ at, before }) =>
  before ? sql`before => ${bind(before, 'uuid')}` : sql`at => ${bind(at, 'timestamptz')}`;

// The place of a row in the order of the table. Without a primary key, rows may be equal, and have no order of their own.
function placeSql(table, image) {
  if (table.key.length > 0) return sql`jsonb_build_array(${memberList(table, image)})`;
  return sql`jsonb_build_array(md5(${image}::text), row_number() OVER (PARTITION BY ${image}))`;
}

const memberList = (table, image) => join(table.key.map(name => sql`${image} -> ${bind(name, 'text')}`), ', ');

const afterSql = after => (after ? sql`place > ${bind(after, 'jsonb')}` : sql`true`);

// As bemi.changes has it.
function primaryKeySql({ key }, image) {
  if (key.length === 0) return sql`NULL::text`;
  if (key.length === 1) return sql`${image} ->> ${bind(key[0], 'text')}`;
  return sql`jsonb_build_array(${join(key.map(name => sql`${image} ->> ${bind(name, 'text')}`), ', ')})::text`;
}

// filter: [{ column, value, exclude }]. Without a column, a part of any value is meant. One of the images must meet all of it.
function filterSql(filter, images) {
  const meets = image => (filter.length > 0 ? join(filter.map(term => termSql(term, image)), ' AND ') : sql`true`);
  return sql`(${join(images.map(image => sql`(${image} IS NOT NULL AND ${meets(image)})`), ' OR ')})`;
}

function termSql({ column, value, exclude }, image) {
  const found = column === undefined ? anySql(value, image) : columnSql(column, value, image);
  return exclude ? sql`coalesce(${found}, false) IS FALSE` : found;
}

const anySql = (value, image) =>
  sql`EXISTS (SELECT FROM jsonb_each_text(${image}) e WHERE strpos(lower(e.value), lower(${bind(value, 'text')})) > 0)`;

function columnSql(column, value, image) {
  const text = sql`${image} ->> ${bind(column, 'text')}`;
  if (value.length > 1 && value.endsWith('*')) return sql`starts_with(${text}, ${bind(value.slice(0, -1), 'text')})`;
  return sql`${text} = ${bind(value, 'text')}`;
}

// ---- the timeline

const LOOKED_AT = 300;
const NEIGHBOURS = 9;

// Transactions that have changed the table around a moment, oldest first: { before, after, isFar, hasEarlier, hasLater }.
// isFar: there are others between the moment and "after".
export async function transactionsAround(client, { table, moment }) {
  const until = sql`to_time => ${bind(moment.at, 'timestamptz')} + interval '1 microsecond'`;
  const since = sql`from_time => ${bind(moment.at, 'timestamptz')} + interval '1 microsecond'`;
  const [before, after] = [await transactionsOf(client, table, until), await transactionsOf(client, table, since)];
  return {
    before: before.list.slice(-NEIGHBOURS),
    hasEarlier: before.isCapped || before.list.length > NEIGHBOURS,
    after: after.isCapped ? after.list.slice(-NEIGHBOURS) : after.list.slice(0, NEIGHBOURS),
    isFar: after.isCapped,
    hasLater: !after.isCapped && after.list.length > NEIGHBOURS,
  };
}

async function transactionsOf(client, table, limit) {
  const ofTable = table.source ? sql`source_name => ${bind(table.source, 'text')}` : sql`${bind(regclassText(table), 'regclass')}`;
  const isOfTable = table.source ? sql` AND schema = ${bind(table.schema, 'text')} AND "table" = ${bind(table.name, 'text')}` : sql``;
  const query = sql`
WITH looked_at AS (SELECT * FROM bemi.find_changes(${ofTable}, ${limit}, newest => ${bind(LOOKED_AT, 'integer')})),
newest AS (
    SELECT min(id::text) AS id, max(committed_at) AS committed_at, count(*)::integer AS changes, (array_agg(context))[1] AS context
    FROM looked_at WHERE operation <> 'SNAPSHOT'${isOfTable} GROUP BY source, transaction_id, committed_at)
SELECT id, committed_at, ${textOfTime(sql`committed_at`)} AS at, changes, ${membersSql(sql`context`, SHORT)} AS context,
    (SELECT count(*)::integer FROM looked_at) AS looked_at
FROM newest ORDER BY committed_at, id`;
  const { rows } = await client.query(query.toQuery());
  return { isCapped: rows[0]?.looked_at === LOOKED_AT, list: rows.map(transactionOf) };
}

const transactionOf = row => ({ id: row.id, at: row.at, committedAt: row.committed_at, changes: row.changes, context: plain(members(row.context)) });

const textOfTime = time => sql`to_char((${time}) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`;

// The moment just before a change, and the change's table; undefined if there is no such change.
export async function momentBefore(client, id) {
  const query = sql`SELECT ${textOfTime(sql`committed_at - interval '1 microsecond'`)} AS at, ${textOfTime(sql`committed_at`)} AS after,
        source, database, schema, "table"
    FROM bemi.changes_by_id(ARRAY[${bind(id, 'uuid')}])`;
  const { rows: [row] } = await client.query(query.toQuery());
  return row && { ...row, before: id };
}
