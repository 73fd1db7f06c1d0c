"""The four stages in a row over some partitions: what the library and the command line call."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import dataclass
from itertools import compress
from typing import Final, TypeVar

import pyarrow as pa

from rasteret_assets.headers.known import sweep_headers
from rasteret_assets.headers.outcomes import ProgressCallback
from rasteret_assets.headers.stage import check_enrichment
from rasteret_assets.pipeline.stages import (
    LATENCY_PREFIX,
    StageResult,
    run_band_metadata,
    run_collection,
    run_normalized_records,
    run_raw_records,
    set_aside,
)
from rasteret_assets.publish.partition import publish_collection_document
from rasteret_assets.schema import ASSETS, BANDS, COLLECTION, NORMALIZED, RAW, STAGES
from rasteret_assets.source.open import Source
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.aio import cancelled_together
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.commit import announce_new
from rasteret_assets.storage.connections import kept_connected
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.workspace import Workspace

T = TypeVar("T")

# Also where nothing had to be built.
_ALWAYS_COUNTED: Final = ("rejected_records", "headers_fetched", "headers_reused", "headers_failed", "requests")
# Each streams through memory of its own, so of large ones no more are in work than there are cores for. Small ones on
# an object store mostly wait for its answers.
_LARGE_AT_ONCE: Final = 4
_SMALL_AT_ONCE: Final = 12
_SMALL_ROWS: Final = 8192
# Few, because each learns for itself how much its hosts can take.
_FETCHED_AT_ONCE: Final = 4
# Each lock on a disk is an open file. Of more partitions each stage takes the lock by itself.
_HELD_AT_ONCE: Final = 256


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did.

    Args:
        reasons: why each partition was built, by key.
        results: by stage, then by key.
    """

    reasons: dict[str, str]
    results: dict[str, dict[str, StageResult]]

    @property
    def totals(self) -> dict[str, int | float]:
        """Counts of all stages, summed over the partitions; ``records`` are those published."""
        sums: dict[str, int | float] = dict.fromkeys(_ALWAYS_COUNTED, 0)
        for by_key in self.results.values():
            for result in by_key.values():
                for name, value in result.counts.items():
                    if not isinstance(value, str) and not name.startswith(LATENCY_PREFIX):
                        sums[name] = sums.get(name, 0) + value
        sums.pop("bytes", None)
        records = sum(result.rows for result in self.results[COLLECTION].values())
        return {"partitions": len(self.reasons), "records": records, **sums}


def build_partitions(
    workspace: Workspace,
    source: Source,
    spec: CollectionSpec,
    keys: Sequence[str],
    backend: StorageBackend,
    *,
    force: bool = False,
    revalidate: bool = False,
    progress: Callable[[str], ProgressCallback | None] | None = None,
    require: Callable[[Workspace, CollectionSpec, Sequence[str]], None] | None = None,
) -> dict[str, dict[str, StageResult]]:
    """All four stages over ``keys``; nothing is published where not one header of the build could be read.

    Args:
        workspace: where the collection lies.
        source: opened record table.
        spec: of the collection.
        keys: partitions to build; those the source no longer has are unpublished.
        backend: where headers come from.
        force: fetch every header again.
        revalidate: ask whether the files of known headers have changed, and read those again that have.
        progress: called with each partition key, returns what to call while its headers come in.
        require: called with the partitions before any of them is published; what it raises stops the build.

    Returns:
        Results by stage, then by key.

    Raises:
        EnrichmentError: if every header of the build failed.
        InvalidRecordError: if more records than tolerated break the contract.
    """
    with ExitStack() as stack:
        # In one order, so that no two builds wait for each other; whoever waits scans the source after that.
        held_keys = sorted(keys) if len(keys) <= _HELD_AT_ONCE else []
        holds = {key: stack.enter_context(workspace.lock(key)) for key in held_keys}
        results: dict[str, dict[str, StageResult]] = {stage: {} for stage in STAGES}
        results[RAW] = {result.key: result for result in run_raw_records(workspace, source, spec, keys)}
        at_once = _partitions_at_once(workspace, max((result.rows for result in results[RAW].values()), default=0))
        results[NORMALIZED] = _side_by_side(keys, lambda key: run_normalized_records(workspace, spec, key), at_once)
        if not force:
            sweep_headers(workspace)
            _side_by_side(keys, lambda key: set_aside(workspace, spec, key), at_once)

        def read_bands(key: str) -> StageResult:
            watch = progress(key) if progress is not None else None
            return run_band_metadata(
                workspace, spec, key, backend, force=force, revalidate=revalidate, progress=watch
            )  # fmt: skip

        with kept_connected(backend):
            results[BANDS] = _side_by_side(keys, read_bands, _fetched_at_once(spec, results[NORMALIZED]))
        refuse_without_headers(workspace, list(results[BANDS].values()))
        if require is not None:
            require(workspace, spec, keys)
        # A build that slept and lost one partition publishes none: records may have moved between them.
        each_file(workspace.fs, lambda key: holds[key].confirm(), held_keys)
        # So that a build that dies among these leaves no collection that looks whole.
        announce_new(workspace, keys)
        for group in publishing_order(workspace, keys):
            results[COLLECTION] |= _side_by_side(group, lambda key: run_collection(workspace, spec, key), at_once)
        publish_collection_document(workspace, spec)
        return results


