"""What a holder of a lock has: a number that grows with every holder, and a way to ask whether the lock is still held.

A process can be stopped for longer than its lease (a laptop asleep, a paused container) and go on as if nothing had
happened. So what is written under a lock carries the holder's **fence**, and whoever finds a higher number than its own
has lost the lock (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from rasteret_assets.errors import LockLostError
from rasteret_assets.storage.processes import OfProcess
from rasteret_assets.storage.reading import writing

#: Seconds between renewals of a lease, and after which one that was not renewed may be taken over.
RENEWED_EVERY_S = 20.0
DEAD_AFTER_S = 120.0

# Monotonic clocks stand still while a machine sleeps, unless the system has one that does not.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Hold(ABC):
    """A lock while it is held.

    Args:
        path: of the lock.
        what: the lock protects, for messages.
        fence: number of this holder; every later holder has a higher one.
    """

    def __init__(self, path: str, what: str, fence: int) -> None:
        self.path = path
        self.what = what
        self.fence = fence
        self.is_over = False
        #: What was written last under the lock, by path, for whoever writes it again: saves a request to read it.
        self.written: dict[str, Any] = {}
        self.guard = threading.RLock()
        self._lost = False
        self._proved = _now()

    def check(self) -> None:
        """Refuse to go on where the lock is lost; asks the storage only if the last answer is too old to trust.

        Raises:
            LockLostError: naming what the lock protects.
            WorkspaceError: if the storage does not answer.
        """
        if self._lost or self.is_over or self.seconds_since_proof() > DEAD_AFTER_S / 2:
            self.confirm()

    def confirm(self) -> None:
        """Refuse to go on where the lock is lost, as the storage says now; errors as for :meth:`check`."""
        self._confirm(self.fence)

    def outrank(self, fence: int) -> None:
        """Go above a number that was found under the lock, as the proven holder; errors as for :meth:`check`.

        A lock that somebody deleted begins to count anew, but what was written under it keeps its numbers.
        """
        self._confirm(max(self.fence, fence + 1))

    def seconds_since_proof(self) -> float:
        """Return how long ago the storage last said that the lock is held, by the clock that ran further."""
        return max(now - then for now, then in zip(_now(), self._proved, strict=True))

    def _confirm(self, fence: int) -> None:
        with self.guard:
            if self.is_over:
                self._lost = True
            asked = _now()
            if not self._lost:
                with writing(self.path):
                    self._lost = not self.prove(fence)
            if self._lost:
                raise LockLostError(
                    f"{self.what} was taken over by another build, because this one stood still for too long; what the "
                    "other published stays. Build again to see whether anything is left to do"
                )
            self.fence, self._proved = fence, asked

    @abstractmethod
    def prove(self, fence: int) -> bool:
        """Ask the storage whether the lock is still held, and say there that its holder has this fence from now on.

        Raises:
            OSError: if the storage does not answer.
        """


def _now() -> tuple[float, float]:
    # The second one is set right from outside after a virtual machine was frozen, whose other clocks stood still too.
    return time.clock_gettime(_CLOCK), time.time()


class _Renewals:
    """Renews the leases of this process in one thread, which lives as long as there are any."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._holds: set[Hold] = set()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, hold: Hold) -> None:
        with self._guard:
            self._holds.add(hold)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="lock renewal", daemon=True)
                self._thread.start()

    def remove(self, hold: Hold) -> None:
        with self._guard:
            self._holds.discard(hold)
        self._changed.set()

    def _run(self) -> None:
        while True:
            with self._guard:
                holds = list(self._holds)
                if not holds:
                    self._thread = None
                    return
            for hold in holds:
                if hold.seconds_since_proof() >= RENEWED_EVERY_S and not hold.is_over:
                    # The store may be back before the lease ends; a lock that is lost is told to whoever checks it.
                    with suppress(Exception):
                        hold.confirm()
            self._changed.wait(min(1.0, RENEWED_EVERY_S / 4))
            self._changed.clear()


# A child of a fork renews its own leases only: those of its parent must end with the parent.
_renewals: Final = OfProcess(_Renewals)


@contextmanager
def kept_renewed(hold: Hold) -> Iterator[None]:
    """Confirm a hold every :data:`RENEWED_EVERY_S` seconds meanwhile."""
    _renewals.get().add(hold)
    try:
        yield
    finally:
        _renewals.get().remove(hold)
