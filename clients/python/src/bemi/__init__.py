"""Passes the application's context to bemi, the PostgreSQL extension that keeps the history of every row."""

from .context import current_context, merge_context, set_context, with_context
from .query import add_context

__all__ = ['add_context', 'current_context', 'merge_context', 'set_context', 'with_context']
