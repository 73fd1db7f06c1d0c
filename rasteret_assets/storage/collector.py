"""Fewer passes of Python's garbage collector while many small objects come and go.

A header fetch makes some hundred objects per file, nearly all of which die by their reference count. Looking through
the living ones after every 700 new ones, as Python does, takes a tenth of a fetch's processor time and finds nothing.
A page of 250 STAC items is 60,000 objects, of which four pages live at once: even 50,000 new ones between two passes
mean a tenth of a harvest's processor time on a quiet machine, and more on a busy one.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rasteret_assets.storage.processes import OfProcess

_RELAXED: Final = 50_000


class _Relaxed:
    """Who asked for fewer collections, each with the thresholds from before."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.usual: list[tuple[int, int, int]] = []


_relaxed = OfProcess(_Relaxed)


@contextmanager
def fewer_collections(objects: int = _RELAXED) -> Iterator[None]:
    """Collect garbage after so many new objects; as before once the last of those who asked for it is done.

    Args:
        objects: new ones between two passes; the most that anybody asked for counts.
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
