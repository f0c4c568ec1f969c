// Real row security: two roles, whose policies on bemi.changes let each see other changes, use one dashboard. What a page, a part, a file
// or an event shows is what the role may see, whether it has logged in itself, or the dashboard has changed to it with SET LOCAL ROLE.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { openObjects } from '../../src/access/objects.js';
import { Database } from '../../src/database.js';
import { hasServer, openDashboard } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
const NAME = 'row_security';
const REGIONS = ['north', 'south'];
let client, readers;

const SETUP = `
DROP ROLE IF EXISTS rs_login, rs_north, rs_south;
CREATE ROLE rs_north LOGIN; CREATE ROLE rs_south LOGIN; CREATE ROLE rs_login LOGIN NOINHERIT IN ROLE rs_north, rs_south;
CREATE EXTENSION bemi;
SELECT bemi.grant_read('rs_north'), bemi.grant_read('rs_south');
CREATE TABLE orders (id integer PRIMARY KEY, region text, note text);
ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON orders USING (region = substr(current_user, 4));
GRANT SELECT, INSERT, UPDATE, DELETE ON orders TO rs_north, rs_south;
SELECT bemi.track('orders');
ALTER TABLE bemi.changes ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON bemi.changes FOR SELECT USING (context ->> 'region' = substr(current_user, 4));
GRANT EXECUTE ON FUNCTION bemi.plan_revert, bemi.revert, bemi.restore TO rs_north, rs_south;`;

before(async () => {
  if (!hasServer) return;
  const admin = new pg.Client({ database: 'postgres' });
  await admin.connect();
  await admin.query(`DROP DATABASE IF EXISTS ${NAME}`);
  await admin.query(`CREATE DATABASE ${NAME}`);
  await admin.end();
  client = new pg.Client({ database: NAME });
  await client.connect();
  await client.query(SETUP);
  await client.query('CALL bemi.start()');
  for (const [i, region] of [...REGIONS, ...REGIONS].entries()) await change(region, `INSERT INTO orders VALUES (${i + 1}, '${region}', 'secret of ${region} ${i + 1}')`);
  await client.query('SELECT bemi.sync()');
  const owner = new Database({ database: NAME });
  await openObjects(owner);
  await owner.end();
  readers = await Promise.all(REGIONS.flatMap(region => [
    reader('login', region, new Database({ database: NAME, user: `rs_${region}` })),
    reader('SET ROLE', region, new Database({ database: NAME, user: 'rs_login' }, { role: `rs_${region}` })),
  ]));
});

after(async () => {
  if (!hasServer) return;
  for (const { dashboard, database } of readers ?? []) {
    await dashboard.close();
    await database.end();
  }
  await client.query("CALL bemi.drop_source('main')");
  await client.query('DROP OWNED BY rs_north, rs_south, rs_login; DROP ROLE rs_login, rs_north, rs_south');
  await client.end();
});

async function change(region, statement) {
  await client.query(`BEGIN; SELECT bemi.set_context('{"region": "${region}", "requestId": "request of ${region}"}'); ${statement}; COMMIT`);
}

async function reader(way, region, database) {
  const dashboard = await openDashboard(database);
  const entered = await fetch(dashboard.enter(), { redirect: 'manual' });
  const cookie = entered.headers.getSetCookie().map(text => text.split(';')[0]).join('; ');
  const get = (path, headers = {}) => fetch(dashboard.url + path, { headers: { cookie, ...headers } });
  return { way, region, other: REGIONS.find(one => one !== region), database, dashboard, get };
}

const idsOf = async region => (await client.query(`SELECT id FROM bemi.changes WHERE context ->> 'region' = $1 ORDER BY id DESC`, [region])).rows.map(({ id }) => id);

