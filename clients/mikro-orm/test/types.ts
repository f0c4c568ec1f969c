// Compiled, never run: the type declarations against MikroORM's own, and Express's shape of a middleware.

import { defineConfig, type EntityManager } from '@mikro-orm/postgresql';
import {
  bemiContext, Change, currentBemiContext, findChanges, mergeBemiContext, onQuery, setContext, whereChange, withBemiContext,
} from 'bemi-mikro-orm';

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

defineConfig({ dbName: 'x', entities: [Change], onQuery });
defineConfig({ dbName: 'x', onQuery: (sql, params) => onQuery(`${sql} /* trace */`, params) });

interface Job { id: number }
const job: Job = { id: 1 };
bemiContext(job);
bemiContext(null);
mergeBemiContext({ step: 2 });
// @ts-expect-error a context is an object
bemiContext('user 1');
const user: unknown = currentBemiContext()?.user;

export async function read(em: EntityManager): Promise<number> {
  const changes = await findChanges(
    em,
    { table: 'todo', key: 1, context: { userId: 1, user }, from: new Date(), to: '2026-01-01', operation: 'UPDATE' },
    { orderBy: { id: 'desc' }, limit: 10 },
  );
  // @ts-expect-error no such operation
  whereChange({ operation: 'INSERT' });
  const own: Change[] = await em.find(Change, whereChange({ table: 'todo' }));
  const result: string = await withBemiContext({ a: 1 }, async () => changes[0].after.task);
  const none: void = withBemiContext(null, () => {});
  // As the query builder of MikroORM 6.
  const lazy: { then<T = { affectedRows: number }>(onfulfilled?: ((value: { affectedRows: number }) => T) | null): Promise<T> } = Promise.resolve({ affectedRows: 1 });
  const inserted: Promise<{ affectedRows: number }> = withBemiContext({ a: 1 }, () => lazy);
  const time: number = changes[0].committedAt.getTime();
  return own.length + result.length + time + (await inserted).affectedRows + Number(none);
}
