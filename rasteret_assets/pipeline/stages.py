"""The four stages over a workspace: what each needs, what it makes of one partition, and one loop over them.

The library runs the stages in a row (:mod:`~rasteret_assets.pipeline.build`), a Dagster step runs one of them: both
call :func:`run_stage`. A stage reads the table of the stage before from the workspace, or takes it from memory where
the same process has just made it.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache
from threading import Lock
from typing import Final, TypeVar

import pyarrow as pa

from rasteret_assets.columns.scalars import normalize_ids
from rasteret_assets.errors import CollectionError, DamagedFileError, SourceChangedError, SourceError
from rasteret_assets.headers.compact import LEDGER_OPTIONS
from rasteret_assets.headers.earlier import bring_up_to_date, remove_earlier_tables
from rasteret_assets.headers.index import HeaderIndex
from rasteret_assets.headers.outcomes import Latencies, ProgressCallback
from rasteret_assets.headers.rows import LIGHT_COLUMNS, StoreSink
from rasteret_assets.headers.stage import BandMetadataReader, KnownHeaders, count_failures
from rasteret_assets.headers.store import HeaderFileWriter, HeaderReader, HeaderStore
from rasteret_assets.headers.targets import TARGET_COLUMNS
from rasteret_assets.headers.unused import Lender, list_unused
from rasteret_assets.publish.footer import PublishedFacts
from rasteret_assets.publish.partition import publish_partition
from rasteret_assets.publish.stac import is_stac
from rasteret_assets.records.normalize import RepeatedIds, check_rejected, normalize_records
from rasteret_assets.records.order import RecordSorter
from rasteret_assets.schema import (
    BAND_METADATA_SCHEMA,
    BANDS,
    COLLECTION,
    HEADERS,
    ID,
    NORMALIZED,
    PARSER_VERSION,
    RAW,
    RECIPE_KEY,
    REJECTED,
)
from rasteret_assets.source.open import Source
from rasteret_assets.source.profile import SourceProfile, parts_of, scan_parts
from rasteret_assets.source.recipe import recipe_of, with_recipe
from rasteret_assets.source.spool import Spool
from rasteret_assets.source.stored import load_profile, stored_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.ahead import ahead
from rasteret_assets.storage.aio import cancelled_together
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.batches import BATCH_BYTES, BATCH_ROWS
from rasteret_assets.storage.commit import FileFacts, commit, remove_outdated, unpublish
from rasteret_assets.storage.connections import kept_connected
from rasteret_assets.storage.files import STAGE_OPTIONS, TableWriter
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.streams import StreamTable, open_stream, stream_writer
from rasteret_assets.storage.workspace import Workspace

T = TypeVar("T")

_log = logging.getLogger(__name__)

_RECORD_COUNTS: Final = ("rejected_records", "duplicate_records", "unreadable_assets", "crs_conflicts")

#: Counts of the header stage that are percentiles, and so are not summed: ``latency_p50_ms`` and so on.
LATENCY_PREFIX: Final = "latency_p"

#: Version of a stage's table that does not exist any more, because the source lost the partition.
REMOVED: Final = "removed"

#: Arrow bytes of normalized records that stay in memory between two stages of one process.
_HANDED_BYTES: Final = 64 * 2**20

# Each partition streams through memory of its own, so of large ones no more are in work than there are cores for. Small
# ones on an object store mostly wait for its answers.
_LARGE_AT_ONCE: Final = 4
_SMALL_AT_ONCE: Final = 12
_SMALL_ROWS: Final = 8192
# Few, because each learns for itself how much its hosts can take.
_FETCHED_AT_ONCE: Final = 4


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage did to one partition.

    Args:
        key: the partition.
        rows: rows of the table it wrote.
        version: changes whenever the table's content does; the Dagster data version.
        counts: what a person looks for, by name: numbers and short texts.
        path: file that was written; empty where the partition was removed.
        schema: of the table that was written; None where the partition was removed.
    """

    key: str
    rows: int
    version: str
    counts: dict[str, int | float | str] = field(default_factory=dict)
    path: str = ""
    schema: pa.Schema | None = None


