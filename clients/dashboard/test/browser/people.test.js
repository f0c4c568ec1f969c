// People with accounts: each is a role of PostgreSQL, and sees what this role may see. The server asks for passwords, so it is one of its own.

import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { after, before, test } from 'node:test';
import { Accounts, LoginRefused } from '../../src/access/accounts.js';
import { readLink, signLink } from '../../src/access/links.js';
import { openAccessLog } from '../../src/access/access_log.js';
import { Database } from '../../src/database.js';
import { addLink, endLink, ownLinks } from '../../src/queries/links.js';
import { checkAccessibility, checkWidth, follow, hasBrowser, openBrowser } from './browser.js';
import { openDashboard } from '../shop.js';
import { canStartServers, SourceServer } from '../source_server.js';

const options = { skip: !canStartServers ? 'PG_CONFIG is not set' : !hasBrowser && 'there is no Chromium' };
const linkKey = randomBytes(32);
let server, owner, accounts, database, dashboard, browser, page, faults;

const SETUP = `
CREATE EXTENSION bemi;
CREATE TABLE todo (id integer PRIMARY KEY, task text);
SELECT bemi.track('todo');
CREATE TABLE secret_table (id integer PRIMARY KEY);
SELECT bemi.track('secret_table');
CREATE ROLE viewer LOGIN PASSWORD 'v-secret';
CREATE ROLE stranger LOGIN PASSWORD 's-secret';
CREATE ROLE operator LOGIN SUPERUSER PASSWORD 'o-secret';
CREATE ROLE linker LOGIN PASSWORD 'l-secret';
SELECT bemi.grant_read('viewer');
SELECT bemi.grant_read('linker');`;

const changeOf = (user, id = user) => `BEGIN; SELECT bemi.set_context('{"userId": ${user}, "endpoint": "/todo"}'); INSERT INTO todo VALUES (${id}, 'task of ${user}'); COMMIT;`;

before(async () => {
  if (options.skip) return;
  server = await SourceServer.make(["shared_preload_libraries = 'bemi'", 'wal_level = logical']);
  server.start();
  await server.query('CREATE DATABASE shop', 'postgres');
  await server.query(SETUP, 'shop');
  await server.query('CALL bemi.start()', 'shop');
  for (const user of [7, 8]) await server.query(changeOf(user), 'shop');
  await server.query('SELECT bemi.sync()', 'shop');
  owner = new Database({ host: server.dir, port: server.port, user: 'postgres', database: 'shop' });
  await openAccessLog(owner);
  const url = `postgres://linker:l-secret@127.0.0.1:${server.port}/shop`;
  accounts = new Accounts(url);
  database = new Database({ connectionString: url });
  dashboard = await openDashboard(database, { accounts, linkKey });
  ({ browser, page, faults } = await openBrowser());
});

after(async () => {
  if (options.skip) return;
  await browser?.close();
  await dashboard?.close();
  await accounts?.end();
  await database?.end();
  await owner?.end();
  server?.remove();
});

async function logIn(where, user, password) {
  await where.getByLabel('Role').fill(user);
  await where.getByLabel('Password').fill(password);
  await where.getByRole('button', { name: 'Log in' }).click();
}

async function inOwnContext(work) {
  const context = await browser.newContext();
  try {
    return await work(await context.newPage(), context);
  } finally {
    await context.close();
  }
}

test('without a login, there is only the page to log in', options, async () => {
  await page.goto(`${dashboard.url}/changes?q=table:todo`);
  await page.getByRole('button', { name: 'Log in' }).waitFor();
  await checkAccessibility(page, 'the login');
  await logIn(page, 'viewer', 'wrong');
  assert.match(await page.getByRole('alert').innerText(), /is not right/);
  assert.equal(await page.getByLabel('Password').inputValue(), '');
  await logIn(page, 'nobody', 'wrong');
  assert.match(await page.getByRole('alert').innerText(), /is not right/);
  faults.length = 0;
});

