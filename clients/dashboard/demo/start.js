// The sample history and the dashboard, on the server that PGHOST names. Called by demo/run.
//
//     node start.js [OPTION of bemi-dashboard...]
//     node start.js --pictures FOLDER

import pg from 'pg';
import { main } from '../src/main.js';
import { setClock } from './clock.js';
import { Shop } from './shop.js';

process.env.PGDATABASE = 'postgres';
const admin = new pg.Client();
await admin.connect();
await admin.query('CREATE DATABASE shop');
await admin.end();

process.env.PGDATABASE = 'shop';
const client = new pg.Client();
client.on('error', () => {});
await client.connect();
console.log('Making the history of a shop ...');
const shop = new Shop({ client, setClock });
await shop.makeHistory();

const args = process.argv.slice(2);
if (args[0] === '--pictures') await picture(args[1]);
else await show();
await client.end().catch(() => {});

async function show() {
  console.log(`A complaint to follow: customer 7 says that order ${shop.complaint} was changed after it was paid.`);
  let isOpen = true;
  const visitLater = () => setTimeout(async () => {
    if (isOpen) await shop.visit().then(visitLater, () => {});
  }, 4_000 + Math.random() * 8_000).unref();
  visitLater();
  process.exitCode = await main(args);
  isOpen = false;
}

async function picture(folder) {
  const { takePictures } = await import('./pictures.js');
  const { openPeople, openSource } = await import('./stage.js');
  const { openDashboard } = await import('../test/shop.js');
  const { Database } = await import('../src/database.js');
  const database = new Database({});
  const dashboard = await openDashboard(database);
  const [people, source] = [await openPeople(client), await openSource()];
  await takePictures({ url: dashboard.url, enter: dashboard.enter(), shop, people, source, folder });
  source.close();
  await people.close();
  await dashboard.close();
  await database.end();
}
