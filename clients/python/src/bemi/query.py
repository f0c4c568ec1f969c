"""Appends the context to the queries that change rows."""

from __future__ import annotations

import re

from .context import current_text
from .statements import after_comment, statements

# What can come before the first word of a statement, except comments.
_BEFORE_FIRST_WORD = re.compile(r'(?:\s+|\(|--[^\n\r]*)+', re.ASCII)
_FIRST_WORD = re.compile(r'[a-z]+', re.ASCII | re.IGNORECASE)
_WRITES = {'insert', 'update', 'delete', 'merge', 'truncate', 'copy'}
_WRITES_WITHIN = re.compile(r'\b(?:insert|update|delete|merge)\b', re.ASCII | re.IGNORECASE)


def changes_rows(sql: str) -> bool:
    position = 0
    while True:
        before = _BEFORE_FIRST_WORD.match(sql, position)
        if before:
            position = before.end()
        elif sql.startswith('/*', position):
            position = after_comment(sql, position)
        else:
            break
    match = _FIRST_WORD.match(sql, position)
    word = match[0].lower() if match else ''
    # An unnecessary comment (WITH ... SELECT ... FOR UPDATE) does no harm.
    return word in _WRITES or (word == 'with' and _WRITES_WITHIN.search(sql) is not None)


def _comment(text: str) -> str:
    return f'/*Bemi {text} Bemi*/'


def _add_comment(statement: str, text: str) -> str:
    """After the statement, which can end in a "--" comment."""
    return f'{statement}{chr(10) if "--" in statement else " "}{_comment(text)}'


def add_context(sql: str) -> str:
    """The text of a query, with the context in force behind each statement that changes rows.

    For drivers that bemi does not hook.
    """
    text = current_text()
    # A framework's hook and its driver's can get the same text.
    if text is None or sql.endswith(_comment(text)):
        return sql
    parts = []
    done = 0
    # A context that was written by hand is not replaced.
    for begin, end, has_context in statements(sql):
        statement = sql[begin:end]
        parts.append(sql[done:begin])
        parts.append(_add_comment(statement, text) if not has_context and changes_rows(statement) else statement)
        done = end
    parts.append(sql[done:])
    return ''.join(parts)


def add_context_to_bytes(sql: bytes) -> bytes:
    """The same in any encoding of a server: each has the ASCII characters as they are, and only these count."""
    return sql if current_text() is None else add_context(sql.decode('latin-1')).encode('latin-1')
