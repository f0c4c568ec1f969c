// Time travel: the rows of then, what is different now, gaps, pages, and what cannot be read. What the page shows is compared with bemi's own
// functions.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { checkAccessibility, checkWidth, follow, hasBrowser, openBrowser } from './browser.js';
import { Database } from '../../src/database.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
let shop, dashboard, browser, page, faults, complaint;

before(async () => {
  if (options.skip) return;
  shop = await openShop({ name: 'shop_past' });
  dashboard = await openDashboard(shop.database);
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
  [complaint] = await rows(`SELECT id, primary_key AS key FROM bemi.find_changes('"order"', operation => 'UPDATE', context => '{"userId": 12}', newest => 100)
      WHERE context ->> 'endpoint' LIKE '/admin/orders/%' LIMIT 1`);
});

after(async () => {
  await browser?.close();
  await dashboard?.close();
  await shop?.close();
});

const rows = async (text, values) => (await shop.client.query(text, values)).rows;
const go = address => page.goto(`${dashboard.url}${address}`);
const cells = name => page.locator('.past-rows tbody tr').evaluateAll((lines, column) => {
  const place = [...document.querySelectorAll('.past-rows thead th')].findIndex(cell => cell.textContent === column);
  return lines.map(line => line.children[place].textContent);
}, name);

test('the page opens with what has become of a table', options, async () => {
  await go('/past');
  assert.match(page.url(), /table=public\..*&at=.*&compare=now/);
  await page.getByRole('heading', { name: /as it was at/ }).waitFor();
  await checkAccessibility(page, 'time travel');
});

test('a table just before a change, as bemi.as_of_json() has it', options, async () => {
  await go(`/past?table=public.order&before=${complaint.id}`);
  const expected = await rows(`SELECT r ->> 'id' AS id, r ->> 'total' AS total FROM bemi.as_of_json('"order"', before => $1) r ORDER BY (r ->> 'id')::int LIMIT 50`, [complaint.id]);
  assert.deepEqual(await cells('id'), expected.map(row => row.id));
  assert.deepEqual(await cells('total'), expected.map(row => row.total));
  assert.match(await page.locator('.moment').innerText(), /Before this change: User 12 changed/);
  await checkAccessibility(page, 'rows of then');
});

