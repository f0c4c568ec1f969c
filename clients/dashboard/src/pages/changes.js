// The main page: what was changed, newest first, in groups, with one change at the side.
//
//     /changes?q=table:order+user:7&change=ID&before=ID
//
// q is the text of the search, change the one in the panel, before the last one of the page before. htmx asks for
// parts: #panel if a line was chosen, #next for more groups, and #list if something is new.

import * as addresses from '../addresses.js';
import { factsOf, indexedKeys } from '../queries/facts.js';
import { checkColumn, findChange, findGroups, newestChange, tableOf } from '../queries/changes.js';
import { isInside } from '../queries/links.js';
import { blameOf, versionsOf, withKeyOfToday } from '../queries/rows.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { parse } from '../search/grammar.js';
import { limitFacts, limitMeaning } from '../search/limit.js';
import { meaningOf } from '../search/meaning.js';
import { indexStatement, searchText } from '../search/statement.js';
import { ChangePanel } from '../views/change_panel.js';
import { Group } from '../views/change_line.js';
import { html } from '../views/html.js';
import { Filters, SearchBox } from '../views/search_box.js';
import { uuid } from './parameters.js';
import { Gap, gapsInside, Trust } from '../views/trust.js';

export const name = 'changes';
export const address = '/changes';
export const isForLinks = true;

export async function register(app) {
  app.get('/changes', { config: { isForLinks: true } }, showChanges);
}

async function showChanges(request, reply) {
  const { page, database, gone } = request;
  const search = { q: String(request.query.q ?? ''), change: uuid(request.query.change), before: uuid(request.query.before) };
  const { limit } = request;
  const known = await factsOf(database);
  const facts = limit ? limitFacts(known) : known;
  search.terms = parse(search.q);
  search.meaning = meaningOf(search.terms, facts, { zone: page.zone });
  if (limit) limitMeaning(search.meaning, limit);
  await checkColumn(database, search.meaning, gone);
  // Between sources, ids have no order. So one is shown at a time.
  if (facts.sources.length > 1) search.meaning.source ??= facts.sources[0].name;

  if (page.part === 'panel') {
    const chosen = await withKeyOfToday(isOfToday => database.read(client => panelData(client, search.change, facts, { limit, isOfToday }), { signal: gone }));
    return reply.part(html`<${Panel} page=${page} chosen=${chosen} q=${search.q} />`);
  }
  const data = await withKeyOfToday(isOfToday => database.read(client => pageData(client, search, facts, { limit, isOfToday }), { signal: gone }));
  if (page.part === 'next' || page.part === 'list') {
    return reply.part(html`<${Groups} page=${page} search=${search} data=${data} />`);
  }
  return reply.show('changes.title', html`<${ChangesPage} page=${page} search=${search} facts=${facts} data=${data} />`, { scripts: ['changes.js'] });
}

// A search that takes longer deserves an index.
const SLOW = 1000;

const NOTHING = { groups: [], count: 0, isCapped: false };

async function pageData(client, { meaning, change, before }, facts, { limit, isOfToday }) {
  // Before the search: what is stored in between counts as new.
  const newest = await newestChange(client, limit);
  const begin = performance.now();
  const found = meaning.problems.length > 0 ? NOTHING : await findGroups(client, meaning, { beforeId: before, facts });
  const isSlow = performance.now() - begin > SLOW;
  const states = (await sourceStates(client)).filter(state => !meaning.source || state.name === meaning.source);
  const gaps = await gapsOf(client, { source: meaning.source, table: meaning.table, from: meaning.from?.instant });
  return { newest, found, states, gaps, missingIndex: isSlow && !limit ? missingIndex(meaning, { indexedKeys: await indexedKeys(client) }) : undefined, chosen: change && await panelData(client, change, facts, { limit, isOfToday }) };
}

// A key of the context that is searched for, and has no index.
export function missingIndex({ context, texts, conditions }, { indexedKeys }) {
  const compared = conditions.filter(({ kind, exclude }) => kind === 'context' && !exclude);
  const keys = [...context.keys(), ...texts.keys(), ...compared.map(({ key }) => key)];
  return keys.find(key => !indexedKeys.has(key));
}

async function panelData(client, id, facts, { limit, isOfToday }) {
  if (id && limit && !await isInside(client, id, limit)) return undefined;
  const change = id && await findChange(client, id, { facts });
  if (!change) return undefined;
  const table = tableOf(facts, change);
  // A table of another server may have the same name.
  if (!isOfToday || !table || change.primaryKey === null || change.database !== facts.role.database) return { change };
  const versions = await versionsOf(client, { table, primaryKey: change.primaryKey });
  if (versions.versions.length === 0) return { change };
  const blame = await blameOf(client, { table, primaryKey: change.primaryKey });
  return { change, row: { ...versions, keyColumns: table.key, mayWrite: table.mayWrite, blame } };
}

