"""Django: requests in synchronous and asynchronous handlers, and the ways in which its ORM writes."""

import asyncio
import io
import logging
import subprocess
import sys
import threading
import types
import unittest

import django
from base import DATABASE, HOST, POOLER, POOLER_PORT, USER, marked
from django.conf import settings
from stack import StackTest

import bemi


def server(host, port):
    return {
        'ENGINE': 'django.db.backends.postgresql', 'NAME': DATABASE, 'USER': USER, 'HOST': host, 'PORT': port,
        'DISABLE_SERVER_SIDE_CURSORS': True,
    }


settings.configure(
    DATABASES={
        'default': server(HOST, ''),
        'other': server(HOST, ''),
        'pooled': server(POOLER or HOST, POOLER_PORT),
        'sqlite': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'},
    },
    INSTALLED_APPS=['bemi.django'],
    MIDDLEWARE=['test_django.find_user', 'bemi.django.context_middleware'],
    BEMI_CONTEXT='test_django.context_of',
    ROOT_URLCONF='test_django',
    ALLOWED_HOSTS=['*'],
    SECRET_KEY='x',
    USE_TZ=True,
    DEFAULT_AUTO_FIELD='django.db.models.AutoField',
)
django.setup()

from asgiref.sync import sync_to_async  # noqa: E402
from django.db import connection, connections, models, transaction  # noqa: E402
from django.http import FileResponse, HttpResponse, StreamingHttpResponse  # noqa: E402
from django.test import AsyncClient, Client, override_settings  # noqa: E402
from django.urls import path  # noqa: E402
from django.utils.decorators import sync_and_async_middleware  # noqa: E402

from bemi.django.middleware import _keep_context  # noqa: E402

# Views that fail are meant to.
logging.getLogger('django.request').setLevel(logging.CRITICAL)

# The driver that Django uses.
if getattr(connection.Database, '__name__', '') == 'psycopg':
    from psycopg import sql
else:
    from psycopg2 import sql


class Todo(models.Model):
    task = models.TextField()
    done = models.BooleanField(default=False)

    class Meta:
        app_label = 'test'
        db_table = 'todo'


def context_of(request):
    if request.headers.get('X-Context') == 'none':
        return None
    if request.headers.get('X-Context') == 'error':
        raise RuntimeError('no user')
    return {'path': request.path, 'userId': request.user}


@sync_and_async_middleware
def find_user(get_response):
    if asyncio.iscoroutinefunction(get_response):

        async def handle(request):
            request.user = int(request.headers['X-User'])
            return await get_response(request)

    else:

        def handle(request):
            request.user = int(request.headers['X-User'])
            return get_response(request)

    return handle


def add(request):
    Todo.objects.create(task=request.GET['task'])
    if 'reason' in request.GET:
        bemi.merge_context({'reason': request.GET['reason']})
        Todo.objects.create(task=request.GET['task'] + ' merged')
    return HttpResponse('ok')


async def async_add(request):
    await asyncio.sleep(0.001 * (request.user % 3))
    await sync_to_async(add)(request)
    bemi.merge_context({'async': True})
    await sync_to_async(Todo.objects.create)(task=request.GET['task'] + ' async')
    return HttpResponse('ok')


def stream(request):
    def parts():
        for i in range(2):
            Todo.objects.create(task=f"{request.GET['task']} {i}")
            yield 'ok'

    return StreamingHttpResponse(parts())


def fail(request):
    Todo.objects.create(task=request.GET['task'])
    raise ZeroDivisionError


urlpatterns = [path('add', add), path('fail', fail), path('async', async_add), path('stream', stream)]


