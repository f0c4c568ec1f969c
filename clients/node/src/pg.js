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
// Pool.prototype.connect: on a full pool, the callback of one request runs within the query of another one. The connection
// itself is opened without a context, because its own events (notification, notice, end) belong to no request.
//
// Without a context, a query goes to node-postgres as the application gave it.
//
// What must never happen: a row with the context of another request, and an error because of a context.

'use strict';

const { bind, currentText, noteQuery, runWith } = require('./context.js');
const { copiesOf } = require('./copies.js');
const { changesRows, withContextOf } = require('./query.js');

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

// The same for a query, which can be used again, with another context or none. So the query's own method is kept. This is
// also right for a query that comes to the hook twice, because a tool for tracing has replaced Client.prototype.query since.
const ownMethod = Symbol.for('bemi.pg.own');

function put(query, name, method) {
  method[ownMethod] = query[name][ownMethod] ?? query[name];
  query[name] = method;
}

function restore(query) {
  for (const name of [...HANDLERS, 'read', 'close', 'prepare']) {
    if (query[name]?.[ownMethod]) query[name] = query[name][ownMethod];
  }
}

// ------------------------------------------------------------ named statements

// What the server would refuse must not become an error of the statement: characters that the database's encoding does not
// have, and contexts larger than an administrator allows. (Without the extension, there is no such setting, and no limit.)
// "bytes" is how older servers read "B". Each key and each element has a mark before it.
const ACCEPTED = String.raw`CASE
  WHEN octet_length($1::text) > pg_size_bytes(regexp_replace(current_setting('bemi.max_context_size', true), $r$(\d)B$$r$, $r$\1 bytes$r$))
    OR length($1) - length(translate($1, '{[,', '')) > current_setting('bemi.max_context_keys', true)::int
  THEN '{"bemiError": "the context is larger than the server allows"}'
  WHEN getdatabaseencoding() = 'UTF8' THEN $1
  ELSE regexp_replace($1, $r$(?<!\\)((?:\\\\)*)\\u(?!00[0-7])[0-9a-f]{4}$r$, $r$\1?$r$, 'g') END`;

// The former value is kept in a setting of ours, because only the server knows it: the application may have set its own.
const SET_CONTEXT = `SELECT set_config('bemi_client.context', coalesce(current_setting('bemi.context', true), ''), true),
  set_config('bemi.context', ${ACCEPTED}, true)`;
const RESTORE_CONTEXT = "SELECT set_config('bemi.context', current_setting('bemi_client.context'), true)";

function send(connection, text, values) {
  connection.parse({ text, name: '', types: [] });
  connection.bind({ portal: '', statement: '', values });
  connection.execute({ portal: '', rows: 0 });
}

