"""What every stack of a driver and a framework must do: each row that an application changes has the context of the code that
changes it, and a row that it changes without a context has none.

A stack is a subclass of StackTest:

    stack, version
    connect(pooled)     a connection
    close(db)
    ways                { name: (number of changes, method) }: the ways in which it writes. method(db, tasks) gets three tasks
    insert(db, task)
    transaction(db)     a block
    savepoint(db)       a block within a transaction

What passes is a "yes" in the table of docs/how-to/set-context/python.md, see test_z_table.py.
"""

import os
import threading
import unittest
from contextlib import contextmanager
from pathlib import Path

from base import POOLER, DatabaseTest, marked, on_server, vectors

import bemi

THREADS = 8
passed_file = os.environ.get('BEMI_PASSED')

# The server keeps these members for itself.
RESERVED = {'_db', '_whole', '_tags'}


def unreserved(context):
    return {key: value for key, value in context.items() if key not in RESERVED}


def passed(stack, version, feature):
    if passed_file:
        with Path(passed_file).open('a') as file:
            file.write(f'{stack}|{version}|{feature}\n')


class StackTest(DatabaseTest):
    stack = version = None
    ways = {}

    @contextmanager
    def connected(self, pooled=False):
        db = self.connect(pooled)
        try:
            yield db
        finally:
            self.close(db)

    def feature(self, name):
        passed(self.stack, self.version, name)

    def assert_levels(self, mark, expected):
        self.assertEqual([(task[len(mark) + 1 :], context.get('level')) for task, context in marked(mark)], expected)

    def test_1_ways(self):
        with self.connected() as db:
            self.insert(db, 'none 1')
            for number, (way, (count, write)) in enumerate(self.ways.items()):
                with self.subTest(way):
                    context = {'way': way, 'note': "it's ? $1 %s :name */ é"}
                    tasks = [f'way{number} {i}' for i in range(3)]
                    with bemi.with_context(context):
                        write(self, db, tasks)
                    found = [context for _, context in marked(f'way{number}')]
                    self.assertEqual(found, [context] * count)
            self.insert(db, 'none 2')
        self.assertEqual(marked('none'), [('none 1', {}), ('none 2', {})])
        self.feature('context by itself')

    def test_2_hostile_contexts(self):
        with self.connected() as db:
            for number, vector in enumerate(vectors['contexts']):
                with bemi.with_context(vector['context']):
                    self.insert(db, f'hostile {number}')
                    vector['sent'] = bemi.current_context()
        found = marked('hostile')
        self.assertEqual(len(found), len(vectors['contexts']))
        for vector, (task, context) in zip(vectors['contexts'], found):
            with self.subTest(vector['name']):
                self.assertEqual(unreserved(context), unreserved(vector['sent']))

    def test_3_transactions(self):
        with self.connected() as db:
            with bemi.with_context({'level': 0}), self.transaction(db):
                self.insert(db, 'level a')
                with bemi.with_context({'level': 1}):
                    self.insert(db, 'level b')
                with bemi.with_context(None):
                    self.insert(db, 'level c')
                self.insert(db, 'level d')
            with self.assertRaises(ZeroDivisionError), bemi.with_context({'level': 2}), self.transaction(db):
                self.insert(db, 'level e')
                raise ZeroDivisionError
        self.assert_levels('level', [('a', 0), ('b', 1), ('c', None), ('d', 0)])
        self.feature('transactions')

    def test_4_savepoints(self):
        with self.connected() as db:
            with bemi.with_context({'level': 0}), self.transaction(db):
                self.insert(db, 'save a')
                with bemi.with_context({'level': 1}), self.savepoint(db):
                    self.insert(db, 'save b')
                with self.assertRaises(ZeroDivisionError), bemi.with_context({'level': 2}), self.savepoint(db):
                    self.insert(db, 'save c')
                    raise ZeroDivisionError
                self.insert(db, 'save d')
        self.assert_levels('save', [('a', 0), ('b', 1), ('d', 0)])
        self.feature('savepoints')

    def test_5_threads(self):
        self.parallel('thread', pooled=False)
        self.feature('threads')

    @unittest.skipUnless(POOLER, 'PgBouncer is not installed')
    def test_6_pooler(self):
        self.parallel('pooled', pooled=True)
        self.feature('PgBouncer')

    def parallel(self, mark, pooled):
        """Every thread has its own context and writes it into its rows."""
        errors = []

        def work(i):
            try:
                with self.connected(pooled) as db:
                    for j in range(3):
                        with bemi.with_context({'i': i, 'j': j}):
                            self.insert(db, f'{mark} {i} {j} a')
                            with self.transaction(db):
                                self.insert(db, f'{mark} {i} {j} b')
                                self.insert(db, f'{mark} {i} {j} c')
                        self.insert(db, f'{mark} none {i} {j}')
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=[i]) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        found = marked(mark)
        self.assertEqual(len(found), THREADS * 3 * 4)
        for task, context in found:
            _, i, j, *_ = task.split(' ')
            self.assertEqual(context, {} if i == 'none' else {'i': int(i), 'j': int(j)}, task)

    def setUp(self):
        on_server('test_python', 'TRUNCATE todo, tag')
