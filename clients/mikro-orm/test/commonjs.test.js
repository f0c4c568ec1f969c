// The package as CommonJS, and all its copies in one process as one.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import test, { after } from 'node:test';
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

// MikroORM 7 is no CommonJS, so it does not work where require() cannot load modules (Jest).
test('without require() of modules', { skip: isVersion7 && 'MikroORM 7 needs it' }, async () => {
  const script = `
    const { onQuery, withBemiContext } = require('bemi-mikro-orm');
    withBemiContext({ a: 1 }, () => console.log(onQuery('DELETE FROM t')));`;
  const { stdout } = await run(process.execPath, ['--no-experimental-require-module', '-e', script], { cwd: import.meta.dirname });
  assert.equal(stdout, 'DELETE FROM t /*Bemi {"a":1} Bemi*/\n');
});

test('what one copy of the package has set, another one sees', () => {
  const copy = mkdtempSync(join(import.meta.dirname, 'copy-'));
  after(() => rmSync(copy, { recursive: true }));
  cpSync(dirname(dirname(require.resolve('bemi-mikro-orm'))), copy, { recursive: true });
  symlinkSync(join(import.meta.dirname, '../node_modules'), join(copy, 'node_modules'));
  const other = require(join(copy, 'src/index.js'));
  assert.notEqual(other.onQuery, imported.onQuery);
  other.withBemiContext({ by: 'the copy' }, () => {
    assert.deepEqual(imported.currentBemiContext(), { by: 'the copy' });
    assert.match(imported.onQuery('DELETE FROM t'), /the copy/);
  });
});

// In separate processes, because onQuery has seen queries of other tests in this one.
const warning = async script => {
  const { stderr } = await run(process.execPath, ['-e', `const bemi = require('bemi-mikro-orm'); ${script}`], { cwd: import.meta.dirname });
  return stderr.match(/\[BEMI_ON_QUERY\]/g) ?? [];
};

test('contexts that come to no query are worth one warning', async () => {
  assert.equal((await warning('bemi.withBemiContext({ a: 1 }, () => {})')).length, 1);
  assert.equal((await warning('for (let i = 0; i < 100; i++) bemi.bemiContext({ i }); setTimeout(() => process.exit(), 1)')).length, 1);
  assert.equal((await warning('bemi.bemiContext(null)')).length, 0);
  assert.equal((await warning(`bemi.withBemiContext({ a: 1 }, () => bemi.onQuery('SELECT 1'))`)).length, 0);
  assert.equal((await warning('bemi.withBemiContext({ a: 1 }, () => {}); process.exit()')).length, 0);
});
