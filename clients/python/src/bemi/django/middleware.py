"""The context of a request, in synchronous and asynchronous Django."""

from __future__ import annotations

from typing import Any, AsyncIterator, Callable, Iterator, cast

from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.decorators import sync_and_async_middleware
from django.utils.module_loading import import_string

from ..context import with_context
from ..text import context_text


try:
    from asgiref.sync import iscoroutinefunction
except ImportError:
    # Django before 4.2 allows older versions of asgiref, and marks its middlewares for asyncio.
    from asyncio import iscoroutinefunction  # type: ignore[assignment]


def _raising(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def _block(make: Callable[[], Any]) -> with_context:
    return with_context._of_text(context_text(make))


def _callback() -> Callable[[Any], Any]:
    callback: Any = getattr(settings, 'BEMI_CONTEXT', None)
    if isinstance(callback, str):
        callback = import_string(callback)
    if not callable(callback):
        raise ImproperlyConfigured(
            "BEMI_CONTEXT is a function of the request that returns the context, or the function's path: "
            "BEMI_CONTEXT = lambda request: {'endpoint': request.path, 'userId': request.user.pk}"
        )
    return cast(Callable[[Any], Any], callback)


@sync_and_async_middleware  # type: ignore[misc]
def context_middleware(get_response: Any) -> Any:
    """Handles each request with the context that BEMI_CONTEXT returns. It stands behind what finds the user.

    An error of BEMI_CONTEXT is noted in the context. The request is handled in any case.
    """
    callback = _callback()

    if iscoroutinefunction(get_response):
        # request.user may read the session from the database, which only synchronous code may do.
        ask: Any = callback if iscoroutinefunction(callback) else sync_to_async(callback)

        async def handle_async(request: Any) -> Any:
            try:
                context = await ask(request)
            except Exception as error:
                block = _block(_raising(error))
            else:
                block = _block(lambda: context)
            with block:
                return _keep_context(await get_response(request), block)

        return handle_async

    ask_sync: Any = async_to_sync(callback) if iscoroutinefunction(callback) else callback  # type: ignore[no-untyped-call]

    def handle(request: Any) -> Any:
        block = _block(lambda: ask_sync(request))
        with block:
            return _keep_context(get_response(request), block)

    return handle


def _keep_context(response: Any, block: with_context) -> Any:
    """What a response streams is made after the middleware has ended."""
    if getattr(response, 'streaming', False):
        content = response.streaming_content
        steps: Any = _async_steps if hasattr(content, '__aiter__') else _steps
        # FileResponse reads a file, and knows it by the attribute that this would replace.
        if getattr(response, 'file_to_stream', None) is None:
            response.streaming_content = steps(content, block)
    return response


def _steps(content: Iterator[Any], block: with_context) -> Iterator[Any]:
    iterator = iter(content)
    while True:
        with block:
            try:
                part = next(iterator)
            except StopIteration:
                return
        yield part


async def _async_steps(content: AsyncIterator[Any], block: with_context) -> AsyncIterator[Any]:
    iterator = content.__aiter__()
    while True:
        with block:
            try:
                part = await iterator.__anext__()
            except StopAsyncIteration:
                return
        yield part