def publishing_order(workspace: Workspace, keys: Sequence[str]) -> tuple[list[str], list[str]]:
    """Partitions to publish, and those to unpublish after them: a record that moved out of one is never missing."""
    there = each_file(workspace.fs, workspace.has, [workspace.stage_file(NORMALIZED, key) for key in keys])
    return list(compress(keys, there)), [key for key, is_there in zip(keys, there, strict=True) if not is_there]


def _partitions_at_once(workspace: Workspace, most_rows: int) -> int:
    cores = min(_LARGE_AT_ONCE, os.cpu_count() or 1)
    return max(cores, _SMALL_AT_ONCE) if not workspace.is_local and most_rows <= _SMALL_ROWS else cores


def _fetched_at_once(spec: CollectionSpec, normalized: Mapping[str, StageResult]) -> int:
    """How many partitions, of a few, together have no more headers than may be asked for at once.

    One large partition keeps as many requests in flight by itself; of small ones each would only wait for its own.
    """
    headers = [result.rows * max(1, _assets(result)) for result in normalized.values()]
    return max(1, min(_FETCHED_AT_ONCE, spec.max_concurrent // max([1, *headers])))


def _assets(result: StageResult) -> int:
    """How many assets a record has at most."""
    kind = result.schema.field(ASSETS).type if result.schema is not None else pa.struct([])
    return kind.num_fields if pa.types.is_struct(kind) else 1


def _side_by_side(keys: Sequence[str], stage: Callable[[str], T], at_once: int) -> dict[str, T]:
    """A stage over several partitions at once: its work is Arrow's and numpy's, which run beside each other.

    What ends one of them, and an interrupt, stops the others' requests.
    """
    if at_once == 1:
        return {key: stage(key) for key in keys}
    with ThreadPoolExecutor(at_once) as pool, cancelled_together():
        running = {key: pool.submit(copy_context().run, stage, key) for key in keys}
        try:
            return {key: future.result() for key, future in running.items()}
        finally:
            for future in running.values():
                future.cancel()


def refuse_without_headers(
    workspace: Workspace, results: Sequence[StageResult], *, transient_only: bool = False
) -> None:
    """Stop a build of which not one header came: what was published before stays.

    Args:
        workspace: where the ledgers lie; they are read only if every row of every one failed.
        results: of the band metadata stage, for all partitions of the build.
        transient_only: stop only for failures that another try may mend.

    Raises:
        EnrichmentError: with the commonest failures, the first of them, and what helps.
    """
    built = [result for result in results if result.rows]
    if all(result.counts["headers_failed"] == result.rows for result in built):
        ledgers = [workspace.read_table(result.path) for result in built]
        check_enrichment([ledger for ledger in ledgers if ledger is not None], transient_only=transient_only)
