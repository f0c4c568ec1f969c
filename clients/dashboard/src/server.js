// Puts the dashboard together: plugins of Fastify, what each request gets, and the routes of pages/.
//
// Each request has:
//     request.database   the connections of its role (database.js)
//     request.page       what views need: t(), format, csrf, navigation (views/page.js)
//     request.gone       an AbortSignal that fires if the browser goes away
// and replies with reply.show(title, body), a page in the frame, or reply.part(body), a piece for htmx.

import { basename, dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import fastify from 'fastify';
import cookie from '@fastify/cookie';
import csrf from '@fastify/csrf-protection';
import formbody from '@fastify/formbody';
import helmet from '@fastify/helmet';
import rateLimit from '@fastify/rate-limit';
import session from '@fastify/secure-session';
import staticFiles from '@fastify/static';
import { isOwnAddress } from './access/host.js';
import { addEntry } from './access/entry.js';
import { Gone } from './database.js';
import { addCompletion } from './completion.js';
import { addLive } from './live.js';
import { addPages } from './pages/index.js';
import { showError } from './pages/error.js';
import { newPage } from './views/page.js';
import { renderFrame, renderPart } from './views/frame.js';

// No inline script, no inline style, nothing from elsewhere. A value of a row that became markup could still do nothing.
const CONTENT_SECURITY_POLICY = {
  useDefaults: false,
  directives: {
    defaultSrc: ["'none'"],
    scriptSrc: ["'self'"],
    styleSrc: ["'self'"],
    imgSrc: ["'self'"],
    connectSrc: ["'self'"],
    fontSrc: ["'self'"],
    formAction: ["'self'"],
    baseUri: ["'none'"],
    frameAncestors: ["'none'"],
  },
};

// options: { database, token, key, cookieName, host, port, zone, language, isSecure, logger, accessLog, accounts,
// linkKey, provider, connection, publicHost, publicAddress }. token is a OneTimeToken, key encrypts
// sessions, host and port() are where it listens, and isSecure is whether browsers come by HTTPS, through one proxy. accounts are those of
// access/accounts.js; linkKey signs links for customers; provider is
// that of access/provider.js, whose people read through connection, a config of pg.
export async function buildServer(options) {
  const app = fastify({ logger: options.logger && { ...options.logger, serializers: { req: loggedRequest } }, trustProxy: options.isSecure ? 1 : false, bodyLimit: 256 * 1024,
    routerOptions: { maxParamLength: 4000 } });
  await addPlugins(app, options);
  addRequestParts(app, options);
  app.setErrorHandler(showError);
  app.setNotFoundHandler((request, reply) => showError(Object.assign(new Error(), { statusCode: 404 }), request, reply));
  addEntry(app, options);
  addLive(app);
  addCompletion(app);
  await addPages(app, options);
  return app;
}

// Tokens, links and codes of a provider are in addresses, and whoever reads the log could use them.
const loggedRequest = ({ method, url, ip }) => ({ method, url: url.replace(/^(\/link\/|\/enter\?|\/login\/callback\?).*/s, '$1...'), remoteAddress: ip });

async function addPlugins(app, { key, cookieName, isSecure = false }) {
  await app.register(helmet, {
    contentSecurityPolicy: CONTENT_SECURITY_POLICY,
    strictTransportSecurity: isSecure,
    referrerPolicy: { policy: 'same-origin' },
  });
  await app.register(rateLimit, { global: false });
  await app.register(cookie);
  // "lax": a link to a page that somebody has sent opens it. Forms have a token against forgery.
  await app.register(session, {
    key,
    sessionName: 'session',
    cookieName,
    expiry: 12 * 60 * 60,
    cookie: { path: '/', httpOnly: true, sameSite: 'lax', secure: isSecure },
  });
  await app.register(csrf, { sessionPlugin: '@fastify/secure-session', getToken: csrfToken });
  // Forms, and nothing else: each value is a text, or a list of texts.
  app.removeAllContentTypeParsers();
  await app.register(formbody);
  await app.register(staticFiles, { root: fileURLToPath(new URL('../public', import.meta.url)), prefix: '/public/', maxAge: 0 });
  addVendorFile(app, 'htmx.js', 'htmx.org/dist/htmx.min.js');
  addVendorFile(app, 'uplot.js', 'uplot/dist/uPlot.esm.js');
  addVendorFile(app, 'uplot.css', 'uplot/dist/uPlot.min.css');
  addVendorFile(app, 'inter.woff2', '@fontsource-variable/inter/files/inter-latin-wght-normal.woff2');
}

// By name, so that nothing else of node_modules can be read.
function addVendorFile(app, name, file) {
  const path = fileURLToPath(import.meta.resolve(file));
  app.get(`/vendor/${name}`, { config: { isPublic: true } }, (request, reply) =>
    reply.sendFile(basename(path), dirname(path), { maxAge: '1d' }));
}

const csrfToken = request => request.headers['x-csrf-token'] ?? request.body?._csrf;

function addRequestParts(app, options) {
  app.decorateRequest('database', null);
  app.decorateRequest('page', null);
  app.decorateRequest('gone', null);
  app.decorateReply('show', function show(title, body, more) {
    return this.type('text/html; charset=utf-8').send(renderFrame(this.request.page, title, body, more));
  });
  app.decorateReply('part', function part(body) {
    return this.type('text/html; charset=utf-8').header('Vary', 'HX-Request').send(renderPart(body));
  });
  // Pages have data of the history, which no cache should keep.
  app.addHook('onSend', async (request, reply) => {
    if (!reply.getHeader('Cache-Control')) reply.header('Cache-Control', 'no-store');
  });
  app.addHook('onRequest', async (request, reply) => {
    if (!isOwnAddress(request, options)) return reply.code(421).type('text/plain').send('This address does not belong to the dashboard.\n');
    request.gone = signalOf(reply);
    request.page = newPage(request, reply, options);
    if (/%00/.test(request.url)) throw zeroByte();
  });
  app.addHook('preValidation', async request => {
    if (['GET', 'HEAD'].includes(request.method)) return;
    request.body ??= {};
    if (Object.entries(request.body).flat(2).some(value => value.includes('\0'))) throw zeroByte();
  });
  app.addHook('preHandler', (request, reply, done) => {
    if (['GET', 'HEAD'].includes(request.method)) done();
    else app.csrfProtection(request, reply, done);
  });
}

// PostgreSQL has no text with a zero byte, and to its protocol it is the end of one.
const zeroByte = () => Object.assign(new Error('zero byte'), { statusCode: 400 });

function signalOf(reply) {
  const controller = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) controller.abort(new Gone());
  });
  return controller.signal;
}
