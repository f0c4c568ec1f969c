// `npx bemi migration:create` as a user runs it, and the migration that it writes: up, down, and up again.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { after } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Migrator } from '@mikro-orm/migrations';
import { withBemiContext } from 'bemi-mikro-orm';
import { assertAllHave, changes, connect, isVersion7, newDatabase, started } from './setup.js';

const run = promisify(execFile);

const modules = new URL('../node_modules', import.meta.url).pathname;

// A project within the tests' own folder, with the same packages.
function makeProject(files = {}, { type } = { type: 'module' }) {
  // MikroORM's command wants to be named.
  const manifest = { type, dependencies: { '@mikro-orm/cli': '*' } };
  const project = mkdtempSync(new URL('project-', import.meta.url).pathname);
  after(() => {
    chmodSync(join(project, 'src/migrations'), 0o755);
    rmSync(project, { recursive: true });
  });
  mkdirSync(join(project, 'src/migrations'), { recursive: true });
  symlinkSync(modules, join(project, 'node_modules'));
  for (const [name, text] of Object.entries({ 'package.json': JSON.stringify(manifest), ...files })) {
    writeFileSync(join(project, name), text);
  }
  return project;
}

// Never uses a registry.
const npx = (cwd, ...args) => run('npx', ['--offline', ...args], { cwd });

const create = (cwd, ...args) => npx(cwd, 'bemi', 'migration:create', ...(args.length ? args : ['--path', 'src/migrations']));

const migrations = project => readdirSync(join(project, 'src/migrations'));

const failure = async promise => {
  const error = await promise.then(() => assert.fail('it did not fail'), error => error);
  assert.equal(error.code, 1, error.message);
  assert.equal(error.stdout, '');
  assert.doesNotMatch(error.stderr, /\n +at /);
  return error.stderr;
};

test('mistakes are told', async () => {
  const project = makeProject();
  assert.match(await failure(create(project, '--path', 'src/nothing')), /src\/nothing does not exist/);
  assert.match(await failure(create(project, '--path', 'package.json')), /package\.json is not a folder/);
  assert.match(await failure(npx(project, 'bemi', 'migration:create')), /--path src\/migrations/);
  assert.match(await failure(create(project, '--pth', 'x')), /Unknown option '--pth'[^]*Usage/);
  assert.match(await failure(create(project, '--path', 'src/migrations', '--format', 'php')), /unknown format "php"/);
  writeFileSync(join(project, 'src/migrations/package.json'), '{ type:');
  assert.match(await failure(create(project)), /package\.json cannot be read: /);
  rmSync(join(project, 'src/migrations/package.json'));
  assert.match(await failure(npx(project, 'bemi')), /^bemi: Usage/m);
  assert.match(await failure(npx(project, 'bemi', 'migration:up')), /unknown command: migration:up/);
  assert.match((await npx(project, 'bemi', '--help')).stdout, /^Usage/);
  assert.deepEqual(migrations(project), []);
});

test('a migration that is there is not written again', async () => {
  const project = makeProject();
  const { stdout } = await create(project);
  const [file] = migrations(project);
  // The command that MikroORM's version has.
  assert.equal(stdout, `src/migrations/${file} is written. Run it: npx mikro-orm${isVersion7 ? '' : '-esm'} migration:up\n`);
  assert.match(await failure(create(project)), new RegExp(`${file} is there already`));
  assert.deepEqual(migrations(project), [file]);
});

test('a folder that may not be written', { skip: process.getuid() === 0 && 'root may write everywhere' }, async () => {
  const project = makeProject();
  chmodSync(join(project, 'src/migrations'), 0o555);
  assert.match(await failure(create(project)), /src\/migrations\/Migration\d+_bemi\.js may not be written/);
});

