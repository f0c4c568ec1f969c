// Links for customers: what one may show, and the list of them in the database. For those functions that use bemi_dashboard, ask
// objectsState() first (objects.js).

import { bind, sql } from './sql.js';
import { objectText } from '../search/statement.js';

// The role that links read as, and whether the current role is a member of it: who makes a link must not show more than he sees.
export async function roleOf(client) {
  const { rows: [row] } = await client.query('SELECT current_user AS name');
  return row.name;
}

export async function isMemberOf(client, role) {
  const query = sql`SELECT pg_has_role(${bind(role, 'name')}, 'USAGE') AS yes`;
  return (await client.query(query.toQuery())).rows[0].yes;
}

const contextSql = ({ context }) => bind(objectText(new Map(context)), 'jsonb');

// Whether a change has the context of the link.
export async function isInside(client, id, link) {
  const query = sql`SELECT FROM bemi.changes_by_id(ARRAY[${bind(id, 'uuid')}]) c WHERE c.context @> ${contextSql(link)}`;
  return (await client.query(query.toQuery())).rowCount > 0;
}

// link: { id, name, context, until, person }.
export async function addLink(client, link) {
  const { id, name, until, person } = link;
  const query = sql`
    SELECT bemi_dashboard.add_link(${bind(id, 'uuid')}, ${bind(name, 'text')}, ${contextSql(link)}, ${bind(until.toISOString(), 'timestamptz')},
        ${bind(person ?? null, 'text')})`;
  await client.query(query.toQuery());
}

// Whether nobody has ended it, and it has just this context.
export async function linkIsOpen(client, link) {
  const query = sql`SELECT bemi_dashboard.link_is_open(${bind(link.id, 'uuid')}, ${contextSql(link)}) AS yes`;
  return (await client.query(query.toQuery())).rows[0].yes;
}

const MOST = 500;

// Those that belong to the current role, or the one with this id, or those that were made before the one with the id "before". The newest first:
// [{ id, name, context, until, madeAt, madeBy, person, endedAt, endedBy }].
export async function ownLinks(client, { id, before, newest = MOST } = {}) {
  const query = sql`
    WITH own AS MATERIALIZED (SELECT * FROM bemi_dashboard.own_links())
    SELECT id, name, context::text, until, made_at AS "madeAt", made_by AS "madeBy", person, ended_at AS "endedAt", ended_by AS "endedBy"
    FROM own WHERE (${bind(id ?? null, 'uuid')} IS NULL OR id = ${bind(id ?? null, 'uuid')})
        AND (${bind(before ?? null, 'uuid')} IS NULL OR (made_at, id) < (SELECT made_at, id FROM own WHERE id = ${bind(before ?? null, 'uuid')}))
    ORDER BY made_at DESC, id DESC LIMIT ${bind(newest, 'integer')}`;
  return (await client.query(query.toQuery())).rows;
}

export const endStatement = id => sql`SELECT bemi_dashboard.end_link(${bind(id, 'uuid')})`;

export const endLink = (client, id) => client.query(endStatement(id).toQuery());
