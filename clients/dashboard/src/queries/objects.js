// The objects of the dashboard in the database, in schema bemi_dashboard. objects.sql says what they are, and who may do what with them.
//
// A role that may create schemas could make one of this name, with a function log_access() of its own, which would run with the rights
// of each reader. So nothing of the schema is called before objectsState() has found that all of it belongs to the owner of bemi. It reads
// catalogs only. It must be a statement of its own: PostgreSQL may run a function of a statement while it plans it.

import { readFileSync } from 'node:fs';

const CREATE = readFileSync(new URL('objects.sql', import.meta.url), 'utf8');
const VERSION = Number(/version (\d+)';\s*$/.exec(CREATE)[1]);

// { exists, isOld, mayCreate }, or undefined without bemi, when there is nothing to look at. isOld: another dashboard, an older one, has made them.
export async function objectsState(client) {
  const { rows: [row] } = await client.query(`
    SELECT n.nspowner = e.extowner
            AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relowner <> e.extowner)
            AND NOT EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proowner <> e.extowner)
            AND EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND c.relname = 'access_log' AND c.relkind = 'r')
            AND EXISTS (SELECT FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = 'log_access') AS "isOurs",
        substring(obj_description(n.oid, 'pg_namespace') FROM ', version (\\d{1,6})$')::integer AS version,
        pg_has_role(e.extowner, 'USAGE') AND has_database_privilege(current_database(), 'CREATE') AS "mayCreate"
    FROM pg_extension e LEFT JOIN pg_namespace n ON n.nspname = 'bemi_dashboard'
    WHERE e.extname = 'bemi'`);
  if (!row) return undefined;
  const isOld = Boolean(row.isOurs) && (row.version ?? 0) < VERSION;
  return { exists: Boolean(row.isOurs) && !isOld, isOld, mayCreate: row.mayCreate };
}

// Makes them, or brings those of an older dashboard up to date. Two dashboards may start at a time.
export async function createObjects(client) {
  await client.query("SELECT pg_advisory_xact_lock(hashtextextended('bemi_dashboard', 0))");
  if (!(await objectsState(client)).exists) await client.query(CREATE);
}
