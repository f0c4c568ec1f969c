// What every stack must do, by MikroORM without a line in its configuration: bemi-mikro-orm has hooked the copy of pg that it
// uses. Queries of the raw client, which onQuery does not see, come to the hook as well.

import assert from 'node:assert/strict';
import { MikroORM } from '@mikro-orm/postgresql';
import { withBemiContext } from 'bemi-mikro-orm';
import test from 'node:test';
import { versionOf } from '../shared/setup.js';
import { testStack } from '../shared/stack.js';
import { assertAllHave, changes, connect, isVersion7, Tag, Todo, trackedDatabase } from './setup.js';

const forked = orm => ({ orm, em: () => orm.em.fork() });

testStack({
  name: 'MikroORM',
  version: versionOf('@mikro-orm/core'),
  open: async ({ host, port, user, database, max }) =>
    forked(await MikroORM.init({ host, port, user, dbName: database, pool: { min: 0, max }, entities: [Todo, Tag] })),
  close: ({ orm }) => orm.close(),
  ways: {
    'the raw client': [1, ({ em }, [id]) => (isVersion7
      ? em().getKysely().deleteFrom('todo').where('id', '=', id).execute()
      : em().getKnex()('todo').where({ id }).del())],
    flush: [3, async ({ em }, [id], task) => {
      const fork = em();
      fork.create(Todo, { task: task(), done: false });
      fork.create(Todo, { task: task(), done: false });
      fork.remove(await fork.findOneOrFail(Todo, id));
      await fork.flush();
    }],
  },
  insert: ({ em }, task) => em().insert(Todo, { task, done: false }),
  ...(!isVersion7 && { lazy: ({ em }, task) => em().createQueryBuilder(Todo).insert({ task, done: false }) }),
  transaction: ({ orm, em }, work) => em().transactional(em => work({ orm, em: () => em })),
  savepoint: ({ orm, em }, work) => em().transactional(em => work({ orm, em: () => em })),
});

test('with onQuery in the configuration, a statement has one comment', async () => {
  const { onQuery } = await import('bemi-mikro-orm');
  const plain = await trackedDatabase('test_stack');
  const logged = [];
  const orm = await connect('test_stack', { onQuery, debug: ['query'], logger: line => logged.push(line), colors: false });
  await withBemiContext({ a: 1 }, () => orm.em.fork().insert(Todo, { task: 'one', done: false }));
  assert.equal(logged.join().match(/\/\*Bemi/g).length, 1);
  // As the server got it.
  const [{ query }] = await plain.em.fork().execute("SELECT query FROM pg_stat_activity WHERE query ILIKE 'insert into \"todo\"%'");
  assert.equal(query.match(/\/\*Bemi/g).length, 1);
  assertAllHave({ a: 1 }, await changes(plain), 1);
});
