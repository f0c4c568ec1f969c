// Taking back: what was shown is what runs, and nothing else. Each test looks at the rows and at the history afterwards.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { checkAccessibility, checkWidth, hasBrowser, openBrowser } from './browser.js';
import { Database } from '../../src/database.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
let shop, dashboard, browser, page, faults;

before(async () => {
  if (options.skip) return;
  shop = await openShop({ name: 'shop_revert' });
  dashboard = await openDashboard(shop.database);
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
});

after(async () => {
  await browser?.close();
  await dashboard?.close();
  await shop?.close();
});

const rows = async (text, values) => (await shop.client.query(text, values)).rows;
const go = address => page.goto(`${dashboard.url}${address}`);
const button = () => page.getByRole('button', { name: /^(Take back \d|Restore the row)/ });

let used = 100;

// Changes of one customer that no other test has touched, each by a user of its own. Returns { customer, users, ids }.
async function newCustomer(...steps) {
  const customer = ++used;
  const users = [];
  await shop.client.query('DELETE FROM customer WHERE id = $1', [customer]);
  await shop.client.query("INSERT INTO customer (id, name, email, city) VALUES ($1, 'New', 'new@example.org', 'Bern')", [customer]);
  for (const [i, set] of steps.entries()) {
    users.push(customer * 10 + i);
    await shop.shop.request({ userId: users[i], endpoint: '/profile', requestId: `r${customer}-${i}` }, () =>
      shop.client.query(`UPDATE customer SET ${set} WHERE id = $1`, [customer]));
  }
  await shop.client.query('SELECT bemi.sync()');
  const ids = await rows(`SELECT id FROM bemi.history('customer', $1) WHERE operation = 'UPDATE' ORDER BY id`, [customer]);
  return { customer, users, ids: ids.map(row => row.id).slice(-steps.length) };
}

const customerNow = async id => (await rows('SELECT name, city FROM customer WHERE id = $1', [id]))[0];

async function confirm() {
  await page.getByLabel(/^To confirm/).fill(await page.locator('.phrase').innerText());
  await button().click();
}

async function newestContext(customer) {
  const [{ context }] = await rows(`SELECT context FROM bemi.history('customer', $1, newest => 1)`, [customer]);
  return context;
}

test('a change: the plan, the confirmation, the reason, and the change of the undo', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'", "name = 'Newer'");
  await go(`/revert?change=${ids[0]}`);
  assert.match(await page.locator('.plan-table').innerText(), /is changed back\s+customer #\d+\s+city\s+Rome\s+→\s+became\s+Bern/);
  await checkAccessibility(page, 'a plan');
  await page.getByLabel('Reason').fill('a mistake');
  await confirm();
  await page.waitForURL(/revert\/done/);
  await page.getByText('1 change was written.').waitFor();
  await checkAccessibility(page, 'taken back');
  assert.deepEqual(await customerNow(customer), { name: 'Newer', city: 'Bern' });
  const context = await newestContext(customer);
  assert.deepEqual([context.actor, context.reason, context.revertOf[0]], ['postgres', 'a mistake', ids[0]]);
  await page.getByRole('link', { name: 'See it in the history' }).click();
  assert.match(await page.locator('#panel').innerText(), /city\s+Rome\s+→\s+became\s+Bern/);
});

test('the undo is taken back, too', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'");
  await go(`/revert?change=${ids[0]}`);
  await confirm();
  await page.getByRole('link', { name: 'Take this back, too' }).click();
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.equal((await customerNow(customer)).city, 'Rome');
});

test('without the text to confirm, nothing is done', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'");
  await go(`/revert?change=${ids[0]}`);
  await page.getByLabel(/^To confirm/).fill('customer');
  await button().click();
  assert.match(page.url(), /change=/);
  // A form that the browser does not check.
  await page.locator('.run').evaluate(form => { form.noValidate = true; });
  await button().click();
  await page.getByRole('alert').getByText('Nothing was done.').waitFor();
  assert.equal((await customerNow(customer)).city, 'Rome');
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('409')), []);
});