test('a role sees the page that it has asked for, and what it may see', options, async () => {
  await logIn(page, 'viewer', 'v-secret');
  await page.waitForURL(`${dashboard.url}/changes?q=table:todo`);
  assert.equal(await page.locator('article.group').count(), 2);
  assert.match(await page.locator('.account').innerText(), /viewer/);
  await checkAccessibility(page, 'changes of a viewer');
  const cookie = (await page.context().cookies()).find(({ name }) => name === 'session');
  assert.ok(cookie.httpOnly && !cookie.value.includes('secret'));
  await page.goto(`${dashboard.url}/sources`);
  assert.equal(await page.locator('.actions a, .actions button').count(), 0);
  assert.equal(await page.getByRole('link', { name: 'Links' }).count(), 0);
  await page.goto(`${dashboard.url}/tables/public/todo`);
  assert.equal(await page.getByRole('button', { name: /Track|rules/ }).count(), 0);
});

test('two roles at a time have their own rights', options, () => inOwnContext(async other => {
  await other.goto(`${dashboard.url}/sources`);
  await logIn(other, 'operator', 'o-secret');
  await other.getByRole('link', { name: 'Connect another server' }).waitFor();
  await page.goto(`${dashboard.url}/sources`);
  assert.match(await page.locator('.account').innerText(), /viewer/);
  assert.equal(await page.getByRole('link', { name: 'Connect another server' }).count(), 0);
  const log = await server.query("SELECT DISTINCT role FROM bemi_dashboard.access_log WHERE address LIKE '/changes%'", 'shop');
  assert.deepEqual(log.rows, [{ role: 'viewer' }]);
}));

test('a role without rights is told so by PostgreSQL', options, () => inOwnContext(async other => {
  await other.goto(`${dashboard.url}/changes`);
  await logIn(other, 'stranger', 's-secret');
  assert.match(await other.getByRole('alert').innerText(), /permission denied/);
}));

test('who logs out is out, also with his old cookie', options, async () => {
  const cookies = await page.context().cookies();
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('button', { name: 'Log in' }).waitFor();
  await page.context().addCookies(cookies);
  await page.goto(`${dashboard.url}/changes`);
  await page.getByRole('button', { name: 'Log in' }).waitFor();
  faults.length = 0;
});

test('a server that asks for no password lets nobody in', options, async () => {
  const open = new Accounts(`postgres://localhost:${server.port}/shop?host=${server.dir}`);
  await assert.rejects(open.logIn('postgres', 'anything'), error => error instanceof LoginRefused && error.kind === 'open');
  await open.end();
});

test('passwords cannot be tried out, nor with the right one at the end', options, async () => {
  const mine = new Accounts(`postgres://127.0.0.1:${server.port}/shop`);
  for (let i = 0; i < 10; i++) await assert.rejects(mine.logIn('viewer', `guess ${i}`), { kind: 'password' });
  await assert.rejects(mine.logIn('viewer', 'v-secret'), { kind: 'often' });
  await mine.find(await mine.logIn('operator', 'o-secret')).database.read(async () => {});
  await mine.end();
});

test('nor many at a time', options, async () => {
  const mine = new Accounts(`postgres://127.0.0.1:${server.port}/shop`);
  const kinds = await Promise.all(Array.from({ length: 30 }, (_, i) => mine.logIn('viewer', `guess ${i}`).catch(({ kind }) => kind)));
  assert.equal(kinds.filter(kind => kind === 'password').length, 10);
  assert.equal(kinds.filter(kind => kind === 'often').length, 20);
  // Those that are right count no more when they are through.
  for (let i = 0; i < 3; i++) await Promise.all(Array.from({ length: 5 }, () => mine.logIn('operator', 'o-secret')));
  // A name is no place for settings of the connection.
  for (const [user, password] of [['operator\0database\0postgres', 'o-secret'], ['operator', 'o-secret\0'], ['', 'o-secret'], ['operator', ''], ['x'.repeat(64), 'o-secret']]) {
    await assert.rejects(mine.logIn(user, password), { kind: 'password' });
  }
  await mine.end();
});

