// A source over TLS whose certificate an own authority has signed, as in most companies. The dashboard's checks and the worker must agree: what is
// green here must be what libpq accepts, and a wrong certificate must be a red check that says what is wrong.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { Database } from '../../src/database.js';
import { checkAccessibility, checkWidth, hasBrowser, openBrowser } from './browser.js';
import { hasServer, openDashboard } from '../shop.js';
import { canStartServers, SourceServer } from '../source_server.js';

function hasOpenssl() {
  try {
    return Boolean(execFileSync('openssl', ['version']));
  } catch {
    return false;
  }
}

const options = { skip: !hasServer || !canStartServers ? 'PGHOST or PG_CONFIG is not set' : !hasBrowser ? 'there is no Chromium' : !hasOpenssl() && 'there is no openssl' };
const PASSWORD = 'only-over-tls';
let history, database, dashboard, browser, page, source, root, wrongRoot, rightRoot;

const openssl = (...args) => execFileSync('openssl', args, { stdio: 'ignore' });
const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2'];

function makeAuthority(name) {
  const file = join(source.dir, name);
  openssl('req', '-x509', ...KEY, '-subj', `/CN=${name}`, '-keyout', `${file}.key`, '-out', `${file}.crt`);
  return `${file}.crt`;
}

// For the name localhost alone.
function makeCertificate(authority) {
  const file = join(source.data, 'server');
  writeFileSync(`${file}.ext`, 'subjectAltName = DNS:localhost\n');
  openssl('req', ...KEY.slice(0, 5), '-subj', '/CN=source', '-keyout', `${file}.key`, '-out', `${file}.csr`);
  openssl('x509', '-req', '-in', `${file}.csr`, '-CA', authority, '-CAkey', authority.replace(/crt$/, 'key'), '-CAcreateserial', '-days', '2', '-extfile', `${file}.ext`, '-out', `${file}.crt`);
}

before(async () => {
  if (options.skip) return;
  await admin('CREATE DATABASE tls_history');
  history = new pg.Client({ database: 'tls_history' });
  await history.connect();
  await history.query('CREATE EXTENSION bemi');
  database = new Database({ database: 'tls_history' });
  dashboard = await openDashboard(database);
  source = await SourceServer.make(["shared_preload_libraries = 'bemi'", 'wal_level = logical', 'ssl = on']);
  rightRoot = makeAuthority('right');
  wrongRoot = makeAuthority('wrong');
  root = join(source.dir, 'root.crt');
  makeCertificate(rightRoot);
  writeFileSync(join(source.data, 'pg_hba.conf'), 'local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n');
  source.start();
  await source.query('CREATE DATABASE orders', 'postgres');
  await source.query(`ALTER ROLE postgres PASSWORD '${PASSWORD}'; CREATE EXTENSION bemi; CREATE TABLE todo (id integer PRIMARY KEY); SELECT bemi.track('todo')`);
  writeFileSync(join(source.dir, 'pass'), `*:*:*:*:${PASSWORD}\n`, { mode: 0o600 });
  ({ browser, page } = await openBrowser());
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
  await admin('DROP DATABASE tls_history WITH (FORCE)');
});

async function admin(statement) {
  const client = new pg.Client({ database: 'postgres' });
  await client.connect();
  await client.query(statement);
  await client.end();
}

const check = (name, state) => page.locator(`.check.${state}[data-check=${name}]`);

async function fillForm(values) {
  await page.goto(`${dashboard.url}/sources/connect`);
  await page.locator('details.more summary').click();
  const all = { name: 'orders', host: 'localhost', port: source.port, database: 'orders', user: 'postgres', password: PASSWORD, passfile: join(source.dir, 'pass'), sslrootcert: root, ...values };
  for (const [name, value] of Object.entries(all)) if (name !== 'sslmode') await page.locator(`[name=${name}]`).fill(String(value));
  if (all.sslmode) await page.locator('[name=sslmode]').selectOption(all.sslmode);
  await page.getByRole('button', { name: 'Check' }).click();
}

test('the certificate is verified if nothing else is chosen, and its authority is asked for', options, async () => {
  await fillForm({});
  await check('rootcert', 'bad').waitFor();
  assert.equal(await check('rootcert', 'bad').locator('.cure code').innerText(), root);
  assert.match(await check('reachable', 'bad').innerText(), /is not trusted/);
  await checkAccessibility(page, 'checks without a root certificate');
  assert.equal(await page.getByRole('button', { name: 'Connect' }).isVisible(), false);
  writeFileSync(root, 'no certificate');
  await page.getByText(`${root} has no certificate.`).waitFor();
  assert.match(await check('reachable', 'bad').innerText(), /is not trusted/);
});

test('a wrong authority is a red check, and the right one turns it green', options, async () => {
  copyFileSync(wrongRoot, root);
  await check('rootcert', 'good').waitFor();
  assert.match(await check('reachable', 'bad').innerText(), /is not trusted.*Put the certificate of the authority/s);
  copyFileSync(rightRoot, root);
  await check('reachable', 'good').waitFor();
  await checkWidth(page, 'checks over TLS');
});

test('a certificate for another name is a red check with its names', options, async () => {
  const checks = page.url();
  await fillForm({ host: '127.0.0.1' });
  assert.match(await check('reachable', 'bad').innerText(), /is not for 127\.0\.0\.1/);
  assert.equal(await check('reachable', 'bad').locator('.cure code').innerText(), 'localhost');
  // As for libpq, "require" with a root certificate takes another name, but no other authority.
  await fillForm({ host: '127.0.0.1', sslmode: 'require' });
  await check('reachable', 'good').waitFor();
  await fillForm({ host: '127.0.0.1', sslmode: 'require', sslrootcert: wrongRoot });
  assert.match(await check('reachable', 'bad').innerText(), /is not trusted/);
  await fillForm({ host: '127.0.0.1', sslmode: 'require', sslrootcert: '' });
  await check('reachable', 'good').waitFor();
  await fillForm({ host: '127.0.0.1', sslmode: 'disable' });
  assert.match(await check('reachable', 'bad').innerText(), /hostssl|no encryption|pg_hba/);
  await fillForm({ sslrootcert: '' });
  assert.match(await check('reachable', 'bad').innerText(), /is not trusted.*as root certificate/s);
  await page.goto(checks);
});

test('the worker reads the source over TLS, with the same certificate', options, async () => {
  await check('reachable', 'good').waitFor();
  await page.getByRole('button', { name: 'Connect' }).click();
  await page.waitForURL(/\/sources\/named\/orders/);
  await check('lag', 'good').waitFor();
  const { rows } = await source.query('SELECT s.ssl FROM pg_stat_replication r JOIN pg_stat_ssl s USING (pid)');
  assert.deepEqual(rows, [{ ssl: true }]);
  const { rows: [{ conninfo }] } = await history.query('SELECT conninfo FROM bemi.sources');
  assert.ok(conninfo.includes('sslmode=verify-full') && conninfo.includes(`sslrootcert=${root}`) && !conninfo.includes(PASSWORD));
});

test('when the authority is another one, the worker is red with the reason, and comes back with the right one', options, async () => {
  copyFileSync(wrongRoot, root);
  source.stop();
  source.start();
  await check('reachable', 'bad').getByText(/certificate verify failed/).waitFor();
  copyFileSync(rightRoot, root);
  await check('reachable', 'good').waitFor();
});
