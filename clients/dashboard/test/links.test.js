// A link for a customer is worth what its signature is worth.

import assert from 'node:assert/strict';
import { randomBytes, randomUUID } from 'node:crypto';
import { test } from 'node:test';
import { readLink, signLink } from '../src/access/links.js';
import { ownPath } from '../src/pages/login.js';
import { fromConnectionString, toConnectionString } from '../src/connection_string.js';
import { limitMeaning } from '../src/search/limit.js';

const key = randomBytes(32);
const hour = 3_600_000;
const id = randomUUID();
const link = (more = {}) => signLink({ id, context: [['userId', '7']], until: new Date(Date.now() + hour), name: 'Ada', ...more }, key);

test('a link is read with its key, until its end', () => {
  assert.deepEqual(readLink(link(), key).context, [['userId', '7']]);
  assert.equal(readLink(link(), key).id, id);
  assert.equal(readLink(link({ id: undefined }), key), undefined);
  assert.equal(readLink(link(), randomBytes(32)), undefined);
  assert.equal(readLink(link(), key, Date.now() + 2 * hour), undefined);
});

test('no character of a link can be changed', () => {
  const text = link();
  for (let i = 0; i < text.length - 1; i++) {
    const other = text[i] === 'A' ? 'B' : 'A';
    assert.equal(readLink(text.slice(0, i) + other + text.slice(i + 1), key), undefined, `character ${i}`);
  }
  for (const bad of ['', '.', text.split('.')[0], `${text}.x`, `${text}A`, 'x.y', undefined, null]) assert.equal(readLink(bad, key), undefined);
});

test('a link without a context is not made, and not taken', () => {
  assert.throws(() => link({ context: [] }), TypeError);
});

test('a search can only narrow a link', () => {
  const limit = { context: [['userId', '7']] };
  const limited = context => limitMeaning({ context: new Map(context), conditions: [] }, limit);
  assert.deepEqual([...limited([]).context], [['userId', '7']]);
  assert.deepEqual(limited([['userId', '7']]).conditions, []);
  const other = limited([['userId', '8']]);
  assert.deepEqual([...other.context], [['userId', '7']]);
  assert.deepEqual(other.conditions, [{ kind: 'context', key: 'userId', values: ['8'], exclude: false }]);
});

test('after a login, only paths of the dashboard are opened', () => {
  for (const bad of ['https://evil.example/', '//evil.example', '/\\evil.example', '\\\\evil.example', 'javascript:alert(1)', 'http://[', '/\t/evil.example',
    '/.//evil.example/', '/a/..//evil.example', '/.\\/evil.example', '/%2e//evil.example', 'http://dashboard.invalid//evil.example/', 'http://dashboard.invalid////evil.example']) {
    assert.equal(new URL(ownPath(bad), 'https://history.example').origin, 'https://history.example', bad);
    assert.match(ownPath(bad), /^\/(?![/\\])/, bad);
  }
  assert.equal(ownPath('/changes?q=table:order'), '/changes?q=table:order');
});

test('a connection string is read as it was written, and no password is read', () => {
  const parameters = { host: 'db.example', port: '5433', database: "Bob's \\ shop", user: 'a b', sslmode: 'require', passfile: '/etc/my pass' };
  assert.deepEqual(fromConnectionString(toConnectionString(parameters)), parameters);
  assert.deepEqual(fromConnectionString("password='se cret' host = x"), { host: 'x' });
});