test('a login needs the token of its form, and cookies are secure behind HTTPS', options, async () => {
  const response = await dashboard.app.inject({ method: 'POST', url: '/login', headers: { host: new URL(dashboard.url).host, 'content-type': 'application/x-www-form-urlencoded' }, payload: 'user=viewer&password=v-secret' });
  assert.equal(response.statusCode, 403);
  const secure = await openDashboard(database, { accounts, isSecure: true, publicHost: 'history.example' });
  try {
    const entry = await secure.app.inject({ url: '/changes', headers: { host: 'history.example' } });
    assert.match(String(entry.headers['set-cookie']), /Secure/);
    assert.match(entry.headers['strict-transport-security'], /max-age/);
    assert.equal((await secure.app.inject({ url: '/changes', headers: { host: 'evil.example' } })).statusCode, 421);
    assert.equal((await secure.app.inject({ url: '/changes', headers: { host: '127.0.0.1' } })).statusCode, 421);
  } finally {
    await secure.close();
  }
});

// ---- links

let address;
const linkId = () => readLink(new URL(address).pathname.split('/').at(-1), linkKey).id;

test('an operator makes a link for a customer', options, async () => {
  await page.goto(`${dashboard.url}/links`);
  await logIn(page, 'operator', 'o-secret');
  await page.waitForURL(/\/links$/);
  await checkAccessibility(page, 'links');
  await page.getByLabel('For whom').fill('Ada <b>');
  for (const wrong of ['table:todo', 'userId:7 userId:8', '-userId:7', 'userId:7*', '7']) {
    await page.getByLabel('Context').fill(wrong);
    await page.getByRole('button', { name: 'Make the link' }).click();
    await page.locator('[name=context][aria-invalid]').waitFor();
  }
  await page.getByLabel('Context').fill(`note:${'ä'.repeat(1900)}`);
  await page.getByRole('button', { name: 'Make the link' }).click();
  await page.getByText('This context is too long for a link.').waitFor();
  await page.getByLabel('Context').fill('userId:7');
  await page.getByRole('button', { name: 'Make the link' }).click();
  address = await page.locator('#link').innerText();
  await checkAccessibility(page, 'a link');
  faults.length = 0;
});

test('who could not see all of it cannot make one', options, () => inOwnContext(async other => {
  await other.goto(`${dashboard.url}/links`);
  await logIn(other, 'viewer', 'v-secret');
  await other.getByText('Only its members can make them').waitFor();
}));

test('the customer sees the changes with his context, and nothing else', options, () => inOwnContext(async (customer, context) => {
  await customer.goto(address);
  await customer.waitForURL(/\/changes$/);
  assert.equal(await customer.locator('article.group').count(), 1);
  assert.match(await customer.locator('.account').innerText(), /Link for Ada <b>/);
  await checkAccessibility(customer, 'changes of a customer');
  assert.deepEqual(await customer.locator('.navigation li').allInnerTexts(), ['Changes']);
  assert.ok(!(await customer.content()).includes('task of 8'));
  const { rows: [{ id }] } = await server.query(`SELECT id FROM bemi.changes WHERE context @> '{"userId": 8}'`, 'shop');
  for (const query of ['q=userId:8', 'q=user:8', 'q=-userId:7', 'q=context.userId:8', 'q=table:todo+key:8', 'q=key:8', `change=${id}`, 'q=userId:7+userId:8']) {
    await customer.goto(`${dashboard.url}/changes?${query}`);
    assert.ok(!(await customer.locator('main').innerText()).includes('task of 8'), query);
    const part = await context.request.get(`${dashboard.url}/changes?${query}`, { headers: { 'hx-request': 'true', 'hx-target': 'panel' } });
    assert.ok(!(await part.text()).includes('task of 8'), `${query}, the panel`);
  }
  await customer.goto(`${dashboard.url}/changes`);
  await customer.locator('a.line').first().click();
  await customer.locator('.panel-content').waitFor();
  assert.match(await customer.locator('#panel').innerText(), /task of 7/);
  assert.equal(await customer.locator('#panel .actions a').count(), 0);
  for (const path of ['/sources', '/tables', '/links', '/rows', '/requests', `/change/${id}`, `/request/${id}`, '/row/public/todo/8', '/past', '/revert', '/access-log', '/nosuch']) {
    const response = await context.request.get(dashboard.url + path);
    assert.equal(response.status(), 404, path);
    assert.ok(!(await response.text()).includes('task of 8'), path);
  }
  // Forms of others, with the token of his own page.
  const token = JSON.parse(await customer.locator('body').getAttribute('hx-headers'))['x-csrf-token'];
  for (const path of ['/links', `/links/${linkId()}/end`, '/revert', '/sources/named/main/stop', '/sources/named/main/drop', '/tables/public/todo/plan', '/logout']) {
    assert.equal((await context.request.post(dashboard.url + path, { form: { _csrf: token } })).status(), 404, path);
  }
  const { rows } = await server.query("SELECT DISTINCT person FROM bemi_dashboard.access_log WHERE role = 'linker'", 'shop');
  assert.deepEqual(rows, [{ person: 'link: Ada <b>' }]);
}));

