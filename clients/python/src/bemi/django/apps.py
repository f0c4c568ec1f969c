"""Hooks the connections of Django, also of management commands and of other threads."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db import connections
from django.db.backends.signals import connection_created

from ..query import add_context, add_context_to_bytes


def _add_context(execute: Any, sql: Any, params: Any, many: bool, context: Any) -> Any:
    if hasattr(sql, 'as_string'):
        sql = sql.as_string(context['cursor'].cursor)
    sql = add_context_to_bytes(sql) if isinstance(sql, bytes) else add_context(sql)
    return execute(sql, params, many, context)


def hook(connection: Any, **rest: Any) -> None:
    """A connection keeps its wrappers when it connects once more."""
    if connection.vendor == 'postgresql' and _add_context not in connection.execute_wrappers:
        # The first wrapper is the outermost. Those of the application may add statements, so this one is the last.
        connection.execute_wrappers.append(_add_context)


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
