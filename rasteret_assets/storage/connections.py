"""How long the connections of a backend stay open: as long as anybody uses them, or is about to."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from rasteret_assets.storage.aio import run_sync
from rasteret_assets.storage.create import close_backend

_lock = threading.Lock()
#: How many use a backend now, by its identity: what users bring need not be hashable.
_users: Counter[int] = Counter()


@asynccontextmanager
async def connected(backend: object) -> AsyncIterator[None]:
    """Use a backend in the running event loop; the last one who does so closes its connections."""
    _join(backend)
    try:
        yield
    finally:
        if _leave(backend):
            await close_backend(backend)


@contextmanager
def kept_connected(backend: object) -> Iterator[None]:
    """Keep the connections that fetches of the block open for those that follow: each costs several round trips."""
    _join(backend)
    try:
        yield
    finally:
        if _leave(backend):
            run_sync(close_backend(backend))


def _join(backend: object) -> None:
    with _lock:
        _users[id(backend)] += 1


def _leave(backend: object) -> bool:
    """Whether nobody uses the backend any more."""
    with _lock:
        _users[id(backend)] -= 1
        if _users[id(backend)]:
            return False
        del _users[id(backend)]
        return True
