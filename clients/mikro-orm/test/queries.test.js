// Each way in which MikroORM writes, in and outside of transactions: every changed row has the
// context, and without one has none.

import assert from 'node:assert/strict';
import test, { before } from 'node:test';
import { bemiContext, currentBemiContext, withBemiContext } from 'bemi-mikro-orm';
import { assertAllHave, changes, connect, isVersion7, Tag, Todo, trackedDatabase } from './setup.js';

let orm;
let version;

before(async () => {
  orm = await trackedDatabase('test_queries');
  [{ version }] = await orm.em.fork().execute("SELECT current_setting('server_version_num')::int AS version");
});

let counter = 0;
const task = () => `task ${++counter}`;
const make = em => em.create(Todo, { task: task(), done: false });

// Rows for a statement to work on, made without a context.
async function rows(count) {
  const em = orm.em.fork();
  const todos = Array.from({ length: count }, () => make(em));
  await em.flush();
  return todos.map(todo => todo.id);
}

const WAYS = {
  'flush, one insert': [1, async em => { make(em); await em.flush(); }],
  'flush, inserts in a batch': [5, async em => { for (let i = 0; i < 5; i++) make(em); await em.flush(); }],
  'flush, updates in a batch': [3, async (em, ids) => {
    for (const todo of await em.find(Todo, ids)) todo.task = task();
    await em.flush();
  }],
  'flush, one update': [1, async (em, [id]) => { (await em.findOneOrFail(Todo, id)).done = true; await em.flush(); }],
  'flush, deletes': [3, async (em, ids) => {
    for (const todo of await em.find(Todo, ids)) em.remove(todo);
    await em.flush();
  }],
  'flush, all at once': [4, async (em, [id1, id2]) => {
    (await em.findOneOrFail(Todo, id1)).task = task();
    em.remove(await em.findOneOrFail(Todo, id2));
    make(em);
    make(em);
    await em.flush();
  }],
  'flush, rows of a pivot table': [5, async (em, [id]) => {
    const todo = await em.findOneOrFail(Todo, id, { populate: ['tags'] });
    todo.tags.add(em.create(Tag, { name: 'a' }), em.create(Tag, { name: 'b' }));
    await em.flush();
    todo.tags.remove(todo.tags[0]);
    await em.flush();
  }],
  'em.insert': [1, em => em.insert(Todo, { task: task(), done: false })],
  'em.insertMany': [3, em => em.insertMany(Todo, [1, 2, 3].map(() => ({ task: task(), done: false })))],
  'em.nativeUpdate': [3, (em, ids) => em.nativeUpdate(Todo, { id: ids }, { done: true })],
  'em.nativeDelete': [3, (em, ids) => em.nativeDelete(Todo, { id: ids })],
  'em.upsert': [2, async (em, [id]) => {
    await em.upsert(Todo, { id, task: task(), done: true });
    await em.upsert(Todo, { task: task(), done: true });
  }],
  'em.upsertMany': [3, (em, [id]) => em.upsertMany(Todo, [{ id, task: task(), done: true }, { id: -id, task: task(), done: true }, { id: -id - 100000, task: task(), done: true }])],
  'query builder, insert': [1, em => em.createQueryBuilder(Todo).insert({ task: task(), done: false }).execute()],
  'query builder, update': [2, (em, ids) => em.createQueryBuilder(Todo).update({ done: true }).where({ id: ids.slice(1) }).execute()],
  'query builder, delete': [3, (em, ids) => em.createQueryBuilder(Todo).delete({ id: ids }).execute()],
  'em.execute, parameters': [1, em => em.execute('insert into todo (task) values (?)', [task()])],
  'em.execute, none': [1, em => em.execute(`insert into todo (task) values ('${task()} ?? \\? $1 :id')`)],
  'em.execute, line comment at the end': [1, em => em.execute('insert into todo (task) values (?) -- why', [task()])],
  'em.execute, semicolon': [1, em => em.execute('insert into todo (task) values (?) ; ', [task()])],
  'em.execute, two statements': [2, em => em.execute(`insert into todo (task) values ('${task()}'); insert into todo (task) values ('${task()}')`)],
  'em.execute, statements of several kinds': [2, em => em.execute(
    `select 1; ; insert into todo (task) values ('${task()};'); /* ; */ update todo set done = true where task = 'it''s; --';
     insert into todo (task) values ('${task()}') -- ;`)],
  'em.execute, placeholders in a literal': [1, (em, [id]) => em.execute("update todo set task = task || '\\?' || ? where id = ?", ['?', id])],
  'CTE that writes': [3, (em, ids) => em.execute(`with gone as (delete from todo where id in (${ids}) returning id) select count(*) from gone`)],
  'CTE before an insert': [1, em => em.execute('with x as (select ? as task) insert into todo (task) select task from x', [task()])],
  merge: [2, (em, [id]) => em.execute(
    `merge into todo t using (values (?::int, ?), (-1, ?)) v(id, task) on t.id = v.id
     when matched then update set task = v.task when not matched then insert (task) values (v.task)`,
    [id, task(), task()],
  ), { from: 150000 }],
  'connection.execute': [1, (em, ids, ctx) => em.getConnection().execute('insert into todo (task) values (?)', [task()], 'run', ctx)],
};

for (const [name, [count, write, { from = 0 } = {}]] of Object.entries(WAYS)) {
  for (const inTransaction of [false, true]) {
    test(`${name}${inTransaction ? ', in a transaction' : ''}`, async t => {
      if (version < from) return t.skip(`PostgreSQL ${from / 10000} or newer`);
      const ids = await rows(3);
      const context = { way: name, inTransaction };
      await withBemiContext(context, () =>
        inTransaction
          ? orm.em.fork().transactional(em => write(em, ids, em.getTransactionContext()))
          : write(orm.em.fork(), ids),
      );
      assertAllHave(context, await changes(orm, 'context @> ?', [JSON.stringify(context)]), count);
    });
  }
}

