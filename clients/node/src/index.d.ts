/** Who changes the rows and why: any value that JSON.stringify() converts to an object. */
export type Context = object;

/** No context: changes are stored as if none had been set. */
export type NoContext = null | undefined;

/** What a callback returns, or its promise. */
export type ContextResult = Context | NoContext | Promise<Context | NoContext>;

/**
 * Middleware for Express. The request is handled with the context that `callback` returns, or that its
 * promise resolves to. It is called once for each request, so use it after the middleware that parses
 * bodies and identifies users.
 */
export function setContext<Request = any, Response = any>(
  callback: (req: Request, res: Response) => ContextResult,
): (req: Request, res: Response, next: (error?: any) => void) => void;

/**
 * Calls the function with this context, and returns its result. After that, the former context is in force again.
 * A result with `then` that does not run yet, such as a query builder, starts when it is awaited. So it is
 * awaited here, with this context, and the promise of its value is returned. A generator has this context whenever it runs.
 */
export function withContext<Result>(
  context: Context | NoContext,
  callback: () => Result,
): Result extends { then(...args: any): any } ? Promise<Awaited<Result>> : Result;

/**
 * Sets the context from here on, for the rest of this asynchronous execution and all that it starts.
 * It replaces the current context. Prefer withContext() for work that has an end.
 */
export function enterContext(context: Context | NoContext): void;

/**
 * The same, but keeps those keys of the context in force that `context` does not have. If `context` cannot be converted,
 * it adds the key `bemiError`.
 */
export function mergeContext(context: Context | NoContext): void;

/** The context in force as it will be stored, undefined if there is none. */
export function currentContext(): Record<string, unknown> | undefined;

/**
 * The text of a query, with the context in force behind each statement that changes rows. For drivers that are
 * not hooked.
 */
export function addContext(sql: string): string;
