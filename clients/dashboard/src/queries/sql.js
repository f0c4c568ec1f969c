// SQL with bound parameters, composed of fragments:
//
//     const condition = sql`c.operation = ${bind('UPDATE', 'text')}`;
//     const query = sql`SELECT id FROM bemi.changes c WHERE ${condition}`;
//     client.query(query.toQuery());      // { text: '... = $1::text', values: ['UPDATE'] }
//     query.toText();                     // the same for people, with the values written as literals
//
// A value that is neither a fragment nor bound is a mistake, and throws. So no value becomes a part of the text.

class Bound {
  constructor(value, type) {
    this.value = value;
    this.type = type;
  }
}

export const bind = (value, type) => new Bound(value, type);

class Fragment {
  // texts has one element more than values, as in a tagged template.
  constructor(texts, values) {
    this.texts = texts;
    this.values = values;
  }

  #write(bound) {
    return this.texts.reduce((text, next, i) => {
      const value = this.values[i - 1];
      return text + (value instanceof Fragment ? value.#write(bound) : bound(value)) + next;
    });
  }

  toQuery() {
    const values = [];
    const text = this.#write(({ value, type }) => `$${values.push(value)}::${type}`);
    return { text, values };
  }

  toText() {
    return this.#write(({ value, type }) => literal(value, type));
  }
}

export function sql(texts, ...values) {
  for (const value of values) {
    if (!(value instanceof Fragment || value instanceof Bound)) {
      throw new TypeError('a value in SQL must be bound: bind(value, type)');
    }
  }
  return new Fragment([...texts], values);
}

// A table where SQL takes no parameter, as the type of its rows. The quotes keep a name what it is.
export const named = table => new Fragment([quotedName(table)], []);

export const quotedName = ({ schema, name }) => [schema, name].map(quoteName).join('.');

const quoteName = name => `"${name.replaceAll('"', '""')}"`;

export function join(fragments, separator) {
  if (fragments.length === 0) return new Fragment([''], []);
  return new Fragment(['', ...fragments.slice(1).map(() => separator), ''], fragments);
}

function literal(value, type) {
  if (value === null || value === undefined) return `NULL::${type}`;
  if (Array.isArray(value)) return `ARRAY[${value.map(quote).join(', ')}]::${type}`;
  if (type === 'integer') return String(value);
  if (type === 'interval') return `interval ${quote(value)}`;
  // Arguments of functions have their types, so a plain literal will do.
  const quoted = quote(value instanceof Date ? value.toISOString() : value);
  return ['text', 'name', 'regclass', 'jsonb', 'timestamptz', 'uuid'].includes(type) ? quoted : `${quoted}::${type}`;
}

function quote(value) {
  const text = String(value).replaceAll("'", "''");
  return text.includes('\\') ? ` E'${text.replaceAll('\\', '\\\\')}'` : `'${text}'`;
}
