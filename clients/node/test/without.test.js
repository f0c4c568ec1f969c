// An application that sets no context gets from node-postgres what it would get without the package: the same bytes to the
// server, the same results, errors and order of callbacks, and its options unchanged. A script does all of it twice, in
// processes with and without bemi/pg. What it has seen is compared.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import test from 'node:test';
import { promisify } from 'node:util';
import { server, trackedDatabase } from './setup.js';

async function script(options) {
  const { createHash } = await import('node:crypto');
  const { once } = await import('node:events');
  const { Socket } = await import('node:net');
  const { pipeline } = await import('node:stream/promises');
  const { default: pg } = await import('pg');
  const { default: Cursor } = await import('pg-cursor');
  const { default: QueryStream } = await import('pg-query-stream');
  const { from: copyFrom } = await import('pg-copy-streams');
  const { setTimeout: sleep } = await import('node:timers/promises');

  const seen = [];
  const see = (...what) => seen.push(what);
  const stream = () => {
    const socket = new Socket();
    const sent = data => see('sent', createHash('sha256').update(data).digest('hex'), String(data).slice(0, 200));
    const { _write, _writev } = socket;
    socket._write = function (data, ...rest) { sent(data); return _write.call(this, data, ...rest); };
    socket._writev = function (chunks, ...rest) { for (const { chunk } of chunks) sent(chunk); return _writev.call(this, chunks, ...rest); };
    return socket;
  };
  const client = async more => {
    const made = new pg.Client({ ...options, stream: stream(), ...more });
    await made.connect();
    return made;
  };
  const describe = ({ command, rowCount, rows, fields, ...rest }) => ({ command, rowCount, rows, names: fields.map(({ name }) => name), keys: Object.keys(rest) });
  const resultOf = result => (Array.isArray(result) ? result.map(describe) : describe(result));
  const errorOf = ({ message, code, position, name, stack }) => [name, message, code, position, stack.includes('script')];
  const callback = of => (...args) => see(of, args.length, args[0] && errorOf(args[0]), args[1] && resultOf(args[1]));
  // The order of the ends of several things.
  const turns = of => {
    queueMicrotask(() => see(of, 'microtask'));
    process.nextTick(() => see(of, 'tick'));
    setImmediate(() => see(of, 'immediate'));
  };

  const INSERT = 'INSERT INTO todo (task) VALUES ($1)';
  let count = 0;
  const task = () => `task ${++count}`;
  for (const more of [{}, { pipeline: true }]) {
    const db = await client(more);
    await db.query('BEGIN');
    const calls = {
      text: () => [`INSERT INTO todo (task) VALUES ('${task()}')`],
      parameters: () => [INSERT, [task()]],
      several: () => [`DELETE FROM tag; INSERT INTO todo (task) VALUES ('${task()}'); SELECT 1 -- x`],
      options: () => [{ text: INSERT, values: [task()] }],
      frozen: () => [Object.freeze({ text: `${INSERT} RETURNING task`, values: Object.freeze([task()]), rowMode: 'array' })],
      named: () => [{ name: 'named', text: INSERT, values: [task()] }],
      'name only': () => [{ name: 'named', values: [task()] }],
      extended: () => [{ text: 'DELETE FROM tag', queryMode: 'extended' }],
      'no text': () => [{}],
      'a number': () => [1],
      nothing: () => [null],
      'other text': () => [{ name: 'named', text: 'SELECT 1' }],
      values: () => [INSERT, 'x'],
      'a callback that is none': () => [INSERT, [task()], 'x'],
      'a callback that is none, named': () => [{ name: 'named', text: INSERT, values: [task()] }, undefined, 1],
      empty: () => [''],
    };
    for (const [name, make] of Object.entries(calls)) {
      for (const way of ['promise', 'callback']) {
        await db.query('SAVEPOINT a');
        const args = make();
        const [config] = args;
        if (way === 'callback' && args.length < 3) args.push(callback(name));
        see(name, way);
        try {
          const result = db.query(...args);
          turns(name);
          see(result?.constructor.name);
          await result?.then(answer => see(resultOf(answer)), error => see(errorOf(error)));
        } catch (error) {
          see('thrown', errorOf(error));
        }
        see('then');
        // Its callback comes before.
        await db.query('ROLLBACK TO a');
        await sleep(2);
        see(Object.entries(Object(config)).map(([key, value]) => [key, typeof value]), Object.keys(Object(config)));
      }
    }
    for (const sql of ['INSERT INTO nowhere VALUES (1)', 'UPDATE todo SET nope = 1', 'SELECT 1; DELETE FROM todo WHERE nope', 'INSERT', "DELETE FROM todo WHERE task = 'x"]) {
      await db.query('ROLLBACK TO a');
      await db.query(sql).catch(error => see(errorOf(error)));
    }
    await db.query('ROLLBACK');
    const query = new pg.Query(`${INSERT} RETURNING task`, [task()]);
    query.on('row', row => see('row', row));
    see(db.query(query) === query, query.text);
    await once(query, 'end');
    see(query.text, db.listenerCount('error'));
    if (!more.pipeline) {
      const cursor = db.query(new Cursor('INSERT INTO todo (task) VALUES ($1), ($2) RETURNING task', [task(), task()]));
      see(await cursor.read(1), await cursor.read(5), cursor.text);
      await cursor.close();
      see(await db.query(new QueryStream('SELECT generate_series(1, 5) AS a', [], { batchSize: 2 })).toArray());
      await pipeline([`${task()}\n`], db.query(copyFrom('COPY todo (task) FROM STDIN')));
    }
    await db.end();
    await db.query('SELECT 1').catch(error => see(errorOf(error)));
  }

  const pool = new pg.Pool({ ...options, max: 1, stream });
  await Promise.all(Array.from({ length: 6 }, (_, i) => new Promise(resolve => {
    pool.query('SELECT $1::int AS a', [i], (...args) => { callback('pool')(...args); resolve(); });
    pool.query('SELECT 1 AS a').then(answer => see('pool', resultOf(answer)));
  })));
  const lent = await pool.connect();
  lent.release();
  await pool.end();
  await pool.query('SELECT 1').catch(error => see(errorOf(error)));
  await pool.connect(callback('ended'));
  console.log(JSON.stringify(seen));
}

test('without a context, node-postgres does what it does without the package', async () => {
  const client = await trackedDatabase('test_without');
  const seen = [];
  for (const flags of [[], ['--require', 'bemi/pg']]) {
    await client.query('TRUNCATE todo, tag RESTART IDENTITY');
    const text = `(${script})(${JSON.stringify(server('test_without'))}).catch(error => { console.error(error); process.exitCode = 1; })`;
    const { stdout } = await promisify(execFile)(process.execPath, ['--no-deprecation', ...flags, '-e', text], { cwd: import.meta.dirname, maxBuffer: 1e8 });
    seen.push(JSON.parse(stdout));
  }
  assert.ok(seen[0].filter(([what]) => what === 'sent').length > 100);
  assert.deepEqual(seen[1], seen[0]);
});
