// A source that lacks each prerequisite in turn is connected with nothing but what the page says. A check that is wrong, or a
// cure that does not cure, stops here: the statements are read from the page.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { openObjects } from '../../src/access/objects.js';
import { Database } from '../../src/database.js';
import { checkAccessibility, checkWidth, hasBrowser, openBrowser } from './browser.js';
import { hasServer, openDashboard } from '../shop.js';
import { canStartServers, SourceServer } from '../source_server.js';

const options = { skip: !hasServer || !canStartServers ? 'PGHOST or PG_CONFIG is not set' : !hasBrowser && 'there is no Chromium' };
const PASSWORD = 'not-for-browsers';
const OWNERS = 'of-the-owner';
let history, database, dashboard, browser, page, faults, source, passfile;

before(async () => {
  if (options.skip) return;
  await admin('CREATE DATABASE connecting');
  history = new pg.Client({ database: 'connecting' });
  await history.connect();
  database = new Database({ database: 'connecting' });
  dashboard = await openDashboard(database);
  source = await SourceServer.make(['wal_level = replica', 'max_replication_slots = 1', 'max_wal_senders = 2']);
  passfile = `${source.dir}/pass`;
  ({ browser, page, faults } = await openBrowser());
  await page.goto(dashboard.enter());
});

after(async () => {
  if (options.skip) return;
  await browser?.close();
  await dashboard?.close();
  await database?.end();
  for (const { source: name } of (await history.query('SELECT source FROM bemi.status')).rows) await history.query('CALL bemi.drop_source($1, force => true)', [name]);
  await history.end();
  source?.remove();
  await admin('DROP DATABASE connecting WITH (FORCE)');
});

async function admin(statement) {
  const client = new pg.Client({ database: 'postgres' });
  await client.connect();
  await client.query(statement);
  await client.end();
}

const check = (name, state) => page.locator(`.check.${state}[data-check=${name}]`);
const cure = async name => {
  const text = await check(name, 'bad').locator('.cure code').innerText();
  assert.ok(text.length > 0);
  return text;
};
const restart = () => { source.stop(); source.start(); };

test('a database without the extension says what to run', options, async () => {
  await page.goto(`${dashboard.url}/sources`);
  await check('loaded', 'good').waitFor();
  await checkAccessibility(page, 'sources without the extension');
  await history.query(await cure('extension'));
  await page.locator('.check.bad').waitFor({ state: 'detached' });
  await page.goto(`${dashboard.url}/sources`);
  await page.getByText('Nothing is read yet').waitFor();
  // The page of changes, where one enters, could not be shown.
  faults.length = 0;
  await checkAccessibility(page, 'sources without a source');
});

test('a form that is not right says where', options, async () => {
  await page.goto(`${dashboard.url}/sources/connect`);
  await checkAccessibility(page, 'the form');
  await page.evaluate("document.querySelector('form.form').noValidate = true");
  await page.locator('[name=name]').fill('Not A Name');
  await page.getByRole('button', { name: 'Check' }).click();
  await page.locator('[name=name][aria-invalid]').waitFor();
  faults.length = 0;
});

test('the source is away, and its password file, its role and its database are not there', options, async () => {
  await page.goto(`${dashboard.url}/sources/connect`);
  const values = { name: 'orders', host: '127.0.0.1', port: source.port, database: 'orders', user: 'bemi_reader', passfile, password: PASSWORD };
  for (const [name, value] of Object.entries(values)) await page.locator(`[name=${name}]`).fill(String(value));
  await page.locator('[name=sslmode]').selectOption('disable');
  await page.getByRole('button', { name: 'Check' }).click();
  await check('reachable', 'bad').waitFor();
  await checkAccessibility(page, 'checks');

  writeFileSync(passfile, (await cure('passfile')).replace('PASSWORD', PASSWORD), { mode: 0o600 });
  await check('passfile', 'good').waitFor();
  assert.equal(statSync(passfile).mode & 0o77, 0);

  assert.match(await check('reachable', 'bad').innerText(), /The server is not running/);
  source.start();
  await source.query("SELECT pg_create_physical_replication_slot('other')", 'postgres');
  await page.getByText('The password is not right').waitFor();
  const [create] = (await cure('reachable')).split('\n');
  await source.query(create.replace('...', 'another password').replace(' REPLICATION', ''), 'postgres');
  const alter = (await cure('reachable')).split('\n').at(-1);
  await source.query(alter.replace('...', PASSWORD), 'postgres');
  await page.getByText('database "orders" does not exist').waitFor();
  await source.query(await cure('reachable'), 'postgres');
  await check('reachable', 'good').waitFor();
});

