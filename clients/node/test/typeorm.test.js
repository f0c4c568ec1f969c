// TypeORM. Most of its writes are a transaction of their own.

import 'bemi/pg';
import { DataSource, EntitySchema, In } from 'typeorm';
import { versionOf } from './setup.js';
import { testStack } from './stack.js';

const Todo = new EntitySchema({
  name: 'todo',
  columns: { id: { type: Number, primary: true, generated: true }, task: { type: 'text' }, done: { type: Boolean, default: false } },
});

testStack({
  name: 'TypeORM',
  version: versionOf('typeorm'),
  open: async ({ host, port, user, database, max }) =>
    (await new DataSource({ type: 'postgres', host, port, username: user, database, poolSize: max, entities: [Todo], installExtensions: false }).initialize()).manager,
  close: manager => manager.dataSource.destroy(),
  ways: {
    'save of a new entity': [1, (manager, ids, task) => manager.save(Todo, { task: task() })],
    'save of several': [3, (manager, ids, task) => manager.save(Todo, [{ task: task() }, { task: task() }, { task: task() }])],
    'save in chunks': [3, (manager, ids, task) => manager.save(Todo, [{ task: task() }, { task: task() }, { task: task() }], { chunk: 1 })],
    'save of a changed entity': [1, async (manager, [id]) => manager.save(Todo, { ...await manager.findOneByOrFail(Todo, { id }), done: true })],
    remove: [2, async (manager, ids) => manager.remove(Todo, await manager.findBy(Todo, { id: In(ids.slice(1)) }))],
    insert: [2, (manager, ids, task) => manager.insert(Todo, [{ task: task() }, { task: task() }])],
    update: [3, (manager, ids) => manager.update(Todo, { id: In(ids) }, { done: true })],
    delete: [3, (manager, ids) => manager.delete(Todo, ids)],
    upsert: [2, async (manager, [id], task) => { for (const key of [id, -id]) await manager.upsert(Todo, { id: key, task: task() }, ['id']); }],
    'query builder': [3, (manager, ids) => manager.createQueryBuilder().update(Todo).set({ done: true }).whereInIds(ids).execute()],
    raw: [1, (manager, [id]) => manager.query('UPDATE todo SET done = true WHERE id = $1', [id])],
  },
  insert: (manager, task) => manager.insert(Todo, { task }),
  transaction: (manager, work) => manager.transaction(work),
  savepoint: (manager, work) => manager.transaction(work),
});
