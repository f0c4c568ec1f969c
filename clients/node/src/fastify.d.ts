import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ContextResult } from './index.js';

/**
 * Each request is handled with the context that `callback` returns. It is called after all hooks of the request that
 * run before its handler, so it can use the user and the body. Call this before the routes are added.
 */
export function setContext(
  app: { addHook: unknown; routing: unknown },
  callback: (request: FastifyRequest, reply: FastifyReply) => ContextResult,
): void;
