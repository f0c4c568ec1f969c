// The statements of a text: where each ends, and whether a context follows it.
//
// This is the client's half of src/context/comment.c. The server looks for a context in the run of comments, white
// space and semicolons behind a statement's last token, so the client must look there, too. Inside a string, a quoted
// name or another comment, the same characters mean nothing.

'use strict';

// A text is split into names, pieces that hide their contents, and the rest. Names are read whole, because a "$"
// within a name begins no string.
const PIECE = /[a-z_\x80-\uffff][\w$\x80-\uffff]*|[^a-z_\x80-\uffff'"$;/-]+|--[^\n\r]*|\/\*|"[^"]*"|\$(?:[a-z_\x80-\uffff][\w\x80-\uffff]*)?\$|[^]/giy;
const COMMENT_MARK = /\/\*|\*\//g;
const SPACE_ONLY = /^[ \t\n\r\f\v]*$/;
const ESCAPE_STRING = /(?:^|[^\w$\x80-\uffff])e$/i;

// What ends a string, and pairs that do not, with and without escapes by backslashes.
const PLAIN_QUOTES = /''|'/g;
const ESCAPED_QUOTES = /''|\\[^]|'/g;

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

function afterQuotes(sql, begin, quotes) {
  quotes.lastIndex = begin;
  for (let mark; (mark = quotes.exec(sql)); ) if (mark[0] === "'") return quotes.lastIndex;
  return sql.length;
}

// Undefined if the string's end depends on the server's setting standard_conforming_strings.
function afterString(sql, quote) {
  const escaped = afterQuotes(sql, quote + 1, ESCAPED_QUOTES);
  if (ESCAPE_STRING.test(sql.slice(Math.max(quote - 2, 0), quote))) return escaped;
  return afterQuotes(sql, quote + 1, PLAIN_QUOTES) === escaped ? escaped : undefined;
}

function afterDollars(sql, begin, delimiter) {
  const end = sql.indexOf(delimiter, begin + delimiter.length);
  return end < 0 ? sql.length : end + delimiter.length;
}

function afterPiece(sql, { 0: piece, index }) {
  if (piece === '/*') return afterComment(sql, index);
  if (piece === "'") return afterString(sql, index);
  if (piece[0] === '$' && piece.length > 1) return afterDollars(sql, index, piece);
  return index + piece.length;
}

const isContext = comment => comment.length >= '/*BemiBemi*/'.length && comment.startsWith('/*Bemi') && comment.endsWith('Bemi*/');

const isSpace = piece => piece.startsWith('--') || SPACE_ONLY.test(piece);

/*
 * The statements as { begin, end, hasContext }, in order. The comments after a semicolon belong to the statement before
 * it. If it is not certain where a string ends, the text counts as one statement without a context: a wrong guess could
 * put a comment into a string, or take a string for a context.
 */
function statements(sql) {
  const whole = { begin: 0, end: sql.length, hasContext: false };
  if (!sql.includes(';') && !sql.includes('/*Bemi')) return [whole];
  const found = [{ begin: 0, hasContext: false }];
  PIECE.lastIndex = 0;
  for (let piece; (piece = PIECE.exec(sql)); ) {
    const end = afterPiece(sql, piece);
    if (end === undefined) return [whole];
    const statement = found.at(-1);
    if (piece[0] === '/*') statement.hasContext ||= isContext(sql.slice(piece.index, end));
    else if (piece[0] === ';') statement.end ??= piece.index;
    else if (!isSpace(piece[0])) {
      if (statement.end === undefined) statement.hasContext = false;
      else found.push({ begin: piece.index, hasContext: false });
    }
    PIECE.lastIndex = end;
  }
  found.at(-1).end ??= sql.length;
  return found;
}

module.exports = { afterComment, statements };
