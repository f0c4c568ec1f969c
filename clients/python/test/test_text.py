"""The text of contexts and statements: exactly that of ../vectors.json, which all clients share."""

import logging
import unittest
import uuid
from datetime import date, datetime, timezone
from decimal import Decimal

from base import vectors

import bemi
from bemi.context import current_text
from bemi.query import add_context_to_bytes


def text_of(context):
    with bemi.with_context(context):
        return current_text()


class TextTest(unittest.TestCase):
    def test_contexts(self):
        for vector in vectors['contexts']:
            with self.subTest(vector['name']):
                self.assertEqual(text_of(vector['context']), vector['text'])

    def test_large_contexts(self):
        for vector in vectors['large']:
            with self.subTest(vector['name']):
                text = text_of({'big': vector['piece'] * vector['times']})
                sent = '{"big":"' + vector['escaped'] * vector['times'] + '"}'
                self.assertTrue(text == sent if vector['sent'] else text.startswith('{"bemiError":"'))

    def test_statements(self):
        with bemi.with_context({'a': 1}):
            for vector in vectors['statements']:
                with self.subTest(vector['sql']):
                    self.assertEqual(bemi.add_context(vector['sql']), vector['result'])
                    self.assertEqual(add_context_to_bytes(vector['sql'].encode()), vector['result'].encode())

    def test_statements_without_context(self):
        for vector in vectors['statements']:
            self.assertEqual(bemi.add_context(vector['sql']), vector['sql'])

    def test_bytes_of_any_encoding(self):
        with bemi.with_context({'a': 1}):
            for text in ('é', '漢字', '\u2028'):
                sql = f"update t set a = '{text}'; update \"{text}\" set {text} = $${text}$$"
                comment = ' /*Bemi {"a":1} Bemi*/'
                self.assertEqual(add_context_to_bytes(sql.encode()).decode(), sql.replace(';', f'{comment};') + comment)

    def test_a_string_whose_end_is_unknown(self):
        with bemi.with_context({'a': 1}):
            # One statement: the comment behind it is right in any case.
            self.assertEqual(bemi.add_context("update t set a = '\\'; select 1"), "update t set a = '\\'; select 1 /*Bemi {\"a\":1} Bemi*/")

    def test_values_of_python(self):
        key = uuid.UUID(int=1)
        context = {
            'uuid': key, 'date': date(2026, 11, 30), 'time': datetime(2026, 11, 30, 1, 2, 3, tzinfo=timezone.utc), 'price': Decimal('1.50'),
            'set': {1}, 'tuple': (1, 2), 1: 'one',
        }
        self.assertEqual(
            text_of(context),
            f'{{"uuid":"{key}","date":"2026-11-30","time":"2026-11-30T01:02:03+00:00","price":"1.50","set":[1],"tuple":[1,2],"1":"one"}}',
        )

    def test_what_cannot_be_sent_is_noted(self):
        class Unreadable(dict):
            def items(self):
                raise RuntimeError('no')

        class Unprintable(Exception):
            def __str__(self):
                raise RuntimeError('no')

        class Worse(dict):
            def keys(self):
                raise Unprintable

            __iter__ = items = keys

        cycle = {}
        cycle['self'] = cycle
        deep = {}
        for _ in range(500):
            deep = {'a': deep}
        deeper = {'a': deep}
        for _ in range(100000):
            deeper = {'a': deeper}
        for context in (
            cycle, deep, deeper, {'a': object()}, {'a': float('nan')}, {'a': list(range(10001))}, [1], 'text', 1, {(1, 2): 3},
            {'a': Unreadable(b=1)}, {'a': Worse(b=1)}, {'a': 10**5000},
        ):
            with self.assertLogs('bemi', 'WARNING') as logs:
                text = text_of(context)
            self.assertTrue(text.startswith('{"bemiError":"'), text[:100])
            self.assertLess(len(text), 1000)
            self.assertEqual(len(logs.output), 1)

    def test_a_log_that_fails(self):
        class Broken(logging.Handler):
            def emit(self, record):
                raise RuntimeError('the disk is full')

        handler = Broken()
        log = logging.getLogger('bemi')
        log.addHandler(handler)
        self.addCleanup(log.removeHandler, handler)
        # Celery's worker sets the level of all loggers.
        self.addCleanup(log.setLevel, log.level)
        log.setLevel(logging.WARNING)
        self.assertTrue(text_of({'a': object()}).startswith('{"bemiError":"a value of type object'))

    def test_a_text_that_has_the_context_already(self):
        with bemi.with_context({'a': 1}):
            for text in ('update t set a = 1', "update t set a = ';'; delete from t", 'update t set a = 1 -- why'):
                once = bemi.add_context(text)
                self.assertEqual(bemi.add_context(once), once)

    def test_limits(self):
        deep = {}
        for _ in range(499):
            deep = {'a': deep}
        for context in (deep, {'a': list(range(9999))}):
            self.assertEqual(bemi.with_context(context)._text[:4], '{"a"')
