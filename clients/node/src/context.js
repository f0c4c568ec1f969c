// Which context the running code has: bound to the asynchronous execution, by AsyncLocalStorage.
//
// It keeps the text of the context from the time when it was set. So later changes of the object do
// not change the context, and a context that cannot be converted is reported once, not for each query.

'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const { subscribe } = require('node:diagnostics_channel');
const { contextText } = require('./text.js');

// An application and its dependencies can each have a copy of this package. All copies must see the context
// that one of them sets, so they share this.
const shared = (globalThis[Symbol.for('bemi')] ??= {
  storage: new AsyncLocalStorage(),
  requestsBeginAnew: false,
  queried: false, // a query has come to a hook
  uses: 0, // contexts that were set before that
});
const { storage } = shared;

/** The text of the context, undefined if there is none. */
const currentText = () => storage.getStore();

function currentContext() {
  const text = currentText();
  return text === undefined ? undefined : JSON.parse(text);
}

// Contexts without queries show that no driver is hooked. A few of them may belong to requests without a query, but not
// so many, and not all of a process that has ended.
const USES_WITHOUT_QUERY = 10;

function warnOfMissingHook() {
  if (shared.queried) return;
  shared.queried = true;
  process.emitWarning(
    "bemi: contexts are set, but no query has come to bemi: import 'bemi/pg' before the first query, or call hook(pg) of it with the copy of pg that the application uses",
    { code: 'BEMI_NO_QUERY' },
  );
}

function noteUse() {
  if (shared.queried) return;
  if (shared.uses++ === 0) process.once('beforeExit', warnOfMissingHook);
  if (shared.uses > USES_WITHOUT_QUERY) warnOfMissingHook();
}

/** A query has come to a hook. */
const noteQuery = () => {
  shared.queried = true;
};

function textOf(make) {
  const text = contextText(make);
  if (text !== undefined) noteUse();
  return text;
}

/** Runs the function with this text. */
const runWith = (text, run) => storage.run(text, run);

/** The function, with the context that the code has now. For callbacks, which drivers call from the connection's execution. */
function bind(callback) {
  const text = currentText();
  return function (...args) {
    return storage.run(text, () => callback.apply(this, args));
  };
}

const isThenable = value => typeof value?.then === 'function';

/**
 * Calls `proceed` with the text of the context that `callback` returns, or that its promise resolves to. An error of the
 * callback is noted in the context. The request is handled in any case.
 */
function whenContext(callback, args, proceed) {
  const fail = error => proceed(textOf(() => { throw error; }));
  let context;
  let isPromise;
  try {
    context = callback(...args);
    // Reading it can throw, too.
    isPromise = isThenable(context);
  } catch (error) {
    return fail(error);
  }
  const succeed = value => proceed(textOf(() => value));
  // Not then(succeed, fail) with one promise: what "proceed" throws is no error of the callback.
  return isPromise ? Promise.resolve(context).then(succeed, fail) : succeed(context);
}

function setContext(callback) {
  return (req, res, next) => {
    whenContext(callback, [req, res], text => {
      for (const emitter of [req, res]) lendContext(emitter, text);
      return storage.run(text, () => next());
    });
  };
}

// Node emits the events of a request and its response (data, end, finish, close) from the connection,
// whose asynchronous execution is not the request's: listeners would have no context. If the emitter
// has a context, the listeners keep it.
const lent = Symbol('bemi');

function lendContext(emitter, text) {
  if (typeof emitter?.emit !== 'function') return;
  if (!(lent in emitter)) {
    const { emit } = emitter;
    emitter.emit = function (...args) {
      const run = () => emit.apply(this, args);
      return currentText() === undefined ? storage.run(this[lent], run) : run();
    };
  }
  // The last one, if one setContext follows another.
  emitter[lent] = text;
}

// A promise already runs. Other objects with "then" start when they are awaited, which must happen here: query builders,
// and the promises of Prisma and postgres.js, which has a subclass of Promise.
const runs = result => !isThenable(result) || Object.getPrototypeOf(result) === Promise.prototype;

const settle = result => (runs(result) ? result : new Promise((resolve, reject) => result.then(resolve, reject)));

const GENERATOR = /^\[object (?:Async)?Generator\]$/;

// The body of a generator runs when somebody asks for its next value. It has this text all the same.
function bindGenerator(result, text) {
  if (result === null || typeof result !== 'object' || !GENERATOR.test(Object.prototype.toString.call(result))) return result;
  for (const name of ['next', 'return', 'throw']) {
    const method = result[name];
    result[name] = (...args) => storage.run(text, () => method.apply(result, args));
  }
  return result;
}

function withContext(context, callback) {
  const text = textOf(() => context);
  return storage.run(text, () => settle(bindGenerator(callback(), text)));
}

function enterContext(context) {
  enter(() => context);
}

// As JSON, because an object can have a toJSON() that leaves something out. If it cannot be converted, what is there
// stays, with "bemiError".
function mergeContext(context) {
  const added = contextText(() => context);
  if (added === undefined) return;
  enter(() => ({ ...currentContext(), ...JSON.parse(added) }));
}

// All requests of one HTTP connection are one asynchronous execution to Node: outside of setContext
// and withContext, a context of one request would still be there in the next one. So each request
// begins without a context.
function enter(make) {
  if (!shared.requestsBeginAnew) {
    subscribe('http.server.request.start', () => storage.enterWith(undefined));
    shared.requestsBeginAnew = true;
  }
  storage.enterWith(textOf(make));
}

module.exports = {
  bind, bindGenerator, currentText, noteQuery, runWith, whenContext, setContext, withContext, enterContext, mergeContext, currentContext,
};
