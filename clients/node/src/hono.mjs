import entry from './hono.js';

export const { setContext } = entry;
