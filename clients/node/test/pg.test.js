// node-postgres: each way in which a query can be given to it, and its pools.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { pipeline } from 'node:stream/promises';
import test, { before } from 'node:test';
import { promisify } from 'node:util';
import { currentContext, withContext } from 'bemi';
import { hook } from 'bemi/pg';
import pg from 'pg';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import Cursor from 'pg-cursor';
import QueryStream from 'pg-query-stream';
import { assertAllHave, atEnd, changes, server, trackedDatabase, versionOf, warningsOf } from './setup.js';
import { testStack } from './stack.js';

const INSERT = 'INSERT INTO todo (task) VALUES ($1)';

const withClient = work => async (db, ...rest) => {
  const client = await db.connect();
  try {
    return await work(client, ...rest);
  } finally {
    client.release();
  }
};

const callback = (run, check = () => {}) => new Promise((resolve, reject) => run((error, answer) => {
  if (error) return reject(error);
  try {
    check(answer);
    resolve(answer);
  } catch (wrong) {
    reject(wrong);
  }
}));

class Sql {
  constructor(values) { this.values = values; }
  get text() { return INSERT; }
}

testStack({
  name: 'node-postgres',
  version: versionOf('pg'),
  open: options => new pg.Pool(options),
  close: db => db.end(),
  ways: {
    text: [1, (db, ids) => db.query(`UPDATE todo SET done = true WHERE id = ${ids[0]}`)],
    parameters: [3, (db, ids) => db.query('DELETE FROM todo WHERE id = ANY ($1)', [ids])],
    'several statements': [2, (db, ids, task) => db.query(`INSERT INTO todo (task) VALUES ('${task()};'); SELECT 1; UPDATE todo SET done = true WHERE id = ${ids[0]}; --`)],
    options: [1, (db, ids, task) => db.query({ text: INSERT, values: [task()] })],
    'options and parameters': [1, (db, ids, task) => db.query({ text: INSERT }, [task()])],
    'options of a class': [1, (db, ids, task) => db.query(new Sql([task()]))],
    'frozen options': [1, (db, ids, task) => db.query(Object.freeze({ text: INSERT, values: [task()] }))],
    'a named pg.Query with pages of rows': [2, withClient(async (client, ids, task) => {
      const { rows } = await client.query({ name: 'pages', text: 'INSERT INTO todo (task) VALUES ($1), ($2) RETURNING id', values: [task(), task()], rows: 1 });
      assert.equal(rows.length, 2);
    })],
    'options with rowMode': [1, async (db, ids, task) => {
      const { rows } = await db.query({ text: `${INSERT} RETURNING done`, values: [task()], rowMode: 'array' });
      assert.deepEqual(rows, [[false]]);
    }],
    upsert: [2, async (db, [id], task) => {
      for (const key of [id, -id]) {
        await db.query('INSERT INTO todo (id, task) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET task = excluded.task', [key, task()]);
      }
    }],
    callback: [1, (db, ids, task) => callback(done => db.query(INSERT, [task()], done))],
    'callback, without parameters': [1, (db, [id]) => callback(done => db.query(`DELETE FROM todo WHERE id = ${id}`, done))],
    'callback in the options': [1, withClient((client, ids, task) => callback(done => client.query({ text: INSERT, values: [task()], callback: done })))],
    'callback after callback': [3, (db, ids, task) => callback(done =>
      db.connect((error, client, release) => error ? done(error) : client.query(INSERT, [task()], error => error ? done(error) : client.query(INSERT, [task()], error => {
        if (error) return done(error);
        client.query(INSERT, [task()], (...args) => { release(); done(...args); });
      }))))],
    'pg.Query': [1, withClient(async (client, ids, task) => { await once(client.query(new pg.Query(INSERT, [task()])), 'end'); })],
    'pg.Query, then another in its event': [2, withClient((client, ids, task) => new Promise((resolve, reject) => {
      const query = client.query(new pg.Query(INSERT, [task()]));
      query.on('error', reject).on('end', () => client.query(INSERT, [task()]).then(resolve, reject));
    }))],
    cursor: [2, withClient(async (client, ids, task) => {
      const cursor = client.query(new Cursor('INSERT INTO todo (task) VALUES ($1), ($2) RETURNING id', [task(), task()]));
      assert.equal((await cursor.read(10)).length, 2);
      await cursor.close();
    })],
    'a write in the callback of a cursor': [1, withClient(async (client, ids, task) => {
      const cursor = client.query(new Cursor('SELECT 1'));
      await callback(done => cursor.read(1, done), () => assert.equal(currentContext().way, 'a write in the callback of a cursor'));
      await callback(done => cursor.close(done));
      await client.query(INSERT, [task()]);
    })],
    stream: [2, withClient(async (client, ids, task) => {
      const stream = client.query(new QueryStream('INSERT INTO todo (task) VALUES ($1), ($2) RETURNING id', [task(), task()]));
      assert.equal((await stream.toArray()).length, 2);
    })],
    'COPY FROM STDIN': [2, withClient(async (client, ids, task) => {
      await pipeline([`${task()}\n${task()}\n`], client.query(copyFrom('COPY todo (task) FROM STDIN')));
      for await (const data of client.query(copyTo('COPY (SELECT 1) TO STDOUT'))) assert.equal(String(data), '1\n');
    })],
    'an extended query without parameters': [1, (db, [id]) => db.query({ text: `DELETE FROM todo WHERE id = ${id}`, queryMode: 'extended' })],
    MERGE: [1, async (db, [id]) => {
      const { rows: [{ version }] } = await db.query("SELECT current_setting('server_version_num')::int AS version");
      await db.query(version >= 150000 ? 'MERGE INTO todo USING (VALUES ($1::int)) v(id) ON todo.id = v.id WHEN MATCHED THEN DELETE' : 'DELETE FROM todo WHERE id = $1', [id]);
    }],
  },
  insert: (db, task) => db.query(INSERT, [task]),
  transaction: async (db, work) => {
    const client = await db.connect();
    try {
      await client.query('BEGIN');
      const result = await work(client);
      await client.query('COMMIT');
      return result;
    } catch (error) {
      await client.query('ROLLBACK');
      throw error;
    } finally {
      client.release();
    }
  },
  savepoint: async (client, work) => {
    await client.query('SAVEPOINT a');
    try {
      await work(client);
    } catch (error) {
      await client.query('ROLLBACK TO a');
      throw error;
    }
  },
  prepared: (db, task) => db.query({ name: 'insert', text: INSERT, values: [task] }),
});

