// Links for customers: the changes with a context, read-only, until a day. Makes them, lists them, and ends one before its day.
//
//     /links          those that belong to the role, and the form for another one; ?before=ID has earlier ones
//     /links/ID       the statement that ends it; its button runs this statement

import { randomUUID } from 'node:crypto';
import * as addresses from '../addresses.js';
import { LONGEST, LONGEST_TEXT, signLink } from '../access/links.js';
import { openObjects, withObjects } from '../access/objects.js';
import { factsOf } from '../queries/facts.js';
import { addLink, endLink, endStatement, isMemberOf, ownLinks, roleOf } from '../queries/links.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { parse } from '../search/grammar.js';
import { exactContext, meaningOf } from '../search/meaning.js';
import { html } from '../views/html.js';
import { Trust } from '../views/trust.js';
import { missing, text, uuid } from './parameters.js';

export const name = 'links';
export const address = '/links';
// Without a key there are no links.
export const needs = 'linkKey';

const members = new WeakMap();

// For who may make one. It is asked for once for each Database.
export async function isShown(facts, database, options) {
  if (!members.has(database)) {
    const role = await options.database.read(roleOf);
    members.set(database, await database.read(client => isMemberOf(client, role)));
  }
  return members.get(database);
}

const SHOWN = 100;

const DAY = 24 * 60 * 60 * 1000;

export async function register(app, options) {
  if (!options.linkKey) return;
  app.get('/links', (request, reply) => showForm(request, reply, options));
  app.post('/links', (request, reply) => makeLink(request, reply, options));
  app.get('/links/:id', showEnd);
  app.post('/links/:id/end', end);
}

const refused = t => Object.assign(new Error(t('link.rights')), { code: '42501', severity: 'ERROR' });

// A link reads as the role of the connection string.
async function checkMaker({ database, page }, options) {
  const role = await options.database.read(roleOf);
  if (!await database.read(client => isMemberOf(client, role))) throw refused(page.t);
}

// Also without an access log, the list of links is there.
async function withList({ database, gone }, work, method = 'read') {
  await openObjects(database);
  return database[method](client => withObjects(database, client, () => work(client)), { signal: gone });
}

// more: { values, problem, isLong } of a form that is not right, or { values, link } of a link that was made.
async function show(request, reply, more) {
  const before = uuid(request.query.before);
  const data = await withList(request, async client => ({ before, links: await ownLinks(client, { before, newest: SHOWN + 1 }), states: await sourceStates(client), gaps: await gapsOf(client, {}) }));
  return reply.show('link.title', html`<${LinksPage} page=${request.page} ...${data} ...${more} />`);
}

async function showForm(request, reply, options) {
  await checkMaker(request, options);
  const day = new Date(Date.now() + 30 * DAY).toISOString().slice(0, 10);
  return show(request, reply, { values: { context: text(request.query.context), until: day, name: '' } });
}

function LinksPage({ page, values, problem, isLong, link, before, links, states, gaps }) {
  const { t } = page;
  const field = (fieldName, type = 'text') => html`
    <label class="field"><span>${t(`link.${fieldName}`)}</span>
      <input name=${fieldName} type=${type} value=${values[fieldName]} required autocomplete="off" aria-describedby=${`hint-${fieldName}`} aria-invalid=${problem === fieldName ? 'true' : undefined} />
      <small class=${problem === fieldName ? 'problem' : 'dim'} id=${`hint-${fieldName}`}>${t(isLong && problem === fieldName ? 'link.too_long' : `link.${fieldName}.hint`)}</small></label>`;
  return html`
    <div class="page">
      <h1>${t('link.title')}</h1>
      <${Trust} page=${page} states=${states} gaps=${gaps} />
      <p class="lead">${t('link.text')}</p>
      ${link && html`
        <div class="made" role="status"><p>${t('link.made', { until: values.until })}</p>
          <div class="code"><pre tabindex="0"><code id="link">${link}</code></pre><button type="button" data-copy="link" data-copied=${t('frame.copied')}>${t('frame.copy')}</button></div></div>`}
      <form class="form" method="post" action="/links">
        <input type="hidden" name="_csrf" value=${page.csrf()} />
        ${field('context')}${field('until', 'date')}${field('name')}
        <p class="actions"><button class="primary">${t('link.make')}</button></p>
      </form>
      ${(links.length > 0 || before) && html`<${List} page=${page} links=${links.slice(0, SHOWN)} before=${before} hasMore=${links.length > SHOWN} />`}
    </div>`;
}

