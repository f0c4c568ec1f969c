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

// "newest" and "state" of the server become events of the page, bemi:newest and bemi:state. A state has the texts that the server would show now, and they
// replace those of the page. If none has come for a while, the banner must not pretend to be up to date: a network can be gone without a word. If
// the state is not known, bemi:unknown, the page asks for the reason.
//
// The browser connects again by itself if the connection is lost, and by hand if the answer was another one, such as that of a proxy whose
// server is away. The server then sends the newest id, so a page that compares it with its own misses nothing.

const RETRY = 3_000;
// Some times the period of live.js, or the last one, because a slow database is asked less often.
const SILENCE = 12_000;
const PERIODS = 3;
const lost = document.getElementById('connection-lost');
const ended = document.getElementById('session-ended');

const announce = (name, id) => document.body.dispatchEvent(new CustomEvent(`bemi:${name}`, { detail: { id } }));

let events;
let lostTimer;
let silenceTimer;
let stateAt;

const setText = (element, text) => { if (element && element.textContent !== text) element.textContent = text; };

function setStale(isStale) {
  for (const element of document.querySelectorAll('.trust [data-stale]')) element.hidden = !isStale;
}

function expectState() {
  const now = performance.now();
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(setStale, Math.max(SILENCE, PERIODS * (now - (stateAt ?? now))), true);
  stateAt = now;
}

function showState({ sources, lines }) {
  document.getElementById('source-state').replaceChildren(...new DOMParser().parseFromString(sources, 'text/html').body.childNodes);
  for (const banner of document.querySelectorAll('.trust[data-source]')) {
    const line = lines[banner.dataset.source];
    if (!line) continue;
    if (line.until) setText(banner.querySelector('.until'), line.until);
    const problem = banner.querySelector('[data-problem]');
    setText(problem, line.problem);
    problem.hidden = !line.problem;
  }
}

function takeState(text) {
  if (text) showState(JSON.parse(text));
  else announce('unknown');
  setStale(!text);
  expectState();
  announce('state');
}

function listen() {
  events = new EventSource('/live');
  events.addEventListener('newest', ({ data }) => announce('newest', data));
  events.addEventListener('state', ({ data }) => takeState(data));
  events.addEventListener('open', () => {
    clearTimeout(lostTimer);
    lostTimer = undefined;
    if (!lost.hidden) announce('unknown');
    lost.hidden = true;
  });
  events.addEventListener('error', ({ target }) => {
    // Most are back before it is worth a word.
    lostTimer ??= setTimeout(() => {
      lost.hidden = false;
      setStale(true);
    }, RETRY);
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
  setStale(true);
}

if (lost) {
  listen();
  expectState();
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
