// The type declarations, as a strict TypeScript project uses them with each way of resolving modules, and the code of the
// README.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import test, { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const file = name => fileURLToPath(new URL(name, import.meta.url));

const compile = (names, options) =>
  promisify(execFile)(process.execPath, [
    file('../node_modules/typescript/bin/tsc'), '--noEmit', '--strict', '--exactOptionalPropertyTypes', '--target', 'es2022', '--esModuleInterop', ...options, ...names.map(file),
  ]).catch(error => { throw new Error(error.stdout || error.message); });

const EXPRESS = 'declare global { namespace Express { interface Request { user?: { id: number } } } }';

// Declarations that the README's code needs, by a word in the code.
const AROUND = {
  'express()': EXPRESS,
  'app.use(setContext(req': `${EXPRESS} import express from 'express'; const app = express();`,
  'Fastify()': "declare module 'fastify' { interface FastifyRequest { user?: { id: number } } }",
  'removeOldTodos': `declare function removeOldTodos(): Promise<void>;
    declare const prisma: { todo: { create(args: object): PromiseLike<object> } };`,
};

// One file for each piece, written next to types.ts.
const readme = readFileSync(file('../node_modules/bemi/README.md'), 'utf8');
const readmeFiles = [...readme.matchAll(/^ *```ts\n(.*?)^ *```$/gms)].map(([, code], i) => {
  const word = Object.keys(AROUND).find(word => code.includes(word));
  writeFileSync(file(`readme_${i}.ts`), `${word ? AROUND[word] : ''}\n${code}\nexport {};\n`);
  after(() => rmSync(file(`readme_${i}.ts`)));
  return `readme_${i}.ts`;
});
assert.ok(readmeFiles.length > 5);

const settings = {
  node16: ['--module', 'node16'],
  nodenext: ['--module', 'nodenext'],
  bundler: ['--module', 'esnext', '--moduleResolution', 'bundler'],
};

writeFileSync(file('types.cts'), readFileSync(file('types.ts')));
after(() => rmSync(file('types.cts')));

for (const [name, options] of Object.entries(settings)) {
  test(`the type declarations, for modules and for CommonJS, ${name}`, () => compile(['types.ts', 'types.cts'], options));
}

test("the README's code", () => compile(readmeFiles, settings.nodenext));
