// An error of PostgreSQL that belongs to what somebody has asked for: the rest of the page stays.

import { html } from './html.js';

// Whether the query has failed because of what it asks for. Other errors concern the whole page.
export const isAboutQuestion = ({ severity, code }) =>
  severity !== undefined && /^(?:0A|22|23|42501|44|55|P0|XX|2F|2B|40)/.test(code ?? '');

// With text, a sentence for everybody, what PostgreSQL reports is folded under more.
export function DatabaseError({ title, text, more, error, children }) {
  const report = html`
    <pre><code>${[error.message, error.detail].filter(Boolean).join('\n')}</code></pre>
    ${error.hint && html`<p>${error.hint}</p>`}`;
  return html`
    <section class="refusal" role="alert">
      <h2>${title}</h2>
      ${text ? html`<p>${text}</p>` : report}
      ${children}
      ${text && html`<details class="fold"><summary>${more}</summary>${report}</details>`}
    </section>`;
}
