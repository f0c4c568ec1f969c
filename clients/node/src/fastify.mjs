import entry from './fastify.js';

export const { setContext } = entry;
