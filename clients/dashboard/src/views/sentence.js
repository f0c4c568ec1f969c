// A change as a sentence: "User 7 changed status and total in POST /cart/checkout, today 12:03:07."

import { shortText } from './value.js';
import { subject, where } from './who.js';

const NAMED = 3;

export function sentence(page, change) {
  const { t, format } = page;
  const place = where(page, change.context);
  const values = {
    who: subject(page, change.context, { isBaseline: change.operation === 'SNAPSHOT' }),
    what: what(page, change),
    when: format.moment(change.committedAt, { today: true }),
    where: place,
  };
  return t(place ? 'sentence.where' : 'sentence', values);
}

function what({ t }, { operation, table, key, changed }) {
  const row = key.length > 0 ? `${table} ${key.join(', ')}` : t('sentence.row', { table });
  if (operation !== 'UPDATE') return t(`sentence.${operation}`, { table, row });
  if (changed.length === 1) {
    const [{ name, old, new: now }] = changed;
    const isShort = [old, now].every(value => value.text.length <= 30 && !value.text.includes('\n'));
    if (isShort) return t('sentence.set', { column: name, old: shortText(old), new: shortText(now) });
  }
  if (changed.length === 0) return t('sentence.unknown', { row });
  return t('sentence.columns', { columns: list(t, changed.map(field => field.name)) });
}

function list(t, names) {
  const shown = names.length > NAMED + 1 ? [...names.slice(0, NAMED), t('sentence.others', { number: names.length - NAMED })] : names;
  return new Intl.ListFormat(t.language, { type: 'conjunction' }).format(shown);
}
