// The tables of this database: which are tracked, by which rules, and what is wrong. Rules are changed in two steps:
//
//     /tables/SCHEMA/NAME           the rules, to be chosen
//     /tables/SCHEMA/NAME/plan      the statement that they make; its button runs this statement
//
// The plan is an address like any other: it can be sent to somebody who may run it.

import * as addresses from '../addresses.js';
import { factsOf, forgetFacts } from '../queries/facts.js';
import { findTable, listTables, runStatement, trackStatement, untrackStatement } from '../queries/tables.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { formatTerm } from '../search/grammar.js';
import { html } from '../views/html.js';
import { Trust } from '../views/trust.js';

export const name = 'tables';
export const address = '/tables';

const RULES = ['ignore', 'redact', 'redact_hash'];

export async function register(app) {
  app.get('/tables', showTables);
  app.get('/tables/:schema/:name', showTable);
  app.get('/tables/:schema/:name/plan', showPlan);
  app.post('/tables/:schema/:name/plan', runPlan);
}

async function showTables({ page, database, gone }, reply) {
  const facts = await factsOf(database);
  const data = await database.read(async client => ({
    tables: await listTables(client), states: await sourceStates(client), gaps: await gapsOf(client, {}),
  }), { signal: gone });
  return reply.show('tables.title', html`<${TablesPage} page=${page} facts=${facts} ...${data} />`);
}

const mayTrack = (facts, table) => table.isOwned && facts.role.functions.has('track');

function TablesPage({ page, facts, tables, states, gaps }) {
  const { t } = page;
  return html`
    <div class="page">
      <h1>${t('tables.title')}</h1>
      <${Trust} page=${page} states=${states} gaps=${gaps} />
      ${tables.length === 0 ? html`<p class="lead">${t('tables.none')}</p>` : html`
        <table class="grid">
          <thead><tr><th scope="col">${t('tables.table')}</th><th scope="col">${t('tables.state')}</th><th scope="col">${t('tables.rules')}</th></tr></thead>
          <tbody>${tables.map(table => html`<${TableLine} page=${page} table=${table} />`)}</tbody>
        </table>`}
      ${!facts.role.functions.has('track') && html`<p class="dim">${t('tables.rights')} <code>GRANT EXECUTE ON FUNCTION bemi.track, bemi.untrack TO …;</code></p>`}
      ${facts.sources.some(source => source.database !== facts.role.database) && html`<p class="dim">${t('tables.elsewhere')}</p>`}
    </div>`;
}

function TableLine({ page: { t }, table }) {
  return html`
    <tr>
      <th scope="row"><a href=${addresses.table(table)}>${table.schema === 'public' ? table.name : `${table.schema}.${table.name}`}</a></th>
      <td><${State} t=${t} table=${table} />${(table.problems ?? []).map(problem => html`<p class="problem">${problem}</p>`)}</td>
      <td>${RULES.map(rule => table[rule]?.length > 0 && html`<p>${t(`tables.${rule}`)}: <code>${table[rule].join(', ')}</code></p>`)}</td>
    </tr>`;
}

function State({ t, table }) {
  return html`<span class=${`tag ${table.isTracked ? 'good' : ''}`}>${t(table.isTracked ? 'tables.tracked' : 'tables.untracked')}</span>`;
}

// ---- one table

async function load({ database, gone, params }) {
  const facts = await factsOf(database);
  const table = await database.read(client => findTable(client, params), { signal: gone });
  if (!table) throw Object.assign(new Error('there is no such table'), { statusCode: 404 });
  return { facts, table };
}

const trustOf = ({ database, gone, params }) => database.read(async client => ({ states: await sourceStates(client), gaps: await gapsOf(client, { table: params }) }), { signal: gone });

async function showTable(request, reply) {
  const { page } = request;
  const { facts, table } = await load(request);
  const trust = await trustOf(request);
  return reply.show({ text: table.name }, html`<${TablePage} page=${page} table=${table} isMine=${mayTrack(facts, table)} ...${trust} />`);
}

