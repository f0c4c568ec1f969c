// What a source needs, asked at the source itself.
//
//     const facts = await sourceFacts(client);      // client is connected to the source
//     checksOf(facts, parameters)                   // [{ name, state, value, cure }], in the order in which they are mended
//
// state is "good", "bad", or "open": not known before the ones above are good. value has the numbers for the sentence of the
// wording, "check.NAME.STATE". cure is { text, where, isRestart, hasScript }: the statements to run at the source, or lines for its files.
//
// Something in the source must write the context of each statement: the extension, the script bemi-source.sql, or a trigger that somebody has made.
// The first two have bemi.track(), which cures the publication, the identity and the trigger of a table at once. So they come before these. Where
// bemi.track() changes nothing, such as a trigger that is disabled, the cure is the statement itself.
//
// Statements of a cure are composed at the server by format() and quote_ident(), because they have names in them.

import { toConnectionString } from '../connection_string.js';

const SHOWN_TABLES = 50;

// What the worker of bemi needs at least.
const OLDEST = 140_000;

export async function sourceFacts(client) {
  const { rows: [server] } = await client.query(SERVER);
  // The catalogs of an older server lack columns that are asked for.
  if (server.versionNumber < OLDEST) return { server, tables: [] };
  const { rows: [publication] } = await client.query(PUBLICATION);
  const { rows: tables } = await client.query(TABLES, [SHOWN_TABLES, server.hasScript]);
  return { server, publication, tables };
}

// A setting of a library that is not loaded is not there. Hosts such as RDS give the right to replicate by a role. to_regprocedure() would fail
// without the right on the schema. On some hosts, the owner of a database is a role that cannot log in.
const SERVER = `
SELECT split_part(current_setting('server_version'), ' ', 1) AS version, current_setting('server_version_num')::integer AS "versionNumber",
    current_setting('wal_level') AS "walLevel", pg_is_in_recovery() AS "isStandby",
    current_setting('max_replication_slots')::integer AS "maxSlots", (SELECT count(*)::integer FROM pg_replication_slots) AS slots,
    (SELECT count(*)::integer FROM pg_replication_slots WHERE starts_with(slot_name::text, 'bemi_')) AS "bemiSlots",
    current_setting('max_wal_senders')::integer AS "maxSenders", (SELECT count(*)::integer FROM pg_stat_replication) AS senders,
    quote_ident(current_user) AS role, quote_ident(current_database()) AS database,
    r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'MEMBER')) AS "mayReplicate",
    r.rolsuper AS "isSuperuser",
    (SELECT o.rolname FROM pg_database d JOIN pg_roles o ON o.oid = d.datdba WHERE d.datname = current_database() AND o.rolcanlogin) AS owner,
    e.found AS "hasExtension",
    current_setting('bemi.max_slot_lag', true) IS NOT NULL AS "isLoaded",
    (SELECT has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = '_bemi' AND c.relname = 'signing_key') AS "mayReadKey",
    NOT e.found AND (SELECT count(DISTINCT p.proname) = 2 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'bemi' AND p.proname IN ('emit_context', 'track')) AS "hasScript"
FROM pg_roles r, (SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'bemi') AS found) e WHERE r.rolname = current_user`;

// From PostgreSQL 18 on, a publication may leave out generated columns. Updates of a table with REPLICA IDENTITY FULL fail then, if it has such columns.
const PUBLICATION = `
SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AS "isWhole", pubviaroot AS "isByRoot", puballtables AS "isOfAllTables",
    to_jsonb(p) ->> 'pubgencols' IS NOT DISTINCT FROM 'n' AS "lacksColumns"
FROM pg_publication p WHERE pubname = 'bemi'`;

