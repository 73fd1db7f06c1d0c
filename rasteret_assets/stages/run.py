"""The four stages over a workspace: read what the stage before wrote, run the stage's function, write, report.

The Dagster assets call :func:`run_raw_records`, :func:`run_normalized_records`, :func:`run_band_metadata` and
:func:`run_collection` one by one; :func:`build_partitions` calls them in a row. There is no other way a collection is
built.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.schema import PARSER_VERSION
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.bands import check_enrichment, read_band_metadata
from rasteret_assets.stages.headers import ProgressCallback
from rasteret_assets.stages.normalize import normalize_records
from rasteret_assets.stages.profile import SourceProfile, partition_tables, profile_fingerprint, profile_source
from rasteret_assets.stages.publish import PARQUET_OPTIONS, join_band_metadata, published_table
from rasteret_assets.stages.scan import Source
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.filesystems import list_files
from rasteret_assets.storage.workspace import Workspace

RAW, NORMALIZED, REJECTED, BANDS, COLLECTION = (
    "raw_records", "normalized_records", "rejected_records", "band_metadata", "collection"
)  # fmt: skip
STAGES = (RAW, NORMALIZED, BANDS, COLLECTION)
_STAGE_OPTIONS: dict[str, Any] = {"compression": "zstd"}


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


def load_profile(workspace: Workspace, source: Source, spec: CollectionSpec) -> SourceProfile:
    """The source's profile: the stored one where source and spec are unchanged, else a new look, which is stored."""
    path = f"{workspace.stages}/source.json"
    stored = workspace.read_json(path)
    if stored is not None and stored.get("fingerprint") == profile_fingerprint(source, spec):
        return SourceProfile.from_json(stored)
    profile = profile_source(source, spec)
    workspace.write_json(path, profile.to_json())
    return profile


def run_raw_records(
    workspace: Workspace, source: Source, spec: CollectionSpec, keys: Sequence[str]
) -> list[StageResult]:
    """Scan the source once and write the rows of every partition in ``keys``; a partition without rows is emptied."""
    profile = load_profile(workspace, source, spec)
    tables = partition_tables(source, spec, set(keys))
    results = []
    for key in keys:
        path = workspace.stage_file(RAW, key)
        if key not in tables:
            workspace.remove(path)
            workspace.remove(_recipe_file(workspace, key))
            results.append(StageResult(key=key, rows=0, version="removed"))
            continue
        table = tables[key]
        version = profile.version(key, spec)
        written = workspace.write_table(path, table, **_STAGE_OPTIONS)
        # What later stages go by travels with the rows, so that a new look at the source cannot come between them.
        recipe = {**profile.to_json(), "partitions": {}, "version": version}
        workspace.write_json(_recipe_file(workspace, key), recipe)
        results.append(StageResult(
            key=key, rows=table.num_rows, version=version, counts={"bytes": written.size}, path=path,
            schema=table.schema,
        ))  # fmt: skip
    return results