test('the customer exports his changes, and no others', options, () => inOwnContext(async (customer, context) => {
  await customer.goto(address);
  await customer.getByRole('link', { name: 'Export' }).click();
  await customer.getByRole('link', { name: 'JSON lines' }).waitFor();
  await checkAccessibility(customer, 'the export of a customer');
  assert.deepEqual(await customer.locator('.navigation li').allInnerTexts(), ['Changes']);
  const { rows: [{ id }] } = await server.query(`SELECT id FROM bemi.changes WHERE context @> '{"userId": 8}'`, 'shop');
  for (const query of ['', 'q=userId:8', 'q=-userId:7', 'q=context.userId:8', 'q=table:todo+key:8', 'q=key:8', `before=${id}`, `change=${id}`, 'q=userId:7+userId:8', 'q=userId:7&q=userId:8', 'limit=', 'q=userId:*']) {
    for (const file of ['changes.jsonl', 'changes.csv']) {
      const text = await (await context.request.get(`${dashboard.url}/export/${file}?${query}`)).text();
      assert.ok(!text.includes('task of 8') && !text.includes(id), `${file}?${query}`);
      if (query === '') assert.ok(text.includes('task of 7'));
    }
    assert.ok(!(await (await context.request.get(`${dashboard.url}/export?${query}`)).text()).includes('task of 8'), query);
  }
  const { rows } = await server.query("SELECT person, action, changes::int FROM bemi_dashboard.access_log WHERE role = 'linker' AND starts_with(address, '/export/changes.jsonl') AND address !~ '=' ORDER BY id", 'shop');
  assert.deepEqual(rows, [{ person: 'link: Ada <b>', action: 'export', changes: null }, { person: 'link: Ada <b>', action: 'exported', changes: 1 }]);
}));

// The events of /live, as they come: next() resolves to the next one, or to undefined when the stream ends.
async function listen(cookies, { url } = dashboard) {
  const response = await fetch(`${url}/live`, { headers: { cookie: cookies.map(({ name, value }) => `${name}=${value}`).join('; ') } });
  assert.equal(response.status, 200);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  return async name => {
    for (;;) {
      const [event, rest] = text.split(/\n\n(.*)/s);
      if (rest !== undefined) {
        text = rest;
        const [, kind, data] = /^event: (\w+)\ndata: (.*)$/.exec(event) ?? [];
        if (kind === name) return data;
      } else {
        const { value, done } = await reader.read();
        if (done) return undefined;
        text += value;
      }
    }
  };
}

const idOf = async user => (await server.query(`SELECT id FROM bemi.changes WHERE context @> '{"userId": ${user}}' ORDER BY id DESC LIMIT 1`, 'shop')).rows[0].id;

test('the customer hears of his changes, and of no others', options, () => inOwnContext(async (customer, context) => {
  await customer.goto(address);
  assert.equal(await customer.locator('#list').getAttribute('data-newest'), await idOf(7));
  const next = await listen(await context.cookies());
  assert.equal(await next('newest'), await idOf(7));
  await server.query(changeOf(8, 18), 'shop');
  await server.query(changeOf(7, 17), 'shop');
  await server.query('SELECT bemi.sync()', 'shop');
  assert.equal(await next('newest'), await idOf(7));
  const { sources, lines } = JSON.parse(await next('state'));
  assert.match(sources, /Connected/);
  assert.doesNotMatch(sources, /changes/);
  assert.deepEqual(Object.values(lines).map(({ problem }) => problem), ['']);
  const state = await (await context.request.get(`${dashboard.url}/state`)).text();
  assert.match(state, /Connected/);
}));

