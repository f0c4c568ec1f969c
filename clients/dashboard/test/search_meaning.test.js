// What terms mean depends on the history: which tables and keys there are. A term that means nothing must be a problem, and never
// be left out in silence.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { complete } from '../src/search/completion.js';
import { parse } from '../src/search/grammar.js';
import { exactContext, meaningOf } from '../src/search/meaning.js';
import { searchText } from '../src/search/statement.js';
import { parseTime } from '../src/search/times.js';

const facts = {
  tables: [{ schema: 'public', name: 'order', columns: [] }, { schema: 'a', name: 'twice', columns: [] }, { schema: 'b', name: 'twice', columns: [] }],
  sources: [{ name: 'main' }],
  contextKeys: new Map([['userId', { kinds: new Set(['number']) }], ['tenant', { kinds: new Set(['number', 'string']) }]]),
};
const now = new Date('2026-11-30T12:00:00Z');
const meaning = (text, more = {}) => meaningOf(parse(text), { ...facts, ...more }, { now, zone: 'Europe/Berlin' });

test('a known table is an argument, an unknown or doubtful one a condition', () => {
  assert.equal(meaning('table:order').table.name, 'order');
  assert.equal(meaning('table:public.order').table.name, 'order');
  assert.equal(meaning('table:twice').table, undefined);
  assert.deepEqual(meaning('table:gone').conditions, [{ kind: 'table', values: ['gone'], exclude: false }]);
});

test('"user" is the key that this history has for users', () => {
  assert.deepEqual([...meaning('user:ann').context], [['userId', '"ann"']]);
  assert.deepEqual([...meaning('user:"7"').context], [['userId', '"7"']]);
});

test('a value that may be a number or a text is compared as text', () => {
  for (const key of ['userId', 'tenant', 'unknown']) {
    assert.deepEqual([...meaning(`${key}:7`).texts], [[key, '7']]);
    assert.deepEqual([...meaning(`${key}:true`).texts], [[key, 'true']]);
    assert.equal(meaning(`${key}:7`).context.size, 0);
  }
  assert.match(searchText(meaning('userId:7')), /context_is => '\{"userId":"7"\}'/);
});

test('a context that must be exact has the type that the newest values have, if that is one', () => {
  assert.deepEqual([...exactContext(meaning('user:7 deploy:v42'), facts)], [['deploy', '"v42"'], ['userId', '7']]);
  assert.equal(exactContext(meaning('tenant:7'), facts), undefined);
});

test('values of one qualifier are alternatives', () => {
  assert.deepEqual(meaning('op:add op:delete').operations, ['CREATE', 'DELETE']);
  assert.deepEqual(meaning('op:update,delete,updated').operations, ['UPDATE', 'DELETE']);
  assert.deepEqual(meaning('-op:update,delete').conditions, [{ kind: 'operation', values: ['UPDATE', 'DELETE'], exclude: true }]);
  assert.match(searchText(meaning('op:update,delete')), /operation => 'UPDATE, DELETE'/);
});

test('what means nothing is a problem', () => {
  for (const text of ['op:paint', 'op:update,paint', 'op:toString', '-op:paint', 'since:soon', 'until:2026-02-30', 'since:24:00', 'since:1h until:2h', '-since:1h', 'since:9999999999w']) {
    assert.equal(meaning(text).problems.length, 1, text);
  }
});

// A key of a context may have any name. One that JavaScript knows from somewhere else was left out: the search then found everything.
test('a key that is called like something of JavaScript is a key like any other', () => {
  for (const key of ['constructor', '__proto__', 'toString', 'valueOf', 'hasOwnProperty']) {
    assert.deepEqual([...meaning(`${key}:x`).context], [[key, '"x"']], key);
    assert.deepEqual([...meaning(`${key}:7`).texts], [[key, '7']], key);
    assert.deepEqual(meaning(`-${key}:x`).conditions, [{ kind: 'context', key, values: ['x'], exclude: true }], key);
    assert.match(searchText(meaning(`${key}:7`)), new RegExp(`context_is => '\\{"${key}":"7"\\}'`));
    assert.deepEqual(complete(`${key}:`, key.length + 1, facts).items, [], key);
  }
});

test('times', () => {
  const time = (text, edge) => parseTime(text, { edge, now, zone: 'Europe/Berlin' })?.instant.toISOString();
  assert.equal(time('2h', 'since'), '2026-11-30T10:00:00.000Z');
  assert.equal(time('today', 'since'), '2026-11-29T23:00:00.000Z');
  assert.equal(time('yesterday', 'until'), '2026-11-29T23:00:00.000Z');
  assert.equal(time('2026-11-28', 'since'), '2026-11-27T23:00:00.000Z');
  assert.equal(time('2026-11-28', 'until'), '2026-11-28T23:00:00.000Z');
  assert.equal(time('2026-07-28T02:10', 'since'), '2026-07-28T00:10:00.000Z');
  assert.equal(time('2026-11-28T02:10:05.5Z', 'since'), '2026-11-28T02:10:05.500Z');
  assert.equal(time('02:10', 'since'), '2026-11-30T01:10:00.000Z');
  assert.equal(time('0001-01-01', 'since'), undefined);
});

test('the statement for people has the values as literals', () => {
  assert.match(searchText(meaning("table:order note:\"it's\" since:2h")), /context => '\{"note": "it''s"\}', from_time => now\(\) - interval '2 hours'/);
});
