// Trust, on every page: up to when the history is stored, and a banner where it is not whole.
//
// The moment moves while a page is open: public/page.js writes the texts of lineOf() into the banner, as live.js sends them. If none come, the
// banner says that it is not up to date.

import { html } from './html.js';
import { kindOf } from './source_state.js';

const SHOWN = 2;

// states and gaps are those of queries/trust.js, for the source and the table that the page shows.
export function Trust({ page, states, gaps, table }) {
  const { t, format } = page;
  const [state] = states;
  if (!state) return html`<p class="trust">${t('trust.no_source')}</p>`;
  const beginning = beginningOf(gaps, table);
  const inside = gapsInside(gaps);
  const { until, problem } = lineOf(page, state);
  const line = !state.storedUntil ? 'trust.unknown' : beginning ? 'trust.from' : 'trust.until';
  const [before, after] = t(inside.length > 0 ? `${line}.but` : line, { from: beginning && format.moment(beginning, { seconds: false }), until: MARK }).split(MARK);
  return html`
    <div class="trust" role="status" data-source=${state.name}>
      <span>${before}${after !== undefined && html`<span class="until" aria-live="off">${until}</span>${after}`}</span>
      <span class="gap" data-problem hidden=${!problem}>${problem}</span>
      ${inside.slice(0, SHOWN).map(gap => html`<${Gap} page=${page} gap=${gap} />`)}
      ${inside.length > SHOWN && html`<span>${t('trust.more', { count: inside.length - SHOWN })}</span>`}
      <span class="gap" data-stale hidden>${t('trust.stale')}</span>
    </div>`;
}

// Stands for the moment in a sentence, until it is an element.
const MARK = '\0';

// What moves: { until, problem }, both texts. Errors of the server are not for a customer.
export function lineOf(page, state) {
  const isRead = kindOf(state) === 'connected';
  return { until: untilOf(page, state) ?? '', problem: isRead ? '' : (!page.link && (state.lastError ?? state.warning)) || page.t('trust.not_read') };
}

// The moment, and how far behind the source it is. Of a source that is not read, that grows, and the rest of the banner says why.
function untilOf({ t, format }, state) {
  if (!state.storedUntil) return undefined;
  const until = format.moment(state.storedUntil);
  return kindOf(state) === 'connected' && state.lag !== undefined ? t('trust.behind', { until, duration: format.duration(state.lag) }) : until;
}

// Since when there is a history at all. If no table is chosen, that is not the beginning of the table tracked last.
function beginningOf(gaps, table) {
  const ends = gaps.filter(gap => !gap.from && gap.to && (table || !gap.table)).map(gap => gap.to);
  return ends.length > 0 ? new Date(Math.max(...ends)) : undefined;
}

export const gapsInside = gaps => gaps.filter(gap => gap.from);

// Names of tables and details are for readers of the whole history, and not for a customer.
export function Gap({ page: { t, format, link }, gap }) {
  const key = `gap.${gap.reason}`;
  const reason = t.has(key) ? t(key) : gap.reason;
  const from = format.moment(gap.from, { seconds: false });
  const isOneDay = gap.to && format.dayKey(gap.from) === format.dayKey(gap.to);
  const to = gap.to && (isOneDay ? format.shortTime(gap.to) : format.moment(gap.to, { seconds: false }));
  return html`
    <details class="gap">
      <summary>${to ? t('trust.gap', { from, to }) : t('trust.open_gap', { from })}: ${reason}${!link && gap.table && ` (${gap.table})`}</summary>
      ${!link && html`<p>${gap.detail}</p>`}
    </details>`;
}

