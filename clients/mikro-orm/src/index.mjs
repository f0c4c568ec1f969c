// For those who import: the objects of index.js.

import bemi from './index.js';

export const {
  setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext, onQuery, Change, findChanges, whereChange,
} = bemi;
