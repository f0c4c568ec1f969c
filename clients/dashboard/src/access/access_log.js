// Writes down who has looked at the history, before it is shown. A page whose entry cannot be written is not shown.
//
// Each page is logged with its address, and so with its search. A page that is loaded again within some minutes, as a live page does
// for each new change, is one entry.
//
// Without a log and without the right to make one, no page is shown: --no-access-log is a decision, and not an accident.

import { logAccess } from '../queries/access.js';
import { openObjects, withObjects } from './objects.js';

const SAME_VIEW = 10 * 60_000;
const REMEMBERED = 5000;

const logs = new WeakMap();

// Of each Database. Undefined if bemi is not installed there, and so nothing can be looked at.
export async function openAccessLog(database) {
  if (!await openObjects(database)) return undefined;
  if (!logs.has(database)) logs.set(database, new AccessLog(database));
  return logs.get(database);
}

class AccessLog {
  #database;
  #views = new Map();

  constructor(database) {
    this.#database = database;
  }

  // entry: { action, address, changes, person }.
  async write(entry, options) {
    await this.#database.write(client => withObjects(this.#database, client, () => logAccess(client, entry)), options);
  }

  async writeView({ address, person }, options) {
    const view = `${person ?? ''}\n${address}`;
    if (Date.now() - (this.#views.get(view) ?? 0) < SAME_VIEW) return;
    await this.write({ action: 'view', address, person }, options);
    this.#views.delete(view);
    this.#views.set(view, Date.now());
    // A map has its oldest entry first.
    if (this.#views.size > REMEMBERED) this.#views.delete(this.#views.keys().next().value);
  }
}

// request.logAccess({ action, changes }) writes an entry about what the request does. All GET routes of pages log a view by themselves, but
// those with config.logsItself. A POST route that shows the history calls it.
export function addAccessLog(pages, { accessLog = true }) {
  pages.decorateRequest('logAccess', function write(entry, options) {
    if (!accessLog) return undefined;
    return openAccessLog(this.database).then(log => log?.write({ address: this.url, person: this.person, ...entry }, options));
  });
  pages.decorateRequest('isAccessLogged', accessLog);
  if (!accessLog) return;
  pages.addHook('preHandler', async request => {
    if (request.routeOptions.config?.logsItself || !['GET', 'HEAD'].includes(request.method) || !request.database) return;
    const log = await openAccessLog(request.database);
    await log?.writeView({ address: request.url, person: request.person }, { signal: request.gone });
  });
}