test('the errors and gaps that a customer sees name nothing of the server', options, () => inOwnContext(async (customer, context) => {
  await server.query('REVOKE SELECT ON bemi.changes FROM linker', 'shop');
  try {
    const response = await context.request.get(address, { maxRedirects: 0 });
    assert.equal(response.status(), 302);
    const text = await (await context.request.get(`${dashboard.url}/changes`)).text();
    assert.match(text, /may not do this/);
    assert.doesNotMatch(text, /permission denied|bemi\.changes|grant_read/);
  } finally {
    await server.query("SELECT bemi.grant_read('linker')", 'shop');
  }
  await server.query("SELECT bemi.untrack('secret_table')", 'shop');
  await customer.goto(`${dashboard.url}/changes`);
  assert.match(await customer.locator('.trust').innerText(), /was not tracked/);
  assert.ok(!(await customer.content()).includes('secret_table'));
}));

// ---- the end of a link

test('only whom a link belongs to sees it in the list, and can end it', options, async () => {
  const as = user => new Database({ host: '127.0.0.1', port: server.port, database: 'shop', user, password: `${user[0]}-secret` });
  const [viewer, stranger, linker] = [as('viewer'), as('stranger'), as('linker')];
  const list = database => database.read(client => ownLinks(client)).then(links => links.length);
  const endIt = database => database.write(client => endLink(client, linkId()));
  try {
    assert.deepEqual(await Promise.all([viewer, stranger, linker].map(list)), [0, 0, 0]);
    for (const other of [viewer, stranger, linker]) await assert.rejects(endIt(other), { code: '42704' });
    for (const other of [viewer, stranger, linker]) {
      await assert.rejects(other.read(client => client.query('SELECT FROM bemi_dashboard.links')), { code: '42501' });
      await assert.rejects(other.write(client => client.query('UPDATE bemi_dashboard.links SET ended_at = NULL, until = now()')), { code: '42501' });
    }
    // Who may not read the history fills no list.
    const id = randomUUID();
    await assert.rejects(stranger.write(client => addLink(client, { id, name: 'x', context: [['userId', '7']], until: new Date() })), { code: '42501' });
    // A link of one's own can be ended, once.
    await viewer.write(client => addLink(client, { id, name: 'x', context: [['userId', '7']], until: new Date(Date.now() + 60_000) }));
    assert.equal(await list(viewer), 1);
    await viewer.write(client => endLink(client, id));
    await assert.rejects(viewer.write(client => endLink(client, id)), { code: '42704' });
  } finally {
    await Promise.all([viewer, stranger, linker].map(one => one.end()));
  }
  await inOwnContext(async (other, context) => {
    await other.goto(`${dashboard.url}/changes`);
    await logIn(other, 'viewer', 'v-secret');
    await other.locator('.account').waitFor();
    assert.equal((await context.request.get(`${dashboard.url}/links/${linkId()}`)).status(), 404);
    const token = JSON.parse(await other.locator('body').getAttribute('hx-headers'))['x-csrf-token'];
    const response = await context.request.post(`${dashboard.url}/links/${linkId()}/end`, { form: { _csrf: token }, maxRedirects: 0 });
    assert.equal(response.status(), 404);
    assert.match(await response.text(), /you have no link/);
  });
});

test('the key alone makes no link', options, () => inOwnContext(async customer => {
  const until = new Date(Date.now() + 60_000);
  for (const forged of [{ id: randomUUID(), context: [['userId', '7']] }, { id: linkId(), context: [['userId', '8']] }, { id: linkId(), context: [['endpoint', '"/todo"']] }]) {
    const response = await customer.goto(`${dashboard.url}/link/${signLink({ ...forged, until, name: 'x' }, linkKey)}`);
    assert.equal(response.status(), 410);
  }
}));

