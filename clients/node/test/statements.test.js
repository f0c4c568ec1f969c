// Which texts already have a context, and where the client puts its own. First from a table, then compared with the
// server: the client must find a context after a statement exactly if the server does.

import assert from 'node:assert/strict';
import test from 'node:test';
import { addContext, withContext } from 'bemi';
import 'bemi/pg';
import { changes, trackedDatabase } from './setup.js';

const sent = sql => withContext({ a: 1 }, () => addContext(sql));
const OWN = '/*Bemi {"a":1} Bemi*/';
const HAND = '/*Bemi {"hand": 1} Bemi*/';

const UPDATE = 'update t set a = 1';

test('a context that was written by hand stays the only one', () => {
  for (const behind of [
    '', ' ', ';', ' ;\n; ', ";/*application='App'*/", " /*application='App',action='create'*/", ' /*application:App*/ ;', ' -- x',
    "-- it's", ' -- x\n', ' -- x\r/* y */', ' /* /* nested */ */', '/**/', ' /*+ SeqScan(t) */ -- "', ' /* Bemi*/', ' /*Bemi*/', " /* $a$ ' */",
    " /*traceparent='00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01'*/",
  ]) {
    for (const before of [
      UPDATE, `${UPDATE} -- why\n`, `${UPDATE} /* why */`, `${UPDATE};`, `/* first */ ${UPDATE}`, `${UPDATE} where b = 'it''s'`,
      String.raw`${UPDATE} where b = E'\'' `, String.raw`${UPDATE} where b = 'C:\temp'`, `${UPDATE} where b = $x$ /* $$ ' $x$`,
      `${UPDATE} where a$b$ = c$b$`, `${UPDATE} where "b""/*" = $1`, `${UPDATE} where b = 2-1/1`,
    ]) {
      const sql = before + HAND + behind;
      assert.equal(sent(sql), sql);
    }
  }
  const several = `${UPDATE} ${HAND} /* x */; ${UPDATE}; ${HAND} -- x`;
  assert.equal(sent(several), several);
  assert.equal(sent(`${UPDATE}/*Bemi {}Bemi*/`), `${UPDATE}/*Bemi {}Bemi*/`);
});

test('what only looks like a context keeps none away', () => {
  for (const sql of [
    `insert into t values ('${HAND}')`, `insert into t values ('it''s ${HAND} -- ')`, `insert into t values (E'\\' ${HAND} -- ')`,
    `insert into t values ('\\' ${HAND} -- ')`, `insert into t values ('\\\\' || '${HAND} -- ')`, `insert into t values ($$ ${HAND} -- $$)`,
    `insert into t select $a1$ $$ ${HAND} -- $b$ $a1$`, `insert into t select $é$ ${HAND} -- $é$`, `update t set a = "${HAND} -- "`, `insert into t select 'a'\n'${HAND} -- '`,
    `insert into t select U&'\\0041${HAND} -- '`, `${HAND} ${UPDATE}`, `update t ${HAND} set a = 1`, `${UPDATE} ${HAND} returning a`,
    `${UPDATE} -- ${HAND}`, `${UPDATE} /* a ${HAND} */`, `${UPDATE} /* a ${HAND} */ /* x */`, `${UPDATE} /* Bemi {} Bemi*/`,
    `${UPDATE} /*bemi {} bemi*/`, `${UPDATE} /*Bemi*/`, `${UPDATE} Bemi*/`, `select '${HAND}'; ${UPDATE}`, `select 1 ${HAND}; ${UPDATE}`,
  ]) {
    assert.equal(sent(sql), sql + (sql.includes('--') ? '\n' : ' ') + OWN);
  }
});

