// The sources: a list, the page of each, and the way to connect one.
//
//     /sources                        all of them
//     /sources/named/NAME             one: its checks, its rate, its slot, its gaps
//     /sources/named/NAME/drop        the statement that drops it; its form runs this statement
//     /sources/here                   checks of this database, before it is read
//     /sources/connect                the form for another server; then
//     /sources/connect/ID             its checks, until all are green
//     /sources/bemi-source.sql        what a source runs that cannot have the extension, as the server of the history has it
//
// Lists of checks are loaded again every two seconds. So one cures a check, and sees it turn green.

import { createHash } from 'node:crypto';
import * as addresses from '../addresses.js';
import { Drafts } from '../access/drafts.js';
import { fromConnectionString, TLS_MODES, toConnectionString } from '../connection_string.js';
import { sourceDatabase, verifies } from '../database.js';
import { forgetFacts } from '../queries/facts.js';
import { checkSource, connectionOf, dropSource, dropStatement, hasServerFile, historyFacts, lastChangeOf, listSources, ratesOf, readRootCertificate, readSourceScript, rightsOn, startSource, stopSource } from '../queries/sources.js';
import { gapsOf } from '../queries/trust.js';
import { Checks } from '../views/checks.js';
import { html } from '../views/html.js';
import { kindOf } from '../views/source_state.js';
import { Gap, gapsInside, Trust } from '../views/trust.js';

export const name = 'sources';
export const address = '/sources';

const drafts = new Drafts();

// These pages show nothing of the history, and load themselves again and again.
const LOOK = { config: { logsItself: true } };

export async function register(app) {
  app.get('/sources', LOOK, showSources);
  app.get('/sources/named/:name', LOOK, showSource);
  app.post('/sources/named/:name/start', start);
  app.post('/sources/named/:name/stop', stop);
  app.get('/sources/named/:name/drop', LOOK, showDrop);
  app.post('/sources/named/:name/drop', drop);
  app.get('/sources/here', LOOK, showHere);
  app.get('/sources/connect', LOOK, showForm);
  app.post('/sources/connect', addDraft);
  app.get('/sources/connect/:id', LOOK, showDraft);
  app.post('/sources/connect/:id', connect);
  app.get(addresses.sourceScript, LOOK, sendScript);
}

const missing = () => Object.assign(new Error('there is no such source'), { statusCode: 404 });

// What both the list and each page need. Without the extension there are no sources, and the page says how to install it.
function overview({ database, gone }) {
  return database.read(async client => {
    const history = await historyFacts(client);
    if (!history.hasExtension) return { history, sources: [], gaps: [] };
    return { history, sources: await listSources(client), gaps: await gapsOf(client, {}) };
  }, { signal: gone });
}

// The banner for a page that connects: of the source with this name if it is read already, or else of all of them. Without bemi there is none.
async function trustOf(request, sourceName) {
  const { history, sources, gaps } = await overview(request);
  if (!history.hasExtension) return undefined;
  const known = sources.filter(({ name: one }) => one === sourceName);
  return known.length > 0 ? html`<${Trust} page=${request.page} states=${known} gaps=${gaps.filter(({ source }) => !source || source === sourceName)} />`
    : html`<${Trust} page=${request.page} states=${sources} gaps=${gaps} />`;
}

// ---- the list

async function showSources(request, reply) {
  const { page } = request;
  const { history, sources, gaps } = await overview(request);
  if (!history.hasExtension || !history.isLoaded) return showSetUp(request, reply, history);
  return reply.show('sources.title', html`<${SourcesPage} page=${page} history=${history} sources=${sources} gaps=${gaps} />`);
}

function SourcesPage({ page, history, sources, gaps }) {
  const { t } = page;
  const isReadHere = sources.some(source => source.isLocal);
  return html`
    <div class="page">
      <h1>${t('sources.title')}</h1>
      <${Trust} page=${page} states=${sources} gaps=${gaps} />
      ${sources.length === 0 && html`<p class="lead">${t('sources.none')}</p>`}
      <ul class="cards">${sources.map(source => html`<${SourceCard} page=${page} source=${source} />`)}</ul>
      <p class="actions">
        ${history.mayStart && !isReadHere && html`<a class="button primary" href="/sources/here">${t('sources.here', { database: history.database })}</a>`}
        ${history.isSuperuser && html`<a class=${`button ${isReadHere ? 'primary' : ''}`} href="/sources/connect">${t('sources.connect')}</a>`}
      </p>
      ${!history.isSuperuser && html`<p class="dim">${t('sources.rights')}</p>`}
    </div>`;
}