test('if the row changes while the plan is shown, nothing is done, and the new plan is shown', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'");
  await go(`/revert?change=${ids[0]}`);
  await shop.client.query("UPDATE customer SET city = 'Oslo' WHERE id = $1", [customer]);
  await confirm();
  assert.match(await page.getByRole('alert').innerText(), /Nothing was done.*the plan is not the same any more/s);
  await page.getByText('1 step is in conflict').waitFor();
  assert.equal((await customerNow(customer)).city, 'Oslo');
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('409')), []);
});

test('a conflict: who has changed it later, and no button before there is a choice', options, async () => {
  const { ids, users } = await newCustomer("city = 'Rome', name = 'Other'", "city = 'Lyon'");
  await go(`/revert?change=${ids[0]}`);
  assert.match(await page.locator('.plan-table tr.conflict').innerText(), new RegExp(`city\\s+Lyon\\s+→\\s+became\\s+Bern\\s+Conflict: changed later by User ${users[1]}`));
  assert.match(await page.locator('.plan-table tr.ok').innerText(), /name\s+Other\s+→\s+became\s+New/);
  assert.equal(await button().count(), 0);
  await checkAccessibility(page, 'a conflict');
  await page.locator('.plan-table .note a').click();
  assert.match(await page.locator('#panel').innerText(), /Lyon/);
});

for (const [choice, city, name] of [['Keep the later values', 'Lyon', 'New'], ['Restore all the same', 'Bern', 'New'], ['Take the later changes back, too', 'Bern', 'New']]) {
  test(`a conflict: ${choice}`, options, async () => {
    const { customer, ids } = await newCustomer("city = 'Rome', name = 'Other'", "city = 'Lyon'");
    await go(`/revert?transaction=${ids[0]}`);
    await page.getByRole('link', { name: choice }).click();
    await checkAccessibility(page, choice);
    await confirm();
    await page.waitForURL(/revert\/done/);
    assert.deepEqual(await customerNow(customer), { name, city });
    if (choice.startsWith('Keep')) await page.getByText('1 step was left out').waitFor();
  });
}

const choose = (what, label) => page.getByRole('group', { name: `What happens to ${what}` }).getByLabel(label).check();
const showChosen = () => page.getByRole('button', { name: 'Show the plan with these choices' }).click();

test('each column in conflict has a choice of its own, and the plan that is shown runs', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome', name = 'Other', newsletter = true", "city = 'Lyon', name = 'Later'");
  await go(`/revert?change=${ids[0]}`);
  await choose(`city customer ${customer}`, 'Keep the later value');
  await showChosen();
  // The other one is still in conflict.
  await page.getByText('1 step is in conflict').waitFor();
  assert.equal(await button().count(), 0);
  await choose(`name customer ${customer}`, 'Restore');
  await showChosen();
  await page.waitForURL(/choices=/);
  assert.match(await page.locator('.plan-table').innerText(), /name\s+Later\s+→\s+became\s+New/);
  await checkAccessibility(page, 'a plan with choices');
  // The address is all that a colleague needs, and choices can be changed.
  await page.reload();
  assert.ok(await page.getByRole('group', { name: `What happens to name customer ${customer}` }).getByLabel('Restore').isChecked());
  assert.ok(await page.getByRole('group', { name: `What happens to city customer ${customer}` }).getByLabel('Keep the later value').isChecked());
  // Somebody writes in between: the choice is not carried out on what was not shown.
  await shop.client.query("UPDATE customer SET name = 'Last' WHERE id = $1", [customer]);
  await confirm();
  assert.match(await page.getByRole('alert').innerText(), /Nothing was done/);
  assert.deepEqual(await customerNow(customer), { name: 'Last', city: 'Lyon' });
  assert.match(await page.locator('.plan-table').innerText(), /name\s+Last\s+→\s+became\s+New/);
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.deepEqual(await customerNow(customer), { name: 'New', city: 'Lyon' });
  await page.getByText('1 step was left out').waitFor();
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('409')), []);
});