let client;
before(async () => { client = await trackedDatabase('test_pg'); });

const open = async options => {
  const client = new pg.Client({ ...server('test_pg'), ...options });
  await client.connect();
  atEnd(() => client.end());
  return client;
};

const INSERT_NAMED = { name: 'insert', text: `${INSERT} RETURNING id, task` };

// Both protocols of node-postgres: one statement at a time, and many on the way.
for (const options of [{}, { pipeline: true }]) {
  const kind = options.pipeline ? 'in a pipeline' : 'one by one';

  test(`named statements answer as they do without a context, ${kind}`, async () => {
    const client = await open(options);
    const mark = `answer ${kind}`;
    for (const context of [undefined, { a: 1 }]) {
      await withContext(context, async () => {
        const { rows, command, rowCount, fields } = await client.query(INSERT_NAMED, [`${mark} ${context?.a}`]);
        assert.deepEqual([rows[0].task, rows.length, command, rowCount, fields.length], [`${mark} ${context?.a}`, 1, 'INSERT', 1, 2]);
        assert.equal((await callback(done => client.query({ ...INSERT_NAMED, values: [`${mark} callback ${context?.a}`] }, done))).rowCount, 1);
        assert.equal((await client.query({ name: 'insert', values: [`${mark} name only ${context?.a}`] })).rows.length, 1);
        const query = client.query(new pg.Query({ ...INSERT_NAMED, values: [`${mark} object ${context?.a}`] }));
        const seen = [];
        query.on('row', row => seen.push(row.task));
        await once(query, 'end');
        assert.deepEqual(seen, [`${mark} object ${context?.a}`]);
      });
    }
    const found = await changes(client, "after ->> 'task' LIKE $1", [`${mark}%`]);
    assert.equal(found.length, 8);
    for (const { after, context } of found) assert.deepEqual(context, after.task.endsWith('1') ? { a: 1 } : {});
    assert.deepEqual((await client.query("SELECT name FROM pg_prepared_statements")).rows, [{ name: 'insert' }]);
  });

  test(`errors of named statements are theirs, and leave nothing behind, ${kind}`, async () => {
    const client = await open(options);
    const named = (text, values) => withContext({ a: 'error' }, () => client.query({ name: text, text, values }));
    for (let i = 0; i < 2; i++) {
      await assert.rejects(named('INSERT INTO nowhere VALUES ($1)', [1]), { code: '42P01' });
      await assert.rejects(named('UPDATE todo SET id = $1', ['x']), { code: '22P02' });
      await assert.rejects(named(INSERT, [null]), { code: '23502' });
      await assert.rejects(withContext({ a: 'error' }, () => client.query({ name: 'x', text: 'DELETE FROM todo WHERE id = $1', values: { id: 1 } })), /must be an array/);
      await assert.rejects(named('DELETE FROM todo WHERE id = $1', [{ toPostgres() { throw new Error('no value'); } }]), /no value/);
      await assert.rejects(withContext({ a: 'error' }, () => client.query({ name: INSERT, text: `${INSERT} `, values: ['x'] })), /must be unique/);
      await withContext({ a: 'no error' }, () => client.query({ name: INSERT, text: INSERT, values: [`no error ${kind} ${i}`] }));
    }
    assertAllHave({ a: 'no error' }, await changes(client, "after ->> 'task' LIKE $1", [`no error ${kind}%`]), 2);
    assert.deepEqual((await client.query("SELECT current_setting('bemi.context', true) AS context")).rows, [{ context: '' }]);
  });

  test(`a setting of the application is there again after a named statement, ${kind}`, async () => {
    const client = await open(options);
    const mark = `own ${kind}`;
    const insert = (task, named) => client.query({ ...(named && { name: 'own' }), text: INSERT, values: [`${mark} ${task}`] });
    await client.query('BEGIN');
    await client.query("SELECT bemi.set_context('{\"by\": \"hand\"}')");
    await insert('hand');
    await withContext({ by: 'named' }, () => insert('named', true));
    await insert('hand, too');
    await insert('hand, named', true);
    await client.query('SAVEPOINT a');
    await assert.rejects(withContext({ by: 'named' }, () => client.query({ name: 'wrong', text: 'INSERT INTO todo (id) VALUES ($1)', values: [1] })));
    await client.query('ROLLBACK TO a');
    await insert('hand, after an error', true);
    await client.query('COMMIT');
    await insert('none', true);
    const found = await changes(client, "after ->> 'task' LIKE $1", [`${mark}%`]);
    assert.deepEqual(found.map(({ after, context }) => [after.task.slice(mark.length + 1), context.by ?? 'none']),
      [['hand', 'hand'], ['named', 'named'], ['hand, too', 'hand'], ['hand, named', 'hand'], ['hand, after an error', 'hand'], ['none', 'none']]);
  });

  test(`a named statement that was asked for within a transaction, before that had begun, ${kind}`, async () => {
    const client = await open(options);
    const mark = `queued ${kind}`;
    await client.query('SELECT 1');
    await Promise.all([
      client.query('BEGIN'),
      withContext({ a: 1 }, () => client.query({ ...INSERT_NAMED, values: [`${mark} 1`] })),
      client.query(INSERT, [`${mark} none`]),
      client.query('COMMIT'),
    ]);
    const found = await changes(client, "after ->> 'task' LIKE $1", [`${mark}%`]);
    assert.deepEqual(found.map(({ context }) => context), [{ a: 1 }, {}]);
  });

  test(`a named statement in a transaction that has failed, ${kind}`, async () => {
    const client = await open(options);
    const insert = () => withContext({ a: 1 }, () => client.query({ ...INSERT_NAMED, values: [`failed ${kind}`] }));
    await client.query('BEGIN');
    await assert.rejects(client.query('SELECT 1 / 0'), { code: '22012' });
    await assert.rejects(insert(), { code: '25P02' });
    await client.query('ROLLBACK');
    await insert();
    assertAllHave({ a: 1 }, await changes(client, "after ->> 'task' = $1", [`failed ${kind}`]), 1);
  });
}

test('a deferred trigger has the context of the named statement that fired it, outside of a transaction', async () => {
  await client.query(`CREATE FUNCTION add_tag() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO tag (name) VALUES ('deferred'); RETURN NULL; END $$`);
  await client.query('CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON todo DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION add_tag()');
  await client.query(INSERT, ['deferred']);
  // The first statement of its connection.
  const other = await open();
  await withContext({ a: 'deferred' }, () => other.query({ name: 'update', text: "UPDATE todo SET done = true WHERE task = $1", values: ['deferred'] }));
  assertAllHave({ a: 'deferred' }, await changes(client, "\"table\" = 'tag'"), 1);
});

test('a named statement costs no round trip, and no other prepared statement', async () => {
  const client = await open();
  let writes = 0;
  let round = 0;
  const { stream } = client.connection;
  for (const name of ['write', '_write', '_writev']) {
    const original = stream[name];
    if (name !== 'write' && original) stream[name] = function (...args) { writes++; return original.apply(this, args); };
  }
  client.connection.on('readyForQuery', () => round++);
  for (let i = 0; i < 10; i++) await withContext({ i }, () => client.query(INSERT_NAMED, [`trip ${i}`]));
  assert.equal(round, 10);
  assert.ok(writes <= 10, `${writes} writes`);
  assert.deepEqual((await client.query('SELECT name FROM pg_prepared_statements')).rows, [{ name: 'insert' }]);
});

test('the callback of a pool that is full has the context of its caller', async () => {
  const pool = new pg.Pool({ ...server('test_pg'), max: 1 });
  atEnd(() => pool.end());
  const seen = await Promise.all(Array.from({ length: 50 }, (_, i) => withContext({ i }, () => callback(done =>
    pool.query(INSERT, [`full ${i}`], (error, answer) => done(error, { ...answer, i: currentContext()?.i }))))));
  assert.deepEqual(seen.map(({ i }) => i), Array.from({ length: 50 }, (_, i) => i));
  const found = await changes(client, "after ->> 'task' LIKE 'full %'");
  assert.equal(found.length, 50);
  for (const { after, context } of found) assert.deepEqual(context, { i: Number(after.task.split(' ')[1]) });
});

test('the callback of a cursor has the context of the code that reads', async () => {
  const client = await open();
  const cursor = withContext({ a: 1 }, () => client.query(new Cursor('SELECT generate_series(1, 3)')));
  const seen = [];
  for (const a of [2, 3]) await withContext({ a }, () => callback(done => cursor.read(1, done), () => seen.push(currentContext().a)));
  await withContext({ a: 4 }, () => callback(done => cursor.close(done), () => seen.push(currentContext().a)));
  assert.deepEqual(seen, [2, 3, 4]);
});

test('a context that was written by hand is kept', async () => {
  await withContext({ by: 'bemi' }, () => client.query(`${INSERT} /*Bemi {"by": "hand"} Bemi*/`, ['by hand']));
  assertAllHave({ by: 'hand' }, await changes(client, "after ->> 'task' = 'by hand'"), 1);
});

test('wrong calls fail as they do without the hook', async () => {
  await withContext({ a: 1 }, async () => {
    assert.throws(() => client.query(null), /null or undefined/);
    assert.throws(() => client.query(), /null or undefined/);
    await assert.rejects(client.query({}), /must have either text or a name/);
    await assert.rejects(client.query('INSERT INTO todo (task) VALUES (null)'), { code: '23502' });
    for (const options of [{}, { name: 'wrong' }]) assert.throws(() => client.query({ text: INSERT, ...options }, ['x'], 'no function'), /callback is not a function/);
  });
});

