"""Hooks Celery: a task has the context of the code that has called it.

The context goes with the headers of the task's message, also with those of retries, chains and chords.
"""

from __future__ import annotations

import json
from threading import get_ident
from typing import Any, Dict, Tuple

from celery.signals import before_task_publish, task_postrun, task_prerun

from .context import current_text, with_context
from .text import context_text

_HEADER = 'bemi_context'


def _publish(headers: Any = None, **rest: Any) -> None:
    if isinstance(headers, dict):
        # A retry has the headers of the task. The context may have changed since then.
        headers.pop(_HEADER, None)
        text = current_text()
        if text is not None:
            headers[_HEADER] = text


# By the id of the task and the thread: a broker can deliver a task again while it runs.
_blocks: Dict[Tuple[str, int], with_context] = {}


def _begin(task_id: str = '', task: Any = None, **rest: Any) -> None:
    # With task_always_eager, or apply(), the caller's context is in force already.
    if task is None or task.request.is_eager:
        return
    text = task.request.get(_HEADER)
    # It is written again, because who can write into the queue must not be able to write into the text of a statement.
    block = with_context._of_text(context_text(lambda: json.loads(text)) if text else None)
    _blocks[task_id, get_ident()] = block
    block.__enter__()


def _end(task_id: str = '', **rest: Any) -> None:
    block = _blocks.pop((task_id, get_ident()), None)
    if block is not None:
        block.__exit__()


def hook() -> None:
    """Connects the signals, in the processes that call tasks and in the workers. A second time does nothing."""
    before_task_publish.connect(_publish, dispatch_uid='bemi', weak=False)
    task_prerun.connect(_begin, dispatch_uid='bemi', weak=False)
    task_postrun.connect(_end, dispatch_uid='bemi', weak=False)