function ChangesPage({ page, search, facts, data }) {
  const { t } = page;
  const { q, meaning, terms } = search;
  return html`
    <div class="changes">
      <h1 class="heard">${t('changes.title')}</h1>
      <header class="top">
        <${SearchBox} page=${page} q=${q} problems=${meaning.problems} found=${foundText(page, data.found, meaning)} />
        <div class="tools">
          <button type="button" class="copy" data-copy-address data-copied=${t('frame.copied')}>${t('changes.copy')}</button>
          ${!page.link && html`<button type="button" data-open="sql">${t('changes.sql')}</button>`}
          ${terms.length > 0 && mayRevert(page, facts) && html`<a class="button" href=${addresses.revert({ q })}>${t('action.revert')}</a>`}
          ${page.has('export') && html`<a class="button" href=${addresses.exported({ q })}>${t('changes.export')}</a>`}
        </div>
        <${Filters} page=${page} terms=${terms} facts=${facts} />
        <${Trust} page=${page} states=${data.states} gaps=${data.gaps} table=${meaning.table} />
        ${data.missingIndex && html`<${MissingIndex} page=${page} name=${data.missingIndex} />`}
      </header>
      <section class="list" aria-label=${t('changes.title')}>
        <button type="button" class="new-changes" id="new-changes" hidden>${t('changes.new')}</button>
        <div id="list" data-live=${search.before ? undefined : 'true'} data-newest=${data.newest}>
          <${Groups} page=${page} search=${search} data=${data} />
        </div>
      </section>
      <aside id="panel" aria-label=${t('panel.label')} aria-live="polite"><${Panel} page=${page} chosen=${data.chosen} q=${q} /></aside>
      ${!page.link && html`<${SqlDialog} page=${page} meaning=${meaning} />`}
    </div>`;
}

const mayRevert = (page, { role, tables }) => page.has('revert') && role.functions.has('revert') && tables.some(table => table.mayWrite);

function MissingIndex({ page: { t }, name: key }) {
  return html`
    <p class="hint">${t('changes.slow', { key })} <code id="index-sql">${indexStatement(key)}</code>
      <button type="button" data-copy="index-sql" data-copied=${t('frame.copied')}>${t('frame.copy')}</button></p>`;
}

function foundText({ t, format }, found, meaning) {
  if (meaning.problems.length > 0) return '';
  if (found.isCapped) return t('changes.found_capped', { number: format.number(found.count) });
  return t('changes.found', { number: format.number(found.count), count: found.count });
}

function Panel({ page, chosen, q }) {
  if (chosen) return html`<${ChangePanel} page=${page} ...${chosen} q=${q} />`;
  return undefined;
}

// Groups by day, with the gaps between them, then the place where the next ones come.
function Groups({ page, search, data: { found, gaps } }) {
  const { t, format } = page;
  let [day, newer] = [];
  return html`
    ${found.groups.map(group => {
      const isNewDay = format.dayKey(group.committedAt) !== day;
      day = format.dayKey(group.committedAt);
      const missing = newer ? gapsInside(gaps).filter(gap => gap.to && gap.to <= newer && gap.to > group.committedAt) : [];
      newer = group.committedAt;
      return html`
        ${missing.map(gap => html`<${Gap} page=${page} gap=${gap} />`)}
        ${isNewDay && html`<h2 class="day" data-day=${day}>${format.day(group.committedAt)}</h2>`}
        <${Group} page=${page} group=${group} q=${search.q} selected=${search.change} />`;
    })}
    ${found.groups.length === 0 && !search.before && html`<${Empty} page=${page} search=${search} />`}
    ${found.next ? html`<${Next} page=${page} search=${search} next=${found.next} />`
      : (search.before || found.groups.length > 0) && html`<p class="end dim small">${t('changes.end')}</p>`}`;
}

function Next({ page: { t }, search: { q }, next }) {
  const address = addresses.changes({ q, before: next });
  return html`
    <p class="next" id="next">
      <a href=${address} hx-get=${address} hx-target="#next" hx-swap="outerHTML" hx-trigger="revealed, click">${t('changes.next')}</a>
    </p>`;
}

function Empty({ page: { t }, search: { meaning, terms } }) {
  if (meaning.problems.length > 0) return undefined;
  return html`
    <div class="empty">
      <p>${t(terms.length > 0 ? 'changes.none_found' : 'changes.none')}</p>
      ${terms.length > 0 && html`<p class="dim">${t('changes.none_hint')}</p>`}
    </div>`;
}

function SqlDialog({ page: { t }, meaning }) {
  if (meaning.problems.length > 0) return undefined;
  return html`
    <dialog id="sql" class="wide" aria-labelledby="sql-title">
      <h2 id="sql-title">${t('changes.sql')}</h2>
      <p class="dim">${t('changes.sql_text')}</p>
      <pre><code id="sql-text">${searchText(meaning)}</code></pre>
      <form method="dialog">
        <button type="button" class="primary" data-copy="sql-text" data-copied=${t('frame.copied')}>${t('frame.copy')}</button>
        <button>${t('frame.close')}</button>
      </form>
    </dialog>`;
}
