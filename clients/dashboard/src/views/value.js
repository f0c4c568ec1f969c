// Values of columns, short in lines and whole in tables.

import { html } from './html.js';

// A value in a line. Texts are one line there; an object is shown as compact JSON.
export function ShortValue({ value, kind }) {
  return html`<span class=${`value ${kind}`}>${shortText(value)}</span>`;
}

export function shortText({ kind, text, hidden }) {
  if (kind === 'null') return '∅';
  if (kind === 'string' && text === '') return '""';
  const compact = (kind === 'object' || kind === 'array' ? text.replace(/\n\s*/g, ' ') : text).replace(/\s+/g, ' ');
  return compact.length > 80 || hidden > 0 ? `${compact.slice(0, 79)}…` : compact;
}

const isLong = ({ kind, text }) => kind === 'object' || kind === 'array' || text.length > 40;

// What a change has done to one column, in a line.
export function OldAndNew({ page, field, operation }) {
  if (operation === 'CREATE' || operation === 'SNAPSHOT') return html`<${ShortValue} value=${field.new} kind="new" />`;
  if (operation === 'DELETE') return html`<${ShortValue} value=${field.old} kind="old" />`;
  if (!isLong(field.old) || !isLong(field.new)) return html`<${Arrow} page=${page} old=${field.old} new=${field.new} />`;
  // Two long values do not fit into a line. What differs often does, and the panel shows the rest.
  const part = differingPart(field);
  if (!part) return html`<span class="dim">…</span>`;
  return html`<span class="dim">… ${part.name} </span><${Arrow} page=${page} old=${part.old} new=${part.new} />`;
}

// Both values, with an arrow to see and a word to hear.
export function Arrow({ page: { t }, old, new: now }) {
  return html`
    <${ShortValue} value=${old} kind="old" />
    <span class="arrow" aria-hidden="true"> → </span><span class="heard">${t('change.became')}</span>
    <${ShortValue} value=${now} kind="new" />`;
}

// The one member of an object, or the one place of a text, in which two whole values differ: { name, old, new }.
function differingPart({ old, new: now }) {
  if (old.hidden > 0 || now.hidden > 0 || old.kind !== now.kind) return undefined;
  return old.kind === 'string' ? differingWords(old.text, now.text) : differingMember(old.text, now.text);
}

const MEMBER = /^\s*"(.*)": (.*?),?$/;
const asText = text => ({ kind: 'string', text, hidden: 0 });

// The texts are those of jsonb_pretty, with one member a line.
function differingMember(old, now) {
  const [a, b] = [old.split('\n'), now.split('\n')];
  const places = a.flatMap((line, i) => (line === b[i] ? [] : [i]));
  if (a.length !== b.length || places.length !== 1) return undefined;
  const [was, is] = [MEMBER.exec(a[places[0]]), MEMBER.exec(b[places[0]])];
  if (!was || !is || was[1] !== is[1] || was[2].length + is[2].length > 60) return undefined;
  return { name: was[1], old: asText(was[2]), new: asText(is[2]) };
}

function differingWords(old, now) {
  const [a, b] = [old.split(/(?<=\s)/), now.split(/(?<=\s)/)];
  let from = 0;
  while (from < a.length && from < b.length && a[from] === b[from]) from++;
  let end = 0;
  while (end < a.length - from && end < b.length - from && a.at(-1 - end) === b.at(-1 - end)) end++;
  const [was, is] = [a, b].map(words => words.slice(from, words.length - end).join('').trim());
  return was && is && was.length + is.length <= 60 ? { name: '', old: asText(was), new: asText(is) } : undefined;
}

// A value, as it stands in a table of columns. Of a very long one, the beginning.
export function Value({ page, value }) {
  if (value.kind === 'null') return html`<span class="dim">∅</span>`;
  return html`<${Text} value=${value} /><${Hidden} page=${page} hidden=${value.hidden} />`;
}

// How much of a value is not shown. The export has all of it.
export function Hidden({ page: { t, format }, hidden, name = 'value.hidden' }) {
  return hidden > 0 && html`<p class="dim small">${t(name, { count: hidden, number: format.number(hidden) })}</p>`;
}

function Text({ value }) {
  const isLong = value.kind === 'object' || value.kind === 'array' || value.text.includes('\n');
  return isLong ? html`<pre class="value">${value.text}</pre>` : html`<span class="value">${value.text}</span>`;
}
