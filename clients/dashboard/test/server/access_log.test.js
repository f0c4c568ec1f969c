// The access log is worth nothing if a reader can forge or remove entries, or read without one. Only a server can judge that.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { openAccessLog } from '../../src/access/access_log.js';
import { ObjectsMissing, openObjects } from '../../src/access/objects.js';
import { Database } from '../../src/database.js';
import { factsOf } from '../../src/queries/facts.js';
import { hasServer, openDashboard, openShop } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
let shop, reader, dashboard;

before(async () => {
  if (!hasServer) return;
  shop = await openShop();
  await shop.client.query(`DO $$ BEGIN
    IF to_regrole('log_reader') IS NULL THEN CREATE ROLE log_reader LOGIN; CREATE ROLE log_stranger LOGIN; END IF;
    PERFORM bemi.grant_read('log_reader');
  END $$`);
  await openAccessLog(shop.database);
  reader = new Database({ database: 'shop', user: 'log_reader' });
  dashboard = await openDashboard(reader);
});

after(async () => {
  await dashboard?.close();
  await reader?.end();
  await shop?.close();
});

// Whoever has come in, as the browser does it: get(path) returns the response.
async function enter({ url, enter: address }) {
  const entered = await fetch(address(), { redirect: 'manual' });
  const cookie = entered.headers.get('set-cookie').split(';')[0];
  return (path, more = {}) => fetch(`${url}${path}`, { ...more, headers: { cookie, ...more.headers } });
}

async function entriesSince(id) {
  const { rows } = await shop.client.query('SELECT role, action, address, changes FROM bemi_dashboard.access_log WHERE id > $1 ORDER BY id', [id]);
  return rows;
}

async function lastEntry() {
  const { rows: [{ id }] } = await shop.client.query('SELECT coalesce(max(id), 0) AS id FROM bemi_dashboard.access_log');
  return id;
}

test('a reader cannot read, forge, change or remove entries', options, async () => {
  const denied = text => assert.rejects(reader.write(client => client.query(text)), { code: '42501' }, text);
  await denied('SELECT FROM bemi_dashboard.access_log');
  await denied("INSERT INTO bemi_dashboard.access_log (role, action, address) VALUES ('postgres', 'view', '/')");
  await denied("UPDATE bemi_dashboard.access_log SET role = 'postgres'");
  await denied('DELETE FROM bemi_dashboard.access_log');
  await denied('TRUNCATE bemi_dashboard.access_log');
  await denied('DROP SCHEMA bemi_dashboard CASCADE');
  await denied('ALTER FUNCTION bemi_dashboard.log_access(text, text, bigint, text) RENAME TO x');
});

test('an entry has the role that reads, also after SET ROLE', options, async () => {
  const last = await lastEntry();
  await reader.write(client => client.query("SELECT bemi_dashboard.log_access('view', '/a')"));
  await shop.client.query("SET ROLE log_reader; SELECT bemi_dashboard.log_access('view', '/b'); RESET ROLE");
  assert.deepEqual((await entriesSince(last)).map(({ role, address }) => [role, address]), [['log_reader', '/a'], ['log_reader', '/b']]);
});

test('who may not read the history cannot write either', options, async () => {
  const stranger = new Database({ database: 'shop', user: 'log_stranger' });
  try {
    await assert.rejects(stranger.write(client => client.query("SELECT bemi_dashboard.log_access('view', '/')")), { code: '42501', hint: "SELECT bemi.grant_read('log_stranger');" });
  } finally {
    await stranger.end();
  }
});

test('each page is written down, a page that is loaded again once, and files of the dashboard not', options, async () => {
  const get = await enter(dashboard);
  const last = await lastEntry();
  for (const path of ['/changes?q=log+test', '/changes?q=log+test', '/rows', '/state', '/public/page.js', '/change/none']) await (await get(path)).text();
  // The target that a browser names is its word, so it must not matter.
  await (await get('/requests?q=log+test', { headers: { 'hx-request': 'true', 'hx-target': 'list' } })).text();
  assert.deepEqual((await entriesSince(last)).map(({ role, action, address }) => `${role} ${action} ${address}`), [
    'log_reader view /changes?q=log+test', 'log_reader view /rows', 'log_reader view /change/none', 'log_reader view /requests?q=log+test']);
});