function SourceCard({ page: { t, format }, source }) {
  const kind = kindOf(source);
  return html`
    <li class="card">
      <h2><span class=${`dot ${kind}`}></span><a href=${addresses.source(source.name)}>${source.name}</a></h2>
      <p>${t(`source.state.${kind}`)} · ${t('sources.database', { database: source.database ?? '' })}</p>
      <p class="dim">${[source.lag !== undefined && t('source.behind', { duration: format.duration(source.lag) }),
    source.walKept && t('sources.slot_keeps', { size: source.walKept })].filter(Boolean).join(' · ')}</p>
      ${source.lastError && kind === 'stopped' && html`<p class="problem">${source.lastError}</p>`}
      ${source.warning && html`<p class="problem">${source.warning}</p>`}
    </li>`;
}

// ---- without bemi

async function showSetUp({ page, url }, reply, history) {
  const checks = setUpChecks(history);
  const poll = pollAddress('/sources', checks);
  if (page.part === 'checks') return replyChecks(reply, page, checks, poll, url);
  return reply.show('sources.title', html`
    <div class="page">
      <h1>${page.t('sources.title')}</h1>
      <p class="lead">${page.t('sources.set_up', { database: history.database })}</p>
      <${Checks} page=${page} checks=${checks} poll=${poll} />
    </div>`);
}

function setUpChecks({ isInstalled, isLoaded, hasExtension }) {
  const state = (isGood, before = true) => (isGood ? 'good' : before ? 'bad' : 'open');
  const cure = (stateName, text, more) => (stateName === 'bad' ? { text, where: 'history', ...more } : undefined);
  const [installed, loaded] = [state(isInstalled), state(isLoaded, isInstalled)];
  const extension = state(hasExtension, isLoaded);
  return [
    { name: 'installed', state: installed, cure: cure(installed, 'make && make install', { where: 'shell' }) },
    { name: 'loaded', state: loaded, cure: cure(loaded, "ALTER SYSTEM SET shared_preload_libraries = 'bemi';", { isRestart: true }) },
    { name: 'extension', state: extension, cure: cure(extension, 'CREATE EXTENSION bemi;') },
  ];
}

// ---- one source

async function showSource(request, reply) {
  const { page, database, gone, params } = request;
  const data = await database.read(async client => {
    const history = await historyFacts(client);
    const source = history.hasExtension && (await listSources(client)).find(candidate => candidate.name === params.name);
    if (!source) throw missing();
    const rates = await ratesOf(client, source.name);
    const lastChange = await lastChangeOf(client, source.name);
    return { history, source, rights: await rightsOn(client, source.name), rates, lastChange, gaps: await gapsOf(client, { source: source.name }) };
  }, { signal: gone });
  const checks = await checksOfSource(database, data);
  const poll = pollAddress(addresses.source(params.name), checks);
  if (page.part === 'checks') return replyChecks(reply, page, checks, poll, request.url);
  if (page.part === 'rates') return reply.part(html`<${Rates} page=${page} name=${params.name} rates=${data.rates} />`);
  return reply.show({ text: params.name }, html`<${SourcePage} page=${page} ...${data} checks=${checks} poll=${poll} />`, { scripts: ['sources.js'] });
}

// Of a source elsewhere, its worker is the one that knows: the dashboard has no password for it.
async function checksOfSource(database, { source, lastChange }) {
  const state = kindOf(source);
  const before = source.isLocal ? await checkSource(database, {})
    : [{ name: 'reachable', state: { connected: 'good', waiting: 'open', stopped: 'bad' }[state], problem: state === 'connected' ? 'worker' : undefined,
      ...(state === 'stopped' && { problem: source.lastError ? 'failed' : 'stopped', detail: source.lastError, cure: source.lastHint && { text: source.lastHint, where: 'hint' } }) }];
  return [...before, ...checksOfStatus(source, lastChange, state)];
}

