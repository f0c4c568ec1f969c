// Tables are tracked, get rules, and are untracked with the statement that the page shows. Who does not own a table sees no button.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Database } from '../../src/database.js';
import { checkAccessibility, checkWidth, hasBrowser, openBrowser } from './browser.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
const HOSTILE = `x" ><img src=y>'; DROP TABLE "order" --`;
let shop, dashboard, browser, page, faults;

before(async () => {
  if (options.skip) return;
  shop = await openShop();
  await shop.client.query(`DROP TABLE IF EXISTS tags; CREATE TABLE tags (id integer PRIMARY KEY, name text, secret text, ${shop.client.escapeIdentifier(HOSTILE)} text)`);
  dashboard = await openDashboard(shop.database);
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
});

after(async () => {
  if (options.skip) return;
  await browser?.close();
  await dashboard?.close();
  await shop.client.query('DROP TABLE IF EXISTS tags');
  await shop.close();
});

const rules = async () => (await shop.client.query(`SELECT ignore, redact, redact_hash FROM bemi.tracked WHERE "table" = 'tags'::regclass`)).rows;

test('the list shows what is tracked, and by which rules', options, async () => {
  await page.goto(`${dashboard.url}/tables`);
  assert.match(await page.locator('tr', { hasText: 'customer' }).first().innerText(), /tracked\s+hashed: email/);
  assert.match(await page.locator('tr', { hasText: 'tags' }).innerText(), /not tracked/);
  await checkAccessibility(page, 'tables');
});

test('what is shown is what runs', options, async () => {
  await page.getByRole('link', { name: 'tags' }).click();
  await checkAccessibility(page, 'a table');
  await page.getByLabel('Values of secret').selectOption('redact');
  await page.getByLabel(`Ignore ${HOSTILE}`).check();
  await page.getByRole('button', { name: 'Track…' }).click();
  const shown = await page.locator('#plan').innerText();
  assert.match(shown, /^SELECT bemi\.track\('public\.tags', ignore => ARRAY\['x" ><img src=y>''; DROP TABLE "order" --'\]::name\[\], redact => ARRAY\['secret'\]::name\[\]\);$/);
  await checkAccessibility(page, 'a plan');
  assert.deepEqual(await rules(), []);
  await page.getByRole('button', { name: 'Run it' }).click();
  await page.waitForURL(/\/tables\/public\/tags$/);
  assert.deepEqual(await rules(), [{ ignore: [HOSTILE], redact: ['secret'], redact_hash: [] }]);
  await shop.client.query('SELECT bemi.untrack($1)', ['tags']);
  await shop.client.query(shown);
  assert.deepEqual(await rules(), [{ ignore: [HOSTILE], redact: ['secret'], redact_hash: [] }]);
});

test('rules are changed, and names with a star stay', options, async () => {
  await shop.client.query(`SELECT bemi.track('tags', ignore => '{name,na*}')`);
  await page.goto(`${dashboard.url}/tables/public/tags`);
  assert.equal(await page.getByLabel('Ignore name').isChecked(), true);
  await page.getByLabel('Ignore name').uncheck();
  await page.getByLabel('Values of secret').selectOption('redact_hash');
  await page.getByRole('button', { name: 'Change the rules…' }).click();
  await page.getByRole('button', { name: 'Run it' }).click();
  await page.waitForURL(/\/tables\/public\/tags$/);
  assert.deepEqual(await rules(), [{ ignore: ['na*'], redact: [], redact_hash: ['secret'] }]);
});

test('an error of PostgreSQL is shown with its hint', options, async () => {
  await page.goto(`${dashboard.url}/tables/public/tags/plan?do=track&redact=nosuch`);
  await page.getByRole('button', { name: 'Run it' }).click();
  assert.match(await page.getByRole('alert').innerText(), /column "nosuch" of table "tags" does not exist/);
  faults.length = 0;
});

test('a table is untracked', options, async () => {
  await page.goto(`${dashboard.url}/tables/public/tags`);
  await page.getByRole('link', { name: 'Untrack…' }).click();
  assert.equal(await page.locator('#plan').innerText(), "SELECT bemi.untrack('public.tags');");
  await page.getByRole('button', { name: 'Run it' }).click();
  await page.getByText('not tracked').waitFor();
  assert.deepEqual(await rules(), []);
});

test('who does not own the table sees no button, and a request of his own is refused', options, async () => {
  await shop.client.query('DROP ROLE IF EXISTS tables_viewer; CREATE ROLE tables_viewer LOGIN');
  await shop.client.query("SELECT bemi.grant_read('tables_viewer')");
  const own = new Database({ database: 'shop', user: 'tables_viewer' });
  const theirs = await openDashboard(own);
  const context = await browser.newContext();
  try {
    const viewer = await context.newPage();
    await viewer.goto(theirs.enter());
    await viewer.goto(`${theirs.url}/tables/public/tags/plan?do=track`);
    assert.equal(await viewer.getByRole('button', { name: 'Run it' }).count(), 0);
    await checkAccessibility(viewer, 'a plan of somebody else');
    const token = await viewer.locator('[name=_csrf]').inputValue();
    const response = await context.request.post(`${theirs.url}/tables/public/tags/plan`, { form: { _csrf: token, do: 'track' } });
    assert.equal(response.status(), 403);
    assert.deepEqual(await rules(), []);
  } finally {
    await context.close();
    await theirs.close();
    await own.end();
    await shop.client.query('DROP OWNED BY tables_viewer; DROP ROLE tables_viewer');
  }
});

test('nothing sticks out at 320 pixels, nor in the dark', options, async () => {
  await page.setViewportSize({ width: 320, height: 700 });
  for (const address of ['/tables', '/tables/public/tags', '/tables/public/tags/plan?do=track']) {
    await page.goto(dashboard.url + address);
    await checkWidth(page, address);
  }
  await page.emulateMedia({ colorScheme: 'dark' });
  await page.goto(`${dashboard.url}/tables/public/tags`);
  await checkAccessibility(page, 'a table in the dark');
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
