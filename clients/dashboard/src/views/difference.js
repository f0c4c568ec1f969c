// Two versions of a value: side by side if they are short, and as a difference by words or lines if they are long.

import { diffLines, diffWordsWithSpace } from 'diff';
import { html } from './html.js';
import { Arrow, Hidden, Value } from './value.js';

const LONG = 60;
// A difference of two long texts that have nothing in common takes too long to find, and shows nothing.
const EFFORT = { maxEditLength: 2000, timeout: 200 };

export function Difference({ page, field: { old, new: now } }) {
  if (old.kind === 'null') return html`<ins class="new"><${Value} page=${page} value=${now} /></ins>`;
  if (now.kind === 'null') return html`<del class="old"><${Value} page=${page} value=${old} /></del>`;
  const hidden = Math.max(old.hidden, now.hidden);
  if (hidden === 0) return html`<${Comparison} page=${page} old=${old} new=${now} />`;
  // What differs may be in the part that is not here.
  const isEqual = old.text === now.text;
  return html`
    ${!isEqual && html`<${Comparison} page=${page} old=${old} new=${now} />`}
    <${Hidden} page=${page} hidden=${hidden} name=${isEqual ? 'value.differs_later' : 'value.compared'} />`;
}

function Comparison({ page, old, new: now }) {
  if (isShort(old) && isShort(now)) return html`<${Arrow} page=${page} old=${old} new=${now} />`;
  const byLines = [old, now].some(value => value.text.includes('\n'));
  const parts = (byLines ? diffLines : diffWordsWithSpace)(old.text, now.text, EFFORT);
  if (!parts) return html`<del class="old"><${Value} page=${page} value=${whole(old)} /></del><ins class="new"><${Value} page=${page} value=${whole(now)} /></ins>`;
  return html`<div class=${`difference ${byLines ? 'lines' : 'words'}`}>${byLines ? lineParts(parts) : parts.map(part => html`<${Part} ...${part} />`)}</div>`;
}

// Of lines that have replaced others, the words that differ are marked.
function lineParts(parts) {
  return parts.flatMap((part, i) => {
    const next = parts[i + 1];
    if (part.added && parts[i - 1]?.removed) return [];
    const words = part.removed && next?.added ? diffWordsWithSpace(part.value, next.value, EFFORT) : undefined;
    if (!words) return part.removed && next?.added ? [html`<${Part} ...${part} />`, html`<${Part} ...${next} />`] : [html`<${Part} ...${part} />`];
    return [
      html`<del class="old">${words.filter(word => !word.added).map(marked)}</del>`,
      html`<ins class="new">${words.filter(word => !word.removed).map(marked)}</ins>`,
    ];
  });
}

const marked = ({ added, removed, value }) => (added || removed ? html`<mark>${value}</mark>` : value);

function Part({ added, removed, value }) {
  if (added) return html`<ins class="new">${value}</ins>`;
  if (removed) return html`<del class="old">${value}</del>`;
  return html`<span>${folded(value)}</span>`;
}

// Of many equal lines, two at each end.
function folded(text) {
  const lines = text.split('\n');
  return lines.length > 8 ? [...lines.slice(0, 2), '  ⋯', ...lines.slice(-3)].join('\n') : text;
}

// How much is hidden is written once.
const whole = value => ({ ...value, hidden: 0 });

const isShort = ({ kind, text }) => text.length <= LONG && !text.includes('\n') && kind !== 'object' && kind !== 'array';
