// Appends the context to the queries that change rows.

'use strict';

const { currentText, noteQuery } = require('./context.js');
const { afterComment, statements } = require('./statements.js');

// What can come before the first word of a statement, except comments. It is matched piece by piece (flag y),
// because then no query can make the search slow.
const BEFORE_FIRST_WORD = /\s+|\(|--[^\n\r]*/y;
const FIRST_WORD = /[a-z]+/iy;
const WRITES = /^(?:insert|update|delete|merge|truncate|copy)$/i;
const WRITES_WITHIN = /\b(?:insert|update|delete|merge)\b/i;

// Sequelize's findOrCreate() makes a function for its INSERT, and calls it.
const CALLS_TEMPORARY = /\bpg_temp\.\w+\s*\(/i;

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
  // An unnecessary comment (WITH ... SELECT ... FOR UPDATE) does no harm.
  return WRITES.test(word) || (/^with$/i.test(word) && WRITES_WITHIN.test(sql)) || (/^select$/i.test(word) && CALLS_TEMPORARY.test(sql));
}

// After the statement, which can end in a "--" comment.
const addComment = (statement, text) => `${statement}${statement.includes('--') ? '\n' : ' '}/*Bemi ${text} Bemi*/`;

/** The text with the context of the running code behind each of its statements that changes rows. */
function addContext(sql) {
  noteQuery();
  const text = currentText();
  // knex passes undefined if it has several statements to send, and fails by itself.
  if (text === undefined || typeof sql !== 'string') return sql;
  let query = '';
  let done = 0;
  // A context that was written by hand is not replaced.
  for (const { begin, end, hasContext } of statements(sql)) {
    const statement = sql.slice(begin, end);
    query += sql.slice(done, begin) + (changesRows(statement) && !hasContext ? addComment(statement, text) : statement);
    done = end;
  }
  return query + sql.slice(done);
}

/** The same for a text with one statement. Nothing but its end changes. */
function addContextAtEnd(sql) {
  noteQuery();
  const text = currentText();
  if (text === undefined || !changesRows(sql) || statements(sql).some(({ hasContext }) => hasContext)) return sql;
  return addComment(sql, text);
}

module.exports = { addContext, addContextAtEnd, changesRows };
