"""Reduce the passes of Python's garbage collector while many small objects are made and dropped.

A header fetch makes some hundred objects per file, and reference counts free nearly all of them. Python's collector
examines the living objects after every 700 new ones, which takes a tenth of a fetch's processor time and finds nothing.
A harvest holds four pages of 250 STAC items at once, of 60,000 objects each: with 50,000 new objects between two passes
the collector still takes a tenth of its processor time, so a harvest asks for more.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rasteret_assets.storage.process.processes import OfProcess

_RELAXED: Final = 50_000


class _Relaxed:
    """The blocks that asked for fewer collections; ``usual`` has the thresholds from before once for each."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.usual: list[tuple[int, int, int]] = []


_relaxed = OfProcess(_Relaxed)


@contextmanager
def fewer_collections(objects: int = _RELAXED) -> Iterator[None]:
    """Collect garbage only after ``objects`` new objects, until the last such block of this process ends.

    Args:
        objects: between two passes; the largest number of all blocks that are entered counts.
    """
    here = _relaxed.get()
    with here.lock:
        here.usual.append(gc.get_threshold() if not here.usual else here.usual[0])
        first, *others = here.usual[0]
        gc.set_threshold(max(first, objects, gc.get_threshold()[0]) if first else 0, *others)
    try:
        yield
    finally:
        with here.lock:
            usual = here.usual.pop()
            if not here.usual:
                gc.set_threshold(*usual)
