// Taking back: plans of bemi.plan_revert(), what bemi.revert() and bemi.restore() do, and what they have done.
//
// A target says what is to be taken back: { changes: [ID, ...] }, { transaction: ID } or { context, from, to }, with a context as JSON.

import { bind, join, named, sql } from './sql.js';
import { changedFields, fieldsInOrder, keyParts, members, membersSql, MOST_MEMBERS, NONE, plain } from './values.js';
import { jsonOfChoices } from './choices.js';
import { conditionsOf, objectText, regclassText, searchRows } from '../search/statement.js';

const LONG = 20_000;
const STEPS = 200;
export const MOST_CHANGES = 1000;

// What a search means as a target. { tooMany: true } if it finds more changes than can be named.
export async function targetOfSearch(client, meaning) {
  const { table, operations, column, source, context, texts, conditions, from, to } = meaning;
  const isContext = !table && !operations && !column && !source && texts.size + conditions.length === 0 && (context.size > 0 || from);
  if (isContext) return { context: objectText(context), from: from?.instant.toISOString(), to: to?.instant.toISOString() };
  const { rows } = searchRows(meaning, { limit: MOST_CHANGES + 1 });
  const where = join([sql`c.operation <> 'SNAPSHOT'`, ...conditionsOf(meaning)], ' AND ');
  const found = await client.query(sql`SELECT c.id FROM ${rows} c WHERE ${where}`.toQuery());
  return found.rowCount > MOST_CHANGES ? { tooMany: true } : { changes: found.rows.map(row => row.id) };
}

function argumentsOf({ changes, transaction, context, from, to }, { mode, choices }) {
  const args = [sql`mode => ${bind(mode, 'text')}`];
  if (changes) args.push(sql`changes => ${bind(changes, 'uuid[]')}`);
  if (transaction) args.push(sql`transaction_of => ${bind(transaction, 'uuid')}`);
  if (context) args.push(sql`context => ${bind(context, 'jsonb')}`);
  if (from) args.push(sql`from_time => ${bind(from, 'timestamptz')}`);
  if (to) args.push(sql`to_time => ${bind(to, 'timestamptz')}`);
  if (choices.size > 0) args.push(sql`choices => ${bind(jsonOfChoices(choices), 'jsonb')}`);
  return join(args, ', ');
}

// { hash, steps, counts, rows, unwritable, others, isCut }. Rows with a conflict come first, then those that are written, then those that stay.
// Of each of them, a long plan is cut.
export async function planOf(client, target, { mode, choices, facts }) {
  const query = sql`
WITH plan AS MATERIALIZED (SELECT * FROM bemi.plan_revert(${argumentsOf(target, { mode, choices })})),
ranked AS (
    SELECT p.*, min(CASE p.verdict WHEN 'conflict' THEN 0 WHEN 'ok' THEN 1 ELSE 2 END) OVER of_row AS rank, min(p.step) OVER of_row AS first_step
    FROM plan p WINDOW of_row AS (PARTITION BY p.table_name, p.key)),
numbered AS (
    SELECT r.*, row_number() OVER (PARTITION BY r.rank ORDER BY r.first_step, r.verdict = 'ok', r.step) AS place FROM ranked r),
shown AS (
    SELECT p.rank, p.place, p.step, left(p.statement, ${bind(LONG, 'integer')}) AS statement, p.table_name, p.key, p.columns, p.verdict, p.reason,
        p.value_now IS NULL AS comes_back, p.value_after IS NULL AS is_removed, cardinality(p.change_ids) AS changes,
        ${membersSql(sql`coalesce(p.value_now, '{}')`, LONG, MOST_MEMBERS)} AS now, ${membersSql(sql`coalesce(p.value_after, '{}')`, LONG, MOST_MEMBERS)} AS after
    FROM numbered p WHERE p.place <= ${bind(STEPS, 'integer')})
SELECT (SELECT jsonb_agg(to_jsonb(s) ORDER BY s.rank, s.place) FROM shown s) AS steps,
    (SELECT jsonb_object_agg(v.verdict, v.steps) FROM (SELECT p.verdict, count(*)::integer AS steps FROM plan p GROUP BY p.verdict) v) AS counts,
    (SELECT count(*)::integer FROM (SELECT DISTINCT p.table_name, p.key FROM plan p WHERE p.verdict = 'ok') r) AS rows,
    (SELECT jsonb_agg(DISTINCT w.table_name) FROM (${writesSql}) w WHERE NOT w.may) AS unwritable,
    (SELECT min(p.plan_hash) FROM plan p) AS hash`;
  const { rows: [plan] } = await client.query(query.toQuery());
  const counts = { ok: 0, conflict: 0, skip: 0, ...plan.counts };
  const steps = (plan.steps ?? []).map(step => stepOf(step, facts));
  return {
    hash: plan.hash,
    steps,
    counts,
    rows: plan.rows,
    isCut: counts.ok + counts.conflict + counts.skip > steps.length,
    unwritable: plan.unwritable ?? [],
    others: await changesById(client, steps.map(step => step.reason?.change).filter(Boolean)),
  };
}

