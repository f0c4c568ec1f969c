// A context as text: JSON that is safe in a comment of any query, with any contents.

'use strict';

// The server's default of bemi.max_context_size. It would leave out a larger context.
const MAX_SIZE = 1024 * 1024;

// The default of bemi.max_context_keys: keys and elements, at all levels together.
const MAX_KEYS = 10000;

// Deeper JSON may be refused by the server, whose limit depends on its stack.
const MAX_DEPTH = 500;

const MAX_ERROR_LENGTH = 200;

/**
 * JSON without what jsonb cannot store: NUL and halves of surrogate pairs become the replacement
 * character. The pattern matches every escape, because the second half of "\\" does not begin
 * another one.
 */
const storable = json =>
  json.replace(/\\(?:u0000|ud[89a-f][0-9a-f]{2}|.)/gi, escape => (escape.length > 2 ? '\\ufffd' : escape));

const unicodeEscape = character => '\\u' + character.charCodeAt(0).toString(16).padStart(4, '0');

/*
 * All of these occur only in strings, where an escape means the same as the character.
 *
 * - "/": without it, nothing begins or ends a comment.
 * - "?" and "%": placeholders of MikroORM and of Python's drivers, also within comments. All clients of bemi write the
 *   same text, see clients/vectors.json.
 * - what is not ASCII: a database in another encoding would refuse a query with a character that it
 *   does not have.
 */
const safe = json => storable(json).replace(/[^ -~]|[/?%]/g, unicodeEscape);

// "json" is as JSON.stringify() writes it, without spaces.
function checkDepthAndKeys(json) {
  let depth = 0;
  let keys = 0;
  for (const { 0: mark, index } of json.matchAll(/"(?:[^"\\]|\\.)*"|[{}[\],]/g)) {
    if (mark === ',' || ((mark === '{' || mark === '[') && json[index + 1] !== '}' && json[index + 1] !== ']')) {
      if (++keys > MAX_KEYS) throw new RangeError(`the context has more than ${MAX_KEYS} keys and elements`);
    }
    if (mark === '{' || mark === '[') {
      if (++depth > MAX_DEPTH) throw new RangeError(`the context is nested more than ${MAX_DEPTH} levels deep`);
    } else if (mark === '}' || mark === ']') {
      depth--;
    }
  }
}

function toText(context) {
  const json = JSON.stringify(context);
  if (json?.[0] !== '{') throw new TypeError('the context is not an object');
  // Escapes only make it longer.
  const text = json.length > MAX_SIZE ? json : safe(json);
  if (text.length > MAX_SIZE) {
    throw new RangeError(`the context is ${text.length} bytes long as ASCII, ${MAX_SIZE} are allowed`);
  }
  checkDepthAndKeys(text);
  return text;
}

// Anything can be thrown, even what cannot be turned into a string.
function messageOf(error) {
  try {
    return String(error?.message ?? error).slice(0, MAX_ERROR_LENGTH);
  } catch {
    return 'unknown error';
  }
}

/**
 * The text of the context that `make` returns; undefined if it returns null or undefined. It never
 * throws, because a context must not break its query: an error becomes a warning, and is noted in
 * the context. `make` is a function because reading an object can throw, too.
 */
function contextText(make) {
  try {
    const context = make();
    return context === undefined || context === null ? undefined : toText(context);
  } catch (error) {
    const bemiError = messageOf(error);
    process.emitWarning(`bemi: ${bemiError}; changes are stored without their context`, { code: 'BEMI_CONTEXT' });
    return toText({ bemiError });
  }
}

exports.storable = storable;
exports.contextText = contextText;