test('another choice than the one that was shown does nothing', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'", "city = 'Lyon'");
  const chosen = choice => encodeURIComponent(JSON.stringify([['public.customer', String(customer), 'city', choice]]));
  await go(`/revert?change=${ids[0]}&choices=${chosen('restore')}`);
  await page.locator('.run input[name=choices]').evaluate(input => { input.value = input.value.replace('restore', 'keep'); });
  await confirm();
  assert.match(await page.getByRole('alert').innerText(), /Nothing was done.*the plan is not the same any more/s);
  assert.equal((await customerNow(customer)).city, 'Lyon');
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('409')), []);
  // What no choice can be is left out.
  for (const text of ['x', '{}', '[1]', '[["a"]]', '[["public.customer","1","city","destroy"]]', '[[1,2,3,4]]']) {
    await go(`/revert?change=${ids[0]}&choices=${encodeURIComponent(text)}`);
    await page.getByText('1 step is in conflict').waitFor();
  }
});

test('a row that others have changed has a choice as a whole, and one that others refer to can only be kept', options, async () => {
  const [first, second] = [++used, ++used];
  await shop.shop.request({ requestId: `rows${first}` }, async () => {
    for (const id of [first, second]) await shop.client.query("INSERT INTO customer (id, name, email) VALUES ($1, 'Row', 'row@example.org')", [id]);
  });
  await shop.client.query("UPDATE customer SET name = 'Later' WHERE id = $1", [first]);
  await shop.client.query("INSERT INTO \"order\" (customer_id) VALUES ($1)", [second]);
  await shop.client.query('SELECT bemi.sync()');
  await go(`/revert?q=requestId:rows${first}`);
  await choose(`customer ${first}`, 'Restore');
  assert.equal(await page.getByRole('group', { name: `What happens to customer ${second}` }).getByRole('radio').count(), 1);
  await choose(`customer ${second}`, 'Keep the later value');
  await showChosen();
  assert.match(page.url(), /q=requestId/);
  assert.equal(await page.locator('.phrase').innerText(), `customer ${first}`);
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.equal(await customerNow(first), undefined);
  assert.equal((await customerNow(second)).name, 'Row');
});

test('a request, by its context, and a search that is more than a context', options, async () => {
  const one = await newCustomer("city = 'Rome'");
  await go(`/revert?context=${encodeURIComponent(JSON.stringify({ requestId: `r${one.customer}-0` }))}`);
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.equal((await customerNow(one.customer)).city, 'Bern');

  const two = await newCustomer("city = 'Rome'", "name = 'X'");
  await go('/revert');
  await checkAccessibility(page, 'take back');
  await page.getByLabel('Take back what a search finds').fill(`table:customer op:update key:${two.customer}`);
  await page.getByRole('button', { name: 'Show the plan' }).click();
  assert.equal(await page.locator('.phrase').innerText(), `customer ${two.customer}`);
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.deepEqual(await customerNow(two.customer), { name: 'New', city: 'Bern' });
});

