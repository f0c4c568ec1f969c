// One change with its row, at the side of a list.

import * as addresses from '../addresses.js';
import { MOST_MEMBERS } from '../queries/values.js';
import { Difference } from './difference.js';
import { FactsTable } from './facts_table.js';
import { html } from './html.js';
import { sentence } from './sentence.js';
import { Timeline } from './timeline.js';
import { Value } from './value.js';
import { who } from './who.js';

const PANEL = { 'hx-target': '#panel', 'hx-push-url': 'true' };

// change is that of findChange(); row is { versions, hasEarlier, keyColumns, mayWrite, blame }, or undefined if its table is not here.
export function ChangePanel({ page, change, row, q }) {
  const { t } = page;
  return html`
    <div class="panel-content">
      <a class="close" href=${addresses.changes({ q })} title=${t('panel.close')} aria-label=${t('panel.close')}>×</a>
      <h2>${change.table}${change.key.length > 0 && html` <span class="key">${change.key.join(', ')}</span>`}</h2>
      <p class="dim">${sentence(page, change)}</p>
      ${row && html`<${RowTimeline} page=${page} change=${change} row=${row} q=${q} />`}
      <${Fields} page=${page} change=${change} />
      <${Context} page=${page} change=${change} />
      ${row && html`<${LastSet} page=${page} change=${change} row=${row} q=${q} />`}
      <${Actions} page=${page} change=${change} row=${row} />
    </div>`;
}

function RowTimeline({ page, change, row, q }) {
  const { t, format } = page;
  const place = row.versions.findIndex(version => version.id === change.id);
  const key = place < 0 ? 'row.earlier' : row.hasEarlier ? 'row.version_late' : 'row.version';
  return html`
    <${Timeline} page=${page} versions=${row.versions} hasEarlier=${row.hasEarlier} current=${change.id}
      addressOf=${id => addresses.changes({ q, change: id })} hx=${PANEL} />
    <p class="dim small">${t(key, { number: place + 1, total: row.versions.length, first: format.moment(row.versions[0].committedAt) })}</p>`;
}

export function Fields({ page, change }) {
  const { t } = page;
  const changed = change.changed.map(field => ({ name: field.name, content: html`<${Difference} page=${page} field=${field} />` }));
  return html`
    ${change.operation === 'TRUNCATE' && html`<p>${t('change.truncated')}</p>`}
    ${changed.length > 0 && html`<${FactsTable} rows=${changed} caption=${t('change.changed')} />`}
    ${change.unchanged.length > 0 && html`
      <details class="fold"><summary>${t('change.unchanged', { count: change.unchanged.length })}</summary>
        <${FactsTable} rows=${valuesOf(page, change.unchanged)} />
      </details>`}`;
}

// What the application has set, the tags of the statement's comment, and what the server has added.
export function Context({ page, change }) {
  const { t } = page;
  const { tags, server } = change;
  const own = change.contextMembers.filter(({ name }) => !(name === '_tags' && tags.length > 0) && !(name === '_db' && server.length > 0));
  const group = (title, list, keyOf) => list.length > 0 && html`<h4>${title}</h4><${FactsTable} rows=${valuesOf(page, named(t, list, keyOf))} caption=${title} />`;
  return html`
    <h3>${t('change.context')}</h3>
    ${own.length > 0 ? html`<${FactsTable} rows=${valuesOf(page, own)} />` : html`<p class="dim">${t('change.no_context')}</p>`}
    ${change.contextMembers.length === MOST_MEMBERS && html`<p class="dim small">${t('value.most', { number: page.format.number(MOST_MEMBERS) })}</p>`}
    ${group(t('change.tags'), tags, name => `tags.${name}`)}
    ${group(t('change.server'), server, name => `server.${name}`)}`;
}

// Those of the common frameworks and of bemi have a name, in the order of these.
function named(t, list, keyOf) {
  const names = list.map(({ name, value }) => ({ name: t.has(keyOf(name)) ? t(keyOf(name)) : name.replaceAll('_', ' '), value }));
  return names.sort((a, b) => a.name.localeCompare(b.name, t.language));
}

const valuesOf = (page, list) => list.map(({ name, value }) => ({ name, content: html`<${Value} page=${page} value=${value} />` }));

// Who has set the columns that this change has left alone.
function LastSet({ page, change, row, q }) {
  const { t, format } = page;
  const known = new Set([...change.changed.map(field => field.name), ...row.keyColumns]);
  const others = row.blame.filter(({ column, changeId }) => changeId && changeId !== change.id && !known.has(column))
    .sort((a, b) => b.changedAt - a.changedAt).slice(0, 8);
  if (others.length === 0) return undefined;
  const link = ({ context, changedAt, changeId }) => {
    const address = addresses.changes({ q, change: changeId });
    return html`<a href=${address} hx-get=${address} ...${PANEL}>${who(page, context)} · ${format.moment(changedAt)}</a>`;
  };
  return html`
    <h3>${t('row.last_set')}</h3>
    <${FactsTable} rows=${others.map(blame => ({ name: blame.column, content: link(blame) }))} />`;
}

// Only what the role may do.
function Actions({ page, change, row }) {
  const { t, has } = page;
  const links = [
    has('revert') && row?.mayWrite && html`<a class="button primary" href=${addresses.revert({ change: change.id })}>${t('action.revert')}</a>`,
    has('request') && html`<a class="button" href=${addresses.request(change.id)}>${t('action.request')}</a>`,
    has('row') && change.primaryKey !== null && html`<a class="button" href=${addresses.row({ ...change, source: row ? undefined : change.source })}>${t('action.row')}</a>`,
    has('past') && html`<a class="button" href=${addresses.past({ ...change, before: change.id })}>${t('action.past')}</a>`,
    has('change') && html`<a class="button" href=${addresses.change(change.id)}>${t('action.change')}</a>`,
  ].filter(Boolean);
  return links.length > 0 && html`<p class="actions">${links}</p>`;
}