// The user's tables, those that are published first, each with its partitions.
//
// With a trigger that fires, the context of a statement is written. Those of bemi.track() are on each partition, too. $2: the script is there, with
// its second trigger. A virtual column, of PostgreSQL 18, cannot be a part of an identity: such a table has the identity of its primary key.
// pg_partition_tree() would lock all partitions.
const TABLES = `
WITH RECURSIVE published AS (SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_publication_tables WHERE pubname = 'bemi'),
shown AS (
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, p.name IS NOT NULL AS is_published
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN published p ON p.name = format('%I.%I', n.nspname, c.relname)
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
        AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'bemi', '_bemi', 'bemi_dashboard')
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY p.name IS NULL, n.nspname, c.relname LIMIT $1),
tree(root, relid) AS (
    SELECT oid, oid FROM shown
    UNION ALL SELECT t.root, i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.relid AND NOT i.inhdetachpending
        JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition),
members AS (
    SELECT t.root, t.relid, t.root = t.relid AS is_root, format('%I.%I', n.nspname, c.relname) AS name, c.relreplident AS identity,
        NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 'v' AND NOT a.attisdropped) AS can_be_full,
        EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_key
    FROM tree t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'),
triggers AS (
    SELECT g.tgrelid, g.tgname, g.tgenabled IN ('O', 'A') AS fires,
        f.proname = 'emit_context' OR f.prosrc LIKE '%pg_logical_emit_message%' AND f.proname <> 'reemit_context' AS emits,
        n.nspname = 'bemi' AND f.proname IN ('emit_context', 'reemit_context') AS is_ours
    FROM pg_trigger g JOIN pg_proc f ON f.oid = g.tgfoid JOIN pg_namespace n ON n.oid = f.pronamespace
    WHERE NOT g.tgisinternal AND g.tgrelid IN (SELECT relid FROM members)),
captured AS (
    SELECT m.*, bool_or(g.fires AND g.emits) IS TRUE AS is_captured, bool_or(g.is_ours AND g.tgname = 'bemi_emit_context') IS TRUE AS is_tracked,
        bool_or(g.tgname = 'bemi_reemit_context') IS TRUE AS reemits,
        string_agg(format('ALTER TABLE %s ENABLE TRIGGER %I;', m.name, g.tgname), E'\\n' ORDER BY g.tgname) FILTER (WHERE g.is_ours AND NOT g.fires) AS enabling
    FROM members m LEFT JOIN triggers g ON g.tgrelid = m.relid
    GROUP BY m.root, m.relid, m.is_root, m.name, m.identity, m.can_be_full, m.has_key)
SELECT s.name, s.is_published AS "isPublished", NOT r.can_be_full AND NOT r.has_key AS "isKeyless",
    bool_or(NOT c.is_captured AND NOT c.is_tracked AND (c.is_root OR r.is_tracked) OR $2 AND c.is_tracked AND NOT c.reemits) AS "lacksTrigger",
    string_agg(c.enabling, E'\\n' ORDER BY c.name) AS enabling,
    bool_or(c.can_be_full AND c.identity <> 'f') AS "lacksFull",
    string_agg(format('ALTER TABLE %s REPLICA IDENTITY FULL;', c.name), E'\\n' ORDER BY c.name) FILTER (WHERE c.can_be_full AND c.identity <> 'f') AS "makeFull",
    string_agg(format('ALTER TABLE %s REPLICA IDENTITY DEFAULT;', c.name), E'\\n' ORDER BY c.name) FILTER (WHERE NOT c.can_be_full AND c.identity IN ('f', 'n')) AS "makeDefault"
FROM shown s JOIN captured r ON r.relid = s.oid JOIN captured c ON c.root = s.oid
GROUP BY s.name, s.is_published, r.can_be_full, r.has_key, r.is_tracked
ORDER BY NOT s.is_published, s.name`;

const good = (name, value) => ({ name, state: 'good', value });
const bad = (name, text, value, more = {}) => ({ name, state: 'bad', value, cure: { text, ...more } });
const open = name => ({ name, state: 'open' });

export const NAMES = ['reachable', 'version', 'wal_level', 'slots', 'rights', 'capture', 'publication', 'identity'];

// parameters are those of the form, or {} for the database of the history itself.
export function checksOf(facts, parameters) {
  const first = [good('reachable', { role: facts.server.role, database: facts.server.database }), version(facts), walLevel(facts), slots(facts), rights(facts)];
  if (facts.server.versionNumber < OLDEST) return [...first, ...['capture', 'publication', 'identity'].map(open)];
  const captured = capture(facts, parameters);
  return [...first, captured, publication(facts, captured), identity(facts)];
}

// The source did not answer. What can be said of the others then?
export const unreachableChecks = reachable => NAMES.map(name => (name === 'reachable' ? reachable : open(name)));

function version({ server }) {
  const value = { version: server.version };
  return server.versionNumber >= OLDEST ? good('version', value) : { name: 'version', state: 'bad', value };
}

function walLevel({ server }) {
  const value = { level: server.walLevel };
  return server.walLevel === 'logical' ? good('wal_level', value)
    : bad('wal_level', "ALTER SYSTEM SET wal_level = 'logical';", value, { isRestart: true });
}

