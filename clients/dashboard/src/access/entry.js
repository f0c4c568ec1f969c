// Who may come in, and as which role.
//
// Without accounts: whoever has the one-time token, and then its session, as the role of the connection string. With accounts: who logs
// in, as that role (accounts.js). All routes need a session, but those with config.isPublic and the files of public/.
//
// With a link for a customer (links.js), only routes with config.isForLinks can be asked for.

import { entryPage } from '../pages/entry.js';
import { addLogin, loginPage } from '../pages/login.js';
import { addProvider } from './provider.js';
import { addLinkEntry, openLink } from './links.js';

const ENTRY_LIMIT = { max: 10, timeWindow: '1 minute' };

export function addEntry(app, options) {
  const { database, accounts } = options;
  app.decorateRequest('person', undefined);
  app.decorateRequest('limit', undefined);
  // Whether it may still be answered. An answer that takes long asks again.
  app.decorateRequest('mayStay', async () => true);
  app.addHook('onRequest', async (request, reply) => {
    if (isPublic(request)) return undefined;
    const isLink = await openLink(request, options);
    if (isLink && !request.routeOptions.config?.isForLinks) throw Object.assign(new Error('not for links'), { statusCode: 404 });
    if (isLink) return undefined;
    if (accounts) return enterAccount(request, reply, accounts);
    if (!request.session.get('entered')) return reply.code(401).show('entry.title', entryPage(request.page), { isBare: true });
    request.database = database;
    return undefined;
  });
  if (accounts && options.provider) addProvider(app, options);
  if (accounts) addLogin(app, options);
  else addTokenEntry(app, options);
  addLinkEntry(app, options);
}

function enterAccount(request, reply, accounts) {
  const login = accounts.find(request.session.get('login'));
  if (!login) return reply.code(401).show('login.title', loginPage(request.page, { next: request.method === 'GET' ? request.url : '/' }), { isBare: true });
  request.database = login.database;
  request.person = login.person;
  request.mayStay = async () => accounts.find(request.session.get('login')) === login;
  request.page.account = { name: login.person ?? login.user };
  return undefined;
}

function addTokenEntry(app, { token }) {
  app.get('/enter', { config: { isPublic: true, rateLimit: ENTRY_LIMIT } }, (request, reply) => {
    // A browser that only guesses where the user goes next must not use the token up.
    if (/prefetch|prerender/.test(request.headers['sec-purpose'] ?? '')) return reply.code(503).send();
    if (token.redeem(request.query.token)) {
      request.session.regenerate();
      request.session.set('entered', true);
    } else if (!request.session.get('entered')) {
      return reply.code(401).show('entry.title', entryPage(request.page, { isInvalid: true }), { isBare: true });
    }
    return reply.redirect('/changes');
  });
}

const isPublic = request => request.routeOptions.config?.isPublic || request.routeOptions.url?.startsWith('/public/');
