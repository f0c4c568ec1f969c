// The objects of index.js, for import.

import bemi from './index.js';

export const {
  setContext, bemiContext, mergeBemiContext, withBemiContext, currentBemiContext, onQuery, Change, findChanges, whereChange,
} = bemi;
