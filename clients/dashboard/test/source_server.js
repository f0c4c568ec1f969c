// A second server, as a source that lacks everything. It listens on 127.0.0.1 and asks for passwords; its superuser comes by the socket.

import { execFileSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';

export const canStartServers = Boolean(process.env.PG_CONFIG);

export class SourceServer {
  static async make(settings = []) {
    const server = new SourceServer();
    server.port = await freePort();
    server.dir = mkdtempSync(join(tmpdir(), 'source.'));
    server.bin = execFileSync(process.env.PG_CONFIG, ['--bindir'], { encoding: 'utf8' }).trim();
    server.data = join(server.dir, 'data');
    server.run('initdb', ['-U', 'postgres', '-A', 'trust', '--no-sync', '--no-locale', '-E', 'UTF8']);
    appendFileSync(join(server.data, 'postgresql.conf'), [`port = ${server.port}`, "listen_addresses = '127.0.0.1'",
      `unix_socket_directories = '${server.dir}'`, 'fsync = off', ...settings, ''].join('\n'));
    writeFileSync(join(server.data, 'pg_hba.conf'), 'local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n');
    return server;
  }

  run(program, args) {
    execFileSync(join(this.bin, program), ['-D', this.data, ...args], { stdio: 'ignore' });
  }

  start() {
    this.run('pg_ctl', ['-w', '-l', join(this.dir, 'log'), 'start']);
  }

  stop() {
    this.run('pg_ctl', ['-w', '-m', 'fast', 'stop']);
  }

  // A command line, in the folder of the server and with its programs, as a person types it elsewhere: psql asks for no password.
  shell(command, password) {
    return execFileSync('sh', ['-c', command], { cwd: this.dir, env: { PATH: `${this.bin}:${process.env.PATH}`, PGPASSWORD: password }, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
  }

  // Statements of a superuser, one after the other, as psql would run them.
  async query(text, database = 'orders') {
    const client = new pg.Client({ host: this.dir, port: this.port, user: 'postgres', database });
    await client.connect();
    try {
      return await client.query(text);
    } finally {
      await client.end();
    }
  }

  remove() {
    try {
      this.run('pg_ctl', ['-m', 'immediate', 'stop']);
    } catch {
      // It was not running.
    }
    rmSync(this.dir, { recursive: true });
  }
}

function freePort() {
  return new Promise(resolve => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}