function checksOfStatus(source, lastChange, state) {
  const isSlotBad = ['lost', 'unreserved'].includes(source.wal_status);
  const failed = state === 'stopped' && source.isLocal;
  return [
    { name: 'slot', state: isSlotBad ? 'bad' : source.slot_name && source.wal_status ? 'good' : 'open', value: { slot: source.slot_name, size: source.walKept ?? '?' }, detail: isSlotBad ? source.warning : undefined },
    { name: 'lag', state: state === 'connected' ? 'good' : failed ? 'bad' : 'open', value: { ms: Math.round((source.lag ?? 0) / 100) / 10 },
      detail: failed ? source.lastError ?? source.warning : undefined, cure: failed && source.lastHint ? { text: source.lastHint, where: 'hint' } : undefined },
    { name: 'last_change', state: lastChange ? 'good' : 'open', value: { when: lastChange?.toISOString().slice(0, 16).replace('T', ' ') } },
  ];
}

function SourcePage({ page, history, source, rights, rates, gaps, checks, poll, lastChange }) {
  const { t, format } = page;
  const kind = kindOf(source);
  const inside = gapsInside(gaps);
  return html`
    <div class="page">
      <p class="small"><a href="/sources">${t('sources.title')}</a></p>
      <h1>${source.name}</h1>
      <p class="lead" id="state" role="status"><span class=${`dot ${kind}`}></span><b>${t(`source.state.${kind}`)}</b> · ${t('sources.database', { database: source.database ?? '' })}</p>
      <${Trust} page=${page} states=${[source]} gaps=${gaps} />
      ${source.warning && html`<p class="problem">${source.warning}</p>`}
      <dl class="numbers">
        <div><dt>${t('sources.lag')}</dt><dd>${source.lag === undefined ? '–' : format.duration(source.lag)}</dd></div>
        <div><dt>${t('sources.changes')}</dt><dd>${format.number(source.changes)}</dd></div>
        <div><dt>${t('sources.last_change')}</dt><dd>${lastChange ? format.moment(lastChange) : '–'}</dd></div>
        <div><dt>${t('sources.slot_cost')}</dt><dd>${source.walKept ?? '–'}${source.catalog_xmin_age !== null && html` <small class="dim">${t('sources.xmin', { number: format.number(source.catalog_xmin_age) })}</small>`}</dd></div>
        <div><dt>${t('sources.gaps')}</dt><dd>${format.number(inside.length)}</dd></div>
      </dl>
      <h2>${t('sources.rate')}</h2>
      <${Rates} page=${page} name=${source.name} rates=${rates} />
      <h2>${t('sources.checks')}</h2>
      <${Checks} page=${page} checks=${checks} poll=${poll} />
      ${inside.length > 0 && html`<h2>${t('sources.gaps')}</h2>${inside.map(gap => html`<${Gap} page=${page} gap=${gap} />`)}`}
      <${SourceActions} page=${page} history=${history} source=${source} rights=${rights} kind=${kind} />
    </div>`;
}

// The chart is drawn by public/sources.js. Its sentence is for who does not see it.
function Rates({ page: { t, format }, name: source, rates: { points, isCapped } }) {
  const changes = points.reduce((sum, [, count]) => sum + count, 0);
  const most = Math.max(0, ...points.map(([, count]) => count));
  const values = { changes: format.number(changes), most: format.number(most), minutes: points.length };
  return html`
    <figure class="rates" id="rates" data-points=${JSON.stringify(points)} hx-get=${addresses.source(source)} hx-trigger="every 30s" hx-swap="outerHTML">
      <div class="chart" aria-hidden="true"></div>
      <figcaption class="dim small">${t(isCapped ? 'sources.rate_capped' : 'sources.rate_text', values)}</figcaption>
    </figure>`;
}

function SourceActions({ page, history, source, rights, kind }) {
  const { t } = page;
  if (!Object.values(rights).some(Boolean)) return undefined;
  const isStopped = ['stopped', 'not running'].includes(source.state);
  const form = action => html`
    <form method="post" action=${`${addresses.source(source.name)}/${action}`}>
      <input type="hidden" name="_csrf" value=${page.csrf()} /><button>${t(`sources.${action}`)}</button>
    </form>`;
  return html`
    <div class="actions">
      ${isStopped ? rights.start && form('start') : rights.stop && form('stop')}
      ${history.isSuperuser && !source.isLocal && html`<a class="button" href=${`/sources/connect?name=${source.name}`}>${t(kind === 'connected' ? 'sources.check_again' : 'sources.change')}</a>`}
      ${rights.drop && html`<a class="button" href=${addresses.dropSource(source.name)}>${t('sources.drop')}</a>`}
    </div>`;
}

async function start({ database, params, gone }, reply) {
  await database.write(client => startSource(client, { name: params.name }), { signal: gone });
  return reply.redirect(addresses.source(params.name), 303);
}

