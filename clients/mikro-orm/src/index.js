// bemi-mikro-orm: says in MikroORM's own queries who changes the rows, and why.
//
//   text.js       a context as text that is safe in a comment of any query
//   context.js    which context the running code has
//   query.js      puts the one into the other: MikroORM's option onQuery
//   change.js     reading bemi.changes
//   migration.js  the migration that `npx bemi migration:create` writes

export { setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext } from './context.js';
export { onQuery } from './query.js';
export { Change, findChanges, whereChange } from './change.js';
