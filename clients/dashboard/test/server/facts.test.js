// What each page needs must not make it wait: the keys of contexts are looked for behind the pages, and the chart of a source counts no more changes than
// it can count quickly.

import assert from 'node:assert/strict';
import { randomInt } from 'node:crypto';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { Database } from '../../src/database.js';
import { factsOf, forgetFacts } from '../../src/queries/facts.js';
import { ratesOf } from '../../src/queries/sources.js';
import { hasServer } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
const NAME = `facts_${randomInt(1e9)}`;
let client, database;

before(async () => {
  if (!hasServer) return;
  const admin = new pg.Client({ database: 'postgres' });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${NAME}`);
  await admin.end();
  client = new pg.Client({ database: NAME });
  await client.connect();
  await client.query("CREATE EXTENSION bemi; CREATE TABLE todo (id integer PRIMARY KEY); SELECT bemi.track('todo')");
  await client.query('CALL bemi.start()');
  database = new Database({ database: NAME });
});

after(async () => {
  await database?.end();
  // The server has few slots.
  await client?.query("CALL bemi.drop_source('main')");
  await client?.end();
});

async function write(statement, context) {
  await client.query(`BEGIN; SELECT bemi.set_context('${JSON.stringify(context)}'); ${statement}; COMMIT`);
  await client.query("SELECT bemi.sync('60 seconds')");
}

// Asks until the answer is true. The server is asked in each turn, because a promise that is fulfilled already lets nothing else happen.
async function until(isTrue) {
  const end = performance.now() + 60_000;
  do {
    assert.ok(performance.now() < end, 'it did not happen within 60 s');
    await client.query('SELECT');
  } while (!await isTrue());
}

test('a page does not wait for the keys of contexts if they are known', options, async ({ mock }) => {
  await write('INSERT INTO todo VALUES (-1)', { userId: 1 });
  mock.timers.enable({ apis: ['Date'], now: Date.now() });
  assert.deepEqual([...(await factsOf(database)).contextKeys.keys()], ['userId']);
  await write('INSERT INTO todo VALUES (-2)', { tenant: 2 });
  const locker = new pg.Client({ database: NAME });
  await locker.connect();
  const isWaiting = async () => (await client.query("SELECT FROM pg_stat_activity WHERE datname = $1 AND application_name = 'bemi-dashboard' AND wait_event_type = 'Lock'", [NAME])).rowCount > 0;
  try {
    // Nobody can look into the newest changes.
    await locker.query('BEGIN; LOCK TABLE bemi.changes IN ACCESS EXCLUSIVE MODE');
    mock.timers.tick(10 * 60_000);
    const facts = await factsOf(database);
    assert.deepEqual([...facts.contextKeys.keys()], ['userId']);
    assert.deepEqual(facts.tables.map(({ name }) => name), ['todo']);
    // Meanwhile, somebody looks.
    await until(isWaiting);
    assert.equal(await factsOf(database), facts);
  } finally {
    await locker.query('ROLLBACK');
    await locker.end();
  }
  // The next pages have what was found. Each of them may be the first that has it.
  const keys = async () => [...(await factsOf(database)).contextKeys.keys()].sort();
  await until(async () => (await keys()).length > 1);
  assert.deepEqual(await keys(), ['tenant', 'userId']);
  forgetFacts(database);
});

test('the chart counts at most 50 000 changes, and shows a shorter time if there are more', options, async () => {
  const rates = () => database.read(one => ratesOf(one, 'main'));
  await client.query('INSERT INTO todo SELECT generate_series(1, 1000)');
  await client.query("SELECT bemi.sync('60 seconds')");
  const few = await rates();
  assert.equal(few.isCapped, false);
  assert.equal(few.points.length, 60);
  assert.equal(few.points.reduce((sum, [, count]) => sum + count, 0), 1002);
  await client.query('INSERT INTO todo SELECT generate_series(1001, 60000)');
  await client.query("SELECT bemi.sync('60 seconds')");
  const many = await rates();
  assert.equal(many.isCapped, true);
  assert.ok(many.points.length >= 1 && many.points.length < 60);
  // The one that is too many shows that there are more.
  const counted = many.points.reduce((sum, [, count]) => sum + count, 0);
  assert.ok(counted > 0 && counted <= 50_001, String(counted));
});
