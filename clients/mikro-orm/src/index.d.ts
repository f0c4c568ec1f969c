import type { EntityManager, FilterQuery, FindOptions } from '@mikro-orm/core' with { 'resolution-mode': 'import' };

/** Who changes the rows and why: any value that JSON.stringify() converts to an object. */
export type BemiContext = object;

/** No context: changes are stored as if none had been set. */
type NoContext = null | undefined;

/**
 * Middleware for Express. The request is handled with the context that `callback` returns, or that its
 * promise resolves to. It is called once for each request, so use it after the middleware that parses
 * bodies and identifies users.
 */
export function setContext<Request = any, Response = any>(
  callback: (req: Request, res: Response) => BemiContext | NoContext | Promise<BemiContext | NoContext>,
): (req: Request, res: Response, next: (error?: any) => void) => void;

/**
 * Sets the context from here on, for the rest of this asynchronous execution and all that it starts.
 * It replaces the current context. Prefer withBemiContext() for work that has an end.
 */
export function bemiContext(context: BemiContext | NoContext): void;

/** The same, but keeps those keys of the context in force that `context` does not have. */
export function mergeBemiContext(context: BemiContext | NoContext): void;

/**
 * Calls the function with this context, and returns its result. After that, the former context is in force again.
 * A result with `then` that is no promise, such as MikroORM's query builder, starts when it is awaited. So it is
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
  /** Name of the source that the change was read from, `main` by default. */
  source: string;
  database: string;
  schema: string;
  table: string;
  /** Text of the key; a JSON array of texts if it has several columns, null if there is no key. */
  primaryKey: string | null;
  operation: Operation;
  /** The row before; {} if there was none. */
  before: Record<string, any>;
  /** The row after; {} if there is none. */
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

/** The filter as a condition on Change, for your own queries. */
export function whereChange(filter?: ChangeFilter): FilterQuery<Change>;

/** Changes in the order of their commits, or in that of `options`. */
export function findChanges(
  em: EntityManager,
  filter?: ChangeFilter,
  options?: FindOptions<Change, never, any, any>,
): Promise<Change[]>;
