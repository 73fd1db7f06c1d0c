"""Make the next item of an iterator in a thread, because Arrow decodes and encodes outside of Python's lock.

A stage therefore uses two cores, one for the batch that it works on and one for the batch after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_background(items: Iterable[T]) -> Iterator[T]:
    """Yield ``items`` in their order, while a thread makes the next item.

    At most one finished item waits. An exception of ``items`` is raised in the place of the item that it stopped.
    """
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="background") as pool:
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # the sentinel is the only other type