function TablePage({ page, table, isMine, states, gaps }) {
  const { t } = page;
  const plan = `${addresses.table(table)}/plan`;
  // Names with a star, and of columns that are gone, stay as they are.
  const others = RULES.flatMap(rule => (table[rule] ?? []).filter(entry => !table.columns.some(column => column.name === entry)).map(entry => [rule, entry]));
  return html`
    <div class="page">
      <p class="small"><a href="/tables">${t('tables.title')}</a></p>
      <h1>${table.target}</h1>
      <p><${State} t=${t} table=${table} /> ${table.isTracked && html`<a href=${addresses.changes({ q: formatTerm({ qualifier: 'table', value: `${table.schema}.${table.name}` }) })}>${t('tables.changes')}</a>`}</p>
      ${table.isTracked && html`<${Trust} page=${page} states=${states} gaps=${gaps} table=${table} />`}
      ${(table.problems ?? []).map(problem => html`<p class="problem">${problem}</p>`)}
      <form method="get" action=${plan}>
        <input type="hidden" name="do" value="track" />
        ${others.map(([rule, entry]) => html`<input type="hidden" name=${rule} value=${entry} />`)}
        <table class="grid">
          <thead><tr><th scope="col">${t('tables.column')}</th><th scope="col">${t('tables.value')}</th><th scope="col">${t('tables.ignored')}</th></tr></thead>
          <tbody>${table.columns.map(column => html`<${ColumnLine} t=${t} table=${table} column=${column} isMine=${isMine} />`)}</tbody>
        </table>
        ${others.length > 0 && html`<p class="dim">${t('tables.others')} <code>${others.map(([rule, entry]) => `${rule}: ${entry}`).join(', ')}</code></p>`}
        <p class="dim small">${t('tables.ignored_text')}</p>
        ${isMine && html`<p class="actions"><button class="primary">${t(table.isTracked ? 'tables.show_rules' : 'tables.show_track')}</button>
          ${table.isTracked && html`<a class="button" href=${`${plan}?do=untrack`}>${t('tables.show_untrack')}</a>`}</p>`}
      </form>
      ${!isMine && html`<p class="dim">${t('tables.not_mine')}</p>`}
    </div>`;
}

const valueRule = (table, column) => ['redact', 'redact_hash'].find(rule => table[rule]?.includes(column.name)) ?? '';

function ColumnLine({ t, table, column, isMine }) {
  const isIgnored = table.ignore?.includes(column.name);
  return html`
    <tr>
      <th scope="row">${column.name} <span class="dim">${column.type}</span></th>
      <td><select name=${`value.${column.name}`} disabled=${!isMine} aria-label=${t('tables.value_of', { column: column.name })}>
        ${['', 'redact', 'redact_hash'].map(rule => html`<option value=${rule} selected=${rule === valueRule(table, column)}>${t(`tables.value.${rule || 'kept'}`)}</option>`)}
      </select></td>
      <td><input type="checkbox" name="ignore" value=${column.name} checked=${isIgnored} disabled=${!isMine} aria-label=${t('tables.ignore_column', { column: column.name })} /></td>
    </tr>`;
}

// ---- the plan

const list = value => [value ?? []].flat().map(String);

// From what the form or the address has said.
function statementOf(table, given) {
  if (given.do === 'untrack') return untrackStatement(table);
  const rules = Object.fromEntries(RULES.map(rule => [rule, list(given[rule])]));
  for (const { name: column } of table.columns) {
    const rule = given[`value.${column}`];
    if (rule === 'redact' || rule === 'redact_hash') rules[rule].push(column);
  }
  return trackStatement(table, rules);
}

async function showPlan(request, reply) {
  const { page, query } = request;
  const { facts, table } = await load(request);
  const trust = await trustOf(request);
  return reply.show({ text: table.name }, html`<${PlanPage} page=${page} table=${table} given=${query} isMine=${mayTrack(facts, table)} ...${trust} />`);
}

function PlanPage({ page, table, given, isMine, states, gaps }) {
  const { t } = page;
  const act = given.do === 'untrack' ? 'untrack' : table.isTracked ? 'rules' : 'track';
  const back = addresses.table(table);
  return html`
    <div class="page plan">
      <p class="small"><a href=${back}>${table.target}</a></p>
      <h1>${t(`tables.plan.${act}`, { table: table.target })}</h1>
      ${table.isTracked && html`<${Trust} page=${page} states=${states} gaps=${gaps} table=${table} />`}
      <p class="lead">${t(`tables.plan.${act}_text`)}</p>
      <pre tabindex="0"><code id="plan">${`${statementOf(table, given).toText()};`}</code></pre>
      <form method="post" action=${`${back}/plan`} class="actions">
        <input type="hidden" name="_csrf" value=${page.csrf()} />
        ${Object.entries(given).flatMap(([key, values]) => list(values).map(value => html`<input type="hidden" name=${key} value=${value} />`))}
        ${isMine && html`<button class="primary">${t('tables.run')}</button>`}
        <button type="button" data-copy="plan" data-copied=${t('frame.copied')}>${t('frame.copy')}</button>
        <a class="button" href=${back}>${t('tables.cancel')}</a>
      </form>
      ${!isMine && html`<p class="dim">${t('tables.not_mine')}</p>`}
    </div>`;
}

async function runPlan(request, reply) {
  const { database, gone, body } = request;
  const { table } = await load(request);
  await database.write(client => runStatement(client, statementOf(table, body)), { signal: gone });
  forgetFacts(database);
  return reply.redirect(addresses.table(table), 303);
}
