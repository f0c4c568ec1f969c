// Take it back: the plan, with what stands in its way, and then exactly this plan.
//
//     /revert?change=ID | transaction=ID | context={"requestId":"9f1c"} | q=deploy:v42 , and mode=skip|force|cascade, choices=[...]
//     /revert?table=public.order&key=86&before=ID | at=TIME       one row, to what it was
//     /revert/done?request=ID&kept=NUMBER                         what was taken back
//
// The form has the hash of the plan that is shown. If another one would run, nothing is done, and the new plan is shown.
// What is done has a context with a requestId of its own, by which it is found in the history afterwards.

import { randomUUID } from 'node:crypto';
import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { checkColumn, findChange, findGroups } from '../queries/changes.js';
import { momentBefore } from '../queries/past.js';
import { areTooMany, choicesOfForm, choicesOfText, textOfChoices } from '../queries/choices.js';
import { Different, MOST_CHANGES, planOf, restorationOf, restore, revert, sync, targetOfSearch } from '../queries/reverts.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { keyParts } from '../queries/values.js';
import { parse } from '../search/grammar.js';
import { findTable, meaningOf } from '../search/meaning.js';
import { exactMoment } from '../search/moments.js';
import { Group } from '../views/change_line.js';
import { DatabaseError, isAboutQuestion } from '../views/database_error.js';
import { html } from '../views/html.js';
import { offersChoices, Plan, RestorationPlan } from '../views/plan.js';
import { sentence } from '../views/sentence.js';
import { Trust } from '../views/trust.js';
import { text, uuid } from './parameters.js';

export const name = 'revert';
export const address = '/revert';
export const isShown = ({ role }) => role.functions.has('plan_revert');

const WISH = ['change', 'transaction', 'table', 'key', 'before', 'at', 'mode', 'choices', 'from', 'to', 'context', 'q', 'changes'];
const MODES = ['refuse', 'skip', 'force', 'cascade'];
const PLANNING = 60_000;
const RUNNING = 300_000;

export async function register(app) {
  app.get('/revert', showRevert);
  app.post('/revert', runRevert);
  app.post('/revert/choices', showChosen);
  app.get('/revert/done', showDone);
}

const textIn = (values, name) => text(values[name]);

async function showRevert(request, reply) {
  return show(request, reply, request.query);
}

// values: those of the address, or of a form that could not be carried out, then with a problem: { name, error }, a key of the wording.
async function show(request, reply, values, problem) {
  const { page, database, gone } = request;
  const facts = await factsOf(database);
  const view = await readWish(request, values, facts);
  const trust = await database.read(client => trustOf(client, facts, view), { signal: gone });
  Object.assign(view, view.problem ? {} : await readPlan(request, view, facts));
  if (view.plan && !view.isRow) trust.gaps = gapsOfTables(trust.gaps, view.plan.steps);
  if (problem) reply.code(409);
  return reply.show('revert.title', html`<${RevertPage} page=${page} facts=${facts} view=${view} trust=${trust} problem=${problem} />`);
}

async function trustOf(client, facts, { table, change }) {
  const states = (await sourceStates(client)).filter(state => state.database === facts.role.database);
  return { states, gaps: await gapsOf(client, { table, from: change?.committedAt }) };
}

// Gaps of other tables do not matter. lines: all that have the name of a table.
function gapsOfTables(gaps, lines) {
  const names = new Set(lines.map(line => line.table));
  return gaps.filter(gap => !gap.table || names.has(gap.table));
}

// ---- what is to be taken back

// { target, mode, change, ... } for changes, { table, primaryKey, moment } for a row, or { problem }, a key of the wording.
async function readWish(request, values, facts) {
  if (values.table !== undefined) return { ...await readRow(request, values, facts), isRow: true };
  const wish = { mode: MODES.includes(values.mode) ? values.mode : 'refuse', choices: choicesOfText(textIn(values, 'choices')) };
  const id = textIn(values, 'change') || textIn(values, 'transaction');
  if (id) return { ...await readChange(request, id, values, facts), ...wish };
  const [target, problem] = await otherTarget(request, values, facts);
  return { target, problem, ...wish, q: textIn(values, 'q') };
}

