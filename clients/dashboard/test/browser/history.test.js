// From a complaint to the row, the change and the request, as a person does it; then rows, requests, export and the access log.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { checkAccessibility, checkWidth, follow, hasBrowser, openBrowser } from './browser.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
let shop, dashboard, browser, page, faults, order;

before(async () => {
  if (options.skip) return;
  shop = await openShop();
  dashboard = await openDashboard(shop.database);
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
  // The order that customer 7 complains about: paid by him, then changed by user 12.
  const { rows } = await shop.client.query(`SELECT primary_key FROM bemi.changes WHERE "table" = 'order' AND context ->> 'userId' = '12' AND after ->> 'note' = 'discount by phone'`);
  order = rows[0].primary_key;
});

after(async () => {
  await browser?.close();
  await dashboard?.close();
  await shop?.close();
});

const open = path => page.goto(`${dashboard.url}${path}`);

test('a row is found by its key, and says who has set each column', options, async () => {
  await open('/rows');
  await checkAccessibility(page, 'rows');
  await page.locator('select[name=table]').selectOption({ label: 'order' });
  await page.getByLabel('Primary key').fill(order);
  await page.getByRole('button', { name: 'Show' }).click();
  await page.waitForURL(`**/row/public/order/${order}`);
  const setter = column => page.locator('.blame tr', { has: page.locator(`th:text-is("${column}")`) }).locator('.setter').innerText();
  assert.match(await setter('note'), /^User 12 · /);
  assert.match(await setter('status'), /^User 7 · /);
  assert.match(await page.locator('#version h2').innerText(), /Version 5 of 5\s+newest/);
  await checkAccessibility(page, 'a row');
});

test('the slider goes through the versions, and the address follows', options, async () => {
  await open(`/row/public/order/${order}`);
  await page.locator('#slider').focus();
  await page.keyboard.press('ArrowLeft');
  await page.locator('#version h2', { hasText: 'Version 4 of 5' }).waitFor();
  await page.waitForURL(/version=/);
  assert.match(await page.locator('#version').innerText(), /User 7 set status from open to paid/);
  assert.equal(await page.locator('.timeline a[aria-current]').count(), 1);
  const shown = await page.locator('#version').innerText();
  await page.reload();
  assert.equal(await page.locator('#version').innerText(), shown);
  await page.locator('.timeline a').first().click();
  await page.locator('#version h2', { hasText: 'Version 1 of 5' }).waitFor();
  // The slider follows when the answer has settled.
  await page.locator('.timeline a').first().and(page.locator('[aria-current]')).waitFor();
  assert.equal(await page.locator('#slider').inputValue(), '1');
});

test('any two versions are compared', options, async () => {
  await open(`/row/public/order/${order}`);
  await page.getByLabel('From').selectOption({ index: 4 });
  await page.getByRole('button', { name: 'Compare' }).click();
  await page.waitForURL(/compared=/);
  const compared = await page.locator('#compare').innerText();
  assert.match(compared, /status\s+open →/);
  assert.match(compared, /"street": "1 Harbour Street"/);
  assert.match(compared, /2 columns are the same/);
  await checkAccessibility(page, 'two versions');
});

test('a change has its sentence, its differences, its context and its transaction', options, async () => {
  await open(`/row/public/order/${order}`);
  await follow(page.getByRole('link', { name: 'Whole change' }));
  assert.match(await page.locator('h1').innerText(), /^User 12 changed total, discount, address, and note in PUT \/admin\/orders\/\d+, /);
  assert.equal(await page.locator('.difference.lines ins').innerText(), '    "street": "1 Harbour Street"\n');
  assert.match(await page.locator('main').innerText(), /3 unchanged columns[\s\S]*Context[\s\S]*userId\s+12[\s\S]*Transaction/);
  await checkAccessibility(page, 'a change');
  await follow(page.getByRole('link', { name: 'Earlier change of this row' }));
  assert.match(await page.locator('h1').innerText(), /^User 7 set status from open to paid/);
});

test('a request has all rows of all tables', options, async () => {
  await follow(page.getByRole('link', { name: 'Whole request' }));
  const tables = await page.locator('section.group h2').allInnerTexts();
  assert.deepEqual(tables, ['order', 'payment', 'stock']);
  assert.match(await page.locator('.summary').innerText(), /4 changes in 3 tables, in request \S+, /);
  await checkAccessibility(page, 'a request');
  await follow(page.getByRole('link', { name: 'Whole transaction' }));
  assert.match(await page.locator('.summary').innerText(), /4 changes in 3 tables, in transaction \d+, /);
});

test('a large transaction is shown in parts', options, async () => {
  const { rows: [{ id, count }] } = await shop.client.query(`SELECT min(id::text) AS id, count(*)::int FROM bemi.changes WHERE context ->> 'job' = 'nightly-prices' GROUP BY transaction_id LIMIT 1`);
  await open(`/request/${id}`);
  assert.equal(await page.locator('a.line').count(), 12);
  await follow(page.getByRole('link', { name: `Show ${count - 12} more` }));
  assert.equal(await page.locator('a.line').count(), Math.min(count, 200));
  await follow(page.getByRole('link', { name: /Show the next/ }));
  assert.equal(await page.locator('a.line').count(), count - 200);
});