test('the form has kept what was written, but for the password', options, async () => {
  const checks = page.url();
  await page.getByRole('link', { name: 'Change' }).last().click();
  assert.equal(await page.locator('[name=passfile]').inputValue(), passfile);
  assert.ok(!(await page.content()).includes(PASSWORD));
  await page.goto(checks);
});

// Runs a cure as the owner, who is no superuser.
function asOwner(sql) {
  writeFileSync(join(source.dir, 'cure.sql'), sql);
  source.shell(`psql "host=127.0.0.1 port=${source.port} dbname=orders user=app" -v ON_ERROR_STOP=1 -f cure.sql`, OWNERS);
}

test('each prerequisite turns green when its line has run', options, async () => {
  await source.query(`CREATE ROLE app LOGIN PASSWORD '${OWNERS}'; ALTER DATABASE orders OWNER TO app`);
  await source.query(`SET ROLE app; CREATE SCHEMA app; CREATE TABLE app.todo (id integer PRIMARY KEY, task text); CREATE TABLE app."Bob's list" (id integer PRIMARY KEY)`);
  await check('version', 'good').waitFor();
  assert.match(await check('wal_level', 'bad').innerText(), /It is replica/);
  for (const name of ['wal_level', 'slots']) {
    await source.query(await cure(name));
    restart();
    await check(name, 'good').waitFor();
  }
  await source.query(await cure('rights'));
  await check('rights', 'good').waitFor();

  const download = page.waitForEvent('download');
  await check('capture', 'bad').getByRole('link', { name: 'Download bemi-source.sql' }).click();
  const file = await download;
  assert.equal(file.suggestedFilename(), 'bemi-source.sql');
  await file.saveAs(join(source.dir, 'bemi-source.sql'));
  assert.deepEqual(readFileSync(join(source.dir, 'bemi-source.sql')), readFileSync(`${execFileSync(process.env.PG_CONFIG, ['--sharedir'], { encoding: 'utf8' }).trim()}/extension/bemi-source.sql`));
  source.shell(await cure('capture'), OWNERS);
  await check('capture', 'good').waitFor();

  await page.locator('[data-check=publication] code', { hasText: 'todo' }).waitFor();
  assert.equal(await page.getByRole('button', { name: 'Connect' }).isVisible(), false);
  asOwner(await cure('publication'));
  await check('publication', 'good').waitFor();
  await check('identity', 'good').waitFor();
  for (const [name, damage] of [['identity', 'ALTER TABLE app.todo REPLICA IDENTITY DEFAULT'], ['capture', 'ALTER TABLE app.todo DISABLE TRIGGER bemi_emit_context'], ['publication', "ALTER PUBLICATION bemi SET (publish = 'insert')"]]) {
    await source.query(damage);
    await check(name, 'bad').waitFor();
    asOwner(await cure(name));
    await check(name, 'good').waitFor();
  }
  await checkAccessibility(page, 'green checks');
  assert.ok(!(await page.content()).includes(PASSWORD));
});

