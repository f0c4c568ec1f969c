// The checks of a source, each cured with nothing but its own lines. A cure that does not cure, or that fails for a role without superuser rights,
// is found here, and so is a source that works and is shown red. What the browser shows of them is tested in test/browser/sources.test.js.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import pg from 'pg';
import { checksOf, sourceFacts } from '../../src/queries/source_checks.js';
import { readSourceScript } from '../../src/queries/sources.js';
import { hasServer } from '../shop.js';

const options = { skip: !hasServer && 'PGHOST is not set' };
const OWNER = 'checks_owner';
const PLACE = { host: 'db.example', port: '5432', database: 'checks', sslmode: 'verify-full' };
let admin, owner, isVirtualKnown;

const connect = async config => {
  const client = new pg.Client(config);
  await client.connect();
  return client;
};

before(async () => {
  if (!hasServer) return;
  admin = await connect({ database: 'postgres' });
  isVirtualKnown = Number((await admin.query("SELECT current_setting('server_version_num') AS number")).rows[0].number) >= 180_000;
  await admin.query(`CREATE ROLE ${OWNER} LOGIN`);
});

after(async () => {
  await admin?.query(`DROP ROLE ${OWNER}`);
  await admin?.end();
});

// A database of the owner's, in which work(superuser) runs. owner is his connection.
async function inDatabase(work) {
  await admin.query(`CREATE DATABASE checks OWNER ${OWNER}`);
  const superuser = await connect({ database: 'checks' });
  owner = await connect({ database: 'checks', user: OWNER });
  try {
    await owner.query('CREATE SCHEMA app; SET search_path = app');
    await work(superuser);
  } finally {
    await owner.end();
    await superuser.end();
    await admin.query('DROP DATABASE checks WITH (FORCE)');
  }
}

const OURS = ['capture', 'publication', 'identity'];

async function checks() {
  const all = checksOf(await sourceFacts(owner), PLACE).filter(({ name }) => OURS.includes(name));
  return Object.fromEntries(all.map(check => [check.name, check]));
}

const states = async () => Object.values(await checks()).map(({ state }) => state).join(' ');

// What the line of psql does.
const runScript = async superuser => owner.query(await readSourceScript(superuser));

// Runs the lines of each red check in turn, as often as a patient person would. Returns the lines.
async function cureAll(run = text => owner.query(text)) {
  const lines = [];
  for (let turns = 0; turns < 6; turns++) {
    const red = Object.values(await checks()).find(({ state }) => state !== 'good');
    if (!red) return lines;
    assert.equal(red.state, 'bad', `${red.name} is open, and nothing before it is red`);
    lines.push(...red.cure.text.split('\n'));
    await run(red.cure.text);
    assert.notDeepEqual((await checks())[red.name], red, `nothing has changed for ${red.name}: ${red.cure.text}`);
  }
  return assert.fail(`not cured by ${lines.join('\n')}`);
}

// The names of tables whose statements have a context, and do not fail.
async function checkWrites(...tables) {
  for (const table of tables) await owner.query(`INSERT INTO ${table} (id) VALUES (1); UPDATE ${table} SET id = id + 1; DELETE FROM ${table}`);
}

test('a database that lacks everything is told to run the script', options, () => inDatabase(async superuser => {
  await owner.query('CREATE TABLE todo (id integer PRIMARY KEY)');
  const before = await checks();
  assert.equal(await states(), 'bad open open');
  assert.equal(before.capture.cure.text, `psql "host=db.example port=5432 dbname=checks user=${OWNER} sslmode=verify-full" -v ON_ERROR_STOP=1 -f bemi-source.sql`);
  await runScript(superuser);
  assert.equal(await states(), 'good bad open');
  assert.equal((await checks()).publication.cure.text, "SELECT bemi.track('app.todo');");
  assert.equal((await checks()).publication.cure.where, 'owner');
  await cureAll();
  await checkWrites('todo');
}));

