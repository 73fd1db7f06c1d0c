"""Values that belong to one process, and the event loop that all synchronous calls of a process share.

**Synchronous calls.** Coroutines run on one private event loop in a thread of its own (:func:`run_sync`), so that the
connections of one call serve the next call, also inside a running loop as in notebooks.

**Forks.** A forked process has copies of its parent's loops, locks and connections, but none of its threads: a copied
lock may stay locked for ever, and bytes on a copied connection are for the parent. Values that later calls use are
therefore kept by process (:class:`OfProcess`). A child neither uses nor frees its parent's values, because closing a
copied connection would take it out of the parent's ``epoll``, which both share.

**Libraries with threads of their own** do not work in a child of a process that has used them (:func:`works_here`).
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import functools
import inspect
import os
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, Final, Generic, ParamSpec, TypeVar

from rasteret_assets.errors import LoopThreadError

T = TypeVar("T")
P = ParamSpec("P")

#: Id of this process, kept up to date by a hook, because asking the system costs as much as finding a connection.
_process = os.getpid()


class OfProcess(Generic[T]):
    """A value that every process makes for itself when it first needs it. A pickled copy is empty.

    Args:
        make: makes the value, and must not call :meth:`get` of the same object.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # By process, although a child empties both, because a lock that another thread holds at the fork stays locked.
        self._values: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}
        _all.add(self)

    def get(self) -> T:
        """Return the value of this process."""
        try:
            return self._values[_process]
        except KeyError:
            # Under a lock, because several threads may need the value for the first time at once.
            with self._locks.setdefault(_process, threading.Lock()):
                if _process not in self._values:
                    self._values[_process] = self._make()
                return self._values[_process]

    def forget(self) -> None:
        """Drop the parent's value in a child, without freeing it."""
        # One reference too many, so that not even the end of the interpreter closes a connection of the parent.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._values))
        self._values, self._locks = {}, {}

    def __reduce__(self) -> tuple[type[OfProcess[T]], tuple[Callable[[], T]]]:
        return type(self), (self._make,)


_all: weakref.WeakSet[OfProcess[Any]] = weakref.WeakSet()
#: The process in which a library first ran.
_first_user: dict[str, int] = {}


def _in_child() -> None:
    global _process  # noqa: PLW0603
    _process = os.getpid()
    for value in list(_all):
        value.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def works_here(library: str) -> bool:
    """Return whether a library with threads of its own works in this process; note that this process uses it.

    Such a library starts its threads in its first call. A process that is forked later has none of them and cannot
    start them, so every call there would wait for ever.
    """
    return _first_user.setdefault(library, _process) == _process


def at_exit(function: Callable[[], object]) -> None:
    """Call a function at the end of this process, but not at the end of processes that are forked from it."""
    process = _process
    atexit.register(lambda: function() if process == _process else None)


#: Coroutines that run for the calling context, and are cancelled with it.
_started: ContextVar[list[Future[Any]] | None] = ContextVar("_started", default=None)

#: Seconds that a cancelled coroutine may take to store its results so far.
_PUTTING_AWAY_S: Final = 3.0


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that runs on the loop of this process.

    An interrupt of the wait cancels the coroutine, which then has 3 s to store its results so far.

    Raises:
        LoopThreadError: if called in the loop's own thread, which cannot wait for itself.
    """
    loop = shared_loop()
    if loop.thread.ident == threading.get_ident():
        coroutine.close()
        raise LoopThreadError(
            "a synchronous call inside a coroutine, such as a backend's get_range, waits for the event loop that it "
            "holds up: await the method that ends in _async, or call this one by asyncio.to_thread"
        )
    ended = threading.Event()
    future = asyncio.run_coroutine_threadsafe(_telling(coroutine, ended), loop.loop)
    if (started := _started.get()) is not None:
        started.append(future)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        if not ended.wait(_PUTTING_AWAY_S) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            coroutine.close()  # cancelled before its first step, so that ``ended`` is never set
        raise


async def _telling(coroutine: Coroutine[Any, Any, T], ended: threading.Event) -> T:
    """Await ``coroutine``, and set ``ended`` when it returns, raises or is cancelled."""
    try:
        return await coroutine
    finally:
        ended.set()


@contextmanager
def cancelled_together() -> Iterator[None]:
    """Cancel the coroutines that :func:`run_sync` awaits in this context, and in copies of it, if the block raises."""
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
    """Return the asynchronous form of a function, which runs it in a thread and can be cancelled.

    Args:
        function: a synchronous function, which waits for coroutines by :func:`run_sync`.
    """

    @functools.wraps(function)
    async def awaitable(*args: P.args, **kwargs: P.kwargs) -> T:
        with cancelled_together():
            # The thread sees a copy of this context.
            return await asyncio.to_thread(function, *args, **kwargs)

    awaitable.__name__ = awaitable.__qualname__ = f"{function.__name__}_async"
    return awaitable


class _LoopThread:
    """An event loop in a thread of its own, which ends with the process."""

    def __init__(self) -> None:
        self.loop = _new_loop()
        self.thread = threading.Thread(target=self._run, name="rasteret-assets-io", daemon=True)
        self._ends = False
        self.thread.start()
        at_exit(self._stop)

    def _run(self) -> None:
        while not self._ends:
            # Such an exception of a coroutine ends the loop before the coroutine's caller gets it, so run the loop on.
            with suppress(KeyboardInterrupt, SystemExit):
                self.loop.run_forever()

    def _stop(self) -> None:
        self._ends = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
        self.loop.close()


_shared = OfProcess(_LoopThread)


def shared_loop() -> _LoopThread:
    """Return the loop that :func:`run_sync` uses.

    Call this before :func:`at_exit` for a function that closes something on the loop, because the functions that were
    registered last are called first.
    """
    return _shared.get()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415  (not made for Windows)

    return uvloop.new_event_loop()
