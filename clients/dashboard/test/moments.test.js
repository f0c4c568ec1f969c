// A moment in an address must be the same moment tomorrow, to the microsecond, and what the form shows must lead back to it.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exactMoment, isExact, localMoment } from '../src/search/moments.js';

const now = new Date('2026-11-30T12:00:00.250Z');
const zone = 'Europe/Berlin';
const exact = text => exactMoment(text, { now, zone });

for (const [text, expected] of [
  ['2h', '2026-11-30T10:00:00.250000Z'],
  ['now', '2026-11-30T12:00:00.250000Z'],
  ['12:03', '2026-11-30T11:03:00.000000Z'],
  ['2026-11-28', '2026-11-27T23:00:00.000000Z'],
  ['2026-11-28 02:10:05.123456', '2026-11-28T01:10:05.123456Z'],
  ['2026-11-28 02:10:05.5', '2026-11-28T01:10:05.500000Z'],
  ['2026-11-28T02:10:05.000001Z', '2026-11-28T02:10:05.000001Z'],
  ['2026-11-28T02:10:05.999999+01:00', '2026-11-28T01:10:05.999999Z'],
  ['2026-11-28T02:10:05.1234567Z', undefined],
  ['2026-02-30', undefined],
  ["'; DROP TABLE x", undefined],
  ['', undefined],
]) {
  test(`the moment ${JSON.stringify(text)}`, () => assert.equal(exact(text), expected));
}

test('what the form shows is the same moment', () => {
  for (const moment of ['2026-11-28T01:10:05.123456Z', '2026-07-28T01:10:05.000000Z', '2026-07-28T22:10:05.000010Z']) {
    assert.ok(isExact(moment));
    assert.equal(exact(localMoment(moment, zone)), moment);
  }
  assert.equal(localMoment('2026-07-28T01:10:05.000000Z', zone), '2026-07-28 03:10:05');
});
