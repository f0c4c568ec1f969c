// Prisma with its adapter for node-postgres. Its promises run when they are awaited.

import assert from 'node:assert/strict';
import { PrismaPg } from '@prisma/adapter-pg';
import 'bemi/pg';
import { PrismaClient } from './generated/client.ts';
import { versionOf } from './setup.js';
import { testStack } from './stack.js';

testStack({
  name: 'Prisma',
  version: versionOf('@prisma/client'),
  open: options => new PrismaClient({ adapter: new PrismaPg(options) }),
  close: prisma => prisma.$disconnect(),
  ways: {
    create: [1, (prisma, ids, task) => prisma.todo.create({ data: { task: task() } })],
    createMany: [3, (prisma, ids, task) => prisma.todo.createMany({ data: [{ task: task() }, { task: task() }, { task: task() }] })],
    createManyAndReturn: [2, (prisma, ids, task) => prisma.todo.createManyAndReturn({ data: [{ task: task() }, { task: task() }] })],
    update: [1, (prisma, [id], task) => prisma.todo.update({ where: { id }, data: { task: task() } })],
    updateMany: [3, (prisma, ids) => prisma.todo.updateMany({ where: { id: { in: ids } }, data: { done: true } })],
    updateManyAndReturn: [3, (prisma, ids) => prisma.todo.updateManyAndReturn({ where: { id: { in: ids } }, data: { done: true } })],
    delete: [1, (prisma, [id]) => prisma.todo.delete({ where: { id } })],
    deleteMany: [2, (prisma, ids) => prisma.todo.deleteMany({ where: { id: { in: ids.slice(1) } } })],
    upsert: [2, async (prisma, [id], task) => {
      for (const key of [id, -id]) {
        const text = task();
        await prisma.todo.upsert({ where: { id: key }, create: { id: key, task: text }, update: { task: text } });
      }
    }],
    'upsert by a unique column': [1, (prisma, ids, task) => {
      const text = task();
      return prisma.todo.upsert({ where: { task: text }, create: { task: text }, update: { task: text } });
    }],
    $executeRaw: [1, (prisma, [id]) => prisma.$executeRaw`UPDATE todo SET done = true WHERE id = ${id}`],
    $executeRawUnsafe: [1, (prisma, [id]) => prisma.$executeRawUnsafe('DELETE FROM todo WHERE id = $1', id)],
    $queryRaw: [1, async (prisma, [id]) => assert.deepEqual(await prisma.$queryRaw`UPDATE todo SET done = true WHERE id = ${id} RETURNING done`, [{ done: true }])],
    '$transaction with an array': [3, (prisma, [id], task) => prisma.$transaction([
      prisma.todo.create({ data: { task: task() } }), prisma.todo.create({ data: { task: task() } }), prisma.todo.delete({ where: { id } })])],
    'an extension': [1, (prisma, ids, task) => prisma.$extends({ query: { todo: { create: ({ args, query }) => query(args) } } }).todo.create({ data: { task: task() } })],
  },
  insert: (prisma, task) => prisma.todo.create({ data: { task } }),
  lazy: (prisma, task) => prisma.todo.create({ data: { task } }),
  transaction: (prisma, work) => prisma.$transaction(work, { maxWait: 60000, timeout: 60000 }),
});

// The same, where the adapter gives each text a name of its own.
testStack({
  name: 'Prisma, prepared',
  version: versionOf('@prisma/client'),
  open: options => new PrismaClient({ adapter: new PrismaPg(options, { statementNameGenerator: ({ sql }) => `s${Buffer.from(sql).toString('base64url').slice(0, 60)}` }) }),
  close: prisma => prisma.$disconnect(),
  ways: {},
  alwaysPrepares: true,
  insert: (prisma, task) => prisma.todo.create({ data: { task } }),
  prepared: (prisma, task) => prisma.todo.create({ data: { task } }),
  transaction: (prisma, work) => prisma.$transaction(work, { maxWait: 60000, timeout: 60000 }),
});