test('a link is ended from the list, and opens nothing from then on, also where it is open', options, () => inOwnContext(async (customer, context) => {
  await customer.goto(address);
  const next = await listen(await context.cookies());
  assert.ok(await next('newest'));
  await page.goto(`${dashboard.url}/links`);
  await page.getByRole('link', { name: 'End the link for Ada <b>' }).click();
  assert.equal(await page.locator('#plan').innerText(), `SELECT bemi_dashboard.end_link('${linkId()}');`);
  await checkAccessibility(page, 'the end of a link');
  await page.getByRole('button', { name: 'End it' }).click();
  await page.waitForURL(/\/links$/);
  assert.match(await page.locator('tr', { hasText: 'Ada <b>' }).innerText(), /ended .* by operator/);
  assert.equal(await page.getByRole('link', { name: /^End the link/ }).count(), 0);
  await checkAccessibility(page, 'the list of links');
  assert.equal((await customer.goto(`${dashboard.url}/changes`)).status(), 410);
  assert.equal((await customer.goto(address)).status(), 410);
  for (const path of ['/export', '/export/changes.csv', '/state', '/live']) assert.equal((await context.request.get(dashboard.url + path)).status(), 410, path);
  // The stream that was open ends, too.
  assert.equal(await next('end'), undefined);
}));

test('who logs out hears nothing more', options, () => inOwnContext(async (other, context) => {
  await other.goto(`${dashboard.url}/changes`);
  await logIn(other, 'viewer', 'v-secret');
  await other.locator('.account').waitFor();
  const next = await listen(await context.cookies());
  assert.ok(await next('newest'));
  await other.getByRole('button', { name: 'Log out' }).click();
  assert.equal(await next('end'), undefined);
}));

test('a link that has ended, or was changed, opens nothing', options, ({ mock }) => inOwnContext(async customer => {
  const soon = new Date(Date.now() + 60_000);
  const link = { id: randomUUID(), context: [['userId', '7']], until: soon, name: 'x' };
  await owner.write(client => addLink(client, link));
  const short = `${dashboard.url}/link/${signLink(link, linkKey)}`;
  await customer.goto(short);
  assert.match(customer.url(), /\/changes$/);
  assert.equal((await customer.goto(`${short}x`)).status(), 410);
  mock.timers.enable({ apis: ['Date'], now: soon });
  assert.equal((await customer.goto(`${dashboard.url}/changes`)).status(), 410);
  assert.equal((await customer.goto(short)).status(), 410);
  await checkAccessibility(customer, 'a link that has ended');
}));

test('a flood of links hides none', options, async () => {
  const { rows: [before] } = await server.query('SELECT count(*)::integer AS count FROM bemi_dashboard.links', 'shop');
  // All of the same time.
  await server.query("SELECT bemi_dashboard.add_link(gen_random_uuid(), 'flood ' || n, '{\"userId\": 7}', now() + interval '1 day', NULL) FROM generate_series(1, 250) n", 'shop');
  const names = () => page.locator('tbody th').evaluateAll(cells => cells.map(cell => cell.firstChild.textContent.trim()));
  await page.goto(`${dashboard.url}/links`);
  const seen = await names();
  assert.ok(seen.length < 250);
  for (const earlier = page.getByRole('link', { name: 'Earlier links' }); await earlier.count() > 0;) {
    await follow(earlier);
    seen.push(...await names());
  }
  assert.equal(seen.length, before.count + 250);
  assert.equal(new Set(seen.filter(name => name.startsWith('flood'))).size, 250);
  assert.ok(seen.includes('Ada <b>'));
  await checkAccessibility(page, 'earlier links');
  await follow(page.getByRole('link', { name: 'Newest links' }));
  assert.match((await names())[0], /^flood/);
  assert.equal((await page.goto(`${dashboard.url}/links?before=x`)).status(), 200);
});

test('nothing sticks out at 320 pixels', options, async () => {
  await page.setViewportSize({ width: 320, height: 700 });
  await page.goto(`${dashboard.url}/links`);
  await checkWidth(page, 'links');
  await page.emulateMedia({ colorScheme: 'dark' });
  await checkAccessibility(page, 'links in the dark');
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
