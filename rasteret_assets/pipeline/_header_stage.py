"""Run stage 3, band metadata: fetch headers that the header store lacks, and write the ledger of all headers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from threading import Lock
from typing import Final, TypeVar

import pyarrow as pa

from rasteret_assets.columns.hashing import ContentDigest
from rasteret_assets.errors import CollectionError, DamagedFileError
from rasteret_assets.headers.band_metadata import BandMetadataReader, StoredHeaders
from rasteret_assets.headers.compact import LEDGER_OPTIONS
from rasteret_assets.headers.earlier import bring_up_to_date, earlier_header_files
from rasteret_assets.headers.index import HeaderIndex
from rasteret_assets.headers.outcomes import Latencies
from rasteret_assets.headers.places import Places
from rasteret_assets.headers.rows import REPEATED_COLUMNS, StoreSink
from rasteret_assets.headers.store import HeaderFileWriter, HeaderRowReader, HeaderStore
from rasteret_assets.headers.targets import TARGET_COLUMNS
from rasteret_assets.headers.unused import UnusedHeaders, list_unused, unused_lists
from rasteret_assets.headers.workers import Workers
from rasteret_assets.pipeline.stage import (
    REMOVED,
    Build,
    StageResult,
    partitions_at_once,
    side_by_side,
    timed,
)
from rasteret_assets.schema import (
    BAND_METADATA_SCHEMA,
    BANDS,
    HEADER_FILE,
    HEADER_ROW,
    HEADERS,
    ID,
    NORMALIZED,
    RETRY_UNTIL,
)
from rasteret_assets.source.stage_footer import read_stage_footer, with_stage_footer
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.io_errors import also_do
from rasteret_assets.storage.process.connections import kept_connected
from rasteret_assets.storage.workspace.files import TableWriter
from rasteret_assets.storage.workspace.streams import StreamTable

T = TypeVar("T")

_log = logging.getLogger(__name__)

#: Beginning of the names of counts that are percentiles, which are not summed: ``latency_p50_ms`` and so on.
LATENCY_PREFIX: Final = "latency_p"
# Partitions fetched at a time; few, because each finds out for itself how many requests its hosts take.
_FETCHED_AT_ONCE: Final = 4


def make_band_metadata(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Write the ledgers of some partitions; headers that one partition no longer needs serve the others."""
    if build.backend is None:
        raise CollectionError("the band metadata need a backend")
    workspace = build.workspace
    earlier = earlier_header_files(workspace)

    def prepare(key: str) -> bool:
        # Only if the partition was built before, because else it has no headers to prepare.
        if key in earlier or workspace.has(workspace.stage_file(BANDS, key)):
            with workspace.lock(key):
                _without_damaged_headers(build, lambda: _prepare_headers(build, key, earlier.get(key, ())))
        return True

    prepared = side_by_side(keys, prepare, partitions_at_once(build, keys), build.failed)
    at_once = max(1, min(_FETCHED_AT_ONCE, build.spec.max_concurrent // max([1, *map(build.most_headers, prepared)])))
    guard = Lock()

    # Once for all partitions, and only if one of them lacks a header.
    @cache
    def lists() -> list[str]:
        _list_headers_of_gone(build, keys)
        return unused_lists(workspace)

    def guarded_lists() -> list[str]:
        with guard:
            return lists()

    def read(key: str) -> StageResult:
        return _without_damaged_headers(build, lambda: _read_bands(build, key, workers, guarded_lists))

    with kept_connected(build.backend), Workers(workspace) as workers:
        return side_by_side(list(prepared), read, at_once, build.failed)


def _list_headers_of_gone(build: Build, keys: Sequence[str]) -> None:
    """List headers of partitions that are gone and that another run removes, because their records may have moved."""
    folder = f"{build.workspace.stages}/{BANDS}"
    for info in list_files(build.workspace.fs, folder, (".parquet",)):
        key = info.base_name.removesuffix(".parquet")
        if key not in keys and build.is_gone(key):
            # Without the lock of the partition, because its holder may wait for a lock that this build holds. Headers
            # that cannot be read are fetched.
            with suppress(CollectionError):
                list_unused(build.workspace, key, lambda: pa.chunked_array([], pa.string()))


def _prepare_headers(build: Build, key: str, beside: Sequence[str]) -> None:
    bring_up_to_date(build.workspace, key, beside)
    if not build.force:
        list_unused(build.workspace, key, lambda: _ids(build, key))


def _without_damaged_headers(build: Build, work: Callable[[], T]) -> T:
    """Call ``work``, which reads stored headers; if a file of them is damaged, delete the file and call it again."""
    stages = build.workspace.stages
    while True:
        try:
            return work()
        except DamagedFileError as error:
            ours = error.path.startswith((f"{stages}/{BANDS}", f"{stages}/{HEADERS}/"))
            if not ours or not build.workspace.remove(error.path):
                raise
            _log.warning("%s; its headers are read again", error)


def _ids(build: Build, key: str) -> pa.ChunkedArray:
    if build.is_gone(key):
        return pa.chunked_array([], pa.string())
    return pa.chunked_array([batch.column(0) for batch in build.records(key, [ID])], pa.string())


@timed
def _read_bands(build: Build, key: str, workers: Workers, lists: Callable[[], Sequence[str]]) -> StageResult:
    """Read the headers that a partition lacks (all of them with ``force``) and write its ledger."""
    workspace, spec, backend = build.workspace, build.spec, build.backend
    path = workspace.stage_file(BANDS, key)
    with workspace.lock(key):
        if build.is_gone(key):
            workspace.remove(path)
            return StageResult(key=key, rows=0, version=REMOVED)
        records = build.table(NORMALIZED, key)
        profile, version = read_stage_footer(records.schema, records.path)
        store = HeaderStore(workspace, key)
        writer = HeaderFileWriter(workspace, store)
        with HeaderRowReader(workspace, store, REPEATED_COLUMNS) as repeated:
            index = HeaderIndex() if build.force else HeaderIndex.of(store)
            unused = UnusedHeaders(workspace, key, writer, index, lists)
            stored = StoredHeaders(
                index=index, repeated=repeated, copy_unused=(lambda _: False) if build.force else unused.copy
            )
            reader = BandMetadataReader(
                profile.bands, backend, explicit=spec.names_bands, max_concurrent=spec.max_concurrent,  # type: ignore[arg-type]
                places=Places.of(spec, remote=profile.remote), sink=StoreSink(writer), stored=stored,
                overviews=spec.overviews, revalidate=build.revalidate,
                progress=build.progress(key) if build.progress is not None else None, rule=spec.secrets,
                retry_missing_for=spec.retry_missing_for, workers=workers,
            )  # fmt: skip
            content = ContentDigest()
            ledger_schema = with_stage_footer(BAND_METADATA_SCHEMA, profile, version)
            with workspace.writer(path, ledger_schema, **LEDGER_OPTIONS) as ledger:
                # Not read if the collection has no bands, because its records then have no targets.
                try:
                    for rows, more in _slices(build, key, records, reader) if profile.bands else ():
                        _write_slice(reader.read(rows, more), ledger, content)
                except BaseException as error:
                    # Closed here too, so that headers that an interrupted stage fetched are kept.
                    also_do(writer.close, error)
                    raise
                # Before the ledger is written, because it names these rows.
                writer.close()
    account = reader.account
    counts: dict[str, int | float | str] = {
        "headers_fetched": account.fetched,
        "headers_reused": account.reused,
        "headers_drifted": account.drifted,
        "headers_failed": account.failures.total(),
        "crs_conflicts": account.conflicts,
        "requests": account.requests,
        "request_bytes": account.bytes,
        "fetch_seconds": round(account.seconds, 3),
        **_percentiles(account.latencies),
        **{f"failed: {name}": count for name, count in sorted(account.failures.items())},
    }
    return StageResult(
        key=key,
        rows=ledger.rows,
        version=content.hexdigest(),
        counts=counts,
        path=path,
        schema=BAND_METADATA_SCHEMA,
        size=ledger.written.size,
    )


def _write_slice(rows: pa.Table, ledger: TableWriter, content: ContentDigest) -> None:
    """Write a slice of a ledger, in a function of its own so that the slice is freed before the next one is made."""
    ledger.write(rows)
    # The place of a header is not content, because compaction changes it; nor is the time of the next try.
    for batch in rows.drop_columns([HEADER_FILE, HEADER_ROW, RETRY_UNTIL]).combine_chunks().to_batches():
        content.update(batch)


def _slices(build: Build, key: str, table: StreamTable, reader: BandMetadataReader) -> Iterator[tuple[pa.Table, int]]:
    """Yield a partition's records in slices, with the columns that make targets, and the number of rows that follow."""
    held: list[pa.RecordBatch] = []
    rows, left = 0, table.rows
    for whole in build.records(key, TARGET_COLUMNS, table):
        for start in range(0, whole.num_rows, reader.slice_rows):
            batch = whole.slice(start, reader.slice_rows)
            held.append(batch)
            rows += batch.num_rows
            if rows >= reader.slice_rows:
                left -= rows
                yield pa.Table.from_batches(held), left
                held, rows = [], 0
    if held:
        yield pa.Table.from_batches(held), 0


def _percentiles(latencies: Latencies) -> dict[str, float]:
    """Return percentiles 50, 95 and 99 of the latencies, in milliseconds; none if no header was fetched."""
    found = {share: latencies.percentile(share / 100) for share in (50, 95, 99)}
    return {
        f"{LATENCY_PREFIX}{share}_ms": round(1000 * seconds, 1)
        for share, seconds in found.items()
        if seconds is not None
    }
