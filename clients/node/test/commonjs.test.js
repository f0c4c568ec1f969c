// The package as CommonJS, all its copies in one process as one, and the copies of a driver that it finds.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import test, { after } from 'node:test';
import { promisify } from 'node:util';
import * as bemi from 'bemi';
import * as fastify from 'bemi/fastify';
import * as hono from 'bemi/hono';
import * as nestjs from 'bemi/nestjs';
import * as pg from 'bemi/pg';
import * as postgres from 'bemi/postgres';
import * as trpc from 'bemi/trpc';

const require = createRequire(import.meta.url);
const modules = join(import.meta.dirname, '../node_modules');
const folder = dirname(dirname(require.resolve('bemi')));

const run = (args, options) => promisify(execFile)(process.execPath, args, { cwd: import.meta.dirname, ...options });

function temporary() {
  const path = mkdtempSync(join(tmpdir(), 'bemi-copies-'));
  after(() => rmSync(path, { recursive: true }));
  return path;
}

test('require() and import give the same', () => {
  const entries = { 'bemi': bemi, 'bemi/fastify': fastify, 'bemi/hono': hono, 'bemi/nestjs': nestjs, 'bemi/pg': pg, 'bemi/postgres': postgres, 'bemi/trpc': trpc };
  const { exports, dependencies } = require(join(folder, 'package.json'));
  assert.equal(dependencies, undefined);
  assert.deepEqual(Object.keys(exports).filter(name => name !== './text').map(name => name.replace('.', 'bemi')).sort(), Object.keys(entries).sort());
  for (const [entry, imported] of Object.entries(entries)) {
    const required = require(entry);
    assert.deepEqual(Object.keys(imported).sort(), Object.keys(required).sort(), entry);
    for (const [name, value] of Object.entries(required)) assert.equal(imported[name], value, name);
  }
});

// For Jest and other runtimes.
test('without require() of modules', async () => {
  const script = `
    const { addContext, withContext } = require('bemi');
    withContext({ a: 1 }, () => console.log(addContext('DELETE FROM t')));
    require('bemi/pg');
    console.log(require('pg').Client.prototype.query[Symbol.for('bemi.pg')]);`;
  const { stdout } = await run(['--no-experimental-require-module', '-e', script]);
  assert.equal(stdout, 'DELETE FROM t /*Bemi {"a":1} Bemi*/\ntrue\n');
});

test('what one copy of the package has set, another one sees, and hooks nothing twice', () => {
  const copy = temporary();
  cpSync(folder, copy, { recursive: true, dereference: true });
  const other = require(join(copy, 'src/index.js'));
  assert.notEqual(other.withContext, bemi.withContext);
  other.withContext({ by: 'the copy' }, () => {
    assert.deepEqual(bemi.currentContext(), { by: 'the copy' });
    assert.match(bemi.addContext('DELETE FROM t'), /the copy/);
  });
  const { query } = require('pg').Client.prototype;
  require(join(copy, 'src/pg.js')).hook(require('pg'));
  assert.equal(require('pg').Client.prototype.query, query);
});

// Of the installed package, which "npm pack" has made.
test('the package has its code, its types and its papers, and nothing else', () => {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
    .map(entry => relative(folder, join(entry.parentPath, entry.name))).sort();
  const entries = ['fastify', 'hono', 'index', 'nestjs', 'pg', 'postgres', 'trpc'];
  assert.deepEqual(files, [
    'LICENSE', 'README.md', 'package.json', ...['context', 'copies', 'query', 'statements', 'text'].map(name => `src/${name}.js`),
    ...entries.flatMap(name => ['d.mts', 'd.ts', 'js', 'mjs'].map(type => `src/${name}.${type}`)),
  ].sort());
  const { exports } = require(join(folder, 'package.json'));
  for (const file of Object.values(exports).flatMap(entry => (typeof entry === 'string' ? [entry] : Object.values(entry).flatMap(Object.values)))) {
    assert.ok(files.includes(file.slice(2)), file);
  }
});

const isHooked = `pg => pg.Client.prototype.query[Symbol.for('bemi.pg')] === true`;

// An application as npm and pnpm install it, with an ORM that has another copy of pg than the application.
function application(files) {
  const root = temporary();
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  mkdirSync(join(root, 'node_modules'), { recursive: true });
  symlinkSync(folder, join(root, 'node_modules/bemi'));
  return root;
}

const copyOfPg = name => ({
  [`${name}/package.json`]: '{"name": "pg", "version": "8.0.0"}',
  [`${name}/lib/index.js`]: `class Client { query() {} } class Pool { connect() {} } module.exports = { Client, Pool, name: '${name}' };`,
  [`${name}/index.js`]: `module.exports = require('./lib/index.js');`,
});

