// The sources of this history, and what starts and stops them.

import { objectsState } from './objects.js';
import { bind, sql } from './sql.js';
import { checksOf, sourceFacts, unreachable, unreachableChecks } from './source_checks.js';

const SHOWN_CHANGES = 50_000;
const SHOWN_MINUTES = [2, 10, 60];

// What the server of the history itself has: { isLoaded, hasExtension, isSuperuser, mayReplicate, ... }. It works without bemi.
export async function historyFacts(client) {
  const { rows: [row] } = await client.query(`
    SELECT current_database() AS database, current_user AS role, r.rolsuper AS "isSuperuser", r.rolsuper OR r.rolreplication AS "mayReplicate",
        EXISTS (SELECT FROM pg_extension WHERE extname = 'bemi') AS "hasExtension",
        EXISTS (SELECT FROM pg_available_extensions WHERE name = 'bemi') AS "isInstalled",
        current_setting('bemi.max_slot_lag', true) IS NOT NULL AS "isLoaded"
    FROM pg_roles r WHERE r.rolname = current_user`);
  return { ...row, mayStart: row.hasExtension && await mayStart(client) };
}

// Who may start a source of this database that is new. A connection string takes a superuser.
async function mayStart(client) {
  const { rows: [row] } = await client.query(`
    SELECT has_schema_privilege('bemi', 'USAGE') AND has_function_privilege('bemi.start(text, text, boolean)', 'EXECUTE')
        AND (r.rolsuper OR r.rolreplication) AS yes
    FROM pg_roles r WHERE r.rolname = current_user`);
  return row.yes;
}

// What the role may do with a source: { start, stop, drop }. Without the objects of the dashboard, nobody but PostgreSQL knows the owner of the source, and
// the buttons are shown.
export async function rightsOn(client, name) {
  const { rows: [role] } = await client.query(`
    SELECT r.rolsuper AS "isSuperuser", r.rolsuper OR r.rolreplication AS "mayReplicate", has_function_privilege('bemi.start(text, text, boolean)', 'EXECUTE') AS start,
        has_function_privilege('bemi.stop(text)', 'EXECUTE') AS stop, has_function_privilege('bemi.drop_source(text, boolean)', 'EXECUTE') AS drop
    FROM pg_roles r WHERE r.rolname = current_user`);
  const isOwner = async () => !(await objectsState(client))?.exists
    || (await client.query(sql`SELECT bemi_dashboard.owns_source(${bind(name, 'text')}) AS yes`.toQuery())).rows[0].yes;
  const may = role.mayReplicate && (role.isSuperuser || await isOwner());
  return { start: may && role.start, stop: may && role.stop, drop: may && role.drop };
}

// [{ name, database, state, lag, warning, ..., cost }]: all that bemi.status has.
export async function listSources(client) {
  const { rows } = await client.query(`
    SELECT source AS name, database, state, slot_name, stored_until, extract(epoch FROM lag) * 1000 AS lag, changes, transactions, restarts,
        last_error, last_error_at, last_hint, warning, wal_kept, pg_size_pretty(wal_kept) AS "walKept", wal_status, catalog_xmin_age,
        EXISTS (SELECT FROM pg_replication_slots r WHERE r.slot_name = s.slot_name AND r.database = current_database()) AS "isLocal"
    FROM bemi.status s ORDER BY source`);
  return rows.map(row => ({
    ...row,
    lag: row.lag === null ? undefined : Math.max(0, Math.round(Number(row.lag))),
    changes: Number(row.changes),
    storedUntil: row.stored_until ?? undefined,
    lastError: row.last_error ?? undefined,
    lastHint: row.last_hint ?? undefined,
    warning: row.warning ?? undefined,
  }));
}

// The connection string of a source, for who may see it: undefined for this database, and for others who may not.
export async function connectionOf(client, name) {
  const query = sql`SELECT conninfo FROM bemi.sources WHERE name = ${bind(name, 'text')}`;
  const { rows: [row] } = await client.query(query.toQuery());
  return row?.conninfo ?? undefined;
}

