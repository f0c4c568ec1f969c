// Knex, whose builders run when they are awaited and which has a pool of its own, and Objection on top of it.

import Knex from 'knex';
import { Model } from 'objection';
import 'bemi/pg';
import { versionOf } from './setup.js';
import { testStack } from './stack.js';

const open = async ({ max, pooled, ...connection }) => Knex({ client: 'pg', connection, pool: { min: 0, max } });

testStack({
  name: 'Knex',
  version: versionOf('knex'),
  open,
  close: knex => knex.destroy(),
  ways: {
    insert: [1, (knex, ids, task) => knex('todo').insert({ task: task() })],
    'insert, returning': [1, (knex, ids, task) => knex('todo').insert({ task: task() }).returning('*')],
    'insert of several rows': [2, (knex, ids, task) => knex('todo').insert([{ task: task() }, { task: task() }])],
    batchInsert: [5, (knex, ids, task) => knex.batchInsert('todo', Array.from({ length: 5 }, () => ({ task: task() })), 2)],
    update: [3, (knex, ids) => knex('todo').whereIn('id', ids).update({ done: true })],
    delete: [2, (knex, ids) => knex('todo').whereIn('id', ids.slice(1)).del()],
    upsert: [2, async (knex, [id], task) => {
      for (const key of [id, -id]) await knex('todo').insert({ id: key, task: task() }).onConflict('id').merge();
    }],
    raw: [1, (knex, [id]) => knex.raw("update todo set task = task || '\\?' where id = ?", [id])],
    'raw with names': [1, (knex, [id]) => knex.raw('update :table: set done = true where id = :id', { table: 'todo', id })],
    'raw, several statements': [2, (knex, ids, task) => knex.raw(`insert into todo (task) values ('${task()}'); insert into todo (task) values ('${task()}')`)],
    with: [3, (knex, ids) => knex.with('gone', knex('todo').whereIn('id', ids).del().returning('id')).select('*').from('gone')],
    comment: [1, (knex, [id]) => knex('todo').where({ id }).update({ done: true }).comment('why')],
    truncate: [1, knex => knex('tag').truncate()],
    'a callback': [1, (knex, ids, task) => new Promise((resolve, reject) => {
      knex('todo').insert({ task: task() }).asCallback((error, answer) => (error ? reject(error) : resolve(answer)));
    })],
    'a stream of rows, with writes': [3, async (knex, ids) => {
      for await (const { id } of knex('todo').whereIn('id', ids).stream()) await knex('todo').where({ id }).del();
    }],
  },
  insert: (knex, task) => knex('todo').insert({ task }),
  lazy: (knex, task) => knex('todo').insert({ task }),
  transaction: (knex, work) => knex.transaction(work),
  savepoint: (trx, work) => trx.transaction(work),
});

class Todo extends Model {
  static tableName = 'todo';
}

testStack({
  name: 'Objection',
  version: versionOf('objection'),
  open,
  close: knex => knex.destroy(),
  ways: {
    insert: [1, (knex, ids, task) => Todo.query(knex).insert({ task: task() })],
    insertGraph: [2, (knex, ids, task) => Todo.query(knex).insertGraph([{ task: task() }, { task: task() }])],
    patch: [3, (knex, ids) => Todo.query(knex).findByIds(ids).patch({ done: true })],
    'patch of an instance': [1, async (knex, [id]) => (await Todo.query(knex).findById(id)).$query(knex).patch({ done: true })],
    delete: [3, (knex, ids) => Todo.query(knex).delete().whereIn('id', ids)],
    upsertGraph: [1, (knex, [id], task) => Todo.query(knex).upsertGraph({ id, task: task() })],
    upsert: [1, (knex, [id], task) => Todo.query(knex).insert({ id, task: task() }).onConflict('id').merge()],
  },
  insert: (knex, task) => Todo.query(knex).insert({ task }),
  lazy: (knex, task) => Todo.query(knex).insert({ task }),
  transaction: (knex, work) => Todo.transaction(knex, work),
  savepoint: (trx, work) => Todo.transaction(trx, work),
});
