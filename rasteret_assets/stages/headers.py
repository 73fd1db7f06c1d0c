"""Fetch and parse the headers of many files at once: one request for a typical COG, every failure an outcome.

The first read of a file is a prefetch. Its size is learned per family of files (the files of one band), so that the
next file of a band is asked for exactly what the last ones needed. What a header still lacks is read in one more round
of all missing ranges together.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rasteret_assets.errors import (
    CorruptTiffError,
    RangeReadError,
    RasteretAssetsError,
    StoreUnavailableError,
    TruncatedReadError,
)
from rasteret_assets.storage.backend import RangeRead, StorageBackend, as_reader
from rasteret_assets.storage.create import close_backend
from rasteret_assets.storage.urls import redact
from rasteret_assets.tiff import NeedBytes, TiffHeader, parse_header

#: First read of a family nothing is known about: covers the header of a COG with a few hundred tiles.
FIRST_PREFETCH: Final = 16 * 1024
#: The largest learned prefetch: beyond it a second request costs less than the bytes.
LARGEST_PREFETCH: Final = 1024 * 1024
#: Tables of the largest files known (10^7 tiles) fit; a header that claims more is not believed.
LARGEST_HEADER: Final = 256 * 1024 * 1024

_ROUNDS: Final = 12
_ATTEMPTS: Final = 5
_FIRST_BACKOFF_S: Final = 0.2
_LONGEST_BACKOFF_S: Final = 30.0
_DEADLINE_S: Final = 180.0
_PROGRESS_INTERVAL_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class HeaderTarget:
    """A file whose header is wanted: its address as it is fetched, and the family that shares its prefetch size."""

    href: str
    family: str = ""


@dataclass(kw_only=True)
class HeaderOutcome:
    """What became of one file.

    Args:
        header: the header, or None where it could not be had.
        error: why, where there is none.
        attempts: how often the file was tried.
        size: of the object in bytes, where the store told it.
        etag: as the store told it.
        last_modified: as the store told it.
    """

    header: TiffHeader | None = None
    error: RasteretAssetsError | None = None
    attempts: int = 0
    size: int | None = None
    etag: str | None = None
    last_modified: str | None = None


@dataclass(kw_only=True)
class HeaderProgress:
    """Running totals of a header fetch; the last one is its account."""

    total: int
    done: int = 0
    failed: int = 0
    requests: int = 0
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Time since the fetch began."""
        return time.monotonic() - self.started


ProgressCallback = Callable[[HeaderProgress], None]


async def fetch_headers(
    targets: Sequence[HeaderTarget],
    backend: StorageBackend,
    *,
    max_concurrent: int,
    progress: ProgressCallback | None = None,
) -> tuple[list[HeaderOutcome], HeaderProgress]:
    """Headers of all targets, in their order; a failure is an outcome and stops nothing.

    Args:
        targets: distinct files.
        backend: where their bytes come from. Exceptions of a user's backend become outcomes too.
        max_concurrent: files in work at once.
        progress: called now and then with the running totals, and once at the end.
    """
    fetch = _Fetch(backend, HeaderProgress(total=len(targets)), progress)
    outcomes = [HeaderOutcome() for _ in targets]
    pending = iter(range(len(targets)))

    async def work() -> None:
        for index in pending:  # one iterator for all workers: each takes the next file
            await fetch.one(targets[index], outcomes[index])

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(max_concurrent, len(targets))):
                group.create_task(work())
    finally:
        await close_backend(backend)
    fetch.report(final=True)
    return outcomes, fetch.totals


class _Fetch:
    """The state all workers of one fetch share."""

    def __init__(self, backend: StorageBackend, totals: HeaderProgress, progress: ProgressCallback | None) -> None:
        self.reader = as_reader(backend)
        self.totals = totals
        self.progress = progress
        self.prefetch: dict[str, int] = {}
        self.reported = 0.0

    async def one(self, target: HeaderTarget, outcome: HeaderOutcome) -> None:
        """Fetch and parse one header into ``outcome``, trying transient failures again."""
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            outcome.attempts += 1
            try:
                await self._attempt(target, outcome)
            except RasteretAssetsError as error:
                outcome.error = error
                if not isinstance(error, RangeReadError) or not error.retryable or outcome.attempts >= _ATTEMPTS:
                    break
                delay = _backoff(outcome.attempts, error.retry_after)
                if time.monotonic() + delay > deadline:
                    break
                await asyncio.sleep(delay)
            else:
                outcome.error = None
                break
        self.totals.done += 1
        self.totals.failed += outcome.error is not None
        self.report()

    async def _attempt(self, target: HeaderTarget, outcome: HeaderOutcome) -> None:
        missing = [(0, self.prefetch.get(target.family, FIRST_PREFETCH))]
        pieces: list[tuple[int, bytes]] = []
        for _ in range(_ROUNDS):
            reads = await asyncio.gather(*(self._read(target.href, start, length) for start, length in missing))
            for (start, length), read in zip(missing, reads, strict=True):
                data = bytes(read.data)[:length]
                if outcome.etag and read.etag and read.etag != outcome.etag and pieces:
                    raise TruncatedReadError(
                        f"{redact(target.href)}: changed while it was read", href=redact(target.href)
                    )
                outcome.etag, outcome.last_modified = read.etag, read.last_modified
                outcome.size = read.size if read.size is not None else outcome.size
                if outcome.size is None and len(data) < length:
                    outcome.size = start + len(data)
                pieces.append((start, data))
            try:
                outcome.header = parse_header(pieces, size=outcome.size)
            except NeedBytes as need:
                missing = list(need.ranges)
                if sum(length for _, length in missing) > LARGEST_HEADER:
                    raise CorruptTiffError("the header claims more bytes than any file's header has") from None
                self._learn(target.family, missing)
            else:
                return
        raise CorruptTiffError(f"the header still lacks bytes after {_ROUNDS} reads")

    def _learn(self, family: str, missing: Sequence[tuple[int, int]]) -> None:
        """Ask the family's next file for as much as this one turned out to need, in whole 4 KiB."""
        needed = -(-max(start + length for start, length in missing) // 4096) * 4096
        if needed <= LARGEST_PREFETCH:
            self.prefetch[family] = max(needed, self.prefetch.get(family, FIRST_PREFETCH))

    async def _read(self, href: str, start: int, length: int) -> RangeRead:
        self.totals.requests += 1
        try:
            read = await self.reader.read(href, start, length)
        except RasteretAssetsError:
            raise
        except Exception as error:  # a user's backend may raise anything, and none of it may stop a build
            where = redact(href)
            reason = str(error).replace(href, where)
            raise StoreUnavailableError(
                f"{where}: the backend failed: {type(error).__name__}: {reason}", href=where
            ) from error
        self.totals.bytes += memoryview(read.data).nbytes
        return read

    def report(self, *, final: bool = False) -> None:
        """Hand the totals to whoever watches, at most ten times a second."""
        now = time.monotonic()
        if self.progress is not None and (final or now - self.reported >= _PROGRESS_INTERVAL_S):
            self.reported = now
            self.progress(self.totals)


def _backoff(attempts: int, retry_after: float | None) -> float:
    """Seconds before the next try: what the server asked for, else full jitter over a doubling span.

    Full jitter is the variant that spread retries best in Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
    """
    if retry_after is not None:
        return min(retry_after, _LONGEST_BACKOFF_S) + random.uniform(0, 0.25)  # noqa: S311
    return random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempts))  # noqa: S311
