// The objects of index.js, for import.

import bemi from './index.js';

export const { setContext, withContext, enterContext, mergeContext, currentContext, addContext } = bemi;
