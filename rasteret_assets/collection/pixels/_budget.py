"""A number of bytes that tasks of one event loop share."""

from __future__ import annotations

import asyncio
from collections import deque


class Budget:
    """Bytes that may be in use at once; who comes first is served first.

    Args:
        total: bytes in all. Somebody who wants more gets them alone.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._left = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait until ``size`` bytes are left, and take them."""
        size = min(size, self.total)
        if not self._waiting and size <= self._left:
            self._left -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        await granted

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        self._left += min(size, self.total)
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._left):
            size, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._left -= size
                granted.set_result(None)
