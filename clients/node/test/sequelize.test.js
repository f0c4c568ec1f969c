// Sequelize, with its own pool.

import 'bemi/pg';
import { DataTypes, Sequelize } from 'sequelize';
import { versionOf } from './setup.js';
import { testStack } from './stack.js';

// The models, and the transaction if there is one.
const on = (Todo, transaction) => ({ Todo, sequelize: Todo.sequelize, transaction });

testStack({
  name: 'Sequelize',
  version: versionOf('sequelize'),
  open: ({ host, port, user, database, max }) => {
    const sequelize = new Sequelize({ dialect: 'postgres', host, port, username: user, database, logging: false, pool: { max } });
    return on(sequelize.define('todo', { task: DataTypes.TEXT, done: { type: DataTypes.BOOLEAN, defaultValue: false } }, { tableName: 'todo', timestamps: false }));
  },
  close: ({ sequelize }) => sequelize.close(),
  ways: {
    create: [1, ({ Todo }, ids, task) => Todo.create({ task: task() })],
    bulkCreate: [3, ({ Todo }, ids, task) => Todo.bulkCreate([{ task: task() }, { task: task() }, { task: task() }])],
    'save of an instance': [1, async ({ Todo }, [id]) => { const todo = await Todo.findByPk(id); todo.done = true; await todo.save(); }],
    'destroy of an instance': [1, async ({ Todo }, [id]) => (await Todo.findByPk(id)).destroy()],
    update: [3, ({ Todo }, id) => Todo.update({ done: true }, { where: { id } })],
    destroy: [2, ({ Todo }, ids) => Todo.destroy({ where: { id: ids.slice(1) } })],
    upsert: [2, async ({ Todo }, [id], task) => { for (const key of [id, -id]) await Todo.upsert({ id: key, task: task() }); }],
    findOrCreate: [1, ({ Todo }, ids, task) => Todo.findOrCreate({ where: { task: task() } })],
    increment: [1, ({ Todo }, [id]) => Todo.increment('id', { by: 1000000, where: { id } })],
    'raw with replacements': [1, ({ sequelize }, [id]) => sequelize.query('UPDATE todo SET done = true WHERE id = :id', { replacements: { id } })],
    'raw with bind': [1, ({ sequelize }, [id]) => sequelize.query('UPDATE todo SET done = true WHERE id = $id', { bind: { id } })],
  },
  insert: ({ Todo, transaction }, task) => Todo.create({ task }, { transaction }),
  transaction: ({ Todo, sequelize }, work) => sequelize.transaction(transaction => work(on(Todo, transaction))),
  savepoint: ({ Todo, sequelize, transaction }, work) => sequelize.transaction({ transaction }, inner => work(on(Todo, inner))),
});