test('the format is that of the project', async () => {
  const formats = async (files, manifest, ...options) => {
    const project = makeProject(files, manifest);
    await create(project, '--path', 'src/migrations', ...options);
    const [file] = migrations(project).filter(name => name.includes('_bemi'));
    const text = readFileSync(join(project, 'src/migrations', file), 'utf8');
    return [/\.\w+$/.exec(file)[0], text.includes('override') ? 'ts' : text.includes('require(') ? 'cjs' : 'esm'];
  };
  assert.deepEqual(await formats({}, { type: 'module' }), ['.js', 'esm']);
  assert.deepEqual(await formats({}, {}), ['.js', 'cjs']);
  assert.deepEqual(await formats({ 'tsconfig.json': '{}' }), ['.ts', 'ts']);
  assert.deepEqual(await formats({ 'src/migrations/Migration1.ts': '' }, {}), ['.ts', 'ts']);
  assert.deepEqual(await formats({ 'tsconfig.json': '{}', 'src/migrations/Migration1.js': '' }), ['.js', 'esm']);
  assert.deepEqual(await formats({ 'src/migrations/Migration1.cjs': '' }), ['.cjs', 'cjs']);
  assert.deepEqual(await formats({}, {}, '--format', 'ts'), ['.ts', 'ts']);
});

const CONFIG = dbName => `
  import { Migrator } from '@mikro-orm/migrations';
  import { defineConfig } from '@mikro-orm/postgresql';
  import { Change, onQuery } from 'bemi-mikro-orm';
  export default defineConfig({
    host: process.env.PGHOST!, user: process.env.PGUSER!, dbName: '${dbName}', entities: [Change], onQuery,
    extensions: [Migrator], migrations: { path: './src/migrations' },
  });`;

const TSCONFIG = `{
  "compilerOptions": { "strict": true, "target": "es2022", "module": "nodenext", "skipLibCheck": true, "noImplicitOverride": true }
}`;

const TODO = `
  import { Migration } from '@mikro-orm/migrations';
  export class Migration20200101000000 extends Migration {
    override async up(): Promise<void> {
      this.addSql('CREATE TABLE todo (id serial PRIMARY KEY, task text)');
      this.addSql('CREATE TABLE "Odd name" (a int, b text, PRIMARY KEY (a, b)) PARTITION BY LIST (a)');
      this.addSql('CREATE TABLE odd_1 PARTITION OF "Odd name" FOR VALUES IN (1)');
      this.addSql('CREATE UNLOGGED TABLE cache (a int)');
    }
    override async down(): Promise<void> {}
  }`;

const SLOTS = 'SELECT slot_name FROM pg_replication_slots WHERE database = ?';

async function until(condition, what) {
  const deadline = Date.now() + 30000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, what);
    await turn();
  }
}

test('up, down and up again, with MikroORM\'s own command', async () => {
  await newDatabase('test_migration');
  const project = makeProject({
    'mikro-orm.config.ts': CONFIG('test_migration'),
    'tsconfig.json': TSCONFIG,
    'src/migrations/Migration20200101000000.ts': TODO,
  });
  await create(project);
  const command = direction =>
    npx(project, isVersion7 ? 'mikro-orm' : 'mikro-orm-esm', `migration:${direction}`, '--config', './mikro-orm.config.ts');
  const orm = await connect('test_migration');
  const tracked = async () =>
    (await orm.em.fork().execute('SELECT "table"::text, problems FROM bemi.tracked WHERE "table"::text NOT LIKE \'odd_1\' ORDER BY 1'))
      .map(({ table, problems }) => [table, ...problems]);
  const insert = step => withBemiContext({ step }, () => orm.em.fork().execute('INSERT INTO todo (task) VALUES (?)', [step]));

  await command('up');
  await started(orm);
  // No table of migrations, no unlogged one.
  assert.deepEqual(await tracked(), [['"Odd name"'], ['todo']]);
  await insert('one');
  await withBemiContext({ step: 'odd' }, () => orm.em.fork().execute('INSERT INTO "Odd name" VALUES (1, ?)', ['x"y']));
  assertAllHave({ step: 'one' }, await changes(orm, '"table" = ?', ['todo']), 1);

  await insert('just before');
  await command('down');
  assert.deepEqual(await tracked(), []);
  await insert('two');
  await until(async () => (await orm.em.fork().execute(SLOTS, ['test_migration'])).length === 0, 'the slot is dropped');

  await command('up');
  await started(orm);
  await insert('three');
  const stored = await changes(orm, '"table" = ?', ['todo']);
  assert.deepEqual(stored.map(change => change.context.step), ['one', 'just before', 'three']);

});