async function stop({ database, params, gone }, reply) {
  await database.write(client => stopSource(client, { name: params.name }), { signal: gone });
  return reply.redirect(addresses.source(params.name), 303);
}

// ---- the end of one

async function showDrop(request, reply) {
  return showDropPage(request, reply, { force: request.query.force === 'yes' });
}

// isWrong: what was typed is not the name.
async function showDropPage({ page, database, gone, params }, reply, { force, isWrong }) {
  const data = await database.read(async client => {
    const source = (await listSources(client)).find(candidate => candidate.name === params.name);
    if (!source) throw missing();
    return { source, rights: await rightsOn(client, source.name), gaps: await gapsOf(client, { source: source.name }) };
  }, { signal: gone });
  return reply.show('sources.drop_title', html`<${DropPage} page=${page} ...${data} force=${force && !data.source.isLocal} isWrong=${isWrong} />`);
}

function DropPage({ page, source, rights, gaps, force, isWrong }) {
  const { t } = page;
  const { name: phrase } = source;
  const address = addresses.dropSource(phrase);
  return html`
    <div class="page plan">
      <p class="small"><a href=${addresses.source(phrase)}>${phrase}</a></p>
      <h1>${t('sources.drop_of', { name: phrase })}</h1>
      <${Trust} page=${page} states=${[source]} gaps=${gaps} />
      <p class="lead">${t('sources.drop_text')}</p>
      ${!source.isLocal && html`<p class="dim">${t(force ? 'sources.drop_forced' : 'sources.drop_slot')} <a href=${force ? address : `${address}?force=yes`}>${t(force ? 'sources.drop_unforce' : 'sources.drop_force')}</a></p>`}
      <pre tabindex="0"><code id="plan">${`${dropStatement({ name: phrase, force }).toText()};`}</code></pre>
      ${isWrong && html`<p class="refusal" role="alert">${t('revert.not_confirmed')}</p>`}
      ${rights.drop ? html`
        <form class="run" method="post" action=${address}>
          <input type="hidden" name="_csrf" value=${page.csrf()} />
          ${force && html`<input type="hidden" name="force" value="yes" />`}
          <label><span>${t('revert.confirm')} <b class="phrase">${phrase}</b></span>
            <input name="confirm" required pattern=${`\\s*${phrase}\\s*`} title=${t('revert.confirm_hint', { phrase })} autocomplete="off" autocapitalize="off" spellcheck="false" /></label>
          <button class="primary">${t('sources.drop_run')}</button>
        </form>` : html`<p class="dim">${t('sources.drop_rights')}</p>`}
    </div>`;
}

async function drop(request, reply) {
  const { database, params, body, gone } = request;
  const force = body.force === 'yes';
  if (String(body.confirm ?? '').trim() !== params.name) return showDropPage(request, reply.code(409), { force, isWrong: true });
  await database.write(client => dropSource(client, { name: params.name, force }), { signal: gone });
  forgetFacts(database);
  return reply.redirect('/sources', 303);
}

// ---- this database

async function showHere({ page, database, gone, url }, reply) {
  const history = await database.read(historyFacts, { signal: gone });
  const trust = await trustOf({ page, database, gone });
  const checks = [...await checkSource(database, {}), ...LATER];
  const poll = pollAddress('/sources/here', checks);
  if (page.part === 'checks') return replyChecks(reply, page, checks, poll, url);
  return reply.show('sources.here_title', html`
    <div class="page">
      <p class="small"><a href="/sources">${page.t('sources.title')}</a></p>
      <h1>${page.t('sources.here', { database: history.database })}</h1>
      ${trust}
      <p class="lead">${page.t('sources.here_text')}</p>
      <${Checks} page=${page} checks=${checks} poll=${poll} />
      ${history.mayStart && html`<${ConnectButton} page=${page} action=${`${addresses.source('main')}/start`} />`}
    </div>`);
}

// It has nothing of the history. But like the files of the extension, it is a file of the server, which only superusers may read.
async function sendScript({ page, database, gone }, reply) {
  await checkSuperuser({ page, database, gone });
  const script = await database.read(readSourceScript, { signal: gone });
  if (script === undefined) throw Object.assign(new Error(), { statusCode: 404, kind: 'script' });
  return reply.type('application/sql; charset=utf-8').header('Content-Disposition', 'attachment; filename="bemi-source.sql"').send(script);
}

