// The walk that the dashboard is for: somebody says "my order was changed". From there to the person, to the request, and to taking it
// back, in at most five clicks. It prints how long it takes.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { hasBrowser, openBrowser } from './browser.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
let shop, dashboard, browser, page, faults;

before(async () => {
  if (options.skip) return;
  shop = await openShop({ name: 'shop_walk' });
  dashboard = await openDashboard(shop.database);
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
});

after(async () => {
  await browser?.close();
  await dashboard?.close();
  await shop?.close();
});

test('"my order was changed": who, in which request, and taken back', options, async t => {
  // The history may have been made by an earlier run.
  const { rows: [{ key: order }] } = await shop.client.query(`SELECT primary_key AS key FROM bemi.find_changes('"order"', context => '{"userId": 12}')
      WHERE context ->> 'endpoint' LIKE '/admin/orders/%' LIMIT 1`);
  const orderNow = async () => (await shop.client.query('SELECT total, discount, note FROM "order" WHERE id = $1', [order])).rows[0];
  const wrong = await orderNow();
  const begin = performance.now();
  let clicks = 0;
  const click = async (what, locator) => {
    await locator.click();
    clicks++;
    t.diagnostic(`click ${clicks}, ${Math.round(performance.now() - begin)} ms: ${what}`);
  };

  // The complaint: the number of the order is all that is known.
  await page.keyboard.press('/');
  await page.keyboard.type(`table:order ${order}`);
  await page.keyboard.press('Enter');
  await page.waitForURL(/q=table/);

  // The person.
  await click('the newest change of the order', page.locator('a.line').first());
  assert.match(await page.locator('.panel-content').innerText(), /User 12 changed total, discount, address, and note in PUT \/admin\/orders/);

  // The request, with all that it has changed.
  await click('the whole request', page.getByRole('link', { name: 'Whole request' }));
  await page.waitForURL(/\/request\//);
  assert.match(await page.locator('main').innerText(), new RegExp(`User 12.*PUT /admin/orders/${order}`, 's'));

  // What taking it back would do, confirmed by typing.
  await click('take back', page.getByRole('link', { name: 'Take back…' }));
  await page.waitForURL(/\/revert\?/);
  assert.match(await page.locator('.plan-table').innerText(), /discount by phone/);
  await page.getByLabel('Reason').fill('the customer has not asked for it');
  await page.getByLabel(/^To confirm/).fill(`order ${order}`);
  await click('confirm', page.getByRole('button', { name: 'Take back 1 row' }));
  await page.waitForURL(/\/revert\/done/);
  const { note, total, discount } = await orderNow();
  assert.deepEqual([note, discount], [null, '0.00']);
  assert.equal(Number(total), Number(wrong.total) + 5);

  // The answer: the undo's own change.
  await click('see it in the history', page.getByRole('link', { name: 'See it in the history' }));
  assert.match(await page.locator('.panel-content').innerText(), /the customer has not asked for it/);

  assert.ok(clicks <= 5, `${clicks} clicks`);
  t.diagnostic(`from the complaint to the answer: ${clicks} clicks, ${((performance.now() - begin) / 1000).toFixed(1)} s`);
  assert.deepEqual(faults, []);
});
