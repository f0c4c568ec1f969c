"""psycopg 3 alone, with the cursors of bemi.psycopg; synchronous and asynchronous."""

import asyncio
from contextlib import contextmanager

import psycopg
from base import dsn, marked
from psycopg import sql
from stack import StackTest, passed

import bemi
from bemi.psycopg import AsyncClientCursor, AsyncCursor, ClientCursor, Cursor, _with_context, hooked

INSERT = 'INSERT INTO todo (task) VALUES (%s)'
PREPARED = "SELECT statement FROM pg_prepared_statements WHERE statement NOT LIKE '%%pg_prepared_statements%%'"


class PsycopgTest(StackTest):
    stack, version = 'psycopg 3', psycopg.__version__
    cursor_class = Cursor

    def connect(self, pooled=False):
        # PgBouncer before 1.21 knows no prepared statements.
        threshold = {'prepare_threshold': None} if pooled else {}
        return psycopg.connect(dsn(pooled=pooled), autocommit=True, cursor_factory=self.cursor_class, **threshold)

    def close(self, db):
        db.close()

    def insert(self, db, task):
        db.execute(INSERT, [task])

    def transaction(self, db):
        return db.transaction()

    savepoint = transaction

    def insert_update_delete(self, db, tasks):
        db.execute(INSERT, [tasks[0]])
        db.execute('UPDATE todo SET done = true WHERE task = %s', [tasks[0]])
        db.execute('DELETE FROM todo WHERE task = %(task)s', {'task': tasks[0]})

    def many(self, db, tasks):
        with db.cursor() as cursor:
            cursor.executemany(INSERT + ' RETURNING task', [[task] for task in tasks], returning=True)
            self.assertEqual(cursor.fetchone()[0], tasks[0])

    def pipeline(self, db, tasks):
        with db.pipeline():
            for task in tasks:
                db.execute(INSERT, [task])

    def stream(self, db, tasks):
        with db.cursor() as cursor:
            self.assertEqual(list(cursor.stream(INSERT + ' RETURNING 1', [tasks[0]])), [(1,)])

    def several_statements(self, db, tasks):
        db.execute(f"INSERT INTO todo (task) VALUES ('{tasks[0]}'); INSERT INTO todo (task) VALUES ('{tasks[1]}')")

    def composed(self, db, tasks):
        db.execute(sql.SQL('INSERT INTO {} (task) VALUES (%s)').format(sql.Identifier('todo')), [tasks[0]])

    def bytes(self, db, tasks):
        db.execute(INSERT.encode(), [tasks[0]])

    def upsert(self, db, tasks):
        for _ in range(2):
            db.execute(INSERT + ' ON CONFLICT (task) DO UPDATE SET done = true', [tasks[0]])

    def copy(self, db, tasks):
        with db.cursor() as cursor, cursor.copy('COPY todo (task) FROM STDIN') as copy:
            for task in tasks:
                copy.write_row([task])

    def prepared(self, db, tasks):
        for task in tasks:
            db.execute(INSERT, [task], prepare=True)

    ways = {
        'insert, update, delete': (3, insert_update_delete),
        'executemany': (3, many),
        'pipeline': (3, pipeline),
        'stream': (1, stream),
        'several statements': (2, several_statements),
        'sql.Composed': (1, composed),
        'bytes': (1, bytes),
        'upsert': (2, upsert),
        'COPY': (3, copy),
        'prepare=True': (3, prepared),
    }

    def test_prepared_statements(self):
        """Texts with a context leave nothing on the server, and displace nothing. Others are prepared as before."""
        with self.connected() as db:
            for _ in range(10):
                db.execute('SELECT %s::int', [1])
                self.insert_without_context(db)
            before = sorted(row[0] for row in db.execute(PREPARED))
            self.assertEqual(len(before), 0 if issubclass(self.cursor_class, psycopg.ClientCursor) else 2)
            for i in range(200):
                with bemi.with_context({'i': i // 20}):
                    db.execute(INSERT, [f'prepared {i}'])
                with bemi.with_context({'i': i}), db.cursor() as cursor:
                    cursor.executemany(INSERT, [[f'prepared many {i}']])
                    cursor.execute(INSERT, [f'prepared asked {i}'], prepare=True)
            self.assertEqual(sorted(row[0] for row in db.execute(PREPARED)), before)
            # A statement that was prepared without a context is executed with one.
            with bemi.with_context({'a': 1}):
                self.insert_without_context(db, 'prepared again')
        found = marked('prepared')
        self.assertEqual(len(found), 601)
        for task, context in found:
            number = task.split(' ')[-1]
            expected = {'a': 1} if number == 'again' else {'i': int(number) // (20 if task.count(' ') == 1 else 1)}
            self.assertEqual(context, expected, task)
        self.feature('prepared statements')

    def insert_without_context(self, db, task=None):
        self.tasks = getattr(self, 'tasks', 0) + 1
        db.execute(INSERT, [task or f'unprepared {self.tasks}'])

    def test_without_a_context_nothing_changes(self):
        composed = sql.SQL('SELECT 1')
        with self.connected() as db, db.cursor() as cursor:
            self.assertIs(_with_context(cursor, composed), composed)
            # A comment that was written by hand does not change, so it is prepared like other texts.
            for i in range(10):
                db.execute(INSERT + ' /*Bemi {"hand": 1} Bemi*/', [f'by-hand {i}'])
            found = db.execute(PREPARED).fetchall()
            self.assertEqual(len(found), 0 if issubclass(self.cursor_class, psycopg.ClientCursor) else 1)

    def test_rows_and_other_cursors(self):
        with self.connected() as db, bemi.with_context({'a': 1}):
            with db.cursor(row_factory=psycopg.rows.dict_row) as cursor:
                cursor.execute(INSERT + ' RETURNING task', ['rows 1'])
                self.assertEqual(cursor.fetchone(), {'task': 'rows 1'})
            with db.transaction(), db.cursor(name='named') as cursor:
                cursor.execute('SELECT generate_series(1, 3)')
                self.assertEqual(len(cursor.fetchall()), 3)
        self.assertIs(hooked(Cursor), Cursor)
        self.assertTrue(issubclass(hooked(psycopg.AsyncCursor), psycopg.AsyncCursor))
        self.assertIs(hooked(psycopg.AsyncCursor), hooked(psycopg.AsyncCursor))

    def test_asyncio(self):
        async_class = AsyncClientCursor if self.cursor_class is ClientCursor else AsyncCursor

        async def work(i):
            connection = await psycopg.AsyncConnection.connect(dsn(), autocommit=True, cursor_factory=async_class)
            async with connection:
                for j in range(5):
                    with bemi.with_context({'i': i, 'j': j}):
                        await connection.execute(INSERT, [f'async {i} {j} a'])
                        async with connection.transaction():
                            async with connection.cursor() as cursor:
                                await cursor.executemany(INSERT, [[f'async {i} {j} b'], [f'async {i} {j} c']])
                                async with cursor.copy('COPY todo (task) FROM STDIN') as copy:
                                    await copy.write_row([f'async {i} {j} d'])
                    await connection.execute(INSERT, [f'async none {i} {j}'])

        async def main():
            await asyncio.gather(*(work(i) for i in range(10)))

        asyncio.run(main())
        found = marked('async')
        self.assertEqual(len(found), 10 * 5 * 5)
        for task, context in found:
            _, i, j, *_ = task.split(' ')
            self.assertEqual(context, {} if i == 'none' else {'i': int(i), 'j': int(j)}, task)
        self.feature('asyncio')


class ClientCursorTest(PsycopgTest):
    stack = 'psycopg 3, ClientCursor'
    cursor_class = ClientCursor
    ways = {way: rest for way, rest in PsycopgTest.ways.items() if way not in ('stream', 'prepare=True')}


del StackTest
