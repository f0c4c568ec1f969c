// Everything that one request has done, in all tables. Without a key for requests in the context, that is the transaction.
//
//     /request/ID?of=transaction&table=SCHEMA.NAME&after=NUMBER
//
// ID is that of any of its changes. table: only this one, from the line after NUMBER on.

import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { findChange, tableOf } from '../queries/changes.js';
import { findRequest, requestContext, requestOf, requestTimes, revertsOf } from '../queries/requests.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { find } from '../search/context_keys.js';
import { format as formatTerms } from '../search/grammar.js';
import { Line } from '../views/change_line.js';
import { Context } from '../views/change_panel.js';
import { Heading } from '../views/heading.js';
import { html, separated } from '../views/html.js';
import { Trust } from '../views/trust.js';
import { where, who } from '../views/who.js';
import { missing, text, uuid } from './parameters.js';

export const name = 'request';

export async function register(app) {
  app.get('/request/:id', showRequest);
}

async function showRequest(request, reply) {
  const { page, database, gone, query } = request;
  const facts = await factsOf(database);
  const asked = {
    of: query.of === 'transaction' ? 'transaction' : undefined,
    table: query.table ? text(query.table) : undefined,
    after: /^\d{1,6}$/.test(query.after) ? Number(query.after) : undefined,
  };
  const data = await database.read(client => requestData(client, uuid(request.params.id), { facts, ...asked }), { signal: gone });
  if (!data) throw missing();
  return reply.show({ text: heading(page, data.change) }, html`<${RequestPage} page=${page} asked=${asked} ...${data} />`);
}

async function requestData(client, id, { facts, of, table, after }) {
  const change = id && await findChange(client, id, { facts });
  if (!change) return undefined;
  const isTransaction = of === 'transaction' || !requestOf(change);
  const found = await findRequest(client, change, { facts, isTransaction, table, after });
  return {
    change, isTransaction, found,
    // To look for them, a large transaction is read once more.
    reverts: found.isCapped ? [] : await revertsOf(client, change),
    mayRevert: change.database === facts.role.database && found.tables.every(one => tableOf(facts, one)?.mayWrite),
    states: (await sourceStates(client)).filter(state => state.name === change.source),
    gaps: await gapsOf(client, { source: change.source, from: change.committedAt }),
  };
}

const heading = (page, change) => [who(page, change.context, { isBaseline: change.operation === 'SNAPSHOT' }), where(page, change.context)].filter(Boolean).join(' · ');

function RequestPage({ page, asked, change, isTransaction, found, reverts, mayRevert, states, gaps }) {
  const { t, format, has } = page;
  const [first] = found.transactions;
  const isOne = isTransaction || found.transactions.length === 1;
  return html`
    <article class="sheet">
      <${Heading} above=${html`<a href=${addresses.requests()}>${t('requests.title')}</a>`}>
        ${who(page, change.context, { isBaseline: change.operation === 'SNAPSHOT' })} <span class="where">${where(page, change.context)}</span>
      <//>
      <${Trust} page=${page} states=${states} gaps=${gaps.filter(gap => gap.from && gap.from <= change.committedAt)} />
      <p class="summary"><${Summary} page=${page} found=${found} change=${change} isTransaction=${isTransaction} /></p>
      ${reverts.map(revert => html`
        <p class="hint">${t('request.reverted')} <a href=${addresses.request(revert.id, { of: 'transaction' })}>${who(page, revert.context)} · ${format.moment(revert.committedAt, { today: true })}</a></p>`)}
      <p class="actions">
        ${has('revert') && mayRevert && html`<a class="button primary" href=${addresses.revert(isOne ? { transaction: first.id }
          : { context: requestContext(change), ...requestTimes(change) })}>${t('action.revert')}</a>`}
        <${Scope} page=${page} change=${change} isTransaction=${isTransaction} />
        <${SameContext} page=${page} change=${change} />
      </p>
      ${asked.table && html`<p><a href=${addresses.request(change.id, { of: asked.of })}>← ${t('request.all_tables')}</a></p>`}
      ${found.tables.map(table => html`<${Table} page=${page} asked=${asked} change=${change} table=${table} />`)}
      <section class="block"><${Context} page=${page} change=${change} /></section>
      <${Transactions} page=${page} found=${found} />
    </article>`;
}

function Summary({ page: { t, format }, found, change, isTransaction }) {
  const number = format.number(found.count);
  const changes = found.isCapped ? t('changes.found_capped', { number }) : t('changes.found', { number, count: found.count });
  const tables = t('request.tables', { number: format.number(found.tables.length), count: found.tables.length });
  return t(isTransaction ? 'request.of_transaction' : 'request.of_request', {
    changes, tables, when: format.moment(change.committedAt, { today: true }), id: isTransaction ? change.transactionId : requestOf(change)[1],
  });
}

// From the request to one of its transactions, and back.
function Scope({ page: { t }, change, isTransaction }) {
  if (!requestOf(change)) return undefined;
  return isTransaction
    ? html`<a class="button" href=${addresses.request(change.id)}>${t('action.request')}</a>`
    : html`<a class="button" href=${addresses.request(change.id, { of: 'transaction' })}>${t('action.transaction')}</a>`;
}

// What the same user or job has done at other times.
function SameContext({ page, change }) {
  const [key, value] = find(change.context, 'user') ?? find(change.context, 'job') ?? [];
  if (!key) return undefined;
  const { kind } = change.contextMembers.find(({ name }) => name === key).value;
  const q = formatTerms([{ qualifier: key, value, quoted: kind === 'string' && /^[-\d.]+$/.test(value) }]);
  return html`<a class="button" href=${addresses.changes({ q })}>${page.t('request.same', { who: who(page, change.context) })}</a>`;
}

function Table({ page, asked, change, table }) {
  const { t, format } = page;
  const counts = Object.entries(table.counts).map(([operation, count]) => html`
    <span class=${`operation ${operation.toLowerCase()}`}>${format.number(count)} ${t(`operation.${operation}`)}</span>`);
  const full = `${table.schema}.${table.table}`;
  const more = table.next && addresses.request(change.id, { of: asked.of, table: full, after: asked.table ? table.next : 0 });
  return html`
    <section class="group" aria-label=${full}>
      <header>
        <h2>${table.table}</h2>
        <span class="counts">${separated(counts, ' ')}</span>
      </header>
      <ul>
        ${table.lines.map(line => html`<${Line} page=${page} line=${line} address=${addresses.change(line.id)} />`)}
        ${more && html`<li class="more-lines"><a href=${more}>${t(asked.table ? 'request.next' : 'request.rest', { number: format.number(table.count - table.next), count: table.count - table.next })}</a></li>`}
      </ul>
    </section>`;
}

function Transactions({ page: { t, format }, found: { transactions } }) {
  if (transactions.length < 2) return undefined;
  return html`
    <section class="block">
      <h3>${t('request.transactions')}</h3>
      <ul>${transactions.map(one => html`
        <li><a href=${addresses.request(one.id, { of: 'transaction' })}>${one.transactionId}</a> <span class="dim">${format.moment(one.committedAt)}</span></li>`)}</ul>
    </section>`;
}