// Known only when the source is read.
const LATER = ['slot', 'lag', 'last_change'].map(check => ({ name: check, state: 'open' }));

// ---- another server

const FIELDS = ['name', 'host', 'port', 'database', 'user', 'sslmode', 'sslrootcert', 'passfile', 'service'];
const DEFAULTS = { name: '', host: '', port: '5432', database: '', user: 'bemi_reader', sslmode: 'verify-full', sslrootcert: '', passfile: '', service: '' };

async function showForm({ page, database, gone, query }, reply) {
  await checkSuperuser({ page, database, gone });
  const known = query.name && await database.read(client => connectionOf(client, String(query.name)), { signal: gone });
  const draft = drafts.find(database, query.draft)?.parameters;
  const values = { ...DEFAULTS, ...draft, ...known && { ...fromConnectionString(known), name: query.name } };
  const trust = await trustOf({ page, database, gone }, values.name);
  return reply.show('sources.connect', html`<${FormPage} page=${page} values=${values} problems=${[]} trust=${trust} />`);
}

function FormPage({ page, values, problems, trust }) {
  const { t } = page;
  const field = (fieldName, { type = 'text', ...more } = {}) => html`
    <label class="field" data-field=${fieldName}><span>${t(`connect.${fieldName}`)}</span>
      <input name=${fieldName} type=${type} value=${values[fieldName]} autocomplete="off" spellcheck="false" ...${more}
        aria-invalid=${problems.includes(fieldName) ? 'true' : undefined} aria-describedby=${`hint-${fieldName}`} />
      <small class=${problems.includes(fieldName) ? 'problem' : 'dim'} id=${`hint-${fieldName}`}>${t(`connect.${fieldName}.hint`)}</small></label>`;
  return html`
    <div class="page">
      <p class="small"><a href="/sources">${t('sources.title')}</a></p>
      <h1>${t('sources.connect')}</h1>
      ${trust}
      <p class="lead">${t('connect.text')}</p>
      <form class="form" method="post" action="/sources/connect">
        <input type="hidden" name="_csrf" value=${page.csrf()} />
        ${field('name', { required: true, pattern: '[a-z0-9_]{1,32}' })}
        ${field('host', { required: true })}
        ${field('port', { required: true, inputmode: 'numeric', pattern: '[0-9]{1,5}' })}
        ${field('database', { required: true })}
        ${field('user', { required: true })}
        <label class="field"><span>${t('connect.sslmode')}</span>
          <select name="sslmode">${TLS_MODES.map(mode => html`<option value=${mode} selected=${mode === values.sslmode}>${t(`connect.sslmode.${mode}`)}</option>`)}</select></label>
        ${field('passfile')}
        ${field('password', { type: 'password' })}
        <details class="more"><summary>${t('connect.more')}</summary>${field('service')}${field('sslrootcert')}</details>
        <p class="actions"><button class="primary">${t('connect.check')}</button></p>
      </form>
    </div>`;
}

async function addDraft({ page, database, gone, body }, reply) {
  const values = Object.fromEntries(FIELDS.map(field => [field, String(body[field] ?? '').trim()]));
  const problems = [
    !/^[a-z0-9_]{1,32}$/.test(values.name) && 'name',
    !(Number(values.port) >= 1 && Number(values.port) <= 65_535) && 'port',
    ...['host', 'database', 'user'].map(field => !values[field] && field),
  ].filter(Boolean);
  if (!TLS_MODES.includes(values.sslmode) || FIELDS.some(field => /[\0\n\r]/.test(values[field]))) problems.push('host');
  await checkSuperuser({ page, database, gone });
  if (problems.length > 0) {
    const trust = await trustOf({ page, database, gone }, values.name);
    return reply.code(422).show('sources.connect', html`<${FormPage} page=${page} values=${values} problems=${problems} trust=${trust} />`);
  }
  return reply.redirect(`/sources/connect/${drafts.add(database, values, String(body.password ?? ''))}`, 303);
}

// bemi.start() would refuse others, too. But the dashboard connects to the source before that.
async function checkSuperuser({ page, database, gone }) {
  const { isSuperuser } = await database.read(historyFacts, { signal: gone });
  if (!isSuperuser) throw Object.assign(new Error(page.t('sources.rights')), { code: '42501', severity: 'ERROR' });
}

