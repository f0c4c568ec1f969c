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
const commentBehind = (statement, text) => `${statement.includes('--') ? '\n' : ' '}/*Bemi ${text} Bemi*/`;

// What the context of the running code adds to a text, as [index, comment]. A context that was written by hand is not
// replaced.
function additions(sql, text) {
  const found = [];
  for (const { begin, end, hasContext } of statements(sql)) {
    const statement = sql.slice(begin, end);
    if (changesRows(statement) && !hasContext) found.push([end, commentBehind(statement, text)]);
  }
  return found;
}

function insert(sql, added) {
  let query = '';
  let done = 0;
  for (const [index, comment] of added) {
    query += sql.slice(done, index) + comment;
    done = index;
  }
  return query + sql.slice(done);
}

/**
 * The text with the context of the running code behind each of its statements that changes rows, as { sql, own }. "own"
 * is a function for errors of the text, undefined if nothing was added.
 */
function withContextOf(sql) {
  noteQuery();
  const text = currentText();
  // knex passes undefined if it has several statements to send, and fails by itself.
  const added = text === undefined || typeof sql !== 'string' ? [] : additions(sql, text);
  return added.length === 0 ? { sql } : { sql: insert(sql, added), own: error => ownError(error, sql, added) };
}

const addContext = sql => withContextOf(sql).sql;

/** The same for a text with one statement. Nothing but its end changes. */
function addContextAtEnd(sql) {
  noteQuery();
  const text = currentText();
  if (text === undefined || !changesRows(sql) || statements(sql).some(({ hasContext }) => hasContext)) return sql;
  return sql + commentBehind(sql, text);
}

// ------------------------------------------------------------ errors

// PostgreSQL counts characters, from 1.
const lengthOf = text => [...text].length;

function ownPosition(position, sql, added) {
  let shift = 0;
  for (const [index, comment] of added) {
    const begin = lengthOf(sql.slice(0, index)) + 1;
    // In a comment is what follows it: the end of the text.
    if (position - shift > begin) shift += Math.min(comment.length, position - shift - begin);
  }
  return position - shift;
}

/*
 * An error of the server as it would be without the comments: the position is that in the application's text, and a
 * message that quotes the rest of the text does not quote the context.
 */
function ownError(error, sql, added) {
  const { position, message } = Object(error);
  if (/^\d+$/.test(position)) error.position = String(ownPosition(Number(position), sql, added));
  for (const [, comment] of added) {
    if (typeof message !== 'string' || !message.includes(comment)) continue;
    for (const name of ['message', 'stack']) error[name] = String(error[name]).replaceAll(comment, '');
  }
  return error;
}

module.exports = { addContext, addContextAtEnd, changesRows, withContextOf };