// What the plan writes in each table, and whether the role may. A table that is not there any more has no step to carry out.
const writesSql = sql`
    SELECT DISTINCT p.table_name, has_table_privilege(p.table_name, CASE WHEN p.value_now IS NULL THEN 'INSERT' ELSE 'DELETE' END) AS may
    FROM plan p WHERE p.verdict = 'ok' AND num_nulls(p.value_now, p.value_after) = 1
    UNION ALL
    SELECT u.table_name, has_column_privilege(u.table_name, u.name, 'UPDATE')
    FROM (SELECT DISTINCT p.table_name, unnest(p.columns) AS name FROM plan p
        WHERE p.verdict = 'ok' AND num_nulls(p.value_now, p.value_after) = 0) u`;

function stepOf(row, facts) {
  const [now, after] = [row.now, row.after].map(list => new Map(members(list).map(({ name, value }) => [name, value])));
  const columns = facts.tables.find(table => regclassNames(table).includes(row.table_name))?.columns;
  const names = row.columns ?? [...new Set([...now.keys(), ...after.keys()])];
  return {
    number: row.step,
    statement: row.statement,
    table: withoutSchema(row.table_name),
    tableName: row.table_name,
    key: keyParts(row.key),
    keyText: row.key,
    kind: row.is_removed ? 'delete' : row.comes_back ? 'insert' : 'update',
    fields: fieldsInOrder(names.map(name => ({ name, old: now.get(name) ?? NONE, new: after.get(name) ?? NONE })), columns),
    isOfRow: row.columns?.length !== 1,
    verdict: row.verdict,
    reason: row.reason ? reasonOf(row.reason) : undefined,
    changes: row.changes,
  };
}

// PostgreSQL writes quotes only where a name needs them.
function regclassNames({ schema, name }) {
  const either = text => [text, `"${text.replaceAll('"', '""')}"`];
  return either(schema).flatMap(first => either(name).map(second => `${first}.${second}`));
}

// The name as people say it. The full name is in the statement.
const withoutSchema = name => name.replace(/^(?:"(?:[^"]|"")*"|[^".]+)\./, '').replace(/^"(.*)"$/s, '$1').replaceAll('""', '"');

const BY_CHANGE = /^(value was changed|row was changed|row was inserted|row was deleted|row was truncated|has been taken back already|has been undone already) by change ([0-9a-f-]{36})/;

// What mode force overwrites, too.
const OVERWRITTEN = /^(value was changed by|row was (changed|inserted) by|value is not in the history|column ".*" has a value that is not in)/s;

// { kind, change, text, isDone, mayRestore }: what bemi gives as the reason, and the change in it.
function reasonOf(text) {
  const [, kind, change] = BY_CHANGE.exec(text) ?? [];
  return { kind: kind?.replaceAll(' ', '_'), change, text, isDone: text.startsWith('has been '), mayRestore: OVERWRITTEN.test(text) };
}

// A map of some changes by their ids: { committedAt, context }.
async function changesById(client, ids) {
  if (ids.length === 0) return new Map();
  const query = sql`SELECT id, committed_at, ${membersSql(sql`context`, 400)} AS context
    FROM bemi.changes_by_id(${bind([...new Set(ids)], 'uuid[]')})`;
  const { rows } = await client.query(query.toQuery());
  return new Map(rows.map(row => [row.id, { committedAt: row.committed_at, context: plain(members(row.context)) }]));
}

