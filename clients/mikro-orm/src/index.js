// bemi-mikro-orm: adds to MikroORM's queries who changes the rows, and why.
//
//   text.js       a context as text that is safe in a comment of any query
//   context.js    which context the running code has
//   statements.js where the statements of a text end, and which has a context already
//   query.js      puts the one into the other: MikroORM's option onQuery
//   change.js     reading bemi.changes
//   migration.js  the migration that `npx bemi migration:create` writes
//
// All of it is CommonJS, which every version of Node, Jest and TypeScript can load. index.mjs exports the
// same objects for import.

'use strict';

const { setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext } = require('./context.js');
const { onQuery } = require('./query.js');
const { Change, findChanges, whereChange } = require('./change.js');

module.exports = {
  setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext, onQuery, Change, findChanges, whereChange,
};
