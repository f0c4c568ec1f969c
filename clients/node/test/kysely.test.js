// Kysely. Its builders run with execute().

import assert from 'node:assert/strict';
import 'bemi/pg';
import { Kysely, PostgresDialect, sql } from 'kysely';
import pg from 'pg';
import Cursor from 'pg-cursor';
import { versionOf } from './setup.js';
import { testStack } from './stack.js';

testStack({
  name: 'Kysely',
  version: versionOf('kysely'),
  open: options => new Kysely({ dialect: new PostgresDialect({ pool: new pg.Pool(options), cursor: Cursor }) }),
  close: db => db.destroy(),
  ways: {
    insert: [1, (db, ids, task) => db.insertInto('todo').values({ task: task() }).execute()],
    'insert, returning': [1, (db, ids, task) => db.insertInto('todo').values({ task: task() }).returningAll().executeTakeFirstOrThrow()],
    'insert of several rows': [2, (db, ids, task) => db.insertInto('todo').values([{ task: task() }, { task: task() }]).execute()],
    update: [3, (db, ids) => db.updateTable('todo').set({ done: true }).where('id', 'in', ids).execute()],
    delete: [2, (db, ids) => db.deleteFrom('todo').where('id', 'in', ids.slice(1)).execute()],
    upsert: [2, async (db, [id], task) => {
      for (const key of [id, -id]) {
        const text = task();
        await db.insertInto('todo').values({ id: key, task: text }).onConflict(oc => oc.column('id').doUpdateSet({ task: text })).execute();
      }
    }],
    'merge into': [1, async (db, [id]) => {
      const { rows: [{ version }] } = await sql`select current_setting('server_version_num')::int as version`.execute(db);
      if (version < 150000) return db.deleteFrom('todo').where('id', '=', id).execute();
      return db.mergeInto('todo').using('todo as other', 'todo.id', 'other.id').whenMatchedAnd('other.id', '=', id).thenDelete().execute();
    }],
    raw: [1, (db, [id]) => sql`update todo set done = true where id = ${id}`.execute(db)],
    with: [3, (db, ids) => db.with('gone', db => db.deleteFrom('todo').where('id', 'in', ids).returning('id')).selectFrom('gone').selectAll().execute()],
    'a stream that writes': [2, async (db, ids, task) => {
      let count = 0;
      for await (const _ of db.insertInto('todo').values([{ task: task() }, { task: task() }]).returning('id').stream(1)) count++;
      assert.equal(count, 2);
    }],
    'a connection': [1, (db, [id]) => db.connection().execute(db => db.deleteFrom('todo').where('id', '=', id).execute())],
  },
  insert: (db, task) => db.insertInto('todo').values({ task }).execute(),
  transaction: (db, work) => db.transaction().execute(work),
  savepoint: async (trx, work) => {
    await sql`savepoint a`.execute(trx);
    try {
      await work(trx);
    } catch (error) {
      await sql`rollback to a`.execute(trx);
      throw error;
    }
  },
});