test('a plan that a form shows is written down, without the token of the form', options, async () => {
  const owners = await openDashboard(shop.database);
  try {
    const get = await enter(owners);
    const form = await get('/sources/connect');
    const cookie = form.headers.getSetCookie().map(text => text.split(';')[0]).join('; ');
    const [, token] = (await form.text()).match(/name="_csrf" value="([^"]+)"/);
    const { rows: [{ id }] } = await shop.client.query('SELECT id FROM bemi.changes ORDER BY id DESC LIMIT 1');
    const last = await lastEntry();
    const body = new URLSearchParams({ padding: 'x'.repeat(20_000), _csrf: token, change: id, mode: 'skip', phrase: 'a b', confirm: 'a', expect: 'c', reason: 'd' });
    const refused = await get('/revert', { method: 'POST', body, headers: cookie ? { cookie } : {} });
    assert.equal(refused.status, 409);
    assert.match(await refused.text(), /Nothing was done/);
    assert.deepEqual((await entriesSince(last)).map(({ action, address }) => `${action} ${address}`), [`view /revert?change=${id}&mode=skip`]);
  } finally {
    await owners.close();
  }
});

test('a long address is written down whole', options, async () => {
  const last = await lastEntry();
  await reader.write(client => client.query("SELECT bemi_dashboard.log_access('view', repeat('x', 20000))"));
  // Node takes no longer one.
  assert.equal((await entriesSince(last))[0].address.length, 16_384);
});

test('an export is written down when it begins and when it ends', options, async () => {
  const get = await enter(dashboard);
  const last = await lastEntry();
  const lines = (await (await get('/export/changes.jsonl?q=table:coupon')).text()).trimEnd().split('\n').map(line => JSON.parse(line));
  const { rows: [{ count }] } = await shop.client.query(`SELECT count(*)::int AS count FROM bemi.changes WHERE "table" = 'coupon'`);
  assert.equal(lines.length, count);
  assert.deepEqual((await entriesSince(last)).map(({ action, changes }) => [action, changes]), [['export', null], ['exported', String(count)]]);
});

test('only who may read the log sees its page in the navigation', options, async () => {
  const get = await enter(dashboard);
  assert.doesNotMatch(await (await get('/rows')).text(), /href="\/access-log"/);
  const refused = await get('/access-log');
  assert.equal(refused.status, 403);
  assert.match(await refused.text(), /permission denied/);
  assert.equal((await factsOf(shop.database)).role.mayReadAccessLog, true);
});

// A database of its own, with bemi and no log: work({ owner, database(user) }), where database() makes a Database that is ended afterwards.
async function withoutLog(name, work) {
  const client = new pg.Client({ database: 'postgres' });
  await client.connect();
  await client.query(`DROP DATABASE IF EXISTS ${name}`);
  await client.query(`CREATE DATABASE ${name}`);
  const owner = new pg.Client({ database: name });
  await owner.connect();
  const databases = [];
  const database = user => {
    databases.push(new Database({ database: name, user }));
    return databases.at(-1);
  };
  try {
    await owner.query("CREATE EXTENSION bemi; SELECT bemi.grant_read('log_reader')");
    await work({ owner, database });
  } finally {
    await Promise.all([owner.end(), ...databases.map(one => one.end())]);
    await client.query(`DROP DATABASE ${name} WITH (FORCE)`);
    await client.end();
  }
}

test('a function that takes the place of the log is not called', options, () => withoutLog('log_replaced', async ({ owner, database }) => {
  await openObjects(database());
  const other = database('log_reader');
  const log = await openAccessLog(other);
  await log.write({ action: 'view', address: '/before' });
  // What it does, it would do with the rights of the reader. PostgreSQL runs such a function when it plans the call, if it is not asked before.
  await owner.query(`DROP SCHEMA bemi_dashboard CASCADE; GRANT CREATE ON DATABASE log_replaced TO log_stranger; SET ROLE log_stranger;
    CREATE SCHEMA bemi_dashboard; CREATE TABLE bemi_dashboard.access_log (); GRANT USAGE ON SCHEMA bemi_dashboard TO PUBLIC;
    CREATE FUNCTION bemi_dashboard.log_access(text, text, bigint, text) RETURNS void IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'it was called'; END $$; RESET ROLE`);
  await assert.rejects(log.write({ action: 'view', address: '/after' }), ObjectsMissing);
  await assert.rejects(openObjects(other), ObjectsMissing);
  // Nor does the owner put his own objects into the schema of somebody else.
  await assert.rejects(openObjects(database()), { hint: 'DROP SCHEMA bemi_dashboard CASCADE;' });
  await owner.query(`DROP SCHEMA bemi_dashboard CASCADE; CREATE SCHEMA bemi_dashboard; GRANT CREATE ON SCHEMA bemi_dashboard TO log_stranger; SET ROLE log_stranger;
    CREATE TABLE bemi_dashboard.links (); RESET ROLE`);
  await assert.rejects(openObjects(database()), { hint: 'DROP SCHEMA bemi_dashboard CASCADE;' });
}));

