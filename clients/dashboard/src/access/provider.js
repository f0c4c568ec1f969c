// Logging in at a provider of OpenID Connect. The groups of the person name the role of PostgreSQL that reads for him.
//
// The file of --openid-config:
//
//     { "name": "Example", "issuer": "https://login.example.com", "clientId": "bemi", "clientSecret": "...",
//       "scope": "openid email groups", "groupsClaim": "groups", "roles": { "support": "viewer", "dba": "operator" } }
//
// The first of the roles that belongs to a group of the person is his. The dashboard connects as the role of the connection string,
// and each transaction begins with SET LOCAL ROLE. So that role must be a member of the others, and needs no rights of its own (NOINHERIT).

import * as oidc from 'openid-client';
import { Database } from '../database.js';
import { loginPage, ownPath } from '../pages/login.js';
import { isLoopback } from './host.js';

const LIMIT = { max: 30, timeWindow: '1 minute' };
const CONNECTIONS = 4;
const LONGEST_PATH = 2000;

// Asks the provider for its addresses and keys. redirectUri() is the address that it sends the browser to.
export async function openProvider(settings, redirectUri) {
  const { name = 'OpenID Connect', issuer, clientId, clientSecret, scope = 'openid email', groupsClaim = 'groups', roles } = settings;
  if (!issuer || !clientId || Object.keys(roles ?? {}).length === 0) throw new Error('the file of --openid-config needs issuer, clientId and roles');
  // PostgreSQL takes it for no role at all, and that would be the one of the connection.
  if (Object.values(roles).some(role => typeof role !== 'string' || role === '' || role.toLowerCase() === 'none')) throw new Error('a role of --openid-config is not valid');
  const url = new URL(issuer);
  const isLocal = isLoopback(url.hostname);
  const config = await oidc.discovery(url, clientId, clientSecret, undefined, isLocal ? { execute: [oidc.allowInsecureRequests] } : undefined);
  return { name, config, scope, groupsClaim, roles: Object.entries(roles), redirectUri };
}

export function addProvider(app, { provider, accounts, connection }) {
  app.get('/login/provider', { config: { isPublic: true, rateLimit: LIMIT } }, async ({ session, query }, reply) => {
    const begun = { verifier: oidc.randomPKCECodeVerifier(), state: oidc.randomState(), nonce: oidc.randomNonce(), next: pathAfter(query.next) };
    session.set('begun', begun);
    const url = oidc.buildAuthorizationUrl(provider.config, {
      redirect_uri: provider.redirectUri(), scope: provider.scope, state: begun.state, nonce: begun.nonce,
      code_challenge: await oidc.calculatePKCECodeChallenge(begun.verifier), code_challenge_method: 'S256',
    });
    return reply.redirect(url.href);
  });

  app.get('/login/callback', { config: { isPublic: true, rateLimit: LIMIT } }, async (request, reply) => {
    const { session, page, log } = request;
    const begun = session.get('begun');
    session.set('begun', undefined);
    const refuse = problem => reply.code(401).show('login.title', loginPage(page, { next: begun?.next, problem }), { isBare: true });
    if (!begun) return refuse('provider');
    let claims;
    try {
      claims = await claimsOf(provider, new URL(request.url, provider.redirectUri()), begun);
    } catch (error) {
      log.error(error);
      return refuse('provider');
    }
    const role = roleOf(provider, claims);
    if (!role) return refuse('group');
    accounts.logOut(session.get('login'));
    session.regenerate();
    session.set('login', accounts.add(new Database(connection, { connections: CONNECTIONS, role }), role, personOf(claims)));
    return reply.redirect(begun.next);
  });
}

// It is kept in a cookie, and browsers keep none of more than 4096 bytes. Without the cookie, nobody could log in.
function pathAfter(next) {
  const path = ownPath(next);
  return path.length <= LONGEST_PATH ? path : '/';
}

// Claims of the token, and of the provider's page of the person if the groups are only there.
async function claimsOf({ config, groupsClaim }, url, { verifier, state, nonce }) {
  const tokens = await oidc.authorizationCodeGrant(config, url, { pkceCodeVerifier: verifier, expectedState: state, expectedNonce: nonce, idTokenExpected: true });
  const claims = tokens.claims();
  if (groupsClaim in claims || !config.serverMetadata().userinfo_endpoint) return claims;
  return { ...claims, ...await oidc.fetchUserInfo(config, tokens.access_token, claims.sub) };
}

// The first one of the file whose group the person has.
export function roleOf({ roles, groupsClaim }, claims) {
  const groups = new Set([claims[groupsClaim] ?? []].flat());
  return roles.find(([group]) => groups.has(group))?.[1];
}

const personOf = ({ email, email_verified: isVerified, sub }) => String(email && isVerified !== false ? email : sub);
