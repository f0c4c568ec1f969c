"""A context as text: JSON that is safe in a comment of any query, with any contents.

All clients of bemi write the same text, see clients/vectors.json.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import date, time
from decimal import Decimal
from enum import Enum
from os import PathLike, fspath
from typing import Any, Callable, Mapping, Optional
from uuid import UUID

log = logging.getLogger('bemi')

# The server's default of bemi.max_context_size. It would leave out a larger context.
MAX_SIZE = 1024 * 1024

# The default of bemi.max_context_keys: keys and elements, at all levels together.
MAX_KEYS = 10000

# Deeper JSON may be refused by the server, whose limit depends on its stack.
MAX_DEPTH = 500

MAX_ERROR_LENGTH = 200

# Every escape, because the second half of "\\" does not begin another one. Both halves of a surrogate pair are one match.
_ESCAPE = re.compile(r'\\(?:u0000|ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|ud[89a-f][0-9a-f]{2}|.)')

_MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],]')


def _storable(escape: re.Match[str]) -> str:
    """NUL and halves of surrogate pairs become the replacement character, because jsonb cannot hold them."""
    return '\\ufffd' if len(escape[0]) == 6 else escape[0]


def _safe(text: str) -> str:
    """Characters that occur only in strings, where an escape means the same as the character.

    "/": without it, nothing begins or ends a comment. "?" and "%": placeholders of drivers, also within comments.
    """
    return _ESCAPE.sub(_storable, text).replace('/', '\\u002f').replace('?', '\\u003f').replace('%', '\\u0025')


def _check_depth_and_keys(text: str) -> None:
    depth = keys = 0
    for match in _MARK.finditer(text):
        mark = match[0]
        if mark == ',' or (mark in '{[' and text[match.end()] not in '}]'):
            keys += 1
            if keys > MAX_KEYS:
                raise ValueError(f'the context has more than {MAX_KEYS} keys and elements')
        if mark in '{[':
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f'the context is nested more than {MAX_DEPTH} levels deep')
        elif mark in '}]':
            depth -= 1


def _jsonable(value: Any) -> Any:
    """What applications put into contexts and the module json does not know."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (set, frozenset)):
        return list(value)
    if isinstance(value, (date, time)):
        return value.isoformat()
    if isinstance(value, (UUID, Decimal)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PathLike):
        return fspath(value)
    # Translated texts of Django.
    if hasattr(value, '__proxy__') or type(value).__name__ == '__proxy__':
        return str(value)
    raise TypeError(f'a value of type {type(value).__name__} cannot be JSON')


def _to_text(context: Any) -> str:
    if not isinstance(context, Mapping):
        raise TypeError('the context is not a mapping')
    text = _safe(json.dumps(dict(context), separators=(',', ':'), allow_nan=False, default=_jsonable))
    if len(text) > MAX_SIZE:
        raise ValueError(f'the context is {len(text)} bytes long as ASCII, {MAX_SIZE} are allowed')
    _check_depth_and_keys(text)
    return text


def _message_of(error: BaseException) -> str:
    try:
        return str(error)[:MAX_ERROR_LENGTH] or type(error).__name__
    except Exception:
        return type(error).__name__


def _warn(message: str) -> None:
    try:
        log.warning('bemi: %s; changes are stored without their context', message)
    except Exception:
        # The handlers are the application's. One that fails must not break the query either.
        pass


def context_text(make: Callable[[], Any]) -> Optional[str]:
    """The text of the context that `make` returns; None if it returns None.

    It never raises, because a context must not break its query: an error is logged, and noted in the context. `make` is
    a function because making a context can raise, too.
    """
    try:
        context = make()
        return None if context is None else _to_text(context)
    except Exception as error:
        message = _message_of(error)
        _warn(message)
        return _to_text({'bemiError': message})
