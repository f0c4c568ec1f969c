"""Hooks the cursors of a connection that a framework has made.

They see what passes by the framework's own hooks: COPY, and statements of the driver's cursors. And psycopg 3 must not prepare
texts with changing contexts.
"""

from __future__ import annotations

from typing import Any


def hook_cursors(connection: Any) -> None:
    """The next cursors of a connection of psycopg 2 or 3. Connections of other drivers stay as they are."""
    drivers = {base.__module__.partition('.')[0] for base in type(connection).__mro__}
    if 'psycopg' in drivers:
        from . import psycopg as hooks

        factory = connection.cursor_factory
    elif 'psycopg2' in drivers:
        from psycopg2.extensions import cursor

        from . import psycopg2 as hooks  # type: ignore[no-redef]

        factory = connection.cursor_factory or cursor
    else:
        return
    # A function can make cursors, too.
    if isinstance(factory, type):
        connection.cursor_factory = hooks.hooked(factory)
