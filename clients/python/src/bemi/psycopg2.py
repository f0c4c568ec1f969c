"""Hooks psycopg 2: the queries of its cursors get the context of the code that runs them, as a comment behind the text."""

from __future__ import annotations

from typing import Any, Dict, TypeVar, cast

import psycopg2.extensions
import psycopg2.sql

from .context import current_text
from .query import add_context, add_context_to_bytes

Class = TypeVar('Class', bound=type)


class _Hooked:
    """Before a class of cursors in the order of the methods. psycopg2.extras sends bytes, with several statements."""

    def execute(self, query: Any, vars: Any = None) -> Any:
        return super().execute(_with_context(self, query), vars)  # type: ignore[misc]

    def executemany(self, query: Any, vars_list: Any) -> Any:
        return super().executemany(_with_context(self, query), vars_list)  # type: ignore[misc]

    def copy_expert(self, sql: Any, file: Any, size: int = 8192) -> Any:
        return super().copy_expert(_with_context(self, sql), file, size)  # type: ignore[misc]


def _with_context(cursor: Any, query: Any) -> Any:
    if current_text() is None:
        return query
    if isinstance(query, psycopg2.sql.Composable):
        query = query.as_string(cursor)
    if isinstance(query, str):
        return add_context(query)
    return add_context_to_bytes(query) if isinstance(query, bytes) else query


# A connection of SQLAlchemy or Django asks for its class again.
_classes: Dict[type, type] = {}


def hooked(cursor_class: Class) -> Class:
    """A subclass of a class of cursors, for cursor_factory. A class that is hooked already is returned as it is."""
    if issubclass(cursor_class, _Hooked):
        return cast(Class, cursor_class)
    if cursor_class not in _classes:
        _classes[cursor_class] = type(cursor_class.__name__, (_Hooked, cursor_class), {'__module__': __name__})
    return cast(Class, _classes[cursor_class])


class Cursor(_Hooked, psycopg2.extensions.cursor):  # type: ignore[misc]
    """For psycopg2.connect(..., cursor_factory=Cursor)."""
