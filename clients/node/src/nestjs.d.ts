import type { ContextResult } from './index.js';

/**
 * An interceptor for NestJS. Requests of HTTP and GraphQL are handled with the context that `callback` returns. It is
 * called after the guards, so it can use the user and the body.
 */
export function contextInterceptor<Request = any, Execution = any>(
  callback: (request: Request, execution: Execution) => ContextResult,
): { intercept(execution: any, next: { handle(): any }): any };
