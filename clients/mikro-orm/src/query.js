// MikroORM's option onQuery: appends the context to the queries that change rows.

'use strict';

const { currentText, noteQuery } = require('./context.js');

// The tokens of a text that matter to where its statements end.
const TOKEN = /'(?:[^']|'')*'|"[^"]*"|--[^\n\r]*|\/\*|;|[^'"/;-]+|./gsy;

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

/*
 * The statements of a text, which semicolons separate. Where a wrong guess could put a comment into a string, the text
 * counts as one statement: strings with backslashes depend on a setting of the server, and those between dollar
 * signs have a grammar of their own.
 */
function statements(sql) {
  if (!sql.includes(';') || sql.includes('\\') || sql.includes('$')) return [sql];
  const ends = [];
  TOKEN.lastIndex = 0;
  for (let token; (token = TOKEN.exec(sql)); ) {
    if (token[0] === "'" || token[0] === '"') return [sql];
    if (token[0] === '/*') TOKEN.lastIndex = afterComment(sql, token.index);
    if (token[0] === ';') ends.push(token.index);
  }
  return [...ends, sql.length].map((end, i) => sql.slice(i === 0 ? 0 : ends[i - 1] + 1, end));
}

// Behind the statement, which may end in a "--" comment.
const addComment = (statement, text) => `${statement}${statement.includes('--') ? '\n' : ' '}/*Bemi ${text} Bemi*/`;

function onQuery(sql) {
  noteQuery();
  const text = currentText();
  // knex hands over undefined where it has several statements to send, and fails by itself.
  if (text === undefined || typeof sql !== 'string') return sql;
  return statements(sql).map(statement => (changesRows(statement) && !hasContext(statement) ? addComment(statement, text) : statement)).join(';');
}

exports.onQuery = onQuery;
