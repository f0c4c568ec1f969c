// What no review should have to look for again: markup from values, scripts and styles in pages, values in SQL, cookies, tokens.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { Accounts } from '../src/access/accounts.js';
import { Drafts } from '../src/access/drafts.js';
import { OneTimeToken } from '../src/access/token.js';
import { Database, sourceDatabase } from '../src/database.js';
import { bind, sql } from '../src/queries/sql.js';
import { buildServer } from '../src/server.js';

const src = new URL('../src/', import.meta.url);
const files = readdirSync(src, { recursive: true }).filter(name => name.endsWith('.js'));
const read = name => readFileSync(new URL(name, src), 'utf8');

async function withServer(work, database = {}) {
  const token = new OneTimeToken();
  const app = await buildServer({ database, token, host: '127.0.0.1', port: () => 4321, zone: 'UTC', cookieName: 'session', key: randomBytes(32) });
  const get = (url, more = {}) => app.inject({ url, ...more, headers: { host: '127.0.0.1:4321', ...more.headers } });
  try {
    await work({ app, token, get });
  } finally {
    await app.close();
  }
}

test('no file makes markup of a text', () => {
  const ways = /dangerouslySetInnerHTML\s*[=:]|innerHTML\s*=|insertAdjacentHTML|document\.write|hx-on|style=/;
  assert.deepEqual(files.filter(name => ways.test(read(name).replace(/\/\/.*$/gm, ''))), []);
});

test('SQL is made in queries/ and search/ alone', () => {
  const makes = name => /\.query\(/.test(read(name)) && !/^(queries|search)\//.test(name) && name !== 'database.js';
  assert.deepEqual(files.filter(makes), []);
});

test('a value that is not bound is no part of SQL', () => {
  assert.throws(() => sql`SELECT ${'1; DROP TABLE x'}`, TypeError);
  assert.deepEqual(sql`SELECT ${bind('x', 'text')}`.toQuery(), { text: 'SELECT $1::text', values: ['x'] });
});

test('a page has a strict policy, and no script or style of its own', () => withServer(async ({ get }) => {
  const response = await get('/changes');
  assert.equal(response.statusCode, 401);
  const policy = response.headers['content-security-policy'];
  assert.match(policy, /default-src 'none'/);
  assert.doesNotMatch(policy, /unsafe|\*|https:/);
  assert.doesNotMatch(response.body, /<script(?![^>]* src=)|<style|style="/);
  assert.equal(response.headers['cache-control'], 'no-store');
}));

test('the token opens one session, whose cookie no script can read', () => withServer(async ({ token, get }) => {
  const text = token.renew();
  assert.equal((await get(`/enter?token=${text}x`)).statusCode, 401);
  const entered = await get(`/enter?token=${text}`);
  assert.equal(entered.statusCode, 302);
  assert.match(entered.headers['set-cookie'], /HttpOnly/);
  assert.match(entered.headers['set-cookie'], /SameSite=Lax/);
  assert.equal((await get(`/enter?token=${text}`)).statusCode, 401);
}));

test('a guess of the browser does not use the token up', () => withServer(async ({ token, get }) => {
  const text = token.renew();
  assert.equal((await get(`/enter?token=${text}`, { headers: { 'sec-purpose': 'prefetch' } })).statusCode, 503);
  assert.equal((await get(`/enter?token=${text}`)).statusCode, 302);
}));

test('tokens cannot be tried out', () => withServer(async ({ get }) => {
  for (let i = 0; i < 10; i++) await get('/enter?token=guess');
  assert.equal((await get('/enter?token=guess')).statusCode, 429);
}));

test('another name for this machine is refused', () => withServer(async ({ get }) => {
  assert.equal((await get('/changes', { headers: { host: 'evil.example:4321' } })).statusCode, 421);
  assert.equal((await get('/changes', { headers: { host: 'localhost:4321' } })).statusCode, 401);
}));

test('a form without its token is refused', () => withServer(async ({ app, token, get }) => {
  app.post('/form', { config: { isPublic: true } }, async () => 'done');
  const response = await get('/form', { method: 'POST', headers: { 'content-type': 'application/x-www-form-urlencoded' }, payload: 'a=b' });
  assert.equal(response.statusCode, 403);
}));

test('a form with its token is taken', () => withServer(async ({ app, token, get }) => {
  app.get('/token', async (request, reply) => reply.send(request.page.csrf()));
  app.post('/form', async () => 'done');
  const cookies = response => [response.headers['set-cookie']].flat().map(cookie => cookie.split(';')[0]).join('; ');
  const entered = await get(`/enter?token=${token.renew()}`);
  const page = await get('/token', { headers: { cookie: cookies(entered) } });
  const headers = { cookie: cookies(page), 'content-type': 'application/x-www-form-urlencoded' };
  const send = text => get('/form', { method: 'POST', headers, payload: new URLSearchParams({ _csrf: text }).toString() });
  assert.equal((await send(page.body)).body, 'done');
  assert.equal((await send(`${page.body}x`)).statusCode, 403);
}));

test('a session that somebody else has begun is not the one that comes in', () => withServer(async ({ app, token, get }) => {
  app.get('/token', { config: { isPublic: true } }, async (request, reply) => reply.send(request.page.csrf()));
  app.post('/form', async () => 'done');
  const cookieOf = response => response.headers['set-cookie'].split(';')[0];
  const begun = await get('/token');
  const cookie = cookieOf(begun);
  const entered = cookieOf(await get(`/enter?token=${token.renew()}`, { headers: { cookie } }));
  assert.equal((await get('/form', { headers: { cookie } })).statusCode, 401);
  // Nor is the token of its forms worth anything in the new one, in whatever type of content.
  for (const [type, payload] of [['application/x-www-form-urlencoded', `_csrf=${begun.body}`], ['text/plain', `_csrf=${begun.body}`], ['application/json', `{"_csrf": "${begun.body}"}`],
    ['multipart/form-data; boundary=x', `--x\r\nContent-Disposition: form-data; name="_csrf"\r\n\r\n${begun.body}\r\n--x--`]]) {
    const response = await get('/form', { method: 'POST', headers: { cookie: entered, 'content-type': type }, payload });
    assert.ok([403, 415].includes(response.statusCode), type);
  }
}));

test('a server that does not answer is a page, and no crash', () => withServer(async ({ token, get }) => {
  const entered = await get(`/enter?token=${token.renew()}`);
  const response = await get('/changes', { headers: { cookie: entered.headers['set-cookie'].split(';')[0] } });
  assert.equal(response.statusCode, 503);
  assert.match(response.body, /The database does not answer/);
}, new Database({ host: '/nonexistent' })));

// Dates do not move here, so it is the timer that ends them, and nobody has to come for it.
test('passwords do not stay in memory if nobody comes back', async t => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const accounts = new Accounts('postgres://127.0.0.1/shop');
  const drafts = new Drafts();
  let ended = 0;
  const database = { end: async () => { ended++; } };
  const login = accounts.add(database, 'ada');
  const draft = drafts.add(database, {}, 'secret');
  t.mock.timers.tick(60 * 60 * 1000 - 1);
  assert.equal(drafts.find(database, draft).password, 'secret');
  t.mock.timers.tick(1);
  assert.equal(drafts.find(database, draft), undefined);
  assert.equal(accounts.find(login).user, 'ada');
  t.mock.timers.tick(11 * 60 * 60 * 1000);
  assert.equal(ended, 1);
  assert.equal(accounts.find(login), undefined);
  await accounts.end();
  assert.equal(ended, 1);
});

// A server that asks for a password in clear text, and says what it was told. It speaks as much of the protocol as that needs.
async function passwordSent(password) {
  let told = '';
  const server = createServer(socket => {
    socket.once('data', () => {
      socket.write(Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 3]));
      socket.once('data', message => {
        told = message.subarray(5, -1).toString();
        socket.destroy();
      });
    });
  });
  await new Promise(resolve => { server.listen(0, '127.0.0.1', resolve); });
  const database = sourceDatabase({ host: '127.0.0.1', port: server.address().port, database: 'x', user: 'x', sslmode: 'disable' }, password);
  await assert.rejects(database.read(async () => {}));
  await database.end();
  await new Promise(resolve => { server.close(resolve); });
  return told;
}

