// Links for customers: signed, limited to changes with a context, read-only, with an end.
//
//     /link/PAYLOAD.SIGNATURE        payload: { i: id, c: [[key, JSON], ...], u: end in seconds, n: name }
//
// A link reads as the role of the connection string, and each request checks it again:
//  - the signature and the end;
//  - its row in bemi_dashboard.links, which has the same context, and by which it can be ended before its time;
//  - the route: only those with config.isForLinks, which read request.limit.
// So a page that knows nothing of links cannot be seen with one. Another key ends all links.

import { createHmac, timingSafeEqual } from 'node:crypto';
import { linkEndedPage } from '../pages/entry.js';
import { linkIsOpen } from '../queries/links.js';
import { ObjectsMissing, withObjects } from './objects.js';

// The cookie of who has opened it contains its text, and browsers keep no cookie of more than 4096 bytes.
export const LONGEST_TEXT = 2700;
export const LONGEST = 366 * 24 * 60 * 60;
const LIMIT = { max: 30, timeWindow: '1 minute' };
const UUID = /^[0-9a-f-]{36}$/;

const signatureOf = (payload, key) => createHmac('sha256', key).update(`bemi-dashboard link ${payload}`).digest();

// context: [[key, JSON]], at least one. until: a Date.
export function signLink({ id, context, until, name }, key) {
  if (context.length === 0) throw new TypeError('a link needs a context');
  const payload = Buffer.from(JSON.stringify({ i: id, c: context, u: Math.floor(until / 1000), n: name })).toString('base64url');
  return `${payload}.${signatureOf(payload, key).toString('base64url')}`;
}

// { id, context, until, name }, or undefined if it is not ours, or has ended.
export function readLink(text, key, now = Date.now()) {
  const [payload = '', signature = '', ...rest] = String(text).split('.');
  const given = Buffer.from(signature, 'base64url');
  const expected = signatureOf(payload, key);
  if (rest.length > 0 || given.length !== expected.length || !timingSafeEqual(given, expected)) return undefined;
  const { i: id, c: context, u: until, n: name } = JSON.parse(Buffer.from(payload, 'base64url').toString());
  return UUID.test(id) && until * 1000 > now && context.length > 0 ? { id, context, until: new Date(until * 1000), name } : undefined;
}

// The link, if it opens something now.
async function findLink(text, { database, linkKey }) {
  const link = linkKey && readLink(text, linkKey);
  return link && await isOpen(database, link) ? link : undefined;
}

// A customer can do nothing about objects that are missing.
const isOpen = (database, link) => database.read(client => withObjects(database, client, () => linkIsOpen(client, link)))
  .catch(error => { if (!(error instanceof ObjectsMissing)) throw error; });

// Whether the session is that of a link. Then the request has a limit.
export async function openLink(request, options) {
  const text = request.session.get('link');
  if (!text) return false;
  const link = await findLink(text, options);
  if (!link) throw Object.assign(new Error('the link has ended'), { statusCode: 410, kind: 'ended' });
  request.database = options.database;
  request.limit = link;
  request.person = `link: ${link.name}`;
  request.mayStay = async () => Boolean(await findLink(text, options));
  limitPage(request.page, link);
  return true;
}

// No link to a page that could not be seen.
function limitPage(page, link) {
  page.link = link;
  page.navigation = page.navigation.filter(({ isForLinks }) => isForLinks);
  page.has = page.hasForLinks;
}

export function addLinkEntry(app, options) {
  if (!options.linkKey) return;
  app.get('/link/:text', { config: { isPublic: true, rateLimit: LIMIT } }, async (request, reply) => {
    const { text } = request.params;
    if (!await findLink(text, options)) return reply.code(410).show('link.ended', linkEndedPage(request.page), { isBare: true });
    request.session.regenerate();
    request.session.set('link', text);
    return reply.redirect('/changes');
  });
}
