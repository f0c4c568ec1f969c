// The state of the sources, at the foot of the navigation.

import { html } from './html.js';

export function SourceStates({ page, states, rates }) {
  return html`${states.map(state => html`<${SourceState} page=${page} state=${state} rate=${rates.get(state.name)} />`)}
    ${states.length === 0 && html`<p><span class="dot stopped"></span>${page.t('source.none')}</p>`}`;
}

function SourceState({ page: { t, format, link }, state, rate }) {
  const kind = kindOf(state);
  const facts = [
    state.lag !== undefined && t('source.behind', { duration: format.duration(state.lag) }),
    rate !== undefined && t('source.rate', { number: format.number(rate) }),
  ].filter(Boolean);
  return html`
    <p title=${link ? undefined : state.warning ?? state.lastError}>
      <span class=${`dot ${kind}`}></span>${state.database} · ${t(`source.state.${kind}`)}
      ${facts.length > 0 && html`<br /><small>${facts.join(' · ')}</small>`}
    </p>`;
}

// connected, waiting or stopped.
export function kindOf({ state }) {
  if (state === 'streaming') return 'connected';
  return ['starting', 'connecting', 'making slot', 'paused'].includes(state) ? 'waiting' : 'stopped';
}
