"""What belongs to one process and to one thread: the event loop that synchronous calls share, and what is kept open.

**Synchronous calls.** Coroutines run on one private event loop in a thread of its own (:func:`run_sync`), so that the
connections of one call serve the next, also inside a running loop as in notebooks.

**Forks.** A forked process has copies of its parent's loops, locks and connections, but none of its threads: a copied
lock is perhaps never opened, and bytes on a copied connection are for the parent. So what is kept for later calls is
kept by process (:class:`OfProcess`). A child uses nothing of its parent's, and frees nothing: to close a copied
connection would take it out of the parent's ``epoll``, which both share.

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

#: Id of this process. Asking the system costs as much as finding a connection, and a hook notices every fork.
_process = os.getpid()


class OfProcess(Generic[T]):
    """A value that every process makes for itself when it first needs it. A pickled copy is empty.

    Args:
        make: makes the value; it must not need the value itself.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        # By process, although a fork empties them: a lock that another thread holds as it forks is never opened.
        self._values: dict[int, T] = {}
        self._locks: dict[int, threading.Lock] = {}
        _all.add(self)

    def get(self) -> T:
        """Return the value of this process."""
        try:
            return self._values[_process]
        except KeyError:
            # Threads that come first at the same time would make a value each.
            with self._locks.setdefault(_process, threading.Lock()):
                if _process not in self._values:
                    self._values[_process] = self._make()
                return self._values[_process]

    def forget(self) -> None:
        """Drop the parent's value in a child, without freeing it."""
        # One reference that nobody gives back: not even the end of the interpreter closes what belongs to the parent.
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
    """Whether a library that works in threads of its own works in this process, by which it is used from now on.

    Its threads begin with its first call, and a process that is forked later has none of them: every call there waits
    for ever. Nothing can start them anew.
    """
    return _first_user.setdefault(library, _process) == _process


def at_exit(function: Callable[[], object]) -> None:
    """Call a function at the end of this process, and not at the end of those that are forked from it."""
    process = _process
    atexit.register(lambda: function() if process == _process else None)


#: Coroutines that run for a call from elsewhere, to be cancelled with it.
_started: ContextVar[list[Future[Any]] | None] = ContextVar("_started", default=None)

#: What a cancelled coroutine may take to hand on what it has.
_PUTTING_AWAY_S: Final = 3.0


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that runs on the loop of this process.

    Interrupting the wait cancels it, and gives it a moment to put away what it has.

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
            # What a coroutine raises to end the program ends the loop first, before its caller hears of it.
            with suppress(KeyboardInterrupt, SystemExit):
                self.loop.run_forever()

    def _stop(self) -> None:
        self._ends = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=5)
        self.loop.close()


_shared = OfProcess(_LoopThread)


def shared_loop() -> _LoopThread:
    """Return the loop that :func:`run_sync` uses. What is to be closed on it at exit must be registered later."""
    return _shared.get()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop  # noqa: PLC0415  (not made for Windows)

    return uvloop.new_event_loop()
