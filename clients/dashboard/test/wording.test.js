// Every text that a user sees is in the files of wording/. A key that one language lacks, or that no file of the
// source uses, is found here and not by a user.

import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { test } from 'node:test';
import { languages, wording } from '../src/wording.js';

const src = new URL('../src/', import.meta.url);
const texts = language => JSON.parse(readFileSync(new URL(`wording/${language}.json`, src), 'utf8'));
const sources = readdirSync(src, { recursive: true }).filter(name => name.endsWith('.js')).map(name => readFileSync(new URL(name, src), 'utf8')).join('\n');

// Keys that are made of a code: `operation.${line.operation}`.
const MADE = [...sources.matchAll(/`([\w.]+\.)\$\{/g)].map(([, prefix]) => prefix);

for (const language of languages.filter(name => name !== 'en')) {
  test(`${language} has the keys of en, with the same placeholders`, () => {
    const [en, other] = [texts('en'), texts(language)];
    assert.deepEqual(Object.keys(other), Object.keys(en));
    const placeholders = text => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
    for (const key of Object.keys(en)) assert.deepEqual(placeholders(other[key]), placeholders(en[key]), key);
  });
}

test('every text is used', () => {
  const isUsed = key => {
    const base = key.replace(/\.(one|other|but)$/, '');
    return sources.includes(`'${key}'`) || sources.includes(`'${base}'`) || MADE.some(prefix => key.startsWith(prefix));
  };
  assert.deepEqual(Object.keys(texts('en')).filter(key => !isUsed(key)), []);
});

test('every key in the source has a text', () => {
  const used = [...sources.matchAll(/\bt\('([^']+)'/g)].map(([, key]) => key);
  assert.deepEqual(used.filter(key => !(key in texts('en')) && !(`${key}.other` in texts('en'))), []);
});

test('plurals, and values that look like placeholders', () => {
  const t = wording('en');
  assert.equal(t('changes.found', { count: 1, number: '1' }), '1 change');
  assert.equal(t('changes.found', { count: 2, number: '2' }), '2 changes');
  assert.equal(t('who.user', { user: '{user}$&' }), 'User {user}$&');
});

test('a new file is a new language', async () => {
  const copy = mkdtempSync(join(tmpdir(), 'wording.'));
  try {
    cpSync(src, copy, { recursive: true });
    writeFileSync(join(copy, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(copy, 'wording', 'fr.json'), JSON.stringify({ ...texts('en'), 'changes.title': 'Changements' }));
    const { languages: known, preferredLanguage, wording: wordingOf } = await import(pathToFileURL(join(copy, 'wording.js')));
    assert.deepEqual(known, ['de', 'en', 'fr']);
    assert.equal(preferredLanguage('fr-CH, en;q=0.5'), 'fr');
    assert.equal(wordingOf('fr')('changes.title'), 'Changements');
  } finally {
    rmSync(copy, { recursive: true });
  }
});
