// An export has exactly what the search finds, with values as they are, and ends if nobody reads it any more.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import http from 'node:http';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { Database } from '../../src/database.js';
import { columns } from '../../src/queries/export.js';
import { formats } from '../../src/views/export_file.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
let shop, dashboard, get;

before(async () => {
  if (!hasServer) return;
  shop = await openShop();
  dashboard = await openDashboard(shop.database);
  const entered = await fetch(dashboard.enter(), { redirect: 'manual' });
  const cookie = entered.headers.get('set-cookie').split(';')[0];
  get = (path, more) => fetch(`${dashboard.url}${path}`, { ...more, headers: { cookie } });
});

after(async () => {
  await dashboard?.close();
  await shop?.close();
});

test('a search is exported whole, newest first, over many pages', options, async () => {
  for (const [q, where] of [
    ['', 'true'],
    ['table:order endpoint:/cart/checkout', `"table" = 'order' AND context ->> 'endpoint' = '/cart/checkout'`],
    ['-job:import -job:nightly-prices', `context ->> 'job' IS NULL`],
    ['table:order key:40', `"table" = 'order' AND primary_key = '40'`],
  ]) {
    const { rows } = await shop.client.query(`SELECT id FROM bemi.changes WHERE ${where} ORDER BY id DESC`);
    const response = await get(`/export/changes.jsonl?${new URLSearchParams({ q })}`);
    assert.match(response.headers.get('content-disposition'), /^attachment; filename="changes-.*\.jsonl"$/);
    const ids = (await response.text()).trimEnd().split('\n').map(line => JSON.parse(line).id);
    assert.deepEqual(ids, rows.map(row => row.id), q);
  }
});

test('values are those of the history', options, async () => {
  const text = await (await get('/export/changes.jsonl?q=table:order+op:create')).text();
  const { rows } = await shop.client.query(`SELECT id, after::text FROM bemi.changes WHERE "table" = 'order' AND operation = 'CREATE' ORDER BY id DESC LIMIT 1`);
  assert.ok(text.startsWith(`{"id":"${rows[0].id}"`));
  assert.ok(text.split('\n')[0].includes(`"after":${rows[0].after}`));
});

test('a spreadsheet runs nothing of a CSV file', () => {
  const row = Object.fromEntries(columns.map(column => [column, null]));
  const line = more => formats.csv.line({ ...row, ...more });
  assert.match(line({ primary_key: '=HYPERLINK("http://x")' }), /"'=HYPERLINK\(""http:\/\/x""\)"/);
  for (const text of ['+1', '@x', '-1+1', '\tx', '\rx', '\nx']) assert.ok(line({ primary_key: text }).includes(`'${text}`), text);
  for (const text of ['-1', '-1.50', '{"a": 1}']) assert.ok(!line({ primary_key: text }).includes("'"), text);
  assert.equal(line({ id: 'a', primary_key: 'x,"y"\nz' }), `a,,,,,,"x,""y""\nz",,,,,\r\n`);
  assert.match(formats.csv.header, /^\ufeffid,committed_at,/);
});

// In a database of its own, because so many changes would fill the pages of other tests.
test('an export ends when the browser goes', { ...options, timeout: 120_000 }, async () => {
  const name = `export_${randomInt(1e9)}`;
  await shop.client.query(`CREATE DATABASE ${name}`);
  const client = new pg.Client({ database: name });
  await client.connect();
  await client.query('CREATE EXTENSION bemi; CREATE TABLE filled (id integer PRIMARY KEY, text text)');
  await client.query("SELECT bemi.track('filled')");
  await client.query('CALL bemi.start()');
  // Rows that fill all buffers on the way, so that the export waits for its reader.
  await client.query("INSERT INTO filled SELECT n, repeat('x', 5000) FROM generate_series(1, 6000) n");
  await client.query('SELECT bemi.sync()');
  const database = new Database({ database: name });
  const other = await openDashboard(database);
  const entered = await fetch(other.enter(), { redirect: 'manual' });
  const cookie = entered.headers.get('set-cookie').split(';')[0];
  await new Promise(resolve => {
    const request = http.get(`${other.url}/export/changes.csv`, { headers: { cookie }, agent: false }, response => {
      response.once('data', () => request.destroy());
    });
    request.on('error', () => {}).on('close', resolve);
  });
  const end = async () => (await client.query("SELECT action, changes::int FROM bemi_dashboard.access_log WHERE action LIKE 'export\\_ended' OR action = 'exported'")).rows[0];
  let ended;
  while (!(ended = await end())) await new Promise(resolve => { setImmediate(resolve); });
  assert.equal(ended.action, 'export_ended');
  assert.ok(ended.changes < 6000);

  // A lock holds the query of the next page. It ends although the lock stays.
  const waiting = async () => (await shop.client.query("SELECT FROM pg_stat_activity WHERE datname = $1 AND application_name = 'bemi-dashboard' AND wait_event_type = 'Lock'", [name])).rowCount > 0;
  const running = async () => (await shop.client.query("SELECT FROM pg_stat_activity WHERE datname = $1 AND application_name = 'bemi-dashboard' AND state <> 'idle'", [name])).rowCount > 0;
  const locker = new pg.Client({ database: name });
  await locker.connect();
  let begin;
  await new Promise((resolve, reject) => {
    const request = http.get(`${other.url}/export/changes.csv`, { headers: { cookie }, agent: false }, async response => {
      try {
        response.on('data', () => {}).pause();
        await locker.query('BEGIN; LOCK TABLE bemi.changes IN ACCESS EXCLUSIVE MODE');
        response.resume();
        while (!await waiting());
        begin = Date.now();
        request.destroy();
      } catch (error) {
        reject(error);
      }
    });
    request.on('error', () => {}).on('close', resolve);
  });
  while (await running());
  assert.ok(Date.now() - begin < 50_000, 'it was cancelled, and has not waited for its own limit of 60 seconds');
  await locker.query('ROLLBACK');
  await locker.end();
  await other.close();
  await Promise.all([client.end(), database.end()]);
});

test('what is not found is a page', options, async () => {
  assert.equal((await get('/export/changes.xml')).status, 404);
  assert.equal((await get('/export/constructor')).status, 404);
  assert.equal((await get('/export/changes.csv?q=op:paint', { redirect: 'manual' })).status, 302);
});
