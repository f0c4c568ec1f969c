// The context of a request in each framework. The order of their hooks matters: the context must be set when the user and
// the body are known, and before the handler that writes.

import 'reflect-metadata';
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { Readable } from 'node:stream';
import test, { before } from 'node:test';
import { serve } from '@hono/node-server';
import { Controller, Module, Post, Req } from '@nestjs/common';
import { APP_GUARD, APP_INTERCEPTOR, NestFactory } from '@nestjs/core';
import { createTRPCClient, httpBatchLink } from '@trpc/client';
import { initTRPC } from '@trpc/server';
import { createHTTPServer } from '@trpc/server/adapters/standalone';
import { currentContext, setContext } from 'bemi';
import { setContext as setFastifyContext } from 'bemi/fastify';
import { setContext as setHonoContext } from 'bemi/hono';
import { contextInterceptor } from 'bemi/nestjs';
import 'bemi/pg';
import { setContext as setTrpcContext } from 'bemi/trpc';
import express from 'express';
import Fastify from 'fastify';
import { Hono } from 'hono';
import pg from 'pg';
import { Observable } from 'rxjs';
import { atEnd, changes, server, trackedDatabase } from './setup.js';

let client;
let pool;

before(async () => {
  client = await trackedDatabase('test_frameworks');
  pool = new pg.Pool({ ...server('test_frameworks'), max: 4 });
  atEnd(() => pool.end());
});

async function addTodo(task) {
  await new Promise(resolve => setTimeout(resolve, 5));
  await pool.query('INSERT INTO todo (task) VALUES ($1)', [task]);
  return { task };
}

const REQUESTS = 20;

async function expectContexts(name, url = '/todo') {
  const rows = await changes(client, "after ->> 'task' LIKE $1", [`${name} %`]);
  assert.equal(rows.length, REQUESTS);
  for (const { after, context } of rows) {
    assert.deepEqual(context, { url, task: after.task, user: Number(after.task.split(' ')[1]) });
  }
}