test('a host of a form gets the password of the form, and none of another server', async () => {
  const { PGPASSWORD } = process.env;
  process.env.PGPASSWORD = 'of another server';
  try {
    assert.equal(await passwordSent('of the form'), 'of the form');
    assert.equal(await passwordSent(''), '');
  } finally {
    if (PGPASSWORD === undefined) delete process.env.PGPASSWORD;
    else process.env.PGPASSWORD = PGPASSWORD;
  }
});

test('the log has no secret of an address', async () => {
  const lines = [];
  const app = await buildServer({ database: {}, token: new OneTimeToken(), host: '127.0.0.1', port: () => 4321, zone: 'UTC', cookieName: 'session', key: randomBytes(32),
    linkKey: randomBytes(32), logger: { level: 'info', stream: { write: line => lines.push(line) } } });
  for (const url of ['/link/sec-ret', '/enter?token=sec-ret', '/login/callback?code=sec-ret', '/changes?q=seen']) await app.inject({ url, headers: { host: '127.0.0.1:4321' } });
  await app.close();
  assert.ok(lines.some(line => line.includes('q=seen')));
  assert.deepEqual(lines.filter(line => line.includes('sec-ret')), []);
});

test('only the named files of packages are served', () => withServer(async ({ get }) => {
  assert.equal((await get('/vendor/htmx.js')).statusCode, 200);
  for (const path of ['/vendor/package.json', '/vendor/..%2fpackage.json', '/public/..%2fpackage.json', '/public/%2e%2e/package.json']) {
    assert.notEqual((await get(path)).statusCode, 200, path);
  }
}));
