// What the terms of a search mean for this history.
//
// A term either becomes an argument of bemi.find_changes(), which reads only what it needs, or a condition on its
// result: alternatives, exclusions and prefixes have no argument there. With such conditions, one page looks at a
// limited number of changes, and the reader can go on from there.
//
// A term that means nothing, such as "op:paint", is a problem: { key, values } for the wording. With a problem,
// nothing is searched, because a result that leaves a condition out would be taken for the answer.
//
// facts are what queries/facts.js knows of the history: tables, sources, and keys of contexts.

import { meanings } from './context_keys.js';
import { parseTime } from './times.js';

const OPERATIONS = {
  create: 'CREATE', created: 'CREATE', insert: 'CREATE', added: 'CREATE', add: 'CREATE',
  update: 'UPDATE', updated: 'UPDATE', changed: 'UPDATE', change: 'UPDATE',
  delete: 'DELETE', deleted: 'DELETE', removed: 'DELETE', remove: 'DELETE',
  truncate: 'TRUNCATE', truncated: 'TRUNCATE', emptied: 'TRUNCATE',
  snapshot: 'SNAPSHOT', baseline: 'SNAPSHOT',
};

export const qualifiers = ['table', 'key', 'op', 'column', 'since', 'until', 'source'];

// What belongs to a qualifier. A map, because a key of a context may be called "constructor".
const ADD = new Map(Object.entries({ table: addTables, key: addKeys, op: addOperations, column: addColumns, since: addTime, until: addTime, source: addSource }));

// Returns { table, operations, column, context, texts, from, to, source, conditions, problems }. context has values as JSON, texts
// those that may be a text or a number.
export function meaningOf(terms, facts, { now = new Date(), zone = 'UTC' } = {}) {
  const meaning = { context: new Map(), texts: new Map(), conditions: [], problems: [] };
  for (const [qualifier, group] of groupByQualifier(terms)) {
    (ADD.get(qualifier) ?? addContext)(meaning, group, { qualifier, facts, now, zone });
  }
  checkTimes(meaning);
  return meaning;
}

// Several values of one qualifier are alternatives. Those that are excluded count one by one.
function groupByQualifier(terms) {
  const groups = new Map();
  for (const term of terms) {
    const qualifier = term.qualifier === 'operation' ? 'op' : term.qualifier;
    groups.set(qualifier, [...groups.get(qualifier) ?? [], term]);
  }
  return groups;
}

const wanted = group => group.filter(term => !term.exclude);
const excluded = group => group.filter(term => term.exclude);

function addCondition(meaning, kind, terms, exclude, more = {}) {
  if (terms.length > 0) meaning.conditions.push({ kind, values: terms.map(term => term.value), exclude, ...more });
}

function addTables(meaning, group, { facts }) {
  const names = wanted(group);
  const table = names.length === 1 ? findTable(facts, names[0].value) : undefined;
  if (table) meaning.table = table;
  else addCondition(meaning, 'table', names, false);
  addCondition(meaning, 'table', excluded(group), true);
}

// A table of this database, by its name, with or without its schema. Two schemas may have tables of one name.
export function findTable(facts, name) {
  const found = facts.tables.filter(table => table.name === name || `${table.schema}.${table.name}` === name);
  return found.length === 1 ? found[0] : undefined;
}

function addKeys(meaning, group) {
  addCondition(meaning, 'key', wanted(group), false);
  addCondition(meaning, 'key', excluded(group), true);
}

// "op:update,delete" is the same as "op:update op:delete".
function addOperations(meaning, group) {
  const translate = (term, text) => {
    const value = Object.hasOwn(OPERATIONS, text.toLowerCase()) ? OPERATIONS[text.toLowerCase()] : undefined;
    if (!value) meaning.problems.push({ key: 'search.problem.operation', values: { value: text } });
    return { ...term, value };
  };
  const terms = group.flatMap(term => term.value.split(',').map(text => translate(term, text))).filter(term => term.value);
  const names = wanted(terms).map(term => term.value);
  if (names.length > 0) meaning.operations = [...new Set(names)];
  addCondition(meaning, 'operation', excluded(terms), true);
}

function addColumns(meaning, group) {
  const [first, ...others] = wanted(group);
  if (first && others.length === 0) meaning.column = first.value;
  else addCondition(meaning, 'column', wanted(group), false);
  addCondition(meaning, 'column', excluded(group), true);
}

function addTime(meaning, group, { qualifier, now, zone }) {
  for (const term of group) {
    const time = term.exclude ? undefined : parseTime(term.value, { edge: qualifier, now, zone });
    if (time) meaning[qualifier === 'since' ? 'from' : 'to'] = time;
    else meaning.problems.push({ key: 'search.problem.time', values: { value: term.value } });
  }
}

// Both limits as instants, if they are not of the same kind: then the clock of the server could put them in the wrong order.
function checkTimes(meaning) {
  const { from, to, problems } = meaning;
  if (!from || !to) return;
  if (from.instant > to.instant) problems.push({ key: 'search.problem.order', values: {} });
  if (!(from.interval && to.interval)) {
    meaning.from = { instant: from.instant };
    meaning.to = { instant: to.instant };
  }
}

function addSource(meaning, group) {
  const [first, ...others] = wanted(group);
  if (first && others.length === 0) meaning.source = first.value;
  else addCondition(meaning, 'source', wanted(group), false);
  addCondition(meaning, 'source', excluded(group), true);
}

function addContext(meaning, group, { qualifier, facts }) {
  const key = contextKey(qualifier, facts);
  const [first, ...others] = wanted(group);
  const isOne = first && others.length === 0 && (first.quoted || !first.value.endsWith('*'));
  if (!isOne) addCondition(meaning, 'context', wanted(group), false, { key });
  else if (first.quoted || !isDoubtful(first.value)) meaning.context.set(key, JSON.stringify(first.value));
  else meaning.texts.set(key, first.value);
  addCondition(meaning, 'context', excluded(group), true, { key });
}

// "user" stands for whichever key this history has for users. "context.NAME" is always the key NAME.
export function contextKey(qualifier, facts) {
  if (qualifier.startsWith('context.') && qualifier.length > 8) return qualifier.slice(8);
  if (facts.contextKeys.has(qualifier)) return qualifier;
  const candidates = Object.hasOwn(meanings, qualifier) ? meanings[qualifier] : [];
  return candidates.find(key => facts.contextKeys.has(key)) ?? candidates[0] ?? qualifier;
}

// The text 7 may be the number 7 or the string "7". The newest changes do not tell what older ones have.
const isDoubtful = text => /^(?:true|false|-?(?:0|[1-9]\d*)(?:\.\d+)?)$/u.test(text);

// The context as JSON, if values of the newest changes leave no doubt about each, or undefined.
export function exactContext({ context, texts }, { contextKeys }) {
  const exact = new Map(context);
  for (const [key, text] of texts) {
    const kinds = contextKeys.get(key)?.kinds ?? new Set();
    if (kinds.size !== 1) return undefined;
    exact.set(key, kinds.has('string') ? JSON.stringify(text) : text);
  }
  return exact;
}
