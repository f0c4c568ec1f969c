// postgres.js: its tagged templates, helpers, cursors and transactions. Texts that vary must not fill the server with
// prepared statements.

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import test, { before } from 'node:test';
import { currentContext, withContext } from 'bemi';
import { hook } from 'bemi/postgres';
import postgres from 'postgres';
import { assertAllHave, atEnd, changes, server, trackedDatabase, versionOf } from './setup.js';
import { testStack } from './stack.js';

hook(postgres);

// PgBouncer before 1.21 has no prepared statements.
const open = ({ pooled, ...options }) => postgres({ onnotice: () => {}, prepare: !pooled, ...options });

const file = join(tmpdir(), `bemi-postgres-${process.pid}.sql`);

testStack({
  name: 'postgres.js',
  version: versionOf('postgres'),
  open,
  close: db => db.end(),
  ways: {
    'tagged, no parameters': [1, sql => sql`insert into todo (task) values ('tagged /* '' -- ')`],
    'tagged, parameters': [3, (sql, ids) => sql`delete from todo where id = any (${ids})`],
    'a name and a semicolon': [1, (sql, [id]) => sql`delete from ${sql('todo')} where id = ${id};`],
    'a comment at the end': [1, (sql, [id]) => sql`delete from todo where id = ${id} -- why`],
    'insert helper': [2, (sql, ids, task) => sql`insert into todo ${sql([{ task: task() }, { task: task() }], 'task')}`],
    'update helper': [1, (sql, [id], task) => sql`update todo set ${sql({ task: task(), done: true })} where id = ${id}`],
    upsert: [2, async (sql, [id], task) => {
      for (const key of [id, -id]) await sql`insert into todo (id, task) values (${key}, ${task()}) on conflict (id) do update set task = excluded.task`;
    }],
    'fragments at both ends': [2, (sql, ids) => sql`${sql`update ${sql('todo')}`} set done = true ${sql`where id in ${sql(ids.slice(1))}`}`],
    unsafe: [1, (sql, [id]) => sql.unsafe(`delete from todo where id = ${id}`)],
    'unsafe with parameters': [1, (sql, [id]) => sql.unsafe('delete from todo where id = $1', [id])],
    'unsafe and prepared': [1, (sql, [id]) => sql.unsafe('delete from todo where id = $1', [id], { prepare: true })],
    'several statements': [2, (sql, [id], task) => sql.unsafe(`insert into todo (task) values ('${task()}'); select 1; delete from todo where id = ${id}`)],
    'simple()': [2, (sql, [id], task) => sql`insert into todo (task) values ('simple'); delete from todo where task = 'simple'`.simple()],
    'a file': [1, (sql, [id]) => { writeFileSync(file, `delete from todo where id = ${id}`); return sql.file(file); }],
    'a file with parameters': [1, (sql, [id]) => { writeFileSync(file, 'delete from todo where id = $1'); return sql.file(file, [id]); }],
    'execute()': [1, async (sql, [id]) => { await sql`delete from todo where id = ${id}`.execute(); }],
    'values()': [1, async (sql, [id]) => assert.deepEqual([...await sql`update todo set done = true where id = ${id} returning done`.values()], [[true]])],
    'catch() and finally()': [2, (sql, [a, b]) => Promise.all([sql`delete from todo where id = ${a}`.catch(assert.fail), sql`delete from todo where id = ${b}`.finally(() => {})])],
    'forEach() that writes': [3, async (sql, ids) => {
      const work = [];
      await sql`select id from todo where id in ${sql(ids)}`.forEach(({ id }) => { work.push(sql`delete from todo where id = ${id}`.execute()); });
      await Promise.all(work);
    }],
    'cursor() with a function that writes': [3, (sql, ids) => sql`select id from todo where id in ${sql(ids)}`.cursor(1, async ([{ id }]) => { await sql`delete from todo where id = ${id}`; })],
    'cursor() as an iterator': [2, async (sql, ids, task) => {
      let count = 0;
      for await (const rows of sql`insert into todo (task) values (${task()}), (${task()}) returning id`.cursor(1)) count += rows.length;
      assert.equal(count, 2);
    }],
    'COPY FROM STDIN': [2, async (sql, ids, task) => pipeline([`${task()}\n${task()}\n`], await sql`copy todo (task) from stdin`.writable())],
    'reserve()': [1, async (sql, [id]) => {
      const reserved = await sql.reserve();
      await reserved`delete from todo where id = ${id}`;
      reserved.release();
    }],
    'begin() with an array': [2, (sql, ids, task) => sql.begin(sql => [sql`insert into todo (task) values (${task()})`, sql`insert into todo (task) values (${task()})`])],
    'merge into CTE': [1, (sql, ids, task) => sql`with x as (select ${task()} as task) insert into todo (task) select task from x`],
  },
  insert: (sql, task) => sql`insert into todo (task) values (${task})`,
  lazy: (sql, task) => sql`insert into todo (task) values (${task})`,
  transaction: (sql, work) => sql.begin(work),
  savepoint: (sql, work) => sql.savepoint(work),
});

