// What MikroORM does to bemi when it compares the database with the entities, as many applications do when they start.
// Without the settings of the README, this fails or drops the triggers. With them nothing is lost.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { before } from 'node:test';
import { withBemiContext } from 'bemi-mikro-orm';
import { changes, connect, isVersion7, Todo, trackedDatabase } from './setup.js';

const DOCUMENTED = { ignoreSchema: ['bemi', '_bemi'], ignoreTriggers: true };
const { ignoreSchema } = DOCUMENTED;

let orm;

before(async () => { orm = await trackedDatabase('test_schema'); });

const problems = async () =>
  (await orm.em.fork().execute('SELECT problems FROM bemi.tracked ORDER BY "table"::text')).map(row => row.problems.join());

// The context with which a row is stored.
async function contextOf(task) {
  await withBemiContext({ task }, () => orm.em.fork().insert(Todo, { task, done: false }));
  const [{ context }] = await changes(orm, `after ->> 'task' = ?`, [task]);
  return context;
}

// Like an application that starts.
async function start(schemaGenerator) {
  const { schema } = await connect('test_schema', { schemaGenerator });
  return {
    sql: await schema.getUpdateSchemaSQL(),
    update: options => (isVersion7 ? schema.update(options) : schema.updateSchema(options)),
  };
}

const NO_TRIGGER = /^no trigger: changes come without context/;

test('the second step of the installation and the example name both settings', async () => {
  const readme = readFileSync(new URL('../node_modules/bemi-mikro-orm/README.md', import.meta.url), 'utf8');
  const [, step] = /^## Install$.*?^2\. (.*?)^3\. /ms.exec(readme);
  assert.match(step, /^ +schemaGenerator: \{ ignoreSchema: \['bemi', '_bemi'\], ignoreTriggers: true \},$/m);
  const { default: example } = await import('../example/mikro-orm.config.js');
  assert.deepEqual(example.schemaGenerator, DOCUMENTED);
});

test('with both settings, nothing of bemi is touched', async () => {
  const { sql, update } = await start(DOCUMENTED);
  assert.doesNotMatch(sql, /bemi/);
  await update({ safe: true });
  await update();
  assert.deepEqual(await problems(), ['', '', '']);
  assert.deepEqual(await contextOf('both'), { task: 'both' });
});

test('without ignoreSchema, the application does not start', async () => {
  const { sql, update } = await start({ ignoreTriggers: true });
  assert.match(sql, /drop table if exists "bemi"\."changes"/);
  await assert.rejects(update(), /because extension bemi requires it/);
  assert.deepEqual(await problems(), ['', '', '']);
  assert.deepEqual(await contextOf('no ignoreSchema'), { task: 'no ignoreSchema' });
});

test('without ignoreTriggers, MikroORM 6 leaves the triggers alone', { skip: isVersion7 && 'this is MikroORM 7' }, async () => {
  const { sql, update } = await start({ ignoreSchema });
  assert.doesNotMatch(sql, /bemi/);
  await update();
  assert.deepEqual(await problems(), ['', '', '']);
});

test('without ignoreTriggers, MikroORM 7 drops them: bemi.tracked shows it, and bemi.track() mends it', { skip: !isVersion7 && 'this is MikroORM 6' }, async () => {
  const { sql, update } = await start({ ignoreSchema });
  assert.match(sql, /drop trigger if exists "bemi_emit_context" on "todo"/);
  await update({ safe: true });
  assert.deepEqual(await problems(), ['', '', '']);
  await update();
  for (const problem of await problems()) assert.match(problem, NO_TRIGGER);
  assert.deepEqual(await contextOf('no ignoreTriggers'), {});

  await orm.em.fork().execute(`SELECT bemi.track(t."table") FROM bemi.tracked t WHERE problems::text LIKE '%no trigger%'`);
  assert.deepEqual(await problems(), ['', '', '']);
  assert.deepEqual(await contextOf('mended'), { task: 'mended' });
});