test('several rows are confirmed by their number', options, async () => {
  await shop.shop.request({ requestId: 'many' }, () => shop.client.query("UPDATE coupon SET percent = percent + 1"));
  await shop.shop.request({ requestId: 'many' }, () => shop.client.query("INSERT INTO coupon VALUES ('A', 1), ('B', 2)"));
  await go('/changes?q=requestId:many');
  await page.getByRole('link', { name: 'Take back…' }).first().click();
  assert.match(await page.locator('.plan-table').innerText(), /is removed\s+coupon #B.*is changed back\s+coupon #WELCOME/s);
  assert.equal(await page.locator('.phrase').innerText(), '3');
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.deepEqual((await rows('SELECT * FROM coupon')).map(row => row.percent), [5]);
});

test('of a long plan, what is written is shown before what stays', options, async () => {
  await go('/revert?q=job:nightly-prices+run:1187&mode=skip');
  const classes = await page.locator('.plan-table tbody').evaluateAll(bodies => bodies.map(body => body.lastElementChild.className));
  const { rows: [{ ok }] } = await shop.client.query(`SELECT count(*)::int AS ok FROM bemi.plan_revert(context => '{"job": "nightly-prices", "run": 1187}', mode => 'skip') WHERE verdict = 'ok'`);
  assert.equal(await page.locator('.phrase').innerText(), String(ok));
  assert.deepEqual(classes.slice(0, ok + 1), [...Array(ok).fill('ok'), 'kept']);
});

test('what was taken back already needs nothing', options, async () => {
  await go('/revert?q=deploy:v42');
  await page.getByText('There is nothing left to take back.').waitFor();
  assert.match(await page.locator('.plan-table').innerText(), /already taken back by User 2/);
  assert.equal(await button().count(), 0);
});

// Changes of a product. Of customers, the e-mail is stored as a hash, so they cannot be restored.
async function newProduct(...steps) {
  const sku = `TEST-${++used}`;
  await shop.client.query("INSERT INTO product VALUES ($1, 'New', 'plain')", [sku]);
  for (const step of steps) await shop.client.query(step, [sku]);
  await shop.client.query('SELECT bemi.sync()');
  const ids = await rows(`SELECT id FROM bemi.history('product', $1) ORDER BY id`, [sku]);
  return { sku, ids: ids.map(row => row.id) };
}

const productNow = async sku => (await rows('SELECT name, description FROM product WHERE sku = $1', [sku]))[0];

test('one row is restored, and only as it was shown', options, async () => {
  const { sku, ids } = await newProduct("UPDATE product SET description = 'blue' WHERE sku = $1", "UPDATE product SET name = 'Other' WHERE sku = $1");
  await go(`/revert?table=public.product&key=${sku}&before=${ids[1]}`);
  assert.match(await page.locator('.plan-table').innerText(), /name\s+Other\s+→\s+became\s+New\s+description\s+blue\s+→\s+became\s+plain/);
  await checkAccessibility(page, 'restore a row');
  await shop.client.query("UPDATE product SET description = 'green' WHERE sku = $1", [sku]);
  await confirm();
  await page.getByRole('alert').getByText('The row has changed since it was shown.').waitFor();
  assert.equal((await productNow(sku)).description, 'green');
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.deepEqual(await productNow(sku), { name: 'New', description: 'plain' });
  const [{ context }] = await rows(`SELECT context FROM bemi.history('product', $1, newest => 1)`, [sku]);
  assert.deepEqual(Object.keys(context.restoreOf).sort(), ['before', 'key', 'table']);
  await go(`/revert?table=public.product&key=${sku}&before=${ids[1]}`);
  await page.getByText('There is nothing to restore.').waitFor();
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('409')), []);
});

test('a row that was deleted is restored, and one that was added is removed', options, async () => {
  const { sku, ids } = await newProduct('DELETE FROM product WHERE sku = $1');
  await go(`/revert?table=public.product&key=${sku}&before=${ids[1]}`);
  assert.match(await page.locator('.plan-table').innerText(), /comes back\s+product/);
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.deepEqual(await productNow(sku), { name: 'New', description: 'plain' });
  await go(`/revert?table=public.product&key=${sku}&before=${ids[0]}`);
  assert.match(await page.locator('.plan-table').innerText(), /is removed\s+product/);
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.equal(await productNow(sku), undefined);
});

test('a row whose values were not stored cannot be restored, and PostgreSQL names the reason', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'");
  await go(`/revert?table=public.customer&key=${customer}&before=${ids[0]}`);
  assert.match(await page.getByRole('alert').innerText(), /email/);
  assert.equal(await button().count(), 0);
});

test('an address that names nothing is explained', options, async () => {
  for (const [address, text] of [
    ['change=x', 'This change is not in the history any more.'],
    ['transaction=00000000-0000-0000-0000-000000000000', 'This change is not in the history any more.'],
    ['context=[1]', 'The context is not a JSON object.'],
    ['q=op:paint', 'This search has a term that means nothing.'],
    ['q=-op:paint', 'This search has a term that means nothing.'],
    ['q=key:nothing', 'This search finds no change.'],
    ['q=-job:nothing', 'Narrow it'],
    ['table=public.order', 'The address names no row'],
    ['table=public.order&key=31&before=x', 'The address names no moment'],
  ]) {
    await go(`/revert?${address}`);
    await page.getByText(text).waitFor();
    assert.equal(await button().count(), 0, address);
  }
  await go('/revert?context={}');
  assert.match(await page.getByRole('alert').innerText(), /an empty context needs from_time/);
});

