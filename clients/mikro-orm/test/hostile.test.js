// What users type, in the context and in the rows, through MikroORM into the history and out again.

import assert from 'node:assert/strict';
import test, { before } from 'node:test';
import { withBemiContext } from 'bemi-mikro-orm';
import { hostileStrings, stored } from '../shared/hostile.js';
import { changes, Todo, trackedDatabase, warningsOf } from './setup.js';

let orm;

before(async () => { orm = await trackedDatabase('test_hostile'); });

const WAYS = {
  flush: (em, task) => { em.create(Todo, { task, done: false }); return em.flush(); },
  'native insert': (em, task) => em.insert(Todo, { task, done: false }),
  'execute with parameters': (em, task) => em.execute('insert into todo (task, done) values (?, ?)', [task, false]),
  'execute without': (em, task) => em.execute(`insert into todo (task) values ('${task.replaceAll("'", "''")}')`),
  'query builder': (em, task) => em.createQueryBuilder(Todo).insert({ task, done: false }).execute(),
};

for (const [way, write] of Object.entries(WAYS)) {
  test(`hostile strings in context and row: ${way}`, async () => {
    const strings = hostileStrings(400);
    for (const [i, string] of strings.entries()) {
      await withBemiContext({ way, i, [`k${string}`]: string }, () =>
        // Text of PostgreSQL holds neither NUL nor half a pair.
        write(orm.em.fork(), `${way} ${i} ${stored(string).replaceAll('\ufffd', '')}`),
      );
    }
    const changed = await changes(orm, 'context @> ?', [JSON.stringify({ way })]);
    assert.equal(changed.length, strings.length);
    for (const [i, string] of strings.entries()) {
      const context = stored({ way, i, [`k${string}`]: string });
      assert.deepEqual(changed[i].context, context);
      assert.equal(changed[i].after.task, `${way} ${i} ${stored(string).replaceAll('\ufffd', '')}`);
    }
  });
}

test('a row that looks like a context is none', async () => {
  const task = '/*Bemi {"userId": 0} Bemi*/';
  await orm.em.fork().execute('insert into todo (task) values (?)', [task]);
  await orm.em.fork().execute(`insert into todo (task) values ('x${task}')`);
  const changed = await changes(orm, 'after ->> \'task\' LIKE ?', ['%{"userId": 0} Bemi*/']);
  assert.deepEqual(changed.filter(change => change.context.userId !== undefined), []);
  assert.ok(changed.length >= 2);
});

test('what is not a context goes through as bemiError', async () => {
  const cycle = {};
  cycle.self = cycle;
  const bad = { cycle, bigint: { id: 1n }, large: { big: '*/ ?'.repeat(300000) } };
  for (const [name, context] of Object.entries(bad)) {
    const warnings = await warningsOf(() =>
      withBemiContext(context, async () => {
        for (let i = 0; i < 3; i++) await orm.em.fork().insert(Todo, { task: `${name} ${i}`, done: false });
      }),
    );
    assert.equal(warnings.length, 1);
    const changed = await changes(orm, "after ->> 'task' LIKE ?", [`${name} _`]);
    assert.equal(changed.length, 3);
    for (const change of changed) assert.deepEqual(Object.keys(change.context), ['bemiError']);
  }
});

test('the server takes all that the client lets through: 1 MB, 10000 keys, 500 levels, numbers', async () => {
  const nested = JSON.parse('{"a":'.repeat(500) + '1' + '}'.repeat(500));
  for (const [name, context] of Object.entries({
    'size 1': { big: 'x'.repeat(1024 * 1024 - 10) },
    'size 2': { big: '\u{1f600}'.repeat(87000) },
    'size 3': { big: '*/ ?'.repeat(61000), '/*Bemi': '\\'.repeat(50000) },
    keys: { list: Array(9999).fill(0) },
    levels: nested,
    numbers: { list: [Number.MAX_VALUE, Number.MIN_VALUE, -0, 2 ** 64, 1e-300] },
  })) {
    await withBemiContext(context, () => orm.em.fork().insert(Todo, { task: name, done: false }));
    const [change] = await changes(orm, "after ->> 'task' = ?", [name]);
    assert.deepEqual(change.context, JSON.parse(JSON.stringify(context)), name);
  }
});

test('nothing was dropped, no change lacks its context', async () => {
  const [{ invalid_messages: invalid }] = await orm.em.fork().execute('SELECT invalid_messages::int FROM bemi.status');
  assert.equal(invalid, 0);
  assert.ok((await orm.em.fork().execute('SELECT count(*)::int AS count FROM todo'))[0].count > 2000);
});

test('a database in another encoding takes every query', async () => {
  const latin = await trackedDatabase('test_latin1', { database: "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0" });
  for (const [task, name] of [['a', 'é'], ['b', '€ 漢字 \u{1f600}']]) {
    await withBemiContext({ name }, () => latin.em.fork().insert(Todo, { task, done: false }));
  }
  const changed = await changes(latin);
  // What the encoding lacks is left out by the server, with a warning.
  assert.deepEqual(changed.map(change => [change.after.task, change.context]), [['a', { name: 'é' }], ['b', {}]]);
});
