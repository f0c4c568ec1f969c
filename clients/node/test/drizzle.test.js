// Drizzle over node-postgres, where its prepared queries are named statements, and over postgres.js.

import 'bemi/pg';
import { hook } from 'bemi/postgres';
import { eq, inArray, sql } from 'drizzle-orm';
import { drizzle as overPg } from 'drizzle-orm/node-postgres';
import { boolean, pgTable, serial, text } from 'drizzle-orm/pg-core';
import { drizzle as overPostgres } from 'drizzle-orm/postgres-js';
import pg from 'pg';
import postgres from 'postgres';
import { versionOf } from './setup.js';
import { testStack } from './stack.js';

hook(postgres);

const todo = pgTable('todo', { id: serial().primaryKey(), task: text().notNull(), done: boolean().notNull().default(false) });

const stack = {
  version: versionOf('drizzle-orm'),
  close: db => db.$client.end(),
  ways: {
    insert: [1, (db, ids, task) => db.insert(todo).values({ task: task() })],
    'insert, returning': [1, (db, ids, task) => db.insert(todo).values({ task: task() }).returning()],
    'insert of several rows': [2, (db, ids, task) => db.insert(todo).values([{ task: task() }, { task: task() }])],
    update: [3, (db, ids) => db.update(todo).set({ done: true }).where(inArray(todo.id, ids))],
    delete: [2, (db, ids) => db.delete(todo).where(inArray(todo.id, ids.slice(1)))],
    upsert: [2, async (db, [id], task) => {
      for (const key of [id, -id]) {
        const text = task();
        await db.insert(todo).values({ id: key, task: text }).onConflictDoUpdate({ target: todo.id, set: { task: text } });
      }
    }],
    raw: [1, (db, [id]) => db.execute(sql`update todo set done = true where id = ${id}`)],
    with: [1, (db, [id]) => {
      const gone = db.$with('gone').as(db.delete(todo).where(eq(todo.id, id)).returning());
      return db.with(gone).select().from(gone);
    }],
    'prepared without a name': [1, (db, [id]) => db.delete(todo).where(eq(todo.id, sql.placeholder('id'))).prepare().execute({ id })],
  },
  insert: (db, task) => db.insert(todo).values({ task }),
  lazy: (db, task) => db.insert(todo).values({ task }),
  transaction: (db, work) => db.transaction(work),
  savepoint: (tx, work) => tx.transaction(work),
};

// The queries, prepared once for each connection or transaction that executes them.
const queries = new WeakMap();

function prepared(db, task) {
  if (!queries.has(db)) queries.set(db, db.insert(todo).values({ task: sql.placeholder('task') }).prepare('insert_todo'));
  return queries.get(db).execute({ task });
}

testStack({ ...stack, name: 'Drizzle, node-postgres', open: options => overPg(new pg.Pool(options)), prepared });
testStack({
  ...stack,
  name: 'Drizzle, postgres.js',
  open: ({ pooled, ...options }) => overPostgres(postgres({ onnotice: () => {}, prepare: !pooled, ...options })),
});
