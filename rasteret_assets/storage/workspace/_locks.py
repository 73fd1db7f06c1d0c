"""Locks with one holder at a time and a number that grows with each holder, on a local disk or an object store.

On a disk the operating system holds the lock (``flock``) and releases it when a process dies; the lock's file keeps the
number. On S3, GCS and Azure the lock is a lease in one object (:mod:`~rasteret_assets.storage.workspace._leases`), on
other stores a claim in a folder (:mod:`~rasteret_assets.storage.workspace._claims`). Another process may take over a
lease or claim that was not renewed for :data:`~rasteret_assets.storage.workspace.holds.DEAD_AFTER_S`.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pyarrow.fs as pafs

from rasteret_assets.storage.io_errors import writing
from rasteret_assets.storage.workspace._claims import claimed
from rasteret_assets.storage.workspace._leases import leased
from rasteret_assets.storage.workspace.conditional import open_conditional
from rasteret_assets.storage.workspace.disk import in_folder
from rasteret_assets.storage.workspace.holds import Hold

_log = logging.getLogger(__name__)

_DIGITS: Final = 20


@contextmanager
def held(
    fs: pafs.FileSystem, path: str, waiting: Callable[[], None] | None = None, *, what: str = ""
) -> Iterator[Hold]:
    """Wait for the lock at ``path`` (a file, an object or a folder of claims), and hold it during the block.

    Args:
        fs: filesystem of the lock.
        path: of the lock.
        waiting: called once if another process or thread holds the lock.
        what: name of what the lock protects, for messages; ``path`` when empty.

    Raises:
        WorkspaceError: if the lock cannot be written.
    """
    what, message = what or path, _Once(waiting)
    with ExitStack() as stack:
        with writing(path):
            hold = stack.enter_context(_held(fs, path, what, message))
        yield hold


@contextmanager
def _held(fs: pafs.FileSystem, path: str, what: str, waiting: Callable[[], None]) -> Iterator[Hold]:
    if fs.type_name == "local":
        with _on_disk(path, what, waiting) as hold:
            yield hold
        return
    store = open_conditional(fs, path)
    if store is not None:
        if store.honours_conditions(f"{path.rpartition('/')[0]}/.conditions"):
            with leased(fs, store, path, what, waiting) as hold:
                yield hold
            return
        _log.warning(
            "the store of %s does not take conditional requests: a build that stands still for longer than its lock "
            "holds may overwrite what a later build published", path,
        )  # fmt: skip
    with claimed(fs, path, what, waiting) as hold:
        yield hold


class _Once:
    def __init__(self, call: Callable[[], None] | None) -> None:
        self._call = call

    def __call__(self) -> None:
        call, self._call = self._call, None
        if call is not None:
            call()


class _DiskHold(Hold):
    """A file that this process has locked."""

    def __init__(self, path: str, what: str, file: int) -> None:
        super().__init__(path, what, _stored_fence(file) + 1)
        self._file = file
        self.store_fence()

    def store_fence(self) -> None:
        os.pwrite(self._file, f"{self.fence:0{_DIGITS}}\n".encode(), 0)

    def prove(self, fence: int) -> bool:
        """Return whether the locked file still is the file at the lock's path."""
        if not _is_at(self._file, self.path):
            return False
        if fence != self.fence:
            self.fence = fence
            self.store_fence()
        return True


@contextmanager
def _on_disk(path: str, what: str, waiting: Callable[[], None]) -> Iterator[Hold]:
    while True:
        file = _open(path)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, path):  # the file was deleted while this process waited for its lock
                continue
            hold = _DiskHold(path, what, file)
            try:
                yield hold
            finally:
                hold.is_over = True
                # Unlocked before it is closed, because a process that was forked meanwhile has the file open too.
                fcntl.flock(file, fcntl.LOCK_UN)
            return
        finally:
            os.close(file)


def _open(path: str) -> int:
    """Open the file of a lock, without emptying it and without following a link."""
    try:
        return in_folder(Path(path).parent, lambda: os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666))
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "a symbolic link, which a workspace may not hold: delete it", path) from error
        raise


def _is_at(file: int, path: str) -> bool:
    try:
        found = Path(path).lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(file)
    return (found.st_ino, found.st_dev) == (opened.st_ino, opened.st_dev)


def _stored_fence(file: int) -> int:
    text = os.pread(file, _DIGITS, 0)
    return int(text) if text.isascii() and text.isdigit() else 0
