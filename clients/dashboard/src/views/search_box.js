// The search box with its terms, and what can be searched for.

import * as addresses from '../addresses.js';
import { format as formatTerms, formatTerm } from '../search/grammar.js';
import { meanings } from '../search/context_keys.js';
import { html } from './html.js';

const KEYS = 6;

// action: the page that shows the result.
export function SearchBox({ page: { t }, q, found, problems, action = '/changes' }) {
  const isWrong = problems.length > 0;
  return html`
    <form class="search" role="search" action=${action} method="get">
      <input id="q" name="q" type="search" value=${q} placeholder=${t('search.placeholder')} aria-label=${t('search.label')} data-completions=${t('complete.label')}
        autocomplete="off" autocapitalize="off" spellcheck="false" maxlength="2000"
        aria-describedby=${isWrong ? 'search-problem' : undefined} aria-invalid=${isWrong ? 'true' : undefined} />
      <span class="found" id="found">${found}</span>
      <kbd title=${t('keyboard./')}>/</kbd>
    </form>
    ${isWrong && html`
      <p class="problem" id="search-problem" role="alert">${problems.map(({ key, values }) => t(key, values)).join(' ')}</p>`}`;
}

// Each term as a link that takes it out, and the keys of this history as links that add one.
export function Filters({ page: { t }, terms, facts, addressOf = addresses.changes }) {
  const used = new Set(terms.map(term => term.qualifier));
  const choices = choicesOf(facts, t).filter(({ qualifier }) => !used.has(qualifier));
  return html`
    <div class="filters">
      ${terms.map((term, i) => html`
        <a class="term" href=${addressOf({ q: formatTerms(terms.filter((_, j) => j !== i)) })}
          title=${t('search.without', { term: formatTerm(term) })}>${formatTerm(term)}<span aria-hidden="true"> ×</span></a>`)}
      ${choices.map(choice => html`<${Choice} terms=${terms} addressOf=${addressOf} ...${choice} />`)}
    </div>`;
}

function choicesOf(facts, t) {
  const names = list => (list.length > 1 ? list.map(({ name }) => name) : []);
  return [
    { qualifier: 'source', label: t('search.source'), values: names(facts.sources) },
    { qualifier: 'table', label: t('search.table'), values: names(facts.tables) },
    { qualifier: 'op', label: t('search.op'), values: ['create', 'update', 'delete'] },
    ...offeredKeys(facts).slice(0, KEYS).map(([key, { values }]) => ({ qualifier: key, label: key, values: inNaturalOrder(values) })),
    { qualifier: 'since', label: t('search.since'), values: ['1h', '24h', '7d'] },
  ].filter(({ values }) => values.length > 0);
}

// What people ask for first: who, then what he used. An id of a request is different each time, so it is no choice.
function offeredKeys({ contextKeys }) {
  const order = ['user', 'job', 'endpoint', 'deploy', 'run', 'method'].flatMap(meaning => meanings[meaning]);
  const place = key => (order.includes(key) ? order.indexOf(key) : order.length);
  return [...contextKeys].filter(([key, { values }]) => values.length > 0 && key !== '_db' && !meanings.request.includes(key))
    .sort(([a], [b]) => place(a) - place(b));
}

const inNaturalOrder = values => [...values].sort(new Intl.Collator('en', { numeric: true }).compare);

function Choice({ terms, addressOf, qualifier, label, values }) {
  return html`
    <details class="choice" name="choice">
      <summary>${label}</summary>
      <ul>${values.slice(0, 20).map(value => html`
        <li><a href=${addressOf({ q: formatTerms([...terms, { qualifier, value }]) })}>${value}</a></li>`)}</ul>
    </details>`;
}
