// The type declarations, as a strict TypeScript project uses them, and the code of the README.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFileSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import test, { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isVersion7 } from './setup.js';

const file = name => fileURLToPath(new URL(name, import.meta.url));

const compile = (names, options) =>
  promisify(execFile)(process.execPath, [
    file('../node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--exactOptionalPropertyTypes', '--skipLibCheck', '--target', 'es2022', '--experimentalDecorators', ...options, ...names.map(file),
  ]).catch(error => { throw new Error(error.stdout || error.message); });

// Declarations that the README's code needs, by a word in the code.
const AROUND = {
  'trace(sql)': code => `import { defineConfig } from '@mikro-orm/postgresql';
    import { onQuery } from 'bemi-mikro-orm';
    declare function trace(sql: string): string;
    ${code}`,
  'defineConfig(': code => `import { defineConfig } from '@mikro-orm/postgresql';
    ${isVersion7 ? code : code.replace(', ignoreTriggers: true', '')}`,
  'addSql(': code => `import { Migration } from '@mikro-orm/migrations';
    export class Migration1 extends Migration { override async up(): Promise<void> { ${code} } }`,
  'express()': code => `declare global { namespace Express { interface Request { user?: { id: number } } } }
    ${code}`,
  'app.use(setContext(req': code => `import express from 'express';
    import { setContext } from 'bemi-mikro-orm';
    declare global { namespace Express { interface Request { user?: { id: number } } } }
    const app = express();
    ${code}`,
  'removeOldTodos': code => `import type { EntityManager } from '@mikro-orm/postgresql';
    declare const em: EntityManager;
    declare class Todo { task: string }
    declare const row: Todo;
    declare function removeOldTodos(em: EntityManager): Promise<void>;
    ${code}`,
  'findChanges(': code => `import type { EntityManager } from '@mikro-orm/postgresql';
    declare const em: EntityManager;
    declare const today: Date;
    ${code}`,
};

const readme = readFileSync(file('../node_modules/bemi-mikro-orm/README.md'), 'utf8');

// One file for each piece, written next to types.ts.
const readmeFiles = [...readme.matchAll(/^ *```ts\n(.*?)^ *```$/gms)].map(([, code], i) => {
  const word = Object.keys(AROUND).find(word => code.includes(word)) ?? assert.fail(code);
  writeFileSync(file(`readme_${i}.ts`), `${AROUND[word](code)}\nexport {};\n`);
  after(() => rmSync(file(`readme_${i}.ts`)));
  return `readme_${i}.ts`;
});

const settings = {
  node16: ['--module', 'node16'],
  nodenext: ['--module', 'nodenext'],
  bundler: ['--module', 'esnext', '--moduleResolution', 'bundler'],
};

for (const [name, options] of Object.entries(settings)) {
  test(`the type declarations fit those of MikroORM, and the README's code both, ${name}`, () => compile(['types.ts', ...readmeFiles], options));
  // To node16, what is CommonJS cannot load MikroORM 7.
  const skip = isVersion7 && name === 'node16' && 'MikroORM 7 is no CommonJS';
  test(`the same for CommonJS, ${name}`, { skip }, async () => {
    copyFileSync(file('types.ts'), file('types.cts'));
    try {
      await compile(['types.cts'], options);
    } finally {
      rmSync(file('types.cts'));
    }
  });
}
