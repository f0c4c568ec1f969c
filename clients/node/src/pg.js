// Hooks node-postgres, and so every ORM on top of it: queries that change rows get the context of the code that asks
// for them.
//
// All of them come to Client.prototype.query, in the asynchronous execution of the code that asks. There the context
// goes behind the text, as a comment, which costs no round trip and is right behind every pooler.
//
// A named statement cannot have a changing comment, because its text must stay the same. Its context goes ahead of it as
// the setting bemi.context, in the same group of messages (Parse, Bind and Execute of set_config() before those of the
// statement, and one Sync behind both). The server runs what stands before a Sync as one transaction, and the setting is
// local to it. So it costs no round trip either, it is gone when the statement has ended, and a pooler cannot separate the
// two. Within a transaction, a third group member puts the former value back, because a setting would last
// until the transaction's end.
//
// Callbacks run in the asynchronous execution of the socket, which is that of the request that opened the connection. So
// callbacks and the handlers of cursors and streams are bound to the context of the code that gave them. The worst case is
// Pool.prototype.connect: on a full pool, the callback of one request runs within the query of another one.
//
// What must never happen: a row with the context of another request, and an error because of a context.

'use strict';

const { bind, currentText, noteQuery } = require('./context.js');
const { copiesOf } = require('./copies.js');
const { addContext, changesRows } = require('./query.js');

// Another copy of this package may have hooked the same driver.
const hooked = Symbol.for('bemi.pg');

const HANDLERS = [
  'handleRowDescription', 'handleDataRow', 'handlePortalSuspended', 'handleCommandComplete', 'handleReadyForQuery', 'handleError',
  'handleEmptyQuery', 'handleCopyInResponse', 'handleCopyOutResponse', 'handleCopyData', 'handleCopyDone',
];

const bound = value => (typeof value === 'function' ? bind(value) : value);

// Puts a function into the place of a method, once.
function replace(object, name, make) {
  const method = object?.[name];
  if (typeof method !== 'function' || method[hooked]) return;
  object[name] = make(method);
  object[name][hooked] = true;
}

// ------------------------------------------------------------ named statements

// The former value is kept in a setting of ours, because only the server knows it: the application may have set its own.
const SET_CONTEXT = `SELECT set_config('bemi_client.context', coalesce(current_setting('bemi.context', true), ''), true),
  set_config('bemi.context', $1, true)`;
const RESTORE_CONTEXT = "SELECT set_config('bemi.context', current_setting('bemi_client.context'), true)";

function send(connection, text, values) {
  connection.parse({ text, name: '', types: [] });
  connection.bind({ portal: '', statement: '', values });
  connection.execute({ portal: '', rows: 0 });
}

// Calls the function with a sync() that sends the last statement of the group first.
function withoutSync(connection, prepare) {
  const own = Object.getOwnPropertyDescriptor(connection, 'sync');
  let synced = false;
  connection.sync = () => { synced = true; };
  try {
    prepare();
  } finally {
    if (own) Object.defineProperty(connection, 'sync', own);
    else delete connection.sync;
  }
  return synced;
}

/*
 * Sends the context ahead of a named statement. The answers to the statements around it also come to the query's handlers,
 * and must not count as its own:
 *
 *   setting -- its CommandComplete --> running -- CommandComplete --> restoring
 *
 * In the states around "running" the query has no name, because node-postgres takes each ParseComplete for that of the name.
 */
function setAhead(query, text, connection, isInTransaction) {
  const { name, prepare, handleDataRow, handleCommandComplete, handleError, handleReadyForQuery } = query;
  let state = 'setting';
  const enter = next => {
    state = next;
    query.name = next === 'running' ? name : undefined;
  };
  Object.assign(query, {
    handleDataRow(...args) {
      if (state === 'running') handleDataRow.apply(query, args);
    },
    handleCommandComplete(...args) {
      if (state === 'setting') return enter('running');
      if (state === 'running') handleCommandComplete.apply(query, args);
      enter('restoring');
    },
    handleError(...args) {
      // The server skips the statement's own Parse.
      if (state === 'setting') delete connection.submittedNamedStatements?.[name];
      enter('restoring');
      return handleError.apply(query, args);
    },
    handleReadyForQuery(...args) {
      query.name = name;
      return handleReadyForQuery.apply(query, args);
    },
  });
  send(connection, SET_CONTEXT, [text]);
  const synced = withoutSync(connection, () => prepare.call(query, connection));
  if (state === 'setting') query.name = undefined;
  if (isInTransaction) send(connection, RESTORE_CONTEXT, []);
  if (synced) connection.sync();
}

// Whether the client is within a transaction. In doubt it is. The answer is known when a statement is sent, because
// node-postgres waits for the former statement to end, except in its pipeline mode.
const states = new WeakMap();

