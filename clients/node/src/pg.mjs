import entry from './pg.js';

export const { hook } = entry;