test('each statement of a text gets its own', () => {
  for (const [sql, expected] of [
    [`${UPDATE}; ${UPDATE}`, `${UPDATE} ${OWN}; ${UPDATE} ${OWN}`],
    [`${UPDATE};; select 1 ; ${UPDATE};`, `${UPDATE} ${OWN};; select 1 ; ${UPDATE} ${OWN};`],
    [`${UPDATE} ${HAND}; ${UPDATE}`, `${UPDATE} ${HAND}; ${UPDATE} ${OWN}`],
    [`${UPDATE}; ${HAND} ${UPDATE}`, `${UPDATE}; ${HAND} ${UPDATE} ${OWN}`],
    [`insert into t values (';'); ${UPDATE}`, `insert into t values (';') ${OWN}; ${UPDATE} ${OWN}`],
    [`insert into t values ($$;$$); ${UPDATE}`, `insert into t values ($$;$$) ${OWN}; ${UPDATE} ${OWN}`],
    [`insert into t values ('\\n;', E'\\';'); ${UPDATE}`, `insert into t values ('\\n;', E'\\';') ${OWN}; ${UPDATE} ${OWN}`],
    [`do $$ begin ${UPDATE}; end $$; ${UPDATE}`, `do $$ begin ${UPDATE}; end $$; ${UPDATE} ${OWN}`],
    // Where the string ends depends on a setting of the server, so nothing is put between the statements.
    [`insert into t values ('\\'); ${UPDATE}`, `insert into t values ('\\'); ${UPDATE} ${OWN}`],
    [`insert into t values ('; ${UPDATE}`, `insert into t values ('; ${UPDATE} ${OWN}`],
  ]) {
    assert.equal(sent(sql), expected);
  }
});

test('a long text is looked at in linear time', () => {
  const begin = performance.now();
  const pieces = [
    "'", "''", "'\\''", '"', '$', '$a$', '$1', 'a$', '/*', '*/', '/**/', '--', '-', '\\', ';', 'x;', `'${'x'.repeat(100)}';`, HAND,
  ];
  for (const piece of pieces) sent(`${UPDATE} ${HAND};${piece.repeat(100000)}`);
  sent(`insert into t values ('${'x'.repeat(5e7)}');`);
  assert.ok(performance.now() - begin < 10000, `${performance.now() - begin} ms`);
});

// A generator with a seed, so a failure can be repeated (Park and Miller).
function randomPicker(seed) {
  let state = seed;
  return list => list[(state = (state * 48271) % 2147483647) % list.length];
}

const VALUES = [
  "'x'", "'it''s'", `'${HAND} --'`, "'/*'", "'--'", "';'", `$$${HAND}$$`, `$a$ $$;' ${HAND} $a$`, "E'\\'/*'", `E'\\\\' || '${HAND}'`, "'\\n'",
  `'a'\n'${HAND} --'`, `x."/*" || '-'`, `x."a$b$" || x."a$b$"`, "U&'\\0041'", '1-1/1', `1--;'\n`, `/* ${HAND} */ 1`,
];
const BEHIND = [
  HAND, HAND, HAND, ' ', ';', '\n', '-- x\n', `-- ${HAND}\n`, "-- '\r", '/* x */', "/* ' */", '/* /* */ */', `/* ${HAND} */`, '/*Bemi*/',
  '/*Bemi {"hand": 2}Bemi*/', '/**/', '/* $$ */', '/*/ */',
];

test('the client finds a context exactly if the server does', async t => {
  const client = await trackedDatabase('test_statements');
  const seed = 1 + Math.floor(Math.random() * 1e9);
  t.diagnostic(`seed ${seed}`);
  const pick = randomPicker(seed);
  const texts = Array.from({ length: 400 }, (_, i) => Array.from({ length: 1 + (i % 3) }, (_, j) => {
    const behind = Array.from({ length: pick([0, 1, 2, 3, 4]) }, () => pick(BEHIND)).join('');
    return `insert into todo (task) select '${i}/${j}/' || length((${pick(VALUES)}\n)::text) from (select 1, 'y', 'z') x(a, "/*", "a$b$")${behind}`;
  }).join(pick(['\n;', '\n;;', '\n; /* x */', `\n; ${HAND}`])));
  // Each text runs twice, once with the client's context and other names.
  for (const [i, sql] of texts.entries()) {
    await client.query(sql);
    await withContext({ client: 1 }, () => client.query(sql.replaceAll(`'${i}/`, `'own ${i}/`)));
  }
  const found = Object.fromEntries((await changes(client)).map(({ after, context }) => [after.task, context]));
  const tasks = Object.keys(found).filter(task => !task.startsWith('own'));
  assert.equal(Object.keys(found).length, 2 * tasks.length);
  assert.ok(tasks.length > 400);
  for (const has of [true, false]) assert.ok(tasks.filter(task => Boolean(found[task].hand) === has).length > 50);
  for (const task of tasks) {
    const raw = found[task];
    assert.deepEqual(found[`own ${task}`], raw.hand ? raw : { client: 1 }, `${task}: ${texts[task.split('/')[0]]}`);
  }
});
