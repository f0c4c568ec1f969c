// A choice decides what is overwritten, and comes from an address or a form, so what means nothing must be no choice. Every choice that the
// page offers must come back from its own address.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { areTooMany, choiceName, choicesOfForm, choicesOfText, jsonOfChoices, newChoices, textOfChoices } from '../src/queries/choices.js';

const list = [
  { table: 'public."a b"', key: '["1", "\\"x"]', column: 'ü:"', choice: 'keep' },
  { table: 'public.order', key: '86', column: undefined, choice: 'restore' },
];

test('choices come back from the address and from the form', () => {
  const choices = newChoices(list);
  assert.deepEqual(choicesOfText(textOfChoices(choices)), choices);
  assert.deepEqual(choicesOfForm(Object.fromEntries(list.map(one => [choiceName(one), one.choice]))), choices);
  assert.equal(jsonOfChoices(choices).includes('"column":null'), false);
  assert.equal(textOfChoices(newChoices([])), undefined);
});

test('what means nothing is no choice', () => {
  for (const text of ['', 'x', 'null', '{}', '[1]', '[["a"]]', '[["t","1","c","destroy"]]', '[["t",1,"c","keep"]]', '[["t","1",2,"keep"]]']) assert.equal(choicesOfText(text).size, 0, text);
  for (const name of ['choice:', 'choice:x', 'choice:{}', 'choice:5', 'choice:["t"]', 'other']) assert.equal(choicesOfForm({ [name]: 'keep' }).size, 0, name);
  assert.equal(choicesOfForm({ [choiceName(list[0])]: ['keep', 'restore'] }).size, 0);
});

test('an address has room for a hundred choices of short keys, and for no thousand', () => {
  const some = count => newChoices(Array.from({ length: count }, (_, i) => ({ table: 'public.a', key: String(i), column: 'b', choice: 'keep' })));
  assert.equal(areTooMany(some(100)), false);
  assert.equal(areTooMany(some(1000)), true);
});
