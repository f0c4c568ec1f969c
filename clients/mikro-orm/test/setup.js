// What the tests share: a new database for each file, on the server that PGHOST names.

import assert from 'node:assert/strict';
import { after } from 'node:test';
import { EntitySchema, MikroORM, Utils } from '@mikro-orm/postgresql';
import { Change } from 'bemi-mikro-orm';

export const isVersion7 = Utils.getORMVersion().startsWith('7.');

const server = { host: process.env.PGHOST, user: process.env.PGUSER };

// What to do at the end of the file, last first. (after() within before() would not wait for the tests.)
const endings = [];
after(async () => {
  for (const ending of endings.reverse()) await ending();
});

export class Todo {}

new EntitySchema({
  class: Todo,
  tableName: 'todo',
  properties: {
    id: { type: 'number', primary: true },
    task: { type: 'text' },
    done: { type: 'boolean', default: false },
    tags: { kind: 'm:n', entity: () => Tag },
  },
});

export class Tag {}

new EntitySchema({
  class: Tag,
  tableName: 'tag',
  properties: { id: { type: 'number', primary: true }, name: { type: 'text' } },
});

const TABLES = `
  CREATE TABLE todo (id serial PRIMARY KEY, task text NOT NULL UNIQUE, done boolean NOT NULL DEFAULT false);
  CREATE TABLE tag (id serial PRIMARY KEY, name text NOT NULL);
  CREATE TABLE todo_tags (todo_id int REFERENCES todo ON DELETE CASCADE, tag_id int REFERENCES tag, PRIMARY KEY (todo_id, tag_id))`;

const BEMI = [
  'CREATE EXTENSION bemi',
  "SELECT bemi.track('todo'), bemi.track('tag'), bemi.track('todo_tags')",
  'CALL bemi.start()',
];

export async function onServer(...statements) {
  const orm = await MikroORM.init({ ...server, dbName: 'postgres', entities: [Tag], ...quiet });
  for (const sql of statements) await orm.em.fork().execute(sql);
  await orm.close();
}

const quiet = { discovery: { warnWhenNoEntities: false } };

export async function connect(dbName, options) {
  const orm = await MikroORM.init({ ...server, dbName, entities: [Todo, Tag, Change], ...quiet, ...options });
  endings.push(() => orm.close());
  return orm;
}

/** An empty database that is dropped at the end of the file. */
export async function newDatabase(name, options = '') {
  await onServer(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`, `CREATE DATABASE ${name} ${options}`);
  endings.push(() => onServer(`DROP DATABASE ${name} WITH (FORCE)`));
}

/** A database with tracked tables, and MikroORM connected to it. */
export async function trackedDatabase(name, { database, ...options } = {}) {
  await newDatabase(name, database);
  const orm = await connect(name, options);
  for (const sql of [TABLES, ...BEMI]) await orm.em.fork().execute(sql);
  return orm;
}

/** What is committed from now on is read. bemi.start(wait => false) alone does not wait for that. */
export const started = orm => orm.em.fork().execute("SELECT bemi.sync('60s')");

/** All changes that fulfil the condition, when they are stored. */
export async function changes(orm, condition = 'true', params = []) {
  const em = orm.em.fork();
  await started(orm);
  return em.execute(
    `SELECT "table", operation, before, after, context FROM bemi.changes WHERE ${condition} ORDER BY id`,
    params,
  );
}

/** The warnings of bemi that the process has emitted while the function ran. */
export async function warningsOf(fn) {
  const warnings = [];
  const collect = warning => warning.code === 'BEMI_CONTEXT' && warnings.push(warning.message);
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
