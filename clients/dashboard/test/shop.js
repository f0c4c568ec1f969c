// The sample history and a dashboard on it, for tests with a server. PGHOST names the server.
//
// The history is made once for a server. Tests that change it make their own with openShop({ name }).

import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { OneTimeToken } from '../src/access/token.js';
import { Database } from '../src/database.js';
import { buildServer } from '../src/server.js';
import { Shop } from '../demo/shop.js';

export const hasServer = Boolean(process.env.PGHOST);

// Returns { shop, client, database, close() }.
export async function openShop({ name = 'shop' } = {}) {
  const isNew = await createDatabase(name);
  const client = new pg.Client({ database: name });
  await client.connect();
  const shop = new Shop({ client });
  if (isNew) await shop.makeHistory();
  const database = new Database({ database: name });
  return { shop, client, database, close: () => Promise.all([client.end(), database.end()]) };
}

async function createDatabase(name) {
  const client = new pg.Client({ database: 'postgres' });
  await client.connect();
  try {
    const { rows } = await client.query('SELECT FROM pg_database WHERE datname = $1', [name]);
    if (rows.length > 0) return false;
    await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
    return true;
  } finally {
    await client.end();
  }
}

// A dashboard that listens: { app, url, enter(), close() }. enter() returns the address with a token.
export async function openDashboard(database, options = {}) {
  const token = new OneTimeToken();
  const app = await buildServer({
    database, token, host: '127.0.0.1', port: () => app.server.address().port, zone: 'UTC', language: 'en',
    cookieName: 'session', key: randomBytes(32), ...options,
  });
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  return { app, url, enter: () => `${url}/enter?token=${token.renew()}`, close: () => app.close() };
}
