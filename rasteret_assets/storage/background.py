"""One step ahead of whoever consumes: Arrow decodes and encodes outside of Python's lock, on two cores at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def in_background(items: Iterable[T]) -> Iterator[T]:
    """The same items in the same order; while one is worked on, the next is made in a thread.

    One item waits at most. What ``items`` raises is raised where its item would have come.
    """
    source = iter(items)
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, source, end)
            yield item  # type: ignore[misc]  # the sentinel is the only other type
