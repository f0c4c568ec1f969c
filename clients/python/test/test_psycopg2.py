"""psycopg 2 alone, with the cursors of bemi.psycopg2."""

import io
from contextlib import contextmanager

import psycopg2
import psycopg2.extras
from base import dsn, marked, on_server
from psycopg2 import sql
from stack import StackTest

import bemi
from bemi.psycopg2 import Cursor, _with_context, hooked

INSERT = 'INSERT INTO todo (task) VALUES (%s)'


class Psycopg2Test(StackTest):
    stack, version = 'psycopg2', psycopg2.__version__.split(' ')[0]

    def connect(self, pooled=False):
        connection = psycopg2.connect(dsn(pooled=pooled), cursor_factory=Cursor)
        connection.autocommit = True
        return connection

    def close(self, db):
        db.close()

    def insert(self, db, task):
        with db.cursor() as cursor:
            cursor.execute(INSERT, [task])

    @contextmanager
    def transaction(self, db):
        db.autocommit = False
        try:
            with db:
                yield
        finally:
            db.autocommit = True

    @contextmanager
    def savepoint(self, db):
        with db.cursor() as cursor:
            cursor.execute('SAVEPOINT a')
            try:
                yield
            except BaseException:
                cursor.execute('ROLLBACK TO SAVEPOINT a')
                raise
            cursor.execute('RELEASE SAVEPOINT a')

    def insert_update_delete(self, db, tasks):
        with db.cursor() as cursor:
            cursor.execute(INSERT, [tasks[0]])
            cursor.execute('UPDATE todo SET done = true WHERE task = %s', [tasks[0]])
            cursor.execute('DELETE FROM todo WHERE task = %s RETURNING id', [tasks[0]])

    def many(self, db, tasks):
        with db.cursor() as cursor:
            cursor.executemany(INSERT, [[task] for task in tasks])

    def extras(self, db, tasks):
        with db.cursor() as cursor:
            psycopg2.extras.execute_batch(cursor, INSERT, [[task] for task in tasks], page_size=2)
            psycopg2.extras.execute_values(cursor, 'INSERT INTO tag (name) VALUES %s', [[f'{task};'] for task in tasks])

    def several_statements(self, db, tasks):
        with db.cursor() as cursor:
            cursor.execute(f'{INSERT}; {INSERT}', tasks[:2])

    def composed(self, db, tasks):
        with db.cursor() as cursor:
            cursor.execute(sql.SQL('INSERT INTO {} (task) VALUES (%s)').format(sql.Identifier('todo')), [tasks[0]])

    def bytes(self, db, tasks):
        with db.cursor() as cursor:
            cursor.execute(cursor.mogrify(INSERT, [tasks[0] + ' é %']))

    def upsert(self, db, tasks):
        with db.cursor() as cursor:
            for _ in range(2):
                cursor.execute(INSERT + ' ON CONFLICT (task) DO UPDATE SET done = true', [tasks[0]])

    def copy(self, db, tasks):
        with db.cursor() as cursor:
            cursor.copy_expert('COPY todo (task) FROM STDIN', io.StringIO('\n'.join(tasks)))

    def other_cursors(self, db, tasks):
        for task, cursor_class in zip(tasks, [psycopg2.extras.DictCursor, psycopg2.extras.RealDictCursor, psycopg2.extras.NamedTupleCursor]):
            with db.cursor(cursor_factory=hooked(cursor_class)) as cursor:
                cursor.execute(INSERT + ' RETURNING task', [task])
                row = cursor.fetchone()
                self.assertEqual(row.task if hasattr(row, 'task') else row['task'], task)

    ways = {
        'insert, update, delete': (3, insert_update_delete),
        'executemany': (3, many),
        'psycopg2.extras': (6, extras),
        'several statements': (2, several_statements),
        'sql.Composed': (1, composed),
        'bytes': (1, bytes),
        'upsert': (2, upsert),
        'COPY': (3, copy),
        'other classes of cursors': (3, other_cursors),
    }

    def test_other_encoding(self):
        with self.connected() as db, bemi.with_context({'name': 'é漢'}):
            db.set_client_encoding('LATIN1')
            self.insert(db, 'encoding é')
        self.assertEqual(marked('encoding'), [('encoding é', {'name': 'é漢'})])

    def test_server_side_cursors_still_read(self):
        with self.connected() as db, bemi.with_context({'a': 1}), self.transaction(db):
            with db.cursor('named') as cursor:
                cursor.execute('SELECT generate_series(1, 3)')
                self.assertEqual(len(cursor.fetchall()), 3)

    def test_without_a_context_nothing_changes(self):
        composed = sql.SQL('SELECT 1')
        with self.connected() as db, db.cursor() as cursor:
            self.assertIs(_with_context(cursor, composed), composed)

    def test_hooked_once(self):
        self.assertIs(hooked(Cursor), Cursor)
        self.assertEqual(hooked(psycopg2.extras.DictCursor).__name__, 'DictCursor')
        on_server('test_python', 'TRUNCATE todo')


del StackTest