test('the source is connected, and its changes come', options, async () => {
  await page.getByRole('button', { name: 'Connect' }).click();
  await page.waitForURL(/\/sources\/named\/orders/);
  await check('lag', 'good').waitFor();
  await source.query(`BEGIN; SET LOCAL bemi.context = '{"userId": 7}'; INSERT INTO app.todo VALUES (1, 'Sleep'); INSERT INTO app."Bob's list" VALUES (1); COMMIT`);
  await check('last_change', 'good').waitFor();
  await page.reload();
  assert.match(await page.locator('#state').innerText(), /Connected/);
  await page.locator('.chart canvas').waitFor();
  const { rows } = await history.query('SELECT "table", context FROM bemi.changes ORDER BY id');
  assert.deepEqual(rows, [{ table: 'todo', context: { userId: 7 } }, { table: "Bob's list", context: { userId: 7 } }]);
  assert.ok(!(await page.content()).includes(PASSWORD));
  assert.ok(!(await history.query('SELECT conninfo FROM bemi.sources')).rows[0].conninfo.includes(PASSWORD));
  await checkAccessibility(page, 'a connected source');
});

test('a source that goes away is seen, and seen again when it is back', options, async () => {
  source.stop();
  await check('reachable', 'bad').waitFor();
  await checkAccessibility(page, 'a source that is away');
  source.start();
  await check('reachable', 'good').waitFor({ timeout: 60_000 });
});

test('the connection can be seen and changed, without its password', options, async () => {
  await page.goto(`${dashboard.url}/sources/connect?name=orders`);
  assert.equal(await page.locator('[name=host]').inputValue(), '127.0.0.1');
  assert.equal(await page.locator('[name=passfile]').inputValue(), passfile);
  assert.equal(await page.locator('[name=password]').inputValue(), '');
});

test('this database is read with one button', options, async () => {
  await history.query('CREATE TABLE note (id integer PRIMARY KEY); ALTER TABLE note REPLICA IDENTITY FULL');
  await page.goto(`${dashboard.url}/sources`);
  await page.getByRole('link', { name: 'Read this database' }).click();
  await history.query(await cure('publication'));
  await check('capture', 'good').waitFor();
  await page.getByRole('button', { name: 'Connect' }).click();
  await check('lag', 'good').waitFor();
  await page.goto(`${dashboard.url}/sources`);
  await page.locator('.card').nth(1).waitFor();
  await checkAccessibility(page, 'two sources');
});

test('who may not connect a source sees no button, and cannot', options, async () => {
  await history.query('CREATE ROLE sources_viewer LOGIN');
  await history.query("SELECT bemi.grant_read('sources_viewer')");
  const own = new Database({ database: 'connecting', user: 'sources_viewer' });
  const theirs = await openDashboard(own);
  const context = await browser.newContext();
  try {
    const viewer = await context.newPage();
    await viewer.goto(theirs.enter());
    await viewer.goto(`${theirs.url}/sources`);
    await viewer.locator('.card').first().waitFor();
    assert.equal(await viewer.locator('.actions a, .actions button').count(), 0);
    const token = JSON.parse(await viewer.locator('body').getAttribute('hx-headers'))['x-csrf-token'];
    assert.equal((await viewer.goto(`${theirs.url}/sources/connect`)).status(), 403);
    assert.equal((await context.request.get(`${theirs.url}/sources/bemi-source.sql`)).status(), 403);
    const response = await context.request.post(`${theirs.url}/sources/connect`, { form: { _csrf: token, name: 'x', host: 'localhost', port: '1', database: 'x', user: 'x', sslmode: 'disable' }, maxRedirects: 0 });
    assert.equal(response.status(), 403);
  } finally {
    await context.close();
    await theirs.close();
    await own.end();
    await history.query('DROP OWNED BY sources_viewer; DROP ROLE sources_viewer');
  }
});

test('nothing sticks out at 320 pixels', options, async () => {
  await page.setViewportSize({ width: 320, height: 700 });
  for (const address of ['/sources', '/sources/named/orders', '/sources/named/orders/drop', '/sources/connect']) {
    await page.goto(dashboard.url + address);
    await checkWidth(page, address);
  }
  await page.emulateMedia({ colorScheme: 'dark' });
  await checkAccessibility(page, 'the form in the dark');
});

