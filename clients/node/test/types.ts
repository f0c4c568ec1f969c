// Compiled, never run: the type declarations against those of the frameworks.

import { currentContext, enterContext, mergeContext, setContext, withContext } from 'bemi';
import { setContext as setFastifyContext } from 'bemi/fastify';
import { setContext as setHonoContext } from 'bemi/hono';
import { contextInterceptor } from 'bemi/nestjs';
import { hook } from 'bemi/pg';
import { hook as hookPostgres } from 'bemi/postgres';
import { setContext as setTrpcContext } from 'bemi/trpc';
import pg from 'pg';

interface Request { url: string; body: unknown; user?: { id: number } }
interface Reply { end(): void }

export const middleware: (req: Request, res: Reply, next: (error?: unknown) => void) => void = setContext((req: Request) => ({
  endpoint: req.url,
  params: req.body,
  userId: req.user?.id,
}));
setContext(async (req: Request, res: Reply) => (req.user ? { user: req.user.id } : null));
// @ts-expect-error a context is an object
setContext(() => 1);

interface Job { id: number }
const job: Job = { id: 1 };
enterContext(job);
enterContext(null);
mergeContext({ step: 2 });
// @ts-expect-error a context is an object
enterContext('user 1');
export const user: unknown = currentContext()?.user;

export async function read(): Promise<number> {
  const result: string = await withContext({ a: 1 }, async () => 'x');
  const none: void = withContext(null, () => {});
  // As the query builders of ORMs.
  const lazy: { then<T = { affectedRows: number }>(onfulfilled?: ((value: { affectedRows: number }) => T) | null): Promise<T> } = Promise.resolve({ affectedRows: 1 });
  const inserted: Promise<{ affectedRows: number }> = withContext({ a: 1 }, () => lazy);
  return result.length + (await inserted).affectedRows + Number(none);
}

export const sameDriver: typeof pg = hook(pg);
declare const postgres: (url: string) => { end(): Promise<void> };
export const ended: Promise<void> = hookPostgres(postgres)('postgres://localhost').end();
// @ts-expect-error no driver
hookPostgres({});

export { contextInterceptor, setFastifyContext, setHonoContext, setTrpcContext };
