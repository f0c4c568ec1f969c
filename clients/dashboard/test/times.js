// Times of pages at the server, for bench/dashboard, with the history that bench/history.sh has made.
//
//     node times.js ROWS TIMES
//
// Prints a line for each page that was asked for: the question, its target, the round, and milliseconds. Each question has its own
// numbers, so that another row, user or request is asked for each time.

import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { Database } from '../src/database.js';
import { forgetFacts } from '../src/queries/facts.js';
import { openDashboard } from './shop.js';

const [rows, times] = process.argv.slice(2).map(Number);
const INDEXED = '<= 200';

const client = new pg.Client();
await client.connect();
const database = new Database({});
const dashboard = await openDashboard(database);
const entered = await fetch(dashboard.enter(), { redirect: 'manual' });
const headers = { cookie: entered.headers.get('set-cookie').split(';')[0] };

// Every tenth row has all its changes in table todo.
const row = n => n * 104_730 % rows + 1;
const first = async (text, values) => Object.values((await client.query(text, values)).rows[0])[0];
const query = parameters => `?${new URLSearchParams(parameters)}`;
const search = q => () => `/changes${query({ q })}`;

// A change of the n-th row, in the middle of its history.
const changeOf = async n => first("SELECT id FROM bemi.history('todo', $1) WHERE operation <> 'TRUNCATE' ORDER BY id OFFSET 3 LIMIT 1", [String(row(n))]);
const requestOf = async n => first("SELECT coalesce(context ->> 'requestId', 'none') FROM bemi.history('todo', $1) ORDER BY id OFFSET 4 LIMIT 1", [String(row(n))]);
const day = n => new Date(Date.now() - (10 + n * 7 % 180) * 86_400_000).toISOString().slice(0, 10);
const at = await first(`SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') FROM instant`);

// [question, target, address(n)]: the address of each call is made before the clock runs.
const questions = [
  ['changes: the first page', INDEXED, () => '/changes'],
  ['the same, and tables and keys are read again', INDEXED, () => (forgetFacts(database), '/changes')],
  ['a later page', INDEXED, async n => `/changes${query({ before: await changeOf(n) })}`],
  ['table:todo, with most changes', INDEXED, search('table:todo')],
  ['table:invoice, with a tenth', INDEXED, search('table:invoice')],
  ['table:plan, with one in a million', INDEXED, search('table:plan')],
  ['table:archive, with old ones only', INDEXED, search('table:archive')],
  ['table:todo key:N', INDEXED, n => `/changes${query({ q: `table:todo key:${row(n)}` })}`],
  ['user:N, text or number', INDEXED, n => `/changes${query({ q: `user:${n % 97}` })}`],
  ['user:"N"', INDEXED, n => `/changes${query({ q: `user:"${n % 97}"` })}`],
  ['user:old, frequent but not recent', INDEXED, search('user:old')],
  ['table:todo user:N', INDEXED, n => `/changes${query({ q: `table:todo user:${n % 97}` })}`],
  ['requestId:UUID', INDEXED, async n => `/changes${query({ q: `requestId:${await requestOf(n)}` })}`],
  ['requestId:UUID, which is not there', INDEXED, () => `/changes${query({ q: `requestId:${randomUUID()}` })}`],
  ['op:delete', INDEXED, search('op:delete')],
  ['table:todo op:delete', INDEXED, search('table:todo op:delete')],
  ['op:update,delete', INDEXED, search('op:update,delete')],
  ['table:todo column:done', INDEXED, search('table:todo column:done')],
  ['table:todo column:price, which rarely changes', INDEXED, search('table:todo column:price')],
  ['since:1h', INDEXED, search('since:1h')],
  ['a day', INDEXED, n => `/changes${query({ q: `since:${day(n)} until:${day(n)}` })}`],
  ['table:invoice of a day', INDEXED, n => `/changes${query({ q: `table:invoice since:${day(n)} until:${day(n)}` })}`],
  ['source:main', INDEXED, search('source:main')],
  ['-user:N, of the newest 10 000', '', n => `/changes${query({ q: `-user:${n % 97}` })}`],
  ['endpoint:/api*, of the newest 10 000', '', search('endpoint:/api*')],
  ['user:N user:M, of the newest 10 000', '', n => `/changes${query({ q: `user:${n % 97} user:${(n + 1) % 97}` })}`],
  ['changes, with one at the side', INDEXED, async n => `/changes${query({ change: await changeOf(n) })}`],
  ['a change', INDEXED, async n => `/change/${await changeOf(n)}`],
  ['a row', INDEXED, n => `/row/public/todo/${row(n)}`],
  ['a request', INDEXED, async n => `/request/${await changeOf(n)}`],
  ['a transaction', INDEXED, async n => `/request/${await changeOf(n)}?of=transaction`],
  ['requests', INDEXED, () => '/requests'],
  ['requests with user:N', INDEXED, n => `/requests${query({ q: `user:${n % 97}` })}`],
  ['rows', INDEXED, () => '/rows'],
  ['time travel: a table at a moment', '', () => `/past${query({ table: 'public.todo', at })}`],
  ['the same, what is different now', '', () => `/past${query({ table: 'public.todo', at, compare: 'now' })}`],
  ['a plan to take a change back', '', async n => `/revert${query({ change: await changeOf(n) })}`],
  ['export of all: the first byte', INDEXED, () => '/export/changes.csv'],
  ['export of user:N: the first byte', INDEXED, n => `/export/changes.jsonl${query({ q: `user:${n % 97}` })}`],
  ['completions', INDEXED, () => `/completions${query({ text: 'table:to', at: 8 })}`],
  ['tables', INDEXED, () => '/tables'],
  ['sources', INDEXED, () => '/sources'],
  ['a source', INDEXED, () => '/sources/named/main'],
];

// Until the last byte, or until the first one of an export, which is then cancelled.
async function timeOf(address) {
  const controller = new AbortController();
  const begin = performance.now();
  const response = await fetch(`${dashboard.url}${address}`, { headers, signal: controller.signal, redirect: 'manual' });
  if (response.status !== 200) throw new Error(`${address}: ${response.status} ${(await response.text()).replace(/<[^>]+>|\s+/g, ' ').slice(0, 300)}`);
  if (!address.startsWith('/export/')) await response.text();
  else await response.body.getReader().read();
  const time = performance.now() - begin;
  controller.abort();
  return time;
}

for (const [question, target, addressOf] of questions) {
  for (const round of [1, 2]) {
    const begin = Date.now();
    for (let n = 0; n <= times; n++) {
      const address = await addressOf(n);
      try {
        const time = await timeOf(address);
        // The first call opens what the connection has not seen yet.
        if (n > 0 || round === 1) console.log([question, target, round, time.toFixed(3)].join('\t'));
      } catch (error) {
        console.error(`# ${question}: ${error.message}`);
        break;
      }
      if (n > 0 && Date.now() - begin > 10_000) break;
    }
  }
}
await dashboard.close();
await Promise.all([database.end(), client.end()]);
