// Requests, newest first, each as one line: who, where, and how much of which tables.
//
//     /requests?q=user:7&before=ID

import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { checkColumn } from '../queries/changes.js';
import { findRequests } from '../queries/requests.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { parse } from '../search/grammar.js';
import { meaningOf } from '../search/meaning.js';
import { html, separated } from '../views/html.js';
import { Filters, SearchBox } from '../views/search_box.js';
import { Trust } from '../views/trust.js';
import { where, who } from '../views/who.js';
import { text, uuid } from './parameters.js';

export const name = 'requests';
export const address = '/requests';
export const covers = '/request/';

export async function register(app) {
  app.get('/requests', showRequests);
}

async function showRequests(request, reply) {
  const { page, database, gone } = request;
  const facts = await factsOf(database);
  const search = { q: text(request.query.q), before: uuid(request.query.before) };
  search.terms = parse(search.q);
  search.meaning = meaningOf(search.terms, facts, { zone: page.zone });
  await checkColumn(database, search.meaning, gone);
  // Between sources, ids have no order. So one is shown at a time.
  if (facts.sources.length > 1) search.meaning.source ??= facts.sources[0].name;
  const data = await database.read(client => pageData(client, search), { signal: gone });
  if (page.part === 'next') return reply.part(html`<${Requests} page=${page} search=${search} data=${data} />`);
  return reply.show('requests.title', html`<${RequestsPage} page=${page} search=${search} facts=${facts} data=${data} />`);
}

async function pageData(client, { meaning, before }) {
  return {
    found: meaning.problems.length > 0 ? { requests: [] } : await findRequests(client, meaning, { beforeId: before }),
    states: (await sourceStates(client)).filter(state => !meaning.source || state.name === meaning.source),
    gaps: await gapsOf(client, { source: meaning.source, table: meaning.table, from: meaning.from?.instant }),
  };
}

function RequestsPage({ page, search, facts, data }) {
  const { t } = page;
  return html`
    <div class="changes">
      <header class="top">
        <h1 class="across">${t('requests.title')}</h1>
        <${SearchBox} page=${page} q=${search.q} problems=${search.meaning.problems} action=${address} />
        <${Filters} page=${page} terms=${search.terms} facts=${facts} addressOf=${addresses.requests} />
        <${Trust} page=${page} states=${data.states} gaps=${data.gaps} table=${search.meaning.table} />
      </header>
      <section class="list" aria-label=${t('requests.title')}><${Requests} page=${page} search=${search} data=${data} /></section>
    </div>`;
}

function Requests({ page, search: { q, before }, data: { found } }) {
  const { t, format } = page;
  const days = groupBy(found.requests, request => format.dayKey(request.committedAt));
  const next = found.next && addresses.requests({ q, before: found.next });
  return html`
    ${[...days.values()].map(requests => html`
      <h2 class="day">${format.day(requests[0].committedAt)}</h2>
      <ul class="group">${requests.map(request => html`<${Request} page=${page} request=${request} />`)}</ul>`)}
    ${found.requests.length === 0 && !before && html`<div class="empty"><p>${t('changes.none_found')}</p></div>`}
    ${next && html`
      <p class="next" id="next"><a href=${next} hx-get=${next} hx-target="#next" hx-swap="outerHTML" hx-trigger="revealed, click">${t('requests.next')}</a></p>`}`;
}

function groupBy(list, keyOf) {
  const groups = new Map();
  for (const item of list) groups.set(keyOf(item), [...groups.get(keyOf(item)) ?? [], item]);
  return groups;
}

function Request({ page, request }) {
  const { format } = page;
  const tables = request.tables.map(({ table, count }) => html`<span class="table-count"><b>${table}</b> ${format.number(count)}${request.isCut && '+'}</span>`);
  return html`
    <li>
      <a class="line request" id=${`r-${request.id}`} href=${addresses.request(request.id)}>
        <span class="who">${who(page, request.context, request)}</span>
        <span class="where">${where(page, request.context)}</span>
        <span class="fields">${separated(tables, ', ')}</span>
        <time datetime=${request.committedAt.toISOString()} title=${format.moment(request.committedAt)}>${format.time(request.committedAt)}</time>
      </a>
    </li>`;
}
