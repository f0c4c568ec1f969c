// bemi-mikro-orm: the package bemi for MikroORM.
//
//   change.js     reading bemi.changes
//   migration.js  the migration that `npx bemi migration:create` writes
//
// The context itself is that of the package bemi. bemi/pg hooks the copy of node-postgres that MikroORM uses, so nothing
// has to be configured. onQuery is for configurations that have it: it adds the context before MikroORM logs the query. A
// query that has a context already gets no second one from the hook.
//
// All of it is CommonJS, which every version of Node, Jest and TypeScript can load. index.mjs exports the
// same objects for import.

'use strict';

require('bemi/pg');
const { addContext, currentContext, enterContext, mergeContext, setContext, withContext } = require('bemi');
const { Change, findChanges, whereChange } = require('./change.js');

module.exports = {
  setContext,
  bemiContext: enterContext,
  mergeBemiContext: mergeContext,
  withBemiContext: withContext,
  currentBemiContext: currentContext,
  onQuery: sql => addContext(sql),
  Change,
  findChanges,
  whereChange,
};
