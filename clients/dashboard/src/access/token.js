// The token in the printed address. It opens one session, and is then worth nothing: an address stays in the
// history of a shell and of a browser.

import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';

const digest = text => createHash('sha256').update(String(text)).digest();

export class OneTimeToken {
  #expected;

  // Returns a new token. The one before becomes invalid.
  renew() {
    const text = randomBytes(24).toString('base64url');
    this.#expected = digest(text);
    return text;
  }

  // Whether this is the token, once.
  redeem(text) {
    if (!this.#expected || !timingSafeEqual(digest(text), this.#expected)) return false;
    this.#expected = undefined;
    return true;
  }
}
