// The page of changes, as a person uses it: search, choose, follow the row, new changes, keys, narrow windows.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, before, test } from 'node:test';
import { checkAccessibility, checkWidth, follow, hasBrowser, openBrowser } from './browser.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
let shop, dashboard, browser, page, faults;

before(async () => {
  if (options.skip) return;
  shop = await openShop();
  dashboard = await openDashboard(shop.database);
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
});

after(async () => {
  await browser?.close();
  await dashboard?.close();
  await shop?.close();
});

// One that no earlier run on the same server has used.
const newUser = () => randomInt(1e6, 1e9);

const lines = () => page.locator('a.line');

test('the page opens with the newest changes, and says how far it can be trusted', options, async () => {
  assert.match(page.url(), /\/changes$/);
  await page.getByText('shop · Connected').waitFor();
  assert.match(await page.locator('.trust').innerText(), /Complete from .* except\s+.*the source was dropped/s);
  assert.match(await page.locator('#found').innerText(), /1 000\+ changes/);
  await checkAccessibility(page, 'changes');
});

test('the search box finds, and its text is the address', options, async () => {
  await page.keyboard.press('/');
  await page.keyboard.type('table:order user:7 op:add');
  await page.keyboard.press('Enter');
  await page.waitForURL(/q=table%3Aorder\+user%3A7\+op%3Aadd/);
  const { rows } = await shop.client.query(`SELECT count(*) FROM bemi.changes WHERE "table" = 'order' AND context ->> 'userId' = '7' AND operation = 'CREATE'`);
  assert.equal(await page.locator('#found').innerText(), `${rows[0].count} change${rows[0].count === '1' ? '' : 's'}`);
  await page.getByTitle('Search without op:add').click();
  await page.waitForURL(/q=table%3Aorder\+user%3A7$/);
});

const box = () => page.getByRole('combobox');
const suggestions = () => page.getByRole('listbox', { name: 'Completions' }).getByRole('option');
const suggestion = name => page.getByRole('listbox').getByRole('option', { name }).first();

test('the search box completes qualifiers, names and values, by keys alone', options, async () => {
  await page.goto(`${dashboard.url}/changes`);
  const place = () => page.locator('.filters').boundingBox();
  const before = await place();
  await page.keyboard.press('/');
  await page.keyboard.type('tab');
  await suggestion('table:').waitFor();
  assert.deepEqual(await place(), before, 'nothing moves');
  assert.equal(await box().getAttribute('aria-expanded'), 'true');
  await checkAccessibility(page, 'completions');
  await page.keyboard.press('Tab');
  await suggestion('table:order table').waitFor();
  await page.keyboard.type('order_');
  await page.waitForFunction(() => document.querySelectorAll('#completions li').length === 1);
  await page.keyboard.press('ArrowDown');
  const chosen = page.locator(`#${await box().getAttribute('aria-activedescendant')}`);
  assert.equal(await chosen.getAttribute('aria-selected'), 'true');
  await checkAccessibility(page, 'a chosen completion');
  await page.keyboard.press('Enter');
  assert.equal(await box().inputValue(), 'table:order_line ');
  assert.equal(await suggestions().count(), 0);
  // Enter takes over what is chosen, and else searches.
  await page.keyboard.type('op:cr');
  await suggestion('op:create').waitFor();
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  await page.waitForURL(/q=table%3Aorder_line\+op%3Acreate/);
});

test('Escape closes the completions, and Tab then leaves the box', options, async () => {
  await page.goto(`${dashboard.url}/changes`);
  await box().focus();
  await page.keyboard.press('ArrowDown');
  await suggestion('table:').waitFor();
  await page.keyboard.press('ArrowUp');
  assert.equal(await suggestions().last().getAttribute('aria-selected'), 'true');
  await page.keyboard.press('Escape');
  assert.equal(await suggestions().count(), 0);
  assert.equal(await page.evaluate('document.activeElement.id'), 'q');
  await page.keyboard.press('Tab');
  assert.notEqual(await page.evaluate('document.activeElement.id'), 'q');
  assert.equal(await box().inputValue(), '');
});

