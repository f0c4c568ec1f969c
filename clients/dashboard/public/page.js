// What every page does: the reader's time zone, keys, dialogs, copying, and news from the server.
//
// Without this file the pages still work: they can be read, searched and shared.

import './complete.js';

const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
if (zone && !document.cookie.includes(`zone=${encodeURIComponent(zone)}`)) {
  document.cookie = `zone=${encodeURIComponent(zone)}; path=/; max-age=31536000; samesite=lax`;
}

// On a narrow screen, the navigation is wider than the window.
const [links, current] = ['.navigation ul', '.navigation [aria-current]'].map(selector => document.querySelector(selector));
if (current) links.scrollLeft = current.offsetLeft - links.offsetLeft - 40;

// ---- copying and dialogs

async function copy(button, text) {
  await navigator.clipboard.writeText(text);
  const label = button.textContent;
  button.textContent = button.dataset.copied;
  setTimeout(() => { button.textContent = label; }, 1500);
}

document.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  if (button.dataset.copy) copy(button, document.getElementById(button.dataset.copy).textContent);
  else if ('copyAddress' in button.dataset) copy(button, location.href);
  else if (button.dataset.open) document.getElementById(button.dataset.open)?.showModal();
});

// A click beside a menu closes it.
document.addEventListener('click', event => {
  for (const menu of document.querySelectorAll('details.choice[open]')) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});

// ---- keys

const lines = () => [...document.querySelectorAll('a.line')];

function moveTo(step) {
  const all = lines();
  const at = all.indexOf(document.activeElement);
  const from = at >= 0 ? at : all.findIndex(line => line.ariaCurrent === 'true');
  const next = all[Math.min(Math.max(from + step, 0), all.length - 1)];
  next?.focus();
  next?.scrollIntoView({ block: 'nearest' });
}

function closePanel() {
  const close = document.querySelector('#panel .close');
  const line = lines().find(candidate => candidate.ariaCurrent === 'true');
  close?.click();
  line?.focus();
}

const keys = {
  '/': () => document.getElementById('q')?.select(),
  j: () => moveTo(1),
  k: () => moveTo(-1),
  Escape: closePanel,
  '?': () => document.getElementById('keyboard')?.showModal(),
};

document.addEventListener('keydown', event => {
  const isTyping = event.target.matches?.('input, textarea, select');
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (isTyping) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  if (!keys[event.key]) return;
  event.preventDefault();
  keys[event.key]();
});

// ---- news

// "newest" and "state" of the server become events of the page, bemi:newest and bemi:state.
//
// The browser connects again by itself if the connection is lost, and by hand if the answer was another one, such as that of a proxy whose
// server is away. The server then sends the newest id, so a page that compares it with its own misses nothing.

const RETRY = 3_000;
const lost = document.getElementById('connection-lost');
const ended = document.getElementById('session-ended');

const announce = (name, id) => document.body.dispatchEvent(new CustomEvent(`bemi:${name}`, { detail: { id } }));

let events;
let lostTimer;

function listen() {
  events = new EventSource('/live');
  for (const name of ['newest', 'state']) events.addEventListener(name, ({ data }) => announce(name, data));
  events.addEventListener('open', () => {
    clearTimeout(lostTimer);
    lostTimer = undefined;
    if (!lost.hidden) announce('state', '');
    lost.hidden = true;
  });
  events.addEventListener('error', ({ target }) => {
    // Most are back before it is worth a word.
    lostTimer ??= setTimeout(() => { lost.hidden = false; }, RETRY);
    if (target.readyState === EventSource.CLOSED) listenAgain();
  });
}

async function listenAgain() {
  const response = await fetch('/state').catch(() => undefined);
  // The dashboard was started again, or somebody has logged out, or a link has ended.
  if (![401, 410].includes(response?.status)) return setTimeout(listen, RETRY);
  clearTimeout(lostTimer);
  lost.hidden = true;
  ended.hidden = false;
}

if (lost) {
  listen();
  addEventListener('pagehide', () => events.close());
  // From the cache of the browser, a page comes back as it was.
  addEventListener('pageshow', ({ persisted }) => { if (persisted) listen(); });
}

// A page that could not be shown because the database is away is loaded when it is back.
async function retry() {
  const response = await fetch(location.href).catch(() => undefined);
  if (response && response.status !== 503) location.reload();
  else setTimeout(retry, RETRY);
}

if (document.querySelector('[data-retry]')) setTimeout(retry, RETRY);
