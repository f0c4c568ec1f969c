// Times as people type them in the search box: "2h", "today", "2026-11-28", "2026-11-28T02:10", "02:10".

const UNITS = {
  s: ['seconds', 1], m: ['minutes', 60], h: ['hours', 3600], d: ['days', 86_400], w: ['weeks', 604_800],
};
const LONGEST = 100 * 365 * 86_400;
const DAY = 86_400_000;

// Returns { interval, instant } for a time span before now, { instant } for any other time, and undefined if the text is
// neither. "edge" is "since" or "until": a day ends at its end, if it is the upper limit.
export function parseTime(text, { edge, now, zone }) {
  const span = /^(\d{1,10})([smhdw])$/u.exec(text);
  if (span) return timeSpan(Number(span[1]), UNITS[span[2]], now);
  const instant = parseInstant(text, { edge, now, zone });
  return instant && { instant };
}

function timeSpan(count, [unit, seconds], now) {
  if (count * seconds > LONGEST) return undefined;
  return { interval: `${count} ${unit}`, instant: new Date(now.getTime() - count * seconds * 1000) };
}

function parseInstant(text, { edge, now, zone }) {
  const today = localDate(now, zone);
  const end = edge === 'until' ? 1 : 0;
  if (text === 'now') return now;
  if (text === 'today') return fromLocal(addDays(today, end), zone);
  if (text === 'yesterday') return fromLocal(addDays(today, end - 1), zone);
  const match = /^(?:(\d{4}-\d\d-\d\d)(?:[T ]|$))?(?:(\d\d):(\d\d)(?::(\d\d(?:\.\d{1,6})?))?(Z|[+-]\d\d:?\d\d)?)?$/u.exec(text);
  if (!match || text === '') return undefined;
  const [, date, hours, minutes, seconds = '0', offset] = match;
  const day = date === undefined ? today : localDay(date);
  if (day === undefined) return undefined;
  if (hours === undefined) return fromLocal(addDays(day, end), zone);
  if (Number(hours) > 23 || Number(minutes) > 59 || Number(seconds) >= 60) return undefined;
  const local = day + Number(hours) * 3_600_000 + Number(minutes) * 60_000 + Math.round(Number(seconds) * 1000);
  return offset ? new Date(local - offsetOf(offset)) : fromLocal(local, zone);
}

// A local time is the number of milliseconds that UTC would have with the same digits.
function localDay(date) {
  const day = new Date(`${date}T00:00:00Z`);
  const exists = !Number.isNaN(day.getTime()) && day.toISOString().startsWith(date);
  return exists && day.getUTCFullYear() >= 1900 ? day.getTime() : undefined;
}

const addDays = (day, count) => day + count * DAY;

function localDate(instant, zone) {
  return Math.floor((instant.getTime() + zoneOffset(instant, zone)) / DAY) * DAY;
}

// The second step is for times near a change of the clock.
function fromLocal(local, zone) {
  const guess = local - zoneOffset(new Date(local), zone);
  return new Date(local - zoneOffset(new Date(guess), zone));
}

export function zoneOffset(instant, zone) {
  const parts = new Intl.DateTimeFormat('en', {
    timeZone: zone, hourCycle: 'h23', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric',
  }).formatToParts(instant);
  const get = type => Number(parts.find(part => part.type === type).value);
  const local = Date.UTC(get('year'), get('month') - 1, get('day'), get('hour'), get('minute'), get('second'));
  return local - Math.floor(instant.getTime() / 1000) * 1000;
}

function offsetOf(text) {
  if (text === 'Z') return 0;
  const [, sign, hours, minutes] = /^([+-])(\d\d):?(\d\d)$/u.exec(text);
  return (sign === '-' ? -1 : 1) * (Number(hours) * 60 + Number(minutes)) * 60_000;
}
