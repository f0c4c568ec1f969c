// bemi: adds to an application's queries who changes the rows, and why.
//
//   text.js        a context as text that is safe in a comment of any query
//   context.js     which context the running code has
//   statements.js  where the statements of a text end, and which has a context already
//   query.js       puts the one into the other
//   pg.js          hooks node-postgres, and so the ORMs on top of it
//   copies.js      finds the copies of it
//   postgres.js    hooks postgres.js
//   fastify.js nestjs.js hono.js trpc.js
//                  set the context of a request. The middleware of Express is in context.js
//
// All of it is CommonJS, which every version of Node, Jest and TypeScript can load. The files *.mjs export the
// same objects for import.

'use strict';

const { setContext, withContext, enterContext, mergeContext, currentContext } = require('./context.js');
const { addContext } = require('./query.js');

module.exports = { setContext, withContext, enterContext, mergeContext, currentContext, addContext };
