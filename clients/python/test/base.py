"""What the tests share: a database with tracked tables, on the server that PGHOST names."""

import json
import logging
import os
import unittest
from pathlib import Path

import psycopg2

DATABASE = 'test_python'
HOST = os.environ['PGHOST']
USER = os.environ['PGUSER']

# PgBouncer in transaction mode, and its port.
POOLER = os.environ.get('BEMI_POOLER')
POOLER_PORT = 6432

TABLES = """
    CREATE TABLE todo (id serial PRIMARY KEY, task text NOT NULL UNIQUE, done boolean NOT NULL DEFAULT false);
    CREATE TABLE tag (id serial PRIMARY KEY, name text NOT NULL)"""

here = Path(__file__).parent
vectors = json.loads((here / 'vectors.json').read_text())

# The contexts that cannot be sent are meant to be reported.
logging.getLogger('bemi').addHandler(logging.NullHandler())
logging.getLogger('bemi').propagate = False


def dsn(database=DATABASE, pooled=False):
    return f'host={POOLER} port={POOLER_PORT} user={USER} dbname={database}' if pooled else f'host={HOST} user={USER} dbname={database}'


def url(scheme, database=DATABASE, pooled=False):
    host, port = (POOLER, POOLER_PORT) if pooled else (HOST, 5432)
    return f'{scheme}://{USER}@/{database}?host={host}&port={port}'


def on_server(database, *texts):
    connection = psycopg2.connect(dsn(database))
    connection.autocommit = True
    with connection.cursor() as cursor:
        for text in texts:
            cursor.execute(text)
    connection.close()


def make_database(name=DATABASE, tables=TABLES, tracked=('todo', 'tag')):
    on_server('postgres', f'DROP DATABASE IF EXISTS {name} WITH (FORCE)', f'CREATE DATABASE {name}')
    track = [f"SELECT bemi.track('{table}')" for table in tracked]
    on_server(name, tables, 'CREATE EXTENSION bemi', *track, 'CALL bemi.start()')


def drop_database(name=DATABASE):
    on_server('postgres', f'DROP DATABASE {name} WITH (FORCE)')


def changes(condition, *parameters, database=DATABASE):
    """The changes that fulfil the condition, when they are stored: (operation, before, after, context)."""
    connection = psycopg2.connect(dsn(database))
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SELECT bemi.sync('60s')")
        cursor.execute(f'SELECT operation, before, after, context FROM bemi.changes WHERE {condition} ORDER BY id', parameters)
        rows = cursor.fetchall()
    connection.close()
    return rows


def marked(mark):
    """The changes of rows whose task begins with this word, as (task, context)."""
    found = changes("coalesce(after ->> 'task', before ->> 'task', after ->> 'name') LIKE %s", f'{mark} %')
    return [(after.get('task') or after.get('name') or before['task'], context) for _, before, after, context in found]


class DatabaseTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        make_database()
        cls.addClassCleanup(drop_database)
