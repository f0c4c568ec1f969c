// Whatever an address or a form contains, the dashboard does not fail: the answer is a page, and its status says that the address is wrong. A
// status from 500 on would be a value that has come through to PostgreSQL, or a fault of ours.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, test } from 'node:test';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
let shop, dashboard, cookie, token, change;

before(async () => {
  if (!hasServer) return;
  shop = await openShop();
  dashboard = await openDashboard(shop.database, { linkKey: randomBytes(32) });
  const cookies = response => response.headers.getSetCookie().map(text => text.split(';')[0]).join('; ');
  cookie = cookies(await fetch(dashboard.enter(), { redirect: 'manual' }));
  const form = await fetch(`${dashboard.url}/changes`, { headers: { cookie } });
  cookie = cookies(form) || cookie;
  [, token] = /x-csrf-token&quot;:&quot;([^&]+)/.exec(await form.text());
  ({ rows: [{ id: change }] } = await shop.client.query('SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1'));
});

after(async () => {
  await dashboard?.close();
  await shop?.close();
});

const PATHS = ['/changes', '/rows', '/requests', '/past', '/revert', '/revert/done', '/tables', '/sources', '/sources/here', '/sources/connect', '/links', '/access-log', '/export', '/state',
  '/change/X', '/row/public/order/X', '/row/X/X/X', '/request/X', '/tables/X/X', '/tables/public/X', '/tables/public/order/plan', '/sources/named/X', '/sources/named/X/drop', '/sources/connect/X', '/links/X', '/export/changes.X',
  '/export/changes.csv', '/enter', '/link/X', '/X'];
const PARAMETERS = ['q', 'change', 'before', 'after', 'table', 'key', 'at', 'filter', 'compare', 'gaps', 'context', 'transaction', 'changes', 'from', 'to', 'mode', 'version', 'compared', 'source', 'of', 'who', 'exports', 'request',
  'kept', 'draft', 'name', 'do', 'redact', 'ignore', 'value.id', 'seen', 'token', 'next', 'force'];
const VALUES = ['', '%\'"\\', '[', '{"a": "\\u0000"}', '["\\u0000"]', '99999999999999999999999', '\ud800', '2026-13-45', 'a\nb', '00000000-0000-0000-0000-000000000000', '__proto__'];

const get = (path, more = {}) => fetch(dashboard.url + path, { redirect: 'manual', ...more, headers: { cookie, ...more.headers } });

async function checkAnswer(address) {
  const response = await get(address);
  assert.ok(response.status < 500, `${response.status} ${address}: ${/<section class="message"[^]*<\/section>/.exec(await response.text())}`);
}

test('a zero byte is refused in each address', options, async () => {
  for (const path of PATHS) {
    for (const address of [path.replaceAll('X', 'a%00b'), `${path}?q=a%00b`, `${path}?a%00b=q`].filter(text => text.includes('%00'))) {
      assert.equal((await get(address)).status, 400, address);
    }
  }
});

test('no value makes a page fail', options, async () => {
  for (const path of PATHS) {
    for (const value of VALUES) {
      const address = `${path.replaceAll('X', encodeURIComponent(value.toWellFormed()))}?${new URLSearchParams(PARAMETERS.map(name => [name, value]))}`;
      await checkAnswer(address);
    }
  }
});

// One value at a time, because another one that is wrong may end a page early.
test('nor does one value alone', options, async () => {
  const values = ['"', '{"a": "\\u0000"}', '99999999999999999999999', '\ud800', 'public.order', change];
  let i = 0;
  for (const path of ['/changes', '/past', '/revert', '/rows', '/requests', '/access-log', '/revert/done']) {
    for (const name of PARAMETERS.slice(0, 23)) await checkAnswer(`${path}?${new URLSearchParams({ [name]: values[i++ % values.length] })}`);
  }
});

test('a form that is empty, or none, or has a zero byte, is refused', options, async () => {
  const headers = { 'x-csrf-token': token };
  const bodies = [[undefined, {}], ['', {}], ['{"a": 1}', { 'content-type': 'application/json' }], ['a', { 'content-type': 'text/plain' }],
    ...['a%00=b', 'name=a%00b&name=c', 'q=a&q=b', 'change=%FF', 'context=%00'].map(text => [text, { 'content-type': 'application/x-www-form-urlencoded' }])];
  for (const path of ['/revert', '/links', `/links/${change}/end`, '/links/x/end', '/sources/connect', '/sources/connect/x', '/sources/named/nosuch/start', '/sources/named/nosuch/stop', '/sources/named/nosuch/drop', '/tables/public/nosuch/plan']) {
    for (const [body, more] of bodies) {
      const response = await get(path, { method: 'POST', body, headers: { ...headers, ...more } });
      assert.ok(response.status < 500, `${response.status} ${path} ${body}: ${/<section class="message"[^]*<\/section>/.exec(await response.text())}`);
      if (body?.includes('%00')) assert.equal(response.status, 400, `${path} ${body}`);
    }
  }
  assert.equal((await get('/revert', { method: 'POST', body: 'x=y', headers: { 'content-type': 'application/x-www-form-urlencoded' } })).status, 403);
});
