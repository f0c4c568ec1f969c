// The walk with Express and Prisma: the example, its SQL, its requests and its rows are those of the page.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import test, { before } from 'node:test';
import { atEnd, changes, connect, onServer, server } from './setup.js';

const DATABASE = 'test_example';

const page = readFileSync(new URL('express-prisma.md', import.meta.url), 'utf8');
const example = name => readFileSync(new URL(`../example/${name}`, import.meta.url), 'utf8');
const all = [...page.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language, text]) => ({ language, text }));
const blocks = language => all.filter(block => block.language === language).map(({ text }) => text);

let client;
let url;

before(async () => {
  await onServer(`DROP DATABASE IF EXISTS ${DATABASE} WITH (FORCE)`, `CREATE DATABASE ${DATABASE}`);
  atEnd(() => onServer(`DROP DATABASE ${DATABASE} WITH (FORCE)`));
  client = await connect(DATABASE);
  atEnd(() => client.end());
  for (const statement of example('todo.sql').split(';')) await client.query(statement);
  await client.query("SELECT setval('todo_id_seq', 25)");
  const { host, user } = server(DATABASE);
  process.env.DATABASE_URL = `postgres://${user}@localhost/${DATABASE}?host=${encodeURIComponent(host)}`;
  const { app, prisma } = await import('../example/app.js');
  atEnd(() => prisma.$disconnect());
  const listener = app.listen(0, '127.0.0.1');
  await once(listener, 'listening');
  atEnd(() => { listener.closeAllConnections(); listener.close(); });
  url = `http://127.0.0.1:${listener.address().port}`;
});

test('the page shows the code of the example', () => {
  assert.equal(blocks('sql')[0], example('todo.sql'));
  for (const code of blocks('js').slice(0, 2)) assert.ok(example('app.js').includes(code), code);
});

// The columns of a table that psql has printed.
const printed = table => table.trim().split('\n').slice(2, -1).map(line => line.split('|').map(cell => cell.trim()));

test("the page's five requests make the page's five rows", async () => {
  const [, requests] = blocks('sh').filter(text => text.includes('npm start') || text.includes('curl')).map(text => text.split('\n'));
  for (const line of requests.filter(line => line.startsWith('curl'))) {
    const [, method = 'POST'] = / -X (\w+)/.exec(line) ?? [];
    const [, path, body] = /localhost:3000(\S+) -d '(.*)'$/.exec(line);
    const answer = await fetch(url + path, { method, headers: { 'Content-Type': 'application/json' }, body });
    assert.ok(answer.ok, `${line}: ${await answer.text()}`);
  }
  const [images, contexts] = blocks('').at(-1).split('\n\n').map(printed);
  const rows = (await changes(client)).map(({ operation, before, after, context }) => [operation, before, after, context]);
  const expected = images.map(([, operation, before, after], i) => [operation, ...[before, after, contexts[i].at(-1)].map(JSON.parse)]);
  assert.equal(expected.length, 5);
  assert.deepEqual(rows, expected);
});

test('a user of another request is in no other row', async () => {
  await Promise.all(Array.from({ length: 20 }, (_, i) => fetch(`${url}/todo`, {
    method: 'POST', headers: { 'Content-Type': 'application/json', 'X-User': String(i) }, body: JSON.stringify({ task: `of ${i}` }),
  }).then(answer => answer.text())));
  const rows = await changes(client, "after ->> 'task' LIKE 'of %'");
  assert.equal(rows.length, 20);
  for (const { after, context } of rows) assert.equal(after.task, `of ${context.userId}`);
});
