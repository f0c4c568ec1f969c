// The example: the five changes of the documentation, through HTTP, and the five rows that its query
// prints; the page /changes, also in a browser.

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { once } from 'node:events';
import test, { after, before } from 'node:test';
import { promisify } from 'node:util';
import { MikroORM } from '@mikro-orm/postgresql';
import { onServer } from './setup.js';

const DATABASE = 'test_example';

// The configuration takes the database from the environment.
process.env.PGDATABASE = DATABASE;
const { default: config } = await import('../example/mikro-orm.config.js');
const { makeApp } = await import('../example/src/app.js');

let orm;
let server;
let url;

before(async () => {
  await onServer(`DROP DATABASE IF EXISTS ${DATABASE} WITH (FORCE)`);
  orm = await MikroORM.init({ ...config, migrations: { ...config.migrations, silent: true } });
  await orm.schema.ensureDatabase();
  await orm.migrator.up();
  await orm.em.fork().execute("SELECT bemi.sync('60s')");
  server = makeApp(orm).listen(0, '127.0.0.1');
  await once(server, 'listening');
  url = `http://127.0.0.1:${server.address().port}`;
});

after(async () => {
  server.closeAllConnections();
  server.close();
  await orm.close();
  await onServer(`DROP DATABASE ${DATABASE} WITH (FORCE)`);
});

async function send(method, path, body, headers = {}) {
  const response = await fetch(url + path, {
    method, headers: { 'Content-Type': 'application/json', ...headers }, body: JSON.stringify(body),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.text();
}

// As JSON, without the time, which differs.
const row = (key, operation, before, after, context) => ({ primary_key: key, table: 'todo', operation, before, after, context });
const context = (endpoint, params) => ({ userId: 187234, endpoint, params });

const sleep = { id: 26, task: 'Sleep', isCompleted: false };
const eat = { id: 27, task: 'Eat', isCompleted: false };
const repeat = { id: 28, task: 'Repeat', isCompleted: false };

const ROWS = [
  row('26', 'CREATE', {}, sleep, context('/todo', { task: 'Sleep', isCompleted: false })),
  row('27', 'CREATE', {}, eat, context('/todo', { task: 'Eat', isCompleted: false })),
  row('28', 'CREATE', {}, repeat, context('/todo', { task: 'Repeat', isCompleted: false })),
  row('26', 'UPDATE', sleep, { ...sleep, isCompleted: true }, context('/todo/complete', { id: 26 })),
  row('27', 'DELETE', eat, {}, context('/todo/27', { id: 27 })),
];

// The query of the documentation, word for word. The search_path is set elsewhere.
const QUERY =
  'SELECT "primary_key", "table", "operation", "before", "after", "context", "committed_at" FROM changes;';

test("the page's five steps print the page's five rows", async () => {
  await send('POST', '/todo', { task: 'Sleep', isCompleted: false });
  await send('POST', '/todo', { task: 'Eat', isCompleted: false });
  await send('POST', '/todo', { task: 'Repeat', isCompleted: false });
  await send('PUT', '/todo/complete', { id: 26 });
  await send('DELETE', '/todo/27', { id: 27 });
  await orm.em.fork().execute("SELECT bemi.sync('60s')");

  const output = execFileSync(process.env.PSQL ?? 'psql', ['-X', '-d', DATABASE, '--csv', '-c', QUERY], {
    encoding: 'utf8',
    env: { ...process.env, PGOPTIONS: '-c search_path=bemi' },
  });
  const [names, ...lines] = output.trim().split('\n').map(parseCsv);
  assert.deepEqual(names, ['primary_key', 'table', 'operation', 'before', 'after', 'context', 'committed_at']);
  assert.deepEqual(
    lines.map(([key, table, operation, before, after, context]) => ({
      primary_key: key, table, operation, before: JSON.parse(before), after: JSON.parse(after), context: JSON.parse(context),
    })),
    ROWS,
  );
});

const parseCsv = line =>
  [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain);

const SCRIPT = `<script>document.title = 'taken over'</script>"'&`;

const times = html => html.match(/<time>/g)?.length ?? 0;

test('/changes shows who changed what, by user and by todo, and escapes what users have typed', async () => {
  await send('POST', '/todo', { task: SCRIPT }, { 'X-User': '7' });
  const all = await send('GET', '/changes');
  assert.equal(times(all), 6);
  for (const part of ['187234', '/todo/complete', 'DELETE', '&quot;Eat&quot;', '<td class="old">false</td><td class="new">true</td>']) {
    assert.ok(all.includes(part), part);
  }
  assert.ok(!all.includes('<script'));
  assert.ok(all.includes('&lt;script&gt;'));

  assert.equal(times(await send('GET', '/changes?user=187234')), 5);
  assert.equal(times(await send('GET', '/changes?user=7')), 1);
  assert.equal(times(await send('GET', '/changes?todo=26')), 2);
  assert.equal(times(await send('GET', '/changes?todo=27&user=187234')), 2);
  for (const nothing of ['user=8', 'user=x', 'todo=%00', 'todo=1%27--', 'user=7&user=8']) {
    assert.equal(times(await send('GET', `/changes?${nothing}`)), 0, nothing);
  }
  const hostile = await send('GET', `/changes?todo=${encodeURIComponent(`">${SCRIPT}`)}`);
  assert.ok(hostile.includes('value="&quot;&gt;&lt;script'));
});

const browser = ['chromium-headless-shell', 'chromium', 'google-chrome'].find(name => {
  try {
    execFileSync('which', [name], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
});

test('/changes in a browser', { skip: !browser && 'no Chromium' }, async () => {
  const { stdout } = await promisify(execFile)(
    // In containers, /dev/shm is often too small, or not to be written.
    browser, ['--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--timeout=20000', '--dump-dom', `${url}/changes`],
    { timeout: 60000 },
  );
  assert.match(stdout, /<title>Changes<\/title>/);
  assert.equal(times(stdout), 6);
  assert.doesNotMatch(stdout, /<script/);
});
