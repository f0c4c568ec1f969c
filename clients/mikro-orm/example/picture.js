// npm run picture: ../changes.png, the page /changes after the five changes of the documentation.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

process.env.PORT = 0;
const { url } = await import('./start.js');

const send = async (method, path, body) => {
  const response = await fetch(url + path, {
    method, headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status}`);
};

for (const task of ['Sleep', 'Eat', 'Repeat']) await send('POST', '/todo', { task, isCompleted: false });
await send('PUT', '/todo/complete', { id: 26 });
await send('DELETE', '/todo/27', { id: 27 });

await promisify(execFile)(process.env.CHROMIUM ?? 'chromium-headless-shell', [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--hide-scrollbars', '--window-size=830,530',
  `--screenshot=${fileURLToPath(new URL('../changes.png', import.meta.url))}`, `${url}/changes`,
]);
process.kill(process.pid, 'SIGTERM');