test('a value of a context is completed with the mouse, in the middle of a text', options, async () => {
  await page.goto(`${dashboard.url}/changes?q=deploy:v+op:update`);
  await box().evaluate(input => { input.focus(); input.setSelectionRange(8, 8); });
  await page.keyboard.press('ArrowDown');
  await suggestion(/^deploy:v\d+/).click();
  assert.match(await box().inputValue(), /^deploy:v\d+ op:update$/);
  assert.equal(await page.evaluate('document.activeElement.id'), 'q');
});

test('a term that means nothing is explained', options, async () => {
  await page.goto(`${dashboard.url}/changes?q=op:paint`);
  assert.match(await page.getByRole('alert').innerText(), /op: has no paint/);
  assert.equal(await lines().count(), 0);
  await checkAccessibility(page, 'changes with a problem');
});

test('a line opens beside the list, with its row', options, async () => {
  await page.goto(`${dashboard.url}/changes?q=table:order+op:update`);
  await lines().first().click();
  await page.locator('.panel-content').waitFor();
  assert.match(page.url(), /change=/);
  assert.equal(await page.locator('a.line[aria-current]').count(), 1);
  assert.ok(await page.locator('.timeline a').count() > 1);
  await checkAccessibility(page, 'changes with a change');
  const shown = await page.locator('#panel').innerText();
  await page.reload();
  assert.equal(await page.locator('#panel').innerText(), shown);
  await page.locator('#panel .close').click();
  await page.waitForURL(url => !url.searchParams.has('change'));
});

test('an error is shown where the change would be', options, async () => {
  await page.goto(`${dashboard.url}/changes?q=table:order+op:update`);
  await page.route('**/changes?*change=*', route => route.fulfill({ status: 503, contentType: 'text/html', body: '<section class="message"><h1>away</h1></section>' }));
  await lines().first().click();
  await page.locator('#panel .message').waitFor();
  await page.unroute('**/changes?*change=*');
  assert.deepEqual(faults.splice(0).filter(fault => !fault.includes('503')), []);
});

test('keys go from change to change', options, async () => {
  await page.goto(`${dashboard.url}/changes`);
  await page.keyboard.press('j');
  await page.keyboard.press('j');
  assert.equal(await page.evaluate('document.activeElement.id'), await lines().nth(1).getAttribute('id'));
  await page.keyboard.press('Enter');
  await page.locator('.panel-content').waitFor();
  await page.keyboard.press('Escape');
  await page.locator('.panel-content').waitFor({ state: 'detached' });
  await page.keyboard.press('?');
  await page.getByRole('dialog', { name: 'Keyboard' }).waitFor();
  await page.keyboard.press('Escape');
});

test('earlier changes come when the end is seen, each once', options, async () => {
  await page.goto(`${dashboard.url}/changes?q=-job:nightly-prices+-job:import`);
  const seen = async () => page.locator('article.group').evaluateAll(groups => groups.map(group => group.id));
  const first = await seen();
  await page.locator('#next').scrollIntoViewIfNeeded();
  await page.waitForFunction(count => document.querySelectorAll('article.group').length > count, first.length);
  const all = await seen();
  assert.equal(new Set(all).size, all.length);
  assert.deepEqual(all.slice(0, first.length), first);
});

test('a new change comes by itself', options, async () => {
  const user = newUser();
  await page.goto(`${dashboard.url}/changes`);
  await page.getByText('shop · Connected').waitFor();
  await shop.shop.user(user, 'PATCH', '/profile', () => shop.client.query("UPDATE customer SET city = city || '!' WHERE id = 1"));
  await page.locator('article.group', { hasText: `User ${user}` }).waitFor();
});

test('nothing moves below who has scrolled down', options, async () => {
  const user = newUser();
  await page.goto(`${dashboard.url}/changes`);
  await page.getByText('shop · Connected').waitFor();
  await page.evaluate('scrollTo(0, 400)');
  await shop.shop.user(user, 'PATCH', '/profile', () => shop.client.query("UPDATE customer SET city = city || '!' WHERE id = 1"));
  await page.getByRole('button', { name: 'Show new changes' }).waitFor();
  assert.equal(await page.locator('article.group', { hasText: `User ${user}` }).count(), 0);
  await page.getByRole('button', { name: 'Show new changes' }).click();
  await page.locator('article.group', { hasText: `User ${user}` }).waitFor();
});

