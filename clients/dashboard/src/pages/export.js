// The changes that a search finds, all of them, as a file.
//
//     /export?q=table:order              what would be exported, and in which formats
//     /export/changes.csv?q=table:order  the file
//
// The file is sent while it is read, and reading ends if the browser goes away. The access log has an entry when it begins, and one when
// it ends, with the number of changes.

import { Readable } from 'node:stream';
import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { exportPage } from '../queries/export.js';
import { checkColumn, findGroups } from '../queries/changes.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { parse } from '../search/grammar.js';
import { limitFacts, limitMeaning } from '../search/limit.js';
import { meaningOf } from '../search/meaning.js';
import { formats } from '../views/export_file.js';
import { Heading } from '../views/heading.js';
import { html } from '../views/html.js';
import { Filters, SearchBox } from '../views/search_box.js';
import { Trust } from '../views/trust.js';
import { missing, text } from './parameters.js';

export const name = 'export';
export const isForLinks = true;

const TIMEOUT = 60_000;
const CHUNK = 64 * 1024;

export async function register(app) {
  app.get('/export', { config: { isForLinks } }, showExport);
  app.get('/export/:file', { config: { isForLinks, logsItself: true } }, sendFile);
}

async function readSearch(request) {
  const { limit } = request;
  const known = await factsOf(request.database);
  const facts = limit ? limitFacts(known) : known;
  const q = text(request.query.q);
  const terms = parse(q);
  const meaning = meaningOf(terms, facts, { zone: request.page.zone });
  // As on the page of changes.
  if (limit) limitMeaning(meaning, limit);
  await checkColumn(request.database, meaning, request.gone);
  if (facts.sources.length > 1) meaning.source ??= facts.sources[0].name;
  // "since:2h" counts from now, and not from each page of a long export.
  for (const edge of ['from', 'to']) if (meaning[edge]) meaning[edge] = { instant: meaning[edge].instant };
  return { facts, q, terms, meaning };
}

async function showExport(request, reply) {
  const { page, database, gone } = request;
  const search = await readSearch(request);
  const { meaning, facts } = search;
  const data = await database.read(async client => ({
    found: meaning.problems.length > 0 ? undefined : await findGroups(client, meaning, { facts }),
    states: (await sourceStates(client)).filter(state => !meaning.source || state.name === meaning.source),
    gaps: await gapsOf(client, { source: meaning.source, table: meaning.table, from: meaning.from?.instant }),
  }), { signal: gone });
  return reply.show('export.title', html`<${ExportPage} page=${page} ...${search} ...${data} isLogged=${request.isAccessLogged} />`);
}

function ExportPage({ page, facts, q, terms, meaning, found, states, gaps, isLogged }) {
  const { t, format } = page;
  const number = found && format.number(found.count);
  return html`
    <article class="sheet">
      <${Heading} above=${html`<a href=${addresses.changes({ q })}>${t('changes.title')}</a>`}>${t('export.title')}<//>
      <${SearchBox} page=${page} q=${q} problems=${meaning.problems} action="/export" />
      <${Filters} page=${page} terms=${terms} facts=${facts} addressOf=${addresses.exported} />
      <${Trust} page=${page} states=${states} gaps=${gaps} table=${meaning.table} />
      ${found && html`
        <section class="block export">
          <p><b>${found.isCapped ? t('changes.found_capped', { number }) : t('changes.found', { number, count: found.count })}</b></p>
          <dl>${Object.keys(formats).map(name => html`
            <div><dt><a class="button primary" href=${addresses.exported({ q, format: name })} download>${t(`export.${name}`)}</a></dt>
              <dd class="dim">${t(`export.about.${name}`)}</dd></div>`)}</dl>
          ${isLogged && html`<p class="dim small">${t('export.logged')}</p>`}
        </section>`}
    </article>`;
}

async function sendFile(request, reply) {
  const [, extension] = /^changes\.(\w+)$/.exec(request.params.file) ?? [];
  if (!Object.hasOwn(formats, extension ?? '')) throw missing();
  const { q, meaning } = await readSearch(request);
  if (meaning.problems.length > 0) return reply.redirect(addresses.exported({ q }));
  await request.logAccess({ action: 'export' });
  // Before anything is sent, so that an error is a page.
  const first = await readPage(request, meaning);
  const fileName = `changes-${new Date().toISOString().slice(0, 19).replaceAll(':', '')}.${extension}`;
  reply.header('Content-Disposition', `attachment; filename="${fileName}"`).type(formats[extension].type);
  return reply.send(Readable.from(linesOf(request, meaning, first, formats[extension]), { objectMode: false, highWaterMark: CHUNK }));
}

const readPage = ({ database, gone }, meaning, beforeId) =>
  database.read(client => exportPage(client, meaning, { beforeId }), { signal: gone, timeout: TIMEOUT });

// Meanwhile, the reader may have logged out, or somebody may have ended his link.
async function readNext(request, meaning, beforeId) {
  if (!await request.mayStay()) throw new Error('the export ends, because the login or the link has ended');
  return readPage(request, meaning, beforeId);
}

// If it fails in the middle, the connection is closed, and the browser reports that the file is not complete.
async function* linesOf(request, meaning, first, { header, line }) {
  let changes = 0;
  let action = 'export_ended';
  try {
    if (header) yield header;
    for (let page = first; page; page = page.next && await readNext(request, meaning, page.next)) {
      changes += page.rows.length;
      if (page.rows.length > 0) yield page.rows.map(line).join('');
    }
    action = 'exported';
  } finally {
    await request.logAccess({ action, changes });
  }
}