test('the log of an older dashboard is brought up to date, with its entries', options, () => withoutLog('log_old', async ({ owner, database }) => {
  // As the first dashboards have made it.
  await owner.query(`CREATE SCHEMA bemi_dashboard; GRANT USAGE ON SCHEMA bemi_dashboard TO PUBLIC;
    CREATE TABLE bemi_dashboard.access_log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, logged_at timestamptz NOT NULL DEFAULT clock_timestamp(),
      role name NOT NULL, person text, action text NOT NULL CHECK (action IN ('view', 'export', 'exported', 'export_ended')), address text NOT NULL, changes bigint);
    CREATE FUNCTION bemi_dashboard.log_access(action text, address text, changes bigint DEFAULT NULL, person text DEFAULT NULL) RETURNS void
      LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$ BEGIN
        INSERT INTO bemi_dashboard.access_log (role, action, address) VALUES (session_user, action, left(address, 4000)); END $$;
    SELECT bemi_dashboard.log_access('view', '/old')`);
  const other = database('log_reader');
  await assert.rejects(openObjects(other), { isOld: true, kind: 'access_log_old' });
  await Promise.all([openObjects(database()), openObjects(database()), openObjects(database())]);
  const log = await openAccessLog(other);
  await log.write({ action: 'view', address: `/${'x'.repeat(5000)}`, person: 'Ada' });
  const { rows } = await owner.query('SELECT role, person, length(address) AS length FROM bemi_dashboard.access_log ORDER BY id');
  assert.deepEqual(rows, [{ role: 'postgres', person: null, length: 4 }, { role: 'log_reader', person: 'Ada', length: 5001 }]);
  // A dump without comments forgets the version. Then all is made again, and nothing is lost.
  await owner.query('COMMENT ON SCHEMA bemi_dashboard IS NULL');
  await openObjects(database());
  // A newer dashboard has been here: its objects stay as they are.
  await owner.query(`COMMENT ON SCHEMA bemi_dashboard IS 'objects of bemi-dashboard, version 999'`);
  await openObjects(database());
  assert.equal((await owner.query("SELECT obj_description('bemi_dashboard'::regnamespace) AS comment")).rows[0].comment, 'objects of bemi-dashboard, version 999');
  assert.equal((await owner.query('SELECT count(*)::int AS count FROM bemi_dashboard.access_log')).rows[0].count, 2);
  await log.write({ action: 'view', address: '/' });
}));

test('without a log, nothing is shown, unless somebody has decided so', options, async () => {
  const client = new pg.Client({ database: 'postgres' });
  await client.connect();
  await client.query('DROP DATABASE IF EXISTS without_log');
  await client.query('CREATE DATABASE without_log');
  await client.end();
  const owner = new pg.Client({ database: 'without_log' });
  await owner.connect();
  await owner.query("CREATE EXTENSION bemi; SELECT bemi.grant_read('log_reader')");
  const other = new Database({ database: 'without_log', user: 'log_reader' });
  const strict = await openDashboard(other);
  const loose = await openDashboard(other, { accessLog: false });
  try {
    await assert.rejects(openAccessLog(other), ObjectsMissing);
    const refused = await (await enter(strict))('/changes');
    assert.equal(refused.status, 503);
    assert.match(await refused.text(), /--create-access-log/);
    assert.equal((await (await enter(loose))('/changes')).status, 200);
    // A schema that somebody else has made could have a function that runs with the rights of the reader.
    await owner.query(`GRANT CREATE ON DATABASE without_log TO log_stranger; SET ROLE log_stranger;
      CREATE SCHEMA bemi_dashboard; CREATE TABLE bemi_dashboard.access_log (); GRANT USAGE ON SCHEMA bemi_dashboard TO PUBLIC;
      CREATE FUNCTION bemi_dashboard.log_access(text, text, bigint, text) RETURNS void LANGUAGE sql AS $$ SELECT 1/0 $$; RESET ROLE`);
    assert.equal((await (await enter(strict))('/changes')).status, 503);
    // The owner makes it, readers use it; and if it is dropped, nothing is shown again.
    await owner.query('DROP SCHEMA bemi_dashboard CASCADE');
    const owners = new Database({ database: 'without_log' });
    await openAccessLog(owners);
    await owners.end();
    const get = await enter(strict);
    assert.equal((await get('/changes')).status, 200);
    await owner.query('DROP SCHEMA bemi_dashboard CASCADE');
    assert.equal((await get('/requests')).status, 503);
    assert.equal((await get('/changes?q=42')).status, 503);
  } finally {
    await Promise.all([strict.close(), loose.close()]);
    await Promise.all([owner.end(), other.end()]);
  }
});
