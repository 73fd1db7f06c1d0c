"""A lock on a store without conditional puts: a folder of claims, of which one may stay.

A writer puts a claim into the folder, and goes on only if it then finds no other claim (Lamport's bakery, CACM 17(8),
1974, without the queue). Two writers that find each other both delete their claims and wait for a random time. A claim
is renewed while it is held. A claim that was not renewed for 120 s is taken for that of a dead process and deleted; if
its holder lives after all, it finds its claim gone.

Such a lock has no number of its own: a holder takes a number above the one in the documents that earlier holders wrote.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pyarrow.fs as pafs

from rasteret_assets.storage.workspace import holds
from rasteret_assets.storage.workspace.holds import Hold, kept_renewed

_FIRST_WAIT_S: Final = 0.1
_LONGEST_WAIT_S: Final = 5.0


class ClaimHold(Hold):
    """The only claim in its folder.

    Args:
        fs: filesystem of the claim.
        path: of the claim.
        what: name of what the lock protects.
    """

    def __init__(self, fs: pafs.FileSystem, path: str, what: str) -> None:
        super().__init__(path, what, 0)
        self._fs = fs

    def prove(self, fence: int) -> bool:  # noqa: ARG002  (a claim has no number)
        """Renew the claim; return False if another process has deleted it."""
        if self._fs.get_file_info(self.path).type != pafs.FileType.File:
            return False
        put_claim(self._fs, self.path)
        return True


@contextmanager
def claimed(fs: pafs.FileSystem, folder: str, what: str, waiting: Callable[[], None]) -> Iterator[ClaimHold]:
    """Wait for the lock whose claims are in ``folder``, and hold it during the block."""
    # Because not every filesystem makes the folders of a file.
    fs.create_dir(folder)
    claim, seconds = f"{folder}/{uuid.uuid4().hex}", _FIRST_WAIT_S
    while True:
        put_claim(fs, claim)
        if not _has_rivals(fs, folder, claim):
            break
        fs.delete_file(claim)
        waiting()
        time.sleep(random.uniform(0, seconds))  # noqa: S311
        seconds = min(2 * seconds, _LONGEST_WAIT_S)
    hold = ClaimHold(fs, claim, what)
    try:
        with kept_renewed(hold):
            yield hold
    finally:
        with hold.guard:
            hold.is_over = True
            with suppress(OSError):
                fs.delete_file(claim)


def put_claim(fs: pafs.FileSystem, claim: str) -> None:
    """Write a claim."""
    with fs.open_output_stream(claim) as sink:
        sink.write(b"claimed")


def _has_rivals(fs: pafs.FileSystem, folder: str, claim: str) -> bool:
    """Return whether another live claim is in ``folder``; delete claims that were not renewed."""
    claims = [info for info in fs.get_file_info(pafs.FileSelector(folder)) if info.type == pafs.FileType.File]
    # The time of our own claim is the store's clock.
    mine = claim.rpartition("/")[2]  # by name, because some filesystems list paths in another form
    now = next((info.mtime for info in claims if info.base_name == mine), None)
    living = False
    for info in claims:
        if info.base_name == mine:
            continue
        if now is not None and info.mtime is not None and (now - info.mtime).total_seconds() > holds.DEAD_AFTER_S:
            with suppress(OSError):
                fs.delete_file(info.path)
        else:
            living = True
    return living
