// The context of each request of NestJS.
//
// Guards find the user, and they run after all middleware. So this is an interceptor, which runs after the guards. The handler
// runs when somebody subscribes to what the interceptor returns.

'use strict';

const { runWith, whenContext } = require('./context.js');

function requestOf(execution) {
  if (execution.getType() === 'http') return execution.switchToHttp().getRequest();
  // Arguments of a resolver: the root, the arguments, the context, the info.
  if (execution.getType() === 'graphql') return execution.getArgByIndex(2)?.req;
  return undefined;
}

// Not by a class of rxjs, because this package depends on nothing.
function observableWith(text, next) {
  const handled = runWith(text, () => next.handle());
  return new handled.constructor(subscriber => runWith(text, () => handled.subscribe(subscriber)));
}

/** An interceptor. Messages and other requests that are neither of HTTP nor of GraphQL pass without a context. */
const contextInterceptor = callback => ({
  intercept(execution, next) {
    const request = requestOf(execution);
    if (request === undefined) return next.handle();
    return whenContext(callback, [request, execution], text => observableWith(text, next));
  },
});

exports.contextInterceptor = contextInterceptor;
