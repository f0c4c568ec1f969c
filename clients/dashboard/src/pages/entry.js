// What is shown to a browser without a session.

import { html } from '../views/html.js';

export function linkEndedPage({ t }) {
  return html`<main class="entry" id="content"><h1 class="brand">bemi</h1><p>${t('link.ended')}</p><p class="dim">${t('link.ended_text')}</p></main>`;
}

export function entryPage({ t }, { isInvalid = false } = {}) {
  return html`
    <main class="entry" id="content">
      <h1 class="brand">bemi</h1>
      <p>${t(isInvalid ? 'entry.used' : 'entry.needed')}</p>
      <p class="dim">${t('entry.how')}</p>
      <pre><code>npx bemi-dashboard postgres://…</code></pre>
    </main>`;
}
