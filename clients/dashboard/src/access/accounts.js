// People who log in as a role of PostgreSQL. What they may do is what the role may do: the dashboard has no rights of its own.
//
// A password goes to PostgreSQL, and nowhere else. It stays in the memory of this process, because connections of the pool are made
// anew, until the login ends; the cookie of the browser has only the number of the login. If the dashboard is started again, everybody logs in again.

import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { Database } from '../database.js';

const KEPT = 12 * 60 * 60 * 1000;
const FAILURES = 10;
const FAILURE_TIME = 60_000;
const CONNECTIONS = 4;

// error.kind is the key of the sentence: "password", "open" (the server asks for none), or "often".
export class LoginRefused extends Error {
  constructor(kind) {
    super(`the login was refused: ${kind}`);
    this.kind = kind;
  }
}

// Of a role: for no name, pg would take that of the system. PostgreSQL cuts a longer one, so one role would have many names here. A zero byte would end
// the name, and begin a setting of the connection.
const isName = user => user !== '' && Buffer.byteLength(user) < 64 && !user.includes('\0');

export class Accounts {
  #server;
  #logins = new Map();
  #failures = new Map();

  // connectionString names the server and the database. Its role is not used.
  constructor(connectionString) {
    const { host, port, database, ssl } = new pg.Client(connectionString ? { connectionString } : {}).connectionParameters;
    this.#server = { host, port, database, ssl };
  }

  // Returns the number of the login. Throws LoginRefused, or the error of a server that is away.
  async logIn(user, password) {
    if (!isName(user) || !password || password.includes('\0')) throw new LoginRefused('password');
    if (this.#hasFailedOften(user)) throw new LoginRefused('often');
    // It counts as a failure until it is none. Otherwise, many at a time would all be let through.
    const attempt = this.#addFailure(user);
    const { database, wasAsked } = this.#connect(user, password);
    try {
      await database.read(async () => {});
      // Behind "trust" or "peer", any password would do for any role.
      if (!wasAsked()) throw new LoginRefused('open');
    } catch (error) {
      await database.end();
      if (/^28/.test(error.code ?? '')) throw new LoginRefused('password');
      this.#removeFailure(user, attempt);
      throw error;
    }
    this.#removeFailure(user, attempt);
    return this.add(database, user);
  }

  // A login that something else has checked. person is the name to show, and to log if it is not that of the role.
  add(database, user, person) {
    const id = randomBytes(24).toString('base64url');
    this.#logins.set(id, { database, user, person, until: Date.now() + KEPT });
    // Who never comes back logs out, too. Otherwise the password would stay.
    setTimeout(() => this.logOut(id), KEPT).unref();
    return id;
  }

  #connect(user, password) {
    let asked = false;
    // pg calls it when the server asks.
    const answer = () => { asked = true; return password; };
    return { database: new Database({ ...this.#server, user, password: answer }, { connections: CONNECTIONS }), wasAsked: () => asked };
  }

  #addFailure(user) {
    const attempt = { time: Date.now() };
    this.#failures.set(user, [...this.#failures.get(user) ?? [], attempt]);
    return attempt;
  }

  #removeFailure(user, attempt) {
    this.#failures.set(user, (this.#failures.get(user) ?? []).filter(other => other !== attempt));
  }

  #hasFailedOften(user) {
    for (const [name, attempts] of this.#failures) {
      const recent = attempts.filter(({ time }) => Date.now() - time < FAILURE_TIME);
      if (recent.length > 0) this.#failures.set(name, recent);
      else this.#failures.delete(name);
    }
    return (this.#failures.get(user)?.length ?? 0) >= FAILURES;
  }

  // { database, user, person }, or undefined.
  find(id) {
    const login = this.#logins.get(id);
    if (login && login.until < Date.now()) this.logOut(id);
    return this.#logins.get(id);
  }

  logOut(id) {
    const login = this.#logins.get(id);
    this.#logins.delete(id);
    // A query that still runs may end.
    login?.database.end();
  }

  async end() {
    const logins = [...this.#logins.values()];
    this.#logins.clear();
    await Promise.all(logins.map(({ database }) => database.end()));
  }
}
