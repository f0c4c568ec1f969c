"""The table of stacks in docs/how-to/set-context/python.md has a "yes" for what has passed in this run, and for nothing else.
This file is the last one. It has nothing to compare if single files were asked for."""

import re
import unittest
from pathlib import Path

from base import POOLER, here
from stack import passed_file


# In each release of Debian. The others need newer versions.
ALWAYS = {'Django', 'SQLAlchemy, psycopg2', 'SQLAlchemy, asyncpg', 'psycopg2', 'psycopg 3', 'psycopg 3, ClientCursor', 'Celery'}


def table(page):
    """The cells "yes" as stack|version|feature. The versions of a row are separated by commas."""
    section = page.split('\n## Stacks\n')[1]
    head, _, *rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in re.findall(r'^\|.*\|$', section, re.MULTILINE)]
    return {
        f'{row[0]}|{version}|{feature}'
        for row in rows
        if len(row) == len(head)
        for version in row[1].split(', ')
        for feature, cell in zip(head[2:], row[2:])
        if cell == 'yes'
    }


class TableTest(unittest.TestCase):
    maxDiff = None

    @unittest.skipUnless(passed_file, 'not all files were run')
    def test_each_cell_has_passed(self):
        passed = set(Path(passed_file).read_text().split('\n')) - {''}
        expected = table((here / 'python.md').read_text())
        if not POOLER:
            expected = {cell for cell in expected if not cell.endswith('|PgBouncer')}
        self.assertLessEqual(ALWAYS, {cell.split('|')[0] for cell in passed})
        # Each release of Debian has one version of a stack.
        versions = {cell.rpartition('|')[0] for cell in passed}
        self.assertEqual(passed, {cell for cell in expected if cell.rpartition('|')[0] in versions})
