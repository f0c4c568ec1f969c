import type { ContextResult } from './index.js';

/** Middleware for Hono. The request is handled with the context that `callback` returns, so use it after the middleware that identifies users. */
export function setContext<C = any>(
  callback: (c: C) => ContextResult,
): (c: C, next: () => Promise<void>) => Promise<void>;
