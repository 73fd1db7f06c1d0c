"""Coroutines from synchronous code, also inside a running event loop, as in notebooks.

All of them run on one private event loop in a thread of its own, so that connections opened by one call serve the next.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine. Interrupting the wait cancels it."""
    # A forked process inherits the loop but not its thread; by process id it gets one of its own.
    future = asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid()))
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


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