test('requests are found like changes', options, async () => {
  await open('/requests?q=user:12+table:order');
  assert.ok(await page.locator('a.request', { hasText: `PUT /admin/orders/${order}` }).count() > 0);
  await checkAccessibility(page, 'requests');
  await open('/requests');
  const first = await page.locator('a.request').count();
  await page.evaluate('scrollTo(0, document.body.scrollHeight)');
  await page.waitForFunction(count => document.querySelectorAll('a.request').length > count, first);
  const ids = await page.locator('a.request').evaluateAll(lines => lines.map(line => line.id));
  assert.equal(new Set(ids).size, ids.length);
});

test('an export is downloaded, and written down', options, async () => {
  await open('/changes?q=table:order+user:12');
  await follow(page.getByRole('link', { name: 'Export' }));
  await checkAccessibility(page, 'export');
  const downloading = page.waitForEvent('download');
  await page.getByRole('link', { name: 'CSV' }).click();
  const download = await downloading;
  assert.match(download.suggestedFilename(), /^changes-.*\.csv$/);
  const chunks = [];
  for await (const chunk of await download.createReadStream()) chunks.push(chunk);
  assert.match(Buffer.concat(chunks).toString(), /^\ufeffid,committed_at,.*\r\n.*,order,/);
  await open('/access-log');
  assert.match(await page.locator('.entry-line', { hasText: 'exported' }).first().innerText(), /exported\s+postgres\s+\/export\/changes\.csv table:order user:12 \d+ change/);
  await checkAccessibility(page, 'the access log');
  await follow(page.getByRole('link', { name: 'Only exports' }));
  assert.equal(await page.locator('.entry-line', { hasText: 'looked at' }).count(), 0);
});

test('what is not there is a page that says so', options, async () => {
  for (const path of ['/change/none', '/change/00000000-0000-0000-0000-000000000000', '/request/x', '/row/public/order/999999', '/row/no/such/1', `/row/public/order/${order}?version=00000000-0000-0000-0000-000000000000`]) {
    assert.equal((await open(path)).status(), 404, path);
  }
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('404')), []);
});

test('a row of a table that does not exist any more has its history', options, async () => {
  await page.goto('about:blank');
  await shop.client.query('CREATE TABLE IF NOT EXISTS gone (id integer PRIMARY KEY, text text)');
  await shop.client.query("SELECT bemi.track('gone')");
  await shop.shop.request({ userId: 5 }, () => shop.client.query("INSERT INTO gone VALUES (1, 'a')"));
  await shop.shop.request({ userId: 6 }, () => shop.client.query("UPDATE gone SET text = 'b'"));
  await shop.client.query('DROP TABLE gone');
  await shop.client.query('SELECT bemi.sync()');
  await open('/row/public/gone/1');
  assert.match(await page.locator('#version').innerText(), /User 6 set text from a to b[\s\S]*id\s+1\s+User 5[\s\S]*text\s+a →/);
  assert.equal(await page.getByRole('link', { name: 'Take back…' }).count(), 0);
  await follow(page.getByRole('link', { name: 'Whole change' }));
  await follow(page.getByRole('link', { name: 'Earlier change of this row' }));
  assert.match(await page.locator('h1').innerText(), /User 5 added gone 1/);
});

test('content of rows and contexts is no markup', options, async () => {
  const hostile = '\'"><img src=x onerror=alert(1)><script>alert(2)</script>&amp;';
  await shop.shop.request({ userId: hostile, endpoint: hostile, requestId: hostile, [hostile]: hostile }, () =>
    shop.client.query('INSERT INTO coupon VALUES ($1, 1) ON CONFLICT (code) DO UPDATE SET percent = coupon.percent + 1', [hostile]));
  await shop.client.query('SELECT bemi.sync()');
  const { rows: [{ id }] } = await shop.client.query('SELECT id FROM bemi.changes WHERE primary_key = $1 ORDER BY id DESC LIMIT 1', [hostile]);
  for (const path of [`/change/${id}`, `/request/${id}`, `/row/public/coupon/${encodeURIComponent(hostile)}`, '/rows', '/requests', `/export?q=${encodeURIComponent(hostile)}`, '/access-log']) {
    assert.equal((await open(path)).status(), 200, path);
    assert.equal(await page.locator('main img, main script').count(), 0, path);
  }
  await open(`/change/${id}`);
  assert.ok((await page.locator('main').innerText()).includes(hostile));
});

test('without JavaScript, the versions are links', options, async () => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const plain = await context.newPage();
  await plain.goto(dashboard.enter());
  await plain.goto(`${dashboard.url}/row/public/order/${order}`);
  assert.equal(await plain.locator('#slider').isVisible(), false);
  await follow(plain.locator('.version-list a').last());
  assert.match(await plain.locator('#version h2').innerText(), /Version 1 of 5/);
  await context.close();
});

test('in the dark and at 320 pixels', options, async () => {
  const { rows: [{ id }] } = await shop.client.query(`SELECT id FROM bemi.changes WHERE "table" = 'order' AND primary_key = $1 ORDER BY id DESC LIMIT 1`, [order]);
  await page.setViewportSize({ width: 320, height: 700 });
  await page.emulateMedia({ colorScheme: 'dark' });
  for (const path of [`/change/${id}`, `/request/${id}`, `/row/public/order/${order}`, '/rows', '/requests', '/export', '/access-log']) {
    await open(path);
    await checkWidth(page, path);
    await checkAccessibility(page, `${path} in the dark, at 320 pixels`);
  }
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
