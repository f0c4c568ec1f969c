"""The package has types: mypy finds no error in it, and checks the code of its users with them, which needs py.typed in the wheel."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from base import here

SOURCE = here.parent / 'source'

USER = """
from typing import Any, Optional
from bemi import add_context, current_context, merge_context, set_context, with_context

@with_context({'job': 'nightly'})
def job(number: int) -> str:
    with with_context({'number': number}):
        merge_context({'a': [1, None]})
    set_context(None)
    found: Optional[dict[str, Any]] = current_context()
    return add_context(str(found))

@with_context(None)
async def async_job(number: int) -> str:
    return job(number)

async def main() -> None:
    text: str = job(1) + await async_job(2)
"""

WRONG = """
job('text')
set_context(1)
add_context(b'bytes')
"""


def errors(*arguments, **options):
    """The lines that mypy prints."""
    found = subprocess.run(
        [sys.executable, '-m', 'mypy', '--cache-dir=/dev/null', '--no-error-summary', *arguments], capture_output=True, text=True, **options)
    return [line for line in (found.stdout + found.stderr).splitlines() if line]


class TypesTest(unittest.TestCase):
    maxDiff = None

    def test_the_package(self):
        self.assertEqual(errors('--config-file=pyproject.toml', 'src', cwd=SOURCE), [])

    def test_its_users(self):
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory, 'user.py')
            file.write_text(USER)
            self.assertEqual(errors('--strict', str(file), cwd=directory), [])
            file.write_text(USER + WRONG)
            wrong = [line for line in errors('--strict', str(file), cwd=directory) if '[arg-type]' in line]
            self.assertEqual(len(wrong), 3, wrong)
