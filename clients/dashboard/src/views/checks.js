// A list of checks, each with its sentence, and what cures it.

import * as addresses from '../addresses.js';
import { html } from './html.js';

const SIGNS = { good: '✓', bad: '!', open: '·' };

// checks: [{ name, state, value, problem, detail, cure: { text, where, isRestart, isReload, hasScript } }]. poll is the address from which htmx loads the list again.
export function Checks({ page, checks, poll }) {
  return html`
    <ol class="checks" id="checks" hx-get=${poll} hx-trigger=${poll && 'every 2s'} hx-swap="outerHTML" aria-live="polite">
      ${checks.map(check => html`<${Check} page=${page} check=${check} />`)}
    </ol>`;
}

function Check({ page: { t }, check: { name, state, value = {}, problem, detail, cure } }) {
  const key = `check.${name}.${problem ?? state}`;
  return html`
    <li class=${`check ${state}`} data-check=${name}>
      <span class="sign" aria-hidden="true">${SIGNS[state]}</span>
      <div>
        <b>${t(`check.${name}`)}</b> <span class="heard">${t(`check.state.${state}`)}</span>
        ${(state !== 'open' || t.has(key)) && html` <span class="dim">${t(key, value)}</span>`}
        ${detail && html`<p class="detail">${detail}</p>`}
        ${cure && html`<${Cure} t=${t} id=${`cure-${name}`} cure=${cure} />`}
      </div>
    </li>`;
}

function Cure({ t, id, cure: { text, where = 'source', isRestart, isReload, hasScript } }) {
  return html`
    <div class="cure">
      ${hasScript && html`<p class="small"><a href=${addresses.sourceScript} download>${t('cure.download')}</a></p>`}
      <p class="dim small">${t(`cure.${where}`)}</p>
      <div class="code"><pre><code id=${id}>${text}</code></pre>
      <button type="button" id=${`copy-${id}`} data-copy=${id} data-copied=${t('frame.copied')}>${t('frame.copy')}</button></div>
      ${isRestart && html`<p class="dim small">${t('cure.restart')}</p>`}
      ${isReload && html`<p class="dim small">${t('cure.reload')}</p>`}
    </div>`;
}
