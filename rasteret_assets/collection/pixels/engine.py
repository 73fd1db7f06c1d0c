"""The read engine: planned runs are fetched side by side, decoded in threads and put in place.

Bytes in memory are bounded, whatever the size of the read: of fetched runs, of tiles being decoded, and of arrays of
jobs. Hosts are asked as header ingest asks them (:mod:`rasteret_assets.storage.hosts`). A failure stops only the pixels
that depend on it; all failures are returned together at the end.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from rasteret_assets.collection.pixels._budget import Budget
from rasteret_assets.collection.pixels.codecs import decode_tile
from rasteret_assets.collection.pixels.fetching import RangeFetcher, replaced_error
from rasteret_assets.collection.pixels.tile_plan import BandRead, Run, plan_read
from rasteret_assets.errors import FileReplacedError, RangeReadError, RasteretAssetsError, TileError
from rasteret_assets.storage.backend import StorageBackend

_DECODE_THREADS = min(16, os.cpu_count() or 1)

#: Most bytes of fetched runs that wait for their decoding, of tiles that are being decoded, and of arrays of jobs.
_FETCHED_BYTES = 96 * 1024 * 1024
_DECODED_BYTES = 48 * 1024 * 1024
_JOB_BYTES = 64 * 1024 * 1024
#: A tile exists as bytes, as samples and as samples without predictor while it is decoded.
_DECODED_COPIES = 3


def _nothing() -> None:
    """Do nothing: most jobs have no use for their pixels before the read ends."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Reads that belong together, and what is done with their pixels.

    Args:
        start: returns the reads, and makes the arrays that they fill.
        finish: called in a thread once all reads are done.
        cost: bytes of arrays that live from ``start`` to ``finish``.
    """

    start: Callable[[], Sequence[BandRead]]
    finish: Callable[[], None] = _nothing
    cost: int = 0


@dataclass(kw_only=True, eq=False)
class _Running:
    """A job that was started, and the number of its runs that are not done."""

    job: Job
    runs: int


async def read_jobs(
    jobs: Iterable[Job],
    backend: StorageBackend,
    *,
    max_concurrent: int,
    most_failures: int | None = None,
    ended: Callable[[int], None] | None = None,
) -> list[RasteretAssetsError]:
    """Carry out the reads of ``jobs``; pixels that are not stored or cannot be read stay as they are.

    Args:
        jobs: what to read; the next job is started when the runs of the former are being fetched.
        backend: reads the bytes; it is asked for one range per run.
        max_concurrent: requests in flight at most.
        most_failures: after so many failures no further request is made; by default everything is tried.
        ended: called with the number of its bytes when a request has ended, 0 where it failed.

    Returns:
        The failures: a TileError for a damaged tile, naming record, band, tile and file; a RangeReadError for a file
        whose bytes could not be read, with a note naming record and band; a FileReplacedError, which names both itself,
        for a file that is not the one that was indexed.
    """
    with ThreadPoolExecutor(_DECODE_THREADS, thread_name_prefix="decode") as pool:
        try:
            return await _Reading(iter(jobs), backend, max_concurrent, most_failures, pool, ended).run()
        except ExceptionGroup as unforeseen:
            raise unforeseen.exceptions[0] from unforeseen.exceptions[0].__cause__


@dataclass(eq=False)
class _Reading:
    """The state of one call of :func:`read_jobs`: jobs and runs that are left, failures, and files given up."""

    jobs: Iterator[Job]
    backend: StorageBackend
    max_concurrent: int
    most_failures: int | None
    pool: ThreadPoolExecutor
    ended: Callable[[int], None] | None = None
    waiting: deque[tuple[_Running, Run]] = field(default_factory=deque)
    failures: list[RasteretAssetsError] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fetcher = RangeFetcher(self.backend, self.max_concurrent)
        self.fetched = Budget(_FETCHED_BYTES)
        self.decoded = Budget(_DECODED_BYTES)
        self.held = Budget(_JOB_BYTES)
        self.turn = asyncio.Lock()

    async def run(self) -> list[RasteretAssetsError]:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.max_concurrent):
                group.create_task(self.work())
        return self.failures

    async def work(self) -> None:
        """Carry out one run after the other until no run is left."""
        while (taken := await self.take()) is not None:
            await self.carry_out(*taken)
            # Forgotten, because the arrays of its job would live while this task waits for the next run.
            taken = None

    async def carry_out(self, running: _Running, run: Run) -> None:
        """Fetch a run and put its tiles in place; after the last run of a job finish the job."""
        try:
            length = await self.fetch_and_place(run)
        finally:
            self.fetched.give_back(run.length)
        if self.ended is not None:
            self.ended(length)
        running.runs -= 1
        if not running.runs:
            await self.finish(running)

    async def take(self) -> tuple[_Running, Run] | None:
        """Return the next run, when there is room for its bytes; None when no run is left."""
        async with self.turn:
            while not self.waiting:
                job = next(self.jobs, None)
                if job is None or self.has_failed:
                    return None
                await self.held.take(job.cost)
                running = _Running(job=job, runs=0)
                for read in job.start():
                    plan = plan_read(read)
                    self.failures.extend(plan.broken)
                    for tile in plan.absent:
                        tile.place(None, None, read.header)
                    self.waiting.extend((running, run) for run in plan.runs)
                running.runs = len(self.waiting)
                if not running.runs:
                    await self.finish(running)
            await self.fetched.take(self.waiting[0][1].length)
            return self.waiting.popleft()

    @property
    def has_failed(self) -> bool:
        """Whether there are ``most_failures`` failures, after which no further request is made."""
        return self.most_failures is not None and len(self.failures) >= self.most_failures

    async def finish(self, running: _Running) -> None:
        """Call a job's ``finish`` in a thread, and give back the bytes of its arrays."""
        if running.job.finish is not _nothing:
            await asyncio.get_running_loop().run_in_executor(self.pool, running.job.finish)
        self.held.give_back(running.job.cost)

    async def fetch_and_place(self, run: Run) -> int:
        """Fetch a run and put its tiles in place; keep failures. Return the number of bytes that were fetched."""
        read = run.read
        if read.href in self.lost or self.has_failed:
            return 0
        try:
            data = await self.fetch(run)
        except RangeReadError as error:
            if not isinstance(error, FileReplacedError):
                error.add_note(f"while reading band {read.band!r} of record {read.record!r}")
            if read.href not in self.lost:
                # Once for each file, because the other runs of a file that cannot be reached fail alike.
                self.lost.add(read.href)
                self.failures.append(error)
            return 0
        size = _DECODED_COPIES * read.header.tile_bytes
        await self.decoded.take(size)
        try:
            self.failures += await asyncio.get_running_loop().run_in_executor(self.pool, _place, run, data)
        finally:
            self.decoded.give_back(size)
        return len(data)

    async def fetch(self, run: Run) -> memoryview:
        """Return the bytes of a run.

        Raises:
            FileReplacedError: if the file is not the one that was indexed, naming record and band.
            RangeReadError: if the bytes cannot be read.
        """
        read = run.read
        try:
            return await self.fetcher.fetch(read.href, run.start, run.length, read.header.file)
        except FileReplacedError as error:
            raise replaced_error(read.record, read.band, error) from error


def _place(run: Run, data: memoryview) -> list[TileError]:
    """Decode the tiles of a run and put each in its places; return the errors of damaged tiles."""
    read = run.read
    damaged: list[TileError] = []
    for tile in run.tiles:
        begin = tile.start - run.start
        stored = data[begin : begin + tile.length]
        if len(stored) < tile.length:
            reason = f"the file ends within it ({len(stored)} of {tile.length} bytes)"
            damaged.append(read.tile_error(tile.row, tile.column, reason))
            continue
        try:
            samples, opaque = decode_tile(stored, read.header)
        except TileError as error:
            damage = read.tile_error(tile.row, tile.column, error)
            damage.__cause__ = error
            damaged.append(damage)
            continue
        tile.place(samples, opaque, read.header)
    return damaged
