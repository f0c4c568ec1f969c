// Hooks postgres.js: queries that change rows get the context of the code that runs them, as a comment behind the text.
//
// postgres.js prepares each text once for each connection and keeps it, so texts with changing comments would fill the server's
// memory with prepared statements. A query with a context is therefore sent without preparation. That is right behind
// every pooler, and costs a round trip if the query has parameters, because postgres.js asks for their types each time.
//
// A query is lazy: it runs when it is awaited, and this is the code whose context counts. So the hook is Query.prototype.handle,
// which is called then. The class is not exported, but every query is one.

'use strict';

const { bind, currentText, noteQuery, runWith } = require('./context.js');
const { addContext, addContextAtEnd } = require('./query.js');

const hooked = Symbol.for('bemi.postgres');

// What the text will be, as far as its beginning and its end matter. A query within a query is a part of its text.
const outline = ({ strings, args }, Query) =>
  strings.reduce((text, string, i) => `${text}${args[i - 1] instanceof Query ? outline(args[i - 1], Query) : ' $1 '}${string}`);

function addToQuery(query, Query) {
  const { strings, args } = query;
  const text = outline(query, Query);
  const added = args.length === 0 ? addContext(text) : addContextAtEnd(text);
  if (added === text) return;
  // Its cache of stacks has an entry for each array of strings.
  if (query.tagged) Object.defineProperty(query, 'origin', { value: query.origin });
  query.strings = strings.length === 1 ? [added] : [...strings.slice(0, -1), strings.at(-1) + added.slice(text.length)];
  if (!query.onlyDescribe) query.options.prepare = false;
}

// The text of sql.file() comes when the file has been read.
function addToFile(query, Query) {
  const set = bind(value => {
    Object.defineProperty(query, 'strings', { value, writable: true, configurable: true });
    addToQuery(query, Query);
  });
  Object.defineProperty(query, 'strings', { get: () => [], set, configurable: true });
}

function addToRun(query, Query) {
  noteQuery();
  // They are called from the connection's asynchronous execution, which is that of the request that opened it.
  for (const name of ['forEachFn', 'cursorFn']) if (query[name]) query[name] = bind(query[name]);
  if (currentText() === undefined) return;
  if (query.strings.length === 0) addToFile(query, Query);
  else addToQuery(query, Query);
}

/** Hooks a copy of postgres.js. Once is enough, a second time does nothing. Returns the copy: const sql = hook(postgres)(url). */
function hook(postgres) {
  if (typeof postgres !== 'function') throw new TypeError('hook() needs postgres.js: hook(postgres)');
  // It connects when a query runs, and this one does not.
  const Query = postgres({ max: 1 })``.constructor;
  const { handle } = Query.prototype;
  if (typeof handle !== 'function') throw new TypeError('hook() needs postgres.js: hook(postgres)');
  if (handle[hooked]) return postgres;
  Query.prototype.handle = function () {
    if (!this.executed) addToRun(this, Query);
    // It may open a connection, whose own events (listen, onnotice) belong to no request.
    return runWith(undefined, () => handle.call(this));
  };
  Query.prototype.handle[hooked] = true;
  return postgres;
}

exports.hook = hook;
