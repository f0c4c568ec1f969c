"""Hooks SQLAlchemy: the queries of its engines get the context of the code that runs them.

SQLAlchemy keeps compiled statements. The event comes after that, when a text goes to the driver, so the comment is in no
cache. With executemany and insertmanyvalues, it comes once for each text.
"""

from __future__ import annotations

from typing import Any, Optional, Tuple

from sqlalchemy import event
from sqlalchemy.engine import Engine

from .cursors import hook_cursors
from .query import add_context


def _before_cursor_execute(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> Tuple[str, Any]:
    if connection.dialect.name == 'postgresql':
        statement = add_context(statement)
    return statement, parameters


def _connect(dbapi_connection: Any, record: Any) -> None:
    # Asynchronous connections are within an adapter.
    hook_cursors(getattr(dbapi_connection, '_connection', dbapi_connection))


def hook(engine: Optional[Any] = None) -> None:
    """Hooks an Engine or AsyncEngine; without an argument, all engines. A second time does nothing."""
    target = Engine if engine is None else getattr(engine, 'sync_engine', engine)
    if not event.contains(target, 'before_cursor_execute', _before_cursor_execute):  # type: ignore[no-untyped-call]
        event.listen(target, 'before_cursor_execute', _before_cursor_execute, retval=True)
        event.listen(target, 'connect', _connect)
