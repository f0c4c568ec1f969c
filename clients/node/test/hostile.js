// Strings that try to end their comment.

const PIECES = [
  '*/', '/*', '*', '/', '//', '/*Bemi', 'Bemi*/', '/*Bemi {"userId": 0} Bemi*/', ' Bemi*/; DROP TABLE todo; --',
  '?', '??', '\\?', '\\\\?', ':name', '::text', '$1', '$$', '$bemi$', "'", "''", '"', '""', '\\', '\\\\', '\\"', "\\'",
  '\\u0000', '\\u002f', '\\ud800', '\0', '\n', '\r\n', '\t', '\x1b', '\x7f', '--', ';', '`', '${a}', '%s', '%', '{', '}',
  '\ud800', '\udfff', '\ude00\ud83d', '\u{1f600}', 'é', '€', '漢字', '\u2028', '\ufeff', '\u202e', '__proto__', '<script>', 'x', ' ', '',
];

// A generator with a seed, so a failure can be repeated (Park and Miller).
function randomInteger(seed) {
  let state = seed;
  return below => (state = (state * 48271) % 2147483647) % below;
}

export function hostileStrings(count) {
  const random = randomInteger(20261124);
  const strings = [...PIECES, ...PIECES.map(piece => piece.repeat(1000))];
  while (strings.length < count) {
    strings.push(Array.from({ length: 1 + random(6) }, () => PIECES[random(PIECES.length)]).join(''));
  }
  return strings.slice(0, count);
}

/** What is stored of a value: everything except what jsonb cannot store. */
export function stored(value) {
  if (typeof value === 'string') {
    return value.replace(/[\ud800-\udbff][\udc00-\udfff]|[\0\ud800-\udfff]/g, c => (c.length === 2 ? c : '\ufffd'));
  }
  if (Array.isArray(value)) return value.map(stored);
  if (value !== null && typeof value === 'object') {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [stored(key), stored(item)]));
  }
  return value;
}