test('only who may stop or drop a source sees the buttons', options, async () => {
  await history.query('CREATE ROLE sources_owner LOGIN REPLICATION; CREATE ROLE sources_other LOGIN REPLICATION');
  await history.query("SELECT bemi.grant_read(role) FROM unnest('{sources_owner,sources_other}'::regrole[]) role");
  await history.query("GRANT EXECUTE ON PROCEDURE bemi.start, bemi.stop, bemi.drop_source TO sources_owner, sources_other; SELECT bemi.set_source_owner('main', 'sources_owner')");
  const buttons = async (user, path) => {
    const own = new Database({ database: 'connecting', user });
    const theirs = await openDashboard(own);
    const context = await browser.newContext();
    try {
      const viewer = await context.newPage();
      await viewer.goto(theirs.enter());
      await viewer.goto(theirs.url + path);
      await viewer.locator('.trust').waitFor();
      return await viewer.locator('.actions :is(a, button), form.run button').allInnerTexts();
    } finally {
      await context.close();
      await theirs.close();
      await own.end();
    }
  };
  // With them, the dashboard knows the owner.
  await openObjects(database);
  try {
    assert.deepEqual(await buttons('sources_owner', '/sources/named/main'), ['Stop', 'Drop…']);
    assert.deepEqual(await buttons('sources_other', '/sources/named/main'), []);
    assert.deepEqual(await buttons('sources_owner', '/sources/named/main/drop'), ['Drop the source']);
    assert.deepEqual(await buttons('sources_other', '/sources/named/main/drop'), []);
  } finally {
    await history.query("SELECT bemi.set_source_owner('main', current_user::regrole); DROP OWNED BY sources_owner, sources_other; DROP ROLE sources_owner, sources_other");
  }
});

test('a source is dropped with the statement that is shown, after its name was typed', options, async () => {
  await page.setViewportSize({ width: 1360, height: 860 });
  await page.goto(`${dashboard.url}/sources/named/orders`);
  await page.getByRole('link', { name: 'Drop…' }).click();
  assert.equal(await page.locator('#plan').innerText(), "CALL bemi.drop_source('orders');");
  await checkAccessibility(page, 'the end of a source');
  await page.getByRole('link', { name: 'drop the source without it' }).click();
  assert.equal(await page.locator('#plan').innerText(), "CALL bemi.drop_source('orders', force => true);");
  await page.getByRole('link', { name: 'Drop the slot, too' }).click();
  await page.evaluate("document.querySelector('form.run').noValidate = true");
  await page.getByLabel(/^To confirm/).fill('main');
  await page.getByRole('button', { name: 'Drop the source' }).click();
  await page.getByText('Nothing was done').waitFor();
  assert.equal((await history.query("SELECT FROM bemi.sources WHERE name = 'orders' AND desired = 'run'")).rowCount, 1);
  await page.getByLabel(/^To confirm/).fill('orders');
  await page.getByRole('button', { name: 'Drop the source' }).click();
  await page.waitForURL(/\/sources$/);
  const isThere = async () => (await history.query("SELECT FROM bemi.sources WHERE name = 'orders'")).rowCount > 0;
  for (let tries = 0; tries < 1000 && await isThere(); tries++) await history.query('SELECT pg_sleep(0.05)');
  assert.equal(await isThere(), false);
  assert.deepEqual((await source.query("SELECT FROM pg_replication_slots WHERE slot_name LIKE 'bemi%'")).rows, []);
  assert.equal((await page.goto(`${dashboard.url}/sources/named/orders/drop`)).status(), 404);
  assert.deepEqual((await history.query("SELECT reason FROM bemi.gaps WHERE source = 'orders' AND to_time IS NULL")).rows, [{ reason: 'source_dropped' }]);
  faults.length = 0;
});

test('no page has reported a fault', options, () => assert.deepEqual(faults, []));