// A source that is read already has its slot and its WAL sender.
function slots({ server }) {
  const value = { slots: server.maxSlots - server.slots, senders: server.maxSenders - server.senders };
  if (server.bemiSlots > 0 || (value.slots > 0 && value.senders > 0)) return good('slots', value);
  const lines = [
    value.slots <= 0 && `ALTER SYSTEM SET max_replication_slots = ${server.maxSlots + 5};`,
    value.senders <= 0 && `ALTER SYSTEM SET max_wal_senders = ${server.maxSenders + 5};`,
  ];
  return bad('slots', lines.filter(Boolean).join('\n'), value, { isRestart: true });
}

function rights({ server }) {
  const lines = [
    !server.mayReplicate && `ALTER ROLE ${server.role} REPLICATION;`,
    server.mayReadKey === false && `GRANT USAGE ON SCHEMA bemi, _bemi TO ${server.role};\nGRANT SELECT ON _bemi.signing_key TO ${server.role};`,
  ].filter(Boolean);
  return lines.length === 0 ? good('rights', { role: server.role }) : bad('rights', lines.join('\n'), { role: server.role });
}

const canTrack = ({ hasExtension, hasScript }) => hasExtension || hasScript;

// With the script there need be no superuser, and only the owner of a table can track it.
const whereOf = ({ hasScript }) => (hasScript ? { where: 'owner' } : {});

const call = (name, { name: table }) => `SELECT bemi.${name}('${table.replaceAll("'", "''")}');`;
const track = table => call('track', table);

// A publication of all tables cannot get single ones, so bemi.track() has published none of them.
const publishedOf = ({ server, publication: found, tables }) => (canTrack(server) && found?.isOfAllTables ? [] : tables.filter(table => table.isPublished));

function capture(facts, parameters) {
  const { server } = facts;
  if (server.hasExtension && !server.isLoaded) {
    return { ...bad('capture', "ALTER SYSTEM SET shared_preload_libraries = 'bemi';", {}, { isRestart: true }), problem: 'unloaded' };
  }
  const published = publishedOf(facts);
  // One that cannot be tracked is a matter of its identity.
  const missing = published.filter(table => !table.isKeyless && (table.lacksTrigger || table.enabling));
  const value = { count: missing.length || published.length };
  if (published.length > 0 && missing.length === 0) return good('capture', value);
  if (!canTrack(server)) return install(server, parameters);
  if (published.length === 0) return { ...good('capture', value), problem: server.hasScript ? 'script' : 'extension' };
  const lines = missing.flatMap(table => [table.lacksTrigger && track(table), table.enabling]);
  return { ...bad('capture', lines.filter(Boolean).join('\n'), value, whereOf(server)), problem: 'missing' };
}

function install({ owner, database }, { host, port, database: name, sslmode, sslrootcert }) {
  if (!host) return { ...bad('capture', 'CREATE EXTENSION bemi;', { database }), problem: 'here' };
  const connection = toConnectionString({ host, port, database: name, user: owner ?? 'OWNER', sslmode, sslrootcert });
  return bad('capture', `psql ${quoteForShell(connection)} -v ON_ERROR_STOP=1 -f bemi-source.sql`, { database }, { where: 'script', hasScript: true });
}