async function readChange({ database, gone }, id, values, facts) {
  const change = uuid(id) ? await database.read(client => findChange(client, id, { facts }), { signal: gone }) : undefined;
  if (!change) return { problem: 'revert.no_change' };
  return { change, isTransaction: !values.change, target: values.change ? { changes: [id] } : { transaction: id } };
}

// By a context, as JSON, or by a search. The form of a plan names the changes of a search by their ids.
async function otherTarget({ page, database, gone }, values, facts) {
  const ids = textIn(values, 'changes').split(',').filter(uuid);
  if (ids.length > 0) return [{ changes: ids }];
  const context = textIn(values, 'context');
  const times = { from: timeIn(textIn(values, 'from'), page.zone), to: timeIn(textIn(values, 'to'), page.zone) };
  if (context) return isObject(context) ? [{ context, ...times }] : [undefined, 'revert.no_context'];
  const terms = parse(textIn(values, 'q'));
  const meaning = meaningOf(terms, facts, { zone: page.zone });
  await checkColumn(database, meaning, gone);
  if (terms.length === 0 || meaning.problems.length > 0) return [undefined, terms.length === 0 ? 'revert.nothing_named' : 'revert.no_search'];
  const target = await database.read(client => targetOfSearch(client, meaning), { signal: gone });
  if (target.tooMany) return [undefined, 'revert.too_many'];
  return target.changes?.length === 0 ? [undefined, 'revert.nothing_found'] : [target];
}

const timeIn = (text, zone) => (text ? exactMoment(text, { zone }) : undefined);

function isObject(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === 'object' && !Array.isArray(value);
  } catch {
    return false;
  }
}

async function readRow({ page, database, gone }, values, facts) {
  const table = findTable(facts, textIn(values, 'table'));
  const [primaryKey, before, at] = ['key', 'before', 'at'].map(name => textIn(values, name));
  if (!table || primaryKey === '') return { problem: 'revert.no_row' };
  const exact = at && exactMoment(at, { zone: page.zone });
  if (exact) return { table, primaryKey, moment: { at: exact } };
  const read = client => Promise.all([momentBefore(client, before), findChange(client, before, { facts })]);
  const [moment, change] = uuid(before) ? await database.read(read, { signal: gone }) : [];
  return moment ? { table, primaryKey, moment, change } : { table, problem: 'revert.no_moment' };
}

// ---- the plan

async function readPlan({ database, gone }, view, facts) {
  const read = client => (view.isRow ? restorationOf(client, view) : planOf(client, view.target, { ...view, facts }));
  try {
    const plan = await database.read(read, { signal: gone, timeout: PLANNING });
    return { plan, refused: refusalOf(view, plan, facts) };
  } catch (error) {
    if (!isAboutQuestion(error)) throw error;
    return { error };
  }
}

// Why there is no form: { key, values }, or undefined.
function refusalOf({ isRow, table }, plan, { role }) {
  if (isRow) {
    if (plan.action === 'NONE') return { key: 'revert.is_so' };
    if (!role.functions.has('restore') || !table.mayWrite) return { key: 'revert.no_right', values: { tables: table.name } };
    return undefined;
  }
  if (plan.counts.ok === 0 && plan.counts.conflict === 0) return { key: 'revert.nothing_left' };
  if (!role.functions.has('revert')) return { key: 'revert.no_function' };
  if (plan.unwritable.length > 0) return { key: 'revert.no_right', values: { tables: plan.unwritable.join(', ') } };
  return undefined;
}

// ---- choices

