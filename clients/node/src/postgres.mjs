import entry from './postgres.js';

export const { hook } = entry;
