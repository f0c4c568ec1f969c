export * from './trpc.js';
