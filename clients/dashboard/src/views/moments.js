// The transactions around a moment as points on a line. Each is a link to the table just after it.

import { html } from './html.js';
import { where, who } from './who.js';

// around is that of transactionsAround(), addressOf(at) the address of a moment.
export function Moments({ page, around, moment, addressOf }) {
  const { t } = page;
  const { before, after, isFar, hasEarlier, hasLater } = around;
  const all = [...before, ...after];
  const last = before.at(-1);
  const isOn = !moment.before && last?.at === moment.at;
  const earlier = isOn ? before.at(-2) : last;
  const point = transaction => html`<${Point} page=${page} transaction=${transaction} isCurrent=${isOn && transaction === last} addressOf=${addressOf} />`;
  return html`
    <div class="moments">
      <${Step} transaction=${earlier} text=${t('past.earlier')} addressOf=${addressOf} />
      <div class="line-of-time">
      <ol class="timeline" aria-label=${t('past.timeline')}>
        ${hasEarlier && html`<li class="earlier" aria-hidden="true">⋯</li>`}
        ${before.map(point)}
        ${!isOn && html`<li class="here"><span class="heard">${t('past.here')}</span></li>`}
        ${isFar && html`<li class="earlier" aria-hidden="true">⋯</li>`}
        ${after.map(point)}
        ${hasLater && html`<li class="earlier" aria-hidden="true">⋯</li>`}
      </ol>
      <p class="dim small" aria-hidden="true"><span>${all.length > 0 && page.format.moment(all[0].committedAt)}</span><span>${all.length > 1 && page.format.moment(all.at(-1).committedAt)}</span></p>
      </div>
      <${Step} transaction=${isFar ? undefined : after[0]} text=${t('past.later')} addressOf=${addressOf} />
    </div>`;
}

function Point({ page, transaction, isCurrent, addressOf }) {
  const { t, format } = page;
  const text = [
    format.moment(transaction.committedAt), who(page, transaction.context), where(page, transaction.context),
    t('past.changes', { count: transaction.changes, number: format.number(transaction.changes) }),
  ].filter(Boolean).join(' · ');
  return html`
    <li><a href=${addressOf(transaction.at)} title=${text} aria-current=${isCurrent ? 'true' : undefined}><span class="heard">${text}</span></a></li>`;
}

function Step({ transaction, text, addressOf }) {
  if (!transaction) return html`<span class="button" aria-disabled="true">${text}</span>`;
  return html`<a class="button" href=${addressOf(transaction.at)}>${text}</a>`;
}
