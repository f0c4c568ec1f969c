// Markup is written with html`...` (htm and Preact), and rendered to a text at the server. Preact escapes every value.
// Nothing in this project sets dangerouslySetInnerHTML, and a test looks for it.

import { html } from 'htm/preact';
import { render as renderToString } from 'preact-render-to-string';

export { html };

export const render = vnode => renderToString(vnode);

// "a", "b" and "c" as children, with separators.
export const separated = (items, separator) => items.flatMap((item, i) => (i === 0 ? [item] : [separator, item]));
