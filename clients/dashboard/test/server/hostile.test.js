// Tables, keys, values and contexts that no page expects: each page must be there, show the right row, and write down what it does not show. In a database
// of its own, because such rows would slow down the pages of other tests.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, before, test } from 'node:test';
import pg from 'pg';
import * as addresses from '../../src/addresses.js';
import { Database } from '../../src/database.js';
import { exportPage } from '../../src/queries/export.js';
import { indent } from '../../src/queries/json_text.js';
import { parse } from '../../src/search/grammar.js';
import { meaningOf } from '../../src/search/meaning.js';
import { hasServer, openDashboard } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
const NAME = `hostile_${randomInt(1e9)}`;
let client, database, dashboard, cookie;

const KEYS = ['a/b', 'a%2Fb', '..', '.', '', ' ', '\n', '?x#y', '\\u0000', '["a"]', '["a", "b"]', '\u{1F600}', 'x'.repeat(2000), `${'\u{1F600}'.repeat(600)}`];
// Characters of four bytes: four megabytes.
const LONG = 1_000_000;
const COLUMNS = Array.from({ length: 1500 }, (_, i) => `c${i}`);

before(async () => {
  if (!hasServer) return;
  const admin = new pg.Client({ database: 'postgres' });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${NAME}`);
  await admin.end();
  client = new pg.Client({ database: NAME });
  await client.connect();
  await client.query(`
    CREATE EXTENSION bemi;
    CREATE TABLE long (id integer PRIMARY KEY, text text, json jsonb);
    CREATE TABLE "constructor" (id text PRIMARY KEY, note text);
    CREATE TABLE "__proto__" ("__proto__" text, "constructor" numeric, "toString" bigint, "valueOf" float8, at timestamptz, list text[], PRIMARY KEY ("__proto__", at));
    CREATE TABLE wide (id integer PRIMARY KEY, ${COLUMNS.map(name => `${name} integer`).join(', ')});
    CREATE TABLE retyped (id text PRIMARY KEY, note text);
    CREATE TABLE "two words" (id integer PRIMARY KEY);
    CREATE TABLE counter (id integer PRIMARY KEY, n integer);
    SELECT bemi.track('long'), bemi.track('"constructor"'), bemi.track('"__proto__"'), bemi.track('wide'), bemi.track('retyped'), bemi.track('"two words"'), bemi.track('counter')`);
  await client.query('CALL bemi.start()');
  database = new Database({ database: NAME });
  dashboard = await openDashboard(database);
  const entered = await fetch(dashboard.enter(), { redirect: 'manual' });
  cookie = entered.headers.getSetCookie().map(text => text.split(';')[0]).join('; ');
});

after(async () => {
  await dashboard?.close();
  await database?.end();
  // The server has few slots.
  await client?.query("CALL bemi.drop_source('main')");
  await client?.end();
});

async function get(path, status = 200) {
  const response = await fetch(dashboard.url + path, { headers: { cookie } });
  const text = await response.text();
  assert.equal(response.status, status, `${path.slice(0, 200)}: ${/<section class="message"[^]*<\/section>/.exec(text)}`);
  return text;
}

// What a reader sees.
const shown = markup => markup.replace(/[^]*<main[^>]*>/, '').replace(/<[^>]*>/g, ' ').replaceAll('&quot;', '"').replaceAll('&#39;', "'").replaceAll('&lt;', '<').replaceAll('&amp;', '&').replace(/\s+/g, ' ');

async function write(statement, values, context) {
  await client.query('BEGIN');
  if (context) await client.query('SELECT bemi.set_context($1)', [context]);
  await client.query(statement, values);
  await client.query('COMMIT');
  await client.query("SELECT bemi.sync('60 seconds')");
}

const changesOf = async table => (await client.query('SELECT id, schema, "table", primary_key AS "primaryKey", operation FROM bemi.changes WHERE "table" = $1 ORDER BY id', [table])).rows;

const pagesOf = ({ id }) => [`/change/${id}`, `/changes?change=${id}`, `/request/${id}`, `/revert?change=${id}`];

test('JSON is on lines like that of jsonb_pretty(), with each number as it is', options, async () => {
  for (const json of ['{"a": 9007199254740993, "b": [1.00, {"c": "x, [y] {\\"z\\"} \\\\"}], "d": "é\\n"}', '[]', '{"a": [], "b": {"c": {}}}', '[1, [2, [3]]]', '[true, null, "]"]']) {
    const { rows: [{ compact, pretty }] } = await client.query("SELECT $1::jsonb::text AS compact, jsonb_pretty($1::jsonb) AS pretty", [json]);
    assert.equal(indent(compact), pretty.replace(/([[{])\n\s*([\]}])/g, '$1$2'));
  }
  // Cut anywhere, it keeps all that there is.
  const whole = '{"a": [1, "b\\"c", {"d": []}], "e": null}';
  for (let end = 0; end <= whole.length; end++) assert.equal(indent(whole.slice(0, end)).replace(/\s/g, ''), whole.slice(0, end).replace(/\s/g, ''));
});

test('each key leads to its own row', options, async () => {
  for (const [i, key] of KEYS.entries()) await client.query('INSERT INTO "constructor" VALUES ($1, $2)', [key, `note ${i} of the row`]);
  await client.query("SELECT bemi.sync('60 seconds')");
  const changes = await changesOf('constructor');
  assert.equal(changes.length, KEYS.length);
  for (const [i, change] of changes.entries()) {
    for (const path of pagesOf(change)) assert.match(shown(await get(path)), new RegExp(`note ${i} of the row`), path);
    assert.match(shown(await get(addresses.row({ schema: change.schema, table: change.table, primaryKey: change.primaryKey }))), new RegExp(`note ${i} of the row`), JSON.stringify(KEYS[i]).slice(0, 50));
  }
  // The form that compares goes to the same row.
  await write(`UPDATE "constructor" SET note = 'changed' WHERE id = '..'`);
  const compare = await get(addresses.row({ schema: 'public', table: 'constructor', primaryKey: '..' }));
  assert.match(/<form class="choose"[^]*?<\/form>/.exec(compare)[0], /name="key" value="\.\."/);
});

test('numbers and times are exact on each page', options, async () => {
  await write(`INSERT INTO "__proto__" VALUES ('k', 9007199254740993.10, -9223372036854775808, 'NaN', '0044-03-15 12:00:00.123456 BC', '{"a,b","\\"q\\"",NULL}')`, [],
    '{"__proto__": 9007199254740993, "constructor": "c", "requestId": 9007199254740993}');
  await write(`UPDATE "__proto__" SET "constructor" = 1e400, "toString" = 9223372036854775807, "valueOf" = '-Infinity'`);
  const [created, updated] = await changesOf('__proto__');
  for (const path of [`/change/${created.id}`, `/changes?change=${created.id}`, `/revert?change=${created.id}`, `${addresses.row(created)}?version=${created.id}`]) {
    const text = shown(await get(path));
    // bemi.diff() and with it the plan of an insert show what is there now.
    const values = path.startsWith('/revert') ? ['9223372036854775807', '-Infinity'] : ['9007199254740993.10', '-9223372036854775808', 'NaN', '0044-03-15', '12:00:00.123456'];
    for (const value of values) assert.ok(text.includes(value), `${path}: ${value}`);
  }
  assert.ok(shown(await get(`/change/${updated.id}`)).includes('1' + '0'.repeat(400)));
  for (const path of [`/change/${created.id}`, `/request/${created.id}`]) {
    const text = shown(await get(path));
    assert.ok(text.includes('__proto__ 9007199254740993') && text.includes('constructor c'), path);
  }
  for (const q of ['context.__proto__:9007199254740993', '__proto__:9007199254740993', 'constructor:c', 'requestId:9007199254740993']) assert.match(shown(await get(`/changes?q=${q}`)), /Added/i, q);
  for (const q of ['__proto__:9007199254740992', 'constructor:d', 'toString:x']) assert.doesNotMatch(shown(await get(`/changes?q=${q}`)), /Added/i, q);
  for (const file of ['changes.jsonl', 'changes.csv']) {
    const text = await get(`/export/${file}?q=table:__proto__`);
    for (const value of ['9007199254740993.10', '-9223372036854775808', 'NaN', '9007199254740993']) assert.ok(text.includes(value), value);
  }
});

test('of a table with 1500 columns, each page has all of them, or writes how many it does not have', options, async () => {
  await write('INSERT INTO wide (id) VALUES (1)');
  await write(`UPDATE wide SET ${COLUMNS.map((name, i) => `${name} = ${i + 5000}`).join(', ')}`);
  const change = (await changesOf('wide')).at(-1);
  for (const path of [`/change/${change.id}`, addresses.row(change), `/changes?change=${change.id}`, `/revert?change=${change.id}`]) {
    const text = shown(await get(path));
    for (const value of [5000, 5750, 6499]) assert.ok(text.includes(value), `${path}: ${value}`);
  }
  assert.match(shown(await get(`/past?table=public.wide&at=${new Date().toISOString().slice(0, 20)}000000Z`)), /1 301 more columns/);
});

test('a context with very many members, and a very long user', options, async () => {
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, i]));
  await write('INSERT INTO counter VALUES (0, 0)', [], many);
  await write('UPDATE counter SET n = 1', [], { userId: 'u'.repeat(30_000), endpoint: `/${'e'.repeat(30_000)}`, requestId: 'r'.repeat(30_000) });
  const [crowded, change] = await changesOf('counter');
  for (const path of [...pagesOf(change), ...pagesOf(crowded)]) {
    const markup = await get(path);
    assert.ok(/<title>([^]*?)<\/title>/.exec(markup)[1].length < 1000, path);
    assert.ok(shown(markup).includes('counter'), path);
  }
  assert.match(shown(await get(`/change/${crowded.id}`)), /Only the first 2 000 are shown/);
  // An identity that is too long to be found is none: the request is the transaction.
  assert.match(shown(await get(`/request/${change.id}`)), /1 change in 1 table, in transaction/);
});

test('a row whose key has another type today has its history', options, async () => {
  await write("INSERT INTO retyped VALUES ('a-1', 'first')");
  await write("DELETE FROM retyped; ALTER TABLE retyped ALTER id TYPE integer USING 1");
  await write("INSERT INTO retyped VALUES (1, 'second')");
  const [change, removed] = await changesOf('retyped');
  for (const path of [`/change/${change.id}`, `/changes?change=${change.id}`, `/row/public/retyped/a-1`, `/row/public/retyped/a-1?version=${removed.id}&compared=${change.id}`]) assert.match(shown(await get(path)), /first/, path);
  await get('/row/public/retyped/b-1', 404);
});

test('each version of a row with very many of them has its page', options, async () => {
  await write('INSERT INTO counter VALUES (1, 0)');
  await write('DO $$ BEGIN FOR i IN 1..5500 LOOP UPDATE counter SET n = i WHERE id = 1; END LOOP; END $$');
  const { rows } = await client.query(`SELECT id, after ->> 'n' AS n FROM bemi.changes WHERE "table" = 'counter' AND primary_key = '1' ORDER BY id`);
  assert.equal(rows.length, 5501);
  for (const place of [0, 1, 150, 2500, 5300, 5500]) {
    const { id, n } = rows[place];
    const text = await get(addresses.row({ schema: 'public', table: 'counter', primaryKey: '1', version: id, compared: rows[Math.max(place - 1, 0)].id }));
    assert.ok(text.includes(`data-version="${id}"`), place);
    assert.match(shown(text), new RegExp(`n (?:0|[^ ]+ → became ${n}) `), place);
  }
});

test('of a long value, each page shows the beginning, and how much it does not show', options, async () => {
  await write("INSERT INTO long VALUES (1, 'begin ' || repeat('\u{1F600}', $1::integer), '{}')", [LONG]);
  await write("UPDATE long SET text = text || ' end' WHERE id = 1");
  const [created, ended] = await changesOf('long');
  assert.match(shown(await get(`/change/${created.id}`)), /… and 980 006 more characters/);
  // What differs is not in the beginning.
  for (const path of [`/change/${ended.id}`, `/changes?change=${ended.id}`, `/revert?change=${ended.id}`]) assert.match(shown(await get(path)), /The beginning is the same\. What differs is in the [\d ]+ more characters/, path);
  await write("UPDATE long SET text = 'other' || text WHERE id = 1");
  const other = (await changesOf('long')).at(-1);
  assert.match(shown(await get(`/change/${other.id}`)), /Only the beginning is compared\. [\d ]+ more characters/);
  const row = addresses.row({ schema: 'public', table: 'long', primaryKey: '1' });
  assert.match(shown(await get(row)), /more characters/);
  assert.match(shown(await get(`${row}?version=${ended.id}&compared=${created.id}`)), /What differs is in the/);
  for (const path of ['/changes', '/rows', '/requests', `/past?table=public.long&at=${new Date().toISOString().slice(0, 20)}000000Z`, '/revert?q=table:long', `/request/${other.id}`]) {
    assert.ok((await get(path)).length < 500_000, path);
  }
  // A text as long as what is shown hides nothing, although JavaScript counts its characters twice.
  await write("UPDATE long SET text = repeat('\u{1F600}', 20000) WHERE id = 1");
  assert.doesNotMatch(shown(await get(row)), /more characters? *$|… and/);
});

test('a deep value is not made longer than it is', options, async () => {
  await write(`INSERT INTO long VALUES (2, 'x', (repeat('[', 3000) || repeat(']', 3000))::jsonb)`);
  const change = (await changesOf('long')).at(-1);
  for (const path of [...pagesOf(change), '/changes', addresses.row(change)]) assert.ok((await get(path)).length < 200_000, path);
});

test('an export needs little memory for large rows', options, async () => {
  await write(`CREATE TABLE heavy (id integer PRIMARY KEY, text text); SELECT bemi.track('heavy')`);
  await write(`INSERT INTO heavy SELECT i, (SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, 16000) j) FROM generate_series(1, 8) i`);
  const meaning = meaningOf(parse('table:heavy'), { contextKeys: new Map(), tables: [] });
  const seen = [];
  let beforeId;
  do {
    const page = await database.read(one => exportPage(one, meaning, { beforeId }), { timeout: 60_000 });
    assert.ok(page.rows.reduce((sum, row) => sum + row.after.length, 0) < 3_000_000, 'a page is not large');
    seen.push(...page.rows.map(({ id }) => id));
    beforeId = page.next;
  } while (beforeId);
  const { rows } = await client.query(`SELECT id FROM bemi.changes WHERE "table" = 'heavy' ORDER BY id DESC`);
  assert.deepEqual(seen, rows.map(({ id }) => id));
});

test('the page of a table leads to the changes of that table, whatever its name', options, async () => {
  await client.query('INSERT INTO "two words" VALUES (1)');
  await client.query("SELECT bemi.sync('60s')");
  const page = await get('/tables/public/two%20words');
  const address = /href="(\/changes\?q=table[^"]*)"/.exec(page)[1].replaceAll('&amp;', '&');
  assert.deepEqual(parse(new URLSearchParams(address.split('?')[1]).get('q')).map(({ qualifier, value }) => [qualifier, value]), [['table', 'public.two words']]);
  const { rows } = await client.query('SELECT id FROM bemi.changes WHERE "table" = $1', ['two words']);
  assert.match(await get(address), new RegExp(rows[0].id));
});
