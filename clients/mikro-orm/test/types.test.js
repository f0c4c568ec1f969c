// The type declarations, as a strict TypeScript project uses them.

import { execFile } from 'node:child_process';
import { copyFileSync, rmSync } from 'node:fs';
import test from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isVersion7 } from './setup.js';

const file = name => fileURLToPath(new URL(name, import.meta.url));

const compile = (name, ...options) =>
  promisify(execFile)(process.execPath, [
    file('../node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--skipLibCheck', '--target', 'es2022', ...options, file(name),
  ]).catch(error => { throw new Error(error.stdout || error.message); });

const settings = {
  node16: ['--module', 'node16'],
  nodenext: ['--module', 'nodenext'],
  bundler: ['--module', 'esnext', '--moduleResolution', 'bundler'],
};

for (const [name, options] of Object.entries(settings)) {
  test(`the type declarations fit those of MikroORM, ${name}`, () => compile('types.ts', ...options));
  // To node16, what is CommonJS cannot load MikroORM 7.
  const skip = isVersion7 && name === 'node16' && 'MikroORM 7 is no CommonJS';
  test(`the same for CommonJS, ${name}`, { skip }, async () => {
    copyFileSync(file('types.ts'), file('types.cts'));
    try {
      await compile('types.cts', ...options);
    } finally {
      rmSync(file('types.cts'));
    }
  });
}
