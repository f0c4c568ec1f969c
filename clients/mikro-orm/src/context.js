// Which context the running code has: bound to the asynchronous execution, by AsyncLocalStorage.
//
// What is kept is the context's text as of the time when it was set. What the application does to
// the object later does not change what it has said, and a context that cannot be written down is
// reported once, not with each query.

import { AsyncLocalStorage } from 'node:async_hooks';
import { subscribe } from 'node:diagnostics_channel';
import { contextText } from './text.js';

const storage = new AsyncLocalStorage();

/** The text of the context, undefined if there is none. */
export const currentText = () => storage.getStore();

export function currentBemiContext() {
  const text = currentText();
  return text === undefined ? undefined : JSON.parse(text);
}

export function setContext(callback) {
  return (req, res, next) => {
    const proceed = make => {
      const text = contextText(make);
      for (const emitter of [req, res]) lendContext(emitter, text);
      return storage.run(text, () => next());
    };
    const fail = error => proceed(() => { throw error; });
    let context;
    let isPromise;
    try {
      context = callback(req, res);
      // To look at it can throw, too.
      isPromise = typeof context?.then === 'function';
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

export const withBemiContext = (context, callback) => storage.run(contextText(() => context), callback);

export function bemiContext(context) {
  enter(() => context);
}

export function mergeBemiContext(context) {
  enter(() => ({ ...currentBemiContext(), ...context }));
}

// All requests of one HTTP connection are one asynchronous execution to Node: outside of setContext
// and withBemiContext, what one request enters would still be there for the next. So each request
// begins with nothing.
let requestsBeginAnew = false;

function enter(make) {
  if (!requestsBeginAnew) {
    subscribe('http.server.request.start', () => storage.enterWith(undefined));
    requestsBeginAnew = true;
  }
  storage.enterWith(contextText(make));
}
