"""Count the users of a backend: the last one closes its connections and forgets what was learned of its hosts."""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from rasteret_assets.storage.create import close_backend
from rasteret_assets.storage.hosts import HostState
from rasteret_assets.storage.process.processes import OfProcess, run_sync

_log = logging.getLogger(__name__)


@dataclass
class _Use:
    users: int = 0
    hosts: dict[str, HostState] = field(default_factory=dict)


class _Uses:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: By the identity of the backend, because a user's backend need not be hashable.
        self.by_backend: dict[int, _Use] = {}


_uses = OfProcess(_Uses)


@asynccontextmanager
async def connected(backend: object) -> AsyncIterator[dict[str, HostState]]:
    """Use a backend in the running event loop; the last user closes its connections.

    Yields:
        The state of every host by name, as users of the backend last learned it; empty for the first user.
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
    """Keep the connections of a backend open from fetch to fetch of a block: each costs several round trips."""
    _join(backend)
    try:
        yield
    finally:
        if _leave(backend):
            with _closing(backend):
                run_sync(close_backend(backend))


@contextmanager
def _closing(backend: object) -> Iterator[None]:
    """Log failures to close connections: all reads are done, and another error may be on its way."""
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
    """Count one user less; return whether that was the last one."""
    uses = _uses.get()
    with uses.lock:
        use = uses.by_backend.get(id(backend))
        if use is None:  # joined by the process that this one was forked from
            return False
        use.users -= 1
        if not use.users:
            del uses.by_backend[id(backend)]
        return not use.users
