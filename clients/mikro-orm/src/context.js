// Which context the running code has: bound to the asynchronous execution, by AsyncLocalStorage.
//
// What is kept is the context's text as of the time when it was set. What the application does to
// the object later does not change what it has said, and a context that cannot be written down is
// reported once, not with each query.

'use strict';

const { AsyncLocalStorage } = require('node:async_hooks');
const { subscribe } = require('node:diagnostics_channel');
const { contextText } = require('./text.js');

// An application may have several copies of this package, of its own and of its dependencies. What one of them
// sets, all of them must see, so they share this.
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

// Contexts that nobody asks for are the sign of an installation without onQuery. A few may belong to requests
// that send no query; so many do not, nor do all of a process that has ended.
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
      // To look at it can throw, too.
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
// whose asynchronous execution is not the request's: listeners would have no context. Where one is in
// force, whoever emits keeps it.
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
  // The last one, where one setContext follows another.
  emitter[lent] = text;
}

// A promise is at work already. What else has "then", MikroORM's query builder for one, begins when somebody
// awaits it, which must be here.
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
// and withBemiContext, what one request enters would still be there for the next. So each request
// begins with nothing.
function enter(make) {
  if (!shared.requestsBeginAnew) {
    subscribe('http.server.request.start', () => storage.enterWith(undefined));
    shared.requestsBeginAnew = true;
  }
  storage.enterWith(textOf(make));
}

module.exports = { currentText, noteQuery, setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext };
