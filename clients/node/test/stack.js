// What every stack of a driver and an ORM must do, as tests: each row that an application changes has the context of the
// code that changes it, and a row that it changes without a context has none.
//
// A stack is an object:
//
//   name, version
//   open(options)       connects; options are those of node-postgres, with "max" connections
//   close(db)
//   ways                { name: [number of changes, (db, ids) => ...] }, the ways in which it writes. "ids" are three rows
//   insert(db, task)    a row, and nothing else
//   lazy(db, task)      the same as an object that runs when it is awaited; if it has that
//   transaction(db, work)
//                       calls work(tx), with tx as db
//   savepoint(tx, work) the same within a transaction; if it has that
//   prepared(db, task)  the same as insert(), as a prepared statement whose text is always the same; if it has that
//   alwaysPrepares      it cannot be used behind PgBouncer in transaction mode, which knows no prepared statements before 1.21
//
// Each feature that passes must be in the table of docs/how-to/set-context/node.md. The last test of a stack is that the
// table has no more of it, and z-table.test.js tests that it has no stack that did not run.

import assert from 'node:assert/strict';
import { appendFileSync, readFileSync } from 'node:fs';
import test, { before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { withContext } from 'bemi';
import { assertAllHave, atEnd, changes, pooler, server, trackedDatabase } from './setup.js';

const PARALLEL = 40;

// The cells "yes" of the table of stacks, as { stack, version, feature }. The versions of a row are separated by commas.
export function readTable(markdown) {
  const [, section] = markdown.split(/^## Stacks$/m);
  const [, , ...features] = section.match(/^\|.*$/m)[0].split('|').map(cell => cell.trim());
  return [...section.matchAll(/^\| (?!-)(.*?) \|$/gm)].slice(1).flatMap(([, row]) => {
    const [stack, versions, ...cells] = row.split(/ *\| */);
    return versions.split(', ').flatMap(version => features.flatMap((feature, i) => (cells[i - 1] === 'yes' ? [{ stack, version, feature }] : [])));
  });
}

const documented = readTable(readFileSync(new URL('node.md', import.meta.url), 'utf8'));

const withoutPooler = !process.env.BEMI_POOLER && 'PgBouncer is not installed';

export function testStack(stack) {
  const database = `test_${stack.name.toLowerCase().replace(/\W+/g, '_')}`;
  const { insert } = stack;
  const passed = [];
  let client;
  let db;

  before(async () => {
    client = await trackedDatabase(database);
    db = await stack.open({ ...server(database), max: 4 });
    atEnd(() => stack.close(db));
  });

  // The table of the documentation must have it.
  const feature = (name, work, options = {}) =>
    test(`${stack.name} ${stack.version}: ${name}`, options, async () => {
      await work();
      assert.ok(documented.some(cell => cell.stack === stack.name && cell.version === stack.version && cell.feature === name),
        `the table in docs/how-to/set-context/node.md has no "yes" for ${stack.name} ${stack.version}: ${name}`);
      passed.push(name);
    });

  let counter = 0;
  let written = 0;
  const task = () => `task ${++counter}`;
  const marked = mark => changes(client, "coalesce(after ->> 'task', before ->> 'task') LIKE $1", [`${mark} %`]);

  // Rows without a context, made by another connection.
  const rows = async () =>
    (await client.query('INSERT INTO todo (task) VALUES ($1), ($2), ($3) RETURNING id', [task(), task(), task()])).rows.map(row => row.id);

  for (const [way, [count, write]] of Object.entries(stack.ways)) {
    test(`${stack.name}: ${way}`, async () => {
      const ids = await rows();
      const context = { way, note: "it's ? $1 %s :name */" };
      await withContext(context, () => write(db, ids, task));
      assertAllHave(context, await changes(client, 'context @> $1', [JSON.stringify({ way })]), count);
      written++;
    });
  }

  feature('context by itself', async () => {
    // The ways above, which must have passed before, and no row but theirs.
    assert.equal(written, Object.keys(stack.ways).length);
    await insert(db, 'none 1');
    await withContext({ a: 1 }, () => insert(db, 'some 1'));
    await insert(db, 'none 2');
    assertAllHave({}, await marked('none'), 2);
    assertAllHave({ a: 1 }, await marked('some'), 1);
  });

  const levels = async () => (await marked('level')).map(change => [(change.after.task ?? change.before.task).slice(6), change.context.level ?? 'none']);

  feature('transactions', async () => {
    await withContext({ level: 0 }, () => stack.transaction(db, async tx => {
      await insert(tx, 'level 0');
      await withContext(null, () => insert(tx, 'level none'));
      await insert(tx, 'level 0 after');
    }));
    await assert.rejects(withContext({ level: 4 }, () => stack.transaction(db, async tx => {
      await insert(tx, 'level 4');
      throw new Error('undo');
    })), /undo/);
    assert.deepEqual(await levels(), [['0', 0], ['none', 'none'], ['0 after', 0]]);
  });

  if (stack.savepoint) feature('savepoints', async () => {
    await client.query("DELETE FROM todo WHERE task LIKE 'level %'");
    const before = (await levels()).length;
    await withContext({ level: 0 }, () => stack.transaction(db, async tx => {
      await insert(tx, 'level 0');
      await withContext({ level: 1 }, () => stack.savepoint(tx, async inner => {
        await insert(inner, 'level 1');
        await withContext({ level: 2 }, () => insert(inner, 'level 2'));
      }));
      await assert.rejects(withContext({ level: 3 }, () => stack.savepoint(tx, async inner => {
        await insert(inner, 'level 3');
        throw new Error('undo');
      })), /undo/);
      await insert(tx, 'level 0 after');
    }));
    assert.deepEqual((await levels()).slice(before), [['0', 0], ['1', 1], ['2', 2], ['0 after', 0]]);
  });

  if (stack.lazy) {
    feature('jobs', async () => {
      await withContext({ job: 1 }, () => stack.lazy(db, 'job 1'));
      await withContext({ job: 2 }, async () => { await stack.lazy(db, 'job 2'); });
      const built = await withContext({ job: 3 }, () => ({ query: stack.lazy(db, 'job 3') }));
      // What counts is the code that runs it.
      await withContext({ job: 4 }, async () => { await built.query; });
      assert.deepEqual((await marked('job')).map(change => [change.after.task, change.context.job]), [['job 1', 1], ['job 2', 2], ['job 3', 4]]);
    });
  } else {
    feature('jobs', async () => {
      await Promise.all([1, 2, 3].map(job => withContext({ job }, async () => {
        await sleep(job);
        await insert(db, `job ${job}`);
      })));
      for (const { after, context } of await marked('job')) assert.deepEqual(context, { job: Number(after.task.slice(4)) });
    });
  }

  // Every piece of work has its own context and writes it into its rows.
  async function parallel(mark, db, prepared) {
    await Promise.all(Array.from({ length: PARALLEL }, (_, i) => withContext({ i }, async () => {
      await insert(db, `${mark} ${i} a`);
      await stack.transaction(db, async tx => {
        await insert(tx, `${mark} ${i} b`);
        await sleep(i % 3);
        await insert(tx, `${mark} ${i} c`);
      });
      if (i % 4 === 0) await withContext(null, () => insert(db, `${mark} none ${i}`));
      await insert(db, `${mark} ${i} d`);
      await prepared?.(db, `${mark} ${i} e`);
    })));
    const found = await marked(mark);
    assert.equal(found.length, PARALLEL * (prepared ? 5 : 4) + PARALLEL / 4);
    for (const { after, context } of found) {
      const [, i] = after.task.split(' ');
      assert.deepEqual(context, i === 'none' ? {} : { i: Number(i) }, after.task);
    }
  }

  feature('full pool', () => parallel('parallel', db, stack.prepared));

  if (stack.prepared) {
    feature('prepared statements', async () => {
      const { prepared } = stack;
      for (const a of [1, 2, undefined, 2]) await withContext(a && { a }, () => prepared(db, `prepared ${task()} ${a}`));
      await withContext({ a: 3 }, () => stack.transaction(db, async tx => {
        await prepared(tx, `prepared ${task()} 3`);
        await withContext(null, () => insert(tx, `prepared ${task()} undefined`));
        await withContext(null, () => prepared(tx, `prepared ${task()} undefined`));
        await withContext({ a: 4 }, () => prepared(tx, `prepared ${task()} 4`));
        await insert(tx, `prepared ${task()} 3`);
      }));
      const found = await marked('prepared');
      assert.equal(found.length, 9);
      for (const { after, context } of found) assert.equal(String(context.a), after.task.split(' ').at(-1), after.task);
    });
  }

  if (!stack.alwaysPrepares) feature('PgBouncer', async () => {
    const behind = await stack.open({ ...pooler(database), max: 20, pooled: true });
    try {
      await parallel('pooled', behind);
    } finally {
      await stack.close(behind);
    }
  }, { skip: withoutPooler });

  test(`${stack.name} ${stack.version}: the table in docs/how-to/set-context/node.md has no other "yes"`, () => {
    const cells = documented.filter(cell => cell.stack === stack.name && cell.version === stack.version).map(cell => cell.feature);
    assert.deepEqual(cells.filter(name => !passed.includes(name)), withoutPooler && cells.includes('PgBouncer') ? ['PgBouncer'] : []);
    if (process.env.BEMI_PASSED) appendFileSync(process.env.BEMI_PASSED, `${stack.name}\n`);
  });
}
