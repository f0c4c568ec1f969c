// The scope of a context: no other request, timer, listener or nested work may see it.

import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import http from 'node:http';
import { PassThrough, Readable } from 'node:stream';
import test from 'node:test';
import { setImmediate as turn, setTimeout as sleep } from 'node:timers/promises';
import { currentContext, enterContext, mergeContext, setContext, withContext } from 'bemi';
import express from 'express';
import { warningsOf } from './setup.js';

const user = () => currentContext()?.user;

test('parallel pieces of work keep their own, over awaits, timers, listeners and streams', async () => {
  const emitter = new EventEmitter().setMaxListeners(0);
  const seen = await Promise.all(
    Array.from({ length: 100 }, (_, i) =>
      withContext({ user: i }, async () => {
        const users = [user()];
        const heard = new Promise(resolve => emitter.once(`event ${i}`, () => resolve(user())));
        await turn();
        users.push(user());
        await sleep(i % 7);
        users.push(user());
        users.push(await new Promise(resolve => setTimeout(() => resolve(user()), i % 5)));
        users.push(await new Promise(resolve => process.nextTick(() => resolve(user()))));
        emitter.emit(`event ${i}`);
        users.push(await heard);
        for await (const _ of Readable.from(['a', 'b'])) users.push(user());
        await Promise.allSettled([Promise.reject(new Error())]);
        users.push(user());
        return users;
      }),
    ),
  );
  seen.forEach((users, i) => assert.deepEqual(users, Array(9).fill(i)));
  assert.equal(currentContext(), undefined);
});

test('nested contexts come back out, also after an error', async () => {
  await withContext({ user: 1 }, async () => {
    await withContext({ user: 2 }, async () => {
      await withContext(null, async () => assert.equal(currentContext(), undefined));
      await turn();
      assert.equal(user(), 2);
    });
    assert.equal(user(), 1);
    assert.throws(() => withContext({ user: 3 }, () => { throw new Error('out'); }), /out/);
    await assert.rejects(withContext({ user: 4 }, async () => { await turn(); throw new Error('out'); }), /out/);
    assert.equal(user(), 1);
    assert.equal(withContext({ user: 5 }, user), 5);
  });
});

test('enterContext replaces, mergeContext adds, and both end with what is around them', async () => {
  await withContext({ user: 1 }, async () => {
    enterContext({ job: 'a' });
    assert.deepEqual(currentContext(), { job: 'a' });
    mergeContext({ step: 1 });
    await turn();
    mergeContext({ step: 2 });
    mergeContext(null);
    assert.deepEqual(currentContext(), { job: 'a', step: 2 });
    enterContext(null);
    assert.equal(currentContext(), undefined);
    mergeContext({ user: 2 });
    assert.deepEqual(currentContext(), { user: 2 });
  });
  assert.equal(currentContext(), undefined);
});

test('parallel calls of enterContext in one piece of work do not mix', async () => {
  await withContext({ request: 1 }, async () => {
    const seen = await Promise.all(
      [1, 2, 3].map(async i => {
        mergeContext({ user: i });
        await sleep(4 - i);
        return currentContext();
      }),
    );
    assert.deepEqual(seen, [1, 2, 3].map(i => ({ request: 1, user: i })));
  });
});

// A class hides what must not be stored with toJSON().
test('mergeContext takes what the others take, and as JSON has it', async () => {
  class User {
    id = 1;
    password = 'secret';
    toJSON() { return { id: this.id }; }
  }
  const warnings = await warningsOf(() => withContext({ request: 1 }, () => {
    mergeContext(new User());
    assert.deepEqual(currentContext(), { request: 1, id: 1 });
    for (const wrong of ['text', [1], new Date(), 5, () => {}, { big: 1n }]) {
      mergeContext(wrong);
      assert.deepEqual(Object.keys(currentContext()), ['request', 'id', 'bemiError']);
    }
  }));
  assert.equal(warnings.length, 6);
});

test('a generator runs with the context that it was made with', async () => {
  async function* waiting() {
    try {
      for (;;) {
        await turn();
        yield user();
      }
    } finally {
      seen.push(['end', user()]);
    }
  }
  function* plain() {
    yield user();
    yield* [user(), user()];
  }
  const seen = [];
  await withContext({ user: 2 }, async () => {
    for await (const value of withContext({ user: 1 }, () => waiting())) {
      seen.push([value, user()]);
      if (seen.length === 2) break;
    }
    for (const value of withContext({ user: 1 }, plain)) seen.push([value, user()]);
  });
  assert.deepEqual(seen, [[1, 2], [1, 2], ['end', 1], [1, 2], [1, 2], [1, 2]]);
});

