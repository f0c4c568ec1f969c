"""Which context the running code has: bound to the thread and the asynchronous task, by contextvars.

It keeps the text of the context from the time when it was set. So later changes of the object do not change the context,
and a context that cannot be converted is reported once, not for each query.
"""

from __future__ import annotations

import inspect
import json
from contextvars import ContextVar
from functools import wraps
from typing import Any, Callable, Mapping, NamedTuple, Optional, TypeVar, cast

from .text import context_text

Function = TypeVar('Function', bound=Callable[..., Any])


class _Frame(NamedTuple):
    """A context in force. `block` is the with_context that it belongs to, `outer` what was in force before the block."""

    text: Optional[str]
    block: Optional[with_context]
    outer: Optional[_Frame]


# Frames are never changed, because tasks and threads that were started within a block share them.
_frame: ContextVar[Optional[_Frame]] = ContextVar('bemi', default=None)


def current_text() -> Optional[str]:
    """The text of the context, None if there is none."""
    frame = _frame.get()
    return None if frame is None else frame.text


def current_context() -> Optional[dict[str, Any]]:
    """The context in force as it will be stored, None if there is none."""
    text = current_text()
    return None if text is None else cast('dict[str, Any]', json.loads(text))


def _replace(text: Optional[str]) -> None:
    frame = _frame.get()
    _frame.set(_Frame(text, frame and frame.block, frame and frame.outer))


def set_context(context: Optional[Mapping[str, Any]]) -> None:
    """Sets the context from here on: in this thread or asynchronous task, until the end of the innermost with_context().

    It replaces the current context; None removes it. Prefer with_context() for work that has an end.
    """
    _replace(context_text(lambda: context))


def merge_context(context: Optional[Mapping[str, Any]]) -> None:
    """The same, but keeps those keys of the context in force that `context` does not have."""
    _replace(context_text(lambda: {**(current_context() or {}), **(context or {})}))


class with_context:
    """The context of a block, or of each call of a function. After that, the former context is in force again.

    with with_context({'job': 'nightly'}):
        ...

    @with_context({'job': 'nightly'})
    def remove_old_todos(): ...

    Blocks and functions can be asynchronous.
    """

    def __init__(self, context: Optional[Mapping[str, Any]]) -> None:
        self._text = context_text(lambda: context)

    @classmethod
    def _of_text(cls, text: Optional[str]) -> with_context:
        block = cls.__new__(cls)
        block._text = text
        return block

    def __enter__(self) -> None:
        _frame.set(_Frame(self._text, self, _frame.get()))

    def __exit__(self, *error: object) -> None:
        # A generator can end in another task than it has begun in. The block is not in force there.
        frame = _frame.get()
        while frame is not None and frame.block is not self:
            frame = frame.outer
        if frame is not None:
            _frame.set(frame.outer)

    def __call__(self, function: Function) -> Function:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            # It would run with the context of whoever asks for the next value, and give it this one.
            raise TypeError('with_context() cannot decorate a generator: use it around the loop, or within the generator')
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast(Function, run_async)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(Function, run)
