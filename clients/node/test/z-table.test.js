// The table of stacks in docs/how-to/set-context/node.md has no stack that did not run. (What it says of a stack is tested
// with the stack, see stack.js.) This file is the last one. It has nothing to compare if single files were asked for.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { readTable } from './stack.js';

const file = process.env.BEMI_PASSED;

test('each stack of the table has run', { skip: !file && 'not all files were run' }, () => {
  const ran = readFileSync(file, 'utf8').trim().split('\n');
  const table = readTable(readFileSync(new URL('node.md', import.meta.url), 'utf8')).map(({ stack }) => stack);
  // MikroORM's tests run with each of its versions, see clients/mikro-orm/test/stack.test.js.
  assert.deepEqual(ran.sort(), [...new Set(table)].filter(stack => stack !== 'MikroORM').sort());
});
