// The text of a context, without a server: any contents must stay within the comment, contain no
// placeholder, and be unchanged after JSON.parse().

import assert from 'node:assert/strict';
import test from 'node:test';
import { addContext, currentContext, withContext } from 'bemi';
import { hostileStrings, stored } from './hostile.js';
import { warningsOf } from './setup.js';

const INSERT = 'insert into todo (task) values (?)';

const textWith = context => withContext(context, () => addContext(INSERT)).slice(INSERT.length);

test('hostile strings stay within the comment, and come out whole', () => {
  for (const string of hostileStrings(5000)) {
    const context = { [string]: string, list: [string, { string }] };
    const text = textWith(context);
    assert.match(text, /^ \/\*Bemi \{[ -$&-.0->@-~]*\} Bemi\*\/$/, JSON.stringify(string));
    assert.deepEqual(JSON.parse(text.slice(8, -7)), stored(context));
  }
});

test('numbers, null, booleans, dates and nesting are as JSON has them', () => {
  const context = { a: 1.5e300, b: null, c: [true, false], d: new Date(0), e: { f: { g: [] } }, n: NaN, u: undefined };
  assert.deepEqual(withContext(context, currentContext), JSON.parse(JSON.stringify(context)));
});

const cycle = {};
cycle.self = cycle;
let deep = {};
for (let i = 0; i < 100000; i++) deep = { deep };
const nested = depth => JSON.parse('{"a":'.repeat(depth) + '1' + '}'.repeat(depth));

for (const [name, context, message] of [
  ['a cycle', cycle, /circular/],
  ['a BigInt', { id: 1n }, /BigInt/],
  ['a throwing getter', { get id() { throw new Error('no */ id?'); } }, /^no \*\/ id\?$/],
  ['a throwing toJSON', { toJSON() { throw null; } }, /^null$/],
  ['what cannot be turned into a string', { toJSON() { throw Object.create(null); } }, /^unknown error$/],
  ['an array', [1], /not an object/],
  ['a string', 'x', /not an object/],
  ['a number', 0, /not an object/],
  ['a date', new Date(), /not an object/],
  ['a function', () => 1, /not an object/],
  ['a revoked proxy', (r => (r.revoke(), r.proxy))(Proxy.revocable({}, {})), /revoked/],
  ['100000 levels', deep, /stack/],
  ['501 levels', nested(501), /nested more than 500/],
  ['10001 keys', { a: Array(10000).fill(0) }, /more than 10000 keys/],
  ['more than 1 MB', { big: 'x'.repeat(1024 * 1024) }, /1048586 bytes long/],
  ['more than 1 MB once escaped', { big: '/'.repeat(200 * 1024) }, /1228810 bytes long/],
]) {
  test(`${name} becomes bemiError and one warning`, async () => {
    const texts = [];
    const warnings = await warningsOf(() =>
      withContext(context, () => { for (let i = 0; i < 3; i++) texts.push(addContext(INSERT)); }),
    );
    const { bemiError, ...rest } = JSON.parse(/^ \/\*Bemi ([ -$&-.0->@-~]*) Bemi\*\/$/.exec(texts[0].slice(INSERT.length))[1]);
    assert.match(bemiError, message);
    assert.deepEqual(rest, {});
    assert.equal(texts[2], texts[0]);
    assert.equal(warnings.length, 1);
  });
}

test('500 levels and just below 1 MB are fine', async () => {
  assert.deepEqual(await warningsOf(() => {
    assert.match(textWith(nested(500)), /"a":1/);
    assert.equal(textWith({ big: 'x'.repeat(1024 * 1024 - 10) }).length, 1024 * 1024 + 15);
  }), []);
});

test('no context, no comment', () => {
  assert.equal(addContext(INSERT), INSERT);
  for (const none of [null, undefined]) assert.equal(withContext(none, () => addContext(INSERT)), INSERT);
});

const commented = sql => withContext({ a: 1 }, () => addContext(sql)) !== sql;

test('queries that change rows get a comment', () => {
  for (const sql of [
    'insert into t values (1)',
    'INSERT INTO t VALUES (1);',
    '\n\t update t set a = 1',
    'Delete from t',
    'merge into t using s on true when matched then delete',
    'truncate t',
    '-- why\nupdate t set a = 1',
    '/* why */ /* and -- how */ update t set a = 1',
    '/* a /* b */ c */ insert into t values (1)',
    '-- a\rdelete from t',
    'with d as (delete from t returning *) select * from d',
    'WITH d AS (SELECT 1) INSERT INTO t SELECT * FROM d',
    '(with d as (update t set a = 1 returning a) select a from d)',
  ]) {
    assert.ok(commented(sql), sql);
  }
});

test('others do not', () => {
  for (const sql of [
    'select 1',
    "select 'insert into t'",
    'with x as (select 1) select * from x',
    'begin',
    'commit',
    'savepoint insert_1',
    'create table insert_t (a int)',
    'insertion',
    '-- insert',
    '/* insert',
    '/* /* */ insert into t values (1)',
    '',
    '   ',
  ]) {
    assert.ok(!commented(sql), sql);
  }
  assert.equal(withContext({ a: 1 }, () => addContext(undefined)), undefined);
});

test('a query that ends in a line comment does not swallow the context', () => {
  assert.equal(
    withContext({ a: 1 }, () => addContext('update t set a = 1 -- why')),
    'update t set a = 1 -- why\n/*Bemi {"a":1} Bemi*/',
  );
});

test('a long query of blanks, brackets and comments is looked at in linear time', () => {
  const begin = performance.now();
  for (const piece of [' ', '(', '/**/', '--\n', '/*', '/* */ select ']) commented(piece.repeat(200000));
  assert.ok(performance.now() - begin < 5000);
});
