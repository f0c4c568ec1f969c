// The frame around each page: navigation, state of the source, and the page's own part.

import { html, render } from './html.js';

const HTMX_SETTINGS = JSON.stringify({
  allowEval: false,
  allowScriptTags: false,
  includeIndicatorStyles: false,
  selfRequestsOnly: true,
  historyCacheSize: 0,
  refreshOnHistoryMiss: true,
  scrollBehavior: 'auto',
  // An error is shown in the place of what was asked for.
  responseHandling: [{ code: '204', swap: false }, { code: '[23]..', swap: true }, { code: '[45]..', swap: true, error: true }],
});

// title is a key of the wording, or { text }. isBare: without navigation, for who has not come in yet.
export function renderFrame(page, title, body, { isBare = false, scripts = [] } = {}) {
  const { t } = page;
  const text = title.text ?? t(title);
  return `<!doctype html>\n${render(html`
    <html lang=${t.language}>
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <meta name="color-scheme" content="light dark" />
        <meta name="htmx-config" content=${HTMX_SETTINGS} />
        <title>${text} · bemi</title>
        <link rel="icon" href="/public/icon.svg" type="image/svg+xml" />
        <link rel="preload" href="/vendor/inter.woff2" as="font" type="font/woff2" crossorigin />
        <link rel="stylesheet" href="/public/style.css" />
        <script src="/vendor/htmx.js" defer></script>
        <script src="/public/page.js" type="module"></script>
        ${scripts.map(name => html`<script src=${`/public/${name}`} type="module"></script>`)}
      </head>
      <body class=${isBare ? 'bare' : ''} hx-headers=${isBare ? undefined : JSON.stringify({ 'x-csrf-token': page.csrf() })}>
        ${isBare ? body : html`
          <a class="skip" href="#content">${t('frame.skip')}</a>
          <${Navigation} page=${page} />
          <p class="connection" id="connection-lost" role="status" hidden>${t('frame.lost')}</p>
          <p class="connection" id="session-ended" role="status" hidden>${t('frame.ended')} <a href="">${t('frame.reload')}</a></p>
          <main id="content" tabindex="-1">${body}</main>
          <${KeyboardHelp} page=${page} />`}
      </body>
    </html>`)}`;
}

export const renderPart = body => render(body);

function Navigation({ page }) {
  const { t } = page;
  return html`
    <nav class="navigation" aria-label=${t('nav.label')}>
      <a class="brand" href="/">bemi</a>
      <ul>
        ${page.navigation.map(({ name, address, covers = address }) => html`
          <li><a href=${address} aria-current=${[address, covers].some(prefix => page.path.startsWith(prefix)) ? 'page' : undefined}>${t(`nav.${name}`)}</a></li>`)}
      </ul>
      ${page.account && html`
        <form class="account" method="post" action="/logout">
          <input type="hidden" name="_csrf" value=${page.csrf()} />
          <span>${page.account.name}</span> <button>${t('login.out')}</button>
        </form>`}
      ${page.link && html`<p class="account">${t('link.seen', { name: page.link.name, until: page.format.moment(page.link.until, { seconds: false }) })}</p>`}
      <div class="source-state" id="source-state" hx-get="/state" hx-trigger="load, bemi:unknown from:body" hx-swap="innerHTML"></div>
    </nav>`;
}

function KeyboardHelp({ page: { t } }) {
  const keys = ['/', 'j', 'k', 'Enter', 'Esc', '?'];
  return html`
    <dialog id="keyboard" aria-labelledby="keyboard-title">
      <h2 id="keyboard-title">${t('keyboard.title')}</h2>
      <dl>${keys.map(key => html`<div><dt><kbd>${key}</kbd></dt><dd>${t(`keyboard.${key}`)}</dd></div>`)}</dl>
      <form method="dialog"><button>${t('frame.close')}</button></form>
    </dialog>`;
}
