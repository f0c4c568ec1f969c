// The context of each call of tRPC, also of each in a batch.

'use strict';

const { bindGenerator, runWith, whenContext } = require('./context.js');

// The generator of a subscription runs when the middleware has ended.
async function run(text, next) {
  const result = await runWith(text, next);
  bindGenerator(result?.data, text);
  return result;
}

const setContext = callback => options => whenContext(callback, [options], text => run(text, () => options.next()));

exports.setContext = setContext;
