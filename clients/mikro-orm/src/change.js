// Reading the history.

'use strict';

const { EntitySchema } = require('@mikro-orm/core');
const { storable } = require('bemi/text');

class Change {}

/*
 * A virtual entity, because MikroORM would create a table for any other one. It can only be read.
 * PostgreSQL pulls the subquery up, so conditions use the indexes. Creating the schema is enough, because
 * MikroORM finds the entity by its class.
 */
new EntitySchema({
  class: Change,
  expression:
    'select id, source, database, schema, "table", primary_key, operation, before, after, context,' +
    ' committed_at, queued_at, created_at, transaction_id, position from bemi.changes',
  properties: {
    id: { type: 'uuid' },
    source: { type: 'text' },
    database: { type: 'text' },
    schema: { type: 'text' },
    table: { type: 'text' },
    primaryKey: { type: 'text', fieldName: 'primary_key', nullable: true },
    operation: { type: 'text' },
    before: { type: 'json' },
    after: { type: 'json' },
    context: { type: 'json' },
    committedAt: { type: 'datetime', fieldName: 'committed_at' },
    queuedAt: { type: 'datetime', fieldName: 'queued_at' },
    createdAt: { type: 'datetime', fieldName: 'created_at' },
    transactionId: { type: 'bigint', fieldName: 'transaction_id' },
    position: { type: 'bigint' },
  },
});

// As bemi writes it: the text of one column, or a JSON array of texts, as jsonb prints it, of several.
const keyText = key =>
  Array.isArray(key) ? `[${key.map(part => JSON.stringify(String(part))).join(', ')}]` : String(key);

// If it were left out, { userId: req.user?.id } would find the changes of all users when nobody is signed in.
const nullForUndefined = (name, value) => (value === undefined ? null : value);

function whereChange({ schema, table, key, operation, context, from, to } = {}) {
  const where = {};
  if (schema !== undefined) where.schema = schema;
  if (table !== undefined) where.table = table;
  // No text in PostgreSQL has a NUL. A search for one finds nothing, and does not fail.
  if (key !== undefined) where.primaryKey = key === null ? null : keyText(key).replaceAll('\0', '\ufffd');
  if (operation !== undefined) where.operation = operation;
  if (context !== undefined) where.context = { $contains: JSON.parse(storable(JSON.stringify(context, nullForUndefined))) };
  if (from !== undefined || to !== undefined) {
    where.committedAt = {
      ...(from !== undefined && { $gte: new Date(from) }),
      ...(to !== undefined && { $lt: new Date(to) }),
    };
  }
  return where;
}

// The order of id is the order of the commits.
const findChanges = (em, filter, options) =>
  em.find(Change, whereChange(filter), { orderBy: { id: 'asc' }, ...options });

exports.Change = Change;
exports.whereChange = whereChange;
exports.findChanges = findChanges;
