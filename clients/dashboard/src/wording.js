// The texts that a user sees. Each language is one file, wording/LANGUAGE.json, with the same keys. A new file is a new language.
//
// A text may have placeholders: "{count} changes". A value is always a text or a number, never markup. If a key has
// forms for plurals, they are keys of their own: "changes.one", "changes.other", chosen by the value "count".

import { readdirSync, readFileSync } from 'node:fs';

const folder = new URL('wording/', import.meta.url);

const wordings = Object.fromEntries(readdirSync(folder).filter(name => /^[a-z]{2}\.json$/.test(name)).sort()
  .map(name => [name.slice(0, 2), JSON.parse(readFileSync(new URL(name, folder), 'utf8'))]));

export const languages = Object.keys(wordings);

// Returns the t() of a language. An unknown key is a mistake of ours, and the tests look for it.
export function wording(language) {
  const texts = wordings[language] ?? wordings.en;
  const plural = new Intl.PluralRules(language);
  const t = (key, values = {}) => {
    const form = 'count' in values ? `${key}.${plural.select(Number(values.count))}` : key;
    const text = texts[form] ?? texts[`${key}.other`] ?? texts[key];
    if (text === undefined) throw new Error(`there is no text for "${key}"`);
    return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ''));
  };
  t.language = texts === wordings.en ? 'en' : language;
  // Whether there is a text for a key that is made of a code, such as the reason of a gap.
  t.has = key => key in texts;
  return t;
}

// The first language of the header Accept-Language that we have.
export function preferredLanguage(header = '') {
  for (const part of header.split(',')) {
    const code = part.split(';')[0].trim().slice(0, 2).toLowerCase();
    if (languages.includes(code)) return code;
  }
  return 'en';
}