test('the copies of pg that the application and its ORMs use are hooked', async () => {
  const root = application({
    'package.json': '{}',
    ...copyOfPg('node_modules/pg'),
    'node_modules/knex/package.json': '{"name": "knex", "exports": {"import": "./none.mjs"}}',
    ...copyOfPg('node_modules/knex/node_modules/pg'),
    // As pnpm has it: the ORM's dependencies are beside its real folder.
    'node_modules/.pnpm/orm/node_modules/@mikro-orm/postgresql/package.json': '{"name": "@mikro-orm/postgresql"}',
    ...copyOfPg('node_modules/.pnpm/orm/node_modules/pg'),
    'main.cjs': `
      require('bemi/pg');
      const isHooked = ${isHooked};
      const copies = ['pg', './node_modules/knex/node_modules/pg', './node_modules/.pnpm/orm/node_modules/pg'].map(name => require(name));
      console.log(copies.map(isHooked).join());`,
  });
  mkdirSync(join(root, 'node_modules/@mikro-orm'));
  symlinkSync(join(root, 'node_modules/.pnpm/orm/node_modules/@mikro-orm/postgresql'), join(root, 'node_modules/@mikro-orm/postgresql'));
  assert.equal((await run(['main.cjs'], { cwd: root })).stdout, 'true,true,true\n');
  // Of an application that is started from elsewhere.
  assert.equal((await run([join(root, 'main.cjs')], { cwd: tmpdir() })).stdout, 'true,true,true\n');
});

test('a copy that is loaded already is hooked, and any other by hook()', async () => {
  const root = application({
    'package.json': '{}',
    ...copyOfPg('vendor/node_modules/pg'),
    ...copyOfPg('bundle'),
    'main.cjs': `
      const isHooked = ${isHooked};
      const loaded = require('./vendor/node_modules/pg');
      const { hook } = require('bemi/pg');
      const bundled = require('./bundle');
      console.log(isHooked(loaded), isHooked(bundled), hook(bundled) === bundled, isHooked(bundled));
      for (const wrong of [undefined, {}, { Client: 1 }]) try { hook(wrong); } catch (error) { console.log(error.message); }`,
  });
  assert.equal((await run(['main.cjs'], { cwd: root })).stdout, `true false true true\n${'hook() needs node-postgres: hook(pg)\n'.repeat(3)}`);
});

// Older versions of node-postgres read options in place. Here a driver that returns what it gets stands in for them.
test('options come to the driver as they are, or as a copy whose getters have worked', () => {
  class Client {
    query(...args) { return args; }
  }
  pg.hook({ Client });
  class Sql {
    #text;
    constructor(text) { this.#text = text; }
    get text() { return this.#text; }
    get values() { return [this.#text.length]; }
  }
  const client = new Client();
  for (const text of ['DELETE FROM t', 'SELECT 1']) {
    const options = Object.freeze(new Sql(text));
    assert.equal(client.query(options)[0], options);
    const [sent] = bemi.withContext({ a: 1 }, () => client.query(options));
    assert.equal(sent.text, bemi.withContext({ a: 1 }, () => bemi.addContext(text)));
    assert.deepEqual([sent.values, options.text], [[text.length], text]);
  }
});

// In separate processes, because queries of other tests have come to bemi in this one.
const warnings = async script => {
  const { stderr } = await run(['-e', `const bemi = require('bemi'); ${script}`]);
  return stderr.match(/\[BEMI_NO_QUERY\]/g)?.length ?? 0;
};

test('contexts that come to no query are worth one warning', async () => {
  assert.equal(await warnings('bemi.withContext({ a: 1 }, () => {})'), 1);
  assert.equal(await warnings('for (let i = 0; i < 100; i++) bemi.enterContext({ i }); setTimeout(() => process.exit(), 1)'), 1);
  assert.equal(await warnings('bemi.enterContext(null)'), 0);
  assert.equal(await warnings(`bemi.withContext({ a: 1 }, () => bemi.addContext('SELECT 1'))`), 0);
  assert.equal(await warnings(`require('bemi/pg'); const { Client } = require('pg'); bemi.withContext({ a: 1 }, () => new Client().query('SELECT 1', () => {}))`), 0);
  assert.equal(await warnings(`require('bemi/pg'); const { Client } = require('pg'); bemi.withContext({ a: 1 }, () => new Client().query({ name: 'a', text: 'SELECT 1' }).catch(() => {}))`), 0);
  assert.equal(await warnings('bemi.withContext({ a: 1 }, () => {}); process.exit()'), 0);
});