const setContext = (client, context) =>
  client.query(sql`SELECT bemi.set_context(${bind(JSON.stringify(context), 'jsonb')})`.toQuery());

// In a transaction that may write. Returns { steps, skipped }. It fails if the plan is another one than "expect".
export async function revert(client, target, { mode, choices, expect, context }) {
  await setContext(client, context);
  const query = sql`SELECT steps, skipped FROM bemi.revert(${argumentsOf(target, { mode, choices })}, expect => ${bind(expect, 'text')})`;
  const { rows: [result] } = await client.query(query.toQuery());
  return { steps: Number(result.steps), skipped: Number(result.skipped) };
}

// ---- one row

const momentSql = ({ at, before }) =>
  before ? sql`before => ${bind(before, 'uuid')}` : sql`at => ${bind(at, 'timestamptz')}`;

// What bemi.restore() would do: { action, fields, hash }. action is that of bemi.restore().
export async function restorationOf(client, { table, primaryKey, moment }) {
  const image = arguments_ => sql`(SELECT to_jsonb(r) - ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = ${bind(regclassText(table), 'regclass')} AND a.attgenerated <> '')
    FROM bemi.row_as_of(NULL::${named(table)}, ${bind(primaryKey, 'text')}, ${arguments_}) r)`;
  const query = sql`
WITH image AS MATERIALIZED (SELECT ${image(momentSql(moment))} AS former, ${image(sql`at => clock_timestamp()`)} AS present),
differing AS (
    SELECT i.*, ARRAY(SELECT k FROM jsonb_object_keys(i.former) k WHERE (i.former -> k)::text IS DISTINCT FROM (i.present -> k)::text) AS names FROM image i),
done AS (
    SELECT d.former, d.present, d.names, CASE WHEN d.former IS NULL AND d.present IS NULL OR d.names = '{}' AND d.present IS NOT NULL AND d.former IS NOT NULL THEN 'NONE'
        WHEN d.former IS NULL THEN 'DELETE' WHEN d.present IS NULL THEN 'INSERT' ELSE 'UPDATE' END AS action
    FROM differing d),
result AS (
    SELECT action,
        CASE action WHEN 'UPDATE' THEN (SELECT jsonb_object_agg(k, present -> k) FROM unnest(names) k) WHEN 'DELETE' THEN present END AS value_before,
        CASE action WHEN 'UPDATE' THEN (SELECT jsonb_object_agg(k, former -> k) FROM unnest(names) k) WHEN 'INSERT' THEN former END AS value_now
    FROM done)
SELECT action, ${membersSql(sql`coalesce(value_before, '{}')`, LONG, MOST_MEMBERS)} AS now, ${membersSql(sql`coalesce(value_now, '{}')`, LONG, MOST_MEMBERS)} AS after,
    ${hashSql} AS hash
FROM result`;
  const { rows: [row] } = await client.query(query.toQuery());
  const [now, after] = [row.now, row.after].map(list => new Map(list));
  const names = [...new Set([...now.keys(), ...after.keys()])];
  return {
    action: row.action,
    hash: row.hash,
    fields: changedFields(names.map(name => [name, now.get(name) ?? [], after.get(name) ?? []]), table.columns),
  };
}

const hashSql = sql`md5(jsonb_build_array(action, value_before, value_now)::text)`;

// The row was not as it was shown, so nothing is done.
export class Different extends Error {}

// In a transaction that may write.
export async function restore(client, { table, primaryKey, moment }, { expect, context }) {
  await setContext(client, context);
  const query = sql`SELECT ${hashSql} AS hash
    FROM bemi.restore(${bind(regclassText(table), 'regclass')}, ${bind(primaryKey, 'text')}, ${momentSql(moment)})`;
  const { rows: [row] } = await client.query(query.toQuery());
  if (row.hash !== expect) throw new Different();
  return { steps: 1, skipped: 0 };
}

// Waits until what was committed is in the history.
export const sync = client => client.query("SELECT bemi.sync('5 seconds')");
