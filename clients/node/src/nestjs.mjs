import entry from './nestjs.js';

export const { contextInterceptor } = entry;