// Calls the function, and returns whether it has called sync(), which others send later.
function withoutSync(connection, run) {
  const descriptor = Object.getOwnPropertyDescriptor(connection, 'sync');
  let synced = false;
  connection.sync = () => { synced = true; };
  try {
    run();
  } finally {
    if (descriptor) Object.defineProperty(connection, 'sync', descriptor);
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
 * With "rows", node-postgres asks for pages of rows while it is "running", and sends the Sync after the last one.
 */
function setAhead(query, prepare, text, connection, isInTransaction) {
  const { name, handleDataRow, handleCommandComplete, handleError, handleReadyForQuery } = query;
  let state = 'setting';
  let isSending = true;
  const enter = next => {
    state = next;
    query.name = next === 'running' ? name : undefined;
  };
  // Runs a step of the query, and puts the former value back ahead of its Sync.
  const restoreBeforeSync = step => {
    if (!withoutSync(connection, step)) return;
    if (isInTransaction) send(connection, RESTORE_CONTEXT, []);
    connection.sync();
  };
  put(query, 'handleDataRow', (...args) => {
    if (state === 'running') handleDataRow.apply(query, args);
  });
  put(query, 'handleCommandComplete', (...args) => {
    if (state === 'setting') return enter('running');
    if (state === 'running') restoreBeforeSync(() => handleCommandComplete.apply(query, args));
    enter('restoring');
  });
  put(query, 'handleError', (...args) => {
    // The server skips the statement's own Parse.
    if (state === 'setting') delete connection.submittedNamedStatements?.[name];
    enter('restoring');
    // Nothing is answered any more, except if it is an error before all was sent.
    if (!isSending) query.name = name;
    return handleError.apply(query, args);
  });
  put(query, 'handleReadyForQuery', (...args) => {
    query.name = name;
    return handleReadyForQuery.apply(query, args);
  });
  send(connection, SET_CONTEXT, [text]);
  restoreBeforeSync(() => prepare.call(query, connection));
  isSending = false;
  if (state === 'setting') query.name = undefined;
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

// Whether a query needs the setting. If it is executed with its name only, its text is known when it is sent.
function needsSetting({ name, text }, client) {
  if (!name || currentText() === undefined || (text && !changesRows(text))) return false;
  const canSend = typeof client.connection?.execute === 'function';
  if (!canSend) warnOfNamed(name);
  return canSend;
}

function addToNamed(query, client) {
  const { prepare } = query;
  const text = currentText();
  put(query, 'prepare', connection => {
    const sql = query.text || connection.parsedStatements?.[query.name] || '';
    if (changesRows(sql)) setAhead(query, prepare, text, connection, isInTransaction(client));
    else prepare.call(query, connection);
  });
}

// ------------------------------------------------------------ queries

// The texts of queries as the application gave them, and as they were sent.
const texts = new WeakMap();

function addToText(holder) {
  const former = texts.get(holder);
  const given = former?.sent === holder.text ? former.given : holder.text;
  const { sql, own } = withContextOf(given);
  texts.set(holder, { given, sent: sql });
  if (holder.text !== sql) holder.text = sql;
  return own;
}

// A query that is an object of its own: pg.Query, a cursor, a stream, COPY. It is called back while it runs, and a cursor
// also by each read().
function hookSubmittable(query, client) {
  restore(query);
  // A stream of rows has its text in a cursor.
  const holders = query.name ? [] : [query, query.cursor].filter(holder => typeof holder?.text === 'string');
  const own = holders.map(addToText).find(Boolean);
  for (const name of HANDLERS) {
    if (typeof query[name] === 'function') put(query, name, bound(name === 'handleError' ? withOwnError(query[name], own) : query[name]));
  }
  for (const name of ['read', 'close']) {
    const method = query[name];
    if (typeof method === 'function') put(query, name, function (...args) { return method.apply(this, args.map(bound)); });
  }
  if (typeof query.prepare === 'function' && needsSetting(query, client)) addToNamed(query, client);
}

// A function that takes an error first, and gets the application's own.
const withOwnError = (callback, own) =>
  own && typeof callback === 'function' ? function (error, ...rest) { return callback.call(this, error && own(error), ...rest); } : callback;

// What node-postgres reads of options.
const OPTIONS = ['text', 'values', 'name', 'rowMode', 'types', 'rows', 'binary', 'portal', 'queryMode', 'query_timeout', 'callback'];

// A copy of the options with other values. Options are read here, because a class can have getters that need the object
// itself.
function withValues(options, values) {
  const read = Object.fromEntries(OPTIONS.map(name => [name, options[name]]).filter(([, value]) => value !== undefined));
  return Object.create(options, Object.getOwnPropertyDescriptors({ ...read, ...values }));
}

// A query as text or options. Without a context, only its callback is bound.
function runText(original, client, config, rest) {
  const isText = typeof config === 'string';
  const { sql, own } = config.name ? {} : withContextOf(isText ? config : config.text);
  const callbackOf = value => bound(withOwnError(value, own));
  const optionsOf = () => {
    const changed = { ...(own && { text: sql }), ...(typeof config.callback === 'function' && { callback: callbackOf(config.callback) }) };
    return Object.keys(changed).length > 0 ? withValues(config, changed) : config;
  };
  const result = original.call(client, isText ? sql : optionsOf(), ...rest.map(callbackOf));
  return own && typeof result?.catch === 'function' ? result.catch(error => { throw own(error); }) : result;
}

// As node-postgres makes a query of its arguments, except that the setting goes ahead of it.
function runNamed(original, client, query) {
  addToNamed(query, client);
  let result;
  if (query.callback) query.callback = bind(query.callback);
  else {
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
    const rest = [values, callback];
    if (typeof config !== 'string' && (config === null || typeof config !== 'object')) return original.call(this, config, ...rest);
    if (typeof config.submit === 'function') {
      hookSubmittable(config, this);
      return original.call(this, config, ...rest.map(bound));
    }
    if (!Query || !needsSetting(config, this)) return runText(original, this, config, rest);
    const query = Object.assign(new Query(withValues(config, {}), ...rest), { query_timeout: config.query_timeout });
    // node-postgres refuses a callback that is no function.
    return query.callback && typeof query.callback !== 'function' ? original.call(this, config, ...rest) : runNamed(original, this, query);
  };
}

// The connection may come when another request releases it.
const hookPool = original =>
  function connect(...args) {
    return original.apply(this, args.map(bound));
  };

const hookConnect = original =>
  function connect(...args) {
    watchTransactions(this);
    const callbacks = args.map(bound);
    return runWith(undefined, () => original.apply(this, callbacks));
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
  replace(ownerOf(Client, 'connect'), 'connect', hookConnect);
  replace(ownerOf(Pool, 'connect'), 'connect', hookPool);
  return pg;
}

// The copies that the application and its ORMs use, as far as they can be found.
copiesOf('pg').forEach(hook);

exports.hook = hook;