@dataclass(kw_only=True)
class Build:
    """What the stages of one build, or one step of a run, share.

    Args:
        workspace: of the collection.
        spec: of the collection.
        source: opened record table; only the first stage needs it.
        backend: where headers come from; only the header stage needs it.
        force: fetch every header again.
        revalidate: ask whether the files of known headers have changed, and read those again that have.
        progress: called with each partition key, returns what to call while its headers come in.
        spool: rows of the source that were put aside while it was looked at, and the versions of their files.
    """

    workspace: Workspace
    spec: CollectionSpec
    source: Source | None = None
    backend: StorageBackend | None = None
    force: bool = False
    revalidate: bool = False
    progress: Callable[[str], ProgressCallback | None] | None = None
    spool: tuple[Spool, set[str]] | None = None
    _profile: SourceProfile | None = None
    _handed: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    _handed_bytes: int = 0
    #: Rows of the largest partition, where they are known.
    most_rows: int = 0

    @contextmanager
    def looking(self, *, trust_stored: bool = True) -> Iterator[SourceProfile]:
        """Look at the source, and keep the rows of the files that are read for the first stage, until the block ends.

        Args:
            trust_stored: whether what is stored of unchanged files is believed.

        Yields:
            The profile of the source.
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
        """Tell whether the source has no such partition, as it was last looked at."""
        if self._profile is None:
            self._profile = stored_profile(self.workspace)
        return self._profile is not None and key not in self._profile.partitions

    def hand_on(self, key: str, batches: list[pa.RecordBatch]) -> None:
        """Keep normalized records for the next stages of this process, if there is room."""
        size = sum(batch.nbytes for batch in batches)
        if self._handed_bytes + size <= _HANDED_BYTES:
            self._handed[key] = batches
            self._handed_bytes += size

    def records(self, key: str, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the normalized records of a partition, from memory where they are there."""
        if (handed := self._handed.get(key)) is not None:
            return (batch if columns is None else batch.select(list(columns)) for batch in handed)
        return self.table(NORMALIZED, key).batches(columns)

    def let_go(self, key: str) -> None:
        """Forget the records of a partition that is published."""
        for batch in self._handed.pop(key, ()):
            self._handed_bytes -= batch.nbytes

    def table(self, stage: str, key: str) -> StreamTable:
        """Open the table of a stage before.

        Raises:
            CollectionError: if it does not exist, or is damaged.
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
        inputs: names of the stages whose tables it reads.
        make: makes its tables of some partitions.
    """

    name: str
    inputs: tuple[str, ...]
    make: Callable[[Build, Sequence[str]], dict[str, StageResult]]


def run_stage(name: str, build: Build, keys: Sequence[str]) -> list[StageResult]:
    """Run one stage over some partitions.

    Args:
        name: of the stage.
        build: what it works on.
        keys: of the partitions; those that the source no longer has are removed.

    Returns:
        A result for every partition, in their order.

    Raises:
        RasteretAssetsError: what stopped it; partitions that were made before stay made.
    """
    results = STAGES[name].make(build, keys)
    # The allocator keeps what the stage needed for a while; the next one needs memory of other sizes.
    pa.default_memory_pool().release_unused()
    return [results[key] for key in keys]


# --- raw records -----------------------------------------------------------------------------------------------------


