// The address of each page. Everything that a page shows is in its address, so that each view can be shared.

const query = parameters => {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== '');
  return given.length > 0 ? `?${new URLSearchParams(given)}` : '';
};

const part = encodeURIComponent;
// A browser takes these out of a path, however they are written, and then asks for another row.
const isNoPart = text => ['', '.', '..'].includes(text);
// Parameters of an address, for a form that goes there.
export const parametersOf = address => [...new URL(address, 'http://dashboard.invalid').searchParams];

export const changes = ({ q, change, before } = {}) => `/changes${query({ q, change, before })}`;
export const change = id => `/change/${part(id)}`;
// source: that of a table of another server. version and compared are ids of changes.
export function row({ schema, table, primaryKey, source, version, compared }) {
  const parts = [schema, table, primaryKey];
  if (parts.some(isNoPart)) return `/row${query({ schema, table, key: primaryKey, source, version, compared })}`;
  return `/row/${parts.map(part).join('/')}${query({ source, version, compared })}`;
}
export const rows = ({ table } = {}) => `/rows${query({ table })}`;
// of: "transaction", although the context names a request. table and after: more of one table.
export const request = (id, { of, table, after } = {}) => `/request/${part(id)}${query({ of, table, after })}`;
export const requests = ({ q, before } = {}) => `/requests${query({ q, before })}`;
export const past = ({ schema, table, before, at, filter, compare, gaps, after }) =>
  `/past${query({ table: table && `${schema}.${table}`, before, at, filter, compare, gaps, after })}`;
// What is to be taken back: a change, the transaction of a change, a part of a context as JSON, or what a search finds.
export const revert = ({ change: id, transaction, context, from, to, changes: ids, q, mode, choices }) =>
  `/revert${query({ change: id, transaction, context, from, to, changes: ids?.join(','), q, mode, choices })}`;
// One row, to what it was before a change, or at a time.
export const restore = ({ schema, table, primaryKey, before, at }) => `/revert${query({ table: `${schema}.${table}`, key: primaryKey, before, at })}`;
export const reverted = ({ request: id, kept }) => `/revert/done${query({ request: id, kept })}`;
export const source = name => `/sources/named/${part(name)}`;
export const sourceScript = '/sources/bemi-source.sql';
export const dropSource = name => `${source(name)}/drop`;
// Without a format, the page that offers them.
export const exported = ({ q, format }) => `/export${format ? `/changes.${format}` : ''}${query({ q })}`;
export const accessLog = ({ who, exports: exportsOnly, before } = {}) => `/access-log${query({ who, exports: exportsOnly ? 'only' : undefined, before })}`;
export const links = ({ before } = {}) => `/links${query({ before })}`;
export const link = id => `/links/${part(id)}`;
export const table = ({ schema, name }) => `/tables/${part(schema)}/${part(name)}`;
