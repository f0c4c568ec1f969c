"""Hooks Celery: a task has the context of the code that has called it.

The context goes with the headers of the task's message, also with those of retries, chains and chords.
"""

from __future__ import annotations

from typing import Any, Dict

from celery.signals import before_task_publish, task_postrun, task_prerun

from .context import current_text, with_context

_HEADER = 'bemi_context'


def _publish(headers: Any = None, **rest: Any) -> None:
    if isinstance(headers, dict):
        # A retry has the headers of the task. The context may have changed since then.
        headers[_HEADER] = current_text()


# By the id of the task.
_blocks: Dict[str, with_context] = {}


def _begin(task_id: str = '', task: Any = None, **rest: Any) -> None:
    # With task_always_eager, or apply(), the caller's context is in force already.
    if task is None or task.request.is_eager:
        return
    text = task.request.get(_HEADER)
    block = with_context._of_text(text if isinstance(text, str) else None)
    _blocks[task_id] = block
    block.__enter__()


def _end(task_id: str = '', **rest: Any) -> None:
    block = _blocks.pop(task_id, None)
    if block is not None:
        block.__exit__()


def hook() -> None:
    """Connects the signals, in the processes that call tasks and in the workers. A second time does nothing."""
    before_task_publish.connect(_publish, dispatch_uid='bemi', weak=False)
    task_prerun.connect(_begin, dispatch_uid='bemi', weak=False)
    task_postrun.connect(_end, dispatch_uid='bemi', weak=False)
