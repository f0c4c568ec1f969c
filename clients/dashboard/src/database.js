// The only way to the database.
//
// A Database stands for one role at one server: it has a pool of connections, and each request borrows one. Everything a
// page reads runs in a read-only transaction with a limit of time and a pinned search_path. What writes calls write(),
// and there are few such calls: search for ".write(" to see all of them.
//
// If the browser goes away, the query that it has waited for is cancelled. The connection is given back only after
// the server has answered the cancel request, because a cancel that comes late would end the query of another request.
//
// Values are always bound as parameters. Nothing here or in queries/ puts a value into the text of a statement.

import { checkServerIdentity } from 'node:tls';
import pg from 'pg';

const READ_TIMEOUT = 10_000;
const WRITE_TIMEOUT = 60_000;
const LIFETIME = 10 * 60;

// bigint and numeric stay texts, because a number of JavaScript cannot hold them.
const types = {
  getTypeParser(oid, format) {
    if (oid === pg.types.builtins.TIMESTAMPTZ) return text => new Date(text);
    if (oid === pg.types.builtins.INTERVAL) return text => text;
    return pg.types.getTypeParser(oid, format);
  },
};

const ignore = () => {};

// The browser has gone. Nobody reads the answer.
export class Gone extends Error {}

export class Database {
  #pool;
  #canceller;
  #role;

  // role: the one to change to in each transaction, if it is not that of the connection.
  // config is that of pg.Pool: a connectionString, or host, user, password and so on.
  // lifetime: after so many seconds, a connection is made anew, so a role that may not log in any more does not stay.
  constructor(config, { connections = 8, role, lifetime = LIFETIME } = {}) {
    this.#role = role;
    const common = { application_name: 'bemi-dashboard', connectionTimeoutMillis: 5_000, types, ...config };
    this.#pool = new pg.Pool({ ...common, max: connections, idleTimeoutMillis: 30_000, maxLifetimeSeconds: lifetime });
    // A pool of its own: if all connections wait for slow queries, these can still be cancelled.
    this.#canceller = new pg.Pool({ ...common, max: 1, idleTimeoutMillis: 10_000 });
    // A connection that fails while it is idle is replaced. Without a listener, the process would end.
    this.#pool.on('error', ignore);
    this.#canceller.on('error', ignore);
  }

  // Calls work(client) in a read-only transaction. client.query(text, values) is that of pg.
  read(work, { signal, timeout = READ_TIMEOUT } = {}) {
    return this.#transaction('BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ ONLY', work, signal, timeout);
  }

  // Calls work(client) in a transaction that may write.
  write(work, { signal, timeout = WRITE_TIMEOUT } = {}) {
    return this.#transaction('BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE', work, signal, timeout);
  }

  async #transaction(begin, work, signal, timeout) {
    if (signal?.aborted) throw new Gone();
    const { client, pid } = await this.#begin(begin, timeout);
    let cancelling;
    let broken;
    try {
      const cancel = () => { cancelling ??= this.#cancel(pid); };
      signal?.addEventListener('abort', cancel, { once: true });
      try {
        const result = await work(client);
        if (signal?.aborted) throw new Gone();
        await client.query('COMMIT');
        return result;
      } finally {
        signal?.removeEventListener('abort', cancel);
      }
    } catch (error) {
      broken = await rollBack(client, cancelling);
      throw signal?.aborted ? new Gone() : error;
    } finally {
      await cancelling;
      client.off('error', ignore);
      client.release(broken);
    }
  }

  // A connection of the pool may have been lost while it was idle. Nothing has run on it yet, so another one is taken.
  async #begin(begin, timeout) {
    for (let lost = 0; ; lost++) {
      const client = await this.#pool.connect();
      // The server may go away between two queries. The next query then fails, and that is enough.
      client.on('error', ignore);
      try {
        return { client, pid: await beginWith(client, begin, timeout, this.#role) };
      } catch (error) {
        client.release(error);
        if (!isConnectionLost(error) || lost > this.#pool.options.max) throw error;
      }
    }
  }

  // Resolves in any case: a query that cannot be cancelled ends by its statement_timeout.
  async #cancel(pid) {
    await this.#canceller.query('SELECT pg_catalog.pg_cancel_backend($1)', [pid]).catch(ignore);
  }

  async end() {
    await Promise.all([this.#pool.end(), this.#canceller.end()]);
  }
}

// A connection to a source that is about to be connected, for its checks. parameters are those of connection_string.js.
//
// The host comes from a form. Without a function, pg would send it the password of PGPASSWORD or .pgpass, which is for another server.
//
// TLS is that of libpq, with which the worker connects: "require" verifies the certificate, but not its names, if there is a root certificate. ca is its text, or
// undefined for those of the system. By itself, pg would compare the names with "localhost" if the host is an address.
export function sourceDatabase({ host, port, database, user, sslmode, sslrootcert }, password, ca) {
  const ssl = sslmode === 'disable' ? false : {
    ca, rejectUnauthorized: verifies({ sslmode, sslrootcert }),
    checkServerIdentity: (_, certificate) => (sslmode === 'verify-full' ? checkServerIdentity(host, certificate) : undefined),
  };
  return new Database({ host, port: Number(port), database, user, password: () => password || undefined, ssl }, { connections: 1 });
}

export const verifies = ({ sslmode, sslrootcert }) => sslmode === 'verify-full' || (sslmode === 'require' && Boolean(sslrootcert));

// Whether the server is away, stops, starts, or has ended the connection. pg itself has no code for some of these.
export const isConnectionLost = ({ code, message }) =>
  /^(08|53|57P|E[A-Z]{4,}$)/.test(code ?? '') || /^Connection terminated|timeout exceeded when trying to connect/.test(message ?? '');

// One round trip. Behind PgBouncer the process differs from transaction to transaction, so it is asked for here.
async function beginWith(client, begin, timeout, role) {
  const results = await client.query(`${begin};
    ${role === undefined ? '' : `SET LOCAL ROLE ${pg.escapeIdentifier(role)};`}
    SET LOCAL statement_timeout = ${Number(timeout)};
    SET LOCAL idle_in_transaction_session_timeout = ${Number(timeout)};
    SET LOCAL search_path = pg_catalog, pg_temp;
    SET LOCAL timezone = 'UTC';
    SET LOCAL datestyle = 'ISO';
    SET LOCAL intervalstyle = 'postgres';
    SELECT pg_catalog.pg_backend_pid() AS pid`);
  return results.at(-1).rows[0].pid;
}

// Returns the error if the connection cannot be used any more, and the pool then closes it.
async function rollBack(client, cancelling) {
  await cancelling;
  try {
    await client.query('ROLLBACK');
  } catch (error) {
    return error;
  }
}
