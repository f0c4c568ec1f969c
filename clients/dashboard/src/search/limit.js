// The search of a link for a customer: whatever is searched for, the context of the link is a condition, too.

// Changes the meaning. A term for the same key stays as a condition on the result, so it can only narrow it.
export function limitMeaning(meaning, { context }) {
  for (const [key, json] of context) {
    const own = meaning.context.get(key);
    if (own !== undefined && own !== json) meaning.conditions.push({ kind: 'context', key, values: [plainText(own)], exclude: false });
    meaning.context.set(key, json);
  }
  return meaning;
}

const plainText = json => {
  const value = JSON.parse(json);
  return typeof value === 'string' ? value : json;
};

// What a customer may know of the rest of the history: nothing.
export const limitFacts = facts => ({ ...facts, tables: [], contextKeys: new Map(), role: { ...facts.role, functions: new Set() } });
