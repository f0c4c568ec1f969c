// Names and what belongs to them, as a table of two columns: fields of a row, members of a context.

import { html } from './html.js';

// rows: [{ name, content }]. caption is heard, not seen, unless a heading above has said it.
export function FactsTable({ rows, caption }) {
  return html`
    <table class="facts">
      ${caption && html`<caption class="heard">${caption}</caption>`}
      <tbody>${rows.map(({ name, content }) => html`<tr><th scope="row">${name}</th><td>${content}</td></tr>`)}</tbody>
    </table>`;
}
