"""Finished headers on their way to whoever keeps them: in a thread, so that the event loop goes on meanwhile.

Keeping headers writes files and puts objects. On the event loop, which all fetches and pixel reads of a process share,
every one of them would stand still for so long, and their time limits would run on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderSink

# Beside the group that is being put away, others wait so that the thread is never idle; more would be memory only.
_MOST_GROUPS: Final = 3
_MOST_BYTES: Final = 64 * 1024 * 1024


class Handover:
    """Gives groups of finished headers to a sink: in one thread, one after the other, in the order they come.

    Args:
        sink: takes the groups. Its first exception is kept in ``error``; no further group is given to it.
        stopped: called on the event loop when the sink has failed.
    """

    def __init__(self, sink: HeaderSink, stopped: Callable[[], None]) -> None:
        self._sink = sink
        self._stopped = stopped
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rasteret-assets-headers")
        self._groups: set[asyncio.Future[None]] = set()
        self._bytes = 0
        self.error: BaseException | None = None
        #: Set while there is room for another group.
        self.room = asyncio.Event()
        self.room.set()

    def put(self, indices: Sequence[int], outcomes: Sequence[HeaderOutcome], nbytes: int) -> None:
        """Hand a group on without waiting; who makes more groups is to wait for ``room``.

        Args:
            indices: positions of the files among the targets.
            outcomes: what became of each.
            nbytes: size in memory of the headers among them.
        """
        group = asyncio.get_running_loop().run_in_executor(self._thread, self._give, indices, outcomes)
        self._groups.add(group)
        self._bytes += nbytes
        group.add_done_callback(partial(self._given, nbytes))
        self._make_room()

    async def close(self) -> None:
        """Wait until all groups are put away."""
        try:
            while self._groups:
                await asyncio.wait(self._groups)
        finally:
            self._thread.shutdown(wait=False)

    def _give(self, indices: Sequence[int], outcomes: Sequence[HeaderOutcome]) -> None:
        if self.error is None:
            try:
                self._sink(indices, outcomes)
            except BaseException as error:  # noqa: BLE001  (raised where the fetch is awaited)
                self.error = error

    def _given(self, nbytes: int, group: asyncio.Future[None]) -> None:
        self._groups.discard(group)
        self._bytes -= nbytes
        self._make_room()
        if self.error is not None:
            self._stopped()

    def _make_room(self) -> None:
        if len(self._groups) < _MOST_GROUPS and self._bytes < _MOST_BYTES:
            self.room.set()
        else:
            self.room.clear()