test('without JavaScript, one can search, choose, and go on', options, async () => {
  const context = await browser.newContext({ javaScriptEnabled: false });
  const plain = await context.newPage();
  await plain.goto(dashboard.enter());
  await plain.getByRole('searchbox').fill('table:order');
  await plain.keyboard.press('Enter');
  await follow(plain.locator('a.line').first());
  assert.equal(await plain.locator('.panel-content').count(), 1);
  await follow(plain.locator('#next a'));
  assert.match(plain.url(), /before=/);
  await context.close();
});

test('content of rows and contexts is no markup', options, async () => {
  const hostile = '"><img src=x onerror=alert(1)><script>alert(2)</script>';
  await shop.shop.request({ userId: hostile, endpoint: hostile, [hostile]: { [hostile]: hostile } }, () =>
    shop.client.query('INSERT INTO coupon VALUES ($1, 1) ON CONFLICT (code) DO UPDATE SET percent = coupon.percent + 1', [hostile]));
  await shop.client.query('SELECT bemi.sync()');
  await page.goto(`${dashboard.url}/changes?q=table:coupon`);
  await lines().first().click();
  await page.locator('.panel-content').waitFor();
  assert.ok((await page.locator('#panel').innerText()).includes(hostile));
  assert.equal(await page.locator('img, #panel script, .list script').count(), 0);
  await page.goto(`${dashboard.url}/changes?q=${encodeURIComponent(hostile)}`);
  assert.equal(await page.locator('main img').count(), 0);
});

test('tags and what the server has added are groups of their own, with names', options, async () => {
  await shop.client.query(`BEGIN; SET LOCAL bemi.tags = '*'; SET LOCAL bemi.include = 'session_user, application_name'; SET LOCAL application_name = 'till';
    SELECT bemi.set_context('{"userId": 4711}');
    UPDATE customer SET city = city || '!' WHERE id = 2 /*controller='orders',db_driver='pg',own_tag='y'*/; COMMIT`);
  await shop.client.query('SELECT bemi.sync()');
  await page.goto(`${dashboard.url}/changes?q=user:4711`);
  await lines().first().click();
  const group = name => page.locator('#panel').getByRole('table', { name }).locator('tr').allInnerTexts();
  await page.locator('.panel-content').waitFor();
  assert.deepEqual((await group('Tags of the statement')).map(text => text.split(/\s+/).join(' ')), ['Controller orders', 'Database driver pg', 'own tag y']);
  assert.deepEqual((await group('Added by the server')).map(text => text.split(/\s+/).join(' ')), ['Application till', 'Login role postgres']);
  assert.doesNotMatch(await page.locator('#panel').innerText(), /_tags|_db/);
  assert.match(await page.locator('#panel').innerText(), /userId\s+4711/);
  await checkAccessibility(page, 'a change with tags');
});

test('nothing sticks out at 320 pixels', options, async () => {
  await page.setViewportSize({ width: 320, height: 700 });
  await page.goto(`${dashboard.url}/changes`);
  await checkWidth(page, 'changes');
  await checkAccessibility(page, 'changes at 320 pixels');
  // A search has one button more.
  await page.goto(`${dashboard.url}/changes?q=table:order`);
  await page.getByRole('link', { name: 'Take back…' }).waitFor();
  await checkWidth(page, 'a search');
  await page.getByRole('combobox').focus();
  await page.keyboard.press('ArrowDown');
  await page.getByRole('option').first().waitFor();
  await checkWidth(page, 'completions');
  await checkAccessibility(page, 'completions at 320 pixels');
  await page.keyboard.press('Escape');
  await lines().first().click();
  await page.locator('.panel-content').waitFor();
  await checkWidth(page, 'a change');
});

test('in the dark, too', options, async () => {
  await page.emulateMedia({ colorScheme: 'dark' });
  await checkAccessibility(page, 'changes in the dark');
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