// A message of the server counts characters of the text that it got, and may quote it.
test('errors are those of the text without its context', async () => {
  for (const sql of [
    'UPDATE todo SET nope = 1', 'INSERT INTO todo (task) VALUES', 'INSERT INTO todo (task) VALUES --', 'INSERT INTO todo (task) VALUES /* \u{1f600} */', "INSERT INTO todo (task) VALUES ('x", 'DELETE FROM todo /* x', 'DELETE FROM todo $$ x',
    'UPDATE todo SET done = done; UPDATE todo SET nope = 1', 'UPDATE todo SET done = done -- \u{1f600}\u{e9}\n; DELETE FROM nowhere; DELETE FROM todo', 'DELETE FROM todo; DELETE FROM todo; DELETE FROM',
    'SELECT 1; DELETE FROM nowhere', 'DELETE FROM todo; SELECT nope', 'TRUNCATE todo; DELETE FROM todo WHERE nope; ',
  ]) {
    for (const run of [
      () => client.query(sql), () => client.query({ text: sql }), () => callback(done => client.query(sql, done)), () => callback(done => client.query({ text: sql, callback: done })),
      async () => { const [error] = await once(client.query(new pg.Query(sql)), 'error'); throw error; },
    ]) {
      const errors = [];
      for (const context of [undefined, { a: 1 }]) {
        const { message, position, code, stack } = await withContext(context, () => run().then(assert.fail, error => error));
        errors.push({ message, position, code });
        assert.ok(!stack.includes('Bemi'), stack);
      }
      assert.deepEqual(errors[1], errors[0], sql);
    }
  }
});

test('a pg.Query that is used again has the context of the code that uses it', async () => {
  const client = await open();
  for (const name of [undefined, 'again']) {
    const query = new pg.Query({ name, text: `${INSERT} RETURNING task` });
    const seen = [];
    query.on('row', ({ task }) => seen.push([task, currentContext()?.a]));
    const tasks = [1, 2, undefined, 3].map(a => [`again ${name} ${a}`, a]);
    for (const [task, a] of tasks) {
      query.values = [task];
      await withContext(a && { a }, () => once(client.query(query), 'end'));
    }
    assert.deepEqual(seen, tasks);
    const found = await changes(client, "after ->> 'task' LIKE $1", [`again ${name} %`]);
    assert.deepEqual(found.map(({ after, context }) => [after.task, context.a]), tasks);
  }
});

test('a named pg.Query whose connection was lost keeps its name', async () => {
  const lost = new pg.Client(server('test_pg'));
  await lost.connect();
  lost.on('error', () => {});
  const { rows: [{ pid }] } = await lost.query('SELECT pg_backend_pid() AS pid');
  const query = new pg.Query({ name: 'lost', text: INSERT, values: ['lost'] });
  await client.query('BEGIN; LOCK todo');
  const [[error]] = await Promise.all([
    once(withContext({ a: 1 }, () => lost.query(query)), 'error'),
    client.query('SELECT pg_terminate_backend($1)', [pid]).then(() => client.query('COMMIT')),
  ]);
  assert.equal(error.code, '57P01');
  const other = await open();
  await withContext({ a: 2 }, () => once(other.query(query), 'end'));
  assert.deepEqual((await other.query('SELECT name FROM pg_prepared_statements')).rows, [{ name: 'lost' }]);
  assertAllHave({ a: 2 }, await changes(client, "after ->> 'task' = 'lost'"), 1);
});

// A connection is opened by the first request that needs one, and lives longer.
test('events of a connection do not have the context of the code that opened it', async () => {
  const pool = new pg.Pool({ ...server('test_pg'), max: 1, idleTimeoutMillis: 1 });
  atEnd(() => pool.end());
  const seen = [];
  const listen = (emitter, event) => emitter.on(event, () => seen.push([event, currentContext()]));
  await withContext({ request: 1 }, async () => {
    const listener = await pool.connect();
    for (const event of ['notice', 'notification', 'end']) listen(listener, event);
    listen(pool, 'remove');
    await listener.query("LISTEN a; DO $$ BEGIN RAISE NOTICE 'a'; END $$; NOTIFY a");
    listener.release();
  });
  while (!seen.some(([event]) => event === 'end')) await new Promise(resolve => setImmediate(resolve));
  assert.deepEqual(seen.sort(), ['end', 'notice', 'notification', 'remove'].map(event => [event, undefined]));
});

test('connect() has the context of its caller', async () => {
  const client = new pg.Client(server('test_pg'));
  atEnd(() => client.end());
  await withContext({ a: 1 }, () => callback(done => client.connect(done), () => assert.deepEqual(currentContext(), { a: 1 })));
});

