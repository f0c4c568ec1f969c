// The recipes of the README for NestJS and Fastify. The order of their hooks matters: the context must be set when the
// user is known, and before the handler that writes.

import 'reflect-metadata';
import assert from 'node:assert/strict';
import test from 'node:test';
import { Controller, Module, Post, Req } from '@nestjs/common';
import { APP_GUARD, APP_INTERCEPTOR, NestFactory } from '@nestjs/core';
import { bemiContext, setContext, withBemiContext } from 'bemi-mikro-orm';
import Fastify from 'fastify';
import { Observable } from 'rxjs';
import { changes, Todo, trackedDatabase } from './setup.js';

const orm = await trackedDatabase('frameworks');

const addTodo = async task => {
  await new Promise(resolve => setTimeout(resolve, 5));
  await orm.em.fork().insert(Todo, { task });
  return { task };
};

// Twenty requests at a time, each by another user.
async function post(url, name) {
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, i) =>
      fetch(url, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-user': String(i) },
        body: JSON.stringify({ task: `${name} ${i}` }),
      }),
    ),
  );
  for (const answer of answers) assert.equal(answer.ok, true, await answer.text());
  const rows = await changes(orm, `after ->> 'task' LIKE ?`, [`${name} %`]);
  assert.equal(rows.length, 20);
  for (const { after, context } of rows) {
    assert.deepEqual(context, { url: '/todo', task: after.task, user: Number(after.task.split(' ')[1]) });
  }
}

test('Fastify', async () => {
  const app = Fastify();
  app.addHook('onRequest', async request => {
    request.user = Number(request.headers['x-user']);
  });
  app.addHook('preHandler', setContext(request => ({ url: request.url, task: request.body.task, user: request.user })));
  app.post('/todo', request => addTodo(request.body.task));
  await app.listen({ host: '127.0.0.1', port: 0 });
  try {
    await post(`http://127.0.0.1:${app.server.address().port}/todo`, 'fastify');
  } finally {
    await app.close();
  }
});

test('NestJS', async () => {
  class BemiInterceptor {
    intercept(execution, next) {
      if (execution.getType() !== 'http') return next.handle();
      const request = execution.switchToHttp().getRequest();
      const context = { url: request.url, task: request.body.task, user: request.user };
      return new Observable(subscriber => withBemiContext(context, () => next.handle().subscribe(subscriber)));
    }
  }
  class UserGuard {
    async canActivate(execution) {
      const request = execution.switchToHttp().getRequest();
      request.user = Number(request.headers['x-user']);
      return true;
    }
  }
  class TodoController {
    add(request) {
      return addTodo(request.body.task);
    }
  }
  // What decorators do; plain JavaScript has none.
  Controller()(TodoController);
  Post('todo')(TodoController.prototype, 'add', Object.getOwnPropertyDescriptor(TodoController.prototype, 'add'));
  Req()(TodoController.prototype, 'add', 0);
  class AppModule {}
  Module({
    controllers: [TodoController],
    providers: [
      { provide: APP_GUARD, useClass: UserGuard },
      { provide: APP_INTERCEPTOR, useClass: BemiInterceptor },
    ],
  })(AppModule);

  const app = await NestFactory.create(AppModule, { logger: false });
  await app.listen(0, '127.0.0.1');
  try {
    await post(`http://127.0.0.1:${app.getHttpServer().address().port}/todo`, 'nestjs');
  } finally {
    await app.close();
  }
});
