import entry from './trpc.js';

export const { setContext } = entry;
