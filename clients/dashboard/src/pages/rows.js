// A row by its key, and the rows that were changed last.
//
//     /rows?table=SCHEMA.NAME&key=42
//
// With a key, it leads to the page of the row.

import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { rowKey, recentRows } from '../queries/rows.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { findTable } from '../search/meaning.js';
import { RowName } from '../views/change_line.js';
import { html } from '../views/html.js';
import { Trust } from '../views/trust.js';
import { who } from '../views/who.js';
import { text } from './parameters.js';

export const name = 'rows';
export const address = '/rows';
export const covers = '/row';

export async function register(app) {
  app.get('/rows', showRows);
}

async function showRows(request, reply) {
  const { page, database, gone } = request;
  const facts = await factsOf(database);
  const asked = { table: text(request.query.table), key: text(request.query.key).trim() };
  const table = findTable(facts, asked.table);
  const primaryKey = table && asked.key && await database.read(client => rowKey(client, table, asked.key), { signal: gone });
  if (primaryKey) return reply.redirect(addresses.row({ schema: table.schema, table: table.name, primaryKey }));
  const source = facts.sources.length > 1 ? facts.sources[0].name : undefined;
  const data = await database.read(async client => ({
    rows: await recentRows(client, { table, source }),
    states: (await sourceStates(client)).filter(state => !source || state.name === source),
    gaps: await gapsOf(client, { source, table }),
  }), { signal: gone });
  return reply.show('rows.title', html`<${RowsPage} page=${page} facts=${facts} asked=${asked} table=${table} ...${data} />`);
}

function RowsPage({ page, facts, asked, table, rows, states, gaps }) {
  const { t } = page;
  return html`
    <article class="sheet">
      <header class="heading"><h1>${t('rows.title')}</h1></header>
      <${Trust} page=${page} states=${states} gaps=${gaps} table=${table} />
      <form class="block choose" method="get" action="/rows">
        <label>${t('rows.table')} <select name="table">
          <option value="">${t('rows.all_tables')}</option>
          ${facts.tables.map(one => html`<option value=${fullName(one)} selected=${one === table}>${facts.tables.filter(({ name: other }) => other === one.name).length > 1 ? fullName(one) : one.name}</option>`)}
        </select></label>
        <label>${t('rows.key')} <input name="key" value=${asked.key} placeholder=${table?.key.length > 1 ? table.key.join(', ') : '42'} autocomplete="off" spellcheck="false"
          aria-describedby=${asked.key && 'rows-problem'} aria-invalid=${asked.key ? 'true' : undefined} /></label>
        <button class="primary">${t('rows.open')}</button>
        ${asked.key && html`<p class="problem" id="rows-problem" role="alert">${t(table ? 'rows.no_row' : 'rows.no_table', { key: asked.key, table: table?.name })}</p>`}
      </form>
      <section aria-labelledby="recent">
        <h2 class="day" id="recent">${t('rows.recent')}</h2>
        ${rows.length > 0 ? html`<ul class="group">${rows.map(row => html`<${Row} page=${page} row=${row} facts=${facts} />`)}</ul>`
          : html`<p class="dim">${t('changes.none')}</p>`}
      </section>
    </article>`;
}

const fullName = ({ schema, name: table }) => `${schema}.${table}`;

function Row({ page, row, facts }) {
  const { t, format } = page;
  return html`
    <li>
      <a class="line recent-row" href=${addresses.row({ ...row, source: row.database === facts.role.database ? undefined : row.source })}>
        <span class=${`operation ${row.operation.toLowerCase()}`}>${t(`operation.${row.operation}`)}</span>
        <${RowName} line=${row} />
        <span class="dim">${t('rows.changes', { number: format.number(row.changes), count: row.changes, who: who(page, row.context) })}</span>
        <time datetime=${row.committedAt.toISOString()}>${format.moment(row.committedAt)}</time>
      </a>
    </li>`;
}
