// The texts that all clients of bemi have in common: clients/vectors.json. The file is checked as well, because the other
// clients' tests believe it.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import { addContext, withContext } from 'bemi';
import { stored } from './hostile.js';
import { changes, trackedDatabase, warningsOf } from './setup.js';

const { contexts, large, statements } = JSON.parse(readFileSync(new URL('vectors.json', import.meta.url), 'utf8'));

const DELETE = 'delete from t';
const textOf = context => /^delete from t \/\*Bemi (.*) Bemi\*\/$/.exec(withContext(context, () => addContext(DELETE)))[1];

test('contexts', () => {
  for (const { name, context, text } of contexts) {
    assert.equal(textOf(context), text, name);
    assert.deepEqual(JSON.parse(text), stored(context), name);
    assert.match(text, /^\{[ -$&-.0->@-~]*\}$/, name);
  }
});

test('the largest contexts', async () => {
  for (const { name, piece, times, escaped, sent } of large) {
    let text;
    const warnings = await warningsOf(() => { text = textOf({ big: piece.repeat(times) }); });
    assert.equal(warnings.length, sent ? 0 : 1, name);
    if (sent) assert.ok(text === `{"big":"${escaped.repeat(times)}"}`, name);
    else assert.deepEqual(Object.keys(JSON.parse(text)), ['bemiError'], name);
  }
});

test('statements', () => {
  for (const { sql, result } of statements) assert.equal(withContext({ a: 1 }, () => addContext(sql)), result);
});

test('the server reads each of them', async () => {
  const client = await trackedDatabase('test_vectors');
  for (const [i, { text }] of contexts.entries()) {
    await client.query(`insert into todo (task) values ('vector ${i}') /*Bemi ${text} Bemi*/`);
  }
  const stores = await changes(client);
  assert.equal(stores.length, contexts.length);
  for (const [i, { name, context }] of contexts.entries()) {
    // What clients may send in the keys that bemi writes itself is tested elsewhere.
    for (const key of ['_db', '_whole', '_tags']) for (const object of [context, stores[i].context]) delete object[key];
    assert.deepEqual(stores[i].context, stored(context), name);
  }
});
