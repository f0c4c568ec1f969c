// The package as CommonJS, and on top of the package bemi.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, relative } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import * as imported from 'bemi-mikro-orm';
import { isVersion7 } from './setup.js';

const require = createRequire(import.meta.url);
const run = promisify(execFile);

test('require() and import give the same', () => {
  const required = require('bemi-mikro-orm');
  assert.deepEqual(Object.keys(imported).sort(), Object.keys(required).sort());
  for (const [name, value] of Object.entries(required)) assert.equal(imported[name], value, name);
});

// Of the installed package, which "npm pack" has made.
test('the package has its code, its types and its papers, and nothing else', () => {
  const folder = join(import.meta.dirname, '../node_modules/bemi-mikro-orm');
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter(entry => entry.isFile())
    .map(entry => relative(folder, join(entry.parentPath, entry.name))).sort();
  assert.deepEqual(files, [
    'LICENSE', 'README.md', 'bin/bemi.js', 'package.json', ...['change.js', 'index.d.mts', 'index.d.ts', 'index.js', 'index.mjs', 'migration.js'].map(name => `src/${name}`),
  ].sort());
});

// MikroORM 7 is no CommonJS, so it does not work where require() cannot load modules (Jest).
test('without require() of modules', { skip: isVersion7 && 'MikroORM 7 needs it' }, async () => {
  const script = `
    const { onQuery, withBemiContext } = require('bemi-mikro-orm');
    withBemiContext({ a: 1 }, () => console.log(onQuery('DELETE FROM t')));`;
  const { stdout } = await run(process.execPath, ['--no-experimental-require-module', '-e', script], { cwd: import.meta.dirname });
  assert.equal(stdout, 'DELETE FROM t /*Bemi {"a":1} Bemi*/\n');
});

test('it is the context of the package bemi', () => {
  const bemi = require('bemi');
  bemi.withContext({ by: 'bemi' }, () => assert.deepEqual(imported.currentBemiContext(), { by: 'bemi' }));
  assert.equal(imported.setContext, bemi.setContext);
});

test('the copy of pg that MikroORM uses is hooked', () => {
  // A package need not export its manifest.
  const requireAs = createRequire(join(import.meta.dirname, '../node_modules/@mikro-orm/postgresql/package.json'));
  assert.equal(requireAs('pg').Client.prototype.query[Symbol.for('bemi.pg')], true);
});
