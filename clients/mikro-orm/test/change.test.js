// Reading the history: the entity, the filters, and that MikroORM's schema tools change nothing of bemi.

import assert from 'node:assert/strict';
import test, { before } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { Change, findChanges, whereChange, withBemiContext } from 'bemi-mikro-orm';
import { changes, connect, Tag, Todo, trackedDatabase } from './setup.js';

let orm;
let middle;

before(async () => {
  orm = await trackedDatabase('test_change');
  const em = orm.em.fork();
  await withBemiContext({ user: 1, at: { page: 'a' } }, () => em.insertMany(Todo, [{ id: 1, task: 'a' }, { id: 2, task: 'b' }]));
  await withBemiContext({ user: 1 }, () => em.insert(Tag, { id: 1, name: 'x' }));
  // JavaScript's time has no microseconds: the change before must not be of the same millisecond.
  [{ middle }] = await em.execute('SELECT clock_timestamp() AS middle FROM pg_sleep(0.002)');
  await withBemiContext({ user: 2 }, () => em.nativeUpdate(Todo, { id: 1 }, { done: true }));
  await withBemiContext({ user: 1, note: "it's ?", odd: 'a\0\ud800b' }, () => em.execute('insert into todo_tags values (1, 1)'));
  await em.nativeDelete(Todo, { id: 2 });
  await changes(orm);
});

const found = async (filter, options) =>
  (await findChanges(orm.em.fork(), filter, options)).map(c => `${c.operation} ${c.table} ${c.primaryKey}`);

test('a change has all that bemi.changes has', async () => {
  const [change] = await findChanges(orm.em.fork(), { table: 'todo', operation: 'UPDATE' });
  assert.ok(change instanceof Change);
  const { id, committedAt, queuedAt, createdAt, transactionId, position, ...rest } = change;
  assert.match(id, /^[0-9a-f-]{36}$/);
  for (const time of [committedAt, queuedAt, createdAt]) assert.ok(Math.abs(time - Date.now()) < 600000);
  for (const number of [transactionId, position]) assert.ok(BigInt(number) > 0n);
  assert.deepEqual({ ...rest }, {
    source: 'main', database: 'test_change', schema: 'public', table: 'todo', primaryKey: '1', operation: 'UPDATE',
    before: { id: 1, task: 'a', done: false }, after: { id: 1, task: 'a', done: true }, context: { user: 2 },
  });
});

test('filters by table, key, context, operation and time', async () => {
  const all = ['CREATE todo 1', 'CREATE todo 2', 'CREATE tag 1', 'UPDATE todo 1', 'CREATE todo_tags ["1", "1"]', 'DELETE todo 2'];
  assert.deepEqual(await found(), all);
  assert.deepEqual(await found({ table: 'tag' }), [all[2]]);
  assert.deepEqual(await found({ schema: 'public', table: 'todo', key: 1 }), [all[0], all[3]]);
  assert.deepEqual(await found({ key: [1, 1] }), [all[4]]);
  assert.deepEqual(await found({ context: { user: 1 } }), [all[0], all[1], all[2], all[4]]);
  assert.deepEqual(await found({ context: { at: { page: 'a' } }, key: '2' }), [all[1]]);
  assert.deepEqual(await found({ context: { note: "it's ?" } }), [all[4]]);
  assert.deepEqual(await found({ context: { odd: 'a\0\ud800b' } }), [all[4]]);
  assert.deepEqual(await found({ key: '1\0' }), []);
  assert.deepEqual(await found({ context: { user: undefined } }), []);
  assert.deepEqual(await found({ context: { at: { page: undefined } } }), []);
  assert.deepEqual(await found({ operation: 'DELETE' }), [all[5]]);
  assert.deepEqual(await found({ from: middle }), all.slice(3));
  assert.deepEqual(await found({ to: middle }), all.slice(0, 3));
  assert.deepEqual(await found({ from: '2000-01-01', to: new Date(0) }), []);
  assert.deepEqual(await found({}, { orderBy: { id: 'desc' }, limit: 1, offset: 1 }), [all[4]]);
  assert.equal(await orm.em.fork().count(Change, whereChange({ context: { user: 1 } })), 4);
});

test('rows without a key are found by null, and no others', async () => {
  const em = orm.em.fork();
  await em.execute('CREATE TABLE note (text text)');
  await em.execute("SELECT bemi.track('note')");
  await em.execute("INSERT INTO note VALUES ('null')");
  await changes(orm);
  assert.deepEqual(await found({ key: null }), ['CREATE note null']);
  await em.execute('DROP TABLE note');
});

test('the filters use the indexes', async () => {
  const em = orm.em.fork();
  const plan = async filter => {
    const queries = [];
    const logging = await connect('test_change', { debug: ['query-params', 'query'], logger: line => queries.push(stripVTControlCharacters(line)) });
    await findChanges(logging.em.fork(), filter);
    const query = /(select .*?bemi\.changes.*?) \[took/.exec(queries.find(line => line.includes('bemi.changes')))[1];
    return em.transactional(async inner => {
      await inner.execute('SET LOCAL enable_seqscan = off');
      return JSON.stringify(await inner.execute(`explain ${query}`));
    });
  };
  assert.match(await plan({ schema: 'public', table: 'todo', key: 1 }), /Index (Only )?Scan|Index Cond/);
  assert.match(await plan({ context: { user: 1 } }), /Bitmap Index Scan/);
});

test('changes cannot be written', async () => {
  const em = orm.em.fork();
  const [change] = await findChanges(em, {}, { limit: 1 });
  change.context = { user: 'somebody else' };
  await em.flush();
  assert.notDeepEqual((await findChanges(orm.em.fork(), {}, { limit: 1 }))[0].context, change.context);
});

test('a schema update leaves bemi alone, as the configuration of the README has it', async () => {
  const careful = await connect('test_change', { schemaGenerator: { ignoreSchema: ['bemi', '_bemi'], ignoreTriggers: true } });
  assert.doesNotMatch(await careful.schema.getUpdateSchemaSQL(), /bemi/);
  assert.doesNotMatch(await careful.schema.getCreateSchemaSQL(), /bemi/);
});