function List({ page, links, before, hasMore }) {
  const { t } = page;
  return html`
    <h2>${t('link.list')}</h2>
    <table class="grid">
      <thead><tr><th scope="col">${t('link.name')}</th><th scope="col">${t('link.context')}</th><th scope="col">${t('link.state')}</th></tr></thead>
      <tbody>${links.map(link => html`
        <tr>
          <th scope="row">${link.name} <span class="dim small">${madeBy(page, link)}</span></th>
          <td><code>${link.context}</code></td>
          <td>${stateOf(page, link)}${isOpen(link) && html` <a class="button" href=${addresses.link(link.id)} aria-label=${t('link.end_of', { name: link.name })}>${t('link.end')}</a>`}</td>
        </tr>`)}</tbody>
    </table>
    ${(before || hasMore) && html`
      <p class="actions">
        ${before && html`<a class="button" href=${addresses.links()}>${t('link.newest')}</a>`}
        ${hasMore && html`<a class="button" href=${addresses.links({ before: links.at(-1).id })}>${t('link.earlier')}</a>`}
      </p>`}`;
}

const isOpen = ({ endedAt, until }) => !endedAt && until > new Date();

const madeBy = ({ t, format }, { person, madeBy: role, madeAt }) => t('link.made_by', { role: person ? `${person} (${role})` : role, when: format.moment(madeAt, { seconds: false }) });

function stateOf({ t, format }, link) {
  const moment = date => format.moment(date, { seconds: false });
  if (link.endedAt) return t('link.state.ended', { when: moment(link.endedAt), role: link.endedBy });
  return t(isOpen(link) ? 'link.state.open' : 'link.state.over', { until: moment(link.until) });
}

async function makeLink(request, reply, options) {
  const { page, database, body, person } = request;
  await checkMaker(request, options);
  const values = { context: text(body.context), until: text(body.until), name: text(body.name).trim().slice(0, 100) };
  const context = contextOf(values.context, await factsOf(database));
  // The whole day, wherever it is.
  const until = new Date(`${values.until}T23:59:59Z`);
  const inTime = until > new Date() && until - Date.now() < LONGEST * 1000;
  const problem = !context ? 'context' : !inTime ? 'until' : !values.name && 'name';
  if (problem) return show(request, reply.code(422), { values, problem });
  const link = { id: randomUUID(), context, until, name: values.name };
  const signed = signLink(link, options.linkKey);
  if (signed.length > LONGEST_TEXT) return show(request, reply.code(422), { values, problem: 'context', isLong: true });
  await withList(request, client => addLink(client, { ...link, person }), 'write');
  const origin = options.publicAddress ?? `http://${request.headers.host}`;
  return show(request, reply, { values, link: `${origin}/link/${signed}` });
}

// [[key, JSON]] of a search with nothing but values of the context, each of which is clear.
function contextOf(search, facts) {
  const meaning = meaningOf(parse(search), facts);
  const { conditions, problems, table, operations, column, from, to, source } = meaning;
  const isMore = [table, operations, column, from, to, source].some(Boolean) || conditions.length > 0 || problems.length > 0;
  const context = exactContext(meaning, facts);
  return isMore || !context?.size ? undefined : [...context];
}

// ---- the end of one

async function showEnd(request, reply) {
  const id = uuid(request.params.id);
  const [link] = id ? await withList(request, client => ownLinks(client, { id })) : [];
  if (!link) throw missing();
  return reply.show('link.end_title', html`<${EndPage} page=${request.page} link=${link} />`);
}

function EndPage({ page, link }) {
  const { t } = page;
  return html`
    <div class="page plan">
      <p class="small"><a href=${address}>${t('link.title')}</a></p>
      <h1>${t('link.end_of', { name: link.name })}</h1>
      <p class="lead">${t('link.end_text')}</p>
      <p><code>${link.context}</code> <span class="dim">${stateOf(page, link)} · ${madeBy(page, link)}</span></p>
      <pre tabindex="0"><code id="plan">${`${endStatement(link.id).toText()};`}</code></pre>
      ${isOpen(link) && html`
        <form method="post" action=${`${addresses.link(link.id)}/end`} class="actions">
          <input type="hidden" name="_csrf" value=${page.csrf()} />
          <button class="primary">${t('link.end_run')}</button>
          <button type="button" data-copy="plan" data-copied=${t('frame.copied')}>${t('frame.copy')}</button>
          <a class="button" href=${address}>${t('tables.cancel')}</a>
        </form>`}
    </div>`;
}

async function end(request, reply) {
  const id = uuid(request.params.id);
  if (!id) throw missing();
  await withList(request, client => endLink(client, id), 'write');
  return reply.redirect(address, 303);
}
