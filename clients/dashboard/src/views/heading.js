// The head of a page that shows one thing: the way back, and its name.

import { html } from './html.js';

export function Heading({ above, children }) {
  return html`
    <header class="heading">
      ${above && html`<p class="small">${above}</p>`}
      <h1>${children}</h1>
    </header>`;
}
