"""Define stages, the build that they share, and how many partitions are worked on at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Final, ParamSpec, TypeVar

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.headers.outcomes import ProgressCallback
from rasteret_assets.schema import (
    NORMALIZED,
)
from rasteret_assets.source.open import Source
from rasteret_assets.source.profile import SourceProfile
from rasteret_assets.source.spool import Spool
from rasteret_assets.source.stored import load_profile, stored_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.process.processes import cancelled_together
from rasteret_assets.storage.workspace import Workspace
from rasteret_assets.storage.workspace.holds import Hold
from rasteret_assets.storage.workspace.streams import StreamTable, open_stream

T = TypeVar("T")
P = ParamSpec("P")

#: Version of a stage's table that was removed, because its partition is gone from the source.
REMOVED: Final = "removed"

#: Arrow bytes of normalized records that stay in memory between two stages of one process, at most.
HANDED_BYTES: Final = 64 * 2**20

# Large partitions: at most 4, and one for each core, because each takes memory of its own. Small partitions on an
# object store: more than there are cores, because they mostly wait for the store.
_LARGE_AT_ONCE: Final = 4
_SMALL_AT_ONCE: Final = 12
_SMALL_ROWS: Final = 8192
# At most 256 locks, because each lock on a disk is an open file.
_HELD_AT_ONCE: Final = 256


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a stage for one partition.

    Args:
        key: of the partition.
        rows: of the table that was written.
        version: hash of the table's content; Dagster's data version.
        counts: numbers and short texts for people, by name.
        path: of the file that was written; empty if the partition was removed.
        schema: of the table that was written; None if the partition was removed.
        size: of the file that was written, in bytes.
        seconds: that the stage took for the partition.
    """

    key: str
    rows: int
    version: str
    counts: dict[str, int | float | str] = field(default_factory=dict)
    path: str = ""
    schema: pa.Schema | None = None
    size: int = 0
    seconds: float = 0.0


