// What the pictures show beside the shop: a dashboard with accounts, and a server that is not ready to be read.

import { randomBytes } from 'node:crypto';
import { readFile, writeFile } from 'node:fs/promises';
import { Accounts } from '../src/access/accounts.js';
import { Database } from '../src/database.js';
import { openDashboard } from '../test/shop.js';
import { SourceServer } from '../test/source_server.js';

const PASSWORD = 'a-password';

// A dashboard on which ada can log in, and make links. The server asks her for a password, and nobody else.
export async function openPeople(client) {
  await client.query(`CREATE ROLE links LOGIN; CREATE ROLE ada LOGIN PASSWORD '${PASSWORD}' IN ROLE links`);
  await client.query("SELECT bemi.grant_read('links')");
  const { rows: [{ hba_file: file }] } = await client.query('SHOW hba_file');
  await writeFile(file, `local all ada scram-sha-256\n${await readFile(file, 'utf8')}`);
  await client.query('SELECT pg_reload_conf()');
  const connection = { user: 'links' };
  const database = new Database(connection);
  const accounts = new Accounts();
  const provider = { name: 'Example' };
  const dashboard = await openDashboard(database, { accounts, connection, provider, linkKey: randomBytes(32), cookieName: 'session_people' });
  return {
    url: dashboard.url, user: 'ada', password: PASSWORD,
    close: async () => {
      await dashboard.close();
      await accounts.end();
      await database.end();
    },
  };
}

// A database of orders, with the settings that PostgreSQL has by itself.
export async function openSource() {
  const server = await SourceServer.make(['max_replication_slots = 4']);
  server.start();
  await server.query('CREATE ROLE app LOGIN', 'postgres');
  await server.query('CREATE DATABASE orders OWNER app', 'postgres');
  await server.query(`SET ROLE app; CREATE SCHEMA app; CREATE TABLE app.invoice (id integer PRIMARY KEY, total numeric); CREATE TABLE app.parcel (id integer PRIMARY KEY, weight numeric); RESET ROLE;
    CREATE ROLE bemi_reader LOGIN PASSWORD '${PASSWORD}'`);
  const form = { name: 'orders', host: '127.0.0.1', port: server.port, database: 'orders', user: 'bemi_reader', password: PASSWORD };
  return { form, close: () => server.remove() };
}
