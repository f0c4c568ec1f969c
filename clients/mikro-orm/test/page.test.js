// The steps of the README in a fresh folder, by their own commands: install, write the migration, run it, set the context in
// Express. MikroORM's configuration has no line for bemi. Five requests must make the five rows that the README shows.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import test, { after } from 'node:test';
import { promisify } from 'node:util';
import { changes, connect, isVersion7, newDatabase, started } from './setup.js';

const DATABASE = 'test_page';

const readme = readFileSync(new URL('../node_modules/bemi-mikro-orm/README.md', import.meta.url), 'utf8');

const CONFIG = `
  import { Migrator } from '@mikro-orm/migrations';
  import { defineConfig, EntityCaseNamingStrategy } from '@mikro-orm/postgresql';
  import { Todo } from './src/todo.js';
  export default defineConfig({
    host: process.env.PGHOST, user: process.env.PGUSER, dbName: '${DATABASE}',
    entities: [Todo], namingStrategy: EntityCaseNamingStrategy, extensions: [Migrator], migrations: { path: './src/migrations' },
  });`;

const TODO = `
  import { EntitySchema } from '@mikro-orm/core';
  export class Todo {}
  new EntitySchema({
    class: Todo, tableName: 'todo',
    properties: { id: { type: 'number', primary: true }, task: { type: 'text' }, isCompleted: { type: 'boolean', default: false } },
  });`;

const TABLE = `
  import { Migration } from '@mikro-orm/migrations';
  export class Migration20231211170000 extends Migration {
    async up() {
      this.addSql('CREATE TABLE todo (id serial PRIMARY KEY, task text NOT NULL, "isCompleted" boolean NOT NULL DEFAULT false)');
      this.addSql("SELECT setval('todo_id_seq', 25)");
    }
  }`;

// What the README shows, between the user and the handlers of the application.
const [, usage] = /In \*\*Express\*\*.*?^```ts\n(.*?)^```$/ms.exec(readme);

const APPLICATION = `
  import { MikroORM } from '@mikro-orm/postgresql';
  import config from '../mikro-orm.config.js';
  import { Todo } from './todo.js';
  ${usage.replace('app.use(\n  setContext', 'app.use((req, res, next) => { req.user = { id: 187234 }; next(); });\n$&')}
  const orm = await MikroORM.init(config);
  app.post('/todo', async (req, res) => {
    const em = orm.em.fork();
    const todo = em.create(Todo, req.body);
    await em.flush();
    res.json(todo);
  });
  app.put('/todo/complete', async (req, res) => {
    const em = orm.em.fork();
    (await em.findOneOrFail(Todo, req.body.id)).isCompleted = true;
    await em.flush();
    res.json({});
  });
  app.delete('/todo/:id', async (req, res) => {
    const em = orm.em.fork();
    em.remove(await em.findOneOrFail(Todo, Number(req.params.id)));
    await em.flush();
    res.json({});
  });
  const server = app.listen(0, '127.0.0.1', () => console.log(server.address().port));`;

function freshFolder(files) {
  const folder = mkdtempSync(new URL('page-', import.meta.url).pathname);
  after(() => rmSync(folder, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  symlinkSync(new URL('../node_modules', import.meta.url).pathname, join(folder, 'node_modules'));
  return folder;
}

async function start(folder) {
  const application = spawn(process.execPath, ['src/index.js'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] });
  after(() => application.kill());
  const [port] = await once(createInterface({ input: application.stdout }), 'line');
  return port;
}

test('five steps, five rows', async () => {
  await newDatabase(DATABASE);
  const folder = freshFolder({
    'package.json': JSON.stringify({ type: 'module', dependencies: { '@mikro-orm/cli': '*' } }),
    // Where ts-node is installed, MikroORM 6 wants it.
    'tsconfig.json': '{}',
    'mikro-orm.config.js': CONFIG,
    'src/migrations/Migration20231211170000.js': TABLE,
    'src/todo.js': TODO,
    'src/index.js': APPLICATION,
  });
  const npx = (...args) => promisify(execFile)('npx', ['--offline', ...args], { cwd: folder });
  await npx('bemi', 'migration:create', '--path', 'src/migrations');
  await npx(isVersion7 ? 'mikro-orm' : 'mikro-orm-esm', 'migration:up', '--config', './mikro-orm.config.js');
  const orm = await connect(DATABASE);
  await started(orm);

  const port = await start(folder);
  const requests = [
    ['POST', '/todo', { task: 'Sleep', isCompleted: false }], ['POST', '/todo', { task: 'Eat', isCompleted: false }],
    ['POST', '/todo', { task: 'Repeat', isCompleted: false }], ['PUT', '/todo/complete', { id: 26 }], ['DELETE', '/todo/27', { id: 27 }],
  ];
  for (const [method, path, body] of requests) {
    const answer = await fetch(`http://127.0.0.1:${port}${path}`, { method, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    assert.ok(answer.ok, `${method} ${path}: ${await answer.text()}`);
  }

  // The two tables of the README, row by row.
  const [images, contexts] = [...readme.matchAll(/^todo=# SELECT primary_key.*\n.*\n.*\n((?:.*\|.*\n)+)/gm)].map(([, rows]) =>
    rows.trim().split('\n').map(row => row.split('|').map(cell => cell.trim())));
  const expected = images.map(([, operation, before, after], i) =>
    ({ table: 'todo', operation, before: JSON.parse(before), after: JSON.parse(after), context: JSON.parse(contexts[i][2]) }));
  assert.equal(expected.length, 5);
  assert.deepEqual(await changes(orm), expected);
});
