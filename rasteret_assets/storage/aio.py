"""Coroutines from synchronous code, also inside a running event loop, as in notebooks.

All of them run on one private event loop in a thread of its own, so that connections opened by one call serve the next.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

#: Coroutines that run for a call from elsewhere, to be cancelled with it.
_started: ContextVar[list[Future[Any]] | None] = ContextVar("_started", default=None)


_locks: dict[int, threading.Lock] = {}

#: What a cancelled coroutine may take to hand on what it has.
_PUTTING_AWAY_S: Final = 3.0


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine. Interrupting the wait cancels it, and gives it a moment to put away what it has."""
    # A forked process inherits the loop but not its thread, and perhaps a lock that nobody will open: by process id it
    # gets its own. Without a lock, threads that need the first loop at the same time would make one each.
    process = os.getpid()
    with _locks.setdefault(process, threading.Lock()):
        loop = _loop(process)
    ended = threading.Event()
    future = asyncio.run_coroutine_threadsafe(_telling(coroutine, ended), loop)
    if (started := _started.get()) is not None:
        started.append(future)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        if not ended.wait(_PUTTING_AWAY_S) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()  # cancelled before its first step, of which nobody told
        raise


async def _telling(coroutine: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    """The same coroutine, which says when it has come to its end, whatever that is."""
    try:
        return await coroutine
    finally:
        ended.set()


@contextmanager
def cancelled_together() -> Iterator[None]:
    """Whatever ends the block, cancel what is still awaited by :func:`run_sync` in its context or in copies of it."""
    started: list[Future[Any]] = []
    token = _started.set(started)
    try:
        yield
    except BaseException:
        for future in started:
            future.cancel()
        raise
    finally:
        _started.reset(token)


def off_loop(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The asynchronous form of a synchronous function: it runs in a thread, and what it waits for is cancelled with it.

    Args:
        function: awaits by :func:`run_sync`.
    """

    @functools.wraps(function)
    async def awaitable(*args: P.args, **kwargs: P.kwargs) -> T:
        with cancelled_together():
            # The thread sees a copy of this context.
            return await asyncio.to_thread(function, *args, **kwargs)

    awaitable.__name__ = awaitable.__qualname__ = f"{function.__name__}_async"
    return awaitable


@functools.cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    loop = _new_loop()
    thread = threading.Thread(target=loop.run_forever, name="rasteret-assets-io", daemon=True)
    thread.start()

    def stop() -> None:
        if os.getpid() == process:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=5)
            loop.close()

    atexit.register(stop)
    return loop


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415  (not made for Windows)

    return uvloop.new_event_loop()
