// The address that the command prints must be the one at which it listens.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { networkInterfaces } from 'node:os';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const command = fileURLToPath(new URL('../bin/bemi-dashboard.js', import.meta.url));
const hasIPv6 = Object.values(networkInterfaces()).flat().some(({ address }) => address === '::1');

for (const host of ['127.0.0.1', 'localhost', '::1']) {
  test(`the printed address opens the dashboard at ${host}`, { skip: host === '::1' && !hasIPv6 && 'there is no ::1' }, async () => {
    // No database is needed to come in.
    const dashboard = spawn(process.execPath, [command, '--host', host, '--port', '0', '--no-access-log', 'postgres://127.0.0.1:1/none'], { stdio: ['ignore', 'pipe', 'inherit'] });
    const exited = once(dashboard, 'exit');
    try {
      let text = '';
      for await (const part of dashboard.stdout) {
        text += part;
        if (text.includes('Ctrl-C')) break;
      }
      const [address] = /http:\S+/.exec(text);
      assert.equal(new URL(address).hostname, host === '::1' ? '[::1]' : host);
      const response = await fetch(address, { redirect: 'manual' });
      assert.deepEqual([response.status, response.headers.get('location')], [302, '/changes']);
    } finally {
      dashboard.kill();
      await exited;
    }
  });
}
