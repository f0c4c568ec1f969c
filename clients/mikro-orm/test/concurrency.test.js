// 200 requests of 20 users at a time through Express: no change may have the context of another request.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import test from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { RequestContext } from '@mikro-orm/core';
import { mergeBemiContext, setContext, withBemiContext } from 'bemi-mikro-orm';
import express from 'express';
import { changes, Todo, trackedDatabase } from './setup.js';

const REQUESTS = 200;
const USERS = 20;

test('200 concurrent requests of 20 users', async () => {
  const orm = await trackedDatabase('test_concurrency');
  const app = express();
  app.use(express.json());
  app.use(setContext(async req => {
    await sleep(req.body.request % 3);
    return { user: req.body.user, request: req.body.request };
  }));
  app.use((req, res, next) => RequestContext.create(orm.em, next));
  app.post('/', async (req, res) => {
    const em = RequestContext.getEntityManager();
    const { user, request } = req.body;
    // The row contains what must be in the context.
    const row = step => ({ task: JSON.stringify({ user, request, step }), done: false });

    const todo = em.create(Todo, row('flush'));
    await em.flush();
    await sleep((request * 7) % 5);
    await em.insertMany(Todo, [row('many 1'), row('many 2')]);
    await em.transactional(async inner => {
      await inner.execute('insert into todo (task) values (?)', [row('execute').task]);
      await sleep((request * 3) % 4);
      await inner.insert(Todo, row('insert'));
    });
    await em.transactional(async inner => {
      await inner.insert(Todo, row('undone'));
      throw new Error('undo');
    }).catch(() => {});
    await withBemiContext({ user, request, nested: true }, () => em.insert(Todo, row('nested')));
    await new Promise(resolve => setTimeout(() => em.insert(Todo, row('timer')).then(resolve), request % 3));
    todo.done = true;
    await em.flush();
    mergeBemiContext({ merged: true });
    await em.nativeDelete(Todo, { id: todo.id });
    res.json({});
  });

  const server = app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const answers = await Promise.all(
    Array.from({ length: REQUESTS }, async (_, request) => {
      const response = await fetch(`http://127.0.0.1:${server.address().port}`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ user: request % USERS, request }),
      });
      await response.text();
      return response.status;
    }),
  );
  server.closeAllConnections();
  server.close();
  assert.deepEqual(answers, Array(REQUESTS).fill(200));

  const changed = await changes(orm);
  assert.equal(changed.length, REQUESTS * 9);
  for (const { operation, before, after, context } of changed) {
    const { user, request, step } = JSON.parse((after.task ? after : before).task);
    assert.notEqual(step, 'undone');
    assert.deepEqual(context, {
      user,
      request,
      ...(step === 'nested' && { nested: true }),
      ...(operation === 'DELETE' && { merged: true }),
    });
  }
});
