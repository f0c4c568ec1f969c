// The context of each request of Fastify.
//
// Fastify runs a request's hooks in the order onRequest, preParsing, preValidation, preHandler, and of each those of the
// application, of the plugins and of the route, in the order in which they were added. The user and the body are known for
// certain only after all of them. So the context is set by the last preHandler of the route, which onRoute appends.

'use strict';

const { runWith, whenContext } = require('./context.js');

const lists = hooks => (hooks === undefined ? [] : [hooks].flat());

const marked = Symbol('bemi');

function setContext(app, callback) {
  const setIt = (request, reply, done) => {
    whenContext(callback, [request, reply], text => runWith(text, done));
  };
  app.addHook('onRoute', route => {
    route.preHandler = [...lists(route.preHandler), setIt];
    route.config = { ...route.config, [marked]: true };
  });
  // For routes that are older than this hook.
  app.addHook('preHandler', (request, reply, done) => {
    if (request.routeOptions.config?.[marked]) done();
    else setIt(request, reply, done);
  });
}

exports.setContext = setContext;
