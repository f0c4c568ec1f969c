// The text of the search box, and its terms.
//
//     table:order key:42 user:7 op:update -endpoint:/health* since:2h "requestId":"9f1c 23"
//
// A term is QUALIFIER:VALUE. A minus sign before it excludes. Quotes hold a value, or a name, with blanks, quotes or colons;
// within them, \" is a quote and \\ a backslash. A word without a qualifier is a path if it begins with a slash, and otherwise the
// key of a row.
//
// Every text has terms: there are no errors of syntax. What a term means is up to meaning.js. format(parse(text)) is a
// text with the same terms, and so the text is the URL of what is shown.

const LONGEST = 2000;

const STRING = /^"((?:[^"\\]|\\.)*)"?/su;
const NAME = /^([\p{L}_][\p{L}\p{N}_.-]*):/u;
const WORD = /^[^\s"]\S*/u;

// { qualifier, value, exclude, quoted }. quoted: the value is a text, also if it looks like a number.
export function parse(text) {
  const terms = [];
  let rest = clean(text);
  while ((rest = rest.trimStart()) !== '') {
    const [term, length] = nextTerm(rest);
    if (term.value !== '') terms.push(term);
    rest = rest.slice(length);
  }
  return terms;
}

// The word at a place of the text: { from, to, word }. word ends at the place, and what is between from and to would be replaced.
export function termAt(text, at) {
  const whole = text.slice(0, LONGEST);
  const place = Math.min(Math.max(Math.trunc(at) || 0, 0), whole.length);
  for (let from = 0; from < whole.length;) {
    from += whole.slice(from).length - whole.slice(from).trimStart().length;
    const length = from < whole.length ? nextTerm(whole.slice(from))[1] : 0;
    if (place < from) break;
    if (place <= from + length) return { from, to: from + length, word: whole.slice(from, place) };
    from += length;
  }
  return { from: place, to: place, word: '' };
}

export function format(terms) {
  return terms.map(formatTerm).join(' ');
}

export function formatTerm({ qualifier, value, exclude, quoted }) {
  const name = NAME.exec(`${qualifier}:`)?.[1] === qualifier ? qualifier : quote(qualifier);
  const isPlain = !quoted && /^[^\s"]\S*$/u.test(value);
  return `${exclude ? '-' : ''}${name}:${isPlain ? value : quote(value)}`;
}

// PostgreSQL has no character 0, and half of a surrogate pair is no character.
function clean(text) {
  return String(text ?? '').slice(0, LONGEST).replaceAll('\0', ' ').toWellFormed();
}

function nextTerm(text) {
  const exclude = /^-\S/u.test(text);
  let at = exclude ? 1 : 0;
  let qualifier = NAME.exec(text.slice(at))?.[1];
  if (qualifier !== undefined) {
    at += qualifier.length + 1;
  } else {
    const quotedName = STRING.exec(text.slice(at));
    if (quotedName && quotedName[1] !== '' && text[at + quotedName[0].length] === ':') {
      qualifier = unquote(quotedName[1]);
      at += quotedName[0].length + 1;
    }
  }
  const string = STRING.exec(text.slice(at));
  const value = string ? unquote(string[1]) : WORD.exec(text.slice(at))?.[0] ?? '';
  const length = at + (string ? string[0].length : value.length);
  qualifier ??= value.startsWith('/') ? 'endpoint' : 'key';
  return [{ qualifier, value, exclude, quoted: Boolean(string) }, Math.max(length, 1)];
}

const quote = text => `"${text.replace(/["\\]/gu, '\\$&')}"`;
const unquote = text => text.replace(/\\(.)/gsu, '$1');
