// What the dashboard knows of a history before anybody searches in it: the tables, the sources, the keys of contexts, and what
// the role may do. A button that would fail is not shown: ask facts.role and the table.
//
// Keys of contexts are discovered in the newest changes, because nothing declares them. Facts are kept for
// each Database, since every page needs them. After some seconds the next page reads them again, but does not wait for it.

import { bind, sql } from './sql.js';

const SAMPLE = 1000;
const FRESH = 15_000;
const KEPT = 60_000;
const kept = new WeakMap();

export async function factsOf(database) {
  const known = kept.get(database);
  const age = known ? Date.now() - known.time : Infinity;
  if (age < FRESH) return known.facts;
  if (age < KEPT) {
    renew(database, known);
    return known.facts;
  }
  const facts = readFacts(database, await known?.facts);
  const renewed = { facts, time: Date.now() };
  kept.set(database, renewed);
  // A failure is not kept.
  facts.then(() => { if (known) renew(database, renewed); }, () => kept.delete(database));
  return facts;
}

// If it fails, the page that needs them next reports why. What was forgotten in between stays so.
function renew(database, known) {
  if (known.isRenewed) return;
  known.isRenewed = true;
  const facts = readFacts(database);
  facts.then(() => { if (kept.get(database) === known) kept.set(database, { facts, time: Date.now() }); }, () => kept.delete(database));
}

export const forgetFacts = database => kept.delete(database);

// The keys of contexts take longest to find, and change least. So a page waits for them only if there are none yet.
function readFacts(database, former) {
  return database.read(async client => ({
    role: await role(client),
    tables: await tables(client),
    sources: await sources(client),
    contextKeys: former?.contextKeys ?? await contextKeys(client),
  }));
}

// { name, database, isSuperuser, mayReplicate, functions }: functions are the names of those in schema bemi that it may call.
async function role(client) {
  const { rows: [row] } = await client.query(`
    SELECT current_user AS name, current_database() AS database, r.rolsuper AS "isSuperuser", r.rolreplication OR r.rolsuper AS "mayReplicate",
        coalesce(has_table_privilege(to_regclass('bemi_dashboard.access_log'), 'SELECT'), false) AS "mayReadAccessLog",
        ARRAY(SELECT DISTINCT p.proname::text FROM pg_proc p
            WHERE p.pronamespace = 'bemi'::regnamespace AND has_function_privilege(p.oid, 'EXECUTE')) AS functions
    FROM pg_roles r WHERE r.rolname = current_user`);
  return { ...row, functions: new Set(row.functions) };
}

// Tracked tables: { schema, name, columns, key, isOwned, mayRead, mayWrite }. Columns are in their order.
async function tables(client) {
  const { rows } = await client.query(`
    SELECT n.nspname AS schema, r.relname AS name,
        ARRAY(SELECT a.attname::text FROM pg_attribute a
            WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) AS columns,
        ARRAY(SELECT a.attname::text FROM pg_index i
            CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY k(attnum, place)
            JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = k.attnum
            WHERE i.indrelid = r.oid AND i.indisprimary ORDER BY k.place) AS key,
        pg_has_role(r.relowner, 'USAGE') AS "isOwned",
        has_table_privilege(r.oid, 'SELECT') AS "mayRead",
        has_table_privilege(r.oid, 'INSERT') AND has_table_privilege(r.oid, 'UPDATE') AND has_table_privilege(r.oid, 'DELETE') AS "mayWrite"
    FROM bemi.tracked t JOIN pg_class r ON r.oid = t."table" JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE NOT r.relispartition
    ORDER BY r.relname, n.nspname`);
  return rows;
}

async function sources(client) {
  const { rows } = await client.query('SELECT source AS name, database FROM bemi.status ORDER BY source');
  return rows;
}

// Keys that bemi.index_context() has indexed. The view looks at each partition, so only a slow search asks for it.
export async function indexedKeys(client) {
  const { rows } = await client.query('SELECT key FROM bemi.context_indexes WHERE indexed = partitions');
  return new Set(rows.map(row => row.key));
}

// A map: key -> { kinds, values, changes }, the most frequent key first.
async function contextKeys(client) {
  const query = sql`
    SELECT k.key, array_agg(DISTINCT jsonb_typeof(k.value)) AS kinds, count(*)::integer AS changes,
        (array_agg(DISTINCT left(k.value #>> '{}', 60)) FILTER (WHERE jsonb_typeof(k.value) IN ('string', 'number', 'boolean')))[1:20] AS values
    FROM bemi.find_changes(newest => ${bind(SAMPLE, 'integer')}) c CROSS JOIN LATERAL jsonb_each(c.context) k
    WHERE k.value <> 'null'
    GROUP BY k.key ORDER BY count(*) DESC, k.key LIMIT 50`;
  const { rows } = await client.query(query.toQuery());
  return new Map(rows.map(({ key, kinds, values, changes }) => [key, { kinds: new Set(kinds), values: values ?? [], changes }]));
}
