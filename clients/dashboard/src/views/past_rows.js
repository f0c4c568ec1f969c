// Rows of a table as they were, and the rows that differ from those of now.

import * as addresses from '../addresses.js';
import { format as formatTerms } from '../search/grammar.js';
import { html, separated } from './html.js';
import { OldAndNew, ShortValue } from './value.js';

// The table itself: one column for each of its columns. Those that were dropped since come last.
export function PastRows({ page, table, rows, isFiltered }) {
  const { t } = page;
  if (rows.length === 0) return html`<p class="empty">${t(isFiltered ? 'past.none_found' : 'past.none')}</p>`;
  const names = [...new Set([...table.key, ...rows.flatMap(row => row.columns.map(column => column.name))])];
  const hidden = Math.max(...rows.map(row => row.hiddenColumns));
  return html`
    ${hidden > 0 && html`<p class="dim small">${t('past.hidden_columns', { count: hidden, number: page.format.number(hidden) })}</p>`}
    <div class="wide-table" tabindex="0" role="region" aria-label=${t('past.rows')}>
      <table class="past-rows">
        <thead><tr>${names.map(name => html`<th scope="col" class=${table.source || table.columns.includes(name) ? undefined : 'gone'}>${name}</th>`)}</tr></thead>
        <tbody>${rows.map(row => html`<${PastRow} page=${page} table=${table} row=${row} names=${names} />`)}</tbody>
      </table>
    </div>`;
}

function PastRow({ page, table, row, names }) {
  const values = new Map(row.columns.map(column => [column.name, column.value]));
  return html`
    <tr>${names.map((name, i) => (table.key.length > 0 && i === 0
      ? html`<th scope="row"><a href=${historyOf(page, table, row)}><${Cell} value=${values.get(name)} /></a></th>`
      : html`<td class=${values.get(name)?.kind === 'number' ? 'number' : undefined}><${Cell} value=${values.get(name)} /></td>`))}</tr>`;
}

function Cell({ value }) {
  if (!value || value.kind === 'null') return html`<span class="dim">∅</span>`;
  return html`<${ShortValue} value=${value} kind="" />`;
}

// Where the history of a row is shown.
function historyOf(page, table, { primaryKey }) {
  if (page.has('row')) return addresses.row({ schema: table.schema, table: table.name, primaryKey });
  return addresses.changes({ q: formatTerms([{ qualifier: 'table', value: `${table.schema}.${table.name}` }, { qualifier: 'key', value: primaryKey }]) });
}

const FIELDS = 8;

// What has become of the rows since.
export function Differences({ page, table, moment, rows, mayRestore, isFiltered }) {
  const { t } = page;
  if (rows.length === 0) return html`<p class="empty">${t(isFiltered ? 'past.none_found' : 'past.no_differences')}</p>`;
  return html`
    <div class="group differences">
      <ul>${rows.map(row => html`<${DifferentRow} page=${page} table=${table} moment=${moment} row=${row} mayRestore=${mayRestore} />`)}</ul>
    </div>`;
}

function DifferentRow({ page, table, moment, row, mayRestore }) {
  const { t } = page;
  const { operation, changed, key, primaryKey } = row;
  const fields = changed.filter(field => operation === 'UPDATE' || !table.key.includes(field.name)).slice(0, FIELDS).map(field => html`
    <span><b>${field.name}</b> <${OldAndNew} page=${page} field=${field} operation=${operation} /></span>`);
  const name = html`<span class="row-name">${table.name}${key.length > 0 && html` <span class="key"><i>#</i>${key.join(', ')}</span>`}</span>`;
  return html`
    <li class="line">
      <span class=${`operation ${operation.toLowerCase()}`}>${t(`operation.${operation}`)}</span>
      ${primaryKey === null ? name : html`<a href=${historyOf(page, table, row)}>${name}</a>`}
      <span class="fields">${separated(fields, ', ')}${changed.length > FIELDS && ' …'}</span>
      ${mayRestore && html`<a class="act" href=${addresses.restore({
        schema: table.schema, table: table.name, primaryKey, before: moment.before, at: moment.before ? undefined : moment.at,
      })}>${t('action.restore')}<span class="heard"> ${table.name} ${key.join(', ')}</span></a>`}
    </li>`;
}
