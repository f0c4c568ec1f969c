// The audit trail: who changed what.

import { findChanges } from 'bemi-mikro-orm';

const MOST_ROWS = 200;

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

const escape = text => String(text).replace(/[&<>"']/g, character => ENTITIES[character]);

// A template literal whose values are escaped, except those that it has made itself.
class Html extends String {}
const render = value =>
  value instanceof Html ? value : Array.isArray(value) ? value.map(render).join('') : escape(value);
const html = (strings, ...values) => new Html(String.raw({ raw: strings }, ...values.map(render)));

const shown = value => (value === undefined ? '' : JSON.stringify(value));

function differences({ before, after }) {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...names]
    .filter(name => shown(before[name]) !== shown(after[name]))
    .map(name => html`<tr><th>${name}</th><td class="old">${shown(before[name])}</td><td class="new">${shown(after[name])}</td></tr>`);
}

const row = change => html`
  <tr>
    <td><time>${change.committedAt.toISOString().slice(0, 19).replace('T', ' ')}</time></td>
    <td>${change.context.userId ?? 'unknown'}</td>
    <td><code>${change.context.endpoint ?? ''}</code></td>
    <td><b class="${change.operation}">${change.operation}</b> todo ${change.primaryKey ?? ''}</td>
    <td><table>${differences(change)}</table></td>
  </tr>`;

const page = (changes, { user, todo }) => html`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Changes</title>
<style>
  body { font: 15px/1.4 sans-serif; margin: 2em; color: #223; }
  form { margin: 1em 0; }
  input { width: 7em; font: inherit; }
  table { border-collapse: collapse; }
  main > table > thead th { text-align: left; border-bottom: 2px solid #889; }
  main > table > * > tr > * { padding: .4em 1.2em .4em 0; vertical-align: top; border-bottom: 1px solid #dde; }
  td table th { font-weight: normal; text-align: left; color: #667; }
  td table th, td table td { padding: 0 .8em 0 0; }
  .old { color: #a22; text-decoration: line-through; }
  .new, .CREATE { color: #272; }
  .UPDATE { color: #a60; }
  .DELETE { color: #a22; }
  time, td:nth-child(4) { white-space: nowrap; }
</style>
<main>
<h1>Changes</h1>
<form>
  <label>User <input name="user" value="${user}"></label>
  <label>Todo <input name="todo" value="${todo}"></label>
  <button>Filter</button> <a href="/changes">all</a>
</form>
<table>
  <thead><tr><th>When (UTC)<th>Who<th>Where<th>What<th>Old and new value</tr></thead>
  <tbody>${changes.map(row)}</tbody>
</table>
<p>${changes.length === 0 ? 'No changes.' : changes.length === MOST_ROWS ? `The last ${MOST_ROWS} changes.` : ''}</p>
</main>
</html>
`;

export const changesPage = em => async (req, res) => {
  // ?user=1&user=2 makes an array of them.
  const filter = { user: String(req.query.user ?? '').trim(), todo: String(req.query.todo ?? '').trim() };
  // The worker is milliseconds behind. This waits for it, because users expect to see their last change.
  await em().execute("SELECT bemi.sync('5s')");
  const changes = await findChanges(
    em(),
    {
      schema: 'public',
      table: 'todo',
      ...(filter.todo && { key: filter.todo }),
      ...(filter.user && { context: { userId: Number(filter.user) } }),
    },
    { orderBy: { id: 'desc' }, limit: MOST_ROWS },
  );
  res.set('Content-Security-Policy', "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'");
  res.type('html').send(String(page(changes, filter)));
};