function watchTransactions(client) {
  const { connection } = client;
  if (states.has(client) || typeof connection?.prependListener !== 'function') return;
  states.set(client, 'unknown');
  // Before the client's own listener, which sends the next statement.
  connection.prependListener('readyForQuery', message => states.set(client, message?.status));
}

const isInTransaction = client => client.pipeline || states.get(client) !== 'I';

let warned = false;

function warnOfNamed(name) {
  if (warned) return;
  warned = true;
  process.emitWarning(`bemi: the context of the named statement "${name}" cannot be sent, because this is no connection of node-postgres in JavaScript`, {
    code: 'BEMI_NAMED_STATEMENT',
  });
}

function addToNamed(query, client) {
  const text = currentText();
  const { prepare } = query;
  // With "rows", the statement's Sync is sent much later.
  if (text === undefined || query.rows) return;
  if (typeof prepare !== 'function' || typeof client.connection?.execute !== 'function') return warnOfNamed(query.name);
  query.prepare = connection => {
    query.prepare = prepare;
    // It can be executed with its name only.
    const sql = query.text || connection.parsedStatements?.[query.name] || '';
    if (changesRows(sql)) setAhead(query, text, connection, isInTransaction(client));
    else query.prepare(connection);
  };
}

// ------------------------------------------------------------ queries

// A query that is an object of its own: pg.Query, a cursor, a stream, COPY. It is called back while it runs, and a cursor
// also by each read().
function hookSubmittable(query, client) {
  for (const name of HANDLERS) replace(query, name, bound);
  for (const name of ['read', 'close']) {
    replace(query, name, method => function (...args) { return method.apply(this, args.map(bound)); });
  }
  if (query.name) return addToNamed(query, client);
  // A stream of rows has its text in a cursor.
  for (const holder of [query, query.cursor]) {
    if (typeof holder?.text === 'string') holder.text = addContext(holder.text);
  }
}

// A copy of the options with other values. Not of the properties, because they can be getters of a class.
const withValues = (options, values) =>
  Object.create(options, Object.fromEntries(Object.entries(values).map(
    ([key, value]) => [key, { value, writable: true, enumerable: true, configurable: true }])));

// As node-postgres makes a query of its arguments, except that the setting goes ahead of it.
function runNamed(original, client, query) {
  addToNamed(query, client);
  let result;
  if (!query.callback) {
    const Promise = client._Promise ?? globalThis.Promise;
    result = new Promise((resolve, reject) => {
      query.callback = (error, answer) => (error ? reject(error) : resolve(answer));
    }).catch(error => {
      // The stack of the caller, not of the socket.
      Error.captureStackTrace(error);
      throw error;
    });
  }
  original.call(client, query);
  return result;
}

function hookQuery(original, { Query }) {
  return function query(config, values, callback) {
    noteQuery();
    watchTransactions(this);
    const rest = [values, callback].map(bound);
    if (typeof config === 'string') return original.call(this, addContext(config), ...rest);
    if (config === null || typeof config !== 'object') return original.call(this, config, ...rest);
    if (typeof config.submit === 'function') {
      hookSubmittable(config, this);
      return original.call(this, config, ...rest);
    }
    const options = withValues(config, {
      ...(!config.name && typeof config.text === 'string' && { text: addContext(config.text) }),
      ...(typeof config.callback === 'function' && { callback: bind(config.callback) }),
    });
    if (!config.name || currentText() === undefined || !Query) return original.call(this, options, ...rest);
    return runNamed(original, this, Object.assign(new Query(options, ...rest), { query_timeout: config.query_timeout }));
  };
}

// The connection may come when another request releases it.
const hookConnect = original =>
  function connect(callback) {
    return original.call(this, bound(callback));
  };

// Where a class has a method from: itself or what it extends.
function ownerOf(Class, name) {
  let prototype = Class?.prototype;
  while (prototype && !Object.hasOwn(prototype, name)) prototype = Object.getPrototypeOf(prototype);
  return prototype;
}

/** Hooks a copy of node-postgres, or a driver with the same Client and Pool. Once is enough, a second time does nothing. */
function hook(pg) {
  const { Client, Pool } = pg?.Client ? pg : (pg?.default ?? {});
  if (typeof Client !== 'function') throw new TypeError('hook() needs node-postgres: hook(pg)');
  replace(ownerOf(Client, 'query'), 'query', original => hookQuery(original, Client));
  replace(ownerOf(Pool, 'connect'), 'connect', hookConnect);
  return pg;
}

// The copies that the application and its ORMs use, as far as they can be found.
copiesOf('pg').forEach(hook);

exports.hook = hook;
