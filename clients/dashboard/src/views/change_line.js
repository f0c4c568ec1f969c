// A change as one line, and the group of lines that one request has made.

import * as addresses from '../addresses.js';
import { html, separated } from './html.js';
import { OldAndNew } from './value.js';
import { where, who } from './who.js';

const FIELDS = 8;

// q: the search that found it; selected: the id of the change in the panel.
export function Group({ page, group, q, selected }) {
  const { t, format } = page;
  const hidden = group.count - group.lines.length;
  return html`
    <article class="group" id=${`g-${group.id}`} data-count=${group.count} aria-labelledby=${`h-${group.id}`}>
      <header>
        <h3 id=${`h-${group.id}`}>
          <span class="who">${who(page, group.context, group)}</span>
          <span class="where">${where(page, group.context)}</span>
        </h3>
        <time datetime=${group.committedAt.toISOString()} title=${format.moment(group.committedAt)}>${format.time(group.committedAt)}</time>
      </header>
      <ul>
        ${group.lines.map(line => html`<${Line} page=${page} line=${line} q=${q} isSelected=${line.id === selected} />`)}
        ${hidden > 0 && html`<li class="more-lines"><${More} page=${page} group=${group} hidden=${hidden} /></li>`}
      </ul>
    </article>`;
}

function More({ page: { t, format, has }, group, hidden }) {
  const text = t('changes.more', { number: format.number(hidden), count: hidden });
  return has('request') ? html`<a href=${addresses.request(group.id)}>${text}</a>` : text;
}

// address: that of the change, if it does not open at the side of the list.
export function Line({ page, line, q, isSelected, address }) {
  const { t } = page;
  const beside = addresses.changes({ q, change: line.id });
  const link = address ? { href: address } : { href: beside, 'hx-get': beside, 'hx-target': '#panel', 'hx-push-url': 'true' };
  return html`
    <li>
      <a class="line" id=${`c-${line.id}`} ...${link} aria-current=${isSelected ? 'true' : undefined}>
        <span class=${`operation ${line.operation.toLowerCase()}`}>${t(`operation.${line.operation}`)}</span>
        <${RowName} line=${line} />
        <span class="fields"><${Fields} page=${page} line=${line} /></span>
      </a>
    </li>`;
}

// order #42
export function RowName({ line }) {
  return html`<span class="row-name">${line.table}${line.key.length > 0 && html` <span class="key"><i>#</i>${line.key.join(', ')}</span>`}</span>`;
}

function Fields({ page, line }) {
  const fields = line.changed.slice(0, FIELDS).map(field => html`
    <span><b>${field.name}</b> <${OldAndNew} page=${page} field=${field} operation=${line.operation} /></span>`);
  if (line.operation === 'TRUNCATE') return page.t('change.truncated');
  if (fields.length === 0) return page.t('change.no_fields');
  return html`${separated(fields, ', ')}${line.changed.length > FIELDS && ' …'}`;
}
