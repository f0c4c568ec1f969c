// One change, with everything that is known of it.
//
//     /change/ID

import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { findChange, tableOf } from '../queries/changes.js';
import { requestOf } from '../queries/requests.js';
import { neighboursOf, withKeyOfToday } from '../queries/rows.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { Context, Fields } from '../views/change_panel.js';
import { FactsTable } from '../views/facts_table.js';
import { Heading } from '../views/heading.js';
import { html } from '../views/html.js';
import { sentence } from '../views/sentence.js';
import { Trust } from '../views/trust.js';
import { missing, uuid } from './parameters.js';

export const name = 'change';

export async function register(app) {
  app.get('/change/:id', showChange);
}

async function showChange(request, reply) {
  const { page, database, gone } = request;
  const facts = await factsOf(database);
  const data = await withKeyOfToday(isOfToday => database.read(client => changeData(client, uuid(request.params.id), facts, isOfToday), { signal: gone }));
  if (!data) throw missing();
  return reply.show({ text: sentence(page, data.change) }, html`<${ChangePage} page=${page} ...${data} />`);
}

async function changeData(client, id, facts, isOfToday) {
  const change = id && await findChange(client, id, { facts });
  if (!change) return undefined;
  const table = change.database === facts.role.database ? tableOf(facts, change) : undefined;
  return {
    change,
    mayRevert: Boolean(table?.mayWrite),
    source: table ? undefined : change.source,
    neighbours: change.primaryKey === null ? {} : await neighboursOf(client, { change, table: isOfToday ? table : undefined }),
    states: (await sourceStates(client)).filter(state => state.name === change.source),
    gaps: await gapsOf(client, { source: change.source, table: { schema: change.schema, name: change.table } }),
  };
}

function ChangePage({ page, change, source, neighbours, mayRevert, states, gaps }) {
  const { t } = page;
  return html`
    <article class="sheet">
      <${Heading} page=${page} above=${html`<${Way} page=${page} change=${change} source=${source} />`}>${sentence(page, change)}<//>
      <${Trust} page=${page} states=${states} gaps=${gaps} table=${change} />
      <${Actions} page=${page} change=${change} source=${source} mayRevert=${mayRevert} />
      <${Steps} page=${page} neighbours=${neighbours} />
      <section class="block">
        <h2>${t(`change.heading.${change.operation}`)}</h2>
        <${Fields} page=${page} change=${change} />
      </section>
      <section class="block"><${Context} page=${page} change=${change} /></section>
      <section class="block">
        <h3>${t('change.transaction')}</h3>
        <${FactsTable} rows=${transactionFacts(page, change)} />
      </section>
    </article>`;
}

// The sentence does not always name the row.
function Way({ page: { t }, change, source }) {
  const row = [change.table, change.key.join(', ')].filter(Boolean).join(' ');
  return html`<a href=${addresses.changes()}>${t('changes.title')}</a> · ${change.primaryKey === null ? row
    : html`<a href=${addresses.row({ ...change, source, version: change.id })}>${row}</a>`}`;
}

// The changes of the same row before and after this one.
function Steps({ page: { t }, neighbours: { earlier, later } }) {
  if (!earlier && !later) return undefined;
  return html`
    <p class="steps">
      ${earlier && html`<a href=${addresses.change(earlier)} rel="prev">← ${t('change.earlier')}</a>`}
      ${later && html`<a href=${addresses.change(later)} rel="next">${t('change.later')} →</a>`}
    </p>`;
}

function transactionFacts({ t, format }, change) {
  const text = value => html`<span class="value">${value}</span>`;
  return [
    { name: t('change.committed'), content: text(format.exact(change.committedAt)) },
    { name: t('change.stored'), content: text(format.exact(change.createdAt)) },
    { name: t('change.source'), content: text(`${change.source} · ${change.database}`) },
    { name: t('change.table'), content: text(`${change.schema}.${change.table}`) },
    { name: t('change.transaction_id'), content: text(change.transactionId) },
    { name: t('change.id'), content: text(change.id) },
  ];
}

function Actions({ page, change, source, mayRevert }) {
  const { t, has } = page;
  const request = requestOf(change);
  return html`
    <p class="actions">
      ${has('revert') && mayRevert && html`<a class="button primary" href=${addresses.revert({ change: change.id })}>${t('action.revert')}</a>`}
      <a class="button" href=${addresses.request(change.id)}>${t(request ? 'action.request' : 'action.transaction')}</a>
      ${change.primaryKey !== null && html`<a class="button" href=${addresses.row({ ...change, source, version: change.id })}>${t('action.row')}</a>`}
      ${has('past') && html`<a class="button" href=${addresses.past({ ...change, before: change.id })}>${t('action.past')}</a>`}
    </p>`;
}
