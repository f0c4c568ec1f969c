// How far the history can be trusted: up to when it is stored, and where changes may be missing.

import { bind, sql } from './sql.js';

// The state of each source: [{ name, database, state, storedUntil, lag, changes, warning, lastError, lastHint }]. lag is in
// milliseconds, or undefined if it is not known.
export async function sourceStates(client) {
  const { rows } = await client.query(`
    SELECT source, database, state, stored_until, extract(epoch FROM lag) * 1000 AS lag, changes, warning, last_error, last_hint
    FROM bemi.status ORDER BY source`);
  return rows.map(row => ({
    name: row.source,
    database: row.database,
    state: row.state,
    storedUntil: row.stored_until ?? undefined,
    lag: row.lag === null ? undefined : Math.max(0, Math.round(Number(row.lag))),
    changes: Number(row.changes),
    warning: row.warning ?? undefined,
    lastError: row.last_error ?? undefined,
    lastHint: row.last_hint ?? undefined,
  }));
}

// Gaps that concern these changes, from "from" on, the newest first: [{ id, source, table, reason, from, to, detail }]. A gap without a beginning has
// from undefined; one that is still open has to undefined.
export async function gapsOf(client, { source, table, from, newest = 100 }) {
  const query = sql`
    SELECT id, source, schema, "table", reason, nullif(from_time, '-infinity') AS from_time, to_time, detail
    FROM bemi.gaps
    WHERE (source IS NULL OR ${bind(source ?? null, 'text')} IS NULL OR source = ${bind(source ?? null, 'text')})
        AND ("table" IS NULL OR ${bind(table?.name ?? null, 'text')} IS NULL
            OR "table" = ${bind(table?.name ?? null, 'text')} AND schema = ${bind(table?.schema ?? null, 'text')})
        AND (${bind(from ?? null, 'timestamptz')} IS NULL OR to_time IS NULL OR to_time > ${bind(from ?? null, 'timestamptz')})
    ORDER BY coalesce(to_time, 'infinity') DESC, id DESC LIMIT ${bind(newest, 'integer')}`;
  const { rows } = await client.query(query.toQuery());
  return rows.map(row => ({
    id: row.id,
    source: row.source,
    schema: row.schema,
    table: row.table,
    reason: row.reason,
    from: row.from_time ?? undefined,
    to: row.to_time ?? undefined,
    detail: row.detail,
  }));
}