// Within double quotes, the shell would run a part of some names.
const quoteForShell = text => (/["$`\\!]/.test(text) ? `'${text.replaceAll("'", "'\\''")}'` : `"${text}"`);

const OPTIONS = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true";

function publication(facts, captured) {
  const { server, publication: found, tables } = facts;
  const published = publishedOf(facts);
  const value = { count: published.length };
  const isRight = found?.isWhole && found.isByRoot && !(canTrack(server) && found.lacksColumns);
  if (isRight && published.length > 0) return good('publication', value);
  if (!canTrack(server) && captured.state !== 'good') return open('publication');
  const tracked = published.length > 0 ? [] : tables.filter(table => !table.isKeyless);
  if (published.length + tracked.length === 0) return bad('publication', 'CREATE TABLE ...', value, whereOf(server));
  const options = `${OPTIONS}${server.versionNumber >= 180_000 ? ', publish_generated_columns = stored' : ''}`;
  const isMissing = !found || (found.isOfAllTables && canTrack(server));
  const lines = [
    found && isMissing && 'DROP PUBLICATION bemi;',
    // bemi.track() of the extension makes it.
    isMissing && server.hasScript && `CREATE PUBLICATION bemi WITH (${options});`,
    !isMissing && !isRight && `ALTER PUBLICATION bemi SET (${options});`,
    ...tracked.map(track),
  ];
  return bad('publication', lines.filter(Boolean).join('\n'), value, whereOf(server));
}

function identity(facts) {
  const { server } = facts;
  const published = publishedOf(facts);
  if (published.length === 0) return open('identity');
  const keyless = published.filter(table => table.isKeyless);
  if (keyless.length > 0) {
    const lines = keyless.map(table => (canTrack(server) ? call('untrack', table) : `ALTER PUBLICATION bemi DROP TABLE ${table.name};`));
    return { ...bad('identity', lines.join('\n'), { count: keyless.length }, whereOf(server)), problem: 'keyless' };
  }
  const missing = published.filter(table => table.lacksFull || table.makeDefault);
  const value = { count: missing.length || published.length };
  const lines = missing.flatMap(table => [table.lacksFull && (canTrack(server) ? track(table) : table.makeFull), table.makeDefault]);
  return missing.length === 0 ? good('identity', value) : bad('identity', lines.filter(Boolean).join('\n'), value, whereOf(server));
}

const UNTRUSTED = /^(?:SELF_SIGNED_CERT_IN_CHAIN|DEPTH_ZERO_SELF_SIGNED_CERT|UNABLE_TO_\w+|CERT_SIGNATURE_FAILURE|CERT_UNTRUSTED|INVALID_CA)$/;

// The certificate of the source is not accepted: by whom it was signed, for how long, or for which names.
function certificateProblem({ code, cert }, { sslrootcert }) {
  if (UNTRUSTED.test(code ?? '')) {
    const isNamed = sslrootcert && sslrootcert !== 'system';
    return { problem: 'untrusted', cure: { text: isNamed ? sslrootcert : '/etc/bemi-root.crt', where: isNamed ? 'rootcert' : 'rootcert_name' } };
  }
  if (/^CERT_(?:HAS_EXPIRED|NOT_YET_VALID)$/.test(code ?? '')) return { problem: 'expired' };
  if (code !== 'ERR_TLS_CERT_ALTNAME_INVALID') return undefined;
  const names = (cert?.subjectaltname ?? cert?.subject?.CN ?? '').split(', ').map(name => name.replace(/^(?:DNS|IP Address):/, '')).join('\n');
  return { problem: 'other_host', cure: names ? { text: names, where: 'host_name' } : undefined };
}

// Why the source cannot be reached, and what helps. parameters are those of the form.
export function unreachable(error, parameters) {
  const { host, port, database, user } = parameters;
  const value = { host, port, message: error.message };
  const quoted = `"${user.replaceAll('"', '""')}"`;
  if (/password must be a string|empty password/.test(error.message)) return { name: 'reachable', state: 'bad', value, problem: 'password_missing' };
  const certificate = certificateProblem(error, parameters);
  if (certificate) return { name: 'reachable', state: 'bad', value, ...certificate };
  const [problem, text] = {
    // The server does not tell whether there is such a role.
    '28P01': ['password', `CREATE ROLE ${quoted} LOGIN REPLICATION PASSWORD '...';\n-- or, if there is one:\nALTER ROLE ${quoted} PASSWORD '...';`],
    '3D000': ['database', `CREATE DATABASE "${database.replaceAll('"', '""')}";`],
    28000: /does not exist/.test(error.message) ? ['role', `CREATE ROLE ${quoted} LOGIN REPLICATION;`]
      : /not permitted to log in/.test(error.message) ? ['login', `ALTER ROLE ${quoted} LOGIN;`]
        : ['hba', `${parameters.sslmode === 'disable' ? 'host' : 'hostssl'}  ${database}  ${user}  samenet  scram-sha-256`],
    53300: ['full', 'ALTER SYSTEM SET max_connections = 200;'],
    ECONNREFUSED: ['refused', "ALTER SYSTEM SET listen_addresses = '*';"],
    ENOENT: ['refused', 'pg_ctl start'],
    ENOTFOUND: ['host', `getent hosts ${host}`],
  }[error.code] ?? (/does not support SSL/.test(error.message) ? ['tls', 'ALTER SYSTEM SET ssl = on;'] : ['other', undefined]);
  return { name: 'reachable', state: 'bad', value, problem, cure: text && { text, isRestart: ['refused', 'full'].includes(problem), isReload: problem === 'hba' || problem === 'tls',
    where: { hba: 'hba', host: 'os' }[problem] ?? (error.code === 'ENOENT' ? 'os' : 'source') } };
}