// The stream came with version 7.
if (isVersion7) test('writes within a stream of rows, and a stream that writes', async () => {
  await rows(300);
  const context = { way: 'stream' };
  let count = 0;
  await withBemiContext(context, async () => {
    const em = orm.em.fork();
    for await (const { id } of em.stream(Todo, { where: {}, orderBy: { id: 1 } })) {
      if (++count % 50 === 0) await orm.em.fork().nativeUpdate(Todo, { id }, { task: task() });
    }
    const sql = 'insert into todo (task) values (?), (?) returning id';
    for await (const _ of em.getConnection().stream(sql, [task(), task()])) count++;
  });
  assertAllHave(context, await changes(orm, 'context = ?', [JSON.stringify(context)]), Math.floor((count - 2) / 50) + 2);
});

test('truncate', async () => {
  await withBemiContext({ way: 'truncate' }, () => orm.em.fork().execute('truncate todo_tags'));
  const changed = await changes(orm, "operation = 'TRUNCATE'");
  assertAllHave({ way: 'truncate' }, changed, 1);
});

test('bemiContext within a transaction colours what comes after it', async () => {
  const mark = task();
  await withBemiContext(null, () => orm.em.fork().transactional(async em => {
    em.create(Todo, { task: `${mark} a`, done: false });
    await em.flush();
    bemiContext({ step: 1 });
    em.create(Todo, { task: `${mark} b`, done: false });
    await em.flush();
    bemiContext(null);
    await em.execute('insert into todo (task) values (?)', [`${mark} c`]);
  }));
  const changed = await changes(orm, `after ->> 'task' LIKE ?`, [`${mark}%`]);
  assert.deepEqual(changed.map(change => change.context), [{}, { step: 1 }, {}]);
});

test('nested transactions: each row has the context of its own statement, what is rolled back has none', async () => {
  const mark = task();
  const insert = (em, name) => em.execute('insert into todo (task) values (?)', [`${mark} ${name}`]);
  await withBemiContext({ level: 0 }, () =>
    orm.em.fork().transactional(async em => {
      await insert(em, 'before');
      await withBemiContext({ level: 1 }, () =>
        em.transactional(async inner => {
          await insert(inner, 'kept');
          await withBemiContext({ level: 2 }, () =>
            inner.transactional(async innermost => { await insert(innermost, 'undone'); throw new Error('undo'); }),
          ).catch(error => assert.equal(error.message, 'undo'));
          await insert(inner, 'after the undone one');
        }),
      );
      await insert(em, 'after');
    }),
  );
  const changed = await changes(orm, `after ->> 'task' LIKE ?`, [`${mark}%`]);
  assert.deepEqual(
    changed.map(change => [change.after.task.slice(mark.length + 1), change.context.level]),
    [['before', 0], ['kept', 1], ['after the undone one', 1], ['after', 0]],
  );
});

test('what is rolled back leaves nothing, neither change nor context', async () => {
  const context = { way: 'rolled back' };
  await assert.rejects(
    withBemiContext(context, () =>
      orm.em.fork().transactional(async em => {
        make(em);
        await em.flush();
        throw new Error('undo');
      }),
    ),
    /undo/,
  );
  await assert.rejects(withBemiContext(context, () => orm.em.fork().execute('insert into todo (task) values (null)')));
  // The connections that these came from are used again.
  for (let i = 0; i < 20; i++) await rows(1);
  assert.equal((await changes(orm, 'context @> ?', [JSON.stringify(context)])).length, 0);
});

test('a context does not cost another query', async () => {
  const count = async context => {
    let queries = 0;
    const counting = await connect('test_queries', { debug: ['query'], logger: () => queries++ });
    await withBemiContext(context, async () => {
      const em = counting.em.fork();
      make(em);
      await em.flush();
      await em.nativeUpdate(Todo, { task: task() }, { done: true });
    });
    return queries;
  };
  assert.equal(await count({ a: 1 }), await count(null));
});

// In MikroORM 7, it runs with execute() only.
test('a query builder that a function returns runs with its context', { skip: isVersion7 && 'it cannot be awaited' }, async () => {
  const insert = todo => orm.em.fork().createQueryBuilder(Todo).insert({ done: false, ...todo });
  const result = await withBemiContext({ way: 'builder' }, () => insert({ task: task() }));
  assert.equal(result.affectedRows, 1);
  await withBemiContext({ way: 'builder' }, async () => insert({ task: task() }));
  await assert.rejects(withBemiContext({ way: 'builder' }, () => insert({ task: null })), /null value/);
  assertAllHave({ way: 'builder' }, await changes(orm, `context @> '{"way": "builder"}'`), 2);
});

test('an onQuery of the application can be called before', async () => {
  const { onQuery } = await import('bemi-mikro-orm');
  const traced = await connect('test_queries', { onQuery: (sql, params) => onQuery(`${sql} /* trace 1 */`, params) });
  await withBemiContext({ way: 'traced' }, async () => {
    const em = traced.em.fork();
    make(em);
    await em.flush();
  });
  assertAllHave({ way: 'traced' }, await changes(orm, `context @> '{"way": "traced"}'`), 1);
});

test('nothing that was done without a context has one', async () => {
  assert.equal(currentBemiContext(), undefined);
  const ids = await rows(2);
  assertAllHave({}, await changes(orm, `(after ->> 'id')::int IN (${ids})`), 2);
});