// From the form of choices to the address of their plan, which can be shared. Empty fields would be in it.
async function showChosen(request, reply) {
  const { body } = request;
  const choices = choicesOfForm(body);
  if (areTooMany(choices)) return show(request, reply, body, { name: 'revert.too_many_choices' });
  const values = { ...body, choices: textOfChoices(choices) };
  return reply.redirect(planAddress(values), 303);
}

// ---- carrying it out

async function runRevert(request, reply) {
  const { database, body, gone } = request;
  // Whatever comes of it, the answer may show the plan.
  await request.logAccess({ action: 'view', address: planAddress(body) }, { signal: gone });
  const facts = await factsOf(database);
  const view = await readWish(request, body, facts);
  if (view.problem) return show(request, reply, body);
  if (textIn(body, 'confirm').trim() !== textIn(body, 'phrase')) return show(request, reply, body, { name: 'revert.not_confirmed' });
  const requestId = randomUUID();
  const order = { mode: view.mode, choices: view.choices, expect: textIn(body, 'expect'), context: contextOf(request, facts, requestId) };
  let done;
  try {
    done = await database.write(client => (view.isRow ? restore(client, view, order) : revert(client, view.target, order)), { timeout: RUNNING });
  } catch (error) {
    if (error instanceof Different) return show(request, reply, body, { name: 'revert.different' });
    if (isAboutQuestion(error)) return show(request, reply, body, { name: 'revert.failed', error });
    throw error;
  }
  // It is done. If the history is late, the page of the result says so.
  await database.read(sync).catch(error => request.log.warn(error));
  return reply.redirect(addresses.reverted({ request: requestId, kept: done.skipped || undefined }), 303);
}

// The form as the address that shows its plan. Fields of another name could push these out of the entry.
function planAddress(body) {
  const given = WISH.map(name => [name, textIn(body, name)]).filter(([, value]) => value !== '');
  return `${address}?${new URLSearchParams(given)}`;
}

// "actor", because a key "user" would be another key than that of the application.
function contextOf({ body, person }, { role }, requestId) {
  const reason = textIn(body, 'reason').trim().slice(0, 500);
  return { actor: person ?? role.name, command: 'take back', requestId, ...reason && { reason } };
}

// ---- afterwards

async function showDone(request, reply) {
  const { page, database, gone, query } = request;
  const facts = await factsOf(database);
  const id = uuid(query.request);
  const kept = Math.min(Math.trunc(Number(query.kept)) || 0, 1e9);
  const meaning = { context: new Map([['requestId', JSON.stringify(id)]]), texts: new Map(), conditions: [], problems: [] };
  const data = await database.read(async client => ({
    groups: id ? (await findGroups(client, meaning, { facts })).groups : [],
    ...await trustOf(client, facts, {}),
  }), { signal: gone });
  return reply.show('revert.done', html`<${DonePage} page=${page} id=${id} kept=${kept} ...${data} />`);
}

function DonePage({ page, id, kept, groups, states, gaps }) {
  const { t, format } = page;
  const [group] = groups;
  const q = `requestId:"${id}"`;
  return html`
    <div class="revert">
      <header class="head"><h1>${t('revert.done')}</h1><${Trust} page=${page} states=${states} gaps=${gapsOfTables(gaps, group?.lines ?? [])} /></header>
      <section class="result" role="status">
        ${group ? html`<p>${t('revert.done_changes', { count: group.count, number: format.number(group.count) })}</p>` : html`<p>${t('revert.late')}</p>`}
        ${kept > 0 && html`<p>${t('revert.done_kept', { count: kept, number: format.number(kept) })}</p>`}
      </section>
      ${group && html`<h2>${t('revert.written')}</h2><${Group} page=${page} group=${group} q=${q} />`}
      <p class="actions">
        ${group && html`<a class="button primary" href=${addresses.changes({ q, change: group.id })}>${t('revert.see')}</a>
          <a class="button" href=${addresses.revert({ transaction: group.id })}>${t('revert.again')}</a>`}
        ${!group && html`<a class="button" href=${addresses.reverted({ request: id, kept: kept || undefined })}>${t('revert.look_again')}</a>`}
        <a class="button" href=${addresses.changes()}>${t('changes.title')}</a>
      </p>
    </div>`;
}

