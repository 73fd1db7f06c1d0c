"""Bound the bytes that tasks of one event loop have in use."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """A number of bytes that tasks take and give back; tasks get bytes in the order in which they ask.

    Args:
        total: bytes in all. A task that asks for more waits until all bytes are free, and takes all.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until ``size`` bytes are free, and take them."""
        size = min(size, self.total)
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        await granted

    def give_back(self, size: int) -> None:
        """Give back ``size`` bytes, which :meth:`take` took, and let waiting tasks have them."""
        self._free += min(size, self.total)
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            size, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._free -= size
                granted.set_result(None)
