// What the tests share: a new database for each file, on the server that PGHOST names.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { after } from 'node:test';
import pg from 'pg';

// What to do at the end of the file, last first. (after() within before() would not wait for the tests.)
const endings = [];
export const atEnd = ending => endings.push(ending);
after(async () => {
  for (const ending of endings.reverse()) await ending();
});

const TABLES = `
  CREATE TABLE todo (id serial PRIMARY KEY, task text NOT NULL UNIQUE, done boolean NOT NULL DEFAULT false);
  CREATE TABLE tag (id serial PRIMARY KEY, name text NOT NULL)`;

const BEMI = [
  'CREATE EXTENSION bemi',
  "SELECT bemi.track('todo'), bemi.track('tag')",
  'CALL bemi.start()',
];

/** The version of an installed package. */
export const versionOf = name =>
  JSON.parse(readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url), 'utf8')).version;

/** The options of a connection; behind PgBouncer in transaction mode, if there is one. */
export const server = database => ({ host: process.env.PGHOST, user: process.env.PGUSER, database });
export const pooler = database => ({ ...server(database), host: process.env.BEMI_POOLER, port: 6432 });

export async function connect(database) {
  const client = new pg.Client(server(database));
  await client.connect();
  return client;
}

export async function onServer(...statements) {
  const client = await connect('postgres');
  for (const sql of statements) await client.query(sql);
  await client.end();
}

// Pools close their connections without waiting for the server. An error of one that was closed would end the process.
const WAIT_UNTIL_UNUSED = `DO $$
  BEGIN
    FOR i IN 1 .. 3000 LOOP
      EXIT WHEN NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'NAME' AND backend_type = 'client backend');
      PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
    END LOOP;
  END $$`;

/** A database with tracked tables, which is dropped at the end of the file, and a connection to it. */
export async function trackedDatabase(name, options = '') {
  await onServer(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`, `CREATE DATABASE ${name} ${options}`);
  atEnd(() => onServer(WAIT_UNTIL_UNUSED.replaceAll('NAME', name), `DROP DATABASE ${name} WITH (FORCE)`));
  const client = await connect(name);
  atEnd(() => client.end());
  for (const sql of [TABLES, ...BEMI]) await client.query(sql);
  return client;
}

/** All changes that fulfil the condition, when they are stored. */
export async function changes(client, condition = 'true', params = []) {
  await client.query("SELECT bemi.sync('60s')");
  const { rows } = await client.query(
    `SELECT "table", operation, before, after, context FROM bemi.changes WHERE ${condition} ORDER BY id`, params);
  return rows;
}

/** The warnings of bemi that the process has emitted while the function ran. */
export async function warningsOf(fn, code = 'BEMI_CONTEXT') {
  const warnings = [];
  const collect = warning => warning.code === code && warnings.push(warning.message);
  process.on('warning', collect);
  await fn();
  // They are emitted with the next tick.
  await new Promise(resolve => setImmediate(resolve));
  process.off('warning', collect);
  return warnings;
}

export function assertAllHave(context, changed, count) {
  assert.equal(changed.length, count, `${changed.length} changes: ${JSON.stringify(changed)}`);
  for (const change of changed) assert.deepEqual(change.context, context);
}
