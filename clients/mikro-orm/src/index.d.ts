import type { EntityManager, FilterQuery, FindOptions } from '@mikro-orm/core' with { 'resolution-mode': 'import' };

/** Whatever says who changes the rows and why; anything that JSON.stringify() makes an object of. */
export type BemiContext = object;

/** What is no context: changes are stored as if none had been set. */
type NoContext = null | undefined;

/**
 * Middleware for Express. All that handles the request has the context that `callback` returns, or
 * that its promise resolves to. It is called once for each request, so use it after the middleware
 * that parses bodies and knows users.
 */
export function setContext<Request = any, Response = any>(
  callback: (req: Request, res: Response) => BemiContext | NoContext | Promise<BemiContext | NoContext>,
): (req: Request, res: Response, next: (error?: any) => void) => void;

/**
 * Sets the context from here on, for the rest of this asynchronous execution and all that it starts.
 * It replaces the one that there is. Prefer withBemiContext() where a piece of work has an end.
 */
export function bemiContext(context: BemiContext | NoContext): void;

/** The same, but keeps those keys of the context in force that `context` does not have. */
export function mergeBemiContext(context: BemiContext | NoContext): void;

/**
 * Calls the function with this context, and returns what it returns. What was in force before is again, after it.
 * A result with `then` that is no promise, such as MikroORM's query builder, begins its work when it is awaited: it is
 * awaited here, with this context, and the promise of its value is returned.
 */
export function withBemiContext<Result>(
  context: BemiContext | NoContext,
  callback: () => Result,
): Result extends { then(...args: any): any } ? Promise<Awaited<Result>> : Result;

/** The context in force as it will be stored, undefined if there is none. */
export function currentBemiContext(): Record<string, unknown> | undefined;

/** MikroORM's option of the same name: appends the context to queries that change rows. */
export function onQuery(sql: string, params?: readonly unknown[]): string;

export type Operation = 'CREATE' | 'UPDATE' | 'DELETE' | 'TRUNCATE';

/** One row inserted, updated or deleted, or one table truncated: a row of bemi.changes. Read only. It goes into the option entities. */
export class Change {
  id: string;
  /** Name of the source that it was read from, `main` by default. */
  source: string;
  database: string;
  schema: string;
  table: string;
  /** Text of the key; a JSON array of texts where it has several columns, null where there is no key. */
  primaryKey: string | null;
  operation: Operation;
  /** The row before; {} where there was none. */
  before: Record<string, any>;
  /** The row after; {} where there is none. */
  after: Record<string, any>;
  context: Record<string, any>;
  committedAt: Date;
  queuedAt: Date;
  createdAt: Date;
  transactionId: bigint;
  /** Position in the write-ahead log. */
  position: bigint;
}

export interface ChangeFilter {
  schema?: string;
  table?: string;
  /** Value of the primary key; of several columns, an array in the key's order; null for rows that have no key. */
  key?: unknown;
  operation?: Operation;
  /** Changes whose context has these keys with these values; undefined counts as null. */
  context?: Record<string, unknown>;
  /** Committed at this time or later. */
  from?: Date | string | number;
  /** Committed before this time. */
  to?: Date | string | number;
}

/** The filter as a condition on Change, for queries of your own. */
export function whereChange(filter?: ChangeFilter): FilterQuery<Change>;

/** Changes in the order of their commits, or as `options` say. */
export function findChanges(
  em: EntityManager,
  filter?: ChangeFilter,
  options?: FindOptions<Change, never, any, any>,
): Promise<Change[]>;
