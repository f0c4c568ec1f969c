// Time travel: a table as it was at a moment, and what is different now.
//
//     /past?table=public.order&at=2026-11-30T12:40:07.123456Z&filter=status:open&compare=now&gaps=allow&after=[84]
//     /past?table=public.order&before=ID
//     /past?table=public.visit@main&at=...     a table of another server, or one that was dropped: its source has the history
//
// A moment that was typed is made exact first, by a redirect, because the address must show the same rows tomorrow.

import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { findChange, newestChange, tableOf } from '../queries/changes.js';
import { differencesSince, momentBefore, rowsAt, transactionsAround } from '../queries/past.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { parse } from '../search/grammar.js';
import { findTable } from '../search/meaning.js';
import { exactMoment, isExact, localMoment } from '../search/moments.js';
import { DatabaseError, isAboutQuestion } from '../views/database_error.js';
import { html } from '../views/html.js';
import { Moments } from '../views/moments.js';
import { Differences, PastRows } from '../views/past_rows.js';
import { sentence } from '../views/sentence.js';
import { Trust } from '../views/trust.js';
import { text, uuid } from './parameters.js';

export const name = 'past';
export const address = '/past';
export const isShown = ({ role }) => role.functions.has('as_of_json');

const READING = 30_000;

export async function register(app) {
  app.get('/past', showPast);
}

async function showPast(request, reply) {
  const { page, database, gone } = request;
  const facts = await factsOf(database);
  const view = await readAddress(request, facts);
  if (view.isNew) return reply.redirect(addressOf(view));
  const more = view.table && view.moment ? await readAround(request, view, facts) : {};
  const found = more.around && await readRows(request, view);
  return reply.show('past.title', html`<${PastPage} page=${page} facts=${facts} view=${view} ...${more} found=${found} />`);
}

// What the address asks for: { table, moment, at, filter, compare, gaps, after, isNew }.
async function readAddress({ query, page, database, gone }, facts) {
  const given = name => text(query[name]);
  const view = {
    filterText: given('filter').slice(0, 500),
    compare: given('compare') === 'now' ? 'now' : undefined,
    gaps: given('gaps') === 'allow' ? 'allow' : undefined,
    after: placeIn(given('after')),
    at: given('at').trim(),
    before: uuid(query.before),
    tableName: given('table'),
  };
  view.table = findTable(facts, view.tableName) ?? tableOfSource(view.tableName);
  if (!view.tableName) return { ...view, ...await firstView(database, facts, page.zone, gone) };
  const exact = view.at && exactMoment(view.at, { zone: page.zone });
  if (exact && !isExact(view.at)) return { ...view, moment: { at: exact }, isNew: true };
  if (exact) view.moment = { at: exact };
  else if (!view.at && view.before) view.moment = await database.read(client => momentBefore(client, view.before), { signal: gone });
  // A table of another server may have the name of one that is here.
  if (view.moment?.before && (view.moment.database !== facts.role.database || !tableOf(facts, view.moment))) {
    view.table = { schema: view.moment.schema, name: view.moment.table, source: view.moment.source, columns: [], key: [] };
  }
  if (view.table?.source) view.compare = undefined;
  view.isWrong = Boolean(view.at && !exact);
  view.filter = filterOf(view.filterText, view.table);
  return view;
}

function tableOfSource(text) {
  const [, schema, name, source] = /^([^.]+)\.(.+)@([a-z0-9_]{1,32})$/su.exec(text) ?? [];
  return source && { schema, name, source, columns: [], key: [] };
}

// The page opens with what has become of the last table that was changed, in the last hour.
async function firstView(database, facts, zone, signal) {
  const change = await database.read(async client => {
    const id = await newestChange(client);
    return id && findChange(client, id, { facts });
  }, { signal });
  const table = change && tableOf(facts, change) || facts.tables[0];
  const at = exactMoment('1h', { zone, now: new Date(Math.floor(Date.now() / 60_000) * 60_000) });
  return table ? { table, compare: 'now', moment: { at }, isNew: true } : {};
}

// The key of a row as JSON, from the address of a next page.
function placeIn(text) {
  try {
    return text && Array.isArray(JSON.parse(text)) ? text : undefined;
  } catch {
    return undefined;
  }
}

// column:value, or a part of any value.
function filterOf(text, table) {
  return parse(text).map(({ qualifier, value, exclude }) => {
    const isWord = ['key', 'endpoint'].includes(qualifier) && !table?.columns.includes(qualifier);
    return { column: isWord ? undefined : qualifier, value, exclude };
  });
}

const nameInAddress = ({ name, source }) => (source ? `${name}@${source}` : name);

function addressOf({ table, moment, before, filterText, compare, gaps }, more = {}) {
  return addresses.past({
    schema: table.schema, table: nameInAddress(table), at: moment?.before ? undefined : moment?.at, before: moment?.before, filter: filterText, compare, gaps, ...more,
  });
}

// What is around the rows: the timeline, the change, and how far the history can be trusted.
function readAround({ database, gone }, { table, moment }, facts) {
  return database.read(async client => ({
    around: await transactionsAround(client, { table, moment }),
    change: moment.before && await findChange(client, moment.before, { facts }),
    states: (await sourceStates(client)).filter(state => (table.source ? state.name === table.source : state.database === facts.role.database)),
    gaps: await gapsOf(client, { table, source: table.source, from: new Date(moment.at) }),
  }), { signal: gone });
}

