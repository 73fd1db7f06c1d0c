"""Hand finished headers to their sink in a thread, so that the event loop goes on meanwhile.

A sink writes files and puts objects. On the event loop, which all fetches and pixel reads of a process share, it would
stop every one of them for so long, while their time limits run on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderSink

# Two groups wait beside the one in the sink, so that the thread is never idle; more would only take memory.
_MOST_GROUPS: Final = 3
_MOST_BYTES: Final = 64 * 1024 * 1024


class Handover:
    """Gives groups of finished headers to a sink: in one thread, one group at a time, in the order of :meth:`put`.

    Args:
        sink: takes the groups. Its first exception is kept in ``error``, and it gets no further group.
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
        """Hand a group to the thread without waiting. Before it makes another group, the caller waits for ``room``.

        Args:
            indices: positions of the files among the targets.
            outcomes: outcome of each file.
            nbytes: bytes of the headers in memory.
        """
        group = asyncio.get_running_loop().run_in_executor(self._thread, self._give, indices, outcomes)
        self._groups.add(group)
        self._bytes += nbytes
        group.add_done_callback(partial(self._given, nbytes))
        self._make_room()

    async def close(self) -> None:
        """Wait until the sink has taken all groups."""
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
