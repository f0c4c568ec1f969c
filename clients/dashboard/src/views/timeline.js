// The versions of a row as points on a line, each a link. Drawn with elements, because the page allows no inline styles.

import { html } from './html.js';

export function Timeline({ page: { t, format }, versions, hasEarlier, current, addressOf, hx = {} }) {
  return html`
    <ol class="timeline" aria-label=${t('row.timeline')}>
      ${hasEarlier && html`<li class="earlier" aria-hidden="true">⋯</li>`}
      ${versions.map(version => html`
        <li><a href=${addressOf(version.id)} hx-get=${addressOf(version.id)} ...${hx} aria-current=${version.id === current ? 'true' : undefined}
          class=${version.operation.toLowerCase()} title=${`${t(`operation.${version.operation}`)} · ${format.moment(version.committedAt)}`}>
          <span class="heard">${t(`operation.${version.operation}`)} ${format.moment(version.committedAt)}</span></a></li>`)}
    </ol>`;
}
