// Changes as lines of a file.

import { columns } from '../queries/export.js';

const JSON_COLUMNS = new Set(['before', 'after', 'context']);

export const formats = {
  csv: { type: 'text/csv; charset=utf-8; header=present', header: `\ufeff${columns.join(',')}\r\n`, line: row => `${columns.map(column => csvValue(row[column])).join(',')}\r\n` },
  jsonl: { type: 'application/x-ndjson; charset=utf-8', header: '', line: row => `{${columns.map(column => member(column, row[column])).join(',')}}\n` },
};

// A spreadsheet takes a text that begins like this for a formula, and a formula can send what it finds elsewhere. An apostrophe makes it a text
// again. JSON lines have each value as it is.
const FORMULA = /^[=+@\t\r\n]|^-(?!\d+(?:\.\d+)?$)/;

function csvValue(value) {
  if (value === null) return '';
  const text = FORMULA.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// The JSON of the server is not parsed, because JavaScript would round its numbers.
const member = (column, value) => `"${column}":${JSON_COLUMNS.has(column) ? value : JSON.stringify(value)}`;