class DjangoTest(StackTest):
    stack, version = 'Django', django.__version__

    def connect(self, pooled=False):
        return 'pooled' if pooled else 'default'

    def close(self, db):
        connections[db].close()

    def insert(self, db, task):
        Todo.objects.using(db).create(task=task)

    def transaction(self, db):
        return transaction.atomic(using=db)

    savepoint = transaction

    def save_and_delete(self, db, tasks):
        todo = Todo(task=tasks[0])
        todo.save()
        todo.done = True
        todo.save()
        todo.delete()

    def bulk(self, db, tasks):
        rows = Todo.objects.bulk_create([Todo(task=task) for task in tasks])
        for row in rows:
            row.done = True
        Todo.objects.bulk_update(rows, ['done'])
        Todo.objects.filter(task__in=tasks).update(done=False)
        Todo.objects.filter(task__in=tasks).delete()

    def get_or_create(self, db, tasks):
        Todo.objects.get_or_create(task=tasks[0])
        Todo.objects.get_or_create(task=tasks[0])
        Todo.objects.update_or_create(task=tasks[0], defaults={'done': True})

    def cursor(self, db, tasks):
        with connection.cursor() as cursor:
            cursor.execute('INSERT INTO todo (task, done) VALUES (%s, %s)', [tasks[0], False])
            cursor.execute("UPDATE todo SET done = true WHERE task LIKE 'way%'")
            cursor.executemany('INSERT INTO todo (task, done) VALUES (%s, false)', [[tasks[1]], [tasks[2]]])

    def composed(self, db, tasks):
        with connection.cursor() as cursor:
            cursor.execute(sql.SQL('INSERT INTO {} (task) VALUES (%s)').format(sql.Identifier('todo')), [tasks[0]])
            cursor.execute(b'INSERT INTO todo (task) VALUES (%s)', [tasks[1]])

    def raw(self, db, tasks):
        list(Todo.objects.raw('INSERT INTO todo (task, done) VALUES (%s, false) RETURNING *', [tasks[0]]))

    def other_connection(self, db, tasks):
        Todo.objects.using('other').create(task=tasks[0])
        connections['other'].close()
        Todo.objects.using('other').create(task=tasks[1])
        connections['other'].close()

    ways = {
        'save and delete': (3, save_and_delete), 'bulk operations': (12, bulk), 'get_or_create': (2, get_or_create),
        'cursor': (4, cursor), 'sql.Composed and bytes': (2, composed), 'raw': (1, raw), 'another connection, twice': (2, other_connection),
    }

    def test_requests(self):
        client = Client()
        for user in (1, 2):
            self.assertEqual(client.get(f'/add?task=request+{user}&reason=refund', HTTP_X_USER=user).content, b'ok')
        self.insert('default', 'request none')
        client.get('/add?task=request+nothing', HTTP_X_USER=3, HTTP_X_CONTEXT='none')
        with self.assertLogs('bemi', 'WARNING'):
            self.assertEqual(client.get('/add?task=request+error', HTTP_X_USER=3, HTTP_X_CONTEXT='error').content, b'ok')
        self.assertEqual(marked('request'), [
            ('request 1', {'path': '/add', 'userId': 1}),
            ('request 1 merged', {'path': '/add', 'userId': 1, 'reason': 'refund'}),
            ('request 2', {'path': '/add', 'userId': 2}),
            ('request 2 merged', {'path': '/add', 'userId': 2, 'reason': 'refund'}),
            ('request none', {}),
            ('request nothing', {}),
            ('request error', {'bemiError': 'no user'}),
        ])

    def test_streamed_responses(self):
        response = Client().get('/stream?task=stream', HTTP_X_USER=7)
        parts = iter(response.streaming_content)
        next(parts)
        self.insert('default', 'stream between')
        self.assertEqual(list(parts), [b'ok'])
        self.assertEqual([(task, context.get('userId')) for task, context in marked('stream')], [
            ('stream 0', 7), ('stream between', None), ('stream 1', 7)])

    def test_requests_in_threads(self):
        def work(user):
            for i in range(5):
                Client().get(f'/add?task=parallel+{user}+{i}', HTTP_X_USER=user)
            connections.close_all()

        threads = [threading.Thread(target=work, args=[user]) for user in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = marked('parallel')
        self.assertEqual(len(found), 40)
        for task, context in found:
            self.assertEqual(context, {'path': '/add', 'userId': int(task.split(' ')[1])})

    def test_asyncio(self):
        async def ask(user):
            url = 'async' if user % 2 else 'add'
            response = await AsyncClient().get(f'/{url}?task=async+{user}&reason={user}', **{'X-User': str(user)})
            self.assertEqual(response.content, b'ok')

        async def main():
            await asyncio.gather(*(ask(user) for user in range(40)))
            await sync_to_async(self.insert)('default', 'async none')

        asyncio.run(main())
        found = marked('async')
        self.assertEqual(len(found), 40 * 2 + 20 + 1)
        for task, context in found:
            _, user, *rest = task.split(' ')
            if user == 'none':
                self.assertEqual(context, {})
                continue
            expected = {'path': '/async' if int(user) % 2 else '/add', 'userId': int(user)}
            if rest:
                expected['reason'] = user
            if rest == ['async']:
                # What synchronous code sets within a request also holds behind it.
                expected['async'] = True
            self.assertEqual(context, expected, task)
        self.feature('asyncio')

    def test_other_databases(self):
        with bemi.with_context({'a': 1}), connections['sqlite'].cursor() as cursor:
            seen = []
            with connections['sqlite'].execute_wrapper(lambda execute, sql, *rest: (seen.append(sql), execute(sql, *rest))[1]):
                cursor.execute('SELECT 1')
            cursor.execute('CREATE TABLE t (a int)')
            cursor.execute('INSERT INTO t VALUES (1)')
        self.assertEqual(len(connections['sqlite'].execute_wrappers), 0)

    def test_a_connection_that_is_made_within_a_wrapper(self):
        """Django removes the last wrapper at the end of the block, which must be the application's."""
        seen = []
        connection.close()
        connection.execute_wrappers.clear()
        with connection.execute_wrapper(lambda execute, sql, *rest: (seen.append(sql), execute(sql, *rest))[1]):
            self.insert('default', 'within 1')
        self.assertEqual(len(seen), 1)
        with bemi.with_context({'a': 1}):
            self.insert('default', 'within 2')
        self.assertEqual(len(seen), 1)
        self.assertEqual(marked('within'), [('within 1', {}), ('within 2', {'a': 1})])

    def test_without_a_context_nothing_changes(self):
        seen = []
        composed = sql.SQL('SELECT 1')
        with connection.cursor() as cursor, connection.execute_wrapper(lambda execute, sql, *rest: seen.append(sql)):
            for text in (composed, b'UPDATE todo SET done = true', 'UPDATE todo SET done = true'):
                cursor.execute(text)
        self.assertIs(seen[0], composed)
        self.assertEqual(seen[1:], [b'UPDATE todo SET done = true', 'UPDATE todo SET done = true'])

    def test_a_connection_that_another_application_has_opened(self):
        """Applications before bemi.django get ready before it."""
        code = (
            'from test_django import *\n'
            'connection.execute_wrappers.clear()\n'
            'connection.ensure_connection()\n'
            'connection.execute_wrappers.clear()\n'
            'django.apps.apps.get_app_config("bemi").ready()\n'
            'print(len(connection.execute_wrappers))')
        self.assertEqual(subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True).stdout, '1\n')

    def test_one_wrapper_for_each_connection(self):
        for _ in range(3):
            self.insert('default', f'wrapper {_}')
            connection.close()
        self.assertEqual([wrapper.__module__ for wrapper in connection.execute_wrappers], ['bemi.django.apps'])

    def test_setting(self):
        from django.core.exceptions import ImproperlyConfigured

        with override_settings(BEMI_CONTEXT=None), self.assertRaisesRegex(ImproperlyConfigured, 'BEMI_CONTEXT is a function'):
            Client().get('/add?task=x', HTTP_X_USER=1)
        with override_settings(BEMI_CONTEXT=lambda request: {'lambda': request.user}):
            Client().get('/add?task=setting+1', HTTP_X_USER=1)

        async def async_context(request):
            await asyncio.sleep(0)
            return {'async': request.user}

        async def ask():
            await AsyncClient().get('/async?task=setting+3', **{'X-User': '3'})

        with override_settings(BEMI_CONTEXT=async_context):
            Client().get('/add?task=setting+2', HTTP_X_USER=2)
            asyncio.run(ask())
        self.assertEqual(marked('setting'), [
            ('setting 1', {'lambda': 1}),
            ('setting 2', {'async': 2}),
            ('setting 3', {'async': 3}),
            ('setting 3 async', {'async': True}),
        ])

    def test_an_error_of_an_asynchronous_function(self):
        async def ask():
            return await AsyncClient().get('/async?task=failed+1', **{'X-User': '3', 'X-Context': 'error'})

        with self.assertLogs('bemi', 'WARNING'):
            self.assertEqual(asyncio.run(ask()).content, b'ok')
        self.assertEqual(marked('failed'), [('failed 1', {'bemiError': 'no user'}), ('failed 1 async', {'bemiError': 'no user', 'async': True})])

    def test_streamed_responses_of_asyncio(self):
        """Django before 4.2 has none, so the response is one of the test."""

        async def parts():
            for _ in range(2):
                yield bemi.current_context()

        async def main():
            response = _keep_context(types.SimpleNamespace(streaming=True, streaming_content=parts()), bemi.with_context({'a': 1}))
            seen = []
            async for part in response.streaming_content:
                seen += [part, bemi.current_context()]
            return seen

        self.assertEqual(asyncio.run(main()), [{'a': 1}, None] * 2)

    def test_files_stay_files(self):
        """A server that sends files by itself knows them by this attribute."""
        response = FileResponse(io.BytesIO(b'text'))
        content = response.file_to_stream
        self.assertIs(_keep_context(response, bemi.with_context({'a': 1})).file_to_stream, content)
        self.assertEqual(list(response.streaming_content), [b'text'])

    @unittest.skipIf(django.VERSION >= (4, 2), 'Django 4.2 needs asgiref 3.6 itself')
    def test_asgiref_of_older_versions_of_django(self):
        """Before asgiref 3.6, asyncio's function is the right one."""
        code = 'import asgiref.sync, asyncio; vars(asgiref.sync).pop("iscoroutinefunction", 0); import bemi.django.middleware as m; ' \
            'assert m.iscoroutinefunction is asyncio.iscoroutinefunction'
        subprocess.run([sys.executable, '-c', code], check=True)

    def test_atomic_requests(self):
        """What a view changes before it fails is rolled back, and the next request has its own context."""
        with override_settings(DEBUG=False):
            connection.settings_dict['ATOMIC_REQUESTS'] = True
            self.addCleanup(connection.settings_dict.__setitem__, 'ATOMIC_REQUESTS', False)
            client = Client(raise_request_exception=False)
            self.assertEqual(client.get('/fail?task=atomic+1', HTTP_X_USER=1).status_code, 500)
            client.get('/add?task=atomic+2', HTTP_X_USER=2)
        self.assertIsNone(bemi.current_context())
        self.assertEqual(marked('atomic'), [('atomic 2', {'path': '/add', 'userId': 2})])

    def copy(self, cursor, task):
        if sql.__name__.startswith('psycopg2'):
            cursor.copy_expert('COPY todo (task) FROM STDIN', io.StringIO(f'{task}\n'))
        else:
            with cursor.copy('COPY todo (task) FROM STDIN') as copy:
                copy.write_row([task])

    def test_what_passes_by_the_wrappers(self):
        """COPY, and the driver's own cursors, also of a new connection."""
        for i in range(2):
            with bemi.with_context({'i': i}), connection.cursor() as cursor:
                self.copy(cursor, f'copied {i} a')
                with connection.connection.cursor() as own:
                    self.copy(own, f'copied {i} b')
                    own.execute('INSERT INTO todo (task) VALUES (%s)', [f'copied {i} c'])
            connection.close()
        self.assertEqual(marked('copied'), [(f'copied {i} {letter}', {'i': i}) for i in range(2) for letter in 'abc'])

    def test_iterators(self):
        """Cursors on the server read as before."""
        self.insert('default', 'iterator 1')
        connection.settings_dict['DISABLE_SERVER_SIDE_CURSORS'] = False
        self.addCleanup(connection.settings_dict.__setitem__, 'DISABLE_SERVER_SIDE_CURSORS', True)
        with bemi.with_context({'a': 1}):
            self.assertEqual([todo.task for todo in Todo.objects.filter(task='iterator 1').iterator()], ['iterator 1'])

    @unittest.skipIf(sql.__name__.startswith('psycopg2'), 'psycopg 2 prepares nothing')
    def test_prepared_statements(self):
        """An application can ask psycopg 3 for them. Texts with a context leave nothing on the server."""
        options = {'prepare_threshold': 0, 'server_side_binding': True}
        connection.close()
        connection.settings_dict['OPTIONS'].update(options)
        self.addCleanup(connection.close)
        self.addCleanup(connection.settings_dict['OPTIONS'].clear)
        for i in range(10):
            with bemi.with_context({'i': i}):
                self.insert('default', f'prepared {i}')
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'INSERT%%'", [])
            self.assertEqual(cursor.fetchone(), (0,))
        self.assertEqual(marked('prepared'), [(f'prepared {i}', {'i': i}) for i in range(10)])


del StackTest
