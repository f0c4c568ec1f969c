import type { ContextResult } from './index.js';

/** Middleware for tRPC. The call is handled with the context that `callback` returns, so use it after the middleware that identifies users. */
export function setContext<Options extends { next(): Promise<any> } = any>(
  callback: (options: Options) => ContextResult,
): (options: Options) => ReturnType<Options['next']>;
