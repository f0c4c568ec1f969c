// The text of the search box is the address of what is shown. So every text must have terms, and terms must come
// back from the text that is made of them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { format, parse } from '../src/search/grammar.js';

const plain = terms => terms.map(({ qualifier, value, exclude, quoted }) => [exclude ? '-' : '', qualifier, quoted ? '=' : ':', value].join(''));

for (const [text, expected] of [
  ['', []],
  ['  \t\n ', []],
  ['table:order key:42', ['table:order', 'key:42']],
  ['-op:delete', ['-op:delete']],
  ['42', ['key:42']],
  ['/cart/checkout', ['endpoint:/cart/checkout']],
  ['user:"7"', ['user=7']],
  ['note:"a b \\"c\\" \\\\"', ['note=a b "c" \\']],
  ['"request id":9f1c', ['request id:9f1c']],
  ['endpoint:https://example.org/a:b', ['endpoint:https://example.org/a:b']],
  ['context.table:x', ['context.table:x']],
  ['table:', []],
  ['-', ['key:-']],
  ['"open', ['key=open']],
  ['Käufer:Jürgen', ['Käufer:Jürgen']],
  ['a\0b', ['key:a', 'key:b']],
  ['\ud800x', ['key:\ufffdx']],
]) {
  test(`the terms of ${JSON.stringify(text)}`, () => assert.deepEqual(plain(parse(text)), expected));
}

test('a text that is longer than a search can be is cut', () => {
  assert.equal(parse('x'.repeat(100_000))[0].value.length, 2000);
});

test('terms come back from the text that is made of them', () => {
  const seed = Number(process.env.SEED ?? Date.now() % 1e9);
  let state = seed;
  const below = n => { state = (state * 1103515245 + 12345) % 2147483648; return state % n; };
  const alphabet = ['a', 'Z', '7', ':', '"', '\\', '-', ' ', '/', '.', '*', "'", '%', '_', 'ü', '😀', '\n', '$', '\ud800', '\0', 'table:', 'since:2h', 'op:'];
  for (let i = 0; i < 5000; i++) {
    const text = Array.from({ length: below(20) }, () => alphabet[below(alphabet.length)]).join('');
    const terms = parse(text);
    assert.deepEqual(parse(format(terms)), terms, `seed ${seed}: ${JSON.stringify(text)} -> ${JSON.stringify(format(terms))}`);
  }
});