test('an owner who cannot log in is not named, and no name is a command of the shell', options, () => inDatabase(async superuser => {
  await superuser.query(`ALTER ROLE ${OWNER} NOLOGIN`);
  const line = async place => (checksOf(await sourceFacts(owner), { ...PLACE, ...place })).find(({ name }) => name === 'capture').cure.text;
  try {
    assert.match(await line({}), / user=OWNER /);
    assert.match(await line({ database: "it's $(date)`id`\"" }), /^psql 'host=db\.example .* dbname='\\''it\\'\\''s \$\(date\)`id`"'\\'' user=OWNER sslmode=verify-full' -v /);
  } finally {
    await superuser.query(`ALTER ROLE ${OWNER} LOGIN`);
  }
}));

test('tables of all kinds are tracked: without a key, with a strange name, partitioned', options, () => inDatabase(async superuser => {
  await owner.query(`
    CREATE TABLE keyless (id integer);
    CREATE TABLE "Bob's \\ list" (id integer PRIMARY KEY);
    CREATE TABLE part (id integer) PARTITION BY RANGE (id);
    CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10);
    CREATE UNLOGGED TABLE cache (id integer)`);
  await runScript(superuser);
  const lines = await cureAll();
  assert.equal(lines.length, 3);
  await checkWrites('keyless', `"Bob's \\ list"`, 'part', 'part_low');
}));

test('a partition that nobody has tracked, an identity and a trigger that were taken away, a trigger that is disabled', options, () => inDatabase(async superuser => {
  await owner.query('CREATE TABLE part (id integer) PARTITION BY RANGE (id); CREATE TABLE todo (id integer PRIMARY KEY)');
  await runScript(superuser);
  await cureAll();
  await owner.query('CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10)');
  assert.equal(await states(), 'bad good bad');
  assert.deepEqual(await cureAll(), ["SELECT bemi.track('app.part');"]);
  await checkWrites('part');
  for (const [damage, state, cure] of [
    ['ALTER TABLE todo REPLICA IDENTITY DEFAULT', 'good good bad', "SELECT bemi.track('app.todo');"],
    ['DROP TRIGGER bemi_emit_context ON todo', 'bad good good', "SELECT bemi.track('app.todo');"],
    ['DROP TRIGGER bemi_reemit_context ON todo', 'bad good good', "SELECT bemi.track('app.todo');"],
    ['ALTER TABLE todo DISABLE TRIGGER bemi_emit_context', 'bad good good', 'ALTER TABLE app.todo ENABLE TRIGGER bemi_emit_context;'],
    ['ALTER TABLE part_low ENABLE REPLICA TRIGGER bemi_reemit_context', 'bad good good', 'ALTER TABLE app.part_low ENABLE TRIGGER bemi_reemit_context;'],
    ["ALTER PUBLICATION bemi SET (publish = 'insert')", 'good bad good', undefined],
    ['ALTER PUBLICATION bemi DROP TABLE todo, part', 'good bad open', undefined],
    ['DROP PUBLICATION bemi', 'good bad open', undefined],
  ]) {
    await owner.query(damage);
    assert.equal(await states(), state, damage);
    const lines = await cureAll();
    if (cure) assert.deepEqual(lines, [cure], damage);
  }
}));

test('a publication of all tables cannot be tracked table by table', options, () => inDatabase(async superuser => {
  await owner.query('CREATE TABLE todo (id integer PRIMARY KEY)');
  await runScript(superuser);
  await superuser.query('DROP PUBLICATION bemi; CREATE PUBLICATION bemi FOR ALL TABLES WITH (publish_via_partition_root = true)');
  assert.equal(await states(), 'good bad open');
  await cureAll(text => superuser.query(text));
  await checkWrites('todo');
}));

const OWN_TRIGGER = `
  CREATE FUNCTION public.emit_context() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN PERFORM pg_logical_emit_message(true, '_bemi', '{}'); RETURN NULL; END $$`;
const ownTrigger = table => `
  CREATE TRIGGER emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ${table} FOR EACH STATEMENT EXECUTE FUNCTION public.emit_context();
  ALTER TABLE ${table} REPLICA IDENTITY FULL`;

test('a source with a trigger of its own is green, and may run the script later', options, () => inDatabase(async superuser => {
  await superuser.query(`GRANT CREATE ON SCHEMA public TO ${OWNER}`);
  await owner.query(`CREATE TABLE todo (id integer PRIMARY KEY); CREATE TABLE late (id integer PRIMARY KEY); ${OWN_TRIGGER}; ${ownTrigger('todo')};
    CREATE PUBLICATION bemi FOR TABLE todo WITH (publish_via_partition_root = true)`);
  assert.equal(await states(), 'good good good');
  await owner.query('ALTER PUBLICATION bemi SET (publish_via_partition_root = false); ALTER TABLE todo REPLICA IDENTITY DEFAULT');
  assert.equal(await states(), 'good bad bad');
  assert.doesNotMatch((await cureAll()).join('\n'), /bemi\.track/);
  await owner.query('ALTER PUBLICATION bemi ADD TABLE late');
  assert.match((await checks()).capture.cure.text, /^psql /);
  await runScript(superuser);
  assert.ok((await cureAll()).includes("SELECT bemi.track('app.late');"));
  await checkWrites('todo', 'late');
}));

test('the cures of a database with the extension', options, () => inDatabase(async superuser => {
  await superuser.query('CREATE EXTENSION bemi');
  await owner.query('CREATE TABLE part (id integer) PARTITION BY RANGE (id); CREATE TABLE part_low PARTITION OF part FOR VALUES FROM (0) TO (10)');
  assert.equal(await states(), 'good bad open');
  assert.equal((await checks()).publication.cure.where, undefined);
  await cureAll(text => superuser.query(text));
  await owner.query('ALTER TABLE part_low DISABLE TRIGGER bemi_emit_context');
  assert.deepEqual(await cureAll(), ['ALTER TABLE app.part_low ENABLE TRIGGER bemi_emit_context;']);
  await owner.query('DROP TRIGGER bemi_emit_context ON part_low');
  assert.deepEqual(await cureAll(text => superuser.query(text)), ["SELECT bemi.track('app.part');"]);
  await checkWrites('part');
}));

const virtual = 'CREATE TABLE keyed (id integer PRIMARY KEY, twice integer GENERATED ALWAYS AS (id * 2) VIRTUAL); CREATE TABLE keyless (id integer, twice integer GENERATED ALWAYS AS (id * 2) VIRTUAL)';

for (const kind of ['the script', 'the extension']) {
  test(`with ${kind}, virtual columns never become part of an identity`, options, context => inDatabase(async superuser => {
    if (!isVirtualKnown) return context.skip('PostgreSQL has no virtual columns before 18');
    const run = text => superuser.query(text);
    await owner.query(virtual);
    if (kind === 'the script') await runScript(superuser);
    else await superuser.query('CREATE EXTENSION bemi');
    assert.deepEqual(await cureAll(run), ["SELECT bemi.track('app.keyed');"]);
    await checkWrites('keyed', 'keyless');
    // A table that is tracked, and gets such a column later, without the extension's event trigger.
    if (kind === 'the extension') return undefined;
    await owner.query('CREATE TABLE late (id integer PRIMARY KEY)');
    await owner.query("SELECT bemi.track('app.late')");
    await owner.query('ALTER TABLE late ADD twice integer GENERATED ALWAYS AS (id * 2) VIRTUAL');
    assert.equal(await states(), 'good good bad');
    assert.deepEqual(await cureAll(run), ['ALTER TABLE app.late REPLICA IDENTITY DEFAULT;']);
    await checkWrites('late');
    await owner.query('ALTER PUBLICATION bemi ADD TABLE keyless');
    assert.deepEqual(await cureAll(run), ["SELECT bemi.untrack('app.keyless');"]);
    return checkWrites('keyless');
  }));
}

test('an old server is only told that it is old', () => {
  const server = { role: 'a', database: 'b', version: '11.2', versionNumber: 110_002, walLevel: 'logical', maxSlots: 5, slots: 0, maxSenders: 5, senders: 0, mayReplicate: true };
  const found = checksOf({ server, tables: [] }, PLACE);
  assert.deepEqual(found.filter(({ state }) => state !== 'good').map(({ name, state }) => `${name} ${state}`), ['version bad', 'capture open', 'publication open', 'identity open']);
});
