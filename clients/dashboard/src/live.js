// What is new, as server-sent events.
//
// While somebody has a page open, one query a second asks for the newest change, once for all browsers of a
// Database, or of a link for a customer. /live then sends "newest" with its id. The browser fetches what it shows from the ordinary pages, so
// nothing of a row goes through here.
//
// Every few seconds, it sends "state": how the sources are, in the language and the time zone of the browser, which need not ask for it.
// Without data, the database does not answer.
//
// A browser that comes again gets the newest id at once, compares it with what it shows, and so misses nothing. If the database was away,
// it gets the id again when the database is back.

import { newestChange } from './queries/changes.js';
import { isConnectionLost } from './database.js';
import { sourceStates } from './queries/trust.js';
import { SourceStates } from './views/source_state.js';
import { html, render } from './views/html.js';
import { lineOf } from './views/trust.js';

const PERIOD = 1_000;
const STATE_PERIOD = 3_000;
const RATE_TIME = 60_000;
// Whether a browser may still listen is asked as often.
const CHECK_PERIOD = 5_000;
// Proxies end a connection that is silent.
const SILENCE = 20_000;
// A slow query is asked for less often, so that it takes a tenth of the time at most.
const PAUSE = 9;

class Watch {
  #database;
  #limit;
  #listeners = new Set();
  #isLooking = false;
  #timer;
  // The newest of all, and the newest of those that the listeners may see.
  #seen;
  #newest;
  #isAway = false;
  #sent = 0;

  constructor(database, limit) {
    this.#database = database;
    this.#limit = limit;
  }

  add(listener) {
    this.#listeners.add(listener);
    if (this.#newest !== undefined && !this.#isAway) listener('newest', this.#newest);
    if (!this.#isLooking) this.#look();
  }

  remove(listener) {
    this.#listeners.delete(listener);
    if (this.#listeners.size > 0 || !this.#timer) return;
    clearTimeout(this.#timer);
    this.#stop();
  }

  #stop() {
    this.#isLooking = this.#isAway = false;
    this.#timer = this.#newest = this.#seen = undefined;
  }

  // The next look begins a second after this one has ended, so a slow server is not asked twice at a time.
  async #look() {
    this.#isLooking = true;
    this.#timer = undefined;
    const begin = performance.now();
    let states;
    try {
      const isDue = Date.now() - this.#sent >= STATE_PERIOD;
      const [newest, found] = await this.#database.read(async client => [await this.#read(client), isDue ? await sourceStates(client) : undefined], { timeout: 5_000 });
      states = found;
      const isNews = newest !== this.#newest || this.#isAway;
      this.#newest = newest;
      this.#isAway = false;
      if (isNews) this.#send('newest', newest);
    } catch {
      this.#isAway = true;
    }
    this.#sendState(states);
    const pause = Math.max(PERIOD, PAUSE * (performance.now() - begin));
    if (this.#listeners.size > 0) this.#timer = setTimeout(() => this.#look(), pause);
    else this.#stop();
  }

  // Without an index of its key, it takes long to find the newest change of a context. If nothing has come at all, nothing is searched for.
  async #read(client) {
    const seen = await newestChange(client);
    if (!this.#limit) return seen ?? '';
    const newest = seen === this.#seen ? this.#newest : await newestChange(client, this.#limit) ?? '';
    this.#seen = seen;
    return newest;
  }

  #sendState(states) {
    if (!states && (!this.#isAway || Date.now() - this.#sent < STATE_PERIOD)) return;
    this.#sent = Date.now();
    this.#send('state', states && { states, rates: ratesOf(this.#database, states) });
  }

  #send(event, data) {
    for (const listener of this.#listeners) listener(event, data);
  }
}

const watches = new WeakMap();

function watchOf(database, limit) {
  if (!watches.has(database)) watches.set(database, new Map());
  const known = watches.get(database);
  const key = limit ? JSON.stringify(limit.context) : '';
  if (!known.has(key)) known.set(key, new Watch(database, limit));
  return known.get(key);
}

export function addLive(app) {
  const open = new Set();
  // A server that closes does not wait for browsers that listen.
  app.addHook('preClose', async () => { for (const response of open) response.end(); });

  app.get('/live', { config: { isForLinks: true } }, (request, reply) => {
    reply.hijack();
    const response = reply.raw;
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-store', 'X-Accel-Buffering': 'no' });
    // To write after the end would be an error.
    const write = text => { if (!response.writableEnded) response.write(text); };
    write('retry: 2000\n\n');
    const listener = (event, data) => write(`event: ${event}\ndata: ${event === 'state' ? stateText(request.page, data) : data}\n\n`);
    const silence = setInterval(write, SILENCE, ':\n\n');
    // Who has logged out, or whose link has ended, hears nothing more. If the database is away, there is nothing to hear.
    const check = setInterval(async () => { if (!await request.mayStay().catch(() => true)) response.end(); }, CHECK_PERIOD);
    const watch = watchOf(request.database, request.limit);
    watch.add(listener);
    open.add(response);
    const stop = () => {
      clearInterval(silence);
      clearInterval(check);
      watch.remove(listener);
      open.delete(response);
    };
    response.once('close', stop);
    // The browser may have gone before this, and then there is no such event any more.
    if (response.destroyed) stop();
  });

  app.get('/state', { config: { isForLinks: true } }, async (request, reply) => {
    const { page, database, gone } = request;
    try {
      const states = await database.read(sourceStates, { signal: gone });
      return reply.part(sources(page, { states, rates: ratesOf(database, states) }));
    } catch (error) {
      if (isConnectionLost(error)) return reply.part(html`<p><span class="dot stopped"></span>${page.t('error.away.title')}</p>`);
      if (isWithoutRights(error)) return reply.part('');
      throw error;
    }
  });
}

// How much happens at all is nothing for a customer.
const sources = (page, { states, rates }) => html`<${SourceStates} page=${page} states=${states} rates=${page.link ? new Map() : rates} />`;

// JSON has no line breaks, which would end the data of an event.
const stateText = (page, data) => (data ? JSON.stringify({ sources: render(sources(page, data)), lines: Object.fromEntries(data.states.map(state => [state.name, lineOf(page, state)])) }) : '');

// Without bemi, or without the right to read its state, the page itself says so.
const isWithoutRights = ({ code }) => ['3F000', '42501'].includes(code);

// Changes a minute, from the counts of the last minute.
const samples = new WeakMap();

function ratesOf(database, states) {
  const now = Date.now();
  const known = (samples.get(database) ?? []).filter(sample => now - sample.time < RATE_TIME);
  known.push({ time: now, changes: new Map(states.map(({ name, changes }) => [name, changes])) });
  samples.set(database, known);
  const [first] = known;
  const minutes = (now - first.time) / 60_000;
  if (minutes < 4 / 60) return new Map();
  return new Map(states.filter(({ name }) => first.changes.has(name))
    .map(({ name, changes }) => [name, Math.max(0, Math.round((changes - first.changes.get(name)) / minutes))]));
}
