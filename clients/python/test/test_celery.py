"""Celery: a task has the context of its caller, in a worker in another thread and with task_always_eager."""

import threading
import types

import celery
import psycopg2
from celery.signals import before_task_publish
from base import DatabaseTest, dsn, marked
from celery.contrib.testing.worker import start_worker
from stack import passed

import bemi
from bemi.celery import _begin, _end, hook
from bemi.psycopg2 import Cursor

hook()
hook()
app = celery.Celery('test', broker='memory://', backend='cache+memory://')
app.conf.broker_transport_options = {'polling_interval': 0.01}


def insert(task):
    with psycopg2.connect(dsn(), cursor_factory=Cursor) as connection, connection.cursor() as cursor:
        cursor.execute('INSERT INTO todo (task) VALUES (%s)', [task])
    connection.close()


@app.task
def add(task):
    insert(task)
    return task


@app.task
def add_more(task):
    bemi.merge_context({'task': 'add_more'})
    insert(task)
    add.delay(f'{task} inner')


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def add_on_retry(self, task):
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    insert(task)


@app.task
def fail(task):
    bemi.merge_context({'leftover': 1})
    raise ZeroDivisionError


class CeleryTest(DatabaseTest):
    def assert_contexts(self, mark, expected):
        self.assertEqual(sorted(marked(mark), key=str), sorted(expected, key=str))

    def test_worker(self):
        with start_worker(app, pool='solo', perform_ping_check=False):
            results = []
            for i in range(5):
                with bemi.with_context({'i': i}):
                    results.append(add.delay(f'worker {i}'))
            results.append(add.delay('worker none'))
            with bemi.with_context({'a': 1}):
                results.append(fail.delay('worker fail'))
                results.append(add_on_retry.delay('worker retry'))
                results.append(add_more.delay('worker more'))
                # In a chain, the worker publishes the second task.
                results.append((add.si('worker chain 1') | add.si('worker chain 2')).apply_async())
            results.append(add.apply_async(['worker headers'], headers={'x': 'y'}))
            for result in results:
                result.get(timeout=60, propagate=False)
            for _ in range(1000):
                if len(marked('worker')) == 12:
                    break
            self.assertEqual(bemi.current_context(), None)
        self.assert_contexts('worker', [
            *((f'worker {i}', {'i': i}) for i in range(5)),
            ('worker none', {}),
            ('worker retry', {'a': 1}),
            ('worker more', {'a': 1, 'task': 'add_more'}),
            ('worker more inner', {'a': 1, 'task': 'add_more'}),
            ('worker chain 1', {'a': 1}),
            ('worker chain 2', {'a': 1}),
            ('worker headers', {}),
        ])
        passed('Celery', celery.__version__, 'jobs')

    def test_headers(self):
        """Without a context, a message is the same as without the package."""
        seen = []

        def see(headers, **rest):
            seen.append(headers.get('bemi_context', 'none'))

        before_task_publish.connect(see)
        self.addCleanup(before_task_publish.disconnect, see)
        add.delay('unheard')
        with bemi.with_context({'a': 1}):
            add.delay('unheard')
        # A task that is called from within another one gets the headers of that one.
        add.apply_async(['unheard'], headers={'bemi_context': '{"b":2}'})
        app.control.purge()
        self.assertEqual(seen, ['none', '{"a":1}', 'none'])

    def test_hostile_headers(self):
        """Who can write into the queue cannot write into the text of a statement."""
        for text, context in (
            ('{"a":"*/; DROP TABLE todo; --"}', {'a': '*/; DROP TABLE todo; --'}),
            ('*/; DROP TABLE todo; --', None),
            ('[' * 100000, None),
            ('[1]', None),
            (b'{}', {}),
        ):
            request = types.SimpleNamespace(is_eager=False, get=lambda name, text=text: text)
            _begin('hostile', types.SimpleNamespace(request=request))
            found, sql = bemi.current_context(), bemi.add_context('insert into t values (1)')
            _end('hostile')
            self.assertEqual(sql.count('*/'), 1, sql)
            self.assertTrue(list(found) == ['bemiError'] if context is None else found == context, found)
        self.assertIsNone(bemi.current_context())

    def test_the_same_task_twice_at_a_time(self):
        """A broker can deliver a task again while it runs."""
        steps = threading.Barrier(2, timeout=60)
        left = []

        def work(i):
            _begin('twice', types.SimpleNamespace(request=types.SimpleNamespace(is_eager=False, get=lambda name: f'{{"i":{i}}}')))
            steps.wait()
            _end('twice')
            left.append(bemi.current_context())

        threads = [threading.Thread(target=work, args=[i]) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(left, [None, None])

    def test_eager(self):
        app.conf.task_always_eager = True
        self.addCleanup(setattr, app.conf, 'task_always_eager', False)
        with bemi.with_context({'a': 1}):
            add.delay('eager 1')
            add.apply(['eager 2'])
            add('eager 3')
        add.delay('eager 4')
        self.assert_contexts('eager', [('eager 1', {'a': 1}), ('eager 2', {'a': 1}), ('eager 3', {'a': 1}), ('eager 4', {})])


