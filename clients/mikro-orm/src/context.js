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
const shared = (globalThis[Symbol.for('bemi-mikro-orm')] ??= {
  storage: new AsyncLocalStorage(),
  requestsBeginAnew: false,
  queried: false, // onQuery has run
  uses: 0, // contexts that were set before that
});
const { storage } = shared;

/** The text of the context, undefined if there is none. */
const currentText = () => storage.getStore();

function currentBemiContext() {
  const text = currentText();
  return text === undefined ? undefined : JSON.parse(text);
}

// Contexts without queries show that onQuery is missing from the configuration. A few of them may belong to
// requests without a query, but not so many, and not all of a process that has ended.
const USES_WITHOUT_QUERY = 10;

function warnOfMissingOnQuery() {
  if (shared.queried) return;
  shared.queried = true;
  process.emitWarning(
    'bemi: contexts are set, but no query has come to onQuery: put onQuery of bemi-mikro-orm into the configuration of MikroORM',
    { code: 'BEMI_ON_QUERY' },
  );
}

function noteUse() {
  if (shared.queried) return;
  if (shared.uses++ === 0) process.once('beforeExit', warnOfMissingOnQuery);
  if (shared.uses > USES_WITHOUT_QUERY) warnOfMissingOnQuery();
}

/** A query has come to onQuery. */
const noteQuery = () => {
  shared.queried = true;
};

function textOf(make) {
  const text = contextText(make);
  if (text !== undefined) noteUse();
  return text;
}

const isThenable = value => typeof value?.then === 'function';

function setContext(callback) {
  return (req, res, next) => {
    const proceed = make => {
      const text = textOf(make);
      for (const emitter of [req, res]) lendContext(emitter, text);
      return storage.run(text, () => next());
    };
    const fail = error => proceed(() => { throw error; });
    let context;
    let isPromise;
    try {
      context = callback(req, res);
      // Reading it can throw, too.
      isPromise = isThenable(context);
    } catch (error) {
      return fail(error);
    }
    if (isPromise) {
      Promise.resolve(context).then(value => proceed(() => value), fail);
    } else {
      proceed(() => context);
    }
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

// A promise already runs. Other objects with "then", such as MikroORM's query builder, start when they are
// awaited, which must happen here.
const settle = result =>
  isThenable(result) && !(result instanceof Promise) ? new Promise((resolve, reject) => result.then(resolve, reject)) : result;

const withBemiContext = (context, callback) => storage.run(textOf(() => context), () => settle(callback()));

function bemiContext(context) {
  enter(() => context);
}

function mergeBemiContext(context) {
  enter(() => ({ ...currentBemiContext(), ...context }));
}

// All requests of one HTTP connection are one asynchronous execution to Node: outside of setContext
// and withBemiContext, a context of one request would still be there in the next one. So each request
// begins without a context.
function enter(make) {
  if (!shared.requestsBeginAnew) {
    subscribe('http.server.request.start', () => storage.enterWith(undefined));
    shared.requestsBeginAnew = true;
  }
  storage.enterWith(textOf(make));
}

module.exports = { currentText, noteQuery, setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext };
