// The page of changes: the chosen line, and new changes at the top of the list.

const list = document.getElementById('list');
const button = document.getElementById('new-changes');

// ---- the chosen line

function markChosen() {
  const id = new URLSearchParams(location.search).get('change');
  for (const line of document.querySelectorAll('a.line[aria-current]')) line.removeAttribute('aria-current');
  document.getElementById(`c-${id}`)?.setAttribute('aria-current', 'true');
}

document.body.addEventListener('htmx:pushedIntoHistory', markChosen);

// Closing needs no answer of the server.
document.addEventListener('click', event => {
  const close = event.target.closest('#panel .close');
  if (!close || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  document.getElementById('panel').replaceChildren();
  history.pushState({}, '', close.href);
  markChosen();
});

// ---- new changes

// The groups of a part, newest first, each with its day.
function groupsOf(part) {
  let day;
  const groups = [];
  for (const element of part.body.children) {
    if (element.matches('h2.day')) day = element;
    if (element.matches('article.group')) groups.push(Object.assign(element, { day: day.dataset.day, dayText: day.textContent }));
  }
  return groups;
}

// Takes over the groups that are not here yet, and replaces those that have grown. The others stay, with focus and scroll position.
//
// If a part has no group that is here, more has come than one part shows, and what lies between is in neither. So all is replaced. The last
// group of a part may be cut, and then it has the name of another one: what comes after a group that is here is not new.
function takeOver(part) {
  const groups = groupsOf(part);
  const known = groups.findIndex(({ id }) => document.getElementById(id));
  const gap = part.querySelector('details.gap');
  const isGapNew = gap && known >= 0 && gap.compareDocumentPosition(groups[known]) & Node.DOCUMENT_POSITION_FOLLOWING;
  if (known < 0 || isGapNew) {
    list.replaceChildren(...part.body.childNodes);
  } else {
    const news = groups.slice(0, known).reverse();
    for (const group of groups.slice(known)) replaceGrown(group);
    for (const group of news) placeFirst(group);
  }
  htmx.process(list);
  markChosen();
}

function replaceGrown(group) {
  const here = document.getElementById(group.id);
  if (here && here.dataset.count !== group.dataset.count) here.replaceWith(group);
}

function placeFirst(group) {
  group.classList.add('fresh');
  const day = list.querySelector('h2.day');
  if (day && day.dataset.day === group.day) return day.after(group);
  const heading = document.createElement('h2');
  heading.className = 'day';
  heading.dataset.day = group.day;
  heading.textContent = group.dayText;
  list.prepend(heading, group);
}

async function refresh() {
  button.hidden = true;
  const asked = newest;
  const address = new URL(location.href);
  address.searchParams.delete('before');
  const response = await fetch(address, { headers: { 'HX-Request': 'true', 'HX-Target': 'list' } });
  if (!response.ok) return;
  takeOver(new DOMParser().parseFromString(await response.text(), 'text/html'));
  shown = asked;
}

// The newest change of all, as far as it is known, and as far as the list shows it. Something may have come since the page was made.
let newest = list.dataset.newest ?? '';
let shown = newest;
let running = Promise.resolve();

// If the list could not be loaded, the next event tries again.
function update() {
  if (newest === shown || !list.dataset.live) return;
  // Who has scrolled down is reading. Nothing moves then.
  if (scrollY > 60) button.hidden = false;
  else running = running.then(refresh).catch(() => {});
}

document.body.addEventListener('bemi:newest', ({ detail: { id } }) => {
  newest = id;
  update();
});
document.body.addEventListener('bemi:state', update);

button.addEventListener('click', () => {
  scrollTo({ top: 0 });
  running = running.then(refresh).catch(() => {});
});
