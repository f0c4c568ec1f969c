// Values of rows and contexts as the pages get them.
//
// A value is { kind, text, hidden }: its type in JSON, its text, and how many more characters the whole text has. It is never parsed as JSON in
// JavaScript, which would turn 108.00 into 108 and round large numbers. Texts are cut at the server, because
// a row may hold many megabytes.

import { bind, sql } from './sql.js';
import { indent } from './json_text.js';

// Of so many members a page shows the values. No table has more columns.
export const MOST_MEMBERS = 2000;
// As much as a line or a list needs.
const FEW_MEMBERS = 200;

// SQL that makes [kind, text, hidden] of a jsonb expression. Its text is made once, because it may have many megabytes. It is not that of jsonb_pretty(): a deep
// value of some kilobytes would become one of many megabytes.
export function valueSql(expression, longest) {
  return sql`(SELECT jsonb_build_array(v.kind, left(v.text, ${bind(longest, 'integer')}), greatest(length(v.text) - ${bind(longest, 'integer')}, 0))
        FROM (SELECT jsonb_typeof(v.json) AS kind, v.json #>> '{}' AS text FROM (SELECT ${expression} AS json OFFSET 0) v OFFSET 0) v)`;
}

// SQL that makes [[column, old, new], ...] of the columns that differ between two rows.
export function changedSql(before, after, longest, most = FEW_MEMBERS) {
  return sql`(SELECT coalesce(jsonb_agg(jsonb_build_array(d.key, ${valueSql(sql`d.value -> 0`, longest)}, ${valueSql(sql`d.value -> 1`, longest)})), '[]')
        FROM (SELECT * FROM jsonb_each(bemi.diff(${before}, ${after})) LIMIT ${bind(most, 'integer')}) d)`;
}

// SQL that makes [[key, value], ...] of an object.
export function membersSql(object, longest, most = FEW_MEMBERS) {
  return sql`(SELECT coalesce(jsonb_agg(jsonb_build_array(m.key, ${valueSql(sql`m.value`, longest)})), '[]')
        FROM (SELECT * FROM jsonb_each(${object}) LIMIT ${bind(most, 'integer')}) m)`;
}

export const NONE = { kind: 'null', text: '', hidden: 0 };

export function value([kind, text, hidden]) {
  if (!kind) return NONE;
  return { kind, text: kind === 'object' || kind === 'array' ? indent(text) : text ?? '', hidden };
}

// In the order of the table's columns; those that it does not have any more come last.
export function changedFields(triples, columns = []) {
  return inOrder(triples, columns).map(([name, old, now]) => ({ name, old: value(old), new: value(now) }));
}

export function members(pairs, columns = []) {
  return inOrder(pairs, columns).map(([name, content]) => ({ name, value: value(content) }));
}

function inOrder(entries, columns) {
  const place = ([name]) => (columns.includes(name) ? columns.indexOf(name) : columns.length);
  return [...entries].sort((a, b) => place(a) - place(b));
}

export const fieldsInOrder = (fields, columns = []) => inOrder(fields.map(field => [field.name, field]), columns).map(([, field]) => field);

// The members of a context as texts, for what needs their meaning: { userId: '7' }.
export function plain(list) {
  return Object.fromEntries(list.map(({ name, value: { kind, text } }) => [name, kind === 'null' ? undefined : text]));
}

// The key of a row as stored in primary_key: one text, or an array of texts.
export function keyParts(primaryKey) {
  if (primaryKey === null) return [];
  if (!primaryKey.startsWith('["')) return [primaryKey];
  try {
    const parts = JSON.parse(primaryKey);
    return Array.isArray(parts) && parts.every(part => typeof part === 'string') ? parts : [primaryKey];
  } catch {
    return [primaryKey];
  }
}