test('a context is what it was when it was set', () => {
  const context = { list: [1] };
  withContext(context, () => {
    context.list.push(2);
    assert.deepEqual(currentContext(), { list: [1] });
  });
});

// Requests one after the other on one connection, which Node takes for one asynchronous execution.
async function serve(app, use) {
  const server = http.createServer(app).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const get = (path, headers = {}) =>
    new Promise((resolve, reject) =>
      http
        .get({ port: server.address().port, path, agent, headers }, async response =>
          resolve(JSON.parse((await response.toArray()).join('')).user ?? null),
        )
        .on('error', reject),
    );
  try {
    await use(get, agent, server.address().port);
  } finally {
    agent.destroy();
    server.close();
  }
}

async function until(condition) {
  while (!condition()) await turn();
}

const answer = (req, res) => res.end(JSON.stringify({ user: user() }));

test('outside of setContext, a request does not see what the one before it on its connection has set', () =>
  serve(
    (req, res) => {
      if (req.url === '/set') enterContext({ user: 7 });
      answer(req, res);
    },
    async get => {
      assert.deepEqual([await get('/set'), await get('/'), await get('/set'), await get('/')], [7, null, 7, null]);
    },
  ));

test('listeners of a request and its response have the context of setContext', async () => {
  const app = express();
  const seen = [];
  app.use('/two', setContext(() => ({ user: 2 })));
  app.use(setContext(req => ({ user: Number(req.get('user')) })));
  app.post('/two', setContext(() => ({ user: 4 })));
  app.post(['/one', '/two'], (req, res) => {
    const see = event => () => seen.push([event, user()]);
    req.pipe(new PassThrough()).on('data', see('pipe')).on('end', see('end of pipe'));
    req.on('end', see('end')).on('end', () => res.end('{}'));
    req.on('merged', see('merged'));
    withContext({ user: 5 }, () => req.emit('merged'));
    res.on('finish', see('finish')).on('close', see('close'));
  });
  app.get('/none', setContext(() => undefined), answer);

  await serve(app, async (get, agent, port) => {
    for (const [path, expected] of [['/one', 3], ['/two', 4]]) {
      const request = http.request({ port, path, method: 'POST', agent, headers: { user: 3 } });
      request.write('a');
      await sleep(20);
      request.end('b');
      const [response] = await once(request, 'response');
      await response.toArray();
      await until(() => seen.some(([event]) => event === 'close'));
      assert.deepEqual(seen.splice(0).sort(), [
        ['close', expected], ['end of pipe', expected], ['end', expected], ['finish', expected],
        ['merged', 5], ['pipe', expected], ['pipe', expected],
      ]);
    }
    assert.equal(await get('/none'), null);
  });
});

test('setContext: functions, promises, nothing, errors', async () => {
  const app = express();
  const callbacks = {
    plain: req => ({ user: Number(req.get('user')) }),
    async: async req => (await sleep(2), { user: Number(req.get('user')) }),
    nothing: () => undefined,
    throws: () => { throw new Error('no session'); },
    rejects: async () => { throw new Error('no session'); },
    getter: () => ({ get then() { throw new Error('no session'); } }),
    then: () => ({ then() { throw new Error('no session'); } }),
  };
  for (const [name, callback] of Object.entries(callbacks)) app.get(`/${name}`, setContext(callback), answer);
  app.get('/error', setContext(() => ({ user: 1 })), () => { throw new Error('of the application'); });
  app.use((error, req, res, next) => res.end(JSON.stringify({ user: error.message })));

  const warnings = await warningsOf(() =>
    serve(app, async get => {
      assert.equal(await get('/plain', { user: 1 }), 1);
      assert.equal(await get('/async', { user: 2 }), 2);
      for (const name of ['nothing', 'throws', 'rejects', 'getter', 'then']) assert.equal(await get(`/${name}`), null, name);
      assert.equal(await get('/error'), 'of the application');
    }),
  );
  assert.equal(warnings.length, 4);
  for (const warning of warnings) assert.match(warning, /no session/);
});