async function readRows({ database, gone }, { table, moment, filter, after, compare, gaps }) {
  const read = compare ? differencesSince : rowsAt;
  try {
    return await database.read(client => read(client, { table, moment, filter, after, allowGaps: gaps === 'allow' }), { signal: gone, timeout: READING });
  } catch (error) {
    if (!isAboutQuestion(error)) throw error;
    return { error };
  }
}

function PastPage({ page, facts, view, around, change, states, gaps, found }) {
  const { t } = page;
  return html`
    <div class="past">
      <header class="head">
        <h1>${t('past.title')}</h1>
        <${MomentForm} page=${page} facts=${facts} view=${view} />
        ${around && html`<${Trust} page=${page} states=${states} gaps=${gaps} table=${view.table} />`}
      </header>
      ${around ? html`<${Moment} page=${page} view=${view} around=${around} change=${change} found=${found} facts=${facts} />`
        : html`<p class="empty">${t(problemOf(view, facts))}</p>`}
    </div>`;
}

function problemOf(view, facts) {
  if (facts.tables.length === 0) return 'past.no_tables';
  if (!view.table) return 'past.no_table';
  if (view.isWrong) return 'past.no_time';
  return view.before ? 'past.no_change' : 'past.choose';
}

function MomentForm({ page, facts, view }) {
  const { t, zone } = page;
  const value = view.isWrong ? view.at : view.moment && !view.moment.before ? localMoment(view.moment.at, zone) : '';
  return html`
    <form class="fields-in-line" action="/past" method="get">
      <label><span>${t('past.table')}</span>
        <select name="table">
          ${view.table?.source && html`<option selected>${view.table.schema}.${nameInAddress(view.table)}</option>`}
          ${facts.tables.map(table => html`<option value=${`${table.schema}.${table.name}`} selected=${table === view.table}>${table.schema === 'public' ? '' : `${table.schema}.`}${table.name}</option>`)}
        </select></label>
      <label><span>${t('past.moment')}</span>
        <input name="at" value=${value} placeholder=${view.moment?.before ? t('past.before_change') : '2h, 12:03, 2026-11-28 02:10'} autocomplete="off" spellcheck="false"
          maxlength="60" size="26" aria-invalid=${view.isWrong ? 'true' : undefined} /></label>
      <label class="wide"><span>${t('past.filter')}</span>
        <input name="filter" value=${view.filterText} placeholder="status:open" autocomplete="off" spellcheck="false" maxlength="500" /></label>
      ${view.moment?.before && html`<input type="hidden" name="before" value=${view.moment.before} />`}
      ${view.compare && html`<input type="hidden" name="compare" value=${view.compare} />`}
      <button class="primary">${t('past.show')}</button>
    </form>`;
}

function Moment({ page, view, around, change, found, facts }) {
  const { t, format } = page;
  const { table, moment, compare, gaps } = view;
  return html`
    <${Moments} page=${page} around=${around} moment=${moment} addressOf=${at => addressOf({ ...view, moment: { at } })} />
    <section class="moment" aria-labelledby="moment">
      <h2 id="moment">${change ? t('past.just_before', { table: table.name, time: format.moment(change.committedAt) })
        : t('past.at', { table: table.name, time: format.moment(new Date(moment.at)) })}</h2>
      ${change && html`<p class="dim">${t(compare ? 'past.before_transaction' : 'past.before')} ${sentence(page, change)}
        ${' '}<a href=${addressOf({ ...view, moment: { at: moment.after } })}>${t('past.just_after')}</a></p>`}
      <nav class="tabs" aria-label=${t('past.views')}>
        <a href=${addressOf({ ...view, compare: undefined })} aria-current=${compare ? undefined : 'true'}>${t('past.rows')}</a>
        ${!table.source && html`<a href=${addressOf({ ...view, compare: 'now' })} aria-current=${compare ? 'true' : undefined}>${t('past.compare')}</a>`}
      </nav>
      ${gaps && html`<p class="gap" role="status">${t('past.gaps_allowed')} <a href=${addressOf({ ...view, gaps: undefined })}>${t('past.gaps_refuse')}</a></p>`}
      ${found.error ? html`<${Refused} page=${page} view=${view} error=${found.error} />`
        : compare ? html`<${Differences} page=${page} table=${table} moment=${moment} rows=${found.rows} mayRestore=${mayRestore(page, table, facts)} isFiltered=${view.filter.length > 0} />`
          : html`<${PastRows} page=${page} table=${table} rows=${found.rows} isFiltered=${view.filter.length > 0} />`}
      ${(found.next || view.after) && html`
        <p class="next">
          ${view.after && html`<a href=${addressOf(view)}>${t('past.first_rows')}</a>`}
          ${found.next && html`<a href=${addressOf(view, { after: found.next })}>${t('past.next_rows')}</a>`}
        </p>`}
    </section>`;
}

const mayRestore = (page, table, { role }) => page.has('revert') && table.mayWrite && table.key.length > 0 && role.functions.has('restore');

// If it is a matter of gaps, the reader may look all the same. What he sees then says so.
function Refused({ page: { t }, view, error }) {
  const isGap = /allow_gaps/.test(error.hint ?? '');
  return html`
    <${DatabaseError} title=${t(isGap ? 'past.incomplete' : 'past.refused')} text=${isGap && t('past.incomplete_text')} more=${t('past.report')} error=${error}>
      ${isGap && html`<p><a class="button" href=${addressOf({ ...view, gaps: 'allow' })}>${t('past.gaps_allow')}</a></p>`}
    <//>`;
}