test('each page shows what the role may see, and nothing else', options, async () => {
  for (const { way, region, other, get } of readers) {
    const [own] = await idsOf(region);
    const theirs = await idsOf(other);
    const [key] = (await client.query('SELECT id FROM orders WHERE region = $1', [other])).rows.map(({ id }) => id);
    const paths = ['/changes', `/changes?q=region:${other}`, `/changes?q=table:orders+key:${key}`, '/changes?q=-region:x', `/changes?change=${theirs[0]}`, '/rows', '/rows?table=public.orders', '/requests', '/requests?q=-x:y', `/change/${theirs[0]}`,
      `/request/${theirs[0]}`, `/request/${theirs[0]}?of=transaction`, `/row/public/orders/${key}`, '/export', '/export/changes.csv', '/export/changes.jsonl', `/export/changes.jsonl?q=region:${other}`, `/past?table=public.orders&before=${own}`,
      '/past?table=public.orders&at=1h&compare=now', '/past?table=public.orders&at=1h&gaps=allow', `/revert?change=${theirs[0]}`, `/revert?transaction=${theirs[0]}`, `/revert?q=region:${other}`, `/revert?context=${encodeURIComponent(`{"region": "${other}"}`)}`,
      `/revert?table=public.orders&key=${key}&before=${theirs[0]}`, `/completions?text=region:&at=7`, '/state', '/sources/named/main', '/tables/public/orders'];
    for (const path of paths) {
      const response = await get(path);
      const text = await response.text();
      assert.ok(response.status < 500, `${way} ${region} ${path}: ${response.status} ${/<section class="message"[^]*<\/section>/.exec(text)}`);
      // The address of the page itself is in it.
      for (const secret of [`secret of ${other}`, `request of ${other}`, ...theirs.filter(id => !path.includes(id))]) assert.ok(!text.includes(secret), `${way} ${region} ${path}: ${secret}`);
    }
    const panel = await (await get(`/changes?change=${theirs[0]}`, { 'hx-request': 'true', 'hx-target': 'panel' })).text();
    assert.ok(!panel.includes(`secret of ${other}`), `${way} ${region}, the panel`);
  }
});

test('and all of it', options, async () => {
  for (const { way, region, get } of readers) {
    const own = await idsOf(region);
    const exported = (await (await get('/export/changes.jsonl')).text()).trimEnd().split('\n').map(line => JSON.parse(line));
    assert.deepEqual(exported.map(({ id }) => id), own, `${way} ${region}`);
    const [{ primary_key: key }] = exported;
    for (const path of ['/changes', `/changes?change=${own[0]}`, `/changes?q=region:${region}`, `/changes?q=table:orders+key:${key}`, `/change/${own[0]}`, `/row/public/orders/${key}`]) {
      assert.ok((await (await get(path)).text()).includes(`secret of ${region}`), `${way} ${region} ${path}`);
    }
    assert.ok((await (await get(`/request/${own[0]}`)).text()).includes(own[1]), `${way} ${region}, the request`);
  }
});

test('who hears of a change may see it', options, async () => {
  for (const { way, region, other, get } of readers) {
    const response = await get('/live');
    const stream = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    const hear = async id => { while (!text.includes(id)) text += (await stream.read()).value; };
    await hear((await idsOf(region))[0]);
    await change(other, "UPDATE orders SET note = note || '.'");
    await change(region, `UPDATE orders SET note = note || '.' WHERE region = '${region}'`);
    await client.query('SELECT bemi.sync()');
    await hear((await idsOf(region))[0]);
    for (const id of await idsOf(other)) assert.ok(!text.includes(id), `${way} ${region}`);
    await stream.cancel();
  }
});

test('a role that may not log in any more is out when its connections are made anew', options, async () => {
  await client.query('CREATE ROLE rs_gone LOGIN');
  const database = new Database({ database: NAME, user: 'rs_gone' }, { lifetime: 1 });
  try {
    const look = () => database.read(one => one.query('SELECT 1'));
    await look();
    await client.query('ALTER ROLE rs_gone NOLOGIN');
    await assert.rejects(async () => { for (;;) await look(); }, { code: '28000' });
  } finally {
    await database.end();
    await client.query('DROP ROLE rs_gone');
  }
});

test('the access log has the role that has read', options, async () => {
  const { rows } = await client.query("SELECT role, count(*)::int AS count FROM bemi_dashboard.access_log WHERE address = '/changes' AND action = 'view' GROUP BY role ORDER BY role");
  assert.deepEqual(rows, [{ role: 'rs_north', count: 2 }, { role: 'rs_south', count: 2 }]);
});
