"""A lock on an object store: one object, changed by compare-and-swap, with the name and the number of its holder.

Taking the lock costs two requests, releasing it one. The object stays, because its number has to grow. A process that
waits for the lock compares the time of its last renewal with the store's own clock, because no other clock can be
trusted.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import pyarrow.fs as pafs

from rasteret_assets.storage.workspace import holds
from rasteret_assets.storage.workspace.conditional import ConditionalStore, Content, ObjectTag
from rasteret_assets.storage.workspace.documents import dumped, fence_of, parse
from rasteret_assets.storage.workspace.holds import Hold, kept_renewed

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0
_CLOCK_GOOD_FOR_S: Final = 10.0


class LeaseHold(Hold):
    """A lease that this process holds.

    Args:
        store: of the lock.
        path: of the lock.
        what: name of what the lock protects.
        fence: number of this holder.
        holder: unique name of this holder.
        tag: tag of the lock object as this holder wrote it.
    """

    def __init__(
        self, store: ConditionalStore, path: str, what: str, *, fence: int, holder: str, tag: ObjectTag
    ) -> None:
        super().__init__(path, what, fence)
        self._store = store
        self._holder = holder
        self._tag = tag

    def prove(self, fence: int) -> bool:
        """Renew the lease with the number ``fence``; return False if another holder has taken the lock over."""
        content = lease(fence, self._holder)
        tag = self._store.swap(self.path, content, self._tag)
        if tag is None:
            # The tag may also be out of date because a forked child of this process renewed the lease.
            found = self._store.read(self.path)
            if found is None or _parsed(found)["holder"] != self._holder:
                return False
            tag = self._store.swap(self.path, content, found.tag)
        if tag is not None:
            self._tag = tag
        return tag is not None

    def give_back(self) -> None:
        """Release the lock for the next holder; do nothing if the lock is lost."""
        with self.guard:
            self.is_over = True
            if not self._lost:
                with suppress(OSError):
                    self._store.swap(self.path, lease(self.fence, ""), self._tag)


def lease(fence: int, holder: str) -> bytes:
    """Return the content of a lock object, which is unique because some stores make tags of the content alone."""
    return dumped({"fence": fence, "holder": holder, "written": uuid.uuid4().hex})


@contextmanager
def leased(
    fs: pafs.FileSystem, store: ConditionalStore, path: str, what: str, waiting: Callable[[], None]
) -> Iterator[LeaseHold]:
    """Wait for the lock at ``path``, and hold it during the block.

    Args:
        fs: pyarrow filesystem of the same store.
        store: of the lock.
        path: of the lock.
        what: name of what the lock protects.
        waiting: called whenever another holder has the lock.
    """
    holder, clock, seconds = uuid.uuid4().hex, _StoreClock(fs, path), _FIRST_WAIT_S
    while True:
        found = store.read(path)
        state = _parsed(found)
        if not state["holder"] or (found and clock.now() - found.modified.timestamp() > holds.DEAD_AFTER_S):
            fence = state["fence"] + 1
            tag = store.swap(path, lease(fence, holder), found.tag if found else None)
            if tag is not None:
                break
        else:
            waiting()
        time.sleep(random.uniform(0, seconds))  # noqa: S311
        seconds = min(2 * seconds, _LONGEST_WAIT_S)
    hold = LeaseHold(store, path, what, fence=fence, holder=holder, tag=tag)
    try:
        with kept_renewed(hold):
            yield hold
    finally:
        hold.give_back()


def _parsed(found: Content | None) -> dict[str, Any]:
    """Return holder and number in a lock object; ``""`` and 0 if the object is missing or unreadable."""
    try:
        document = parse(found.data) if found else {}
    except ValueError:
        document = {}
    holder = document.get("holder") if isinstance(document, dict) else None
    return {"fence": fence_of(document), "holder": holder if isinstance(holder, str) else ""}


class _StoreClock:
    """The clock of a store, read from the time of an object that is written for it, at most every 10 s."""

    def __init__(self, fs: pafs.FileSystem, path: str) -> None:
        self._fs = fs
        self._path = f"{path}.clock-{uuid.uuid4().hex}"
        self._offset_s = 0.0
        self._learned: float | None = None

    def now(self) -> float:
        if self._learned is None or time.monotonic() - self._learned > _CLOCK_GOOD_FOR_S:
            with self._fs.open_output_stream(self._path) as sink:
                sink.write(b"now")
            self._learned = time.monotonic()
            modified = self._fs.get_file_info(self._path).mtime
            self._fs.delete_file(self._path)
            # If the store tells no times, no lease is ever taken for ended.
            self._offset_s = modified.timestamp() - self._learned if modified is not None else float("-inf")
        return self._offset_s + time.monotonic()
