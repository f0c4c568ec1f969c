// Trust is on every page that shows the history, or acts on it: up to when it is whole, how far it is behind, and its gaps with their reasons.
// A page that somebody adds without the banner is found here.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { after, before, test } from 'node:test';
import { pages } from '../../src/pages/index.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
let shop, dashboard, get;

before(async () => {
  if (!hasServer) return;
  shop = await openShop();
  dashboard = await openDashboard(shop.database, { linkKey: randomBytes(32) });
  const entered = await fetch(dashboard.enter(), { redirect: 'manual' });
  const cookie = entered.headers.getSetCookie().map(text => text.split(';')[0]).join('; ');
  get = path => fetch(dashboard.url + path, { headers: { cookie } });
});

after(async () => {
  await dashboard?.close();
  await shop?.close();
});

// The addresses of each page. The access log is no history of rows: it has its entries at once, or the page is not shown.
const ADDRESSES = {
  changes: () => ['/changes', '/changes?q=op:paint'],
  rows: () => ['/rows', '/rows?table=public.order'],
  requests: () => ['/requests'],
  past: () => ['/past?table=public.order&at=1h', '/past?table=public.order&at=1h&gaps=allow'],
  revert: ({ id }) => ['/revert', `/revert?change=${id}`, `/revert?transaction=${id}`, '/revert?q=deploy:v42', `/revert?table=public.order&key=1&before=${id}`, '/revert/done'],
  tables: () => ['/tables', '/tables/public/order', '/tables/public/order/plan?do=untrack', '/tables/public/order/plan?do=track&ignore=note'],
  sources: () => ['/sources', '/sources/named/main', '/sources/named/main/drop', '/sources/here', '/sources/connect', '/sources/connect?name=main'],
  links: () => ['/links'],
  access_log: () => [],
  change: ({ id }) => [`/change/${id}`],
  row: ({ key }) => [`/row/public/order/${key}`],
  request: ({ id }) => [`/request/${id}`, `/request/${id}?of=transaction`],
  export: () => ['/export'],
};

test('each page has the banner', options, async () => {
  const { rows: [change] } = await shop.client.query(`SELECT id, primary_key AS key FROM bemi.changes WHERE "table" = 'order' ORDER BY id DESC LIMIT 1`);
  for (const { name } of pages) {
    for (const address of ADDRESSES[name](change)) {
      const text = await (await get(address)).text();
      const [, banner] = /<div class="trust" role="status" data-source="\w+">(.*?)<\/div>/s.exec(text) ?? [];
      assert.ok(banner, address);
      assert.match(banner.replace(/<[^>]*>/g, ''), /(?:History up to|Complete from) .*\d\d:\d\d:\d\d, \d+ (?:ms|s) behind/, address);
    }
  }
});

// Two gaps are shown, and tests of other files make gaps, too.
test('a gap is there with its reason', options, async () => {
  for (const address of ['/changes', '/sources/connect?name=main', '/sources/named/main/drop', '/links', '/tables/public/order/plan?do=untrack']) {
    assert.match(await (await get(address)).text(), /<details class="gap"><summary>Gap [^<]*: the (?:source was dropped|table was not tracked)[^<]*<\/summary><p>[^<]+<\/p>/, address);
  }
});
