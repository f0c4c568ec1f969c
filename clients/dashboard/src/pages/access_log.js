// Who has looked at the history, and what was exported. For roles that may read the log.
//
//     /access-log?who=NAME&exports=only&before=ID

import * as addresses from '../addresses.js';
import { openObjects, withObjects } from '../access/objects.js';
import { accessEntries } from '../queries/access.js';
import { html } from '../views/html.js';
import { text } from './parameters.js';

export const name = 'access_log';
export const address = '/access-log';

export const isShown = facts => facts.role.mayReadAccessLog;

export async function register(app) {
  app.get('/access-log', showLog);
}

async function showLog(request, reply) {
  const { page, database, gone, query } = request;
  const asked = {
    who: text(query.who).slice(0, 200) || undefined,
    exportsOnly: query.exports === 'only',
    before: /^\d{1,18}$/.test(query.before) ? query.before : undefined,
  };
  await openObjects(database);
  const found = await database.read(client => withObjects(database, client, () => accessEntries(client, asked)), { signal: gone });
  if (page.part === 'next') return reply.part(html`<${Entries} page=${page} asked=${asked} found=${found} />`);
  return reply.show('access_log.title', html`<${LogPage} page=${page} asked=${asked} found=${found} />`);
}

function LogPage({ page, asked, found }) {
  const { t } = page;
  return html`
    <article class="sheet">
      <header class="heading"><h1>${t('access_log.title')}</h1><p class="dim">${t('access_log.about')}</p></header>
      <div class="filters">
        ${asked.who && html`<a class="term" href=${addresses.accessLog({ exports: asked.exportsOnly })} title=${t('search.without', { term: asked.who })}>${asked.who}<span aria-hidden="true"> ×</span></a>`}
        ${asked.exportsOnly ? html`<a class="term" href=${addresses.accessLog({ who: asked.who })} title=${t('search.without', { term: t('access_log.exports') })}>${t('access_log.exports')}<span aria-hidden="true"> ×</span></a>`
          : html`<a class="term" href=${addresses.accessLog({ who: asked.who, exports: true })}>${t('access_log.only_exports')}</a>`}
      </div>
      <${Entries} page=${page} asked=${asked} found=${found} />
    </article>`;
}

function Entries({ page, asked, found: { entries, next } }) {
  const { t, format } = page;
  const days = new Map();
  for (const entry of entries) days.set(format.dayKey(entry.loggedAt), [...days.get(format.dayKey(entry.loggedAt)) ?? [], entry]);
  const more = next && addresses.accessLog({ who: asked.who, exports: asked.exportsOnly, before: next });
  return html`
    ${[...days.values()].map(list => html`
      <h2 class="day">${format.day(list[0].loggedAt)}</h2>
      <ul class="group">${list.map(entry => html`<${Entry} page=${page} entry=${entry} asked=${asked} />`)}</ul>`)}
    ${entries.length === 0 && !asked.before && html`<div class="empty"><p>${t('access_log.none')}</p></div>`}
    ${more && html`<p class="next" id="next"><a href=${more} hx-get=${more} hx-target="#next" hx-swap="outerHTML" hx-trigger="revealed, click">${t('access_log.next')}</a></p>`}`;
}

function Entry({ page, entry, asked }) {
  const { t, format } = page;
  const { path, search } = partsOf(entry.address);
  return html`
    <li class="entry-line">
      <span class=${`operation ${entry.action === 'view' ? 'snapshot' : 'update'}`}>${t(`access_log.action.${entry.action}`)}</span>
      <span class="who"><a href=${addresses.accessLog({ who: entry.person ?? entry.role, exports: asked.exportsOnly })}>${entry.person ?? entry.role}</a>
        ${entry.person && html` <span class="dim">${t('who.role', { role: entry.role })}</span>`}</span>
      <span class="what"><a class="value" href=${linkOf(path, entry)}>${path}</a>${search && html` <span class="value dim">${search}</span>`}
        ${entry.changes !== undefined && html` <span class="dim">${t('changes.found', { number: format.number(entry.changes), count: entry.changes })}</span>`}</span>
      <time datetime=${entry.loggedAt.toISOString()} title=${format.moment(entry.loggedAt)}>${format.time(entry.loggedAt)}</time>
    </li>`;
}

// The address as people read it: the search as it was typed, and of the rest what the page is.
function partsOf(logged) {
  const [path, query] = logged.split('?', 2);
  const parameters = new URLSearchParams(query);
  const shown = [parameters.get('q'), ...['change', 'version', 'compared', 'table', 'key'].filter(key => parameters.get(key)).map(key => `${key} ${parameters.get(key)}`)];
  return { path: decode(path), search: shown.filter(Boolean).join(' · ') };
}

function decode(path) {
  try {
    return decodeURIComponent(path);
  } catch {
    return path;
  }
}

// A role can write any text as address into its own entries. Only one of this dashboard becomes a link, and a file is not fetched again.
function linkOf(path, { action, address: target }) {
  if (!/^\/[a-z][\w-]*(?:[/?]|$)/.test(target)) return undefined;
  return action === 'view' ? target : target.replace(/^\/export\/changes\.\w+/, '/export');
}
