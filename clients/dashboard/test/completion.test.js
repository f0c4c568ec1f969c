// What a completion writes into the box must be found by the search: it is the text of a term, whatever characters the
// name or the value has.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { complete } from '../src/search/completion.js';
import { parse, termAt } from '../src/search/grammar.js';

const facts = {
  tables: [{ schema: 'public', name: 'order', columns: ['id', 'total'] }, { schema: 'public', name: 'order_line', columns: ['id', 'net'] },
    { schema: 'a', name: 'twice', columns: [] }, { schema: 'b', name: 'twice', columns: [] }],
  sources: [{ name: 'main' }],
  contextKeys: new Map([
    ['userId', { values: ['7', '10', 'Ann "the" Boss'] }], ['endpoint', { values: ['/cart', '/cart*', 'x'.repeat(60)] }], ['table', { values: ['42'] }],
    ['request id', { values: ['a b'] }], ['_db', { values: ['x'] }]]),
};
const shown = (text, at = text.length) => complete(text, at, facts).items.map(item => item.shown);

for (const [text, expected] of [
  ['tab', ['table:', 'context.table:']],
  ['table:', ['table:order', 'table:order_line', 'table:a.twice', 'table:b.twice']],
  ['table:LINE', ['table:order_line']],
  ['-table:"order_', ['table:order_line']],
  ['op:up', ['op:update']],
  ['op:update,de', ['op:update,delete']],
  ['column:', ['column:id', 'column:total', 'column:net']],
  ['table:order column:', ['column:id', 'column:total']],
  ['since:t', ['since:today', 'since:yesterday']],
  ['user:', ['user:7', 'user:10', 'user:"Ann \\"the\\" Boss"']],
  ['userId:1', ['userId:10']],
  ['endpoint:', ['endpoint:/cart', 'endpoint:"/cart*"']],
  ['context.table:', ['context.table:42']],
  ['"request id":', ['"request id":"a b"']],
  ['key:', []],
  ['nothing', []],
  ['source:', ['source:main']],
  ['op:toString', []],
  ['tot', ['column:total']],
  ['Ann', ['userId:"Ann \\"the\\" Boss"']],
]) {
  test(`what ${text} can become`, () => assert.deepEqual(shown(text), expected));
}

test('without a word, all qualifiers are offered that are useful here', () => {
  assert.deepEqual(shown(''), ['table:', 'key:', 'op:', 'column:', 'since:', 'until:', 'user:', 'userId:', 'endpoint:', 'context.table:']);
  assert.ok(!shown('source').includes('source:'));
  assert.deepEqual(shown('_'), []);
});

test('the word at the cursor is completed, and the others stay', () => {
  const { from, to, items } = complete('op:up table:or user:7', 14, facts);
  assert.deepEqual([from, to, items[0].text], [6, 14, 'table:order ']);
  assert.deepEqual(complete('  ', 1, facts).from, 1);
  assert.deepEqual(termAt('a  b', 2), { from: 2, to: 2, word: '' });
  assert.deepEqual(termAt('"a b" c', 3), { from: 0, to: 5, word: '"a ' });
  for (const at of [-1, 1e9, NaN, Infinity]) assert.ok(complete('table:o', at, facts).from <= 7);
});

test('what is offered is one term with that value', () => {
  for (const qualifier of ['user', 'endpoint', 'context.table', '"request id"', 'table', 'column', 'op']) {
    for (const { text } of complete(`-${qualifier}:`, 100, facts).items) {
      const [term, ...more] = parse(text);
      assert.deepEqual(more, [], text);
      assert.equal(term.exclude, true);
    }
  }
});
