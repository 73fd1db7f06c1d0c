"""The four stages over a workspace: read what the stage before wrote, run the stage's function, write, report.

The Dagster assets call :func:`run_raw_records`, :func:`run_normalized_records`, :func:`run_band_metadata` and
:func:`run_collection` one by one; :func:`build_partitions` calls them in a row. There is no other way a collection is
built.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial, wraps
from itertools import chain
from typing import Concatenate, Final, ParamSpec, TypeVar

import pyarrow as pa

from rasteret_assets.columns.scalars import normalize_ids
from rasteret_assets.errors import CollectionError, DamagedFileError, SourceError
from rasteret_assets.headers.index import HeaderIndex
from rasteret_assets.headers.known import WorkspaceCheckpoint, known_headers, set_aside_headers, target_slices
from rasteret_assets.headers.outcomes import Latencies, ProgressCallback
from rasteret_assets.headers.stage import BandMetadataReader, count_failures
from rasteret_assets.publish.partition import publish_partition
from rasteret_assets.records.normalize import NormalizedRecords, RepeatedIds, check_rejected, normalize_records
from rasteret_assets.schema import (
    BAND_METADATA_SCHEMA,
    BANDS,
    COLLECTION,
    ID,
    NORMALIZED,
    PARSER_VERSION,
    RAW,
    REJECTED,
)
from rasteret_assets.source.open import Source
from rasteret_assets.source.profile import SourceProfile, partition_batches
from rasteret_assets.source.recipe import recipe_of, with_recipe
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.ahead import ahead
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.batches import BATCH_ROWS
from rasteret_assets.storage.commit import FileFacts, commit, unpublish
from rasteret_assets.storage.files import STAGE_OPTIONS, TableWriter
from rasteret_assets.storage.workspace import Workspace

_RECORD_COUNTS: Final = ("rejected_records", "duplicate_records", "unreadable_assets", "crs_conflicts")
P = ParamSpec("P")
R = TypeVar("R")

_log = logging.getLogger(__name__)

#: Counts of the header stage that are percentiles, and so are not summed: ``latency_p50_ms`` and so on.
LATENCY_PREFIX: Final = "latency_p"

#: Version of a stage's table that is there no more, because the source lost the partition.
REMOVED: Final = "removed"

# Files that are written at once in one scan of the source, and rows that wait for theirs to be worth a row group.
_OPEN_FILES: Final = 256
_HELD_BYTES: Final = 16 * 2**20
# Tables that each build writes anew need not outlast a power cut.
_MADE_ANEW: Final = {**STAGE_OPTIONS, "durable": False}


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


def run_raw_records(
    workspace: Workspace, source: Source, spec: CollectionSpec, keys: Sequence[str]
) -> list[StageResult]:
    """Scan the source once and write the rows of every partition in ``keys``; a partition without rows is emptied."""
    profile = load_profile(workspace, source, spec)
    workspace.sweep()
    present = [key for key in keys if key in profile.partitions]
    results: dict[str, StageResult] = {}
    for start in range(0, len(present), _OPEN_FILES):
        results |= _write_raw(workspace, source, spec, profile, present[start : start + _OPEN_FILES])
    for key in set(keys).difference(present):
        workspace.remove(workspace.stage_file(RAW, key))
        results[key] = StageResult(key=key, rows=0, version=REMOVED)
    return [results[key] for key in keys]


def _write_raw(
    workspace: Workspace, source: Source, spec: CollectionSpec, profile: SourceProfile, keys: Sequence[str]
) -> dict[str, StageResult]:
    """One scan of the source into one file per partition, all of which are put in place at the end."""
    versions = {key: profile.version(key, spec) for key in keys}
    paths = {key: workspace.stage_file(RAW, key) for key in keys}
    with ExitStack() as stack:
        writers = {
            key: stack.enter_context(
                workspace.writer(paths[key], with_recipe(source.schema, profile, versions[key]), **_MADE_ANEW)
            )
            for key in keys
        }
        spool = _Spool(writers)
        try:
            for key, rows in ahead(partition_batches(source, spec, profile, set(keys))):
                spool.add(key, rows)
            spool.flush()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            # Types are checked before; values of an Arrow object may still be such that Parquet cannot hold them.
            raise SourceError(f"{source.label}: cannot be kept as Parquet: {error}") from error
    return {
        key: StageResult(
            key=key, rows=writer.rows, version=versions[key], counts={"bytes": writer.written.size}, path=paths[key],
            schema=source.schema,
        )
        for key, writer in writers.items()
    }  # fmt: skip


class _Spool:
    """Holds rows back until there are enough of their partition for a row group, or too many of all."""

    def __init__(self, writers: Mapping[str, TableWriter]) -> None:
        self._writers = writers
        self._held: dict[str, list[pa.RecordBatch]] = {}
        self._rows: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def add(self, key: str, rows: pa.RecordBatch) -> None:
        self._held.setdefault(key, []).append(rows)
        self._rows[key] += rows.num_rows
        self._bytes[key] += rows.nbytes
        if self._rows[key] >= BATCH_ROWS:
            self._write(key)
        elif self._bytes.total() > _HELD_BYTES:
            self._write(self._bytes.most_common(1)[0][0])

    def flush(self) -> None:
        for key in list(self._held):
            self._write(key)

    def _write(self, key: str) -> None:
        self._writers[key].write(pa.Table.from_batches(self._held.pop(key)))
        del self._rows[key], self._bytes[key]


def _one_at_a_time(
    stage: Callable[Concatenate[Workspace, CollectionSpec, str, P], StageResult],
) -> Callable[Concatenate[Workspace, CollectionSpec, str, P], StageResult]:
    """A stage of which two runs over the same partition wait for each other."""

    @wraps(stage)
    def run(workspace: Workspace, spec: CollectionSpec, key: str, /, *args: P.args, **kwargs: P.kwargs) -> StageResult:
        with workspace.lock(key):
            return stage(workspace, spec, key, *args, **kwargs)

    return run


def _without_damaged_headers(
    stage: Callable[Concatenate[Workspace, CollectionSpec, str, P], R],
) -> Callable[Concatenate[Workspace, CollectionSpec, str, P], R]:
    """Make a stage that reads stored headers take a damaged file of them away, and ask for its headers again."""

    @wraps(stage)
    def run(workspace: Workspace, spec: CollectionSpec, key: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        while True:
            try:
                return stage(workspace, spec, key, *args, **kwargs)
            except DamagedFileError as error:
                if not error.path.startswith(f"{workspace.stages}/{BANDS}") or not workspace.remove(error.path):
                    raise
                _log.warning("%s; its headers are read again", error)

    return run


@_without_damaged_headers
def set_aside(workspace: Workspace, spec: CollectionSpec, key: str) -> None:
    """Keep the headers that a partition is about to lose, for other partitions to find."""
    set_aside_headers(workspace, spec, key)


@_one_at_a_time
def run_normalized_records(workspace: Workspace, spec: CollectionSpec, key: str) -> StageResult:
    """Normalize a partition's raw rows, and write those that cannot be beside them.

    Raises:
        InvalidRecordError: if more records than ``max_rejected`` tolerates break the contract.
    """
    raw_path, path = workspace.stage_file(RAW, key), workspace.stage_file(NORMALIZED, key)
    rejected_path = workspace.stage_file(REJECTED, key)
    schema = workspace.read_schema(raw_path)
    if schema is None:
        workspace.remove(path)
        workspace.remove(rejected_path)
        return StageResult(key=key, rows=0, version=REMOVED)
    profile, version = recipe_of(schema, raw_path)
    id_column = spec.source_column(ID)
    ids = workspace.read_batches(raw_path, [id_column]) if profile.repeats_ids else ()
    repeats = RepeatedIds(normalize_ids(batch.column(0)) for batch in ids)
    counts: Counter[str] = Counter()
    normalize = partial(normalize_records, spec=spec, profile=profile, repeats=repeats)
    results = _normalized(workspace, raw_path, schema, normalize)
    first = next(results)
    normalized, first_rejected = first.records.schema, first.rejected
    results = chain([first], results)
    del first  # or its rows would stay in memory to the end
    with workspace.writer(path, with_recipe(normalized, profile, version), **_MADE_ANEW) as records:
        with ExitStack() as stack:
            rejected: TableWriter | None = None
            for result in results:
                records.write(result.records)
                if result.rejected.num_rows:
                    if rejected is None:
                        first_rejected = result.rejected
                        writer = workspace.writer(rejected_path, first_rejected.schema, **_MADE_ANEW)
                        rejected = stack.enter_context(writer)
                    rejected.write(result.rejected)
                counts["rejected_records"] += result.rejected.num_rows
                counts["duplicate_records"] += result.duplicates
                counts["unreadable_assets"] += result.unreadable_assets
                counts["crs_conflicts"] += result.crs_conflicts
        if rejected is None:
            workspace.remove(rejected_path)
        total = records.rows + counts["rejected_records"] + counts["duplicate_records"]
        check_rejected(first_rejected, counts["rejected_records"], total, spec.max_rejected)
    return StageResult(
        key=key, rows=records.rows, version=records.written.digest,
        counts={name: counts[name] for name in _RECORD_COUNTS}, path=path, schema=normalized,
    )  # fmt: skip


def _normalized(
    workspace: Workspace, raw_path: str, schema: pa.Schema, normalize: Callable[[pa.Table], NormalizedRecords]
) -> Iterator[NormalizedRecords]:
    """What becomes of the raw rows, batch by batch; of no rows where there are none, as that too has a schema."""
    is_empty = True
    for batch in workspace.read_batches(raw_path):
        is_empty = False
        yield normalize(pa.Table.from_batches([batch]).replace_schema_metadata(schema.metadata))
    if is_empty:
        yield normalize(schema.empty_table())


@_one_at_a_time
@_without_damaged_headers
def run_band_metadata(
    workspace: Workspace,
    spec: CollectionSpec,
    key: str,
    backend: StorageBackend,
    *,
    force: bool = False,
    revalidate: bool = False,
    progress: ProgressCallback | None = None,
) -> StageResult:
    """Read the headers a partition lacks (all of them with ``force``) and write its ledger.

    With ``revalidate`` the headers it has are asked about too, and read again where their file has changed.
    """
    path, records_path = workspace.stage_file(BANDS, key), workspace.stage_file(NORMALIZED, key)
    schema = workspace.read_schema(records_path)
    checkpoint = WorkspaceCheckpoint(workspace, key)
    if schema is None:
        workspace.remove(path)
        checkpoint.clear()
        return StageResult(key=key, rows=0, version=REMOVED)
    profile, version = recipe_of(schema, records_path)
    if force:
        checkpoint.clear()
    reader = BandMetadataReader(
        profile.bands, backend, explicit=spec.names_bands, max_concurrent=spec.max_concurrent,
        known=HeaderIndex([] if force else known_headers(workspace, key, checkpoint)), revalidate=revalidate,
        overviews=spec.overviews, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    ledger_schema = with_recipe(BAND_METADATA_SCHEMA, profile, version)
    with workspace.writer(path, ledger_schema, **STAGE_OPTIONS) as ledger:
        # Records without bands have no targets: they need not be read to be told so.
        for records, more in target_slices(workspace, key) if profile.bands else ():
            for rows in reader.read(records, more):
                ledger.write(rows)
    checkpoint.clear()
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


@_one_at_a_time
def run_collection(workspace: Workspace, spec: CollectionSpec, key: str) -> StageResult:
    """Publish a partition by replacing its file, or remove it where its records are gone; the state is written last."""
    path, records = workspace.published_file(key), workspace.stage_file(NORMALIZED, key)
    if not workspace.has(records):
        unpublish(workspace, key)
        return StageResult(key=key, rows=0, version=REMOVED)
    profile, source_version = _joined_recipe(workspace, key)
    published = publish_partition(
        workspace, spec, key, profile.bands, records=records, ledger=workspace.stage_file(BANDS, key)
    )
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
    counts: dict[str, int | float | str] = {
        "bytes": written.size,
        "crs_corrected_by_header": published.findings.corrected,
        "crs_conflicting_bands": published.findings.conflicting,
    }
    return StageResult(
        key=key, rows=facts.rows, version=written.digest, counts=counts, path=path, schema=published.schema
    )


def _percentiles(latencies: Latencies) -> dict[str, float]:
    """Milliseconds within which half, most and nearly all of the headers came; nothing where none was asked for."""
    found = {share: latencies.percentile(share / 100) for share in (50, 95, 99)}
    return {
        f"{LATENCY_PREFIX}{share}_ms": round(1000 * seconds, 1)
        for share, seconds in found.items()
        if seconds is not None
    }


def _failures(workspace: Workspace, key: str) -> dict[str, int]:
    """Headers that a partition lacks, by error class."""
    counts: Counter[str] = Counter()
    for batch in workspace.read_batches(workspace.stage_file(BANDS, key), ["status", "error_class"]):
        counts.update(count_failures(pa.Table.from_batches([batch])))
    return dict(sorted(counts.items()))


def _joined_recipe(workspace: Workspace, key: str) -> tuple[SourceProfile, str]:
    """The profile and version of a partition's records, which must be those its ledger was made for."""
    records, ledger = workspace.stage_file(NORMALIZED, key), workspace.stage_file(BANDS, key)
    schema, ledger_schema = workspace.read_schema(records), workspace.read_schema(ledger)
    if schema is None or ledger_schema is None:
        raise CollectionError(f"{ledger if schema else records} is missing: build {NORMALIZED} and {BANDS} of {key}")
    profile, version = recipe_of(schema, records)
    if recipe_of(ledger_schema, ledger)[1] != version:
        raise CollectionError(
            f"{BANDS} of {key} was made for other records than {NORMALIZED} holds now (another run may be building "
            f"the partition): build {BANDS} again, then {COLLECTION}"
        )
    return profile, version
