// MikroORM's option onQuery: appends the context to the queries that change rows.

import { currentText } from './context.js';

// What may stand before the first word of a statement, comments aside. Matched piece by piece (flag y), so
// that nothing in the query can make the search slow.
const BEFORE_FIRST_WORD = /\s+|\(|--[^\n\r]*/y;
const FIRST_WORD = /[a-z]+/iy;
const COMMENT_MARK = /\/\*|\*\//g;
const WRITES = /^(?:insert|update|delete|merge|truncate)$/i;
const WRITES_WITHIN = /\b(?:insert|update|delete|merge)\b/i;

// Where the comment that begins here ends. In PostgreSQL, comments nest.
function afterComment(sql, begin) {
  let depth = 0;
  COMMENT_MARK.lastIndex = begin;
  for (let mark; (mark = COMMENT_MARK.exec(sql)); ) {
    depth += mark[0] === '/*' ? 1 : -1;
    if (depth === 0) return COMMENT_MARK.lastIndex;
  }
  return sql.length;
}

function changesRows(sql) {
  let position = 0;
  for (;;) {
    BEFORE_FIRST_WORD.lastIndex = position;
    if (BEFORE_FIRST_WORD.test(sql)) position = BEFORE_FIRST_WORD.lastIndex;
    else if (sql.startsWith('/*', position)) position = afterComment(sql, position);
    else break;
  }
  FIRST_WORD.lastIndex = position;
  const word = FIRST_WORD.exec(sql)?.[0] ?? '';
  // A comment too many (WITH ... SELECT ... FOR UPDATE) does no harm.
  return WRITES.test(word) || (/^with$/i.test(word) && WRITES_WITHIN.test(sql));
}

// Whoever has written a context at the end of a query by hand knows better. It is the last comment, and not
// itself within a line comment.
function hasContext(sql) {
  const begin = sql.lastIndexOf('/*Bemi ');
  const end = sql.indexOf('*/', begin);
  const line = sql.lastIndexOf('\n', begin) + 1;
  return begin >= 0 && sql.slice(0, end).endsWith('Bemi') && /^[\s;]*$/.test(sql.slice(end + 2)) &&
    !sql.slice(line, begin).includes('--');
}

export function onQuery(sql) {
  const text = currentText();
  // knex hands over undefined where it has several statements to send, and fails by itself.
  if (text === undefined || typeof sql !== 'string' || !changesRows(sql) || hasContext(sql)) return sql;
  // The server wants it as the very last thing, and the query may end in a "--" comment.
  return `${sql}${sql.includes('--') ? '\n' : ' '}/*Bemi ${text} Bemi*/`;
}
