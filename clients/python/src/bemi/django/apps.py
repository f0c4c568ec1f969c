"""Hooks the connections of Django, also of management commands and of other threads."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.backends.signals import connection_created

from ..context import current_text
from ..cursors import hook_cursors
from ..query import add_context, add_context_to_bytes


def _add_context(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
    if current_text() is not None:
        if hasattr(sql, 'as_string'):
            sql = sql.as_string(context['cursor'].cursor)
        sql = add_context_to_bytes(sql) if isinstance(sql, bytes) else add_context(sql)
    return execute(sql, params, many, context)


def hook(connection: Any, **rest: Any) -> None:
    """A connection keeps its wrappers when it connects once more, but its cursors are those of a new connection."""
    if connection.vendor != 'postgresql':
        return
    if _add_context not in connection.execute_wrappers:
        # Not the last one, because this can be within a block of connection.execute_wrapper(), which removes the last one.
        connection.execute_wrappers.insert(0, _add_context)
    hook_cursors(connection.connection)


class BemiConfig(AppConfig):  # type: ignore[misc]
    name = 'bemi.django'
    label = 'bemi'
    verbose_name = 'bemi'

    def ready(self) -> None:
        connection_created.connect(hook, dispatch_uid='bemi')
        for alias in connections:
            # What other applications have opened before.
            if connections[alias].connection is not None:
                hook(connections[alias])
