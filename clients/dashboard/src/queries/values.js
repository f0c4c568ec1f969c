// Values of rows and contexts as the pages get them.
//
// A value is { kind, text, length }: its type in JSON, its text, and how long the whole text is. It is never parsed as JSON in
// JavaScript, which would turn 108.00 into 108 and round large numbers. Texts are cut at the server, because
// a row may hold many megabytes.

import { bind, sql } from './sql.js';

// SQL that makes [kind, text, length] of a jsonb expression.
export function valueSql(expression, longest) {
  return sql`jsonb_build_array(jsonb_typeof(${expression}), left(CASE WHEN jsonb_typeof(${expression}) IN ('object', 'array')
        THEN jsonb_pretty(${expression}) ELSE ${expression} #>> '{}' END, ${bind(longest, 'integer')}),
        length(${expression} #>> '{}'))`;
}

// SQL that makes [[column, old, new], ...] of the columns that differ between two rows.
export function changedSql(before, after, longest) {
  return sql`(SELECT coalesce(jsonb_agg(jsonb_build_array(d.key, ${valueSql(sql`(d.value -> 0)`, longest)}, ${valueSql(sql`(d.value -> 1)`, longest)})), '[]')
        FROM (SELECT * FROM jsonb_each(bemi.diff(${before}, ${after})) LIMIT 200) d)`;
}

// SQL that makes [[key, value], ...] of an object.
export function membersSql(object, longest) {
  return sql`(SELECT coalesce(jsonb_agg(jsonb_build_array(m.key, ${valueSql(sql`m.value`, longest)})), '[]')
        FROM (SELECT * FROM jsonb_each(${object}) LIMIT 200) m)`;
}

export const value = ([kind, text, length]) => ({ kind: kind ?? 'null', text: text ?? '', length: length ?? 0 });

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