// { points: [[seconds, changes a minute]], isCapped } of the last hour. If that has more changes than can be counted quickly, of a shorter time.
//
// The index on times finds a span of time, and the rows of a span are counted as they lie. So the spans get longer until one has too many.
export async function ratesOf(client, name) {
  const now = Math.floor(Date.now() / 60_000) * 60;
  const counted = new Map();
  let left = SHOWN_CHANGES;
  let first = now + 60;
  for (const minutes of SHOWN_MINUTES) {
    const from = now - (minutes - 1) * 60;
    const rows = await countMinutes(client, name, { from, to: first, most: left + 1 });
    left -= rows.reduce((sum, row) => sum + row.changes, 0);
    // The newest changes are shown in any case.
    if (left < 0 && first <= now) break;
    for (const row of rows) counted.set(row.minute, row.changes);
    first = from;
    if (left < 0) break;
  }
  const points = [];
  for (let minute = first; minute <= now; minute += 60) points.push([minute, counted.get(minute) ?? 0]);
  return { points, isCapped: left < 0 };
}

async function countMinutes(client, name, { from, to, most }) {
  const query = sql`
    SELECT extract(epoch FROM date_trunc('minute', committed_at))::float8 AS minute, count(*)::integer AS changes
    FROM (SELECT committed_at FROM bemi.changes WHERE source = ${bind(name, 'text')}
        AND committed_at >= ${bind(new Date(from * 1000), 'timestamptz')} AND committed_at < ${bind(new Date(to * 1000), 'timestamptz')}
        LIMIT ${bind(most, 'integer')}) c
    GROUP BY 1`;
  return (await client.query(query.toQuery())).rows;
}

// When the source's last change was committed.
export async function lastChangeOf(client, name) {
  const query = sql`SELECT committed_at FROM bemi.find_changes(source_name => ${bind(name, 'text')}, newest => 1)`;
  const { rows: [row] } = await client.query(query.toQuery());
  return row?.committed_at;
}

// Does not wait, because the page shows how far it is.
export async function startSource(client, { name, conninfo }) {
  const query = sql`CALL bemi.start(${bind(name, 'text')}, conninfo => ${bind(conninfo ?? null, 'text')}, wait => false)`;
  await client.query(query.toQuery());
}

export async function stopSource(client, { name }) {
  const query = sql`CALL bemi.stop(${bind(name, 'text')})`;
  await client.query(query.toQuery());
}

// The statement that drops a source, to show and to run. force: its slot at another server stays there.
export const dropStatement = ({ name, force }) => (force ? sql`CALL bemi.drop_source(${bind(name, 'text')}, force => true)` : sql`CALL bemi.drop_source(${bind(name, 'text')})`);

export const dropSource = (client, source) => client.query(dropStatement(source).toQuery());

// The state of a password file at the history's server, for superusers: its owner alone may read it.
export async function hasServerFile(client, path) {
  const query = sql`SELECT size IS NOT NULL AS found FROM pg_stat_file(${bind(path, 'text')}, true)`;
  const { rows: [row] } = await client.query(query.toQuery());
  return row?.found ?? false;
}

// The text of a file with certificates at the history's server, for superusers: { text, knowsSystem }, without a text if it cannot be read. knowsSystem: libpq there knows
// sslrootcert=system.
export async function readRootCertificate(database, path, options) {
  const query = sql`SELECT pg_read_file(${bind(path, 'text')}, 0, 1000000, true) AS text`;
  const read = asked => database.read(async client => (await client.query(asked)).rows[0], options);
  const { knowsSystem } = await read("SELECT current_setting('server_version_num')::integer >= 160000 AS \"knowsSystem\"");
  if (!path || path === 'system') return { knowsSystem };
  const { text } = await read(query.toQuery()).catch(error => { if (!error.severity) throw error; return {}; });
  return { text: text ?? undefined, knowsSystem };
}

// The text of bemi-source.sql, as "make install" has put it beside the extension's own script, for superusers. Undefined if the files were installed without it.
//
// From PostgreSQL 18 on, extensions may be in several folders.
export async function readSourceScript(client) {
  const { rows: [row] } = await client.query(`
    SELECT pg_read_file(f.path, 0, 10000000, true) AS text
    FROM pg_config c, unnest(string_to_array(coalesce(nullif(current_setting('extension_control_path', true), ''), '$system'), ':')) WITH ORDINALITY d(folder, place),
        format('%s/extension/bemi-source.sql', CASE d.folder WHEN '$system' THEN c.setting ELSE d.folder END) f(path)
    WHERE c.name = 'SHAREDIR' AND (pg_stat_file(f.path, true)).size > 0 ORDER BY d.place LIMIT 1`);
  return row?.text;
}

// All checks of a source through its own connection. database is a Database of the source; it does not throw if the source is away.
export async function checkSource(database, parameters) {
  try {
    return checksOf(await database.read(sourceFacts, { timeout: 5_000 }), parameters);
  } catch (error) {
    return unreachableChecks(unreachable(error, parameters));
  }
}
