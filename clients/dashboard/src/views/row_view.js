// The page of a row, and the part of it that shows one version.

import * as addresses from '../addresses.js';
import { format as formatTerms } from '../search/grammar.js';
import { Difference } from './difference.js';
import { FactsTable } from './facts_table.js';
import { Heading } from './heading.js';
import { html } from './html.js';
import { sentence } from './sentence.js';
import { Timeline } from './timeline.js';
import { Trust } from './trust.js';
import { Value } from './value.js';
import { where, who } from './who.js';

// More points would be too close to each other. The slider is for all.
const POINTS = 24;

const addressOf = (row, version, more) => addresses.row({ schema: row.schema, table: row.name, primaryKey: row.primaryKey, source: row.source, version, ...more });

export function RowPage({ page, row, history, current, states, gaps, ...shown }) {
  const { t } = page;
  const { versions } = history;
  return html`
    <article class="sheet">
      <${Heading} above=${html`<a href=${addresses.rows({ table: `${row.schema}.${row.name}` })}>${t('rows.title')}</a>`}>
        ${row.name} <span class="key">${row.key.join(', ')}</span>
      <//>
      <${Trust} page=${page} states=${states} gaps=${gaps} table=${row} />
      <div class="block versions">
        <${Summary} page=${page} history=${history} />
        <${PointsNear} page=${page} row=${row} history=${history} current=${current} />
        <${Slider} page=${page} row=${row} versions=${versions} current=${current} />
      </div>
      <div id="version"><${RowVersion} page=${page} row=${row} history=${history} current=${current} ...${shown} /></div>
      <${Compare} page=${page} row=${row} versions=${versions} current=${current} other=${shown.other} comparison=${shown.comparison} />
      <${VersionList} page=${page} row=${row} history=${history} />
    </article>`;
}

function Summary({ page: { t, format }, history: { versions, hasEarlier, hasLater } }) {
  const number = format.number(versions.length);
  if (hasEarlier || hasLater) return html`<p class="dim small">${t('row.some_versions', { number })}</p>`;
  return html`<p class="dim small">${t('row.versions', { number, count: versions.length, first: format.moment(versions[0].committedAt), last: format.moment(versions.at(-1).committedAt) })}</p>`;
}

function PointsNear({ page, row, history: { versions, hasEarlier }, current }) {
  const place = versions.indexOf(current);
  const first = Math.max(0, Math.min(place - POINTS / 2, versions.length - POINTS));
  return html`<${Timeline} page=${page} versions=${versions.slice(first, first + POINTS)} hasEarlier=${hasEarlier || first > 0} current=${current.id}
    addressOf=${id => addressOf(row, id)} hx=${{ 'hx-target': '#version', 'hx-push-url': 'true' }} />`;
}

// Without JavaScript it is not there (style.css), and the points and the list are the way.
function Slider({ page: { t, format }, row, versions, current }) {
  if (versions.length < 2) return undefined;
  const steps = versions.map(version => ({ id: version.id, address: addressOf(row, version.id), text: format.moment(version.committedAt) }));
  return html`
    <label class="slider">
      <span class="heard">${t('row.slider')}</span>
      <input type="range" id="slider" min="1" max=${versions.length} value=${versions.indexOf(current) + 1} data-steps=${JSON.stringify(steps)}
        aria-valuetext=${format.moment(current.committedAt)} />
      <output id="slider-text">${format.moment(current.committedAt)}</output>
    </label>`;
}

export function RowVersion({ page, row, history, current, isNewest, content, setters }) {
  const { t, format, has } = page;
  const number = history.versions.indexOf(current) + 1;
  const next = history.versions[number];
  const isRemoved = ['DELETE', 'TRUNCATE'].includes(current.operation);
  const change = { ...current, table: row.name, key: row.key, changed: content.changed };
  return html`
    <section class="block version" data-version=${current.id} aria-labelledby="version-title">
      <h2 id="version-title">${history.hasEarlier || history.hasLater ? format.moment(current.committedAt)
        : t('row.version_number', { number: format.number(number), total: format.number(history.versions.length) })}
        ${isNewest && html` <span class="badge">${t(isRemoved ? 'row.is_removed' : 'row.is_current')}</span>`}</h2>
      <p class="dim">${sentence(page, change)}</p>
      ${current.operation === 'TRUNCATE' ? html`<p>${t('change.truncated')}</p>`
        : html`<${Columns} page=${page} row=${row} content=${content} setters=${setters} current=${current} />`}
      <p class="actions">
        ${has('revert') && row.mayRevert && html`<a class="button primary" href=${addresses.revert({ change: current.id })}>${t('action.revert')}</a>`}
        ${has('revert') && row.mayRevert && next && html`<a class="button" href=${addresses.restore({
          schema: row.schema, table: row.name, primaryKey: row.primaryKey, before: next.id })}>${t('action.restore')}</a>`}
        <a class="button" href=${addresses.change(current.id)}>${t('action.change')}</a>
        <a class="button" href=${addresses.request(current.id)}>${t('action.request')}</a>
        ${has('past') && html`<a class="button" href=${addresses.past({ schema: row.schema, table: row.name, before: current.id })}>${t('action.past')}</a>`}
      </p>
    </section>`;
}

