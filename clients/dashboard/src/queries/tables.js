// Tables of this database, and the statements that track them.

import { bind, join, sql } from './sql.js';

const SHOWN = 500;
const RULES = ['ignore', 'redact', 'redact_hash'];

const TABLES = sql`
SELECT n.nspname AS schema, c.relname AS name, format('%I.%I', n.nspname, c.relname) AS target, pg_has_role(c.relowner, 'USAGE') AS "isOwned",
    t."table" IS NOT NULL AS "isTracked", coalesce(t.published, false) AS "isPublished", t.ignore, t.redact, t.redact_hash, t.problems
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN bemi.tracked t ON t."table" = c.oid
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'bemi', '_bemi', 'bemi_dashboard')`;

// [{ schema, name, target, isOwned, isTracked, ignore, redact, redact_hash, problems }], tracked ones first. target is the name as SQL writes it.
export async function listTables(client) {
  const query = sql`${TABLES} ORDER BY t."table" IS NULL, n.nspname, c.relname LIMIT ${bind(SHOWN, 'integer')}`;
  return (await client.query(query.toQuery())).rows;
}

// One of them, with its columns [{ name, type }].
export async function findTable(client, { schema, name }) {
  const query = sql`${TABLES} AND n.nspname = ${bind(schema, 'text')} AND c.relname = ${bind(name, 'text')}`;
  const { rows: [table] } = await client.query(query.toQuery());
  if (!table) return undefined;
  const columns = sql`
    SELECT attname AS name, format_type(atttypid, atttypmod) AS type FROM pg_attribute
    WHERE attrelid = ${bind(table.target, 'regclass')} AND attnum > 0 AND NOT attisdropped ORDER BY attnum`;
  return { ...table, columns: (await client.query(columns.toQuery())).rows };
}

// The statement for a table, to show and to run. rules: { ignore, redact, redact_hash }, lists of names. Only what differs is in it.
export function trackStatement(table, rules) {
  const isSame = rule => String([...table[rule] ?? []].sort()) === String([...rules[rule]].sort());
  const changed = RULES.filter(rule => !isSame(rule));
  const names = { ignore: sql`ignore`, redact: sql`redact`, redact_hash: sql`redact_hash` };
  const lists = changed.map(rule => sql`, ${names[rule]} => ${bind(rules[rule], 'name[]')}`);
  return sql`SELECT bemi.track(${bind(table.target, 'regclass')}${join(lists, '')})`;
}

export const untrackStatement = table => sql`SELECT bemi.untrack(${bind(table.target, 'regclass')})`;

// The call waits for transactions that write to the table, and other writers wait behind it. So it does not wait for long.
export async function runStatement(client, statement) {
  await client.query("SET LOCAL lock_timeout = '5s'");
  await client.query(statement.toQuery());
}
