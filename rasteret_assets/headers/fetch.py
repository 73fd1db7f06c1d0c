"""Fetch the headers of many files at once: as many as their hosts take, and every failure is an outcome.

:mod:`~rasteret_assets.headers._read` reads one file. This module decides which host is asked when, which file is tried
again, and when finished headers go to the sink.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import heapq
import time
from collections.abc import Sequence
from typing import Final

from rasteret_assets.errors import (
    HostUnreachableError,
    RangeReadError,
    RasteretAssetsError,
)
from rasteret_assets.headers._handover import Handover
from rasteret_assets.headers._read import HeaderReader
from rasteret_assets.headers.outcomes import HeaderOutcome, HeaderProgress, HeaderSink, HeaderTarget, ProgressCallback
from rasteret_assets.headers.workers import OtherWorkers, Workers
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import host
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.hosts import DEADLINE_S, HostQueue, HostState, attempts_allowed, backoff
from rasteret_assets.storage.process.collector import fewer_collections
from rasteret_assets.storage.process.connections import connected

_PROGRESS_INTERVAL_S: Final = 0.1
_STALL_INTERVAL_S: Final = 1.0

#: Headers in a group for the sink, and seconds after which a smaller group of a slow host goes to the sink.
BATCH_HEADERS = 4096
BATCH_SECONDS = 15.0
# Bytes of a group, which is small because memory that is touched for the first time costs more than parsing.
_BATCH_BYTES: Final = 6 * 1024 * 1024
# Most bytes of finished headers that wait for a slow one before them; more go out of order, and the ledger is sorted.
_MOST_HELD_BYTES: Final = 128 * 1024 * 1024


async def fetch_headers(
    targets: Sequence[HeaderTarget],
    backend: StorageBackend,
    sink: HeaderSink,
    *,
    max_concurrent: int,
    overviews: bool = True,
    progress: ProgressCallback | None = None,
    workers: Workers | None = None,
) -> HeaderProgress:
    """Fetch the headers of all targets; a failure is an outcome and stops nothing.

    Args:
        targets: distinct files.
        backend: reads their bytes. Exceptions of a user's backend become outcomes too.
        sink: called with finished headers in groups, in a thread, one group after the other; every target comes once.
        max_concurrent: most files in work at once, over all hosts.
        overviews: whether to read the overviews that lie with the headers.
        progress: called at most ten times a second with the running totals, and once at the end.
        workers: the processes that fetch headers of the collection, with which this process shares the hosts.

    Returns:
        The totals.

    Raises:
        Exception: of ``sink`` or ``progress``, which ends the fetch.
    """
    totals = HeaderProgress(total=len(targets))
    reader = HeaderReader(backend, totals, overviews=overviews)
    fetch = _Fetch(targets, reader, totals, sink, max_concurrent, progress, workers)
    async with connected(backend) as hosts:
        with fewer_collections():
            await fetch.run(hosts)
    return fetch.totals


class _Fetch:
    """One fetch: the queues of its hosts, the workers that empty them, and the finished headers."""

    def __init__(
        self,
        targets: Sequence[HeaderTarget],
        reader: HeaderReader,
        totals: HeaderProgress,
        sink: HeaderSink,
        max_concurrent: int,
        progress: ProgressCallback | None,
        workers: Workers | None,
    ) -> None:
        self.targets = targets
        self.workers = workers
        self.others = OtherWorkers()
        self.max_concurrent = max_concurrent
        self.progress = progress
        self.totals = totals
        self.reader = reader
        self.queues: dict[str, HostQueue] = {}
        self.timers: dict[int, asyncio.TimerHandle] = {}
        self.begun: dict[int, HeaderOutcome] = {}
        self.deadlines: dict[int, float] = {}
        self.finished: list[tuple[int, HeaderOutcome]] = []
        self.held = 0
        self.is_done = bytearray(len(targets))
        self.first_open = 0
        self.reported = 0.0
        self.flushed = time.monotonic()
        #: Hosts that have files and room, but no worker, because other hosts have all workers.
        self.starved: set[HostQueue] = set()
        self.complete = asyncio.Event()
        self.handover = Handover(sink, stopped=self.complete.set)

    async def run(self, hosts: dict[str, HostState]) -> None:
        """Work until every target is finished.

        Args:
            hosts: states of hosts in earlier fetches, by name; the states of this fetch take their places.
        """
        if self.workers is not None:
            self.others = await asyncio.to_thread(self.workers.begin, len(self.targets))
        for index, target in enumerate(self.targets):
            name = host(target.href)
            queue = self.queues.get(name)
            if queue is None:
                state = hosts.get(name) or self.others.state_of(name, self.ceiling)
                queue = self.queues[name] = HostQueue(self.ceiling, state, self.others.workers)
                hosts[name] = queue.state
            queue.fresh.append(index)
        if not self.targets:
            self.complete.set()
        try:
            async with asyncio.TaskGroup() as self.group:
                for queue in self.queues.values():
                    self._pump(queue)
                # Reported even while no header is finished, because that shows a stalled host.
                while not self.complete.is_set():
                    self._report()
                    self._share()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self.complete.wait(), _STALL_INTERVAL_S)
                self._check()
        except BaseExceptionGroup as group:
            # Only the first exception, because it has cancelled the other tasks.
            raise group.exceptions[0] from None
        finally:
            if self.workers is not None:
                self.workers.end(self)
            for timer in self.timers.values():
                timer.cancel()
            # Also after an interrupt, so that finished headers need not be fetched again.
            self._flush()
            await self.handover.close()
        self._check()
        self._report(final=True)

    @property
    def ceiling(self) -> int:
        """Most files in work at once in this process."""
        return max(1, self.max_concurrent // self.others.workers)

    def _share(self) -> None:
        """Exchange states of throttling hosts with other processes, and take this process' share of their limits."""
        if self.workers is None:
            return
        before, self.others = self.others, self.workers.view
        for name, queue in self.queues.items():
            if before.workers != self.others.workers:
                queue.state.share(self.ceiling, before.workers / self.others.workers)
            if name in self.others.hosts:
                queue.state.paused_until = max(queue.state.paused_until, self.others.hosts[name][1])
        self.workers.tell(self, {name: queue.state for name, queue in self.queues.items() if queue.state.is_throttled})

    def _check(self) -> None:
        """Raise the exception of the sink, if it raised one."""
        if self.handover.error is not None:
            raise self.handover.error

    def _pump(self, queue: HostQueue) -> None:
        """Start as many workers as the host takes and has files for."""
        if queue.state.dead:
            self._give_up(queue)
        while queue.state.has_room and self.totals.concurrency < self.ceiling:
            index = queue.take()
            if index is None:
                if not queue.state.active:
                    self._pump_later(queue)
                return
            queue.state.active += 1
            self.totals.concurrency += 1
            self.group.create_task(self._work(queue, index))
        if not queue.state.active and queue.wait() is not None:
            self.starved.add(queue)

    def _pump_later(self, queue: HostQueue) -> None:
        """Call :meth:`_pump` for a host when its pause is over or its next retry is due."""
        seconds = queue.wait()
        if seconds is not None:
            if timer := self.timers.get(id(queue)):
                timer.cancel()
            self.timers[id(queue)] = asyncio.get_running_loop().call_later(seconds + 0.001, self._pump, queue)

    async def _work(self, queue: HostQueue, index: int | None) -> None:
        """Ask for one file after the other, as long as the host takes this worker."""
        state = queue.state
        while index is not None:
            if not self.handover.room.is_set():
                await self.handover.room.wait()
            await self._try(queue, index)
            index = None
            if state.dead:
                self._give_up(queue)
            elif state.active <= max(1, int(state.limit)) and not self.starved:
                index = queue.take()
                if state.has_room and queue.fresh:
                    self._pump(queue)
        state.active -= 1
        self.totals.concurrency -= 1
        starved, self.starved = self.starved, set()
        for waiting in (*starved, queue):
            self._pump(waiting)

    async def _try(self, queue: HostQueue, index: int) -> None:
        """Ask for one header; then either finish it or put it back until its next try."""
        outcome = self.begun.pop(index, None) or HeaderOutcome()
        outcome.attempts += 1
        started = time.monotonic()
        try:
            await self.reader.read(self.targets[index], outcome)
        except RasteretAssetsError as error:
            outcome.error = _without_frames(error)
            if not isinstance(error, RangeReadError):
                queue.state.answered()
            else:
                was_throttled = queue.state.is_throttled
                queue.state.note(error, started)
                if queue.state.is_throttled and not was_throttled:
                    self._share()
                if error.is_retried_at_once and self._again(queue, index, outcome, error):
                    return
        else:
            outcome.error = None
            queue.state.answered()
            self.totals.latencies.add(time.monotonic() - started)
        self._finish(index, outcome)

    def _again(self, queue: HostQueue, index: int, outcome: HeaderOutcome, error: RangeReadError) -> bool:
        """Put a file back for another try; return False after its last try, or after 180 s."""
        now = time.monotonic()
        deadline = self.deadlines.setdefault(index, now + DEADLINE_S)
        due = now + backoff(outcome.attempts, error.retry_after)
        if outcome.attempts >= attempts_allowed(error) or due > deadline or queue.state.dead:
            return False
        self.begun[index] = outcome
        heapq.heappush(queue.retries, (due, index))
        return True

    def _give_up(self, queue: HostQueue) -> None:
        """Fail the files that wait for a dead host, so that other hosts are not delayed."""
        for index in queue.drain():
            where = redact(self.targets[index].href)
            outcome = self.begun.pop(index, None) or HeaderOutcome()
            name = host(self.targets[index].href) or "this machine"
            outcome.error = HostUnreachableError(
                f"{where}: not asked for, because {name} gave no answer to the last {queue.state.refusals} requests",
                href=where,
            )
            self._finish(index, outcome)

    def _finish(self, index: int, outcome: HeaderOutcome) -> None:
        self.deadlines.pop(index, None)
        self.totals.done += 1
        self.totals.failed += outcome.error is not None
        self.finished.append((index, outcome))
        self.held += outcome.header.nbytes if outcome.header is not None else 0
        self.is_done[index] = True
        full = len(self.finished) >= BATCH_HEADERS or self.held > _BATCH_BYTES
        if full and self.handover.room.is_set() and self.totals.done % max(1, BATCH_HEADERS // 16) == 0:
            # In the order of the targets up to the first open one, so that the ledger need not be sorted.
            self.first_open = self.is_done.find(0, self.first_open)
            self._flush(before=self.first_open)
        now = time.monotonic()
        if now - self.flushed > BATCH_SECONDS and self.handover.room.is_set():
            self._flush()
        if now - self.reported >= _PROGRESS_INTERVAL_S:
            self._report()
        if self.totals.done == self.totals.total:
            self.complete.set()

    def _flush(self, before: int | None = None) -> None:
        """Hand finished headers to the sink, in target order; only those before a target, unless too many wait."""
        self.finished.sort(key=lambda finished: finished[0])
        count = len(self.finished)
        if before is not None and before >= 0 and count < 2 * BATCH_HEADERS and self.held < _MOST_HELD_BYTES:
            count = bisect.bisect_left(self.finished, before, key=lambda finished: finished[0])
        if count:
            indices, outcomes = zip(*self.finished[:count], strict=True)
            del self.finished[:count]
            before_bytes = self.held
            self.held = sum(o.header.nbytes for _, o in self.finished if o.header is not None)
            self.flushed = time.monotonic()
            self.handover.put(indices, outcomes, before_bytes - self.held)

    def _report(self, *, final: bool = False) -> None:
        """Call ``progress`` with the totals, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and (final or now - self.reported >= _PROGRESS_INTERVAL_S):
            self.reported = now
            self.progress(self.totals)


def _without_frames(error: RasteretAssetsError) -> RasteretAssetsError:
    """Return the error without its traceback and causes, whose frames keep the buffers of answers alive.

    Failures are kept until their group goes to the sink, and Python collects cycles rarely meanwhile.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
