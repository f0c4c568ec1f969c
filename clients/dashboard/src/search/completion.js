// What the word at the cursor of the search box can become: a qualifier, or a value of one.
//
// What is offered is known already: tables, columns and sources, and the keys of contexts with their frequent values. So it costs the
// database nothing, and offers what a search will find.

import { meanings } from './context_keys.js';
import { formatTerm, termAt } from './grammar.js';
import { contextKey, qualifiers } from './meaning.js';

const MOST = 10;
const OPERATIONS = ['create', 'update', 'delete', 'truncate', 'snapshot'];
const TIMES = ['15m', '1h', '24h', '7d', '30d', 'today', 'yesterday'];
// facts.js cuts values at this length. What is cut would find nothing.
const CUT = 60;
// From here on, a word without a qualifier is also looked for among tables, columns and values.
const LONG_ENOUGH = 2;

const QUALIFIED = /^-?(?:"((?:[^"\\]|\\.)*)"|([\p{L}_][\p{L}\p{N}_.-]*)):"?(.*)$/su;

// Returns { from, to, items: [{ text, shown, hint, of }] }: each text replaces what is between from and to. hint is a key of the wording,
// and of the key of the context that it stands for.
export function complete(text, at, facts) {
  const { from, to, word } = termAt(text, at);
  const exclude = word.startsWith('-') ? '-' : '';
  const [, quoted, plain, typed] = QUALIFIED.exec(word) ?? [];
  const qualifier = plain ?? quoted?.replace(/\\(.)/gsu, '$1');
  const items = qualifier === undefined ? ofWord(word.slice(exclude.length), facts) : ofQualifier(qualifier, typed, facts, text);
  return { from, to, items: items.slice(0, MOST).map(item => ({ ...item, text: exclude + item.text })) };
}

// ---- a word without a qualifier

function ofWord(word, facts) {
  const names = matching(qualifiersOf(facts), word, ({ text }) => text);
  if (word.length < LONG_ENOUGH) return names;
  const tables = ofQualifier('table', word, facts, '');
  const columns = ofQualifier('column', word, facts, '');
  const values = offeredKeys(facts).flatMap(key => ofQualifier(qualifierOf(key), word, facts, ''));
  return [...names, ...tables, ...columns, ...values];
}

function qualifiersOf(facts) {
  const own = qualifiers.filter(name => name !== 'source' || facts.sources.length > 1).map(name => ({ text: `${name}:`, hint: name }));
  const keys = offeredKeys(facts);
  const alias = Object.keys(meanings).map(name => ({ text: `${name}:`, hint: 'context_of', of: contextKey(name, facts) }))
    .filter(({ of, text }) => keys.includes(of) && `${of}:` !== text);
  return [...own, ...alias, ...keys.map(key => ({ text: nameOf(key), hint: 'context' }))]
    .map(item => ({ ...item, shown: item.text }));
}

// Keys that begin with an underscore are those of bemi.
const offeredKeys = facts => [...facts.contextKeys.keys()].filter(key => !key.startsWith('_'));

// A key that is called like a term of its own is searched for as "context.table:".
const qualifierOf = key => (qualifiers.includes(key) ? `context.${key}` : key);

const nameOf = key => formatTerm({ qualifier: qualifierOf(key), value: '' }).replace(/""$/, '');

// ---- a value

function ofQualifier(qualifier, typed, facts, text) {
  const begin = qualifier === 'op' ? typed.slice(0, typed.lastIndexOf(',') + 1) : '';
  const hint = qualifiers.includes(qualifier) ? qualifier : 'context';
  return matching(valuesOf(qualifier, facts, text), typed.slice(begin.length), value => value).map(value => {
    const shown = formatTerm({ qualifier, value: begin + value, quoted: value.endsWith('*') });
    return { text: `${shown} `, shown, hint };
  });
}

function valuesOf(qualifier, facts, text) {
  switch (qualifier) {
    case 'table': return namesOf(facts);
    case 'op': return OPERATIONS;
    case 'column': return columnsOf(facts, text);
    case 'since': case 'until': return TIMES;
    case 'source': return facts.sources.map(({ name }) => name);
    case 'key': return [];
    default: return inNaturalOrder(facts.contextKeys.get(contextKey(qualifier, facts))?.values ?? []).filter(value => value !== '' && [...value].length < CUT);
  }
}

// With the schema only where the name is not enough.
const namesOf = ({ tables }) => tables.map(({ schema, name }) => (tables.filter(table => table.name === name).length > 1 ? `${schema}.${name}` : name));

// Those of the tables that the search names, if it does.
function columnsOf({ tables }, text) {
  const named = tables.filter(({ schema, name }) => [name, `${schema}.${name}`].some(one => text.includes(`table:${one}`)));
  return [...new Set((named.length > 0 ? named : tables).flatMap(({ columns }) => columns))];
}

const inNaturalOrder = values => [...values].sort(new Intl.Collator('en', { numeric: true }).compare);

// Those that begin with the word come before those that contain it.
function matching(items, word, textOf) {
  const wanted = word.toLowerCase();
  const place = item => textOf(item).toLowerCase().indexOf(wanted);
  return [...items.filter(item => place(item) === 0), ...items.filter(item => place(item) > 0)];
}