test('a role that may only read sees the plan, and no button', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'");
  await shop.client.query(`DROP ROLE IF EXISTS revert_reader; CREATE ROLE revert_reader LOGIN; SELECT bemi.grant_read('revert_reader'); GRANT SELECT ON ALL TABLES IN SCHEMA public TO revert_reader`);
  const database = new Database({ database: 'shop_revert', user: 'revert_reader' });
  const fresh = await openDashboard(database);
  const context = await browser.newContext();
  const other = await context.newPage();
  await other.goto(fresh.enter());
  await other.goto(`${fresh.url}/revert?change=${ids[0]}`);
  await other.getByText('Your role may not write').waitFor();
  assert.match(await other.locator('.plan-table').innerText(), /city\s+Rome/);
  assert.equal(await other.getByRole('button', { name: /^Take back/ }).count(), 0);
  await other.goto(`${fresh.url}/changes?q=table:customer&change=${ids[0]}`);
  assert.equal(await other.getByRole('link', { name: 'Take back…' }).count(), 0);
  assert.equal((await customerNow(customer)).city, 'Rome');
  await context.close();
  await fresh.close();
  await database.end();
  await shop.client.query('DROP OWNED BY revert_reader; DROP ROLE revert_reader');
});

test('content is no markup, also where it is to be typed', options, async () => {
  const hostile = '"><img src=x onerror=alert(1)> (a|b)* [c] {d} \\e $1 ^-/.?';
  await shop.shop.request({ userId: hostile, requestId: hostile }, () => shop.client.query('INSERT INTO coupon VALUES ($1, 1)', [hostile]));
  await shop.client.query('SELECT bemi.sync()');
  const [{ id }] = await rows(`SELECT id FROM bemi.find_changes('coupon', newest => 1)`);
  await go(`/revert?change=${id}`);
  assert.equal(await page.locator('main img').count(), 0);
  assert.ok((await page.locator('.plan-table').innerText()).includes(hostile));
  await confirm();
  await page.waitForURL(/revert\/done/);
  assert.deepEqual(await rows('SELECT FROM coupon WHERE code = $1', [hostile]), []);
  assert.equal(await page.locator('main img').count(), 0);
});

test('a form of another site does nothing', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome'");
  const cookies = (await page.context().cookies()).map(({ name, value }) => `${name}=${value}`).join('; ');
  const response = await fetch(`${dashboard.url}/revert`, {
    method: 'POST', headers: { cookie: cookies, 'content-type': 'application/x-www-form-urlencoded' }, body: `change=${ids[0]}&mode=refuse&confirm=a&phrase=a`,
  });
  assert.equal(response.status, 403);
  assert.equal((await customerNow(customer)).city, 'Rome');
});

test('narrow, dark, German, and without JavaScript', options, async () => {
  const { customer, ids } = await newCustomer("city = 'Rome', name = 'Other'", "city = 'Lyon'");
  const context = await browser.newContext({ javaScriptEnabled: false, viewport: { width: 320, height: 700 }, colorScheme: 'dark' });
  const plain = await context.newPage();
  await context.addCookies([{ name: 'language', value: 'de', url: dashboard.url }]);
  await plain.goto(dashboard.enter());
  await plain.goto(`${dashboard.url}/revert?change=${ids[0]}`);
  await plain.getByRole('link', { name: 'Spätere Werte behalten' }).click();
  await plain.getByLabel(/^Zur Bestätigung/).fill(`customer ${customer}`);
  await plain.getByRole('button', { name: '1 Zeile zurücknehmen' }).click();
  await plain.getByRole('heading', { name: 'Zurückgenommen' }).waitFor();
  await context.close();
  assert.deepEqual(await customerNow(customer), { name: 'New', city: 'Lyon' });

  await page.emulateMedia({ colorScheme: 'dark' });
  await page.setViewportSize({ width: 320, height: 700 });
  for (const mode of ['refuse', 'skip', 'force', 'cascade']) {
    const next = await newCustomer("city = 'Rome', name = 'Other'", "city = 'Lyon'");
    await go(`/revert?change=${next.ids[0]}&mode=${mode}`);
    await checkWidth(page, `a plan, ${mode}`);
    await checkAccessibility(page, `a plan at 320 pixels in the dark, ${mode}`);
  }
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
