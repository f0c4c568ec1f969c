// Times and numbers as the reader's language writes them, in his time zone.

const DAY = 86_400_000;

export function newFormat(t, zone) {
  const formatter = options => new Intl.DateTimeFormat(t.language === 'en' ? 'en-GB' : t.language, { timeZone: zone, ...options });
  const clock = formatter({ hour: '2-digit', minute: '2-digit', second: '2-digit' });
  const shortClock = formatter({ hour: '2-digit', minute: '2-digit' });
  const shortDay = formatter({ day: 'numeric', month: 'short' });
  const longDay = formatter({ weekday: 'long', day: 'numeric', month: 'long' });
  const dayAndYear = formatter({ day: 'numeric', month: 'short', year: 'numeric' });
  const longDate = formatter({ day: 'numeric', month: 'long', year: 'numeric' });
  const zoneName = date => formatter({ timeZoneName: 'short' }).formatToParts(date).find(({ type }) => type === 'timeZoneName').value;
  const dayKey = new Intl.DateTimeFormat('sv', { timeZone: zone });
  const numbers = new Intl.NumberFormat(t.language, { useGrouping: true });

  const format = {
    number: number => numbers.format(number).replaceAll(/[.,](?=\d{3})/g, ' '),
    time: date => clock.format(date),
    shortTime: date => shortClock.format(date),
    dayKey: date => dayKey.format(date),
    // "Today", "Yesterday", "Saturday, 28 November".
    day: date => relativeDay(date) ?? longDay.format(date),
    // "12:03:07", "28 Nov 12:03:07": short, and clear by itself. In a sentence, today: "today 12:03:07".
    moment: (date, { seconds = true, today = false } = {}) => {
      const time = (seconds ? clock : shortClock).format(date);
      if (format.dayKey(date) === format.dayKey(new Date())) return today ? t('format.today_at', { time }) : time;
      const isRecent = Math.abs(Date.now() - date) < 300 * DAY;
      return `${(isRecent ? shortDay : dayAndYear).format(date)} ${time}`;
    },
    // "30 November 2026, 12:03:07.123 UTC": to be quoted, so nothing is left out.
    exact: date => `${longDate.format(date)}, ${clock.format(date)}.${String(date.getUTCMilliseconds()).padStart(3, '0')} ${zoneName(date)}`,
    // "40 ms", "12 s", "3 min", "5 h".
    duration: ms => {
      if (ms < 1000) return t('format.ms', { number: Math.round(ms) });
      if (ms < 60_000) return t('format.s', { number: Math.round(ms / 1000) });
      if (ms < 3_600_000) return t('format.min', { number: Math.round(ms / 60_000) });
      return t('format.h', { number: numbers.format(Math.round(ms / 3_600_000)) });
    },
  };
  return format;

  function relativeDay(date) {
    const key = format.dayKey(date);
    if (key === format.dayKey(new Date())) return t('format.today');
    if (key === format.dayKey(new Date(Date.now() - DAY))) return t('format.yesterday');
    return undefined;
  }
}
