// The pages, in the order of the navigation. A page is a file of this folder that exports
//
//     { name, address?, covers?, needs?, isForLinks?, isShown?(facts, database, options), register(app, options) }
//
// name: its key, and "nav.NAME" is its text in the navigation if it has an address there, marked on pages whose
// address begins with its own or with covers. register adds its routes.
// needs is an option without which the page is not there. isForLinks: a customer with a link sees it, too.
// Links to pages are made in addresses.js, and a link to a page that is not in this list is not shown.

import { addAccessLog } from '../access/access_log.js';
import * as accessLog from './access_log.js';
import * as change from './change.js';
import * as changes from './changes.js';
import * as exported from './export.js';
import * as links from './links.js';
import * as past from './past.js';
import * as request from './request.js';
import * as requests from './requests.js';
import * as revert from './revert.js';
import * as row from './row.js';
import * as rows from './rows.js';
import * as sources from './sources.js';
import * as tables from './tables.js';
import { factsOf } from '../queries/facts.js';

export const pages = [
  changes,
  rows,
  requests,
  past,
  revert,
  tables,
  sources,
  links,
  accessLog,
  change,
  row,
  request,
  exported,
];

const names = new Set(pages.map(page => page.name));

export const hasPage = name => names.has(name);
export const hasPageForLinks = name => pages.some(page => page.name === name && page.isForLinks);

// What a page shows is written into the access log. That is for pages alone, so they are in a scope of their own.
export async function addPages(app, options) {
  app.get('/', { config: { isForLinks: true } }, (request, reply) => reply.redirect('/changes'));
  await app.register(async scope => {
    addAccessLog(scope, options);
    scope.addHook('preHandler', request => showOwnNavigation(request, options));
    for (const page of pages) await page.register(scope, options);
  });
}

// Only pages that the role may see.
async function showOwnNavigation({ method, database, page }, options) {
  if (method !== 'GET' || page.part) return;
  // Without bemi, there are no facts. The page reports what is wrong.
  const facts = await factsOf(database).catch(() => undefined);
  const shown = await Promise.all(page.navigation.map(({ isShown }) => !isShown || facts && isShown(facts, database, options)).map(one => Promise.resolve(one).catch(() => false)));
  page.navigation = page.navigation.filter((item, i) => shown[i]);
}
