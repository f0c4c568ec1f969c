// What the views of one request share.

import { newFormat } from './format.js';
import { hasPage, hasPageForLinks, pages } from '../pages/index.js';
import { languages, preferredLanguage, wording } from '../wording.js';

export function newPage(request, reply, options) {
  const language = languages.includes(request.cookies?.language) ? request.cookies.language
    : options.language ?? preferredLanguage(request.headers['accept-language']);
  const t = wording(language);
  const zone = validZone(request.cookies?.zone) ?? options.zone;
  return {
    t,
    zone,
    format: newFormat(t, zone),
    path: request.url.split('?')[0],
    navigation: pages.filter(page => page.address && (!page.needs || options[page.needs])),
    has: hasPage,
    hasForLinks: hasPageForLinks,
    provider: options.provider?.name,
    // Whether htmx asks, and then for which element.
    part: request.headers['hx-request'] ? request.headers['hx-target'] : undefined,
    // The token for forms.
    csrf: () => reply.generateCsrf(),
  };
}

// The cookie comes from public/page.js. It is the browser's word, and may be anything.
function validZone(zone) {
  if (!zone || zone.length > 64) return undefined;
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone });
    return zone;
  } catch {
    return undefined;
  }
}
