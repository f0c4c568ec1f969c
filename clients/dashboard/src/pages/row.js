// One row through time: its versions on a line with a slider, one version with who has set each column, and two versions compared.
//
//     /row/SCHEMA/TABLE/KEY?version=ID&compared=ID&source=NAME
//     /row?schema=SCHEMA&table=TABLE&key=KEY       for parts that cannot be in a path, such as ".."
//
// KEY is primary_key of bemi.changes. version is the change that made the version, the newest one by default. If compared is given, the
// page shows what differs between it and version. htmx asks for #version if the slider moves.

import * as addresses from '../addresses.js';
import { factsOf } from '../queries/facts.js';
import { tableOf } from '../queries/changes.js';
import { blameOf, compareVersions, rowHistory, versionOf, withKeyOfToday } from '../queries/rows.js';
import { keyParts } from '../queries/values.js';
import { gapsOf, sourceStates } from '../queries/trust.js';
import { html } from '../views/html.js';
import { RowPage, RowVersion } from '../views/row_view.js';
import { missing, text, uuid } from './parameters.js';

export const name = 'row';

export async function register(app) {
  app.get('/row/:schema/:table/:key', showRow);
  app.get('/row', showRow);
}

async function showRow(request, reply) {
  const { page, database, gone, query } = request;
  const { schema, table, key } = 'key' in request.params ? request.params : query;
  const facts = await factsOf(database);
  const asked = { schema: text(schema), name: text(table), primaryKey: text(key), source: query.source };
  const chosen = { version: uuid(query.version), compared: uuid(query.compared) };
  const found = await withKeyOfToday(async isOfToday => {
    const row = rowOf(facts, asked, isOfToday);
    const data = await database.read(client => rowData(client, row, chosen), { signal: gone });
    return data && { row, data };
  });
  if (!found) throw missing();
  const { row, data } = found;
  if (page.part === 'version') return reply.part(html`<${RowVersion} page=${page} row=${row} ...${data} />`);
  const title = { text: [row.name, ...row.key].join(' ') };
  return reply.show(title, html`<${RowPage} page=${page} row=${row} ...${data} />`, { scripts: ['row.js'] });
}

// A table of another server may have the same name, and then the address names its source.
function rowOf(facts, { schema, name: table, primaryKey, source }, isOfToday) {
  const isElsewhere = source && facts.sources.find(({ name }) => name === source)?.database !== facts.role.database;
  const found = isElsewhere || !isOfToday ? undefined : tableOf(facts, { schema, table });
  return {
    schema, name: table, primaryKey, key: keyParts(primaryKey),
    source: found ? undefined : source && text(source),
    table: found,
    columns: found?.columns ?? [],
    keyColumns: found?.key ?? [],
    mayRevert: Boolean(found?.mayWrite),
  };
}

async function rowData(client, row, { version, compared }) {
  const history = await rowHistory(client, row, { around: version });
  const { versions } = history;
  const current = version ? versions.find(({ id }) => id === version) : versions.at(-1);
  if (!current) return undefined;
  const isNewest = !history.hasLater && current === versions.at(-1);
  const other = versions.find(({ id }) => id === compared);
  // A TRUNCATE and a DELETE leave nothing to compare with.
  const comparison = other && other !== current ? await compareVersions(client, row, [other, current]) : undefined;
  return {
    history, current, isNewest, other,
    content: await versionOf(client, row, current),
    setters: isNewest && row.table ? settersOf(await blameOf(client, row), versions) : settersAt(history, current, row),
    comparison,
    states: (await sourceStates(client)).filter(state => !row.source || state.name === row.source),
    gaps: await gapsOf(client, { source: row.source, table: row, from: history.hasEarlier ? versions[0].committedAt : undefined }),
  };
}

// Who has set each column, by bemi.blame(): a map from column to version.
function settersOf(blame) {
  const setter = ({ changeId, changedAt, context }) => changeId && { id: changeId, committedAt: changedAt, context };
  return new Map(blame.map(entry => [entry.column, setter(entry)]));
}

// The same for an earlier version, from the versions up to it. A CREATE has set all columns, and a baseline none. If one of them may have set any column, it is not known who has set those
// that nobody has set after it.
function settersAt({ versions }, current, { columns }) {
  const setters = new Map();
  for (const version of versions.slice(0, versions.indexOf(current) + 1)) {
    if (!version.columns || version.operation === 'SNAPSHOT') setters.clear();
    if (version.operation === 'CREATE') for (const column of columns) setters.set(column, version);
    if (version.operation === 'SNAPSHOT') continue;
    for (const column of version.columns ?? []) setters.set(column, version);
  }
  return setters;
}
