"""Hooks psycopg 3: the queries of its cursors get the context of the code that runs them.

The context goes behind the text, as a comment. psycopg prepares a text when it is executed for the sixth time, and each
text of executemany(). With changing comments, these statements would displace the useful ones on the server. So a text with
a context is never prepared.
"""

from __future__ import annotations

from typing import Any, Dict, Optional, TypeVar, cast

import psycopg

from .context import current_text
from .query import add_context, add_context_to_bytes

Class = TypeVar('Class', bound=type)


class _Hooked:
    """Before a class of cursors in the order of the methods. The methods of an AsyncCursor return what the caller awaits."""

    __slots__ = ()

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        return super().execute(_with_context(self, query), params, **options)  # type: ignore[misc]

    def executemany(self, query: Any, params_seq: Any, **options: Any) -> Any:
        return super().executemany(_with_context(self, query), params_seq, **options)  # type: ignore[misc]

    def stream(self, query: Any, params: Any = None, **options: Any) -> Any:
        return super().stream(_with_context(self, query), params, **options)  # type: ignore[misc]

    def copy(self, statement: Any, params: Any = None, **options: Any) -> Any:
        return super().copy(_with_context(self, statement), params, **options)  # type: ignore[misc]

    def _get_prepared(self, pgq: Any, prepare: Optional[bool] = None) -> Any:
        if current_text() is not None and b'/*Bemi ' in pgq.query:
            prepare = False
        return super()._get_prepared(pgq, prepare)  # type: ignore[misc]


def _with_context(cursor: Any, query: Any) -> Any:
    if current_text() is None:
        return query
    if isinstance(query, psycopg.sql.Composable):
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


class Cursor(_Hooked, psycopg.Cursor[Any]):
    """For psycopg.connect(..., cursor_factory=Cursor)."""


class AsyncCursor(_Hooked, psycopg.AsyncCursor[Any]):
    """For psycopg.AsyncConnection.connect(..., cursor_factory=AsyncCursor)."""


class ClientCursor(_Hooked, psycopg.ClientCursor[Any]):
    """The same as psycopg.ClientCursor, which puts the parameters into the text."""


class AsyncClientCursor(_Hooked, psycopg.AsyncClientCursor[Any]):
    """The same as psycopg.AsyncClientCursor."""
