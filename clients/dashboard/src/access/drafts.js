// Sources that are being connected: what the form has said, until the source is connected or an hour has passed.
//
// The password is for the checks alone. It stays in the memory of this process, is never sent to a browser, and is forgotten with the
// draft. The server of the history has its own, in its password file.

import { randomBytes } from 'node:crypto';

const KEPT = 60 * 60 * 1000;
const MOST = 100;

export class Drafts {
  #drafts = new Map();

  // Returns the id of the draft. owner is the Database of who makes it: nobody else can use it.
  add(owner, parameters, password) {
    this.#forgetOld();
    const id = randomBytes(12).toString('base64url');
    this.#drafts.set(id, { owner, parameters, password, until: Date.now() + KEPT });
    // Perhaps nobody makes another draft or looks for one.
    setTimeout(() => this.forget(id), KEPT).unref();
    return id;
  }

  // { parameters, password }, or undefined.
  find(owner, id) {
    this.#forgetOld();
    const draft = this.#drafts.get(id);
    return draft?.owner === owner ? draft : undefined;
  }

  forget(id) {
    this.#drafts.delete(id);
  }

  #forgetOld() {
    for (const [id, { until }] of this.#drafts) {
      if (until < Date.now() || this.#drafts.size > MOST) this.#drafts.delete(id);
    }
  }
}