test('what is different now, and back to the row', options, async () => {
  await go(`/past?table=public.order&before=${complaint.id}&filter=id:${complaint.key}`);
  await follow(page.getByRole('link', { name: 'What is different now' }));
  const lines = page.locator('.differences li');
  assert.equal(await lines.count(), 1);
  assert.match(await lines.innerText(), /changed\s+order #\d+\s+total\s.*discount\s.*address\s.*note/s);
  await checkAccessibility(page, 'what is different now');
  await follow(lines.getByRole('link', { name: 'Restore…' }));
  await page.getByRole('heading', { name: 'Restore a row' }).waitFor();
});

test('a moment is picked from the timeline, to the microsecond', options, async () => {
  await go(`/past?table=public.order&before=${complaint.id}`);
  await follow(page.getByRole('link', { name: 'Just after it' }));
  const at = new URL(page.url()).searchParams.get('at');
  const [{ is }] = await rows(`SELECT committed_at = $2::timestamptz AS is FROM bemi.changes WHERE id = $1`, [complaint.id, at]);
  assert.equal(is, true);
  assert.match(await page.locator('.timeline a[aria-current]').innerText(), /User 12 · PUT \/admin\/orders/);
  await follow(page.getByRole('link', { name: 'Earlier', exact: true }));
  assert.notEqual(new URL(page.url()).searchParams.get('at'), at);
  assert.equal(await page.locator('.timeline a[aria-current]').count(), 1);
});

test('a moment that is typed becomes exact, and stays so if the filter changes', options, async () => {
  await go('/past?table=public.coupon');
  await page.getByLabel('Moment').fill('1s');
  await page.getByRole('button', { name: 'Show' }).click();
  await page.waitForURL(/at=\d{4}-\d\d-\d\dT\d\d%3A\d\d%3A\d\d\.\d{6}Z/);
  const at = new URL(page.url()).searchParams.get('at');
  assert.deepEqual(await cells('code'), ['WELCOME']);
  await page.getByLabel('Only rows with').fill('code:W* -code:WELCOME');
  await page.getByRole('button', { name: 'Show' }).click();
  await page.getByText('No row fits this filter.').waitFor();
  assert.equal(new URL(page.url()).searchParams.get('at'), at);
});

test('what is no time is explained, and a time to come is refused by PostgreSQL', options, async () => {
  await go('/past?table=public.order&at=soon');
  await page.getByText('This is not a time.').waitFor();
  await checkAccessibility(page, 'a time that is none');
  await go('/past?table=public.order&at=2999-01-01');
  assert.match(await page.getByRole('alert').innerText(), /is in the future/);
});

test('pages follow each other by the key, with each row once', options, async () => {
  await go('/past?table=public.product&at=now');
  const seen = await cells('sku');
  while (await page.getByRole('link', { name: 'Next rows' }).count() > 0) {
    await follow(page.getByRole('link', { name: 'Next rows' }));
    seen.push(...await cells('sku'));
  }
  const expected = await rows(`SELECT sku FROM product ORDER BY sku COLLATE "C"`);
  assert.deepEqual(seen, expected.map(row => row.sku));
});

test('a table without a primary key has pages, too', options, async () => {
  await shop.client.query(`CREATE TABLE IF NOT EXISTS visit (page text, seconds int); SELECT bemi.track('visit');
    TRUNCATE visit; INSERT INTO visit SELECT 'home', i / 40 FROM generate_series(0, 119) i; SELECT bemi.sync()`);
  await shop.client.query("DELETE FROM visit WHERE seconds = 0 AND ctid = (SELECT min(ctid) FROM visit WHERE seconds = 0); SELECT bemi.sync()");
  const database = new Database({ database: 'shop_past' });
  const fresh = await openDashboard(database);
  const context = await browser.newContext();
  const other = await context.newPage();
  await other.goto(fresh.enter());
  await other.goto(`${fresh.url}/past?table=public.visit&at=now`);
  let count = await other.locator('.past-rows tbody tr').count();
  while (await other.getByRole('link', { name: 'Next rows' }).count() > 0) {
    await follow(other.getByRole('link', { name: 'Next rows' }));
    count += await other.locator('.past-rows tbody tr').count();
  }
  assert.equal(count, 119);
  await context.close();
  await fresh.close();
  await database.end();
});

test('a table that was dropped is read from the history alone', options, async () => {
  await shop.client.query("CREATE TABLE gone (id int PRIMARY KEY, page text); SELECT bemi.track('gone'); INSERT INTO gone VALUES (1, 'home'), (2, 'cart')");
  // The worker must know the table.
  await shop.client.query('SELECT bemi.sync()');
  await shop.client.query("CALL bemi.baseline('main', 'public.gone')");
  await shop.client.query("UPDATE gone SET page = 'shop' WHERE id = 1");
  await shop.client.query('SELECT bemi.sync()');
  const [{ id }] = await rows(`SELECT id FROM bemi.history('gone', '1', newest => 1)`);
  await shop.client.query('DROP TABLE gone');
  await go(`/past?table=public.gone&before=${id}`);
  assert.deepEqual((await cells('page')).sort(), ['cart', 'home']);
  assert.equal(await page.getByRole('link', { name: 'What is different now' }).count(), 0);
  await checkAccessibility(page, 'a table that was dropped');
  await follow(page.getByRole('link', { name: 'Just after it' }));
  assert.match(page.url(), /table=public\.gone%40main/);
  assert.deepEqual((await cells('page')).sort(), ['cart', 'shop']);
});

test('a gap is an answer, and to look in spite of it is a choice that stays visible', options, async () => {
  const [{ at }] = await rows(`SELECT to_char(min(committed_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS at FROM bemi.find_changes('stock', newest => 100000)`);
  await go(`/past?table=public.stock&at=${encodeURIComponent(at)}`);
  const alert = page.getByRole('alert');
  await alert.getByText('Changes may be missing between then and now').waitFor();
  await alert.getByText('What PostgreSQL reports').click();
  assert.match(await alert.innerText(), /not complete since.*source_dropped.*bemi\.baseline/s);
  assert.equal(await page.locator('.past-rows').count(), 0);
  await checkAccessibility(page, 'a gap');
  await follow(page.getByRole('link', { name: 'Show the rows all the same' }));
  await page.getByText('Changes may be missing, so these rows can be wrong.').waitFor();
  assert.match(page.url(), /gaps=allow/);
  assert.ok(await page.locator('.past-rows tbody tr').count() > 0);
  await checkAccessibility(page, 'rows in spite of a gap');
  await follow(page.getByRole('link', { name: 'Show only what is known' }));
  await page.getByRole('alert').waitFor();
});

test('a table that the role may not read is an error of PostgreSQL, and nothing is offered that would fail', options, async () => {
  await shop.client.query(`DROP ROLE IF EXISTS past_reader; CREATE ROLE past_reader LOGIN; SELECT bemi.grant_read('past_reader'); GRANT SELECT ON coupon TO past_reader`);
  const database = new Database({ database: 'shop_past', user: 'past_reader' });
  const fresh = await openDashboard(database);
  const context = await browser.newContext();
  const other = await context.newPage();
  await other.goto(fresh.enter());
  await other.goto(`${fresh.url}/past?table=public.order&at=now`);
  assert.match(await other.getByRole('alert').innerText(), /permission denied for table order/);
  await other.goto(`${fresh.url}/past?table=public.coupon&at=1h&gaps=allow&compare=now`);
  assert.equal(await other.getByRole('link', { name: 'Restore…' }).count(), 0);
  await context.close();
  await fresh.close();
  await database.end();
  await shop.client.query(`SELECT bemi.revoke_read('past_reader'); DROP OWNED BY past_reader; DROP ROLE past_reader`);
});

test('content of rows is no markup', options, async () => {
  const hostile = '"><img src=x onerror=alert(1)>';
  await shop.client.query('INSERT INTO coupon VALUES ($1, 1)', [hostile]);
  await go(`/past?table=public.coupon&at=now&filter=${encodeURIComponent(`"${hostile.replace('"', '\\"')}"`)}`);
  assert.deepEqual(await cells('code'), [hostile]);
  await go(`/past?table=${encodeURIComponent(hostile)}&at=${encodeURIComponent(hostile)}&filter=${encodeURIComponent(hostile)}&after=${encodeURIComponent(hostile)}`);
  await page.getByText('There is no tracked table of this name.').waitFor();
  assert.equal(await page.locator('main img').count(), 0);
  await shop.client.query('DELETE FROM coupon WHERE code = $1', [hostile]);
});

test('narrow, dark, and without JavaScript', options, async () => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const plain = await context.newPage();
  await plain.goto(dashboard.enter());
  await plain.goto(`${dashboard.url}/past?table=public.order&before=${complaint.id}`);
  await follow(plain.getByRole('link', { name: 'What is different now' }));
  assert.ok(await plain.locator('.differences li').count() > 0);
  await context.close();
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.setViewportSize({ width: 320, height: 700 });
  for (const compare of ['', '&compare=now']) {
    await go(`/past?table=public.order&before=${complaint.id}${compare}`);
    await checkWidth(page, `time travel${compare}`);
    await checkAccessibility(page, `time travel at 320 pixels in the dark${compare}`);
  }
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
