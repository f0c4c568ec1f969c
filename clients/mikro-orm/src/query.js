// MikroORM's option onQuery: appends the context to the queries that change rows.

import { currentText } from './context.js';

// What may stand before the first word of a statement. Matched piece by piece (flag y), so that
// nothing in the query can make the search slow.
const BEFORE_FIRST_WORD = /\s+|\(|--[^\n]*|\/\*[^]*?\*\//y;
const FIRST_WORD = /[a-z]+/iy;
const WRITES = /^(?:insert|update|delete|merge|truncate)$/i;
const WRITES_WITHIN = /\b(?:insert|update|delete|merge)\b/i;

function changesRows(sql) {
  BEFORE_FIRST_WORD.lastIndex = FIRST_WORD.lastIndex = 0;
  while (BEFORE_FIRST_WORD.test(sql)) FIRST_WORD.lastIndex = BEFORE_FIRST_WORD.lastIndex;
  const word = FIRST_WORD.exec(sql)?.[0] ?? '';
  // A comment too many (WITH ... SELECT ... FOR UPDATE) does no harm.
  return WRITES.test(word) || (/^with$/i.test(word) && WRITES_WITHIN.test(sql));
}

// Whoever has written a context at the end of a query by hand knows better.
const HAS_CONTEXT = /Bemi\*\/[\s;]*$/;

export function onQuery(sql) {
  const text = currentText();
  // knex hands over undefined where it has several statements to send, and fails by itself.
  if (text === undefined || typeof sql !== 'string' || !changesRows(sql) || HAS_CONTEXT.test(sql)) return sql;
  // The server wants it as the very last thing, and the query may end in a "--" comment.
  return `${sql}${sql.includes('--') ? '\n' : ' '}/*Bemi ${text} Bemi*/`;
}
