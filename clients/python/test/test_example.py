"""The walk with Django: the example, its files, its requests and its rows are those of the page docs/how-to/set-context/django.md.

The application runs in processes of its own, as a user starts it.
"""

import json
import os
import re
import subprocess
import sys
import unittest
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from base import changes, drop_database, here, on_server

DATABASE = 'test_python_example'
EXAMPLE = here / 'example'
page = (here / 'django.md').read_text()


def blocks(language):
    return [text for found, text in re.findall(r'^```(\w*)\n(.*?)^```$', page, re.DOTALL | re.MULTILINE) if found == language]


def printed(table):
    """The cells of a table that psql has printed."""
    return [[cell.strip() for cell in line.split('|')] for line in table.strip().split('\n')[2:-1]]


class ExampleTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        on_server('postgres', f'DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)', f'CREATE DATABASE {DATABASE}')
        cls.addClassCleanup(drop_database, DATABASE)
        environment = {**os.environ, 'PGDATABASE': DATABASE, 'PYTHONUNBUFFERED': '1'}
        manage = [sys.executable, 'manage.py']
        subprocess.run([*manage, 'migrate', '--verbosity=0'], cwd=EXAMPLE, env=environment, check=True)
        subprocess.run([*manage, 'makemigrations', '--check', '--dry-run'], cwd=EXAMPLE, env=environment, check=True, stdout=subprocess.DEVNULL)
        on_server(DATABASE, "SELECT setval('todo_id_seq', 25)")
        # Port 0 is a free port. Django's own text does not name it, so the server is made here.
        code = (
            'import os; os.environ["DJANGO_SETTINGS_MODULE"] = "settings"\n'
            'from django.core.wsgi import get_wsgi_application\n'
            'from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler\n'
            'server = ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler)\n'
            'server.set_app(get_wsgi_application()); print(server.server_port); server.serve_forever()'
        )
        server = subprocess.Popen([sys.executable, '-c', code], cwd=EXAMPLE, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        cls.addClassCleanup(server.wait)
        cls.addClassCleanup(server.kill)
        cls.addClassCleanup(server.stdout.close)
        cls.url = f'http://127.0.0.1:{int(server.stdout.readline())}'

    def ask(self, method, path, body, **headers):
        request = urllib.request.Request(self.url + path, body.encode(), {'Content-Type': 'application/json', **headers}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def test_1_the_page_shows_the_code_of_the_example(self):
        files = [(EXAMPLE / name).read_text() for name in ('todo/migrations/0002_bemi.py', 'settings.py', 'todo/audit.py')]
        for code, file in zip(blocks('python'), files):
            self.assertIn(code, file)

    def test_2_the_five_requests_make_the_five_rows(self):
        for line in blocks('sh')[-1].split('\n'):
            if line.startswith('curl'):
                method = re.search(r' -X (\w+)', line)
                path, body = re.search(r"localhost:3000(\S+) -d '(.*)'$", line).groups()
                self.ask(method[1] if method else 'POST', path, body)
        images, contexts = (printed(table) for table in blocks('')[-1].split('\n\n'))
        expected = [
            (image[1], json.loads(image[2]), json.loads(image[3]), json.loads(context[2])) for image, context in zip(images, contexts)
        ]
        self.assertEqual(len(expected), 5)
        self.assertEqual(changes('true', database=DATABASE), expected)

    def test_3_a_user_of_another_request_is_in_no_other_row(self):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda user: self.ask('POST', '/todo', json.dumps({'task': f'of {user}'}), **{'X-User': str(user)}), range(30)))
        rows = changes("after ->> 'task' LIKE 'of %%'", database=DATABASE)
        self.assertEqual(len(rows), 30)
        for _, _, after, context in rows:
            self.assertEqual(after['task'], f"of {context['userId']}")
