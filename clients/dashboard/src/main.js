// The command: its arguments, and the address that it prints.

import { randomBytes } from 'node:crypto';
import { readFileSync, statSync } from 'node:fs';
import { isIPv6 } from 'node:net';
import { parseArgs } from 'node:util';
import { Accounts } from './access/accounts.js';
import { ObjectsMissing, openObjects } from './access/objects.js';
import { openProvider } from './access/provider.js';
import { OneTimeToken } from './access/token.js';
import { isLoopback } from './access/host.js';
import { Database } from './database.js';
import { buildServer } from './server.js';
import { languages } from './wording.js';

const USAGE = `Usage: bemi-dashboard [postgres://...] [OPTION...]

Shows the history that bemi keeps, in the browser. Without a connection string, the variables PGHOST, PGUSER
and so on name the database. The dashboard can do what the role of the connection may do, and no more.

  --host ADDRESS       address to listen at (default: 127.0.0.1); others need --accounts
  --port NUMBER        port (default: 4321; 0: any that is free)
  --language LANGUAGE  ${languages.join(' or ')} (default: that of the browser)
  --zone ZONE          time zone until the browser has named its own, such as Europe/Berlin
  --accounts           people log in as roles of PostgreSQL, with their passwords
  --openid-config FILE people log in at a provider of OpenID Connect, too: see README.md
  --public-address URL the address that browsers use, such as https://history.example.com; a proxy there has TLS
  --link-key-file FILE offer links for customers, signed with the key in this file (32 bytes or more, mode 600)
  --no-access-log      do not write down who looks at the history and exports it
  --create-access-log  make the access log, or bring it up to date, as a member of the role that owns bemi, and end
  --log                write a line for each request
  --help               print this text
`;

export async function main(args) {
  let parsed;
  try {
    parsed = readArguments(args);
  } catch (error) {
    process.stderr.write(`bemi-dashboard: ${error.message}\n\n${USAGE}`);
    return 2;
  }
  if (parsed.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  return parsed['create-access-log'] ? createAccessLog(parsed) : serve(parsed);
}

async function createAccessLog({ connectionString }) {
  const database = new Database(connectionString ? { connectionString } : {});
  try {
    if (await openObjects(database)) return 0;
    process.stderr.write('bemi-dashboard: bemi is not installed in this database\n');
    return 1;
  } catch (error) {
    process.stderr.write(`bemi-dashboard: ${error instanceof ObjectsMissing
      ? 'this takes a superuser, or a member of the role that owns extension bemi who may create schemas' : error.message}\n`);
    return 1;
  } finally {
    await database.end();
  }
}

function readArguments(args) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '4321' },
      language: { type: 'string' },
      zone: { type: 'string', default: Intl.DateTimeFormat().resolvedOptions().timeZone },
      accounts: { type: 'boolean', default: false },
      'openid-config': { type: 'string' },
      'public-address': { type: 'string' },
      'link-key-file': { type: 'string' },
      'no-access-log': { type: 'boolean', default: false },
      'create-access-log': { type: 'boolean', default: false },
      log: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (positionals.length > 1) throw new Error(`unexpected argument "${positionals[1]}"`);
  if (!/^\d{1,5}$/.test(values.port) || Number(values.port) > 65_535) throw new Error(`"${values.port}" is not a port`);
  if (!isLoopback(values.host) && !(values.accounts && values['public-address'])) {
    throw new Error(`"${values.host}" is not an address of this machine alone: this takes --accounts and --public-address`);
  }
  if (values.language && !languages.includes(values.language)) throw new Error(`there are no texts in "${values.language}"`);
  const address = values['public-address'] && new URL(values['public-address']);
  if ((address || values['openid-config']) && !values.accounts) throw new Error('--public-address and --openid-config take --accounts');
  if (address && address.protocol !== 'https:' && !isLoopback(address.hostname)) throw new Error('browsers must come by HTTPS: --public-address https://...');
  return { ...values, connectionString: positionals[0], address, linkKey: values['link-key-file'] && readKey(values['link-key-file']),
    openid: values['openid-config'] && JSON.parse(readPrivately(values['openid-config'])) };
}