def run_normalized_records(workspace: Workspace, spec: CollectionSpec, key: str) -> StageResult:
    """Normalize a partition's raw rows, and write those that cannot be beside them.

    Raises:
        InvalidRecordError: if more records than ``max_rejected`` tolerates break the contract.
    """
    path, rejected_path = workspace.stage_file(NORMALIZED, key), workspace.stage_file(REJECTED, key)
    raw = workspace.read_table(workspace.stage_file(RAW, key))
    if raw is None:
        workspace.remove(path)
        workspace.remove(rejected_path)
        return StageResult(key=key, rows=0, version="removed")
    profile, _ = _recipe(workspace, key)
    result = normalize_records(raw, spec, profile)
    if result.rejected.num_rows:
        workspace.write_table(rejected_path, result.rejected, **_STAGE_OPTIONS)
    else:
        workspace.remove(rejected_path)
    result.check(spec.max_rejected)
    table = result.records
    written = workspace.write_table(path, table, **_STAGE_OPTIONS)
    counts = {
        "rejected_records": result.rejected.num_rows,
        "duplicate_records": result.duplicates,
        "unreadable_assets": result.unreadable_assets,
        "crs_conflicts": result.crs_conflicts,
    }
    return StageResult(
        key=key, rows=table.num_rows, version=written.digest, counts=counts, path=path,
        schema=table.schema,
    )  # fmt: skip


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
    path = workspace.stage_file(BANDS, key)
    records = workspace.read_table(workspace.stage_file(NORMALIZED, key))
    if records is None:
        workspace.remove(path)
        return StageResult(key=key, rows=0, version="removed")
    profile, _ = _recipe(workspace, key)
    checkpoint = _WorkspaceCheckpoint(workspace, key)
    if force:
        checkpoint.clear()
    result = read_band_metadata(
        records, profile.bands, backend, explicit=spec.names_bands,
        max_concurrent=spec.max_concurrent, previous=workspace.read_table(path), force=force,
        revalidate=revalidate, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    written = workspace.write_table(path, result.table, **_STAGE_OPTIONS)
    checkpoint.clear()
    counts: dict[str, int | float | str] = {
        "headers_fetched": result.fetched,
        "headers_reused": result.reused,
        "headers_drifted": result.drifted,
        "headers_failed": sum(result.failures.values()),
        "requests": result.requests,
        "request_bytes": result.bytes,
        "seconds": round(result.seconds, 3),
        **{f"failed: {name}": count for name, count in result.failures.items()},
    }
    return StageResult(
        key=key, rows=result.table.num_rows, version=written.digest, counts=counts, path=path,
        schema=result.table.schema,
    )  # fmt: skip


def run_collection(workspace: Workspace, spec: CollectionSpec, key: str) -> StageResult:
    """Publish a partition by replacing its file, or remove it where its records are gone; the state is written last."""
    path, state_path = workspace.published_file(key), workspace.state_file(key)
    records = workspace.read_table(workspace.stage_file(NORMALIZED, key))
    if records is None:
        workspace.remove(state_path)
        workspace.remove(path)
        return StageResult(key=key, rows=0, version="removed")
    profile, source_version = _recipe(workspace, key)
    ledger = workspace.read_table(workspace.stage_file(BANDS, key))
    table, findings = join_band_metadata(records, ledger, profile.bands)
    published = published_table(table, spec)
    written = workspace.write_table(path, published, **PARQUET_OPTIONS)
    state = {
        "rows": published.num_rows,
        "bytes": written.size,
        "content_hash": written.digest,
        "source_version": source_version,
        "spec_hash": spec.content_hash,
        "parser_version": PARSER_VERSION,
        "bands": list(profile.bands),
    }
    workspace.write_json(state_path, state)
    counts: dict[str, int | float | str] = {
        "bytes": written.size,
        "crs_corrected_by_header": findings.corrected,
        "crs_conflicting_bands": findings.conflicting,
    }
    return StageResult(
        key=key, rows=published.num_rows, version=written.digest, counts=counts, path=path, schema=published.schema
    )


def build_partitions(
    workspace: Workspace,
    source: Source,
    spec: CollectionSpec,
    keys: Sequence[str],
    backend: StorageBackend,
    *,
    force: bool = False,
    progress: Callable[[str], ProgressCallback | None] | None = None,
) -> dict[str, dict[str, StageResult]]:
    """All four stages over ``keys``; nothing is published where not one header of the build could be read.

    Args:
        workspace: where the collection lies.
        source: opened record table.
        spec: of the collection.
        keys: partitions to build; those the source no longer has are unpublished.
        backend: where headers come from.
        force: fetch every header again.
        progress: called with each partition key, returns what to call while its headers come in.

    Returns:
        Results by stage, then by key.

    Raises:
        EnrichmentError: if every header of the build failed.
        InvalidRecordError: if more records than tolerated break the contract.
    """
    results: dict[str, dict[str, StageResult]] = {stage: {} for stage in STAGES}
    results[RAW] = {result.key: result for result in run_raw_records(workspace, source, spec, keys)}
    for key in keys:
        results[NORMALIZED][key] = run_normalized_records(workspace, spec, key)
    for key in keys:
        watch = progress(key) if progress is not None else None
        results[BANDS][key] = run_band_metadata(workspace, spec, key, backend, force=force, progress=watch)
    refuse_without_headers(workspace, list(results[BANDS].values()))
    for key in keys:
        results[COLLECTION][key] = run_collection(workspace, spec, key)
    return results


def refuse_without_headers(
    workspace: Workspace, results: Sequence[StageResult], *, transient_only: bool = False
) -> None:
    """Stop a build of which not one header came: what was published before stays.

    Args:
        workspace: where the ledgers lie; they are read only if every row of every one failed.
        results: of the band metadata stage, for all partitions of the build.
        transient_only: stop only for failures that another try may mend.

    Raises:
        EnrichmentError: with the commonest failures and the likely causes.
    """
    built = [result for result in results if result.rows]
    if all(result.counts["headers_failed"] == result.rows for result in built):
        ledgers = [workspace.read_table(result.path) for result in built]
        check_enrichment([ledger for ledger in ledgers if ledger is not None], transient_only=transient_only)


class _WorkspaceCheckpoint:
    """Finished ledger rows of a partition, kept as files until its ledger is written."""

    def __init__(self, workspace: Workspace, key: str) -> None:
        self._workspace = workspace
        self._folder = f"{workspace.stages}/{BANDS}.partial/{key}"
        self._files = [info.path for info in list_files(workspace.fs, self._folder, (".parquet",))]

    def load(self) -> pa.Table | None:
        tables = [table for path in self._files if (table := self._workspace.read_table(path)) is not None]
        return pa.concat_tables(tables) if tables else None

    def save(self, rows: pa.Table) -> None:
        path = f"{self._folder}/{len(self._files):06d}.parquet"
        self._workspace.write_table(path, rows, **_STAGE_OPTIONS)
        self._files.append(path)

    def clear(self) -> None:
        for path in self._files:
            self._workspace.remove(path)
        self._files = []


def _recipe_file(workspace: Workspace, key: str) -> str:
    return f"{workspace.stages}/{RAW}/{key}.json"


def _recipe(workspace: Workspace, key: str) -> tuple[SourceProfile, str]:
    """The profile a partition's raw rows were scanned under, and their version."""
    path = _recipe_file(workspace, key)
    document = workspace.read_json(path)
    if document is None:
        raise CollectionError(f"{path} is missing: build {RAW} of {key} first")
    return SourceProfile.from_json(document), str(document["version"])
