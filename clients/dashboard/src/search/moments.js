// Moments as people type them for time travel, and as they stand in the address.
//
// In the address a moment is a time in UTC with six digits of a second, so that a link shows the same rows tomorrow. A Date has
// three digits. Two commits of one millisecond would then be one moment.

import { parseTime } from './times.js';

const EXACT = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/;
const FRACTION = /(?<=:\d\d)\.(\d{1,6})(?=Z?$|[+-]\d\d:?\d\d$)/;

// The moment for the address, or undefined if the text is no time: "2h", "12:03", "2026-11-28 02:10:05.123456".
export function exactMoment(text, { now = new Date(), zone }) {
  const [, fraction] = FRACTION.exec(text) ?? [];
  const time = parseTime(text.replace(FRACTION, ''), { edge: 'since', now, zone });
  if (!time) return undefined;
  const iso = time.instant.toISOString();
  return `${iso.slice(0, 20)}${(fraction ?? iso.slice(20, 23)).padEnd(6, '0')}Z`;
}

export const isExact = text => EXACT.test(text);

// The same for people, in their time zone. exactMoment() reads it back.
export function localMoment(exact, zone) {
  const local = new Intl.DateTimeFormat('sv', {
    timeZone: zone, year: 'numeric', month: '2-digit', day: '2-digit', hour: '2-digit', minute: '2-digit', second: '2-digit',
  }).format(new Date(exact));
  const fraction = exact.slice(20, 26);
  return fraction === '000000' ? local : `${local}.${fraction}`;
}
