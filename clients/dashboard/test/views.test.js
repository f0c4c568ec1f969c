// Views whose rules are worth a test without a browser: how a change reads as a line and as a sentence, and where the
// history may have a hole.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { missingIndex } from '../src/pages/changes.js';
import { keyParts } from '../src/queries/values.js';
import { newFormat } from '../src/views/format.js';
import { html, render } from '../src/views/html.js';
import { sentence } from '../src/views/sentence.js';
import { lineOf, Trust } from '../src/views/trust.js';
import { OldAndNew } from '../src/views/value.js';
import { where, who } from '../src/views/who.js';
import { wording } from '../src/wording.js';

const pageIn = language => {
  const t = wording(language);
  return { t, format: newFormat(t, 'UTC') };
};
const page = pageIn('en');
const text = markup => render(markup).replace(/<[^>]*>/g, '').replaceAll('&quot;', '"');
const string = value => ({ kind: 'string', text: value, hidden: 0 });
const object = value => ({ kind: 'object', text: value, hidden: 0 });
const none = { kind: 'null', text: '', hidden: 0 };

const line = (old, now, operation = 'UPDATE') => text(html`<${OldAndNew} page=${page} field=${{ name: 'x', old, new: now }} operation=${operation} />`);

test('a line shows both values, or the one that there is', () => {
  assert.equal(line(string('open'), string('paid')), 'open →  became paid');
  assert.equal(line(none, string('card'), 'CREATE'), 'card');
  assert.equal(line(string('card'), none, 'DELETE'), 'card');
  assert.equal(line(string(''), none), '"" →  became ∅');
});

test('of long values, a line shows what differs', () => {
  const long = word => string(`A sentence that is much too long for a line of the page, made by ${word} in a workshop.`);
  assert.equal(line(long('hand'), long('machine')), '…  hand →  became machine');
  const size = height => object(`{\n    "size": {\n        "width": 10,\n        "height": ${height}\n    }\n}`);
  assert.equal(line(size(48), size('50.00')), '… height 48 →  became 50.00');
  assert.equal(line(size(48), object('{}')), '…');
  assert.equal(line({ ...long('hand'), hidden: 10_000 }, long('machine')), '…');
});

test('a value is never markup', () => {
  assert.doesNotMatch(render(html`<${OldAndNew} page=${page} field=${{ old: string('<b>'), new: string('"><script>') }} operation="UPDATE" />`), /<b>|<script>/);
});

const change = (more = {}) => ({
  operation: 'UPDATE', table: 'order', key: ['42'], context: { userId: '7', method: 'POST', endpoint: '/cart' }, committedAt: new Date('2026-01-02T03:04:05Z'),
  changed: [{ name: 'price', old: string('10'), new: string('12.50') }], ...more,
});

test('a change is a sentence, in each language', () => {
  assert.match(sentence(page, change()), /^User 7 set price from 10 to 12.50 in POST \/cart, /);
  assert.match(sentence(pageIn('de'), change()), /^Benutzer 7 hat price von 10 auf 12.50 gesetzt in POST \/cart, /);
  assert.match(sentence(page, change({ operation: 'DELETE', context: {} })), /^Somebody removed order 42, /);
  const many = ['a', 'b', 'c', 'd', 'e'].map(name => ({ name, old: none, new: none }));
  assert.match(sentence(page, change({ changed: many })), /changed a, b, c,? and 2 more in/);
});

test('who and where come from the keys that applications use', () => {
  assert.equal(who(page, { user: 'ada@example.org' }), 'ada@example.org');
  assert.equal(who(page, { job: 'nightly', run: '7' }), 'Job nightly');
  assert.equal(where(page, { job: 'nightly', run: '7' }), 'run 7');
  assert.equal(who(page, { _db: '{"application_name": "psql", "session_user": "admin"}' }), 'No context');
  assert.equal(where(page, { _db: '{"application_name": "psql", "session_user": "admin"}' }), 'psql · role admin');
  assert.equal(who(page, { tenant: '3' }), 'Nobody named');
});

test('keys of several columns', () => {
  assert.deepEqual(keyParts('["7", "b"]'), ['7', 'b']);
  assert.deepEqual(keyParts('["'), ['["']);
  assert.deepEqual(keyParts(null), []);
});

test('trust names the gaps, and a source that is not read', () => {
  const state = { name: 'main', state: 'streaming', storedUntil: new Date('2026-01-03T00:00:00Z') };
  const gap = { reason: 'slot_dropped', from: new Date('2026-01-02T02:10:00Z'), to: new Date('2026-01-02T02:14:00Z'), detail: 'Why.' };
  const trust = (states, gaps) => text(html`<${Trust} page=${page} states=${states} gaps=${gaps} />`);
  assert.match(trust([state], []), /History up to/);
  assert.match(trust([state], [gap]), /History up to .*, except\s*Gap .*02:10–02:14: the slot was dropped\s*Why\./);
  assert.match(trust([state], [{ ...gap, to: undefined }]), /Gap since/);
  assert.match(trust([{ ...state, state: 'failed', lastError: 'no route' }], []), /no route/);
  assert.match(trust([], []), /No source is read/);
  const failed = { ...state, state: 'failed', lastError: 'no route', lag: 40 };
  const until = page.format.moment(state.storedUntil);
  assert.deepEqual(lineOf(page, { ...failed, state: 'streaming' }), { until: `${until}, 40 ms behind`, problem: '' });
  assert.deepEqual(lineOf(page, failed), { until, problem: 'no route' });
  assert.doesNotMatch(lineOf({ ...page, link: {} }, failed).problem, /no route/);
});

test('an index is offered for a key that is searched for and has none', () => {
  const facts = { indexedKeys: new Set(['userId']) };
  assert.equal(missingIndex({ context: new Map([['userId', '7'], ['tenant', '3']]), texts: new Map(), conditions: [] }, facts), 'tenant');
  assert.equal(missingIndex({ context: new Map(), texts: new Map(), conditions: [{ kind: 'context', key: 'tenant', values: ['3'] }] }, facts), 'tenant');
  assert.equal(missingIndex({ context: new Map([['userId', '7']]), texts: new Map(), conditions: [] }, facts), undefined);
});
