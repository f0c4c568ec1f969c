// Logging in at a provider of OpenID Connect: the groups name the role. The provider is oidc-provider, which supports Node 22, and works with 20.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Accounts } from '../../src/access/accounts.js';
import { openAccessLog } from '../../src/access/access_log.js';
import { openProvider, roleOf } from '../../src/access/provider.js';
import { Database } from '../../src/database.js';
import { checkAccessibility, hasBrowser, openBrowser } from './browser.js';
import { openDashboard, hasServer } from '../shop.js';
import pg from 'pg';

const options = { skip: !hasServer ? 'PGHOST is not set' : !hasBrowser && 'there is no Chromium' };
const PEOPLE = { ada: ['support'], ben: ['dba', 'support'], eve: ['visitors'] };
let admin, client, accounts, database, dashboard, provider, browser, page, faults;

before(async () => {
  if (options.skip) return;
  admin = new pg.Client({ database: 'postgres' });
  await admin.connect();
  await admin.query('CREATE DATABASE provided');
  client = new pg.Client({ database: 'provided' });
  await client.connect();
  await client.query(`CREATE EXTENSION bemi; CREATE ROLE provided_viewer; CREATE ROLE provided_operator SUPERUSER;
    CREATE ROLE provided_login LOGIN NOINHERIT IN ROLE provided_viewer, provided_operator; SELECT bemi.grant_read('provided_viewer')`);
  const owner = new Database({ database: 'provided' });
  await openAccessLog(owner);
  await owner.end();
  const connection = { database: 'provided', user: 'provided_login' };
  database = new Database(connection);
  accounts = new Accounts();
  // Both need the address of the other one.
  let url;
  provider = await startProvider(() => `${url}/login/callback`);
  const settings = { name: 'Example', issuer: provider.issuer, clientId: 'bemi', clientSecret: 'secret', scope: 'openid groups', roles: { dba: 'provided_operator', support: 'provided_viewer' } };
  dashboard = await openDashboard(database, { accounts, connection, provider: await openProvider(settings, () => `${url}/login/callback`) });
  url = dashboard.url;
  provider.addClient();
  ({ browser, page, faults } = await openBrowser());
});

after(async () => {
  if (options.skip) return;
  await browser?.close();
  await dashboard?.close();
  await accounts?.end();
  await database?.end();
  await provider?.close();
  await client?.end();
  await admin?.query('DROP DATABASE provided WITH (FORCE)');
  await admin?.query('DROP ROLE provided_login, provided_viewer, provided_operator');
  await admin?.end();
});

async function startProvider(redirectUri) {
  const { createServer } = await import('node:http');
  const { Provider } = await import('oidc-provider');
  const server = createServer();
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  const issuer = `http://127.0.0.1:${server.address().port}`;
  // Discovery needs the server before the dashboard has its address.
  const make = clients => new Provider(issuer, {
    clients, claims: { groups: ['groups'], email: ['email'] }, scopes: ['openid', 'groups'], cookies: { keys: ['key'] },
    findAccount: (context, id) => ({ accountId: id, claims: () => ({ sub: id, groups: PEOPLE[id] }) }),
  }).callback();
  let answer = make([]);
  server.on('request', (request, response) => answer(request, response));
  return {
    issuer,
    addClient: () => { answer = make([{ client_id: 'bemi', client_secret: 'secret', redirect_uris: [redirectUri()] }]); },
    close: () => new Promise(resolve => { server.close(resolve); server.closeAllConnections(); }),
  };
}

async function logIn(where, person, path = '/sources') {
  await where.goto(dashboard.url + path);
  await where.getByRole('link', { name: 'Log in with Example' }).click();
  await where.locator('[name=login]').fill(person);
  await where.locator('[name=password]').fill('any');
  await where.locator('[type=submit]').click();
  await where.locator('[type=submit]').click();
}

async function inOwnContext(work) {
  const context = await browser.newContext();
  try {
    await work(await context.newPage(), context);
  } finally {
    await context.close();
  }
}

test('a group is mapped to a role, whose rights hold', options, async () => {
  await page.goto(dashboard.url);
  await checkAccessibility(page, 'the login with a provider');
  await logIn(page, 'ada', '/sources');
  await page.waitForURL(`${dashboard.url}/sources`);
  assert.match(await page.locator('.account').innerText(), /ada/);
  assert.equal(await page.getByRole('link', { name: 'Connect another server' }).count(), 0);
  await page.goto(`${dashboard.url}/changes`);
  await page.getByText('There are no changes yet').waitFor();
  const { rows } = await client.query('SELECT role, person FROM bemi_dashboard.access_log');
  assert.deepEqual(rows, [{ role: 'provided_viewer', person: 'ada' }]);
});

test('of several groups, the first role of the file counts', options, () => inOwnContext(async other => {
  await logIn(other, 'ben');
  await other.getByRole('link', { name: 'Connect another server' }).waitFor();
}));

test('who has no group with a role does not come in', options, () => inOwnContext(async other => {
  await logIn(other, 'eve');
  assert.match(await other.getByRole('alert').innerText(), /none of your groups/);
  await other.goto(`${dashboard.url}/sources`);
  await other.getByRole('link', { name: 'Log in with Example' }).waitFor();
}));

test('an answer that this browser has not asked for is refused', options, () => inOwnContext(async other => {
  assert.equal((await other.goto(`${dashboard.url}/login/callback?code=x&state=y`)).status(), 401);
  await other.goto(dashboard.url);
  const [response] = await Promise.all([other.waitForRequest(request => request.url().includes('/auth?')), other.getByRole('link', { name: 'Log in with Example' }).click()]);
  assert.match(response.url(), /code_challenge_method=S256/);
  assert.equal((await other.goto(`${dashboard.url}/login/callback?code=x&state=other`)).status(), 401);
}));

// The address is kept in a cookie, which the browser would not keep if it were too long.
test('a long address is no obstacle to a login', options, () => inOwnContext(async other => {
  await logIn(other, 'ada', `/changes?q=${'x'.repeat(2000)}&other=${'y'.repeat(2000)}`);
  await other.locator('.account').waitFor();
}));

test('roles that would be those of the connection are not taken', async () => {
  await assert.rejects(openProvider({ issuer: 'https://x.example', clientId: 'x', roles: { all: 'NONE' } }), /not valid/);
  const mapping = { groupsClaim: 'groups', roles: [['a', 'x'], ['b', 'y']] };
  assert.equal(roleOf(mapping, { groups: 'b' }), 'y');
  assert.equal(roleOf(mapping, {}), undefined);
});

// The page of the provider asks for a font elsewhere.
test('no page has reported a fault', options, () => assert.deepEqual(faults.filter(fault => !/401|ERR_NAME_NOT_RESOLVED|ERR_INTERNET/.test(fault)), []));
