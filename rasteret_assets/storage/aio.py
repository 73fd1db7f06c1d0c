"""From synchronous code into coroutines, whether or not an event loop is already running (a notebook, Dagster)."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result, in a thread of its own where this one has a running loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(coroutine)
    result: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            result.append(_run(coroutine))
        except BaseException as error:  # noqa: BLE001  (handed to the caller below, whatever it is)
            failure.append(error)

    thread = threading.Thread(target=target, name="rasteret-assets-io", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    factory = None
    if sys.platform != "win32":
        import uvloop  # noqa: PLC0415  (not made for Windows)

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(coroutine)
