"""Held locks: a number that grows with every holder, and a way to ask whether the lock is still held.

A process can be stopped for longer than its lease (a laptop asleep, a paused container) and go on as if nothing had
happened. Documents written under a lock therefore carry the number of the holder, its **fence**, and a holder that
finds a higher number than its own has lost the lock (Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from rasteret_assets.errors import LockLostError
from rasteret_assets.storage.io_errors import writing
from rasteret_assets.storage.process.processes import OfProcess

#: Seconds between renewals of a lease, and seconds after which a lease that was not renewed may be taken over.
RENEWED_EVERY_S = 20.0
DEAD_AFTER_S = 120.0

# CLOCK_BOOTTIME where the system has it, because other monotonic clocks stand still while a machine sleeps.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Hold(ABC):
    """A lock while it is held.

    Args:
        path: of the lock.
        what: name of what the lock protects, for messages.
        fence: number of this holder; every later holder has a higher number.
    """

    def __init__(self, path: str, what: str, fence: int) -> None:
        self.path = path
        self.what = what
        self.fence = fence
        self.is_over = False
        #: Documents as they were last written under the lock, by path, so that the next change need not read them.
        self.written: dict[str, Any] = {}
        self.guard = threading.RLock()
        self._lost = False
        self._proved = _now()

    def check(self) -> None:
        """Raise if the lock is lost; the storage is asked only if its last answer is more than 60 s old.

        Raises:
            LockLostError: naming what the lock protects.
            WorkspaceError: if the storage does not answer.
        """
        if self._lost or self.is_over or self.seconds_since_proof() > DEAD_AFTER_S / 2:
            self.confirm()

    def confirm(self) -> None:
        """Ask the storage, and raise if the lock is lost; errors as for :meth:`check`."""
        self._confirm(self.fence)

    def outrank(self, fence: int) -> None:
        """Take a number above ``fence``, which was found in a document under the lock; errors as for :meth:`check`.

        A lock whose file was deleted begins to count anew, but the documents written under it keep their numbers.
        """
        self._confirm(max(self.fence, fence + 1))

    def seconds_since_proof(self) -> float:
        """Return the seconds since the storage last confirmed the lock, by the clock that ran further."""
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
                    f"{self.what} was taken over by another build, because this build stood still for too long; what "
                    "the other build published stays. Build again to do the rest"
                )
            self.fence, self._proved = fence, asked

    @abstractmethod
    def prove(self, fence: int) -> bool:
        """Ask the storage whether the lock is still held, and store ``fence`` as the number of its holder.

        Raises:
            OSError: if the storage does not answer.
        """


def _now() -> tuple[float, float]:
    # The wall clock too, because it is corrected after a virtual machine was frozen and all its clocks stood still.
    return time.clock_gettime(_CLOCK), time.time()


class _Renewals:
    """Renews the leases of this process in one thread, which ends with the last lease."""

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
                    # Suppressed, because the store may answer again before the lease ends, and check() tells of a loss.
                    with suppress(Exception):
                        hold.confirm()
            self._changed.wait(min(1.0, RENEWED_EVERY_S / 4))
            self._changed.clear()


# By process, because the leases of a parent must end with the parent, and not be renewed by its children.
_renewals: Final = OfProcess(_Renewals)


@contextmanager
def kept_renewed(hold: Hold) -> Iterator[None]:
    """Confirm a hold every :data:`RENEWED_EVERY_S` seconds during the block."""
    _renewals.get().add(hold)
    try:
        yield
    finally:
        _renewals.get().remove(hold)
