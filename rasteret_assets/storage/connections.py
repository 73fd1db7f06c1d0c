"""How long a backend's connections stay open, and what was learned of its hosts is known: while anybody uses it."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from rasteret_assets.storage.create import close_backend
from rasteret_assets.storage.hosts import HostState
from rasteret_assets.storage.processes import OfProcess, run_sync

_log = logging.getLogger(__name__)


@dataclass
class _Use:
    users: int = 0
    hosts: dict[str, HostState] = field(default_factory=dict)


class _Uses:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: By the identity of the backend: what users bring need not be hashable.
        self.by_backend: dict[int, _Use] = {}


_uses = OfProcess(_Uses)


@asynccontextmanager
async def connected(backend: object) -> AsyncIterator[dict[str, HostState]]:
    """Use a backend in the running event loop; the last one who does so closes its connections.

    Yields:
        What those who use it, or did so since the first of them, have last learned of every host.
    """
    hosts = _join(backend)
    try:
        yield hosts
    finally:
        if _leave(backend):
            with _closing(backend):
                await close_backend(backend)


@contextmanager
def kept_connected(backend: object) -> Iterator[None]:
    """Keep the connections that fetches of the block open for those that follow: each costs several round trips."""
    _join(backend)
    try:
        yield
    finally:
        if _leave(backend):
            with _closing(backend):
                run_sync(close_backend(backend))


@contextmanager
def _closing(backend: object) -> Iterator[None]:
    """Log what goes wrong as connections are closed: what was read is read, and another error may be on its way."""
    try:
        yield
    except Exception:  # noqa: BLE001  (a user's backend may raise anything)
        _log.warning("the connections of the %s could not be closed", type(backend).__name__, exc_info=True)


def _join(backend: object) -> dict[str, HostState]:
    uses = _uses.get()
    with uses.lock:
        use = uses.by_backend.setdefault(id(backend), _Use())
        use.users += 1
        return use.hosts


def _leave(backend: object) -> bool:
    """Whether nobody uses the backend any more."""
    uses = _uses.get()
    with uses.lock:
        use = uses.by_backend.get(id(backend))
        if use is None:  # joined by the process that this one was forked from
            return False
        use.users -= 1
        if not use.users:
            del uses.by_backend[id(backend)]
        return not use.users
