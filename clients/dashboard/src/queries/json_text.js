// The text of a JSON value on lines, as jsonb_pretty() writes it. The value is not parsed, so its numbers stay exact, and its text may be cut.

// Deeper levels stay on one line. Otherwise, blanks would make megabytes of a value that consists of brackets.
const DEEPEST = 20;
const INDENT = '    ';
// Texts, brackets, commas, and all between them.
const TOKEN = /"(?:[^"\\]|\\.)*"?|[[\]{},]|[^"[\]{},]+/gs;

export function indent(text) {
  const parts = [];
  let depth = 0;
  let before = '';
  const newLine = () => (depth <= DEEPEST ? `\n${INDENT.repeat(depth)}` : '');
  for (const [token] of text.matchAll(TOKEN)) {
    const isEnd = token === ']' || token === '}';
    if (isEnd) depth--;
    // What is in brackets begins a line. If there is nothing in them, they stay together.
    if (isEnd ? before !== '[' && before !== '{' : before === '[' || before === '{') parts.push(newLine());
    parts.push(before === ',' ? token.trimStart() : token);
    if (token === '[' || token === '{') depth++;
    if (token === ',') parts.push(depth <= DEEPEST ? newLine() : ' ');
    before = token;
  }
  return parts.join('');
}
