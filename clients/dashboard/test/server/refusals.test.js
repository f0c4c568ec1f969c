// What must not happen twice, or at all: the same plan carried out by two browsers, a form sent again or without what it has shown, a writing address opened by
// somebody who may only read. And what a page shows whose query takes too long.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { Database } from '../../src/database.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
const NAME = 'shop_refusals';
let shop, viewer, closing = [];

// A browser: get() and post() with its own session and the token of its forms.
async function openBrowserOf(dashboard) {
  const cookies = response => response.headers.getSetCookie().map(text => text.split(';')[0]).join('; ');
  let cookie = cookies(await fetch(dashboard.enter(), { redirect: 'manual' }));
  const form = await fetch(`${dashboard.url}/changes`, { headers: { cookie } });
  cookie = cookies(form) || cookie;
  const [, token] = /x-csrf-token&quot;:&quot;([^&]+)/.exec(await form.text());
  const get = (path, headers = {}) => fetch(dashboard.url + path, { headers: { cookie, ...headers }, redirect: 'manual' });
  const post = (path, fields) => fetch(dashboard.url + path, {
    method: 'POST', headers: { cookie, 'x-csrf-token': token, 'content-type': 'application/x-www-form-urlencoded' }, body: new URLSearchParams(fields), redirect: 'manual',
  });
  return { get, post };
}

before(async () => {
  if (!hasServer) return;
  shop = await openShop({ name: NAME });
  shop.dashboard = await openDashboard(shop.database);
  await shop.client.query(`DROP ROLE IF EXISTS refusals_viewer; CREATE ROLE refusals_viewer LOGIN; SELECT bemi.grant_read('refusals_viewer');
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO refusals_viewer; GRANT EXECUTE ON FUNCTION bemi.plan_revert, bemi.revert, bemi.restore TO refusals_viewer`);
  const database = new Database({ database: NAME, user: 'refusals_viewer' });
  const dashboard = await openDashboard(database);
  viewer = await openBrowserOf(dashboard);
  closing = [() => dashboard.close(), () => database.end(), () => shop.dashboard.close(), () => shop.client.query('DROP OWNED BY refusals_viewer; DROP ROLE refusals_viewer'),
    // The server has few slots.
    () => shop.client.query("CALL bemi.drop_source('main')"), () => shop.close()];
});

after(async () => { for (const close of closing) await close(); });

let used = 500;

async function newChange() {
  const id = ++used;
  await shop.client.query("INSERT INTO customer (id, name, email, city) VALUES ($1, 'New', 'new@example.org', 'Bern')", [id]);
  await shop.shop.request({ userId: 7 }, () => shop.client.query("UPDATE customer SET city = 'Rome' WHERE id = $1", [id]));
  await shop.client.query('SELECT bemi.sync()');
  const { rows: [change] } = await shop.client.query("SELECT c.id FROM bemi.history('customer', $1, newest => 1) c", [String(id)]);
  return { id, change: change.id, city: async () => (await shop.client.query('SELECT city FROM customer WHERE id = $1', [id])).rows[0].city };
}

async function fieldsOf(browser, change) {
  const markup = await (await browser.get(`/revert?change=${change}`)).text();
  const form = /<form class="run"[^]*?<\/form>/.exec(markup)[0];
  const fields = Object.fromEntries([...form.matchAll(/<input type="hidden" name="(\w+)" value="([^"]*)"/g)].map(([, name, value]) => [name, value]));
  return { ...fields, confirm: fields.phrase };
}

test('of two browsers with the same plan, one carries it out', options, async () => {
  const { change, city, id } = await newChange();
  // One after the other: a new token makes the one before invalid.
  const browsers = [await openBrowserOf(shop.dashboard), await openBrowserOf(shop.dashboard)];
  const forms = await Promise.all(browsers.map(browser => fieldsOf(browser, change)));
  const answers = await Promise.all(browsers.map((browser, i) => browser.post('/revert', forms[i])));
  assert.deepEqual(answers.map(({ status }) => status).sort(), [303, 409]);
  assert.equal(await city(), 'Bern');
  // The form sent once more, by the one who has succeeded or not, does nothing.
  for (const [i, browser] of browsers.entries()) assert.equal((await browser.post('/revert', forms[i])).status, 409);
  const { rows } = await shop.client.query("SELECT FROM bemi.history('customer', $1) WHERE operation = 'UPDATE'", [String(id)]);
  assert.equal(rows.length, 2);
});

test('a form without the hash of the plan, or with another one, does nothing', options, async () => {
  const { change, city, id } = await newChange();
  const browser = await openBrowserOf(shop.dashboard);
  const fields = await fieldsOf(browser, change);
  for (const more of [{ expect: '' }, { expect: 'x' }, { confirm: '' }, { confirm: 'other' }, { table: 'public.customer', key: String(id), at: '1s', expect: '' }]) {
    const response = await browser.post('/revert', { ...fields, ...more });
    assert.notEqual(response.status, 303, JSON.stringify(more));
    assert.equal(await city(), 'Rome', JSON.stringify(more));
  }
  for (const path of ['/revert/choices', '/logout', '/tables/public/customer/plan']) assert.notEqual((await browser.get(path)).status, 303, path);
});

test('who may only read writes nothing, whatever he sends', options, async () => {
  const { change, city, id } = await newChange();
  const browser = await openBrowserOf(shop.dashboard);
  const fields = await fieldsOf(browser, change);
  const state = async () => (await shop.client.query('SELECT (SELECT count(*) FROM bemi.tracked) AS tracked, (SELECT state FROM bemi.status) AS state')).rows;
  const former = await state();
  for (const [path, form] of [['/revert', fields], ['/revert', { table: 'public.customer', key: String(id), before: change, expect: 'x', phrase: 'a', confirm: 'a' }], ['/tables/public/customer/plan', { do: 'untrack' }],
    ['/tables/public/customer/plan', { do: 'track', ignore: 'city' }], ['/sources/named/main/stop', {}], ['/sources/named/main/drop', { name: 'main', confirm: 'main', phrase: 'main' }], ['/sources/here', { name: 'other' }]]) {
    const { status } = await viewer.post(path, form);
    assert.ok(status >= 400 && status < 500, `${path}: ${status}`);
  }
  assert.equal(await city(), 'Rome');
  assert.deepEqual(await state(), former);
});

test('a page whose query takes too long reports that, also in a part', options, async () => {
  const browser = await openBrowserOf(shop.dashboard);
  const { change } = await newChange();
  const locker = new pg.Client({ database: NAME });
  await locker.connect();
  try {
    await locker.query('BEGIN; LOCK TABLE bemi.changes IN ACCESS EXCLUSIVE MODE');
    const answers = await Promise.all([browser.get('/changes?q=table:coupon'), browser.get(`/changes?change=${change}`, { 'hx-request': 'true', 'hx-target': 'panel' })]);
    for (const answer of answers) {
      assert.equal(answer.status, 504);
      assert.match(await answer.text(), /role="alert"[^]*took too long|role="alert"[^]*too long/);
    }
  } finally {
    await locker.query('ROLLBACK');
    await locker.end();
  }
  assert.equal((await browser.get('/changes?q=table:coupon')).status, 200);
});
