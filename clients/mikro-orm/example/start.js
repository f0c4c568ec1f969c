// npm start: a throwaway server with bemi and the application. With PGHOST set, the server is that one.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

// Prints one line with the address of the server when it is ready.
async function startServer() {
  const top = fileURLToPath(new URL('../../..', import.meta.url));
  console.log('building bemi and starting a throwaway server ...');
  const sandbox = spawn(`${top}test/sandbox`, ['test/serve'], { cwd: top, stdio: ['ignore', 'pipe', 'inherit'] });
  sandbox.on('exit', () => process.exit());
  // The sandbox gets Ctrl-C of the terminal itself, and removes the server; then we end, see above.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => sandbox.kill());
  // The server ends with an application that could not start (for example, because the port is in use).
  process.on('exit', () => sandbox.kill());
  const [line] = await once(createInterface({ input: sandbox.stdout }), 'line');
  return Object.fromEntries(line.split(' ').map(assignment => assignment.split('=')));
}

let psql = 'psql todo';
if (!process.env.PGHOST) {
  const { PSQL, PGHOST, PGUSER } = await startServer();
  psql = `${PSQL} -h ${PGHOST} -U ${PGUSER} todo`;
  Object.assign(process.env, { PGHOST, PGUSER });
}

const { MikroORM } = await import('@mikro-orm/postgresql');
const { default: config } = await import('./mikro-orm.config.js');
const { makeApp } = await import('./src/app.js');

const orm = await MikroORM.init(config);
await orm.schema.ensureDatabase();
await orm.migrator.up();
// The migration did not wait until the worker reads.
await orm.em.fork().execute("SELECT bemi.sync('60s')");

const server = makeApp(orm).listen(process.env.PORT ?? 3000, '127.0.0.1');
await once(server, 'listening');
const address = `localhost:${server.address().port}`;
export const url = `http://${address}`;

console.log(`
The audit trail: ${url}/changes        Ctrl-C ends the application and its server.

The changes of the documentation:

  json='Content-Type: application/json'
  curl -H "$json" ${address}/todo -d '{"task": "Sleep", "isCompleted": false}'
  curl -H "$json" ${address}/todo -d '{"task": "Eat", "isCompleted": false}'
  curl -H "$json" ${address}/todo -d '{"task": "Repeat", "isCompleted": false}'
  curl -H "$json" -X PUT ${address}/todo/complete -d '{"id": 26}'
  curl -H "$json" -X DELETE ${address}/todo/27 -d '{"id": 27}'

  ${psql} -c 'SELECT primary_key, "table", operation, before, after, context, committed_at FROM bemi.changes ORDER BY id'
`);
