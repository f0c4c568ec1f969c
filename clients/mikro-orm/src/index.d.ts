import type { Context } from 'bemi';
import type { EntityManager, FilterQuery, FindOptions } from '@mikro-orm/core' with { 'resolution-mode': 'import' };

/** Who changes the rows and why: any value that JSON.stringify() converts to an object. */
export type BemiContext = Context;

export { setContext, withContext as withBemiContext, enterContext as bemiContext, mergeContext as mergeBemiContext, currentContext as currentBemiContext } from 'bemi';

/**
 * MikroORM's option of the same name: appends the context to queries that change rows. It is not needed, because the
 * driver is hooked. With it, the context is in MikroORM's log of queries.
 */
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