let client;
before(async () => { client = await trackedDatabase('test_postgresjs'); });

const connect = options => {
  const sql = open({ ...server('test_postgresjs'), ...options });
  atEnd(() => sql.end());
  return sql;
};

test('200 contexts leave no prepared statement, and queries without a context are prepared as ever', async () => {
  const sql = connect({ max: 1 });
  const count = async () => (await sql.unsafe("select count(*)::int from pg_prepared_statements"))[0].count;
  const before = await count();
  for (let i = 0; i < 200; i++) await withContext({ i }, () => sql`insert into todo (task) values (${`200 ${i}`})`);
  assert.equal(await count(), before);
  for (let i = 0; i < 5; i++) await sql`insert into todo (task) values (${`none ${i}`})`;
  for (let i = 0; i < 5; i++) await withContext({ i }, () => sql`select count(*) from todo where id > ${i}`);
  assert.equal(await count(), before + 2);
  const found = await changes(client, "after ->> 'task' LIKE '200 %'");
  assert.deepEqual(found.map(({ context }) => context.i), Array.from({ length: 200 }, (_, i) => i));
});

test('errors, with and without a context', async () => {
  const sql = connect({ max: 1 });
  for (const context of [undefined, { a: 1 }]) {
    await withContext(context, async () => {
      const error = await sql`insert into nowhere values (${1})`.catch(error => error);
      assert.equal(error.code, '42P01');
      assert.match(error.stack, /postgres\.test\.js/);
      await assert.rejects(sql`insert into todo (task) values (${null})`, { code: '23502' });
      await assert.rejects(async () => sql`insert into todo (task) values (${undefined})`, { code: 'UNDEFINED_VALUE' });
    });
  }
});

test('describe() of a statement', async () => {
  const sql = connect({ max: 1 });
  const { types } = await withContext({ a: 1 }, () => sql`insert into todo (task) values (${'x'})`.describe());
  assert.deepEqual(types, [25]);
});

test('what a cursor calls has the context of the code that runs the query', async () => {
  const sql = connect({ max: 1 });
  await withContext({ a: 0 }, () => sql`select 1`);
  const seen = [];
  await withContext({ a: 1 }, async () => {
    await sql`select generate_series(1, 3)`.cursor(2, () => { seen.push(currentContext().a); });
    await sql`select generate_series(1, 2)`.forEach(() => { seen.push(currentContext().a); });
    await sql.begin(async sql => { await sql`select 1`; seen.push(currentContext().a); });
  });
  assert.deepEqual(seen, [1, 1, 1, 1, 1]);
});

// All channels share a connection, which the first listener opens.
test('what listen() and onnotice call does not have the context of the code that opened the connection', async () => {
  const seen = [];
  const sql = connect({ max: 1, onnotice: () => seen.push(currentContext()) });
  const heard = [1, 2].map(a => new Promise(resolve => withContext({ a }, async () => {
    await sql.listen(`channel_${a}`, () => resolve(currentContext()?.a));
    await sql`do ${sql.unsafe("$$ begin raise notice 'x'; end $$")}`;
    await sql.notify(`channel_${a}`, '');
  })));
  assert.deepEqual(await Promise.all(heard), [undefined, undefined]);
  assert.deepEqual(seen, [undefined, undefined]);
});

test('a context that was written by hand is kept', async () => {
  const sql = connect({ max: 1 });
  await withContext({ by: 'bemi' }, () => sql`insert into todo (task) values (${'by hand'}) /*Bemi {"by": "hand"} Bemi*/`);
  assertAllHave({ by: 'hand' }, await changes(client, "after ->> 'task' = 'by hand'"), 1);
});

test('hook() hooks once, and takes nothing else', () => {
  const { prototype } = postgres({ max: 1 })``.constructor;
  const { handle } = prototype;
  assert.equal(hook(postgres), postgres);
  assert.equal(prototype.handle, handle);
  for (const wrong of [undefined, {}, () => () => ({})]) assert.throws(() => hook(wrong), /hook\(postgres\)/);
});
