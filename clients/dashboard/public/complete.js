// Completes the word at the cursor of the search box: a combobox with a list, for keyboard, mouse and screen readers.
//
// Arrows choose, Tab and Enter take over, Escape closes. Tab takes the first one if a word has been begun. Otherwise it leaves the
// box, and Enter searches, as without the list.

const input = document.querySelector('.search input');
// The server is asked when the keys have rested for a moment.
const REST = 60;

let list;
let items = [];
let range;
let active = -1;
let timer;
let asking = new AbortController();

const isOpen = () => items.length > 0;

function setActive(index) {
  active = index;
  [...list.children].forEach((option, i) => option.setAttribute('aria-selected', String(i === index)));
  if (index < 0) return input.removeAttribute('aria-activedescendant');
  input.setAttribute('aria-activedescendant', list.children[index].id);
  list.children[index].scrollIntoView({ block: 'nearest' });
}

function show(answer) {
  ({ items } = answer);
  range = answer;
  list.replaceChildren(...items.map(({ shown, hint }, i) => {
    const option = Object.assign(document.createElement('li'), { id: `completion-${i}`, role: 'option' });
    const text = Object.assign(document.createElement('span'), { className: 'completion', textContent: shown });
    option.append(text, Object.assign(document.createElement('small'), { className: 'dim', textContent: hint }));
    return option;
  }));
  setActive(-1);
  list.hidden = !isOpen();
  input.setAttribute('aria-expanded', String(isOpen()));
}

function close() {
  clearTimeout(timer);
  asking.abort();
  show({ items: [] });
}

async function ask() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  const text = input.value;
  const at = input.selectionStart;
  try {
    const response = await fetch(`/completions?${new URLSearchParams({ text, at })}`, { signal, headers: { Accept: 'application/json' } });
    const answer = response.ok ? await response.json() : { items: [] };
    if (!signal.aborted && document.activeElement === input && input.value === text) show(answer);
  } catch {
    // Without an answer there is no list. The box works as before.
  }
}

function askSoon() {
  clearTimeout(timer);
  timer = setTimeout(ask, REST);
}

function take(index) {
  const { text } = items[index];
  const after = input.value.slice(range.to);
  const begin = input.value.slice(0, range.from) + text;
  input.value = begin + (text.endsWith(' ') ? after.trimStart() : after);
  input.setSelectionRange(begin.length, begin.length);
  close();
  // After "table:" come the tables.
  if (!text.endsWith(' ')) ask();
}

// What Tab would take: the chosen one, or the first one of a word that has been begun.
function taken() {
  if (active >= 0 || !isOpen()) return active;
  const word = input.value.slice(range.from, range.to);
  return word !== '' && !word.endsWith(':') && items[0].text.trimEnd() !== word ? 0 : -1;
}

const move = step => setActive((active + step + items.length + (active < 0 && step < 0 ? 1 : 0)) % items.length);

const keys = {
  ArrowDown: () => (isOpen() ? move(1) : ask()),
  ArrowUp: () => isOpen() && move(-1),
  Enter: () => active >= 0 && take(active),
  Tab: event => !event.shiftKey && taken() >= 0 && take(taken()),
  Escape: () => isOpen() && close(),
};

function onKey(event) {
  const act = keys[event.key];
  if (!act || event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (act(event) === false) return;
  event.preventDefault();
  event.stopPropagation();
}

if (input) {
  // A field for searches cannot be a combobox.
  Object.assign(input, { type: 'text', role: 'combobox', ariaAutoComplete: 'list', ariaExpanded: 'false', enterKeyHint: 'search' });
  input.setAttribute('aria-controls', 'completions');
  list = Object.assign(document.createElement('ul'), { id: 'completions', role: 'listbox', ariaLabel: input.dataset.completions, hidden: true });
  input.after(list);
  input.addEventListener('input', askSoon);
  input.addEventListener('keydown', onKey);
  input.addEventListener('blur', close);
  // The box keeps the focus.
  list.addEventListener('pointerdown', event => event.preventDefault());
  list.addEventListener('click', event => {
    const index = [...list.children].indexOf(event.target.closest('li'));
    if (index >= 0) take(index);
  });
}