function Columns({ page, row, content, setters, current }) {
  const { t } = page;
  const changed = new Map(content.changed.map(field => [field.name, field]));
  // A column that this change has emptied is not among the columns if they are those after it.
  const names = new Set([...content.columns.map(({ name }) => name), ...changed.keys()]);
  const values = new Map(content.columns.map(({ name, value }) => [name, value]));
  return html`
    <table class="facts blame">
      <thead><tr><th scope="col">${t('row.column')}</th><th scope="col">${t('row.value')}</th><th scope="col">${t('row.last_set')}</th></tr></thead>
      <tbody>${[...names].map(name => html`
        <tr class=${changed.has(name) && current.operation === 'UPDATE' ? 'changed' : undefined}>
          <th scope="row">${name}</th>
          <td>${changed.has(name) ? html`<${Difference} page=${page} field=${changed.get(name)} />` : html`<${Value} page=${page} value=${values.get(name)} />`}</td>
          <td class="setter"><${Setter} page=${page} row=${row} setter=${setters.get(name)} current=${current} /></td>
        </tr>`)}
      </tbody>
    </table>`;
}

function Setter({ page, row, setter, current }) {
  const { t, format } = page;
  if (!setter) return html`<span class="dim" title=${t('row.unknown_setter')}>${t('row.not_known')}</span>`;
  const text = html`${who(page, setter.context)} · ${format.moment(setter.committedAt)}`;
  return setter.id === current.id ? html`<b>${text}</b>` : html`<a href=${addressOf(row, setter.id)}>${text}</a>`;
}

function Compare({ page, row, versions, current, other, comparison }) {
  const { t, format } = page;
  if (versions.length < 2) return undefined;
  const options = chosen => [...versions].reverse().map((version, i) => html`
    <option value=${version.id} selected=${version.id === chosen}>${format.number(versions.length - i)} · ${format.moment(version.committedAt)} · ${who(page, version.context)}</option>`);
  const before = other ?? versions[Math.max(0, versions.indexOf(current) - 1)];
  return html`
    <section class="block compare" id="compare" aria-labelledby="compare-title">
      <h2 id="compare-title">${t('row.compare')}</h2>
      <form class="choose" method="get" action=${`${addressOf(row)}#compare`}>
        ${addresses.parametersOf(addressOf(row)).map(([name, value]) => html`<input type="hidden" name=${name} value=${value} />`)}
        <label>${t('row.compare_from')} <select name="compared">${options(before.id)}</select></label>
        <label>${t('row.compare_to')} <select name="version">${options(current.id)}</select></label>
        <button>${t('row.compare_show')}</button>
      </form>
      ${other === current && html`<p class="dim">${t('row.compare_same')}</p>`}
      ${comparison && html`<${Comparison} page=${page} ...${comparison} />`}
    </section>`;
}

function Comparison({ page, changed, same }) {
  const { t } = page;
  return html`
    ${changed.length > 0 ? html`<${FactsTable} caption=${t('row.compare')}
        rows=${changed.map(field => ({ name: field.name, content: html`<${Difference} page=${page} field=${field} />` }))} />`
      : html`<p class="dim">${t('row.compare_equal')}</p>`}
    ${same.length > 0 && html`
      <details class="fold"><summary>${t('row.compare_rest', { count: same.length })}</summary>
        <${FactsTable} rows=${same.map(({ name, value }) => ({ name, content: html`<${Value} page=${page} value=${value} />` }))} />
      </details>`}`;
}

function VersionList({ page, row, history: { versions, hasEarlier } }) {
  const { t, format } = page;
  return html`
    <section aria-labelledby="versions-title">
      <h2 class="day" id="versions-title">${t('row.timeline')}</h2>
      <ol class="group version-list" reversed>${[...versions].reverse().map(version => html`
        <li><a class="line" href=${addressOf(row, version.id)}>
          <span class=${`operation ${version.operation.toLowerCase()}`}>${t(`operation.${version.operation}`)}</span>
          <span>${who(page, version.context, { isBaseline: version.operation === 'SNAPSHOT' })} <span class="where">${where(page, version.context)}</span></span>
          <span class="fields">${version.operation === 'UPDATE' && (version.columns ?? []).join(', ')}</span>
          <time datetime=${version.committedAt.toISOString()}>${format.moment(version.committedAt)}</time>
        </a></li>`)}
      </ol>
      ${hasEarlier && html`<p class="end small"><a href=${addresses.changes({ q: searchFor(row) })}>${t('row.earlier_versions')}</a></p>`}
    </section>`;
}

const searchFor = row => formatTerms([
  { qualifier: 'table', value: `${row.schema}.${row.name}` },
  { qualifier: 'key', value: row.primaryKey },
]);