test('TypeScript and CommonJS migrations run, too', async () => {
  for (const format of ['ts', 'cjs']) {
    const database = `test_migration_${format}`;
    await newDatabase(database);
    const project = makeProject({ 'src/migrations/README': '' }, {});
    await create(project, '--path', 'src/migrations', '--format', format);
    const [file] = migrations(project).filter(name => name.includes('_bemi'));
    if (format === 'ts') {
      const options = ['--strict', '--noImplicitOverride', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext'];
      await npx(project, 'tsc', ...options, `src/migrations/${file}`);
      rmSync(join(project, 'src/migrations', file));
    }
    const orm = await connect(database, {
      extensions: [Migrator], migrations: { path: join(project, 'src/migrations'), silent: true },
    });
    await orm.em.fork().execute('CREATE TABLE todo (id serial PRIMARY KEY)');
    await orm.migrator.up();
    await started(orm);
    await withBemiContext({ format }, () => orm.em.fork().execute('INSERT INTO todo DEFAULT VALUES'));
    assertAllHave({ format }, await changes(orm), 1);

    // So quickly that the slot is not yet dropped when the source is started again.
    for (let i = 0; i < 3; i++) {
      await orm.migrator.down();
      await orm.migrator.up();
    }
    await started(orm);
    await withBemiContext({ format, again: true }, () => orm.em.fork().execute('INSERT INTO todo DEFAULT VALUES'));
    assertAllHave({ format, again: true }, (await changes(orm)).slice(1), 1);
    const gaps = "SELECT count(*)::int AS count FROM bemi.gaps WHERE reason = 'source_dropped'";
    assert.equal((await orm.em.fork().execute(gaps))[0].count, 3);
  }
});

test('a schema whose name needs quotes', async () => {
  for (const [i, schema] of ['Sales', "o'Brien & ${1} `so`"].entries()) {
    const database = `test_migration_schema_${i}`;
    await newDatabase(database);
    const project = makeProject();
    await create(project, '--path', 'src/migrations', '--schema', schema);
    const orm = await connect(database, {
      extensions: [Migrator], migrations: { path: join(project, 'src/migrations'), silent: true },
    });
    await orm.em.fork().execute(`CREATE SCHEMA "${schema}" CREATE TABLE todo (id serial PRIMARY KEY)`);
    const tracked = async () => (await orm.em.fork().execute('SELECT count(*)::int AS count FROM bemi.tracked'))[0].count;
    await orm.migrator.up();
    assert.equal(await tracked(), 1);
    await orm.migrator.down();
    assert.equal(await tracked(), 0);
  }
});

test('where the extension is not installed, the migration says so', async () => {
  await newDatabase('test_not_installed');
  const project = makeProject();
  await create(project);
  const [file] = migrations(project);
  // As on a server without it, which this one cannot be.
  const path = join(project, 'src/migrations', file);
  writeFileSync(path, readFileSync(path, 'utf8').replace("name = 'bemi'", "name = 'nothing'"));
  const orm = await connect('test_not_installed', {
    extensions: [Migrator], migrations: { path: join(project, 'src/migrations'), silent: true },
  });
  await assert.rejects(orm.migrator.up(), /the extension bemi is not installed on this PostgreSQL server/);
});