// Whoever can read the key can make links.
function readKey(file) {
  const key = readPrivately(file);
  if (key.length < 32) throw new Error(`"${file}" has less than 32 bytes: head -c 32 /dev/urandom >${file}`);
  return key;
}

function readPrivately(file) {
  if ((statSync(file).mode & 0o077) !== 0) throw new Error(`others can read "${file}": chmod 600 ${file}`);
  return readFileSync(file);
}

async function serve({ connectionString, host, port, language, zone, log, accounts: hasAccounts, address, linkKey, openid, 'no-access-log': noAccessLog }) {
  const connection = connectionString ? { connectionString } : {};
  const database = new Database(connection);
  const token = new OneTimeToken();
  const accounts = hasAccounts ? new Accounts(connectionString) : undefined;
  let provider;
  try {
    provider = openid && await openProvider(openid, () => `${address?.origin ?? ownAddress(app, host)}/login/callback`);
  } catch (error) {
    process.stderr.write(`bemi-dashboard: the provider of --openid-config: ${error.cause?.message ?? error.message}\n`);
    await database.end();
    return 1;
  }
  const app = await buildServer({
    database, token, host, language, zone,
    accounts, linkKey, connection, provider,
    publicHost: address?.host,
    publicAddress: address?.origin,
    isSecure: address?.protocol === 'https:',
    accessLog: !noAccessLog,
    key: randomBytes(32),
    cookieName: cookieName(port),
    port: () => app.server.address()?.port ?? port,
    logger: log && { level: 'info' },
  });
  try {
    await app.listen({ host, port: Number(port) });
  } catch (error) {
    process.stderr.write(`bemi-dashboard: ${error.message}\n${error.code === 'EADDRINUSE' ? 'Give another port: --port 0\n' : ''}`);
    await database.end();
    return 1;
  }
  if (accounts) process.stdout.write(`\nThe history: ${address?.origin ?? ownAddress(app, host)}/\n\nCtrl-C ends the dashboard.\n`);
  else printAddress(app, host, token);
  if (!noAccessLog || linkKey) reportMissingLog(database);
  await stopped();
  await app.close();
  await accounts?.end();
  await database.end();
  return 0;
}

const ownAddress = (app, host) => `http://${isIPv6(host) ? `[${host}]` : host}:${app.server.address().port}`;

// Cookies do not know ports. With the port in the name, two dashboards on one machine do not log each other out.
const cookieName = port => `bemi_session_${port === '0' ? randomBytes(4).toString('hex') : port}`;

// Early, because until then no page is shown. If the server is away, the pages report it.
async function reportMissingLog(database) {
  try {
    await openObjects(database);
  } catch (error) {
    if (!(error instanceof ObjectsMissing)) return;
    const problem = error.isOld ? 'The access log is that of an older dashboard, and your role may not bring it up to date' : 'The access log is missing, and your role may not make it';
    process.stderr.write(`\n${problem}. So no page is shown until the owner of bemi runs this:\n  ${error.command}\nOr start the dashboard with --no-access-log.\n`);
  }
}

// The token works once. Enter prints a new address, if there is a terminal.
function printAddress(app, host, token) {
  const print = () => {
    process.stdout.write(`\nThe history: ${ownAddress(app, host)}/enter?token=${token.renew()}\n\nThe address works once. ${
      process.stdin.isTTY ? 'Enter prints a new one, ' : ''}Ctrl-C ends the dashboard.\n`);
  };
  print();
  if (process.stdin.isTTY) process.stdin.on('data', print).unref();
}

function stopped() {
  return new Promise(resolve => {
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, resolve);
  });
}
