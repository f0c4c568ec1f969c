// Who has changed something, and where, from the keys of a context (search/context_keys.js).

import { find } from '../search/context_keys.js';

// What an application calls a user or an endpoint may be a text of any length. It is a part of headings, and the context below has all of it.
const LONGEST = 120;

function shortened(found) {
  if (!found) return [];
  const [key, text] = found;
  return [key, text.length > LONGEST ? `${text.slice(0, LONGEST).toWellFormed()}…` : text];
}

// "User 7", "job nightly-prices", "No context".
export function who({ t }, context, { isBaseline = false } = {}) {
  if (isBaseline) return t('who.baseline');
  const [key, user] = shortened(find(context, 'user'));
  if (user) return /^\d+$/.test(user) || /id$/i.test(key) ? t('who.user', { user }) : user;
  const [, job] = shortened(find(context, 'job'));
  if (job) return t('who.job', { job });
  const isEmpty = Object.keys(context).every(name => name === '_db');
  return t(isEmpty ? 'who.none' : 'who.unnamed');
}

// The same as the subject of a sentence.
export function subject(page, context, more) {
  const isNamed = more?.isBaseline || find(context, 'user') || find(context, 'job');
  return isNamed ? who(page, context, more) : page.t('who.somebody');
}

// "POST /cart/checkout", "run 1187", "psql · role admin". Empty if nothing is known.
export function where({ t }, context) {
  const [, endpoint] = shortened(find(context, 'endpoint'));
  const [, method] = shortened(find(context, 'method'));
  const [, run] = shortened(find(context, 'run'));
  if (endpoint) return method && !endpoint.startsWith(method) ? `${method} ${endpoint}` : endpoint;
  if (run) return t('who.run', { run });
  return databaseFacts({ t }, context._db);
}

// What bemi.include adds.
function databaseFacts({ t }, text) {
  if (!text) return '';
  try {
    const { application_name: application, session_user: role } = JSON.parse(text);
    return [application, role && t('who.role', { role })].filter(Boolean).join(' · ');
  } catch {
    return '';
  }
}
