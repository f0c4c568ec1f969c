// What a source needs, asked at the source itself.
//
//     const facts = await sourceFacts(client);      // client is connected to the source
//     checksOf(facts)                               // [{ name, state, value, cure }], in the order in which they are mended
//
// state is "good", "bad", or "open": not known before the ones above are good. value has the numbers for the sentence of the
// wording, "check.NAME.STATE". cure is { text, isRestart }: the statements to run at the source as a superuser, or lines for its files.
//
// Statements of a cure are composed at the server by format() and quote_ident(), because they have names in them.

const SHOWN_TABLES = 50;

// What the worker of bemi needs at least.
const OLDEST = 140_000;

export async function sourceFacts(client) {
  const { rows: [server] } = await client.query(SERVER);
  const { rows: [publication] } = await client.query(PUBLICATION);
  const { rows: tables } = await client.query(TABLES, [SHOWN_TABLES]);
  return { server, publication, tables };
}

// A setting of a library that is not loaded is not there. Hosts such as RDS give the right to replicate by a role.
const SERVER = `
SELECT split_part(current_setting('server_version'), ' ', 1) AS version, current_setting('server_version_num')::integer AS "versionNumber",
    current_setting('wal_level') AS "walLevel", pg_is_in_recovery() AS "isStandby",
    current_setting('max_replication_slots')::integer AS "maxSlots", (SELECT count(*)::integer FROM pg_replication_slots) AS slots,
    (SELECT count(*)::integer FROM pg_replication_slots WHERE starts_with(slot_name::text, 'bemi_')) AS "bemiSlots",
    current_setting('max_wal_senders')::integer AS "maxSenders", (SELECT count(*)::integer FROM pg_stat_replication) AS senders,
    quote_ident(current_user) AS role, quote_ident(current_database()) AS database,
    r.rolsuper OR r.rolreplication OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'MEMBER')) AS "mayReplicate",
    r.rolsuper AS "isSuperuser",
    EXISTS (SELECT FROM pg_extension WHERE extname = 'bemi') AS "hasExtension",
    current_setting('bemi.max_slot_lag', true) IS NOT NULL AS "isLoaded",
    (SELECT has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = '_bemi' AND c.relname = 'signing_key') AS "mayReadKey",
    to_regprocedure('public.emit_context()') IS NOT NULL AS "hasKit"
FROM pg_roles r WHERE r.rolname = current_user`;

const PUBLICATION = `
SELECT pubinsert AND pubupdate AND pubdelete AND pubtruncate AS "isWhole", pubviaroot AS "isByRoot"
FROM pg_publication WHERE pubname = 'bemi'`;

// The user's tables, those that are published first. With the trigger, the context of a statement is written.
const TABLES = `
SELECT format('%I.%I', n.nspname, c.relname) AS name, p.tablename IS NOT NULL AS "isPublished", c.relreplident AS identity,
    EXISTS (SELECT FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid
        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' AND (f.prosrc LIKE '%pg_logical_emit_message%' OR f.proname = 'emit_context')) AS "hasTrigger"
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_publication_tables p ON p.pubname = 'bemi' AND p.schemaname = n.nspname AND p.tablename = c.relname
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'bemi', '_bemi', 'bemi_dashboard')
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY p.tablename IS NULL, n.nspname, c.relname LIMIT $1`;

const good = (name, value) => ({ name, state: 'good', value });
const bad = (name, text, value, more = {}) => ({ name, state: 'bad', value, cure: { text, ...more } });

export const NAMES = ['reachable', 'version', 'wal_level', 'slots', 'rights', 'publication', 'identity', 'capture'];

export function checksOf(facts) {
  return [good('reachable', { role: facts.server.role, database: facts.server.database }),
    version(facts), walLevel(facts), slots(facts), rights(facts), publication(facts), identity(facts), capture(facts)];
}

// The source did not answer. What can be said of the others then?
export const unreachableChecks = reachable => NAMES.map(name => (name === 'reachable' ? reachable : { name, state: 'open' }));

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

function publication({ server, publication: found, tables }) {
  const published = tables.filter(table => table.isPublished);
  const value = { count: published.length };
  if (found?.isWhole && found.isByRoot && published.length > 0) return good('publication', value);
  if (tables.length === 0) return bad('publication', 'CREATE TABLE ...', value);
  if (server.hasExtension) return bad('publication', tables.map(track).join('\n'), value);
  const names = tables.map(table => table.name).join(', ');
  if (!found) return bad('publication', `CREATE PUBLICATION bemi FOR TABLE ${names} WITH (publish_via_partition_root = true);`, value);
  const lines = [
    !(found.isWhole && found.isByRoot) && "ALTER PUBLICATION bemi SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);",
    published.length === 0 && `ALTER PUBLICATION bemi ADD TABLE ${names};`,
  ];
  return bad('publication', lines.filter(Boolean).join('\n'), value);
}

const track = ({ name }) => `SELECT bemi.track('${name.replaceAll("'", "''")}');`;

function identity({ tables }) {
  const published = tables.filter(table => table.isPublished);
  if (published.length === 0) return { name: 'identity', state: 'open' };
  const missing = published.filter(table => table.identity !== 'f');
  const value = { count: missing.length || published.length };
  return missing.length === 0 ? good('identity', value)
    : bad('identity', missing.map(({ name }) => `ALTER TABLE ${name} REPLICA IDENTITY FULL;`).join('\n'), value);
}

// The extension, or the trigger of docs/how-to/read-other-servers.md.
const KIT = `CREATE FUNCTION public.emit_context() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_logical_emit_message(true, '_bemi', coalesce(nullif(current_setting('bemi.context', true), ''), '{}'));
    RETURN NULL;
END $$;`;

const trigger = ({ name }) => `CREATE TRIGGER emit_context BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ${name}
    FOR EACH STATEMENT EXECUTE FUNCTION public.emit_context();`;

function capture({ server, tables }) {
  if (server.hasExtension && !server.isLoaded) {
    return { ...bad('capture', "ALTER SYSTEM SET shared_preload_libraries = 'bemi';", {}, { isRestart: true }), problem: 'unloaded' };
  }
  const published = tables.filter(table => table.isPublished);
  if (published.length === 0) return { name: 'capture', state: 'open' };
  const missing = published.filter(table => !table.hasTrigger);
  const value = { count: missing.length || published.length };
  if (missing.length === 0) return good('capture', value);
  if (server.hasExtension) return { ...bad('capture', missing.map(track).join('\n'), value), problem: 'extension' };
  return bad('capture', [...(server.hasKit ? [] : [KIT]), ...missing.map(trigger)].join('\n'), value);
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
