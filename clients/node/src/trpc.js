// The context of each call of tRPC, also of each in a batch.

'use strict';

const { runWith, whenContext } = require('./context.js');

const setContext = callback => options => whenContext(callback, [options], text => runWith(text, () => options.next()));

exports.setContext = setContext;