// In a process of its own, because here the hook was first. The client's listener must not send the next statement before
// the hook knows that a transaction has begun.
test('a connection that is older than the hook', async () => {
  const script = `(async () => {
    const { Client } = require('pg');
    const client = new Client(${JSON.stringify(server('test_pg'))});
    await client.connect();
    const { withContext } = require('bemi');
    require('bemi/pg');
    await client.query('SELECT 1');
    await Promise.all([
      client.query('BEGIN'),
      withContext({ a: 1 }, () => client.query({ name: 'older', text: '${INSERT}', values: ['older 1'] })),
      client.query('${INSERT}', ['older 2']),
      client.query('COMMIT'),
    ]);
    await client.end();
  })()`;
  await promisify(execFile)(process.execPath, ['-e', script], { cwd: import.meta.dirname });
  assert.deepEqual((await changes(client, "after ->> 'task' LIKE 'older %'")).map(({ context }) => context), [{ a: 1 }, {}]);
});

// Tools for tracing put functions around query(). Then the package does not find its own hook there.
test('hooked twice, because another package came in between', async () => {
  const { query } = pg.Client.prototype;
  try {
    pg.Client.prototype.query = function (...args) { return query.apply(this, args); };
    hook(pg);
    assert.equal(pg.Client.prototype.query[Symbol.for('bemi.pg')], true);
    const client = await open();
    for (const name of [undefined, 'twice']) {
      const { rows, command } = await withContext({ a: 1 }, () => client.query({ name, text: `${INSERT} RETURNING task`, values: [`twice ${name}`] }));
      assert.deepEqual([rows, command], [[{ task: `twice ${name}` }], 'INSERT']);
    }
    const found = await changes(client, "after ->> 'task' LIKE 'twice %'");
    assertAllHave({ a: 1 }, found, 2);
  } finally {
    pg.Client.prototype.query = query;
  }
});

test('query_timeout and the stack of a named statement are as without a context', async () => {
  const client = await open();
  const slow = { name: 'slow', text: 'INSERT INTO todo (task) SELECT $1 || pg_sleep(0.2)', values: ['slow'], query_timeout: 1 };
  await assert.rejects(withContext({ a: 1 }, () => client.query(slow)), /Query read timeout/);
  await assert.rejects(withContext({ a: 1 }, async function caller() { await client.query({ name: 'x', text: 'DELETE FROM nowhere' }); }), ({ stack }) => /at async caller/.test(stack));
});

// pg-native has no such connection. A client without one stands in for it.
test('a named statement whose context cannot be sent is worth one warning', async () => {
  class Client {
    query(config) { return config; }
  }
  Client.Query = pg.Query;
  hook({ Client });
  const options = { name: 'native', text: INSERT };
  const warnings = await warningsOf(() => {
    for (let i = 0; i < 2; i++) assert.equal(withContext({ a: 1 }, () => new Client().query(options)), options);
    for (const sent of [{ name: 'read', text: 'SELECT 1' }, options]) assert.equal(new Client().query(sent), sent);
  }, 'BEMI_NAMED_STATEMENT');
  assert.equal(warnings.length, 1);
});

// The server refuses such a setting, although it only ignores such a comment.
test('a context that the server does not take breaks no named statement', async () => {
  const latin = await trackedDatabase('test_pg_latin1', "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
  const insert = (context, task) => withContext(context, () => latin.query({ name: 'insert', text: INSERT, values: [task] }));
  await insert({ name: '\u20ac\u6f22 \\u20ac "\0 x\u{1f600}' }, 'characters');
  for (const [setting, value] of [['max_context_size', 1000], ['max_context_size', '1kB'], ['max_context_keys', 10]]) {
    await latin.query(`SET bemi.${setting} = '${value}'`);
    await insert({ a: Array(600).fill(1) }, `large ${setting} ${value}`);
    await insert({ a: 1 }, `small ${setting} ${value}`);
    await latin.query(`RESET bemi.${setting}`);
  }
  const tooLarge = { bemiError: 'the context is larger than the server allows' };
  assert.deepEqual((await changes(latin)).map(({ context }) => context), [
    { name: '?? \\u20ac "? x??' }, tooLarge, { a: 1 }, tooLarge, { a: 1 }, tooLarge, { a: 1 },
  ]);
});
