"""One writer at a time: a lock by name, on a local disk or on an object store.

Locally the operating system holds it and gives it back when a process dies. An object store has no locks, but lists
what was written before: a writer puts down a claim, and goes on only where it then finds no other (Lamport's bakery,
CACM 17(8), 1974, without the queue). Two that find each other both step back for a random time. A claim is renewed
while it is held; one that was not for a while is that of a dead process.
"""

from __future__ import annotations

import fcntl
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pyarrow.fs as pafs

#: Seconds between renewals of a claim, and after which one that was not renewed counts no more.
RENEWED_EVERY_S = 20.0
DEAD_AFTER_S = 120.0

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0


@contextmanager
def held(fs: pafs.FileSystem, path: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock at ``path`` (a file locally, a folder of claims elsewhere), waiting for whoever holds it.

    Args:
        fs: filesystem of the lock.
        path: of the lock.
        waiting: called once if somebody else holds it.
    """
    with _locally(path, waiting) if fs.type_name == "local" else _by_claims(fs, path, waiting):
        yield


@contextmanager
def _locally(path: str, waiting: Callable[[], None] | None) -> Iterator[None]:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _by_claims(fs: pafs.FileSystem, folder: str, waiting: Callable[[], None] | None) -> Iterator[None]:
    claim = f"{folder}/{uuid.uuid4().hex}"
    seconds, told = _FIRST_WAIT_S, False
    while True:
        _write(fs, claim)
        if not _rivals(fs, folder, claim):
            break
        fs.delete_file(claim)
        if waiting is not None and not told:
            told = True
            waiting()
        time.sleep(random.uniform(0, seconds))  # noqa: S311
        seconds = min(2 * seconds, _LONGEST_WAIT_S)
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(fs, claim, over), name="lock renewal", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        over.set()
        renewal.join()
        with suppress(OSError):
            fs.delete_file(claim)


def _rivals(fs: pafs.FileSystem, folder: str, claim: str) -> bool:
    """Whether somebody else has a claim that counts; claims of the dead are taken away."""
    claims = [info for info in fs.get_file_info(pafs.FileSelector(folder)) if info.type == pafs.FileType.File]
    # The store's own clock: the time at which it took our claim.
    now = next((info.mtime for info in claims if info.path == claim), None)
    living = False
    for info in claims:
        if info.path == claim:
            continue
        if now is not None and info.mtime is not None and (now - info.mtime).total_seconds() > DEAD_AFTER_S:
            with suppress(OSError):
                fs.delete_file(info.path)
        else:
            living = True
    return living


def _renew(fs: pafs.FileSystem, claim: str, over: threading.Event) -> None:
    while not over.wait(RENEWED_EVERY_S):
        with suppress(OSError):  # the store may be back before the claim is too old
            _write(fs, claim)


def _write(fs: pafs.FileSystem, claim: str) -> None:
    with fs.open_output_stream(claim) as sink:
        sink.write(b"claimed")
