// The type declarations, as a strict TypeScript project uses them.

import { execFile } from 'node:child_process';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const file = name => fileURLToPath(new URL(name, import.meta.url));

test('the type declarations fit those of MikroORM', async () => {
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--target', 'es2022', '--module', 'nodenext'];
  await promisify(execFile)(process.execPath, [file('../node_modules/typescript/bin/tsc'), ...options, file('types.ts')])
    .catch(error => { throw new Error(error.stdout || error.message); });
});