@dataclass(kw_only=True)
class Build:
    """The state that the stages of one build, or of one step of a run, share.

    Args:
        workspace: of the collection.
        spec: of the collection.
        source: opened record table; only the first stage needs it.
        backend: that reads headers; only the header stage needs it.
        force: whether every row and every header is read again.
        revalidate: whether to ask if the files of stored headers have changed, and to read headers of changed files
            again.
        progress: called with each partition key; returns the callback for the progress of its headers.
        spool: rows of the source that were kept while it was profiled, and the versions of their files.
        failed: errors by partition, if given: a partition that fails is added here and does not stop the others.
    """

    workspace: Workspace
    spec: CollectionSpec
    source: Source | None = None
    backend: StorageBackend | None = None
    force: bool = False
    revalidate: bool = False
    progress: Callable[[str], ProgressCallback | None] | None = None
    spool: tuple[Spool, set[str]] | None = None
    failed: dict[str, Exception] | None = None
    _profile: SourceProfile | None = None
    _handed: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    _handed_bytes: int = 0

    @contextmanager
    def profiling(self, *, trust_stored: bool = True) -> Iterator[SourceProfile]:
        """Profile the source, and keep rows that are read for it for the first stage, until the block ends.

        Args:
            trust_stored: whether the stored profile of unchanged files counts.

        Yields:
            The profile of the source.

        Raises:
            CollectionError: if the build has no ``source``.
        """
        if self.source is None:
            raise CollectionError("the record table was not opened")
        source, seen = self.source, set[str]()
        with Spool(self.workspace, source.schema, source.label) as spool:

            def keep(version: str, key: str, rows: pa.RecordBatch) -> None:
                seen.add(version)
                spool.add(version, key, rows)

            self._profile = load_profile(self.workspace, source, self.spec, keep=keep, trust_stored=trust_stored)
            self.spool = spool, seen
            try:
                yield self._profile
            finally:
                self.spool = None

    def is_gone(self, key: str) -> bool:
        """Tell whether a partition is gone from the source, by its last profile."""
        if self._profile is None:
            self._profile = stored_profile(self.workspace)
        return self._profile is not None and key not in self._profile.partitions

    def most_rows(self, keys: Sequence[str]) -> int:
        """Return the number of rows of the largest of some partitions, by the last profile of the source."""
        there = [key for key in keys if not self.is_gone(key)]
        return max((self._profile.partitions[key].rows for key in there), default=0) if self._profile is not None else 0

    def most_headers(self, key: str) -> int:
        """Return the number of headers of a partition at most, by the last profile of the source."""
        return self.most_rows([key]) * (len(self._profile.bands) if self._profile is not None else 0)

    def hand_on(self, key: str, batches: list[pa.RecordBatch]) -> None:
        """Keep normalized records for the next stages of this process, if they fit into :data:`HANDED_BYTES`."""
        size = sum(batch.nbytes for batch in batches)
        if self._handed_bytes + size <= HANDED_BYTES:
            self._handed[key] = batches
            self._handed_bytes += size

    def records(
        self, key: str, columns: Sequence[str] | None = None, table: StreamTable | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the normalized records of a partition, from memory if they were kept there.

        Args:
            key: of the partition.
            columns: to yield; all when omitted.
            table: of the partition, if it is open already.
        """
        if (handed := self._handed.get(key)) is not None:
            return (batch if columns is None else batch.select(list(columns)) for batch in handed)
        return (table or self.table(NORMALIZED, key)).batches(columns)

    def let_go(self, key: str) -> None:
        """Free the records of a partition in memory, because it is published."""
        for batch in self._handed.pop(key, ()):
            self._handed_bytes -= batch.nbytes

    def table(self, stage: str, key: str) -> StreamTable:
        """Open the table of a stage for a later stage.

        Raises:
            CollectionError: if the table does not exist, or is damaged.
        """
        table = open_stream(self.workspace, self.workspace.stage_file(stage, key))
        if table is None:
            raise CollectionError(
                f"{self.workspace.stage_file(stage, key)} does not exist, though the source has the partition {key}: "
                f"build {stage} of it, then the stages after it"
            )
        return table


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the pipeline.

    Args:
        name: of its table.
        inputs: names of the stages whose tables the stage reads.
        make: writes the stage's tables of some partitions.
    """

    name: str
    inputs: tuple[str, ...]
    make: Callable[[Build, Sequence[str]], dict[str, StageResult]]


def timed(make: Callable[P, StageResult]) -> Callable[P, StageResult]:
    """Decorate a function that makes one partition of a stage: put the seconds that it took into its result."""

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> StageResult:
        start = time.monotonic()
        result = make(*args, **kwargs)
        return replace(result, seconds=round(time.monotonic() - start, 3))

    return made


def partitions_at_once(build: Build, keys: Sequence[str]) -> int:
    """Return how many partitions of a build are worked on side by side."""
    cores = min(_LARGE_AT_ONCE, os.cpu_count() or 1)
    small = not build.workspace.is_local and 0 < build.most_rows(keys) <= _SMALL_ROWS
    return max(cores, _SMALL_AT_ONCE) if small else cores


@contextmanager
def held_together(workspace: Workspace, keys: Sequence[str]) -> Iterator[dict[str, Hold]]:
    """Hold the locks of all partitions of a build, so that other builds of them wait until the block ends.

    Args:
        workspace: of the collection.
        keys: of the partitions; if more than 256, no lock is held, and each stage locks partitions one by one.

    Yields:
        The locks that are held, by partition.
    """
    with ExitStack() as stack:
        # In sorted order, so that no two builds wait for each other.
        held = sorted(keys) if len(keys) <= _HELD_AT_ONCE else []
        yield {key: stack.enter_context(workspace.lock(key)) for key in held}


def side_by_side(
    keys: Sequence[str], work: Callable[[str], T], at_once: int, failed: dict[str, Exception] | None = None
) -> dict[str, T]:
    """Do the same work for several partitions at once, in threads, because Arrow and numpy release Python's lock.

    Args:
        keys: of the partitions.
        work: called with each key.
        at_once: how many partitions are worked on at a time.
        failed: gets the error of each partition that fails, by key, and the others go on. If None, the first failure
            stops the requests of the others and keeps waiting partitions from beginning. An interrupt always does.

    Returns:
        What the work returned, by the key of each partition that did not fail.
    """

    def tried(key: str) -> T | None:
        try:
            return work(key)
        except Exception as error:
            if failed is None:
                raise
            failed[key] = error
            return None

    alone = at_once == 1 or len(keys) < 2
    done = {key: tried(key) for key in keys} if alone else _in_threads(keys, tried, at_once)
    return {key: result for key, result in done.items() if failed is None or key not in failed}  # type: ignore[misc]


def _in_threads(keys: Sequence[str], work: Callable[[str], T], at_once: int) -> dict[str, T]:
    with ThreadPoolExecutor(at_once) as pool, cancelled_together():
        running = {key: pool.submit(copy_context().run, work, key) for key in keys}
        try:
            done, _ = wait(running.values(), return_when=FIRST_EXCEPTION)
            for future in done:
                if (error := future.exception()) is not None:
                    raise error
            return {key: future.result() for key, future in running.items()}
        finally:
            for future in running.values():
                future.cancel()
