// Completions for the search box: /completions?text=table:or&at=8 returns JSON. The page has shown the same names and values in its
// filters, so the access log has no entry of it.

import { factsOf } from './queries/facts.js';
import { complete } from './search/completion.js';
import { limitFacts } from './search/limit.js';

const LONGEST = 2000;

export function addCompletion(app) {
  app.get('/completions', { config: { isForLinks: true } }, async (request, reply) => {
    const { page: { t }, database, limit, query } = request;
    const text = String(query.text ?? '').slice(0, LONGEST);
    const known = await factsOf(database);
    const { from, to, items } = complete(text, Number(query.at) || 0, limit ? limitFacts(known) : known);
    return reply.send({ from, to, items: items.map(({ text: whole, shown, hint, of }) => ({ text: whole, shown, hint: t(`complete.${hint}`, { of }) })) });
  });
}
