// Connection strings of libpq: { host, port, database, user, sslmode, passfile, service } to "host=... dbname=..." and back.
//
// No password is written into one, and one that is in it already is not read.

const KEYWORDS = { host: 'host', port: 'port', database: 'dbname', user: 'user', sslmode: 'sslmode', sslrootcert: 'sslrootcert', passfile: 'passfile', service: 'service' };

export const TLS_MODES = ['verify-full', 'require', 'disable'];

const quote = value => (/^[\w./:@-]+$/.test(value) ? value : `'${value.replace(/[\\']/g, '\\$&')}'`);

export function toConnectionString(parameters) {
  return Object.entries(KEYWORDS).filter(([name]) => parameters[name])
    .map(([name, keyword]) => `${keyword}=${quote(parameters[name])}`).join(' ');
}

export function fromConnectionString(text) {
  const names = Object.fromEntries(Object.entries(KEYWORDS).map(([name, keyword]) => [keyword, name]));
  const parameters = {};
  for (const [, keyword, quoted, plain] of text.matchAll(/(\w+)\s*=\s*(?:'((?:\\.|[^'\\])*)'|((?:\\.|[^\s\\])*))/gs)) {
    if (names[keyword]) parameters[names[keyword]] = (quoted ?? plain).replace(/\\(.)/gs, '$1');
  }
  return parameters;
}