async function draftChecks({ database, gone }, { parameters, password }) {
  const root = verifies(parameters) ? await readRootCertificate(database, parameters.sslrootcert, { signal: gone }) : undefined;
  const isNamed = root && parameters.sslrootcert && parameters.sslrootcert !== 'system';
  // Without the file, nothing is trusted.
  const source = sourceDatabase(parameters, password, isNamed ? root.text ?? [] : undefined);
  const checks = await checkSource(source, parameters).finally(() => source.end());
  return [...root ? [rootCertificate(parameters, root)] : [], passwordFile(parameters, parameters.passfile && await database.read(client => hasServerFile(client, parameters.passfile), { signal: gone })), ...checks, ...LATER];
}

// The worker reads it at the server of the history, too.
function rootCertificate({ sslrootcert }, { text, knowsSystem }) {
  const state = (name, problem, more) => ({ name: 'rootcert', state: name, problem, value: { file: sslrootcert }, ...more });
  if (!sslrootcert) return state('good', 'default');
  if (sslrootcert === 'system') return knowsSystem ? state('good', 'system') : state('bad', 'no_system');
  return /-----BEGIN (?:TRUSTED )?CERTIFICATE-----/.test(text ?? '') ? state('good') : state('bad', text === undefined ? undefined : 'none', { cure: { text: sslrootcert, where: 'rootcert' } });
}

// The server of the history logs in with it, and nobody else can read it.
function passwordFile({ passfile, service, host, port, database, user }, isThere) {
  if (!passfile) return { name: 'passfile', state: 'good', problem: service ? 'service' : 'default', value: { service } };
  const line = [host, port, database, user].map(part => part.replace(/[\\:]/g, '\\$&')).join(':');
  return isThere ? { name: 'passfile', state: 'good', value: { passfile } }
    : { name: 'passfile', state: 'bad', value: { passfile }, cure: { where: 'passfile', text: `${line}:PASSWORD` } };
}

async function showDraft(request, reply) {
  const { page, params, database, url } = request;
  const draft = drafts.find(database, params.id);
  if (!draft) return reply.redirect('/sources/connect');
  const checks = await draftChecks(request, draft);
  const poll = pollAddress(`/sources/connect/${params.id}`, checks);
  if (page.part === 'checks') return replyChecks(reply, page, checks, poll, url);
  const { parameters } = draft;
  return reply.show('sources.connect', html`
    <div class="page">
      <p class="small"><a href="/sources">${page.t('sources.title')}</a></p>
      <h1>${page.t('connect.checks', { name: parameters.name })}</h1>
      ${await trustOf(request, parameters.name)}
      <p class="lead">${page.t('connect.checks_text')}</p>
      <p class="dim"><code>${toConnectionString(connection(parameters))}</code> <a href=${`/sources/connect?draft=${params.id}`}>${page.t('connect.edit')}</a></p>
      <${Checks} page=${page} checks=${checks} poll=${poll} />
      <${ConnectButton} page=${page} action=${`/sources/connect/${params.id}`} />
    </div>`);
}

function ConnectButton({ page, action }) {
  return html`
    <form class="connect" method="post" action=${action}>
      <input type="hidden" name="_csrf" value=${page.csrf()} />
      <button class="primary">${page.t('connect.start')}</button> <span class="dim">${page.t('connect.not_yet')}</span>
    </form>`;
}

const connection = ({ name: _, ...parameters }) => parameters;

async function connect({ database, params, gone }, reply) {
  const draft = drafts.find(database, params.id);
  if (!draft) return reply.redirect('/sources/connect', 303);
  const { name: source } = draft.parameters;
  await database.write(async client => {
    const isKnown = (await listSources(client)).some(candidate => candidate.name === source);
    if (isKnown) await stopSource(client, { name: source });
    await startSource(client, { name: source, conninfo: toConnectionString(connection(draft.parameters)) });
  }, { signal: gone });
  drafts.forget(params.id);
  forgetFacts(database);
  return reply.redirect(addresses.source(source), 303);
}

// ---- checks that are loaded again

const digestOf = checks => createHash('sha256').update(JSON.stringify(checks, (key, value) => (['ms', 'size', 'when'].includes(key) ? undefined : value))).digest('base64url').slice(0, 12);
const pollAddress = (path, checks) => `${path}?seen=${digestOf(checks)}`;

// Nothing is replaced if nothing has changed: a selection, the focus and a word that is just read stay.
function replyChecks(reply, page, checks, poll, url) {
  if (url === poll) return reply.code(204).send();
  return reply.part(html`<${Checks} page=${page} checks=${checks} poll=${poll} />`);
}
