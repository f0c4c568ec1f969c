// MikroORM's option onQuery: appends the context to the queries that change rows.

'use strict';

const { currentText, noteQuery } = require('./context.js');
const { afterComment, statements } = require('./statements.js');

// What may stand before the first word of a statement, comments aside. Matched piece by piece (flag y), so
// that nothing in the query can make the search slow.
const BEFORE_FIRST_WORD = /\s+|\(|--[^\n\r]*/y;
const FIRST_WORD = /[a-z]+/iy;
const WRITES = /^(?:insert|update|delete|merge|truncate)$/i;
const WRITES_WITHIN = /\b(?:insert|update|delete|merge)\b/i;

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

// Behind the statement, which may end in a "--" comment.
const addComment = (statement, text) => `${statement}${statement.includes('--') ? '\n' : ' '}/*Bemi ${text} Bemi*/`;

function onQuery(sql) {
  noteQuery();
  const text = currentText();
  // knex hands over undefined where it has several statements to send, and fails by itself.
  if (text === undefined || typeof sql !== 'string') return sql;
  let query = '';
  let done = 0;
  // A context that was written by hand stays the only one: its author knows better.
  for (const { begin, end, hasContext } of statements(sql)) {
    const statement = sql.slice(begin, end);
    query += sql.slice(done, begin) + (changesRows(statement) && !hasContext ? addComment(statement, text) : statement);
    done = end;
  }
  return query + sql.slice(done);
}

exports.onQuery = onQuery;