// ---- the page

function RevertPage({ page, facts, view, trust, problem }) {
  const { t } = page;
  const { plan, error, refused, isRow } = view;
  return html`
    <div class="revert">
      <header class="head">
        <h1>${t(isRow ? 'revert.row_title' : 'revert.title')}</h1>
        <${What} page=${page} view=${view} />
        <${Trust} page=${page} ...${trust} table=${view.table} />
      </header>
      ${problem && html`<${Problem} page=${page} ...${problem} />`}
      ${view.q !== undefined && (view.problem || !view.plan) && html`<${BySearch} page=${page} q=${view.q} />`}
      ${view.problem && html`<p class="empty" role="status">${t(view.problem, { number: page.format.number(MOST_CHANGES) })}</p>`}
      ${error && html`<${DatabaseError} title=${t('revert.no_plan')} error=${error} />`}
      ${refused && html`<p class="refusal" role="status">${t(refused.key, refused.values)}</p>`}
      ${plan && (isRow ? html`<${RestorationPlan} page=${page} table=${view.table} primaryKey=${view.primaryKey} plan=${plan} />`
        : html`<${Choice} page=${page} view=${view} /><${ChosenPlan} page=${page} view=${view} />`)}
      ${plan && !refused && (isRow || plan.counts.conflict === 0) && html`<${RunForm} page=${page} view=${view} facts=${facts} />`}
    </div>`;
}

function BySearch({ page: { t }, q }) {
  return html`
    <form class="fields-in-line" action="/revert" method="get">
      <label class="wide"><span>${t('revert.by_search')}</span>
        <input id="q" name="q" value=${q} placeholder="deploy:v42 since:1d" required autocomplete="off" spellcheck="false" maxlength="2000" /></label>
      <button class="primary">${t('revert.make_plan')}</button>
    </form>`;
}

function Problem({ page: { t }, name: problem, error }) {
  if (error) return html`<${DatabaseError} title=${t(problem)} error=${error} />`;
  return html`<p class="refusal" role="alert">${t(problem)}</p>`;
}

// In words, what the plan is about.
function What({ page, view }) {
  const { t, format } = page;
  const { change, isTransaction, target, table, primaryKey, moment, q } = view;
  if (table && moment) {
    const row = `${table.name} ${keyParts(primaryKey).join(', ')}`;
    const time = format.moment(change?.committedAt ?? new Date(moment.at));
    return html`<p class="dim">${t(change ? 'revert.row_before' : 'revert.row_at', { row, time })} ${change && sentence(page, change)}</p>`;
  }
  if (change) return html`<p class="dim">${isTransaction && t('revert.transaction_of')} ${sentence(page, change)}</p>`;
  if (q) return html`<p class="dim">${t('revert.search')} <a class="term" href=${addresses.changes({ q })}>${q}</a></p>`;
  if (target?.context) return html`<p class="dim">${t('revert.context')} <code>${target.context}</code></p>`;
  return target && html`<p class="dim">${t('revert.changes', { count: target.changes.length, number: format.number(target.changes.length) })}</p>`;
}

// What happens where others have changed something later. Each choice is a plan of its own.
function Choice({ page: { t, format }, view }) {
  const { plan, mode } = view;
  const count = plan.counts.conflict + (mode === 'skip' ? plan.counts.skip : 0);
  if (mode === 'refuse' && plan.counts.conflict === 0) return undefined;
  return html`
    <nav class="modes" aria-label=${t('revert.choice')}>
      <p>${count > 0 ? t('revert.conflicts', { count, number: format.number(count) }) : t('revert.choice')}</p>
      <ul>${MODES.slice(1).map(name => html`
        <li><a href=${addressOf(view, name)} aria-current=${name === mode ? 'true' : undefined}>
          <b>${t(`revert.mode.${name}`)}</b><span>${t(`revert.mode_text.${name}`)}</span></a></li>`)}</ul>
    </nav>`;
}

