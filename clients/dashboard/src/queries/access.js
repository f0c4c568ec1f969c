// The access log: who has looked at the history, and what was exported. Ask objectsState() first (objects.js).

import { bind, join, sql } from './sql.js';

export async function logAccess(client, { action, address, changes, person }) {
  const query = sql`
    SELECT bemi_dashboard.log_access(${bind(action, 'text')}, ${bind(address, 'text')}, ${bind(changes ?? null, 'bigint')}, ${bind(person ?? null, 'text')})`;
  await client.query(query.toQuery());
}

const PAGE = 100;

// One page of entries, newest first: { entries: [{ id, loggedAt, role, person, action, address, changes }], next }.
export async function accessEntries(client, { before, who, exportsOnly }) {
  const conditions = [sql`true`];
  if (before) conditions.push(sql`id < ${bind(before, 'bigint')}`);
  if (who) conditions.push(sql`${bind(who, 'text')} IN (role, person)`);
  if (exportsOnly) conditions.push(sql`action <> 'view'`);
  const query = sql`
    SELECT id, logged_at, role, person, action, address, changes FROM bemi_dashboard.access_log
    WHERE ${join(conditions, ' AND ')} ORDER BY id DESC LIMIT ${bind(PAGE + 1, 'integer')}`;
  const { rows } = await client.query(query.toQuery());
  const entries = rows.slice(0, PAGE).map(row => ({
    id: row.id,
    loggedAt: row.logged_at,
    role: row.role,
    person: row.person ?? undefined,
    action: row.action,
    address: row.address,
    changes: row.changes === null ? undefined : Number(row.changes),
  }));
  return { entries, next: rows.length > PAGE ? entries.at(-1).id : undefined };
}