// Twenty requests at a time, each by another user.
async function post(port, name, path = '/todo') {
  const answers = await Promise.all(
    Array.from({ length: REQUESTS }, (_, i) =>
      fetch(`http://127.0.0.1:${port}${path}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-user': String(i) },
        body: JSON.stringify({ task: `${name} ${i}` }),
      }),
    ),
  );
  for (const answer of answers) assert.equal(answer.ok, true, await answer.text());
  await expectContexts(name, path);
}

async function listening(server) {
  await once(server, 'listening');
  atEnd(() => { server.closeAllConnections(); server.close(); });
  return server.address().port;
}

test('Express', async () => {
  const app = express();
  app.use(express.json());
  app.use((req, res, next) => { req.user = Number(req.get('x-user')); next(); });
  app.use(setContext(async req => ({ url: req.url, task: req.body.task, user: req.user })));
  app.post('/todo', async (req, res) => { res.json(await addTodo(req.body.task)); });
  await post(await listening(app.listen(0, '127.0.0.1')), 'express');
});

const fastifyContext = request => ({ url: request.url, task: request.body.task, user: request.user });

for (const hook of ['onRequest', 'preHandler']) {
  for (const of of ['application', 'plugin', 'route']) {
    test(`Fastify, the user is found by ${hook} of the ${of}`, async () => {
      const app = Fastify();
      const findUser = async request => { request.user = Number(request.headers['x-user']); };
      setFastifyContext(app, fastifyContext);
      if (of === 'application') app.addHook(hook, findUser);
      app.register(async plugin => {
        if (of === 'plugin') plugin.addHook(hook, findUser);
        plugin.post('/todo', { ...(of === 'route' && { [hook]: findUser }), config: { of } }, request => {
          assert.equal(request.routeOptions.config.of, of);
          return addTodo(request.body.task);
        });
      });
      await app.listen({ host: '127.0.0.1', port: 0 });
      try {
        await post(app.server.address().port, `fastify${hook}${of}`);
      } finally {
        await app.close();
      }
    });
  }
}

test('Fastify, a route that is older than the hook, and setContext of bemi as a hook', async () => {
  const app = Fastify();
  app.addHook('onRequest', async request => { request.user = Number(request.headers['x-user']); });
  app.post('/todo', request => addTodo(request.body.task));
  setFastifyContext(app, fastifyContext);
  app.register(async plugin => {
    plugin.addHook('preHandler', setContext(request => ({ ...fastifyContext(request), url: 'hook' })));
    plugin.post('/hook', { preHandler: [] }, request => addTodo(request.body.task));
  });
  await app.listen({ host: '127.0.0.1', port: 0 });
  try {
    await post(app.server.address().port, 'older');
    await post(app.server.address().port, 'hook', '/hook');
  } finally {
    await app.close();
  }
});

test('NestJS', async () => {
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
      {
        provide: APP_INTERCEPTOR,
        useValue: contextInterceptor(async (request, execution) => {
          assert.equal(execution.getHandler().name, 'add');
          return { url: request.url, task: request.body.task, user: request.user };
        }),
      },
    ],
  })(AppModule);
  const app = await NestFactory.create(AppModule, { logger: false });
  await app.listen(0, '127.0.0.1');
  try {
    await post(app.getHttpServer().address().port, 'nestjs');
  } finally {
    await app.close();
  }
});

// An answer that is longer than what the connection takes at once goes on in the connection's events. Rows that are
// written meanwhile belong to the request.
async function* rowsFor(name) {
  for (let i = 0; i < 8; i++) {
    await pool.query('INSERT INTO todo (task) VALUES ($1)', [`${name} ${i}`]);
    yield 'x'.repeat(500000);
  }
}

const streaming = {
  Express: async name => {
    const app = express();
    app.use(setContext(() => ({ name })));
    app.get('/', (req, res) => { Readable.from(rowsFor(name)).pipe(res); });
    return listening(app.listen(0, '127.0.0.1'));
  },
  Fastify: async name => {
    const app = Fastify();
    setFastifyContext(app, () => ({ name }));
    app.get('/', (request, reply) => reply.send(Readable.from(rowsFor(name), { objectMode: false })));
    await app.listen({ host: '127.0.0.1', port: 0 });
    atEnd(() => app.close());
    return app.server.address().port;
  },
  Hono: async name => {
    const app = new Hono();
    app.use(setHonoContext(() => ({ name })));
    app.get('/', () => new Response(Readable.toWeb(Readable.from(rowsFor(name), { objectMode: false }))));
    return listening(serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 }));
  },
  // Koa's middleware has Node's request and response in "req" and "res".
  Koa: async name => listening(createServer((req, res) =>
    setHonoContext(() => ({ name }))({ req, res }, async () => { Readable.from(rowsFor(name)).pipe(res); })).listen(0, '127.0.0.1')),
};

for (const [framework, start] of Object.entries(streaming)) {
  test(`${framework}, a long answer`, async () => {
    const name = `long${framework}`;
    const answer = await fetch(`http://127.0.0.1:${await start(name)}/`);
    // The reader lets the connection become full.
    let length = 0;
    for await (const chunk of answer.body) {
      length += chunk.length;
      await new Promise(resolve => setTimeout(resolve, 1));
    }
    assert.equal(length, 4000000);
    const rows = await changes(client, "after ->> 'task' LIKE $1", [`${name} %`]);
    assert.equal(rows.length, 8);
    for (const { context } of rows) assert.deepEqual(context, { name });
  });
}

test('tRPC, a subscription', async () => {
  const t = initTRPC.create();
  const router = t.router({ rows: t.procedure.use(setTrpcContext(({ path }) => ({ path }))).subscription(() => rowsFor('subscription')) });
  let count = 0;
  for await (const _ of await t.createCallerFactory(router)({}).rows()) count++;
  assert.equal(count, 8);
  for (const { context } of await changes(client, "after ->> 'task' LIKE 'subscription %'")) assert.deepEqual(context, { path: 'rows' });
});

test('NestJS, a handler that runs when somebody subscribes', () => {
  const request = { getType: () => 'http', switchToHttp: () => ({ getRequest: () => ({}) }) };
  const handled = contextInterceptor(() => ({ a: 1 })).intercept(request, { handle: () => new Observable(subscriber => subscriber.next(currentContext())) });
  const seen = [];
  handled.subscribe(context => seen.push(context));
  assert.deepEqual(seen, [{ a: 1 }]);
});

test('NestJS, messages pass', () => {
  const next = { handle: () => 'handled' };
  const interceptor = contextInterceptor(assert.fail);
  assert.equal(interceptor.intercept({ getType: () => 'rpc' }, next), 'handled');
  assert.equal(interceptor.intercept({ getType: () => 'graphql', getArgByIndex: () => ({}) }, next), 'handled');
});

test('Hono', async () => {
  const app = new Hono();
  app.use(async (c, next) => { c.set('user', Number(c.req.header('x-user'))); await next(); });
  app.use(setHonoContext(async c => ({ url: c.req.path, task: (await c.req.json()).task, user: c.get('user') })));
  app.post('/todo', async c => c.json(await addTodo((await c.req.json()).task)));
  await post(await listening(serve({ fetch: app.fetch, hostname: '127.0.0.1', port: 0 })), 'hono');
});

test('tRPC, in one batch', async () => {
  const t = initTRPC.context().create();
  const procedure = t.procedure
    .use(({ ctx, next }) => next({ ctx: { user: ctx.user } }))
    .input(value => value)
    .use(setTrpcContext(({ ctx, path, input }) => ({ url: `/${path}`, task: input.task, user: input.by ?? ctx.user })));
  const router = t.router({ todo: procedure.mutation(({ input }) => addTodo(input.task)) });
  const server = createHTTPServer({ router, createContext: ({ req }) => ({ user: Number(req.headers['x-user']) }) });
  server.listen(0, '127.0.0.1');
  const port = await listening(server);
  const trpc = createTRPCClient({ links: [httpBatchLink({ url: `http://127.0.0.1:${port}`, headers: { 'x-user': '7' } })] });
  await Promise.all(Array.from({ length: REQUESTS }, (_, by) => trpc.todo.mutate({ task: `trpc ${by}`, by })));
  await expectContexts('trpc');
  await trpc.todo.mutate({ task: 'trpc alone' });
  const [{ context }] = await changes(client, "after ->> 'task' = 'trpc alone'");
  assert.deepEqual(context, { url: '/todo', task: 'trpc alone', user: 7 });
});
