// The context of each request of Hono, and of other frameworks whose middleware is (c, next): Koa.

'use strict';

const { runWith, whenContext } = require('./context.js');

const setContext = callback => (c, next) => whenContext(callback, [c], text => runWith(text, next));

exports.setContext = setContext;