// What is to be taken back, as the address names it.
function wishOf({ target, q, change, isTransaction }) {
  if (change) return { [isTransaction ? 'transaction' : 'change']: change.id };
  return q ? { q } : { context: target.context, changes: target.changes, from: target.from, to: target.to };
}

const addressOf = (view, mode) => addresses.revert({ ...wishOf(view), mode });

// The plan. Where it conflicts, each column has its own choice. What is chosen is part of the address of the next plan.
function ChosenPlan({ page, view }) {
  const { t } = page;
  const { plan, mode, choices } = view;
  const { changes: ids, ...wish } = wishOf(view);
  const hidden = Object.entries({ ...wish, changes: ids?.join(','), mode }).filter(([, value]) => value !== undefined);
  return html`
    <form method="post" action="/revert/choices">
      <input type="hidden" name="_csrf" value=${page.csrf()} />
      ${hidden.map(([name, value]) => html`<input type="hidden" name=${name} value=${value} />`)}
      <${Plan} page=${page} plan=${plan} mode=${mode} choices=${choices} />
      ${offersChoices(plan, mode, choices) && html`<p class="chosen"><button>${t('revert.show_chosen')}</button></p>`}
    </form>`;
}

// The changes are named exactly, so that what is carried out does not depend on the time of the search.
function hiddenOf({ isRow, table, primaryKey, moment, target, mode, choices, plan, q, change, isTransaction }) {
  if (isRow) {
    return { table: `${table.schema}.${table.name}`, key: primaryKey, before: moment.before, at: moment.before ? undefined : moment.at, expect: plan.hash };
  }
  const named = change ? { [isTransaction ? 'transaction' : 'change']: change.id } : { ...target, changes: target.changes?.join(',') };
  return { ...named, q: q || undefined, mode, choices: textOfChoices(choices), expect: plan.hash };
}

function RunForm({ page, view, facts }) {
  const { t, format } = page;
  const { plan, isRow } = view;
  const phrase = phraseOf(view);
  const count = isRow ? 1 : plan.rows;
  return html`
    <form class="run" method="post" action="/revert">
      <input type="hidden" name="_csrf" value=${page.csrf()} />
      ${Object.entries({ ...hiddenOf(view), phrase }).filter(([, value]) => value !== undefined).map(([name, value]) => html`<input type="hidden" name=${name} value=${value} />`)}
      <label><span>${t('revert.reason')}</span><input name="reason" maxlength="500" autocomplete="off" placeholder=${t('revert.reason_hint')} /></label>
      <label><span>${t('revert.confirm')} <b class="phrase">${phrase}</b></span>
        <input name="confirm" required pattern=${patternOf(phrase)} title=${t('revert.confirm_hint', { phrase })} autocomplete="off" autocapitalize="off" spellcheck="false" /></label>
      <button class="primary">${t(isRow ? 'revert.run_row' : 'revert.run', { count, number: format.number(count) })}</button>
      <p class="dim small">${t('revert.run_text', { role: facts.role.name })}</p>
    </form>`;
}

// One row by its name, several by their number. Typing it means having read it.
function phraseOf({ isRow, table, primaryKey, plan }) {
  if (isRow) return oneLine([table.name, ...keyParts(primaryKey)].join(' '));
  const [first] = plan.steps.filter(step => step.verdict === 'ok');
  return plan.rows === 1 ? oneLine([first.table, ...first.key].join(' ')) : String(plan.rows);
}

// What fits into a field of one line.
const oneLine = text => text.replace(/\s+/g, ' ').trim().slice(0, 60).trim();

const patternOf = phrase => `\\s*${phrase.replace(/[\^$\\.*+?()[\]{}|/]/g, '\\$&')}\\s*`;
