// `npm start` of the example, from a new checkout: it builds bemi, starts a server and
// the application, and leaves nothing behind after Ctrl-C.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import test, { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

const BUILT = /^(node_modules|package-lock\.json|tmp_check.*|log|results|output_iso|.*\.(o|so|bc))$/;

const skip = !process.env.BEMI_CHECKOUT && 'BEMI_CHECKOUT says where bemi is';

let checkout;
let options;

before(async () => {
  if (skip) return;
  checkout = mkdtempSync(new URL('checkout-', import.meta.url).pathname);
  cpSync(process.env.BEMI_CHECKOUT, checkout, { recursive: true, filter: path => !BUILT.test(basename(path)) });
  const { PGHOST, PGUSER, PGDATABASE, ...env } = process.env;
  options = { cwd: join(checkout, 'clients/mikro-orm/example'), env: { ...env, PORT: 0 } };
  await promisify(execFile)('npm', ['install', '--no-audit', '--no-fund'], options);
});

after(() => checkout && rmSync(checkout, { recursive: true }));

test('npm start, Ctrl-C', { skip }, async () => {
  // A separate process group, as one that gets Ctrl-C from a terminal.
  const start = spawn('npm', ['start'], { ...options, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = once(start, 'exit');
  after(() => start.exitCode === null && start.signalCode === null && process.kill(-start.pid, 'SIGTERM'));
  let errors = '';
  start.stderr.on('data', data => { errors += data; });
  let output = '';
  for await (const data of start.stdout) {
    output += data;
    if (output.includes('FROM bemi.changes')) break;
  }
  const [url] = /http:\S+/.exec(output) ?? assert.fail(output + errors);
  assert.match(await (await fetch(url)).text(), /<title>Changes/);

  const [, socketDirectory] = / -h (\S+)/.exec(output);
  assert.ok(existsSync(socketDirectory));
  process.kill(-start.pid, 'SIGINT');
  await ended;
  assert.ok(!existsSync(socketDirectory));
  await assert.rejects(fetch(url));
});

test('the server does not outlive an application that cannot start', { skip }, async () => {
  // Stands in for the sandbox: a server that is not there, and a note when it is ended.
  const sandbox = join(checkout, 'test/sandbox');
  writeFileSync(sandbox, `#!/bin/sh
trap 'kill $!; touch "$0.ended"; exit' TERM
echo PGHOST=/nowhere PGUSER=nobody PSQL=psql
sleep 60 &
wait
`);
  const error = await promisify(execFile)('npm', ['start'], options).catch(error => error);
  assert.match(error.stderr, /nowhere/);
  for (let tries = 0; !existsSync(`${sandbox}.ended`); tries++) {
    assert.ok(tries < 100, 'the sandbox was not ended');
    await sleep(100);
  }
});
