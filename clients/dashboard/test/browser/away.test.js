// A server that goes away and comes back: the page says so, goes on by itself, and its list then has each change once. There are three that
// can go away: the database, the connection to the dashboard (a laptop that sleeps, a proxy that is started again), and the dashboard.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { createConnection, createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { openAccessLog } from '../../src/access/access_log.js';
import { Database } from '../../src/database.js';
import { checkAccessibility, checkWidth, hasBrowser, openBrowser } from './browser.js';
import { openDashboard } from '../shop.js';
import { canStartServers, SourceServer } from '../source_server.js';

const options = { skip: !canStartServers ? 'PG_CONFIG is not set' : !hasBrowser && 'there is no Chromium' };
const key = randomBytes(32);
let server, database, dashboard, proxy, browser, page;

// Between the browser and the dashboard. port stays the same; to() names the dashboard's.
class Proxy {
  #sockets = new Set();
  #server;
  port = 0;

  constructor(to) {
    this.to = to;
  }

  async open() {
    this.#server = createServer(socket => {
      const other = createConnection(this.to(), '127.0.0.1');
      for (const [one, end] of [[socket, other], [other, socket]]) {
        this.#sockets.add(one);
        one.on('error', () => {}).on('close', () => { this.#sockets.delete(one); end.destroy(); }).pipe(end);
      }
    });
    await new Promise(resolve => { this.#server.listen(this.port, '127.0.0.1', resolve); });
    this.port = this.#server.address().port;
  }

  // Nothing comes from the dashboard, and nothing says so, as on a network that is gone.
  hold() {
    for (const socket of this.#sockets) socket.pause();
  }

  release() {
    for (const socket of this.#sockets) socket.resume();
  }

  async close() {
    const closed = new Promise(resolve => { this.#server.close(resolve); });
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}

const open = more => openDashboard(database, { key, port: () => proxy.port, ...more });
const address = path => `http://127.0.0.1:${proxy.port}${path}`;

before(async () => {
  if (options.skip) return;
  server = await SourceServer.make(["shared_preload_libraries = 'bemi'", 'wal_level = logical']);
  server.start();
  await server.query('CREATE DATABASE shop', 'postgres');
  await server.query("CREATE EXTENSION bemi; CREATE TABLE todo (id integer PRIMARY KEY, task text); SELECT bemi.track('todo')", 'shop');
  await server.query('CALL bemi.start()', 'shop');
  await add(1, 3);
  database = new Database({ host: server.dir, port: server.port, user: 'postgres', database: 'shop' });
  await openAccessLog(database);
  proxy = new Proxy(() => dashboard.app.server.address().port);
  await proxy.open();
  dashboard = await open();
  ({ browser, page } = await openBrowser());
  await page.goto(address(new URL(dashboard.enter()).pathname + new URL(dashboard.enter()).search));
});

after(async () => {
  if (options.skip) return;
  await browser?.close();
  await dashboard?.close();
  await proxy?.close().catch(() => {});
  await database?.end();
  server?.remove();
});

// Each of these changes is a group of its own.
async function add(from, to) {
  for (let id = from; id <= to; id++) {
    await server.query(`BEGIN; SELECT bemi.set_context('{"userId": ${id}}'); INSERT INTO todo VALUES (${id}, 'task ${id}'); COMMIT`, 'shop');
  }
  await server.query('SELECT bemi.sync()', 'shop');
}

const shown = () => page.locator('article.group').evaluateAll(groups => groups.map(group => group.id.slice(2)));
const stored = async () => (await server.query('SELECT id FROM bemi.changes ORDER BY id DESC', 'shop')).rows.map(({ id }) => id);

// The list has each change once, in its order, when all of it was loaded.
async function checkList() {
  const all = await stored();
  await page.locator(`#g-${all[0]}`).waitFor();
  await loadAll();
  assert.deepEqual(await shown(), all);
  await page.evaluate('scrollTo(0, 0)');
}

async function loadAll() {
  for (;;) {
    const next = page.locator('#next a');
    if (await next.count() === 0) break;
    const before = await page.locator('article.group').count();
    // It may be loading already, and be gone then.
    await next.evaluate(link => link.scrollIntoView(), undefined, { timeout: 1000 }).catch(() => {});
    await page.waitForFunction(count => document.querySelectorAll('article.group').length > count || !document.querySelector('#next a'), before);
  }
}

// The moment in the banner, and what it says of its own age.
const until = () => page.locator('.trust .until').innerText();
const stale = () => page.locator('.trust').getByText('is not updated');
const isMoving = async () => {
  const before = await until();
  await page.waitForFunction(text => document.querySelector('.trust .until').textContent !== text, before);
};

const isNear = () => page.getByText('shop · Connected').waitFor();

test('the banner moves while the page is open, and the page asks for nothing', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  const asked = [];
  page.on('request', request => asked.push(new URL(request.url()).pathname));
  for (let moves = 0; moves < 3; moves++) await isMoving();
  assert.deepEqual(asked, []);
  page.removeAllListeners('request');
  assert.match(await until(), /^[^,]* \d\d:\d\d:\d\d, \d+ m?s behind$|^\d\d:\d\d:\d\d, \d+ m?s behind$/);
  assert.ok(await stale().isHidden());
  await server.query("CALL bemi.stop('main')", 'shop');
  await page.locator('.trust').getByText('The source is not read at the moment.').waitFor();
  await page.locator('#source-state').getByText('Not connected').waitFor();
  await server.query("CALL bemi.start('main')", 'shop');
  await page.locator('.trust').getByText('The source is not read at the moment.').waitFor({ state: 'hidden' });
  await checkAccessibility(page, 'changes while the banner moves');
});

test('the database goes away: the page says so, and goes on when it is back', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  server.stop();
  await page.locator('#source-state').getByText('The database does not answer').waitFor();
  await stale().waitFor();
  // What was shown is still there.
  assert.equal((await shown()).length, 3);
  await checkAccessibility(page, 'changes without the database');
  server.start();
  await add(4, 6);
  await isNear();
  await stale().waitFor({ state: 'hidden' });
  await isMoving();
  await checkList();
});

test('a page that could not be shown loads by itself', options, async () => {
  server.stop();
  assert.equal((await page.goto(address('/changes?q=userId:6'))).status(), 503);
  assert.match(await page.getByRole('alert').innerText(), /loads by itself/);
  await checkAccessibility(page, 'a page without the database');
  server.start();
  await page.locator('article.group').waitFor();
  assert.match(page.url(), /q=userId:6$/);
});

test('the connection is lost: the page says so, and then has what has come meanwhile, once', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  await proxy.close();
  await page.getByText('No connection to the dashboard').waitFor();
  await stale().waitFor();
  await checkAccessibility(page, 'changes without a connection');
  await page.setViewportSize({ width: 320, height: 700 });
  await checkWidth(page, 'changes without a connection');
  await page.setViewportSize({ width: 1360, height: 860 });
  await add(7, 9);
  await proxy.open();
  await page.getByText('No connection to the dashboard').waitFor({ state: 'hidden' });
  await stale().waitFor({ state: 'hidden' });
  await isMoving();
  await checkList();
});

test('more has come than one page shows: nothing is missing in between', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  await proxy.close();
  await add(10, 55);
  await proxy.open();
  await page.locator(`#g-${(await stored())[0]}`).waitFor();
  await checkList();
});

test('a list that could not be loaded is loaded with the next event', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  let refused = 0;
  await page.route('**/changes', (route, request) => (request.headers()['hx-target'] === 'list' && refused++ < 2 ? route.fulfill({ status: 503, body: '' }) : route.continue()));
  await add(56, 56);
  await checkList();
  assert.ok(refused >= 2);
  await page.unroute('**/changes');
});

test('a group that is larger than a page is not shown twice', options, async () => {
  // So many changes are looked at, that the page cuts the large group elsewhere when others come.
  await server.query(`BEGIN; SELECT bemi.set_context('{"userId": 100}'); INSERT INTO todo SELECT n, 'many' FROM generate_series(1001, 2200) n; COMMIT`, 'shop');
  await add(60, 61);
  await page.goto(address('/changes'));
  await isNear();
  await add(62, 63);
  await page.locator(`#g-${(await stored())[0]}`).waitFor();
  await loadAll();
  // A group that is cut goes on below, with the changes that are not in it yet.
  const counts = await page.locator('article.group').evaluateAll(groups => groups.map(group => Number(group.dataset.count)));
  assert.equal(counts.reduce((sum, count) => sum + count), (await stored()).length);
  assert.deepEqual(await page.locator('article.group .who').evaluateAll(names => names.slice(0, 5).map(name => name.textContent.trim())), ['User 63', 'User 62', 'User 61', 'User 60', 'User 100']);
});

test('a connection that is open but silent: the banner does not pretend', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  await isMoving();
  proxy.hold();
  await stale().waitFor();
  proxy.release();
  await stale().waitFor({ state: 'hidden' });
});

test('the dashboard was started again: the page says that one has to come in again', options, async () => {
  await page.goto(address('/changes'));
  await isNear();
  await dashboard.close();
  dashboard = await open({ key: randomBytes(32) });
  await page.getByText('Your session here has ended.').waitFor();
  await stale().waitFor();
  await checkAccessibility(page, 'changes after the session');
  await page.getByRole('link', { name: 'Load the page again' }).click();
  await page.getByText('Open the address that the dashboard has printed').waitFor();
});