def _make_raw(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Write the rows of every partition; files that were read while the source was looked at are not read again."""
    workspace, spec, source = build.workspace, build.spec, build.source
    if source is None:
        raise CollectionError("the raw records need the record table")
    workspace.sweep()
    with ExitStack() as stack:
        if build.spool is None:
            spool, seen = stack.enter_context(Spool(workspace, source.schema, source.label)), set[str]()
            profile = load_profile(workspace, source, spec)
        else:
            spool, seen = build.spool
            profile = build._profile or load_profile(workspace, source, spec)  # noqa: SLF001
        try:
            _fill(build, spool, source, profile, keys, seen)
            results = {key: _put_raw(workspace, spec, spool, source, profile, key) for key in keys}
        except (SourceError, DamagedFileError) as error:
            # Once more, from the beginning: what is stored of the source is not true any more. A file that was read
            # when it was looked at, and cannot be read now, has been rewritten too.
            _log.warning("%s; the source is looked at again", error)
            source = build.source = source.reopen() if source.reopen is not None else source
            spool = stack.enter_context(Spool(workspace, source.schema, source.label))
            profile = load_profile(workspace, source, spec, trust_stored=False)
            _fill(build, spool, source, profile, keys, set(), trust_stored=False)
            results = {key: _put_raw(workspace, spec, spool, source, profile, key) for key in keys}
        build._profile = profile  # noqa: SLF001
    remove_earlier_tables(workspace, set(keys))
    build.most_rows = max((result.rows for result in results.values()), default=0)
    return results


def _fill(
    build: Build,
    spool: Spool,
    source: Source,
    profile: SourceProfile,
    keys: Sequence[str],
    seen: set[str],
    *,
    trust_stored: bool = True,
) -> None:
    """Complete the rows of partitions: from their last raw records where files did not change, else from the files."""
    wanted = parts_of(source, profile, [key for key in keys if key in profile.partitions])
    wanted = {version: held for version, held in wanted.items() if version not in seen}
    if trust_stored and not build.force:
        for key in sorted({key for held in wanted.values() for key in held}):
            digests = {
                version: profile.parts[version].partitions[key].version for version in wanted if key in wanted[version]
            }
            for version in _reused(build, spool, key, digests):
                wanted[version].discard(key)
    for version, key, rows in ahead(scan_parts(source, build.spec, profile, wanted)):
        spool.add(version, key, rows)


def _reused(build: Build, spool: Spool, key: str, digests: Mapping[str, str]) -> set[str]:
    """Versions of the files whose rows were taken over from a partition's last raw records."""
    path = build.workspace.stage_file(RAW, key)
    try:
        table = open_stream(build.workspace, path)
        if table is None or recipe_of(table.schema, path)[1].split("-")[1] != build.spec.content_hash:
            return set()
        return spool.reuse(key, table, digests)
    except (CollectionError, IndexError, KeyError, TypeError):
        return set()  # the rows are read again


def _put_raw(
    workspace: Workspace, spec: CollectionSpec, spool: Spool, source: Source, profile: SourceProfile, key: str
) -> StageResult:
    path = workspace.stage_file(RAW, key)
    if key not in profile.partitions:
        workspace.remove(path)
        return StageResult(key=key, rows=0, version=REMOVED)
    version = profile.version(key, spec)
    if spool.rows[key] != profile.partitions[key].rows:
        raise SourceChangedError(
            f"{source.label}: {spool.rows[key]} rows of {key} were read where {profile.partitions[key].rows} were "
            "counted: it is being rewritten; build again once that is done"
        )
    schema = with_recipe(spool.schema, profile, version)
    digests = {name: part.partitions[key].version for name, part in profile.parts.items() if key in part.partitions}
    written = spool.put(key, path, schema.metadata, digests)
    rows = spool.rows[key]
    spool.drop(key)
    return StageResult(
        key=key, rows=rows, version=version, counts={"bytes": written.size}, path=path, schema=source.schema
    )


# --- normalized records ----------------------------------------------------------------------------------------------


def _make_normalized(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    return side_by_side(keys, lambda key: _normalize(build, key), partitions_at_once(build))


def _normalize(build: Build, key: str) -> StageResult:
    """Normalize a partition's raw rows into published order, and write those that cannot be beside them."""
    workspace = build.workspace
    path, rejected_path = workspace.stage_file(NORMALIZED, key), workspace.stage_file(REJECTED, key)
    with workspace.lock(key):
        if build.is_gone(key):
            workspace.remove(path)
            workspace.remove(rejected_path)
            return StageResult(key=key, rows=0, version=REMOVED)
        raw = build.table(RAW, key)
        profile, version = recipe_of(raw.schema, raw.path)
        counts: Counter[str] = Counter()
        facts = PublishedFacts()
        with RecordSorter() as sorter:
            normalized = _sort_records(build, raw, profile, sorter, rejected_path, counts, facts)
            handed = _Handed()
            with stream_writer(workspace, path, with_recipe(normalized, profile, version)) as stream:
                for piece in sorter.drain(BATCH_ROWS):
                    stream.write(piece)
                    handed.add(piece)
                stream.notes = {"facts": facts.to_json()}
        if handed.batches is not None:
            build.hand_on(key, handed.batches)
        return StageResult(
            key=key, rows=stream.rows, version=stream.written.digest,
            counts={name: counts[name] for name in _RECORD_COUNTS}, path=path, schema=normalized,
        )  # fmt: skip


def _sort_records(
    build: Build,
    raw: StreamTable,
    profile: SourceProfile,
    sorter: RecordSorter,
    rejected_path: str,
    counts: Counter[str],
    facts: PublishedFacts,
) -> pa.Schema:
    """Give the sorter a partition's normalized records, write the rejected rows, and return the records' schema."""
    workspace, spec = build.workspace, build.spec
    ids = raw.batches([spec.source_column(ID)]) if profile.repeats_ids else ()
    repeats = RepeatedIds(normalize_ids(batch.column(0)) for batch in ids)
    metadata = {name: text for name, text in (raw.schema.metadata or {}).items() if name != RECIPE_KEY}
    first_rejected: pa.Table | None = None
    normalized = pa.schema([])
    with ExitStack() as stack:
        rejected: TableWriter | None = None
        for rows in _whole_batches(raw):
            result = normalize_records(rows.replace_schema_metadata(metadata), spec, profile, repeats)
            normalized = result.records.schema
            sorter.add(result.records)
            facts.add(result.records, spec.name if is_stac(normalized) else None)
            if result.rejected.num_rows:
                if rejected is None:
                    first_rejected = result.rejected
                    writer = workspace.writer(rejected_path, first_rejected.schema, durable=False, **STAGE_OPTIONS)
                    rejected = stack.enter_context(writer)
                rejected.write(result.rejected)
            counts["rejected_records"] += result.rejected.num_rows
            counts["duplicate_records"] += result.duplicates
            counts["unreadable_assets"] += result.unreadable_assets
            counts["crs_conflicts"] += result.crs_conflicts
    if first_rejected is None:
        workspace.remove(rejected_path)
    else:
        check_rejected(first_rejected, counts["rejected_records"], raw.rows, spec.max_rejected)
    return normalized


@dataclass
class _Handed:
    """Normalized records that may stay in memory; None once they are too many."""

    batches: list[pa.RecordBatch] | None = field(default_factory=list)
    bytes: int = 0

    def add(self, piece: pa.Table) -> None:
        self.bytes += piece.nbytes
        if self.batches is not None:
            self.batches = None if self.bytes > _HANDED_BYTES else [*self.batches, *piece.to_batches()]


def _whole_batches(raw: StreamTable) -> Iterator[pa.Table]:
    """Raw rows in batches that are worth their price; an empty one where there are none, which has a schema too."""
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in raw.batches():
        held.append(batch)
        rows, size = rows + batch.num_rows, size + batch.nbytes
        if rows >= BATCH_ROWS or size >= BATCH_BYTES:
            yield pa.Table.from_batches(held).combine_chunks()
            held, rows, size = [], 0, 0
    if held or not raw.rows:
        yield pa.Table.from_batches(held, raw.schema).combine_chunks()


# --- band metadata ---------------------------------------------------------------------------------------------------


def _make_bands(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Make the ledgers of some partitions; what one of them no longer needs, the others find."""
    if build.backend is None:
        raise CollectionError("the band metadata need a backend")

    def prepare(key: str) -> int:
        with build.workspace.lock(key):
            _without_damaged_headers(build, lambda: _prepare_headers(build, key))
        return _targets(build, key)

    targets = side_by_side(keys, prepare, partitions_at_once(build))
    at_once = max(1, min(_FETCHED_AT_ONCE, build.spec.max_concurrent // max([1, *targets.values()])))
    # Once for all partitions, and only where one of them lacks a header.
    list_gone, guard = cache(lambda: _list_headers_of_gone(build, keys)), Lock()

    def lists_complete() -> None:
        with guard:
            list_gone()

    def read(key: str) -> StageResult:
        return _without_damaged_headers(build, lambda: _read_bands(build, key, lists_complete))

    with kept_connected(build.backend):
        return side_by_side(keys, read, at_once)


def _list_headers_of_gone(build: Build, keys: Sequence[str]) -> None:
    """List the headers of partitions that the source lost and that another run takes away: their records moved."""
    folder = f"{build.workspace.stages}/{BANDS}"
    for info in list_files(build.workspace.fs, folder, (".parquet",)):
        key = info.base_name.removesuffix(".parquet")
        if key not in keys and build.is_gone(key):
            # Without the lock of the partition, which may wait for ours: what cannot be read now is fetched instead.
            with suppress(CollectionError):
                list_unused(build.workspace, key, lambda: pa.chunked_array([], pa.string()))


def _prepare_headers(build: Build, key: str) -> None:
    bring_up_to_date(build.workspace, key)
    if not build.force:
        list_unused(build.workspace, key, lambda: _ids(build, key))


def _without_damaged_headers(build: Build, work: Callable[[], T]) -> T:
    """Do what reads stored headers; delete a damaged file of them and do it again: its headers are fetched again."""
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


def _targets(build: Build, key: str) -> int:
    """How many headers a partition has at most."""
    if build.is_gone(key):
        return 0
    table = build.table(NORMALIZED, key)
    return table.rows * len(recipe_of(table.schema, table.path)[0].bands)


def _read_bands(build: Build, key: str, lists_complete: Callable[[], None]) -> StageResult:
    """Read the headers a partition lacks (all of them with ``force``) and write its ledger."""
    workspace, spec, backend = build.workspace, build.spec, build.backend
    path = workspace.stage_file(BANDS, key)
    with workspace.lock(key):
        if build.is_gone(key):
            workspace.remove(path)
            return StageResult(key=key, rows=0, version=REMOVED)
        records = build.table(NORMALIZED, key)
        profile, version = recipe_of(records.schema, records.path)
        store = HeaderStore(workspace, key)
        writer = HeaderFileWriter(workspace, store)
        with HeaderReader(workspace, store, LIGHT_COLUMNS) as light:
            known = None
            if not build.force:
                index = HeaderIndex.of(store)
                lender = Lender(workspace, key, writer, index, lists_complete)
                known = KnownHeaders(index=index, light=light, borrow=lender.lend)
            reader = BandMetadataReader(
                profile.bands, backend, explicit=spec.names_bands, max_concurrent=spec.max_concurrent,  # type: ignore[arg-type]
                sink=StoreSink(writer), known=known, overviews=spec.overviews, revalidate=build.revalidate,
                progress=build.progress(key) if build.progress is not None else None,
            )  # fmt: skip
            ledger_schema = with_recipe(BAND_METADATA_SCHEMA, profile, version)
            with workspace.writer(path, ledger_schema, **LEDGER_OPTIONS) as ledger:
                # Records without bands have no targets: they need not be read to be told so.
                try:
                    for rows, more in _slices(build, key, records.rows, reader) if profile.bands else ():
                        ledger.write(reader.read(rows, more))
                finally:
                    # Also what an interrupted stage fetched counts. The rows come before the ledger that names them.
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
        "seconds": round(account.seconds, 3),
        **_percentiles(account.latencies),
        **{f"failed: {name}": count for name, count in sorted(account.failures.items())},
    }
    return StageResult(
        key=key, rows=ledger.rows, version=ledger.written.digest, counts=counts, path=path, schema=BAND_METADATA_SCHEMA
    )


def _slices(build: Build, key: str, total: int, reader: BandMetadataReader) -> Iterator[tuple[pa.Table, int]]:
    """A partition's records as far as targets are made from them, and how many follow each slice."""
    held: list[pa.RecordBatch] = []
    rows, left = 0, total
    for whole in build.records(key, TARGET_COLUMNS):
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
    """Milliseconds within which half, most and nearly all of the headers came; nothing where none was asked for."""
    found = {share: latencies.percentile(share / 100) for share in (50, 95, 99)}
    return {
        f"{LATENCY_PREFIX}{share}_ms": round(1000 * seconds, 1)
        for share, seconds in found.items()
        if seconds is not None
    }


# --- collection ------------------------------------------------------------------------------------------------------


def _make_collection(build: Build, keys: Sequence[str]) -> dict[str, StageResult]:
    """Publish partitions, and unpublish those that are gone after them: a record that moved is never missing."""
    there = [key for key in keys if not build.is_gone(key)]
    gone = [key for key in keys if build.is_gone(key)]
    at_once = partitions_at_once(build)
    results: dict[str, StageResult] = {}
    for group in (there, gone):
        results |= side_by_side(group, lambda key: _publish(build, key), at_once)
    return results


def _publish(build: Build, key: str) -> StageResult:
    """Publish a partition by replacing its file, or remove it where its records are gone; the state is written last."""
    workspace, spec = build.workspace, build.spec
    with workspace.lock(key):
        if build.is_gone(key):
            unpublish(workspace, key)
            return StageResult(key=key, rows=0, version=REMOVED)
        records = build.table(NORMALIZED, key)
        profile, source_version = _joined_recipe(workspace, key, records)
        published = publish_partition(
            workspace, spec, key, profile.bands, records=build.records(key), schema=records.schema.remove_metadata(),
            facts=PublishedFacts.from_json(records.notes["facts"]),
        )  # fmt: skip
        build.let_go(key)
        facts, written = published.facts, published.written
        built_from = {
            "source_version": source_version,
            "spec_hash": spec.content_hash,
            "parser_version": PARSER_VERSION,
            "bands": list(profile.bands),
            "failures": _failures(workspace, key),
            "bbox": facts.bbox,
            "interval": facts.interval,
            "collections": sorted(facts.collections),
        }
        commit(workspace, key, FileFacts.of(facts.rows, written), built_from)
        remove_outdated(workspace, key)
    counts: dict[str, int | float | str] = {
        "bytes": written.size,
        "crs_corrected_by_header": published.findings.corrected,
        "crs_conflicting_bands": published.findings.conflicting,
    }
    return StageResult(
        key=key, rows=facts.rows, version=written.digest, counts=counts, path=workspace.published_file(key),
        schema=published.schema,
    )  # fmt: skip


def _failures(workspace: Workspace, key: str) -> dict[str, int]:
    """Headers that a partition lacks, by error class."""
    counts: Counter[str] = Counter()
    for batch in workspace.read_batches(workspace.stage_file(BANDS, key), ["status", "error_class"]):
        counts.update(count_failures(pa.Table.from_batches([batch])))
    return dict(sorted(counts.items()))


def _joined_recipe(workspace: Workspace, key: str, records: StreamTable) -> tuple[SourceProfile, str]:
    """The profile and version of a partition's records, which must be those its ledger was made for."""
    ledger = workspace.stage_file(BANDS, key)
    ledger_schema = workspace.read_schema(ledger)
    if ledger_schema is None:
        raise CollectionError(f"{ledger} is missing: build {BANDS} of {key}")
    profile, version = recipe_of(records.schema, records.path)
    if recipe_of(ledger_schema, ledger)[1] != version:
        raise CollectionError(
            f"{BANDS} of {key} was made for other records than {NORMALIZED} holds now (another run may be building "
            f"the partition): build {BANDS} again, then {COLLECTION}"
        )
    return profile, version


# --- the loop --------------------------------------------------------------------------------------------------------

#: The stages, in the order in which data flows.
STAGES: Final[dict[str, Stage]] = {
    stage.name: stage
    for stage in (
        Stage(name=RAW, inputs=(), make=_make_raw),
        Stage(name=NORMALIZED, inputs=(RAW,), make=_make_normalized),
        Stage(name=BANDS, inputs=(NORMALIZED,), make=_make_bands),
        Stage(name=COLLECTION, inputs=(NORMALIZED, BANDS), make=_make_collection),
    )
}


def partitions_at_once(build: Build) -> int:
    """Return how many partitions of a build are worked on side by side."""
    cores = min(_LARGE_AT_ONCE, os.cpu_count() or 1)
    small = not build.workspace.is_local and 0 < build.most_rows <= _SMALL_ROWS
    return max(cores, _SMALL_AT_ONCE) if small else cores


def side_by_side(keys: Sequence[str], work: Callable[[str], T], at_once: int) -> dict[str, T]:
    """Do the same work for several partitions at once: it is Arrow's and numpy's, which run beside each other.

    The first failure, and an interrupt, stops the others' requests and keeps those that wait from beginning.
    """
    if at_once == 1 or len(keys) < 2:
        return {key: work(key) for key in keys}
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
