// Headless Chromium, as the system has it. Nothing is downloaded.

import { execFileSync } from 'node:child_process';
import { createRequire } from 'node:module';
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

function findChromium() {
  for (const name of [process.env.CHROMIUM, 'chromium-headless-shell', 'chromium']) {
    try {
      if (name) return execFileSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8' }).trim();
    } catch {
      // The next name.
    }
  }
  return undefined;
}

const executablePath = findChromium();
export const hasBrowser = executablePath !== undefined;

// No name is looked up: a page that asked for one would reach the network.
const ARGS = ['--no-sandbox', '--disable-dev-shm-usage', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1'];

// Returns { browser, page, faults }. faults collects what the console of the page reports: errors of scripts, and what
// the content security policy has refused.
export async function openBrowser(options = {}) {
  const browser = await chromium.launch({ executablePath, args: ARGS });
  // Colours are not measured in the middle of an animation.
  const context = await browser.newContext({ viewport: { width: 1360, height: 860 }, timezoneId: 'UTC', reducedMotion: 'reduce', ...options });
  context.setDefaultTimeout(60_000);
  const page = await context.newPage();
  const faults = [];
  page.on('pageerror', error => faults.push(error.message));
  page.on('console', message => { if (message.type() === 'error') faults.push(message.text()); });
  return { browser, page, faults };
}

// A click may return before the next page is there, and url() and count() do not wait for it.
export async function follow(link) {
  await link.click();
  await link.page().waitForLoadState();
}

// axe runs outside of the page's policy.
export async function checkAccessibility(page, name) {
  const { violations } = await page.evaluate(`${axe}; axe.run({ resultTypes: ['violations'] })`);
  assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(node => node.html).join(' ').slice(0, 300)}`), [], `accessibility of ${name}`);
}

// Nothing may stick out to the right.
export async function checkWidth(page, name) {
  const [content, window] = await page.evaluate('[document.documentElement.scrollWidth, document.documentElement.clientWidth]');
  assert.ok(content <= window, `${name} is ${content} pixels wide in a window of ${window}`);
}
